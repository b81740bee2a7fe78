"""The classifier whose backbone's weights all adapt, on tiny random backbones."""

from __future__ import annotations

import pytest
import torch
from transformers import T5Model

from metascale.core import trees
from metascale.core.errors import InputError
from metascale.core.types import Model
from metascale.models.text.classifiers import AdapterClassifier, FullClassifier
from metascale.models.text.heads import LearnedHead, PrototypeHead
from metascale.models.text.hf import DTYPES
from metascale.testing.model_contract import check_model
from tests.models.tiny_backbones import CONFIGS, FULL_FLOAT64, text_batch, tiny

FAMILIES = sorted(CONFIGS)


@pytest.mark.parametrize("family", FAMILIES)
def test_contract(family: str) -> None:
    dtype = "float64" if family in FULL_FLOAT64 else "float32"
    check_model(FullClassifier(tiny(family, dtype=dtype), n_classes=3), text_batch, dtype=DTYPES[dtype], n_tasks=2)


def test_is_a_model() -> None:
    assert isinstance(FullClassifier(tiny("bert"), n_classes=3), Model)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_adapted_model_without_adapters(family: str) -> None:
    """Features at the start, and those of adapted weights: W + (alpha/r) B A as an ordinary weight."""
    adapted = AdapterClassifier(tiny(family), n_classes=3, rank=2, alpha=4.0, head=LearnedHead())
    full = FullClassifier(tiny(family), n_classes=3)
    batch = text_batch(2, 4, 0)
    low = {name: value + 0.1 * (name.endswith("lora_B")) for name, value in adapted.init(0).items()}
    start = trees.stack_tasks(full.init(0), 2)
    plain = trees.stack_tasks(adapted.init(0), 2)
    torch.testing.assert_close(full.features(start, batch), adapted.features(plain, batch), rtol=1e-4, atol=1e-5)
    merged = dict(full.init(0))
    for name in adapted.shapes:
        update = 2.0 * low[name + ".lora_B"] @ low[name + ".lora_A"]
        merged[name + ".weight"] = merged[name + ".weight"] + (update.T if family == "gpt2" else update)
    found = full.losses(trees.stack_tasks(merged, 2), batch)
    torch.testing.assert_close(found, adapted.losses(trees.stack_tasks(low, 2), batch), rtol=1e-4, atol=1e-5)


def test_every_weight_gets_a_gradient() -> None:
    model = FullClassifier(tiny("gpt2"), n_classes=3)
    leaves = trees.require_grad(trees.stack_tasks(model.init(0), 2))
    grads = torch.autograd.grad(model.losses(leaves, text_batch(2, 3, 0)).sum(), list(leaves.values()))
    assert all(bool(grad.flatten(1).any(1).all()) for grad in grads)
    assert model.n_params_trainable == sum(p.numel() for p in model.backbone.parameters()) + 3 * 32 + 3


def test_the_backbone_stays_as_it_is() -> None:
    """Neither its weights nor its being frozen change, and a skeleton holds no memory."""
    backbone = tiny("bert", seed=5)
    before = {name: value.clone() for name, value in backbone.named_parameters()}
    model = FullClassifier(backbone, n_classes=3)
    moved = trees.stack_tasks({name: value + 0.3 for name, value in model.init(0).items()}, 2)
    model.losses(moved, text_batch(2, 3, 0))
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_parameters())
    assert all(value.device.type == "cpu" for value in backbone.state_dict().values())
    assert {value.device.type for value in model._skeleton().parameters()} == {"meta"}


def test_heads_made_for_every_task() -> None:
    model = FullClassifier(tiny("bert"), n_classes=3, head=PrototypeHead())
    begun = model.begin(trees.stack_tasks(model.init(0), 2), text_batch(2, 6, 0))
    assert begun["head.weight"].shape == (2, 3, 32)
    assert model.describe()["trained"] == "all weights"


def test_refusals() -> None:
    with pytest.raises(InputError, match="must be float32 or float64"):
        FullClassifier(tiny("bert", dtype="bfloat16"), n_classes=3)
    with pytest.raises(InputError, match='attn_implementation="eager"'):
        FullClassifier(tiny("bert", "sdpa"), n_classes=3).require_second_order()
    with pytest.raises(InputError, match="'last', 'mean', 'first'"):
        FullClassifier(tiny("bert"), n_classes=3, pooling="max")
    with pytest.raises(InputError, match="give its encoder alone"):
        FullClassifier(T5Model(CONFIGS["t5"]()), n_classes=3)
    with pytest.raises(InputError, match="at least 1"):
        FullClassifier(tiny("bert"), n_classes=0)
