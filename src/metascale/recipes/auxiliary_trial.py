"""One trial of auxiliary-task weighting: a language model that classifies and models text at the same time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from metascale.bilevel.applications import TaskWeights
from metascale.bilevel.batches import Shuffled
from metascale.bilevel.levels import BoundModule, from_modules
from metascale.bilevel.training import BilevelTraining, check
from metascale.core.run import Run
from metascale.core.streams import generator
from metascale.core.trees import n_elements
from metascale.hypergrad.sama import SAMA
from metascale.models.text.classifiers import TextClassifier
from metascale.models.text.hf import load_backbone, load_encoder
from metascale.recipes.auxiliary_tasks import AuxiliaryConfig
from metascale.tasks.supervised.weak_labels import LabelledTexts, WeakLabelData, weak_label_data
from metascale.training.loop import Schedule, train
from metascale.training.optimizers import Adam
from metascale.workflow.recipe import load_recipe
from metascale.workflow.text import backbone_path, data_dir
from metascale.workflow.text_tests import record_test, validation

IGNORED = -100


class Reader(nn.Module):
    """Classifies texts and predicts their next tokens, with one backbone and its own embedding as output layer."""

    def __init__(self, classifier: TextClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, next_tokens: bool = False) -> torch.Tensor:
        """Logits [B, classes], or with ``next_tokens`` the mean loss (nats a token) of the texts as language."""
        if not next_tokens:
            logits: torch.Tensor = self.classifier(input_ids, attention_mask)
            return logits
        backbone: Any = self.classifier.backbone
        hidden = backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        scores = F.linear(hidden[:, :-1], backbone.get_input_embeddings().weight)
        targets = input_ids[:, 1:].masked_fill(attention_mask[:, 1:] == 0, IGNORED)
        return F.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def trial(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Train one arm and return one row of results."""
    settings: AuxiliaryConfig = load_recipe(config["recipe"]).validate(config)
    seed = config["seed"]
    path = backbone_path(settings.backbone)
    encoder = load_encoder(path, settings.max_length)
    data = weak_label_data(settings.data, encoder, settings.data_seed, uncovered="random", data_dir=data_dir())
    run.write("data.json", {**data.describe(), "n_labelled": settings.n_labelled})
    model = Reader(TextClassifier(load_backbone(path, device=device), len(data.classes), seed=seed)).to(device)
    weights = TaskWeights(2, settings.weight).to(device)
    process = training(settings, data, model, weights, seed, device)
    if settings.method == "learnt":
        check(process)
    schedule = Schedule(settings.max_steps, eval_every=settings.eval_every, patience=settings.patience)
    result = train(process, schedule, run)
    row = record_test(model, weights, result.state, data.test, result.steps, run, device)
    with torch.no_grad():
        learnt = torch.func.functional_call(_Weights(weights), {f"inner.{k}": v for k, v in result.state.upper.items()})
    return {
        **row,
        "validation_loss_nats": result.best_validation_loss_nats,
        "best_step": result.best_step,
        "steps": result.steps,
        "training": result.status,
        "n_params_trainable": n_elements(result.state.lower),
        "weight_useful": float(learnt[0]) if settings.method == "learnt" else _fixed(settings)[0],
        "weight_useless": float(learnt[1]) if settings.method == "learnt" else _fixed(settings)[1],
    }


class _Weights(nn.Module):
    """The task weights, called for the weights themselves."""

    def __init__(self, inner: TaskWeights) -> None:
        super().__init__()
        self.inner = inner

    def forward(self) -> torch.Tensor:
        return self.inner.weights()


def _fixed(settings: AuxiliaryConfig) -> tuple[float, float]:
    """The weights of the two auxiliary losses in the arms that do not learn them."""
    useful = settings.weight if settings.method in ("useful", "both") else 0.0
    return useful, settings.weight if settings.method == "both" else 0.0


def training(
    settings: AuxiliaryConfig, data: WeakLabelData, model: Reader, weights: TaskWeights, seed: int, device: str
) -> BilevelTraining:
    """The arm's training; the arms with fixed weights never come to an upper step."""
    learns = settings.method == "learnt"
    labelled = np.sort(generator(settings.data_seed, "labelled").permutation(len(data.noisy))[: settings.n_labelled])

    def lower_batch(number: int) -> dict[str, torch.Tensor]:
        main = _batch(data.noisy, labelled[orders["labelled"].indices(number)], device, truth=True)
        plain = _batch(data.noisy, orders["plain"].indices(number), device)
        shuffled = _shuffled(plain["input_ids"], plain["attention_mask"], seed, number)
        return {**main, "plain": plain["input_ids"], "plain_mask": plain["attention_mask"], "shuffled": shuffled}

    def upper_batch(number: int) -> dict[str, torch.Tensor]:
        return _batch(data.upper, orders["upper"].indices(number), device)

    orders = {
        name: Shuffled(range(size), min(settings.batch_size, size), seed, name)
        for name, size in (("labelled", len(labelled)), ("plain", len(data.noisy)), ("upper", len(data.upper)))
    }
    fixed = _fixed(settings)

    def lower_loss(model: BoundModule, weights: BoundModule, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        loss = F.cross_entropy(model(batch["input_ids"], batch["attention_mask"]), batch["labels"])
        if learns:
            auxiliary = [model(batch[name], batch["plain_mask"], next_tokens=True) for name in ("plain", "shuffled")]
            both: torch.Tensor = weights(*auxiliary)
            return loss + both
        for weight, name in zip(fixed, ("plain", "shuffled"), strict=True):
            if weight:
                loss = loss + weight * model(batch[name], batch["plain_mask"], next_tokens=True)
        return loss

    def upper_loss(model: BoundModule, weights: BoundModule, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(model(batch["input_ids"], batch["attention_mask"]), batch["labels"])

    return BilevelTraining(
        from_modules(model, weights, lower_loss, upper_loss),
        lower_batch,
        upper_batch,
        method=SAMA(),
        lower_optimizer=Adam(settings.lower_lr, weight_decay=settings.weight_decay),
        upper_optimizer=Adam(settings.upper_lr),
        lower_max_norm=1.0,
        warmup=0 if learns else settings.max_steps,
        evaluate=validation(model, weights, data.selection, device),
        seed=seed,
    )


def _batch(texts: LabelledTexts, ids: Any, device: str, truth: bool = False) -> dict[str, torch.Tensor]:
    inputs, labels = texts.batch(ids)
    if truth:
        labels = torch.from_numpy(texts.truth[np.asarray(ids)])
    return {name: value.to(device) for name, value in {**inputs, "labels": labels}.items()}


def _shuffled(ids: torch.Tensor, mask: torch.Tensor, seed: int, number: int) -> torch.Tensor:
    """Every text's tokens in an order of chance, the first token and the padding in their places."""
    draws = torch.from_numpy(generator(seed, "shuffled-tokens", number).random(ids.shape)).to(ids.device)
    draws = draws.masked_fill(mask == 0, 2.0)
    draws[:, 0] = -1.0
    return ids.gather(1, draws.argsort(1))
