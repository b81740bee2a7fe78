"""What a runner makes of how its jobs end, by tables of events: a pool runs nothing and ends jobs as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metascale.core.errors import Diverged
from metascale.study import RunStore, Study, read_study, run_study
from metascale.study.errors import DiskFull
from metascale.study.run import stopping
from metascale.study.run.job import Ended, ExitCode, Job
from metascale.study.run.session import Event, StudyOutcome
from metascale.study.store.claims import new_owner
from metascale.study.store.index import read_index
from metascale.study.store.manifest import read_seals, seal_study, unseal
from metascale.study.store.run import StoredRun
from metascale.study.store.seals import sealed
from tests.study.folders import tiny_study

FINISH, DIVERGE = "finish", "diverge"


class Scripted:
    """An executor of one slot, or of more; the attempt number k of a trial ends as the k-th of its ``endings``: with
    that exit code, or having recorded a result."""

    def __init__(self, *endings: Any, slots: int = 1) -> None:
        self.endings, self.slots = list(endings), slots
        self.jobs: list[Job] = []
        self.running: list[Job] = []

    def check(self) -> None:
        return None

    @contextmanager
    def open(self) -> Iterator[Any]:
        yield self

    def free_device(self) -> str | None:
        return "cpu" if len(self.running) < self.slots else None

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self.running.append(job)

    def wait(self, timeout_s: float) -> list[Ended]:
        ended = []
        for job in self.running:
            for one in job.together():
                ending = self.endings.pop(0)
                if ending == FINISH:
                    StoredRun(Path(one.folder), one.claim).finish({"loss": 1.0})
                if ending == DIVERGE:
                    StoredRun(Path(one.folder), one.claim).diverge(Diverged("the loss is inf", step=3))
                code = 0 if ending in (FINISH, DIVERGE) else int(ending)
                ended.append(Ended(replace(one, hang_s=30.0), code, 2.0))
        self.running = []
        return ended


class Told:
    """What a reporter hears."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []
        self.events: list[Event] = []

    def begin(self, folder: Path, total: int, done: int) -> None:
        self.begun.append((total, done))

    def event(self, event: Event) -> None:
        self.events.append(event)

    def end(self, outcome: StudyOutcome | None) -> None:
        return None

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def run(folder: Path, *endings: Any, study: Study | None = None, **options: Any) -> tuple[StudyOutcome, Told, Scripted]:
    told, pool = Told(), Scripted(*endings, slots=options.pop("slots", 1))
    found = run_study(study or tiny_study(n_tasks=(2,)), folder, pool, reporter=told, **options)
    assert pool.endings == []
    return found, told, pool


@pytest.mark.parametrize(
    ("endings", "kinds", "message", "outcome"),
    [
        ([FINISH], ["finished"], "", (1, 0, 0)),
        ([1], ["failed"], "the trial's process ended with exit status 1 and recorded no result", (0, 1, 0)),
        ([-11], ["failed"], "the trial's process was ended by SIGSEGV (signal 11)", (0, 1, 0)),
        # A hang is tried once more, and a second one has failed.
        ([ExitCode.HUNG, FINISH], ["failed", "finished"], "", (1, 0, 0)),
        ([ExitCode.HUNG, ExitCode.HUNG], ["failed", "failed"], "the trial hung: it wrote nothing for", (0, 1, 0)),
        ([ExitCode.TIMED_OUT], ["failed"], "the trial took longer than its limit and was killed", (0, 1, 0)),
        # Killed from outside it goes on three times.
        ([-9, FINISH], ["lost", "finished"], "", (1, 0, 0)),
        ([-9, -9, -9, FINISH], ["lost"] * 3 + ["finished"], "", (1, 0, 0)),
        ([-9, -9, -9, -15], ["lost"] * 3 + ["failed"], "the trial's process was killed from outside", (0, 1, 0)),
        # A node may be lost twenty times; a trial that was stopped although nobody asked was preempted.
        ([ExitCode.WORKER_LOST] * 20 + [FINISH], ["lost"] * 20 + ["finished"], "", (1, 0, 0)),
        ([ExitCode.STOPPED] * 21, ["lost"] * 20 + ["failed"], "the trial's process ended with exit", (0, 1, 0)),
    ],
)  # fmt: skip
def test_a_trial_by_how_its_processes_end(
    endings: list[Any], kinds: list[str], message: str, outcome: tuple[int, int, int], tmp_path: Path
) -> None:
    found, told, pool = run(tmp_path, *endings)
    started = [kind for kind in told.kinds if kind == "started"]
    assert len(started) == len(pool.jobs) == len(endings) == found.ran
    assert [kind for kind in told.kinds if kind != "started"] == kinds
    assert told.events[-1].message.startswith(message)
    assert (found.finished, found.failed, found.pending) == outcome
    assert found.exit_status == (0 if outcome[0] else 1)
    assert [event.wall_s for event in told.events if event.kind != "started"] == [2.0] * len(endings)


@pytest.mark.parametrize(
    ("ending", "why"),
    [
        (-9, "the trial's process was killed from outside by SIGKILL (signal 9); it goes on from its last checkpoint"),
        (ExitCode.KILLED, "the trial's process was killed from outside; it goes on from its last checkpoint"),
        (ExitCode.WORKER_LOST, "worker lost or preempted; it goes on from its last checkpoint"),
    ],
)
def test_why_a_trial_goes_on_elsewhere_is_told(ending: Any, why: str, tmp_path: Path) -> None:
    _, told, _ = run(tmp_path, ending, FINISH)
    assert [event.message for event in told.events if event.kind == "lost"] == [why]


def test_progress_counts_what_is_left_and_how_long_it_takes(tmp_path: Path) -> None:
    """Of three trials one ends at a time, each in 2 s; with one slot two left take 4 s."""
    found, told, _ = run(tmp_path, FINISH, 1, FINISH, study=tiny_study(n_tasks=(2, 5, 7)))
    assert told.begun == [(3, 0)]
    assert [(event.kind, event.done, event.total, event.eta_s) for event in told.events] == [
        ("started", 0, 3, None), ("finished", 1, 3, 4.0), ("started", 1, 3, 4.0), ("failed", 2, 3, 2.0),
        ("started", 2, 3, 2.0), ("finished", 3, 3, 0.0),
    ]  # fmt: skip
    assert (found.total, found.finished, found.failed, found.ran, found.skipped) == (3, 2, 1, 3, 0)
    again, told, _ = run(tmp_path, FINISH, study=tiny_study(n_tasks=(2, 5, 7)))
    assert told.begun == [(3, 2)]
    assert (again.finished, again.ran, again.skipped) == (3, 1, 2)
    left, _, pool = run(tmp_path, study=tiny_study(n_tasks=(2, 5, 7)))
    assert (left.ran, left.skipped, pool.jobs) == (0, 3, [])


def test_failures_are_left_alone_or_end_the_study_where_that_is_asked(tmp_path: Path) -> None:
    study = tiny_study(n_tasks=(2, 5))
    first, _, _ = run(tmp_path, 1, study=study, fail_fast=True)
    assert (first.failed, first.pending, first.ran) == (1, 1, 1)
    second, _, pool = run(tmp_path, FINISH, study=study, retry_failed=False)
    assert (second.failed, second.finished, second.skipped) == (1, 1, 1)
    assert [job.attempt for job in pool.jobs] == [1]
    third, _, pool = run(tmp_path, FINISH, study=study)
    assert (third.finished, [job.attempt for job in pool.jobs]) == (2, [2])


def test_a_trial_that_is_killed_again_and_again_counts_as_a_failure(tmp_path: Path) -> None:
    study = tiny_study(n_tasks=(2, 5, 7))
    found, _, pool = run(tmp_path, *[-9] * 10, study=study, fail_fast=True)
    assert (found.failed, found.pending, len(pool.jobs), found.ran) == (1, 2, 10, 10)
    assert read_study(tmp_path).runs[0].was_killed()


class Stops(Scripted):
    """An executor whose wait ends with a stop that was asked for, by a signal or for the study."""

    def __init__(self, ask: Any, *endings: Any, slots: int = 1) -> None:
        super().__init__(*endings, slots=slots)
        self.ask, self.seen = ask, []

    def wait(self, timeout_s: float) -> list[Ended]:
        if self.ask is not None:
            self.ask()
            self.ask = None
            return []
        self.seen += [(Path(job.folder) / "stop.json").exists() for job in self.running]
        return super().wait(timeout_s)


@pytest.mark.parametrize(
    ("signalled", "mode", "said", "told"),
    [
        (True, "checkpoint", "are saved after the step in progress; a second signal ends them at once", [True, True]),
        (False, "checkpoint", "are saved after the step in progress", [False, False]),
        (False, "finish", "run to their end", [False, False]),
    ],
)
def test_a_stop_starts_no_more_trials_and_a_signal_is_told_to_our_own(
    signalled: bool, mode: Any, said: str, told: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal = threading.Event()
    monkeypatch.setattr(stopping, "_signalled", signal)
    study = tiny_study(n_tasks=(2, 5, 7))
    ask = signal.set if signalled else lambda: stopping.ask_to_stop(tmp_path, mode)
    pool, hears = Stops(ask, ExitCode.STOPPED, FINISH, slots=2), Told()
    found = run_study(study, tmp_path, pool, reporter=hears)
    assert (found.stopped, found.finished, found.pending, found.ran, pool.seen) == (True, 1, 2, 2, told)
    stops = [event.message for event in hears.events if event.kind == "stopping"]
    assert stops == [f"no new trial starts; running trials (2) {said}"]
    ends = [(event.message, event.wall_s) for event in hears.events if event.kind == "interrupted"]
    resumable = [("stopped; the same command resumes from the last checkpoints", 0.0)]
    assert ends == [("stopped at a checkpoint", 2.0), *(resumable if signalled else [])]


@pytest.mark.parametrize(
    ("code", "ending", "kind"),
    [(-9, FINISH, "finished"), (ExitCode.STOPPED, FINISH, "finished"), (ExitCode.WORKER_LOST, DIVERGE, "diverged")],
)
def test_a_trial_that_had_its_result_before_its_process_was_ended_has_it(
    code: int, ending: str, kind: str, tmp_path: Path
) -> None:
    class Late(Scripted):
        def wait(self, timeout_s: float) -> list[Ended]:
            return [replace(ended, code=int(code)) for ended in super().wait(timeout_s)]

    told = Told()
    found = run_study(tiny_study(n_tasks=(2,)), tmp_path, Late(ending), reporter=told)
    assert (found.finished + found.diverged, found.ran, told.kinds) == (1, 1, ["started", kind])
    assert told.events[-1].message == ("the loss is inf" if ending == DIVERGE else "")
    assert told.events[-1].wall_s == 2.0


def test_a_trial_that_another_runner_took_over_is_left_to_it(tmp_path: Path) -> None:
    """Its lease ran out meanwhile; the other one ends it."""

    class Overtaken(Scripted):
        def wait(self, timeout_s: float) -> list[Ended]:
            if not self.running:
                return []
            store, (job,) = RunStore.open(tmp_path), self.running
            (trial,) = store.trials
            store.index.settle(trial.id, job.owner, job.attempt, "pending")
            claim = store.claim(trial, new_owner())
            assert claim is not None
            StoredRun(store.run_view(trial).folder, claim).finish({"loss": 1.0})
            store.settle(trial, claim, 1.0)
            store.close()
            self.running = []
            return [Ended(job, int(ExitCode.LEASE_LOST), 2.0)]

    told = Told()
    found = run_study(tiny_study(n_tasks=(2,)), tmp_path, Overtaken(), reporter=told)
    assert [(event.kind, event.message) for event in told.events[1:]][:1] == [("lost", "another runner took it over")]
    assert (found.finished, found.ran) == (1, 0)


def test_a_trial_of_another_runner_is_waited_for_and_that_is_told_once(tmp_path: Path) -> None:
    study = tiny_study(n_tasks=(2,))
    store = RunStore.create(tmp_path, study)
    (trial,) = store.trials
    other = new_owner()
    claim = store.claim(trial, other)
    assert claim is not None
    waits: list[int] = []

    class Waits(Scripted):
        def wait(self, timeout_s: float) -> list[Ended]:
            waits.append(len(self.running))
            if len(waits) == 3:
                StoredRun(store.run_view(trial).folder, claim).finish({"loss": 1.0})
                store.settle(trial, claim, 1.0)
                store.close()
            return []

    told = Told()
    found = run_study(study, tmp_path, Waits(), reporter=told)
    assert [(event.kind, event.message) for event in told.events] == [("waiting", "1 trials are with other runners")]
    assert (found.finished, found.ran, waits[:3]) == (1, 0, [0, 0, 0])


def test_a_divergence_is_a_result_until_it_is_asked_to_start_again(tmp_path: Path) -> None:
    found, told, _ = run(tmp_path, DIVERGE)
    assert (found.diverged, found.failed, found.pending, found.exit_status, told.kinds) == (
        1, 0, 0, 0, ["started", "diverged"]
    )  # fmt: skip
    assert told.events[-1].message == "the loss is inf"
    found, _, _ = run(tmp_path)
    assert (found.diverged, found.ran, found.skipped) == (1, 0, 1)
    found, _, pool = run(tmp_path, FINISH, retry_diverged=True)
    assert (found.finished, found.ran, found.skipped, [job.attempt for job in pool.jobs]) == (1, 1, 0, [2])
    found, _, _ = run(tmp_path, retry_diverged=True)
    assert (found.finished, found.ran, found.skipped) == (1, 0, 1)


def test_a_call_claims_for_its_lease_and_takes_out_the_hashes_of_what_it_changes(tmp_path: Path) -> None:
    first = tiny_study(n_tasks=(2,))
    run(tmp_path, FINISH, study=first)
    (ended,) = first.trials()
    unseal(tmp_path)
    (tmp_path / "finals.json").write_text(json.dumps(sealed({"ids": []})))
    seal_study(read_study(tmp_path), [tmp_path / name for name in ("finals.json", "results.csv", "all_results.json")])
    assert read_seals(tmp_path)["files"].keys() == {"finals.json", "results.csv", "all_results.json"}
    seen: list[Any] = []

    class Looks(Scripted):
        def submit(self, job: Job) -> None:
            super().submit(job)
            seals = read_seals(tmp_path)
            (row,) = [one for one in read_index(tmp_path / "index.sqlite3").values() if one.status == "running"]
            seen.append((seals["files"], list(seals["runs"]), row.lease_until - row.updated_at, row.device))

    stopping.ask_to_stop(tmp_path, "finish")
    before = stopping.StopWatch.start(tmp_path).seen
    for number, (options, stop) in enumerate([({}, before), ({"stop_seen": before, "lease_s": 7.0}, before)]):
        pool = Looks(FINISH)
        run_study(tiny_study(n_tasks=(2, 5 + number)), tmp_path, pool, **options)
        assert [job.stop_seen for job in pool.jobs] == [stop]
    lease = [60.0, 7.0]
    assert seen[0][:2] == ({}, [ended.id])
    assert [one[3] for one in seen] == ["cpu", "cpu"]
    assert [round(one[2], 3) for one in seen] == lease
    stopped = run_study(tiny_study(n_tasks=(2, 9)), tmp_path, Scripted(), stop_seen="an earlier one")
    assert (stopped.stopped, stopped.pending, stopped.ran) == (True, 1, 0)


def test_a_failure_that_another_runner_tried_again_is_left_to_that(tmp_path: Path) -> None:
    """Two calls begin with one failed trial of two; the other one has tried it again when this comes to it."""
    study = tiny_study(n_tasks=(2, 5))
    run(tmp_path, 1, 1, study=study)
    second = study.trials()[1]

    class Late(Scripted):
        def submit(self, job: Job) -> None:
            super().submit(job)
            store = RunStore.open(tmp_path)
            claim = store.claim(next(one for one in store.trials if one.id == second.id), new_owner())
            if claim is not None:
                StoredRun(store.run_view(second).folder, claim).fail("again\n")
                store.settle(second, claim, 1.0)
            store.close()

    pool = Late(FINISH)
    found = run_study(study, tmp_path, pool)
    assert (found.finished, found.failed, len(pool.jobs), found.ran) == (1, 1, 1, 1)


def test_a_damaged_run_is_skipped_named_and_no_success(tmp_path: Path) -> None:
    run(tmp_path, FINISH, FINISH, study=tiny_study(n_tasks=(2, 5)))
    broken = read_study(tmp_path).runs[1]
    (broken.folder / "config.json").write_text("{}")
    found, _, _ = run(tmp_path, study=tiny_study(n_tasks=(2, 5)))
    assert (found.total, found.finished, found.pending, found.skipped, found.exit_status) == (2, 1, 0, 2, 1)
    assert found.damaged == (f"{broken.trial.label}: {broken.damage()}",)


def test_a_full_disk_ends_the_study_and_loses_nothing(tmp_path: Path) -> None:
    study = tiny_study(n_tasks=(2, 5))
    with pytest.raises(DiskFull, match="running trial"):
        run(tmp_path, ExitCode.DISK_FULL, study=study)
    found, _, _ = run(tmp_path, FINISH, FINISH, study=study)
    assert found.finished == 2


def test_a_run_that_another_runner_has_is_waited_for(tmp_path: Path) -> None:
    """The first pool's execution lost its lease although the index has the claim: a scheduler started it twice."""
    found, told, pool = run(tmp_path, ExitCode.LEASE_LOST, FINISH)
    assert (found.finished, told.kinds) == (1, ["started", "lost", "started", "finished"])
    assert [job.attempt for job in pool.jobs] == [1, 1] or len(pool.jobs) == 2


def test_a_job_has_all_of_its_claim(tmp_path: Path) -> None:
    _, _, pool = run(tmp_path, FINISH, keep_checkpoints=True, facts={"command": "c"})
    (job,) = pool.jobs
    store = RunStore.open(tmp_path)
    (trial,) = store.trials
    assert (job.trial_id, job.label, job.config) == (trial.id, trial.label, dict(trial.config))
    assert Path(job.folder) == tmp_path.absolute() / "runs" / Path(job.folder).name
    assert (job.device, job.attempt, job.keep_checkpoints, dict(job.facts)) == ("cpu", 1, True, {"command": "c"})
    assert (job.stack, job.beside) == ((), [])


def test_trials_of_a_stack_are_one_job_and_leave_it_where_its_process_dies(tmp_path: Path) -> None:
    study = tiny_study(n_tasks=(2, 5, 7))
    ids = [trial.id for trial in study.trials()]
    found, told, pool = run(tmp_path, -11, -11, FINISH, FINISH, FINISH, study=study, stacks=[(ids[0], ids[2])])
    assert [(job.trial_id, tuple(job.stack), len(job.beside)) for job in pool.jobs] == [
        (ids[0], (ids[0], ids[2]), 1), (ids[1], (), 0), (ids[0], (), 0), (ids[2], (), 0)
    ]  # fmt: skip
    died = (
        "the trial's process was ended by SIGSEGV (signal 11); it ran beside 1 others and leaves them; it goes on from"
    )
    assert [event.message.startswith(died) for event in told.events if event.kind == "lost"] == [True, True]
    assert found.finished == 3
