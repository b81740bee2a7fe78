"""One call of `run_study`: which trials are left, which are claimed, how they ended, and who is told."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from metascale.study.design import Trial
from metascale.study.errors import disk_full, explain_disk_full
from metascale.study.run.job import OWN_STATUS, Ended, Executor, ExitCode, Job, Pool, describe_exit, was_killed
from metascale.study.run.stopping import Mode, StopWatch, ask_run_to_stop, is_signalled
from metascale.study.store.claims import Claim, locked, new_owner, renewed, retire
from metascale.study.store.folder import INDEX, damaged_runs, read_progress, run_folder
from metascale.study.store.index import IndexRow
from metascale.study.store.manifest import TABLES, unseal
from metascale.study.store.store import RunStore
from metascale.study.store.table import FINALS

HANGS_RETRIED = 1
LOSSES_RETRIED = 20
"""A trial resumes elsewhere when its node is lost; one that loses node after node is itself the cause."""
KILLS_RETRIED = 3
"""A trial that is killed from outside resumes at once; one that is killed each time waits for the next call."""
_POLL_S = 0.25
_RECENT = 16
_RESUMABLE = "stopped; the same command resumes from the last checkpoints"

EventKind: TypeAlias = Literal[
    "started", "finished", "failed", "diverged", "lost", "waiting", "interrupted", "stopping", "note"
]


@dataclass(frozen=True, slots=True)
class Event:
    """What a runner tells its reporter: a trial ``started`` or came to one of the statuses, or the runner ``waits``
    for trials of other runners, was asked to stop (``stopping``), or was ``interrupted``; or, as a ``note``, something
    about the study as a whole."""

    kind: EventKind
    label: str = ""
    message: str = ""
    wall_s: float = 0.0
    done: int = 0
    total: int = 0
    eta_s: float | None = None


class Reporter(Protocol):
    """Whoever shows a study in progress."""

    def begin(self, folder: Path, total: int, done: int) -> None: ...

    def event(self, event: Event) -> None: ...

    def end(self, outcome: StudyOutcome | None) -> None:
        """The last call, also after an error or an interruption (``None``)."""
        ...


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """How the trials that the command asked for stand at its end.

    Args:
        total: trials asked for; finished + failed + diverged + pending of them, and the damaged ones.
        ran: attempts that this call ran itself.
        skipped: trials that had ended before this call.
        stopped: whether it ended early because somebody asked (`metascale.study.run.stopping`).
        damaged: every run of the folder that has ended and is not what was written, named with what is wrong: it is
            left out of tables and laws, and not run again.
    """

    folder: Path
    total: int
    finished: int
    failed: int
    diverged: int
    pending: int
    ran: int
    skipped: int
    wall_s: float
    stopped: bool = False
    damaged: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        """0 when every trial finished or diverged, else 1. A diverged trial is a result, shown and never fitted."""
        return 1 if self.failed or self.pending or self.damaged else 0


class Session:
    """The queue of one call, its claims, and what it saw end."""

    def __init__(
        self,
        store: RunStore,
        trials: tuple[Trial, ...],
        reporter: Reporter | None,
        keep_checkpoints: bool,
        lease_s: float,
        facts: Mapping[str, Any],
        stop_seen: str | None = None,
        stacks: Sequence[Sequence[str]] = (),
    ) -> None:
        self.store = store
        # The stored trial of the same id: it has the label that names the folder.
        stored = {trial.id: trial for trial in store.trials}
        self.trials = tuple(stored[trial.id] for trial in trials)
        self.n_skipped = 0
        self._owner = new_owner()
        self._reporter = reporter
        self._keep_checkpoints = keep_checkpoints
        self._lease_s = lease_s
        self._facts = dict(facts)
        self._stop = StopWatch.start(store.folder) if stop_seen is None else StopWatch(store.folder, stop_seen)
        self._stopping: Mode | None = None
        # Trials to claim; those that other runners have; the rows of ended ones to try again; those that run here.
        self._queue: deque[Trial] = deque()
        self._held: deque[Trial] = deque()
        self._again: dict[str, IndexRow] = {}
        self._claims: dict[str, tuple[Trial, Claim]] = {}
        self._hangs: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
        self._kills: Counter[str] = Counter()
        # The stack of a trial, by id; a trial whose stack's process died leaves it for the rest of this call.
        self._stacks = {name: place for place, names in enumerate(stacks) for name in names}
        self._wall_s: deque[float] = deque(maxlen=_RECENT)
        self._n_ran, self._n_slots = 0, 1
        self._failed = self._waiting = False

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to run or to wait for."""
        return not (self._queue or self._held or self._claims)

    def plan(self, retry_failed: bool, retry_diverged: bool) -> None:
        """Queue what has not ended, in the study's order, and remember which ended trials are to be tried again.

        The hashes of what is about to change are taken out first.
        """
        rows = self.store.index.rows()
        for trial in self.trials:
            row = rows[trial.id]
            if (row.status == "failed" and retry_failed) or (row.status == "diverged" and retry_diverged):
                self._again[trial.id] = row
            elif row.status in ("finished", "failed", "diverged", "damaged"):
                self.n_skipped += 1
                continue
            self._queue.append(trial)
        with locked(self.store.folder):
            unseal(self.store.folder, files=(*TABLES, FINALS), runs=[trial.id for trial in self._queue])

    def run(self, executor: Executor, fail_fast: bool, opened: Callable[[], None]) -> None:
        """Claim and run until every trial asked for has ended, here or in another runner.

        ``opened`` is called once the executor is open.
        """
        with renewed(self.store.folder / INDEX, self._owner, self._lease_s):
            try:
                with executor.open() as pool:
                    opened()
                    while not self.is_done:
                        if (fail_fast and self._failed) or self._asked_to_stop():
                            self._queue.clear()
                            self._held.clear()
                        self._fill(pool)
                        for ended in pool.wait(0.0 if self.is_done else _POLL_S):
                            self._settle(ended)
                if is_signalled():
                    self._tell("interrupted", message=_RESUMABLE)
            except KeyboardInterrupt:
                self._tell("interrupted", message=_RESUMABLE)
                raise
            finally:
                self._release_all()

    def _asked_to_stop(self) -> bool:
        asked = self._stop.asked()
        if asked is not None and asked != self._stopping:
            self._stopping = asked
            end = "run to their end" if asked == "finish" else "are saved after the step in progress"
            again = "; a second signal ends them at once" if is_signalled() else ""
            self._tell("stopping", message=f"no new trial starts; running trials ({len(self._claims)}) {end}{again}")
            if is_signalled():
                # The signal came to this process alone: its own trials are told, and not those of other runners.
                with explain_disk_full(self.store.folder, "stopping"):
                    for trial, claim in self._claims.values():
                        ask_run_to_stop(run_folder(self.store.folder, trial), claim)
        return self._stopping is not None

    def _fill(self, pool: Pool) -> None:
        """Give every free slot a trial, as far as there are any to claim."""
        if not self._queue and self._held:
            if not self._claims and not self._waiting:
                self._waiting = True
                self._tell("waiting", message=f"{len(self._held)} trials are with other runners")
            self._queue, self._held = self._held, deque()
        while self._queue and (device := pool.free_device()) is not None:
            claimed = []
            for trial in self._next_stack():
                claim = self._claim(trial, device)
                if claim is not None:
                    self._claims[trial.id] = (trial, claim)
                    claimed.append((trial, claim))
            if claimed:
                self._waiting = False
                self._n_slots = max(self._n_slots, len(self._claims))
                pool.submit(self._stacked_job(claimed, device))
                for trial, _ in claimed:
                    self._tell("started", trial.label, message=device)

    def _next_stack(self) -> list[Trial]:
        """The next trial of the queue, and those of its stack."""
        first = self._queue.popleft()
        stack = self._stacks.get(first.id)
        if stack is None:
            return [first]
        beside = [trial for trial in self._queue if self._stacks.get(trial.id) == stack]
        for trial in beside:
            self._queue.remove(trial)
        return [first, *beside]

    def _stacked_job(self, claimed: Sequence[tuple[Trial, Claim]], device: str) -> Job:
        ids = tuple(trial.id for trial, _ in claimed) if len(claimed) > 1 else ()
        first, *beside = (replace(self._job(trial, claim, device), stack=ids) for trial, claim in claimed)
        return replace(first, beside=[asdict(job) for job in beside])

    def _claim(self, trial: Trial, device: str) -> Claim | None:
        row = self.store.index.row(trial.id)
        if row is None or row.status in ("finished", "damaged"):
            return None
        if row.status in ("failed", "diverged"):
            # It ended since this call began, or another runner tried it again already: once is enough.
            again = self._again.pop(trial.id, None)
            if again is None or again.attempt != row.attempt:
                return None
        with explain_disk_full(self.store.folder, f"starting trial '{trial.label}'"):
            claim = self.store.claim(trial, self._owner, seen=row, device=device, lease_s=self._lease_s)
        if claim is None:
            self._held.append(trial)
        return claim

    def _job(self, trial: Trial, claim: Claim, device: str) -> Job:
        return Job(
            trial_id=trial.id,
            label=trial.label,
            folder=str(run_folder(self.store.folder, trial).absolute()),
            config=dict(trial.config),
            device=device,
            owner=claim.owner,
            attempt=claim.attempt,
            keep_checkpoints=self._keep_checkpoints,
            stop_seen=self._stop.seen,
            facts=self._facts,
        )

    def _settle(self, ended: Ended) -> None:
        trial, claim = self._claims[ended.job.trial_id]
        doing = f"running trial '{trial.label}'"
        if ended.code == ExitCode.DISK_FULL:
            raise disk_full(self.store.folder, doing)
        resumable = ended.code in (ExitCode.STOPPED, ExitCode.WORKER_LOST) or was_killed(ended.code)
        if ended.job.stack and _died(ended.code):
            # It may have been any of its trials: each goes on by itself, and is judged by that.
            self._stacks.pop(trial.id, None)
            resumable = True
        if resumable or self._is_stale(ended, claim):
            self._give_back(trial, claim, ended)
            return
        status = None
        if ended.code != ExitCode.LEASE_LOST:
            with explain_disk_full(self.store.folder, doing):
                status = self.store.settle(trial, claim, ended.wall_s, _describe_death(ended))
        del self._claims[trial.id]
        if status is None:
            self._held.append(trial)
            self._tell("lost", trial.label, message="another runner took it over")
            return
        self._n_ran += 1
        self._wall_s.append(ended.wall_s)
        self._failed = self._failed or status == "failed"
        row = self.store.index.row(trial.id)
        if row is not None and ended.code == ExitCode.HUNG and status == "failed":
            self._hangs[trial.id] += 1
            if self._hangs[trial.id] <= HANGS_RETRIED and self._stopping is None:
                self._again[trial.id] = row
                self._queue.append(trial)
        if status in ("finished", "failed", "diverged"):
            self._tell(status, trial.label, "" if row is None else row.message, ended.wall_s)

    def _is_stale(self, ended: Ended, claim: Claim) -> bool:
        """Whether an execution lost the run although nobody else claimed it: a scheduler had started it twice."""
        if ended.code != ExitCode.LEASE_LOST:
            return False
        row = self.store.index.row(claim.trial_id)
        return row is not None and (row.owner, row.attempt) == (claim.owner, claim.attempt)

    def _give_back(self, trial: Trial, claim: Claim, ended: Ended) -> None:
        """Let the trial resume from its last checkpoint: in a later call (stopped), or here and now (worker lost)."""
        # A trial that was stopped although nobody asked us to stop was preempted.
        lost = ended.code != ExitCode.STOPPED or not self._asked_to_stop()
        killed = was_killed(ended.code)
        counted, most = (self._kills, KILLS_RETRIED) if killed else (self._losses, LOSSES_RETRIED)
        counted[trial.id] += lost
        again = not lost or counted[trial.id] <= most
        with explain_disk_full(self.store.folder, f"giving back trial '{trial.label}'"):
            if again:
                self.store.release(trial, claim, ended.wall_s)
            else:
                self.store.settle(trial, claim, ended.wall_s, _describe_death(ended), killed=True)
                self._failed = True
        del self._claims[trial.id]
        self._n_ran += 1
        if lost and again and self._stopping is None:
            self._queue.append(trial)
        self._tell_given_back(trial, ended, lost, again)

    def _tell_given_back(self, trial: Trial, ended: Ended, lost: bool, again: bool) -> None:
        row = self.store.index.row(trial.id)
        if row is not None and row.status in ("finished", "diverged"):
            self._tell("finished" if row.status == "finished" else "diverged", trial.label, row.message, ended.wall_s)
        elif not again:
            self._tell("failed", trial.label, "" if row is None else row.message, ended.wall_s)
        elif not lost:
            self._tell("interrupted", trial.label, "stopped at a checkpoint", ended.wall_s)
        else:
            why = _describe_kill(ended.code) if was_killed(ended.code) else "worker lost or preempted"
            if ended.job.stack and _died(ended.code):
                why = f"{describe_exit(ended.code)}; it ran beside {len(ended.job.stack) - 1} others and leaves them"
            self._tell("lost", trial.label, f"{why}; it goes on from its last checkpoint", ended.wall_s)

    def _release_all(self) -> None:
        for trial, claim in self._claims.values():
            # On a full disk this may fail too; then the claim ends with this process, or with its lease.
            with contextlib.suppress(OSError, sqlite3.OperationalError):
                self.store.release(trial, claim)
        self._claims.clear()
        retire(self._owner)

    def _tell(self, kind: EventKind, label: str = "", message: str = "", wall_s: float = 0.0) -> None:
        if self._reporter is None:
            return
        left = len(self._queue) + len(self._held) + len(self._claims)
        eta_s = left * sum(self._wall_s) / len(self._wall_s) / self._n_slots if self._wall_s else None
        total = len(self.trials)
        self._reporter.event(Event(kind, label, message, wall_s, total - left, total, eta_s))

    def outcome(self, wall_s: float) -> StudyOutcome:
        """Count the statuses of the trials asked for."""
        rows = self.store.index.rows()
        counts = Counter(rows[trial.id].status for trial in self.trials)
        total, finished, failed, diverged = len(self.trials), counts["finished"], counts["failed"], counts["diverged"]
        return StudyOutcome(
            folder=self.store.folder,
            total=total,
            finished=finished,
            failed=failed,
            diverged=diverged,
            pending=total - finished - failed - diverged - counts["damaged"],
            ran=self._n_ran,
            skipped=self.n_skipped,
            wall_s=wall_s,
            stopped=self._stopping is not None,
            damaged=damaged_runs(self.store.view()),
        )


def _died(code: int) -> bool:
    """Whether a process ended without a word about its trials, and nobody ended it from outside."""
    died = code in (ExitCode.HUNG, ExitCode.TIMED_OUT) or code >= OWN_STATUS or code < 0
    return died and not was_killed(code)


def _describe_death(ended: Ended) -> str:
    """What to record for an attempt that recorded nothing itself."""
    if ended.code == ExitCode.WORKER_LOST:
        return f"the worker that ran the trial was lost {LOSSES_RETRIED + 1} times"
    if was_killed(ended.code):
        return (
            f"{_describe_kill(ended.code)} {KILLS_RETRIED + 1} times, which a system does that runs out of memory; "
            "the same command goes on from the last checkpoint"
        )
    if ended.code == ExitCode.TIMED_OUT:
        limit = f"{ended.job.trial_timeout_s:g} s" if ended.job.trial_timeout_s is not None else "its limit"
        return f"the trial took longer than {limit} and was killed{_last_step(ended)}"
    if ended.code != ExitCode.HUNG:
        return describe_exit(ended.code)
    return f"the trial hung: it wrote nothing for {ended.job.hang_s:g} s and was killed{_last_step(ended)}"


def _describe_kill(code: int) -> str:
    by = "" if code == ExitCode.KILLED else f" by {signal.Signals(-code).name} (signal {-code})"
    return f"the trial's process was killed from outside{by}"


def _last_step(ended: Ended) -> str:
    progress = read_progress(Path(ended.job.folder))
    return f"; its last step was {progress['done']} of {progress['total']}" if progress else ""
