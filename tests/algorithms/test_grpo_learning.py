"""Every named critic-free method learns a token task; with a broken sign none does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.actor_critic import init_state, make_act, make_collect
from rljax.algorithms.grpo import GRPOConfig, make_update
from rljax.kl import KLConfig, make_kl_controller
from rljax.models.transformer import make_model
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.sampler import make_sampler
from rljax.rollout.scoring import make_score
from rljax.training.optimizer import OptimizerConfig, make_optimizer
from rljax.types import Completions, Prompts
from tests.conftest import quick_jit, tiny_config

STEPS, BATCH, GROUP, EOS = 40, 32, 4, (3,)
NO_KL = KLConfig(coef=0.0)
PLAIN = {"objective": "reinforce", "clip_eps": None, "num_minibatches": 1}
METHODS = {
    "reinforce": PLAIN | {"advantage": "batch_mean"},
    "rloo": PLAIN | {"advantage": "leave_one_out"},
    "remax": PLAIN | {"advantage": "greedy"},
    "reinforce_pp": {"advantage": "none", "whiten_advantages": True, "loss_aggregation": "token"},
    "grpo": {"kl": KLConfig(coef=0.001, estimator="k3")},
    "dr_grpo": {"advantage": "group_mean", "loss_aggregation": "constant"},
    "dapo": {"clip_eps_high": 0.28, "loss_aggregation": "token"},
    "gspo": {"ratio": "sequence", "clip_eps": 0.02, "clip_eps_high": 0.03},
    "cispo": {"objective": "cispo", "clip_eps": 1.0, "clip_eps_high": 5.0},
    "raft": PLAIN | {"advantage": "best"},
}


def say_seven(made: Completions) -> jax.Array:
    """Share of completion slots that hold token 7."""
    return jnp.mean((made.tokens == 7) & made.mask, axis=1)


def learn(sign: float = 1.0, **changes) -> tuple[float, float]:
    """Train on a token task; mean score of the first and of the last steps."""
    model = make_model(tiny_config(vocab_size=12))
    sampling = SamplingConfig(max_new_tokens=5, temperature=1.0)
    config = GRPOConfig(
        **({"batch_size": BATCH, "samples_per_prompt": GROUP, "num_epochs": 2,
            "num_minibatches": 2, "kl": NO_KL} | changes)
    )  # fmt: skip
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=1e-2, schedule="constant"), num_steps=STEPS
    )
    collect = make_collect(make_act(model, sampling, EOS, 3), make_score(model, sampling, EOS))
    greedily = make_sampler(model, SamplingConfig(max_new_tokens=5, temperature=0.0), EOS, 3)
    update = make_update(model, config, sampling, EOS, optimizer)

    def run(key, keys):
        state = init_state(
            model.init(key), 32, optimizer, critic="none",
            kl_coef=make_kl_controller(config.kl).init(),
        )  # fmt: skip

        def step(state, key):
            prompt_key, sample_key, shuffle_key = jax.random.split(key, 3)
            distinct = jax.random.randint(prompt_key, (BATCH // GROUP, 3), 4, 12)
            tokens = jnp.repeat(distinct, GROUP, axis=0)
            samples = jnp.tile(jnp.arange(GROUP), BATCH // GROUP)
            ids = jnp.repeat(jnp.arange(BATCH // GROUP), GROUP)
            prompts = Prompts(tokens, tokens > 0, ids, samples)
            rollout = collect(state.params, state.ref_params, prompts, sample_key)
            made = rollout.completions
            scores = sign * say_seven(made)
            greedy = None
            if config.advantage == "greedy":
                best = greedily(state.params["policy"], None, prompts, sample_key)
                greedy = sign * say_seven(best)
            state, _ = update(state, rollout, scores.astype(jnp.float32), shuffle_key, greedy)
            return state, jnp.mean(scores) * sign

        return jax.lax.scan(step, state, keys)[1]

    scores = quick_jit(run)(jax.random.key(0), jax.random.split(jax.random.key(1), STEPS))
    return float(np.mean(scores[:3])), float(np.mean(scores[-3:]))


@pytest.mark.parametrize(
    "name",
    [name if name == "grpo" else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
def test_method_learns(name):
    before, after = learn(**METHODS[name])
    assert before < 0.35 and after > 0.6, (before, after)


@pytest.mark.slow
def test_a_broken_sign_fails_the_same_threshold():
    _, after = learn(sign=-1.0, **METHODS["grpo"])
    assert after < 0.1
