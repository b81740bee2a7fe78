"""Runs of tests in children forked from one process that has loaded the large packages, for scripts/mutants.py.

Loading torch, SciPy and pytest takes longer than most tests. A server process loads them once, none of metascale, and
forks a child for each request: ``measure`` a test file on the unmutated code, or run ``tests``. Requests and answers
are lines of JSON on the server's stdin and stdout.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

DEFAULT_TESTS = "not long and not gpu and not soak"
LOADED_ONCE = """
    pytest hypothesis coverage yaml pydantic psutil typer.testing rich.console
    numpy scipy.optimize scipy.stats scipy.special scipy.linalg pandas pyarrow sklearn.datasets PIL.Image
    matplotlib.figure matplotlib.ticker matplotlib.backends.backend_agg
    torch torch.func torch._dynamo torch.distributed torch.utils.data torch.utils._python_dispatch safetensors.torch
    transformers.modeling_utils transformers.models.auto.modeling_auto peft
"""


@dataclass(frozen=True)
class MeasuredTest:
    """One test on the unmutated code: CPU seconds of its own and of its processes, lines reached by file (without those
    of other processes), and whether it started processes."""

    name: str
    seconds: float
    lines: Mapping[str, Sequence[int]]
    processes: bool = False


@dataclass(frozen=True)
class Measured:
    """One test file on the unmutated code: its tests, and the lines that loading it reaches."""

    name: str
    tests: Sequence[MeasuredTest]
    loading: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Measured:
        return cls(found["name"], [MeasuredTest(**each) for each in found["tests"]], found["loading"])


class Server:
    """The process that loads packages once; ``tree`` is the copy of the repository that it works in."""

    def __init__(self, tree: Path) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("METASCALE_", "PYTEST_"))}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        temporary = {"TMPDIR": str(tree / ".tmp"), "PYTHONPATH": str(tree / "src")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.mutant_runs"],
            cwd=tree,
            env=env | threads | temporary,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(0 if kind else 5)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps(request)}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the process that runs the tests ended with status {self._process.wait()}")
        return dict(json.loads(answer))

    def measure(self, room: str, file: str) -> dict[str, Any]:
        """The fields of ``Measured`` as JSON has them."""
        answer = self._ask(do="measure", room=room, file=file)
        if answer["status"] not in (0, 5):
            raise SystemExit(f"{answer['output']}\n{file} fails on the unmutated code: mend that first")
        return dict(answer["found"])

    def failing(self, chosen: Sequence[str], left_out: Sequence[str], cpu_s: float) -> tuple[str, str | None]:
        """Runs the chosen tests, and those of their files that are not in ``left_out``, up to the first failure.

        Returns ``passed``, ``failed`` or ``timeout`` (of any process: ``cpu_s`` CPU seconds; of the run: eight times as
        long by the clock), and the test that failed, None where none did or the process ended.
        """
        answer = self._ask(do="tests", chosen=chosen, left_out=left_out, cpu_s=cpu_s)
        found, status = answer["found"] or {}, answer["status"]
        if status in (None, -signal.SIGXCPU, -signal.SIGKILL):
            return "timeout", found.get("failed")
        return ("passed" if status in (0, 5) else "failed"), found.get("failed")


# ---------------------------------------------------------------------------------------------- in the server


def serve() -> None:
    """Answers requests until stdin ends."""
    for name in LOADED_ONCE.split():
        with suppress(Exception):
            importlib.import_module(name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for line in sys.stdin:
        sys.stdout.write(f"{json.dumps(in_a_child(json.loads(line)))}\n")
        sys.stdout.flush()


def in_a_child(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the request gives in a forked process: status (None after a timeout), what was found, end of the output."""
    with tempfile.TemporaryFile() as output, tempfile.NamedTemporaryFile() as out:
        temporary = Path(os.environ["TMPDIR"])
        temporary.mkdir(exist_ok=True)
        pid = os.fork()
        if pid == 0:
            child(request, output.fileno(), out.name)
        limit = time.monotonic() + 8 * request["cpu_s"] if "cpu_s" in request else float("inf")
        try:
            status = wait(pid, limit)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            shutil.rmtree(temporary, ignore_errors=True)
        output.seek(0)
        found = out.read()
        return {
            "status": status,
            "found": json.loads(found) if found else None,
            "output": output.read().decode(errors="replace")[-3000:],
        }


def wait(pid: int, limit: float) -> int | None:
    """The exit status of the process, negative for a signal; None where it does not end by then: it is killed."""
    while time.monotonic() < limit:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def child(request: Mapping[str, Any], output: int, out: str) -> None:
    """Does the request in a session of its own and ends the process."""
    status = 70
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if request["do"] == "measure":
            status, found = measure(request["room"], request["file"])
        else:
            sys.dont_write_bytecode = True
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
            limit = int(request["cpu_s"])
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
            status, found = tests(request["chosen"], set(request["left_out"]))
        Path(out).write_text(json.dumps(found), encoding="utf-8")
    except BaseException:  # noqa: BLE001 - said, and the status tells
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def arguments(files: Sequence[str]) -> list[str]:
    return [
        *("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0"),
        *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # of plugins that were loaded before
        *("-m", DEFAULT_TESTS, *files),
    ]


def tests(chosen: Sequence[str], left_out: set[str]) -> tuple[int, dict[str, Any]]:
    """The status of pytest, and the test that failed."""
    import pytest
    from hypothesis import settings

    settings.register_profile("mutants", deadline=None, database=None)
    settings.load_profile("mutants")
    place = {name: index for index, name in enumerate(chosen)}
    failed: list[str] = []

    class Plugin:
        def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
            config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
            items[:] = sorted(
                (item for item in items if item.nodeid not in left_out),
                key=lambda item: place.get(item.nodeid, len(place)),
            )

        def pytest_runtest_logreport(self, report: Any) -> None:
            failed.extend([report.nodeid] * report.failed)

        def pytest_collectreport(self, report: Any) -> None:
            failed.extend([report.nodeid] * report.failed)

    status = pytest.main(arguments(list(dict.fromkeys(name.partition("::")[0] for name in chosen))), plugins=[Plugin()])
    return int(status), {"failed": failed[0] if failed else None}


def measure(room: str, file: str) -> tuple[int, dict[str, Any]]:
    """The status of pytest, and the fields of ``Measured``."""
    import multiprocessing.process

    import coverage
    import pytest

    root = Path.cwd()
    seen = coverage.Coverage(data_file=None, include=[f"{root}/src/metascale/{room}/*"])
    started = 0

    def count(event: str, _: object) -> None:
        nonlocal started
        started += event in ("subprocess.Popen", "os.fork", "os.posix_spawn")

    sys.addaudithook(count)
    start = multiprocessing.process.BaseProcess.start

    def start_and_count(process: Any) -> None:
        nonlocal started
        started += 1
        start(process)

    multiprocessing.process.BaseProcess.start = start_and_count  # type: ignore[method-assign]
    found: list[dict[str, Any]] = []
    fixtures: dict[str, Sequence[str]] = {}

    class Plugin:
        """Names what runs: a test, or a fixture that several tests share, whose lines are then those of each."""

        context = ""

        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_runtest_protocol(self, item: Any) -> Any:
            before, at_first = cpu_seconds(), started
            self._switch(f"test {item.nodeid}")
            result = yield
            self._switch("")
            seconds = round(cpu_seconds() - before, 3)
            found.append({"name": item.nodeid, "seconds": seconds, "processes": started > at_first})
            fixtures[item.nodeid] = getattr(item, "fixturenames", ())
            return result

        @pytest.hookimpl(wrapper=True, tryfirst=True)
        def pytest_fixture_setup(self, fixturedef: Any) -> Any:
            before = self.context
            if fixturedef.scope != "function":
                self._switch(f"fixture {fixturedef.argname}")
            try:
                return (yield)
            finally:
                self._switch(before)

        def _switch(self, name: str) -> None:
            self.context = name
            seen.switch_context(name)

    seen.start()
    status = int(pytest.main(arguments([file]), plugins=[Plugin()]))
    seen.stop()
    lines = lines_by_context(seen, root)
    for test in found:
        names = [f"test {test['name']}", *(f"fixture {name}" for name in fixtures[test["name"]])]
        merged: dict[str, set[int]] = defaultdict(set)
        for name in names:
            for path, numbers in lines.get(name, {}).items():
                merged[path] |= numbers
        test["lines"] = {path: sorted(numbers) for path, numbers in merged.items()}
    loading = {path: sorted(numbers) for path, numbers in lines.get("", {}).items()}
    return status, {"name": file, "tests": found, "loading": loading}


def cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def lines_by_context(seen: Any, root: Path) -> dict[str, dict[str, set[int]]]:
    data = seen.get_data()
    lines: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for path in data.measured_files():
        name = Path(path).relative_to(root).as_posix()
        for number, contexts in data.contexts_by_lineno(path).items():
            for context in contexts:
                lines[context][name].add(number)
    return lines


if __name__ == "__main__":
    serve()
