"""Validation and the one look at the test set of studies that fine-tune a text classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from metascale.bilevel.levels import BoundModule, keyed_mode
from metascale.bilevel.training import BilevelState
from metascale.core.run import Run
from metascale.core.types import Params
from metascale.tasks.supervised.weak_labels import LabelledTexts

EVAL_BATCH = 128


def validation(
    model: nn.Module, upper: nn.Module, texts: LabelledTexts, device: str
) -> Callable[[Params, Params, Params], Mapping[str, float]]:
    """Loss and accuracy on all of a clean set, in evaluation mode."""

    def evaluate(theta: Params, buffers: Params, lam: Params) -> Mapping[str, float]:
        losses, correct = per_text(model, upper, theta, buffers, texts, device)
        return {"validation_loss_nats": float(losses.mean()), "validation_accuracy": float(correct.mean())}

    return evaluate


def record_test(
    model: nn.Module, upper: nn.Module, state: BilevelState, texts: LabelledTexts, step: int, run: Run, device: str
) -> dict[str, float]:
    """Loss and accuracy of the test texts, text by text in the run's records, and their means with standard errors."""
    losses, correct = per_text(model, upper, state.lower, state.buffers, texts, device)
    for number, (loss, right) in enumerate(zip(losses, correct, strict=True)):
        row = {"step": step, "task_id": f"text-{number}", "loss_nats": float(loss), "accuracy": float(right)}
        run.append("test_tasks", row)
    return {
        "test_loss_nats": float(losses.mean()),
        "test_loss_sem_nats": float(losses.std(ddof=1) / len(losses) ** 0.5),
        "test_accuracy": float(correct.mean()),
        "test_accuracy_sem": float(correct.std(ddof=1) / len(correct) ** 0.5),
    }


def per_text(
    model: nn.Module, upper: nn.Module, theta: Params, buffers: Params, texts: LabelledTexts, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """Loss (nats) and correctness of every text, in evaluation mode."""
    losses, correct = [], []
    with torch.no_grad(), keyed_mode((model, upper), None, theta):
        bound = BoundModule(model, theta | buffers)
        for start in range(0, len(texts), EVAL_BATCH):
            inputs, labels = texts.batch(np.arange(start, min(start + EVAL_BATCH, len(texts))))
            logits = bound(*(inputs[name].to(device) for name in ("input_ids", "attention_mask")))
            labels = labels.to(device)
            losses.append(F.cross_entropy(logits, labels, reduction="none"))
            correct.append((logits.argmax(-1) == labels).double())
    return torch.cat(losses).double().cpu().numpy(), torch.cat(correct).cpu().numpy()
