"""The page of a law: its sections and tables in full, with stand-ins for the drawings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metascale.laws import picture as of_picture
from metascale.laws.picture import LawPicture, _section, _table, hidden_words, rows_of, write_html
from metascale.laws.record import Band, HiddenScale


def picture(**changes: Any) -> LawPicture:
    given = {"title": "loss < x", "subtitle": "it & falls", "x_name": "N<", "loss_name": "loss", "x": (1.0, 2.0),
             "loss": (3.0, 2.5)}  # fmt: skip
    bands = {"law": Band((1.0, 4.0), (3.0, 2.0), (2.75, 1.75), (3.25, 2.25))}
    return LawPicture(**{**given, "bands": bands, **changes})


def test_a_table_of_a_page_is_folded_under_its_name_and_number_of_rows() -> None:
    assert _table("a<b", ("x", "y&"), [(1.0, 2.5), (1e-7, 1234567.0)]) == (
        "<details><summary>a&lt;b: 2 rows</summary><table><tr><th>x</th><th>y&amp;</th></tr>\n"
        "<tr><td>1</td><td>2.5</td></tr>\n<tr><td>1e-07</td><td>1.23457e+06</td></tr>\n</table></details>"
    )


def test_a_section_has_both_scales_and_every_number(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(of_picture, "figure_of", lambda pictures, scale: (len(pictures), scale))
    monkeypatch.setattr(of_picture, "svg", lambda figure, prefix: f"[{figure[0]} {figure[1]} {prefix}]")
    found = _section(picture(), "p0")
    assert found == (
        "<section><h2>loss &lt; x</h2><p>it &amp; falls</p>"
        '<input type="radio" name="p0" id="p0-log" checked><label for="p0-log">log loss</label>'
        '<input type="radio" name="p0" id="p0-linear"><label for="p0-linear">linear loss</label>'
        '<div class="log">[1 log p0-log]</div><div class="linear">[1 linear p0-linear]</div>'
        + _table("law", ("N<", "loss", "low", "high"), [(1.0, 3.0, 2.75, 3.25), (4.0, 2.0, 1.75, 2.25)])
        + _table("runs", ("N<", "loss"), [(1.0, 3.0), (2.0, 2.5)])
        + "</section>\n"
    )
    hidden = HiddenScale(4.0, "power", 2.0, 2.125, 1.875, 2.375, None, {})
    words = "predicted without the largest scale\nN 4: 2.125 (1.875 to 2.375), measured 2"
    assert hidden_words(hidden, "N") == words
    assert f"<p>{words.replace('N 4', 'N&lt; 4')}</p><details>" in _section(picture(hidden=hidden), "p0")
    write_html([picture(), picture(title="second")], tmp_path / "law.html")
    page = (tmp_path / "law.html").read_text()
    assert "<title>loss &lt; x</title>" in page
    assert found + _section(picture(title="second"), "p1") + "</main></body></html>" in page
    write_html([], tmp_path / "law.html")
    assert "<title>law</title>" in (tmp_path / "law.html").read_text()


def test_of_a_long_curve_some_points_from_end_to_end_are_shown() -> None:
    x = tuple(np.arange(97.0))
    assert [row[0] for row in rows_of(Band(x, x, x, x))] == [4.0 * k for k in range(25)]
    assert len(rows_of(Band(x[:3], x[:3], x[:3], x[:3]))) == 3
    assert [picture(loss=loss).signed for loss in ((1.0, 0.0), (1.0, 2.0), ())] == [True, False, False]
