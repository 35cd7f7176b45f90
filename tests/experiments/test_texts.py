"""Pretraining and fine-tuning as a user runs them, and that they resume exactly."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import rljax
from rljax.experiment import ModelConfig, PretrainExperiment, TextExperiment
from rljax.models import load_pretrained
from rljax.models.scratch import ArchitectureConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.flags import load_config
from rljax.training.flags import validate as validate_config
from rljax.training.trained import load_trained
from tests.conftest import numbers

ROOT = Path(rljax.__file__).parents[1]


pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [{"prompt": f"say {i}:", "completion": f" {i}"} for i in range(120)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pretrain_flags(pairs, workdir, **changes):
    flags = {
        "config": f"{ROOT}/configs/pretrain_reviews.py:smoke",
        "workdir": workdir,
        "data.source": pairs,
        "data.max-documents": 100,
        "data.sequence-length": 32,
        "sft.batch-size": 2,
        "checkpoint-every": 2,
        "steps": 5,
    } | changes
    return [part for name, value in flags.items() for part in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def pretrained_run(tmp_path_factory, script, cache, pairs):
    directory = tmp_path_factory.mktemp("pretrain") / "run"
    script("pretrain").main(pretrain_flags(pairs, directory))
    return directory


def test_what_a_run_leaves(pretrained_run):
    result = json.loads((pretrained_run / "result.json").read_text())
    after = result["after"]
    assert after["perplexity"] == pytest.approx(math.exp(after["loss"]))
    assert after["loss"] < result["before"]["loss"]
    rows = numbers(pretrained_run)
    expected = {"train/loss", "train/perplexity", "train/accuracy", "train/target_tokens"}
    assert expected | {"optim/learning_rate", "optim/grad_norm"} <= set(rows[1])
    trained = load_trained(pretrained_run)
    assert trained.step == 5 and trained.pretrained.model.config.hidden_size == 32
    assert len(trained.pretrained.tokenizer) == 300
    text = "say 7: 7"
    assert trained.pretrained.tokenizer.decode(trained.pretrained.tokenizer.encode(text)) == text


def test_generate_evaluate_and_export_take_the_run(pretrained_run, script, capsys, tmp_path, pairs):
    flags = ["--sampling.max-new-tokens", "6", "--prompt", "say 3:", "--seed", "1"]
    script("generate").main(["--run", str(pretrained_run), *flags])
    written = capsys.readouterr().out
    script("export").main(["--run", str(pretrained_run), "--out", str(tmp_path / "out")])
    capsys.readouterr()
    script("generate").main(["--model", str(tmp_path / "out"), *flags])
    assert capsys.readouterr().out == written
    exported = load_pretrained(tmp_path / "out")
    jax.tree.map(
        np.testing.assert_array_equal,
        exported.params,
        load_trained(pretrained_run).pretrained.params,
    )
    reward = tmp_path / "reward.py"
    reward.write_text("def score(prompts, completions):\n    return [0.5 for _ in prompts]\n")
    script("evaluate").main(
        [
            *("--run", str(pretrained_run), "--num-prompts", "4", "--batch-size", "4"),
            *("--task.prompts", str(pairs), "--task.reward", f"{reward}:score"),
            *("--sampling.max-new-tokens", "4"),
        ]
    )
    assert "policy: step 5 of" in capsys.readouterr().out


def test_a_checkpoint_is_fine_tuned_and_its_runs_are_evaluated_beside_it(
    tmp_path, script, pairs, pretrained_run, capsys
):
    base = tmp_path / "base"
    script("export").main(["--run", str(pretrained_run), "--out", str(base)])
    flags = {
        "config": f"{ROOT}/configs/sft_sentiment.py:smoke",
        "workdir": tmp_path / "run",
        "model.source": base,
        "data.source": pairs,
        "data.sequence-length": 32,
        "data.keep": "prompt=say 7:",
        "data.held-out-fraction": 0,
        "eval-batches": 0,
        "steps": 2,
    }
    arguments = [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    script("sft").main(arguments)
    assert "120 records, 1 kept, 1 used, 0 of them held out" in capsys.readouterr().out
    before, after = load_pretrained(base), load_trained(tmp_path / "run").pretrained
    same = jax.tree.map(np.array_equal, before.params, after.params)
    assert not all(jax.tree.leaves(same))
    assert after.tokenizer.get_vocab() == before.tokenizer.get_vocab()


def test_stopped_runs_go_on_bit_for_bit(tmp_path, script, pairs, pretrained_run, monkeypatch):
    """A SIGTERM during step 3, then the same command: all numbers are those of the whole run."""
    from rljax.tasks.packing import PackedData

    whole, counted = PackedData.batch, []

    def batch(self, step, **options):
        counted.append(step)
        if step == 3 and counted.count(3) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, step, **options)

    monkeypatch.setattr(PackedData, "batch", batch)
    for _ in range(2):
        script("pretrain").main(pretrain_flags(pairs, tmp_path / "run"))
    assert counted == [0, 1, 2, 3, 3, 4]
    assert numbers(tmp_path / "run") == numbers(pretrained_run)
    found, expected = load_trained(tmp_path / "run"), load_trained(pretrained_run)
    jax.tree.map(np.testing.assert_array_equal, found.pretrained.params, expected.pretrained.params)


@pytest.mark.slow
def test_killed_runs_go_on_bit_for_bit(tmp_path, pairs, pretrained_run):
    """kill -9 once a checkpoint stands, then the same command."""
    directory = tmp_path / "run"
    flags = pretrain_flags(pairs, directory, **{"steps": 5})
    command = [sys.executable, str(ROOT / "experiments" / "pretrain.py"), *flags]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 200
    while not list(directory.glob("checkpoints/0*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "resumed" in done.stdout
    assert numbers(directory) == numbers(pretrained_run)


def test_errors_are_plain(fails, pairs, tmp_path):
    config = f"{ROOT}/configs/sft_sentiment.py:smoke"
    message = fails("sft", "--config", config, "--data.source", "none.jsonl", "--workdir", tmp_path)
    assert "no data file 'none.jsonl'" in message
    flags = pretrain_flags(pairs, tmp_path / "a", tokenizer="bpe:9")
    assert "a BPE needs its vocabulary" in fails("pretrain", *flags)
    flags = pretrain_flags(pairs, tmp_path / "b", **{"model.source": tmp_path / "none"})
    assert "the flags of architecture need model.source 'scratch'" in fails("pretrain", *flags)


def test_impossible_configs():
    change = dataclasses.replace
    with pytest.raises(ValueError, match="evaluation needs held-out records"):
        TextExperiment(data=DocumentConfig(held_out_fraction=0)).validate()
    TextExperiment(data=DocumentConfig(held_out_fraction=0), eval_batches=0).validate()
    base = PretrainExperiment()
    base.validate()
    with pytest.raises(ValueError, match="data.sequence_length 512 is more than architecture"):
        change(base, data=DocumentConfig(sequence_length=512)).validate()
    change(base, model=ModelConfig(source="x"), data=DocumentConfig(sequence_length=512)).validate()
    with pytest.raises(ValueError, match="the flags of architecture need"):
        change(
            base,
            model=ModelConfig(source="x"),
            architecture=ArchitectureConfig(num_layers=2),
        ).validate()


@pytest.mark.parametrize("name", ["sft_sentiment", "pretrain_reviews", "pretrain_sorting"])
@pytest.mark.parametrize("variant", ["", ":smoke"])
def test_the_configs_are_possible(name, variant):
    config = load_config(f"{ROOT}/configs/{name}.py{variant}", TextExperiment)
    validate_config(config)
