"""Reference pages of the site: every public name of a room with its signature and docstring, by autodoc.

A page of docs/reference/ holds one line, ``<!-- public names: metascale.ROOM -->``; ``make api`` writes these pages.
"""

from __future__ import annotations

import importlib
import inspect
import re
from functools import cache
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

from metascale.core.lazy import _imports_for_type_checkers as homes_of

LINE = re.compile(r"<!-- public names: ([\w.]+) -->")
CODE = re.compile(r"(``.+?``|`[^`]+`)")
FIELD = re.compile(r"Alias for field number \d+")
PAGES = Path(__file__).parent.parent / "reference"


def entries(name: str) -> str:
    """The directives of the public names of one room, as a block of reStructuredText in a Markdown page."""
    module = importlib.import_module(name)
    found = [directive(module, one) for one in module.__all__ if one != "__version__"]
    return "\n".join(["```{eval-rst}", *filter(None, found), "```"])


def directive(module: ModuleType, name: str) -> str:
    value, full = getattr(module, name), f"{module.__name__}.{name}"
    if inspect.ismodule(value):
        return ""
    if (room := room_of(value, name)) not in (module.__name__, ""):
        return f"``{full}`` is :py:obj:`{room}.{name}`.\n"
    if isinstance(value, type):
        kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
        return f".. {kind}:: {full}\n   :members:\n"
    return f".. autofunction:: {full}\n" if inspect.isroutine(value) else f".. autodata:: {full}\n   :no-value:\n"


def room_of(value: object, name: str) -> str:
    """The room whose public name a value is: of several, the one that its module lies in."""
    offered = [room for room in rooms() if getattr(importlib.import_module(room), name, None) is value]
    home = f"{getattr(value, '__module__', '')}."
    return max(offered, key=lambda room: (home.startswith(f"{room}."), len(room)), default="")


@cache
def rooms() -> tuple[str, ...]:
    """The packages that have a page, but for the face that offers names of all."""
    found = [path.stem for path in PAGES.glob("*.md")]
    return tuple(name for name in sorted(found) if name != "metascale" and lists(name))


def lists(room: str) -> bool:
    return hasattr(importlib.import_module(room), "__all__")


def fill(app: Sphinx, name: str, text: list[str]) -> None:
    """Put the names in the place of the line that asks for them."""
    text[0] = LINE.sub(lambda found: entries(found[1]), text[0])


def plain(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """A docstring is text with names in backquotes: no star, bar or underline of it is markup.

    What Python writes by itself says nothing: of a data class without a docstring, of the fields of a named tuple.
    """
    package, _, short = name.rpartition(".")
    if what == "data":
        lines[:] = said_of(package, short)
    if lines and (lines[0].startswith(f"{short}(") or FIELD.match(lines[0])):
        lines[:] = []
    in_code, margin = False, 0
    for place, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if in_code and line.strip() and indent <= margin:
            in_code = False
        if in_code or line.lstrip().startswith((">>>", "...")):
            continue
        if line.rstrip().endswith("::"):
            in_code, margin = True, indent
        parts = CODE.split(line)
        lines[place] = "".join(one if one.startswith("`") else escaped(one) for one in parts)


def said_of(package: str, name: str) -> list[str]:
    """The text under a value where it is written; a package that loads its names late has none itself."""
    home = homes_of(package).get(name, package)
    return list(ModuleAnalyzer.for_module(home).find_attr_docs().get(("", name), []))


def escaped(text: str) -> str:
    return re.sub(r"([*|\\])|(?<=\w)_(?!\w)", lambda found: "\\" + found[0], text)


def setup(app: Sphinx) -> None:
    app.setup_extension("sphinx.ext.autodoc")
    app.setup_extension("sphinx.ext.napoleon")
    app.connect("source-read", fill, priority=600)
    app.connect("autodoc-process-docstring", plain, priority=400)
