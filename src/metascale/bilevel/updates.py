"""Lower steps: clipping, an update that holds one new tensor at a time, and the step as a differentiable function."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch

from metascale.core.trees import add, tree_map
from metascale.core.types import Params
from metascale.hypergrad.problem import Advance, Loss, Total, alone, scalar
from metascale.hypergrad.second import pieces
from metascale.training.optimizers import Adam, Optimizer, OptimizerState, clip_norm, fused_adamw


def update_in_turn(
    optimizer: Optimizer,
    params: Params,
    grads: Params,
    state: OptimizerState,
    placed: Callable[[Params], None] = lambda tensors: None,
    rate: float = 1.0,
    unused: Collection[str] = (),
) -> tuple[Params, OptimizerState]:
    """The optimiser's update, tensor by tensor, emptying the given dictionaries.

    An old tensor is freed as its successor appears, unless someone else holds it: memory peaks one tensor above the
    parameters, where updating all at once would hold everything twice. ``placed`` is called with each new tensor. No
    optimiser here mixes tensors, so the numbers are the same. ``rate`` multiplies the step. Parameters named in
    ``unused``, which no loss depends on, stay as they are with their state, as in torch: no decay, no momentum.
    """
    new: Params = {}
    after: OptimizerState = {slot: {} for slot in state}
    count = state.get("count")
    for name in list(params):
        moving = {slot: values for slot, values in state.items() if slot != "count"}
        own = {slot: {name: values.pop(name)} if name in values else {} for slot, values in moving.items()}
        if name in unused:
            new[name] = params.pop(name)
            for slot, values in own.items():
                after[slot] |= values
            continue
        if count is not None:
            own["count"] = dict(count)
        one, one_state = _update(optimizer, {name: params.pop(name)}, {name: grads.pop(name)}, own, rate)
        new |= one
        placed(one)
        for slot, values in one_state.items():
            after[slot] |= values
    return new, after


def _update(
    optimizer: Optimizer, params: Params, grads: Params, state: OptimizerState, rate: float
) -> tuple[Params, OptimizerState]:
    """The optimiser's update; Adam's, which is not differentiated here, in torch's fused kernel on fresh copies."""
    if type(optimizer) is not Adam:
        return optimizer.update(params, grads, state, rate)
    new = tree_map(torch.clone, params)
    m, v = tree_map(torch.clone, state["m"]), tree_map(torch.clone, state["v"])
    count = state["count"]["count"]
    moments = list(m.values()), list(v.values())
    fused_adamw(
        list(new.values()),
        list(grads.values()),
        *moments,
        count,
        optimizer,
        lr=optimizer.lr * rate,
        weight_decay=optimizer.weight_decay,
    )
    return new, {"m": m, "v": v, "count": {"count": count + 1}}


def clipped(grads: Params, max_norm: float | None, total: Total = alone) -> tuple[Params, float | None]:
    """Gradients clipped to ``max_norm``, and their norm before (``None`` without clipping).

    ``total`` sums a number over the processes that hold parts of the gradients.
    """
    if max_norm is None:
        return grads, None
    norm = total(torch.stack([g.square().sum() for g in grads.values()]).sum()).sqrt()
    return (tree_map(lambda g: g * (max_norm / norm), grads) if norm > max_norm else grads), float(norm)


def differentiable_step(
    optimizer: Optimizer, losses: tuple[Loss, ...], max_norm: float | None, rate: float = 1.0
) -> Advance:
    """The lower step as a differentiable function of θ, the optimiser's state and λ; ``rate`` multiplies it."""

    def advance(params: Params, state: OptimizerState, upper: Params) -> tuple[Params, OptimizerState]:
        theta = tree_map(lambda a: a if a.requires_grad else a.detach().requires_grad_(True), params)
        total: Params | None = None
        for loss in losses:
            value = scalar(loss(theta, upper), "the lower loss")
            found = torch.autograd.grad(value, list(theta.values()), create_graph=True, allow_unused=True)
            grads = pieces(found, theta)
            total = grads if total is None else add(total, grads)
        assert total is not None
        mean = tree_map(lambda g: g / len(losses), total) if len(losses) > 1 else total
        return optimizer.update(theta, mean if max_norm is None else clip_norm(mean, max_norm), state, rate)

    return advance
