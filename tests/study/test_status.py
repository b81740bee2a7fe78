from __future__ import annotations

import html
import io
import json
import sys
import types

import pytest
from rich.console import Console

from metascale.study import RunStore, run_study
from metascale.study.status import (
    LiveReporter,
    NotebookReporter,
    PlainReporter,
    StudyStatus,
    TrialStatus,
    default_reporter,
    estimate_left_s,
    render_status,
    study_status,
    summary,
)
from metascale.study.store.claims import new_owner, retire
from metascale.study.store.folder import run_folder
from metascale.study.store.run import StoredRun
from tests.study.folders import tiny_study

NONE = dict.fromkeys(("pending", "finished", "diverged", "damaged"), 0)


def shown(renderable, **options) -> str:
    console = Console(file=io.StringIO(), width=120, **options)
    console.print(renderable)
    return console.file.getvalue()


def trial_status(status="running", wall_s=0.0, left_s=None, **changes):
    empty = {"id": "i", "label": "l", "kind": "trial", "seed": 0, "axes": {}, "attempt": 1, "owner": None, "note": ""}
    empty |= {"owner_alive": True, "device": "", "done": None, "total": None, "updated_at": 0.0, "message": ""}
    return TrialStatus(**{**empty, **changes}, status=status, wall_s=wall_s, left_s=left_s)


def test_after_the_last_step_no_time_is_promised(tmp_path):
    """Its evaluation takes what no step tells: "0.0 s left" stood there for minutes."""
    store = RunStore.create(tmp_path, tiny_study(n_tasks=(2, 5)))
    owner = new_owner()
    trial = store.trials[1]
    claim = store.claim(trial, owner, device="cpu")
    folder = run_folder(tmp_path, trial)
    StoredRun(folder, claim).progress(1, 12, "")
    for done, promised, cell in ((7, 6 / 2 * 5, "15 s"), (12, None, "evaluating")):
        told = json.loads((folder / "progress.json").read_text())
        told |= {"done": done, "first_done": 5, "first_at": 100.0, "updated_at": 106.0}
        (folder / "progress.json").write_text(json.dumps(told))
        running = study_status(tmp_path).trials[1]
        assert running.left_s == promised
        assert cell in shown(render_status(study_status(tmp_path)))
    retire(owner)


def test_status_tells_how_each_trial_stands(tmp_path):
    study = tiny_study("sometimes_fails", n_tasks=(2, 5, 7, 9), fail_at=2, cured="nowhere")
    run_study(study, tmp_path, fail_fast=True)
    store = RunStore.open(tmp_path)
    owner = new_owner()
    claim = store.claim(store.trials[1], owner, device="cuda:3")
    StoredRun(run_folder(tmp_path, store.trials[1]), claim).progress(3, 12, "warm-up")
    status = study_status(tmp_path)
    assert [trial.status for trial in status.trials] == ["failed", "running", "pending", "pending"]
    assert status.counts == {"pending": 2, "running": 1, "finished": 0, "failed": 1, "diverged": 0, "damaged": 0}
    running = status.trials[1]
    assert (running.device, running.done, running.total, running.note) == ("cuda:3", 3, 12, "warm-up")
    assert (running.owner, running.owner_alive, running.shown_status) == (owner, True, "running")
    assert "third wheel" in status.trials[0].message
    retire(owner)
    assert study_status(tmp_path).trials[1].shown_status == "interrupted"
    assert json.loads(json.dumps(status.to_json()))["trials"][1]["done"] == 3


def test_status_without_an_index_reads_the_folders(tmp_path):
    run_study(tiny_study(), tmp_path)
    with_index = study_status(tmp_path)
    for path in tmp_path.glob("index.sqlite3*"):
        path.unlink()
    without = study_status(tmp_path)
    assert [trial.status for trial in without.trials] == [trial.status for trial in with_index.trials]
    assert not list(tmp_path.glob("index.sqlite3*"))
    assert with_index.eta_s == 0.0


@pytest.mark.parametrize(
    ("trials", "left_s"),
    [
        ([trial_status("finished", 10.0)], 0.0),
        ([trial_status("pending")], None),
        ([trial_status("running"), trial_status("pending")], None),
        # One runs, 6 of its 10 s are left, and one more of 10 s waits.
        ([trial_status("finished", 10.0), trial_status("running", 4.0, 6.0), trial_status("pending")], 16.0),
        # The same with two at a time: (6 + 6 + 10 + 10) / 2.
        ([trial_status("running", 4.0, 6.0)] * 2 + [trial_status("pending")] * 2, 16.0),
        # No rate yet: as long as the others took.
        ([trial_status("finished", 10.0), trial_status("running", 3.0)], 7.0),
        # A trial whose runner is gone waits.
        ([trial_status("running", 4.0, 6.0), trial_status("running", 1.0, owner_alive=False)], 16.0),
    ],
)
def test_the_time_left(trials, left_s):
    assert estimate_left_s(trials) == left_s


def test_the_rendered_table_shows_what_matters(tmp_path):
    study = tiny_study("sometimes_fails", n_tasks=(2, 5, 7), fail_at=5, cured="nowhere")
    run_study(study, tmp_path)
    text = shown(render_status(study_status(tmp_path)))
    assert "n_tasks=2-seed=0" in text
    assert "RuntimeError: the third wheel" in text
    assert "3/3 trials ended (2 finished, 1 failed)" in text
    short = shown(render_status(study_status(tmp_path), max_rows=1))
    assert "n_tasks=5" in short
    assert "n_tasks=2" not in short
    assert "and 2 more trials" in short


def test_a_narrow_terminal_cuts_neither_reasons_nor_counts(tmp_path):
    study = tiny_study("sometimes_fails", n_tasks=(2, 5, 7), fail_at=5, cured="nowhere")
    run_study(study, tmp_path)
    console = Console(width=80, file=io.StringIO())
    console.print(render_status(study_status(tmp_path), width=80))
    lines = console.file.getvalue().splitlines()
    assert any("RuntimeError:" in line for line in lines)
    assert "3/3 trials ended (2 finished, 1 failed), about 0.0 s left" in lines


def test_plain_lines_where_there_is_no_terminal(tmp_path):
    console = Console(file=io.StringIO(), width=400)
    reporter = default_reporter(console)
    assert isinstance(reporter, PlainReporter)
    outcome = run_study(tiny_study(), tmp_path, reporter=reporter)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == f"{tmp_path}: 2 trials"
    assert lines[1] == "[0/2] started n_tasks=2-seed=0: cpu"
    assert lines[2].startswith("[1/2] finished n_tasks=2-seed=0 in ")
    assert lines[-1] == summary(outcome)
    assert lines[-1].startswith("2 of 2 trials finished (2 run now")


def test_a_bar_that_replaces_itself_in_a_notebook(tmp_path, monkeypatch):
    """IPython is stood in for: `display` of a page with an id gives a handle, and the handle takes the next pages."""
    shown = []
    ipython, screen = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=None)
    screen.HTML = lambda text: text
    screen.display = lambda page, display_id: shown.append([page]) or types.SimpleNamespace(update=shown[-1].append)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", screen)
    assert not isinstance(default_reporter(), NotebookReporter)  # IPython in a terminal
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    reporter = default_reporter()
    assert isinstance(reporter, NotebookReporter)
    study = tiny_study("sometimes_fails", fail_at=5, cured="nowhere")
    outcome = run_study(study, tmp_path, reporter=reporter)
    (pages,) = shown
    assert 'value="0" max="2"' in pages[0]
    assert any("0/2 trials ended: n_tasks=2-seed=0" in page for page in pages)
    assert 'value="2" max="2"' in pages[-1]
    assert "failed n_tasks=5-seed=0" in pages[-1]
    assert html.escape(summary(outcome)) in pages[-1]


def test_a_live_table_on_a_terminal(tmp_path):
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    reporter = default_reporter(console)
    assert isinstance(reporter, LiveReporter)
    study = tiny_study("sometimes_fails", fail_at=5, cured="nowhere")
    outcome = run_study(study, tmp_path, reporter=reporter)
    text = console.file.getvalue()
    assert "2/2 trials ended (1 finished, 1 failed)" in text
    assert "failed n_tasks=5-seed=0" in text
    assert summary(outcome)[:30] in text


@pytest.mark.parametrize("width", [52, 60])
def test_sixty_columns_hold_label_state_step_loss_and_time(tmp_path, width):
    trials = [
        trial_status(label=f"method=maml-n_tasks={n}-seed={seed}", done=1200, total=3000, left_s=75.0, loss=0.51234)
        for n in (2, 200)
        for seed in (0, 1)
    ]
    trials += [trial_status("failed", 40.0, label="method=maml-n_tasks=500-seed=0", message="ValueError: " + "x" * 90)]
    standing = StudyStatus("digits", tmp_path / ("y" * 70), tuple(trials), {"running": 4, "failed": 1} | NONE, 75.0)
    console = Console(file=io.StringIO(), width=width)
    console.print(render_status(standing, width=width))
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= width
    lines = [line for line in printed.splitlines() if "1200/3000" in line]
    assert [line.split()[1:] for line in lines] == [["running", "1200/3000", "0.5123", "1", "min", "15", "s"]] * 4
    labels = [line.split()[0] for line in lines]
    assert all(label.startswith("me") and "…" in label for label in labels)
    assert [label[-1] for label in labels] == ["0", "1", "0", "1"]
    assert "failed method=maml-n_tasks=500-seed=0:" in " ".join(printed.split())
    assert "1 min 15 s left" in " ".join(printed.split())


def test_a_failed_trial_shows_the_step_it_reached(tmp_path):
    run_study(tiny_study("saves_then_fails"), tmp_path, fail_fast=True)
    standing = study_status(tmp_path)
    failed = standing.trials[0]
    assert (failed.status, failed.done, failed.total, failed.left_s) == ("failed", 7, None, None)
    assert "7 saved" in shown(render_status(standing))
