"""Which rows of a table count: finished runs, their ends, and what a schedule says about checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from metascale.core.columns import NOT_IN_A_LAW
from metascale.core.errors import InputError
from metascale.laws.observations import Integers, Mask
from metascale.laws.table import Table, is_of_a_study, named_like, plain_name, varies

STATE_NAMES = ("status", "state", "run_status", "run_state", "job_state")
FINISHED = frozenset(
    ("finished", "finish", "complete", "completed", "success", "successful", "succeeded", "done", "ok", "terminated")
)
UNFINISHED = frozenset(
    {
        *("crashed", "crash", "failed", "failure", "fail", "running", "killed", "preempted", "preempting", "pending"),
        *("error", "errored", "cancelled", "canceled", "timeout", "oom", "out_of_memory", "aborted", "queued"),
        *("scheduled", "paused", "stopped", "interrupted", "unfinished", "incomplete", "diverged", "pruned"),
        *("waiting", "created", "suspended"),
    }
)
"""The words of W&B, MLflow, Optuna, Ray, Slurm and people for runs that did not reach their end."""
RUN_NAMES = ("run", "run_id", "run_name", "runid", "run name", "trial_id", "name")
STEP_NAMES = ("step", "_step", "global_step", "iteration", "training_step", "train_step", "trainer/global_step")
RATE_NAMES = ("lr", "learning_rate", "train_lr", "train/lr", "train/learning_rate", "lr/current")
LAST_STEP_NAMES = ("max_steps", "total_steps", "num_steps", "n_steps", "max_step", "training_steps")
DECAYING = 0.98  # a rate that ends below this part of what it was has decayed


def usable_rows(table: Table, run: str | None = None, *, checkpoints: bool = False, scale: str | None = None) -> Table:
    """The ends of finished runs; of a study's results table without the baselines and the searches.

    Args:
        run: the column that names the runs; guessed where the table has a step as well.
        checkpoints: keep every row of a run, and say what its schedule makes of them.
        scale: the column of the scale, where it was named: a law in the step itself keeps every step.

    Raises:
        InputError: no row is left.
    """
    table = _finished(table)
    if is_of_a_study(table):
        kinds = np.array(table.labels("kind")[1])
        learner = ~np.isin(kinds, NOT_IN_A_LAW)[table.labels("kind")[0]]
        if not learner.all():
            table = table.rows(learner, f"{int((~learner).sum())} rows left out: baselines and searches")
    if table.n_rows == 0:
        raise InputError(f"{table.source} has no finished row that is not a baseline")
    return _ends_of_runs(table, run, checkpoints, scale)


def _finished(table: Table) -> Table:
    for state in named_like(table, STATE_NAMES):
        codes, names = table.labels(state)
        words = [name.strip().lower().replace(" ", "_") for name in names]
        if not any(word in FINISHED or word in UNFINISHED for word in words):
            continue  # the state of something else
        finished = np.array([word in FINISHED for word in words])[codes]
        if finished.all():
            return table
        counts = np.bincount(codes, minlength=len(names))
        told = ", ".join(
            f"{counts[k]} {name or 'empty'}" for k, name in enumerate(names) if words[k] not in FINISHED and counts[k]
        )
        return table.rows(finished, f"{int((~finished).sum())} rows left out: their {state} is not 'finished' ({told})")
    return table


def run_column(table: Table, run: str | None = None) -> str | None:
    """The column that says which run a row belongs to: the one named, or the known name where it repeats.

    A column called just "name" counts only beside a step.
    """
    if run is not None:
        table.column(run)
        return run
    known = named_like(table, RUN_NAMES if step_column(table) else RUN_NAMES[:-1])
    return next((name for name in known if table.n_distinct(name) < table.n_rows), None)


def step_column(table: Table) -> str | None:
    """The column that counts the steps of a run."""
    return next((name for name in named_like(table, STEP_NAMES) if varies(table, name)), None)


@dataclass(frozen=True)
class Runs:
    """The runs of a table: which of them a row belongs to, and the row where each ends."""

    column: str
    step: str
    codes: Integers
    names: list[str]
    last: Integers

    @classmethod
    def of(cls, table: Table, run: str | None) -> Runs | None:
        """None where the table has no runs with several steps."""
        column, step = run_column(table, run), step_column(table)
        if column is None or step is None:
            return None
        codes, names = table.labels(column)
        if len(names) == table.n_rows:
            return None
        # The last of the rows with a run's largest step; a row without a step counts as its first.
        steps = np.nan_to_num(table.numbers(step), nan=-np.inf)
        order = np.lexsort((np.arange(len(codes)), steps, codes))
        ends = np.r_[np.flatnonzero(np.diff(codes[order])), len(order) - 1]
        return cls(column, step, codes, names, np.sort(order[ends]))


def counts_steps(name: str) -> bool:
    """Whether a column by its name counts the steps of a run, so that its rows are checkpoints."""
    return plain_name(name) in {plain_name(known) for known in STEP_NAMES}


def are_checkpoints(table: Table, scale: str, run: str | None) -> bool:
    """Whether rows that are to be fitted are checkpoints: steps of a run, or several rows of one."""
    if run is not None and run in table.names:
        return table.n_distinct(run) < table.n_rows
    return counts_steps(scale)


def _ends_of_runs(table: Table, run: str | None, checkpoints: bool, scale: str | None) -> Table:
    """The last row of every run, where the table has a run and a step and holds several steps of a run."""
    found = Runs.of(table, run)
    if found is None:
        return table
    notes = _schedule_notes(table, found)
    n, runs = table.n_rows, len(found.names)
    if runs == 1 or scale == found.step or checkpoints:
        kept = (
            f"{n} rows are checkpoints of {runs} run{'s' if runs > 1 else ''}, and all are kept; one whose learning "
            "rate still decays is worse than a run that was meant to end there, and is not a scaling point"
        )
        return _with_notes(table, (kept, *notes))
    ends = np.zeros(n, bool)
    ends[found.last] = True
    note = (
        f"{n} rows are checkpoints of {runs} runs: the end of each run is kept, since a checkpoint whose "
        "learning rate still decays is not a scaling point"
    )
    return _with_notes(table.rows(ends, note), notes)


def _with_notes(table: Table, notes: tuple[str, ...]) -> Table:
    return replace(table, notes=(*table.notes, *notes), _known={})


def _schedule_notes(table: Table, runs: Runs) -> tuple[str, ...]:
    """What the rates and the planned steps of the runs say about their rows."""
    notes = []
    rate = next(iter(named_like(table, RATE_NAMES)), None)
    if rate is not None and varies(table, rate):
        values = table.numbers(rate)
        peak = np.full(len(runs.names), -np.inf)
        np.fmax.at(peak, runs.codes, values)
        end = values[runs.last]
        of_end = runs.codes[runs.last]
        decays = end < DECAYING * peak[of_end]
        if decays.any():
            notes.append(
                f"'{rate}' decays within {int(decays.sum())} of {len(runs.names)} runs: their checkpoints before the "
                "end are not scaling points"
            )
        elif bool((np.abs(end / peak[of_end] - 1) < 1 - DECAYING).all()):
            notes.append(f"'{rate}' stays the same within every run: its checkpoints are runs that stopped earlier")
    planned = next(iter(named_like(table, LAST_STEP_NAMES)), None)
    if planned is not None and planned != runs.step:
        short: Mask = table.numbers(runs.step)[runs.last] < DECAYING * table.numbers(planned)[runs.last]
        if short.any():
            notes.append(
                f"{int(short.sum())} of {len(runs.names)} runs end before the last step of their schedule "
                f"('{runs.step}' below '{planned}'): their rate still decays, and their ends are no scaling points"
            )
    return tuple(notes)
