"""AdamW for large models: one fused pass over the weights, in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.optim.adamw import adamw

from metascale.core.trees import tree_map
from metascale.core.types import Params
from metascale.training.optimizers import OptimizerState


@dataclass(frozen=True)
class InPlaceAdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), in torch's fused kernel.

    An `Optimizer` whose ``update`` overwrites parameters and state and returns the same objects: half the memory and a
    fraction of the passes of `Adam`, no derivatives through the update. Parameters with fewer than two dimensions
    (gains, biases) are not decayed.

    Args:
        lr: learning rate; ``rates`` of ``update`` multiplies it.
        weight_decay: per unit of the learning rate before ``rates`` of single tensors: a tensor's decay follows the
            schedule but not its own multiplier, so that under μP it does not depend on the width.
    """

    overwrites: ClassVar[bool] = True

    lr: float
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0

    def init(self, params: Params) -> OptimizerState:
        return {
            "m": tree_map(lambda value: torch.zeros_like(value, requires_grad=False), params),
            "v": tree_map(lambda value: torch.zeros_like(value, requires_grad=False), params),
            "count": {"count": torch.zeros((), dtype=torch.float32)},
        }

    @torch.no_grad()
    def update(
        self, params: Params, grads: Params, state: OptimizerState, rates: float | Params = 1.0
    ) -> tuple[Params, OptimizerState]:
        groups: dict[tuple[float, bool], list[str]] = {}
        for name, value in params.items():
            rate = float(rates[name]) if isinstance(rates, dict) else rates
            groups.setdefault((rate, value.ndim >= 2), []).append(name)
        # Vectors have no multiplier of their own; where there are none, the largest rate has the smallest.
        base = next((rate for rate, decayed in groups if not decayed), max((rate for rate, _ in groups), default=1.0))
        for (rate, decayed), names in groups.items():
            steps = [state["count"]["count"].to(params[names[0]].device, copy=True) for _ in names]
            adamw(
                [params[name] for name in names],
                [grads[name] for name in names],
                [state["m"][name] for name in names],
                [state["v"][name] for name in names],
                [],
                steps,
                fused=True,
                amsgrad=False,
                beta1=self.beta1,
                beta2=self.beta2,
                lr=self.lr * rate,
                weight_decay=self.weight_decay * base / rate if decayed and rate else 0.0,
                eps=self.eps,
                maximize=False,
            )
        state["count"]["count"] += 1
        return params, state
