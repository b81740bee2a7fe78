"""One trial of noisy fine-tuning: weak labels below, a small clean set above, the test set once at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from metascale.bilevel.applications import LabelCorrector, WeightNet
from metascale.bilevel.batches import Shuffled
from metascale.bilevel.levels import BoundModule, ModuleLoss, from_modules
from metascale.bilevel.training import Batches, BilevelState, BilevelTraining, check
from metascale.core.errors import InputError
from metascale.core.run import Run
from metascale.core.streams import generator
from metascale.core.trees import n_elements
from metascale.hypergrad.darts import DARTS
from metascale.hypergrad.implicit import Implicit
from metascale.hypergrad.linear import CG, Identity, Neumann
from metascale.hypergrad.problem import HypergradientSolver
from metascale.hypergrad.sama import SAMA
from metascale.hypergrad.unrolled import Unrolled
from metascale.models.text.classifiers import TextClassifier
from metascale.models.text.hf import load_backbone, load_encoder
from metascale.recipes.noisy_labels import NoisyLabelsConfig
from metascale.tasks.supervised.weak_labels import LabelledTexts, WeakLabelData, weak_label_data
from metascale.training.loop import Schedule, train
from metascale.training.optimizers import Adam
from metascale.workflow.recipe import load_recipe
from metascale.workflow.text import backbone_path, data_dir
from metascale.workflow.text_tests import per_text, record_test, validation

SUMMARY_TEXTS = 512


class Upper(nn.Module):
    """Weights of the examples, and soft labels where they are corrected; called for the lower loss of a batch."""

    def __init__(self, n_classes: int, correct: bool, seed: int) -> None:
        super().__init__()
        self.weigh = WeightNet(seed=seed)
        self.correct = LabelCorrector(n_classes, seed=seed) if correct else None

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        target = labels if self.correct is None else self.correct(logits, labels)
        loss: torch.Tensor = self.weigh(F.cross_entropy(logits, target, reduction="none"))
        return loss


def trial(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Train one arm and return one row of results."""
    settings: NoisyLabelsConfig = load_recipe(config["recipe"]).validate(config)
    seed = config["seed"]
    path = backbone_path(settings.backbone)
    data = weak_label_data(
        settings.data,
        load_encoder(path, settings.max_length),
        settings.data_seed,
        uncovered=settings.uncovered,
        data_dir=data_dir(),
    )
    run.write("data.json", data.describe())
    second_order = settings.bilevel and settings.solver not in ("sama", "sama_unadapted", "darts")
    backbone = load_backbone(path, attn_implementation="eager" if second_order else "sdpa", device=device)
    model = TextClassifier(backbone, len(data.classes), settings.train_blocks, seed=seed).to(device)
    upper = Upper(len(data.classes), settings.method == "reweight_correct", seed).to(device)
    process = training(settings, data, model, upper, seed, device)
    schedule = Schedule(
        settings.max_steps, eval_every=settings.eval_every, patience=settings.patience, checkpoint_every=10**9
    )
    result = train(process, schedule, run)
    return {
        **record_test(model, upper, result.state, data.test, result.steps, run, device),
        "validation_loss_nats": result.best_validation_loss_nats,
        "best_step": result.best_step,
        "steps": result.steps,
        "training": result.status,
        "n_params_trainable": n_elements(result.state.lower),
        **weight_summary(settings, data, model, upper, result.state, device),
    }


def training(
    settings: NoisyLabelsConfig, data: WeakLabelData, model: nn.Module, upper: nn.Module, seed: int, device: str
) -> BilevelTraining:
    """The arm's training: plain fine-tuning is a bilevel training that never comes to its upper step."""

    def plain(model: BoundModule, upper: BoundModule, batch: Any) -> torch.Tensor:
        return F.cross_entropy(logits_of(model, batch), batch["labels"])

    def weighted(model: BoundModule, upper: BoundModule, batch: Any) -> torch.Tensor:
        loss: torch.Tensor = upper(logits_of(model, batch), batch["labels"])
        return loss

    def batches(texts: LabelledTexts, size: int, purpose: str) -> Batches:
        if size > len(texts):
            raise InputError(f"a batch of {size} texts is more than the {len(texts)} of the {purpose} set")
        order = Shuffled(range(len(texts)), size, seed, purpose)
        return lambda number: to_batch(texts, order.indices(number), device)

    weak = batches(data.noisy, settings.batch_size, "noisy")
    clean = batches(data.upper, min(settings.upper_batch_size, len(data.upper)), "upper")
    lower: Batches = {"clean": clean, "both": lambda n: clean(n // 2) if n % 2 else weak(n // 2)}.get(
        settings.method, weak
    )
    loss: ModuleLoss = weighted if settings.bilevel else plain
    levels = from_modules(model, upper, loss, plain)
    process = BilevelTraining(
        levels,
        lower,
        clean,
        method=hypergradient(settings),
        lower_optimizer=Adam(settings.lower_lr, weight_decay=settings.weight_decay),
        upper_optimizer=Adam(settings.upper_lr),
        unroll_steps=settings.unroll_steps if settings.bilevel else 1,
        lower_max_norm=1.0,
        learn_upper=settings.learn_upper,
        upper_dropout=settings.upper_dropout,
        warmup=0 if settings.bilevel else settings.max_steps,
        evaluate=validation(model, upper, data.selection, device),
        seed=seed,
    )
    if settings.bilevel:
        check(process)
    return process


def hypergradient(settings: NoisyLabelsConfig) -> HypergradientSolver:
    """The solver of a configuration. Solvers of the deep net's Hessian are damped and say when they do not converge."""
    solvers: dict[str, HypergradientSolver] = {
        "sama": SAMA(alpha=settings.alpha, multitask=settings.multitask),
        "sama_unadapted": SAMA(alpha=settings.alpha, adapt=False, multitask=settings.multitask),
        "darts": DARTS(step=settings.lower_lr, alpha=settings.alpha),
        "identity": Implicit(Identity(1.0, measure=False)),
        "cg": Implicit(CG(max_iterations=5, damping=1.0, on_failure="report")),
        "neumann": Implicit(Neumann(terms=5, step=0.1, damping=1.0, on_failure="report")),
        "unrolled": Unrolled(steps=settings.unroll_steps),
    }
    return solvers[settings.solver]


def to_batch(texts: LabelledTexts, ids: Any, device: str) -> dict[str, torch.Tensor]:
    """``input_ids``, ``attention_mask`` [B, S] and ``labels`` [B] on the device."""
    inputs, labels = texts.batch(ids)
    return {name: value.to(device) for name, value in {**inputs, "labels": labels}.items()}


def logits_of(model: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """[B, classes]."""
    logits: torch.Tensor = model(batch["input_ids"], batch["attention_mask"])
    return logits


def weight_summary(
    settings: NoisyLabelsConfig,
    data: WeakLabelData,
    model: nn.Module,
    upper: nn.Module,
    state: BilevelState,
    device: str,
) -> dict[str, float]:
    """Mean weights of some rightly and some wrongly labelled texts: does the upper level know which are wrong?"""
    if not settings.bilevel:
        return {}
    chosen = generator(0, "weight-summary").permutation(len(data.noisy))[:SUMMARY_TEXTS]
    sample = data.noisy.subset(np.sort(chosen))
    losses, _ = per_text(model, upper, state.lower, state.buffers, sample, device)
    with torch.no_grad():
        weigh = upper.get_submodule("weigh")
        assert isinstance(weigh, WeightNet)
        weights = weigh.weights(torch.tensor(losses, dtype=torch.float32, device=device)).cpu().numpy()
    wrong = sample.targets != sample.truth
    return {
        "weight_of_right_labels": float(weights[~wrong].mean()),
        "weight_of_wrong_labels": float(weights[wrong].mean()) if wrong.any() else float("nan"),
    }
