"""What the report knows of a study of model sizes: frozen tables of its configurations, laws and effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from metascale.laws.record import Interval


@dataclass(frozen=True, slots=True)
class Size:
    """One configuration: counts, and means over its finished seeds; ``None`` where no trial says it.

    ``perplexity_sem`` is a standard error across seeds.
    """

    architecture: str
    d_model: int
    n_layers: int
    n_params_total: float
    n_params_non_embedding: float
    n_seeds: int
    loss: float
    perplexity: float
    perplexity_sem: float | None
    validation_perplexity: float | None
    best_perplexity: float | None
    final_perplexity: float | None
    tokens: float | None
    step_flops: float | None
    train_flops: float | None
    peak_mib: float | None
    model_mib: float | None
    wall_s: float | None

    @property
    def label(self) -> str:
        """Width and depth in short."""
        return f"{self.d_model}×{self.n_layers}"


@dataclass(frozen=True, slots=True)
class Line:
    """perplexity = a · x^b of one architecture with its R², or the ``reason`` why there is none."""

    architecture: str
    x_name: str
    a: float | None
    b: Interval | None
    r2: float | None
    n_runs: int
    n_sizes: int
    reason: str


@dataclass(frozen=True, slots=True)
class LossLaw:
    """The law of the loss of one architecture along one scale, without and with irreducible loss E."""

    architecture: str
    x_name: str
    chosen: str
    exponent: Interval | None
    exponent_above_floor: Interval | None
    floor: Interval | None
    note: str
    reason: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A test of equal exponents; ``exponents`` by architecture, ``difference`` to that of ``reference``."""

    y_name: str
    law: str
    x_name: str
    reference: str
    exponents: Mapping[str, Interval]
    difference: Interval | None
    p_value: float | None
    verdict: str
    reason: str


@dataclass(frozen=True, slots=True)
class WidthDepth:
    """The exponents of width and depth of one architecture, and their differences."""

    architecture: str
    effects: Mapping[str, Interval]
    r2: float | None
    freedom: int
    noise: str
    reason: str


@dataclass(frozen=True, slots=True)
class ComputeCurve:
    """One run's validation loss along the training FLOPs it has spent; ``test`` is where it ended on the test set."""

    architecture: str
    label: str
    seed: int | None
    flops: tuple[float, ...]
    losses: tuple[float, ...]
    end: tuple[float, float]


@dataclass(frozen=True, slots=True)
class SizeTable:
    """All of it; ``frontier`` holds (training FLOPs, test loss) of the runs that none beats at as little compute."""

    sizes: tuple[Size, ...]
    lines: tuple[Line, ...]
    laws: tuple[LossLaw, ...]
    comparisons: tuple[Comparison, ...]
    width_depth: tuple[WidthDepth, ...]
    curves: tuple[ComputeCurve, ...]
    frontier: Mapping[str, tuple[tuple[float, float], ...]]
    floors: Mapping[str, float]
    n_vocab: int | None
    level: float

    @property
    def architectures(self) -> tuple[str, ...]:
        """In the order, and so the colours, of the report's other figures."""
        return tuple(sorted({size.architecture for size in self.sizes}))

    def line(self, architecture: str, x_name: str) -> Line | None:
        """The perplexity law of an architecture along one scale."""
        found = (one for one in self.lines if (one.architecture, one.x_name) == (architecture, x_name))
        return next(found, None)
