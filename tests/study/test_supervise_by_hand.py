"""One job in processes of its own, watched, against tables of events: the processes and the clock are the test's."""

from __future__ import annotations

import errno
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

from metascale.core.errors import InputError
from metascale.core.run import Checkpoint
from metascale.study.errors import LeaseLost
from metascale.study.run import supervise as supervising
from metascale.study.run.job import ExitCode, Job
from metascale.study.run.supervise import Pulse, Supervisor, overdue
from metascale.study.store.claims import Claim, put_claim, read_claim
from metascale.study.store.run import StoredRun

SIGUSR1, SIGTERM, SIGKILL = signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder that attempt 1 of ``owner`` has claimed."""
    found = tmp_path / "runs" / "a"
    found.mkdir(parents=True)
    put_claim(found, Claim("a", "owner", 1))
    return found


def job(folder: Path, **changes: Any) -> Job:
    config = {"trial": "tests.study.trials:train", "seed": 0}
    return replace(Job("a", "label a", str(folder), config, "cpu", "owner", 1), **changes)


class Process:
    """A process that ends with ``code`` at its ``looks``-th wait."""

    def __init__(self, code: int, looks: int = 1) -> None:
        self.pid, self.code, self.looks = 4321, code, looks
        self.waits: list[float | None] = []

    def wait(self, timeout: float | None = None) -> int:
        self.waits.append(timeout)
        self.looks -= 1
        if timeout is not None and self.looks > 0:
            raise subprocess.TimeoutExpired("trial", timeout)
        return self.code

    def poll(self) -> int | None:
        return None if self.looks > 0 else self.code


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Signals to process groups; there is none but that of 4321, and 2 is another user's."""
    sent: list[tuple[int, int]] = []

    def killpg(group: int, number: int) -> None:
        sent.append((group, number))
        if group != 4321:
            raise PermissionError if group == 2 and number == SIGKILL else ProcessLookupError

    monkeypatch.setattr(supervising.os, "killpg", killpg)
    return sent


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"s": 1000.0}
    monkeypatch.setattr(supervising, "time", SimpleNamespace(monotonic=lambda: now["s"]))
    return now


def watched(given: Job, process: Process | None) -> Supervisor:
    found = Supervisor(given)
    found._process = process  # type: ignore[assignment]
    return found


# ------------------------------------------------------------------------------- when a trial is overdue


@pytest.mark.parametrize(
    ("changes", "silent_s", "code"),
    [
        ({}, 1e9, None),
        ({"trial_timeout_s": 10.0}, 0, None),  # 10 s have passed
        ({"trial_timeout_s": 9.9}, 0, ExitCode.TIMED_OUT),
        ({"trial_timeout_s": 5.0, "stack": ("a", "b")}, 0, None),  # two may take twice as long
        ({"trial_timeout_s": 4.9, "stack": ("a", "b")}, 0, ExitCode.TIMED_OUT),
        ({"hang_s": 30.0}, 30.0, None),
        ({"hang_s": 30.0}, 30.1, ExitCode.HUNG),
        ({"hang_s": 30.0, "trial_timeout_s": 9.0}, 31.0, ExitCode.TIMED_OUT),
    ],
)
def test_when_a_trial_is_to_be_killed(
    changes: dict[str, Any], silent_s: float, code: ExitCode | None, folder: Path, clock: dict[str, float]
) -> None:
    pulse: Any = SimpleNamespace(silent_s=lambda: silent_s)
    assert overdue(job(folder, **changes), 990.0, pulse) == code


def test_a_pulse_is_any_change_in_one_of_the_folders(tmp_path: Path, clock: dict[str, float]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    (two / "checkpoints").mkdir(parents=True)
    pulse = Pulse(one, two)
    clock["s"] = 1004.0
    assert pulse.silent_s() == 4.0
    changes: list[tuple[Callable[[], object], float]] = [
        (lambda: one.mkdir(), 7.0),  # an empty folder is no sign of life: what counts is what is in it
        (lambda: (one / "a").write_text("1"), 0.0),
        (lambda: (one / "a").write_text("12"), 0.0),
        (lambda: os.utime(one / "a", (5.0, 5.0)), 0.0),
        (lambda: (two / "checkpoints" / "b").write_text("1"), 0.0),
        (lambda: (one / "a").unlink(), 0.0),
    ]
    for change, silent in changes:
        change()
        clock["s"] += 3.0
        assert pulse.silent_s() == silent
        clock["s"] += 2.0
        assert pulse.silent_s() == silent + 2.0
    (one / "below").mkdir()
    clock["s"] += 1.0
    assert pulse.silent_s() == 0.0
    (one / "below" / "c").write_text("1")
    os.utime(one / "below", (5.0, 5.0))
    assert pulse.silent_s() == 0.0
    clock["s"] += 1.0
    (one / "below" / "c").write_text("2")
    assert pulse.silent_s() == 1.0, "folders of a trial's own are not looked into"


# ------------------------------------------------------------------------------- starting


@pytest.mark.parametrize(("processes", "device", "fits"), [
    (1, "cuda:0,cuda:1", True), (2, "cpu", True), (2, "cuda:0,cuda:1", True), (2, "a,b,c", False), (3, "a,b", False),
])  # fmt: skip
def test_several_processes_have_one_device_or_as_many(processes: int, device: str, fits: bool, folder: Path) -> None:
    given = job(folder, processes=processes, device=device)
    if fits:
        with Supervisor(given) as found:
            assert found._errors.is_dir()
            assert found._errors.name.startswith("metascale-ranks-")
        assert not found._errors.exists()
        with Supervisor(given) as found:
            found._errors.rmdir()  # as whoever tidies the folder of temporary files does
        return
    with pytest.raises(
        InputError, match=f"^a trial on {processes} processes needs one device or {processes}, not '{device}'$"
    ):
        Supervisor(given)


def started(given: Job, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], dict[str, Any]]:
    """The command of a job's process, and how it is started."""
    asked: list[Any] = []

    def popen(command: list[str], **options: Any) -> Process:
        options["stdout"].write(b"more")
        asked.append((command, options))
        return Process(0)

    monkeypatch.setattr(supervising.subprocess, "Popen", popen)
    with Supervisor(given) as supervisor:
        assert supervisor._process is None
        supervisor._start()
        assert isinstance(supervisor._process, Process)
        errors = supervisor._errors
        supervisor._process = None
    ((command, options),) = asked
    assert options["env"].pop("METASCALE_RANK_ERRORS") == str(errors)
    return command, options


def test_a_trial_is_a_command_in_a_session_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(sys, "path", ["/here", "relative"])
    (folder / "output.log").write_text("before ")
    given = job(folder, import_paths=["/theirs", "/here"])
    command, options = started(given, monkeypatch)
    assert command[:5] == [sys.executable, "-m", "metascale.study.run.supervise", "trial", str(os.getpid())]
    assert Job(**json.loads(command[5])) == replace(given, import_paths=["/theirs", "/here"], stack=[], beside=[])
    environment = options.pop("env")
    assert environment["PYTHONPATH"].split(os.pathsep) == ["/theirs", "/here", os.path.abspath("relative")]
    assert (environment["OMP_NUM_THREADS"], "METASCALE_RESUME_STEP" in environment) == ("7", False)
    output = options.pop("stdout")
    assert options == {"stdin": subprocess.DEVNULL, "stderr": output, "start_new_session": True}
    assert (folder / "output.log").read_text() == "before more"
    assert read_claim(folder) == Claim("a", "owner", 1), "the trial's own process takes the run over"
    _, options = started(replace(given, threads=3), monkeypatch)
    threads = {name: options["env"][name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    assert set(threads.values()) == {"3"}


def test_ranks_start_from_the_checkpoint_that_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, options = started(job(folder, processes=2), monkeypatch)
    claim = read_claim(folder)
    assert claim is not None
    assert claim.worker
    assert command[3:7] == ["launch", str(os.getpid()), "2", claim.worker]
    assert options["env"]["METASCALE_RESUME_STEP"] == ""
    assert options["env"]["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    run = StoredRun(folder, claim)
    run.append("train", {"step": 4, "loss": 1.0})
    run.save(Checkpoint(4, {"state": b"x"}))
    command, options = started(job(folder, processes=2), monkeypatch)
    assert options["env"]["METASCALE_RESUME_STEP"] == "4"
    assert command[6] != claim.worker


# ------------------------------------------------------------------------------- watching and ending


def test_a_process_is_watched_until_it_ends(folder: Path, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bounded: list[Path] = []
    monkeypatch.setattr(supervising, "bound_output", bounded.append)
    process = Process(5, looks=3)
    with watched(job(folder), process) as supervisor:
        assert supervisor._watch(20.0, 1000.0) == 1005, "it did not say so itself"
        assert process.waits == [0.2] * 3
        assert bounded == [folder / "output.log"] * 2
        (supervisor._errors / "code").write_text("5")
        supervisor._process = Process(5)  # type: ignore[assignment]
        assert supervisor._watch(20.0, 1000.0) == 5


def test_an_overdue_process_is_killed(folder: Path, clock: Any, signals: Any) -> None:
    with watched(job(folder, trial_timeout_s=3.0), process := Process(-9, looks=9)) as supervisor:
        assert supervisor._watch(20.0, 996.0) == ExitCode.TIMED_OUT
        assert (process.waits, signals) == ([0.2, None], [(4321, SIGKILL)])


def test_a_process_that_is_asked_to_stop_has_its_grace(
    folder: Path, clock: dict[str, float], signals: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "is_signalled", lambda: True)
    process = Process(-9, looks=9)

    def wait(timeout: float | None = None) -> int:
        clock["s"] += 10.0
        return Process.wait(process, timeout)

    process.wait = wait  # type: ignore[method-assign]
    with watched(job(folder), process) as supervisor:
        assert supervisor._watch(20.0, 0.0) == ExitCode.STOPPED
        # Asked once, at 1010; after 20 s more it still has its grace, after 30 it has not.
        assert (supervisor._asked_at, clock["s"]) == (1010.0, 1040.0 + 10.0)
        assert signals == [(4321, SIGUSR1), (4321, SIGKILL)]


def test_a_stop_waits_for_the_process_and_kills_what_is_left(folder: Path, clock: Any, signals: Any) -> None:
    with watched(job(folder), None) as supervisor:
        supervisor.stop(5.0)
        assert (signals, supervisor._asked_at) == ([], 1000.0)
        clock["s"] = 1001.0
        for looks, asked in ((2, [(4321, SIGUSR1)]), (0, [])):
            process = Process(0, looks)
            supervisor._process = process  # type: ignore[assignment]
            supervisor.stop(5.0)
            assert signals == [*asked, (4321, SIGKILL)]
            assert (process.waits, supervisor._asked_at) == ([5.0, None], 1000.0)
            signals.clear()
        for pid in (1, 2):
            gone = Process(0, 2)
            gone.pid = pid
            supervisor._process = gone  # type: ignore[assignment]
            supervisor.stop()
            assert (signals, gone.waits) == ([(pid, SIGUSR1), (pid, SIGKILL)], [20.0, None])
            signals.clear()


@pytest.mark.parametrize(
    ("code", "asked_here", "asked_for", "preempted"),
    [
        (77, False, None, True),
        (-15, False, None, True),
        (77, True, None, False),
        (77, False, "checkpoint", False),
        (-9, False, None, False),
        (0, False, None, False),
    ],
)
def test_a_stop_that_nobody_here_asked_for_is_the_machines(
    code: int, asked_here: bool, asked_for: Any, preempted: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Job, "watch", lambda self: SimpleNamespace(asked=lambda: asked_for))
    with watched(job(folder), None) as supervisor:
        supervisor._asked_at = 1.0 if asked_here else None
        assert supervisor._preempted(code) is preempted


def raising(error: BaseException) -> Callable[..., Any]:
    def fails(*given: Any) -> Any:
        raise error

    return fails


def test_how_an_execution_ends(folder: Path, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bounded: list[Path] = []
    monkeypatch.setattr(supervising, "bound_output", bounded.append)
    monkeypatch.setattr(Supervisor, "_start", lambda self: None)
    monkeypatch.setattr(Supervisor, "_watch", lambda self, grace_s, start: int(grace_s + start))
    monkeypatch.setattr(Supervisor, "_end_of_ranks", lambda self, code, wall_s: code + 1)
    assert supervising.supervise(job(folder), 3.0) == 1003
    assert supervising.supervise(job(folder)) == 1020
    assert supervising.supervise(job(folder, processes=2), 3.0) == 1004
    monkeypatch.setattr(Supervisor, "_watch", lambda self, grace_s, start: ExitCode.STOPPED)
    assert supervising.supervise(job(folder)) == ExitCode.WORKER_LOST
    assert bounded == [folder / "output.log"] * 4
    monkeypatch.setattr(Supervisor, "_start", raising(LeaseLost("no")))
    assert supervising.supervise(job(folder)) == ExitCode.LEASE_LOST
    monkeypatch.setattr(Supervisor, "_start", raising(OSError(errno.ENOSPC, "full")))
    assert supervising.supervise(job(folder)) == ExitCode.DISK_FULL
    monkeypatch.setattr(Supervisor, "_start", raising(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        supervising.supervise(job(folder))
    assert len(bounded) == 7


def test_one_process_runs_here_and_several_are_supervised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervising, "supervise", lambda given: 5)
    monkeypatch.setattr(supervising, "execute_here", lambda given, claim, watch: (claim, watch.folder, watch.claim))
    assert supervising.execute(job(folder, processes=2)) == 5
    claim = Claim("a", "owner", 1)
    assert supervising.execute(job(folder)) == (claim, folder.parents[1], claim)


# ------------------------------------------------------------------------------- ranks


def trace(errors: Path, rank: int, text: str, at: float) -> None:
    path = errors / f"rank-{rank}.txt"
    path.write_text(text)
    os.utime(path, (at, at))


def test_of_several_processes_the_first_that_broke_is_the_cause(folder: Path) -> None:
    with watched(job(folder, processes=2), None) as supervisor:
        errors = supervisor._errors
        for code in (0, ExitCode.HUNG, ExitCode.TIMED_OUT, ExitCode.STOPPED):
            assert supervisor._end_of_ranks(code, 2.0) == code
        assert not (folder / "error.txt").exists()
        (errors / "code").write_text("0")
        assert supervisor._end_of_ranks(1, 2.0) == 0, "rank 0 said how it ended"
        os.utime(errors / "code", (50.0, 50.0))
        (folder / "error.txt").write_text("rank 0 lost the others")
        trace(errors, 2, "later", 60.0)
        trace(errors, 1, "too late", 51.0)
        assert supervisor._end_of_ranks(1, 2.0) == 0
        assert (folder / "error.txt").read_text() == "rank 0 lost the others"
        trace(errors, 1, "the cause", 49.0)
        assert supervisor._end_of_ranks(1, 2.0) == 0
        assert (folder / "error.txt").read_text() == "rank 0 lost the others\nthe cause"
        (folder / "error.txt").unlink()
        assert supervisor._end_of_ranks(1, 2.0) == 0
        assert not (folder / "error.txt").exists()


@pytest.mark.parametrize(("traces", "said"), [
    ([(2, "second", 60.0), (1, "first", 50.0)], "first\n"),
    ([], "the trial's process was ended by SIGSEGV (signal 11)\n"),
])  # fmt: skip
def test_ranks_that_recorded_nothing_have_failed(traces: list[Any], said: str, folder: Path) -> None:
    with watched(job(folder, processes=2), None) as supervisor:
        for one in traces:
            trace(supervisor._errors, *one)
        assert supervisor._end_of_ranks(-11, 2.5) == ExitCode.RECORDED
    assert (folder / "error.txt").read_text() == said
    (event,) = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
    assert (event["event"], event["attempt"], event["wall_s"]) == ("failed", 1, 2.5)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What the process of a trial does to itself, noted and not done; its place for errors."""
    did: list[Any] = []
    for name in ("die_with", "adopt_orphans", "stop_on_signal"):
        monkeypatch.setattr(supervising, name, lambda *given, name=name: did.append((name, *given)))
    monkeypatch.setattr(supervising.faulthandler, "enable", lambda: did.append(("faulthandler",)))
    monkeypatch.setattr(supervising.signal, "signal", lambda *given: did.append(("signal", *given)))
    monkeypatch.setenv("METASCALE_RANK_ERRORS", str(tmp_path))
    return did


def test_the_process_of_a_trial_tells_its_code(
    folder: Path, quiet: list[Any], monkeypatch: Any, tmp_path: Path
) -> None:
    given = job(folder)
    ran: list[Any] = []
    monkeypatch.setattr(supervising, "execute_again", lambda one, watch: ran.append((one, watch.claim)) or 76)
    assert supervising._trial("99", json.dumps(asdict(given))) == 76
    assert (tmp_path / "code").read_text() == "76"
    assert [(one.trial_id, one.folder, claim) for one, claim in ran] == [("a", str(folder), given.claim)]
    assert quiet == [("die_with", 99), ("faulthandler",), ("stop_on_signal", SIGUSR1, SIGTERM), ("adopt_orphans",)]


def test_torchrun_starts_the_ranks_and_never_again(quiet: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(supervising, "require_installed", lambda *given: ran.append(given))
    monkeypatch.setattr(supervising.runpy, "run_module", lambda name, run_name: ran.append((name, run_name, sys.argv)))
    assert supervising._launch("99", "2", "w1", "{}") == 0
    arguments = "--standalone --nproc-per-node 2 --max-restarts 0 --module metascale.study.run.supervise rank w1 {}"
    assert ran == [
        ("torch", "torch", "a trial on several processes"),
        ("torch.distributed.run", "__main__", ["torchrun", *arguments.split()]),
    ]
    assert quiet == [("die_with", 99), ("signal", SIGUSR1, signal.SIG_IGN)]


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, size: int = 2, step: str = "") -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", size), ("LOCAL_RANK", rank), ("METASCALE_RESUME_STEP", step)):
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(("code", "result", "status"), [(0, True, 0), (0, False, 1), (77, False, 77), (75, True, 75)])
def test_the_first_rank_writes_the_run_and_fails_without_a_result(
    code: int, result: bool, status: int, folder: Path, quiet: list[Any], monkeypatch: Any, tmp_path: Path
) -> None:
    as_rank(monkeypatch, 0)
    ran: list[Any] = []
    monkeypatch.setattr(supervising, "execute_here", lambda *given: ran.append(given) or code)
    if result:
        (folder / "result.json").write_text("{}")
    assert supervising._rank("w1", json.dumps(asdict(job(folder, device="cuda:0,cuda:1")))) == status
    assert (tmp_path / "code").read_text() == str(code)
    ((given, claim, watch),) = ran
    assert (given.device, claim, watch.claim) == ("cuda:0", Claim("a", "owner", 1, "w1"), Claim("a", "owner", 1))
    assert quiet == [("die_with", os.getppid()), ("faulthandler",), ("stop_on_signal", SIGUSR1)]


@pytest.mark.parametrize(
    ("size", "device", "step", "own", "resumed"),
    [(2, "cuda:0,cuda:1", "4", "cuda:1", 4), (2, "cpu", "", "cpu", None), (3, "a,b,c", "", "b", None)],
)
def test_the_other_ranks_read_what_the_first_resumes_from(
    size: int, device: str, step: str, own: str, resumed: Any, folder: Path, quiet: list[Any], monkeypatch: Any
) -> None:
    as_rank(monkeypatch, 1, size, step)
    writer = StoredRun(folder, Claim("a", "owner", 1))
    for number in (2, 4, 6):
        writer.append("train", {"step": number, "loss": 1.0})
        writer.save(Checkpoint(number, {"state": b"x"}))
    seen: list[Any] = []

    def call(config: Any, run: Any, device: str) -> None:
        latest = run.latest()
        steps = [row["step"] for row in run.rows("train")]
        seen.append((config["seed"], device, None if latest is None else latest.step, steps))

    monkeypatch.setattr(supervising, "call_trial", call)
    assert supervising._rank("w1", json.dumps(asdict(job(folder, device=device)))) == 0
    assert seen == [(0, own, resumed, [2, 4] if resumed else [])]
    assert quiet[2:] == [("signal", SIGUSR1, signal.SIG_IGN)]


@pytest.mark.parametrize("error", [RuntimeError("the wheel"), SystemExit(3)])
def test_a_rank_that_breaks_leaves_its_trace(
    error: Any, folder: Path, quiet: Any, monkeypatch: Any, tmp_path: Path
) -> None:
    as_rank(monkeypatch, 1)
    monkeypatch.setattr(supervising, "call_trial", raising(error))
    assert supervising._rank("w1", json.dumps(asdict(job(folder)))) == 1
    text = (tmp_path / "rank-1.txt").read_text()
    assert text.startswith("rank 1 of 2:\nTraceback ")
    assert text.strip().endswith(f"{type(error).__name__}: {error}")


def test_a_checkpoint_that_the_first_rank_went_past_is_an_error(folder: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"^rank 0 went past the checkpoint of step 4 before this rank read it$"
    ):
        supervising._follower(folder, 4).latest()
