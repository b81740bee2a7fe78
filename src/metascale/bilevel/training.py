"""Bilevel training: a `Trainable` whose step is some lower steps and one upper step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import torch

from metascale.bilevel.adaptation import LastStep, adaptation, check_adaptable, closed_form
from metascale.bilevel.distributed import Processes, check_wrapped
from metascale.bilevel.levels import Levels, Pass, split_buffers
from metascale.bilevel.updates import clipped, differentiable_step, update_in_turn
from metascale.core.dropout import dropout_key
from metascale.core.errors import Diverged, InputError
from metascale.core.trees import norm, require_grad, tree_map
from metascale.core.types import Params
from metascale.hypergrad.implicit import Implicit
from metascale.hypergrad.problem import (
    BilevelProblem,
    Hypergradient,
    HypergradientSolver,
    Loss,
    LowerStep,
    gradients,
    scalar,
)
from metascale.hypergrad.sama import SAMA
from metascale.hypergrad.second import SecondDerivatives
from metascale.hypergrad.unrolled import Unrolled
from metascale.training.optimizers import Adam, Optimizer, OptimizerState, refuse_overwriting
from metascale.training.schedules import RateSchedule
from metascale.training.state import pack, unpack_optimizer, unpack_params


@dataclass(frozen=True)
class BilevelState:
    """After ``step`` upper steps: both levels and their optimisers. A training step empties its dictionaries.

    ``buffers`` are those of the lower module by their names, and those of the upper one after ``upper:``.
    """

    step: int
    lower: Params
    buffers: Params
    upper: Params
    lower_optimizer: OptimizerState
    upper_optimizer: OptimizerState

    def held_apart(self) -> BilevelState:
        """The same tensors, the lower level's in dictionaries that a step does not empty."""
        own = _copied(self.lower_optimizer)
        return replace(self, lower=dict(self.lower), buffers=dict(self.buffers), lower_optimizer=own)

    def pack(self) -> Params:
        levels = {"lower": self.lower, "buffers": self.buffers, "upper": self.upper}
        return pack(levels, {"lower_optimizer": self.lower_optimizer, "upper_optimizer": self.upper_optimizer})

    def with_lower(self, change: Callable[[Params], Params]) -> BilevelState:
        """``change`` applied to θ and to every slot of its optimiser."""
        optimizer = {slot: change(values) for slot, values in self.lower_optimizer.items()}
        return replace(self, lower=change(self.lower), lower_optimizer=optimizer)

    def unpack(self, tensors: Params) -> BilevelState:
        """What `pack` made of a state with the names and devices of this one."""
        return BilevelState(
            self.step,
            unpack_params(tensors, "lower", self.lower),
            unpack_params(tensors, "buffers", self.buffers),
            unpack_params(tensors, "upper", self.upper),
            unpack_optimizer(tensors, "lower_optimizer", self.lower_optimizer),
            unpack_optimizer(tensors, "upper_optimizer", self.upper_optimizer),
        )


def _copied(state: OptimizerState) -> OptimizerState:
    return {slot: dict(values) for slot, values in state.items()}


def _check_finite(row: Mapping[str, float | None], k: int) -> None:
    for name, value in row.items():
        if value is not None and name != "solver_residual" and not math.isfinite(value):
            raise Diverged(f"{name} is {value} at step {k}", step=k)


Batches: TypeAlias = Callable[[int], Any]
"""Batch number n, a function of n alone."""
Evaluate: TypeAlias = Callable[[Params, Params, Params], Mapping[str, float]]
"""(θ, buffers, λ) -> numbers, ``validation_loss_nats`` among them."""


@dataclass(frozen=True, eq=False)
class BilevelTraining:
    """A `training.loop.Trainable`: ``unroll_steps`` lower steps, then one upper step by the hypergradient.

    Lower step n trains on lower batches n·a … n·a + a − 1, a = ``lower_accumulation``; upper step k likewise. The mixed
    derivative is taken on the last lower step's batches, with its dropout masks.

    Args:
        lower_batches, upper_batches: batch number -> batch; the same number, the same bytes.
        method: how the hypergradient is estimated.
        unroll_steps: lower steps for each upper step.
        evaluate: validation; a row of the evaluation record.
        lower_accumulation, upper_accumulation: micro-batches whose mean is one loss.
        lower_max_norm, upper_max_norm: clip gradients to this norm.
        roll_back: after the upper step θ returns to the start of the lower steps, which are repeated with the new λ.
        lower_schedule, upper_schedule: factors of the learning rates, by the number of the lower or upper step.
        accumulate_by: the weight of a micro-batch, such as its tokens or examples: a step's loss is then the weighted
            mean of its micro-batches' losses, the mean over all tokens where each loss is one over its own.
        learn_upper: apply the hypergradient; otherwise λ stays and only what a method does to θ remains.
        warmup: first steps of lower training alone.
        autocast: run lower steps and the upper pass under autocast in this type. The perturbed passes of finite
            differences run in full precision, because autocast rounds by more than the perturbation.
        upper_dropout: run the upper pass in training mode, as published code does. By default it is in evaluation mode:
            the upper loss measures θ as it will be used, masks would only add noise to v, and without them the pass
            stores so little that SAMA's peak is that of a plain step. Batch normalisation then reads its running
            statistics; for a network trained from scratch set ``warmup``, so that they are estimated first.
        seed: of the dropout masks.
    """

    levels: Levels
    lower_batches: Batches
    upper_batches: Batches
    method: HypergradientSolver = field(default_factory=SAMA)
    lower_optimizer: Optimizer = field(default_factory=lambda: Adam(1e-3))
    upper_optimizer: Optimizer = field(default_factory=lambda: Adam(1e-3))
    unroll_steps: int = 1
    evaluate: Evaluate | None = None
    lower_accumulation: int = 1
    upper_accumulation: int = 1
    lower_max_norm: float | None = None
    upper_max_norm: float | None = None
    lower_schedule: RateSchedule | None = None
    upper_schedule: RateSchedule | None = None
    accumulate_by: Callable[[Any], float | torch.Tensor] | None = None
    roll_back: bool = False
    learn_upper: bool = True
    warmup: int = 0
    autocast: torch.dtype | None = None
    upper_dropout: bool = False
    seed: int = 0
    processes: Processes = field(default_factory=Processes)

    def __post_init__(self) -> None:
        for name in ("unroll_steps", "lower_accumulation", "upper_accumulation"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}", field=name)
        for name in ("lower_batches", "upper_batches"):
            if not callable(getattr(self, name)):
                raise InputError(
                    f"{name} must be a function from a batch's number to the batch, such as Shuffled(...) or "
                    f"Loaded(DataLoader(...)), not a {type(getattr(self, name)).__name__}",
                    field=name,
                )
        for name in ("lower_schedule", "upper_schedule"):
            schedule = getattr(self, name)
            if schedule is not None and not callable(schedule):
                raise InputError(
                    f"{name} must be a function from a step's number to a factor of the rate, such as "
                    f"metascale.training.Cosine(...), not a {type(schedule).__name__}",
                    field=name,
                )
        if isinstance(self.method, (str, type)) or not hasattr(self.method, "remembers"):
            raise InputError(f"method must be an instance such as SAMA(), not {self.method!r}", field="method")
        if self.autocast is torch.float16:
            raise InputError(
                "autocast in float16 needs loss scaling, which would scale the hypergradient: use bfloat16",
                field="autocast",
            )
        self._refuse_combinations()
        for name in ("lower_optimizer", "upper_optimizer"):
            refuse_overwriting(getattr(self, name), f"{name} of bilevel training")
        if self.method.adapts:
            check_adaptable(self.lower_optimizer)
        self.processes.check(self.lower_accumulation, self.upper_accumulation)
        check_wrapped(self.levels, self.processes, self.lower_optimizer, self.method)

    def _refuse_combinations(self) -> None:
        """Of a method with the lower steps that it will see, or with an effect that ``roll_back`` undoes."""
        method, steps = self.method, self.unroll_steps
        if method.remembers > steps:
            raise InputError(
                f"the method differentiates {method.remembers} lower steps, more than the {steps} of unroll_steps"
            )
        if isinstance(method, Unrolled) and 0 < method.remembers < steps and not method.truncated:
            raise InputError(
                f"Unrolled(steps={method.remembers}) sees a part of the {steps} lower steps of unroll_steps; set "
                "truncated=True to differentiate the last ones alone"
            )
        if self.roll_back and isinstance(method, SAMA) and method.multitask:
            raise InputError("roll_back undoes the move of θ that multitask=True makes; choose one of them")

    def init(self) -> BilevelState:
        start = self.levels.start()
        given = {slot: _copied(state) for slot, state in start.optimizers.items()}
        lower = given.get("lower") or self.lower_optimizer.init(start.lower)
        upper = given.get("upper") or self.upper_optimizer.init(start.upper)
        return BilevelState(0, dict(start.lower), dict(start.buffers), dict(start.upper), lower, upper)

    def step(self, state: BilevelState, k: int) -> tuple[BilevelState, Mapping[str, float | None]]:
        """``unroll_steps`` lower steps and one upper step; the dictionaries of ``state`` are emptied.

        Raises:
            Diverged: a loss or the hypergradient is not finite.
        """
        learns = k >= self.warmup
        start = state.held_apart() if self.roll_back and learns else None
        state, window, row = self._lower_steps(state, k, learns)
        if not learns:
            self._mirror(state)
            return replace(state, step=k + 1), row | self._upper_row(None)
        found = self.method(self._problem(state, k, window), state.lower, state.upper)
        if found.lower is not None:
            state = replace(state, lower=found.lower)
        row |= self._upper_row(found)
        _check_finite(row, k)
        if start is not None:
            state = replace(start, upper=state.upper, upper_optimizer=state.upper_optimizer)
        if self.learn_upper:
            value, _ = clipped(found.value, self.upper_max_norm)
            rate = 1.0 if self.upper_schedule is None else self.upper_schedule(k)
            upper, optimizer = self.upper_optimizer.update(state.upper, value, state.upper_optimizer, rate)
            state = replace(state, upper=upper, upper_optimizer=optimizer)
        if start is not None:
            state, _, again = self._lower_steps(state, k, learns)
            row |= again
        self._mirror(state)
        return replace(state, step=k + 1), row

    def _mirror(self, state: BilevelState) -> None:
        lower, upper = split_buffers(state.buffers)
        self.levels.mirror("lower", state.lower | lower)
        self.levels.mirror("upper", state.upper | upper)

    def _lower_steps(
        self, state: BilevelState, k: int, learns: bool
    ) -> tuple[BilevelState, _Window, dict[str, float | None]]:
        window = _Window()
        losses = []
        for i in range(self.unroll_steps):
            last = i == self.unroll_steps - 1
            state, loss, window = self._lower_step(state, k * self.unroll_steps + i, window, learns and last, learns)
            losses.append(loss)
        row: dict[str, float | None] = {"lower_loss_nats": float(self.processes.mean_loss(torch.stack(losses).mean()))}
        _check_finite(row, k)
        return state, window, row

    def _lower_step(
        self, state: BilevelState, n: int, window: _Window, last: bool, learns: bool
    ) -> tuple[BilevelState, torch.Tensor, _Window]:
        """Lower step number n; the window keeps what the hypergradient needs of it."""
        batches = self.processes.share(self.lower_batches, n, self.lower_accumulation)
        statistics = _Statistics(state.buffers)
        losses = self._bind("lower", batches, statistics, moving=True)
        unused: set[str] = set()
        loss, grads, _ = gradients(losses, state.lower, state.upper, of_upper=False, unused=unused)
        unused = self.processes.unused(unused, grads)
        rate = 1.0 if self.lower_schedule is None else self.lower_schedule(n)
        grads = grads if self.levels.reduced else self.processes.average(grads)
        grads, size = clipped(grads, self.lower_max_norm, self.levels.total)
        if learns and self.method.remembers:
            frozen = self._bind("lower", batches, _Statistics(state.buffers))
            advance = differentiable_step(self.lower_optimizer, frozen, self.lower_max_norm, rate)
            kept = self.unroll_steps if self.method.remembers < 0 else self.method.remembers
            history = (*window.history, LowerStep(dict(state.lower), _copied(state.lower_optimizer), advance))[-kept:]
            window = replace(window, history=history)
        adapts = last and self.method.adapts
        before = adapts and not closed_form(self.lower_optimizer)
        given = LastStep(
            dict(grads) if adapts else {},
            {},
            dict(state.lower) if before else None,
            _copied(state.lower_optimizer) if before else None,
            size,
            self.lower_max_norm,
            self.levels.total,
            rate,
        )
        lower, optimizer = update_in_turn(
            self.lower_optimizer,
            state.lower,
            grads,
            state.lower_optimizer,
            lambda tensors: self.levels.mirror("lower", tensors),
            rate,
            unused,
        )
        window = replace(window, last=replace(given, after=optimizer), batches=batches, held=statistics.held)
        buffers = self.processes.agree(statistics.buffers)
        return replace(state, lower=lower, lower_optimizer=optimizer, buffers=buffers), loss, window

    def _problem(self, state: BilevelState, k: int, window: _Window) -> BilevelProblem:
        statistics = _Statistics(state.buffers)
        batches = self.processes.share(self.upper_batches, k, self.upper_accumulation)
        return BilevelProblem(
            self._bind("lower", window.batches, statistics),
            self._bind("upper", batches, statistics),
            adaptation(self.lower_optimizer, window.last) if self.method.adapts and window.last else None,
            window.history,
            self._bind("lower", window.batches, _Statistics(state.buffers, window.held), perturbed=True),
            self.processes.reducer(state.upper),
            None if self.levels.shards else self.processes.average_lower,
            self.levels.total,
        )

    def _bind(
        self,
        level: Literal["lower", "upper"],
        batches: list[tuple[int, Any]],
        statistics: _Statistics,
        moving: bool = False,
        perturbed: bool = False,
    ) -> tuple[Loss, ...]:
        """The losses of numbered micro-batches with their dropout masks, as functions of (θ, λ).

        ``moving`` passes leave their buffers and held values in the statistics; ``perturbed`` ones see the held values
        again and run in full precision.
        """
        loss = self.levels.lower_loss if level == "lower" else self.levels.upper_loss
        masks = level == "lower" or self.upper_dropout
        shares = self._shares(batches)

        def bound(number: int, batch: Any, share: float) -> Loss:
            key = dropout_key(self.seed, f"{level}-dropout", number) if masks else None

            def call(theta: Params, lam: Params) -> torch.Tensor:
                context = Pass(key, statistics.buffers, replay=statistics.held.get(number) if perturbed else None)
                with self._precision(theta, not perturbed):
                    value = loss(theta, lam, batch, context)
                if moving:
                    statistics.buffers = context.updated or statistics.buffers
                    statistics.held[number] = context.held
                return value if share == 1.0 else value * share

            return call

        return tuple(bound(number, batch, share) for (number, batch), share in zip(batches, shares, strict=True))

    def _shares(self, batches: list[tuple[int, Any]]) -> list[float]:
        """What each micro-batch's loss counts in the mean over all of them: 1 where they weigh the same."""
        if self.accumulate_by is None:
            return [1.0] * len(batches)
        weights = [float(self.accumulate_by(batch)) for _, batch in batches]
        total = float(self.processes.mean_loss(torch.tensor(sum(weights), dtype=torch.float64)))
        if not (math.isfinite(total) and total > 0 and min(weights) >= 0):
            raise InputError(
                f"accumulate_by must give weights of at least 0 that do not all vanish, not {weights}",
                field="accumulate_by",
            )
        return [len(weights) * weight / total for weight in weights]

    def _precision(self, theta: Params, autocast: bool) -> Any:
        if self.autocast is None or not autocast:
            return nullcontext()
        device = next(iter(theta.values())).device.type
        return torch.autocast(device, self.autocast)

    def _upper_row(self, found: Hypergradient | None) -> dict[str, float | None]:
        """The same names at every step; ``None`` where there was no upper step or no residual."""
        if found is None:
            return {"upper_loss_nats": None, "hypergradient_norm": None, "solver_residual": None}
        loss = self.processes.mean_loss(found.upper_loss)
        residual = None if found.residual is None else float(found.residual.max())
        return {
            "upper_loss_nats": float(loss),
            "hypergradient_norm": float(norm(found.value)),
            "solver_residual": residual,
        }

    def validate(self, state: BilevelState) -> Mapping[str, float]:
        """The row of ``evaluate``; without it the upper loss in evaluation mode on upper batch 0."""
        with torch.no_grad():
            if self.evaluate is not None:
                return self.evaluate(state.lower, state.buffers, state.upper)
            context = Pass(None, state.buffers)
            loss = self.levels.upper_loss(state.lower, state.upper, self.upper_batches(0), context)
        return {"validation_loss_nats": float(loss)}

    def pack(self, state: BilevelState) -> Params:
        shards = self.levels.shards
        return (state.with_lower(shards.whole) if shards else state).pack()

    def unpack(self, tensors: Params, k: int) -> BilevelState:
        start = self.levels.start()
        lower, upper = self.lower_optimizer.init(start.lower), self.upper_optimizer.init(start.upper)
        state = BilevelState(k, start.lower, start.buffers, start.upper, lower, upper).unpack(tensors)
        state = state.with_lower(self.levels.shards.part) if self.levels.shards else state
        self._mirror(state)
        return state


@dataclass(frozen=True)
class _Window:
    """What an upper step needs of the lower steps before it."""

    history: tuple[LowerStep, ...] = ()
    last: LastStep | None = None
    batches: list[tuple[int, Any]] = field(default_factory=list)
    held: dict[int, list[torch.Tensor]] = field(default_factory=dict)


@dataclass
class _Statistics:
    """The buffers that passes start from, and what the training pass held, by micro-batch."""

    buffers: Params
    held: dict[int, list[torch.Tensor]] = field(default_factory=dict)


def check(training: BilevelTraining) -> None:
    """Run both losses once, and a second derivative where the method needs one, before a training starts.

    Raises:
        InputError: a loss is not one number, an upper parameter never enters the lower loss, the upper loss does not
            depend on the lower parameters, or the lower loss lacks the second derivatives that the method needs.
    """
    start = training.levels.start()
    theta, lam = require_grad(start.lower), require_grad(start.upper)
    batch, key = training.lower_batches(0), 0
    lower = training.levels.lower_loss(theta, lam, batch, Pass(key, start.buffers))
    scalar(lower, "the lower loss")
    inputs = [*theta.values(), *lam.values()]
    if not lower.requires_grad:
        raise InputError("the lower loss depends on neither the lower nor the upper parameters")
    found = torch.autograd.grad(lower, inputs, allow_unused=True)
    if all(g is None for g in found[: len(theta)]):
        raise InputError("the lower loss does not depend on the lower parameters")
    untouched = [name for name, g in zip(lam, found[len(theta) :], strict=True) if g is None]
    if untouched:
        raise InputError(
            f"the lower loss never touches the upper parameter{'s' * (len(untouched) > 1)} "
            f"{', '.join(map(repr, untouched[:5]))}{' and others' if len(untouched) > 5 else ''}, so they have no "
            "hypergradient; use them in the lower loss or set requires_grad=False"
        )
    upper = scalar(
        training.levels.upper_loss(theta, lam, training.upper_batches(0), Pass(key, start.buffers)), "the upper loss"
    )
    reached = torch.autograd.grad(upper, list(theta.values()), allow_unused=True) if upper.requires_grad else [None]
    if all(g is None for g in reached):
        raise InputError("the upper loss does not depend on the lower parameters, so there is nothing to learn from it")
    if isinstance(training.method, Implicit | Unrolled):
        second = SecondDerivatives(
            [lambda t, u: training.levels.lower_loss(t, u, batch, Pass(key, start.buffers))], start.lower, start.upper
        )
        second.hessian(tree_map(torch.ones_like, start.lower))
