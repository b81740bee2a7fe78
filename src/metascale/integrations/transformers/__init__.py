"""Hugging Face's Trainer as a trial of a study: `StudyCallback`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.integrations.transformers.callback import StudyCallback

__all__ = ["StudyCallback"]

__getattr__, __dir__ = lazy(__name__)
