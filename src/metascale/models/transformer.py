"""A decoder-only Transformer language model: pre-norm, causal attention, rotary or learned positions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F

from metascale.core.dropout import drop
from metascale.core.errors import InputError
from metascale.core.types import Params
from metascale.models.kernels.linear import linear, linear_added
from metascale.models.language import LanguageModel, Norm, init_norm, normalise
from metascale.models.network import check_rates, normal


@dataclass(frozen=True)
class Transformer(LanguageModel):
    """``n_layers`` blocks of causal self-attention and a feed-forward network, each behind a normalisation.

    Linear maps have no bias. Matrices start normal with deviation 1/sqrt(fan-in), those that write to the residual
    stream divided by sqrt(2·n_layers) (Radford et al. 2019), embeddings with ``embedding_std``.

    Args:
        n_vocab: tokens of the vocabulary.
        d_model: width of the residual stream.
        n_layers, n_heads: depth, and attention heads (a divisor of ``d_model``).
        n_positions: longest sequence.
        positions: ``"rotary"`` (Su et al. 2021; pairs are neighbouring dimensions) or ``"learned"``.
        norm: ``"rms"`` or ``"layer"``.
        feed_forward: ``"swiglu"`` (Shazeer 2020) of 8/3·d hidden units, rounded up to a multiple of 8, or ``"gelu"`` of
            4·d: the same size but for the rounding.
        tied: the readout is the token embedding.
        dropout: rate after the embeddings and on what every sublayer adds; none inside attention.
        attention_scale: factor of the attention logits; ``None`` means 1/sqrt(head dimension).
        output_multiplier: factor of the logits.
    """

    n_vocab: int
    d_model: int = 256
    n_layers: int = 8
    n_heads: int = 4
    n_positions: int = 128
    positions: Literal["rotary", "learned"] = "rotary"
    norm: Norm = "rms"
    feed_forward: Literal["swiglu", "gelu"] = "swiglu"
    tied: bool = True
    dropout: float = 0.0
    embedding_std: float = 0.02
    attention_scale: float | None = None
    output_multiplier: float = 1.0

    def __post_init__(self) -> None:
        if self.d_model % (2 * self.n_heads):
            raise InputError(
                f"d_model of the Transformer must be a multiple of twice n_heads ({2 * self.n_heads}), "
                f"not {self.d_model}"
            )
        check_rates("the Transformer", dropout=self.dropout)

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    @property
    def d_hidden(self) -> int:
        """Units of the feed-forward network."""
        return 4 * self.d_model if self.feed_forward == "gelu" else -(-8 * self.d_model // 24) * 8

    @property
    def embedding_names(self) -> tuple[str, ...]:
        return ("embedding", "positions", "head.weight")

    def init(self, seed: int) -> Params:
        """``embedding`` [V, d], ``layer{i}.attention.in`` [3d, d] (queries, keys, values), ``.attention.out`` [d, d],
        ``.feed_forward.in`` [h or 2h, d], ``.feed_forward.out`` [d, h], norms, ``final`` norm, ``head.weight`` [V, d].
        """
        d, h = self.d_model, self.d_hidden
        wide = 2 * h if self.feed_forward == "swiglu" else h
        params = {"embedding": normal(seed, "embedding", self.n_vocab, d, std=self.embedding_std)}
        if self.positions == "learned":
            params["positions"] = normal(seed, "positions", self.n_positions, d, std=self.embedding_std)
        inward, residual = 1 / math.sqrt(d), 1 / math.sqrt(2 * self.n_layers)
        for layer in range(self.n_layers):
            attention, feed = f"layer{layer}.attention", f"layer{layer}.feed_forward"
            params |= init_norm(self.norm, f"{attention}.norm", d)
            params[f"{attention}.in"] = normal(seed, f"{attention}.in", 3 * d, d, std=inward)
            params[f"{attention}.out"] = normal(seed, f"{attention}.out", d, d, std=inward * residual)
            params |= init_norm(self.norm, f"{feed}.norm", d)
            params[f"{feed}.in"] = normal(seed, f"{feed}.in", wide, d, std=inward)
            params[f"{feed}.out"] = normal(seed, f"{feed}.out", d, h, std=residual / math.sqrt(h))
        params |= init_norm(self.norm, "final", d)
        if not self.tied:
            params["head.weight"] = normal(seed, "head", self.n_vocab, d, std=inward)
        return params

    def readout(self, params: Params) -> tuple[torch.Tensor, None]:
        return params["embedding" if self.tied else "head.weight"], None

    def hidden(
        self, params: Params, input_ids: torch.Tensor, dropout: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[B, N, d] after the final normalisation, times ``output_multiplier``; there is no penalty."""
        if input_ids.shape[1] > self.n_positions:
            raise InputError(f"a sequence of {input_ids.shape[1]} tokens is longer than {self.n_positions} positions")
        stream = F.embedding(input_ids, params["embedding"])
        if self.positions == "learned":
            stream = stream + params["positions"][: input_ids.shape[1]]
        stream = drop(stream, self.dropout, dropout, "embedding")
        for layer in range(self.n_layers):
            stream = self._attend(params, f"layer{layer}.attention", stream, dropout)
            stream = self._feed_forward(params, f"layer{layer}.feed_forward", stream, dropout)
        stream = normalise(self.norm, params, "final", stream)
        return stream if self.output_multiplier == 1.0 else stream * self.output_multiplier, None

    def _attend(self, params: Params, name: str, stream: torch.Tensor, dropout: int | None) -> torch.Tensor:
        n_batch, n, d = stream.shape
        mixed = linear(normalise(self.norm, params, f"{name}.norm", stream), params[f"{name}.in"])
        if self.positions == "rotary":
            turned, value = mixed.view(n_batch, n, 3, self.n_heads, self.head_dim).split((2, 1), dim=2)
            query, key = rotate(turned).unbind(2)
            value = value.squeeze(2)
        else:
            query, key, value = mixed.view(n_batch, n, 3, self.n_heads, self.head_dim).unbind(2)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=self.attention_scale)
        return self._add(stream, attended.transpose(1, 2).reshape(n_batch, n, d), params, name, dropout)

    def _feed_forward(self, params: Params, name: str, stream: torch.Tensor, dropout: int | None) -> torch.Tensor:
        inner = linear(normalise(self.norm, params, f"{name}.norm", stream), params[f"{name}.in"])
        if self.feed_forward == "gelu":
            return self._add(stream, F.gelu(inner), params, name, dropout)
        gate, value = inner.chunk(2, dim=-1)
        return self._add(stream, F.silu(gate) * value, params, name, dropout)

    def _add(
        self, stream: torch.Tensor, inner: torch.Tensor, params: Params, name: str, dropout: int | None
    ) -> torch.Tensor:
        """The residual stream with the sublayer's output added; in one product where nothing is dropped."""
        weight = params[f"{name}.out"]
        if dropout is not None and self.dropout:
            return stream + drop(linear(inner, weight), self.dropout, dropout, name)
        return linear_added(stream, inner, weight)

    def flops(self, n_sequence: int) -> dict[str, float]:
        """Floating-point operations of the forward pass on one sequence, by component; a multiply-add is two.

        Attention counts the lower triangle with its diagonal, n(n+1)/2 pairs, which is what is needed; element-wise
        work and normalisations are left out.
        """
        n, d = n_sequence, self.d_model
        up = 2 if self.feed_forward == "swiglu" else 1
        return {
            "attention_projections": float(self.n_layers * n * 2 * 4 * d * d),
            "attention_pairs": float(self.n_layers * n * (n + 1) // 2 * 2 * 2 * d),
            "feed_forward": float(self.n_layers * n * 2 * (up + 1) * d * self.d_hidden),
            "readout": float(n * 2 * d * self.n_vocab),
        }


def rotate(values: torch.Tensor) -> torch.Tensor:
    """[B, N, ..., d] with each pair of neighbouring dimensions (2j, 2j+1) turned by position · 10000^(−2j/d)."""
    n, d = values.shape[1], values.shape[-1]
    turn = _turns(n, d, values.device)
    if values.dtype == torch.float64:
        turn = turn.to(torch.complex128)
    pairs = torch.view_as_complex(
        values.to(torch.promote_types(values.dtype, torch.float32)).unflatten(-1, (d // 2, 2))
    )
    turned = pairs * turn.view(n, *[1] * (pairs.ndim - 3), d // 2)
    return torch.view_as_real(turned).flatten(-2).to(values.dtype)


@lru_cache(maxsize=16)
def _turns(n: int, d: int, device: torch.device) -> torch.Tensor:
    """[n, d/2] the unit complex numbers of every position and pair."""
    with torch.inference_mode(False):  # cached for training too
        rates = 10000.0 ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
        angles = torch.outer(torch.arange(n, dtype=torch.float64), rates)
        return torch.polar(torch.ones_like(angles), angles).to(device=device, dtype=torch.complex64)
