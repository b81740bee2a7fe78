"""Tasks in processes: the same numbers as in one, and every way in which another process can fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metascale.core.errors import Diverged, InputError
from metascale.core.types import Episode
from metascale.hypergrad.linear import LinearSolution, SolveFailed
from metascale.meta.baselines import Arena, linear_probe, prototypes
from metascale.meta.evaluate import adapted_predictor, evaluate
from metascale.meta.gradients import FOMAML, MAML, Reptile
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.models.convnet import ConvNet
from metascale.parallel.budget import fit_to_budget
from metascale.parallel.execution import Execution
from metascale.parallel.processes import ProcessEnded, pack, pack_around_model, portable, task_processes, unpack
from metascale.testing.subjects import SmoothClassifier
from metascale.training.memory import LiveBytes
from metascale.training.optimizers import SGD
from tests.meta.episodes import class_episode
from tests.meta.test_learner import FixedSource

MODEL = ConvNet(3, image_size=8, width=4, depth=2)
EPISODE = class_episode(5, (1, 8, 8), support=15).to(dtype=torch.float32)
"""Every support set has all three classes."""
TWO = Execution(chunk=2, workers=2, in_processes=True)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """One intra-op thread everywhere: only then may bits be compared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def _no_process_left() -> Iterator[None]:
    yield
    task_processes().close()


def pids() -> list[int]:
    return [process.pid for process in task_processes().processes]


@dataclass
class Task:
    """What a test has the processes do."""

    do: str

    def __call__(self, part: Episode, start: int) -> object:
        if self.do == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.do == "refuse":
            raise InputError(f"no task {start} here")
        if self.do == "odd error":
            raise OddError(step=start)
        if self.do == "print":
            print("not a reply", flush=True)
            os.write(1, b"nor this")
        if self.do == "signals":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        return start, os.getpid(), torch.is_grad_enabled(), torch.get_num_threads()


@dataclass
class Holder:
    """Holds a model."""

    model: object

    def __call__(self, part: Episode, start: int) -> object:
        return self.model.weights[0]  # type: ignore[attr-defined]


@dataclass
class Mutable:
    """Says how its tasks run, as models do."""

    weights: list[float]
    task_execution = "processes"


class OddError(Exception):
    def __init__(self, *, step: int) -> None:
        super().__init__(f"odd at {step}")


@pytest.mark.parametrize("kind", [Reptile, FOMAML, MAML])
def test_processes_change_no_bit(kind: type) -> None:
    learner = MetaLearner(kind(InnerLoop(SGD(0.1), 2)), execution=TWO.alone())
    state = learner.init(MODEL, 0)
    expected, told = learner.step(MODEL, state, EPISODE)
    found, report = replace(learner, execution=TWO).step(MODEL, state, EPISODE)
    assert all(torch.equal(found.params[name], value) for name, value in expected.params.items())
    assert report.task_ids == told.task_ids
    assert torch.equal(report.support_loss_end, told.support_loss_end)


def test_dropout_masks_are_those_of_one_process() -> None:
    model = SmoothClassifier()
    episode = model.episode(4)
    learner = MetaLearner(MAML(InnerLoop(SGD(0.1), 2)), execution=TWO.alone())
    state = learner.init(model, 0)
    expected, _ = learner.step(model, state, episode)
    found, _ = replace(learner, execution=TWO).step(model, state, episode)
    assert all(torch.equal(found.params[name], value) for name, value in expected.params.items())


def test_evaluation_and_baselines_run_in_processes() -> None:
    source, params = FixedSource(EPISODE), MODEL.init(0)
    predictor = adapted_predictor(MODEL, InnerLoop(SGD(0.1), 2), params, [0, 2])
    expected = evaluate(predictor, source, "test", 5, execution=TWO.alone())
    np.testing.assert_array_equal(evaluate(predictor, source, "test", 5, execution=TWO).loss_nats, expected.loss_nats)
    for baseline in (prototypes, linear_probe):
        alone, spread = (baseline(MODEL, params, Arena(source, 5, 5, 5, way)) for way in (TWO.alone(), TWO))
        assert spread.choice == alone.choice
        np.testing.assert_array_equal(spread.test.loss_nats, alone.test.loss_nats)


def test_processes_stay_and_take_another_model_when_one_comes() -> None:
    learner = MetaLearner(FOMAML(InnerLoop(SGD(0.1), 2)), execution=TWO)
    learner.step(MODEL, learner.init(MODEL, 0), EPISODE)
    before = pids()
    assert len(before) >= 2
    wider = ConvNet(3, image_size=8, width=6, depth=2)
    state = learner.init(wider, 0)
    found, _ = learner.step(wider, state, EPISODE)
    expected, _ = replace(learner, execution=TWO.alone()).step(wider, state, EPISODE)
    assert pids() == before
    assert all(torch.equal(found.params[name], value) for name, value in expected.params.items())


def test_a_model_that_was_changed_in_place_is_sent_again() -> None:
    model = [1.0]  # stands for weights
    assert TWO.map(Holder(Mutable(model)), EPISODE) == [1.0] * 3
    model[0] = 2.0
    assert TWO.map(Holder(Mutable(model)), EPISODE) == [2.0] * 3


def test_errors_with_more_than_words_survive_the_way() -> None:
    found = portable(Diverged("no", step=3, task_ids=("a",), last_finite=2.0))
    assert isinstance(found, Diverged)
    for error in (unpack(pack(found)), found):
        assert (str(error), error.step, error.task_ids, error.last_finite) == ("no", 3, ("a",), 2.0)
    solution = LinearSolution({"x": torch.ones(1)}, torch.tensor(0.5), 1, "diverged")
    failed = unpack(pack(SolveFailed("no way", solution)))
    assert (str(failed), float(failed.solution.residual)) == ("no way", 0.5)


def test_autocast_around_workers_is_refused() -> None:
    for way in (TWO, Execution(chunk=2, workers=2)):
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(InputError, match="autocast around several workers"):
            way.map(Task("work"), EPISODE)


def test_a_model_is_left_out_of_what_is_sent() -> None:
    predictor = adapted_predictor(MODEL, InnerLoop(steps=0), {}, [0])
    message, model = pack_around_model([predictor, predictor])
    assert model is MODEL
    assert b"ConvNet" not in message
    first, second = unpack(message, "another")
    assert (first.model, second.model) == ("another", "another")
    assert pack_around_model({"no": "model"})[1] is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_arrive_as_they_were(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    value = torch.rand(shape).mul(9).to(dtype)
    for sent in (value, value.expand(2, *shape).transpose(0, -1) if shape else value):
        found = unpack(pack(sent))
        assert found.dtype == dtype
        assert torch.equal(found, sent)
        found.zero_()  # it is the receiver's own


def test_results_come_in_order_from_one_thread_each() -> None:
    with torch.no_grad():
        found = Execution(chunk=1, workers=2, in_processes=True).map(Task("work"), EPISODE)
    assert [start for start, *_ in found] == [0, 1, 2, 3, 4]
    assert {told[2:] for told in found} == {(False, 1)}
    assert {told[1] for told in found} <= set(pids())
    assert os.getpid() not in pids()


def test_threads_of_the_program_take_turns() -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: [start for start, *_ in TWO.map(Task("work"), EPISODE)], range(8)))
    assert found == [[0, 2, 4]] * 8


def test_one_chunk_stays_in_this_process() -> None:
    ((_, pid, *_),) = Execution(chunk=5, workers=2, in_processes=True).map(Task("work"), EPISODE)
    assert pid == os.getpid()


def test_an_error_comes_back_as_itself_and_the_processes_go_on() -> None:
    with pytest.raises(InputError, match="no task 0 here") as caught:
        TWO.map(Task("refuse"), EPISODE)
    assert "in a process that ran tasks" in str(caught.value.__cause__)
    assert "__call__" in str(caught.value.__cause__)
    before = pids()
    with pytest.raises(RuntimeError, match="OddError: odd at 0"):
        TWO.map(Task("odd error"), EPISODE)
    assert len(TWO.map(Task("work"), EPISODE)) == 3
    assert pids() == before


@pytest.mark.long
def test_a_killed_process_is_named_and_new_ones_start_in_which_what_a_model_prints_is_no_reply(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ProcessEnded, match="ended with status -9 before it answered"):
        TWO.map(Task("die"), EPISODE)
    assert pids() == []
    # The new ones write to this test's standard error.
    assert [start for start, *_ in TWO.map(Task("print"), EPISODE)] == [0, 2, 4]
    assert "nor this" in capfd.readouterr().err


def test_signals_to_everybody_leave_the_decision_to_the_program() -> None:
    assert len(TWO.map(Task("signals"), EPISODE)) == 3


def test_closures_are_refused() -> None:
    with pytest.raises(InputError, match="<lambda> cannot be sent to another process"):
        TWO.map(lambda part, start: start, EPISODE)
    odd = replace(SmoothClassifier(), dropout_rate=lambda: 0.1)  # a model that holds a closure
    with pytest.raises(InputError, match="Holder cannot be sent to another process"):
        TWO.map(Holder(odd), EPISODE)


def test_memory_is_not_counted_across_processes() -> None:
    with LiveBytes(), pytest.raises(InputError, match="workers=1"):
        TWO.map(Task("work"), EPISODE)


def test_a_memory_budget_counts_a_copy_of_everything_for_each_process() -> None:
    learner = MetaLearner(FOMAML(InnerLoop(SGD(0.1), 2)), execution=Execution(chunk=1))
    one = fit_to_budget(learner, MODEL, EPISODE, 2**33)
    threads = fit_to_budget(replace(learner, execution=Execution(1, 2)), MODEL, EPISODE, 2**33)
    processes = fit_to_budget(replace(learner, execution=Execution(1, 2, True)), MODEL, EPISODE, 2**33)
    static = sum(value.nbytes for value in MODEL.init(0).values())
    assert processes.peak_bytes >= 2 * one.peak_bytes
    assert threads.peak_bytes < processes.peak_bytes <= 2 * one.peak_bytes + static
    assert processes.learner.execution.in_processes


SCRIPT = """
    import os, sys, time
    import torch
    from metascale.core.errors import InputError
    from metascale.core.types import Batch, Episode
    from metascale.parallel.execution import Execution
    from metascale.parallel.processes import task_processes

    class Mine:
        def __call__(self, part, start):
            return start

    batch = Batch({"x": torch.zeros(2, 1, 1)}, torch.zeros(2, 1, dtype=torch.long))
    episode = Episode(("a", "b"), batch, batch)
    two = Execution(chunk=1, workers=2, in_processes=True)
"""


def script(tmp_path: Path, rest: str) -> list[str]:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT) + textwrap.dedent(rest), encoding="utf-8")
    return [sys.executable, str(path)]


@pytest.mark.long
def test_a_script_needs_no_guard_and_its_processes_end_with_it_even_when_killed(tmp_path: Path) -> None:
    rest = """
        from beside import starts
        if sys.argv[1:] != ["stay"]:
            try:
                two.map(Mine(), episode)
            except InputError as error:
                print(error)
        print(len(two.map(starts, episode)), *(process.pid for process in task_processes().processes), flush=True)
        if sys.argv[1:] == ["stay"]:
            time.sleep(600)
    """
    (tmp_path / "beside.py").write_text("def starts(part, start):\n    return start\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = script(tmp_path, rest)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""
    refusal, told = done.stdout.splitlines()  # a class of the script that was started
    assert "another process could not load what it should run (AttributeError: Can't get attribute 'Mine'" in refusal
    assert "define models and functions in a module that can be imported" in refusal
    n_results, *found = map(int, told.split())
    assert n_results == 2
    assert not any(alive(pid) for pid in found)
    with subprocess.Popen([*command, "stay"], stdout=subprocess.PIPE, text=True, env=environment) as program:
        assert program.stdout is not None
        _, *found = map(int, program.stdout.readline().split())
        assert all(alive(pid) for pid in found)
        program.kill()
    for pid in found:
        wait_for_end(pid)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_end(pid: int) -> None:
    """Returns when the process has ended; a process that stays is ended by the time limit of the test run."""
    while alive(pid):
        time.sleep(0.01)
