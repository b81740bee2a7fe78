"""``metascale next``: which runs to do next. Reads tables and ranges, calls `metascale.laws`, prints, writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from metascale.cli.law_options import Out, YName
from metascale.cli.words import JsonFlag, say, write_results
from metascale.core.errors import InputError

if TYPE_CHECKING:
    from metascale.laws.next_plan import NextRuns
    from metascale.laws.table import Table

PLAN_JSON, PLAN_CSV = "plan.json", "plan.csv"


def next_(
    table: Annotated[
        Path,
        typer.Argument(help="the runs so far: CSV or Parquet, a study's folder, or a header alone", show_default=False),
    ],
    candidates: Annotated[
        Path | None, typer.Option("--candidates", help="table of what could be run, one row a run", show_default=False)
    ] = None,
    range_: Annotated[
        list[str] | None,
        typer.Option("--range", help="instead of a table: N=1e7:1e9:8, eight values spaced evenly in ln; repeatable"),
    ] = None,
    cost: Annotated[
        str | None, typer.Option("--cost", help="'6*N*D', or a column of the candidates", show_default=False)
    ] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", help="in the unit of the cost; never exceeded", show_default=False)
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="where the loss matters, N=7e10,D=1.4e12; repeatable")
    ] = None,
    target_file: Annotated[
        Path | None, typer.Option("--target-file", help="the same as a table, one row a place")
    ] = None,
    x: Annotated[
        list[str] | None, typer.Option("--x", help="column of a scale; repeatable; by default those of the target")
    ] = None,
    y: YName = None,
    batch: Annotated[
        int | None, typer.Option("--batch", help="at most so many runs, chosen to be launched at once")
    ] = None,
    level: Annotated[float, typer.Option("--level", help="level of the intervals")] = 0.90,
    repeats: Annotated[bool, typer.Option("--repeats", help="runs of the table may be run again")] = False,
    outcome: Annotated[
        Path | None, typer.Option("--outcome", help=f"a {PLAN_JSON}: what came of it, by the grown table")
    ] = None,
    json_: JsonFlag = False,
    out: Out = None,
) -> None:
    """Choose the next runs: those that shrink the forecast's interval at a target most for their cost."""
    if outcome is not None:
        _outcome(table, outcome, y, out, json_)
        return
    from metascale.laws.next_plan import next_runs

    missing = {
        "candidates": candidates or range_, "cost": cost, "budget": budget, "target": target or target_file
    }  # fmt: skip
    first = next((name for name, value in missing.items() if not value), None)
    if first is not None:
        raise InputError(f"`{first}` is needed to choose runs", field=first)
    if candidates is not None and range_:
        raise InputError("`candidates` and `range` cannot go together: one table of what could be run", field="range")
    pool = _ranges(range_) if candidates is None else candidates
    known, loss = _known(table, y)
    found = next_runs(
        known, pool, str(cost), _target(target, target_file), float(budget or 0), x=x, y=loss, batch=batch, level=level,
        repeats=repeats,
    )  # fmt: skip
    say(found.summary(), to_stderr=json_)
    _print(found.to_json(), json_)
    if out is not None:
        _write(out, found, json_)


def _outcome(table: Path, plan: Path, y: str | None, out: Path | None, json_: bool) -> None:
    from metascale.laws.next_plan import read_plan

    known, loss = _known(table, y)
    found = read_plan(plan).outcome(known, y=loss)
    say(found.summary(), to_stderr=json_)
    _print(found.to_json(), json_)
    if out is not None:
        record = found.to_json()
        write_results(out, {"outcome.json": record}, {"outcome.csv": record["runs"]}, {}, to_stderr=json_)


def _print(record: dict[str, Any], json_: bool) -> None:
    if json_:
        import json

        typer.echo(json.dumps(record))


def _write(out: Path, found: NextRuns, json_: bool) -> None:
    write_results(out, {PLAN_JSON: found.to_json()}, {PLAN_CSV: found.rows()}, {}, to_stderr=json_)
    say(f"after the runs: metascale next TABLE --outcome {out / PLAN_JSON}", to_stderr=True)


def _known(path: Path, y: str | None) -> tuple[Table | None, str | None]:
    """The rows of the table and its loss where that is known; None of a file that has a header and no row."""
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".txt"):
        with open(path, encoding="utf-8-sig", errors="replace") as stream:
            rows = sum(1 for line, _ in zip(filter(str.strip, stream), range(2), strict=False))
        if rows < 2:
            return None, y
    from metascale.cli.table import open_table

    opened = open_table(path, (), y)
    return opened.table, opened.loss


def _target(given: Sequence[str] | None, file: Path | None) -> Any:
    from metascale.cli.scales import parse_values

    if given and file is not None:
        raise InputError("`target` and `target_file` cannot go together: one of them says where", field="target")
    return file if file is not None else [parse_values([text], "target") for text in given or ()]


def _ranges(given: Sequence[str] | None) -> Table:
    """``N=1e7:1e9:8`` and the like to every combination."""
    import numpy as np

    from metascale.cli.scales import parse_values
    from metascale.laws.candidates import grid

    values = {}
    for text in given or ():
        name, sign, ends = text.partition("=")
        parts = ends.split(":")
        if not (name.strip() and sign) or len(parts) not in (1, 3):
            raise InputError(f"`range` '{text}' is no range; give NAME=LOW:HIGH:COUNT, such as N=1e7:1e9:8, or a value",
                             field="range", value=text)  # fmt: skip
        low, high = (
            parse_values([f"{name}={part}"], "range")[name.strip()] for part in (parts[0], parts[-2 % len(parts)])
        )
        count = int(parts[2]) if len(parts) == 3 and parts[2].strip().isdigit() else 1 if len(parts) == 1 else 0
        if not (0 < low <= high < float("inf") and count >= 1):
            raise InputError(
                f"`range` '{text}': needs 0 < LOW <= HIGH and a COUNT of at least 1", field="range", value=text
            )
        values[name.strip()] = np.geomspace(low, high, count)
    return grid(values)
