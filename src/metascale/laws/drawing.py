"""Draw a fitted law on a matplotlib axis; matplotlib is loaded only when the caller brings no axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from metascale.laws.observations import Observations


def new_axis() -> Any:
    """One matplotlib axis in a figure of its own."""
    from matplotlib.figure import Figure

    return Figure(figsize=(6.4, 4.4), layout="constrained").subplots()


def plot_law(record: dict[str, Any], observations: Observations, ax: Any = None) -> Any:
    """The table, the fitted curve with its band, and the hidden largest scale with its prediction, on log axes.

    Args:
        record: the JSON form of an analysis (``Analysis.to_json()``).
    """
    ax = ax if ax is not None else new_axis()
    curve = record["curve"]
    ax.plot(observations.x[:, 0], observations.loss, "o", ms=4, alpha=0.6, color="#4c566a", label="runs")
    ax.plot(curve["x"], curve["median"], color="#2a6fb0", label=record["formula"])
    label = f"{100 * record['level']:g} % interval of the curve"
    ax.fill_between(curve["x"], curve["low"], curve["high"], color="#2a6fb0", alpha=0.2, lw=0, label=label)
    hidden = record["extrapolation"]
    if hidden:
        error = np.array([[hidden["predicted"] - hidden["low"]], [hidden["high"] - hidden["predicted"]]])
        ax.errorbar([hidden["held_out_x"]], [hidden["predicted"]], error, fmt="D", ms=5, color="#c0522b", capsize=3,
                    label="predicted without the largest scale")  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel=record["x_name"], ylabel=record["loss_name"])
    ax.legend(frameon=False, fontsize=8)
    return ax


def plot_forecast(found: Any, ax: Any = None) -> Any:
    """Median and interval of a forecast over its scales, with the tail line."""
    ax = ax if ax is not None else new_axis()
    order = np.argsort(found.at)
    x = found.at[order]
    ax.plot(x, found.median[order], "-o", ms=3, color="#2a6fb0", label="forecast")
    ax.fill_between(x, found.low[order], found.high[order], color="#2a6fb0", alpha=0.2, lw=0,
                    label=f"{100 * found.level:g} % interval of one run")  # fmt: skip
    ax.plot(x, found.baselines["tail_line"][order], "--", color="#888888", label="tail line")
    return _finish(ax, found.x_name, found.loss_name)


def plot_backtest(found: Any, ax: Any = None) -> Any:
    """Error of every predictor against how far the hidden scales reach."""
    ax = ax if ax is not None else new_axis()
    for name in dict.fromkeys(row.predictor for row in found.rows):
        rows = [row for row in found.rows if row.predictor == name and row.rmse_log is not None]
        style = {"lw": 2.5, "color": "black"} if name == "forecast" else {"lw": 1.0}
        ax.plot([row.horizon for row in rows], [row.rmse_log for row in rows], "-o", ms=3, label=name, **style)
    return _finish(ax, "largest scale over largest scale seen", f"rmse of ln {found.loss_name}")


def plot_optimum(found: Any, ax: Any = None) -> Any:
    """Compute-optimal model size against compute, with its interval."""
    ax = ax if ax is not None else new_axis()
    ax.plot(found.compute, found.n_params["estimate"], "-o", ms=3, color="#2a6fb0", label=f"N_opt ({found.law})")
    ax.fill_between(found.compute, found.n_params["low"], found.n_params["high"], color="#2a6fb0", alpha=0.2, lw=0,
                    label=f"{100 * found.level:g} % interval")  # fmt: skip
    return _finish(ax, "compute (FLOPs)", "N")


def plot_allocation(found: Any, ax: Any = None) -> Any:
    """The optimum of every compute level and the line through them."""
    ax = ax if ax is not None else new_axis()
    ax.plot(found.compute, found.n_params, "o", ms=4, color="#4c566a", label=found.approach)
    ax.plot(found.compute, found.predict(found.compute), color="#2a6fb0", label=f"C^{found.exponent:.3f}")
    return _finish(ax, "compute (FLOPs)", "N")


def plot_surface(found: Any, ax: Any = None) -> Any:
    """Observed against predicted loss of a law in several scales."""
    ax = ax if ax is not None else new_axis()
    table = found.fit.observations
    predicted = found.predict(table.x)
    ends = [float(min(predicted.min(), table.loss.min())), float(max(predicted.max(), table.loss.max()))]
    ax.plot(ends, ends, color="#888888", lw=1)
    ax.plot(predicted, table.loss, "o", ms=3, alpha=0.6, color="#2a6fb0", label=found.fit.law.formula)
    return _finish(ax, f"predicted {table.loss_name}", f"observed {table.loss_name}")


def _finish(ax: Any, x_label: str, y_label: str) -> Any:
    ax.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label)
    ax.legend(frameon=False, fontsize=8)
    return ax
