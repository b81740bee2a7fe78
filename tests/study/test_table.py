from __future__ import annotations

import csv
import importlib.util
import io
import json
import os

import pytest

from metascale.core.errors import InputError, MissingDependency
from metascale.core.run import Checkpoint
from metascale.study import RunStore, Study, read_study, results_table, run_study, write_results
from metascale.study.store.claims import new_owner
from metascale.study.store.folder import lost_attempt, run_folder
from metascale.study.store.run import StoredRun
from tests.study.folders import TRIALS, final_files, tiny_study

RESULTS = [
    {"loss": 0.1 + 0.2, "n": 7, "test": {"accuracy": 0.5, "ok": True}, "curve": [1, 2], "seed": 99},
    {"loss": 1e-300, "n": 8, "test": {"accuracy": 1.0, "ok": False}, "method": 'a "quoted", text'},
]


@pytest.fixture
def folder(tmp_path):
    """A study of four trials: two finished, one failed, one not run."""
    study = Study("s", f"{TRIALS}:empty", {"lr": 1}, {"n": [2, 5, 9]}, [0], extra=[{"kind": "baseline", "lr": 3}])
    store = RunStore.create(tmp_path, study)
    for trial, result in zip(store.trials, [*RESULTS, None], strict=False):
        claim = store.claim(trial, new_owner())
        run = StoredRun(run_folder(tmp_path, trial), claim)
        run.fail("Traceback ...\nValueError: no") if result is None else run.finish(result)
        store.settle(trial, claim, 1.0)
    store.close()
    return tmp_path


def test_columns_are_what_varies_and_every_scalar_result(folder):
    table = results_table(folder)
    assert table.columns == (
        "id", "label", "n", "lr", "seed", "kind", "status", "message", "wall_s",
        "loss", "result.n", "result.seed", "test.accuracy", "test.ok", "method",
    )  # fmt: skip
    assert table.column("n") == [2, 5, 9, None]
    assert table.column("lr") == [1, 1, 1, 3], "the base's, where a trial has none of its own"
    assert table.column("kind") == ["trial", "trial", "trial", "baseline"]
    assert table.column("status") == ["finished", "finished", "failed", "pending"]
    assert table.column("message") == [None, None, "ValueError: no", None]
    assert table.column("loss") == [0.30000000000000004, 1e-300, None, None]
    assert table.column("result.n") == [7, 8, None, None]


def test_a_key_of_the_base_is_empty_only_beside_the_axes(tmp_path):
    """The learner's method is in its rows; that a baseline has a number of tasks would be wrong."""
    extra = [{"kind": "baseline", "method": "zero_shot"}]
    run_study(Study("s", f"{TRIALS}:empty", {"method": "maml", "n": 7}, {"n": [2, 5]}, [0], extra=extra), tmp_path)
    table = results_table(tmp_path)
    assert table.column("method") == ["maml", "maml", "zero_shot"]
    assert table.column("n") == [2, 5, None]


def test_seconds_are_those_of_all_attempts_also_of_one_that_was_killed(tmp_path):
    store = RunStore.create(tmp_path, tiny_study(n_tasks=(2,)))
    (trial,) = store.trials
    folder = run_folder(tmp_path, trial)

    def attempt(start, **facts):
        run = StoredRun(folder, store.claim(trial, new_owner()))
        run.begin(**facts)
        lines = (folder / "history.jsonl").read_text().splitlines()
        lines[-1] = json.dumps({**json.loads(lines[-1]), "at": start})
        (folder / "history.jsonl").write_text("".join(f"{line}\n" for line in lines))
        return run

    attempt(1000.0).fail("no", wall_s=2.0)
    store.index.settle(trial.id, None, 0, "failed")
    store.reindex()
    killed = attempt(2000.0)
    killed.save(Checkpoint(3, {"state": b""}))
    os.utime(folder / "checkpoints" / "step-00000003", (2005.0, 2005.0))
    # Its process was killed: nothing was noted, and another runner takes the trial over.
    (folder / "claim.json").unlink()
    store.reindex()
    assert read_study(tmp_path).runs[0].wall_s() == 2.0
    attempt(3000.0).finish({"loss": 1.0}, wall_s=0.25)
    events = [event["event"] for event in read_study(tmp_path).runs[0].history()]
    assert events == ["started", "failed", "started", "lost", "started", "finished"]
    assert results_table(tmp_path).column("wall_s") == [7.25]
    assert store.index.row(trial.id).wall_s == 7.0, "of the attempts before the one that the runner settles"


def test_an_attempt_without_a_sign_of_life_took_no_time_and_a_damaged_history_takes_the_seconds_alone(tmp_path):
    run_study(tiny_study(n_tasks=(2,)), tmp_path)
    (run,) = read_study(tmp_path).runs
    assert results_table(tmp_path).column("wall_s")[0] > 0
    (run.folder / "history.jsonl").write_text('{"event": "started", "at": 5.0, "attempt": 1}\n')
    assert lost_attempt(run.folder) == {"attempt": 1, "wall_s": 0.0}
    (run.folder / "history.jsonl").write_text("no JSON\n")
    assert lost_attempt(run.folder) is None
    assert results_table(tmp_path).column("wall_s") == [None]


def test_only_finished_rows_are_data(folder):
    assert results_table(folder).finished().column("n") == [2, 5]
    assert results_table(folder).finished("baseline").rows == ()
    study = Study("s", f"{TRIALS}:diverges", {}, {"rate": [0.1, 9.0]}, [0])
    run_study(study, folder / "diverging")
    table = results_table(folder / "diverging")
    assert table.column("status") == ["finished", "diverged"]
    assert table.column("message")[1] == "the query loss is nan"
    assert table.finished().column("rate") == [0.1]


def test_csv_reads_back_bit_for_bit(folder):
    table = results_table(folder)
    rows = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert float(rows[0]["loss"]) == 0.1 + 0.2
    assert float(rows[1]["loss"]) == 1e-300
    assert rows[1]["method"] == 'a "quoted", text'
    assert (rows[0]["test.ok"], rows[2]["loss"]) == ("true", "")


def test_the_files_are_the_same_bytes_each_time(folder):
    write_results(folder)
    before = final_files(folder)
    write_results(folder)
    assert final_files(folder) == before
    assert (folder / "results.csv").read_text() == results_table(folder).to_csv()
    complete = json.loads((folder / "all_results.json").read_text())
    assert [entry["status"] for entry in complete] == ["finished", "finished", "failed", "pending"]
    assert complete[0]["result"]["curve"] == [1, 2]
    assert complete[3]["config"]["lr"] == 3


def test_a_result_that_is_not_whole_is_named(tmp_path):
    run_study(tiny_study(), tmp_path)
    path = read_study(tmp_path).runs[0].folder / "result.json"
    path.write_text(path.read_text()[:-5])
    first, second = results_table(tmp_path).rows
    assert (first["status"], first["loss"], second["status"]) == ("damaged", None, "finished")
    assert f"{path} is not valid JSON" in first["message"]


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a study folder"):
        results_table(tmp_path)


@pytest.mark.parametrize("package", ["pandas", "pyarrow"])
def test_optional_formats_work_or_name_what_installs_them(folder, package):
    table = results_table(folder)
    if importlib.util.find_spec(package) is None:
        with pytest.raises(MissingDependency, match="pip install"):
            table.to_pandas() if package == "pandas" else table.write_parquet(folder / "t.parquet")
        return
    if package == "pandas":
        assert list(table.to_pandas()["loss"])[:2] == [0.1 + 0.2, 1e-300]
    else:
        from pyarrow import parquet

        table.write_parquet(folder / "t.parquet")
        assert parquet.read_table(folder / "t.parquet").column("loss").to_pylist() == table.column("loss")
