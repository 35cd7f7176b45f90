"""The scripts of preferences and reward models as a user runs them, and that they resume."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

import rljax
from rljax.algorithms.dpo import DPOConfig
from rljax.experiment import OnlineDPOExperiment, PreferenceExperiment, RewardExperiment
from rljax.models import load_pretrained
from rljax.rewards import load_reward
from rljax.rewards.protocol import judge_texts
from rljax.tasks.preference_batches import PreferenceSet
from rljax.tasks.preferences import PreferenceConfig
from rljax.training.flags import load_config
from rljax.training.flags import validate as validate_config
from rljax.training.preferences import (
    load_preferences,
    make_preference_learner,
    prepare_preferences,
)
from rljax.training.reward_models import make_reward_learner, sample_reference
from rljax.training.trained import load_trained
from rljax.training.writer import read_jsonl
from tests.conftest import numbers

ROOT = Path(rljax.__file__).parents[1]


pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("preferences") / "pairs.jsonl"
    rows = [
        {"prompt": f"say {i}:", "chosen": f" {i}{i}!", "rejected": f" {i} ?", "margin": 1.5}
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def flags(kind, pairs, workdir, **changes):
    group = {"dpo": "dpo", "reward_model": "reward-model"}[kind]
    chosen = {
        "config": f"{ROOT}/configs/{kind}_sentiment.py:smoke",
        "workdir": workdir,
        "data.source": pairs,
        "data.held-out-fraction": 0.2,
        f"{group}.batch-size": 4,
        "eval-batches": 2,
        "checkpoint-every": 2,
        "steps": 4,
    } | changes
    return [part for name, value in chosen.items() for part in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def dpo_run(tmp_path_factory, script, cache, pairs):
    directory = tmp_path_factory.mktemp("dpo") / "run"
    script("dpo").main(flags("dpo", pairs, directory))
    return directory


@pytest.fixture(scope="module")
def reward_run(tmp_path_factory, script, cache, pairs):
    directory = tmp_path_factory.mktemp("reward") / "run"
    script("reward_model").main(flags("reward_model", pairs, directory))
    return directory


def test_what_a_dpo_run_leaves(dpo_run):
    result = json.loads((dpo_run / "result.json").read_text())
    assert result["before"]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert result["after"]["loss"] < result["before"]["loss"]
    margin = result["after"]["rewards/chosen"] - result["after"]["rewards/rejected"]
    assert result["after"]["rewards/margin"] == pytest.approx(margin)
    rows = numbers(dpo_run)
    wanted = {"train/loss", "rewards/accuracy", "rewards/margin", "log_probs/chosen"}
    assert wanted | {"rewards/chosen", "rewards/rejected", "optim/learning_rate"} <= set(rows[1])
    assert rows[1]["rewards/margin"] == pytest.approx(0, abs=1e-5)  # the reference is the start
    trained, start = load_trained(dpo_run).pretrained, load_pretrained("random:tiny-llama")
    same = jax.tree.map(np.array_equal, trained.params, start.params)
    assert not all(jax.tree.leaves(same))
    assert (dpo_run / "reference_train.npz").is_file()


def interrupt(monkeypatch, at: int) -> list[int]:
    """Send SIGTERM when the batch of a step is first asked for; return the steps asked for."""
    whole, asked = PreferenceSet.batch, []

    def batch(self, step, **options):
        asked.append(step)
        if step == at and asked.count(at) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, step, **options)

    monkeypatch.setattr(PreferenceSet, "batch", batch)
    return asked


def test_stopped_dpo_runs_go_on_bit_for_bit(tmp_path, script, pairs, dpo_run, monkeypatch):
    asked = interrupt(monkeypatch, 2)
    script("dpo").main(flags("dpo", pairs, tmp_path / "run"))
    with monkeypatch.context() as patch:  # the second time nothing is asked of the reference
        patch.setattr(PreferenceSet, "batches", _only(PreferenceSet.batches, 2))
        script("dpo").main(flags("dpo", pairs, tmp_path / "run"))
    assert asked == [0, 1, 2, 2, 3]
    assert numbers(tmp_path / "run") == numbers(dpo_run)
    found, expected = load_trained(tmp_path / "run"), load_trained(dpo_run)
    jax.tree.map(np.testing.assert_array_equal, found.pretrained.params, expected.pretrained.params)


def _only(whole, evaluations: int):
    """Let `batches` be called so often: for evaluations, not for a reference."""
    calls = []

    def batches(self, batch_size):
        calls.append(batch_size)
        assert len(calls) <= evaluations
        return whole(self, batch_size)

    return batches


@pytest.mark.slow
def test_stopped_reward_runs_go_on_bit_for_bit(tmp_path, script, pairs, reward_run, monkeypatch):
    asked = interrupt(monkeypatch, 2)
    for _ in range(2):
        script("reward_model").main(flags("reward_model", pairs, tmp_path / "run"))
    assert asked == [0, 1, 2, 2, 3]
    assert numbers(tmp_path / "run") == numbers(reward_run)
    for name in ("model.safetensors", "rljax_heads.safetensors", "config.json"):
        one, two = (folder / "reward_model" / name for folder in (tmp_path / "run", reward_run))
        assert one.read_bytes() == two.read_bytes()


def test_a_reward_run_says_how_right_and_how_sure_it_is(reward_run):
    found = json.loads((reward_run / "held_out.json").read_text())
    assert found["judgements"] >= 5
    assert 0 <= found["ece"] <= 1
    assert sum(b["predictions"] for b in found["bins"]) == found["judgements"]
    settings = json.loads((reward_run / "reward_model" / "config.json").read_text())
    settings = settings["rljax_reward_model"]
    assert settings["append_eos"] and settings["loss"] == "pairwise"
    assert settings["logit_scale"] > 0 and settings["logit_scale"] != 1


def test_the_reward_plugs_into_every_task(reward_run, script, tmp_path, pairs):
    rows = read_jsonl(pairs)
    prompts, completions = [r["prompt"] for r in rows[:4]], [r["chosen"] for r in rows[:4]]
    run, folder = (
        judge_texts(load_reward(f"model:{place}"), prompts, completions).scores
        for place in (reward_run, reward_run / "reward_model")
    )
    np.testing.assert_array_equal(run, folder)
    chosen = {
        "model": "random:tiny-llama",
        "num-prompts": 4,
        "batch-size": 4,
        "task.prompts": pairs,
        "task.reward": f"model:{reward_run}",
        "sampling.max-new-tokens": 4,
        "json": tmp_path / "report.json",
    }
    arguments = [part for name, value in chosen.items() for part in (f"--{name}", str(value))]
    script("evaluate").main(arguments)
    written = json.loads((tmp_path / "report.json").read_text())["completions"]
    scores = judge_texts(
        load_reward(f"model:{reward_run}"),
        [row["prompt"] for row in written],
        [row["policy"]["completion"] for row in written],
    ).scores
    np.testing.assert_allclose([row["policy"]["score"] for row in written], scores, rtol=1e-4)


def test_normalisation_flags_are_read(pairs):
    base = load_config(f"{ROOT}/configs/reward_model_sentiment.py:smoke", RewardExperiment)
    data = dataclasses.replace(base.data, source=str(pairs))
    pretrained = load_pretrained("random:tiny-llama")
    side = load_preferences(data, "pairs", pretrained, 0.0).train

    def sampled(**changes):
        flags = dataclasses.replace(base.reward_model, **changes)
        experiment = dataclasses.replace(base, reward_model=flags, data=data)
        return sample_reference(experiment, pretrained, side)

    prompts, made = sampled(normalise_samples=64)
    assert made.tokens.shape == (64, side.rows.tokens.shape[2])
    distinct = {tuple(row) for row in prompts.tokens.tolist()}
    assert len(distinct) == len(side)  # all prompts, and second samples of some
    assert prompts.samples.max() == 1
    texts = {tuple(row) for row in made.tokens.tolist()}
    assert len(texts) > 60
    _, cold = sampled(normalise_samples=64, normalise_temperature=0.1)
    assert not np.array_equal(cold.tokens, made.tokens)


def test_a_reference_of_its_own_and_losses_without_one(tmp_path, pairs, fails, capsys):
    base = load_config(f"{ROOT}/configs/dpo_sentiment.py:smoke", PreferenceExperiment)
    base = dataclasses.replace(base, data=dataclasses.replace(base.data, source=str(pairs)))
    policy = load_pretrained("random:tiny-llama")

    def reference(name: str, **changes) -> np.ndarray:
        folder = tmp_path / name
        folder.mkdir()
        experiment = dataclasses.replace(base, **changes)
        return prepare_preferences(experiment, policy, folder).train.rows.ref_log_probs

    own = reference("own")
    other = reference("other", reference="random:tiny-llama:7")
    assert np.nanmax(np.abs(own - other)) > 0.1
    more = dataclasses.replace(base, steps=base.steps + 2)
    capsys.readouterr()
    longer = prepare_preferences(more, policy, tmp_path / "own").train.rows.ref_log_probs
    assert "the reference scores 8 records, once" in capsys.readouterr().out  # 2 batches of 4
    read = np.isfinite(own)
    assert read.all(axis=1).sum() == 4 * base.steps
    np.testing.assert_array_equal(longer[read], own[read])
    assert np.isfinite(longer).all(axis=1).sum() == 4 * base.steps + 8
    free = DPOConfig(loss="simpo", beta=2.0, batch_size=4)
    assert np.isnan(reference("free", dpo=free)).all()
    assert not list((tmp_path / "free").iterdir())
    wrong = flags("dpo", pairs, tmp_path / "wrong", reference="random:tiny-gpt2")
    assert "--reference must have the policy's architecture" in fails("dpo", *wrong)
    both = {"dpo.loss": "simpo", "reference": "random:tiny-llama:7"}
    message = fails("dpo", *flags("dpo", pairs, tmp_path / "both", **both))
    assert "dpo.loss 'simpo' reads none" in message


@pytest.mark.slow
def test_online_dpo_learns_from_a_learned_reward_with_adapters(tmp_path, script, pairs, reward_run):
    chosen = {
        "config": f"{ROOT}/configs/online_dpo_sentiment.py:smoke",
        "workdir": tmp_path / "run",
        "task.prompts": pairs,
        "task.min-prompt-tokens": 1,
        "task.reward": f"model:{reward_run}",
        "sampling.max-new-tokens": 4,
        "online-dpo.batch-size": 4,
        "lora.rank": 2,
        "eval-prompts": 0,
        "steps": 2,
    }
    script("online_dpo").main([p for k, v in chosen.items() for p in (f"--{k}", str(v))])
    rows = numbers(tmp_path / "run")
    assert rows[0]["rewards/margin"] == pytest.approx(0, abs=1e-5)
    assert rows[0]["policy/loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert rows[0]["objective/informative_groups"] == 1
    trained, start = load_trained(tmp_path / "run").pretrained, load_pretrained("random:tiny-llama")
    same = jax.tree.map(np.array_equal, trained.params, start.params)
    assert not all(jax.tree.leaves(same))


@pytest.mark.slow
def test_kto_runs_on_labels_made_of_pairs(tmp_path, script, pairs, capsys):
    changes = {"dpo.loss": "kto", "steps": 2, "eval-batches": 0}
    script("dpo").main(flags("dpo", pairs, tmp_path / "run", **changes))
    assert "labels to train on" in capsys.readouterr().out
    assert numbers(tmp_path / "run")[0]["train/loss"] == pytest.approx(0.5, abs=1e-3)


def test_errors_are_plain(fails, pairs, tmp_path):
    message = fails("dpo", *flags("dpo", "none.jsonl", tmp_path / "a"))
    assert "no data file 'none.jsonl'" in message
    scaled = {"dpo.margin-scale": 0.5, "data.pairing": "best_worst"}
    assert "needs more than two" in fails("dpo", *flags("dpo", pairs, tmp_path / "b", **scaled))
    tied = tmp_path / "tied.jsonl"
    ranking = {"prompt": "p", "completions": [" a", " b", " c"], "ranking": [1, 2, 2]}
    tied.write_text(json.dumps(ranking) + "\n")
    changes = {"data.held-out-fraction": 0, "eval-batches": 0}
    ranked = changes | {"reward-model.loss": "plackett_luce"}
    message = fails("reward_model", *flags("reward_model", tied, tmp_path / "d", **ranked))
    assert f"{tied}:1: two completions are worth the same" in message
    bare = tmp_path / "bare.jsonl"
    bare.write_text(json.dumps({"prompt": "p", "chosen": " a", "rejected": " b"}) + "\n")
    changes |= {"dpo.margin-scale": 0.5}
    message = fails("dpo", *flags("dpo", bare, tmp_path / "c", **changes))
    assert "not every pair of" in message and "has a margin" in message


def test_impossible_configs():
    none = PreferenceConfig(held_out_fraction=0)
    with pytest.raises(ValueError, match="evaluation needs held-out prompts"):
        PreferenceExperiment(data=none).validate()
    RewardExperiment(data=none, eval_batches=0).validate()
    with pytest.raises(ValueError, match="reads none"):
        PreferenceExperiment(dpo=DPOConfig(loss="orpo"), reference="x").validate()


@pytest.mark.parametrize(
    "name, kind",
    [
        ("dpo_sentiment", PreferenceExperiment),
        ("reward_model_sentiment", RewardExperiment),
        ("online_dpo_sentiment", OnlineDPOExperiment),
    ],
)
def test_the_configs_are_possible(name, kind):
    from rljax.training.flags import find_config, load_file

    for variant in ("", *load_file(find_config(f"{ROOT}/configs/{name}.py")).variants):
        suffix = f":{variant}" if variant else ""
        validate_config(load_config(f"{ROOT}/configs/{name}.py{suffix}", kind))


@pytest.mark.parametrize("kind", ["dpo", "reward_model"])
def test_batch_sizes_are_read(kind, pairs):
    """The learner's batches have the size of the flag."""
    name = f"{ROOT}/configs/{kind}_sentiment.py:smoke"
    config = load_config(name, PreferenceExperiment if kind == "dpo" else RewardExperiment)
    flags = dataclasses.replace(getattr(config, kind), batch_size=6)
    config = dataclasses.replace(config, **{kind: flags})
    pretrained = load_pretrained("random:tiny-llama")
    settings = dataclasses.replace(config.data, source=str(pairs))
    data = load_preferences(settings, "pairs", pretrained, 0.0)
    if isinstance(config, RewardExperiment):
        learner = make_reward_learner(config, pretrained, data, None)
    else:
        learner = make_preference_learner(config, pretrained, data)
    assert learner.batch(0).tokens.shape[0] == 6
    assert next(iter(learner.eval_batches())).tokens.shape[0] == 6
