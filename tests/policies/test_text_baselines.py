"""Policies that nothing has trained: random words, templates, functions, retrieval."""

import json
from collections import Counter

import pytest

from rljax.policies.loading import load_text_policy, write
from rljax.policies.random_words import RandomWords
from rljax.policies.retrieval import Retrieval
from rljax.policies.templates import Template
from rljax.specs import SpecError
from rljax.tasks.language import Example
from rljax.tasks.sources import DataError

TRAIN = [
    Example("where is my parcel", "on its way"),
    Example("the parcel is broken", "we send a new one"),
    Example("how do I pay by card", "at the till"),
]


def test_random_words_have_the_answers_words_and_lengths():
    policy = RandomWords(seed=3).fit(TRAIN)
    texts = policy.act([f"prompt {i}" for i in range(900)])
    words = Counter(word for text in texts for word in text.split())
    assert set(words) == {word for e in TRAIN for word in e.answer.split()}
    assert max(words.values()) < 1.4 * min(words.values())  # uniform, however frequent they were
    lengths = Counter(len(text.split()) for text in texts)
    assert set(lengths) == {3, 5} and 1.6 < lengths[3] / lengths[5] < 2.5
    assert policy.act(["prompt 7"]) == [texts[7]]  # it depends on the observation alone
    assert RandomWords(seed=4).fit(TRAIN).act(["prompt 7", "prompt 8"]) != texts[7:9]


def test_a_template_is_filled_from_the_observation():
    policy = Template("Hello {name}, you said {last_word!r}.", r"i am (?P<name>\w+)", "Who?")
    assert policy.act(["Hi, I am Ada today", "good day"]) == [
        "Hello Ada, you said 'today'.",
        "Who?",
    ]
    assert Template("{first_line}|{last_line}|{first_word}").act(["a b\nc d", ""]) == [
        "a b|c d|a",
        "||",
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": "{nam}"}, r"no fields \['nam'\]; there are .*'last_word'"),
        ({"text": "{"}, "the template '{' or its pattern"),
        ({"text": "a", "pattern": "("}, "or its pattern"),
        ({"text": "a", "otherwise": "b"}, "give a pattern"),
    ],
)
def test_a_template_that_cannot_be_filled_is_an_error(settings, message):
    with pytest.raises(ValueError, match=message):
        Template(**settings)


@pytest.mark.parametrize("method", ["bm25", "tfidf"])
def test_retrieval_answers_as_the_nearest_prompt_was_answered(method):
    pytest.importorskip({"bm25": "rank_bm25", "tfidf": "sklearn"}[method])
    policy = Retrieval(method=method).fit(TRAIN)
    assert policy.act(["Is the parcel BROKEN?", "may I pay in dollars"]) == [
        "we send a new one",
        "at the till",
    ]
    hits = policy.search("where is the card", 3)
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    assert hits[0].prompt in {e.prompt for e in TRAIN}
    strict = Retrieval(method=method, min_score=0.01, otherwise="a colleague").fit(TRAIN)
    assert strict.act(["zzz", "pay"]) == ["a colleague", "at the till"]


def test_tfidf_is_a_cosine():
    pytest.importorskip("sklearn")
    policy = Retrieval(method="tfidf").fit(TRAIN)
    assert policy.search("the parcel is broken")[0].score == pytest.approx(1.0)


def test_character_pairs_find_words_without_spaces():
    pytest.importorskip("rank_bm25")
    train = [Example("打开客厅的灯", "灯"), Example("现在几点了", "时间"), Example("天气好", "天")]
    assert Retrieval(terms="characters").fit(train).act(["几点"]) == ["时间"]
    assert Retrieval(terms="words", otherwise="?").fit(train).act(["几点"]) == ["?"]


def test_an_index_is_a_file_that_can_be_read_and_edited(tmp_path):
    pytest.importorskip("rank_bm25")
    path = tmp_path / "index.jsonl"
    Retrieval().fit(TRAIN).save(path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0] == {"prompt": "where is my parcel", "answer": "on its way"}
    rows[0]["answer"] = "lost"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = load_text_policy(f"retrieval?index={path}", TRAIN[:1], dict)
    assert policy.act(["where is it"]) == ["lost"]
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(DataError, match=r"index.jsonl:1: an index needs a field 'answer'"):
        Retrieval(index=str(path)).fit(TRAIN)
    with pytest.raises(DataError, match="retrieval needs known prompts with words"):
        Retrieval().fit([Example("!!!", "a")])


def test_which_policy_a_name_is(tmp_path):
    class Rule:
        def act(self, observations):
            return ["by rule"] * len(observations)

    def baselines():
        return {"rule": Rule(), "random": Rule()}

    path = tmp_path / "mine.py"
    path.write_text("def shout(prompts):\n    return [p.upper() for p in prompts]\nNUMBER = 3\n")
    assert load_text_policy("rule", TRAIN, baselines).act(["a"]) == ["by rule"]
    assert load_text_policy("random", TRAIN, baselines).act(["a"]) == ["by rule"]
    drawn = load_text_policy("random?seed=5", TRAIN, baselines)
    assert drawn.act(["a"]) == RandomWords(seed=5).fit(TRAIN).act(["a"])
    assert load_text_policy(f"{path}:shout", [], dict).act(["ab"]) == ["AB"]
    filled = load_text_policy("template?text=so%20{last_word}", [], dict)
    assert filled.act(["it is blue"]) == ["so blue"]
    for spec, train, message in [
        ("superviced", TRAIN, r"no policy 'superviced' .* \['random', 'retrieval', 'rule', "),
        ("retrieval?metod=tfidf", TRAIN, "there is no setting 'metod' .did you mean 'method'"),
        ("retrieval?method=cosine", TRAIN, "must be one of"),
        ("random?seed=x", TRAIN, "seed is 'x'; it must be int"),
        (f"{path}:shuot", TRAIN, r"has no function 'shuot'; it has \['shout'\]"),
        (f"{path}:NUMBER", TRAIN, "has no function 'NUMBER'"),
        (f"{tmp_path}/none.py:f", TRAIN, "there is no file"),
    ]:
        with pytest.raises(SpecError, match=message):
            load_text_policy(spec, train, baselines)
    with pytest.raises(DataError, match="random learns from right answers"):
        load_text_policy("random", [], dict)


@pytest.mark.parametrize("made", ["ab", ["a"], ["a", 3], None])
def test_a_policy_that_writes_no_text_for_each_is_named(made):
    class Odd:
        def act(self, observations):
            return made

    with pytest.raises(DataError, match="the policy odd wrote"):
        write(Odd(), ["x", "y"], name="odd")
