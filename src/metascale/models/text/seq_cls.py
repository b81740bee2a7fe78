"""A task's classifier written into the head that transformers' own classifier of texts has (peft's SEQ_CLS)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch
from torch import nn

from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.types import Params
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import BIAS, POOLINGS, WEIGHT, ScoreHead, named_pooling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ALWAYS_SAVED = ("classifier", "score")
"""What peft adds to ``modules_to_save`` of a SEQ_CLS adapter."""
_NOT_LINEAR = (AttributeError, IndexError, RuntimeError, TypeError, ValueError)
"""What a stock head raises that reads more of its base than the last hidden states."""
_HEADS = "ScoreHead(), LearnedHead(feature_norm=None) or ZeroHead(feature_norm=None)"
_OTHER = "between the hidden states and the logits it has a pooler, a norm or another activation"
_WITHOUT = "without task_type the adapters and head.safetensors are written"
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class StockHead:
    """
    Args:
        model: transformers' classifier of texts with the backbone's configuration, its base without values.
        prefix: where the backbone sits in it, with a dot.
        layers: names of its one or two linear layers, in the order in which they run.
        modules: children that hold them, for ``modules_to_save``.
    """

    model: PreTrainedModel
    prefix: str
    layers: tuple[str, ...]
    modules: tuple[str, ...]

    @property
    def name(self) -> str:
        return type(self.model).__name__

    def layer(self, index: int) -> nn.Linear:
        return cast(nn.Linear, self.model.get_submodule(self.layers[index]))

    def tensors(self, weight: torch.Tensor, bias: torch.Tensor) -> Params:
        """The layers' tensors with which they compute weight·x + bias, by their names in ``model``.

        Two layers with ReLU, GELU or SiLU between hold it exactly, since each has a(z) − a(−z) = z: the first computes
        z = weight·x and −z, the second their difference.
        """
        first, last = self.layer(0), self.layer(-1)
        found: Params = {}
        if first is not last:
            n = len(weight)
            inner = weight.new_zeros(first.out_features, first.in_features)
            inner[:n], inner[n : 2 * n] = weight, -weight
            found[f"{self.layers[0]}.weight"] = inner
            if first.bias is not None:
                found[f"{self.layers[0]}.bias"] = weight.new_zeros(first.out_features)
            weight = weight.new_zeros(n, last.in_features)
            weight[:, :n], weight[:, n : 2 * n] = torch.eye(n), -torch.eye(n)
        found[f"{self.layers[-1]}.weight"] = weight
        if last.bias is not None:
            found[f"{self.layers[-1]}.bias"] = bias
        return found


def head_tensors(params: Params, model: AdapterClassifier) -> tuple[StockHead, Params]:
    """The stock head for ``model``, and its tensors for the head in ``params`` (of one task).

    Raises:
        InputError: the head rescales features, is not there yet or has a bias where the stock one has none; or
            transformers has no classifier on this backbone, or one that is no linear map of the vector that the
            model reads.
    """
    weight, bias = _own_head(params, model)
    stock = stock_head(model)
    if stock.layer(-1).bias is None and bool(bias.any()):
        raise InputError(
            f"{stock.name} has a linear layer without a bias ('{stock.layers[-1]}'), and the bias of this head is not "
            "zero; train with head=ScoreHead(), which has none",
            field="head",
            allowed="ScoreHead()",
        )
    return stock, stock.tensors(weight, bias)


def own_head(tensors: Params, model: AdapterClassifier, folder: Path) -> Params:
    """The head of ``model`` that a SEQ_CLS file holds in its stock layers; its tensors leave ``tensors``.

    Args:
        tensors: by their names in the stock model.
        folder: where they come from, for messages.

    Raises:
        InputError: the file's layers are others, or compute no linear map that the model's head can hold.
    """
    _refuse_rescaling(model)
    stock = stock_head(model)
    names = [
        f"{layer}.{kind}" for layer in stock.layers for kind, _ in stock.model.get_submodule(layer).named_parameters()
    ]
    missing = [name for name in names if name not in tensors]
    if missing:
        raise InputError(f"the adapters in '{folder}' are SEQ_CLS, and '{missing[0]}' of {stock.name} is missing")
    held = {name: tensors.pop(name) for name in names}
    weight = held[f"{stock.layers[0]}.weight"][: model.n_classes]
    bias = held.get(f"{stock.layers[-1]}.bias", weight.new_zeros(model.n_classes))
    again = stock.tensors(weight, bias)
    if len(bias) != model.n_classes or any(
        value.shape != held[name].shape or not torch.equal(value, held[name]) for name, value in again.items()
    ):
        raise InputError(
            f"the classifier in '{folder}' is none that one linear head of {model.n_classes} classes on "
            f"{model.n_features} features computes: its layers {', '.join(stock.layers)} are of another size, or were "
            "trained on"
        )
    if not isinstance(model.head, ScoreHead):
        return {WEIGHT: weight, BIAS: bias}
    if bool(bias.any()):
        raise InputError(
            f"the classifier in '{folder}' has a bias, and ScoreHead none; make the model with "
            "head=LearnedHead(feature_norm=None)",
            field="head",
        )
    return {WEIGHT: weight}


def _refuse_rescaling(model: AdapterClassifier) -> None:
    drawn = torch.randn(2, 3, model.n_features, generator=torch_generator(0, "seq-cls"), dtype=torch.float64)
    if not torch.equal(model.head.scaled(drawn), drawn):
        raise InputError(
            f"{type(model.head).__name__} rescales every text's vector, which no classifier of transformers does; "
            f"SEQ_CLS takes a model with head={_HEADS}",
            field="head",
            value=type(model.head).__name__,
            allowed=_HEADS,
        )


def _own_head(params: Params, model: AdapterClassifier) -> tuple[torch.Tensor, torch.Tensor]:
    _refuse_rescaling(model)
    weight, shape = params.get(WEIGHT), (model.n_classes, model.n_features)
    if weight is None or weight.shape != shape:
        found = "nothing: it is made when a task is adapted to" if weight is None else list(weight.shape)
        raise InputError(f"SEQ_CLS needs '{WEIGHT}' of one task, with shape {list(shape)}, but found {found}")
    bias = params.get(BIAS)
    return weight.detach(), weight.new_zeros(len(weight)) if bias is None else bias.detach()


def stock_head(model: AdapterClassifier) -> StockHead:
    """The head of transformers' classifier on the model's backbone, found by its layers and tried on drawn vectors.

    Raises:
        InputError: there is none, or it is no linear map of the vector that the model reads.
    """
    whole = _stock_model(model)
    prefix = f"{whole.base_model_prefix}."
    layers = _linear_layers(whole, prefix, model)
    modules = tuple(dict.fromkeys(name.split(".")[0] for name in layers))
    saved = {*modules, *_ALWAYS_SAVED}
    also = [n for n, _ in whole.named_modules() if n not in modules and any(n.endswith(end) for end in saved)]
    if also:
        raise InputError(
            f"peft would take '{also[0]}' of {type(whole).__name__} for its classifier, so SEQ_CLS cannot hold it"
        )
    stock = StockHead(whole, prefix, layers, modules)
    for name in modules:
        whole.get_submodule(name).to_empty(device="cpu").double()
    fitting = [name for name in POOLINGS if _computes(stock, name, model.n_classes, model.n_features)]
    if model.pool_name not in fitting:
        why = f"it reads pooling={fitting[0]!r}, the model pooling={model.pool_name!r}" if fitting else _OTHER
        _refuse(whole, model, why)
    return stock


def _stock_model(model: AdapterClassifier) -> PreTrainedModel:
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    config = copy.deepcopy(model.backbone.config)
    known = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if known is None:
        raise InputError(
            f"transformers has no classifier of texts for the architecture '{config.model_type}', so SEQ_CLS cannot "
            f"hold this model; {_WITHOUT}",
            field="task_type",
            value="SEQ_CLS",
        )
    config.num_labels = model.n_classes
    text = config.get_text_config()
    text.pad_token_id = 0 if text.pad_token_id is None else text.pad_token_id
    with torch.device("meta"):
        whole: PreTrainedModel = known(config)
    if type(whole.base_model) is not type(model.backbone):
        raise InputError(
            f"{known.__name__} does not classify the output of {type(model.backbone).__name__}, so SEQ_CLS cannot hold "
            f"this model; {_WITHOUT}",
            field="task_type",
            value="SEQ_CLS",
        )
    return whole.eval()


def _linear_layers(whole: PreTrainedModel, prefix: str, model: AdapterClassifier) -> tuple[str, ...]:
    """The one or two linear layers outside the base that can hold the head, in the order in which they run."""
    n_classes, width = model.n_classes, model.n_features
    outside = {name: m for name, m in whole.named_modules() if name and not f"{name}.".startswith(prefix)}
    holding = {name: m for name, m in outside.items() if next(m.parameters(recurse=False), None) is not None}
    if not all(isinstance(layer, nn.Linear) for layer in holding.values()):
        _refuse(whole, model, _OTHER)
    shapes = {name: (int(cast(Any, m).in_features), int(cast(Any, m).out_features)) for name, m in holding.items()}
    if list(shapes.values()) == [(width, n_classes)]:
        return tuple(shapes)
    first = [name for name, (d_in, d_out) in shapes.items() if d_in == width and d_out != n_classes]
    last = [name for name, (_, d_out) in shapes.items() if d_out == n_classes]
    if len(shapes) != 2 or len(first) != 1 or len(last) != 1 or shapes[first[0]][1] != shapes[last[0]][0]:
        _refuse(whole, model, _OTHER)
    if (inner := shapes[first[0]][1]) < 2 * n_classes:
        _refuse(whole, model, f"its inner layer of {inner} units holds at most {inner // 2} classes")
    return first[0], last[0]


def _refuse(whole: PreTrainedModel, model: AdapterClassifier, why: str) -> NoReturn:
    raise InputError(
        f"{type(whole).__name__} cannot hold this model's head: {why}; SEQ_CLS takes models that transformers "
        "classifies by one linear layer, or by two with ReLU, GELU or SiLU between, on the vector that the head reads, "
        f"and {_WITHOUT}",
        field="pooling" if "pooling=" in why else "task_type",
        value=model.pool_name if "pooling=" in why else "SEQ_CLS",
    )


def _computes(stock: StockHead, pooling: str, n_classes: int, width: int) -> bool:
    """Whether the stock head, given drawn tensors, is their linear map of pooled drawn hidden states (float64)."""
    generator = torch_generator(0, "seq-cls-probe")
    hidden = torch.randn(4, 6, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(n_classes, width, generator=generator, dtype=torch.float64)
    bias = torch.randn(n_classes, generator=generator, dtype=torch.float64)
    if stock.layer(-1).bias is None:
        bias.zero_()
    mask = (torch.arange(6) < torch.tensor([[6], [4], [2], [1]])).long()
    pad = int(stock.model.config.get_text_config().pad_token_id)
    ids = torch.where(mask.bool(), pad + 1, pad)
    for name, value in stock.tensors(weight, bias).items():
        module, _, own = name.rpartition(".")
        cast(nn.Parameter, getattr(stock.model.get_submodule(module), own)).data = value
    base = stock.model.base_model
    setattr(stock.model, stock.model.base_model_prefix, _Given(hidden))
    try:
        with torch.no_grad():
            found = stock.model(input_ids=ids, attention_mask=mask).logits
    except _NOT_LINEAR:
        return False
    finally:
        setattr(stock.model, stock.model.base_model_prefix, base)
    expected = named_pooling(pooling)(hidden, mask) @ weight.T + bias
    return found.shape == expected.shape and bool((found - expected).abs().max() <= _TOLERANCE)


class _Given(nn.Module):
    """A base that gives these last hidden states; what a pooler would make of them is not a number."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *args: object, **options: object) -> object:
        from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions as Output

        return Output(last_hidden_state=self.hidden, pooler_output=torch.full_like(self.hidden[:, 0], torch.nan))
