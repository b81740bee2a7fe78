"""What `benchmark` reports: means, intervals and accuracies worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metascale.core.errors import InputError
from metascale.core.trees import stack_tasks
from metascale.core.types import Batch
from metascale.meta.evaluate import Benchmark, Evaluation, adapted_predictor, benchmark, score
from metascale.meta.inner import InnerLoop
from metascale.models.context import WithContext
from metascale.models.module import Module
from metascale.tasks.own import few_shot
from metascale.training.optimizers import SGD


def test_the_interval_is_students_t_over_episodes() -> None:
    """0.2, 0.4, 0.6 and 0.8: mean 0.5, SE sqrt(0.2 / 3) / 2 = 0.1291; t of 3 degrees of freedom at 97.5 % is 3.1824."""
    column = np.array([0.2, 0.4, 0.6, 0.8])
    table = np.stack([np.zeros(4), column], 1)
    found = Benchmark(Evaluation(tuple("abcd"), (0, 5), table, table), 5)
    assert found.accuracy == pytest.approx((0.5, 3.18244630 * 0.12909944), rel=1e-7)
    assert str(found) == "accuracy 50.00% ± 41.09%, loss 0.5000 ± 0.4109 (95 % interval, 4 episodes, 5 inner steps)"


def test_a_notebook_shows_the_curve_and_the_interval() -> None:
    """Losses 1 and 3 have the SE 1, accuracies 0.2 and 0.4 the SE 0.1 (across two tasks)."""
    losses, accuracies = np.array([[1.0, 2.0], [3.0, 2.0]]), np.array([[0.2, 0.5], [0.4, 0.5]])
    found = Evaluation(("a", "b"), (0, 5), losses, accuracies)
    page = found._repr_html_()
    assert "<tr><th>0</th><td>2.0000 ± 1.0000</td><td>30.00% ± 10.00%</td></tr>" in page
    assert "<tr><th>5</th><td>2.0000 ± 0.0000</td><td>50.00% ± 0.00%</td></tr>" in page
    assert "2 tasks" in page
    regression = Evaluation(("a", "b"), (0,), losses[:, :1], np.full((2, 1), np.nan))._repr_html_()
    assert "accuracy" not in regression
    assert "nan" not in regression
    assert str(Benchmark(found, 5)) in Benchmark(found, 5)._repr_html_()


def test_episodes_that_a_benchmark_cannot_have_are_refused() -> None:
    labels = np.arange(90) % 9
    tasks = few_shot((np.random.default_rng(0).standard_normal((90, 2)), labels), 3, 1, 4, n_test_tasks=10)
    for n_episodes, message in ((1, "needs at least 2 episodes, not 1"), (11, "has 10: make the source with n_test")):
        with pytest.raises(InputError, match=message):
            benchmark(lambda episode: {}, tasks, n_episodes=n_episodes)


def test_regression_on_a_table_reports_the_mean_squared_error() -> None:
    """
    Both groups of the test have targets 0 and 1 (of two rows, support and query, in either order), and the module gives
    out 3, so that an episode's error is 9 or 4; its mean absolute error, 3 or 2, is called a loss.
    """
    table = {"city": list("aabbcc"), "x": [1.0, 2, 3, 4, 5, 6], "y": [0.0, 1] * 3}
    split = {"train": ["a"], "val": ["b"], "test": ["c"]}
    tasks = few_shot(table, label="y", group="city", k_shot=1, n_query=1, n_test_tasks=40, split=split)
    net = nn.Linear(1, 1)
    with torch.no_grad():
        net.weight.zero_(), net.bias.fill_(3.0)
    model = Module(net, loss="mse")
    targets = tasks.episodes("test", range(40)).query.targets.flatten()
    assert set(targets.tolist()) == {0.0, 1.0}
    errors = (3 - targets.double()).square().numpy()
    found = benchmark(adapted_predictor(model, InnerLoop(SGD(0.1), 1), model.init(0), [0]), tasks, n_episodes=40)
    half = 2.02269092 * errors.std(ddof=1) / 40**0.5  # t of 39 degrees of freedom at 97.5 %
    assert found.loss_nats == pytest.approx((errors.mean(), half), rel=1e-6)
    assert str(found).startswith(f"mean squared error {errors.mean():.4f} ± {half:.4f} (95 % interval, 40 episodes")
    absolute = adapted_predictor(Module(net, loss=F.l1_loss), InnerLoop(SGD(0.1), 1), model.init(0), [0])
    assert str(benchmark(absolute, tasks, n_episodes=40)).startswith("loss 2.")


def test_accuracy_of_an_own_loss_counts_classes_alone() -> None:
    """Two of three labelled targets are hit; a single output a target is no class."""
    outputs = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]])
    targets, own = torch.tensor([[0, 1, 1, -100]]), torch.tensor([0.7])
    losses, accuracy = score(outputs, targets, own)
    assert (float(losses), float(accuracy)) == pytest.approx((0.7, 2 / 3))
    for without in ((outputs[..., :1], targets), (outputs, targets.float()), (outputs[:, :3], targets)):
        assert math.isnan(float(score(*without, own)[1]))


def test_a_context_keeps_the_loss_and_the_steps_of_its_module() -> None:
    net = nn.Sequential(nn.Linear(1 + 2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model = WithContext(Module(net, loss=F.l1_loss, batch_statistics="per_step", steps=2), 2)
    assert model.batch_statistics
    assert not WithContext(Module(nn.Linear(3, 1)), 2).batch_statistics
    draw = torch.Generator().manual_seed(0)
    batch = Batch({"x": torch.randn(1, 5, 1, generator=draw)}, torch.randn(1, 5, 1, generator=draw))
    params = stack_tasks(model.init(0), 1)
    params["1.bias"] = params["1.bias"] + torch.tensor([[[0.0], [1.0]]])
    begun = model.begin(params, batch)
    first, second = (model.at_step(step).predict(begun, batch) for step in (0, 1))
    torch.testing.assert_close(second - first, params["2.weight"].sum().expand(1, 5, 1))
    assert torch.equal(model.at_step(2).predict(begun, batch), second)  # later steps share the last
    inner = InnerLoop(SGD(0.1), 1, adapt=("context",))
    found = adapted_predictor(model, inner, model.init(0), [1]).losses  # type: ignore[attr-defined]
    torch.testing.assert_close(found(first, batch), (first - batch.targets).abs().mean().view(1))
