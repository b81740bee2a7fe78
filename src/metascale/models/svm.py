"""A support vector machine as the classifier of a task, differentiated at its optimum (MetaOptNet-SVM)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from metascale.core.errors import InputError, MetascaleError
from metascale.core.types import Params

ITERATIONS = 60
GAP = 1e-18
"""Of the bounds and their prices, at which the interior point method stops: it then tells one from the other."""
VIOLATION = 1e-5
"""Of the optimality conditions, that is put down to rounding."""
DAMPING = 1e-9
"""Added to the diagonal of the Gram matrix, as a share of its mean: the same weights where examples repeat."""


class NotSolved(MetascaleError, ArithmeticError):
    """The quadratic programme of a support vector machine was not solved."""


@dataclass(frozen=True)
class SupportVectors:
    """The multi-class support vector machine of Crammer and Singer on the support set, logits γ f W with γ meta-learnt
    as a logarithm (MetaOptNet-SVM, Lee et al. 2019, arXiv 1904.03758, eqs. 4 to 7).

    Its dual is the quadratic programme

        min over α [B, C]:  ½ Σ_k |Σ_n α_nk f_n|² − Σ_n α_{n, y_n}   with  α_nk ≤ c · [k = y_n]  and  Σ_k α_nk = 0

    and W_k = Σ_n α_nk f_n. An interior point method in double precision finds which bounds hold with equality; given
    those, α solves a linear system, whose derivatives, of any order, are those of the optimum wherever no bound is just
    about to hold. Work grows as (B C)³.

    Args:
        penalty: c, of an example inside the margin.
        scale: γ at the start.
    """

    penalty: float = 0.1
    scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("penalty", "scale"):
            if getattr(self, name) <= 0:
                raise InputError(
                    f"{name} of the support vector head must be positive, not {getattr(self, name)}", field=name
                )

    def init(self) -> Params:
        return {"metric.log_scale": torch.tensor([math.log(self.scale)])}

    def solve(
        self, params: Params, features: torch.Tensor, targets: torch.Tensor, n_classes: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight [T, d, C] and a bias of zeros [T, C].

        Raises:
            NotSolved: the optimum was not found, which features of extreme size can do.
        """
        wide = features.double()
        own = F.one_hot(targets, n_classes).to(wide.dtype)
        problem = _Dual.of(wide, own, self.penalty)
        with torch.no_grad():
            bound = problem.held_bounds()
        alpha = problem.given(bound)
        problem.check(alpha.detach(), bound)
        weight = (wide.transpose(1, 2) @ alpha).to(features.dtype)
        scale = params["metric.log_scale"].exp().unsqueeze(-1)
        return scale * weight, features.new_zeros(features.shape[0], n_classes)


@dataclass(frozen=True, slots=True)
class _Dual:
    """min ½ xᵀ Q x − eᵀ x with x ≤ upper and sums x = 0, for T tasks: x [T, B·C] are the rows of α one after another.

    ``sums`` [B, B·C] adds up the classes of each example.
    """

    quadratic: torch.Tensor
    linear: torch.Tensor
    upper: torch.Tensor
    sums: torch.Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, features: torch.Tensor, own: torch.Tensor, penalty: float) -> _Dual:
        n_examples, n_classes = own.shape[1:]
        gram = features @ features.transpose(1, 2)
        damping = DAMPING * gram.detach().diagonal(dim1=1, dim2=2).mean(1)
        gram = gram + damping[:, None, None] * torch.eye(n_examples, dtype=gram.dtype, device=gram.device)
        eye = torch.eye(n_classes, dtype=gram.dtype, device=gram.device)
        quadratic = torch.einsum("tmn,kl->tmknl", gram, eye).reshape(len(own), n_examples * n_classes, -1)
        sums = torch.eye(n_examples, dtype=gram.dtype, device=gram.device).repeat_interleave(n_classes, 1)
        return cls(quadratic, own.flatten(1), penalty * own.flatten(1), sums, (n_examples, n_classes))

    def held_bounds(self) -> torch.Tensor:
        """[T, B·C] which bounds hold with equality at the optimum: a primal-dual interior point method (Mehrotra)."""
        size = self.upper.amax()
        x, multiplier = torch.zeros_like(self.upper), self.upper.new_zeros(len(self.upper), self.shape[0])
        slack, price = torch.full_like(x, float(size)), torch.ones_like(x)
        for _ in range(ITERATIONS):
            dual = _times(self.quadratic, x) - self.linear + multiplier @ self.sums + price
            primal, room = x @ self.sums.T, x + slack - self.upper
            gap = (slack * price).mean(1, keepdim=True)
            if not bool((gap > GAP * size).any()):
                break
            affine = self._direction((dual, primal, room), slack, price, -slack * price)
            length = _length(torch.cat([slack, price], 1), torch.cat(affine[2:], 1), 1.0)
            moved = ((slack + length * affine[2]) * (price + length * affine[3])).mean(1, keepdim=True)
            target = (moved / gap) ** 3 * gap
            steps = self._direction((dual, primal, room), slack, price, target - slack * price - affine[2] * affine[3])
            length = _length(torch.cat([slack, price], 1), torch.cat(steps[2:], 1), 0.995)
            x, multiplier = x + length * steps[0], multiplier + length * steps[1]
            slack, price = slack + length * steps[2], price + length * steps[3]
        return slack / size < price

    def _direction(
        self,
        left: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        slack: torch.Tensor,
        price: torch.Tensor,
        product: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Newton's step of x, the multipliers of the sums, slacks and prices, towards slack · price + ``product``."""
        dual, primal, room = left
        matrix = self.quadratic + torch.diag_embed(price / slack)
        given = torch.cat([-dual - (product + price * room) / slack, -primal], 1)
        found = torch.linalg.solve(self._bordered(matrix, torch.ones_like(price)), given)
        step, multiplier = found.split([matrix.shape[1], self.shape[0]], 1)
        room = -room - step
        return step, multiplier, room, (product - price * room) / slack

    def _bordered(self, matrix: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
        """``matrix`` with the sums below it, and beside the rows that are ``free``."""
        sums = self.sums.expand(len(matrix), -1, -1)
        beside = free.unsqueeze(2) * sums.transpose(1, 2)
        corner = matrix.new_zeros(len(matrix), self.shape[0], self.shape[0])
        return torch.cat([torch.cat([matrix, beside], 2), torch.cat([sums, corner], 2)], 1)

    def given(self, bound: torch.Tensor) -> torch.Tensor:
        """α [T, B, C] of the optimum, as a function of the features, when these bounds hold with equality."""
        free = (~bound).to(self.linear.dtype)
        matrix = free.unsqueeze(2) * self.quadratic + torch.diag_embed(1 - free)
        wanted = torch.where(bound, self.upper, self.linear)
        system = self._bordered(matrix, free)
        given = torch.cat([wanted, wanted.new_zeros(len(wanted), self.shape[0])], 1)
        found: torch.Tensor = torch.linalg.solve(system, given)[:, : matrix.shape[1]]
        return found.reshape(-1, *self.shape)

    def check(self, alpha: torch.Tensor, bound: torch.Tensor) -> None:
        """
        Raises:
            NotSolved: a bound is broken, or one that holds should not.
        """
        x = alpha.flatten(1)
        slope = (self.linear - _times(self.quadratic.detach(), x)).unflatten(1, self.shape)
        free = (~bound).unflatten(1, self.shape)
        multiplier = torch.where(free, slope, 0).sum(2, keepdim=True) / free.sum(2, keepdim=True)
        price = torch.where(free, 0, slope - multiplier)
        beyond = (x - self.upper).amax() / self.upper.amax()
        worst = float(torch.maximum(beyond, -price.amin()))
        if worst > VIOLATION:
            raise NotSolved(
                f"the support vector machine of a task was not solved: its conditions are off by {worst:.2g}; features "
                "of extreme size do this, so lower the outer rate or take a ridge head"
            )


def _times(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.bmm(matrix, x.unsqueeze(2)).squeeze(2)


def _length(values: torch.Tensor, steps: torch.Tensor, share: float) -> torch.Tensor:
    """[T, 1] the longest step, at most 1, that keeps every value above zero; ``share`` of it where one stops it."""
    ratios = torch.where(steps < 0, -values / steps, torch.inf)
    return (share * ratios.amin(1, keepdim=True)).clamp(max=1.0)
