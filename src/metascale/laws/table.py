"""Tables of runs and their columns: which is the scale, which the loss, what else varies among the rows of a scale.

Columns are guessed when only one can be meant. `metascale.laws.reading` makes the columns, `metascale.laws.runs` says
which rows count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metascale.core.columns import N_PARAMS_NON_EMBEDDING, N_PARAMS_TOTAL, TEST_LOSS
from metascale.core.errors import InputError
from metascale.core.suggest import suggest
from metascale.laws.numbers import PF_DAY, TEXT, as_column, parse_numbers, units_of_information
from metascale.laws.observations import FLOPS_PER_PARAMETER_AND_TOKEN, Array, Integers, Mask
from metascale.laws.reading import read
from metascale.laws.selection import best_of

# In order of preference: the names that scale axes and losses usually have.
X_NAMES = (
    *("n_tasks", "tokens", "n_tokens", "examples", "n_examples", "samples", "data", "D"),
    *("params", "n_params", "n_params_trainable", "N", "compute_flops", "compute", "flops", "C"),
    *("width", "depth", "steps", "x"),
)
LOSS_NAMES = (
    *(TEST_LOSS, "loss", "loss_nats", "test_loss", "val_loss", "eval_loss", "validation_loss", "valid_loss"),
    *(
        "final_loss",
        "nll",
        "val_nll",
        "cross_entropy",
        "val_bpb",
        "test_bpb",
        "bpb",
        "bits_per_byte",
        "train_loss",
        "y",
    ),
    *("val_ppl", "test_ppl", "ppl", "val_perplexity", "test_perplexity", "perplexity"),
)
SEED_NAMES = ("seed", "replicate", "rep")
SIZE_NAMES = ("params", "n_params", "n_params_trainable", "N", "model size", "parameters", "num_params")
NON_EMBEDDING_NAMES = (N_PARAMS_NON_EMBEDDING, "n_non_embedding", "non_embedding_params", "non-embedding parameters")
TOTAL_NAMES = (N_PARAMS_TOTAL, "total_params", "n_total_params", "total parameters")
SIZE_TIERS = (SIZE_NAMES, NON_EMBEDDING_NAMES, TOTAL_NAMES)
"""Names of model sizes; one of a later tuple means it where a table has none of those before (`size_names`)."""
ALL_SIZE_NAMES = tuple(name for tier in SIZE_TIERS for name in tier)
DATA_NAMES = ("tokens", "n_tokens", "D", "examples", "n_examples", "training tokens", "num_tokens", "tokens_seen")
PF_DAY_NAMES = ("pf_days", "pfdays", "compute_pf_days", "compute_pfdays", "petaflop_s_days")
COMPUTE_NAMES = ("compute_flops", "compute", "flops", "C", "training flop", "training flops", *PF_DAY_NAMES)
UNIQUE_NAMES = ("unique_tokens", "U", "unique")
VARIES = 2.0  # a second scale that changes by more than this factor among rows of one scale is noted


@lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """A column's name for comparison: in lower case, every sign an underscore: ``"Eval/Loss"`` is ``"eval_loss"``."""
    letters = "".join(letter if letter.isalnum() else "_" for letter in name.lower())
    return "_".join(part for part in letters.split("_") if part)


def named_like(table: Table, known: Collection[str]) -> list[str]:
    """The columns whose name, whatever its case and signs, is among the known ones, in the order of these."""
    wanted = list(dict.fromkeys(plain_name(name) for name in known))
    return [name for each in wanted for name in table.names if plain_name(name) == each]


@dataclass(frozen=True)
class Table:
    """Columns of numbers or text, one cell a row; ``notes`` say which rows were left out.

    Attributes:
        row_numbers: [n] the number of each row in its source, from 1.
        decimal_comma: whether a comma is the decimal mark of numbers in text.
    """

    columns: Mapping[str, NDArray[Any]]
    source: str
    notes: tuple[str, ...] = ()
    row_numbers: Integers | None = None
    decimal_comma: bool = False
    _known: dict[tuple[str, str], Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", {name: as_column(cells) for name, cells in self.columns.items()})

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.columns)

    @property
    def n_rows(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def column(self, name: str) -> NDArray[Any]:
        """One column by its exact name.

        Raises:
            InputError: there is none; the nearest name is suggested.
        """
        if name in self.columns:
            return self.columns[name]
        raise InputError(f"{self.source} has no column '{name}'; {suggest(name, self.names, 'columns')}", value=name)

    def numbers(self, name: str) -> Array:
        """One column as floats, 125M and 1,000 among them; NaN where a cell is empty or says that there is no number.

        Raises:
            InputError: a cell is not a number; row and text are named.
        """
        cells = self.column(name)
        if cells.dtype != TEXT:
            return cells.astype(float, copy=False)
        found, wrong = self._of(name, "numbers", lambda: parse_numbers(cells, self.decimal_comma))
        if wrong is not None:
            row = wrong + 1 if self.row_numbers is None else int(self.row_numbers[wrong])
            raise InputError(f"{self.source}, row {row}: '{name}' is '{cells[wrong]}', not a number")
        if len(units := self._of(name, "units", lambda: units_of_information(cells))) > 1:
            raise InputError(f"{self.source}: '{name}' is in {' and in '.join(units)}; give one unit")
        values: Array = found
        return values

    def labels(self, name: str) -> tuple[Integers, list[str]]:
        """[n] which distinct value each cell of a column is, and the values as text, in order of appearance.

        A number is written without needless digits, so that 8, ``8.0`` and ``"8"`` have one name.
        """
        found: tuple[Integers, list[str]] = self._of(name, "labels", lambda: _labels(self.column(name)))
        return found

    def n_distinct(self, name: str) -> int:
        cells = self.column(name)
        return len(np.unique(cells)) if cells.dtype != TEXT else len(self.labels(name)[1])

    def _of(self, name: str, what: str, compute: Any) -> Any:
        key = (name, what)
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def rows(self, keep: Mask, note: str = "") -> Table:
        """Only some rows."""
        numbers = np.arange(1, self.n_rows + 1) if self.row_numbers is None else self.row_numbers
        columns = {name: cells[keep] for name, cells in self.columns.items()}
        notes = (*self.notes, note) if note else self.notes
        return replace(self, columns=columns, notes=notes, row_numbers=numbers[keep], _known={})

    def with_column(self, name: str, cells: Any) -> Table:
        return replace(self, columns={**self.columns, name: as_column(cells)}, _known={})


def _labels(cells: NDArray[Any]) -> tuple[Integers, list[str]]:
    if cells.dtype == TEXT:
        seen: dict[str, int] = {}
        codes = np.array([seen.setdefault(cell, len(seen)) for cell in cells.tolist()], dtype=np.intp)
        return codes, list(seen)
    values, first, codes = np.unique(cells, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    names = [str(value) if cells.dtype.kind in "iu" else f"{value:.12g}" for value in values[order].tolist()]
    if len(set(names)) < len(names):
        names = [repr(value) for value in values[order].tolist()]
    return place[codes.reshape(-1)], ["" if name == "nan" else name for name in names]


def read_table(source: Any) -> Table:
    """A table of runs.

    Args:
        source: the path of a CSV (any delimiter, decimal commas, ``#`` comments), JSON, JSON Lines or Parquet file,
            also compressed (.gz, .bz2, .xz); a data frame of pandas, polars, Arrow or any other that narwhals knows;
            a mapping of columns; a list of mappings, one a row; a structured array; or a `Table`, which stays itself.
            Runs of other programs: ``wandb:ENTITY/PROJECT``, ``mlflow:URI/EXPERIMENT``, ``optuna:STORAGE#STUDY``, or a
            folder of logs (W&B offline, TensorBoard, ``trainer_state.json``, Lightning's CSV), one row a run.

    Raises:
        InputError: the file is missing, empty or no table, a row has more or fewer cells than the header, or two
            columns have one name.
        MissingDependency: Parquet without pyarrow (the extra ``data``).

    Example:
        >>> read_table({"params": ["125M", "1.3B"], "loss": [3.2, 2.6]}).numbers("params")
        array([1.25e+08, 1.30e+09])
    """
    if isinstance(source, Table):
        return source
    found = read(source)
    return Table(found.columns, found.source, found.notes, decimal_comma=found.decimal_comma)


def without_blanks(table: Table, names: Sequence[str]) -> Table:
    """The rows that have a number in every one of these columns; how many have none is noted, and what they say."""
    known = np.all([np.isfinite(table.numbers(name)) for name in names], axis=0)
    if known.all() or not known.any():
        return table
    said = {
        str(cell) for name in names for cell in table.column(name)[~np.isfinite(table.numbers(name))][:1000].tolist()
    } - {""}
    cells = f" ({', '.join(sorted(said)[:3])}{', ...' if len(said) > 3 else ''})" if said else ""
    return table.rows(known, f"{int((~known).sum())} rows left out: no number in {' or '.join(names)}{cells}")


def losses(table: Table, name: str) -> tuple[Array, str]:
    """A column of losses, and its name; a perplexity is exp(loss), so that its logarithm is read."""
    values, words = table.numbers(name), plain_name(name).split("_")
    if "perplexity" not in words and "ppl" not in words:
        return values, name
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(values), f"ln {name}"


def standard_errors(table: Table, noise: str, loss: str) -> Array:
    """A column of known standard errors, in the unit of what `losses` reads: of ln perplexity by the perplexity."""
    errors, (_, name) = table.numbers(noise), losses(table, loss)
    return errors if name == loss else errors / table.numbers(loss)


def guess_loss(table: Table) -> str:
    """The column that holds the loss.

    Raises:
        InputError: none or several could be meant.
    """
    for name in LOSS_NAMES:
        if name in table.names:
            return name
    known = named_like(table, LOSS_NAMES)
    if known and sum(plain_name(name) == plain_name(known[0]) for name in table.names) == 1:
        return known[0]
    found = [name for name in table.names if "loss" in name.lower() and not set(plain_name(name).split("_")) & _ERRORS]
    accuracy = [name for name in table.names if "acc" in name.lower()]
    if not found and accuracy:
        raise InputError(
            f"{table.source} has no loss; for shares between 0 and 1 as in '{accuracy[0]}' use `y`={accuracy[0]}"
        )
    return _only(found, table, "loss", "y")


_ERRORS = frozenset(("std", "se", "sem", "stderr", "err", "error", "min", "max"))


def guess_scale(table: Table, loss: str) -> str:
    """The column that holds the scale: the known name that varies, in whatever case it is written.

    Raises:
        InputError: none or several could be meant.
    """
    known = (*X_NAMES[:-1], *size_names(table), *DATA_NAMES, *COMPUTE_NAMES, *UNIQUE_NAMES, X_NAMES[-1])
    named = [name for name in named_like(table, known) if name != loss]
    found = [name for name in named if varies(table, name)]
    if "n_tasks" in found:
        return "n_tasks"
    if not found and len(named) == 1:
        return named[0]  # constant or not numbers: the error of whatever reads it says more than "no column"
    return _only(found, table, "scale", "x")


def guess_one(table: Table, candidates: Sequence[str], what: str, argument: str) -> str:
    """The one column whose name, whatever its case, is among the candidates; ``argument`` is where it can be named.

    Raises:
        InputError: none or several could be meant.
    """
    return _only(named_like(table, candidates), table, what, argument)


def size_names(table: Table) -> tuple[str, ...]:
    """The names that mean model size in a table: where it has several counts, not those of parts or of the whole."""
    return next((tier for tier in SIZE_TIERS if named_like(table, tier)), SIZE_NAMES)


def varies(table: Table, name: str) -> bool:
    """Whether a column is numeric and has more than one value."""
    try:
        values = table.numbers(name)
    except InputError:
        return False
    known = values[np.isfinite(values)]
    return len(known) > 0 and float(np.ptp(known)) > 0


def _only(found: list[str], table: Table, what: str, argument: str) -> str:
    if len(found) == 1:
        return found[0]
    columns = f"could be {' or '.join(found)}" if found else f"is in none of the columns {', '.join(table.names)}"
    raise InputError(f"{table.source}: the {what} {columns}; name it with `{argument}`", field=argument)


@dataclass(frozen=True)
class ScaleColumns:
    """A table, every row of which counts, and the columns of it that a law in one scale reads.

    ``seed`` is None when no column tells repeats, ``run`` where every row is a run; ``noise`` is the column of standard
    errors.
    """

    table: Table
    scale: str
    loss: str
    seed: str | None
    run: str | None = None
    noise: str | None = None

    @classmethod
    def of(cls, table: Table, x: str | None = None, y: str | None = None, replicate: str | None = None) -> ScaleColumns:
        """The named columns, or the guessed ones where only one can be meant."""
        loss = y or guess_loss(table)
        seed = replicate or next((name for name in SEED_NAMES if name in table.names), None)
        if seed is not None:
            table.column(seed)
        scale = x or guess_scale(table, loss)
        return cls(without_blanks(table, (scale, loss)), scale, loss, seed)

    @property
    def data(self) -> dict[str, Any]:
        """Arguments that `analyse`, `forecast`, `backtest` and `grouped` share."""
        loss, name = losses(self.table, self.loss)
        return {
            "x": self.table.numbers(self.scale),
            "loss": loss,
            "replicate": np.arange(len(loss)),  # `without_repeats` has dropped what is there twice
            "x_name": self.scale,
            "loss_name": name,
            **({} if self.noise is None else {"noise": standard_errors(self.table, self.noise, self.loss)}),
        }

    def split(self, group: str | None) -> dict[str, ScaleColumns]:
        """The rows of every group by its name, in order of appearance; everything under "" without groups."""
        return {name: replace(self, table=part) for name, part in split_table(self.table, group).items()}

    def mixed_notes(self) -> tuple[str, ...]:
        """Other known scales that vary among the rows of one scale: a law in this one mixes them."""
        if is_of_a_study(self.table):
            return ()
        known, notes = named_like(self.table, (*size_names(self.table), *DATA_NAMES, *COMPUTE_NAMES, *UNIQUE_NAMES)), []
        place = np.unique(self.table.numbers(self.scale), return_inverse=True)[1].reshape(-1)
        for name in known:
            if name == self.scale or not varies(self.table, name):
                continue
            values = self.table.numbers(name)
            high, low = np.full(place.max() + 1, -np.inf), np.full(place.max() + 1, np.inf)
            np.fmax.at(high, place, values)
            np.fmin.at(low, place, values)
            spread = float(np.max(high / np.maximum(low, 1e-300), initial=0.0))
            if spread > VARIES:
                notes.append(
                    f"'{name}' varies {spread:.3g}-fold among rows of the same '{self.scale}': a law in "
                    f"'{self.scale}' alone mixes them (fit a law in size and data instead)"
                )
        return tuple(notes)


def split_table(table: Table, group: str | None) -> dict[str, Table]:
    """The rows of every group by its name, in order of appearance; everything under "" without groups."""
    if group is None:
        return {"": table}
    codes, names = table.labels(group)
    return {name: table.rows(codes == k) for k, name in enumerate(names)}


@contextmanager
def naming(group: str) -> Iterator[None]:
    """Errors of what is done inside name the group that it is done for; "" is no group."""
    try:
        yield
    except InputError as error:
        if not group:
            raise
        raise InputError(f"{group}: {error}", field=error.field, value=error.value, allowed=error.allowed) from error


def group_column(table: Table, group: str | None) -> str | None:
    """The column of groups: the one named, or "method" where it has several values, since methods are never pooled."""
    if group is None and "method" in table.names and table.n_distinct("method") > 1:
        return "method"
    return group


AS_SERIES = (
    "keep one value, or make the column a series (a law for each value) or best-of (the best value at each scale)"
)


def pooled_notes(
    table: Table, used: Collection[str | None], scales: Sequence[str] = (), remedy: str = AS_SERIES
) -> tuple[str, ...]:
    """Columns that are not used and yet vary among rows of one scale: conditions that are pooled.

    Words count as a condition, and numbers where few values return again and again, as those of a sweep do; known
    scales are left to `ScaleColumns.mixed_notes`. In a study's table only its design can be one.
    """
    names = [name for name in table.names if name not in used and name not in scales]
    if is_of_a_study(table):
        names = [name for name in names if name in design_columns(table)]
    mixed = [name for name in names if is_condition(table, name) and _varies_inside(table, name, scales)]
    if not mixed:
        return ()
    told = ", ".join(f"'{name}' ({table.n_distinct(name)} values)" for name in mixed)
    return (f"rows that differ in {told} are pooled, as if they were repeats; {remedy}",)


def design_columns(table: Table) -> tuple[str, ...]:
    """What the trials of a study vary: the columns of its results table between the label and the seed."""
    names = list(table.names)
    start = names.index("label") + 1 if "label" in names else 0
    end = names.index("seed") if "seed" in names else 0
    return tuple(names[start:end])


def keep_best(table: Table, columns: Sequence[str], point: Sequence[str], loss: str) -> Table:
    """At every point the rows of the best value of ``columns`` alone, with notes that say how it was chosen.

    Raises:
        InputError: a column is missing, or a row has no number to choose by.
    """
    for name in (*columns, *point, loss):
        table.column(name)
    needed = dict.fromkeys((*columns, *point, loss, *(name for name in table.names if "val" in name.lower())))
    cells = {name: table.columns[name].tolist() for name in needed}
    cells[loss] = table.numbers(loss).tolist()
    rows = [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]
    found = best_of(rows, columns, point, loss)
    kept = np.zeros(table.n_rows, bool)
    kept[list(found.kept)] = True
    return replace(table.rows(kept), notes=(*table.notes, *found.notes))


def with_series(table: Table, columns: Sequence[str]) -> tuple[Table, str]:
    """The table with a column that names the series of each row, ``width=8, data=web``, and that column's name."""
    parts = [table.labels(name) for name in columns]
    cells = [np.array(names, dtype=TEXT)[codes].tolist() for codes, names in parts]
    labels = [
        ", ".join(f"{name}={cell}" for name, cell in zip(columns, row, strict=True)) for row in zip(*cells, strict=True)
    ]
    name = f"series: {', '.join(columns)}"
    return table.with_column(name, labels), name


def is_of_a_study(table: Table) -> bool:
    """Whether the table is the results of a study, in which what varies is its design."""
    return {"status", "kind"} <= set(table.names)


def is_condition(table: Table, name: str) -> bool:
    """Whether a few values return in a column: not one label or measurement a row, and no scale."""
    if name in named_like(table, (*ALL_SIZE_NAMES, *DATA_NAMES, *COMPUTE_NAMES, *UNIQUE_NAMES)):
        return False
    head = table.column(name)[:_LOOK]
    if len(head) == _LOOK and len(set(head.tolist())) > _LOOK // 2:
        return False
    return 1 < table.n_distinct(name) <= table.n_rows / 3


_LOOK = 4096  # rows after which a column with ever new values is none of a few conditions


def _varies_inside(table: Table, name: str, scales: Sequence[str]) -> bool:
    """Whether rows of one scale differ in a column."""
    place = np.zeros(table.n_rows, dtype=np.intp)
    for scale in scales:
        codes = np.unique(table.numbers(scale), return_inverse=True)[1].reshape(-1)
        place = np.unique(place * (int(codes.max()) + 1) + codes, return_inverse=True)[1].reshape(-1)
    codes, names = table.labels(name)
    return len(np.unique(place * len(names) + codes)) > len(np.unique(place))


def sizes_and_tokens(table: Table, size: str, data: str | None) -> tuple[Array, Array, str]:
    """Model sizes, tokens and the name of these; without a column of tokens they are compute / (6 N).

    Args:
        data: the column of tokens or of training compute; None where it is to be guessed.
    """
    sizes = table.numbers(size)
    if data is None and not named_like(table, DATA_NAMES):
        data = guess_one(table, COMPUTE_NAMES, "training compute", "d")
    name = data or guess_one(table, DATA_NAMES, "number of tokens", "d")
    if name in named_like(table, COMPUTE_NAMES):
        return sizes, tokens_of_compute(name, sizes, table.numbers(name)), f"{name}{PER_SIZE}"
    return sizes, table.numbers(name), name


def sizes_by_data(names: Sequence[str]) -> bool:
    """Whether two scales are by their names model sizes and tokens, or compute, C = 6 N D, that tokens come from."""
    size, data = ({plain_name(name) for name in known} for known in (ALL_SIZE_NAMES, (*DATA_NAMES, *COMPUTE_NAMES)))
    return plain_name(names[0]) in size and (plain_name(names[1]) in data or names[1].endswith(PER_SIZE))


PER_SIZE = " / 6N"  # what the name of tokens that were made from compute ends in


def tokens_of_compute(name: str, sizes: Array, compute: Array) -> Array:
    """Tokens D = C / (6 N) of a column of compute, whose name tells FLOPs from PF-days.

    To 12 digits: equal tokens of different sizes are one scale, whatever the division rounds to.
    """
    unit = PF_DAY if plain_name(name) in {plain_name(known) for known in PF_DAY_NAMES} else 1.0
    found = unit * compute / (FLOPS_PER_PARAMETER_AND_TOKEN * sizes)
    return np.array([float(f"{value:.12g}") for value in found.tolist()])
