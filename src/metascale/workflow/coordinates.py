"""The coordinate check of μP as a program: a kind of model at several widths, standard and in μP; rows and a plot."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from metascale.core.errors import InputError
from metascale.core.files import write_json
from metascale.core.streams import torch_generator
from metascale.core.types import Batch
from metascale.models.convnet import ConvNet
from metascale.models.mup import MuP, at_width
from metascale.models.perceptron import Perceptron
from metascale.models.resnet import ResNet
from metascale.models.resnet_bk import ResNetBK
from metascale.models.transformer import Transformer
from metascale.report.coordinates import FILE, MUP, STANDARD, read_coordinates, write_plot
from metascale.training.coordinate_check import coordinate_check
from metascale.training.optimizers import Adam

N_TOKENS, N_POSITIONS, N_SEQUENCES = 64, 16, 4
N_IMAGES, IMAGE_SIZE, N_CLASSES = 16, 8, 10
HEADS = 2

MODELS: dict[str, Callable[[int, int], Any]] = {
    "mlp": lambda width, depth: Perceptron(IMAGE_SIZE**2, N_CLASSES, width, depth, task_axis=False),
    "convnet": lambda width, depth: ConvNet(N_CLASSES, IMAGE_SIZE, 1, width, depth, norm="group"),
    "resnet": lambda width, depth: ResNet(N_CLASSES, 1, width, depth),
    "transformer": lambda width, depth: Transformer(N_TOKENS, width, depth, HEADS, N_POSITIONS),
    "resnet_bk": lambda width, depth: ResNetBK(N_TOKENS, width, depth, N_POSITIONS),
}
"""Models of a width and a depth, by name."""


def check_coordinates(
    model: str,
    widths: Sequence[int],
    folder: Path | str,
    *,
    steps: int = 4,
    lr: float = 0.01,
    depth: int = 2,
    seeds: Sequence[int] = (0,),
) -> list[Path]:
    """Train ``model`` at every width for a few Adam steps on one random batch, standard and in μP; write what was seen.

    ``coordinates.json`` holds mean |activation| and mean |change since the start| of every layer after every step;
    ``coordinates.png`` draws the changes after the last step. The smallest width is the base width.

    Raises:
        InputError: an unknown model, fewer than two different widths, or a number out of range.
    """
    _refuse(model, widths, steps, lr, depth, seeds)
    base, smallest = min(widths), MODELS[model](min(widths), depth)
    batch = _batch(model)
    standard = coordinate_check(
        lambda width: at_width(smallest, width), sorted(widths), steps, batch, Adam(lr), seeds=seeds
    )
    mup = coordinate_check(
        lambda width: MuP(at_width(smallest, width), base),
        sorted(widths),
        steps,
        batch,
        Adam(lr),
        rate_multipliers=lambda scaled: scaled.rate_multipliers("adam"),
        seeds=seeds,
    )
    settings = {
        "model": model,
        "widths": sorted(widths),
        "steps": steps,
        "lr": lr,
        "depth": depth,
        "seeds": list(seeds),
    }
    rows = [
        {"parameterisation": name, **asdict(row)}
        for name, check in ((STANDARD, standard), (MUP, mup))
        for row in check.rows
    ]
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FILE, {**settings, "rows": rows})
    return [out / FILE, write_plot(read_coordinates(out), out)]


def _refuse(model: str, widths: Sequence[int], steps: int, lr: float, depth: int, seeds: Sequence[int]) -> None:
    if model not in MODELS:
        near = difflib.get_close_matches(model, MODELS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(MODELS)}"
        raise InputError(f"there is no model '{model}' to check; {hint}")
    if len(set(widths)) < 2 or len(set(widths)) < len(widths) or min(widths) < 1:
        raise InputError(f"a coordinate check compares two or more different widths above 0, not {list(widths)}")
    if model == "transformer" and any(width % (2 * HEADS) for width in widths):
        raise InputError(f"the widths of the transformer are multiples of {2 * HEADS}, not {list(widths)}")
    if steps < 1 or depth < 1 or not 0 < lr < 1e3:
        raise InputError(f"steps and depth are at least 1 and lr is above 0, not {steps}, {depth} and {lr}")
    if not seeds or min(seeds) < 0:
        raise InputError(f"seeds are one or more whole numbers of 0 or more, not {list(seeds)}")


def _batch(model: str) -> Batch:
    """Random tokens with their successors, or random images with their labels."""
    if model in ("transformer", "resnet_bk"):
        ids = torch.randint(0, N_TOKENS, (N_SEQUENCES, N_POSITIONS + 1), generator=torch_generator(0, "ids"))
        return Batch({"input_ids": ids[:, :-1]}, ids[:, 1:])
    pixels = torch.randn(N_IMAGES, 1, IMAGE_SIZE, IMAGE_SIZE, generator=torch_generator(0, "pixels"))
    return Batch({"x": pixels}, torch.arange(N_IMAGES) % N_CLASSES)
