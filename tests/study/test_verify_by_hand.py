"""What `verify` says of each damage, and what `seals.json` keeps, against tables of what was done to a small study."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from metascale.core.errors import CorruptFile, InputError
from metascale.study import RunStore, read_study, run_study
from metascale.study.store import verify as verifying
from metascale.study.store.claims import Claim, new_owner, put_claim
from metascale.study.store.manifest import (
    broken_seals,
    check_table,
    is_concluded,
    read_seals,
    seal_study,
    unseal,
)
from metascale.study.store.run import StoredRun
from metascale.study.store.seals import is_unsealed, read_sealed, sealed
from metascale.study.store.verify import Damage, missing_results, verify_study
from tests.study.folders import tiny_study

ONE = "runs/n_tasks=2-seed=0-*"
"""The folder of the first run."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "study"
    run_study(tiny_study(), folder, keep_checkpoints=True)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "study"))


def one(folder: Path, name: str = "") -> Path:
    (found,) = folder.glob(ONE)
    return found / name


def test_what_is_counted(folder: Path) -> None:
    """Of each run: the result and the five files it has hashes of (config, two records, pool, best/state), two
    checkpoints, history, timing and provenance; in seals.json itself two tables and four files a run; study.json, and
    the two tables."""
    found = verify_study(folder)
    assert (found.n_runs, found.n_files, found.damages, found.ok) == (2, 1 + 2 * 11 + (1 + 2 + 2 * 4) + 2, (), True)
    kept = (folder / "seals.json").read_text()
    (folder / "seals.json").unlink()
    assert verify_study(folder).n_files == 1 + 2 * 11, "and no table where something is damaged"
    (folder / "seals.json").write_text("{")
    assert verify_study(folder).n_files == 1 + 2 * 11 + 1
    (folder / "seals.json").write_text(kept)
    (one(folder) / "result.json").write_text("{")  # its five hashes are lost
    assert verify_study(folder).n_files == 1 + 11 + 6 + (1 + 2 + 2 * 4)
    shutil.rmtree(one(folder))
    unseal(folder, runs=[run.trial.id for run in read_study(folder).runs], files=None)
    for path in folder.glob("index.sqlite3*"):
        path.unlink()
    assert verify_study(folder).n_files == 1 + 11 + 1, "before all trials ended the table may lag"


def edit(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change the content of a JSON file that has a hash of itself, and its hash with it."""

    def act(folder: Path) -> None:
        path = next(folder.glob(name))
        path.write_text(json.dumps(sealed(change(json.loads(path.read_text())))))

    return act


def write(name: str, content: str | bytes) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = next(folder.glob(name))
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return act


def remove(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = next(folder.glob(name))
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


def link(folder: Path) -> None:
    path = one(folder, "pool.json")
    path.rename(path.with_name("other.json"))
    path.symlink_to(path.with_name("other.json"))


HASH = "its SHA-256 is not the one that was recorded"
ANEW = "; `metascale report` writes it anew"


@pytest.mark.parametrize(
    ("act", "place", "problem"),
    [
        (write(f"{ONE}/train.csv", "step\n"), f"{ONE}/train.csv", HASH),
        (write(f"{ONE}/best/state.bin", "?"), f"{ONE}/best/state.bin", HASH),
        (remove(f"{ONE}/train.csv"), f"{ONE}/train.csv", "missing"),
        (link, f"{ONE}/pool.json", "a link, in the place of the file that was written"),
        (edit(f"{ONE}/result.json", lambda all: {**all, "files": 3}), f"{ONE}/result.json",
         "it holds no hashes of the run's files"),
        (write(f"{ONE}/result.json", "[]"), f"{ONE}/result.json", "it holds no hashes of the run's files"),
        (write(f"{ONE}/result.json", "{"), f"{ONE}/result.json", "* is not valid JSON*"),
        (edit(f"{ONE}/result.json", lambda all: {**all, "result": {"loss": 9}}), f"{ONE}/result.json", HASH),
        (edit(f"{ONE}/result.json", lambda all: {**all, "files": {"../a": ""}}), f"{ONE}/result.json",
         "*it names the file '../a', outside of its folder"),
        (write(f"{ONE}/history.jsonl", "no\n"), f"{ONE}/history.jsonl", "*history.jsonl*"),
        (write(f"{ONE}/timing.jsonl", "no\n"), f"{ONE}/timing.jsonl", "*timing.jsonl*"),
        (write(f"{ONE}/timing.jsonl", "{}\n"), f"{ONE}/timing.jsonl", HASH),
        (write(f"{ONE}/provenance.json", "no"), f"{ONE}/provenance.json", "*provenance.json*"),
        (remove(f"{ONE}/provenance.json"), f"{ONE}/provenance.json", "missing"),
        (write("provenance.jsonl", "no\n"), "provenance.jsonl", "*provenance.jsonl*"),
        (write("provenance.jsonl", "{}\n"), "provenance.jsonl", "its first lines are not those that were written"),
        (remove("provenance.jsonl"), "provenance.jsonl", "its first lines are not those that were written"),
        (write("results.csv", "id\n"), "results.csv", HASH + ANEW),
        (remove("all_results.json"), "all_results.json", "missing" + ANEW),
        (write("seals.json", "{}"), "seals.json", "*it has no 'sha256' of its own"),
        (edit("seals.json", lambda all: {**all, "files": 3}), "seals.json", "*: it does not hold hashes by name"),
        (edit("seals.json", lambda all: {**all, "files": {"/x": ""}}), "seals.json", "*it names the file '/x', *"),
        (remove("seals.json"), "seals.json", "missing, so nothing can be said of the files that it speaks of"),
        (remove(f"{ONE}/checkpoints/step-00000004/state.bin"), f"{ONE}/checkpoints/step-00000004",
         "*state.bin is not what was written (0 of * bytes)"),
        (remove("index.sqlite3"), "index.sqlite3", "missing; `metascale reindex` builds it anew"),
    ],
)  # fmt: skip
def test_every_damage_is_told_once(act: Callable[[Path], None], place: str, problem: str, folder: Path) -> None:
    (path,) = folder.glob(place)
    act(folder)
    (damage,) = verify_study(folder).damages
    assert damage.path == path
    assert fnmatchcase(damage.problem, problem)


def test_tables_without_hashes_are_compared_with_the_runs(folder: Path) -> None:
    unseal(folder, files=None)
    assert verify_study(folder).ok
    csv, whole = folder / "results.csv", folder / "all_results.json"
    csv.write_text("id\n")
    assert verify_study(folder).damages == (Damage(csv, f"it is not the table of the runs{ANEW}"),)
    csv.unlink()
    entries = json.loads(whole.read_text())
    whole.write_text(json.dumps(entries[:1]))
    told = f"it does not hold the results of the runs{ANEW}"
    assert verify_study(folder).damages == (Damage(whole, told),)
    whole.write_text(json.dumps(entries, indent=7))
    assert verify_study(folder).ok
    whole.write_text("{")
    (damage,) = verify_study(folder).damages
    assert (damage.path, "is not valid JSON" in damage.problem) == (whole, True)
    whole.unlink()
    assert verify_study(folder).ok


@pytest.mark.parametrize(
    ("gone", "status", "told"),
    [
        ("", "finished", "missing, although the index has its trial as finished"),
        ("", "failed", "missing, although the index has its trial as failed"),
        ("result.json", "diverged", "missing, although the index has its trial as diverged"),
        ("error.txt", "failed", "missing, although the index has its trial as failed"),
        ("", "pending", None),
        ("result.json", "running", None),
    ],
)
def test_what_the_index_has_as_ended_is_there(gone: str, status: str, told: str | None, folder: Path) -> None:
    path = one(folder, gone) if gone else one(folder)
    if gone == "error.txt":
        one(folder, "result.json").unlink()
    elif gone:
        path.unlink()
    else:
        shutil.rmtree(path)
    seals = read_seals(folder)
    unseal(folder, files=None, runs=[*seals["runs"]])
    with sqlite3.connect(folder / "index.sqlite3") as connection:
        trial = read_study(folder).runs[0].trial.id
        connection.execute("UPDATE trials SET status = ? WHERE id = ?", (status, trial))
    connection.close()
    found = verify_study(folder).damages
    assert found == (() if told is None else (Damage(path, told),))
    lost = status in ("finished", "diverged")
    said = f"n_tasks=2-seed=0: {one_result(folder)} is missing, although its trial had ended"
    assert missing_results(read_study(folder)) == ((said,) if lost else ())


def one_result(folder: Path) -> Path:
    return read_study(folder).runs[0].folder / "result.json"


def test_an_index_that_cannot_be_read_says_nothing_of_results(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one(folder, "result.json").unlink()
    for error in (CorruptFile("bad"), sqlite3.OperationalError("locked")):

        def fails(path: Path, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(verifying, "read_index", fails)
        assert missing_results(read_study(folder)) == ()
    monkeypatch.setattr(verifying, "read_index", lambda path: {})
    assert missing_results(read_study(folder)) == ()


def test_an_index_is_asked_whether_it_is_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Answers:
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None:
            return None

        def execute(self, query: str) -> Any:
            assert query == "PRAGMA integrity_check"
            return [("row 3 missing",), ("row 4 missing",)]

    def opened(path: Path, timeout_s: float) -> Answers:
        assert (path, timeout_s) == (folder / "index.sqlite3", 10)
        return Answers()

    monkeypatch.setattr(verifying, "opened_to_read", opened)
    (damage,) = verify_study(folder).damages
    assert damage == Damage(folder / "index.sqlite3", "row 3 missing; `metascale reindex` builds it anew")


def test_a_configuration_of_a_run_in_progress_is_its_trials(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path, tiny_study())
    trial = store.trials[0]
    store.claim(trial, new_owner())
    config = one(tmp_path, "config.json")
    text = config.read_text()
    assert verify_study(tmp_path).n_files == 1 + (1 + 2) + 1
    for content, problem in (
        (text.replace('"n_tasks": 2', '"n_tasks": 3'), f"it is not the configuration of trial {trial.id}"),
        ("[]", f"it is not the configuration of trial {trial.id}"),
        ("{", "is not valid JSON"),
    ):
        config.write_text(content)
        (damage,) = verify_study(tmp_path).damages
        assert (damage.path, problem in damage.problem) == (config, True)


# ------------------------------------------------------------------------------- seals


def test_a_seal_is_the_hash_of_all_the_rest(tmp_path: Path) -> None:
    content = sealed({"a": 1, "sha256": "an old one"})
    # printf '{"a":1}' | sha256sum
    assert content == {"a": 1, "sha256": "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"}
    assert [is_unsealed(one) for one in ({}, {"sha256": 1}, [], None)] == [True, False, False, False]
    path = tmp_path / "x.json"
    for text, problem in (
        (json.dumps(content), None),
        (json.dumps({**content, "a": 2}), "its content is not that of its own SHA-256"),
        ('{"a": 1}', "it has no 'sha256' of its own"),
        ("[1]", "it has no 'sha256' of its own"),
        ('{"a": "\\ud800", "sha256": ""}', ""),
    ):
        path.write_text(text)
        if problem is None:
            assert read_sealed(path) == content
        else:
            with pytest.raises(CorruptFile, match=f"^{path} is not what was written: {problem}"):
                read_sealed(path)


def test_hashes_are_taken_out_of_what_is_about_to_change(folder: Path) -> None:
    before = read_seals(folder)
    ids = [run.trial.id for run in read_study(folder).runs]
    assert before.keys() == {"files", "runs", "index", "provenance", "sha256"}
    assert before["files"].keys() == {"results.csv", "all_results.json"}
    assert before["runs"].keys() == {*ids}
    for files in before["runs"].values():
        assert files.keys() == {"result.json", "history.jsonl", "timing.jsonl", "provenance.json"}
    size = (folder / "provenance.jsonl").stat().st_size
    assert before["provenance"]["n_bytes"] == size
    assert isinstance(before["index"], str)
    unseal(folder)
    after = read_seals(folder)
    assert after == sealed({**before, "index": None})
    written = (folder / "seals.json").stat().st_mtime_ns
    unseal(folder)
    assert (folder / "seals.json").stat().st_mtime_ns == written, "nothing to change, nothing written"
    unseal(folder, files=["results.csv"], runs=ids[:1])
    after = read_seals(folder)
    assert (after["files"].keys(), after["runs"].keys()) == ({"all_results.json"}, {ids[1]})
    assert after["provenance"] == before["provenance"]
    unseal(folder, files=None)
    assert (read_seals(folder)["files"], read_seals(folder)["runs"].keys()) == ({}, {ids[1]})
    (folder / "seals.json").write_text("{")
    unseal(folder)
    assert read_seals(folder) == sealed({"files": {}, "runs": {}, "index": None, "provenance": None})


def test_what_has_a_hash_keeps_it_and_what_ended_since_gets_one(folder: Path) -> None:
    view, before = read_study(folder), read_seals(folder)
    first, second = view.runs
    (folder / "command.json").write_text("{}")
    (folder / "plots").mkdir()
    (folder / "plots" / "law.png").write_text("x")
    (folder / ".seals.json.1.tmp").write_text("left of a write")
    first.folder.joinpath("history.jsonl").write_text("damaged\n")
    unseal(folder, runs=[second.trial.id])
    (second.folder / "output.log").write_text("said")
    log = folder / "index.sqlite3-wal"
    log.write_text("")
    seal_study(view, [folder / "plots" / "law.png", folder / "gone.png"])
    after = read_seals(folder)
    assert not (folder / ".seals.json.1.tmp").exists()
    assert after["files"].keys() == {*before["files"], "command.json", "plots/law.png"}
    assert after["runs"][first.trial.id] == before["runs"][first.trial.id]
    assert after["runs"][second.trial.id].keys() == {*before["runs"][second.trial.id], "output.log"}
    assert after["index"] == before["index"]
    log.write_text("another runner has it open")
    (folder / "provenance.jsonl").write_text("{}\n")
    unseal(folder, runs=[first.trial.id, second.trial.id])
    put_claim(second.folder, Claim(second.trial.id, "other", 2))
    seal_study(view, [])
    after = read_seals(folder)
    assert (after["index"], after["runs"].keys()) == (None, {first.trial.id})
    assert after["provenance"] == before["provenance"], "it no longer begins as it was"
    (folder / "index.sqlite3").unlink()
    log.unlink()
    (folder / "provenance.jsonl").unlink()
    (folder / "seals.json").unlink()
    seal_study(view, [])
    assert (read_seals(folder)["index"], read_seals(folder)["provenance"]) == (None, None)


@pytest.mark.parametrize(
    "content",
    [{"runs": 3}, {"runs": {"a": 3}}, {"files": []}, {"provenance": 3}, {"provenance": {"n_bytes": 3}},
     {"provenance": {"n_bytes": "3", "sha256": ""}}],
)  # fmt: skip
def test_seals_that_are_none_are_refused(content: dict[str, Any], tmp_path: Path) -> None:
    assert read_seals(tmp_path) == {}
    path = tmp_path / "seals.json"
    path.write_text(json.dumps(sealed({"files": {}, "runs": {}})))
    assert read_seals(tmp_path)["runs"] == {}
    path.write_text(json.dumps(sealed(content)))
    with pytest.raises(CorruptFile, match=f"^{path} is not what was written: it does not hold hashes by name$"):
        read_seals(tmp_path)


def test_runs_in_progress_have_no_hashes_to_break(folder: Path) -> None:
    view = read_study(folder)
    first, second = view.runs
    for run in view.runs:
        (run.folder / "history.jsonl").write_text("{}\n")
    (folder / "index.sqlite3").write_text("x")

    def broken(*running: str) -> list[tuple[Path, str]]:
        return list(broken_seals(view, running))

    histories = [(run.folder / "history.jsonl", HASH) for run in (first, second)]
    by_id = [histories[k] for k in sorted((0, 1), key=lambda k: view.runs[k].trial.id)]
    index = (folder / "index.sqlite3", f"{HASH}; `metascale reindex` builds it anew")
    assert broken() == [*by_id, index]
    assert broken(first.trial.id) == [histories[1]]
    put_claim(second.folder, Claim(second.trial.id, "other", 2))
    assert broken(first.trial.id) == []
    assert broken() == [histories[0], index]
    shutil.rmtree(second.folder)
    assert (second.folder, "missing, although its trial had ended") in broken()
    write("seals.json", json.dumps(sealed({"runs": {"of another study": {"a": ""}}})))(folder)
    assert broken() == []


def test_a_table_is_the_one_that_was_sealed(folder: Path) -> None:
    path = folder / "results.csv"
    check_table(path)
    check_table(folder / "law.json")
    path.write_text("id\n")
    with pytest.raises(CorruptFile, match=rf"^{path} is not what was written; `metascale report` writes it anew$"):
        check_table(path)
    unseal(folder, files=["results.csv"])
    check_table(path)


def test_a_study_is_concluded_by_a_file_of_the_very_runs_that_are_finished(folder: Path) -> None:
    law, study = folder / "law.json", folder / "study.json"

    def seal() -> None:
        seal_study(read_study(folder), [law, folder / "results.csv"])

    def concluded() -> bool:
        return is_concluded(read_study(folder), "law.json")

    assert not concluded(), "there is none"
    law.write_text("{}")
    assert not concluded(), "it has no hash"
    seal()
    assert concluded()
    at = study.stat().st_mtime_ns
    os.utime(law, ns=(at, at))
    assert concluded()
    os.utime(law, ns=(at - 1, at - 1))
    assert not concluded(), "the definition is newer"
    os.utime(law, ns=(at, at))
    law.write_text("{ }")
    assert not concluded()
    law.write_text("{}")
    table = (folder / "results.csv").read_text()
    for text in (table.replace("finished", "failed", 1), "\n".join(table.splitlines()[:2]) + "\n"):
        (folder / "results.csv").write_text(text)
        assert not concluded(), "it is not the table that was sealed"
        seal()
        assert not concluded(), "other runs are finished now"
    (folder / "results.csv").write_text(table)
    seal()
    assert concluded()
    law.unlink()
    assert not concluded()


def test_a_failed_run_counts_as_ended_for_the_table(tmp_path: Path) -> None:
    store = RunStore.create(tmp_path, tiny_study(n_tasks=(2,)))
    (trial,) = store.trials
    claim = store.claim(trial, new_owner())
    assert claim is not None
    StoredRun(store.run_view(trial).folder, claim).fail("no\n")
    store.settle(trial, claim, 1.0)
    store.close()
    (tmp_path / "results.csv").write_text("id\n")
    (damage,) = verify_study(tmp_path).damages
    assert damage.path == tmp_path / "results.csv"
    with pytest.raises(InputError, match="is not a study folder"):
        verify_study(tmp_path / "other")
