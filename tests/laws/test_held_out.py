"""Held-out checks, irregular points and slopes: on planted laws, and by hand."""

from __future__ import annotations

import math

import pytest

from metascale.laws.effects import off_law, slope, undominated
from metascale.laws.held_out import Replicates, hold_out
from metascale.laws.irregular import leave_one_out


def law(x: float) -> float:
    return 0.3 + 3.0 * x**-0.4


def test_too_few_scales_are_not_checked() -> None:
    points = [Replicates(2.0**k, (law(2.0**k),), str(k)) for k in range(6)]
    assert hold_out(points) is None, "two hidden would leave four"
    assert hold_out([*points, Replicates(99.0, (0.5,))]) is not None


def test_a_point_is_judged_by_the_others_alone() -> None:
    """A point a thousand times too high is predicted as if it were not there."""
    points = [Replicates(2.0**k, (law(2.0**k), law(2.0**k) * 1.01)) for k in range(4, 14)]
    odd = Replicates(100.0, (1000.0, 1001.0))
    asked = leave_one_out([*points, odd], "power_irreducible")
    assert asked[10].predicted == pytest.approx(law(100.0), rel=0.02)
    assert asked[3].predicted == pytest.approx(law(128.0), rel=0.02), "nor does it mislead the judgement of neighbours"
    assert [place for place, band in asked.items() if not band.holds([*points, odd][place].mean)] == [10]
    assert leave_one_out(points[:1], "power") == {}


def test_slope_by_hand() -> None:
    """y = 1 + 2 x with residuals -1, 2, -1: slope 2, s² = 6, t(0.975, 1) = 12.706, so ± 12.706 · sqrt(6 / 2)."""
    found = slope([0, 1, 2], [0.0, 5.0, 4.0])
    assert found is not None
    assert found.estimate == pytest.approx(2.0)
    assert found.high - found.estimate == pytest.approx(12.706 * math.sqrt(3), rel=1e-4)
    assert slope([1, 1, 1], [1.0, 2.0, 3.0]) is None
    assert slope([1, 2], [1.0, 2.0]) is None


def test_a_point_off_the_law_of_its_scale() -> None:
    points = [Replicates(2.0**k, (law(2.0**k),)) for k in range(4, 14)]
    points[5] = Replicates(points[5].x, (1.2 * points[5].mean,))
    off = off_law(points)
    assert off[5] == pytest.approx(math.log(1.2), abs=1e-3)
    assert max(map(abs, off[:5] + off[6:])) < 1e-3
    assert off_law(points[:1]) == [0.0]


def test_the_runs_that_none_beats_at_as_little_cost() -> None:
    assert undominated([3, 1, 2, 4], [2.0, 5.0, 6.0, 1.0]) == [(1.0, 5.0), (3.0, 2.0), (4.0, 1.0)]
