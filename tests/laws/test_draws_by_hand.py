"""What is drawn at random, by its seed and stream, and the steps of searches, as recorded while they run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from metascale.laws import descent, formula, irregular
from metascale.laws.allocation import _band, _with_run_noise
from metascale.laws.cost import CostLaw, fit_cost
from metascale.laws.families import ONE_AXIS
from metascale.laws.fitting import fit_law
from metascale.laws.formula import Formula, robust_fit
from metascale.laws.groups import _test
from metascale.laws.held_out import Prediction, Replicates
from metascale.laws.irregular import _left_out
from metascale.laws.objective import LeastSquares, LogHuber
from metascale.laws.observations import observe
from metascale.laws.uncertainty import bootstrap

A = np.array


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What every generator is seeded with."""
    real, seen = np.random.default_rng, []

    def recorded(seed: Any = None) -> np.random.Generator:
        seen.append(seed)
        return real(seed)

    monkeypatch.setattr(np.random, "default_rng", recorded)
    return seen


def noisy_line(alpha: float = 0.5) -> tuple[Any, Any]:
    x = 2.0 ** np.arange(8)
    return x, 3 * x**-alpha * np.exp(0.01 * A([1, -1, 1, 1, -1, -1, 1, -1]))


def test_every_draw_has_a_stream_of_its_own(streams: list[Any]) -> None:
    x, loss = noisy_line()
    sample = bootstrap(fit_law(ONE_AXIS["power"], observe(x, loss)), 20, seed=5)
    assert streams == [[5, 101]]
    streams.clear()
    Prediction.of(sample, 512.0, 0.9, 1)
    Prediction.of(sample, 512.0, 0.9, 1, stream=7)
    assert streams == [(0, 404), (0, 7)]
    streams.clear()
    _left_out.cache_clear()
    _left_out(tuple((k, x[k], loss[k]) for k in range(8)), "power", 0.9, frozenset({0, 1, 2, 3, 4}))
    assert streams == [[0, 101], (0, 303)] * 5  # three scales are left for each of the five that are odd
    streams.clear()
    _left_out.cache_clear()


def test_groups_are_compared_by_draws_of_one_stream(streams: list[Any]) -> None:
    (x, one), (_, two) = noisy_line(), noisy_line(0.25)
    _test({name: fit_law(ONE_AXIS["power"], observe(x, loss)) for name, loss in (("a", one), ("b", two))}, 20, 5, 0.9)
    assert streams == [[5, 303]]


def test_costs_are_drawn_about_their_estimate() -> None:
    root = A([[2.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.25, 0.125]])
    found = CostLaw("hours", A([1.0, 2.0, 3.0]), root, 0.01, 9).draws(4, 5)
    normal = np.random.default_rng((5, 304)).standard_normal((4, 3))
    assert found.shape == (5, 3)
    assert found[0].tolist() == [1.0, 2.0, 3.0]
    assert found[1:, 0] == pytest.approx(1 + 2 * normal[:, 0])
    assert found[1:, 1] == pytest.approx(2 + 0.5 * normal[:, 1])
    assert found[1:, 2] == pytest.approx(3 + 0.25 * normal[:, 1] + 0.125 * normal[:, 2])


def test_the_spread_of_a_cost_s_draws_is_that_of_its_coefficients() -> None:
    """(X'X)^-1 of ln k, a and b, times the squared scatter."""
    n, d = (10.0 ** A([6, 6, 6, 7, 7, 8, 8, 9]), 10.0 ** A([8, 9, 10, 8, 10, 9, 11, 10]))
    scatter = 0.05 * A([1, -1, 1, -1, 1, -1, -1, 1])
    found = fit_cost(n, d, 6 * n * d * np.exp(scatter))
    rows = np.column_stack([np.ones(8), np.log(n), np.log(d)])
    left = scatter - rows @ np.linalg.lstsq(rows, scatter, rcond=None)[0]
    assert found.rmse_log == pytest.approx(np.sqrt((left**2).mean()))
    wanted = (left**2).sum() / 5 * np.linalg.inv(rows.T @ rows)
    assert found.root @ found.root.T == pytest.approx(wanted, rel=1e-6)
    exact = fit_cost(n, d, 6 * n * d)
    assert exact.root.tolist() == [[0.0] * 3] * 3


def test_a_new_run_has_the_scatter_about_the_law_and_that_of_seeds() -> None:
    sample: Any = SimpleNamespace(noise=SimpleNamespace(within=0.09, between=0.16))
    rows = np.zeros((3, 2))
    found = _with_run_noise(rows, sample, 5)
    assert found[0].tolist() == [0.0, 0.0]
    assert found[1:] == pytest.approx(0.5 * np.random.default_rng((5, 303)).standard_normal((2, 2)))
    assert not rows.any()
    values = A([[5.0, -9.0], [1.0, 0.0], [2.0, 1.0], [3.0, 2.0]])
    band = _band(values, 0.5)
    assert {name: part.tolist() for name, part in band.items()} == {
        "estimate": [5.0, -9.0], "low": [1.5, -9.0], "high": [5.0, 1.5],
    }  # fmt: skip


def test_the_steps_of_a_robust_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Least squares from six starts, its two best by Huber's penalty with half the noise, then with `ROBUST` of it."""
    steps: list[Any] = []
    noises: list[float] = []
    real, prior = descent.minimise, formula.with_prior

    def minimise(problem: Any, theta: Any, objective: Any, **told: Any) -> Any:
        steps.append((objective, len(theta), told))
        return real(problem, theta, objective, **told)

    def with_prior(problem: Any, law: Formula, objective: Any, noise: float) -> Any:
        noises.append(noise)
        return prior(problem, law, objective, noise)

    monkeypatch.setattr(descent, "minimise", minimise)
    monkeypatch.setattr(formula, "with_prior", with_prior)
    x, loss = noisy_line()
    table = observe(x, loss)
    found = robust_fit(Formula("line", "a*x^(-b)", ("x",)), table, "log")
    assert found is not None
    first, second, third = steps
    assert (first[0], first[2]) == (LeastSquares(), {"iterations": 40, "tolerance": 1e-5})
    assert [step[1] for step in (second, third)] == [2, 2]
    assert [step[2] for step in (second, third)] == [{"iterations": 20, "tolerance": 1e-5}] * 2
    start, noise = noises[0], noises[1]
    assert start == pytest.approx(0.1 * 0.3 * np.std(np.log(loss)))
    slope, constant = np.polyfit(np.log(x), np.log(loss), 1)
    left = np.log(loss) - constant - slope * np.log(x)
    assert noise == pytest.approx(formula.NORMAL_MAD * np.median(np.abs(left)), rel=1e-3)
    assert noises[1:] == [noise] * 3
    assert [second[0], third[0]] == [LogHuber(0.5 * noise), LogHuber(formula.ROBUST * noise)]
    assert found.objective == LogHuber(formula.ROBUST * noise)
    assert first[1] <= 6
    steps.clear()
    noises.clear()
    robust_fit(Formula("line", "a*x^(-b)", ("x",)), observe(x, np.ones(8)), "log", 3, 1e-3)
    assert [step[2]["tolerance"] for step in steps] == [1e-3] * 3
    assert noises[:2] == pytest.approx([1e-10, 1e-9])


def passes_of(monkeypatch: pytest.MonkeyPatch, means: list[float], odd_of: list[set[int]]) -> tuple[list[Any], Any]:
    """What each pass leaves out, where pass k finds these far outside; and the answer, which is that of the last."""
    seen: list[Any] = []

    def left_out(rows: Any, law: str, level: float, odd: frozenset[int]) -> Any:
        seen.append(set(odd))
        far = odd_of[min(len(seen), len(odd_of)) - 1]
        bands = [Prediction(2.0 if place in far else means[place], 1.0, 4.0) for place in range(len(means))]
        return tuple((place, Prediction(band.predicted, 1.9, 2.1 + len(seen))) for place, band in enumerate(bands))

    monkeypatch.setattr(irregular, "_left_out", left_out)
    points = [Replicates(2.0**k, (mean,)) for k, mean in enumerate(means)]
    return seen, irregular.leave_one_out(points, "power")


@pytest.mark.parametrize(
    ("n", "odd_of", "passes"),
    [
        (7, [set()], [set()]),
        (7, [{3}, set()], [set(), {3}]),
        (6, [{3}, set()], [set(), {3}]),
        (5, [{3}, set()], [set()]),
        (6, [{3, 4}, set()], [set()]),
        (7, [{3}, {4}, set()], [set(), {3}, {3, 4}]),
        (7, [{3}, {4}, {5}, set()], [set(), {3}, {3, 4}]),
        (12, [{0}, {1}, {2}, {3}, {4}, {5}], [set(), {0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}]),
    ],
)
def test_configurations_far_outside_are_left_out_of_the_next_pass(
    n: int, odd_of: list[set[int]], passes: list[set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until there are no more, five would not be left, or five passes are over."""
    seen, found = passes_of(monkeypatch, [20.0] * n, odd_of)
    assert seen == passes
    assert list(found) == list(range(n))
    assert {band.high for band in found.values()} == {2.1 + len(passes)}


def test_what_is_left_out_is_asked_in_order_of_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(irregular, "_left_out", lambda *told: asked.append(told) or ())
    points = [Replicates(4.0, (1.0, 2.0)), Replicates(1.0, (5.0,)), Replicates(4.0, (3.0,))]
    assert irregular.leave_one_out(points, "m3") == {}
    rows = ((1, 1.0, 5.0), (0, 4.0, 1.0), (0, 4.0, 2.0), (2, 4.0, 3.0))
    assert asked == [(rows, "m3", 0.95, frozenset())]
    assert irregular.leave_one_out(points[:2], "m3") == {}
    assert irregular.leave_one_out(points, "chinchilla") == {}
    assert len(asked) == 1
