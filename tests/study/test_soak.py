"""Two long soaks: 100 trials under blows at random, and three kinds of studies under faults of every kind.

``make soak`` runs them for ten and for fifteen minutes; METASCALE_SOAK_S sets other seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.study.runner_process import ROOT


def soak(module: str, folder: Path, seconds: str) -> Any:
    """The figures that a soak prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, str(folder), seconds]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_three_kinds_of_studies_under_faults_of_every_kind_end_with_the_bytes_of_undisturbed_ones(tmp_path, capsys):
    seconds = os.environ.get("METASCALE_SOAK_S", "900")
    found = soak("tests.study.mixed_soak", tmp_path, seconds)
    with capsys.disabled():
        print(json.dumps(found, indent=2))
    assert set(found) == {"plain", "search", "program"}
    assert sum(seen["tried"] for seen in found.values()) >= float(seconds) / 10
    for seen in found.values():
        assert (seen["unexpected"], seen["unnamed"]) == ([], [])
        assert (seen["lost"], seen["exit_status"], seen["finished"]) == (0, 0, seen["trials"])
        assert seen["same_bytes"]
        assert seen["verified"]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_study_under_random_blows_ends_with_the_bytes_of_an_undisturbed_one(tmp_path, capsys):
    seconds = os.environ.get("METASCALE_SOAK_S", "600")
    seen = soak("tests.study.soak", tmp_path, seconds)
    with capsys.disabled():
        print(json.dumps(seen, indent=2))
    assert seen["finished"] == seen["trials"] == 100
    assert sum(seen["blows"].values()) >= float(seconds) / 10
    assert seen["trials_interrupted"] > 0
    assert (seen["finished_twice"], seen["started_after_the_end"]) == (0, 0)
    assert seen["unexpected"] == []
    assert seen["same_bytes"]
    assert seen["verified"]
