"""Implicit MAML: the meta-gradient at the end of the inner loop, whatever path led there."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from metascale.core.errors import InputError
from metascale.core.streams import address
from metascale.core.trees import mean_tasks, stack_tasks, tree_map
from metascale.core.types import Episode, Model, Params
from metascale.hypergrad.curvature import Curvature, Exact, LossPoint, Zero, loss_and_gradient, norm_per_task
from metascale.hypergrad.linear import CG, Identity, LinearSolver, SolveFailed
from metascale.meta.gradients import EpisodeReport, ends, episode_report, query_gradient
from metascale.meta.inner import InnerLoop, InnerState, after, product_parts
from metascale.meta.reverse import back_through_begin, begin


@dataclass(frozen=True)
class ImplicitMAML:
    """(I + H/λ)⁻¹ ∇q at the solution φ of min s(φ) + λ/2 · ‖φ − θ‖² (Rajeswaran et al. 2019, lemma 1 and eq. 6).

    The inner loop must come near that solution. The report's diagnostics say how near it came (``stationarity``,
    ‖∇s + λ(φ − θ)‖ / (‖∇s‖ + λ‖φ − θ‖)) and how well the linear system was solved (``solver_residual``, relative).
    Memory does not depend on the number of inner steps. Parameters that do not adapt get their total derivative,
    ∇q − H x/λ; with no inner step the result is ∇q.

    With `Identity` the result is ∇q at φ, from first derivatives alone. SAMA without adaptation gives the same for this
    lower level up to the factor λ, since ∂²ℓ/∂θ∂φ = −λ I (Choe et al. 2023, appendix D).

    Args:
        inner: the inner loop, with ``proximal`` above zero.
        solver: `CG`, `Neumann` with a step below 2λ / (λ + largest curvature), or `Identity`.
        curvature: H, of the whole support set without dropout.

    Raises:
        InputError: no proximal strength; learnt rates, on which the solution does not depend; no curvature; or second
            derivatives that the model lacks.
        SolveFailed: the linear solve diverges, or meets curvature below −λ.
    """

    inner: InnerLoop = field(default_factory=lambda: InnerLoop(steps=16, proximal=2.0))
    solver: LinearSolver = field(default_factory=lambda: CG(max_iterations=5))
    curvature: Curvature = field(default_factory=Exact)

    def __post_init__(self) -> None:
        if self.inner.proximal <= 0:
            raise InputError("implicit MAML needs an inner loop with a proximal strength: InnerLoop(..., proximal=2.0)")
        if self.inner.learn_rates:
            raise InputError("implicit MAML has no gradient for learn_rates: its solution does not depend on the rates")
        if isinstance(self.curvature, Zero):
            raise InputError("implicit MAML needs a curvature; without one use FOMAML")

    def __call__(self, model: Model, theta: Params, episode: Episode, key: int | None) -> tuple[Params, EpisodeReport]:
        if self.curvature.second_order and self._takes_products(theta):
            model.require_second_order()
        stacked = stack_tasks(theta, episode.n_tasks)
        start = begin(self.inner, model, stacked, episode.support)
        _, last, support = ends(self.inner.iterate(model, stacked, episode.support, key=key, start=start.state))
        final = after(model, last.step)
        losses, grads = query_gradient(final, last.params, episode.query, key, self.inner.micro_batch)
        diagnostics: dict[str, torch.Tensor] = {}
        if self.inner.steps:
            grads, diagnostics = self._solve(model, last, episode, key, grads)
        meta = back_through_begin(model, stacked, episode.support, start, grads)
        return mean_tasks(meta), episode_report(episode, support, losses, diagnostics)

    def _takes_products(self, theta: Params) -> bool:
        free = isinstance(self.solver, Identity) and not self.solver.measure
        return not free or len(self.inner.adapted_names(theta)) < len(theta)

    def _solve(
        self, model: Model, last: InnerState, episode: Episode, key: int | None, grads: Params
    ) -> tuple[Params, dict[str, torch.Tensor]]:
        """The adjoint of φ₀ [T, ...] and how the solve went."""
        assert last.anchor is not None
        seed = 0 if key is None else key
        streams = tuple(address(seed, "curvature", task_id) for task_id in episode.task_ids)
        # One Hessian for the whole solve: all of the support set, no masks, the same probes in every product.
        seen = after(model, last.step)
        parts = product_parts(self.curvature, seen, episode.support, self.inner.micro_batch, None)
        point = LossPoint(last.params, parts, streams)
        names, strength = tuple(last.anchor), self.inner.proximal

        def matvec(vector: Params) -> Params:
            product = self.curvature(point, vector)
            return {name: value + product[name] / strength for name, value in vector.items()}

        right = {name: grads[name] for name in names}
        try:
            solution = self.solver(matvec, right, batched=True)
        except SolveFailed as error:
            raise SolveFailed(f"{error}, or proximal above {strength:g}", error.solution) from error
        still = {name: value for name, value in grads.items() if name not in names}
        if still:
            product = self.curvature(point, solution.x)
            still = {name: value - product[name] / strength for name, value in still.items()}
        diagnostics = {"stationarity": self._stationarity(point, last)}
        if solution.residual is not None:
            diagnostics["solver_residual"] = solution.residual
        return {name: {**solution.x, **still}[name] for name in grads}, diagnostics

    def _stationarity(self, point: LossPoint, last: InnerState) -> torch.Tensor:
        assert last.anchor is not None
        _, slope = loss_and_gradient(point.parts, last.params, tuple(last.anchor))
        pull = {name: self.inner.proximal * (last.params[name] - value) for name, value in last.anchor.items()}
        size = norm_per_task(slope) + norm_per_task(pull)
        return norm_per_task(tree_map(torch.add, slope, pull)) / torch.where(size > 0, size, 1.0)
