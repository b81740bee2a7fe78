"""Labelled data read into one form: whole results and whole refusals of small inputs, worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metascale.core.errors import InputError
from metascale.tasks import labelled
from metascale.tasks.labelled import Arrays, Labelled, read_labelled
from metascale.tasks.pictures import ImageFiles, Pictures
from metascale.tasks.tables import Features

XS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
NAMES = ("b", "a", "b")


class HuggingFace:
    """As much of a Hugging Face data set as is asked for; ``columns`` of its parts, or of its only one."""

    def __init__(self, columns: dict[str, Any], names: dict[str, list[str]] | None = None) -> None:
        whole = all(not isinstance(each, HuggingFace) for each in columns.values())
        self.column_names: Any = list(columns) if whole else {part: each.column_names for part, each in columns.items()}
        self.features = {name: SimpleNamespace(names=own) for name, own in (names or {}).items()}
        self._columns = columns

    def __getitem__(self, name: str) -> Any:
        return self._columns[name]


def plain(found: Labelled) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
    inputs: Any = found.inputs
    if isinstance(inputs, Arrays):
        inputs = {name: (values.dtype.name, values.tolist()) for name, values in inputs.values.items()}
    elif isinstance(inputs, Features):
        columns = {name: [*values] for name, values in inputs.columns.items()}
        inputs = (columns, sorted(inputs.categorical))
    return inputs, found.labels, found.parts


BYTES = np.arange(12, dtype=np.uint8)
FORMS: dict[str, tuple[object, dict[str, Any], Any, tuple[str, ...]]] = {
    "pairs as lists": ([[x, y] for x, y in zip(XS, NAMES, strict=True)], {}, {"x": ("float32", XS)}, NAMES),
    "one pair": ([(np.array([1, 2]), 7)], {}, {"x": ("int64", [[1, 2]])}, ("7",)),
    "pairs of texts": ([("one", " a "), ("two", "b")], {}, ("one", "two"), ("a", "b")),
    "an array of texts": ((np.array(["one", "two"]), [0, 1]), {}, ("one", "two"), ("0", "1")),
    "an array of objects": ((np.array(["one", "two"], object), [0, 1]), {}, ("one", "two"), ("0", "1")),
    "texts of numpy": (([np.str_("one")], [True]), {}, ("one",), ("1",)),
    "real labels that are whole": ((XS, np.array([2.0, 10.0, -1.0])), {}, {"x": ("float32", XS)}, ("2", "10", "-1")),
    "tensors as labels": ((torch.tensor(XS), [torch.tensor(k) for k in range(3)]), {}, {"x": ("float32", XS)},
                          ("0", "1", "2")),
    "nested": (({"a": np.array([1, 2]), "b": (np.array([3, 4]), torch.tensor([5, 6]))}, NAMES[:2]), {},
               {"a": ("int64", [1, 2]), "b.0": ("int64", [3, 4]), "b.1": ("int64", [5, 6])}, NAMES[:2]),
    "grey bytes": ((BYTES.reshape(2, 2, 3), NAMES[:2]), {},
                   {"x": ("float32", (BYTES.reshape(2, 1, 2, 3) / np.float32(255)).tolist())}, NAMES[:2]),
    "bytes of one channel last": ((BYTES.reshape(2, 2, 3, 1), NAMES[:2]), {},
                                  {"x": ("float32", (BYTES.reshape(2, 1, 2, 3) / np.float32(255)).tolist())},
                                  NAMES[:2]),
    "bytes of four channels last": (
        (BYTES[:8].reshape(2, 1, 1, 4), NAMES[:2]), {},
        {"x": ("float32", (BYTES[:8].reshape(2, 4, 1, 1) / np.float32(255)).tolist())}, NAMES[:2]),
    "bytes of channels first": (
        (BYTES.reshape(2, 3, 1, 2), NAMES[:2]), {},
        {"x": ("float32", (BYTES.reshape(2, 3, 1, 2) / np.float32(255)).tolist())}, NAMES[:2]),
    "bytes that are no images": ((BYTES[:4].reshape(2, 2), NAMES[:2]), {}, {"x": ("uint8", [[0, 1], [2, 3]])},
                                 NAMES[:2]),
    "columns": ({"a": [1, 2], "text": [3, 4], "label": [5, 6]}, {},
                ({"a": [1.0, 2.0], "text": [3.0, 4.0]}, []), ("5", "6")),
    "a text beside others": ({"a": [1, 2], "text": ["x", "y"], "label": [5, 6]}, {}, ("x", "y"), ("5", "6")),
    "texts without a usual name": ({"a": [1, 2], "note": ["x", "y"], "label": [5, 6]}, {},
                                   ({"a": [1.0, 2.0], "note": ["x", "y"]}, []), ("5", "6")),
    "a column of texts alone": ({"note": ["x", "y"], "label": [5, 6]}, {}, ("x", "y"), ("5", "6")),
    "a column of categories": ({"note": ["x", "y"], "label": [5, 6]}, {"categorical": "note"},
                               ({"note": ["x", "y"]}, ["note"]), ("5", "6")),
    "a column of vectors": ({"vector": [[1, 2], [3, 4]], "label": [5, 6]}, {}, {"x": ("int64", [[1, 2], [3, 4]])},
                            ("5", "6")),
    "a vector beside a number": ({"img": [[1, 2], [3, 4]], "size": [7, 8], "label": [5, 6]}, {},
                                 {"x": ("int64", [[1, 2], [3, 4]])}, ("5", "6")),
    "two columns of vectors": ({"u": [[1], [2]], "v": [[3], [4]], "label": [5, 6]}, {"inputs": ["v", "u"]},
                               {"v": ("int64", [[3], [4]]), "u": ("int64", [[1], [2]])}, ("5", "6")),
    "the first usual label": ({"x": [1, 2], "class": [3, 4], "target": [5, 6], "labels": [7, 8]}, {},
                              ({"x": [1.0, 2.0], "class": [3.0, 4.0], "target": [5.0, 6.0]}, []), ("7", "8")),
    "the label of an intent": ({"x": [1, 2], "intent": [3, 4]}, {}, ({"x": [1.0, 2.0]}, []), ("3", "4")),
    "another label": ({"label": [1, 2], "y": [3, 4]}, {"label": "y"}, ({"label": [1.0, 2.0]}, []), ("3", "4")),
    "names of classes": (HuggingFace({"text": ["x", "y"], "label": [1, 0]}, {"label": ["no", "yes"]}), {},
                         ("x", "y"), ("yes", "no")),
    "names of other classes": (HuggingFace({"x": [3, 4], "label": [1, 0]}, {"x": ["no", "yes"]}), {},
                               ({"x": [3.0, 4.0]}, []), ("1", "0")),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_data(form: str) -> None:
    data, arguments, inputs, labels = FORMS[form]
    assert plain(read_labelled(data, **arguments)) == (inputs, labels, ())


def test_parts_of_a_data_set() -> None:
    """Parts with the names of splits say the split of each example; others are only joined."""
    one = {"text": ["x", "y"], "label": [0, 1]}, {"text": ["z"], "label": [2]}

    def read(first: str, second: str, *columns: dict[str, Any], **arguments: Any) -> Any:
        parts = dict(zip((first, second), map(HuggingFace, columns), strict=True))
        return plain(read_labelled(HuggingFace(parts), **arguments))

    for name in ("validation", "val", "valid", "dev"):
        assert read("train", name, *one) == (("x", "y", "z"), ("0", "1", "2"), ("train", "train", "validation"))
    assert read("test", "other", *one) == (("x", "y", "z"), ("0", "1", "2"), ())
    two = {"a": [1, 2], "b": ["u", "v"], "label": [0, 1]}, {"a": [3], "b": ["w"], "label": [2]}
    joined = {"a": [1.0, 2.0, 3.0], "b": ["u", "v", "w"]}
    assert read("train", "test", *two) == ((joined, []), ("0", "1", "2"), ("train", "train", "test"))
    assert read("train", "test", *two, categorical="b", inputs=["b"], label="a") == (
        ({"b": ["u", "v", "w"]}, ["b"]), ("1", "2", "3"), ("train", "train", "test"),
    )  # fmt: skip
    three = {"v": [[1], [2]], "label": [0, 1]}, {"v": [[3]], "label": [2]}
    assert read("train", "test", *three) == (
        {"x": ("int64", [[1], [2], [3]])}, ("0", "1", "2"), ("train", "train", "test"),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"^the parts of the data set have different columns$") as caught:
        read("train", "test", {"a": [1], "b": [2], "label": [0]}, {"a": [1], "c": [2], "label": [0]})
    assert caught.value.field == "data"
    said = r"^column 'a' has numbers in one part and texts in another$"
    for columns in (([1], ["u"]), (["u"], [1])):
        with pytest.raises(InputError, match=said) as caught:
            read("train", "test", *({"a": own, "b": [2], "label": [0]} for own in columns))
        assert (caught.value.field, caught.value.value) == ("data", "a")


def refused(make: Callable[[], object]) -> tuple[str, str | None, object]:
    with pytest.raises(InputError) as caught:
        make()
    return str(caught.value), caught.value.field, caught.value.value


TABLE = {"age": [1, 2], "text": ["u", "v"], "label": [0, 1]}
NO_DATA = "few-shot tasks are made from arrays, a torch data set, a data frame, a Hugging Face data set or a path"
REFUSED: list[tuple[object, dict[str, Any], str, str, object]] = [
    ((XS, NAMES), {"image_size": 0}, "image_size must be at least 1, not 0", "image_size", 0),
    ((XS, NAMES), {"image_size": 1}, "image_size=1 is for a folder of images, which these data are not",
     "image_size", 1),
    (HuggingFace(TABLE), {"image_size": 8}, "image_size=8 is for a folder of images, which these data are not",
     "image_size", 8),
    ((XS, NAMES), {"categorical": "a"}, "categorical=['a'] is for a table with columns, which these data are not",
     "categorical", ["a"]),
    ((XS, NAMES), {"label": "y"}, "label='y' is for a table with columns, which these data are not", "label", "y"),
    ((XS, NAMES), {"inputs": "x"}, "inputs='x' is for a table with columns, which these data are not", "inputs", "x"),
    (TABLE, {"categorical": ["text"], "inputs": ["text", "age"], "label": "length"},
     "there is no column 'length'; there are age, text, label", "label", "length"),
    (TABLE, {"categorical": "age"}, "there is no column 'age'; there are text", "categorical", "age"),
    (TABLE, {"inputs": ["age", "size"]}, "there is no column 'size'; there are age, text, label", "inputs", "size"),
    (TABLE, {"inputs": "label"}, "column 'label' is what is to be predicted or the group, no input", "inputs", None),
    ({"label": [0, 1]}, {}, "there is no input column besides label", "inputs", None),
    ({"u": [[1]], "v": [[2]], "label": [0]}, {},
     "say with inputs= which column holds the inputs; there are u, v, label", "inputs", None),
    ({"x": [1], "y": [2]}, {}, "say with label= which column holds the label; there are x, y", "label", None),
    (HuggingFace({"x": [1], "y": [2]}), {}, "say with label= which column holds the label; there are x, y", "label",
     None),
    ({"vector": [[1, 2]], "label": [0]}, {"categorical": "vector", "inputs": ["vector", "label"], "label": "label"},
     "column 'label' is what is to be predicted or the group, no input", "inputs", None),
    ({"u": [[1]], "v": [[2]], "label": [0]}, {"inputs": ["u", "v"], "categorical": ["v"]},
     "categorical=['v'] is for a table with a column for each feature, which these data are not", "categorical", ["v"]),
    ({"x": [1, 2], "label": []}, {}, "the data set has no examples", "data", None),
    ({"x": [1, 2], "label": [0]}, {}, "column 'x' has 2 rows and column 'label' 1", "data", "x"),
    (HuggingFace({"x": [1, 2], "label": [0, 2]}, {"label": ["a", "b"]}), {},
     "example 1 has the label 2; there are classes 0 to 1", "label", None),
    (HuggingFace({"x": [1, 2], "label": [-1, 0]}, {"label": ["a", "b"]}), {},
     "example 0 has the label -1; there are classes 0 to 1", "label", None),
    (HuggingFace({"x": [1, 2], "label": ["a", "b"]}, {"label": ["a", "b"]}), {},
     "example 0 has the label 'a'; there are classes 0 to 1", "label", None),
    (7, {}, f"{NO_DATA}, not from int", "data", None),
    ([(1, 2), (1, 2, 3)], {}, "the items of a data set must be pairs (inputs, label); item 1 is tuple", "data", None),
    ([(1, 2), "ab"], {}, "the items of a data set must be pairs (inputs, label); item 1 is str", "data", None),
    ([], {}, "the data set has no examples", "data", None),
    ((np.zeros((0, 2)), []), {}, "the data set has no examples", "data", None),
    ((["one"], [0, 1]), {}, "there are 2 labels but 1 examples", "data", None),
    (({"a": np.zeros(2), "b": np.zeros(3)}, [0, 1]), {}, "there are 2 labels but 3 examples of b", "data", None),
    ([(np.zeros(3), 0), (np.zeros(2), 1)], {},
     "examples must have one shape; example 1 has 'x' [2], example 0 'x' [3]", "data", None),
    ([({"a": 1, "b": 2}, 0), ({"a": 1}, 1)], {},
     "examples must have one shape; example 1 has 'a' [], example 0 'a' [], 'b' []", "data", None),
    ([(None, 0)], {}, "an example is None, where numbers, images or texts are allowed", "data", None),
    ([(("u", 1), 0)], {}, "an example is 'u', where numbers, images or texts are allowed", "data", None),
    ([(b"u", 0)], {}, "an example is b'u', where numbers, images or texts are allowed", "data", None),
    ([(object(), 0)], {}, "an example holds object, where numbers, images or texts are allowed", "data", None),
    ((np.array([[1, np.inf], [np.nan, np.nan], [1, 2]]), NAMES), {},
     "2 examples hold numbers that are not finite", "data", None),
    (([1, 2], [0, " "]), {}, "example 1 has no label", "labels", None),
    (([1, 2], [0, float("nan")]), {}, "example 1 has no label", "labels", None),
    (([1, 2], ["a", 0.5]), {},
     "labels must name classes (texts or whole numbers); that of example 1 is 0.5; for regression give group=, the "
     "column of tasks", "labels", None),
    (([1], [[0]]), {},
     "labels must name classes (texts or whole numbers); that of example 0 is [0]; for regression give group=, the "
     "column of tasks", "labels", None),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refusals_say_what_and_where(number: int) -> None:
    data, arguments, message, field, value = REFUSED[number]
    assert refused(lambda: read_labelled(data, **arguments)) == (message, field, value)


def test_equal_examples_have_equal_keys(tmp_path: Path) -> None:
    def same(inputs: Any, n: int) -> list[int]:
        keys = Labelled(inputs, ("a",) * n).keys()
        assert all(len(key) == 16 for key in keys)
        return [keys.index(key) for key in keys]

    assert same(("Where is it?", "where  is IT ?", "where is it"), 3) == [0, 0, 2]
    assert same(Arrays({"a": np.array([1, 1, 1, 2]), "b": np.array([[3, 4], [3, 4], [3, 5], [3, 4]])}), 4) == [
        0,
        0,
        2,
        3,
    ]
    assert same(Features({"a": np.array([0.0, -0.0, 1.0]), "b": ("u", "u", "u")}), 3) == [0, 0, 2]
    for number, content in enumerate((b"one", b"two", b"one")):
        (tmp_path / str(number)).write_bytes(content)
    assert same(ImageFiles(tuple(tmp_path / str(number) for number in range(3)), (1, 1), 1), 3) == [0, 1, 0]
    images = np.zeros((3, 1, 1, 3), np.uint8)
    images[1] = 1
    assert same(Pictures((images, [b"png", b"png"]), 1), 5) == [0, 1, 0, 3, 3]


def image(path: Path, mode: str = "L", size: tuple[int, int] = (3, 2), value: Any = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_a_folder_of_images_file_by_file(tmp_path: Path) -> None:
    """Endings in any case, at any depth, in the order of classes and names; other files are passed over."""
    for name in ("b/2.PNG", "b/1.jpg", "a/deep/er/3.gif", "c/4.bmp"):
        image(tmp_path / name)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "5.png").write_bytes(b"outside of the folders of classes")
    found = read_labelled(tmp_path)
    assert isinstance(found.inputs, ImageFiles)
    names = [path.relative_to(tmp_path).as_posix() for path in found.inputs.paths]
    assert names == ["a/deep/er/3.gif", "b/1.jpg", "b/2.PNG", "c/4.bmp"]
    assert (found.labels, found.parts) == (("a", "b", "b", "c"), ())
    assert found.inputs.size == (2, 3), "height and width"
    small = read_labelled(str(tmp_path), image_size=1).inputs
    assert isinstance(small, ImageFiles)
    assert small.size == (1, 1)


def test_folders_called_as_splits_are_the_splits(tmp_path: Path) -> None:
    for place, name in enumerate(("train/a", "train/b", "valid/c", "test/d")):
        image(tmp_path / name / f"{place}.png")
    found = read_labelled(tmp_path)
    assert (found.labels, found.parts) == (("d", "a", "b", "c"), ("test", "train", "train", "validation"))
    image(tmp_path / "other" / "e.png")
    found = read_labelled(tmp_path)
    assert (found.labels, found.parts) == (("other", "test", "train", "train", "valid"), ())


@pytest.mark.parametrize(
    ("modes", "channels"), [(["L", "1"], 1), (["I;16"], 1), (["RGB"], 3), (["L", "RGB"], 3), (["P"], 3)]
)
def test_images_are_grey_where_all_are(modes: list[str], channels: int, tmp_path: Path) -> None:
    for number, mode in enumerate(modes):
        image(tmp_path / "a" / f"{number}.png", mode)
    found = read_labelled(tmp_path).inputs
    assert isinstance(found, ImageFiles)
    assert found.channels == channels


def test_folders_that_are_no_data_set_are_refused(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    said = f"there is no file or folder {absent}; a data set of the Hugging Face hub is given as "
    assert refused(lambda: read_labelled(absent)) == (f"{said}datasets.load_dataset(name)", "data", str(absent))
    image(tmp_path / "own" / "a" / "1.png")
    for field, value in (("label", "y"), ("inputs", ["x"]), ("categorical", ["x"])):
        message = f"{field}={value!r} is for a table with columns, which these data are not"
        arguments: dict[str, Any] = {field: value}
        assert refused(lambda given=arguments: read_labelled(tmp_path / "own", **given)) == (message, field, value)
    empty = tmp_path / "empty"
    empty.mkdir()
    said = f"{empty} holds no images in a folder for each class"
    assert refused(lambda: read_labelled(empty)) == (said, "data", str(empty))
    for ending in ("npz", "pickle", "pkl"):  # of several the pickles are named first, and of those the first
        (empty / f"b.{ending}").touch()
        (empty / f"a.{ending}").touch()
        packed = f"{said}; it holds a.{ending}: say with published= which published set it is of"
        assert refused(lambda expected=packed: read_labelled(empty)) == (packed, "data", str(empty))
    image(tmp_path / "own" / "a" / "2.png", size=(4, 5))
    said = "images have different sizes (1.png 2x3, 2.png 5x4): give image_size, to which all are resized"
    assert refused(lambda: read_labelled(tmp_path / "own")) == (said, "image_size", None)
    found = read_labelled(tmp_path / "own", image_size=4).inputs
    assert isinstance(found, ImageFiles)
    assert found.size == (4, 4)
    (tmp_path / "own" / "a" / "0.png").write_bytes(b"no image")
    message, field, value = refused(lambda: read_labelled(tmp_path / "own"))
    assert message.startswith(f"cannot read the image {tmp_path / 'own' / 'a' / '0.png'}: cannot identify")
    assert (field, value) == ("data", str(tmp_path / "own" / "a" / "0.png"))
    real = tmp_path / "real" / "a" / "1.tif"
    image(real, "F")
    said = f"the pixels of {real} are real numbers of no known range: give arrays"
    assert refused(lambda: read_labelled(tmp_path / "real")) == (said, "data", None)


def test_files_of_texts(tmp_path: Path) -> None:
    for name, between in (("own.csv", ","), ("own.TSV", "\t")):
        rows = [("text", "label", "intent"), ("one", "a", "c"), ("two", "b", "d")]
        (tmp_path / name).write_text("".join(f"{between.join(row)}\n" for row in rows))
        assert plain(read_labelled(tmp_path / name)) == (("one", "two"), ("a", "b"), ())
        for inputs in ("label", ["label"]):
            given = {"inputs": inputs, "label": "intent"}
            assert plain(read_labelled(tmp_path / name, **given)) == (("a", "b"), ("c", "d"), ())
    own = tmp_path / "own.csv"
    said = "the texts of a CSV file stand in one column, not in ['text', 'intent']"
    assert refused(lambda: read_labelled(own, inputs=["text", "intent"])) == (said, "inputs", None)
    said = "image_size=3 is for a folder of images, which these data are not"
    assert refused(lambda: read_labelled(own, image_size=3)) == (said, "image_size", 3)
    kind = "a table with columns (a CSV file has texts here), which these data are not"
    said = f"categorical=['text'] is for {kind}"
    assert refused(lambda: read_labelled(own, categorical="text")) == (said, "categorical", ["text"])
    other = tmp_path / "own.txt"
    other.touch()
    said = f"{other} is neither a folder nor a .csv or .tsv file"
    assert refused(lambda: read_labelled(other)) == (said, "data", str(other))


@pytest.mark.parametrize("saved", ["dataset_dict.json", "state.json", "dataset_info.json", "part.parquet"])
def test_folders_of_a_hugging_face_data_set(saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def reader(name: str) -> Callable[[str], HuggingFace]:
        def read(path: str) -> HuggingFace:
            asked.append((name, path))
            return HuggingFace({"text": [1, 2], "y": [3, 4], "z": [5, 6]})

        return read

    def require(*arguments: str) -> SimpleNamespace:
        asked.append(arguments)
        return SimpleNamespace(load_from_disk=reader("saved"), load_dataset=reader("of parquet"))

    monkeypatch.setattr(labelled, "require", require)
    (tmp_path / saved).touch()
    found = read_labelled(tmp_path, label="y", inputs=["z", "text"], categorical="z")
    assert plain(found) == (({"z": ["5", "6"], "text": [1.0, 2.0]}, ["z"]), ("3", "4"), ())
    assert asked == [
        ("datasets", "data", "a folder of a Hugging Face data set"),
        ("of parquet" if saved.endswith("parquet") else "saved", str(tmp_path)),
    ]
    asked.clear()
    (tmp_path / "kind").mkdir()
    if saved.endswith("parquet"):
        with pytest.raises(InputError, match="holds no images"):
            read_labelled(tmp_path)
    else:
        read_labelled(tmp_path, label="y")
        assert asked[1:] == [("saved", str(tmp_path))]
