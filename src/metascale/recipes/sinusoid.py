"""Task scaling on sinusoid regression (Finn et al. 2017, section 5.1).

Command:    metascale run sinusoid --out runs/sinusoid
Data:       y = a·sin(x − p); amplitude and phase are the task
Learner:    exact MAML on a two-layer perceptron of 40 units, 10 shots
Loss:       mean squared error (there is no accuracy)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from metascale.workflow.config import Count, Curvature, FewShotConfig, Method
from metascale.workflow.recipe import Recipe

if TYPE_CHECKING:
    from metascale.workflow.fewshot import Parts


@dataclass(frozen=True)
class SinusoidConfig(FewShotConfig):
    """Few-shot sinusoid regression; ``n_way`` has no meaning here.

    Args:
        width, depth: of the perceptron.
    """

    method: Method = "maml"
    curvature: Curvature = "unrolled"
    width: Count = 40
    depth: Count = 2
    k_shot: Count = 10
    n_query: Count = 10
    inner_lr: float = 0.01
    inner_steps: int = 1
    meta_batch: Count = 25
    outer_optimizer: Literal["sgd", "adam"] = "adam"
    outer_lr: float = 1e-3
    max_steps: Count = 5000
    eval_every: Count = 250
    n_validation_tasks: Count = 100
    n_test_tasks: Count = 500
    n_curve_tasks: Count = 500


RECIPE = Recipe(
    name="sinusoid",
    title="Task scaling on sinusoid regression",
    question="Does meta-test squared error follow a power law in the number of training sinusoids?",
    config=SinusoidConfig,
    axes={"n_tasks": [5, 10, 30, 100, 300, 1000]},
    baselines=({"method": "zero_shot", "kind": "baseline"}, {"method": "fine_tuning", "kind": "baseline"}),
    hardware="any machine",
)


def parts(config: SinusoidConfig, seed: int, device: str) -> Parts:
    """The task source and model of one trial."""
    from metascale.models.perceptron import Perceptron
    from metascale.tasks.sinusoid import SinusoidTasks
    from metascale.workflow.fewshot import Parts

    source = SinusoidTasks(
        config.k_shot, config.n_query, config.n_tasks, config.n_validation_tasks, config.n_test_tasks, seed
    )
    model = Perceptron(1, 1, config.width, config.depth, loss="squared_error")
    return Parts(source, model, eval_batch=100)
