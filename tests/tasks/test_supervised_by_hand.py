"""Images, streams of tokens, weak labels, texts and their words: small cases worked out by hand."""

from __future__ import annotations

import gzip
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from metascale.core.columns import IGNORED
from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import sha256_of
from metascale.core.streams import generator
from metascale.tasks import digits, few_shot
from metascale.tasks.datasets import DATASETS
from metascale.tasks.supervised import images, language_text
from metascale.tasks.supervised.images import ImageSet, image_set, mnist, small_digits
from metascale.tasks.supervised.language_text import own_text, wikitext
from metascale.tasks.supervised.tokens import Floors, TokenStream, floors
from metascale.tasks.supervised.weak_labels import (
    LabelledTexts,
    TextFeatures,
    WeakLabelData,
    majority_vote,
    weak_label_data,
    weak_label_texts,
)
from metascale.tasks.synthetic_text import SyntheticLanguage, synthetic_text_tasks, word_encoder
from metascale.tasks.texts import LabelledText, TokenLists, csv_tasks, text_table, token_lists, what_was_read
from metascale.tasks.words import BagOfWords, WordEncoder, token_counts

SPLITS = ("train", "validation", "test")


def refused(make: Callable[[], object], kind: type[Exception] = InputError) -> tuple[str, str | None, object]:
    with pytest.raises(kind) as caught:
        make()
    return str(caught.value), getattr(caught.value, "field", None), getattr(caught.value, "value", None)


# ---------------------------------------------------------------------------------------------- images


def small_images(n: int = 4, **settings: Any) -> ImageSet:
    """Training image i has the pixels 2 i; there are two images each for validation and test."""
    pixels = {"train": np.arange(n), "validation": np.array([9, 10]), "test": np.array([11, 12])}
    made = {
        split: np.broadcast_to(2 * own[:, None, None], (len(own), 2, 2)).astype(np.uint8)
        for split, own in pixels.items()
    }
    labels = {"train": np.arange(n) % 3, "validation": np.array([0, 1]), "test": np.array([2, 2])}
    return image_set("own", made, labels, **{"details": {"source": "made"}, "n_batch": 2, **settings})  # type: ignore[arg-type]


def test_images_are_standardised_by_training_pixels() -> None:
    """Pixels 0, 2, 4 and 6: mean 3, deviation sqrt(5)."""
    data = small_images()
    found = data.examples("test", np.array([1, 0]))
    assert found.inputs["x"].shape == (2, 1, 2, 2)
    np.testing.assert_allclose(found.inputs["x"][:, 0, 0, 0], [21 / 5**0.5, 19 / 5**0.5], rtol=1e-6)
    assert found.inputs["x"].dtype == torch.float32
    assert (found.inputs["index"].tolist(), found.targets.tolist()) == ([1, 0], [2, 2])
    assert data.describe() == {
        "name": "own", "n_examples": {"train": 4, "validation": 2, "test": 2}, "n_classes": 3, "n_batch": 2, "seed": 0,
        "n_mislabelled": 0, "n_copies": 0, "source": "made", "label_noise": 0.0, "duplicates": 0.0, "noise_seed": 0,
    }  # fmt: skip
    assert data.labels["train"].dtype == data.labels["test"].dtype == np.int64
    assert (
        ImageSet("own", data.images, data.labels, data.true_labels, data.copy_of, n_batch=4).describe()["n_classes"]
        == 10
    )


@pytest.mark.parametrize(("n", "n_batch", "steps"), [(4, 2, 2), (5, 2, 3), (4, 4, 1), (4, 3, 2)])
def test_an_epoch_has_as_many_batches_as_cover_it(n: int, n_batch: int, steps: int) -> None:
    data = small_images(n, n_batch=n_batch)
    assert data.steps_per_epoch == steps
    seen = torch.cat([data.batch(step).inputs["index"] for step in range(n)]).tolist()
    assert all(sorted(seen[n * epoch : n * (epoch + 1)]) == list(range(n)) for epoch in range(n_batch))


def test_evaluation_batches_in_order() -> None:
    data = small_images(5, n_evaluation_batch=2)
    assert [batch.inputs["index"].tolist() for batch in data.evaluation("train")] == [[0, 1], [2, 3], [4]]
    assert [batch.inputs["index"].tolist() for batch in data.evaluation("train", 2)] == [[0, 1], [2, 3]]
    assert list(data.evaluation("train", 0)) == []


def test_noise_and_copies_by_hand() -> None:
    """Of 8 examples a quarter are copies, and half have another label than the true one."""
    data = small_images(8, duplicates=0.25, label_noise=0.5, noise_seed=3, n_train=8)
    draw = generator(3, "copies", "own")
    order = draw.permutation(8)
    copies = order[:2]
    of = np.arange(8)
    of[copies] = draw.choice(order[2:], 2)
    assert data.copy_of.tolist() == of.tolist()
    assert not {*copies} & {*of[copies]}
    assert data.images["train"][:, 0, 0].tolist() == (2 * of).tolist()
    assert data.true_labels.tolist() == (of % 3).tolist()
    draw = generator(3, "wrong labels", "own")
    wrong = draw.permutation(8)[:4]
    expected = of % 3
    expected[wrong] = (expected[wrong] + draw.integers(1, 3, 4)) % 3
    assert data.labels["train"].tolist() == expected.tolist()
    assert (data.labels["train"] != data.true_labels).sum() == 4
    described = data.describe()
    wanted = {"n_mislabelled": 4, "n_copies": 2, "label_noise": 0.5, "duplicates": 0.25, "noise_seed": 3}
    assert {name: described[name] for name in wanted} == wanted
    part = small_images(8, n_train=3)
    assert part.n_examples("train") == 3
    assert part.images["train"][:, 0, 0].tolist() == [0, 2, 4]
    assert small_images(8, n_train=2).n_examples("train") == 2


def test_impossible_image_sets() -> None:
    for n_train in (1, 5):
        assert (
            refused(lambda n=n_train: small_images(n_train=n))[0]
            == f"n_train of 'own' must be from 2 to 4, not {n_train}"
        )
    for name in ("label_noise", "duplicates"):
        for share in (1.0, -0.1):
            said = f"{name} of 'own' must be from 0 to below 1, not {share}"
            assert refused(lambda given=(name, share): small_images(**dict([given])))[0] == said
    for n_batch in (0, 5):
        said = f"n_batch of 'own' must be from 1 to its 4 training examples, not {n_batch}"
        assert refused(lambda n=n_batch: small_images(n_batch=n))[0] == said
    assert small_images(n_batch=1).n_batch == 1


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return gzip.compress(header + values.astype(np.uint8).tobytes(), compresslevel=1)


MNIST = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def write_mnist(folder: Path, *arrays: np.ndarray) -> Path:
    (folder / "mnist").mkdir(parents=True)
    for name, values in zip(MNIST, arrays, strict=True):
        (folder / "mnist" / f"{name}-ubyte.gz").write_bytes(idx(values))
    return folder


def counted(n: int, side: int = 28) -> np.ndarray:
    return np.broadcast_to(np.arange(n)[:, None, None], (n, 28, side))


def test_mnist_of_a_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation is a fixed random part of the training file; 1 of 6 here, in place of 10,000 of 60,000."""
    monkeypatch.setattr(images, "N_MNIST_VALIDATION", 1)
    write_mnist(tmp_path, counted(6), np.arange(6) + 4, counted(2), np.array([1, 0]))
    data = mnist(tmp_path, n_batch=2)
    order = generator(0, "split", "mnist").permutation(6)
    assert data.images["validation"][:, 0, 0].tolist() == order[:1].tolist()
    assert data.images["train"][:, 0, 0].tolist() == order[1:].tolist()
    assert data.images["test"][:, 0, 0].tolist() == [0, 1]
    assert data.labels["train"].tolist() == (order[1:] + 4).tolist()
    assert data.labels["validation"].tolist() == (order[:1] + 4).tolist()
    assert data.labels["test"].tolist() == [1, 0]
    described = mnist(tmp_path, 3, 1, 7, duplicates=0.4, noise_seed=5).describe()
    assert described == {
        "name": "mnist", "n_examples": {"train": 3, "validation": 1, "test": 2}, "n_classes": 10, "n_batch": 1,
        "seed": 7, "n_mislabelled": 0, "n_copies": 1, "source": "MNIST", "split": "validation: 1 of the 60,000, seed 0",
        "label_noise": 0.0, "duplicates": 0.4, "noise_seed": 5,
    }  # fmt: skip
    assert refused(lambda: mnist(tmp_path))[0].endswith("must be from 1 to its 5 training examples, not 128")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"the data set 'mnist' lacks t10k-labels-idx1-ubyte\.gz in "):
        mnist(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((counted(2, 27), np.zeros(2), counted(1), np.zeros(1)), "do not belong together"),
        ((counted(2), np.zeros(3), counted(1), np.zeros(1)), "do not belong together"),
        ((counted(2), np.zeros(2), counted(1)[0], np.zeros(28)), "do not belong together"),
        ((counted(2), np.zeros(2), counted(1), np.zeros((1, 1))), "do not belong together"),
        ((counted(2), np.array([0, 10]), counted(1), np.zeros(1)), "is above 9"),
    ],
)
def test_mnist_files_that_are_not_of_one_set(arrays: Any, message: str, tmp_path: Path) -> None:
    write_mnist(tmp_path, *arrays)
    folder = tmp_path / "mnist"
    said = f"the images and labels in {folder} do not belong together"
    said = said if message.startswith("do") else f"a label in {folder} is above 9"
    assert refused(lambda: mnist(tmp_path), CorruptFile)[0] == said


def test_idx_headers(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"

    def read(data: bytes) -> Any:
        path.write_bytes(gzip.compress(data))
        return images.read_idx(path)

    assert read(b"\0\0\x08\x01\0\0\0\x02ab").tolist() == [97, 98]
    assert read(b"\0\0\x08\x04" + 4 * b"\0\0\0\x01" + b"a").shape == (1, 1, 1, 1)
    start = f"{path} does not begin like an IDX file of bytes"
    for data in (
        b"\0\0\x08",
        b"\0\x01\x08\x01\0\0\0\0",
        b"\0\0\x09\x01\0\0\0\0",
        b"\0\0\x08\0",
        b"\0\0\x08\x05" + bytes(20),
    ):
        assert refused(lambda of=data: read(of), CorruptFile)[0] == start
    assert refused(lambda: read(b"\0\0\x08\x01\0\0\0"), CorruptFile)[0] == f"{path} ends inside its header"
    said = f"{path} holds 1 values where its header says 2"
    assert refused(lambda: read(b"\0\0\x08\x01\0\0\0\x02a"), CorruptFile)[0] == said
    absent = tmp_path / "absent.gz"
    assert refused(lambda: images.read_idx(absent))[0] == f"cannot read {absent}: No such file or directory"
    path.write_bytes(b"no gzip")
    assert refused(lambda: images.read_idx(path), CorruptFile)[0].startswith(f"{path} cannot be decompressed (")


def test_the_small_digits_are_those_of_scikit_learn_in_bytes() -> None:
    """1,797 images of levels 0 to 16, which become 0 to 255; the first 60 % of a fixed order train, 20 % validate."""
    from sklearn.datasets import load_digits

    published = load_digits()
    order = generator(0, "split", "small_digits").permutation(1797)
    data = small_digits(n_batch=3)
    for split, rows in zip(SPLITS, (order[:1078], order[1078:1438], order[1438:]), strict=True):
        assert np.array_equal(data.images[split], np.rint(published.images[rows] * 15.9375))  # type: ignore[index]
        assert np.array_equal(data.labels[split], published.target[rows])  # type: ignore[index]
    described = small_digits(500, 7, 2, label_noise=0.5, noise_seed=3).describe()
    assert described == {
        "name": "small_digits", "n_examples": {"train": 500, "validation": 360, "test": 359}, "n_classes": 10,
        "n_batch": 7, "seed": 2, "n_mislabelled": 250, "n_copies": 0, "label_noise": 0.5, "duplicates": 0.0,
        "noise_seed": 3, "split": "shares (0.6, 0.2, 0.2), seed 0",
        "source": "Optical Recognition of Handwritten Digits (UCI), the copy in scikit-learn's load_digits",
    }  # fmt: skip
    assert (small_digits().n_batch, small_digits().seed) == (64, 0)
    table = digits.digit_table()
    assert (table.name, table.details) == ("digits", {
        "source": "Optical Recognition of Handwritten Digits (UCI), the copy in scikit-learn's load_digits",
        "inputs": "x [1, 8, 8] float32 in [0, 1]",
        "classes": "digit and rotation; the four rotations of one digit are always in the same split",
    })  # fmt: skip
    assert table.fetch(np.array([[0, 1]]))["x"].shape == (1, 2, 1, 8, 8)


# ---------------------------------------------------------------------------------------------- streams of tokens


def test_a_stream_by_its_numbers() -> None:
    """12 training tokens in windows of 3: 3 windows with room for an offset; batches of 2 cover them in 2."""
    tokens = {"train": np.arange(12) % 3, "validation": np.array([1, 2, 1, 2]), "test": np.array([2])}
    text = TokenStream("own", ("a", "b", "c"), tokens, 0, 3, 2, 5, {"train": 4}, {"unit": "word"})  # type: ignore[arg-type]
    assert (text.n_vocab, text.n_windows, text.batch_tokens, text.steps_per_epoch) == (3, 3, 6, 2)
    assert text.describe() == {
        "name": "own", "n_vocab": 3, "vocabulary_sha256": sha256_of(b"a\nb\nc"),
        "n_tokens": {"train": 12, "validation": 4, "test": 1}, "n_words": {"train": 4}, "n_sequence": 3, "n_batch": 2,
        "seed": 5, "unit": "word",
    }  # fmt: skip
    (batch,) = text.evaluation("validation")
    assert batch.inputs["input_ids"].tolist() == [[0, 1, 2], [1, 0, 0]]
    assert batch.targets.tolist() == [[1, 2, 1], [2, IGNORED, IGNORED]]
    assert batch.inputs["input_ids"].dtype == batch.targets.dtype == text.batch(0).targets.dtype == torch.int64
    assert list(text.evaluation("validation", 0)) == []
    bare = TokenStream("own", ("a", "b", "c"), tokens, 0, 3, 3)  # type: ignore[arg-type]
    assert bare.describe()["n_words"] == {}
    assert bare.steps_per_epoch == 1
    assert TokenStream("own", ("a",), {**tokens, "train": np.zeros(2, int)}, 0, 1, 1).n_windows == 1  # type: ignore[arg-type]
    for name in ("n_sequence", "n_batch"):
        said = f"{name} of the text 'own' must be at least 1, not 0"
        sizes = {"n_sequence": 3, "n_batch": 2, name: 0}
        assert refused(lambda given=sizes: TokenStream("own", ("a",), tokens, 0, **given))[0] == said  # type: ignore[arg-type]


def test_the_windows_of_an_epoch_are_cut_at_its_offset() -> None:
    tokens = {"train": np.arange(12), "validation": np.array([1]), "test": np.array([2])}
    text = TokenStream("own", tuple(map(str, range(12))), tokens, 0, 3, 2, seed=4)  # type: ignore[arg-type]
    starts = []
    for epoch in range(2):
        draw = generator(4, "windows", epoch)
        offset = int(draw.integers(3))
        starts += [offset + 3 * int(place) for place in draw.permutation(3)]
    found = torch.cat([text.batch(step).inputs["input_ids"][:, 0] for step in range(3)]).tolist()
    assert found == starts


def test_perplexities_of_floors() -> None:
    found = Floors({"validation": 1.0, "test": 2.0}, {"validation": 3.0, "test": 4.0}, 0.5)  # type: ignore[arg-type]
    assert found.perplexity("unigram", "test") == pytest.approx(math.e**2)
    assert found.perplexity("bigram", "validation") == pytest.approx(math.e**3)
    tokens = {"train": np.array([0, 1]), "validation": np.array([1]), "test": np.array([1, 1])}
    bigram = floors(TokenStream("own", ("a", "b"), tokens, 0, 1, 1))  # type: ignore[arg-type]
    assert bigram.bigram_weight == pytest.approx(1, abs=1e-9), "b always follows a, with which the text begins"


LINES = [f"w{number % 3} x ." for number in range(20)]
"""In order of frequency in the first 16 lines: x and ., then w0 (6), w1 (5) and w2 (5)."""


def test_an_own_text_where_nothing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("\n".join(20 * ["abcdefghijklmnopqrstuvwxyz"]))
    text = own_text(str(path), unit="character")
    assert (text.n_sequence, text.n_batch, text.seed) == (128, 32, 0)
    assert own_text(path, 28, 5, 3, 9, unit="character").describe() == {
        "name": "own.txt", "n_vocab": 28, "n_tokens": {"train": 16 * 27, "validation": 54, "test": 54},
        "vocabulary_sha256": sha256_of("\n".join(["<unk>", "<eos>", *map(chr, range(97, 123))]).encode()),
        "n_words": {"train": 32, "validation": 4, "test": 4}, "n_sequence": 5, "n_batch": 3, "seed": 9,
        "source": "an own text, own.txt", "unit": "character",
        "normalisation": "perplexity a character, <eos> and <unk> included, vocabulary of 28",
        "unknown_share": {"train": 0.0, "validation": 0.0, "test": 0.0},
    }  # fmt: skip
    said = "n_vocab of the text own.txt must be from 2 to 3, not 10000"
    assert refused(lambda: own_text(path)) == (said, "vocabulary", 10_000)


def test_words_by_frequency_and_then_by_place(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("\n".join([*LINES[:19], "new x"]))
    text = own_text(path, 6, 2, 2)
    assert text.vocabulary == ("<unk>", "<eos>", "x", ".", "w0", "w1")
    ids = {"w0": 4, "w1": 5, "w2": 0}
    assert text.tokens["train"].tolist() == [token for k in range(16) for token in (ids[f"w{k % 3}"], 2, 3, 1)]
    assert text.tokens["test"].tolist() == [4, 2, 3, 1, 0, 2, 1]
    assert text.tokens["train"].dtype == np.int32
    assert text.boundary == 1
    described = text.describe()
    assert described["unknown_share"] == {"train": 5 / 64, "validation": 1 / 8, "test": 1 / 7}
    assert own_text(path, 2, 2, 2).vocabulary == ("<unk>", "<eos>")
    assert own_text(path, 7, 2, 2).n_vocab == 7
    for n_vocab in (1, 8):
        said = f"n_vocab of the text own.txt must be from 2 to 7, not {n_vocab}"
        assert refused(lambda n=n_vocab: own_text(path, n)) == (said, "vocabulary", n_vocab)
    part = own_text(path, 7, 2, 2, n_train_tokens=4)
    assert len(part.tokens["train"]) == 4
    assert len(own_text(path, 7, 2, 2, n_train_tokens=64).tokens["train"]) == 64
    for n in (0, 65):
        said = f"n_train_tokens of the text own.txt must be from 1 to 64, not {n}"
        assert refused(lambda given=n: own_text(path, 7, 2, 2, n_train_tokens=given)) == (said, "n_train_tokens", n)


def test_texts_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    assert refused(lambda: own_text(path)) == (f"there is no text file {path}", "path", str(path))
    path.write_text("a\n" * 9)
    assert refused(lambda: own_text(path)) == (
        f"the text {path} has 9 lines; at least 10 are needed, since it is cut into training, validation and test at "
        "ends of lines", "path", str(path),
    )  # fmt: skip
    path.write_text("a\n" * 10)
    assert {split: len(own) for split, own in own_text(path, 3, 4, 1).tokens.items()} == {
        "train": 16, "validation": 2, "test": 2,
    }  # fmt: skip
    said = "the vocabulary of the text own.txt in byte pairs must be at least 258 (256 bytes, <unk> and <eos>), not 257"
    assert refused(lambda: own_text(path, 257, unit="bpe")) == (said, "vocabulary", 257)
    path.write_bytes(b"\xff\n" * 10)
    assert refused(lambda: own_text(path), CorruptFile)[0].startswith(f"{path} is not UTF-8 text: 'utf-8' codec")


def write_wikitext(folder: Path) -> Path:
    own = folder / "wikitext-2-v1"
    own.mkdir(parents=True)
    (own / "train.txt").write_text(" \n = A b = \n \n the <unk> the a \n" * 4)
    (own / "valid.txt").write_text(" the new \n")
    (own / "test.txt").write_text(" a \n\n")
    return folder


def test_wikitext_of_a_few_words(tmp_path: Path) -> None:
    """Every line ends in <eos>, also an empty one; = and the come first, each twice in four lines."""
    text = wikitext(write_wikitext(tmp_path), 7, 3, 2, 1)
    assert text.vocabulary == ("<unk>", "<eos>", "=", "the", "A", "b", "a")
    assert text.tokens["train"][:12].tolist() == [1, 2, 4, 5, 2, 1, 1, 3, 0, 3, 6, 1]
    assert text.tokens["validation"].tolist() == [3, 0, 1]
    assert text.tokens["test"].tolist() == [6, 1, 1]
    described = text.describe()
    wanted = {
        "name": "wikitext-2-v1", "n_words": {"train": 48, "validation": 3, "test": 3}, "n_sequence": 3, "n_batch": 2,
        "seed": 1, "source": "WikiText-2, word level with <unk> (wikitext-2-v1)", "unit": "word",
        "normalisation": "perplexity a word, <eos> and <unk> included, vocabulary of 7",
        "unknown_share": {"train": 4 / 48, "validation": 1 / 3, "test": 0.0},
    }  # fmt: skip
    assert {name: described[name] for name in wanted} == wanted
    said = "n_train_tokens of WikiText-2 must be from 1 to 48, not 49"
    assert refused(lambda: wikitext(tmp_path, 7, n_train_tokens=49)) == (said, "n_train_tokens", 49)
    said = "n_vocab of WikiText-2 must be from 2 to 7, not 10000"
    assert refused(lambda: wikitext(tmp_path)) == (said, "vocabulary", 10_000)
    letters = wikitext(tmp_path, unit="character", n_sequence=4)
    assert (letters.n_batch, letters.seed) == (32, 0)
    spelt = [letters.vocabulary[token] for token in letters.tokens["validation"]]
    assert spelt == ["t", "h", "e", " ", "n", "e", "<unk>", " ", "<eos>"]
    assert refused(lambda: wikitext(tmp_path, unit="character"))[0].endswith(
        "too few for one window of 128 (it takes 256)"
    )
    (tmp_path / "wikitext-2-v1" / "valid.txt").unlink()
    with pytest.raises(InputError, match=r"the data set 'wikitext-2-v1' lacks valid.txt in "):
        wikitext(tmp_path)


def test_byte_pairs_with_a_small_vocabulary(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    path = tmp_path / "own.txt"
    path.write_text("\n".join(20 * ["ab ab <unk> "]))
    text = own_text(path, 259, 2, 2, unit="bpe")
    assert text.vocabulary[:2] == ("<unk>", "<eos>")
    assert text.n_vocab == 259
    assert text.vocabulary[258] == "ab"
    spelt = [text.vocabulary[token] for token in text.tokens["test"]]
    assert spelt == ["ab", "Ġ", "ab", "Ġ", "<unk>", "<eos>"] * 2
    assert text.describe()["normalisation"].startswith("perplexity a token of byte pairs, <eos> and <unk> included")


# ---------------------------------------------------------------------------------------------- weak labels


def weak_rows(n: int, offset: int = 0) -> dict[str, Any]:
    return {
        str(offset + k): {"data": {"text": f"w{offset + k}"}, "label": k % 3, "weak_labels": [k % 3, -1, -1]}
        for k in range(n)
    }


def write_weak(folder: Path, name: str = "wrench_trec", **changes: Any) -> Path:
    """Classes 0 to 11, of which the keys 10 and 11 come last; training text 1 is held back, text 2 has no vote."""
    (folder / name).mkdir(parents=True)
    train = weak_rows(6)
    train["2"]["weak_labels"] = [-1, -1, -1]
    train["4"]["weak_labels"] = [0, 0, 1]
    content = {
        "label": {str(k): f"c{k}" for k in (10, 11, *range(10))}, "labeled_ids": {"labeled_ids": ["1"]}, "train": train,
        "valid": weak_rows(5, 20), "test": weak_rows(2, 30), **changes,
    }  # fmt: skip
    for part, rows in content.items():
        (folder / name / f"{part}.json").write_text(json.dumps(rows))
    return folder


ENCODER = WordEncoder(tuple(f"w{k}" for k in range(40)))


def words_in(part: LabelledTexts) -> list[int]:
    """Each text is one word, wK, whose token is K + 2."""
    return (part.batch(range(len(part)))[0]["input_ids"][:, 0] - 2).tolist()


def test_weak_labels_by_hand(tmp_path: Path) -> None:
    data = weak_label_data("wrench_trec", ENCODER, 3, data_dir=write_weak(tmp_path))
    assert data.classes == tuple(f"c{k}" for k in range(12))
    assert words_in(data.noisy) == [0, 3, 4, 5]
    assert data.noisy.truth.tolist() == [0, 0, 1, 2]
    assert data.noisy.targets.tolist() == [0, 0, 0, 2], "two votes against one"
    assert data.noisy.votes.tolist() == [[0, -1, -1], [0, -1, -1], [0, 0, 1], [2, -1, -1]]
    order = generator(3, "clean-halves").permutation(5)
    assert words_in(data.upper) == [20 + place for place in sorted(order[:2].tolist())]
    assert words_in(data.selection) == [20 + place for place in sorted(order[2:].tolist())]
    assert data.upper.targets.tolist() == data.upper.truth.tolist()
    assert words_in(data.test) == [30, 31]
    known = DATASETS["wrench_trec"]
    assert data.describe() == {
        "name": "wrench_trec", "licence": known.licence, "citation": known.citation,
        "sha256": {file.path: file.sha256 for file in known.files}, "classes": [f"c{k}" for k in range(12)],
        "n_noisy": 4, "n_upper": 2, "n_selection": 3, "n_test": 2, "n_without_votes": 1, "wrong_weak_labels": 0.25,
    }  # fmt: skip
    kept = weak_label_data("wrench_trec", ENCODER, data_dir=tmp_path, uncovered="random", upper_fraction=0.25)
    assert (words_in(kept.noisy), kept.n_uncovered, len(kept.upper)) == ([0, 2, 3, 4, 5], 1, 1)
    assert weak_label_texts("wrench_trec", tmp_path) == [f"w{k}" for k in range(6)]


def test_few_clean_texts_and_features(tmp_path: Path) -> None:
    data = weak_label_data("wrench_trec", ENCODER, data_dir=write_weak(tmp_path))
    one, two = data.with_few_clean(1, 7), data.with_few_clean(2, 7)
    drawn = {part: generator(7, "few-clean", part).permutation(n) for part, n in (("upper", 2), ("selection", 3))}
    for part, order in drawn.items():
        whole = words_in(getattr(data, part))
        assert words_in(getattr(two, part)) == [whole[place] for place in order[:2]]
        assert words_in(getattr(one, part)) == [whole[order[0]]]
    assert (two.noisy, two.test) == (data.noisy, data.test)
    assert refused(lambda: data.with_few_clean(3, 7)) == (
        "n_clean=3, and as many texts to choose among steps, are more than 'wrench_trec' has: its clean texts allow "
        "n_clean=2 at most", "n_clean", 3,
    )  # fmt: skip
    read = data.as_features(lambda tokens: torch.stack([torch.tensor(tokens.starts), torch.tensor(tokens.lengths)], 1))
    inputs, targets = read.noisy.batch([2, 0])
    assert inputs["features"].tolist() == [[3, 1], [0, 1]], "tokens of texts 0, 2, 3, 4 and 5 stand at 0 to 4"
    assert targets.tolist() == [0, 0]
    assert isinstance(read.upper.tokens, TextFeatures)
    assert len(read.selection.tokens) == 3
    assert read.test.tokens.subset(np.array([1]))(np.array([0]))["features"].tolist() == [[1, 1]]
    assert read.test.votes.tolist() == data.test.votes.tolist()


def test_weak_sets_that_are_refused(tmp_path: Path) -> None:
    def read(**arguments: Any) -> WeakLabelData:
        return weak_label_data("wrench_trec", ENCODER, data_dir=tmp_path, **arguments)

    said = "there are no weak labels for 'trec'; there are: wrench_youtube, wrench_trec, wrench_sms"
    assert refused(lambda: weak_label_data("trec", ENCODER, data_dir=tmp_path))[0] == said
    write_weak(tmp_path)
    for share in (0.05, 0.95):
        said = f"upper_fraction {share} of the 5 clean texts of 'wrench_trec' leaves one part empty; it lies between "
        said += "0 and 1"
        assert refused(lambda given=share: read(upper_fraction=given))[0] == said
    assert len(read(upper_fraction=0.8).selection) == 1
    path = tmp_path / "wrench_trec" / "valid.json"
    for votes, right in (([[-1]], True), ([[11]], True), ([[12]], False), ([[-2]], False), ([0], False)):
        rows = {str(k): {"data": {"text": "w1"}, "label": 0, "weak_labels": votes[0]} for k in range(2)}
        path.write_text(json.dumps(rows))
        if right:
            assert len(read().upper) == 1
        else:
            assert refused(read, CorruptFile)[0] == f"{path} holds votes outside of -1 to 11"
    for row in ({}, {"data": {"text": "w1"}, "label": 12, "weak_labels": [0]}, {"data": {"text": "w1"}, "label": 0}):
        path.write_text(json.dumps({"0": row}))
        assert refused(read, CorruptFile)[0].startswith(f"{path} does not have the form of a WRENCH file: ")
    path.unlink()
    with pytest.raises(InputError, match=r"the data set 'wrench_trec' lacks valid\.json in "):
        read()


def test_votes_by_their_number() -> None:
    votes = np.array([[1, 1, 0], [0, -1, -1], [2, 2, 2]])
    assert majority_vote(votes, 3, 0).tolist() == [1, 0, 2]
    assert majority_vote(votes, 3, 0).dtype == np.int64
    ties = np.array([[0, 1]] * 200)
    drawn = majority_vote(ties, 2, 5)
    assert drawn.tolist() == generator(5, "majority-vote").random((200, 2)).argmax(1).tolist()


# ---------------------------------------------------------------------------------------------- texts and words


def test_token_lists_and_parts_of_them() -> None:
    lists = TokenLists(np.array([5, 6, 7]), np.array([0, 2]), np.array([2, 1]), 9)
    assert len(lists) == 2
    assert lists(np.array([1, 0]))["input_ids"].tolist() == [[7, 9], [5, 6]]
    assert lists.subset(np.array([1]))(np.array([0]))["input_ids"].tolist() == [[7]]
    assert lists(np.zeros((0, 3), int))["attention_mask"].shape == (0, 3, 1)

    class Short:
        pad_id = 0

        def __call__(self, texts: list[str]) -> list[list[int]]:
            return [[1]]

    rows = [LabelledText("a", "x"), LabelledText("b", "x")]
    assert refused(lambda: token_lists("own", rows, Short()))[0] == "own: the encoder gave 1 token lists for 2 texts"


def test_what_was_read_in_words() -> None:
    plain = "own: 1,000 rows read, 1,000 kept as texts of 1,500 classes"
    assert what_was_read("own", 1000, 1500, 0, 0, [], None) == plain
    assert what_was_read("own", 9000, 2, 1000, 2000, list("abcdef"), "UTF-8, tab") == (
        "own: 9,000 rows read (UTF-8, tab), 6,000 kept as texts of 2 classes; 1,000 left out as duplicates of others; "
        "2,000 left out because their text has more than one label; 6 classes left without a row: a, b, c, d, e, ..."
    )
    assert what_was_read("own", 3, 2, 1, 1, list("abcde"), "").endswith("5 classes left without a row: a, b, c, d, e")
    assert what_was_read("own", 3, 2, 0, 0, ["a"], None).endswith("2 classes; 1 class left without a row: a")


def test_a_table_of_texts_by_split() -> None:
    """Of equal texts that of the test stays; validation and training share an origin here."""
    rows = [LabelledText("u", "b", "first"), LabelledText("U", "b", "last"), LabelledText("v", "b", "first"),
            LabelledText("w", "a", "last"), *(LabelledText("z", label, "first") for label in "ac")]  # fmt: skip
    origins: Any = {"train": "first", "validation": "first", "test": "last"}
    table = text_table("own", rows, WordEncoder(tuple("uvwz")), origin_of_split=origins, details={"form": "CSV"})
    assert table.classes == ("a", "b")
    assert table.examples_by_split is not None
    held = {split: [ids.tolist() for ids in own] for split, own in table.examples_by_split.items()}
    assert held == {"train": [[], [1]], "validation": [[], [1]], "test": [[2], [0]]}
    assert [ids.tolist() for ids in table.examples] == [[2], [0, 1]]
    assert table.details == {
        "form": "CSV", "n_texts": 3, "n_duplicates_removed": 1, "n_ambiguous_removed": 2,
        "read": "own: 6 rows read (CSV), 3 kept as texts of 2 classes; 1 left out as duplicates of others; 2 left out "
                "because their text has more than one label; 1 class left without a row: c",
    }  # fmt: skip
    assert text_table("own", rows, WordEncoder(tuple("uvwz"))).examples_by_split is None
    assert refused(lambda: text_table("own", [], WordEncoder(())))[0] == "own: there are no texts"


def test_tasks_of_a_csv_file_where_nothing_is_said(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    lines = [f"{word}{k} {k},{word}" for word in "abcdefghijklmnopqrstuvwxy" for k in range(20)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    tasks = csv_tasks(str(path), WordEncoder(tuple(map(str, range(20)))))
    described = tasks.describe()
    wanted = {"data": "own", "n_way": 5, "k_shot": 5, "n_query": 15}
    assert {name: described[name] for name in wanted} == wanted
    assert [len(described["split"][split]) for split in SPLITS] == [15, 5, 5]
    assert described["details"] == {
        "source": "own.csv", "sha256": sha256_of(path.read_bytes()), "form": "UTF-8, comma", "n_texts": 500,
        "n_duplicates_removed": 0, "n_ambiguous_removed": 0,
        "read": "own: 500 rows read (UTF-8, comma), 500 kept as texts of 25 classes",
    }  # fmt: skip
    other = csv_tasks(path, WordEncoder(("a",)), split_fractions=(0.2, 0.4, 0.4), n_train_tasks=1, k_shot=1)
    assert ([len(other.split.of(split)) for split in SPLITS], other.k_shot) == ([5, 10, 10], 1)  # type: ignore[arg-type]
    assert tasks.split.train != csv_tasks(path, WordEncoder(("a",)), split_seed=1).split.train


def test_words_and_their_shares() -> None:
    encoder = WordEncoder.from_texts(["b a", "a c", "b"])
    assert (encoder.words, encoder.max_length) == (("a", "b", "c"), 64)
    assert WordEncoder.from_texts(["b a"], max_length=1)(["a b"]) == [[2]]
    assert refused(lambda: WordEncoder(("a",), 0))[0] == "max_length must be at least 1, not 0"
    assert WordEncoder(("a",), 1).n_tokens == 3
    ids, mask = torch.tensor([[2, 2, 3, 0]]), torch.tensor([[1, 1, 1, 0]])
    assert token_counts(ids, mask, 4).tolist() == [[0, 0, 2, 1]]
    texts = [f"{word} {word} {number}" for word in "abcdef" for number in range(3)]
    split: Any = {"train": "ab", "validation": "cd", "test": "ef"}
    plain = few_shot((texts, [text[0] for text in texts]), 2, 1, 2, split=split, n_test_tasks=4)
    assert isinstance(plain, BagOfWords)
    scaled = BagOfWords(plain.source, plain.n_tokens, length=3.0)
    x, long = (each.episodes("train", [0]).query.inputs["x"] for each in (plain, scaled))
    assert sorted(x[0, 0].tolist())[-2:] == pytest.approx([1 / 3, 2 / 3])
    np.testing.assert_allclose(long.norm(dim=2), 3, rtol=1e-6)
    np.testing.assert_allclose(long / long.sum(2, keepdim=True), x, rtol=1e-5)
    assert plain.describe()["inputs"] == f"shares of {plain.n_tokens} tokens"
    assert scaled.describe()["inputs"] == f"counts scaled to length 3 of {plain.n_tokens} tokens"
    assert scaled.describe()["data"] == "data"
    assert (scaled.n_tasks("test"), scaled.n_tasks("train")) == (4, None)
    assert scaled.plan("test", [2]).query_ids.tolist() == plain.source.plan("test", [2]).query_ids.tolist()


def test_an_invented_language_by_hand() -> None:
    """Three topics of two words, difficulty 0.5: weight 1/4, of which each of two topics has half for its two words;
    the rest is Zipf's law, 1 / rank, over six words (their sum is 2.45)."""
    language = SyntheticLanguage(0.5, 3, 3, 2, 4, 5, seed=7)
    rank = generator(7, "synthetic-background").permutation(6) + 1
    zipf = 1 / rank / 2.45
    pairs = [[(0, 1), (0, 2), (1, 2)][place] for place in generator(7, "synthetic-classes").permutation(3)]
    assert list(language.topics_of_class) == pairs
    for row, (first, second) in zip(language.word_probabilities, pairs, strict=True):
        own = [0.25 * 0.25 if word // 2 in (first, second) else 0.0 for word in range(6)]
        np.testing.assert_allclose(row, own + 0.75 * zipf, rtol=1e-12)
    assert len(set(language.words)) == language.n_words == 6
    for word in language.words:
        assert [letter in "aeiou" for letter in word] == [False, True, False, True]
        assert set(word) <= set("bdfgklmnprstvzaeiou")
    rows = language.rows()
    assert len(rows) == 15
    assert rows[5].label == f"topics {pairs[1][0]} and {pairs[1][1]}"
    assert rows[5].text.split() == [language.words[place] for place in language.drawn_words[1, 0]]
    assert word_encoder(language) == WordEncoder(language.words, 4)
    for settings, message in (
        ({"difficulty": 1.01}, "difficulty must be between 0 and 1, not 1.01"),
        ({"words_per_topic": 0}, "words_per_topic must be at least 1, not 0"),
        ({"words_per_text": 0}, "words_per_text must be at least 1, not 0"),
        ({"n_classes": 1}, "n_classes must be between 2 and 120 (the pairs of 16 topics), not 1"),
        ({"words_per_topic": 307}, "4912 words are too many; 4900 are allowed"),
    ):
        given: Any = settings
        assert refused(lambda of=given: SyntheticLanguage(**of))[0] == f"synthetic text: {message}"
    assert SyntheticLanguage(n_topics=49, words_per_topic=100).n_words == 4900
    assert SyntheticLanguage(n_classes=120, difficulty=1, words_per_text=1, texts_per_class=1).n_classes == 120


def test_the_best_reader_by_hand() -> None:
    """At difficulty 0 a class has the words of its two topics alone: each text names its class but for the words that
    two classes share; of classes with equal likelihood each counts its part."""
    language = SyntheticLanguage(0.0, 3, 3, 2, 2, 5, seed=1)
    hits = []
    for task in range(50):
        rng = generator(1, "synthetic-bayes", 2, task)
        chosen = rng.permutation(3)[:2]
        for place, own in enumerate(chosen):
            topics = {int(word) // 2 for word in language.drawn_words[own, rng.integers(5)]}
            fits = [topics <= set(language.topics_of_class[other]) for other in chosen]
            hits.append(fits[place] / sum(fits))
    assert language.bayes_accuracy(2, 50) == pytest.approx(np.mean(hits))
    assert language.bayes_accuracy(2) == language.bayes_accuracy(2, 400) != language.bayes_accuracy(2, 401)
    assert 0.5 < np.mean(hits) < 1


def test_tasks_of_an_invented_language_where_nothing_is_said() -> None:
    tasks = synthetic_text_tasks(n_classes=30, language_seed=2, split_seed=3)
    described = tasks.describe()
    language = SyntheticLanguage(n_classes=30, seed=2)
    details = described["details"]
    assert details.pop("read").startswith("synthetic-text: 3,000 rows read, ")
    kept = details.pop("n_texts") + details.pop("n_duplicates_removed") + details.pop("n_ambiguous_removed")
    assert kept == 3000
    assert details == {
        "source": "synthetic", "difficulty": 0.5, "words_per_text": 12, "n_words": 128, "language_seed": 2,
        "bayes_accuracy": language.bayes_accuracy(5),
    }  # fmt: skip
    wanted = {"data": "synthetic-text", "n_way": 5, "k_shot": 5, "n_query": 15, "n_train_classes": None}
    assert {name: described[name] for name in wanted} == wanted
    assert [len(described["split"][split]) for split in SPLITS] == [18, 6, 6]
    assert tasks.split != synthetic_text_tasks(n_classes=30, language_seed=2).split
    other = synthetic_text_tasks(n_way=2, k_shot=1, language=language, split_fractions=(0.2, 0.4, 0.4), n_train_tasks=3)
    assert [len(other.split.of(split)) for split in SPLITS] == [6, 12, 12]  # type: ignore[arg-type]
    assert (other.n_way, other.k_shot) == (2, 1)
    assert other.describe()["details"]["bayes_accuracy"] == language.bayes_accuracy(2)


def test_groups_of_a_part_of_a_hugging_face_data_set() -> None:
    class Set:
        features = SimpleNamespace(get=lambda name: None)

        def __init__(self, columns: Any) -> None:
            self.column_names, self._columns = columns, columns

        def __getitem__(self, name: str) -> Any:
            return self._columns[name]

    columns = {"x": list(range(9)), "y": [k / 2 for k in range(9)], "place": list("aaabbbccc")}
    part = Set(columns)
    part.column_names = list(columns)
    arguments: dict[str, Any] = {"group": "place", "label": "y", "k_shot": 1, "n_query": 2}
    assert few_shot(part, **arguments).describe()["n_tasks"]["train"] == 1
    said = "give one part of the data set: groups are what is held out for tests"
    assert refused(lambda: few_shot(Set({"train": ["x"]}), **arguments)) == (said, "data", None)


@pytest.mark.parametrize(
    ("module", "make", "asked"),
    [
        (digits, digits.digit_table.__wrapped__, ("sklearn.datasets", "images", "the digits data set")),
        (images, images._digits_arrays.__wrapped__, ("sklearn.datasets", "images", "the digits data set")),
        (language_text, lambda: language_text._byte_pairs({}, 258, "it"),
         ("tokenizers", "text", "a text in byte pairs (unit=bpe)")),
    ],
)  # fmt: skip
def test_what_is_asked_of_other_packages(module: Any, make: Any, asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Exception):
        pass

    def require(*arguments: str) -> None:
        raise Asked(*arguments)

    monkeypatch.setattr(module, "require", require)
    with pytest.raises(Asked) as caught:
        make()
    assert caught.value.args == asked
