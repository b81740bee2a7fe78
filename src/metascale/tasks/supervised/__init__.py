"""Data without episodes: labelled images, streams of tokens, texts with weak labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.tasks.supervised.images import ImageSet, image_set, mnist, small_digits
    from metascale.tasks.supervised.language_text import own_text, wikitext
    from metascale.tasks.supervised.tokens import Floors, TokenStream, floors
    from metascale.tasks.supervised.weak_labels import LabelledTexts, WeakLabelData, majority_vote, weak_label_data

__all__ = [
    "Floors",
    "ImageSet",
    "LabelledTexts",
    "TokenStream",
    "WeakLabelData",
    "floors",
    "image_set",
    "majority_vote",
    "mnist",
    "own_text",
    "small_digits",
    "weak_label_data",
    "wikitext",
]

__getattr__, __dir__ = lazy(__name__)
