"""A search in an Optuna storage, read back with Optuna itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from metascale.core.errors import InputError
from metascale.integrations.export import export_study
from metascale.study import Study, run_study
from metascale.study.search.run import run_tuned_study
from metascale.study.store.folder import read_study
from tests.study.folders import tiny_study

optuna = pytest.importorskip("optuna")
SPACE = {"rate": {"log": [1e-3, 1.0]}, "depth": {"integer": [2, 4]}, "kernel": {"choice": ["a", "b"]}}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    search = {"space": SPACE, "trials": 8, "startup": 8, "prune": {"n_before": 2}}
    base = {"rate": 0.1, "depth": 3, "kernel": "a", "tune": search, "diverges_above": 0.3}
    run_tuned_study(Study("t", "tests.study.tuning_trials:bowl", base, {"width": [1, 4]}, [7]), folder)
    return folder


@pytest.mark.parametrize("kind", ["db", "log"])
def test_a_storage_holds_ranges_values_states_and_curves_and_again_adds_nothing(
    tuned: Path, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / f"search.{kind}"
    assert export_study(tuned, "optuna", str(file)) == 16
    if kind == "db":
        storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
    else:
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(file)))
    assert set(optuna.get_all_study_names(storage)) == {"t: width=1", "t: width=4"}
    runs = {run.trial.id: run for run in read_study(tuned).runs}
    seen = set()
    for name in ("t: width=1", "t: width=4"):
        study = optuna.load_study(study_name=name, storage=storage)
        assert study.direction.name == "MINIMIZE"
        assert [trial.number for trial in study.trials] == list(range(8))
        for trial in study.trials:
            run = runs[trial.user_attrs["metascale.trial"]]
            assert trial.params == {key: run.trial.axes[key] for key in SPACE}
            assert trial.distributions == {
                "rate": optuna.distributions.FloatDistribution(1e-3, 1.0, log=True),
                "depth": optuna.distributions.IntDistribution(2, 4),
                "kernel": optuna.distributions.CategoricalDistribution(("a", "b")),
            }
            assert trial.user_attrs["seed"] == 7
            result = run.result() or {}
            ended = run.status if result.get("pruned_at_step") is None else "pruned"
            state = {"finished": "COMPLETE", "pruned": "PRUNED", "diverged": "FAIL"}[ended]
            assert trial.state.name == state
            seen.add(state)
            curve = {row["step"]: row["validation_loss_nats"] for row in run.rows("eval_stats")} if result else {}
            assert trial.intermediate_values == curve
            if state == "COMPLETE":
                assert trial.value == result["validation_loss_nats"]
        finished = [trial.value for trial in study.trials if trial.state.name == "COMPLETE"]
        assert study.best_value == min(finished)
        assert optuna.importance.get_param_importances(study)  # what the dashboard computes
    assert seen == {"COMPLETE", "PRUNED", "FAIL"}
    assert export_study(tuned, "optuna", str(file)) == 0


def test_a_study_without_a_search_is_refused(tmp_path: Path) -> None:
    run_study(tiny_study(), tmp_path / "s")
    with pytest.raises(InputError, match=r"has no search \(`tune`\)"):
        export_study(tmp_path / "s", "optuna", str(tmp_path / "x.db"))
    assert not (tmp_path / "x.db").exists()
