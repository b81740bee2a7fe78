"""A model's loss on one batch as weighted micro-batches: what gradients and curvature are taken of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal, cast

import torch

from metascale.core.dropout import dropout_key
from metascale.core.errors import InputError
from metascale.core.trees import detach, tree_map
from metascale.core.types import Batch, Model, OutputModel, Params
from metascale.hypergrad.curvature import Curvature, LossPart, keeps_graph, loss_and_gradient
from metascale.meta.meta_curvature import identities, turned
from metascale.training.optimizers import (
    SGD,
    Optimizer,
    OptimizerState,
    TaskRates,
    clip_norm_per_task,
    has_own_rate,
    refuse_mixing,
    refuse_overwriting,
)


def loss_parts(model: Model, batch: Batch, micro_batch: int | None, dropout: int | None) -> tuple[LossPart, ...]:
    """The mean loss of each task on ``batch``, in parts of at most ``micro_batch`` examples with exact weights.

    Args:
        micro_batch: examples a forward pass; ``None`` means all of them.
        dropout: names the masks, which are those of the whole batch in every part.

    Raises:
        InputError: micro-batches of a model with batch statistics, whose loss they would change.
    """
    size = micro_batch or batch.n_examples
    if size >= batch.n_examples:
        return (_part(model, batch, 1.0, dropout),)
    if getattr(model, "batch_statistics", False):
        raise InputError(
            f"micro_batch={size} would change the loss of a model with batch statistics ({type(model).__name__}); "
            "leave it out"
        )
    whole = batch.numbered()
    starts = range(0, batch.n_examples, size)
    cut = [whole.examples(start, min(start + size, batch.n_examples)) for start in starts]
    return tuple(_part(model, part, part.n_examples / batch.n_examples, dropout) for part in cut)


def product_parts(
    curvature: Curvature, model: Model, batch: Batch, micro_batch: int | None, dropout: int | None
) -> tuple[LossPart, ...]:
    """`loss_parts` for products with a curvature.

    Where the batch is cut, a product that keeps the graph of a gradient takes half as many examples at a time, so that
    the memory stays that of a gradient of ``micro_batch`` examples.
    """
    if micro_batch is not None and micro_batch < batch.n_examples and keeps_graph(curvature):
        micro_batch = max(1, micro_batch // 2)
    return loss_parts(model, batch, micro_batch, dropout)


def _part(model: Model, batch: Batch, weight: float, dropout: int | None) -> LossPart:
    has_outputs = hasattr(model, "output_losses")
    outputs_model = cast(OutputModel, model)

    def losses(params: Params) -> torch.Tensor:
        return model.losses(params, batch, dropout)

    def outputs(params: Params) -> torch.Tensor:
        return outputs_model.predict(params, batch, dropout)

    def output_losses(values: torch.Tensor) -> torch.Tensor:
        return outputs_model.output_losses(values, batch)

    def example_losses(params: Params) -> torch.Tensor:
        """Every example as a task of its own: as many numbers in the same order, so the dropout masks stay."""
        return model.losses(params, batch.map(lambda value: value.flatten(0, 1).unsqueeze(1)), dropout)

    return LossPart(
        losses,
        weight,
        outputs if has_outputs else None,
        output_losses if has_outputs else None,
        None if getattr(model, "batch_statistics", False) else example_losses,
        batch.n_examples,
    )


def at_step(model: Model, step: int) -> Model:
    """The model as inner step ``step`` (from 0) sees it: one with parameters for each step offers ``at_step(step)``."""
    found: Model = model.at_step(step) if hasattr(model, "at_step") else model
    return found


def after(model: Model, steps: int) -> Model:
    """The model as its predictions after ``steps`` inner steps see it: like the last of them (as MAML++ has it)."""
    return at_step(model, max(steps - 1, 0))


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
        gradient: each task's gradient of that loss, as the step took it, before clipping; ``None`` at step 0.
        anchor: the parameters that a proximal term draws towards (φ₀); ``None`` without one.
    """

    step: int
    params: Params
    optimizer: OptimizerState
    support_losses: torch.Tensor | None = None
    gradient: Params | None = None
    anchor: Params | None = None


@dataclass(frozen=True)
class InnerLoop:
    """K steps of an optimiser on the support loss of every task, from shared meta-parameters.

    Args:
        optimizer: the inner optimiser; its ``lr`` is the inner rate.
        steps: K, the inner steps of meta-training (evaluation may ask for others).
        clip: largest gradient norm of a task, or ``None``.
        step_rates: a factor on the rate for each step; the last one also holds for later steps. Empty means 1.
        adapt: patterns (shell style) of the parameter names that adapt; the others stay at their meta-learnt value
            (ANIL, Raghu et al. 2020, is ``("head*",)``).
        batch_size: support examples a step, taken in turn; ``None`` means all of them.
        micro_batch: examples a forward pass, here and for query losses, and half as many in Hessian products;
            gradients of the parts are averaged with exact weights, so the numbers are those of the whole, dropout
            masks included. ``None`` means one pass. Not for models with batch statistics.
        keep_gradients: a reverse sweep keeps the gradients of so many inner steps at a time, and one state for each
            such group of steps; those of earlier groups are computed again, at one gradient more a step. So the memory
            grows with K / keep_gradients + keep_gradients instead of K. ``None`` keeps all.
        proximal: strength λ of the term λ/2 · ‖φ − φ₀‖² added to the loss of every task (Rajeswaran et al. 2019,
            eq. 3). Reported losses are without it.
        learn_rates: make one rate for every parameter element a meta-parameter (Meta-SGD, Li et al. 2017, eq. 3); it
            multiplies the step of the optimiser and starts at one.
        rates_by: learnt rates are one an ``"element"``, or one a tensor and inner ``"step"`` (MAML++, Antoniou et al.
            2019, section 4), of which the last also holds for later steps; or matrices along every ``"mode"`` of a
            tensor, which turn its gradient before the optimiser's step (`meta.meta_curvature`).

    Raises:
        InputError: no parameter matches ``adapt``; a batch size below one; a negative proximal strength or clip; an
            optimiser that overwrites what it is given or mixes tasks.
    """

    optimizer: Optimizer = field(default_factory=lambda: SGD(lr=0.1))
    steps: int = 5
    clip: float | None = None
    step_rates: tuple[float, ...] = ()
    adapt: tuple[str, ...] = ("*",)
    batch_size: int | None = None
    micro_batch: int | None = None
    keep_gradients: int | None = None
    learn_rates: bool = False
    rates_by: Literal["element", "step", "mode"] = "element"
    proximal: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"an inner loop takes 0 or more steps, not {self.steps}", field="steps")
        if self.proximal < 0:
            raise InputError(f"proximal of the inner loop must be 0 or more, not {self.proximal}", field="proximal")
        if self.clip is not None and self.clip <= 0:
            raise InputError(f"clip of the inner loop must be positive, not {self.clip}", field="clip")
        refuse_overwriting(self.optimizer, "an inner loop")
        refuse_mixing(self.optimizer)
        for name in ("batch_size", "micro_batch", "keep_gradients"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} of the inner loop must be at least 1, not {value}", field=name)

    def init(self, params: Params) -> Params:
        """The meta-parameters θ: the model's own, and the rates when they are learnt."""
        if not self.learn_rates:
            return params
        if self.rates_by == "step" and self.steps < 1:
            raise InputError("rates of single inner steps need at least one inner step", field="rates_by")
        rates: Params = {}
        for name in self.adapted_names(params):
            if self.rates_by == "mode":
                rates |= {f"{name}/mode{mode}": matrix for mode, matrix in enumerate(identities(params[name]))}
            else:
                rates[name] = params[name].new_ones(self.steps if self.rates_by == "step" else params[name].shape)
        return {**params, **{f"{RATE_PREFIX}{name}": rate for name, rate in rates.items()}}

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
        return self.start_from(model.begin(own, support))

    def start_from(self, params: Params) -> InnerState:
        """φ₀ from the tensors that a model's ``begin`` gave."""
        # Views, because one may be computed from another (a head from prototypes) and still no inner gradient is taken
        # through that.
        params = {name: value.view_as(value) if value.requires_grad else value for name, value in params.items()}
        adapted = {name: params[name] for name in self.adapted_names(params)}
        return InnerState(0, params, self.optimizer.init(adapted), anchor=adapted if self.proximal else None)

    def objective(
        self, model: Model, support: Batch, step: int, key: int | None, curvature: Curvature | None = None
    ) -> tuple[LossPart, ...]:
        """The loss of inner step ``step`` in micro-batches; in those for products with ``curvature`` where given."""
        dropout = None if key is None else dropout_key(key, "inner-dropout", step)
        seen, batch = at_step(model, step), self._minibatch(support, step)
        if curvature is None:
            return loss_parts(seen, batch, self.micro_batch, dropout)
        return product_parts(curvature, seen, batch, self.micro_batch, dropout)

    def update(self, theta: Params, state: InnerState, losses: torch.Tensor, grads: Params) -> InnerState:
        """One step along ``grads``: proximal term, clipping, optimiser. Differentiable in all its inputs.

        Args:
            theta: stacked meta-parameters [T, ...]; only learnt rates are read from them.
        """
        old = {name: state.params[name] for name in grads}
        steps = grads
        if state.anchor is not None:
            steps = tree_map(lambda g, p, a: g + self.proximal * (p - a), grads, old, state.anchor)
        if self.clip is not None:
            steps = clip_norm_per_task(steps, self.clip)
        factor = self.step_rates[min(state.step, len(self.step_rates) - 1)] if self.step_rates else 1.0
        rates: float | Params = factor
        if self.learn_rates and self.rates_by == "mode":
            steps = {name: _turned(theta, name, value) for name, value in steps.items()}
        elif self.learn_rates:
            one = losses.new_ones(())  # of a head made afresh for every task, which has no rate to learn
            learnt = {name: theta.get(f"{RATE_PREFIX}{name}", one) for name in grads}
            if self.rates_by == "step":
                learnt = {name: _of_step(rate, state.step, grads[name].ndim) for name, rate in learnt.items()}
            rates = {name: factor * rate for name, rate in learnt.items()}
        new, optimizer = self.optimizer.update(old, steps, state.optimizer, rates)
        return InnerState(
            state.step + 1, {**state.params, **new}, optimizer, losses.detach(), detach(grads), state.anchor
        )

    def advance(
        self, model: Model, theta: Params, state: InnerState, support: Batch, *, key: int | None, create_graph: bool
    ) -> InnerState:
        """One inner step; differentiable with respect to ``theta`` and ``state`` when ``create_graph``.

        Args:
            theta: stacked meta-parameters [T, ...]; only learnt rates are read from them.
            key: names the dropout masks; ``None`` means no dropout.
        """
        parts = self.objective(model, support, state.step, key)
        names = self.adapted_names(state.params)
        losses, grads = loss_and_gradient(parts, state.params, names, create_graph=create_graph)
        return self.update(theta, state, losses, grads)

    def iterate(
        self,
        model: Model,
        theta: Params,
        support: Batch,
        *,
        steps: int | None = None,
        key: int | None = None,
        create_graph: bool = False,
        start: InnerState | None = None,
    ) -> Iterator[InnerState]:
        """The states after 0, 1, ..., K steps. Without ``create_graph`` no state carries history.

        Args:
            start: the state after 0 steps; ``None``: from ``model.begin``.
        """
        source = theta if create_graph else detach(theta)
        state = self.start(model, source, support) if start is None else start
        yield state if create_graph else without_history(state)
        for _ in range(self.steps if steps is None else steps):
            state = self.advance(model, source, state, support, key=key, create_graph=create_graph)
            if not create_graph:
                state = without_history(state)
            yield state

    def _minibatch(self, support: Batch, step: int) -> Batch:
        """The support examples of one step: a window that moves through the (already shuffled) set and wraps around."""
        size, total = self.batch_size, support.n_examples
        if size is None or size >= total:
            return support
        chosen = [(step * size + offset) % total for offset in range(size)]
        return support.map(lambda value: value[:, chosen])


def _turned(theta: Params, name: str, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient by the learnt matrices of its parameter; as it is for a head made afresh, which has none."""
    own = [theta[key] for mode in range(3) if (key := f"{RATE_PREFIX}{name}/mode{mode}") in theta]
    return turned(gradient, own) if own else gradient


def joins_tasks(model: Model) -> bool:
    """Whether the model computes every task's numbers from that task alone, so that trials may share a call."""
    return bool(getattr(model, "joins_tasks", False))


def kind_of(inner: InnerLoop) -> InnerLoop | None:
    """What two inner loops have to have in common for their tasks to run in one loop: all but the rate.

    ``None``: this one runs by itself. So does one that clips or has learnt matrices, since the last bit of a norm or of
    a product of other shapes may depend on how many tasks there are.
    """
    turns = inner.learn_rates and inner.rates_by == "mode"
    if inner.clip is not None or turns or not has_own_rate(inner.optimizer):
        return None
    return replace(inner, optimizer=replace(inner.optimizer, lr=1.0))


def join_loops(loops: Sequence[InnerLoop], counts: Sequence[int]) -> InnerLoop:
    """One loop for the tasks of all ``loops``, each at its own rate; they are of one kind."""
    optimizers = [loop.optimizer for loop in loops if has_own_rate(loop.optimizer)]
    rates = [optimizer.lr for optimizer in optimizers]
    if len(set(rates)) == 1:
        return loops[0]
    values = torch.tensor(rates, dtype=torch.float64).repeat_interleave(torch.tensor(list(counts)))
    return replace(loops[0], optimizer=TaskRates(optimizers[0], values))


def _of_step(rates: torch.Tensor, step: int, ndim: int) -> torch.Tensor:
    """The rates [T, 1, ...] of one inner step from those of all [T, K]; a single number stays."""
    if rates.ndim == 0:
        return rates
    return rates[:, min(step, rates.shape[1] - 1)].view(-1, *[1] * (ndim - 1))


def without_history(state: InnerState) -> InnerState:
    """The same numbers, from which no gradient flows back."""
    optimizer = {slot: tree_map(lambda value: value.detach(), values) for slot, values in state.optimizer.items()}
    return replace(
        state,
        params=detach(state.params),
        optimizer=optimizer,
        anchor=None if state.anchor is None else detach(state.anchor),
    )
