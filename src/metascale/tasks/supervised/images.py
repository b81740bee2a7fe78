"""Labelled images for supervised training, with known noise and known copies: MNIST, and the small digits."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch

from metascale.core.bounded import gunzip
from metascale.core.errors import CorruptFile, InputError
from metascale.core.optional import require
from metascale.core.streams import generator
from metascale.core.types import SPLITS, Batch, Split
from metascale.tasks.datasets import locate

if TYPE_CHECKING:
    from typing_extensions import Unpack

SPLIT_SEED = 0
N_MNIST_VALIDATION = 10_000
DIGITS_SHARES = (0.6, 0.2, 0.2)
_UNSIGNED_BYTE = 8


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and labels of three splits, in memory.

    A training batch is ``n_batch`` different examples; epochs are shuffled anew, and batches run on from one to the
    next. Inputs are ``x`` [B, 1, height, width] float32, with the training pixels' mean 0 and deviation 1, and
    ``index`` [B], the example's number in its split.

    Args:
        name: of the data set.
        images: uint8 [n, height, width] of each split.
        labels: int64 [n] of each split, as training sees them.
        true_labels: int64 [n] of the training examples before noise.
        copy_of: int64 [n]: the training example of which this one is a copy, itself where it is none.
        n_classes: number of classes.
        n_batch: examples a training batch.
        n_evaluation_batch: examples a batch of evaluation.
        seed: of the order of training examples.
        details: what a run's record should say about the data.
    """

    name: str
    images: Mapping[Split, np.ndarray]
    labels: Mapping[Split, np.ndarray]
    true_labels: np.ndarray
    copy_of: np.ndarray
    n_classes: int = 10
    n_batch: int = 128
    n_evaluation_batch: int = 1000
    seed: int = 0
    details: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.n_batch <= self.n_examples("train"):
            raise InputError(
                f"n_batch of '{self.name}' must be from 1 to its {self.n_examples('train')} training examples, "
                f"not {self.n_batch}"
            )

    @property
    def image_size(self) -> int:
        """Height and width."""
        return int(self.images["train"].shape[1])

    @property
    def steps_per_epoch(self) -> int:
        """Training batches that cover every example (the last one runs into the next epoch)."""
        return -(-self.n_examples("train") // self.n_batch)

    def n_examples(self, split: Split) -> int:
        """Examples of a split."""
        return len(self.labels[split])

    def batch(self, step: int) -> Batch:
        """Training batch ``step``."""
        n = self.n_examples("train")
        places = np.arange(step * self.n_batch, (step + 1) * self.n_batch)
        index = np.empty(self.n_batch, np.int64)
        for epoch in range(places[0] // n, places[-1] // n + 1):
            here = places // n == epoch
            index[here] = _order(self.seed, epoch, n)[places[here] % n]
        return self.examples("train", index)

    def evaluation(self, split: Split, max_batches: int | None = None) -> Iterator[Batch]:
        """Batches that hold every example of ``split`` once, in order; at most ``max_batches`` of them."""
        for number, start in enumerate(range(0, self.n_examples(split), self.n_evaluation_batch)):
            if number == max_batches:
                return
            stop = min(start + self.n_evaluation_batch, self.n_examples(split))
            yield self.examples(split, np.arange(start, stop))

    def examples(self, split: Split, index: np.ndarray) -> Batch:
        """The examples of these numbers."""
        mean, deviation = self._pixel_statistics
        pixels = (self.images[split][index, None].astype(np.float32) - mean) / deviation
        inputs = {"x": torch.from_numpy(pixels), "index": torch.from_numpy(np.asarray(index, np.int64))}
        return Batch(inputs, torch.from_numpy(self.labels[split][index]))

    @cached_property
    def _pixel_statistics(self) -> tuple[np.float32, np.float32]:
        pixels = self.images["train"]
        return np.float32(pixels.mean(dtype=np.float64)), np.float32(pixels.std(dtype=np.float64))

    def describe(self) -> dict[str, Any]:
        """JSON for the run's record."""
        return {
            "name": self.name,
            "n_examples": {split: self.n_examples(split) for split in SPLITS},
            "n_classes": self.n_classes,
            "n_batch": self.n_batch,
            "seed": self.seed,
            "n_mislabelled": int((self.true_labels != self.labels["train"]).sum()),
            "n_copies": int((self.copy_of != np.arange(len(self.copy_of))).sum()),
            **(self.details or {}),
        }


@lru_cache(maxsize=32)  # trials that run together read in turn, each in its own order
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    return generator(seed, "examples", epoch).permutation(n)


def _n_train(name: str, total: int, n_train: int | None, shares: Mapping[str, float]) -> int:
    """How many training examples there will be."""
    if n_train is not None and not 2 <= n_train <= total:
        raise InputError(f"n_train of '{name}' must be from 2 to {total}, not {n_train}")
    for what, share in shares.items():
        if not 0 <= share < 1:
            raise InputError(f"{what} of '{name}' must be from 0 to below 1, not {share}")
    return total if n_train is None else n_train


class ImageSettings(TypedDict, total=False):
    """Keyword arguments of `image_set`: of noise, copies, and evaluation."""

    label_noise: float
    duplicates: float
    noise_seed: int
    n_evaluation_batch: int


def image_set(
    name: str,
    images: Mapping[Split, np.ndarray],
    labels: Mapping[Split, np.ndarray],
    *,
    n_train: int | None = None,
    label_noise: float = 0.0,
    duplicates: float = 0.0,
    noise_seed: int = 0,
    details: Mapping[str, Any],
    **settings: int,
) -> ImageSet:
    """An `ImageSet` of the first ``n_train`` training examples, with a share of wrong labels and of copies.

    Args:
        n_train: training examples in all; ``None``: every one.
        label_noise: this share of the training labels is replaced by another class, drawn evenly.
        duplicates: this share of the training examples is replaced by copies (image, and true label) of others.
        noise_seed: which ones.
        settings: further fields of `ImageSet`.
    """
    n = _n_train(name, len(labels["train"]), n_train, {"label_noise": label_noise, "duplicates": duplicates})
    n_classes = int(max(part.max() for part in labels.values())) + 1
    draw = generator(noise_seed, "copies", name)
    order, n_copies = draw.permutation(n), round(duplicates * n)
    copy_of = np.arange(n)
    copy_of[order[:n_copies]] = draw.choice(order[n_copies:], n_copies)
    true_labels = labels["train"][:n].astype(np.int64)[copy_of]
    draw = generator(noise_seed, "wrong labels", name)
    wrong = draw.permutation(n)[: round(label_noise * n)]
    noisy = true_labels.copy()
    noisy[wrong] = (true_labels[wrong] + draw.integers(1, n_classes, len(wrong))) % n_classes
    return ImageSet(
        name,
        {**images, "train": images["train"][:n][copy_of]},
        {**{split: part.astype(np.int64) for split, part in labels.items()}, "train": noisy},
        true_labels,
        copy_of,
        n_classes,
        details={**details, "label_noise": label_noise, "duplicates": duplicates, "noise_seed": noise_seed},
        **settings,
    )


def mnist(
    data_dir: Path | str | None = None,
    n_train: int | None = None,
    n_batch: int = 128,
    seed: int = 0,
    **settings: Unpack[ImageSettings],
) -> ImageSet:
    """MNIST (LeCun et al. 1998), 28x28: 50,000 training, 10,000 validation and the 10,000 test images.

    Validation is a fixed random sixth of the 60,000 (the same for every seed and size); a smaller training set is a
    part of every larger one.

    Args:
        data_dir: the data folder; ``None``: the one that METASCALE_DATA names.
        settings: as in `image_set`.
    """
    images, labels = _mnist_arrays(locate("mnist", data_dir))
    details = {"source": "MNIST", "split": f"validation: {N_MNIST_VALIDATION} of the 60,000, seed {SPLIT_SEED}"}
    return image_set("mnist", images, labels, details=details, n_train=n_train, n_batch=n_batch, seed=seed, **settings)


def small_digits(
    n_train: int | None = None,
    n_batch: int = 64,
    seed: int = 0,
    **settings: Unpack[ImageSettings],
) -> ImageSet:
    """The 8x8 digits of scikit-learn, no download: 1,078 training, 360 validation and 359 test images."""
    images, labels = _digits_arrays()
    details = {
        "source": "Optical Recognition of Handwritten Digits (UCI), the copy in scikit-learn's load_digits",
        "split": f"shares {DIGITS_SHARES}, seed {SPLIT_SEED}",
    }
    return image_set(
        "small_digits", images, labels, details=details, n_train=n_train, n_batch=n_batch, seed=seed, **settings
    )


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
        data = gunzip(path.read_bytes(), str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
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
