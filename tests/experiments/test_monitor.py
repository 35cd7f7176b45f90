"""The stream reader as it is used: lines in, lines of JSON out, at once."""

import json
import subprocess
import sys

import pytest

from experiments import monitor
from rljax.training.flags import repository_root
from rljax.training.writer import read_jsonl

POLICY = """
def tone(prompts):
    words = {"loss": "negative", "gain": "positive"}
    return [next((t for w, t in words.items() if w in p), "neutral") for p in prompts]
"""
NEWS = "gain one\nloss two\n\nloss three\nno news\ngain four\ngain five\n"
FLAGS = ["--alarm.window", "2", "--alarm.min-documents", "2", "--alarm.below", "-0.9"]


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(POLICY)
    return ["--policy", f"{path}:tone", "--task", f"classification?path={labelled(tmp_path)}"]


def labelled(folder):
    path = folder / "labelled.csv"
    path.write_text("text,label\na,negative\nb,neutral\nc,positive\n")
    return path


def run(capsys, *argv):
    monitor.main(list(argv))
    made = capsys.readouterr()
    return [json.loads(line) for line in made.out.splitlines()], made.err


def test_a_file_gives_scores_averages_and_alarms(capsys, tmp_path, policy):
    news = tmp_path / "news.txt"
    news.write_text(NEWS)
    rows, err = run(capsys, "--file", str(news), *policy, *FLAGS)
    scored = [row for row in rows if "event" not in row]
    assert [row["score"] for row in scored] == [1, -1, -1, 0, 1, 1]
    assert [row["average"] for row in scored] == [1, 0, -1, -0.5, 0.5, 1]
    assert [row["line"] for row in scored] == [1, 2, 4, 5, 6, 7]
    assert [row["alarm"] for row in scored] == [None, None, "below", None, None, None]
    events = [(row["event"], row["line"], row["threshold"]) for row in rows if "event" in row]
    assert events == [("alarm raised", 4, -0.9), ("alarm called off", 5, -0.9)]
    assert "6 documents, 0 bad lines, 1 alarms raised" in err


def test_values_give_labels_their_scores(capsys, tmp_path, policy):
    news = tmp_path / "news.txt"
    news.write_text("loss\nnone\n")
    rows, _ = run(capsys, "--file", str(news), *policy, "--values", "negative=-0.5,neutral=0.25")
    assert [row["score"] for row in rows] == [-0.5, 0.25]


def test_bad_lines_are_counted_and_bounded(capsys, tmp_path, policy):
    news = tmp_path / "news.jsonl"
    news.write_text('{"t": "gain"}\nnews\n{"t": "loss"}\n{"x": 1}\n')
    rows, err = run(capsys, "--file", str(news), "--field", "t", *policy)
    assert [row["score"] for row in rows] == [1, -1]
    assert "news.jsonl:2: bad line: expected a JSON object" in err
    assert "2 documents, 2 bad lines" in err
    with pytest.raises(SystemExit):
        monitor.main(["--file", str(news), "--field", "t", "--max-bad-lines", "1", *policy])
    assert "more than 1 bad lines" in capsys.readouterr().err


def test_an_alarm_runs_a_command_and_ends_the_stream(capsys, tmp_path, policy):
    news, told = tmp_path / "news.txt", tmp_path / "told.jsonl"
    news.write_text(NEWS)
    flags = ["--file", str(news), *policy, *FLAGS, "--command", f"cat >> {told}; exit 3"]
    with pytest.raises(SystemExit) as ended:
        monitor.main([*flags, "--alarm-exit", "7"])
    assert ended.value.code == 7
    assert "ended with 3" in capsys.readouterr().err
    assert [row["event"] for row in read_jsonl(told)] == ["alarm raised"]


def test_a_pipe_is_answered_line_by_line(tmp_path, policy):
    script = repository_root() / "experiments" / "monitor.py"
    command = [sys.executable, str(script), *policy]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=repository_root()
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for text, score in ((b"gain", 1), (b"loss", -1)):
            process.stdin.write(text + b"\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["score"] == score  # before the end
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--follow"], "follow is for a file"),
        (["--poll-s", "2"], "poll_s is 2.0"),
        (["--policy", "model"], "give one of --model"),
        (["--run", "runs/x"], "need --policy model"),
        (["--task", "finance"], "task is of policies that say labels"),
        (["--alarm-exit", "300"], "alarm_exit is 300"),
        (["--encoding", "utf-9"], "encoding is 'utf-9'"),
        (["--alarm.window", "0"], "window is 0"),
        (["--file", "/nowhere/news.txt", "--policy", "vader"], "nowhere/news.txt: cannot be read"),
    ],
)
def test_flags_that_cannot_be_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit) as ended:
        monitor.main(flags)
    assert message in f"{ended.value.code} {capsys.readouterr()}"


def test_values_that_cannot_be_are_refused(tmp_path, policy, capsys):
    news = tmp_path / "news.txt"
    news.write_text("loss\n")
    for values, message in (("bad=1", "'bad' is none of"), ("negative=x", "'x' is no number")):
        with pytest.raises(SystemExit) as ended:
            monitor.main(["--file", str(news), *policy, "--values", values])
        assert message in f"{ended.value.code} {capsys.readouterr()}"
