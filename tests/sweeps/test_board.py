"""What TensorBoard finds in a sweep's directory, read back by its own code."""

import html

import pytest
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata

from rljax.sweeps.board import differing_fields, write_fields, write_overview
from rljax.sweeps.results import markdown, results
from rljax.sweeps.worker import make_run
from rljax.training.writer import MetricsWriter
from tests.sweeps.sweep_cases import MEASURING, no_script, open_sweep, sweep_file


@pytest.fixture
def board(tmp_path):
    runs = open_sweep(sweep_file(tmp_path), tmp_path / "out")
    for name in runs.cells:
        make_run(runs, name, no_script)
    for _ in range(2):  # written again it stands there once
        write_overview(runs, markdown(results(runs)))
    found = EventMultiplexer().AddRunsFromDirectory(str(runs.directory))
    found.Reload()
    return found


def scalars(board, run, tag):
    events = board.Tensors(run, tag)
    return [(event.step, event.tensor_proto.float_val[0]) for event in events]


def test_runs_are_named_by_arm_and_seed(board):
    cells = {f"cells/{arm}/seed{seed}" for arm in ("fair", "loaded") for seed in (0, 1, 2)}
    assert set(board.Runs()) == cells | {"mean/fair", "mean/loaded", "."}


def test_hparams_have_a_row_for_each_run_and_the_metrics(board):
    plugin = board.SummaryMetadata("cells/loaded/seed2", metadata.SESSION_START_INFO_TAG)
    start = metadata.parse_session_start_info_plugin_data(plugin.plugin_data.content)
    shown = {
        name: value.string_value or value.number_value for name, value in start.hparams.items()
    }
    assert shown == {"arm": "loaded", "seed": 2, "bias": 0.75}
    plugin = board.SummaryMetadata("cells/fair/seed0", metadata.EXPERIMENT_TAG)
    experiment = metadata.parse_experiment_plugin_data(plugin.plugin_data.content)
    assert [info.name.tag for info in experiment.metric_infos] == ["sweep/heads", "sweep/most"]
    assert scalars(board, "cells/loaded/seed2", "sweep/heads") == [(4, 4.25)]


def test_what_the_run_wrote_is_still_there(board):
    tags = board.Runs()["cells/loaded/seed2"]["tensors"]
    assert {"heads", "completions/text_summary", "sweep/heads"} <= set(tags)
    assert scalars(board, "cells/loaded/seed2", "heads")[-1] == (3, 4.25)


def test_means_have_their_intervals(board):
    assert scalars(board, "mean/fair", "heads") == [(1, 1.5), (2, 2.0), (3, 2.5)]
    (_, low), (_, high) = (
        scalars(board, "mean/fair", f"heads/{end}")[0] for end in ("low", "high")
    )
    assert 0.5 <= low < 1.5 < high <= 2.5


def test_the_layout_has_a_band_for_what_is_measured(board):
    (event,) = board.Tensors(".", "custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    (category,) = layout.category
    (chart,) = category.chart
    (series,) = chart.margin.series
    assert chart.title == "heads"
    assert (series.value, series.lower, series.upper) == ("heads", "heads/low", "heads/high")


def test_texts_show_the_results_and_what_each_arm_writes(board):
    def text(tag):
        (event,) = board.Tensors(".", tag)
        return event.tensor_proto.string_val[0].decode()

    assert "a loaded coin shows more heads" in text("results/text_summary")
    assert "bias 0.75" in html.unescape(text("samples/text_summary"))


def test_a_stage_is_no_row_and_names_no_columns(tmp_path):
    text = MEASURING.replace("    program=toss,", "    program=toss,\n    stages={'base': Coin()},")
    runs = open_sweep(sweep_file(tmp_path, text), tmp_path / "out")
    runs.write_config("stages/base")
    write_fields(runs, "stages/base")
    with MetricsWriter(runs.path("stages/base")) as writer:
        writer.scalars(1, {"loss": 1.0})
        writer.hparams({"optimizer.learning_rate": 0.1}, ["loss"])
    found = EventMultiplexer().AddRunsFromDirectory(str(runs.directory))
    found.Reload()
    assert found.Runs()["stages/base"]["tensors"] == ["loss"]


def test_fields_of_different_kinds_are_shown_as_text(tmp_path):
    text = MEASURING.replace('"loaded": {"bias": 0.75}', '"loaded": {"fails": True}')
    runs = open_sweep(sweep_file(tmp_path, text), tmp_path / "out")
    fields = differing_fields(runs)
    assert fields["cells/fair/seed1"] == {"arm": "fair", "seed": 1, "fails": "False"}
    assert fields["cells/loaded/seed1"]["fails"] == "True"
