"""Files from strangers never run code: no unpickling in the package, and a planted pickle is an error."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest

from metascale.core.run import Checkpoint
from metascale.study import read_study, run_study
from metascale.study.store.checkpoints import write_checkpoint
from tests.study.folders import tiny_study
from tests.study.runner_process import ROOT

PACKAGE = ROOT / "src" / "metascale"
UNSAFE = re.compile(
    r"\bimport pickle\b|\bpickle\.(load|loads|Unpickler)\b|\btorch\.load\(|allow_pickle=True|yaml\.(unsafe_)?load\(|"
    r"trust_remote_code\s*[\"']?\s*[:=]\s*True|(?<![\w.])(eval|exec)\(|shell=True|\bcloudpickle\b|\bjoblib\.load\b"
)


class Bomb:
    """Unpickled, it makes the file that its name says."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def test_the_bomb_works(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


PIPES = (PACKAGE / "parallel" / "processes.py",)
"""Speak with child processes that the program itself started, through pipes, and with nobody else."""
PLAIN = PACKAGE / "tasks" / "pickles.py"
"""Reads plain data from pickles of published sets: every name in a file is one of its own stand-ins, or refused."""
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path not in (*PIPES, PLAIN)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_package_never_unpickles_evaluates_or_trusts_remote_code(path):
    found = UNSAFE.search(path.read_text())
    assert found is None, f"{path.relative_to(ROOT)}: {found[0] if found else ''}"


def test_the_reader_of_plain_pickles_has_one_unpickler_that_looks_nothing_up():
    text = PLAIN.read_text()
    assert re.findall(r"pickle\.(?:loads?|Unpickler|_Unpickler)\b", text) == ["pickle.Unpickler"]
    body = text.partition("class _Plain(pickle.Unpickler):")[2].partition("\nclass ")[0]
    assert "def find_class(" in body
    assert "super()" not in body


def test_only_what_came_through_a_pipe_is_unpickled():
    for path in PIPES:
        assert UNSAFE.search(path.read_text())
        assert not re.search(r"\b(open|Path|socket|urlopen|Listener)\b", path.read_text())
    importing = re.compile(r"from metascale\.parallel\.processes import (.+)")
    imported = {name for path in FILES for line in importing.findall(path.read_text()) for name in line.split(", ")}
    users = {str(path.relative_to(PACKAGE)) for path in FILES if "metascale.parallel.processes" in path.read_text()}
    assert users == {"parallel/execution.py"}
    assert imported == {"task_processes"}


@pytest.mark.parametrize(
    "line",
    ["import pickle", "torch.load(path)", "np.load(f, allow_pickle=True)", "trust_remote_code=True", "x = eval(text)"],
)
def test_the_search_finds_what_it_should(line):
    assert UNSAFE.search(line)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_a_pickle_planted_as_a_checkpoint_with_right_hashes_is_an_error(tmp_path):
    folder, mark = tmp_path / "study", tmp_path / "mark"
    study = tiny_study("resumes_tensors", n_tasks=(2,))
    assert run_study(study, folder).failed == 1
    run = read_study(folder).runs[0].folder
    shutil.rmtree(run / "checkpoints")
    write_checkpoint(run / "checkpoints", Checkpoint(1, {"state.safetensors": pickle.dumps(Bomb(mark))}), {})
    assert run_study(study, folder).failed == 1
    assert "Safetensor" in read_study(folder).runs[0].message()
    assert not mark.exists()


def test_a_pickle_planted_as_a_result_is_named_and_no_program(tmp_path):
    folder, mark = tmp_path / "study", tmp_path / "mark"
    run_study(tiny_study(), folder)
    result = read_study(folder).runs[0].folder / "result.json"
    result.write_bytes(pickle.dumps(Bomb(mark)))
    (named,) = run_study(tiny_study(), folder).damaged
    assert str(result) in named
    assert not mark.exists()
