"""Run the notebooks of examples/notebooks and write each beside itself as .ipynb, with its outputs and pictures.

    python scripts/notebooks.py [--into FOLDER] [NAME ...]

The cells run in one process a notebook, in a temporary folder. Jupyter is not needed.
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parent.parent / "examples" / "notebooks"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def cells_of(text: str) -> list[dict[str, Any]]:
    """The cells of a percent script as those of a notebook, without outputs."""
    cells = []
    for number, part in enumerate(re.split(r"^# %%", text, flags=re.MULTILINE)[1:]):
        first, _, body = part.partition("\n")
        cell: dict[str, Any] = {"cell_type": "code", "id": f"cell-{number}", "metadata": {}}
        if first.strip() == "[markdown]":
            cell["cell_type"] = "markdown"
            body = re.sub(r"^# ?", "", body, flags=re.MULTILINE)
        else:
            cell |= {"execution_count": None, "outputs": []}
        cells.append({**cell, "source": body.strip().splitlines(keepends=True)})
    return cells


def executed(text: str) -> dict[str, Any]:
    """A notebook with the outputs of its cells, which run here and now."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    cells = cells_of(text)
    count = 0
    for cell in cells:
        if cell["cell_type"] == "code":
            count += 1
            cell |= {"execution_count": count, "outputs": list(_run("".join(cell["source"]), scope, count))}
    return {"cells": cells, "metadata": {"kernelspec": KERNEL}, "nbformat": 4, "nbformat_minor": 5}


def _run(source: str, scope: dict[str, Any], count: int) -> list[dict[str, Any]]:
    tree, value = ast.parse(source), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "<cell>", "exec"), scope)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), scope)
    lines = printed.getvalue().splitlines(keepends=True)
    outputs: list[dict[str, Any]] = [{"output_type": "stream", "name": "stdout", "text": lines}] if lines else []
    if hasattr(value, "_repr_html_"):
        data = {"text/html": [value._repr_html_()], "text/plain": [type(value).__name__]}
        outputs.append({"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": data})
    return outputs + _pictures()


def _pictures() -> list[dict[str, Any]]:
    """The figures of pyplot that are open after a cell; they are closed."""
    outputs = []
    for number in plt.get_fignums() if (plt := sys.modules.get("matplotlib.pyplot")) else ():
        stream = io.BytesIO()
        plt.figure(number).savefig(stream, format="png", dpi=72, metadata={"Software": None})
        data = {"image/png": base64.b64encode(stream.getvalue()).decode(), "text/plain": ["Figure"]}
        outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
        plt.close(number)
    return outputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--into", type=Path, default=NOTEBOOKS)
    parser.add_argument("--here", type=Path, help=argparse.SUPPRESS)  # one notebook, in this process
    asked = parser.parse_args()
    if asked.here:
        notebook = executed(asked.here.read_text())
        out = asked.into / f"{asked.here.stem}.ipynb"
        out.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
        return
    for name in asked.names or sorted(path.stem for path in NOTEBOOKS.glob("*.py")):
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            "--here",
            str(NOTEBOOKS / f"{name}.py"),
            "--into",
            str(asked.into.resolve()),
        ]
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(command, cwd=folder, env={**os.environ, "MPLBACKEND": "Agg"}, check=True)


if __name__ == "__main__":
    main()
