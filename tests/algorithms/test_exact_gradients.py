"""The updates' expected gradients, against exact ones.

The policy is uniform over 3 tokens and 2 slots, so the batch that holds every pair of completions
once is an exact expectation over groups of 2: nothing here is sampled.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax.algorithms.actor_critic import init_state
from rljax.algorithms.grpo import GRPOConfig, make_update
from rljax.environments.tabular import World
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.types import Completions, Rollout
from tests.conftest import quick_jit

WORLD, BETA = World(3, 2, eos=None), 0.3
PAIRS = np.indices((9, 9)).reshape(2, -1).T.reshape(-1)  # 81 groups of 2
UNIFORM = jnp.zeros_like(WORLD.reference)
REACHED = jnp.array([1, 1 / 3, 1 / 3, 1 / 3])[:, None]
"""How likely the uniform policy reaches each prefix."""
SAMPLING = SamplingConfig(max_new_tokens=2, temperature=1.0)
PLAIN = {"objective": "reinforce", "clip_eps": None}


def batch() -> Rollout:
    tokens = jnp.asarray(WORLD.tokens)[PAIRS]
    made = Completions(
        tokens, jnp.ones(tokens.shape, bool), jnp.full(tokens.shape, -jnp.log(3.0)),
        jnp.zeros(tokens.shape),
    )  # fmt: skip
    groups = jnp.arange(len(PAIRS)) // 2
    prompts = WORLD.prompts(groups, jnp.arange(len(PAIRS)) % 2)
    return Rollout(prompts, made, WORLD.token_log_probs(WORLD.reference)[PAIRS])


def expected_step(greedy=None, **changes) -> jax.Array:
    """What a step of gradient ascent at rate 1 adds to the table, the loss summed over tokens."""
    config = GRPOConfig(
        **({"batch_size": len(PAIRS), "samples_per_prompt": 2, "loss_aggregation": "constant",
            "kl": KLConfig(coef=BETA, estimator="k1")} | changes)
    )  # fmt: skip
    ascent = optax.sgd(1.0)
    state = init_state({"table": UNIFORM}, 4, ascent, critic="none", kl_coef=jnp.float32(BETA))
    state = state._replace(ref_params={"table": WORLD.reference})
    update = make_update(WORLD.model, config, SAMPLING, (), ascent)
    made, metrics = quick_jit(update)(
        state, batch(), WORLD.rewards[PAIRS], jax.random.key(0), greedy
    )
    assert metrics["policy/ratio_max"] == pytest.approx(1, abs=1e-5)
    return made.params["policy"]["table"] * WORLD.length


def gradient(beta: float) -> jax.Array:
    """The exact gradient of E[r] - beta KL(policy || reference)."""
    return jax.grad(WORLD.objective)(UNIFORM, beta)


def same(got, expected):
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("advantage", ["none", "batch_mean", "moving_mean", "greedy"])
def test_baselines_leave_the_gradient_as_it_is(advantage):
    greedy = jnp.full(len(PAIRS), 0.7) if advantage == "greedy" else None
    got = expected_step(greedy, advantage=advantage, kl_place="score", **PLAIN)
    same(got, gradient(BETA))


@pytest.mark.slow
def test_leave_one_out_is_unbiased_and_the_group_mean_shrinks():
    """The group's mean holds the completion itself: (G - 1) / G of the gradient is left."""
    got = expected_step(advantage="leave_one_out", kl_place="score", **PLAIN)
    same(got, gradient(BETA))
    same(expected_step(advantage="group_mean", kl_place="score", **PLAIN), gradient(BETA) / 2)
    # a KL on the tokens is not shrunk: the method then optimises with beta G / (G - 1)
    got = expected_step(advantage="group_mean", kl_place="tokens", **PLAIN)
    same(got, gradient(2 * BETA) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("kl_place", ["score", "tokens"])
@pytest.mark.parametrize(
    "form",
    [PLAIN, {}, {"objective": "cispo"}, {"ratio": "sequence"}, {"dual_clip": 3.0}],
    ids=["reinforce", "clip", "cispo", "sequence", "dual_clip"],
)
def test_on_policy_every_form_has_the_exact_gradient(form, kl_place):
    same(expected_step(advantage="none", kl_place=kl_place, **form), gradient(BETA))


@pytest.mark.slow
def test_kl_in_the_loss():
    """k1 has no expected gradient; k2 has that of KL(policy || ref), k3 of KL(ref || policy).

    Of each token given its prefix: what a token does to the KL of later ones is missing.
    """

    def per_token(table, reverse):
        policy, ref = jax.nn.log_softmax(table), jax.nn.log_softmax(WORLD.reference)
        p, q = (ref, policy) if reverse else (policy, ref)
        return jnp.sum(REACHED * jnp.exp(p) * (p - q))

    def step(estimator):
        kl = KLConfig(coef=BETA, estimator=estimator)
        return expected_step(advantage="none", kl=kl, kl_place="loss", **PLAIN)

    same(step("k1"), gradient(0))
    same(step("k2"), gradient(0) - BETA * jax.grad(per_token)(UNIFORM, False))
    same(step("k3"), gradient(0) - BETA * jax.grad(per_token)(UNIFORM, True))
    assert np.abs(step("k2") - gradient(BETA)).max() > 1e-2
