"""A resumable scaling study of any function of yours, with the law and its interval at the end.

python examples/own_trial_study.py runs/monte_carlo      a few seconds; run it again and nothing is computed twice
metascale report runs/monte_carlo                        its page; `status`, `fit` and `export` take the folder as well

The function here estimates an integral from n random points. Its error falls as n to the power -1/2, so the fitted
exponent has a known answer.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from metascale.core import Run, generator
from metascale.laws import Analysis, analyse
from metascale.study import Roles, Study, results_table, run_study


def trial(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """The root mean square error of the mean of exp(x) over ``n_points`` random x in [0, 1], over many repeats."""
    points = generator(config["seed"], "points").random((config["n_repeats"], config["n_points"]))
    errors = np.exp(points).mean(axis=1) - (np.e - 1)
    return {"error": float(np.sqrt((errors**2).mean()))}


def main(folder: str, n_repeats: int = 400) -> Analysis:
    study = Study(
        name="monte_carlo",
        trial="own_trial_study:trial",
        base={"n_repeats": n_repeats},
        axes={"n_points": [10, 30, 100, 300, 1000]},
        seeds=(0, 1, 2),
        roles=Roles(scales=("n_points",), loss="error"),
    )
    run_study(study, folder)
    table = results_table(folder).finished()
    return analyse(
        table.column("n_points"),
        table.column("error"),
        replicate=table.column("seed"),
        x_name="n_points",
        loss_name="error",
    )


if __name__ == "__main__":
    print(main(sys.argv[1] if len(sys.argv) > 1 else "runs/monte_carlo").summary())
