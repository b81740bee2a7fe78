"""Refusals of exports: the argument that they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from metascale.core.errors import InputError
from metascale.integrations.export import export_study
from metascale.study import run_study
from tests.study.folders import tiny_study


def test_a_format_that_is_none_and_an_option_of_another_are_refused_by_their_argument(tmp_path: Path) -> None:
    run_study(tiny_study(), tmp_path / "study")
    for kind, config, field in (("nothing", False, "kind"), ("mlflow", True, "config")):
        with pytest.raises(InputError) as caught:
            export_study(tmp_path / "study", kind, str(tmp_path / "out"), config=config)
        assert caught.value.field == field
    assert not (tmp_path / "out").exists()
