"""Masks: their rate, their independence, and what they depend on."""

from __future__ import annotations

import pytest
import torch

from metascale.core.dropout import DropoutMasks
from metascale.core.streams import torch_generator
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
