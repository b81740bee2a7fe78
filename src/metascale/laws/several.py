"""Several laws of one table: of its groups, or of its metrics, and whose the options are among the metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from metascale.core.errors import InputError
from metascale.core.notebook import Told, words
from metascale.laws.groups import Grouped
from metascale.laws.metrics import ShareOptions
from metascale.laws.predicting import saved_record
from metascale.laws.record import save_record
from metascale.laws.shares import metric_of
from metascale.laws.table import LOSS_NAMES, Table, losses, naming, plain_name

Given = TypeVar("Given")
Result = TypeVar("Result")
OF_LOSSES = ("objective", "weights", "bounds", "fixed", "noise")
"""Options of a fit that a share has no use for."""


@dataclass(frozen=True)
class _Named(Mapping[str, Result], Generic[Result]):
    """Results by their names."""

    results: dict[str, Result]

    def __getitem__(self, name: str) -> Result:
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)


def _told(one: object) -> str:
    return str(one.summary()) if hasattr(one, "summary") else str(one)


@dataclass(frozen=True)
class ByGroup(Told, _Named[Result]):
    """The results of the groups of a table by their names, and their exponents side by side where they are compared."""

    comparison: Grouped | None = None

    def summary(self) -> str:
        parts = [f"{name}:\n{_told(one)}" for name, one in self.results.items()]
        return "\n\n".join([*parts, *([self.comparison.summary()] if self.comparison else [])])

    def to_json(self) -> dict[str, Any]:
        groups = {name: one.to_json() if hasattr(one, "to_json") else None for name, one in self.results.items()}
        return {"groups": groups, "comparison": None if self.comparison is None else self.comparison.to_json()}

    def save(self, path: Path | str) -> None:
        """Write all laws to one file, for `load_law`.

        Raises:
            InputError: the groups' results are no laws.
        """
        for one in self.results.values():
            if not hasattr(one, "record"):
                raise InputError(f"a {type(one).__name__} is no law; `to_json` holds what can be written of it")
        save_record(path, {name: saved_record(one) for name, one in self.results.items()})


@dataclass(frozen=True)
class ByMetric(Told, _Named[Result]):
    """The results of several metrics of one table by their names; ``refused`` has why the others have none."""

    refused: dict[str, str]

    def summary(self) -> str:
        parts = [f"{name}:\n{_told(one)}" for name, one in self.results.items()]
        return "\n\n".join([*parts, *(f"{name}: refused: {why}" for name, why in self.refused.items())])

    def to_json(self) -> dict[str, Any]:
        return {"metrics": self._records(), "refused": dict(self.refused)}

    def _records(self) -> dict[str, dict[str, Any]]:
        return {name: one.to_json() for name, one in self.results.items()}  # type: ignore[attr-defined]

    def table(self) -> str:
        """One line a metric: its law, its trend and what it says."""
        return metrics_table(self._records(), self.refused)

    def _repr_html_(self) -> str:
        laws = all(hasattr(one, "parameters") for one in self.results.values())
        return words(self.table() if laws else self.summary())


def each_group(parts: Iterable[tuple[str, Given]], measure: Callable[[Given], Result]) -> dict[str, Result]:
    """``measure`` of every group by its name, all of them before any is told.

    Raises:
        InputError: a group cannot be measured; the message names it.
    """
    found: dict[str, Result] = {}
    for name, part in parts:
        with naming(name):
            found[name] = measure(part)
    return found


def each_metric(names: Sequence[str], measure: Callable[[str], Result]) -> ByMetric[Result]:
    """``measure`` of every metric; one that is refused does not lose the others.

    Raises:
        InputError: no metric is named, one is named twice, or all of them are refused: then the first one's error.
    """
    if not names:
        raise InputError("`y` names no metric; give one or more columns, or leave it out", field="y")
    twice = next((name for name in names if list(names).count(name) > 1), None)
    if twice is not None:
        raise InputError(f"`y` names '{twice}' twice; every metric is named once", field="y", value=twice)
    found: dict[str, Result] = {}
    errors: dict[str, InputError] = {}
    for name in names:
        try:
            found[name] = measure(name)
        except InputError as error:
            errors[name] = error
    if not found:
        raise next(iter(errors.values()))
    return ByMetric(found, {name: str(error) for name, error in errors.items()})


def metrics_table(records: Mapping[str, Mapping[str, Any]], refused: Mapping[str, str]) -> str:
    """One line a metric of laws as JSON (or of their groups), and why the refused ones have none."""
    lines = [f"{'metric':<24}{'law':<20}{'trend':<14}parameters"]
    for name, record in records.items():
        groups = record.get("groups", {"": record})
        for group, one in groups.items():
            label = f"{name} ({group})" if group else name
            parts = ", ".join(f"{key} {part['estimate']:.4g}" for key, part in one.get("parameters", {}).items())
            lines.append(f"{label:<24}{one.get('law', '-'):<20}{one.get('trend') or '-':<14}{parts}")
    lines += [f"{name:<24}refused: {why}" for name, why in refused.items()]
    return "\n".join(lines)


@dataclass(frozen=True)
class Part:
    """Of one metric among several: the options of shares that it has a use for, and whether ``OF_LOSSES`` are its."""

    how: ShareOptions
    takes_loss_options: bool = True

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a fit without those that are for the other metrics."""
        return {name: value for name, value in given.items() if self.takes_loss_options or name not in OF_LOSSES}


def parts_of(table: Table, names: Sequence[str], how: ShareOptions) -> dict[str, Part]:
    """Whose the options are where several metrics are asked for: shares' of the shares, losses' of the losses.

    ``kind`` share or error is said of the metrics whose names do not tell. A column that holds no numbers keeps all
    options: its own error comes when it is measured.

    Raises:
        InputError: options that only shares have, and no metric is one.
    """
    shares: dict[str, bool] = {}
    kinds: dict[str, str | None] = {}
    for name in dict.fromkeys(names):
        try:
            values, _ = losses(table, name)
            known = values[np.isfinite(values)]
            told = how.kind == "loss" or _is_named_loss(name) or metric_of(name, known) is not None
            kinds[name] = how.kind if how.kind == "loss" or not told else None
            shares[name] = not _is_named_loss(name) and metric_of(name, known, kinds[name]) is not None
        except InputError:
            continue
    if how.given is not None and shares and not any(shares.values()):
        raise InputError(
            f"`{how.given}` is for shares such as accuracies, and {_listed(list(shares))} "
            f"{'are read as losses' if len(shares) > 1 else 'is read as a loss'}; `kind` says otherwise",
            field=how.given,
        )  # fmt: skip
    mixed = not all(shares.values())
    return {
        name: Part(how) if name not in shares
        else Part(replace(how, kind=kinds[name]), not mixed) if shares[name]
        else Part(ShareOptions("loss"))
        for name in dict.fromkeys(names)
    }  # fmt: skip


def _is_named_loss(name: str) -> bool:
    words = plain_name(name)
    return "loss" in words.split("_") or (words != "y" and words in {plain_name(known) for known in LOSS_NAMES})


def _listed(names: Sequence[str]) -> str:
    return (
        " and ".join([", ".join(f"'{name}'" for name in names[:-1]), f"'{names[-1]}'"])
        if names[1:]
        else f"'{names[0]}'"
    )
