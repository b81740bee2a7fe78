"""The border of a trial: what it returns is checked, and however it ends, that is one failed or resumed trial."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from metascale.cli.main import app
from metascale.core.errors import InputError
from metascale.study import ProcessExecutor, SerialExecutor, Study, read_study, run_study, study_status
from metascale.study.run.border import checked_row
from metascale.study.run.output import bound_output
from metascale.workflow.conclude import conclude
from tests.study import runner_process
from tests.study.border_trials import RETURNED
from tests.study.folders import final_files

TRIALS = "tests.study.border_trials"
pytestmark = pytest.mark.timeout(120)
SAID = {
    "itself": "holds itself or is nested more than 50 deep",
    "a float": "the trial returned a float (3.0); a trial returns a mapping of names to finite numbers, texts",
    "a list": "the trial returned a list ([1.0, 2.0]); a trial returns a mapping",
    "nothing": "the trial returned None; a trial returns a mapping",
    "a text": "the trial returned a str ('0.5'); a trial returns a mapping",
    "nan": "the trial returned 'loss' = nan: a result is finite (a trial whose loss is not raises",
    "inside": "the trial returned 'best.loss[1]' = inf: a result is finite",
    "a huge number": "the trial returned 'loss' a whole number of 1329 bits: a result is finite",
    "an array": "the trial returned 'loss', which is a ndarray of shape (2, 3); a trial returns a mapping",
    "a set": "the trial returned 'loss', which is a set; a trial returns",
    "bytes": "the trial returned 'loss', which is a bytes (b'1'); a trial returns",
    "a complex number": "the trial returned 'loss', which is a complex (1j); a trial returns",
    "an object": "the trial returned 'loss', which is a PosixPath; a trial returns",
    "a number as a name": "the trial returned a result named an int (1); names are texts",
    "no name": "the trial returned a result named a str (''); names are texts",
    "one name twice": "the trial returned two results that are called 'a.b': each needs a name of its own",
    "no Unicode": "the trial returned 'note' that cannot be written as UTF-8",
}


def ends_study(tmp_path: Path, *hows: str) -> Study:
    marks = tmp_path / "marks"
    marks.mkdir(exist_ok=True)
    return Study("ends", f"{TRIALS}:ends", {"marks": str(marks)}, {"how": [*hows, "well"]}, (0,))


def by_how(folder: Path):
    return {run.trial.axes["how"]: run for run in read_study(folder).runs}


def test_what_a_trial_returns_is_checked_and_bricks_no_command(tmp_path):
    study = Study("returns", f"{TRIALS}:returns", {}, {"what": [*RETURNED, "well"]}, (0,))
    outcome = run_study(study, tmp_path / "study")
    assert (outcome.finished, outcome.failed) == (1, len(RETURNED))
    for run in read_study(tmp_path / "study").runs[:-1]:
        assert SAID[run.trial.axes["what"]] in run.message()
    conclude(tmp_path / "study")
    for command in ("status {0}", "report {0}", "verify {0}", "export {0} --format csv --out {1}/t.csv"):
        done = CliRunner().invoke(app, command.format(tmp_path / "study", tmp_path).split())
        assert done.exit_code == 0, done.output
    again = run_study(study, tmp_path / "study")
    assert (again.finished, again.failed, again.ran) == (1, len(RETURNED), len(RETURNED))


def test_scalars_of_numpy_and_torch_are_converted(tmp_path):
    pytest.importorskip("torch")
    run_study(Study("scalars", f"{TRIALS}:returns_scalars", {}, {}, (0,)), tmp_path)
    assert read_study(tmp_path).runs[0].result() == {
        "loss": 0.5, "nested": {"count": 3, "loss": 0.25}, "on": True, "name": "x", "none": None,
        "curve": [1, [2.0, None]],
    }  # fmt: skip


def test_a_float_that_an_earlier_version_took_is_damage_and_no_crash(tmp_path, monkeypatch):
    study = Study("returns", f"{TRIALS}:returns", {}, {"what": ["a float", "well"]}, (0,))
    with monkeypatch.context() as patch:
        patch.setattr("metascale.study.run.job.checked_row", lambda row: row)
        run_study(study, tmp_path)
    bad, _ = read_study(tmp_path).runs
    assert "it holds no mapping of results" in bad.message()
    assert study_status(tmp_path).counts["damaged"] == 1
    conclude(tmp_path)


def test_a_divergence_with_a_value_that_is_not_finite_is_one(tmp_path):
    outcome = run_study(Study("odd", f"{TRIALS}:raises_an_odd_divergence", {}, {}, (0,)), tmp_path)
    assert (outcome.diverged, outcome.failed) == (1, 0)


@pytest.mark.parametrize("executor", [SerialExecutor(), ProcessExecutor(workers=2)])
def test_sys_exit_and_other_ends_are_failures_with_a_sentence(tmp_path, executor):
    hows = ["sys.exit 0", "sys.exit 3", "cancelled"]
    outcome = run_study(ends_study(tmp_path, *hows), tmp_path / "study", executor)
    assert (outcome.finished, outcome.failed, outcome.ran) == (1, 3, 4)
    said = {how: run.message() for how, run in by_how(tmp_path / "study").items()}
    assert said["sys.exit 0"].startswith("the trial called sys.exit(0): a trial ends by returning a mapping")
    assert said["sys.exit 3"].startswith("the trial called sys.exit(3)")
    assert "CancelledError" in said["cancelled"]


def test_os_exit_is_a_failure_whatever_status_it_leaves_with(tmp_path):
    """74 to 80 are what a trial's process itself says to its runner: a full disk, a lost lease, a stop."""
    hows = [f"os._exit {code}" for code in (0, 1, 74, 75, 76, 77, 78, 79, 80)]
    outcome = run_study(ends_study(tmp_path, *hows), tmp_path / "study", ProcessExecutor(workers=2))
    assert (outcome.finished, outcome.failed, outcome.ran) == (1, 9, 10)
    for how, run in by_how(tmp_path / "study").items():
        if how != "well":
            status = how.split()[1]
            assert run.message() == f"the trial's process ended with exit status {status} and recorded no result"


@pytest.mark.parametrize("executor", [SerialExecutor(), ProcessExecutor(workers=2)])
def test_what_a_forked_child_returns_raises_or_writes_is_not_the_trials(tmp_path, executor):
    hows = ["a fork returns", "a fork raises", "a fork writes"]
    outcome = run_study(ends_study(tmp_path, *hows), tmp_path / "study", executor)
    assert (outcome.finished, outcome.failed, outcome.ran) == (4, 0, 4)
    for run in by_how(tmp_path / "study").values():
        assert run.result() == {"loss": 1.0}
        assert [event["event"] for event in run.history()] == ["started", "finished"]


def test_a_trial_killed_from_outside_is_resumed_at_once_and_at_last_fails_with_a_sentence(tmp_path):
    study = ends_study(tmp_path, "killed once", "killed always")
    outcome = run_study(study, tmp_path / "study", ProcessExecutor(workers=2))
    assert (outcome.finished, outcome.failed, outcome.ran) == (2, 1, 1 + 2 + 4)
    runs = by_how(tmp_path / "study")
    assert [event["event"] for event in runs["killed once"].history()] == ["started", "lost", "started", "finished"]
    assert runs["killed always"].message() == (
        "the trial's process was killed from outside by SIGKILL (signal 9) 4 times, which a system does that runs out "
        "of memory; the same command goes on from the last checkpoint"
    )


def test_a_trial_longer_than_its_limit_has_failed_and_the_study_goes_on(tmp_path):
    study = ends_study(tmp_path, "hangs")
    outcome = run_study(study, tmp_path / "study", ProcessExecutor(workers=1, trial_timeout_s=1.0))
    assert (outcome.finished, outcome.failed, outcome.ran) == (1, 1, 2)
    message = by_how(tmp_path / "study")["hangs"].message()
    assert message == "the trial took longer than 1 s and was killed; its last step was 3 of 9"


def test_the_limit_of_a_trial_is_an_option_of_the_command(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import time\n"
        "def train(config, run, device):\n"
        "    time.sleep(30 * (config['n'] == 2))\n"
        "    return {'loss': 1.0}\n"
    )
    command = ["run", f"{tmp_path}/mine.py:train", "--set", "n=[1,2,3]", "--out", str(tmp_path / "study")]
    done = CliRunner().invoke(app, [*command, "--trial-timeout", "1", "--workers", "2"])
    assert done.exit_code == 1, done.output
    said = {run.trial.axes["n"]: run.message() for run in read_study(tmp_path / "study").runs}
    assert said == {1: "", 2: "the trial took longer than 1 s and was killed", 3: ""}


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux")
def test_children_do_not_outlive_their_trial(tmp_path):
    study = ends_study(tmp_path, "leaves children")
    assert run_study(study, tmp_path / "study", ProcessExecutor(workers=2)).finished == 2
    left = [int(path.read_text()) for path in (tmp_path / "marks").iterdir()]
    assert len(left) == 3
    assert [pid for pid in left if psutil.pid_exists(pid)] == []


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux")
@pytest.mark.parametrize("how", ["runner killed", "server killed", "trial killed"])
def test_children_do_not_outlive_the_study_whoever_is_killed(tmp_path, how):
    marks = tmp_path / "marks"
    marks.mkdir()
    study = Study("left", f"{TRIALS}:leaves_children_and_stays", {"marks": str(marks)}, {}, (0,))
    runner = runner_process.start(study, tmp_path / "study", workers=1)
    try:
        _wait_for(lambda: list(tmp_path.glob("study/runs/*/ready.json")), "the trial")
        left = {path.name.split("-")[1]: psutil.Process(int(path.read_text())) for path in marks.iterdir()}
        assert sorted(left) == ["group", "session", "stubborn"]
        (server,) = psutil.Process(runner.pid).children()
        (trial,) = server.children()
        {"runner killed": psutil.Process(runner.pid), "server killed": server, "trial killed": trial}[how].kill()
        if how == "server killed":
            # Nobody is left who would know the one that left the trial's group.
            left.pop("session").kill()
        assert psutil.wait_procs([*left.values(), trial], timeout=8)[1] == []
    finally:
        if runner.poll() is None:
            os.killpg(runner.pid, signal.SIGKILL)
        runner.communicate()


def _wait_for(condition, what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s} s"
        time.sleep(0.01)


@pytest.mark.parametrize("mib", [40, pytest.param(600, marks=pytest.mark.long)])
def test_the_output_of_a_trial_is_bounded_and_says_so(tmp_path, mib):
    study = Study("shouts", f"{TRIALS}:shouts", {"mib": mib}, {}, (0,))
    assert run_study(study, tmp_path, ProcessExecutor(workers=1)).finished == 1
    output = (read_study(tmp_path).runs[0].folder / "output.log").read_bytes()
    assert len(output) <= 16 * 2**20 + 100
    assert output.startswith(b"the first line\n")
    assert output.endswith(b"the last line\n")
    assert b"bytes of output are left out here]" in output


def test_an_output_cut_again_and_again_counts_what_it_left_out(tmp_path):
    path, written = tmp_path / "output.log", b""
    for part in range(20):
        new = f"{part:09d}\n".encode() * 10
        written += new
        with open(path, "ab") as stream:
            stream.write(new)
        bound_output(path, limit=150, kept=50)
        assert path.stat().st_size <= 200
    bound_output(path, limit=1, kept=50)
    begin, mark, end = path.read_bytes().partition(b"\n[metascale: 1900 bytes of output are left out here]\n")
    assert mark
    assert (begin, end) == (written[:50], written[-50:])


def test_a_row_is_refused_by_the_name_of_what_is_wrong_in_it():
    with pytest.raises(InputError, match=r"'best\.curve\[2\]', which is a set"):
        checked_row({"best": {"curve": [1, 2, set()]}})


def test_serial_and_process_executors_record_the_same(tmp_path):
    study = ends_study(tmp_path, "a fork returns")
    run_study(study, tmp_path / "serial")
    run_study(study, tmp_path / "processes", ProcessExecutor(workers=2))
    assert final_files(tmp_path / "serial") == final_files(tmp_path / "processes")
