"""`import metascale as ms`: what README's examples do not already show."""

from __future__ import annotations

import numpy as np

import metascale as ms
from metascale.meta.evaluate import adapted_predictor, evaluate


def test_one_call_evaluates_a_learner() -> None:
    tasks, model = ms.digits_tasks(n_way=5, k_shot=1, n_train_tasks=10), ms.Perceptron(n_inputs=64, n_outputs=5)
    inner = ms.InnerLoop(ms.SGD(lr=0.1), steps=3)
    learner = ms.MetaLearner(ms.Reptile(inner))
    state = learner.init(model, seed=0)
    found = ms.evaluate(learner.predictor(model, state), tasks, n_tasks=7)
    by_hand = evaluate(adapted_predictor(model, inner, state.params, [3]), tasks, "test", 7)
    assert found.inner_steps == (3,)
    np.testing.assert_array_equal(found.loss_nats, by_hand.loss_nats)
    assert ms.evaluate(learner.predictor(model, state, steps=1), tasks, n_tasks=2).inner_steps == (1,)
