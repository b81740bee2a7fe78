"""Values as they are typed: texts stay texts, a key is given once, and no configuration file is a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from metascale.cli.run import _parse_seeds, _parse_values, _read_config, _text_keys
from metascale.core.errors import InputError


def test_what_a_recipe_declares_as_a_text_stays_as_it_was_typed(tmp_path: Path) -> None:
    texts = _text_keys("csv")
    assert texts == {"backbone", "label_column", "path", "text_column"}
    typed = ["path=123", "label_column=0..", "text_column=1e3", "backbone=", "k_shot=[1,2]", "pooling=null"]
    assert _parse_values(typed, texts) == {
        "path": "123", "label_column": "0..", "text_column": "1e3", "backbone": "", "k_shot": [1, 2], "pooling": None
    }  # fmt: skip
    assert _parse_values(["path=[1, '02']"], texts) == {"path": ["1", "02"]}
    assert _parse_values(["path=123"]) == {"path": 123}
    (tmp_path / "c.yaml").write_text("path: 123\nlabel_column: yes\nk_shot: 1e1\n")
    assert _read_config(tmp_path / "c.yaml", texts) == {"path": "123", "label_column": "yes", "k_shot": 10.0}


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--set n_tasks= is given twice; .* --set n_tasks=\[\.\.\.\]"):
        _parse_values(["n_tasks=2", "k_shot=1", " n_tasks =3"])
    (tmp_path / "c.yaml").write_text("a: 1\nb: {c: 1, c: 2}\n")
    with pytest.raises(InputError, match="the key 'c' twice"):
        _read_config(tmp_path / "c.yaml")


def test_a_configuration_file_that_is_not_there_is_said_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("a: 1\n")
    with pytest.raises(InputError, match=r"mine\.yml does not exist; did you mean 'mine\.yaml'\?$"):
        _read_config(tmp_path / "mine.yml")
    with pytest.raises(InputError, match=r"zzz does not exist$"):
        _read_config(tmp_path / "zzz")
    with pytest.raises(InputError, match=r"does not exist: there is no folder"):
        _read_config(tmp_path / "no" / "mine.yaml")
    with pytest.raises(InputError, match=r"cannot be read: Is a directory$"):
        _read_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"x: " + b"[" * 3000, "nested too deeply"),
        (b"d: 2020-13-45", "month must be"),
        (b"n: " + b"9" * 5000, "4300 digits"),
        (b"a: &b [*b]", "more than 100,000 values"),
        (b"a: \xff", "not UTF-8"),
        (b"a: \x00", "special characters"),
        (b"- 1", "must hold keys and values, not a list"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(InputError, match=said) as refused:
        _read_config(tmp_path / "c.yaml")
    assert "\n" not in str(refused.value)
    if b"\xff" not in content and not content.startswith(b"-"):
        with pytest.raises(InputError, match=said):
            _parse_values([f"key={content.decode().partition(': ')[2] or content.decode()}"])


def test_commas_make_a_list_of_what_is_no_text() -> None:
    typed = ["n_tasks=2,5,10", "inner_lr=1e-3, 1e-2", "optimizer=sgd,adam", "quoted='2,5'", "prompt=Hello, world"]
    assert _parse_values([*typed, "path=a,b.csv"], frozenset(["path"])) == {
        "n_tasks": [2, 5, 10], "inner_lr": [0.001, 0.01], "optimizer": ["sgd", "adam"], "quoted": "2,5",
        "prompt": "Hello, world", "path": "a,b.csv",
    }  # fmt: skip
    for wrong, said in {"2,,5": "nothing at one side", "5,": "nothing at one side", "1,000": "1000 without"}.items():
        with pytest.raises(InputError, match=said):
            _parse_values([f"n_tasks={wrong}"])


@pytest.mark.parametrize(("typed", "seeds"), [("0-4", [0, 1, 2, 3, 4]), ("7, 1-2", [7, 1, 2]), ("0-0", [0])])
def test_seeds_are_numbers_and_ranges(typed: str, seeds: list[int]) -> None:
    assert _parse_seeds(typed) == seeds


@pytest.mark.parametrize("typed", ["4-0", "-1", "a", "1,", "0-99999", "0..4", "1.5"])
def test_seeds_that_are_none_are_refused(typed: str) -> None:
    with pytest.raises(InputError, match="--seeds"):
        _parse_seeds(typed)
