"""What a search may try: ranges on their own scales, as frozen dataclasses and as the mappings of a YAML file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Literal, TypeAlias

from metascale.core.errors import InputError
from metascale.core.suggest import suggest

EDGE = 0.05
"""A value within this share of a range's length (on its own scale) of an end lies at its edge."""

Edge: TypeAlias = Literal["low", "high"]
Value: TypeAlias = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Uniform:
    """A real number between ``low`` and ``high``.

    Raises:
        InputError: not finite, or ``low`` is not below ``high``.
    """

    low: float
    high: float
    kind: ClassVar[str] = "uniform"
    values: ClassVar[None] = None

    def __post_init__(self) -> None:
        low, high = self.low, self.high
        if not (_is_number(low) and _is_number(high) and math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(
                f"a range '{self.kind}' goes from a finite number to a larger, not from {low!r} to {high!r}"
            )

    def at(self, share: float) -> float:
        """The value at ``share`` (0 to 1) of the range."""
        return self.low + share * (self.high - self.low)

    def share_of(self, value: float) -> float:
        """The inverse of `at`."""
        return (value - self.low) / (self.high - self.low)

    def clip(self, value: float) -> float:
        return min(self.high, max(self.low, value))

    def holds(self, value: object) -> bool:
        return _is_number(value) and self.low <= value <= self.high  # type: ignore[operator]

    def edge(self, value: float) -> Edge | None:
        """The end of the range that ``value`` lies at, if any."""
        share = self.share_of(value)
        return "low" if share < EDGE else "high" if share > 1 - EDGE else None

    def distribution(self, optuna: ModuleType) -> Any:
        """The range as Optuna's ``BaseDistribution``."""
        return optuna.distributions.FloatDistribution(self.low, self.high, log=self.kind == "log")

    def to_json(self) -> dict[str, list[Value]]:
        return {self.kind: [self.low, self.high]}


@dataclass(frozen=True, slots=True)
class LogUniform(Uniform):
    """A positive number between ``low`` and ``high``, uniform in its logarithm: for learning rates.

    Raises:
        InputError: not finite, not positive, or ``low`` is not below ``high``.
    """

    kind: ClassVar[str] = "log"

    def __post_init__(self) -> None:
        Uniform.__post_init__(self)
        if self.low <= 0:
            raise InputError(f"a range on a logarithmic scale starts above 0, not at {self.low}")

    def at(self, share: float) -> float:
        return self.clip(self.low * (self.high / self.low) ** share)

    def share_of(self, value: float) -> float:
        return math.log(value / self.low) / math.log(self.high / self.low)


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number from ``low`` to ``high``, both included.

    Raises:
        InputError: not whole, or ``low`` is not below ``high``.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if not (isinstance(self.low, int) and isinstance(self.high, int)) or self.low >= self.high:
            raise InputError(f"an integer range goes from one whole number to a larger, not {self.low} to {self.high}")

    def at(self, share: float) -> int:
        return min(self.high, self.low + int(share * (self.high - self.low + 1)))

    def holds(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def edge(self, value: float) -> Edge | None:
        return "low" if value == self.low else "high" if value == self.high else None

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(range(self.low, self.high + 1))

    def distribution(self, optuna: ModuleType) -> Any:
        return optuna.distributions.IntDistribution(self.low, self.high)

    def to_json(self) -> dict[str, list[Value]]:
        return {"integer": [self.low, self.high]}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of ``values`` (numbers, texts or booleans). Three or more numbers have edges: the smallest and the largest.

    Raises:
        InputError: fewer than two values, or one twice.
    """

    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise InputError(f"a choice has at least two different options, not {list(self.values)}")

    def at(self, share: float) -> Value:
        return self.values[min(len(self.values) - 1, int(share * len(self.values)))]

    def holds(self, value: object) -> bool:
        return value in self.values

    def edge(self, value: Value) -> Edge | None:
        if len(self.values) < 3 or not all(map(_is_number, self.values)):
            return None
        return "low" if value == min(self.values) else "high" if value == max(self.values) else None

    def distribution(self, optuna: ModuleType) -> Any:
        return optuna.distributions.CategoricalDistribution(self.values)

    def to_json(self) -> dict[str, list[Value]]:
        return {"choice": list(self.values)}


Dimension: TypeAlias = Uniform | LogUniform | Integer | Choice
"""One hyperparameter's range; ``values`` are all there are, or ``None`` for a continuous range."""

_KINDS: dict[str, Callable[..., Dimension]] = {
    "log": LogUniform,
    "uniform": Uniform,
    "integer": Integer,
    "choice": lambda *values: Choice(values),
}


def dimension_from_json(name: str, stored: object) -> Dimension:
    """``{"log": [low, high]}``, ``{"uniform": [low, high]}``, ``{"integer": [low, high]}`` or ``{"choice": [...]}``.

    Raises:
        InputError: anything else; names the hyperparameter and what is allowed.
    """
    if not isinstance(stored, Mapping) or len(stored) != 1:
        raise InputError(
            f"the range of '{name}' is one of {{log: [low, high]}}, {{uniform: [low, high]}}, "
            f"{{integer: [low, high]}} and {{choice: [...]}}, not {stored!r}"
        )
    ((kind, numbers),) = stored.items()
    if kind not in _KINDS:
        raise InputError(f"there is no range '{kind}' for '{name}'; {suggest(kind, _KINDS)}")
    if isinstance(numbers, str) or not isinstance(numbers, Sequence) or (kind != "choice" and len(numbers) != 2):
        raise InputError(f"the range '{kind}' of '{name}' needs a list of {'options' if kind == 'choice' else 'two'}")
    try:
        return _KINDS[kind](*map(_number, numbers))
    except (InputError, TypeError) as error:
        raise InputError(f"the range of '{name}': {error}") from error


def _number(value: Any) -> Any:
    """YAML reads 1e-3 as text; here it is a number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
