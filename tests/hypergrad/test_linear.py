"""Linear solvers against the dense solution, alone and stacked, and what they do when a solve cannot succeed."""

from __future__ import annotations

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.types import Params
from metascale.hypergrad.linear import CG, Direct, Identity, LinearSolver, Matvec, Neumann, SolveFailed

T, D = 3, 6


def matrices(spread: float = 2.0) -> torch.Tensor:
    """[T, D, D] symmetric positive definite, eigenvalues from 0.3 up."""
    draws = torch.randn(T, D, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = torch.linalg.qr(draws).Q
    return q @ torch.diag_embed(torch.linspace(0.3, spread, D, dtype=torch.float64).expand(T, D)) @ q.mT


def stacked(a: torch.Tensor) -> tuple[Matvec, Params]:
    """T systems on two tensors, [T, 2, 1] and [T, 4]."""
    b = torch.randn(T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def split(flat: torch.Tensor) -> Params:
        return {"a": flat[:, :2].reshape(T, 2, 1), "b": flat[:, 2:]}

    return lambda p: split((a @ torch.cat([p["a"].reshape(T, 2), p["b"]], 1).unsqueeze(-1)).squeeze(-1)), split(b)


def flat(p: Params) -> torch.Tensor:
    return torch.cat([p["a"].reshape(T, 2), p["b"]], 1)


@pytest.mark.parametrize("damping", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("kind", ["cg", "neumann", "direct"])
def test_solvers_reach_the_damped_solution_and_measure_their_residual(kind: str, damping: float) -> None:
    a = matrices()
    solver: LinearSolver = {
        "cg": CG(30, 1e-12, damping),
        "neumann": Neumann(250, 0.9 / (2.0 + damping), damping),
        "direct": Direct(damping),
    }[kind]
    matvec, b = stacked(a)
    found = solver(matvec, b, batched=True)
    damped = a + damping * torch.eye(D, dtype=torch.float64)
    truth = torch.linalg.solve(damped, flat(b))
    torch.testing.assert_close(flat(found.x), truth, rtol=1e-9, atol=1e-9)
    assert found.residual is not None
    assert found.residual.shape == (T,)
    assert float(found.residual.max()) < 1e-9


@pytest.mark.parametrize("solver", [CG(3, damping=0.2), Neumann(5, 0.3, 0.2), Identity(0.5)])
def test_the_residual_is_that_of_the_damped_system(solver: LinearSolver) -> None:
    a = matrices()
    matvec, b = stacked(a)
    found = solver(matvec, b, batched=True)
    damped = a + getattr(solver, "damping", 0.0) * torch.eye(D, dtype=torch.float64)
    gap = (damped @ flat(found.x).unsqueeze(-1)).squeeze(-1) - flat(b)
    assert found.residual is not None
    torch.testing.assert_close(found.residual, gap.norm(dim=1) / flat(b).norm(dim=1))
    assert float(found.residual.min()) > 1e-3


def test_stacked_systems_are_solved_as_if_each_stood_alone() -> None:
    a = matrices()
    matvec, b = stacked(a)
    together = flat(CG(4)(matvec, b, batched=True).x)
    for task in range(T):
        alone = CG(4)(lambda p, task=task: {"x": a[task] @ p["x"]}, {"x": flat(b)[task]})
        torch.testing.assert_close(together[task], alone.x["x"], rtol=1e-10, atol=1e-12)


def test_a_task_that_has_converged_stays_put_while_others_go_on() -> None:
    a = torch.stack([torch.eye(D, dtype=torch.float64), *matrices()[1:]])
    matvec, b = stacked(a)
    found = CG(30, 1e-10)(matvec, b, batched=True)
    assert found.status == "converged"
    torch.testing.assert_close(flat(found.x)[0], flat(b)[0])


def test_neumann_terms_are_those_of_the_series() -> None:
    a = matrices()
    matvec, b = stacked(a)
    shrink = torch.eye(D, dtype=torch.float64) - 0.3 * a
    series = sum(0.3 * torch.linalg.matrix_power(shrink, i) @ flat(b).unsqueeze(-1) for i in range(4))
    torch.testing.assert_close(flat(Neumann(4, 0.3)(matvec, b, batched=True).x).unsqueeze(-1), series)


@pytest.mark.parametrize(("step", "diverges"), [(1.9 / 2.0, False), (2.1 / 2.0, True)])
def test_neumann_diverges_where_the_step_exceeds_two_over_the_curvature(step: float, diverges: bool) -> None:
    matvec, b = stacked(matrices(spread=2.0))
    if not diverges:
        assert Neumann(300, step)(matvec, b, batched=True).status == "fixed"
        return
    with pytest.raises(SolveFailed, match=r"diverged .* lower the step") as caught:
        Neumann(300, step)(matvec, b, batched=True)
    reported = Neumann(3000, step, on_failure="report")(matvec, b, batched=True)
    assert reported.status == "diverged"
    for solution in (caught.value.solution, reported):
        assert bool(torch.isfinite(flat(solution.x)).all())
        assert solution.residual is not None
        assert float(solution.residual.max()) <= 1.0


def test_damping_that_makes_the_curvature_too_large_for_the_step_is_divergence() -> None:
    matvec, b = stacked(matrices(spread=2.0))
    with pytest.raises(SolveFailed):
        Neumann(300, 0.5, damping=3.0)(matvec, b, batched=True)


def test_cg_reports_negative_curvature() -> None:
    matvec, b = stacked(-matrices())
    with pytest.raises(SolveFailed, match=r"negative curvature .* raise damping above 0"):
        CG()(matvec, b, batched=True)
    found = CG(on_failure="report")(matvec, b, batched=True)
    assert found.status == "negative_curvature"
    assert bool(torch.isfinite(flat(found.x)).all())
    assert CG(30, 1e-10, damping=3.0)(matvec, b, batched=True).status == "converged"


def test_cg_ends_where_the_residual_is_exactly_the_goal() -> None:
    """2 x = 4 has the residual 0 after one product: with a tolerance of 0 that is the goal, and not above it."""
    found = CG(9, tol=0.0)(lambda v: {"x": 2 * v["x"]}, {"x": torch.tensor([[4.0], [4.0]])}, batched=True)
    assert (found.x["x"].tolist(), found.status, found.iterations) == ([[2.0], [2.0]], "converged", 2)


def test_zero_right_hand_side_has_the_solution_zero() -> None:
    matvec, b = stacked(matrices())
    zero = {name: torch.zeros_like(value) for name, value in b.items()}
    for solver in (CG(), Neumann(3, 0.1), Identity(), Direct()):
        found = solver(matvec, zero, batched=True)
        assert float(flat(found.x).abs().max()) == 0.0
        assert found.residual is None or float(found.residual.max()) == 0.0


def test_products_are_counted_and_optional() -> None:
    calls: list[int] = []
    a = matrices()[0]

    def matvec(p: Params) -> Params:
        calls.append(1)
        return {"x": a @ p["x"]}

    b = {"x": torch.ones(D, dtype=torch.float64)}
    for solver, spent in ((Identity(), 1), (Identity(measure=False), 0), (Neumann(4, 0.1), 4)):
        calls.clear()
        assert solver(matvec, b).iterations == len(calls) == spent
    for measure, spent in ((True, 4), (False, 3)):
        calls.clear()
        found = CG(3, measure=measure)(matvec, b)
        assert (found.iterations, len(calls), found.status) == (spent, spent, "max_iterations")
    assert Identity(measure=False)(matvec, b).residual is None


def test_half_precision_sums_in_float32() -> None:
    b = {"x": torch.full((70_000,), 0.01, dtype=torch.bfloat16)}
    found = CG(2, 1e-3)(lambda p: {"x": 2 * p["x"]}, b)
    torch.testing.assert_close(found.x["x"].float(), b["x"].float() / 2, rtol=1e-2, atol=0)


def test_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="terms of the Neumann series"):
        Neumann(terms=0)
    with pytest.raises(InputError, match="max_iterations of CG"):
        CG(max_iterations=0)
    with pytest.raises(InputError, match="at most 10 unknowns, not 20"):
        Direct(max_size=10)(lambda p: p, {"x": torch.ones(20)})
