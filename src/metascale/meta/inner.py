"""The one inner loop: adaptation at training time, at test time and in every baseline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch

from metascale.core.errors import InputError
from metascale.core.streams import address
from metascale.core.trees import add, detach, scale, tree_map, zeros_like
from metascale.core.types import Batch, Model, Params
from metascale.training.optimizers import SGD, Optimizer, OptimizerState, clip_norm_per_task

RATE_PREFIX = "rate/"
"""Meta-parameters under this prefix are learnt inner rates (Meta-SGD), not parameters of the model."""


@dataclass(frozen=True, slots=True)
class InnerState:
    """T tasks after ``step`` inner steps.

    Args:
        step: inner steps taken so far.
        params: adapted parameters φ [T, ...].
        optimizer: the inner optimiser's state.
        support_losses: [T] support loss (nats) before the step that led here; ``None`` at step 0.
    """

    step: int
    params: Params
    optimizer: OptimizerState
    support_losses: torch.Tensor | None = None


@dataclass(frozen=True)
class InnerLoop:
    """K steps of an optimiser on the support loss of every task, from shared meta-parameters.

    Args:
        optimizer: the inner optimiser; its ``lr`` is the inner rate.
        steps: K, the inner steps of meta-training (evaluation may ask for others).
        clip: largest gradient norm of a task, or ``None``.
        step_rates: a factor on the rate for each step; the last one goes on for the steps beyond. Empty means 1.
        adapt: patterns (shell style) of the parameter names that adapt; the others stay at their meta-learnt value
            (ANIL, Raghu et al. 2020, is ``("head*",)``).
        batch_size: support examples a step, taken in turn; ``None`` means all of them.
        micro_batch: examples a forward pass; gradients of the parts are averaged with exact weights, so the numbers are
            those of the whole. ``None`` means one pass. Not for models with batch statistics.
        learn_rates: make one rate for every parameter element a meta-parameter (Meta-SGD, Li et al. 2017, eq. 3); it
            multiplies the step of the optimiser and starts at one.

    Raises:
        InputError: no parameter matches ``adapt``; a batch size below one.
    """

    optimizer: Optimizer = field(default_factory=lambda: SGD(lr=0.1))
    steps: int = 5
    clip: float | None = None
    step_rates: tuple[float, ...] = ()
    adapt: tuple[str, ...] = ("*",)
    batch_size: int | None = None
    micro_batch: int | None = None
    learn_rates: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"an inner loop takes 0 or more steps, not {self.steps}")
        for name in ("batch_size", "micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} of the inner loop must be at least 1, not {value}")

    def init(self, params: Params) -> Params:
        """The meta-parameters θ: the model's own, and the rates when they are learnt."""
        if not self.learn_rates:
            return params
        names = self.adapted_names(params)
        return {**params, **{f"{RATE_PREFIX}{name}": torch.ones_like(params[name]) for name in names}}

    def adapted_names(self, params: Params) -> tuple[str, ...]:
        """Names of the parameters that adapt, in order."""
        own = [name for name in params if not name.startswith(RATE_PREFIX)]
        names = tuple(name for name in own if any(fnmatchcase(name, pattern) for pattern in self.adapt))
        if not names:
            raise InputError(f"no parameter matches {list(self.adapt)}; the model has: {', '.join(own)}")
        return names

    def start(self, model: Model, theta: Params, support: Batch) -> InnerState:
        """φ₀ for stacked meta-parameters ``theta`` [T, ...]."""
        own = {name: value for name, value in theta.items() if not name.startswith(RATE_PREFIX)}
        params = model.begin(own, support)
        adapted = {name: params[name] for name in self.adapted_names(params)}
        return InnerState(0, params, self.optimizer.init(adapted))

    def advance(
        self, model: Model, theta: Params, state: InnerState, support: Batch, *, key: int | None, create_graph: bool
    ) -> InnerState:
        """One inner step; differentiable with respect to ``theta`` and ``state`` when ``create_graph``.

        Args:
            theta: stacked meta-parameters [T, ...]; only learnt rates are read from them.
            key: names the dropout masks; ``None`` means no dropout.
        """
        names = self.adapted_names(state.params)
        batch = self._minibatch(support, state.step)
        dropout = None if key is None else address(key, "inner-dropout", state.step) & (2**62 - 1)
        losses, grads = self._gradient(model, state.params, names, batch, dropout, create_graph)
        if self.clip is not None:
            grads = clip_norm_per_task(grads, self.clip)
        factor = self.step_rates[min(state.step, len(self.step_rates) - 1)] if self.step_rates else 1.0
        rates: float | Params = factor
        if self.learn_rates:
            rates = {name: factor * theta[f"{RATE_PREFIX}{name}"] for name in names}
        old = {name: state.params[name] for name in names}
        new, optimizer = self.optimizer.update(old, grads, state.optimizer, rates)
        return InnerState(state.step + 1, {**state.params, **new}, optimizer, losses.detach())

    def iterate(
        self,
        model: Model,
        theta: Params,
        support: Batch,
        *,
        steps: int | None = None,
        key: int | None = None,
        create_graph: bool = False,
    ) -> Iterator[InnerState]:
        """The states after 0, 1, ..., K steps. Without ``create_graph`` no state carries history."""
        state = self.start(model, theta if create_graph else detach(theta), support)
        yield state if create_graph else _without_history(state)
        for _ in range(self.steps if steps is None else steps):
            state = self.advance(model, theta, state, support, key=key, create_graph=create_graph)
            if not create_graph:
                state = _without_history(state)
            yield state

    def _minibatch(self, support: Batch, step: int) -> Batch:
        """The support examples of one step: a window that moves through the (already shuffled) set and wraps around."""
        size, total = self.batch_size, support.n_examples
        if size is None or size >= total:
            return support
        chosen = [(step * size + offset) % total for offset in range(size)]
        return support.map(lambda value: value[:, chosen])

    def _gradient(
        self,
        model: Model,
        params: Params,
        names: tuple[str, ...],
        batch: Batch,
        dropout: int | None,
        create_graph: bool,
    ) -> tuple[torch.Tensor, Params]:
        """Losses [T] and every task's own gradient of them, summed over exactly weighted micro-batches."""
        leaves = params
        if not create_graph:
            leaves = {n: value.detach().requires_grad_(n in names) for n, value in params.items()}
        size = self.micro_batch or batch.n_examples
        total = torch.zeros(batch.n_tasks, dtype=next(iter(params.values())).dtype, device=batch.targets.device)
        grads = zeros_like({name: params[name] for name in names})
        for number, start in enumerate(range(0, batch.n_examples, size)):
            part = batch.examples(start, min(start + size, batch.n_examples))
            weight = part.n_examples / batch.n_examples
            masks = dropout if dropout is None or number == 0 else dropout + number
            with torch.enable_grad():
                losses = model.losses(leaves, part, masks)
                pieces = torch.autograd.grad(losses.sum(), [leaves[name] for name in names], create_graph=create_graph)
            found = dict(zip(names, pieces, strict=True))
            if part.n_examples == batch.n_examples:
                return losses, found
            total = total + weight * losses
            grads = add(grads, scale(found, weight))
        return total, grads


def _without_history(state: InnerState) -> InnerState:
    optimizer = {slot: tree_map(lambda value: value.detach(), values) for slot, values in state.optimizer.items()}
    return InnerState(state.step, detach(state.params), optimizer, state.support_losses)
