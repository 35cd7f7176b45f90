"""The smoke test of a reward: what it makes of the first completions of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from rljax.doctor.findings import Findings
from rljax.group_advantages import informative_groups
from rljax.rewards.protocol import Judgement, TokenReward, accepted_columns, quote, show_failure

if TYPE_CHECKING:
    from rljax.training.setup import OnPolicy

SHOWN = 10
TEXT_CHARS = 60


def returned_type(scores: Any) -> str:
    """Name what a reward returned: "list of float", "ndarray of int64"."""
    if hasattr(scores, "dtype"):
        return f"{type(scores).__name__} of {scores.dtype}"
    kinds = sorted({type(score).__name__ for score in scores})
    return f"{type(scores).__name__} of {' and '.join(kinds)}"


def returned_types(
    setup: OnPolicy, prompts: list[str], texts: list[str], indices: np.ndarray
) -> dict[str, str]:
    """Call each text reward on the first completions, and name what it returns.

    Rewards in processes of their own are not called again, nor those that raise: their failures
    are reported as such.
    """
    found: dict[str, str] = {}
    reward, table = setup.task.reward, setup.task.train
    if setup.config.task.reward_workers:
        return found
    columns = table.columns_at(indices[: len(texts)])
    for name, one in zip(reward.names, reward.rewards, strict=True):
        if isinstance(one, TokenReward):
            found[name] = "compiled, float32"
            continue
        taken = {column: columns[column] for column in accepted_columns(one, columns)}
        try:
            scores: Any = one(prompts, texts, **taken)
        except Exception:  # which the judgement has as failures, with the reason
            continue
        found[name] = returned_type(scores)
    return found


def report_rewards(
    findings: Findings,
    setup: OnPolicy,
    prompts: list[str],
    texts: list[str],
    judgement: Judgement,
    indices: np.ndarray | None,
) -> None:
    """Show ten completions with their scores, and say what is wrong with those of the batch.

    indices: of their prompts; None for episodes, which environments judge.
    """
    scores = judgement.scores
    few = slice(0, SHOWN)
    kinds = {} if indices is None else returned_types(setup, prompts[few], texts[few], indices)
    shown = "; ".join(f"{name}: {kind}" for name, kind in kinds.items()) or "judged in other places"
    lines = [f"{len(texts[few])} of {len(texts)} completions ({shown}; trained on as float32)"]
    for prompt, text, score in zip(prompts[few], texts[few], scores[few], strict=True):
        lines.append(f"{score:+8.3f}  {_short(prompt)} -> {_short(text)}")
    findings.say("rewards", "\n".join(lines))
    _check_failures(findings, setup, prompts, texts, judgement)
    _check_spread(findings, setup, scores)
    integers = [name for name, kind in kinds.items() if "of int" in kind and "ndarray" in kind]
    if integers and len(set(scores[few].tolist())) == 1:
        findings.wrong(
            f"{', '.join(integers)} returns an array of integers, all of them the same",
            "if its scores have fractions, they were cut off there: make the array one of floats",
        )


def _short(text: str) -> str:
    return quote(text if len(text) <= TEXT_CHARS else text[:TEXT_CHARS] + "...")


def _check_failures(
    findings: Findings,
    setup: OnPolicy,
    prompts: list[str],
    texts: list[str],
    judgement: Judgement,
) -> None:
    failed = int(np.sum(~np.isfinite(judgement.scores)))
    if not failed:
        return
    share = f"the reward gave no finite number for {failed} of {len(texts)} completions"
    where = f"; one of them:\n{show_failure(judgement, prompts, texts)}"
    reason = where if judgement.failures else ""
    if setup.stage is None and failed <= setup.config.task.max_reward_failures * len(texts):
        findings.say("", f"{share}, which is allowed (--task.max-reward-failures){reason}")
        return
    findings.wrong(f"{share}{reason}", "let it return a number for every text, empty ones too")


def _check_spread(findings: Findings, setup: OnPolicy, scores: np.ndarray) -> None:
    """Note scores from which nothing can be learnt: all alike, or alike within every group."""
    good, group = np.isfinite(scores), setup.algorithm.samples_per_prompt
    if not good.any():
        return
    if np.ptp(scores[good]) == 0:
        findings.wrong(
            f"all {int(np.sum(good))} completions of the first batch have the score "
            f"{scores[good][0]:g}: nothing can be learnt from them",
            "easier prompts, a model that is right now and then (experiments/sft.py), or a reward "
            "with steps in between",
        )
    elif group > 1:
        unequal = informative_groups(jnp.asarray(scores), jnp.asarray(good), group_size=group)
        share = float(np.mean(np.asarray(unequal)))
        findings.say("", f"{share:.0%} of the groups of {group} have different scores")
        if share == 0:
            findings.wrong(
                f"within each group of {group} completions all scores are equal: no advantage",
                "more samples-per-prompt, a higher sampling.temperature, or prompts of medium "
                "difficulty",
            )
