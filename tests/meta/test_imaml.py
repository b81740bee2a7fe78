"""Implicit MAML: closed form, finite differences at the solution, and how it says that a solve went."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.trees import dot, norm, stack_tasks, subtract
from metascale.core.types import Batch, Episode, Params
from metascale.hypergrad.curvature import Diagonal, Exact, FiniteDifference, GaussNewton, Zero
from metascale.hypergrad.linear import CG, Direct, Identity, Neumann, SolveFailed
from metascale.hypergrad.problem import BilevelProblem
from metascale.hypergrad.sama import SAMA
from metascale.meta.gradients import FOMAML, MAML
from metascale.meta.imaml import ImplicitMAML
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.meta.training import MetaTraining
from metascale.testing.learner_contract import check_meta_gradient
from metascale.testing.subjects import QuadraticModel, SmoothClassifier, quadratic_episode
from metascale.training.optimizers import SGD
from tests.meta.episodes import class_episode

STRENGTH = 1.0
MODEL = SmoothClassifier()
EPISODE = MODEL.episode(3)
SOLVED = InnerLoop(SGD(0.4, momentum=0.4), steps=120, proximal=STRENGTH)
TIGHT = CG(max_iterations=60, tol=1e-13)


def query_loss(inner: InnerLoop, theta: Params) -> float:
    *_, last = inner.iterate(MODEL, stack_tasks(theta, EPISODE.n_tasks), EPISODE.support)
    return float(MODEL.losses(last.params, EPISODE.query).mean())


def relative(found: Params, expected: Params) -> float:
    return float(norm(subtract(found, expected)) / norm(expected))


@pytest.mark.parametrize(
    "solver", [CG(tol=1e-14), Neumann(terms=60, step=0.3), Direct()], ids=["cg", "neumann", "direct"]
)
@pytest.mark.parametrize("strength", [0.3, 1.0, 4.0])
def test_closed_form_at_the_proximal_solution(strength: float, solver: CG | Neumann | Direct) -> None:
    """φ − c = λ/(1+λ) · (θ − c), and (I + H/λ)⁻¹ = λ/(1+λ)."""
    if isinstance(solver, Neumann):
        solver = replace(solver, step=strength / (1 + strength))
    model, episode = QuadraticModel(3), quadratic_episode(5, 3)
    theta = model.init(1)
    inner = InnerLoop(SGD(0.9 / (1 + strength)), steps=40, proximal=strength)
    found, report = ImplicitMAML(inner, solver)(model, theta, episode, None)
    expected = (strength / (1 + strength)) ** 2 * (theta["theta"] - episode.query.targets[:, 0].mean(0))
    torch.testing.assert_close(found["theta"], expected, rtol=1e-10, atol=1e-13)
    assert float(report.diagnostics["stationarity"].max()) < 1e-12
    assert float(report.diagnostics["solver_residual"].max()) < 1e-10


def test_it_keeps_the_contract() -> None:
    """After K steps φ − c is [λ/(1+λ) + (1 − a(1+λ))^K / (1+λ)] (θ − c), of which the solve takes λ/(1+λ)."""
    strength = 2.0
    limit = strength / (1 + strength)
    check_meta_gradient(
        lambda rate, steps: ImplicitMAML(InnerLoop(SGD(rate), steps, proximal=strength), TIGHT),
        lambda rate, steps: limit * (limit + (1 - rate * (1 + strength)) ** steps / (1 + strength)),
    )


@pytest.mark.parametrize("adapt", [("*",), ("head*", "hidden.bias")], ids=["all", "some"])
def test_finite_differences_of_the_adapted_query_loss(adapt: tuple[str, ...]) -> None:
    """Also for parameters that do not adapt, whose change moves the solution."""
    inner = replace(SOLVED, adapt=adapt)
    theta = MODEL.init(0)
    found, report = ImplicitMAML(inner, TIGHT)(MODEL, theta, EPISODE, None)
    assert float(report.diagnostics["stationarity"].max()) < 1e-12
    for name in theta:
        direction = torch.randn(theta[name].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        high, low = (query_loss(inner, {**theta, name: theta[name] + s * 1e-5 * direction}) for s in (1, -1))
        assert float((found[name] * direction).sum()) == pytest.approx((high - low) / 2e-5, rel=1e-6, abs=1e-10)


def test_maml_through_enough_proximal_steps_is_the_same() -> None:
    theta = MODEL.init(0)
    implicit, _ = ImplicitMAML(SOLVED, TIGHT)(MODEL, theta, EPISODE, None)
    explicit, _ = MAML(SOLVED)(MODEL, theta, EPISODE, None)
    assert relative(implicit, explicit) < 1e-9
    first, _ = FOMAML(SOLVED)(MODEL, theta, EPISODE, None)
    assert relative(first, explicit) > 0.1


def test_a_strong_pull_leaves_the_query_gradient_at_the_start() -> None:
    inner = InnerLoop(SGD(1e-7), steps=3, proximal=1e6)
    theta = MODEL.init(0)
    found, _ = ImplicitMAML(inner)(MODEL, theta, EPISODE, None)
    expected, _ = FOMAML(InnerLoop(steps=0))(MODEL, theta, EPISODE, None)
    assert relative(found, expected) < 1e-5


def test_one_hessian_for_a_solve_whatever_the_masks_and_windows() -> None:
    """The products of a solve belong to one matrix: the whole support set without dropout, also with probes."""
    inner = replace(SOLVED, steps=20, batch_size=4)
    theta = MODEL.init(0)
    for curvature in (Exact(), GaussNewton(), FiniteDifference(), Diagonal("hutchinson", 50), Diagonal("fisher")):
        solver = CG(max_iterations=60, tol=1e-9)
        _, report = ImplicitMAML(inner, solver, curvature)(MODEL, theta, EPISODE, 3)
        assert float(report.diagnostics["solver_residual"].max()) < (1e-5 if curvature == FiniteDifference() else 1e-8)
        assert float(report.diagnostics["stationarity"].min()) > 1e-6  # windows and masks keep it from the solution


def test_the_identity_gives_what_sama_gives_and_takes_no_second_derivative() -> None:
    """The lower level of one task is s(φ) + λ/2 ‖φ − θ‖², its mixed derivative −λ I: SAMA's answer is λ ∇q(φ)."""

    class OnceOnly(SmoothClassifier):
        def require_second_order(self) -> None:
            raise InputError("no second derivatives here")

    strength = 0.7
    inner, episode, theta = replace(SOLVED, proximal=strength, steps=6), MODEL.episode(1), MODEL.init(0)
    found, report = ImplicitMAML(inner, Identity(measure=False))(OnceOnly(), theta, episode, None)
    *_, last = inner.iterate(MODEL, stack_tasks(theta, 1), episode.support)
    adapted = {name: value[0].detach() for name, value in last.params.items()}

    def lower_loss(phi: Params, start: Params) -> torch.Tensor:
        pull = sum(((phi[name] - start[name]) ** 2).sum() for name in phi)
        return MODEL.losses(stack_tasks(phi, 1), episode.support).sum() + strength / 2 * pull

    def upper_loss(phi: Params, start: Params) -> torch.Tensor:
        return MODEL.losses(stack_tasks(phi, 1), episode.query).sum()

    problem = BilevelProblem(lower_loss, upper_loss)
    sama = SAMA(adapt=False)(problem, adapted, theta).value
    assert relative({name: value / strength for name, value in sama.items()}, found) < 1e-8
    assert "solver_residual" not in report.diagnostics
    with pytest.raises(InputError, match="no second derivatives here"):
        ImplicitMAML(inner, Identity())(OnceOnly(), theta, episode, None)
    some = ImplicitMAML(replace(inner, adapt=("head*",)), Identity(measure=False))
    with pytest.raises(InputError, match="no second derivatives here"):
        some(OnceOnly(), theta, episode, None)


def test_micro_batches_change_nothing() -> None:
    inner = replace(SOLVED, steps=10)
    theta = MODEL.init(0)
    expected, _ = ImplicitMAML(inner, TIGHT)(MODEL, theta, EPISODE, None)
    found, _ = ImplicitMAML(replace(inner, micro_batch=4), TIGHT)(MODEL, theta, EPISODE, None)
    assert relative(found, expected) < 1e-11


def test_too_few_iterations_are_told_and_do_not_stop_training() -> None:
    theta = MODEL.init(0)
    residuals = [
        float(ImplicitMAML(SOLVED, CG(n))(MODEL, theta, EPISODE, None)[1].diagnostics["solver_residual"].max())
        for n in (1, 3, 9)
    ]
    assert residuals[0] > residuals[1] > residuals[2] > 0


class Concave(QuadraticModel):
    """Curvature −2."""

    def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        return -2 * super().losses(params, batch, dropout)


def test_curvature_below_the_proximal_strength_is_an_error() -> None:
    model, episode = Concave(2), quadratic_episode(2, 2)
    with pytest.raises(SolveFailed, match=r"negative curvature.*, or proximal above 1"):
        ImplicitMAML(InnerLoop(SGD(0.01), 3, proximal=1.0))(model, model.init(0), episode, None)
    ImplicitMAML(InnerLoop(SGD(0.01), 3, proximal=3.0))(model, model.init(0), episode, None)


def test_the_learner_records_how_the_solves_went() -> None:
    class Source:
        def episodes(self, split: str, indices: range) -> Episode:
            return MODEL.episode(len(indices))

        def n_tasks(self, split: str) -> int | None:
            return None

        def describe(self) -> dict[str, int]:
            return {}

    learner = MetaLearner(ImplicitMAML(replace(SOLVED, steps=5)), outer=SGD(0.1))
    training = MetaTraining(MODEL, learner, Source(), meta_batch=5)  # type: ignore[arg-type]
    state, row = training.step(training.init(), 0)
    assert 0 < row["stationarity"] < 1
    assert 0 <= row["solver_residual"] < 0.1
    whole, report = learner.step(MODEL, training.init(), EPISODE)
    assert report.diagnostics["stationarity"].shape == (3,)
    adapted = learner.adapt(MODEL, state.params, EPISODE.support, steps=1)
    plain = MetaLearner(FOMAML(replace(SOLVED, proximal=0.0))).adapt(MODEL, state.params, EPISODE.support, steps=1)
    assert relative(adapted, plain) < 1e-12  # the pull is zero at the first step,
    adapted = learner.adapt(MODEL, state.params, EPISODE.support, steps=2)
    plain = MetaLearner(FOMAML(replace(SOLVED, proximal=0.0))).adapt(MODEL, state.params, EPISODE.support, steps=2)
    assert relative(adapted, plain) > 1e-6  # and adaptation at test time has it too
    assert whole.step == 1


def test_no_inner_steps_are_the_query_gradient() -> None:
    theta = MODEL.init(0)
    found, report = ImplicitMAML(replace(SOLVED, steps=0))(MODEL, theta, EPISODE, None)
    expected, _ = FOMAML(InnerLoop(steps=0))(MODEL, theta, EPISODE, None)
    assert relative(found, expected) < 1e-15
    assert report.diagnostics == {}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="proximal strength"):
        ImplicitMAML(InnerLoop())
    with pytest.raises(InputError, match="does not depend on the rates"):
        ImplicitMAML(replace(SOLVED, learn_rates=True))
    with pytest.raises(InputError, match="use FOMAML"):
        ImplicitMAML(SOLVED, curvature=Zero())
    with pytest.raises(InputError, match="proximal of the inner loop must be 0 or more, not -1"):
        InnerLoop(proximal=-1.0)


def test_dropout_masks_are_named_by_the_key() -> None:
    theta, inner = MODEL.init(0), replace(SOLVED, steps=3)
    one, again, two = (ImplicitMAML(inner)(MODEL, theta, EPISODE, key)[0] for key in (1, 1, 2))
    assert relative(one, again) == 0.0
    assert relative(one, two) > 1e-3


def test_dot_products_of_tasks_are_their_own() -> None:
    """A task of much larger gradients does not stop the solve of the others."""
    episode = class_episode(2, (5,))
    theta = MODEL.init(0)
    alone = [ImplicitMAML(SOLVED, CG(4))(MODEL, theta, episode.tasks(i, i + 1), None)[0] for i in range(2)]
    together, _ = ImplicitMAML(SOLVED, CG(4))(MODEL, theta, episode, None)
    mean = {name: (alone[0][name] + alone[1][name]) / 2 for name in together}
    assert relative(together, mean) < 1e-9
    assert float(dot(together, mean)) > 0
