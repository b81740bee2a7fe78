"""Task scaling on sinusoid regression (Finn et al. 2017, section 5.1).

Command:    metascale run sinusoid --out runs/sinusoid
Data:       y = a·sin(x − p); amplitude and phase are the task
Learner:    exact MAML on a two-layer perceptron of 40 units, 10 shots
Loss:       mean squared error (there is no accuracy)
Hardware:   any machine
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metascale.workflow.config import Count, FewShotConfig, NonNegative
from metascale.workflow.recipe import Profile, Recipe

if TYPE_CHECKING:
    from metascale.workflow.fewshot import Parts


@dataclass(frozen=True)
class SinusoidConfig(FewShotConfig):
    """Few-shot sinusoid regression; ``n_way`` has no meaning here.

    Args:
        width, depth: of the perceptron.
        n_context: numbers of a context that stands beside every input and starts each task at zero; with
            ``adapt=["context"]`` it alone adapts (CAVIA).
    """

    width: Count = 40
    depth: Count = 2
    n_context: NonNegative = 0

    @property
    def tasks_apart(self) -> bool:
        return not self.n_context


RECIPE = Recipe(
    name="sinusoid",
    title="Task scaling on sinusoid regression",
    question="Does meta-test squared error follow a power law in the number of training sinusoids?",
    config=SinusoidConfig,
    defaults={
        "method": "maml",
        "curvature": "unrolled",
        "k_shot": 10,
        "n_query": 10,
        "inner_lr": 0.01,
        "inner_steps": 1,
        "meta_batch": 25,
        "outer_optimizer": "adam",
        "outer_lr": 1e-3,
        "max_steps": 5000,
        "eval_every": 250,
        "n_validation_tasks": 100,
        "n_test_tasks": 500,
        "n_curve_tasks": 500,
    },
    axes={"n_tasks": [5, 10, 30, 100, 300, 1000]},
    baselines=({"method": "zero_shot", "kind": "baseline"}, {"method": "fine_tuning", "kind": "baseline"}),
    profiles={
        "cavia": Profile(
            "a context of five numbers adapts and the network does not, with the published rates",
            {"n_context": 5, "adapt": ["context"], "inner_lr": 1.0, "tune_rates": [0.3, 3.0]},
            baselines=({"method": "zero_shot", "kind": "baseline"},),
        ),
    },
)


def parts(config: SinusoidConfig, seed: int, device: str) -> Parts:
    """The task source and model of one trial."""
    from metascale.models.context import WithContext
    from metascale.models.perceptron import Perceptron
    from metascale.tasks.regression import SinusoidTasks
    from metascale.workflow.fewshot import Parts

    source = SinusoidTasks(
        config.k_shot, config.n_query, config.n_tasks, config.n_validation_tasks, config.n_test_tasks, seed
    )
    model = Perceptron(1 + config.n_context, 1, config.width, config.depth, loss="squared_error")
    if config.n_context:
        return Parts(source, WithContext(model, config.n_context), eval_batch=100)
    return Parts(source, model, eval_batch=100)
