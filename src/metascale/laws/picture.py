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
    return _finish(ax, record["x_name"], record["loss_name"])


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
    return _finish_outside(ax, f"rmse of ln {found.loss_name}")


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


def plot_cross_check(found: Any, ax: Any = None) -> Any:
    """The frontier of the parametric law, and what parabolas and the envelope say."""
    ax = plot_optimum(found.parametric, ax)
    for k, other in enumerate(found.others):
        ax.plot(other.compute, other.n_params, "o", ms=4, color=f"C{k + 1}", label=other.approach)
        ax.plot(other.compute, other.predict(other.compute), "--", lw=1, color=f"C{k + 1}")
    ax.legend(frameon=False, fontsize=8)
    return ax


def plot_fit(fit: Any, ax: Any = None, sample: Any = None) -> Any:
    """Table and fitted curve of a law in one scale, with its 95 % band when there is a bootstrap."""
    if fit.observations.n_axes > 1:
        return plot_surface(fit, ax)
    ax = ax if ax is not None else new_axis()
    _points_and_curve(ax, fit, sample, "#2a6fb0", "runs", fit.law.formula)
    return _finish(ax, fit.observations.x_names[0], fit.observations.loss_name)


def plot_grouped(found: Any, ax: Any = None) -> Any:
    """Points and law of every group."""
    ax = ax if ax is not None else new_axis()
    for k, (name, fit) in enumerate(found.fits.items()):
        label = f"{name}: exponent {found.exponents[name]['estimate']:.3g}"
        _points_and_curve(ax, fit, None, f"C{k}", None, label)
    table = next(iter(found.fits.values())).observations
    return _finish(ax, table.x_names[0], table.loss_name)


def plot_profile(found: Any, ax: Any = None) -> Any:
    """Rise of -2 log likelihood over the values of one parameter, with the threshold of its interval."""
    ax = ax if ax is not None else new_axis()
    ax.plot(found.values, found.deviance, color="#2a6fb0", label=f"profile of {found.name}")
    ax.axhline(found.threshold, color="#888888", ls="--", lw=1, label=f"{100 * found.level:g} % threshold")
    ax.set(xlabel=found.name, ylabel="rise of -2 log likelihood")
    ax.legend(frameon=False, fontsize=8)
    return ax


def plot_crossover(found: Any, ax: Any = None) -> Any:
    """Two curves with their bands, and where they cross."""
    ax = ax if ax is not None else new_axis()
    for k, sample in enumerate(found.curves):
        _points_and_curve(ax, sample.fit, sample, f"C{k}", None, f"curve {k + 1}: {sample.fit.law.formula}")
    if found.estimate is not None:
        ax.axvline(found.estimate, color="#888888", ls="--", lw=1, label=f"crossing at {found.estimate:.4g}")
    if found.low is not None:
        ax.axvspan(found.low, found.high, color="#888888", alpha=0.15, lw=0)
    table = found.curves[0].fit.observations
    return _finish(ax, table.x_names[0], table.loss_name)


def _points_and_curve(ax: Any, fit: Any, sample: Any, colour: str, points: str | None, curve: str) -> None:
    table = fit.observations
    x = np.geomspace(table.x.min(), table.x.max(), 200)
    ax.plot(table.x[:, 0], table.loss, "o", ms=4, alpha=0.6, color=colour, label=points)
    ax.plot(x, fit.predict(x), color=colour, label=curve)
    if sample is not None:
        _, low, high = sample.curve(x)
        ax.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)


def plot_surface(fit: Any, ax: Any = None) -> Any:
    """Observed against predicted loss of a law in several scales."""
    ax = ax if ax is not None else new_axis()
    table = fit.observations
    predicted = fit.predict(table.x)
    ends = [float(min(predicted.min(), table.loss.min())), float(max(predicted.max(), table.loss.max()))]
    ax.plot(ends, ends, color="#888888", lw=1)
    ax.plot(predicted, table.loss, "o", ms=3, alpha=0.6, color="#2a6fb0", label=fit.law.formula)
    return _finish(ax, f"predicted {table.loss_name}", f"observed {table.loss_name}")


def _finish_outside(ax: Any, y_label: str) -> Any:
    """Finish a picture of many predictors: their names stand beside it and not on it."""
    _finish(ax, "largest scale over largest scale seen", y_label)
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def _finish(ax: Any, x_label: str, y_label: str) -> Any:
    ax.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label)
    for axis in (ax.xaxis, ax.yaxis):
        plain_numbers(axis)
    ax.legend(frameon=False, fontsize=8)
    return ax


PLAIN_DECADES = 1.0  # a log axis shorter than this has labels between powers of ten: 2.5 reads better than 2.5 x 10^0


def plain_numbers(axis: Any) -> None:
    """Label a short logarithmic axis with plain numbers."""
    low, high = sorted(axis.get_view_interval())
    if low > 0 and np.log10(high / low) < PLAIN_DECADES and 1e-3 < low < 1e4:
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
