"""Optional dependencies: the install line when absent, and nothing masked when broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from metascale.core.errors import MetascaleError, MissingDependency
from metascale.core.optional import require, require_installed


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_what_is_installed_is_returned() -> None:
    assert require("json.decoder", "text", "reading").JSONDecoder is not None


@pytest.mark.parametrize("module", ["a_package_nobody_has", "a_package_nobody_has.inside.deeper"])
def test_what_is_absent_is_named_with_its_install_line(module: str) -> None:
    with pytest.raises(MissingDependency) as caught:
        require(module, "text", "the tokenizer")
    message = "the tokenizer needs the package 'a_package_nobody_has'; install it with: pip install 'metascale[text]'"
    assert str(caught.value) == message
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, MetascaleError)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_a_missing_part_of_an_installed_package_is_named() -> None:
    with pytest.raises(MissingDependency, match=r"needs the package 'json\.nowhere'"):
        require("json.nowhere", "text", "reading")


def test_a_package_whose_own_dependency_is_absent_is_not_masked(packages: Path) -> None:
    (packages / "needs_more.py").write_text("import another_package_nobody_has\n")
    with pytest.raises(ModuleNotFoundError, match="another_package_nobody_has") as caught:
        require("needs_more", "text", "the tokenizer")
    assert not isinstance(caught.value, MissingDependency)


def test_a_name_that_only_begins_alike_is_not_mistaken(packages: Path) -> None:
    """``needs_mo`` is absent inside ``needs_mo_re``: it is no parent of it."""
    (packages / "needs_mo_re.py").write_text("import needs_mo\n")
    with pytest.raises(ModuleNotFoundError) as caught:
        require("needs_mo_re", "text", "the tokenizer")
    assert not isinstance(caught.value, MissingDependency)


def test_an_import_error_inside_an_installed_package_is_not_masked(packages: Path) -> None:
    """A package that fails to import a name from itself, as in a circular import, is there, and broken."""
    (packages / "half_broken.py").write_text("from half_broken import no_such_name\n")
    with pytest.raises(ImportError, match="no_such_name") as caught:
        require("half_broken", "text", "the tokenizer")
    assert not isinstance(caught.value, MissingDependency)


def test_required_without_importing() -> None:
    """The check must not load what is there, and must name the install line for what is not."""
    code = (
        "import sys; from metascale.core.optional import require_installed;"
        "require_installed('sqlite3', 'x', 'a test'); sys.exit('sqlite3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(MissingDependency, match=r"a test needs the package 'no_such'.*pip install 'metascale\[demo\]'"):
        require_installed("no_such", "demo", "a test")
