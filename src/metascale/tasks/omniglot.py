"""Few-shot tasks on Omniglot (Lake, Salakhutdinov & Tenenbaum 2015), read from the official zip files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from metascale.core.errors import CorruptFile, InputError
from metascale.core.streams import generator
from metascale.core.types import Split
from metascale.tasks.class_table import ClassSplit, ClassTable
from metascale.tasks.data import locate
from metascale.tasks.data_files import DATASETS
from metascale.tasks.fewshot import FewShotTasks
from metascale.tasks.omniglot_files import N_DRAWINGS, PIXELS, ZIPS, Characters, read_characters

_VINYALS: dict[Split, str] = {
    "train": "vinyals_splits/train.txt",
    "validation": "vinyals_splits/val.txt",
    "test": "vinyals_splits/test.txt",
}
_LAKE_VALIDATION_ALPHABETS = 5


@dataclass(frozen=True, eq=False)
class Drawings:
    """Drawings as uint8 [n, 28, 28] (255 is ink); id ``turns * n + i`` is drawing i after so many quarter turns.

    Ids [...] give ``{"x": [..., 1, 28, 28]}`` float32 in [0, 1].
    """

    images: np.ndarray

    def __call__(self, ids: np.ndarray) -> dict[str, torch.Tensor]:
        turns, place = np.divmod(ids, len(self.images))
        chosen = self.images[place]
        for count in range(1, 4):
            turned = turns == count
            chosen[turned] = np.rot90(chosen[turned], k=count, axes=(1, 2))
        return {"x": torch.from_numpy(chosen).unsqueeze(-3).float().div_(255.0)}


def _table(characters: Characters, rotations: bool) -> ClassTable:
    n_turns = 4 if rotations else 1
    names, examples = [], []
    for number, name in enumerate(characters.names):
        drawings = np.arange(number * N_DRAWINGS, (number + 1) * N_DRAWINGS)
        for turns in range(n_turns):
            names.append(f"{name}/rot{90 * turns:03d}")
            examples.append(drawings + turns * len(characters.images))
    data_set = DATASETS["omniglot"]
    details = {
        "source": data_set.home,
        "licence": data_set.licence,
        "citation": data_set.citation,
        "inputs": f"x [1, {PIXELS}, {PIXELS}] float32 in [0, 1], ink 1",
        "rotations": rotations,
    }
    return ClassTable("omniglot", tuple(names), tuple(examples), Drawings(characters.images), details=details)


def _vinyals_split(folder: Path, table: ClassTable) -> ClassSplit:
    index_of = {name: index for index, name in enumerate(table.classes)}
    members: dict[Split, tuple[int, ...]] = {}
    for split, file in _VINYALS.items():
        listed = [line.strip() for line in (folder / file).read_text().splitlines() if line.strip()]
        unknown = [name for name in listed if name.rsplit("/", 1)[0] + "/rot000" not in index_of]
        if unknown:
            raise CorruptFile(f"{folder / file} names the class {unknown[0]}, which the zip files do not hold")
        members[split] = tuple(index_of[name] for name in listed if name in index_of)
    return ClassSplit(members["train"], members["validation"], members["test"])


def _lake_split(characters: Characters, table: ClassTable, split_seed: int) -> ClassSplit:
    """Test: the evaluation set. Validation: five whole alphabets of the background set."""
    background = set(characters.names[: characters.n_background])
    alphabet = [name.split("/", 1)[0] for name in table.classes]
    in_background = [name.rsplit("/", 1)[0] in background for name in table.classes]
    test = [index for index, inside in enumerate(in_background) if not inside]
    alphabets = sorted({name for name, inside in zip(alphabet, in_background, strict=True) if inside})
    order = generator(split_seed, "class-split", "omniglot-lake").permutation(len(alphabets))
    chosen = {alphabets[place] for place in order[:_LAKE_VALIDATION_ALPHABETS]}
    members = [(index, alphabet[index] in chosen) for index, inside in enumerate(in_background) if inside]
    return ClassSplit(
        tuple(index for index, held_out in members if not held_out),
        tuple(index for index, held_out in members if held_out),
        tuple(test),
    )


def omniglot_tasks(
    data_dir: Path | str | None = None,
    split: Literal["vinyals", "lake"] = "vinyals",
    n_way: int = 5,
    k_shot: int = 1,
    n_query: int = 15,
    n_train_tasks: int | None = None,
    n_validation_tasks: int = 100,
    n_test_tasks: int = 600,
    seed: int = 0,
    *,
    rotations: bool = True,
    split_seed: int = 0,
    cache_dir: Path | str | None = None,
    download: bool = True,
    **settings: Any,
) -> FewShotTasks:
    """Few-shot Omniglot; inputs ``{"x": [T, B, 1, 28, 28]}`` float32 in [0, 1], ink 1.

    Args:
        data_dir: the data folder; ``None``: the environment variable METASCALE_DATA.
        split: ``vinyals``: 1028 / 172 / 423 characters (Vinyals et al. 2016, lists of Snell et al. 2017). ``lake``:
            the background set, less five whole alphabets drawn from ``split_seed`` for validation, and the evaluation
            set (Lake et al. 2015).
        rotations: quarter turns are classes of their own (in the split of their character).
        cache_dir: a folder in which the decoded drawings are kept between processes; ``None``: memory only.
        download: fetch missing files from their public home into the data folder.
        settings: further fields of ``FewShotTasks``.

    Raises:
        InputError: no data folder, a failed download, or as ``FewShotTasks``.
        CorruptFile: a file does not hold what it should.
    """
    if split not in ("vinyals", "lake"):
        raise InputError(f"omniglot: split must be 'vinyals' or 'lake', not {split!r}")
    only = (*ZIPS, *_VINYALS.values()) if split == "vinyals" else ZIPS
    folder = locate("omniglot", data_dir, only=only, download=download).resolve()
    stats = [(folder / name).stat() for name in ZIPS]
    stamp = tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)
    characters = read_characters(folder, stamp, None if cache_dir is None else Path(cache_dir).resolve())
    table = _table(characters, rotations)
    classes = _vinyals_split(folder, table) if split == "vinyals" else _lake_split(characters, table, split_seed)
    return FewShotTasks(
        table, classes, n_way, k_shot, n_query, n_train_tasks, n_validation_tasks, n_test_tasks, seed, **settings
    )
