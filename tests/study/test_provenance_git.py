"""What a run asks git leaves the user's repository alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from metascale.study.store import provenance


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_asking_git_writes_nothing_and_takes_no_lock(tmp_path: Path) -> None:
    """Plain `git status` and `git diff` rewrite the index of a touched checkout, under a lock that outlives a kill."""

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "code.py").write_text("a = 1\n")
    git("add", "code.py")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "first")
    os.utime(tmp_path / "code.py", (1, 1))
    index = tmp_path / ".git" / "index"
    before = index.read_bytes(), index.stat().st_mtime_ns
    (tmp_path / "other.py").write_text("b = 1\n")
    found = provenance._checkout(tmp_path, "code")
    assert found["changed_files"] == ["other.py"]
    assert (index.read_bytes(), index.stat().st_mtime_ns) == before
