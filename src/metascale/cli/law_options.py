"""The options that the law commands share. Their functions have them as parameters, which typer reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TablePath = Annotated[
    Path,
    typer.Argument(
        help="CSV, JSON, JSON Lines or Parquet table with one row a run, or a study's folder", show_default=False
    ),
]
XNames = Annotated[
    list[str] | None,
    typer.Option("--x", help="column of a scale; repeatable; guessed when only one can be meant"),
]
XName = Annotated[str | None, typer.Option("--x", help="column of the scale; guessed when only one can be meant")]
YNames = Annotated[
    list[str] | None,
    typer.Option(
        "--y", help="column of the loss, accuracy ...; repeatable: one law each; guessed where one can be meant"
    ),
]
YName = Annotated[str | None, typer.Option("--y", help="column of the loss; guessed when only one can be meant")]
Replicate = Annotated[str | None, typer.Option("--replicate", help="column that distinguishes repeats (default: seed)")]
Group = Annotated[
    str | None, typer.Option("--group", help="column of groups, each on its own and compared (default: method)")
]
Series = Annotated[
    list[str] | None,
    typer.Option("--series", help="column whose values have a law each; repeatable (a study: its own)"),
]
BestOf = Annotated[
    list[str] | None,
    typer.Option("--best-of", help="column of which each scale keeps its best value, by validation; repeatable"),
]
RunName = Annotated[
    str | None, typer.Option("--run", help="column of runs, whose rows stay together in a bootstrap (default: run)")
]
Checkpoints = Annotated[
    bool, typer.Option("--checkpoints", help="fit every row of a run, and not the end of each alone")
]
Rows = Annotated[
    int | None, typer.Option("--rows", help="fit a sample of so many rows (default: of more than 5,000, 600 a group)")
]
NoiseColumn = Annotated[
    str | None, typer.Option("--noise-column", help="column of known standard errors of the loss's evaluation")
]
Out = Annotated[Path | None, typer.Option("--out", help="folder for the results as JSON, CSV, PNG and HTML")]
Kind = Annotated[
    str | None, typer.Option("--kind", help="share, error (a share of failures) or loss; default: by name and values")
]
Chance = Annotated[float | None, typer.Option("--chance", help="of a share: what guessing has, such as 0.25")]
Trials = Annotated[
    str | None, typer.Option("--trials", help="of a share: column of the numbers of questions, or one number")
]
Via = Annotated[
    str | None, typer.Option("--via", help="of a share: column of the loss that it is read off, in two steps")
]
Seed = Annotated[int, typer.Option("--seed", help="seed of the bootstrap")]
LawName = Annotated[
    str, typer.Option("--law", help="a family, a law of the library, a formula such as 'E + A/N**alpha', or auto")
]
X2 = Annotated[str | None, typer.Option("--x2", help="second scale (the same as a second --x)")]
X3 = Annotated[str | None, typer.Option("--x3", help="third scale (the same as a third --x)")]
Bound = Annotated[list[str] | None, typer.Option("--bound", help="range of a parameter, alpha=0:2; repeatable")]
Fix = Annotated[list[str] | None, typer.Option("--fix", help="value of a parameter, E=1.69; repeatable")]
ObjectiveName = Annotated[
    str | None, typer.Option("--objective", help="huber (the default) or least-squares, of log residuals")
]
Weights = Annotated[
    str | None, typer.Option("--weights", help="replicate: rows weigh by the variance between their seeds")
]
Resamples = Annotated[
    int, typer.Option("--bootstrap", help="number of resamples; formulas, shares and joined forms need none")
]
Level = Annotated[float, typer.Option("--level", help="level of the intervals")]
To = Annotated[
    list[str] | None,
    typer.Option("--to", help="the scale to predict the loss at; N=7e10,D=1.4e12 of several; repeatable"),
]
ScheduleText = Annotated[
    str | None,
    typer.Option(
        "--schedule",
        help="of a run to predict from runs with rates: a CSV of step and lr, or a name such "
        "as cosine:peak=3e-4,steps=24000,warmup=500; --to is then a step, its end by default",
    ),
]
Compute = Annotated[
    list[float], typer.Option("--compute", help="budget in FLOPs (unit of --cost); may be repeated", show_default=False)
]
SizeName = Annotated[str | None, typer.Option("--n", help="column of the model size; guessed")]
TokensName = Annotated[str | None, typer.Option("--d", help="column of the tokens; guessed, or compute / 6N")]
CostName = Annotated[
    str | None,
    typer.Option("--cost", help="column of what a run cost: a power law in N and D is fitted to it; else 6 N D"),
]
SurfaceName = Annotated[str, typer.Option("--law", help="chinchilla, kaplan or auto")]
GpuFlops = Annotated[float | None, typer.Option("--gpu-flops", help="peak FLOP/s of one GPU, for GPU-hours")]
Utilisation = Annotated[float, typer.Option("--utilisation", help="share of the peak that training reaches")]
