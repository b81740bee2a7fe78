"""A callback that turns a script with Hugging Face's Trainer into a trial."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError
from metascale.core.optional import require
from metascale.core.run import Run
from metascale.integrations.handover import EVALUATION, TRAIN, Handover

_transformers = require("transformers", "text", "StudyCallback")
_STATE = "trainer_state.json"
_Base: Any = _transformers.TrainerCallback


class StudyCallback(_Base):
    """Progress, records, checkpoints, resume, stop and pruning of a Trainer in a run of a study.

    The Trainer's checkpoints become the run's (``save_steps`` or each epoch); a run that is asked to stop saves at the
    next step that is logged. An interrupted run that is resumed ends with the records and the weights of an
    uninterrupted one. To that end the loss is also logged wherever a checkpoint is saved: after a resume the Trainer
    averages the loss over the steps since the checkpoint alone.

    Args:
        run: as the trial function gets it.
        prune_above: pairs (step, loss), as a search gives them under ``prune_above`` of the configuration: training
            ends at the first evaluation at or after the step where the best ``metric`` lies above the loss.
        metric: what pruning goes by.

    Attributes:
        folder: a temporary folder for ``output_dir``; results that are to stay go through ``run.write``.
        checkpoint: for ``trainer.train(resume_from_checkpoint=...)``; None at a first attempt.

    Example::

        def train(config, run, device):
            study = StudyCallback(run)
            arguments = TrainingArguments(study.folder, save_steps=100, ...)
            trainer = Trainer(model, arguments, train_dataset=..., callbacks=[study])
            trainer.train(resume_from_checkpoint=study.checkpoint)
            return study.result()

    Raises:
        Diverged: during training, a logged number is not finite.
    """

    def __init__(self, run: Run, prune_above: Iterable[Sequence[float]] = (), metric: str = "eval_loss"):
        self._handover = Handover(run, prune_above)
        self._metric = metric
        self._stopping = False
        self._last: dict[str, float] = {}
        self._steps = self._handover.step
        self._pruned: int | None = None
        self.folder = str(self._handover.folder)
        found = self._handover.checkpoint
        self.checkpoint = None if found is None else str(found)
        if found is not None:
            self._move_best(found / _STATE)

    def result(self) -> dict[str, float]:
        """The trial's row: the last value of everything that was logged, and the ``steps`` trained in all.

        The Trainer's own ``train_loss`` is left out: after a resume it is the mean of the steps since then.
        """
        row = {**self._handover.last(), "steps": self._steps}
        return row if self._pruned is None else {**row, "pruned_at_step": self._pruned}

    def _move_best(self, path: Path) -> None:
        """Name the best checkpoint where it lies now."""
        state = json.loads(path.read_text(encoding="utf-8"))
        best = state.get("best_model_checkpoint")
        if best:
            state["best_model_checkpoint"] = str(self._handover.folder / Path(best).name)
            path.write_text(json.dumps(state), encoding="utf-8")

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step < self._handover.step:
            raise InputError(
                f"the run has a checkpoint of step {self._handover.step} and training begins at step "
                f"{state.global_step}: call train(resume_from_checkpoint=study.checkpoint)"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._steps = state.global_step
        self._handover.run.progress(state.global_step, state.max_steps)
        steps = str(getattr(args.logging_strategy, "value", args.logging_strategy)) == "steps"
        self._stopping = self._stopping or (not control.should_save and self._handover.run.stop_asked())
        if control.should_save:
            control.should_log = True
        elif self._stopping and (control.should_log or not steps):
            control.should_save = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        control.should_log |= control.should_save

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **given: Any) -> None:
        logs = logs or {}
        if "train_runtime" in logs or not state.is_world_process_zero:
            return
        kind = EVALUATION if any(name.startswith("eval_") for name in logs) else TRAIN
        self._handover.record(kind, state.global_step, logs)

    def on_evaluate(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._pruned = self._handover.pruned(self._metric)
        if self._pruned is not None:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if not state.is_world_process_zero:
            return
        newest = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        folders = [newest]
        best = state.best_model_checkpoint
        if args.load_best_model_at_end and best and Path(best) != newest and Path(best).is_dir():
            folders.append(Path(best))
        self._handover.save(state.global_step, folders, scheduled=not self._stopping)
