"""Plans, budgets and calls of tasks, against values worked out in the tests; nothing here is measured for real."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.types import Batch, Episode
from metascale.meta.gradients import MAML
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.parallel.budget import StepFit, StepPlan, _Gauge, fit_to_budget, profile
from metascale.parallel.execution import Execution
from metascale.parallel.out_of_memory import DoesNotFit, MicroBatches
from metascale.parallel.processes import (
    TaskProcess,
    TaskProcesses,
    pack,
    pack_around_model,
    receive,
    send,
    serve,
    unpack,
)
from metascale.parallel.stacked import Call, join_episodes, join_params, run_together
from metascale.testing.subjects import QuadraticModel
from metascale.training.optimizers import SGD
from tests.defaults import defaults

MODEL = QuadraticModel(3)


def episode(n_tasks: int, n_examples: int = 2) -> Episode:
    batch = Batch({"x": torch.zeros(n_tasks, n_examples, 1)}, torch.zeros(n_tasks, n_examples, 3, dtype=torch.float64))
    return Episode(tuple(map(str, range(n_tasks))), batch, batch)


def learner(**options: Any) -> MetaLearner:
    return MetaLearner(MAML(InnerLoop(SGD(0.1), 1)), execution=Execution(**options))


def gauge(monkeypatch: pytest.MonkeyPatch, peak: Any, **options: Any) -> tuple[_Gauge, list[StepPlan]]:
    """A gauge whose measurements are ``peak(plan)``, and the plans that it measured."""
    seen: list[StepPlan] = []

    def measured(self: _Gauge, plan: StepPlan) -> float:
        seen.append(plan)
        return float(peak(plan))

    monkeypatch.setattr(_Gauge, "_peak", measured)
    return _Gauge(learner(**options), MODEL, episode(4, 16), "cpu"), seen


def test_a_hopeless_plan_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a budget below what all calls share, only the most frugal plan is measured, for the message."""
    _, seen = gauge(monkeypatch, lambda plan: 1000)
    monkeypatch.setattr(_Gauge, "estimate", lambda self, plan: 0.0)
    with pytest.raises(DoesNotFit, match="too small"):
        fit_to_budget(learner(), MODEL, episode(4, 16), 3 * 8)  # θ alone has 3 numbers of 8 bytes
    assert seen == [StepPlan(1, 1, None, 1)]
    seen.clear()
    assert fit_to_budget(learner(), MODEL, episode(4, 16), 2000).plan == StepPlan(4, 1, None, 16)
    assert len(seen) == 1


def test_an_estimate_is_a_line_through_two_small_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 support examples: from 2 and 4. At 100 + 10 B bytes a task beside 24 shared, T tasks of B = 16 are expected
    to take 24 + T (260 − 24); the line ends at the support set; workers and processes multiply as they share."""
    found, seen = gauge(monkeypatch, lambda plan: 100 + 10 * plan.micro_batch)
    assert found.shared == 24
    assert found.estimate(StepPlan(4, 1, None, 16)) == 24 + 4 * (260 - 24)
    assert [(plan.chunk, plan.micro_batch) for plan in seen] == [(1, 2), (1, 4)]
    assert found.estimate(StepPlan(1, 3, None, 16)) == 260 + 2 * (260 - 24)
    assert found.estimate(StepPlan(1, 1, None, 99)) == 260
    assert found.estimate(StepPlan(2, 1, None, 4)) == 140, "so small a plan is measured"
    own, _ = gauge(monkeypatch, lambda plan: 100 + 10 * plan.micro_batch, workers=3, in_processes=True)
    assert own.estimate(StepPlan(1, 3, None, 16)) == 24 + 3 * 260
    assert own.estimate(StepPlan(1, 1, None, 16)) == 260


def test_a_row_names_the_plan() -> None:
    fit = StepFit(StepPlan(2, 3, "all", 5), 700, 600, learner(), MODEL)
    assert fit.row() == {
        "memory_budget_bytes": 700,
        "peak_bytes": 600,
        "chunk": 2,
        "workers": 3,
        "checkpoint_blocks": "all",
        "micro_batch": 5,
    }


@pytest.mark.parametrize(
    ("chunk", "workers", "field"), [(0, 1, "chunk"), (0, 0, "chunk"), (1, 0, "workers"), (None, 0, "workers")]
)
def test_an_execution_of_nothing_is_refused_by_its_field(chunk: int | None, workers: int, field: str) -> None:
    with pytest.raises(InputError, match=f"must be at least 1, not {chunk} and {workers}") as caught:
        Execution(chunk, workers)
    assert caught.value.field == field
    Execution(1, 1)


@pytest.mark.parametrize(
    ("kind", "device", "threads", "n_tasks", "expected"),
    [
        ("stacked", "cpu", 4, 8, Execution()),
        ("threads", "meta", 4, 8, Execution()),
        ("threads", "cpu", 4, 8, Execution(chunk=1, workers=4)),
        ("processes", "cpu", 1, 8, Execution()),
        ("processes", "cpu", 4, None, Execution()),
        ("processes", "cpu", 4, 3, Execution()),
        ("processes", "cpu", 4, 4, Execution(chunk=1, workers=4, in_processes=True)),
        ("processes", "cpu", 4, 11, Execution(chunk=2, workers=4, in_processes=True)),
        ("processes", "cpu", 2, 99, Execution(chunk=4, workers=2, in_processes=True)),
    ],
)
def test_the_best_execution(kind: str, device: str, threads: int, n_tasks: int | None, expected: Execution) -> None:
    class Kind:
        task_execution = kind

    assert Execution.best_for(Kind(), device, threads, n_tasks) == expected  # type: ignore[arg-type]


def test_chunks_in_task_order_and_threads_by_their_name() -> None:
    def seen(part: Episode, start: int) -> tuple[tuple[str, ...], int, str]:
        return part.task_ids, start, threading.current_thread().name

    expected = [(("0", "1"), 0), (("2", "3"), 2), (("4",), 4)]
    for workers in (1, 2):
        found = Execution(chunk=2, workers=workers).map(seen, episode(5))
        assert [each[:2] for each in found] == expected
        assert all(each[2].startswith("metascale-task") is (workers > 1) for each in found)
    assert [each[:2] for each in Execution().map(seen, episode(5))] == [(("0", "1", "2", "3", "4"), 0)]
    names = []
    run_together([lambda: names.append(threading.current_thread().name)] * 2)
    assert names == ["metascale-trial"] * 2


@pytest.mark.parametrize("name", ["begin", "losses", "predict", "features", "output_losses"])
def test_what_a_forward_method_makes_counts_as_activations(name: str) -> None:
    class Makes:
        def __getattr__(self, name: str) -> Any:
            return lambda: torch.zeros(1000, dtype=torch.float64)

    report = profile(lambda model, watch: (getattr(model, name)(), model.other()), Makes(), {})  # type: ignore[arg-type]
    assert (report.by_kind["activations"], report.by_kind["other"]) == (8000, 8000)


def numbered(*numbers: float) -> Batch:
    x = torch.tensor(numbers).view(-1, 1, 1)
    return Batch({"x": x, "y": -x}, 10 * x[:, :, 0])


def test_tasks_of_trials_stand_one_after_another() -> None:
    """Two trials of two tasks and of one: inputs, targets and names in that order; parameters once a task."""
    first = Episode(("a", "b"), numbered(1, 2), numbered(3, 4))
    joined = join_episodes([first, Episode(("c",), numbered(5), numbered(6))])
    assert joined.task_ids == ("a", "b", "c")
    for batch, numbers in ((joined.support, [1, 2, 5]), (joined.query, [3, 4, 6])):
        assert batch.inputs["x"].flatten().tolist() == numbers
        assert batch.inputs["y"].flatten().tolist() == [-number for number in numbers]
        assert batch.targets.flatten().tolist() == [10 * number for number in numbers]
        assert batch.numbers is None
    params = join_params([{"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}], (2, 1))
    assert params["w"].tolist() == [[1.0], [1.0], [2.0]]


def test_what_is_done_where_nothing_is_said() -> None:
    assert defaults(Execution) == {"chunk": None, "workers": 1, "in_processes": False}
    assert defaults(MicroBatches) == {"run": None, "sizes": {}}
    assert defaults(Call) == {"result": None, "error": None, "why_alone": ""}


def test_threads_that_wait_for_processes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As profilers and debuggers list them."""
    names = []

    class Answered(TaskProcess):
        def __init__(self) -> None: ...

        def call(self, digest: bytes, model_message: bytes, request: bytes) -> tuple[Any, ...]:
            names.append(threading.current_thread().name)
            return ("done", len(names))

    monkeypatch.setattr("metascale.parallel.processes.TaskProcess", Answered)
    processes = TaskProcesses()
    assert processes.map(torch.numel, [(episode(1), 0), (episode(1), 1)], 1) == [1, 2]  # type: ignore[arg-type]
    processes.processes.clear()
    assert {name.rpartition("_")[0] for name in names} == {"metascale-task"}


@pytest.mark.parametrize("available", [True, False])
def test_the_cache_of_a_gpu_is_emptied_where_there_is_one(available: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen examples a task fail once, and eight do not; what was given back to the GPU counts once."""
    emptied, sizes = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(None))

    def call(size: int | None) -> int | None:
        sizes.append(size)
        if size is None:
            raise MemoryError("full")
        return size

    assert MicroBatches().attempt(call, None, episode(2, 16), 0) == 8
    assert sizes == [None, 8]
    assert len(emptied) == int(available)


@dataclass(frozen=True)
class Scaled:
    """``start`` plus the model's number of dimensions times the tasks; refuses none."""

    model: QuadraticModel

    def __call__(self, part: Episode, start: int) -> tuple[int, bool]:
        if not part.n_tasks:
            raise InputError("no task", field="tasks")
        return start + self.model.n_dimensions * part.n_tasks, torch.is_grad_enabled()


def test_a_process_answers_request_by_request_until_the_pipe_is_closed() -> None:
    """A model, two calls with it (5 + 3 · 2 and 7 + 3), one that fails, and half a message, which is no request."""
    request, model = pack_around_model(Scaled(MODEL))
    assert model is MODEL
    asked, told = BytesIO(), BytesIO()
    messages: list[tuple[object, ...]] = [
        ("model", pack(model)), ("call", request, pack(episode(2)), 5, True),
        ("call", request, pack(episode(1)), 7, False),
        ("call", request, pack(Episode((), episode(0).support, episode(0).query)), 0, True),
    ]  # fmt: skip
    for message in messages:
        send(asked, pack(message))
    asked.write((100).to_bytes(8, "little") + b"cut")
    asked.seek(0)
    serve(asked, told)
    told.seek(0)
    replies = []
    while (reply := receive(told)) is not None:
        replies.append(unpack(reply))
    assert replies[:3] == [("done", None), ("done", (11, True)), ("done", (10, False))]
    ((kind, error, trace),) = replies[3:]
    assert (kind, str(error), error.field) == ("failed", "no task", "tasks")
    assert "in __call__" in trace
    assert torch.is_grad_enabled()
