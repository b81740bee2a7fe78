"""Names of a package that load their modules when they are first used."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import metascale as ms
from metascale.core.errors import MissingDependency

FACE = """
from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    import collections.abc
    from a_package import inside
    from a_package.deep import VALUE
    from collections import OrderedDict

__all__ = ["VALUE", "OrderedDict"]
__getattr__, __dir__ = lazy(__name__)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    for name, text in {"__init__": FACE, "inside": "", "deep": "VALUE = object()"}.items():
        (tmp_path / "a_package").mkdir(exist_ok=True)
        (tmp_path / "a_package" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("a_package")
    for name in [name for name in sys.modules if name.split(".")[0] == "a_package"]:
        del sys.modules[name]


def test_a_name_is_loaded_when_it_is_used_and_then_stands_in_the_package(package: ModuleType) -> None:
    assert {"VALUE", "OrderedDict", "inside"} <= {*dir(package)}
    assert "a_package.deep" not in sys.modules
    value = package.VALUE
    assert vars(package)["VALUE"] is value is sys.modules["a_package.deep"].VALUE
    assert package.OrderedDict is sys.modules["collections"].OrderedDict


def test_modules_of_the_package_are_reached_by_name(package: ModuleType) -> None:
    assert "a_package.inside" not in sys.modules
    assert package.inside is sys.modules["a_package.inside"]
    with pytest.raises(AttributeError, match="module 'a_package' has no attribute 'outside'"):
        _ = package.outside


def test_an_unknown_name_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'metascale' has no attribute 'MAMl'"):
        _ = ms.MAMl
    assert not hasattr(ms, "__wrapped__")


def test_rooms_are_reached_by_name() -> None:
    code = "import metascale as ms; assert ms.laws.fit is ms.fit; assert 'bilevel' in dir(ms)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_needs_torch_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name="torch")

    monkeypatch.delitem(vars(ms), "MAML", raising=False)
    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingDependency, match=r"metascale.MAML needs .*pip install 'metascale\[torch\]'"):
        ms.MAML  # noqa: B018
