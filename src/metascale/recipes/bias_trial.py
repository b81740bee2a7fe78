"""One trial of the bias study: a quadratic bilevel problem in float64, a solver, and the exact answer beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from metascale.bilevel.levels import Pass, from_functions
from metascale.bilevel.training import BilevelTraining
from metascale.core.run import Run
from metascale.core.streams import torch_generator
from metascale.core.types import Params
from metascale.hypergrad.implicit import Implicit
from metascale.hypergrad.linear import CG, Identity, Neumann
from metascale.hypergrad.problem import BilevelProblem, Hypergradient, HypergradientSolver
from metascale.hypergrad.sama import SAMA
from metascale.hypergrad.unrolled import Unrolled
from metascale.recipes.hypergradient_bias import BiasConfig
from metascale.training.loop import Schedule, train
from metascale.training.optimizers import LAMB, SGD, Adagrad, Adam, Lion, Muon, Optimizer, RMSprop
from metascale.workflow.recipe import load_recipe

STEP = 0.3
"""Of the Neumann series, for a largest diagonal entry of one."""
SMALLEST = 1e-8
"""The least relative error that is told from rounding."""


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
        n, m = settings.rows * settings.columns, settings.n_upper
        factor = _normal(seed, "correlation", n, n)
        covariance = factor @ factor.T
        scale = covariance.diagonal().rsqrt()
        correlation = scale[:, None] * covariance * scale
        mixed = (1 - settings.off_diagonal) * torch.eye(n, dtype=torch.float64) + settings.off_diagonal * correlation
        order = torch.randperm(n, generator=torch_generator(seed, "curvature-order"))
        sizes = (settings.spread ** torch.linspace(-0.5, 0.5, n, dtype=torch.float64))[order].sqrt()
        curvature = sizes[:, None] * mixed * sizes
        return Quadratic(
            curvature, _normal(seed, "coupling", n, m), _normal(seed, "target", n), (settings.rows, settings.columns)
        )

    def lower_loss(self, theta: Params, lam: Params) -> torch.Tensor:
        x = theta["w"].flatten()
        return 0.5 * x @ self.curvature @ x - x @ (self.coupling @ lam["lam"])

    def upper_loss(self, theta: Params, lam: Params) -> torch.Tensor:
        return 0.5 * ((theta["w"].flatten() - self.target) ** 2).sum()

    def exact(self, theta: Params) -> torch.Tensor:
        """dM/dλ by implicit differentiation at θ, solved directly."""
        solved = torch.linalg.solve(self.curvature, theta["w"].flatten() - self.target)
        return self.coupling.T @ solved

    def gap(self, lam: Params) -> float:
        """How far M at the lower minimum of λ is above the least it can be."""
        reach = torch.linalg.solve(self.curvature, self.coupling)
        best = torch.linalg.lstsq(reach, self.target[:, None]).solution[:, 0]

        def value(at: torch.Tensor) -> float:
            return float(0.5 * ((reach @ at - self.target) ** 2).sum())

        return value(lam["lam"]) - value(best)


def trial(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Train the problem with one solver; compare each of its hypergradients with the exact one at the same θ."""
    settings: BiasConfig = load_recipe(config["recipe"]).validate(config)
    problem = Quadratic.draw(settings, config["seed"])
    theta = {"w": torch.zeros(problem.shape, dtype=torch.float64)}
    lam = {"lam": _normal(config["seed"], "first-upper", settings.n_upper)}
    watched = Watched(hypergradient(settings), problem)

    def lower(theta: Params, lam: Params, batch: Any, context: Pass) -> torch.Tensor:
        return problem.lower_loss(theta, lam)

    def upper(theta: Params, lam: Params, batch: Any, context: Pass) -> torch.Tensor:
        return problem.upper_loss(theta, lam)

    process = BilevelTraining(
        from_functions(theta, lam, lower, upper),
        lambda number: number,
        lambda number: number,
        method=watched,
        lower_optimizer=lower_optimizer(settings),
        upper_optimizer=Adam(settings.upper_lr),
        unroll_steps=settings.lower_steps,
        evaluate=lambda theta, buffers, lam: {"validation_loss_nats": problem.gap(lam)},
    )
    schedule = Schedule(
        settings.upper_steps,
        eval_every=max(1, settings.upper_steps // 10),
        restore_best=False,
        checkpoint_every=10**9,
    )
    process.step(process.init(), 0)
    at_start = watched.last
    result = train(process, schedule, run)
    return {
        "hypergradient_error": at_start[1],
        "hypergradient_cosine": at_start[0],
        "upper_gap": problem.gap(result.state.upper),
        "steps": result.steps,
    }


class Watched:
    """A solver whose every answer is compared with the exact one; ``last`` is (cosine, relative error)."""

    def __init__(self, solver: HypergradientSolver, problem: Quadratic) -> None:
        self.solver = solver
        self.problem = problem
        self.last = (float("nan"), float("nan"))

    @property
    def remembers(self) -> int:
        return self.solver.remembers

    @property
    def adapts(self) -> bool:
        return self.solver.adapts

    def __call__(self, problem: BilevelProblem, lower: Params, upper: Params) -> Hypergradient:
        found = self.solver(problem, lower, upper)
        exact, value = self.problem.exact(lower), found.value["lam"]
        cosine = float(value @ exact / (value.norm() * exact.norm()))
        # After the best scaling, the relative error of a direction is the sine of its angle (1 where it points away).
        self.last = (cosine, max(1 - cosine**2, SMALLEST**2) ** 0.5 if cosine > 0 else 1.0)
        return found


def hypergradient(settings: BiasConfig) -> HypergradientSolver:
    """The solver of a configuration, with as many products as lower steps."""
    solvers: dict[str, HypergradientSolver] = {
        "identity": Implicit(Identity(1.0, measure=False)),
        "sama": SAMA(),
        "cg": Implicit(CG(max_iterations=settings.lower_steps, tol=1e-12, on_failure="report")),
        # The largest eigenvalue is a few times the largest diagonal entry.
        "neumann": Implicit(Neumann(terms=settings.lower_steps, step=STEP / settings.spread, on_failure="report")),
        "unrolled": Unrolled(steps=settings.lower_steps),
    }
    return solvers[settings.solver]


def lower_optimizer(settings: BiasConfig) -> Optimizer:
    """The lower optimiser of a configuration."""
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


def _normal(seed: int, purpose: str, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch_generator(seed, purpose), dtype=torch.float64)
