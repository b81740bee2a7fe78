"""Where the draws of meta-training come from: an address that changed would change every recorded result."""

from __future__ import annotations

from metascale.hypergrad.curvature import Diagonal
from metascale.meta.gradients import MAML
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.testing.subjects import SmoothClassifier
from metascale.training.optimizers import SGD
from tests.addresses import addresses


def test_masks_are_those_of_the_outer_step_and_probes_those_of_the_task() -> None:
    model = SmoothClassifier(n_inputs=2, width=2, n_classes=2)
    learner = MetaLearner(MAML(InnerLoop(SGD(0.1), 1), Diagonal(estimate="hutchinson")), seed=3)
    state = learner.init(model, 0)
    with addresses() as seen:
        learner.step(model, state, model.episode(2))
    assert (3, "meta-batch", 0) in seen
    assert {entry[1:3] for entry in seen if entry[1] == "curvature"} == {("curvature", "task0"), ("curvature", "task1")}
    assert any(entry[1:] == ("curvature-probe", 0) for entry in seen)
