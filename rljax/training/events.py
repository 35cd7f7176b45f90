"""TensorBoard's event file, written in the caller's thread.

tensorboardX's own writer hands events to a queue and its `flush` does not wait for that queue, so
a run that is killed after a checkpoint can lack events from before it. Here an event is in the
file's buffer when `add` returns and on the disk when `flush` does.
"""

from __future__ import annotations

import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

_FLUSH_S = 10.0


class EventFile:
    """One new event file in a directory.

    Args:
      directory: where it is made.
      purge_step: TensorBoard forgets what earlier files of the directory say of this step and of
        later ones.

    Raises:
      OSError: the file cannot be written.
    """

    def __init__(self, directory: Path, purge_step: int) -> None:
        self._events = EventsWriter(str(directory / "events"), f".{time.time_ns()}")
        self._flushed_s = time.monotonic()
        restart = SessionLog(status=SessionLog.START)
        self._write(Event(step=purge_step, file_version="brain.Event:2"))
        self._write(Event(step=purge_step, session_log=restart))
        self.flush()

    def add(self, step: int, summary: Summary) -> None:
        """Write one summary; the file goes to the disk every ten seconds at the latest."""
        self._write(Event(step=step, summary=summary))
        if time.monotonic() - self._flushed_s > _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Force everything added so far to the disk."""
        self._events.flush()
        self._flushed_s = time.monotonic()

    def close(self) -> None:
        """Flush and close."""
        self._events.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)
