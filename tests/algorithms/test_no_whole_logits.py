"""No program of any algorithm holds logits of all tokens at once: walks through the traced ones."""

import functools

import jax
import jax.numpy as jnp
import pytest

from rljax.algorithms import distillation, dpo, grpo, online_dpo, ppo, sft
from rljax.algorithms.actor_critic import init_state, make_act
from rljax.algorithms.learner import init_supervised
from rljax.models.transformer import make_model
from rljax.rollout.distribution import ActionMask, SamplingConfig
from rljax.rollout.scoring import make_score
from rljax.tasks.packing import Packed
from rljax.tasks.preference_batches import PreferenceBatch
from rljax.training.optimizer import OptimizerConfig, make_optimizer
from rljax.types import Completions, Prompts, Rollout
from tests.conftest import tiny_config
from tests.jaxprs import largest_float

VOCABULARY, ROWS, BATCH, PROMPT, NEW = 997, 16, 8, 5, 12
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 8, "num_layers": 1, "num_heads": 2,
         "num_kv_heads": 1, "head_dim": 4, "intermediate_size": 16}  # fmt: skip
MODEL = make_model(tiny_config(**SIZES))
SAMPLING = SamplingConfig(max_new_tokens=NEW, min_new_tokens=2, top_p=0.9)
OPTIMIZER = make_optimizer(OptimizerConfig(), num_steps=9)
RATE = lambda step: jnp.float32(0.1)  # noqa: E731
KEY = jax.eval_shape(lambda: jax.random.key(0))
PARAMS = jax.eval_shape(MODEL.init, KEY)


def array(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


INTS, BOOLS = (functools.partial(array, dtype=kind) for kind in (jnp.int32, bool))
PROMPTS = Prompts(INTS(BATCH, PROMPT), BOOLS(BATCH, PROMPT), INTS(BATCH), INTS(BATCH))
FLOATS = array(BATCH, NEW)


def assert_chunked(function, *arguments) -> None:
    """The largest array of floats is a chunk of logits: neither more, nor never reached."""
    found = largest_float(jax.make_jaxpr(function)(*arguments).jaxpr)
    assert BATCH * VOCABULARY <= found <= ROWS * VOCABULARY, found / VOCABULARY


def completions(masked: bool = False) -> Completions:
    allowed = FLOATS if masked else None
    return Completions(INTS(BATCH, NEW), BOOLS(BATCH, NEW), FLOATS, FLOATS, allowed)


SIZED = {"batch_size": BATCH, "score_rows": ROWS, "num_minibatches": 1}
ON_POLICY = {
    "ppo": ppo.PPOConfig(**SIZED, entropy_coef=0.1),
    "nlpo": ppo.PPOConfig(**SIZED, mask_top_p=0.9),
    "grpo": grpo.GRPOConfig(**SIZED, samples_per_prompt=4, entropy_coef=0.1),
    "online_dpo": online_dpo.OnlineDPOConfig(**SIZED, samples_per_prompt=2),
}


@pytest.mark.parametrize(
    "name",
    ["ppo", "grpo", *(pytest.param(n, marks=pytest.mark.slow) for n in ("nlpo", "online_dpo"))],
)
def test_on_policy_updates(name):
    config = ON_POLICY[name]
    module = {"nlpo": ppo, "ppo": ppo, "grpo": grpo, "online_dpo": online_dpo}[name]
    masked = name == "nlpo"
    state = jax.eval_shape(
        lambda params: init_state(
            params, 8, OPTIMIZER, critic=getattr(config, "critic", "none"),
            kl_coef=jnp.float32(0.1), masked=masked,
        ),
        PARAMS,
    )  # fmt: skip
    hidden = array(BATCH, NEW, 8) if masked else None
    rollout = Rollout(PROMPTS, completions(masked), FLOATS, hidden)
    update = module.make_update(MODEL, config, SAMPLING, (3,), OPTIMIZER)
    assert_chunked(update, state, rollout, array(BATCH), KEY)


def test_whole_logits_would_be_seen():
    config = ppo.PPOConfig(**SIZED | {"score_rows": 1024})
    state = jax.eval_shape(
        lambda params: init_state(
            params, 8, OPTIMIZER, critic="shared", kl_coef=jnp.float32(0.1)
        ),
        PARAMS,
    )  # fmt: skip
    update = ppo.make_update(MODEL, config, SAMPLING, (3,), OPTIMIZER)
    with pytest.raises(AssertionError):
        assert_chunked(update, state, Rollout(PROMPTS, completions(), FLOATS), array(BATCH), KEY)


@pytest.mark.parametrize("group", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_scoring_of_policy_and_reference(group):
    score = make_score(MODEL, SAMPLING, (3,), rows=ROWS, with_entropy=True)
    assert_chunked(lambda *args: score(*args, group=group), PARAMS, PROMPTS, completions())
    mask = ActionMask(top_p=0.9, min_tokens=2)
    act = make_act(MODEL, SAMPLING, (3,), 0, group=group, action_mask=mask)
    assert_chunked(act, {"policy": PARAMS}, PROMPTS, KEY, PARAMS)


PACKED = Packed(INTS(BATCH, NEW), INTS(BATCH, NEW), BOOLS(BATCH, NEW))
SUPERVISED = jax.eval_shape(lambda params: init_supervised({"policy": params}, OPTIMIZER), PARAMS)


def test_fine_tuning():
    config = sft.SFTConfig(batch_size=BATCH, head_rows=ROWS)
    assert_chunked(sft.make_update(MODEL, config, OPTIMIZER, RATE), SUPERVISED, PACKED, KEY)
    assert_chunked(sft.make_evaluate(MODEL, config), SUPERVISED, PACKED)


@pytest.mark.parametrize(
    "loss",
    ["kto", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sigmoid", "orpo", "simpo"))],
)
def test_preferences(loss):
    config = dpo.DPOConfig(batch_size=BATCH // 2, loss=loss, score_rows=ROWS)
    each = (BATCH // 2, 2)
    batch = PreferenceBatch(
        INTS(BATCH // 2, PROMPT), BOOLS(BATCH // 2, PROMPT), INTS(*each, NEW), BOOLS(*each, NEW),
        array(*each), BOOLS(*each), array(BATCH // 2), array(*each), array(BATCH // 2),
    )  # fmt: skip
    assert_chunked(dpo.make_update(MODEL, config, OPTIMIZER, RATE), SUPERVISED, batch, KEY)
    assert_chunked(dpo.make_evaluate(MODEL, config), SUPERVISED, batch)
    score = dpo.make_preference_score(MODEL, ROWS)
    assert_chunked(functools.partial(dpo.sequence_log_probs, score), PARAMS, batch)


@pytest.mark.parametrize("batch", [PACKED, PROMPTS], ids=["data", "samples"])
def test_distillation(batch):
    config = distillation.DistillConfig(batch_size=BATCH, head_rows=ROWS)
    state = distillation.DistillState(*SUPERVISED[:3], PARAMS)
    update = distillation.make_update(
        MODEL, MODEL, config, SAMPLING, (3,), 0, OPTIMIZER, RATE
    )  # fmt: skip
    assert_chunked(update, state, batch, KEY)
    if batch is PACKED:
        assert_chunked(distillation.make_evaluate(MODEL, MODEL, config), state, PACKED)
