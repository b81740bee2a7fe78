"""Results in a notebook: the text of ``summary()`` beside a small picture of ``plot()``, the same numbers in both."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 72  # of the picture in a notebook's page: some 20 kB however many runs a table has
STYLE = "white-space:pre-wrap;line-height:1.35"


class Result(Protocol):
    """What has words and a picture."""

    def summary(self) -> str: ...

    def plot(self, ax: Axes | None = None) -> Axes: ...


class Shown:
    """Base of results: notebooks show their picture above their words."""

    def _repr_html_(self: Result) -> str:
        return f"<div>{image(self.plot(), type(self).__name__)}{words(self.summary())}</div>"


def words(text: str) -> str:
    """Text as a page's element, escaped."""
    return f'<pre style="{STYLE}">{escape(text)}</pre>'


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
