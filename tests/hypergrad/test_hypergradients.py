"""Every hypergradient solver against closed forms, dense definitions and finite differences, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.types import Params
from metascale.hypergrad.darts import DARTS
from metascale.hypergrad.implicit import Implicit
from metascale.hypergrad.linear import CG, Direct, Identity, LinearSolver, Neumann, SolveFailed
from metascale.hypergrad.problem import Advance, BilevelProblem, State, gradients, unroll
from metascale.hypergrad.sama import SAMA
from metascale.hypergrad.second import difference_step, perturbed
from metascale.hypergrad.unrolled import Unrolled
from tests.hypergrad.dense import Dense, Network, Ridge, flat, unflat

RIDGE, NETWORK = Ridge(), Network()
EXACT: list[LinearSolver] = [Direct(), CG(20, 1e-14), Neumann(400, 0.3)]


@pytest.mark.parametrize("solver", EXACT, ids=lambda s: type(s).__name__)
def test_ridge_regression_has_its_closed_form(solver: LinearSolver) -> None:
    found = Implicit(solver)(RIDGE.problem, {"w": RIDGE.minimiser}, RIDGE.upper)
    assert abs(float(found.value["a"] - RIDGE.hypergradient())) < 1e-8
    assert abs(float(RIDGE.hypergradient())) > 1e-3
    assert found.residual is not None
    assert float(found.residual) < 1e-8
    torch.testing.assert_close(found.upper_loss, RIDGE.upper_loss({"w": RIDGE.minimiser}, {}))


def test_the_closed_form_is_the_derivative_of_the_upper_loss_at_the_minimiser() -> None:
    def upper_at(log_penalty: float) -> float:
        ridge = Ridge(log_penalty=log_penalty)
        return float(ridge.upper_loss({"w": ridge.minimiser}, {}))

    slope = (upper_at(-1 + 1e-5) - upper_at(-1 - 1e-5)) / 2e-5
    assert abs(slope - float(RIDGE.hypergradient())) < 1e-8


@pytest.mark.parametrize("damping", [0.0, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("kind", ["cg", "neumann", "direct"])
def test_damped_solvers_give_the_damped_dense_answer(kind: str, damping: float) -> None:
    dense = Dense(NETWORK.problem, NETWORK.lower, NETWORK.upper)
    hessian, mixed = dense.curvature
    lowest = float(torch.linalg.eigvalsh(hessian)[0])
    damping += max(0.0, -1.1 * lowest)
    by_lower, direct = dense.upper_gradients
    identity = torch.eye(len(hessian), dtype=torch.float64)
    truth = direct - mixed @ torch.linalg.solve(hessian + damping * identity, by_lower)
    step = 1.0 / float(torch.linalg.eigvalsh(hessian)[-1] + damping)
    solver: LinearSolver = {
        "cg": CG(200, 1e-13, damping),
        "neumann": Neumann(300, step, damping, on_failure="report"),
        "direct": Direct(damping),
    }[kind]
    found = Implicit(solver)(NETWORK.problem, NETWORK.lower, NETWORK.upper)
    assert found.residual is not None
    error = float((flat(found.value) - truth).norm() / truth.norm())
    # The error is bounded by the residual times the condition of the system.
    bound = float(mixed.norm() * by_lower.norm() / truth.norm() / max(damping + lowest, 1e-9)) * float(found.residual)
    assert error <= bound + 1e-8
    if kind != "neumann":
        assert error < 1e-8


def test_identity_is_the_truth_when_the_hessian_is_the_identity() -> None:
    target = torch.arange(4.0, dtype=torch.float64)

    def lower_loss(theta: Params, lam: Params) -> torch.Tensor:
        return 0.5 * (theta["w"] - lam["c"].sin()).square().sum()

    def upper_loss(theta: Params, lam: Params) -> torch.Tensor:
        return 0.5 * (theta["w"] - target).square().sum()

    lam = {"c": torch.tensor([0.3, -0.2, 0.9, 1.4], dtype=torch.float64)}
    truth = (lam["c"].sin() - target) * lam["c"].cos()
    problem, theta = BilevelProblem(lower_loss, upper_loss), {"w": lam["c"].sin()}
    for method in (Implicit(Identity()), SAMA(adapt=False), SAMA(adapt=False, mixed="exact")):
        torch.testing.assert_close(method(problem, theta, lam).value["c"], truth, rtol=1e-9, atol=1e-9)
    assert float(Implicit(Identity())(problem, theta, lam).residual or 0.0) < 1e-12
    adapted = BilevelProblem(lower_loss, upper_loss, adapt=lambda w: w)
    torch.testing.assert_close(SAMA()(adapted, theta, lam).value["c"], truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mixed", ["finite_difference", "exact"])
def test_sama_equals_its_dense_definition(mixed: str) -> None:
    d = torch.linspace(0.1, 2.0, 20, dtype=torch.float64)
    problem = BilevelProblem(NETWORK.lower_loss, NETWORK.upper_loss, adapt=lambda w: unflat(d * flat(w), NETWORK.lower))
    dense = Dense(problem, NETWORK.lower, NETWORK.upper)
    by_lower, direct = dense.upper_gradients
    for method, v in ((SAMA(mixed=mixed), d * by_lower), (SAMA(mixed=mixed, adapt=False), by_lower)):
        truth = direct - dense.curvature[1] @ v
        found = flat(method(problem, NETWORK.lower, NETWORK.upper).value)
        # The central difference errs by ε²/6 of a third derivative.
        torch.testing.assert_close(found, truth, rtol=1e-12 if mixed == "exact" else 1e-3, atol=1e-5)
        assert float((truth - direct).norm()) > 0.1


def test_the_central_difference_is_of_second_order_in_alpha() -> None:
    exact = flat(SAMA(adapt=False, mixed="exact")(NETWORK.problem, NETWORK.lower, NETWORK.upper).value)
    errors = [
        float((flat(SAMA(alpha, adapt=False)(NETWORK.problem, NETWORK.lower, NETWORK.upper).value) - exact).norm())
        for alpha in (0.1, 0.01)
    ]
    assert 80 < errors[0] / errors[1] < 125


def test_sama_is_its_own_formula() -> None:
    _, by_lower, direct = gradients((NETWORK.upper_loss,), NETWORK.lower, NETWORK.upper)
    epsilon = 0.05 / float(flat(by_lower).norm())

    def upper_gradient(sign: float) -> torch.Tensor:
        at = unflat(flat(NETWORK.lower) + sign * epsilon * flat(by_lower), NETWORK.lower)
        return flat(gradients((NETWORK.lower_loss,), at, NETWORK.upper)[2])

    truth = flat(direct) - (upper_gradient(1.0) - upper_gradient(-1.0)) / (2 * epsilon)
    found = SAMA(0.05, adapt=False, multitask=True)(NETWORK.problem, NETWORK.lower, NETWORK.upper)
    torch.testing.assert_close(flat(found.value), truth, rtol=1e-10, atol=1e-12)
    assert found.lower is not None
    torch.testing.assert_close(flat(found.lower), flat(NETWORK.lower) - epsilon * flat(by_lower))
    assert SAMA(adapt=False)(NETWORK.problem, NETWORK.lower, NETWORK.upper).lower is None


def momentum_step(rate: float = 0.2, momentum: float = 0.7) -> Advance:
    """Heavy-ball descent on the network's lower loss, with the velocity as state."""

    def advance(params: Params, state: State, upper: Params) -> tuple[Params, State]:
        theta = {n: v if v.requires_grad else v.detach().requires_grad_(True) for n, v in params.items()}
        grads = torch.autograd.grad(NETWORK.lower_loss(theta, upper), list(theta.values()), create_graph=True)
        velocity = {n: momentum * state["v"][n] + g for n, g in zip(theta, grads, strict=True)}
        return {n: theta[n] - rate * velocity[n] for n in theta}, {"v": velocity}

    return advance


def zero_velocity() -> State:
    return {"v": {name: torch.zeros_like(value) for name, value in NETWORK.lower.items()}}


@pytest.mark.parametrize("steps", [1, 4])
def test_unrolled_equals_finite_differences_of_the_whole(steps: int) -> None:
    def upper_after(lam: Params) -> float:
        theta, _, _ = unroll(momentum_step(), NETWORK.lower, zero_velocity(), lam, steps)
        return float(NETWORK.upper_loss(theta, lam))

    theta, _, history = unroll(momentum_step(), NETWORK.lower, zero_velocity(), NETWORK.upper, steps)
    problem = BilevelProblem(NETWORK.lower_loss, NETWORK.upper_loss, history=history)
    found = Unrolled(steps)(problem, theta, NETWORK.upper)
    assert found.iterations == steps
    base, slopes = flat(NETWORK.upper), []
    for index in range(len(base)):
        move = torch.zeros_like(base)
        move[index] = 1e-5
        up, down = (upper_after(unflat(base + sign * move, NETWORK.upper)) for sign in (1.0, -1.0))
        slopes.append((up - down) / 2e-5)
    torch.testing.assert_close(flat(found.value), torch.tensor(slopes, dtype=torch.float64), rtol=1e-6, atol=1e-8)


def test_truncated_unrolling_differentiates_the_last_steps_alone() -> None:
    theta, _, history = unroll(momentum_step(), NETWORK.lower, zero_velocity(), NETWORK.upper, 5)
    problem = BilevelProblem(NETWORK.lower_loss, NETWORK.upper_loss, history=history)
    last = BilevelProblem(NETWORK.lower_loss, NETWORK.upper_loss, history=history[-2:])
    cut = Unrolled(2, truncated=True)(problem, theta, NETWORK.upper)
    torch.testing.assert_close(flat(cut.value), flat(Unrolled()(last, theta, NETWORK.upper).value), rtol=0, atol=0)
    assert not torch.allclose(flat(cut.value), flat(Unrolled()(problem, theta, NETWORK.upper).value), rtol=1e-3)
    with pytest.raises(InputError, match="2 lower steps, but 5 are there; set truncated=True"):
        Unrolled(2)(problem, theta, NETWORK.upper)
    with pytest.raises(InputError, match="9 lower steps, but 5 are there"):
        Unrolled(9)(problem, theta, NETWORK.upper)
    with pytest.raises(InputError, match="history is empty"):
        Unrolled()(NETWORK.problem, theta, NETWORK.upper)


def test_long_unrolling_of_ridge_regression_approaches_the_closed_form() -> None:
    def advance(params: Params, state: State, upper: Params) -> tuple[Params, State]:
        w = params["w"] if params["w"].requires_grad else params["w"].detach().requires_grad_(True)
        (g,) = torch.autograd.grad(RIDGE.lower_loss({"w": w}, upper), w, create_graph=True)
        return {"w": w - 0.3 * g}, state

    theta, _, history = unroll(advance, {"w": torch.zeros(4, dtype=torch.float64)}, {}, RIDGE.upper, 300)
    found = Unrolled()(BilevelProblem(RIDGE.lower_loss, RIDGE.upper_loss, history=history), theta, RIDGE.upper)
    assert abs(float(found.value["a"] - RIDGE.hypergradient())) < 1e-8


@pytest.mark.parametrize("mixed", ["finite_difference", "exact"])
def test_darts_is_the_derivative_of_one_plain_step(mixed: str) -> None:
    _, _, history = unroll(momentum_step(0.2, 0.0), NETWORK.lower, zero_velocity(), NETWORK.upper, 1)
    problem = BilevelProblem(NETWORK.lower_loss, NETWORK.upper_loss, history=history)
    after, _ = history[0].advance(NETWORK.lower, zero_velocity(), NETWORK.upper)
    truth = flat(Unrolled(1)(problem, {n: v.detach() for n, v in after.items()}, NETWORK.upper).value)
    found = DARTS(0.2, mixed=mixed)(problem, NETWORK.lower, NETWORK.upper)
    torch.testing.assert_close(flat(found.value), truth, rtol=1e-11 if mixed == "exact" else 1e-3, atol=1e-5)


def test_a_diverging_series_is_reported_not_returned() -> None:
    with pytest.raises(SolveFailed, match="diverged"):
        Implicit(Neumann(50, 5.0))(RIDGE.problem, {"w": RIDGE.minimiser}, RIDGE.upper)
    found = Implicit(Neumann(50, 5.0, on_failure="report"))(RIDGE.problem, {"w": RIDGE.minimiser}, RIDGE.upper)
    assert found.status == "diverged"
    assert bool(torch.isfinite(found.value["a"]))


METHODS = [
    Implicit(CG(50, 1e-12, damping=1.0)),
    SAMA(adapt=False),
    SAMA(adapt=False, mixed="exact"),
    DARTS(),
    DARTS(mixed="exact"),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_micro_batches_give_the_mean(method: Implicit | SAMA | DARTS) -> None:
    """The same loss three ways scaled: a tuple of micro-batches is their mean."""

    def scaled(factor: float) -> BilevelProblem:
        return BilevelProblem(
            tuple(lambda t, u, c=c: c * NETWORK.lower_loss(t, u) for c in (factor, 2 - factor)),
            tuple(lambda t, u, c=c: c * NETWORK.upper_loss(t, u) for c in (factor, 2 - factor)),
        )

    one = method(NETWORK.problem, NETWORK.lower, NETWORK.upper)
    two = method(scaled(0.3), NETWORK.lower, NETWORK.upper)
    torch.testing.assert_close(flat(two.value), flat(one.value), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(two.upper_loss, one.upper_loss)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_both_levels_are_left_as_they_were(method: Implicit | SAMA | DARTS) -> None:
    theta, lam = NETWORK.lower, NETWORK.upper
    copies = {n: v.clone() for n, v in theta.items()}, {n: v.clone() for n, v in lam.items()}
    found = method(NETWORK.problem, theta, lam)
    for after, before in zip((theta, lam), copies, strict=True):
        assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(value.requires_grad for value in found.value.values())


class Collector:
    """A reducer of one process, which notes when each tensor came and doubles it."""

    def __init__(self, events: list[str]) -> None:
        self.events, self.parts = events, {}

    def ready(self, name: str, gradient: torch.Tensor) -> None:
        self.events.append(name)
        self.parts[name] = gradient

    def finish(self) -> Params:
        self.events.append("finish")
        return {name: 2 * value for name, value in self.parts.items()}


@pytest.mark.parametrize("mixed", ["finite_difference", "exact"])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_reducer_gets_the_whole_hypergradient(mixed: str, parts: int) -> None:
    events: list[str] = []
    problem = BilevelProblem((NETWORK.lower_loss,) * parts, NETWORK.upper_loss)
    plain = SAMA(adapt=False, mixed=mixed)(problem, NETWORK.lower, NETWORK.upper)
    shared = replace(problem, reducer=lambda: Collector(events))
    found = SAMA(adapt=False, mixed=mixed)(shared, NETWORK.lower, NETWORK.upper)
    torch.testing.assert_close(flat(found.value), 2 * flat(plain.value), rtol=1e-9, atol=1e-11)
    assert sorted(events[:-1]) == ["shift", "weights"]
    assert events[-1] == "finish"
    with pytest.raises(InputError, match="Implicit runs in one process"):
        Implicit()(shared, NETWORK.lower, NETWORK.upper)


def test_a_reduction_starts_before_the_third_pass_is_over() -> None:
    events: list[str] = []

    def lower_loss(theta: Params, lam: Params) -> torch.Tensor:
        early = (theta["w"] * lam["early"]).sum()
        if early.requires_grad:
            early.register_hook(lambda g: events.append("backward of early"))
        return early.sin() * lam["late"].sum()

    problem = BilevelProblem(lower_loss, lambda t, u: t["w"].square().sum(), reducer=lambda: Collector(events))
    lam = {"early": torch.ones(2), "late": torch.ones(2), "unused": torch.ones(1)}
    found = SAMA(adapt=False)(problem, {"w": torch.ones(2)}, lam)
    third_pass = events[events.index("backward of early") + 1 :]
    assert third_pass.index("late") < third_pass.index("backward of early") < third_pass.index("early")
    assert third_pass[-2:] == ["unused", "finish"]
    assert set(found.value) == set(lam)


def test_a_perturbation_in_bfloat16_is_not_swallowed_by_rounding() -> None:
    theta = {"w": torch.full((1000,), 0.5, dtype=torch.bfloat16)}
    direction = {"w": torch.ones(1000, dtype=torch.bfloat16)}
    plain = 0.01 / 1000**0.5
    assert torch.equal(perturbed(theta, direction, plain)["w"], theta["w"])
    epsilon = difference_step(theta, direction, 0.01)
    gap = (perturbed(theta, direction, epsilon)["w"] - perturbed(theta, direction, -epsilon)["w"]).float()
    torch.testing.assert_close(gap, torch.full((1000,), 2 * epsilon), rtol=0.2, atol=0)
    wide = {"w": theta["w"].float()}
    assert difference_step(wide, {"w": direction["w"].float()}, 0.01) == pytest.approx(plain)


def test_a_zero_upper_gradient_leaves_the_direct_part() -> None:
    def flat_upper(theta: Params, lam: Params) -> torch.Tensor:
        return 0.0 * theta["first"].sum() + lam["shift"].square().sum()

    problem = BilevelProblem(NETWORK.lower_loss, flat_upper)
    for method in (SAMA(adapt=False), SAMA(adapt=False, mixed="exact"), DARTS()):
        found = method(problem, NETWORK.lower, NETWORK.upper)
        torch.testing.assert_close(found.value["shift"], 2 * NETWORK.upper["shift"])
        assert float(found.value["weights"].abs().max()) == 0.0


def test_weights_of_examples_need_no_backward_pass_through_the_lower_model() -> None:
    """∇_λ of Σ wᵢ(λ) lᵢ keeps no graph of the lower model: hooks on its activations never fire."""
    fired: list[int] = []

    def lower_loss(theta: Params, lam: Params) -> torch.Tensor:
        hidden = torch.tanh(NETWORK.data()[0] @ theta["first"])
        if hidden.requires_grad:
            hidden.register_hook(lambda g: fired.append(1))
        losses = (hidden @ theta["second"]).square().sum(1)
        return (torch.sigmoid(lam["weights"]) * losses).mean()

    lam = {"weights": NETWORK.upper["weights"]}
    SAMA(adapt=False)(BilevelProblem(lower_loss, NETWORK_UPPER), NETWORK.lower, lam)
    assert not fired
    gradients((lower_loss,), NETWORK.lower, lam)
    assert fired


def NETWORK_UPPER(theta: Params, lam: Params) -> torch.Tensor:
    return NETWORK.outputs(theta, NETWORK.data()[2]).square().mean()


def test_what_cannot_be_is_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match="SAMA with adapt=True needs the lower optimiser's last step"):
        SAMA()(NETWORK.problem, NETWORK.lower, NETWORK.upper)
    with pytest.raises(InputError, match="mixed must be one of 'finite_difference', 'exact', not 'both'"):
        SAMA(mixed="both")  # type: ignore[arg-type]
    wide = BilevelProblem(NETWORK.lower_loss, lambda t, u: NETWORK.data()[0] @ t["first"][:, 0])
    with pytest.raises(InputError, match=r"must be one number .* not \(8,\): take its mean"):
        SAMA(adapt=False)(wide, NETWORK.lower, NETWORK.upper)
    linear = BilevelProblem(lambda t, u: t["first"].sum() + u["shift"].sum(), NETWORK.upper_loss)
    with pytest.raises(InputError, match="the lower loss has no second derivative"):
        Implicit()(linear, NETWORK.lower, NETWORK.upper)


def test_attention_without_second_derivatives_is_refused_by_name() -> None:
    x = torch.randn(2, 2, 5, 8, generator=torch.Generator().manual_seed(0))

    def lower_loss(theta: Params, lam: Params) -> torch.Tensor:
        out = torch.nn.functional.scaled_dot_product_attention(x * theta["q"], x, x)
        return (lam["weights"] * out.square().mean((1, 2, 3))).sum()

    problem = BilevelProblem(lower_loss, lambda t, u: t["q"].square().sum())
    theta, lam = {"q": torch.ones(8)}, {"weights": torch.ones(2)}
    with pytest.raises(InputError, match=r"second derivatives that the lower loss lacks .*attn_implementation='eager'"):
        Implicit()(problem, theta, lam)
    assert bool(torch.isfinite(SAMA(adapt=False)(problem, theta, lam).value["weights"]).all())


class _OnlyOnce(torch.autograd.Function):
    """A square whose backward pass has no derivative of its own."""

    @staticmethod
    def forward(ctx, x):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):  # type: ignore[no-untyped-def]
        return 2 * ctx.saved_tensors[0] * g


def test_a_hidden_second_derivative_is_not_taken_for_zero() -> None:
    def lower_loss(theta: Params, lam: Params) -> torch.Tensor:
        return (lam["weights"][:3, None] * _OnlyOnce.apply(theta["first"])).sum() + lam["shift"].sum()

    problem = BilevelProblem(lower_loss, NETWORK.upper_loss)
    with pytest.raises(InputError, match="no second derivative with respect to the lower parameters"):
        Implicit()(problem, NETWORK.lower, NETWORK.upper)
    assert bool(torch.isfinite(flat(SAMA(adapt=False)(problem, NETWORK.lower, NETWORK.upper).value)).all())
