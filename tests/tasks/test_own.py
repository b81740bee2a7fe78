"""Few-shot tasks from labelled data of every form: the same tasks whatever the form, and what is left out is said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from metascale.core.errors import InputError
from metascale.tasks.fewshot import FewShotTasks
from metascale.tasks.own import few_shot
from metascale.tasks.pictures import ImageFiles
from metascale.tasks.words import BagOfWords, WordEncoder
from metascale.testing.task_contract import check_task_source

N_CLASSES, N_EACH = 9, 8
X = np.random.default_rng(0).standard_normal((N_CLASSES * N_EACH, 3)).astype(np.float32)
Y = np.arange(N_CLASSES * N_EACH) % N_CLASSES
SMALL: dict[str, Any] = {"n_way": 3, "k_shot": 1, "n_query": 3, "n_test_tasks": 6, "n_validation_tasks": 6}


class Frame:
    """As much of a data frame as is asked for."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.columns, self.iloc, self._values = list(columns), None, columns

    def __getitem__(self, name: str) -> Any:
        return np.asarray(self._values[name])


class Pairs:
    """A torch data set of pairs (inputs, label)."""

    def __len__(self) -> int:
        return len(Y)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(X[index]), int(Y[index])


class HuggingFace:
    """As much of a Hugging Face data set as is asked for."""

    def __init__(self, columns: dict[str, Any], names: list[str] | None = None) -> None:
        self.column_names, self._values = list(columns), columns
        self.features = {"label": SimpleNamespace(names=names)}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]


FORMS: dict[str, Callable[[], object]] = {
    "NumPy arrays": lambda: (X, Y),
    "torch tensors": lambda: (torch.from_numpy(X), torch.from_numpy(Y)),
    "torch data set": Pairs,
    "tensor data set": lambda: TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)),
    "list of pairs": lambda: list(zip(X, Y.tolist(), strict=True)),
    "iterator of pairs": lambda: zip(X, Y, strict=True),
    "data frame": lambda: Frame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "label": Y}),
    "columns": lambda: {"x": X, "target": Y},
    "Hugging Face data set": lambda: HuggingFace({"x": X.tolist(), "label": Y.tolist()}),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_same_data_gives_the_same_tasks(form: str) -> None:
    as_they_stand: dict[str, Any] = {"standardize": "none"} if form == "data frame" else {}
    found, expected = few_shot(FORMS[form](), **SMALL, **as_they_stand), few_shot((X, Y), **SMALL)
    assert isinstance(found, FewShotTasks)
    for split in ("train", "test"):
        one, two = (tasks.episodes(split, [0, 1]) for tasks in (found, expected))
        assert one.task_ids == two.task_ids
        assert torch.equal(one.support.inputs["x"], two.support.inputs["x"])
        assert torch.equal(one.query.targets, two.query.targets)
    assert found.table.classes == tuple("012345678")


def test_the_tasks_keep_the_contract_and_hold_their_own_examples() -> None:
    tasks = few_shot((X, Y), **SMALL, n_train_tasks=1)
    assert isinstance(tasks, FewShotTasks)
    check_task_source(tasks)
    episode = tasks.episodes("test", [0])
    known = {row.tobytes(): str(label) for row, label in zip(X, Y, strict=True)}
    classes = {known[row.numpy().tobytes()] for row in episode.support.inputs["x"][0]}
    assert classes == {tasks.table.classes[place] for place in tasks.split.test}


def test_nested_inputs_keep_their_names() -> None:
    tasks = few_shot(((X, {"pixels": X[:, :1]}), Y), **SMALL)
    episode = tasks.episodes("train", [0])
    assert {name: value.shape[2:] for name, value in episode.query.inputs.items()} == {"0": (3,), "1.pixels": (1,)}


def test_images_of_bytes_have_channels_first_and_lie_in_0_to_1() -> None:
    images = np.random.default_rng(1).integers(0, 256, (72, 4, 5, 3), dtype=np.uint8)
    images[0, 0, 0] = 255
    tasks = few_shot((images, Y), **SMALL)
    assert isinstance(tasks, FewShotTasks)
    assert tasks.table.fetch(np.array([0]))["x"].shape == (1, 3, 4, 5)
    assert float(tasks.table.fetch(np.array([0]))["x"][0, 0, 0, 0]) == 1.0
    grey = few_shot((images[..., 0], Y), **SMALL)
    assert isinstance(grey, FewShotTasks)
    assert grey.table.fetch(np.array([0]))["x"].shape == (1, 1, 4, 5)


def test_rare_classes_and_repeated_examples_are_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    """Class 8 has 3 of its 8 examples once more, of class 0 one is also called 1, and class 9 has 3 examples."""
    x = np.concatenate([X, X[Y == 8][:3], X[:1], np.full((3, 3), [[7], [8], [9]], np.float32)])
    y = np.concatenate([Y, [8, 8, 8, 1, 9, 9, 9]])
    with caplog.at_level(logging.WARNING, "metascale.tasks"):
        tasks = few_shot((x, y), **SMALL, name="mine")
    (record,) = caplog.records
    said = "3 repeated examples; 2 examples with several labels; 1 class with fewer than 4 examples (k_shot + n_query)"
    assert record.getMessage() == f"mine: left out {said}"
    assert isinstance(tasks, FewShotTasks)
    assert dict(zip(tasks.table.classes, map(len, tasks.table.examples), strict=True)) == {
        **{str(name): 8 for name in range(1, 9)},
        "0": 7,
    }
    assert tasks.describe()["details"]["left_out"]["repeated examples"] == 3


def write_images(folder: Path, parts: tuple[str, ...] = ("",), size: tuple[int, int] = (6, 5)) -> None:
    image = pytest.importorskip("PIL.Image")
    draw = np.random.default_rng(2)
    for place in range(9):
        into = folder / parts[place * len(parts) // 9] / f"kind{place}"
        into.mkdir(parents=True)
        for number in range(4):
            pixels = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
            pixels[0, 0] = place
            image.fromarray(pixels).save(into / f"{number}.png")


def test_a_folder_of_images_has_a_class_a_folder(tmp_path: Path) -> None:
    write_images(tmp_path)
    tasks = few_shot(tmp_path, **SMALL)
    assert isinstance(tasks, FewShotTasks)
    assert tasks.table.classes == tuple(f"kind{place}" for place in range(9))
    episode = tasks.episodes("test", [0])
    assert episode.support.inputs["x"].shape == (1, 3, 3, 6, 5)
    kinds = (episode.query.inputs["x"][0, :, 0, 0, 0] * 255).round().int().tolist()
    assert set(kinds) == set(tasks.split.test)
    assert few_shot(str(tmp_path), image_size=4, **SMALL).episodes("train", [0]).query.inputs["x"].shape[2:] == (
        3,
        4,
        4,
    )


def test_images_of_16_bits_keep_their_values(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = [np.array([[0, 257], [13107, 65535]], np.uint16), np.full((2, 2), 300, np.uint16)]
    for number, values in enumerate(pixels):
        image.fromarray(values).save(tmp_path / f"{number}.png")
    image.fromarray(np.full((2, 2), 51, np.uint8)).save(tmp_path / "2.png")
    paths = tuple(tmp_path / f"{number}.png" for number in range(3))
    found = ImageFiles(paths, (2, 2), 1)(np.arange(3))["x"]
    expected = torch.tensor([[[0, 1 / 255], [0.2, 1]], [[300 / 65535] * 2] * 2, [[0.2] * 2] * 2])
    torch.testing.assert_close(found[:, 0], expected)
    assert torch.equal(ImageFiles(paths, (2, 2), 3)(np.arange(3))["x"], found.expand(3, 3, 2, 2))


def test_an_image_that_is_cut_off_is_named(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).save(tmp_path / "0.png")
    (tmp_path / "0.png").write_bytes((tmp_path / "0.png").read_bytes()[:600])
    with pytest.raises(InputError, match=r"cannot read the image .*0\.png"):
        ImageFiles((tmp_path / "0.png",), (40, 40), 1)(np.array([0]))


def test_the_parts_of_a_folder_are_the_split(tmp_path: Path) -> None:
    write_images(tmp_path, ("train", "val", "test"))
    tasks = few_shot(tmp_path, **SMALL)
    assert isinstance(tasks, FewShotTasks)
    assert (tasks.split.train, tasks.split.validation, tasks.split.test) == ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    assert tasks.describe()["details"]["split"] == "the parts of the data"


def test_images_of_several_sizes_are_refused_with_two_of_them(tmp_path: Path) -> None:
    write_images(tmp_path / "a")
    write_images(tmp_path / "a" / "more", size=(3, 3))
    with pytest.raises(InputError, match=r"different sizes \(0.png 6x5, 0.png 3x3\): give image_size"):
        few_shot(tmp_path / "a", **SMALL)


WORDS = ["rain", "bread", "chess", "maps", "tea", "kites", "moss", "salt", "owls"]
ROWS = [(f"{phrase} {word}", word) for word in WORDS for phrase in ("I like", "why", "no more", "all about")]


def test_texts_become_shares_of_the_words_of_training_classes(tmp_path: Path) -> None:
    texts, labels = zip(*ROWS, strict=True)
    tasks = few_shot((list(texts), list(labels)), **SMALL)
    assert isinstance(tasks, BagOfWords)
    training = {WORDS_SORTED[place] for place in tasks.source.split.train}
    assert tasks.n_tokens == 2 + 7 + len(training), "padding, unknown, 7 words of phrases, one a training class"
    assert tasks.episodes("train", [0]).query.inputs["x"].shape[2] == tasks.n_tokens
    path = tmp_path / "mine.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS))
    for other in (path, Frame({"text": texts, "label": labels}), HuggingFace({"text": list(texts), "label": labels})):
        again = few_shot(other, **SMALL, name="data")
        assert torch.equal(again.episodes("test", [1]).query.inputs["x"], tasks.episodes("test", [1]).query.inputs["x"])
    encoder = WordEncoder.from_texts(texts)
    tokens = few_shot((list(texts), list(labels)), encoder=LikeALanguageModel(encoder), **SMALL)
    assert set(tokens.episodes("train", [0]).query.inputs) == {"input_ids", "attention_mask"}


WORDS_SORTED = sorted(WORDS)


class LikeALanguageModel:
    def __init__(self, encoder: WordEncoder) -> None:
        self.encoder, self.pad_id = encoder, 0

    def __call__(self, texts: Any) -> list[list[int]]:
        return self.encoder(texts)


def test_class_names_of_a_hugging_face_data_set_and_its_parts() -> None:
    names = [f"kind {place}" for place in range(9)]
    whole = HuggingFace({"x": X.tolist(), "label": Y.tolist()}, names)
    tasks = few_shot(whole, **SMALL)
    assert isinstance(tasks, FewShotTasks)
    assert tasks.table.classes == tuple(names)
    parts = {}
    for part, own in (("train", range(3)), ("validation", range(3, 6)), ("test", range(6, 9))):
        rows = np.isin(Y, own)
        parts[part] = HuggingFace({"x": X[rows].tolist(), "label": Y[rows].tolist()}, names)
    divided = HuggingFace(parts)
    divided.column_names = {part: ["x", "label"] for part in parts}  # type: ignore[assignment]
    split = few_shot(divided, **SMALL)
    assert isinstance(split, FewShotTasks)
    assert split.split.test == (6, 7, 8)


def test_a_saved_hugging_face_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"x": X.tolist(), "label": Y.tolist()}).save_to_disk(str(tmp_path / "saved"))
    found = few_shot(tmp_path / "saved", **SMALL, name="data").episodes("test", [0])
    assert torch.equal(found.query.inputs["x"], few_shot((X, Y), **SMALL).episodes("test", [0]).query.inputs["x"])


def test_a_split_by_name_and_by_shares() -> None:
    split = {"train": range(3), "val": [3, 4, 5], "test": ["6", "7", "8"]}
    tasks = few_shot((X, Y), split=split, **SMALL)
    assert isinstance(tasks, FewShotTasks)
    assert (tasks.split.train, tasks.split.validation, tasks.split.test) == ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    shares = few_shot((X, Y), split=(1 / 3, 1 / 3, 1 / 3), **SMALL)
    assert isinstance(shares, FewShotTasks)
    assert len(shares.split.test) == 3
    draw = np.random.default_rng(1).standard_normal((120, 2))
    drawn = few_shot((draw, np.arange(120) % 30), **SMALL)
    assert isinstance(drawn, FewShotTasks)
    assert tuple(map(len, (drawn.split.train, drawn.split.validation, drawn.split.test))) == (18, 6, 6)
    with pytest.raises(InputError, match="there is no class '9' for test"):
        few_shot((X, Y), split={**split, "test": [9]}, **SMALL)
    with pytest.raises(InputError, match="not 'training'"):
        few_shot((X, Y), split={"training": [0]}, **SMALL)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:5]), "there are 5 labels but 72 examples of x"),
        ((X, Y + 0.5), "must name classes .* is 0.5"),
        ((X, [None, *Y[1:]]), "example 0 has no label"),
        ((np.full((72, 1), np.nan), Y), "72 examples hold numbers that are not finite"),
        ([(X[0], 1), X[1]], "item 1 is ndarray"),
        ([], "no examples"),
        ({"u": X, "v": X, "label": Y}, "say with inputs= which column"),
        ({"x": X, "y": Y}, "say with label= which column"),
        ([(X[0], 0), (X[1][:2], 1)], r"example 1 has 'x' \[2\]"),
        (7, "not from int"),
        ("no/such/folder", "there is no file or folder no/such/folder; .*load_dataset"),
        (__file__, "neither a folder nor a .csv or .tsv file"),
        ((X[:0], Y[:0]), "no examples"),
        ({"x": [], "label": []}, "no examples"),
        ((X[:16], Y[:16] % 2), "need at least 9 classes, and there are 2"),
    ],
)
def test_data_that_are_not_labelled_examples_are_refused(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        few_shot(data, **SMALL)


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ((X, Y), {"label": "y"}, "label='y' is for a table with columns"),
        ((X, Y), {"inputs": ["x"]}, r"inputs=\['x'\] is for a table"),
        ((X, Y), {"image_size": 8}, "image_size=8 is for a folder of images"),
        ("somewhere", {"image_size": 0}, "image_size must be at least 1, not 0"),
        ({"x": X, "label": Y}, {"label": "z"}, "there is no column 'z'; there are x, label"),
        ((X, Y), {"encoder": "bert"}, "encoder must be 'words' or an encoder .* not 'bert'"),
        ((X, Y), {"encoder": WordEncoder.from_texts(["a b"])}, "an encoder is for texts"),
        ((X, Y), {"split": "random"}, "or be three shares, not 'random'"),
    ],
)
def test_arguments_that_would_change_nothing_are_refused(data: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        few_shot(data, **SMALL, **arguments)
