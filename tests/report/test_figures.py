"""Figures for papers: SVG and PDF of every picture, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from metascale.core.errors import InputError
from metascale.report.figures import write_figures
from metascale.study import run_study
from tests.study.folders import tiny_study


def test_every_picture_is_written_as_svg_and_pdf_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    run_study(tiny_study("power", n_tasks=(2, 5, 10, 20), seeds=(0, 1)), tmp_path)
    written = write_figures(tmp_path)
    assert {path.name for path in written} >= {"law.svg", "law.pdf"}
    first = {path: path.read_bytes() for path in written}
    assert all(data.startswith(b"%PDF-" if path.suffix == ".pdf" else b"<?xml") for path, data in first.items())
    law = first[tmp_path / "plots" / "law.svg"]
    assert b"<text" in law  # text stays text
    assert b"<dc:date>" not in law
    assert b'width="576pt" height="345.6pt"' in law, "the wide form: 8 by 4.8 inches"
    assert {path: path.read_bytes() for path in write_figures(tmp_path)} == first
    with pytest.raises(InputError, match="not 'png'"):
        write_figures(tmp_path, ["svg", "png"])
