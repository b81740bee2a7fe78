from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest


def data_folder() -> Path | None:
    root = os.environ.get("METASCALE_DATA")
    return Path(root) if root else None


def scaling_table(name: str) -> dict[str, list[str]]:
    root = data_folder()
    path = None if root is None else root / "scaling_tables" / name
    if path is None or not path.is_file():
        pytest.skip(f"METASCALE_DATA has no scaling_tables/{name}")
    with open(path, newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {key: [row[key] for row in rows] for key in rows[0]}


@pytest.fixture(scope="session")
def hoffmann():
    """(N, D, loss) of the 245 points that Besiroglu et al. read off Hoffmann's figure, lowest loss first."""
    table = scaling_table("chinchilla_svg_extracted.csv")
    size, flops, loss = (np.array(table[name], float) for name in ("Model Size", "Training FLOP", "loss"))
    order = np.argsort(loss)
    return size[order], (flops / 6 / size)[order], loss[order]


@pytest.fixture(scope="session")
def law_curves():
    """The development curves: list of dicts with x, loss, x_heldout, loss_heldout."""
    root, named = data_folder(), os.environ.get("METASCALE_LAW_CURVES")
    path = Path(named) if named else None if root is None else root.parent / "design" / "law_curves_dev.json"
    if path is None or not path.is_file():
        pytest.skip("no development curves: METASCALE_LAW_CURVES names no file")
    return json.loads(path.read_text())["curves"]
