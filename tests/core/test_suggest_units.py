"""Near-name hints, sizes, times and counts, against values written by hand."""

from __future__ import annotations

import pickle

import pytest

from metascale.core.errors import InputError
from metascale.core.suggest import suggest
from metascale.core.units import format_bytes, format_count, format_seconds, parse_bytes


def test_the_nearest_name_is_offered_whatever_its_case_or_dashes() -> None:
    assert suggest("Outer-LR", ["inner_lr", "outer_lr"]) == "did you mean 'outer_lr'?"


def test_without_a_near_name_all_are_listed() -> None:
    assert suggest("zzz", ["serial", "process"], "executors") == "executors: serial, process"
    assert suggest("zzz", []) == "allowed: none"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "?"),
        (4.24, "4.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (187, "3 min 07 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert format_seconds(seconds) == words


@pytest.mark.parametrize(("value", "words"), [(7, "7"), (1234567, "1.23 M"), (999.6, "1 k"), (3e18, "3 E")])
def test_counts(value: float, words: str) -> None:
    assert format_count(value) == words
    assert format_count(1.5e12, "FLOP") == "1.5 TFLOP"


def test_bytes_are_binary_when_written_and_as_stated_when_read() -> None:
    assert format_bytes(3 * 2**20) == "3.00 MiB"
    assert (parse_bytes("8GB"), parse_bytes("8GiB")) == (8 * 10**9, 8 * 2**30)


def test_an_input_error_keeps_its_field_when_it_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(InputError("k_shot must be at least 1, not 0", field="k_shot", value=0)))
    assert (str(error), error.field, error.value) == ("k_shot must be at least 1, not 0", "k_shot", 0)
