"""A plain torch module that classifies texts: a pretrained encoder, a pooling and a linear layer, fine-tuned."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.models.text.heads import POOLINGS, check_pooling
from metascale.models.text.hf import architecture_value, call_options


class TextClassifier(nn.Module):
    """Logits [B, classes] of texts [B, S]; the embeddings, and blocks below the last ``train_blocks``, stay frozen.

    Args:
        backbone: from `metascale.models.text.hf.load_backbone`.
        n_classes: classes to tell apart.
        train_blocks: how many of the last Transformer blocks are fine-tuned; ``None`` means all, 0 the head alone.
        pooling: ``"last"``, ``"mean"`` or ``"first"`` token; the architecture's own where ``None``.
        seed: of the linear layer.

    Raises:
        InputError: more blocks than there are, or a pooling that does not exist.
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_classes: int,
        train_blocks: int | None = None,
        pooling: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = architecture_value(backbone, "pooling", pooling)
        check_pooling(name)
        self.pool = POOLINGS[name]
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
            raise InputError(f"train_blocks must lie between 0 and the {len(blocks)} blocks there are, not {wanted}")
        for block in blocks[len(blocks) - wanted :]:
            block.requires_grad_(True)
        self._options = call_options(backbone)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **self._options).last_hidden_state
        logits: torch.Tensor = self.head(self.pool(hidden, attention_mask))
        return logits


def transformer_blocks(backbone: nn.Module) -> list[nn.Module]:
    """The blocks of a Transformer in order: the longest list of layers it has.

    Raises:
        InputError: it has none.
    """
    lists: list[Any] = [module for module in backbone.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise InputError(f"{type(backbone).__name__} has no list of layers to choose blocks from")
    return max((list(layers) for layers in lists), key=len)
