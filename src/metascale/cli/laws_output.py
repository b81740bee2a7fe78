"""What the law commands print and write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from metascale.laws.analysis import Analysis
    from metascale.laws.forecasting import Forecast
    from metascale.laws.surface_fit import SurfaceAnalysis

FRONTIER_POINTS = 25
HORIZONS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # times the largest scale: where forecasts are written


def say(text: str) -> None:
    """Print one text."""
    typer.echo(text)


def say_wrapped(text: str) -> None:
    """Print a text; on a terminal, long lines are broken between words and their rest is indented."""
    import shutil
    import sys
    import textwrap

    if not sys.stdout.isatty():
        say(text)
        return
    width = shutil.get_terminal_size().columns
    for line in text.splitlines():
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        say("\n".join(textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False)) or "")


def print_forecast(found: Forecast, notes: tuple[str, ...], name: str = "") -> None:
    """A table of predictions beside the baselines."""
    from rich.console import Console
    from rich.table import Table as RichTable

    shown = RichTable(found.x_name, found.loss_name, f"{100 * found.level:g} % interval", "tail line", "last value")
    for i, x in enumerate(found.at):
        shown.add_row(
            f"{x:.6g}", f"{found.median[i]:.6g}", f"{found.low[i]:.5g} to {found.high[i]:.5g}",
            f"{found.baselines['tail_line'][i]:.5g}", f"{found.baselines['last_value'][i]:.5g}",
        )  # fmt: skip
    if name:
        say(f"{name}:")
    Console().print(shown)
    for note in (*notes, *found.notes):
        say_wrapped(f"note: {note}")


def print_backtest(found: Any, notes: tuple[str, ...], name: str = "") -> None:
    """The table of every predictor at every cut."""
    say((f"{name}:\n" if name else "") + found.summary())
    for note in notes:
        say_wrapped(f"note: {note}")


def write_fit(found: dict[str, Analysis], grouped: dict[str, Any] | None, out: Path) -> None:
    """fit.json, forecast.csv, law.png and law.html."""
    import numpy as np

    from metascale.core.files import write_json
    from metascale.laws.forecasting import forecast_table
    from metascale.report.law_plots import law_picture, write_html, write_png

    pictures, forecasts = [], []
    for name, analysis in found.items():
        table = analysis.fit.observations
        ahead = forecast_table(table, table.x[-1, 0] * np.array(HORIZONS), 0.90)
        pictures.append(law_picture(analysis.to_json(), table.x[:, 0], table.loss, ahead, name))
        forecasts += [{"group": name, **row} if name else row for row in ahead.rows()]
    if grouped is None and len(found) == 1:
        record: dict[str, Any] = next(iter(found.values())).to_json()
    else:
        record = {"groups": {name: analysis.to_json() for name, analysis in found.items()}, "comparison": grouped}
    write_json(out / "fit.json", record)
    write_rows(forecasts, out / "forecast.csv")
    write_png(pictures, out / "law.png")
    write_html(pictures, out / "law.html")
    say(f"wrote {out}/fit.json, forecast.csv, law.png and law.html")


def write_forecast(found: Forecast, out: Path) -> None:
    """forecast.json, forecast.csv and forecast.png."""
    from metascale.core.files import write_json

    write_json(out / "forecast.json", found.to_json())
    write_rows(found.rows(), out / "forecast.csv")
    save_axis(found.plot(), out / "forecast.png")
    say(f"wrote {out}/forecast.json, forecast.csv and forecast.png")


def write_backtest(found: Any, out: Path) -> None:
    """backtest.json and backtest.png."""
    from metascale.core.files import write_json

    write_json(out / "backtest.json", found.to_json())
    save_axis(found.plot(), out / "backtest.png")
    say(f"wrote {out}/backtest.json and backtest.png")


def write_surface(found: SurfaceAnalysis, out: Path) -> None:
    """fit.json, the compute-optimal frontier as forecast.csv, law.png and law.html, and the misfit as fit.png."""
    import numpy as np

    from metascale.core.files import write_json
    from metascale.laws.allocation import training_flops
    from metascale.report.law_plots import surface_picture, write_html, write_png

    table = found.fit.observations
    compute = training_flops(table.x[:, 0], table.x[:, 1])
    best = found.optimum(np.geomspace(compute.min(), HORIZONS[-1] * compute.max(), FRONTIER_POINTS), level=0.90)
    picture = surface_picture(found.to_json(), compute, table.loss, best)
    write_json(out / "fit.json", found.to_json())
    write_rows(best.rows(), out / "forecast.csv")
    write_png([picture], out / "law.png")
    write_html([picture], out / "law.html")
    save_axis(found.plot(), out / "fit.png")
    say(f"wrote {out}/fit.json, forecast.csv (the frontier), law.png, law.html and fit.png")


def write_optimum(found: SurfaceAnalysis, best: Any, checked: Any, out: Path) -> None:
    """fit.json, optimum.json and optimum.png."""
    from metascale.core.files import write_json

    write_json(out / "fit.json", found.to_json())
    write_json(out / "optimum.json", {**best.to_json(), "other_approaches": checked.to_json()})
    save_axis(checked.plot(), out / "optimum.png")
    say(f"wrote {out}/fit.json, optimum.json and optimum.png")


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """Rows as CSV, atomically."""
    import csv
    import io

    from metascale.core.files import write_atomic

    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, stream.getvalue())


def save_axis(ax: Any, path: Path) -> None:
    """The figure of a matplotlib axis as PNG, atomically."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from metascale.core.files import write_atomic

    FigureCanvasAgg(ax.figure)
    stream = io.BytesIO()
    ax.figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    write_atomic(path, stream.getvalue())
