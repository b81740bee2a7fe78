"""When does the identity approximation break? Hypergradients of a problem whose truth is known.

Command:    metascale run hypergradient_bias --out runs/bias
Problem:    quadratic lower level, ℓ = ½ θᵀHθ − θᵀBλ, upper level ½‖θ − t‖²; a given share of the curvature is off the
            diagonal, which spans a given range. The exact hypergradient is Bᵀ H⁻¹ (θ − t).
Measured:   cosine and relative error (after the best scaling) of every solver's hypergradient after some lower steps,
            and how far the upper loss of the trained problem stays above its minimum
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from metascale.core.errors import InputError
from metascale.workflow.config import Count, Rate, TrialConfig
from metascale.workflow.recipe import Profile, Recipe


@dataclass(frozen=True)
class BiasConfig(TrialConfig):
    """One trial: one problem, one solver, one lower optimiser.

    Args:
        off_diagonal: share ρ of the curvature off its diagonal: H = S ((1 − ρ) I + ρ C) S with a random correlation
            matrix C.
        spread: largest over smallest diagonal entry of H.
        rows, columns: shape of θ; n_upper: entries of λ.
        solver: ``"identity"`` is implicit differentiation with H⁻¹ ≈ I; ``"sama"`` adapts to the lower optimiser.
        optimizer: of the lower level.
        lr: its rate.
        lower_steps: lower steps an upper step.
        upper_steps: upper steps of the training whose gap is measured.
        upper_lr: of Adam above.
    """

    off_diagonal: Annotated[float, Field(gt=0, lt=1)] = 0.2
    spread: Annotated[float, Field(ge=1, lt=1e6)] = 1.0
    rows: Count = 6
    columns: Count = 5
    n_upper: Count = 8
    solver: Literal["identity", "sama", "cg", "neumann", "unrolled"] = "sama"
    optimizer: Literal["sgd", "momentum", "adam", "rmsprop", "adagrad", "lion", "lamb", "muon"] = "adam"
    lr: Rate = 0.02
    lower_steps: Count = 5
    upper_steps: Count = 300
    upper_lr: Rate = 0.02

    def refuse(self, where: str) -> None:
        """
        Raises:
            InputError: a matrix optimiser without a matrix.
        """
        if self.optimizer == "muon" and min(self.rows, self.columns) < 2:
            raise InputError(f"{where}: optimizer 'muon' needs a matrix; rows and columns must be at least 2")


RECIPE = Recipe(
    name="hypergradient_bias",
    title="Bias of hypergradients as off-diagonal curvature grows, on a problem whose truth is known",
    question="When does the identity approximation of the curvature break?",
    config=BiasConfig,
    axes={
        "off_diagonal": [0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95],
        "solver": ["identity", "sama", "cg", "neumann", "unrolled"],
    },
    seeds=(0, 1, 2, 3, 4),
    trial="metascale.recipes.bias_trial:trial",
    loss="hypergradient_error",
    profiles={
        "optimizers": Profile(
            "SAMA with every lower optimiser, element-wise or not",
            axes={
                "off_diagonal": [0.02, 0.1, 0.4, 0.8],
                "optimizer": ["sgd", "momentum", "adam", "rmsprop", "adagrad", "lion", "lamb", "muon"],
            },
        ),
        "uneven": Profile("a diagonal of the curvature that spans a factor of thirty", {"spread": 30.0}),
        "smoke": Profile("seconds", {"upper_steps": 5}, axes={"off_diagonal": [0.1, 0.4]}, seeds=(0,)),
    },
    packages=("torch", "safetensors"),
)
