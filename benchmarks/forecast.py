"""Who predicts learning curves best beyond their end: M1 to M4, the broken law, baselines and the forecast.

Run: OMP_NUM_THREADS=1 METASCALE_LAW_CURVES=law_curves_dev.json python benchmarks/forecast.py
The file holds curves with x, loss, x_heldout, loss_heldout. At horizon 2 the table is the file's own split; at larger
horizons the curve is cut so that its farthest held-out point is that many times the last point seen. Error of a curve:
root mean squared error of ln loss over its held-out points; the table gives the mean over the curves on which every
estimator could be fitted. Coverage and interval score (on ln loss) are of nominal 90 % intervals: of the laws by the
delta method, which trusts the law, and of the forecast.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np

from metascale.laws import LAWS, LeastSquares, fit_law, forecast
from metascale.laws.backtesting import interval_quality
from metascale.laws.forecasting import SlopeModel, last_value, tail_line
from metascale.laws.observations import observe
from metascale.laws.uncertainty import delta_prediction

ESTIMATORS = {
    "M1 (power law)": "power",
    "M2 (power law + E)": "power_irreducible",
    "M3": "m3",
    "M4": "m4",
    "broken power law": "broken",
}
LEVEL, NORMAL = 0.90, 1.6449


def cut(curves: list[dict], horizon: float, fewest: int = 8):
    for entry in curves:
        x, loss, new, truth = (np.array(entry[k], float) for k in ("x", "loss", "x_heldout", "loss_heldout"))
        keep = x <= new.max() / horizon if horizon > 2 else x > 0
        if len(np.unique(x[keep])) >= fewest:
            yield x[keep], loss[keep], new, truth


def predictions(x, loss, new) -> dict[str, tuple]:
    """Per estimator (ln median, ln low, ln high); baselines without an interval."""
    table = observe(x, loss)
    out = {}
    for name, law in ESTIMATORS.items():
        fit = fit_law(LAWS[law], table, LeastSquares())
        out[name] = tuple(np.log(part) for part in delta_prediction(fit, new, LEVEL))
    mean, deviation = SlopeModel().fit(np.log(table.x[:, 0]), table.log_loss).predict(np.log(new))
    out["local slope"] = (mean, mean - NORMAL * deviation, mean + NORMAL * deviation)
    out["last value"] = (np.log(last_value(x, loss, new)), None, None)
    out["tail line"] = (np.log(tail_line(x, loss, new)), None, None)
    found = forecast(x, loss, new, LEVEL)
    out["forecast (ours)"] = tuple(np.log(part) for part in (found.median, found.low, found.high))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--horizons", type=float, nargs="+", default=[2, 4, 8, 16, 32])
    arguments = parser.parse_args()
    curves = json.loads(Path(os.environ["METASCALE_LAW_CURVES"]).read_text())["curves"]
    records = []
    for horizon in arguments.horizons:
        scores: dict[str, list[tuple[float, float, float]]] = {}
        for x, loss, new, truth in cut(curves, horizon):
            for name, (middle, low, high) in predictions(x, loss, new).items():
                error = float(np.sqrt(np.mean((middle - np.log(truth)) ** 2)))
                quality = (np.nan, np.nan) if low is None else interval_quality(np.log(truth), low, high, LEVEL)
                scores.setdefault(name, []).append((error, *quality))
        n = len(next(iter(scores.values()), []))
        head = f"{'mean rmse':>10}{'median':>9}{'coverage':>10}{'interval score':>16}"
        print(f"\n{f'horizon {horizon:g}x, {n} curves':<32}{head}")
        for name, rows in scores.items():
            error, covered, score = np.array(rows).T
            record = {
                "horizon": horizon, "estimator": name, "n_curves": n, "rmse_log_mean": float(error.mean()),
                "rmse_log_median": float(np.median(error)), "coverage": float(covered.mean()),
                "interval_score": float(score.mean()),
            }  # fmt: skip
            records.append(record)
            share = "-" if np.isnan(covered.mean()) else f"{100 * covered.mean():.1f} %"
            width = "-" if np.isnan(score.mean()) else f"{score.mean():.3f}"
            print(f"{name:<32}{error.mean():>10.4f}{np.median(error):>9.4f}{share:>10}{width:>16}")
    for record in records:
        print(json.dumps({k: None if v != v else v for k, v in record.items()}))


if __name__ == "__main__":
    main()
