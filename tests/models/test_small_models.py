"""The perceptron and the convolutional network: the contract, an independent computation, counts by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.trees import n_elements, require_grad, stack_tasks, to
from metascale.core.types import Batch, Params
from metascale.models.convnet import ConvNet
from metascale.models.perceptron import Perceptron, ResidualPerceptron
from metascale.testing.model_contract import MakeBatch, check_model
from metascale.training.flops import count_flops

SMALL_CONV = ConvNet(3, image_size=12, in_channels=2, width=4, depth=2)


def class_batches(*shape: int, n_classes: int = 3) -> MakeBatch:
    def make(n_tasks: int, n_examples: int, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(n_tasks, n_examples, *shape, generator=generator)
        targets = torch.arange(n_examples).remainder(n_classes).expand(n_tasks, n_examples)
        return Batch({"x": inputs}, targets)

    return make


def regression_batches(n_inputs: int, n_outputs: int) -> MakeBatch:
    def make(n_tasks: int, n_examples: int, seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        inputs = torch.randn(n_tasks, n_examples, n_inputs, generator=generator)
        return Batch({"x": inputs}, torch.randn(n_tasks, n_examples, n_outputs, generator=generator))

    return make


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_perceptrons_keep_the_contract(activation: Any, depth: int) -> None:
    model = Perceptron(6, 3, width=8, depth=depth, activation=activation)
    check_model(model, class_batches(6), dtype=torch.float64, smooth=activation != "relu")
    check_model(model, class_batches(2, 3), smooth=activation != "relu")


def test_a_residual_perceptron_keeps_the_contract_and_starts_from_its_inputs() -> None:
    model = ResidualPerceptron(6, 3, width=8)
    check_model(model, class_batches(6), dtype=torch.float64, smooth=False)
    batch = class_batches(6)(2, 4, 0)
    params = stack_tasks(model.init(0), 2)
    torch.testing.assert_close(model.features(params, batch), batch.inputs["x"])
    grown = {**params, "scale": params["scale"] + math.log(3), "layer1.bias": params["layer1.bias"] + 1}
    torch.testing.assert_close(model.features(grown, batch), 3 * (batch.inputs["x"] + 1))


def test_a_regression_perceptron_keeps_the_contract() -> None:
    model = Perceptron(2, 3, width=8, depth=2, activation="tanh", loss="squared_error")
    check_model(model, regression_batches(2, 3), dtype=torch.float64, smooth=True)


@pytest.mark.parametrize("channels_last", [True, False])
def test_convolutional_networks_keep_the_contract(channels_last: bool) -> None:
    model = ConvNet(3, image_size=12, in_channels=2, width=4, depth=2, channels_last=channels_last)
    check_model(model, class_batches(2, 12, 12), dtype=torch.float64, batch_statistics=True)


def test_a_perceptron_with_dropout_keeps_the_contract() -> None:
    """Every example keeps its own masks, in whatever part of the batch it comes."""
    model = Perceptron(6, 3, width=8, depth=2, activation="tanh", dropout=0.3, ratio=0.5)
    check_model(model, class_batches(6), dtype=torch.float64, smooth=True, drops_out=True)


@pytest.mark.parametrize("head", ["shared", "zero", "prototype"])
def test_heads_made_for_every_task_keep_the_contract(head: Any) -> None:
    model = Perceptron(6, 3, width=8, depth=2, activation="tanh", head=head)
    check_model(model, class_batches(6), dtype=torch.float64, smooth=True)
    conv = ConvNet(3, image_size=12, in_channels=2, width=4, depth=2, head=head)
    check_model(conv, class_batches(2, 12, 12), dtype=torch.float64, batch_statistics=True)


def test_before_adaptation_a_uniform_head_loses_ln_c_and_a_prototype_head_tells_distances() -> None:
    batch = class_batches(6)(2, 6, 0)
    for head in ("shared", "zero"):
        model = Perceptron(6, 3, width=8, head=head)  # type: ignore[arg-type]
        params = model.begin(stack_tasks(model.init(0), 2), batch)
        torch.testing.assert_close(model.losses(params, batch), torch.full((2,), math.log(3)))
    model = Perceptron(6, 3, width=8, head="prototype")
    params = model.begin(stack_tasks(model.init(0), 2), batch)
    features = model.features(params, batch)
    means = torch.stack([features[:, label::3].mean(1) for label in range(3)], 1)
    distances = (features.unsqueeze(2) - means.unsqueeze(1)).square().sum(-1)
    logits = model.predict(params, batch)
    torch.testing.assert_close(logits.diff(dim=-1), -distances.diff(dim=-1), rtol=1e-4, atol=1e-4)


def test_a_head_made_for_every_task_needs_tasks_of_classes() -> None:
    for build in (
        lambda: Perceptron(6, 3, head="zero", task_axis=False),
        lambda: Perceptron(6, 3, head="prototype", loss="squared_error"),
        lambda: ConvNet(3, head="shared", norm="group"),
    ):
        with pytest.raises(InputError, match="is of tasks of classes; elsewhere the head is 'learned'"):
            build()
    with pytest.raises(InputError, match="there is no head 'none'; allowed are 'learned'"):
        Perceptron(6, 3, head="none")  # type: ignore[arg-type]


def test_supervised_gradients_are_those_of_the_same_net_with_a_task_axis() -> None:
    """One net in both layouts: linear maps [out, in] of one task, [T, in, out] of many."""
    one = Perceptron(6, 3, width=8, depth=3, activation="gelu", task_axis=False)
    many = Perceptron(6, 3, width=8, depth=3, activation="gelu")
    params, batch = to(one.init(0), dtype=torch.float64), class_batches(6)(1, 7, 1).to(dtype=torch.float64)
    leaves = require_grad(params)
    stacked = {
        name: value.t().unsqueeze(0) if value.ndim == 2 else value.unsqueeze(0) for name, value in leaves.items()
    }
    loss, each = one.objective(leaves, batch.map(lambda value: value[0]))
    expected = many.losses(stacked, batch)
    torch.testing.assert_close(loss, expected[0])
    torch.testing.assert_close(each.mean(), expected[0].detach())
    grads = torch.autograd.grad(loss, list(leaves.values()))
    torch.testing.assert_close(grads, torch.autograd.grad(expected[0], list(leaves.values())))


def distinct_tasks(model: Perceptron | ConvNet, n_tasks: int) -> Params:
    """Other parameters for every task, gains and biases included."""
    generator = torch.Generator().manual_seed(5)
    stacked = stack_tasks(to(model.init(0), dtype=torch.float64), n_tasks)
    return {
        name: value + 0.3 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in stacked.items()
    }


def plain_perceptron(model: Perceptron, params: Params, x: torch.Tensor) -> torch.Tensor:
    """One task, written with torch's own layers."""
    nonlinear: Callable[..., torch.Tensor] = {"relu": F.relu, "tanh": torch.tanh, "gelu": F.gelu}[model.activation]
    hidden = x.flatten(1)
    for index in range(model.depth):
        hidden = nonlinear(F.linear(hidden, params[f"layer{index}.weight"].T, params[f"layer{index}.bias"]))
    return F.linear(hidden, params["head.weight"].T, params["head.bias"])


def plain_convnet(model: ConvNet, params: Params, x: torch.Tensor) -> torch.Tensor:
    """One task, written with torch's own layers; the statistics are those of the batch."""
    hidden = x
    for index in range(model.depth):
        hidden = F.conv2d(hidden, params[f"block{index}.weight"], padding=1)
        mean, variance = hidden.mean((0, 2, 3), keepdim=True), hidden.var((0, 2, 3), unbiased=False, keepdim=True)
        gain, shift = (params[f"block{index}.{name}"].view(1, -1, 1, 1) for name in ("gain", "shift"))
        hidden = F.relu((hidden - mean) / (variance + 1e-5).sqrt() * gain + shift)
        hidden = F.max_pool2d(hidden, 2)
    return F.linear(hidden.flatten(1), params["head.weight"].T, params["head.bias"])


@pytest.mark.parametrize("model", [SMALL_CONV, ConvNet(5, image_size=28, width=3, depth=4)])
@pytest.mark.parametrize("n_tasks", [1, 3])
def test_a_grouped_convolution_is_one_plain_network_a_task(model: ConvNet, n_tasks: int) -> None:
    batch = class_batches(model.in_channels, model.image_size, model.image_size)(n_tasks, 7, 1).to(dtype=torch.float64)
    params = distinct_tasks(model, n_tasks)
    found = model.predict(params, batch)
    losses = model.losses(params, batch)
    for task in range(n_tasks):
        own = {name: value[task] for name, value in params.items()}
        expected = plain_convnet(model, own, batch.inputs["x"][task])
        torch.testing.assert_close(found[task], expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(losses[task], F.cross_entropy(expected, batch.targets[task]), rtol=1e-10, atol=1e-10)
    assert model.features(params, batch).shape == (n_tasks, 7, model.n_features)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_a_batched_perceptron_is_one_plain_network_a_task(activation: Any) -> None:
    model = Perceptron(6, 3, width=8, depth=3, activation=activation)
    batch, params = class_batches(2, 3)(3, 7, 1).to(dtype=torch.float64), distinct_tasks(model, 3)
    found = model.predict(params, batch)
    for task in range(3):
        own = {name: value[task] for name, value in params.items()}
        expected = plain_perceptron(model, own, batch.inputs["x"][task])
        torch.testing.assert_close(found[task], expected, rtol=1e-12, atol=1e-12)


def test_squared_error_is_the_mean_over_examples_and_outputs() -> None:
    model = Perceptron(1, 2, width=4, depth=1, loss="squared_error")
    batch = Batch({"x": torch.zeros(1, 2, 1)}, torch.tensor([[[1.0, 2.0], [3.0, 0.0]]]))
    params = stack_tasks({name: torch.zeros_like(value) for name, value in model.init(0).items()}, 1)
    assert model.losses(params, batch).tolist() == [(1 + 4 + 9 + 0) / 4]


def test_parameter_count_of_the_published_network() -> None:
    """Four blocks of 64 filters on 28×28, 5-way; published implementations add a bias of 64 to each convolution."""
    weights = 9 * 1 * 64 + 3 * (9 * 64 * 64)
    gains_and_shifts = 4 * 2 * 64
    head = 64 * 1 * 1 * 5 + 5
    model = ConvNet(n_classes=5)
    assert n_elements(model.init(0)) == weights + gains_and_shifts + head == 112_005
    assert n_elements(model.init(0)) + 4 * 64 == 112_261, "with the biases that the normalisation takes out"


@pytest.mark.parametrize(("size", "n_blocks", "side"), [(28, 4, 1), (84, 4, 5), (8, 3, 1), (12, 2, 3)])
def test_parameter_count_and_features_of_other_shapes(size: int, n_blocks: int, side: int) -> None:
    model = ConvNet(7, image_size=size, in_channels=3, width=6, depth=n_blocks)
    assert model.n_features == 6 * side**2
    convolutions = 9 * 3 * 6 + (n_blocks - 1) * 9 * 6 * 6
    assert n_elements(model.init(0)) == convolutions + 2 * 6 * n_blocks + model.n_features * 7 + 7
    images = torch.randn(2, 3, 3, size, size, generator=torch.Generator().manual_seed(0))
    batch = Batch({"x": images}, torch.zeros(2, 3, dtype=torch.long))
    assert model.predict(stack_tasks(model.init(0), 2), batch).shape == (2, 3, 7)


@pytest.mark.parametrize(("depth", "count"), [(1, 6 * 8 + 8 + 8 * 3 + 3), (3, 6 * 8 + 8 + 2 * (8 * 8 + 8) + 8 * 3 + 3)])
def test_parameter_count_of_a_perceptron(depth: int, count: int) -> None:
    assert n_elements(Perceptron(6, 3, width=8, depth=depth).init(0)) == count


def test_too_many_blocks_are_refused() -> None:
    message = "an image of 28x28 pixels allows at most 4 blocks of 2x2 pooling, not 5"
    with pytest.raises(InputError, match=message):
        ConvNet(5, image_size=28, depth=5)
    with pytest.raises(InputError, match="8x8 pixels allows at most 3 blocks"):
        ConvNet(5, image_size=8, depth=4)
    ConvNet(5, image_size=8, depth=3)


def test_initial_weights_have_the_published_spread() -> None:
    """He et al. 2015 eq. 10 for the hidden layers, 1/√width for the head; Glorot's uniform bound for convolutions."""
    params = Perceptron(400, 50, width=300, depth=2).init(0)
    assert float(params["layer0.weight"].std()) == pytest.approx(math.sqrt(2 / 400), rel=0.02)
    assert float(params["layer1.weight"].std()) == pytest.approx(math.sqrt(2 / 300), rel=0.02)
    assert float(params["head.weight"].std()) == pytest.approx(math.sqrt(1 / 300), rel=0.02)
    conv = ConvNet(5).init(0)
    for name, bound in (
        ("block0.weight", math.sqrt(6 / (9 * (1 + 64)))),
        ("block3.weight", math.sqrt(6 / (9 * (64 + 64)))),
        ("head.weight", math.sqrt(6 / (64 + 5))),
    ):
        largest = float(conv[name].abs().max())
        assert 0.97 * bound < largest <= bound
        assert abs(float(conv[name].mean())) < 0.1 * bound
    for params_of_model in (params, conv):
        for name, value in params_of_model.items():
            if name.endswith((".bias", ".shift")):
                assert not value.any()
            if name.endswith(".gain"):
                assert bool((value == 1).all())
    assert not torch.equal(conv["block1.weight"], conv["block2.weight"]), "layers of one shape draw their own numbers"


def test_initial_weights_are_the_first_numbers_of_the_stream_of_their_name() -> None:
    """Recorded results rest on these numbers: they must not change with the code."""

    def stream(seed: int, name: str) -> torch.Generator:
        return torch_generator(seed, "init", name)

    many, one = Perceptron(6, 3, width=8, depth=1).init(4), Perceptron(6, 3, width=8, depth=1, task_axis=False).init(4)
    hidden, head = math.sqrt(2 / 6), 1 / math.sqrt(8)
    assert torch.equal(many["layer0.weight"], torch.randn(6, 8, generator=stream(4, "layer0")) * hidden)
    assert torch.equal(many["head.weight"], torch.randn(8, 3, generator=stream(4, "head")) * head)
    assert torch.equal(one["layer0.weight"], torch.randn(8, 6, generator=stream(4, "layer0")) * hidden)
    assert torch.equal(one["head.weight"], torch.randn(3, 8, generator=stream(4, "head")) * head)
    batch, group = (ConvNet(3, 8, width=4, depth=2, norm=norm).init(4) for norm in ("batch", "group"))
    bound = math.sqrt(6 / (9 * 8))
    uniform = torch.empty(4, 4, 3, 3).uniform_(-bound, bound, generator=stream(4, "block1"))
    assert torch.equal(batch["block1.weight"], uniform)
    normal = torch.randn(4, 4, 3, 3, generator=stream(4, "block1")) * math.sqrt(2 / (9 * 4))
    assert torch.equal(group["block1.weight"], normal)
    assert torch.equal(group["head.weight"], torch.randn(3, 4, generator=stream(4, "head")) / 2)


FIRST_BLOCK = 14**2 * 4 * 64 * 16
"""Multiply-adds an image: four candidates of 4×4 weights for every pooled output."""
LATER_BLOCKS = (14**2 + 7**2 + 3**2) * 64 * 9 * 64


def moments_by_hand(n_tasks: int, n_examples: int) -> int:
    """Multiply-adds of the patches' covariance [9, 9] and of the mean and variance of its 64 linear functions."""
    return n_tasks * (n_examples * 28**2 * 9 * 9 + 64 * 9 * (9 + 1))


@pytest.mark.parametrize("n_tasks", [1, 4])
def test_flops_of_a_forward_pass_by_hand(n_tasks: int) -> None:
    """A multiply-add is two; every convolution keeps the size of its input, every block halves it."""
    conv, n_examples = ConvNet(5), 3
    batch = class_batches(1, 28, 28, n_classes=3)(n_tasks, n_examples, 0)
    params = stack_tasks(conv.init(0), n_tasks)
    by_hand = n_tasks * n_examples * (FIRST_BLOCK + LATER_BLOCKS + 64 * 5) + moments_by_hand(n_tasks, n_examples)
    assert count_flops(lambda: conv.losses(params, batch)) == 2 * by_hand
    mlp = Perceptron(784, 5, width=64, depth=2)
    params = stack_tasks(mlp.init(0), n_tasks)
    by_hand = 784 * 64 + 64 * 64 + 64 * 5
    assert count_flops(lambda: mlp.losses(params, batch)) == 2 * n_tasks * n_examples * by_hand


def gradient_flops(model: Perceptron | ConvNet, batch: Batch) -> float:
    leaves = require_grad(stack_tasks(model.init(0), batch.n_tasks))
    return count_flops(lambda: torch.autograd.grad(model.losses(leaves, batch).sum(), list(leaves.values())))


def test_flops_of_a_gradient_by_hand() -> None:
    """The backward pass costs the forward pass twice, but for the gradient of the images, which nobody asks for."""
    batch = class_batches(1, 28, 28)(1, 3, 0)
    folding = 64 * 9 * (9 + 1)  # back through mean and variance: the covariance is symmetric, but torch cannot know
    by_hand = 3 * (2 * FIRST_BLOCK + 3 * (LATER_BLOCKS + 64 * 5)) + moments_by_hand(1, 3) + folding
    assert gradient_flops(ConvNet(5), batch) == 2 * by_hand
    batch = class_batches(784)(4, 3, 0)
    layers = [784 * 64, 64 * 64, 64 * 5]
    assert gradient_flops(Perceptron(784, 5), batch) == 2 * 4 * 3 * (3 * sum(layers) - layers[0])


@pytest.mark.xfail(reason="torch's counter takes a grouped backward for an ungrouped one", strict=True)
def test_flops_of_a_gradient_grow_with_the_number_of_tasks() -> None:
    one, four = (gradient_flops(SMALL_CONV, class_batches(2, 12, 12)(n, 3, 0)) for n in (1, 4))
    assert four == 4 * one
