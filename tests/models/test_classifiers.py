"""Supervised classifiers: sizes and operations by hand, independence of the batch, gradients, dropout; one task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.trees import add, dot, n_elements, norm, require_grad, scale, to
from metascale.core.types import Batch, Params
from metascale.models.convnet import ConvNet, group_normalised, init_convolution
from metascale.models.network import OneTask
from metascale.models.perceptron import Perceptron
from metascale.models.resnet import ResNet
from metascale.models.widths import layer_widths
from metascale.testing.model_contract import generators_untouched
from metascale.training.flops import count_flops


def perceptron(n_inputs: int, **settings: Any) -> Perceptron:
    return Perceptron(n_inputs, 10, task_axis=False, **settings)


def conv_net(image_size: int = 8, **settings: Any) -> ConvNet:
    return ConvNet(10, image_size, norm="group", **settings)


MODELS: dict[str, Any] = {
    "perceptron": perceptron(64, width=12, depth=3, activation="gelu", dropout=0.3),
    "convolutional": conv_net(width=8, depth=3, dropout_inner=0.2, dropout=0.2),
    "residual": ResNet(width=4, n_blocks=2, dropout=0.3),
    "one task": OneTask(Perceptron(64, 10, 12, activation="tanh")),
}


def images(n: int, size: int = 8) -> Batch:
    x = torch.randn(n, 1, size, size, dtype=torch.float64, generator=torch_generator(0, "images"))
    return Batch({"x": x, "index": torch.arange(n)}, torch.arange(n) % 10)


def near_init(model: Any) -> Params:
    return {
        name: value.double() + 0.1 * torch.randn(value.shape, generator=torch_generator(1, name)).double()
        for name, value in model.init(0).items()
    }


@pytest.mark.parametrize("name", MODELS)
def test_losses_are_the_cross_entropy_of_predictions_and_each_example_stands_alone(name: str) -> None:
    model, batch = MODELS[name], images(7)
    params = near_init(model)
    with generators_untouched():
        logits, losses = model.predict(params, batch), model.losses(params, batch)
        loss, detached = model.objective(params, batch)
    torch.testing.assert_close(losses, F.cross_entropy(logits, batch.targets, reduction="none"))
    torch.testing.assert_close(loss, losses.mean())
    torch.testing.assert_close(detached, losses)
    alone = torch.cat([model.predict(params, batch.map(lambda v, i=i: v[i : i + 1])) for i in range(7)])
    torch.testing.assert_close(alone, logits, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_central_differences(name: str) -> None:
    model, batch, params = MODELS[name], images(5), near_init(MODELS[name])
    leaves = require_grad(params)
    loss, _ = model.objective(leaves, batch)
    grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    direction = {k: torch.randn(v.shape, generator=torch_generator(2, k)).double() for k, v in params.items()}
    direction = scale(direction, 1e-7 / float(norm(direction)))
    upper, lower = (model.objective(add(params, direction, s), batch)[0] for s in (1, -1))
    assert float(upper - lower) / 2 == pytest.approx(float(dot(grads, direction)), rel=1e-5, abs=1e-13)


@pytest.mark.parametrize("name", ["perceptron", "convolutional", "residual"])
def test_dropout_is_for_training_alone(name: str) -> None:
    model, batch, params = MODELS[name], images(5), near_init(MODELS[name])
    losses = {key: model.objective(params, batch, key)[1] for key in (None, 7, 8)}
    assert torch.equal(losses[7], model.objective(params, batch, 7)[1])
    assert not torch.equal(losses[7], losses[8])
    assert torch.equal(losses[None], model.losses(params, batch))
    assert not torch.equal(losses[None], losses[7])


def test_a_residual_network_by_hand() -> None:
    """n = 3, w = 16 on colour images is ResNet-20, with 0.27 M parameters (He et al. 2015b, table 6)."""
    model = ResNet(10, in_channels=3, width=16, n_blocks=3)
    assert model.n_layers == 20
    convolutions = 9 * (3 * 16 + 6 * 16**2 + (16 * 32 + 5 * 32**2) + (32 * 64 + 5 * 64**2))
    gains = 2 * (16 + 6 * 16 + 6 * 32 + 6 * 64)
    assert model.n_params() == n_elements(model.init(0)) == convolutions + gains + 64 * 10 + 10 == 269_722
    batch = Batch({"x": torch.zeros(2, 3, 32, 32)}, torch.zeros(2, dtype=torch.long))
    params = model.init(0)
    assert count_flops(lambda: model.predict(params, batch)) == 2 * sum(model.flops(32).values())


@pytest.mark.parametrize("size", [8, 28])
def test_operations_and_sizes_of_the_others(size: int) -> None:
    batch = to_single(images(3, size))
    for depth in (1, 2, 3, 4):
        conv = conv_net(size, width=8, depth=depth)
        assert conv.n_params() == 9 * 8 + (depth - 1) * 9 * 64 + depth * 16 + 8 * 10 + 10
        params = conv.init(0)
        assert count_flops(lambda conv=conv, params=params: conv.predict(params, batch)) == 3 * sum(
            conv.flops().values()
        )
    dense = perceptron(size**2, width=16, depth=3)
    assert dense.n_params() == size**2 * 16 + 16 + 2 * (16 * 16 + 16) + 16 * 10 + 10
    params = dense.init(0)
    assert count_flops(lambda: dense.predict(params, batch)) == 3 * sum(dense.flops().values())


def test_tapered_and_widening_nets_by_hand() -> None:
    """Widths lie on a logarithmic line from the first to ``ratio`` times it: 16, 8, 4 and 4, 8, 16."""
    assert layer_widths(16, 3, 0.25) == (16, 8, 4)
    assert layer_widths(4, 4, 8.0) == (4, 8, 16, 32)
    assert layer_widths(1, 2, 0.1) == (1, 1), "a layer keeps one unit"
    batch = to_single(images(3))
    dense = perceptron(64, width=16, depth=3, ratio=0.25)
    assert dense.n_params() == 64 * 16 + 16 + 16 * 8 + 8 + 8 * 4 + 4 + 4 * 10 + 10
    conv = conv_net(width=4, depth=3, ratio=4.0)
    assert conv.n_params() == 9 * (4 + 4 * 8 + 8 * 16) + 2 * (4 + 8 + 16) + 16 * 10 + 10
    for model, forward in ((dense, dense.flops()), (conv, conv.flops())):
        params = model.init(0)
        counted = count_flops(lambda model=model, params=params: model.predict(params, batch))
        assert counted == 3 * sum(forward.values())
    with pytest.raises(InputError, match="ratio must be 1 at depth 1, not 2"):
        perceptron(4, depth=1, ratio=2.0)
    with pytest.raises(InputError, match=r"ratio of the widths .* must be above 0, not 0"):
        conv_net(ratio=0.0)


def to_single(batch: Batch) -> Batch:
    return batch.to(dtype=torch.float32)


@pytest.mark.parametrize(("width", "n_groups"), [(16, 8), (12, 4), (5, 1)])
def test_groups_of_the_normalisation(width: int, n_groups: int) -> None:
    params = init_convolution(0, "c", 1, width)
    images_in = torch.randn(2, 1, 6, 6, generator=torch_generator(0, "groups"))
    raw = F.conv2d(images_in, params["c.weight"], padding=1).view(2, n_groups, -1)
    expected = (raw - raw.mean(-1, keepdim=True)) / (raw.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(group_normalised(params, "c", images_in), expected.view(2, width, 6, 6))


def test_one_task_is_the_model_of_many_tasks() -> None:
    inner = Perceptron(64, 10, 12)
    model, batch = OneTask(inner), to_single(images(6))
    params = model.init(4)
    stacked = {name: value.unsqueeze(0) for name, value in params.items()}
    one = batch.map(lambda value: value.unsqueeze(0))
    torch.testing.assert_close(model.predict(params, batch), inner.predict(stacked, one)[0])
    torch.testing.assert_close(model.losses(params, batch).mean(), inner.losses(stacked, one)[0])
    regression = OneTask(Perceptron(2, 3, 4, loss="squared_error"))
    real = Batch({"x": torch.ones(5, 2)}, torch.zeros(5, 3))
    loss, losses = regression.objective(regression.init(0), real)
    torch.testing.assert_close(loss, losses.mean())


def test_a_network_with_statistics_of_the_batch_is_refused() -> None:
    with pytest.raises(InputError, match="use ConvNet with norm='group' or ResNet"):
        OneTask(ConvNet(5))


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="depth of the perceptron must be at least 1, not 0"):
        perceptron(4, depth=0)
    with pytest.raises(InputError, match="dropout of the residual network"):
        ResNet(dropout=1.0)
    with pytest.raises(InputError, match="dropout of the convolutional network needs norm='group'"):
        ConvNet(5, dropout=0.1)


def test_double_precision_is_kept() -> None:
    for model in MODELS.values():
        assert model.predict(to(model.init(0), dtype=torch.float64), images(2)).dtype == torch.float64
