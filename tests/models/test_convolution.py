"""The operations of the convolutional network against PyTorch's own, up to their last derivative."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from metascale.core.errors import InputError
from metascale.core.trees import require_grad, stack_tasks, to
from metascale.core.types import Batch, Episode
from metascale.meta.inner import InnerLoop
from metascale.meta.multi_step import MultiStepMAML
from metascale.models.convnet import ConvNet
from metascale.models.kernels.convolution import convolve
from metascale.models.kernels.pooling import normalised_pooling, patch_moments, pooled_patches
from metascale.models.module import Module
from metascale.training.flops import count_flops
from metascale.training.optimizers import SGD

Operation = Callable[..., torch.Tensor]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def derivatives(operation: Operation, values: Sequence[torch.Tensor], order: int) -> list[torch.Tensor]:
    """The value and ``order`` derivatives, each along fixed random directions of all that came before."""
    leaves = [value.detach().clone(memory_format=torch.preserve_format).requires_grad_() for value in values]
    found = [operation(*leaves)]
    results = [*found]
    for level in range(order):
        slope = sum(
            (value * normal(*value.shape, seed=100 * level + number)).sum() for number, value in enumerate(found)
        )
        found = list(torch.autograd.grad(slope, leaves, create_graph=level + 1 < order, materialize_grads=True))
        results += found
    return [result.detach() for result in results]


def tangent(operation: Operation, values: Sequence[torch.Tensor], moving: Sequence[int]) -> torch.Tensor:
    """The derivative along random directions of the chosen arguments, in forward mode and without history."""
    with torch.no_grad(), warnings.catch_warnings(), forward_ad.dual_level():
        # torch scripts its own rules at the first use and warns that scripting is deprecated.
        warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
        duals = [
            forward_ad.make_dual(value, normal(*value.shape, seed=7 + index)) if index in moving else value
            for index, value in enumerate(values)
        ]
        return forward_ad.unpack_dual(operation(*duals)).tangent.clone()


def assert_same(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 3])
def test_a_convolution_has_the_derivatives_of_torchs(groups: int, layout: torch.memory_format) -> None:
    x = normal(2, 2 * groups, 5, 4, seed=1).contiguous(memory_format=layout)
    weight = normal(4 * groups, 2, 3, 3, seed=2)
    values = (x, weight)

    def plain(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weight, padding=1, groups=groups)

    def own(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return convolve(x, weight, groups)

    # Squared, so that there is something left of the third derivative.
    assert_same(
        derivatives(lambda *v: own(*v).square(), values, 3), derivatives(lambda *v: plain(*v).square(), values, 3)
    )
    for moving in ((0,), (1,), (0, 1)):
        assert_same([tangent(own, values, moving)], [tangent(plain, values, moving)])


def test_a_convolution_keeps_the_layout_through_both_derivatives() -> None:
    x = normal(2, 4, 6, 6, seed=1).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = normal(8, 4, 3, 3, seed=2).requires_grad_()
    output = convolve(x, weight)
    (grad,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), x)
    for value in (output, grad, second):
        assert value.is_contiguous(memory_format=torch.channels_last)


def composed_pooling(x: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    normal = (x - mean) / (variance + 1e-5).sqrt() * gain[:, None, None] + shift[:, None, None]
    return F.max_pool2d(normal, 2).relu()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(4, 6), (7, 5), (3, 3)])
def test_normalised_pooling_has_both_derivatives(size: tuple[int, int], layout: torch.memory_format) -> None:
    x = 2 + 3 * normal(3, 4, *size, seed=1).contiguous(memory_format=layout)
    gain, shift = torch.tensor([1.5, -0.7, 0.0, 0.2]).double(), torch.tensor([0.3, -0.1, 0.4, 0.0]).double()
    values = (x, gain, shift)
    assert_same(derivatives(normalised_pooling, values, 3), derivatives(composed_pooling, values, 3))
    for moving in ((0,), (1,), (2,), (0, 1, 2)):
        assert_same([tangent(normalised_pooling, values, moving)], [tangent(composed_pooling, values, moving)])


def test_a_channel_without_variance_has_finite_derivatives() -> None:
    x = torch.cat([torch.full((2, 1, 4, 4), 3.0).double(), normal(2, 1, 4, 4, seed=1)], dim=1)
    values = (x, torch.ones(2).double(), torch.ones(2).double())
    found = derivatives(normalised_pooling, values, 2)
    expected = derivatives(composed_pooling, values, 2)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)  # 1/sqrt(ε) and its cube amplify the rounding


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (3, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pooled_patches_are_a_pooled_convolution(
    channels: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metascale.models.kernels.pooling.PATCHES_AT_ONCE", 10)
    images = normal(2, 3, channels, *size, seed=1)
    images[:, 0] = images[:, 0].clamp_min(1.0)  # constant stretches: every candidate is the largest
    weight, shift = normal(2, 4, channels, 3, 3, seed=2), normal(2, 4, seed=3)
    values = (weight, shift)

    def plain(weight: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        tasks = [F.conv2d(images[t], weight[t], shift[t], padding=1) for t in range(2)]
        return torch.stack([F.max_pool2d(task, 2).relu().permute(0, 2, 3, 1) for task in tasks])

    def own(weight: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return pooled_patches(images, weight, shift)

    assert_same(
        derivatives(lambda *v: own(*v).square(), values, 3), derivatives(lambda *v: plain(*v).square(), values, 3)
    )
    for moving in ((0,), (1,), (0, 1)):
        assert_same([tangent(own, values, moving)], [tangent(plain, values, moving)])


def test_pooled_patches_refuse_a_derivative_in_the_images() -> None:
    values = (normal(1, 2, 1, 4, 4, seed=1), normal(1, 3, 1, 3, 3, seed=2), normal(1, 3, seed=3))
    with pytest.raises(NotImplementedError, match="no derivative in the images"):
        tangent(pooled_patches, values, (0,))


def test_moments_of_patches_give_those_of_a_convolution() -> None:
    images, weight = 5 + normal(2, 3, 2, 7, 6, seed=1), normal(2, 4, 2, 3, 3, seed=2)
    mean, covariance = patch_moments(images)
    for task in range(2):
        output = F.conv2d(images[task], weight[task], padding=1)
        rows = weight[task].flatten(1)
        torch.testing.assert_close(rows @ mean[task], output.mean((0, 2, 3)))
        variance = (rows @ covariance[task] * rows).sum(1)
        torch.testing.assert_close(variance, output.var((0, 2, 3), unbiased=False))


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_network_has_derivatives_in_its_images(channels_last: bool) -> None:
    """Images that need a gradient take the general path; it gives the same losses and gradients."""
    model = ConvNet(3, image_size=7, in_channels=2, width=4, depth=2, channels_last=channels_last)
    params = require_grad(stack_tasks(to(model.init(0), dtype=torch.float64), 2))
    images, targets = normal(2, 5, 2, 7, 7, seed=1), torch.arange(5).remainder(3).expand(2, 5)
    losses = model.losses(params, Batch({"x": images}, targets))
    leaf = images.clone().requires_grad_()
    general = model.losses(params, Batch({"x": leaf}, targets))
    assert_same([general], [losses])
    expected = torch.autograd.grad(losses.sum(), list(params.values()))
    *found, for_images = torch.autograd.grad(general.sum(), [*params.values(), leaf])
    assert_same(found, expected)
    step = 1e-6 * normal(*images.shape, seed=2)
    upper, lower = (model.losses(params, Batch({"x": images + sign * step}, targets)).sum() for sign in (1, -1))
    assert float((upper - lower).detach() / 2) == pytest.approx(float((for_images * step).sum()), rel=1e-5)


def test_a_hessian_product_costs_nine_convolutions() -> None:
    """One forward; two for the gradient; two forward and four backward for the product: none is done twice."""
    x, weight = normal(2, 4, 8, 8, seed=1).requires_grad_(), normal(4, 4, 3, 3, seed=2).requires_grad_()
    one = 2 * x.numel() * 9 * 4

    def product() -> None:
        grads = torch.autograd.grad(convolve(x, weight).pow(3).sum(), [x, weight], create_graph=True)
        torch.autograd.grad(grads, [x, weight], [normal(*grad.shape, seed=3) for grad in grads])

    assert count_flops(product) == 9 * one


def test_gains_and_shifts_of_single_steps_are_those_of_a_torch_module() -> None:
    """The network of MAML++ beside `Module` on torch's layers: losses, and the gradient of every meta-parameter."""
    n_steps, width = 2, 4
    own = ConvNet(3, image_size=8, width=width, depth=2, steps=n_steps)
    theta = to(own.init(1), dtype=torch.float64)
    assert theta["block1.gain"].shape == theta["block0.shift"].shape == (n_steps, width)
    theta |= {name: normal(*value.shape, seed=5) + 1 for name, value in theta.items() if value.shape[0] == n_steps}
    layers: list[torch.nn.Module] = []
    for n_in in (1, width):
        norm = torch.nn.BatchNorm2d(width, track_running_stats=False)
        layers += [torch.nn.Conv2d(n_in, width, 3, padding=1, bias=False), norm, torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    net = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4 * width, 3)).double()
    named = {"0": "block0", "1": "block0", "4": "block1", "5": "block1", "9": "head"}
    kinds = {"1.weight": "gain", "1.bias": "shift", "5.weight": "gain", "5.bias": "shift"}
    module = Module(net, batch_statistics="per_step", steps=n_steps)
    names = {name: f"{named[name.split('.')[0]]}.{kinds.get(name, name.split('.')[1])}" for name in module.init(0)}
    # The head of ours reads [channel, y, x] as flattened, [in, out].
    other = {name: theta[key].T if name == "9.weight" else theta[key] for name, key in names.items()}
    targets = torch.arange(6).remainder(3).expand(2, 6)
    support, query = (Batch({"x": normal(2, 6, 1, 8, 8, seed=seed)}, targets) for seed in (8, 9))
    episode = Episode(("a", "b"), support, query)
    rates = {"ours": ("*.weight", "head.bias"), "torch": ("0.*", "4.*", "9.*")}
    inner, torchs = (InnerLoop(SGD(0.1), n_steps, adapt=adapt) for adapt in rates.values())
    for multi_step in (0, 10):
        found, report = MultiStepMAML(inner, multi_step=multi_step)(own, theta, episode, None)
        expected, told = MultiStepMAML(torchs, multi_step=multi_step)(module, other, episode, None)
        torch.testing.assert_close(report.query_loss, told.query_loss, rtol=1e-9, atol=1e-10)
        for name, key in names.items():
            ours = found[key].T if name == "9.weight" else found[key]
            torch.testing.assert_close(ours, expected[name], rtol=1e-7, atol=1e-9)
    stacked = stack_tasks(theta, 2)
    late, last, first = (own.at_step(step).losses(stacked, support) for step in (7, 1, 0))
    assert late.equal(last)
    assert not last.equal(first)


@pytest.mark.parametrize("settings", [{"steps": -1}, {"steps": 2, "norm": "group"}])
def test_steps_outside_their_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="steps of the convolutional network") as caught:
        ConvNet(3, **settings)
    assert caught.value.field == "steps"
