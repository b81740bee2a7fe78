"""Supervised digit recognition: MNIST from its files, or the 1,797 small digits inside scikit-learn."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from metascale.core.errors import CorruptFile, InputError
from metascale.core.optional import require
from metascale.core.streams import generator
from metascale.core.types import SPLITS, Split
from metascale.tasks.data import locate
from metascale.tasks.supervised.image_set import ImageSet, image_set

SPLIT_SEED = 0
N_MNIST_VALIDATION = 10_000
DIGITS_SHARES = (0.6, 0.2, 0.2)
_MOST_BYTES = 1 << 28
_UNSIGNED_BYTE = 8


def mnist(
    data_dir: Path | str | None = None,
    n_train: int | None = None,
    n_batch: int = 128,
    seed: int = 0,
    *,
    label_noise: float = 0.0,
    duplicates: float = 0.0,
    noise_seed: int = 0,
    **settings: Any,
) -> ImageSet:
    """MNIST (LeCun et al. 1998), 28x28: 50,000 training, 10,000 validation and the 10,000 test images.

    Validation is a fixed random sixth of the 60,000 (the same for every seed and size); a smaller training set is a
    part of every larger one.

    Args:
        data_dir: the data folder; ``None``: the one that METASCALE_DATA names.
        n_train, label_noise, duplicates, noise_seed: as in `image_set`.
        settings: further fields of `ImageSet`.

    Raises:
        InputError: the files are missing, or an argument is out of range.
        CorruptFile: a file is not what it should be.
    """
    images, labels = _mnist_arrays(locate("mnist", data_dir))
    details = {"source": "MNIST", "split": f"validation: {N_MNIST_VALIDATION} of the 60,000, seed {SPLIT_SEED}"}
    return image_set(
        "mnist", images, labels, n_train=n_train, label_noise=label_noise, duplicates=duplicates,
        noise_seed=noise_seed, details=details, n_batch=n_batch, seed=seed, **settings,
    )  # fmt: skip


def small_digits(
    n_train: int | None = None,
    n_batch: int = 64,
    seed: int = 0,
    *,
    label_noise: float = 0.0,
    duplicates: float = 0.0,
    noise_seed: int = 0,
    **settings: Any,
) -> ImageSet:
    """The 8x8 digits of scikit-learn, no download: 1,078 training, 360 validation and 359 test images.

    Raises:
        InputError: an argument is out of range.
        MissingDependency: scikit-learn is not installed.
    """
    images, labels = _digits_arrays()
    details = {
        "source": "Optical Recognition of Handwritten Digits (UCI), the copy in scikit-learn's load_digits",
        "split": f"shares {DIGITS_SHARES}, seed {SPLIT_SEED}",
    }
    return image_set(
        "small_digits", images, labels, n_train=n_train, label_noise=label_noise, duplicates=duplicates,
        noise_seed=noise_seed, details=details, n_batch=n_batch, seed=seed, **settings,
    )  # fmt: skip


@lru_cache(maxsize=1)
def _digits_arrays() -> tuple[dict[Split, np.ndarray], dict[Split, np.ndarray]]:
    data = require("sklearn.datasets", "images", "the digits data set").load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)
    order = generator(SPLIT_SEED, "split", "small_digits").permutation(len(images))
    cuts = [round(DIGITS_SHARES[0] * len(order)), round((DIGITS_SHARES[0] + DIGITS_SHARES[1]) * len(order))]
    parts = np.split(order, cuts)
    return (
        {split: images[part] for split, part in zip(SPLITS, parts, strict=True)},
        {split: data.target[part] for split, part in zip(SPLITS, parts, strict=True)},
    )


@lru_cache(maxsize=1)
def _mnist_arrays(folder: Path) -> tuple[dict[Split, np.ndarray], dict[Split, np.ndarray]]:
    images, labels = read_idx(folder / "train-images-idx3-ubyte.gz"), read_idx(folder / "train-labels-idx1-ubyte.gz")
    test = read_idx(folder / "t10k-images-idx3-ubyte.gz"), read_idx(folder / "t10k-labels-idx1-ubyte.gz")
    for part, numbers in ((images, labels), test):
        if part.ndim != 3 or part.shape[1:] != (28, 28) or numbers.ndim != 1 or len(part) != len(numbers):
            raise CorruptFile(f"the images and labels in {folder} do not belong together")
        if numbers.max() > 9:
            raise CorruptFile(f"a label in {folder} is above 9")
    order = generator(SPLIT_SEED, "split", "mnist").permutation(len(images))
    held, kept = order[:N_MNIST_VALIDATION], order[N_MNIST_VALIDATION:]
    return (
        {"train": images[kept], "validation": images[held], "test": test[0]},
        {"train": labels[kept], "validation": labels[held], "test": test[1]},
    )


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of a gzip-compressed IDX file.

    Sizes are read from the header and checked against the content before anything is made of them.

    Raises:
        InputError: the file cannot be read.
        CorruptFile: it is no IDX file of bytes, or not of the length that its header says.
    """
    try:
        with gzip.open(path) as stream:
            data = stream.read(_MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorruptFile(f"{path} cannot be decompressed: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > _MOST_BYTES:
        raise CorruptFile(f"{path} holds more than {_MOST_BYTES} bytes")
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UNSIGNED_BYTE or not 1 <= data[3] <= 4:
        raise CorruptFile(f"{path} does not begin like an IDX file of bytes")
    n_dimensions = data[3]
    start = 4 + 4 * n_dimensions
    if len(data) < start:
        raise CorruptFile(f"{path} ends inside its header")
    shape = struct.unpack_from(f">{n_dimensions}I", data, 4)
    if len(data) - start != math.prod(shape):
        raise CorruptFile(f"{path} holds {len(data) - start} values where its header says {math.prod(shape)}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
