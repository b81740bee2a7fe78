"""One trial of data pruning: score every training example, keep the best, train anew on what is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from metascale.bilevel.applications import DataScorer
from metascale.bilevel.levels import Pass, from_functions, trainable
from metascale.bilevel.training import BilevelTraining
from metascale.core.errors import InputError
from metascale.core.run import MemoryRun, Run
from metascale.core.streams import generator
from metascale.core.types import Batch, Params, Split
from metascale.hypergrad.sama import SAMA
from metascale.models.perceptron import Perceptron
from metascale.recipes.data_pruning import DataPruningConfig
from metascale.tasks.supervised.image_set import ImageSet
from metascale.tasks.supervised.mnist import mnist, small_digits
from metascale.training.loop import Schedule, train
from metascale.training.optimizers import Adam
from metascale.training.supervised import SupervisedTraining, train_and_test
from metascale.workflow.recipe import load_recipe
from metascale.workflow.text import data_dir


def trial(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Score, prune, train again, test once."""
    settings: DataPruningConfig = load_recipe(config["recipe"]).validate(config)
    seed = config["seed"]
    data = images(settings, seed)
    run.write("data.json", data.describe())
    model = Perceptron(data.image_size**2, data.n_classes, settings.width, settings.depth, task_axis=False)
    n_examples = len(data.labels["train"])
    n_kept = round(settings.keep * n_examples)
    if n_kept < settings.batch_size:
        raise InputError(
            f"keep={settings.keep:g} of {n_examples} examples leaves {n_kept}, fewer than a batch of "
            f"{settings.batch_size}: keep more, or lower batch_size"
        )
    scores = SCORES[settings.method](settings, data, model, seed, device)
    # Ties (forgetting events are small integers) are broken at random, not by the order of the file.
    order = np.lexsort((generator(seed, "ties").random(len(scores)), -scores))
    kept = np.sort(order[:n_kept])
    pruned = Part(data, kept, settings.batch_size, seed)
    process = SupervisedTraining(model, pruned, Adam(settings.lr), seed=seed, measure="accuracy", device=device)
    schedule = Schedule(settings.max_steps, eval_every=settings.eval_every, patience=settings.patience)
    result = train_and_test(process, schedule, run)
    wrong = data.labels["train"] != data.true_labels
    copies = data.copy_of != np.arange(len(data.copy_of))
    return {
        **{name: value for name, value in result.test.items() if name != "test_targets"},
        **{name: value for name, value in result.validation.items() if name != "validation_targets"},
        "n_kept": int(n_kept),
        "kept_wrong_labels": float(wrong[kept].mean()),
        "kept_copies": float(copies[kept].mean()),
        "best_step": result.training.best_step,
        "steps": result.training.steps,
        "training": result.training.status,
    }


def images(settings: DataPruningConfig, seed: int) -> ImageSet:
    """The data set with its planted faults."""
    fields: dict[str, Any] = {
        "label_noise": settings.label_noise,
        "duplicates": settings.duplicates,
        "noise_seed": settings.noise_seed,
    }
    if settings.data == "mnist":
        return mnist(data_dir(), settings.n_train, settings.batch_size, seed, **fields)
    return small_digits(settings.n_train, settings.batch_size, seed, **fields)


@dataclass(frozen=True)
class Part:
    """Some of the training examples, shuffled anew every epoch; validation and test as they are."""

    data: ImageSet
    kept: np.ndarray
    n_batch: int
    seed: int

    def batch(self, step: int) -> Batch:
        places = np.arange(step * self.n_batch, (step + 1) * self.n_batch)
        epochs = places // len(self.kept)
        chosen = np.empty(self.n_batch, np.int64)
        for epoch in np.unique(epochs):
            order = generator(self.seed, "kept-examples", int(epoch)).permutation(len(self.kept))
            chosen[epochs == epoch] = order[places[epochs == epoch] % len(self.kept)]
        return self.data.examples("train", self.kept[chosen])

    def evaluation(self, split: Split, max_batches: int | None = None) -> Iterator[Batch]:
        return self.data.evaluation(split, max_batches)


Score = Callable[[DataPruningConfig, ImageSet, Perceptron, int, str], np.ndarray]


def random_scores(settings: DataPruningConfig, data: ImageSet, model: Perceptron, seed: int, device: str) -> np.ndarray:
    """Every example as good as every other."""
    return generator(seed, "random-scores").random(len(data.true_labels))


def el2n_scores(settings: DataPruningConfig, data: ImageSet, model: Perceptron, seed: int, device: str) -> np.ndarray:
    """The norm of (prediction − label) early in training, averaged over models (Paul et al. 2021): hard ones stay."""
    totals = []
    for number in range(settings.score_models):
        probabilities, labels = _predictions(model, _fitted(settings, data, model, seed, number, device), data, device)
        totals.append((probabilities - F.one_hot(labels, data.n_classes)).norm(dim=1))
    return torch.stack(totals).mean(0).cpu().numpy()


def loss_scores(settings: DataPruningConfig, data: ImageSet, model: Perceptron, seed: int, device: str) -> np.ndarray:
    """The loss after the scoring model's training: large ones stay."""
    probabilities, labels = _predictions(model, _fitted(settings, data, model, seed, 0, device), data, device)
    return F.nll_loss(probabilities.clamp_min(1e-12).log(), labels, reduction="none").cpu().numpy()


def small_loss_scores(
    settings: DataPruningConfig, data: ImageSet, model: Perceptron, seed: int, device: str
) -> np.ndarray:
    """The negative loss: small ones stay."""
    return -loss_scores(settings, data, model, seed, device)


def forgetting_scores(
    settings: DataPruningConfig, data: ImageSet, model: Perceptron, seed: int, device: str
) -> np.ndarray:
    """How often an example was right and then wrong at the next look (Toneva et al. 2019); never learnt counts most."""
    process = SupervisedTraining(model, data, Adam(settings.lr), seed=seed, measure="accuracy", device=device)
    state = process.init()
    looks = max(1, settings.score_steps // max(1, data.steps_per_epoch))
    every = max(1, settings.score_steps // max(looks, 10))
    before = torch.zeros(len(data.true_labels), dtype=torch.bool)
    ever, events = before.clone(), torch.zeros(len(before))
    for step in range(settings.score_steps):
        state, _ = process.step(state, step)
        if (step + 1) % every == 0:
            probabilities, labels = _predictions(model, state.params, data, device)
            right = (probabilities.argmax(1) == labels).cpu()
            events += (before & ~right).float()
            before, ever = right, ever | right
    return torch.where(ever, events, events.max() + 1).numpy()


def learnt_scores(settings: DataPruningConfig, data: ImageSet, model: Perceptron, seed: int, device: str) -> np.ndarray:
    """A network of loss and uncertainty, learnt by SAMA so that training on the scored data serves clean validation."""
    scorer = DataScorer(seed=seed).to(device)
    clean = list(data.evaluation("validation"))
    n_clean = sum(batch.targets.shape[0] for batch in clean)
    order = generator(seed, "validation-halves").permutation(n_clean)
    upper, selection = order[: n_clean // 2], order[n_clean // 2 :]
    size = min(settings.batch_size, len(upper))

    def upper_batch(number: int) -> Batch:
        chosen = generator(seed, "upper-batches", number).choice(len(upper), size, replace=False)
        return data.examples("validation", upper[chosen]).to(device)

    def lower_loss(theta: Params, lam: Params, batch: Batch, context: Pass) -> torch.Tensor:
        logits = model.predict(theta, batch, context.dropout)
        losses = F.cross_entropy(logits, batch.targets, reduction="none")
        loss: torch.Tensor = torch.func.functional_call(scorer, lam, (losses, _entropy(logits)))
        return loss

    def upper_loss(theta: Params, lam: Params, batch: Batch, context: Pass) -> torch.Tensor:
        return model.objective(theta, batch, None)[0]

    levels = from_functions(_on(model.init(seed), device), trainable(scorer), lower_loss, upper_loss)
    chosen = data.examples("validation", selection).to(device)
    process = BilevelTraining(
        levels,
        lambda number: data.batch(number).to(device),
        upper_batch,
        method=SAMA(),
        lower_optimizer=Adam(settings.lr),
        upper_optimizer=Adam(settings.upper_lr),
        evaluate=lambda theta, buffers, lam: {"validation_loss_nats": float(model.losses(theta, chosen).mean())},
        seed=seed,
    )
    schedule = Schedule(settings.score_steps, eval_every=max(1, settings.score_steps // 10))
    state = train(process, schedule, MemoryRun()).state
    with torch.no_grad():
        everything = data.examples("train", np.arange(len(data.true_labels))).to(device)
        logits = model.predict(state.lower, everything)
        losses = F.cross_entropy(logits, everything.targets, reduction="none")
        bound = {f"scorer.{name}": value for name, value in state.upper.items()}
        scores: torch.Tensor = torch.func.functional_call(_Scores(scorer), bound, (losses, _entropy(logits)))
    return scores.cpu().numpy()


class _Scores(torch.nn.Module):
    """The scorer, called for its scores instead of for the weighted loss."""

    def __init__(self, scorer: DataScorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(self, losses: torch.Tensor, uncertainty: torch.Tensor) -> torch.Tensor:
        return self.scorer.scores(losses, uncertainty)


SCORES: dict[str, Score] = {
    "random": random_scores,
    "el2n": el2n_scores,
    "forgetting": forgetting_scores,
    "large_loss": loss_scores,
    "small_loss": small_loss_scores,
    "learnt": learnt_scores,
}


def _fitted(
    settings: DataPruningConfig, data: ImageSet, model: Perceptron, seed: int, number: int, device: str
) -> Params:
    """A model trained on all the data for the scoring steps; ``number`` tells several apart."""
    ordered = replace(data, seed=seed * 1000 + number)
    process = SupervisedTraining(
        model, ordered, Adam(settings.lr), seed=seed * 1000 + number, measure="accuracy", device=device
    )
    state = process.init()
    for step in range(settings.score_steps):
        state, _ = process.step(state, step)
    return state.params


def _predictions(model: Perceptron, params: Params, data: ImageSet, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities [n, classes] and labels [n] of the training examples, in their order."""
    probabilities, labels = [], []
    with torch.no_grad():
        for batch in data.evaluation("train"):
            moved = batch.to(device)
            probabilities.append(model.predict(params, moved).softmax(-1))
            labels.append(moved.targets)
    return torch.cat(probabilities), torch.cat(labels)


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    """[B] entropy (nats) of the predictions."""
    log_probabilities = logits.log_softmax(-1)
    return -(log_probabilities.exp() * log_probabilities).sum(-1)


def _on(params: Params, device: str) -> Params:
    return {name: value.to(device) for name, value in params.items()}
