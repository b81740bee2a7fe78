"""Heads and pooling, against what their formulas say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from metascale.core.errors import InputError
from metascale.core.types import Params
from metascale.models.text.heads import (
    HEADS,
    POOLINGS,
    LearnedHead,
    PrototypeHead,
    ZeroHead,
    head_logits,
    named_head,
)

FEATURES = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([[0, 0, 1, 1, 2, 2], [2, 1, 0, 0, 0, 1]])


def zeros() -> Params:
    return {"head.weight": torch.zeros(2, 3, 4), "head.bias": torch.zeros(2, 3)}


def test_zero_head_gives_every_class_the_same_logit() -> None:
    head = ZeroHead()
    params = head.begin(zeros(), lambda: FEATURES, TARGETS)
    assert torch.equal(head_logits(head, params, FEATURES), torch.zeros(2, 6, 3))
    assert head.init(3, 4, 0) == {}


def test_zero_head_computes_no_features() -> None:
    def fail() -> torch.Tensor:
        raise AssertionError("features were computed")

    ZeroHead().begin(zeros(), fail, TARGETS)
    LearnedHead().begin(zeros(), fail, TARGETS)


def test_prototype_logits_are_squared_distances() -> None:
    """Up to a number that all classes share: −s ‖f − p_c‖², with f of unit length."""
    head = PrototypeHead(scale=7.0)
    params = head.begin(zeros(), lambda: FEATURES, TARGETS)
    unit = F.normalize(FEATURES, dim=-1)
    prototypes = torch.stack([torch.stack([unit[t][TARGETS[t] == c].mean(0) for c in range(3)]) for t in range(2)])
    distances = (unit.unsqueeze(2) - prototypes.unsqueeze(1)).square().sum(-1)
    expected = F.log_softmax(-7.0 * distances, -1)
    torch.testing.assert_close(F.log_softmax(head_logits(head, params, FEATURES), -1), expected)


def test_prototype_head_needs_every_class() -> None:
    with pytest.raises(InputError, match="task 1 has no example of class 2"):
        PrototypeHead().begin(zeros(), lambda: FEATURES, torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 0, 0]]))


def test_learned_head_is_a_meta_parameter() -> None:
    head = LearnedHead(feature_norm=None)
    params = head.init(3, 4, 0)
    assert {name: tuple(value.shape) for name, value in params.items()} == {"head.weight": (3, 4), "head.bias": (3,)}
    assert 0 < float(params["head.weight"].abs().max()) <= 0.5
    assert head.begin(zeros(), lambda: FEATURES, TARGETS) == {}
    stacked = {name: value.expand(2, *value.shape) for name, value in params.items()}
    expected = FEATURES @ params["head.weight"].T + params["head.bias"]
    torch.testing.assert_close(head_logits(head, stacked, FEATURES), expected)


@pytest.mark.parametrize("kind", [ZeroHead, LearnedHead])
def test_feature_norm(kind: type[ZeroHead]) -> None:
    torch.testing.assert_close(kind(feature_norm=3.0).scaled(FEATURES).norm(dim=-1), torch.full((2, 6), 3.0))
    assert torch.equal(kind(feature_norm=None).scaled(FEATURES), FEATURES)


def test_named_heads() -> None:
    assert named_head("prototype", scale=5.0) == PrototypeHead(scale=5.0)
    assert set(HEADS) == {"zero", "prototype", "learned", "score"}
    with pytest.raises(InputError, match="'zero', 'prototype', 'learned'"):
        named_head("random")


def test_poolings() -> None:
    hidden = torch.arange(24.0).view(2, 4, 3)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    assert torch.equal(POOLINGS["last"](hidden, mask), torch.stack([hidden[0, 2], hidden[1, 3]]))
    assert torch.equal(POOLINGS["first"](hidden, mask), hidden[:, 0])
    torch.testing.assert_close(POOLINGS["mean"](hidden, mask), torch.stack([hidden[0, :3].mean(0), hidden[1].mean(0)]))


def test_mean_pooling_of_half_precision_is_float32() -> None:
    hidden = torch.full((1, 4, 2), 40000.0, dtype=torch.float16)
    assert torch.equal(POOLINGS["mean"](hidden, torch.ones(1, 4)), torch.full((1, 2), 40000.0))
