"""What a search tries next depends on the order of its ranges: the order given, whoever goes on with the study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from metascale.core.files import read_json, write_json
from metascale.study.definition import load_definition
from metascale.study.design import Study
from metascale.study.search.run import run_any_study
from metascale.study.search.search import search_of, tuned_points
from metascale.study.store.folder import read_study
from metascale.study.store.seals import sealed
from metascale.workflow.launch import Place, plan_from_folder

pytest.importorskip("optuna")
RATE, DEPTH = {"log": [1e-4, 1.0]}, {"uniform": [1.0, 5.0]}
GIVEN = {"rate": RATE, "depth": DEPTH}  # not by name


def study(trials: int, space: dict[str, Any] = GIVEN) -> Study:
    tune = {"space": space, "trials": trials, "startup": 8, "prune": False}
    return Study("bowl", "tests.study.tuning_trials:bowl", {"rate": 0.5, "tune": tune}, {}, (0,))


def tried(folder: Path) -> list[dict[str, Any]]:
    (found,) = tuned_points(read_study(folder))
    return [dict(each.values) for each in found.tried]


def begun(folder: Path) -> Path:
    run_any_study(study(3), folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = begun(tmp_path_factory.mktemp("order") / "whole")
    run_any_study(study(6), folder)
    return tried(folder)


def as_before(folder: Path) -> None:
    """Take out what earlier versions did not write; their trials have the values in the order tried."""
    stored = read_json(folder / "study.json")
    assert stored.pop("space") == ["rate", "depth"]
    write_json(folder / "study.json", sealed(stored))


@pytest.mark.parametrize("earlier", [False, True])
def test_a_study_goes_on_in_the_order_it_began_with_from_its_folder_alone(tmp_path, whole, earlier):
    folder = begun(tmp_path / "study")
    if earlier:
        as_before(folder)
    planned = plan_from_folder(folder, Place("serial")).study
    assert list(search_of(planned).space) == ["rate", "depth"]
    more = json.loads(json.dumps(planned.base["tune"])) | {"trials": 6}
    run_any_study(Study(planned.name, planned.trial, {**planned.base, "tune": more}, {}, (0,)), folder)
    assert tried(folder) == whole
    assert len({value["depth"] for value in whole}) == 6


def test_a_command_that_names_the_ranges_in_another_order_tries_what_the_study_began_with(tmp_path, whole):
    folder = begun(tmp_path / "study")
    turned = {"depth": DEPTH, "rate": RATE}
    run_any_study(study(6, turned), folder)
    assert tried(folder) == whole
    run_any_study(study(6, turned), tmp_path / "other")
    assert tried(tmp_path / "other")[1:] != whole[1:], "the order matters"
    assert list(search_of(load_definition(tmp_path / "other").study).space) == ["depth", "rate"]


def test_a_study_without_a_search_or_with_one_range_writes_no_order(tmp_path):
    run_any_study(Study("bowl", "tests.study.tuning_trials:bowl", {"rate": 0.5}, {}, (0,)), tmp_path / "one")
    run_any_study(study(2, {"rate": RATE}), tmp_path / "two")
    assert all("space" not in read_json(tmp_path / name / "study.json") for name in ("one", "two"))
