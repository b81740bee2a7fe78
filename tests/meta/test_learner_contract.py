"""Every shipped meta-gradient keeps the contract, and the contract catches estimators that break it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from metascale.core.trees import mean_tasks, scale, stack_tasks
from metascale.core.types import Episode, Model, Params
from metascale.meta.gradients import FOMAML, MAML, EpisodeReport, MetaGradient, Reptile, query_gradient
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.meta.reverse import FullGraph
from metascale.models.perceptron import Perceptron
from metascale.parallel.execution import Execution
from metascale.testing.learner_contract import check_meta_gradient
from metascale.testing.model_contract import check_model
from metascale.testing.subjects import QuadraticModel, SmoothClassifier, quadratic_episode
from metascale.training.optimizers import SGD
from tests.meta.episodes import class_episode

Make = Callable[[InnerLoop], MetaGradient]
FACTORS: dict[str, Callable[[float, int], float]] = {
    "maml": lambda rate, steps: (1 - rate) ** (2 * steps),
    "fomaml": lambda rate, steps: (1 - rate) ** steps,
    "reptile": lambda rate, steps: 1 - (1 - rate) ** steps,
}
SHIPPED: dict[str, tuple[Make, str, dict[str, Any]]] = {
    "reptile": (Reptile, "reptile", {}),
    "reptile on all data": (lambda inner: Reptile(inner, data="all"), "reptile", {}),
    "reptile with query report": (lambda inner: Reptile(inner, report_query=True), "reptile", {}),
    "fomaml": (FOMAML, "fomaml", {}),
    "maml exact": (MAML, "maml", {}),
    "maml unrolled": (lambda inner: MAML(inner, FullGraph()), "maml", {}),
    "meta-sgd exact": (MAML, "maml", {"learn_rates": True}),
    "meta-sgd unrolled": (lambda inner: MAML(inner, FullGraph()), "maml", {"learn_rates": True}),
    "first-order meta-sgd": (FOMAML, "fomaml", {"learn_rates": True}),
    "meta-curvature exact": (MAML, "maml", {"learn_rates": True, "rates_by": "mode"}),
    "meta-curvature unrolled": (
        lambda inner: MAML(inner, FullGraph()),
        "maml",
        {"learn_rates": True, "rates_by": "mode"},
    ),
    "first-order meta-curvature": (FOMAML, "fomaml", {"learn_rates": True, "rates_by": "mode"}),
}


def factory(make: Make, **settings: Any) -> Callable[[float, int], MetaGradient]:
    return lambda rate, steps: make(InnerLoop(SGD(rate), steps, **settings))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_meta_gradients_keep_the_contract(name: str) -> None:
    make, kind, settings = SHIPPED[name]
    check_meta_gradient(factory(make, **settings), FACTORS[kind], exact=kind == "maml")


@pytest.mark.parametrize("make", [MAML, FOMAML, Reptile], ids=lambda make: make.__name__)
def test_they_keep_it_on_a_model_of_ones_own_and_with_partial_adaptation(make: Make) -> None:
    class DoublePrecision(Perceptron):
        def init(self, seed: int) -> Params:
            return {name: value.double() for name, value in super().init(seed).items()}

    model = DoublePrecision(n_inputs=5, n_outputs=3, width=7, depth=1, activation="gelu")
    settings: dict[str, Any] = {"model": model, "episode": class_episode(3, (5,)), "exact": make is MAML}
    check_meta_gradient(factory(make), **settings)
    check_meta_gradient(lambda rate, steps: make(InnerLoop(SGD(rate), steps, clip=0.1, batch_size=4)), **settings)


def test_the_contracts_own_model_keeps_the_contract_of_models() -> None:
    model = SmoothClassifier()
    check_model(
        model,
        lambda n_tasks, n_examples, seed: model.episode(n_tasks, seed).support.examples(0, n_examples),
        dtype=torch.float64,
        smooth=True,
        drops_out=True,
    )


@pytest.mark.parametrize("make", [MAML, FOMAML, Reptile], ids=lambda make: make.__name__)
def test_the_learner_runs_uneven_chunks_on_threads_as_one(make: Make) -> None:
    """What the contract asks of an estimator is what `Execution` builds on."""
    model = SmoothClassifier(dropout_rate=0.0)  # masks belong to a chunk: without them the numbers are the same
    learner = MetaLearner(make(InnerLoop(SGD(0.2), 3)), outer=SGD(0.5))
    state, episode = learner.init(model, 0), model.episode(5)
    whole, _ = learner.step(model, state, episode)
    found, _ = replace(learner, execution=Execution(chunk=2, workers=2)).step(model, state, episode)
    for name, value in whole.params.items():
        torch.testing.assert_close(found.params[name], value, rtol=1e-10, atol=1e-12)


def test_meta_sgd_rates_have_a_closed_form_on_quadratics() -> None:
    """K steps at rate aα leave (1−aα)^K (θ − c), so d/dα of ½(1−aα)^{2K}(θ − c)² is −aK(1−aα)^{2K−1}(θ − c)²."""
    rate, steps, model, episode = 0.3, 4, QuadraticModel(4), quadratic_episode(3, 4)
    estimator = MAML(InnerLoop(SGD(rate), steps, learn_rates=True))
    theta = estimator.inner.init(model.init(1))
    found, _ = estimator(model, theta, episode, None)
    squares = (theta["theta"] - episode.query.targets[:, 0]).square().mean(0)
    expected = -rate * steps * (1 - rate) ** (2 * steps - 1) * squares
    torch.testing.assert_close(found["rate/theta"], expected, rtol=1e-12, atol=1e-14)


@dataclass
class Broken:
    """First-order MAML with one promise broken."""

    fault: str
    inner: InnerLoop = field(default_factory=InnerLoop)
    calls: int = 0

    def __call__(self, model: Model, theta: Params, episode: Episode, key: int | None) -> tuple[Params, EpisodeReport]:
        if self.fault == "ignores the key":
            key = None
        if self.fault == "uses a global generator":
            torch.rand(1)
        grads, report = FOMAML(self.inner)(model, theta, episode, key)
        return getattr(self, self.fault.replace(" ", "_"), self.unchanged)(model, theta, episode, grads, report)

    def unchanged(self, model: Model, theta: Params, episode: Episode, grads: Params, report: EpisodeReport) -> Any:
        return grads, report

    def sums_over_tasks(
        self, model: Model, theta: Params, episode: Episode, grads: Params, report: EpisodeReport
    ) -> Any:
        return scale(grads, float(episode.n_tasks)), report

    def returns_an_update(
        self, model: Model, theta: Params, episode: Episode, grads: Params, report: EpisodeReport
    ) -> Any:
        return scale(grads, -1.0), report

    def changes_theta(self, model: Model, theta: Params, episode: Episode, grads: Params, report: EpisodeReport) -> Any:
        for name, value in theta.items():
            value.sub_(grads[name], alpha=1e-9)
        return grads, report

    def does_not_adapt(
        self, model: Model, theta: Params, episode: Episode, grads: Params, report: EpisodeReport
    ) -> Any:
        _, grads = query_gradient(model, stack_tasks(theta, episode.n_tasks), episode.query, None)
        return mean_tasks(grads), report

    def keeps_history(self, model: Model, theta: Params, episode: Episode, grads: Params, report: EpisodeReport) -> Any:
        return {name: value.clone().requires_grad_(True) for name, value in grads.items()}, report

    def drops_a_parameter(
        self, model: Model, theta: Params, episode: Episode, grads: Params, report: EpisodeReport
    ) -> Any:
        return dict(list(grads.items())[1:]), report

    def remembers(self, model: Model, theta: Params, episode: Episode, grads: Params, report: EpisodeReport) -> Any:
        self.calls += 1
        return scale(grads, 1.0 + 1e-12 * self.calls), report

    def reports_the_mean(
        self, model: Model, theta: Params, episode: Episode, grads: Params, report: EpisodeReport
    ) -> Any:
        mean = report.support_loss_end.mean().expand(episode.n_tasks)
        return grads, replace(report, support_loss_end=mean)

    def reports_a_scalar(
        self, model: Model, theta: Params, episode: Episode, grads: Params, report: EpisodeReport
    ) -> Any:
        return grads, replace(report, query_loss=report.support_loss_end.mean())

    def is_not_finite(self, model: Model, theta: Params, episode: Episode, grads: Params, report: EpisodeReport) -> Any:
        return {name: value / 0.0 for name, value in grads.items()}, report


FAULTS = {
    "sums over tasks": "is off by",
    "returns an update": "must point along mean",
    "changes theta": "must not change θ",
    "does not adapt": "at rate 0.3 and 1 steps the meta-gradient",
    "keeps history": "must carry no history",
    "drops a parameter": "the meta-gradient must name",
    "remembers": "the same meta-gradient, bit for bit",
    "reports the mean": "the report must not depend on the other tasks",
    "reports a scalar": r"query_loss of the report must have shape \[T\]",
    "is not finite": "must be finite",
    "ignores the key": "another key must give other dropout masks",
    "uses a global generator": "a global random generator was used",
}


def test_the_sound_version_of_the_broken_ones_keeps_the_contract() -> None:
    check_meta_gradient(factory(lambda inner: Broken("nothing", inner)), FACTORS["fomaml"])


@pytest.mark.parametrize("fault", FAULTS)
def test_the_contract_catches(fault: str) -> None:
    with pytest.raises(AssertionError, match=FAULTS[fault]):
        check_meta_gradient(factory(lambda inner: Broken(fault, inner)), FACTORS["fomaml"])


def test_without_a_factor_the_sum_over_tasks_is_still_caught() -> None:
    with pytest.raises(AssertionError, match="must be the mean over tasks"):
        check_meta_gradient(factory(lambda inner: Broken("sums over tasks", inner)))


def test_a_first_order_estimate_is_not_exact() -> None:
    with pytest.raises(AssertionError, match="the central difference of the adapted query loss"):
        check_meta_gradient(factory(FOMAML), exact=True)


def test_learnt_rates_with_a_wrong_derivative_are_caught() -> None:
    """First-order rates are off at more than one step, even where θ's own gradient would be right."""

    @dataclass(frozen=True)
    class HalfExact:
        inner: InnerLoop

        def __call__(
            self, model: Model, theta: Params, episode: Episode, key: int | None
        ) -> tuple[Params, EpisodeReport]:
            exact, report = MAML(self.inner)(model, theta, episode, key)
            first, _ = FOMAML(self.inner)(model, theta, episode, key)
            return {name: first[name] if name.startswith("rate/") else value for name, value in exact.items()}, report

    with pytest.raises(AssertionError, match="the meta-gradient of the learnt rates"):
        check_meta_gradient(factory(HalfExact, learn_rates=True), FACTORS["maml"], exact=True)
