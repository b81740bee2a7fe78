"""Which training examples can go? A scorer learnt by bilevel optimisation beside the usual scores.

Command:    metascale run data_pruning --out runs/pruning
Data:       scikit-learn's 8×8 digits (no download), or MNIST; a share of wrong labels and a share of copies planted
Scores:     random, EL2N, forgetting events, large loss, small loss, and a network of (loss, uncertainty) learnt by SAMA
            on half of the validation set; the other half chooses among steps
Then:       the examples with the highest scores are kept and a new model is trained on them from scratch
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from metascale.workflow.config import Count, NonNegative, Rate, Share, TrialConfig
from metascale.workflow.recipe import Profile, Recipe


@dataclass(frozen=True)
class DataPruningConfig(TrialConfig):
    """One trial of data pruning.

    Args:
        data: ``"digits"`` or ``"mnist"``.
        n_train: training examples before pruning; none means all.
        label_noise, duplicates: shares of wrong labels and of copies among them.
        method: the score; the examples with the highest one are kept.
        keep: share of the training examples that is kept.
        width, depth: of the perceptron.
        batch_size, lr: of every training here.
        score_steps: training steps of the model that the scores come from.
        score_models: models whose EL2N scores are averaged.
        upper_lr: of the learnt scorer.
        max_steps, eval_every, patience: the training on what is kept.
        noise_seed: which labels are wrong and which examples are copies, the same for all trials.
    """

    data: Literal["digits", "mnist"] = "digits"
    n_train: Count | None = None
    label_noise: Share = 0.2
    duplicates: Share = 0.2
    method: Literal["random", "el2n", "forgetting", "large_loss", "small_loss", "learnt"] = "learnt"
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    width: Count = 128
    depth: Count = 2
    batch_size: Count = 64
    lr: Rate = 1e-3
    score_steps: Count = 200
    score_models: Count = 3
    upper_lr: Rate = 3e-3
    max_steps: Count = 400
    eval_every: Count = 20
    patience: Count | None = 8
    noise_seed: NonNegative = 0


RECIPE = Recipe(
    name="data_pruning",
    title="Data pruning on digits with wrong labels and copies: a learnt scorer beside the usual scores",
    question="Which training examples can go, and does a learnt score choose better?",
    config=DataPruningConfig,
    axes={
        "keep": [0.1, 0.2, 0.4, 0.6, 0.8],
        "method": ["random", "el2n", "forgetting", "large_loss", "small_loss", "learnt"],
    },
    seeds=(0, 1, 2),
    trial="metascale.recipes.pruning_trial:trial",
    scale_columns={"keep": "n_kept"},
    profiles={
        "mnist": Profile(
            "MNIST instead, 10,000 training images", {"data": "mnist", "n_train": 10_000, "score_steps": 400}
        ),
        "clean": Profile("no wrong labels and no copies", {"label_noise": 0.0, "duplicates": 0.0}),
        "smoke": Profile("seconds", {"max_steps": 40, "score_steps": 20}, axes={"method": ["random", "learnt"]}),
    },
    data_sets=lambda config: ("mnist",) if config.data == "mnist" else (),
    packages=("torch", "safetensors", "sklearn"),
)
