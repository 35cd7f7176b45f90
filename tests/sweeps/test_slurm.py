"""The script that submits a sweep is run with an sbatch that runs the jobs it is given."""

import os
import subprocess
import sys

from rljax.sweeps.slurm import submission
from tests.sweeps.sweep_cases import MEASURING, open_sweep, sweep_file

SBATCH = """#!/bin/bash
# Runs a job at once: every task of an array, or the one there is. Notes how it was called.
job=$(mktemp); cat > "$job"; number=$(basename "$job")
echo "sbatch $*" >> "$NOTES"
array=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$job")
for task in $(seq 0 "${array:-0}"); do
  SLURM_ARRAY_TASK_ID=$task bash "$job" >> "$NOTES"
done
echo "$number;cluster"
"""
STAGED = MEASURING.replace("    program=toss,", "    program=toss,\n    stages={'base': Coin()},")


def submit(tmp_path, text, **options):
    runs = open_sweep(sweep_file(tmp_path, text), tmp_path / "out")
    for name, body in (("sbatch", SBATCH), ("srun", '#!/bin/bash\n"$@"\n')):
        (tmp_path / name).write_text(body)
        (tmp_path / name).chmod(0o755)
    command = [sys.executable, "-c", "import sys; print('part', sys.argv[-1])"]
    script = submission(runs, command, str(tmp_path), directives=["--gres=gpu:1"], **options)
    notes = tmp_path / "notes"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(notes)}
    subprocess.run(["bash"], input=script, text=True, check=True, env=environment)
    return script, notes.read_text().splitlines()


def test_the_array_makes_every_run_and_then_the_results(tmp_path):
    script, notes = submit(tmp_path, MEASURING, jobs=0)
    assert [line for line in notes if line.startswith("part")] == [
        *(f"part {number}" for number in range(6)), "part results",
    ]  # fmt: skip
    assert notes[0] == "sbatch --parsable"
    assert notes[7].startswith("sbatch --parsable --dependency=afterany:tmp.")
    assert ";" not in notes[7]
    assert "#SBATCH --array=0-5\n" in script and script.count("#SBATCH --gres=gpu:1\n") == 2
    assert "#   4 cells/loaded/seed1" in script


def test_the_array_waits_for_the_stages(tmp_path):
    script, notes = submit(tmp_path, STAGED, jobs=2)
    assert notes[1] == "part stages"
    assert notes[2].startswith("sbatch --parsable --dependency=afterok:tmp.")
    assert notes[2].endswith(" --kill-on-invalid-dep=yes") and ";" not in notes[2]
    assert "#SBATCH --array=0-5%2\n" in script
