"""Can the weight of an auxiliary task be learnt? Language modelling beside classification, useful and useless.

Command:    metascale run auxiliary_tasks --out runs/auxiliary
Data:       questions of WRENCH's TREC: a few with their labels, all of them as plain text
Lower:      a small pretrained Llama that classifies, and models text beside it (causal language modelling)
Auxiliary:  the next token of the questions (useful), and of the same questions with their tokens shuffled (useless)
Upper:      one weight an auxiliary loss, learnt by SAMA on half of the clean validation set
Took:       12 trials with 160 steps: 15 minutes of a CPU
Result:     the useless task hurts, the useful one does not help, and SAMA did not learn which is which: it lowers both
            weights (docs/results/auxiliary.md)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from metascale.core.columns import IGNORED
from metascale.core.errors import InputError
from metascale.core.run import Run
from metascale.core.streams import generator
from metascale.workflow.config import Count, Rate
from metascale.workflow.recipe import Profile, Recipe, load_recipe
from metascale.workflow.text import backbone_path
from metascale.workflow.text_fine_tuning import FineTuning, FineTuningConfig, classification_loss, load_texts

if TYPE_CHECKING:
    import torch
    from torch import nn

    from metascale.bilevel.levels import BoundModule
    from metascale.bilevel.training import BilevelTraining

Method = Literal["main", "useful", "both", "learnt"]


@dataclass(frozen=True)
class AuxiliaryConfig(FineTuningConfig):
    """One trial of auxiliary-task weighting.

    Args:
        method: ``"main"`` (no auxiliary task), ``"useful"`` or ``"both"`` at the fixed ``weight``, ``"learnt"``.
        weight: of the auxiliary losses: fixed, or where learning starts.
        n_labelled: texts whose label the lower level sees.
    """

    method: Method = "learnt"
    weight: Rate = 1.0
    n_labelled: Count = 300

    @property
    def fixed_weights(self) -> tuple[float, float]:
        """Of the useful and the useless loss, in the arms that do not learn them."""
        return (
            self.weight if self.method in ("useful", "both") else 0.0,
            self.weight if self.method == "both" else 0.0,
        )

    def refuse(self, where: str) -> None:
        if self.n_labelled < self.batch_size:
            raise InputError(f"{where}: n_labelled {self.n_labelled} is less than batch_size {self.batch_size}")


RECIPE = Recipe(
    name="auxiliary_tasks",
    title="Weights of auxiliary losses: language modelling beside classification, useful and useless",
    question="Can the weight of an auxiliary task be learnt?",
    config=AuxiliaryConfig,
    defaults={
        "backbone": "data:stories260k/hf",  # a causal language model
        "max_length": 48,
        "lower_lr": 3e-4,
        "upper_lr": 1e-2,
        "max_steps": 300,
        "eval_every": 20,
        "patience": 5,
    },
    axes={"method": list(get_args(Method))},
    seeds=(0, 1, 2),
    profiles={"smoke": Profile("seconds", {"max_steps": 10, "eval_every": 5}, seeds=(0,))},
    data_sets=lambda config: (config.data,),
    packages=("torch", "safetensors", "transformers"),
)


def trial(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Train one arm and return one row of results."""
    from metascale.bilevel.applications import TaskWeights

    settings: AuxiliaryConfig = load_recipe(config["recipe"]).validate(config)
    seed = config["seed"]
    data = load_texts(settings, uncovered="random")
    run.write("data.json", {**data.describe(), "n_labelled": settings.n_labelled})
    weights = TaskWeights(2, settings.weight).to(device)
    work = FineTuning(settings, data, reader(settings, len(data.classes), seed, device), weights, seed, device)
    row = work.train_and_test(training(settings, work), run)
    useful, useless = weights.weights().tolist() if settings.method == "learnt" else settings.fixed_weights
    return {**row, "weight_useful": useful, "weight_useless": useless}


def reader(settings: AuxiliaryConfig, n_classes: int, seed: int, device: str) -> nn.Module:
    """Classifies texts and predicts their next tokens, with one backbone and its own embedding as output layer."""
    from torch import nn
    from torch.nn.functional import cross_entropy, linear

    from metascale.models.text.classifiers import TextClassifier
    from metascale.models.text.hf import load_backbone

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            backbone = load_backbone(backbone_path(settings.backbone), device=device)
            self.classifier = TextClassifier(backbone, n_classes, seed=seed)

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, next_tokens: bool = False
        ) -> torch.Tensor:
            """Logits [B, classes], or with ``next_tokens`` the mean loss (nats a token) of the texts as language."""
            if not next_tokens:
                logits: torch.Tensor = self.classifier(input_ids, attention_mask)
                return logits
            backbone: Any = self.classifier.backbone
            hidden = backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
            scores = linear(hidden[:, :-1], backbone.get_input_embeddings().weight)
            targets = input_ids[:, 1:].masked_fill(attention_mask[:, 1:] == 0, IGNORED)
            return cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)

    return Reader().to(device)


def training(settings: AuxiliaryConfig, work: FineTuning) -> BilevelTraining:
    """The arm's training."""
    import numpy as np

    noisy, learns = work.data.noisy, settings.method == "learnt"
    order = generator(settings.data_seed, "labelled").permutation(len(noisy))
    labelled = replace(noisy, targets=noisy.truth).subset(np.sort(order[: settings.n_labelled]))
    main, plain, upper = (
        work.batches(texts, min(settings.batch_size, len(texts)), name)
        for name, texts in (("labelled", labelled), ("plain", noisy), ("upper", work.data.upper))
    )

    def lower(number: int) -> dict[str, torch.Tensor]:
        read = plain(number)
        mixed = shuffled(read["input_ids"], read["attention_mask"], work.seed, number)
        return {**main(number), "plain": read["input_ids"], "plain_mask": read["attention_mask"], "shuffled": mixed}

    def loss(model: BoundModule, weights: BoundModule, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        def language_loss(name: str) -> torch.Tensor:
            value: torch.Tensor = model(batch[name], batch["plain_mask"], next_tokens=True)
            return value

        total = classification_loss(model, weights, batch)
        if learns:
            both: torch.Tensor = weights(language_loss("plain"), language_loss("shuffled"))
            return total + both
        for weight, name in zip(settings.fixed_weights, ("plain", "shuffled"), strict=True):
            if weight:
                total = total + weight * language_loss(name)
        return total

    return work.training(loss, lower, upper, learns=learns)


def shuffled(ids: torch.Tensor, mask: torch.Tensor, seed: int, number: int) -> torch.Tensor:
    """Every text's tokens in random order, the first token and the padding in their places."""
    import torch

    draws = torch.from_numpy(generator(seed, "shuffled-tokens", number).random(ids.shape)).to(ids.device)
    draws = draws.masked_fill(mask == 0, 2.0)
    draws[:, 0] = -1.0
    return ids.gather(1, draws.argsort(1))
