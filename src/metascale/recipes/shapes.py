"""How good can a net of a given size be, and does it matter whether it is wide, deep or tapered?

Command:    metascale run shapes --out runs/shapes
Data:       scikit-learn's 8×8 digits (no download), or MNIST (profiles mnist and mnist_convnet)
Varied:     width of the first layer, depth, and ratio, the width of the last layer over that of the first
Tuned:      learning rate, dropout, weight decay and batch size, at every shape (``tune`` has other strategies)
Then:       every shape is trained with three seeds until validation stops improving; the law of the test loss in the
            number of parameters is fitted to the smaller shapes and asked for the larger ones
Took:       --profile mnist 12 minutes of a third of a core, mnist_convnet 29
Result:     the wide intervals of the smaller nets' laws hold all larger ones; at equal size no effect of width or depth
            is seen (docs/results/shapes.md)
The seven steps of such a study, with results, are in docs/recipe.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from metascale.core.errors import InputError
from metascale.core.run import Run
from metascale.models.widths import layer_widths
from metascale.study.design import Study, merge
from metascale.study.search.search import PRUNE_KEY, axis_points, search_of, searched_points
from metascale.workflow.config import Count, Rate, Share, TrialConfig, Weight
from metascale.workflow.recipe import Profile, Recipe, is_search, load_recipe

if TYPE_CHECKING:
    from metascale.models.convnet import ConvNet
    from metascale.models.perceptron import Perceptron
    from metascale.models.resnet import ResNet
    from metascale.tasks.supervised.images import ImageSet
    from metascale.training.loop import Schedule
    from metascale.training.state import TrainState
    from metascale.training.supervised import SupervisedTraining
    from metascale.workflow.estimate import Trainings

Ratio = Annotated[float, Field(gt=0, le=64)]
RESNET_RATIO = 4.0
IMAGE_SIZES = {"digits": 8, "mnist": 28}
N_CLASSES = 10
FREE = frozenset(
    {"lr", "weight_decay", "dropout", "max_epochs", "eval_epochs", "patience", "min_delta"}
    | {"n_validation", "n_train_evaluated"}
)
"""Keys in which perceptrons of a stack may differ, besides their seeds."""
STACKED_BATCH = 16
"""Batches of other than multiples of it are not joined (`metascale.parallel.trainings.MULTIPLE`, which needs torch)."""
EVALUATION_BATCH = 1000
"""Images in a batch of evaluation, at most."""


@dataclass(frozen=True)
class ShapesConfig(TrialConfig):
    """One trial of a study of shapes.

    Args:
        data: ``"digits"`` or ``"mnist"``.
        n_train: training images; none means all (1,078 digits, 50,000 of MNIST).
        shrink: side of the squares of pixels that are averaged into one: 2 makes 14×14 images of MNIST's 28×28.
        architecture: ``"mlp"``, ``"convnet"`` or ``"resnet"`` (6·depth+2 layers).
        width: units or channels of the first layer.
        depth: hidden layers or convolutions; residual blocks a stage of a resnet.
        ratio: width of the last layer over that of the first, those between on a logarithmic line; 4 in a resnet.
        dropout: after every hidden layer of an mlp, before the head of the others.
        dropout_inner: of a convnet, after the pooling in its middle.
        lr, weight_decay, batch_size: of AdamW.
        parameterisation: ``"mup"`` scales initialisation and rates so that the ``lr`` of ``base_width`` serves all.
        base_width: see ``parameterisation``; the width that a search with strategy ``smallest`` visits.
        max_epochs: passes over the training images, at most.
        eval_epochs: passes between validations.
        patience: validations without improvement after which training stops; none trains to the end.
        min_delta: an improvement lowers the best validation loss by more than this (nats).
        n_validation: validation images evaluated during training; none means all. The kept state is evaluated on all.
        n_train_evaluated: training images on which the loss without dropout is measured beside validation.
    """

    data: Literal["digits", "mnist"] = "digits"
    n_train: Count | None = None
    shrink: Literal[1, 2, 4] = 1
    architecture: Literal["mlp", "convnet", "resnet"] = "mlp"
    width: Count = 16
    depth: Count = 2
    ratio: Ratio = 1.0
    dropout: Share = 0.1
    dropout_inner: Share = 0.0
    lr: Rate = 3e-3
    weight_decay: Weight = 1e-3
    batch_size: Count = 64
    parameterisation: Literal["standard", "mup"] = "standard"
    base_width: Count = 4
    max_epochs: Count = 120
    eval_epochs: Count = 2
    patience: Count | None = 5
    min_delta: Weight = 1e-3
    n_validation: Count | None = None
    n_train_evaluated: Count = 1000

    def refuse(self, where: str) -> None:
        if self.architecture == "resnet":
            if self.ratio != RESNET_RATIO:
                raise InputError(f"{where}: the stages of a resnet are w, 2w and 4w wide: ratio is 4, not {self.ratio}")
        else:
            layer_widths(self.width, self.depth, self.ratio)
        if self.dropout_inner and self.architecture != "convnet":
            raise InputError(f"{where}: dropout_inner belongs to architecture=convnet, not {self.architecture}")

    def stack_kind(self) -> Mapping[str, object] | None:
        joins = self.architecture == "mlp" and self.batch_size % STACKED_BATCH == 0
        return self.without(FREE) if joins else None


SEARCH: Mapping[str, Any] = {
    "space": {
        "lr": {"log": [3e-4, 1e-1]},
        "weight_decay": {"log": [1e-5, 1.0]},
        "dropout": {"uniform": [0.0, 0.5]},
        "batch_size": {"choice": [32, 64, 128]},
    },
    "trials": 10,
    "startup": 4,
    "together": 2,
    "prune": {"by": "epoch", "n_before": 3, "rungs": 3},
}
MUP: Mapping[str, Any] = {"parameterisation": "mup", "tune": {"strategy": "smallest", "size": "width"}}
RULE: Mapping[str, Any] = {
    "tune": {
        "strategy": "rule",
        "size": "metascale.recipes.shapes:n_params",
        "along": ["width", "depth", "ratio"],
        "rule_points": 3,
    }
}
MNIST = {
    "data": "mnist", "n_train": 5_000, "shrink": 2, "n_validation": 2_000, "max_epochs": 30, "eval_epochs": 1,
    "patience": 3, "ratio": 1.0,
}  # fmt: skip


def at_every_shape(lr: list[float], dropout: float) -> Mapping[str, Any]:
    """A search at every shape: its rates between two ends, dropout up to a share, and of weight decay all that acts."""
    space = {"lr": {"log": lr}, "weight_decay": {"log": [1e-5, 1.0]}, "dropout": {"uniform": [0.0, dropout]}}
    return {"strategy": "each", "trials": 8, "space": space}


RECIPE = Recipe(
    name="shapes",
    title="Networks of many shapes on digits or MNIST: width, depth and ratio, tuned; the law checked on larger ones",
    question="Does the loss of tuned networks follow a law in their parameters, whatever their shape?",
    config=ShapesConfig,
    axes={"architecture": ["mlp", "convnet"], "width": [4, 8, 16, 32], "depth": [2, 3], "ratio": [0.5, 1.0, 2.0]},
    seeds=(0, 1, 2),
    scale_columns={"width": "n_params_total", "depth": "n_params_total", "ratio": "n_params_total"},
    profiles={
        "mup": Profile("rates found at the narrowest nets and carried over by μP", MUP),
        "rule": Profile("hyperparameters found at three sizes and extended by a rule of the parameters", RULE),
        "mnist": Profile(
            "perceptrons on 5,000 images of MNIST, shrunk to 14×14, tuned at every shape",
            {**MNIST, "architecture": "mlp", "tune": at_every_shape([3e-4, 3e-2], 0.5)},
            axes={"width": [4, 8, 16, 32, 64, 128], "depth": [2, 3]},
        ),
        "mnist_convnet": Profile(
            "convolutional nets on the same images, tuned in the same way",
            {**MNIST, "architecture": "convnet", "lr": 2e-2, "tune": at_every_shape([2e-3, 1e-1], 0.3)},
            axes={"width": [2, 3, 4, 6, 8, 16], "depth": [2, 3]},
        ),
        "resnet": Profile(
            "residual networks on digits",
            {"architecture": "resnet", "ratio": RESNET_RATIO, "max_epochs": 40},
            axes={"width": [2, 4, 8], "depth": [1, 2]},
        ),
        "smoke": Profile(
            "seconds",
            {"max_epochs": 4, "tune": {"trials": 2}},
            axes={"architecture": ["mlp"], "width": [4, 8, 16, 32], "depth": [2], "ratio": [1.0]},
            seeds=(0, 1),
        ),
    },
    data_sets=lambda config: ("mnist",) if config.data == "mnist" else (),
    packages=("torch", "safetensors", "sklearn"),
    preload=("sklearn.datasets", "metascale.training.flops", "metascale.parallel.trainings", "safetensors.torch"),
    search=SEARCH,
    tuned=True,
)


def trial(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Train one shape, stop early, test once; a trial of a search ends with its validation loss."""
    from metascale.models.resnet import ResNet
    from metascale.training.flops import training_flops
    from metascale.training.loop import train_or_prune
    from metascale.training.supervised import train_and_test

    settings: ShapesConfig = load_recipe(config["recipe"]).validate(config)
    data = images(settings, config["seed"])
    run.write("data.json", data.describe())
    process = training(settings, data, config["seed"], device)
    plan = schedule(settings, data)
    if is_search(config):
        # A search gives its thresholds by epoch: trials of different batch sizes have seen as many examples.
        thresholds = [(round(epoch * data.steps_per_epoch), loss) for epoch, loss in config.get(PRUNE_KEY) or ()]
        searched = train_or_prune(process, plan, run, thresholds)
        return {**searched.row(), "epochs": searched.steps / data.steps_per_epoch}
    tested = train_and_test(process, plan, run)
    model, steps = net(settings, data), tested.training.steps
    n_train_batches = -(-settings.n_train_evaluated // data.n_evaluation_batch)
    forward = model.flops(data.image_size) if isinstance(model, ResNet) else model.flops()
    seen = steps * settings.batch_size
    return {
        **tested.row(),
        "train_loss_nats": process.evaluate(tested.training.state.params, "train", n_train_batches)["train_loss_nats"],
        "n_params_total": model.n_params(),
        "width_over_depth": settings.width / settings.depth,
        "train_flops": training_flops(forward, seen, model.n_params(), seen).exact,
        "epochs": steps / data.steps_per_epoch,
    }


def together(runs: Sequence[Callable[[], None]]) -> None:
    """Run trials beside each other, joining their steps (`metascale.parallel.stacked`)."""
    from metascale.parallel.stacked import run_together

    run_together(runs)


def check(settings: ShapesConfig) -> None:
    """Refuse more images than there are, a batch larger than the data, and a net too deep for its images."""
    net(settings, thinned(settings))


def images(settings: ShapesConfig, seed: int) -> ImageSet:
    """The data set, with evaluation batches that cut out ``n_validation`` images."""
    return _images(settings.data, settings.n_train, settings.shrink, settings.batch_size, settings.n_validation, seed)


@lru_cache(maxsize=1)  # trials that run together on the same images share them
def _images(name: str, n_train: int | None, side: int, n_batch: int, n_validation: int | None, seed: int) -> ImageSet:
    data = _unshrunk(name, n_train, n_batch, n_validation, seed)
    if side == 1:
        return data
    smaller = {split: shrunk(pixels, side) for split, pixels in data.images.items()}
    return replace(data, images=smaller, details={**(data.details or {}), "shrink": side})


def thinned(settings: ShapesConfig) -> ImageSet:
    """The data set at its size after shrinking, with some of the pixels instead of means: for its numbers alone."""
    data = _unshrunk(settings.data, settings.n_train, settings.batch_size, settings.n_validation, 0)
    side = settings.shrink
    return replace(data, images={split: pixels[:, ::side, ::side] for split, pixels in data.images.items()})


def _unshrunk(name: str, n_train: int | None, n_batch: int, n_validation: int | None, seed: int) -> ImageSet:
    """The images at their full size."""
    from metascale.tasks.supervised.images import mnist, small_digits

    fields: dict[str, Any] = {"n_train": n_train, "n_batch": n_batch, "seed": seed}
    fields["n_evaluation_batch"] = min(EVALUATION_BATCH, n_validation or EVALUATION_BATCH)
    return mnist(None, **fields) if name == "mnist" else small_digits(**fields)


def shrunk(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 [n, height, width] images with every square of ``side`` pixels a side replaced by its rounded mean."""
    n, height, width = images.shape
    squares = images.reshape(n, height // side, side, width // side, side)
    means: np.ndarray = np.rint(squares.mean((2, 4), dtype=np.float32))
    return means.astype(np.uint8)


def net(settings: ShapesConfig, data: ImageSet) -> Perceptron | ConvNet | ResNet:
    """The network of a configuration."""
    from metascale.models.convnet import ConvNet
    from metascale.models.perceptron import Perceptron
    from metascale.models.resnet import ResNet

    size, classes = data.image_size, data.n_classes
    shape: dict[str, Any] = {name: getattr(settings, name) for name in ("width", "depth", "ratio", "dropout")}
    if settings.architecture == "resnet":
        return ResNet(classes, 1, settings.width, settings.depth, settings.dropout)
    if settings.architecture == "convnet":
        return ConvNet(classes, size, norm="group", dropout_inner=settings.dropout_inner, **shape)
    return Perceptron(size**2, classes, task_axis=False, **shape)


def training(settings: ShapesConfig, data: ImageSet, seed: int, device: str) -> SupervisedTraining:
    """Its training, which also measures the loss on training images without dropout at every validation."""
    from metascale.models.mup import parameterised
    from metascale.parallel.trainings import JoinedTraining
    from metascale.training.optimizers import InPlaceAdamW

    class ShapeTraining(JoinedTraining):
        def validate(self, state: TrainState) -> Mapping[str, float]:
            train = self.evaluate(state.params, "train", -(-settings.n_train_evaluated // size))
            return {"epoch": state.step / data.steps_per_epoch, **super().validate(state), **train}

    size = data.n_evaluation_batch
    model, multipliers = parameterised(net(settings, data), settings.parameterisation, settings.base_width)
    return ShapeTraining(
        model,
        data,
        InPlaceAdamW(settings.lr, beta2=0.999, weight_decay=settings.weight_decay),
        rate_multipliers=multipliers,
        seed=seed,
        measure="accuracy",
        max_validation_batches=None if settings.n_validation is None else -(-settings.n_validation // size),
        device=device,
    )


def schedule(settings: ShapesConfig, data: ImageSet) -> Schedule:
    """Epochs as steps."""
    from metascale.training.loop import Schedule

    return Schedule(
        settings.max_epochs * data.steps_per_epoch,
        eval_every=settings.eval_epochs * data.steps_per_epoch,
        patience=settings.patience,
        min_delta=settings.min_delta,
        checkpoint_every=10**9,
        log_every=10,
    )


def n_params(config: Mapping[str, Any]) -> int:
    """Parameters of the net of a trial's configuration, by hand and without torch: the size that rates follow."""
    own = {**asdict(ShapesConfig()), **config}
    width, depth = int(own["width"]), int(own["depth"])
    if own["architecture"] == "resnet":
        total, n_in = 9 * width + 2 * width, width
        for n_out in (width, 2 * width, 4 * width):
            products = n_in * n_out + (2 * depth - 1) * n_out**2
            total, n_in = total + 9 * products + 2 * depth * 2 * n_out, n_out
        return total + n_in * N_CLASSES + N_CLASSES
    widths = layer_widths(width, depth, own["ratio"])
    convolutional = own["architecture"] == "convnet"
    ends = (1 if convolutional else (IMAGE_SIZES[own["data"]] // own["shrink"]) ** 2, *widths)
    weights = sum(n_in * n_out for n_in, n_out in itertools.pairwise(ends))
    layers = 9 * weights + 2 * sum(widths) if convolutional else weights + sum(widths)
    return layers + widths[-1] * N_CLASSES + N_CLASSES


def costs(study: Study) -> tuple[str, list[str], list[list[str]]]:
    """What a study of shapes will run, for a dry run: trials of the grid and of the searches, sizes, time and disk."""
    from metascale.workflow.estimate import time_and_disk

    points = axis_points(study)
    sizes = sorted(n_params(merge(study.base, point)) for point in points)
    search = search_of(study)
    rows = [
        ["shapes", str(len(points))],
        ["parameters", f"{sizes[0]:,} to {sizes[-1]:,}"],
        ["trials of the grid", f"{len(study.trials())} ({len(study.seeds)} seeds)"],
    ]
    if search is not None:
        n_points = len(searched_points(study, search))
        rows.append(["trials of the searches", f"{search.trials * n_points}, {search.trials} at {n_points} shapes"])
    time, disk = time_and_disk(trainings(study))
    return "shapes (dry run)", ["", ""], [*rows, ["time", time], ["disk", disk]]


def trainings(study: Study) -> list[Trainings]:
    """What the trials of a study compute at most, by configuration."""
    from metascale.models.resnet import ResNet
    from metascale.training.flops import training_flops
    from metascale.workflow.estimate import Trainings

    def prepare(settings: ShapesConfig) -> Callable[[], object]:
        process = training(settings, images(settings, 0), 0, "cpu")
        state = process.init()
        return lambda: process.step(state, 0)

    found = []
    for settings, count in load_recipe(study.base["recipe"]).counts(study).items():
        data = thinned(settings)
        model = net(settings, data)
        forward = model.flops(data.image_size) if isinstance(model, ResNet) else model.flops()
        batch, epochs = settings.batch_size, settings.max_epochs
        n_validation = settings.n_validation or data.n_examples("validation")
        evaluated = (n_validation + settings.n_train_evaluated) * (epochs // settings.eval_epochs + 1)
        evaluated += data.n_examples("validation") + data.n_examples("test")
        found.append(
            Trainings(
                kind=settings.architecture,
                n_trials=count,
                # An evaluation is a forward pass, a third of a step's operations.
                n_steps=epochs * data.steps_per_epoch + evaluated / (3 * batch),
                step_flops=training_flops(forward, batch, model.n_params(), batch).exact,
                n_params=model.n_params(),
                prepare=partial(prepare, settings),
            )
        )
    return found
