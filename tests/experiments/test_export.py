"""A run that experiments/ppo.py wrote, exported and loaded again."""

import jax.numpy as jnp
import numpy as np

from rljax.models import load_pretrained
from rljax.training.trained import load_trained

TOKENS = jnp.asarray([[5, 9, 60, 3], [70, 71, 72, 73]])


def logits(pretrained) -> np.ndarray:
    return np.asarray(pretrained.model.apply(pretrained.params, TOKENS))


def test_an_export_is_the_policy_of_the_run(script, tiny_run, tmp_path):
    out = tmp_path / "out"
    script("export").main(["--run", str(tiny_run.directory), "--out", str(out)])
    exported, trained = load_pretrained(out), load_trained(tiny_run.directory)
    np.testing.assert_array_equal(logits(exported), logits(trained.pretrained))
    assert np.abs(logits(exported) - logits(load_pretrained("random:tiny-llama"))).max() > 1e-3
    np.testing.assert_array_equal(
        exported.heads["value"]["kernel"], trained.pretrained.heads["value"]["kernel"]
    )
    assert np.any(exported.heads["value"]["kernel"])  # it has learnt


def test_what_is_wrong_is_said(fails, tiny_run, tmp_path):
    assert "is no run directory" in fails("export", "--run", tmp_path, "--out", tmp_path / "out")
    run = ["--run", tiny_run.directory, "--out", tmp_path / "out"]
    assert "no checkpoint of step 5" in fails("export", *run, "--checkpoint", 5)
    assert "trained no adapters" in fails("export", *run, "--adapters")
