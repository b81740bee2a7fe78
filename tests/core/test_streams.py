"""Named generators: one address, one stream; nothing else moves them; the addressing never changes silently."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch

from metascale.core.streams import address, generator, torch_generator

ADDRESSES: list[tuple[int, str, tuple[int | str, ...]]] = [
    (0, "init", ()),
    (1, "init", ()),
    (0, "episode", ()),
    (0, "init", (0,)),
    (0, "init", (1,)),
    (0, "init", ("1",)),
    (0, "init", (0, 1)),
    (0, "init", (1, 0)),
    (0, "init", (0, 0)),
    (0, "init", (11,)),
    (0, "init", (1, 1)),
    (0, "init", ("1", 1)),
    (0, "init", ("",)),
    (10, "init", ()),
    (-1, "init", ()),
    (2**70, "init", ()),
]


def test_the_same_address_gives_the_same_stream() -> None:
    for seed, purpose, index in ADDRESSES:
        first = generator(seed, purpose, *index).integers(0, 2**63, 8)
        np.testing.assert_array_equal(first, generator(seed, purpose, *index).integers(0, 2**63, 8))
        torch_first = torch.randn(8, generator=torch_generator(seed, purpose, *index))
        assert torch.equal(torch_first, torch.randn(8, generator=torch_generator(seed, purpose, *index)))


def test_different_seeds_purposes_and_indices_give_different_streams() -> None:
    """Among them 1 and "1", and indices whose digits run together: (1, 1), (11,)."""
    draws = {key: generator(key[0], key[1], *key[2]).integers(0, 2**63, 4).tolist() for key in ADDRESSES}
    weights = {key: torch.rand(4, generator=torch_generator(key[0], key[1], *key[2])).tolist() for key in ADDRESSES}
    for first, second in itertools.combinations(ADDRESSES, 2):
        assert address(first[0], first[1], *first[2]) != address(second[0], second[1], *second[2]), (first, second)
        assert not set(draws[first]) & set(draws[second]), (first, second)
        assert not set(weights[first]) & set(weights[second]), (first, second)


def test_neighbouring_streams_are_uncorrelated() -> None:
    """Streams of seeds and indices that follow one another: the largest correlation is that of independent draws."""
    n_draws = 2000
    streams = [generator(0, "noise", k).standard_normal(n_draws) for k in range(12)]
    streams += [generator(seed, "noise", 0).standard_normal(n_draws) for seed in range(1, 12)]
    correlations = np.corrcoef(streams)[np.triu_indices(len(streams), 1)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(n_draws)


def test_an_address_has_128_bits() -> None:
    found = [address(seed, "bits", k) for seed in range(20) for k in range(20)]
    assert len(set(found)) == 400
    assert all(0 <= value < 2**128 for value in found)
    ones = np.array([[value >> bit & 1 for bit in range(128)] for value in found]).mean(0)
    assert np.abs(ones - 0.5).max() < 5 * 0.5 / np.sqrt(400), "every bit of the address varies"


def test_numpy_streams_use_every_bit_of_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    from metascale.core import streams

    def draw(value: int) -> int:
        monkeypatch.setattr(streams, "address", lambda *_: value)
        return int(generator(0, "any").integers(0, 2**63))

    base = draw(1 << 100)
    assert all(draw((1 << 100) ^ (1 << bit)) != base for bit in (0, 31, 32, 63, 64, 127))


def test_global_generators_are_neither_read_nor_moved() -> None:
    def draws() -> tuple[object, ...]:
        numbers = generator(3, "episode", "train", 7).random(3).tolist()
        tensor = torch.rand(3, generator=torch_generator(3, "episode", "train", 7)).tolist()
        return numbers, tensor

    saved = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()  # noqa: NPY002
    try:
        expected = draws()
        for poison in (1, 2):
            random.seed(poison)
            np.random.seed(poison)  # noqa: NPY002
            torch.manual_seed(poison)
            before = random.getstate(), repr(np.random.get_state(legacy=False)), torch.get_rng_state()  # noqa: NPY002
            assert draws() == expected
            after = random.getstate(), repr(np.random.get_state(legacy=False)), torch.get_rng_state()  # noqa: NPY002
            assert before[:2] == after[:2]
            assert torch.equal(before[2], after[2])
    finally:
        random.setstate(saved[0])
        np.random.set_state(saved[1])  # noqa: NPY002
        torch.set_rng_state(saved[2])


def test_the_addressing_is_pinned() -> None:
    """A changed value here means that every recorded run would give other numbers: never change it in passing."""
    assert address(0, "init", "head") == 119645771175947034899960938656342673424
    assert address(3, "episode", "train", 7) == 55354221454174992876932493896117122279
    assert generator(3, "episode", "train", 7).integers(0, 1000, 6).tolist() == [622, 431, 265, 315, 545, 231]
    drawn = torch.randint(0, 1000, (6,), generator=torch_generator(3, "episode", "train", 7))
    assert drawn.tolist() == [992, 366, 215, 122, 313, 942]


def test_an_index_from_an_array_names_the_same_stream() -> None:
    assert address(0, "episode", np.int64(1)) == address(0, "episode", 1)
