"""A report as one HTML file that opens without a network, and as Markdown.

What comes from models and data stands in it escaped, or as JSON that the page's script puts into
text nodes; the page's Content-Security-Policy runs no other script than its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

from rljax.reporting.contents import Contents
from rljax.reporting.curves import Plot, Section
from rljax.reporting.runs import flat_config
from rljax.reporting.samples import Pair, Samples
from rljax.reporting.searches import SearchRecord, pictures, trials_table
from rljax.reporting.svg import Final, final_svg, plot_svg, style_of
from rljax.reporting.tables import Table, number, table_html, table_markdown

_TURNING = (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C)
_SPELT_OUT = (
    {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
    | {0x7F: 0x2421}
    | {code: f"[U+{code:04X}]" for code in _TURNING}
)
SHOWN_PAIRS, SHOWN_FIELDS, SHOWN_GROUPS = 5, 12, 3
MANY = 6
"""Lines beyond which their bands are drawn fainter."""
_FINALS = 8


def escape(text: str) -> str:
    """Return text for HTML: escaped, and with control characters as the pictures of them."""
    return html.escape(visible(text), quote=True)


def visible(text: str) -> str:
    """Spell out characters that HTML drops, that turn the direction of text, or that are halves."""
    kept = text.encode("utf-8", "replace").decode("utf-8")
    return kept.translate(_SPELT_OUT)


def embed(content: Any) -> str:
    """Spell JSON that can stand within <script>: nothing in it ends the element."""
    text = json.dumps(_without_nan(content), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return visible(value) if isinstance(value, str) else value


def page(contents: Contents) -> str:
    """Return the report as HTML."""
    style, script = (
        resources.files("rljax.reporting").joinpath("page", name).read_text(encoding="utf-8")
        for name in ("report.css", "report.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = [
        (name, name.lower().replace(" ", "-"), body) for name, body in _parts(contents) if body
    ]
    nav = "".join(f'<li><a href="#{place}">{escape(name)}</a></li>' for name, place, _ in parts)
    body = "".join(
        f'<section id="{place}"><h2>{escape(name)}</h2>{content}</section>'
        for name, place, content in parts
    )
    title = escape(contents.title)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title} · rljax report</title><style>{style}</style></head><body>"
        '<a class="skip" href="#main">Skip to the results</a>'
        f"<header><h1>{title}</h1><p>{escape(contents.facts)}</p>"
        f'<nav aria-label="Sections"><ul>{nav}</ul></nav></header>'
        f'<main id="main">{body}</main>'
        '<div id="readout" role="status" hidden></div>'
        f'<script type="application/json" id="tokens-data">{embed(contents.tokens)}</script>'
        f"<script>{script}</script></body></html>\n"
    )


def _parts(contents: Contents) -> list[tuple[str, str]]:
    claims = "" if contents.claims is None else _claims(contents.claims)
    results = table_html(contents.results)
    compared: Sequence[Any] = ()
    if len(contents.groups) != 1:
        compared = [metric for metric in contents.finals if len(metric[1]) > 1][:_FINALS]
    if compared:
        results += f'<div class="plots">{"".join(map(_final, compared))}</div>'
    config = "" if contents.config is None else _folded(contents.config, SHOWN_FIELDS)
    if contents.config is None and len(contents.groups) == 1:
        config = '<p class="note">One configuration: nothing differs but the seed.</p>'
    return [
        ("Search", "" if contents.search is None else _search(contents.search)),
        ("Claims", claims),
        ("Results", results),
        ("Alarms", "" if contents.alarms is None else _wide(contents.alarms)),
        ("Curves", _curves(contents) if contents.sections else ""),
        ("Completions", _completions(contents.samples)),
        ("Tokens", _tokens(contents.tokens)),
        ("Configuration", config + _whole_configs(contents)),
        ("Cost", "" if contents.cost is None else table_html(contents.cost)),
    ]


def _search(record: SearchRecord) -> str:
    drawn = "".join(
        f'<figure class="plot"><figcaption>{escape(title)}</figcaption>{picture}</figure>'
        for title, picture in pictures(record)
    )
    return f'<div class="plots">{drawn}</div>{_folded(trials_table(record), SHOWN_FIELDS)}'


def _final(metric: tuple[str, Sequence[Final]]) -> str:
    name, rows = metric
    picture = final_svg(name, rows)
    return f'<figure class="plot"><figcaption>{escape(name)}</figcaption>{picture}</figure>'


def _folded(table: Table, count: int) -> str:
    """Show the first rows of a table, and the others behind a fold."""
    shown, rest = table.rows[:count], table.rows[count:]
    if not rest:
        return table_html(table)
    later = table_html(table._replace(rows=rest, title=f"{table.title}, continued", note=""))
    more = f"<details><summary>{len(rest)} more</summary>{later}</details>"
    return table_html(table._replace(rows=shown)) + more


def _claims(table: Table) -> str:
    counts: dict[str, int] = {}
    for row in table.rows:
        verdict = row[1].partition(" (")[0].partition(" ")[2]
        counts[verdict] = counts.get(verdict, 0) + 1
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f'<p class="verdicts">{escape(said)}</p>{_wide(table)}'


def _wide(table: Table) -> str:
    """Show a table that holds sentences."""
    return f'<div class="sentences">{table_html(table)}</div>'


def _legend(contents: Contents) -> str:
    if len(contents.groups) < 2:
        return ""
    items = "".join(
        f'<label><input type="checkbox" checked data-toggle="{place}">'
        f'<svg class="key" viewBox="0 0 28 10" aria-hidden="true"><path {style_of(place)} '
        f'd="M1,5H27"/></svg>{escape(group.label)}</label>'
        for place, group in enumerate(contents.groups)
    )
    buttons = "".join(
        f'<button type="button" data-all="{state}">{name}</button>'
        for state, name in (("1", "all"), ("", "none"))
    )
    return f'<fieldset class="legend"><legend>Shown lines</legend>{items}{buttons}</fieldset>'


def _curves(contents: Contents) -> str:
    bands = {curve.band for s in contents.sections for plot in s.plots for curve in plot.curves}
    notes = ["Over training steps."]
    if "seeds" in bands:
        notes.append("Bands are 95% bootstrap intervals of the mean over seeds.")
    if "range" in bands:
        notes.append("Bands of single runs are the range within a bin of steps.")
    notes.append("Arrow keys move along a focused plot.")
    made = "".join(_section(section) for section in contents.sections)
    if len(contents.groups) > MANY:
        made = f'<div class="many">{made}</div>'
    return f'{_legend(contents)}<p class="note">{" ".join(notes)}</p>{made}'


def _section(section: Section) -> str:
    plots = "".join(map(_plot, section.plots))
    state = " open" if section.is_open else ""
    count = f'<span class="count">{len(section.plots)}</span>'
    return (
        f"<details{state}><summary><h3>{escape(section.title)}</h3>{count}</summary>"
        f'<div class="plots">{plots}</div></details>'
    )


def _plot(plot: Plot) -> str:
    odd = f' <span class="odd">{plot.left_out} not finite</span>' if plot.left_out else ""
    return (
        f'<figure class="plot curves" tabindex="0"><figcaption>{escape(plot.tag)}{odd}</figcaption>'
        f"{plot_svg(plot)}</figure>"
    )


def _completions(samples: Sequence[Samples]) -> str:
    """Show the completions of a few groups, and those of the others behind a fold."""
    shown = "".join(map(_samples, samples[:SHOWN_GROUPS]))
    rest = samples[SHOWN_GROUPS:]
    if not rest:
        return shown
    more = "".join(map(_samples, rest))
    return f"{shown}<details><summary>{len(rest)} more configurations</summary>{more}</details>"


def _samples(samples: Samples) -> str:
    kind = "held-out prompts" if samples.held_out else "prompts of the batches"
    caption = f"{samples.label}: {kind}, step {samples.step_before} and step {samples.step_after}"
    shown = _pairs_table(samples, samples.pairs[:SHOWN_PAIRS], caption)
    rest = samples.pairs[SHOWN_PAIRS:]
    more = ""
    if rest:
        inner = _pairs_table(samples, rest, f"{caption}, continued")
        more = f"<details><summary>{len(rest)} more</summary>{inner}</details>"
    changed = ""
    if samples.compared:
        changed = f"Other completions than before: {samples.changed} of {samples.compared} prompts"
        changed += ", which stand first." if samples.changed else "."
    note = f'<p class="note">{changed}</p>' if changed else ""
    return f'<div class="samples"><h3>{escape(caption)}</h3>{note}{shown}{more}</div>'


def _pairs_table(samples: Samples, pairs: Sequence[Pair], caption: str) -> str:
    head = "".join(
        f'<th scope="col">{escape(name)}</th>'
        for name in ("prompt", f"step {samples.step_before}", f"step {samples.step_after}")
    )
    rows = "".join(map(_pair_row, pairs))
    label = escape(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table class="pairs">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _pair_row(pair: Pair) -> str:
    before = _score(pair.score_before)
    after = _score(pair.score_after, pair.kl_after)
    return (
        f'<tr><th scope="row"><bdi>{escape(pair.prompt)}</bdi></th>'
        f"<td><bdi>{escape(pair.before)}</bdi>{before}</td>"
        f"<td><bdi>{escape(pair.after)}</bdi>{after}</td></tr>"
    )


def _score(score: float | None, kl: float | None = None) -> str:
    if score is None:
        return ""
    more = "" if kl is None else f", KL {number(kl)}"
    return f'<span class="score">score {number(score)}{more}</span>'


def _tokens(tokens: Sequence[dict[str, Any]]) -> str:
    if not tokens:
        return ""
    return (
        '<p class="note">What each token of a stored completion was given. '
        "Colour and underline show the sign and size; arrow keys move between tokens.</p>"
        '<div id="token-view"><noscript>The view of tokens needs JavaScript.</noscript></div>'
    )


def _whole_configs(contents: Contents) -> str:
    made = []
    for group in contents.groups:
        flat = flat_config(group.runs[0])
        if not flat:
            continue
        lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in flat.items())
        made.append(
            f"<details><summary>Config of {escape(group.label)}</summary>"
            f'<pre tabindex="0">{escape(lines)}</pre></details>'
        )
    if len(made) > 1:
        return f"<details><summary>Whole configs</summary>{''.join(made)}</details>"
    return "".join(made)


def markdown(contents: Contents) -> str:
    """Return the report's tables as Markdown."""
    lines = [f"# {' '.join(contents.title.split())}", "", contents.facts, ""]
    return "\n".join(lines) + "\n" + "\n".join(table_markdown(table) for table in contents.tables)
