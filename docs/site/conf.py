"""The documentation as a site: ``make docs``. The pages are those of docs/, which stay readable where they are."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).parent.parent
sys.path.insert(0, str(Path(__file__).parent))
ROOT = DOCS.parent
SOURCE = "https://github.com/metascale/metascale/blob/main/"

project, author, copyright = "metascale", "The metascale developers", "The metascale developers"
extensions = ["myst_parser", "reference"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
exclude_patterns = ["results/records/**"]
html_theme = "furo"
html_title = "metascale"
master_doc = "index"
suppress_warnings = ["misc.highlighting_failure", "ref.python"]  # a type's short name may be of two rooms
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def to_sources(app: Sphinx, name: str, text: list[str]) -> None:
    """Relative links that leave docs/ point to the repository; a link to a file that is not there stays, and warns."""

    def found(match: re.Match[str]) -> str:
        target = (DOCS / name).parent / match[2]
        inside = target.resolve()
        if inside.exists() and (not inside.is_relative_to(DOCS) or inside.suffix not in (".md", ".png", ".svg")):
            return f"{match[1]}{SOURCE}{inside.relative_to(ROOT)}{match[3]}"
        return match[0]

    text[0] = re.sub(r"(\]\(|^\[[^\]]+\]: )(?!\w+:|#)([^)#\s]+)(\)|#[^)\s]*\)?|$)", found, text[0], flags=re.MULTILINE)


def setup(app: Sphinx) -> None:
    app.connect("source-read", to_sources)
