"""The contract of a `MetaGradient`: checks that any estimator, shipped or your own, can be run through.

    check_meta_gradient(lambda rate, steps: MyEstimator(InnerLoop(SGD(rate), steps)))

The factory makes the estimator for an inner rate and a number of inner steps. Each check raises `AssertionError` with
one sentence that says what was promised and what was found.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import torch

from metascale.core import trees
from metascale.core.types import Episode, Model, Params
from metascale.testing.model_contract import equal, generators_untouched, promise, unit_direction
from metascale.testing.subjects import QuadraticModel, SmoothClassifier, quadratic_episode

if TYPE_CHECKING:
    from metascale.meta.gradients import EpisodeReport, MetaGradient

EstimatorFactory: TypeAlias = "Callable[[float, int], MetaGradient]"
Factor: TypeAlias = Callable[[float, int], float]
Result: TypeAlias = "tuple[Params, EpisodeReport]"

CASES = ((0.3, 1), (0.3, 4), (0.05, 7))
"""Inner rates and numbers of steps at which closed forms are checked."""


@dataclass(frozen=True)
class MetaGradientContract:
    """What to check.

    Args:
        factory: (inner rate, inner steps) to the estimator; the inner loop must be plain SGD of that rate.
        factor: (rate, steps) to the number f of the closed form f · mean(θ − c) on quadratic tasks, where it is known:
            (1−a)^{2K} for MAML, (1−a)^K for first-order MAML, 1−(1−a)^K for Reptile.
        exact: the estimator claims the true derivative of the mean adapted query loss; checked by differences.
        uses_dropout: ``key`` names the masks of the inner loop and of the query loss; ``False`` for an estimator that
            never drops out.
        model: the model of the other checks, smooth and in float64; default a small perceptron with dropout.
        episode: its tasks, at least 3; default random ones.
    """

    factory: EstimatorFactory
    factor: Factor | None = None
    exact: bool = False
    uses_dropout: bool = True
    model: Model | None = None
    episode: Episode | None = None

    @cached_property
    def subject(self) -> Model:
        return self.model or SmoothClassifier()

    @cached_property
    def tasks(self) -> Episode:
        return self.episode or SmoothClassifier().episode(5)

    @cached_property
    def estimator(self) -> MetaGradient:
        return self.factory(0.2, 3)

    @cached_property
    def theta(self) -> Params:
        return self.estimator.inner.init(self.subject.init(0))

    def check(self) -> None:
        """Run every check."""
        with generators_untouched():
            self.check_result()
            self.check_purity()
            self.check_direction()
            self.check_closed_form()
            self.check_derivative()
            self.check_keys()
            self.check_chunks()

    def _call(self, tasks: Episode, key: int | None = None) -> Result:
        return self.estimator(self.subject, self.theta, tasks, key)

    def check_result(self) -> None:
        """A finite tensor for every meta-parameter, without history, and one loss a task in the report."""
        grads, report = self._call(self.tasks, key=1)
        names, wanted = sorted(grads), sorted(self.theta)
        promise(names == wanted, f"the meta-gradient must name {wanted}, not {names}")
        for name, value in self.theta.items():
            found = grads[name]
            got, like = (f"{tensor.dtype} {list(tensor.shape)}" for tensor in (found, value))
            promise(got == like, f"the meta-gradient of '{name}' is {got}, not {like}")
            promise(not found.requires_grad, f"the meta-gradient of '{name}' must carry no history")
        promise(trees.is_finite(grads), "the meta-gradient must be finite")
        promise(report.task_ids == self.tasks.task_ids, "the report must name the tasks in order")
        for name in ("support_loss_start", "support_loss_end", "query_loss"):
            losses = getattr(report, name)
            if losses is None and name == "query_loss":
                continue
            shape = tuple(losses.shape)
            promise(shape == (self.tasks.n_tasks,), f"{name} of the report must have shape [T], not {list(shape)}")
            promise(not losses.requires_grad, f"{name} of the report must carry no history")
            promise(bool(torch.isfinite(losses).all()), f"{name} of the report must be finite")

    def check_direction(self) -> None:
        """The result is a gradient, to be descended: on quadratic tasks it points from the centres to θ."""
        found, expected = self._on_quadratics(0.3, 3)
        cosine = float(found @ expected / (found.norm() * expected.norm()).clamp_min(1e-300))
        promise(
            cosine > 0.5,
            f"on tasks ½‖θ − c‖² the meta-gradient must point along mean(θ − c), but the cosine is {cosine:.3g}",
        )

    def check_closed_form(self) -> None:
        """On quadratic tasks the result is ``factor`` times mean(θ − c)."""
        if self.factor is None:
            return
        for rate, steps in CASES:
            found, displacement = self._on_quadratics(rate, steps)
            expected = self.factor(rate, steps) * displacement
            error = float((found - expected).norm() / displacement.norm())
            promise(
                error < 1e-10,
                f"at rate {rate} and {steps} steps the meta-gradient of ½‖θ − c‖² is off by {error:.3g} of ‖θ − c‖ "
                f"from {self.factor(rate, steps):.6g} (θ − c)",
            )

    def _on_quadratics(self, rate: float, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The estimate and mean(θ − c)."""
        model, estimator = QuadraticModel(4), self.factory(rate, steps)
        episode = quadratic_episode(3, 4)
        theta = estimator.inner.init(model.init(1))
        grads, _ = estimator(model, theta, episode, 0)
        return grads["theta"], theta["theta"] - episode.query.targets[:, 0].mean(0)

    def check_derivative(self) -> None:
        """An exact estimate is the central difference of the mean adapted query loss, also for learnt rates."""
        if not self.exact:
            return
        grads, _ = self._call(self.tasks)
        step = 1e-6
        for rates in (False, True):
            own = {name: value for name, value in self.theta.items() if name.startswith("rate/") == rates}
            if not own:
                continue
            direction = unit_direction(own)
            upper, lower = (self._adapted_query_loss(direction, sign * step) for sign in (1, -1))
            difference, slope = (upper - lower) / (2 * step), float(trees.dot(direction, grads))
            size = max(float(trees.norm({name: grads[name] for name in own})), 1e-3)
            promise(
                abs(difference - slope) < 1e-6 * size,
                f"the meta-gradient of {'the learnt rates' if rates else 'the parameters'} along a random direction is "
                f"{slope:.8g}, the central difference of the adapted query loss {difference:.8g}",
            )

    def _adapted_query_loss(self, direction: Params, step: float) -> float:
        moved = {**self.theta, **{n: self.theta[n] + step * value for n, value in direction.items()}}
        stacked = trees.stack_tasks(moved, self.tasks.n_tasks)
        *_, last = self.estimator.inner.iterate(self.subject, stacked, self.tasks.support)
        return float(self.subject.losses(last.params, self.tasks.query).mean())

    def check_purity(self) -> None:
        """The same arguments give the same bits; θ and the episode are left alone."""
        before = {name: value.clone() for name, value in self.theta.items()}
        inputs = {name: value.clone() for name, value in _tensors(self.tasks).items()}
        first, again = self._call(self.tasks, key=1), self._call(self.tasks, key=1)
        promise(equal(before, self.theta), "the estimator must not change θ")
        clean = not any(value.requires_grad or value.grad is not None for value in self.theta.values())
        promise(clean, "the estimator must not make θ collect gradients")
        promise(equal(inputs, _tensors(self.tasks)), "the estimator must not change the episode")
        promise(equal(first[0], again[0]), "the same arguments must give the same meta-gradient, bit for bit")
        promise(equal(_losses(first[1]), _losses(again[1])), "the same arguments must give the same report")

    def check_keys(self) -> None:
        """``key`` names the dropout masks: another key, other masks; ``None``, no dropout."""
        if self.model is not None:
            return
        (one, first), (two, second), (none, _) = (self._call(self.tasks, key) for key in (1, 2, None))
        if self.uses_dropout:
            promise(not equal(one, two), "another key must give other dropout masks")
            promise(not equal(one, none), "key=None must mean no dropout")
            same = torch.equal(first.support_loss_end, second.support_loss_end)
            promise(not same, "the key must reach the inner loop: the support losses do not depend on it")
        else:
            promise(equal(one, two) and equal(one, none), "an estimator said to use no dropout must ignore the key")

    def check_chunks(self) -> None:
        """Single tasks, and uneven chunks weighted by their tasks, give the whole; so do chunks on threads."""
        self._check_parts(1, "single tasks")
        self._check_parts(2, "chunks of 2 tasks")
        chunks = self._parts(2)
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(self._call, chunks))
        for (grads, _), (expected, _) in zip(found, map(self._call, chunks), strict=True):
            promise(_close(grads, expected), "chunks on two threads must give what they give one after another")

    def _parts(self, size: int) -> list[Episode]:
        n_tasks = self.tasks.n_tasks
        return [self.tasks.tasks(start, min(start + size, n_tasks)) for start in range(0, n_tasks, size)]

    def _check_parts(self, size: int, what: str) -> None:
        whole, report = self._call(self.tasks)
        results = [self._call(part) for part in self._parts(size)]
        total = trees.zeros_like(whole)
        for grads, part in results:
            total = trees.add(total, grads, len(part.task_ids) / self.tasks.n_tasks)
        promise(_close(total, whole), f"the meta-gradient must be the mean over tasks: {what} give another one")
        joined = trees.concat_tasks([_losses(part) for _, part in results])
        promise(_close(joined, _losses(report)), f"the report must not depend on the other tasks: {what} give another")


def check_meta_gradient(
    factory: EstimatorFactory,
    factor: Factor | None = None,
    *,
    exact: bool = False,
    uses_dropout: bool = True,
    model: Model | None = None,
    episode: Episode | None = None,
) -> None:
    """Run every check of `MetaGradientContract`, where the arguments are explained."""
    MetaGradientContract(factory, factor, exact, uses_dropout, model, episode).check()


def _losses(report: EpisodeReport) -> Params:
    named = {name: getattr(report, name) for name in ("support_loss_start", "support_loss_end", "query_loss")}
    return {name: value for name, value in named.items() if value is not None}


def _tensors(episode: Episode) -> Params:
    found = {}
    for name, batch in (("support", episode.support), ("query", episode.query)):
        found[f"{name}.targets"] = batch.targets
        found |= {f"{name}.{key}": value for key, value in batch.inputs.items()}
    return found


def _close(x: Params, y: Params) -> bool:
    return x.keys() == y.keys() and all(
        torch.allclose(value, y[name], rtol=1e-9, atol=1e-12) for name, value in x.items()
    )
