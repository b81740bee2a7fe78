"""Plans of a step, micro-batches that fit, calls side by side and messages: tables worked out by hand."""

from __future__ import annotations

import io
import logging
import math
import re
import threading
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metascale.core.errors import Diverged, InputError
from metascale.core.run import MemoryRun
from metascale.core.types import Batch, Episode
from metascale.meta.gradients import FOMAML
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.parallel import processes, stacked
from metascale.parallel.budget import (
    StepPlan,
    _Gauge,
    _set_up,
    _storage_bytes,
    _watched,
    fit_to_budget,
    frozen_weights,
    plans,
    profile_step,
)
from metascale.parallel.execution import Execution
from metascale.parallel.out_of_memory import DoesNotFit, MicroBatches, is_out_of_memory, shape_of
from metascale.parallel.processes import (
    CannotBeLoaded,
    CannotBeSent,
    ProcessEnded,
    TaskProcess,
    TaskProcesses,
    _name,
    _result,
    pack,
    pack_around_model,
    portable,
    receive,
    send,
    task_processes,
    unpack,
)
from metascale.parallel.stacked import Call, answer, asked, joined, run_together, shapes_of
from metascale.parallel.trainings import JoinedTraining, _Step
from metascale.testing.subjects import QuadraticModel
from metascale.training.memory import LiveBytes
from metascale.training.optimizers import SGD, Adam


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def episode(n_tasks: int, support: int = 6, query: int = 9, *rest: int) -> Episode:
    def batch(n_examples: int) -> Batch:
        return Batch({"x": torch.zeros(n_tasks, n_examples, *rest)}, torch.zeros(n_tasks, n_examples, 3).double())

    return Episode(tuple(map(str, range(n_tasks))), batch(support), batch(query))


@dataclass(frozen=True)
class Blocks(QuadraticModel):
    """A model with checkpointed blocks."""

    n_dimensions: int = 3
    checkpoint_blocks: str | None = "none"


@dataclass(frozen=True)
class Coupled(QuadraticModel):
    n_dimensions: int = 3
    batch_statistics: bool = True


def learner(micro_batch: int | None = None, **options: Any) -> MetaLearner:
    inner = InnerLoop(SGD(0.1), 1, micro_batch=micro_batch)
    return MetaLearner(FOMAML(inner), Adam(0.1), execution=Execution(**options))


# --------------------------------------------------------------------------------------------------------------- plans

PLAIN = QuadraticModel(3)
PLANS: dict[str, tuple[MetaLearner, Any, list[tuple[int, int, str | None, int]]]] = {
    "largest set": (learner(), PLAIN, [(5, 1, None, 9), (2, 1, None, 9), (1, 1, None, 9), (1, 1, None, 4),
                                       (1, 1, None, 2), (1, 1, None, 1)]),
    "own settings": (learner(2, chunk=3, workers=4), PLAIN, [(3, 4, None, 2), (1, 4, None, 2), (1, 2, None, 2),
                                                            (1, 1, None, 2), (1, 1, None, 1)]),
    "beyond": (learner(99, chunk=99), PLAIN, [(5, 1, None, 9), (2, 1, None, 9), (1, 1, None, 9), (1, 1, None, 4),
                                             (1, 1, None, 2), (1, 1, None, 1)]),
    "blocks": (learner(1, chunk=1), Blocks(), [(1, 1, "none", 1), (1, 1, "adapters", 1), (1, 1, "all", 1)]),
    "some blocks": (learner(1, chunk=1), Blocks(checkpoint_blocks="adapters"), [(1, 1, "adapters", 1),
                                                                               (1, 1, "all", 1)]),
    "all blocks": (learner(1, chunk=1), Blocks(checkpoint_blocks="all"), [(1, 1, "all", 1)]),
    "unset": (learner(1, chunk=1), Blocks(checkpoint_blocks=None), [(1, 1, None, 1)]),
    "coupled": (learner(chunk=2), Coupled(), [(2, 1, None, 9), (1, 1, None, 9)]),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_plans_from_the_fastest_to_the_most_frugal(name: str) -> None:
    given, model, expected = PLANS[name]
    assert list(plans(given, model, episode(5))) == [StepPlan(*each) for each in expected]
    assert next(iter(plans(given, model, episode(5, 20, 3)))).micro_batch == min(given.micro_batch or 20, 20)


def test_a_learner_and_a_model_as_a_plan_says() -> None:
    given = learner(chunk=4, workers=2, in_processes=True)
    own, model = _set_up(given, Blocks(), StepPlan(2, 1, "all", 3))
    assert own == replace(learner(3), execution=Execution(2, 1, True))
    assert model == Blocks(checkpoint_blocks="all")
    same = Blocks()
    assert _set_up(given, same, StepPlan(2, 1, "none", 3))[1] is same
    own, model = _set_up(given, Coupled(), StepPlan(2, 1, None, 3))
    assert (own.micro_batch, model) == (None, Coupled())


def measured(monkeypatch: pytest.MonkeyPatch, peaks: dict[StepPlan, float]) -> list[StepPlan]:
    """The peak of every plan by a table; the plans that were measured."""
    seen: list[StepPlan] = []

    def peak(self: _Gauge, plan: StepPlan) -> float:
        seen.append(plan)
        return peaks[plan]

    monkeypatch.setattr(_Gauge, "_peak", peak)
    monkeypatch.setattr(_Gauge, "estimate", _Gauge.measure)
    return seen


def test_the_first_plan_within_the_budget_is_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """θ and Adam's slots: 3 numbers of 8 bytes three times, and a count: 80 bytes are shared by all calls."""
    given = learner(2, chunk=2)
    one, two, three = (StepPlan(*each) for each in ((2, 1, None, 2), (1, 1, None, 2), (1, 1, None, 1)))
    seen = measured(monkeypatch, {one: 3000.0, two: 2048.0, three: 100.0})
    with caplog.at_level(logging.INFO, "metascale.parallel"):
        found = fit_to_budget(given, PLAIN, episode(4), 2048)
    assert (found.plan, found.budget_bytes, found.peak_bytes, found.model) == (two, 2048, 2048, PLAIN)
    assert found.learner == replace(given, execution=Execution(1, 1))
    assert seen == [one, two], "each once"
    assert [record.getMessage() for record in caplog.records] == [f"memory budget 2.00 KiB: {two}, peak 2.00 KiB"]
    assert fit_to_budget(given, PLAIN, episode(4), 3000).plan == one
    assert fit_to_budget(given, PLAIN, episode(4), 2047).plan == three
    assert fit_to_budget(given, PLAIN, episode(4), 100).plan == three
    ends = "frozen weights alone are 0 B"
    for budget, last, needs in (
        (99, 100.0, "100 B"),
        (80, 100.0, "100 B"),
        (99, math.inf, "more than this machine has"),
    ):
        measured(monkeypatch, {one: 3000.0, two: 2048.0, three: last})
        message = (
            f"the memory budget of {budget} B is too small: the most frugal plan (chunk=1, workers=1, "
            f"checkpoint_blocks=None, micro_batch=1) needs {needs}; {ends}"
        )
        with pytest.raises(DoesNotFit, match=exactly(message)):
            fit_to_budget(given, PLAIN, episode(4), budget)


def test_a_budget_of_what_is_shared_allows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given, plan = learner(1, chunk=1), StepPlan(1, 1, None, 1)
    measured(monkeypatch, {plan: 1.0})
    gauge = _Gauge(given, PLAIN, episode(1), "cpu")
    assert (gauge.shared, gauge.weights_bytes) == (80, 0)
    assert fit_to_budget(given, PLAIN, episode(1), 81).plan == plan
    with pytest.raises(DoesNotFit):
        fit_to_budget(given, PLAIN, episode(1), 80)


def test_peaks_of_several_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads: what one needs beyond the shared 80 bytes counts for each. Processes: all of it, and the program's."""
    plan = StepPlan(2, 3, None, 2)
    for in_processes, expected in ((False, 1000 + 2 * 920), (True, 80 + 3 * 1000)):
        seen = measured(monkeypatch, {replace(plan, workers=1): 1000.0})
        gauge = _Gauge(learner(in_processes=in_processes), PLAIN, episode(2), "cpu")
        assert gauge.measure(plan) == expected
        assert gauge.measure(replace(plan, workers=1)) == 1000
        assert seen == [replace(plan, workers=1)]


def test_a_small_micro_batch_that_does_not_fit_lets_no_larger_one_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 support examples 2 and 4 are measured; where 4 run out of memory, so do 16."""
    for peaks in ({2: 300.0, 4: math.inf}, {2: math.inf, 4: math.inf}):
        monkeypatch.setattr(_Gauge, "_peak", lambda self, plan, peaks=peaks: peaks[plan.micro_batch])
        gauge = _Gauge(learner(), PLAIN, episode(4, 16), "cpu")
        assert gauge.estimate(StepPlan(4, 1, None, 16)) == math.inf


def test_an_estimate_of_whole_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of 20 support examples is 2; of 7 it is none, in whose place one stands."""
    seen: list[int] = []
    monkeypatch.setattr(_Gauge, "_peak", lambda self, plan: seen.append(plan.micro_batch) or 100.0 * plan.micro_batch)
    _Gauge(learner(), PLAIN, episode(2, 20), "cpu").estimate(StepPlan(1, 1, None, 20))
    assert seen == [2, 4]
    assert all(isinstance(size, int) for size in seen)
    seen.clear()
    _Gauge(learner(), PLAIN, episode(2, 7), "cpu").estimate(StepPlan(1, 1, None, 7))
    assert seen == [1, 2]


def test_memory_that_runs_out_while_measuring_is_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    gauge = _Gauge(learner(), PLAIN, episode(2), "cpu")
    tasks: list[tuple[str, ...]] = []

    def fails(error: Exception) -> Any:
        def profile(own: Any, model: Any, state: Any, part: Episode, **rest: Any) -> Any:
            tasks.append(part.task_ids)
            raise error

        return profile

    for error in (torch.OutOfMemoryError("no"), MemoryError("no"), RuntimeError("std::bad_alloc")):
        monkeypatch.setattr("metascale.parallel.budget.profile_step", fails(error))
        assert gauge._peak(StepPlan(1, 1, None, 2)) == math.inf
    assert tasks == [("0",)] * 3
    monkeypatch.setattr("metascale.parallel.budget.profile_step", fails(RuntimeError("shapes")))
    with pytest.raises(RuntimeError, match="shapes"):
        gauge._peak(StepPlan(1, 1, None, 2))


def test_storages_and_frozen_weights() -> None:
    value = torch.zeros(10)
    assert _storage_bytes([value, value[:5], value.view(2, 5)]) == 40
    assert _storage_bytes([value, torch.zeros(3, dtype=torch.float64)]) == 64
    net = torch.nn.BatchNorm1d(2)
    found = frozen_weights(SimpleNamespace(backbone=net))  # type: ignore[arg-type]
    assert [id(each) for each in found] == [id(each) for each in (*net.parameters(), *net.buffers())]
    assert frozen_weights(PLAIN) == []


def test_an_optimiser_that_is_watched_labels_what_it_is_given() -> None:
    told: list[tuple[str, list[str]]] = []
    meter: Any = SimpleNamespace(label=lambda kind, values: told.append((kind, sorted(values))))
    own = Adam(0.25, weight_decay=0.5)
    twin = _watched(own, meter)
    assert isinstance(twin, Adam)
    assert (twin.lr, twin.weight_decay) == (0.25, 0.5)
    params, grads = {"w": torch.ones(2)}, {"w": torch.full((2,), 3.0)}
    new, _ = twin.update(params, grads, own.init(params), 0.5)
    expected, _ = own.update(params, grads, own.init(params), 0.5)
    assert torch.equal(new["w"], expected["w"])
    assert told == [("gradients", ["w"]), ("parameters", ["w"]), ("optimizer_state", ["count", "m", "v"])]
    assert type(own) is Adam


def test_a_profile_of_a_step_is_of_this_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """θ, the outer slots and a frozen tensor are static; workers and chunks of the learner run here one by one."""
    names: list[str] = []

    @dataclass(frozen=True)
    class Named(QuadraticModel):
        n_dimensions: int = 3

        def output_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
            names.append(f"{threading.current_thread().name} {batch.n_tasks}")
            return super().output_losses(outputs, batch)

    def profile(call: Any, model: Any, static: Any, device: str) -> Any:
        watched: list[Any] = []
        state, _ = call(model, lambda optimizer: watched.append(optimizer) or optimizer)
        return state.step, watched, {name: list(values) for name, values in static.items()}, device

    monkeypatch.setattr("metascale.parallel.budget.profile", profile)
    own = learner(chunk=2, workers=2)
    state, frozen = own.init(Named(), 0), torch.zeros(7, dtype=torch.float64)
    found: Any = profile_step(own, Named(), state, episode(3), weights=[frozen], device="far")
    step, watched, static, device = found
    assert (step, watched, device) == (1, [SGD(0.1), Adam(0.1)], "far")
    assert list(static) == ["weights", "parameters", "optimizer_state"]
    assert [each is frozen for each in static["weights"]] == [True]
    assert [each is state.params["theta"] for each in static["parameters"]] == [True]
    assert len(static["optimizer_state"]) == 3
    here = threading.current_thread().name
    assert names == [f"{here} 2", f"{here} 2", f"{here} 1", f"{here} 1"]
    found = profile_step(own, Named(), state, episode(3))
    assert (found[2]["weights"], found[3]) == ([], "cpu")


# ------------------------------------------------------------------------------------------------------- out of memory


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """In place of collecting garbage, which takes a while: how often it was."""
    times: list[None] = []
    monkeypatch.setattr("metascale.parallel.out_of_memory.gc", SimpleNamespace(collect=lambda: times.append(None)))
    return times


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True), (MemoryError(), True), (DoesNotFit("x"), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: 9"), True),
        (RuntimeError("[12] Cannot allocate memory"), True), (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("out of luck"), False), (OSError("Cannot allocate memory"), False),
    ],
)  # fmt: skip
def test_what_is_a_failed_allocation(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def tried(guard: MicroBatches, fits: int, given: int | None, step: int = 3, text: str = "full\nof things") -> list[Any]:
    sizes: list[int | None] = []

    def call(size: int | None) -> str:
        sizes.append(size)
        if size is None or size > fits:
            raise MemoryError(text)
        return f"with {size}"

    assert guard.attempt(call, given, episode(2, 6, 9, 4), step) == f"with {sizes[-1]}"
    return sizes


def test_sizes_are_halved_from_the_larger_set(collected: list[None]) -> None:
    assert tried(MicroBatches(), 99, 5) == [5]
    assert tried(MicroBatches(), 4, None) == [None, 4]
    assert len(collected) == 1
    assert tried(MicroBatches(), 3, None) == [None, 4, 2]
    assert tried(MicroBatches(), 1, 7) == [7, 3, 1]
    large = MicroBatches()
    sizes: list[int | None] = []

    def call(size: int | None) -> None:
        sizes.append(size)
        if size is None:
            raise MemoryError

    large.attempt(call, None, episode(1, 12, 5, 4), 0)
    assert sizes == [None, 6]
    assert large.sizes == {(12, 5, 4): 6}


def test_what_fits_is_remembered_by_shape(collected: list[None]) -> None:
    guard = MicroBatches(sizes={(6, 9, 4): 4, (6, 8, 4): 2, (5, 9, 5): 1, (6, 9): 1})
    assert guard.remembered((6, 9, 4)) == 2
    assert guard.remembered((6, 8, 4)) == 2
    assert guard.remembered((6, 7, 4)) is None
    assert guard.remembered((5, 9, 5)) == 1
    assert guard.remembered((6, 10)) == 1
    assert guard.remembered((6,)) is None
    assert tried(MicroBatches(sizes={(6, 9, 4): 4}), 99, None) == [4]
    assert tried(MicroBatches(sizes={(6, 9, 4): 4}), 99, 3) == [3]
    assert tried(MicroBatches(sizes={(6, 9, 4): 4}), 99, 5) == [4]
    assert tried(MicroBatches(sizes={(6, 9, 4): 4}), 2, None) == [4, 2]
    assert shape_of(episode(2, 6, 9, 4, 8)) == (6, 9, 4, 8)
    assert shape_of(episode(2, 6, 9)) == (6, 9)


def test_halvings_are_recorded_and_told(collected: list[None], caplog: pytest.LogCaptureFixture) -> None:
    run = MemoryRun()
    guard = MicroBatches(run, {(9, 9): 3})
    with caplog.at_level(logging.WARNING, "metascale.parallel"):
        assert tried(guard, 2, None, 7) == [None, 4, 2]
    assert {record.name for record in caplog.records} == {"metascale.parallel"}
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory at step 7: micro-batch 9 -> 4 examples (full)",
        "out of memory at step 7: micro-batch 4 -> 2 examples (full)",
    ]
    assert run.measurements == [
        {"step": 7, "event": "out_of_memory", "shape": [6, 9, 4], "micro_batch": size} for size in (4, 2)
    ]
    rows = [{"shape": [6, 9, 4], "micro_batch": 2}, {"shape": [9, 9], "micro_batch": 3}]
    assert run.files == {"memory.json": {"micro_batches": rows}}


def test_when_nothing_fits(collected: list[None]) -> None:
    for text, said in (("full\nof things", "full"), ("", "MemoryError")):
        message = (
            "out of memory at step 3 with micro-batches of one example (support, query and further axes [6, 9, 4]); "
            f"use fewer tasks at once, shorter inputs, checkpoint_blocks, or a smaller model: {said}"
        )
        with pytest.raises(DoesNotFit, match=exactly(message)):
            tried(MicroBatches(), 0, None, 3, text)

    def refuses(size: int | None) -> None:
        if size is not None:
            raise InputError("not with this model")
        raise MemoryError("full\nof things")

    message = "out of memory at step 4 (full), and no micro-batches: not with this model"
    with pytest.raises(DoesNotFit, match=exactly(message)):
        MicroBatches().attempt(refuses, None, episode(2), 4)
    with pytest.raises(InputError, match=exactly("not with this model")):
        MicroBatches().attempt(refuses, 3, episode(2), 4)


# -------------------------------------------------------------------------------------------------------- side by side


@dataclass
class Doubles:
    """Twice each part; joined calls are noted by their parts."""

    notes: list[list[Any]]
    name: object = "doubles"

    def __call__(self, part: Any, start: int) -> Any:
        self.notes.append([part])
        return 2 * part

    def kind(self, part: Any) -> object:
        return self.name

    def together(self, functions: list[Doubles], parts: list[Any]) -> list[Any]:
        self.notes.append(list(parts))
        return [KeyError(part) if part < 0 else 2 * part for part in parts]


def calls(notes: list[list[Any]], *given: tuple[Any, object, float]) -> list[Call]:
    return [Call(Doubles(notes), part, kind, share) for part, kind, share in given]


@pytest.mark.parametrize(
    ("given", "groups"),
    [
        ([(1, "a", 0.5), (2, "a", 0.5), (3, "a", 0.5)], [[1, 2], [3]]),
        ([(1, "a", 0.4), (2, "b", 0.4), (3, "a", 0.4), (4, "b", 0.4)], [[1, 3], [2, 4]]),
        ([(1, "a", 0.0), (2, "a", 0.0), (3, "a", 0.0)], [[1, 2, 3]]),
        ([(1, "a", 2.0), (2, "a", 2.0)], [[1], [2]]),
        ([(1, "a", 0.25)] * 5, [[1] * 4, [1]]),
        ([(1, "a", 1.0), (2, "a", 1.0)], [[1], [2]]),
    ],
)
def test_calls_of_one_kind_are_answered_in_groups_of_their_share(given: Any, groups: list[list[int]]) -> None:
    notes: list[list[Any]] = []
    waiting = calls(notes, *given)
    answer(waiting)
    assert notes == groups
    assert [call.result for call in waiting] == [2 * part for part, *_ in given]


def test_a_joined_call_that_fails_says_why_in_one_line() -> None:
    class Failing(Doubles):
        def together(self, functions: Any, parts: list[Any]) -> list[Any]:
            raise parts[0]

    for error, words in ((ValueError("one\ntwo"), "ValueError: one"), (MemoryError(), "MemoryError: ")):
        waiting = [Call(Failing([]), error, "a", 0.1), Call(Failing([]), 3, "a", 0.1)]
        answer(waiting)
        said = f"2 trials could not be computed in one call, so each was computed by itself: {words}"
        assert [call.why_alone for call in waiting] == [said] * 2
        assert isinstance(waiting[0].error, TypeError)  # twice an exception
        assert waiting[1].result == 6
    assert stacked._strand.name == "metascale_strand"


def test_an_error_among_the_results_is_of_its_call() -> None:
    notes: list[list[Any]] = []
    bad, good = calls(notes, (-1, "a", 0.1), (4, "a", 0.1))
    answer([bad, good])
    assert isinstance(bad.error, KeyError)
    assert (good.error, good.result, bad.result, bad.why_alone) == (None, 8, None, "")


def test_which_calls_wait_for_others() -> None:
    """Outside of trials, of a kind of its own, of another sort, or counted: at once."""
    notes: list[list[Any]] = []
    assert asked(Doubles(notes), 3, 0.1) == 6
    found: dict[int, list[Any]] = {}

    def trial(place: int) -> None:
        own = [
            asked(Doubles(notes, None), 1, 0.1),
            asked(lambda part, start: part + start, 5, 0.1),
            asked(Doubles(notes), 10 + place, 0.1),
        ]
        with torch.no_grad() if place else torch.enable_grad():
            own.append(asked(Doubles(notes), 20 + place, 0.1))
        own.append(asked(Doubles(notes), 30 + place, 0.1, shapes=place))
        with torch.autocast("cpu", torch.bfloat16):
            own.append(asked(Doubles(notes), 40 + place, 0.1))
        found[place] = own

    notes.clear()
    run_together([lambda place=place: trial(place) for place in range(2)])
    assert found == {
        place: [2, 5, 20 + 2 * place, 40 + 2 * place, 60 + 2 * place, 80 + 2 * place] for place in range(2)
    }
    assert sorted(notes) == sorted([[1], [1], [10, 11], [20], [21], [30], [31], [40], [41]])
    notes.clear()

    def counted() -> None:
        with LiveBytes():
            assert asked(Doubles(notes), 1, 0.1) == 2

    run_together([counted, counted])
    assert notes == [[1], [1]]


def test_calls_of_tasks_wait_where_their_number_is_a_multiple_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of 64 tasks on a CPU."""
    told: list[tuple[float, object]] = []
    monkeypatch.setattr(
        stacked, "asked", lambda function, part, share, shapes: told.append((share, shapes)) or function(part, 0)
    )
    size = lambda part, start: (part.n_tasks, start)
    assert joined(size, episode(8)) == (8, 0)
    assert told == []

    def trial() -> None:
        for n_tasks in (7, 8, 12, 16, 64):
            assert joined(size, episode(n_tasks)) == (n_tasks, 0)
        far = Batch({"x": torch.zeros(8, 1, device="meta")}, torch.zeros(8, 1, device="meta"))
        joined(size, Episode(tuple("abcdefgh"), far, far))

    run_together([trial])
    assert [share for share, _ in told] == [1 / 8, 1 / 4, 1.0, 0.0]
    assert told[0][1] == shapes_of(episode(8))


def test_shapes_of_tasks() -> None:
    batch = Batch({"b": torch.zeros(2, 3), "a": torch.zeros(2, 3, 5).int()}, torch.zeros(2, 3).double())
    query = Batch({"x": torch.zeros(2, 7)}, torch.zeros(2, 7).long())
    cpu = torch.device("cpu")
    assert shapes_of(Episode(("a", "b"), batch, query)) == (
        ("a", (2, 3, 5), torch.int32, cpu), ("b", (2, 3), torch.float32, cpu), ("", (2, 3), torch.float64, cpu),
        ("x", (2, 7), torch.float32, cpu), ("", (2, 7), torch.int64, cpu),
    )  # fmt: skip


def test_trials_have_the_threads_of_the_program_and_the_first_error_is_raised() -> None:
    counts: list[int] = []
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run_together([lambda: counts.append(torch.get_num_threads())])
    finally:
        torch.set_num_threads(before)
    assert counts == [3]
    ended: list[int] = []

    def fails(error: Exception) -> None:
        raise error

    with pytest.raises(KeyError, match="first"):
        run_together([lambda: ended.append(1), lambda: fails(KeyError("first")), lambda: fails(ValueError("second"))])
    assert ended == [1]


def test_abandoned_trials_end() -> None:
    """One that has not begun does not; one that waits for a call is interrupted there, and nothing is raised twice."""
    ran: list[Any] = []
    stacked.Strand(lambda: ran.append("begun")).abandon()
    assert ran == []

    class Interrupting(Doubles):
        def together(self, functions: Any, parts: Any) -> Any:
            raise KeyboardInterrupt("by the user")

    def trial(place: int) -> None:
        try:
            asked(Interrupting([]), place, 0.1)
        except KeyboardInterrupt:
            ran.append(place)
            raise

    with pytest.raises(KeyboardInterrupt, match="by the user"):
        run_together([lambda place=place: trial(place) for place in range(3)])
    assert ran == [0, 1, 2]


# ------------------------------------------------------------------------------------------------------------ messages


def test_a_message_is_its_length_and_its_bytes() -> None:
    pipe = io.BytesIO()
    send(pipe, b"abc")
    send(pipe, b"")
    assert pipe.getvalue() == b"\x03" + bytes(7) + b"abc" + bytes(8)
    pipe.seek(0)
    assert [receive(pipe), receive(pipe), receive(pipe)] == [b"abc", b"", None]
    for cut in (b"\x03" + bytes(6), b"\x03" + bytes(7) + b"ab"):
        assert receive(io.BytesIO(cut)) is None


def test_what_cannot_be_sent_or_loaded() -> None:
    with pytest.raises(CannotBeSent):
        pack(lambda: 0)
    with pytest.raises(CannotBeLoaded, match=r"^ModuleNotFoundError: No module named 'absent_module'"):
        unpack(b"cabsent_module\nf\n.")
    with pytest.raises(CannotBeLoaded, match=r"^AttributeError: .*absent"):
        unpack(b"cmath\nabsent\n.")
    error = Diverged("no", step=3)
    assert portable(error) is error

    class Local(Exception):
        pass

    found = portable(Local("why"))
    assert type(found) is RuntimeError
    assert str(found) == "Local: why"


def test_a_model_is_found_once_and_put_back() -> None:
    first, second = QuadraticModel(2), QuadraticModel(5)
    message, model = pack_around_model([first, second, first])
    assert model is first
    assert unpack(message, "put back") == ["put back", second, "put back"]
    assert unpack(pack([first])) == [first]
    found = unpack(pack(torch.nn.Parameter(torch.ones(2))))
    assert isinstance(found, torch.nn.Parameter)
    history = torch.ones(2, requires_grad=True) * 3
    assert not unpack(pack(history)).requires_grad


def test_names_of_functions_and_results_of_replies() -> None:
    assert _name(len) == "len"
    assert _name(Doubles([])) == "Doubles"
    assert _result(("done", 5)) == 5
    with pytest.raises(InputError) as refused:
        _result(("failed", CannotBeLoaded("AttributeError: x"), "trace"))
    assert str(refused.value) == (
        "another process could not load what it should run (AttributeError: x); define models and functions in a "
        "module that can be imported, or let tasks run stacked or in threads (see task_execution)"
    )
    with pytest.raises(ValueError, match=r"^own$") as caught:
        _result(("failed", ValueError("own"), "line 1\n"))
    assert str(caught.value.__cause__) == "in a process that ran tasks:\nline 1\n"


class Child:
    """Stands for a process: its pipes, and how it ends."""

    pid = 77

    def __init__(self, replies: bytes = b"", slow: bool = False, broken: bool = False) -> None:
        self.stdin: Any = io.BytesIO()
        self.stdout: Any = io.BytesIO(replies)
        self.slow, self.broken = slow, broken
        self.waited: list[float | None] = []
        self.killed = False
        if broken:

            def fails(*_: Any) -> None:
                raise BrokenPipeError

            self.stdin = SimpleNamespace(write=fails, flush=fails, close=fails)

    def wait(self, timeout: float | None = None) -> int:
        self.waited.append(timeout)
        if self.slow and not self.killed:
            raise processes.subprocess.TimeoutExpired("child", timeout or 0)
        return -9

    def kill(self) -> None:
        self.killed = True


def process_of(child: Child) -> TaskProcess:
    made = TaskProcess.__new__(TaskProcess)
    made._child, made._holds = child, b""  # type: ignore[assignment]
    return made


def replies(*values: object) -> bytes:
    stream = io.BytesIO()
    for value in values:
        send(stream, pack(value))
    return stream.getvalue()


def test_a_model_is_sent_once_and_again_when_it_changed() -> None:
    child = Child(replies(("done", None), ("done", 1), ("done", 2), ("done", None), ("done", 3)))
    made = process_of(child)
    assert made.pid == 77
    assert [made.call(digest, b"model" + digest, b"ask") for digest in (b"1", b"1", b"2")] == [
        ("done", 1), ("done", 2), ("done", 3),
    ]  # fmt: skip
    child.stdin.seek(0)
    sent = []
    while (message := receive(child.stdin)) is not None:
        sent.append(message)
    assert sent == [b"model1", b"ask", b"ask", b"model2", b"ask"]
    refused = process_of(Child(replies(("failed", "no", "trace"), ("done", None), ("done", 4))))
    assert refused.call(b"1", b"model", b"ask") == ("failed", "no", "trace")
    assert refused.call(b"1", b"model", b"ask") == ("done", 4)  # the model was not kept


def test_a_process_that_ended() -> None:
    message = (
        "a process that ran tasks ended with status -9 before it answered; it was killed, or the machine had too "
        "little memory for it"
    )
    for child in (Child(), Child(broken=True)):
        with pytest.raises(ProcessEnded, match=exactly(message)):
            process_of(child).call(b"1", b"model", b"ask")
    broken = Child(broken=True)
    process_of(broken).dismiss()
    quick, slow = Child(), Child(slow=True)
    for child in (quick, slow):
        process_of(child).join()
        assert child.stdout.closed
    assert (quick.waited, quick.killed) == ([5.0], False)
    assert (slow.waited, slow.killed) == ([5.0, None], True)
    process_of(quick).dismiss()
    assert quick.stdin.closed


def test_processes_start_as_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    def popen(command: list[str], **fields: Any) -> Child:
        started.append((command, fields))
        return Child(replies(*[("done", None)] * 9))

    monkeypatch.setattr(processes.subprocess, "Popen", popen)
    monkeypatch.setenv("METASCALE_MARK", "kept")
    several = TaskProcesses()
    for wanted, total in ((1, 1), (3, 3), (2, 3)):
        several.map(len, [(episode(1), 0)], wanted)  # type: ignore[arg-type]
        assert len(started) == len(several.processes) == total
    (python, flag, code), fields = started[0]
    assert (python, flag) == (processes.sys.executable, "-c")
    assert "from metascale.parallel.processes import main; main()" in code
    assert repr(processes.sys.path) in code
    assert fields["env"]["METASCALE_MARK"] == "kept"
    own = {
        "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MALLOC_TRIM_THRESHOLD_": "4000000000",
        "MALLOC_MMAP_THRESHOLD_": "1000000000",
    }  # fmt: skip
    assert {name: fields["env"][name] for name in own} == own
    assert fields["stdin"] == fields["stdout"] == processes.subprocess.PIPE
    with pytest.raises(InputError) as caught:
        several.map(lambda part, start: 0, [(episode(1), 0)], 1)
    said = str(caught.value)
    assert "<lambda> cannot be sent to another process: " in said
    assert said.endswith("or let tasks run stacked or in threads (see task_execution)")
    children: list[Any] = [each._child for each in several.processes]
    several.close()
    assert several.processes == []
    assert all(child.stdin.closed and child.stdout.closed for child in children)


def test_an_interrupted_call_ends_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unread replies would be taken for those of the next call; an error that is a reply leaves them."""
    several = TaskProcesses()
    child = Child(replies(("done", None)))
    several.processes = [process_of(child)]
    with pytest.raises(ProcessEnded):
        several.map(len, [(episode(1), 0)], 1)  # type: ignore[arg-type]
    assert several.processes == []
    failing = process_of(Child(replies(("done", None), ("failed", ValueError("own"), "trace"))))
    several.processes = [failing]
    with pytest.raises(ValueError, match="own"):
        several.map(len, [(episode(1), 0)], 1)  # type: ignore[arg-type]
    assert several.processes == [failing]


def test_everything_in_a_program_shares_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_shared", {})
    first = task_processes()
    assert task_processes() is first
    monkeypatch.setattr(processes.os, "getpid", lambda: -5)
    other = task_processes()
    assert other is not first
    closed: list[Any] = []
    monkeypatch.setattr(TaskProcesses, "close", lambda self: closed.append(self))
    processes._close_own()
    assert closed == [other]
    monkeypatch.setattr(processes.os, "getpid", lambda: -6)
    processes._close_own()
    assert closed == [other]


def test_several_workers_are_refused_where_they_would_not_be_seen() -> None:
    message = "autocast around several workers would not reach them; set the model's autocast=... instead"
    two = Execution(chunk=1, workers=2)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match=exactly(message)):
        two.map(len, episode(2))  # type: ignore[arg-type]
    with (
        LiveBytes(),
        pytest.raises(InputError, match=exactly("live bytes are counted in one thread; measure memory with workers=1")),
    ):
        two.map(len, episode(2))  # type: ignore[arg-type]
    with torch.no_grad():
        found = two.map(lambda part, start: (start, torch.is_grad_enabled(), torch.get_num_threads()), episode(2))
    assert found == [(0, False, 1), (1, False, 1)]
    assert Execution(2, 3, True).alone() == Execution(2)


def test_threads_leave_the_number_of_torch_s_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Execution(chunk=1, workers=2).map(lambda part, start: 0, episode(3))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_calls_go_to_as_many_processes_as_there_are_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[list[tuple[tuple[str, ...], int]], int]] = []
    several = SimpleNamespace(
        map=lambda function, chunks, n: told.append(([(part.task_ids, start) for part, start in chunks], n)) or ["x"]
    )
    monkeypatch.setattr("metascale.parallel.execution.task_processes", lambda: several)
    assert Execution(2, 9, True).map(len, episode(5)) == ["x"]  # type: ignore[arg-type]
    assert Execution(2, 2, True).map(len, episode(5)) == ["x"]  # type: ignore[arg-type]
    chunks = [(("0", "1"), 0), (("2", "3"), 2), (("4",), 4)]
    assert told == [(chunks, 3), (chunks, 2)]


def test_a_device_of_another_type_runs_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a number of threads it is torch's."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    kind: Any = SimpleNamespace(task_execution="threads")
    assert Execution.best_for(kind, "cpu") == Execution(chunk=1, workers=5)
    kind.task_execution = "processes"
    assert Execution.best_for(kind, "cpu", None, 20) == Execution(4, 5, True)
    assert Execution.best_for(kind, "cuda:1", None, 20) == Execution()


def test_the_program_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signals to all are ignored; replies go to a copy of its output, in whose place the error stream is put."""
    told: list[Any] = []
    fake = SimpleNamespace(
        dup=lambda number: number + 10, fdopen=lambda number, mode: (number, mode),
        dup2=lambda *given: told.append(("dup2", *given)), _exit=lambda status: told.append(("exit", status)),
        name="posix", getpid=processes.os.getpid, environ=processes.os.environ,
    )  # fmt: skip
    monkeypatch.setattr(processes, "os", fake)
    monkeypatch.setattr(processes.torch, "set_num_threads", lambda count: told.append(("threads", count)))
    monkeypatch.setattr(processes.signal, "signal", lambda *given: told.append(given))
    monkeypatch.setattr(processes, "serve", lambda *given: told.append(("serve", *given)))
    processes.main()
    ignored = [getattr(processes.signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")]
    assert told == [
        *[(number, processes.signal.SIG_IGN) for number in ignored], ("dup2", 2, 1), ("threads", 1),
        ("serve", (10, "rb"), (11, "wb")), ("exit", 0),
    ]  # fmt: skip

    def broken(*given: Any) -> None:
        raise BrokenPipeError

    told.clear()
    monkeypatch.setattr(processes, "serve", broken)
    some = SimpleNamespace(SIGINT=2, SIG_IGN=1, signal=lambda *given: told.append(given))  # as on another system
    monkeypatch.setattr(processes, "signal", some)
    processes.main()
    assert told == [(2, 1), ("dup2", 2, 1), ("threads", 1), ("exit", 0)]


# --------------------------------------------------------------------------------------------------- joined trainings


@dataclass
class Slope:
    """Losses w · x of every example, whose mean is the objective: slope mean x."""

    kind: object = "slope"

    def init(self, seed: int) -> dict[str, torch.Tensor]:
        return {"w": torch.tensor([float(seed)]), "v": torch.tensor([1.0])}

    def losses_of_each(self, models: Any, params: Any, batches: Any, dropouts: Any) -> torch.Tensor:
        self.keys = list(dropouts)
        return torch.stack(
            [(own["w"] + own["v"]) * batch.inputs["x"] for own, batch in zip(params, batches, strict=True)]
        )


@dataclass
class Column:
    """x = (number, ..., number + 15) at every step."""

    number: float
    n_batch: int = 16

    def batch(self, k: int) -> Batch:
        return Batch({"x": self.number + k + torch.arange(16.0)}, torch.zeros(16).long())


def test_joined_steps_are_taken_at_once() -> None:
    """Two trainings, of seeds 1 and 2: nats (w + 1) · mean x, slopes mean x twice, whose norm is √2 as large."""
    model = Slope()
    trainings = [
        JoinedTraining(model, Column(0.0), SGD(0.1), seed=1, clip_norm=None),  # type: ignore[arg-type]
        JoinedTraining(model, Column(4.0), SGD(0.5), seed=2, clip_norm=1.0),  # type: ignore[arg-type]
    ]
    steps = [_Step(each, each.init(), k) for each, k in zip(trainings, (3, 0), strict=True)]
    assert steps[0].kind(None) == ("slope", 16)
    (first, row), (second, other) = steps[0].together(steps, [None, None])  # type: ignore[misc, attr-defined]
    assert model.keys == [trainings[0].dropout_at(3), trainings[1].dropout_at(0)]
    mean = 3 + 7.5
    assert row == pytest.approx({
        "training_loss_nats": 2 * mean, "objective": 2 * mean, "gradient_norm": math.sqrt(2) * mean, "rate_factor": 1.0,
    })  # fmt: skip
    assert (first.step, second.step) == (4, 1)
    assert first.params["w"].item() == pytest.approx(1 - 0.1 * mean, abs=1e-6)
    assert first.params["v"].item() == pytest.approx(1 - 0.1 * mean, abs=1e-6)
    mean = 4 + 7.5
    assert other["objective"] == pytest.approx(3 * mean)
    assert second.params["w"].item() == pytest.approx(2 - 0.5 / math.sqrt(2))
    bad = _Step(replace(trainings[0], examples=Column(math.inf)), trainings[0].init(), 5)
    found, good = bad.together([bad, steps[1]], [None, None])
    assert isinstance(found, Diverged)
    assert found.step == 5
    assert good[0].step == 1  # type: ignore[index]
