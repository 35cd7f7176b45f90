"""What an on-policy run consists of: model, task, compiled functions; nothing that changes in it.

An algorithm is its `make_update` and a config; what all of them share is here.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rljax.algorithms.actor_critic import init_state
from rljax.algorithms.batch import init_entropy_coef
from rljax.errors import UserError
from rljax.experiment import OnPolicyExperiment
from rljax.kl import make_kl_controller
from rljax.models.flops import forward_flops
from rljax.models.precision import cast_matrices, masters
from rljax.models.trainable import make_trainable
from rljax.rewards.combined import require_token_rewards
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.keys import Role, role_key
from rljax.tasks import (
    batch_indices,
    make_batch,
    make_task,
    read_prompts,
    stop_token_ids,
    token_tables,
)
from rljax.tasks.evaluation import Evaluation, decode_completions, evaluate
from rljax.tasks.sources import Rows
from rljax.training import processes
from rljax.training.compilation import announce
from rljax.training.episodes import Stage, evaluate_episodes, make_talking_programs
from rljax.training.fused import Fused
from rljax.training.judging import FirstJudges
from rljax.training.mesh import Placement, host_memory, make_layout
from rljax.training.optimizer import make_optimizer, make_schedule
from rljax.training.overlap import ahead_shapes
from rljax.training.policies import build_model, load_start
from rljax.training.processes import to_host
from rljax.training.programs import Acting, make_programs, policies_of
from rljax.training.throughput import matmul_rate
from rljax.types import Completions, Prompts, Rollout, TrainState


class OnPolicy:
    """Everything that does not change during a run: model, task and compiled functions.

    Args:
      config: the experiment.
      make_update: (model, algorithm, sampling, eos_token_ids, optimizer, compose, shown) ->
        update.
      critic: where values come from.
      mesh: the devices; None: one.
    """

    def __init__(
        self,
        config: OnPolicyExperiment,
        make_update: Callable[..., Any],
        critic: Literal["shared", "separate", "none"],
        mesh: Mesh | None = None,
    ) -> None:
        algorithm = config.algorithm
        self.config, self.algorithm, self.critic = config, algorithm, critic
        self.make_update = make_update
        if config.fused_steps:
            require_token_rewards(config.task.rewards)
        plays = config.environment.name is not None
        found = None if plays else read_prompts(config.task)  # what is wrong costs no loading
        with host_memory(mesh):
            self.pretrained = load_start(config)
        self.model = build_model(config.model, self.pretrained)
        self.placement = Placement(make_layout(mesh, self.model.config))
        mask, vocabulary = algorithm.action_mask, self.model.config.vocab_size
        if mask is not None and mask.min_tokens >= vocabulary:
            raise UserError(
                f"mask_min_tokens is {mask.min_tokens}, but the model has only {vocabulary} "
                "tokens: nothing would be masked; lower it"
            )
        target = algorithm.target_entropy
        if target is not None and target >= np.log(vocabulary):
            raise UserError(
                f"target_entropy is {target} nats, but tokens of a vocabulary of {vocabulary} "
                f"have at most {np.log(vocabulary):.3f}: lower it"
            )
        self.tokenizer = self.pretrained.tokenizer
        self.stage: Stage | None = None
        if found is not None:
            self._open_task(found)
        else:
            self.stage = Stage(config, self.pretrained)
            self.ends = self.stage.ends
        self.learning_rate = make_schedule(config.optimizer, num_steps=config.steps)
        self.trainable = make_trainable(config.lora, config.train_layers)
        self._build()
        self.fused = Fused(self) if config.fused_steps else None

    def _open_task(self, found: Rows) -> None:
        """Encode the prompts that were read, and load the rewards."""
        config = self.config
        room = self.model.config.context_length - config.sampling.max_new_tokens
        self.task = make_task(config.task, self.tokenizer, max_prompt_tokens=room, found=found)
        if processes.count() > 1:
            self.task = dataclasses.replace(self.task, reward=FirstJudges(self.task.reward))
        self.ends = (
            *self.pretrained.eos_token_ids,
            *stop_token_ids(config.task, self.tokenizer),
        )
        print(self.task.summary)
        if config.eval_prompts > len(self.task.held_out):
            raise UserError(
                f"eval_prompts is {config.eval_prompts}, but only {len(self.task.held_out)} "
                "prompts are held out: lower it, or raise --task.held-out-fraction"
            )

    def _build(self) -> None:
        """Build what depends on the config's numbers."""
        config, algorithm = self.config, self.algorithm
        updates = algorithm.num_epochs * algorithm.num_minibatches
        self.optimizer = make_optimizer(
            config.optimizer, num_steps=config.steps, updates_per_step=updates
        )
        acting = Acting(
            self.model, config.sampling, algorithm, self.ends, self.pretrained.pad_token_id,
            self.trainable.compose, config.exploration, config.steps,
        )  # fmt: skip
        self.programs = make_programs(
            acting, self._make_update(), self.placement, self.state_shapes
        )
        if self.stage is not None:
            self.talking = make_talking_programs(acting, config.environment.max_turn_tokens)

    def _make_update(self) -> Callable[..., Any]:
        """Build the algorithm's update; where the sampling moves, with that of the state's step."""
        config = self.config

        def made(sampling: SamplingConfig) -> Callable[..., Any]:
            return self.make_update(
                self.model, self.algorithm, sampling, self.ends, self.optimizer,
                self.trainable.compose, shown=self.shown,
            )  # fmt: skip

        def update(state: TrainState, *rest: Any) -> Any:
            sampling, _ = config.exploration.at(config.sampling, state.step, config.steps)
            return made(sampling)(state, *rest)

        return update if config.exploration.scheduled else made(config.sampling)

    @property
    def shown(self) -> int:
        """Completions of a batch that are stored with numbers of each token."""
        return min(self.config.log_completions, token_tables.ROWS)

    def with_numbers(self, config: OnPolicyExperiment, params: Any) -> OnPolicy:
        """Return the same with other numbers in its config and other parameters to start from.

        Both may be traced: a program over many runs gets them as arguments.
        """
        other = copy.copy(self)
        other.config, other.algorithm = config, config.algorithm
        other.pretrained = dataclasses.replace(self.pretrained, params=params)
        other._build()
        return other

    def act(
        self, state: TrainState, prompts: Prompts, key: jax.Array, group: int = 1
    ) -> Completions:
        """Sample completions of the policy, masked where there is a masking policy.

        group: 1, or the algorithm's where so many rows in turn have one prompt.
        """
        return to_host(
            self.programs.act[group](policies_of(state), self.placement.rows(prompts), key)
        )

    def act_exactly(self, state: TrainState, prompts: Prompts, key: jax.Array) -> Completions:
        """Sample as `act` does, never in 8 bits or exploring: what is evaluated is the policy."""
        rows = self.placement.rows(prompts)
        return to_host(self.programs.act_exactly(policies_of(state), rows, key))

    def act_greedily(self, state: TrainState, prompts: Prompts) -> Completions:
        """Write the policy's most probable completions, token by token."""
        rows = self.placement.rows(prompts)
        return to_host(self.programs.act_greedily(policies_of(state), rows, jax.random.key(0)))

    def rollout(
        self, state: TrainState, prompts: Prompts, made: Completions, group: int = 1
    ) -> Rollout:
        """Add to completions what the reference thinks of them, under the same mask."""
        text = self.placement.rows((prompts, made))
        log_probs, mask_hidden = to_host(self.programs.refer[group](policies_of(state), text))
        return Rollout(prompts, made, log_probs, mask_hidden)

    def refer_exactly(self, state: TrainState, prompts: Prompts, made: Completions) -> jax.Array:
        """Score completions of `act_exactly` with the reference: [B, C]."""
        text = self.placement.rows((prompts, made))
        return to_host(self.programs.refer_exactly(policies_of(state), text)[0])

    def log_probs(self, state: TrainState, rollout: Rollout) -> jax.Array:
        """Score completions [B, C] as the learner does, with the policy of this state."""
        rows = self.placement.rows(rollout)
        return to_host(self.programs.log_probs(policies_of(state), rows))

    def first_state(self) -> TrainState:
        """Make the state of step 0."""
        return self.placement.make(self._state_of, self.pretrained.params)

    def state_shapes(self) -> TrainState:
        """Say of which shapes a state is, and where its arrays stand."""
        return self.placement.like(jax.eval_shape(self._state_of, self.pretrained.params))

    def _state_of(self, params: Any) -> TrainState:
        policy, base = self.trainable.split(params, jax.random.key(self.config.seed))
        whole = policy is base
        return init_state(
            policy if whole else masters(policy),
            self.model.config.hidden_size,
            self.optimizer,
            critic=self.critic,
            kl_coef=make_kl_controller(self.algorithm.kl).init(),
            base=None if whole else base,
            masked=self.algorithm.action_mask is not None,
            frozen_dtype=self.frozen_dtype,
            entropy_coef=init_entropy_coef(self.algorithm),
        )

    def saved_shapes(self) -> TrainState:
        """Say of which shapes the state of a checkpoint is."""
        shapes = self.state_shapes()
        if self.config.overlap:
            shapes = shapes._replace(ahead=ahead_shapes(self.config))
        return self.saved_part(shapes)

    @property
    def frozen_dtype(self) -> Any:
        """What copies of the policy are held in; None: as the policy is.

        A reference that moves by small steps has to add them up, as the policy has to. Adapters
        are small, and what they stand on was loaded as it is held.
        """
        moves = self.algorithm.ref_sync_every > 0
        return self.model.dtype if self.config.trains_all and not moves else None

    def start_reference(self) -> Any:
        """Return the reference of step 0, for a state that was saved without it."""
        return self.placement.put(cast_matrices(self.pretrained.params, self.frozen_dtype))

    def saved_part(self, state: TrainState) -> TrainState:
        """Leave out of checkpoints what the config gives back: a reference that never moves."""
        return state if self.algorithm.ref_sync_every else state._replace(ref_params={})

    def training_batch(self, step: int) -> tuple[np.ndarray, Prompts]:
        """Draw the prompts of a step: a pure function of seed and step."""
        c, prompts = self.config, self.task.train
        distinct = batch_indices(
            step,
            size=len(prompts),
            batch_size=self.algorithm.batch_size // self.algorithm.samples_per_prompt,
            seed=c.seed,
        )
        indices = np.repeat(distinct, self.algorithm.samples_per_prompt)
        pad = self.pretrained.pad_token_id
        return indices, make_batch(prompts, indices, pad_id=pad, multiple=c.prompt_multiple)

    def evaluate(self, state: TrainState) -> Evaluation:
        """Judge the policy on the held-out prompts, with the same noise every time."""
        if self.stage is not None:
            return evaluate_episodes(self, self.stage, state)
        key = role_key(self.config.seed, Role.EVALUATION)
        with announce("the sampler"):
            return evaluate(
                lambda batch: self.act_exactly(state, batch, key),
                lambda *batch: self.refer_exactly(state, *batch),
                self.task,
                self.task.held_out,
                np.arange(self.config.eval_prompts),
                tokenizer=self.tokenizer,
                pad_id=self.pretrained.pad_token_id,
                batch_size=self.algorithm.batch_size,
                multiple=self.config.prompt_multiple,
            )

    def greedy_scores(self, state: TrainState, step: int) -> tuple[jax.Array, ...]:
        """Judge the greedy completions of a step's prompts, [B]; nothing where not asked for."""
        if not self.algorithm.wants_greedy:
            return ()
        group = self.algorithm.samples_per_prompt
        indices, prompts = self.training_batch(step)
        one_each = jax.tree.map(lambda x: x[::group], prompts)
        with announce("the greedy sampler"):
            made = self.act_greedily(state, one_each)
        texts = decode_completions(self.tokenizer, made)
        judged = self.task.judge(self.task.train, indices[::group], one_each, made, texts)
        return (jnp.repeat(jnp.asarray(judged.scores), group),)

    def update_arguments(
        self, state: TrainState, step: int, rollout: Rollout, scores: Any, *more: jax.Array
    ) -> tuple[Any, ...]:
        """Return what the update of a step is called with, standing where it reads it.

        scores: [B] float32; more: the scores of the greedy completions, where it reads them.
        """
        rows = self.placement.rows((rollout, jnp.asarray(scores), *more))
        key = role_key(self.config.seed, Role.SHUFFLING, step)
        return (state._replace(ahead=None), *rows[:2], key, *rows[2:])

    def step_flops(self, prompt_slots: int, slots: float) -> float:
        """Count the operations of a step: sampling, reference, and the update's passes.

        slots: completion slots that scoring and update compute, on average; sampling is counted as
        if it wrote all.
        """
        model, batch = self.model.config, self.algorithm.batch_size
        prompts = batch // self.algorithm.sampled_group
        read = forward_flops(
            model, prompts * prompt_slots, attended=prompt_slots / 2, head_tokens=0,
            last_tokens=prompts,
        )  # fmt: skip

        def forward(new: float, head: bool) -> float:
            attended, tokens = prompt_slots + new / 2, batch * new
            written = forward_flops(
                model, tokens, attended=attended, head_tokens=tokens if head else 0
            )
            return read + written

        policy, critic = forward(slots, True), forward(slots, False)
        own = self.critic == "separate"
        masked = self.algorithm.action_mask is not None
        passes = 3 * self.algorithm.num_epochs
        masking = 2 * policy + self.algorithm.num_epochs * (policy - critic)  # the head again
        # of a mixture, the sampler itself says what the policy thinks of it
        mixes = self.config.exploration.mixes
        weighted = self.algorithm.importance_cap is not None and not mixes
        sampled = forward(self.config.sampling.max_new_tokens, True)
        learnt = (1 + weighted) * policy + own * critic + passes * (policy + own * critic)
        return sampled + learnt + masked * masking

    @functools.cached_property
    def peak(self) -> float:
        """FLOP/s of a matrix product on this machine, measured once."""
        return matmul_rate(jnp.dtype(self.config.model.dtype))

    def rates(
        self, step: int, seconds: dict[str, float], *, tokens: float, width: int, slots: float
    ) -> dict[str, float]:
        """Describe how a step went: its learning rate, the seconds of its parts, its speed.

        tokens: real tokens of its completions; width: prompt slots; slots: as `step_flops`'.
        """
        config = self.config
        explored = {name: float(x) for name, x in self.exploration_metrics(step).items()}
        total, flops = sum(seconds.values()), self.step_flops(width, slots)
        return (
            explored
            | {f"time/{part}_s": value for part, value in seconds.items()}
            | {
                "optim/learning_rate": float(self.learning_rate(step))
                * config.optimizer.learning_rate,
                "perf/tokens_per_s": tokens / total,
                "perf/model_flops_utilisation": flops / total / self.peak,
            }
        )

    def exploration_metrics(self, step: jax.Array | int) -> dict[str, jax.Array]:
        """Say what the sampling of a step has, of what is scheduled."""
        config = self.config
        numbers = config.exploration.numbers(config.sampling, step, config.steps)
        return {f"exploration/{name}": value for name, value in numbers.items()}
