"""Few-shot tasks from any labelled data."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from metascale.core.errors import InputError
from metascale.core.types import SPLITS, Encoder, Split
from metascale.tasks.csv_rows import LabelledText
from metascale.tasks.fewshot import ClassSplit, ClassTable, FewShotTasks, split_sizes
from metascale.tasks.groups import Grouped, GroupTable, GroupTasks, read_grouped
from metascale.tasks.labelled import PARTS, Arrays, Inputs, Labelled, read_labelled
from metascale.tasks.published import published_set, read_published
from metascale.tasks.tables import Features, Missing, Standardize, scale_of, sorted_names
from metascale.tasks.texts import token_lists
from metascale.tasks.words import BagOfWords, WordEncoder

_log = logging.getLogger("metascale.tasks")


def few_shot(
    data: object,
    n_way: int | None = None,
    k_shot: int = 1,
    n_query: int = 15,
    *,
    label: str | None = None,
    inputs: Sequence[str] | str | None = None,
    group: str | None = None,
    categorical: Sequence[str] | str = (),
    missing: Missing = "refuse",
    standardize: Standardize | None = None,
    encoder: Encoder | Literal["words"] = "words",
    image_size: int | None = None,
    split: Mapping[str, Sequence[object]] | tuple[float, float, float] | None = None,
    split_seed: int = 0,
    name: str | None = None,
    n_train_tasks: int | None = None,
    n_validation_tasks: int = 100,
    n_test_tasks: int = 600,
    n_train_classes: int | None = None,
    seed: int = 0,
    eval_seed: int = 0,
    published: str | None = None,
) -> FewShotTasks | BagOfWords | GroupTasks:
    """``n_way``-way ``k_shot``-shot tasks from labelled data: one task source, with classes held out for test tasks.

    Data may be a pair ``(inputs, labels)`` of arrays (NumPy or torch; inputs of any nesting), a torch data set or list
    of ``(inputs, label)``, a pandas data frame or mapping of columns, a Hugging Face data set, the path of a folder
    that one was saved to, of a folder with one folder of images for each class (below ``train``, ``val`` and ``test``
    or not), or of a CSV or TSV file. It is read into memory once (image files when first asked for). Images of bytes
    become [channels, height, width] in [0, 1]; other arrays stay as they are, in float32 where they are real.

    Classes with fewer than ``k_shot + n_query`` examples are left out; equal examples are kept once, and those with
    several labels not at all. What was left out is logged, and in ``describe()["details"]``.

    A published set (``published=``) is read as it is, in its own split, from any of the forms that it is in use in, and
    refused where its classes, counts or sizes are not the published ones. Pickles are read without running what is in
    them.

    Args:
        data: see above.
        label, inputs: the columns of a table; by default the one called ``label`` (or ``labels``, ``target``,
            ``class``, ``intent``), and the one called ``text``, ``sentence``, ``image``, ``img`` or ``x`` (unless it
            is one number a row), else all others, which have to be numbers or categories where they are several.
        group: the column that says which task a row is of.
        categorical: feature columns that are categories though they hold whole numbers, or a single one of texts.
        missing: ``"impute"``: a missing number is the mean over training rows, a missing category none.
        standardize: ``"inputs"`` (default for a table of features): number columns have mean 0 and standard deviation 1
            over the rows of training classes (groups); ``"all"``: regression targets too, so that a squared error of 1
            is that of predicting their mean; ``"none"``: numbers as they stand.
        encoder: of texts: the one of a language model (inputs ``input_ids`` and ``attention_mask``), or ``"words"``:
            the share of each word of the training classes, inputs ``x`` [T, B, ``n_tokens``].
        image_size: height and width to which image files are resized.
        split: classes (groups) by name for ``train``, ``validation`` and ``test``, or shares of them. Default: the
            parts that the data come in where no class is in two of them, else 60, 20 and 20 % of the classes, but at
            least ``n_way``.
        split_seed: which classes (groups) are drawn for which split.
        name: of the data set, in records; part of every random address.
        n_train_tasks: distinct training tasks; ``None``: any combination of classes, without end; or all groups.
        n_validation_tasks, n_test_tasks, n_train_classes, seed, eval_seed: as in `FewShotTasks`.
        published: the data are the folder of this set: ``"mini-imagenet"``, ``"tiered-imagenet"``, ``"cifar-fs"`` or
            ``"fc100"``.

    Raises:
        InputError: data that cannot be read as labelled examples; too few classes or examples, with the counts.
        MissingDependency: a package that reads this kind of data is absent.
    """
    title = name or published or (Path(data).stem if isinstance(data, str | Path) else "data")
    _check_preparation(missing, standardize, group)
    evaluation: dict[str, int] = {"n_validation_tasks": n_validation_tasks, "n_test_tasks": n_test_tasks}
    counts: dict[str, Any] = {"k_shot": k_shot, "n_query": n_query, "n_train_tasks": n_train_tasks, **evaluation}
    counts |= {"seed": seed, "eval_seed": eval_seed}
    if group is not None:
        _refuse_with_group(n_way=n_way, image_size=image_size, published=published, n_train_classes=n_train_classes)
        _check_encoder(encoder, False)
        rows = read_grouped(data, group, label=label, inputs=inputs, categorical=categorical)
        table, groups = _group_table(title, rows, k_shot + n_query, split, split_seed, missing, standardize)
        return GroupTasks(table, groups, **counts)
    n_way = 5 if n_way is None else n_way
    kept: Sequence[int]
    if published is not None:
        given = {"label": label, "inputs": inputs, "split": split, "categorical": categorical or None}
        found = _published(data, published, image_size=image_size, **given)
        kept, left_out = range(len(found.labels)), dict[str, int]()
    else:
        found = read_labelled(data, label=label, inputs=inputs, categorical=categorical, image_size=image_size)
        kept, left_out = _kept(found, k_shot + n_query)
    names = sorted_names({found.labels[row] for row in kept})
    _say_left_out(title, left_out)
    parts = [(found.labels[row], found.parts[row]) for row in kept] if found.parts else []
    members, how = _members(title, names, parts, split, split_seed, n_way, left_out)
    own = {names[place] for place in members.train}
    train = [row for row in kept if found.labels[row] in own]
    found, prepared = _prepared(title, found, kept, train, missing, standardize)
    examples = _by_class(found.labels, kept, names)
    texts = found.inputs if isinstance(found.inputs, tuple) else ()
    _check_encoder(encoder, bool(texts))
    if texts and encoder == "words":
        encoder = WordEncoder.from_texts(texts[row] for row in train)
    source = type(data).__name__ if published is None else published_set(published).source
    details = {"source": source, "n_examples": len(kept), "left_out": left_out, "split": how, **prepared}
    classes = ClassTable(title, names, examples, _fetch(title, found.inputs, encoder), details=details)
    tasks = FewShotTasks(classes, members, n_way, n_train_classes=n_train_classes, **counts)
    return BagOfWords(tasks, encoder.n_tokens) if texts and isinstance(encoder, WordEncoder) else tasks


def _check_preparation(missing: str, standardize: str | None, group: str | None) -> None:
    for field, value, allowed in (
        ("missing", missing, get_args(Missing)),
        ("standardize", standardize, (None, *get_args(Standardize))),
    ):
        if value not in allowed:
            known = " or ".join(repr(each) for each in allowed if each)
            raise InputError(f"{field} must be {known}, not {value!r}", field=field, value=value, allowed=known)
    if standardize == "all" and group is None:
        raise InputError("standardize='all' is for regression targets; classes have none", field="standardize")


def _refuse_with_group(**others: object) -> None:
    for field, value in others.items():
        if value is not None:
            raise InputError(
                f"{field}={value!r} is for classes; with group= a task is the rows of one group",
                field=field,
                value=value,
            )


def _say_left_out(title: str, left_out: Mapping[str, int]) -> None:
    if left_out:
        _log.warning("%s: left out %s", title, "; ".join(f"{number} {what}" for what, number in left_out.items()))


def _prepared(
    title: str,
    found: Labelled,
    rows: Sequence[int],
    train: Sequence[int],
    missing: Missing,
    standardize: Standardize | None,
) -> tuple[Labelled, dict[str, Any]]:
    """A table of features as arrays, and what is worth a record; other inputs as they are."""
    if isinstance(found.inputs, Features):
        x, details = _encoded(title, found.inputs, rows, train, missing, standardize)
        return replace(found, inputs=Arrays({"x": x})), details
    for field, value in (("missing", None if missing == "refuse" else missing), ("standardize", standardize)):
        if value is not None:
            raise InputError(
                f"{field}={value!r} is for a table with a column for each feature, which these data are not",
                field=field,
                value=value,
            )
    return found, {}


def _encoded(
    title: str,
    features: Features,
    rows: Sequence[int],
    train: Sequence[int],
    missing: Missing,
    standardize: Standardize | None,
) -> tuple[np.ndarray, dict[str, Any]]:
    found = features.encoded(rows, train, standardize != "none", missing)
    for name, categories in found.details.get("categories_without_training_rows", {}).items():
        _log.warning(
            "%s: no training row has %s in column '%s': they count as no category", title, ", ".join(categories), name
        )
    return found.x, found.details


def _group_table(
    title: str,
    found: Grouped,
    needed: int,
    split: Mapping[str, Sequence[object]] | tuple[float, float, float] | None,
    split_seed: int,
    missing: Missing,
    standardize: Standardize | None,
) -> tuple[GroupTable, ClassSplit]:
    """The rows that stay by group, prepared by those of training groups, and which groups those are."""
    distinct: dict[tuple[str, bytes, float], int] = {}
    keys = zip(found.groups, found.features.keys(), found.targets.tolist(), strict=True)
    for row, key in enumerate(keys):
        distinct.setdefault(key, row)
    rows = list(distinct.values())
    counts = Counter(found.groups[row] for row in rows)
    few = sum(number < needed for number in counts.values())
    repeated = len(found.groups) - len(rows)
    said = {
        f"repeated row{'s' * (repeated != 1)}": repeated,
        f"group{'s' * (few != 1)} with fewer than {needed} rows (k_shot + n_query)": few,
    }
    left_out = {what: number for what, number in said.items() if number}
    _say_left_out(title, left_out)
    rows = [row for row in rows if counts[found.groups[row]] >= needed]
    names = sorted_names({found.groups[row] for row in rows})
    members, how = _members(title, names, [], split, split_seed, 1, left_out, "group")
    own = {names[place] for place in members.train}
    train = [row for row in rows if found.groups[row] in own]
    x, details = _encoded(title, found.features, rows, train, missing, standardize)
    mean, deviation = scale_of(found.targets[train]) if standardize == "all" else (0.0, 1.0)
    y = ((found.targets - mean) / deviation).astype(np.float32)[:, None]
    details = {"n_examples": len(rows), "left_out": left_out, "split": how, **details}
    by_group = _by_class(found.groups, rows, names)
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    return GroupTable(title, names, by_group, *tensors, details, mean, deviation), members


def _published(data: object, name: str, *, image_size: int | None, **others: object) -> Labelled:
    """The published set called ``name`` from the folder ``data``."""
    wanted = published_set(name)
    if not isinstance(data, str | Path):
        raise InputError(f"{name} is read from the path of a folder, not from a {type(data).__name__}", field="data")
    for field, value in others.items():
        if value is not None:
            raise InputError(f"{name} has its own classes and split: leave {field} out", field=field, value=value)
    return read_published(Path(data).expanduser(), wanted, image_size)


def _by_class(labels: Sequence[str], kept: Sequence[int], names: Sequence[str]) -> tuple[np.ndarray, ...]:
    """The kept rows of each class."""
    rows: dict[str, list[int]] = {name: [] for name in names}
    for row in kept:
        rows[labels[row]].append(row)
    return tuple(np.array(rows[name], np.int64) for name in names)


def _check_encoder(encoder: Encoder | str, of_texts: bool) -> None:
    if isinstance(encoder, str) and encoder != "words":
        raise InputError(
            f"encoder must be 'words' or an encoder such as metascale.models.text.load_encoder(name), not {encoder!r}",
            field="encoder",
            value=encoder,
        )
    if not isinstance(encoder, str) and not of_texts:
        raise InputError("an encoder is for texts, which these data are not", field="encoder")


def _fetch(title: str, inputs: Inputs, encoder: Encoder | str) -> Callable[[np.ndarray], dict[str, torch.Tensor]]:
    assert not isinstance(inputs, Features)
    if not isinstance(inputs, tuple):
        return inputs
    assert not isinstance(encoder, str)
    return token_lists(title, [LabelledText(text, "") for text in inputs], encoder)


def _kept(found: Labelled, needed: int) -> tuple[list[int], dict[str, int]]:
    """The rows that stay, and how many of what were left out."""
    keys = found.keys()
    labels_of: dict[bytes, set[str]] = {}
    for key, label in zip(keys, found.labels, strict=True):
        labels_of.setdefault(key, set()).add(label)
    seen: set[bytes] = set()
    rows, repeated, ambiguous = [], 0, 0
    for row, key in enumerate(keys):
        if len(labels_of[key]) > 1:
            ambiguous += 1
        elif key in seen:
            repeated += 1
        else:
            seen.add(key)
            rows.append(row)
    counts = Counter(found.labels[row] for row in rows)
    rare = {label for label in set(found.labels) if counts[label] < needed}
    said = {
        f"repeated example{'s' * (repeated != 1)}": repeated,
        f"example{'s' * (ambiguous != 1)} with several labels": ambiguous,
        f"class{'es' * (len(rare) != 1)} with fewer than {needed} examples (k_shot + n_query)": len(rare),
    }
    return [row for row in rows if found.labels[row] not in rare], {what: n for what, n in said.items() if n}


def _members(
    title: str,
    names: tuple[str, ...],
    parts: list[tuple[str, Split]],
    split: Mapping[str, Sequence[object]] | tuple[float, float, float] | None,
    seed: int,
    n_way: int,
    left_out: Mapping[str, int],
    kind: Literal["class", "group"] = "class",
) -> tuple[ClassSplit, str]:
    """The split of classes, or of groups, and where it comes from."""
    if isinstance(split, Mapping):
        return _named(title, names, split, left_out, kind), "as given"
    held = set(parts)
    by_part = {part: tuple(place for place, name in enumerate(names) if (name, part) in held) for part in SPLITS}
    disjoint = sum(map(len, by_part.values())) == len(names)
    if split is None and parts and disjoint and all(by_part.values()):
        return ClassSplit(by_part["train"], by_part["validation"], by_part["test"]), "the parts of the data"
    if split is not None and (not isinstance(split, tuple | list) or len(split) != 3):
        raise InputError(
            f"split must name the classes of train, validation and test, or be three shares, not {split!r}",
            field="split",
            value=split,
        )
    if split is not None:
        return ClassSplit.draw(title, names, split_sizes(title, len(names), split), seed), f"drawn with seed {seed}"
    if len(names) < 3 * n_way:
        lost = "".join(f"; {number} {what} left out" for what, number in left_out.items())
        if kind == "group":
            raise InputError(
                f"{title}: regression tasks for training, validation and test need at least 3 groups, and there are "
                f"{len(names)}{lost}; lower k_shot or n_query",
                field="group",
            )
        raise InputError(
            f"{title}: {n_way}-way tasks for training, validation and test need at least {3 * n_way} classes, and "
            f"there are {len(names)}{lost}; lower n_way, k_shot or n_query, or give split",
            field="n_way",
            value=n_way,
        )
    fifth = max(n_way, round(len(names) / 5))
    sizes: dict[Split, int] = {"train": len(names) - 2 * fifth, "validation": fifth, "test": fifth}
    return ClassSplit.draw(title, names, sizes, seed), f"drawn with seed {seed}"


def _named(
    title: str,
    names: tuple[str, ...],
    split: Mapping[str, Sequence[object]],
    left_out: Mapping[str, int],
    kind: str,
) -> ClassSplit:
    places = {name: place for place, name in enumerate(names)}
    members: dict[Split, tuple[int, ...]] = {}
    for part, classes in split.items():
        if part not in PARTS:
            raise InputError(f"split names train, validation and test, not '{part}'", field="split", value=part)
        absent = [str(each) for each in classes if str(each) not in places]
        if absent:
            lost = "".join(f"; {number} {what} left out" for what, number in left_out.items())
            raise InputError(
                f"{title}: there is no {kind} '{absent[0]}' for {part}{lost}", field="split", value=absent[0]
            )
        members[PARTS[part]] = tuple(places[str(each)] for each in classes)
    if set(members) != set(SPLITS):
        raise InputError("split must name the classes of train, validation and test", field="split")
    return ClassSplit(members["train"], members["validation"], members["test"])
