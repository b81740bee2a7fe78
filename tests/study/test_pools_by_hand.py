"""Executors of this machine, stacks and requests to stop, against tables of events: no process is started."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from metascale.core.errors import InputError, MetascaleError
from metascale.study.errors import Interrupted
from metascale.study.executors import local
from metascale.study.executors.local import ProcessExecutor, SerialExecutor, check_devices
from metascale.study.run import stack, stopping
from metascale.study.run.job import Ended, ExitCode, Job
from metascale.study.run.stopping import StopWatch, is_signalled, stop_on_signal, stopping_on_signals
from metascale.study.store.claims import Claim


def job(name: str, folder: Path = Path("/study"), **changes: Any) -> Job:
    config = {"trial": "tests.study.stack_of_test:train", "seed": 0}
    return replace(Job(name, name, str(folder / "runs" / name), config, "cpu", "owner", 1), **changes)


# ------------------------------------------------------------------------------- one after another


def test_one_job_at_a_time_on_the_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Job] = []
    clock = iter([10.0, 12.5])
    slept: list[float] = []
    monkeypatch.setattr(local, "execute_all", lambda given: ran.append(given) or [0, 75])
    monkeypatch.setattr(local, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=slept.append))
    with SerialExecutor(devices=("cuda:0", "cuda:1", "cuda:2"), processes_per_trial=2).open() as pool:
        assert pool.wait(0.5) == []
        assert slept == [0.5]
        assert pool.free_device() == "cuda:0,cuda:1"
        pair = job("a", beside=[asdict(job("b"))])
        pool.submit(pair)
        assert pool.free_device() is None
        assert pool.wait(0.5) == [Ended(job("a"), 0, 2.5), Ended(job("b"), 75, 2.5)]
        assert ran == [replace(pair, processes=2)]
        assert pool.free_device() == "cuda:2,cuda:0"
    assert slept == [0.5]


def test_executors_of_this_machine_are_plain_where_nothing_is_said() -> None:
    assert asdict(SerialExecutor()) == {"devices": ("cpu",), "processes_per_trial": 1}
    assert asdict(ProcessExecutor(3)) == {
        "workers": 3, "devices": ("cpu",), "threads_per_worker": 1, "preload": (), "pin_cores": False,
        "processes_per_trial": 1, "hang_s": 3600.0, "trial_timeout_s": None,
    }  # fmt: skip


@pytest.mark.parametrize("devices", [(), [], "cpu"])
def test_devices_are_a_list(devices: Any) -> None:
    with pytest.raises(InputError, match=r"^an executor needs a list of at least one device, such as \['cpu'\], not"):
        check_devices(devices)
    for make in (SerialExecutor, lambda devices: ProcessExecutor(1, devices)):
        with pytest.raises(InputError, match=r"^an executor needs a list"):
            make(devices=devices)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["workers", "threads_per_worker", "processes_per_trial", "hang_s", "trial_timeout_s"])
def test_numbers_of_processes_are_above_0(name: str) -> None:
    with pytest.raises(InputError, match=f"^{name} of an executor is more than 0, not 0$") as caught:
        ProcessExecutor(**{"workers": 1, name: 0})
    assert (caught.value.field, caught.value.value) == (name, 0)


# ------------------------------------------------------------------------------- in processes


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The other end of an executor's connection, and how the process there was started."""
    found = SimpleNamespace(started=[], waited=0, end=None)

    def popen(command: list[str], **options: Any) -> Any:
        found.started.append((command, options))
        found.end = socket.socket(fileno=os.dup(int(command[3])))

        def wait() -> None:
            found.waited += 1

        return SimpleNamespace(wait=wait)

    monkeypatch.setattr(local.subprocess, "Popen", popen)
    yield found
    if found.end is not None:
        found.end.close()


def said(server: Any) -> list[Any]:
    """The messages that have come to the server."""
    data = b""
    while select.select([server.end], [], [], 0)[0]:
        data += server.end.recv(2**20)
    return [json.loads(line) for line in data.splitlines()]


def tell(server: Any, *messages: Any) -> None:
    server.end.sendall(b"".join(json.dumps(one).encode() + b"\n" for one in messages))


def test_a_server_is_started_with_its_threads_and_told_what_to_load(server: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.setenv("OTHER", "stays")
    with ProcessExecutor(2, threads_per_worker=3, preload=("torch",)).open():
        ((command, options),) = server.started
        assert command[:3] == [sys.executable, "-m", "metascale.study.run.fork_server"]
        assert command[4:] == [str(os.getpid())]
        environment = options.pop("env")
        assert (environment["OMP_NUM_THREADS"], environment["MKL_NUM_THREADS"], environment["OTHER"]) == (
            "3",
            "3",
            "stays",
        )
        assert options == {"stdin": subprocess.DEVNULL, "pass_fds": (int(command[3]),), "start_new_session": True}
        assert said(server) == [{"sys_path": sys.path, "preload": ["torch"]}]
        assert server.waited == 0
    assert server.waited == 1
    assert server.end.recv(1) == b"", "the connection is at its end"


def test_jobs_have_slots_devices_and_limits(server: Any, tmp_path: Path) -> None:
    executor = ProcessExecutor(2, devices=("cuda:0", "cuda:1", "cuda:2"), hang_s=7.0, trial_timeout_s=8.0)
    with executor.open() as pool:
        said(server)
        assert pool.free_device() == "cuda:0"
        pool.submit(job("a", tmp_path))
        assert pool.free_device() == "cuda:1"
        pool.submit(job("b", tmp_path))
        assert pool.free_device() is None
        with pytest.raises(MetascaleError, match=r"^a job was submitted while every worker was busy$"):
            pool.submit(job("c", tmp_path))
        one, two = said(server)
        assert (one["slot"], two["slot"], one["cores"]) == (0, 1, [])
        assert Job(**one["job"]) == replace(job("a", tmp_path), processes=1, hang_s=7.0, trial_timeout_s=8.0,
                                            import_paths=[], stack=[], beside=[])  # fmt: skip
        tell(server, {"slot": 0, "pid": 11}, {"slot": 1, "pid": 12}, {"slot": 0, "codes": [75]})
        (ended,) = pool.wait(5.0)
        assert (ended.job.trial_id, ended.code, 0 <= ended.wall_s < 5) == ("a", 75, True)
        assert pool._pids == {1: 12}  # type: ignore[attr-defined]
        assert pool.free_device() == "cuda:0"
        server.end.sendall(b'{"slot": 1, "co')
        assert pool.wait(0.0) == []
        server.end.sendall(b'des": [0]}\n')
        assert [one.job.trial_id for one in pool.wait(5.0)] == ["b"]


def test_what_is_overdue_is_killed_once_and_ended_by_that(server: Any, tmp_path: Path, monkeypatch: Any) -> None:
    bounded: list[Path] = []
    late: list[ExitCode | None] = [None, ExitCode.HUNG, ExitCode.HUNG]
    watched: list[Any] = []

    def overdue(given: Job, start: float, pulse: Any) -> ExitCode | None:
        watched.append((given.trial_id, pulse._folders))
        return late.pop(0)

    monkeypatch.setattr(local, "bound_output", bounded.append)
    monkeypatch.setattr(local, "overdue", overdue)
    with ProcessExecutor(2).open() as pool:
        said(server)
        pool.submit(job("a", tmp_path, beside=[asdict(job("b", tmp_path))]))
        said(server)
        folders = [tmp_path / "runs" / name for name in "ab"]
        outputs = [folder / "output.log" for folder in folders]
        for killed in ([], [{"kill": 0}], []):
            assert pool.wait(0.0) == []
            assert said(server) == killed
        assert watched == [("a", tuple(folders))] * 3
        assert bounded == outputs * 3
        tell(server, {"slot": 0, "codes": [-9, -9]})
        late[:] = [None]
        ended = pool.wait(5.0)
        assert [(one.job.trial_id, one.code) for one in ended] == [("a", ExitCode.HUNG), ("b", ExitCode.HUNG)]
        assert bounded[6:] == outputs * 2
        pool.submit(job("c", tmp_path))
        tell(server, {"slot": 0, "codes": [-9]})
        late[:] = [None]
        assert [one.code for one in pool.wait(5.0)] == [-9], "nobody here killed that one"


def test_a_trial_on_several_processes_is_watched_by_its_own_supervisor(server: Any, tmp_path: Path) -> None:
    with ProcessExecutor(1, processes_per_trial=2, trial_timeout_s=1e-9).open() as pool:
        said(server)
        pool.submit(job("a", tmp_path))
        assert said(server)[0]["job"]["processes"] == 2
        pool.wait(0.0)
        assert said(server) == []


def test_a_server_that_dies_takes_its_trials_along_and_says_what_to_do(
    server: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    killed: list[Any] = []

    def killpg(group: int, number: int) -> None:
        killed.append((group, number))
        raise ProcessLookupError if group == 11 else PermissionError

    monkeypatch.setattr(local.os, "killpg", killpg)
    with ProcessExecutor(2).open() as pool:
        pool.submit(job("a", tmp_path))
        pool.submit(job("b", tmp_path))
        tell(server, {"slot": 0, "pid": 11}, {"slot": 1, "pid": 12})
        pool.wait(5.0)
        said(server)
        server.end.shutdown(socket.SHUT_RDWR)
        words = r"^the process that starts the trials ended unexpectedly \(its message is above\); run the same command"
        with pytest.raises(MetascaleError, match=words):
            pool.wait(1.0)
        assert killed == [(11, signal.SIGKILL), (12, signal.SIGKILL)]
        server.end.close()
        with pytest.raises(MetascaleError, match=words):
            pool.send({})  # type: ignore[attr-defined]


def test_workers_have_cores_of_their_own_where_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.os, "sched_getaffinity", lambda pid: {9, 4, 5, 6, 7}, raising=False)
    pinned = local._ProcessPool(ProcessExecutor(4, threads_per_worker=2, pin_cores=True), None)  # type: ignore[arg-type]
    assert [pinned._cores(slot) for slot in range(3)] == [[4, 5], [6, 7], [9, 4]]
    assert local._ProcessPool(ProcessExecutor(4), None)._cores(0) == []  # type: ignore[arg-type]


# ------------------------------------------------------------------------------- stacks


def test_a_job_alone_is_executed_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "execute", lambda given: ExitCode.STOPPED)
    assert stack.execute_all(job("a"), own_output=True) == [77]


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of a stack's trials, which runs them at the same time, and what each of them does."""
    module = ModuleType("tests.study.stack_of_test")

    def run(runs: list[Any]) -> None:
        threads = [threading.Thread(target=one) for one in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    module.together = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    meet = threading.Barrier(2)

    def execute(given: Job, claim: Claim, watch: StopWatch) -> int:
        assert (claim, watch.claim, watch.run_folder) == (given.claim, given.claim, Path(given.folder))
        print(f"{given.trial_id} starts")
        meet.wait(10)
        print(f"{given.trial_id} ends", file=sys.stderr)
        return {"a": 0, "b": 75}[given.trial_id]

    monkeypatch.setattr(stack, "execute_here", execute)
    return module


@pytest.mark.parametrize("own", [True, False])
def test_trials_of_a_stack_print_to_their_own_folders_where_they_are_in_a_process_of_their_own(
    own: bool, together: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    for name in "ab":
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "output.log").write_text("before\n")
    pair = job("a", tmp_path, beside=[asdict(job("b", tmp_path))])
    assert stack.execute_all(pair, **({"own_output": True} if own else {})) == [0, 75]
    for name in "ab":
        lines = f"{name} starts\n{name} ends\n"
        assert (tmp_path / "runs" / name / "output.log").read_text() == "before\n" + (lines if own else "")
    assert sorted(out.getvalue().splitlines()) == ([] if own else ["a starts", "b starts"])
    print("after")
    print("wrong", file=sys.stderr)
    assert out.getvalue().endswith("after\n")
    assert err.getvalue().endswith("wrong\n")


def test_what_a_trial_of_a_stack_prints_is_in_its_file_line_by_line(tmp_path: Path, monkeypatch: Any) -> None:
    """Whoever watches for a hang looks at the file, and a text that is no Unicode is kept escaped."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.StringIO())
    with stack._printing_to(tmp_path / "output.log"):
        for number, line in enumerate(("one", "tw\udcff", "ä"), start=1):
            print(line)
            assert (tmp_path / "output.log").read_text("utf-8").splitlines() == ["one", "tw\\udcff", "ä"][:number]


def test_a_trial_of_a_stack_that_does_not_come_back_has_failed(together: Any, tmp_path: Path) -> None:
    together.together = lambda runs: None
    assert stack.execute_all(job("a", tmp_path, beside=[asdict(job("b", tmp_path))])) == [1, 1]


def test_a_stream_of_a_thread_is_given_back(tmp_path: Path) -> None:
    onward, own = io.StringIO(), io.StringIO()
    output = stack._Output(onward)

    def fails() -> None:
        with output.into(own):
            assert output.write("own") == 3
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fails()
    output.write("onward")
    output.flush()
    assert (own.getvalue(), onward.getvalue()) == ("own", "onward")
    with open(tmp_path / "x", "w") as stream:
        assert stack._Output(stream).fileno() == stream.fileno()


# ------------------------------------------------------------------------------- requests to stop


@pytest.fixture
def unsignalled(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    event = threading.Event()
    monkeypatch.setattr(stopping, "_signalled", event)
    return event


def test_a_request_that_was_there_before_is_for_nobody_who_starts_later(tmp_path: Path, unsignalled: Any) -> None:
    fresh = StopWatch.start(tmp_path)
    assert (fresh, fresh.asked(), fresh.signalled()) == (StopWatch(tmp_path, ""), None, False)
    stopping.ask_to_stop(tmp_path, "finish")
    request = stopping.read_request(tmp_path)
    assert request is not None
    assert set(request) == {"mode", "request", "at"}
    assert (request["mode"], len(request["request"])) == ("finish", 16)
    late = StopWatch.start(tmp_path)
    assert (fresh.asked(), late.asked(), late.seen) == ("finish", None, request["request"])
    stopping.ask_to_stop(tmp_path, "checkpoint")
    assert (fresh.asked(), late.asked()) == ("checkpoint", "checkpoint")
    unsignalled.set()
    assert (StopWatch.start(tmp_path).asked(), late.signalled()) == ("checkpoint", True)
    (tmp_path / "run").mkdir()
    stopping.ask_run_to_stop(tmp_path / "run", Claim("t", "me", 2))
    assert {**json.loads((tmp_path / "run" / "stop.json").read_text()), "at": 0} == {
        "owner": "me",
        "attempt": 2,
        "at": 0,
    }


@pytest.fixture
def ordinary() -> Iterator[None]:
    """SIGTERM and SIGINT as Python has them, whatever runs the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("ordinary")
def test_the_first_signal_asks_and_the_second_ends(unsignalled: threading.Event) -> None:
    before = signal.SIG_DFL
    reached: list[Any] = []

    def once() -> None:
        with stopping_on_signals(signal.SIGTERM) as take:
            assert signal.getsignal(signal.SIGTERM) is not before
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a library took it
            take()
            reached.append(is_signalled())
            signal.raise_signal(signal.SIGTERM)
            reached.append(is_signalled())

    def twice() -> None:
        with stopping_on_signals(signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(signal.SIGTERM)
            reached.append("one")
            signal.raise_signal(signal.SIGINT)
            reached.append("two")

    with pytest.raises(Interrupted, match=r"^ended by signal 15$") as caught:
        once()
    assert (caught.value.exit_status, is_signalled(), signal.getsignal(signal.SIGTERM)) == (143, False, before)
    with pytest.raises(Interrupted, match=r"^ended by signal 2$"):
        twice()
    assert reached == [False, True, "one"]


@pytest.mark.usefixtures("ordinary")
def test_signals_of_the_program_and_of_other_threads_are_left_alone(unsignalled: threading.Event) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    ints = signal.getsignal(signal.SIGINT)
    try:
        with stopping_on_signals(signal.SIGTERM):
            signal.raise_signal(signal.SIGTERM)
        assert came == [15]
        seen: list[Any] = []

        def elsewhere() -> None:
            with stopping_on_signals(signal.SIGINT):
                seen.append(signal.getsignal(signal.SIGINT))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert seen == [ints]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_signals_that_ask_to_stop(unsignalled: threading.Event) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    try:
        stop_on_signal(*before)
        for number in before:
            signal.raise_signal(number)
            assert unsignalled.is_set()
            unsignalled.clear()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_process_asks_the_system_to_end_with_its_parent_and_to_adopt(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    library = SimpleNamespace(prctl=lambda *given: asked.append(given))
    monkeypatch.setattr(stopping.ctypes, "CDLL", lambda name, use_errno: library)
    monkeypatch.setattr(stopping.os, "kill", lambda *given: asked.append(("kill", *given)))
    monkeypatch.setattr(stopping.sys, "platform", "linux")
    stopping.die_with(os.getppid())
    stopping.die_with(os.getppid(), 15)
    stopping.die_with(-1, 15)
    stopping.adopt_orphans()
    assert asked == [(1, 9), (1, 15), (1, 15), ("kill", os.getpid(), 15), (36, 1)]
    monkeypatch.setattr(stopping.sys, "platform", "darwin")
    stopping.die_with(-1)
    stopping.adopt_orphans()
    assert len(asked) == 5
