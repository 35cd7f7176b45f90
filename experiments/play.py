"""Play episodes of a text environment with a policy that is no model; show, measure, write them.

    python experiments/play.py --environment rljax.environments.recommendation:Recommendation
    python experiments/play.py --environment ENV --policy knn popularity --episodes 200
    python experiments/play.py --environment ENV --policy demonstration --noise 0.3 --split train \\
        --episodes 4000 --out runs/demonstrations.jsonl

What is written is one conversation a line, as `--data.source` of pretrain.py and sft.py takes it.
Intervals are 95% bootstrap intervals over episodes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from rljax.environments import load_environment
from rljax.environments.scripted import Played, find_scripted, play, seeds_of, summarize
from rljax.errors import UserError
from rljax.reporting.files import write_json
from rljax.reporting.statistics import distinct_n
from rljax.training.flags import plain_errors


@dataclasses.dataclass(frozen=True)
class Play:
    """Play episodes with the policies that an environment offers."""

    environment: str
    """What to play, as `--environment.name` of grpo.py takes it."""
    policy: tuple[str, ...] = ("random",)
    """Policies of the environment, by name."""
    noise: float = 0.0
    """Share of the turns that they play at random."""
    episodes: int = 200
    """Episodes of each policy; all play the same ones."""
    split: Literal["held_out", "train"] = "held_out"
    """Which seeds: those to judge by, or those to train on."""
    first: int = 0
    """Number of the first episode within its side."""
    out: str | None = None
    """JSONL file to write the conversations to; needs a single policy."""
    min_score: float | None = None
    """Write only episodes whose rewards sum up to this or more."""
    json: str | None = None
    """File to write the measured numbers to."""
    examples: int = 1
    """Episodes shown of each policy."""

    def validate(self) -> None:
        """Raise UserError for values that mean nothing."""
        if self.episodes < 1 or self.first < 0 or self.examples < 0:
            raise UserError("episodes must be at least 1, first and examples at least 0")
        if self.out is not None and len(self.policy) != 1:
            raise UserError(f"--out writes one policy's episodes, but --policy is {self.policy}")
        if self.min_score is not None and self.out is None:
            raise UserError("--min-score chooses what is written: give --out")


def show(played: Played) -> str:
    """Write a conversation for people, its rewards at the policy's turns."""
    rewards = iter(played.rewards)
    lines = [
        f"  {m['content']}" if m["role"] == "user" else f"> {m['content']}  [{next(rewards):+g}]"
        for m in played.messages
    ]
    return "\n".join(lines)


def write_conversations(path: Path, episodes: Sequence[Played]) -> None:
    """Write conversations as JSON lines of `messages`, with seed and score."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = ({"messages": p.messages, "seed": p.seed, "score": p.score} for p in episodes)
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def run(options: Play) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Play, print and write; return mean and interval of every number, by policy."""
    options.validate()
    environment = load_environment(options.environment)()
    seeds = seeds_of(options.split, options.episodes, options.first)
    policies = {p: find_scripted(environment, p, options.noise) for p in options.policy}
    numbers = {}
    for name, policy in policies.items():
        episodes = [play(environment, seed, policy) for seed in seeds]
        numbers[name] = {key: tuple(value) for key, value in summarize(episodes).items()}
        print(f"\n{name}: {len(episodes)} episodes, {options.split}, noise {options.noise:g}")
        for key, (mean, low, high) in numbers[name].items():
            print(f"  {key:<20} {mean:8.3f} [{low:.3f}, {high:.3f}]")
        said = [text for episode in episodes for text in episode.said]
        for n in (1, 2):  # of all that was said: a number without an interval
            print(f"  {f'distinct_{n}':<20} {distinct_n(said, n):8.3f}")
        for episode in episodes[: options.examples]:
            print(f"\n  seed {episode.seed}, score {episode.score:g}\n{show(episode)}")
        if options.out is not None:
            least = float("-inf") if options.min_score is None else options.min_score
            kept = [episode for episode in episodes if episode.score >= least]
            if not kept:
                raise UserError(f"no episode scores {least:g} or more: nothing to write")
            write_conversations(Path(options.out).expanduser(), kept)
            print(f"\n{len(kept)} conversations written to {options.out}")
    if options.json is not None:
        write_json(Path(options.json), numbers)
    return numbers


def main(argv: Sequence[str] | None = None) -> None:
    options = tyro.cli(Play, args=argv, description=__doc__)
    with plain_errors():
        run(options)


if __name__ == "__main__":
    main()
