"""What a learner does where nothing is said."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from metascale.hypergrad.curvature import Exact, FiniteDifference
from metascale.hypergrad.linear import CG
from metascale.meta.baselines import Arena
from metascale.meta.evaluate import Evaluation
from metascale.meta.gradients import FOMAML, MAML, EpisodeReport, MetaGradient, Reptile
from metascale.meta.imaml import ImplicitMAML
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner, StepReport
from metascale.meta.multi_step import MultiStepMAML
from metascale.meta.training import MetaTraining
from metascale.parallel.execution import Execution
from metascale.parallel.out_of_memory import MicroBatches
from metascale.testing.subjects import QuadraticModel, quadratic_episode
from metascale.training.optimizers import SGD
from metascale.training.schedules import Constant
from tests.defaults import defaults


def test_the_inner_loop_and_the_estimators() -> None:
    inner = InnerLoop(SGD(0.1), 5)
    assert defaults(InnerLoop) == {
        "optimizer": SGD(0.1, 0.0, False, 0.0), "steps": 5, "clip": None, "step_rates": (), "adapt": ("*",),
        "batch_size": None, "micro_batch": None, "keep_gradients": None, "learn_rates": False, "rates_by": "element",
        "proximal": 0.0,
    }  # fmt: skip
    assert defaults(MAML) == {"inner": inner, "through": Exact()}
    assert defaults(FOMAML) == {"inner": inner}
    assert defaults(Reptile) == {"inner": inner, "data": "support", "report_query": False}
    assert defaults(ImplicitMAML) == {
        "inner": InnerLoop(SGD(0.1), 16, proximal=2.0), "solver": CG(max_iterations=5), "curvature": Exact(),
    }  # fmt: skip
    steps = {"multi_step": 0, "first_order": 0, "step": 0}
    assert defaults(MultiStepMAML) == {"inner": inner, "through": Exact(), **steps}
    assert defaults(EpisodeReport) == defaults(StepReport) == {"diagnostics": {}}


def test_the_learner_its_training_and_what_it_is_compared_in() -> None:
    alone = Execution(chunk=None, workers=1, in_processes=False)
    assert defaults(MetaLearner) == {
        "outer": SGD(0.1), "clip": None, "execution": alone, "seed": 0, "rate": Constant(0),
    }  # fmt: skip
    assert defaults(MetaTraining) == {
        "meta_batch": 4, "seed": 0, "n_validation": 50, "eval_steps": None, "eval_batch": 8, "device": "cpu",
        "execution": alone, "micro_batches": MicroBatches(),
    }  # fmt: skip
    assert defaults(Arena) == {"batch": 8, "execution": alone, "device": "cpu"}
    assert defaults(Evaluation) == {"measure": "loss"}


def test_a_changed_learner_differs_in_what_was_changed_alone() -> None:
    learner = MetaLearner(FOMAML(InnerLoop(SGD(0.1), 3)), SGD(0.2), clip=1.0, seed=7)
    assert learner.micro_batch is None
    small = learner.with_micro_batch(2)
    assert (small.micro_batch, small.gradient) == (2, FOMAML(InnerLoop(SGD(0.1), 3, micro_batch=2)))
    assert replace(small, gradient=learner.gradient) == learner
    threads = learner.with_execution(Execution(workers=2))
    assert threads.execution.workers == 2
    assert replace(threads, execution=learner.execution) == learner
    halved = learner.map_optimizers(lambda optimizer: replace(optimizer, lr=optimizer.lr / 2))  # type: ignore[type-var]
    assert halved == replace(learner, gradient=FOMAML(InnerLoop(SGD(0.05), 3)), outer=SGD(0.1))


@dataclass(frozen=True)
class Asked(QuadraticModel):
    """Counts how often it is asked for a second derivative."""

    times: list[None] = field(default_factory=list)

    def require_second_order(self) -> None:
        self.times.append(None)


INNER = InnerLoop(SGD(0.1), 2)
ASKING: dict[str, tuple[MetaGradient, bool]] = {
    "MAML": (MAML(INNER), True),
    "MAML through differences": (MAML(INNER, FiniteDifference()), False),
    "first-order MAML": (FOMAML(INNER), False),
    "Reptile": (Reptile(INNER), False),
    "iMAML": (ImplicitMAML(replace(INNER, proximal=2.0)), True),
    "iMAML of differences": (ImplicitMAML(replace(INNER, proximal=2.0), curvature=FiniteDifference()), False),
    "MAML++": (MultiStepMAML(INNER, multi_step=4, first_order=2, step=2), True),
    "MAML++ at its first-order steps": (MultiStepMAML(INNER, multi_step=4, first_order=2, step=1), False),
}


@pytest.mark.parametrize("name", ASKING)
def test_a_model_is_asked_for_second_derivatives_where_they_are_used(name: str) -> None:
    gradient, asked = ASKING[name]
    model = Asked(3)
    gradient(model, model.init(0), quadratic_episode(2, 3), key=0)
    assert bool(model.times) is asked
