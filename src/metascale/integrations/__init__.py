"""Adapters and studies for other programs: PEFT folders with a model card, the hub, tables, experiment trackers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.integrations.adapters import export_adapter, push_adapter
    from metascale.integrations.export import export_study

__all__ = ["export_adapter", "export_study", "push_adapter"]

__getattr__, __dir__ = lazy(__name__)
