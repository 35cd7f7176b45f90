"""Runs that train adapters, as a user makes them: resumed, exported, the start of other runs."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.experiment import ModelConfig, TextExperiment
from rljax.models import load_pretrained
from rljax.models.lora import combine, merge
from rljax.models.peft import load_peft
from rljax.rewards import load_reward
from rljax.rewards.protocol import judge_texts
from rljax.tasks.packing import PackedData
from rljax.training.checkpoint import Checkpoints
from rljax.training.policies import load_start
from rljax.training.trained import load_trained
from rljax.training.writer import read_jsonl
from tests.conftest import numbers
from tests.experiments.conftest import ROOT

TOKENS = jnp.asarray([[5, 9, 60, 3], [70, 71, 72, 73]])
LORA = {"lora.rank": 2, "lora.alpha": 8, "lora.targets": "attention|mlp"}
SFT = {"data.sequence-length": 32, "optimizer.learning-rate": 0.01, "steps": 4}


pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The file that each script learns from."""
    folder = tmp_path_factory.mktemp("parts")
    texts = [{"prompt": f"say {i}:", "completion": f" {i}", "label": "positive"} for i in range(60)]
    pairs = [{"prompt": f"say {i}:", "chosen": f" {i}!", "rejected": f" {i}?"} for i in range(60)]
    for name, rows in (("texts", texts), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kinds = {"sft": "texts", "distill": "texts", "dpo": "pairs", "reward_model": "pairs"}
    return {script: folder / f"{kind}.jsonl" for script, kind in kinds.items()}


def arguments(kind, data, workdir, **changes):
    name = "distill_arithmetic" if kind == "distill" else f"{kind}_sentiment"
    flags = {
        "config": f"{ROOT}/configs/{name}.py:smoke",
        "workdir": workdir,
        "data.source": data[kind],
        "data.held-out-fraction": 0.2,
        "eval-batches": 1,
        "checkpoint-every": 2,
        **LORA,
        **changes,
    }
    return [part for flag, value in flags.items() for part in (f"--{flag}", str(value))]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, script, cache, data):
    """A run of experiments/sft.py that trained adapters."""
    directory = tmp_path_factory.mktemp("sft") / "run"
    script("sft").main(arguments("sft", data, directory, **SFT))
    return directory


def logits(pretrained) -> np.ndarray:
    return np.asarray(pretrained.model.apply(pretrained.params, TOKENS))


def changed(found, expected) -> bool:
    same = jax.tree.map(np.array_equal, found, expected)
    return not all(jax.tree.leaves(same))


@pytest.mark.slow
def test_checkpoints_hold_adapters_and_runs_are_whole_models(tuned, script, capsys, tmp_path):
    start, trained = load_pretrained("random:tiny-llama"), load_trained(tuned).pretrained
    with Checkpoints(tuned / "checkpoints", read_only=True) as checkpoints:
        names = checkpoints.arrays(4)
    policy = {name for name in names if name.startswith("params.")}
    assert policy and all(name.endswith((".a", ".b")) for name in policy)
    assert not any(name.startswith("base") for name in names)
    assert jax.tree.structure(trained.params) == jax.tree.structure(start.params)
    assert changed(trained.params["layers"], start.params["layers"])
    assert not changed(trained.params["embed"], start.params["embed"])
    script("export").main(["--run", str(tuned), "--out", str(tmp_path / "out")])
    exported = load_pretrained(tmp_path / "out")
    np.testing.assert_array_equal(logits(exported), logits(trained))
    again = load_start(TextExperiment(model=ModelConfig(source=str(tuned))))
    np.testing.assert_array_equal(logits(again), logits(trained))
    assert np.abs(logits(trained) - logits(start)).max() > 1e-3
    capsys.readouterr()
    flags = ["--sampling.max-new-tokens", "6", "--prompt", "say 3:", "--json"]
    script("generate").main(["--run", str(tuned), *flags])
    row = json.loads(capsys.readouterr().out)
    assert row["completion"] and np.isfinite(row["log_prob"])


def test_adapters_alone_are_exported_over_the_start(tuned, script, tmp_path):
    out = tmp_path / "adapters"
    script("export").main(["--run", str(tuned), "--out", str(out), "--adapters"])
    start, trained = load_pretrained("random:tiny-llama"), load_trained(tuned).pretrained
    found = load_peft(out, "llama", start.model.config)
    whole = merge(combine(start.params, found.weights, found.scale))
    assert not changed(whole, trained.params)
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 2


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, script, data, tuned, monkeypatch):
    whole, asked = PackedData.batch, []

    def batch(self, step, **options):
        asked.append(step)
        if step == 3 and asked.count(3) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, step, **options)

    monkeypatch.setattr(PackedData, "batch", batch)
    for _ in range(2):
        script("sft").main(arguments("sft", data, tmp_path / "run", **SFT))
    assert asked == [0, 1, 2, 3, 3]
    assert numbers(tmp_path / "run") == numbers(tuned)
    found, expected = (load_trained(run).pretrained.params for run in (tmp_path / "run", tuned))
    assert not changed(found, expected)


@pytest.mark.slow
def test_the_next_stage_starts_from_the_merged_model(tmp_path, script, data, tuned):
    """DPO on adapters of its own; its reference is the run that it starts from."""
    flags = {"model.source": tuned, "steps": 2, "optimizer.learning-rate": 0.01}
    script("dpo").main(arguments("dpo", data, tmp_path / "run", **flags))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["before"]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert result["before"]["rewards/margin"] == pytest.approx(0, abs=1e-4)
    assert result["after"]["loss"] < result["before"]["loss"]
    before, after = (load_trained(run).pretrained for run in (tuned, tmp_path / "run"))
    assert changed(after.params, before.params)
    assert not changed(after.params["embed"], before.params["embed"])


@pytest.mark.slow
def test_a_reward_of_adapters_plugs_into_tasks(tmp_path, script, data):
    directory = tmp_path / "run"
    flags = {"steps": 2, "optimizer.learning-rate": 0.01}
    script("reward_model").main(arguments("reward_model", data, directory, **flags))
    rows = read_jsonl(data["dpo"])[:4]
    prompts, completions = [r["prompt"] for r in rows], [r["chosen"] for r in rows]
    scores = judge_texts(load_reward(f"model:{directory}"), prompts, completions).scores
    assert np.isfinite(scores).all() and np.std(scores) > 0
    trunk = load_pretrained(directory / "reward_model").params
    expected, start = (
        load_trained(directory).pretrained.params,
        load_pretrained("random:tiny-llama").params,
    )
    assert not changed(trunk, expected) and changed(trunk, start)


@pytest.mark.slow
def test_a_student_of_adapters(tmp_path, script, data):
    script("distill").main(arguments("distill", data, tmp_path / "run"))
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        names = checkpoints.arrays(4)
    assert not any(name.startswith(("base", "teacher")) for name in names)
    trained, start = load_trained(tmp_path / "run").pretrained, load_pretrained("random:tiny-llama")
    assert changed(trained.params, start.params)


@pytest.mark.parametrize("name", ["sft", "dpo", "reward_model", "distill"])
def test_every_script_reads_the_flags(name, fails, data, tmp_path):
    def message(**flags):
        return fails(name, *arguments(name, data, tmp_path / "run", **flags))

    assert "lora.targets 'atention' matches no linear map" in message(
        **{"lora.targets": "atention"}
    )
    none = {"lora.rank": 0, "lora.alpha": "None", "lora.targets": "None"}
    assert "train_layers is 5, but the model has 2" in message(**none, **{"train-layers": 5})
    assert "train_layers 1 and lora.rank choose" in message(**{"train-layers": 1})
    assert "lora.rank is -1" in message(**{"lora.rank": -1})


def test_what_on_policy_scripts_and_pretraining_say(fails, tmp_path):
    config = f"{ROOT}/configs/ppo_sentiment.py:smoke"
    flags = ["--config", config, "--workdir", tmp_path / "run", "--train-layers", 5]
    assert "train_layers is 5, but the model has 2" in fails("ppo", *flags)
    flags = ["--config", f"{ROOT}/configs/pretrain_reviews.py:smoke", "--lora.rank", 2]
    assert "pretrain all of it, then adapt the run" in fails("pretrain", *flags)
