"""Images for supervised training: order, noise and copies as stated; IDX files, whole and damaged; MNIST."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from metascale.core.errors import CorruptFile, InputError
from metascale.tasks.supervised.images import mnist, read_idx, small_digits


def test_batches_cover_every_example_once_an_epoch() -> None:
    data = small_digits(n_train=100, n_batch=32)
    seen = torch.cat([data.batch(step).inputs["index"] for step in range(25)])  # 800 = eight epochs
    for epoch in range(8):
        assert sorted(seen[100 * epoch : 100 * (epoch + 1)].tolist()) == list(range(100))
    assert seen[:100].tolist() != seen[100:200].tolist()
    again = small_digits(n_train=100, n_batch=32).batch(7)
    assert torch.equal(again.inputs["x"], data.batch(7).inputs["x"])
    assert not torch.equal(small_digits(n_train=100, n_batch=32, seed=1).batch(7).targets, again.targets)


def test_splits_are_disjoint_whole_and_standardised() -> None:
    data = small_digits()
    assert [data.n_examples(split) for split in ("train", "validation", "test")] == [1078, 360, 359]
    x = torch.cat([data.examples("train", np.array([i])).inputs["x"] for i in range(1078)])
    assert float(x.mean()) == pytest.approx(0, abs=1e-4)
    assert float(x.std()) == pytest.approx(1, abs=1e-3)
    batches = list(data.evaluation("validation"))
    assert torch.cat([batch.inputs["index"] for batch in batches]).tolist() == list(range(360))
    assert data.image_size == 8
    part = small_digits(n_train=50, n_batch=8)
    assert np.array_equal(part.images["train"], data.images["train"][:50]), "a part of every larger set"
    assert np.array_equal(part.images["test"], data.images["test"])


def test_label_noise_and_copies_are_as_stated() -> None:
    clean, data = small_digits(n_train=1000), small_digits(n_train=1000, label_noise=0.25, duplicates=0.1)
    wrong = data.labels["train"] != data.true_labels
    assert int(wrong.sum()) == 250
    assert set(data.labels["train"]) == set(range(10))
    copies = np.flatnonzero(data.copy_of != np.arange(1000))
    assert len(copies) == 100
    originals = data.copy_of[copies]
    assert not set(originals) & set(copies), "copies are of examples that are no copies"
    assert np.array_equal(data.images["train"][copies], clean.images["train"][originals])
    assert np.array_equal(data.true_labels, clean.labels["train"][data.copy_of])
    assert np.array_equal(data.labels["test"], clean.labels["test"]), "evaluation is never touched"
    assert data.describe()["n_mislabelled"] == 250
    assert data.describe()["n_copies"] == 100
    other = small_digits(n_train=1000, label_noise=0.25, noise_seed=1)
    assert not np.array_equal(other.labels["train"], data.labels["train"])


def test_impossible_sets_are_refused() -> None:
    with pytest.raises(InputError, match="n_train of 'small_digits' must be from 2 to 1078, not 5000"):
        small_digits(n_train=5000)
    with pytest.raises(InputError, match="label_noise of 'small_digits' must be from 0 to below 1"):
        small_digits(label_noise=1.0)
    with pytest.raises(InputError, match="n_batch of 'small_digits' must be from 1 to its 10 training examples"):
        small_digits(n_train=10)


def idx(shape: tuple[int, ...], content: bytes, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content


def test_idx_files(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(idx((2, 3), bytes(range(6)))))
    assert read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]
    for damaged, message in (
        (b"not gzip", "cannot be decompressed"),
        (gzip.compress(idx((2, 3), bytes(range(6))))[:-9], "cannot be decompressed"),
        (gzip.compress(idx((2, 3), bytes(5))), "holds 5 values where its header says 6"),
        (gzip.compress(idx((2**31, 2**31), bytes(6))), "holds 6 values where its header says"),
        (gzip.compress(idx((2, 3), bytes(6), kind=13)), "does not begin like an IDX file of bytes"),
        (gzip.compress(b"\0\0\x08\x03\0\0"), "ends inside its header"),
        (gzip.compress(b""), "does not begin like an IDX file"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(CorruptFile, match=message):
            read_idx(path)
    with pytest.raises(InputError, match="cannot read"):
        read_idx(tmp_path / "absent.gz")


@pytest.mark.long
def test_mnist_has_its_published_counts() -> None:
    named = os.environ.get("METASCALE_DATA")
    if not named or not (Path(named) / "mnist").is_dir():
        pytest.skip("the data set mnist is absent (METASCALE_DATA)")
    data = mnist(named)
    assert [data.n_examples(split) for split in ("train", "validation", "test")] == [50_000, 10_000, 10_000]
    assert np.bincount(data.labels["test"]).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    both = np.bincount(data.labels["train"]) + np.bincount(data.labels["validation"])
    assert both.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    batch = data.batch(0)
    assert batch.inputs["x"].shape == (128, 1, 28, 28)
