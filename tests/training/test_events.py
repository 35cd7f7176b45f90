"""EventFile: what is flushed is on the disk, whatever becomes of the process."""

import os
import subprocess
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

WRITE_AND_DIE = """
import os, sys
from pathlib import Path
from tensorboardX.summary import scalar
from rljax.training.events import EventFile

events = EventFile(Path(sys.argv[1]), purge_step=0)
for step in range(500):
    events.add(step, scalar("loss", float(step)))
events.flush()
os.kill(os.getpid(), 9)
"""


def test_a_killed_process_has_every_flushed_event(tmp_path):
    command = [sys.executable, "-c", WRITE_AND_DIE, str(tmp_path)]
    died = subprocess.run(command, check=False, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert died.returncode == -9
    board = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0}).Reload()
    assert [event.value for event in board.Scalars("loss")] == list(range(500))
