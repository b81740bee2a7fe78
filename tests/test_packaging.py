"""What is said about the package in one place agrees with the others."""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import metascale as ms

ROOT = Path(__file__).parent.parent
PROJECT = ROOT / "pyproject.toml"


def project() -> dict[str, Any]:
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    table: dict[str, Any] = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return table


def test_the_version_is_written_once() -> None:
    assert ms.__version__ == version("metascale")
    assert ms.__version__ == project()["version"]
    literal = re.compile(rf"['\"]{re.escape(ms.__version__)}['\"]")
    written = [path for path in (ROOT / "src").rglob("*.py") if literal.search(path.read_text(encoding="utf-8"))]
    assert written == []


def test_the_changelog_has_a_section_for_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(ms.__version__)}\]", text, re.MULTILINE)
    assert "## [Unreleased]" in text


def test_the_lowest_constraints_are_the_lower_bounds() -> None:
    extras = project()["optional-dependencies"]
    lines = [*project()["dependencies"], *extras["torch"], *extras["text"], *extras["images"], *extras["tune"]]
    bounds = {name: bound for line in lines for name, bound in re.findall(r"^([\w-]+)>=([\d.]+)", line)}
    assert len(bounds) == len(lines) - 1, "all but the extra `torch` in `text`"
    text = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)$", text, re.MULTILINE))
    assert pinned.keys() >= bounds.keys()
    for name, bound in bounds.items():
        assert (pinned[name] + ".").startswith(bound + "."), f"{name}: {pinned[name]} is not the lowest {bound}"


def test_python_versions_agree() -> None:
    table = project()
    named = {line.rsplit(" ", 1)[1] for line in table["classifiers"] if re.search(r"Python :: 3\.\d+$", line)}
    assert table["requires-python"] == f">={min(named, key=lambda text: int(text.split('.')[1]))}"


def test_readme_renders_away_from_the_repository() -> None:
    """PyPI shows README without its folder: links and pictures are absolute, and those into the tree point at files."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    defined = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", text, re.MULTILINE))
    targets = [*re.findall(r"\]\(([^)\s]+)\)", text), *defined.values()]
    assert targets
    body = re.sub(r"^\[[^\]]+\]: \S+$", "", text, flags=re.MULTILINE)
    named = {
        label for label in re.findall(r"\[([^\]\s=]+)\]", body) if "." in label or "/" in label or label in defined
    }
    assert named == {*defined}, "each label in brackets has an address, and each address is used"
    assert [target for target in targets if not target.startswith("https://")] == []
    ours = re.compile(
        r"https://(?:github\.com|raw\.githubusercontent\.com)/metascale/metascale/(?:blob/|tree/|)main/(.+)"
    )
    inside = [found[1] for target in targets if (found := ours.fullmatch(target))]
    assert inside
    assert [path for path in inside if not (ROOT / path.partition("#")[0]).exists()] == []
