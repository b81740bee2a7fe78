"""Which adapters a backbone reads: one pass of two tokens, before anything is trained.

A module's own code can take a linear layer's weight and leave its ``forward`` aside (Mamba's ``dt_proj``): an adapter
there is a parameter that no gradient reaches, in `peft` as here. A large backbone on a CPU is probed on a copy without
values ("meta" tensors, no arithmetic), unless its code looks at values; any other runs as it is, on two tokens.
"""

from __future__ import annotations

import copy
import inspect
import re
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from metascale.core.errors import InputError
from metascale.models.text.architectures import ARCHITECTURES
from metascale.models.text.hf import call_options
from metascale.models.text.lora import Active, AdapterCall

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Shapes = Mapping[str, tuple[int, int]]
_NO_VALUES = (RuntimeError, TypeError, ValueError, AttributeError)  # what code that looks at values ends in on "meta"
_SMALL = 10**8  # parameters below which two tokens take less time than torch needs to prepare for "meta"
_LIVE: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def require_live(backbone: PreTrainedModel, shapes: Shapes) -> None:
    """Run two tokens through a backbone with adapters attached, once for each backbone and layer.

    Without values it takes milliseconds a block (0.4 s for a 1.1-billion-parameter Llama) and no memory for weights;
    with them, one forward and backward pass of two tokens. A second classifier on the same backbone and layers costs
    nothing.

    Args:
        shapes: (d_in, d_out) of the adapted layers, which take adapters already (`lora.attach`).

    Raises:
        InputError: adapters that cannot change the backbone's hidden states, or a backbone that returns none.
    """
    with _LOCK:
        known = _LIVE.get(backbone, frozenset())
    asked = {name: shape for name, shape in shapes.items() if name not in known}
    if not asked:
        return
    live = reached(backbone, asked)
    dead = [name for name in asked if name not in live and not _is_idle_expert(name, live)]
    if dead:
        more = f" and {len(dead) - 3} others" if len(dead) > 3 else ""
        raise InputError(
            f"an adapter at {', '.join(map(repr, dead[:3]))}{more} would change nothing: {type(backbone).__name__} "
            "computes its hidden states without calling that layer; leave it out of the targets",
            field="targets",
            value=sorted({_suffix(name) for name in dead}),
            allowed=", ".join(sorted({_suffix(name) for name in asked.keys() - set(dead)})),
        )
    if backbone.config.model_type not in ARCHITECTURES and backbone.device.type != "meta":
        shared = unbatched(backbone, asked)
        if shared:
            raise InputError(
                f"'{shared[0]}' of {type(backbone).__name__} also reads what all texts share (embeddings of relative "
                "positions), so it cannot have an adapter for each task; leave it out of the targets",
                field="targets",
                value=sorted({_suffix(name) for name in shared}),
                allowed=", ".join(sorted({_suffix(name) for name in asked.keys() - set(shared)})),
            )
    with _LOCK:
        _LIVE[backbone] = _LIVE.get(backbone, frozenset()) | asked.keys()


def require_bare(backbone: PreTrainedModel) -> None:
    """
    Raises:
        InputError: a model with a head, which returns something else than hidden states.
    """
    if backbone.base_model is not backbone:
        raise _headed(backbone)


def _headed(backbone: PreTrainedModel) -> InputError:
    return InputError(
        f"{type(backbone).__name__} returns no last_hidden_state; give the bare backbone (load_backbone makes "
        "it, or AutoModel of transformers), not a model with a head",
        field="backbone",
    )


def reached(backbone: PreTrainedModel, shapes: Shapes) -> set[str]:
    """The layers among ``shapes``, which take adapters already, whose adapters change what the model gives out."""
    if backbone.device.type not in ("cpu", "meta"):  # another device may have kernels, and with them ways, of its own
        return _pass(backbone, shapes)
    if backbone.device.type == "cpu" and sum(value.numel() for value in backbone.parameters()) < _SMALL:
        return _pass(backbone, shapes)
    for masked in (True, False):  # some code looks at the values of a mask, some at positions where there is none
        try:
            tensors: Sequence[torch.Tensor] = [*backbone.parameters(), *backbone.buffers()]
            bare = copy.deepcopy(backbone, {id(value): value.to("meta") for value in tensors})
            bare.config._attn_implementation = "eager"  # kernels call the same layers, but sdpa's mask is looked at
            return _pass(bare, shapes, masked)
        except _NO_VALUES:
            pass
    # A backbone that has no values itself, for counting memory, is probed when it is made with values.
    return set(shapes) if backbone.device.type == "meta" else _pass(backbone, shapes)


def _pass(backbone: PreTrainedModel, shapes: Shapes, masked: bool = True) -> set[str]:
    """The layers whose adapters have a gradient, of any value, in the sum of the hidden states."""
    device, dtype = backbone.device, backbone.dtype

    def leaf(*shape: int) -> torch.Tensor:
        return torch.zeros(1, *shape, device=device, dtype=dtype, requires_grad=True)

    adapters = {name: (leaf(1, d_in), leaf(d_out, 1)) for name, (d_in, d_out) in shapes.items()}
    options: dict[str, Any] = call_options(backbone) | _tokens(backbone, 1, masked)
    with Active(AdapterCall(adapters, 1.0, 1)), torch.enable_grad():
        output = backbone(**options)
        hidden = getattr(output, "last_hidden_state", getattr(output, "logits", None))
        if hidden is None:
            raise _headed(backbone)
    if not hidden.requires_grad:
        return set()
    found = torch.autograd.grad(hidden.sum(), [b for _, b in adapters.values()], allow_unused=True)
    return {name for name, gradient in zip(adapters, found, strict=True) if gradient is not None}


def unbatched(backbone: PreTrainedModel, shapes: Shapes) -> list[str]:
    """Layers that also read something without an axis of texts, such as DeBERTa's embeddings of relative positions.

    One such reading serves all texts of a pass, so it cannot have an adapter for each task. Two passes of two tokens.
    """
    rows: dict[str, list[list[int]]] = {name: [] for name in shapes}
    names = {backbone.base_model.get_submodule(name): name for name in shapes}

    def note(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        rows[names[module]][-1].append(given[0].shape[0])

    hooks = [module.register_forward_pre_hook(note) for module in names]
    try:
        for n_texts in (2, 3):
            for found in rows.values():
                found.append([])
            with torch.no_grad():
                backbone(**_tokens(backbone, n_texts), **call_options(backbone))
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name, (two, three) in rows.items() if any(a == b for a, b in zip(two, three, strict=False))]


def _tokens(backbone: PreTrainedModel, n_texts: int, masked: bool = True) -> dict[str, torch.Tensor]:
    """Texts of two tokens, and as many for a decoder."""
    ids = torch.arange(1, 3, device=backbone.device).expand(n_texts, 2)
    given = {"input_ids": ids} | ({"attention_mask": torch.ones_like(ids)} if masked else {})
    if getattr(backbone.config, "is_encoder_decoder", False) and "decoder_input_ids" in _arguments(backbone):
        given["decoder_input_ids"] = ids
    return given


def _arguments(backbone: nn.Module) -> set[str]:
    return set(inspect.signature(backbone.forward).parameters)


def _is_idle_expert(name: str, reached: set[str]) -> bool:
    """Whether a layer belongs to an expert that two tokens did not choose, beside one that they did."""
    if ".experts." not in name:
        return False
    before, _, after = name.partition(".experts.")
    pattern = rf"{re.escape(before)}\.experts\.\d+{re.escape(after.lstrip('0123456789'))}"
    return any(re.fullmatch(pattern, other) for other in reached)


def _suffix(name: str) -> str:
    return name.rpartition(".")[2]
