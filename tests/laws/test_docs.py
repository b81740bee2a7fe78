"""The examples of docs/laws.md are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "laws.md"


def test_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) >= 8
    scope: dict = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/laws.md, example {number + 1}", "exec"), scope)
    assert "falls with tokens" in capsys.readouterr().out
