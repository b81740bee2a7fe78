"""What a study says of itself: outcomes, events, states of trials, provenance, ranges, tables that keep the best."""

from __future__ import annotations

import io
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from metascale.core.columns import NOT_BEST
from metascale.core.errors import CorruptFile, InputError
from metascale.study import run_study
from metascale.study.definition import Definition, load_definition, of_earlier_version, save_definition
from metascale.study.roles import Roles
from metascale.study.run.session import Event, StudyOutcome
from metascale.study.search.search import Pruning, Search
from metascale.study.search.space import Choice, Integer, LogUniform, Uniform, dimension_from_json
from metascale.study.status import (
    PlainReporter,
    TrialStatus,
    _cells,
    _cut,
    _last_row_loss,
    _most_relevant,
    _newest_loss,
    _pace,
    disk_of,
    estimate_left_s,
    summary,
)
from metascale.study.store import provenance
from metascale.study.store.seals import SEAL, sealed
from metascale.study.store.table import ResultsTable, _keep_best
from tests.study.folders import TRIALS, tiny_study


def outcome(**changes: Any) -> StudyOutcome:
    given = {"folder": Path("f"), "total": 9, "finished": 4, "failed": 0, "diverged": 0, "pending": 0, "ran": 3,
             "skipped": 1, "wall_s": 61.0}  # fmt: skip
    return StudyOutcome(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "4 of 9 trials finished (3 run now in 1 min 01 s): f"),
        ({"diverged": 2, "pending": 3},
         "4 of 9 trials finished, 2 diverged, 3 not run yet (3 run now in 1 min 01 s): f"),
        ({"failed": 1}, "4 of 9 trials finished, 1 failed (3 run now in 1 min 01 s): f; the tracebacks are in the "
         "runs' error.txt, and the same command tries them again"),
        ({"stopped": True},
         "4 of 9 trials finished (3 run now in 1 min 01 s): f; stopped as requested: the same command resumes"),
        ({"damaged": ("a: bad", "b: gone")}, "4 of 9 trials finished (3 run now in 1 min 01 s): f; left out as "
         "damaged: a: bad; b: gone (a run whose folder is deleted is run again)"),
    ],
)  # fmt: skip
def test_an_outcome_in_words(changes: dict[str, Any], said: str) -> None:
    assert summary(outcome(**changes)) == said


def test_events_are_a_line_each() -> None:
    console = Console(file=io.StringIO(), width=40)
    told = PlainReporter(console)
    told.begin(Path("folder"), 3, 0)
    told.begin(Path("folder"), 3, 2)
    told.event(Event("started", "a", done=0, total=3))
    told.event(Event("finished", "a", done=1, total=3, wall_s=2.0, eta_s=60.0))
    long = ("failed", "a long label of a trial", "a message that is longer than the line")
    told.event(Event(*long, done=1, total=3, eta_s=60.0))
    told.end(None)
    told.end(outcome())
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "folder: 3 trials", "folder: 3 trials, 2 of them ended before", "[0/3] started a",
        "[1/3] finished a in 2.0 s, about 1 min 00 s left",
        "[1/3] failed a long label of a trial: a message that is longer than the line", summary(outcome()),
    ]  # fmt: skip


def trial(status: str = "running", wall_s: float = 0.0, left_s: float | None = None, **changes: Any) -> TrialStatus:
    empty = {"id": "i", "label": "l", "kind": "trial", "seed": 0, "axes": {}, "attempt": 1, "owner": None, "note": "",
             "owner_alive": True, "device": "", "done": None, "total": None, "message": ""}  # fmt: skip
    return TrialStatus(**{**empty, "updated_at": 0.0, **changes}, status=status, wall_s=wall_s, left_s=left_s)


def test_cells_of_a_trial() -> None:
    def cells(one: TrialStatus) -> dict[str, str]:
        return {name: str(value) for name, value in _cells(one).items() if name != ""}

    going = cells(trial(left_s=90.0, done=3, total=12, device="cuda:1", loss=1.23456, steps_per_s=2.34567, note="warm"))
    assert going == {"trial": "l", "status": "running", "device": "cuda:1", "steps": "3/12", "loss": "1.235",
                     "steps/s": "2.35", "left": "1 min 30 s", "note": "warm"}  # fmt: skip
    saved = cells(trial("pending", left_s=90.0, done=7))
    assert (saved["steps"], saved["left"], saved["loss"], saved["steps/s"]) == ("7 saved", "", "", "")
    for status in ("finished", "failed", "diverged"):
        assert cells(trial(status, wall_s=61.0, message="told", note="no"))["left"] == "in 1 min 01 s"
    assert cells(trial("failed", message="told [x]", note="no"))["note"].startswith("told ")
    assert _cells(trial("finished", done=12, total=12))[""].completed == 12  # type: ignore[union-attr]
    gone = cells(trial(owner_alive=False))
    assert gone["status"] == "interrupted"


def test_the_trials_that_matter_most_are_shown_in_their_order() -> None:
    states = ["finished", "pending", "damaged", "diverged", "failed", "interrupted", "running"]
    trials = [
        trial("running" if name in ("running", "interrupted") else name, label=name, owner_alive=name != "interrupted")
        for name in states
    ]
    for n in range(1, 8):
        assert [one.label for one in _most_relevant(trials, n)] == states[-n:]


def test_the_time_that_is_left() -> None:
    """Lengths 100 and 40 + 20: 80 on average. Of two that run, 20 and 80 - 30 are left; a third waits."""
    ended, one, two = trial("finished", 100.0), trial(wall_s=40.0, left_s=20.0), trial(wall_s=30.0)
    assert estimate_left_s([ended, one, two]) == 50.0
    assert estimate_left_s([ended, one, two, trial("pending")]) == (20 + 50 + 80) / 2
    assert estimate_left_s([ended, one, two, trial(owner_alive=False)]) == (20 + 50 + 80) / 2
    assert estimate_left_s([ended]) == 0.0
    assert estimate_left_s([ended, trial("pending")]) is None
    assert estimate_left_s([trial()]) is None
    assert estimate_left_s([ended, trial(wall_s=500.0)]) == 0.0


def test_the_pace_of_an_attempt_counts_from_its_first_step() -> None:
    told = {"done": 30, "first_done": 10, "total": 70, "updated_at": 112.0, "first_at": 102.0}
    assert _pace(told) == (2.0, 20.0)
    assert _pace({**told, "updated_at": 102.0}) == (None, 0.0)
    assert _pace({**told, "done": 10}) == (None, None)
    assert _pace(None) == (None, None)


@pytest.mark.parametrize(("room", "shown"), [(9, "abcdefghi"), (8, "abcd…ghi"), (7, "abc…ghi"), (6, "abc…hi")])
def test_a_long_label_keeps_its_ends(room: int, shown: str) -> None:
    assert _cut("abcdefghi", room) == shown


def test_the_newest_loss_is_that_of_the_last_whole_row_of_evaluations_first(tmp_path: Path) -> None:
    assert _newest_loss(tmp_path) is None
    (tmp_path / "train.csv").write_text("step,train_loss\n1,3.5\n2,3.25\n2,3.")
    assert _newest_loss(tmp_path) == ("train_loss", 3.25)
    (tmp_path / "eval.csv").write_text("step,acc,eval_loss\n1,0.5,2.5\n")
    assert _newest_loss(tmp_path) == ("eval_loss", 2.5)
    for text, found in (("step,acc\n1,0.5\n", None), ("step,loss\n", None), ("step,loss\n1\n", None),
                        ("step,loss\n1,text\n", None), ("", None)):  # fmt: skip
        (tmp_path / "other.csv").write_text(text)
        assert _last_row_loss(tmp_path / "other.csv") == found
    (tmp_path / "other.csv").write_bytes(b"step,\xffloss,note\n1,2.5,\xff\n")
    assert _last_row_loss(tmp_path / "other.csv") == ("\ufffdloss", 2.5)
    long = "step,loss\n" + "".join(f"{k},{k / 2}\n" for k in range(5000))
    (tmp_path / "other.csv").write_text(long)
    assert _last_row_loss(tmp_path / "other.csv") == ("loss", 4999 / 2)


def test_the_room_that_a_study_takes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"123")
    (tmp_path / "two").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    found = disk_of(tmp_path)
    assert (found.n_files, found.n_bytes) == (3, 8 + len(os.readlink(tmp_path / "link")))
    assert found.free_bytes > 0


# ---------------------------------------------------------------------------------------- provenance


def test_the_machine_is_told_by_these_names() -> None:
    found = provenance.machine()
    assert list(found) == ["host", "platform", "python", "metascale", "packages", "hardware"]
    assert list(found["hardware"]) == ["processor", "cores", "cores_usable", "memory_bytes", "gpus"]
    hardware = found["hardware"]
    assert hardware["cores"] == os.cpu_count() >= hardware["cores_usable"] >= 1
    assert hardware["memory_bytes"] > 2**28
    assert found["packages"]["numpy"][0].isdigit()
    assert list(found["packages"]) == sorted(found["packages"], key=str.lower)


def test_packages_are_named_by_their_folders_and_the_first_on_the_path_counts(monkeypatch: Any, tmp_path: Path) -> None:
    for name in ("one/A-1.0.dist-info", "one/x.txt", "one/b-2.egg-info", "two/A-2.0.dist-info", "two/c-3.dist-info"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr("sys.path", [str(tmp_path / "none"), str(tmp_path / "one"), str(tmp_path / "two")])
    assert provenance.packages() == {"A": "1.0", "c": "3"}


def answers(monkeypatch: Any, status: int = 0, text: str = "", late: bool = False) -> list[list[str]]:
    asked: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
        asked.append(command)
        assert options["timeout"] == 20
        if late:
            raise subprocess.TimeoutExpired(command, 20)
        return SimpleNamespace(returncode=status, stdout=text if options.get("text") else text.encode())

    monkeypatch.setattr(provenance.subprocess, "run", run)
    monkeypatch.setattr(provenance.shutil, "which", lambda name: f"/bin/{name}")
    return asked


def test_gpus_are_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch, text="H200, 143771 MiB, 570\n\n A, 1 MiB, 2 \n")
    assert provenance._gpus() == ["H200, 143771 MiB, 570", "A, 1 MiB, 2"]
    assert asked == [["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]]
    answers(monkeypatch, status=1, text="H200")
    assert provenance._gpus() == []
    answers(monkeypatch, late=True)
    assert provenance._gpus() == []
    monkeypatch.setattr(provenance.shutil, "which", lambda name: None)
    assert provenance._gpus() == []


def test_git_is_asked_without_locks_and_says_nothing_where_it_fails(monkeypatch: Any, tmp_path: Path) -> None:
    asked = answers(monkeypatch, text="abc\n")
    assert provenance._git(tmp_path, "rev-parse", "HEAD") == "abc\n"
    assert asked == [["git", "--no-optional-locks", "-c", "diff.autoRefreshIndex=false", "-c", "safe.directory=*", "-C",
                      str(tmp_path), "rev-parse", "HEAD"]]  # fmt: skip
    answers(monkeypatch, status=128)
    assert provenance._git(tmp_path, "status") is None
    answers(monkeypatch, late=True)
    assert provenance._git(tmp_path, "status") is None
    monkeypatch.setattr(provenance.shutil, "which", lambda name: None)
    assert provenance._git(tmp_path, "status") is None


def test_a_checkout_has_its_revision_and_what_is_not_in_it(monkeypatch: Any, tmp_path: Path) -> None:
    said = {"rev-parse": "abc\n", "status": " M a.py\n?? b.py\n", "diff": "difference"}
    words = {"rev-parse": ("HEAD",), "status": ("--porcelain",), "diff": ("HEAD",)}
    monkeypatch.setattr(
        provenance, "_git", lambda top, what, *more: said[what] if (top, more) == (tmp_path, words[what]) else "other"
    )
    found = provenance._checkout(tmp_path, "module")
    assert (found["module"], found["revision"], found["dirty"]) == ("module", "abc", True)
    assert (found["changed_files"], found["diff"], len(found["diff_sha256"])) == (["a.py", "b.py"], "difference", 64)
    said["diff"] = "x" * (2**20 + 1)
    assert provenance._checkout(tmp_path, "module")["diff"] is None
    said["diff"] = "x" * 2**20
    assert provenance._checkout(tmp_path, "module")["diff"] == said["diff"]
    said.update(status="")
    assert provenance._checkout(tmp_path, "module") == {"module": "module", "revision": "abc", "dirty": False}
    monkeypatch.setattr(provenance, "_git", lambda top, what, *more: None)
    assert provenance._checkout(tmp_path, "module") == {"module": "module", "revision": "none yet", "dirty": False}
    assert provenance._folder_of("no_such_module.part") is None
    assert provenance._folder_of("") is None
    assert provenance._folder_of("metascale.study") == Path(provenance.__file__).parents[2]


# ------------------------------------------------------------------------------------------- ranges


def test_ranges_by_hand() -> None:
    line, log, whole = Uniform(2, 6), LogUniform(1, 100), Integer(1, 4)
    options, sizes = Choice(("a", "b")), Choice((4, 1, 2))
    assert [line.at(share) for share in (0, 0.25, 1)] == [2, 3, 6]
    assert [log.at(share) for share in (0, 0.5, 1)] == pytest.approx([1, 10, 100])
    assert [whole.at(share) for share in (0, 0.24, 0.25, 0.99, 1)] == [1, 1, 2, 4, 4]
    assert [options.at(share) for share in (0, 0.49, 0.5, 1)] == ["a", "a", "b", "b"]
    assert (line.share_of(3), log.share_of(10)) == (0.25, pytest.approx(0.5))
    assert [line.clip(x) for x in (1, 3, 9)] == [2, 3, 6]
    assert [line.holds(x) for x in (2, 6, 1.9, 6.1, "3", True)] == [True, True, False, False, False, False]
    assert [whole.holds(x) for x in (1, 4, 0, 5, 2.0, True)] == [True, True, False, False, False, False]
    assert [whole.edge(x) for x in (1, 2, 4)] == ["low", None, "high"]
    assert [sizes.edge(x) for x in (1, 2, 4)] == ["low", None, "high"]
    assert options.edge("a") is None
    assert Choice((1, 2)).edge(1) is None
    assert [line.edge(x) for x in (2.01, 4, 5.99)] == ["low", None, "high"]
    assert (whole.values, line.values, sizes.values) == ((1, 2, 3, 4), None, (4, 1, 2))
    for dimension, stored in ((line, {"uniform": [2, 6]}), (log, {"log": [1, 100]}), (whole, {"integer": [1, 4]}),
                              (options, {"choice": ["a", "b"]})):  # fmt: skip
        assert dimension.to_json() == stored
        assert dimension_from_json("lr", stored) == dimension


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (3, r"^the range of 'lr' is one of \{log: \[low, high\]\}, .*, not 3$"),
        ({"log": [1, 2], "uniform": [1, 2]}, "^the range of 'lr' is one of"),
        ({"loog": [1, 2]}, "^there is no range 'loog' for 'lr'; did you mean 'log'"),
        ({"log": [1, 2, 3]}, "^the range 'log' of 'lr' needs a list of two$"),
        ({"log": "12"}, "^the range 'log' of 'lr' needs a list of two$"),
        ({"choice": "ab"}, "^the range 'choice' of 'lr' needs a list of options$"),
        ({"log": [0, 2]}, "^the range of 'lr': a range on a logarithmic scale starts above 0, not at 0$"),
        (
            {"uniform": [2, 2]},
            "^the range of 'lr': a range 'uniform' goes from a finite number to a larger, not from 2",
        ),
        ({"uniform": [1, float("inf")]}, "^the range of 'lr': a range 'uniform' goes from a finite"),
        (
            {"integer": [1, 2.5]},
            "^the range of 'lr': an integer range goes from one whole number to a larger, not 1 to",
        ),
        ({"integer": [3, 3]}, "^the range of 'lr': an integer range goes from one whole"),
        ({"choice": ["a"]}, r"^the range of 'lr': a choice has at least two different options, not \['a'\]$"),
        ({"choice": ["a", "a"]}, "^the range of 'lr': a choice has at least two different"),
    ],
)
def test_a_range_that_is_none_is_refused(stored: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        dimension_from_json("lr", stored)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        (3, "^'tune' needs keys and values such as space and trials, not 3$"),
        ({"trials": 3}, "^'tune' needs a space: the range of each hyperparameter, by its name$"),
        ({"space": {}}, "^a search needs at least one hyperparameter in its space$"),
        ({"trails": 3}, "^'tune' has no key 'trails'; did you mean 'trials'"),
        ({"prune": "no"}, "^'tune.prune' is true, false, or keys and values, not 'no'$"),
        ({"prune": {"rung": 3}}, "^'tune.prune' has no key 'rung'; did you mean 'rungs'"),
        ({"strategy": "all"}, "^the strategy of a search is 'each', 'smallest' or 'rule', not 'all'$"),
        ({"along": "n"}, "^'along' of a search is a list of axes, not 'n'$"),
        *(({name: value}, f"^{name} of a search must be a whole number of at least {least}, not {value}$")
          for name, least in (("trials", 1), ("startup", 1), ("together", 1), ("rule_points", 2), ("seed", 0))
          for value in (least - 1, True, 1.5)),
    ],
)  # fmt: skip
def test_a_search_that_cannot_be_is_refused(stored: Any, words: str) -> None:
    if isinstance(stored, dict) and "space" not in stored and stored != {"trials": 3}:
        stored = {"space": {"lr": {"log": [1, 2]}}, **stored}
    with pytest.raises(InputError, match=words) as caught:
        Search.from_json(stored)
    if "whole number" in words:
        name = words[1:].partition(" ")[0]
        assert (caught.value.field, caught.value.value) == (name, stored[name])


def test_a_search_is_stored_whole() -> None:
    plain = {"lr": LogUniform(1, 2)}
    assert Search.from_json({"space": {"lr": {"log": [1, 2]}}}) == Search(plain)
    assert Search.from_json({"space": {"lr": {"log": [1, 2]}}, "prune": False}) == Search(plain, pruning=None)
    assert Search.from_json({"space": {"lr": {"log": [1, 2]}}, "prune": {"rungs": 5}}).pruning == Pruning(rungs=5)
    stored = Search(plain).to_json()
    assert "sampler" not in stored
    assert stored["space"] == {"lr": {"log": [1, 2]}}
    assert Search.from_json(json.loads(json.dumps(stored))) == Search(plain)
    defaults = {
        "trials": 16,
        "startup": 6,
        "together": 4,
        "seed": 0,
        "strategy": "each",
        "size": None,
        "rule_points": 3,
    }
    assert {name: stored[name] for name in defaults} == defaults
    assert (Search(plain, size="n").measured, Search(plain, size="m:f").measured, Search(plain).measured) == (
        False, True, False
    )  # fmt: skip


# ------------------------------------------------------------------------- tables and definitions


def row(lr: float, loss: float, n: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": f"{n}-{lr}", "kind": "trial", "status": "finished", "n": n, "lr": lr, "seed": 0, "message": None,
            "loss": loss, **more}  # fmt: skip


def test_of_a_best_of_axis_every_point_keeps_its_best_value() -> None:
    rows = [row(0.1, 2.0), row(0.2, 1.0), row(0.1, 3.0, n=2), row(0.2, 4.0, n=2), row(0.3, 0.5, status="failed"),
            row(0.3, 0.5, kind="baseline")]  # fmt: skip
    table = ResultsTable(tuple(rows[0]), tuple(rows))
    for better, beaten in (("lower", [0, 3]), ("higher", [1, 2])):
        found = _keep_best(table, Roles(("n",), best_of=("lr",), better=better))  # type: ignore[arg-type]
        assert [k for k, one in enumerate(found.rows) if one["kind"] == NOT_BEST] == beaten
    assert _keep_best(table, Roles(("n",), best_of=("lr",), loss="loss")).rows[0]["kind"] == NOT_BEST
    nothing = ResultsTable(table.columns, tuple(rows[4:]))
    assert _keep_best(nothing, Roles(("n",), best_of=("lr",))) is nothing
    told = _keep_best(table, Roles(("n",), best_of=("lr",), loss="none"))
    assert (told.rows, len(told.notes)) == (table.rows, 1)
    assert table.finished().rows == tuple(one for one in rows if one["status"] == "finished")
    assert [one["kind"] for one in table.finished("baseline").rows] == ["baseline"]
    assert table.column("lr") == [0.1, 0.2, 0.1, 0.2, 0.3, 0.3]


def test_a_study_may_grow_and_is_the_same_where_nothing_is_new(tmp_path: Path) -> None:
    run_study(tiny_study(), tmp_path)
    ours = load_definition(tmp_path)
    assert ours.extended(tiny_study()) is ours
    grown = ours.extended(tiny_study(n_tasks=(2, 7)))
    assert [trial.axes["n_tasks"] for trial in grown.trials] == [2, 7, 5]
    assert grown.trials[0].label == ours.trials[0].label
    roles = Roles(("n_tasks",))
    assert ours.extended(replace(tiny_study(), roles=roles)).study.roles == roles
    with pytest.raises(InputError, match=r"^the folder holds the study 'tiny' with another base.more, name, trial; a"):
        ours.extended(replace(tiny_study(more=3), name="other", trial=f"{TRIALS}:other"))


def reseal(folder: Path, **changes: Any) -> None:
    path = folder / "study.json"
    stored = {name: value for name, value in json.loads(path.read_text()).items() if name != SEAL} | changes
    path.write_text(json.dumps(sealed({name: value for name, value in stored.items() if value is not None})))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "2"}, "is not what was written: it has no format number$"),
        ({"format": None}, "is not what was written: it has no format number$"),
        ({"axes": None}, "is not what was written: it has no 'axes'$"),
        ({"axes": 3}, "is not what was written: "),
        ({"base": {"n_tasks": 1, "other": 2}}, "the configuration of trial '.*' is not that of id "),
    ],
)
def test_a_damaged_definition_is_told(changes: Any, words: str, tmp_path: Path) -> None:
    save_definition(tmp_path, Definition(tiny_study(), tuple(tiny_study().trials())))
    assert len(load_definition(tmp_path).trials) == 2
    reseal(tmp_path, **changes)
    with pytest.raises(CorruptFile, match=words):
        load_definition(tmp_path)


def test_a_definition_of_a_later_version_and_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a study folder: it has no study.json$"):
        load_definition(tmp_path)
    save_definition(tmp_path, Definition(tiny_study(), tuple(tiny_study().trials()), "99.0"))
    reseal(tmp_path, format=3)
    with pytest.raises(InputError, match=r"has format 3, written by metascale 99.0; .* reads formats up to 2$"):
        load_definition(tmp_path)
    reseal(tmp_path, format=2)
    assert not of_earlier_version(tmp_path)
    assert load_definition(tmp_path).package_version == "99.0"
