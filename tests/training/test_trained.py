"""The policy of a run: loaded as the checkpoint holds it, exported so that it can be loaded."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rljax
from rljax.errors import UserError
from rljax.models import load_pretrained
from rljax.training.checkpoint import Checkpoints
from rljax.training.trained import is_run, load_trained
from rljax.types import TrainState

SOURCE = "random:tiny-llama"


def make_run(directory: Path, steps: dict[int, float | None], critic: str = "shared") -> None:
    """Write a run whose policy at step N is the start plus N / 100."""
    config = {"model": {"source": SOURCE, "dtype": "float32"}, "steps": 9}
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    base = load_pretrained(SOURCE)
    hidden = base.model.config.hidden_size
    with Checkpoints(directory / "checkpoints", keep_last=9) as checkpoints:
        for step, score in steps.items():
            policy = jax.tree.map(lambda leaf, step=step: leaf + step / 100, base.params)
            head = {"kernel": jnp.full((1, hidden), float(step)), "bias": jnp.ones(1)}
            params = {"policy": policy}
            if critic == "shared":
                params["value_head"] = head
            else:
                params["critic"] = {"trunk": policy, "value_head": head}
            state = TrainState(params, {}, (), jnp.float32(0), (), jnp.int32(step))
            checkpoints.save(step, state, score=score)


def assert_policy(trained, step: int) -> None:
    base = load_pretrained(SOURCE)
    assert trained.step == step
    jax.tree.map(
        lambda leaf, start: np.testing.assert_array_equal(leaf, start + step / 100),
        trained.pretrained.params,
        base.params,
    )


def test_last_best_and_a_step(tmp_path):
    make_run(tmp_path / "run", {1: 0.5, 2: 0.9, 3: 0.1})
    assert is_run(tmp_path / "run") and not is_run(tmp_path)
    trained = load_trained(tmp_path / "run")
    assert_policy(trained, 3)
    assert trained.pretrained.heads["value"]["kernel"][0, 0] == 3
    assert trained.config["steps"] == 9
    assert_policy(load_trained(tmp_path / "run", "best"), 2)
    assert_policy(load_trained(tmp_path / "run", 1), 1)
    with pytest.raises(UserError, match=r"no checkpoint of step 7; there are \[1, 2, 3\]"):
        load_trained(tmp_path / "run", 7)


def test_runs_that_cannot_be_loaded(tmp_path):
    with pytest.raises(UserError, match="is no run directory"):
        load_trained(tmp_path)
    make_run(tmp_path / "run", {})
    with pytest.raises(UserError, match="there is no checkpoint in"):
        load_trained(tmp_path / "run")
    make_run(tmp_path / "unscored", {1: None})
    with pytest.raises(UserError, match="has a score: take the last"):
        load_trained(tmp_path / "unscored", "best")
    (tmp_path / "run" / "config.json").write_text('{"steps": 3}')
    with pytest.raises(UserError, match="not of a run: no model.source"):
        load_trained(tmp_path / "run")


def load_script(name: str):
    path = Path(rljax.__file__).parents[1] / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"script_{name}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_export_writes_what_can_be_loaded(tmp_path, capsys, critic):
    make_run(tmp_path / "run", {1: 0.5, 2: 0.4}, critic)
    arguments = ["--run", str(tmp_path / "run"), "--out", str(tmp_path / "out")]
    load_script("export").main([*arguments, "--checkpoint", "best"])
    assert "wrote the policy of step 1" in capsys.readouterr().out
    exported = load_pretrained(tmp_path / "out")
    expected = load_trained(tmp_path / "run", 1).pretrained
    tokens = jnp.asarray([[5, 9, 60, 3]])
    np.testing.assert_array_equal(
        exported.model.apply(exported.params, tokens),
        expected.model.apply(expected.params, tokens),
    )
    assert set(exported.heads) == ({"value"} if critic == "shared" else set())
    assert exported.eos_token_ids == expected.eos_token_ids
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_export_never_writes_over_a_run(tmp_path, capsys):
    make_run(tmp_path / "run", {1: 0.5})
    script = load_script("export")
    for out, reason in ((tmp_path / "run", "is a run directory"), (tmp_path, "cannot be written")):
        with pytest.raises(SystemExit) as stop:
            script.main(["--run", str(tmp_path / "run"), "--out", str(out)])
        assert stop.value.code == 1 and reason in capsys.readouterr().err
    assert is_run(tmp_path / "run")
    with pytest.raises(SystemExit) as stop:
        script.main(["--run", "x", "--out", "y", "--checkpoint", "middle"])
    assert stop.value.code == 2
