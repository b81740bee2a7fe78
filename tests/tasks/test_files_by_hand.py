"""Files of data: downloads, pickles, published sets, drawings and CSV by small cases, with whole messages."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import struct
import urllib.error
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import sha256_of
from metascale.core.streams import generator
from metascale.tasks import datasets, intents, labelled, omniglot, pictures, published
from metascale.tasks.csv_rows import LabelledText, normal, parse_csv
from metascale.tasks.datasets import DATASETS, DataFile, DataSet
from metascale.tasks.intents import intent_tasks, read_banking77, read_clinc150
from metascale.tasks.labelled import read_labelled
from metascale.tasks.omniglot import Characters
from metascale.tasks.pickles import read_pickle
from metascale.tasks.pictures import ImageFiles, Pictures
from metascale.tasks.published import PublishedSet, names_digest, published_set, read_published
from metascale.tasks.texts import read_csv
from metascale.tasks.words import WordEncoder


def refused(make: Callable[[], object], kind: type[Exception] = InputError) -> tuple[str, str | None, object]:
    with pytest.raises(kind) as caught:
        make()
    return str(caught.value), getattr(caught.value, "field", None), getattr(caught.value, "value", None)


def corrupt(make: Callable[[], object]) -> str:
    return refused(make, CorruptFile)[0]


# ---------------------------------------------------------------------------------------------- registry


def drawings(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"a picture")
    return buffer.getvalue()


def test_what_is_wrong_with_a_file() -> None:
    plain = DataFile("a", "https://a", sha256=sha256_of(b"right"))
    assert plain.problem(b"right") is None
    said = f"its SHA-256 is {sha256_of(b'wrong')[:12]}..., not {sha256_of(b'right')[:12]}..."
    assert plain.problem(b"wrong") == said
    assert DataFile("a", "https://a").problem(b"anything") is None
    packed = DataFile("a", "https://a", "gzip", sha256_of(b"right"))
    assert packed.problem(gzip.compress(b"right")) is None
    assert packed.problem(gzip.compress(b"wrong")) == said
    assert str(packed.problem(b"right")).startswith("it cannot be decompressed (")
    archive = DataFile("a", "https://a", "drawings zip", n_drawings=2)
    good = ["images_background/Greek/character01/0001_01.png", "images_evaluation/Latin/character02/0002_20.png"]
    others = ["images_other/Greek/character01/0001_01.png", f"{good[0]}.txt", "images_background/"]
    whole = drawings(*good, *others)
    assert archive.problem(whole) is None
    assert archive.problem(drawings(good[0])) == "it holds 1 drawings, not 2"
    assert str(archive.problem(b"no zip")) == "it is not a whole zip archive (File is not a zip file)"
    damaged = bytearray(whole)
    damaged[whole.index(b"a picture")] ^= 1
    assert archive.problem(bytes(damaged)) == f"its entry {good[0]} is damaged"


def test_an_archive_that_would_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(archive: zipfile.ZipFile, where: str) -> None:
        raise CorruptFile(f"{where} is too large")

    monkeypatch.setattr(datasets, "check_zip", check)
    assert DataFile("a", "https://a", "drawings zip").problem(drawings("a")) == "it is too large"


class Response(io.BytesIO):
    def __init__(self, content: bytes, length: str | None) -> None:
        super().__init__(content)
        self.headers = {} if length is None else {"Content-Length": length}
        self.asked: list[int] = []

    def read(self, n: int | None = -1) -> bytes:
        self.asked.append(n or 0)
        return super().read(min(n or 0, 4))


def own_set(monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """The data set "own" with files of this content at https://a/NAME."""
    made = tuple(
        DataFile(f"sub/{name}", f"https://a/{name}", sha256=sha256_of(text.encode())) for name, text in files.items()
    )
    monkeypatch.setitem(DATASETS, "own", DataSet("own", "summary", "MIT", "citation", "https://home", made))


def test_a_download_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six bytes in pieces of at most four; the server may say their number or not."""
    own_set(monkeypatch, one="abcdef")
    for length, expected in (("6", 6), (None, None)):
        response, asked, seen = Response(b"abcdef", length), [], []

        def urlopen(url: str, timeout: float, response: Response = response, asked: Any = asked) -> Response:
            asked.append((url, timeout))
            return response

        monkeypatch.setattr(datasets.urllib.request, "urlopen", urlopen)
        folder = tmp_path / str(length)
        assert datasets.get("own", folder, lambda *told, seen=seen: seen.append(told)) == folder / "own"
        assert (asked, seen) == ([("https://a/one", 60)], [("sub/one", 4, expected), ("sub/one", 6, expected)])
        assert set(response.asked) == {1 << 18}
        assert (folder / "own" / "sub" / "one").read_bytes() == b"abcdef"
        assert datasets.get("own", folder, lambda *told, seen=seen: seen.append(told)) == folder / "own"
        assert len(asked) == 1, "what is whole is not asked for again"
    assert DATASETS["own"].provenance == {"source": "https://home", "licence": "MIT", "citation": "citation"}


def test_downloads_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_set(monkeypatch, one="abcdef")
    target = tmp_path / "own" / "sub" / "one"

    def said(answer: Any) -> tuple[str, str | None, object]:
        def urlopen(url: str, timeout: float) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(datasets.urllib.request, "urlopen", urlopen)
        return refused(lambda: datasets.locate("own", tmp_path, download=True), (InputError, CorruptFile))  # type: ignore[arg-type]

    where = f"connect, or put the file at {target}"
    could_not = "could not download https://a/one for the data set 'own'"
    assert said(OSError("broken"))[0] == f"{could_not} (broken); {where}"
    assert said(urllib.error.URLError("no host"))[0] == f"{could_not} (no host); {where}"
    assert said(datasets.http.client.BadStatusLine("?"))[0] == f"{could_not} (?); {where}"
    short = "the download of https://a/one broke off after 5 of 6 bytes; try again"
    assert said(Response(b"abcde", "6"))[0] == short
    other = f"its SHA-256 is {sha256_of(b'abcdeF')[:12]}..., not {sha256_of(b'abcdef')[:12]}..."
    wrong = f"https://a/one does not hold the file sub/one of 'own': {other}; nothing was written"
    assert said(Response(b"abcdeF", "6"))[0] == wrong
    assert not target.exists()
    (tmp_path / "own").write_text("no folder")
    assert said(Response(b"abcdef", None))[0].startswith(f"cannot write {target}: ")


def test_where_data_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_set(monkeypatch, one="a", two="b")
    monkeypatch.delenv("METASCALE_DATA", raising=False)
    assert refused(lambda: datasets.data_folder("own")) == (
        "where is the data set 'own'? Name the data folder with `data_dir`=FOLDER or METASCALE_DATA=FOLDER; "
        "`metascale data get own` downloads it into that folder", "data_dir", None,
    )  # fmt: skip
    monkeypatch.setenv("METASCALE_DATA", str(tmp_path / "named"))
    assert datasets.data_folder("own") == tmp_path / "named" / "own"
    assert datasets.data_folder("own", tmp_path) == tmp_path / "own"
    assert datasets.data_folder("own", "~/x") == Path.home() / "x" / "own"
    (tmp_path / "own" / "sub").mkdir(parents=True)
    (tmp_path / "own" / "sub" / "two").write_bytes(b"c")
    assert refused(lambda: datasets.locate("own", tmp_path)) == (
        f"the data set 'own' lacks sub/one in {tmp_path / 'own'}; to download it: `metascale data get own` with "
        f"`data_dir`={tmp_path}", "data_dir", None,
    )  # fmt: skip
    assert datasets.locate("own", tmp_path, only=["sub/two"]) == tmp_path / "own"
    (tmp_path / "own" / "sub" / "one").write_bytes(b"a")
    report = datasets.check("own", tmp_path)
    assert (report.name, report.folder, report.ok) == ("own", tmp_path / "own", False)
    note = f"its SHA-256 is {sha256_of(b'c')[:12]}..., not {sha256_of(b'b')[:12]}..."
    assert [(file.path, file.status, file.note) for file in report.files] == [
        ("sub/one", "ok", ""), ("sub/two", "corrupt", note),
    ]  # fmt: skip
    assert datasets.check("own", tmp_path, only=["sub/one"]).ok
    (tmp_path / "own" / "sub" / "one").unlink()
    assert [file.status for file in datasets.check("own", tmp_path).files] == ["missing", "corrupt"]
    assert refused(lambda: datasets.check("owm"))[:2] == ("there is no data set 'owm'; did you mean 'own'?", "name")
    assert refused(lambda: datasets.check("owm"))[2] == "owm"


RAW, HUB = "https://raw.githubusercontent.com/", "https://huggingface.co/datasets/"
HOMES = {
    "banking77": (f"{RAW}PolyAI-LDN/task-specific-datasets/master/banking_data/", "train.csv test.csv"),
    "clinc150": (f"{RAW}clinc/oos-eval/master/data/", "data_full.json data_small.json domains.json"),
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "train-images-idx3-ubyte.gz train-labels-idx1-ubyte.gz t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz",
    ),
    "wikitext-2-v1": (
        f"{RAW}pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8/word_language_model/data/wikitext-2/",
        "train.txt valid.txt test.txt",
    ),
    **{
        f"wrench_{name}": (
            f"{RAW}JerrryNie/DyGen/41902c324779157a272548a008a6e487f6d81acc/datasets/{name}/",
            "label.json labeled_ids.json train.json valid.json test.json",
        )
        for name in ("sms", "trec")
    },
    "wrench_youtube": (
        f"{HUB}jieyuz2/WRENCH/resolve/main/youtube/", "label.json labeled_ids.json train.json valid.json test.json",
    ),
}  # fmt: skip
"""Where each file of a data set is, as found with a browser: addresses tell capitals from small letters."""


def test_every_file_is_at_its_public_home() -> None:
    for name, (base, files) in HOMES.items():
        assert [(file.path, file.url) for file in DATASETS[name].files] == [
            (each, base + each) for each in files.split()
        ]
    characters = DATASETS["omniglot"].files
    snell = (
        f"{RAW}jakesnell/prototypical-networks/c9bb4d258267c11cb6e23f0a19242d24ca98ad8a/data/omniglot/splits/vinyals/"
    )
    assert [(file.path, file.url) for file in characters] == [
        *((name, f"{RAW}brendenlake/omniglot/master/python/{name}")
          for name in ("images_background.zip", "images_evaluation.zip")),
        *((f"vinyals_splits/{name}.txt", f"{snell}{name}.txt") for name in ("train", "val", "test")),
    ]  # fmt: skip
    assert [file.n_drawings for file in characters[:2]] == [964 * 20, 659 * 20]
    forms = {name: {file.form for file in known.files} for name, known in DATASETS.items()}
    assert forms == {**{name: {"plain"} for name in DATASETS}, "mnist": {"gzip"}, "omniglot": {"drawings zip", "plain"}}
    homes = {name: known.home for name, known in DATASETS.items()}
    wrench = dict.fromkeys(("wrench_sms", "wrench_trec", "wrench_youtube"), f"{HUB}jieyuz2/WRENCH")
    assert homes == {
        "banking77": "https://github.com/PolyAI-LDN/task-specific-datasets",
        "clinc150": "https://github.com/clinc/oos-eval", "mnist": "https://yann.lecun.com/exdb/mnist",
        "omniglot": "https://github.com/brendenlake/omniglot", "wikitext-2-v1": f"{HUB}Salesforce/wikitext", **wrench,
    }  # fmt: skip
    assert DATASETS["omniglot"].licence == "MIT"


# ---------------------------------------------------------------------------------------------- pickles

RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n)R"


def test_pickles_of_numpy_by_their_instructions(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"

    def read(content: bytes) -> Any:
        path.write_bytes(content)
        return read_pickle(path)

    for value in (np.float32(2.5), np.str_("ab"), np.bool_(True), np.array(["a", "bc"]), np.array([b"a", b"bc"]),
                  np.arange(6, dtype=">u2").reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
                  np.zeros((0, 3)), bytearray(b"ab"), b"", bytearray()):  # fmt: skip
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            found = read(pickle.dumps(value, protocol))
            if isinstance(value, bytes | bytearray):
                assert bytes(found) == bytes(value)
                continue
            np.testing.assert_array_equal(found, value)
            assert found.dtype == value.dtype.newbyteorder("="), (value, protocol)
    whole = f"{path} is not a whole pickle of plain data "

    def wrong(content: bytes) -> str:
        return corrupt(lambda: read(content)).removeprefix(whole)

    dtype = b"cnumpy\ndtype\n(Vu1\ntR"
    assert read(RECONSTRUCT + b"(I1\n(I2\nt" + dtype + b"I00\nVab\ntb.").tolist() == [97, 98]
    for order, expected in ((b"C\x01>", [1]), (b"C\x01<", [256]), (b"V>\n", [1]), (b"C\x01|", [256])):
        kind = b"cnumpy\ndtype\n(Vu2\ntR(I3\n" + order + b"NNNI-1\nI-1\nI0\ntb"
        assert read(RECONSTRUCT + b"(I1\n(I1\nt" + kind + b"I00\nC\x02\x00\x01tb.").tolist() == expected, order
    assert wrong(RECONSTRUCT + b"(I1\n(I-1\nt" + dtype + b"I00\nV\ntb.") == "(an array of shape (-1,))"
    assert wrong(RECONSTRUCT + b"(I1\n(I2\nt" + dtype + b"I00\nVa\ntb.") == (
        "(an array of shape (2,) whose bytes are of another number)"
    )
    assert wrong(RECONSTRUCT + b"(I1\n(I2\nt" + dtype + b"I00\nI3\ntb.").endswith("another number)")
    for shape, kind in ((b"I2\n", dtype), (b"(V2\nt", dtype), (b"(I2\nt", b"Vu1\n")):
        assert wrong(RECONSTRUCT + b"(I1\n" + shape + kind + b"I00\nVab\ntb.") == "(an array without type or shape)"
    objects = b"cnumpy\ndtype\n(VO\ntR"
    assert read(RECONSTRUCT + b"(I1\n(I2\nt" + objects + b"I00\n(lVa\naI5\natb.") == ["a", 5]
    for shape, shown in ((b"(I3\nt", "(3,)"), (b"(I2\nI1\nt", "(2, 1)"), (b"(t", "()")):
        assert wrong(RECONSTRUCT + b"(I1\n" + shape + objects + b"I00\n(lVa\naI5\natb.") == (
            f"(an array of objects of shape {shown} without as many of them)"
        )
    assert corrupt(lambda: read(RECONSTRUCT + b".")).startswith(whole), "an array that is never filled"
    assert wrong(b"") == "(Ran out of input)"


def test_pickles_of_anything_else_say_what_they_ask_for(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"

    def said(content: bytes) -> str:
        path.write_bytes(content)
        message, field, value = refused(lambda: read_pickle(path))
        assert (field, value) == ("data", str(path))
        only = ", and only arrays, numbers, texts, lists and dictionaries are read from a pickle"
        assert message.endswith(only)
        return message.removesuffix(only).removeprefix(f"{path} asks for ")

    assert said(b"cos\nsystem\n(Vls\ntR.") == "os.system"
    assert said(b"Pname\n.") == "an object that is kept outside the file"
    assert said(b"cnumpy\ndtype\n(Vm8\ntR.") == "an array of 'm8'"
    assert said(b"cnumpy\ndtype\n(I3\ntR.") == "an array of 3"
    assert said(pickle.dumps(np.zeros(1, [("a", "u1")]))) == "an array of 'V1'"
    assert said(b"cnumpy\ndtype\n(Vu1\ntR(I3\nV|\nN(Va\ntNI-1\nI-1\nI0\ntb.") == "an array with named fields"
    assert said(b"c_codecs\nencode\n(Va\nVutf8\ntR.") == "the encoding 'utf8'"
    assert said(b"c_codecs\nencode\n(I3\nVlatin1\ntR.") == "the encoding 'latin1'"
    assert said(b"cbuiltins\nbytes\n(I3\ntR.") == "bytes made of something else"
    assert said(b"c__builtin__\nbytearray\n(c__builtin__\nbytes\n)Rc__builtin__\nbytes\n)RtR.") == (
        "bytes made of something else"
    )
    assert said(b"cnumpy.core.multiarray\n_reconstruct\n}Va\nI1\nsb.") == "a change of what reads it"
    path.write_bytes(b"c_codecs\nencode\n(V\xe9\nVlatin-1\ntR.")
    assert read_pickle(path) == b"\xe9"
    path.write_bytes(b"c_codecs\nencode\n(Vb\ntR.")
    assert read_pickle(path) == b"b"
    path.unlink()
    absent = (f"cannot read {path}: No such file or directory", "data", str(path))
    assert refused(lambda: read_pickle(path)) == absent


def test_what_a_pickle_holds_inside_is_finished_too(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    several = np.empty(2, object)
    several[:] = [np.arange(2), (np.arange(3), {"k": np.float32(1)})]
    path.write_bytes(pickle.dumps({"a": [several], 3: (1, None)}, 2))
    found = read_pickle(path)
    assert found[3] == (1, None)
    ((first, (second, rest)),) = found["a"]
    assert (first.tolist(), second.tolist(), rest) == ([0, 1], [0, 1, 2], {"k": 1.0})


# ---------------------------------------------------------------------------------------------- published sets

PIXELS = 2
NAMES = (("n00000000", "n00000001"), ("n00000002",), ("n00000003",))
SMALL = PublishedSet("small", "made here", (2, 1, 1), (4, 2, 2), 2, PIXELS,
                     tuple(map(names_digest, NAMES)), r"n\d{8}")  # type: ignore[arg-type]  # fmt: skip
PARTS = ("train", "val", "test")


def labels_of(part: int) -> list[str]:
    return [name for name in NAMES[part] for _ in range(2)]


def bytes_of(part: int) -> np.ndarray:
    n = 2 * len(NAMES[part])
    return np.broadcast_to((100 * part + np.arange(n))[:, None, None, None], (n, PIXELS, PIXELS, 3)).astype(np.uint8)


def write(folder: Path, ending: str, make: Callable[[int], dict[str, Any]], names: tuple[str, ...] = PARTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, name in enumerate(names):
        path, content = folder / f"{name}.{ending}", make(part)
        if ending == "npz":
            with path.open("wb") as stream:
                np.savez(stream, **content)
        else:
            path.write_bytes(pickle.dumps(content))
    return folder


def in_folders(folder: Path, *, parts: tuple[str, ...] = PARTS) -> Path:
    for part, name in enumerate(parts):
        for row, (label, image) in enumerate(zip(labels_of(part), bytes_of(part), strict=True)):
            (folder / name / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / name / label / f"{row}.png")
    return folder


def test_what_is_known_of_the_published_sets() -> None:
    """Digests of 16 digits, each of one list; WordNet's numbers in sets of ImageNet, words in those of CIFAR-100."""
    known = published.PUBLISHED
    digests = [digest for each in known.values() for digest in each.digests]
    assert all(re.fullmatch(r"[0-9a-f]{16}", digest) for digest in digests)
    assert len(set(digests)) == 12
    assert {name: (each.pixels, each.per_class) for name, each in known.items()} == {
        "mini-imagenet": (84, 600), "tiered-imagenet": (84, None), "cifar-fs": (32, 600), "fc100": (32, 600),
    }  # fmt: skip
    assert known["tiered-imagenet"].n_images == (448_695, 124_261, 206_209)
    for name, right, wrong in (
        ("mini-imagenet", "n01440764", "n0144076"), ("tiered-imagenet", "n01440764", "train 3"),
        ("cifar-fs", "aquarium_fish", "3"), ("fc100", "man", "Man"),
    ):  # fmt: skip
        assert re.fullmatch(known[name].names, right)
        assert not re.fullmatch(known[name].names, wrong)
    assert names_digest(["b", "a"]) == sha256_of(b"a\nb")[:16]


def test_forms_of_arrays_and_labels(tmp_path: Path) -> None:
    """Of names or of numbers; keys of several kinds; channels first or last; images one by one."""
    full = [label for part in range(3) for label in labels_of(part)]
    numbered = ["train 0", "train 0", "train 1", "train 1", "validation 0", "validation 0", "test 0", "test 0"]
    counted = [np.repeat(np.arange(len(NAMES[part])), 2) for part in range(3)]
    known = [{name: number for number, name in enumerate(NAMES[part])} for part in range(3)]
    places = [{name: [2 * k, 2 * k + 1] for k, name in enumerate(NAMES[part])} for part in range(3)]
    forms: list[tuple[str, Callable[[int], dict[str, Any]], list[str]]] = [
        *(("npz", lambda part, a=images, b=labels: {a: bytes_of(part), b: np.array(labels_of(part))}, full)
          for images in ("images", "features", "data", "x") for labels in ("labels", "targets", "y")),
        ("npz", lambda part: {"images": bytes_of(part).transpose(0, 3, 1, 2), "labels": counted[part]}, numbered),
        ("pkl", lambda part: {"image_data": bytes_of(part), "class_dict": places[part]}, full),
        ("pickle", lambda part: {"image_data": [*bytes_of(part)], "class_dict": places[part]}, full),
        ("pkl", lambda part: {"data": bytes_of(part), "labels": tuple(labels_of(part))}, full),
        ("pkl", lambda part: {"data": bytes_of(part), "labels": counted[part].tolist()}, numbered),
        ("pkl", lambda part: {"data": bytes_of(part), "labels": counted[part], "catname2label": None}, numbered),
        ("pkl", lambda part: {"data": bytes_of(part), "labels": [*counted[part]], "catname2label": known[part]}, full),
    ]  # fmt: skip
    for number, (ending, make, labels) in enumerate(forms):
        found = read_published(write(tmp_path / str(number), ending, make), SMALL)
        assert list(found.labels) == labels
        assert list(found.parts) == ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
        assert isinstance(found.inputs, Pictures)
        x = found.inputs(np.arange(8))["x"]
        assert (x[:, :, 0, 0] * 255).round().int().tolist() == [[k] * 3 for k in (0, 1, 2, 3, 100, 101, 200, 201)]


@pytest.mark.parametrize("key", ["label_specific", "labels"])
@pytest.mark.parametrize("names", ["unique", "twice", "none"])
def test_labels_in_files_of_their_own(key: str, names: str, tmp_path: Path) -> None:
    """Names that stand for several numbers, or that are absent, are no names."""
    said: dict[str, Any] = {"unique": lambda part: list(NAMES[part]), "twice": lambda part: ["a", "a"], "none": None}
    counted = [np.repeat(np.arange(len(NAMES[part])), 2) for part in range(3)]
    more = lambda part: {"label_specific_str": said[names](part)} if said[names] else {}
    write(tmp_path, "pkl", lambda part: {key: counted[part], **more(part)}, tuple(f"{name}_labels" for name in PARTS))
    write(tmp_path, "npz", lambda part: {"images": bytes_of(part)}, tuple(f"{name}_images" for name in PARTS))
    found = read_published(tmp_path, SMALL)
    assert found.labels[3] == ("n00000001" if names == "unique" else "train 1")
    assert found.labels[4] == ("n00000002" if names == "unique" else "validation 0")


def test_labels_that_are_absent(tmp_path: Path) -> None:
    write(tmp_path, "pkl", lambda part: {"label_general": [0], 1: 2}, tuple(f"{name}_labels" for name in PARTS))
    write(tmp_path, "npz", lambda part: {"images": bytes_of(part)}, tuple(f"{name}_images" for name in PARTS))
    said = f"{tmp_path / 'train_labels.pkl'} must hold label_specific or labels, not label_general, 1"
    assert refused(lambda: read_published(tmp_path, SMALL)) == (said, "data", None)


def test_names_of_files_that_are_a_split(tmp_path: Path) -> None:
    """A name is, or ends in, that of a split; what is of another phase of training is passed over."""
    make: Callable[[int], dict[str, Any]] = lambda part: {"images": bytes_of(part), "labels": np.array(labels_of(part))}
    for number, names in enumerate((("a-train", "a_valid", "a-test"), ("TRAIN", "Validation", "test"),
                                    ("a_train_phase_train", "a_val", "a_test"))):  # fmt: skip
        folder = write(tmp_path / str(number), "npz", make, names)
        for other in ("a_train_phase_val", "a_train_phase_test", "atrain", "aval"):
            (folder / f"{other}.npz").write_bytes(b"not this one")
        assert len(read_published(folder, SMALL).labels) == 8
    assert len(read_published(in_folders(tmp_path / "folders", parts=("train", "valid", "test")), SMALL).labels) == 8
    assert published._file_of(tmp_path / "0", "vali", (".npz",)) is None


def test_image_files_of_a_published_set(tmp_path: Path) -> None:
    found = read_published(in_folders(tmp_path), SMALL).inputs
    assert isinstance(found, ImageFiles)
    assert (found.size, found.channels) == ((2, 2), 3)
    assert [path.name for path in found.paths] == [
        "0.png",
        "1.png",
        "2.png",
        "3.png",
        "0.png",
        "1.png",
        "0.png",
        "1.png",
    ]
    small = read_published(tmp_path, SMALL, 1).inputs
    assert isinstance(small, ImageFiles)
    assert small.size == (1, 1)


@pytest.mark.parametrize("place", ["", "images", "data", "train"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("header", [False, True])
def test_images_that_a_list_names(place: str, nested: bool, header: bool, tmp_path: Path) -> None:
    (tmp_path / "lists" / "own").mkdir(parents=True)
    for part, name in enumerate(PARTS):
        rows = [(f"{label}_{row}.png", label) for row, label in enumerate(labels_of(part))]
        into = tmp_path / (name if place == "train" else place)
        for (file, label), image in zip(rows, bytes_of(part), strict=True):
            path = into / label / file if nested else into / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        lines = [*([("filename", "label")] if header else []), *rows]
        (tmp_path / "lists" / "own" / f"{name}.csv").write_text("\n\n".join(",".join(line) for line in lines))
    found = read_published(tmp_path, SMALL)
    assert list(found.labels) == [label for part in range(3) for label in labels_of(part)]
    assert isinstance(found.inputs, ImageFiles)
    assert (found.inputs(np.arange(8))["x"][:, 0, 0, 0] * 255).round().int().tolist() == [
        0,
        1,
        2,
        3,
        100,
        101,
        200,
        201,
    ]


@pytest.mark.parametrize("place", ["", "images", "data"])
def test_classes_that_a_list_names(place: str, tmp_path: Path) -> None:
    for part, name in enumerate(PARTS):
        (tmp_path / f"{name}.txt").write_text("\n".join(f" {label} " for label in NAMES[part]) + "\n\n")
    for part in range(3):
        in_folders(tmp_path / "made").joinpath(PARTS[part])
        for label in NAMES[part]:
            target = tmp_path / place / label
            target.parent.mkdir(exist_ok=True)
            (tmp_path / "made" / PARTS[part] / label).rename(target)
    assert list(read_published(tmp_path, SMALL).labels) == [label for part in range(3) for label in labels_of(part)]
    (tmp_path / "train.txt").write_text("other\n")
    said = f"{tmp_path / 'train.txt'} names 'other', a class that has no folder in {tmp_path}"
    assert refused(lambda: read_published(tmp_path, SMALL)) == (said, "data", None)
    (tmp_path / "train.txt").write_text("n00000000\nother\n")
    said = f"there is no folder {tmp_path / place / 'other'} for the class 'other'"
    assert refused(lambda: read_published(tmp_path, SMALL)) == (said, "data", None)
    (tmp_path / "train.txt").write_text("\n \n")
    said = f"{tmp_path / 'train.txt'} must name a class in each line, and is empty"
    assert corrupt(lambda: read_published(tmp_path, SMALL)) == said


def test_published_files_that_are_refused(tmp_path: Path) -> None:
    whole: dict[str, Any] = {"data": bytes_of(0), "labels": labels_of(0)}
    table: list[tuple[str, dict[str, Any], str, bool]] = [
        ("pkl", {"image_data": bytes_of(0), "class_dict": [1]}, "{0} holds a list where a dictionary is expected",
         False),
        ("pkl", {"image_data": bytes_of(0), "class_dict": {"a": [4]}}, "{0}: class 'a' names image 4 of 4", True),
        ("pkl", {"image_data": bytes_of(0), "class_dict": {"a": [-1]}}, "{0}: class 'a' names image -1 of 4", True),
        ("pkl", {"image_data": bytes_of(0), "class_dict": {"a": [0.5]}}, "{0}: class 'a' names image 0.5 of 4", True),
        ("pkl", {"data": 1, "other": 2}, "{0} must hold image_data and class_dict, or data and labels, not data, other",
         False),
        ("pkl", {"class_dict": 1, "labels": 2},
         "{0} must hold image_data and class_dict, or data and labels, not class_dict, labels", False),
        ("npz", {"images": bytes_of(0), "other": [0]}, "{0} must hold images and labels, not images, other", False),
        ("npz", {"labels": [0]}, "{0} must hold images and labels, not labels", False),
        ("pkl", {**whole, "labels": [0.5] * 4}, "the labels in {0} must be whole numbers or names", False),
        ("pkl", {**whole, "labels": {"a": 1}}, "the labels in {0} must be whole numbers or names", False),
        ("pkl", {**whole, "data": ["a"] * 4}, "the images in {0} must be arrays or encoded images", False),
        ("pkl", {**whole, "data": 3}, "the images in {0} must be bytes [n, height, width, 3], not int", False),
        ("pkl", {**whole, "data": []}, "the images in {0} must be bytes [n, height, width, 3], not list", False),
        ("pkl", {**whole, "data": bytes_of(0).astype(float)},
         "the images in {0} must be bytes [n, height, width, 3], not float64 [4, 2, 2, 3]", False),
        ("pkl", {**whole, "data": bytes_of(0)[..., 0]},
         "the images in {0} must be bytes [n, height, width, 3], not uint8 [4, 2, 2]", False),
        ("pkl", {**whole, "data": bytes_of(0)[..., :2]},
         "the images in {0} must be bytes [n, height, width, 3], not uint8 [4, 2, 2, 2]", False),
    ]  # fmt: skip
    for number, (ending, content, message, damaged) in enumerate(table):
        folder = write(tmp_path / str(number), ending, lambda part, of=content: of)
        said = message.format(folder / f"train.{ending}")
        if damaged:
            assert corrupt(lambda at=folder: read_published(at, SMALL)) == said
        else:
            assert refused(lambda at=folder: read_published(at, SMALL)) == (said, "data", None)
    folder = write(tmp_path / "list", "pkl", lambda part: [1])  # type: ignore[arg-type,return-value]
    said = f"{folder / 'train.pkl'} must hold image_data and class_dict, or data and labels, not list"
    assert refused(lambda: read_published(folder, SMALL)) == (said, "data", None)


def test_folders_that_hold_no_published_set(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    said = f"{absent} is no folder; small is read from one"
    assert refused(lambda: read_published(absent, SMALL)) == (said, "data", str(absent))
    assert refused(lambda: read_published(tmp_path, SMALL)) == (
        f"{tmp_path} holds no form of small that is read here: train.csv, val.csv and test.csv beside the images; "
        "train.txt, val.txt and test.txt with the names of classes; folders train, val and test with a folder for each "
        "class; one pickle for each split; or one npz for each split", "data", str(tmp_path),
    )  # fmt: skip
    known = "mini-imagenet, tiered-imagenet, cifar-fs, fc100"
    with pytest.raises(InputError) as caught:
        published_set("zzz")
    assert str(caught.value) == f"there is no published set 'zzz'; published sets: {known}"
    assert (caught.value.field, caught.value.value, caught.value.allowed) == ("published", "zzz", known)
    for part in PARTS:
        (tmp_path / f"{part}.csv").write_text("filename,label\na.png\n")
    said = f"{tmp_path / 'train.csv'} must hold a file name and a label in each row"
    assert corrupt(lambda: read_published(tmp_path, SMALL)) == said
    (tmp_path / "train.csv").write_text("filename,label\n")
    assert corrupt(lambda: read_published(tmp_path, SMALL)) == said
    (tmp_path / "train.csv").write_text("a.png,b\n")
    said = f"{tmp_path / 'train.csv'} names a.png, which is neither in {tmp_path} nor in its folder images"
    assert refused(lambda: read_published(tmp_path, SMALL)) == (said, "data", None)
    (tmp_path / "a.png").touch()
    (tmp_path / "train.csv").write_text("a.png,b\nc.png,d\ne.png,f\n")
    said = f"2 of 3 images that {tmp_path / 'train.csv'} names are not there: {tmp_path / 'c.png'}"
    assert refused(lambda: read_published(tmp_path, SMALL)) == (said, "data", None)


def test_a_set_that_is_not_the_published_one(tmp_path: Path) -> None:
    def read(
        number: int, labels: Any = labels_of, images: Any = bytes_of, of: PublishedSet = SMALL, size: Any = None
    ) -> Any:
        make = lambda part: {"images": images(part), "labels": np.array(labels(part))}
        folder = write(tmp_path / str(number), "npz", make)
        message, field, value = refused(lambda: read_published(folder, of, size), (InputError, CorruptFile))  # type: ignore[arg-type]
        return message.removeprefix(f"{folder}: "), field, value

    train = "train of small (made here) has"
    assert read(0, lambda part: labels_of(part)[1:])[0] == f"{train} 4 images and 3 labels"
    assert read(1, lambda part: ["n00000000"] * len(labels_of(part)))[:2] == (
        f"{train} 2 classes, and here are 1", "data",
    )  # fmt: skip
    assert read(2, lambda part: labels_of(part)[1:], lambda part: bytes_of(part)[1:])[:2] == (
        f"{train} 4 images, and here are 3: the files are not whole", "data",
    )  # fmt: skip
    uneven = lambda part: [*NAMES[0][:1], *NAMES[0][1:] * 3] if part == 0 else labels_of(part)
    assert read(3, uneven)[:2] == (f"{train} 2 images of each class, and here are 1 of 'n00000000'", "data")
    other = lambda part: [f"n1000000{part}{label[-1]}"[:9] for label in labels_of(part)]
    assert read(4, lambda part: [label.replace("n0", "n1") for label in labels_of(part)])[:2] == (
        f"{train} other classes than here (n10000000, n10000001, ...): this is another split, or another set", "data",
    )  # fmt: skip
    del other
    assert read(5, images=lambda part: bytes_of(part)[:, :1])[:2] == (
        f"{train} images of 2 x 2 x 3, and here they are 1 x 2 x 3", "data",
    )  # fmt: skip
    assert read(6, size=3) == ("image_size=3 is for image files, and these are arrays of 2 pixels", "image_size", 3)
    shared = lambda part: ["a", "a", "b", "b"] if part == 0 else ["b", "b"] if part == 1 else ["c", "c"]
    assert read(7, shared)[:2] == ("class 'b' is in two splits of small", "data")
    make = lambda part: {"images": bytes_of(part), "labels": np.array(labels_of(part))}
    folder = write(tmp_path / "right", "npz", make)
    assert isinstance(read_published(folder, SMALL, 2).inputs, Pictures)
    wide = PublishedSet(*(getattr(SMALL, name) for name in SMALL.__dataclass_fields__ if name != "names"), names="x")
    assert len(read_published(folder, wide).labels) == 8, "other names are checked by counts alone"


# ---------------------------------------------------------------------------------------------- pictures


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()


def test_pictures_of_several_parts() -> None:
    first = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    second = 10 * first
    found = Pictures((first, [png(second[0]), png(np.repeat(np.repeat(second[0], 2, 0), 2, 1))]), 2)
    x = found(np.array([[2, 0], [1, 0]]))["x"]
    assert x.shape == (2, 2, 3, 2, 2)
    expected = torch.from_numpy(np.concatenate([first, second])).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(x[0, 1], expected[0])
    torch.testing.assert_close(x[1, 0], expected[1])
    assert float((x[0, 0] - expected[1]).abs().max()) < 0.15, "resized"
    grey = Pictures(([png(np.full((2, 2), 51, np.uint8))],), 2)
    torch.testing.assert_close(grey(np.array([0]))["x"], torch.full((1, 3, 2, 2), 0.2))
    said = corrupt(lambda: Pictures((first, [b"no image"]), 2)(np.array([1])))
    assert said.startswith("image 1 cannot be decoded (cannot identify image file")


def test_decoded_files_are_kept_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of 1 x 2 pixels and one channel are 2 bytes: of three, two fit into 4 bytes."""
    for number in range(3):
        Image.fromarray(np.array([[number, 255]], np.uint8)).save(tmp_path / f"{number}.png")
    found = ImageFiles(tuple(tmp_path / f"{number}.png" for number in range(3)), (1, 2), 1)
    monkeypatch.setattr(pictures, "_MOST_KEPT", 4)
    x = found(np.array([[0, 1, 2]]))["x"]
    assert x.shape == (1, 3, 1, 1, 2)
    assert (x * 255).round().int().flatten().tolist() == [0, 255, 1, 255, 2, 255]
    assert sorted(found._decoded) == [0, 1]
    assert "array" not in repr(found)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    assert found(np.array([0, 1]))["x"].shape == (2, 1, 1, 2)
    message, field, _ = refused(lambda: found(np.array([2])))
    assert (message[: len(f"cannot read the image {tmp_path / '2.png'}: ")], field) == (
        f"cannot read the image {tmp_path / '2.png'}: ", "data",
    )  # fmt: skip


class Asked(Exception):
    pass


def require(*arguments: str) -> None:
    raise Asked(*arguments)


@pytest.mark.parametrize(
    ("module", "make", "purpose"),
    [
        (pictures, lambda folder: ImageFiles((folder / "a" / "0.png",), (1, 1), 1)(np.array([0])), "reading images"),
        (pictures, lambda folder: Pictures(([b""],), 1)(np.array([0])), "decoding images"),
        (labelled, read_labelled, "reading images"),
        (omniglot, lambda folder: omniglot._packed(b"other"), "reading Omniglot"),
    ],
)
def test_what_is_asked_of_pillow(
    module: Any, make: Any, purpose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").touch()
    monkeypatch.setattr(module, "require", require)
    with pytest.raises(Asked) as caught:
        make(tmp_path)
    assert caught.value.args == ("PIL.Image", "images", purpose)


# ---------------------------------------------------------------------------------------------- Omniglot


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def drawing(bits: np.ndarray, filters: int = 0, more: bytes = b"") -> bytes:
    """A PNG of one bit a pixel, in two pieces of data, of rows [105, 105]."""
    rows = np.concatenate([np.full((105, 1), filters, np.uint8), np.packbits(bits, axis=1)], axis=1).tobytes()
    data = zlib.compress(rows + more, 1)
    header = struct.pack(">IIBBBBB", 105, 105, 1, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"tEXt", b"a\0b"), chunk(b"IDAT", data[:9]), chunk(b"IDAT", data[9:]))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


BITS = np.random.default_rng(0).integers(0, 2, (40, 105, 105), dtype=np.uint8)


def test_plain_drawings_are_unpacked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.packbits(BITS[0], axis=1).tobytes()
    assert omniglot._packed(drawing(BITS[0], filters=2)) != expected, "rows that say how they differ from others"
    assert omniglot._packed(png(np.uint8(255) * BITS[0])) == expected
    monkeypatch.setattr(omniglot, "require", require)
    assert omniglot._packed(drawing(BITS[0])) == expected
    said = corrupt(lambda: omniglot._packed(drawing(BITS[0], more=b"x")))
    assert said.startswith("a drawing expands to more than ")
    for other in (drawing(BITS[0], filters=1), b"\x00" + drawing(BITS[0])[1:], png(BITS[0])):
        with pytest.raises(Asked):
            omniglot._packed(other)


def test_drawings_of_another_size_are_refused() -> None:
    for shape in ((105, 104), (104, 105)):
        with pytest.raises(OSError, match=rf"^a drawing has \({shape[1]}, {shape[0]}\) pixels, not 105 x 105$"):
            omniglot._packed(png(np.zeros(shape, np.uint8)))


def test_the_filter_by_its_formula() -> None:
    """Four pixels to two, ratio 2: pixel j lies at (j + 1/2 - 2 (i + 1/2)) / 2 from the centre of i."""

    def lanczos(x: float) -> float:
        return float(np.sinc(x) * np.sinc(x / 3)) if abs(x) < 3 else 0.0

    plain = np.array([[lanczos((j + 0.5 - 2 * (i + 0.5)) / 2) for j in range(4)] for i in range(2)])
    np.testing.assert_allclose(omniglot.lanczos_weights(4, 2), plain / plain.sum(1, keepdims=True), rtol=1e-6)
    assert omniglot.lanczos_weights(4, 2).dtype == np.float32
    long = omniglot.lanczos_weights(40, 5)  # ratio 8: 24 pixels to each side
    assert (long[0] != 0).tolist() == [abs(j + 0.5 - 4) < 24 for j in range(40)]


def test_drawings_shrink_in_two_steps_that_are_clipped() -> None:
    """Black and white noise overshoots; ink is 255."""
    weights = omniglot.lanczos_weights(105, 28).astype(float)
    packed = np.packbits(BITS[:3], axis=2)
    narrow = np.minimum(1, np.maximum(0, BITS[:3] @ weights.T))
    expected = 255 - np.rint(255 * np.minimum(1, np.maximum(0, weights @ narrow)))
    found = omniglot.shrink(np.frombuffer(packed.tobytes(), np.uint8))
    assert (found.shape, found.dtype) == ((3, 28, 28), np.uint8)
    assert np.abs(found - expected).max() <= 1
    assert (found == expected).mean() > 0.99
    many = np.concatenate([packed] * 100)
    assert np.array_equal(omniglot.shrink(many.ravel()), np.concatenate([found] * 100))


def write_zips(folder: Path, background: list[str], evaluation: list[str]) -> Path:
    (folder / "omniglot" / "vinyals_splits").mkdir(parents=True, exist_ok=True)
    for name, characters in (("background", background), ("evaluation", evaluation)):
        with zipfile.ZipFile(folder / "omniglot" / f"images_{name}.zip", "w") as archive:
            for number, character in enumerate(characters):
                for row in range(20):
                    archive.writestr(f"images_{name}/{character}/{number:04d}_{row + 1:02d}.png", drawing(BITS[number]))
    return folder


ALPHABETS = [f"{letter}/character01" for letter in "ABCDEFG"]


def test_characters_of_two_archives_and_their_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zips(tmp_path, ALPHABETS, ["X/character01", "Y/character01"])
    folder = tmp_path / "omniglot"
    found = omniglot.decode_zips(folder)
    assert (found.names, found.n_background) == ((*ALPHABETS, "X/character01", "Y/character01"), 7)
    one = omniglot.shrink(np.packbits(BITS[:7], axis=2).ravel())
    assert np.array_equal(found.images[:140], np.repeat(one, 20, axis=0))
    assert np.array_equal(found.images[140:], np.repeat(one[:2], 20, axis=0))
    plain: dict[str, Any] = {"n_way": 2, "n_query": 5, "download": False}
    lake = omniglot.omniglot_tasks(tmp_path, "lake", split_seed=3, rotations=False, **plain)
    order = generator(3, "class-split", "omniglot-lake").permutation(7)
    held = sorted(order[:5].tolist())
    assert (lake.split.train, lake.split.validation, lake.split.test) == (
        tuple(sorted(order[5:].tolist())), tuple(held), (7, 8),
    )  # fmt: skip
    known = DATASETS["omniglot"]
    described = lake.describe()
    assert described["details"] == {
        "source": known.home, "licence": known.licence, "citation": known.citation,
        "inputs": "x [1, 28, 28] float32 in [0, 1], ink 1", "rotations": False,
    }  # fmt: skip
    assert (described["data"], described["n_tasks"]) == ("omniglot", {"train": None, "validation": 100, "test": 600})
    assert described["class_names"] == [f"{name}/rot000" for name in found.names]
    turned = omniglot.omniglot_tasks(tmp_path, "lake", n_train_tasks=1, n_test_tasks=2, **plain)
    assert turned.table.details["rotations"] is True
    assert turned.table.classes[:4] == tuple(f"A/character01/rot{degrees:03d}" for degrees in (0, 90, 180, 270))
    assert [ids.tolist() for ids in turned.table.examples[4:6]] == [[*range(20, 40)], [*range(200, 220)]]
    assert turned.split.test == tuple(range(28, 36))
    assert (turned.n_tasks("train"), turned.n_tasks("test")) == (1, 2)
    x = turned.table.fetch(np.array([0, 180, 360, 540]))["x"]
    for turns in range(4):
        expected = np.rot90(one[0], turns).astype(np.float32) / 255
        np.testing.assert_allclose(x[turns, 0].numpy(), expected, rtol=1e-6)
    said = f"the data set 'omniglot' lacks {', '.join(f'vinyals_splits/{name}.txt' for name in PARTS)} in {folder}; to "
    assert refused(lambda: omniglot.omniglot_tasks(tmp_path, **plain))[0].startswith(said)
    lists = {"train": ALPHABETS[:5], "val": ALPHABETS[5:], "test": ["Y/character01", "X/character01"]}
    for name, own in lists.items():
        lines = [f"{each}/rot{degrees:03d}" for each in own for degrees in (0, 90)]
        (folder / "vinyals_splits" / f"{name}.txt").write_text("\n\n".join(lines) + "\n")
    vinyals = omniglot.omniglot_tasks(tmp_path, rotations=False, **plain)
    assert (vinyals.split.train, vinyals.split.validation, vinyals.split.test) == ((0, 1, 2, 3, 4), (5, 6), (8, 7))
    assert omniglot.omniglot_tasks(tmp_path, **plain).split.test == (32, 33, 28, 29)
    (folder / "vinyals_splits" / "val.txt").write_text("F/character01/rot000\nF/character09/rot000\n")
    said = (
        f"{folder / 'vinyals_splits' / 'val.txt'} names the class F/character09/rot000, which the zip files do not hold"
    )
    assert corrupt(lambda: omniglot.omniglot_tasks(tmp_path, **plain)) == said
    said = "omniglot: split must be 'vinyals' or 'lake', not 'ravi'"
    assert refused(lambda: omniglot.omniglot_tasks(tmp_path, "ravi"))[0] == said  # type: ignore[arg-type]
    asked: list[Any] = []

    def locate(*arguments: Any, **named: Any) -> Path:
        asked.append((arguments, named))
        return folder

    monkeypatch.setattr(omniglot, "locate", locate)
    omniglot.omniglot_tasks(tmp_path, "lake", n_way=2, n_query=5)
    zips = ("images_background.zip", "images_evaluation.zip")
    assert asked == [(("omniglot", tmp_path), {"only": zips, "download": True})]


def test_archives_that_are_not_of_omniglot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zips(tmp_path, ["A/character01"], ["B/character01"])
    folder = tmp_path / "omniglot"
    first, second = (folder / f"images_{name}.zip" for name in ("background", "evaluation"))
    with zipfile.ZipFile(second, "w") as archive:
        archive.writestr("images_evaluation/B/character01/0001_01.png", b"no image")
    assert corrupt(lambda: omniglot.decode_zips(folder)).startswith(f"{second} is damaged: cannot identify image file")
    with zipfile.ZipFile(second, "w") as archive:
        archive.writestr("images_evaluation/readme.txt", b"nothing")
    assert corrupt(lambda: omniglot.decode_zips(folder)) == f"{second} does not hold 20 drawings of every character"
    second.write_bytes(b"no zip")
    assert corrupt(lambda: omniglot.decode_zips(folder)) == f"{second} is damaged: File is not a zip file"

    def check(archive: zipfile.ZipFile, where: str) -> None:
        raise CorruptFile(f"{where} is too large")

    monkeypatch.setattr(omniglot, "check_zip", check)
    assert corrupt(lambda: omniglot.decode_zips(folder)) == f"{first} is too large"


def test_decoded_characters_are_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = tmp_path / "zips", tmp_path / "cache"
    folder.mkdir()
    for name in ("images_background.zip", "images_evaluation.zip"):
        (folder / name).write_bytes(name.encode())
    made = Characters(("A/character01",), 1, np.arange(20 * 28 * 28, dtype=np.uint8).reshape(20, 28, 28))
    monkeypatch.setattr(omniglot, "decode_zips", lambda at: made)
    read = omniglot.read_characters.__wrapped__
    assert read(folder, (), None) is made
    assert read(folder, (), cache) is made
    digests = [sha256_of(name.encode()) for name in ("images_background.zip", "images_evaluation.zip")]
    path = cache / f"omniglot-28-{sha256_of(''.join(digests).encode())[:16]}.npz"
    assert [*cache.iterdir()] == [path]
    again = read(folder, (), cache)
    assert (again.names, again.n_background) == (made.names, 1)
    assert np.array_equal(again.images, made.images)

    def kept(content: bytes, right: bool = True) -> str:
        path.write_bytes((sha256_of(content) if right else 64 * "0").encode() + content)
        return corrupt(lambda: read(folder, (), cache))

    made_again = "; delete it and it will be made again"
    assert kept(b"abc", False) == f"the cache file {path} is damaged{made_again}"
    assert kept(b"abc") == f"{path} is no cache file of ours (File is not a zip file){made_again}"
    buffer = io.BytesIO()
    np.savez(buffer, names=np.array(["a"]))
    assert kept(buffer.getvalue()).startswith(
        f"{path} is no cache file of ours ('n_background is not a file in the arc"
    )

    def check(archive: zipfile.ZipFile, where: str) -> None:
        raise CorruptFile(f"{where} is too large")

    monkeypatch.setattr(omniglot, "check_zip", check)
    assert kept(buffer.getvalue()) == f"the cache file {path} is too large"


# ---------------------------------------------------------------------------------------------- CSV and intents


def parsed(text: str | bytes, text_column: str = "text", label_column: str = "label") -> Any:
    data = text if isinstance(text, bytes) else text.encode()
    return parse_csv(Path("own.csv"), data, text_column, label_column)


def test_rows_of_csv_files() -> None:
    found = parse_csv(Path("own.csv"), b"text,label\na,b\n", "text", "label", "train")
    assert found == ([LabelledText("a", "b", "train")], "UTF-8, comma")
    assert parsed("a\ttext\tlabel\n1\tu\tv\n") == ([LabelledText("u", "v")], "UTF-8, tab")
    marked = b"\xef\xbb\xbf" + b" text ; label \n u ;v\n\n"
    assert parsed(marked) == ([LabelledText("u", "v")], "UTF-8 with a byte-order mark, semicolon")
    assert normal(" \uff21\u2009 ") == "A"
    assert parsed('text,label\n"a\nplain\nb",l\nnext,l\nc,l\n').rows == [
        LabelledText("a\nplain\nb", "l"), LabelledText("next", "l"), LabelledText("c", "l"),
    ], "a cell of several lines that holds no rows"  # fmt: skip
    assert parsed('text,label\n"a\nb,other\nc",l\n').rows[0].text == "a\nb,other\nc", "no label of the file"
    assert parsed('text,label\n"a\nb,l,m\nc",l\n').rows[0].text == "a\nb,l,m\nc", "not as many cells"
    assert parsed('label,text\nl,"a\n""b"",l\nc"\n').rows[0].label == "l"
    assert parsed("text,label\r\na,b\r\n").rows == [LabelledText("a", "b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,b,c\n",
         "own.csv, line 2, has 3 cells where the header has 2 (text, label); a cell that holds a comma or a quote "
         "stands in quotes"),
        ("id;text;label\n\na\n",
         "own.csv, line 3, has 1 cell where the header has 3 (id, text, label); a cell that holds a semicolon or a "
         "quote stands in quotes"),
        ("text,label\n ,b\n", "own.csv, line 2: the text is empty"),
        ('text,label\n"a\nb", \n', "own.csv, line 3: the label is empty"),
        (b"text,label\na,b\nc,\xe9\n",
         "cannot read own.csv as a UTF-8 CSV file: line 3 holds the byte 0xe9; save it as UTF-8"),
        ("text,label\na,b\n\0,c\n", "cannot read own.csv as a UTF-8 CSV file: line 3 holds a NUL character"),
        ("text;other\n", "own.csv has no column 'text'; its columns are text;other"),
        ("text,other\n", "own.csv has no column 'label'; its columns are text, other"),
        ("", "own.csv has no column 'text'; its columns are none"),
        ('text,label\n"a,b\nc,d\n',
         "own.csv, line 2: the quote that opens a cell of this row is never closed; a cell that begins with a quote "
         'ends with one, and a quote inside it is written twice ("")'),
        ('text,label\na,b\n"c\n"d,e\n',
         "own.csv, line 3: the quote that opens a cell of this row ends in the middle of a cell in line 4; a cell that "
         'begins with a quote ends with one, and a quote inside it is written twice ("")'),
        ('text,label\n"a\nb,l\nc",l\n',
         "own.csv, line 2: a quote opens a cell that runs to line 4 and holds what looks like rows of their own (line "
         "3); close the quote, or write it twice"),
    ],
)  # fmt: skip
def test_csv_files_that_are_refused(content: str | bytes, message: str) -> None:
    assert refused(lambda: parsed(content))[0] == message


def test_a_cell_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "own.csv, line 2, has a cell of more than 131,072 characters; cut it, or look for a quote that is not closed"
    assert refused(lambda: parsed(f"text,label\n{'a' * 131_073},b\n"))[0] == said
    assert parsed(f"text,label\n{'a' * 131_072},b\n").rows[0].label == "b"


def test_csv_files_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    said = f"cannot read {path} as a UTF-8 CSV file: No such file or directory"
    assert refused(lambda: read_csv(path))[0] == said
    path.write_text("text,label,q\na,b,c\n")
    assert read_csv(str(path), "q", "text") == [LabelledText("c", "a")]


ENCODER = WordEncoder(("a",))


def rows_of(n_classes: int, n_texts: int, word: str) -> list[list[str]]:
    return [[f"{word} {number} of {label}", f"i{label:03d}"] for label in range(n_classes) for number in range(n_texts)]


def write_banking(folder: Path, n_classes: int = 77) -> Path:
    (folder / "banking77").mkdir(exist_ok=True)
    for name, word, n in (("train", "first", 7), ("test", "then", 6)):
        lines = [",".join(row) for row in rows_of(n_classes, n, word)]
        (folder / "banking77" / f"{name}.csv").write_text("\n".join(["text,category", *lines]))
    return folder


def write_clinc(folder: Path, size: str = "full", **changes: Any) -> Path:
    (folder / "clinc150").mkdir(exist_ok=True)
    parts = {key: rows_of(150, n, key) for key, n in (("train", 6), ("val", 7), ("test", 8))}
    (folder / "clinc150" / f"data_{size}.json").write_text(json.dumps({**parts, "oos_val": [["a", "oos"]], **changes}))
    domains = {f"d{k}": [f"i{15 * k + place:03d}" for place in range(15)] for k in range(10)}
    (folder / "clinc150" / "domains.json").write_text(json.dumps(domains))
    return folder


def test_intents_where_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_banking(tmp_path)
    write_clinc(tmp_path)
    write_clinc(tmp_path, "small")
    banking = intent_tasks("banking77", tmp_path, ENCODER, n_query=8).describe()
    clinc = intent_tasks("clinc150", tmp_path, ENCODER, n_query=16, k_shot=3).describe()
    small = intent_tasks("clinc150", tmp_path, ENCODER, n_query=3, size="small", split_seed=4, split_sizes=(50, 40, 60))
    for found, name, sizes in ((banking, "banking77", [37, 20, 20]), (clinc, "clinc150", [90, 30, 30])):
        assert found["data"] == name
        assert [len(found["split"][split]) for split in ("train", "validation", "test")] == sizes
        known = DATASETS[name]
        own = {"source": known.home, "licence": known.licence, "citation": known.citation}
        assert {key: found["details"][key] for key in own} == own
    assert (banking["k_shot"], clinc["k_shot"], small.k_shot) == (5, 3, 5)
    assert ("size" in banking["details"], clinc["details"]["size"], small.table.details["size"]) == (
        False,
        "full",
        "small",
    )
    assert [len(small.split.of(split)) for split in ("train", "validation", "test")] == [50, 40, 60]  # type: ignore[arg-type]
    assert small.split != intent_tasks("clinc150", tmp_path, ENCODER, n_query=3, split_sizes=(50, 40, 60)).split
    shared = intent_tasks("clinc150", tmp_path, ENCODER, k_shot=1, n_query=5, classes="shared").describe()
    counts = {split: found["min"] for split, found in shared["examples_per_class"].items()}
    assert counts == {"train": 6, "validation": 7, "test": 8}
    shared = intent_tasks("banking77", tmp_path, ENCODER, k_shot=1, n_query=5, classes="shared").describe()
    counts = {split: found["max"] for split, found in shared["examples_per_class"].items()}
    assert counts == {"train": 7, "validation": 7, "test": 6}
    domains = intent_tasks("clinc150", tmp_path, ENCODER, n_query=8, by_domain=True, split_sizes=(5, 1, 4))
    held = {split: {index // 15 for index in domains.split.of(split)} for split in ("train", "validation", "test")}  # type: ignore[arg-type]
    assert [len(own) for own in held.values()] == [5, 1, 4]
    asked: list[Any] = []

    def locate(name: str, *arguments: Any, **named: Any) -> Path:
        asked.append((name, arguments, named))
        return tmp_path / name

    monkeypatch.setattr(intents, "locate", locate)
    intent_tasks("banking77", tmp_path, ENCODER, n_query=8)
    intent_tasks("clinc150", None, ENCODER, n_query=8, size="small", download=False)
    assert asked == [
        ("banking77", (tmp_path,), {"download": True}),
        ("clinc150", (None,), {"only": ("data_small.json", "domains.json"), "download": False}),
    ]


def test_intent_files_that_are_damaged(tmp_path: Path) -> None:
    folder = write_banking(tmp_path, 76) / "banking77"
    said = f"{folder / 'train.csv'} holds 76 intents; banking77 has 77"
    assert corrupt(lambda: read_banking77(folder)) == said
    (folder / "train.csv").write_text("text,label\n")
    assert corrupt(lambda: read_banking77(folder)) == (
        f"{folder / 'train.csv'} has no column 'category'; its columns are text, label"
    )
    path = tmp_path / "clinc150" / "data_full.json"

    def read(**changes: Any) -> str:
        write_clinc(tmp_path, **changes)
        return corrupt(lambda: read_clinc150(path.parent))

    for key in ("train", "val", "test"):
        assert read(**{key: [["a", "b"]]}) == f"{path} holds 1 intents; clinc150 has 150"
        assert read(**{key: [["a"]]}).startswith(f"{path}: part '{key}' does not hold pairs of text and intent: ")
        assert read(**{key: [[1, 2]]}).startswith(f"{path}: part '{key}' does not hold pairs of text and intent: ")
        parts = {other: rows_of(150, 1, other) for other in ("train", "val", "test") if other != key}
        path.write_text(json.dumps(parts))
        assert corrupt(lambda: read_clinc150(path.parent)) == f"{path} has no part '{key}'"
    path.write_text("[]")
    assert corrupt(lambda: read_clinc150(path.parent)) == f"{path} holds a JSON list, not its parts by name"
    write_clinc(tmp_path)
    origins = [row.origin for row in read_clinc150(path.parent)]
    assert origins == ["train"] * 900 + ["validation"] * 1050 + ["test"] * 1200
    (path.parent / "domains.json").write_text(json.dumps({"d": ["i000"]}))
    said = f"{path.parent / 'domains.json'} has no domain for the intent 'i001'"
    assert corrupt(lambda: intent_tasks("clinc150", tmp_path, ENCODER, by_domain=True)) == said


def test_intent_settings_that_are_refused(tmp_path: Path) -> None:
    one = "banking77 has one domain and one size; by_domain and size are for clinc150"
    for name, settings, message in (
        ("own", {}, "'own' is not an intent data set; known are banking77, clinc150"),
        ("banking77", {"by_domain": True}, one),
        ("banking77", {"size": "small"}, one),
        ("clinc150", {"size": "tiny"}, "clinc150: size must be 'full' or 'small', not 'tiny'"),
    ):
        given: Any = settings
        assert refused(lambda of=name, more=given: intent_tasks(of, tmp_path, ENCODER, **more))[0] == message
