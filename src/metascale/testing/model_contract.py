"""The contract of a `Model`: checks that any model, shipped or your own, can be run through.

Each check raises `AssertionError` with one sentence that says what was promised and what was found.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np
import torch

from metascale.core import trees
from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.types import Batch, Model, Params, TaskExecution

MakeBatch = Callable[[int, int, int], Batch]


@dataclass(frozen=True)
class ModelContract:
    """What to check, and how closely.

    Args:
        model: the model under test.
        make_batch: a batch from (n_tasks, n_examples, seed); with at least ``n_examples`` examples every class must be
            there if the model builds its head from the support set.
        n_tasks: T, at least 2.
        n_examples: B, at least 3.
        dtype: type of parameters and real inputs; float64 gives the sharp checks of derivatives.
        batch_statistics: the model normalises by the batch at hand, so a batch cannot be cut into micro-batches.
        smooth: no ReLU or max-pooling, so that the Hessian can be checked by differences in float32 too, where the
            step is so large that it would cross their kinks.
        drops_out: the model has dropout, so different ``dropout`` numbers must give different losses.
        perturbation: size of the random displacement from ``init`` at which the checks are made (LoRA's B starts at 0).
    """

    model: Model
    make_batch: MakeBatch
    n_tasks: int = 3
    n_examples: int = 5
    dtype: torch.dtype = torch.float32
    batch_statistics: bool = False
    smooth: bool = False
    drops_out: bool = False
    perturbation: float = 0.05

    @cached_property
    def batch(self) -> Batch:
        return self.make_batch(self.n_tasks, self.n_examples, 0).to(dtype=self.dtype)

    @cached_property
    def params(self) -> Params:
        """Different parameters for every task, near the initial ones."""
        shared = trees.to(self.model.init(0), dtype=self.dtype)
        begun = self.model.begin(trees.stack_tasks(shared, self.n_tasks), self.batch)
        return {name: value.detach() + self.perturbation * self._noise(name, value) for name, value in begun.items()}

    def _noise(self, name: str, like: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(like.shape, dtype=torch.float64, generator=torch_generator(0, "contract", name))
        return noise.to(like)

    @property
    def sharp(self) -> bool:
        return self.dtype == torch.float64

    @property
    def tolerance(self) -> float:
        return 1e-9 if self.sharp else 1e-4

    @property
    def step(self) -> float:
        """Half the distance of the points of a central difference."""
        return 1e-6 if self.sharp else 1e-2

    def check(self) -> None:
        """Run every check."""
        with generators_untouched():
            self.check_init()
            self.check_begin()
            self.check_shapes()
            self.check_twin()
            self.check_independence()
            self.check_gradient()
            self.check_second_order()
            self.check_dropout()
            self.check_threads()
            if not self.batch_statistics:
                self.check_micro_batches()

    def check_init(self) -> None:
        """The same seed gives the same bytes, another seed others."""
        first, again, other = self.model.init(0), self.model.init(0), self.model.init(1)
        _promise(bool(first), "init must return at least one trainable tensor")
        _promise(list(first) == list(again), "init must return the same names for the same seed")
        _promise(_equal(first, again), "init must return the same values for the same seed")
        _promise(not _equal(first, other), "init must return other values for another seed")
        _promise(not any(value.requires_grad for value in first.values()), "init must return tensors without history")

    def check_begin(self) -> None:
        """``begin`` keeps every tensor it was given, and may add some with a task axis."""
        stacked = trees.stack_tasks(trees.to(self.model.init(0), dtype=self.dtype), self.n_tasks)
        before = {name: value.clone() for name, value in stacked.items()}
        begun = self.model.begin(stacked, self.batch)
        _promise(_equal(stacked, before), "begin must not change its argument")
        _promise(all(name in begun for name in stacked), "begin must return every parameter it was given")
        for name, value in begun.items():
            _promise(value.shape[0] == self.n_tasks, f"begin returned '{name}' without the task axis")
        _promise(_equal(begun, self.model.begin(stacked, self.batch)), "begin must return the same values each time")

    def check_shapes(self) -> None:
        """losses [T], predictions and features [T, B, ...]; all finite."""
        losses = self.model.losses(self.params, self.batch)
        _promise(losses.shape == (self.n_tasks,), f"losses must have shape [T], not {list(losses.shape)}")
        rows = (self.n_tasks, self.n_examples)
        for name, value in (("predict", self._predict()), ("features", self.model.features(self.params, self.batch))):
            shape = tuple(value.shape)
            _promise(shape[:2] == rows and len(shape) > 2, f"{name} must have shape [T, B, ...], not {list(shape)}")
            _promise(bool(torch.isfinite(value).all()), f"{name} must be finite")
        _promise(bool(torch.isfinite(losses).all()), "losses must be finite")
        ways = get_args(TaskExecution)
        _promise(self.model.task_execution in ways, f"task_execution must be one of {', '.join(map(repr, ways))}")

    def _predict(self) -> torch.Tensor:
        return self.model.predict(self.params, self.batch)

    def check_twin(self) -> None:
        """T tasks together give what T single tasks give: losses, predictions, features, gradients."""
        losses, grads = self._losses_and_grads(self.params, self.batch)
        predictions, features = self._predict(), self.model.features(self.params, self.batch)
        for task in range(self.n_tasks):
            params = {name: value[task : task + 1] for name, value in self.params.items()}
            batch = self.batch.tasks(task, task + 1)
            loss, grad = self._losses_and_grads(params, batch)
            self._close(losses[task : task + 1], loss, f"the loss of task {task}")
            self._close(predictions[task : task + 1], self.model.predict(params, batch), f"predictions of task {task}")
            self._close(features[task : task + 1], self.model.features(params, batch), f"features of task {task}")
            for name, value in grad.items():
                self._close(grads[name][task : task + 1], value, f"the gradient of '{name}' of task {task}")

    def check_independence(self) -> None:
        """The loss of a task has no gradient with respect to another task's parameters."""
        leaves = trees.require_grad(self.params)
        for task in range(self.n_tasks):
            losses = self.model.losses(leaves, self.batch)
            grads = torch.autograd.grad(losses[task], list(leaves.values()), materialize_grads=True)
            for name, grad in zip(leaves, grads, strict=True):
                others = torch.cat([grad[:task], grad[task + 1 :]])
                _promise(not bool(others.any()), f"the loss of task {task} depends on '{name}' of another task")

    def check_gradient(self) -> None:
        """The gradient along a random direction is the central difference of the loss."""
        _, grads = self._losses_and_grads(self.params, self.batch)
        direction = self._direction()
        with torch.no_grad():
            upper = self.model.losses(trees.add(self.params, direction, self.step), self.batch).sum()
            lower = self.model.losses(trees.add(self.params, direction, -self.step), self.batch).sum()
        self._near((upper - lower) / (2 * self.step), trees.dot(grads, direction), trees.norm(grads), "the gradient")

    def check_second_order(self) -> None:
        """Unless the model refuses, its Hessian is symmetric, and the central difference of its gradient."""
        try:
            self.model.require_second_order()
        except InputError:
            return
        direction, other = self._direction(), self._direction("other")
        product = self._hessian_product(direction)
        self._near(
            trees.dot(self._hessian_product(other), direction),
            trees.dot(product, other),
            trees.norm(product),
            "the Hessian",
            "with the two directions exchanged it is",
        )
        if self.sharp or self.smooth:
            _, upper = self._losses_and_grads(trees.add(self.params, direction, self.step), self.batch)
            _, lower = self._losses_and_grads(trees.add(self.params, direction, -self.step), self.batch)
            difference = trees.scale(trees.subtract(upper, lower), 1 / (2 * self.step))
            self._near(trees.dot(difference, other), trees.dot(product, other), trees.norm(product), "the Hessian")

    def _hessian_product(self, direction: Params) -> Params:
        leaves = trees.require_grad(self.params)
        losses = self.model.losses(leaves, self.batch)
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()), create_graph=True, materialize_grads=True)
        slope = trees.dot(dict(zip(leaves, grads, strict=True)), direction)
        product = torch.autograd.grad(slope, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, product, strict=True))

    def check_dropout(self) -> None:
        """The same number gives the same masks; ``None`` gives no dropout and the same loss each time."""
        losses = {key: self.model.losses(self.params, self.batch, key) for key in (None, 7, 8)}
        for key, value in losses.items():
            again = self.model.losses(self.params, self.batch, key)
            _promise(torch.equal(value, again), f"losses with dropout={key} must be the same each time")
        if self.drops_out:
            _promise(not torch.equal(losses[7], losses[8]), "another dropout number must give other masks")
            _promise(not torch.equal(losses[7], losses[None]), "dropout=None must mean evaluation, without dropout")
        else:
            _promise(torch.equal(losses[7], losses[None]), "a model said to have no dropout must ignore the number")

    def check_threads(self) -> None:
        """Calls from several threads at once, each with its own parameters, do not disturb one another."""
        points = [trees.scale(self.params, 1 + 0.1 * index) for index in range(6)]
        expected = [self._losses_and_grads(point, self.batch) for point in points]
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda point: self._losses_and_grads(point, self.batch), points))
        for (losses, grads), (losses_again, grads_again) in zip(expected, found, strict=True):
            self._close(losses_again, losses, "a loss computed beside other threads")
            for name, value in grads.items():
                self._close(grads_again[name], value, f"the gradient of '{name}' computed beside other threads")

    def check_micro_batches(self) -> None:
        """The mean over micro-batches, weighted by their sizes, is the loss of the whole batch, dropout included."""
        cuts = [0, 1, self.n_examples // 2 + 1, self.n_examples]
        parts = [(start, stop) for start, stop in itertools.pairwise(cuts) if stop > start]
        batch = self.batch.numbered()
        for key, masks in ((None, ""), (7, " under dropout")):
            found = [self.model.losses(self.params, batch.examples(*part), key) for part in parts]
            mean = sum(loss * (stop - start) for loss, (start, stop) in zip(found, parts, strict=True))
            whole = self.model.losses(self.params, batch, key)
            self._close(torch.as_tensor(mean) / self.n_examples, whole, f"the weighted mean over micro-batches{masks}")

    def _losses_and_grads(self, params: Params, batch: Batch) -> tuple[torch.Tensor, Params]:
        leaves = trees.require_grad(params)
        losses = self.model.losses(leaves, batch)
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
        return losses.detach(), dict(zip(leaves, grads, strict=True))

    def _direction(self, purpose: str = "direction") -> Params:
        noise = {name: self._noise(f"{purpose}.{name}", value) for name, value in self.params.items()}
        return trees.scale(noise, 1 / float(trees.norm(noise)))

    def _close(self, found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
        error = float((found - expected).abs().max())
        size = max(float(expected.abs().max()), 1e-3)
        _promise(error <= self.tolerance * size, f"{what} differs by {error:.3g} of {size:.3g}")

    def _near(
        self,
        reference: torch.Tensor,
        derivative: torch.Tensor,
        size: torch.Tensor,
        what: str,
        reference_is: str = "the central difference is",
    ) -> None:
        error = abs(float(reference) - float(derivative))
        allowed = (1e-6 if self.sharp else 1e-2) * max(float(size), 1e-3)
        _promise(
            error <= allowed,
            f"{what} along a random direction is {float(derivative):.6g}, {reference_is} {float(reference):.6g}",
        )


def check_model(model: Model, make_batch: MakeBatch, **settings: object) -> None:
    """Run every check of `ModelContract` on a model; ``settings`` are its further fields."""
    ModelContract(model, make_batch, **settings).check()  # type: ignore[arg-type]


@contextmanager
def generators_untouched() -> Iterator[None]:
    """Fail if a global generator (torch, NumPy, random) is read or moved inside."""
    before = _generator_states()
    yield
    _promise(_generator_states() == before, "a global random generator was used; draw from metascale.core.streams")


def _generator_states() -> tuple[object, ...]:
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global generator is what is being watched
    return torch.get_rng_state().numpy().tobytes(), repr(numpy_state), random.getstate()


def _equal(x: Params, y: Params) -> bool:
    return all(torch.equal(value, y[name]) for name, value in x.items())


def _promise(kept: bool, sentence: str) -> None:
    if not kept:
        raise AssertionError(sentence)
