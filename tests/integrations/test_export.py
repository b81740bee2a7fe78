"""Exports, read back by the programs they are for."""

from __future__ import annotations

import csv
import importlib.util
import json
import struct
import subprocess
import sys

import pytest

from metascale.core.errors import InputError, MissingDependency
from metascale.integrations.export import FORMATS, export_study, tracked_runs
from metascale.study import Study, read_study, results_table, run_study
from tests.study.folders import TRIALS, tiny_study
from tests.study.runner_process import ROOT


def needs(package, extra):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"needs {package}: pip install 'metascale[{extra}]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two finished trials."""
    made = tmp_path_factory.mktemp("export") / "study"
    run_study(tiny_study(), made)
    return made


def test_a_run_as_a_tracker_sees_it(folder):
    first, second = tracked_runs(read_study(folder))
    assert (first.parameters["n_tasks"], second.parameters["n_tasks"], first.parameters["seed"]) == (2, 5, 0)
    assert first.tags["status"] == "finished"
    losses = [point for point in first.series if point.name == "train/loss"]
    run = read_study(folder).runs[0]
    assert [point.step for point in losses] == [1, 2, 3, 4, 5, 6]
    assert [point.value for point in losses] == [row["loss"] for row in run.rows("train")]
    assert first.final["best.loss"] == run.result()["best"]["loss"]
    assert 0 < first.started_at <= first.ended_at


def test_tables_without_a_rising_step_are_left_out(tmp_path):
    run_study(Study("s", f"{TRIALS}:table", {}, {}, [0]), tmp_path)
    (run,) = tracked_runs(read_study(tmp_path))
    assert {point.name for point in run.series} == {"curve/loss"}


def test_csv_and_json_hold_the_table(folder, tmp_path):
    table = results_table(folder)
    assert export_study(folder, "csv", str(tmp_path / "results.csv")) == 2
    with open(tmp_path / "results.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["loss"]) for row in rows] == table.column("loss")
    export_study(folder, "json", str(tmp_path / "results.json"))
    assert json.loads((tmp_path / "results.json").read_text()) == [dict(row) for row in table.rows]


@needs("pyarrow", "data")
def test_parquet_reads_back(folder, tmp_path):
    import pyarrow.parquet

    export_study(folder, "parquet", str(tmp_path / "new" / "results.parquet"))
    rows = pyarrow.parquet.read_table(tmp_path / "new" / "results.parquet").to_pylist()
    table = results_table(folder)
    assert rows == [{name: row.get(name) for name in table.columns} for row in table.rows]


@needs("mlflow", "mlflow")
@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_mlflow_experiment_that_was_deleted_is_one_sentence(folder, tmp_path):
    assert export_study(folder, "mlflow", str(tmp_path / "tracking")) == 2
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'tracking' / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(
        InputError, match=r"was deleted there, .*restore experiment 1 with `mlflow experiments restore`"
    ):
        export_study(folder, "mlflow", str(tmp_path / "tracking"))
    client.restore_experiment(experiment.experiment_id)
    assert export_study(folder, "mlflow", str(tmp_path / "tracking")) == 0


@needs("mlflow", "mlflow")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_reads_back_and_a_second_export_adds_nothing(folder, tmp_path):
    assert export_study(folder, "mlflow", str(tmp_path / "tracking")) == 2
    assert export_study(folder, "mlflow", str(tmp_path / "tracking")) == 0
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'tracking' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2
    one = next(run for run in runs if run.data.params["n_tasks"] == "2")
    stored = read_study(folder).runs[0]
    history = sorted(client.get_metric_history(one.info.run_id, "train/loss"), key=lambda metric: metric.step)
    assert [metric.value for metric in history] == [row["loss"] for row in stored.rows("train")]
    assert one.data.metrics["best.loss"] == stored.result()["best"]["loss"]
    assert (one.info.status, one.info.run_name) == ("FINISHED", stored.trial.label)
    assert one.data.tags["metascale.trial"] == stored.trial.id


@needs("tensorboard", "tensorboard")
def test_tensorboard_reads_back(folder, tmp_path):
    assert export_study(folder, "tensorboard", str(tmp_path / "events")) == 2
    # Its reader warns of what it imports; the events are what matters.
    code = (
        "import json, sys, warnings; warnings.simplefilter('ignore');"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator;"
        "events = EventAccumulator(sys.argv[1]); events.Reload();"
        "print(json.dumps([[event.step, event.value] for event in events.Scalars('train/loss')]));"
        "sys.exit(0 if '_hparams_/session_start_info' in events.summary_metadata else 'no hyperparameters')"
    )
    stored = read_study(folder).runs[0]
    place = tmp_path / "events" / stored.trial.folder_name
    done = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[0])
    assert [step for step, _ in found] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in found] == pytest.approx([row["loss"] for row in stored.rows("train")], rel=1e-6)
    with pytest.raises(InputError, match="is not empty"):
        export_study(folder, "tensorboard", str(tmp_path / "events"))


def wandb_records(path):
    """The records of an offline run's file: blocks of 32 KiB, each record in one or several chunks."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = path.read_bytes(), 7, []
    while place + 7 <= len(data):
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        if kind:
            parts.append(data[place + 7 : place + 7 + length])
            if kind in (1, 4):  # a whole record, or the last chunk of one
                record = Record()
                record.ParseFromString(b"".join(parts))
                yield record
                parts = []
        place += 7 + length
        left = 32768 - place % 32768
        place += left if left < 7 else 0


@needs("wandb", "wandb")
@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_wandb_reads_back_from_its_offline_files(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert export_study(folder, "wandb", str(tmp_path / "runs")) == 2
    found = {}
    for path in (tmp_path / "runs").rglob("*.wandb"):
        records = list(wandb_records(path))
        (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
        found[run.run_id] = (run, [record.history for record in records if record.HasField("history")], records)
    assert len(found) == 2
    stored = read_study(folder).runs[0]
    run, history, records = found[stored.trial.id]
    assert (run.display_name, run.project) == (stored.trial.label, "tiny")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["n_tasks"] == 2
    losses = {}
    for row in history:
        items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
        losses[row.step.num] = items.get("train/loss")
    assert losses == {row["step"]: row["loss"] for row in stored.rows("train")}
    summary = {}
    for record in records:
        for item in record.summary.update:
            summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    assert summary["best.loss"] == stored.result()["best"]["loss"]
    assert summary["status"] == "finished"


@pytest.mark.parametrize(
    ("kind", "out", "message"),
    [
        ("xlsx", "out", "the format is one of csv, json, parquet, latex, markdown, mlflow"),
        ("csv", "", "is a folder; the format csv needs a file"),
    ],
)
def test_a_bad_export_is_refused(folder, tmp_path, kind, out, message):
    with pytest.raises(InputError, match=message):
        export_study(folder, kind, str(tmp_path / out))


@pytest.mark.parametrize("kind", ["mlflow", "tensorboard", "wandb"])
def test_what_is_missing_is_named_with_its_install_line(folder, tmp_path, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(MissingDependency, match=rf"pip install 'metascale\[{kind}\]'"):
        export_study(folder, kind, str(tmp_path / "out"))
    assert kind in FORMATS
    assert not (tmp_path / "out").exists()
