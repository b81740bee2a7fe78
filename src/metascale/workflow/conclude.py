"""After a study: baselines, shared pools, the law and the report, from the run folders. Idempotent: safe to re-run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metascale.core.columns import (
    BASELINES_JSON,
    COMPARED_KINDS,
    MAIN_KINDS,
    META,
    TEST_POOL_JSON,
    TRAIN_POOL_JSON,
    TUNING_JSON,
)
from metascale.core.errors import InputError
from metascale.core.files import read_json, write_json
from metascale.laws import analyse
from metascale.laws.analysis import Analysis
from metascale.laws.record import write_laws
from metascale.report.write import write_report
from metascale.study.design import Study
from metascale.study.search.search import tuned_points
from metascale.study.store.folder import StudyView, read_study
from metascale.study.store.records import format_cell
from metascale.study.store.table import ResultsTable, write_results
from metascale.workflow.recipe import LawColumns, law_columns, recipe_of


@dataclass(frozen=True)
class Conclusion:
    """The laws of a study: one analysis a series (usually one), or why there is none; and the files written."""

    analyses: Mapping[str, Analysis]
    no_law: str
    written: tuple[Path, ...]


def conclude(folder: Path | str) -> Conclusion:
    """Write results.csv, baselines.json, law.json, plots and report.html into a study's folder.

    Raises:
        InputError: the folder holds no study.
    """
    folder = Path(folder)
    view = read_study(folder)
    table = write_results(folder)
    baselines = baseline_results(table)
    if baselines:
        write_json(folder / BASELINES_JSON, baselines)
    for run in view.runs:
        pool = run.folder / TRAIN_POOL_JSON
        if run.trial.kind == META and pool.exists():
            write_json(folder / TEST_POOL_JSON, shared_pools(read_json(pool)))
            break
    analyses, reason = laws_of(view.study, table, law_columns(view.study))
    write_laws(folder, {series: found.record() for series, found in analyses.items()})
    written = [*_write_tuning(view), *write_own(view, table), *write_report(folder)]
    return Conclusion(analyses, reason, tuple(written))


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


def baseline_results(table: ResultsTable) -> dict[str, Any]:
    """Finished baselines and controls by method: test loss and accuracy (means over seeds), and what tuning chose."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for row in table.finished().rows:
        if row["kind"] in COMPARED_KINDS:
            by_method.setdefault(str(row["method"]), []).append(row)
    found: dict[str, Any] = {}
    for method, rows in by_method.items():
        last = rows[-1]
        kept = {name: last[name] for name in ("inner_lr", "scale", "ridge") if last.get(name) is not None}
        tests = {name: _mean([row[name] for row in rows]) for name in last if name.startswith("test_")}
        kept |= {name: value for name, value in tests.items() if value is not None}
        if last.get("tuned_inner_steps") is not None:
            kept["inner_steps"] = last["tuned_inner_steps"]
        found[method] = {**kept, "kind": last["kind"]}
    return found


def _mean(values: Sequence[Any]) -> Any:
    """The mean of numbers; the last of anything else."""
    numbers = [float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    return sum(numbers) / len(numbers) if len(numbers) == len(values) else values[-1]


def laws_of(study: Study, table: ResultsTable, columns: LawColumns | None = None) -> tuple[dict[str, Analysis], str]:
    """An analysis for every series (one, unless more than the scale varies), or the reason why there is none."""
    columns = columns or law_columns(study)
    if columns.scale is None:
        return {}, "no axis of this study is a scale with at least two numbers"
    mine = [row for row in table.rows if row["kind"] in MAIN_KINDS]
    rows = [row for row in mine if row["status"] == "finished"]
    series: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        series.setdefault(", ".join(f"{key}={_as_written(row[key])}" for key in columns.series), []).append(row)
    left_out = len(mine) - len(rows)
    notes = [f"{left_out} trial(s) failed, diverged or have not ended, and are left out"] if left_out else []
    analyses, reasons = {}, []
    for label, members in series.items():
        try:
            analyses[label] = _analyse(members, columns.scale, columns.loss, notes)
        except InputError as error:
            reasons.append(f"{label}: {error}" if label else str(error))
    return analyses, "; ".join(reasons) or ("" if analyses else "no trial has finished")


def _as_written(value: Any) -> str:
    """A value as results.csv shows it, by which the report finds the series again."""
    return value if isinstance(value, str) else format_cell(value)


def _analyse(rows: Sequence[Mapping[str, Any]], axis: str, loss: str, notes: Sequence[str]) -> Analysis:
    return analyse(
        [row[axis] for row in rows],
        [row[loss] for row in rows],
        replicate=[row["seed"] for row in rows],
        x_name=axis,
        loss_name=loss,
        notes=notes,
    )
