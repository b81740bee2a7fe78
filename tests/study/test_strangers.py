"""A stranger's study folder: no label, name or link in it leads out of it, and what cannot be is one sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metascale.cli.main import app
from metascale.core.canonical import canonical_json
from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import sha256_of, write_json
from metascale.core.run import Checkpoint
from metascale.study import Study, read_study, run_study, verify_study
from metascale.study.errors import DiskFull
from metascale.study.store.checkpoints import write_checkpoint
from metascale.study.store.paths import LONGEST
from metascale.study.store.seals import sealed
from metascale.workflow.conclude import conclude
from tests.study.folders import TRIALS, tiny_study
from tests.test_cli import call  # noqa: F401

POWER = Study("power", f"{TRIALS}:power", {"n_tasks": 1}, {"n_tasks": [2, 4, 8]}, (0,))


@pytest.fixture(scope="module")
def concluded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("strangers") / "study"
    run_study(POWER, folder)
    conclude(folder)
    return folder


@pytest.fixture
def folder(concluded, tmp_path) -> Path:
    return Path(shutil.copytree(concluded, tmp_path / "study"))


def edit_sealed(path: Path, change) -> None:
    """Change a sealed file and seal it again, as a stranger can."""
    stored = json.loads(path.read_text())
    change(stored)
    write_json(path, sealed(stored))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("label", ["../../../escaped", "/tmp/escaped", "a/b", "", "x" * 300, 7])
def test_a_label_is_no_path(folder, tmp_path, label):
    edit_sealed(folder / "study.json", lambda stored: stored["trials"][0].update(label=label))
    before = everything(tmp_path)
    for reader in (read_study, conclude, verify_study, lambda place: run_study(POWER, place)):
        with pytest.raises(CorruptFile, match="no name of a folder, which has at most 200 letters"):
            reader(folder)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname"])
def test_files_that_hashes_speak_of_lie_inside(folder, tmp_path, name):
    (tmp_path / "outside.txt").write_text("not of the study")
    edit_sealed(folder / "seals.json", lambda stored: stored["files"].update({name: "0" * 64}))
    (damage,) = verify_study(folder).damages
    assert damage.path == folder / "seals.json"
    assert "outside of its folder" in damage.problem
    shutil.copy(folder / "seals.json", tmp_path / "kept")
    run = read_study(folder).runs[0].folder
    edit_sealed(run / "result.json", lambda stored: stored["files"].update({name: "0" * 64}))
    assert run / "result.json" in [damage.path for damage in verify_study(folder).damages]


@pytest.mark.parametrize("where", ["blobs", "records"])
def test_a_checkpoint_names_no_file_outside_its_run(tmp_path, where):
    """Records are cut back to what a checkpoint saw: the name of one must not reach another file."""
    study, folder = tiny_study("golden", n_tasks=(7,)), tmp_path / "study"
    assert run_study(study, folder).failed == 1
    run = read_study(folder).runs[0].folder
    outside = tmp_path / "outside.csv"
    outside.write_text("step\n1\n2\n")
    mark = {"n_bytes": 5, "sha256": sha256_of(b"step\n")}
    shutil.rmtree(run / "checkpoints")
    write_checkpoint(run / "checkpoints", Checkpoint(9, {"state": b"{}"}), {})
    manifest = run / "checkpoints" / "step-00000009" / "manifest.json"
    content = json.loads(manifest.read_text())["content"]
    content[where] = {**content[where], os.path.relpath(outside.with_suffix(""), run): mark}
    write_json(manifest, {"content": content, "sha256": sha256_of(canonical_json(content).encode())})
    run_study(study, folder)
    assert outside.read_text() == "step\n1\n2\n"
    warnings = [event for event in read_study(folder).runs[0].history() if event["event"] == "warning"]
    assert "names no part or record" in warnings[0]["message"]


LINKED = {
    "plots": "plots", "a run": "runs/RUN", "all runs": "runs", "the table": "results.csv", "design": "study.json",
    "a record": "runs/RUN/history.jsonl", "something new": "runs/RUN/new",
}  # fmt: skip


@pytest.mark.parametrize("name", LINKED.values(), ids=LINKED)
def test_a_link_that_leaves_the_folder_is_refused_by_every_command(folder, tmp_path, name):
    run = read_study(folder).runs[0].folder
    path = folder / name.replace("RUN", run.name)
    outside = tmp_path / "outside"
    if path.exists():
        shutil.move(path, outside)
    else:
        outside.write_text("")
    path.symlink_to(outside)
    before = everything(tmp_path)
    commands = ["status {0}", "report {0}", "verify {0}", "export {0} --format csv --out {1}/t.csv", "resume {0}"]
    commands += ["evaluate {2}"] if "RUN" in name and name != "runs/RUN" else []
    for command in commands:
        done = CliRunner().invoke(app, command.format(folder, tmp_path, run).split())
        assert isinstance(done.exception, InputError), (command, done.output)
        assert f"{path} is a link that leads out of its folder (to {outside})" in str(done.exception)
    with pytest.raises(InputError, match="is a link that leads out of its folder"):
        run_study(POWER, folder)
    assert everything(tmp_path) == before


def test_links_inside_the_folder_and_a_link_to_it_are_taken(folder, tmp_path):
    (folder / "latest").symlink_to(folder / "report.html")
    (tmp_path / "name").symlink_to(folder)
    assert run_study(POWER, tmp_path / "name").exit_status == 0
    assert verify_study(tmp_path / "name").ok


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(folder):
    (folder / "results.csv").unlink()
    os.mkfifo(folder / "results.csv")
    with pytest.raises(InputError, match=r"results\.csv is neither a file nor a folder"):
        read_study(folder)


def test_a_program_keeps_links_among_its_own_files(folder, tmp_path):
    """They are neither followed nor hashed: a data set that a program links is no part of its result."""
    from metascale.study.store.folder import file_hashes

    run = read_study(folder).runs[0].folder
    (run / "files").mkdir()
    (tmp_path / "data.csv").write_text("1")
    (run / "files" / "data.csv").symlink_to(tmp_path / "data.csv")
    assert read_study(folder).runs
    assert "files/data.csv" not in file_hashes(run)


@pytest.mark.parametrize("n_more", [0, 600])
def test_a_path_that_sqlite_cannot_open_is_one_sentence_before_anything_is_written(tmp_path, n_more):
    place = tmp_path
    assert LONGEST < 491, "SQLite 3.40 opens no database in a folder whose path has 491 bytes"
    while len(os.fsencode(place)) < LONGEST - 60 + n_more:
        place = place / ("x" * 50)
    longest = place / ("y" * (LONGEST - len(os.fsencode(place)) - 1))
    if n_more:
        with pytest.raises(InputError, match=rf"has [0-9]+ bytes; it may have at most {LONGEST}"):
            run_study(tiny_study(), place)
        assert list(tmp_path.iterdir()) == []
    else:
        assert run_study(tiny_study(n_tasks=(2,)), longest).finished == 1


def test_a_path_of_1200_characters_is_one_sentence_on_the_command_line(tmp_path, call):  # noqa: F811
    for out in (tmp_path / "/".join(["x" * 100] * 11), tmp_path / ("x" * 1200)):
        asked = ["run", f"{TRIALS}:power", "--set", "n_tasks=[1,2]", "--executor", "serial", "--out", str(out)]
        code, _, said = call(*asked)
        assert code == 2, said
        assert said.count("\n") == 1
        assert "bytes; it may have at most" in said or "File name too long" in said
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_device_that_takes_no_more_files_is_one_sentence_and_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    for n_files in range(2, 22):
        options = f"size=4m,nr_inodes={n_files}"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], check=False).returncode != 0:
            pytest.skip("this machine does not let root mount a tmpfs")
        try:
            with pytest.raises(DiskFull, match=r"no space left on the device .* [0-9]+ files free\) while"):
                run_study(tiny_study(n_tasks=(2,)), disk / "study")
            subprocess.run(["mount", "-o", "remount,nr_inodes=400", disk], check=True)
            assert run_study(tiny_study(n_tasks=(2,)), disk / "study").finished == 1
        finally:
            subprocess.run(["umount", "-l", disk], check=True)
