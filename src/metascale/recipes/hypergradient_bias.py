"""When does the identity approximation break? Hypergradients of a problem whose truth is known.

Command:    metascale run hypergradient_bias --out runs/bias
Problem:    quadratic lower level, ℓ = ½ θᵀHθ − θᵀBλ, upper level ½‖θ − t‖²; a given share of the curvature is off the
            diagonal, which spans a given range. The exact hypergradient is Bᵀ H⁻¹ (θ − t).
Measured:   cosine and relative error (after the best scaling) of every solver's hypergradient after some lower steps,
            and how far the upper loss of the trained problem stays above its minimum
Took:       200 trials; the 120 of three seeds 6.4 minutes of one CPU core
Result:     the identity keeps a cosine above 0.95 until 40 % of the curvature is off an even diagonal, and falls to
            0.63 at 95 %; five Neumann terms move that threshold to 80 % (docs/results/hypergradient-bias.md)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field

from metascale.core.errors import InputError
from metascale.core.run import Run
from metascale.core.streams import torch_generator
from metascale.core.types import Params
from metascale.workflow.config import Count, Rate, TrialConfig
from metascale.workflow.recipe import Profile, Recipe, load_recipe

if TYPE_CHECKING:
    import torch

    from metascale.hypergrad.problem import BilevelProblem, Hypergradient, HypergradientSolver
    from metascale.training.optimizers import Optimizer

LowerOptimizer = Literal["sgd", "momentum", "adam", "rmsprop", "adagrad", "lion", "lamb", "muon"]
Solver = Literal["identity", "sama", "cg", "neumann", "unrolled"]
NEUMANN_STEP = 0.3
"""For a largest diagonal entry of one: the largest eigenvalue is a few times the largest diagonal entry."""
ROUNDING = 1e-8
"""Relative errors below this are rounding."""


@dataclass(frozen=True)
class BiasConfig(TrialConfig):
    """One trial: one problem, one solver, one lower optimiser.

    Args:
        off_diagonal: share ρ of the curvature off its diagonal: H = S ((1 − ρ) I + ρ C) S with a random correlation
            matrix C.
        spread: largest over smallest diagonal entry of H.
        rows, columns: shape of θ.
        n_upper: entries of λ.
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
    solver: Solver = "sama"
    optimizer: LowerOptimizer = "adam"
    lr: Rate = 0.02
    lower_steps: Count = 5
    upper_steps: Count = 300
    upper_lr: Rate = 0.02

    def refuse(self, where: str) -> None:
        if self.optimizer == "muon" and min(self.rows, self.columns) < 2:
            raise InputError(f"{where}: optimizer 'muon' needs a matrix; rows and columns must be at least 2")


RECIPE = Recipe(
    name="hypergradient_bias",
    title="Bias of hypergradients as off-diagonal curvature grows, on a problem whose truth is known",
    question="When does the identity approximation of the curvature break?",
    config=BiasConfig,
    axes={"off_diagonal": [0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95], "solver": list(get_args(Solver))},
    seeds=(0, 1, 2, 3, 4),
    loss="hypergradient_error",
    profiles={
        "optimizers": Profile(
            "SAMA with every lower optimiser, element-wise or not",
            axes={"off_diagonal": [0.02, 0.1, 0.4, 0.8], "optimizer": list(get_args(LowerOptimizer))},
        ),
        "uneven": Profile("a diagonal of the curvature that spans a factor of thirty", {"spread": 30.0}),
        "smoke": Profile(
            "seconds: the identity's error grows with the share off the diagonal",
            {"upper_steps": 5, "solver": "identity"},
            axes={"off_diagonal": [0.05, 0.1, 0.2, 0.4, 0.8]},
            seeds=(0,),
        ),
    },
    packages=("torch", "safetensors"),
)


@dataclass(frozen=True, eq=False)
class Quadratic:
    """ℓ = ½ θᵀHθ − θᵀBλ and M = ½‖θ − t‖²; θ is a matrix whose rows, one after the other, are the vector."""

    curvature: torch.Tensor
    coupling: torch.Tensor
    target: torch.Tensor
    shape: tuple[int, int]

    @staticmethod
    def draw(settings: BiasConfig, seed: int) -> Quadratic:
        """A random problem: Hessian S ((1 − ρ) I + ρ C) S with diagonal S² spanning ``spread`` evenly in logarithms."""
        import torch

        n, m = settings.rows * settings.columns, settings.n_upper
        factor = normal(seed, "correlation", n, n)
        covariance = factor @ factor.T
        scale = covariance.diagonal().rsqrt()
        correlation = scale[:, None] * covariance * scale
        mixed = (1 - settings.off_diagonal) * torch.eye(n, dtype=torch.float64) + settings.off_diagonal * correlation
        order = torch.randperm(n, generator=torch_generator(seed, "curvature-order"))
        sizes = (settings.spread ** torch.linspace(-0.5, 0.5, n, dtype=torch.float64))[order].sqrt()
        curvature = sizes[:, None] * mixed * sizes
        shape = (settings.rows, settings.columns)
        return Quadratic(curvature, normal(seed, "coupling", n, m), normal(seed, "target", n), shape)

    def lower_loss(self, theta: Params, lam: Params) -> torch.Tensor:
        x = theta["w"].flatten()
        return 0.5 * x @ self.curvature @ x - x @ (self.coupling @ lam["lam"])

    def upper_loss(self, theta: Params, lam: Params) -> torch.Tensor:
        return 0.5 * ((theta["w"].flatten() - self.target) ** 2).sum()

    def exact(self, theta: Params) -> torch.Tensor:
        """dM/dλ by implicit differentiation at θ, solved directly."""
        import torch

        solved: torch.Tensor = torch.linalg.solve(self.curvature, theta["w"].flatten() - self.target)
        return self.coupling.T @ solved

    def gap(self, lam: Params) -> float:
        """How far M at the lower minimum of λ lies above its minimum over λ."""
        import torch

        reach = torch.linalg.solve(self.curvature, self.coupling)
        best = torch.linalg.lstsq(reach, self.target[:, None]).solution[:, 0]

        def value(at: torch.Tensor) -> float:
            return float(0.5 * ((reach @ at - self.target) ** 2).sum())

        return value(lam["lam"]) - value(best)


class ComparedSolver:
    """A solver whose every answer is compared with the exact one; ``last`` is (cosine, relative error)."""

    def __init__(self, solver: HypergradientSolver, problem: Quadratic) -> None:
        self.solver, self.problem = solver, problem
        self.remembers, self.adapts = solver.remembers, solver.adapts
        self.last = (float("nan"), float("nan"))

    def __call__(self, problem: BilevelProblem, lower: Params, upper: Params) -> Hypergradient:
        found = self.solver(problem, lower, upper)
        exact, value = self.problem.exact(lower), found.value["lam"]
        cosine = float(value @ exact / (value.norm() * exact.norm()))
        # After the best scaling, the relative error of a direction is the sine of its angle (1 where it points away).
        self.last = (cosine, max(1 - cosine**2, ROUNDING**2) ** 0.5 if cosine > 0 else 1.0)
        return found


def trial(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Train the problem with one solver; compare each of its hypergradients with the exact one at the same θ."""
    import torch

    from metascale.bilevel.levels import from_functions
    from metascale.bilevel.training import BilevelTraining
    from metascale.training.loop import Schedule, train
    from metascale.training.optimizers import Adam

    settings: BiasConfig = load_recipe(config["recipe"]).validate(config)
    problem = Quadratic.draw(settings, config["seed"])
    watched = ComparedSolver(hypergradient(settings), problem)
    process = BilevelTraining(
        from_functions(
            {"w": torch.zeros(problem.shape, dtype=torch.float64)},
            {"lam": normal(config["seed"], "first-upper", settings.n_upper)},
            lambda theta, lam, batch, context: problem.lower_loss(theta, lam),
            lambda theta, lam, batch, context: problem.upper_loss(theta, lam),
        ),
        lambda number: number,
        lambda number: number,
        method=watched,
        lower_optimizer=lower_optimizer(settings),
        upper_optimizer=Adam(settings.upper_lr),
        unroll_steps=settings.lower_steps,
        evaluate=lambda theta, buffers, lam: {"validation_loss_nats": problem.gap(lam)},
    )
    process.step(process.init(), 0)
    cosine, error = watched.last
    every = max(1, settings.upper_steps // 10)
    schedule = Schedule(settings.upper_steps, eval_every=every, restore_best=False, checkpoint_every=10**9)
    result = train(process, schedule, run)
    return {
        "hypergradient_error": error,
        "hypergradient_cosine": cosine,
        "upper_gap": problem.gap(result.state.upper),
        "steps": result.steps,
    }


def hypergradient(settings: BiasConfig) -> HypergradientSolver:
    """The solver of a configuration, with as many products as lower steps."""
    from metascale.hypergrad.implicit import Implicit
    from metascale.hypergrad.linear import CG, Identity, Neumann
    from metascale.hypergrad.sama import SAMA
    from metascale.hypergrad.unrolled import Unrolled

    steps, neumann_step = settings.lower_steps, NEUMANN_STEP / settings.spread
    solvers: dict[str, HypergradientSolver] = {
        "identity": Implicit(Identity(1.0, measure=False)),
        "sama": SAMA(),
        "cg": Implicit(CG(max_iterations=steps, tol=1e-12, on_failure="report")),
        "neumann": Implicit(Neumann(terms=steps, step=neumann_step, on_failure="report")),
        "unrolled": Unrolled(steps=steps),
    }
    return solvers[settings.solver]


def lower_optimizer(settings: BiasConfig) -> Optimizer:
    """The lower optimiser of a configuration."""
    from metascale.training.optimizers import LAMB, SGD, Adagrad, Adam, Lion, Muon, RMSprop

    lr = settings.lr
    optimizers: dict[str, Optimizer] = {
        "sgd": SGD(lr),
        "momentum": SGD(lr, momentum=0.9),
        "adam": Adam(lr),
        "rmsprop": RMSprop(lr),
        "adagrad": Adagrad(lr),
        "lion": Lion(lr, softness=0.1),
        "lamb": LAMB(lr),
        "muon": Muon(lr),
    }
    return optimizers[settings.optimizer]


def normal(seed: int, purpose: str, *shape: int) -> torch.Tensor:
    import torch

    return torch.randn(shape, generator=torch_generator(seed, purpose), dtype=torch.float64)
