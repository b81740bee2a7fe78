"""A job that writes a run, and the border of a trial, against tables of what the trial did."""

from __future__ import annotations

import errno
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from metascale.core.errors import Diverged, InputError
from metascale.study.errors import Killed, LeaseLost, Stopped
from metascale.study.run import border
from metascale.study.run import job as jobs
from metascale.study.run.job import ExitCode, Job, execute_again, execute_here, own_status, record_death
from metascale.study.run.stopping import StopWatch
from metascale.study.store.claims import Claim, put_claim, read_claim

CLAIM = Claim("a", "owner", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder that attempt 1 of ``owner`` has claimed."""
    found = tmp_path / "runs" / "a"
    found.mkdir(parents=True)
    put_claim(found, CLAIM)
    return found


def events(folder: Path) -> list[dict[str, Any]]:
    path = folder / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# ------------------------------------------------------------------------------- jobs


def job(folder: Path, **changes: Any) -> Job:
    config = {"trial": "tests.study.trials:train", "seed": 5, "n_tasks": 2}
    return replace(Job("a", "label a", str(folder), config, "cuda:1", "owner", 1), **changes)


@pytest.mark.parametrize(
    ("raises", "code", "event", "kept"),
    [
        (None, ExitCode.RECORDED, "finished", None), (Diverged("inf", step=1), ExitCode.RECORDED, "diverged", None),
        (Stopped("saved"), ExitCode.STOPPED, "stopped", None), (Killed("by 9"), ExitCode.KILLED, "stopped", None),
        (ValueError("no"), ExitCode.RECORDED, "failed", "ValueError: no"),
        (SystemExit(3), ExitCode.RECORDED, "failed", "the trial called sys.exit(3): a trial ends by returning"),
        (GeneratorExit(), ExitCode.RECORDED, "failed", "GeneratorExit"),
        (LeaseLost("other"), ExitCode.LEASE_LOST, None, None),
        (OSError(errno.ENOSPC, "full"), ExitCode.DISK_FULL, None, None),
        (OSError(errno.EDQUOT, "quota"), ExitCode.DISK_FULL, None, None),
        (OSError(errno.EIO, "broken"), ExitCode.RECORDED, "failed", "broken"),
        (KeyboardInterrupt(), None, None, None),
    ],
)  # fmt: skip
def test_how_a_trial_ends_here(
    raises: Any, code: int | None, event: str | None, kept: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def call(config: Any, run: Any, device: str) -> Any:
        seen.append((config["seed"], device))
        if raises is not None:
            raise raises
        return {"loss": 0.5}

    clock = iter([10.0, 12.5])
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(jobs, "call_trial", call)
    monkeypatch.setattr(jobs, "provenance_of", lambda function: {"of": function, "device": "overwritten"})
    monkeypatch.setattr(jobs, "check_content", lambda config: seen.append("content"))
    torch = ModuleType("torch")
    torch.__version__, torch.get_num_threads = "9.9", lambda: 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    given = job(folder, keep_checkpoints=True, facts={"command": "c"}, stack=("a", "b"), processes=2)
    watch = StopWatch(folder, "")
    if code is None:
        with pytest.raises(KeyboardInterrupt):
            execute_here(given, CLAIM, watch)
    else:
        assert execute_here(given, CLAIM, watch) == code
    assert seen == ["content", (5, "cuda:1")]
    assert json.loads((folder / "provenance.json").read_text()) == {
        "of": "tests.study.trials:train", "stack": ["a", "b"], "trial_id": "a", "seed": 5, "device": "cuda:1",
        "processes": 2, "attempt": 1, "command": "c",
    }  # fmt: skip
    begun, *rest = events(folder)
    assert (begun["event"], begun["device"], begun["keep_checkpoints"], begun["pid"]) == (
        "started",
        "cuda:1",
        True,
        os.getpid(),
    )
    assert begun["threads"]["OMP_NUM_THREADS"] == "2"
    assert {"host", "metascale", "python"} <= begun.keys()
    assert begun["python"].count(".") == 2
    ends = [{"event": event, "attempt": 1, "wall_s": 2.5, "torch": "9.9", "torch_threads": 3}] if event else []
    assert [{key: value for key, value in one.items() if key != "at"} for one in rest] == ends
    assert (folder / "error.txt").exists() is (kept is not None)
    if kept is not None:
        assert kept in (folder / "error.txt").read_text().splitlines()[-1]


def test_an_execution_that_starts_again_takes_the_run_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(jobs, "execute_here", lambda given, claim, stop: ran.append(claim) or 0)
    assert execute_again(job(folder), StopWatch(folder, "")) == 0
    assert ran == [read_claim(folder)]
    assert ran[0].worker
    put_claim(folder, replace(CLAIM, attempt=2))
    assert execute_again(job(folder), StopWatch(folder, "")) == ExitCode.LEASE_LOST
    assert len(ran) == 1


def test_a_death_is_recorded_of_the_attempt_that_died_alone(folder: Path) -> None:
    put_claim(folder, replace(CLAIM, worker="w"))
    record_death(job(folder, attempt=2), "not mine")
    assert events(folder) == []
    record_death(job(folder), "it died", 3.5)
    assert (folder / "error.txt").read_text() == "it died\n"
    assert (events(folder)[0]["event"], events(folder)[0]["wall_s"]) == ("failed", 3.5)
    record_death(job(folder), "again")
    assert len(events(folder)) == 1


def test_an_exit_status_means_something_only_where_the_trial_said_so() -> None:
    assert [own_status(*given) for given in ((77, False), (77, True), (0, False), (-9, False))] == [1077, 77, 0, -9]


# ------------------------------------------------------------------------------- the border of a trial


class Scalar:
    ndim = 0

    def __init__(self, value: Any) -> None:
        self.value = value

    def item(self) -> Any:
        return self.value


class Name(str):
    __slots__ = ()


def deep(n: int) -> Any:
    found: Any = 1.0
    for _ in range(n):
        found = {"a": found}
    return found


def test_rows_become_json_types() -> None:
    row = border.checked_row(
        {Name("a"): Scalar(3), "b": (1, Name("x")), "c": {"d": None, "e": True}, "f": {}, "g": Scalar(True)}
    )
    assert row == {"a": 3, "b": [1, "x"], "c": {"d": None, "e": True}, "f": {}, "g": True}
    assert [type(one) for one in (next(iter(row)), row["b"][1], row["a"], row["g"])] == [str, str, int, bool]
    assert border.checked_row(deep(50)) == deep(50)
    with pytest.raises(
        InputError, match=r"^the trial returned '(a\.){40}\.\.\.', which holds itself or is nested more than 50"
    ):
        border.checked_row(deep(51))


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ([0.5], "a list ([0.5]); a trial returns a mapping of names to finite numbers, texts, booleans or None (or to "
         "lists and mappings of these), such as {'loss': 0.5}"),
        (None, "None; a trial returns"), (object, "a type; a trial"), ("x" * 78, "a str ('xx"),
        ("x" * 79, "a str; a trial"),
        ({3: 1}, "a result named an int (3); names are texts"),
        ({"a": {"": 1}}, "a result named a str ('') in 'a'; names"),
        ({"\ud800": 1}, "a name that cannot be written as UTF-8 ('\\ud800'): a name is Unicode"),
        ({"a": ["\ud800"]}, "'a[0]' that cannot be written as UTF-8 ('\\ud800'): a text is Unicode"),
        ({"a": float("inf")}, "'a' = inf: a result is finite (a trial whose loss is not raises metascale.core.errors."),
        ({"a": 2**1024}, "'a' a whole number of 1025 bits: a result is finite"),
        ({"a": SimpleNamespace(shape=(2, 3))}, "'a', which is a SimpleNamespace of shape (2, 3); a trial returns"),
        ({"a": SimpleNamespace(shape=())}, "'a', which is a SimpleNamespace; a trial returns"),
        ({"a": SimpleNamespace(item=len, ndim=1)}, "'a', which is a SimpleNamespace; a trial"),
        ({"a": {"b": 1}, "a.b": 2}, "two results that are called 'a.b': each needs a name of its own"),
        ({"a": 1j}, "'a', which is a complex (1j); a trial"), ({"a": b"1"}, "'a', which is a bytes (b'1'); a"),
    ],
)  # fmt: skip
def test_what_is_no_row_is_described(returned: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        border.checked_row(returned)
    assert str(caught.value).startswith(f"the trial returned {said}")


def test_a_process_that_the_trial_forked_ends_there(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    ids = iter([7, 8, 7, 8])
    left: list[int] = []
    monkeypatch.setattr(border, "os", SimpleNamespace(getpid=lambda: next(ids), _exit=left.append))
    given = {"trial": "x:y", "a": 1}
    monkeypatch.setattr(
        border, "load_function", lambda path: lambda config, run, device: (path, config, config is given, device)
    )
    assert border.call_trial(given, None, "cpu") == ("x:y", given, False, "cpu")  # type: ignore[arg-type]
    said = "metascale: a process that the trial forked came back from the trial function; it ends here\n"
    assert (left, capsys.readouterr().err) == ([70], said)

    def fails(*given: Any) -> None:
        raise ValueError("no")

    monkeypatch.setattr(border, "load_function", lambda path: fails)
    with pytest.raises(ValueError, match="no"):
        border.call_trial(given, None, "cpu")  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert (left, told.startswith("Traceback"), told.endswith(f"ValueError: no\n{said}")) == ([70, 70], True, True)
    ids = iter([7, 7])
    monkeypatch.setattr(border, "load_function", lambda path: lambda config, run, device: {})
    assert border.call_trial(given, None, "cpu") == {}  # type: ignore[arg-type]
    assert len(left) == 2
