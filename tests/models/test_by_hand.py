"""Defaults, refusals at their ends, tables of architectures and descriptions, worked out in the tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metascale.core.errors import InputError
from metascale.models.context import WithContext
from metascale.models.convnet import ConvNet
from metascale.models.kernels.linear import add_of_columns, linear_added
from metascale.models.metric import Ridge
from metascale.models.perceptron import Perceptron, ResidualPerceptron
from metascale.models.resnet import ResNet
from metascale.models.resnet_bk import ResNetBK
from metascale.models.svm import SupportVectors
from metascale.models.text.architectures import ARCHITECTURES, SHAPES, Architecture
from metascale.models.text.classifiers import AdapterClassifier, FullClassifier
from metascale.models.text.heads import LearnedHead, PrototypeHead, ZeroHead
from metascale.models.text.hf import DTYPES, TextEncoder
from metascale.models.text.language_model import AdapterLanguageModel
from metascale.models.text.lora import AdapterCall
from metascale.models.transformer import Transformer
from metascale.models.widths import layer_widths
from tests.defaults import defaults
from tests.models.tiny_backbones import tiny


def test_what_a_model_is_where_nothing_is_said() -> None:
    assert defaults(Perceptron) == {
        "width": 64, "depth": 2, "activation": "relu", "loss": "cross_entropy", "dropout": 0.0, "ratio": 1.0,
        "head": "learned", "task_axis": True,
    }  # fmt: skip
    assert defaults(ResidualPerceptron) == {"width": 64, "head": "learned"}
    assert defaults(ConvNet) == {
        "image_size": 28, "in_channels": 1, "width": 64, "depth": 4, "norm": "batch", "dropout_inner": 0.0,
        "dropout": 0.0, "ratio": 1.0, "head": "learned", "channels_last": True, "steps": 0, "step": 0,
    }  # fmt: skip
    assert defaults(ResNet) == {"n_classes": 10, "in_channels": 1, "width": 16, "n_blocks": 3, "dropout": 0.0}
    assert defaults(Transformer) == {
        "d_model": 256, "n_layers": 8, "n_heads": 4, "n_positions": 128, "positions": "rotary", "norm": "rms",
        "feed_forward": "swiglu", "tied": True, "dropout": 0.0, "embedding_std": 0.02, "attention_scale": None,
        "output_multiplier": 1.0,
    }  # fmt: skip
    assert defaults(ResNetBK) == {
        "d_model": 64, "n_layers": 4, "n_positions": 128, "causal": True, "n_classes": None, "n_heads": 1,
        "energies": ((0.0, 1.0),), "gate": "probability", "gradient": "exact", "balance": 0.01, "dropout": 0.0,
        "embedding_std": 0.02, "output_multiplier": 1.0,
    }  # fmt: skip
    assert defaults(Ridge) == {"ridge": 1.0, "scale": 10.0}
    assert defaults(SupportVectors) == {"penalty": 0.1, "scale": 1.0}


def test_what_a_language_model_s_classifier_is_where_nothing_is_said() -> None:
    assert defaults(AdapterClassifier) == {
        "rank": 16, "alpha": 32.0, "dropout": 0.05, "targets": None, "head": PrototypeHead(10.0, False),
        "pooling": None, "autocast": None, "checkpoint_blocks": "none", "task_execution": "threads",
    }  # fmt: skip
    assert defaults(FullClassifier) == {"head": LearnedHead(10.0), "pooling": None, "task_execution": "threads"}
    assert defaults(AdapterLanguageModel) == {
        "seq2seq": False, "rank": 16, "alpha": 32.0, "dropout": 0.05, "task_execution": "threads", "own_loss": True,
    }  # fmt: skip
    assert defaults(LearnedHead) == defaults(ZeroHead) == {"feature_norm": 10.0}
    assert defaults(PrototypeHead) == {"scale": 10.0, "differentiable": False}
    assert defaults(AdapterCall) == {"masks": None, "checkpoint_blocks": "none"}
    assert defaults(TextEncoder) == {"max_length": 64}
    assert defaults(Architecture) == {"model_class": "AutoModel", "model_arguments": {}}


def test_families_of_language_models_by_the_names_of_their_authors() -> None:
    """The layers that PEFT adapts in them, and the token that is read."""
    llama = Architecture(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), "last")
    assert {
        **dict.fromkeys(("llama", "mistral", "qwen2", "gemma", "gemma2", "gemma3_text"), llama),
        "gpt2": Architecture(("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"), "last"),
        "bert": Architecture(("query", "value"), "mean", "AutoModel", {"add_pooling_layer": False}),
        "distilbert": Architecture(("q_lin", "v_lin"), "mean"),
        "t5": Architecture(("q", "v"), "mean", "T5EncoderModel"),
    } == ARCHITECTURES
    assert {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")} == DTYPES


def test_published_shapes_are_those_of_their_cards() -> None:
    assert {name: (shape.model_type, shape.hub_name) for name, shape in SHAPES.items()} == {
        "tinyllama": ("llama", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        "gpt2": ("gpt2", "openai-community/gpt2"),
        "gpt2-medium": ("gpt2", "openai-community/gpt2-medium"),
        "distilbert": ("distilbert", "distilbert/distilbert-base-uncased"),
        "bert-base": ("bert", "google-bert/bert-base-uncased"),
        "minilm-l6": ("bert", "sentence-transformers/all-MiniLM-L6-v2"),
        "t5-small": ("t5", "google-t5/t5-small"),
        "t5-base": ("t5", "google-t5/t5-base"),
    }
    assert SHAPES["tinyllama"].config == {
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
        "num_key_value_heads": 4, "vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    bert = {"intermediate_size": 3072, "vocab_size": 30522, "max_position_embeddings": 512}
    assert SHAPES["bert-base"].config == {
        **bert, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    }  # fmt: skip
    assert SHAPES["gpt2-medium"].config == {
        "n_embd": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 50257, "n_positions": 1024,
    }  # fmt: skip
    assert SHAPES["t5-base"].config == {
        "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12, "vocab_size": 32128,
    }  # fmt: skip
    assert SHAPES["t5-small"].config == {
        "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "vocab_size": 32128,
    }  # fmt: skip
    assert SHAPES["minilm-l6"].config == {
        "hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536,
        "vocab_size": 30522, "max_position_embeddings": 512,
    }  # fmt: skip
    assert SHAPES["distilbert"].config == {
        "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072, "vocab_size": 30522,
    }  # fmt: skip


def test_a_run_s_record_of_a_classifier() -> None:
    """Trainable: 4 numbers of rank 2 a token vector and layer's ends, 2 layers of query and value, 32 wide."""
    backbone = tiny("bert", "eager", "float32")
    n_frozen = sum(parameter.numel() for parameter in backbone.parameters())
    adapted = AdapterClassifier(backbone, n_classes=3, rank=2, alpha=4.0)
    shared = {
        "backbone": "", "model_type": "bert", "dtype": "float32", "attn_implementation": "eager", "pooling": "mean",
        "n_classes": 3,
    }  # fmt: skip
    assert adapted.describe() == {
        **shared, "head": {"name": "PrototypeHead", "scale": 10.0, "differentiable": False},
        "n_params_trainable": 4 * 2 * 64, "n_params_total": n_frozen + 4 * 2 * 64, "rank": 2, "alpha": 4.0,
        "dropout": 0.05, "targets": ["query", "value"], "checkpoint_blocks": "none",
    }  # fmt: skip
    whole = FullClassifier(backbone, n_classes=3).describe()
    assert (whole["trained"], whole["head"]) == ("all weights", {"name": "LearnedHead", "feature_norm": 10.0})
    assert whole["n_params_trainable"] == whole["n_params_total"] == n_frozen + 3 * 32 + 3


class Seen(TorchDispatchMode):
    """The operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func).split(".")[1])
        return func(*args, **(kwargs or {}))


def test_a_sum_that_starts_from_something_is_one_product_in_pytorchs_way() -> None:
    """In float64, for which oneDNN is not asked: no product of its own whose result is added afterwards."""
    to, x, weight = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 3, 4), (2, 3, 5), (4, 5)))
    with Seen() as seen:
        found = linear_added(to, x, weight)
    assert "addmm" in seen.names
    assert "add" not in seen.names
    torch.testing.assert_close(found, to + x @ weight.T)
    left, right, total = (torch.randn(shape, dtype=torch.float64) for shape in ((6, 2), (6, 3), (2, 3)))
    expected = total + left.T @ right
    with Seen() as seen:
        add_of_columns(total, left, right)
    assert "addmm_" in seen.names
    torch.testing.assert_close(total, expected)


SMALLEST: dict[str, Any] = {
    "a context of one number": lambda: WithContext(Perceptron(2, 2), 1),
    "a hidden layer of one unit": lambda: Perceptron(1, 1, width=1, depth=1),
    "a block": lambda: ResNet(n_classes=1, in_channels=1, width=1, n_blocks=1),
    "an image of a pixel after pooling": lambda: ConvNet(2, image_size=2, depth=1, width=1),
    "two channels a head": lambda: Transformer(n_vocab=1, d_model=2, n_layers=1, n_heads=1, n_positions=1),
    "an energy": lambda: ResNetBK(n_vocab=1, d_model=1, n_layers=1, n_positions=1, energies=((0.0, 1e-9),)),
    "a ridge": lambda: Ridge(ridge=1e-9, scale=1e-9),
    "a penalty": lambda: SupportVectors(penalty=1e-9, scale=1e-9),
    "dropout of nothing": lambda: Perceptron(1, 1, dropout=0.0),
    "dropout of nearly all": lambda: Perceptron(1, 1, dropout=0.999),
}
BELOW: dict[str, Any] = {
    "a context of no number": lambda: WithContext(Perceptron(2, 2), 0),
    "no unit": lambda: Perceptron(1, 1, width=0, depth=1),
    "no layer": lambda: Perceptron(1, 1, width=1, depth=-1),
    "no block": lambda: ResNet(n_classes=1, in_channels=1, width=1, n_blocks=0),
    "an image pooled away": lambda: ConvNet(2, image_size=1, depth=1, width=1),
    "an odd width of a head": lambda: Transformer(n_vocab=1, d_model=3, n_layers=1, n_heads=1, n_positions=1),
    "an energy on the axis": lambda: ResNetBK(n_vocab=1, energies=((0.0, 0.0),)),
    "no energy": lambda: ResNetBK(n_vocab=1, energies=()),
    "a ridge of zero": lambda: Ridge(ridge=0.0),
    "a scale of zero": lambda: Ridge(scale=0.0),
    "a penalty of zero": lambda: SupportVectors(penalty=0.0),
    "dropout of all": lambda: Perceptron(1, 1, dropout=1.0),
    "dropout below zero": lambda: Perceptron(1, 1, dropout=-0.1),
}


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_that_is_allowed_is(name: str) -> None:
    assert SMALLEST[name]() is not None


@pytest.mark.parametrize("name", BELOW)
def test_what_is_just_outside_is_refused(name: str) -> None:
    with pytest.raises(InputError):
        BELOW[name]()


def test_widths_of_a_tapered_net_are_a_geometric_series() -> None:
    """From 4 to 16 in three layers: each twice the one before."""
    assert layer_widths(4, 3, 4.0) == (4, 8, 16)
    assert layer_widths(16, 3, 0.25) == (16, 8, 4)
    assert layer_widths(2, 3, 0.125) == (2, 1, 1), "0.25 rounds to nothing, and a layer has a unit"
    assert layer_widths(7, 2) == (7, 7)
    assert layer_widths(8, 1) == (8,)
    for ratio, depth in ((0.0, 2), (-1.0, 2), (2.0, 1)):
        with pytest.raises(InputError):
            layer_widths(4, depth, ratio)
