"""Published few-shot image sets from the files that people have, checked against the lists of their classes.

Each set is in use in several forms. Read here are folders of image files with lists of what is in which split, pickles
(`tasks.pickles` reads them: no code of theirs runs), and NumPy's npz. What no file of a form says is not guessed: a set
whose classes, counts or sizes are not the published ones is refused.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np

from metascale.core.errors import CorruptFile, InputError, MetascaleError
from metascale.core.suggest import suggest
from metascale.core.types import SPLITS, Split
from metascale.tasks.labelled import Labelled
from metascale.tasks.pickles import read_pickle
from metascale.tasks.pictures import SUFFIXES, ImageFiles, Pictures

_UNREADABLE = (OSError, ValueError, TypeError, AttributeError, IndexError, KeyError, OverflowError)
_SHORT: Mapping[Split, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}


@dataclass(frozen=True)
class PublishedSet:
    """What a published set holds in its three splits.

    Args:
        source: who made it.
        n_classes, n_images: of training, validation and test.
        per_class: images of each class; ``None``: they differ.
        pixels: height and width.
        digests: of the names of the classes of each split, as `names_digest` gives them.
        names: what a name of a class looks like there. Files that number the classes, or name them in another way, are
            checked by counts.
    """

    name: str
    source: str
    n_classes: tuple[int, int, int]
    n_images: tuple[int, int, int]
    per_class: int | None
    pixels: int
    digests: tuple[str, str, str]
    names: str


def names_digest(names: Sequence[str]) -> str:
    """The first 16 digits of the SHA-256 of the sorted names, one a line."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]


_WORDNET, _WORDS = r"n\d{8}", r"[a-z][a-z_]+"
PUBLISHED: Mapping[str, PublishedSet] = {
    each.name: each
    for each in (
        PublishedSet(
            "mini-imagenet",
            "Vinyals et al. 2016, in the split of Ravi & Larochelle 2017",
            (64, 16, 20),
            (38_400, 9_600, 12_000),
            600,
            84,
            ("0f107a65ea80bf1e", "489f8af43b256009", "0db5287e659efd33"),
            _WORDNET,
        ),
        PublishedSet(
            "tiered-imagenet",
            "Ren et al. 2018",
            (351, 97, 160),
            (448_695, 124_261, 206_209),
            None,
            84,
            ("815386e653f6b4c8", "4ee5b13fa317a860", "d168485c0b36dae9"),
            _WORDNET,
        ),
        PublishedSet(
            "cifar-fs",
            "Bertinetto et al. 2019",
            (64, 16, 20),
            (38_400, 9_600, 12_000),
            600,
            32,
            ("e40c037757741c61", "e02b317c48c94270", "2a35675fcdddfebb"),
            _WORDS,
        ),
        PublishedSet(
            "fc100",
            "Oreshkin et al. 2018",
            (60, 20, 20),
            (36_000, 12_000, 12_000),
            600,
            32,
            ("af96f5ba1e118915", "746350fa6cdcb340", "9df56bf75fee16f6"),
            _WORDS,
        ),
    )
}


def published_set(name: str) -> PublishedSet:
    """
    Raises:
        InputError: there is none of this name.
    """
    if name not in PUBLISHED:
        raise InputError(
            f"there is no published set '{name}'; {suggest(name, list(PUBLISHED), 'published sets')}",
            field="published",
            value=name,
            allowed=", ".join(PUBLISHED),
        )
    return PUBLISHED[name]


Part: TypeAlias = "tuple[tuple[Path, ...] | np.ndarray | tuple[bytes, ...], list[str]]"
"""Images of a split and the name of each one's class."""


def read_published(folder: Path, wanted: PublishedSet, image_size: int | None = None) -> Labelled:
    """The set in ``folder``, whatever form it is in; each example with its class and its split.

    Args:
        image_size: to which image files are resized; the published size by default.

    Raises:
        InputError: the folder holds no form of the set that is read here, or other classes, counts or sizes.
        CorruptFile: a file is not whole.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; {wanted.name} is read from one", field="data", value=str(folder))
    parts = next((found for reader in _READERS if (found := reader(folder))), None)
    if parts is None:
        raise InputError(
            f"{folder} holds no form of {wanted.name} that is read here: train.csv, val.csv and test.csv beside the "
            "images; train.txt, val.txt and test.txt with the names of classes; folders train, val and test with a "
            "folder for each class; one pickle for each split; or one npz for each split",
            field="data",
            value=str(folder),
        )
    for split, place in zip(SPLITS, range(3), strict=True):
        _check(wanted, split, place, parts[split], folder)
    shared = Counter(name for split in SPLITS for name in set(parts[split][1]))
    numbered = all(name.isdecimal() for name in shared)
    named = [[f"{split} {name}" if numbered else name for name in parts[split][1]] for split in SPLITS]
    twice = sorted(name for name, count in Counter(name for part in named for name in set(part)).items() if count > 1)
    if twice:
        raise InputError(f"{folder}: class '{twice[0]}' is in two splits of {wanted.name}", field="data")
    labels = tuple(name for part in named for name in part)
    splits = tuple(split for split, part in zip(SPLITS, named, strict=True) for _ in part)
    return Labelled(_inputs([parts[split][0] for split in SPLITS], wanted, image_size), labels, splits)


def _inputs(images: list[Any], wanted: PublishedSet, image_size: int | None) -> ImageFiles | Pictures:
    if all(isinstance(part, tuple) and isinstance(part[0], Path) for part in images):
        size = image_size or wanted.pixels
        return ImageFiles(tuple(path for part in images for path in part), (size, size), 3)
    if any(isinstance(part, np.ndarray) for part in images) and image_size not in (None, wanted.pixels):
        raise InputError(
            f"image_size={image_size} is for image files, and these are arrays of {wanted.pixels} pixels",
            field="image_size",
            value=image_size,
        )
    return Pictures(tuple(images), image_size or wanted.pixels)


def _check(wanted: PublishedSet, split: Split, place: int, part: Part, folder: Path) -> None:
    """Refuse a split that is not the published one, with what is different."""
    images, labels = part
    where = f"{folder}: {split} of {wanted.name} ({wanted.source})"
    if len(images) != len(labels):
        raise CorruptFile(f"{where} has {len(images)} images and {len(labels)} labels")
    counts = Counter(labels)
    if len(counts) != wanted.n_classes[place]:
        raise InputError(f"{where} has {wanted.n_classes[place]} classes, and here are {len(counts)}", field="data")
    if len(labels) != wanted.n_images[place]:
        raise InputError(
            f"{where} has {wanted.n_images[place]:,} images, and here are {len(labels):,}: the files are not whole",
            field="data",
        )
    uneven = [name for name, count in sorted(counts.items()) if wanted.per_class not in (None, count)]
    if uneven:
        raise InputError(
            f"{where} has {wanted.per_class} images of each class, and here are {counts[uneven[0]]} of '{uneven[0]}'",
            field="data",
        )
    known = all(re.fullmatch(wanted.names, name) for name in counts)
    if known and names_digest(list(counts)) != wanted.digests[place]:
        raise InputError(
            f"{where} has other classes than here ({', '.join(sorted(counts)[:3])}, ...): this is another split, or "
            "another set",
            field="data",
        )
    if isinstance(images, np.ndarray) and images.shape[1:] != (wanted.pixels, wanted.pixels, 3):
        raise InputError(
            f"{where} has images of {wanted.pixels} x {wanted.pixels} x 3, and here they are "
            f"{' x '.join(map(str, images.shape[1:]))}",
            field="data",
        )


def _in_all_splits(find: Callable[[str], Path | None]) -> dict[Split, Path] | None:
    """What ``find`` gives for a name of each split; ``None`` where one has none."""
    found = {split: next((path for name in _SHORT[split] if (path := find(name))), None) for split in SPLITS}
    whole = {split: path for split, path in found.items() if path is not None}
    return whole if len(whole) == len(SPLITS) else None


def _each(files: Mapping[Split, Path] | None, read: Callable[[Path, Split], Part]) -> dict[Split, Part] | None:
    """What ``read`` makes of the file of each split; ``None`` where there are no files.

    Raises:
        CorruptFile: a file has the name of one of the set and does not hold what one does.
    """
    if files is None:
        return None
    found = {}
    for split, path in files.items():
        try:
            found[split] = read(path, split)
        except MetascaleError:
            raise
        except (*_UNREADABLE, csv.Error) as error:
            why = str(error)[:200] or type(error).__name__
            raise CorruptFile(f"{path} does not hold what this form of a published set does ({why})") from error
    return found


def _list_of(folder: Path, name: str) -> Path | None:
    """The nearest file of this name, at most two folders down."""
    for pattern in (name, f"*/{name}", f"*/*/{name}"):
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
    return None


def _from_csv(folder: Path) -> dict[Split, Part] | None:
    """``train.csv``, ``val.csv`` and ``test.csv`` (filename, label), as of Ravi & Larochelle, and the images."""
    lists = _in_all_splits(lambda name: _list_of(folder, f"{name}.csv"))
    return _each(lists, lambda path, split: _listed(folder, path, split))


def _listed(folder: Path, path: Path, split: Split) -> Part:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream) if row]
    if rows and rows[0][:2] == ["filename", "label"]:
        rows = rows[1:]
    if not rows or any(len(row) != 2 for row in rows):
        raise CorruptFile(f"{path} must hold a file name and a label in each row")
    places = [folder, folder / "images", folder / "data", *(folder / name for name in _SHORT[split])]
    shapes = [("{0}", 0), ("{1}/{0}", 1)]
    first = [(place, shape) for place in places for shape, _ in shapes if (place / shape.format(*rows[0])).is_file()]
    if not first:
        raise InputError(
            f"{path} names {rows[0][0]}, which is neither in {folder} nor in its folder images", field="data"
        )
    place, shape = first[0]
    files = tuple(place / shape.format(*row) for row in rows)
    absent = [file for file in files if not file.is_file()]
    if absent:
        raise InputError(
            f"{len(absent)} of {len(files)} images that {path} names are not there: {absent[0]}", field="data"
        )
    return files, [label for _, label in rows]


def _from_class_lists(folder: Path) -> dict[Split, Part] | None:
    """``train.txt``, ``val.txt`` and ``test.txt`` with names of classes, and a folder of images for each class."""
    lists = _in_all_splits(lambda name: _list_of(folder, f"{name}.txt"))
    return _each(lists, lambda path, split: _of_classes(folder, path))


def _of_classes(folder: Path, path: Path) -> Part:
    classes = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not classes:
        raise CorruptFile(f"{path} must name a class in each line, and is empty")
    places = (folder / "data", folder / "images", folder)
    place = next((each for each in places if (each / classes[0]).is_dir()), None)
    if place is None:
        raise InputError(f"{path} names '{classes[0]}', a class that has no folder in {folder}", field="data")
    return _class_folders([place / name for name in classes])


def _from_folders(folder: Path) -> dict[Split, Part] | None:
    """Folders ``train``, ``val`` and ``test`` with a folder of images for each class."""
    tops = _in_all_splits(lambda name: folder / name if (folder / name).is_dir() else None)
    if tops is None:
        return None
    return {
        split: _class_folders(sorted(each for each in top.iterdir() if each.is_dir())) for split, top in tops.items()
    }


def _class_folders(classes: Sequence[Path]) -> Part:
    files, labels = [], []
    for each in classes:
        if not each.is_dir():
            raise InputError(f"there is no folder {each} for the class '{each.name}'", field="data")
        own = sorted(file for file in each.rglob("*") if file.suffix.lower() in SUFFIXES)
        files += own
        labels += [each.name] * len(own)
    return tuple(files), labels


def _file_of(folder: Path, name: str, endings: Sequence[str]) -> Path | None:
    """A file whose name is, or ends in, that of a split. Gidaris & Komodakis have more files of training classes."""
    for ending in endings:
        for file in sorted(folder.glob(f"*{ending}")):
            stem = file.name.removesuffix(ending).lower()
            of_another_phase = "train_phase" in stem and not stem.endswith("train_phase_train")
            if not of_another_phase and (stem == name or stem.endswith((f"_{name}", f"-{name}"))):
                return file
    return None


def _from_pickles(folder: Path) -> dict[Split, Part] | None:
    """One pickle a split: images with a dictionary of classes, or with labels."""
    files = _in_all_splits(lambda name: _file_of(folder, name, (".pkl", ".pickle")))
    return _each(files, lambda path, split: _pickled(path))


def _pickled(path: Path) -> Part:
    data = read_pickle(path)
    if isinstance(data, dict) and {"image_data", "class_dict"} <= data.keys():
        images, labels = data["image_data"], [""] * len(data["image_data"])
        for name, places in _dictionary(data["class_dict"], path).items():
            for each in np.asarray(places).ravel().tolist():
                if not isinstance(each, int) or not 0 <= each < len(labels):
                    raise CorruptFile(f"{path}: class '{name}' names image {each} of {len(labels)}")
                labels[each] = str(name)
        return _colour(images, path), labels
    if isinstance(data, dict) and {"data", "labels"} <= data.keys():
        names = {int(number): str(name) for name, number in (data.get("catname2label") or {}).items()}
        return _colour(data["data"], path), _named(data["labels"], names, path)
    held = ", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__
    raise InputError(f"{path} must hold image_data and class_dict, or data and labels, not {held}", field="data")


def _from_images_and_labels(folder: Path) -> dict[Split, Part] | None:
    """Ren et al.: ``train_images_png.pkl`` or ``train_images.npz``, with ``train_labels.pkl``, and so on."""
    labels = _in_all_splits(lambda name: path if (path := folder / f"{name}_labels.pkl").is_file() else None)
    forms = ("images.npz", "images_png.pkl")
    images = _in_all_splits(
        lambda name: next(filter(Path.is_file, (folder / f"{name}_{form}" for form in forms)), None)
    )
    if labels is None or images is None:
        return None
    return _each(images, lambda path, split: (_colour(_images(path), path), _ren_labels(labels[split])))


def _images(path: Path) -> Any:
    return read_pickle(path) if path.suffix == ".pkl" else _arrays(path, ("images",))[0]


def _ren_labels(path: Path) -> list[str]:
    data = _dictionary(read_pickle(path), path)
    names = data.get("label_specific_str")
    known = {number: str(name) for number, name in enumerate(names)} if isinstance(names, list | tuple) else {}
    for key in ("label_specific", "labels"):
        if key in data:
            return _named(data[key], known if len(set(known.values())) == len(known) else {}, path)
    raise InputError(f"{path} must hold label_specific or labels, not {', '.join(map(str, data))}", field="data")


def _from_npz(folder: Path) -> dict[Split, Part] | None:
    """One npz a split with images and labels (``features`` and ``targets``)."""
    files = _in_all_splits(lambda name: _file_of(folder, name, (".npz",)))
    return _each(files, lambda path, split: _archived(path))


def _archived(path: Path) -> Part:
    images, labels = _arrays(path, ("images", "features", "data", "x"), ("labels", "targets", "y"))
    return _colour(images, path), _named(labels, {}, path)


def _arrays(path: Path, *wanted: Sequence[str]) -> list[np.ndarray]:
    """One array for each of the alternatives."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            held = [*archive.files]
            names = [next((name for name in each if name in held), None) for each in wanted]
            found = [archive[name] for name in names if name is not None]
    except (OSError, ValueError, EOFError, TypeError, BadZipFile) as error:
        raise CorruptFile(f"{path} is not a whole npz of numbers ({error})") from error
    if len(found) < len(wanted):
        keys = " and ".join(each[0] for each in wanted)
        raise InputError(f"{path} must hold {keys}, not {', '.join(held)}", field="data")
    return found


def _dictionary(value: Any, path: Path) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a {type(value).__name__} where a dictionary is expected", field="data")
    return value


def _named(labels: Any, names: Mapping[int, str], path: Path) -> list[str]:
    values = labels.tolist() if isinstance(labels, np.ndarray) else labels
    if not isinstance(values, list | tuple) or not all(isinstance(value, int | str) for value in map(_item, values)):
        raise InputError(f"the labels in {path} must be whole numbers or names", field="data")
    return [names.get(value, str(value)) if isinstance(value, int) else value for value in map(_item, values)]


def _item(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _colour(images: Any, path: Path) -> np.ndarray | tuple[bytes, ...]:
    """Images as uint8 [n, height, width, 3], or encoded."""
    if isinstance(images, list | tuple) and images and not (isinstance(images[0], np.ndarray) and images[0].ndim == 3):
        encoded = tuple(each.astype(np.uint8).tobytes() if isinstance(each, np.ndarray) else each for each in images)
        if not all(isinstance(each, bytes) for each in encoded):
            raise InputError(f"the images in {path} must be arrays or encoded images", field="data")
        return encoded
    array = np.stack(images) if isinstance(images, list | tuple) and images else images
    if not isinstance(array, np.ndarray) or array.ndim != 4 or array.dtype != np.uint8 or 3 not in array.shape[1::2]:
        shape = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"the images in {path} must be bytes [n, height, width, 3], not {shape}", field="data")
    return array if array.shape[3] == 3 else array.transpose(0, 2, 3, 1)


_READERS: tuple[Callable[[Path], dict[Split, Part] | None], ...] = (
    _from_images_and_labels,
    _from_pickles,
    _from_npz,
    _from_csv,
    _from_class_lists,
    _from_folders,
)
