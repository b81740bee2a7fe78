"""What a search may try: dimensions on their own scales, as frozen dataclasses and as the mappings of a YAML file."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from metascale.core.errors import InputError

EDGE = 0.05
"""A value within this share of a range's length (on its own scale) of an end lies at its edge."""

Edge: TypeAlias = Literal["low", "high"]


class Dimension(Protocol):
    """One hyperparameter's range."""

    def at(self, share: float) -> Any:
        """The value at ``share`` (0 to 1) of the range."""
        ...

    def holds(self, value: Any) -> bool:
        """Whether ``value`` lies in the range."""
        ...

    def edge(self, value: Any) -> Edge | None:
        """The end of the range that ``value`` lies at, if any."""
        ...

    @property
    def values(self) -> tuple[Any, ...] | None:
        """Every value there is, or ``None`` for a continuous range."""
        ...

    def distribution(self) -> Any:
        """As Optuna names it."""
        ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Uniform:
    """A real number between ``low`` and ``high``.

    Raises:
        InputError: not finite, or ``low`` is not below ``high``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_range("uniform", self.low, self.high)

    def at(self, share: float) -> float:
        return self.low + share * (self.high - self.low)

    def holds(self, value: Any) -> bool:
        return _is_number(value) and self.low <= value <= self.high

    def edge(self, value: Any) -> Edge | None:
        return _edge((value - self.low) / (self.high - self.low))

    @property
    def values(self) -> None:
        return None

    def distribution(self) -> Any:
        return _optuna().distributions.FloatDistribution(self.low, self.high)

    def to_json(self) -> dict[str, Any]:
        return {"uniform": [self.low, self.high]}


@dataclass(frozen=True, slots=True)
class LogUniform:
    """A positive number between ``low`` and ``high``, every factor alike: for rates.

    Raises:
        InputError: not finite, not positive, or ``low`` is not below ``high``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_range("log", self.low, self.high)
        if self.low <= 0:
            raise InputError(f"a range on a logarithmic scale starts above 0, not at {self.low}")

    def at(self, share: float) -> float:
        return min(self.high, max(self.low, self.low * (self.high / self.low) ** share))

    def holds(self, value: Any) -> bool:
        return _is_number(value) and self.low <= value <= self.high

    def edge(self, value: Any) -> Edge | None:
        return _edge(math.log(value / self.low) / math.log(self.high / self.low))

    @property
    def values(self) -> None:
        return None

    def distribution(self) -> Any:
        return _optuna().distributions.FloatDistribution(self.low, self.high, log=True)

    def to_json(self) -> dict[str, Any]:
        return {"log": [self.low, self.high]}


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

    def holds(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def edge(self, value: Any) -> Edge | None:
        return "low" if value == self.low else "high" if value == self.high else None

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(range(self.low, self.high + 1))

    def distribution(self) -> Any:
        return _optuna().distributions.IntDistribution(self.low, self.high)

    def to_json(self) -> dict[str, Any]:
        return {"integer": [self.low, self.high]}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of ``options`` (numbers, texts or booleans). Numbers have edges: the smallest and the largest.

    Raises:
        InputError: fewer than two options, or one twice.
    """

    options: tuple[Any, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))
        if len(self.options) < 2 or len(set(self.options)) < len(self.options):
            raise InputError(f"a choice has at least two different options, not {list(self.options)}")

    def at(self, share: float) -> Any:
        return self.options[min(len(self.options) - 1, int(share * len(self.options)))]

    def holds(self, value: Any) -> bool:
        return value in self.options

    def edge(self, value: Any) -> Edge | None:
        if len(self.options) < 3 or not all(map(_is_number, self.options)):
            return None
        return "low" if value == min(self.options) else "high" if value == max(self.options) else None

    @property
    def values(self) -> tuple[Any, ...]:
        return self.options

    def distribution(self) -> Any:
        return _optuna().distributions.CategoricalDistribution(self.options)

    def to_json(self) -> dict[str, Any]:
        return {"choice": list(self.options)}


_KINDS: dict[str, Callable[..., Dimension]] = {
    "log": LogUniform,
    "uniform": Uniform,
    "integer": Integer,
    "choice": lambda *options: Choice(options),
}


def dimension_from_json(name: str, stored: Any) -> Dimension:
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
        near = difflib.get_close_matches(str(kind), _KINDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"allowed are {', '.join(_KINDS)}"
        raise InputError(f"there is no range '{kind}' for '{name}'; {hint}")
    if isinstance(numbers, str) or not isinstance(numbers, Sequence) or (kind != "choice" and len(numbers) != 2):
        raise InputError(f"the range '{kind}' of '{name}' needs a list of {'options' if kind == 'choice' else 'two'}")
    try:
        return _KINDS[kind](*(_number(item) for item in numbers))
    except (InputError, TypeError) as error:
        raise InputError(f"the range of '{name}': {error}") from error


def _number(value: Any) -> Any:
    """YAML reads 1e-3 as a text; a number is meant."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_range(kind: str, low: Any, high: Any) -> None:
    if not (_is_number(low) and _is_number(high) and math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"a range '{kind}' goes from a finite number to a larger, not from {low!r} to {high!r}")


def _edge(share: float) -> Edge | None:
    return "low" if share < EDGE else "high" if share > 1 - EDGE else None


def _optuna() -> Any:
    """Loaded at first use: it takes a third of a second."""
    import optuna

    return optuna
