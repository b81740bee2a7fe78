"""Steps of bilevel training beside an independent loop in NumPy, and what its parts are given and say.

ℓ = ½ θᵀAθ − θᵀ(Cλ + b) and M = ½ |θ − b|² + ½ r |λ|²: gradients Aθ − Cλ − b and θ − b, mixed derivative −C.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from metascale.bilevel.adaptation import LastStep, adaptation, check_adaptable, closed_form
from metascale.bilevel.distributed import BucketReducer, DataParallel, Processes, check_wrapped, initialise, shared
from metascale.bilevel.levels import Levels, Pass, from_functions, hold
from metascale.bilevel.training import BilevelTraining, _check_finite, _Window, check
from metascale.bilevel.updates import clipped, differentiable_step, update_in_turn
from metascale.core.dropout import dropout_key
from metascale.core.errors import Diverged, InputError
from metascale.core.types import Params
from metascale.hypergrad.darts import DARTS
from metascale.hypergrad.implicit import Implicit
from metascale.hypergrad.problem import Hypergradient
from metascale.hypergrad.sama import SAMA
from metascale.hypergrad.unrolled import Unrolled
from metascale.training.optimizers import LAMB, SGD, Adagrad, Adam, Lion, Muon, RMSprop

A, C = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.5], [0.25, 2.0]])
R, THETA, LAMBDA = 0.3, np.array([1.0, -2.0]), np.array([0.5, 1.5])
RATE, UPPER_RATE = 0.1, 0.2


def b(n: int) -> np.ndarray:
    """Batch n."""
    return np.array([math.sin(n + 1), math.cos(2 * n)])


def upper_b(n: int) -> np.ndarray:
    return np.array([math.cos(n + 3), math.sin(5 * n + 1)])


def tensor(value: Any) -> torch.Tensor:
    return torch.tensor(np.asarray(value, dtype=np.float64))


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-8, atol=1e-12)


def levels(seen: list[tuple[str, Pass]] | None = None) -> Levels:
    def lower(theta: Params, lam: Params, batch: torch.Tensor, context: Pass) -> torch.Tensor:
        if seen is not None:
            seen.append(("lower", context))
        w = theta["w"]
        return 0.5 * w @ tensor(A) @ w - w @ (tensor(C) @ lam["l"] + batch)

    def upper(theta: Params, lam: Params, batch: torch.Tensor, context: Pass) -> torch.Tensor:
        if seen is not None:
            seen.append(("upper", context))
        return 0.5 * (theta["w"] - batch).square().sum() + 0.5 * R * lam["l"].square().sum()

    return from_functions({"w": tensor(THETA)}, {"l": tensor(LAMBDA)}, lower, upper)


def make(seen: list[tuple[str, Pass]] | None = None, **fields: Any) -> BilevelTraining:
    fields = {"lower_optimizer": SGD(RATE), "upper_optimizer": SGD(UPPER_RATE), "method": SAMA(mixed="exact"), **fields}
    sources = [lambda n: tensor(b(n)), lambda n: tensor(upper_b(n))]
    return BilevelTraining(fields.pop("levels", levels(seen)), *sources, **fields)


@dataclass
class Reference:
    """The independent loop, for SAMA after plain descent; ``adapt``: times the derivative of the last step."""

    steps: int = 1
    parts: int = 1
    upper_parts: int = 1
    weigh: Callable[[np.ndarray], float] = lambda batch: 1.0
    max_norm: float = math.inf
    upper_max_norm: float = math.inf
    rate: Callable[[int], float] = lambda n: 1.0
    upper_rate: Callable[[int], float] = lambda k: 1.0
    roll_back: bool = False
    learn: bool = True
    warmup: int = 0
    adapt: bool = True

    def mean(self, numbers: range, source: Callable[[int], np.ndarray]) -> np.ndarray:
        batches = [source(number) for number in numbers]
        return np.average(batches, axis=0, weights=[self.weigh(batch) for batch in batches])

    def mean_of(self, f: Callable[[np.ndarray], float], numbers: range, source: Callable[[int], np.ndarray]) -> float:
        batches = [source(number) for number in numbers]
        return float(np.average([f(each) for each in batches], weights=[self.weigh(each) for each in batches]))

    def lower(self, theta: np.ndarray, lam: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, float]:
        losses = []
        for n in range(k * self.steps, (k + 1) * self.steps):
            numbers = range(n * self.parts, (n + 1) * self.parts)
            batch = self.mean(numbers, b)  # in which the loss is linear
            losses.append(0.5 * theta @ A @ theta - theta @ (C @ lam + batch))
            g = A @ theta - C @ lam - batch
            size = np.linalg.norm(g)
            shrink, unit = min(1.0, self.max_norm / size), g / size
            derivative = RATE * self.rate(n) * shrink * (np.eye(2) - (np.outer(unit, unit) if shrink < 1 else 0))
            theta = theta - RATE * self.rate(n) * shrink * g
        return theta, derivative, float(np.mean(losses))

    def step(
        self, theta: np.ndarray, lam: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray, dict[str, float | None]]:
        start = theta
        theta, derivative, loss = self.lower(theta, lam, k)
        row: dict[str, float | None] = {"lower_loss_nats": loss, "solver_residual": None}
        if k < self.warmup:
            return theta, lam, {**row, "upper_loss_nats": None, "hypergradient_norm": None}
        numbers = range(k * self.upper_parts, (k + 1) * self.upper_parts)
        v = theta - self.mean(numbers, upper_b)
        value = R * lam + C.T @ (derivative.T @ v if self.adapt else v)
        row["upper_loss_nats"] = self.mean_of(
            lambda x: 0.5 * ((theta - x) ** 2).sum() + 0.5 * R * (lam**2).sum(), numbers, upper_b
        )
        size = float(np.linalg.norm(value))
        row["hypergradient_norm"] = size
        if self.learn:
            lam = lam - UPPER_RATE * self.upper_rate(k) * min(1.0, self.upper_max_norm / size) * value
        if self.roll_back:
            theta, _, row["lower_loss_nats"] = self.lower(start, lam, k)
        return theta, lam, row


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "unadapted": ({"method": SAMA(mixed="exact", adapt=False)}, {"adapt": False}),
    "by difference": ({"method": SAMA()}, {}),
    "three lower steps": ({"unroll_steps": 3}, {"steps": 3}),
    "accumulation": ({"lower_accumulation": 3, "upper_accumulation": 2}, {"parts": 3, "upper_parts": 2}),
    "weights": (
        {"lower_accumulation": 3, "upper_accumulation": 2, "accumulate_by": lambda x: x.abs().sum()},
        {"parts": 3, "upper_parts": 2, "weigh": lambda x: abs(x).sum()},
    ),
    "clipped": ({"lower_max_norm": 0.5, "upper_max_norm": 0.05}, {"max_norm": 0.5, "upper_max_norm": 0.05}),
    "clips that do nothing": ({"lower_max_norm": 1e9, "upper_max_norm": 1e9}, {}),
    "schedules": (
        {"lower_schedule": lambda n: 1 / (n + 1), "upper_schedule": lambda k: 1 + k, "unroll_steps": 2},
        {"rate": lambda n: 1 / (n + 1), "upper_rate": lambda k: 1 + k, "steps": 2},
    ),
    "rolled back": ({"roll_back": True, "unroll_steps": 2}, {"roll_back": True, "steps": 2}),
    "λ stays": ({"learn_upper": False, "roll_back": True}, {"learn": False}),
    "warm": ({"warmup": 2, "roll_back": True}, {"warmup": 2, "roll_back": True}),
    "all": (
        {"warmup": 1, "unroll_steps": 2, "lower_accumulation": 2, "lower_max_norm": 0.7, "upper_max_norm": 0.2,
         "lower_schedule": lambda n: 1 / (n + 1), "roll_back": True},
        {"warmup": 1, "steps": 2, "parts": 2, "max_norm": 0.7, "upper_max_norm": 0.2, "rate": lambda n: 1 / (n + 1),
         "roll_back": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_four_steps_and_their_rows(name: str) -> None:
    fields, options = CASES[name]
    training, reference = make(**fields), Reference(**options)
    state, theta, lam = training.init(), THETA, LAMBDA
    for k in range(4):
        state, row = training.step(state, k)
        theta, lam, expected = reference.step(theta, lam, k)
        close(state.lower["w"], theta)
        close(state.upper["l"], lam)
        assert state.step == k + 1
        assert set(row) == set(expected)
        for key, value in expected.items():
            assert row[key] == (None if value is None else pytest.approx(value, rel=1e-6)), key


def test_methods_by_hand() -> None:
    """One plain step. Unrolled: ∂M/∂λ + (a C)ᵀ v; implicit: C ᵀ A⁻¹ v; DARTS: ξ Cᵀ v at θ − ξ ∇ℓ after the step."""
    theta, lam = THETA, LAMBDA
    one = theta - RATE * (A @ theta - C @ lam - b(0))
    v = one - upper_b(0)
    ahead = one - 0.05 * (A @ one - C @ lam - b(0))
    expected = {
        "unrolled": (Unrolled(), R * lam + RATE * C.T @ v),
        "implicit": (Implicit(), R * lam + C.T @ np.linalg.solve(A, v)),
        "darts": (DARTS(0.05, mixed="exact"), R * lam + 0.05 * C.T @ (ahead - upper_b(0))),
    }
    for name, (method, value) in expected.items():
        training = make(method=method)
        state, row = training.step(training.init(), 0)
        np.testing.assert_allclose(state.upper["l"], lam - UPPER_RATE * value, rtol=1e-5, err_msg=name)
        assert row["hypergradient_norm"] == pytest.approx(np.linalg.norm(value), rel=1e-5)
        assert (row["solver_residual"] is None) is (name != "implicit")
    # Two steps seen of three: the part of λ in them, through (I − aA) of the later one.
    training = make(method=Unrolled(2, truncated=True), unroll_steps=3)
    state, _ = training.step(training.init(), 0)
    for n in range(3):
        theta = theta - RATE * (A @ theta - C @ lam - b(n))
    v = theta - upper_b(0)
    value = R * lam + RATE * C.T @ v + RATE * C.T @ (np.eye(2) - RATE * A).T @ v
    close(state.upper["l"], lam - UPPER_RATE * value)


def test_the_multitask_step_moves_theta_on_the_upper_loss() -> None:
    """By ε v with |ε v| = α."""
    plain, _ = make(learn_upper=False).step(make().init(), 0)
    moved, _ = make(learn_upper=False, method=SAMA(0.25, adapt=False, multitask=True)).step(make().init(), 0)
    v = plain.lower["w"].numpy() - upper_b(0)
    close(moved.lower["w"], plain.lower["w"].numpy() - 0.25 * v / np.linalg.norm(v))


# ------------------------------------------------------------------------------------------------------ what is passed


def test_every_pass_has_the_masks_of_its_batch_and_the_buffers_of_the_state() -> None:
    """Lower steps 2 and 3 of two micro-batches each have numbers 4 to 7; the mixed passes are the last step's again."""
    seen: list[tuple[str, Pass]] = []
    training = make(seen, unroll_steps=2, lower_accumulation=2, method=SAMA(), seed=9)
    state = replace(training.init(), buffers={"mean": tensor([1.0])})
    training.step(state, 1)
    lower = [dropout_key(9, "lower-dropout", number) for number in (4, 5, 6, 7)]
    masks = [(level, context.dropout) for level, context in seen]
    assert masks == [
        *[("lower", key) for key in lower], ("upper", None), *[("lower", key) for key in lower[2:]] * 2,
    ]  # fmt: skip
    assert all(context.buffers["mean"].item() == 1.0 for _, context in seen)
    assert [context.replay for _, context in seen] == [None] * 5 + [[]] * 4
    seen.clear()
    masked = make(seen, upper_dropout=True, upper_accumulation=2, seed=9)
    masked.step(masked.init(), 3)
    upper = [context.dropout for level, context in seen if level == "upper"]
    assert upper == [dropout_key(9, "upper-dropout", number) for number in (6, 7)]


def test_only_what_is_asked_for_is_differentiated() -> None:
    """θ in a lower step, both in the upper pass, λ alone in the two perturbed ones."""
    told: list[tuple[bool, bool]] = []
    base = levels()

    def noted(loss: Any) -> Any:
        def call(theta: Params, lam: Params, batch: Any, context: Pass) -> torch.Tensor:
            told.append((theta["w"].requires_grad, lam["l"].requires_grad))
            value: torch.Tensor = loss(theta, lam, batch, context)
            return value

        return call

    watched = replace(base, lower_loss=noted(base.lower_loss), upper_loss=noted(base.upper_loss))
    training = make(levels=watched, method=SAMA(), unroll_steps=2)
    training.step(training.init(), 0)
    assert told == [(True, False), (True, False), (True, True), (False, True), (False, True)]


@pytest.mark.parametrize("adapts", [True, False])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("optimizer", [SGD(0.1), LAMB(0.1)], ids=repr)
def test_of_a_lower_step_is_kept_what_its_derivative_needs(adapts: bool, last: bool, optimizer: Any) -> None:
    """The gradient of the last step where a method adapts to it; θ and the state before where no formula is known."""
    training = make(method=Spy([], 0, adapts), lower_optimizer=optimizer)
    state = training.init()
    before = state.lower["w"].clone()
    _, _, window = training._lower_step(state, 0, _Window(), last, True)
    assert window.last is not None
    kept = adapts and last
    assert (window.last.grads != {}) is kept
    general = kept and isinstance(optimizer, LAMB)
    assert (window.last.params is not None) is (window.last.before is not None) is general
    if general:
        assert torch.equal(window.last.params["w"], before)  # type: ignore[index]
    assert (window.last.rate, window.last.norm, window.last.max_norm) == (1.0, None, None)
    assert [number for number, _ in window.batches] == [0]


class Doubled:
    """Stands for shards: a whole tensor is twice its part."""

    def total(self, value: torch.Tensor) -> torch.Tensor:
        return 4 * value

    def whole(self, tensors: Params) -> Params:
        return {name: 2 * value for name, value in tensors.items()}

    def part(self, tensors: Params) -> Params:
        return {name: value / 2 for name, value in tensors.items()}


def test_shards_are_packed_whole_and_unpacked_in_parts() -> None:
    training = make(lower_optimizer=SGD(0.1, momentum=0.5))
    state = training.init()
    state = replace(state, lower_optimizer={"velocity": {"w": tensor([1.0, 2.0])}})
    packed = {name: value.tolist() for name, value in training.pack(state).items()}
    object.__setattr__(training, "levels", replace(training.levels, shards=Doubled()))
    several = SimpleNamespace(share=Processes().share, reducer=lambda upper: ("of", upper), average_lower="average")
    whole = training.pack(state)
    assert whole["lower/w"].tolist() == (2 * THETA).tolist()
    assert whole["lower_optimizer/velocity/w"].tolist() == [2.0, 4.0]
    assert whole["upper/l"].tolist() == packed["upper/l"]
    again = training.unpack(whole, 1)
    assert again.lower["w"].tolist() == packed["lower/w"]
    assert again.lower_optimizer["velocity"]["w"].tolist() == [1.0, 2.0]
    for shards, average in ((Doubled(), None), (None, "average")):
        object.__setattr__(training, "levels", replace(training.levels, shards=shards))
        object.__setattr__(training, "processes", several)
        problem = training._problem(state, 0, _Window())
        assert problem.average_lower == average
        assert float(problem.total(tensor(3.0))) == (12.0 if shards else 3.0)
        assert problem.reducer == ("of", state.upper)


def test_norms_of_shards_are_those_of_all_processes() -> None:
    """Four times the squares: twice the norm, by which the gradient is clipped and the derivative taken."""
    for shards, factor in ((None, 1.0), (Doubled(), 2.0)):
        training = make(lower_max_norm=0.5)
        object.__setattr__(training, "levels", replace(training.levels, shards=shards))
        state, _, window = training._lower_step(training.init(), 0, _Window(), True, True)
        g = A @ THETA - C @ LAMBDA - b(0)
        size = factor * np.linalg.norm(g)
        close(state.lower["w"], THETA - RATE * 0.5 / size * g)
        last = window.last
        assert last is not None
        assert (last.norm, last.max_norm) == (pytest.approx(size), 0.5)
        assert float(last.total(tensor(3.0))) == 3.0 * factor**2


def test_only_lower_steps_keep_the_statistics_that_a_pass_leaves() -> None:
    def counted(loss: Any) -> Any:
        def call(theta: Params, lam: Params, batch: Any, context: Pass) -> torch.Tensor:
            context.updated = {"count": context.buffers["count"] + 1}
            value: torch.Tensor = loss(theta, lam, batch, context)
            return value

        return call

    base = levels()
    counting = replace(base, lower_loss=counted(base.lower_loss), upper_loss=counted(base.upper_loss))
    training = make(levels=counting, unroll_steps=2, lower_accumulation=3, method=SAMA())
    state = replace(training.init(), buffers={"count": tensor([10.0])})
    state, _ = training.step(state, 0)
    assert state.buffers["count"].item() == 16
    state, _ = training.step(state, 1)
    assert state.buffers["count"].item() == 22


def test_new_tensors_are_mirrored_with_their_buffers() -> None:
    told: list[tuple[str, list[str]]] = []
    mirrored = replace(levels(), mirror=lambda level, tensors: told.append((level, sorted(tensors))))
    training = make(levels=mirrored)
    buffers = {"mean": tensor([1.0]), "upper:scale": tensor([2.0])}
    state, _ = training.step(replace(training.init(), buffers=buffers), 0)
    assert told == [("lower", ["w"]), ("lower", ["mean", "w"]), ("upper", ["l", "scale"])]
    told.clear()
    restored = training.unpack(training.pack(replace(state, buffers={})), 4)
    assert told == [("lower", ["w"]), ("upper", ["l"])]
    assert restored.step == 4


def test_autocast_is_of_lower_and_upper_passes_on_the_device_of_theta() -> None:
    training = make(autocast=torch.bfloat16)
    used = training._precision({"w": torch.ones(1)}, True)
    assert isinstance(used, torch.autocast)
    assert (used.device, used.fast_dtype) == ("cpu", torch.bfloat16)
    found = training._precision({"w": torch.ones(1, device="meta")}, False)
    assert not isinstance(found, torch.autocast)
    assert not isinstance(make()._precision({"w": torch.ones(1)}, True), torch.autocast)


@dataclass(frozen=True)
class Spy:
    """Notes the problem."""

    problems: list[Any]
    remembers: int = 0
    adapts: bool = False

    def __call__(self, problem: Any, lower: Params, upper: Params) -> Hypergradient:
        self.problems.append(problem)
        return Hypergradient({"l": torch.zeros(2, dtype=torch.float64)}, tensor(1.0))


def test_a_method_is_given_what_it_asks_for() -> None:
    for remembers, adapts, kept in ((0, False, 0), (0, True, 0), (1, False, 1), (2, True, 2), (-1, False, 3)):
        problems: list[Any] = []
        training = make(method=Spy(problems, remembers, adapts), unroll_steps=3)
        state, row = training.step(training.init(), 0)
        (problem,) = problems
        assert len(problem.history) == kept
        assert (problem.adapt is not None) is adapts
        assert (problem.reducer, problem.average_lower) == (None, None)
        assert row["upper_loss_nats"] == 1.0
        if adapts:  # plain descent: the rate times w
            close(problem.adapt({"w": tensor([1.0, 2.0])})["w"], [RATE, 2 * RATE])
        if kept:  # oldest first, each at its own θ, and repeatable
            before = [step.params["w"].numpy() for step in problem.history]
            theta = THETA
            path = [theta := theta - RATE * (A @ theta - C @ LAMBDA - b(n)) for n in range(3)]
            close(before, [THETA, *path][3 - kept : 3])
            again, _ = problem.history[-1].advance(problem.history[-1].params, {}, {"l": tensor(LAMBDA)})
            close(again["w"].detach(), state.lower["w"])
    problems = []
    warm = make(method=Spy(problems, 1), warmup=1)
    warm.step(warm.init(), 0)
    assert not problems


def test_validation() -> None:
    training = make()
    state = replace(training.init(), buffers={"mean": tensor([1.0])})
    expected = 0.5 * ((THETA - upper_b(0)) ** 2).sum() + 0.5 * R * (LAMBDA**2).sum()
    assert training.validate(state) == {"validation_loss_nats": pytest.approx(expected)}
    told: list[Any] = []

    def evaluate(theta: Params, buffers: Params, lam: Params) -> dict[str, float]:
        told.append((theta is state.lower, buffers is state.buffers, lam is state.upper, torch.is_grad_enabled()))
        return {"validation_loss_nats": 3.0}

    assert make(evaluate=evaluate).validate(state) == {"validation_loss_nats": 3.0}
    assert told == [(True, True, True, False)]


def test_states_are_packed_by_level_and_restored() -> None:
    training = make(lower_optimizer=SGD(0.1, momentum=0.5), upper_optimizer=Adam(0.1))
    state, _ = training.step(training.init(), 0)
    state = replace(state, buffers={"mean": tensor([4.0])})
    packed = training.pack(state)
    assert {name.split("/")[0] for name in packed} == {
        "lower",
        "buffers",
        "upper",
        "lower_optimizer",
        "upper_optimizer",
    }
    again = state.unpack(packed)
    assert again.step == 1
    for field in ("lower", "buffers", "upper"):
        found, expected = getattr(again, field), getattr(state, field)
        assert {name: value.tolist() for name, value in found.items()} == {n: v.tolist() for n, v in expected.items()}
    close(again.lower_optimizer["velocity"]["w"], state.lower_optimizer["velocity"]["w"])
    close(again.upper_optimizer["m"]["l"], state.upper_optimizer["m"]["l"])
    doubled = state.with_lower(lambda tensors: {name: 2 * value for name, value in tensors.items()})
    close(doubled.lower["w"], 2 * state.lower["w"].numpy())
    close(doubled.lower_optimizer["velocity"]["w"], 2 * state.lower_optimizer["velocity"]["w"].numpy())
    assert doubled.upper is state.upper
    apart = state.held_apart()
    for field in ("lower", "buffers", "lower_optimizer"):
        assert getattr(apart, field) is not getattr(state, field)
    assert apart.lower_optimizer["velocity"] is not state.lower_optimizer["velocity"]
    assert apart.lower["w"] is state.lower["w"]


def test_training_starts_from_given_optimiser_states() -> None:
    base = levels()
    velocity = {"velocity": {"w": tensor([3.0, 4.0])}}
    given = replace(base, start=lambda: replace(base.start(), optimizers={"lower": velocity}))
    training = make(levels=given, lower_optimizer=SGD(0.1, momentum=0.5), upper_optimizer=SGD(0.1, momentum=0.5))
    state = training.init()
    assert state.lower_optimizer["velocity"]["w"].tolist() == [3.0, 4.0]
    assert state.upper_optimizer["velocity"]["l"].tolist() == [0.0, 0.0]
    assert state.lower_optimizer["velocity"] is not velocity["velocity"]
    assert state.step == 0


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("fields", "message", "field"),
    [
        *[({name: 0}, f"{name} must be at least 1, not 0", name)
          for name in ("unroll_steps", "lower_accumulation", "upper_accumulation")],
        ({"lower_schedule": 0.5}, "lower_schedule must be a function from a step's number to a factor of the rate, "
         "such as metascale.training.Cosine(...), not a float", "lower_schedule"),
        ({"upper_schedule": "x"}, "upper_schedule must be a function from a step's number to a factor of the rate, "
         "such as metascale.training.Cosine(...), not a str", "upper_schedule"),
        ({"method": "SAMA"}, "method must be an instance such as SAMA(), not 'SAMA'", "method"),
        ({"method": 3}, "method must be an instance such as SAMA(), not 3", "method"),
        ({"autocast": torch.float16},
         "autocast in float16 needs loss scaling, which would scale the hypergradient: use bfloat16", "autocast"),
        ({"method": Unrolled(3), "unroll_steps": 2},
         "the method differentiates 3 lower steps, more than the 2 of unroll_steps", None),
        ({"method": Unrolled(1), "unroll_steps": 2}, "Unrolled(steps=1) sees a part of the 2 lower steps of "
         "unroll_steps; set truncated=True to differentiate the last ones alone", None),
        ({"method": SAMA(multitask=True), "roll_back": True},
         "roll_back undoes the move of θ that multitask=True makes; choose one of them", None),
    ],
)  # fmt: skip
def test_what_a_training_is_refused_with(fields: dict[str, Any], message: str, field: str | None) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$") as caught:
        make(**fields)
    assert caught.value.field == field


def test_batches_that_are_no_functions() -> None:
    for place, name in enumerate(("lower_batches", "upper_batches")):
        sources: list[Any] = [len, len]
        sources[place] = [1]
        message = (
            f"{name} must be a function from a batch's number to the batch, such as Shuffled(...) or "
            "Loaded(DataLoader(...)), not a list"
        )
        with pytest.raises(InputError, match=f"^{re.escape(message)}$") as caught:
            BilevelTraining(levels(), *sources)
        assert caught.value.field == name


def test_what_may_go_together() -> None:
    make(method=Unrolled(2), unroll_steps=2)
    make(method=Unrolled(), unroll_steps=2)
    make(method=Unrolled(1, truncated=True), unroll_steps=2)
    make(method=SAMA(), roll_back=True)
    make(method=SAMA(multitask=True))
    make(lower_optimizer=Lion(0.1), method=SAMA(adapt=False))
    make(autocast=torch.bfloat16)
    with pytest.raises(InputError, match="overwrites parameters and state, which upper_optimizer of bilevel training"):
        make(upper_optimizer=SimpleNamespace(overwrites=True))


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -0.5], [math.inf, 1.0], [math.nan, 1.0]])
def test_weights_that_are_none(weights: list[float]) -> None:
    training = make(accumulate_by=lambda batch: weights[int(batch)])
    message = f"accumulate_by must give weights of at least 0 that do not all vanish, not {weights}"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$") as caught:
        training._shares([(0, 0), (1, 1)])
    assert caught.value.field == "accumulate_by"
    assert make(accumulate_by=float)._shares([(0, 0), (7, 3), (8, 1)]) == [0.0, 2.25, 0.75]
    tenths = make(accumulate_by=float)._shares([(0, 0.1), (1, 0.2)])
    assert tenths == pytest.approx([2 / 3, 4 / 3], rel=1e-14)


def test_numbers_that_are_not_finite() -> None:
    _check_finite({"a": 1.0, "b": None, "solver_residual": math.inf}, 3)
    for value in (math.inf, math.nan):
        with pytest.raises(Diverged, match=f"^upper_loss_nats is {value} at step 3$") as caught:
            _check_finite({"a": 1.0, "upper_loss_nats": value}, 3)
        assert caught.value.step == 3


def problem(lower: Any, upper: Any, **fields: Any) -> BilevelTraining:
    theta, lam = {"w": tensor([1.0]), "v": tensor([1.0])}, {"l": tensor([1.0]), "m": tensor([1.0])}
    return BilevelTraining(
        from_functions(theta, lam, lambda t, u, *_: lower(t, u), lambda t, u, *_: upper(t, u)), len_of, len_of, **fields
    )


def len_of(n: int) -> int:
    return n


def product(t: Params, u: Params) -> torch.Tensor:
    return (t["w"] * u["l"] * u["m"]).sum().square()


def reaches(t: Params, u: Params) -> torch.Tensor:
    return t["v"].sum()


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        (lambda t, u: tensor(1.0), reaches, "the lower loss depends on neither the lower nor the upper parameters"),
        (lambda t, u: (u["l"] * u["m"]).sum(), reaches, "the lower loss does not depend on the lower parameters"),
        (lambda t, u: (t["w"] * u["m"]).sum(), reaches,
         "the lower loss never touches the upper parameter 'l', so they have no hypergradient; use them in the lower "
         "loss or set requires_grad=False"),
        (lambda t, u: t["w"].sum(), reaches,
         "the lower loss never touches the upper parameters 'l', 'm', so they have no hypergradient; use them in the "
         "lower loss or set requires_grad=False"),
        (product, lambda t, u: u["l"].sum(),
         "the upper loss does not depend on the lower parameters, so there is nothing to learn from it"),
        (product, lambda t, u: tensor(2.0),
         "the upper loss does not depend on the lower parameters, so there is nothing to learn from it"),
        (lambda t, u: t["w"], reaches,
         "the lower loss must be one number (a tensor without dimensions), not (1,): take its mean"),
        (product, lambda t, u: 3.0, "the upper loss must be one number (a tensor without dimensions), not float: take "
         "its mean"),
    ],
)  # fmt: skip
def test_problems_that_nothing_can_be_learnt_from(lower: Any, upper: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        check(problem(lower, upper))


def test_problems_are_checked_with_second_derivatives_where_a_method_takes_them() -> None:
    check(problem(product, reaches))

    def linear(t: Params, u: Params) -> torch.Tensor:
        return (t["w"] * u["l"] * u["m"] * t["v"].detach()).sum()

    check(problem(linear, lambda t, u: t["w"].sum()))
    for method in (Implicit(), Unrolled()):
        with pytest.raises(InputError, match="has no second derivative with respect to the lower parameters"):
            check(problem(linear, lambda t, u: t["w"].sum(), method=method))
        check(problem(product, reaches, method=method))


# ------------------------------------------------------------------------------------------------------------- updates


def test_gradients_are_clipped_to_a_norm_over_all_tensors() -> None:
    g = {"a": tensor([3.0]), "b": tensor([4.0])}
    assert clipped(g, None) == (g, None)
    for bound, factor in ((5.0, 1.0), (6.0, 1.0), (2.5, 0.5)):
        found, norm = clipped(g, bound)
        assert norm == 5.0
        assert [value.item() for value in found.values()] == [3 * factor, 4 * factor]
    found, norm = clipped(g, 5.0, lambda square: 4 * square)  # of processes that together have twice the norm
    assert norm == 10.0
    assert [value.item() for value in found.values()] == [1.5, 2.0]


def test_an_update_in_turn_leaves_what_no_loss_used() -> None:
    params = {"a": tensor([1.0]), "b": tensor([2.0]), "c": tensor([3.0])}
    grads = {name: tensor([1.0]) for name in params}
    for optimizer in (SGD(0.5, momentum=0.5, weight_decay=0.1), Adam(0.5, weight_decay=0.1)):
        state = optimizer.init(params)
        placed: list[str] = []
        given = {slot: dict(values) for slot, values in state.items()}
        new, after = update_in_turn(optimizer, dict(params), dict(grads), given, placed.extend, 0.5, {"b"})
        expected, slots = optimizer.update(params, grads, state, 0.5)
        assert placed == ["a", "c"]
        assert list(new) == ["a", "b", "c"]
        assert new["b"] is params["b"]
        for name in ("a", "c"):
            close(new[name], expected[name])
        for slot, values in state.items():
            assert set(after[slot]) == set(values)
            for name in values:
                close(after[slot][name], (values if name == "b" else slots[slot])[name])


def test_a_lower_step_as_a_function() -> None:
    """The mean of the losses' gradients, clipped, at the rate; differentiable in λ."""
    lam = {"l": tensor(2.0).requires_grad_()}
    losses = tuple(lambda t, u, f=f: f * (t["w"] * u["l"]).sum() for f in (1.0, 3.0))
    theta = {"w": tensor([1.0, 1.0])}
    new, _ = differentiable_step(SGD(0.1), losses, None, 0.5)(theta, {}, lam)
    close(new["w"].detach(), [1 - 0.05 * 2 * 2] * 2)
    (slope,) = torch.autograd.grad(new["w"].sum(), lam["l"])
    assert slope.item() == pytest.approx(-0.05 * 2 * 2)
    new, _ = differentiable_step(SGD(0.1), losses, math.sqrt(2), 1.0)(theta, {}, lam)
    close(new["w"].detach(), [0.9] * 2)
    new, _ = differentiable_step(SGD(0.1), losses[:1], None)(theta, {}, lam)
    close(new["w"].detach(), [0.8] * 2)


def test_which_steps_have_a_derivative() -> None:
    for optimizer in (SGD(0.1), Adam(0.1), RMSprop(0.1), Adagrad(0.1)):
        assert closed_form(optimizer)
    for optimizer in (LAMB(0.1), Muon(0.1), Lion(0.1, softness=0.5)):
        assert not closed_form(optimizer)
        check_adaptable(optimizer)
    message = (
        "Lion's step is a sign, whose derivative is zero, so adaptation would erase the hypergradient: give it a "
        "softness above 0, or use SAMA(adapt=False)"
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$") as caught:
        check_adaptable(Lion(0.1))
    assert caught.value.field == "lower_optimizer"


def test_derivatives_of_descent_with_rate_and_clip() -> None:
    """Nesterov's step has (1 + momentum) g; clipped from norm 10 to 5 along (3, 4), w = (5, 0) keeps its part across.

    w − (w·g) g / 25 = (5, 0) − 15/25 · (3, 4) = (3.2, −2.4), times 5/10.
    """
    g, w = {"w": tensor([3.0, 4.0])}, {"w": tensor([5.0, 0.0])}
    close(adaptation(SGD(0.1, momentum=0.5), LastStep(g, {}))(w)["w"], [0.5, 0])
    close(adaptation(SGD(0.1, momentum=0.5, nesterov=True), LastStep(g, {}))(w)["w"], [0.75, 0])
    close(adaptation(SGD(0.1), LastStep(g, {}, rate=3.0))(w)["w"], [1.5, 0])
    close(adaptation(SGD(1.0), LastStep(g, {}, norm=10.0, max_norm=5.0))(w)["w"], [1.6, -1.2])
    close(adaptation(SGD(1.0), LastStep(g, {}, norm=5.0, max_norm=5.0))(w)["w"], [5, 0])
    close(adaptation(SGD(1.0), LastStep(g, {}, norm=10.0))(w)["w"], [5, 0])
    half = adaptation(SGD(1.0), LastStep(g, {}, norm=10.0, max_norm=5.0, total=lambda value: 0 * value))(w)
    close(half["w"], [2.5, 0])


# ----------------------------------------------------------------------------------------------------------- processes


class Group:
    """A process group of ``size`` processes of which this is ``rank``: sums find the other processes' share."""

    ReduceOp = SimpleNamespace(SUM="sum", MIN="min")

    def __init__(self, rank: int = 0, size: int = 1, ready: bool = True) -> None:
        self.rank, self.size, self.ready = rank, size, ready
        self.sent: list[list[float]] = []
        self.kinds: list[torch.dtype] = []
        self.started: list[tuple[str, Any]] = []

    def is_initialized(self) -> bool:
        return self.ready

    def get_rank(self) -> int:
        return self.rank

    def get_world_size(self) -> int:
        return self.size

    def all_reduce(self, value: torch.Tensor, op: str = "sum", async_op: bool = False) -> Any:
        self.sent.append(value.flatten().tolist())
        self.kinds.append(value.dtype)
        if op == "min":
            value.copy_(torch.minimum(value, (torch.arange(value.numel()) % 2 == 0).to(value.dtype)))
        else:
            value += 10  # what the others have
        return SimpleNamespace(wait=lambda: None)

    def broadcast(self, value: torch.Tensor, source: int) -> None:
        value.fill_(float(source) - 7)

    def broadcast_object_list(self, held: list[Any], source: int) -> None:
        held[0] = (held[0], source)

    def init_process_group(self, backend: str, timeout: Any) -> None:
        self.started.append((backend, timeout.total_seconds()))


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Group]:
    def make_group(*arguments: Any) -> Group:
        made = Group(*arguments)
        monkeypatch.setattr("metascale.bilevel.distributed.dist", made)
        return made

    return make_group


def test_one_process_does_all() -> None:
    one, grads = Processes(), {"w": torch.ones(1)}
    assert one.share(lambda n: 10 * n, 3, 2) == [(6, 60), (7, 70)]
    assert one.average(grads) is grads
    assert one.agree(grads) is grads
    assert one.mean_loss(grads["w"]) is grads["w"]
    assert one.unused({"w"}, grads) == {"w"}
    assert (one.reducer(grads), one.average_lower) == (None, None)
    one.check(3, 5)


def test_processes_take_micro_batches_in_turn_and_average(group: Any) -> None:
    made = group(1, 4)
    several = DataParallel()
    assert several.share(lambda n: -n, 2, 8) == [(17, -17), (21, -21)]
    assert several.share(lambda n: -n, 0, 4) == [(1, -1)]
    loss = tensor(2.0).requires_grad_()
    assert several.mean_loss(loss).item() == 3.0  # (2 + 10) / 4
    assert loss.item() == 2.0
    buffers = {"mean": tensor([1.0, 2.0])}
    assert several.agree(buffers)["mean"].tolist() == [-7.0, -7.0]
    assert buffers["mean"].tolist() == [1.0, 2.0]
    assert several.unused({"a", "b"}, {"a": loss, "b": loss, "c": loss}) == {"a"}
    assert (made.sent[-1], made.kinds[-1]) == ([1, 1, 0], torch.int32)
    assert several.unused({"c"}, {"a": loss, "b": loss, "c": loss}) == {"c"}
    assert several.average_lower is None
    joint = DataParallel("joint")
    average = joint.average_lower
    assert average is not None
    found = average({"a": tensor([2.0, 6.0]), "b": tensor([[10.0]])})
    assert {name: value.tolist() for name, value in found.items()} == {"a": [3.0, 4.0], "b": [[5.0]]}
    several.check(8, 4)
    for counts, name, count in (((6, 4), "lower_accumulation", 6), ((4, 2), "upper_accumulation", 2)):
        with pytest.raises(InputError, match=f"^{name} is {count}: it must be a multiple of the 4 processes$"):
            several.check(*counts)


def test_processes_that_are_none(group: Any) -> None:
    group(0, 1, False)
    message = "DataParallel needs an initialised process group: start with torchrun and call initialise()"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        DataParallel().check(1, 1)
    with pytest.raises(InputError, match=r"^mode of DataParallel must be 'local' or 'joint', not 'both'$"):
        DataParallel("both")  # type: ignore[arg-type]


def test_gradients_are_reduced_in_buckets_from_the_last_tensor(group: Any) -> None:
    """Doubles of 2, 1, 3 and 1 numbers, and a float32: buckets of at most 24 bytes hold e | d | c | a, b in reverse."""
    like = {
        "a": tensor([0.0, 0.0]), "b": tensor([0.0]), "c": tensor([0.0] * 3), "d": tensor([0.0]),
        "e": torch.zeros(1),
    }  # fmt: skip
    made = group(0, 2)
    reducer = BucketReducer(like, 24)
    assert reducer.order == ["e", "d", "c", "b", "a"]
    assert reducer._buckets == [["e"], ["d"], ["c"], ["b", "a"]]
    reducer.ready("d", tensor([4.0]))
    assert made.sent == []  # the first bucket is not complete
    reducer.ready("e", torch.tensor([5.0]))
    assert made.sent == [[5.0], [4.0]]
    reducer.ready("a", tensor([1.0, 2.0]))
    reducer.ready("c", tensor([6.0, 7.0, 8.0]))
    assert made.sent[2:] == [[6.0, 7.0, 8.0]]
    reducer.ready("b", tensor([3.0]))
    assert made.sent[3:] == [[3.0, 1.0, 2.0]]
    found = reducer.finish()
    assert list(found) == list(like)
    assert {name: value.tolist() for name, value in found.items()} == {
        "a": [5.5, 6.0], "b": [6.5], "c": [8.0, 8.5, 9.0], "d": [7.0], "e": [7.5],
    }  # fmt: skip
    assert BucketReducer(like, 56)._buckets == [["e"], ["d", "c", "b", "a"]]
    later = BucketReducer(like, 1, eager=False)
    for name in later.order:
        later.ready(name, like[name])
    assert len(made.sent) == 4
    later.finish()
    assert len(made.sent) == 9


def test_the_reducer_of_upper_gradients(group: Any) -> None:
    group(0, 2)
    like = {"l": tensor([1.0])}
    for overlap in (True, False):
        start = DataParallel(overlap=overlap, bucket_bytes=16).reducer(like)
        assert start is not None
        made = start()
        assert isinstance(made, BucketReducer)
        assert made._eager is overlap
        assert start() is not made


def test_a_group_is_joined_and_shares_a_run(group: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = group(0, 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert initialise() == 0
    assert initialise(3.0) == 0
    assert made.started == [("gloo", 600.0), ("gloo", 3.0)]
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    made.rank = 1
    assert initialise() == 1
    monkeypatch.delenv("LOCAL_RANK")
    initialise()
    assert made.started[2] == ("nccl", 600.0)
    assert chosen == [3, 0]
    run: Any = object()
    other = shared(run)
    assert other._run is None  # type: ignore[attr-defined]
    made.rank = 0
    first = shared(run)
    assert first._run is run  # type: ignore[attr-defined]
    assert first._share("x") == ("x", 0)  # type: ignore[attr-defined]


def test_what_goes_with_a_model_that_reduces_its_gradients() -> None:
    plain, reduced = levels(), replace(levels(), reduced=True)
    sharded: Any = replace(reduced, shards=SimpleNamespace(total=lambda value: 2 * value))
    check_wrapped(plain, Processes(), LAMB(0.1), SAMA(mixed="exact"))
    check_wrapped(reduced, DataParallel(), LAMB(0.1), SAMA(mixed="exact"))
    check_wrapped(sharded, DataParallel("joint"), Adam(0.1), SAMA())
    for level, processes, optimizer, method, message, field in (
        (reduced, Processes(), SGD(0.1), SAMA(),
         "a lower model in DistributedDataParallel or fully_shard needs processes=DataParallel(...) beside it",
         "processes"),
        (sharded, DataParallel("local"), SGD(0.1), SAMA(),
         "sharded parameters get the mean of the processes' upper gradients: use DataParallel('joint')", "processes"),
        (sharded, DataParallel("joint"), SGD(0.1), SAMA(mixed="exact"),
         "sharded parameters have no forward-mode derivatives: use SAMA(mixed='finite_difference')", None),
        (sharded, DataParallel("joint"), LAMB(0.1), SAMA(),
         "LAMB takes norms of whole tensors, of which each process holds a shard; use an element-wise optimiser",
         "lower_optimizer"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"^{re.escape(message)}$") as caught:
            check_wrapped(level, processes, optimizer, method)
        assert caught.value.field == field
    assert sharded.total(3) == 6
    assert plain.total(3) == 3


# --------------------------------------------------------------------------------------------------------------- holds


def test_held_values_are_those_of_the_step_again() -> None:
    first = Pass(None, {})
    value = tensor([1.0]).requires_grad_()
    assert not first.hold(value).requires_grad
    first.hold(tensor([2.0]))
    again = Pass(None, {}, replay=first.held)
    assert again.hold(tensor([10.0])).item() == 1.0
    assert again.hold(torch.tensor([20.0])).dtype == torch.float32
    assert [each.item() for each in again.held] == [10.0, 20.0]
    message = "^a perturbed pass holds value number 3; the lower step held fewer$"
    with pytest.raises(InputError, match=message):
        again.hold(value)
    assert not hold(value).requires_grad  # outside of any pass
    seen: list[float] = []

    def loss(theta: Params, lam: Params, batch: Any, context: Pass) -> torch.Tensor:
        seen.append(hold(theta["w"] + 0).sum().item())
        return theta["w"].sum()

    made = from_functions({"w": tensor([3.0])}, {"l": tensor([1.0])}, loss, loss)
    context = Pass(None, {}, replay=[tensor([5.0])])
    for each in (made.lower_loss, made.upper_loss):
        context.held.clear()
        each(made.start().lower, made.start().upper, None, context)
    assert seen == [5.0, 5.0]
    assert (made.bound, made.reduced, made.shards) == (None, False, None)
