"""Preferences: what is read of each kind, how forms are made, split, drawn and batched."""

import json
import math

import numpy as np
import pytest

from rljax.models.tokenizer import byte_tokenizer
from rljax.tasks.preference_batches import (
    Encoder,
    flat_rows,
    make_preferences,
    with_mismatched,
)
from rljax.tasks.preferences import PreferenceConfig, read_source
from rljax.tasks.prompts import side_fraction
from rljax.tasks.sources import DataError

EOS, PAD = 258, 256
TOKENIZER = byte_tokenizer()
ENCODER = Encoder(TOKENIZER, (EOS,), PAD, 64)
PAIR = {"prompt": "a prompt", "chosen": " good", "rejected": " bad"}


def write(tmp_path, *records, name="data.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def make(tmp_path, form, *records, encoder=ENCODER, **changes):
    settings = {"held_out_fraction": 0.0, "completion_tokens": 32} | changes
    config = PreferenceConfig(source=write(tmp_path, *records), **settings)
    return make_preferences(config, form, encoder)


def found(data):
    """What a set holds: {(prompt, completions, values)}."""
    return {(r.prompt, r.completions, r.values) for r in data.train.records}


def test_pairs_as_they_are_given(tmp_path):
    data = make(tmp_path, "pairs", PAIR, PAIR | {"prompt": "b", "margin": 2})
    assert found(data) == {
        ("a prompt", (" good", " bad"), (1.0, 0.0)),
        ("b", (" good", " bad"), (1.0, 0.0)),
    }
    assert not data.has_margins
    assert make(tmp_path, "pairs", PAIR | {"margin": 0.5}).has_margins


def test_arrays_are_padded_and_masked(tmp_path):
    data = make(tmp_path, "pairs", PAIR, PAIR | {"prompt": "b", "margin": 2})
    rows = data.train.take([[r.prompt for r in data.train.records].index("b")])
    assert rows.prompt_tokens.shape == (1, 16) and rows.tokens.shape == (1, 2, 16)
    assert rows.prompt_tokens[0, -1] == ord("b") and rows.prompt_mask.sum() == 1
    texts = [
        TOKENIZER.decode(row[real]) for row, real in zip(rows.tokens[0], rows.mask[0], strict=True)
    ]
    assert texts == [" good<|eos|>", " bad<|eos|>"]
    np.testing.assert_array_equal(rows.values, [[1, 0]])
    np.testing.assert_array_equal(rows.margins, [2])
    assert rows.weights.tolist() == [1.0] and np.isnan(rows.ref_log_probs).all()
    prompts, completions = flat_rows(rows)
    assert prompts.tokens.shape == (2, 16) and completions.tokens.shape == (2, 16)
    np.testing.assert_array_equal(prompts.tokens[0], prompts.tokens[1])


def test_scores_become_pairs_rankings_labels_and_scores(tmp_path):
    records = [
        {"prompt": "p", "completion": f" {name}", "score": score, "step": 3, "kl": 0.1}
        for name, score in (("x", 2.0), ("y", -1), ("z", 0.5), ("z", 0.5))
    ] + [{"prompt": "q", "completion": " alone", "score": 1.0}]
    pairs = make(tmp_path, "pairs", *records)
    assert {c for _, c, _ in found(pairs)} == {(" x", " y"), (" x", " z"), (" z", " y")}
    margins = {r.completions: r.margin for r in pairs.train.records}
    assert margins[(" x", " y")] == 3.0 and pairs.has_margins
    extremes = make(tmp_path, "pairs", *records, pairing="best_worst")
    assert [r.completions for r in extremes.train.records] == [(" x", " y")]
    ranking = make(tmp_path, "rankings", *records)
    assert found(ranking) == {("p", (" x", " y", " z"), (2.0, -1.0, 0.5))}
    labels = make(tmp_path, "labels", *records, label_threshold=0.5)
    assert {(c[0], v[0]) for _, c, v in found(labels)} == {
        (" x", 1.0), (" y", 0.0), (" z", 0.0), (" alone", 1.0)
    }  # fmt: skip
    assert {v[0] for _, _, v in found(make(tmp_path, "scores", *records))} == {2.0, -1.0, 0.5, 1.0}


def test_rankings_are_read_either_way(tmp_path):
    texts = [" a", " b", " c"]
    ranked = make(tmp_path, "rankings", {"prompt": "p", "completions": texts, "ranking": [3, 1, 2]})
    scored = make(
        tmp_path, "rankings", {"prompt": "p", "completions": texts, "scores": [0.1, 0.9, 0.5]}
    )
    for data in (ranked, scored):
        assert np.argsort(-data.train.rows.values[0]).tolist() == [1, 2, 0]
    pairs = make(tmp_path, "pairs", {"prompt": "p", "completions": texts, "ranking": [2, 1, 1]})
    assert {c for _, c, _ in found(pairs)} == {(" b", " a"), (" c", " a")}  # ties say nothing
    short = {"prompt": "q", "completions": [" a", " b"], "ranking": [1, 2]}
    rows = make(
        tmp_path, "rankings", {"prompt": "p", "completions": texts, "ranking": [3, 1, 2]}, short
    ).train.rows
    assert sorted(rows.valid.sum(axis=1)) == [2, 3]


def test_pairs_become_labels(tmp_path):
    data = make(tmp_path, "labels", PAIR)
    assert found(data) == {("a prompt", (" good",), (1.0,)), ("a prompt", (" bad",), (0.0,))}
    label = {"prompt": "p", "completion": " x", "label": True}
    assert found(make(tmp_path, "labels", label)) == {("p", (" x",), (1.0,))}


REVIEWS = [
    {"text": f"{i:02d}{kind} words go on", "label": kind}
    for i in range(20)
    for kind in ("positive", "negative")
]


def test_labelled_texts_are_cut(tmp_path):
    data = make(tmp_path, "pairs", *REVIEWS, prompt_tokens=2, completion_tokens=10)
    for record in data.train.records:
        assert record.prompt.isdecimal() and record.cut
        assert record.completions == ("positive w", "negative w")
    assert EOS not in data.train.rows.tokens  # cut texts do not end


def test_labelled_texts_pair_prompts_of_both_kinds_and_use_each_text_once(tmp_path):
    texts = [
        {"text": f"{i:03d}{mark} and what follows it{mark}", "label": label}
        for i in range(30)
        for mark, label in (("+", True), ("-", False))
    ]
    data = make(
        tmp_path, "pairs", *texts, prompt_tokens=4, completion_tokens=30, held_out_fraction=0.3
    )
    assert data.held_out is not None
    kinds = [record.prompt[-1] for record in data.train.records]
    assert abs(kinds.count("+") - kinds.count("-")) <= 1
    for side in (data.train, data.held_out):
        for record in side.records:
            assert record.completions[0].endswith("+") and record.completions[1].endswith("-")
    fraction = [side_fraction(r.prompt) for r in data.train.records]
    assert min(fraction) >= 0.3
    assert max(side_fraction(r.prompt) for r in data.held_out.records) < 0.3
    assert EOS in data.train.rows.tokens  # these texts are whole
    labels = make(tmp_path, "labels", *texts, prompt_tokens=4, completion_tokens=30)
    assert all((r.prompt[-1] == "+") == (r.values[0] == 1) for r in labels.train.records)


def test_the_split_depends_on_the_prompt_alone(tmp_path):
    records = [PAIR | {"prompt": f"prompt {i}", "chosen": f" {j}"} for i in range(40) for j in "ab"]
    data = make(tmp_path, "pairs", *records, held_out_fraction=0.25)
    assert data.held_out is not None
    for side, rule in ((data.held_out, lambda f: f < 0.25), (data.train, lambda f: f >= 0.25)):
        assert all(rule(side_fraction(r.prompt)) for r in side.records)
    again = make(tmp_path, "pairs", *reversed(records), held_out_fraction=0.25)
    np.testing.assert_array_equal(again.train.rows.tokens, data.train.rows.tokens)
    assert again.train.digest() == data.train.digest()
    assert data.held_out.digest() != data.train.digest()
    few = make(tmp_path, "pairs", *records, held_out_fraction=0.25, max_records=20)
    assert len(few.train) == 15 and few.held_out is not None and len(few.held_out) == 5
    assert found(few) < found(data)
    with pytest.raises(DataError, match="both sides need some"):
        make(tmp_path, "pairs", PAIR, held_out_fraction=0.25)


GOLD = "def score(prompts, completions):\n    return [float(len(c)) for c in completions]\n"


def test_a_gold_reward_judges_anew(tmp_path):
    (tmp_path / "gold.py").write_text(GOLD)
    gold = f"{tmp_path}/gold.py:score"
    data = make(tmp_path, "pairs", PAIR | {"rejected": " much longer"}, gold_reward=gold)
    assert [r.completions for r in data.train.records] == [(" much longer", " good")]
    assert data.train.records[0].margin == 7.0
    plain = [{"prompt": "p", "completion": f" {'x' * i}"} for i in (1, 3)]
    with pytest.raises(DataError, match="need --data.gold-reward"):
        make(tmp_path, "pairs", *plain)
    data = make(tmp_path, "pairs", *plain, gold_reward=gold)
    assert [r.completions for r in data.train.records] == [(" xxx", " x")]
    settings = {"gold_reward": gold, "labels": "bradley_terry", "prompt_tokens": 2}
    texts = make(tmp_path, "pairs", *REVIEWS, **settings)
    assert len(texts.train) > 5


def test_drawn_labels_follow_bradley_terry(tmp_path):
    records = [
        {"prompt": f"p{i}", "completions": [" a", " b"], "scores": [1.0, 0.0]} for i in range(600)
    ]
    settings = {"labels": "bradley_terry", "label_scale": 0.8}
    data = make(tmp_path, "pairs", *records, **settings)
    share = np.mean([r.completions == (" a", " b") for r in data.train.records])
    assert share == pytest.approx(1 / (1 + math.exp(-0.8)), abs=0.05)
    assert not data.has_margins
    assert found(make(tmp_path, "pairs", *records, **settings)) == found(data)
    assert found(make(tmp_path, "pairs", *records, **settings, seed=1)) != found(data)
    sure = make(tmp_path, "pairs", *records, labels="bradley_terry", label_scale=50.0)
    assert all(r.completions == (" a", " b") for r in sure.train.records)
    ranked = make(tmp_path, "rankings", *records, **settings)
    first = np.mean([r.values[0] > r.values[1] for r in ranked.train.records])
    assert first == pytest.approx(1 / (1 + math.exp(-0.8)), abs=0.05)
    labels = make(tmp_path, "labels", *records, **settings, label_threshold=0.5)
    good = np.mean([r.values[0] for r in labels.train.records if r.completions == (" a",)])
    assert good == pytest.approx(1 / (1 + math.exp(-0.4)), abs=0.06)


def test_long_completions_are_cut_or_left_out(tmp_path):
    long = PAIR | {"prompt": "q", "chosen": " " + "x" * 40}
    data = make(tmp_path, "pairs", PAIR, long)
    rows = data.train.rows
    assert rows.tokens.shape[2] == 32
    index = [r.prompt for r in data.train.records].index("q")
    assert rows.mask[index, 0].all() and EOS not in rows.tokens[index, 0]
    dropped = make(tmp_path, "pairs", PAIR, long, too_long="drop")
    assert len(dropped.train) == 1 and "1 too long" in dropped.summary
    with pytest.raises(DataError, match="none of 1 pairs fits"):
        make(tmp_path, "pairs", long, too_long="drop")
    short = make(tmp_path, "pairs", PAIR, long, max_prompt_tokens=4)
    assert [r.prompt for r in short.train.records] == ["q"]
    bare = make(tmp_path, "pairs", PAIR, append_eos=False)
    assert EOS not in bare.train.rows.tokens


def test_a_chat_template_goes_around_the_prompt(tmp_path):
    rows = make(tmp_path, "pairs", PAIR, chat=True).train.rows
    text = TOKENIZER.decode(rows.prompt_tokens[0][rows.prompt_mask[0]])
    assert text == "user: a prompt\nassistant: "


def test_batches_are_a_function_of_the_step_and_evaluation_covers_all(tmp_path):
    records = [PAIR | {"prompt": f"prompt {i}"} for i in range(7)]
    side = make(tmp_path, "pairs", *records).train
    one, same = (side.batch(2, batch_size=4, seed=1) for _ in range(2))
    other = side.batch(2, batch_size=4, seed=2)
    np.testing.assert_array_equal(one.prompt_tokens, same.prompt_tokens)
    assert not np.array_equal(one.prompt_tokens, other.prompt_tokens)
    np.testing.assert_allclose(one.weights, 0.25)
    batches = list(side.batches(4))
    assert [b.weights.tolist() for b in batches] == [[1.0] * 4, [1.0] * 3 + [0.0]]
    seen = np.concatenate([b.prompt_tokens for b in batches])[:7]
    np.testing.assert_array_equal(seen, side.rows.prompt_tokens)


def test_mismatched_completions_belong_to_other_prompts(tmp_path):
    records = [
        {"prompt": f"p{i}", "completion": f" {i}{j}", "label": j == 0}
        for i in range(4)
        for j in range(3)
    ]
    side = make(tmp_path, "labels", *records).train
    rows = with_mismatched(side).rows
    assert rows.tokens.shape[:2] == (12, 2) and not rows.valid[:, 1].any()
    for record, row in zip(side.records, rows.tokens, strict=True):
        assert chr(row[0, 1]) == record.prompt[1] != chr(row[1, 1])
    alone = make(tmp_path, "labels", *[r for r in records if r["prompt"] == "p0"]).train
    with pytest.raises(DataError, match="at least 2 prompts"):
        with_mismatched(alone)


@pytest.mark.parametrize(
    "record, words",
    [
        ({"prompt": "p"}, ":2: expected the fields of one of: prompt, chosen, rejected"),
        (PAIR | {"chosen": ""}, ":2: expected a text in 'chosen' that is not empty"),
        (PAIR | {"prompt": 3}, ":2: expected a text in 'prompt'"),
        (PAIR | {"margin": "big"}, ":2: expected a finite number in 'margin', got 'big'"),
        (
            {"prompt": "p", "completion": "c", "label": 1},
            ":2: expected true or false in 'label', got 1",
        ),
        (
            {"prompt": "p", "completion": "c", "score": True},
            ":2: expected a finite number in 'score'",
        ),
        ({"text": "t", "label": "fine"}, ":2: expected true, false, 'positive' or 'negative'"),
        ({"prompt": "p", "completions": ["a"]}, ":2: expected a list of at least 2 texts"),
        ({"prompt": "p", "completions": ["a", "b"]}, ":2: expected one of 'scores' and 'ranking'"),
        (
            {"prompt": "p", "completions": ["a", "b"], "scores": [1]},
            ":2: expected a list of 2 numbers in 'scores'",
        ),
        (
            {"prompt": "p", "completions": ["a", "b"], "ranking": [0, 1]},
            ":2: expected whole numbers from 1",
        ),
        (
            {"prompt": "p", "completion": "c", "score": 1.0},
            ":2: expected the fields prompt, chosen, rejected as in the first line, found the "
            "fields prompt, completion, score",
        ),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path, record, words):
    path = write(tmp_path, PAIR, record)
    with pytest.raises(DataError) as error:
        read_source(path)
    assert path + words in str(error.value)


def test_files_that_are_not_there_or_hold_nothing(tmp_path):
    with pytest.raises(DataError, match="'imdb', a .jsonl, .*run directory with a compl"):
        read_source(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="the directory holds no file to read"):
        read_source(str(tmp_path))
    with pytest.raises(DataError, match="holds no record at all"):
        read_source(write(tmp_path))
    score = {"prompt": "p", "completion": " c", "score": 1.0}
    write(tmp_path, score, name="completions.jsonl")
    assert read_source(str(tmp_path)).kind == "score"


@pytest.mark.parametrize(
    "form, changes, words",
    [
        ("pairs", {"labels": "bradley_terry"}, "these records have none"),
        ("pairs", {"prompt_tokens": 4}, "cuts labelled texts"),
        ("pairs", {"pairing": "best_worst"}, "more than two completions"),
        ("labels", {"label_threshold": 1.0}, "has no use for the --data.label-threshold"),
        ("scores", {}, "scores cannot be made of records of kind 'pair'"),
        ("pairs", {"completion_tokens": 64}, "leaves no room for a prompt"),
    ],
)
def test_flags_that_say_nothing_about_the_data_are_refused(tmp_path, form, changes, words):
    with pytest.raises(DataError, match=words):
        make(tmp_path, form, PAIR, **changes)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"label_scale": 2.0}, "need data labels 'bradley_terry'"),
        ({"seed": 1}, "need data labels 'bradley_terry'"),
        ({"labels": "bradley_terry", "label_scale": 0.0}, "label_scale must be positive"),
        ({"completion_tokens": 0}, "completion_tokens must be at least 1"),
        ({"held_out_fraction": 1.0}, "held_out_fraction must be in"),
    ],
)
def test_impossible_configs(changes, words):
    with pytest.raises(ValueError, match=words):
        PreferenceConfig(**changes)


def test_records_without_a_form(tmp_path):
    record = {"prompt": "p", "completion": " c", "score": 1.0}
    with pytest.raises(DataError, match="no pairs can be made of its 1 records of kind 'score'"):
        make(tmp_path, "pairs", record)
    with pytest.raises(DataError, match="this data needs a --data.label-threshold"):
        make(tmp_path, "labels", record)
