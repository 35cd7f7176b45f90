"""The typed configs of the experiment scripts: what to train, on what, how, how long.

A file under configs/ holds one of these as `config`; every field is a flag of the script.
"""

from __future__ import annotations

import abc
import dataclasses

from rljax.algorithms.batch import OnPolicyConfig
from rljax.algorithms.distillation import DistillConfig
from rljax.algorithms.dpo import DPOConfig
from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.online_dpo import OnlineDPOConfig
from rljax.algorithms.ppo import PPOConfig
from rljax.algorithms.reward_model import RewardModelConfig
from rljax.algorithms.sft import SFTConfig
from rljax.environments.config import EnvironmentConfig
from rljax.models.flags import ModelConfig
from rljax.models.lora import LoRAConfig
from rljax.models.scratch import ArchitectureConfig, parse_tokenizer
from rljax.models.trainable import make_trainable
from rljax.rollout.agreement import check_bounds
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.exploration import ExplorationConfig
from rljax.tasks import TaskConfig
from rljax.tasks.documents import DocumentConfig
from rljax.tasks.preferences import PreferenceConfig
from rljax.training.acting import check_environment
from rljax.training.alarms import AlarmConfig
from rljax.training.mesh import MeshConfig
from rljax.training.optimizer import OptimizerConfig, make_schedule
from rljax.training.overlap import check_loop

CHANGEABLE = (
    "workdir", "steps", "checkpoint_every", "keep_checkpoints", "log_completions", "mesh",
    "alarms",
)  # fmt: skip
"""Fields that may change when a run is resumed."""


@dataclasses.dataclass(frozen=True)
class OnPolicyExperiment(abc.ABC):
    """Training on the policy's own completions: model, data, reward, optimizer and length."""

    model: ModelConfig = ModelConfig()
    task: TaskConfig = TaskConfig()
    environment: EnvironmentConfig = EnvironmentConfig()
    sampling: SamplingConfig = SamplingConfig()
    exploration: ExplorationConfig = ExplorationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    lora: LoRAConfig = LoRAConfig()
    alarms: AlarmConfig = AlarmConfig()
    train_layers: int = 0
    """Train only so many upper layers and the final norm; 0: all. The reference is then the frozen
    model, without a second copy, as it is with lora."""
    steps: int = 40
    """Training steps: one batch of completions each."""
    seed: int = 0
    """Of the data order, the sampling and the minibatches."""
    workdir: str | None = None
    """The run's directory; a run of the same config in it is resumed. None: runs/NAME-DATE-TIME."""
    eval_prompts: int = 128
    """Held-out prompts judged before and after training, never trained on; 0: no evaluation."""
    eval_every: int = 0
    """Steps between evaluations on the way; 0: only before and after."""
    prompt_multiple: int = 16
    """Prompts are left-padded to a multiple of this many tokens: few shapes, few compilations."""
    checkpoint_every: int = 10
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Latest checkpoints kept, besides the best."""
    log_completions: int = 8
    """Completions of each batch written to completions.jsonl and TensorBoard."""
    max_ratio_gap: float | None = 1e-4
    """Largest |ratio - 1| between sampler and learner at the first step of a run in float32; a
    larger one stops the run. None: only logged. Of a sampler in 8 bits, whose tokens differ by
    more, the KL must be below 0.1 nats per token instead."""
    max_start_kl: float | None = 1e-5
    """Largest |KL| in nats per token from the reference at step 0 in float32. None: off."""
    max_mean_gap: float | None = 0.1
    """The same in bfloat16, whose rounding moves single tokens by tenths of a nat: largest mean
    over tokens of the difference in log-probs, in nats, of sampler and learner at the first step of
    a run, and at step 0 of sampler and reference (SmolLM2-135M: 0.03). None: off."""
    fused_steps: int = 0
    """Run up to so many steps, from sampling to update, as one compiled program, with the same
    numbers; metrics, evaluations and checkpoints come between these programs. For small models,
    whose steps are short; needs token rewards. 0: one step after the other."""
    overlap: bool = False
    """Sample the next batch while the host judges this one, for rewards that are slow there: what
    is learnt was sampled one update ago, and is weighted (importance_cap)."""

    @property
    def trains_all(self) -> bool:
        """Whether every parameter of the model is trained."""
        return not (self.lora.rank or self.train_layers)

    @property
    @abc.abstractmethod
    def algorithm(self) -> OnPolicyConfig:
        """The part of the experiment that is the algorithm's."""

    def validate(self) -> None:
        """Raise ValueError for combinations that cannot work."""
        for name in ("steps", "prompt_multiple", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("eval_prompts", "eval_every", "log_completions", "fused_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        check_loop(self)
        check_environment(self)
        make_schedule(self.optimizer, num_steps=self.steps)
        check_bounds(self, self.model.dtype)
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature is 0 (greedy): the policy has to sample")
        self.sampling.require_queue(self.algorithm.batch_size)
        self.exploration.check(self.sampling, self.steps)
        self.algorithm.check_sampler(self.sampling, mixed=self.exploration.mixes)
        if self.eval_prompts and self.task.held_out_fraction == 0:
            raise ValueError(
                "eval_prompts needs held-out prompts: set task.held_out_fraction above 0, "
                "or eval_prompts to 0"
            )
        if self.eval_every and not self.eval_prompts:
            raise ValueError("eval_every needs eval_prompts above 0")
        make_trainable(self.lora, self.train_layers)
        algorithm = self.algorithm
        self.mesh.check_rows(*algorithm.pass_rows)
        algorithm.buckets.require_slots(self.sampling.max_new_tokens)
        if algorithm.wants_greedy:
            prompts = algorithm.batch_size // algorithm.samples_per_prompt
            self.mesh.check_rows(prompts, "the prompts of a batch, each completed greedily too,")
        if algorithm.ref_sync_every and (self.lora.rank or self.train_layers):
            raise ValueError(
                f"ref_sync_every {algorithm.ref_sync_every} moves the reference, which with lora "
                "or train_layers is the frozen model itself: set it to 0, or train all parameters"
            )


@dataclasses.dataclass(frozen=True)
class PPOExperiment(OnPolicyExperiment):
    """PPO on a task."""

    ppo: PPOConfig = PPOConfig()

    @property
    def algorithm(self) -> PPOConfig:
        """The part of the experiment that is the algorithm's."""
        return self.ppo

    def validate(self) -> None:
        """Raise ValueError for combinations that cannot work."""
        super().validate()
        if self.ppo.critic_warmup_steps >= self.steps:
            raise ValueError(
                f"ppo.critic_warmup_steps {self.ppo.critic_warmup_steps} leaves none of the "
                f"{self.steps} steps for the policy"
            )


@dataclasses.dataclass(frozen=True)
class GRPOExperiment(OnPolicyExperiment):
    """Policy gradients without a critic on a task."""

    grpo: GRPOConfig = GRPOConfig()

    @property
    def algorithm(self) -> GRPOConfig:
        """The part of the experiment that is the algorithm's."""
        return self.grpo

    def validate(self) -> None:
        """Raise ValueError for combinations that cannot work."""
        super().validate()
        if self.grpo.overlong_buffer > self.sampling.max_new_tokens:
            raise ValueError(
                f"grpo.overlong_buffer {self.grpo.overlong_buffer} is more than the "
                f"{self.sampling.max_new_tokens} completion tokens"
            )


@dataclasses.dataclass(frozen=True)
class OnlineDPOExperiment(OnPolicyExperiment):
    """DPO on pairs of the policy's own completions, preferred by the task's reward."""

    online_dpo: OnlineDPOConfig = OnlineDPOConfig()

    @property
    def algorithm(self) -> OnlineDPOConfig:
        """The part of the experiment that is the algorithm's."""
        return self.online_dpo


ON_POLICY: dict[str, type[OnPolicyConfig]] = {
    "ppo": PPOConfig,
    "grpo": GRPOConfig,
    "online_dpo": OnlineDPOConfig,
}
"""Where the config of an on-policy run keeps its algorithm's part."""


@dataclasses.dataclass(frozen=True)
class SupervisedExperiment:
    """What every supervised stage has: model, optimizer, length, evaluation, checkpoints."""

    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    lora: LoRAConfig = LoRAConfig()
    train_layers: int = 0
    """Train only so many upper layers, the final norm, and a reward model's head; 0: all."""
    steps: int = 100
    """Training steps: one optimizer update each."""
    seed: int = 0
    """Of the data order, and of whatever else is drawn."""
    workdir: str | None = None
    """The run's directory; a run of the same config in it is resumed. None: runs/NAME-DATE-TIME."""
    eval_batches: int | None = 8
    """Held-out batches judged at an evaluation, at most; None: all there are; 0: no evaluation."""
    eval_every: int = 0
    """Steps between evaluations on the way; 0: only before and after."""
    checkpoint_every: int = 50
    """Steps between checkpoints; the last step is always saved, and so is a new best one."""
    keep_checkpoints: int = 2
    """Latest checkpoints kept, besides the one with the lowest held-out loss."""

    @property
    def trains_all(self) -> bool:
        """Whether every parameter of the model is trained."""
        return not (self.lora.rank or self.train_layers)

    @property
    def judges(self) -> bool:
        """Whether there is any evaluation."""
        return self.eval_batches is None or self.eval_batches > 0

    def validate(self) -> None:
        """Raise ValueError for combinations that cannot work."""
        for name in ("steps", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name, value in (("eval_every", self.eval_every), ("eval_batches", self.eval_batches)):
            if value is not None and value < 0:
                raise ValueError(f"{name} is {value}; it must be at least 0")
        make_schedule(self.optimizer, num_steps=self.steps)
        if self.eval_every and not self.judges:
            raise ValueError("eval_every needs eval_batches above 0, or None for all")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be at least 0")
        make_trainable(self.lora, self.train_layers)

    def require_even_rows(self, name: str) -> None:
        """Raise ValueError unless the mesh divides the batch of the stage's part called `name`."""
        part = getattr(self, name)
        rows = part.batch_size // part.gradient_accumulation
        self.mesh.check_rows(rows, f"{name}.batch_size / {name}.gradient_accumulation")

    def require_held_out(self, what: str, fraction: float) -> None:
        """Raise ValueError for an evaluation without anything held out."""
        if self.judges and fraction == 0:
            raise ValueError(
                f"evaluation needs held-out {what}: set data.held_out_fraction above 0, or "
                "eval_batches to 0"
            )


@dataclasses.dataclass(frozen=True)
class TextExperiment(SupervisedExperiment):
    """Next-token learning on texts: supervised fine-tuning of a checkpoint."""

    data: DocumentConfig = DocumentConfig()
    sft: SFTConfig = SFTConfig()

    def validate(self) -> None:
        """Raise ValueError for combinations that cannot work."""
        super().validate()
        self.require_even_rows("sft")
        self.require_held_out("records", self.data.held_out_fraction)


SCRATCH = "scratch"


@dataclasses.dataclass(frozen=True)
class PretrainExperiment(TextExperiment):
    """Next-token learning from scratch.

    model.source is "scratch" (the sizes are those of `architecture`), or a config.json, or a
    directory with one, whose weights are not read.
    """

    model: ModelConfig = ModelConfig(source=SCRATCH)
    architecture: ArchitectureConfig = ArchitectureConfig()
    tokenizer: str = "bpe:4096"
    """'bytes', 'bpe:SIZE' (trained on the data to train on), or a model whose tokenizer is taken
    (a directory, a hub id, a .gguf file or a short name)."""

    def validate(self) -> None:
        """Raise ValueError for combinations that cannot work."""
        super().validate()
        parse_tokenizer(self.tokenizer)
        if not self.trains_all:
            flag = f"lora.rank {self.lora.rank}" if self.lora.rank else "train_layers"
            raise ValueError(
                f"{flag} keeps the rest of the model as it is, which from scratch is noise: "
                "pretrain all of it, then adapt the run with experiments/sft.py --model.source RUN"
            )
        if self.model.source != SCRATCH and self.architecture != ArchitectureConfig():
            raise ValueError(
                f"model.source is {self.model.source!r}, which gives the sizes: the flags of "
                f"architecture need model.source {SCRATCH!r}"
            )
        if (
            self.model.source == SCRATCH
            and self.data.sequence_length > self.architecture.context_length
        ):
            raise ValueError(
                f"data.sequence_length {self.data.sequence_length} is more than "
                f"architecture.context_length {self.architecture.context_length}"
            )


@dataclasses.dataclass(frozen=True)
class DistillExperiment(SupervisedExperiment):
    """Distillation of a teacher into a student, which is `model`."""

    teacher: ModelConfig = ModelConfig()
    """The model to learn from; it has the student's vocabulary."""
    data: DocumentConfig = DocumentConfig()
    distill: DistillConfig = DistillConfig()
    sampling: SamplingConfig = SamplingConfig(temperature=1.0)
    """How the student samples its own batches."""
    alarms: AlarmConfig = AlarmConfig()
    prompt_multiple: int = 16
    """Prompts of sampled batches are left-padded to a multiple of this many tokens."""

    def validate(self) -> None:
        """Raise ValueError for combinations that cannot work."""
        super().validate()
        if self.prompt_multiple < 1:
            raise ValueError(f"prompt_multiple is {self.prompt_multiple}; it must be at least 1")
        self.require_even_rows("distill")
        self.require_held_out("records", self.data.held_out_fraction)
        if self.teacher.remat != "none":
            raise ValueError("teacher.remat saves memory in a backward pass; the teacher has none")
        if self.distill.on_policy_fraction == 0 and (
            self.sampling != SamplingConfig(temperature=1.0)
        ):
            raise ValueError(
                "the flags of sampling are those of the student's own batches: they need "
                "distill.on_policy_fraction above 0"
            )
        self.sampling.require_queue(self.distill.batch_size)
        self.distill.buckets.require_slots(self.sampling.max_new_tokens)


@dataclasses.dataclass(frozen=True)
class _PreferenceData(SupervisedExperiment):
    """A stage that learns from preferences."""

    data: PreferenceConfig = PreferenceConfig()

    def validate(self) -> None:
        """Raise ValueError for combinations that cannot work."""
        super().validate()
        self.require_held_out("prompts", self.data.held_out_fraction)


@dataclasses.dataclass(frozen=True)
class PreferenceExperiment(_PreferenceData):
    """DPO and its relatives on preferences."""

    dpo: DPOConfig = DPOConfig()
    reference: str | None = None
    """The model that log-ratios are relative to, with the policy's tokenizer; None: model.source,
    the policy as it starts. Read once, before training."""

    def validate(self) -> None:
        """Raise ValueError for combinations that cannot work."""
        super().validate()
        self.require_even_rows("dpo")
        if self.reference is not None and not self.dpo.needs_reference:
            raise ValueError(f"reference is set, but dpo.loss {self.dpo.loss!r} reads none")


@dataclasses.dataclass(frozen=True)
class RewardExperiment(_PreferenceData):
    """A reward model on preferences, rankings, scores or labels."""

    reward_model: RewardModelConfig = RewardModelConfig()

    def validate(self) -> None:
        """Raise ValueError for combinations that cannot work."""
        super().validate()
        self.require_even_rows("reward_model")
