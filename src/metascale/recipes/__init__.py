"""The ready-made studies, one file each; `metascale.workflow.load_recipe` finds them by name."""

from __future__ import annotations

__all__: list[str] = []
