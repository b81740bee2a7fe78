"""Known errors of evaluation: what rows weigh, by hand, and intervals that hold the truth as often as they say."""

from __future__ import annotations

import json

import numpy as np
import pytest

import metascale as ms
from metascale import laws
from metascale.core.errors import InputError
from metascale.laws.evaluation import row_weights, run_variance, weigh
from metascale.laws.observations import observe
from metascale.laws.uncertainty import delta_intervals, residual_noise
from tests.laws.test_entry import call, write

X = np.geomspace(1e2, 1e5, 12)
ERROR = np.where(np.arange(12) % 2, 0.04, 0.004)  # of ln loss: every other row was evaluated on few examples
RUNS = 0.01
ALPHA = 0.2


def table(rng):
    return 5 * X**-ALPHA * np.exp(RUNS * rng.standard_normal(12) + ERROR * rng.standard_normal(12))


def test_the_variance_between_runs_is_what_errors_leave_by_hand():
    residuals = np.array([0.3, -0.1, 0.2, -0.4])
    # Equal errors: sum r^2 / (tau^2 + s^2) = freedom, so tau^2 = .30 / 2 - .1^2.
    assert run_variance(residuals, np.full(4, 0.1), 2) == pytest.approx(0.30 / 2 - 0.01, rel=1e-12)
    assert run_variance(residuals, np.full(4, 0.5), 2) == 0.0  # .30 / .25 = 1.2 < 2: the errors explain all
    # Two kinds: (.09 + .01) / (t + .01) + (.04 + .16) / (t + .04) = 2 is 2 t^2 - .2 t - .0052 = 0.
    kinds = np.array([0.1, 0.1, 0.2, 0.2])
    assert run_variance(residuals, kinds, 2) == pytest.approx((0.2 + np.sqrt(0.04 + 8 * 0.0052)) / 4, rel=1e-9)


def test_rows_weigh_by_the_inverse_of_both_variances():
    weights = row_weights(0.01**2, np.array([0.0, 0.01, 0.03]))
    assert weights / weights[0] == pytest.approx([1, 1 / 2, 1 / 10])
    assert weights.mean() == pytest.approx(1)
    found = weigh(observe(X, table(np.random.default_rng(0)), noise=ERROR * table(np.random.default_rng(0))))
    expected = (found.run_variance + 0.04**2) / (found.run_variance + 0.004**2)
    assert found.weights[0] / found.weights[1] == pytest.approx(expected)


def test_the_fit_is_the_weighted_regression_of_those_weights():
    loss = table(np.random.default_rng(3))
    found = ms.fit(X, loss, noise=ERROR * loss, law="power", n_bootstrap=20)
    weights = found.fit.observations.weights
    slope, _ = np.polyfit(np.log(X), np.log(loss), 1, w=np.sqrt(weights))
    assert found.fit.objective.name == "least squares"
    assert found.fit.parameters["alpha"] == pytest.approx(-slope, rel=1e-9)
    # The delta method's variance by hand: (J'WJ)^-1 J'W V WJ (J'WJ)^-1 with V = tau^2 + s^2.
    design = np.column_stack([np.ones(12), np.log(X)])
    pull = np.linalg.inv(design.T @ (design * weights[:, None])) @ (design * weights[:, None]).T
    variance = (pull * (residual_noise(found.fit).within + ERROR**2)) @ pull.T
    part = delta_intervals(found.fit, 0.95)["alpha"]
    from scipy.special import stdtrit

    reach = stdtrit(10, 0.975) * np.sqrt(variance[1, 1])
    assert part["high"] - part["low"] == pytest.approx(2 * reach, rel=1e-6)


def coverage(tables, seed, with_noise):
    rng, held, errors = np.random.default_rng(seed), 0, []
    for _ in range(tables):
        loss = table(rng)
        rows = weigh(observe(X, loss, noise=ERROR * loss)) if with_noise else observe(X, loss)
        fit = laws.fit_law(laws.LAWS["power"], rows, laws.LeastSquares())
        low, high = laws.bootstrap(fit, 200, seed=1).interval("alpha", 0.90)
        held += low <= ALPHA <= high
        errors.append(fit.parameters["alpha"] - ALPHA)
    return held / tables, float(np.std(errors))


@pytest.mark.long
def test_intervals_hold_the_truth_and_the_estimate_is_sharper():
    """150 tables; the standard deviation of 90 % is 2.4 %. Equal weights leave an error twice as large."""
    share, error = coverage(150, 0, True)
    assert 0.83 <= share <= 0.96
    assert error < 0.6 * coverage(150, 0, False)[1]


@pytest.mark.long
def test_coverage_over_many_tables():
    share, _ = coverage(2000, 1, True)
    print(f"90 % intervals of the exponent hold it in {100 * share:.1f} % of 2,000 tables")
    assert 0.88 <= share <= 0.925


def test_the_forecast_leaves_a_badly_evaluated_row_aside_and_a_file_keeps_that(tmp_path):
    loss = 5 * X**-ALPHA
    error = np.full(12, 1e-3)
    loss[-1] *= 1.2
    error[-1] = 0.3
    plain = ms.forecast(X, loss, [4e5]).median[0]
    told = ms.forecast(X, loss, [4e5], noise=error * loss)
    truth = 5 * 4e5**-ALPHA
    # The slope fades from the end of the table on, which is what is left of the error; the laws are not misled at all.
    assert abs(np.log(told.median[0] / truth)) < 0.4 * abs(np.log(plain / truth))
    assert told.members["power_irreducible"][0] == pytest.approx(truth, rel=1e-3)
    assert told.low[0] < truth < told.high[0]
    told.save(tmp_path / "f.json")
    assert ms.load_law(tmp_path / "f.json").predict([4e5]).low[0] == told.low[0]


@pytest.mark.long
def test_the_command_reads_the_column(tmp_path):
    loss = table(np.random.default_rng(3))
    path = write(tmp_path / "t.csv", {"tokens": X, "loss": loss, "loss_se": ERROR * loss})
    by_call = ms.fit(path, noise="loss_se", n_bootstrap=50)
    by_arrays = ms.fit(X, loss, noise=ERROR * loss, n_bootstrap=50, x_name="tokens")
    assert by_call.parameters == by_arrays.parameters
    call("fit", path, "--noise-column", "loss_se", "--bootstrap", 50, "--out", tmp_path / "law")
    stored = json.loads((tmp_path / "law" / "fit.json").read_text())
    assert stored["parameters"]["alpha"]["low"] == by_call.parameters["alpha"]["low"]
    for command in (("forecast", path, "--to", 1e6), ("backtest", path)):
        plain = call(*command, "--json").stdout
        assert call(*command, "--noise-column", "loss_se", "--json").stdout != plain
    # A perplexity is read as its logarithm, and so is its error.
    both = {"tokens": X, "ppl": np.exp(loss), "se": ERROR * loss * np.exp(loss)}
    assert ms.fit(both, y="ppl", noise="se", n_bootstrap=20).fit.observations.error == pytest.approx(ERROR)


def test_surfaces_weigh_their_rows_and_joined_forms_refuse(tmp_path):
    rng = np.random.default_rng(1)
    size, data = (part.ravel() for part in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 3e10, 5)))
    error = np.where(rng.random(25) < 0.4, 0.05, 0.001)
    truth = 1.8 + 480 * size**-0.35 + 2100 * data**-0.37
    loss = truth * np.exp(error * rng.standard_normal(25))
    rows = np.column_stack([size, data])
    told = ms.fit(rows, loss, noise=error * loss, law="chinchilla", n_bootstrap=50)
    plain = ms.fit(rows, loss, law="chinchilla", objective=laws.LeastSquares(), n_bootstrap=50)
    gaps = [np.abs(np.log(one.fit.predict(rows) / truth)).max() for one in (told, plain)]
    assert gaps[0] < 0.2 * gaps[1]
    with pytest.raises(InputError, match="weigh every row alike"):
        ms.fit(rows, loss, noise=error * loss, law="E + A/N**alpha", x_name=("N", "D"))
    columns = {"N": size, "D": data, "loss": loss, "se": error * loss}
    with pytest.raises(InputError, match="weigh every row alike"):
        ms.forecast(columns, at=[[1e10, 1e11]], x=("N", "D"), noise="se")


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        ([0.1] * 11, "11 standard errors and 12 losses"),
        ([0.1] * 11 + [-0.1], "-0.1 in row 12"),
        ([0.0] * 12, "0 in every row"),
        ([np.nan] * 12, "nan in row 1"),
    ],
)
def test_errors_that_are_none_are_refused(noise, words):
    with pytest.raises(InputError, match=words):
        ms.fit(X, X**-0.1, noise=noise)
    with pytest.raises(InputError, match="cannot go together"):
        ms.fit(X, X**-0.1, noise=np.full(12, 0.01), weights="replicate")
