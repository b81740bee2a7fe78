"""The page of a study of many runs: what is asked for every run is made once, whatever their number."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from metascale.report.sections import law, scales
from metascale.report.study import open_study
from metascale.report.write import sections_of
from metascale.study import Study, run_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    study = Study("many", "tests.study.trials:power", {}, {"n_tasks": [2, 4, 8, 16]}, tuple(range(5)))
    where = tmp_path_factory.mktemp("many")
    assert run_study(study, where).finished == 20
    return where


def test_the_kinds_of_runs_are_read_a_fixed_number_of_times_a_run(folder, monkeypatch):
    from metascale.report.study import RunRow

    asked = []
    kind = RunRow.kind.fget
    monkeypatch.setattr(RunRow, "kind", property(lambda run: (asked.append(run.id), kind(run))[1]))
    sections_of(open_study(folder))
    assert 0 < len(asked) <= 20 * 40  # with a pass over all runs for every run it is 20 × 20 × 15


def test_beyond_a_thousand_runs_the_dots_of_a_series_are_one_artist(folder, monkeypatch):
    def artists() -> int:
        ax = Figure().subplots()
        law.plot_study_law(law.law_data(folder), ax)
        return len(ax.lines)

    few = artists()
    monkeypatch.setattr(scales, "READ_OUTS", 19)
    assert artists() == few - 19
