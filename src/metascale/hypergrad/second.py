"""Second derivatives of a lower loss: Hessian products, and mixed products (∂²ℓ/∂λ∂θ) x, exact or by difference."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch

from metascale.core.errors import InputError
from metascale.core.trees import add, dot, require_grad, tree_map
from metascale.core.types import Params
from metascale.hypergrad.problem import Loss, Reducer, Total, alone, gradients, scalar

Mixed: TypeAlias = Literal["finite_difference", "exact"]
MIXED: tuple[Mixed, ...] = ("finite_difference", "exact")

_LINEAR = (
    "the lower loss has no second derivative with respect to the lower parameters (it is linear in them, or one of its "
    "operations is differentiable once only): use SAMA, or a loss that has one"
)


@contextmanager
def second_order(what: str) -> Iterator[None]:
    """Turn torch's error about a missing second or forward-mode derivative into an `InputError`."""
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        text = str(error)
        signs = ("is not implemented", "not yet implemented", "does not support", "twice differentiable")
        if not any(sign in text for sign in signs):
            raise
        raise InputError(
            f"{what} needs second derivatives that the lower loss lacks ({text.splitlines()[0][:160]}): load the "
            "model with attn_implementation='eager', or use a method based on finite differences"
        ) from error


def pieces(found: Sequence[torch.Tensor | None], like: Params) -> Params:
    """Gradients by name, zero where a tensor was not used."""
    return {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(like.items(), found, strict=True)}


class SecondDerivatives:
    """Products with ∂²ℓ/∂θ² and ∂²ℓ/∂λ∂θ at one point, by differentiating the gradient's graph.

    With one micro-batch the graph is built once and kept for all products; with several it is built anew for each.
    """

    def __init__(self, losses: Sequence[Loss], lower: Params, upper: Params) -> None:
        self._losses = losses
        self._lower, self._upper = require_grad(lower), require_grad(upper)
        self._kept = self._gradient(losses[0]) if len(losses) == 1 else None

    def _gradient(self, loss: Loss) -> Params:
        with second_order("the method"):
            value = scalar(loss(self._lower, self._upper), "the lower loss")
            found = torch.autograd.grad(value, list(self._lower.values()), create_graph=True, allow_unused=True)
        gradient = pieces(found, self._lower)
        if not any(g.requires_grad for g in gradient.values()):
            raise InputError(_LINEAR)
        return gradient

    def _product(self, x: Params, towards: Params) -> Params | None:
        """The mean over micro-batches, or ``None`` when no gradient depends on ``towards``."""
        total: Params | None = None
        for loss in self._losses:
            gradient = self._gradient(loss) if self._kept is None else self._kept
            used = {name: g for name, g in gradient.items() if g.requires_grad}
            with second_order("the method"):
                found = torch.autograd.grad(
                    list(used.values()),
                    list(towards.values()),
                    [x[name].to(g.dtype) for name, g in used.items()],
                    retain_graph=self._kept is not None,
                    allow_unused=True,
                )
            if any(part is not None for part in found):
                product = pieces(found, towards)
                total = product if total is None else add(total, product)
        return None if total is None else tree_map(lambda a: a / len(self._losses), total)

    def hessian(self, x: Params) -> Params:
        """(∂²ℓ/∂θ²) x.

        Raises:
            InputError: the lower loss is linear in θ, or an operation of its own hides its second derivative.
        """
        product = self._product(x, self._lower)
        if product is None:
            raise InputError(_LINEAR)
        return product

    def mixed(self, x: Params) -> Params:
        """(∂²ℓ/∂λ∂θ) x, shaped like λ; zero where the levels do not interact."""
        product = self._product(x, self._upper)
        return tree_map(torch.zeros_like, self._upper) if product is None else product


def check_mixed(mixed: str, alpha: float) -> None:
    """Raise `InputError` for an unknown kind of mixed product or a perturbation without length."""
    if mixed not in MIXED:
        raise InputError(f"mixed must be one of {', '.join(map(repr, MIXED))}, not {mixed!r}", field="mixed")
    if alpha <= 0:
        raise InputError(f"alpha must be positive, not {alpha}", field="alpha")


def difference_step(lower: Params, direction: Params, alpha: float, total: Total = alone) -> float:
    """ε of a central difference along v: α/‖v‖, but never so small that ε·v is lost in rounding.

    A parameter moves in steps of its type's resolution (2⁻⁸ of its size in bfloat16). So ‖ε v‖ is at least 8 such steps
    of ‖θ‖; in float32 that matters from ‖θ‖ = α·10⁶ on. Zero when v is zero.
    """
    size = float(total(dot(tree_map(_wide, direction), tree_map(_wide, direction))).sqrt())
    if size == 0.0:
        return 0.0
    resolution = torch.stack([_wide(v).square().sum() * torch.finfo(v.dtype).eps ** 2 for v in lower.values()]).sum()
    return max(alpha, 8.0 * float(total(resolution).sqrt())) / size


def _wide(value: torch.Tensor) -> torch.Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))


def perturbed(lower: Params, direction: Params, epsilon: float) -> Params:
    """θ + ε v, computed in at least float32."""
    return tree_map(lambda a, d: torch.add(_wide(a), _wide(d), alpha=epsilon).to(a.dtype), lower, direction)


def mixed_product(
    losses: Sequence[Loss], lower: Params, upper: Params, x: Params, epsilon: float, mixed: Mixed
) -> Params:
    """(∂²ℓ/∂λ∂θ) x: exactly, or as a central difference with step ``epsilon``."""
    if mixed == "exact":
        return mixed_exactly(losses, lower, upper, x)
    return mixed_by_difference(losses, lower, upper, x, epsilon)


def mixed_by_difference(losses: Sequence[Loss], lower: Params, upper: Params, x: Params, epsilon: float) -> Params:
    """[∇_λℓ(θ+εx) − ∇_λℓ(θ−εx)] / (2ε) ≈ (∂²ℓ/∂λ∂θ) x; zero when ε is."""
    if epsilon == 0.0:
        return tree_map(torch.zeros_like, upper)
    plus = gradients(losses, perturbed(lower, x, epsilon), upper, of_lower=False)[2]
    minus = gradients(losses, perturbed(lower, x, -epsilon), upper, of_lower=False)[2]
    return tree_map(lambda p, m: (p - m) / (2 * epsilon), plus, minus)


def mixed_exactly(losses: Sequence[Loss], lower: Params, upper: Params, x: Params) -> Params:
    """(∂²ℓ/∂λ∂θ) x forward over reverse: the derivative of ∇_λℓ along x, with no graph through the lower model."""
    total: Params | None = None
    theta, lam = tree_map(lambda a: a.detach(), lower), tree_map(lambda a: a.detach(), upper)
    for loss in losses:
        with second_order("the exact mixed derivative"), warnings.catch_warnings():
            # torch scripts its own rules at the first use and warns that scripting is deprecated.
            warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
            product: Params = torch.func.jvp(
                lambda t, loss=loss: torch.func.grad(lambda u: scalar(loss(t, u), "the lower loss"))(lam),
                (theta,),
                ({name: x[name].to(value.dtype) for name, value in theta.items()},),
            )[1]
        total = product if total is None else add(total, product)
    assert total is not None
    return tree_map(lambda a: a / len(losses), total)


def overlapped_difference(
    losses: Sequence[Loss], lower: Params, upper: Params, x: Params, epsilon: float, direct: Params, reducer: Reducer
) -> Params:
    """∂M/∂λ − central difference, each upper tensor given to ``reducer`` as soon as its gradient is complete.

    The two local parts, ∂M/∂λ and the pass at θ + εx, are done before the backward pass at θ − εx starts, so the one
    reduction runs while that pass is still going on.
    """
    if epsilon == 0.0:
        for name, value in direct.items():
            reducer.ready(name, value)
        return reducer.finish()
    plus = gradients(losses, perturbed(lower, x, epsilon), upper, of_lower=False)[2]
    local = tree_map(lambda d, p: d - p / (2 * epsilon), direct, plus)
    back = perturbed(lower, x, -epsilon)
    if len(losses) > 1:
        head = gradients(losses[:-1], back, upper, of_lower=False)[2]
        local = add(local, head, (len(losses) - 1) / len(losses) / (2 * epsilon))
    lam = require_grad(upper)
    done: set[str] = set()

    def complete(name: str) -> None:
        gradient = lam[name].grad
        assert gradient is not None
        lam[name].grad = None
        done.add(name)
        reducer.ready(name, local[name] + gradient / (2 * epsilon * len(losses)))

    for name, value in lam.items():
        value.register_post_accumulate_grad_hook(lambda _, name=name: complete(name))
    scalar(losses[-1](back, lam), "the lower loss").backward(inputs=list(lam.values()))
    for name in lam:
        if name not in done:
            reducer.ready(name, local[name])
    return reducer.finish()
