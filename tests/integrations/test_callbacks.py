"""Other people's trainers as trials: interrupted and resumed, pruned, and in a study."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from metascale.core.errors import Diverged, InputError
from metascale.core.run import Checkpoint, MemoryRun
from metascale.integrations.handover import Handover

LIGHTNING = [name for name in ("lightning", "pytorch_lightning") if importlib.util.find_spec(name)]


class Ended(Exception):
    """Where a stored run would not return from `save`."""


class Stopping(MemoryRun):
    """A run that is asked to stop from a step on, and ends at the checkpoint after that."""

    def __init__(self, at: float = math.inf):
        super().__init__()
        self.at, self.done, self.scheduled = at, 0, []

    def progress(self, done: int, total: int, note: str = "") -> None:
        self.done = done

    def stop_asked(self) -> bool:
        return self.done >= self.at

    def save(self, checkpoint: Checkpoint) -> None:
        super().save(checkpoint)
        self.scheduled.append((checkpoint.step, checkpoint.scheduled))
        if self.stop_asked():
            self.at = math.inf
            raise Ended


Train = Callable[..., tuple[dict[str, float], dict[str, torch.Tensor]]]


def check_resume(train: Train, stops: tuple[float, ...]) -> tuple[Stopping, dict[str, float]]:
    """The same records, row and weights whether a training was stopped or not; gives the run that was, and its row."""
    whole, broken = Stopping(), Stopping()
    row, weights = train(whole)
    for at in stops:
        broken.at = at
        with pytest.raises(Ended):
            train(broken)
    again, again_weights = train(broken)
    assert again == row
    assert broken.records == whole.records
    assert whole.records
    assert all(torch.equal(again_weights[name], value) for name, value in weights.items())
    return broken, row


# What they share.


def test_a_checkpoint_folder_goes_through_a_run(tmp_path: Path) -> None:
    run = MemoryRun()
    folder = tmp_path / "checkpoint-3"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"\x00\xff")
    (folder / "deep" / "b.txt").write_text("b")
    Handover(run).save(3, [folder], scheduled=True)
    found = Handover(run)
    assert found.checkpoint == found.folder / "checkpoint-3"
    assert (found.checkpoint / "a.bin").read_bytes() == b"\x00\xff"
    assert (found.checkpoint / "deep" / "b.txt").read_text() == "b"
    assert found.step == 3
    place = found.folder
    del found
    assert not place.exists()


def test_logs_with_other_columns_get_a_record_of_their_own_and_seconds_are_measured() -> None:
    run = MemoryRun()
    handover = Handover(run)
    handover.record("eval_stats", 1, {"eval_loss": 2.0, "eval_runtime": 0.1, "text": "x"})
    handover.record("eval_stats", 1, {"eval_b_loss": 3.0})
    handover.record("eval_stats", 2, {"eval_loss": 1.0})
    assert run.records["eval_stats"] == [{"step": 1, "eval_loss": 2.0}, {"step": 2, "eval_loss": 1.0}]
    assert run.records["eval_stats_2"] == [{"step": 1, "eval_b_loss": 3.0}]
    assert run.measurements == [{"step": 1, "eval_runtime": 0.1}]
    with pytest.raises(Diverged, match="eval_loss is nan at step 3"):
        handover.record("eval_stats", 3, {"eval_loss": math.nan})


def test_a_value_is_the_last_of_all_records_and_they_are_read_once() -> None:
    run = MemoryRun()
    asked: list[str] = []
    read = run.rows
    run.rows = lambda record: asked.append(record) or read(record)  # type: ignore[method-assign, func-returns-value]
    handover = Handover(run, [(4, 2.0)])
    for step, row in [(1, {"loss": 9.0}), (2, {"loss": 8.0, "extra": 1.0, "epoch": 0.5}), (3, {"loss": 7.0})]:
        handover.record("train_stats", step, row)
    handover.record("eval_stats", 3, {"eval_a_loss": 1.0})
    handover.record("eval_stats", 3, {"eval_loss": 3.0})
    assert handover.last() == {"loss": 7.0, "extra": 1.0, "eval_a_loss": 1.0, "eval_loss": 3.0}
    assert handover.pruned("eval_loss") is None, "step 4 has not been reached"
    for step in range(4, 100):
        handover.record("eval_stats", step, {"eval_loss": 3.0})
        handover.record("train_stats", step, {"loss": 10.0 - step, "extra": 0.0, "epoch": 1.0})
    assert handover.pruned("eval_loss") == 4, "it stands in the second record"
    assert handover.last()["loss"] == -89.0
    assert len(asked) == len(set(asked)), "once each: reading a file at every log takes the square of the time"


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        *(("eval_runtime", True), ("eval_samples_per_second", True), ("train_mem_gpu_peaked_delta", True)),
        *(("val/epoch_time", True), ("eval_sentiment_loss", False), ("memorised", False), ("timesteps", False)),
    ],
)
def test_seconds_and_bytes_are_known_by_whole_words(name: str, measured: bool) -> None:
    run = MemoryRun()
    Handover(run).record("eval_stats", 1, {name: 1.0})
    assert (run.measurements, run.rows("eval_stats"))[not measured] == [{"step": 1, name: 1.0}]


# Hugging Face's Trainer.


def transformers_train(folder: Path, **settings: Any) -> Train:
    transformers = pytest.importorskip("transformers")
    from metascale.integrations.transformers import StudyCallback

    data = []
    for k in range(32):
        tokens = torch.randint(0, 16, (8,), generator=torch.Generator().manual_seed(k))
        data.append({"input_ids": tokens, "labels": tokens})

    def train(run: Any, prune_above: Any = ()) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        study = StudyCallback(run, prune_above)
        given = {"max_steps": 12, "save_steps": 6, "logging_steps": 2, "eval_steps": 4, "eval_strategy": "steps"}
        arguments = transformers.TrainingArguments(
            study.folder,
            **{**given, **settings},
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            seed=3,
        )
        torch.manual_seed(0)
        sizes = {"n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 1, "bos_token_id": 0, "eos_token_id": 0}
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=16, **sizes))
        trainer = transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data[:4], callbacks=[study])
        trainer.train(resume_from_checkpoint=study.checkpoint)
        return study.result(), model.state_dict()

    return train


def test_an_interrupted_trainer_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    run, row = check_resume(transformers_train(tmp_path), (3, 7))
    assert run.scheduled == [(4, False), (6, True), (8, False), (12, True)], "a stop waits for the next logged step"
    assert row["steps"] == 12
    assert row["eval_loss"] == run.records["eval_stats"][-1]["eval_loss"]
    assert [one["step"] for one in run.records["train_stats"]] == [2, 4, 6, 8, 10, 12]


def test_a_checkpoint_between_two_logs_and_the_best_one_survive_a_stop(tmp_path: Path) -> None:
    settings = {"logging_steps": 5, "save_steps": 4, "load_best_model_at_end": True, "save_total_limit": 1}
    run, _ = check_resume(transformers_train(tmp_path, **settings), (4,))
    assert [one["step"] for one in run.records["train_stats"]] == [4, 5, 8, 10, 12], "also where it was saved"


def test_a_trainer_is_pruned_and_a_resume_is_not_forgotten(tmp_path: Path) -> None:
    train = transformers_train(tmp_path)
    run = Stopping()
    row, _ = train(run, [(2, 1e9), (8, 0.0)])
    assert row["pruned_at_step"] == 8
    assert row["steps"] == 8
    from metascale.integrations.transformers import StudyCallback

    run = Stopping(3)
    with pytest.raises(Ended):
        train(run)
    StudyCallback.checkpoint = None  # as a script that does not pass it on
    try:
        with pytest.raises(InputError, match="call train"):
            StudyCallback(run).on_train_begin(None, type("State", (), {"global_step": 0})(), None)
    finally:
        del StudyCallback.checkpoint


SCRIPT = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from metascale.integrations.transformers import StudyCallback

def train(config, run, device):
    study = StudyCallback(run)
    arguments = TrainingArguments(study.folder, max_steps=4, logging_steps=2, eval_steps=4, eval_strategy="steps",
                                  save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True)
    sizes = dict(vocab_size=16, n_positions=8, n_embd=config["width"], n_layer=1, n_head=1)
    data = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 8
    torch.manual_seed(config["seed"])
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data, callbacks=[study])
    trainer.train(resume_from_checkpoint=study.checkpoint)
    return {**study.result(), "params": model.num_parameters()}
"""


def test_a_script_with_a_trainer_is_a_study(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from metascale.study import read_study, results_table
    from metascale.workflow import Place, run

    (tmp_path / "script.py").write_text(SCRIPT)
    place = Place("serial")
    outcome, _ = run(
        f"{tmp_path / 'script.py'}:train", tmp_path / "out", {"width": [4, 8]}, place=place, loss="eval_loss"
    )
    assert outcome.finished == 2
    rows = results_table(tmp_path / "out").rows
    assert [row["steps"] for row in rows] == [4, 4]
    assert all(row["eval_loss"] > 0 for row in rows)
    assert [row["step"] for row in read_study(tmp_path / "out").runs[0].rows("train_stats")] == [2, 4]


# Lightning.


def lightning_train(name: str) -> Train:
    pl = importlib.import_module("lightning.pytorch" if name == "lightning" else name)
    from metascale.integrations.lightning import StudyCallback

    class Net(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Linear(4, 1)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            loss = (self.net(batch[0]) - batch[1]).square().mean()
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_loss", (self.net(batch[0]) - batch[1]).square().mean())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=0.05)

    draw = torch.Generator().manual_seed(1)
    x = torch.randn(32, 4, generator=draw)
    data = torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True))

    def train(run: Any, prune_above: Any = (), every: int = 2) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        study = StudyCallback(run, every, prune_above)
        net = Net()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
        trainer = pl.Trainer(max_epochs=5, callbacks=[study], enable_model_summary=False, log_every_n_steps=1, **quiet)
        torch.manual_seed(7)
        loader = torch.utils.data.DataLoader(data, 8, shuffle=True)
        trainer.fit(net, loader, torch.utils.data.DataLoader(data, 32), ckpt_path=study.checkpoint)
        return study.result(), net.state_dict()

    return train


lightning = pytest.mark.parametrize(
    "name", LIGHTNING or [pytest.param("", marks=pytest.mark.skip("lightning is not installed: pip install lightning"))]
)


@lightning
@pytest.mark.filterwarnings("ignore")
def test_an_interrupted_lightning_trainer_ends_as_an_uninterrupted_one(name: str) -> None:
    run, row = check_resume(lightning_train(name), (3, 9))
    assert run.scheduled == [(4, False), (8, True), (12, False), (16, True)], "after the epoch of 4 steps"
    assert row["steps"] == 20
    assert [one["step"] for one in run.records["eval_stats"]] == [4, 8, 12, 16, 20]
    assert row["val_loss"] == run.records["eval_stats"][-1]["val_loss"]


@lightning
@pytest.mark.filterwarnings("ignore")
def test_a_lightning_trainer_is_pruned(name: str) -> None:
    row, _ = lightning_train(name)(Stopping(), [(1, 1e9), (8, 0.0)])
    assert (row["pruned_at_step"], row["steps"]) == (8, 8)


# JAX and Keras, as the page shows them.


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("package", "stop"), [("jax", 30), ("keras", 2)])
def test_the_plain_protocol_serves_other_libraries(package: str, stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec(package) is None or (package == "keras" and importlib.util.find_spec("jax") is None):
        pytest.skip(f"{package} is not installed: pip install jax keras")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    page = (Path(__file__).parents[2] / "docs" / "import.md").read_text()
    block = next(
        text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if f"def train_{package}(" in text
    )
    names: dict[str, Any] = {}
    exec(block, names)
    config = {"lr": 0.1, "width": 8, "seed": 0}

    def train(run: Any) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        return names[f"train_{package}"](config, run, "cpu"), {}

    run, row = check_resume(train, (stop,))
    assert row["loss"] < run.records["train_stats"][0]["loss"]


def test_without_lightning_a_sentence_says_what_to_install() -> None:
    if LIGHTNING:
        pytest.skip("lightning is installed")
    import metascale.integrations.lightning as face
    from metascale.core.errors import MissingDependency

    with pytest.raises(MissingDependency, match=r"StudyCallback needs the package 'lightning'"):
        _ = face.StudyCallback
