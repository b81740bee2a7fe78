"""Inner loop, estimators and learner by hand: options, boundaries, refusals in full, and what is passed on to whom."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from metascale.core.dropout import dropout_key
from metascale.core.errors import Diverged, InputError
from metascale.core.streams import address
from metascale.core.trees import stack_tasks
from metascale.core.types import Batch, Episode, Params
from metascale.hypergrad.curvature import (
    BlockDiagonal,
    Diagonal,
    Exact,
    FiniteDifference,
    GaussNewton,
    LossPoint,
    Zero,
)
from metascale.hypergrad.linear import CG, Identity
from metascale.meta.gradients import (
    FOMAML,
    MAML,
    EpisodeReport,
    Reptile,
    complete,
    ends,
    episode_report,
    profile_gradient,
    query_gradient,
)
from metascale.meta.imaml import ImplicitMAML
from metascale.meta.inner import (
    InnerLoop,
    InnerState,
    after,
    at_step,
    join_loops,
    joins_tasks,
    kind_of,
    loss_parts,
    product_parts,
    without_history,
)
from metascale.meta.learner import MetaLearner, _Estimate, _refuse_non_finite
from metascale.meta.meta_curvature import identities, modes_of, turned
from metascale.meta.multi_step import MultiStepMAML
from metascale.meta.reverse import KEYLESS, FullGraph, named_through
from metascale.parallel.execution import Execution
from metascale.testing.subjects import QuadraticModel, SmoothClassifier, quadratic_episode
from metascale.training.optimizers import SGD, Adam, TaskRates
from tests.meta.test_reference import ALPHA, RATE, STEPS, THETA, LeastSquares, close, episode, loop, query, tasks, walk


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


# ---------------------------------------------------------------------------------------------------------- refusals

REFUSED: dict[str, tuple[Callable[[], object], str, str | None]] = {
    "steps": (lambda: InnerLoop(steps=-1), "an inner loop takes 0 or more steps, not -1", "steps"),
    "proximal": (
        lambda: InnerLoop(proximal=-0.5), "proximal of the inner loop must be 0 or more, not -0.5", "proximal",
    ),
    "clip": (lambda: InnerLoop(clip=0), "clip of the inner loop must be positive, not 0", "clip"),
    "window": (lambda: InnerLoop(batch_size=0), "batch_size of the inner loop must be at least 1, not 0", "batch_size"),
    "micro-batch": (
        lambda: InnerLoop(micro_batch=0), "micro_batch of the inner loop must be at least 1, not 0", "micro_batch",
    ),
    "kept": (
        lambda: InnerLoop(keep_gradients=0), "keep_gradients of the inner loop must be at least 1, not 0",
        "keep_gradients",
    ),
    "rates of no step": (
        lambda: InnerLoop(steps=0, learn_rates=True, rates_by="step").init({"w": torch.ones(1)}),
        "rates of single inner steps need at least one inner step", "rates_by",
    ),
    "outer clip": (lambda: MetaLearner(FOMAML(), clip=0), "clip of the learner must be positive, not 0", "clip"),
    "weights": (
        lambda: MultiStepMAML(multi_step=-1), "multi_step must be 0 or more outer steps, not -1", "multi_step",
    ),
    "first order": (
        lambda: MultiStepMAML(first_order=-2), "first_order must be 0 or more outer steps, not -2", "first_order",
    ),
    "losses of no step": (
        lambda: MultiStepMAML(InnerLoop(steps=0)), "losses after inner steps need at least one inner step",
        "inner_steps",
    ),
    "no pull": (
        lambda: ImplicitMAML(InnerLoop()),
        "implicit MAML needs an inner loop with a proximal strength: InnerLoop(..., proximal=2.0)", None,
    ),
    "adapt": (
        lambda: InnerLoop(adapt=("head*", "q")).adapted_names({"w": torch.ones(1), "b": torch.ones(1)}),
        "no parameter matches ['head*', 'q']; the model has: w, b", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    make, message, where = REFUSED[name]
    with pytest.raises(InputError, match=exactly(message)) as caught:
        make()
    assert caught.value.field == where


def test_the_least_that_is_allowed() -> None:
    InnerLoop(steps=0, proximal=0.0, clip=1e-9, batch_size=1, micro_batch=1, keep_gradients=1)
    InnerLoop(steps=1, learn_rates=True, rates_by="step").init({"w": torch.ones(2)})
    MetaLearner(FOMAML(), clip=1e-9)
    MultiStepMAML(InnerLoop(steps=1), multi_step=0, first_order=0)
    ImplicitMAML(InnerLoop(proximal=1e-9))


def test_names_of_the_ways_back() -> None:
    ways = {
        "unrolled": FullGraph(), "exact": Exact(), "gauss_newton": GaussNewton(), "block_diagonal": BlockDiagonal(),
        "diagonal": Diagonal("fisher"), "diagonal_hutchinson": Diagonal("hutchinson", 3),
        "finite_difference": FiniteDifference(), "none": Zero(),
    }  # fmt: skip
    assert {name: named_through(name, 3) for name in ways} == ways
    assert named_through("diagonal_hutchinson") == Diagonal("hutchinson", 1)
    allowed = ", ".join(f"'{name}'" for name in ways)
    with pytest.raises(InputError, match=exactly(f"there is no curvature 'x'; allowed are {allowed}")) as caught:
        named_through("x")
    assert (caught.value.field, caught.value.value, caught.value.allowed) == ("through", "x", allowed)


# -------------------------------------------------------------------------------------------------- parts of a batch


def batch_of(n_examples: int, n_tasks: int = 2) -> Batch:
    draw = np.random.default_rng(7)
    x, y = draw.standard_normal((n_tasks, n_examples, 3)), draw.standard_normal((n_tasks, n_examples))
    return Batch({"x": torch.tensor(x)}, torch.tensor(y))


@pytest.mark.parametrize(
    ("micro_batch", "sizes"), [(None, [5]), (5, [5]), (6, [5]), (4, [4, 1]), (2, [2, 2, 1]), (1, [1] * 5)]
)
def test_parts_have_the_weights_of_their_examples(micro_batch: int | None, sizes: list[int]) -> None:
    batch, params = batch_of(5), {"w": torch.tensor(np.stack([THETA, ALPHA]))}
    parts = loss_parts(LeastSquares(), batch, micro_batch, None)
    assert [part.n_examples for part in parts] == sizes
    assert [part.weight for part in parts] == pytest.approx([size / 5 for size in sizes])
    start = 0
    for part, size in zip(parts, sizes, strict=True):
        x, y = (each[:, start : start + size].numpy() for each in (batch.inputs["x"], batch.targets))
        error = np.einsum("tbd,td->tb", x, params["w"].numpy()) - y
        close(part.losses(params), 0.5 * (error**2).mean(1))
        start += size
        # Every example as a task: tasks one after another, each with its examples.
        assert part.example_losses is not None
        each = {"w": params["w"].repeat_interleave(size, 0)}
        close(part.example_losses(each), 0.5 * (error**2).flatten())
        assert (part.outputs, part.output_losses) == (None, None)


def test_parts_of_a_model_with_outputs_and_with_batch_statistics() -> None:
    model = SmoothClassifier()
    params, batch = stack_tasks(model.init(0), 2), model.episode(2).support
    (part,) = loss_parts(model, batch, None, 3)
    assert part.outputs is not None
    assert part.output_losses is not None
    close(part.outputs(params), model.predict(params, batch, 3))
    close(part.losses(params), model.losses(params, batch, 3))
    close(part.output_losses(part.outputs(params)), model.losses(params, batch, 3))
    assert not torch.equal(part.losses(params), model.losses(params, batch))

    class Coupled(LeastSquares):
        batch_statistics = True

    (whole,) = loss_parts(Coupled(), batch_of(5), 5, None)
    assert whole.example_losses is None
    message = "micro_batch=4 would change the loss of a model with batch statistics (Coupled); leave it out"
    with pytest.raises(InputError, match=exactly(message)):
        loss_parts(Coupled(), batch_of(5), 4, None)


def test_parts_keep_the_masks_of_the_whole() -> None:
    model = SmoothClassifier()
    params, batch = stack_tasks(model.init(0), 2), model.episode(2).support
    parts = loss_parts(model, batch, 4, 3)
    close(sum(part.weight * part.losses(params) for part in parts), model.losses(params, batch, 3))


@pytest.mark.parametrize(
    ("curvature", "micro_batch", "sizes"),
    [
        (Exact(), None, [6]), (Exact(), 6, [6]), (Exact(), 5, [2, 2, 2]), (Exact(), 4, [2, 2, 2]),
        (Exact(), 1, [1] * 6), (FiniteDifference(), 4, [4, 2]), (GaussNewton(), 8, [6]),
    ],
)  # fmt: skip
def test_products_that_keep_a_graph_take_half_as_many_examples(
    curvature: Any, micro_batch: int | None, sizes: list[int]
) -> None:
    parts = product_parts(curvature, LeastSquares(), batch_of(6), micro_batch, None)
    assert [part.n_examples for part in parts] == sizes
    inner = loop(micro_batch=micro_batch)
    assert [part.n_examples for part in inner.objective(LeastSquares(), batch_of(6), 0, None, curvature)] == sizes


@pytest.mark.parametrize(("window", "step", "rows"), [
    (None, 3, [0, 1, 2, 3, 4]), (5, 3, [0, 1, 2, 3, 4]), (9, 1, [0, 1, 2, 3, 4]), (2, 0, [0, 1]), (2, 1, [2, 3]),
    (2, 2, [4, 0]), (2, 3, [1, 2]), (4, 1, [4, 0, 1, 2]),
])  # fmt: skip
def test_windows(window: int | None, step: int, rows: list[int]) -> None:
    batch = Batch({"x": torch.arange(10).view(2, 5, 1)}, torch.arange(10).view(2, 5))
    seen = InnerLoop(batch_size=window)._minibatch(batch, step)
    assert seen.targets.tolist() == [rows, [5 + row for row in rows]]
    assert seen.inputs["x"].flatten(1).tolist() == seen.targets.tolist()


@dataclass(frozen=True)
class Stepped(LeastSquares):
    """Another model at every inner step: the loss of step k is k + 1 times as large."""

    step: int = -1
    seen: list[tuple[str, int]] = field(default_factory=list, compare=False)

    def at_step(self, step: int) -> Stepped:
        return replace(self, step=step)

    def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        self.seen.append(("losses", self.step))
        return (self.step + 1) * super().losses(params, batch)

    def predict(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        self.seen.append(("predict", self.step))
        return super().predict(params, batch)


def test_the_model_of_an_inner_step() -> None:
    assert at_step(LeastSquares(), 4) == LeastSquares()
    assert at_step(Stepped(), 4).step == 4  # type: ignore[attr-defined]
    assert [after(Stepped(), steps).step for steps in (0, 1, 2, 5)] == [0, 0, 1, 4]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "estimator",
    [
        FOMAML(loop()), MAML(loop()), MAML(loop(), FullGraph()), Reptile(loop(), report_query=True),
        ImplicitMAML(loop(proximal=0.5)), MultiStepMAML(loop()),
    ],
    ids=lambda each: type(each).__name__,
)  # fmt: skip
def test_the_query_set_sees_the_model_of_the_last_step(estimator: Any) -> None:
    """φ_K by steps of the growing losses; the query loss then is K times as large."""
    found = tasks(1)
    x, y, _, _ = found[0]
    w = THETA
    for k in range(STEPS):
        w = w - RATE * ((k + 1) * x.T @ (x @ w - y) / len(y) + estimator.inner.proximal * (w - THETA))
    _, report = estimator(Stepped(), {"w": torch.tensor(THETA)}, episode(found), None)
    close(report.query_loss, [STEPS * query(found[0], w)[0]])


# --------------------------------------------------------------------------------------------------------- inner loop


def test_meta_parameters_of_each_kind_of_rate() -> None:
    own = {"a": torch.zeros(2, 3), "b": torch.zeros(3), "c": torch.zeros((), dtype=torch.float64)}
    assert InnerLoop(steps=4).init(own) is own
    by_element = InnerLoop(steps=4, learn_rates=True, adapt=("a", "c")).init(own)
    assert list(by_element) == ["a", "b", "c", "rate/a", "rate/c"]
    assert torch.equal(by_element["rate/a"], torch.ones(2, 3))
    assert by_element["rate/c"].dtype == torch.float64
    by_step = InnerLoop(steps=4, learn_rates=True, rates_by="step").init(own)
    assert [tuple(by_step[f"rate/{name}"].shape) for name in own] == [(4,)] * 3
    assert all(bool((by_step[f"rate/{name}"] == 1).all()) for name in own)
    by_mode = InnerLoop(steps=4, learn_rates=True, rates_by="mode").init(own)
    assert list(by_mode)[3:] == ["rate/a/mode0", "rate/a/mode1", "rate/b/mode0", "rate/c/mode0"]
    assert torch.equal(by_mode["rate/a/mode1"], torch.eye(3))
    assert torch.equal(by_mode["rate/b/mode0"], torch.ones(3))
    assert InnerLoop(adapt=("*",)).adapted_names(by_mode) == ("a", "b", "c")
    assert InnerLoop(adapt=("[bc]", "a")).adapted_names(by_mode) == ("a", "b", "c")
    assert InnerLoop(adapt=("c", "b*")).adapted_names(by_mode) == ("b", "c")


def test_the_start_of_the_inner_loop() -> None:
    theta = {"a": torch.ones(2, 3, requires_grad=True), "b": torch.ones(2, 1), "rate/a": torch.ones(2, 3)}
    state = InnerLoop(SGD(0.1, momentum=0.5), adapt=("a",), proximal=0.5).start(LeastSquares(), theta, batch_of(2))
    assert list(state.params) == ["a", "b"]
    assert (state.step, state.support_losses, state.gradient) == (0, None, None)
    assert state.anchor is not None
    assert list(state.anchor) == ["a"]
    assert [list(values) for values in state.optimizer.values()] == [["a"]]
    assert InnerLoop(adapt=("a",)).start(LeastSquares(), theta, batch_of(2)).anchor is None
    bare = without_history(state)
    assert not bare.params["a"].requires_grad
    assert not bare.anchor["a"].requires_grad  # type: ignore[index]
    assert bare.step == 0
    assert without_history(replace(state, anchor=None)).anchor is None


def test_one_step_of_each_kind_by_hand() -> None:
    """w = 2, g = 4, anchor 1, rate 0.1: the proximal term adds 0.5 (2 − 1), a clip of 1.5 takes the sum to it."""
    base = InnerLoop(SGD(0.1), 5)
    theta = {"rate/w": torch.tensor([[3.0]]), "rate/u": torch.tensor([[9.0]])}
    by_step = {"rate/w": torch.tensor([[3.0, 5.0, 7.0]])}
    cases: list[tuple[InnerLoop, int, Params, float]] = [
        (base, 0, {}, 0.4),
        (replace(base, proximal=0.5), 0, {}, 0.45),
        (replace(base, proximal=0.5, clip=1.5), 0, {}, 0.15),
        (replace(base, clip=100.0), 0, {}, 0.4),
        (replace(base, step_rates=(2.0, 0.5)), 0, {}, 0.8),
        (replace(base, step_rates=(2.0, 0.5)), 1, {}, 0.2),
        (replace(base, step_rates=(2.0, 0.5)), 4, {}, 0.2),
        (replace(base, learn_rates=True), 0, theta, 1.2),
        (replace(base, learn_rates=True, step_rates=(2.0,)), 3, theta, 2.4),
        (replace(base, learn_rates=True), 0, {}, 0.4),  # a head made afresh has no rate
        (replace(base, learn_rates=True, rates_by="step"), 0, by_step, 1.2),
        (replace(base, learn_rates=True, rates_by="step"), 2, by_step, 2.8),
        (replace(base, learn_rates=True, rates_by="step"), 6, by_step, 2.8),
        (replace(base, learn_rates=True, rates_by="step"), 0, {}, 0.4),
        (replace(base, learn_rates=True, rates_by="mode"), 0, {"rate/w/mode0": torch.tensor([[0.5]])}, 0.2),
        (replace(base, learn_rates=True, rates_by="mode", step_rates=(3.0,)), 0, {}, 1.2),
        (replace(base, rates_by="mode"), 0, {"rate/w/mode0": torch.tensor([[0.5]])}, 0.4),
        (replace(base, rates_by="step"), 0, by_step, 0.4),
    ]
    for inner, step, rates, moved in cases:
        params = {"w": torch.tensor([[2.0]]), "still": torch.tensor([[8.0]])}
        anchor = {"w": torch.tensor([[1.0]])} if inner.proximal else None
        state = InnerState(step, params, inner.optimizer.init({"w": params["w"]}), anchor=anchor)
        losses = torch.tensor([6.0], requires_grad=True)
        new = inner.update(rates, state, losses, {"w": torch.tensor([[4.0]])})
        assert float(new.params["w"]) == pytest.approx(2 - moved), inner
        assert float(new.params["still"]) == 8
        assert new.step == step + 1
        assert new.support_losses is not None
        assert new.support_losses.tolist() == [6.0]
        assert not new.support_losses.requires_grad
        assert new.gradient is not None
        assert float(new.gradient["w"]) == 4.0  # before the proximal term and the clip
        assert new.anchor is state.anchor


def test_a_rate_of_a_step_is_for_all_elements_of_its_task() -> None:
    inner = InnerLoop(SGD(1.0), 2, learn_rates=True, rates_by="step")
    theta = {"rate/w": torch.tensor([[1.0, 3.0], [2.0, 5.0]])}
    params = {"w": torch.zeros(2, 2, 3)}
    new = inner.update(theta, InnerState(1, params, {}), torch.zeros(2), {"w": torch.ones(2, 2, 3)})
    assert new.params["w"].flatten(1).tolist() == [[-3.0] * 6, [-5.0] * 6]


@pytest.mark.parametrize("create_graph", [False, True])
def test_states_of_an_inner_loop(create_graph: bool) -> None:
    """K is the loop's own unless another is asked for; only a kept graph has history."""
    found = tasks(1)
    paths = walk(*found[0][:2], THETA, steps=6)
    theta = {"w": torch.tensor(THETA)[None].requires_grad_()}
    support = episode(found).support
    for asked, taken in ((None, STEPS), (0, 0), (6, 6)):
        states = list(loop().iterate(LeastSquares(), theta, support, steps=asked, create_graph=create_graph))
        assert [state.step for state in states] == list(range(taken + 1))
        for state, expected in zip(states, paths.w, strict=False):
            close(state.params["w"][0].detach(), expected)
            assert state.params["w"].requires_grad is create_graph
    states = list(loop().iterate(LeastSquares(), theta, support))
    again = list(loop().iterate(LeastSquares(), theta, support, steps=2, start=states[2]))
    assert [state.step for state in again] == [2, 3, 4]
    close(again[-1].params["w"][0], paths.w[4])


def test_masks_of_an_inner_step_have_its_address() -> None:
    seen: list[int | None] = []

    class Masked(LeastSquares):
        def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
            seen.append(dropout)
            return super().losses(params, batch)

    theta = {"w": torch.tensor(THETA)}
    FOMAML(loop())(Masked(), theta, episode(tasks()), 5)
    inner = [dropout_key(5, "inner-dropout", step) for step in range(STEPS)]
    assert seen == [*inner, dropout_key(5, "query-dropout")]
    seen.clear()
    MAML(loop(), FullGraph())(Masked(), theta, episode(tasks()), 5)
    assert seen == [*inner, dropout_key(5, "query-dropout")]
    seen.clear()
    Reptile(loop(), report_query=True)(Masked(), theta, episode(tasks()), 5)
    assert seen == [*inner, None]
    seen.clear()
    FOMAML(loop())(Masked(), theta, episode(tasks()), None)
    assert seen == [None] * (STEPS + 1)
    seen.clear()
    MAML(loop())(Masked(), theta, episode(tasks()), 5)
    assert seen == [*inner, dropout_key(5, "query-dropout"), *reversed(inner)]


@pytest.mark.parametrize(
    "make",
    [
        FOMAML, MAML, lambda inner: MAML(inner, FullGraph()), lambda inner: Reptile(inner, report_query=True),
        lambda inner: Reptile(inner, data="all"), lambda inner: ImplicitMAML(replace(inner, proximal=0.5)),
        lambda inner: MultiStepMAML(inner, multi_step=2),
    ],
)  # fmt: skip
def test_no_pass_of_any_estimator_is_larger_than_a_micro_batch(make: Any) -> None:
    """Sets of 5 and 7 in threes; of those that keep a graph in ones. The numbers are those of the whole."""
    sizes: list[int] = []

    class Counting(LeastSquares):
        def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
            sizes.append(batch.n_examples)
            return super().losses(params, batch)

    found, theta = episode(tasks()), {"w": torch.tensor(THETA)}
    whole, told = make(loop())(LeastSquares(), theta, found, None)
    cut, report = make(loop(micro_batch=3))(Counting(), theta, found, None)
    assert max(sizes) == 3
    np.testing.assert_allclose(cut["w"], whole["w"], rtol=1e-9)
    close(report.support_loss_end, told.support_loss_end)
    if told.query_loss is not None:
        close(report.query_loss, told.query_loss)


@dataclass(frozen=True)
class Beginning(LeastSquares):
    """Starts from θ itself, or from twice θ; notes how often it is asked."""

    factor: float = 1.0
    times: list[None] = field(default_factory=list, compare=False)

    def begin(self, params: Params, support: Batch) -> Params:
        self.times.append(None)
        return params if self.factor == 1 else {"w": self.factor * params["w"]}


@pytest.mark.parametrize(
    "make", [FOMAML, MAML, MultiStepMAML, lambda inner: ImplicitMAML(replace(inner, proximal=0.5))]
)
def test_a_start_is_computed_again_only_where_it_depends_on_theta(make: Any) -> None:
    """Twice θ: the gradient of θ is twice that of the start."""
    found, theta = episode(tasks()), {"w": torch.tensor(THETA)}
    plain, double = Beginning(), Beginning(factor=2.0)
    expected, _ = make(loop())(plain, {"w": torch.tensor(2 * THETA)}, found, None)
    gradient, _ = make(loop())(double, theta, found, None)
    close(gradient["w"], 2 * expected["w"])
    assert (len(plain.times), len(double.times)) == (1, 2)


# -------------------------------------------------------------------------------------------------- joining of trials


def test_loops_joined_have_the_rate_of_each_task() -> None:
    slow, fast = InnerLoop(SGD(0.1, momentum=0.5), 3), InnerLoop(SGD(0.4, momentum=0.5), 3)
    assert join_loops([slow, slow], [2, 1]) is slow
    joined = join_loops([slow, fast], [2, 1])
    assert replace(joined, optimizer=slow.optimizer) == slow
    assert isinstance(joined.optimizer, TaskRates)
    assert joined.optimizer.optimizer == slow.optimizer
    assert joined.optimizer.rates.tolist() == [0.1, 0.1, 0.4]
    assert joined.optimizer.rates.dtype == torch.float64
    assert kind_of(slow) == kind_of(fast)
    assert kind_of(InnerLoop(TaskRates(SGD(0.1), torch.ones(1)), 3)) is None
    assert kind_of(InnerLoop(SGD(0.1), learn_rates=True, rates_by="step")) is not None
    assert joins_tasks(LeastSquares())
    assert not joins_tasks(LeastSquares(joins_tasks=False))
    assert not joins_tasks(QuadraticModel(2))


def test_which_estimates_may_share_a_call() -> None:
    """Those of one kind of loop and an estimator of single tasks that draws nothing, on a model that joins tasks."""
    part, model = episode(tasks(1)), LeastSquares()

    def kind(gradient: Any, of: Any = model) -> object:
        return _Estimate(gradient, of, {}, 3).kind(part)

    assert (
        kind(FOMAML(InnerLoop(SGD(0.1)))) == kind(FOMAML(InnerLoop(SGD(0.7)))) == (FOMAML(InnerLoop(SGD(1.0))), model)
    )
    assert kind(Reptile(InnerLoop(SGD(0.1)))) is not None
    for through in (FullGraph(), Exact(), GaussNewton(), Zero()):
        assert kind(MAML(loop(), through)) is not None
    for through in (BlockDiagonal(), Diagonal(), FiniteDifference()):
        assert kind(MAML(loop(), through)) is None
    assert (FullGraph, Exact, GaussNewton, Zero) == KEYLESS
    assert kind(FOMAML(loop()), LeastSquares(joins_tasks=False)) is None
    assert kind(FOMAML(replace(loop(), clip=1.0))) is None
    assert kind(ImplicitMAML(loop(proximal=1.0))) is None
    assert kind(MultiStepMAML(loop())) is None


def test_estimates_in_one_call_are_each_its_own() -> None:
    found = tasks(5, seed=9)
    parts = [episode(found[:2]), episode(found[2:])]
    thetas = [THETA, 2 * THETA]
    for make in (FOMAML, MAML, Reptile):
        gradients = [make(InnerLoop(SGD(rate), 3)) for rate in (0.1, 0.3)]
        estimates = [
            _Estimate(each, LeastSquares(), {"w": torch.tensor(theta)}, None)
            for each, theta in zip(gradients, thetas, strict=True)
        ]
        together = estimates[0].together(estimates, parts)
        for (grads, report), own, part in zip(together, estimates, parts, strict=True):
            alone, told = own(part, 0)
            close(grads["w"], alone["w"])
            assert report.task_ids == told.task_ids
            close(report.support_loss_end, told.support_loss_end)


# --------------------------------------------------------------------------------------------------------- estimators


def test_reports() -> None:
    shown = episode(tasks(2))
    steps = [torch.tensor([float(k), k + 0.5], requires_grad=True) for k in range(3)]
    report = episode_report(shown, steps, torch.tensor([7.0, 8.0], requires_grad=True), {"a": steps[0]})
    assert report.task_ids == ("task0", "task1")
    assert (report.support_loss_start.tolist(), report.support_loss_end.tolist()) == ([0, 0.5], [2, 2.5])
    assert report.query_loss is not None
    assert report.query_loss.tolist() == [7, 8]
    assert report.diagnostics == {"a": steps[0]}
    assert not any(
        each.requires_grad for each in (report.support_loss_start, report.support_loss_end, report.query_loss)
    )
    none = episode_report(shown, [], None)
    assert none.support_loss_start.isnan().tolist() == none.support_loss_end.isnan().tolist() == [True, True]
    assert (none.query_loss, none.diagnostics) == (None, {})


def test_ends_of_a_trajectory() -> None:
    states = [InnerState(k, {}, {}, None if k == 0 else torch.tensor([float(k)])) for k in range(4)]
    first, last, losses = ends(states)
    assert (first.step, last.step, [float(loss) for loss in losses]) == (0, 3, [1, 2, 3])
    first, last, losses = ends(states[:1])
    assert (first.step, last.step, losses) == (0, 0, [])


def test_what_a_meta_gradient_lacks_is_zero() -> None:
    stacked = {"a": torch.ones(2, 3), "b": torch.ones(2, 1)}
    found = complete({"b": torch.full((2, 1), 5.0)}, stacked)
    assert list(found) == ["a", "b"]
    assert found["a"].tolist() == [[0.0] * 3] * 2
    assert found["b"].tolist() == [[5.0]] * 2


def test_a_query_gradient_in_parts() -> None:
    found = tasks(2)
    params = {"w": torch.tensor(np.stack([THETA, ALPHA]))}
    for micro_batch in (None, 3):
        losses, grads = query_gradient(LeastSquares(), params, episode(found).query, None, micro_batch)
        expected = [query(task, w) for task, w in zip(found, (THETA, ALPHA), strict=True)]
        close(losses, [loss for loss, _ in expected])
        close(grads["w"], [slope for _, slope in expected])


def test_parameters_that_do_not_adapt_in_every_estimator() -> None:
    """Loss ½ mean (x·(w + u) − y)² of which w alone adapts: Reptile leaves u, and MAML's is the total derivative."""

    class Two(LeastSquares):
        def predict(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
            return super().predict({"w": params["w"] + params["u"]}, batch)

    found, shift = tasks(), np.array([0.3, 0.1, -0.2])
    theta = {"w": torch.tensor(THETA - shift), "u": torch.tensor(shift)}
    inner = loop(adapt=("w",))
    paths = [walk(x, y, THETA) for x, y, _, _ in found]
    slopes = [query(task, path.w[-1])[1] for task, path in zip(found, paths, strict=True)]
    reptile, _ = Reptile(inner)(Two(), theta, episode(found), None)
    close(reptile["w"], np.mean([THETA - path.w[-1] for path in paths], axis=0))
    assert not reptile["u"].any()
    first, _ = FOMAML(inner)(Two(), theta, episode(found), None)
    for name in ("w", "u"):
        close(first[name], np.mean(slopes, axis=0))
    # θ and u enter alike, so that w's and u's total derivatives are one.
    for through in (Exact(), FullGraph()):
        exact, _ = MAML(inner, through)(Two(), theta, episode(found), None)
        total = np.mean([path.by_theta[-1].T @ slope for path, slope in zip(paths, slopes, strict=True)], axis=0)
        close(exact["w"], total)
        close(exact["u"], total)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_kept_gradients_change_nothing(count: int) -> None:
    found = tasks()
    seen: list[int] = []

    class Counting(LeastSquares):
        def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
            seen.append(batch.n_examples)
            return super().losses(params, batch)

    inner = loop(learn_rates=True, factors=(0.5, 1.5), proximal=0.6, keep_gradients=count)
    theta = {"w": torch.tensor(THETA), "rate/w": torch.tensor(ALPHA)}
    gradient, report = MAML(inner)(Counting(), theta, episode(found), None)
    paths = [walk(x, y, THETA, ALPHA, factors=(0.5, 1.5), proximal=0.6) for x, y, _, _ in found]
    slopes = [query(task, path.w[-1])[1] for task, path in zip(found, paths, strict=True)]
    close(gradient["w"], np.mean([p.by_theta[-1].T @ s for p, s in zip(paths, slopes, strict=True)], axis=0))
    close(gradient["rate/w"], np.mean([p.by_rates[-1].T @ s for p, s in zip(paths, slopes, strict=True)], axis=0))
    close(report.support_loss_end, [path.losses[-1] for path in paths])
    # A gradient and a product each of 4 steps, and again the gradients of all groups but the last.
    again = {1: 3, 2: 2, 3: 3, 4: 0, 5: 0}[count]
    assert seen.count(5) == 2 * STEPS + again


def test_probes_are_of_key_task_and_step() -> None:
    streams: list[tuple[int, ...]] = []

    @dataclass(frozen=True)
    class Spy:
        second_order: bool = False

        def __call__(self, point: LossPoint, vector: Params) -> Params:
            streams.append(point.streams)
            return Exact()(point, vector)

    theta = {"w": torch.tensor(THETA)}
    MAML(loop(), Spy())(LeastSquares(), theta, episode(tasks(2)), 7)
    assert streams == [
        tuple(address(7, "curvature", name, step) for name in ("task0", "task1")) for step in reversed(range(STEPS))
    ]
    streams.clear()
    ImplicitMAML(loop(proximal=1.0), CG(1), curvature=Spy())(LeastSquares(), theta, episode(tasks(2)), 7)
    assert set(streams) == {tuple(address(7, "curvature", name) for name in ("task0", "task1"))}
    for estimator in (MAML(loop(), Spy()), ImplicitMAML(loop(proximal=1.0), CG(1), curvature=Spy())):
        streams.clear()
        estimator(LeastSquares(), theta, episode(tasks(1)), None)
        assert streams[0] in ((address(0, "curvature", "task0", STEPS - 1),), (address(0, "curvature", "task0"),))


def test_implicit_without_pull_left_and_without_a_measured_solve() -> None:
    """At θ = the solution nothing is left over: the stationarity is 0 and not 0/0. `Identity` gives ∇q itself."""
    model, shown = QuadraticModel(2), quadratic_episode(2, 2)
    theta = {"theta": shown.query.targets[0, 0].clone()}
    inner = InnerLoop(SGD(0.1), 2, proximal=1.0)
    alone = shown.tasks(0, 1)
    _, report = ImplicitMAML(inner, CG())(model, theta, alone, None)
    assert report.diagnostics["stationarity"].tolist() == [0.0]
    found, report = ImplicitMAML(inner, Identity(measure=False))(model, theta, shown, None)
    assert set(report.diagnostics) == {"stationarity"}
    first, _ = FOMAML(inner)(model, theta, shown, None)
    close(found["theta"], first["theta"])
    _, report = ImplicitMAML(inner, Identity(measure=True))(model, theta, shown, None)
    assert set(report.diagnostics) == {"stationarity", "solver_residual"}


def test_weights_of_the_steps_of_maml_plus_plus() -> None:
    def weights(step: int, multi_step: int, steps: int) -> tuple[float, ...]:
        return MultiStepMAML(InnerLoop(steps=steps), multi_step=multi_step, step=step).weights

    assert weights(0, 0, 3) == (0, 0, 1)
    assert weights(0, 5, 1) == (1,)
    assert weights(4, 5, 2) == pytest.approx((0.1, 0.9))
    assert weights(5, 5, 2) == (0, 1)
    assert weights(6, 5, 2) == (0, 1)
    assert weights(0, 2, 4) == pytest.approx((0.25,) * 4)


def test_losses_after_a_step_are_taken_where_they_weigh() -> None:
    """Of the query set K passes while every step counts, and one afterwards."""
    sizes: list[int] = []

    class Counting(LeastSquares):
        def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
            sizes.append(batch.n_examples)
            return super().losses(params, batch)

    theta = {"w": torch.tensor(THETA)}
    for step, passes in ((0, STEPS), (2, 1)):
        sizes.clear()
        MultiStepMAML(loop(), multi_step=2, step=step)(Counting(), theta, episode(tasks()), None)
        assert sizes.count(7) == passes


def test_modes_of_tensors() -> None:
    assert modes_of(()) == ()
    assert modes_of((4,)) == (4,)
    assert modes_of((4, 3)) == (4, 3)
    assert modes_of((4, 3, 5)) == (4, 3, 5)
    assert modes_of((4, 3, 2, 5)) == (4, 3, 10)
    assert [tuple(each.shape) for each in identities(torch.zeros(4, 3, 2, 5))] == [(4, 4), (3, 3), (10, 10)]
    assert [tuple(each.shape) for each in identities(torch.zeros(4))] == [(4,)]
    assert [each.dtype for each in identities(torch.zeros(2, 3, dtype=torch.float64))] == [torch.float64] * 2
    factors = turned(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), [torch.tensor([[5.0, 6.0], [7.0, 8.0]])])
    assert factors.tolist() == [[5, 12], [21, 32]]


def test_what_a_memory_profile_is_taken_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimator on the model and with the inner optimiser that the meter watches; weights and θ are static."""
    theta, frozen, shown = LeastSquares().init(0), torch.zeros(10), episode(tasks(2))

    def profile(call: Any, model: Any, static: Any, device: str) -> object:
        watched: list[object] = []
        grads, report = call(model, lambda optimizer: watched.append(optimizer) or SGD(2 * optimizer.lr))
        return grads, report, watched, {name: list(values) for name, values in static.items()}, device

    monkeypatch.setattr("metascale.meta.gradients.profile", profile)
    found: Any = profile_gradient(FOMAML(loop()), LeastSquares(), theta, shown, weights=[frozen], device="far")
    grads, report, watched, static, device = found
    expected, _ = FOMAML(replace(loop(), optimizer=SGD(2 * RATE)))(LeastSquares(), theta, shown, None)
    close(grads["w"], expected["w"])
    assert report.task_ids == ("task0", "task1")
    assert watched == [SGD(RATE)]
    assert static["weights"][0] is frozen
    assert static["parameters"][0] is theta["w"]
    assert (len(static), device) == (2, "far")
    found = profile_gradient(FOMAML(loop()), LeastSquares(), theta, shown)
    assert (found[3]["weights"], found[4]) == ([], "cpu")


# ------------------------------------------------------------------------------------------------------------ learner


def test_a_learner_begins_on_its_device() -> None:
    learner = MetaLearner(FOMAML(loop(learn_rates=True)), Adam(0.1))
    state = learner.init(LeastSquares(), 0)
    assert state.step == 0
    assert list(state.params) == ["w", "rate/w"]
    close(state.params["w"], THETA)
    assert list(state.optimizer["m"]) == ["w", "rate/w"]
    far = learner.init(LeastSquares(), 0, "meta")
    assert all(value.device.type == "meta" for value in far.params.values())


@dataclass(frozen=True)
class Told:
    """Meta-gradient g, and notes of its calls."""

    g: Mapping[str, torch.Tensor]
    report: Callable[[Episode], EpisodeReport]
    inner: InnerLoop = field(default_factory=InnerLoop)
    keys: list[int | None] = field(default_factory=list)

    def __call__(self, model: Any, theta: Params, episode: Episode, key: int | None) -> tuple[Params, EpisodeReport]:
        self.keys.append(key)
        size = float(episode.n_tasks)
        return {name: value * size for name, value in self.g.items()}, self.report(episode)


def told(part: Episode) -> EpisodeReport:
    first = float(part.task_ids[0][4:])
    numbers = torch.arange(part.n_tasks) + first
    return EpisodeReport(part.task_ids, numbers, numbers + 10, numbers + 20, {"residual": numbers + 30})


def test_an_outer_step_is_the_mean_of_chunks_then_the_clip_then_the_rate() -> None:
    """Chunks of 2, 2 and 1 tasks with gradients of 2, 2 and 1 (3, 4): weighed by their tasks 9/5 of that, norm 9."""
    g = {"w": torch.tensor([3.0, 4.0], dtype=torch.float64)}
    learner = MetaLearner(
        Told(g, told), SGD(1.0), clip=6.0, execution=Execution(chunk=2), seed=4, rate=lambda k: 0.5 + k
    )
    state = replace(learner.init(LeastSquares(), 0), params={"w": torch.zeros(2, dtype=torch.float64)}, step=2)
    new, report = learner.step(LeastSquares(), state, episode(tasks(5)))
    close(new.params["w"], [-2.5 * 6 * 0.6, -2.5 * 6 * 0.8])
    assert new.step == 3
    assert report.meta_gradient_norm == pytest.approx(9)
    assert report.task_ids == ("task0", "task1", "task2", "task3", "task4")
    assert report.support_loss_start.tolist() == [0, 1, 2, 3, 4]
    assert report.support_loss_end.tolist() == [10, 11, 12, 13, 14]
    assert report.query_loss is not None
    assert report.query_loss.tolist() == [20, 21, 22, 23, 24]
    assert {name: value.tolist() for name, value in report.diagnostics.items()} == {"residual": [30, 31, 32, 33, 34]}
    assert learner.gradient.keys == [address(4, "meta-batch", 2) & (2**62 - 1)] * 3  # type: ignore[attr-defined]
    total, _ = learner.meta_gradient(LeastSquares(), state.params, episode(tasks(5)))
    close(total["w"], [9 * 0.6, 9 * 0.8])
    assert learner.gradient.keys[-1] is None  # type: ignore[attr-defined]


def report_of(end: list[float], query_loss: list[float] | None) -> Any:
    start, query_values = torch.tensor(end), None if query_loss is None else torch.tensor(query_loss)
    return SimpleNamespace(support_loss_end=start, query_loss=query_values, task_ids=("a", "b"))


@pytest.mark.parametrize(
    ("end", "query_loss", "g", "names"),
    [
        ([1, 2], [1, 2], 1.0, None),
        ([math.nan, math.nan], [1, 2], 1.0, None),  # without inner steps
        ([math.nan, math.nan], None, 1.0, None),
        ([1, 2], None, 1.0, None),
        ([1, math.nan], None, 1.0, ("b",)),
        ([math.inf, 2], None, 1.0, ("a",)),
        ([math.inf, 2], [1, math.nan], 1.0, ("b",)),
        ([1, 2], [math.inf, math.nan], 1.0, ("a", "b")),
        ([math.nan, math.nan], None, math.nan, ("a", "b")),
    ],
)
def test_losses_that_are_watched(
    end: list[float], query_loss: list[float] | None, g: float, names: tuple[str, ...] | None
) -> None:
    """Query losses where there are some, or else support losses."""
    if names is None:
        return _refuse_non_finite({"w": torch.tensor([g])}, report_of(end, query_loss), 3)
    message = f"the loss of task(s) {', '.join(names)} is not finite at outer step 3; lower the inner or outer rate"
    with pytest.raises(Diverged, match=exactly(message)) as caught:
        _refuse_non_finite({"w": torch.tensor([g])}, report_of(end, query_loss), 3)
    assert (caught.value.step, caught.value.task_ids) == (3, names)
    return None


def test_a_meta_gradient_that_is_not_finite() -> None:
    with pytest.raises(Diverged, match=exactly("the meta-gradient is not finite at outer step 5")) as caught:
        _refuse_non_finite({"w": torch.tensor([math.inf])}, report_of([1, 2], [1, 2]), 5)
    assert (caught.value.step, caught.value.task_ids) == (5, ("a", "b"))


def test_adaptation_and_prediction_after_so_many_steps() -> None:
    found = tasks(2)
    learner, theta = MetaLearner(FOMAML(loop())), {"w": torch.tensor(THETA)}
    state = replace(learner.init(LeastSquares(), 0), params=theta)
    for asked, taken in ((None, STEPS), (0, 0), (2, 2), (STEPS + 1, STEPS + 1)):
        ends_at = [walk(x, y, THETA, steps=taken).w[-1] for x, y, _, _ in found]
        close(learner.adapt(LeastSquares(), theta, episode(found).support, asked)["w"], ends_at)
        predicted = learner.predictor(LeastSquares(), state, asked)(episode(found))
        assert list(predicted) == [taken]
        close(predicted[taken], [task[2] @ w for task, w in zip(found, ends_at, strict=True)])
