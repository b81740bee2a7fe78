"""MAML++: losses after every inner step, and first-order before second-order derivatives, both annealed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from metascale.core.errors import InputError
from metascale.core.trees import mean_tasks, scale, stack_tasks
from metascale.core.types import Episode, Model, Params
from metascale.hypergrad.curvature import Curvature, Exact, Zero
from metascale.meta.gradients import EpisodeReport, complete, episode_report, query_gradient
from metascale.meta.inner import InnerLoop, InnerState, after
from metascale.meta.reverse import Sweep, back_through_begin, begin, follow

LEAST_SHARE = 0.03
"""Of its first weight, what an earlier step's loss keeps while several losses count (the authors' code)."""


@dataclass(frozen=True)
class MultiStepMAML:
    """The gradient of Σ_k w_k L_query(φ_k) over the inner steps k = 1 … K (Antoniou et al. 2019, arXiv 1810.09502).

    Its two schedules run over outer steps; `MetaLearner` says which one it is by `at`. Per-step inner rates, the third
    of that paper's changes, are ``InnerLoop(learn_rates=True, rates_by="step")``.

    Args:
        through: the curvature of the inner steps once the first-order phase is over.
        multi_step: outer steps over which the weights w move, on a line, from 1/K each to the last step alone (their
            section 4, "multi-step loss optimization"). 0: the last step alone from the start.
        first_order: outer steps before second derivatives are taken ("derivative-order annealing").
        step: the outer step at hand.

    Raises:
        InputError: a negative number of outer steps, or no inner steps.
    """

    inner: InnerLoop = field(default_factory=InnerLoop)
    through: Curvature = field(default_factory=Exact)
    multi_step: int = 0
    first_order: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        for name in ("multi_step", "first_order"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must be 0 or more outer steps, not {getattr(self, name)}", field=name)
        if self.inner.steps < 1:
            raise InputError("losses after inner steps need at least one inner step", field="inner_steps")

    def at(self, step: int) -> MultiStepMAML:
        """The estimator of that outer step."""
        return replace(self, step=step)

    @property
    def weights(self) -> tuple[float, ...]:
        """w_1 … w_K at this outer step."""
        k = self.inner.steps
        if self.step >= self.multi_step:
            return (0.0,) * (k - 1) + (1.0,)
        early = max(1 - self.step / self.multi_step, LEAST_SHARE) / k
        return (early,) * (k - 1) + (1 - (k - 1) * early,)

    def __call__(self, model: Model, theta: Params, episode: Episode, key: int | None) -> tuple[Params, EpisodeReport]:
        curvature = Zero() if self.step < self.first_order else self.through
        if curvature.second_order:
            model.require_second_order()
        stacked, weights = stack_tasks(theta, episode.n_tasks), self.weights
        start = begin(self.inner, model, stacked, episode.support)
        path = follow(self.inner, model, stacked, episode.support, key, start.state)
        losses, last = self._query(model, path.last, episode, key)

        def earlier(state: InnerState) -> Params | None:
            """What the loss after an earlier step adds to the adjoint of that step's parameters."""
            if state.step == 0 or weights[state.step - 1] == 0:
                return None
            return scale(self._query(model, state, episode, key)[1], weights[state.step - 1])

        sweep = Sweep(self.inner, model, stacked, episode, key, curvature, earlier)
        adjoint, on_rates = sweep(path, scale(last, weights[-1]))
        meta = back_through_begin(model, stacked, episode.support, start, adjoint) | on_rates
        return mean_tasks(complete(meta, stacked)), episode_report(episode, path.losses, losses)

    def _query(self, model: Model, state: InnerState, episode: Episode, key: int | None) -> tuple[torch.Tensor, Params]:
        """[T] query losses after an inner step, and their gradient."""
        return query_gradient(after(model, state.step), state.params, episode.query, key, self.inner.micro_batch)
