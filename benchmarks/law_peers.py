"""metascale's laws beside scipy's curve_fit, chinchilla and simple-scaling-laws, where these can do the job.

    pip install chinchilla simple-scaling-laws    # the second needs Python 3.12
    OMP_NUM_THREADS=1 METASCALE_DATA=... python benchmarks/law_peers.py [surface ahead shares schedules]

Tools that are not installed are left out. surface: Hoffmann's 240 points, one fit. ahead: runs above 1/4 and 1/16 of
the largest compute hidden. shares: simulated accuracies of four choices that follow a loss, 16 times beyond the table.
schedules: simulated runs by the multi-power law with published parameters, the end of a run under another schedule.
Intervals of curve_fit are those of its covariance with the residual variance added, by Student's t.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import curve_fit
from scipy.special import expit, huber, stdtrit

import metascale as ms
from law_scales import numbers, rows_of, tables
from metascale.laws import Schedule, choose, loss_of, observe

DATA = Path(os.environ["METASCALE_DATA"]) / "scaling_tables"
HIDDEN = ("hoffmann", "summary_df rw base long kaplan standard val", "summary_df rw tuned short const standard val")
PUBLISHED = {"L0": 3.04, "A": 0.525, "alpha": 0.508, "B": 364, "C": 2.07, "beta": 0.583, "gamma": 0.641}
Bands = tuple[np.ndarray, np.ndarray, np.ndarray]


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def scipy_bands(function: Callable, start: list[float], x: np.ndarray, y: np.ndarray, at: np.ndarray, **more) -> Bands:
    """Median and 90 % interval for one new run, as a careful user of curve_fit would compute them."""
    found, covariance = curve_fit(function, x, y, p0=start, maxfev=100_000, **more)
    freedom = len(y) - len(found)
    residual = np.sum((y - function(x, *found)) ** 2) / freedom
    moved = [found + 1e-6 * np.maximum(np.abs(found), 1e-3) * unit for unit in np.eye(len(found))]
    middle = function(at, *found)
    step = np.array([1e-6 * max(abs(value), 1e-3) for value in found])
    slope = np.array([(function(at, *one) - middle) / h for one, h in zip(moved, step, strict=True)]).T
    width = stdtrit(freedom, 0.95) * np.sqrt(np.einsum("mp,pq,mq->m", slope, covariance, slope) + residual)
    return middle, middle - width, middle + width


def surface_of(x: np.ndarray, e: float, a: float, b: float, alpha: float, beta: float) -> np.ndarray:
    """E + e^a N^-alpha + e^b D^-beta; x [2, n]."""
    return e + np.exp(np.clip(a - alpha * np.log(x[0]), -50, 50)) + np.exp(np.clip(b - beta * np.log(x[1]), -50, 50))


def log_surface(x: np.ndarray, *parameters: float) -> np.ndarray:
    return np.log(np.maximum(surface_of(x, *parameters), 1e-9))


SURFACE_START = [1.7, 6.0, 7.0, 0.3, 0.3]


def quiet(task: Callable):
    """The task's result and its seconds, its words left out."""
    begin = time.perf_counter()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        found = task()
    return found, time.perf_counter() - begin


def chinchilla_parameters(x: np.ndarray, loss: np.ndarray, starts: int = 3) -> dict[str, float]:
    import pandas
    from chinchilla import Chinchilla

    with tempfile.TemporaryDirectory() as folder:
        pandas.DataFrame({"C": 6 * x[0] * x[1], "N": x[0], "D": x[1], "loss": loss}).to_csv(
            f"{folder}/df.csv", index=False
        )
        ends = {"E": (1, 2), "a": (1, 10), "b": (1, 10), "alpha": (0.1, 0.7), "beta": (0.1, 0.7)}
        tool = Chinchilla(folder, param_grid={name: np.linspace(*pair, starts) for name, pair in ends.items()})
        tool.fit(parallel=False)
        return dict(tool.params)


def slaw(x: np.ndarray, loss: np.ndarray, target: str = "test_loss__l", law: str = "separable-power", **more):
    """simple-scaling-laws' model of a table."""
    import polars
    from simple_scaling_laws import fit

    names = ("model_size__n", "dataset_size__d")[: len(x)]
    frame = polars.DataFrame({"training_run_id": [str(k) for k in range(len(loss))], "test_set_id": ["a"] * len(loss),
                              **dict(zip(names, map(np.asarray, x), strict=True)), target: loss})  # fmt: skip
    return fit(frame, law=law, seed=0, **more)


def slaw_bands(model, at: np.ndarray, target: str = "test_loss__l") -> Bands:
    names = ("model_size__n", "dataset_size__d")[: len(at)]
    rows = model.predict(dict(zip(names, at, strict=True)), kind="new-run", quantiles=[0.05, 0.5, 0.95])
    return tuple(rows[f"{target}__{end}"].to_numpy() for end in ("median", "q050", "q950"))


def surface() -> None:
    table = rows_of(DATA / "chinchilla_svg_extracted.csv")
    size, flops, loss = (numbers(table, (name,))[:, 0] for name in ("Model Size", "Training FLOP", "loss"))
    kept = np.argsort(loss)[:240]
    x, y = np.array([size, flops / 6 / size])[:, kept], loss[kept]

    def ours() -> list[float]:
        found = ms.fit(x.T, y, law="chinchilla", x_name=("N", "D"), n_bootstrap=1000).fit.parameters
        return [found["E"], np.log(found["A"]), np.log(found["B"]), found["alpha"], found["beta"]]

    def theirs() -> list[float]:
        found = chinchilla_parameters(x, y)
        return [found["E"], np.log(found["A"]), np.log(found["B"]), found["alpha"], found["beta"]]

    def simple() -> list[float]:
        found = slaw(x, y).params("test_loss__l")
        unit = [np.exp(np.mean(np.log(one))) for one in x]  # its scales are in units of their geometric means
        powers = [found["alpha"] * np.log(unit[0]), found["beta"] * np.log(unit[1])]
        return [
            found["E"],
            np.log(found["A"]) + powers[0],
            np.log(found["B"]) + powers[1],
            found["alpha"],
            found["beta"],
        ]

    tools: dict[str, Callable] = {
        "metascale, with 1,000 resamples": ours,
        "scipy curve_fit, one start": lambda: curve_fit(surface_of, x, y, p0=SURFACE_START, maxfev=100_000)[0],
    }
    tools |= {"chinchilla, 243 starts": theirs} if has("chinchilla") else {}
    tools |= {"simple-scaling-laws": simple} if has("simple_scaling_laws") else {}
    print("| tool | E | alpha | beta | Huber (0.001) of ln loss, summed | seconds |\n|---|---|---|---|---|---|")
    for name, tool in tools.items():
        found, seconds = quiet(tool)
        objective = huber(1e-3, np.log(y) - np.log(np.maximum(surface_of(x, *found), 1e-300))).sum()
        print(
            f"| {name} | {found[0]:.4f} | {found[3]:.4f} | {found[4]:.4f} | {objective:.6f} | {seconds:.1f} |",
            flush=True,
        )


def ahead() -> None:
    print("| table | ahead | tool | rmse of ln loss | inside 90 % | seconds |\n|---|---|---|---|---|---|")
    known = tables(DATA)
    for name in HIDDEN:
        _, x, loss = known[name]
        compute = x[:, 0] * x[:, 1]
        for factor in (4, 16):
            seen = compute <= compute.max() / factor
            train, y, at, truth = x[seen], loss[seen], x[~seen], loss[~seen]

            def ours(train=train, y=y, at=at) -> Bands:
                found = choose(observe(train, y, x_name=("N", "D"), replicate=np.arange(len(y)))).mixture.predict(at)
                return found.median, found.low, found.high

            def theirs(train=train, y=y, at=at) -> Bands:
                found = chinchilla_parameters(train.T, y)
                line = surface_of(
                    at.T, found["E"], np.log(found["A"]), np.log(found["B"]), found["alpha"], found["beta"]
                )
                return line, line, line

            tools: dict[str, Callable] = {
                "metascale": ours,
                "scipy curve_fit of ln loss": lambda t=train, y=y, a=at: tuple(
                    np.exp(scipy_bands(log_surface, SURFACE_START, t.T, np.log(y), a.T))
                ),
            }
            tools |= {"chinchilla": theirs} if has("chinchilla") else {}
            tools |= {"simple-scaling-laws": lambda t=train, y=y, a=at: slaw_bands(slaw(t.T, y), a.T)} if has(
                "simple_scaling_laws") else {}  # fmt: skip
            for tool, task in tools.items():
                (middle, low, high), seconds = quiet(task)
                error = np.sqrt(np.mean((np.log(np.maximum(middle, 1e-9)) - np.log(truth)) ** 2))
                inside = "-" if low is high else f"{100 * np.mean((low <= truth) & (truth <= high)):.0f} %"
                print(f"| {name} | {factor}x | {tool} | {error:.4f} | {inside} | {seconds:.1f} |", flush=True)


def shares(n_tables: int = 20) -> None:
    """Of 1,000 questions with four choices; 8 scales seen, and four more up to 16 times beyond them."""

    def logistic(x, a, b):
        return 0.25 + 0.75 * expit(a + b * np.log(x))

    held: dict[str, list] = {}
    for seed in range(n_tables):
        rng = np.random.default_rng(seed)
        x = np.geomspace(1e7, 1.6e11, 12)
        loss = (1.9 + 60 * x**-0.25) * np.exp(0.003 * rng.standard_normal(12))
        seen = rng.binomial(1000, 0.25 + 0.75 * expit(-4 * (loss - 2.5))) / 1000
        table = {"N": x[:8], "loss": loss[:8], "acc": seen[:8]}
        how = {"x": "N", "y": "acc", "chance": 0.25, "trials": 1000}

        def ours(table=table, at=x[8:], how=how, **more) -> Bands:
            found = ms.forecast(table, at=at, **{**how, **more})
            return found.median, found.low, found.high

        tools: dict[str, Callable] = {
            "metascale, chance given": ours,
            "metascale, via the loss": lambda ours=ours: ours(via="loss"),
            "scipy curve_fit of the logistic": lambda x=x, seen=seen: scipy_bands(
                logistic, [-10.0, 0.5], x[:8], seen[:8], x[8:]
            ),
        }
        tools |= {"simple-scaling-laws": lambda x=x, seen=seen: slaw_bands(
            slaw(x[None, :8], seen[:8], "test_metric__accuracy"), x[None, 8:], "test_metric__accuracy"
        )} if has("simple_scaling_laws") else {}  # fmt: skip
        for tool, task in tools.items():
            (middle, low, high), seconds = quiet(task)
            held.setdefault(tool, []).append(
                (middle - seen[8:], (low <= seen[8:]) & (seen[8:] <= high), high - low, seconds)
            )
    print("| tool | rmse, points | inside 90 % | mean width, points | seconds a table |\n|---|---|---|---|---|")
    for tool, parts in held.items():
        errors, inside, widths, seconds = (np.array(part) for part in zip(*parts, strict=True))
        rmse, share, width = (100 * part for part in (np.sqrt(np.mean(errors**2)), inside.mean(), widths.mean()))
        print(f"| {tool} | {rmse:.1f} | {share:.0f} % | {width:.0f} | {seconds.mean():.2f} |", flush=True)


def schedules(n_tables: int = 10) -> None:
    """A cosine and a constant run of 8,000 steps; the end of a WSD run of 10,000. Noise 0.002 in ln loss."""
    planned = Schedule.named("wsd:peak=3e-4,steps=10000,warmup=400")
    truth = loss_of(PUBLISHED, planned, [10000])[0]
    held: dict[str, list] = {}
    for seed in range(n_tables):
        rng, table = np.random.default_rng(seed), {"run": [], "step": [], "lr": [], "loss": []}
        for name in ("cosine", "constant"):
            schedule, step = Schedule.named(f"{name}:peak=3e-4,steps=8000,warmup=400"), np.arange(500, 8001, 100)
            noise = np.exp(0.002 * rng.standard_normal(len(step)))
            table["run"] += [name] * len(step)
            table["step"] += step.tolist()
            table["lr"] += schedule.rates[step - 1].tolist()
            table["loss"] += (loss_of(PUBLISHED, schedule, step) * noise).tolist()

        def ours(table=table) -> Bands:
            found = ms.forecast(table, law="multi_power", schedule=planned)
            return found.median, found.low, found.high

        def steps_alone(run: str, table=table) -> Bands:
            rows = [k for k, name in enumerate(table["run"]) if name == run]
            x, y = (np.array(table[name], float)[rows] for name in ("step", "loss"))
            return scipy_bands(lambda t, e, a, b: e + np.exp(a) * t**-b, [3.0, 3.0, 0.5], x, y, np.array([10000.0]))

        tools: dict[str, Callable] = {
            "metascale, multi_power": ours,
            **{f"scipy curve_fit of E + A step^-b to the {run} run": lambda run=run, one=steps_alone: one(run)
               for run in ("cosine", "constant")},
        }  # fmt: skip
        for tool, task in tools.items():
            (middle, low, high), seconds = quiet(task)
            held.setdefault(tool, []).append((np.log(middle[0] / truth), low[0] <= truth <= high[0], seconds))
    print("| tool | rmse of ln loss at the end | inside 90 % | seconds a table |\n|---|---|---|---|")
    for tool, parts in held.items():
        errors, inside, seconds = (np.array(part, float) for part in zip(*parts, strict=True))
        print(f"| {tool} | {np.sqrt(np.mean(errors**2)):.4f} | {100 * inside.mean():.0f} % | {seconds.mean():.2f} |")


if __name__ == "__main__":
    for part in sys.argv[1:] or ("surface", "ahead", "shares", "schedules"):
        print(f"\n{part}\n")
        {"surface": surface, "ahead": ahead, "shares": shares, "schedules": schedules}[part]()
