"""The table that a law is fitted to, checked once: invalid rows are refused here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from metascale.core.errors import InputError

Array: TypeAlias = "NDArray[np.float64]"
Integers: TypeAlias = "NDArray[np.intp]"
Mask: TypeAlias = "NDArray[np.bool_]"
FLOPS_PER_PARAMETER_AND_TOKEN = 6.0  # of training: two for the forward and four for the backward pass
LARGEST_LOG = 709.0  # e^709 is 8e307: practically infinite, and still a number in JSON


def bounded_exp(logs: ArrayLike) -> Array:
    """e^logs, kept between 1e-308 and 1e308: what a table does not identify stays finite."""
    return np.asarray(np.exp(np.clip(logs, -LARGEST_LOG, LARGEST_LOG)))


def as_json(value: Any) -> Any:
    """Dataclasses as dicts of their fields, arrays and tuples as lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if is_dataclass(value):
        return {part.name: as_json(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): as_json(part) for name, part in value.items()}
    return [as_json(part) for part in value] if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class Observations:
    """Losses at scales, one row a run.

    Attributes:
        x: [n, d] positive scales; loss: [n] positive losses.
        scale: [n] which distinct scale a row belongs to, numbered in ascending order (lexicographic for d > 1).
        run: [n] which run a row belongs to: rows of one run stay together in a bootstrap.
        notes: what was done to the table on the way in.
        error: [n] known standard errors of ln loss, of the evaluation alone; None where none are known.
        weights, run_variance: [n] of the rows in a fit, and the variance of ln loss between runs that evaluation does
            not explain (`metascale.laws.evaluation.weigh`); None for equal weights.
    """

    x: Array
    loss: Array
    scale: Integers
    run: Integers
    x_names: tuple[str, ...] = ("x",)
    loss_name: str = "loss"
    notes: tuple[str, ...] = field(default=())
    error: Array | None = None
    weights: Array | None = None
    run_variance: float = 0.0

    @property
    def n(self) -> int:
        return len(self.loss)

    @property
    def n_axes(self) -> int:
        return int(self.x.shape[1])

    @property
    def n_scales(self) -> int:
        return int(self.scale.max()) + 1

    @property
    def n_runs(self) -> int:
        return len(np.unique(self.run))

    @property
    def log_x(self) -> Array:
        return np.log(self.x)

    @property
    def log_loss(self) -> Array:
        return np.log(self.loss)

    @property
    def scales(self) -> Array:
        """[n_scales, d] the distinct scales."""
        first = np.unique(self.scale, return_index=True)[1]
        return self.x[first]

    def scale_means(self, values: Array) -> Array:
        """[n_scales] the mean of ``values`` [n] at each scale."""
        return np.bincount(self.scale, weights=values) / np.bincount(self.scale)

    def keep(self, rows: Mask) -> Observations:
        """The table with only these rows."""
        scale, run = (np.unique(labels[rows], return_inverse=True)[1] for labels in (self.scale, self.run))
        error = None if self.error is None else self.error[rows]
        weights = None if self.weights is None else self.weights[rows]
        return Observations(
            self.x[rows], self.loss[rows], scale, run, self.x_names, self.loss_name, self.notes, error,
            weights, self.run_variance,
        )  # fmt: skip


def observe(
    x: ArrayLike,
    loss: ArrayLike,
    *,
    replicate: ArrayLike | None = None,
    run: ArrayLike | None = None,
    x_name: str | Sequence[str] = "x",
    loss_name: str = "loss",
    signed: bool = False,
    noise: ArrayLike | None = None,
) -> Observations:
    """Check a table and put it in order of scale.

    Args:
        x: [n] or [n, d] scales, positive; loss: [n], positive unless ``signed``.
        replicate: [n] labels of repeats at one scale (seeds): exact duplicates of (x, replicate, loss) are dropped.
        run: [n] labels of runs where several rows belong to one run (checkpoints); by default each row is a run.
        noise: [n] known standard errors of the losses' evaluation, in the unit of the loss.

    Raises:
        InputError: lengths differ, a value is missing, not finite or not positive, or there is no scale to fit.
    """
    names = (x_name,) if isinstance(x_name, str) else tuple(x_name)
    scales = _numbers(x, ", ".join(names))
    scales = scales[:, None] if scales.ndim == 1 else scales
    losses = _numbers(loss, loss_name)
    if scales.ndim != 2 or losses.ndim != 1:
        raise InputError(
            f"'{loss_name}' must be a list of numbers and the scales a list or a table with one row a loss"
        )
    if len(names) != scales.shape[1]:
        names = tuple(f"x{k + 1}" for k in range(scales.shape[1]))
    if len(scales) != len(losses):
        raise InputError(f"there are {len(scales)} scales and {len(losses)} losses; there must be one loss a scale")
    if len(losses) == 0:
        raise InputError("the table is empty; a law needs at least 3 distinct scales")
    for k, name in enumerate(names):
        _positive(scales[:, k], name)
    if signed:
        _finite(losses, loss_name)
    else:
        _positive(losses, loss_name)
    rows, notes = _without_duplicates(scales, losses, replicate)
    runs = _labels(run, len(losses), "run") if run is not None else np.arange(len(losses))
    error = None if noise is None else _errors(noise, losses)[rows]
    scales, losses, runs = scales[rows], losses[rows], runs[rows]
    order = np.lexsort(scales.T[::-1])
    scales, losses, runs = scales[order], losses[order], np.unique(runs[order], return_inverse=True)[1]
    index = np.unique(scales, axis=0, return_inverse=True)[1].reshape(-1)
    return Observations(
        scales, losses, index, runs, names, loss_name, notes, None if error is None else error[order]
    )  # fmt: skip


def _errors(noise: ArrayLike, losses: Array) -> Array:
    """Standard errors of ln loss from those of the loss."""
    errors = _numbers(noise, "noise")
    if errors.shape != losses.shape:
        raise InputError(f"there are {errors.size} standard errors and {len(losses)} losses; there must be one a loss",
                         field="noise")  # fmt: skip
    bad = ~(np.isfinite(errors) & (errors >= 0))
    if bad.any() or not errors.any():
        row = int(np.argmax(bad))
        what = f"{errors[row]:g} in row {row + 1}" if bad.any() else "0 in every row"
        raise InputError(f"`noise` is {what}; it is the standard error of a loss: 0 or more, and not all 0",
                         field="noise")  # fmt: skip
    if not (losses > 0).all():
        raise InputError("`noise` is for losses that are all positive", field="noise")
    return errors / losses


def _numbers(values: ArrayLike, name: str) -> Array:
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"'{name}' contains something that is not a number ({error}); only numbers are allowed"
        ) from error
    return array


def _finite(values: Array, name: str) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        raise InputError(
            f"'{name}' is missing or not finite in {int(bad.sum())} of {len(values)} rows "
            f"(first: row {int(np.flatnonzero(bad)[0]) + 1}); only finite numbers are allowed"
        )


def _positive(values: Array, name: str) -> None:
    _finite(values, name)
    bad = values <= 0
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"'{name}' is {values[row]:g} in row {row + 1} ({int(bad.sum())} such rows); scaling laws are fitted to "
            "logarithms, so only positive numbers are allowed"
        )
    if np.ptp(np.log(values)) > 300:
        raise InputError(
            f"'{name}' runs from {values.min():g} to {values.max():g}, more than 130 powers of ten; "
            "check for mixed units or a misread column"
        )


def _labels(values: ArrayLike, n: int, name: str) -> Integers:
    labels = np.asarray(values)
    if labels.shape != (n,):
        raise InputError(f"'{name}' has {labels.size} labels and the table {n} rows; there must be one label a row")
    return np.unique(labels if labels.dtype.kind in "iu" else labels.astype(str), return_inverse=True)[1]


def _without_duplicates(scales: Array, losses: Array, replicate: ArrayLike | None) -> tuple[Integers, tuple[str, ...]]:
    """The rows to keep: a row that repeats another in every column is dropped, and said."""
    columns = [scales, losses[:, None]]
    if replicate is not None:
        columns.append(_labels(replicate, len(losses), "replicate").astype(float)[:, None])
    table = np.hstack(columns)
    first = np.sort(np.unique(table, axis=0, return_index=True)[1])
    dropped = len(losses) - len(first)
    if not dropped:
        return first, ()
    return first, (f"{dropped} duplicated row{'s' if dropped > 1 else ''} dropped (same scale, loss and replicate)",)


def require_varied(observations: Observations) -> None:
    """Refuse a table that has a single value of a scale."""
    for k, name in enumerate(observations.x_names):
        if np.ptp(observations.x[:, k]) == 0:
            raise InputError(f"all rows have the same {name} ({observations.x[0, k]:g}); a law in it cannot be fitted")


def table_warnings(observations: Observations) -> tuple[str, ...]:
    """Warnings: several rows of one run, or a scale so far from the rest that its unit may differ."""
    notes = []
    if observations.n_runs < observations.n:
        notes.append(
            f"{observations.n} rows of {observations.n_runs} runs: checkpoints of a run whose learning rate still "
            "decays are not scaling points, and every law and interval fails on them; use the ends of runs"
        )
    for k, name in enumerate(observations.x_names):
        levels = np.unique(observations.log_x[:, k])
        gaps = np.diff(levels)
        if len(gaps) >= 3:
            widest = int(np.argmax(gaps))
            others = float(np.median(np.delete(gaps, widest)))
            if gaps[widest] > np.log(1e3) and gaps[widest] > 10 * others:
                notes.append(
                    f"'{name}' jumps from {np.exp(levels[widest]):.4g} to {np.exp(levels[widest + 1]):.4g}: check that "
                    "all rows are in the same unit"
                )
    return tuple(notes)
