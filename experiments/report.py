"""Report on runs, a sweep or a search: one HTML page that opens from disk, tables as Markdown.

    python experiments/report.py runs/ppo-20260101-120000
    python experiments/report.py runs/grpo-0 runs/grpo-1 runs/ppo-0 --out compare.html
    python experiments/report.py runs/kl_frontier --plots figures --format svg

Give run directories, folders of them, or the directory of one sweep or search. Runs whose configs
differ in the seed only stand together, with 95% bootstrap intervals over seeds. The runs may be
going on. The Markdown goes beside the page; without --out both go into the directory that was given
first.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rljax.errors import UserError
from rljax.reporting.contents import (
    Contents,
    contents_of_runs,
    contents_of_search,
    contents_of_sweep,
)
from rljax.reporting.groups import find_runs, is_sweep
from rljax.reporting.page import markdown, page
from rljax.reporting.runs import read_run, read_sweep
from rljax.reporting.searches import is_search, read_search, run_folders
from rljax.training.flags import plain_errors


@dataclasses.dataclass(frozen=True)
class Report:
    """What to report on, and where to."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run directories, folders of run directories, or the directory of one sweep."""
    out: Path | None = None
    """The page; None: report.html in the first of the directories."""
    title: str | None = None
    """Of the page; None: the run's or the sweep's name."""
    plots: Path | None = None
    """Folder to write every plot to, for papers (extra `report`)."""
    format: Literal["svg", "png", "pdf"] = "svg"
    """Of these plots."""


def read(options: Report) -> Contents:
    """Read what is reported on. Raises UserError for what is neither run nor sweep."""
    if not options.paths:
        raise UserError("give directories of runs, or the directory of a sweep")
    searches = [path for path in options.paths if is_search(path)]
    if searches and len(options.paths) > 1:
        raise UserError(f"{searches[0]} is a search: report on it alone, or on its trials as runs")
    if searches:
        search = read_search(searches[0])
        found = find_runs(run_folders(search))
        return contents_of_search(search, [read_run(path) for path in found], options.title)
    sweeps = [path for path in options.paths if is_sweep(path)]
    if not sweeps:
        records = [read_run(path) for path in find_runs(options.paths)]
        return contents_of_runs(records, options.title)
    if len(options.paths) > 1:
        raise UserError(f"{sweeps[0]} is a sweep: report on it alone, or on its cells as runs")
    return contents_of_sweep(read_sweep(sweeps[0]), options.title)


def write(path: Path, text: str) -> None:
    """Write a file, making its folder. Raises UserError where it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}; give --out another place") from error


def main(argv: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if argv is None else argv
    options = tyro.cli(Report, args=arguments, description=__doc__)
    with plain_errors():
        contents = read(options)
        out = options.out or options.paths[0] / "report.html"
        if out.suffix != ".html":
            raise UserError(f"--out is {out}: the page's name must end in .html")
        text = page(contents)
        write(out, text)
        write(out.with_suffix(".md"), markdown(contents))
        print(f"{out} ({len(text.encode()) / 1e6:.2f} MB), {out.with_suffix('.md')}")
        if options.plots is not None:
            from rljax.reporting.figures import write_figures  # needs matplotlib

            files = write_figures(contents, options.plots, options.format)
            print(f"{len(files)} plots in {options.plots}")


if __name__ == "__main__":
    main()
