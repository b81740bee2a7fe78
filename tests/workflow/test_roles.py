"""What the axes of a study are: scales, series and best-of axes, their laws, and the baselines that go with them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metascale.core.columns import NOT_BEST
from metascale.core.errors import InputError
from metascale.core.run import Run
from metascale.laws.selection import best_of
from metascale.study import Study, read_study, results_table, run_study
from metascale.study.roles import Roles, assign
from metascale.workflow.conclude import conclude, laws_of
from metascale.workflow.recipe import load_recipe

AXES = {"width": [8, 16, 32], "vocabulary": [100, 200], "lr": [0.1, 0.3], "method": ["a", "b"]}


def test_the_first_axis_of_numbers_is_the_scale_and_the_rest_are_series() -> None:
    found = assign(AXES)
    assert (found.scales, found.series, found.best_of) == (("width",), ("vocabulary", "lr", "method"), ())


def test_named_roles() -> None:
    found = assign(AXES, scale=["vocabulary", "width"], best_of="lr", loss="error")
    assert (found.scales, found.series, found.best_of) == (("vocabulary", "width"), ("method",), ("lr",))
    assert assign(AXES, series="width").scales == ("vocabulary",), "the next axis of numbers"


def test_a_measured_scale_stands_for_the_axes_that_shape_it() -> None:
    columns = {"width": "n_params"}
    assert assign(AXES, stands_for=columns).scales == ("n_params",)
    assert assign(AXES, stands_for=columns).series == ("vocabulary", "lr", "method")
    alone = assign({"width": [1, 2], "depth": [1, 2], "method": ["a", "b"]}, scale="n_params")
    assert (alone.scales, alone.series) == (("n_params",), ("method",))


def test_numbers_written_as_text_are_a_scale() -> None:
    assert assign({"n": ["8", "16"], "k": ["x", "y"]}).scales == ("n",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"scale": ["widht"]}, "there is no axis 'widht'; did you mean 'width'?"),
        ({"series": ["depth"]}, "there is no axis 'depth'"),
        ({"best_of": ["zzz"]}, "there is no axis 'zzz'; the axes are: width, vocabulary, lr, method"),
        ({"scale": ["width"], "series": ["width"]}, "'width' is named twice"),
        ({"scale": ["method"]}, "axis 'method' has values that are no numbers"),
        ({"better": "more"}, "`better` is lower or higher"),
    ],
)
def test_what_is_no_axis_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        assign(AXES, **given)
    assert message in str(caught.value)


def test_an_axis_that_a_study_forgets_is_a_series_and_never_pooled() -> None:
    def roles(**given: Any) -> Roles | None:
        axes = {"width": [8, 16], "vocabulary": [100, 200]}
        return Study("own", "a.module:f", {}, axes, (0,), roles=Roles(**given)).roles

    assert roles(scales=("width",)) == Roles(("width",), ("vocabulary",))
    assert roles(scales=("n_params",)) == Roles(("n_params",)), "both stand for it"
    with pytest.raises(InputError, match="there is no axis 'lr'"):
        roles(best_of=("lr",))


# Best-of.


def rows(*columns: str) -> list[dict[str, Any]]:
    """At width 8 the rate 0.1 is best on validation and the rate 0.3 on the test set; at 16 the other way round."""
    table = [(8, 0.1, 1.0, 3.0), (8, 0.3, 2.0, 1.0), (16, 0.1, 2.0, 1.0), (16, 0.3, 1.0, 3.0)]
    named = [dict(zip(("width", "lr", "val_loss", "loss"), row, strict=True)) for row in table]
    return [{name: row[name] for name in columns} for row in named]


def test_the_best_value_is_chosen_on_validation_and_said() -> None:
    found = best_of(rows("width", "lr", "val_loss", "loss"), ["lr"], ["width"], "loss")
    assert found.kept == {0, 3}
    assert "best mean val_loss (width=8: lr=0.1; width=16: lr=0.3)" in found.notes[0]
    assert "smallest or largest that was tried at 2 of 2 points" in found.notes[1]


def test_without_validation_it_is_chosen_on_the_test_set_and_said() -> None:
    found = best_of(rows("width", "lr", "loss"), ["lr"], ["width"], "loss")
    assert found.kept == {1, 2}
    assert "the test result itself" in found.notes[0]
    assert best_of(rows("width", "lr", "loss"), ["lr"], ["width"], "loss", "higher").kept == {0, 3}


def test_the_best_value_is_that_of_the_mean_over_seeds() -> None:
    """Rate 0.1: mean (1 + 5) / 2 = 3; rate 0.3: 2 and 2. The best single run is of rate 0.1."""
    table = [{"lr": lr, "loss": loss} for lr, loss in ((0.1, 1.0), (0.1, 5.0), (0.3, 2.0), (0.3, 2.0))]
    assert best_of(table, ["lr"], [], "loss").kept == {2, 3}


# Studies.


def power(config: dict[str, Any], run: Run, device: str) -> dict[str, float]:
    """loss = factor · width^-alpha, worse by the distance of the rate from 0.3; each vocabulary has its own."""
    alpha = {100: 0.5, 200: 0.25, 400: 1.0}[config.get("vocabulary", 100)]
    noise = math.exp(0.001 * (2 * (config["seed"] % 2) - 1))
    away = 1 + abs(config.get("lr", 0.3) - 0.3)
    value = 5 * float(config["width"]) ** -alpha * away * noise
    return {"error": value, "validation_error": value * 1.1}


def surface(config: dict[str, Any], run: Run, device: str) -> dict[str, float]:
    return {"loss": 1 + 20 * config["size"] ** -0.5 + 30 * config["tokens"] ** -0.3}


def study(axes: dict[str, Any], trial: str = "power", seeds: tuple[int, ...] = (0, 1), **roles: Any) -> Study:
    path = f"tests.workflow.test_roles:{trial}"
    return Study("own", path, {}, axes, seeds, roles=assign(axes, **{"loss": "error", **roles}))


WIDTHS = [8, 16, 32, 64, 128]


def test_three_vocabularies_are_three_laws_not_three_seeds(tmp_path: Path) -> None:
    run_study(study({"width": WIDTHS, "vocabulary": [100, 200, 400]}), tmp_path)
    found, reason = laws_of(read_study(tmp_path).study, results_table(tmp_path))
    assert reason == ""
    exponents = {label: law.parameters["alpha"]["estimate"] for label, law in found.items()}
    assert exponents == pytest.approx({"vocabulary=100": 0.5, "vocabulary=200": 0.25, "vocabulary=400": 1.0}, abs=0.02)


def test_the_best_of_an_axis_alone_is_in_the_law_and_in_the_table(tmp_path: Path) -> None:
    run_study(study({"width": WIDTHS, "lr": [0.1, 0.3, 1.0]}, best_of="lr"), tmp_path)
    table = results_table(tmp_path)
    kept = [row["lr"] for row in table.rows if row["kind"] != NOT_BEST]
    assert kept == [0.3] * 10
    found, _ = laws_of(read_study(tmp_path).study, table)
    assert found[""].parameters["alpha"]["estimate"] == pytest.approx(0.5, abs=0.01)
    assert any("best mean validation_error" in note for note in found[""].notes)


def test_other_roles_are_the_same_trials(tmp_path: Path) -> None:
    axes = {"width": WIDTHS, "lr": [0.1, 0.3]}
    first = run_study(study(axes), tmp_path)
    again = run_study(study(axes, best_of="lr"), tmp_path)
    assert (first.ran, again.ran) == (20, 0)
    stored = read_study(tmp_path).study.roles
    assert stored is not None
    assert stored.best_of == ("lr",)
    run_study(Study("own", "tests.workflow.test_roles:power", {}, axes, (0, 1)), tmp_path)
    assert read_study(tmp_path).study.roles == stored, "a design that states no roles keeps those that are stored"


def test_numbers_written_as_text_give_the_same_law(tmp_path: Path) -> None:
    run_study(study({"width": [str(width) for width in WIDTHS]}), tmp_path)
    conclusion = conclude(tmp_path)
    assert conclusion.analyses[""].parameters["alpha"]["estimate"] == pytest.approx(0.5, abs=0.01)
    assert "α = 0.5" in (tmp_path / "report.html").read_text()


def test_two_scales_are_a_law_in_both_on_the_page_too(tmp_path: Path) -> None:
    axes = {"size": [10, 30, 100, 300], "tokens": [100, 300, 1000, 3000]}
    run_study(study(axes, "surface", (0,), scale=["size", "tokens"], loss="loss"), tmp_path)
    conclusion = conclude(tmp_path)
    predicted = conclusion.analyses[""].predict(np.array([[200.0, 500.0], [300.0, 3000.0]]))
    truth = [1 + 20 / math.sqrt(200) + 30 * 500**-0.3, 1 + 20 / math.sqrt(300) + 30 * 3000**-0.3]
    assert predicted.median == pytest.approx(truth, rel=0.002)
    page = (tmp_path / "report.html").read_text()
    assert "tokens 1,000" in page, "the second scale is drawn as a series, never averaged"


def test_a_study_without_roles_or_known_names_says_its_loss_or_why_not(tmp_path: Path) -> None:
    plain = Study("own", "tests.workflow.test_roles:power", {}, {"width": WIDTHS}, (0, 1))
    run_study(plain, tmp_path)
    assert "name it with `loss`" in laws_of(plain, results_table(tmp_path))[1]
    wrong = Roles(("width",), loss="eror")
    assert "no column 'eror'; did you mean 'error'?" in laws_of(plain, results_table(tmp_path), wrong)[1]


# Baselines.


def test_baselines_run_at_the_axes_that_change_them() -> None:
    digits = load_recipe("digits")
    made = digits.study({"n_tasks": [2, 5], "k_shot": [1, 5], "outer_lr": [0.1, 0.2]}, seeds=[0, 1])
    assert made.roles is not None
    assert made.roles.crossed == ("k_shot",)
    shots = {(t.config["method"], t.config["k_shot"]) for t in made.trials() if t.kind == "baseline"}
    assert len(shots) == 8
    assert ("fine_tuning", 5) in shots
    assert len([t for t in digits.study(seeds=[0]).trials() if t.kind != "meta"]) == 5, "as ever without such an axis"
