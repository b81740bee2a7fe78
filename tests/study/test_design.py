from __future__ import annotations

import pytest

from metascale.core.canonical import content_id
from metascale.core.errors import InputError
from metascale.study import Study
from metascale.study.design import differing_keys, load_function, merge
from tests.study.folders import TRIALS, tiny_study


def make(**changes):
    fields = {"name": "s", "trial": "a.b:c", "base": {"lr": 0.1}, "axes": {"n": [2, 5]}, "seeds": [0, 1]}
    return Study(**{**fields, **changes})


def test_trials_come_in_the_order_given_with_seeds_fastest_and_extras_last():
    study = make(axes={"n": [5, 2], "lr": [0.1, 0.2]}, extra=[{"kind": "zero-shot", "seeds": [7]}])
    points = [(trial.config.get("n"), trial.config["lr"], trial.seed) for trial in study.trials()]
    assert points == [
        (5, 0.1, 0), (5, 0.1, 1), (5, 0.2, 0), (5, 0.2, 1),
        (2, 0.1, 0), (2, 0.1, 1), (2, 0.2, 0), (2, 0.2, 1),
        (None, 0.1, 7),
    ]  # fmt: skip
    assert [trial.kind for trial in study.trials()] == ["trial"] * 8 + ["zero-shot"]


def test_id_is_the_content_id_of_the_whole_configuration():
    trial = make().trials()[0]
    assert trial.config == {"lr": 0.1, "n": 2, "seed": 0, "trial": "a.b:c"}
    assert trial.id == content_id({"trial": "a.b:c", "seed": 0, "n": 2, "lr": 0.1})
    ids = {trial.id for trial in make().trials()} | {trial.id for trial in make(trial="a.b:d").trials()}
    assert len(ids) == 8


def test_the_same_configuration_has_the_same_id_whether_by_axis_or_by_base():
    by_axis = make(axes={"n": [2], "lr": [0.1]}, seeds=[0]).trials()[0]
    by_base = make(base={"lr": 0.1, "n": 2}, axes={}, seeds=[0]).trials()[0]
    assert by_axis.id == by_base.id


def test_extras_without_seeds_take_the_studys_and_are_merged_over_the_base():
    study = make(base={"model": {"width": 8, "depth": 2}}, extra=[{"model": {"width": 1}}, {"model.depth": 9}])
    extras = study.trials()[4:]
    assert [trial.seed for trial in extras] == [0, 1, 0, 1]
    assert extras[0].config["model"] == {"width": 1, "depth": 2}
    assert extras[2].config["model"] == {"width": 8, "depth": 9}
    assert extras[0].kind == "extra"


def test_a_study_without_axes_is_its_base_or_its_extras():
    assert [trial.config["lr"] for trial in make(axes={}).trials()] == [0.1, 0.1]
    assert [trial.config["lr"] for trial in make(axes={}, extra=[{"lr": 3.0}]).trials()] == [3.0, 3.0]


def test_merge_reaches_inside_and_changes_nothing_it_was_given():
    base = {"inner": {"lr": 0.1, "steps": 3}}
    assert merge(base, {"inner.lr": 0.5, "outer.lr": 1}) == {"inner": {"lr": 0.5, "steps": 3}, "outer": {"lr": 1}}
    assert base == {"inner": {"lr": 0.1, "steps": 3}}


def test_differing_keys_are_named_in_full():
    assert differing_keys({"a": {"b": 1, "c": 2}, "d": 1}, {"a": {"b": 1, "c": 3}, "e": 1}) == ["a.c", "d", "e"]
    assert differing_keys({"a": 1}, {"a": 1.0}) == ["a"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trial": "no_colon"}, "import path"),
        ({"trial": "a:b:c"}, "import path"),
        ({"axes": {"n": []}}, "axis 'n'"),
        ({"axes": {"n": "25"}}, "axis 'n'"),
        ({"axes": {"seed": [1]}}, "'seed'"),
        ({"base": {"trial": "x"}}, "'trial'"),
        ({"extra": [{"seed": 1}]}, "'seed'"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [0, True]}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"extra": [{"lr": 1, "seeds": 3}]}, "seeds"),
        ({"seeds": [0, 0]}, "twice"),
        ({"axes": {"n": [2, 2]}}, "twice"),
        ({"extra": [{"n": 2}]}, "twice"),
        ({"axes": {"lr.inner": [1]}}, "goes through 'lr'"),
        ({"base": {"lr": float("nan")}}, "finite"),
        ({"base": {"lr": object()}}, "object"),
    ],
)
def test_a_bad_design_is_refused_in_one_sentence(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


def test_labels_are_file_names():
    trial = make(axes={"model.name": ["../a b/c"], "curve": [[1, 2]]}, seeds=[3]).trials()[0]
    assert trial.folder_name == f"name=.._a_b_c-curve=_1_2_-seed=3-{trial.id}"
    assert len(make(axes={"n": ["x" * 500]}).trials()[0].folder_name) < 120


def test_functions_are_loaded_by_path():
    assert load_function(tiny_study().trial).__name__ == "train"
    with pytest.raises(InputError, match="no function 'nothing'"):
        load_function(f"{TRIALS}:nothing")
