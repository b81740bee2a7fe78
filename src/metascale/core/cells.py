"""Text cells of CSV files that no spreadsheet runs as a formula, and back.

A cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line's end may be run (CSV injection, CWE-1236): it
gets an apostrophe in front, which spreadsheets take as the mark of a text. A text that already begins so behind
apostrophes gets one more, so that reading gives every text back. Numbers are no texts and stay as they are.
"""

from __future__ import annotations

STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""First characters of what a spreadsheet may run; the wide ones are read as the others in East Asian settings."""


def safe_text(text: str) -> str:
    """``text`` as a cell.

    Example:
        >>> safe_text("=1+1"), safe_text("'=1+1"), safe_text("it's")
        ("'=1+1", "''=1+1", "it's")
    """
    return f"'{text}" if _may_run(text) else text


def plain_text(cell: str) -> str:
    """The text that `safe_text` made the cell of.

    Example:
        >>> plain_text("'=1+1"), plain_text("'tis")
        ('=1+1', "'tis")
    """
    return cell[1:] if cell.startswith("'") and _may_run(cell) else cell


def _may_run(text: str) -> bool:
    return text.lstrip("'").startswith(STARTS)
