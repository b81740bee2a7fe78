"""Canonical JSON: equal values, one text; what JSON cannot hold is refused."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metascale.core.canonical import canonical_json, content_id, plain
from metascale.core.errors import InputError


@dataclass(frozen=True)
class Inner:
    rates: tuple[float, ...] = (0.1, 0.01)
    name: str = "sgd"


@dataclass(frozen=True)
class Outer:
    steps: int = 3
    inner: Inner = field(default_factory=Inner)
    limits: dict[str, float | None] = field(default_factory=lambda: {"clip": None})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def shuffled(value: Any) -> Any:
    """The same value with every mapping's keys in reverse order and every list as a tuple."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return tuple(shuffled(item) for item in value) if isinstance(value, list) else value


@settings(deadline=None, derandomize=True)
@given(JSON)
def test_equal_values_have_one_text_that_reads_back(value: Any) -> None:
    text = canonical_json(value)
    assert canonical_json(shuffled(value)) == text
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


def test_the_text_is_compact_sorted_and_not_escaped() -> None:
    assert canonical_json({"b": [1, 2.5, None, True], "a": {"ü": 1e-7}}) == '{"a":{"ü":1e-07},"b":[1,2.5,null,true]}'


def test_an_integer_and_a_float_differ_and_so_do_true_and_one() -> None:
    texts = {canonical_json(value) for value in (1, 1.0, True, "1", "1.0", [1], None)}
    assert len(texts) == 7


def test_dataclasses_are_their_fields() -> None:
    expected = {"steps": 3, "inner": {"rates": [0.1, 0.01], "name": "sgd"}, "limits": {"clip": None}}
    assert plain(Outer()) == expected
    assert canonical_json(Outer()) == canonical_json(expected)
    assert content_id(Outer()) != content_id(Outer(inner=Inner(name="adam")))
    with pytest.raises(InputError, match="cannot hold a type"):
        plain(Outer)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.1), 0.1),
        (np.float32(0.5), 0.5),
        (np.int64(-3), -3),
        (np.uint8(200), 200),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array(2), 2),
        (torch.tensor(1.5, dtype=torch.float64), 1.5),
        (OrderedDict(a=1), {"a": 1}),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        ({5: "five"}, {"5": "five"}),
        (PurePosixPath("a/b"), "a/b"),
        (Path("a"), "a"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_types_become_json_types(value: Any, expected: Any) -> None:
    found = plain(value)
    assert found == expected
    assert canonical_json(value) == canonical_json(expected)
    assert type(found) in (int, float, bool, list, dict) or isinstance(found, str)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), np.float64("nan"), np.float32("inf")])
def test_numbers_that_are_not_finite_are_refused_at_any_depth(number: float) -> None:
    for value in (number, [1, number], {"a": {"b": (number,)}}, Inner(rates=(number,))):
        with pytest.raises(InputError, match="only finite numbers are allowed"):
            content_id(value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(object(), "object"), (1j, "complex"), (b"bytes", "bytes"), (np.zeros(2), "ndarray"), (len, "builtin")],
)
def test_what_json_cannot_hold_is_refused_by_name(value: Any, kind: str) -> None:
    with pytest.raises(InputError, match=f"cannot hold a {kind}.*only JSON types are allowed"):
        canonical_json({"key": value})


def test_ids_are_pinned() -> None:
    """A changed value here means that every existing study would be run again: never change it in passing."""
    assert content_id({"b": [1, 2.5, None, True], "a": {"ü": 1e-7}}) == "a2d89eb152c8"
    assert content_id({}) == "44136fa355b3", "the first digits of the SHA-256 of '{}'"
    assert content_id({}, length=64) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_keys_that_collide_as_text_are_refused() -> None:
    with pytest.raises(InputError):
        plain({1: "a", "1": "b"})


def test_an_error_names_the_innermost_key_and_keeps_the_value() -> None:
    with pytest.raises(InputError) as caught:
        plain({"outer": {"inner": [1, {"rate": float("inf")}]}})
    assert (caught.value.field, caught.value.value) == ("rate", float("inf"))
    assert str(caught.value).startswith("'rate': ")
    assert "outer" not in str(caught.value)
