"""`fit --law multi_power` and `forecast --schedule`: runs with their learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metascale.cli.scales import one_target, print_json
from metascale.cli.words import say, stage, write_results
from metascale.core.errors import InputError

if TYPE_CHECKING:
    from metascale.cli.table import Opening
    from metascale.laws.metrics import ShareOptions
    from metascale.laws.multi_power import ScheduleFit

MULTI_POWER = "multi_power"  # as `metascale.laws.multi_power` has it, which is loaded only where it is used


def _fitted(
    opening: Opening, y: Sequence[str] | None, how: ShareOptions, others: Mapping[str, object], level: float
) -> ScheduleFit:
    """The law; options that it has no use for are refused."""
    from metascale.laws.multi_power import fit_curves as fit_table
    from metascale.laws.table import read_table

    chosen = opening.chosen
    given = {"x": opening.scales, "group": opening.group, "series": opening.series, "best_of": opening.best_of,
             "replicate": chosen.seed, "rows": chosen.rows, "noise": chosen.noise, **vars(how), **others}  # fmt: skip
    other = next((name for name, value in given.items() if value), None)
    if other is not None:
        raise InputError(f"`{other}` is not for the law 'multi_power', which reads run, step, rate, loss", field=other)
    if y and len(y) > 1:
        raise InputError("the law 'multi_power' is fitted to one loss; give `y` once", field="y")
    with stage(f"fitting {opening.path.name}"):
        return fit_table(read_table(opening.path), y[0] if y else None, chosen.run, level)


def fit_curves(
    opening: Opening, y: Sequence[str] | None, options: Mapping[str, Any], how: ShareOptions, out: Path | None,
    json_: bool,
) -> None:  # fmt: skip
    """Fit the law, print it and write fit.json."""
    others = {"objective": options["objective"], "bound": options["bounds"], "fix": options["fixed"],
              "weights": options["weights"]}  # fmt: skip
    found = _fitted(opening, y, how, others, options["level"])
    say(found.summary(), to_stderr=json_)
    if json_:
        print_json({"": found.to_json()})
    if out is not None:
        seen = [row for one in found.runs for row in found.residuals(one)]
        write_results(out, {"fit.json": found.to_json()}, {"curves.csv": seen}, {}, to_stderr=json_)


def forecast_curves(
    opening: Opening,
    y: Sequence[str] | None,
    how: ShareOptions,
    schedule: str,
    to: Sequence[str],
    level: float,
    out: Path | None,
    json_: bool,
) -> None:
    """Predict a run under another schedule, at its end or at the steps of ``--to``."""
    found = _fitted(opening, y, how, {}, 0.95)
    steps: Any = [round(one_target(text, "step")) for text in to] or None
    ahead = found.predict(schedule, steps, level)
    say(ahead.summary(), to_stderr=json_)
    for note in found.notes:
        say(f"note: {note}", to_stderr=json_)
    if json_:
        print_json({"": ahead.to_json()})
    if out is not None:
        write_results(out, {"forecast.json": ahead.to_json()}, {"forecast.csv": ahead.rows()}, {}, to_stderr=json_)
