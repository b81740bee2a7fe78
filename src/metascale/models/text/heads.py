"""Classification heads with a task axis, and how one vector a text is read from the hidden states."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F

from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.types import Params

WEIGHT = "head.weight"
BIAS = "head.bias"


class Head(Protocol):
    """Where the linear classifier of an episode starts from. Adaptation trains it together with the adapters."""

    def init(self, n_classes: int, n_features: int, seed: int) -> Params:
        """The head's meta-parameters; empty when every task makes its head afresh."""
        ...

    def begin(self, zeros: Params, features: Callable[[], torch.Tensor], targets: torch.Tensor) -> Params:
        """The tensors to add for T tasks, given zeros of their shapes (weight [T, C, d], bias [T, C]).

        ``features()`` computes the support set's features [T, B, d]; ``targets`` [T, B] are its classes.
        """
        ...

    def scaled(self, features: torch.Tensor) -> torch.Tensor:
        """The features as the linear map sees them."""
        ...


def head_logits(head: Head, params: Params, features: torch.Tensor) -> torch.Tensor:
    """[T, B, C] from features [T, B, d], ``head.weight`` [T, C, d] and ``head.bias`` [T, C] where the head has one."""
    weight, bias = params[WEIGHT], params.get(BIAS)
    seen = head.scaled(features.to(weight.dtype))
    if bias is None:
        return torch.bmm(seen, weight.transpose(1, 2))
    return torch.baddbmm(bias.unsqueeze(1), seen, weight.transpose(1, 2))


@dataclass(frozen=True, slots=True)
class _Rescaling:
    """
    Args:
        feature_norm: length to which features are rescaled, so that one inner rate suits backbones of any width;
            ``None`` takes them as they are.
    """

    feature_norm: float | None = 10.0

    def scaled(self, features: torch.Tensor) -> torch.Tensor:
        return features if self.feature_norm is None else self.feature_norm * F.normalize(features, dim=-1)


@dataclass(frozen=True, slots=True)
class ZeroHead(_Rescaling):
    """A fresh head of zeros for every task: before adaptation every class is equally likely.

    Args:
        feature_norm: length to which features are rescaled; ``None`` takes them as they are.
    """

    def init(self, n_classes: int, n_features: int, seed: int) -> Params:
        return {}

    def begin(self, zeros: Params, features: Callable[[], torch.Tensor], targets: torch.Tensor) -> Params:
        return zeros


@dataclass(frozen=True, slots=True)
class LearnedHead(_Rescaling):
    """One head for all tasks, a meta-parameter: it can only hold what is common to permuted labels.

    Args:
        feature_norm: length to which features are rescaled; ``None`` takes them as they are.
    """

    def init(self, n_classes: int, n_features: int, seed: int) -> Params:
        """Weights uniform in ±1/sqrt(d), the bias zero."""
        bound = 1.0 / math.sqrt(n_features)
        weight = torch.empty(n_classes, n_features)
        weight.uniform_(-bound, bound, generator=torch_generator(seed, "init", WEIGHT))
        return {WEIGHT: weight, BIAS: torch.zeros(n_classes)}

    def begin(self, zeros: Params, features: Callable[[], torch.Tensor], targets: torch.Tensor) -> Params:
        return {}


@dataclass(frozen=True, slots=True)
class ScoreHead:
    """One head for all tasks without a bias, on features as they are: the ``score`` layer of transformers' classifiers.

    A model that reads the last token with it can be written as peft's SEQ_CLS (`save_peft`).
    """

    def init(self, n_classes: int, n_features: int, seed: int) -> Params:
        """Weights uniform in ±1/sqrt(d)."""
        return {WEIGHT: LearnedHead().init(n_classes, n_features, seed)[WEIGHT]}

    def begin(self, zeros: Params, features: Callable[[], torch.Tensor], targets: torch.Tensor) -> Params:
        return {}

    def scaled(self, features: torch.Tensor) -> torch.Tensor:
        return features


@dataclass(frozen=True, slots=True)
class PrototypeHead:
    """A head made from the support set's class means, as Proto-MAML (Triantafillou et al. 2020, arXiv 1903.03096, 2.3).

    Features are L2-normalised. With p_c the mean of class c, w_c = 2 s p_c and b_c = −s ‖p_c‖², so that the logits are
    −s ‖f − p_c‖² up to a number that all classes share.

    Args:
        scale: s, the inverse temperature.
        differentiable: let the meta-gradient run through the prototypes to the adapters they were computed with. Off,
            the prototypes are constants and cost no backward pass.
    """

    scale: float = 10.0
    differentiable: bool = False

    def init(self, n_classes: int, n_features: int, seed: int) -> Params:
        return {}

    def begin(self, zeros: Params, features: Callable[[], torch.Tensor], targets: torch.Tensor) -> Params:
        """
        Raises:
            InputError: a class has no example in a support set.
        """
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            support = self.scaled(features().to(zeros[WEIGHT].dtype))
            members = F.one_hot(targets, zeros[WEIGHT].shape[1]).to(support.dtype)  # [T, B, C]
            counts = members.sum(1)
            if bool((counts == 0).any()):
                task, label = (int(index) for index in (counts == 0).nonzero()[0])
                raise InputError(
                    f"the support set of task {task} has no example of class {label}; "
                    "a prototype head needs at least one of every class"
                )
            prototypes = torch.bmm(members.transpose(1, 2), support) / counts.unsqueeze(-1)
            return {WEIGHT: 2 * self.scale * prototypes, BIAS: -self.scale * prototypes.square().sum(-1)}

    def scaled(self, features: torch.Tensor) -> torch.Tensor:
        return F.normalize(features, dim=-1)


HEADS: dict[str, Callable[..., Head]] = {
    "zero": ZeroHead,
    "prototype": PrototypeHead,
    "learned": LearnedHead,
    "score": ScoreHead,
}


def named_head(name: str, **fields: float | None) -> Head:
    """The head called ``name`` with these fields."""
    if name not in HEADS:
        message = f"there is no head '{name}'; allowed are {', '.join(map(repr, HEADS))}"
        raise InputError(message, field="head", value=name)
    return HEADS[name](**fields)


def pool_last(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[N, d] the hidden state of each text's last token: the one that has seen the whole text in a causal model."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * positions).argmax(1)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]


def pool_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[N, d] the mean over each text's tokens, at least in float32."""
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    weights = mask.to(hidden.dtype)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
    return torch.bmm(weights.unsqueeze(1), hidden).squeeze(1)


def pool_first(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[N, d] the hidden state of the first token, which is [CLS] in BERT and DistilBERT."""
    return hidden[:, 0]


Pooling: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""[N, d] from hidden states [N, S, d] and the attention mask [N, S]."""
POOLINGS: dict[str, Pooling] = {"last": pool_last, "mean": pool_mean, "first": pool_first}


def named_pooling(name: str) -> Pooling:
    """The pooling called ``name``."""
    if name not in POOLINGS:
        message = f"there is no pooling '{name}'; allowed are {', '.join(map(repr, POOLINGS))}"
        raise InputError(message, field="pooling", value=name)
    return POOLINGS[name]
