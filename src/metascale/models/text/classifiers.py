"""Classifiers of texts on a Hugging Face backbone: adapters or all weights for T tasks, and a plain torch module."""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.func import functional_call

from metascale.core import trees
from metascale.core.canonical import plain
from metascale.core.dropout import DropoutMasks
from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.types import Batch, Params
from metascale.models.network import check_rates, check_sizes, cross_entropy_per_task
from metascale.models.text.architectures import architecture_of, match_targets
from metascale.models.text.heads import (
    BIAS,
    WEIGHT,
    Head,
    LearnedHead,
    Pooling,
    PrototypeHead,
    head_logits,
    named_pooling,
)
from metascale.models.text.hf import call_options, precision_of, refuse_decoder, refuse_int8, require_derivative
from metascale.models.text.lora import (
    CHECKPOINTING,
    Active,
    AdapterCall,
    Checkpointing,
    adapters_of,
    attach,
    init_adapters,
    linear_shapes,
)
from metascale.models.text.probe import require_bare, require_live

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class EpisodeClassifier(ABC):
    """A backbone with a head for every task: what the models below share."""

    backbone: PreTrainedModel
    n_classes: int
    head: Head
    pooling: str | None

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The type of what is trained."""

    @abstractmethod
    def features(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T, B, d] pooled hidden states; the head's tensors need not be there."""

    @property
    @abstractmethod
    def n_params_trainable(self) -> int:
        """Meta-parameters, the head's included where it is meta-learnt."""

    @property
    @abstractmethod
    def n_params_total(self) -> int: ...

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """JSON for the run's record."""

    @cached_property
    def pool_name(self) -> str:
        return architecture_of(self.backbone, "pooling").pooling if self.pooling is None else self.pooling

    @cached_property
    def n_features(self) -> int:
        return int(self.backbone.config.hidden_size)

    def begin(self, params: Params, support: Batch) -> Params:
        """``params`` with a head for every task."""
        shape = (support.n_tasks, self.n_classes, self.n_features)
        weight = torch.zeros(shape, dtype=self.dtype, device=self.backbone.device)
        zeros = {WEIGHT: weight, BIAS: weight.new_zeros(shape[:2])}
        return {**params, **self.head.begin(zeros, lambda: self.features(params, support), support.targets)}

    def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T] mean cross-entropy in nats. Masks depend on ``dropout``, the layer and the examples' numbers."""
        return self.output_losses(self.predict(params, batch, dropout), batch)

    def output_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """[T] mean cross-entropy in nats of logits [T, B, n_classes]."""
        return cross_entropy_per_task(outputs, batch.targets)

    def predict(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T, B, n_classes] logits; without dropout unless it is named, as in ``losses``."""
        return head_logits(self.head, params, self.features(params, batch, dropout))

    def require_second_order(self) -> None:
        """
        Raises:
            InputError: the attention kernel, or the quantised layers, have no second derivative.
        """
        require_derivative(self.backbone)

    def _check(self) -> None:
        check_sizes("classifier", n_classes=self.n_classes)
        named_pooling(self.pool_name)
        refuse_decoder(self.backbone)

    def _init_head(self, seed: int) -> Params:
        head = self.head.init(self.n_classes, self.n_features, seed)
        return trees.to(head, device=self.backbone.device, dtype=self.dtype)

    def _describe(self) -> dict[str, Any]:
        config = self.backbone.config
        return {
            "backbone": config._name_or_path,
            "model_type": config.model_type,
            "dtype": precision_of(self.backbone),
            "attn_implementation": config._attn_implementation,
            "head": {"name": type(self.head).__name__, **plain(self.head)},
            "pooling": self.pool_name,
            "n_classes": self.n_classes,
            "n_params_trainable": self.n_params_trainable,
            "n_params_total": self.n_params_total,
        }


@dataclass(frozen=True, eq=False)
class AdapterClassifier(EpisodeClassifier):
    """Text classification by LoRA adapters on a frozen backbone; one pass of it serves all T tasks of a batch.

    Batches hold ``input_ids`` and ``attention_mask`` [T, B, S], padded on either side. Adapters and head are float32
    (float64 on a float64 backbone); the adapters are applied in the backbone's precision, head and loss in their own.
    The backbone always runs in evaluation mode. Several threads may call one classifier, or several on one backbone.

    Args:
        backbone: from `metascale.models.text.hf.load_backbone`; it is frozen here.
        n_classes: ways of the task.
        rank: r of the adapters.
        alpha: the update is scaled by alpha / rank.
        dropout: probability of dropping an entry of an adapter's input, in calls that name masks.
        targets: module names to adapt (suffixes); the architecture's own where ``None``.
        head: where a task's head starts from.
        pooling: ``"last"``, ``"mean"`` or ``"first"`` token; the architecture's own where ``None``.
        autocast: run the backbone's pass under autocast in this type. A backbone loaded in that type is faster:
            autocast casts frozen weights anew in every call.
        checkpoint_blocks: trade time for memory: blocks run again in the backward pass instead of keeping what is
            inside them. ``"adapters"`` does so for blocks that hold adapters, ``"all"`` also for those between them;
            blocks below the first adapter keep nothing in any case.
        task_execution: how a meta-batch runs on a CPU.

    Raises:
        InputError: no layer matches, the architecture is unknown and targets or pooling are not given, or an adapter
            would change nothing because the backbone's code does not call its layer (`probe.require_live`).
    """

    backbone: PreTrainedModel = field(repr=False)
    n_classes: int
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: tuple[str, ...] | None = None
    head: Head = field(default_factory=PrototypeHead)
    pooling: str | None = None
    autocast: torch.dtype | None = None
    checkpoint_blocks: Checkpointing = "none"
    task_execution: Literal["stacked", "threads"] = "threads"

    def __post_init__(self) -> None:
        check_sizes("classifier", rank=self.rank)
        check_rates("the adapters", dropout=self.dropout)
        if self.checkpoint_blocks not in CHECKPOINTING:
            raise InputError(
                f"checkpoint_blocks must be {', '.join(map(repr, CHECKPOINTING))}, not {self.checkpoint_blocks!r}",
                field="checkpoint_blocks",
            )
        self._check()
        self.backbone.requires_grad_(False).eval()
        attach(self.backbone, self.shapes)
        require_bare(self.backbone)
        require_live(self.backbone, self.shapes)

    @cached_property
    def target_names(self) -> tuple[str, ...]:
        """The target modules as they were asked for, or the architecture's own."""
        return architecture_of(self.backbone, "targets").targets if self.targets is None else self.targets

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(d_in, d_out) of every adapted module, by its name in the backbone."""
        layers = linear_shapes(self.backbone)
        return {name: layers[name] for name in match_targets(list(layers), self.target_names)}

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.backbone.dtype == torch.float64 else torch.float32

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def init(self, seed: int) -> Params:
        """``<module>.lora_A`` [r, d_in] and ``<module>.lora_B`` [d_out, r], and the head's where it is meta-learnt."""
        adapters = init_adapters(self.shapes, self.rank, seed, self.dtype)
        return {**trees.to(adapters, device=self.backbone.device), **self._init_head(seed)}

    def features(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T, B, d] pooled hidden states; the head's tensors need not be there."""
        ids, mask = trimmed(batch)
        n_tasks, n_examples, length = ids.shape
        adapters = adapters_of(params, self.shapes)
        self._check_tasks(adapters, n_tasks)
        masks = None if dropout is None or not self.dropout else DropoutMasks.of(batch, self.dropout, dropout)
        call = AdapterCall(adapters, self.scale, n_tasks, masks, self.checkpoint_blocks)
        flat_mask = mask.reshape(-1, length)
        with Active(call), self._precision(ids.device.type):
            output = self.backbone(input_ids=ids.reshape(-1, length), attention_mask=flat_mask, **self._options)
        pooled = named_pooling(self.pool_name)(output.last_hidden_state, flat_mask)
        return pooled.to(self.dtype).view(n_tasks, n_examples, -1)

    @cached_property
    def _options(self) -> dict[str, bool]:
        return call_options(self.backbone)

    def _precision(self, device_type: str) -> AbstractContextManager[object]:
        if device_type == "meta":  # tensors without values, on which memory is counted
            return nullcontext()
        return torch.autocast(device_type, dtype=self.autocast, enabled=self.autocast is not None)

    @property
    def n_params_trainable(self) -> int:
        n_head = trees.n_elements(self.head.init(self.n_classes, self.n_features, 0))
        return n_head + sum(self.rank * (d_in + d_out) for d_in, d_out in self.shapes.values())

    @property
    def n_params_total(self) -> int:
        """The backbone's parameters and the trainable ones."""
        n_frozen = sum(int(parameter.numel()) for parameter in self.backbone.parameters())
        return self.n_params_trainable + n_frozen

    def describe(self) -> dict[str, Any]:
        return {
            **self._describe(),
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout,
            "targets": list(self.target_names),
            "checkpoint_blocks": self.checkpoint_blocks,
        }

    def _check_tasks(self, adapters: dict[str, tuple[torch.Tensor, torch.Tensor]], n_tasks: int) -> None:
        if not adapters:
            return
        name, (a, _) = next(iter(adapters.items()))
        if a.dim() != 3 or a.shape[0] != n_tasks:
            raise InputError(
                f"the batch holds {n_tasks} tasks, so '{name}.lora_A' must have shape "
                f"[{n_tasks}, r, d_in], not {list(a.shape)}"
            )


@dataclass(frozen=True, eq=False)
class FullClassifier(EpisodeClassifier):
    """Text classification with every weight of the backbone as a parameter, a copy for each task.

    This is what full-parameter MAML and fine-tuning train; adapters are compared with its memory and time. Tasks run
    one after another through the backbone; there is no dropout. Parameters carry the backbone's own names, and start at
    the weights it was given with: a seed draws the head alone, where it is meta-learnt. Several threads may call one
    classifier.

    Args:
        backbone: from `metascale.models.text.hf.load_backbone`, in float32 or float64; it is left as it is.
        n_classes: ways of the task.
        head: where a task's head starts from.
        pooling: ``"last"``, ``"mean"`` or ``"first"`` token; the architecture's own where ``None``.
        task_execution: how a meta-batch runs on a CPU.
    """

    backbone: PreTrainedModel = field(repr=False)
    n_classes: int
    head: Head = field(default_factory=LearnedHead)
    pooling: str | None = None
    task_execution: Literal["stacked", "threads"] = "threads"
    _skeletons: threading.local = field(default_factory=threading.local, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"a backbone whose weights are all trained must be float32 or float64, not {self.dtype}; "
                "load it in float32",
                field="backbone",
            )
        refuse_int8(self.backbone, "training all weights")
        self._check()
        self.backbone.eval()

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.backbone.dtype
        return dtype

    def init(self, seed: int) -> Params:
        """The backbone's weights by their names (not copied), and the head's where it is meta-learnt."""
        weights = {name: value.detach() for name, value in self.backbone.named_parameters()}
        return {**weights, **self._init_head(seed)}

    def features(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T, B, d] pooled hidden states, without dropout; the head's tensors need not be there."""
        ids, mask = trimmed(batch)
        names = [name for name, _ in self.backbone.named_parameters()]
        # Unbinding once gives a backward pass one stack; indexing each task would give it a zero tensor of all T.
        split = {name: params[name].unbind(0) for name in names}
        pool = named_pooling(self.pool_name)
        found = []
        for task in range(batch.n_tasks):
            hidden = self._hidden({name: split[name][task] for name in names}, ids[task], mask[task])
            found.append(pool(hidden, mask[task]))
        return torch.stack(found).to(self.dtype)

    def _hidden(self, weights: Params, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[B, S, d] of one task."""
        own = {**dict(self.backbone.named_buffers()), **weights}
        output = functional_call(
            self._skeleton(), own, kwargs={"input_ids": ids, "attention_mask": mask, **call_options(self.backbone)}
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def _skeleton(self) -> nn.Module:
        """The backbone without weights, one a thread: a functional call swaps the weights of the module it runs."""
        if not hasattr(self._skeletons, "module"):
            tensors = [*self.backbone.parameters(), *self.backbone.buffers()]
            self._skeletons.module = copy.deepcopy(self.backbone, {id(value): value.to("meta") for value in tensors})
        module: nn.Module = self._skeletons.module
        return module

    @property
    def n_params_trainable(self) -> int:
        """Every weight, and the head where it is meta-learnt."""
        return trees.n_elements(self.init(0))

    @property
    def n_params_total(self) -> int:
        return self.n_params_trainable

    def describe(self) -> dict[str, Any]:
        return {**self._describe(), "trained": "all weights"}


class TextClassifier(nn.Module):
    """Logits [B, classes] of texts [B, S], a module to fine-tune; the embeddings, and the lower blocks, stay frozen.

    Args:
        backbone: from `metascale.models.text.hf.load_backbone`.
        n_classes: classes to tell apart.
        train_blocks: how many of the last Transformer blocks are fine-tuned; ``None`` means all, 0 the head alone.
        pooling: ``"last"``, ``"mean"`` or ``"first"`` token; the architecture's own where ``None``.
        seed: of the linear layer.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        n_classes: int,
        train_blocks: int | None = None,
        pooling: str | None = None,
        seed: int = 0,
    ) -> None:
        refuse_int8(backbone, "fine-tuning")
        super().__init__()
        self.pool: Pooling = named_pooling(architecture_of(backbone, "pooling").pooling if pooling is None else pooling)
        self.backbone = backbone
        width = int(getattr(backbone.config, "hidden_size", 0) or backbone.config.dim)
        self.head = nn.Linear(width, n_classes)
        with torch.no_grad():
            draw = torch.randn(n_classes, width, generator=torch_generator(seed, "text-classifier-head"))
            self.head.weight.copy_(draw / width**0.5)
            self.head.bias.zero_()
        backbone.requires_grad_(False)
        blocks = transformer_blocks(backbone)
        wanted = len(blocks) if train_blocks is None else train_blocks
        if not 0 <= wanted <= len(blocks):
            message = f"train_blocks must lie between 0 and the {len(blocks)} blocks there are, not {wanted}"
            raise InputError(message, field="train_blocks", value=wanted)
        for block in blocks[len(blocks) - wanted :]:
            block.requires_grad_(True)
        self._options = call_options(backbone)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **self._options).last_hidden_state
        logits: torch.Tensor = self.head(self.pool(hidden, attention_mask))
        return logits


def transformer_blocks(backbone: nn.Module) -> list[nn.Module]:
    """The blocks of a Transformer in order: the longest list of layers it has."""
    lists = [list(module) for module in backbone.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise InputError(f"{type(backbone).__name__} has no list of layers to choose blocks from")
    return max(lists, key=len)


def trimmed(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """``input_ids`` and ``attention_mask`` padded on the right, without the columns that are padding in every text.

    Chunks of tasks and of examples keep the padding of the batch they were cut from. On an accelerator the columns
    stay: counting them would wait for the device.
    """
    ids = batch.inputs["input_ids"]
    mask = batch.inputs.get("attention_mask")
    if mask is None:
        return ids, torch.ones_like(ids)
    if ids.device.type == "meta":
        return ids, mask
    if ids.device.type != "cpu":
        moved_ids, moved_mask = packed(ids, mask)
        return moved_ids, moved_mask
    if not bool(mask[..., 0].all()):
        ids, mask = packed(ids, mask)
    used = mask.flatten(0, 1).any(0).nonzero()
    length = int(used[-1]) + 1 if len(used) else 1
    return ids[..., :length], mask[..., :length]


def packed(
    ids: torch.Tensor, mask: torch.Tensor, *others: torch.Tensor, left: bool = False
) -> tuple[torch.Tensor, ...]:
    """The same texts with all their padding on the right, or on the left; ``others`` [..., S] are moved alike."""
    order = mask.argsort(dim=-1, descending=not left, stable=True)
    return tuple(value.gather(-1, order) for value in (ids, mask, *others))
