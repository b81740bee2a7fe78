"""Adapters that nothing would move are refused when a classifier is made; so are kernels that a model lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, LlamaForCausalLM, MambaConfig

from metascale.core.errors import InputError
from metascale.core.trees import n_elements
from metascale.models.text import probe
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.hf import load_backbone, random_backbone
from metascale.models.text.lora import linear_shapes
from tests.models.tiny_backbones import CONFIGS, text_batch

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 99, "state_size": 4}


def mamba() -> Any:
    return random_backbone(MambaConfig(**SMALL), 0, attn_implementation="eager")


@pytest.mark.parametrize("small", [True, False], ids=["on values", "without values"])
def test_a_layer_that_the_module_s_code_bypasses_is_refused_by_name(small: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(probe, "_SMALL", 10**12 if small else 0)
    with pytest.raises(InputError, match=r"'layers\.0\.mixer\.dt_proj', 'layers\.1\.mixer\.dt_proj' would change") as e:
        AdapterClassifier(mamba(), 3, rank=2, targets=("in_proj", "x_proj", "dt_proj", "out_proj"), pooling="last")
    assert (e.value.field, e.value.allowed) == ("targets", "in_proj, out_proj, x_proj")


def test_what_is_counted_as_trainable_gets_a_gradient() -> None:
    """By finite difference of the loss: every adapter moves it, and they are all that is counted."""
    model = AdapterClassifier(mamba(), 3, rank=2, targets=("in_proj", "x_proj", "out_proj"), pooling="last")
    params = {name: value[None] + 0.1 for name, value in model.init(0).items()}
    batch = text_batch(1, 3, 0)
    with torch.no_grad():
        begun = model.begin(params, batch)
        start = model.losses(begun, batch)
        for name in params:
            assert not torch.equal(model.losses({**begun, name: begun[name] + 0.5}, batch), start), name
    assert model.n_params_trainable == n_elements(model.init(0))


@pytest.mark.parametrize("family", sorted(CONFIGS))
@pytest.mark.parametrize("small", [True, False], ids=["on values", "without values"])
def test_the_known_architectures_call_every_layer(family: str, small: bool, monkeypatch: Any) -> None:
    monkeypatch.setattr(probe, "_SMALL", 10**12 if small else 0)
    run = probe._pass

    def watched(backbone: Any, *args: Any) -> set[str]:
        assert (backbone.device.type == "cpu") == small
        return run(backbone, *args)

    monkeypatch.setattr(probe, "_pass", watched)
    backbone = random_backbone(CONFIGS[family](), 0)
    layers = tuple(name for name in linear_shapes(backbone) if "pooler" not in name)
    assert len(AdapterClassifier(backbone, 3, rank=2, targets=layers).shapes) == len(layers)


def test_a_second_classifier_on_one_backbone_is_not_probed_again(monkeypatch: Any) -> None:
    backbone = random_backbone(CONFIGS["llama"](), 0)
    AdapterClassifier(backbone, 3, targets=("q_proj", "k_proj"))
    monkeypatch.setattr(probe, "_pass", lambda *args: pytest.fail("probed again"))
    AdapterClassifier(backbone, 5, rank=2, targets=("q_proj",))


class Experts(nn.Module):
    """Two experts a block, of which every token takes the first."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.experts[0](x)


def test_an_expert_that_two_tokens_do_not_choose_is_not_taken_for_dead() -> None:
    backbone = mamba()
    backbone.norm_f = nn.Sequential(Experts(), backbone.norm_f)
    targets = ("experts.0", "experts.1")
    assert len(AdapterClassifier(backbone, 3, rank=2, targets=targets, pooling="last").shapes) == 2


def test_a_model_with_a_head_is_refused_in_a_sentence() -> None:
    whole = LlamaForCausalLM(CONFIGS["llama"]()).eval()
    with pytest.raises(InputError, match="LlamaForCausalLM returns no last_hidden_state; give the bare backbone"):
        AdapterClassifier(whole, 3)


def test_a_kernel_that_an_architecture_lacks_is_said_to_be_lacking(tmp_path: Path) -> None:
    match = "the architecture 'mamba' has no attention kernel 'sdpa'; it has 'eager'"
    with pytest.raises(InputError, match=match):
        random_backbone(MambaConfig(**SMALL), 0)
    mamba().save_pretrained(tmp_path)
    with pytest.raises(InputError, match=match):
        load_backbone(tmp_path)
    assert load_backbone(tmp_path, attn_implementation="eager").config.model_type == "mamba"
    t5 = AutoConfig.for_model("t5", d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=9)
    with pytest.raises(InputError, match="no attention kernel 'flash_attention_2'; it has 'eager', 'sdpa'"):
        random_backbone(t5, 0, attn_implementation="flash_attention_2")
