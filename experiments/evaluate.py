"""Judge a policy beside its reference, on the same held-out prompts with the same noise.

    python experiments/evaluate.py --run runs/ppo-20260101-120000
    python experiments/evaluate.py --run runs/ppo-20260101-120000 --checkpoint best --json best.json
    python experiments/evaluate.py --model my-model --reference smollm2-135m-instruct

A run is judged beside the model it started from, on its own task (a supervised run on that of the
flags); the flags of task and sampling then start from the run's, and the run may be going on.
Intervals are 95% bootstrap intervals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import tyro

from rljax.algorithms.actor_critic import make_act
from rljax.algorithms.batch import OnPolicyConfig
from rljax.algorithms.checks import require_positive
from rljax.environments.config import EnvironmentConfig
from rljax.errors import UserError
from rljax.experiment import ON_POLICY, ModelConfig
from rljax.models import Pretrained
from rljax.reporting.files import write_json
from rljax.reporting.statistics import (
    Interval,
    bootstrap_mean,
    bootstrap_paired_difference,
    most_common_words,
    text_statistics,
)
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.keys import Role, role_key
from rljax.rollout.scoring import make_score
from rljax.tasks import Task, TaskConfig, make_task, stop_token_ids
from rljax.tasks.evaluation import Evaluation, evaluate
from rljax.training.compilation import announce, enable_compilation_cache
from rljax.training.config_json import config_to_json
from rljax.training.flags import plain_errors, validate
from rljax.training.policies import Policy, PolicyFlags, load_model, load_policy
from rljax.training.run import read_part
from rljax.training.trained import MODEL_FOLDER
from rljax.types import Completions, Prompts


@dataclasses.dataclass(frozen=True)
class Evaluate(PolicyFlags):
    """Judge a policy beside its reference on held-out prompts."""

    reference: str | None = None
    """The model to compare with, of the same vocabulary; None: what the run started from."""
    num_prompts: int = 128
    """Held-out prompts, from the first on."""
    batch_size: int = 32
    """Prompts completed at once."""
    prompt_multiple: int = 16
    """Prompts are left-padded to a multiple of this many tokens."""
    examples: int = 5
    """Completions shown side by side."""
    json: str | None = None
    """File to write every number and every completion to."""
    seed: int = 0
    """Of the sampling; with a run, the run's: its own evaluations are repeated exactly, but for
    the action mask of NLPO, which they have and the policy alone has not."""
    task: TaskConfig = TaskConfig()
    sampling: SamplingConfig = SamplingConfig()

    def validate(self) -> None:
        """Raise ValueError for values that mean nothing."""
        super().validate()
        require_positive(self, ("num_prompts", "batch_size", "prompt_multiple"))
        if self.examples < 0:
            raise ValueError(f"examples is {self.examples}; it must be at least 0")
        if self.task.held_out_fraction == 0:
            raise ValueError("no prompt is held out: set --task.held-out-fraction above 0")
        self.sampling.require_queue(self.batch_size)


class Judged(NamedTuple):
    """What one policy wrote, and which completions ended by themselves."""

    evaluation: Evaluation
    ended: np.ndarray
    """[N] bool."""


class Judge:
    """The compiled functions that every policy of one shape is judged with."""

    def __init__(self, pretrained: Pretrained, options: Evaluate, rules: OnPolicyConfig) -> None:
        model = pretrained.model
        eos = (
            *pretrained.eos_token_ids,
            *stop_token_ids(options.task, pretrained.tokenizer),
        )
        self.config, self.tokenizer = model.config, pretrained.tokenizer
        self.eos, self.pad = eos, pretrained.pad_token_id
        self.options = options
        act = make_act(
            model,
            options.sampling,
            eos,
            self.pad,
            truncate_token=rules.truncate_token,
            truncate_after=rules.truncate_after,
        )
        self.act = jax.jit(act)
        score = make_score(model, options.sampling, eos, rows=rules.score_rows)
        self.log_probs = jax.jit(lambda params, *batch: score(params, *batch).log_probs)
        self.key = role_key(options.seed, Role.EVALUATION)

    def judge(
        self, params: Any, ref_log_probs: Callable[[Prompts, Completions], jax.Array], task: Task
    ) -> Judged:
        """Complete the held-out prompts and score what was written."""
        ended: list[np.ndarray] = []

        def act(batch: Prompts) -> Completions:
            made = self.act({"policy": params}, batch, self.key)
            is_eos = np.isin(np.asarray(made.tokens), self.eos)
            ended.append(np.any(is_eos & np.asarray(made.mask), axis=1))
            return made

        with announce("the sampler and the scoring"):
            result = evaluate(
                act,
                ref_log_probs,
                task,
                task.held_out,
                np.arange(self.options.num_prompts),
                tokenizer=self.tokenizer,
                pad_id=self.pad,
                batch_size=self.options.batch_size,
                multiple=self.options.prompt_multiple,
            )
        return Judged(result, np.concatenate(ended)[: self.options.num_prompts])


def own_log_probs(prompts: Prompts, made: Completions) -> jax.Array:
    """Return the policy's own log-probs: a reference's KL from itself is 0."""
    del prompts
    return made.log_probs


def check_vocabulary(policy: Policy, reference: Pretrained, name: str) -> None:
    """Raise UserError unless both models read the same tokens."""
    here = policy.pretrained.tokenizer.get_vocab()
    if here != reference.tokenizer.get_vocab():
        raise UserError(
            f"{policy.name} and {name} have different vocabularies: their completions cannot be "
            "scored by one another"
        )


def judge_both(
    options: Evaluate, rules: OnPolicyConfig
) -> tuple[Policy, Task, Judged, Judged | None]:
    """Load and judge the policy, and the reference if there is one."""
    policy = load_policy(options)
    pretrained = policy.pretrained
    room = pretrained.model.config.context_length - options.sampling.max_new_tokens
    task = make_task(options.task, pretrained.tokenizer, max_prompt_tokens=room)
    if options.num_prompts > len(task.held_out):
        raise UserError(
            f"num_prompts is {options.num_prompts}, but only {len(task.held_out)} prompts are "
            "held out: lower it, or raise --task.held-out-fraction"
        )
    judge = Judge(pretrained, options, rules)
    if options.reference is None:
        return policy, task, judge.judge(pretrained.params, own_log_probs, task), None
    stored = pretrained.params["embed"]["embedding"].dtype
    reference = load_model(options.reference, str(pretrained.model.dtype or stored))
    check_vocabulary(policy, reference, options.reference)
    same = reference.model.config == judge.config
    ref_judge = judge if same else Judge(reference, options, rules)
    before = ref_judge.judge(reference.params, own_log_probs, task)
    after = judge.judge(
        pretrained.params, lambda *batch: ref_judge.log_probs(reference.params, *batch), task
    )
    return policy, task, after, before


def describe(judged: Judged, *, with_kl: bool) -> dict[str, Any]:
    """Summarise what a policy wrote; a policy without a reference has no KL."""
    result = judged.evaluation
    several = len(result.components) > 1
    parts = {n: s for n, s in result.components.items() if several and np.isfinite(s).any()}
    return {
        "score": bootstrap_mean(result.scores)._asdict(),
        **{f"rewards/{n}": bootstrap_mean(scores)._asdict() for n, scores in parts.items()},
        "reward_failures": float(result.failures),
        **({"kl": bootstrap_mean(result.kl)._asdict()} if with_kl else {}),
        "length": float(np.mean(result.lengths)),
        "eos_fraction": float(np.mean(judged.ended)),
        **text_statistics(result.completions),
        "most_common_words": most_common_words(result.completions),
    }


def number(score: np.floating[Any]) -> float | None:
    """Return a score; None where the reward failed."""
    return None if np.isnan(score) else float(score)


def side_by_side(after: Judged, before: Judged | None) -> list[dict[str, Any]]:
    """List every prompt with what was written after it."""
    rows = []
    for index, prompt in enumerate(after.evaluation.prompts):
        row: dict[str, Any] = {"prompt": prompt}
        for name, judged in (("reference", before), ("policy", after)):
            if judged is not None:
                row[name] = {
                    "completion": judged.evaluation.completions[index],
                    "score": number(judged.evaluation.scores[index]),
                    **({"kl": float(judged.evaluation.kl[index])} if before is not None else {}),
                    "tokens": int(judged.evaluation.lengths[index]),
                    "ended": bool(judged.ended[index]),
                }
        rows.append(row)
    return rows


def make_report(
    options: Evaluate, policy: Policy, after: Judged, before: Judged | None
) -> dict[str, Any]:
    """Put together what is printed and written."""
    report: dict[str, Any] = {
        "policy": policy.name,
        "step": policy.step,
        "reference": options.reference,
        "prompts": options.num_prompts,
        "results": {"policy": describe(after, with_kl=before is not None)},
        "options": config_to_json(options),
        "completions": side_by_side(after, before),
    }
    if before is not None:
        report["results"]["reference"] = describe(before, with_kl=True)
        change = bootstrap_paired_difference(before.evaluation.scores, after.evaluation.scores)
        report["difference"] = change._asdict()
    return report


LABELS = {
    "score": "score",
    "reward_failures": "completions without a score",
    "kl": "KL from reference, nats",
    "length": "tokens",
    "eos_fraction": "share that ends (EOS)",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "repetition": "repetition",
    "words": "words",
    "different_texts": "different texts",
}


def cell(value: Any) -> str:
    """Write a number, or an interval."""
    if isinstance(value, dict):
        mean, low, high = Interval(**value)
        return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    return f"{value:.3f}"


def print_report(report: dict[str, Any], summary: str, examples: int) -> None:
    """Print the table, the most common words, and the first completions."""
    results = report["results"]
    names = [name for name in ("reference", "policy") if name in results]
    print(summary)
    for name in names:
        print(f"{name}: {report[name]}")
    print(f"\n{report['prompts']} held-out prompts, 95% bootstrap intervals")
    print(f"{'':<26}" + "".join(f"{name:<27}" for name in names).rstrip())
    labels = {key: key for key in results["policy"] if key.startswith("rewards/")} | LABELS
    for key, label in labels.items():
        if key in results["policy"]:
            cells = "".join(f"{cell(results[name][key]):<27}" for name in names)
            print(f"{label:<26}{cells}".rstrip())
    if "difference" in report:
        print(f"{'score, paired difference':<53}{cell(report['difference'])}")
    print("\nmost common words, and the share of completions that hold them")
    for name in names:
        words = (f"{word} {share:.2f}" for word, share in results[name]["most_common_words"])
        print(f"  {name}: {', '.join(words)}")
    for row in report["completions"][:examples]:
        print(f"\n{row['prompt']!r}")
        for name in names:
            score = row[name]["score"]
            shown = "  none" if score is None else f"{score:+.2f}"
            print(f"  {name:<10}{shown}  {row[name]['completion']!r}")


def defaults(run: str) -> tuple[Evaluate, OnPolicyConfig]:
    """Take from a run its task, sampling, seed and start, as defaults, and its truncation rules.

    What runs of its kind do not have (a supervised run has no task) keeps its default here.
    """
    model = read_part(run, "model", ModelConfig)
    parts = (read_part(run, name, kind) for name, kind in ON_POLICY.items())
    rules = next((part for part in parts if part is not None), None)
    scratch = (Path(run).expanduser() / MODEL_FOLDER).is_dir()
    found = {
        "reference": None if model is None or scratch else model.source,
        "num_prompts": read_part(run, "eval_prompts", int) or Evaluate.num_prompts,
        "batch_size": rules.batch_size if rules else Evaluate.batch_size,
        "prompt_multiple": read_part(run, "prompt_multiple", int) or Evaluate.prompt_multiple,
        "seed": read_part(run, "seed", int) or 0,
        "task": read_part(run, "task", TaskConfig) or TaskConfig(),
        "sampling": (read_part(run, "sampling", SamplingConfig) or SamplingConfig()).exact(),
    }
    return dataclasses.replace(Evaluate(), **found), rules or OnPolicyConfig()


def require_prompts(options: Evaluate) -> None:
    """Raise UserError for a run in an environment, unless the flags name prompts and a reward."""
    acting = read_part(options.run, "environment", EnvironmentConfig)
    if acting is not None and acting.name is not None and options.task == TaskConfig():
        raise UserError(
            f"{options.run} was trained in the environment {acting.name}; its held-out episodes "
            "are judged by the run itself (eval/ in metrics.jsonl, result.json). To judge it on "
            "prompts, name them with --task.prompts and --task.reward"
        )


def main(argv: list[str] | None = None) -> None:
    options, rules = tyro.cli(Evaluate, args=argv, description=__doc__), OnPolicyConfig()
    with plain_errors():
        if options.run is not None:
            default, rules = defaults(options.run)
            options = tyro.cli(Evaluate, args=argv, default=default, description=__doc__)
            require_prompts(options)
        validate(options)
        enable_compilation_cache()
        policy, task, after, before = judge_both(options, rules)
        report = make_report(options, policy, after, before)
        if rules.action_mask is not None:
            print("the policy is judged without the action mask of its run's own evaluations")
        print_report(report, task.summary, options.examples)
        if options.json is not None:
            write_json(Path(options.json), report)
            print(f"\nwrote {options.json}")


if __name__ == "__main__":
    main()
