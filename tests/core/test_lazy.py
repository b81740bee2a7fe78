"""Names of a package that load their modules when they are first used."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import metascale as ms
from metascale.core.lazy import lazy


def test_a_name_is_loaded_once_and_then_stands_in_the_package() -> None:
    package = ModuleType("a_package")
    sys.modules["a_package"] = package
    try:
        get, names = lazy("a_package", {"OrderedDict": "collections"}, ("inside",))
        assert "OrderedDict" in names()
        assert "inside" in names()
        assert get("OrderedDict") is sys.modules["collections"].OrderedDict
        assert vars(package)["OrderedDict"] is sys.modules["collections"].OrderedDict
    finally:
        del sys.modules["a_package"]


def test_an_unknown_name_is_refused_as_python_does() -> None:
    with pytest.raises(AttributeError, match="module 'metascale' has no attribute 'MAMl'"):
        _ = ms.MAMl
    assert not hasattr(ms, "__wrapped__")


def test_rooms_are_reached_by_name() -> None:
    code = "import metascale as ms; assert ms.laws.fit is ms.fit; assert 'bilevel' in dir(ms)"
    subprocess.run([sys.executable, "-c", code], check=True)
