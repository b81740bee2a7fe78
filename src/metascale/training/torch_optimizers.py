"""A torch.optim optimiser as one of ours, with the same update and its state so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from metascale.core.errors import InputError
from metascale.training.optimizers import SGD, Adagrad, Adam, Muon, Optimizer, OptimizerState, RMSprop

Group = Mapping[str, Any]
_RUNNING_ONLY = ("params", "foreach", "fused", "capturable", "differentiable", "param_names")


def from_torch(optimizer: torch.optim.Optimizer, module: nn.Module) -> tuple[Optimizer, OptimizerState]:
    """Our form of SGD, Adam, AdamW, RMSprop, Adagrad or Muon, and its state by the module's parameter names.

    Raises:
        InputError: another optimiser, an option without a counterpart, groups that differ, or parameters that are not
            the module's.
    """
    name = type(optimizer).__name__
    if name not in _CONVERSIONS:
        raise InputError(f"torch.optim.{name} has no counterpart here; allowed are {', '.join(_CONVERSIONS)}")
    groups = [{k: v for k, v in group.items() if k not in _RUNNING_ONLY} for group in optimizer.param_groups]
    if any(group != groups[0] for group in groups):
        raise InputError(f"the parameter groups of torch.optim.{name} differ; give every group the same options")
    params = {n: p for n, p in module.named_parameters() if p.requires_grad}
    held = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    if held != {id(p) for p in params.values()}:
        raise InputError(f"torch.optim.{name} must hold exactly the module's parameters that require gradients")
    ours, slots = _CONVERSIONS[name](groups[0])
    detached = {n: p.detach() for n, p in params.items()}
    state = ours.init(detached)
    seen = {n: optimizer.state[p] for n, p in params.items() if optimizer.state.get(p)}
    for slot, theirs in slots.items():
        if slot in state and slot != "count":
            state[slot] |= {n: s[theirs].detach().clone() for n, s in seen.items() if s.get(theirs) is not None}
    counts = {float(s["step"]) for s in seen.values() if "step" in s}
    if len(counts) > 1:
        raise InputError(f"the parameters of torch.optim.{name} have taken different numbers of steps")
    if counts and "count" in state:
        state["count"] = {"count": torch.tensor(counts.pop(), dtype=torch.float64)}
    return ours, state


def _refuse(name: str, group: Group, **allowed: Any) -> None:
    for option, value in allowed.items():
        if group.get(option, value) != value:
            raise InputError(
                f"torch.optim.{name} with {option}={group[option]} has no counterpart; use {option}={value}"
            )


def _number(value: Any) -> float:
    return float(value)


def _sgd(group: Group) -> tuple[Optimizer, dict[str, str]]:
    _refuse("SGD", group, dampening=0, maximize=False)
    if group["momentum"]:
        _refuse("SGD with momentum", group, weight_decay=0)
    lr, momentum, decay = _number(group["lr"]), _number(group["momentum"]), _number(group["weight_decay"])
    return SGD(lr, momentum, bool(group["nesterov"]), decay), {"velocity": "momentum_buffer"}


def _adam(decoupled: bool) -> Callable[[Group], tuple[Optimizer, dict[str, str]]]:
    def convert(group: Group) -> tuple[Optimizer, dict[str, str]]:
        name = "AdamW" if decoupled else "Adam"
        _refuse(name, group, amsgrad=False, maximize=False)
        if not (decoupled or group.get("decoupled_weight_decay")):
            _refuse(name, group, weight_decay=0)
        beta1, beta2 = map(_number, group["betas"])
        ours = Adam(_number(group["lr"]), beta1, beta2, _number(group["eps"]), _number(group["weight_decay"]))
        return ours, {"m": "exp_avg", "v": "exp_avg_sq"}

    return convert


def _rmsprop(group: Group) -> tuple[Optimizer, dict[str, str]]:
    _refuse("RMSprop", group, centered=False, weight_decay=0, maximize=False)
    ours = RMSprop(*(_number(group[option]) for option in ("lr", "alpha", "eps", "momentum")))
    return ours, {"v": "square_avg", "velocity": "momentum_buffer"}


def _adagrad(group: Group) -> tuple[Optimizer, dict[str, str]]:
    _refuse("Adagrad", group, weight_decay=0, maximize=False)
    ours = Adagrad(*(_number(group[option]) for option in ("lr", "lr_decay", "eps", "initial_accumulator_value")))
    return ours, {"v": "sum"}


def _muon(group: Group) -> tuple[Optimizer, dict[str, str]]:
    _refuse("Muon", group, ns_coefficients=(3.4445, -4.775, 2.0315))
    ours = Muon(
        _number(group["lr"]),
        _number(group["momentum"]),
        bool(group["nesterov"]),
        _number(group["weight_decay"]),
        int(group["ns_steps"]),
        group.get("adjust_lr_fn") or "original",
    )
    return ours, {"velocity": "momentum_buffer"}


_CONVERSIONS: dict[str, Callable[[Group], tuple[Optimizer, dict[str, str]]]] = {
    "SGD": _sgd,
    "Adam": _adam(False),
    "AdamW": _adam(True),
    "RMSprop": _rmsprop,
    "Adagrad": _adagrad,
    "Muon": _muon,
}
