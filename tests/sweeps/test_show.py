"""What is shown of a sweep while it runs, on a terminal and elsewhere."""

import io

from rich.console import Console

from rljax.sweeps.show import Board, last_step, plan_lines
from rljax.sweeps.worker import make_run
from tests.sweeps.sweep_cases import no_script, open_sweep, sweep_file


def test_the_last_step_is_read_from_the_end(tmp_path):
    assert last_step(tmp_path) == 0
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 7, "x": 1}\n{"step": 8, "x"')
    assert last_step(tmp_path) == 7
    file.write_text("".join(f'{{"step": {n}, "x": "{"y" * 1000}"}}\n' for n in range(200)))
    assert last_step(tmp_path) == 199


def test_lines_where_there_is_no_terminal(tmp_path):
    runs = open_sweep(sweep_file(tmp_path), tmp_path / "out")
    shown = io.StringIO()
    with Board(runs, 1, Console(file=shown)) as board:
        board.begin("cells/fair/seed0")
        make_run(runs, "cells/fair/seed0", no_script)
        board.end("cells/fair/seed0", 60.0)
        board.begin("cells/fair/seed1")
        board.fail("cells/fair/seed1", "its process ended with code -9")
    lines = shown.getvalue().splitlines()
    assert lines[0] == "cells/fair/seed0: begins"
    # five runs of a minute each are left
    assert lines[1] == "cells/fair/seed0: heads 1.5, 1:00; 1/6 runs, 5:00 left"
    assert lines[-1] == "cells/fair/seed1: its process ended with code -9"


def test_one_table_on_a_terminal(tmp_path):
    runs = open_sweep(sweep_file(tmp_path), tmp_path / "out")
    make_run(runs, "cells/loaded/seed2", no_script)
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Board(runs, 2, console) as board:
        board.begin("cells/fair/seed0")
        board.fail("cells/fair/seed1", "lost")
        table = board.table()
    plain = Console(file=io.StringIO(), width=100)
    plain.print(table)
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in plain.file.getvalue().splitlines()
        if line.startswith("│")
    ]
    assert rows[0][0] == "fair" and rows[0][1].endswith("so far") and rows[0][2:] == ["failed", "."]
    assert rows[1] == ["loaded", ".", ".", "4.25"]


def test_time_left_counts_what_is_under_way(tmp_path, monkeypatch):
    runs = open_sweep(sweep_file(tmp_path), tmp_path / "out")
    now = 1000.0
    monkeypatch.setattr("rljax.sweeps.show.time.monotonic", lambda: now)
    board = Board(runs, 2, Console(file=io.StringIO()))
    make_run(runs, "cells/fair/seed0", no_script)
    board.end("cells/fair/seed0", 60.0)
    board.begin("cells/fair/seed1")
    now = 1030.0
    assert board.time_left() == "2:15"  # (5 x 60 - 30) / 2


def test_a_plan_says_what_is_to_do(tmp_path):
    runs = open_sweep(sweep_file(tmp_path), tmp_path / "out")
    make_run(runs, "cells/loaded/seed1", no_script)
    lines = plan_lines(runs)
    assert "  fair: to do: seeds 0, 1, 2; the base" in lines
    assert "  loaded: to do: seeds 0, 2; bias 0.75" in lines
    assert lines[-1] == "6 runs, 5 of them to do"
