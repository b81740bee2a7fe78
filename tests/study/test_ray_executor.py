"""Trials on a real Ray cluster of two nodes on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import subprocess
import sys

import pytest

from metascale.core.errors import InputError
from metascale.study import read_study, run_study
from metascale.study.executors.local import SerialExecutor
from metascale.study.executors.ray import RayExecutor
from tests.study.folders import final_files, ranks_study, tiny_study
from tests.study.runner_process import ROOT

pytestmark = [
    pytest.mark.timeout(200),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'metascale[ray]'"),
]


def drill(folder, name):
    """Run a drill with a token of its own, which Ray wants between local processes too."""
    folder.mkdir()
    token = folder.parent / "token"
    token.write_text(secrets.token_hex(32))
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "tests.study.ray_drill", str(folder), name]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.long
def test_a_trial_of_a_killed_node_goes_on_elsewhere_from_its_checkpoint(tmp_path):
    seen = drill(tmp_path / "study", "lost_node")
    assert seen == {"killed": True, "finished": 2, "failed": 0}
    first = read_study(tmp_path / "study").runs[0]
    told = [event["event"] for event in first.history()]
    assert told == ["started", "lost", "started", "finished"]
    # It went on from a checkpoint: the checkpoints before the loss were not measured again.
    steps = [row["step"] for row in first.measurements()]
    assert sorted(set(steps)) == list(range(2, 61, 2))
    assert len(steps) - len(set(steps)) <= 1
    run_study(tiny_study(n_tasks=(2, 5), n_steps=60, sleep_s=0.1), tmp_path / "whole")
    assert final_files(tmp_path / "study") == final_files(tmp_path / "whole")


@pytest.mark.long
def test_two_nodes_give_the_bytes_of_one_process_and_a_crash_is_a_failure(tmp_path):
    seen = drill(tmp_path / "ray", "two_nodes")
    assert (seen["finished"], seen["failed"], seen["whole"]) == (3, 1, 3)
    assert "SIGSEGV (signal 11)" in seen["message"]
    run_study(tiny_study(n_tasks=(2, 5, 7)), tmp_path / "whole")
    assert final_files(tmp_path / "ray" / "study") == final_files(tmp_path / "whole")


@pytest.mark.long
def test_a_coordinator_that_is_asked_to_end_has_its_trials_saved_at_once(tmp_path):
    """Ray takes SIGTERM for itself when it starts; it is taken back."""
    seen = drill(tmp_path / "study", "asked_to_end")
    assert seen == {"status": 143, "saved": [True, True]}
    assert {run.status for run in read_study(tmp_path / "study").runs} == {"pending"}


@pytest.mark.long
def test_a_trial_on_two_processes_of_a_node_gives_the_bytes_of_two_processes_here(tmp_path):
    assert drill(tmp_path / "ray", "two_ranks") == {"finished": 1}
    assert read_study(tmp_path / "ray").runs[0].result()["size"] == 2
    run_study(ranks_study(), tmp_path / "here", SerialExecutor(processes_per_trial=2))
    assert final_files(tmp_path / "ray") == final_files(tmp_path / "here")


def test_a_cluster_that_is_not_there_is_named_at_once(tmp_path):
    with pytest.raises(InputError, match=r"cannot reach the Ray cluster at '127\.0\.0\.1:1': Connection refused"):
        run_study(tiny_study(), tmp_path, RayExecutor(address="127.0.0.1:1"))
