"""Does a learned weighting of weakly labelled texts beat training on all of them? Bilevel learning with SAMA.

Command:    metascale run noisy_labels --out runs/noisy
Data:       a WRENCH set with majority votes: YouTube comments (15 % wrong), questions (47 %), text messages (3 %)
Lower:      MiniLM with a linear layer, fine-tuned on the weak labels
Upper:      weights and label corrections of the examples, learnt on half of the small clean validation set; the other
            half chooses among steps; the test set is read once, at the end
Arms:       fine-tuning on the weak labels, on the clean half, on both; reweighting; reweighting with correction
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from metascale.core.errors import InputError
from metascale.workflow.config import Count, NonNegative, Rate, TrialConfig, Weight
from metascale.workflow.recipe import Profile, Recipe

Arm = Literal["noisy", "clean", "both", "reweight", "reweight_correct"]
Solver = Literal["sama", "sama_unadapted", "darts", "identity", "cg", "neumann", "unrolled"]
BILEVEL: tuple[Arm, ...] = ("reweight", "reweight_correct")


@dataclass(frozen=True)
class NoisyLabelsConfig(TrialConfig):
    """One trial of noisy fine-tuning.

    Args:
        data: which weakly labelled set.
        backbone: a model folder or hub name; ``data:FOLDER`` is a folder of the data folder.
        max_length: tokens kept of a text.
        train_blocks: the last Transformer blocks that are fine-tuned with the head; none means all.
        method: what the labels are used for.
        solver: how the hypergradient is estimated, for the two bilevel methods.
        multitask: leave θ where SAMA's last perturbed pass puts it, as the published runs do.
        learn_upper: move λ; false shows what SAMA's perturbation does by itself.
        unroll_steps: lower steps an upper step.
        alpha: SAMA's perturbation is alpha over the norm of its direction.
        upper_dropout: drop units in the upper pass as well, as published code does.
        batch_size, upper_batch_size: texts a step.
        lower_lr, upper_lr: of AdamW below and Adam above.
        weight_decay: of the lower level.
        max_steps: upper steps at most; a fine-tuning arm takes as many lower steps.
        eval_every, patience: validation on the selection half and early stopping.
        data_seed: of vote ties and of the halves of the clean set, the same for all trials.
        uncovered: texts without a vote are dropped or get a random label.
    """

    data: Literal["wrench_youtube", "wrench_trec", "wrench_sms"] = "wrench_trec"
    backbone: str = "sentence-transformers/all-MiniLM-L6-v2"
    max_length: Annotated[int, Field(ge=4)] = 64
    train_blocks: NonNegative | None = None
    method: Arm = "reweight"
    solver: Solver = "sama"
    multitask: bool = False
    learn_upper: bool = True
    unroll_steps: Count = 1
    alpha: Rate = 0.01
    upper_dropout: bool = True
    batch_size: Count = 32
    upper_batch_size: Count = 32
    lower_lr: Rate = 5e-5
    upper_lr: Rate = 1e-3
    weight_decay: Weight = 0.01
    max_steps: Count = 600
    eval_every: Count = 50
    patience: Count | None = 6
    data_seed: NonNegative = 0
    uncovered: Literal["drop", "random"] = "drop"

    @property
    def bilevel(self) -> bool:
        return self.method in BILEVEL

    def refuse(self, where: str) -> None:
        """
        Raises:
            InputError: options of SAMA with another solver, or of the upper level without one.
        """
        if self.solver not in ("sama", "sama_unadapted") and self.multitask:
            raise InputError(f"{where}: multitask is an option of solver=sama, not of '{self.solver}'")
        if not self.bilevel and (self.multitask or not self.learn_upper or self.solver != "sama"):
            raise InputError(
                f"{where}: method '{self.method}' has no upper level; solver, multitask and learn_upper go with "
                f"{' and '.join(BILEVEL)}"
            )


LAPTOP: Mapping[str, Any] = {"train_blocks": 2, "max_steps": 300, "eval_every": 30, "lower_lr": 1e-4, "max_length": 48}

RECIPE = Recipe(
    name="noisy_labels",
    title="Fine-tuning on weak labels: reweighting and correction by SAMA beside plain fine-tuning",
    question="Does a learned weighting of weakly labelled texts beat training on all of them?",
    config=NoisyLabelsConfig,
    axes={"method": ["noisy", "clean", "both", "reweight", "reweight_correct"]},
    seeds=(0, 1, 2),
    trial="metascale.recipes.noisy_trial:trial",
    profiles={
        "laptop": Profile("the last two blocks alone and fewer steps, for a CPU", LAPTOP),
        "solvers": Profile(
            "the same problem by every hypergradient",
            {**LAPTOP, "method": "reweight"},
            axes={"solver": ["sama", "sama_unadapted", "darts", "identity", "cg", "neumann", "unrolled"]},
        ),
        "ablation": Profile(
            "what the perturbation does by itself: θ restored or kept, λ learnt or frozen",
            {**LAPTOP, "method": "reweight"},
            axes={"multitask": [False, True], "learn_upper": [True, False]},
        ),
    },
    data_sets=lambda config: (config.data,),
    packages=("torch", "safetensors", "transformers"),
)
