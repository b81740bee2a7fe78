"""What every room shares: types, tree arithmetic, named randomness, canonical ids, durable files, errors, units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.core.canonical import canonical_json, content_id
    from metascale.core.dropout import DropoutMasks
    from metascale.core.errors import CorruptFile, Diverged, InputError, MetascaleError, MissingDependency
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
    "generator",
    "mean_tasks",
    "norm",
    "require",
    "scale",
    "stack_tasks",
    "torch_generator",
    "tree_map",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "SPLITS": "metascale.core.types",
        "add": "metascale.core.trees",
        "dot": "metascale.core.trees",
        "mean_tasks": "metascale.core.trees",
        "norm": "metascale.core.trees",
        "scale": "metascale.core.trees",
        "stack_tasks": "metascale.core.trees",
        "tree_map": "metascale.core.trees",
        "Batch": "metascale.core.types",
        "Checkpoint": "metascale.core.run",
        "CorruptFile": "metascale.core.errors",
        "Diverged": "metascale.core.errors",
        "DropoutMasks": "metascale.core.dropout",
        "Encoder": "metascale.core.types",
        "Episode": "metascale.core.types",
        "InputError": "metascale.core.errors",
        "MemoryRun": "metascale.core.run",
        "MetascaleError": "metascale.core.errors",
        "MissingDependency": "metascale.core.errors",
        "Model": "metascale.core.types",
        "OutputModel": "metascale.core.types",
        "Params": "metascale.core.types",
        "Run": "metascale.core.run",
        "Split": "metascale.core.types",
        "TaskSource": "metascale.core.types",
        "address": "metascale.core.streams",
        "canonical_json": "metascale.core.canonical",
        "content_id": "metascale.core.canonical",
        "generator": "metascale.core.streams",
        "require": "metascale.core.optional",
        "torch_generator": "metascale.core.streams",
    },
)
