"""Judge a policy beside its reference, or any policies side by side, on the same held-out prompts.

    python experiments/evaluate.py --run runs/ppo-20260101-120000
    python experiments/evaluate.py --run runs/ppo-20260101-120000 --checkpoint best --json best.json
    python experiments/evaluate.py --model my-model --reference smollm2-135m-instruct
    python experiments/evaluate.py --run runs/tasks/NAME --policy random retrieval rule \\
        reference model 'model?temperature=0' 'model:smollm2-135m-instruct?chat=true'

A run is judged beside the model it started from, on its own task (a supervised run on that of the
flags); the flags of task and sampling then start from the run's, and the run may be going on.
Intervals are 95% bootstrap intervals.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from rljax.algorithms.batch import OnPolicyConfig
from rljax.algorithms.checks import require_positive
from rljax.errors import UserError
from rljax.experiment import ON_POLICY, ModelConfig
from rljax.models import Pretrained
from rljax.models.tokenizer import byte_tokenizer
from rljax.policies.loading import write
from rljax.reporting.evaluations import (
    cell,
    compare,
    describe_texts,
    number,
    print_comparison,
    print_examples,
    print_table,
    print_words,
    report_intervals,
)
from rljax.reporting.files import write_json
from rljax.reporting.statistics import Interval, bootstrap_mean, bootstrap_paired_difference
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import Task, TaskConfig, make_task, read_prompts, stop_token_ids
from rljax.tasks.evaluation import TextEvaluation, evaluate_texts
from rljax.tasks.sources import Rows
from rljax.training.compilation import enable_compilation_cache
from rljax.training.config_json import config_to_json
from rljax.training.flags import plain_errors, validate
from rljax.training.model_judge import Judge, Judged, own_log_probs
from rljax.training.policies import Policy, PolicyFlags, load_model, load_policy
from rljax.training.run import read_part
from rljax.training.text_policies import Setting, is_model, make_text_policies
from rljax.training.trained import MODEL_FOLDER


@dataclasses.dataclass(frozen=True)
class Evaluate(PolicyFlags):
    """Judge a policy beside its reference on held-out prompts."""

    reference: str | None = None
    """The model to compare with, of the same vocabulary; None: what the run started from."""
    policy: tuple[str, ...] = ()
    """Put these side by side: random, retrieval, template, a name that the task's baselines have
    (rule, supervised), FILE.py:FUNCTION of the prompts, model, reference, model:SOURCE and
    run:DIRECTORY; settings follow as NAME?key=value&key=value. None: policy and reference, with KL.
    """
    against: str | None = None
    """The one of `policy` that the others' scores are compared with; None: the first."""
    report_resamples: int = 200
    """Bootstrap resamples for intervals of what the task reports (F1, BLEU); 0: no intervals.
    Reports that would take longer than 20 s altogether have none."""
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
        if self.policy:
            self._validate_policies()
        else:
            super().validate()
            if self.against is not None:
                raise ValueError("--against names one of --policy: give --policy")
        if self.report_resamples < 0:
            raise ValueError(f"report_resamples is {self.report_resamples}; it must be at least 0")
        require_positive(self, ("num_prompts", "batch_size", "prompt_multiple"))
        if self.examples < 0:
            raise ValueError(f"examples is {self.examples}; it must be at least 0")
        if self.task.held_out_fraction == 0:
            raise ValueError("no prompt is held out: set --task.held-out-fraction above 0")
        self.sampling.require_queue(self.batch_size)

    def _validate_policies(self) -> None:
        if len(set(self.policy)) < len(self.policy):
            raise ValueError(f"policy names one twice: {self.policy}")
        if self.against is not None and self.against not in self.policy:
            raise ValueError(f"against is {self.against!r}; it must be one of {self.policy}")
        if self.model is not None or self.run is not None:
            super().validate()
        elif self.task.prompt_tokens is not None:
            raise ValueError(
                f"task.prompt_tokens {self.task.prompt_tokens} are those of a model: name one by "
                "--model or --run, or leave prompts whole with --task.prompt-tokens None"
            )


def make_judge(pretrained: Pretrained, options: Evaluate, rules: OnPolicyConfig) -> Judge:
    """Compile what judges models of this shape."""
    return Judge(
        pretrained,
        options.sampling,
        rules,
        stop_token_ids=stop_token_ids(options.task, pretrained.tokenizer),
        seed=options.seed,
        batch_size=options.batch_size,
        multiple=options.prompt_multiple,
    )


def check_vocabulary(policy: Policy, reference: Pretrained, name: str) -> None:
    """Raise UserError unless both models read the same tokens."""
    here = policy.pretrained.tokenizer.get_vocab()
    if here != reference.tokenizer.get_vocab():
        raise UserError(
            f"{policy.name} and {name} have different vocabularies: their completions cannot be "
            "scored by one another"
        )


def make_held_out(options: Evaluate, tokenizer: Any, room: int, found: Rows | None = None) -> Task:
    """Make the task, and see that it holds out as many prompts as are to be judged.

    found: the prompts, where they were read before the model was loaded.
    """
    task = make_task(options.task, tokenizer, max_prompt_tokens=room, found=found)
    if options.num_prompts > len(task.held_out):
        raise UserError(
            f"num_prompts is {options.num_prompts}, but only {len(task.held_out)} prompts are "
            "held out: lower it, or raise --task.held-out-fraction"
        )
    return task


def intervals_of(result: TextEvaluation, task: Task, options: Evaluate) -> dict[str, Interval]:
    """Put intervals on what the task reports of the first held-out prompts."""
    if task.language is None:
        return {}
    columns = task.held_out.columns_at(range(options.num_prompts))
    return report_intervals(
        task.language.report,
        result.completions,
        columns,
        num_resamples=options.report_resamples,
    )


def judge_both(
    options: Evaluate, rules: OnPolicyConfig
) -> tuple[Policy, Task, Judged, Judged | None]:
    """Load and judge the policy, and the reference if there is one."""
    found = read_prompts(options.task)  # what is wrong there costs no loading
    policy = load_policy(options)
    pretrained = policy.pretrained
    room = pretrained.model.config.context_length - options.sampling.max_new_tokens
    task = make_held_out(options, pretrained.tokenizer, room, found)
    judge = make_judge(pretrained, options, rules)
    if options.reference is None:
        return (
            policy,
            task,
            judge.judge(pretrained.params, own_log_probs, task, options.num_prompts),
            None,
        )
    stored = pretrained.params["embed"]["embedding"].dtype
    reference = load_model(options.reference, str(pretrained.model.dtype or stored))
    check_vocabulary(policy, reference, options.reference)
    same = reference.model.config == judge.config
    ref_judge = judge if same else make_judge(reference, options, rules)
    before = ref_judge.judge(reference.params, own_log_probs, task, options.num_prompts)
    after = judge.judge(
        pretrained.params,
        lambda *batch: ref_judge.log_probs(reference.params, *batch),
        task,
        options.num_prompts,
    )
    return policy, task, after, before


def describe(
    judged: Judged, *, with_kl: bool, intervals: dict[str, Interval] | None = None
) -> dict[str, Any]:
    """Summarise what a policy wrote; a policy without a reference has no KL."""
    result = judged.evaluation
    return describe_texts(result, intervals) | {
        **({"kl": bootstrap_mean(result.kl)._asdict()} if with_kl else {}),
        "length": float(np.mean(result.lengths)),
        "eos_fraction": float(np.mean(judged.ended)),
    }


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
    options: Evaluate, policy: Policy, task: Task, after: Judged, before: Judged | None
) -> dict[str, Any]:
    """Put together what is printed and written."""

    def summarise(judged: Judged) -> dict[str, Any]:
        intervals = intervals_of(judged.evaluation, task, options)
        return describe(judged, with_kl=before is not None, intervals=intervals)

    report: dict[str, Any] = {
        "policy": policy.name,
        "step": policy.step,
        "reference": options.reference,
        "prompts": options.num_prompts,
        "results": {"policy": summarise(after)},
        "options": config_to_json(options),
        "completions": side_by_side(after, before),
    }
    if before is not None:
        report["results"]["reference"] = summarise(before)
        change = bootstrap_paired_difference(before.evaluation.scores, after.evaluation.scores)
        report["difference"] = change._asdict()
    return report


def print_report(report: dict[str, Any], summary: str, examples: int) -> None:
    """Print the table, the most common words, and the first completions."""
    results = report["results"]
    names = [name for name in ("reference", "policy") if name in results]
    print(summary)
    for name in names:
        print(f"{name}: {report[name]}")
    print(f"\n{report['prompts']} held-out prompts, 95% bootstrap intervals")
    print_table(results, names)
    if "difference" in report:
        print(f"{'score, paired difference':<55}{cell(report['difference'])}")
    print_words(results, names)
    print_examples(report["completions"], names, examples)


def judge_policies(options: Evaluate, rules: OnPolicyConfig) -> tuple[dict[str, Any], str]:
    """Judge every policy of the flags as texts; return the comparison and the task's summary."""
    main = None
    tokenizer, room = byte_tokenizer(), sys.maxsize
    if options.model is not None or options.run is not None:
        main = load_policy(options).pretrained
        tokenizer = main.tokenizer
        if any(map(is_model, options.policy)):
            room = main.model.config.context_length - options.sampling.max_new_tokens
    task = make_held_out(options, tokenizer, room)
    policies = make_text_policies(
        options.policy,
        Setting(
            task, options.task, options.sampling, main, options.reference, rules,
            batch_size=options.batch_size, multiple=options.prompt_multiple, seed=options.seed,
        ),
    )  # fmt: skip
    indices = np.arange(options.num_prompts)
    asked = [task.held_out.texts[i] for i in indices]
    results: dict[str, TextEvaluation] = {}
    intervals = {}
    for name, policy in policies.items():
        texts = write(policy, asked, name=name)
        results[name] = evaluate_texts(texts, task, task.held_out, indices)
        intervals[name] = intervals_of(results[name], task, options)
    comparison = compare(results, options.against or options.policy[0], intervals)
    return comparison | {"options": config_to_json(options)}, task.summary


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


def main(argv: list[str] | None = None) -> None:
    options, rules = tyro.cli(Evaluate, args=argv, description=__doc__), OnPolicyConfig()
    with plain_errors():
        if options.run is not None:
            default, rules = defaults(options.run)
            options = tyro.cli(Evaluate, args=argv, default=default, description=__doc__)
        validate(options)
        enable_compilation_cache()
        if rules.action_mask is not None:
            print("the policy is judged without the action mask of its run's own evaluations")
        if options.policy:
            report, summary = judge_policies(options, rules)
            print_comparison(report, summary, options.examples)
        else:
            policy, task, after, before = judge_both(options, rules)
            report = make_report(options, policy, task, after, before)
            print_report(report, task.summary, options.examples)
        if options.json is not None:
            write_json(Path(options.json), report)
            print(f"\nwrote {options.json}")


if __name__ == "__main__":
    main()
