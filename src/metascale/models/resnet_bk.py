"""ResNet-BK: residual blocks that mix positions through the resolvent of a tridiagonal Hamiltonian, in O(N).

A block computes f = mixture of experts of the normalised stream, a potential v = clip(w·f + b, ±3) at every position,
and from the Hamiltonian H = tridiag(1, −2 + v, 1) and the energy z = i one complex number a position; its real and
imaginary part, mapped to the width and scaled by a learnt number, join f in the residual sum.

The published layer takes the diagonal of the whole resolvent (H − z)⁻¹. Every entry depends on every position, so as a
language model it reads the tokens it is to predict. ``causal=True`` takes instead, at position i, the last diagonal
entry of the resolvent of the leading i×i block; ``causal=False`` is the published layer, an encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from metascale.core.dropout import drop
from metascale.core.errors import InputError
from metascale.core.types import Params
from metascale.models.kernels.linear import linear
from metascale.models.kernels.mixture import Gate, init_mixture, mixture, mixture_flops
from metascale.models.kernels.tridiagonal import GradientForm, leading_resolvent, resolvent_diagonal, scan_flops
from metascale.models.language import LanguageModel, init_norm, normalise
from metascale.models.network import check_rates, normal

N_EXPERTS = 4
POTENTIAL_BOUND = 3.0


@dataclass(frozen=True)
class DecodingState:
    """All that a causal ResNet-BK keeps of the tokens read so far: one number a layer and channel, at any length.

    Args:
        position: tokens read.
        resolvents: [L, B, H·M] complex, every layer's last m.
    """

    position: int
    resolvents: torch.Tensor


@dataclass(frozen=True)
class ResNetBK(LanguageModel):
    """``n_layers`` blocks of layer normalisation, a top-1 mixture of 4 experts (d → 2d → d) and the resolvent.

    With one head and one energy the parameters number 2Vd + V + N·d + L(16d² + 22d + 6) + 2d.

    Args:
        n_vocab: tokens of the vocabulary.
        d_model, n_layers: width and depth.
        n_positions: longest sequence (position embeddings are learnt).
        causal: a language model (``True``), or an encoder that sees both sides.
        n_classes: ``None``: logits over the vocabulary at every position. A number: logits [B, classes] of the whole
            sequence, from the mean of its final hidden states; targets are [B].
        n_heads: potentials a layer.
        energies: (real, imaginary) part of each energy, the imaginary part above 0; features are 2·heads·energies.
        gate, gradient: ``"published"`` are the published faults (a gate that is always 1; a gradient that keeps the
            same position alone, one sign wrong), kept for comparison.
        balance: weight of the load-balancing loss, averaged over layers.
        dropout: rate after the embeddings and on what every block adds.
        output_multiplier: factor of the hidden states that the readout reads.
    """

    n_vocab: int
    d_model: int = 64
    n_layers: int = 4
    n_positions: int = 128
    causal: bool = True
    n_classes: int | None = None
    n_heads: int = 1
    energies: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    gate: Gate = "probability"
    gradient: GradientForm = "exact"
    balance: float = 0.01
    dropout: float = 0.0
    embedding_std: float = 0.02
    output_multiplier: float = 1.0

    def __post_init__(self) -> None:
        for energy in self.energies:
            if energy[1] <= 0:
                raise InputError(f"the imaginary part of an energy of ResNet-BK must be above 0, not {energy[1]}")
        if not self.energies:
            raise InputError("ResNet-BK needs at least one energy")
        check_rates("ResNet-BK", dropout=self.dropout)

    @property
    def n_channels(self) -> int:
        """Complex numbers a position and layer."""
        return self.n_heads * len(self.energies)

    @property
    def n_outputs(self) -> int:
        return self.n_vocab if self.n_classes is None else self.n_classes

    @property
    def embedding_names(self) -> tuple[str, ...]:
        return ("embedding", "positions", "head.weight", "head.bias")

    @property
    def readouts(self) -> tuple[str, ...]:
        return ("head.weight", ".router", ".potential")

    def init(self, seed: int) -> Params:
        """``embedding`` [V, d], ``positions`` [N, d], ``layer{i}``, ``final`` norm, ``head.weight`` and ``.bias``."""
        d, residual = self.d_model, 1 / math.sqrt(2 * self.n_layers)
        params = {
            "embedding": normal(seed, "embedding", self.n_vocab, d, std=self.embedding_std),
            "positions": normal(seed, "positions", self.n_positions, d, std=self.embedding_std),
        }
        for layer in range(self.n_layers):
            name = f"layer{layer}"
            params |= init_norm("layer", f"{name}.norm", d)
            params |= init_mixture(seed, f"{name}.mixture", N_EXPERTS, d, 2 * d, residual)
            params[f"{name}.potential"] = normal(seed, f"{name}.potential", self.n_heads, d, std=1 / math.sqrt(d))
            params[f"{name}.potential_bias"] = torch.zeros(self.n_heads)
            features = 2 * self.n_channels
            params[f"{name}.out"] = normal(seed, f"{name}.out", d, features, std=residual / math.sqrt(features))
            params[f"{name}.out_bias"] = torch.zeros(d)
            params[f"{name}.scale"] = torch.ones(1)
        params |= init_norm("layer", "final", d)
        params["head.weight"] = normal(seed, "head", self.n_outputs, d, std=1 / math.sqrt(d))
        params["head.bias"] = torch.zeros(self.n_outputs)
        return params

    def readout(self, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
        return params["head.weight"], params["head.bias"]

    def hidden(
        self, params: Params, input_ids: torch.Tensor, dropout: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[B, N, d] (their mean [B, d] for whole sequences) after the final norm, and the load-balancing penalty."""
        n = input_ids.shape[1]
        if n > self.n_positions:
            raise InputError(f"a sequence of {n} tokens is longer than {self.n_positions} positions")
        stream = F.embedding(input_ids, params["embedding"]) + params["positions"][:n]
        stream = drop(stream, self.dropout, dropout, "embedding")
        penalties = []
        for layer in range(self.n_layers):
            name = f"layer{layer}"
            output, penalty = self._experts(params, name, stream)
            resolvents = self._resolvents(self._sites(params, name, output))
            added = output + self._spread(params, name, resolvents)
            stream = stream + drop(added, self.dropout, dropout, name)
            penalties.append(penalty)
        stream = normalise("layer", params, "final", stream)
        if self.n_classes is not None:
            stream = stream.mean(1)
        if self.output_multiplier != 1.0:
            stream = stream * self.output_multiplier
        return stream, self.balance * torch.stack(penalties).mean() if self.balance else None

    def _experts(self, params: Params, name: str, stream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = normalise("layer", params, f"{name}.norm", stream).reshape(-1, self.d_model)
        output, penalty = mixture(params, f"{name}.mixture", tokens, self.gate)
        return output.view(stream.shape), penalty

    def _sites(self, params: Params, name: str, output: torch.Tensor) -> torch.Tensor:
        """w = −2 + v − z, [B, H·M, N] complex, of the experts' output [B, N, d]; in single precision at least."""
        potential = linear(output, params[f"{name}.potential"], params[f"{name}.potential_bias"])
        potential = potential.to(torch.promote_types(potential.dtype, torch.float32))
        potential = potential.clamp(-POTENTIAL_BOUND, POTENTIAL_BOUND).transpose(1, 2).unsqueeze(2)
        real, imaginary = potential.new_tensor(self.energies).t().reshape(2, 1, 1, -1, 1)
        return torch.complex(*torch.broadcast_tensors(potential - 2 - real, -imaginary)).flatten(1, 2)

    def _resolvents(self, sites: torch.Tensor) -> torch.Tensor:
        diagonal = leading_resolvent if self.causal else resolvent_diagonal
        return diagonal(sites, gradient=self.gradient)

    def _spread(self, params: Params, name: str, resolvents: torch.Tensor) -> torch.Tensor:
        """[B, N, d] of resolvents [B, H·M, N]: their parts as features, mapped to the width and scaled."""
        weight = params[f"{name}.out"]
        features = torch.view_as_real(resolvents.transpose(1, 2)).flatten(2).to(weight.dtype)
        return linear(features, weight, params[f"{name}.out_bias"]) * params[f"{name}.scale"]

    def begin_decoding(self, n_batch: int, params: Params) -> DecodingState:
        """The state before the first of ``n_batch`` sequences' tokens."""
        if not self.causal or self.n_classes is not None:
            raise InputError("only a causal ResNet-BK with logits over the vocabulary can decode token by token")
        embedding = params["embedding"]
        shape = (self.n_layers, n_batch, self.n_channels)
        dtype = torch.promote_types(embedding.dtype, torch.complex64)
        return DecodingState(0, torch.zeros(shape, dtype=dtype, device=embedding.device))

    def decode(
        self, params: Params, input_ids: torch.Tensor, state: DecodingState
    ) -> tuple[torch.Tensor, DecodingState]:
        """Logits [B, V] after one more token [B] of every sequence, and the new state; O(1) in the tokens read."""
        if state.position >= self.n_positions:
            raise InputError(f"all {self.n_positions} positions are used up")
        stream = (F.embedding(input_ids, params["embedding"]) + params["positions"][state.position]).unsqueeze(1)
        resolvents = []
        for layer in range(self.n_layers):
            name = f"layer{layer}"
            output, _ = self._experts(params, name, stream)
            last = 1 / (self._sites(params, name, output) - state.resolvents[layer].unsqueeze(2))
            stream = stream + output + self._spread(params, name, last)
            resolvents.append(last.squeeze(2))
        stream = normalise("layer", params, "final", stream).squeeze(1) * self.output_multiplier
        return linear(stream, *self.readout(params)), DecodingState(state.position + 1, torch.stack(resolvents))

    def flops(self, n_sequence: int) -> dict[str, float]:
        """Floating-point operations of the forward pass on one sequence, by component; a multiply-add is two.

        Each token passes one expert of four. Element-wise work is left out, but for the resolvent, which is nothing
        else: see `scan_flops`.
        """
        n, d = n_sequence, self.d_model
        experts = mixture_flops(n, N_EXPERTS, d, 2 * d)
        rows = 1 if self.n_classes is not None else n
        return {
            **{name: self.n_layers * value for name, value in experts.items()},
            "potential_and_features": float(self.n_layers * n * 2 * (self.n_heads + 2 * self.n_channels) * d),
            "resolvent": float(self.n_layers * self.n_channels * scan_flops(n, causal=self.causal)),
            "readout": float(rows * 2 * d * self.n_outputs),
        }
