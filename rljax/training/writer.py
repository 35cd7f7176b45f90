"""Metrics of a run: TensorBoard events, metrics.jsonl and completions.jsonl, exact on resume.

metrics.jsonl has one line for each call of `scalars`: `{"step": 3, "objective/kl": 0.12, ...}`.
Floats are written so that reading gives the same bits. NaN and infinities, which JSON lacks, are
null, and the line's `nonfinite` says which: `{"step": 3, "loss": null, "nonfinite": {"loss":
"NaN"}}`. completions.jsonl has one line for each completion. `read_jsonl` reads both back.

On resume at step N every line beyond N is cut away and TensorBoard is told to forget what it read
beyond N, so that a run that was killed has the same files as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

import jax.numpy as jnp
import numpy as np
from tensorboardX import summary as summaries

from rljax.training import processes
from rljax.training.errors import UserError
from rljax.training.events import EventFile
from rljax.training.manifest import write_text_atomically

NONFINITE, BY_TOKEN = "nonfinite", "by_token"
HPARAMS_FILE = "hparams.json"
"""In a run directory of a sweep: {"fields": ..., "metrics": ...} of its row of HPARAMS."""
_RESERVED = ("step", NONFINITE)
_BINS = 64  # of a histogram
Listener = Callable[[int, Mapping[str, int | float]], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have what runs write in this block, in this thread, heard: listener(step, scalars).

    It is called when the line is in metrics.jsonl. What it raises ends the run there.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def plain_number(name: str, value: Any) -> int | float:
    """Return a Python number of the same value as a Python, numpy or jax scalar.

    Raises:
      TypeError: naming `name`, where the value is not one number.
    """
    if isinstance(value, bool | int | float):
        return value
    array = np.asarray(value)
    if array.ndim == 0:
        if jnp.issubdtype(array.dtype, jnp.floating):
            return float(array)
        if jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == np.bool_:
            return int(array)
    kind = f"{array.dtype}{list(array.shape)}" if array.ndim else type(value).__name__
    raise TypeError(f"{name} is {kind}, not a number: reduce it before it is logged")


def to_line(step: int, values: Mapping[str, Any]) -> str:
    """Return one line of JSON with exact floats; see the module's docstring for NaN."""
    nonfinite = {
        name: json.dumps(value)  # NaN, Infinity or -Infinity
        for name, value in values.items()
        if isinstance(value, float) and not math.isfinite(value)
    }
    record = {"step": step, **values} | dict.fromkeys(nonfinite)
    if nonfinite:
        record[NONFINITE] = nonfinite
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl or completions.jsonl back, NaN and infinities included.

    A half-written last line (of a run that is being written or was killed) is left out.

    Raises:
      UserError: another line is not JSON; the message names the file and the line.
    """
    records = []
    for _, record in _whole_lines(Path(path)):
        for name, text in record.pop(NONFINITE, {}).items():
            record[name] = float(text)
        records.append(record)
    return records


def _whole_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Return the lines of a jsonl file, and what they hold, without a half-written last one."""
    lines = path.read_bytes().split(b"\n")
    lines = lines[:-1] if lines else []  # what follows the last newline is empty or half a line
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f"a {type(record).__name__}, not an object")
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number} is not JSON ({error})") from None
        found.append((line, record))
    return found


def _cut(path: Path, resume_step: int | None, size: int | None) -> None:
    """Drop what was written after `size` bytes, or where that is unknown beyond `resume_step`."""
    if not path.exists():
        return
    if resume_step is None:
        kept = b""
    elif size is not None and _is_line_end(path, size):
        kept = path.read_bytes()[:size]
    else:
        if size is not None:
            text = f"rljax: {path} is not as it was at step {resume_step}; cutting it by its steps"
            print(text, file=sys.stderr, flush=True)
        lines = [line for line, row in _whole_lines(path) if row["step"] <= resume_step]
        kept = b"".join(line + b"\n" for line in lines)
    if len(kept) != path.stat().st_size:
        write_text_atomically(path, kept.decode("utf-8"))


def _is_line_end(path: Path, size: int) -> bool:
    """Say whether a file has `size` bytes or more, the last of them a line's end."""
    if size == 0:
        return True
    with path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1) == b"\n"


def escape_markdown(text: str) -> str:
    """Return text that a Markdown table cell shows as it is: HTML entities, `<br>` for lines."""
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    special = "&<>|`*_[]()#~\\!+-$\"'"
    escaped = "".join(f"&#{ord(char)};" if char in special else char for char in text)
    return escaped.replace("\n", "<br>").replace("\t", "&nbsp; ")


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a Markdown table; columns in order of first appearance, floats to 3 digits."""
    columns = list(dict.fromkeys(name for row in rows for name in row))

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.3g}"
        return "" if value is None else escape_markdown(str(value))

    lines = ["| " + " | ".join(escape_markdown(name) for name in columns) + " |"]
    lines.append("|" + " --- |" * len(columns))
    lines += ["| " + " | ".join(cell(row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


class MetricsWriter:
    """Writes what a run measures into its directory.

    Args:
      workdir: the run directory; `tensorboard --logdir` of it or of its parent shows the run.
      resume_step: step of the checkpoint that the run goes on from; later lines are cut. None
        starts the files anew.
      sizes: what `flush` returned just before that checkpoint was saved: the files are cut to
        just there, so that lines of the same step that came after it go too.

    Raises:
      UserError: the directory cannot be written, or a file there is not what it should be.
    """

    def __init__(
        self,
        workdir: str | Path,
        resume_step: int | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.workdir = Path(workdir)
        self._first_step = resume_step or 0
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            self._metrics = self._open("metrics.jsonl", resume_step, sizes)
            self._completions = self._open("completions.jsonl", resume_step, sizes)
            purge_step = 0 if resume_step is None else resume_step + 1
            self._board = EventFile(self.workdir, purge_step)
        except OSError as error:
            raise UserError(f"metrics cannot be written to {self.workdir}: {error}") from error

    def _open(self, name: str, resume_step: int | None, sizes: Mapping[str, int] | None) -> TextIO:
        _cut(self.workdir / name, resume_step, sizes.get(name) if sizes else None)
        return (self.workdir / name).open(
            "a", encoding="utf-8", errors="backslashreplace", newline="\n"
        )

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Write one line of metrics.jsonl and the same scalars to TensorBoard.

        Args:
          step: training steps done when the values were measured.
          values: {"group/name": Python, numpy or jax scalar}.

        Raises:
          TypeError: naming the key whose value is not one number.
        """
        numbers = {name: plain_number(name, value) for name, value in values.items()}
        _check_names(numbers)
        self._metrics.write(to_line(step, numbers))
        self._metrics.flush()
        for name, number in numbers.items():
            self._board.add(step, summaries.scalar(name, float(number)))
        heard = _listener.get()
        if heard is not None:
            heard(step, numbers)

    def histogram(self, step: int, name: str, values: Any) -> None:
        """Show how values spread (TensorBoard's HISTOGRAMS and DISTRIBUTIONS).

        Raises:
          ValueError: there are no values, or one is not finite.
        """
        array = np.asarray(values, np.float64).reshape(-1)
        if not array.size or not np.isfinite(array).all():
            raise ValueError(f"histogram {name}: {array.size} values, not all finite, or none")
        self._board.add(step, summaries.histogram(name, array, bins=_BINS))

    def text(self, step: int, name: str, markdown: str) -> None:
        """Show Markdown under TensorBoard's TEXT."""
        self._board.add(step, summaries.text(name, markdown))

    def completions(
        self,
        step: int,
        rows: Iterable[Mapping[str, Any]],
        name: str = "completions",
        max_rows: int = 16,
    ) -> None:
        """Write sampled completions to completions.jsonl and as a table to TensorBoard's TEXT.

        Args:
          step: training steps done when they were sampled.
          rows: e.g. {"prompt": str, "completion": str, "score": 0.3, "kl": 0.1}; values are
            strings, numbers (jax and numpy scalars too), booleans or None. `by_token` is a table of
            `rljax.tasks.token_tables`, which only the file gets.
          name: TensorBoard's tag.
          max_rows: rows of the table; the file gets all.

        Raises:
          TypeError: naming the key of a value that is none of these.
        """
        plain = []
        for row in rows:
            _check_names(row)
            plain.append(
                {
                    key: value
                    if value is None or isinstance(value, str) or key == BY_TOKEN
                    else plain_number(key, value)
                    for key, value in row.items()
                }
            )
        self._completions.write("".join(to_line(step, row) for row in plain))
        self._completions.flush()
        if plain:
            told = [{k: x for k, x in row.items() if k != BY_TOKEN} for row in plain[:max_rows]]
            self._board.add(step, summaries.text(name, markdown_table(told)))

    def config_text(self, config: Mapping[str, Any]) -> None:
        """Show the resolved config (as `config_to_json` gives it) under TEXT."""
        text = json.dumps(config, indent=2, ensure_ascii=False)
        self._board.add(self._first_step, summaries.text("config", f"```json\n{text}\n```"))

    def hparams(self, fields: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Make this run a row of TensorBoard's HPARAMS, beside the other runs of the parent.

        Args:
          fields: {"ppo.clip_eps": 0.2, ...}, as `flatten_config` gives them; what is neither
            number, string nor boolean is shown as text.
          metrics: names of scalars that become columns, e.g. ["objective/scores"].

        What a sweep has put down for its runs, of fields that all of them show, goes first.
        """
        own = self.workdir / HPARAMS_FILE
        if own.is_file():
            content = json.loads(own.read_text(encoding="utf-8"))
            fields, metrics = content["fields"], content["metrics"]
            if not fields:
                return  # a stage of a sweep is none of its rows
        shown = {
            name: value if isinstance(value, bool | int | float | str) else str(value)
            for name, value in fields.items()
        }
        experiment, start, _ = summaries.hparams(shown, dict.fromkeys(metrics, 0))
        for summary in (experiment, start):
            self._board.add(0, summary)

    def flush(self) -> dict[str, int]:
        """Force everything written so far to the disk: call it before a checkpoint is saved.

        Returns:
          {"metrics.jsonl": bytes, "completions.jsonl": bytes}, for the checkpoint's host state.
        """
        sizes = {}
        for file in (self._metrics, self._completions):
            file.flush()
            os.fsync(file.fileno())
            sizes[Path(file.name).name] = os.fstat(file.fileno()).st_size
        self._board.flush()
        return sizes

    def close(self) -> None:
        """Flush and close the files."""
        self.flush()
        self._metrics.close()
        self._completions.close()
        self._board.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


class SilentWriter(MetricsWriter):
    """Writes nothing: of several processes, all but the first have this one."""

    def __init__(self) -> None:
        pass

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Write nothing."""

    def histogram(self, step: int, name: str, values: Any) -> None:
        """Write nothing."""

    def text(self, step: int, name: str, markdown: str) -> None:
        """Write nothing."""

    def completions(self, *unused: Any, **named: Any) -> None:
        """Write nothing."""

    def config_text(self, config: Mapping[str, Any]) -> None:
        """Write nothing."""

    def hparams(self, fields: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Write nothing."""

    def flush(self) -> dict[str, int]:
        """Return no sizes: the first process knows them."""
        return {}

    def close(self) -> None:
        """Close nothing."""


def open_writer(
    workdir: str | Path, resume_step: int | None, sizes: Mapping[str, int] | None
) -> MetricsWriter:
    """Open the writer of a run in its first process, a silent one in the others."""
    if not processes.is_first():
        return SilentWriter()
    return MetricsWriter(workdir, resume_step, sizes)


def _check_names(values: Mapping[str, Any]) -> None:
    for name in _RESERVED:
        if name in values:
            raise ValueError(f"{name!r} is a field of every line: name the value otherwise")
