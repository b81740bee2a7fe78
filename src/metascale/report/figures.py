"""The pictures of a study's page as files for papers: SVG and PDF in the page's own style, the same bytes each time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from metascale.core.errors import InputError
from metascale.core.files import write_atomic
from metascale.core.suggest import suggest
from metascale.report.study import StudySource, open_study
from metascale.report.style import styled
from metascale.report.write import figure_of, sections_of

KINDS = ("svg", "pdf")
# No date and no program in a file; fonts are embedded as outlines that every viewer has (Type 42).
_METADATA = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
_RC = {"pdf.fonttype": 42}


def require_kinds(kinds: Sequence[str]) -> None:
    """
    Raises:
        InputError: one is not svg or pdf.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(f"`figures` are svg and pdf, not '{kind}'; {suggest(kind, KINDS)}", field="figures")


def write_figures(source: StudySource, kinds: Sequence[str] = KINDS) -> list[Path]:
    """Write every picture of the page as ``plots/NAME.svg`` and ``plots/NAME.pdf``; the paths written.

    Raises:
        InputError: another kind, or no study.
    """
    require_kinds(kinds)
    study = open_study(source)
    written = []
    with styled(), matplotlib.rc_context(_RC):
        for picture in (picture for section in sections_of(study) for picture in section.pictures):
            for kind in dict.fromkeys(kinds):
                stream = io.BytesIO()
                figure_of(picture, compact=False).savefig(stream, format=kind, metadata=_METADATA[kind])
                written.append(study.folder / "plots" / f"{picture.name}.{kind}")
                write_atomic(written[-1], stream.getvalue())
    return written
