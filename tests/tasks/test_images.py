"""Digits and Omniglot: the pictures, their rotations, and splits without leaks."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metascale.core.errors import CorruptFile, InputError, MissingDependency
from metascale.tasks import omniglot
from metascale.tasks.digits import digit_table, digits_tasks
from metascale.tasks.omniglot import decode_zips, lanczos_weights, omniglot_tasks


def test_digits_are_the_published_ones_at_four_rotations() -> None:
    from sklearn.datasets import load_digits

    published = load_digits()
    table = digit_table()
    assert len(table.classes) == 40
    for digit in range(10):
        upright = published.images[published.target == digit] / 16
        for turns in range(4):
            name = f"{digit}/rot{90 * turns:03d}"
            x = table.fetch(table.examples[table.classes.index(name)])["x"]
            assert x.dtype == torch.float32
            np.testing.assert_array_equal(x[:, 0].numpy(), np.rot90(upright, turns, axes=(1, 2)).astype(np.float32))


@pytest.mark.parametrize("split_seed", [None, 0, 1, 2])
def test_rotations_of_a_digit_stay_in_one_split(split_seed: int | None) -> None:
    source = digits_tasks(split_seed=split_seed)
    digits = {split: {name[0] for name in classes} for split, classes in source.describe()["split"].items()}
    assert [len(digits[split]) for split in ("train", "validation", "test")] == [6, 2, 2]
    assert not digits["train"] & digits["test"]
    assert not digits["train"] & digits["validation"]
    assert not digits["validation"] & digits["test"]


def test_the_fixed_digit_split() -> None:
    split = digits_tasks().describe()["split"]
    assert {name[0] for name in split["test"]} == {"3", "7"}
    assert {name[0] for name in split["validation"]} == {"2", "4"}


def test_digit_tasks_are_refused_when_short() -> None:
    with pytest.raises(InputError, match="have only 42504 combinations of 5"):
        digits_tasks(n_train_tasks=42505)
    with pytest.raises(InputError, match="k_shot 1 \\+ n_query 200"):
        digits_tasks(n_query=200)


def test_digits_without_scikit_learn_say_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    digit_table.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setattr("importlib.import_module", _missing_sklearn)
    with pytest.raises(MissingDependency, match=r"metascale\[images\]"):
        digits_tasks()


def _missing_sklearn(name: str) -> None:
    raise ModuleNotFoundError(f"No module named '{name}'", name=name)


def _png(mode: str, pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def _drawing(rng: np.random.Generator) -> np.ndarray:
    """White paper 255 with a black bar at a random place."""
    pixels = np.full((105, 105), 255, np.uint8)
    row, column = rng.integers(10, 80, 2)
    pixels[row : row + 6, column : column + 20] = 0
    return pixels


BACKGROUND = [f"Alphabet{letter}/character{number:02d}" for letter in "ABCDEFGH" for number in (1, 2)]
EVALUATION = [f"Tongue{letter}/character{number:02d}" for letter in "XYZ" for number in (1, 2)]


@pytest.fixture
def small_omniglot(tmp_path: Path) -> Path:
    """The layout of the official files with 16 + 6 characters, and extra entries as zip programs add them."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "omniglot"
    (folder / "vinyals_splits").mkdir(parents=True)
    for name, characters in (("background", BACKGROUND), ("evaluation", EVALUATION)):
        with zipfile.ZipFile(folder / f"images_{name}.zip", "w") as archive:
            archive.writestr(f"images_{name}/", b"")
            archive.writestr(f"__MACOSX/images_{name}/._Alphabet", b"x")
            for number, character in enumerate(characters):
                for drawing in range(1, 21):
                    # The official drawings have one bit a pixel; some here are stored otherwise.
                    png = _png("L" if drawing == 20 else "1", _drawing(rng))
                    archive.writestr(f"images_{name}/{character}/{number:04d}_{drawing:02d}.png", png)
    lists = {"train": BACKGROUND[:12], "val": BACKGROUND[12:], "test": EVALUATION}
    for name, characters in lists.items():
        lines = [f"{character}/rot{degrees:03d}\n" for character in characters for degrees in (0, 90, 180, 270)]
        (folder / "vinyals_splits" / f"{name}.txt").write_text("".join(lines))
    return tmp_path


def _as_pillow_would(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    image = Image.open(io.BytesIO(archive.read(name))).convert("L").resize((28, 28), Image.Resampling.LANCZOS)
    return 255 - np.asarray(image).astype(int)


def test_drawings_are_what_pillow_makes_of_them(small_omniglot: Path) -> None:
    folder = small_omniglot / "omniglot"
    found = decode_zips(folder)
    assert found.names == (*BACKGROUND, *EVALUATION)
    assert found.n_background == len(BACKGROUND)
    with zipfile.ZipFile(folder / "images_background.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        expected = np.stack([_as_pillow_would(archive, name) for name in names])
    assert np.abs(found.images[: len(names)] - expected).max() <= 1
    assert expected.max() > 200


def test_the_filter_keeps_a_constant() -> None:
    np.testing.assert_allclose(lanczos_weights(105, 28).sum(1), 1, rtol=1e-6)


def test_omniglot_rotations_are_classes_of_their_own(small_omniglot: Path) -> None:
    table = omniglot_tasks(small_omniglot, n_query=5, download=False).table
    upright = table.fetch(table.examples[table.classes.index("AlphabetB/character01/rot000")])["x"]
    assert upright.shape == (20, 1, 28, 28)
    assert upright.dtype == torch.float32
    assert float(upright.min()) == 0
    assert 0.8 < float(upright.max()) <= 1
    for turns, degrees in ((1, 90), (2, 180), (3, 270)):
        turned = table.fetch(table.examples[table.classes.index(f"AlphabetB/character01/rot{degrees:03d}")])["x"]
        assert torch.equal(turned, torch.rot90(upright, turns, (2, 3)))
    mixed = table.fetch(np.array([[0, len(table.fetch.images)]]))["x"]  # type: ignore[attr-defined]
    assert torch.equal(mixed[0, 1], torch.rot90(mixed[0, 0], 1, (1, 2)))


def test_omniglot_splits(small_omniglot: Path) -> None:
    vinyals = omniglot_tasks(small_omniglot, n_query=5, download=False)
    assert [len(vinyals.split.of(split)) for split in ("train", "validation", "test")] == [48, 16, 24]
    lake = omniglot_tasks(small_omniglot, "lake", n_query=5, rotations=False, download=False)
    described = lake.describe()["split"]
    alphabets = {split: {name.split("/")[0] for name in names} for split, names in described.items()}
    assert alphabets["test"] == {"TongueX", "TongueY", "TongueZ"}
    assert len(alphabets["validation"]) == 5
    assert len(alphabets["train"]) == 3
    assert not alphabets["validation"] & alphabets["train"]
    assert all(name.endswith("rot000") for names in described.values() for name in names)
    with pytest.raises(InputError, match="'vinyals' or 'lake'"):
        omniglot_tasks(small_omniglot, "ravi")  # type: ignore[arg-type]


def test_omniglot_has_twenty_drawings(small_omniglot: Path) -> None:
    with pytest.raises(InputError, match="fewer than 21 examples"):
        omniglot_tasks(small_omniglot, k_shot=6, n_query=15, download=False)


def test_decoded_drawings_are_kept_where_the_caller_says(small_omniglot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_dir = small_omniglot / "cache"
    before = omniglot_tasks(small_omniglot, n_query=5, cache_dir=cache_dir, download=False)
    (cached,) = cache_dir.iterdir()
    omniglot.read_characters.cache_clear()

    def no_decoding(folder: Path) -> None:
        raise AssertionError("decoded although the cache has the drawings")

    monkeypatch.setattr(omniglot, "decode_zips", no_decoding)
    after = omniglot_tasks(small_omniglot, n_query=5, cache_dir=cache_dir, download=False)
    same = [source.episodes("test", [0, 1]).query.inputs["x"] for source in (before, after)]
    assert torch.equal(*same)
    assert before.describe() == after.describe()
    content = bytearray(cached.read_bytes())
    content[-1000] ^= 1
    cached.write_bytes(content)
    omniglot.read_characters.cache_clear()
    with pytest.raises(CorruptFile, match="delete it"):
        omniglot_tasks(small_omniglot, n_query=5, cache_dir=cache_dir, download=False)


def test_without_a_cache_folder_nothing_is_written(small_omniglot: Path) -> None:
    before = sorted(small_omniglot.rglob("*"))
    omniglot_tasks(small_omniglot, n_query=5, download=False)
    assert sorted(small_omniglot.rglob("*")) == before


def test_damaged_or_short_zips_are_named(small_omniglot: Path) -> None:
    path = small_omniglot / "omniglot" / "images_evaluation.zip"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptFile, match=r"images_evaluation\.zip is damaged"):
        decode_zips(path.parent)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "images_evaluation/TongueX/character01/0001_01.png", _png("1", _drawing(np.random.default_rng(0)))
        )
    with pytest.raises(CorruptFile, match="20 drawings of every character"):
        decode_zips(path.parent)


def test_a_split_list_that_names_an_unknown_character_is_refused(small_omniglot: Path) -> None:
    path = small_omniglot / "omniglot" / "vinyals_splits" / "test.txt"
    path.write_text("Klingon/character01/rot000\n")
    with pytest.raises(CorruptFile, match="Klingon"):
        omniglot_tasks(small_omniglot, n_query=5, download=False)


@pytest.mark.long
def test_real_omniglot_has_the_published_counts(data_dir: Path) -> None:
    if not (data_dir / "omniglot" / "images_background.zip").exists():
        pytest.skip("the data set 'omniglot' is absent from METASCALE_DATA")
    vinyals = omniglot_tasks(data_dir, download=False)
    assert [len(vinyals.split.of(split)) for split in ("train", "validation", "test")] == [4112, 688, 1692]
    characters = {name.rsplit("/", 1)[0] for name in vinyals.table.classes}
    assert len(characters) == 1623
    lake = omniglot_tasks(data_dir, "lake", rotations=False, download=False)
    assert len(lake.split.test) == 659
    assert len(lake.split.train) + len(lake.split.validation) == 964
    assert len({name.split("/")[0] for name in lake.table.classes}) == 50
