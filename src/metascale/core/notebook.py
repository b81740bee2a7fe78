"""Results at a prompt, as their summaries, and in a notebook: words, tables and small pictures, escaped."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 72  # of the picture in a notebook's page: some 20 kB however many runs a table has
STYLE = "white-space:pre-wrap;line-height:1.35"


class HasSummary(Protocol):
    """What has words."""

    def summary(self) -> str: ...


class Result(HasSummary, Protocol):
    """What has words and a picture."""

    def plot(self, ax: Axes | None = None) -> Axes: ...


class Told:
    """Base of results: ``print``, a prompt and notebooks show the text of ``summary()``, not thousands of numbers."""

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        cls.__repr__ = Told.__repr__  # type: ignore[method-assign]  # else a dataclass writes one of all its fields

    def __repr__(self: HasSummary) -> str:
        return self.summary()

    def _repr_html_(self: HasSummary) -> str:
        return words(self.summary())


class Shown(Told):
    """Base of results that have a picture: notebooks show that of ``plot()`` above the text of ``summary()``."""

    def _repr_html_(self: Result) -> str:
        return f"<div>{image(self.plot(), type(self).__name__)}{words(self.summary())}</div>"


def words(text: str) -> str:
    """Text as a page's element, escaped."""
    return f'<pre style="{STYLE}">{escape(text)}</pre>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table as a page's element, escaped; the first cell of a row is its head."""
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(
        f"<tr><th>{escape(first)}</th>{''.join(f'<td>{escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{above}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook (Jupyter, Colab, VS Code); IPython in a terminal is not."""
    # Read from the modules that are loaded: a kernel has loaded IPython, and nothing else has to.
    found = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(found, "kernel", None) is not None


def image(ax: Axes, alternative: str) -> str:
    """The figure of an axis as an element of a page, inside which it is whole."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = ax.get_figure(root=True)
    assert figure is not None
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    data = base64.b64encode(stream.getvalue()).decode()
    return f'<img alt="{escape(alternative)}" style="max-width:100%" src="data:image/png;base64,{data}">'
