"""Episodes of a text environment as the batches of a run, and its held-out ones as evaluation.

B episodes of a batch, G of each seed, C slots of a conversation after its first observation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from rljax import compiler
from rljax.algorithms.actor_critic import critic_values
from rljax.environments import HELD_OUT_SEEDS, load_environment
from rljax.models import Pretrained
from rljax.rollout.buckets import map_by_length
from rljax.rollout.episodes import (
    Played,
    Pool,
    Table,
    episode_report,
    require_alike,
    require_scores,
)
from rljax.rollout.keys import Role, role_key
from rljax.rollout.turns import Talking, make_talking
from rljax.tasks.conversation import make_speaker
from rljax.tasks.evaluation import Evaluation
from rljax.tasks.task import single_token
from rljax.tasks.token_tables import ROWS, make_tables
from rljax.tasks.token_tables import Table as TokenTable
from rljax.training.compilation import announce
from rljax.training.programs import Acting, policies_of
from rljax.types import Completions, Prompts, Rollout, TrainState

if TYPE_CHECKING:
    from rljax.experiment import OnPolicyExperiment
    from rljax.training.setup import OnPolicy

LARGEST_SEED = 2**31 - 1


class Stage:
    """What episodes are played with: environments, and how observations are said.

    Raises UserError where the environment cannot be made, and for a model without the chat
    template, or the one stop token, that the flags ask for.
    """

    def __init__(self, config: OnPolicyExperiment, pretrained: Pretrained) -> None:
        acting, tokenizer = config.environment, pretrained.tokenizer
        assert acting.name is not None
        stop = single_token(acting.stop_token, tokenizer, "environment.stop_token")
        self.ends = (*pretrained.eos_token_ids, *stop)
        self.table = Table(
            pool=Pool(load_environment(acting.name)),
            config=acting,
            speaker=make_speaker(acting, tokenizer, pretrained.eos_token_ids),
            decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=True),
            pad_token_id=pretrained.pad_token_id,
            slots=config.sampling.max_new_tokens,
            context=pretrained.model.config.context_length,
            prompt_multiple=config.prompt_multiple,
        )
        print(
            f"{acting.name}: episodes of up to {acting.max_turns} turns; seeds below "
            f"{HELD_OUT_SEEDS:,} are held out"
        )


class TalkingPrograms(NamedTuple):
    """The compiled functions of conversations."""

    talking: dict[int, Talking]
    """By rows that share a first observation, 1 or the algorithm's; `prepare` takes policies."""
    values: Any
    """(policies, (prompts, completions)) -> the values of a critic with its own trunk [B, C]."""


def make_talking_programs(acting: Acting, max_turn_tokens: int) -> TalkingPrograms:
    """Compile (when they are first called) the functions of conversations."""
    settings = (acting.model, acting.sampling, acting.ends, acting.pad_token_id)

    def made(group: int) -> Talking:
        return make_talking(*settings, max_turn_tokens=max_turn_tokens, group=group)

    plain = made(1)

    def prepare(policies: Any) -> Any:
        params = acting.complete(policies)[0]
        return plain.prepare(params["policy"], params.get("value_head"))

    def values(policies: Any, text: tuple[Prompts, Completions]) -> jax.Array:
        params = acting.complete(policies)[0]
        group = acting.algorithm.sampled_group

        def value(prompts: Prompts, made: Completions) -> jax.Array:
            return critic_values(acting.model, params, prompts, made, None, group)

        return map_by_length(value, *text, text[1].real, acting.algorithm.buckets, group)

    compiled = plain._replace(
        prepare=compiler.jit(prepare),
        start=compiler.jit(plain.start),
        write=compiler.jit(plain.write, donate_argnums=1),
        read=compiler.jit(plain.read, donate_argnums=1),
    )
    talking = {1: compiled}
    group = acting.algorithm.sampled_group
    if group > 1:
        talking[group] = compiled._replace(start=compiler.jit(made(group).start))
    return TalkingPrograms(talking, compiler.jit(values))


def training_seeds(seed: int, draw: int, count: int) -> np.ndarray:
    """Draw the seeds [count] of a batch's episodes: a pure function of the run's seed and `draw`.

    None of them is that of a held-out episode.
    """
    generator = np.random.default_rng((seed, draw))
    return generator.integers(HELD_OUT_SEEDS, LARGEST_SEED, size=count)


def play_batch(
    setup: OnPolicy, stage: Stage, state: TrainState, draw: int
) -> tuple[Played, Rollout]:
    """Play the episodes of a batch, G of each seed; `draw` numbers the batches of a run."""
    algorithm = setup.algorithm
    group, shared = algorithm.samples_per_prompt, algorithm.sampled_group
    seeds = training_seeds(setup.config.seed, draw, algorithm.batch_size // group)
    rows = [int(seed) for seed in np.repeat(seeds, group)]
    samples = np.arange(len(rows)) % group
    key = role_key(setup.config.seed, Role.SAMPLING, draw)
    played = _play(setup, stage, state, rows, samples, key, shared)
    require_alike(played.episodes, group)
    made = played.made
    if setup.critic == "separate":
        text = (played.prompts, made)
        made = made._replace(values=setup.talking.values(policies_of(state), text))
    with announce("the reference's scoring"):
        rollout = setup.rollout(state, played.prompts, made, shared)
    return played, rollout._replace(turn_rewards=played.turn_rewards)


def _play(
    setup: OnPolicy, stage: Stage, state: TrainState, seeds: Any, samples: Any, key: Any, group: int
) -> Played:
    talking = setup.talking.talking[group]
    with announce("the sampler"):
        prepared = talking.prepare(policies_of(state))
        return stage.table.play(talking, prepared, seeds, samples, key)


def evaluate_episodes(setup: OnPolicy, stage: Stage, state: TrainState) -> Evaluation:
    """Judge the policy on the first held-out seeds, with the same noise every time.

    The last batch is filled up with episodes whose results are dropped.
    """
    config, size = setup.config, setup.algorithm.batch_size
    key = role_key(config.seed, Role.EVALUATION)
    episodes, kls, lengths = [], [], []
    tables: list[TokenTable] = []
    for start in range(0, config.eval_prompts, size):
        seeds = list(range(start, min(start + size, config.eval_prompts)))
        filled = [int(seed) for seed in np.resize(seeds, size)]
        played = _play(setup, stage, state, filled, np.zeros(size), key, 1)
        reference = setup.rollout(state, played.prompts, played.made).ref_log_probs
        if not start:
            rows = min(ROWS, len(seeds))
            tables = make_tables(setup.tokenizer, played.made, reference, rows)
        mask = np.asarray(played.made.mask)
        gaps = np.asarray(played.made.log_probs) - np.asarray(reference)
        kls.append(np.sum(np.where(mask, gaps, 0), axis=1)[: len(seeds)])
        lengths.append(np.sum(mask, axis=1)[: len(seeds)])
        episodes += played.episodes[: len(seeds)]
    require_scores(episodes, config.environment.max_failures)
    return Evaluation(
        prompts=[episode.first for episode in episodes],
        completions=[episode.text() for episode in episodes],
        scores=np.asarray([episode.score for episode in episodes], np.float32),
        components={},
        kl=np.concatenate(kls),
        lengths=np.concatenate(lengths),
        tables=tuple(tables),
        report=episode_report(episodes),
    )
