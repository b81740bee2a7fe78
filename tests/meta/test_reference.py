"""Meta-learning of least squares beside an independent loop in NumPy, where every gradient and Hessian is a formula.

Support and query differ in size and numbers, tasks differ, and no factor is one: a term left out changes the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from metascale.core.errors import Diverged
from metascale.core.types import Batch, Episode
from metascale.hypergrad.linear import CG
from metascale.meta.evaluate import adapted_predictor, benchmark, evaluate
from metascale.meta.gradients import FOMAML, MAML, Reptile
from metascale.meta.imaml import ImplicitMAML
from metascale.meta.inner import InnerLoop, kind_of
from metascale.meta.learner import MetaLearner
from metascale.meta.multi_step import MultiStepMAML
from metascale.meta.reverse import FullGraph
from metascale.meta.training import MetaTraining
from metascale.parallel.execution import Execution
from metascale.parallel.stacked import run_together
from metascale.training.optimizers import SGD, Adam
from metascale.training.schedules import named_schedule
from tests.meta.test_learner import FixedSource

RATE, STEPS, N_TASKS, SIZES, DIMENSIONS = 0.2, 4, 3, (5, 7), 3


@dataclass(frozen=True)
class LeastSquares:
    """½ mean (w·x − y)²; w [T, d]."""

    joins_tasks: bool = True
    task_execution: str = "stacked"

    def init(self, seed):
        return {"w": torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)}

    def begin(self, params, support):
        return params

    def predict(self, params, batch, dropout=None):
        return (batch.inputs["x"] * params["w"].unsqueeze(1)).sum(2)

    def losses(self, params, batch, dropout=None):
        return 0.5 * (self.predict(params, batch) - batch.targets).square().mean(1)

    def require_second_order(self):
        return None


def tasks(n_tasks: int = N_TASKS, seed: int = 0) -> list[tuple[np.ndarray, ...]]:
    """Support inputs and targets, query inputs and targets of each task."""
    draw = np.random.default_rng(seed)
    shapes = [shape for size in SIZES for shape in ((size, DIMENSIONS), (size,))]
    return [tuple(draw.standard_normal(shape) for shape in shapes) for _ in range(n_tasks)]


def episode(found: list[tuple[np.ndarray, ...]]) -> Episode:
    x, y, query_x, query_y = (torch.tensor(np.stack(each)) for each in zip(*found, strict=True))
    return Episode(tuple(f"task{i}" for i in range(len(found))), Batch({"x": x}, y), Batch({"x": query_x}, query_y))


@dataclass
class Path:
    """One task's inner steps from θ: parameters w_0 … w_K, dw_k/dθ, dw_k/dα, support losses, steps as taken."""

    w: list[np.ndarray]
    by_theta: list[np.ndarray]
    by_rates: list[np.ndarray]
    losses: list[float]
    moves: list[np.ndarray]


def walk(x, y, theta, rates=1.0, *, factors=(1.0,), window=None, proximal=0.0, clip=math.inf, steps=STEPS) -> Path:
    """The reference: K steps w ← w − a f_k α ∘ (g + λ (w − θ)), g clipped with its pull, and their derivatives."""
    n, eye = len(theta), np.eye(len(theta))
    alpha = rates * np.ones(n)
    path = Path([theta], [eye], [np.zeros((n, n))], [], [])
    for k in range(steps):
        w, by_theta, by_rates = path.w[-1], path.by_theta[-1], path.by_rates[-1]
        rows = [(k * window + i) % len(y) for i in range(window)] if window else range(len(y))
        part_x, part_y = x[rows], y[rows]
        hessian = part_x.T @ part_x / len(rows)
        error = part_x @ w - part_y
        step = part_x.T @ error / len(rows) + proximal * (w - theta)
        step = step * min(1, clip / np.linalg.norm(step))
        size = RATE * factors[min(k, len(factors) - 1)] * alpha
        slope_theta = hessian @ by_theta + proximal * (by_theta - eye)
        slope_rates = (hessian + proximal * eye) @ by_rates
        path.losses.append(0.5 * (error**2).mean())
        path.moves.append(-size / alpha * step)
        path.w.append(w - size * step)
        path.by_theta.append(by_theta - size[:, None] * slope_theta)
        path.by_rates.append(by_rates - size[:, None] * slope_rates + np.diag(path.moves[-1]))
    return path


def query(task, w) -> tuple[float, np.ndarray]:
    """Loss and gradient on the query set."""
    _, _, x, y = task
    return 0.5 * ((x @ w - y) ** 2).mean(), x.T @ (x @ w - y) / len(y)


THETA = np.array([0.5, -1.0, 2.0])
ALPHA = np.array([0.7, 1.3, -0.4])
LOOPS = {
    "plain": {},
    "step_rates": {"factors": (0.5, 1.5)},
    "window": {"window": 2},
    "proximal": {"proximal": 0.6},
    "all": {"factors": (0.5, 1.5), "window": 3, "proximal": 0.6},
}


def loop(factors=(), window=None, proximal=0.0, **options) -> InnerLoop:
    return InnerLoop(SGD(RATE), STEPS, step_rates=factors, batch_size=window, proximal=proximal, **options)


def theta_of(inner: InnerLoop) -> dict[str, torch.Tensor]:
    theta = inner.init(LeastSquares().init(0))
    return {name: torch.tensor(ALPHA) if name == "rate/w" else value for name, value in theta.items()}


def close(found, expected) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-10, atol=1e-13)


def check(estimator, expected, start=0, end=STEPS - 1, theta=None, **options) -> None:
    """The meta-gradient and the report are those of the paths; ``expected(path, query gradient)`` of one task."""
    found_tasks = tasks()
    theta = theta_of(estimator.inner) if theta is None else theta
    gradient, report = estimator(LeastSquares(), theta, episode(found_tasks), None)
    rates = ALPHA if "rate/w" in theta else 1.0
    paths = [walk(x, y, THETA, rates, **options) for x, y, _, _ in found_tasks]
    ends = [query(task, path.w[-1]) for task, path in zip(found_tasks, paths, strict=True)]
    parts = [expected(path, slope) for path, (_, slope) in zip(paths, ends, strict=True)]
    for name in theta:
        close(gradient[name], np.mean([part[name] for part in parts], axis=0))
    close(report.support_loss_start, [path.losses[0] for path in paths])
    close(report.support_loss_end, [path.losses[-1] for path in paths])
    if report.query_loss is not None:
        close(report.query_loss, [loss for loss, _ in ends])
    assert report.task_ids == ("task0", "task1", "task2")


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("through", [None, FullGraph()], ids=["sweep", "graph"])
def test_maml(name, through) -> None:
    estimator = MAML(loop(**LOOPS[name])) if through is None else MAML(loop(**LOOPS[name]), through)
    check(estimator, lambda path, slope: {"w": path.by_theta[-1].T @ slope}, **LOOPS[name])


@pytest.mark.parametrize("name", LOOPS)
def test_learnt_rates(name) -> None:
    check(
        MAML(loop(**LOOPS[name], learn_rates=True)),
        lambda path, slope: {"w": path.by_theta[-1].T @ slope, "rate/w": path.by_rates[-1].T @ slope},
        **LOOPS[name],
    )


@pytest.mark.parametrize("name", LOOPS)
def test_first_order(name) -> None:
    """Of θ the query gradient; of a rate, that times the sum of the steps without the rate."""
    check(FOMAML(loop(**LOOPS[name])), lambda path, slope: {"w": slope}, **LOOPS[name])
    check(
        FOMAML(loop(**LOOPS[name], learn_rates=True)),
        lambda path, slope: {"w": slope, "rate/w": slope * np.sum(path.moves, axis=0)},
        **LOOPS[name],
    )


@pytest.mark.parametrize("clip", [0.3, 1e9])
def test_clipping_is_of_the_task_and_after_the_proximal_term(clip) -> None:
    inner = replace(loop(proximal=0.6), clip=clip)
    check(FOMAML(inner), lambda path, slope: {"w": slope}, proximal=0.6, clip=clip)
    check(Reptile(inner), lambda path, slope: {"w": THETA - path.w[-1]}, proximal=0.6, clip=clip)


def test_reptile_on_support_and_on_all() -> None:
    check(Reptile(loop()), lambda path, slope: {"w": THETA - path.w[-1]})
    check(Reptile(loop(), report_query=True), lambda path, slope: {"w": THETA - path.w[-1]})
    found = tasks()
    gradient, report = Reptile(loop(), data="all")(LeastSquares(), theta_of(loop()), episode(found), None)
    paths = [walk(np.concatenate([x, qx]), np.concatenate([y, qy]), THETA) for x, y, qx, qy in found]
    close(gradient["w"], np.mean([THETA - path.w[-1] for path in paths], axis=0))
    close(report.support_loss_start, [path.losses[0] for path in paths])


def test_reptile_reports_the_query_loss_when_asked_and_not_otherwise() -> None:
    found = tasks()
    for asked in (True, False):
        _, report = Reptile(loop(), report_query=asked)(LeastSquares(), theta_of(loop()), episode(found), None)
        assert (report.query_loss is not None) is asked


@pytest.mark.parametrize("step", [0, 1, 3, 9])
def test_losses_after_every_step(step) -> None:
    """MAML++ with 4 outer steps of several losses: w_k = (1 − step/4)/K for k < K, at least 0.03/K before step 4."""
    early = [1 / 4, 0.75 / 4, None, 0.25 / 4][step] if step < 4 else 0.0
    weights = [early] * (STEPS - 1) + [1 - (STEPS - 1) * early]
    found = tasks()
    estimator = MultiStepMAML(loop(), multi_step=4).at(step)
    assert estimator.weights == pytest.approx(weights)
    gradient, _ = estimator(LeastSquares(), theta_of(loop()), episode(found), None)
    expected = []
    for task in found:
        path = walk(task[0], task[1], THETA)
        expected.append(
            sum(weight * path.by_theta[k].T @ query(task, path.w[k])[1] for k, weight in enumerate(weights, 1))
        )
    close(gradient["w"], np.mean(expected, axis=0))
    first_order, _ = MultiStepMAML(loop(), multi_step=4, first_order=step + 1, step=step)(
        LeastSquares(), theta_of(loop()), episode(found), None
    )
    plain = [
        sum(w * query(task, path.w[k])[1] for k, w in enumerate(weights, 1))
        for task in found
        for path in [walk(task[0], task[1], THETA)]
    ]
    close(first_order["w"], np.mean(plain, axis=0))


def test_the_least_share_of_an_earlier_loss() -> None:
    """At 99 of 100 outer steps the line is at 0.01 and the least is 0.03: 0.03/4 each, 1 − 3·0.0075 the last."""
    assert MultiStepMAML(loop(), multi_step=100, step=99).weights == pytest.approx([0.0075] * 3 + [0.9775])


def test_implicit() -> None:
    """(I + H/λ)⁻¹ ∇q at the φ that the loop reached, H of the whole support set; and how near the solution φ is."""
    found, strength = tasks(), 0.8
    inner = loop(proximal=strength)
    gradient, report = ImplicitMAML(inner, CG(max_iterations=30))(LeastSquares(), theta_of(inner), episode(found), None)
    expected, stationarity = [], []
    for task in found:
        x, y, _, _ = task
        phi = walk(x, y, THETA, proximal=strength).w[-1]
        expected.append(np.linalg.solve(np.eye(3) + x.T @ x / len(y) / strength, query(task, phi)[1]))
        slope, pull = x.T @ (x @ phi - y) / len(y), strength * (phi - THETA)
        stationarity.append(np.linalg.norm(slope + pull) / (np.linalg.norm(slope) + np.linalg.norm(pull)))
    close(gradient["w"], np.mean(expected, axis=0))
    close(report.diagnostics["stationarity"], stationarity)
    assert (report.diagnostics["solver_residual"] < 1e-12).all()


@pytest.mark.parametrize(("clip", "chunk"), [(None, None), (0.05, 2)])
def test_outer_steps(clip, chunk) -> None:
    """θ ← θ − ε f(k) clip(mean of the tasks), over two steps; chunks of unequal size weigh by their tasks."""
    found = tasks()
    learner = MetaLearner(
        MAML(loop()), SGD(0.3), clip=clip, rate=named_schedule("linear", 4), execution=Execution(chunk=chunk)
    )
    model, theta = LeastSquares(), THETA
    state = learner.init(model, 0)
    for factor in (1.0, 0.75):
        state, report = learner.step(model, state, episode(found))
        paths = [walk(x, y, theta) for x, y, _, _ in found]
        slopes = [path.by_theta[-1].T @ query(t, path.w[-1])[1] for t, path in zip(found, paths, strict=True)]
        mean = np.mean(slopes, axis=0)
        norm = np.linalg.norm(mean)
        assert report.meta_gradient_norm == pytest.approx(norm)
        assert report.task_ids == ("task0", "task1", "task2")
        theta = theta - 0.3 * factor * mean * (1 if clip is None else min(1, clip / norm))
        close(state.params["w"], theta)
    assert state.step == 2


def test_the_row_of_an_outer_step_has_means_over_tasks_and_the_spread_of_the_query_loss() -> None:
    found = tasks()
    training = MetaTraining(LeastSquares(), MetaLearner(MAML(loop()), SGD(0.3)), FixedSource(episode(found)), 3)
    _, row = training.step(training.init(), 0)
    paths = [walk(x, y, THETA) for x, y, _, _ in found]
    losses = [query(task, path.w[-1])[0] for task, path in zip(found, paths, strict=True)]
    assert row["support_loss_start_nats"] == pytest.approx(np.mean([path.losses[0] for path in paths]))
    assert row["support_loss_end_nats"] == pytest.approx(np.mean([path.losses[-1] for path in paths]))
    assert row["query_loss_nats"] == pytest.approx(np.mean(losses))
    assert row["query_loss_std_nats"] == pytest.approx(np.std(losses, ddof=1))
    reptile = MetaTraining(LeastSquares(), MetaLearner(Reptile(loop())), FixedSource(episode(found)), 2)
    _, row = reptile.step(reptile.init(), 0)
    assert set(row) == {"meta_gradient_norm", "support_loss_start_nats", "support_loss_end_nats"}
    one = replace(training, source=FixedSource(episode(found[1:2])), meta_batch=1)
    assert one.step(one.init(), 0)[1]["query_loss_std_nats"] == 0
    none = replace(training, learner=MetaLearner(MAML(replace(loop(), steps=0)), SGD(0.3)))
    assert not {name for name in none.step(none.init(), 0)[1] if name.startswith("support")}


def test_evaluation_is_of_the_adapted_parameters_with_errors_across_tasks() -> None:
    found = tasks(5, seed=1)
    predictor = adapted_predictor(LeastSquares(), loop(), LeastSquares().init(0), [0, 2, STEPS + 2])
    result = evaluate(predictor, FixedSource(episode(found)), n_tasks=5, batch=2)
    assert result.inner_steps == (0, 2, 6)
    for steps in result.inner_steps:
        # A predictor's loss of real values is the mean square, twice the ½ of training.
        losses = [2 * query(task, walk(task[0], task[1], THETA, steps=steps).w[-1])[0] for task in found]
        close(result.loss_nats[:, result.inner_steps.index(steps)], losses)
        row = result.at(steps)
        assert row["loss_nats"] == pytest.approx(np.mean(losses))
        assert row["loss_sem_nats"] == pytest.approx(np.std(losses, ddof=1) / math.sqrt(5))
    mean, half = benchmark(predictor, FixedSource(episode(found)), n_episodes=5).loss_nats
    assert half == pytest.approx(2.7764451 * np.std(losses, ddof=1) / math.sqrt(5))  # t at 0.975 with 4 degrees
    assert mean == pytest.approx(np.mean(losses))


def test_validation_is_of_the_first_tasks_after_the_steps_asked_for() -> None:
    found = tasks(5, seed=1)
    learner = MetaLearner(MAML(loop()), SGD(0.3))
    for eval_steps, steps in ((None, STEPS), (1, 1)):
        training = MetaTraining(
            LeastSquares(), learner, FixedSource(episode(found)), 3, n_validation=4, eval_steps=eval_steps, eval_batch=3
        )
        losses = [2 * query(task, walk(task[0], task[1], THETA, steps=steps).w[-1])[0] for task in found[:4]]
        row = training.validate(training.init())
        assert row["validation_loss_nats"] == pytest.approx(np.mean(losses))
        assert row["validation_loss_sem_nats"] == pytest.approx(np.std(losses, ddof=1) / 2)


def test_trials_of_several_rates_in_one_call_are_each_its_own() -> None:
    """Two learners of 8 tasks each, with other inner rates and other θ: what each would find alone."""
    parts = [tasks(8, seed=2), tasks(8, seed=3)]
    learners = [
        MetaLearner(gradient(InnerLoop(SGD(rate), 3))) for gradient in (MAML, FOMAML, Reptile) for rate in (0.1, 0.3)
    ]
    for first in (0, 2, 4):
        pair, calls = learners[first : first + 2], []
        found: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

        class Counting(LeastSquares):
            def losses(self, params, batch, dropout=None, calls=calls):
                calls.append(batch.n_tasks)
                return super().losses(params, batch, dropout)

        model = Counting()

        def run(place, pair=pair, found=found, model=model):
            theta = {"w": torch.tensor(THETA * (1 + place))}
            gradient, report = pair[place].meta_gradient(model, theta, episode(parts[place]))
            predictor = adapted_predictor(model, pair[place].gradient.inner, theta, [2])
            result = evaluate(predictor, FixedSource(episode(parts[place])), n_tasks=8)
            found[place] = gradient["w"].numpy(), report.support_loss_end.numpy(), result.loss_nats

        run_together([lambda place=place: run(place) for place in range(2)])
        assert set(calls) == {16}
        for place, learner in enumerate(pair):
            alone, report = learner.gradient(
                LeastSquares(), {"w": torch.tensor(THETA * (1 + place))}, episode(parts[place]), None
            )
            close(found[place][0], alone["w"])
            close(found[place][1], report.support_loss_end)
            rate = learner.gradient.inner.optimizer.lr
            for index, (x, y, query_x, query_y) in enumerate(parts[place]):
                w = THETA * (1 + place)
                for _ in range(2):
                    w = w - rate * x.T @ (x @ w - y) / len(y)
                assert found[place][2][index, 0] == pytest.approx(((query_x @ w - query_y) ** 2).mean())


def test_what_may_share_a_loop() -> None:
    """All but the rate is the same; a clip, learnt matrices and an optimiser without a rate of each task run alone."""
    assert kind_of(loop()) == kind_of(replace(loop(), optimizer=SGD(0.7)))
    assert kind_of(loop()) is not None
    assert kind_of(loop()) != kind_of(replace(loop(), steps=5))
    assert kind_of(loop()) != kind_of(replace(loop(), optimizer=Adam(RATE)))
    assert kind_of(replace(loop(), clip=1.0)) is None
    assert kind_of(replace(loop(), learn_rates=True)) is not None
    assert kind_of(replace(loop(), rates_by="mode")) is not None
    assert kind_of(replace(loop(), learn_rates=True, rates_by="mode")) is None


def test_a_task_whose_loss_is_not_finite_is_named_with_the_step() -> None:
    found = episode(tasks())
    bad = found.query.targets.clone()
    bad[1, 0] = math.inf
    learner = MetaLearner(FOMAML(loop()))
    state = replace(learner.init(LeastSquares(), 0), step=6)
    with pytest.raises(Diverged, match="task1 is not finite at outer step 6") as caught:
        learner.step(LeastSquares(), state, replace(found, query=replace(found.query, targets=bad)))
    assert (caught.value.step, caught.value.task_ids) == (6, ("task1",))
