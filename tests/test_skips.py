"""In CI a skip fails unless it is listed with its reason."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import allowed_skips

ROOT = Path(__file__).parent.parent
TESTS = {
    "test_listed.py": "import pytest\n\ndef test_one():\n    pytest.skip('needs a CUDA device')\n",
    "test_call.py": "import pytest\n\ndef test_one():\n    pytest.skip('no reason of the list')\n",
    "test_module.py": "import pytest\n\npytest.importorskip('no_such_package_at_all')\n",
}


@pytest.mark.parametrize(
    ("name", "strict", "status"),
    [
        ("test_listed.py", True, 0),
        ("test_call.py", True, 1),
        ("test_call.py", False, 0),
        ("test_module.py", True, 2),
    ],
)
def test_only_listed_skips_pass_in_ci(name: str, strict: bool, status: int, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / name).write_text(TESTS[name])
    environment = {key: value for key, value in os.environ.items() if key != "METASCALE_SKIPS"}
    if strict:
        environment["METASCALE_SKIPS"] = str(ROOT / "tests" / "skips_in_ci.txt")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), name],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == status, done.stdout
    assert ("skips_in_ci.txt does not list" in done.stdout) is (status != 0)


def test_every_listed_skip_has_a_reason() -> None:
    assert len(allowed_skips(ROOT / "tests" / "skips_in_ci.txt")) >= 5
