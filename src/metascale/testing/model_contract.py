"""The contracts of a `Model` and of a language model, as checks that any of them, shipped or your own, can run through.

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
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypedDict, get_args

import numpy as np
import torch
import torch.nn.functional as F

from metascale.core import trees
from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.types import Batch, Model, Params, TaskExecution

if TYPE_CHECKING:
    from typing_extensions import Unpack

MakeBatch: TypeAlias = Callable[[int, int, int], Batch]
IGNORED = -100


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
        pretrained: ``init`` gives the same weights whatever the seed.
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
    pretrained: bool = False
    perturbation: float = 0.05

    @cached_property
    def batch(self) -> Batch:
        return self.make_batch(self.n_tasks, self.n_examples, 0).to(dtype=self.dtype)

    @cached_property
    def params(self) -> Params:
        """Different parameters for every task, near the initial ones."""
        shared = trees.to(self.model.init(0), dtype=self.dtype)
        begun = self.model.begin(trees.stack_tasks(shared, self.n_tasks), self.batch)
        return {name: value.detach() + self.perturbation * noise(name, value) for name, value in begun.items()}

    @property
    def sharp(self) -> bool:
        return self.dtype == torch.float64

    @property
    def step(self) -> float:
        """Half the distance of the points of a central difference."""
        return 1e-6 if self.sharp else 1e-2

    def check(self) -> None:
        """Run every check."""
        with generators_untouched():
            check_init(self.model, self.pretrained)
            self.check_begin()
            self.check_shapes()
            self.check_twin()
            self.check_independence()
            self.check_gradient()
            self.check_second_order()
            check_masks(lambda key: self.model.losses(self.params, self.batch, key), self.drops_out)
            self.check_threads()
            if not self.batch_statistics:
                self.check_micro_batches()

    def check_begin(self) -> None:
        """``begin`` keeps every tensor it was given, and may add some with a task axis."""
        stacked = trees.stack_tasks(trees.to(self.model.init(0), dtype=self.dtype), self.n_tasks)
        before = {name: value.clone() for name, value in stacked.items()}
        begun = self.model.begin(stacked, self.batch)
        promise(equal(stacked, before), "begin must not change its argument")
        promise(all(name in begun for name in stacked), "begin must return every parameter it was given")
        for name, value in begun.items():
            promise(value.shape[0] == self.n_tasks, f"begin returned '{name}' without the task axis")
        promise(equal(begun, self.model.begin(stacked, self.batch)), "begin must return the same values each time")

    def check_shapes(self) -> None:
        """losses [T], predictions and features [T, B, ...]; all finite."""
        losses, predictions, features = self._outputs(self.params, self.batch)
        promise(losses.shape == (self.n_tasks,), f"losses must have shape [T], not {list(losses.shape)}")
        rows = (self.n_tasks, self.n_examples)
        for name, value in (("predict", predictions), ("features", features)):
            shape = tuple(value.shape)
            promise(shape[:2] == rows and len(shape) > 2, f"{name} must have shape [T, B, ...], not {list(shape)}")
            promise(bool(torch.isfinite(value).all()), f"{name} must be finite")
        promise(bool(torch.isfinite(losses).all()), "losses must be finite")
        ways = get_args(TaskExecution)
        promise(self.model.task_execution in ways, f"task_execution must be one of {', '.join(map(repr, ways))}")

    def check_twin(self) -> None:
        """T tasks together give what T single tasks give: losses, predictions, features, gradients."""
        whole, (_, grads) = self._outputs(self.params, self.batch), self._losses_and_grads(self.params, self.batch)
        for task in range(self.n_tasks):
            params = {name: value[task : task + 1] for name, value in self.params.items()}
            batch = self.batch.tasks(task, task + 1)
            for what, all_tasks, own in zip(
                ("the loss", "predictions", "features"), whole, self._outputs(params, batch), strict=True
            ):
                self._close(all_tasks[task : task + 1], own, f"{what} of task {task}")
            for name, value in self._losses_and_grads(params, batch)[1].items():
                self._close(grads[name][task : task + 1], value, f"the gradient of '{name}' of task {task}")

    def check_independence(self) -> None:
        """The loss of a task has no gradient with respect to another task's parameters."""
        leaves = trees.require_grad(self.params)
        for task in range(self.n_tasks):
            losses = self.model.losses(leaves, self.batch)
            grads = torch.autograd.grad(losses[task], list(leaves.values()), materialize_grads=True)
            for name, grad in zip(leaves, grads, strict=True):
                others = torch.cat([grad[:task], grad[task + 1 :]])
                promise(not bool(others.any()), f"the loss of task {task} depends on '{name}' of another task")

    def check_gradient(self) -> None:
        """The gradient along a random direction is the central difference of the loss."""
        _, grads = self._losses_and_grads(self.params, self.batch)
        direction = unit_direction(self.params)
        with torch.no_grad():
            upper, lower = (
                self.model.losses(trees.add(self.params, direction, step), self.batch).sum()
                for step in (self.step, -self.step)
            )
        self._near((upper - lower) / (2 * self.step), trees.dot(grads, direction), trees.norm(grads), "the gradient")

    def check_second_order(self) -> None:
        """Unless the model refuses, its Hessian is symmetric, and the central difference of its gradient."""
        try:
            self.model.require_second_order()
        except InputError:
            return
        direction, other = unit_direction(self.params), unit_direction(self.params, "other")
        product = self._hessian_product(direction)
        size = trees.norm(product)
        mirrored = trees.dot(self._hessian_product(other), direction)
        exchanged = "with the two directions exchanged it is"
        self._near(mirrored, trees.dot(product, other), size, "the Hessian", exchanged)
        if self.sharp or self.smooth:
            upper, lower = (
                self._losses_and_grads(trees.add(self.params, direction, step), self.batch)[1]
                for step in (self.step, -self.step)
            )
            difference = trees.scale(trees.subtract(upper, lower), 1 / (2 * self.step))
            self._near(trees.dot(difference, other), trees.dot(product, other), size, "the Hessian")

    def _hessian_product(self, direction: Params) -> Params:
        leaves = trees.require_grad(self.params)
        losses = self.model.losses(leaves, self.batch)
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()), create_graph=True, materialize_grads=True)
        slope = trees.dot(dict(zip(leaves, grads, strict=True)), direction)
        product = torch.autograd.grad(slope, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, product, strict=True))

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

    def _outputs(self, params: Params, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        model = self.model
        return model.losses(params, batch), model.predict(params, batch), model.features(params, batch)

    def _losses_and_grads(self, params: Params, batch: Batch) -> tuple[torch.Tensor, Params]:
        leaves = trees.require_grad(params)
        losses = self.model.losses(leaves, batch)
        grads = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
        return losses.detach(), dict(zip(leaves, grads, strict=True))

    def _close(self, found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
        error = float((found - expected).abs().max())
        size = max(float(expected.abs().max()), 1e-3)
        promise(error <= (1e-9 if self.sharp else 1e-4) * size, f"{what} differs by {error:.3g} of {size:.3g}")

    def _near(
        self,
        reference: torch.Tensor,
        derivative: torch.Tensor,
        size: torch.Tensor,
        what: str,
        reference_is: str = "the central difference is",
    ) -> None:
        error = abs(float(reference) - float(derivative))
        promise(
            error <= (1e-6 if self.sharp else 1e-2) * max(float(size), 1e-3),
            f"{what} along a random direction is {float(derivative):.6g}, {reference_is} {float(reference):.6g}",
        )


class ContractSettings(TypedDict, total=False):
    """The fields of `ModelContract` besides the model and its batches."""

    n_tasks: int
    n_examples: int
    dtype: torch.dtype
    batch_statistics: bool
    smooth: bool
    drops_out: bool
    pretrained: bool
    perturbation: float


def check_model(model: Model, make_batch: MakeBatch, **settings: Unpack[ContractSettings]) -> None:
    """Run every check of `ModelContract` on a model; ``settings`` are its further fields."""
    ModelContract(model, make_batch, **settings).check()


class Supervised(Protocol):
    """A supervised model of one task, here a language model: it reads ``input_ids`` [B, N]."""

    def init(self, seed: int) -> Params: ...

    def objective(
        self, params: Params, batch: Batch, dropout: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]: ...

    def losses(self, params: Params, batch: Batch) -> torch.Tensor: ...

    def predict(self, params: Params, batch: Batch) -> torch.Tensor: ...


def check_language_model(
    model: Supervised, n_vocab: int, n_sequence: int = 12, *, drops_out: bool = False, causal: bool = True
) -> None:
    """Run every check of a language model, in double precision.

    Args:
        model: the model under test.
        n_vocab: its vocabulary.
        n_sequence: tokens a sequence, at least 4.
        drops_out: the model has dropout, so different ``dropout`` numbers must give different losses.
        causal: logits at position i depend on tokens 0 to i alone. Only such a model predicts next tokens.
    """
    ids = torch.randint(0, n_vocab, (3, n_sequence + 1), generator=torch_generator(0, "contract tokens"))
    targets = ids[:, 1:].clone()
    targets[0, -1] = IGNORED
    batch = Batch({"input_ids": ids[:, :-1]}, targets)
    with generators_untouched():
        check_init(model)
        # Near the initial values, so that gains and shifts are moved off one and zero too.
        initial = trees.to(model.init(0), dtype=torch.float64)
        params = {name: value + 0.05 * noise(name, value) for name, value in initial.items()}
        _check_losses(model, params, batch, n_vocab)
        check_masks(lambda key: model.objective(params, batch, key)[1], drops_out)
        _check_objective_gradient(model, params, batch)
        if causal:
            _check_causality(model, params, batch, n_vocab)


def _check_losses(model: Supervised, params: Params, batch: Batch, n_vocab: int) -> None:
    """Losses are the cross-entropy of the logits with the targets as they stand, 0 where ignored."""
    logits, losses = model.predict(params, batch), model.losses(params, batch)
    shape = (*batch.targets.shape, n_vocab)
    promise(logits.shape == shape, f"predict must have shape [B, N, V], not {list(logits.shape)}")
    expected = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none", ignore_index=IGNORED)
    loss, detached = model.objective(params, batch)
    for found, wanted, tolerance, what in (
        (losses, expected.view(batch.targets.shape), 1e-9, "losses against the logits' cross-entropy"),
        (detached, losses, 1e-12, "the objective's losses against losses()"),
    ):
        error = float((found - wanted).abs().max())
        promise(error <= tolerance, f"{what}: off by {error:.3g}")
    mean = losses.sum() / (batch.targets != IGNORED).sum()
    promise(float(loss) >= float(mean) - 1e-9, "the objective must be the mean loss plus penalties of at least 0")


def _check_objective_gradient(model: Supervised, params: Params, batch: Batch) -> None:
    """The gradient of the objective along random directions is its central difference."""
    leaves = trees.require_grad(params)
    loss, _ = model.objective(leaves, batch)
    grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    step, size = 1e-6, max(float(trees.norm(grads)), 1e-3)
    for number in range(3):
        direction = unit_direction(params, f"direction {number}")
        upper, lower = (model.objective(trees.add(params, direction, sign * step), batch)[0] for sign in (1, -1))
        found, expected = float(trees.dot(grads, direction)), float(upper - lower) / (2 * step)
        promise(
            abs(found - expected) <= 1e-6 * size,
            f"the gradient along a random direction is {found:.8g}, the central difference {expected:.8g}",
        )


def _check_causality(model: Supervised, params: Params, batch: Batch, n_vocab: int) -> None:
    """Changing token j never changes a logit before j, bit for bit, and does change one from j on."""
    ids, before = batch.inputs["input_ids"], model.predict(params, batch)
    for j in range(ids.shape[1]):
        changed = ids.clone()
        changed[:, j] = (changed[:, j] + 1) % n_vocab
        after = model.predict(params, Batch({"input_ids": changed}, batch.targets))
        moved = float((after[:, :j] - before[:, :j]).abs().max()) if j else 0.0
        promise(moved <= 1e-13, f"changing token {j} moved an earlier logit by {moved:.3g}: the model reads ahead")
        promise(not torch.equal(after[:, j:], before[:, j:]), f"token {j} influences no logit from {j} on")


def check_init(model: Model | Supervised, pretrained: bool = False) -> None:
    """The same seed gives the same bytes, another seed others (the same ones where pretrained); no history."""
    first, again, other = model.init(0), model.init(0), model.init(1)
    promise(bool(first), "init must return at least one trainable tensor")
    promise(list(first) == list(again), "init must return the same names for the same seed")
    promise(equal(first, again), "init must return the same values for the same seed")
    if pretrained:
        promise(equal(first, other), "a model said to be pretrained must start from the same values for every seed")
    else:
        promise(not equal(first, other), "init must return other values for another seed")
    promise(not any(value.requires_grad for value in first.values()), "init must return tensors without history")


def check_masks(losses: Callable[[int | None], torch.Tensor], drops_out: bool) -> None:
    """The same number gives the same masks; ``None`` gives no dropout and the same losses each time."""
    found = {key: losses(key) for key in (None, 7, 8)}
    for key, value in found.items():
        promise(torch.equal(value, losses(key)), f"losses with dropout={key} must be the same each time")
    if drops_out:
        promise(not torch.equal(found[7], found[8]), "another dropout number must give other masks")
        promise(not torch.equal(found[7], found[None]), "dropout=None must mean evaluation, without dropout")
    else:
        promise(torch.equal(found[7], found[None]), "a model said to have no dropout must ignore the number")


@contextmanager
def generators_untouched() -> Iterator[None]:
    """Fail if a global generator (torch, NumPy, random) is read or moved inside."""
    before = _generator_states()
    yield
    promise(_generator_states() == before, "a global random generator was used; draw from metascale.core.streams")


def _generator_states() -> tuple[object, ...]:
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global generator is what is being watched
    return torch.get_rng_state().numpy().tobytes(), repr(numpy_state), random.getstate()


def noise(name: str, like: torch.Tensor, purpose: str = "contract") -> torch.Tensor:
    """Standard normal numbers of the shape and type of ``like``, from a stream of their own."""
    return torch.randn(like.shape, dtype=torch.float64, generator=torch_generator(0, purpose, name)).to(like)


def unit_direction(params: Params, purpose: str = "direction") -> Params:
    """A random direction of length 1."""
    drawn = {name: noise(f"{purpose}.{name}", value) for name, value in params.items()}
    return trees.scale(drawn, 1 / float(trees.norm(drawn)))


def equal(x: Params, y: Params) -> bool:
    """The same names and the same bits."""
    return x.keys() == y.keys() and all(torch.equal(value, y[name]) for name, value in x.items())


def promise(kept: bool, sentence: str) -> None:
    """
    Raises:
        AssertionError: the promise is not kept.
    """
    if not kept:
        raise AssertionError(sentence)
