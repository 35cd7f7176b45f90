"""The dry run of on-policy training: one batch is sampled, judged and learnt, and all is measured.

B completions, C completion slots, G of each prompt.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.algorithms.metrics import split_tokens
from rljax.doctor.ends import report_ends
from rljax.doctor.findings import Findings
from rljax.doctor.memory import Needs, count, program_needs, report_memory, room
from rljax.doctor.rewards import report_rewards
from rljax.experiment import OnPolicyExperiment
from rljax.rewards.protocol import Judgement
from rljax.rollout.keys import Role, role_key
from rljax.tasks import batch_indices, make_batch
from rljax.tasks.evaluation import decode_completions
from rljax.training.batches import play
from rljax.training.compilation import announce
from rljax.training.fused import batch_order
from rljax.training.on_policy import check_finite
from rljax.training.programs import policies_of
from rljax.training.progress import format_duration
from rljax.training.setup import OnPolicy
from rljax.types import Prompts, Rollout, TrainState


class Judged(NamedTuple):
    """A batch of step 0, with the seconds that it took."""

    rollout: Rollout
    prompts: list[str]
    texts: list[str]
    judgement: Judgement
    seconds: dict[str, float]


def check_policy(config: OnPolicyExperiment, build: Callable[[], OnPolicy]) -> None:
    """Look at everything that a run of `config` needs; print a verdict, exit with 1 if it is bad.

    Nothing is written: no run directory, no checkpoint.
    """
    findings = Findings()
    findings.config(config)
    with findings.catching():
        setup = build()
        state = setup.first_state()
        report_model(findings, setup, state)
        if setup.stage is None:
            _check_batch(findings, setup, state)
        else:
            _check_episodes(findings, setup, state)
    findings.verdict()


def report_model(findings: Findings, setup: OnPolicy, state: TrainState) -> None:
    """Say how many parameters there are, and how many of them are trained."""
    whole = count(setup.pretrained.params)
    trained = count(state.params)
    findings.say(
        "model",
        f"{setup.config.model.source}: {whole:,} parameters; {trained:,} are trained"
        + (f", {trained - whole:,} of them the critic's" if trained > whole else ""),
    )


def longest_batch(setup: OnPolicy) -> tuple[np.ndarray, Prompts]:
    """Draw the prompts of step 0, padded as the longest of all prompts will be."""
    config, algorithm, prompts = setup.config, setup.algorithm, setup.task.train
    distinct = batch_indices(
        0,
        size=len(prompts),
        batch_size=algorithm.batch_size // algorithm.samples_per_prompt,
        seed=config.seed,
    )
    indices = np.repeat(distinct, algorithm.samples_per_prompt)
    width = -(-prompts.max_tokens // config.prompt_multiple) * config.prompt_multiple
    return indices, make_batch(prompts, indices, pad_id=setup.pretrained.pad_token_id, length=width)


def _check_batch(findings: Findings, setup: OnPolicy, state: TrainState) -> None:
    config, task = setup.config, setup.task
    slots, context = config.sampling.max_new_tokens, setup.model.config.context_length
    findings.say(
        "prompts",
        f"the longest of {len(task.train)} has {task.train.max_tokens} tokens; with {slots} of a "
        f"completion {task.train.max_tokens + slots} of a context of {context}",
    )
    indices, prompts = longest_batch(setup)
    available, key = room(), role_key(config.seed, Role.SAMPLING, 0)
    group, policies = setup.algorithm.sampled_group, policies_of(state)
    rows = setup.placement.rows(prompts)
    act, refer = setup.programs.act[group], setup.programs.refer[group]
    made = jax.eval_shape(act, policies, rows, key)
    log_probs, hidden = jax.eval_shape(refer, policies, (rows, made))
    scores = jax.ShapeDtypeStruct((len(indices),), jnp.float32)
    shapes = Rollout(rows, made, log_probs, hidden)
    greedy = [scores] if setup.algorithm.wants_greedy else []
    needs = {
        "sampler": program_needs(act, policies, rows, key, name="the sampler"),
        "reference": program_needs(refer, policies, (rows, made), name="the reference's scoring"),
        "update": _update_needs(setup, state, shapes, scores, greedy),
    }
    if setup.fused is not None:
        needs["fused steps"] = _fused_needs(setup, state)
    if not report_memory(findings, state, needs, available):
        return
    batch = _sample(setup, state, indices, prompts)
    report_rewards(findings, setup, batch.prompts, batch.texts, batch.judgement, indices)
    report_ends(findings, setup, state, batch.rollout)
    fused = None if setup.fused is None else _time_fused(setup, state)
    seconds = batch.seconds | _learn(findings, setup, state, batch)
    report_time(findings, setup, seconds if fused is None else {"fused": fused})


def _update_needs(
    setup: OnPolicy, state: TrainState, rollout: Any, scores: Any, greedy: list[Any]
) -> Needs:
    return program_needs(
        setup.programs.update, state, rollout, scores, jax.random.key(0), *greedy, name="the update"
    )


def _order(setup: OnPolicy) -> Any:
    config, algorithm = setup.config, setup.algorithm
    return batch_order(
        0,
        config.fused_steps,
        size=len(setup.task.train),
        batch_size=algorithm.batch_size,
        group=algorithm.samples_per_prompt,
        seed=config.seed,
    )


def _fused_needs(setup: OnPolicy, state: TrainState) -> Needs:
    assert setup.fused is not None
    arguments = (setup.fused.table, state, 0, 1, _order(setup))
    return program_needs(setup.fused.run, *arguments, name="the fused steps")


def _time_fused(setup: OnPolicy, state: TrainState) -> float:
    """Run two fused steps after a first one; return the seconds of one. The state stays."""
    assert setup.fused is not None
    order = _order(setup)
    for steps in (1, min(2, setup.config.fused_steps)):
        started = time.perf_counter()
        jax.block_until_ready(setup.fused.run(setup.fused.table, state, 0, steps, order))
    return (time.perf_counter() - started) / steps


def _sample(setup: OnPolicy, state: TrainState, indices: np.ndarray, prompts: Prompts) -> Judged:
    """Sample and judge a batch as the first step does; failing rewards do not stop it."""
    group, started = setup.algorithm.sampled_group, time.perf_counter()
    made = setup.act(state, prompts, role_key(setup.config.seed, Role.SAMPLING, 0), group)
    rollout = jax.block_until_ready(setup.rollout(state, prompts, made, group))
    sampled = time.perf_counter()
    texts = decode_completions(setup.tokenizer, rollout.completions)
    lenient = dataclasses.replace(setup.task, max_reward_failures=1.0)
    judgement = lenient.judge(setup.task.train, indices, prompts, rollout.completions, texts)
    seconds = {"sampling": sampled - started, "reward": time.perf_counter() - sampled}
    asked = [setup.task.train.texts[int(i)] for i in indices]
    return Judged(rollout, asked, texts, judgement, seconds)


def _learn(
    findings: Findings, setup: OnPolicy, state: TrainState, batch: Judged
) -> dict[str, float]:
    """Learn a batch; the state is given away. Returns the seconds of what learning needs."""
    seconds, started = {}, time.perf_counter()
    greedy = setup.greedy_scores(state, 0)
    if greedy:
        seconds["greedy completions"] = time.perf_counter() - started
    scores = np.asarray(batch.judgement.scores, np.float32)
    given = setup.update_arguments(state, 0, batch.rollout, scores, *greedy)
    started = time.perf_counter()
    with announce("the update"):
        _, found = setup.programs.update(*given)
    numbers, _ = split_tokens(jax.device_get(found))
    metrics = {name: float(value) for name, value in numbers.items()}
    seconds["update"] = time.perf_counter() - started
    with findings.catching():
        check_finite(metrics, 1)
    _compare_policies(findings, setup, metrics)
    return seconds


def _compare_policies(findings: Findings, setup: OnPolicy, metrics: dict[str, float]) -> None:
    """Compare what sampler and learner think of the first minibatch, as a run's first step does."""
    config = setup.config
    exact = config.model.dtype == "float32" and not config.sampling.coarse
    kind = "gap" if exact else "mean_gap"
    gap = metrics.get(f"health/sampler_logprob_{kind}")
    bound = config.max_ratio_gap if exact else config.max_mean_gap
    if gap is None or setup.config.exploration.mixes:
        return
    word = "largest" if exact else "mean"
    findings.say("agreement", f"sampler and learner: {word} difference {gap:.2g} nats of a token")
    if bound is not None and gap > bound:
        findings.wrong(
            f"sampler and learner differ by {gap:.3g} nats ({word}), more than {bound:g}",
            "a run would stop at its first step and say where (--max-ratio-gap, --max-mean-gap)",
        )


def report_time(findings: Findings, setup: OnPolicy, seconds: dict[str, float]) -> None:
    """Say what a step takes, and the whole run without compilation and evaluations."""
    total, steps = sum(seconds.values()), setup.config.steps
    parts = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    what = "two fused steps after a first one" if "fused" in seconds else "one real step"
    findings.say(
        "time",
        f"{total:.2f} s a step, measured on {what} at the longest prompt ({parts}); {steps} steps "
        f"take about {format_duration(total * steps)}, with as many tokens in each",
    )


def _check_episodes(findings: Findings, setup: OnPolicy, state: TrainState) -> None:
    """Play the first batch of episodes; the update is measured at what they came to."""
    assert setup.stage is not None
    for _ in range(2):  # the first one compiles
        batch = play(setup, setup.stage, state, 0)
    rollout, scores = batch.rollout, jnp.asarray(batch.scores)
    mask = np.asarray(rollout.completions.mask)
    findings.say(
        "episodes",
        f"the longest first observation has {int(np.max(np.sum(rollout.prompts.mask, axis=1)))} "
        f"tokens; conversations fill {int(np.max(np.sum(mask, axis=1)))} of "
        f"{setup.config.sampling.max_new_tokens} slots",
    )
    rows = setup.placement.rows((rollout, scores))
    available = room()
    needs = {"update": _update_needs(setup, state, rows[0], rows[1], [])}
    if not report_memory(findings, state, needs, available):
        return
    failed = ~np.isfinite(batch.scores)
    judgement = Judgement(batch.scores, (), {})
    report_rewards(findings, setup, batch.prompts, batch.texts, judgement, None)
    if np.any(failed):
        findings.say("", f"{int(np.sum(failed))} episodes failed")
    report_ends(findings, setup, state, rollout)
    judged = Judged(rollout, batch.prompts, batch.texts, judgement, batch.seconds)
    report_time(findings, setup, batch.seconds | _learn(findings, setup, state, judged))
