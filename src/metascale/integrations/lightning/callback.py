"""A callback that turns a script with Lightning's Trainer into a trial."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from metascale.core.errors import InputError
from metascale.core.optional import missing, require
from metascale.core.run import Run
from metascale.integrations.handover import EVALUATION, TRAIN, Handover

_PURPOSE = "StudyCallback"
_name = next((name for name in ("lightning", "pytorch_lightning") if importlib.util.find_spec(name)), None)
if _name is None:
    raise missing("lightning", "lightning", _PURPOSE)
_lightning = require("lightning.pytorch" if _name == "lightning" else _name, "lightning", _PURPOSE)
torch = require("torch", "torch", _PURPOSE)
_FILE = "study.ckpt"
_Base: Any = _lightning.Callback


class StudyCallback(_Base):
    """Progress, records, checkpoints, resume, stop and pruning of a Lightning Trainer in a run of a study.

    The run is saved after every ``every_n_epochs`` training epochs, and after the epoch in which it is asked to stop:
    within an epoch Lightning cannot resume at the same batch of an ordinary DataLoader. The state of torch's random
    numbers goes with the checkpoint, so that a resumed run shuffles as an uninterrupted one, where the loaders have no
    generator of their own.

    Args:
        run: as the trial function gets it.
        every_n_epochs: training epochs from one checkpoint to the next.
        prune_above: pairs (step, loss), as a search gives them under ``prune_above`` of the configuration: training
            ends after the epoch whose validation is the first at or after the step where the best ``metric`` lies above
            the loss.
        metric: what pruning goes by, as it was logged.

    Attributes:
        checkpoint: for ``trainer.fit(..., ckpt_path=...)``; None at a first attempt.

    Example::

        def train(config, run, device):
            study = StudyCallback(run)
            trainer = Trainer(max_epochs=10, callbacks=[study], logger=False, enable_checkpointing=False)
            trainer.fit(model, loader, validation, ckpt_path=study.checkpoint)
            return study.result()

    Raises:
        Diverged: during training, a logged number is not finite.
    """

    def __init__(
        self,
        run: Run,
        every_n_epochs: int = 1,
        prune_above: Iterable[Sequence[float]] = (),
        metric: str = "val_loss",
    ):
        if every_n_epochs < 1:
            raise InputError("`every_n_epochs` is 1 or more", field="every_n_epochs", value=every_n_epochs)
        self._handover = Handover(run, prune_above)
        self._every = every_n_epochs
        self._metric = metric
        self._steps = self._handover.step
        self._pruned: int | None = None
        self._random: Any = None
        found = self._handover.checkpoint
        self.checkpoint = None if found is None else str(found)

    def result(self) -> dict[str, float]:
        """The trial's row: the last value of everything that was logged, and the ``steps`` trained in all."""
        row = {**self._handover.last(), "steps": self._steps}
        return row if self._pruned is None else {**row, "pruned_at_step": self._pruned}

    def state_dict(self) -> dict[str, Any]:
        """The state of torch's random numbers, of which shuffling is drawn."""
        return {"random": torch.get_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._random = state_dict.get("random")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step < self._handover.step:
            raise InputError(
                f"the run has a checkpoint of step {self._handover.step} and training begins at step "
                f"{trainer.global_step}: call fit(..., ckpt_path=study.checkpoint)"
            )
        if self._random is not None:
            torch.set_rng_state(self._random)
            # The first epoch's iterators are made before this hook, those of later epochs after the state was saved.
            for loader in _loaders(trainer.train_dataloader):
                if loader.generator is None:
                    torch.empty((), dtype=torch.int64).random_()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._steps = trainer.global_step
        total = trainer.estimated_stepping_batches
        self._handover.run.progress(self._steps, int(total) if total != float("inf") else self._steps)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self._record(trainer, EVALUATION, validation=True)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        # Called after the module's own hook and after the validation of the epoch.
        self._record(trainer, TRAIN, validation=False)
        self._pruned = self._handover.pruned(self._metric)
        if self._pruned is not None:
            trainer.should_stop = True
        due = (trainer.current_epoch + 1) % self._every == 0
        if due or self._handover.run.stop_asked():
            path = self._handover.folder / _FILE
            trainer.save_checkpoint(path)
            if trainer.is_global_zero:
                self._handover.save(trainer.global_step, [path], scheduled=due)

    def _record(self, trainer: Any, record: str, validation: bool) -> None:
        """The metrics of one loop: validation's are those whose name begins with val or eval, as is the custom."""
        if not trainer.is_global_zero:
            return
        found = {name: float(value) for name, value in trainer.callback_metrics.items()}
        own = {name: value for name, value in found.items() if name.startswith(("val", "eval")) is validation}
        if own:
            self._handover.record(record, trainer.global_step, own)


def _loaders(nested: Any) -> Iterator[Any]:
    """The DataLoaders of a training, which may be one, or in lists and mappings."""
    if isinstance(nested, torch.utils.data.DataLoader):
        yield nested
    elif isinstance(nested, Mapping):
        for inside in nested.values():
            yield from _loaders(inside)
    elif isinstance(nested, (list, tuple)):
        for inside in nested:
            yield from _loaders(inside)
