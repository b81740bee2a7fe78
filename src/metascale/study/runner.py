"""Running a study: claim what is left, run it where the executor says, record how it ended. The same call resumes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metascale.core.columns import STUDY_JSON
from metascale.study.design import Study
from metascale.study.errors import explain_disk_full
from metascale.study.executors.local import SerialExecutor
from metascale.study.run.job import Executor
from metascale.study.run.session import Reporter, Session, StudyOutcome
from metascale.study.run.stopping import stopping_on_signals
from metascale.study.store.manifest import TABLES, seal_study
from metascale.study.store.provenance import record_study
from metascale.study.store.store import LEASE_S, RunStore
from metascale.study.store.table import FINALS, write_results


def run_study(
    study: Study,
    folder: Path | str,
    executor: Executor | None = None,
    *,
    fail_fast: bool = False,
    retry_failed: bool = True,
    retry_diverged: bool = False,
    keep_checkpoints: bool = False,
    lease_s: float = LEASE_S,
    reporter: Reporter | None = None,
    facts: Mapping[str, Any] | None = None,
    stop_seen: str | None = None,
    stacks: Sequence[Sequence[str]] | Callable[[Study], Sequence[Sequence[str]]] = (),
) -> StudyOutcome:
    """Run every trial of ``study`` that has not ended yet, and write the table. The same call again resumes.

    SIGINT (Ctrl-C) or SIGTERM has every running trial saved after its step, and ended; a second one ends them at once.

    Args:
        folder: the study's own folder, made when it is not there, on a local disk.
        executor: where trials run (default: one after another in this process, on the CPU).
        fail_fast: start no new trial after one failed; running ones run to their end.
        retry_failed: try again, from the last checkpoint, what had failed before this call.
        retry_diverged: start again, from nothing, what had diverged before this call.
        keep_checkpoints: keep the last checkpoints of finished trials.
        lease_s: how long another runner leaves a trial alone after this one was last heard of.
        facts: what the provenance keeps besides versions, revisions and hardware: the command, hashes of the data.
        stop_seen: the last request to stop that came before the command of which this call is a part, so that one
            which comes between two parts ends the next (`StopWatch.seen`; default: this call is a whole command).
        stacks: ids of trials that run together, as many of each stack as are left, or a function of the study that
            gives them; the module of the trial function has a function ``together`` (`metascale.study.run.stack`). Only
            for executors of this machine.

    Raises:
        InputError: the folder holds another study, or this machine lacks what the executor needs; nothing is touched.
        DiskFull: no space left; everything recorded is whole and the same call resumes.
        KeyboardInterrupt: everything is resumable, and the reporter has said so.
    """
    folder, executor = Path(folder).expanduser(), executor or SerialExecutor()
    if not (folder / STUDY_JSON).exists():
        executor.check()
    with explain_disk_full(folder, "opening the study"):
        store = RunStore.create(folder, study)
    try:
        beside = stacks(study) if callable(stacks) else stacks
        session = Session(store, study.trials(), reporter, keep_checkpoints, lease_s, facts or {}, stop_seen, beside)
        with explain_disk_full(folder, "opening the study"):
            session.plan(retry_failed, retry_diverged)
        return _run(session, study, executor, fail_fast, reporter, facts or {})
    finally:
        store.close()


def _run(
    session: Session,
    study: Study,
    executor: Executor,
    fail_fast: bool,
    reporter: Reporter | None,
    facts: Mapping[str, Any],
) -> StudyOutcome:
    start, folder = time.monotonic(), session.store.folder
    if not session.is_done:
        with explain_disk_full(folder, "recording where the study runs"):
            record_study(folder, study.trial, facts)
    outcome = None
    if reporter is not None:
        reporter.begin(folder, len(session.trials), session.n_skipped)
    try:
        with stopping_on_signals(signal.SIGINT, signal.SIGTERM) as take_signals:
            session.run(executor, fail_fast, take_signals)
        with explain_disk_full(folder, "writing the table"):
            write_results(folder)
            outcome = session.outcome(time.monotonic() - start)
            # The index is at rest, and has a hash, once it is closed.
            session.store.close()
            seal_study(session.store.view(), [folder / name for name in (*TABLES, FINALS)])
    finally:
        if reporter is not None:
            reporter.end(outcome)
    return outcome
