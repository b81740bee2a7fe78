"""Where the draws of bilevel training come from: an address that changed would change every recorded result."""

from __future__ import annotations

from metascale.bilevel import DataScorer, LabelCorrector, WeightNet
from metascale.bilevel.batches import Shuffled
from tests.addresses import addresses


def test_networks_of_the_upper_level() -> None:
    with addresses() as seen:
        WeightNet(2, seed=3)
        DataScorer(seed=4)
        LabelCorrector(3, seed=5)
    assert seen == [
        (3, "weight-net", 0), (3, "weight-net", 2), (4, "data-scorer", 0), (4, "data-scorer", 2),
        (5, "label-corrector", 0), (5, "label-corrector", 2),
    ]  # fmt: skip


def test_batches() -> None:
    """Six examples in batches of two are three batches an epoch: batch 4 is of epoch 1."""
    with addresses() as seen:
        Shuffled(list(range(6)), 2, seed=3, purpose="upper")(4)
    assert seen == [(3, "upper", 1)]
