"""Distillation as a user runs it: a run as the teacher, both kinds of batches, exact resume."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

import rljax
from rljax.algorithms.distillation import DistillConfig
from rljax.experiment import DistillExperiment, ModelConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.checkpoint import Checkpoints
from rljax.training.flags import load_config
from rljax.training.flags import validate as validate_config
from rljax.training.trained import load_trained
from tests.conftest import numbers

ROOT = Path(rljax.__file__).parents[1]


pytestmark = pytest.mark.usefixtures("quick_programs")


CONFIG = f"{ROOT}/configs/distill_arithmetic.py:smoke"


def arguments(directory, **changes):
    flags = {"config": CONFIG, "workdir": directory, "checkpoint-every": 2} | changes
    return [part for name, value in flags.items() for part in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, script, cache):
    """A model from scratch of another size, of which only the run directory exists."""
    directory = tmp_path_factory.mktemp("teacher") / "run"
    config = f"{ROOT}/configs/pretrain_arithmetic.py:smoke"
    script("pretrain").main(["--config", config, "--workdir", str(directory), "--steps", "1"])
    return directory


@pytest.fixture(scope="module")
def distilled(tmp_path_factory, script, teacher):
    directory = tmp_path_factory.mktemp("distill") / "run"
    script("distill").main(arguments(directory, **{"teacher.source": teacher}))
    return directory


@pytest.mark.slow
def test_what_a_run_leaves(distilled):
    rows = [row for row in numbers(distilled) if "train/loss" in row]
    assert [row["train/on_policy"] for row in rows] == [0, 1, 0, 1]
    result = json.loads((distilled / "result.json").read_text())
    assert {"loss", "cross_entropy", "agreement", "perplexity"} == set(result["after"])
    assert result["after"]["loss"] != result["before"]["loss"]
    assert load_trained(distilled).pretrained.model.config.hidden_size == 64
    with Checkpoints(distilled / "checkpoints", read_only=True) as checkpoints:
        names = checkpoints.arrays(4)
    assert any(name.startswith("params.policy.") for name in names)
    assert not any("teacher" in name for name in names)


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, script, distilled, teacher, monkeypatch):
    module = script("distill")
    original, seen = module.batch_kind, []

    def batch_kind(step, share):
        seen.append(step)
        if seen == [0, 1, 2]:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(step, share)

    monkeypatch.setattr(module, "batch_kind", batch_kind)
    for _ in range(2):
        module.main(arguments(tmp_path / "run", **{"teacher.source": teacher}))
    assert seen == [0, 1, 2, 2, 3]
    assert numbers(tmp_path / "run") == numbers(distilled)


@pytest.mark.slow
def test_models_of_different_vocabularies_are_refused(tmp_path, fails, script):
    pretrain = f"{ROOT}/configs/pretrain_arithmetic.py:smoke"
    other = tmp_path / "other"
    script("pretrain").main(
        ["--config", pretrain, "--workdir", str(other), "--steps", "1", "--tokenizer", "bpe:259"]
    )
    message = fails("distill", *arguments(tmp_path / "run", **{"teacher.source": other}))
    assert "student and teacher have different vocabularies (259 and" in message


def test_impossible_configs():
    base = DistillExperiment()
    base.validate()
    for change, words in (
        ({"prompt_multiple": 0}, "prompt_multiple is 0"),
        ({"teacher": ModelConfig(remat="layers")}, "teacher.remat"),
        ({"data": DocumentConfig(held_out_fraction=0)}, "evaluation needs held-out records"),
        (
            {
                "distill": DistillConfig(on_policy_fraction=0.0),
                "sampling": SamplingConfig(max_new_tokens=3),
            },
            "flags of sampling are those of the student's own",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(base, **change).validate()
    for variant in ("", ":smoke"):
        path = f"{ROOT}/configs/distill_arithmetic.py{variant}"
        validate_config(load_config(path, DistillExperiment))


def test_sampled_batches_are_padded_to_a_multiple(script):
    module = script("distill")
    config = load_config(CONFIG, DistillExperiment)
    records = module.read_documents(config.data)
    model = module.load_model("random:tiny-llama")
    prompts = module.student_prompts(config, model, model, records)
    data = SimpleNamespace(held_out=None)
    widths = []
    for multiple in (8, 16):
        changed = dataclasses.replace(config, prompt_multiple=multiple)
        batch = module.make_learner(changed, model, model, data, prompts).batch(1)
        assert batch.mask.sum(axis=1).tolist() == [4, 4, 4, 4]  # "a+b="
        widths.append(batch.tokens.shape[1])
    assert widths == [8, 16]
