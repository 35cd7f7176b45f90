"""Run a paper-style ablation: every arm with every seed, the runs that are missing only.

    python experiments/sweep.py --config configs/ablations/rloo_vs_ppo.py
    python experiments/sweep.py --config configs/ablations/rloo_vs_ppo.py --smoke --dry-run
    python experiments/sweep.py --config configs/ablations/rloo_vs_ppo.py --size full --slurm -

Killed and started again, the same command goes on: what is whole stays, a run that was under way
goes on from its last checkpoint, and results.json is the same, byte for byte. In the sweep's
directory every run is an ordinary one (config.json, metrics.jsonl, TensorBoard, checkpoints), and
results.json, table.md and cost.json say what came out and what it took.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from rljax.algorithms.checks import require_positive
from rljax.errors import UserError
from rljax.sweeps.board import write_overview
from rljax.sweeps.cells import SweepRuns, Task
from rljax.sweeps.fused import GroupRun, groups
from rljax.sweeps.pool import worker_command
from rljax.sweeps.results import markdown, write_results
from rljax.sweeps.runner import Failed, Runner, locked, stopping_on_signals
from rljax.sweeps.scripts import SCRIPTS, run_script
from rljax.sweeps.show import Board, plan_lines
from rljax.sweeps.slurm import submission
from rljax.sweeps.spec import Sweep, load_sweep
from rljax.sweeps.worker import Answer, find_program, make_run, serve
from rljax.training.compilation import enable_compilation_cache
from rljax.training.errors import ConfigError
from rljax.training.flags import plain_errors, validate


@dataclasses.dataclass(frozen=True)
class SweepFlags:
    """Run an ablation."""

    config: str
    """The file with the sweep, such as configs/ablations/rloo_vs_ppo.py."""
    size: Literal["cpu", "full"] = "cpu"
    """Which sweep of the file: for a CPU in half an hour, or of the paper's size."""
    smoke: bool = False
    """Every arm, one seed, a few steps: to see whether it runs."""
    jobs: int = 1
    """Runs at a time, each in a process of its own."""
    workdir: str | None = None
    """The sweep's directory. None: runs/NAME, and -full or -smoke behind it."""
    arms: tuple[str, ...] = ()
    """Only these arms."""
    seeds: tuple[int, ...] = ()
    """These seeds in place of the sweep's."""
    fuse: int = 64
    """At most so many runs as one compiled program, where the reward judges tokens and the runs
    differ in seeds and numbers only; 0: each by itself."""
    dry_run: bool = False
    """Check every config and say what would be run; start nothing."""
    slurm: str | None = None
    """Write a script that submits the sweep to SLURM to this file (- for standard output) and stop;
    --jobs is then the number of array tasks at a time, 1 for no limit."""
    slurm_options: tuple[str, ...] = ()
    """Of the #SBATCH lines, such as --gres=gpu:1 --time=4:00:00; give them quoted, behind =."""
    part: str | None = None
    """What an array task makes, in this process: "stages", the number of a run, or "results"."""

    def validate(self) -> None:
        """Raise ValueError for what cannot be."""
        require_positive(self, ("jobs",))
        if self.fuse < 0:
            raise ValueError(f"fuse is {self.fuse}; it must be at least 0")

    @property
    def directory(self) -> Path:
        """The sweep's directory where none is given."""
        name = Path(self.config).stem
        size = "" if self.size == "cpu" else f"-{self.size}"
        return Path(self.workdir or f"runs/{name}{size}{'-smoke' if self.smoke else ''}")

    @property
    def arguments(self) -> list[str]:
        """The flags that another process needs to see the same sweep."""
        made = ["--config", self.config, "--size", self.size, "--workdir", str(self.directory)]
        made += ["--smoke"] if self.smoke else []
        made += ["--arms", *self.arms] if self.arms else []
        return made + (["--seeds", *map(str, self.seeds)] if self.seeds else [])


def read_sweep(flags: SweepFlags) -> Sweep:
    """Load what is asked for."""
    sweep = load_sweep(flags.config, flags.size).chosen(flags.arms)
    sweep = sweep.tiny() if flags.smoke else sweep
    return sweep.chosen(seeds=flags.seeds)


def check(runs: SweepRuns) -> None:
    """Raise ConfigError for what would fail later: no script, no program, another sweep's runs."""
    names = [*runs.stages, *(runs.cells if runs.sweep.program is None else ())]
    for name in names:
        config = runs.task(name).config
        if type(config) not in SCRIPTS:
            known = ", ".join(kind.__name__ for kind in SCRIPTS)
            raise ConfigError(
                f"{name}: no script runs a {type(config).__name__} (there are {known}): "
                "give the sweep a program"
            )
    if runs.sweep.program is not None:
        find_program(runs.sweep)
    runs.check()


def launch(task: Task, config_file: Path) -> None:
    """Run the script of a config in this process. Raises UserError for what it could not do."""
    run_script(SCRIPTS[type(task.config)], config_file)


def make_runs(runs: SweepRuns, names: Sequence[str]) -> Answer:
    """Make a stage or a cell, or the missing cells of those that are one program."""
    if len(names) == 1:
        return {"done": {names[0]: make_run(runs, names[0], launch)}}
    group = GroupRun(runs, names)
    group.make()
    return {"done": group.done, "stopped": group.stopped, "failed": group.failed}


def make_part(runs: SweepRuns, part: str) -> None:
    """Make the stages, one run, or the results, in this process."""
    if part == "worker":
        enable_compilation_cache()
        serve(runs, lambda names: make_runs(runs, names))
    elif part == "stages":
        for name in runs.missing(runs.stages):
            make_run(runs, name, launch)
    elif part == "results":
        finish(runs)
    elif part.isdecimal() and int(part) < len(runs.cells):
        missing = runs.missing(runs.stages)
        if missing:
            raise UserError(f"{', '.join(missing)} of {runs.directory} is not made: --part stages")
        for name in runs.missing([list(runs.cells)[int(part)]]):
            make_run(runs, name, launch)
    else:
        raise ConfigError(
            f"--part {part} is not stages, results, or a number below {len(runs.cells)}"
        )


def finish(runs: SweepRuns) -> None:
    """Write and print what came out."""
    content = write_results(runs)
    text = markdown(content)
    write_overview(runs, text)
    print(text)
    print(f"wrote {runs.directory}/results.json, table.md and cost.json")


def main(argv: list[str] | None = None) -> None:
    flags = tyro.cli(SweepFlags, args=argv, description=__doc__)
    with plain_errors():
        validate(flags)
        runs = SweepRuns(read_sweep(flags), flags.directory)
        check(runs)
        if flags.dry_run:
            print("\n".join(plan_lines(runs)))
            return
        if flags.slurm is not None:
            write_submission(flags, runs)
            return
        if flags.part is not None:
            make_part(runs, flags.part)
            return
        with locked(runs):
            runs.write_description()
            run_all(flags, runs)


def run_all(flags: SweepFlags, runs: SweepRuns) -> None:
    """Make what is missing, and write what came out."""
    command = worker_command(os.path.abspath(__file__), flags.arguments)
    failure = None
    with Board(runs, flags.jobs) as board:
        runner = Runner(runs, command, flags.jobs, board, groups(runs, flags.fuse))
        try:
            with stopping_on_signals(runner):
                runner.make_all()
        except Failed as error:
            failure = error
    if len(runs.missing(runs.cells)) < len(runs.cells):
        finish(runs)
    if failure is not None:
        raise failure
    if runner.stopping:
        print("stopped; the same command goes on")


def write_submission(flags: SweepFlags, runs: SweepRuns) -> None:
    """Write the script that submits the sweep to SLURM."""
    command = [sys.executable, os.path.abspath(__file__), *flags.arguments]
    limit = flags.jobs if flags.jobs > 1 else 0
    text = submission(runs, command, os.getcwd(), jobs=limit, directives=flags.slurm_options)
    if flags.slurm == "-":
        print(text, end="")
        return
    runs.write_description()
    Path(str(flags.slurm)).write_text(text, encoding="utf-8")
    print(f"bash {flags.slurm} submits {len(runs.cells)} runs")


if __name__ == "__main__":
    main()
