"""Data without episodes: labelled images, streams of tokens, texts with weak labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.tasks.supervised.images import ImageSet, image_set, mnist, small_digits
    from metascale.tasks.supervised.tokens import Floors, TokenStream, floors, wikitext
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
    "small_digits",
    "weak_label_data",
    "wikitext",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "ImageSet": "metascale.tasks.supervised.images",
        "image_set": "metascale.tasks.supervised.images",
        "mnist": "metascale.tasks.supervised.images",
        "small_digits": "metascale.tasks.supervised.images",
        "Floors": "metascale.tasks.supervised.tokens",
        "TokenStream": "metascale.tasks.supervised.tokens",
        "floors": "metascale.tasks.supervised.tokens",
        "wikitext": "metascale.tasks.supervised.tokens",
        "LabelledTexts": "metascale.tasks.supervised.weak_labels",
        "WeakLabelData": "metascale.tasks.supervised.weak_labels",
        "majority_vote": "metascale.tasks.supervised.weak_labels",
        "weak_label_data": "metascale.tasks.supervised.weak_labels",
    },
)
