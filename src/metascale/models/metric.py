"""Metric learners: a classifier that the support set determines by itself, on the features of any model.

The class weights are a function of the parameters and the support set, so the meta-gradient is the plain gradient of
the query loss: `FOMAML` without inner steps takes it exactly. With inner steps the same classifier adapts further.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F

from metascale.core.errors import InputError
from metascale.core.types import Batch, Model, Params, TaskExecution
from metascale.models.network import cross_entropy_per_task, prototype_head
from metascale.models.svm import SupportVectors

WEIGHT, BIAS = "metric.weight", "metric.bias"
OF_A_HEAD = ("head.", "shared.")
OF_THE_METRIC = "metric."


class Metric(Protocol):
    """The class weights that a support set determines."""

    def init(self) -> Params:
        """Meta-parameters of the metric itself."""
        ...

    def solve(
        self, params: Params, features: torch.Tensor, targets: torch.Tensor, n_classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [T, d, C] and bias [T, C] from support features [T, B, d] and their classes [T, B]."""
        ...


@dataclass(frozen=True)
class Prototypes:
    """Nearest class mean: logits −‖f − p_c‖² (prototypical networks, Snell et al. 2017, arXiv 1703.05175, eq. 2)."""

    def init(self) -> Params:
        return {}

    def solve(
        self, params: Params, features: torch.Tensor, targets: torch.Tensor, n_classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return prototype_head(features, targets, n_classes)


@dataclass(frozen=True)
class Ridge:
    """Ridge regression on one-hot labels, W = Xᵀ(XXᵀ + λI)⁻¹Y, logits α f W, with λ and α meta-learnt as logarithms
    (R2-D2, Bertinetto et al. 2019, arXiv 1805.08136, eq. 6, and in all but the learnt λ MetaOptNet-RR, Lee et al.
    2019). MetaOptNet's other head is `models.svm.SupportVectors`.

    Args:
        ridge: λ at the start.
        scale: α at the start.
    """

    ridge: float = 1.0
    scale: float = 10.0

    def __post_init__(self) -> None:
        for name in ("ridge", "scale"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} of the ridge head must be positive, not {getattr(self, name)}", field=name)

    def init(self) -> Params:
        return {
            "metric.log_ridge": torch.tensor([math.log(self.ridge)]),
            "metric.log_scale": torch.tensor([math.log(self.scale)]),
        }

    def solve(
        self, params: Params, features: torch.Tensor, targets: torch.Tensor, n_classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        wanted = F.one_hot(targets, n_classes).to(features.dtype)
        ridge, scale = (params[f"metric.log_{name}"].exp().unsqueeze(-1) for name in ("ridge", "scale"))
        eye = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
        gram = features @ features.transpose(1, 2) + ridge * eye
        weight = features.transpose(1, 2) @ torch.linalg.solve(gram, wanted)
        return scale * weight, features.new_zeros(features.shape[0], n_classes)


@dataclass(frozen=True)
class MetricClassifier:
    """A `Model` whose classes are told apart by ``metric`` on the features of ``model``.

    The model's own head is left out: parameters whose names start with ``head.`` or ``shared.``.

    Args:
        model: any model with ``features``, those of a head aside.
        n_classes: classes of a task; ``None``: as many as its support set names, so that training tasks may have more
            than those of a test.
        metric: how the support set determines the class weights.
        scale: a factor of the logits. It moves no accuracy, only how sure the classifier is.
    """

    model: Model
    n_classes: int | None
    metric: Metric
    scale: float = 1.0

    @property
    def batch_statistics(self) -> bool:
        return bool(getattr(self.model, "batch_statistics", False))

    @property
    def task_execution(self) -> TaskExecution:
        return self.model.task_execution

    def at_step(self, step: int) -> MetricClassifier:
        """With the model as an inner step sees it (`Module.at_step`)."""
        moves = getattr(self.model, "at_step", None)
        return self if moves is None else replace(self, model=moves(step))

    def require_second_order(self) -> None:
        self.model.require_second_order()

    def init(self, seed: int) -> Params:
        own = self.model.init(seed)
        kept = {name: value for name, value in own.items() if not name.startswith(OF_A_HEAD)}
        like = next(iter(kept.values()))
        return {**kept, **{name: value.to(like.device) for name, value in self.metric.init().items()}}

    def begin(self, params: Params, support: Batch) -> Params:
        """``params`` with the weights that the support set determines.

        Raises:
            InputError: `Prototypes`, and a class has no example in a support set.
        """
        n_classes = int(support.targets.max()) + 1 if self.n_classes is None else self.n_classes
        weight, bias = self.metric.solve(params, self.features(params, support), support.targets, n_classes)
        return {**params, WEIGHT: weight, BIAS: bias}

    def features(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T, B, d] features of the model; with dropout where its ``features`` take it."""
        params = {name: value for name, value in params.items() if not name.startswith(OF_THE_METRIC)}
        if dropout is None or "dropout" not in inspect.signature(self.model.features).parameters:
            return self.model.features(params, batch)
        return cast("torch.Tensor", cast(Any, self.model).features(params, batch, dropout))

    def predict(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T, B, C] logits with the class weights of ``begin``."""
        features = self.features(params, batch, dropout)
        logits = torch.baddbmm(params[BIAS].unsqueeze(1), features, params[WEIGHT].to(features.dtype))
        return logits if self.scale == 1 else self.scale * logits

    def output_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        """[T] mean cross-entropy in nats of logits [T, B, C]."""
        return cross_entropy_per_task(outputs, batch.targets)

    def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        """[T] mean cross-entropy in nats."""
        return self.output_losses(self.predict(params, batch, dropout), batch)


METRICS: Mapping[str, Callable[[], Metric]] = {"protonet": Prototypes, "r2d2": Ridge, "metaoptnet": SupportVectors}
"""Metrics by the names of the methods that train them."""
