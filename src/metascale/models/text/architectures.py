"""Families of backbones: which layers an adapter takes, how a text is read, and the sizes of published models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from metascale.core.errors import InputError
from metascale.core.suggest import suggest

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Architecture:
    """One family.

    Args:
        targets: module names (suffixes) that are adapted unless the caller names others.
        pooling: how one vector a text is read, see `metascale.models.text.heads.POOLINGS`.
        model_class: the class of transformers that is the bare backbone.
        model_arguments: keyword arguments of that class.
    """

    targets: tuple[str, ...]
    pooling: str
    model_class: str = "AutoModel"
    model_arguments: Mapping[str, Any] = field(default_factory=dict)


_LLAMA = Architecture(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), "last")


UNKNOWN = Architecture(targets=(), pooling="mean")


ARCHITECTURES: dict[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "gpt2": Architecture(("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"), "last"),
    "bert": Architecture(("query", "value"), "mean", model_arguments={"add_pooling_layer": False}),
    "distilbert": Architecture(("q_lin", "v_lin"), "mean"),
    "t5": Architecture(("q", "v"), "mean", model_class="T5EncoderModel"),
}


@dataclass(frozen=True, slots=True)
class PublishedShape:
    """A published model's sizes, to build it with random weights, and the hub name of its weights."""

    model_type: str
    hub_name: str
    config: Mapping[str, Any]


def _bert(d: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": d,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * d,
        "vocab_size": 30522,
        "max_position_embeddings": 512,
    }


def _gpt2(d: int, layers: int, heads: int) -> dict[str, Any]:
    return {"n_embd": d, "n_layer": layers, "n_head": heads, "vocab_size": 50257, "n_positions": 1024}


def _t5(d: int, d_ff: int, layers: int, heads: int) -> dict[str, Any]:
    return {"d_model": d, "d_kv": 64, "d_ff": d_ff, "num_layers": layers, "num_heads": heads, "vocab_size": 32128}


SHAPES: dict[str, PublishedShape] = {
    "tinyllama": PublishedShape(
        "llama",
        "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
        {
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 22,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "vocab_size": 32000,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
        },
    ),
    "gpt2": PublishedShape("gpt2", "openai-community/gpt2", _gpt2(768, 12, 12)),
    "gpt2-medium": PublishedShape("gpt2", "openai-community/gpt2-medium", _gpt2(1024, 24, 16)),
    "distilbert": PublishedShape(
        "distilbert",
        "distilbert/distilbert-base-uncased",
        {"dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072, "vocab_size": 30522},
    ),
    "bert-base": PublishedShape("bert", "google-bert/bert-base-uncased", _bert(768, 12, 12)),
    "minilm-l6": PublishedShape("bert", "sentence-transformers/all-MiniLM-L6-v2", _bert(384, 6, 12)),
    "t5-small": PublishedShape("t5", "google-t5/t5-small", _t5(512, 2048, 6, 8)),
    "t5-base": PublishedShape("t5", "google-t5/t5-base", _t5(768, 3072, 12, 12)),
}


def architecture_of(backbone: PreTrainedModel, wanted: Literal["targets", "pooling"]) -> Architecture:
    """What metascale knows of the backbone's family.

    Raises:
        InputError: the family is unknown, so ``wanted`` must be given.
    """
    model_type = backbone.config.model_type
    if model_type not in ARCHITECTURES:
        raise InputError(
            f"metascale has no default {wanted} for the architecture '{model_type}'; "
            f"give {wanted}= or use one of {', '.join(sorted(ARCHITECTURES))}",
            field=wanted,
        )
    return ARCHITECTURES[model_type]


def match_targets(layers: list[str], targets: tuple[str, ...]) -> list[str]:
    """The layers whose name is a target, or ends in a dot and a target, in the backbone's order.

    Poolers stay out: their output is not read.

    Raises:
        InputError: a target matches no layer; the message names the nearest that would.
    """
    candidates = [name for name in layers if "pooler" not in name.split(".")]
    for target in targets:
        if not any(matches_target(name, target) for name in candidates):
            suffixes = sorted({part for name in candidates for part in _suffixes(name)})
            hint = suggest(target, suffixes, "names of layers")
            message = f"no layer of this model matches the target module '{target}'; {hint}"
            raise InputError(message, field="targets", value=target)
    return [name for name in candidates if any(matches_target(name, target) for target in targets)]


def matches_target(name: str, target: str) -> bool:
    """Whether a module is named by a target: in full, or by its last parts (the rule of PEFT)."""
    return name == target or name.endswith("." + target)


def _suffixes(name: str) -> list[str]:
    """The last part and the last two parts of a module name, without block numbers."""
    parts = [part for part in name.split(".") if not part.isdigit()]
    return [".".join(parts[-count:]) for count in (1, 2) if len(parts) >= count]
