"""`fit --law multi_power` and `forecast --schedule`: runs with their learning rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metascale.cli.scales import one_target, print_json
from metascale.cli.words import folder_name, say, say_notes, stage, write_results
from metascale.core.errors import InputError

if TYPE_CHECKING:
    from metascale.cli.table import Opening
    from metascale.laws.metrics import ShareOptions
    from metascale.laws.schedule_fit import ScheduleFit

MULTI_POWER = "multi_power"  # as `metascale.laws.multi_power` has it, which is loaded only where it is used


def _fitted(
    opening: Opening, y: Sequence[str] | None, how: ShareOptions, others: Mapping[str, object], level: float
) -> dict[str, ScheduleFit]:
    """The law of every group; options that it has no use for are refused."""
    from metascale.laws.schedule_fit import fit_curves as fit_table
    from metascale.laws.table import read_table

    chosen = opening.chosen
    given = {"x": opening.scales, "series": opening.series, "best_of": opening.best_of,
             "replicate": chosen.seed, "rows": chosen.rows, "noise": chosen.noise, **vars(how), **others}  # fmt: skip
    other = next((name for name, value in given.items() if value), None)
    if other is not None:
        raise InputError(f"`{other}` is not for the law 'multi_power', which reads run, step, rate, loss", field=other)
    if y and len(y) > 1:
        raise InputError("the law 'multi_power' is fitted to one loss; give `y` once", field="y")
    with stage(f"fitting {opening.path.name}"):
        return fit_table(read_table(opening.path), y[0] if y else None, chosen.run, level, opening.group)


def fit_curves(
    opening: Opening, y: Sequence[str] | None, options: Mapping[str, Any], how: ShareOptions, out: Path | None,
    json_: bool,
) -> None:  # fmt: skip
    """Fit the law of every group, print it and write law.json, fit.json and the pictures."""
    from metascale.laws.record import write_laws

    others = {"objective": options["objective"], "bound": options["bounds"], "fix": options["fixed"],
              "weights": options["weights"]}  # fmt: skip
    found = _fitted(opening, y, how, others, options["level"])
    records = {name: one.to_json() for name, one in found.items()}
    for name, one in found.items():
        say((f"{name}: " if name else "") + one.summary(), to_stderr=json_)
    if json_:
        print_json(records)
    if out is not None:
        write_laws(out, {name: one.record() for name, one in found.items()})
        seen = [{**({"group": name} if name else {}), **row}
                for name, one in found.items() for run in one.runs for row in one.residuals(run)]  # fmt: skip
        plots = {"fit.png" if not name else f"fit-{folder_name(name)}.png": one.plot() for name, one in found.items()}
        stored = records[""] if list(records) == [""] else {"groups": records}
        write_results(out, {"fit.json": stored}, {"curves.csv": seen}, plots, to_stderr=json_)
        say(f"wrote {out}/law.json, from which `metascale predict {out} SCHEDULE.csv` predicts a CSV of step and lr",
            to_stderr=json_)  # fmt: skip


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
    steps = [one_target(text, "step") for text in to] or None
    ahead = {name: one.predict(schedule, steps, level) for name, one in found.items()}
    for name, one in ahead.items():
        say((f"{name}:\n" if name else "") + one.summary(), to_stderr=json_)
        say_notes(found[name].notes, to_stderr=json_)
    records = {name: one.to_json() for name, one in ahead.items()}
    if json_:
        print_json(records)
    if out is not None:
        rows = [{**({"group": name} if name else {}), **row} for name, one in ahead.items() for row in one.rows()]
        stored = records[""] if list(records) == [""] else {"groups": records}
        plots = {"forecast.png": ahead[""].plot()} if list(ahead) == [""] else {}
        write_results(out, {"forecast.json": stored}, {"forecast.csv": rows}, plots, to_stderr=json_)
