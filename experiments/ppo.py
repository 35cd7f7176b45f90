"""PPO on a language model, from a config to a report. `--help` lists every flag.

    python experiments/ppo.py
    python experiments/ppo.py --config configs/ppo_sentiment.py:smoke --workdir /tmp/run
    python experiments/ppo.py --task.prompts mine.jsonl --task.reward mine.py:score --seed 1

Starting again with the same --workdir goes on where the run stopped.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.algorithms import ppo
from rljax.algorithms.actor_critic import init_state, make_act
from rljax.algorithms.metrics import rollout_kl
from rljax.errors import UserError
from rljax.experiment import PPOExperiment
from rljax.kl import make_kl_controller
from rljax.models import make_model
from rljax.models.flops import forward_flops
from rljax.reporting.statistics import bootstrap_mean, bootstrap_paired_difference
from rljax.rollout.agreement import check_ratio, check_start_kl
from rljax.rollout.keys import Role, role_key
from rljax.rollout.scoring import make_score
from rljax.tasks import batch_indices, make_batch, make_task
from rljax.tasks.evaluation import Evaluation, decode_completions, evaluate
from rljax.training.checkpoint import Checkpoints
from rljax.training.compilation import CompileCounter, announce, enable_compilation_cache
from rljax.training.config_json import config_to_json, flatten_config
from rljax.training.flags import parse_config, plain_errors
from rljax.training.optimizer import make_optimizer, make_schedule
from rljax.training.policies import load_model
from rljax.training.progress import Progress
from rljax.training.run import Run, open_run
from rljax.training.throughput import matmul_rate
from rljax.training.writer import MetricsWriter
from rljax.types import Completions, Prompts, Rollout, TrainState


class Setup:
    """Everything that does not change during a run: model, task and compiled functions."""

    def __init__(self, config: PPOExperiment) -> None:
        self.config = config
        self.pretrained = load_model(config.model.source, config.model.dtype)
        self.model = make_model(
            self.pretrained.model.config,
            remat=config.model.remat,
            scan_layers=config.model.scan_layers,
        )
        self.tokenizer = self.pretrained.tokenizer
        room = self.model.config.context_length - config.sampling.max_new_tokens
        self.task = make_task(config.task, self.tokenizer, max_prompt_tokens=room)
        print(self.task.summary)
        if config.eval_prompts > len(self.task.held_out):
            raise UserError(
                f"eval_prompts is {config.eval_prompts}, but only {len(self.task.held_out)} "
                "prompts are held out: lower it, or raise --task.held-out-fraction"
            )
        eos, pad = self.pretrained.eos_token_ids, self.pretrained.pad_token_id
        updates = config.ppo.num_epochs * config.ppo.num_minibatches
        self.optimizer = make_optimizer(
            config.optimizer, num_steps=config.steps, updates_per_step=updates
        )
        self.learning_rate = make_schedule(config.optimizer, num_steps=config.steps)
        act = make_act(
            self.model,
            config.sampling,
            eos,
            pad,
            truncate_token=config.ppo.truncate_token,
            truncate_after=config.ppo.truncate_after,
        )
        score = make_score(self.model, config.sampling, eos, rows=config.ppo.score_rows)
        update = ppo.make_update(self.model, config.ppo, config.sampling, eos, self.optimizer)
        self.act = jax.jit(act)
        self.score = jax.jit(lambda params, *batch: score(params, *batch).log_probs)
        self.update = jax.jit(update, donate_argnums=0)
        self.sync_reference = jax.jit(ppo.sync_reference, static_argnums=1, donate_argnums=0)

    def first_state(self) -> TrainState:
        """Make the state of step 0."""
        return init_state(
            self.pretrained.params,
            self.model.config.hidden_size,
            self.optimizer,
            critic=self.config.ppo.critic,
            kl_coef=make_kl_controller(self.config.ppo.kl).init(),
        )

    def training_batch(self, step: int) -> tuple[np.ndarray, Prompts]:
        """Draw the prompts of a step: a pure function of seed and step."""
        c, prompts = self.config, self.task.train
        distinct = batch_indices(
            step,
            size=len(prompts),
            batch_size=c.ppo.batch_size // c.ppo.samples_per_prompt,
            seed=c.seed,
        )
        indices = np.repeat(distinct, c.ppo.samples_per_prompt)
        pad = self.pretrained.pad_token_id
        return indices, make_batch(prompts, indices, pad_id=pad, multiple=c.prompt_multiple)

    def evaluate(self, state: TrainState) -> Evaluation:
        """Judge the policy on the held-out prompts, with the same noise every time."""
        key = role_key(self.config.seed, Role.EVALUATION)
        with announce("the sampler"):
            return evaluate(
                lambda batch: self.act(state.params, batch, key),
                lambda *batch: self.score(state.ref_params, *batch),
                self.task,
                self.task.held_out,
                np.arange(self.config.eval_prompts),
                tokenizer=self.tokenizer,
                pad_id=self.pretrained.pad_token_id,
                batch_size=self.config.ppo.batch_size,
                multiple=self.config.prompt_multiple,
            )

    def step_flops(self, prompt_slots: int) -> float:
        """Count the operations of a step: sampling, reference, and the update's passes."""
        c, model = self.config, self.model.config
        length = prompt_slots + c.sampling.max_new_tokens
        completion = c.ppo.batch_size * c.sampling.max_new_tokens
        forward = forward_flops(
            model, c.ppo.batch_size * length, attended=length / 2, head_tokens=completion
        )
        critic = forward_flops(model, c.ppo.batch_size * length, attended=length / 2, head_tokens=0)
        own = c.ppo.critic == "separate"
        return 2 * forward + own * critic + 3 * c.ppo.num_epochs * (forward + own * critic)


def saved_part(config: PPOExperiment, state: TrainState) -> TrainState:
    """Leave out of checkpoints what the config alone gives back: a reference that never moves."""
    return state if config.ppo.ref_sync_every else state._replace(ref_params={})


def first_step_checks(setup: Setup, state: TrainState, rollout: Rollout, texts: list[str]) -> None:
    """Stop before anything is learnt if sampler, learner or reference disagree."""
    config = setup.config
    if config.model.dtype != "float32":
        return
    if config.max_ratio_gap is not None:
        scored = setup.score(state.params["policy"], rollout.prompts, rollout.completions)
        check_ratio(rollout.completions, scored, tolerance=config.max_ratio_gap, texts=texts)
    if config.max_start_kl is not None and int(state.step) == 0:
        check_start_kl(float(rollout_kl(rollout)), tolerance=config.max_start_kl)


def check_finite(metrics: dict[str, float], step: int) -> None:
    """Raise UserError if the update gave a NaN or an infinity."""
    for name in ("policy/loss", "value/loss", "optim/grad_norm"):
        if not np.isfinite(metrics[name]):
            raise UserError(
                f"{name} is {metrics[name]} at step {step}: the update broke the policy, which is "
                "not saved. Lower --optimizer.learning-rate, or look at the scores of this step "
                "in completions.jsonl; the last checkpoint is intact"
            )


def completion_rows(
    setup: Setup, indices: np.ndarray, rollout: Rollout, texts: list[str], scores: np.ndarray
) -> list[dict[str, Any]]:
    """Make the rows of the completions table: the first of the batch."""
    made = rollout.completions
    kl = np.sum(np.asarray(made.log_probs) - np.asarray(rollout.ref_log_probs), axis=1)
    lengths = np.sum(made.mask, axis=1)
    return [
        {
            "prompt": setup.task.train.texts[int(indices[row])],
            "completion": texts[row],
            "score": float(scores[row]),
            "kl": float(kl[row]),
            "tokens": int(lengths[row]),
        }
        for row in range(min(setup.config.log_completions, len(texts)))
    ]


def log_evaluation(writer: MetricsWriter, step: int, result: Evaluation) -> None:
    """Write an evaluation's means and its first completions."""
    interval = bootstrap_mean(result.scores)
    writer.scalars(
        step,
        {
            "eval/scores": interval.mean,
            "eval/scores_low": interval.low,
            "eval/scores_high": interval.high,
            "eval/kl": float(np.mean(result.kl)),
            "eval/length": float(np.mean(result.lengths)),
            "eval/reward_failures": result.failures,
        },
    )
    rows = [
        {"prompt": prompt, "completion": text, "score": float(score), "kl": float(kl)}
        for prompt, text, score, kl in zip(
            result.prompts, result.completions, result.scores, result.kl, strict=True
        )
    ]
    writer.completions(step, [{"held_out": True, **row} for row in rows], name="eval/completions")


def report(before: np.ndarray, after: Evaluation, directory: Path) -> None:
    """Print and save how the held-out score changed, with a paired bootstrap interval."""
    change = bootstrap_paired_difference(before, after.scores)
    start, end = bootstrap_mean(before), bootstrap_mean(after.scores)
    result = {
        "prompts": len(before),
        "score_before": start._asdict(),
        "score_after": end._asdict(),
        "change": change._asdict(),
        "kl": float(np.mean(after.kl)),
    }
    (directory / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"held-out score, {len(before)} prompts, 95% bootstrap intervals:")
    for name, row in (("before", start), ("after", end), ("change", change)):
        print(f"  {name:<7}{row.mean:+.3f}  [{row.low:+.3f}, {row.high:+.3f}]")
    print(f"  KL from the reference {np.mean(after.kl):.2f} nats per completion")
    for prompt, text, score in list(
        zip(after.prompts, after.completions, after.scores, strict=True)
    )[:5]:
        print(f"  {score:+.2f}  {prompt!r} -> {text!r}")


def train(setup: Setup, run: Run) -> None:
    """Run the steps that are left, then judge and report."""
    config = setup.config
    checkpoints = Checkpoints(run.checkpoint_dir, keep_last=config.keep_checkpoints)
    held: dict[str, Any] = {"before": None}
    sizes: dict[str, int] | None = None
    like = saved_part(config, jax.eval_shape(setup.first_state))
    found = checkpoints.restore(like) if run.resumed else None
    if found is None:
        state = setup.first_state()
    else:
        _, restored, held = found
        sizes = held.pop("files")
        reference = restored.ref_params or setup.pretrained.params
        state = restored._replace(ref_params=reference)
        print(f"resumed {run.directory} at step {int(state.step)}")
    start = int(state.step)
    writer = MetricsWriter(run.directory, resume_step=start if found else None, sizes=sizes)
    with checkpoints, writer, CompileCounter() as compiled, Progress(config.steps, start) as bar:
        if found is None:
            writer.config_text(config_to_json(config))
            writer.hparams(flatten_config(config), ["objective/scores", "objective/kl"])
            if config.eval_prompts:
                result = setup.evaluate(state)
                log_evaluation(writer, 0, result)
                held["before"] = result.scores.tolist()
        peak = matmul_rate(jnp.dtype(config.model.dtype))
        for step in range(start, config.steps):
            try:
                state, metrics = one_step(setup, state, step, writer, first=step == start)
            except UserError:
                save(setup, checkpoints, state, step, held, writer, None)  # nothing is lost
                raise
            seconds = sum(metrics[f"time/{part}_s"] for part in ("rollout", "reward", "update"))
            slots = metrics.pop("prompt_slots")
            metrics["perf/model_flops_utilisation"] = setup.step_flops(int(slots)) / seconds / peak
            metrics["perf/compile_count"] = compiled.count
            done = step + 1
            writer.scalars(done, metrics)
            bar.update(done, score=metrics["objective/scores"], KL=metrics["objective/kl"])
            check_finite(metrics, done)
            if config.eval_every and done % config.eval_every == 0 and done < config.steps:
                log_evaluation(writer, done, setup.evaluate(state))
            last = done == config.steps or run.should_stop
            if last or done % config.checkpoint_every == 0:
                save(setup, checkpoints, state, done, held, writer, metrics["objective/scores"])
            if run.should_stop and done < config.steps:
                print(f"stopped at step {done}; the same command resumes")
                return
        if config.eval_prompts:
            result = setup.evaluate(state)
            log_evaluation(writer, config.steps, result)
            report(np.asarray(held["before"], np.float32), result, run.directory)


def save(
    setup: Setup,
    checkpoints: Checkpoints,
    state: TrainState,
    step: int,
    held: dict[str, Any],
    writer: MetricsWriter,
    score: float | None,
) -> None:
    """Save the state of a step, after its metrics are on disk."""
    files = writer.flush()
    checkpoints.save(step, saved_part(setup.config, state), {**held, "files": files}, score=score)


def one_step(
    setup: Setup, state: TrainState, step: int, writer: MetricsWriter, *, first: bool
) -> tuple[TrainState, dict[str, float]]:
    """Sample, judge, learn: one batch of completions."""
    config = setup.config
    indices, prompts = setup.training_batch(step)
    started = time.perf_counter()
    with announce("the sampler"):
        key = role_key(config.seed, Role.SAMPLING, step)
        made: Completions = setup.act(state.params, prompts, key)
    with announce("the reference's scoring"):
        ref_log_probs = setup.score(state.ref_params, prompts, made)
    rollout = jax.block_until_ready(Rollout(prompts, made, ref_log_probs))
    sampled = time.perf_counter()
    texts = decode_completions(setup.tokenizer, made)
    judgement = setup.task.judge(setup.task.train, indices, prompts, made, texts)
    scores = judgement.scores
    judged = time.perf_counter()
    if first:
        first_step_checks(setup, state, rollout, texts)
    writer.completions(step + 1, completion_rows(setup, indices, rollout, texts, scores))
    if judgement.judged.size:
        writer.histogram(step + 1, "objective/scores", judgement.judged)
    writer.histogram(step + 1, "completion/length", np.sum(made.mask, axis=1))
    update_started = time.perf_counter()
    with announce("the update"):
        state, report = setup.update(
            state, rollout, jnp.asarray(scores), role_key(config.seed, Role.SHUFFLING, step)
        )
    if config.ppo.ref_sync_every and (step + 1) % config.ppo.ref_sync_every == 0:
        state = setup.sync_reference(state, config.ppo.ref_sync_mix)
    metrics = {name: float(value) for name, value in jax.device_get(report).items()}
    ended = time.perf_counter()
    rate = float(setup.learning_rate(step)) * config.optimizer.learning_rate
    seconds = (sampled - started) + (judged - sampled) + (ended - update_started)
    metrics |= judgement.metrics()
    metrics |= {
        "optim/learning_rate": rate,
        "time/rollout_s": sampled - started,
        "time/reward_s": judged - sampled,
        "time/update_s": ended - update_started,
        "perf/tokens_per_s": float(np.sum(made.mask)) / seconds,
        "prompt_slots": prompts.tokens.shape[1],
    }
    return state, metrics


def main(argv: list[str] | None = None) -> None:
    config = parse_config("configs/ppo_sentiment.py", argv, PPOExperiment, __doc__ or "")
    with plain_errors():
        enable_compilation_cache()
        changeable = ("workdir", "steps", "checkpoint_every", "keep_checkpoints", "log_completions")
        with open_run(config.workdir, config, ignore=changeable, name="ppo") as run:
            print(f"run directory: {run.directory}")
            train(Setup(config), run)


if __name__ == "__main__":
    main()
