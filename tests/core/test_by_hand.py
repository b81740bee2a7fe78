"""Errors across processes, sizes without a name, and what notebooks show."""

from __future__ import annotations

import pickle
import struct
import sys
from base64 import b64decode
from types import ModuleType, SimpleNamespace

import pytest
from matplotlib.figure import Figure

from metascale.core import notebook
from metascale.core.errors import CorruptFile, Diverged, InputError, MetascaleError, MissingDependency
from metascale.core.types import SPLITS
from metascale.core.units import parse_bytes


def test_errors_keep_all_that_they_say_across_processes() -> None:
    refused = pickle.loads(pickle.dumps(InputError("no", field="x", value=[1], allowed="a, b")))
    assert (str(refused), refused.field, refused.value, refused.allowed) == ("no", "x", [1], "a, b")
    grown = pickle.loads(pickle.dumps(Diverged("nan", step=7, task_ids=("a", "b"), last_finite=2.5)))
    assert (str(grown), grown.step, grown.task_ids, grown.last_finite) == ("nan", 7, ("a", "b"), 2.5)
    bare = pickle.loads(pickle.dumps(Diverged("nan", step=0)))
    assert (bare.step, bare.task_ids, bare.last_finite) == (0, (), None)
    for kind, also in ((InputError, ValueError), (MissingDependency, ImportError), (Diverged, ArithmeticError)):
        assert issubclass(kind, MetascaleError)
        assert issubclass(kind, also)
    assert issubclass(CorruptFile, MetascaleError)


def test_a_size_is_of_the_memory_budget_where_nothing_is_said() -> None:
    with pytest.raises(
        InputError, match=r"^memory_budget must be a number of bytes with a unit of B, KB, MB, GB, TB, KiB"
    ):
        parse_bytes("much")
    with pytest.raises(InputError, match=r"^memory_budget must be at least one byte, not 0$"):
        parse_bytes(0)


def test_splits_are_in_their_order() -> None:
    assert SPLITS == ("train", "validation", "test")


class Named(notebook.Told):
    def summary(self) -> str:
        return "a < b"


class Drawn(notebook.Shown):
    def summary(self) -> str:
        return "words"

    def plot(self, ax: object = None) -> object:
        return Figure(figsize=(4, 3)).subplots()


def test_results_are_their_words_and_pictures() -> None:
    """At 72 dots an inch a figure of 4 by 3 inches has 288 by 216 pixels."""
    assert repr(Named()) == str(Named()) == "a < b"
    pre = '<pre style="white-space:pre-wrap;line-height:1.35">'
    assert Named()._repr_html_() == f"{pre}a &lt; b</pre>"
    page = Drawn()._repr_html_()
    before, _, rest = page.partition("base64,")
    data, _, after = rest.partition('">')
    assert before == '<div><img alt="Drawn" style="max-width:100%" src="data:image/png;'
    assert after == f"{pre}words</pre></div>"
    png = b64decode(data)
    assert struct.unpack(">II", png[16:24]) == (288, 216)
    assert b"Software" not in png
    assert notebook.table(["a", "<b>"], [["x", "1 & 2"], ["y", "3"]], "said") == (
        "<table><caption>said</caption><thead><tr><th>a</th><th>&lt;b&gt;</th></tr></thead><tbody><tr><th>x</th>"
        "<td>1 &amp; 2</td></tr><tr><th>y</th><td>3</td></tr></tbody></table>"
    )
    assert "<caption>" not in notebook.table(["a"], [])


def test_a_notebook_is_known_by_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(found: object) -> None:
        module = ModuleType("IPython")
        module.get_ipython = lambda: found  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "IPython", module)

    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not notebook.in_notebook()
    loaded(SimpleNamespace(kernel=object()))
    assert notebook.in_notebook()
    loaded(SimpleNamespace())
    assert not notebook.in_notebook()
    loaded(None)
    assert not notebook.in_notebook()
