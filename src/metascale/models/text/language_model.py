"""Language models with adapters for T tasks: losses of tokens, and generation after adaptation."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.nn.functional as F
from torch import nn

from metascale.core import trees
from metascale.core.columns import IGNORED
from metascale.core.dropout import DropoutMasks
from metascale.core.errors import InputError
from metascale.core.types import Batch, Params
from metascale.models.network import check_rates, check_sizes
from metascale.models.text.architectures import match_targets
from metascale.models.text.classifiers import packed, trimmed
from metascale.models.text.hf import call_options, require_derivative
from metascale.models.text.lora import Active, AdapterCall, adapters_of, attach, init_adapters, linear_shapes
from metascale.models.text.probe import require_live

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class AdapterLanguageModel:
    """A frozen language model of transformers, with its head, and LoRA adapters on its bare backbone.

    Batches hold ``input_ids`` and ``attention_mask`` [T, B, S], padded on either side, and targets [T, B, S]: for a
    causal model the ids themselves (each is predicted from those before it), for ``seq2seq`` those of the answers
    [T, B, L]; −100 where no loss is wanted. ``token_weights``, shaped like the targets, may be among the inputs.

    The loss of an example is the weighted mean over its targets, that of a task the mean over its examples (nats), so
    that micro-batches change nothing. Parameters are named as `AdapterClassifier` names them.

    Args:
        model: with the language-model head; it is frozen here.
        targets: layers to adapt, in the bare backbone.
        seq2seq: an encoder reads the inputs and a decoder writes the targets.
        rank, alpha, dropout: of the adapters.

    Raises:
        InputError: no layer matches, or an adapter would change nothing.
    """

    model: PreTrainedModel = field(repr=False)
    targets: tuple[str, ...]
    seq2seq: bool = False
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    task_execution: Literal["stacked", "threads"] = "threads"
    own_loss: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        check_sizes("language model", rank=self.rank)
        check_rates("the adapters", dropout=self.dropout)
        self.model.requires_grad_(False).eval()
        attach(self.backbone, self.shapes)
        require_live(self.model, self.shapes)

    @property
    def backbone(self) -> PreTrainedModel:
        return cast("PreTrainedModel", self.model.base_model)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(d_in, d_out) of every adapted module, by its name in the backbone."""
        layers = linear_shapes(self.backbone)
        return {name: layers[name] for name in match_targets(list(layers), self.targets)}

    @property
    def target_names(self) -> tuple[str, ...]:
        return self.targets

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def peft_prefix(self) -> str:
        """Where the backbone sits in the model, as `peft` names its layers."""
        return "" if self.backbone is self.model else f"{self.model.base_model_prefix}."

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.model.dtype == torch.float64 else torch.float32

    def init(self, seed: int) -> Params:
        """``<module>.lora_A`` [r, d_in] and ``<module>.lora_B`` [d_out, r]."""
        return trees.to(init_adapters(self.shapes, self.rank, seed, self.dtype), device=self.model.device)

    def begin(self, params: Params, support: Batch) -> Params:
        return params

    def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T] in nats a target."""
        return self.output_losses(self.predict(params, batch, dropout), batch)

    def predict(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T, B, L, V] logits of the targets; of a causal model of those from the second on."""
        ids, mask, targets, _ = self._arranged(batch)
        shape = ids.shape[:2]
        more = {}
        if self.seq2seq:
            more = {"decoder_input_ids": self._shifted(targets.flatten(0, 1))}
        with self._adapted(params, batch, dropout):
            found = self.model(
                input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1), **more, **call_options(self.model)
            )
        logits: torch.Tensor = found.logits.to(self.dtype).unflatten(0, shape)
        return logits if self.seq2seq else logits[:, :, :-1]

    def output_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """[T] of logits [T, B, L, V]."""
        *_, targets, weights = self._arranged(batch)
        if not self.seq2seq:
            targets, weights = targets[..., 1:], weights[..., 1:]
        each = F.cross_entropy(outputs.flatten(0, 2), targets.flatten(), reduction="none", ignore_index=IGNORED)
        weights = (weights * (targets != IGNORED)).to(each.dtype)
        total = weights.sum(-1)
        return ((each.view(targets.shape) * weights).sum(-1) / torch.where(total > 0, total, 1.0)).mean(1)

    def features(self, params: Params, batch: Batch) -> torch.Tensor:
        """[T, B, d] the last hidden state of each text's last token (of seq2seq: of its inputs in the encoder)."""
        ids, mask = trimmed(batch)
        reader = cast(nn.Module, self.model.get_encoder()) if self.seq2seq else self.backbone
        with self._adapted(params, batch, None):
            hidden = reader(input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1)).last_hidden_state
        last = mask.flatten(0, 1).sum(1).clamp_min(1) - 1
        found: torch.Tensor = hidden[torch.arange(len(last), device=last.device), last]
        rows: torch.Tensor = found.to(self.dtype).unflatten(0, ids.shape[:2])
        return rows

    def generate(self, params: Params, batch: Batch, max_new_tokens: int = 20, **options: object) -> torch.Tensor:
        """[T, B, n] the tokens that each task's adapted model goes on with, greedily unless ``options`` say otherwise.

        Args:
            params: adapted, [T, ...].
            options: of ``generate`` in transformers.
        """
        ids, mask = trimmed(batch)
        if not self.seq2seq:  # new tokens follow the last column
            ids, mask = packed(ids, mask, left=True)
        chosen = {"do_sample": False, "max_new_tokens": max_new_tokens, **options}
        with torch.no_grad(), self._adapted(params, batch, None):
            found = self.model.generate(input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1), **chosen)
        tokens: torch.Tensor = found.unflatten(0, ids.shape[:2])
        return tokens[..., 1:] if self.seq2seq else tokens[..., ids.shape[2] :]

    def require_second_order(self) -> None:
        """
        Raises:
            InputError: the attention kernel, or the quantised layers, have no second derivative.
        """
        require_derivative(self.model)

    def _adapted(self, params: Params, batch: Batch, dropout: int | None) -> Active:
        masks = None if dropout is None or not self.dropout else DropoutMasks.of(batch, self.dropout, dropout)
        adapters = adapters_of(params, self.shapes)
        return Active(AdapterCall(adapters, self.scale, batch.n_tasks, masks))

    def _arranged(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Inputs, mask, targets and their weights, a causal model's padded on the right."""
        ids, targets = batch.inputs["input_ids"], batch.targets
        mask = batch.inputs.get("attention_mask", torch.ones_like(ids))
        weights = batch.inputs.get("token_weights", torch.ones(targets.shape, device=targets.device))
        if targets.shape != weights.shape or (not self.seq2seq and targets.shape != ids.shape):
            wanted = "" if self.seq2seq else f", the inputs {list(ids.shape)}"
            raise InputError(
                f"targets and their weights must have one shape; they are {list(targets.shape)} and "
                f"{list(weights.shape)}{wanted}",
                field="targets",
            )
        if self.seq2seq:
            ids, mask = packed(ids, mask)
            return ids, mask, targets, weights
        ids, mask, targets, weights = packed(ids, mask, targets, weights)
        return ids, mask, torch.where(mask > 0, targets, IGNORED), weights

    def _shifted(self, targets: torch.Tensor) -> torch.Tensor:
        """What the decoder reads: its start token, then the targets but the last; padding where they are ignored."""
        config = self.model.config
        pad = config.pad_token_id if config.pad_token_id is not None else 0
        start = torch.full_like(targets[:, :1], config.decoder_start_token_id)
        return torch.cat([start, targets[:, :-1].masked_fill(targets[:, :-1] == IGNORED, pad)], 1)
