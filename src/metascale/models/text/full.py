"""A Hugging Face backbone all of whose weights adapt: the `Model` that full-parameter MAML and fine-tuning train."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn
from torch.func import functional_call

from metascale.core import trees
from metascale.core.canonical import plain
from metascale.core.errors import InputError
from metascale.core.types import Batch, Params
from metascale.models.network import cross_entropy_per_task
from metascale.models.text.heads import BIAS, POOLINGS, WEIGHT, Head, LearnedHead, check_pooling, head_logits
from metascale.models.text.hf import architecture_value, call_options, refuse_decoder, require_second_order
from metascale.models.text.padding import trimmed


@dataclass(frozen=True, eq=False)
class FullClassifier:
    """Text classification with every weight of the backbone as a parameter, a copy for each task.

    The memory and time of this is what adapters are compared with. Tasks run one after another through the backbone;
    there is no dropout. Parameters carry the backbone's own names, and start at the weights it was given with: a seed
    draws the head alone, where it is meta-learnt. Several threads may call one classifier.

    Args:
        backbone: from `metascale.models.text.hf.load_backbone`, in float32 or float64; it is left as it is.
        n_classes: ways of the task.
        head: where a task's head starts from.
        pooling: ``"last"``, ``"mean"`` or ``"first"`` token; the architecture's own where ``None``.
        task_execution: how a meta-batch runs on a CPU.

    Raises:
        InputError: the backbone is quantised or in low precision, or the pooling does not exist.
    """

    backbone: nn.Module = field(repr=False)
    n_classes: int
    head: Head = field(default_factory=LearnedHead)
    pooling: str | None = None
    task_execution: Literal["stacked", "threads"] = "threads"
    _skeletons: threading.local = field(default_factory=threading.local, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.n_classes < 1:
            raise InputError(f"n_classes must be at least 1, not {self.n_classes}")
        if self.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"a backbone whose weights are all trained must be float32 or float64, not {self.dtype}; "
                "load it in float32"
            )
        check_pooling(self.pool_name)
        refuse_decoder(self.backbone)
        self.backbone.eval()

    @cached_property
    def pool_name(self) -> str:
        return str(architecture_value(self.backbone, "pooling", self.pooling))

    @cached_property
    def n_features(self) -> int:
        return int(self.backbone.config.hidden_size)

    @property
    def dtype(self) -> torch.dtype:
        return self.backbone.dtype

    def init(self, seed: int) -> Params:
        """The backbone's weights by their names (not copied), and the head's where it is meta-learnt."""
        params = {name: value.detach() for name, value in self.backbone.named_parameters()}
        head = trees.to(self.head.init(self.n_classes, self.n_features, seed), dtype=self.dtype)
        return {**params, **trees.to(head, device=self.backbone.device)}

    def begin(self, params: Params, support: Batch) -> Params:
        """``params`` with a head for every task."""
        shape = (support.n_tasks, self.n_classes, self.n_features)
        weight = torch.zeros(shape, dtype=self.dtype, device=self.backbone.device)
        zeros = {WEIGHT: weight, BIAS: weight.new_zeros(shape[:2])}
        return {**params, **self.head.begin(zeros, lambda: self.features(params, support), support.targets)}

    def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T] mean cross-entropy in nats; there is no dropout."""
        return cross_entropy_per_task(self.predict(params, batch), batch.targets)

    def predict(self, params: Params, batch: Batch) -> torch.Tensor:
        """[T, B, n_classes] logits."""
        return head_logits(self.head, params, self.features(params, batch))

    def features(self, params: Params, batch: Batch) -> torch.Tensor:
        """[T, B, d] pooled hidden states; the head's tensors need not be there."""
        ids, mask = trimmed(batch)
        names = [name for name, _ in self.backbone.named_parameters()]
        # Unbinding once gives a backward pass one stack; indexing each task would give it a zero tensor of all T.
        split = {name: params[name].unbind(0) for name in names}
        pool = POOLINGS[self.pool_name]
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

    def require_second_order(self) -> None:
        """
        Raises:
            InputError: the attention kernel has no second derivative.
        """
        require_second_order(self.backbone)

    @property
    def n_params_trainable(self) -> int:
        """Meta-parameters: every weight, and the head where it is meta-learnt."""
        return trees.n_elements(self.init(0))

    @property
    def n_params_total(self) -> int:
        return self.n_params_trainable

    def describe(self) -> dict[str, Any]:
        """JSON for the run's record."""
        config = self.backbone.config
        return {
            "backbone": config._name_or_path,
            "model_type": config.model_type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "attn_implementation": config._attn_implementation,
            "trained": "all weights",
            "head": {"name": type(self.head).__name__, **plain(self.head)},
            "pooling": self.pool_name,
            "n_classes": self.n_classes,
            "n_params_trainable": self.n_params_trainable,
            "n_params_total": self.n_params_total,
        }
