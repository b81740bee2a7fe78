"""A frozen Hugging Face backbone with per-task low-rank adapters and a per-task head: a `Model` for text."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn

from metascale.core import trees
from metascale.core.canonical import plain
from metascale.core.dropout import DropoutMasks
from metascale.core.errors import InputError
from metascale.core.types import Batch, Params
from metascale.models.network import cross_entropy_per_task
from metascale.models.text.architectures import match_targets
from metascale.models.text.heads import BIAS, POOLINGS, WEIGHT, Head, PrototypeHead, check_pooling, head_logits
from metascale.models.text.hf import architecture_value, call_options, refuse_decoder, require_second_order
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
from metascale.models.text.padding import trimmed


@dataclass(frozen=True, eq=False)
class AdapterClassifier:
    """Text classification by LoRA adapters on a frozen backbone; one pass of it serves all T tasks of a batch.

    Batches hold ``input_ids`` and ``attention_mask`` [T, B, S], padded on the right. Adapters and head are float32
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
        InputError: no layer matches, or the architecture is unknown and targets or pooling are not given.
    """

    backbone: nn.Module = field(repr=False)
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
        if self.n_classes < 1 or self.rank < 1:
            raise InputError(f"n_classes and rank must be at least 1, not {self.n_classes} and {self.rank}")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout must lie in [0, 1), not {self.dropout}")
        if self.checkpoint_blocks not in CHECKPOINTING:
            raise InputError(
                f"checkpoint_blocks must be {', '.join(map(repr, CHECKPOINTING))}, not {self.checkpoint_blocks!r}"
            )
        check_pooling(self.pool_name)
        refuse_decoder(self.backbone)
        self.backbone.requires_grad_(False).eval()
        attach(self.backbone, self.shapes)

    @cached_property
    def pool_name(self) -> str:
        return str(architecture_value(self.backbone, "pooling", self.pooling))

    @cached_property
    def target_names(self) -> tuple[str, ...]:
        """The target modules as they were asked for, or the architecture's own."""
        return tuple(architecture_value(self.backbone, "targets", self.targets))

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(d_in, d_out) of every adapted module, by its name in the backbone."""
        layers = linear_shapes(self.backbone)
        return {name: layers[name] for name in match_targets(list(layers), self.target_names)}

    @cached_property
    def n_features(self) -> int:
        return int(self.backbone.config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        """The type of adapters and head."""
        return torch.float64 if self.backbone.dtype == torch.float64 else torch.float32

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def init(self, seed: int) -> Params:
        """``<module>.lora_A`` [r, d_in] and ``<module>.lora_B`` [d_out, r], and the head's where it is meta-learnt."""
        params = init_adapters(self.shapes, self.rank, seed, self.dtype)
        params.update(trees.to(self.head.init(self.n_classes, self.n_features, seed), dtype=self.dtype))
        return trees.to(params, device=self.backbone.device)

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
        return head_logits(self.head, params, self._features(params, batch, dropout))

    def features(self, params: Params, batch: Batch) -> torch.Tensor:
        """[T, B, d] pooled hidden states; the head's tensors need not be there."""
        return self._features(params, batch, None)

    def _features(self, params: Params, batch: Batch, dropout: int | None) -> torch.Tensor:
        ids, mask = trimmed(batch)
        n_tasks, n_examples, length = ids.shape
        adapters = adapters_of(params, self.shapes)
        self._check_tasks(adapters, n_tasks)
        call = AdapterCall(adapters, self.scale, n_tasks, self._masks(batch, dropout), self.checkpoint_blocks)
        flat_mask = mask.reshape(-1, length)
        with Active(call), self._precision(ids.device.type):
            output = self.backbone(input_ids=ids.reshape(-1, length), attention_mask=flat_mask, **self._options)
        pooled = POOLINGS[self.pool_name](output.last_hidden_state, flat_mask)
        return pooled.to(self.dtype).view(n_tasks, n_examples, -1)

    def _masks(self, batch: Batch, dropout: int | None) -> DropoutMasks | None:
        if dropout is None or not self.dropout:
            return None
        return DropoutMasks.of(batch, self.dropout, dropout)

    @cached_property
    def _options(self) -> dict[str, bool]:
        return call_options(self.backbone)

    def _precision(self, device_type: str) -> AbstractContextManager[Any]:
        if device_type == "meta":  # tensors without values, on which memory is counted
            return nullcontext()
        return torch.autocast(device_type, dtype=self.autocast, enabled=self.autocast is not None)

    def require_second_order(self) -> None:
        """
        Raises:
            InputError: the attention kernel, or the quantised layers, have no second derivative.
        """
        require_second_order(self.backbone)

    @property
    def n_params_trainable(self) -> int:
        """Meta-parameters: adapters, and the head where it is meta-learnt."""
        n_head = trees.n_elements(self.head.init(self.n_classes, self.n_features, 0))
        return n_head + sum(self.rank * (d_in + d_out) for d_in, d_out in self.shapes.values())

    @property
    def n_params_total(self) -> int:
        """The backbone's parameters and the trainable ones."""
        return self.n_params_trainable + sum(parameter.numel() for parameter in self.backbone.parameters())

    def describe(self) -> dict[str, Any]:
        """JSON for the run's record."""
        config = self.backbone.config
        return {
            "backbone": config._name_or_path,
            "model_type": config.model_type,
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
            "attn_implementation": config._attn_implementation,
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout,
            "targets": list(self.target_names),
            "head": {"name": type(self.head).__name__, **plain(self.head)},
            "pooling": self.pool_name,
            "checkpoint_blocks": self.checkpoint_blocks,
            "n_classes": self.n_classes,
            "n_params_trainable": self.n_params_trainable,
            "n_params_total": self.n_params_total,
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
