"""Inputs of any nesting as named tensors and back: batches hold a flat mapping, modules take what they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from metascale.core.errors import InputError
from metascale.core.types import Batch, Episode

if TYPE_CHECKING:
    import torch

Nested: TypeAlias = "torch.Tensor | Mapping[str, Nested] | Sequence[Nested]"
"""A tensor, or a mapping (``BatchEncoding`` counts), tuple or list of such values."""


def flatten(value: Nested) -> dict[str, torch.Tensor]:
    """Named tensors: ``x`` for a tensor alone, else the way to each one, such as ``image`` or ``0.mask``.

    Raises:
        InputError: something else than tensors, mappings, tuples and lists; or a key with a dot in it.

    Example:
        >>> import torch
        >>> sorted(flatten((torch.zeros(1), {"mask": torch.ones(1)})))
        ['0', '1.mask']
    """
    import torch

    if isinstance(value, torch.Tensor):
        return {"x": value}
    found: dict[str, torch.Tensor] = {}
    _walk(value, (), found)
    if not found:
        raise InputError("inputs must hold at least one tensor", field="inputs")
    return found


def _walk(value: Nested, way: tuple[str, ...], found: dict[str, torch.Tensor]) -> None:
    import torch

    if isinstance(value, torch.Tensor):
        found[".".join(way)] = value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            name = str(key)
            if "." in name or name.isdigit():
                raise InputError(f"an input may not be called '{name}': no dots, and not a number", field="inputs")
            _walk(each, (*way, name), found)
    elif isinstance(value, tuple | list):
        for place, each in enumerate(value):
            _walk(each, (*way, str(place)), found)
    else:
        where = f" at '{'.'.join(way)}'" if way else ""
        raise InputError(
            f"inputs must be tensors in mappings, tuples or lists, not {type(value).__name__}{where}", field="inputs"
        )


def unflatten(tensors: Mapping[str, torch.Tensor]) -> dict[str, Nested]:
    """What `flatten` was given, by its first names; nested values are mappings and tuples again."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        first, _, rest = name.partition(".")
        groups.setdefault(first, {})[rest] = value
    return {first: group[""] if "" in group else _joined(unflatten(group)) for first, group in groups.items()}


def _joined(parts: dict[str, Nested]) -> Nested:
    return tuple(parts[str(place)] for place in range(len(parts))) if all(map(str.isdigit, parts)) else parts


Examples: TypeAlias = "tuple[Nested, torch.Tensor]"


def batch(tasks: Sequence[Examples]) -> Batch:
    """The examples of T tasks, stacked: ``(inputs, targets)`` of each, all with the same shapes.

    Raises:
        InputError: no task, or tasks whose names or shapes differ.
    """
    import torch

    if not tasks:
        raise InputError("a batch needs at least one task", field="tasks")
    flat = [(flatten(inputs), targets) for inputs, targets in tasks]
    for number, (inputs, targets) in enumerate(flat):
        n_examples = len(targets)
        for name, value in (*inputs.items(), ("targets", targets)):
            like = flat[0][1] if name == "targets" else flat[0][0].get(name)
            if like is None or like.shape != value.shape or inputs.keys() != flat[0][0].keys():
                raise InputError(
                    f"all tasks must have inputs and targets of the same names and shapes; task {number} has "
                    f"'{name}' {list(value.shape)}, task 0 has {_shapes(flat[0])}",
                    field="tasks",
                )
            if len(value) != n_examples:
                raise InputError(
                    f"task {number} has {n_examples} targets but {len(value)} examples in '{name}'", field="tasks"
                )
    names = flat[0][0]
    return Batch(
        {name: torch.stack([inputs[name] for inputs, _ in flat]) for name in names},
        torch.stack([targets for _, targets in flat]),
    )


def _shapes(task: tuple[dict[str, torch.Tensor], torch.Tensor]) -> str:
    inputs, targets = task
    named = {**inputs, "targets": targets}
    return ", ".join(f"'{name}' {list(value.shape)}" for name, value in named.items())


def episode(tasks: Sequence[tuple[Examples, Examples]], names: Sequence[str] | None = None) -> Episode:
    """An episode from tensors at hand: for each task ``((support inputs, targets), (query inputs, targets))``.

    Args:
        tasks: T tasks of the same shapes; inputs of any nesting, examples along the first axis.
        names: what to call the tasks; default their places.

    Raises:
        InputError: shapes that differ between tasks.
    """
    pairs = list(tasks)
    support, query = batch([support for support, _ in pairs]), batch([query for _, query in pairs])
    return Episode(tuple(names) if names is not None else tuple(map(str, range(len(pairs)))), support, query)
