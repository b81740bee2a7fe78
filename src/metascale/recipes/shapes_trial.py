"""One trial of a study of shapes: train a net of stated width, depth and ratio, stop early, test once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from metascale.core.run import Run
from metascale.models.convnet import ConvNet
from metascale.models.mup import MuP
from metascale.models.perceptron import Perceptron
from metascale.models.resnet import ResNet
from metascale.recipes.shapes import ShapesConfig
from metascale.study.search.search import PRUNE_KEY
from metascale.tasks.supervised.image_set import ImageSet
from metascale.tasks.supervised.mnist import mnist, small_digits
from metascale.training.flops import training_flops
from metascale.training.loop import Schedule, TrainResult
from metascale.training.optimizers import InPlaceAdamW
from metascale.training.state import TrainState
from metascale.training.supervised import SupervisedTraining, train_and_test
from metascale.workflow.pruning import train_or_prune
from metascale.workflow.recipe import is_search, load_recipe
from metascale.workflow.text import data_dir

MOST_IN_A_BATCH = 1000
"""Images in a batch of evaluation, at most."""


@dataclass(frozen=True)
class ShapeTraining(SupervisedTraining):
    """Supervised training that also measures the loss on training images without dropout, at every validation.

    Args:
        steps_per_epoch: of its examples.
        train_batches: evaluation batches of training images.
    """

    steps_per_epoch: int = 1
    train_batches: int = 1

    def validate(self, state: TrainState) -> Mapping[str, float]:
        validation = super().validate(state)
        train = self.evaluate(state.params, "train", self.train_batches)
        return {"epoch": state.step / self.steps_per_epoch, **validation, **train}


def trial(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Train and test one shape; a trial of a search ends with its validation loss."""
    settings: ShapesConfig = load_recipe(config["recipe"]).validate(config)
    data = images(settings, config["seed"])
    run.write("data.json", data.describe())
    process = training(settings, data, config["seed"], device)
    plan = schedule(settings, data)
    if is_search(config):
        result, pruned = train_or_prune(process, plan, run, by_step(config, data))
        return {"validation_loss_nats": result.best_validation_loss_nats, **ending(result, data), **pruned}
    tested = train_and_test(process, plan, run)
    model = net(settings, data)
    forward = model.flops(data.image_size) if isinstance(model, ResNet) else model.flops()
    seen = tested.training.steps * settings.batch_size
    train = process.evaluate(tested.training.state.params, "train", process.train_batches)
    return {
        **{name: value for name, value in tested.test.items() if name != "test_targets"},
        **{name: value for name, value in tested.validation.items() if name != "validation_targets"},
        "train_loss_nats": train["train_loss_nats"],
        "n_params_total": model.n_params(),
        "width_over_depth": settings.width / settings.depth,
        "train_flops": training_flops(forward, seen, model.n_params(), seen).exact,
        **ending(tested.training, data),
    }


def images(settings: ShapesConfig, seed: int) -> ImageSet:
    """The data set, with evaluation batches that cut out ``n_validation`` images."""
    fields: dict[str, Any] = {"n_train": settings.n_train, "n_batch": settings.batch_size, "seed": seed}
    fields["n_evaluation_batch"] = min(MOST_IN_A_BATCH, settings.n_validation or MOST_IN_A_BATCH)
    data = mnist(data_dir(), **fields) if settings.data == "mnist" else small_digits(**fields)
    if settings.shrink == 1:
        return data
    smaller = {split: shrunk(pixels, settings.shrink) for split, pixels in data.images.items()}
    return replace(data, images=smaller, details={**(data.details or {}), "shrink": settings.shrink})


def shrunk(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 [n, height, width] images with every square of ``side`` pixels a side replaced by its rounded mean."""
    n, height, width = images.shape
    squares = images.reshape(n, height // side, side, width // side, side)
    return np.rint(squares.mean((2, 4), dtype=np.float32)).astype(np.uint8)


def net(settings: ShapesConfig, data: ImageSet) -> Perceptron | ConvNet | ResNet:
    """The network of a configuration."""
    width, depth, classes = settings.width, settings.depth, data.n_classes
    if settings.architecture == "resnet":
        return ResNet(classes, 1, width, depth, settings.dropout)
    if settings.architecture == "convnet":
        return ConvNet(
            classes,
            data.image_size,
            width=width,
            depth=depth,
            norm="group",
            dropout_inner=settings.dropout_inner,
            dropout=settings.dropout,
            ratio=settings.ratio,
        )
    return Perceptron(
        data.image_size**2,
        classes,
        width,
        depth,
        dropout=settings.dropout,
        ratio=settings.ratio,
        task_axis=False,
    )


def training(settings: ShapesConfig, data: ImageSet, seed: int, device: str) -> ShapeTraining:
    """Its training, in the standard parameterisation or in μP."""
    model: Any = net(settings, data)
    multipliers = None
    if settings.parameterisation == "mup":
        model = MuP(model, settings.base_width)
        multipliers = model.rate_multipliers("adam")
    size = data.n_evaluation_batch
    return ShapeTraining(
        model,
        data,
        InPlaceAdamW(settings.lr, beta2=0.999, weight_decay=settings.weight_decay),
        rate_multipliers=multipliers,
        seed=seed,
        measure="accuracy",
        max_validation_batches=None if settings.n_validation is None else -(-settings.n_validation // size),
        device=device,
        steps_per_epoch=data.steps_per_epoch,
        train_batches=-(-settings.n_train_evaluated // size),
    )


def schedule(settings: ShapesConfig, data: ImageSet) -> Schedule:
    """Epochs as steps."""
    per_epoch = data.steps_per_epoch
    return Schedule(
        settings.max_epochs * per_epoch,
        eval_every=settings.eval_epochs * per_epoch,
        patience=settings.patience,
        min_delta=settings.min_delta,
        checkpoint_every=10**9,
        log_every=10,
    )


def by_step(config: Mapping[str, Any], data: ImageSet) -> dict[str, Any]:
    """The configuration with its thresholds by step, where the search gives them by epoch."""
    thresholds = config.get(PRUNE_KEY) or ()
    return {**config, PRUNE_KEY: [[round(epoch * data.steps_per_epoch), loss] for epoch, loss in thresholds]}


def ending(result: TrainResult[TrainState], data: ImageSet) -> dict[str, Any]:
    """How training ended."""
    return {
        "best_step": result.best_step,
        "steps": result.steps,
        "epochs": result.steps / data.steps_per_epoch,
        "training": result.status,
    }
