"""Learning-rate schedules: a factor for every step, a pure function of its number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from metascale.core.errors import InputError


class RateSchedule(Protocol):
    """The factor of the learning rate at step k (from 0)."""

    def __call__(self, step: int) -> float: ...


def _warm(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


@dataclass(frozen=True)
class Constant:
    """1 after a linear warm-up over ``warmup`` steps."""

    warmup: int = 0

    def __post_init__(self) -> None:
        _check(self.warmup, None)

    def __call__(self, step: int) -> float:
        return _warm(step, self.warmup)


@dataclass(frozen=True)
class Cosine:
    """A linear warm-up, then half a cosine from 1 down to ``floor`` at step ``total`` (Loshchilov and Hutter 2017)."""

    total: int
    warmup: int = 0
    floor: float = 0.1

    def __post_init__(self) -> None:
        _check(self.warmup, self.total, self.floor)

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return _warm(step, self.warmup)
        done = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class WarmupStableDecay:
    """A linear warm-up, a plateau at 1, and a linear decay to ``floor`` over the last ``decay`` steps.

    One plateau serves several lengths of training: only the decay is run again (Hu et al. 2024, arXiv 2404.06395;
    Hägele et al. 2024, arXiv 2405.18392).
    """

    total: int
    warmup: int = 0
    decay: int = 0
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check(self.warmup, self.total, self.floor)
        if not 0 <= self.decay <= self.total - self.warmup:
            raise InputError(
                f"decay of the rate schedule must be from 0 to the {self.total - self.warmup} steps after warm-up, "
                f"not {self.decay}"
            )

    def __call__(self, step: int) -> float:
        left = self.total - step
        if step < self.warmup or left >= self.decay:
            return _warm(step, self.warmup)
        return self.floor + (1 - self.floor) * max(0, left) / self.decay


ScheduleName: TypeAlias = Literal["constant", "linear", "cosine", "wsd"]


def named_schedule(
    name: ScheduleName, total: int, *, warmup: int = 0, floor: float = 0.0, decay_share: float = 0.2
) -> RateSchedule:
    """The schedule called ``name`` over ``total`` steps, after a linear warm-up.

    Args:
        name: ``"constant"``; ``"linear"`` from 1 at the first step to ``floor`` at step ``total``, as Reptile's authors
            anneal their outer rate (Nichol et al. 2018); ``"cosine"``; or ``"wsd"`` (see `WarmupStableDecay`).
        floor: the factor at the end, of all but ``"constant"``.
        decay_share: the share of the steps after warm-up over which ``"wsd"`` decays.

    Raises:
        InputError: a warm-up that is not shorter than ``total``, or a floor outside 0 to 1.
    """
    _check(warmup, total, floor)
    if name == "constant":
        return Constant(warmup)
    if name == "cosine":
        return Cosine(total, warmup, floor)
    share = 1.0 if name == "linear" else decay_share
    return WarmupStableDecay(total, warmup, max(1, round(share * (total - warmup))), floor)


def _check(warmup: int, total: int | None, floor: float = 0.0) -> None:
    if warmup < 0 or (total is not None and not warmup < total):
        upper = "" if total is None else f" and below the total of {total}"
        raise InputError(f"warmup of the rate schedule must be at least 0{upper}, not {warmup}")
    if not 0 <= floor <= 1:
        raise InputError(f"floor of the rate schedule must be from 0 to 1, not {floor}")
