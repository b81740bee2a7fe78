"""Defaults, and derivatives of derivatives, worked out in the tests."""

from __future__ import annotations

import pytest
import torch

from metascale.core.types import Params
from metascale.hypergrad.curvature import (
    BlockDiagonal,
    Diagonal,
    FiniteDifference,
    GaussNewton,
    LossPart,
    LossPoint,
    layer_of,
    loss_and_gradient,
    losses_of,
)
from metascale.hypergrad.darts import DARTS
from metascale.hypergrad.implicit import Implicit
from metascale.hypergrad.linear import CG, Direct, Identity, Neumann
from metascale.hypergrad.problem import Hypergradient
from metascale.hypergrad.sama import SAMA
from metascale.hypergrad.unrolled import Unrolled
from tests.defaults import defaults


def test_what_is_done_where_nothing_is_said() -> None:
    assert defaults(CG) == {
        "max_iterations": 20, "tol": 1e-6, "damping": 0.0, "measure": True, "on_failure": "raise",
    }  # fmt: skip
    assert defaults(Neumann) == {"terms": 10, "step": 0.1, "damping": 0.0, "on_failure": "raise"}
    assert defaults(Identity) == {"scale": 1.0, "measure": True}
    assert defaults(Direct) == {"damping": 0.0, "max_size": 4096}
    assert defaults(Implicit) == {"solver": CG()}
    assert defaults(SAMA) == {"alpha": 0.01, "adapt": True, "mixed": "finite_difference", "multitask": False}
    assert defaults(DARTS) == {"step": 0.1, "alpha": 0.01, "mixed": "finite_difference"}
    assert defaults(Unrolled) == {"steps": None, "truncated": False}
    assert (Unrolled().remembers, Unrolled(3).remembers) == (-1, 3), "all of the history, or the last steps"
    assert defaults(BlockDiagonal) == {"mode": "exact", "probes": 1}
    assert BlockDiagonal().block_of is layer_of
    assert defaults(Diagonal) == {"estimate": "fisher", "probes": 1}
    assert defaults(FiniteDifference) == {"eps": None}
    assert defaults(GaussNewton) == {"product": "forward_mode", "eps": None}
    assert defaults(Hypergradient) == {"residual": None, "iterations": 0, "status": "fixed", "lower": None}
    assert defaults(LossPoint) == {"streams": ()}
    part = {"weight": 1.0, "outputs": None, "output_losses": None, "example_losses": None, "n_examples": 1}
    assert defaults(LossPart) == part


def cubes(factor: float, weight: float = 1.0) -> LossPart:
    """factor · Σ w³ a task: the gradient is 3 factor w², the Hessian's diagonal 6 factor w."""
    return LossPart(lambda params: factor * params["w"].pow(3).sum(1), weight)


W = torch.tensor([[1.0, 2.0], [-1.0, 3.0]], dtype=torch.float64)


@pytest.mark.parametrize("parts", [(cubes(2.0),), (cubes(1.0, 0.25), cubes(3.0, 0.75))], ids=["one", "weighted"])
def test_losses_and_gradients_of_micro_batches_and_their_derivatives(parts: tuple[LossPart, ...]) -> None:
    """0.25 · 1 + 0.75 · 3 = 2.5; with one part 2. Losses are factor Σ w³: 9 and 26 times it."""
    factor = sum(part.weight * f for part, f in zip(parts, (1.0, 3.0), strict=True)) if len(parts) > 1 else 2.0
    losses, grads = loss_and_gradient(parts, {"w": W}, ("w",))
    torch.testing.assert_close(losses, factor * torch.tensor([9.0, 26.0], dtype=torch.float64))
    torch.testing.assert_close(grads["w"], 3 * factor * W**2)
    assert not losses.requires_grad
    assert not grads["w"].requires_grad
    torch.testing.assert_close(losses_of(parts, {"w": W}), losses)
    leaf = W.clone().requires_grad_()
    losses, grads = loss_and_gradient(parts, {"w": leaf}, ("w",), create_graph=True)
    (second,) = torch.autograd.grad(grads["w"].sum(), leaf, retain_graph=True)
    torch.testing.assert_close(second, 6 * factor * W)
    (first,) = torch.autograd.grad(losses.sum(), leaf)
    torch.testing.assert_close(first, 3 * factor * W**2)


def test_only_named_parameters_have_a_gradient() -> None:
    part = LossPart(lambda params: (params["w"] * params["v"]).sum(1))
    _, grads = loss_and_gradient((part,), {"w": W, "v": 2 * W}, ("v",))
    assert set(grads) == {"v"}
    torch.testing.assert_close(grads["v"], W)


def matrix(x: Params) -> Params:
    """diag(1, 4)."""
    return {"w": x["w"] * torch.tensor([1.0, 4.0], dtype=torch.float64)}


B: Params = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}


def test_solvers_say_how_many_products_they_spent_and_what_is_left() -> None:
    """A = diag(1, 4), b = (1, 2). Conjugate gradients end after 2 steps, and one product more measures. 0.1 Σ of two
    Neumann terms: x = 0.1 (b + (1 − 0.1 A) b) = (0.19, 0.32); what is left is (0.81, 0.72) of |b| = √5. The
    identity's x is b: A b − b = (0, 6)."""
    found = CG()(matrix, B)
    assert (found.iterations, found.status) == (3, "converged")
    torch.testing.assert_close(found.x["w"], torch.tensor([1.0, 0.5], dtype=torch.float64))
    assert CG(measure=False)(matrix, B).iterations == 2
    damped = CG(damping=1.0)(matrix, B)
    torch.testing.assert_close(damped.x["w"], torch.tensor([0.5, 0.4], dtype=torch.float64))
    two = Neumann(terms=2)(matrix, B)
    torch.testing.assert_close(two.x["w"], torch.tensor([0.19, 0.32], dtype=torch.float64))
    assert (two.iterations, two.status) == (2, "fixed")
    assert float(two.residual) == pytest.approx(((0.81**2 + 0.72**2) / 5) ** 0.5)
    same = Identity()(matrix, B)
    assert (same.iterations, float(same.residual)) == (1, pytest.approx(6 / 5**0.5))
    assert Identity(measure=False)(matrix, B).residual is None
    exact = Direct()(matrix, B)
    assert (exact.iterations, exact.status) == (3, "converged")
