"""Observations as text and as chat, said piece by piece."""

import dataclasses

import pytest

from rljax.environments.config import EnvironmentConfig
from rljax.tasks import DataError
from rljax.tasks.conversation import make_speaker

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}|{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
EOS = ord("|")


class Letters:
    """A tokenizer of letters, with a chat template."""

    def __init__(self, template=TEMPLATE):
        self.chat_template = template

    def encode(self, text, *, add_special_tokens=True):
        return [1] * add_special_tokens + [ord(letter) for letter in text]

    def decode(self, ids):
        return "".join(map(chr, ids))

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        jinja2 = pytest.importorskip("jinja2")
        made = jinja2.Template(self.chat_template)
        return made.render(messages=messages, add_generation_prompt=add_generation_prompt)


PLAIN = EnvironmentConfig(name="x", template="[{observation}]", separator=";")
CHAT = EnvironmentConfig(name="x", chat=True, system_prompt="be")


def test_plain_text():
    tokenizer = Letters()
    speaker = make_speaker(PLAIN, tokenizer, (EOS,))
    first, answer = speaker.first("go"), speaker.answer("on", EOS)
    assert first[0] == 1 and tokenizer.decode(first[1:]) == "[go]"
    assert tokenizer.decode(answer) == ";[on]"


def test_a_chat_goes_on_from_what_was_said():
    tokenizer = Letters()
    speaker = make_speaker(CHAT, tokenizer, (EOS,))
    first = tokenizer.decode(speaker.first("go"))
    assert first == "<system>be|<user>go|<assistant>"
    # the turn's own end is not written twice; one that was cut off gets it
    said = first + "hi|" + tokenizer.decode(speaker.answer("on", EOS))
    cut = first + "hi" + tokenizer.decode(speaker.answer("on", ord("i")))
    messages = [("system", "be"), ("user", "go"), ("assistant", "hi"), ("user", "on")]
    whole = tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in messages],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert said == cut == whole
    wrapped = make_speaker(dataclasses.replace(CHAT, template="({observation})"), tokenizer, (EOS,))
    assert "<user>(on)|" in tokenizer.decode(wrapped.answer("on", EOS))


def test_templates_that_cannot_be_used():
    with pytest.raises(DataError, match="needs a tokenizer with a chat template"):
        make_speaker(CHAT, Letters(None), (EOS,))
    with pytest.raises(DataError, match="rewrites earlier turns"):
        make_speaker(CHAT, Letters("{{ messages | length }} " + TEMPLATE), (EOS,))
