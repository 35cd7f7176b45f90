"""Search for the best flags of any config with Optuna: TPE, and the median to give up early.

    python experiments/search.py --config configs/grpo_sorting.py --metric objective/scores \\
        --space "optimizer.learning_rate=log(1e-5,1e-3)" \\
        --space "grpo.kl.coef=choice(0,0.01,0.1)" --trials 20 -- --steps 50 --eval-prompts 0

What stands behind `--` are flags of the training script, for all trials. Each trial is an ordinary
run directory below trials/, with what its run printed in log.txt. The search is kept in study.db:
killed and started again it goes on, a run that was under way from its last checkpoint. Several
processes may work on one search: --jobs, or the same command again in another terminal or node.
Needs the extra `search`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rljax.algorithms.checks import require_positive
from rljax.errors import UserError
from rljax.reporting.searches import write_pictures
from rljax.search.running import Measure, Search, Stopped, require_metric, work
from rljax.search.space import as_flags, parse_space
from rljax.search.trials import TRIALS, Trials
from rljax.sweeps.scripts import SCRIPTS, run_script
from rljax.training.compilation import enable_compilation_cache
from rljax.training.config_json import config_to_json
from rljax.training.errors import ConfigError
from rljax.training.flags import find_config, load_file, parse_config, plain_errors, split_variant
from rljax.training.flags import validate as validate_config
from rljax.training.manifest import write_text_atomically

SEARCH_FILE = "search.json"


@dataclasses.dataclass(frozen=True)
class SearchFlags:
    """Search for the best flags of a config."""

    config: str
    """The config file (and variant) whose flags are searched."""
    space: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """A field and what it may be: NAME=log(low,high), uniform(low,high), int(low,high),
    logint(low,high) or choice(a,b,...). Give one --space for each."""
    script: str | None = None
    """The training script, such as grpo; None: that of the config's type."""
    metric: str = "eval/scores"
    """The tag of metrics.jsonl that trials are compared by."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Whether more of it is better."""
    average: float = 0.1
    """Share of a run's steps, the last ones, that the metric is averaged over; of eval/* the last
    value counts."""
    trials: int = 20
    """Trials to finish, all processes and starts together."""
    seeds: tuple[int, ...] = ()
    """Seeds of each trial, which is worth their mean; none: the config's own."""
    jobs: int = 1
    """Processes to work with on this machine."""
    startup: int = 10
    """Trials drawn at random before TPE; half of them are finished before any is given up."""
    warmup: int = 0
    """Steps of a trial in which it is not given up."""
    seed: int = 0
    """Of the sampler."""
    workdir: str | None = None
    """The search's directory; None: runs/search-NAME of the config."""
    storage: str | None = None
    """SQLAlchemy URL of Optuna's storage, for a server; None: study.db in the directory."""
    part: Literal["whole", "worker"] = "whole"
    """worker: make trials and say nothing of what came out, as one of several processes."""

    def validate(self) -> None:
        """Raise ValueError for what cannot be."""
        require_positive(self, ("trials", "jobs", "startup"))
        if self.warmup < 0 or self.seed < 0:
            raise ValueError("warmup and seed must be at least 0")
        if not 0 < self.average <= 1:
            raise ValueError(f"average is {self.average}; it must be in (0, 1]")
        if len(set(self.seeds)) < len(self.seeds) or any(seed < 0 for seed in self.seeds):
            raise ValueError(f"seeds {self.seeds} repeat, or one is below 0")

    @property
    def directory(self) -> Path:
        """The search's directory."""
        name = Path(split_variant(self.config)[0]).stem
        return Path(self.workdir or f"runs/search-{name}").expanduser().absolute()


def split_arguments(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split arguments at `--`: the search's own, and the training script's."""
    if "--" not in argv:
        return argv, []
    place = argv.index("--")
    return argv[:place], argv[place + 1 :]


def read_config(flags: SearchFlags, rest: list[str]) -> tuple[str, Any]:
    """Return the script and the config that all trials start from.

    Raises ConfigError for a config of another script; exits for wrong flags behind --.
    """
    path, variant = split_variant(flags.config)
    file = load_file(find_config(path))
    start = file.config if variant is None else file.variants.get(variant, file.config)
    name = SCRIPTS.get(type(start))
    if name is None or flags.script not in (None, name):
        runs = f"is run by {name}" if name else "is run by none of the training scripts"
        raise ConfigError(f"{flags.config} is a {type(start).__name__}, which {runs}")
    config = parse_config(flags.config, ["--config", flags.config, *rest], type(start))
    return name, config


def describe(flags: SearchFlags, script: str, config: Any, rest: list[str]) -> dict[str, Any]:
    """Return what must not change when a search goes on, as JSON."""
    return {
        "script": script,
        "config": flags.config,
        "flags": rest,
        "space": list(flags.space),
        "metric": flags.metric,
        "direction": flags.direction,
        "average": flags.average,
        "seeds": list(flags.seeds or (config.seed,)),
        "resolved": config_to_json(dataclasses.replace(config, workdir=None)),
    }


def require_same(directory: Path, wanted: dict[str, Any]) -> None:
    """Write the search's description, or compare it with the one that is there.

    Raises ConfigError where another search stands in the directory.
    """
    file = directory / SEARCH_FILE
    if not file.exists():
        directory.mkdir(parents=True, exist_ok=True)
        write_text_atomically(file, json.dumps({"search": wanted}, indent=2) + "\n")
        return
    there = json.loads(file.read_text(encoding="utf-8"))["search"]
    changed = [name for name in wanted if there.get(name) != wanted[name]]
    if changed:
        rows = "\n".join(f"  {n}: there {there.get(n)!r}, now {wanted[n]!r}" for n in changed[:8])
        raise ConfigError(
            f"{directory} holds another search:\n{rows}\nChoose another --workdir, or give the "
            "flags of that search to go on with it"
        )


def command_line(script: str, config: str, rest: list[str], values: dict[str, Any]) -> str:
    """Return the command that trains with the best flags."""
    parts = ["python", f"experiments/{script}.py", "--config", config, *rest, *as_flags(values)]
    return shlex.join(parts)


def finish(flags: SearchFlags, script: str, config: Any, rest: list[str], trials: Trials) -> None:
    """Write and print what came out."""
    best = trials.best()
    found: dict[str, Any] = {"trials": trials.rows(), "importances": trials.importances()}
    if best is not None:
        command = command_line(script, flags.config, rest, dict(best.params))
        found["best"] = {"trial": best.number, "value": best.value, "command": command}
    description = {"search": describe(flags, script, config, rest)}
    text = json.dumps(description | found, indent=2, ensure_ascii=False) + "\n"
    write_text_atomically(trials.directory / SEARCH_FILE, text)
    write_pictures(trials.directory)
    states = [row["state"] for row in found["trials"]]
    said = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    print(f"{len(states)} trials: {said}; {trials.directory / SEARCH_FILE} and three plots")
    if found["importances"]:
        shares = ", ".join(f"{n} {share:.0%}" for n, share in found["importances"].items())
        print(f"importance (PED-ANOVA): {shares}")
    if best is None:
        raise UserError(f"no trial was measured; see log.txt in {trials.directory / TRIALS}")
    print(f"best, trial {best.number + 1}: {flags.metric} {best.value:.4g}\n{command}")


def run_jobs(flags: SearchFlags, own: list[str], rest: list[str]) -> None:
    """Let several processes work on the search, and wait for them; what stops this stops them."""
    command = [sys.executable, os.path.abspath(__file__), *own, "--part", "worker", "--", *rest]
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    processes = [subprocess.Popen(command) for _ in range(flags.jobs)]
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.terminate()  # saves its run and ends; nothing where it has ended
        for process in processes:
            process.wait()
        signal.signal(signal.SIGTERM, before)
    if any(codes):
        raise UserError(f"processes of the search ended with {codes}: the same command goes on")


def main(argv: list[str] | None = None) -> None:
    own, rest = split_arguments(list(sys.argv[1:] if argv is None else argv))
    flags = tyro.cli(SearchFlags, args=own, description=__doc__)
    with plain_errors():
        validate_config(flags)
        script, config = read_config(flags, rest)
        axes = parse_space(flags.space, config)
        measure = Measure(flags.metric, flags.average)
        require_metric(measure, config)
        require_same(flags.directory, describe(flags, script, config, rest))
        trials = Trials(
            flags.directory, storage=flags.storage, direction=flags.direction, wanted=flags.trials,
            startup=flags.startup, warmup=flags.warmup, seed=flags.seed,
        )  # fmt: skip
        if flags.part == "whole":
            print(f"search directory: {flags.directory}, {trials.counted()} trials done")
        if flags.jobs > 1 and flags.part == "whole":
            run_jobs(flags, own, rest)
        else:
            enable_compilation_cache()
            launch = functools.partial(run_script, script)
            search = Search(config, axes, measure, flags.seeds or (config.seed,), launch)
            try:
                work(search, trials, functools.partial(print, flush=True))
            except Stopped:
                print("stopped; the same command goes on")
                return
        if flags.part == "whole":
            finish(flags, script, config, rest, trials)


if __name__ == "__main__":
    main()
