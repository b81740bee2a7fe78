"""Benchmarks with a history: run one and keep what it measured, and write the tables of docs/results from that.

    python benchmarks/history.py run peers_lora --tasks 2 --threads 1 --repeats 3
    python benchmarks/history.py pages

``run NAME OPTIONS`` runs ``benchmarks/NAME.py OPTIONS --json FILE`` and appends one JSON line to
``benchmarks/history/NAME.jsonl``: command, commit, date, processor, cores, load, versions, and the benchmark's rows.
Lines are never changed. ``pages`` writes every ``<!-- history: NAME KEY=VALUE ... -->`` part of docs/results/*.md from
the newest line of NAME that has rows with these values, and ``<!-- history: summary -->`` from the newest of several.
The load (processes that wanted a core, before and after, over the cores there are) tells how far seconds may be
trusted; ratios are of variants that took turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from history_tables import TABLES, summary

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "benchmarks" / "history"
PAGES = ROOT / "docs" / "results"
PACKAGES = ("torch", "numpy", "transformers", "peft", "higher", "torchopt", "betty-ml")
PART = re.compile(r"(<!-- history: (\w+)((?: \w+=\S+)*) -->\n).*?(<!-- end -->)", re.DOTALL)


def run(name: str, options: Sequence[str]) -> dict[str, Any]:
    """Run a benchmark and keep its rows with the facts of the place."""
    script = ROOT / "benchmarks" / f"{name}.py"
    if not script.is_file():
        raise SystemExit(f"there is no benchmark '{name}' in {script.parent}")
    place, before = facts(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        subprocess.run([sys.executable, str(script), *options, "--json", str(file)], check=True)
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    record = {
        "benchmark": name,
        "command": " ".join(["python", f"benchmarks/{name}.py", *options]),
        **place,
        "load": [round(before, 1), round(os.getloadavg()[0], 1)],
        "rows": rows,
    }
    KEPT.mkdir(exist_ok=True)
    with open(KEPT / f"{name}.jsonl", "a", encoding="utf-8") as stream:
        stream.write(json.dumps(record, sort_keys=True) + "\n")
    return record


def facts() -> dict[str, Any]:
    """Commit (with a plus where the tree has changes), date, processor, cores, versions."""
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks/*.py")
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "commit": commit + "+" * bool(changed),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": versions,
    }


def _git(*arguments: str) -> str:
    found = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _processor() -> str:
    """Such as "AMD EPYC, family 26"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name, family = told.get("model name", platform.machine()), told.get("cpu family")
    return f"{name}, family {family}" if family else name


def newest(name: str, **wanted: object) -> dict[str, Any]:
    """The last line of a benchmark's history that has rows with these values, with these rows alone.

    Raises:
        LookupError: there is none.
    """
    for line in reversed((KEPT / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()):
        record: dict[str, Any] = json.loads(line)
        rows = [row for row in record["rows"] if all(str(row.get(key)) == str(value) for key, value in wanted.items())]
        if rows:
            return {**record, "rows": rows}
    raise LookupError(f"the history of {name} has no row with {wanted}")


def rows_of(name: str, **wanted: object) -> list[dict[str, Any]]:
    """The rows of `newest`; none where there is no such run."""
    try:
        rows: list[dict[str, Any]] = newest(name, **wanted)["rows"]
    except (LookupError, FileNotFoundError):
        return []
    return rows


def part(name: str, wanted: str = "") -> str:
    """The generated part of one benchmark: its table, and the line that says where it was measured."""
    if name == "summary":
        return f"\n{summary(rows_of)}\n\n"
    record = newest(name, **dict(pair.split("=", 1) for pair in wanted.split()))
    versions = ", ".join(f"{package} {version}" for package, version in record["versions"].items())
    load = " and ".join(f"{value:.1f}" for value in record["load"])
    told = (
        f"`{record['command']}`, {record['date']}, commit {record['commit']}; {record['processor']}, {record['cores']} "
        f"cores, load {load} before and after; {versions}."
    )
    return f"\n{TABLES[name](record['rows'])}\n\n{told}\n\n"


def rendered(text: str) -> str:
    """A page with its generated parts written again."""
    return PART.sub(lambda found: found[1] + part(found[2], found[3]) + found[4], text)


def pages() -> list[Path]:
    """The pages with parts that are generated from a history."""
    return [path for path in sorted(PAGES.glob("*.md")) if PART.search(path.read_text(encoding="utf-8"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "pages"))
    parser.add_argument("name", nargs="?", help="of a benchmark in this folder that has --json")
    asked, options = parser.parse_known_args()
    if asked.command == "run":
        if asked.name is None:
            parser.error("run needs the name of a benchmark")
        print(f"kept in {KEPT / run(asked.name, options)['benchmark']}.jsonl")
    for path in pages():
        text = path.read_text(encoding="utf-8")
        if rendered(text) != text:
            path.write_text(rendered(text), encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
