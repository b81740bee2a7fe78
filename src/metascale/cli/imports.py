"""The command that makes a table of other programs' runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from metascale.cli.answer import give
from metascale.core.errors import InputError

console = Console()


def import_runs(
    source: Annotated[
        str,
        typer.Argument(
            help="wandb:ENTITY/PROJECT, mlflow:URI/EXPERIMENT, optuna:STORAGE#STUDY, or a folder of runs: W&B offline, "
            "TensorBoard, a Trainer's trainer_state.json, Lightning's metrics.csv."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The CSV file to write.")],
    curves: Annotated[bool, typer.Option("--curves", help="One row a logged step, not one row a run.")] = False,
) -> None:
    """Read the runs of a tracker, a log folder or a search into one table, one row a run."""
    from metascale.core.files import write_atomic
    from metascale.integrations.sources.read import read_source
    from metascale.integrations.sources.runs import to_csv

    if out.is_dir():
        raise InputError(f"`out` {out} is a folder; give a file, such as runs.csv", field="out", value=str(out))
    found = read_source(source)
    columns = found.curves() if curves else found.table()
    try:
        write_atomic(out, to_csv(columns))
    except (NotADirectoryError, PermissionError, FileExistsError) as error:
        raise InputError(f"`out` {out} cannot be written: {error.strerror}", field="out") from error
    give(out=out, n_runs=len(found.runs), columns=list(columns), notes=found.notes)
    n_rows, n_runs = len(columns["run"]), len(found.runs)
    what = f"{n_runs} run{'' if n_runs == 1 else 's'}" + (f", {n_rows} logged steps," if curves else "")
    console.print(Text(f"{what} written to {out} ({len(columns)} columns)"), soft_wrap=True)
    for note in found.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)
