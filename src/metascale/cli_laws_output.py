"""What the law commands print and write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from metascale.laws.analyse import Analysis
    from metascale.laws.forecast import Forecast
    from metascale.laws.surface import SurfaceAnalysis

HORIZONS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # times the largest scale: where forecasts are written


def say(text: str) -> None:
    """Print one text."""
    typer.echo(text)


def print_analysis(found: Analysis, name: str) -> None:
    """The verdict, a table of families, the hidden largest scale and the notes."""
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    record = found.to_json()
    console.print(f"[bold]{name + ': ' if name else ''}[/bold]{found.verdict}", highlight=False)
    percent = f"{100 * found.level:g} %"
    shown = RichTable("family", f"parameters ({percent} interval)", "rmse log", "AICc", "backtest", "note")
    for family, part in record["families"].items():
        parameters = "\n".join(f"{key} {with_interval(value)}" for key, value in part["parameters"].items())
        mark = "* " if family == record["law"] else "  "
        cells = [part["rmse_log"], part["aicc"], part["backtest_rmse_log"]]
        numbers = ["-" if cell is None else f"{cell:.4f}" if k != 1 else f"{cell:.1f}" for k, cell in enumerate(cells)]
        shown.add_row(mark + family, parameters, *numbers, part["note"], end_section=True)
    console.print(shown)
    tail = found.summary().splitlines()
    for line in tail:
        if line.startswith(("  largest", "  extrapolation", "  note")):
            console.print(line.strip(), highlight=False, markup=False)


def with_interval(part: dict[str, float]) -> str:
    """Estimate and interval; an interval wider than the number means anything is said to be none."""
    low, value, high = part["low"], part["estimate"], part["high"]
    wide = high > 1e3 * low > 0 if low > 0 else max(-low, high) > 1e2 * max(abs(value), 1.0)
    return f"{value:.6g} (not identified)" if wide else f"{value:.6g} ({low:.4g} to {high:.4g})"


def print_surface(found: Analysis | SurfaceAnalysis) -> None:
    """The summary of a law in several scales, or of one."""
    say(found.summary())


def print_forecast(found: Forecast, notes: tuple[str, ...]) -> None:
    """A table of predictions beside the baselines."""
    from rich.console import Console
    from rich.table import Table as RichTable

    shown = RichTable(found.x_name, found.loss_name, f"{100 * found.level:g} % interval", "tail line", "last value")
    for i, x in enumerate(found.at):
        shown.add_row(
            f"{x:.6g}", f"{found.median[i]:.6g}", f"{found.low[i]:.5g} to {found.high[i]:.5g}",
            f"{found.baselines['tail_line'][i]:.5g}", f"{found.baselines['last_value'][i]:.5g}",
        )  # fmt: skip
    console = Console()
    console.print(shown)
    for note in (*notes, *found.notes):
        console.print(f"note: {note}", highlight=False, markup=False)


def print_backtest(found: Any, notes: tuple[str, ...]) -> None:
    """The table of every predictor at every cut."""
    say(found.summary())
    for note in notes:
        say(f"note: {note}")


def write_fit(found: dict[str, Analysis], grouped: dict[str, Any] | None, out: Path) -> None:
    """fit.json, forecast.csv, law.png and law.html."""
    import numpy as np

    from metascale.core.files import write_json
    from metascale.laws.forecast import forecast_table
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
