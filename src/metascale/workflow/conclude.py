"""After a study: baselines, shared pools, the law and the report, from the run folders. Idempotent: safe to re-run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from metascale.core.columns import (
    ADAPTATION,
    BASELINES_JSON,
    COMPARED_KINDS,
    LAW_JSON,
    LAWS_JSON,
    MAIN_KINDS,
    META,
    SUMMARY_JSON,
    TEST_EDGE,
    TEST_INNER_LR,
    TEST_INNER_STEPS,
    TEST_POOL_JSON,
    TRAIN_POOL_JSON,
    TUNING_JSON,
)
from metascale.core.errors import InputError
from metascale.core.files import read_json, write_json
from metascale.core.suggest import suggest
from metascale.core.units import finite
from metascale.laws import analyse
from metascale.laws.analysis import Analysis, fit
from metascale.laws.predicting import saved_record
from metascale.laws.record import LawRecord, write_laws
from metascale.laws.scales import ScalesAnalysis
from metascale.laws.surface_fit import SurfaceAnalysis
from metascale.report.write import write_report
from metascale.study.design import Study
from metascale.study.roles import Roles, loss_of
from metascale.study.search.search import tuned_points
from metascale.study.store.claims import locked
from metascale.study.store.folder import StudyView, read_study
from metascale.study.store.manifest import TABLES, seal_study, unseal
from metascale.study.store.table import FINALS, ResultsTable, as_written, write_results
from metascale.workflow.recipe import recipe_of, roles_of

Law: TypeAlias = Analysis | SurfaceAnalysis | ScalesAnalysis


@dataclass(frozen=True)
class Conclusion:
    """The laws of a study: one analysis a series (usually one), or why there is none; and the files written.

    ``cautions`` are what the page's headline says besides: baselines that do better, runs that had not converged.
    ``answer`` is that headline, and ``methods`` what it compares: name, kind, mean loss and accuracy (where measured).
    """

    analyses: Mapping[str, Law]
    no_law: str
    written: tuple[Path, ...]
    cautions: tuple[str, ...] = ()
    answer: str = ""
    methods: tuple[Mapping[str, Any], ...] = ()


def conclude(folder: Path | str) -> Conclusion:
    """Write results.csv, baselines.json, law.json, plots and report.html into a study's folder.

    Raises:
        InputError: the folder holds no study.
    """
    folder = Path(folder).expanduser()
    view = read_study(folder)
    with locked(folder):
        unseal(folder, files=None)
    table = write_results(folder)
    roles = roles_of(view.study)
    baselines = baseline_results(table, roles.crossed)
    if baselines:
        write_json(folder / BASELINES_JSON, baselines)
    for run in view.runs:
        pool = run.folder / TRAIN_POOL_JSON
        if run.trial.kind == META and pool.exists() and not run.damage():
            write_json(folder / TEST_POOL_JSON, shared_pools(read_json(pool)))
            break
    analyses, reason = laws_of(view.study, table, roles)
    write_laws(folder, {series: record_of(found) for series, found in analyses.items()})
    written = [*_write_tuning(view), *write_own(view, table), *write_report(folder)]
    summary = read_json(folder / SUMMARY_JSON)
    own = [folder / name for name in (*TABLES, FINALS, BASELINES_JSON, TEST_POOL_JSON, LAW_JSON, LAWS_JSON)]
    seal_study(view, [*own, *written])
    methods = tuple({key: one[key] for key in ("name", "kind", "loss", "accuracy")} for one in summary["methods"])
    return Conclusion(analyses, reason, tuple(written), tuple(summary["cautions"]), summary["answer"], methods)


def _write_tuning(view: StudyView) -> list[Path]:
    """tuning.json: what the searches of a study tried and found, and which best values lie at the end of a range."""
    tuned = tuned_points(view)
    if not tuned:
        return []
    write_json(view.folder / TUNING_JSON, [one.to_json() for one in tuned])
    return [view.folder / TUNING_JSON]


def write_own(view: StudyView, table: ResultsTable) -> list[Path]:
    """What the recipe itself concludes from its study."""
    recipe = recipe_of(view.study)
    return [] if recipe is None else recipe.conclude(view, table)


def shared_pools(described: Mapping[str, Any]) -> dict[str, Any]:
    """The meta-validation and meta-test pools, which every trial of a study shares, from one trial's description."""
    pools = {split: tasks for split, tasks in described.get("pools", {}).items() if split != "train"}
    own = ("seed", "n_train_classes")
    return {**{key: value for key, value in described.items() if key not in own}, "pools": pools}


_CHOSEN = {
    "inner_lr": TEST_INNER_LR, "scale": "scale", "ridge": "ridge", "inner_steps": TEST_INNER_STEPS, "edge": TEST_EDGE
}  # fmt: skip
"""What tuning chose for a baseline: names in baselines.json, and columns."""


def baseline_results(table: ResultsTable, crossed: Sequence[str] = ()) -> dict[str, Any]:
    """Finished baselines and controls: test loss and accuracy (means over seeds), and what tuning chose.

    Args:
        crossed: axes at whose values the baselines run.

    Returns:
        By method, followed by the values of ``crossed``: ``"fine_tuning, k_shot=5"``.
    """
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for row in table.finished().rows:
        if row["kind"] in COMPARED_KINDS:
            where = [f"{key}={as_written(row[key])}" for key in crossed if row.get(key) is not None]
            by_method.setdefault(", ".join([str(row["method"]), *where]), []).append(row)
    found: dict[str, Any] = {}
    for method, rows in by_method.items():
        last = rows[-1]
        kept = {name: last[column] for name, column in _CHOSEN.items() if last.get(column) is not None}
        measured = [name for name in last if name.startswith("test_") and name not in ADAPTATION]
        tests = {name: _mean([row[name] for row in rows]) for name in measured}
        kept |= {name: value for name, value in tests.items() if value is not None}
        found[method] = {**kept, "kind": last["kind"]}
    return found


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers; the last of anything else."""
    numbers = [float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    return sum(numbers) / len(numbers) if len(numbers) == len(values) else values[-1]


def laws_of(study: Study, table: ResultsTable, roles: Roles | None = None) -> tuple[dict[str, Law], str]:
    """An analysis for every series (one, unless a series axis varies), or the reason why there is none."""
    roles = roles or roles_of(study)
    mine = [row for row in table.rows if row["kind"] in MAIN_KINDS]
    rows = [row for row in mine if row["status"] == "finished"]
    if not rows:
        return {}, "no trial has finished"
    loss = roles.loss or loss_of(table.columns, rows)
    for column in (*roles.scales, loss):
        if not column:
            numbers = [name for name in table.columns if finite(rows[0].get(name)) is not None]
            return {}, f"several columns may be the loss; name it with `loss`: {', '.join(numbers)}"
        if column not in table.columns:
            return {}, f"the results have no column '{column}'; {suggest(column, table.columns, 'they have')}"
    if not roles.scales:
        return {}, "no axis of this study is a scale with at least two numbers"
    notes = [*table.notes]
    if len(mine) > len(rows):
        notes.append(f"{len(mine) - len(rows)} trial(s) failed, diverged or have not ended, and are left out")
    series: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        series.setdefault(", ".join(f"{key}={as_written(row[key])}" for key in roles.series), []).append(row)
    analyses: dict[str, Law] = {}
    reasons = []
    for label, members in series.items():
        try:
            analyses[label] = _analyse(members, roles, loss, notes)
        except InputError as error:
            reasons.append(f"{label}: {error}" if label else str(error))
    return analyses, "; ".join(reasons)


def record_of(law: Law) -> LawRecord:
    """What law.json holds: in several scales what predicts as well, so that ``metascale predict`` reads the study."""
    return law.record() if isinstance(law, Analysis) else saved_record(law)


def _analyse(rows: Sequence[Mapping[str, Any]], roles: Roles, loss: str, notes: Sequence[str]) -> Law:
    """The law of one series: along one scale with the seeds as repeats, or in several by what `fit` of a table does."""
    scales, higher = roles.scales, True if roles.better == "higher" else None
    whole = [row for row in rows if None not in (finite(row.get(name)) for name in (*scales, loss))]
    if len(whole) < len(rows):
        notes = [*notes, f"{len(rows) - len(whole)} trial(s) have no number in {' or '.join((*scales, loss))}"]
    x = np.array([[float(row[name]) for name in scales] for row in whole]).reshape(-1, len(scales))
    losses = [float(row[loss]) for row in whole]
    if len(scales) > 1:
        every = np.arange(len(losses))  # equal losses of two seeds are two runs
        return fit(x, losses, replicate=every, x_name=tuple(scales), loss_name=loss, notes=notes)
    seeds = [row["seed"] for row in whole]
    return analyse(
        x[:, 0], losses, replicate=seeds, x_name=scales[0], loss_name=loss, higher_is_better=higher, notes=notes
    )
