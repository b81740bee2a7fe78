"""Baselines for every meta-learner: zero-shot, class prior, tuned fine-tuning, prototypes and a linear probe.

Each is a `Predictor` for the one evaluator, so all see the same fixed episodes. Free numbers (a rate, a number of
steps, a temperature) are tuned on the meta-validation tasks, never on the test tasks; a meta-learner's inner rate and
steps at test time by the same function as fine-tuning's (`choose_adaptation`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F

from metascale.core.errors import Diverged, InputError
from metascale.core.trees import stack_tasks
from metascale.core.types import Batch, Episode, Model, Params, Split, TaskSource
from metascale.meta.evaluate import Evaluation, Predictor, adapted_predictor, evaluate
from metascale.meta.inner import InnerLoop
from metascale.parallel.execution import Execution
from metascale.training.optimizers import Optimizer


@dataclass(frozen=True)
class Arena:
    """Where baselines are tuned and tested: a source, how many tasks of each split, and how they run."""

    source: TaskSource
    n_validation: int
    n_test: int
    batch: int = 8
    execution: Execution = field(default_factory=Execution)
    device: str = "cpu"

    def run(self, predictor: Predictor, split: Split) -> Evaluation:
        n_tasks = self.n_validation if split == "validation" else self.n_test
        return evaluate(
            predictor,
            self.source,
            split,
            n_tasks,
            batch=self.batch,
            execution=self.execution,
            device=self.device,
        )


Candidates: TypeAlias = tuple[Mapping[str, float | None], ...]
"""Every candidate of a choice with its validation loss (nats); a diverged candidate has ``None``."""


@dataclass(frozen=True)
class Baseline:
    """A baseline tuned on meta-validation.

    Args:
        choice: the chosen values, by name.
        inner_steps: the column of ``test`` that the choice names.
        test: the evaluation on the test tasks.
    """

    choice: Mapping[str, float]
    inner_steps: int
    table: Candidates
    test: Evaluation

    @property
    def edges(self) -> tuple[str, ...]:
        return edges(self.choice, self.table)


def zero_shot(model: Model, params: Params, arena: Arena) -> Baseline:
    """The unadapted model on the query set."""
    return Baseline({}, 0, (), arena.run(adapted_predictor(model, InnerLoop(steps=0), params, [0]), "test"))


@dataclass(frozen=True)
class Adaptation:
    """How to adapt to a test task, chosen on meta-validation.

    Args:
        inner: the inner loop of the chosen rate and number of steps.
        choice: ``inner_steps``, and ``inner_lr`` unless the rates are learnt.
    """

    inner: InnerLoop
    choice: Mapping[str, float]
    table: Candidates

    @property
    def edges(self) -> tuple[str, ...]:
        return edges(self.choice, self.table)


def choose_adaptation(
    model: Model,
    params: Params,
    arena: Arena,
    inner: InnerLoop,
    optimizer: Callable[[float], Optimizer],
    rates: Sequence[float],
    steps: Sequence[int],
) -> Adaptation:
    """The rate and number of inner steps of the lowest meta-validation loss, for parameters meta-learnt or not.

    One adaptation a rate, to the most steps, measures every number of steps; where it diverges, fewer of them. Learnt
    rates (Meta-SGD) stay as they are, and the steps alone are chosen.

    Args:
        optimizer: the inner optimiser of a given rate.

    Raises:
        InputError: every candidate diverges.
    """
    loops: dict[float | None, InnerLoop] = {rate: replace(inner, optimizer=optimizer(rate)) for rate in rates}
    if inner.learn_rates:
        loops = {None: inner}
    table = tuple(row for rate, loop in loops.items() for row in _adaptations(model, params, arena, loop, rate, steps))
    best = _best(table)
    chosen = replace(loops[best.get("inner_lr")], steps=int(best["inner_steps"]))
    return Adaptation(chosen, {name: best[name] for name in ("inner_lr", "inner_steps") if name in best}, table)


def _adaptations(
    model: Model, params: Params, arena: Arena, inner: InnerLoop, rate: float | None, steps: Sequence[int]
) -> list[Mapping[str, float | None]]:
    """The candidates of one rate."""
    wanted = sorted(set(steps))
    losses: dict[float, float] = {}
    for count in range(len(wanted), 0, -1):
        try:
            curve = arena.run(adapted_predictor(model, inner, params, wanted[:count]), "validation").curve()
        except Diverged:
            continue
        losses = {row["inner_steps"]: row["loss_nats"] for row in curve}
        break
    return [{"inner_lr": rate, "inner_steps": k, "validation_loss_nats": losses.get(k)} for k in wanted]


def edges(choice: Mapping[str, float], table: Candidates) -> tuple[str, ...]:
    """Which chosen values lie at an end of what was tried, so that others beyond might do better.

    ``("largest inner_steps", "smallest inner_lr")``; an end at 0 is none, since nothing lies beyond it, and without
    inner steps the rate has no meaning.
    """
    found = []
    for name, value in choice.items():
        tried = {other for row in table if (other := row.get(name)) is not None}
        if len(tried) > 1 and not (name == "inner_lr" and choice.get("inner_steps") == 0):
            found += [f"largest {name}"] if value == max(tried) else []
            found += [f"smallest {name}"] if value == min(tried) and value > 0 else []
    return tuple(found)


def fine_tuning(
    model: Model,
    params: Params,
    arena: Arena,
    inner: InnerLoop,
    optimizer: Callable[[float], Optimizer],
    rates: Sequence[float],
    steps: Sequence[int],
) -> Baseline:
    """Adapt every task from ``params`` without any meta-learning; rate and steps by `choose_adaptation`.

    The test curve has every candidate number of steps up to the chosen one.
    """
    inner = replace(inner, learn_rates=False)
    chosen = choose_adaptation(model, params, arena, inner, optimizer, rates, steps)
    k = chosen.inner.steps
    test = arena.run(adapted_predictor(model, chosen.inner, params, [each for each in steps if each <= k]), "test")
    return Baseline(chosen.choice, k, chosen.table, test)


def prototypes(model: Model, params: Params, arena: Arena, scales: Sequence[float] = (1, 3, 10, 30, 100)) -> Baseline:
    """Nearest class mean of the frozen model's unit-length features (Snell et al. 2017, eq. 2), no training.

    Logits are −s·‖f − mean‖²; the scale s does not move the accuracy, only the loss, and is tuned on meta-validation.
    """
    return _tuned(arena, "scale", scales, lambda scale: _Prototypes(model, params, scale))


@dataclass(frozen=True)
class _Prototypes:
    model: Model
    params: Params
    scale: float

    def __call__(self, episode: Episode) -> dict[int, torch.Tensor]:
        support, query = _frozen_features(self.model, self.params, episode)
        members = F.one_hot(episode.support.targets, _n_classes(episode)).to(support.dtype)
        if not bool(members.any(1).all()):
            raise InputError("prototypes need an example of every class in every support set")
        means = torch.einsum("tbc,tbd->tcd", members, support) / members.sum(1).unsqueeze(-1)
        return {0: -self.scale * torch.cdist(query, means).square()}


def linear_probe(
    model: Model, params: Params, arena: Arena, ridges: Sequence[float] = (0.001, 0.01, 0.1, 1.0), steps: int = 300
) -> Baseline:
    """Logistic regression on the frozen model's unit-length features; the ridge is tuned on meta-validation."""
    return _tuned(arena, "ridge", ridges, lambda ridge: _LinearProbe(model, params, ridge, steps))


@dataclass(frozen=True)
class _LinearProbe:
    model: Model
    params: Params
    ridge: float
    steps: int

    def __call__(self, episode: Episode) -> dict[int, torch.Tensor]:
        support, query = _frozen_features(self.model, self.params, episode)
        weight = _logistic_regression(support, episode.support.targets, _n_classes(episode), self.ridge, self.steps)
        return {0: _with_ones(query) @ weight}


class ClassPlan(Protocol):
    """The classes of T episodes [T][n_way], and the label that each carries [T, n_way]."""

    @property
    def task_ids(self) -> Sequence[str]: ...

    @property
    def combinations(self) -> Sequence[Sequence[int]]: ...

    @property
    def label_of_class(self) -> np.ndarray: ...


@runtime_checkable
class ClassPlans(Protocol):
    """A source whose plan says which class each label of an episode stands for."""

    def plan(self, split: Split, indices: Sequence[int]) -> ClassPlan: ...


def class_prior(source: ClassPlans, arena: Arena, n_train_episodes: int = 1000) -> Baseline:
    """A control without a support set: it knows each query's class and how often that class had each label.

    With labels permuted per episode and disjoint classes it must score chance; a higher score means that labels leak.
    (Labels that are ranks in the sorted class list give it about 50 % on five ways.)
    """
    plan = source.plan("train", range(n_train_episodes))
    n_way = plan.label_of_class.shape[1]
    counts: dict[int, np.ndarray] = {}
    for combination, labels in zip(plan.combinations, plan.label_of_class, strict=True):
        for index, label in zip(combination, labels, strict=True):
            counts.setdefault(index, np.ones(n_way))[label] += 1  # add-one smoothing: an unseen class is uniform
    losses, accuracies, names = [], [], []
    for index in range(arena.n_test):
        test = source.plan("test", [index])
        log_prior = np.stack([np.log(_normalised(counts.get(c, np.ones(n_way)))) for c in test.combinations[0]])
        # A tie between labels counts as a random choice among them would.
        best = log_prior == log_prior.max(axis=1, keepdims=True)
        right = test.label_of_class[0]
        names.append(test.task_ids[0])
        losses.append(-log_prior[np.arange(n_way), right].mean())
        accuracies.append((best[np.arange(n_way), right] / best.sum(axis=1)).mean())
    evaluation = Evaluation(tuple(names), (0,), np.array(losses)[:, None], np.array(accuracies)[:, None])
    return Baseline({"n_train_episodes": n_train_episodes}, 0, (), evaluation)


def _normalised(counts: np.ndarray) -> np.ndarray:
    normalised: np.ndarray = counts / counts.sum()
    return normalised


def _tuned(arena: Arena, field: str, values: Sequence[float], predictor: Callable[[float], Predictor]) -> Baseline:
    """The baseline whose one free number is the candidate of the lowest meta-validation loss."""

    def loss(value: float) -> float:
        return arena.run(predictor(value), "validation").at(0)["loss_nats"]

    table = tuple({field: value, "validation_loss_nats": loss(value)} for value in values)
    best = _best(table)[field]
    return Baseline({field: best}, 0, table, arena.run(predictor(best), "test"))


def _best(table: Candidates) -> dict[str, float]:
    known = [{name: value for name, value in row.items() if value is not None} for row in table]
    finite = [row for row in known if "validation_loss_nats" in row]
    if not finite:
        rates = sorted({row["inner_lr"] for row in known if "inner_lr" in row})
        raise InputError(f"every candidate diverged on the meta-validation tasks; give inner rates below {rates}")
    return min(finite, key=lambda row: row["validation_loss_nats"])


def _n_classes(episode: Episode) -> int:
    return int(max(batch.targets.max() for batch in (episode.support, episode.query))) + 1


def _frozen_features(model: Model, params: Params, episode: Episode) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit-length features [T, B, d] of support and query under the unadapted parameters."""

    def features(batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            return F.normalize(model.features(stack_tasks(params, episode.n_tasks), batch).float(), dim=-1)

    return features(episode.support), features(episode.query)


def _with_ones(features: torch.Tensor) -> torch.Tensor:
    return F.pad(features, (0, 1), value=1.0)


def _logistic_regression(
    features: torch.Tensor, targets: torch.Tensor, n_classes: int, ridge: float, steps: int
) -> torch.Tensor:
    """Weights [T, d + 1, classes] (the last row is the bias) of ridge-penalised softmax regression on [T, B, d].

    Accelerated gradient descent with constant momentum (Nesterov 2018, section 2.2.1): with unit-length features and a
    column of ones the mean cross-entropy is 1-smooth, and the penalty ridge/2 · ‖W‖² makes it ridge-convex.
    """
    inputs = _with_ones(features)
    wanted = F.one_hot(targets, n_classes).to(inputs.dtype)
    root = ((1 + ridge) / ridge) ** 0.5
    momentum = (root - 1) / (root + 1)
    weight = ahead = inputs.new_zeros(inputs.shape[0], inputs.shape[2], n_classes)
    for _ in range(steps):
        residual = torch.softmax(inputs @ ahead, dim=-1) - wanted
        gradient = inputs.transpose(1, 2) @ residual / inputs.shape[1] + ridge * ahead
        new = ahead - gradient / (1 + ridge)
        ahead = new + momentum * (new - weight)
        weight = new
    return weight
