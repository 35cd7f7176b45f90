"""Searches whose runs are made up: what wins, what is given up, and what a kill leaves."""

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("optuna")
from rljax.errors import UserError
from rljax.experiment import TextExperiment
from rljax.reporting.searches import pictures, read_search, trials_table, write_pictures
from rljax.search.running import Measure, Search, Stopped, Stream, work
from rljax.search.space import parse_space
from rljax.search.trials import Trials
from rljax.training.config_json import config_from_json
from rljax.training.writer import MetricsWriter, listening, read_jsonl

BASE = TextExperiment(steps=10)
SPACE = ("optimizer.learning_rate=log(1e-5,1e-1)", "sft.batch_size=choice(4,8)")
METRIC = "train/score"


def worth(config) -> float:
    """The best rate is 1e-3, and large batches are a little better."""
    return -abs(math.log10(config.optimizer.learning_rate) + 3) + 0.01 * config.sft.batch_size


class Runs:
    """Launches made-up runs; `last` is the step after which the next one stops."""

    def __init__(self) -> None:
        self.made: list[Path] = []
        self.last: int | None = None
        self.error: str | None = None

    def __call__(self, file: Path) -> None:
        config = config_from_json(TextExperiment, json.loads(file.read_text()))
        directory = file.parent
        self.made.append(directory)
        if self.error is not None:
            raise UserError(self.error)
        old = directory / "metrics.jsonl"
        start = max((row["step"] for row in read_jsonl(old)), default=0) if old.exists() else 0
        with MetricsWriter(directory, start or None) as writer:
            for step in range(start + 1, config.steps + 1):
                writer.scalars(step, {METRIC: worth(config) * step / config.steps + config.seed})
                if step == self.last:
                    return


def make_trials(directory: Path, **changes) -> Trials:
    settings = {
        "storage": None, "direction": "maximize", "wanted": 12, "startup": 4, "warmup": 0,
        "seed": 0,
    }  # fmt: skip
    return Trials(directory, **(settings | changes))


def make_search(runs, seeds=(0,), space=SPACE) -> Search:
    return Search(BASE, parse_space(space, BASE), Measure(METRIC, 0.1), seeds, runs)


def silent(text: str) -> None:
    del text


@pytest.mark.slow
def test_a_search_finds_what_is_good_and_gives_up_what_is_not(tmp_path):
    runs, trials, said = Runs(), make_trials(tmp_path, wanted=25), []
    work(make_search(runs), trials, said.append)
    rows = trials.rows()
    assert len(rows) == 25 == len(said)
    states = [row["state"] for row in rows]
    assert "pruned" in states and set(states) == {"complete", "pruned"}
    assert all(row["last_step"] < 10 for row in rows if row["state"] == "pruned")
    best = trials.best()
    assert best is not None and 2e-4 < best.params["optimizer.learning_rate"] < 5e-3
    assert max(row["value"] for row in rows if row["value"] is not None) == best.value
    shares = trials.importances()
    assert set(shares) == {"optimizer.learning_rate", "sft.batch_size"}
    assert shares["optimizer.learning_rate"] > 0.5


def test_each_trial_is_an_ordinary_run(tmp_path):
    runs, trials = Runs(), make_trials(tmp_path, wanted=2)
    work(make_search(runs), trials, silent)
    assert [path.name for path in runs.made] == ["0000", "0001"]
    for path, row in zip(runs.made, trials.rows(), strict=True):
        config = config_from_json(TextExperiment, json.loads((path / "config.json").read_text()))
        assert config.optimizer.learning_rate == row["values"]["optimizer.learning_rate"]
        assert row["value"] == pytest.approx(worth(config))
        assert (path / "log.txt").is_file()


@pytest.mark.slow
def test_a_search_that_goes_on_draws_what_it_would_have_drawn(tmp_path):
    whole = make_trials(tmp_path / "whole", wanted=9)
    work(make_search(Runs()), whole, silent)
    for wanted in (2, 5, 9):
        parts = make_trials(tmp_path / "parts", wanted=wanted)
        work(make_search(Runs()), parts, silent)
    assert [row["values"] for row in parts.rows()] == [row["values"] for row in whole.rows()]


def kill(trials: Trials) -> None:
    """What the kernel does for a process that is gone: its locks are let go of."""
    for file in trials._held.values():
        file.close()


def test_the_trial_of_a_killed_process_is_tried_again_where_it_was(tmp_path):
    search, runs = make_search(Runs()), Runs()
    first = make_trials(tmp_path, wanted=3)
    trial = first.draw(lambda t: [axis.suggest(t) for axis in search.axes])
    assert trial is not None
    second = make_trials(tmp_path, wanted=3)
    work(make_search(runs), second, silent)  # the first process lives: its trial is its own
    assert len(runs.made) == 2 and second.rows()[0]["state"] == "running"
    kill(first)
    work(make_search(runs), make_trials(tmp_path, wanted=3), silent)
    rows = second.rows()
    assert [row["state"] for row in rows] == ["fail", "complete", "complete", "complete"]
    assert rows[3]["values"] == rows[0]["values"] and rows[3]["place"] == rows[0]["place"]
    assert runs.made[2].name == "0000"


def test_values_that_kill_every_process_are_left_in_the_end(tmp_path):
    search = make_search(Runs())
    drawn = []
    for _ in range(5):
        trials = make_trials(tmp_path, wanted=2)
        trial = trials.draw(lambda t: [axis.suggest(t) for axis in search.axes])
        assert trial is not None
        drawn.append(trial.params["optimizer.learning_rate"])
        kill(trials)
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3] == drawn[4]


def test_a_stopped_trial_goes_on_with_its_steps(tmp_path):
    runs = Runs()
    runs.last = 4
    with pytest.raises(Stopped):
        work(make_search(runs), make_trials(tmp_path, wanted=1), silent)
    runs.last = None
    trials = make_trials(tmp_path, wanted=1)
    work(make_search(runs), trials, silent)
    assert runs.made[0] == runs.made[1]
    stopped, whole = trials.study.trials
    assert max(stopped.intermediate_values) == 4
    assert sorted(whole.intermediate_values) == list(range(1, 11))
    assert {step: whole.intermediate_values[step] for step in range(1, 5)} == (
        stopped.intermediate_values
    )


def test_processes_share_a_search(tmp_path):
    search, others = make_search(Runs()), []
    for number in range(3):
        trials = make_trials(tmp_path, wanted=3)
        trial = trials.draw(lambda t: [axis.suggest(t) for axis in search.axes])
        assert trial is not None and trial.number == number
        others.append((trials, trial))
    assert make_trials(tmp_path, wanted=3).draw(silent) is None
    for value, (trials, trial) in enumerate(others):
        trials.finish(trial, float(value))
    best = make_trials(tmp_path, wanted=3).best()
    assert best is not None and best.value == 2.0


def test_a_trial_that_cannot_run_says_why_and_counts(tmp_path):
    runs, said = Runs(), []
    runs.error = "policy/loss is nan at step 3"
    trials = make_trials(tmp_path, wanted=2)
    work(make_search(runs), trials, said.append)
    assert [row["reason"] for row in trials.rows()] == [runs.error] * 2
    assert "failed: policy/loss is nan" in said[0]
    assert trials.best() is None and trials.importances() == {}


def test_combinations_that_the_config_refuses_fail_without_a_run(tmp_path):
    runs = Runs()
    space = ("sft.batch_size=choice(3,4)", "sft.gradient_accumulation=choice(1,4)")
    trials = make_trials(tmp_path, wanted=12)
    work(make_search(runs, space=space), trials, silent)
    refused = [row for row in trials.rows() if row["state"] == "fail"]
    assert refused and all("gradient_accumulation" in row["reason"] for row in refused)
    assert len(runs.made) + len(refused) == 12


def test_several_seeds_are_averaged(tmp_path):
    runs, trials = Runs(), make_trials(tmp_path, wanted=1)
    work(make_search(runs, seeds=(0, 2)), trials, silent)
    assert [path.name for path in runs.made] == ["seed0", "seed2"]
    (row,) = trials.rows()
    assert row["last_step"] == 20
    values = [read_jsonl(path / "metrics.jsonl")[-1][METRIC] for path in runs.made]
    assert row["value"] == pytest.approx(sum(values) / 2) and values[1] - values[0] == 2


def test_what_a_run_is_worth_is_the_mean_of_its_last_steps():
    late, last = Stream(Measure("a", 0.5), 4), Stream(Measure("eval/a", 0.5), 4)
    values = [late.take(step, {"a": float(step)}) for step in range(5)]
    assert values == [None, 1.0, 1.5, 2.5, 3.5]
    assert late.take(5, {"b": 1.0}) is None and late.value == 3.5
    assert [last.take(step, {"eval/a": float(step)}) for step in (0, 2, 4)] == [None, 2.0, 4.0]
    assert math.isnan(Stream(Measure("a", 0.5), 4).value)


def test_a_listener_hears_what_is_written(tmp_path):
    heard = []
    with MetricsWriter(tmp_path) as writer:
        with listening(lambda step, values: heard.append((step, dict(values)))):
            writer.scalars(1, {"a": 1})
        writer.scalars(2, {"a": 2})
    assert heard == [(1, {"a": 1})]


def test_pictures_say_what_they_show(tmp_path):
    trials = make_trials(tmp_path, wanted=8)
    work(make_search(Runs()), trials, silent)
    content = {
        "search": {"space": list(SPACE), "metric": METRIC, "direction": "maximize"},
        "trials": trials.rows(), "importances": trials.importances(),
        "best": {"trial": 0, "value": 1.0, "command": "python experiments/sft.py"},
    }  # fmt: skip
    (tmp_path / "search.json").write_text(json.dumps(content))
    record = read_search(tmp_path)
    titles = [title for title, _ in pictures(record)]
    assert titles == ["History", "Importances", "optimizer.learning_rate", "sft.batch_size"]
    names = [file.name for file in write_pictures(tmp_path)]
    assert names == [
        "history.svg", "importances.svg", "slice-optimizer.learning_rate.svg",
        "slice-sft.batch_size.svg",
    ]  # fmt: skip
    measured = len(record.measured)
    picture = (tmp_path / "slice-optimizer.learning_rate.svg").read_text()
    assert picture.startswith("<svg xmlns=") and picture.count("<circle") == measured
    table = trials_table(record)
    assert table.rows[0][1] != "—" and len(table.rows) == 8
    values = [float(row[1].replace("−", "-")) for row in table.rows[:measured]]
    assert values == sorted(values, reverse=True)
