"""A progress bar with what matters on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as RichProgress


def format_duration(seconds: float) -> str:
    """Return seconds as `m:ss` or `h:mm:ss`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class Progress:
    """Shows how far a run is, its numbers, and the time left.

    On a terminal it is one bar at the bottom, above which other prints scroll; elsewhere (a file,
    a pipe, a job's log) one line every `interval` seconds, and one for the first and the last
    step. The time left is reckoned from the steps after the first, which compiles.

    Usage:
      with Progress(total=200, start=resumed_step) as progress:
          progress.update(step, score=0.31, KL=1.2)

    Args:
      total: steps of the whole run.
      start: steps already done when it begins.
      name: shown in front.
      interval: seconds between plain lines.
      console: where to show it; standard output if None.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        name: str = "training",
        interval: float = 10.0,
        console: Console | None = None,
    ) -> None:
        self.total, self.name, self.interval = total, name, interval
        self._console = console or Console()
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._first: tuple[int, float] | None = None
        self._last_line = float("-inf")
        if self._live:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[shown]}"),
                console=self._console,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task(name, total=total, completed=start, shown="compiling")

    def __enter__(self) -> Progress:
        if self._live:
            self._bar.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands and give the terminal back."""
        if self._live:
            self._bar.stop()

    def update(self, step: int, **shown: float | str) -> None:
        """Show that `step` steps are done, with numbers such as `score=0.3, KL=1.2`."""
        now = time.monotonic()
        parts = [
            f"{name} {value}" if isinstance(value, str) else f"{name} {float(value):.4g}"
            for name, value in shown.items()
        ]
        left = self._time_left(step, now)
        if left is not None:
            parts.append(f"{format_duration(left)} left")
        text = "  ".join(parts)
        if self._live:
            self._bar.update(self._task, completed=step, shown=text)
        elif step >= self.total or now - self._last_line >= self.interval:
            self._last_line = now
            line = f"{self.name} {step}/{self.total}  {text}".rstrip()
            print(line, file=self._console.file, flush=True)

    def _time_left(self, step: int, now: float) -> float | None:
        if self._first is None or step <= self._first[0]:
            self._first = (step, now)
            return None
        first_step, first_time = self._first
        return (now - first_time) / (step - first_step) * max(self.total - step, 0)
