"""The commands about data sets: list, check, get."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from metascale.cli.answer import give

app = typer.Typer(no_args_is_help=True, help="Data sets: list them, check a folder, fetch from their public homes.")
out = Console()

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder of data sets; else METASCALE_DATA.", file_okay=False),
]


@app.command("list")
def data_list() -> None:
    """List the data sets that recipes can use."""
    from metascale.tasks.datasets import DATASETS

    columns = ("name", "licence", "home", "citation")
    give(data_sets=[{key: getattr(item, key) for key in columns} for item in DATASETS.values()])
    table = Table(*columns)
    for item in DATASETS.values():
        table.add_row(item.name, item.licence, item.home, item.citation)
    out.print(table)


@app.command("check")
def data_check(
    name: Annotated[str, typer.Argument(help="A data set; `metascale data list` names them.")], data_dir: DataDir = None
) -> None:
    """Check a data set's files in the data folder; exit status 1 when one is missing or damaged."""
    from metascale.tasks.datasets import check

    found = check(name, data_dir)
    give(ok=found.ok, files=[{"path": file.path, "status": file.status, "note": file.note} for file in found.files])
    table = Table("file", "state")
    for file in found.files:
        table.add_row(file.path, f"{file.status} {file.note}".rstrip())
    out.print(table)
    if not found.ok:
        raise typer.Exit(1)


@app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="A data set; `metascale data list` names them.")],
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Folder to put it in.", file_okay=False)],
) -> None:
    """Fetch a data set from its public home into the data folder."""
    from metascale.tasks.datasets import get

    place = get(name, data_dir)
    give(name=name, folder=place)
    out.print(f"{name} is in {place}")
