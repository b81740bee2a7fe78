"""`import metascale as ms`: what README's examples do not already show."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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


def test_a_benchmark_gives_means_with_intervals_over_many_episodes() -> None:
    """Student's t with 599 degrees of freedom: 1.96395 standard errors at 95 %."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 2)).astype(np.float32), np.arange(300) % 10
    tasks = ms.few_shot((x, y), n_way=2, n_query=3)
    model = ms.Module(torch.nn.Linear(2, 2))
    learner = ms.MetaLearner(ms.FOMAML(ms.InnerLoop(ms.SGD(lr=0.1), steps=1)))
    predictor = learner.predictor(model, learner.init(model, seed=0))
    found = ms.benchmark(predictor, tasks)
    accuracy = ms.evaluate(predictor, tasks, n_tasks=600).accuracy[:, 0]
    assert found.accuracy[0] == accuracy.mean()
    assert found.accuracy[1] == pytest.approx(1.96395 * accuracy.std(ddof=1) / 600**0.5, rel=1e-5)
    assert str(found).startswith(f"accuracy {accuracy.mean():.2%} ± {found.accuracy[1]:.2%}, loss ")
    assert str(found).endswith("(95 % interval, 600 episodes, 1 inner steps)")
    with pytest.raises(ms.InputError, match="make the source with n_test_tasks=700"):
        ms.benchmark(predictor, tasks, n_episodes=700)
