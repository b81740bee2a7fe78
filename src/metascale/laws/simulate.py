"""Tables drawn from a planted law, with noise between seeds and a cost for each run: for power checks of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.laws.analysis import Analysis
from metascale.laws.candidates import costs
from metascale.laws.expression import is_formula
from metascale.laws.families import LAWS
from metascale.laws.library import LIBRARY, law_of, unknown_law
from metascale.laws.observations import Array
from metascale.laws.scales import ScalesAnalysis
from metascale.laws.surface_fit import SurfaceAnalysis
from metascale.laws.table import Table

MOST_ROWS = 1_000_000
FittedLaw: TypeAlias = Analysis | SurfaceAnalysis | ScalesAnalysis


def simulate_table(
    law: str | FittedLaw,
    scales: Mapping[str, ArrayLike],
    parameters: Mapping[str, float] | None = None,
    *,
    seeds: int = 1,
    noise: float = 0.01,
    cost: str | None = None,
    evaluation: float = 0.0,
    crossed: bool = True,
    loss_name: str = "loss",
    seed: int = 0,
) -> Table:
    """A table of runs whose law is known.

    Args:
        law: a family of `metascale.laws.LAWS` or a law of `LIBRARY` (their scales in order), a formula, or a law that
            ``fit`` found, whose own curve is then planted.
        parameters: the planted value of every parameter, of a law that was named.
        scales: values by name; every combination is a row for each seed, or with ``crossed=False`` row by row.
        noise: standard deviation of ln loss between runs; evaluation: a known error on top, which the column
            ``loss_se`` then states in the unit of the loss.
        cost: a formula in the scales, such as "6*N*D", for the column ``cost``.
        seed: of the random numbers; the same seed gives the same table.

    Raises:
        InputError: an unknown law, a parameter that is missing or has no place in it, or a loss that is not positive.

    Example:
        >>> t = simulate_table("power", {"tokens": [1e6, 1e7]}, {"A": 5.0, "alpha": 0.1}, noise=0.0)
        >>> t.numbers("loss").round(3).tolist()
        [1.256, 0.998]
    """
    if seeds < 1 or not (noise >= 0 and evaluation >= 0 and np.isfinite(noise + evaluation)):
        raise InputError(f"seeds is {seeds}, noise {noise} and evaluation {evaluation}; seeds are 1 or more, "
                         "the others not negative", field="seeds" if seeds < 1 else "noise")  # fmt: skip
    names, rows = _rows(scales, crossed, seeds)
    truth = _planted(law, parameters, names, rows)
    bad = ~(np.isfinite(truth) & (truth > 0))
    if bad.any():
        row = int(np.argmax(bad))
        what = f"the planted loss is {truth[row]:g} in row {row + 1}"
        raise InputError(f"{what}; it must be a positive number", field="parameters")
    repeated = np.repeat(np.arange(len(rows)), seeds)
    rng = np.random.default_rng([seed, 505])
    of_run, of_evaluation = rng.standard_normal((2, len(repeated)))
    columns: dict[str, Any] = {name: rows[repeated, k] for k, name in enumerate(names)}
    columns["seed"] = np.tile(np.arange(seeds), len(rows))
    columns[loss_name] = truth[repeated] * np.exp(noise * of_run + evaluation * of_evaluation)
    if evaluation:
        columns[f"{loss_name}_se"] = evaluation * columns[loss_name]
    made = Table(columns, f"a table simulated from '{law if isinstance(law, str) else type(law).__name__}'")
    return made if cost is None else made.with_column("cost", costs(made, cost))


def _rows(scales: Mapping[str, ArrayLike], crossed: bool, seeds: int) -> tuple[tuple[str, ...], Array]:
    values = {name: np.atleast_1d(np.asarray(part, float)) for name, part in scales.items()}
    if not values:
        raise InputError("`scales` names no scale; give values by name, such as {'tokens': [1e6, 1e7]}", field="scales")
    bad = next((name for name, part in values.items() if not (np.isfinite(part).all() and (part > 0).all())), None)
    if bad is not None:
        raise InputError(f"'{bad}' has a value that is not a positive number", field="scales", value=bad)
    lengths = {name: len(part) for name, part in values.items()}
    if not crossed and len(set(lengths.values())) > 1:
        raise InputError(
            f"row by row all scales have as many values as one another; they have {lengths}", field="scales"
        )
    total = float(np.prod(list(lengths.values()))) if crossed else float(max(lengths.values()))
    if total * seeds > MOST_ROWS:
        raise InputError(f"the table would have {total * seeds:.0f} rows; at most {MOST_ROWS}", field="scales")
    if not crossed:
        return tuple(values), np.column_stack(list(values.values()))
    mesh = np.meshgrid(*values.values(), indexing="ij")
    return tuple(values), np.column_stack([part.reshape(-1) for part in mesh])


def _planted(law: str | FittedLaw, given: Mapping[str, float] | None, names: Sequence[str], x: Array) -> Array:
    """[m] the planted loss at rows [m, d]."""
    if not isinstance(law, str):
        if tuple(names) != law.fit.observations.x_names or given is not None:
            needed = ", ".join(law.fit.observations.x_names)
            raise InputError(f"the fitted law has parameters of its own and the scales {needed}, in this order",
                             field="scales")  # fmt: skip
        return np.asarray(law.fit.predict(x))
    parameters = given or {}
    if law in LAWS and law not in LIBRARY:
        family = LAWS[law]
        if family.n_axes != len(names):
            raise InputError(
                f"the law '{law}' has {family.n_axes} scale{'s' * (family.n_axes != 1)} and {len(names)} are given",
                field="scales",
            )
        values = _values(law, family.parameters, parameters)
        coded = np.where(family.positive, np.log(np.maximum(values, 1e-300)), values)
        return np.asarray(np.exp(family.curve.log_predict(coded[None], np.log(x))[0]))
    if not is_formula(law) and law not in LIBRARY and law != "mixture":
        raise unknown_law(law, [*LAWS, *LIBRARY, "mixture"], names)
    found = law_of(law, names)
    expression = found.on(tuple(names)).expression if found.axes != tuple(names) else found.expression
    with np.errstate(all="ignore"):
        return np.asarray(expression.bind(x).value(_values(law, expression.parameters, parameters)[None])[0])


def _values(law: str, needed: Sequence[str], given: Mapping[str, float]) -> Array:
    wrong = next((name for name in (*needed, *given) if (name in needed) != (name in given)), None)
    if wrong is not None:
        what = f"has no parameter '{wrong}'" if wrong in given else f"needs the parameter '{wrong}'"
        raise InputError(f"the law '{law}' {what}; its parameters are {', '.join(needed)}", field="parameters",
                         value=wrong)  # fmt: skip
    return np.array([float(given[name]) for name in needed])
