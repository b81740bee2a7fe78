"""The page's tables as text: columns, rows, and the number behind each cell for sorting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from metascale.report.comparisons import ComparisonTable, ContestTable
from metascale.report.data import HeldOut, LawTable, ScaleTable
from metascale.report.overview import Family, TrialRow, TrialTable
from metascale.report.reading import finite
from metascale.report.section import DASH, Cell, Column, PageTable, Row, of
from metascale.report.series import method_label
from metascale.report.words import decimals, interval, number, p_words, percent, scale_symbol


def scales_table(law: LawTable, accuracy: ScaleTable) -> PageTable:
    """Means by scale, the spread across seeds and across tasks in columns of their own."""
    table = law.scales
    several = len(table.series) > 1
    accuracies = {(mean.series, mean.x): mean for mean in accuracy.means}
    rows = []
    for mean in table.means:
        other = accuracies.get((mean.series, mean.x))
        rows.append(
            _row(
                *((Cell(mean.series),) if several else ()),
                Cell(number(mean.x), mean.x),
                Cell(str(mean.n_seeds), mean.n_seeds),
                _fixed(mean.mean, 4),
                _fixed(mean.seed_sem, 4),
                _fixed(mean.task_sem, 4),
                _percent(other.mean if other else None),
                _percent(other.seed_sem if other else None),
            )
        )
    heads = (
        "series",
        table.x_label,
        "seeds",
        table.y_label,
        "SE across seeds",
        "SE across tasks",
        "accuracy",
        "its SE across seeds",
    )
    caption = (
        "Means over seeds. SE across seeds: standard error from training again; SE across tasks: the mean of the runs' "
        "own standard errors across test tasks, each with its one fixed episode. The two are never added."
    )
    return PageTable(caption, _columns(*(heads if several else heads[1:])), tuple(rows))


def parameters_table(series: str, law: Mapping[str, Any], level: float) -> PageTable:
    """Parameters of the chosen law with all the digits that repeating the prediction needs."""
    rows = []
    for name, entry in (law.get("parameters") or {}).items():
        parts = [finite(entry.get(part)) for part in ("estimate", "low", "high")]
        rows.append(_row(Cell(str(name)), *(Cell(DASH if part is None else f"{part:.7g}", part) for part in parts)))
    r2 = finite(law.get("r2_log"))
    objective = finite(law.get("objective"))
    quality = [f"R² of log loss {r2:.4f}"] if r2 is not None else []
    quality += [f"objective {objective:.10g}"] if objective is not None else []
    formula = f": {law['formula']}" if law.get("formula") else ""
    caption = f"{of(series)}Parameters of the chosen law '{law.get('law')}'{formula}. {', '.join(quality)}".strip()
    return PageTable(caption, _columns("parameter", "estimate", f"{100 * level:g} % low", "high"), tuple(rows))


def families_table(series: str, families: Sequence[Family]) -> PageTable:
    """Families by backtest error, the chosen one in bold."""
    rows = []
    for family in families:
        parameters = ", ".join(f"{name} {number(value)}" for name, value in family.parameters.items())
        told = family.converged or family.note.startswith("did not converge")
        note = "; ".join(part for part in ("" if told else "did not converge", family.note) if part)
        name = Cell(f"{family.name} (chosen)" if family.chosen else family.name)
        numbers = (
            _fixed(family.backtest_rmse_log, 4), Cell(percent(family.backtest_coverage, 0), family.backtest_coverage),
            _fixed(family.rmse_log, 4), _fixed(family.aicc, 1),
        )  # fmt: skip
        rows.append(_row(name, *numbers, Cell(parameters), Cell(note), mark="chosen" if family.chosen else ""))
    columns = (
        *_columns("family", "backtest RMSE", "its 90 % intervals held", "fit RMSE", "AICc"),
        Column("parameters", False),
        Column("note", False),
    )
    caption = (
        f"{of(series)}Errors are of log loss. The backtest hides the largest scales, fits the rest and predicts them: "
        "the error that matters for extrapolation; beside it, the share of hidden scales inside its intervals."
    )
    return PageTable(caption, columns, tuple(rows))


def extrapolation_table(series: str, held_out: HeldOut, law: LawTable) -> PageTable:
    """What was predicted for the largest scale, by the law and by the two plain baselines."""
    rows = [
        _row(Cell("measured"), _fixed(held_out.observed, 4), Cell(""), Cell(DASH)),
        _row(
            Cell(f"law '{held_out.law}'" if held_out.law else "law"),
            _fixed(held_out.predicted, 4),
            Cell(interval(held_out.low, held_out.high, 4)),
            _fixed(held_out.log_error, 4),
        ),
    ]
    rows += [
        _row(Cell(name.replace("_", " ")), _fixed(value, 4), Cell(""), _log_error(value, held_out.observed))
        for name, value in held_out.baselines.items()
    ]
    heads = _columns("predictor", law.scales.y_label, f"{100 * law.level:g} % interval", "log error")
    return PageTable(
        "Predicted from the smaller scales alone; log error is ln(predicted / measured).", heads, tuple(rows)
    )


def contest_table(table: ContestTable) -> PageTable:
    """Methods by test loss."""
    rows = []
    for row in table.rows:
        settings = ", ".join(f"{key.replace('_', ' ')} {_setting(value)}" for key, value in row.settings.items())
        rows.append(
            _row(
                Cell(row.name),
                Cell(row.kind),
                _fixed(row.loss, 4),
                _fixed(row.task_sem, 4),
                _percent(row.accuracy),
                _percent(row.accuracy_task_sem),
                Cell(settings),
            )
        )
    columns = (
        Column("method", False), Column("kind", False), Column(table.loss_label), Column("SE across tasks"),
        Column("accuracy"), Column("its SE across tasks"), Column("tuned settings", False),
    )  # fmt: skip
    caption = "All on the same test set, best loss first; a series with scales at its smallest, largest and best one."
    return PageTable(caption, columns, tuple(rows))


def comparisons_table(table: ComparisonTable, unit: str) -> PageTable:
    """Paired differences with their tests."""
    firsts = {row.first for row in table.rows}
    rows = []
    for row in table.rows:
        test, difference = row.test, row.test.difference
        effect = Cell(DASH) if test.cohen_d is None else _fixed(test.cohen_d, 2)
        rows.append(
            _row(
                Cell(row.second if len(firsts) == 1 else f"{row.first} − {row.second}"),
                _fixed(difference.estimate, 4),
                Cell(interval(difference.low, difference.high, 4), difference.estimate),
                _fixed(row.seed_sem, 4),
                Cell(p_words(row.p_holm), row.p_holm),
                effect,
                _fixed(test.rank_biserial, 2),
                Cell(str(test.n_tasks), test.n_tasks),
            )
        )
    level = 100 * table.rows[0].test.level if table.rows else 95
    first = f"{next(iter(firsts))} minus" if len(firsts) == 1 else "difference"
    heads = _columns(
        first, unit or "loss", f"{level:g} % across tasks", "SE across seeds", "p (Holm)", "Cohen's d",
        "rank-biserial", "tasks",
    )  # fmt: skip
    caption = (
        "Paired by test task (a task's episodes are averaged first); below zero the first loses less. Interval: "
        "bootstrap over tasks of the losses averaged over seeds, so for these seeds; SE across seeds is apart; "
        f"p: Wilcoxon signed-rank, corrected by Holm for {len(table.rows)} comparisons."
    )
    return PageTable(caption, heads, tuple(rows))


def trials_table(rows: Sequence[TrialRow], x_name: str, *, reasons: bool) -> PageTable:
    """Trials with their status; with ``reasons`` why they did not finish, else their numbers."""
    body = []
    for row in rows:
        cells = [Cell(row.label or row.id), Cell(row.status)]
        if reasons:
            cells.append(Cell(row.reason or "no reason was recorded"))
        else:
            seed = Cell(DASH if row.seed is None else str(row.seed), row.seed)
            cells += [Cell(method_label(row.method)), _plain(row.x), seed, _fixed(row.loss, 4), _fixed(row.task_sem, 4)]
            cells += [_percent(row.accuracy), _plain(row.best_step), _plain(row.steps), _fixed(row.wall_s, 1)]
        body.append(_row(*cells, mark=row.status if row.status in ("failed", "diverged") else ""))
    texts = [Column("trial", False), Column("status", False)]
    if reasons:
        return PageTable(
            "Trials that did not finish; none of them is in the law.", (*texts, Column("reason", False)), tuple(body)
        )
    numbers = (scale_symbol(x_name), "seed", "loss", "SE across tasks", "accuracy", "kept step", "steps", "wall s")
    columns = (*texts, Column("method", False), *map(Column, numbers))
    return PageTable("Every trial of results.csv.", columns, tuple(body))


def status_sentence(table: TrialTable) -> str:
    """How many trials there are and how they ended."""
    if not table.rows:
        return "No trial has been recorded."
    counts = ", ".join(f"{count} {status}" for status, count in table.counts.items())
    return f"{len(table.rows)} {'trial' if len(table.rows) == 1 else 'trials'}: {counts}."


def _row(*cells: Cell, mark: str = "") -> Row:
    return Row(cells, mark)


def _columns(first: str, *numbers: str) -> tuple[Column, ...]:
    return (Column(first, False), *map(Column, numbers))


def _fixed(value: float | None, digits: int) -> Cell:
    return Cell(decimals(value, digits), value)


def _percent(value: float | None) -> Cell:
    return Cell(percent(value), value)


def _plain(value: float | None) -> Cell:
    return Cell(DASH if value is None else number(value), value)


def _log_error(predicted: float, observed: float) -> Cell:
    return _fixed(math.log(predicted / observed) if predicted > 0 and observed > 0 else None, 4)


def _setting(value: Any) -> str:
    return number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
