"""Fixtures that every room's tests may use."""

from __future__ import annotations

import base64
import gc
import os
import re
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# One thread a test process, before torch is loaded: xdist's workers would otherwise fight over the cores.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import pytest  # noqa: E402

# Whatever is loaded before the first test stays to the end: a third of the seconds of loading went into looking for
# garbage there, and each later search would go through a million objects of torch and transformers again.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def allowed_skips(path: Path) -> list[re.Pattern[str]]:
    """The patterns of reasons in a file of lines ``pattern | why``; # starts a remark."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and line[0] != "#"]
    pairs = [line.rpartition(" | ") for line in lines]
    assert all(pattern and why.strip() for pattern, _, why in pairs), f"{path}: a line is no 'pattern | why'"
    return [re.compile(pattern) for pattern, _, _ in pairs]


def _refuse_skip(report: Any) -> None:
    """Where METASCALE_SKIPS names a file, a skip whose reason is not in it fails: nothing is left out unseen."""
    named = os.environ.get("METASCALE_SKIPS")
    if not named or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    if not any(pattern.search(reason) for pattern in allowed_skips(Path(named))):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be skipped that {named} does not list: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard() -> Iterator[None]:
    """A shell's ``command &`` ignores SIGINT, and every process of the tests would inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def data_dir() -> Path:
    """The folder of real data sets, where the machine has one."""
    named = os.environ.get("METASCALE_DATA")
    if not named:
        pytest.skip("METASCALE_DATA is not set: the real data sets are absent")
    return Path(named)


def need(name: str) -> None:
    """Skip the test where the data set is not in the folder that METASCALE_DATA names."""
    if not os.environ.get("METASCALE_DATA") or not (Path(os.environ["METASCALE_DATA"]) / name).is_dir():
        pytest.skip(f"needs the data set {name} in METASCALE_DATA")


EMPTY: dict[str, Any] = {
    "svg": '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"></svg>',
    "png": base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    ),
}


@contextmanager
def without_pictures() -> Iterator[None]:
    """Figures are made and hold their artists, but what is saved of them is one empty pixel: drawing takes seconds a
    study, and is tested where the pictures are."""
    from matplotlib.figure import Figure

    def savefig(figure: Figure, stream: Any, *, format: str, **options: Any) -> None:
        stream.write(EMPTY[format])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        yield


@pytest.fixture
def undrawn() -> Iterator[None]:
    """`without_pictures` for one test."""
    with without_pictures():
        yield


@pytest.fixture(scope="module", autouse=True)
def studies_are_undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    """`without_pictures` where whole studies run, fixtures of a module included, unless it says ``DRAWN``."""
    folder, name = request.path.parent, request.path.name
    whole = folder.name in ("study", "workflow", "recipes") or (
        folder == Path(__file__).parent and name.startswith("test_cli")
    )
    if whole and not getattr(request.module, "DRAWN", False):
        with without_pictures():
            yield
    else:
        yield
