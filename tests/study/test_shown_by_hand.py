"""How a study is shown: states of trials, tables by the width of the terminal, and reporters, by tables of events."""

from __future__ import annotations

import io
import json
import sqlite3
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from metascale.core.run import Checkpoint
from metascale.study import RunStore, status
from metascale.study.design import Trial
from metascale.study.roles import Roles
from metascale.study.run.session import Event, StudyOutcome
from metascale.study.status import (
    LiveReporter,
    NotebookReporter,
    PlainReporter,
    StudyStatus,
    TrialStatus,
    default_reporter,
    last_loss,
    render_status,
    study_status,
    summary,
)
from metascale.study.store.claims import Claim
from metascale.study.store.index import STATUSES, IndexRow
from metascale.study.store.run import StoredRun
from tests.study.folders import tiny_study

TRIAL = Trial("id", "label", "trial", 3, {"n": 1}, {})
PROGRESS = {"done": 30, "first_done": 10, "total": 70, "updated_at": 112.0, "first_at": 102.0, "note": "warm"}


def run(folder: Path, state: str = "pending", message: str = "of the run", wall_s: float = 5.0, damage: str = "",
        result: Any = None) -> Any:  # fmt: skip
    return SimpleNamespace(trial=TRIAL, folder=folder, status=state, message=lambda: message, wall_s=lambda: wall_s,
                           damage=lambda: damage, result=lambda: result)  # fmt: skip


def row(state: Any = "pending", **changes: Any) -> IndexRow:
    return replace(IndexRow("id", state, "me", 4, 900.0, "cuda:1", 0.0, 90.0, 8.0, "of the index"), **changes)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(status, "time", SimpleNamespace(time=lambda: 1000.0, monotonic=lambda: 0.0))
    return tmp_path


# ------------------------------------------------------------------------------- states of trials


@pytest.mark.parametrize(
    ("state", "damage", "result", "behind"),
    [
        ("pending", "", True, False), ("failed", "", True, False), ("finished", "", True, False),
        ("finished", "", False, True), ("diverged", "", False, True), ("running", "", True, True),
        ("running", "", False, False), ("damaged", "bad", True, False), ("damaged", "", True, True),
        ("finished", "bad", True, True), ("pending", "bad", True, True), ("damaged", "bad", False, True),
    ],
)  # fmt: skip
def test_when_the_index_is_behind_the_folders(
    state: str, damage: str, result: bool, behind: bool, folder: Path
) -> None:
    if result:
        (folder / "result.json").write_text("{}")
    assert status._is_behind(row(state), run(folder, damage=damage)) is behind


def test_a_trial_without_an_index(folder: Path) -> None:
    found = status._trial_status(run(folder), None, {}, "")
    assert asdict(found) == {
        "id": "id", "label": "label", "kind": "trial", "seed": 3, "axes": {"n": 1}, "status": "pending", "attempt": 0,
        "owner": None, "owner_alive": None, "device": "", "done": None, "total": None, "note": "", "wall_s": 5.0,
        "left_s": None, "updated_at": 0.0, "message": "of the run", "loss": None, "loss_name": "", "steps_per_s": None,
    }  # fmt: skip


def test_a_trial_that_runs(folder: Path) -> None:
    (folder / "progress.json").write_text(json.dumps(PROGRESS))
    (folder / "eval.csv").write_text("step,loss\n1,2.5\n")
    found = status._trial_status(run(folder), row("running", started_at=940.0), {"me": False}, "")
    assert asdict(found) == {
        "id": "id", "label": "label", "kind": "trial", "seed": 3, "axes": {"n": 1}, "status": "running", "attempt": 4,
        "owner": "me", "owner_alive": False, "device": "cuda:1", "done": 30, "total": 70, "note": "warm",
        "wall_s": 68.0, "left_s": 20.0, "updated_at": 112.0, "message": "of the index", "loss": 2.5,
        "loss_name": "loss", "steps_per_s": 2.0,
    }  # fmt: skip
    assert found.shown_status == "interrupted"
    assert replace(found, owner_alive=None).shown_status == "running"
    assert replace(found, status="pending").shown_status == "pending"
    later = status._trial_status(run(folder), row("running", updated_at=200.0), {}, "")
    assert (later.updated_at, later.wall_s, later.owner_alive) == (200.0, 8.0, None)
    free = status._trial_status(run(folder), row("failed", owner=None, started_at=940.0), {None: True}, "")  # type: ignore[dict-item]
    assert (free.owner, free.owner_alive, free.wall_s, free.done, free.note) == (None, None, 8.0, None, "")


@pytest.mark.parametrize(("state", "done"), [
    ("pending", 7), ("failed", 7), ("running", 7), ("finished", None), ("diverged", None),
])  # fmt: skip
def test_a_trial_that_waits_stands_at_its_checkpoint(state: str, done: int | None, folder: Path) -> None:
    for name in ("step-00000004", "step-00000007-stop"):
        (folder / "checkpoints" / name).mkdir(parents=True)
    if state in ("finished", "diverged"):
        (folder / "result.json").write_text("{}")
    found = status._trial_status(run(folder, state), row(state), {}, "")
    assert (found.status, found.done, found.total) == (state, done, None)
    assert found.message == "of the index"
    behind = status._trial_status(run(folder, "finished", damage="bad"), row(state), {}, "")
    assert (behind.status, behind.message) == ("finished", "of the run")


def test_the_loss_of_a_trial(folder: Path) -> None:
    result = {"my": {"loss": 4.0}, "loss": 3.0, "test_loss_nats": 2.0, "own": 1.0, "n": 3, "a_loss": "text"}
    ended = run(folder, result=result)
    assert last_loss(ended, "finished", "own") == ("own", 1.0)
    assert last_loss(ended, "finished", "n") == ("test_loss_nats", 2.0), "no number of a loss"
    assert last_loss(ended, "finished") == ("test_loss_nats", 2.0)
    del result["test_loss_nats"]
    assert last_loss(ended, "finished") == ("loss", 3.0)
    del result["loss"]
    assert last_loss(ended, "finished") == ("my.loss", 4.0)
    del result["my"]
    assert last_loss(ended, "finished") is None
    assert last_loss(run(folder), "finished") is None
    (folder / "train.csv").write_text("step,loss\n1,2.5\n")
    assert last_loss(ended, "pending") is None
    assert last_loss(ended, "running", "own") == last_loss(ended, "failed") == ("loss", 2.5)

    def gone() -> Any:
        raise FileNotFoundError

    ended.result = gone
    assert last_loss(ended, "finished") is None


def test_a_study_counts_its_states_and_asks_each_owner_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = replace(tiny_study(n_tasks=(2, 5, 7)), roles=Roles(("n_tasks",), loss="own"))
    store = RunStore.create(tmp_path, study)
    asked: list[str] = []
    monkeypatch.setattr(status, "is_alive", lambda owner: asked.append(owner) or True)
    one, two, _ = store.trials
    for trial in (one, two):
        store.claim(trial, "somebody", device="cpu")
    claim = Claim(two.id, "somebody", 1)
    StoredRun(store.run_view(two).folder, claim).finish({"own": 0.5, "loss": 9.0})
    store.settle(two, claim, 2.0)
    store.close()
    found = study_status(tmp_path)
    assert (found.name, found.folder, asked) == ("tiny", tmp_path, ["somebody"])
    assert found.counts == {**dict.fromkeys(STATUSES, 0), "running": 1, "finished": 1, "pending": 1}
    assert (found.trials[1].loss_name, found.trials[1].loss, found.trials[0].owner_alive) == ("own", 0.5, True)
    assert found.to_json()["counts"]["running"] == 1


# ------------------------------------------------------------------------------- tables


def trial(state: Any = "running", **changes: Any) -> TrialStatus:
    given = {"id": "i", "label": "l", "kind": "trial", "seed": 0, "axes": {}, "status": state, "attempt": 1, "note": "",
             "owner": None, "owner_alive": True, "device": "", "done": None, "total": None, "wall_s": 0.0,
             "left_s": None, "updated_at": 0.0, "message": ""}  # fmt: skip
    return TrialStatus(**{**given, **changes})


def standing(*trials: TrialStatus, eta_s: float | None = 75.0) -> StudyStatus:
    counts = {name: sum(one.status == name for one in trials) for name in STATUSES}
    return StudyStatus("digits", Path("folder"), trials, counts, eta_s)  # type: ignore[arg-type]


def printed(shown: Any, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(shown)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


BUSY = trial(label="n=2-seed=0", device="cuda:1", done=3, total=12, loss=0.5, steps_per_s=2.0, left_s=90.0, note="warm")


@pytest.mark.parametrize(
    ("width", "names"),
    [
        (130, ["trial", "status", "device", "steps", "loss", "steps/s", "left", "note"]),
        (129, ["trial", "status", "steps", "loss", "left", "note"]),
        (80, ["trial", "status", "steps", "loss", "left", "note"]),
    ],
)
def test_what_a_table_shows_by_its_width(width: int, names: list[str]) -> None:
    lines = printed(render_status(standing(BUSY), width=width), width)
    assert lines[0] == "digits · folder"
    assert lines[2].replace("┃", " ").split() == names
    cells = [cell.strip() for cell in lines[4].replace("│", "|").split("|")[1:-1]]
    full = [
        "n=2-seed=0",
        "running",
        "cuda:1",
        "3/12",
        cells[4] if width == 130 else "",
        "0.5",
        "2",
        "1 min 30 s",
        "warm",
    ]
    assert cells == (full if width == 130 else [full[0], full[1], full[3], full[5], full[7], full[8]])
    assert lines[-1] == "0/1 trials ended (1 running), about 1 min 15 s left"


@pytest.mark.parametrize(("width", "long"), [(130, 60), (61, 60), (60, 59), (20, 19), (9, 10)])
def test_a_bar_for_the_study_as_a_whole(width: int, long: int) -> None:
    ended = [trial(name) for name in ("finished", "failed", "diverged", "damaged")]

    def bar(*trials: TrialStatus) -> tuple[Any, ...]:
        found: Any = render_status(standing(*trials), width=width)
        one = found.renderables[-2].renderable
        return one.total, one.completed, one.width

    assert bar(*ended, trial("pending"), trial("running")) == (6, 4, long)
    assert bar() == (1, 0, long)


def columns(width: int, *trials: TrialStatus) -> dict[str, tuple[Any, ...]]:
    found = status._framed(standing(*trials), trials, width)
    assert isinstance(found, Table)
    return {str(one.header): (one.min_width, one.max_width, one.no_wrap, one.overflow) for one in found.columns}


def test_labels_give_way_to_states_where_the_terminal_is_narrow() -> None:
    """Of 100 columns: 11 for a state, 12 for steps, 9 for a loss, 14 for the time, 19 for a note, 3 beside the label,
    and one for the frame leave 31."""
    cut = "ellipsis"
    assert columns(100, BUSY) == {
        "trial": (None, 31, True, cut), "status": (8, None, True, cut), "steps": (9, None, True, cut),
        "loss": (6, None, True, cut), "left": (11, None, True, cut), "note": (16, None, False, cut),
    }  # fmt: skip
    assert columns(80, BUSY)["trial"] == (None, 12, True, cut)
    wide = columns(130, BUSY)
    assert (wide["trial"][1], wide["note"][0], wide[""][0], wide["device"][0]) == (None, None, 10, None)
    assert list(columns(129, trial("pending"))) == ["trial", "status"], "empty columns are left out"
    assert len(columns(130, trial("pending"))) == 9


def test_what_is_hidden_is_counted_and_what_went_wrong_is_told_below_a_narrow_table() -> None:
    trials = [trial("failed", label="n=2-seed=0", message="ValueError: no", wall_s=40.0), trial("finished", wall_s=9.0),
              trial("pending"), trial("damaged", label="d"), trial("diverged", label="e", message="inf")]  # fmt: skip
    lines = printed(render_status(standing(*trials, eta_s=None), max_rows=2, width=79), 79)
    assert lines[:2] == ["digits", "folder"]
    assert lines[2].split() == ["trial", "status", "left"]
    assert [line.split() for line in lines[3:5]] == [
        ["n=2-seed=0", "failed", "in", "40", "s"],
        ["e", "diverged", "in", "0.0", "s"],
    ]
    assert lines[5:8] == ["failed n=2-seed=0: ValueError: no", "diverged e: inf", "... and 3 more trials"]
    assert (
        " ".join(lines[-2:])
        == "4/5 trials ended (1 pending, 1 finished, 1 failed, 1 diverged, 1 damaged), about ? left"
    )
    assert "more trials" not in "".join(printed(render_status(standing(*trials), width=79), 79))
    many = standing(*[trial("pending")] * 41)
    assert "... and 1 more trials" in printed(render_status(many), 120)


def test_a_narrow_label_has_what_the_other_columns_leave() -> None:
    """Beside a state of 7, steps of 5 (the head) and a time of 10 characters, each with a space, 40 columns leave 15,
    of which one stays free."""
    one = trial(label="x" * 30, done=3, total=12, left_s=90.0)
    assert printed(render_status(standing(one), width=40), 40)[3].split()[0] == f"{'x' * 7}…{'x' * 6}"
    assert printed(render_status(standing(one), width=26), 60)[3].split()[0] == "xxxx…xxx"


# ------------------------------------------------------------------------------- reporters


OUTCOME = StudyOutcome(Path("f"), 3, 2, 1, 0, 0, 3, 0, 2.0)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pages that a notebook showed; the first call makes the handle."""
    found: list[str] = []
    screen = ModuleType("IPython.display")

    def display(page: str, display_id: bool) -> Any:
        assert (display_id, found) == (True, [])
        found.append(page)
        return SimpleNamespace(update=found.append)

    screen.HTML, screen.display = lambda text: text, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", screen)
    return found


def page(done: int, total: int, told: str, lines: str = "", most: int | None = None) -> str:
    bar = f'<progress value="{done}" max="{total if most is None else most}" style="width:16em"></progress>'
    block = f'<pre style="white-space:pre-wrap;line-height:1.35">{lines}</pre>' if lines else ""
    return f'<div title="a&lt;b">{bar} {done}/{total} trials ended{told}{block}</div>'


def test_the_page_of_a_notebook_event_by_event(pages: list[str]) -> None:
    told = NotebookReporter()
    told.end(None)  # a study that could not begin
    assert pages.pop() == page(0, 0, "", most=1).replace("a&lt;b", "")
    told.begin(Path("a<b"), 0, 0)
    told.begin(Path("a<b"), 3, 1)
    for event in (
        Event("started", "x", total=4, done=1), Event("started", "y", done=1, eta_s=90.0),
        Event("started", "z", done=1),
        Event("failed", "y", "no <b>", done=2), Event("finished", "x", done=3),
        Event("stopping", message="soon", done=3),
    ):  # fmt: skip
        told.event(event)
    told.end(None)
    told.end(replace(OUTCOME, total=4, pending=1))
    left = ", about 1 min 30 s left"
    failed = "failed y no &lt;b&gt;"
    assert pages == [
        page(0, 0, "", most=1), page(1, 3, ""), page(1, 4, ": x"), page(1, 4, f"{left}: x and 1 more"),
        page(1, 4, f"{left}: x and 2 more"), page(2, 4, f"{left}: x and 1 more", failed),
        page(3, 4, f"{left}: z", failed), page(3, 4, f"{left}: z", f"{failed}\nstopping  soon"),
        page(3, 4, "", f"{failed}\nstopping  soon"),
        page(3, 4, "", f"{failed}\nstopping  soon\n{escaped(summary(replace(OUTCOME, total=4, pending=1)))}"),
    ]  # fmt: skip


def escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("'", "&#x27;")


def test_which_reporter_is_for_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True)
    for notebook in (True, False):
        monkeypatch.setattr(status, "in_notebook", lambda notebook=notebook: notebook)
        assert isinstance(default_reporter(terminal), LiveReporter)
        assert isinstance(default_reporter(Console(file=io.StringIO())), PlainReporter)
        assert isinstance(default_reporter(), NotebookReporter if notebook else PlainReporter)
    monkeypatch.setattr(status, "Console", lambda stderr: terminal if stderr else None)
    assert isinstance(default_reporter(), LiveReporter)


def test_a_live_table_looks_rarely_at_a_large_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look of 0.2 s is the last for 1.8 s; one of 0.1 s costs nothing; a locked index leaves the last table."""
    clock = {"s": 100.0}
    takes: dict[str, Any] = {"s": 0.2, "error": None}
    looks: list[Any] = []
    made: list[Any] = []

    def look(view: str) -> str:
        assert view == "view"
        clock["s"] += takes["s"]
        if takes["error"]:
            raise sqlite3.OperationalError("locked")
        looks.append(clock["s"])
        return f"look {len(looks)}"

    class Live:
        def __init__(self, **options: Any) -> None:
            made.append(options)
            self.did: list[str] = []
            made.append(self.did)

        def start(self) -> None:
            self.did.append("start")

        def stop(self) -> None:
            self.did.append("stop")

    monkeypatch.setattr(status, "time", SimpleNamespace(monotonic=lambda: clock["s"]))
    monkeypatch.setattr(status, "Live", Live)
    monkeypatch.setattr(status, "read_study", lambda folder: "view")
    monkeypatch.setattr(status, "study_status", look)
    monkeypatch.setattr(status, "render_status", lambda found, max_rows, width: (found, max_rows, width))
    console = Console(file=io.StringIO(), width=77, height=32, force_terminal=True, color_system=None)
    told = LiveReporter(console)
    told.end(None)
    told.begin(Path("f"), 3, 0)
    options, did = made
    render = options.pop("get_renderable")
    assert (options, did) == ({"console": console, "refresh_per_second": 2}, ["start"])
    assert render() == ("look 1", 22, 77)
    for at, number in ((101.9, 1), (102.1, 2), (102.5, 2)):
        clock["s"] = at
        assert render() == (f"look {number}", 22, 77)
    takes["s"], clock["s"] = 0.1, 200.0
    assert [render()[0], render()[0]] == ["look 3", "look 4"]
    takes["error"] = True
    assert render()[0] == "look 4"
    told.event(Event("finished", "quiet"))
    told.event(Event("failed", "a[b]", "no [x]"))
    told.end(OUTCOME)
    assert did == ["start", "stop"]
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "failed a[b] no [x]" in said
    assert "quiet" not in said
    assert "2 of 3 trials finished, 1 failed" in said
    console.size = (77, 8)  # type: ignore[assignment]
    takes["error"] = False
    assert render()[1] == 5


def test_lines_of_events_have_times_only_where_there_are_any() -> None:
    console = Console(file=io.StringIO(), width=40)
    told = PlainReporter(console)
    for event in (
        Event("stopping", message="soon", done=1, total=3), Event("finished", "a", done=1, total=3, wall_s=2.0),
        Event("lost", "a", "gone", 2.0, 1, 3, 60.0), Event("started", "b", done=1, total=3, eta_s=60.0),
    ):  # fmt: skip
        told.event(event)
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "[1/3] stopping: soon", "[1/3] finished a in 2.0 s", "[1/3] lost a in 2.0 s, about 1 min 00 s left: gone",
        "[1/3] started b",
    ]  # fmt: skip


def test_a_checkpoint_of_a_stop_is_where_a_trial_stands(folder: Path) -> None:
    claim = Claim("id", "me", 1)
    (folder / "claim.json").write_text(json.dumps(asdict(claim)))
    stored = StoredRun(folder, claim)
    stored.save(Checkpoint(4, {}))
    stored.save(Checkpoint(9, {}, scheduled=False))
    assert status._trial_status(run(folder), row("pending"), {}, "").done == 9
