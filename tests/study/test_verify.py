"""`verify`: whatever byte is changed, the file is named; an untouched study passes."""

from __future__ import annotations

import random
import shutil

import pytest

from metascale.core.errors import CorruptFile
from metascale.core.run import Checkpoint
from metascale.study import RunStore, run_study
from metascale.study.store.claims import new_owner
from metascale.study.store.folder import NOT_COMPARED, run_folder
from metascale.study.store.run import StoredRun
from metascale.study.store.verify import verify_study
from tests.study.folders import tiny_study


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished study whose checkpoints were kept."""
    folder = tmp_path_factory.mktemp("verify") / "study"
    run_study(tiny_study(), folder, keep_checkpoints=True)
    return folder


def test_an_untouched_study_is_whole(whole):
    found = verify_study(whole)
    assert found.ok
    assert found.n_runs == 2
    # Configurations, results, records, weights, checkpoints, histories, the tables and study.json.
    assert found.n_files >= 25


def checked_files(folder):
    """Every file whose bytes are determined: all but the locks and what tells of one execution."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name not in NOT_COMPARED and not path.name.startswith("index.sqlite3")
    )


def test_200_flipped_bytes_anywhere_are_all_seen_and_the_file_is_named(whole, tmp_path):
    chance = random.Random(0)
    folder = tmp_path / "study"
    shutil.copytree(whole, folder)
    files = checked_files(folder)
    for number in range(200):
        path = files[number % len(files)]
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        original = path.read_bytes()
        path.write_bytes(data)
        try:
            found = verify_study(folder)
            named = [damage for damage in found.damages if path == damage.path or path.parent == damage.path]
            text = " ".join(damage.problem for damage in found.damages)
            assert named or path.name in text, f"{path} at {number}: {found.damages}"
        except (CorruptFile, ValueError) as error:
            # study.json is read before anything else can be.
            told = path.name == "study.json" and "study" in str(error)
            assert told, path
        path.write_bytes(original)
    assert verify_study(folder).ok


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_missing_or_short_file_is_named(whole, tmp_path, damage):
    folder = tmp_path / "study"
    shutil.copytree(whole, folder)
    for path in (path for path in checked_files(folder) if "/runs/" in str(path) and path.name != "result.json"):
        data = path.read_bytes()
        path.unlink() if damage == "missing" else path.write_bytes(data[: len(data) // 2])
        found = verify_study(folder)
        assert any(path.name in f"{item.path} {item.problem}" for item in found.damages), path
        path.write_bytes(data)


def test_a_run_in_progress_is_checked_too(tmp_path):
    store = RunStore.create(tmp_path, tiny_study())
    trial = store.trials[0]
    run = StoredRun(run_folder(tmp_path, trial), store.claim(trial, new_owner()))
    run.append("train", {"step": 1, "loss": 1.0})
    run.save(Checkpoint(1, {"state": b"12345"}))
    assert verify_study(tmp_path).ok
    blob = next(run.checkpoints.rglob("state.bin"))
    blob.write_bytes(b"12346")
    (damage,) = verify_study(tmp_path).damages
    assert "state.bin is not what was written" in damage.problem
    blob.write_bytes(b"12345")
    config = run.folder / "config.json"
    config.write_text(config.read_text().replace('"n_tasks": 2', '"n_tasks": 3'))
    (damage,) = verify_study(tmp_path).damages
    assert damage.path == config


def test_a_damaged_index_is_named(whole, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(whole, folder)
    (folder / "index.sqlite3").write_bytes(b"not a database, whatever it says" * 200)
    (damage,) = verify_study(folder).damages
    assert "reindex" in damage.problem
