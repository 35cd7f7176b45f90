"""Chit-chat: a user who answers as people did, and the three rewards, worked by hand."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.environments import EnvironmentFailure, load_environment, reset, step
from rljax.environments.chitchat import Nearest, Write, overlap, plain, read_conversations, write
from rljax.environments.dialogue import AT_A_LOSS, Dialogue, is_dull
from rljax.environments.dialogue_rewards import DULL, load_judge
from rljax.environments.scripted import find_scripted, play, replay, summarize
from rljax.environments.text import HELD_OUT_SEEDS
from rljax.tasks.documents import DocumentConfig, read_documents
from rljax.tasks.sources import DataError

pytest.importorskip("sklearn")

TINY = "random:tiny-llama"


@pytest.fixture(scope="module")
def talks(tmp_path_factory):
    path = tmp_path_factory.mktemp("talks") / "talks.jsonl"
    with path.open("w") as lines:
        for i in range(60):
            turns = ["Hi!", "hello there", f"do you like cats number {i}?", f"I like dog {i}", "Oh"]
            roles = ("user", "assistant") * 3
            said = [{"role": r, "content": t} for r, t in zip(roles, turns, strict=False)]
            lines.write(json.dumps({"messages": said}) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def chat(talks):
    return Dialogue(model=TINY, data=talks, turns=3)


def test_conversations_are_plain_short_and_split_by_a_hash(talks, tmp_path):
    found = read_conversations(talks, 16)
    assert found[0].turns[:3] == ("hi!", "hello there", "do you like cats number 0?")
    assert 0 < sum(c.held_out for c in found) < 20
    assert {c.held_out for c in found if c.name == found[0].name} == {found[0].held_out}
    assert read_conversations(talks, 3) and all(
        len(turn.split()) <= 3 for c in read_conversations(talks, 3) for turn in c.turns
    )
    assert plain("It’s\n FINE \u00e9!") == "it's fine !"
    with pytest.raises(DataError, match="none.jsonl"):
        read_conversations(str(tmp_path / "none.jsonl"), 16)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"messages": [1]}\n')
    with pytest.raises(DataError, match="broken.jsonl:1: expected messages"):
        read_conversations(str(broken), 16)


def test_what_is_written_to_learn_from(talks, tmp_path):
    train = [c for c in read_conversations(talks, 16) if not c.held_out]
    assert write(Write(str(tmp_path / "f.jsonl"), talks, max_turns=4)) == len(train)
    records = read_documents(DocumentConfig(str(tmp_path / "f.jsonl"), held_out_fraction=0.0)).train
    said = records[0].fields["messages"]
    assert [m["role"] for m in said] == ["user", "assistant"] * 2
    assert write(Write(str(tmp_path / "b.jsonl"), talks, backward=True)) == 4 * len(train)
    first = json.loads((tmp_path / "b.jsonl").read_text().splitlines()[0])["messages"]
    assert [m["content"] for m in first] == ["hello there", "hi!"]


def test_the_user_answers_as_the_nearest_turn_was_answered(talks):
    user = Nearest(read_conversations(talks, 16), 1000)
    assert user.answer("number 7") == "i like dog 7"
    assert user.answer("number 7", ["i like dog 7"]) != "i like dog 7"
    assert user.answer("xyz") is None
    assert len(Nearest(read_conversations(talks, 16), 5).pairs) == 5


def mean_log_prob(judge, context: str, text: str) -> float:
    """As the reward should have it, one sequence at a time and without padding."""
    pretrained = judge.forward
    head = pretrained.tokenizer(context, add_special_tokens=False)["input_ids"]
    tail = pretrained.tokenizer(text, add_special_tokens=False)["input_ids"]
    logits = pretrained.model.apply(pretrained.params, jnp.asarray([head + tail]))[0]
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    places = range(len(head) - 1, len(head) + len(tail) - 1)
    return float(np.mean([log_probs[p, t] for p, t in zip(places, tail, strict=True)]))


@pytest.mark.slow
def test_the_rewards_are_those_of_the_paper():
    judge = load_judge(TINY, None, 64)
    parts = judge.judge("a b", "c d", "e f g")
    ease = np.mean([mean_log_prob(judge, "user: e f g\nassistant: ", s) for s in DULL])
    assert parts.ease == pytest.approx(-ease, abs=1e-4)
    forward = mean_log_prob(judge, "assistant: a b\nuser: c d\nassistant: ", "e f g")
    backward = mean_log_prob(judge, "user: e f g\nassistant: ", "c d")
    assert parts.coherence == pytest.approx(forward + backward, abs=1e-4)

    def state(text: str) -> np.ndarray:
        ids = judge.forward.tokenizer(text, add_special_tokens=False)["input_ids"]
        hidden = judge.forward.model.hidden(judge.forward.params, jnp.asarray([ids]))
        return np.mean(np.asarray(hidden[0]), axis=0)

    first, second = state("a b"), state("e f g")
    cosine = first @ second / (np.linalg.norm(first) * np.linalg.norm(second))
    assert parts.flow == pytest.approx(-math.log(max(cosine, 0.01)), abs=1e-4)
    assert judge.judge(None, "c d", "e f g").flow == 0.0
    assert judge.judge("e f g", "c d", "e f g").flow == pytest.approx(0.0, abs=1e-5)


def test_a_long_context_loses_its_start():
    judge = load_judge(TINY, None, 64)
    long, longer = "x " * 60 + "end", "y " * 90 + "x " * 60 + "end"
    assert judge.judge(None, long, "so").ease == judge.judge(None, longer, "so").ease
    with pytest.raises(DataError, match="width is 100000, but a model's context has"):
        load_judge(TINY, None, 100_000)


def test_a_dialogue_goes_on_until_its_turns_are_over(chat):
    first = reset(chat, HELD_OUT_SEEDS + 2)
    assert first.startswith("do you like cats number")
    made = step(chat, "what number 5 is it")
    assert made.observation == "i like dog 5" and not made.terminated and not made.truncated
    parts = chat.judge.judge(None, first, "what number 5 is it")
    assert made.reward == pytest.approx(0.25 * parts.ease + 0.5 * parts.coherence)
    assert step(chat, "qqq").observation == AT_A_LOSS
    last = step(chat, "hello there")
    assert (last.terminated, last.truncated) == (False, True)
    metrics = last.info["metrics"]
    assert metrics["turns_before_dull"] == 3 and metrics["ended_dull"] == 0
    assert metrics["words"] == pytest.approx(8 / 3)


def test_dull_repeated_and_empty_turns_end_it(chat, talks):
    for said, before_dull in ((["I don't know."], 0), (["i see cats", "cats i see"], 1)):
        reset(chat, HELD_OUT_SEEDS)
        ends = [step(chat, text) for text in said]
        assert [end.terminated for end in ends] == [False] * (len(said) - 1) + [True]
        assert ends[-1].info["metrics"]["turns_before_dull"] == before_dull
    reset(chat, HELD_OUT_SEEDS)
    assert step(chat, "...")[1:4] == (-5.0, True, False)
    assert is_dull("Well, I have no idea!") and not is_dull("i know")
    assert overlap("a b c", "b c d e") == 0.5 and overlap("a", "") == 0.0


def test_a_bonus_is_for_turns_that_go_on(chat, talks):
    other = Dialogue(model=TINY, data=talks, turns=3, turn_bonus=2.0)
    for text, difference in (("hello there", 2.0), ("i have no idea", 0.0)):
        reset(chat, HELD_OUT_SEEDS)
        reset(other, HELD_OUT_SEEDS)
        gap = step(other, text).reward - step(chat, text).reward
        assert gap == pytest.approx(difference)


def test_baselines(chat):
    seeds = range(HELD_OUT_SEEDS, HELD_OUT_SEEDS + 6)
    found = {
        name: [play(chat, seed, find_scripted(chat, name)) for seed in seeds]
        for name in ("random", "dull", "retrieval")
    }
    assert all(p.said == ("i don't know",) for p in found["dull"])
    assert summarize(found["dull"])["turns_before_dull"].mean == 0.0
    assert found["retrieval"][0].said[0].startswith("i like dog")
    assert replay(chat, seeds[0], found["random"][0].said) == found["random"][0]


def test_openings_are_on_their_side(chat):
    held_out = {reset(chat, seed) for seed in range(40)}
    train = {reset(chat, HELD_OUT_SEEDS + seed) for seed in range(40)}
    assert held_out and train and not held_out & train


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("turns=0", "turns is 0"),
        ("width=4", "width is 4"),
        ("ease=0&flow=0&coherence=0", "nothing is rewarded"),
        ("model=no/such/model", "no/such/model"),
    ],
)
def test_settings_that_mean_nothing(settings, problem):
    given = settings if "model=" in settings else f"{settings}&model={TINY}"
    with pytest.raises((EnvironmentFailure, Exception), match=problem):
        load_environment(f"rljax.environments.dialogue:Dialogue?{given}")
