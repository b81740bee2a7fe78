"""Near-name hints, sizes, times and counts, against values written by hand."""

from __future__ import annotations

import pickle

import pytest

from metascale.core.errors import InputError
from metascale.core.suggest import suggest
from metascale.core.units import finite, format_bytes, format_count, format_seconds, parse_bytes


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


@pytest.mark.parametrize(("seconds", "words"), [(9.94, "9.9 s"), (9.95, "10 s"), (0.0, "0.0 s"), (60, "1 min 00 s")])
def test_short_durations_have_a_decimal(seconds: float, words: str) -> None:
    assert format_seconds(seconds) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        *((0, "0"), (7, "7"), (-7.25, "-7.25"), (999.4, "999"), (999.5, "1 k"), (1234567, "1.23 M"), (-2e9, "-2 G")),
        *((4e12, "4 T"), (5e15, "5 P"), (999.4e15, "999 P"), (3e18, "3 E"), (4e21, "4e+03 E")),
    ],
)
def test_counts(value: float, words: str) -> None:
    assert format_count(value) == words
    assert format_count(1.5e12, "FLOP") == "1.5 TFLOP"
    assert format_count(3e18, "FLOP") == "3 EFLOP"
    assert format_count(12, "runs") == "12 runs"


@pytest.mark.parametrize(
    ("n_bytes", "words"),
    [
        *((0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (2**20 - 1, "1024.00 KiB"), (3 * 2**20, "3.00 MiB")),
        *((2**30, "1.00 GiB"), (2.5 * 2**40, "2.50 TiB"), (3 * 2**50, "3072.00 TiB")),
    ],
)
def test_bytes_are_written_in_binary_units(n_bytes: float, words: str) -> None:
    assert format_bytes(n_bytes) == words


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        *(("12 B", 12), ("12b", 12), ("12", 12), (12, 12), ("1", 1), (" 8GB ", 8 * 10**9), ("8GiB", 8 * 2**30)),
        *(
            ("1.5 kb", 1500),
            ("2MB", 2 * 10**6),
            ("3TB", 3 * 10**12),
            ("0.5KiB", 512),
            ("1 mib", 2**20),
            ("1TiB", 2**40),
        ),
    ],
)
def test_bytes_are_read_as_stated(text: str | int, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(("eight", "a number of bytes with a unit of B, KB"), ("8 XB", "not '8 XB'"), ("-8GB", "not '-8GB'")),
        *((True, "not True"), (0, "at least one byte, not 0"), ("0.1B", "at least one byte, not '0.1B'")),
    ],
)
def test_other_sizes_are_refused_with_what_they_were_for(text: str | int, message: str) -> None:
    with pytest.raises(InputError, match=f"^cache must be .*{message}"):
        parse_bytes(text, "cache")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *((1, 1.0), ("2.5", 2.5), (" 3 ", 3.0), ("1e3", 1000.0), (0, 0.0)),
        *((None, None), (True, None), ("", None), ("x", None), ("nan", None), (float("inf"), None), ([1], None)),
        (10**400, None),
    ],
)
def test_finite_numbers_also_where_they_are_text(value: object, expected: float | None) -> None:
    assert finite(value) == expected


def test_an_input_error_keeps_its_field_when_it_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(InputError("k_shot must be at least 1, not 0", field="k_shot", value=0)))
    assert (str(error), error.field, error.value) == ("k_shot must be at least 1, not 0", "k_shot", 0)
