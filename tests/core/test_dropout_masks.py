"""Masks: their rate, their independence, and what they depend on."""

from __future__ import annotations

import pytest
import torch

from metascale.core.dropout import DropoutMasks, drop, dropout_key
from metascale.core.streams import address, torch_generator
from metascale.core.types import Batch, Episode


def masks(rate: float = 0.3, key: int = 7, numbers: torch.Tensor | None = None) -> DropoutMasks:
    return DropoutMasks(rate, key, torch.arange(50) if numbers is None else numbers)


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_entries_are_dropped_at_the_rate_and_kept_ones_scaled(rate: float) -> None:
    mask = masks(rate)(torch.empty(50, 40, 100), "layer")
    kept = mask[mask != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - rate)))
    deviation = (rate * (1 - rate) / mask.numel()) ** 0.5
    assert abs(1 - kept.numel() / mask.numel() - rate) < 4 * deviation


def test_key_layer_and_example_name_a_mask() -> None:
    like = torch.empty(50, 4, 16)
    mask = masks()(like, "layer")
    assert torch.equal(mask, masks()(like, "layer"))
    assert not torch.equal(mask, masks(key=8)(like, "layer"))
    assert not torch.equal(mask, masks()(like, "other"))
    assert len({tuple(row.flatten().tolist()) for row in mask}) == 50


def test_an_example_keeps_its_mask_in_any_company_and_padding() -> None:
    whole = masks()(torch.empty(50, 12, 16), "layer")
    chosen = torch.tensor([41, 3, 17])
    part = masks(numbers=chosen)(torch.empty(3, 5, 16), "layer")
    assert torch.equal(part, whole[chosen, :5])
    assert torch.equal(masks()(torch.empty(50, 16), "layer"), whole[:, 0])


def test_entries_are_independent() -> None:
    """Correlations of neighbours, and of the four corners of rectangles, which a sum of two hashes would show."""
    dropped = (masks()(torch.empty(50, 64, 256), "layer") == 0).double().flatten(0, 1) - 0.3
    generator = torch_generator(0, "corners")
    rows = torch.randint(0, len(dropped), (2, 200_000), generator=generator)
    columns = torch.randint(0, 256, (2, 200_000), generator=generator)
    apart = (rows[0] != rows[1]) & (columns[0] != columns[1])
    corners = torch.stack([dropped[i, j] for i in rows for j in columns])[:, apart].prod(0)
    for products in (dropped[1:] * dropped[:-1], dropped[:, 1:] * dropped[:, :-1], corners):
        assert abs(products.mean() / products.std() * products.numel() ** 0.5) < 4


def test_precision_of_the_activations() -> None:
    assert masks()(torch.empty(50, 2, 3, dtype=torch.bfloat16), "layer").dtype == torch.bfloat16


def test_numbers_follow_the_examples_of_an_episode() -> None:
    def batch(n: int) -> Batch:
        return Batch({"x": torch.zeros(2, n, 1)}, torch.zeros(2, n, dtype=torch.long))

    episode = Episode(("a", "b"), batch(3), batch(2)).numbered()
    assert episode.support.numbers is not None
    assert episode.query.numbers is not None
    assert episode.support.numbers.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert episode.query.numbers.tolist() == [[6, 7], [8, 9]]
    assert episode.numbered().query.numbers is episode.query.numbers
    second = episode.tasks(1, 2)
    joined = second.support.examples(1, 3).concat(second.query)
    assert joined.numbers is not None
    assert joined.numbers.tolist() == [[4, 5, 8, 9]]
    assert joined.to(dtype=torch.float64).numbers is not None


def mixed(value: int) -> int:
    """splitmix64's finaliser on 64 bits, in Python's integers."""
    value &= 2**64 - 1
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def word(name: int, number: int, position: int, feature: int) -> int:
    """The 32 bits of an entry, as an unsigned number."""
    row = mixed(mixed(number ^ name % 2**64) + position * 0x14057B7EF767814F)
    column = mixed(feature * 0x5851F42D4C957F2D ^ (name >> 64) % 2**64)
    found = (row ^ column) % 2**32 * 0x2C1B3C6D % 2**32
    found = (found ^ found >> 15) * 0x297A2D39 % 2**32
    return (found + 2**31) % 2**32  # ordered as signed integers are


def test_an_entry_is_the_hash_of_its_address() -> None:
    """Kept where the word is at least rate · 2³²; at a rate that is exactly one entry's word, that entry is kept."""
    name = address(7, "dropout", "layer")
    words = [[[word(name, n, p, f) for f in range(3)] for p in range(4)] for n in (5, 10**6)]
    for rate in (0.3, words[1][2][0] / 2**32):
        mask = masks(rate, numbers=torch.tensor([5, 10**6]))(torch.empty(2, 4, 3, dtype=torch.float64), "layer")
        expected = [[[(w >= rate * 2**32) / (1 - rate) for w in row] for row in rows] for rows in words]
        assert torch.allclose(mask, torch.tensor(expected, dtype=torch.float64), rtol=1e-14)


def test_dropout_of_a_whole_tensor_keeps_its_mean_and_its_address() -> None:
    ones = torch.ones(400, 100)
    found = drop(ones, 0.25, 3, "layer")
    assert found.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert float((found == 0).double().mean()) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 40_000) ** 0.5)
    assert torch.equal(found, drop(ones, 0.25, 3, "layer"))
    assert not torch.equal(found, drop(ones, 0.25, 4, "layer"))
    assert not torch.equal(found, drop(ones, 0.25, 3, "other"))
    assert drop(ones, 0.25, None, "layer") is ones
    assert drop(ones, 0.0, 3, "layer") is ones


def test_a_call_s_key_is_the_low_bits_of_its_address() -> None:
    whole = address(4, "query-dropout", 2)
    assert dropout_key(4, "query-dropout", 2) == whole % 2**62
    assert dropout_key(4, "query-dropout", 2, bits=31) == whole % 2**31
