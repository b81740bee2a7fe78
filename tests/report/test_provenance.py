"""Where the numbers come from, and what to doubt: as the page and provenance.json say it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from metascale.core.canonical import plain
from metascale.report import write_report
from metascale.report.section import Folded
from metascale.report.sections.diagnosis import convergence, convergence_data, convergence_sentences, coverage_sentences
from metascale.report.sections.provenance import gather, provenance, provenance_pairs, reproduce
from metascale.report.study import open_study
from metascale.study import Study, run_study
from metascale.study.design import Trial
from tests.report.study_fixture import SCALES, change
from tests.report.test_report import Page
from tests.study.folders import without_seconds

REVISION = "0123456789abcdef0123456789abcdef01234567"
DIFF = "--- a/src/x.py\n+++ b/src/x.py\n@@ -1,2 +1,3 @@\n-old\n+new\n+newer\n same\n"


def record(**more: Any) -> dict[str, Any]:
    return {
        "packages": {"torch": "2.13.0+cpu", "numpy": "2.4.6", "odd": "1"},
        "metascale": "0.1.0",
        "python": "3.11.7",
        "hardware": {"processor": "EPYC", "cores": 8, "cores_usable": 4, "memory_bytes": 2**34, "gpus": []},
        "threads": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        "device": "cpu",
        "data_sha256": {"digits.csv": "aa"},
        "command": "metascale run digits --seeds 0,1,2",
        "sources": [{"module": "metascale", "revision": REVISION, "dirty": False}],
        **more,
    }


def changed(text: str | None = DIFF, digest: str = "d" * 64) -> dict[str, Any]:
    source = {"module": "metascale", "revision": REVISION, "dirty": True, "changed_files": ["src/x.py", "new.py"]}
    source["diff_sha256"] = digest
    return source if text is None else {**source, "diff": text}


def plant(study: Path, runs: list[dict[str, Any]], starts: list[dict[str, Any]]) -> None:
    """What the runs of a study, in the order of their names, and its starts recorded; the other runs nothing."""
    for folder, told in zip(sorted((study / "runs").iterdir()), runs, strict=False):
        (folder / "provenance.json").write_text(json.dumps(told))
    (study / "provenance.jsonl").write_text("".join(json.dumps(start) + "\n" for start in starts))


def n_runs(study: Path) -> int:
    return len(list((study / "runs").iterdir()))


def pairs_of(study: Path) -> dict[str, str]:
    return dict(provenance_pairs(open_study(study), gather(study)))


def test_a_study_of_one_place_and_clean_code_has_nothing_to_note(own_study: Path) -> None:
    plant(own_study, [record()] * n_runs(own_study), [record()])
    found, pairs = gather(own_study), pairs_of(own_study)
    assert found.notes == ()
    assert found.n_recorded == found.n_runs == n_runs(own_study)
    assert pairs["versions"] == "metascale 0.1.0, python 3.11.7, torch 2.13.0+cpu, numpy 2.4.6"
    assert pairs["code"] == "metascale at 0123456789ab"
    assert pairs["hardware"] == "EPYC, 4 cores, 16 GiB"
    assert pairs["threads"] == "1 (MKL, OMP)"
    assert found.packages["odd"] == ("1",)
    assert reproduce(open_study(own_study), found) == (
        f"git checkout {REVISION}",
        "pip install torch==2.13.0 numpy==2.4.6",
        "export MKL_NUM_THREADS=1 OMP_NUM_THREADS=1",
        "metascale run digits --seeds 0,1,2 --out runs/again",
    )


def test_uncommitted_code_is_counted_and_named_without_its_text(own_study: Path) -> None:
    told = record(sources=[changed(text=None)])
    plant(own_study, [told] * n_runs(own_study), [record(sources=[changed()])])
    found = gather(own_study)
    (source,) = found.sources
    assert (source.lines_added, source.lines_removed) == (2, 1)
    assert pairs_of(own_study)["code"] == ("metascale at 0123456789ab with uncommitted changes in 2 files, +2 −1 lines")
    assert found.notes == ("Uncommitted code: the revision alone does not give these numbers.",)
    section = provenance(open_study(own_study))
    folded = [block for block in section.blocks if isinstance(block, Folded)]
    assert [block.title for block in folded[:2]] == ["2 uncommitted files", "5 installed packages"]
    files = section.tables[0]
    assert [row.cells[0].text for row in files.rows] == ["src/x.py", "new.py"]
    assert "2 lines added, 1 removed" in files.caption
    assert "newer" not in json.dumps(plain(section))


def test_what_differs_between_runs_is_said(own_study: Path) -> None:
    other = record(
        packages={"torch": "2.12.0", "numpy": "2.4.6"},
        sources=[{"module": "metascale", "revision": "f" * 40, "dirty": False}],
        threads={"OMP_NUM_THREADS": "2"},
        data_sha256={"digits.csv": "bb"},
    )
    plant(own_study, [record(), other], [record()])
    notes = gather(own_study).notes
    assert notes == (
        "The code changed between trials.",
        "Versions changed between trials: torch.",
        "Data files changed between trials.",
        "Trials ran with different processors or thread counts, which changes the last bits of sums.",
        f"{n_runs(own_study) - 2} of {n_runs(own_study)} runs recorded nothing of this.",
    )


@pytest.mark.usefixtures("undrawn")
def test_provenance_is_written_for_programs_and_the_page_holds_it(own_study: Path) -> None:
    plant(own_study, [record()] * n_runs(own_study), [record()])
    set_cells(own_study, steps=100, best_step=100, training="converged")
    write_report(own_study)
    written = json.loads((own_study / "provenance.json").read_text())
    assert written["reproduce"][-1] == "metascale run digits --seeds 0,1,2 --out runs/again"
    assert written["sources"][0]["revision"] == REVISION
    assert (written["seeds"], written["data_sha256"]) == ([0, 1, 2, 9], {"digits.csv": ["aa"]})
    page = Page((own_study / "report.html").read_text())
    for said in (*written["reproduce"], "Diagnostics", "All 21 finished runs had the lowest", "5 installed packages"):
        assert said in page.text, said


def test_the_line_for_a_study_of_ones_own_function_runs_it_again(tmp_path: Path, monkeypatch: Any) -> None:
    study = Study("mine", "tests.study.trials:train", {"n_steps": 4}, {"n_tasks": [2, 5]}, (0, 1), ({"n_tasks": 9},))
    run_study(study, tmp_path / "study")
    view = open_study(tmp_path / "study")
    lines = reproduce(view, gather(view))
    monkeypatch.chdir(tmp_path)
    exec("\n".join(lines), {})
    assert without_seconds(tmp_path / "runs/again/results.csv") == without_seconds(tmp_path / "study/results.csv")


def set_cells(study: Path, **cells: Any) -> None:
    """Give the result of every finished main run these values; a function is asked with the run's number."""
    numbers = itertools.count()

    def edit(trial: Trial, result: dict[str, Any]) -> dict[str, Any] | None:
        if trial.kind != "meta":
            return None
        number = next(numbers)
        return {**result, **{name: value(number) if callable(value) else value for name, value in cells.items()}}

    change(study, edit)


def test_runs_that_had_not_converged_are_counted_and_listed(own_study: Path) -> None:
    def best(number: int) -> int:
        return 100 if number < 3 else 80

    def ending(number: int) -> str:
        return "max_steps" if number < 5 else "converged"

    set_cells(own_study, steps=100, best_step=best, training=ending)
    found = convergence_data(own_study)
    assert (found.n_known, len(found.improving), len(found.by_budget), found.patient) == (21, 3, 2, True)
    sentences = convergence_sentences(found)
    assert sentences[0].startswith("3 of 21 finished runs had the lowest validation loss at the last evaluation")
    assert sentences[1].startswith("2 of 21 finished runs were ended by the most steps allowed, not by patience")
    (table,) = convergence(open_study(own_study)).tables
    assert [row.cells[-1].text for row in table.rows] == ["still improving"] * 3 + ["budget"] * 2
    assert [column.title for column in table.columns][2:] == ["steps", "best step", "ended"]
    assert {row.cells[1].text for row in table.rows} <= {f"{scale}" for scale in SCALES}
    assert [tuple(cell.text for cell in row.cells[2:4]) for row in table.rows] == [("100", "100")] * 3 + [
        ("100", "80")
    ] * 2


def test_a_budget_of_steps_is_not_a_lack_of_patience(own_study: Path) -> None:
    set_cells(own_study, steps=100, best_step=80, training="max_steps")
    found = convergence_data(own_study)
    assert (found.improving, found.by_budget, found.patient) == ((), (), False)
    assert convergence_sentences(found)[0] == ("All 21 finished runs had their lowest validation loss before the end.")


def test_the_coverage_of_the_backtest_is_told(own_study: Path) -> None:
    law = json.loads((own_study / "law.json").read_text())
    law["families"][law["law"]]["backtest_coverage"] = 0.75
    (own_study / "law.json").write_text(json.dumps(law))
    sentence = (
        f"In the backtest of '{law['law']}', 75 % of the hidden scales lay inside the 90 % intervals that the smaller "
        "scales gave."
    )
    assert sentence in coverage_sentences(open_study(own_study))


def test_a_study_that_says_nothing_of_it_has_no_such_section(own_study: Path) -> None:
    set_cells(own_study, steps=None, best_step=None, training=None)
    assert convergence_sentences(convergence_data(own_study)) == ()
    assert convergence(open_study(own_study)).blocks == ()
