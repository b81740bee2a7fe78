"""The one evaluator of meta-learners and baselines: losses and accuracies on fixed episodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import t

from metascale.core.errors import Diverged, InputError
from metascale.core.notebook import table, words
from metascale.core.trees import stack_tasks
from metascale.core.types import Batch, Episode, Model, OutputModel, Params, Split, TaskSource, require_same_shape
from metascale.meta.inner import InnerLoop, after, join_loops, joins_tasks, kind_of
from metascale.parallel.execution import Execution
from metascale.parallel.stacked import join_episodes, join_params

Predictor: TypeAlias = Callable[[Episode], Mapping[int, torch.Tensor]]
"""Predictions for the query sets [T, B, ...], by the number of inner steps taken (0 for methods without). In processes
it must be an object that another process can load, not a closure."""

Measure: TypeAlias = Literal["loss", "mean squared error"]
"""What a loss is, in words."""

OutputLosses: TypeAlias = Callable[[torch.Tensor, Batch], torch.Tensor]
"""Predictions [T, B, ...] and their batch to losses [T]."""


@dataclass(frozen=True)
class Evaluation:
    """Per-task results on fixed episodes.

    Args:
        task_ids: n tasks.
        inner_steps: the K values, ascending.
        loss_nats: [n, K] mean query loss of each task (squared error for regression).
        accuracy: [n, K] query accuracy of each task; NaN for regression.
        measure: what ``loss_nats`` is, in words: ``"loss"``, or ``"mean squared error"`` of real-valued targets.
    """

    task_ids: tuple[str, ...]
    inner_steps: tuple[int, ...]
    loss_nats: np.ndarray
    accuracy: np.ndarray
    measure: Measure = "loss"

    def at(self, inner_steps: int) -> dict[str, float]:
        """Means over tasks and their standard errors (across tasks) after that many inner steps."""
        if inner_steps not in self.inner_steps:
            raise InputError(f"inner_steps {inner_steps} was not evaluated; there are {list(self.inner_steps)}")
        column = self.inner_steps.index(inner_steps)
        loss, accuracy = self.loss_nats[:, column], self.accuracy[:, column]
        root = math.sqrt(len(self.task_ids))
        spread = (lambda values: float(values.std(ddof=1) / root)) if len(self.task_ids) > 1 else (lambda _: 0.0)
        row = {"loss_nats": float(loss.mean()), "loss_sem_nats": spread(loss)}
        if not np.isnan(accuracy).any():
            row |= {"accuracy": float(accuracy.mean()), "accuracy_sem": spread(accuracy)}
        return row

    def curve(self) -> list[dict[str, float]]:
        """The adaptation curve: one row a K."""
        return [{"inner_steps": steps, **self.at(steps)} for steps in self.inner_steps]

    def _repr_html_(self) -> str:
        """For notebooks: the adaptation curve, ± 1 standard error across tasks."""
        rows = [
            (
                str(steps),
                f"{row['loss_nats']:.4f} ± {row['loss_sem_nats']:.4f}",
                *([f"{row['accuracy']:.2%} ± {row['accuracy_sem']:.2%}"] if "accuracy" in row else []),
            )
            for steps, row in ((steps, self.at(steps)) for steps in self.inner_steps)
        ]
        heads = ("inner steps", "loss", "accuracy")[: len(rows[0])]
        return table(heads, rows, f"Mean of {len(self.task_ids)} tasks ± 1 standard error across tasks")

    def tasks(self, inner_steps: int) -> list[dict[str, int | float | str | None]]:
        column = self.inner_steps.index(inner_steps)
        return [
            {
                "episode": index,
                "task_id": name,
                "loss_nats": float(loss),
                "accuracy": None if np.isnan(acc) else float(acc),
            }
            for index, (name, loss, acc) in enumerate(
                zip(self.task_ids, self.loss_nats[:, column], self.accuracy[:, column], strict=True)
            )
        ]


def adapted_predictor(model: Model, inner: InnerLoop, params: Params, inner_steps: Sequence[int]) -> Predictor:
    """Predictions after each number of inner steps in ``inner_steps``, from one adaptation to the largest."""
    wanted = sorted(set(inner_steps))
    if not wanted or wanted[0] < 0:
        raise InputError(f"inner_steps must name at least one number of steps, 0 or more, not {list(inner_steps)}")
    return _Adapted(model, inner, params, tuple(wanted))


@dataclass(frozen=True)
class _Adapted:
    model: Model
    inner: InnerLoop
    params: Params
    wanted: tuple[int, ...]

    def __call__(self, episode: Episode) -> dict[int, torch.Tensor]:
        return self._predict(self.inner, stack_tasks(self.params, episode.n_tasks), episode)

    def _predict(self, inner: InnerLoop, stacked: Params, episode: Episode) -> dict[int, torch.Tensor]:
        found = {}
        for state in inner.iterate(self.model, stacked, episode.support, steps=self.wanted[-1]):
            if state.step in self.wanted:
                model = after(self.model, state.step)
                found[state.step] = predict_in_parts(model, state.params, episode.query, inner.micro_batch)
        return found

    def kind(self) -> object:
        """What has to be equal for the predictions of two trials to come from one call; ``None``: of this one alone."""
        loop = kind_of(self.inner)
        return None if loop is None or not joins_tasks(self.model) else (loop, self.model, self.wanted)

    def together(self, others: Sequence[_Adapted], parts: Sequence[Episode]) -> list[dict[int, torch.Tensor]]:
        """What each of ``others`` predicts for its own part, in one adaptation."""
        counts = [part.n_tasks for part in parts]
        inner = join_loops([other.inner for other in others], counts)
        params = join_params([other.params for other in others], counts)
        found = self._predict(inner, params, join_episodes(parts))
        split = {steps: values.split(counts) for steps, values in found.items()}
        return [{steps: values[index] for steps, values in split.items()} for index in range(len(parts))]

    @property
    def losses(self) -> OutputLosses | None:
        """The model's own loss of predictions, where it says that it has one."""
        return cast(OutputModel, self.model).output_losses if getattr(self.model, "own_loss", False) else None

    @property
    def measure(self) -> Measure:
        """What the loss of real-valued predictions is called (`score`)."""
        own = self.losses is not None and getattr(self.model, "loss", None) != "squared_error"
        return "loss" if own else "mean squared error"


def predict_in_parts(model: Model, params: Params, batch: Batch, micro_batch: int | None) -> torch.Tensor:
    """Predictions [T, B, ...] from forward passes of at most ``micro_batch`` examples a task, without history.

    Raises:
        InputError: micro-batches of a model with batch statistics, whose predictions they would change.
    """
    size = micro_batch or batch.n_examples
    if size < batch.n_examples and getattr(model, "batch_statistics", False):
        raise InputError(f"micro_batch={size} would change the predictions of a model with batch statistics")
    with torch.no_grad():
        parts = [
            model.predict(params, batch.examples(start, min(start + size, batch.n_examples)))
            for start in range(0, batch.n_examples, size)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def score(
    predictions: torch.Tensor, targets: torch.Tensor, own: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """[T] mean loss and [T] accuracy of predictions [T, B, ...].

    The loss is ``own`` where a model measures its own, else squared error for real-valued targets and cross-entropy for
    classes. Accuracy is NaN for real-valued targets, and where the last axis of the predictions is not two or more
    classes.
    """
    if own is not None:
        if targets.is_floating_point() or predictions.shape[:-1] != targets.shape or predictions.shape[-1] < 2:
            return own, torch.full_like(own, float("nan"))
        counts = targets >= 0
        hits = ((predictions.argmax(-1) == targets) & counts).flatten(1).sum(1)
        return own, hits / counts.flatten(1).sum(1)
    if targets.is_floating_point():
        require_same_shape(predictions, targets)
        losses = (predictions - targets).square().flatten(1).mean(1)
        return losses, torch.full_like(losses, float("nan"))
    losses = F.cross_entropy(predictions.flatten(0, 1).float(), targets.flatten(), reduction="none")
    right = (predictions.argmax(-1) == targets).float().mean(1)
    return losses.view(targets.shape).mean(1), right


def evaluate(
    predictor: Predictor,
    source: TaskSource,
    split: Split = "test",
    n_tasks: int = 100,
    *,
    batch: int = 8,
    execution: Execution | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> Evaluation:
    """Evaluate on the first ``n_tasks`` fixed episodes of a split, ``batch`` at a time.

    Raises:
        Diverged: a loss is not finite; names the tasks.
        InputError: the split has fewer tasks.
    """
    available = source.n_tasks(split)
    if n_tasks < 1 or (available is not None and n_tasks > available):
        raise InputError(f"the {split} split has {available} tasks; {n_tasks} were requested (at least 1 is needed)")
    execution = execution or Execution()
    names: list[str] = []
    losses: dict[int, list[torch.Tensor]] = {}
    accuracies: dict[int, list[torch.Tensor]] = {}
    for start in range(0, n_tasks, batch):
        episode = source.episodes(split, range(start, min(start + batch, n_tasks))).to(device, dtype)
        names += episode.task_ids
        for part in execution.map(_Score(predictor), episode):
            for steps, (loss, accuracy) in part.items():
                losses.setdefault(steps, []).append(loss.cpu())
                accuracies.setdefault(steps, []).append(accuracy.cpu())
    inner_steps = tuple(sorted(losses))
    loss_table = torch.stack([torch.cat(losses[steps]) for steps in inner_steps], dim=1).double().numpy()
    accuracy_table = torch.stack([torch.cat(accuracies[steps]) for steps in inner_steps], dim=1).double().numpy()
    bad = ~np.isfinite(loss_table).all(axis=1)
    if bad.any():
        ids = tuple(name for name, is_bad in zip(names, bad, strict=True) if is_bad)
        raise Diverged(
            f"the {split} loss of {len(ids)} task(s) is not finite, the first is {ids[0]}", step=-1, task_ids=ids
        )
    real = episode.query.targets.is_floating_point()
    measure: Measure = getattr(predictor, "measure", "mean squared error") if real else "loss"
    return Evaluation(tuple(names), inner_steps, loss_table, accuracy_table, measure)


@dataclass(frozen=True)
class Benchmark:
    """Means over episodes with their 95 % intervals, as papers report them.

    The half width is Student's t quantile times the standard error across episodes (1.96 standard errors for many).

    Args:
        evaluation: the results of every episode.
        inner_steps: after how many inner steps.
    """

    evaluation: Evaluation
    inner_steps: int

    @property
    def n_episodes(self) -> int:
        return len(self.evaluation.task_ids)

    @property
    def accuracy(self) -> tuple[float, float]:
        """Mean and half width; NaN for regression."""
        return self._interval(self.evaluation.accuracy)

    @property
    def loss_nats(self) -> tuple[float, float]:
        """Mean and half width of the query loss (`Evaluation.measure`)."""
        return self._interval(self.evaluation.loss_nats)

    def _interval(self, values: np.ndarray) -> tuple[float, float]:
        own = values[:, self.evaluation.inner_steps.index(self.inner_steps)]
        return float(own.mean()), float(t.ppf(0.975, len(own) - 1) * own.std(ddof=1) / math.sqrt(len(own)))

    def _repr_html_(self) -> str:
        return words(str(self))

    def __str__(self) -> str:
        loss = f"{self.evaluation.measure} {self.loss_nats[0]:.4f} ± {self.loss_nats[1]:.4f}"
        accuracy = "" if math.isnan(self.accuracy[0]) else f"accuracy {self.accuracy[0]:.2%} ± {self.accuracy[1]:.2%}, "
        return f"{accuracy}{loss} (95 % interval, {self.n_episodes} episodes, {self.inner_steps} inner steps)"


def benchmark(
    predictor: Predictor,
    source: TaskSource,
    split: Split = "test",
    n_episodes: int = 600,
    *,
    batch: int = 8,
    execution: Execution | None = None,
    device: str = "cpu",
) -> Benchmark:
    """`evaluate` on many episodes, after the largest number of inner steps that the predictor takes.

    Raises:
        Diverged: a loss is not finite.
        InputError: the split has fewer episodes (a source's ``n_test_tasks``), or fewer than 2 are asked for.
    """
    if n_episodes < 2:
        raise InputError(f"an interval needs at least 2 episodes, not {n_episodes}", field="n_episodes")
    available = source.n_tasks(split)
    if available is not None and available < n_episodes:
        raise InputError(
            f"{n_episodes} episodes were asked for but the {split} split has {available}: make the source with "
            f"n_{split}_tasks={n_episodes}",
            field="n_episodes",
        )
    found = evaluate(predictor, source, split, n_episodes, batch=batch, execution=execution, device=device)
    return Benchmark(found, found.inner_steps[-1])


@dataclass(frozen=True)
class _Score:
    predictor: Predictor

    def __call__(self, part: Episode, start: int) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        return self._scored(self.predictor(part), part)

    def kind(self, part: Episode) -> object:
        return self.predictor.kind() if isinstance(self.predictor, _Adapted) else None

    def together(
        self, functions: Sequence[_Score], parts: Sequence[Episode]
    ) -> list[dict[int, tuple[torch.Tensor, torch.Tensor]]]:
        predictors = [cast(_Adapted, function.predictor) for function in functions]
        found = predictors[0].together(predictors, parts)
        return [self._scored(predictions, part) for predictions, part in zip(found, parts, strict=True)]

    def _scored(
        self, predictions: Mapping[int, torch.Tensor], part: Episode
    ) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        losses: OutputLosses | None = getattr(self.predictor, "losses", None)
        return {
            steps: score(values, part.query.targets, None if losses is None else losses(values, part.query))
            for steps, values in predictions.items()
        }
