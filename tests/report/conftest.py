"""One fixture study for the whole room: read-only; tests that write take a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.report.study_fixture import make_study


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole study: 7 scales, 3 seeds, baselines, a law, one diverged and one failed trial. Nobody writes to it."""
    return make_study(tmp_path_factory.mktemp("study") / "digits")


@pytest.fixture
def own_study(study_folder: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(study_folder, tmp_path / "digits"))
