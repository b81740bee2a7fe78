"""The law that commands show: what was concluded where it is of the very runs that are finished, else a new fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from metascale.core.columns import LAW_JSON
from metascale.study import SerialExecutor, Study, read_study, run_study
from metascale.workflow import conclude as concluding
from metascale.workflow.conclude import conclude
from metascale.workflow.standing import laws_so_far

POWER = "tests.study.trials:power"


@pytest.mark.usefixtures("undrawn")
def test_a_concluded_law_is_read_and_fitted_again_once_something_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fits = tmp_path / "study", []
    fitted = concluding.laws_of
    monkeypatch.setattr(concluding, "laws_of", lambda *given: fits.append(given) or fitted(*given))
    run_study(Study("s", POWER, {}, {"n_tasks": [2, 4, 8, 16, 32]}, (0, 1)), folder, SerialExecutor())
    before = laws_so_far(read_study(folder))
    conclude(folder)
    assert len(fits) == 2
    found = laws_so_far(read_study(folder))
    assert len(fits) == 2, "it was read"
    assert found[0][""].to_json() == before[0][""].to_json()
    assert found[1] == ""

    law = folder / LAW_JSON
    written = law.read_text()
    law.write_text(written.replace('"n_observations": 10', '"n_observations": 99'))
    assert laws_so_far(read_study(folder))[0][""].n_observations == 10
    assert len(fits) == 3, "a file that was edited is no law of this study"

    law.write_text(written)
    run_study(Study("s", POWER, {}, {"n_tasks": [2, 4, 8, 16, 32, 64]}, (0, 1)), folder, SerialExecutor())
    assert laws_so_far(read_study(folder))[0][""].n_observations == 12
    assert len(fits) == 4
