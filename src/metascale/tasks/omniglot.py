"""Few-shot tasks on Omniglot (Lake, Salakhutdinov & Tenenbaum 2015), from the official zip files at 28 x 28 pixels."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from metascale.core.bounded import check_zip, inflate
from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import sha256_of, write_atomic
from metascale.core.optional import require
from metascale.core.streams import generator
from metascale.core.types import Split
from metascale.tasks.datasets import DATASETS, DRAWING, locate
from metascale.tasks.fewshot import ClassSplit, ClassTable, FewShotSettings, FewShotTasks

if TYPE_CHECKING:
    from typing_extensions import Unpack

PIXELS = 28
N_DRAWINGS = 20
ZIPS = ("images_background.zip", "images_evaluation.zip")
_SOURCE_PIXELS = 105
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PLAIN_HEADER = struct.pack(">IIBBBBB", _SOURCE_PIXELS, _SOURCE_PIXELS, 1, 0, 0, 0, 0)
_CHUNK = 256
_PNG_BYTES = 105 * (1 + 14)
"""A drawing unpacked: 105 rows of a filter byte and 105 bits."""


@dataclass(frozen=True, eq=False)
class Characters:
    """Every character in alphabetical order of its name, background set first, with its 20 drawings.

    Two of the drawings, of one Braille character, are the same picture by two hands; both are kept.
    """

    names: tuple[str, ...]
    n_background: int
    images: np.ndarray


def decode_zips(folder: Path) -> Characters:
    """Read every drawing of the two zip files, invert it (ink 1) and resize it to 28 x 28 with antialiasing.

    Raises:
        MissingDependency: a drawing is stored in an unusual way and pillow is not installed.
        CorruptFile: a zip file is damaged or a character does not have 20 drawings.
    """
    names: list[str] = []
    drawings: list[np.ndarray] = []
    n_background = 0
    for zip_name in ZIPS:
        try:
            with zipfile.ZipFile(folder / zip_name) as archive:
                check_zip(archive, str(folder / zip_name))
                entries = sorted(name for name in archive.namelist() if DRAWING.fullmatch(name))
                bits = [_packed(archive.read(name)) for name in entries]
        except (
            zipfile.BadZipFile,
            zlib.error,
            OSError,
            EOFError,
            ValueError,
            struct.error,
            NotImplementedError,
        ) as error:
            raise CorruptFile(f"{folder / zip_name} is damaged: {error}") from error
        characters = [name.split("/", 1)[1].rsplit("/", 1)[0] for name in entries]
        distinct = characters[::N_DRAWINGS]
        if not entries or characters != [name for name in distinct for _ in range(N_DRAWINGS)]:
            raise CorruptFile(f"{folder / zip_name} does not hold {N_DRAWINGS} drawings of every character")
        names += distinct
        drawings.append(shrink(np.frombuffer(b"".join(bits), np.uint8)))
        n_background = n_background or len(names)
    return Characters(tuple(names), n_background, np.concatenate(drawings))


def _packed(png: bytes) -> bytes:
    """One drawing as 105 rows of 14 bytes, a bit a pixel, paper 1.

    The official files are plain (one bit, no filter, not interlaced) and are unpacked here, four times as fast as by
    pillow; anything else goes to pillow.
    """
    if png[:8] == _PNG_SIGNATURE and png[16:29] == _PLAIN_HEADER:
        data, place = bytearray(), 8
        while place + 8 <= len(png):
            length, kind = struct.unpack_from(">I4s", png, place)
            if kind == b"IDAT":
                data += png[place + 8 : place + 8 + length]
            place += length + 12
        rows = np.frombuffer(inflate(bytes(data), "a drawing", _PNG_BYTES), np.uint8).reshape(_SOURCE_PIXELS, -1)
        if not rows[:, 0].any():
            return rows[:, 1:].tobytes()
    pillow = require("PIL.Image", "images", "reading Omniglot")
    with pillow.open(io.BytesIO(png)) as image:
        if image.size != (_SOURCE_PIXELS, _SOURCE_PIXELS):
            raise OSError(f"a drawing has {image.size} pixels, not {_SOURCE_PIXELS} x {_SOURCE_PIXELS}")
        bits: bytes = image.convert("1", dither=pillow.Dither.NONE).tobytes()
        return bits


def lanczos_weights(n_in: int, n_out: int) -> np.ndarray:
    """[n_out, n_in] the Lanczos-3 antialiasing filter that shrinks a row of ``n_in`` pixels to ``n_out``."""
    ratio = n_in / n_out
    centre = (np.arange(n_out) + 0.5) * ratio
    distance = (np.arange(n_in) + 0.5 - centre[:, None]) / ratio
    weights = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0.0)
    normalised: np.ndarray = weights / weights.sum(1, keepdims=True)
    return normalised.astype(np.float32)


def shrink(packed: np.ndarray) -> np.ndarray:
    """uint8 [n, 28, 28], 255 is ink, of drawings as packed bits; all in a few matrix products, not one by one."""
    rows = packed.reshape(-1, _SOURCE_PIXELS, (_SOURCE_PIXELS + 7) // 8)
    weights = lanczos_weights(_SOURCE_PIXELS, PIXELS)
    small = np.empty((len(rows), PIXELS, PIXELS), np.uint8)
    for start in range(0, len(rows), _CHUNK):
        paper = np.unpackbits(rows[start : start + _CHUNK], axis=2, count=_SOURCE_PIXELS)
        # The filter overshoots at edges; like pillow, clip after each direction.
        narrow = (
            (paper.astype(np.float32).reshape(-1, _SOURCE_PIXELS) @ weights.T)
            .clip(0, 1)
            .reshape(-1, _SOURCE_PIXELS, PIXELS)
        )
        small[start : start + _CHUNK] = 255 - np.rint(255 * (weights @ narrow).clip(0, 1))
    return small


@lru_cache(maxsize=2)
def read_characters(folder: Path, stamp: tuple[tuple[int, int], ...], cache_dir: Path | None) -> Characters:
    """Decoded once a process for each state (size, time) of the zip files."""
    if cache_dir is None:
        return decode_zips(folder)
    digest = sha256_of("".join(sha256_of((folder / name).read_bytes()) for name in ZIPS).encode())[:16]
    path = cache_dir / f"omniglot-{PIXELS}-{digest}.npz"
    if path.is_file():
        return _read_cache(path)
    characters = decode_zips(folder)
    buffer = io.BytesIO()
    np.savez(buffer, names=np.array(characters.names), n_background=characters.n_background, images=characters.images)
    data = buffer.getvalue()
    write_atomic(path, sha256_of(data).encode() + data)
    return characters


def _read_cache(path: Path) -> Characters:
    content = path.read_bytes()
    recorded, data = content[:64], content[64:]
    if sha256_of(data).encode() != recorded:
        raise CorruptFile(f"the cache file {path} is damaged; delete it and it will be made again")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_zip(archive, f"the cache file {path}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return Characters(tuple(arrays["names"].tolist()), int(arrays["n_background"]), arrays["images"])
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise CorruptFile(f"{path} is no cache file of ours ({error}); delete it and it will be made again") from error


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
    details = {
        **DATASETS["omniglot"].provenance,
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
    *,
    rotations: bool = True,
    split_seed: int = 0,
    cache_dir: Path | str | None = None,
    download: bool = True,
    **settings: Unpack[FewShotSettings],
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
        settings: fields of `FewShotTasks` (by default 5-way 1-shot, endless training tasks and 600 test tasks).
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
    chosen: FewShotSettings = {"n_train_tasks": None, "n_test_tasks": 600, **settings}
    return FewShotTasks(table, classes, **chosen)
