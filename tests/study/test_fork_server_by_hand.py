"""The server that trials are forked from, on a system of the test's own: no process is started or signalled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metascale.study.run import fork_server
from metascale.study.run.fork_server import _Server, _Trial
from metascale.study.run.job import Job

TRIAL = "tests.study.trials:train"
SIGTERM, SIGKILL = signal.SIGTERM, signal.SIGKILL


def job(name: str = "a", folder: Path = Path("/study"), **changes: Any) -> Job:
    return replace(Job(name, name, str(folder / "runs" / name), {"trial": TRIAL}, "cpu", "owner", 1), **changes)


class Connection:
    """The runner's end of the socket: what comes in pieces, and what was sent; or a runner that is gone."""

    def __init__(self, *pieces: bytes, gone: Any = None) -> None:
        self.pieces, self.gone = list(pieces), gone
        self.sent: list[Any] = []
        self.closed = False

    def fileno(self) -> int:
        return 5

    def recv(self, most: int) -> bytes:
        assert most == 2**20
        return self.pieces.pop(0)

    def sendall(self, data: bytes) -> None:
        if self.gone is not None:
            raise self.gone
        assert data.endswith(b"\n")
        self.sent.append(json.loads(data))

    def close(self) -> None:
        self.closed = True


class System:
    """``os`` with no processes but those that the test says, and pipes that are numbers."""

    def __init__(self) -> None:
        self.parent, self.forked = 99, 4321
        self.forbidden: Any = None  # the error of what cannot be done
        self.groups: set[int] = set()  # process groups that live
        self.ended: list[tuple[int, int]] = []  # what waitpid gives
        self.alive_children = 0
        self.pipes: dict[int, bytes] = {}
        self.did: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def getppid(self) -> int:
        return self.parent

    def fork(self) -> int:
        return self.forked

    def pipe(self) -> tuple[int, int]:
        return 70, 71

    def set_blocking(self, descriptor: int, blocking: bool) -> None:
        self.did.append(("blocking", descriptor, blocking))

    def close(self, descriptor: int) -> None:
        self.did.append(("close", descriptor))

    def setpgid(self, pid: int, group: int) -> None:
        self.did.append(("setpgid", pid, group))
        if self.forbidden is not None:
            raise self.forbidden

    def read(self, descriptor: int, most: int) -> bytes:
        if descriptor not in self.pipes:
            raise BlockingIOError
        self.did.append(("read", descriptor, most))
        return self.pipes[descriptor]

    def killpg(self, group: int, number: int) -> None:
        if group not in self.groups:
            raise self.forbidden or ProcessLookupError
        self.did.append(("killpg", group, number))

    def kill(self, pid: int, number: int) -> None:
        self.did.append(("kill", pid, number))

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        assert (pid, options) == (-1, os.WNOHANG)
        if self.ended:
            return self.ended.pop(0)
        if self.alive_children == 0:
            raise ChildProcessError
        self.alive_children -= 1
        return 0, 0


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    found = System()
    monkeypatch.setattr(fork_server, "os", found)
    monkeypatch.setattr(fork_server, "_children", list)
    return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    now: dict[str, Any] = {"s": 100.0, "slept": []}

    def sleep(seconds: float) -> None:
        now["slept"].append(seconds)
        now["s"] += 0.5

    monkeypatch.setattr(fork_server, "time", SimpleNamespace(monotonic=lambda: now["s"], sleep=sleep))
    return now


def server(connection: Connection | None = None, **trials: _Trial) -> _Server:
    found = _Server(connection or Connection(), 6, 99)  # type: ignore[arg-type]
    found._trials.update({int(name.removeprefix("p")): trial for name, trial in trials.items()})
    return found


def test_a_job_is_loaded_and_forked_with_its_cores_and_the_others_beside_it(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, frozen = [], []
    monkeypatch.setattr(fork_server, "sources", loaded.append)
    monkeypatch.setattr(fork_server, "load_function", loaded.append)
    monkeypatch.setattr(fork_server.gc, "freeze", lambda: frozen.append(True))
    connection = Connection()
    found = server(connection)
    whole = job(beside=[asdict(job("b")), asdict(job("c"))])
    found._handle({"job": asdict(whole), "slot": 3, "cores": [1, 2]})
    assert connection.sent == [{"slot": 3, "pid": 4321}]
    assert found._trials == {4321: _Trial(3, 70, 3)}
    assert (found._trials[4321].codes, found._trials[4321].until) == (None, 0.0)
    assert system.did == [("blocking", 70, False), ("close", 71), ("setpgid", 4321, 4321)]
    assert (loaded, frozen) == ([TRIAL, TRIAL], [True])
    found._handle({"job": asdict(job()), "slot": 0, "cores": []})
    assert loaded == [TRIAL, TRIAL], "a function is loaded once"
    assert found._trials[4321].n == 1


def test_the_forked_process_runs_the_trial_without_the_connection(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []

    def run_trial(*given: Any) -> None:
        ran.append(given)
        raise KeyboardInterrupt  # it never returns

    monkeypatch.setattr(fork_server, "run_trial", run_trial)
    monkeypatch.setattr(fork_server, "sources", lambda function: None)
    system.forked = 0
    connection = Connection()
    with pytest.raises(KeyboardInterrupt):
        server(connection)._handle({"job": asdict(job()), "slot": 0, "cores": [7]})
    ((parent, cores, given, tell),) = ran
    assert (parent, cores, given.trial_id, tell, connection.closed) == (os.getpid(), [7], "a", 71, True)


@pytest.mark.parametrize("error", [ImportError, SystemExit])
def test_a_function_that_cannot_be_loaded_is_left_to_the_trial(error: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(function: str) -> None:
        raise error

    monkeypatch.setattr(fork_server, "sources", lambda function: None)
    monkeypatch.setattr(fork_server, "load_function", fails)
    server()._load("a:b")


def test_a_kill_reaches_the_slot_that_it_names(system: System) -> None:
    system.groups = {11, 12}
    found = server(p11=_Trial(0, 70, 1), p12=_Trial(1, 72, 1), p13=_Trial(1, 74, 1))
    found._handle({"kill": 1})
    assert system.did == [("killpg", 12, SIGKILL)], "13 is gone already"


def test_the_first_message_has_the_path_and_what_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(fork_server, "machine", lambda: asked.append("machine"))
    monkeypatch.setattr(fork_server.importlib, "import_module", asked.append)
    path = sys.path
    monkeypatch.setattr(sys, "path", [*sys.path])
    server()._handle({"sys_path": [*path, "/one/more"], "preload": ["a", "b"]})
    assert sys.path == [*path, "/one/more"]
    assert asked == ["a", "b", "machine"]


def exited(code: int) -> int:
    return code << 8


@pytest.mark.parametrize(
    ("status", "told", "n", "codes"),
    [
        (exited(0), b"[0]", 1, [0]),
        (exited(75), b"[75]", 1, [75]),
        (exited(77), b"", 1, [1077]),  # os._exit(77) asks for no stop
        (exited(1), b"", 2, [1001, 1001]),
        (exited(0), b"[0, 76]", 2, [0, 76]),
        (exited(3), b"[0, 76]", 2, [0, 76]),
        (9, b"", 1, [-9]),
        (11, b"[0, 0]", 2, [-11, -11]),  # one of several took them all along
    ],
)
def test_how_a_process_ended_and_what_it_told(
    status: int, told: bytes, n: int, codes: list[int], system: System, clock: dict[str, Any]
) -> None:
    system.ended = [(4, exited(0)), (11, status)]  # 4: what a trial had left behind
    system.groups = {11}
    if told:
        system.pipes[70] = told
    found = server(p11=_Trial(2, 70, n), p12=_Trial(3, 72, 1))
    found._reap()
    assert found._trials == {11: _Trial(2, 70, n, codes, 102.0), 12: _Trial(3, 72, 1)}
    asked = [("read", 70, 2**16)] if told else []
    assert system.did == [*asked, ("killpg", 11, SIGTERM)]


def test_nothing_more_is_waited_for_where_nothing_more_has_ended(system: System, clock: dict[str, Any]) -> None:
    system.alive_children = 5
    server()._reap()
    assert system.alive_children == 4


def test_a_trial_is_told_of_once_all_that_it_started_has_ended(
    system: System, clock: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = Connection()
    found = server(
        connection, p11=_Trial(0, 70, 1), p12=_Trial(1, 72, 2, [0, 1], 102.0), p13=_Trial(2, 74, 1, [5], 99.0)
    )
    asked: list[Any] = []
    left = {12: True, 13: True}

    def signal_left(group: int, number: Any) -> bool:
        asked.append((group, number))
        return left[group]

    monkeypatch.setattr(found, "_signal_left", signal_left)
    found._see_off()
    assert asked == [(12, None), (13, SIGKILL)], "12 has its grace, that of 13 is over, 11 runs"
    assert (connection.sent, system.did) == ([], [])
    left[12], asked[:], clock["s"] = False, [], 102.0
    found._see_off()
    assert asked == [(12, None), (13, SIGKILL)]
    assert connection.sent == [{"slot": 1, "codes": [0, 1]}]
    assert system.did == [("close", 72)]
    assert found._trials.keys() == {11, 13}


def test_what_is_left_of_a_trial_is_its_group_and_children_that_are_no_trials(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = server(p11=_Trial(0, 70, 1), p12=_Trial(1, 72, 1))
    assert found._signal_left(11, SIGTERM) is False
    system.groups = {11}
    assert found._signal_left(11, SIGTERM) is True
    assert found._signal_left(11, None) is True
    assert system.did == [("killpg", 11, SIGTERM), ("killpg", 11, 0)]
    system.groups, system.did = set(), []
    monkeypatch.setattr(fork_server, "_children", lambda: [12, 50])
    assert found._signal_left(11, SIGKILL) is True
    assert found._signal_left(11, None) is True
    assert system.did == [("kill", 50, SIGKILL), ("kill", 50, 0)]
    monkeypatch.setattr(fork_server, "_children", lambda: [11, 12])
    assert found._signal_left(11, None) is False


def test_in_the_end_every_group_and_what_comes_to_light_after_it_is_killed(
    system: System, clock: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    system.groups = {11, 13}
    system.ended, system.alive_children = [(11, 9), (13, 9)], 1
    monkeypatch.setattr(fork_server, "_children", lambda: [50])
    server(p11=_Trial(0, 70, 1), p12=_Trial(1, 72, 1), p13=_Trial(2, 74, 1))._end_all()
    assert system.did == [("killpg", 11, SIGKILL), ("killpg", 13, SIGKILL), ("kill", 50, SIGKILL)]
    assert system.ended == []
    assert clock["slept"] == [0.005]
    system.alive_children = 100
    server()._end_all()
    assert clock["slept"] == [0.005] * 5, "two seconds, of which each look takes half a one here"


@pytest.mark.parametrize("error", [BrokenPipeError, ConnectionResetError])
def test_a_runner_that_is_gone_is_told_nothing(error: Any) -> None:
    server(Connection(gone=error))._send({"slot": 1})


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError])
def test_a_group_that_is_gone_or_another_user_s_is_left_alone(
    error: Any, system: System, clock: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that ended, and became one of another program's, has nothing left to signal."""
    system.forbidden = error
    monkeypatch.setattr(fork_server, "sources", lambda function: None)
    connection = Connection()
    server(connection)._handle({"job": asdict(job()), "slot": 3, "cores": []})
    assert connection.sent == [{"slot": 3, "pid": 4321}]
    found = server(p11=_Trial(0, 70, 1))
    assert found._signal_left(11, SIGTERM) is False
    found._end_all()


def serving(
    monkeypatch: pytest.MonkeyPatch,
    connection: Connection,
    *rounds: list[int],
    before: Callable[[], None] = lambda: None,
) -> tuple[list[Any], list[float | None]]:
    """What a server did in so many rounds, and how long it would have waited in each."""
    found = server(connection, p11=_Trial(0, 70, 1))
    did: list[Any] = []
    waits: list[float | None] = []
    left = list(rounds)

    def select(read: list[int], write: list[int], other: list[int], wait: float | None) -> tuple[list[int], Any, Any]:
        assert (read, write, other) == ([5, 6], [], [])
        waits.append(wait)
        if len(waits) == 2:
            found._trials[11].codes = [0]
            before()
        return left.pop(0), [], []

    monkeypatch.setattr(fork_server.select, "select", select)
    for name in ("_reap", "_see_off", "_end_all"):
        monkeypatch.setattr(found, name, lambda name=name: did.append(name))
    monkeypatch.setattr(found, "_handle", did.append)
    found.serve()
    return did, waits


def test_messages_are_lines_however_they_come_and_the_end_of_them_ends_all(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.pipes[6] = b"x"
    connection = Connection(b'{"a": 1}\n{"b"', b': 2}\n{"c": 3}\n', b"")
    did, waits = serving(monkeypatch, connection, [5], [6], [5, 6], [5])
    looks = ["_reap", "_see_off"]
    assert did == [*looks, {"a": 1}, *looks, *looks, {"b": 2}, {"c": 3}, *looks, "_end_all"]
    assert waits == [None, None, 0.05, 0.05]
    assert system.did == [("read", 6, 4096)] * 2


def test_a_runner_that_died_ends_all(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies() -> None:
        system.parent = 1

    did, _ = serving(monkeypatch, Connection(b'{"a": 1}\n'), [5], [5], before=dies)
    assert did == ["_reap", "_see_off", {"a": 1}, "_end_all"]


def test_the_server_watches_its_children_and_its_parent(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: dict[int, Any] = {}
    asked: list[Any] = []
    monkeypatch.setattr(fork_server.signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(fork_server.signal, "set_wakeup_fd", lambda number: asked.append(("wakeup", number)))
    monkeypatch.setattr(fork_server.signal, "alarm", lambda seconds: asked.append(("alarm", seconds)))
    monkeypatch.setattr(fork_server, "die_with", lambda *given: asked.append(("die_with", *given)))
    monkeypatch.setattr(fork_server, "adopt_orphans", lambda: asked.append("adopt"))
    monkeypatch.setattr(fork_server.socket, "socket", lambda fileno: f"socket {fileno}")
    monkeypatch.setattr(
        fork_server, "_Server", lambda *given: SimpleNamespace(serve=lambda: asked.append(("serve", *given)))
    )
    fork_server.main(["5", "99"])
    assert asked == [("wakeup", 71), ("die_with", 99, SIGTERM), "adopt", ("serve", "socket 5", 70, 99)]
    assert system.did == [("blocking", 70, False), ("blocking", 71, False)]
    assert handlers.keys() == {signal.SIGCHLD, SIGTERM}
    handlers[signal.SIGCHLD](signal.SIGCHLD, None)
    handlers[SIGTERM](SIGTERM, None)
    system.parent = 1
    handlers[SIGTERM](SIGTERM, None)
    assert asked[4:] == [("alarm", 0), ("alarm", 30)], "an alarm ends a server whose runner is gone and that hangs"


def test_children_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert child.pid in fork_server._children()
        monkeypatch.setattr(fork_server, "Path", lambda name: Path("/no/such/file"))
        assert child.pid in fork_server._children()
        assert os.getpid() not in fork_server._children()
    finally:
        child.kill()
        child.wait()


class Left(BaseException):
    """What `os._exit` does to a test."""


@pytest.mark.parametrize(
    ("codes", "cores", "left"), [([76], [1, 2], 76), ([0], [], 0), ([0, 76], [], 0), (ValueError("no"), [], 1)]
)
def test_a_forked_trial_starts_clean_and_leaves_with_its_code(
    codes: Any, cores: list[int], left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    did: list[Any] = []

    def note(name: str, result: Any = None) -> Callable[..., Any]:
        return lambda *given, **options: did.append((name, *given, *options.items())) or result

    def leave(code: int) -> None:
        did.append(("_exit", code))
        raise Left

    def execute(given: Job, own_output: bool = False) -> list[int]:
        assert (given.trial_id, own_output) == ("a", True)
        if isinstance(codes, Exception):
            raise codes
        return list(codes)

    names = ("setpgid", "dup2", "sched_setaffinity", "write")
    space = SimpleNamespace(**{name: note(name) for name in names}, open=os.open, _exit=leave, O_WRONLY=os.O_WRONLY,
                            O_CREAT=os.O_CREAT, O_APPEND=os.O_APPEND)  # fmt: skip
    monkeypatch.setattr(fork_server, "os", space)
    for name in ("die_with", "adopt_orphans", "stop_on_signal"):
        monkeypatch.setattr(fork_server, name, note(name))
    monkeypatch.setattr(fork_server.signal, "set_wakeup_fd", note("wakeup"))
    monkeypatch.setattr(fork_server.signal, "signal", note("signal"))
    monkeypatch.setattr(fork_server.faulthandler, "enable", note("faulthandler"))
    monkeypatch.setattr(fork_server, "execute_all", execute)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "output.log").write_text("before")
    with pytest.raises(Left):
        fork_server.run_trial(99, cores, job("a", tmp_path), 71)
    output = next(given[1] for given in did if given[0] == "dup2")
    os.write(output, b", after")
    os.close(output)
    assert (tmp_path / "runs" / "a" / "output.log").read_text() == "before, after"
    affinity = [("sched_setaffinity", 0, cores)] if cores else []
    failed = isinstance(codes, Exception)
    assert did == [
        ("setpgid", 0, 0), ("die_with", 99), ("adopt_orphans",), ("wakeup", -1),
        ("signal", signal.SIGCHLD, signal.SIG_DFL), ("signal", signal.SIGINT, signal.SIG_DFL),
        ("stop_on_signal", signal.SIGUSR1, SIGTERM), ("dup2", output, 1), ("dup2", output, 2), ("faulthandler",),
        *affinity, *([] if failed else [("write", 71, json.dumps(codes).encode())]), ("_exit", left),
    ]  # fmt: skip
    assert ("ValueError: no" in capsys.readouterr().err) is failed
