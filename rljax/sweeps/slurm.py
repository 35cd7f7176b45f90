"""A sweep as SLURM jobs: its stages, an array with a task for each run, and its results."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rljax.sweeps.cells import SweepRuns

_JOB = """sbatch --parsable{options} <<'JOB'
#!/bin/bash
#SBATCH --job-name={name}-{part}
{directives}cd {folder}
srun {command}
JOB"""


def submission(
    runs: SweepRuns, command: Sequence[str], folder: str, *, jobs: int, directives: Sequence[str]
) -> str:
    """Return a shell script that submits a sweep: `bash FILE` on a login node.

    The array waits for the stages and the results for the array; runs that are whole already end at
    once, so that the same script goes on with a sweep.

    Args:
      runs: the sweep and its directory, which all nodes see.
      command: what makes a part of it, to which `--part PART` is added.
      folder: where it is started.
      jobs: array tasks at a time; 0: as many as there are.
      directives: further `#SBATCH` lines, such as "--gres=gpu:1".
    """
    log = runs.directory / "slurm"

    def job(part: str, value: str, options: str, *more: str) -> str:
        lines = [f"--output={log}/%x-%A_%a.log" if more else f"--output={log}/%x-%j.log"]
        return _JOB.format(
            options=options,
            name=runs.sweep.name,
            part=part,
            directives="".join(f"#SBATCH {line}\n" for line in (*lines, *more, *directives)),
            folder=shlex.quote(folder),
            command=f"{shlex.join(command)} --part {value}",
        )

    limit = f"%{jobs}" if jobs else ""
    array = f"--array=0-{len(runs.cells) - 1}{limit}"
    after_stages = " --dependency=afterok:$stages --kill-on-invalid-dep=yes" if runs.stages else ""
    after_cells = " --dependency=afterany:${cells%%;*}"
    parts = [
        "#!/bin/bash",
        f"# Submits the sweep {runs.sweep.name}: bash THIS_FILE. A task of the array is a run:",
        *(f"#   {number} {name}" for number, name in enumerate(runs.cells)),
        "set -e",
        f"mkdir -p {shlex.quote(str(log))}",
    ]
    if runs.stages:
        parts += [f"stages=$({job('stages', 'stages', '')}\n)", 'stages="${stages%%;*}"']
    cells = job("cells", '"$SLURM_ARRAY_TASK_ID"', after_stages, array)
    parts += [f"cells=$({cells}\n)", job("results", "results", after_cells)]
    return "\n".join(parts) + "\n"
