from __future__ import annotations

import csv
import subprocess
import sys

import pytest

from metascale.core.errors import InputError
from metascale.study import ProcessExecutor, RunStore, SerialExecutor, Study, read_study, run_study
from metascale.study.store.claims import new_owner
from tests.study.folders import TRIALS, final_files, tiny_study


class Listener:
    """A reporter that remembers."""

    def __init__(self):
        self.events, self.ended = [], []

    def begin(self, folder, total, done):
        self.begun = (total, done)

    def event(self, event):
        self.events.append((event.kind, event.label))
        self.last = event

    def end(self, outcome):
        self.ended.append(outcome)


def statuses(folder):
    return [run.status for run in read_study(folder).runs]


def failing(tmp_path):
    return tiny_study("sometimes_fails", n_tasks=(2, 5, 7), fail_at=5, cured=str(tmp_path / "cured"))


def test_serial_and_process_executors_give_the_same_bytes(tmp_path):
    study = tiny_study(seeds=(0, 1))
    one = run_study(study, tmp_path / "serial")
    two = run_study(study, tmp_path / "processes", ProcessExecutor(workers=2))
    assert one.exit_status == two.exit_status == 0
    assert final_files(tmp_path / "serial") == final_files(tmp_path / "processes")


def test_the_same_call_again_runs_nothing_and_changes_nothing(tmp_path):
    first = run_study(tiny_study(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")}
    again = run_study(tiny_study(), tmp_path)
    assert (first.ran, again.ran, again.skipped, again.finished) == (2, 0, 2, 2)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*")} == before


@pytest.mark.parametrize("executor", [SerialExecutor(), ProcessExecutor(workers=2)])
def test_a_failed_trial_is_recorded_and_the_rest_go_on(tmp_path, executor):
    study, folder = failing(tmp_path), tmp_path / "study"
    outcome = run_study(study, folder, executor)
    assert (outcome.finished, outcome.failed, outcome.exit_status) == (2, 1, 1)
    assert statuses(folder) == ["finished", "failed", "finished"]
    failed = read_study(folder).runs[1]
    assert "Traceback" in failed.error()
    assert failed.message() == "RuntimeError: the third wheel came off"
    with open(folder / "results.csv") as stream:
        assert [row["status"] for row in csv.DictReader(stream)] == ["finished", "failed", "finished"]


def test_a_failed_trial_is_tried_again_by_the_next_call_unless_told_not_to(tmp_path):
    study, folder = failing(tmp_path), tmp_path / "study"
    run_study(study, folder)
    assert run_study(study, folder, retry_failed=False).ran == 0
    assert run_study(study, folder).ran == 1
    (tmp_path / "cured").touch()
    assert run_study(study, folder).exit_status == 0
    run_study(study, tmp_path / "never_failed")
    assert final_files(folder) == final_files(tmp_path / "never_failed")
    assert [event["attempt"] for event in read_study(folder).runs[1].history()] == [1, 1, 2, 2, 3, 3]


def test_fail_fast_starts_no_trial_after_a_failure(tmp_path):
    outcome = run_study(failing(tmp_path), tmp_path / "study", fail_fast=True)
    assert (outcome.finished, outcome.failed, outcome.pending, outcome.exit_status) == (1, 1, 1, 1)


def test_a_diverged_trial_is_counted_shown_and_never_data(tmp_path):
    study = Study("s", f"{TRIALS}:diverges", {}, {"rate": [0.1, 9.0]}, [0])
    outcome = run_study(study, tmp_path)
    assert (outcome.finished, outcome.diverged, outcome.failed, outcome.exit_status) == (1, 1, 0, 0)
    ending = read_study(tmp_path).runs[1].ending()
    assert (ending["step"], ending["task_ids"], ending["last_finite"]) == (3, ["a", "b"], 0.5)
    assert run_study(study, tmp_path).ran == 0
    before = final_files(tmp_path)
    assert run_study(study, tmp_path, retry_diverged=True).ran == 1
    assert final_files(tmp_path) == before


def test_a_trial_ended_by_a_signal_failed_and_the_signal_is_named(tmp_path):
    outcome = run_study(tiny_study("kills_itself", n_tasks=(2, 5, 7)), tmp_path, ProcessExecutor(workers=1))
    assert (outcome.finished, outcome.failed) == (2, 1)
    assert "SIGSEGV (signal 11)" in read_study(tmp_path).runs[1].message()


@pytest.mark.parametrize(
    ("trial", "message"),
    [("tests.study.trials:nothing", "no function 'nothing'"), ("tests.study.missing:f", "No module named")],
)
@pytest.mark.parametrize("executor", [SerialExecutor(), ProcessExecutor(workers=1)])
def test_a_trial_that_cannot_be_loaded_failed(tmp_path, trial, message, executor):
    assert run_study(Study("s", trial, {}, {}, [0]), tmp_path, executor).failed == 1
    assert message in read_study(tmp_path).runs[0].error()


def test_workers_get_devices_in_turn_pinned_threads_and_a_group_of_their_own(tmp_path):
    study = tiny_study("environment", n_tasks=(1, 2))
    executor = ProcessExecutor(workers=2, devices=("cuda:0", "cuda:1"), threads_per_worker=1, pin_cores=True)
    run_study(study, tmp_path, executor)
    results = [run.result() for run in read_study(tmp_path).runs]
    assert [result["device"] for result in results] == ["cuda:0", "cuda:1"]
    assert all(result["threads"] == "1" and result["own_group"] and result["cores"] == 1 for result in results)
    started = read_study(tmp_path).runs[0].history()[0]
    assert (started["device"], started["threads"]["OMP_NUM_THREADS"]) == ("cuda:0", "1")


def test_the_reporter_hears_everything(tmp_path):
    listener = Listener()
    outcome = run_study(failing(tmp_path), tmp_path / "study", reporter=listener)
    kinds = [kind for kind, _ in listener.events]
    assert kinds == ["started", "finished", "started", "failed", "started", "finished"]
    assert (listener.begun, listener.ended) == ((3, 0), [outcome])
    assert (listener.last.done, listener.last.total) == (3, 3)


def test_an_interrupted_study_says_so_and_goes_on_later(tmp_path):
    class Impatient(Listener):
        def event(self, event):
            super().event(event)
            if event.kind == "finished":
                raise KeyboardInterrupt

    listener = Impatient()
    study = tiny_study(n_tasks=(2, 5, 7, 9), sleep_s=0.01)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, tmp_path / "cut", ProcessExecutor(workers=2), reporter=listener)
    assert listener.events[-1][0] == "interrupted"
    assert "same command" in listener.last.message
    assert listener.ended == [None]
    assert "running" not in statuses(tmp_path / "cut")
    assert run_study(study, tmp_path / "cut").exit_status == 0
    run_study(study, tmp_path / "whole")
    assert final_files(tmp_path / "cut") == final_files(tmp_path / "whole")


def test_leases_are_renewed_while_a_trial_runs(tmp_path):
    study = tiny_study("awaits_renewal", n_tasks=(2,))
    assert run_study(study, tmp_path, lease_s=0.4).finished == 1


def test_a_failed_trial_is_tried_again_once_by_two_runners(tmp_path):
    study, folder = failing(tmp_path), tmp_path / "study"
    run_study(study, folder)
    grown = tiny_study("sometimes_fails", n_tasks=(1, 2, 5, 7), fail_at=5, cured=str(tmp_path / "cured"))

    class OtherRunner(Listener):
        """While the first trial runs here, another runner tries the failed one, in vain."""

        def event(self, event):
            if event.kind == "started" and not self.events:
                run_study(study, folder)
            super().event(event)

    listener = OtherRunner()
    outcome = run_study(grown, folder, reporter=listener)
    assert (outcome.ran, outcome.failed) == (1, 1)
    assert [event["attempt"] for event in read_study(folder).runs[2].history()] == [1, 1, 2, 2]


def test_trials_of_another_runner_are_waited_for(tmp_path):
    store = RunStore.create(tmp_path, tiny_study())
    other = store.claim(store.trials[0], new_owner(), lease_s=0.7)
    listener = Listener()
    outcome = run_study(tiny_study(), tmp_path, reporter=listener, lease_s=0.7)
    assert (outcome.finished, outcome.ran) == (2, 2)
    assert [kind for kind, _ in listener.events].count("waiting") == 1
    assert store.settle(store.trials[0], other, 0.0) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: ProcessExecutor(workers=0),
        lambda: ProcessExecutor(workers=1, threads_per_worker=0),
        lambda: ProcessExecutor(workers=1, devices=()),
        lambda: SerialExecutor(devices="cpu"),
    ],
)
def test_a_bad_executor_is_refused(make):
    with pytest.raises(InputError, match="executor"):
        make()


def test_the_study_room_never_loads_torch():
    code = (
        "import metascale.study, metascale.study.status, metascale.study.run.fork_server, sys;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
