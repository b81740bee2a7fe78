"""A text in WikiText-2's files whose words follow one another by a rule, small enough for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

WORDS = tuple(f"w{number}" for number in range(20))
ORDERLY = 0.8
"""Share of words that are the one after the word before them; the others are any."""


def write_small_wikitext(folder: Path) -> Path:
    """Make ``folder`` a data folder with the three files; returns it."""
    place = folder / "wikitext-2-v1"
    place.mkdir(parents=True)
    for number, (name, n_lines) in enumerate((("train.txt", 120), ("valid.txt", 12), ("test.txt", 14))):
        draw = np.random.default_rng([7, number])
        (place / name).write_text("".join(f" {_line(draw)} \n" for _ in range(n_lines)), encoding="utf-8")
    return folder


def _line(draw: np.random.Generator) -> str:
    word, words = int(draw.integers(len(WORDS))), []
    for _ in range(19):
        words.append(WORDS[word])
        word = (word + 1) % len(WORDS) if draw.random() < ORDERLY else int(draw.integers(len(WORDS)))
    return " ".join(words)
