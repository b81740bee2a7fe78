"""The pages tell the truth: every Python block of README, CONTRIBUTING and docs runs, so do the examples and doctests.

Blocks of one page share a namespace and run in order, in an empty folder. A comment on the line before a block, seen
by nobody who reads the page, changes that:

    <!-- not run: reason -->      the block is skipped
    <!-- file: NAME -->           the block (of any language) is saved as that file, as the page asks its reader to
    <!-- needs: VARIABLE -->      anywhere on the page: skip the page unless the environment variable is set
"""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import linecache
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from metascale.study.status import study_status
from metascale.workflow.conclude import conclude

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "metascale"
FENCE = re.compile(r"^(?P<indent>[ \t]*)```+(?P<language>[^`\s]*)[^`]*$")
COMMENT = re.compile(r"<!--\s*(?P<kind>not run|file|needs):\s*(?P<text>.*?)\s*-->")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, the number of the text's first line, and the comment before it."""

    language: str
    text: str
    line: int
    skip: str = ""
    file: str = ""

    @property
    def counts(self) -> bool:
        return self.language == "python" or bool(self.file)


@dataclass(frozen=True)
class Page:
    """A Markdown page."""

    path: Path
    blocks: tuple[Block, ...]
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix() if self.path.is_relative_to(ROOT) else self.path.name


def read_page(path: Path) -> Page:
    """The blocks of a page, in order."""
    blocks, needs, said = [], [], {}
    lines = path.read_text(encoding="utf-8").split("\n")
    number = 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        comment = COMMENT.search(lines[number])
        if opening is None:
            if comment is None:
                said = said if not lines[number].strip() else {}
            elif comment["kind"] == "needs":
                needs.append(comment["text"])
            else:
                assert comment["text"], f"{path.name}, line {number + 1}: '{comment['kind']}' says nothing"
                said = {comment["kind"]: comment["text"]}
            number += 1
            continue
        closing = f"{opening['indent']}```"
        last = next((k for k in range(number + 1, len(lines)) if lines[k].rstrip() == closing), None)
        assert last is not None, f"{path.name}, line {number + 1}: this block has no end"
        text = textwrap.dedent("\n".join(lines[number + 1 : last])) + "\n"
        blocks.append(
            Block(opening["language"], text, number + 2, skip=said.get("not run", ""), file=said.get("file", ""))
        )
        said, number = {}, last + 1
    return Page(path, tuple(blocks), tuple(needs))


def run_page(page: Page, folder: Path) -> None:
    """Run a page's blocks in ``folder``, which is the working folder and on the import path."""
    module = ModuleType("page_" + re.sub(r"\W", "_", page.name))
    sys.modules[module.__name__] = module  # data classes look their module up
    for block in page.blocks:
        if block.skip or not block.counts:
            continue
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
            continue
        # Empty lines before the code make the line numbers of a traceback those of the page.
        code = compile("\n" * (block.line - 1) + block.text, str(page.path), "exec", dont_inherit=True)
        exec(code, module.__dict__)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder on the import path, one thread, plots without a screen; modules from it are forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    known, threads = set(sys.modules), torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)
    for name in set(sys.modules) - known:
        if name.startswith("page_") or str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    linecache.checkcache()
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


LONG = {"README.md", "docs/extending.md", "docs/laws.md", "docs/tutorial.md"}
"""Pages that run whole studies, or fit laws for ten seconds: with `make test-long`."""


def pages() -> list[Page]:
    """README, CONTRIBUTING and everything under docs that has something to run."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    read = [read_page(path) for path in found if path.exists()]
    return [page for page in read if any(block.counts and not block.skip for block in page.blocks)]


# peft 0.21 asks transformers 5.23 for an attribute under its old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name, marks=[pytest.mark.long] * (page.name in LONG)) for page in pages()]
)
def test_every_python_block_of_a_page_runs(page: Page, empty_folder: Path) -> None:
    missing = [name for name in page.needs if not os.environ.get(name)]
    if missing:
        pytest.skip(f"{page.name} needs {', '.join(missing)}, which is not set")
    run_page(page, empty_folder)


def test_what_other_libraries_show_takes_no_more_lines_here() -> None:
    """``<!-- theirs: N lines -->`` counts the lines of code of the original that the next block rewrites."""
    text = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
    found = re.findall(r"<!-- theirs: (\d+) lines -->\n```python\n(.*?)```", text, re.DOTALL)
    assert len(found) == 5
    for theirs, block in found:
        own = [line for line in block.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        assert len(own) <= int(theirs), block


DOCTESTED = [
    path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".")
    for path in sorted(PACKAGE.rglob("*.py"))
    if re.search(r"^\s*>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
]


def run_doctests(module: ModuleType) -> None:
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert result.failed == 0, f"{result.failed} of {result.attempted} examples in {module.__name__} fail, see above"


@pytest.mark.parametrize("name", DOCTESTED or [pytest.param("", marks=pytest.mark.skip("no docstring has an example"))])
def test_examples_in_docstrings_run(name: str, empty_folder: Path) -> None:
    run_doctests(importlib.import_module(name.removesuffix(".__init__")))


@pytest.fixture
def example(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import a script of the examples folder, as Python would run it: its folder is on the import path."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    taken: list[str] = []

    def load(name: str) -> ModuleType:
        taken.append(name)
        return importlib.import_module(name)

    yield load
    for name in taken:
        sys.modules.pop(name, None)


def test_the_reptile_example_learns_digits(example: Callable[[str], ModuleType]) -> None:
    result = example("reptile_digits").main(max_steps=100, n_test_tasks=20)
    assert result.at(0)["accuracy"] == pytest.approx(0.2, abs=0.1), "unadapted: chance"
    assert result.at(10)["accuracy"] > 0.6


def test_the_study_example_finds_the_known_exponent(example: Callable[[str], ModuleType], empty_folder: Path) -> None:
    module = example("own_trial_study")
    result = module.main(str(empty_folder / "study"))
    alpha = result.parameters["alpha"]
    assert result.fit.law.name == "power"
    assert alpha["low"] < 0.5 < alpha["high"]
    assert alpha["high"] - alpha["low"] < 0.1
    before = (empty_folder / "study" / "results.csv").read_bytes()
    again = module.main(str(empty_folder / "study"))
    assert again.parameters == result.parameters
    assert (empty_folder / "study" / "results.csv").read_bytes() == before
    concluded = conclude(empty_folder / "study")
    assert concluded.analyses[""].parameters["alpha"] == alpha
    assert {trial.loss_name for trial in study_status(empty_folder / "study").trials} == {"error"}
    page = (empty_folder / "study" / "report.html").read_text()
    assert "Does error follow a power law in n points?" in page
    assert not [word for word in ("meta-test", "nats", "test_loss") if word in page]


def test_the_reptile_example_is_as_short_as_promised() -> None:
    """Under 15 lines inside its functions; every example names its command at the top."""
    scripts = sorted((ROOT / "examples").glob("*.py"))
    assert {path.stem for path in scripts} >= {"reptile_digits", "own_trial_study"}
    for path in scripts:
        assert f"python examples/{path.name}" in path.read_text()
    text = (ROOT / "examples" / "reptile_digits.py").read_text()
    body = [line for line in text.splitlines() if line.startswith("    ") and line.strip()]
    assert len(body) < 15


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/extending.md"])
def test_files_and_links_that_a_page_names_exist(name: str) -> None:
    path = ROOT / name
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"`((?:src|tests|docs|examples|benchmarks)/[\w/.]+)`", text)
    linked = [target for target in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in target]
    wanted = [ROOT / one for one in named if not re.search("NAME|ROOM", one)] + [path.parent / one for one in linked]
    assert wanted
    assert [str(one) for one in wanted if not one.exists()] == []


def test_modules_that_the_architecture_names_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+/(?:[a-z_]+/)*(?:[a-z_]+\.py)?)`", text))
    assert len(named) > 15
    bases = (ROOT, PACKAGE, *PACKAGE.iterdir())
    assert [one for one in sorted(named) if not any((base / one).exists() for base in bases)] == []


def test_the_architecture_page_has_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = re.findall(r"^\| `(\w+)` \|", text.partition("## Counts")[0], re.MULTILINE)
    assert sorted(rooms) == sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def test_the_citation_is_whole_and_leaves_the_version_to_the_package() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "title", "message", "authors"} <= citation.keys()
    assert "version" not in citation, "pyproject.toml is the one place"
    assert citation["license"] == "MIT"


def test_the_pages_of_public_names_are_current() -> None:
    found = importlib.util.spec_from_file_location("api", ROOT / "scripts" / "api.py")
    assert found is not None
    assert found.loader is not None
    api = importlib.util.module_from_spec(found)
    found.loader.exec_module(api)
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == api.page(), "write it again: make api"
    written = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md")}
    assert written == api.reference(), "write them again: make api"


PAGE = """# A page

```python
x = 1
```

Text between.

<!-- file: a_module.py -->
```python
def twice(value):
    return 2 * value
```

<!-- not run: it takes a day -->

```python
raise RuntimeError("skipped")
```

```bash
exit 1
```

1. In a list:

   ```python
   import a_module
   from dataclasses import dataclass

   @dataclass
   class Point:
       x: "int"

   assert a_module.twice(Point(x).x) == 2
   open("made_here.txt", "w").close()
   ```
"""


def write_page(folder: Path, text: str) -> Page:
    path = folder / "page.md"
    path.write_text(text, encoding="utf-8")
    return read_page(path)


def test_blocks_share_a_namespace_and_comments_are_obeyed(empty_folder: Path) -> None:
    page = write_page(empty_folder, PAGE)
    assert [block.language for block in page.blocks] == ["python", "python", "python", "bash", "python"]
    assert [block.skip for block in page.blocks] == ["", "", "it takes a day", "", ""]
    run_page(page, empty_folder)
    assert (empty_folder / "made_here.txt").exists()


def test_a_failing_block_names_the_line_of_the_page(empty_folder: Path) -> None:
    page = write_page(empty_folder, "# Title\n\n```python\nx = 1\nx / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as caught:
        run_page(page, empty_folder)
    assert caught.traceback[-1].lineno == 4, "counted from 0"
    assert str(caught.traceback[-1].path).endswith("page.md")


def test_a_comment_holds_for_the_next_block_only(empty_folder: Path) -> None:
    page = write_page(empty_folder, "<!-- not run: why -->\nBut then text.\n```python\nassert False\n```\n")
    with pytest.raises(AssertionError):
        run_page(page, empty_folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [("```python\nx = 1\n", "line 1: this block has no end"), ("<!-- not run: -->\n", "'not run' says nothing")],
)
def test_a_malformed_page_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=message):
        write_page(tmp_path, text)


def test_a_page_may_need_a_variable(tmp_path: Path) -> None:
    assert write_page(tmp_path, "# Real data\n\n<!-- needs: METASCALE_DATA -->\n").needs == ("METASCALE_DATA",)


def test_a_docstring_example_that_is_wrong_fails(capsys: pytest.CaptureFixture[str]) -> None:
    module = ModuleType("wrong")
    module.__doc__ = ">>> 1 + 1\n3\n"
    with pytest.raises(AssertionError, match="1 of 1 examples in wrong fail"):
        run_doctests(module)
    assert "Expected" in capsys.readouterr().out
