"""The guard of a run's first step: what must agree, and what is said where it does not."""

import numpy as np
import pytest

from rljax.rollout.agreement import Disagreement, check_ratio, check_start_kl
from rljax.types import Completions, Prompts, Rollout

TEXTS = ["one", "two", "three"]
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]], bool)


@pytest.fixture
def made():
    log_probs = np.random.default_rng(0).normal(-2, 1, MASK.shape).astype(np.float32)
    return Completions(np.zeros(MASK.shape, np.int32), MASK, log_probs * MASK, 0.0 * log_probs)


def test_ratios_within_the_tolerance_pass_and_padding_is_not_looked_at(made):
    scored = made.log_probs + np.float32(2e-5)
    scored[1, 3] = 7.0
    assert check_ratio(made, scored, tolerance=1e-4, texts=TEXTS) == pytest.approx(2e-5, rel=0.05)


@pytest.mark.parametrize("wrong", [3e-4, -3e-4, np.nan, np.inf])
def test_the_place_where_sampler_and_learner_differ_is_named(made, wrong):
    scored = made.log_probs.copy()
    scored[2, 1] += wrong
    with pytest.raises(Disagreement, match=r"completion 2, token 1: .* 1 of 9 tokens.*'three'"):
        check_ratio(made, scored, tolerance=1e-4, texts=TEXTS)


def rollout(made, gap):
    prompts = Prompts(made.tokens, made.mask, np.arange(3), np.arange(3))
    return Rollout(prompts, made, (made.log_probs - gap).astype(np.float32))


def test_the_start_kl_is_a_mean_over_real_tokens(made):
    gap = np.where(MASK, 4e-6, 5.0)
    found = check_start_kl(rollout(made, gap), tolerance=1e-5)
    assert found == pytest.approx(4e-6, rel=0.1)


@pytest.mark.parametrize("gap", [3e-5, -3e-5, np.nan])
def test_a_policy_that_is_not_its_reference_is_refused(made, gap):
    with pytest.raises(Disagreement, match=r"nats per token before .*allowed 1e-05.*max-start-kl"):
        check_start_kl(rollout(made, gap), tolerance=1e-5)
