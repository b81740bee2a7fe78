"""Metrics of a table that are not one loss: shares, shares read off a loss, and several metrics at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from metascale.core.errors import InputError
from metascale.core.notebook import words
from metascale.laws.predicting import predictor_of_loss
from metascale.laws.prepared import Columns, Prepared, groups_of
from metascale.laws.share_analysis import ShareAnalysis, analyse_shares
from metascale.laws.shares import Metric, metric_of
from metascale.laws.table import guess_loss, guess_scale, losses
from metascale.laws.two_steps import TaskAnalysis, link_task

Result = TypeVar("Result")
SHARE_LAWS = ("auto", "logistic")
_OF_SHARES = ("chance", "trials", "via")


@dataclass(frozen=True)
class ShareOptions:
    """What `fit` and `forecast` know of a metric.

    Attributes:
        kind: "share", "error" (a share of failures) or "loss", whatever the column is called.
        chance: what guessing has; trials: the column of the numbers of questions, or one number.
        via: the column of the loss that the share is read off.
    """

    kind: str | None = None
    chance: float | None = None
    trials: Any = None
    via: Any = None

    @property
    def given(self) -> str | None:
        """The first that only a share has a use for."""
        return next((name for name in _OF_SHARES if getattr(self, name) is not None), None)

    def of(self, name: str, values: ArrayLike, law: str = "auto") -> Metric | None:
        """How the metric is a share, or None for a loss.

        Raises:
            InputError: an option that only shares have, on a loss; or a law that is none of a share.
        """
        known = np.asarray(values, float)
        metric = None
        if law in SHARE_LAWS or self.kind in ("share", "error") or self.given is not None:
            kind = "share" if law == "logistic" and self.kind is None else self.kind
            metric = metric_of(name, known[np.isfinite(known)], kind)
        if metric is None and self.given is not None:
            raise InputError(
                f"`{self.given}` is for shares such as accuracies, and '{name}' is read as a loss; `kind` says "
                "otherwise", field=self.given,
            )  # fmt: skip
        if metric is not None and law not in SHARE_LAWS:
            raise InputError(
                f"the law '{law}' is not for shares such as '{name}'; allowed are: {', '.join(SHARE_LAWS)} "
                "(or `kind` loss)",
                field="law", value=law, allowed=", ".join(SHARE_LAWS),
            )  # fmt: skip
        return metric


def share_metric(found: Prepared, options: ShareOptions, y: str | None, law: str = "auto") -> Metric | None:
    """How the metric of a table is a share; None for a loss.

    Raises:
        InputError: options that do not fit the metric, or ``via`` without the name of a share.
    """
    if y is None and options.via is not None:
        raise InputError(f"`y` is missing: name the share that is read off '{options.via}'", field="y")
    name = y or found.loss or guess_loss(found.table)
    found.table.column(name)
    values, _ = losses(found.table, name)
    return options.of(name, values, law)


def analyse_metric(
    found: Prepared, metric: Metric, options: ShareOptions, level: float = 0.95
) -> Iterator[tuple[str, ShareAnalysis | TaskAnalysis, Columns]]:
    """The law of a share in every group of a table, by its name; with ``via`` in two steps."""
    target = found if options.via is None else replace(found, loss=options.via)
    name = metric.name if options.via is None else options.via
    scales = found.scales or (guess_scale(found.table, name),)
    for group, columns in groups_of(replace(target, loss=name), scales):
        table, trials = columns.table, _trials_in(columns, options.trials)
        shared = {"metric": metric, "chance": options.chance, "trials": trials, "level": level,
                  "loss_name": metric.name, "notes": table.notes}  # fmt: skip
        if options.via is None:
            yield group, analyse_shares(columns.x, columns.loss, x_name=columns.names, **shared), columns
            continue
        first = predictor_of_loss(columns.x, columns.loss, columns.names, columns.loss_name, columns.run)
        values = table.numbers(metric.name)
        yield group, link_task(first, columns.loss, values, n_loss_rows=len(columns.loss), **shared), columns


def _trials_in(columns: Columns, trials: Any) -> Any:
    return columns.table.numbers(trials) if isinstance(trials, str) else trials


def analyse_arrays(
    x: ArrayLike, values: ArrayLike, metric: Metric, options: ShareOptions, names: tuple[str, ...], **more: Any
) -> ShareAnalysis | TaskAnalysis:
    """The same of arrays; ``via`` is then [n] losses."""
    shared = {"metric": metric, "chance": options.chance, "trials": options.trials, "loss_name": metric.name, **more}
    if options.via is None:
        return analyse_shares(x, values, x_name=names, **shared)
    via = np.asarray(options.via, float)
    return link_task(predictor_of_loss(np.asarray(x, float), via, names, "loss"), via, values, **shared)


@dataclass(frozen=True)
class ByMetric(Mapping[str, Result], Generic[Result]):
    """The results of several metrics of one table by their names; ``refused`` has why the others have none."""

    results: dict[str, Result]
    refused: dict[str, str]

    def __getitem__(self, name: str) -> Result:
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def summary(self) -> str:
        parts = [f"{name}:\n{one.summary()}" for name, one in self.results.items()]  # type: ignore[attr-defined]
        return "\n\n".join([*parts, *(f"{name}: refused: {why}" for name, why in self.refused.items())])

    def to_json(self) -> dict[str, Any]:
        return {"metrics": {name: one.to_json() for name, one in self.results.items()},  # type: ignore[attr-defined]
                "refused": dict(self.refused)}  # fmt: skip

    def table(self) -> str:
        """One line a metric: its law, its trend and what it says."""
        records = {name: one.to_json() for name, one in self.results.items()}  # type: ignore[attr-defined]
        return metrics_table(records, self.refused)

    def _repr_html_(self) -> str:
        return words(self.table())


def each_metric(names: Sequence[str], measure: Callable[[str], Result]) -> ByMetric[Result]:
    """``measure`` of every metric; one that is refused does not lose the others.

    Raises:
        InputError: a metric is named twice, or all of them are refused: then the first one's error.
    """
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
