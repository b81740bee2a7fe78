"""Can the weight of an auxiliary task be learnt? Language modelling beside classification, useful and useless.

Command:    metascale run auxiliary_tasks --out runs/auxiliary
Data:       questions of WRENCH's TREC: a few with their labels, all of them as plain text
Lower:      a small pretrained Llama that classifies, and models text beside it (causal language modelling)
Auxiliary:  the next token of the questions (useful), and of the same questions with their tokens shuffled (useless)
Upper:      one weight an auxiliary loss, learnt by SAMA on half of the clean validation set
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from metascale.core.errors import InputError
from metascale.workflow.config import Count, NonNegative, Rate, TrialConfig, Weight
from metascale.workflow.recipe import Profile, Recipe


@dataclass(frozen=True)
class AuxiliaryConfig(TrialConfig):
    """One trial of auxiliary-task weighting.

    Args:
        data: the texts.
        backbone: a causal language model's folder or hub name; ``data:FOLDER`` is a folder of the data folder.
        max_length: tokens kept of a text.
        method: ``"main"`` (no auxiliary task), ``"useful"`` or ``"both"`` at the fixed ``weight``, ``"learnt"``.
        weight: of the auxiliary losses: fixed, or where learning starts.
        n_labelled: texts whose label the lower level sees.
        batch_size: texts a step, of the labelled ones, the plain ones and the upper level's.
        lower_lr, upper_lr: of AdamW below and Adam above.
        weight_decay: of the lower level.
        max_steps, eval_every, patience: training and early stopping on the selection half.
        data_seed: of the halves of the clean set and of which texts are labelled, the same for all trials.
    """

    data: Literal["wrench_trec", "wrench_youtube", "wrench_sms"] = "wrench_trec"
    backbone: str = "data:stories260k/hf"
    max_length: Annotated[int, Field(ge=4)] = 48
    method: Literal["main", "useful", "both", "learnt"] = "learnt"
    weight: Rate = 1.0
    n_labelled: Count = 300
    batch_size: Count = 32
    lower_lr: Rate = 3e-4
    upper_lr: Rate = 1e-2
    weight_decay: Weight = 0.01
    max_steps: Count = 300
    eval_every: Count = 20
    patience: Count | None = 5
    data_seed: NonNegative = 0

    def refuse(self, where: str) -> None:
        """
        Raises:
            InputError: fewer labelled texts than a batch needs.
        """
        if self.n_labelled < self.batch_size:
            raise InputError(f"{where}: n_labelled {self.n_labelled} is less than batch_size {self.batch_size}")


RECIPE = Recipe(
    name="auxiliary_tasks",
    title="Weights of auxiliary losses: language modelling beside classification, useful and useless",
    question="Can the weight of an auxiliary task be learnt?",
    config=AuxiliaryConfig,
    axes={"method": ["main", "useful", "both", "learnt"]},
    seeds=(0, 1, 2),
    trial="metascale.recipes.auxiliary_trial:trial",
    profiles={"smoke": Profile("seconds", {"max_steps": 10, "eval_every": 5}, seeds=(0,))},
    data_sets=lambda config: (config.data,),
    packages=("torch", "safetensors", "transformers"),
)
