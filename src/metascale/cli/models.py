"""The command about models: the coordinate check of μP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metascale.cli.answer import give
from metascale.core.errors import InputError

out = Console()


def coordinate_check(
    model: Annotated[str, typer.Argument(help="mlp, convnet, resnet, transformer or resnet_bk.")],
    out_dir: Annotated[Path, typer.Option("--out", help="A folder for coordinates.json and coordinates.png.")],
    widths: Annotated[str, typer.Option(help="Two or more widths; the smallest is the base width.")] = "64,128,256",
    steps: Annotated[int, typer.Option(help="Training steps.")] = 4,
    lr: Annotated[float, typer.Option(help="Rate of the base width.")] = 0.01,
    depth: Annotated[int, typer.Option(help="Layers, or blocks a stage of a resnet.")] = 2,
    seeds: Annotated[str, typer.Option(help="Seeds of the initialisation, whose means are taken.")] = "0",
) -> None:
    """Check whether activations change equally in training at every width: standard parameterisation beside μP."""
    from metascale.core.optional import require

    wanted, chosen = _whole_numbers("--widths", widths), _whole_numbers("--seeds", seeds)
    require("torch", "torch", "the coordinate check")
    from metascale.workflow.coordinates import check_coordinates

    found, written = check_coordinates(model, wanted, out_dir, steps=steps, lr=lr, depth=depth, seeds=chosen)
    slopes = {name: check.exponents() for name, check in found.checks.items()}
    give(exponents=slopes, verdict=found.verdict, written=written)
    table = Table("activation", *(f"exponent, {name}" for name in slopes))
    for layer in dict.fromkeys(layer for one in slopes.values() for layer in one):
        table.add_row(layer, *(f"{one[layer]:+.2f}" if layer in one else "-" for one in slopes.values()))
    out.print(table)
    out.print(Text(found.verdict))
    for path in written:
        out.print(Text(str(path)), soft_wrap=True)


def _whole_numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{name} needs whole numbers separated by commas, such as 64,128, not '{text}'") from error
