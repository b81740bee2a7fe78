"""LoRA adapters on any Hugging Face model: a classifier of texts, or the language model itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import nn

from metascale.core.errors import InputError
from metascale.models.text.architectures import ARCHITECTURES
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import Head, PrototypeHead
from metascale.models.text.hf import call_options, load_backbone, load_whole
from metascale.models.text.language_model import AdapterLanguageModel
from metascale.models.text.lora import attach, linear_shapes
from metascale.models.text.probe import reached, unbatched

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Task = Literal["classification", "causal_lm", "seq2seq"]
_CLASSES = {"causal_lm": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM"}


def LoRA(
    model: PreTrainedModel | str | Path,
    task: Task = "classification",
    *,
    n_classes: int | None = None,
    rank: int = 16,
    alpha: float = 32.0,
    dropout: float = 0.05,
    targets: tuple[str, ...] | None = None,
    head: Head | None = None,
    pooling: str | None = None,
    attn_implementation: str = "eager",
) -> AdapterClassifier | AdapterLanguageModel:
    """A frozen model with LoRA adapters for T tasks at once, one pass of it for all of them.

    Args:
        model: a folder, a hub name, or a model of transformers: the bare one (``AutoModel``) to classify, the one with
            its language-model head otherwise. It is frozen.
        task: ``"classification"`` (labels for texts), ``"causal_lm"``, or ``"seq2seq"``.
        n_classes: of a classification task; it alone takes ``n_classes``, ``head`` and ``pooling``.
        rank, alpha: of the adapters; an update is scaled by alpha / rank.
        dropout: probability of dropping an entry of an adapter's input.
        targets: names of layers to adapt (suffixes). Default: what is usual for the architecture, else every linear
            layer that the model's code runs, but its output layer (peft's ``"all-linear"``) and layers that also read
            what all texts share (DeBERTa's projections of relative positions).
        head: where the classifier of a task starts from; default `PrototypeHead`.
        pooling: the vector that stands for a text: ``"last"``, ``"mean"`` or ``"first"`` token. Default: the
            architecture's own; else the last token of a model that reads from left to right (padded on either side),
            the mean otherwise.
        attn_implementation: for a model that is loaded here; ``"eager"`` has second derivatives.

    Raises:
        InputError: a model that cannot be read or does not fit the task; experts in 3-D parameters, which take no
            adapters; a layer that an adapter would not change.
    """
    _check_arguments(model, task, targets, head)
    if task != "classification":
        for name, value in (("n_classes", n_classes), ("head", head), ("pooling", pooling)):
            if value is not None:
                raise InputError(f"{name} is for task='classification', not for {task!r}", field=name, value=value)
        whole = load_whole(model, _CLASSES[task], attn_implementation) if isinstance(model, str | Path) else model
        _check_task(whole, task)
        inner = cast(nn.Module, whole.base_model)
        names = _targets(whole, inner, targets)
        return AdapterLanguageModel(whole, names, task == "seq2seq", rank=rank, alpha=alpha, dropout=dropout)
    if n_classes is None:
        raise InputError("a classification task needs n_classes", field="n_classes")
    backbone = load_backbone(model, attn_implementation=attn_implementation) if isinstance(model, str | Path) else model
    names = _targets(backbone, backbone, targets)
    if pooling is None and backbone.config.model_type not in ARCHITECTURES:
        pooling = "last" if reads_from_left_to_right(backbone) else "mean"
    return AdapterClassifier(backbone, n_classes, rank, alpha, dropout, names, head or PrototypeHead(), pooling)


def _check_arguments(model: object, task: str, targets: object, head: object) -> None:
    if task not in ("classification", *_CLASSES):
        allowed = "'classification', 'causal_lm', 'seq2seq'"
        raise InputError(f"task must be one of {allowed}, not {task!r}", field="task", value=task, allowed=allowed)
    if not isinstance(model, str | Path) and not (isinstance(model, nn.Module) and hasattr(model, "config")):
        raise InputError(
            f"LoRA adapts a model of transformers, or one by its folder or name, not a {type(model).__name__}; "
            "Module takes any other torch module",
            field="model",
        )
    if isinstance(targets, str) or (targets is not None and not targets):
        raise InputError(f"targets must be a tuple of names of layers, not {targets!r}", field="targets", value=targets)
    if isinstance(head, str):
        raise InputError(f"head must be one of metascale.models.text, such as named_head({head!r})", field="head")


def _check_task(model: PreTrainedModel, task: Task) -> None:
    if bool(getattr(model.config, "is_encoder_decoder", False)) != (task == "seq2seq"):
        raise InputError(f"{type(model).__name__} does not fit task={task!r}", field="task", value=task)
    if model.get_output_embeddings() is None:
        raise InputError(
            f"{type(model).__name__} has no language-model head; load {_CLASSES[task]} of transformers", field="model"
        )


def _targets(model: PreTrainedModel, inner: nn.Module, targets: tuple[str, ...] | None) -> tuple[str, ...]:
    """The layers to adapt, by names that `match_targets` finds in ``inner``."""
    if targets is not None:
        return targets
    experts = [name for name, value in inner.named_parameters() if value.ndim == 3 and ".experts." in f".{name}"]
    if experts:
        raise InputError(
            f"{type(model).__name__} holds its experts in 3-D parameters ({experts[0]} and {len(experts) - 1} others), "
            "which take no adapters; name the layers to adapt with targets",
            field="targets",
        )
    known = ARCHITECTURES.get(model.config.model_type)
    if known is not None and not getattr(model.config, "is_encoder_decoder", False):
        return known.targets
    return all_linear(model, inner)


def all_linear(model: PreTrainedModel, inner: nn.Module) -> tuple[str, ...]:
    """Every linear layer of ``inner`` that the model runs, but its output layer and poolers.

    Raises:
        InputError: there is none.
    """
    output = model.get_output_embeddings()
    shapes = {name: s for name, s in linear_shapes(inner).items() if inner.get_submodule(name) is not output}
    shapes = {name: shape for name, shape in shapes.items() if "pooler" not in name.split(".")}
    attach(inner, shapes)
    live = reached(model, shapes)
    if not live:
        raise InputError(f"{type(model).__name__} has no linear layer to adapt: give targets", field="targets")
    shared = unbatched(model, {name: shapes[name] for name in live})
    return tuple(name for name in shapes if name in live and name not in shared)


def reads_from_left_to_right(backbone: PreTrainedModel) -> bool:
    """Whether the first token's hidden state is the same whatever follows it."""
    ids = torch.tensor([[1, 2, 3], [1, 3, 2]], device=backbone.device)
    options: Mapping[str, bool] = call_options(backbone)
    with torch.no_grad():
        hidden = backbone(input_ids=ids, attention_mask=torch.ones_like(ids), **options).last_hidden_state[:, 0]
    return torch.equal(hidden[0], hidden[1]) or bool(torch.allclose(hidden[0], hidden[1], rtol=1e-5, atol=1e-7))
