"""Metrics: exact numbers, valid JSON, cut on resume, what TensorBoard reads back."""

import json
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator as ServerAccumulator,
)
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.plugins.hparams import plugin_data_pb2

from rljax.training.errors import UserError
from rljax.training.writer import MetricsWriter, escape_markdown, markdown_table, read_jsonl


def events(directory) -> EventAccumulator:
    accumulator = EventAccumulator(
        str(directory), size_guidance={"scalars": 0, "tensors": 0, "histograms": 0}
    )
    return accumulator.Reload()


def test_numbers_come_back_bit_for_bit(tmp_path):
    values = {
        "python": 0.1 + 0.2,
        "numpy": np.float32(0.1),
        "jax": jnp.float32(1 / 3),
        "half": jnp.bfloat16(0.1),
        "tiny": 5e-324,
        "integer": jnp.int32(7),
        "large": 2**60 + 1,
        "array": np.asarray(2.5),
    }
    with MetricsWriter(tmp_path) as writer:
        writer.scalars(3, values)
    (record,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert record == {"step": 3} | {
        name: int(value) if name in ("integer", "large") else float(value)
        for name, value in values.items()
    }
    assert np.float32(record["jax"]) == np.float32(1 / 3)
    assert isinstance(record["integer"], int)
    assert events(tmp_path).Scalars("python")[0].step == 3


def test_nan_and_infinity_are_valid_json_and_come_back(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.scalars(0, {"a": math.nan, "b": jnp.inf, "c": -np.inf, "d": 1.0})
    line = (tmp_path / "metrics.jsonl").read_text()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    raw = json.loads(line, parse_constant=refuse)
    assert raw["a"] is None and raw["nonfinite"]["c"] == "-Infinity" and raw["d"] == 1.0
    (record,) = read_jsonl(tmp_path / "metrics.jsonl")
    assert math.isnan(record["a"]) and record["b"] == math.inf and record["c"] == -math.inf


@pytest.mark.parametrize(
    ("value", "kind"),
    [(np.zeros(3), r"float64\[3\]"), ("0.1", "str"), (None, "NoneType"), ({}, "dict")],
)
def test_what_is_no_number_is_refused_by_name(tmp_path, value, kind):
    with MetricsWriter(tmp_path) as writer:
        with pytest.raises(TypeError, match=f"policy/loss is {kind}, not a number"):
            writer.scalars(0, {"policy/loss": value})
        with pytest.raises(ValueError, match="'step' is a field of every line"):
            writer.scalars(0, {"step": 1})
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def run(directory, steps, resume_step=None) -> None:
    with MetricsWriter(directory, resume_step) as writer:
        for step in steps:
            writer.scalars(step, {"loss": step / 7})
            writer.scalars(step, {"eval/score": step / 3})
            writer.completions(step, [{"prompt": "a\nb", "completion": f"é{step}", "score": 0.1}])


def test_resume_gives_the_files_of_an_unbroken_run(tmp_path):
    run(tmp_path / "whole", range(6))
    run(tmp_path / "broken", range(5))
    for name in ("metrics.jsonl", "completions.jsonl"):
        with (tmp_path / "broken" / name).open("ab") as file:
            file.write(b'{"step": 5, "loss": 0.7')  # killed in the middle of a line
    run(tmp_path / "broken", range(3, 6), resume_step=2)
    for name in ("metrics.jsonl", "completions.jsonl"):
        whole, broken = ((tmp_path / run / name).read_bytes() for run in ("whole", "broken"))
        assert whole == broken and whole.count(b"\n") >= 6
    scalars = events(tmp_path / "broken").Scalars("loss")
    assert [event.step for event in scalars] == [0, 1, 2, 3, 4, 5]
    server = ServerAccumulator(str(tmp_path / "broken"), size_guidance={"tensors": 0}).Reload()
    texts = server.Tensors("completions/text_summary")
    assert [event.step for event in texts] == [0, 1, 2, 3, 4, 5]


def test_sizes_cut_lines_of_the_same_step_too(tmp_path, capsys):
    with MetricsWriter(tmp_path) as writer:
        writer.scalars(2, {"loss": 0.5})
        sizes = writer.flush()  # here a checkpoint of step 2 is saved
        writer.scalars(2, {"eval/scores": 1.0})
        writer.completions(2, [{"prompt": "a", "completion": "b"}])
    MetricsWriter(tmp_path, 2, sizes).close()
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 2, "loss": 0.5}]
    assert (tmp_path / "completions.jsonl").read_bytes() == b""
    assert capsys.readouterr().err == ""
    for edited in ('{"step": 2}\n', '{"step": 2, "loss": 0.123456789}\n'):
        (tmp_path / "metrics.jsonl").write_text(edited + '{"step": 3}\n')
        MetricsWriter(tmp_path, 2, {"metrics.jsonl": 27}).close()
        assert (tmp_path / "metrics.jsonl").read_text() == edited
        assert "not as it was at step 2" in capsys.readouterr().err


def test_half_a_last_line_goes_even_when_its_step_is_kept(tmp_path):
    run(tmp_path, range(2))
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 1, "lo')
    run(tmp_path, [], resume_step=1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == whole


def test_a_new_start_forgets_everything(tmp_path):
    run(tmp_path, range(4))
    run(tmp_path, [0, 1])
    assert [record["step"] for record in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 0, 1, 1]
    assert [event.step for event in events(tmp_path).Scalars("loss")] == [0, 1]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\nnot json\n{"step": 1}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2 is not JSON"):
        MetricsWriter(tmp_path, resume_step=1)
    with pytest.raises(UserError, match="cannot be written"):
        MetricsWriter(tmp_path / "metrics.jsonl" / "x")


NASTY = "a|b\nc `code` *b* _i_ <|im_end|> <b>x</b> # h [l](u) \\| & \"q\" 's' ~~x~~ 1. - !"


def test_nasty_text_stays_in_its_cell_and_shows_as_it_is():
    rows = [
        {"prompt": NASTY, "completion": " lead", "score": 0.123456, "kl": None},
        {"prompt": "", "completion": "```\n| x |\n```", "score": -1.0, "extra": True},
    ]
    html = markdown_to_safe_html(markdown_table(rows))
    table = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.S) for row in html.split("</tr>")]
    cells = [row for row in table if row]
    assert cells[0] == ["prompt", "completion", "score", "kl", "extra"]
    assert [len(row) for row in cells] == [5, 5, 5]
    shown = cells[1][0].replace("<br>", "\n")
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        shown = shown.replace(entity, char)
    shown = re.sub(r"&#(\d+);", lambda match: chr(int(match[1])), shown)
    assert shown == NASTY
    assert cells[1][2:] == ["0.123", "", ""] and cells[2][2:] == ["-1", "", "True"]


def test_completions_are_kept_whole_and_shown_as_a_table(tmp_path):
    rows = [{"prompt": NASTY, "completion": "\ud800\x00\u2028ok", "score": jnp.float32(0.5)}] * 20
    with MetricsWriter(tmp_path) as writer:
        writer.completions(4, rows)
        with pytest.raises(TypeError, match="tokens is int64"):
            writer.completions(4, [{"tokens": np.arange(3)}])
    records = read_jsonl(tmp_path / "completions.jsonl")
    assert len(records) == 20 and records[0]["prompt"] == NASTY and records[0]["step"] == 4
    assert records[0]["completion"] == "\ud800\x00\u2028ok" and records[0]["score"] == 0.5
    (event,) = events(tmp_path).Tensors("completions/text_summary")
    table = event.tensor_proto.string_val[0].decode()
    assert table.count("\n") == 17  # head, rule, 16 rows


def test_text_histogram_and_config(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.text(1, "note", "**hello**")
        writer.histogram(1, "scores", jnp.asarray([1, 2, 2, 3]))
        writer.config_text({"ppo": {"clip_eps": 0.2}})
        with pytest.raises(ValueError, match="histogram scores"):
            writer.histogram(1, "scores", [math.nan])
    board = events(tmp_path)
    assert board.Histograms("scores")[0].histogram_value.num == 4
    assert set(board.Tags()["tensors"]) == {"note/text_summary", "config/text_summary"}
    config = board.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"clip_eps": 0.2' in config and config.startswith("```json")


def test_hparams_belong_to_the_run_itself(tmp_path):
    fields = {"ppo.clip_eps": 0.2, "steps": 3, "whiten": True, "name": "x", "ids": (1, 2)}
    with MetricsWriter(tmp_path / "run") as writer:
        writer.hparams(fields, ["objective/scores"])
        writer.scalars(1, {"objective/scores": 0.5})
    assert [path for path in (tmp_path / "run").iterdir() if path.is_dir()] == []
    board = events(tmp_path / "run")
    start = plugin_data_pb2.HParamsPluginData.FromString(
        board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    ).session_start_info
    assert start.hparams["ppo.clip_eps"].number_value == 0.2
    assert start.hparams["whiten"].bool_value is True
    assert start.hparams["ids"].string_value == "(1, 2)"
    experiment = plugin_data_pb2.HParamsPluginData.FromString(
        board.SummaryMetadata("_hparams_/experiment").plugin_data.content
    ).experiment
    assert [info.name.tag for info in experiment.metric_infos] == ["objective/scores"]


def test_flush_puts_everything_on_the_disk(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.scalars(0, {"loss": 1.0})
    writer.flush()
    assert events(tmp_path).Scalars("loss")[0].value == 1.0
    writer.close()


def test_escaping_handles_line_ends():
    assert escape_markdown("a\r\nb\rc\td") == "a<br>b<br>c&nbsp; d"
