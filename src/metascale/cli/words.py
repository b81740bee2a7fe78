"""What the law commands print and write: words, notes, JSON on request, files of results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, overload

import typer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from metascale.laws.picture import LawPicture

_LONGEST_NAME = 50  # letters of a group's name in its folder's; up to four bytes each
JsonFlag = Annotated[bool, typer.Option("--json", help="print the result as JSON; words go to standard error")]


def say(text: str, *, to_stderr: bool = False) -> None:
    """Print a text; on a terminal, long lines are broken between words and their rest is indented."""
    import shutil
    import sys
    import textwrap

    if not sys.stdout.isatty() or to_stderr:
        typer.echo(text, err=to_stderr)
        return
    width = shutil.get_terminal_size().columns
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        typer.echo("\n".join(textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False)) or "")


@contextmanager
def stage(what: str, after: float = 2.0, every: float = 10.0) -> Iterator[None]:
    """Say on standard error what is going on when it takes longer than ``after`` seconds, and again every while."""
    import threading
    import time

    ended, begun = threading.Event(), time.monotonic()

    def watch() -> None:
        wait = after
        while not ended.wait(wait):
            typer.echo(f"{what} ... ({time.monotonic() - begun:.0f} s)", err=True)
            wait = every

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def say_notes(notes: Iterable[str], *, to_stderr: bool = False) -> None:
    for note in notes:
        say(f"note: {note}", to_stderr=to_stderr)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, numbers with all their digits, texts that no spreadsheet runs."""
    import csv
    import io

    from metascale.core.cells import safe_text

    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = list(rows[0])
    writer.writerow([safe_text(name) for name in names])
    for row in rows:
        values = (row.get(name, "") for name in names)
        writer.writerow([safe_text(value) if isinstance(value, str) else value for value in values])
    return stream.getvalue()


def write_results(
    out: Path,
    records: dict[str, Any],
    tables: dict[str, Sequence[dict[str, Any]]],
    plots: dict[str, Axes],
    pictures: Sequence[LawPicture] = (),
    *,
    to_stderr: bool = False,
) -> None:
    """Write JSON, CSV and PNG files by their names, the pictures of laws as law.png and law.html, and say so."""
    from metascale.core.files import write_atomic, write_json
    from metascale.laws.picture import figure_of, write_html, write_png

    for name, record in records.items():
        write_json(out / name, record)
    for name, rows in tables.items():
        write_atomic(out / name, csv_text(rows))
    if pictures:
        write_png(figure_of(pictures), out / "law.png")
        write_html(pictures, out / "law.html")
    for name, ax in plots.items():
        write_png(ax, out / name)
    names = [*records, *tables, *(("law.png", "law.html") if pictures else ()), *plots]
    typer.echo(f"wrote {out}/{', '.join(names[:-1])} and {names[-1]}", err=to_stderr)


def say_law_file(out: Path, *, to_stderr: bool = False) -> None:
    """Where the law is that predicts, and how."""
    say(f"wrote {out}/law.json, from which `metascale predict {out} POINTS.csv` predicts", to_stderr=to_stderr)


@overload
def folder_of(out: Path, group: str | None) -> Path: ...


@overload
def folder_of(out: None, group: str | None) -> None: ...


def folder_of(out: Path | None, group: str | None) -> Path | None:
    """Where a group's files go: a folder of its own below ``out``, or ``out`` itself where nothing is grouped.

    A name that is no plain folder name is cleaned, and gets a hash that keeps it apart from the others.
    """
    return out if group is None or out is None else out / folder_name(group)


def folder_name(group: str) -> str:
    """A group's name as that of a folder or file."""
    from metascale.core.canonical import content_id

    clean = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in group)[:_LONGEST_NAME]
    if clean == group and clean.strip("."):
        return clean
    return f"{clean.strip('.') or 'group'}-{content_id(group, 8)}"
