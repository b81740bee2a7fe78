"""The callbacks for other trainers, hook by hook, on stand-ins for the trainers."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from metascale.core.errors import CorruptFile, Diverged, InputError
from metascale.core.run import Checkpoint, MemoryRun
from metascale.integrations.handover import Handover


class Noting(MemoryRun):
    """A run that notes its progress and checkpoints, and may be asked to stop."""

    def __init__(self, stop: bool = False) -> None:
        super().__init__()
        self.stop, self.seen, self.saved = stop, [], []

    def progress(self, done: int, total: int, note: str = "") -> None:
        self.seen.append((done, total))

    def stop_asked(self) -> bool:
        return self.stop

    def save(self, checkpoint: Checkpoint) -> None:
        super().save(checkpoint)
        self.saved.append(checkpoint)


def begun(step: int = 6, **files: bytes) -> Noting:
    """A run with a checkpoint of ``study.ckpt``, or of a folder with these files."""
    run = Noting()
    index = {"names": ["study.ckpt"], "first": "study.ckpt"}
    blobs = {"file-00000": b"weights"}
    if files:
        index = {"names": [f"checkpoint-6/{name}" for name in files], "first": "checkpoint-6"}
        blobs = {f"file-{place:05d}": data for place, data in enumerate(files.values())}
    run.save(Checkpoint(step, {**blobs, "files.json": json.dumps(index).encode()}))
    run.saved.clear()
    return run


# What they share.


def test_files_are_handed_over_by_name_folder_by_folder(tmp_path: Path) -> None:
    first, single, run = tmp_path / "b", tmp_path / "a.txt", Noting()
    (first / "deep").mkdir(parents=True)
    (first / "z").write_bytes(b"1")
    (first / "deep" / "y").write_bytes(b"2")
    single.write_bytes(b"3")
    Handover(run).save(4, [first, single], scheduled=False)
    (found,) = run.saved
    assert (found.step, found.scheduled) == (4, False)
    assert json.loads(found.blobs["files.json"]) == {"names": ["b/deep/y", "b/z", "a.txt"], "first": "b"}
    assert [found.blobs[f"file-0000{k}"] for k in range(3)] == [b"2", b"1", b"3"]
    assert len(found.blobs) == 4


def test_a_checkpoint_writes_nothing_outside_its_folder() -> None:
    run = Noting()
    index = {"names": ["../outside"], "first": "x"}
    run.save(Checkpoint(3, {"file-00000": b"", "files.json": json.dumps(index).encode()}))
    with pytest.raises(CorruptFile, match=r"^the checkpoint of step 3 names a file outside its folder: '\.\./outside"):
        Handover(run)


def test_what_is_recorded_of_a_log_are_its_finite_numbers() -> None:
    run = Noting()
    handover = Handover(run)
    logs = {"loss": 2, "step": 9, "flag": True, "word": "x", "eval_runtime": 3.0, "memory": 4}
    assert handover.record("train_stats", 5, logs) == {"loss": 2.0}
    assert run.records == {"train_stats": [{"step": 5, "loss": 2.0}]}
    assert run.measurements == [{"step": 5, "eval_runtime": 3.0, "memory": 4.0}]
    assert handover.record("train_stats", 6, {"time": 1.0}) == {}
    assert len(run.records["train_stats"]) == 1
    with pytest.raises(Diverged, match=r"^loss is inf at step 7$") as caught:
        handover.record("train_stats", 7, {"loss": math.inf})
    assert caught.value.step == 7
    handover.record("train_stats", 8, {"other": 1.0})
    handover.record("train_stats", 9, {"loss": 1.0})
    assert {name: len(rows) for name, rows in run.records.items()} == {"train_stats": 2, "train_stats_2": 1}
    assert [row["step"] for row in handover.rows("train_stats")] == [5, 8, 9]
    assert handover.last() == {"loss": 1.0, "other": 1.0}


@pytest.mark.parametrize(
    ("losses", "pruned"),
    [
        ({2: 5.0}, None),  # step 3 is not reached
        ({3: 5.0}, 3), ({3: 4.0}, None), ({4: 4.1}, None),  # nothing stands at or before step 3
        ({2: 4.1, 4: 1.0}, 3), ({2: 3.9, 4: 9.0}, None), ({2: 4.0, 6: 9.0}, 6), ({2: 2.0, 6: 9.0}, None),
    ],
)  # fmt: skip
def test_a_trial_is_pruned_at_the_first_step_whose_best_loss_so_far_is_above(
    losses: dict[int, float], pruned: int | None
) -> None:
    handover = Handover(Noting(), [(3, 4.0), (6, 3.0)])
    handover.record("eval_stats", 1, {"another": 99.0})
    for step, loss in losses.items():
        handover.record("eval_stats", step, {"loss": loss})
    assert handover.pruned("loss") == pruned


# Lightning.


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The callback on a package that has nothing but a base class."""
    package, inner = ModuleType("lightning"), ModuleType("lightning.pytorch")
    inner.Callback = type("Callback", (), {})  # type: ignore[attr-defined]
    package.__path__, package.pytorch = [], inner  # type: ignore[attr-defined]
    package.__spec__ = importlib.machinery.ModuleSpec("lightning", None)
    name = "metascale.integrations.lightning.callback"
    for key, value in (("lightning", package), ("lightning.pytorch", inner)):
        monkeypatch.setitem(sys.modules, key, value)
    monkeypatch.delitem(sys.modules, name, raising=False)
    found = importlib.import_module(name)
    assert issubclass(found.StudyCallback, inner.Callback)  # type: ignore[attr-defined]
    yield found
    sys.modules.pop(name, None)


class Trainer(SimpleNamespace):
    """What the callback asks a Lightning Trainer."""

    def __init__(self, **fields: Any) -> None:
        own = {"global_step": 4, "estimated_stepping_batches": 20.0, "sanity_checking": False, "current_epoch": 0}
        own |= {"callback_metrics": {}, "is_global_zero": True, "should_stop": False, "train_dataloader": None}
        super().__init__(**{**own, **fields})
        self.saved: list[Path] = []

    def save_checkpoint(self, path: Path) -> None:
        self.saved.append(path)
        path.write_bytes(b"state")


def test_lightnings_metrics_are_recorded_by_their_loop(lightning: Any) -> None:
    run = Noting()
    study = lightning.StudyCallback(run)
    assert study.checkpoint is None
    metrics = {"val_loss": torch.tensor(2.0), "eval_acc": 0.5, "train_loss": 3.0, "value": 7.0}
    study.on_validation_end(Trainer(callback_metrics=metrics, sanity_checking=True), None)
    study.on_validation_end(Trainer(callback_metrics=metrics, is_global_zero=False), None)
    study.on_validation_end(Trainer(callback_metrics={"train_loss": 3.0}), None)
    assert run.records == {}
    study.on_validation_end(Trainer(callback_metrics={name: metrics[name] for name in ("val_loss", "eval_acc")}), None)
    study.on_train_epoch_end(Trainer(callback_metrics={"train_loss": 3.0, "eval_acc": 0.5}, global_step=5), None)
    assert run.records == {
        "eval_stats": [{"step": 4, "val_loss": 2.0, "eval_acc": 0.5}], "train_stats": [{"step": 5, "train_loss": 3.0}],
    }  # fmt: skip
    assert study.result() == {"train_loss": 3.0, "val_loss": 2.0, "eval_acc": 0.5, "steps": 0}


def test_lightnings_progress_is_of_its_steps(lightning: Any) -> None:
    run = Noting()
    study = lightning.StudyCallback(run)
    study.on_train_batch_end(Trainer(), None, None, None, 0)
    study.on_train_batch_end(Trainer(global_step=5, estimated_stepping_batches=float("inf")), None, None, None, 1)
    assert run.seen == [(4, 20), (5, 5)]
    assert study.result() == {"steps": 5}


@pytest.mark.parametrize(
    ("every", "epoch", "stop", "saves", "scheduled"),
    [
        (1, 0, False, True, True), (2, 0, False, False, None), (2, 1, False, True, True), (3, 1, False, False, None),
        (2, 0, True, True, False), (2, 1, True, True, True),
    ],
)  # fmt: skip
def test_lightning_saves_every_so_many_epochs_and_where_it_is_asked_to_stop(
    every: int, epoch: int, stop: bool, saves: bool, scheduled: bool | None, lightning: Any
) -> None:
    run = Noting(stop)
    study, trainer = lightning.StudyCallback(run, every), Trainer(current_epoch=epoch)
    study.on_train_epoch_end(trainer, None)
    assert [path.name for path in trainer.saved] == ["study.ckpt"] * saves
    saved = [(one.step, one.scheduled, one.blobs["file-00000"]) for one in run.saved]
    assert saved == [(4, scheduled, b"state")] * saves
    other = Trainer(current_epoch=epoch, is_global_zero=False)
    study.on_train_epoch_end(other, None)
    assert (len(other.saved), len(run.saved)) == (saves, saves)  # every process saves, one hands it over


def test_lightning_is_pruned_by_its_metric(lightning: Any) -> None:
    for metric, name, pruned in (("val_loss", "val_loss", 3), ("val_b", "val_b", 3), ("val_b", "val_loss", None)):
        study = lightning.StudyCallback(Noting(), prune_above=[(3, 1.0)], metric=metric)
        if metric == "val_loss":
            study = lightning.StudyCallback(Noting(), prune_above=[(3, 1.0)])
        trainer = Trainer(callback_metrics={name: 2.0}, global_step=3)
        study.on_validation_end(trainer, None)
        study.on_train_epoch_end(trainer, None)
        assert trainer.should_stop is (pruned is not None)
        assert study.result().get("pruned_at_step") == pruned


def test_lightning_goes_on_from_its_checkpoint_or_is_told_how(lightning: Any) -> None:
    with pytest.raises(InputError, match=r"^`every_n_epochs` is 1 or more$") as caught:
        lightning.StudyCallback(Noting(), 0)
    assert (caught.value.field, caught.value.value) == ("every_n_epochs", 0)
    study = lightning.StudyCallback(begun(6))
    assert Path(study.checkpoint).read_bytes() == b"weights"
    assert study.result() == {"steps": 6}
    study.on_train_start(Trainer(global_step=6), None)
    sentence = r"^the run has a checkpoint of step 6 and training begins at step 5: call fit\(..., ckpt_path=study"
    with pytest.raises(InputError, match=sentence):
        study.on_train_start(Trainer(global_step=5), None)


def test_lightnings_shuffling_goes_on_where_it_was(lightning: Any) -> None:
    """Each loader without a generator of its own draws one seed an epoch, which the first after a resume misses."""
    data = torch.utils.data.TensorDataset(torch.zeros(4, 1))
    plain = [torch.utils.data.DataLoader(data) for _ in range(2)]
    own = torch.utils.data.DataLoader(data, generator=torch.Generator())
    study = lightning.StudyCallback(Noting())
    before = torch.get_rng_state()
    try:
        torch.manual_seed(5)
        state = study.state_dict()
        assert torch.equal(state["random"], torch.get_rng_state())
        expected = torch.rand(1), torch.empty((), dtype=torch.int64).random_()
        torch.manual_seed(5)
        for _ in range(2):
            torch.empty((), dtype=torch.int64).random_()
        after_two = torch.rand(1)
        torch.manual_seed(6)
        study.load_state_dict(state)
        study.on_train_start(Trainer(train_dataloader={"a": [plain[0], own], "b": (plain[1], "text")}), None)
        assert torch.equal(torch.rand(1), after_two)
        assert not torch.equal(after_two, expected[0])
        fresh = lightning.StudyCallback(Noting())
        fresh.load_state_dict({})
        torch.manual_seed(6)
        drawn = torch.rand(1)
        torch.manual_seed(6)
        fresh.on_train_start(Trainer(train_dataloader=plain), None)
        assert torch.equal(torch.rand(1), drawn)
    finally:
        torch.set_rng_state(before)


# Hugging Face.


class Control(SimpleNamespace):
    def __init__(self, **fields: Any) -> None:
        super().__init__(**{"should_save": False, "should_log": False, "should_training_stop": False, **fields})


def arguments(**fields: Any) -> Any:
    return SimpleNamespace(**{"logging_strategy": "steps", "load_best_model_at_end": False, **fields})


def state(**fields: Any) -> Any:
    own = {"global_step": 4, "max_steps": 20, "is_world_process_zero": True, "best_model_checkpoint": None}
    return SimpleNamespace(**{**own, **fields})


@pytest.fixture
def hf() -> Any:
    pytest.importorskip("transformers")
    return importlib.import_module("metascale.integrations.transformers.callback")


@pytest.mark.parametrize(
    ("stop", "strategy", "before", "after"),
    [
        (False, "steps", {}, {}),
        (False, "steps", {"should_save": True}, {"should_save": True, "should_log": True}),
        (True, "steps", {"should_save": True}, {"should_save": True, "should_log": True}),
        (True, "steps", {"should_log": True}, {"should_log": True, "should_save": True}),
        (True, "steps", {}, {}),  # it waits for the next step that is logged
        (True, "epoch", {}, {"should_save": True}),
        (True, SimpleNamespace(value="steps"), {}, {}),
        (True, SimpleNamespace(value="no"), {}, {"should_save": True}),
        (False, "epoch", {"should_log": True}, {"should_log": True}),
    ],
)  # fmt: skip
def test_a_trainer_that_is_asked_to_stop_saves_at_the_next_step_that_is_logged(
    stop: bool, strategy: Any, before: dict[str, bool], after: dict[str, bool], hf: Any
) -> None:
    run, control = Noting(stop), Control(**before)
    study = hf.StudyCallback(run)
    study.on_step_end(arguments(logging_strategy=strategy), state(), control)
    assert vars(control) == vars(Control(**after))
    assert (run.seen, study.result()) == ([(4, 20)], {"steps": 4})


def test_a_checkpoint_that_was_asked_for_is_not_a_scheduled_one(hf: Any, tmp_path: Path) -> None:
    """Once asked to stop, a trainer stops, whatever is asked later."""
    run = Noting(stop=True)
    study = hf.StudyCallback(run)
    study.on_step_end(arguments(), state(), Control())
    run.stop = False
    control = Control(should_log=True)
    study.on_step_end(arguments(), state(), control)
    assert control.should_save
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4" / "w").write_bytes(b"4")
    study.on_save(arguments(output_dir=str(tmp_path)), state(is_world_process_zero=False), Control())
    assert run.saved == []
    study.on_save(arguments(output_dir=str(tmp_path)), state(), Control())
    assert [(one.step, one.scheduled) for one in run.saved] == [(4, False)]


@pytest.mark.parametrize(
    ("at_end", "best", "names"),
    [
        (True, "checkpoint-2", ["checkpoint-4/w", "checkpoint-2/w"]), (False, "checkpoint-2", ["checkpoint-4/w"]),
        (True, "checkpoint-4", ["checkpoint-4/w"]), (True, "checkpoint-9", ["checkpoint-4/w"]),
        (True, None, ["checkpoint-4/w"]),
    ],
)  # fmt: skip
def test_the_best_checkpoint_goes_along_where_it_is_another(
    at_end: bool, best: str | None, names: list[str], hf: Any, tmp_path: Path
) -> None:
    for name in ("checkpoint-2", "checkpoint-4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w").write_bytes(name.encode())
    run = Noting()
    own = state(best_model_checkpoint=None if best is None else str(tmp_path / best))
    given = arguments(output_dir=str(tmp_path), load_best_model_at_end=at_end)
    hf.StudyCallback(run).on_save(given, own, Control())
    (found,) = run.saved
    assert json.loads(found.blobs["files.json"]) == {"names": names, "first": "checkpoint-4"}
    assert found.scheduled is True


def test_a_trainers_logs_are_recorded_by_their_kind(hf: Any) -> None:
    run = Noting()
    study = hf.StudyCallback(run)
    for logs in ({"loss": 2.0}, {"eval_loss": 3.0, "epoch": 1.0}, {"loss": 9.0, "train_runtime": 1.0}, None, {}):
        study.on_log(arguments(), state(), Control(), logs)
    study.on_log(arguments(), state(is_world_process_zero=False), Control(), {"loss": 8.0})
    assert run.records == {
        "train_stats": [{"step": 4, "loss": 2.0}], "eval_stats": [{"step": 4, "eval_loss": 3.0, "epoch": 1.0}],
    }  # fmt: skip
    assert study.result() == {"loss": 2.0, "eval_loss": 3.0, "steps": 0}


@pytest.mark.parametrize(("metric", "pruned"), [(None, 3), ("eval_b", None)])
def test_a_trainer_is_pruned_by_its_metric(metric: str | None, pruned: int | None, hf: Any) -> None:
    given = {} if metric is None else {"metric": metric}
    study, control = hf.StudyCallback(Noting(), [(3, 1.0)], **given), Control()
    study.on_log(arguments(), state(global_step=3), control, {"eval_loss": 2.0})
    study.on_evaluate(arguments(), state(), control)
    assert (control.should_training_stop, study.result().get("pruned_at_step")) == (pruned is not None, pruned)


def test_an_epoch_that_is_saved_is_logged(hf: Any) -> None:
    study = hf.StudyCallback(Noting())
    for saves, logs, logged in ((True, False, True), (False, False, False), (False, True, True)):
        control = Control(should_save=saves, should_log=logs)
        study.on_epoch_end(arguments(), state(), control)
        assert (control.should_log, control.should_save) == (logged, saves)


def test_a_trainer_goes_on_from_its_checkpoint_with_the_best_one_where_it_lies_now(hf: Any) -> None:
    stored = json.dumps({"best_model_checkpoint": "/gone/checkpoint-4", "x": 1}).encode()
    study = hf.StudyCallback(begun(6, **{"trainer_state.json": stored, "w": b"6"}))
    assert study.checkpoint == str(Path(study.folder) / "checkpoint-6")
    found = json.loads((Path(study.checkpoint) / "trainer_state.json").read_text())
    assert found == {"best_model_checkpoint": str(Path(study.folder) / "checkpoint-4"), "x": 1}
    study.on_train_begin(arguments(), state(global_step=6), Control())
    sentence = r"^the run has a checkpoint of step 6 and training begins at step 5: call train\(resume_from_checkpoint="
    with pytest.raises(InputError, match=sentence):
        study.on_train_begin(arguments(), state(global_step=5), Control())
    none = hf.StudyCallback(begun(6, **{"trainer_state.json": b'{"best_model_checkpoint": null}'}))
    assert json.loads((Path(none.checkpoint) / "trainer_state.json").read_text()) == {"best_model_checkpoint": None}
    first = hf.StudyCallback(Noting())
    assert (first.checkpoint, Path(first.folder).is_dir()) == (None, True)
