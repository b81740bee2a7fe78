"""Models that stand around another one: what they pass on, what they add, and what they leave alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.trees import stack_tasks
from metascale.core.types import Batch, Params
from metascale.models.context import WithContext
from metascale.models.convnet import ConvNet
from metascale.models.metric import METRICS, MetricClassifier, Prototypes, Ridge
from metascale.models.perceptron import Perceptron
from metascale.models.svm import DAMPING, SupportVectors, _Dual, _length

BATCH = Batch({"x": torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), "other": torch.tensor([[5, 6]])}, torch.tensor([[0, 1]]))


@dataclass(frozen=True)
class Noting:
    """A model that writes down how it is called; x W + masks are its outputs."""

    calls: list[Any] = field(default_factory=list)
    batch_statistics: bool = True
    own_loss: bool = True
    loss: str = "hinge"
    task_execution: str = "processes"
    step: int = 0

    def at_step(self, step: int) -> Noting:
        return replace(self, step=step)

    def require_second_order(self) -> None:
        raise InputError("never twice")

    def init(self, seed: int) -> Params:
        return {"weight": torch.full((5, 2), float(seed)), "head.weight": torch.ones(1), "shared.weight": torch.ones(2)}

    def begin(self, params: Params, support: Batch) -> Params:
        self.calls.append(("begin", sorted(params), support.inputs["x"]))
        return {**params, "begun": torch.ones(1, 1)}

    def losses(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        self.calls.append(("losses", sorted(params), batch.inputs["x"], dropout))
        return torch.tensor([7.0])

    def predict(self, params: Params, batch: Batch, **more: Any) -> torch.Tensor:
        self.calls.append(("predict", sorted(params), batch.inputs["x"], more))
        return batch.inputs["x"]

    def features(self, params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        self.calls.append(("features", sorted(params), batch.inputs["x"], dropout))
        return batch.inputs["x"][..., :2].flatten(2)

    def output_losses(self, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        return torch.tensor([3.0])


class Bare:
    """A model that says nothing of itself but what it must."""

    task_execution = "stacked"

    def init(self, seed: int) -> Params:
        return {"weight": torch.ones(2, 2, dtype=torch.float64)}

    def features(self, params: Params, batch: Batch) -> torch.Tensor:
        return batch.inputs["x"]


def test_a_context_stands_beside_every_flattened_input() -> None:
    inner = Noting()
    model: Any = WithContext(inner, 3)  # type: ignore[arg-type]
    params = {"weight": torch.ones(1, 5, 2, dtype=torch.float64)}
    begun = model.begin(params, BATCH)
    assert begun.keys() == {"weight", "begun", "context"}
    assert (begun["context"].dtype, begun["context"].tolist()) == (torch.float64, [[0.0, 0.0, 0.0]])
    moved = {**begun, "context": torch.tensor([[0.5, 0.25, -1.0]], dtype=torch.float64)}
    assert model.losses(moved, BATCH, 4).tolist() == [7.0]
    assert model.losses(moved, BATCH).tolist() == [7.0]
    model.predict(moved, BATCH)
    model.predict(moved, BATCH, 6)
    model.features(moved, BATCH)
    model.features(params, BATCH)
    image = Batch({"x": BATCH.inputs["x"].view(1, 2, 2, 1)}, BATCH.targets)
    model.predict(moved, image)
    beside, zeros = [0.5, 0.25, -1.0], [0.0] * 3
    names = ["begun", "weight"]
    expected: list[Any] = [
        ("begin", ["weight"], zeros, ()), ("losses", names, beside, (4,)), ("losses", names, beside, (None,)),
        ("predict", names, beside, ({},)), ("predict", names, beside, ({"dropout": 6},)),
        ("features", names, beside, (None,)), ("features", ["weight"], zeros, (None,)),
        ("predict", names, beside, ({},)),
    ]  # fmt: skip
    for (kind, own, x, *rest), (wanted, keys, more, last) in zip(inner.calls, expected, strict=True):
        assert (kind, own, tuple(rest)) == (wanted, keys, tuple(last))
        assert x.tolist() == [[[1.0, 2.0, *more], [3.0, 4.0, *more]]]
        assert x.dtype == torch.float32, "the inputs' precision"


@pytest.mark.parametrize("wrap", [lambda m: WithContext(m, 1), lambda m: MetricClassifier(m, 2, Prototypes())])
def test_wrappers_say_of_a_model_what_it_says(wrap: Any) -> None:
    model, bare = wrap(Noting()), wrap(Bare())
    assert (model.batch_statistics, bare.batch_statistics) == (True, False)
    assert (model.task_execution, bare.task_execution) == ("processes", "stacked")
    assert model.at_step(3).model.step == 3
    assert replace(model, model=model.at_step(3).model) == model.at_step(3)
    assert bare.at_step(3) is bare
    with pytest.raises(InputError, match="never twice"):
        model.require_second_order()


def test_a_context_passes_on_the_loss() -> None:
    model, bare = WithContext(Noting(), 1), WithContext(Bare(), 1)  # type: ignore[arg-type]
    assert (model.own_loss, bare.own_loss) == (True, False)
    assert (model.loss, bare.loss) == ("hinge", None)
    assert model.output_losses(torch.ones(1), BATCH).tolist() == [3.0]
    assert model.init(2).keys() == {"weight", "head.weight", "shared.weight"}
    assert float(model.init(2)["weight"].max()) == 2.0


def test_a_metric_learner_leaves_the_model_s_head_out() -> None:
    """Parameters of a head stay behind, those of the metric never reach the model, and it is asked for features."""
    inner = Noting()
    model: Any = MetricClassifier(inner, None, Ridge(2.0, 4.0))  # type: ignore[arg-type]
    start = model.init(3)
    assert start.keys() == {"weight", "metric.log_ridge", "metric.log_scale"}
    assert float(start["weight"].max()) == 3.0
    assert [start[f"metric.log_{name}"].tolist() for name in ("ridge", "scale")] == [
        pytest.approx([math.log(2)]), pytest.approx([math.log(4)]),
    ]  # fmt: skip
    begun = model.begin(stack_tasks(start, 1), BATCH)
    assert begun.keys() == {*start, "metric.weight", "metric.bias"}
    assert begun["metric.weight"].shape == (1, 2, 2)
    inner.calls.clear()
    model.predict(begun, BATCH, 5)
    model.predict(begun, BATCH)
    assert [(kind, keys, dropout) for kind, keys, _, dropout in inner.calls] == [
        ("features", ["weight"], 5), ("features", ["weight"], None),
    ]  # fmt: skip
    bare: Any = MetricClassifier(Bare(), 2, Prototypes())  # type: ignore[arg-type]
    assert torch.equal(bare.features({}, BATCH, 5), BATCH.inputs["x"]), "its features know no dropout"
    assert bare.losses(bare.begin({}, BATCH), BATCH, 5).shape == (1,)


def test_a_metric_learner_s_numbers_by_hand() -> None:
    """Means (1, 2) and (3, 4) are the examples: logits 2 p·f − |p|², 5 and 6 − ... of (1, 2); then by three."""
    model: Any = MetricClassifier(Bare(), 2, Prototypes(), 3.0)  # type: ignore[arg-type]
    begun = model.begin({}, BATCH)
    logits = [[2 * 5 - 5, 2 * 11 - 25], [2 * 11 - 5, 2 * 25 - 25]]
    torch.testing.assert_close(model.predict(begun, BATCH), 3 * torch.tensor([logits]).float())
    losses = torch.log(1 + torch.exp(torch.tensor([3.0 * (-3 - 5), 3.0 * (17 - 25)])))
    torch.testing.assert_close(model.losses(begun, BATCH), losses.mean()[None])
    torch.testing.assert_close(model.output_losses(model.predict(begun, BATCH), BATCH), losses.mean()[None])
    three = model.begin({}, replace(BATCH, targets=torch.tensor([[1, 0]])))
    assert three["metric.bias"].tolist() == [[-25.0, -5.0]]
    free: Any = MetricClassifier(Bare(), None, Ridge())  # type: ignore[arg-type]
    params = {f"metric.log_{name}": torch.zeros(1, 1) for name in ("ridge", "scale")}
    assert free.begin(params, replace(BATCH, targets=torch.tensor([[0, 3]])))["metric.bias"].tolist() == [[0.0] * 4]


def test_ridge_by_hand() -> None:
    """One feature: f = (1, 2), λ = 3, α = 2: W = α Σ f y / (5 + 3), of classes 0 and 1 1/8 and 2/8, twice."""
    features, targets = torch.tensor([[[1.0], [2.0]]], dtype=torch.float64), torch.tensor([[0, 1]])
    params = {"metric.log_ridge": torch.tensor([[3.0]]).log(), "metric.log_scale": torch.tensor([[2.0]]).log()}
    weight, bias = Ridge().solve(params, features, targets, 3)
    torch.testing.assert_close(weight, torch.tensor([[[0.25, 0.5, 0.0]]], dtype=torch.float64), rtol=1e-6, atol=1e-9)
    assert (bias.dtype, bias.tolist()) == (torch.float64, [[0.0, 0.0, 0.0]])


def test_support_vectors_of_two_tasks_and_three_classes() -> None:
    """Two tasks together are each alone; in the features' precision; a scale for each; a bias of zeros."""
    machine = SupportVectors(0.5, 3.0)
    assert machine.init()["metric.log_scale"].tolist() == pytest.approx([math.log(3)])
    features = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, 1, 2, 0, 1, 2], [2, 2, 1, 1, 0, 0]])
    scales = {"metric.log_scale": torch.tensor([[0.0], [math.log(2)]])}
    weight, bias = machine.solve(scales, features, targets, 3)
    assert (weight.dtype, tuple(weight.shape)) == (torch.float32, (2, 3, 3))
    assert (bias.dtype, bias.tolist()) == (torch.float32, [[0.0] * 3] * 2)
    for task, factor in ((0, 1.0), (1, 2.0)):
        one = {"metric.log_scale": torch.zeros(1, 1)}
        alone, _ = machine.solve(one, features[task : task + 1], targets[task : task + 1], 3)
        torch.testing.assert_close(weight[task], factor * alone[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weight.sum(2), torch.zeros(2, 3), rtol=0, atol=1e-5)


def test_the_dual_programme_by_hand() -> None:
    """Q of two examples (1, 2) and (3, 0) and two classes, class by class; at most c where the class is its own."""
    features = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]], dtype=torch.float64)
    own = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    dual = _Dual.of(features, own, 0.25)
    damp = DAMPING * (5 + 9) / 2
    gram = [[5 + damp, 0, 3, 0], [0, 5 + damp, 0, 3], [3, 0, 9 + damp, 0], [0, 3, 0, 9 + damp]]
    torch.testing.assert_close(dual.quadratic[0], torch.tensor(gram, dtype=torch.float64), rtol=1e-15, atol=0)
    assert dual.linear.tolist() == [[1.0, 0.0, 0.0, 1.0]]
    assert dual.upper.tolist() == [[0.25, 0.0, 0.0, 0.25]]
    assert dual.sums.tolist() == [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
    assert dual.shape == (2, 2)


def test_the_longest_step_that_keeps_values_above_zero() -> None:
    """From (4, 2) along (−2, −4): to 2/4; nine tenths of it; at most 1 where nothing stops it."""
    values = torch.tensor([[4.0, 2.0], [4.0, 2.0], [1.0, 1.0]])
    steps = torch.tensor([[-2.0, -4.0], [2.0, 0.0], [-0.5, 3.0]])
    assert _length(values, steps, 1.0).tolist() == [[0.5], [1.0], [1.0]]
    torch.testing.assert_close(_length(values, steps, 0.9), torch.tensor([[0.45], [1.0], [1.0]]))


def test_metrics_by_the_names_of_their_methods() -> None:
    assert {name: make() for name, make in METRICS.items()} == {
        "protonet": Prototypes(), "r2d2": Ridge(1.0, 10.0), "metaoptnet": SupportVectors(0.1, 1.0),
    }  # fmt: skip


def test_wrapped_nets_of_this_room() -> None:
    context = WithContext(Perceptron(4, 3, loss="squared_error"), 2)
    assert (context.loss, context.own_loss, context.batch_statistics) == ("squared_error", False, False)
    assert context.at_step(2) is context
    conv = MetricClassifier(ConvNet(3, 8, depth=2, steps=2), 3, Prototypes())
    assert conv.at_step(1).model == ConvNet(3, 8, depth=2, steps=2, step=1)
    assert conv.batch_statistics
