"""A run that samples in 8 bits: weighted, its gap on record, evaluated without."""

import dataclasses

import pytest

from rljax.errors import UserError
from rljax.rollout import agreement
from rljax.rollout.distribution import SamplingConfig
from tests.experiments.conftest import unoptimised
from tests.training.fused_cases import METHODS, make_experiment, run

EXACT = SamplingConfig(max_new_tokens=3, temperature=1.0)
COARSE = dataclasses.replace(EXACT, weights="int8", cache="int8")


@pytest.mark.slow
def test_a_run_in_8_bits_is_weighted_and_evaluated_without(tmp_path, monkeypatch):
    weighted = dataclasses.replace(METHODS["grpo"], importance_cap=2.0)

    def rows(name, **changes):
        changes = {"grpo": weighted, "steps": 2, **changes}
        return run(make_experiment(tmp_path, "grpo", name, **changes))

    with unoptimised():
        plain = rows("plain", sampling=EXACT, eval_prompts=3)
        made = rows("coarse", sampling=COARSE, eval_prompts=3)
        fused = rows("fused", sampling=COARSE, fused_steps=2)
        monkeypatch.setattr(agreement, "COARSE_KL", 1e-12)
        with pytest.raises(UserError, match="which rounding to 8 bits does not explain"):
            rows("far", sampling=COARSE)
        with pytest.raises(UserError, match="which rounding to 8 bits does not explain"):
            rows("fused-far", sampling=COARSE, fused_steps=2)
    before, exact = (next(row for row in side if row["step"] == 0) for side in (made, plain))
    assert before == exact  # the evaluation
    learnt = [[row for row in side if "policy/loss" in row] for side in (made, plain, fused)]
    for row, other in zip(*learnt[:2], strict=True):
        assert other["health/sampler_logprob_gap"] < 1e-5 < row["health/sampler_logprob_gap"] < 0.5
        assert other["importance/kl"] < 1e-9 < row["importance/kl"] < 0.02
    assert learnt[2][0]["importance/kl"] == pytest.approx(learnt[0][0]["importance/kl"], rel=0.05)
