"""What a reader should know around the results: what is missing, what was held fixed, and how every trial ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from metascale.core.columns import COMPARED_KINDS, TEST_ACCURACY
from metascale.core.types import SPLITS
from metascale.report.section import (
    Block,
    Bullets,
    Cell,
    Folded,
    PageTable,
    Pairs,
    Row,
    Section,
    plain,
    reading,
    share,
    table,
    text_column,
)
from metascale.report.sections.law import missing_law_reason
from metascale.report.study import ReportStudy, RunRow, StudySource, open_study, sem_column
from metascale.report.words import axis_label, method_label, number, scale_symbol, value_words
from metascale.study.design import flatten

_FIRST = (
    "recipe", "budget", "max_steps", "visits_per_task", "method", "model", "n_way", "k_shot", "n_query", "classes",
    "labels", "n_test_tasks", "n_validation_tasks", "n_tasks", "n_train_classes", "inner_optimizer", "inner_lr",
    "inner_steps", "outer_optimizer", "outer_lr", "meta_batch", "rank",
)  # fmt: skip
"""The settings that a reader asks for first; the others follow."""
_LONG = 12
"""Longer tables are folded."""


def missing_data(source: StudySource) -> tuple[str, ...]:
    """What the study lacks and why, one sentence each; empty when all parts are there."""
    study = open_study(source)
    finished = [run for run in study.main if run.finished and run.number(study.loss_name) is not None]
    missing = [*_missing_law(study)]
    if study.meta and study.scaled and not study.of_kind(*COMPARED_KINDS):
        missing.append("Baselines are missing: the study has no baseline trials.")
    ended = [run for run in study.main if run.status in ("failed", "diverged")]
    if ended:
        missing.append(
            f"{len(ended)} of {len(study.main)} {study.terms.trained} trials diverged or failed and are not in the law."
        )
    waiting = [run for run in study.runs if run.status in ("pending", "running")]
    if waiting:
        missing.append(f"{len(waiting)} trials have not ended yet: the numbers will change.")
    off_axis = [run for run in finished if study.scaled and run.number(study.x_name) is None]
    if off_axis:
        missing.append(
            f"{len(off_axis)} finished trials have no value of {axis_label(study.x_name)} and are not drawn."
        )
    lonely = _scales_with_one_seed(study, finished) if study.scaled else []
    if lonely:
        scales = ", ".join(number(x) for x in lonely)
        missing.append(
            f"No error bar across seeds at {scale_symbol(study.x_name)} = {scales}: one finished seed there."
        )
    if study.meta and finished and not any(run.number(TEST_ACCURACY) is not None for run in finished):
        missing.append("Accuracy is missing: results.csv has no test_accuracy (a regression study has none).")
    if finished and not any(run.run.rows("eval_stats") for run in study.main):
        missing.append("Learning curves are missing: no run folder has eval_stats.csv.")
    if study.meta and finished and not any(run.run.rows("adaptation") for run in study.runs if run.finished):
        missing.append("The adaptation plot is missing: no run folder has adaptation.csv.")
    return tuple(missing)


def _missing_law(study: ReportStudy) -> list[str]:
    if study.law is None:
        scaled = study.scaled or not study.columns
        return [f"The law is missing: {missing_law_reason(study)}"] if scaled else []
    if study.law.extrapolation:
        return []
    why = study.law.extrapolation_reason or "law.json has no held-out scale"
    return [f"The extrapolation check is missing: {why}."]


def _scales_with_one_seed(study: ReportStudy, finished: Sequence[RunRow]) -> list[float]:
    names = study.series
    places = Counter((names[run.id], x) for run in finished if (x := run.number(study.x_name)) is not None)
    return sorted({x for (_, x), seeds in places.items() if seeds == 1})


def missing(study: ReportStudy) -> Section:
    """What the study lacks, before anything else."""
    found = missing_data(study)
    blocks = (Bullets(found),) if found else ()
    return Section("missing", "What is missing, and why", blocks, {"missing": found}, mark="missing")


def fixed_data(source: StudySource) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """What was held fixed: (setting, value) pairs, the most important first and the others apart."""
    study = open_study(source)
    settings = flatten(study.base)
    shown = {key: value for key, value in settings.items() if key.rsplit(".", 1)[-1] not in study.axes}
    # A setting without a value, or of a budget that was not chosen, is no answer to what was held fixed.
    idle = {key for key, value in shown.items() if value is None}
    idle |= {"visits_per_task"} if settings.get("budget") != "visits" else {"max_steps"}
    first = [key for word in _FIRST for key in shown if word in (key.rsplit(".", 1)[-1], key) and key not in idle]
    first = list(dict.fromkeys(first))
    pairs = [(key, value_words(shown[key])) for key in first]
    split = study.test_pool.get("split")
    if isinstance(split, Mapping):
        classes = [f"{len(split[part])} {part}" for part in SPLITS if part in split]
        pairs += [("class split", " / ".join(classes))] if classes else []
    rest = sorted(key for key in shown if key not in first)
    return tuple(pairs), tuple((key, value_words(shown[key])) for key in rest)


def held_fixed(study: ReportStudy) -> Section:
    """The settings that all trials share."""
    first, other = fixed_data(study)
    blocks: list[Block] = [Pairs(first)] if first else []
    if other:
        title = f"{len(other)} more {'setting' if len(other) == 1 else 'settings'}"
        blocks.append(Folded(title, (Pairs(other),), open=not first))
    return Section("fixed", "What was held fixed", tuple(blocks))


def trials(study: ReportStudy) -> Section:
    """Every trial: those that did not finish with the reason, then all with their numbers."""
    statuses = [run.status for run in study.runs]
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    blocks: list[Block] = ["The study has no trials."]
    if counts:
        told = ", ".join(f"{count} {status}" for status, count in counts.items())
        blocks = [f"{len(statuses)} {'trial' if len(statuses) == 1 else 'trials'}: {told}."]
        unfinished = [run for run in study.runs if not run.finished]
        blocks += [reasons_table(study, unfinished)] if unfinished else []
        every = trials_table(study)
        blocks.append(Folded(f"All {len(statuses)} trials", (every,), open=len(statuses) <= _LONG))
    return Section("trials", "Trials", tuple(blocks), {"trials": counts})


def reasons_table(study: ReportStudy, runs: Sequence[RunRow]) -> PageTable:
    """Trials that did not finish, and why."""
    rows = [
        _row(run, Cell(study.name_of(run), full=run.label), [Cell(run.text("message") or "no reason was recorded")])
        for run in runs
    ]
    caption = "Trials that did not finish; none of them is in the law."
    return table(caption, ("trial", text_column("status"), text_column("reason")), rows)


def trials_table(study: ReportStudy) -> PageTable:
    """Every trial with its numbers."""
    loss, rows = study.loss_name, []
    for run in study.runs:
        losses = (reading(run.number(loss)), reading(run.number(sem_column(loss))), share(run.number(TEST_ACCURACY)))
        steps = (plain(run.kept_step), plain(run.number("steps")), reading(run.run.wall_s() or None))
        place = (Cell(study.place(run)), plain(run.number(study.x_name)), Cell(str(run.seed), run.seed))
        rows.append(_row(run, Cell(method_label(run.method), full=run.label), [*place, *losses, *steps]))
    texts = ("method", text_column("status"), text_column("setting"))
    numbers = ("seed", "loss", f"SE across {study.terms.unit}", "accuracy", "kept step", "steps", "wall s")
    return table("Every trial of results.csv.", (*texts, scale_symbol(study.x_name), *numbers), rows)


def _row(run: RunRow, name: Cell, cells: Sequence[Cell]) -> Row:
    return Row((name, Cell(run.status), *cells), run.status if run.status in ("failed", "diverged") else "")
