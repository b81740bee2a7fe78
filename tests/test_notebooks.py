"""The notebooks of `examples/notebooks` run from top to bottom, and only write where they are started."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.py"))


def test_there_are_notebooks_in_percent_format() -> None:
    assert len(NOTEBOOKS) >= 3
    for path in NOTEBOOKS:
        text = path.read_text()
        assert "format_name: percent" in text
        assert text.count("\n# %%") >= 4
        assert f"python examples/notebooks/{path.name}" in re.sub(r"\n# ", " ", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_what_is_there(path: Path) -> None:
    found = 0
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("metascale"):
            module = importlib.import_module(node.module)
            assert [one.name for one in node.names if not hasattr(module, one.name)] == []
            found += 1
    assert found


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_keeps_its_pictures(path: Path, tmp_path: Path) -> None:
    """With METASCALE_QUICK each cell gives outputs of the kinds, from the source, of the committed notebook."""
    environment = {**os.environ, "METASCALE_QUICK": "1", "PYTHONWARNINGS": "error::UserWarning"}
    command = [sys.executable, str(ROOT / "scripts" / "notebooks.py"), path.stem, "--into", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    now, kept = (json.loads((folder / f"{path.stem}.ipynb").read_text()) for folder in (tmp_path, path.parent))
    assert [_shape(cell) for cell in now["cells"]] == [_shape(cell) for cell in kept["cells"]], (
        f"run `python scripts/notebooks.py {path.stem}` again"
    )
    if path.stem != "meta_gradients":
        assert "image/png" in json.dumps(kept)


def _shape(cell: dict[str, Any]) -> tuple[str, list[list[str]]]:
    return "".join(cell["source"]), [sorted(output.get("data", ())) for output in cell.get("outputs", ())]


@pytest.mark.long
def test_the_law_notebook_runs_without_torch(tmp_path: Path) -> None:
    path = ROOT / "examples" / "notebooks" / "law_from_a_table.py"
    code = f"import runpy, sys; runpy.run_path({str(path)!r}); print('torch' in sys.modules)"
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONWARNINGS": "error::UserWarning"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "False"
    assert len(done.stdout.splitlines()) > 6
    assert [file.name for file in tmp_path.iterdir()] == ["law.png"]
