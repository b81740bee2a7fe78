from __future__ import annotations

import os
import random

import pytest

from metascale.core.errors import CorruptFile, InputError
from metascale.core.run import Checkpoint
from metascale.study.store import checkpoints
from metascale.study.store.checkpoints import clean_leftovers, list_checkpoints, read_checkpoint, write_checkpoint

MARKS = {"train": {"n_bytes": 10, "sha256": "ab"}}


def checkpoint(step: int, content: bytes = b"state " * 30) -> Checkpoint:
    return Checkpoint(step, {"meta": content, "optimizer": b"\x00\x01" * 40})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_was_written_reads_back(tmp_path):
    write_checkpoint(tmp_path / "c", checkpoint(4), MARKS)
    assert read_checkpoint(tmp_path / "c/step-00000004") == (checkpoint(4), MARKS)


def test_the_newest_two_are_kept(tmp_path):
    for step in (1, 2, 3, 10):
        write_checkpoint(tmp_path / "c", checkpoint(step), {})
    assert names(tmp_path / "c") == ["step-00000003", "step-00000010"]


def test_a_step_may_be_saved_again_but_not_go_back(tmp_path):
    write_checkpoint(tmp_path / "c", checkpoint(2), {})
    write_checkpoint(tmp_path / "c", checkpoint(2, b"later"), {})
    assert read_checkpoint(tmp_path / "c/step-00000002")[0].blobs["meta"] == b"later"
    assert names(tmp_path / "c") == ["step-00000002"]
    with pytest.raises(InputError, match="step 1 comes after one at step 2"):
        write_checkpoint(tmp_path / "c", checkpoint(1), {})


def test_dying_between_the_two_renames_loses_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "c"
    write_checkpoint(folder, checkpoint(2), {})
    replace = os.replace

    def die_at_the_second(source, target):
        if str(source).endswith(".step-00000002.tmp"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(checkpoints.os, "replace", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(folder, checkpoint(2, b"later"), {})
    monkeypatch.undo()
    assert list_checkpoints(folder) == []
    clean_leftovers(folder)
    assert names(folder) == ["step-00000002"]
    assert read_checkpoint(folder / "step-00000002")[0] == checkpoint(2)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden"])
def test_blob_names_stay_inside(tmp_path, name):
    with pytest.raises(InputError, match="cannot name"):
        write_checkpoint(tmp_path / "c", Checkpoint(1, {name: b""}), {})


def test_a_failed_write_leaves_the_old_checkpoint_and_no_litter(tmp_path, monkeypatch):
    folder = tmp_path / "c"
    write_checkpoint(folder, checkpoint(1), {})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(folder, checkpoint(2), {})
    monkeypatch.undo()
    assert names(folder) == ["step-00000001"]
    assert read_checkpoint(folder / "step-00000001")[0] == checkpoint(1)


def test_every_one_of_200_flipped_bytes_is_seen_and_named(tmp_path):
    write_checkpoint(tmp_path, checkpoint(1), MARKS)
    files = sorted((tmp_path / "step-00000001").iterdir())
    chance = random.Random(0)
    for _ in range(200):
        path = chance.choice(files)
        whole = path.read_bytes()
        place, bit = chance.randrange(len(whole)), 1 << chance.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        seen, named = None, str(path)
        try:
            seen = read_checkpoint(tmp_path / "step-00000001")
        except CorruptFile as error:
            named = str(error)
        # A blank of the manifest's layout may turn into another blank: everything that it says is the same.
        assert seen is None or (path.suffix == ".json" and seen == (checkpoint(1), MARKS))
        assert str(path) in named
        path.write_bytes(whole)


def test_every_truncation_is_seen(tmp_path):
    write_checkpoint(tmp_path, checkpoint(1), MARKS)
    chance = random.Random(1)
    for path in sorted((tmp_path / "step-00000001").iterdir()):
        whole = path.read_bytes()
        for length in {0, *(chance.randrange(len(whole) - 1) for _ in range(20))}:
            path.write_bytes(whole[:length])
            with pytest.raises(CorruptFile):
                read_checkpoint(tmp_path / "step-00000001")
        path.unlink()
        with pytest.raises(CorruptFile):
            read_checkpoint(tmp_path / "step-00000001")
        path.write_bytes(whole)
    assert read_checkpoint(tmp_path / "step-00000001")[0] == checkpoint(1)
