"""Learning-rate schedules: from a table of steps and rates, or by name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.core.suggest import suggest
from metascale.laws.observations import Array, Integers
from metascale.laws.runs import RATE_NAMES, STEP_NAMES
from metascale.laws.table import Table, named_like, read_table

SETTINGS = {
    "constant": ("peak", "steps", "warmup"), "linear": ("peak", "steps", "warmup", "end"),
    "cosine": ("peak", "steps", "warmup", "end"), "wsd": ("peak", "steps", "warmup", "end", "decay"),
}  # fmt: skip
SCHEDULES = tuple(SETTINGS)
MOST_STEPS = 10_000_000
_AT_PEAK = 0.999  # the warm-up ends where the rate first reaches this part of its largest


@dataclass(frozen=True)
class Schedule:
    """Rates [T] of the steps 1 ... T; ``warmup`` steps come before the first one at the largest rate.

    Attributes:
        sum_unit: what sums of rates are counted in.
    """

    rates: Array
    warmup: int
    sum_unit: float = 1.0

    @cached_property
    def summed(self) -> Array:
        """[T] the sum of the rates up to each step."""
        return np.cumsum(self.rates) / self.sum_unit

    def steps(self, at: ArrayLike) -> Integers:
        """[m] steps ``at`` that were checked to lie inside the schedule, after its warm-up.

        Raises:
            InputError: a step outside, or one that is not whole.
        """
        given = np.atleast_1d(np.asarray(at, float))
        whole = given == np.round(given)
        wrong = ~whole | (given <= self.warmup) | (given > len(self.rates))
        if wrong.any():
            step = float(given[wrong][0])
            why = "outside the schedule's steps after its warm-up" if whole[wrong][0] else "not one of the steps"
            raise InputError(
                f"step {step:.10g} is {why}, {self.warmup + 1} to {len(self.rates)}", field="at", value=step
            )
        return np.asarray(given, int)

    @classmethod
    def of(cls, steps: ArrayLike, rates: ArrayLike) -> Schedule:
        """From rates at some steps, by straight lines; before the first one they rise from 0, as a warm-up does.

        Raises:
            InputError: a rate that is negative or not finite, a step below 0, or no rate above 0.
        """
        at, values = np.asarray(steps, float), np.asarray(rates, float)
        if not len(at) or not (np.isfinite(at).all() and np.isfinite(values).all() and (at >= 0).all()):
            raise InputError("a schedule needs finite steps, at least 0, with a finite rate each", field="schedule")
        if (values < 0).any() or not (values > 0).any() or at.max() < 1:
            raise InputError(
                "a schedule has rates of at least 0, some above, and steps of at least 1", field="schedule"
            )
        if at.max() > MOST_STEPS:
            raise InputError(f"a schedule of {at.max():.4g} steps is longer than {MOST_STEPS:,}", field="schedule")
        order = np.argsort(at, kind="stable")
        known, levels = at[order], values[order]
        if known[0] > 1:
            known, levels = np.r_[0.0, known], np.r_[0.0, levels]
        filled = np.interp(np.arange(1, int(at.max()) + 1), known, levels)
        return cls(filled, int(np.argmax(filled >= _AT_PEAK * filled.max())))

    def scaled(self, rate: float, total: float) -> Schedule:
        """With rates in units of ``rate`` and sums in units of ``total``."""
        return Schedule(self.rates / rate, self.warmup, total / rate)

    @classmethod
    def named(cls, text: str) -> Schedule:
        """``cosine:peak=3e-4,steps=24000,warmup=500,end=0.1``, or ``wsd:peak=3e-4,steps=24000,decay=0.2``.

        constant, linear (to the end), cosine, or wsd: constant, and linear over the last part ``decay`` of the steps.
        ``end`` is the last rate as a part of the peak (0.1; constant has none); ``warmup`` steps rise from 0 (none).

        Raises:
            InputError: an unknown name or setting, one that the schedule has no use for, or one that is missing.
        """
        name, _, rest = text.partition(":")
        if name not in SCHEDULES:
            raise InputError(f"the schedule '{name}' is neither a file nor a name; {suggest(name, SCHEDULES)}; give "
                             "a CSV of step and lr, or a name as in cosine:peak=3e-4,steps=24000", field="schedule",
                             value=text)  # fmt: skip
        given = {"warmup": 0.0, "end": 1.0 if name == "constant" else 0.1, "decay": 0.2}
        wanted = SETTINGS[name]
        for part in filter(None, rest.split(",")):
            key, sign, value = part.partition("=")
            try:
                number = float(value)
            except ValueError:
                number = float("nan")
            if key.strip() not in wanted or not sign or not np.isfinite(number) or number < 0:
                raise InputError(f"`schedule`: '{part}' is no setting of '{name}'; give {', '.join(wanted)} as numbers",
                                 field="schedule", value=text)  # fmt: skip
            given[key.strip()] = number
        missing = next((key for key in ("peak", "steps") if given.get(key, 0) <= 0), None)
        if missing is not None:
            raise InputError(f"`schedule` has no {missing}; give {name}:peak=3e-4,steps=24000", field="schedule")
        steps, warmup = int(given["steps"]), int(given["warmup"])
        if warmup >= steps or steps > MOST_STEPS or given["decay"] > 1 or given["end"] > 1:
            raise InputError("`schedule`: warmup is below steps, and decay and end are at most 1", field="schedule")
        at = np.arange(1, steps + 1)
        start = warmup if name != "wsd" else max(warmup, round(steps * (1 - given["decay"])))
        gone = np.clip((at - start) / max(steps - start, 1), 0.0, 1.0)
        shape = {"constant": gone, "linear": gone, "wsd": gone, "cosine": 0.5 - 0.5 * np.cos(np.pi * gone)}[name]
        rates = given["peak"] * (1 - (1 - given["end"]) * shape)
        rates[:warmup] = given["peak"] * at[:warmup] / warmup
        return cls(rates, max(warmup - 1, 0))

    @classmethod
    def read(cls, source: Any) -> Schedule:
        """A schedule, the name of one, or a table (a path, a mapping, a frame) of step and lr."""
        if isinstance(source, Schedule):
            return source
        if isinstance(source, str) and source.partition(":")[0] in SCHEDULES:
            return cls.named(source)
        if isinstance(source, str) and not Path(source).exists():
            return cls.named(source)
        table = read_table(source)
        step, rate = columns_of_schedule(table)
        return cls.of(table.numbers(step), table.numbers(rate))


def columns_of_schedule(table: Table) -> tuple[str, str]:
    """The columns of steps and of rates.

    Raises:
        InputError: one is missing.
    """
    step, rate = (next(iter(named_like(table, names)), None) for names in (STEP_NAMES, RATE_NAMES))
    if step is None or rate is None:
        raise InputError(f"{table.source} is no schedule: it needs columns 'step' and 'lr'", field="schedule")
    return step, rate
