"""Runs of other programs: written by the real package where it is installed, read back without it."""

from __future__ import annotations

import csv
import json
import math
import os
import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from metascale.core.errors import InputError
from metascale.integrations.sources.read import read_source
from metascale.integrations.sources.runs import Imported, ImportedRun, Series, to_csv

HISTORY = [
    {"loss": 3.0, "step": 10},
    {"eval_loss": 3.1, "step": 10},
    {"loss": 2.0, "step": 20},
    {"eval_loss": 2.1, "step": 20},
    {"eval_loss": 2.4, "step": 30},
    {"train_loss": 2.5, "total_flos": 7.0, "step": 30},
]


def write_state(folder: Path, steps: int = 30, **state: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    history = [row for row in HISTORY if row["step"] <= steps]
    found = {"global_step": steps, "max_steps": 30, "log_history": history, "total_flos": 7.0} | state
    (folder / "trainer_state.json").write_text(json.dumps(found))
    return folder


def only(found: Imported, **wanted: Any) -> dict[str, Any]:
    """The one row, in which these cells are as wanted."""
    row = {name: cells[0] for name, cells in found.table().items() if len(cells) == 1}
    assert {name: row.get(name) for name in wanted} == wanted
    return row


# The tables.


def test_a_step_that_goes_back_takes_the_place_of_what_followed_it() -> None:
    one = Series()
    for step, value in [(1, 5.0), (2, 4.0), (2, 4.0), (3, 3.0), (2, 3.5), (4, 3.0)]:
        one.add(step, value)
    assert (one.steps, one.values, one.replaced) == ([1, 2, 4], [5.0, 3.5, 3.0], 2)


def test_a_table_has_final_and_best_with_their_steps() -> None:
    run = ImportedRun("a", state="finished", config={"width": 8}, started_at=10.0)
    for step, loss, accuracy in [(1, 3.0, 0.2), (2, 1.0, 0.9), (3, math.inf, 0.9), (4, 2.0, 0.5)]:
        run.add("loss", step, loss, 10.0 + step)
        run.add("val/accuracy", step, accuracy)
    row = only(
        Imported("x", [run]),
        run="a",
        state="finished",
        width=8,
        steps=4,
        wall_s=4.0,
        loss=2.0,
        loss_step=4,
        loss_min=1.0,
        loss_min_step=2,
        **{"val/accuracy": 0.5, "val/accuracy_max": 0.9, "val/accuracy_max_step": 2},
    )
    assert row["started_at"] == "1970-01-01T00:00:10Z"


def test_names_that_meet_are_told_apart_and_twins_are_refused() -> None:
    run = ImportedRun("a", config={"loss": "mse", "steps": 9})
    run.add("loss", 1, 2.0)
    run.add("state", 1, 3.0)
    only(Imported("x", [run]), loss=2.0, steps=1, **{"config.loss": "mse", "config.steps": 9, "metric.state": 3.0})
    run.config["config.loss"] = 1
    with pytest.raises(InputError, match=r"two columns named 'config.loss'"):
        Imported("x", [run]).table()
    with pytest.raises(InputError, match="two runs named 'a'"):
        Imported("x", [run, run])


def test_curves_are_one_row_a_step_and_csv_reads_back_bit_for_bit(tmp_path: Path) -> None:
    run, other = ImportedRun("a", config={"width": 8}), ImportedRun("b", config={"depth": 2})
    run.add("loss", 1, 0.1 + 0.2)
    run.add("acc", 2, 0.5)
    other.add("loss", 7, 1.0)
    columns = Imported("x", [run, other]).curves()
    assert columns["run"] == ["a", "a", "b"]
    assert columns["step"] == [1, 2, 7]
    assert columns["loss"] == [0.1 + 0.2, None, 1.0]
    assert columns["width"] == [8, 8, None]
    rows = list(csv.DictReader(to_csv(columns).splitlines()))
    assert float(rows[0]["loss"]) == 0.1 + 0.2
    assert rows[1]["loss"] == ""


# Hugging Face's Trainer.


def test_the_checkpoints_of_a_trainer_are_one_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for steps in (10, 20, 30):
        write_state(out / "first" / f"checkpoint-{steps}", steps)
    (out / "first" / "checkpoint-30" / "config.json").write_text('{"hidden_size": 64, "nested": {"a": [1]}}')
    (out / "first" / "checkpoint-30" / "training_args.bin").write_bytes(b"a pickle")
    write_state(out / "second" / "checkpoint-10", 10)
    found = read_source(out).table()
    assert found["run"] == ["first", "second"]
    assert found["state"] == ["finished", "unfinished"]
    assert found["eval_loss"] == [2.4, 3.1]
    assert found["eval_loss_min_step"] == [20, 10]
    assert found["model.hidden_size"] == [64, None]
    assert found["model.nested.a"] == ["[1]", None]
    assert found["total_flos"] == [7.0, 7.0], "once: of the state"
    only(read_source(out / "first" / "checkpoint-20"), steps=20, run="checkpoint-20")


def test_a_trainer_that_was_stopped_early_is_finished_and_knows_what_is_better(tmp_path: Path) -> None:
    control = {"TrainerControl": {"args": {"should_training_stop": True}}}
    history = [{"eval_cider": value, "step": step} for step, value in [(5, 1.0), (10, 3.0), (15, 2.0)]]
    state = {"stateful_callbacks": control, "best_metric": 3.0, "best_global_step": 10, "log_history": history}
    write_state(tmp_path, 15, **state)
    only(read_source(tmp_path), state="finished", eval_cider=2.0, eval_cider_max=3.0, eval_cider_max_step=10)


@pytest.mark.long
def test_the_real_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    import torch

    config = transformers.GPT2Config(vocab_size=16, n_positions=8, n_embd=8, n_layer=1, n_head=1)
    data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 16
    settings = {"max_steps": 6, "save_steps": 2, "logging_steps": 2, "report_to": [], "use_cpu": True}

    def trainer(stop: int | None) -> Any:
        class Stop(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
            def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                control.should_training_stop |= state.global_step == stop

        arguments = transformers.TrainingArguments(str(tmp_path / "out"), disable_tqdm=True, **settings)
        model = transformers.GPT2LMHeadModel(config)
        return transformers.Trainer(model, arguments, train_dataset=data, callbacks=[Stop()])

    trainer(5).train()
    only(read_source(tmp_path / "out"), steps=4, state="unfinished", loss_step=4)
    trainer(None).train(resume_from_checkpoint=True)
    found = read_source(tmp_path / "out")
    row = only(found, run="out", steps=6, state="finished", loss_step=6)
    assert row["model.n_embd"] == 8
    assert found.notes == []
    assert read_source(tmp_path / "out").runs[0].series["loss"].steps == [2, 4, 6]


# TensorBoard.


def tensorboard_writer(folder: Path, **options: Any) -> Any:
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), **options)


def test_every_event_is_read_where_tensorboard_keeps_10_000(tmp_path: Path) -> None:
    n = 12_000
    with tensorboard_writer(tmp_path / "run") as writer:
        for step in range(n):
            writer.add_scalar("loss", n - step, step)
        writer.add_scalar("exact", 0.1, 5)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    theirs = EventAccumulator(str(tmp_path / "run"))
    theirs.Reload()
    found = read_source(tmp_path)
    assert len(theirs.Scalars("loss")) == 10_000, "the reservoir"
    assert found.runs[0].series["loss"].steps == list(range(n))
    own = dict(zip(found.runs[0].series["loss"].steps, found.runs[0].series["loss"].values, strict=True))
    assert all(own[event.step] == event.value for event in theirs.Scalars("loss"))
    only(
        found, run="run", loss=1.0, loss_step=n - 1, loss_min=1.0, exact=struct.unpack("<f", struct.pack("<f", 0.1))[0]
    )
    assert any("32 bits" in note for note in found.notes)


@pytest.mark.parametrize("purge", [None, 3])
def test_a_resumed_writer_replaces_the_steps_from_where_it_began(tmp_path: Path, purge: int | None) -> None:
    with tensorboard_writer(tmp_path) as writer:
        for step in range(1, 7):
            writer.add_scalar("loss", 10 - step, step)
        writer.add_scalar("val", 1.0, 6)
    first = next(tmp_path.iterdir())
    first.rename(first.with_name(first.name.replace("tfevents.", "tfevents.0")))
    with tensorboard_writer(tmp_path, purge_step=purge) as writer:
        for step in (3, 4):
            writer.add_scalar("loss", step, step)
    found = read_source(tmp_path)
    assert found.runs[0].series["loss"].values == [9.0, 8.0, 3.0, 4.0]
    assert found.runs[0].series["val"].steps == ([6] if purge is None else []), "only a purge speaks of all curves"
    assert f"{4 + (purge is not None)} points of 1 run were recorded again" in " ".join(found.notes)


def test_hparams_of_torch_describe_the_run_above_them(tmp_path: Path) -> None:
    with tensorboard_writer(tmp_path / "a") as writer:
        writer.add_scalar("loss", 2.0, 1)
        writer.add_hparams({"lr": 0.5, "width": 8, "bias": True, "name": "x"}, {"final": 1.5})
    only(read_source(tmp_path), run="a", lr=0.5, width=8, bias=True, final=1.5, **{"config.name": "x"})


def test_scalars_of_keras_are_tensors(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path))
    metadata = summary_pb2.SummaryMetadata(plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="scalars"))
    tensors = {
        "content": tensor_pb2.TensorProto(dtype=1, tensor_content=struct.pack("<f", 0.5)),
        "field": tensor_pb2.TensorProto(dtype=1, float_val=[0.25]),
        "double": tensor_pb2.TensorProto(dtype=2, double_val=[0.1]),
        "text": tensor_pb2.TensorProto(dtype=7, string_val=[b"no number"]),
    }
    for tag, tensor in tensors.items():
        value = summary_pb2.Summary.Value(tag=tag, tensor=tensor, metadata=metadata)
        writer.add_event(event_pb2.Event(step=-1 if tag == "field" else 3, summary=summary_pb2.Summary(value=[value])))
    writer.close()
    row = only(read_source(tmp_path), content=0.5, field=0.25, double=0.1, field_step=-1)
    assert "text" not in row


def test_a_log_that_is_cut_off_or_damaged_is_read_up_to_there(tmp_path: Path) -> None:
    with tensorboard_writer(tmp_path) as writer:
        for step in range(4):
            writer.add_scalar("loss", step, step)
    file = next(tmp_path.iterdir())
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    only(read_source(file), loss=2.0, loss_step=2)
    file.write_bytes(whole + b"\xff" * 40)
    found = read_source(file)
    only(found, loss=3.0)
    assert "1 event files end in a damaged record" in " ".join(found.notes)


# Lightning.


def write_metrics(folder: Path, text: str, settings: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").write_text(text)
    if settings:
        (folder / "hparams.yaml").write_text(settings)
    return folder


def test_lightning_logs_are_read_with_their_hyperparameters(tmp_path: Path) -> None:
    log = "epoch,step,train_loss,val_loss\n0,9,2.0,\n0,9,,2.5\n1,19,1.0,\n1,19,,nan\n"
    write_metrics(tmp_path / "logs" / "version_0", log, "width: 8\nopt:\n  lr: 0.1\n")
    only(
        read_source(tmp_path),
        **{
            "run": "logs/version_0",
            "width": 8,
            "opt.lr": 0.1,
            "steps": 19,
            "train_loss": 1.0,
            "train_loss_min_step": 19,
        },
        val_loss_min=2.5,
        val_loss_min_step=9,
    )


def test_repeated_and_missing_steps_of_lightning_are_said(tmp_path: Path) -> None:
    write_metrics(tmp_path / "a", "step,loss\n1,3\n2,2\n3,1\n2,2.5\n3,1.5\n")
    write_metrics(tmp_path / "b", "step,loss\n200,3\n300,2\n")
    found = read_source(tmp_path)
    assert found.runs[0].series["loss"].values == [3.0, 2.5, 1.5]
    assert "2 points of 1 run were recorded again" in " ".join(found.notes)
    assert "b begins at step 200: Lightning logs a resumed run in a new folder" in " ".join(found.notes)


@pytest.mark.parametrize(
    "log",
    [
        "epoch,step,train_loss,val_loss\n0,49,2,\n0,59,,3\n",  # one epoch of 60 steps, logged every 50
        "epoch,step,train_loss,val_loss\n4,49,2,\n4,49,,3\n9,99,1,\n9,99,,2\n",
        "epoch,step,train_loss,late\n0,9,2,\n1,19,1,\n2,29,1,5\n3,39,1,4\n",  # one metric begins late, not the run
    ],
)
def test_a_lightning_run_that_logs_rarely_is_not_called_resumed(log: str, tmp_path: Path) -> None:
    assert read_source(write_metrics(tmp_path / "a", log)).notes == []


def test_hyperparameters_that_are_python_objects_are_not_made(tmp_path: Path) -> None:
    bomb = f"a: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n"
    found = read_source(write_metrics(tmp_path / "a", "step,loss\n1,3\n", bomb))
    assert not (tmp_path / "made").exists()
    assert "would run code" in " ".join(found.notes)
    many = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 8)}]\n" for k in range(1, 30)
    )
    with pytest.raises(InputError, match="more than 20,000 entries"):
        read_source(write_metrics(tmp_path / "b", "step,loss\n1,3\n", many))


# W&B.

WANDB_ROWS = [
    ({"loss": 3.0}, None),
    ({"loss": 2.0}, 5),
    ({"acc": 0.5}, 5),
    ({"loss": 1.5}, None),
    ({"a": {"b": 1}}, 20),
]


def test_an_offline_folder_of_wandb_and_a_call_without_a_step(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: its offline files cannot be made")
    settings = wandb.Settings(silent=True, console="off", disable_git=True)
    for name in ("first", "second"):
        run = wandb.init(
            mode="offline", dir=str(tmp_path), project="p", name=name, config={"opt": {"lr": 0.1}}, settings=settings
        )
        for row, step in WANDB_ROWS:
            run.log(row, step=step)
        run.log({"loss": float("inf")})
        run.summary["total"] = 7
        run.finish(exit_code=int(name == "second"))
    wandb.teardown()
    found = read_source(tmp_path)
    assert [run.name for run in found.runs] == ["first", "second"]
    assert [run.state for run in found.runs] == ["finished", "failed"]
    first = found.runs[0]
    assert first.config == {"opt.lr": 0.1}
    assert first.series["loss"].steps == [0, 5, 20]
    assert first.series["loss"].values == [3.0, 1.5, math.inf], "1.5 went into the open row 5 and replaced 2.0"
    assert first.series["a.b"].values == [1.0]
    assert first.series["total"].values == [7.0]


def leveldb(records: list[bytes]) -> bytes:
    """What W&B's writer makes of records, without checksums, which the reader does not ask for."""
    out = bytearray(b":W&B\xe1\xbe\x00")
    for record in records:
        first = True
        while first or record:
            room = 32768 - len(out) % 32768
            if room < 7:
                out += bytes(room)
                continue
            part, record = record[: room - 7], record[room - 7 :]
            kind = {(True, True): 1, (True, False): 2, (False, False): 3, (False, True): 4}[first, not record]
            out += struct.pack("<IHB", 0, len(part), kind) + part
            first = False
    return bytes(out)


def message(*fields: tuple[int, int | float | bytes | str]) -> bytes:
    out = bytearray()
    for number, value in fields:
        if isinstance(value, int):
            out += bytes([*varint(number << 3), *varint(value)])
        elif isinstance(value, float):
            out += bytes(varint(number << 3 | 1)) + struct.pack("<d", value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += bytes([*varint(number << 3 | 2), *varint(len(data))]) + data
    return bytes(out)


def varint(value: int) -> list[int]:
    out = []
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return [*out, value]


def test_wandb_files_need_no_package_and_records_may_cross_blocks(tmp_path: Path) -> None:
    begun = message((1, "abc"), (8, "name"), (17, message((1, 1000))), (4, message((1, message((1, "w"), (16, "8"))))))
    rows = [
        message(
            (1, message((2, "loss"), (16, str(30 - k)))), (1, message((2, "_step"), (5, 2 * k))), (2, message((1, k)))
        )
        for k in range(3)
    ]
    long = message((1, message((2, "text"), (16, json.dumps("x" * 100_000)))), (2, message((1, 3))))
    summary = message((1, message((1, "loss"), (16, "28"))), (1, message((1, "best"), (16, "27"))))
    records = [message((17, begun)), *(message((2, row)) for row in [*rows, long]), message((3, summary))]
    (tmp_path / "run-abc.wandb").write_bytes(leveldb(records))
    only(read_source(tmp_path), run="abc", name="name", state="unfinished", w=8, loss=28.0, loss_step=2, best=27.0)
    (tmp_path / "run-abc.wandb").write_bytes(leveldb([*records, message((18, message((1, 0), (2, 60))))]))
    only(read_source(f"wandb:{tmp_path}"), state="finished", wall_s=60)


def test_exports_of_the_web_page(tmp_path: Path) -> None:
    table, chart = tmp_path / "runs.csv", tmp_path / "chart.csv"
    table.write_text(
        '"Name","State","Created","width","loss"\n"a","finished","2026-01-02T03:04:05.000Z","8","0.5"\n'
        '"a","crashed","2026-01-02T03:04:05","16","Infinity"\n'
    )
    found = read_source(f"wandb:{table}").table()
    assert found["run"] == ["a", "a (2)"]
    assert found["state"] == ["finished", "crashed"]
    assert found["width"] == [8, 16]
    assert found["started_at"] == ["2026-01-02T03:04:05Z"] * 2
    chart.write_text('"Step","r1 - loss","r1 - loss__MIN","r1 - loss__MAX","r2 - loss"\n0,3,3,3,\n5,2,2,2,"4"\n')
    found = read_source(f"wandb:{chart}")
    assert [run.series["loss"].values for run in found.runs] == [[3.0, 2.0], [4.0]]
    table.write_text('"Name","loss","loss"\n"a","1","2"\n')
    with pytest.raises(InputError, match="two columns named 'loss'"):
        read_source(f"wandb:{table}")


def test_the_server_is_asked_for_every_point(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"_step": k, "_timestamp": 100.0 + k, "loss": 1.0 / (k + 1), "sys": None} for k in range(600)]
    run = SimpleNamespace(
        id="x", name="n", state="finished", config={"w": 8, "_wandb": {}}, created_at="2026-01-01T00:00:00"
    )
    run.summary, run.scan_history = {"loss": 9, "extra": 1.5, "_runtime": 3}, lambda: iter(rows)
    fake = ModuleType("wandb")
    fake.Error = type("Error", (Exception,), {})  # type: ignore[attr-defined]
    fake.Api = lambda timeout: SimpleNamespace(runs=lambda project: [run])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    only(read_source("wandb:me/project"), run="x", w=8, loss=1 / 600, loss_step=599, extra=1.5, state="finished")


# Optuna.


def test_trials_of_optuna(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    study = optuna.create_study(storage=storage, study_name="one", direction="maximize")
    distribution = {"lr": optuna.distributions.FloatDistribution(0, 1)}
    for value, state in [(0.5, "COMPLETE"), (math.inf, "COMPLETE"), (None, "PRUNED")]:
        study.add_trial(
            optuna.create_trial(
                params={"lr": 0.1},
                distributions=distribution,
                value=value,
                state=optuna.trial.TrialState[state],
                intermediate_values={3: 0.4, 1: 0.9},
                user_attrs={"seed": 7},
            )
        )
    for source in (storage, f"{storage}#one", f"{tmp_path / 'search.db'}#one"):
        found = read_source(f"optuna:{source}").table()
        assert found["state"] == ["complete", "complete", "pruned"]
        assert found["lr"] == [0.1] * 3
        assert found["user.seed"] == [7] * 3
        assert found["value"] == [0.5, math.inf, None]
        assert found["intermediate_max"] == [0.9] * 3, "the study maximises"
        assert found["intermediate"] == [0.4] * 3, "by step, however they are stored"
    optuna.create_study(storage=storage, study_name="two", directions=["minimize", "maximize"])
    for source, told in [("", "needs the name of a study after '#'; it has: one, two"), ("#thre", "no study 'thre'")]:
        with pytest.raises(InputError, match=told):
            read_source(f"optuna:{storage}{source}")
    with pytest.raises(InputError, match="has 0 trials"):
        read_source(f"optuna:{storage}#two")


def test_a_journal_of_optuna(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    study = optuna.create_study(storage=storage, study_name="one")
    study.enqueue_trial({"x": 0.25})
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    row = only(read_source(f"optuna:{tmp_path / 'journal.log'}"), run="0", x=0.25, value=0.25, state="complete")
    assert row["wall_s"] >= 0


# MLflow.


@pytest.mark.filterwarnings("ignore:The ``noload``")
def test_runs_of_mlflow_with_equal_times_and_infinities(tmp_path: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    from mlflow.entities import Metric

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = tracking.MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("team/training", str(tmp_path / "artifacts"))
    run = client.create_run(experiment, start_time=1_000_000, run_name="first").info.run_id
    points = [("same", 2.0, 1000, 5), ("same", 2.5, 1000, 5), ("same", 1.0, 1000, 5)]
    points += [("loss", math.inf, 1000, 0), ("loss", -math.inf, 2000, 1), ("loss", math.nan, 3000, 2)]
    points += [("resumed", 3.0, 1000, 1), ("resumed", 2.0, 2000, 2), ("resumed", 1.0, 3000, 1)]
    client.log_batch(run, metrics=[Metric(*point) for point in points])
    for key, value in {"width": 8, "lr": 0.1, "bias": True, "name": None}.items():
        client.log_param(run, key, value)
    client.set_terminated(run, "FINISHED", 1_060_000)
    assert client.get_run(run).data.metrics["same"] == 2.5, "MLflow shows the largest of equal step and time"
    assert client.get_metric_history(run, "loss")[0].value == sys.float_info.max
    for source in (f"{uri}#team/training", uri, f"{uri}#{experiment}"):
        found = read_source(f"mlflow:{source}")
        row = only(
            found,
            name="first",
            state="finished",
            width=8,
            lr=0.1,
            bias=True,
            wall_s=60.0,
            same=2.5,
            started_at="1970-01-01T00:16:40Z",
            resumed=1.0,
            resumed_step=1,
        )
        assert math.isnan(row["loss"])
        assert found.runs[0].series["loss"].values[:2] == [math.inf, -math.inf]
    client.create_experiment("flat", str(tmp_path / "artifacts"))
    with pytest.raises(InputError, match="holds no run"):
        read_source(f"mlflow:{uri}/flat")
    with pytest.raises(InputError, match="no experiment 'flut'; did you mean 'flat'"):
        read_source(f"mlflow:{uri}/flut")


# What is refused.


@pytest.mark.parametrize("prefix", ["optuna:", "mlflow:"])
@pytest.mark.parametrize("kind", ["nosuch", "mssql+nodriver"])
def test_a_database_without_its_driver_is_a_sentence_without_the_password(prefix: str, kind: str) -> None:
    pytest.importorskip("optuna" if prefix == "optuna:" else "mlflow.tracking")
    with pytest.raises(InputError) as caught:
        read_source(f"{prefix}{kind}://me:se:cret@localhost/runs#training")
    assert "secret" not in str(caught.value).replace(":", "")
    assert f"{kind}://me:***@localhost/runs" in str(caught.value)


def test_a_table_of_optuna_with_other_columns_is_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    import sqlite3

    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("CREATE TABLE studies (x)")
        connection.execute("CREATE TABLE trials (x)")
    connection.close()
    with pytest.raises(InputError, match=r"a\.db' cannot be read"):
        read_source(f"optuna:{tmp_path / 'a.db'}")


def test_a_server_of_mlflow_may_stand_behind_a_prefix() -> None:
    from metascale.integrations.sources.mlflow import _split

    assert _split("http://host/mlflow#team/training") == ("http://host/mlflow", "team/training")
    assert _split("http://host:5000/training") == ("http://host:5000", "training")
    with pytest.raises(InputError, match="PREFIX#"):
        _split("http://host/mlflow/training")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "there is no file or folder 'nowhere', and no such prefix; prefixes are wandb, mlflow"),
        ("mlfow:x", "did you mean 'mlflow'"),
        ("mlflow:", "names no place after 'mlflow:'"),
        (
            "sqlite:///o.db",
            "no such prefix; the address of a database or server takes one, as in optuna:sqlite:///o.db",
        ),
        ("tensorboard:nowhere", "there is no file or folder 'nowhere'"),
        ("optuna:sqlite:///nowhere.db", "there is no file 'nowhere.db'"),
        ("optuna:nowhere.log", "there is no Optuna storage 'nowhere.log'"),
        ("mlflow:sqlite:///nowhere.db/x", "names no MLflow store"),
        ("mlflow:sqlite:///nowhere.db", "'sqlite:///nowhere.db' names no MLflow store"),
        ("mlflow:nowhere/x", "names no MLflow store"),
        ("wandb:nowhere.csv", "there is no file or folder 'nowhere.csv'"),
        (".", "is a folder that holds no runs that are known"),
    ],
)
def test_what_is_not_there_is_a_sentence_and_is_not_made(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        read_source(source)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trainer_state.json", "{", "is not JSON"),
        ("trainer_state.json", "[1]", "holds a JSON list"),
        ("trainer_state.json", "{}", "is no state of a Trainer"),
        ("trainer_state.json", "[" * 100_000, "nested too deeply"),
        ("metrics.csv", "epoch,loss\n1,2\n", "has no column 'step'"),
        ("metrics.csv", "step,loss,loss\n1,2,3\n", "two columns named 'loss'"),
        ("metrics.csv", "step,loss\n1,2\n1\n", "row 2 has 1 cells and the header 2"),
        ("metrics.csv", "step,loss\nx,2\n", "row 1: 'step' is 'x', not a number"),
        ("metrics.csv", "step,loss\n1,2,\n", "row 1 has 3 cells"),
        ("metrics.csv", "", "has no column 'step'"),
        ("run-x.wandb", "not a run", "is no run of W&B"),
        ("events.out.tfevents.1", "not events", "without a scalar"),
    ],
)
def test_files_that_are_not_what_they_are_called(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        read_source(tmp_path)
    assert message in str(caught.value)


@pytest.mark.parametrize(("prefix", "name"), [("optuna", "op.db"), ("mlflow", "ml.db")])
def test_a_database_of_something_else_stays_as_it_is(prefix: str, name: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna" if prefix == "optuna" else "mlflow.tracking")
    import sqlite3

    path = tmp_path / name
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InputError):
        read_source(f"{prefix}:sqlite:///{path}")
    assert path.read_bytes() == before


def test_links_do_not_leave_the_folder_and_are_not_read_twice(tmp_path: Path) -> None:
    write_state(tmp_path / "elsewhere")
    inside = write_state(tmp_path / "logs" / "run")
    (tmp_path / "logs" / "latest").symlink_to("run")
    assert len(read_source(tmp_path / "logs").runs) == 1
    (tmp_path / "logs" / "away").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="away' is a link that leaves the folder"):
        read_source(tmp_path / "logs")
    (tmp_path / "logs" / "away").unlink()
    (inside / "trainer_state.json").unlink()
    (inside / "trainer_state.json").symlink_to(tmp_path / "elsewhere" / "trainer_state.json")
    with pytest.raises(InputError, match="is a link that leaves"):
        read_source(tmp_path / "logs")


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_state(tmp_path)
    os.truncate(tmp_path / "trainer_state.json", 300 << 20)
    with pytest.raises(InputError, match=r"300.00 MiB, more than the 256.00 MiB that are read$"):
        read_source(tmp_path)
    monkeypatch.setattr("metascale.integrations.sources.places.MOST_FILES", 3)
    for k in range(4):
        (tmp_path / str(k)).touch()
    with pytest.raises(InputError, match="more than 3 files"):
        read_source(tmp_path)


def test_logs_of_several_programs_in_one_folder_need_a_word(tmp_path: Path) -> None:
    write_state(tmp_path / "out")
    write_metrics(tmp_path / "logs", "step,loss\n1,2\n")
    with pytest.raises(InputError, match="trainer and lightning; say which: trainer:"):
        read_source(tmp_path)
    only(read_source(f"lightning:{tmp_path}"), loss=2.0)


# The way into laws.


def test_read_table_takes_sources_and_folders(tmp_path: Path) -> None:
    import metascale as ms
    from metascale.laws.runs import usable_rows

    for k in range(1, 7):
        history = [{"eval_loss": 1 + 5 * (100 * 2**k) ** -0.5, "step": 30}]
        folder = write_state(tmp_path / f"run{k}" / "checkpoint-30", log_history=history)
        (folder / "config.json").write_text(json.dumps({"n_params": 100 * 2**k}))
    write_state(tmp_path / "broken" / "checkpoint-10", 10)
    for source in (tmp_path, f"trainer:{tmp_path}"):
        table = ms.read_table(source)
        assert table.n_rows == 7
        assert list(table.column("state"))[:2] == ["unfinished", "finished"]
    rows = usable_rows(table)
    assert rows.n_rows == 6
    fit = ms.fit(rows.numbers("model.n_params"), rows.numbers("eval_loss"))
    assert fit.parameters["alpha"]["estimate"] == pytest.approx(0.5, abs=0.01), "the unfinished run is left out"
    assert ms.read_table(tmp_path / "run1" / "checkpoint-30" / "trainer_state.json").n_rows == 1


def test_a_prefix_of_ones_own_is_read_by_ones_own_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import metascale as ms
    from metascale.laws.sources import SOURCES, register_source

    (tmp_path / "my_reader.py").write_text("def read(source): return {'x': [1, 2]}, source, ['a note']\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(SOURCES, "mine", "")
    register_source("mine", "my_reader:read")
    table = ms.read_table("mine:place")
    assert (list(table.numbers("x")), table.source, table.notes) == ([1.0, 2.0], "mine:place", ("a note",))
    for prefix, address in [("c", "a:b"), ("a b", "a:b"), ("mine", "nothing")]:
        with pytest.raises(InputError):
            register_source(prefix, address)
