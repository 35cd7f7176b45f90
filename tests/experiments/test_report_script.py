"""experiments/report.py: what it writes, and what it says of what is not there."""

import pytest

from tests.reporting.fake_runs import write_run


def test_a_run_gets_a_page_beside_it(script, tmp_path, capsys):
    write_run(tmp_path / "run")
    script("report").main([str(tmp_path / "run")])
    assert (tmp_path / "run" / "report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "run" / "report.md").read_text().startswith("# run")
    assert "report.html" in capsys.readouterr().out


def test_runs_of_different_scripts_and_half_lines_make_one_report(script, tmp_path):
    first = write_run(tmp_path / "a")
    write_run(tmp_path / "b", config={"sft": {}}, rows={1: {"train/loss": 1.0}})
    with (first / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "objective/sco')
    out = tmp_path / "made" / "page.html"
    script("report").main([str(tmp_path), "--out", str(out), "--title", "Both & all"])
    assert "<h1>Both &amp; all</h1>" in out.read_text()
    assert "2 configurations" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize("kind", ["svg", pytest.param("png", marks=pytest.mark.slow)])
def test_plots_for_papers(script, tmp_path, kind):
    pytest.importorskip("matplotlib")
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", seed=seed)
    write_run(tmp_path / "b", config={"steps": 9})
    arguments = [str(tmp_path), "--out", str(tmp_path / "r.html"), "--format", kind, "--plots"]
    for folder in ("one", "two"):
        script("report").main([*arguments, str(tmp_path / folder)])
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {
        f"{name}.{kind}" for name in ("objective-scores", "final-objective-scores", "overview")
    } <= names
    start = {"svg": b"<?xml", "png": b"\x89PNG"}[kind]
    for name in names:
        content = (tmp_path / "one" / name).read_bytes()
        assert content.startswith(start) and content == (tmp_path / "two" / name).read_bytes()


def test_what_cannot_be_reported_on_is_said(fails, tmp_path):
    assert "nowhere is not there: give directories of runs" in fails("report", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "empty holds no run" in fails("report", tmp_path / "empty")
    run = write_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text("")
    assert "is empty: the run has not ended its first step yet" in fails("report", run)
    write_run(run)
    assert "must end in .html" in fails("report", run, "--out", tmp_path / "page.txt")
    (tmp_path / "file").write_text("")
    message = fails("report", run, "--out", tmp_path / "file" / "page.html")
    assert "cannot be written" in message and "give --out another place" in message
    write_run(tmp_path / "sweep" / "cells" / "a" / "seed0")
    assert "is a sweep: report on it alone" in fails("report", tmp_path / "sweep", run)
