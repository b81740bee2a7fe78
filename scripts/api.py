"""Write docs/api.md: every public name by room, with its parameters and the first sentence of its docstring; and the
pages of docs/reference/, which the site fills with signatures and docstrings.

Command:    make api   (or: python scripts/api.py); tests/test_docs.py holds the pages to the code.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
REFERENCE = PAGE.parent / "reference"
ROOMS = (
    *("core", "tasks", "tasks.supervised", "models", "models.text", "training", "hypergrad", "meta"),
    *("parallel", "bilevel", "bilevel.distributed", "laws", "study", "report", "integrations", "workflow", "testing"),
)
HEAD = """# Public names

Written by `make api` from the `__all__` of each room; do not edit. What is not here is private and may change without
notice. The everyday names are in `metascale` itself; every room is reached from there too: `ms.laws.grouped`.
`help(ms.fit)` prints a docstring whole; the site (`make docs`) has all of them, under the link of each room.
"""


def page() -> str:
    """The text of docs/api.md."""
    return "\n".join([HEAD, *(section(name) for name in ("metascale", *(f"metascale.{room}" for room in ROOMS)))])


def reference() -> dict[str, str]:
    """The pages of docs/reference/ by file name."""
    return {f"{name}.md": reference_page(name) for name in ("metascale", *(f"metascale.{room}" for room in ROOMS))}


def reference_page(package: str) -> str:
    """One room: its sentence, and the line that the site puts its names in the place of."""
    about = first_sentence(importlib.import_module(package).__doc__ or "")
    return f"# {package}\n\n{about} [All rooms](../api.md).\n\n<!-- public names: {package} -->\n"


def section(package: str) -> str:
    """One package: its sentence and a table of its names."""
    module = importlib.import_module(package)
    names = [name for name in getattr(module, "__all__", ()) if name != "__version__"]
    rows = [f"| {shown(name, getattr(module, name))} | {sentence(name, getattr(module, name))} |" for name in names]
    table = ["", "| name | what it is |", "|---|---|", *rows] if rows else []
    whole = f"[Signatures and docstrings](reference/{package}.md)."
    return "\n".join([f"## {package}", "", f"{first_sentence(module.__doc__ or '')} {whole}", *table, ""])


def shown(name: str, value: object) -> str:
    """A name as code, with the names of its parameters where it is called."""
    if not is_own(value) or getattr(value, "_is_protocol", False):
        return f"`{name}`"
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return f"`{name}`"
    if isinstance(value, type) and issubclass(value, Exception):
        return f"`{name}`"
    return f"`{name}({', '.join(each.name for each in parameters if not each.name.startswith('_'))})`"


def is_own(value: object) -> bool:
    """Whether it is a class or a function, which has a docstring of its own."""
    return inspect.isroutine(value) or isinstance(value, type)


def sentence(name: str, value: object) -> str:
    """The first sentence of a docstring of its own; for plain values, their type."""
    plain = f"a `{type(value).__name__}`" if type(value).__module__.startswith(("metascale", "builtins")) else "a type"
    found = first_sentence(value.__doc__ or "") if is_own(value) else "a type" if name == "Params" else plain
    return "" if found.startswith(f"{name}(") else found.replace("|", "\\|")


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence; always on one line."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", paragraph, maxsplit=1)[0].replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    REFERENCE.mkdir(exist_ok=True)
    for file, text in reference().items():
        (REFERENCE / file).write_text(text, encoding="utf-8")
