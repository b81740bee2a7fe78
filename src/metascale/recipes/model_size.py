"""Does a language model's perplexity follow a law in its size, and does ResNet-BK scale as a Transformer does?

Command:    metascale run model-size --out runs/size          (32 models, 2 seeds: a GPU)
            metascale run model-size --quick --out runs/size  (8 models, 2 seeds)
Data:       WikiText-2, the words of a stated vocabulary (``metascale data get wikitext-2-v1``)
Varied:     width d_model, depth n_layers, and the architecture: a Transformer, or causal ResNet-BK, which has no
            attention
Beside it:  a unigram and an interpolated bigram model of the same words, counted on the same training text
Profiles:   ``laptop`` is the recorded one: its learning rates are searched on the smallest model of each architecture
            and carried to the others by μP (docs/results/model-size.md)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from metascale.core.errors import InputError
from metascale.workflow.config import Count, NonNegative, Rate, Share, TrialConfig, Weight
from metascale.workflow.recipe import Profile, Recipe


@dataclass(frozen=True)
class ModelSizeConfig(TrialConfig):
    """One trial of a study of model sizes.

    Args:
        architecture: ``"transformer"`` (pre-norm, SwiGLU) or ``"resnet_bk"`` (causal, a mixture of 4 experts).
        d_model, n_layers: width and depth.
        n_heads: of attention, the same at every width.
        positions: of the Transformer; ResNet-BK learns its positions.
        tied: the Transformer reads out with its token embedding, where ResNet-BK has a readout of its own.
        dropout: after the embeddings and on what every layer adds.
        vocabulary: words, <unk> and <eos> among them; rarer words are <unk>.
        n_train_tokens: only the first so many training tokens; none means all 2,088,628.
        evaluation_tokens: only the first so many validation and test tokens, for quick tries; none means all.
        n_sequence, batch_size: tokens a window, windows a step.
        epochs: passes over the training text.
        max_steps: steps at most, where that is less; none: as many as the epochs take.
        eval_every: steps between validations; none means an epoch.
        n_validation_batches: what training looks at; none means all. The kept model is measured on all of it.
        patience: validations without improvement after which training stops; none trains to the end.
        min_delta: an improvement lowers the best validation loss by more than this (nats).
        lr, weight_decay: of AdamW (β 0.9 and 0.95); gains and biases are not decayed.
        clip_norm: gradients are scaled down to this norm; none: never.
        schedule: ``"cosine"`` down to ``final_rate``, ``"constant"``, or ``"wsd"``, a plateau and a straight way down
            over the last fifth; each after a linear warm-up over ``warmup`` steps.
        warmup, final_rate: see ``schedule``; ``final_rate`` is a share of ``lr``.
        parameterisation: ``"mup"`` scales initialisation and rates so that the ``lr`` of ``base_width`` serves all.
        base_width: see ``parameterisation``.
        autocast: bfloat16 where that is safe.
        measure_memory: count the live bytes of one training step.
    """

    architecture: Literal["transformer", "resnet_bk"] = "transformer"
    d_model: Count = 64
    n_layers: Count = 4
    n_heads: Count = 4
    positions: Literal["rotary", "learned"] = "rotary"
    tied: bool = False
    dropout: Share = 0.0
    vocabulary: Annotated[int, Field(ge=2)] = 10_000
    n_train_tokens: Count | None = None
    evaluation_tokens: Count | None = None
    n_sequence: Count = 128
    batch_size: Count = 32
    epochs: Annotated[float, Field(gt=0, le=10_000)] = 5.0
    max_steps: Count | None = None
    eval_every: Count | None = None
    n_validation_batches: Count | None = None
    patience: Count | None = 3
    min_delta: Weight = 0.0
    lr: Rate = 1e-3
    weight_decay: Weight = 0.01
    clip_norm: Rate | None = 0.5
    schedule: Literal["cosine", "constant", "wsd"] = "cosine"
    warmup: NonNegative = 50
    final_rate: Share = 0.1
    parameterisation: Literal["standard", "mup"] = "standard"
    base_width: Count = 64
    autocast: bool = False
    measure_memory: bool = True

    def refuse(self, where: str) -> None:
        """
        Raises:
            InputError: heads that do not divide the width, or a warm-up as long as the training.
        """
        if self.architecture == "transformer" and self.d_model % (2 * self.n_heads):
            raise InputError(
                f"{where}: d_model must be a multiple of twice n_heads ({2 * self.n_heads}), not {self.d_model}"
            )
        if self.parameterisation == "mup" and self.base_width % (2 * self.n_heads):
            raise InputError(
                f"{where}: base_width must be a multiple of twice n_heads ({2 * self.n_heads}), not {self.base_width}"
            )
        if self.max_steps is not None and self.warmup >= self.max_steps:
            raise InputError(f"{where}: warmup must be below max_steps ({self.max_steps}), not {self.warmup}")


def size_of(config: Mapping[str, Any]) -> int:
    """Parameters besides embeddings and readout of a trial's model, by hand and without torch: 12·L·d² or 16·L·d².

    The size by which a search finds the smallest model of an architecture (`metascale.study.search.search.Search`).
    """
    own: dict[str, Any] = {one.name: one.default for one in fields(ModelSizeConfig)}
    own |= config
    factor = 16 if own["architecture"] == "resnet_bk" else 12
    return int(factor * own["n_layers"] * own["d_model"] ** 2)


SEARCH: Mapping[str, Any] = {
    "space": {"lr": {"log": [1e-3, 3e-2]}},
    "trials": 8,
    "startup": 4,
    "together": 2,
    "prune": {"n_before": 3, "rungs": 3},
    "strategy": "smallest",
    "size": "metascale.recipes.model_size:size_of",
    "along": ["d_model", "n_layers"],
}
QUICK: Mapping[str, list[Any]] = {
    "architecture": ["transformer", "resnet_bk"],
    "d_model": [64, 128],
    "n_layers": [4, 8],
}

RECIPE = Recipe(
    name="model_size",
    title="Language models of many widths and depths on WikiText-2: Transformers and ResNet-BK",
    question="Does loss follow a law in model size, and does ResNet-BK scale as a Transformer does?",
    config=ModelSizeConfig,
    axes={
        "architecture": ["transformer", "resnet_bk"],
        "d_model": [64, 128, 256, 512],
        "n_layers": [4, 8, 12, 16],
    },
    seeds=(42, 43),
    trial="metascale.recipes.model_size_trial:trial",
    scale_columns={"d_model": "n_params_non_embedding", "n_layers": "n_params_non_embedding"},
    profiles={
        "quick": Profile("the four smallest models of each architecture", axes=QUICK),
        "laptop": Profile(
            "quick in 1.5 CPU hours: a third of an epoch in small batches, rates searched and carried over by μP",
            {
                "batch_size": 8,
                "max_steps": 700,
                "warmup": 35,
                "eval_every": 70,
                "n_validation_batches": 16,
                "lr": 1e-2,
                "parameterisation": "mup",
                "tune": {
                    "space": {"lr": {"choice": [2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2]}},
                    "trials": 5,
                    "startup": 5,
                    "prune": {"n_before": 2, "rungs": 3},
                },
            },
            axes=QUICK,
        ),
        "large": Profile(
            "one step of a model of 101 million parameters: does it fit?",
            {
                "vocabulary": 33_278,
                "max_steps": 1,
                "warmup": 0,
                "batch_size": 4,
                "evaluation_tokens": 512,
            },
            axes={"architecture": ["resnet_bk"], "d_model": [512], "n_layers": [16]},
            seeds=(42,),
        ),
        "smoke": Profile(
            "half a minute",
            {
                "max_steps": 6,
                "warmup": 2,
                "eval_every": 3,
                "batch_size": 2,
                "n_sequence": 32,
                "vocabulary": 500,
                "evaluation_tokens": 2000,
            },
            axes={"architecture": ["transformer", "resnet_bk"], "d_model": [16, 32], "n_layers": [1, 2]},
            seeds=(42,),
        ),
    },
    data_sets=("wikitext-2-v1",),
    packages=("torch", "safetensors"),
    search=SEARCH,
    conclusion="metascale.recipes.model_size_analysis:write_sizes",
    costs="metascale.recipes.model_size_costs:costs",
)
