"""Sample and judge the batch of a step, and refill it where groups teach nothing.

B completions of a batch, G of each prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.group_advantages import informative_groups
from rljax.rollout.episodes import episode_metrics, require_scores
from rljax.rollout.keys import Role, role_key
from rljax.tasks.evaluation import decode_completions
from rljax.training.compilation import announce
from rljax.training.episodes import Stage, play_batch
from rljax.types import Rollout, TrainState

if TYPE_CHECKING:
    from rljax.training.setup import OnPolicy


Meanwhile = Callable[[Rollout], None]
"""Gets the batch that is being sampled."""


class Sampled(NamedTuple):
    """A batch that was sampled, or is being sampled on the devices."""

    indices: np.ndarray
    """[B]: which prompts of the training set."""
    rollout: Rollout


class Collected(NamedTuple):
    """A batch that was sampled and judged."""

    rollout: Rollout
    prompts: list[str]
    texts: list[str]
    scores: np.ndarray
    """[B] float32; NaN where the reward failed."""
    judged: dict[str, float]
    """What the rewards say of themselves: each one's mean, and failures."""
    seconds: dict[str, float]
    samples: int
    """Completions that were sampled for it."""


def sample(setup: OnPolicy, state: TrainState, draw: int) -> Sampled:
    """Have a batch sampled, and scored by the reference; `draw` numbers the batches of a run.

    With one process this returns at once, and the devices go on: parameters that are donated
    meanwhile are only overwritten when they are done.
    """
    indices, prompts = setup.training_batch(draw)
    group = setup.algorithm.sampled_group
    with announce("the sampler"):
        key = role_key(setup.config.seed, Role.SAMPLING, draw)
        made = setup.act(state, prompts, key, group)
    with announce("the reference's scoring"):
        return Sampled(indices, setup.rollout(state, prompts, made, group))


def judge(setup: OnPolicy, sampled: Sampled) -> Collected:
    """Judge a batch; the only time it knows is that of the rewards."""
    indices, rollout = sampled
    started = time.perf_counter()
    texts = decode_completions(setup.tokenizer, rollout.completions)
    judgement = setup.task.judge(
        setup.task.train, indices, rollout.prompts, rollout.completions, texts
    )
    seconds = {"reward": time.perf_counter() - started}
    asked = [setup.task.train.texts[int(i)] for i in indices]
    return Collected(
        rollout, asked, texts, judgement.scores, judgement.metrics(), seconds, len(texts)
    )


def sample_and_judge(
    setup: OnPolicy, state: TrainState, draw: int, meanwhile: Meanwhile | None = None
) -> Collected:
    """Sample and judge one batch, one after the other; or play one of episodes.

    meanwhile: what the host does while the devices sample; not with episodes, which need the host.
    """
    if setup.stage is not None:
        return play(setup, setup.stage, state, draw)
    started = time.perf_counter()
    sampled = sample(setup, state, draw)
    if meanwhile is not None:
        meanwhile(sampled.rollout)
    jax.block_until_ready(sampled)
    seconds = {"rollout": time.perf_counter() - started}
    batch = judge(setup, sampled)
    return batch._replace(seconds=seconds | batch.seconds)


def play(setup: OnPolicy, stage: Stage, state: TrainState, draw: int) -> Collected:
    """Play a batch of episodes, which the environments judge as they go."""
    started = time.perf_counter()
    played, rollout = jax.block_until_ready(play_batch(setup, stage, state, draw))
    total = time.perf_counter() - started
    require_scores(played.episodes, setup.config.environment.max_failures)
    return Collected(
        rollout,
        [episode.first for episode in played.episodes],
        [episode.text() for episode in played.episodes],
        played.scores,
        episode_metrics(played.episodes),
        {"rollout": total - played.seconds, "reward": played.seconds},
        len(played.episodes),
    )


def collect(
    setup: OnPolicy, state: TrainState, step: int, meanwhile: Meanwhile | None = None
) -> Collected:
    """Sample and judge the batch of a step; refill it while groups of equal scores are in it.

    Refilling is DAPO's dynamic sampling: informative groups are kept in the order they came, up to
    `dynamic_sampling` further batches; what is still missing is filled with the others. meanwhile:
    see `sample_and_judge`.
    """
    extra = setup.algorithm.further_batches
    batches = [sample_and_judge(setup, state, step * (extra + 1), meanwhile)]
    if not extra:
        return batches[0]
    group, size = setup.algorithm.samples_per_prompt, setup.algorithm.batch_size
    informative = _informative(batches[0].scores, group)
    while len(batches) <= extra and np.sum(informative) * group < size:
        batches.append(sample_and_judge(setup, state, step * (extra + 1) + len(batches)))
        informative = np.concatenate([informative, _informative(batches[-1].scores, group)])
    if len(batches) == 1:
        return batches[0]
    order = np.argsort(~informative, kind="stable")[: size // group]
    rows = (order[:, None] * group + np.arange(group)).reshape(-1)
    return _take_rows(batches, rows)


def _informative(scores: np.ndarray, group: int) -> np.ndarray:
    """Say which groups hold two different scores; failed ones (NaN) do not count."""
    good = ~np.isnan(scores)
    return np.asarray(informative_groups(jnp.asarray(scores), jnp.asarray(good), group_size=group))


def _take_rows(batches: list[Collected], rows: np.ndarray) -> Collected:
    """Pick rows of several batches, as if they stood below each other; prompts are re-padded."""
    width = max(batch.rollout.prompts.tokens.shape[1] for batch in batches)

    def widen(rollout: Rollout) -> Rollout:
        room = ((0, 0), (width - rollout.prompts.tokens.shape[1], 0))
        prompts = rollout.prompts
        return rollout._replace(
            prompts=prompts._replace(
                tokens=np.pad(prompts.tokens, room, mode="edge"), mask=np.pad(prompts.mask, room)
            )
        )

    widened = [widen(batch.rollout) for batch in batches]
    rollout = jax.tree.map(lambda *parts: np.concatenate(parts)[rows], *widened)
    prompts = [text for batch in batches for text in batch.prompts]
    texts = [text for batch in batches for text in batch.texts]
    seconds = {name: sum(batch.seconds[name] for batch in batches) for name in batches[0].seconds}
    return Collected(
        rollout,
        [prompts[row] for row in rows],
        [texts[row] for row in rows],
        np.concatenate([batch.scores for batch in batches])[rows],
        _means([batch.judged for batch in batches]),
        seconds,
        sum(batch.samples for batch in batches),
    )


def _means(judged: list[dict[str, float]]) -> dict[str, float]:
    """Average what the batches say of their rewards; a batch may be silent on one that failed."""
    names = {name for one in judged for name in one}
    return {name: float(np.mean([one[name] for one in judged if name in one])) for name in names}
