"""Exports and imports: refusals by their argument, and the columns of a run worked out in the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from metascale.core.errors import InputError
from metascale.integrations.adapters import AdapterRun
from metascale.integrations.export import export_study
from metascale.integrations.model_card import _what
from metascale.integrations.sources.runs import Imported, ImportedRun
from metascale.study import run_study
from tests.study.folders import tiny_study


def test_a_format_that_is_none_and_an_option_of_another_are_refused_by_their_argument(tmp_path: Path) -> None:
    run_study(tiny_study(), tmp_path / "study")
    for kind, config, field in (("nothing", False, "kind"), ("mlflow", True, "config")):
        with pytest.raises(InputError) as caught:
            export_study(tmp_path / "study", kind, str(tmp_path / "out"), config=config)
        assert caught.value.field == field
    assert not (tmp_path / "out").exists()


def test_columns_of_a_run_and_what_is_renamed_where_names_clash() -> None:
    run = ImportedRun(
        "a", state="finished", config={"width": 8, "loss": "mse", "steps": 3}, started_at=100.0, ended_at=160.5
    )
    for step, loss in ((1, 2.0), (2, 1.0), (3, 1.5)):
        run.add("loss", step, loss)
    run.add("accuracy", 3, 0.5)
    run.add("state", 4, 7.0)
    table = Imported("here", [run, ImportedRun("b", config={"width": 16})]).table()
    found = {name: list(values) for name, values in table.items()}
    assert list(found)[:6] == ["run", "name", "state", "width", "config.loss", "config.steps"]
    expected = {"run": ["a", "b"], "width": [8, 16], "config.loss": ["mse", None], "config.steps": [3, None]}
    expected |= {"loss": [1.5, None], "loss_step": [3, None], "loss_min": [1.0, None], "loss_min_step": [2, None]}
    expected |= {"accuracy": [0.5, None], "accuracy_step": [3, None], "metric.state": [7.0, None]}
    expected |= {"steps": [4, None], "wall_s": [60.5, None]}
    assert {name: found[name] for name in expected} == expected
    assert "accuracy_max" not in found
    run.config["config.loss"] = 1
    with pytest.raises(InputError, match=r"here would have two columns named 'config\.loss'") as caught:
        Imported("here", [run]).table()
    assert caught.value.value == "config.loss"


def test_a_metric_that_is_called_like_what_another_has_keeps_its_values() -> None:
    """Of `reward` the best is reward_max, which this run logged itself: last 5 at step 2, best 9 at step 1."""
    run = ImportedRun("a", config={"reward_max": 0})
    for step, reward, largest in ((1, 2.0, 9.0), (2, 3.0, 5.0)):
        run.add("reward", step, reward)
        run.add("reward_max", step, largest)
    run.add("step", 2, 1.0)
    run.add("reward_step", 2, 7.0)
    table = Imported("here", [run]).table()
    assert {name: values[0] for name, values in table.items() if name not in ("run", "name", "steps")} == {
        "config.reward_max": 0, "reward": 3.0, "reward_step": 2, "reward_max": 3.0, "reward_max_step": 2,
        "metric.reward_max": 5.0, "metric.reward_max_step": 2, "metric.reward_max_max": 9.0,
        "metric.reward_max_max_step": 1, "step": 1.0, "step_step": 2, "metric.reward_step": 7.0,
        "metric.reward_step_step": 2,
    }  # fmt: skip
    run.add("metric.reward_max", 1, 0.0)
    with pytest.raises(InputError, match=r"^here would have two columns named 'metric\.reward_max'; names") as caught:
        Imported("here", [run]).table()
    assert caught.value.value == "metric.reward_max"


def test_the_best_value_is_the_first_of_equal_ones_and_finite() -> None:
    run = ImportedRun("a")
    for step, value in enumerate((float("inf"), 2.0, 1.0, 2.0, 1.0, float("nan"))):
        run.add("loss", step, value)
    assert (run.series["loss"].best(True), run.series["loss"].best(False)) == (1, 2)
    run = ImportedRun("b")
    run.add("loss", 0, float("nan"))
    assert run.series["loss"].best(True) is None


def test_runs_are_told_apart_by_their_ids() -> None:
    with pytest.raises(InputError, match="here holds no run"):
        Imported("here", [])
    with pytest.raises(InputError, match="here has two runs named 'a'"):
        Imported("here", [ImportedRun("a"), ImportedRun("b"), ImportedRun("a")])


@pytest.mark.parametrize(("weights", "rates"), [(None, False), (0, True), (3, False)])
def test_the_card_says_whose_weights_and_which_rates(weights: int | None, rates: bool) -> None:
    config = {"rank": 2, "method": "reptile", "inner_optimizer": "sgd", "inner_lr": 0.1}
    config |= {"random_weights": weights, "learn_rates": rates}
    result = {"test_inner_steps": 5, "test_inner_lr": None}
    run = AdapterRun(Path("run"), config, result, {"adapter_config.json": b"{}"}, (), {}, {}, {}, "")
    said = _what(run, "me/base")
    assert "rank 2 for `me/base`, meta-learnt by reptile" in said
    assert "5 steps of sgd at rate 0.1," in said
    assert (f"drawn at random, from seed {weights}." in said, "drawn at random" in said) == (weights is not None,) * 2
    assert ("The inner rates were learnt as well" in said) is rates
