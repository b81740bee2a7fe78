"""Attention by matrix products against torch's own, and masks that belong to no example."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from metascale.core.streams import torch_generator
from metascale.models.addressed import AddressedRandomness, TwiceDifferentiable

KEPT = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]]).bool()


@pytest.mark.parametrize(
    ("settings", "n_keys"),
    [
        ({}, 4),
        ({"is_causal": True}, 4),
        ({"is_causal": True, "scale": 0.3}, 3),
        ({"attn_mask": KEPT}, 4),
        ({"attn_mask": KEPT * 0.5}, 4),
        ({"enable_gqa": True}, 4),
    ],
)
def test_attention_is_torchs(settings: dict[str, Any], n_keys: int) -> None:
    draw = torch_generator(0, "attention")
    heads = 2 if settings.get("enable_gqa") else 4
    query = torch.randn(2, 4, 3, 5, generator=draw, dtype=torch.float64)
    key, value = (torch.randn(2, heads, n_keys, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    expected = F.scaled_dot_product_attention(query, key, value, **settings)
    with TwiceDifferentiable() as mode:
        found = F.scaled_dot_product_attention(query, key, value, **settings)
    assert mode.met
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_a_mask_of_no_example_is_drawn_and_the_same_for_all_tasks() -> None:
    """Of 4,000 entries kept with 0.7 the share is within five standard deviations (0.036) of it."""
    numbers = torch.arange(6).view(2, 3)

    def masks(key: int) -> torch.Tensor:
        return AddressedRandomness(key, numbers, (None,)).kept(torch.ones(2, 40, 100), 0.7)

    found = masks(1)
    assert torch.equal(found[0], found[1])
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert float(found.mean()) == pytest.approx(0.7, abs=0.036)
    assert torch.equal(found, masks(1))
    assert not torch.equal(found, masks(2))
