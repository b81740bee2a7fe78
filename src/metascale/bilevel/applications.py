"""Upper models of common bilevel problems, each a small torch module.

Their inputs from the lower model (losses, predictions) are data to them, so they are held (`levels.hold`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from metascale.bilevel.levels import hold
from metascale.core.errors import InputError
from metascale.core.streams import torch_generator


def _network(n_in: int, hidden: int, n_out: int, seed: int, purpose: str, bias: float = 0.0) -> nn.Sequential:
    """One hidden ReLU layer, drawn from a generator of its own; the output starts near ``bias``."""
    network = nn.Sequential(nn.Linear(n_in, hidden), nn.ReLU(), nn.Linear(hidden, n_out))
    with torch.no_grad():
        for index in (0, 2):
            layer = network[index]
            assert isinstance(layer, nn.Linear)
            draw = torch.rand(layer.weight.shape, generator=torch_generator(seed, purpose, index))
            layer.weight.copy_((2 * draw - 1) / layer.in_features**0.5)
            layer.bias.fill_(bias if index else 0.0)
    return network


class WeightNet(nn.Module):
    """Per-example weights in (0, 1) from per-example losses: Meta-Weight-Net (Shu et al. 2019, arXiv 1902.07379).

    Called with losses [B]; returns the reweighted loss, the mean of weight · loss.
    """

    def __init__(self, hidden: int = 100, seed: int = 0) -> None:
        super().__init__()
        self.network = _network(1, hidden, 1, seed, "weight-net")

    def weights(self, losses: torch.Tensor) -> torch.Tensor:
        """[B] weights of examples with these losses."""
        return torch.sigmoid(self.network(_column(losses)).squeeze(-1))

    def forward(self, losses: torch.Tensor) -> torch.Tensor:
        return (self.weights(losses) * losses).mean()


class LabelCorrector(nn.Module):
    """Soft labels from noisy labels [B] and the lower model's logits [B, C].

    A gate in (0, 1), starting near 0.1, mixes the given label with a proposed distribution over the classes; both come
    from a small network that sees the given label and the predicted probabilities.

    Called with logits and labels; returns soft labels [B, C] for `torch.nn.functional.cross_entropy`.
    """

    def __init__(self, n_classes: int, hidden: int = 100, seed: int = 0, initial_gate: float = 0.1) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.network = _network(2 * n_classes, hidden, n_classes + 1, seed, "label-corrector")
        self.gate = nn.Parameter(torch.logit(torch.tensor(float(initial_gate))))

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        shape = (len(labels), self.n_classes)
        if logits.shape != shape:
            raise InputError(f"logits must be {list(shape)} beside {len(labels)} labels, not {list(logits.shape)}")
        given = F.one_hot(labels, self.n_classes).to(logits.dtype)
        output: torch.Tensor = self.network(torch.cat([given, hold(logits).softmax(-1)], -1).to(self.gate.dtype))
        gate = torch.sigmoid(self.gate + output[:, :1])
        return (1 - gate) * given + gate * output[:, 1:].softmax(-1)


class TaskWeights(nn.Module):
    """Positive weights of auxiliary losses, the softplus of one number each, all starting at ``initial``.

    Called with the auxiliary losses (scalars); returns their weighted sum.
    """

    def __init__(self, n_tasks: int, initial: float = 1.0) -> None:
        super().__init__()
        if n_tasks < 1 or initial <= 0:
            raise InputError(f"TaskWeights needs at least one task and a positive start, not {n_tasks} and {initial}")
        self.raw = nn.Parameter(torch.full((n_tasks,), float(torch.tensor(initial).expm1().log())))

    def weights(self) -> torch.Tensor:
        return F.softplus(self.raw)

    def forward(self, *losses: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
        flat = [loss for item in losses for loss in ([item] if isinstance(item, torch.Tensor) else item)]
        if len(flat) != len(self.raw):
            raise InputError(f"there are {len(self.raw)} task weights but {len(flat)} losses")
        return (self.weights() * torch.stack(flat)).sum()


class DataScorer(nn.Module):
    """Per-example scores in (0, 1) from loss and uncertainty, [B] each: which examples are worth keeping.

    Called with losses and uncertainties; returns the mean of score · loss. ``scores`` ranks examples for pruning.
    """

    def __init__(self, hidden: int = 100, seed: int = 0) -> None:
        super().__init__()
        self.network = _network(2, hidden, 1, seed, "data-scorer")

    def scores(self, losses: torch.Tensor, uncertainty: torch.Tensor) -> torch.Tensor:
        """[B] scores."""
        if losses.shape != uncertainty.shape:
            raise InputError(f"{tuple(losses.shape)} losses but {tuple(uncertainty.shape)} uncertainties")
        return torch.sigmoid(self.network(torch.cat([_column(losses), _column(uncertainty)], -1)).squeeze(-1))

    def forward(self, losses: torch.Tensor, uncertainty: torch.Tensor) -> torch.Tensor:
        return (self.scores(losses, uncertainty) * losses).mean()


def _column(values: torch.Tensor) -> torch.Tensor:
    if values.ndim != 1:
        raise InputError(f"per-example values must be [B], not {tuple(values.shape)}: use reduction='none'")
    return hold(values).unsqueeze(-1)
