"""The table of a study for a paper: means over seeds with their standard errors, in LaTeX and Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metascale.core.columns import COMPARED_KINDS, MAIN_KINDS, TEST_ACCURACY
from metascale.core.errors import InputError
from metascale.core.units import finite
from metascale.study import StudyView, results_table
from metascale.study.roles import loss_of

_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {mark: f"\\{mark}" for mark in "&%$#_{}"}


@dataclass(frozen=True)
class PaperTable:
    """Headings and rows of text: the varied keys, then ``mean ± SE`` of each measure, then the number of seeds."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_keys: int

    def latex(self) -> str:
        """A ``tabular`` that needs no package; every text is escaped."""
        columns = "l" * self.n_keys + "r" * (len(self.headings) - self.n_keys)
        lines = [f"% {' '.join(self.title.split())}", f"\\begin{{tabular}}{{{columns}}}", "\\hline"]
        lines += [" & ".join(map(latex_text, self.headings)) + r" \\", "\\hline"]
        lines += [" & ".join(latex_text(cell).replace("±", r"$\pm$") for cell in row) + r" \\" for row in self.rows]
        return "\n".join([*lines, "\\hline", "\\end{tabular}", ""])

    def markdown(self) -> str:
        """A pipe table; every text is escaped."""
        sides = ["---"] * self.n_keys + ["---:"] * (len(self.headings) - self.n_keys)
        rows = [[markdown_text(cell) for cell in row] for row in (self.headings, *self.rows)]
        return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], sides, *rows[1:])) + "\n"


def paper_table(view: StudyView) -> PaperTable:
    """One row a setting: finished trials of the axes, then baselines and controls.

    The measures are the study's loss and, where there is one, the test accuracy: the mean over seeds, and its standard
    error (the standard deviation over seeds by √n), to three significant digits of the mean.

    Raises:
        InputError: no trial has finished, or the loss is not known.
    """
    table = results_table(view)
    rows = [row for row in table.finished().rows if row["kind"] in (*MAIN_KINDS, *COMPARED_KINDS)]
    main = [row for row in rows if row["kind"] in MAIN_KINDS]
    if not main:
        raise InputError(f"study '{view.study.name}' has no finished trial to tabulate")
    loss = (view.study.roles.loss if view.study.roles else "") or loss_of(table.columns, main)
    if not loss:
        raise InputError(f"study '{view.study.name}' has several columns that may be the loss; name it with `loss`")
    measures = [loss, *([TEST_ACCURACY] if TEST_ACCURACY in table.columns and loss != TEST_ACCURACY else [])]
    keys = [key for key in _varied(view, table.columns, rows) if key not in measures]
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["kind"] not in MAIN_KINDS):
        groups.setdefault(tuple(_shown(row[key]) for key in keys), []).append(row)
    body = [
        (*where, *(with_error([row[name] for row in some]) for name in measures), str(len(some)))
        for where, some in groups.items()
    ]
    return PaperTable(view.study.name, (*keys, *measures, "seeds"), tuple(body), len(keys))


def _varied(view: StudyView, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    named = [*(["method"] if "method" in columns else []), *view.study.axes]
    return [key for key in dict.fromkeys(named) if key in columns and any(row[key] is not None for row in rows)]


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def with_error(values: Sequence[object]) -> str:
    """The mean to three significant digits, and its standard error to the same place.

    Example:
        >>> with_error([1.0, 1.2, 1.4]), with_error([0.01234]), with_error([])
        ('1.20 ± 0.12', '0.0123', '–')
    """
    known = [number for value in values if (number := finite(value)) is not None]
    if not known:
        return "–"
    mean = math.fsum(known) / len(known)
    digits = max(0, 2 - math.floor(math.log10(abs(mean)))) if mean else 2
    if digits > 6:
        return f"{mean:.2e}" if len(known) < 2 else f"{mean:.2e} ± {_standard_error(known, mean):.1e}"
    text = f"{mean:.{digits}f}"
    return text if len(known) < 2 else f"{text} ± {_standard_error(known, mean):.{digits}f}"


def _standard_error(values: Sequence[float], mean: float) -> float:
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def latex_text(text: str) -> str:
    """``text`` in LaTeX, as it reads."""
    return re.sub(r"[\\~^&%$#_{}]", lambda mark: _LATEX[mark[0]], " ".join(text.split()))


def markdown_text(text: str) -> str:
    """``text`` in a cell of a pipe table, as it reads."""
    return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", " ".join(text.split()))
