"""Tables of docs/results that are generated from the benchmarks' history."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import history  # noqa: E402


@pytest.mark.parametrize("path", history.pages(), ids=lambda path: path.name)
def test_pages_are_what_the_newest_lines_give(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert history.rendered(text) == text, "write it again: python benchmarks/history.py pages"


@pytest.mark.parametrize("path", sorted(history.KEPT.glob("*.jsonl")), ids=lambda path: path.stem)
def test_every_line_says_where_it_comes_from(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        assert record["benchmark"] == path.stem
        assert record["rows"]
        assert {"command", "commit", "date", "processor", "cores", "load", "versions"} <= record.keys()


def test_a_run_is_kept_and_its_page_follows_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark of two variants, 2 s and 1 s: the second is twice as fast."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "peers_lora.py").write_text(
        "import json, sys\n"
        "times = {'a': 2.0, 'b': float(sys.argv[1])}\n"
        "rows = [{'variant': name, 'median_s': s, 'min_s': s / 2} for name, s in times.items()]\n"
        "open(sys.argv[3], 'w').write(''.join(json.dumps(row) + '\\n' for row in rows))\n"
    )
    monkeypatch.setattr(history, "ROOT", tmp_path)
    monkeypatch.setattr(history, "KEPT", tmp_path / "history")
    for other in ("4.0", "1.0"):
        history.run("peers_lora", [other])
    assert len((tmp_path / "history" / "peers_lora.jsonl").read_text().splitlines()) == 2
    page = history.rendered("Before.\n<!-- history: peers_lora -->\nold<!-- end -->\nAfter.\n")
    assert "| b | 1.00 s | 500 ms | 2.00× |" in page
    assert "`python benchmarks/peers_lora.py 1.0`" in page
    assert "old" not in page
    assert history.rendered(page) == page
    with pytest.raises(SystemExit, match="no benchmark 'none'"):
        history.run("none", [])


def test_a_part_may_ask_for_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three runs the second is the newest with rows of 2 threads, and it alone counts."""
    monkeypatch.setattr(history, "KEPT", tmp_path)
    told = {"commit": "c", "date": "d", "processor": "p", "cores": 2, "load": [0, 0], "versions": {}}

    def line(number: int, *threads: int) -> str:
        rows = [
            {"variant": f"{n} threads of run {number}", "threads": n, "median_s": 1.0, "min_s": 1.0} for n in threads
        ]
        return json.dumps({"benchmark": "peers_lora", "command": f"run {number}", **told, "rows": rows}) + "\n"

    (tmp_path / "peers_lora.jsonl").write_text(line(1, 2) + line(2, 1, 2) + line(3, 1))
    page = history.rendered("<!-- history: peers_lora threads=2 -->\n<!-- end -->\n")
    assert "| 2 threads of run 2 |" in page
    assert not any(other in page for other in ("run 1", "1 threads", "run 3"))
    with pytest.raises(LookupError, match="'threads': '4'"):
        history.rendered("<!-- history: peers_lora threads=4 -->\n<!-- end -->\n")
