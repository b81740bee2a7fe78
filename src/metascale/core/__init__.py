"""What every room shares: types, tree arithmetic, named randomness, canonical ids, durable files, errors, units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.core.canonical import canonical_json, content_id
    from metascale.core.dropout import DropoutMasks
    from metascale.core.errors import CorruptFile, Diverged, InputError, MetascaleError, MissingDependency
    from metascale.core.nested import Nested, episode
    from metascale.core.optional import require
    from metascale.core.run import Checkpoint, MemoryRun, Run
    from metascale.core.streams import address, generator, torch_generator
    from metascale.core.trees import add, dot, mean_tasks, norm, scale, stack_tasks, tree_map
    from metascale.core.types import SPLITS, Batch, Encoder, Episode, Model, OutputModel, Params, Split, TaskSource

__all__ = [
    "SPLITS",
    "Batch",
    "Checkpoint",
    "CorruptFile",
    "Diverged",
    "DropoutMasks",
    "Encoder",
    "Episode",
    "InputError",
    "MemoryRun",
    "MetascaleError",
    "MissingDependency",
    "Model",
    "Nested",
    "OutputModel",
    "Params",
    "Run",
    "Split",
    "TaskSource",
    "add",
    "address",
    "canonical_json",
    "content_id",
    "dot",
    "episode",
    "generator",
    "mean_tasks",
    "norm",
    "require",
    "scale",
    "stack_tasks",
    "torch_generator",
    "tree_map",
]

__getattr__, __dir__ = lazy(__name__)
