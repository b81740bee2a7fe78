"""Tables with a column for each feature: numbers and categories, made into one vector for each row."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from metascale.core.errors import InputError

Standardize: TypeAlias = Literal["none", "inputs", "all"]
"""What is standardised by the rows of training: nothing, number columns, or number columns and regression targets."""

Missing: TypeAlias = Literal["refuse", "impute"]
"""What becomes of missing values."""

Column: TypeAlias = "np.ndarray | tuple[str | None, ...]"
"""[n] numbers (float64, NaN where missing), or n categories (``None`` where missing)."""

_MANY = 20


class Table(NamedTuple):
    """The columns of a data frame, of a mapping or of a data set of scikit-learn, in their order.

    Args:
        columns: the values of each.
        label: the column that holds the targets where the data say so themselves.
        class_names: names of the classes 0, 1, ... of ``label``, or empty.
        categorical: columns that are categories though they hold numbers.
    """

    columns: Mapping[str, Any]
    label: str | None = None
    class_names: tuple[str, ...] = ()
    categorical: frozenset[str] = frozenset()


def read_table(data: Any) -> Table | None:
    """The columns of ``data``; ``None``: it is no table."""
    if hasattr(data, "columns") and hasattr(data, "iloc"):
        return _of_frame(data)
    if not isinstance(data, Mapping):
        return None
    if hasattr(data, "data") and hasattr(data, "target"):
        return _of_bunch(data)
    return Table(data)


def _of_frame(frame: Any) -> Table:
    names = [str(name) for name in frame.columns]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"the table has two columns called '{twice[0]}'", field="data", value=twice[0])
    columns = {str(name): frame[name] for name in frame.columns}
    marked = {name for name, values in columns.items() if str(getattr(values, "dtype", "")) == "category"}
    return Table({name: _plain(values) for name, values in columns.items()}, categorical=frozenset(marked))


def _of_bunch(data: Any) -> Table:
    """A data set of scikit-learn (a ``Bunch``), made with or without ``as_frame=True``."""
    if not len(data.data):
        raise InputError("the data set has no examples", field="data")
    names = tuple(map(str, _listed(getattr(data, "target_names", None))))
    if hasattr(data.data, "columns"):
        found = _of_frame(data.data)
        if hasattr(data.target, "columns"):
            return Table({**found.columns, **_of_frame(data.target).columns}, categorical=found.categorical)
        label, values = str(data.target.name), _plain(data.target)
        return Table({**found.columns, label: values}, label, _fitting(names, values), found.categorical)
    if hasattr(data.data, "tocsr"):
        raise InputError("the data are a sparse matrix: give .toarray() of those columns that you need", field="data")
    target = np.asarray(data.target)
    columns: dict[str, Any] = {"text": data.data} if isinstance(data.data[0], str) else _of_matrix(data)
    if target.ndim == 1:
        return Table({**columns, "target": target}, "target", _fitting(names, target))
    several = {name: target[:, place] for place, name in enumerate(names)}
    return Table({**columns, **several})


def _fitting(names: tuple[str, ...], target: Any) -> tuple[str, ...]:
    """The names, where they are those of the classes 0, 1, ... of the target, and not of the target itself."""
    values = np.asarray(target)
    return names if values.dtype.kind in "iu" and values.min() >= 0 and values.max() < len(names) else ()


def _of_matrix(data: Any) -> dict[str, np.ndarray]:
    matrix = np.asarray(data.data)
    if matrix.ndim != 2:
        return {"x": matrix}
    names = [str(name) for name in _listed(getattr(data, "feature_names", None))]
    names = names or [f"x{place}" for place in range(matrix.shape[1])]
    return {name: matrix[:, place] for place, name in enumerate(names)}


def _listed(values: Any) -> list[Any]:
    return [] if values is None else list(values)


def _plain(values: Any) -> Any:
    """A numeric column as an array, another as a list."""
    if isinstance(getattr(values, "dtype", None), np.dtype) and values.dtype.kind in "biuf":
        return np.asarray(values)
    return values.tolist()


def scalar(value: Any) -> Any:
    """A number of NumPy or torch as one of Python."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value


def is_missing(value: Any) -> bool:
    """``None``, NaN, and what pandas has for them."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and math.isnan(value)


def is_numeric(values: Any) -> bool:
    """Whether a column holds numbers (or truth values), one for each row."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return values.ndim == 1
    found = (scalar(value) for value in values)
    present = [isinstance(value, int | float) for value in found if not is_missing(value)]
    return bool(present) and all(present)


def is_plain(values: Any) -> bool:
    """Whether a column holds numbers and texts, one for each row."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        return values.ndim == 1
    return all(is_missing(value) or isinstance(value, int | float | str) for value in map(scalar, values))


def column_of(name: str, values: Any, categorical: bool = False) -> Column:
    """A column as numbers, or as categories where it holds texts or is said to be ``categorical``.

    Raises:
        InputError: it has no value at all, an infinite one, or one that is neither number nor text.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf" and not categorical:
        numbers = values.astype(np.float64)
        if np.isfinite(numbers).all():
            return numbers
    found = [None if is_missing(value) else value for value in map(scalar, values)]
    present = [value for value in found if value is not None]
    if not present:
        raise InputError(f"column '{name}' has no values: leave it out with inputs=", field="inputs", value=name)
    of_texts = categorical or any(isinstance(value, str) for value in present)
    for row, value in enumerate(found):
        if value is None:
            continue
        if not isinstance(value, str | int | float) or (isinstance(value, str) and not of_texts):
            raise InputError(
                f"column '{name}' has {value!r} in row {row}, where numbers, texts and truth values are allowed: "
                "leave the column out with inputs=",
                field="inputs",
                value=name,
            )
        if isinstance(value, float) and math.isinf(value):
            raise InputError(f"column '{name}' is infinite in row {row}", field="data", value=name)
    if of_texts:
        return tuple(None if value is None else _category(name, row, value) for row, value in enumerate(found))
    return np.array([math.nan if value is None else float(value) for value in found], np.float64)


def _category(name: str, row: int, value: str | int | float) -> str | None:
    """Its name; that of a whole number is the same whether missing values made it real or not. Empty: missing."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float) and not value.is_integer():
        raise InputError(
            f"column '{name}' has {value!r} in row {row}: categories are texts or whole numbers",
            field="categorical",
            value=name,
        )
    return str(value) if isinstance(value, bool) else str(int(value))


def sorted_names(names: Collection[str]) -> tuple[str, ...]:
    """Whole numbers by their value, then texts by the alphabet."""
    numbers = {name for name in names if name.removeprefix("-").isdecimal()}
    return (*sorted(numbers, key=int), *sorted(set(names) - numbers))


class Encoded(NamedTuple):
    """[n, d] float32, what each of the d numbers is, and what is worth a record."""

    x: np.ndarray
    names: tuple[str, ...]
    details: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Features:
    """n rows of number and category columns, as they stand in the table.

    Args:
        columns: in the order of the table.
        categorical: the category columns that were named as such, whatever they hold.
    """

    columns: Mapping[str, Column]
    categorical: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def keys(self) -> list[bytes]:
        """A number for the content of each row: equal ones for equal rows."""
        numbers = [values + 0.0 for values in self.columns.values() if isinstance(values, np.ndarray)]
        matrix = np.stack(numbers, 1) if numbers else np.empty((len(self), 0))
        categories = [values for values in self.columns.values() if not isinstance(values, np.ndarray)]
        return [
            hashlib.blake2b(
                matrix[row].tobytes() + repr([values[row] for values in categories]).encode(), digest_size=16
            ).digest()
            for row in range(len(self))
        ]

    def encoded(self, rows: Sequence[int], train: Sequence[int], standardize: bool, missing: Missing) -> Encoded:
        """Every row as a vector: a number is itself, a category a 1 in the place of its name and 0 elsewhere.

        All that is learnt from data comes from the rows ``train``: means, standard deviations (with divisor n) and the
        names of categories, in the order of `sorted_names`, which does not depend on the order of rows. A category that
        they lack has 0 everywhere. A number column without variation there is only centred.

        Args:
            rows: those that are used at all.
            train: those of training tasks.
            standardize: number columns to mean 0 and standard deviation 1 over ``train``.
            missing: ``"impute"``: a number is the mean over ``train``, a category has 0 everywhere.

        Raises:
            InputError: missing values that are refused; a column whose texts are no categories.
        """
        own, training = np.array(rows, np.int64), np.array(train, np.int64)
        n_missing = {name: _n_missing(values, own) for name, values in self.columns.items()}
        n_missing = {name: number for name, number in n_missing.items() if number}
        if n_missing and missing == "refuse":
            said = ", ".join(f"'{name}' ({number})" for name, number in n_missing.items())
            raise InputError(
                f"there are rows without a value in {said}: give missing='impute', or leave columns out with inputs=",
                field="missing",
                value=missing,
                allowed=" or ".join(get_args(Missing)),
            )
        vectors, names = [], list[str]()
        unseen: dict[str, list[str]] = {}
        for name, values in self.columns.items():
            if isinstance(values, np.ndarray):
                vectors.append(_numbers(name, values, own, training, standardize)[:, None])
                names.append(name)
                continue
            known = _known(name, values, own, training, name in self.categorical)
            vectors.append(_one_hot(values, known))
            names += [f"{name}={each}" for each in known]
            others = sorted_names({each for row in own if (each := values[row]) is not None} - set(known))
            unseen |= {name: list(others)} if others else {}
        details: dict[str, Any] = {"features": names, "standardized": standardize}
        details |= {"imputed": n_missing} if n_missing else {}
        details |= {"categories_without_training_rows": unseen} if unseen else {}
        return Encoded(np.concatenate(vectors, 1).astype(np.float32), tuple(names), details)


def features_of(columns: Mapping[str, Any], wanted: Sequence[str], categorical: Collection[str]) -> Features:
    """The feature columns ``wanted`` of a table."""
    found = {name: column_of(name, columns[name], name in categorical) for name in wanted}
    return Features(found, frozenset(categorical) & set(wanted))


def joined_features(parts: Sequence[Features]) -> Features:
    """The rows of several parts, one after another.

    Raises:
        InputError: a column has numbers in one part and texts in another.
    """
    columns: dict[str, Column] = {}
    for name, first in parts[0].columns.items():
        own = [part.columns[name] for part in parts]
        if isinstance(first, np.ndarray) and all(isinstance(values, np.ndarray) for values in own):
            columns[name] = np.concatenate([values for values in own if isinstance(values, np.ndarray)])
        elif any(isinstance(values, np.ndarray) for values in own):
            raise InputError(f"column '{name}' has numbers in one part and texts in another", field="data", value=name)
        else:
            columns[name] = tuple(value for values in own for value in values)
    return Features(columns, parts[0].categorical)


def scale_of(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation (divisor n) of what is not missing; 1 for numbers that are all the same."""
    present = values[~np.isnan(values)]
    same = float(present.max()) == float(present.min())
    return (float(present[0]), 1.0) if same else (float(present.mean()), float(present.std()))


def _n_missing(values: Column, rows: np.ndarray) -> int:
    if isinstance(values, np.ndarray):
        return int(np.isnan(values[rows]).sum())
    return sum(values[row] is None for row in rows)


def _numbers(name: str, values: np.ndarray, rows: np.ndarray, train: np.ndarray, standardize: bool) -> np.ndarray:
    """[n] with missing ones replaced."""
    if np.isnan(values[train]).all():
        raise InputError(f"no row of a training task has a value in '{name}': leave it out with inputs=", field="data")
    mean, deviation = scale_of(values[train])
    filled = np.where(np.isnan(values), mean, values)
    found: np.ndarray = (filled - mean) / deviation if standardize else filled
    if not (np.abs(found[rows]) < np.finfo(np.float32).max).all():
        raise InputError(f"column '{name}' has numbers that are too large for 32 bits", field="data", value=name)
    return found


def _known(
    name: str, values: tuple[str | None, ...], rows: np.ndarray, train: np.ndarray, named: bool
) -> tuple[str, ...]:
    """The categories of training tasks."""
    n_distinct = len({values[row] for row in rows})
    if not named and n_distinct > max(_MANY, len(rows) // 2):
        raise InputError(
            f"column '{name}' has {n_distinct} different texts in {len(rows)} rows, too many for categories: choose "
            "columns with inputs=, or name it in categorical=",
            field="inputs",
            value=name,
        )
    known = sorted_names({each for row in train if (each := values[row]) is not None})
    if not known:
        raise InputError(f"no row of a training task has a value in '{name}': leave it out with inputs=", field="data")
    return known


def _one_hot(values: tuple[str | None, ...], known: tuple[str, ...]) -> np.ndarray:
    places = {name: place for place, name in enumerate(known)}
    found = np.zeros((len(values), len(known)))
    for row, value in enumerate(values):
        if value in places:
            found[row, places[value]] = 1
    return found
