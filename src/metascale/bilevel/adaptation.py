"""SAMA's adaptation: the derivative of the last lower step with respect to its gradient, by optimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metascale.core.errors import InputError
from metascale.core.trees import scale, tree_map
from metascale.core.types import Params
from metascale.hypergrad.precondition import (
    adagrad_derivative,
    adam_derivative,
    clip_vjp,
    multiply,
    rmsprop_derivative,
    step_vjp,
)
from metascale.hypergrad.problem import Total, alone
from metascale.training.optimizers import SGD, Adagrad, Adam, Lion, Optimizer, OptimizerState, RMSprop


@dataclass(frozen=True)
class LastStep:
    """What the derivative of the last lower step needs.

    Args:
        grads: the gradient that the optimiser was given (clipped).
        after: the optimiser's state after the step.
        params, before: θ and the state before the step, for optimisers that are not element-wise.
        rate: what multiplied the step.
        norm, max_norm: the gradient's norm before clipping, and the bound; ``None`` without clipping.
        total: sums a number over the processes that hold parts of θ.
    """

    grads: Params
    after: OptimizerState
    params: Params | None = None
    before: OptimizerState | None = None
    norm: float | None = None
    max_norm: float | None = None
    total: Total = alone
    rate: float = 1.0


def closed_form(optimizer: Optimizer) -> bool:
    """Whether D is diagonal and known in closed form, so that nothing from before the step is needed."""
    return isinstance(optimizer, SGD | Adam | RMSprop | Adagrad)


def check_adaptable(optimizer: Optimizer) -> None:
    """Raise `InputError` for a lower optimiser whose step has no useful derivative: Lion's, which is a sign."""
    if isinstance(optimizer, Lion) and not optimizer.softness:
        raise InputError(
            "Lion's step is a sign, whose derivative is zero, so adaptation would erase the hypergradient: give it a "
            "softness above 0, or use SAMA(adapt=False)",
            field="lower_optimizer",
        )


def adaptation(optimizer: Optimizer, last: LastStep) -> Callable[[Params], Params]:
    """w -> (∂u/∂g)ᵀ w of the step that ``last`` records.

    Raises:
        InputError: the step has no useful derivative, or ``last`` lacks what a non-element-wise optimiser needs.
    """
    check_adaptable(optimizer)

    def apply(w: Params) -> Params:
        product = _product(optimizer, last, w)
        if last.rate != 1.0:
            product = scale(product, last.rate)
        if last.norm is None or last.max_norm is None:
            return product
        return clip_vjp(last.grads, last.norm, last.max_norm, product, last.total)

    return apply


def _product(optimizer: Optimizer, last: LastStep, w: Params) -> Params:
    if isinstance(optimizer, SGD):
        return scale(w, optimizer.lr * (1 + optimizer.momentum if optimizer.nesterov else 1.0))
    if closed_form(optimizer):
        return multiply(elementwise_derivative(optimizer, last), w)
    if last.params is None or last.before is None:
        raise InputError(f"the derivative of {type(optimizer).__name__} needs θ and its state from before the step")
    params, before = last.params, last.before
    return step_vjp(lambda g: optimizer.update(params, g, before)[0], last.grads, w)


def elementwise_derivative(optimizer: Optimizer, last: LastStep) -> Params:
    """The diagonal of ∂u/∂g for Adam(W), RMSprop and Adagrad.

    Raises:
        InputError: another optimiser.
    """
    g, state = last.grads, last.after
    if isinstance(optimizer, Adam):
        betas, count = (optimizer.beta1, optimizer.beta2), float(state["count"]["count"])
        return tree_map(
            lambda d, m, s: adam_derivative(d, m, s, count=count, lr=optimizer.lr, betas=betas, eps=optimizer.eps),
            g,
            state["m"],
            state["v"],
        )
    if isinstance(optimizer, RMSprop):
        lr, decay, eps = optimizer.lr, optimizer.decay, optimizer.eps
        return tree_map(lambda d, s: rmsprop_derivative(d, s, lr=lr, decay=decay, eps=eps), g, state["v"])
    if isinstance(optimizer, Adagrad):
        rate, eps = optimizer.rate(float(state["count"]["count"])), optimizer.eps
        return tree_map(lambda d, s: adagrad_derivative(d, s, rate=rate, eps=eps), g, state["v"])
    raise InputError(f"the step of {type(optimizer).__name__} is not element-wise")
