"""Published few-shot sets from the files that people have: every form gives the same tasks; others are refused.

The sets here are small ones of the same structure; the published class lists are held by their digests.
"""

from __future__ import annotations

import csv
import io
import os
import pickle
import shutil
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metascale.core.errors import CorruptFile, InputError
from metascale.core.types import SPLITS
from metascale.tasks import few_shot, published
from metascale.tasks.fewshot import FewShotTasks
from metascale.tasks.pickles import read_pickle
from metascale.tasks.published import PUBLISHED, PublishedSet, names_digest

PER_CLASS, PIXELS = 4, 6
NAMES = [[f"n0{split}{number:06d}" for number in range(count)] for split, count in enumerate((4, 2, 3))]
SHORT = ("train", "val", "test")
SMALL = PublishedSet(
    "small",
    "made here",
    (4, 2, 3),
    (16, 8, 12),
    PER_CLASS,
    PIXELS,
    tuple(names_digest(names) for names in NAMES),  # type: ignore[arg-type]
    r"n\d{8}",
)


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "PUBLISHED", {**PUBLISHED, "small": SMALL})


def pixels(split: int) -> np.ndarray:
    """uint8 [n, 6, 6, 3], class after class."""
    rng = np.random.default_rng(split)
    return rng.integers(0, 256, (len(NAMES[split]) * PER_CLASS, PIXELS, PIXELS, 3), dtype=np.uint8)


def labels(split: int) -> list[str]:
    return [name for name in NAMES[split] for _ in range(PER_CLASS)]


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()


def numbers(split: int) -> np.ndarray:
    return np.repeat(np.arange(len(NAMES[split])), PER_CLASS)


def ravi_csv(folder: Path) -> None:
    (folder / "images").mkdir()
    for split, part in enumerate(SHORT):
        rows = [(f"{name}{row:08d}.png", name) for row, name in enumerate(labels(split))]
        for (file, _), image in zip(rows, pixels(split), strict=True):
            (folder / "images" / file).write_bytes(png(image))
        with (folder / f"{part}.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("filename", "label"), *rows])


def class_lists(folder: Path) -> None:
    (folder / "splits" / "someone").mkdir(parents=True)
    for split, part in enumerate(SHORT):
        (folder / "splits" / "someone" / f"{part}.txt").write_text("\n".join(NAMES[split]) + "\n")
        class_folders(folder / "data", split)


def class_folders(folder: Path, split: int) -> None:
    for row, (name, image) in enumerate(zip(labels(split), pixels(split), strict=True)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{row:04d}.png").write_bytes(png(image))


def split_folders(folder: Path) -> None:
    for split, part in enumerate(SHORT):
        class_folders(folder / part, split)


def cache_pickles(folder: Path) -> None:
    for split, part in enumerate(SHORT):
        classes = {name: np.flatnonzero(numbers(split) == place).tolist() for place, name in enumerate(NAMES[split])}
        data = {"image_data": pixels(split), "class_dict": OrderedDict(classes)}
        (folder / f"mini-imagenet-cache-{part}.pkl").write_bytes(pickle.dumps(data, protocol=2))


def label_pickles(folder: Path) -> None:
    for split, part in enumerate(SHORT):
        data = {"data": pixels(split), "labels": (100 * split + numbers(split)).tolist()}
        (folder / f"CIFAR_FS_{part}.pickle").write_bytes(pickle.dumps(data))


def phase_pickles(folder: Path) -> None:
    """As of Gidaris & Komodakis: of the training classes there are three files, of which one is the training split."""
    names = ("train_phase_train", "val", "test", "train_phase_val", "train_phase_test")
    for split, part in enumerate(names):
        place = split if split < 3 else 0
        data = {
            "data": pixels(place) if split < 3 else pixels(0)[:3],
            "labels": numbers(place).tolist(),
            "catname2label": {name: number for number, name in enumerate(NAMES[place])},
        }
        (folder / f"miniImageNet_category_split_{part}.pickle").write_bytes(pickle.dumps(data))


def encoded_pickles(folder: Path) -> None:
    for split, part in enumerate(SHORT):
        images = [np.frombuffer(png(image), np.uint8)[:, None] for image in pixels(split)]  # [n, 1], as OpenCV gives
        (folder / f"{part}_images_png.pkl").write_bytes(pickle.dumps(images))
        data = {"label_specific": numbers(split), "label_specific_str": NAMES[split], "label_general_str": ["a"]}
        (folder / f"{part}_labels.pkl").write_bytes(pickle.dumps(data))


def npz_with_labels(folder: Path) -> None:
    for split, part in enumerate(SHORT):
        np.savez(folder / f"{part}_images.npz", images=pixels(split))
        (folder / f"{part}_labels.pkl").write_bytes(pickle.dumps({"labels": numbers(split).tolist()}))


def npz(folder: Path) -> None:
    for split, part in enumerate(SHORT):
        np.savez(folder / f"fc-{part}.npz", features=pixels(split).transpose(0, 3, 1, 2), targets=numbers(split))


FORMS: list[Callable[[Path], None]] = [
    *(ravi_csv, class_lists, split_folders),
    *(cache_pickles, label_pickles, phase_pickles, encoded_pickles),
    *(npz_with_labels, npz),
]


def read(folder: Path, **more: Any) -> FewShotTasks:
    settings = {"n_way": 2, "k_shot": 1, "n_query": 3, "n_validation_tasks": 5, "n_test_tasks": 5, **more}
    found = few_shot(folder, published="small", **settings)
    assert isinstance(found, FewShotTasks)
    return found


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_holds_the_same_images_in_the_same_classes_and_splits(
    form: Callable[[Path], None], tmp_path: Path
) -> None:
    form(tmp_path)
    tasks = read(tmp_path)
    for place, split in enumerate(SPLITS):
        own = tasks.split.of(split)
        assert len(own) == len(NAMES[place])
        for number, index in enumerate(sorted(own)):
            name = tasks.table.classes[index]
            assert name in (NAMES[place][number], f"{split} {100 * place + number}", f"{split} {number}")
            found = tasks.table.fetch(tasks.table.examples[index])["x"]
            expected = pixels(place)[number * PER_CLASS : (number + 1) * PER_CLASS]
            torch.testing.assert_close(found, torch.from_numpy(expected).permute(0, 3, 1, 2).float() / 255)
    assert tasks.episodes("test", [0, 1]).query.inputs["x"].shape == (2, 6, 3, PIXELS, PIXELS)
    assert tasks.describe()["details"]["source"] == "made here"


def test_image_files_may_be_resized(tmp_path: Path) -> None:
    split_folders(tmp_path)
    assert read(tmp_path, image_size=3).episodes("test", [0]).query.inputs["x"].shape[-2:] == (3, 3)


def fewer_classes(folder: Path) -> None:
    split_folders(folder)
    for file in (folder / "test" / NAMES[2][0]).iterdir():
        file.unlink()


def one_image_less(folder: Path) -> None:
    split_folders(folder)
    next((folder / "train" / NAMES[0][1]).iterdir()).unlink()


def one_image_more(folder: Path) -> None:
    split_folders(folder)
    file = next((folder / "train" / NAMES[0][1]).iterdir())
    shutil.copy(file, file.with_name("again.png"))


def one_more_than_of_another(folder: Path) -> None:
    split_folders(folder)
    file = next((folder / "train" / NAMES[0][1]).iterdir())
    file.rename(folder / "train" / NAMES[0][0] / file.name)


def another_split(folder: Path) -> None:
    split_folders(folder)
    (folder / "val" / NAMES[1][0]).rename(folder / "kept")
    (folder / "test" / NAMES[2][0]).rename(folder / "val" / NAMES[2][0])
    (folder / "kept").rename(folder / "test" / NAMES[1][0])


def other_pixels(folder: Path) -> None:
    for split, part in enumerate(SHORT):
        np.savez(folder / f"{part}.npz", images=pixels(split)[:, :4, :4], labels=numbers(split))


def fewer_labels(folder: Path) -> None:
    for split, part in enumerate(SHORT):
        np.savez(folder / f"{part}.npz", images=pixels(split), labels=numbers(split)[1:])


def a_file_that_is_cut_off(folder: Path) -> None:
    cache_pickles(folder)
    file = folder / "mini-imagenet-cache-val.pkl"
    file.write_bytes(file.read_bytes()[:-300])


def an_archive_that_is_cut_off(folder: Path) -> None:
    npz(folder)
    file = folder / "fc-val.npz"
    file.write_bytes(file.read_bytes()[:-300])


def images_that_are_not_there(folder: Path) -> None:
    ravi_csv(folder)
    sorted((folder / "images").iterdir())[3].unlink()


def two_splits_alone(folder: Path) -> None:
    npz(folder)
    (folder / "fc-test.npz").unlink()


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (fewer_classes, r"test of small \(made here\) has 3 classes, and here are 2"),
        (one_image_less, "train of small .* has 16 images, and here are 15: the files are not whole"),
        (one_image_more, "train of small .* has 16 images, and here are 17"),
        (one_more_than_of_another, "has 4 images of each class, and here are 5 of 'n00000000'"),
        (another_split, r"validation of small .* has other classes than here \(n01000001, n02000000"),
        (other_pixels, "has images of 6 x 6 x 3, and here they are 4 x 4 x 3"),
        (fewer_labels, "has 16 images and 15 labels"),
        (a_file_that_is_cut_off, "cache-val.pkl is not a whole pickle"),
        (an_archive_that_is_cut_off, "fc-val.npz is not a whole npz"),
        (images_that_are_not_there, "1 of 16 images that .*train.csv names are not there: .*n0000000000000003.png"),
        (two_splits_alone, "holds no form of small that is read here"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_files_that_are_not_the_published_ones_are_refused(
    form: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    form(tmp_path)
    with pytest.raises((InputError, CorruptFile), match=message):
        read(tmp_path)


def pickled(**content: object) -> bytes:
    return pickle.dumps(content)


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        ("txt", b""),
        ("txt", b"\xff\xfe"),
        ("csv", b"filename,label\n\xff,a\n"),
        ("csv", b"filename,label\n" + 200_000 * b"a" + b",b\n"),
        ("csv", b"filename,label\n" + 3000 * b"a" + b",b\n"),
        ("pkl", pickled(image_data=3, class_dict={})),
        ("pkl", pickled(data=[np.zeros((2, 2, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)], labels=[0, 1])),
        ("pkl", pickled(data=pixels(0), labels=[0, 1], catname2label=["a"])),
        ("pkl", pickled(data=pixels(0), labels=[0, 1], catname2label={"a": "b"})),
        ("pkl", pickled(image_data=pixels(0), class_dict={"a": [[0], [1, 2]]})),
    ],
)
def test_files_of_other_content_are_refused_by_name(ending: str, content: bytes, tmp_path: Path) -> None:
    for part in SHORT:
        (tmp_path / f"{part}.{ending}").write_bytes(content)
    with pytest.raises(CorruptFile, match=rf"train\.{ending} (must name|does not hold)"):
        read(tmp_path)


def test_what_does_not_go_with_a_published_set_is_refused(tmp_path: Path) -> None:
    npz(tmp_path)
    with pytest.raises(InputError, match="there is no published set 'mini-imagnet'; did you mean 'mini-imagenet'"):
        few_shot(tmp_path, published="mini-imagnet")
    with pytest.raises(InputError, match="has its own classes and split: leave split out"):
        read(tmp_path, split=(0.6, 0.2, 0.2))
    with pytest.raises(InputError, match="image_size=9 is for image files"):
        read(tmp_path, image_size=9)
    with pytest.raises(InputError, match=r"fc-test\.npz: say with published="):
        few_shot(tmp_path)
    with pytest.raises(InputError, match="from the path of a folder, not from a list"):
        few_shot([], published="small")


def test_the_published_sets_have_their_published_sizes() -> None:
    """Of the papers; 64/16/20 classes of 600 images, 351/97/160 with 779,165 images, 60/20/20 of 600."""
    assert [PUBLISHED[name].n_classes for name in ("mini-imagenet", "cifar-fs")] == [(64, 16, 20)] * 2
    assert PUBLISHED["tiered-imagenet"].n_classes == (351, 97, 160)
    assert sum(PUBLISHED["tiered-imagenet"].n_images) == 779_165
    assert PUBLISHED["fc100"].n_classes == (60, 20, 20)
    for wanted in PUBLISHED.values():
        each = wanted.per_class
        assert each is None or wanted.n_images == tuple(each * count for count in wanted.n_classes)


def test_the_digests_of_fc100_are_those_of_its_test_classes() -> None:
    """Twenty classes of four superclasses of CIFAR-100: aquatic mammals, insects, medium mammals, people."""
    names = "beaver dolphin otter seal whale bee beetle butterfly caterpillar cockroach fox porcupine possum raccoon "
    names += "skunk baby boy girl man woman"
    assert names_digest(names.split()) == PUBLISHED["fc100"].digests[2]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_plain_data_come_back(protocol: int, tmp_path: Path) -> None:
    arrays = {
        "bytes": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "by column": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "texts": np.array(["ab", "c"]),
    }
    several = np.empty(2, object)
    several[:] = [np.zeros(3, np.uint8), "text"]
    rest = {"raw": b"\xff\0", "list": [np.int64(3), (1, 2.5, None, True)], "several": several}
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({**arrays, **rest}, protocol))
    found = read_pickle(tmp_path / "plain.pkl")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert found["raw"] == b"\xff\0"
    assert found["list"] == rest["list"]
    assert found["several"][0].tolist() == [0, 0, 0]
    assert found["several"][1] == "text"


class Calls:
    """A pickle that calls a function when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.asked = (function, arguments)

    def __reduce__(self) -> Any:
        return self.asked


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Calls(os.system, "touch ran")),
        pickle.dumps([Calls(eval, "open('ran', 'w')")], 0),
        pickle.dumps({"data": Calls(np.load, "x.npy")}),
        pickle.dumps(Calls(getattr, "a", "upper")),
        pickle.dumps(np.zeros(2, [("name", "i4")])),
        pickle.dumps(np.zeros(2, "datetime64[s]")),
        b"cnumpy.core.multiarray\n_reconstruct\n}X\x08\x00\x00\x00__code__K\x01sb.",  # sets an attribute of a stand-in
        b"Pname of something outside\n.",
    ],
)
def test_a_pickle_that_asks_for_anything_else_is_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data.pkl").write_bytes(content)
    with pytest.raises(InputError, match="only arrays, numbers, texts, lists and dictionaries"):
        read_pickle(Path("data.pkl"))
    assert not Path("ran").exists()


def test_arrays_are_not_larger_than_what_the_file_holds(tmp_path: Path) -> None:
    honest = pickle.dumps(np.zeros((7, 7), np.uint8), 2)
    lying = honest.replace(b"K\x07K\x07", b"K\x07K\xff")
    assert lying != honest
    (tmp_path / "data.pkl").write_bytes(lying)
    with pytest.raises(CorruptFile, match="whose bytes are of another number"):
        read_pickle(tmp_path / "data.pkl")


def test_what_is_there_many_times_is_made_once(tmp_path: Path) -> None:
    value: list[Any] = []
    for _ in range(200):
        value = [value, value]
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(value))
    assert len(read_pickle(tmp_path / "data.pkl")) == 2


def test_a_set_of_one_class_more_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = replace(SMALL, n_classes=(5, 2, 3))
    monkeypatch.setattr(published, "PUBLISHED", {"small": more})
    npz(tmp_path)
    with pytest.raises(InputError, match=r"train of small .* has 5 classes, and here are 4"):
        read(tmp_path)
