"""The site: every page is in its index, and the refusals that docs/faq.md explains are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
QUOTED = re.findall(r'^## "(.+)"$', (ROOT / "docs" / "faq.md").read_text(encoding="utf-8"), re.MULTILINE)
CODE = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
SENTENCES = re.sub(r'"\s*\n\s*f?"', "", CODE)  # neighbouring strings are one sentence


@pytest.mark.parametrize("refusal", QUOTED)
def test_a_refusal_of_the_faq_is_in_the_code(refusal: str) -> None:
    assert refusal in SENTENCES


def test_the_faq_quotes_refusals() -> None:
    assert len(QUOTED) >= 6


def test_every_page_is_in_the_index_of_the_site() -> None:
    """`make docs` would fail on it as well, where Sphinx is installed."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    named = {line for block in re.findall(r"```{toctree}\n(.*?)```", index, re.DOTALL) for line in block.splitlines()}
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert pages - named == set(), "add these pages to docs/index.md"


def test_the_gallery_shows_what_its_code_draws() -> None:
    """Each picture that a block saves is shown under it, and each recorded one has its command under it."""
    text = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    shown = re.findall(r"\]\(images/([\w.-]+)\)", text)
    drawn = re.findall(r'"(gallery_\w+\.png)"', text)
    assert [name for name in shown if name.startswith("gallery_")] == drawn
    assert not [name for name in shown if not (ROOT / "docs" / "images" / name).exists()]
    recorded = text.partition("## Recorded studies")[2]
    assert len(re.findall(r"\)\n\n```sh\nmetascale run ", recorded)) == len(shown) - len(drawn)
