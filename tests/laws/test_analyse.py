from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from metascale.core.errors import CorruptFile, InputError
from metascale.laws import LawRecord, LeastSquares, analyse, fit, read_laws, write_laws
from metascale.laws.observations import observe
from metascale.laws.verdict import shared_errors

SCALES = np.repeat([2.0, 5, 10, 20, 50, 100, 200], 3)
SEEDS = np.tile([0, 1, 2], 7)


def noisy(curve, sd=0.02, seed=0):
    return curve * np.exp(sd * np.random.default_rng(seed).standard_normal(len(curve)))


def test_a_planted_law_comes_back_with_its_interval():
    found = analyse(SCALES, noisy(0.5 + 2 * SCALES**-0.5), replicate=SEEDS, x_name="n_tasks", loss_name="loss_nats")
    assert found.fit.law.name == "power_irreducible"
    assert found.trend == "falls"
    for name, true in {"E": 0.5, "A": 2.0, "alpha": 0.5}.items():
        part = found.parameters[name]
        assert part["low"] <= true <= part["high"]
        assert part["low"] <= part["estimate"] <= part["high"]
    assert found.fit.r2_log > 0.99


def test_noiseless_parameters_are_exact():
    found = analyse(SCALES, 3 * SCALES**-0.25, replicate=SEEDS)
    assert found.fit.law.name == "power"
    assert found.parameters["A"]["estimate"] == pytest.approx(3, rel=1e-9)
    assert found.parameters["alpha"]["estimate"] == pytest.approx(0.25, rel=1e-9)


def test_no_trend_and_rising_loss_are_said():
    flat = analyse(SCALES, noisy(np.ones(21), 0.02), replicate=SEEDS, n_bootstrap=50)
    assert (flat.trend, flat.fit.law.name) == ("none", "none")
    assert "No trend" in flat.verdict
    rising = analyse(SCALES, noisy(0.8 * SCALES**0.06), replicate=SEEDS, n_bootstrap=50)
    assert rising.trend == "rises"
    assert rising.parameters["alpha"]["estimate"] < 0
    assert "RISES" in rising.verdict


def test_constant_loss_answers_no_trend():
    assert analyse([1, 2, 4, 8], [1.5, 1.5, 1.5, 1.5]).trend == "none"


def test_the_largest_scale_is_predicted_without_being_seen():
    loss = noisy(3 * SCALES**-0.25)
    moved = loss.copy()
    moved[SCALES == 200] *= 2.0
    for table in (loss, moved):
        hidden = analyse(SCALES, table, replicate=SEEDS, law="power", n_bootstrap=50).extrapolation
        assert hidden.predicted == pytest.approx(3 * 200**-0.25, rel=0.05)
        assert hidden.observed == pytest.approx(np.exp(np.log(table[SCALES == 200]).mean()))
        assert hidden.log_error == pytest.approx(np.log(hidden.predicted / hidden.observed))
        assert set(hidden.baselines) == {"last_value", "tail_line"}
    assert hidden.high < hidden.observed


def test_json_form_is_the_contract():
    analysis = analyse(SCALES, noisy(SCALES**-0.3), replicate=SEEDS, n_bootstrap=50)
    found = json.loads(json.dumps(analysis.to_json(), allow_nan=False))
    assert {
        "law",
        "objective",
        "x_name",
        "loss_name",
        "n_observations",
        "n_scales",
        "level",
        "parameters",
        "r2_log",
    } <= set(found)
    assert {"verdict", "trend", "families", "extrapolation", "curve", "notes"} <= set(found)
    for family in found["families"].values():
        named = {"objective", "parameters", "rmse_log", "aicc", "backtest_rmse_log", "backtest_coverage"}
        assert named | {"converged", "note"} == set(family)
        for part in family["parameters"].values():
            assert part["low"] <= part["estimate"] <= part["high"]
    assert found["parameters"] == found["families"][found["law"]]["parameters"]
    assert len(found["curve"]["x"]) == len(found["curve"]["low"]) == 200
    assert found["n_observations"] == 21
    assert found["n_scales"] == 7


def test_the_same_seed_gives_the_same_answer():
    loss = noisy(0.3 + SCALES**-0.4)
    first, second = (analyse(SCALES, loss, seed=3, n_bootstrap=50).to_json() for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("x", "loss", "words"),
    [
        ([1, 2, 0], [1, 1, 1], "positive"),
        ([1, 2, 3], [1, -1, 1], "positive"),
        ([1, 2, float("nan")], [1, 1, 1], "finite"),
        ([1, 2, 3], [1, 1], "one loss a scale"),
        ([1, 1, 1], [1, 2, 3], "distinct"),
        ([1, 2, 2], [1, 2, 3], "needs at least 3"),
        ([], [], "empty"),
        (["a", "b", "c"], [1, 2, 3], "not a number"),
        ([1e-200, 1, 1e200], [1, 2, 3], "mixed units"),
    ],
)
def test_refusals_say_what_is_allowed(x, loss, words):
    with pytest.raises(InputError, match=words):
        analyse(x, loss)


def test_duplicated_rows_are_dropped_and_said():
    x, loss = np.append(SCALES, 200.0), np.append(noisy(SCALES**-0.3), noisy(SCALES**-0.3)[-1])
    found = analyse(x, loss, replicate=np.append(SEEDS, 2), n_bootstrap=50)
    assert found.fit.observations.n == 21
    assert any("1 duplicated row dropped" in note for note in found.notes)


@pytest.mark.parametrize(("law", "said"), [("powr", "did you mean 'power'"), ("zzz", ".*power, power_irreducible")])
def test_unknown_law_is_refused_with_the_nearest_or_all_choices(law, said):
    with pytest.raises(InputError, match=f"the law '{law}' is unknown; {said}"):
        analyse(SCALES, SCALES**-0.3, law=law)


def test_checkpoints_are_warned_of():
    found = analyse(SCALES, noisy(SCALES**-0.3), run=SEEDS, n_bootstrap=50)
    assert any("not scaling points" in note for note in found.notes)


def test_mixed_units_are_warned_of():
    x = np.array([1e6, 2e6, 4e6, 8e6, 16e9, 32e9])
    found = analyse(x, x**-0.1, n_bootstrap=50)
    assert any("same unit" in note for note in found.notes)


def test_a_jagged_table_is_not_called_constant() -> None:
    """Losses that jump between scales, far beyond their seeds: no trend, and not "within the noise" either."""
    x = np.repeat([5.0, 20.0, 100.0, 500.0], 3)
    seeds = np.tile([-0.01, 0.0, 0.01], 4)
    jagged = analyse(x, np.repeat([0.9, 1.2, 0.85, 1.0], 3) + seeds, replicate=np.tile([0, 1, 2], 4))
    assert jagged.trend == "undecided", "two scales up and two down could hide a fall"
    assert "loss differs from one x to the next by more than its replicates do" in jagged.verdict
    flat = analyse(x, 0.9 + seeds, replicate=np.tile([0, 1, 2], 4))
    assert flat.verdict.startswith("No trend: loss does not change with x beyond its noise")


def test_objective_and_weights_are_options():
    loss = noisy(3 * SCALES**-0.25)
    squares = fit(SCALES, loss, replicate=SEEDS, objective=LeastSquares(), n_bootstrap=50)
    assert squares.to_json()["objective_name"] == "least squares"
    weighted = fit(SCALES, loss, replicate=SEEDS, objective=LeastSquares(), weights="replicate", n_bootstrap=50)
    assert weighted.parameters["alpha"]["estimate"] != squares.parameters["alpha"]["estimate"]
    with pytest.raises(InputError, match="allowed are: None, 'replicate'"):
        fit(SCALES, loss, weights="variance")
    with pytest.raises(InputError, match="one scale"):
        fit(np.column_stack([SCALES, SCALES]), loss, weights="replicate")


def test_a_law_that_misses_its_scales_is_said_to():
    wave = np.exp(0.1 * np.cos(3 * np.log(SCALES)))
    found = analyse(SCALES, noisy(3 * SCALES**-0.5 * wave, 0.005), replicate=SEEDS, law="power", n_bootstrap=50)
    assert any("does not describe this table" in note for note in found.notes)


def test_a_share_rises_with_scale():
    odds = np.exp(-2 + 0.5 * np.log(SCALES))
    share = noisy(odds / (1 + odds), 0.01)
    found = analyse(SCALES, share, replicate=SEEDS, law="logistic", loss_name="accuracy", n_bootstrap=100)
    assert found.verdict.startswith("accuracy rises with x (its odds growing with mean exponent 0.49")
    with pytest.raises(InputError, match="between 0 and 1"):
        analyse(SCALES, 100 * share, law="logistic")


def test_backtests_are_compared_over_the_cuts_that_both_families_have() -> None:
    """More parameters skip the hardest cut; without it they would look better than they are."""
    two = SimpleNamespace(cut_errors=(0.04, 0.0401, 0.1428))
    three = SimpleNamespace(cut_errors=(0.0329, 0.0767, None))
    assert shared_errors(three, two) == (pytest.approx(0.0548), pytest.approx(0.04005), 2)  # type: ignore[arg-type]
    assert shared_errors(three, SimpleNamespace(cut_errors=(None, None, 0.1))) is None  # type: ignore[arg-type]


def test_a_record_is_read_back_as_it_was_written(tmp_path):
    found = analyse(SCALES, noisy(0.5 + 2 * SCALES**-0.5), replicate=SEEDS).record()
    assert LawRecord.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.exponent == found.parameters["alpha"]
    assert set(found.family_curves()) == {"none", "power", "power_shifted", "m3", "m4", "broken", "exponential"}
    assert found.family_curves()["none"][0] == pytest.approx(found.families["none"].parameters["A"].estimate)
    write_laws(tmp_path, {"method=maml": found, "method=anil": found})
    assert read_laws(tmp_path) == {"method=maml": found, "method=anil": found}
    write_laws(tmp_path, {"": found})
    assert read_laws(tmp_path) == {"": found}
    write_laws(tmp_path, {})
    assert read_laws(tmp_path) == {}


def test_a_record_of_another_version_is_read_as_far_as_it_goes(tmp_path):
    found = LawRecord.from_json({"law": "power", "parameters": {"alpha": {"estimate": 1, "low": 0.5, "high": 2}}})
    assert (found.direction, found.curve, found.extrapolation, found.level) == ("falls", None, None, 0.95)
    for text in ("{", "[]", '{"law": "power", "families": [1]}'):
        (tmp_path / "law.json").write_text(text)
        with pytest.raises(CorruptFile, match=r"law\.json"):
            read_laws(tmp_path)


def test_runs_in_any_order_are_resampled_without_the_largest_scale():
    x = np.geomspace(1e6, 1e9, 60)[::-1]  # the largest run stands first, and is the one that is hidden
    loss = (1.7 + 400 * x**-0.35) * np.exp(0.01 * np.random.default_rng(0).standard_normal(60))
    kept = observe(x, loss).keep(np.arange(60) < 59)
    assert kept.n_runs == 59
    assert kept.run.max() == 58
    assert analyse(x, loss, n_bootstrap=20, law="power").trend == "falls"
