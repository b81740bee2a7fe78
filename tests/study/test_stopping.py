"""A stop that is asked for: the step in progress is saved, the run ends, and the same call goes on from that step."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from metascale.core.files import read_json
from metascale.core.run import Checkpoint
from metascale.study import ProcessExecutor, RunStore, SerialExecutor, Study, read_study, run_study
from metascale.study.errors import Interrupted
from metascale.study.run.stopping import StopWatch, ask_run_to_stop, ask_to_stop, is_signalled
from metascale.study.store.checkpoints import list_checkpoints, read_checkpoint, write_checkpoint
from metascale.study.store.claims import Claim
from tests.study import runner_process
from tests.study.folders import TRIALS, final_files, tiny_study

pytestmark = pytest.mark.timeout(120)
PAUSE_S = "0.02"


def long_study(*n_tasks: int):
    """Trials that save on their own only at steps 500 and 510."""
    return tiny_study("heeds", n_tasks=n_tasks or (2, 5), n_steps=510, save_every=500)


def await_steps(folder: Path, n_runs: int, n_steps: int = 5) -> None:
    """Wait until so many trials are in the middle."""
    told = "progress.json"
    while sum(read_json(path)["done"] >= n_steps for path in folder.glob(f"runs/*/{told}") if path.exists()) < n_runs:
        time.sleep(0.02)


def check_saved_where_it_stood(folder: Path, n_stopped: int) -> None:
    """Every stopped run has one checkpoint, of a step that is not on its schedule."""
    stopped = [run for run in read_study(folder).runs if any(e["event"] == "stopped" for e in run.history())]
    assert len(stopped) == n_stopped
    for run in stopped:
        (path,) = list_checkpoints(run.folder / "checkpoints")
        assert path.name.endswith("-stop")
        checkpoint, _ = read_checkpoint(path)
        assert 5 <= checkpoint.step < 500
        assert [row["step"] for row in run.rows("train")] == list(range(1, checkpoint.step + 1))


def check_goes_on_to_the_same_bytes(study, folder: Path, whole: Path) -> None:
    os.environ.pop("METASCALE_TEST_PAUSE_S", None)
    assert run_study(study, folder, keep_checkpoints=True).finished == len(study.trials())
    run_study(study, whole, keep_checkpoints=True)
    assert final_files(folder) == final_files(whole)
    for run in read_study(folder).runs:
        kept = [path.name for path in list_checkpoints(run.folder / "checkpoints")]
        assert kept == ["step-00000500", "step-00000510"]


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGINT, 2), (signal.SIGTERM, 2)]
)
def test_a_signal_to_the_runner_saves_the_step_in_progress(tmp_path, monkeypatch, number, workers):
    monkeypatch.setenv("METASCALE_TEST_PAUSE_S", PAUSE_S)
    study, folder = long_study(), tmp_path / "cut"
    runner = runner_process.start(study, folder, workers)
    await_steps(folder, n_runs=workers or 1)
    runner.send_signal(number)
    _, said = runner.communicate(timeout=60)
    assert runner.returncode == 128 + number, said
    check_saved_where_it_stood(folder, n_stopped=workers or 1)
    assert {run.status for run in read_study(folder).runs} == {"pending"}
    check_goes_on_to_the_same_bytes(study, folder, tmp_path / "whole")


def test_a_second_signal_ends_trials_that_do_not_heed_the_first(tmp_path):
    study = tiny_study("sleeps", n_tasks=(2,))
    runner = runner_process.start(study, tmp_path, workers=1)
    while not list(tmp_path.glob("runs/*/asleep.json")):
        time.sleep(0.02)
    began = time.monotonic()
    runner.send_signal(signal.SIGINT)
    while not list(tmp_path.glob("runs/*/stop.json")):
        time.sleep(0.02)
    assert runner.poll() is None
    runner.send_signal(signal.SIGINT)
    _, said = runner.communicate(timeout=50)
    assert runner.returncode == 130, said
    assert time.monotonic() - began < 50, "the trial sleeps for 60 s"
    assert read_study(tmp_path).runs[0].status == "pending"


def in_the_background(task: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=task)
    thread.start()
    return thread


def test_a_request_for_the_study_saves_the_step_in_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("METASCALE_TEST_PAUSE_S", PAUSE_S)
    study, folder = long_study(), tmp_path / "cut"

    def ask() -> None:
        await_steps(folder, n_runs=2)
        ask_to_stop(folder, "checkpoint")

    asker = in_the_background(ask)
    outcome = run_study(study, folder, ProcessExecutor(workers=2))
    asker.join()
    assert (outcome.stopped, outcome.pending) == (True, 2)
    check_saved_where_it_stood(folder, n_stopped=2)
    check_goes_on_to_the_same_bytes(study, folder, tmp_path / "whole")


@pytest.mark.long
def test_a_trial_on_several_processes_is_saved_and_all_of_them_end(tmp_path):
    study = Study("ranks", f"{TRIALS}:ranks", {"n_steps": 400, "sleep_s": 0.02}, {}, (0,))

    def ask() -> None:
        await_steps(tmp_path, n_runs=1)
        ask_to_stop(tmp_path, "checkpoint")

    asker = in_the_background(ask)
    outcome = run_study(study, tmp_path, ProcessExecutor(workers=1, processes_per_trial=2))
    asker.join()
    assert (outcome.stopped, outcome.pending, outcome.failed) == (True, 1, 0), read_study(tmp_path).runs[0].error()
    (run,) = read_study(tmp_path).runs
    assert [event["event"] for event in run.history()] == ["started", "stopped"]
    saved = list_checkpoints(run.folder / "checkpoints")[-1]
    assert 5 <= read_checkpoint(saved)[0].step < 400


def test_a_signal_to_one_trial_saves_it_and_the_runner_goes_on_with_it(tmp_path, monkeypatch):
    """As the kernel of a machine that is being drained sends it: nobody told the runner."""
    monkeypatch.setenv("METASCALE_TEST_PAUSE_S", PAUSE_S)
    study, folder = long_study(2), tmp_path / "cut"

    def strike() -> None:
        await_steps(folder, n_runs=1)
        alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
        (server,) = [child for child in alive if "fork_server" in " ".join(child.cmdline())]
        (trial,) = server.children()
        trial.terminate()

    striker = in_the_background(strike)
    outcome = run_study(study, folder, ProcessExecutor(workers=1), keep_checkpoints=True)
    striker.join()
    assert (outcome.finished, outcome.failed, outcome.stopped) == (1, 0, False)
    events = [event["event"] for event in read_study(folder).runs[0].history()]
    assert events == ["started", "stopped", "started", "finished"]
    check_goes_on_to_the_same_bytes(study, folder, tmp_path / "whole")


def test_a_request_to_one_attempt_reaches_nobody_else(tmp_path, monkeypatch):
    monkeypatch.setenv("METASCALE_TEST_PAUSE_S", "0.005")
    study = long_study()

    def ask() -> None:
        await_steps(tmp_path, n_runs=2)
        store = RunStore.open(tmp_path)
        trial = store.trials[0]
        run = store.run_view(trial)
        row = store.index.row(trial.id)
        assert row is not None
        ask_run_to_stop(run.folder, Claim(trial.id, str(row.owner), row.attempt))
        store.close()

    asker = in_the_background(ask)
    outcome = run_study(study, tmp_path, ProcessExecutor(workers=2))
    asker.join()
    assert (outcome.finished, outcome.stopped) == (2, False)
    histories = [[event["event"] for event in run.history()] for run in read_study(tmp_path).runs]
    assert histories == [["started", "stopped", "started", "finished"], ["started", "finished"]]


def test_handlers_are_put_back_and_ones_of_the_program_are_left_alone(tmp_path):
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:

        class Sends:
            def begin(self, folder, total, done):
                os.kill(os.getpid(), signal.SIGTERM)

            def event(self, event):
                if event.kind == "started":
                    os.kill(os.getpid(), signal.SIGTERM)
                    os.kill(os.getpid(), signal.SIGINT)

            def end(self, outcome):
                pass

        with pytest.raises(Interrupted) as raised:
            run_study(long_study(), tmp_path, SerialExecutor(), reporter=Sends())
        assert (seen, raised.value.exit_status) == ([signal.SIGTERM, signal.SIGTERM], 130)
        assert not is_signalled()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert len(seen) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert run_study(long_study(), tmp_path).finished == 2


def test_a_checkpoint_of_a_stop_gives_way_to_newer_ones_and_costs_no_scheduled_one(tmp_path):
    def kept(step: int, scheduled: bool) -> list[str]:
        write_checkpoint(tmp_path, Checkpoint(step, {"state": json.dumps(step).encode()}, scheduled), {})
        return [path.name.removeprefix("step-000000") for path in list_checkpoints(tmp_path)]

    assert kept(10, True) == ["10"]
    assert kept(20, True) == ["10", "20"]
    assert kept(24, False) == ["10", "20", "24-stop"]
    assert kept(27, False) == ["10", "20", "27-stop"]
    assert kept(30, False) == ["10", "20", "30-stop"]
    assert kept(30, True) == ["20", "30"]
    assert kept(30, True) == ["20", "30"]


def test_a_request_to_another_attempt_is_not_for_this_one(tmp_path):
    mine, theirs = Claim("t", "me", 2), Claim("t", "me", 1)
    watch = StopWatch(tmp_path, "", tmp_path / "run", mine)
    assert watch.asked() is None
    for other in (theirs, Claim("t", "another", 2)):
        ask_run_to_stop(tmp_path / "run", other)
        assert watch.asked() is None
    ask_run_to_stop(tmp_path / "run", mine)
    assert watch.asked() == "checkpoint"
