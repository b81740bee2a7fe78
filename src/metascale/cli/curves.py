"""`fit --law multi_power` and `forecast --schedule`: runs with their learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metascale.cli.scales import one_target, print_json
from metascale.cli.words import say, stage, write_results
from metascale.core.errors import InputError

if TYPE_CHECKING:
    from metascale.laws.multi_power import ScheduleFit


def _fitted(
    table: Path, y: Sequence[str] | None, run: str | None, level: float, given: Mapping[str, object]
) -> ScheduleFit:
    """The law; options that it has no use for are refused."""
    from metascale.laws.multi_power import fit_curves as fit_table
    from metascale.laws.table import read_table

    other = next((name for name, value in given.items() if value), None)
    if other is not None:
        raise InputError(f"`{other}` is not for the law 'multi_power', which reads run, step, rate, loss", field=other)
    if y and len(y) > 1:
        raise InputError("the law 'multi_power' is fitted to one loss; give `y` once", field="y")
    with stage(f"fitting {table.name}"):
        return fit_table(read_table(table), y[0] if y else None, run, level)


def fit_curves(
    table: Path,
    y: Sequence[str] | None,
    run: str | None,
    level: float,
    given: Mapping[str, object],
    json_: bool,
    out: Path | None,
) -> None:
    """Fit the law, print it and write fit.json."""
    found = _fitted(table, y, run, level, given)
    say(found.summary(), to_stderr=json_)
    if json_:
        print_json({"": found.to_json()})
    if out is not None:
        seen = [row for one in found.runs for row in found.residuals(one)]
        write_results(out, {"fit.json": found.to_json()}, {"curves.csv": seen}, {}, to_stderr=json_)


def forecast_curves(
    table: Path,
    y: Sequence[str] | None,
    run: str | None,
    schedule: str,
    to: Sequence[str],
    level: float,
    given: Mapping[str, object],
    json_: bool,
    out: Path | None,
) -> None:
    """Predict a run under another schedule, at its end or at the steps of ``--to``."""
    found = _fitted(table, y, run, 0.95, given)
    steps: Any = [round(one_target(text, "step")) for text in to] or None
    ahead = found.predict(schedule, steps, level)
    say(ahead.summary(), to_stderr=json_)
    for note in found.notes:
        say(f"note: {note}", to_stderr=json_)
    if json_:
        print_json({"": ahead.to_json()})
    if out is not None:
        write_results(out, {"forecast.json": ahead.to_json()}, {"forecast.csv": ahead.rows()}, {}, to_stderr=json_)
