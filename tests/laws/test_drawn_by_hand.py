"""How results of laws are drawn: every line, mark and legend of pictures of few numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from metascale.core.errors import InputError
from metascale.laws.allocation import Optimum
from metascale.laws.approaches import Allocation, CrossCheck
from metascale.laws.backtesting import Backtest, BacktestRow
from metascale.laws.corners import CornerTest
from metascale.laws.cost import SIX_N_D
from metascale.laws.effects import perplexity_line
from metascale.laws.families import LAWS
from metascale.laws.fitting import fit_law
from metascale.laws.forecasting import Forecast
from metascale.laws.groups import Crossover
from metascale.laws.likelihood import LikelihoodProfile
from metascale.laws.objective import LeastSquares
from metascale.laws.observations import observe
from metascale.laws.picture import BLUE, GREY

A = np.array


def drawn(ax: Axes) -> list[str]:
    """Of every line its colour, style, mark, width, how much of it shows, its name and its points."""
    found = []
    for line in ax.lines:
        points = [f"({float(x):.4g}, {float(y):.4g})" for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]
        label = "" if str(line.get_label()).startswith("_") else f" '{line.get_label()}'"
        look = [line.get_linestyle(), line.get_marker(), f"{line.get_linewidth():g}/{line.get_markersize():g}"]
        alpha = "" if line.get_alpha() is None else f" alpha {line.get_alpha():g}"
        shown = points if len(points) < 4 else [points[0], "...", points[-1]]
        found.append(f"{named(line.get_color())} {' '.join(map(str, look))}{alpha}{label}: {' '.join(shown)}")
    return found


def named(colour: Any) -> str:
    code = to_hex(colour)
    return {to_hex(BLUE): "blue", to_hex(GREY): "grey", to_hex("black"): "black"}.get(code, code)


def legend(ax: Axes) -> tuple[list[str], bool, float]:
    found = ax.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()], found.get_frame_on(), found.get_texts()[0].get_fontsize()


def on_own_axes(result: Any) -> Axes:
    """Drawn on an axis that is given, which it returns."""
    ax = Figure().subplots()
    assert result.plot(ax) is ax
    return ax


def test_a_profile_is_drawn_with_its_threshold() -> None:
    ax = on_own_axes(LikelihoodProfile("E", A([1.0, 2.0]), A([0.5, 0.25]), {}, 0.9, 4.0, 1.25, 2.5))
    assert drawn(ax) == [
        "blue - None 1.5/6 'profile of E': (1, 0.5) (2, 0.25)",
        "grey -- None 1/6 '90 % threshold': (0, 4) (1, 4)",
    ]
    assert legend(ax) == (["profile of E", "90 % threshold"], False, 8)


def other() -> Allocation:
    return Allocation(
        "envelope", A([1.0, 100.0]), A([2.0, 20.0]), A([3.0, 2.0]), 0.5, float(np.log(2)), (0.4, 0.6), 0.9, 1, ()
    )


def test_allocations_are_drawn_alone_and_over_the_parametric_frontier() -> None:
    ax = on_own_axes(other())
    assert drawn(ax) == [
        "#4c566a None o 1.5/4 'envelope': (1, 2) (100, 20)",
        "blue - None 1.5/6 'C^0.500': (1, 2) (100, 20)",
    ]
    assert legend(ax)[1:] == (False, 8)
    parts = {"estimate": A([1.0, 10.0]), "low": A([0.5, 5.0]), "high": A([2.0, 20.0])}
    exponent = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    scales = A([1.0, 100.0])
    whole = Optimum("kaplan", scales, parts, parts, parts, exponent, 0.8, None, (), SIX_N_D, None)  # type: ignore[arg-type]
    ax = on_own_axes(CrossCheck(whole, (other(), other()), {}))
    assert drawn(ax) == [
        "blue - o 2/3 'N_opt (kaplan), 80 % interval': (1, 1) (100, 10)",
        "#ff7f0e None o 1.5/4 'envelope': (1, 2) (100, 20)",
        "#ff7f0e -- None 1/6: (1, 2) (100, 20)",
        "#2ca02c None o 1.5/4 'envelope': (1, 2) (100, 20)",
        "#2ca02c -- None 1/6: (1, 2) (100, 20)",
    ]
    assert legend(ax) == (["N_opt (kaplan), 80 % interval", "envelope", "envelope"], False, 8)
    (band,) = ax.collections
    assert band.get_alpha() == 0.18


def test_corners_and_backtests_are_drawn_form_by_form() -> None:
    ax = on_own_axes(CornerTest(("a", "b"), {"f": (0.5, 0.25)}, (0.125, 0.375), (1.0, 0.5), (4, 6), 0.8, "log"))
    assert drawn(ax) == [
        "#1f77b4 - o 1/3 'f': (0, 0.5) (1, 0.25)",
        "black - o 2.5/4 'forms together': (0, 0.125) (1, 0.375)",
    ]
    assert legend(ax) == (["f", "forms together"], False, 8)
    assert [(tick.get_rotation(), tick.get_ha(), tick.get_fontsize()) for tick in ax.get_xticklabels()] == [
        (20, "right", 8)
    ] * 2
    rows = (BacktestRow("forecast", 2.0, 4, 1, 0.25, 1.0, 0.5), BacktestRow("power", 2.0, 4, 1, 0.5, 0.0, 1.5),
            BacktestRow("none", 2.0, 4, 1, None, None, None))  # fmt: skip
    ax = on_own_axes(Backtest(rows, 0.8, "N", "L"))
    assert drawn(ax) == ["black - o 2.5/3 'forecast': (2, 0.25)", "#1f77b4 - o 1/3 'power': (2, 0.5)"]
    assert (legend(ax)[1:], ax.get_xscale(), ax.get_yscale()) == ((False, 8), "log", "log")
    assert ax.get_xlabel() == "largest scale over largest scale seen"


def test_a_forecast_and_a_crossing_are_drawn_over_their_scales() -> None:
    ends = {"last_value": A([3.0, 4.0]), "tail_line": A([5.0, 6.0])}
    band = (A([0.25, 0.5]), A([0.125, 0.25]), A([0.5, 1.0]))
    found = Forecast(A([30.0, 20.0]), *band, 0.8, {}, {}, ends, 0.02, "N", "L", (), None)  # type: ignore[arg-type]
    ax = on_own_axes(found)
    assert drawn(ax) == [
        "blue - o 2/3 'forecast of one run (80 %)': (20, 0.5) (30, 0.25)",
        "grey -- None 1.5/6 'tail line': (20, 6) (30, 5)",
    ]
    assert (ax.get_xlabel(), ax.get_ylabel(), legend(ax)[1:]) == ("N", "L", (False, 8))
    fit = fit_law(LAWS["power"], observe([1.0, 2.0, 4.0], [4.0, 2.0, 1.0], x_name="N", loss_name="L"), LeastSquares())
    curve = SimpleNamespace(fit=fit, draw=fit.draw)
    ax = on_own_axes(Crossover(3.0, None, None, 0.75, 0.9, (curve, curve)))  # type: ignore[arg-type]
    assert [line.split(":")[0] for line in drawn(ax)] == [
        "#1f77b4 None o 1.5/4 alpha 0.6", "#1f77b4 - None 1.5/6 'curve 1", "#ff7f0e None o 1.5/4 alpha 0.6",
        "#ff7f0e - None 1.5/6 'curve 2", "grey -- None 1/6 'crossing at 3'",
    ]  # fmt: skip
    assert len(ax.patches) == 0
    held = on_own_axes(Crossover(None, 2.0, 5.0, 0.75, 0.9, (curve, curve)))  # type: ignore[arg-type]
    (span,) = held.patches
    assert (span.get_x(), span.get_width(), span.get_alpha(), named(span.get_facecolor())) == (2.0, 3.0, 0.15, "grey")
    assert "crossing" not in " ".join(legend(held)[0])


def test_a_fit_of_two_scales_is_drawn_beside_the_diagonal() -> None:
    size, data = (axis.reshape(-1) for axis in np.meshgrid([1e6, 1e7, 1e8], [1e8, 1e9, 1e10]))
    table = observe(np.column_stack([size, data]), 2 + 4 / size**0.3 + 9 / data**0.3, x_name=("N", "D"), loss_name="L")
    ax = on_own_axes(fit_law(LAWS["chinchilla"], table, LeastSquares()))
    diagonal, dots = drawn(ax)
    assert diagonal.startswith("grey - None 1/6: ")
    assert dots.startswith("blue None o 1.5/3 alpha 0.6 'L = E + A N^-alpha + B D^-beta': ")


def test_columns_of_perplexity_without_names_are_called_so() -> None:
    with pytest.raises(InputError, match=r"^the table has 2 distinct values of 'x' in 2 rows"):
        perplexity_line([1, 2], [30, 20])
    with pytest.raises(InputError, match=r"^'perplexity' is 0 in row 3"):
        perplexity_line([1, 2, 3], [30, 20, 1])
    with pytest.raises(InputError, match=r"^'ppl' is 0 in row 3"):
        perplexity_line([1, 2, 3], [30, 20, 1], y_name="ppl")
