"""Own samplers of Optuna in a search: exact after kills, by name, path or object; refused where they cannot be."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metascale.core.errors import InputError
from metascale.study import Study
from metascale.study.search import samplers
from metascale.study.search.run import run_tuned_study
from metascale.study.search.search import Search
from metascale.study.search.space import dimension_from_json
from metascale.study.store.folder import read_study
from tests.study.tuning_trials import N_STEPS

optuna = pytest.importorskip("optuna")
SPACE = {"rate": {"log": [1e-3, 1.0]}, "width": {"log": [1.0, 9.0]}}


def study(sampler: Any, trials: int = 8, **search: Any) -> Study:
    asked = Search.from_json({"space": SPACE, "trials": trials, "sampler": sampler, "prune": False, **search})
    base = {"rate": 5.0, "width": 2.0, "tune": asked.to_json()}  # the default lies outside the space
    return Study("t", "tests.study.tuning_trials:bowl", base, {}, [0])


def values(folder: Path) -> list[tuple[float, float]]:
    return [
        (run.trial.axes["rate"], run.trial.axes["width"])
        for run in read_study(folder).runs
        if run.trial.kind == "tuning"
    ]


def by_optuna_alone(sampler: Any, trials: int, together: int = 4) -> list[tuple[float, float]]:
    """The same search without metascale: ask a round, tell its losses."""

    ranges = {name: dimension_from_json(name, kind).distribution(optuna) for name, kind in SPACE.items()}
    own = optuna.create_study(sampler=sampler)
    found = []
    for _ in range(trials // together):
        asked = [own.ask(fixed_distributions=ranges) for _ in range(together)]
        for trial in asked:
            rate, width = trial.params["rate"], trial.params["width"]
            own.tell(trial, 1.0 + math.log10(rate / (0.01 / math.sqrt(width))) ** 2 + 1.0 / N_STEPS)
            found.append((rate, width))
    return found


def test_an_object_suggests_what_it_suggests_without_us_and_goes_on_where_it_was(tmp_path: Path) -> None:
    sampler = optuna.samplers.TPESampler(seed=3, n_startup_trials=4)
    run_tuned_study(study(sampler, 12), tmp_path / "whole")
    assert values(tmp_path / "whole") == by_optuna_alone(optuna.samplers.TPESampler(seed=3, n_startup_trials=4), 12)
    run_tuned_study(study(sampler, 4), tmp_path / "parts")
    stored = replace(study("RandomSampler"), base=read_study(tmp_path / "parts").study.base)
    samplers._OBJECTS.clear()  # another process
    with pytest.raises(InputError, match="resume it from Python with the same sampler"):
        run_tuned_study(stored, tmp_path / "parts")
    run_tuned_study(study(sampler, 12), tmp_path / "parts")
    assert values(tmp_path / "parts") == values(tmp_path / "whole")


@pytest.mark.parametrize("sampler", ["RandomSampler", "QMCSampler", "tests.study.test_samplers:mine"])
def test_by_name_and_path_the_rounds_do_not_change_it(sampler: str, tmp_path: Path) -> None:
    seeded = {sampler: {"seed": 5}}
    run_tuned_study(study(seeded, 8), tmp_path / "whole")
    run_tuned_study(study(seeded, 4), tmp_path / "parts")
    run_tuned_study(study(seeded, 8), tmp_path / "parts")
    assert len(set(values(tmp_path / "whole"))) == 8
    assert values(tmp_path / "parts") == values(tmp_path / "whole")


def mine(seed: int) -> Any:
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=2, multivariate=True)


def unseeded() -> Any:
    return optuna.samplers.RandomSampler()


def test_one_that_does_not_repeat_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give it a seed"):
        run_tuned_study(study("tests.study.test_samplers:unseeded", 8), tmp_path / "s")


def test_a_finite_space_ends(tmp_path: Path) -> None:
    asked = {"space": {"depth": {"integer": [2, 4]}}, "trials": 8, "sampler": "RandomSampler", "prune": False}
    base = {"rate": 0.1, "depth": 3, "tune": Search.from_json(asked).to_json()}
    run_tuned_study(Study("t", "tests.study.tuning_trials:bowl", base, {}, [0]), tmp_path)
    tried = [run.trial.axes["depth"] for run in read_study(tmp_path).runs if run.trial.kind == "tuning"]
    assert (sorted(tried), tried[0]) == ([2, 3, 4], 3)  # the default first


@pytest.mark.parametrize(
    ("sampler", "said"),
    [
        ("TPESample", "did you mean 'TPESampler'"),
        ({"TPESampler": {"colour": 1}}, "cannot be made"),
        ("tests.study.trials:nothing", "has no function 'nothing'"),
        ("nowhere:nothing", "there is no module 'nowhere'"),
        (7, "is a name of optuna.samplers"),
    ],
)
def test_a_sampler_that_is_none_is_refused_before_a_file_is_written(sampler: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        run_tuned_study(study(sampler), tmp_path / "s")
    assert not (tmp_path / "s").exists()
    with pytest.raises(InputError, match="multiple of 4"):
        study("RandomSampler", 6)


def test_a_search_without_one_is_stored_as_before() -> None:
    assert "sampler" not in Search.from_json({"space": SPACE}).to_json()
