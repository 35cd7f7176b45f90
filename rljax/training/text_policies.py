"""Make the policies that a script's flags name: language models, and those of `rljax.policies`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rljax.algorithms.batch import OnPolicyConfig
from rljax.models import Pretrained
from rljax.policies.loading import load_text_policy
from rljax.rollout.distribution import SamplingConfig
from rljax.specs import SpecError, construct, split_spec
from rljax.tasks.config import TaskConfig
from rljax.tasks.language import TextPolicy
from rljax.tasks.task import Task, stop_token_ids, text_encoder
from rljax.training.language_policy import LanguageModelPolicy
from rljax.training.policies import PolicyFlags, load_model, load_policy

MODEL, REFERENCE, RUN = "model", "reference", "run"


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What a spec may set of a language model besides its sampling."""

    chat: bool = False
    """Ask through the model's chat template."""
    system_prompt: str | None = None
    """System message of the chat."""
    checkpoint: str = "last"
    """Of `run:DIRECTORY`: last, best, or a step."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where policies act: the task, how it is asked, and how models sample."""

    task: Task
    config: TaskConfig
    sampling: SamplingConfig
    main: Pretrained | None
    """What `model` names; its tokens are those that the task's prompts were cut by."""
    reference: str | None
    rules: OnPolicyConfig = OnPolicyConfig()
    batch_size: int = 32
    multiple: int = 16
    seed: int = 0


def is_model(spec: str) -> bool:
    """Say whether a spec names a language model."""
    return spec.partition("?")[0].partition(":")[0] in (MODEL, REFERENCE, RUN)


def make_text_policies(specs: Sequence[str], setting: Setting) -> dict[str, TextPolicy]:
    """Make every policy, by its spec.

    Language models are 'model', 'reference', 'model:SOURCE' (what `load_model` takes) and
    'run:DIRECTORY', each with settings of the sampling, `chat`, `system_prompt` and `checkpoint`:
    'model?temperature=0', 'model:smollm2-135m-instruct?chat=true'. The others are those of
    `load_text_policy`. Raises UserError before anything has acted.
    """
    language, train = setting.task.language, setting.task.examples

    @functools.cache
    def baselines() -> Mapping[str, TextPolicy]:
        return language.baselines(train) if language is not None and train else {}

    return {
        spec: _make_model(spec, setting)
        if is_model(spec)
        else load_text_policy(spec, train, baselines)
        for spec in specs
    }


def _make_model(spec: str, setting: Setting) -> LanguageModelPolicy:
    full, texts = split_spec(spec)
    what = f"the policy {spec!r}"
    others = {field.name for field in dataclasses.fields(_Asked)} & set(texts)
    sampled = set(texts) - others
    drawn = construct(SamplingConfig, {name: texts[name] for name in sampled}, what=what)
    given = construct(_Asked, {name: texts[name] for name in others}, what=what)
    asked = {name: getattr(given, name) for name in others - {"checkpoint"}}
    kind, _, source = full.partition(":")
    if "checkpoint" in others and kind != RUN:
        raise SpecError(f"{what}: checkpoint is of 'run:DIRECTORY'")
    pretrained = _load(kind, source, given.checkpoint, setting)
    try:
        config = dataclasses.replace(setting.config, **asked)
        changes = {name: getattr(drawn, name) for name in sampled}
        sampling = dataclasses.replace(setting.sampling, **changes)
        sampling.validate()
        sampling.require_queue(setting.batch_size)
    except ValueError as error:
        raise SpecError(f"{what}: {error}") from error
    return LanguageModelPolicy(
        pretrained,
        sampling,
        _encoder(pretrained, config, sampling, setting),
        stop_token_ids=stop_token_ids(config, pretrained.tokenizer),
        rules=setting.rules,
        batch_size=setting.batch_size,
        multiple=setting.multiple,
        seed=setting.seed,
    )


def _load(kind: str, source: str, checkpoint: str, setting: Setting) -> Pretrained:
    if kind == RUN:
        if not source:
            raise SpecError("the policy 'run' needs a directory: run:DIRECTORY")
        which: Any = int(checkpoint) if checkpoint.isdecimal() else checkpoint
        if which not in ("last", "best") and not isinstance(which, int):
            raise SpecError(f"checkpoint is {checkpoint!r}; it must be last, best or a step")
        return load_policy(PolicyFlags(run=source, checkpoint=which)).pretrained
    if kind == MODEL and not source:
        if setting.main is None:
            raise SpecError("the policy 'model' is that of --model or --run: give one of them")
        return setting.main
    if kind == REFERENCE:
        if source or setting.reference is None:
            raise SpecError(
                "the policy 'reference' is what --reference names, or what --run started from: "
                "give one of them; another model is 'model:SOURCE'"
            )
        source = setting.reference
    return load_model(source)


def _encoder(
    pretrained: Pretrained, config: TaskConfig, sampling: SamplingConfig, setting: Setting
) -> Callable[[str], Sequence[int]]:
    """Make text -> tokens; the task's own prompts are what they were cut to."""
    room = pretrained.model.config.context_length - sampling.max_new_tokens
    encode = text_encoder(config, pretrained.tokenizer, setting.task.shots, limit=room)
    main, held_out = setting.main, setting.task.held_out
    same = main is not None and main.tokenizer.get_vocab() == pretrained.tokenizer.get_vocab()
    if not same or config != setting.config:
        return encode
    known = dict(zip(held_out.texts, held_out.tokens, strict=True))
    return lambda text: known.get(text) or encode(text)
