"""Solvers, curvatures and hypergradients by hand: each status and refusal in full, every field of a result."""

from __future__ import annotations

import math
import pickle
import re
import warnings
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch

from metascale.core.errors import InputError, MetascaleError
from metascale.core.streams import torch_generator
from metascale.core.types import Params
from metascale.hypergrad import second
from metascale.hypergrad.curvature import (
    BlockDiagonal,
    Diagonal,
    Exact,
    FiniteDifference,
    GaussNewton,
    LossPart,
    LossPoint,
    Zero,
    gradient_graph,
    keeps_graph,
    layer_of,
    loss_and_gradient,
    losses_of,
    norm_per_task,
    per_task,
    probe_signs,
    pull_back,
    shifted,
    weighted_sum,
)
from metascale.hypergrad.darts import DARTS
from metascale.hypergrad.implicit import Implicit
from metascale.hypergrad.linear import (
    CG,
    FAILED,
    Direct,
    Identity,
    LinearSolution,
    Neumann,
    SolveFailed,
    Status,
)
from metascale.hypergrad.precondition import multiply
from metascale.hypergrad.problem import (
    BilevelProblem,
    Hypergradient,
    LowerStep,
    alone,
    gradients,
    refuse_reducer,
    scalar,
    subtract_indirect,
    unroll,
    upper_gradients,
)
from metascale.hypergrad.sama import SAMA
from metascale.hypergrad.second import (
    SecondDerivatives,
    difference_step,
    mixed_by_difference,
    mixed_exactly,
    mixed_product,
    overlapped_difference,
    perturbed,
    pieces,
    second_order,
)
from metascale.hypergrad.unrolled import Unrolled


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def tensor(*values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: torch.Tensor | None, expected: Any) -> None:
    assert found is not None
    torch.testing.assert_close(found.double(), torch.as_tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


def diagonal(*values: float) -> Callable[[Params], Params]:
    return lambda x: {"w": tensor(*values) * x["w"]}


# ------------------------------------------------------------------------------------------------------ linear solvers


def test_conjugate_gradients_step_by_step() -> None:
    """A = diag(1, 4), b = (1, 2): the first rate is b·b / b·Ab = 5/17, with the residual b − A b · 5/17."""
    b = {"w": tensor(1, 2)}
    found = CG(1)(diagonal(1, 4), b)
    close(found.x["w"], [5 / 17, 10 / 17])
    rest = tensor(1 - 5 / 17, 2 - 8 * 5 / 17)
    close(found.residual, rest.norm() / math.sqrt(5))
    assert (found.iterations, found.status) == (2, "max_iterations")
    unmeasured = CG(1, measure=False)(diagonal(1, 4), b)
    close(unmeasured.residual, rest.norm() / math.sqrt(5))
    assert unmeasured.iterations == 1
    done = CG(2)(diagonal(1, 4), b)
    close(done.x["w"], [1, 0.5])
    assert (done.status, done.iterations) == ("converged", 3)
    # A tolerance at which the first step is enough, and one just below what it leaves.
    left = float(rest.norm() / math.sqrt(5))
    assert CG(9, tol=1.01 * left)(diagonal(1, 4), b).iterations == 2
    assert CG(9, tol=0.99 * left)(diagonal(1, 4), b).iterations == 3
    none = CG()(diagonal(1, 4), {"w": tensor(0, 0)})
    assert (none.iterations, none.status) == (1, "converged")
    assert none.x["w"].tolist() == [0, 0]
    close(none.residual, 0.0)


def test_conjugate_gradients_where_curvature_is_none_or_negative() -> None:
    for values, damping, said in (((-1, 2), 0.0, "0"), ((0, 0), 0.0, "0"), ((-3, -3), 1.5, "1.5")):
        b = {"w": tensor(1, 0)}
        message = (
            "the linear solve met negative curvature after 2 products (relative residual 1): raise damping above "
            f"{said}"
        )
        with pytest.raises(SolveFailed, match=exactly(message)) as caught:
            CG(damping=damping)(diagonal(*values), b)
        assert caught.value.solution.x["w"].tolist() == [0, 0]
        found = CG(damping=damping, on_failure="report")(diagonal(*values), b)
        assert (found.status, found.iterations) == ("negative_curvature", 2)
        assert found.x["w"].tolist() == [0, 0]
    # The second direction: (1, 1) has b·Ab = 0.5 > 0 with A = diag(1, −0.5), the one after it is negative.
    found = CG(on_failure="report")(diagonal(1, -0.5), {"w": tensor(1, 1)})
    assert (found.status, found.iterations) == ("negative_curvature", 3)
    close(found.x["w"], [4, 4])
    odd = CG(on_failure="report")(lambda x: {"w": x["w"] * math.nan}, {"w": tensor(1, 1)})
    assert odd.status == "negative_curvature"


def test_the_neumann_series_step_by_step() -> None:
    """1 − 0.5 · 1 = 0.5 a term: x = 0.5 (1 + 0.5 + 0.25), and the residual halves."""
    b = {"w": tensor(2.0)}
    found = Neumann(3, 0.5)(diagonal(1), b)
    close(found.x["w"], [1.75])
    close(found.residual, 0.125)
    assert (found.iterations, found.status) == (3, "fixed")
    damped = Neumann(2, 0.25, damping=1.0)(diagonal(1), b)  # 1 − 0.25 · 2 again
    close(damped.x["w"], [0.25 * (2 + 1)])
    # Of a step too large the residual grows at once: the sum before, its residual and the terms.
    message = (
        "the linear solve diverged after 1 products (relative residual 1): lower the step below 2 / the largest "
        "eigenvalue"
    )
    with pytest.raises(SolveFailed, match=exactly(message)) as caught:
        Neumann(9, 2.5)(diagonal(1), b)
    assert caught.value.solution.x["w"].tolist() == [0.0]
    # Parts 0.6ᵏ and 0.001 · 1.4ᵏ: the sum of their squares falls up to k = 8 and rises at 9.
    later = Neumann(20, 0.4, on_failure="report")(diagonal(1, 6), {"w": tensor(1.0, 1e-3)})
    assert (later.status, later.iterations) == ("diverged", 9)
    close(later.residual, math.sqrt((0.6**16 + 1e-6 * 1.4**16) / (1 + 1e-6)))
    assert Neumann(9, 2.0)(diagonal(1), b).status == "fixed"  # neither grows nor shrinks


def test_the_identity_and_the_dense_solve() -> None:
    b = {"w": tensor(1, 2)}
    found = Identity(0.5)(diagonal(1, 4), b)
    close(found.x["w"], [0.5, 1])
    close(found.residual, math.sqrt((0.5 - 1) ** 2 + (4 - 2) ** 2) / math.sqrt(5))
    assert (found.iterations, found.status) == (1, "fixed")
    bare = Identity(measure=False)(diagonal(1, 4), b)
    assert (bare.residual, bare.iterations, bare.status) == (None, 0, "fixed")
    exact = Direct(damping=1.0)(diagonal(1, 4), b)
    close(exact.x["w"], [0.5, 0.4])
    close(exact.residual, 0.0)
    assert (exact.iterations, exact.status) == (3, "converged")
    Direct(max_size=2)(diagonal(1, 4), b)
    with pytest.raises(InputError, match=exactly("Direct solves at most 1 unknowns, not 2; use CG")):
        Direct(max_size=1)(diagonal(1, 4), b)


def test_a_matrix_that_is_not_symmetric_is_solved_by_its_rows() -> None:
    a = torch.stack([tensor(1, 2), tensor(0, 4)])
    found = Direct()(lambda x: {"w": a @ x["w"]}, {"w": tensor(5, 8)})
    close(found.x["w"], [1, 2])


def test_stacked_systems_have_a_residual_each() -> None:
    """Tasks with A = 1 and A = 2 on one number: after the identity their residuals are 0 and 1."""
    matvec = lambda x: {"w": tensor([1], [2]) * x["w"]}
    b = {"w": tensor([3], [5])}
    close(Identity()(matvec, b, batched=True).residual, [0, 1])
    close(Neumann(1, 0.5)(matvec, b, batched=True).residual, [0.5, 0])
    close(CG(1)(matvec, b, batched=True).x["w"], [[3], [2.5]])
    close(Direct()(matvec, b, batched=True).x["w"], [[3], [2.5]])
    assert Direct()(matvec, b, batched=True).iterations == 2
    with pytest.raises(SolveFailed, match="relative residual 1"):
        Neumann(9, 1.5)(matvec, b, batched=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Neumann(terms=0), "terms of the Neumann series must be at least 1, not 0"),
        (lambda: Neumann(step=0.0), "step of the Neumann series must be positive, not 0.0"),
        (lambda: Neumann(step=-1), "step of the Neumann series must be positive, not -1"),
        (lambda: CG(0), "max_iterations of CG must be at least 1, not 0"),
    ],
)
def test_solvers_that_cannot_be(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=exactly(message)):
        make()
    Neumann(1, 1e-9)
    CG(1)


def test_statuses() -> None:
    assert get_args(Status) == ("converged", "max_iterations", "fixed", "diverged", "negative_curvature")
    assert FAILED == ("diverged", "negative_curvature")


def test_a_failure_keeps_its_solution_across_processes() -> None:
    error = SolveFailed("no", LinearSolution({"w": tensor(1.0)}, None, 3, "diverged"))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.solution.iterations, again.solution.status) == ("no", 3, "diverged")
    assert SolveFailed.__bases__ == (MetascaleError, ArithmeticError)


# ---------------------------------------------------------------------------------------------------------- curvatures

W, V = tensor([1, 2], [3, -1]), tensor([1, 10], [100, -1])
"""Two tasks of two numbers, and a vector."""


def cubes(params: Params) -> torch.Tensor:
    """Σ w³ + w₀ w₁ u: Hessian [[6 w₀, u], [u, 6 w₁]] in w, and w₁, w₀ between w and u."""
    w, u = params["w"], params["u"]
    return w.pow(3).sum(1) + w[:, 0] * w[:, 1] * u[:, 0]


PARAMS = {"w": W, "u": tensor([5], [7])}
POINT = LossPoint(PARAMS, (LossPart(cubes),), (0, 1))


def test_products_by_hand() -> None:
    expected = {
        "w": [[6 * 1 * 1 + 5 * 10, 5 * 1 + 6 * 2 * 10], [6 * 3 * 100 + 7 * -1, 7 * 100 + 6 * -1 * -1]],
        "u": [[2 * 1 + 1 * 10], [-1 * 100 + 3 * -1]],
    }
    for curvature, rtol in ((Exact(), 1e-12), (FiniteDifference(), 1e-6)):
        found = curvature(POINT, {"w": V})
        assert list(found) == ["w", "u"]
        for name, values in expected.items():
            torch.testing.assert_close(found[name], tensor(*values), rtol=rtol, atol=1e-6)
    none = Zero()(POINT, {"w": V})
    assert {name: value.abs().sum().item() for name, value in none.items()} == {"w": 0, "u": 0}
    blocks = BlockDiagonal(block_of=lambda name: name)(POINT, {"w": V, "u": tensor([2], [3])})
    close(blocks["w"], expected["w"])
    close(blocks["u"], [[0], [0]])  # linear in u
    whole = BlockDiagonal(block_of=lambda name: "one")(POINT, {"w": V, "u": tensor([2], [3])})
    exact = Exact()(POINT, {"w": V, "u": tensor([2], [3])})
    for name, value in exact.items():
        close(whole[name], value)
    assert [keeps_graph(each) for each in (
        Exact(), FiniteDifference(), Zero(), BlockDiagonal(), Diagonal("fisher"), Diagonal("hutchinson"), GaussNewton()
    )] == [True, False, False, True, False, True, False]  # fmt: skip


def test_the_step_of_a_difference_by_hand() -> None:
    """eps (1 + |φ|) / |v|: of task 0 with |φ| = √5 and |v| = 5; none for a vector of zeros; half of an inverse of h."""
    vector = {"w": tensor([3, 4], [0, 0])}
    step, inverse = FiniteDifference(0.01).steps(PARAMS, vector)
    h = 0.01 * (1 + math.sqrt(5)) / 5
    close(step, [h, 0])
    close(inverse, [1 / h, 0])
    step, _ = FiniteDifference().steps(PARAMS, vector)
    close(step, [(2**-52) ** (1 / 3) * (1 + math.sqrt(5)) / 5, 0])


def test_a_fisher_diagonal_by_hand() -> None:
    """Two examples a task with gradients x of w·x: the mean of x² is (1 + 9)/2 and (4 + 16)/2; times the vector."""
    x = tensor([[1.0], [3.0]], [[2.0], [4.0]])
    part = LossPart(lambda p: (x * p["w"][:, None]).mean((1, 2)), example_losses=lambda p: p["w"][:, 0] * x.flatten(),
                    n_examples=2)  # fmt: skip
    point = LossPoint({"w": tensor([1], [1]), "still": tensor([1], [1])}, (part,))
    found = Diagonal()(point, {"w": tensor([2], [10])})
    close(found["w"], [[10], [100]])
    close(found["still"], [[0], [0]])
    halves = tuple(
        LossPart(lambda p: p["w"][:, 0], 0.5, example_losses=lambda p, k=k: p["w"][:, 0] * x[:, k, 0], n_examples=1)
        for k in range(2)
    )
    close(Diagonal()(LossPoint(point.params, halves), {"w": tensor([2], [10])})["w"], [[10], [100]])


def test_random_signs_of_a_task() -> None:
    point = LossPoint({"w": torch.zeros(2, 3)}, (), (7, 8))
    drawn = list(probe_signs(point, ("w",), 2))
    for probe, signs in enumerate(drawn):
        for task, stream in enumerate((7, 8)):
            source = torch_generator(stream, "curvature-probe", probe)
            expected = 2 * torch.randint(0, 2, (3,), generator=source, dtype=torch.int8) - 1
            assert signs["w"][task].tolist() == expected.tolist()
    message = "random probes need one stream a task, not 1"
    with pytest.raises(InputError, match=exactly(message)):
        next(probe_signs(LossPoint({"w": torch.zeros(2, 3)}, (), (7,)), ("w",), 1))


def test_a_hutchinson_diagonal_is_the_mean_of_its_probes() -> None:
    """z ∘ H z with H = [[6, 5], [5, 12]] is (6 ± 5, 12 ± 5) by whether the signs agree."""
    one = LossPoint({"w": W[:1], "u": tensor([5])}, (LossPart(cubes),), (3,))
    signs = [float(each["w"].prod()) for each in probe_signs(one, ("w",), 4)]
    mean = sum(signs) / 4
    found = Diagonal("hutchinson", 4)(one, {"w": tensor([1, 1])})
    close(found["w"], [[6 + 5 * mean, 12 + 5 * mean]])
    blocks = BlockDiagonal("probes", 3, block_of=lambda name: name)(one, {"w": tensor([1, 1]), "u": tensor([2])})
    agree = [float(each["w"].item() * each["u"].item()) for each in probe_signs(
        LossPoint({"w": torch.zeros(1, 1), "u": torch.zeros(1, 1)}, (), (3,)), ("w", "u"), 3)]  # fmt: skip
    close(blocks["w"], [[11 + 2 * 2 * sum(agree) / 3, 17 + 2 * 1 * sum(agree) / 3]])


def test_gauss_newton_by_hand() -> None:
    """Outputs z = w₀ · x + w₁², loss ½ Σ z² / 2 of two outputs: JᵀJ/2 with J = [[x, 2 w₁], ...]."""
    x = tensor([1.0, 3.0])

    def outputs(params: Params) -> torch.Tensor:
        return params["w"][:, :1] * x + params["w"][:, 1:] ** 2

    part = LossPart(lambda p: outputs(p).square().mean(1) / 2, 1.0, outputs, lambda z: z.square().mean(1) / 2)
    point = LossPoint({"w": tensor([1, 2]), "still": tensor([1])}, (part,))
    # J v for v = (1, 1): 1 + 4, 3 + 4. Jᵀ of it over two: (5 + 21)/2 and 4 · 12/2.
    for product, rtol in (("forward_mode", 1e-12), ("difference", 1e-6)):
        found = GaussNewton(product)(point, {"w": tensor([1, 1])})  # type: ignore[arg-type]
        torch.testing.assert_close(found["w"], tensor([13, 24]), rtol=rtol, atol=1e-6)
        close(found["still"], [[0]])
    assert (GaussNewton().second_order, GaussNewton("difference").second_order) == (True, False)
    for bare in (LossPart(part.losses, 1.0, outputs), LossPart(part.losses, 1.0, None, part.output_losses)):
        message = (
            "Gauss-Newton curvature needs the loss as a function of the outputs: give the model a method "
            "output_losses(outputs, batch), and predict a third argument, dropout"
        )
        with pytest.raises(InputError, match=exactly(message)):
            GaussNewton()(LossPoint(point.params, (bare,)), {"w": tensor([1, 1])})


@pytest.mark.parametrize(
    ("make", "message", "field"),
    [
        (lambda: FiniteDifference(0), "eps of a finite difference must be positive, not 0", "eps"),
        (lambda: FiniteDifference(-1.0), "eps of a finite difference must be positive, not -1.0", "eps"),
        (lambda: BlockDiagonal(probes=0), "a block diagonal needs at least 1 probe, not 0", "probes"),
        (lambda: Diagonal(probes=0), "a diagonal needs at least 1 probe, not 0", "probes"),
        (lambda: DARTS(step=0), "step of DARTS must be positive, not 0", "step"),
        (lambda: DARTS(alpha=0), "alpha must be positive, not 0", "alpha"),
        (lambda: SAMA(alpha=-0.5), "alpha must be positive, not -0.5", "alpha"),
        (lambda: SAMA(mixed="no"), "mixed must be one of 'finite_difference', 'exact', not 'no'", "mixed"),
        (lambda: Unrolled(0), "steps of Unrolled must be at least 1, or none, not 0", "steps"),
        (lambda: Unrolled(truncated=True), "a truncated Unrolled needs the number of steps that it keeps", "steps"),
    ],
)
def test_estimates_that_cannot_be(make: Callable[[], object], message: str, field: str) -> None:
    with pytest.raises(InputError, match=exactly(message)) as caught:
        make()
    assert caught.value.field == field
    FiniteDifference(1e-9), DARTS(1e-9, 1e-9), SAMA(1e-9), Unrolled(1, truncated=True), BlockDiagonal(probes=1)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("a.0.b.1.c", "a.0"),
        ("0.weight", "0"),
        ("a.b", "a"),
        ("a.b.c", "a.b"),
        ("a", "a"),
        ("a1.b", "a1"),
        ("a.5", "a.5"),
    ],
)
def test_layers_by_their_first_number(name: str, layer: str) -> None:
    assert layer_of(name) == layer


def test_parts_of_losses_and_their_arithmetic() -> None:
    assert per_task(tensor(2, 3), torch.ones(2, 1, 2)).flatten(1).tolist() == [[2, 2], [3, 3]]
    close(norm_per_task({"a": tensor([3], [0]), "b": tensor([[4]], [[2]])}), [5, 2])
    moved = shifted({"a": tensor([1], [1]), "b": tensor([1], [1])}, {"a": tensor([2], [3])}, tensor(0.5, 2))
    assert (moved["a"].tolist(), moved["b"].tolist()) == ([[2], [7]], [[1], [1]])
    parts = tuple(LossPart(lambda p, f=f: f * p["w"].square().sum(1), share) for f, share in ((1.0, 0.25), (5.0, 0.75)))
    point = LossPoint({"w": W}, parts)
    close(losses_of(parts, {"w": W}), [4 * 5, 4 * 10])  # 0.25 + 3.75 times Σ w²
    assert not losses_of(parts, {"w": W.clone().requires_grad_()}).requires_grad
    losses, grads = loss_and_gradient(parts, {"w": W}, ("w",))
    close(losses, [20, 40])
    close(grads["w"], 8 * W)
    summed = weighted_sum(point, lambda part: {"w": part.losses({"w": W})})
    close(summed["w"], [20, 40])
    single = weighted_sum(LossPoint({"w": W}, (LossPart(parts[0].losses, 0.1),)), lambda part: {"w": tensor(7)})
    close(single["w"], [7])  # an only part is the whole
    leaves, slopes = gradient_graph(parts[0], {"w": W, "u": tensor([1], [2])}, ("w",))
    assert list(leaves) == ["w", "u"]
    assert all(leaf.requires_grad and leaf is not W for leaf in leaves.values())
    assert list(slopes) == ["w"]
    close(pull_back(slopes, {"w": V}, leaves, keep=True)["w"], 2 * V)
    close(pull_back(slopes, {"w": V}, leaves)["u"], [[0], [0]])
    with pytest.raises(RuntimeError, match="second time"):
        pull_back(slopes, {"w": V}, leaves)
    still = pull_back({"a": tensor(1)}, {"a": tensor(2)}, {"x": tensor(1, 2)})
    assert still["x"].tolist() == [0, 0]


def test_a_parameter_that_no_loss_reads_has_a_gradient_of_zero() -> None:
    params, vector = {"w": W, "idle": tensor([1], [2])}, {"w": V, "idle": tensor([3], [4])}
    part = LossPart(lambda p: p["w"].pow(3).sum(1), 1.0, lambda p: p["w"], lambda z: z.square().sum(1),
                    lambda p: p["w"].sum(1))  # fmt: skip
    _, grads = loss_and_gradient((part,), params, ("w", "idle"))
    assert grads["idle"].tolist() == [[0], [0]]
    leaves, slopes = gradient_graph(part, params, ("w", "idle"))
    assert slopes["idle"].tolist() == [[0], [0]]
    assert pull_back(slopes, vector, leaves)["idle"].tolist() == [[0], [0]]
    point = LossPoint(params, (part,), (1, 2))
    for curvature in (Exact(), FiniteDifference(), BlockDiagonal(), BlockDiagonal("probes"), Diagonal(),
                      Diagonal("hutchinson"), GaussNewton()):  # fmt: skip
        found = curvature(point, vector)
        assert found["idle"].tolist() == [[0], [0]], curvature
        assert bool(found["w"].all())


# ------------------------------------------------------------------------------------------------------- hypergradients

A, B = tensor([2, 0.5], [0.5, 1]), tensor([1, 0], [3, -1])
T = tensor(1, 4)


def lower(theta: Params, lam: Params) -> torch.Tensor:
    """½ θᵀAθ − θᵀBλ: the mixed derivative is −B."""
    return 0.5 * theta["w"] @ A @ theta["w"] - theta["w"] @ B @ lam["l"]


def upper(theta: Params, lam: Params) -> torch.Tensor:
    """½ |θ − T|² + |λ|²."""
    return 0.5 * (theta["w"] - T).square().sum() + lam["l"].square().sum()


THETA, LAMBDA = {"w": tensor(2, 3)}, {"l": tensor(1, -1)}
PROBLEM = BilevelProblem(lower, upper)
BY_LOWER, DIRECT = THETA["w"] - T, 2 * LAMBDA["l"]
LOSS = 0.5 * float(BY_LOWER.square().sum()) + 2


def test_hypergradients_by_hand() -> None:
    """∂M/∂λ + Bᵀ v: v = ∇M unadapted, A⁻¹ ∇M implicit, ξ times ∇M at θ − ξ ∇ℓ for DARTS."""
    d = tensor(0.5, 2)
    adapted = BilevelProblem(lower, upper, adapt=lambda w: multiply({"w": d}, w))
    ahead = THETA["w"] - 0.1 * (A @ THETA["w"] - B @ LAMBDA["l"])
    ahead_loss = 0.5 * float((ahead - T).square().sum()) + 2
    cases: list[tuple[Any, BilevelProblem, torch.Tensor, float]] = [
        (SAMA(adapt=False), PROBLEM, DIRECT + B.T @ BY_LOWER, LOSS),
        (SAMA(adapt=False, mixed="exact"), PROBLEM, DIRECT + B.T @ BY_LOWER, LOSS),
        (SAMA(), adapted, DIRECT + B.T @ (d * BY_LOWER), LOSS),
        (Implicit(), PROBLEM, DIRECT + B.T @ torch.linalg.solve(A, BY_LOWER), LOSS),
        (DARTS(), PROBLEM, DIRECT + 0.1 * B.T @ (ahead - T), ahead_loss),
        (DARTS(mixed="exact"), PROBLEM, DIRECT + 0.1 * B.T @ (ahead - T), ahead_loss),
    ]
    for method, problem, expected, loss in cases:
        found = method(problem, THETA, LAMBDA)
        torch.testing.assert_close(found.value["l"], expected, rtol=1e-6, atol=1e-8)
        assert float(found.upper_loss) == pytest.approx(loss)
        assert not found.upper_loss.requires_grad
        assert found.lower is None
        if not isinstance(method, Implicit):
            assert (found.residual, found.iterations, found.status) == (None, 0, "fixed")
    solved = Implicit()(PROBLEM, THETA, LAMBDA)
    assert (solved.iterations, solved.status) == (3, "converged")
    assert float(solved.residual) < 1e-9  # type: ignore[arg-type]
    moved = SAMA(0.5, adapt=False, multitask=True)(PROBLEM, THETA, LAMBDA).lower
    assert moved is not None
    close(moved["w"], THETA["w"] - 0.5 * BY_LOWER / BY_LOWER.norm())
    message = "SAMA with adapt=True needs the lower optimiser's last step; set adapt=False or give it"
    with pytest.raises(InputError, match=exactly(message)):
        SAMA()(PROBLEM, THETA, LAMBDA)
    assert [(each.remembers, each.adapts) for each in (SAMA(), SAMA(adapt=False), Implicit(), DARTS())] == [
        (0, True), (0, False), (0, False), (0, False),
    ]  # fmt: skip
    assert Unrolled().adapts is False


def test_unrolled_steps_by_hand() -> None:
    """Plain descent at 0.1: two steps give 0.1 Bᵀ v + 0.1 Bᵀ (I − 0.1 A) v."""

    def advance(params: Params, state: Any, lam: Params) -> tuple[Params, Any]:
        (g,) = torch.autograd.grad(lower(params, lam), params["w"], create_graph=True)
        return {"w": params["w"] - 0.1 * g}, state

    def taken(steps: int) -> tuple[Params, BilevelProblem]:
        start = {"w": THETA["w"].clone().requires_grad_()}
        params, states = start["w"], []
        for _ in range(steps):
            states.append(LowerStep({"w": params.detach()}, {}, advance))
            params = advance({"w": params.detach().requires_grad_()}, {}, LAMBDA)[0]["w"]
        return {"w": params.detach()}, BilevelProblem(lower, upper, history=tuple(states))

    theta, problem = taken(2)
    v = theta["w"] - T
    one, two = 0.1 * B.T @ v, 0.1 * B.T @ (v - 0.1 * A @ v)
    found = Unrolled()(problem, theta, LAMBDA)
    close(found.value["l"], DIRECT + one + two)
    assert (found.iterations, found.status, found.residual) == (2, "fixed", None)
    close(found.upper_loss, 0.5 * float(v.square().sum()) + 2)
    last = Unrolled(1, truncated=True)(problem, theta, LAMBDA)
    close(last.value["l"], DIRECT + one)
    assert last.iterations == 1
    close(Unrolled(2)(problem, theta, LAMBDA).value["l"], DIRECT + one + two)
    for method, given, message in (
        (Unrolled(), PROBLEM, "Unrolled needs the lower steps that were taken: the problem's history is empty"),
        (Unrolled(1), problem, "Unrolled differentiates 1 lower steps, but 2 are there; set truncated=True to "
         "differentiate the last ones alone"),
        (Unrolled(3), problem, "Unrolled differentiates 3 lower steps, but 2 are there"),
        (Unrolled(3, truncated=True), problem, "Unrolled differentiates 3 lower steps, but 2 are there"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=exactly(message)):
            method(given, theta, LAMBDA)


def test_steps_that_are_taken_and_remembered() -> None:
    """A state that counts, and a θ that grows by it; each start is kept, nothing has history."""

    def advance(params: Params, state: Any, lam: Params) -> tuple[Params, Any]:
        count = state["slot"]["n"] + lam["l"].sum()
        return {"w": params["w"] + count}, {"slot": {"n": count}}

    lam = {"l": tensor(1, 1).requires_grad_()}
    params, state, history = unroll(advance, {"w": tensor(0)}, {"slot": {"n": tensor(0)}}, lam, 3)
    assert (params["w"].item(), state["slot"]["n"].item()) == (12, 6)
    assert [step.params["w"].item() for step in history] == [0, 2, 6]
    assert [step.state["slot"]["n"].item() for step in history] == [0, 2, 4]
    assert not params["w"].requires_grad
    assert not state["slot"]["n"].requires_grad
    assert history[1].advance is advance
    assert unroll(advance, params, state, lam, 0) == (params, state, ())


def test_gradients_of_micro_batches() -> None:
    losses = (lambda t, u: 2 * (t["a"] * u["l"]).sum(), lambda t, u: 4 * t["a"].sum())
    theta, lam = {"a": tensor(1, 2), "b": tensor(3)}, {"l": tensor(5, 6), "m": tensor(7)}
    unused = {"kept"}
    loss, by_lower, by_upper = gradients(losses, theta, lam, unused=unused)
    assert float(loss) == (2 * 17 + 12) / 2
    assert {name: value.tolist() for name, value in by_lower.items()} == {"a": [7, 8], "b": [0]}
    assert {name: value.tolist() for name, value in by_upper.items()} == {"l": [1, 2], "m": [0]}
    assert unused == {"kept", "b"}
    assert not loss.requires_grad
    _, by_lower, by_upper = gradients(losses[:1], theta, lam, of_upper=False)
    assert (by_lower["a"].tolist(), by_upper) == ([10, 12], {})
    _, by_lower, by_upper = gradients(losses[:1], theta, lam, of_lower=False)
    assert (by_lower, by_upper["l"].tolist()) == ({}, [2, 4])
    for value, what in ((tensor(1, 2), "(2,)"), (3.0, "float"), (torch.zeros(1, 1), "(1, 1)")):
        message = f"the loss must be one number (a tensor without dimensions), not {what}: take its mean"
        with pytest.raises(InputError, match=exactly(message)):
            scalar(value, "the loss")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^a loss must be one number"):
        gradients((lambda t, u: t["a"],), theta, lam)
    assert alone(loss) is loss


def test_the_parts_of_a_problem() -> None:
    def third(theta: Params, lam: Params) -> torch.Tensor:
        return theta["w"].sum()

    one = BilevelProblem(lower, (upper, third))
    assert (one.lower_parts, one.upper_parts, one.mixed_parts) == ((lower,), (upper, third), (lower,))
    assert BilevelProblem((lower, third), upper).mixed_parts == (lower, third)
    assert BilevelProblem(lower, upper, mixed_loss=third).mixed_parts == (third,)
    assert BilevelProblem(lower, upper, mixed_loss=(third, lower)).mixed_parts == (third, lower)
    doubled = BilevelProblem(lower, upper, average_lower=lambda g: {"w": 2 * g["w"]})
    loss, by_lower, direct = upper_gradients(doubled, THETA, LAMBDA)
    assert float(loss) == LOSS
    close(by_lower["w"], 2 * BY_LOWER)
    close(direct["l"], DIRECT)
    close(subtract_indirect({"l": tensor(5)}, {"l": tensor(2)})["l"], [3])
    refuse_reducer(PROBLEM, "X")
    shared: Any = BilevelProblem(lower, upper, reducer=object)
    for method in (Implicit(), DARTS(), Unrolled()):
        message = (
            f"{type(method).__name__} runs in one process; of the hypergradient methods only SAMA is data-parallel"
        )
        with pytest.raises(InputError, match=exactly(message)):
            method(shared, THETA, LAMBDA)
    # A pass by perturbation sees the loss that is given for it.
    other = BilevelProblem(lower, upper, mixed_loss=lambda t, u: 2 * lower(t, u))
    for each in (SAMA(adapt=False), SAMA(adapt=False, mixed="exact")):
        torch.testing.assert_close(each(other, THETA, LAMBDA).value["l"], DIRECT + 2 * B.T @ BY_LOWER)
    assert Hypergradient({}, LOSS).lower is None  # type: ignore[arg-type]


def test_the_length_of_a_perturbation() -> None:
    """α / |v|, at least 8 resolutions of θ: 8 · 2⁻²³ · |θ| in float32, of all processes together."""
    v = {"w": tensor(3, 4)}
    assert difference_step(THETA, v, 0.25) == pytest.approx(0.05)
    assert difference_step(THETA, {"w": tensor(0, 0)}, 0.25) == 0.0
    large = {"w": torch.tensor([3e6, 4e6])}
    assert difference_step(large, v, 1e-3) == pytest.approx(8 * 2**-23 * 5e6 / 5)
    assert difference_step(THETA, v, 0.25, lambda value: 4 * value) == pytest.approx(0.025)
    assert difference_step(large, v, 1e-3, lambda value: 4 * value) == pytest.approx(8 * 2**-23 * 1e7 / 10)
    half = {"w": torch.tensor([1.0, 0.0], dtype=torch.bfloat16)}
    assert difference_step(half, {"w": half["w"]}, 1e-3) == pytest.approx(8 * 2**-7)
    close(perturbed(THETA, v, -0.5)["w"], [0.5, 1])
    assert perturbed(half, v, 0.5)["w"].dtype == torch.bfloat16


def test_mixed_products() -> None:
    x = {"w": tensor(1, 2)}
    expected = -B.T @ x["w"]
    halves = (lambda t, u: 0.5 * lower(t, u), lambda t, u: 1.5 * lower(t, u))
    for losses in ((lower,), halves):
        close(mixed_by_difference(losses, THETA, LAMBDA, x, 0.1)["l"], expected)
        close(mixed_exactly(losses, THETA, LAMBDA, x)["l"], expected)
        close(mixed_product(losses, THETA, LAMBDA, x, 0.1, "exact")["l"], expected)
        close(mixed_product(losses, THETA, LAMBDA, x, 0.1, "finite_difference")["l"], expected)
    assert mixed_by_difference((lower,), THETA, LAMBDA, x, 0.0)["l"].tolist() == [0, 0]
    assert get_args(second.Mixed) == second.MIXED == ("finite_difference", "exact")
    found = pieces([None, tensor(3)], {"a": tensor(1, 2), "b": tensor(1)})
    assert {name: value.tolist() for name, value in found.items()} == {"a": [0, 0], "b": [3]}


class Noted:
    """A reducer that notes what it is given."""

    def __init__(self) -> None:
        self.found: Params = {}

    def ready(self, name: str, gradient: torch.Tensor) -> None:
        self.found[name] = gradient.detach()

    def finish(self) -> Params:
        return dict(self.found)


def test_a_difference_that_is_reduced_as_it_is_computed() -> None:
    x, direct = {"w": tensor(1, 2)}, {"l": tensor(7, 8), "spare": tensor(9)}
    lam = {**LAMBDA, "spare": tensor(1)}
    for losses in ((lower,), (lambda t, u: 0.5 * lower(t, u), lambda t, u: 1.5 * lower(t, u)), (lower,) * 3):
        found = overlapped_difference(losses, THETA, lam, x, 0.1, direct, Noted())
        close(found["l"], direct["l"] + B.T @ x["w"])
        close(found["spare"], [9])
        assert list(overlapped_difference(losses, THETA, lam, x, 0.0, direct, Noted())) == ["l", "spare"]
        close(overlapped_difference(losses, THETA, lam, x, 0.0, direct, Noted())["l"], [7, 8])
    for mixed in ("finite_difference", "exact"):
        shared = BilevelProblem(lower, upper, reducer=Noted)
        found = SAMA(adapt=False, mixed=mixed)(shared, THETA, LAMBDA).value  # type: ignore[arg-type]
        torch.testing.assert_close(found["l"], DIRECT + B.T @ BY_LOWER)


def test_second_derivatives_of_one_part_and_of_several() -> None:
    x = {"w": tensor(1, 2)}
    for losses in ((lower,), (lambda t, u: 0.5 * lower(t, u), lambda t, u: 1.5 * lower(t, u))):
        found = SecondDerivatives(losses, THETA, LAMBDA)
        for _ in range(2):  # the graph is kept for further products
            close(found.hessian(x)["w"], A @ x["w"])
            close(found.mixed(x)["l"], -B.T @ x["w"])
    apart = SecondDerivatives((lambda t, u: t["w"].square().sum() + u["l"].sum(),), THETA, LAMBDA)
    assert apart.mixed(x)["l"].tolist() == [0, 0]
    linear = (
        "the lower loss has no second derivative with respect to the lower parameters (it is linear in them, or one of "
        "its operations is differentiable once only): use SAMA, or a loss that has one"
    )
    for loss in (lambda t, u: t["w"].sum(), lambda t, u: (t["w"] * u["l"]).sum()):
        with pytest.raises(InputError, match=exactly(linear)):
            SecondDerivatives((loss,), THETA, LAMBDA).hessian(x)


@pytest.mark.parametrize(
    "text", ["X is not implemented", "X: not yet implemented", "X does not support it", "X twice differentiable"]
)
def test_derivatives_that_torch_lacks(text: str) -> None:
    said = f"{text} {'y' * 300}"
    for kind in (RuntimeError, NotImplementedError):
        with pytest.raises(InputError) as caught, second_order("the method"):
            raise kind(f"{said}\nmore")
        assert str(caught.value) == (
            f"the method needs second derivatives that the lower loss lacks ({said[:160]}): load the model with "
            "attn_implementation='eager', or use a method based on finite differences"
        )
    with pytest.raises(RuntimeError, match="shapes"), second_order("the method"):
        raise RuntimeError("shapes")


def test_what_torch_says_of_its_own_scripting_is_not_passed_on() -> None:
    """Other warnings are, in both places that differentiate forward."""

    def says(words: str) -> None:
        warnings.warn(words, DeprecationWarning, stacklevel=1)

    def mixed(words: str) -> None:
        mixed_exactly((lambda t, u: says(words) or lower(t, u),), THETA, LAMBDA, {"w": tensor(1, 2)})

    def gauss_newton(words: str) -> None:
        outputs = lambda params: says(words) or params["w"]
        part = LossPart(lambda p: p["w"].sum(1), 1.0, outputs, lambda z: z.square().sum(1))
        with torch.no_grad():
            GaussNewton()._along(part, {"w": tensor([1.0])}, {"w": tensor([1.0])})

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in (mixed, gauss_newton):
            call("`torch.jit.script` is deprecated")
            with pytest.raises(DeprecationWarning, match="something else"):
                call("something else")
