"""Tables of a report, as HTML and as Markdown, and how its numbers are spelt."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from rljax.training.writer import escape_markdown

NOTHING = "–"
_PLAIN = re.compile(r"(?:[^\W_]|(?<=[^\W_])_(?=[^\W_])|[ .,/=:()\[\]%+−–∞·✓✗⇄?-])*")


class Table(NamedTuple):
    """A table of plain text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    """What stands below it."""
    right: bool = True
    """Whether all columns but the first are numbers, which stand at the right."""


def number(value: float | None, digits: int = 3) -> str:
    """Spell a number in `digits` digits: 0.123, 12,300, 1.2e-05; nothing for None and NaN."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if abs(value) >= 1e6 or 0 < abs(value) < 1e-3:
        text = f"{value:.{digits - 1}e}"
        base, _, power = text.partition("e")
        if "." in base:
            base = base.rstrip("0").rstrip(".")
        text = f"{base}e{int(power)}"
    elif abs(value) >= 10 ** (digits - 1):
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits}g}"
        text = f"{float(text):.10f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text.replace("-", "−", 1) if text[0] == "-" else text


def interval(mean: float | None, low: float | None, high: float | None) -> str:
    """Spell a mean with its interval; the mean alone where there is none."""
    if low is None or high is None or math.isnan(low) or low == high:
        return number(mean)
    return f"{number(mean)} [{number(low)}, {number(high)}]"


def duration(seconds: float) -> str:
    """Spell a time: 0.21 s, 48 s, 3 min 20 s, 2 h 5 min."""
    if math.isnan(seconds):
        return NOTHING
    if seconds < 100:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def table_html(table: Table) -> str:
    """Spell a table as HTML, in a box that scrolls by itself where it is too wide."""
    number_class = ' class="num"' if table.right else ""
    labels = [html.escape(name, quote=True) for name in table.header[1:]]
    head = "".join(
        f'<th scope="col"{number_class if place else ""}>{html.escape(name)}</th>'
        for place, name in enumerate(table.header)
    )
    body = "".join(
        "<tr>"
        + f'<th scope="row">{html.escape(row[0])}</th>'
        + "".join(
            f'<td{number_class} data-label="{name}">{html.escape(cell)}</td>'
            for name, cell in zip(labels, row[1:], strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    label = html.escape(table.title, quote=True)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"
    )


def table_markdown(table: Table) -> str:
    """Spell a table as Markdown, with its title and note."""
    rule = "---:" if table.right else "---"
    lines = [f"## {escape_heading(table.title)}", ""]
    lines.append("| " + " | ".join(escape_cell(name) for name in table.header) + " |")
    lines.append("| " + " | ".join(["---", *[rule] * (len(table.header) - 1)]) + " |")
    lines += ["| " + " | ".join(escape_cell(cell) for cell in row) + " |" for row in table.rows]
    if table.note:
        lines += ["", table.note]
    return "\n".join(lines) + "\n"


def escape_heading(text: str) -> str:
    """Return text for a heading, on one line."""
    return " ".join(text.split())


def escape_cell(text: str) -> str:
    """Escape what Markdown or HTML would read in a cell; leave numbers and plain names alone."""
    return text if _PLAIN.fullmatch(text) and "](" not in text else escape_markdown(text)


def ordered(names: Sequence[str], first: Sequence[str]) -> list[str]:
    """Return names, those of `first` before the others, in their order."""
    return [*(name for name in first if name in names), *(n for n in names if n not in first)]
