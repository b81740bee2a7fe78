"""Labelled data in whatever form people have it, read into one: arrays, texts or image files, and a label each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from metascale.core.errors import InputError
from metascale.core.nested import flatten
from metascale.core.optional import require
from metascale.core.types import SPLITS, Split
from metascale.tasks.pictures import SUFFIXES, ImageFiles, Pictures
from metascale.tasks.tables import (
    Features,
    Table,
    features_of,
    is_missing,
    is_numeric,
    is_plain,
    joined_features,
    read_table,
    scalar,
)
from metascale.tasks.words import words_of

PARTS: Mapping[str, Split] = {
    **{split: split for split in SPLITS},
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
}
_SAVED = ("dataset_dict.json", "state.json", "dataset_info.json")
_LABELS, _INPUTS = ("label", "labels", "target", "class", "intent"), ("text", "sentence", "image", "img", "x")


@dataclass(frozen=True, eq=False)
class Arrays:
    """Named arrays in memory; ids [...] give tensors [..., *shape]."""

    values: Mapping[str, np.ndarray]

    def __call__(self, ids: np.ndarray) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(array[ids]) for name, array in self.values.items()}


Inputs: TypeAlias = "Arrays | ImageFiles | Pictures | Features | tuple[str, ...]"
"""What the examples are; features and a tuple of texts still have to be made into numbers."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """n examples and their labels.

    Args:
        inputs: the examples.
        labels: [n] names of classes.
        parts: [n] the part of the data set (``train``, ``validation``, ``test``) that each comes from, or empty.
    """

    inputs: Inputs
    labels: tuple[str, ...]
    parts: tuple[Split, ...] = ()

    def keys(self) -> list[bytes]:
        """A number for the content of each example: equal ones for equal examples (texts: the same words)."""
        inputs = self.inputs
        if isinstance(inputs, Features):
            return inputs.keys()
        if isinstance(inputs, tuple):
            return [_digest(" ".join(words_of(text)).encode()) for text in inputs]
        if isinstance(inputs, ImageFiles):
            return [_digest(path.read_bytes()) for path in inputs.paths]
        if isinstance(inputs, Pictures):
            return [_digest(bytes(image)) for part in inputs.parts for image in part]
        rows = (np.ascontiguousarray(array).reshape(len(array), -1) for array in inputs.values.values())
        return [_digest(b"".join(row.tobytes() for row in each)) for each in zip(*rows, strict=True)]


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def read_labelled(
    data: object,
    *,
    label: str | None = None,
    inputs: Sequence[str] | str | None = None,
    categorical: Sequence[str] | str = (),
    image_size: int | None = None,
) -> Labelled:
    """The examples of ``data`` (see `tasks.few_shot`, which explains the arguments).

    Raises:
        InputError: data of another kind, without labels, or with labels that are not classes.
        MissingDependency: a package that reads this kind of data is absent.
    """
    if image_size is not None and image_size < 1:
        raise InputError(f"image_size must be at least 1, not {image_size}", field="image_size", value=image_size)
    named = [categorical] if isinstance(categorical, str) else list(categorical)
    if isinstance(data, str | Path):
        return _from_path(Path(data).expanduser(), label, inputs, named, image_size)
    _refuse("image_size", image_size, "a folder of images")
    if hasattr(data, "column_names") and not hasattr(data, "iloc"):
        return _from_hugging_face(data, label, inputs, named)
    table = read_table(data)
    if table is not None:
        return _from_table(table, label, inputs, named)
    _refuse("categorical", named or None, "a table with columns")
    _refuse("label", label, "a table with columns")
    _refuse("inputs", inputs, "a table with columns")
    if isinstance(data, tuple) and len(data) == 2:
        return _from_pairs(*data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        indexed: Any = data
        return _from_items(indexed[index] for index in range(len(indexed)))
    if isinstance(data, Iterable):
        return _from_items(data)
    raise InputError(
        f"few-shot tasks are made from arrays, a torch data set, a data frame, a Hugging Face data set or a path, not "
        f"from {type(data).__name__}",
        field="data",
    )


def _refuse(field: str, value: object, kind: str) -> None:
    if value is not None:
        raise InputError(f"{field}={value!r} is for {kind}, which these data are not", field=field, value=value)


def _from_items(items: Iterable[Any]) -> Labelled:
    pairs = list(items)
    for number, item in enumerate(pairs):
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InputError(
                f"the items of a data set must be pairs (inputs, label); item {number} is {type(item).__name__}",
                field="data",
            )
    if not pairs:
        raise InputError("the data set has no examples", field="data")
    return Labelled(_together([inputs for inputs, _ in pairs]), names_of([label for _, label in pairs]))


def _from_pairs(inputs: Any, labels: Any) -> Labelled:
    names = names_of(labels)
    found = _texts(inputs) or Arrays({name: _plain(value) for name, value in flatten(_tensors(inputs)).items()})
    counts = {"": len(found)} if isinstance(found, tuple) else {name: len(v) for name, v in found.values.items()}
    for name, count in counts.items():
        if count != len(names):
            raise InputError(
                f"there are {len(names)} labels but {count} examples{f' of {name}' if name else ''}", field="data"
            )
    if not names:
        raise InputError("the data set has no examples", field="data")
    return Labelled(found, names)


def _from_table(
    table: Table, label: str | None, inputs: Sequence[str] | str | None, categorical: Sequence[str]
) -> Labelled:
    columns = table.columns
    label = label_column(table, label)
    wanted = input_columns(table, [label], inputs, categorical)
    if label == table.label and table.class_names:
        names = tuple(_class_name(row, scalar(value), table.class_names) for row, value in enumerate(columns[label]))
    else:
        names = names_of(columns[label])
    if is_features(table, wanted, categorical):
        return Labelled(features_of(columns, wanted, {*table.categorical, *categorical}), names)
    _refuse("categorical", list(categorical) or None, "a table with a column for each feature")
    if len(wanted) == 1:
        return Labelled(_together(list(columns[wanted[0]])), names)
    rows = [dict(zip(wanted, each, strict=True)) for each in zip(*(columns[name] for name in wanted), strict=True)]
    return Labelled(_together(rows), names)


def _class_name(row: int, value: Any, names: Sequence[str]) -> str:
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise InputError(
            f"example {row} has the label {value!r}; there are classes 0 to {len(names) - 1}", field="label"
        )
    return names[value]


def label_column(table: Table, label: str | None) -> str:
    """The column that holds labels or targets, and does hold some."""
    columns = list(table.columns)
    label = label or table.label or _chosen("label", [name for name in _LABELS if name in columns][:1], columns)
    _require_columns("label", [label], columns)
    lengths = {name: len(values) for name, values in table.columns.items()}
    if not lengths[label]:
        raise InputError("the data set has no examples", field="data")
    for name, length in lengths.items():
        if length != lengths[label]:
            raise InputError(
                f"column '{name}' has {length} rows and column '{label}' {lengths[label]}", field="data", value=name
            )
    return label


def input_columns(
    table: Table, taken: Sequence[str], inputs: Sequence[str] | str | None, categorical: Sequence[str]
) -> list[str]:
    """The input columns: those that ``inputs`` names, else what is left by the rules of `tasks.few_shot`."""
    others = [name for name in table.columns if name not in taken]
    if inputs is None:
        plain = [name for name in others if is_plain(table.columns[name])]
        known = [name for name in _INPUTS if name in others and not is_numeric(table.columns[name])]
        inputs = others
        if known or len(plain) < len(others):
            inputs = _chosen("inputs", known[:1] or others, list(table.columns))
    wanted = [inputs] if isinstance(inputs, str) else list(inputs)
    if not wanted:
        raise InputError(f"there is no input column besides {', '.join(taken)}", field="inputs")
    _require_columns("inputs", wanted, list(table.columns))
    _require_columns("categorical", categorical, wanted)
    for name in wanted:
        if name in taken:
            raise InputError(f"column '{name}' is what is to be predicted or the group, no input", field="inputs")
    return wanted


def is_features(table: Table, wanted: Sequence[str], categorical: Sequence[str]) -> bool:
    """Whether these columns are features; a single column of texts is not."""
    if len(wanted) == 1 and not is_numeric(table.columns[wanted[0]]):
        return wanted[0] in {*table.categorical, *categorical}
    return all(is_plain(table.columns[name]) for name in wanted)


def _require_columns(field: str, wanted: Sequence[str], columns: Sequence[str]) -> None:
    for name in wanted:
        if name not in columns:
            raise InputError(f"there is no column '{name}'; there are {', '.join(columns)}", field=field, value=name)


def _chosen(what: str, found: Sequence[str], columns: Sequence[str]) -> str:
    if len(found) != 1:
        raise InputError(f"say with {what}= which column holds the {what}; there are {', '.join(columns)}", field=what)
    return found[0]


def _from_hugging_face(
    data: Any, label: str | None, inputs: Sequence[str] | str | None, categorical: Sequence[str]
) -> Labelled:
    if isinstance(data.column_names, Mapping):
        parts = {name: _from_hugging_face(data[name], label, inputs, categorical) for name in data.column_names}
        return joined(parts)
    return _from_table(columns_of(data, label), label, inputs, categorical)


def columns_of(data: Any, label: str | None) -> Table:
    """The columns of one part of a Hugging Face data set."""
    found = label or _chosen("label", [n for n in _LABELS if n in data.column_names][:1], data.column_names)
    classes = getattr(getattr(data, "features", {}).get(found), "names", None) or ()
    return Table({name: data[name][:] for name in data.column_names}, found, tuple(classes))


def joined(parts: Mapping[str, Labelled]) -> Labelled:
    """The parts of a data set as one; where they are called train, validation and test, each example says its own."""
    unknown = [name for name in parts if name not in PARTS]
    splits: list[Split] = []
    for name, part in parts.items():
        splits += [] if unknown else [PARTS[name]] * len(part.labels)
    values = [part.inputs for part in parts.values()]
    labels = tuple(label for part in parts.values() for label in part.labels)
    first = values[0]
    if isinstance(first, tuple):
        return Labelled(tuple(text for each in values for text in each), labels, tuple(splits))  # type: ignore[union-attr]
    if isinstance(first, Features):
        same = [each for each in values if isinstance(each, Features) and each.columns.keys() == first.columns.keys()]
        if len(same) < len(values):
            raise InputError("the parts of the data set have different columns", field="data")
        return Labelled(joined_features(same), labels, tuple(splits))
    assert isinstance(first, Arrays)
    arrays = {name: np.concatenate([each.values[name] for each in values]) for name in first.values}  # type: ignore[union-attr]
    return Labelled(Arrays(arrays), labels, tuple(splits))


def _from_path(
    path: Path,
    label: str | None,
    inputs: Sequence[str] | str | None,
    categorical: Sequence[str],
    image_size: int | None,
) -> Labelled:
    if not path.exists():
        raise InputError(
            f"there is no file or folder {path}; a data set of the Hugging Face hub is given as "
            "datasets.load_dataset(name)",
            field="data",
            value=str(path),
        )
    if path.is_file():
        _refuse("categorical", list(categorical) or None, "a table with columns (a CSV file has texts here)")
    if path.is_file() and path.suffix.lower() in (".csv", ".tsv"):
        return _from_csv(path, label, inputs, image_size)
    if not path.is_dir():
        raise InputError(f"{path} is neither a folder nor a .csv or .tsv file", field="data", value=str(path))
    if any((path / name).is_file() for name in _SAVED):
        reader = require("datasets", "data", "a folder of a Hugging Face data set")
        return _from_hugging_face(reader.load_from_disk(str(path)), label, inputs, categorical)
    if not any(each.is_dir() for each in path.iterdir()) and any(path.glob("*.parquet")):
        reader = require("datasets", "data", "a folder of a Hugging Face data set")
        return _from_hugging_face(reader.load_dataset(str(path)), label, inputs, categorical)
    for field, value in (("label", label), ("inputs", inputs), ("categorical", list(categorical) or None)):
        _refuse(field, value, "a table with columns")
    return _image_folder(path, image_size)


def _from_csv(path: Path, label: str | None, inputs: Sequence[str] | str | None, image_size: int | None) -> Labelled:
    """Texts, of one column."""
    from metascale.tasks.texts import read_csv

    _refuse("image_size", image_size, "a folder of images")
    columns = [inputs] if isinstance(inputs, str) else list(inputs or ["text"])
    if len(columns) != 1:
        raise InputError(f"the texts of a CSV file stand in one column, not in {columns}", field="inputs")
    rows = read_csv(path, columns[0], label or "label")
    return Labelled(tuple(row.text for row in rows), tuple(row.label for row in rows))


def _image_folder(path: Path, image_size: int | None) -> Labelled:
    """One folder a class, directly or inside folders called train, validation and test."""
    tops = sorted(each for each in path.iterdir() if each.is_dir())
    divided = bool(tops) and all(each.name in PARTS for each in tops)
    folders = [(part.name, each) for part in tops for each in sorted(part.iterdir()) if each.is_dir()]
    classes = folders if divided else [("", each) for each in tops]
    files = [
        (part, folder.name, file)
        for part, folder in classes
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        packed = [file.name for ending in ("pkl", "pickle", "npz") for file in sorted(path.glob(f"*.{ending}"))]
        hint = f"; it holds {packed[0]}: say with published= which published set it is of" if packed else ""
        raise InputError(f"{path} holds no images in a folder for each class{hint}", field="data", value=str(path))
    image = require("PIL.Image", "images", "reading images")
    sizes: dict[tuple[int, int], Path] = {}
    modes = set()
    for _, _, file in files:
        try:
            with image.open(file) as opened:
                sizes.setdefault(opened.size[::-1], file)
                if opened.mode == "F":
                    raise InputError(
                        f"the pixels of {file} are real numbers of no known range: give arrays", field="data"
                    )
                modes.add(opened.mode)
        except OSError as error:
            raise InputError(f"cannot read the image {file}: {error}", field="data", value=str(file)) from error
    if len(sizes) > 1 and image_size is None:
        (one, first), (two, second) = list(sizes.items())[:2]
        raise InputError(
            f"images have different sizes ({first.name} {one[0]}x{one[1]}, {second.name} {two[0]}x{two[1]}): give "
            "image_size, to which all are resized",
            field="image_size",
        )
    size = next(iter(sizes)) if image_size is None else (image_size, image_size)
    grey = all(mode in ("L", "1") or mode.startswith("I") for mode in modes)
    reader = ImageFiles(tuple(file for *_, file in files), size, 1 if grey else 3)
    parts = tuple(PARTS[part] for part, *_ in files) if divided else ()
    return Labelled(reader, tuple(name for _, name, _ in files), parts)


def _texts(values: Any) -> tuple[str, ...] | None:
    """The values, if they are texts."""
    if isinstance(values, str) or not hasattr(values, "__len__") or isinstance(values, Mapping | torch.Tensor):
        return None
    found = tuple(values.tolist() if isinstance(values, np.ndarray) and values.dtype.kind in "UO" else values)
    return tuple(map(str, found)) if found and all(isinstance(value, str) for value in found) else None


def _together(examples: list[Any]) -> Arrays | tuple[str, ...]:
    """The examples one by one as arrays, or as texts."""
    texts = _texts(examples)
    if texts is not None:
        return texts
    flat = [flatten(_tensors(example)) for example in examples]
    for number, example in enumerate(flat):
        for name, value in example.items():
            if example.keys() != flat[0].keys() or value.shape != flat[0][name].shape:
                raise InputError(
                    f"examples must have one shape; example {number} has '{name}' {list(value.shape)}, example 0 "
                    + ", ".join(f"'{name}' {list(value.shape)}" for name, value in flat[0].items()),
                    field="data",
                )
    return Arrays({name: _plain(torch.stack([example[name] for example in flat])) for name in flat[0]})


def _tensors(value: Any) -> Any:
    """The same nesting with tensors for arrays, images and numbers."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {name: _tensors(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return tuple(_tensors(each) for each in value)
    if value is None or isinstance(value, str | bytes):
        raise InputError(f"an example is {value!r}, where numbers, images or texts are allowed", field="data")
    try:
        return torch.from_numpy(np.array(value))
    except TypeError as error:
        raise InputError(
            f"an example holds {type(value).__name__}, where numbers, images or texts are allowed", field="data"
        ) from error


def _plain(values: torch.Tensor) -> np.ndarray:
    """[n, ...], float32 where real; images of bytes [n, height, width(, channels)] as [n, channels, ...] in [0, 1]."""
    if values.dtype == torch.uint8 and values.ndim in (3, 4):
        values = values.unsqueeze(-1) if values.ndim == 3 else values
        values = values.movedim(-1, 1) if values.shape[-1] in (1, 3, 4) else values
        values = values.float() / 255
    if values.is_floating_point():
        values = values.float()
        if not bool(torch.isfinite(values).all()):
            bad = int((~torch.isfinite(values.flatten(1))).any(1).sum())
            raise InputError(f"{bad} examples hold numbers that are not finite", field="data")
    return np.ascontiguousarray(values.numpy())


def names_of(labels: Any, kind: str = "label") -> tuple[str, ...]:
    """Labels as names of classes; or what else names them (``kind``: the group) as names.

    Raises:
        InputError: a label is missing, or a real number.
    """
    values = labels.tolist() if hasattr(labels, "tolist") else [scalar(label) for label in labels]
    for number, value in enumerate(values):
        if is_missing(value) or (isinstance(value, str) and not value.strip()):
            raise InputError(f"example {number} has no {kind}", field=f"{kind}s")
        if not isinstance(value, str | int) and not (isinstance(value, float) and value.is_integer()):
            what = "classes" if kind == "label" else "tasks"
            hint = "; for regression give group=, the column of tasks" if kind == "label" else ""
            raise InputError(
                f"{kind}s must name {what} (texts or whole numbers); that of example {number} is {value!r}{hint}",
                field=f"{kind}s",
            )
    return tuple(value.strip() if isinstance(value, str) else str(int(value)) for value in values)
