"""The coordinate check of μP as a program: one kind of model at several widths, standard and in μP; rows and a plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from matplotlib.axes import Axes

from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import read_json, write_atomic, write_json
from metascale.core.streams import torch_generator
from metascale.core.suggest import suggest
from metascale.core.types import Batch
from metascale.laws.picture import tip
from metascale.models.convnet import ConvNet
from metascale.models.mup import MuP, at_width
from metascale.models.perceptron import Perceptron
from metascale.models.resnet import ResNet
from metascale.models.resnet_bk import ResNetBK
from metascale.models.transformer import Transformer
from metascale.report.style import (
    INK,
    PAPER,
    finish,
    log_label,
    log_x_ticks,
    log_y_ticks,
    new_figure,
    nothing,
    pad_y,
    png_bytes,
    ramp,
    styled,
)
from metascale.report.words import measured, number
from metascale.training.coordinate_check import LOGITS, CoordinateCheck, CoordinateRow, measure_coordinates
from metascale.training.optimizers import Adam

FILE, PLOT = "coordinates.json", "coordinates.png"
STANDARD, MUP = "standard", "mup"
TITLES = {STANDARD: "Standard", MUP: "μP"}
GROWS = 0.3
"""An exponent of the width above which a change counts as growing."""
N_TOKENS, N_POSITIONS, N_SEQUENCES = 64, 16, 4
N_IMAGES, IMAGE_SIZE, N_CLASSES = 16, 8, 10
HEADS = 2

Checked: TypeAlias = Perceptron | ConvNet | ResNet | Transformer | ResNetBK
MODELS: Mapping[str, Callable[[int, int], Checked]] = {
    "mlp": lambda width, depth: Perceptron(IMAGE_SIZE**2, N_CLASSES, width, depth, task_axis=False),
    "convnet": lambda width, depth: ConvNet(N_CLASSES, IMAGE_SIZE, 1, width, depth, norm="group"),
    "resnet": lambda width, depth: ResNet(N_CLASSES, 1, width, depth),
    "transformer": lambda width, depth: Transformer(N_TOKENS, width, depth, HEADS, N_POSITIONS),
    "resnet_bk": lambda width, depth: ResNetBK(N_TOKENS, width, depth, N_POSITIONS),
}
"""Models of a width and a depth, by name."""


@dataclass(frozen=True)
class Coordinates:
    """The checks of one kind of model by parameterisation."""

    model: str
    steps: int
    checks: Mapping[str, CoordinateCheck]

    @property
    def verdict(self) -> str:
        """One sentence: whether each parameterisation keeps its changes."""
        parts = []
        for name, check in self.checks.items():
            layer, exponent = check.steepest()
            kept = "grows with" if exponent > GROWS else "does not grow with"
            parts.append(f"{TITLES[name]}: {layer} {kept} the width (exponent {measured(exponent)})")
        return "; ".join(parts) + "."


def check_coordinates(
    model: str,
    widths: Sequence[int],
    folder: Path | str,
    *,
    steps: int = 4,
    lr: float = 0.01,
    depth: int = 2,
    seeds: Sequence[int] = (0,),
) -> tuple[Coordinates, list[Path]]:
    """Train ``model`` at every width for a few Adam steps on one random batch, standard and in μP.

    Returns the checks and the files written: ``coordinates.json`` holds mean |activation| and mean |change since the
    start| of every layer after every step, ``coordinates.png`` draws the changes after the last step. The smallest
    width is the base width.

    Raises:
        InputError: an unknown model, fewer than two different widths, or a number out of range.
    """
    _refuse(model, widths, steps, lr, depth, seeds)
    base, smallest, batch = min(widths), MODELS[model](min(widths), depth), _batch(model)
    standard = measure_coordinates(
        lambda width: at_width(smallest, width), sorted(widths), steps, batch, Adam(lr), seeds=seeds
    )
    mup = measure_coordinates(
        lambda width: MuP(at_width(smallest, width), base),
        sorted(widths),
        steps,
        batch,
        Adam(lr),
        rate_multipliers=lambda scaled: scaled.rate_multipliers("adam"),
        seeds=seeds,
    )
    found = Coordinates(model, steps, {STANDARD: standard, MUP: mup})
    settings = {"model": model, "widths": sorted(widths), "steps": steps, "lr": lr, "depth": depth, "seeds": [*seeds]}
    rows = [{"parameterisation": name, **asdict(row)} for name, check in found.checks.items() for row in check.rows]
    out = Path(folder).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / FILE, {**settings, "rows": rows})
    return found, [out / FILE, write_plot(found, out)]


def _refuse(model: str, widths: Sequence[int], steps: int, lr: float, depth: int, seeds: Sequence[int]) -> None:
    if model not in MODELS:
        hint = suggest(model, MODELS, "there are")
        raise InputError(f"there is no model '{model}' to check; {hint}", field="model", value=model)
    if len(set(widths)) < 2 or len(set(widths)) < len(widths) or min(widths) < 1:
        problem = f"a coordinate check compares two or more different widths above 0, not {list(widths)}"
        raise InputError(problem, field="widths", value=widths)
    if model == "transformer" and any(width % (2 * HEADS) for width in widths):
        problem = f"the widths of the transformer are multiples of {2 * HEADS}, not {list(widths)}"
        raise InputError(problem, field="widths", value=widths)
    if steps < 1 or depth < 1 or not 0 < lr < 1e3:
        raise InputError(f"steps and depth are at least 1 and lr is above 0, not {steps}, {depth} and {lr}")
    if not seeds or min(seeds) < 0:
        problem = f"seeds are one or more whole numbers of 0 or more, not {list(seeds)}"
        raise InputError(problem, field="seeds", value=seeds)


def _batch(model: str) -> Batch:
    """Random tokens with their successors, or random images with their labels."""
    if model in ("transformer", "resnet_bk"):
        ids = torch.randint(0, N_TOKENS, (N_SEQUENCES, N_POSITIONS + 1), generator=torch_generator(0, "ids"))
        return Batch({"input_ids": ids[:, :-1]}, ids[:, 1:])
    pixels = torch.randn(N_IMAGES, 1, IMAGE_SIZE, IMAGE_SIZE, generator=torch_generator(0, "pixels"))
    return Batch({"x": pixels}, torch.arange(N_IMAGES) % N_CLASSES)


def read_coordinates(folder: Path | str) -> Coordinates:
    """The checks in ``folder``.

    Raises:
        InputError: it holds no coordinates.json.
        CorruptFile: the file is not what the check writes.
    """
    path = Path(folder) / FILE
    if not path.exists():
        raise InputError(f"{folder} holds no {FILE}; `metascale coordinate-check` writes it")
    stored = read_json(path)
    try:
        rows: dict[str, list[CoordinateRow]] = {}
        for row in stored["rows"]:
            own = {name: row[name] for name in CoordinateRow.__dataclass_fields__}
            rows.setdefault(str(row["parameterisation"]), []).append(CoordinateRow(**own))
        checks = {name: CoordinateCheck(tuple(own)) for name, own in rows.items()}
        return Coordinates(str(stored["model"]), int(stored["steps"]), checks)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{path} does not hold the rows of a coordinate check") from error


def plot_coordinates(found: Coordinates, ax: Axes, *, parameterisation: str, compact: bool = False) -> Axes:
    """Change of every activation after the last step against the width, both logarithmic; thick black: the logits."""
    check = found.checks[parameterisation]
    exponents = check.exponents()
    if not exponents:
        return nothing(ax, "No activation changed")
    layers = [name for name in exponents if name != LOGITS]
    colours = dict(zip(layers, ramp(len(layers)), strict=True)) | {LOGITS: INK}
    drawn = {name: pairs for name, pairs in check.last().items() if name in exponents}
    for name, pairs in drawn.items():
        widths, changes = (list(values) for values in zip(*pairs, strict=True))
        thick = name == LOGITS
        (line,) = ax.plot(
            widths, changes, "o-", color=colours[name], linewidth=2.4 if thick else 1.4, markersize=6 if thick else 4,
            markeredgecolor=PAPER, label=name, zorder=4 if thick else 2,
        )  # fmt: skip
        tip(line, f"{name}: exponent {measured(exponents[name])}")
    ax.set_yscale("log")
    log_x_ticks(ax, sorted({width for pairs in drawn.values() for width, _ in pairs}))
    pad_y(ax)
    log_y_ticks(ax)
    title = f"{TITLES[parameterisation]}, steepest: width^{measured(check.steepest()[1])}"
    return finish(ax, title, "width (log scale)", log_label("mean |change of activation|"), compact)


def write_plot(found: Coordinates, folder: Path) -> Path:
    """``coordinates.png``: one panel a parameterisation, on one axis of changes."""
    with styled():
        figure, axes = new_figure(8.6, 4.6, columns=len(found.checks))
        for place, (ax, name) in enumerate(zip(axes, found.checks, strict=True)):
            plot_coordinates(found, ax, parameterisation=name)
            if place:
                ax.set_ylabel("")
        handles, labels = axes[0].get_legend_handles_labels()
        axes[-1].legend(handles, labels, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=7)
        what = f"{found.model}, after {number(found.steps)} Adam steps at one rate"
        figure.supxlabel(what, x=0.012, ha="left", fontsize=8)
        data = png_bytes(figure)
    write_atomic(folder / PLOT, data)
    return folder / PLOT
