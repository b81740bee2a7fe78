"""Fine-tuning of a text classifier on weakly labelled texts as a bilevel problem: what such studies share.

The lower level trains the classifier. The upper level is learnt on one half of a small clean set; the other half, the
selection, chooses the step that is kept. The test set is read once, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from metascale.core.columns import TEST_LOSS
from metascale.core.run import Run
from metascale.core.types import Params
from metascale.workflow.config import Count, NonNegative, Rate, TrialConfig, Weight
from metascale.workflow.text import WORDS_LENGTH, backbone_path, sentence_features

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from metascale.bilevel.levels import BoundModule, ModuleLoss
    from metascale.bilevel.training import Batches, BilevelTraining
    from metascale.tasks.supervised.weak_labels import LabelledTexts, WeakLabelData
    from metascale.tasks.texts import TokenLists

EVAL_BATCH = 128
N_WORDS = 3000
"""Of the vocabulary where there is no language model."""


@dataclass(frozen=True)
class FineTuningConfig(TrialConfig):
    """What every trial has.

    Args:
        data: which weakly labelled set.
        backbone: a model folder or hub name; ``data:FOLDER`` is a folder of the data folder.
        max_length: tokens kept of a text.
        batch_size: texts a step.
        lower_lr, upper_lr: of AdamW below and Adam above.
        weight_decay: of the lower level.
        max_steps: upper steps at most; a trial that has no upper level takes as many lower steps.
        eval_every, patience: validation on the selection half and early stopping.
        data_seed: of vote ties and of the halves of the clean set, the same for all trials.
    """

    data: Literal["wrench_youtube", "wrench_trec", "wrench_sms"] = "wrench_trec"
    backbone: str = "sentence-transformers/all-MiniLM-L6-v2"
    max_length: Annotated[int, Field(ge=4)] = 64
    batch_size: Count = 32
    lower_lr: Rate = 5e-5
    upper_lr: Rate = 1e-3
    weight_decay: Weight = 0.01
    max_steps: Count = 600
    eval_every: Count = 50
    patience: Count | None = 6
    data_seed: NonNegative = 0


Uncovered = Literal["drop", "random"]


def load_texts(settings: FineTuningConfig, uncovered: Uncovered) -> WeakLabelData:
    """The texts of a configuration, as tokens of its backbone."""
    from metascale.models.text.hf import load_encoder
    from metascale.tasks.supervised.weak_labels import weak_label_data

    encoder = load_encoder(backbone_path(settings.backbone), settings.max_length)
    return weak_label_data(settings.data, encoder, settings.data_seed, uncovered=uncovered)


@lru_cache(maxsize=4)
def load_features(
    folder: Path, backbone: str, max_length: int, data_seed: int, uncovered: Uncovered, device: str
) -> WeakLabelData:
    """Texts as features that stay as they are: of a backbone's sentences, or counts of words where it is empty.

    ``folder`` is that of the data set. Every text's features have the Euclidean length `WORDS_LENGTH`. Trials of one
    process share them.
    """
    from metascale.models.text.hf import load_encoder
    from metascale.tasks.supervised.weak_labels import weak_label_data, weak_label_texts
    from metascale.tasks.words import WordEncoder

    name, root = folder.name, folder.parent
    if backbone:
        encoder = load_encoder(backbone, max_length)
        data = weak_label_data(name, encoder, data_seed, uncovered=uncovered, data_dir=root)
        return data.as_features(lambda tokens: WORDS_LENGTH * sentence_features(tokens, backbone, device))
    words = WordEncoder.from_texts(weak_label_texts(name, root), N_WORDS, max_length)
    data = weak_label_data(name, words, data_seed, uncovered=uncovered, data_dir=root)
    return data.as_features(lambda tokens: _words(tokens, words.n_tokens))


def _words(tokens: TokenLists, n_tokens: int) -> torch.Tensor:
    import numpy as np
    from torch.nn.functional import normalize

    from metascale.tasks.words import token_counts

    return WORDS_LENGTH * normalize(token_counts(**tokens(np.arange(len(tokens))), n_tokens=n_tokens), dim=1)


def on_features(n_features: int, n_hidden: int, n_classes: int, seed: int) -> nn.Module:
    """Logits [B, n_classes] of ``features`` [B, n_features] by one hidden layer; all zero at the start."""
    import torch
    from torch import nn

    from metascale.core.streams import torch_generator

    class OnFeatures(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = nn.Linear(n_features, n_hidden), nn.Linear(n_hidden, n_classes)
            with torch.no_grad():
                draw = torch.randn(n_hidden, n_features, generator=torch_generator(seed, "on-features"))
                self.hidden.weight.copy_(draw * (2 / n_features) ** 0.5)
                for zero in (self.hidden.bias, self.head.weight, self.head.bias):
                    zero.zero_()

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(torch.relu(self.hidden(features)))
            return logits

    return OnFeatures()


def logits_of(model: BoundModule, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """[B, classes] of a batch's texts, whatever the model reads of them."""
    logits: torch.Tensor = model(**{name: batch[name] for name in INPUTS if name in batch})
    return logits


INPUTS = ("input_ids", "attention_mask", "features")
"""Of a batch, what a model reads."""


def classification_loss(model: BoundModule, upper: BoundModule, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The mean cross-entropy of a batch, whatever the upper level is."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits_of(model, batch), batch["labels"])


@dataclass(frozen=True, eq=False)
class FineTuning:
    """The models and the texts of one trial."""

    settings: FineTuningConfig
    data: WeakLabelData
    model: nn.Module
    upper: nn.Module
    seed: int
    device: str

    def batches(self, texts: LabelledTexts, size: int, purpose: str) -> Batches:
        """Shuffled batches: ``input_ids``, ``attention_mask`` [B, S] and ``labels`` [B]."""
        from metascale.bilevel.batches import Shuffled

        order = Shuffled(range(len(texts)), size, self.seed, purpose)

        def batch(number: int) -> dict[str, torch.Tensor]:
            inputs, labels = texts.batch(order.indices(number))
            return {name: value.to(self.device) for name, value in {**inputs, "labels": labels}.items()}

        return batch

    def training(self, loss: ModuleLoss, lower: Batches, upper: Batches, *, learns: bool) -> BilevelTraining:
        """The training by SAMA on batches of both levels; without ``learns`` it never reaches its upper step."""
        from metascale.bilevel.levels import from_modules
        from metascale.bilevel.training import BilevelTraining
        from metascale.hypergrad.sama import SAMA
        from metascale.training.optimizers import Adam

        settings = self.settings
        return BilevelTraining(
            from_modules(self.model, self.upper, loss, classification_loss),
            lower,
            upper,
            method=SAMA(),
            lower_optimizer=Adam(settings.lower_lr, weight_decay=settings.weight_decay),
            upper_optimizer=Adam(settings.upper_lr),
            lower_max_norm=1.0,
            warmup=0 if learns else settings.max_steps,
            evaluate=self._validate,
            seed=self.seed,
        )

    def train_and_test(self, process: BilevelTraining, run: Run) -> dict[str, Any]:
        """Train, test the chosen state, which the modules hold afterwards, and return the trial's row.

        Losses and accuracies of the test texts go to the run's ``test_tasks``, text by text.
        """
        from metascale.bilevel.training import check
        from metascale.core.trees import n_elements
        from metascale.training.loop import Schedule, train

        if process.warmup == 0:
            check(process)
        settings = self.settings
        schedule = Schedule(settings.max_steps, eval_every=settings.eval_every, patience=settings.patience)
        result = train(process, schedule, run)
        losses, correct = self.per_text(self.data.test, result.state.lower, result.state.buffers)
        for number, (loss, right) in enumerate(zip(losses, correct, strict=True)):
            row = {"task_id": f"text-{number}", "loss_nats": float(loss), "accuracy": float(right)}
            run.append("test_tasks", {"step": result.steps, **row})
        return {
            TEST_LOSS: float(losses.mean()),
            "test_loss_sem_nats": float(losses.std(ddof=1) / len(losses) ** 0.5),
            "test_accuracy": float(correct.mean()),
            "test_accuracy_sem": float(correct.std(ddof=1) / len(correct) ** 0.5),
            **result.row(),
            "n_params_trainable": n_elements(result.state.lower),
        }

    def _validate(self, theta: Params, buffers: Params, lam: Params) -> Mapping[str, float]:
        losses, correct = self.per_text(self.data.selection, theta, buffers)
        return {"validation_loss_nats": float(losses.mean()), "validation_accuracy": float(correct.mean())}

    def per_text(self, texts: LabelledTexts, theta: Params, buffers: Params) -> tuple[np.ndarray, np.ndarray]:
        """Loss (nats) and correctness of every text, in evaluation mode."""
        import numpy as np
        import torch
        from torch.nn.functional import cross_entropy

        from metascale.bilevel.levels import BoundModule, keyed_mode

        losses, correct = [], []
        with torch.no_grad(), keyed_mode((self.model, self.upper), None, theta):
            bound = BoundModule(self.model, theta | buffers)
            for start in range(0, len(texts), EVAL_BATCH):
                inputs, labels = texts.batch(np.arange(start, min(start + EVAL_BATCH, len(texts))))
                logits = logits_of(bound, {name: value.to(self.device) for name, value in inputs.items()})
                labels = labels.to(self.device)
                losses.append(cross_entropy(logits, labels, reduction="none"))
                correct.append((logits.argmax(-1) == labels).double())
        return torch.cat(losses).double().cpu().numpy(), torch.cat(correct).cpu().numpy()
