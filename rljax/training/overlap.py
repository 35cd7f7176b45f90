"""Sample the next batch while the host judges this one: one step off-policy.

Step k judges and learns batch k, which was sampled with the parameters before update k - 1. The
sampling of batch k + 1 is given to the devices first, with the parameters before update k, and runs
while the host computes the rewards of batch k; update k comes after both. So does what the weights
need, batch k's log-probabilities under these parameters. A step then takes max(sampling, rewards) +
update instead of their sum. Only batch 0 is on-policy.

The batch that is sampled ahead is a part of the state and stands in checkpoints: a run that goes on
learns the very batch that it would have learnt. Hence a run samples one batch more than it learns.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import jax

from rljax.tasks.evaluation import decode_completions
from rljax.training.batches import Collected, Sampled, judge, sample
from rljax.training.first_step import check_first_step
from rljax.types import Ahead, Rollout, TrainState

if TYPE_CHECKING:
    from rljax.experiment import OnPolicyExperiment
    from rljax.training.setup import OnPolicy


def check_loop(config: OnPolicyExperiment) -> None:
    """Raise ValueError where fused_steps, overlap or measure_variance cannot be had."""
    algorithm = config.algorithm
    if algorithm.measure_variance and max(config.mesh.fsdp, config.mesh.tensor) > 1:
        raise ValueError(
            f"measure_variance needs devices that hold all parameters: mesh.fsdp is "
            f"{config.mesh.fsdp} and mesh.tensor {config.mesh.tensor}; set both to 1, or leave it"
        )
    if config.fused_steps and algorithm.further_batches:
        raise ValueError(
            f"fused_steps {config.fused_steps} needs batches of one sampling each: set "
            "dynamic_sampling to 0, or leave out fused_steps"
        )
    if not config.overlap:
        return
    several = config.mesh.distributed or config.mesh.by_hand
    rules = {
        "fused_steps": (config.fused_steps, "has no rewards on the host to overlap with"),
        "dynamic_sampling": (algorithm.further_batches, "samples more once a batch is judged"),
        "advantage greedy": (algorithm.wants_greedy, "samples more when a batch is judged"),
        "mask_top_p": (algorithm.action_mask, "has a masking policy, which may have moved by then"),
        "exploration": (
            config.exploration.scheduled or config.exploration.mixes,
            "is of the step that learns, not of the one that sampled",
        ),
        "a mesh of several processes": (several, "exchanges rewards in the middle of sampling"),
    }
    for flag, (given, reason) in rules.items():
        if given:
            raise ValueError(f"overlap does not go with {flag}, which {reason}: leave one out")
    if not algorithm.allows_stale:
        raise ValueError(
            "overlap learns from what was sampled one update ago, which has to be weighted: set "
            "importance_cap (2 is usual)"
        )


def staleness(step: int) -> int:
    """Count the updates between the policy that sampled a step's batch and the one that learns."""
    return min(step, 1)


def ahead_shapes(config: OnPolicyExperiment) -> Ahead:
    """Say of which shapes the batch is that was sampled ahead."""
    shape = (config.algorithm.batch_size, config.sampling.max_new_tokens)
    tokens, mask, numbers = (
        jax.ShapeDtypeStruct(shape, dtype) for dtype in ("int32", "bool", "float32")
    )
    return Ahead(tokens, mask, numbers, numbers, numbers)


def keep(rollout: Rollout) -> Ahead:
    """Take what a checkpoint has to hold of a batch: its prompts follow from seed and step."""
    made = rollout.completions
    return Ahead(made.tokens, made.mask, made.log_probs, made.values, rollout.ref_log_probs)


def sample_first(setup: OnPolicy, state: TrainState) -> TrainState:
    """Sample the first batch of a run into its state."""
    first = sample(setup, state, int(state.step))
    return state._replace(ahead=keep(jax.block_until_ready(first.rollout)))


def collect_ahead(
    setup: OnPolicy, state: TrainState, step: int, *, first: bool
) -> tuple[Collected, Ahead]:
    """Judge the batch of a step, sampled ahead, while the devices sample the next one: both.

    The time of the rollout is what the host waits for it, after the rewards. first: compare sampler
    and learner on the next batch, which this state's policy samples.
    """
    assert state.ahead is not None  # the loop has seen to it
    indices, prompts = setup.training_batch(step)
    rollout = state.ahead.rollout(prompts)
    started = time.perf_counter()
    if setup.algorithm.importance_cap is not None:  # the update would compute it, with no reward
        rollout = rollout._replace(proximal_log_probs=setup.log_probs(state, rollout))
    following = sample(setup, state, step + 1).rollout
    if first:
        texts = decode_completions(setup.tokenizer, following.completions)
        check_first_step(setup, state, following, texts)
    batch = judge(setup, Sampled(indices, rollout))
    jax.block_until_ready(following)
    reward = batch.seconds["reward"]
    waited = time.perf_counter() - started - reward
    return batch._replace(seconds={"rollout": waited, "reward": reward}), keep(following)
