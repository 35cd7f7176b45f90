"""Progress: one bar on a terminal, few lines elsewhere, a sensible time left."""

import io

import pytest
from rich.console import Console

from rljax.training import progress
from rljax.training.progress import Progress, format_duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock.monotonic)
    return clock


def test_plain_lines_at_intervals_and_at_the_end(clock):
    file = io.StringIO()
    with Progress(10, start=2, name="ppo", interval=10, console=Console(file=file)) as bar:
        for step in range(3, 11):
            clock.now += 60 if step == 3 else 4  # the first step compiles
            bar.update(step, score=0.123456, KL=step, note="x")
    lines = file.getvalue().splitlines()
    assert lines == [
        "ppo 3/10  score 0.1235  KL 3  note x",
        "ppo 6/10  score 0.1235  KL 6  note x  0:16 left",
        "ppo 9/10  score 0.1235  KL 9  note x  0:04 left",
        "ppo 10/10  score 0.1235  KL 10  note x  0:00 left",
    ]


def test_a_bar_on_a_terminal_lets_prints_through(clock):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    with Progress(4, name="ppo", console=console) as bar:
        for step in (1, 2):
            clock.now += 30
            bar.update(step, score=0.5, KL=1.25)
        print("compiled update in 3.2 s")
    text = file.getvalue()
    for part in ("2/4", "score 0.5  KL 1.25  1:00 left", "compiled update in 3.2 s"):
        assert part in text


def test_long_times_are_readable():
    assert [format_duration(s) for s in (0.4, 59.6, 3599, 3661)] == [
        "0:00",
        "1:00",
        "59:59",
        "1:01:01",
    ]
