"""What a finished study of many trials costs to look at again, counted in files opened, not in seconds."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from metascale.report import write_report
from metascale.study import Study, read_study, run_study, study_status
from metascale.study.store.once import once, reading_once

opened: Counter[str] | None = None


def _count(event: str, arguments: tuple) -> None:
    if opened is not None and event == "open" and isinstance(arguments[0], str):
        opened[arguments[0]] += 1


sys.addaudithook(_count)  # stays until the process ends, and is cheap while nobody counts


def files_opened(folder: Path, work) -> Counter[str]:
    """How often each file of the study was opened to be read, by its path in the folder."""
    global opened
    opened = Counter()
    try:
        work()
        found = opened
    finally:
        opened = None
    inside = {Path(path): n for path, n in found.items() if path.startswith(str(folder)) and not path.endswith(".tmp")}
    return Counter({path.relative_to(folder).as_posix(): n for path, n in inside.items() if path.is_file()})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    study = Study("reads", "tests.study.trials:power", {}, {"n_tasks": [2, 4, 8, 16]}, (0, 1))
    folder = tmp_path_factory.mktemp("reads")
    assert run_study(study, folder).finished == 8
    return study, folder


@pytest.mark.parametrize(
    "work",
    [
        lambda study, folder: run_study(study, folder),
        lambda study, folder: study_status(folder),
        lambda study, folder: write_report(folder),
    ],
    ids=["nothing to do", "status", "report"],
)
def test_a_finished_runs_result_is_opened_once_by_a_command(finished, work):
    study, folder = finished
    from metascale.study import definition
    from metascale.study.store import folder as store

    store._checked.cache_clear()
    definition._parsed.cache_clear()
    found = files_opened(folder, lambda: work(study, folder))
    runs = {name: n for name, n in found.items() if name.startswith("runs/")}
    assert {n for name, n in runs.items() if name.endswith(("/result.json", "/config.json"))} == {1}
    assert sum(runs.values()) <= 8 * 6, runs
    assert found["study.json"] <= 3


def test_a_run_that_changes_between_two_looks_is_seen_and_within_a_block_it_is_not(finished):
    folder = finished[1]
    run = read_study(folder).runs[0]
    path = run.folder / "result.json"
    whole = path.read_bytes()
    try:
        with reading_once():
            assert run.status == "finished"
            path.write_bytes(whole.replace(b"finished", b"diverged"))
            assert run.status == "finished"
        assert run.status == "damaged"
        assert "result.json is not what was written" in run.damage()
    finally:
        path.write_bytes(whole)
    assert run.status == "finished"


def test_what_a_run_returned_is_the_readers_own_copy(finished):
    run = read_study(finished[1]).runs[0]
    result = run.result()
    assert result
    result.clear()
    assert run.result()


def test_once_is_the_outermost_blocks():
    made: list[int] = []
    with reading_once():
        with reading_once():
            once("a", lambda: made.append(1))
        once("a", lambda: made.append(1))
    once("a", lambda: made.append(1))
    assert len(made) == 2
