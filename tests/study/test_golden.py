"""A run folder of every released version stays readable, whole and resumable."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from metascale.study import read_study, results_table, run_study
from metascale.study.status import study_status
from metascale.study.store.folder import NOT_COMPARED
from metascale.study.store.verify import verify_study

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.iterdir())


@pytest.fixture(params=VERSIONS)
def folder(request, tmp_path):
    """A copy: reading must not need to write, but opening makes an index."""
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / request.param))


def test_it_reads_as_it_was_written(folder):
    view = read_study(folder)
    assert [run.status for run in view.runs] == ["finished", "diverged", "failed", "finished"]
    assert [row["step"] for row in view.runs[0].rows("train")] == [1, 2, 3, 4, 5, 6]
    assert view.runs[1].ending()["last_finite"] == 1.0
    assert view.runs[2].message() == "RuntimeError: ended after its first checkpoint"
    assert results_table(folder).to_csv() == (folder / "results.csv").read_text()
    assert verify_study(folder).damages == ()
    assert study_status(folder).counts["finished"] == 2


def test_it_goes_on_from_the_checkpoint_that_the_old_version_wrote(folder):
    study = read_study(folder).study
    before = {
        path.name: path.read_bytes()
        for run in read_study(folder).runs
        if run.status != "failed"
        for path in run.folder.iterdir()
        if path.is_file() and path.name not in NOT_COMPARED
    }
    outcome = run_study(study, folder)
    assert (outcome.ran, outcome.finished, outcome.diverged, outcome.failed) == (1, 3, 1, 0)
    resumed = read_study(folder).runs[2]
    assert [row["step"] for row in resumed.rows("train")] == [1, 2, 3, 4, 5, 6]
    # The row of step 1 is the old version's; a fresh start would have written another.
    assert resumed.rows("train")[0]["loss"] == 0.25
    after = {
        path.name: path.read_bytes()
        for run in read_study(folder).runs
        if run.trial.id != resumed.trial.id
        for path in run.folder.iterdir()
        if path.is_file() and path.name not in NOT_COMPARED
    }
    assert after == before
