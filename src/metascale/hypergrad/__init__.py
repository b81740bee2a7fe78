"""Derivatives of an upper loss through a lower level: curvature products, linear solves, hypergradients."""

from metascale.hypergrad.curvature import BlockDiagonal, Curvature, Diagonal, Exact, FiniteDifference, GaussNewton, Zero
from metascale.hypergrad.darts import DARTS
from metascale.hypergrad.implicit import Implicit
from metascale.hypergrad.linear import CG, Direct, Identity, LinearSolution, LinearSolver, Neumann, SolveFailed
from metascale.hypergrad.problem import BilevelProblem, Hypergradient, HypergradientSolver, unroll
from metascale.hypergrad.sama import SAMA
from metascale.hypergrad.unrolled import Unrolled

__all__ = [
    "CG",
    "DARTS",
    "SAMA",
    "BilevelProblem",
    "BlockDiagonal",
    "Curvature",
    "Diagonal",
    "Direct",
    "Exact",
    "FiniteDifference",
    "GaussNewton",
    "Hypergradient",
    "HypergradientSolver",
    "Identity",
    "Implicit",
    "LinearSolution",
    "LinearSolver",
    "Neumann",
    "SolveFailed",
    "Unrolled",
    "Zero",
    "unroll",
]
