"""Evaluator, benchmark, baselines and the rows of meta-training, on tables small enough to work out in the test."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from metascale.core.errors import Diverged, InputError
from metascale.core.types import Batch, Episode, Params, Split
from metascale.meta import baselines
from metascale.meta.baselines import (
    Adaptation,
    Arena,
    Baseline,
    _LinearProbe,
    _logistic_regression,
    _Prototypes,
    choose_adaptation,
    class_prior,
    fine_tuning,
    linear_probe,
    prototypes,
    zero_shot,
)
from metascale.meta.evaluate import (
    Benchmark,
    Evaluation,
    Measure,
    adapted_predictor,
    benchmark,
    evaluate,
    predict_in_parts,
    score,
)
from metascale.meta.gradients import FOMAML, EpisodeReport
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.meta.training import MetaTraining
from metascale.parallel.execution import Execution
from metascale.training.optimizers import SGD
from tests.meta.test_reference import LeastSquares, episode, tasks


@dataclass
class Watched:
    """A source of the tasks of one episode, which notes what it is asked for and where that is moved to."""

    episode: Episode
    n: int | None = None
    asked: list[tuple[Split, list[int]]] = field(default_factory=list)
    moved: list[tuple[str, torch.dtype | None]] = field(default_factory=list)

    def episodes(self, split: Split, indices: Sequence[int]) -> Any:
        self.asked.append((split, list(indices)))
        found = self.episode.tasks(indices[0], indices[-1] + 1)

        def to(device: str, dtype: torch.dtype | None = None) -> Episode:
            self.moved.append((device, dtype))
            return found.to(None, dtype)

        return SimpleNamespace(to=to, task_ids=found.task_ids, support=found.support, query=found.query)

    def n_tasks(self, split: Split) -> int | None:
        return self.n

    def describe(self) -> dict[str, object]:
        return {}


def source(n_tasks: int = 5, n: int | None = None) -> Watched:
    return Watched(episode(tasks(n_tasks, seed=4)), n)


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    return {
        name: each.default for name, each in signature(function).parameters.items() if each.default is not each.empty
    }


# -------------------------------------------------------------------------------------------------- tables of results

LOSSES = np.array([[3.0, 1.0], [5.0, 4.0], [1.0, 1.0], [3.0, 2.0]])
ACCURACIES = np.array([[0.0, 0.5], [0.5, 0.5], [0.5, 1.0], [1.0, 1.0]])


def test_means_of_tasks_with_their_standard_errors() -> None:
    """Losses 3, 5, 1, 3: squares of deviations sum to 8, so the SE is √(8/3)/2. Accuracies 0, ½, ½, 1: √(0.5/3)/2."""
    found = Evaluation(("a", "b", "c", "d"), (0, 2), LOSSES, ACCURACIES)
    first = {
        "loss_nats": 3,
        "loss_sem_nats": math.sqrt(8 / 3) / 2,
        "accuracy": 0.5,
        "accuracy_sem": math.sqrt(1 / 6) / 2,
    }
    second = {
        "loss_nats": 2,
        "loss_sem_nats": math.sqrt(2) / 2,
        "accuracy": 0.75,
        "accuracy_sem": math.sqrt(0.25 / 3) / 2,
    }
    assert found.at(0) == pytest.approx(first)
    assert found.at(2) == pytest.approx(second)
    assert found.curve() == [pytest.approx({"inner_steps": 0, **first}), pytest.approx({"inner_steps": 2, **second})]
    assert found.tasks(2) == [
        {"episode": 0, "task_id": "a", "loss_nats": 1.0, "accuracy": 0.5},
        {"episode": 1, "task_id": "b", "loss_nats": 4.0, "accuracy": 0.5},
        {"episode": 2, "task_id": "c", "loss_nats": 1.0, "accuracy": 1.0},
        {"episode": 3, "task_id": "d", "loss_nats": 2.0, "accuracy": 1.0},
    ]
    with pytest.raises(InputError, match=re.escape("inner_steps 1 was not evaluated; there are [0, 2]")):
        found.at(1)
    table = found._repr_html_()
    assert "<caption>Mean of 4 tasks ± 1 standard error across tasks</caption>" in table
    assert "<th>inner steps</th><th>loss</th><th>accuracy</th>" in table


def test_one_task_has_no_spread_and_real_values_no_accuracy() -> None:
    one = Evaluation(("a",), (0,), LOSSES[1:2, :1], ACCURACIES[1:2, :1])
    assert one.at(0) == {"loss_nats": 5.0, "loss_sem_nats": 0.0, "accuracy": 0.5, "accuracy_sem": 0.0}
    real = Evaluation(("a", "b"), (3,), LOSSES[:2, :1], np.array([[math.nan], [math.nan]]))
    assert real.at(3) == pytest.approx({"loss_nats": 4.0, "loss_sem_nats": 1.0})
    assert real.curve() == [pytest.approx({"inner_steps": 3, "loss_nats": 4.0, "loss_sem_nats": 1.0})]
    assert [row["accuracy"] for row in real.tasks(3)] == [None, None]
    assert "<th>inner steps</th><th>loss</th></tr>" in real._repr_html_()


def test_what_a_measure_may_be() -> None:
    assert get_args(Measure) == ("loss", "mean squared error")


def test_a_benchmark_in_words() -> None:
    """Losses 1, 4, 1, 2: SE √2/2, times t of 3 degrees of freedom at 97.5 %, 3.18244631."""
    found = Benchmark(Evaluation(tuple("abcd"), (0, 2), LOSSES, ACCURACIES), 2)
    assert found.n_episodes == 4
    assert found.loss_nats == pytest.approx((2, 3.18244631 * math.sqrt(0.5)))
    assert found.accuracy == pytest.approx((0.75, 3.18244631 * math.sqrt(0.25 / 3) / 2))
    real = replace(found.evaluation, accuracy=np.full((4, 2), math.nan), measure="mean squared error")
    assert str(Benchmark(real, 2)) == "mean squared error 2.0000 ± 2.2503 (95 % interval, 4 episodes, 2 inner steps)"
    assert math.isnan(Benchmark(real, 2).accuracy[0])


# ------------------------------------------------------------------------------------------------------------- scores


def test_classes_are_scored_by_cross_entropy_and_hits() -> None:
    """Two tasks; log(1 + e^-2) where right by 2, 2 more where wrong by 2, log 3 of three equal logits (the first)."""
    right, wrong, equal = [2.0, 0.0, -1e9], [0.0, 2.0, -1e9], [1.0, 1.0, 1.0]
    losses, hits = score(torch.tensor([[right, wrong], [equal, wrong]]), torch.tensor([[0, 0], [0, 1]]))
    small = math.log1p(math.exp(-2))
    assert losses.tolist() == pytest.approx([(small + small + 2) / 2, (math.log(3) + small) / 2])
    assert hits.tolist() == [0.5, 1.0]
    sequences = torch.zeros(1, 2, 3, 4)
    sequences[0, 0, 0, 1] = 5.0
    with pytest.raises(InputError, match="targets must be shaped like the predictions"):
        score(sequences, torch.zeros(1, 2, 3))


def test_real_values_are_scored_by_the_mean_square_of_all_dimensions() -> None:
    losses, hits = score(torch.zeros(2, 2, 2), torch.tensor([[[1.0, 3.0], [0.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]]))
    assert losses.tolist() == [(1 + 9 + 0 + 4) / 4, 1.0]
    assert hits.isnan().tolist() == [True, True]


def test_of_an_own_loss_classes_are_counted_where_there_are_classes() -> None:
    """Sequences of two positions: of task 0 three targets count (two hit), of task 1 four (one hit)."""
    own = torch.tensor([0.25, 4.0])
    outputs = torch.zeros(2, 2, 2, 2)
    outputs[..., 1] = 1.0  # all say class 1
    targets = torch.tensor([[[1, 1], [0, -1]], [[0, 0], [0, 1]]])
    losses, hits = score(outputs, targets, own)
    assert losses is own
    assert hits.tolist() == pytest.approx([2 / 3, 1 / 4])
    for values, wanted in ((outputs[..., :1], targets), (outputs, targets.double()), (outputs, targets[:, :1])):
        losses, hits = score(values, wanted, own)
        assert losses is own
        assert hits.isnan().all()


def test_predictions_in_parts_are_those_of_the_whole() -> None:
    sizes: list[int] = []

    class Counting(LeastSquares):
        def predict(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
            sizes.append(batch.n_examples)
            return super().predict(params, batch)

    batch = episode(tasks()).query
    params = {"w": torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()}
    expected = (batch.inputs["x"] * params["w"].unsqueeze(1)).sum(2)
    for micro_batch, parts in ((None, [7]), (7, [7]), (9, [7]), (3, [3, 3, 1]), (6, [6, 1])):
        sizes.clear()
        found = predict_in_parts(Counting(), params, batch, micro_batch)
        assert sizes == parts
        assert not found.requires_grad
        torch.testing.assert_close(found, expected.detach())
    model = Counting()
    object.__setattr__(model, "batch_statistics", True)
    assert predict_in_parts(model, params, batch, 7).shape == (3, 7)
    message = "micro_batch=6 would change the predictions of a model with batch statistics"
    with pytest.raises(InputError, match=message):
        predict_in_parts(model, params, batch, 6)


# ---------------------------------------------------------------------------------------------------------- evaluator


def constant(value: float, *steps: int) -> Callable[[Episode], dict[int, torch.Tensor]]:
    """Predicts ``value`` + k after k steps."""
    return lambda part: {k: torch.full_like(part.query.targets, value + k) for k in steps}


def errors(at: Watched, value: float, stop: int, start: int = 0) -> list[float]:
    return [float(((value - y) ** 2).mean()) for y in at.episode.query.targets[start:stop].numpy()]


def test_the_first_tasks_of_a_split_in_batches() -> None:
    at = source(5)
    found = evaluate(constant(0.5, 3, 0), at, "validation", 5, batch=2)
    assert at.asked == [("validation", [0, 1]), ("validation", [2, 3]), ("validation", [4])]
    assert found.inner_steps == (0, 3)
    assert found.task_ids == ("task0", "task1", "task2", "task3", "task4")
    np.testing.assert_allclose(found.loss_nats, np.stack([errors(at, 0.5, 5), errors(at, 3.5, 5)], 1))
    assert found.accuracy.shape == (5, 2)
    assert np.isnan(found.accuracy).all()
    assert found.measure == "mean squared error"
    fewer = source(5)
    np.testing.assert_allclose(evaluate(constant(1.0, 0), fewer, n_tasks=4).loss_nats[:, 0], errors(at, 1.0, 4))
    assert fewer.asked == [("test", [0, 1, 2, 3])]
    assert evaluate(constant(1.0, 0), source(5, n=1), n_tasks=1).task_ids == ("task0",)
    assert defaults_of(evaluate) == {
        "split": "test", "n_tasks": 100, "batch": 8, "execution": None, "device": "cpu", "dtype": None,
    }  # fmt: skip


def test_an_evaluation_takes_the_numbers_it_is_told() -> None:
    kinds: list[torch.dtype] = []

    def predictor(part: Episode) -> dict[int, torch.Tensor]:
        kinds.append(part.query.targets.dtype)
        return {0: torch.zeros_like(part.query.targets)}

    evaluate(predictor, source(), n_tasks=1)
    evaluate(predictor, source(), n_tasks=1, dtype=torch.float32)
    assert kinds == [torch.float64, torch.float32]
    counts: list[int] = []

    def counting(part: Episode) -> dict[int, torch.Tensor]:
        counts.append(part.n_tasks)
        return {0: torch.zeros_like(part.query.targets)}

    evaluate(counting, source(), n_tasks=5, batch=4, execution=Execution(chunk=3))
    assert counts == [3, 1, 1]
    at = source()
    evaluate(counting, at, n_tasks=3, batch=2, device="far", dtype=torch.float32)
    assert at.moved == [("far", torch.float32)] * 2


@pytest.mark.parametrize(("n_tasks", "n"), [(0, None), (-1, 5), (6, 5)])
def test_tasks_that_a_split_does_not_have(n_tasks: int, n: int | None) -> None:
    at = source(5, n)
    message = f"the validation split has {n} tasks; {n_tasks} were requested (at least 1 is needed)"
    with pytest.raises(InputError, match=re.escape(message)):
        evaluate(constant(0.0, 0), at, "validation", n_tasks)
    assert not at.asked


def test_losses_that_are_not_finite_name_their_tasks() -> None:
    at = source(4)
    at.episode.query.targets[1, 0] = math.nan
    at.episode.query.targets[3, 2] = math.inf
    message = "the validation loss of 2 task(s) is not finite, the first is task1"
    with pytest.raises(Diverged, match=re.escape(message)) as caught:
        evaluate(constant(0.0, 0, 1), at, "validation", 4, batch=3)
    assert (caught.value.step, caught.value.task_ids) == (-1, ("task1", "task3"))


def test_what_a_loss_is_called() -> None:
    """The name is of real values alone: a predictor's own, or else the mean square; of classes it is a loss."""

    class Own:
        measure = "loss"

        def __call__(self, part: Episode) -> dict[int, torch.Tensor]:
            return {0: torch.zeros_like(part.query.targets)}

    assert evaluate(Own(), source(), n_tasks=2).measure == "loss"
    classes = Watched(Episode(("a",), *[Batch({"x": torch.zeros(1, 2, 1)}, torch.tensor([[0, 1]]))] * 2))
    assert evaluate(lambda part: {0: torch.zeros(1, 2, 2)}, classes, n_tasks=1).measure == "loss"

    @dataclass(frozen=True)
    class OwnLoss(LeastSquares):
        own_loss: bool = True
        loss: str = "huber"

        def output_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
            return (outputs - batch.targets).abs().mean(1)

    at = source(2)
    params = {"w": torch.zeros(3, dtype=torch.float64)}
    for model, measure in (
        (OwnLoss(), "loss"), (OwnLoss(loss="squared_error"), "mean squared error"),
        (OwnLoss(own_loss=False), "mean squared error"), (LeastSquares(), "mean squared error"),
    ):  # fmt: skip
        predictor: Any = adapted_predictor(model, InnerLoop(SGD(0.1), 0), params, [0])
        assert predictor.measure == measure
        assert (predictor.losses is None) is not getattr(model, "own_loss", False)
        loss = evaluate(predictor, at, n_tasks=2).loss_nats[:, 0]
        targets = at.episode.query.targets.numpy()
        np.testing.assert_allclose(loss, (abs(targets) if predictor.losses else targets**2).mean(1))


@pytest.mark.parametrize("steps", [[], [-1, 2]])
def test_steps_that_cannot_be_evaluated(steps: list[int]) -> None:
    message = f"inner_steps must name at least one number of steps, 0 or more, not {steps}"
    with pytest.raises(InputError, match=re.escape(message)):
        adapted_predictor(LeastSquares(), InnerLoop(), {}, steps)


def test_steps_are_taken_once_in_their_order() -> None:
    found = adapted_predictor(LeastSquares(), InnerLoop(SGD(0.1), 1), LeastSquares().init(0), [2, 0, 2])(
        source().episode
    )
    assert list(found) == [0, 2]


def test_a_benchmark_is_of_the_most_steps_and_passes_all_on(monkeypatch: pytest.MonkeyPatch) -> None:
    at = source(5)
    found = benchmark(constant(0.5, 0, 2), at, "validation", 4, batch=3, execution=Execution(chunk=2))
    assert found.inner_steps == 2
    assert at.asked == [("validation", [0, 1, 2]), ("validation", [3])]
    np.testing.assert_allclose(found.evaluation.loss_nats[:, 1], errors(at, 2.5, 4))
    assert benchmark(constant(0.0, 0), source(5, n=2), n_episodes=2).n_episodes == 2
    assert defaults_of(benchmark) == {
        "split": "test", "n_episodes": 600, "batch": 8, "execution": None, "device": "cpu",
    }  # fmt: skip
    far = source()
    benchmark(constant(0.0, 0), far, n_episodes=2, device="far")
    assert far.moved == [("far", None)]
    counts: list[int] = []
    counting = lambda part: counts.append(part.n_tasks) or constant(0.0, 0)(part)
    benchmark(counting, source(), n_episodes=3, execution=Execution(chunk=2))
    assert counts == [2, 1]
    for n_episodes, n, message in (
        (1, None, "an interval needs at least 2 episodes, not 1"),
        (4, 3, "4 episodes were asked for but the validation split has 3: make the source with n_validation_tasks=4"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            benchmark(constant(0.0, 0), source(5, n=n), "validation", n_episodes)
        assert caught.value.field == "n_episodes"


# ------------------------------------------------------------------------------------------------------ meta-training


def training(at: Watched, **fields: Any) -> MetaTraining:
    return MetaTraining(LeastSquares(), MetaLearner(FOMAML(InnerLoop(SGD(0.1), 2)), SGD(0.1)), at, **fields)


def test_an_outer_step_takes_the_visits_of_its_number() -> None:
    at = source(8)
    process = training(at, meta_batch=2, seed=5, n_validation=2)
    state = process.init()
    process.step(state, 0)
    process.step(state, 3)
    assert at.asked == [("train", [0, 1]), ("train", [6, 7])]
    far = replace(process, device="far")
    far.step(state, 1)
    far.validate(state)
    assert at.moved == [("cpu", None), ("cpu", None), ("far", None), ("far", None)]


def test_the_row_of_a_step_is_what_the_report_says() -> None:
    """Means over tasks, and the spread of 1 and 4: |1 − 4|/√2."""
    report = SimpleNamespace(
        meta_gradient_norm=0.5, task_ids=("a", "b"), support_loss_start=torch.tensor([3.0, 5.0]),
        support_loss_end=torch.tensor([1.0, 2.0]), query_loss=torch.tensor([1.0, 4.0]),
        diagnostics={"residual": torch.tensor([0.25, 0.75])},
    )  # fmt: skip

    @dataclass(frozen=True)
    class Told(MetaLearner):
        def step(self, model: Any, state: Any, episode: Episode) -> Any:
            return "next", report

    process = replace(training(source()), learner=Told(FOMAML(InnerLoop(SGD(0.1), 2))), meta_batch=2)
    state, row = process.step(process.init(), 0)
    assert state == "next"
    assert row == pytest.approx({
        "meta_gradient_norm": 0.5, "support_loss_start_nats": 4.0, "support_loss_end_nats": 1.5,
        "query_loss_nats": 2.5, "query_loss_std_nats": 3 / math.sqrt(2), "residual": 0.5,
    })  # fmt: skip


def test_a_validation_is_named_and_takes_what_it_is_told() -> None:
    """Rows are named after the split; batches of ``eval_batch``; micro-batches are the learner's."""
    at, sizes = source(5), []

    class Counting(LeastSquares):
        def predict(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
            sizes.append((batch.n_tasks, batch.n_examples))
            return super().predict(params, batch)

    process = training(at, n_validation=3, eval_batch=2, execution=Execution(chunk=1), eval_steps=0)
    process = replace(process, model=Counting(), learner=process.learner.with_micro_batch(4))
    row = process.validate(process.init())
    assert set(row) == {"validation_loss_nats", "validation_loss_sem_nats"}
    assert at.asked == [("validation", [0]), ("validation", [0, 1]), ("validation", [2])]
    assert sizes == [(1, 4), (1, 3)] * 3


def test_memory_that_runs_out_is_a_matter_of_the_step() -> None:
    """What is tried: the learner's micro-batch, on the episode at hand, under the number of the step."""
    told: list[Any] = []

    class Spy:
        def attempt(self, call: Any, micro_batch: int | None, shape: Any, step: int) -> Any:
            told.append((micro_batch, shape.task_ids, step))
            return call(2)

    process = training(source(8), meta_batch=2, n_validation=3, micro_batches=Spy())
    process = replace(process, learner=process.learner.with_micro_batch(4))
    state, row = process.step(replace(process.init(), step=5), 3)
    assert process.step(process.init(), 3)[1] == row
    assert state.step == 6
    process.validate(state)
    assert told == [(4, ("task6", "task7"), 3)] * 2 + [(4, ("task0",), 6)]


def test_a_state_is_restored_at_its_step() -> None:
    process = training(source())
    state, _ = process.step(process.init(), 0)
    again = process.unpack(process.pack(state), 7)
    assert again.step == 7
    assert torch.equal(again.params["w"], state.params["w"])
    assert not torch.equal(again.params["w"], process.init().params["w"])


# ---------------------------------------------------------------------------------------------------------- baselines


def test_an_arena_takes_each_split_whole() -> None:
    at = source(5)
    arena = Arena(at, n_validation=3, n_test=5, batch=2, execution=Execution(chunk=1))
    counts: list[int] = []
    counting = lambda part: counts.append(part.n_tasks) or constant(0.0, 0)(part)
    arena.run(counting, "validation")
    arena.run(counting, "test")
    assert at.asked == [
        ("validation", [0, 1]), ("validation", [2]), ("test", [0, 1]), ("test", [2, 3]), ("test", [4]),
    ]  # fmt: skip
    assert counts == [1] * 8
    assert at.moved == [("cpu", None)] * 5
    replace(arena, device="far").run(constant(0.0, 0), "validation")
    assert at.moved[5:] == [("far", None)] * 2


def loss_after(at: Watched, rate: float, steps: int, n_tasks: int) -> float:
    """Mean over the first tasks of the squared error after so many steps from w = 0."""
    found = []
    for x, y, query_x, query_y in tasks(5, seed=4)[:n_tasks]:
        w = np.zeros(3)
        for _ in range(steps):
            w = w - rate * x.T @ (x @ w - y) / len(y)
        found.append(((query_x @ w - query_y) ** 2).mean())
    return float(np.mean(found))


ZERO = {"w": torch.zeros(3, dtype=torch.float64)}


def test_zero_shot_is_the_loss_without_a_step() -> None:
    at = source(5)
    found = zero_shot(LeastSquares(), ZERO, Arena(at, 2, 4))
    assert (found.choice, found.inner_steps, found.table, found.edges) == ({}, 0, (), ())
    assert found.test.at(0)["loss_nats"] == pytest.approx(loss_after(at, 0.1, 0, 4))
    assert {split for split, _ in at.asked} == {"test"}


def test_rate_and_steps_are_chosen_on_validation() -> None:
    rates, steps = (0.05, 0.4), (4, 0, 1, 4)
    at = source(5)
    arena, inner = Arena(at, 3, 5), InnerLoop(SGD(9.0), 9, clip=None)
    found = choose_adaptation(LeastSquares(), ZERO, arena, inner, SGD, rates, steps)
    table = {(rate, k): loss_after(at, rate, k, 3) for rate in rates for k in (0, 1, 4)}
    assert [tuple(row) for row in found.table] == [("inner_lr", "inner_steps", "validation_loss_nats")] * 6
    assert {(row["inner_lr"], row["inner_steps"]): row["validation_loss_nats"] for row in found.table} == pytest.approx(
        table
    )
    rate, k = min(table, key=lambda each: table[each])
    assert found.choice == {"inner_lr": rate, "inner_steps": k}
    assert found.inner == replace(inner, optimizer=SGD(rate), steps=k)
    tuned = fine_tuning(LeastSquares(), ZERO, arena, replace(inner, learn_rates=True), SGD, rates, steps)
    assert tuned.choice == found.choice
    assert tuned.inner_steps == k
    assert tuned.test.inner_steps == tuple(sorted({each for each in steps if each <= k}))
    for each in tuned.test.inner_steps:
        assert tuned.test.at(each)["loss_nats"] == pytest.approx(loss_after(at, rate, each, 5))


def test_ends_of_a_range() -> None:
    rows = tuple({"scale": value, "validation_loss_nats": 1.0} for value in (1, 3, 10))
    for make in (
        lambda choice, table: Baseline(choice, 0, table, Evaluation((), (), LOSSES, LOSSES)),
        lambda choice, table: Adaptation(InnerLoop(), choice, table),
    ):
        assert make({"scale": 1}, rows).edges == ("smallest scale",)
        assert make({"scale": 3}, rows).edges == ()
        assert make({"scale": 10}, rows).edges == ("largest scale",)
        assert make({"scale": 1}, rows[:1]).edges == ()
        assert make({"scale": 0}, (*rows, {"scale": 0})).edges == ()  # nothing lies below zero
    diverged = (
        {"inner_lr": None, "inner_steps": 2},
        {"inner_lr": 0.1, "inner_steps": 2},
        {"inner_lr": 0.2, "inner_steps": 2},
    )
    assert baselines.edges({"inner_lr": 0.2, "inner_steps": 2}, diverged) == ("largest inner_lr",)
    assert baselines.edges({"inner_lr": 0.1}, diverged) == ("smallest inner_lr",)


@dataclass(frozen=True)
class Features(LeastSquares):
    """Features are the inputs."""

    def features(self, params: Params, batch: Batch) -> torch.Tensor:
        return batch.inputs["x"] * params["w"][:, None, :1]


CLASSES = Episode(
    ("a",),
    Batch({"x": torch.tensor([[[2.0, 0.0], [0.0, 5.0], [3.0, 4.0]]])}, torch.tensor([[0, 1, 1]])),
    Batch({"x": torch.tensor([[[0.5, 0.0], [0.0, 1.0]]])}, torch.tensor([[0, 1]])),
)
ONES = {"w": torch.ones(1)}


def test_prototypes_by_hand() -> None:
    """Unit length: (1, 0), (0, 1), (0.6, 0.8). Means (1, 0) and (0.3, 0.9); squared distances of (1, 0) 0 and 1.3."""
    found = _Prototypes(Features(), ONES, 2.0)(CLASSES)
    assert list(found) == [0]
    torch.testing.assert_close(found[0], -2 * torch.tensor([[[0.0, 1.3], [2.0, 0.1]]]), rtol=1e-5, atol=1e-6)
    at = Watched(CLASSES)
    chosen = prototypes(Features(), ONES, Arena(at, 1, 1))
    # Both queries are right by 1.3 s and 1.9 s, so the largest scale has the least loss.
    losses = {s: (math.log1p(math.exp(-1.3 * s)) + math.log1p(math.exp(-1.9 * s))) / 2 for s in (1, 3, 10, 30, 100)}
    assert {row["scale"]: row["validation_loss_nats"] for row in chosen.table} == pytest.approx(losses, abs=1e-6)
    assert chosen.inner_steps == 0
    assert chosen.test.inner_steps == (0,)
    assert chosen.test.at(0)["accuracy"] == 1.0
    few = prototypes(Features(), ONES, Arena(at, 1, 1), scales=(2, 1))
    assert few.choice == {"scale": 2}
    assert few.test.at(0)["loss_nats"] == pytest.approx((math.log1p(math.exp(-2.6)) + math.log1p(math.exp(-3.8))) / 2)
    assert few.edges == ("largest scale",)


def test_a_linear_probe_by_hand() -> None:
    """Two plain gradient steps from zero, the second ahead by the momentum, of one example a class at ridge 1.

    Inputs (1, 0, 1) and (0, 1, 1), labels 0 and 1. At zero the residual is ∓½, so the gradient of class 0 is
    (−¼, ¼, 0) and the first weights are those negated over 1 + ridge = 2: (⅛, −⅛, 0).
    """
    features, labels = torch.eye(2, dtype=torch.float64)[None], torch.tensor([[0, 1]])
    first = _logistic_regression(features, labels, 2, 1.0, 1)[0]
    column = torch.tensor([0.125, -0.125, 0.0], dtype=torch.float64)
    torch.testing.assert_close(first, torch.stack([column, -column], 1))
    momentum = (math.sqrt(2) - 1) / (math.sqrt(2) + 1)
    ahead = 0.125 * (1 + momentum)
    p = 1 / (1 + math.exp(2 * ahead))  # of the wrong class
    second = ahead - (-p / 2 + ahead) / 2
    found = _logistic_regression(features, labels, 2, 1.0, 2)[0]
    torch.testing.assert_close(found[:, 0], second / 0.125 * column)
    assert _logistic_regression(features, labels, 2, 1.0, 0).abs().max() == 0


def test_the_probe_takes_the_ridge_of_validation() -> None:
    """Its predictions are those of the weights with a bias; a query's class that the support lacks has a column."""
    query = replace(CLASSES.query, targets=torch.tensor([[0, 2]]))
    (logits,) = _LinearProbe(Features(), ONES, 0.1, 400)(replace(CLASSES, query=query)).values()
    assert logits.shape == (1, 2, 3)
    inputs = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.6, 0.8, 1.0]])
    weights = _logistic_regression(inputs[None, :, :2], torch.tensor([[0, 1, 1]]), 3, 0.1, 400)[0]
    torch.testing.assert_close(logits[0], inputs[:2] @ weights)
    wanted = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    slope = inputs.T @ ((inputs @ weights).softmax(1) - wanted) / 3 + 0.1 * weights
    assert slope.abs().max() < 1e-6  # of the mean cross-entropy + ridge/2 ‖W‖²
    found = linear_probe(Features(), ONES, Arena(Watched(CLASSES), 1, 1), steps=30)
    assert [row["ridge"] for row in found.table] == [0.001, 0.01, 0.1, 1.0]
    losses = [row["validation_loss_nats"] for row in found.table]
    assert found.choice["ridge"] == found.table[int(np.argmin(losses))]["ridge"]
    alone = Arena(Watched(CLASSES), 1, 1).run(_LinearProbe(Features(), ONES, found.choice["ridge"], 30), "test")
    assert found.test.at(0) == alone.at(0)
    assert defaults_of(linear_probe) == {"ridges": (0.001, 0.01, 0.1, 1.0), "steps": 300}
    assert defaults_of(prototypes) == {"scales": (1, 3, 10, 30, 100)}


def test_a_class_prior_by_hand() -> None:
    """Two train episodes: class 7 had label 0 twice, class 8 label 1 and class 9 label 1; one more of each is counted.

    At test classes 7 (labelled 0: 3 of 4) and 5 (never seen: ½, a tie), then 8 (labelled 0: 1 of 3) and 7 (1: 1 of 4).
    """
    plans = {
        "train": [((7, 8), (0, 1)), ((7, 9), (0, 1))],
        "test": [((7, 5), (0, 1)), ((8, 7), (0, 1))],
    }
    asked: list[tuple[Split, list[int]]] = []

    class Plans:
        def plan(self, split: Split, indices: Sequence[int]) -> Any:
            asked.append((split, list(indices)))
            chosen = [plans[split][i] for i in indices if i < len(plans[split])]
            names = tuple(f"{split}{i}" for i in indices)
            return SimpleNamespace(
                task_ids=names,
                combinations=[c for c, _ in chosen],
                label_of_class=np.array([labels for _, labels in chosen]),
            )

    found = class_prior(Plans(), Arena(source(), 1, 2), n_train_episodes=2)
    assert asked == [("train", [0, 1]), ("test", [0]), ("test", [1])]
    assert found.choice == {"n_train_episodes": 2}
    assert (found.inner_steps, found.table, found.test.inner_steps) == (0, (), (0,))
    assert found.test.task_ids == ("test0", "test1")
    expected = [-(math.log(3 / 4) + math.log(1 / 2)) / 2, -(math.log(1 / 3) + math.log(1 / 4)) / 2]
    assert found.test.loss_nats[:, 0].tolist() == pytest.approx(expected)
    assert found.test.accuracy[:, 0].tolist() == [0.75, 0.0]
    assert class_prior(Plans(), Arena(source(), 1, 1)).choice == {"n_train_episodes": 1000}
    assert asked[3] == ("train", list(range(1000)))


def test_when_every_candidate_diverges_the_rates_are_named() -> None:
    rows = ({"inner_lr": 3.0, "validation_loss_nats": None}, {"inner_lr": 1.0}, {"inner_lr": 3.0}, {"inner_lr": None})
    message = "every candidate diverged on the meta-validation tasks; give inner rates below [1.0, 3.0]"
    with pytest.raises(InputError, match=re.escape(message)):
        baselines._best(rows)


def test_an_episode_report_in_parts() -> None:
    numbers = torch.arange(5.0)
    report = EpisodeReport(tuple("abcde"), numbers, numbers + 10, numbers + 20, {"residual": numbers + 30})
    for whole, query in ((report, True), (replace(report, query_loss=None), False)):
        first, second = whole.parts([2, 3])
        assert (first.task_ids, second.task_ids) == (("a", "b"), ("c", "d", "e"))
        assert (first.support_loss_start.tolist(), second.support_loss_start.tolist()) == ([0, 1], [2, 3, 4])
        assert (first.support_loss_end.tolist(), second.support_loss_end.tolist()) == ([10, 11], [12, 13, 14])
        assert second.diagnostics["residual"].tolist() == [32, 33, 34]
        assert set(second.diagnostics) == {"residual"}
        assert (second.query_loss.tolist() == [22, 23, 24]) if query else (second.query_loss is None)
