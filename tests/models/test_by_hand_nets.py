"""Perceptrons and convolutional nets by hand: heads, dropout's masks by name, layouts, counts, one task."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from metascale.core.dropout import DropoutMasks, mask_like
from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.trees import stack_tasks, to
from metascale.core.types import Batch, Params
from metascale.models import convnet
from metascale.models.convnet import ConvNet, init_convolution
from metascale.models.network import OneTask, cross_entropy_each, squared_error_per_task
from metascale.models.perceptron import Perceptron, ResidualPerceptron
from metascale.models.resnet import ResNet


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def moved(params: Params) -> Params:
    return {name: value.double() + 0.3 * drawn(*value.shape, seed=len(name)) for name, value in params.items()}


def normalised(x: torch.Tensor, params: Params, name: str, n_groups: int) -> torch.Tensor:
    """Group normalisation in words."""
    parts = x.view(len(x), n_groups, -1)
    centred = parts - parts.mean(2, keepdim=True)
    unit = (centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()).view(x.shape)
    return unit * params[f"{name}.gain"].view(-1, 1, 1) + params[f"{name}.shift"].view(-1, 1, 1)


@pytest.mark.parametrize(
    ("depth", "pooled", "middle"), [(1, {0}, 0), (2, {0, 1}, 0), (3, {1, 2}, 1), (4, {1, 3}, 1), (5, {2, 4}, 2)]
)
def test_a_supervised_convolutional_net_in_torchs_words(depth: int, pooled: set[int], middle: int) -> None:
    """6, 12, 24 ... channels are normalised in 2, 4, 8 groups; which blocks pool, and where is dropped out."""
    model = ConvNet(3, 8, 2, 6, depth, "group", dropout_inner=0.25, dropout=0.5, ratio=1.0 if depth == 1 else 2.0)
    params, x = moved(model.init(0)), drawn(4, 2, 8, 8)
    for key in (None, 5):
        hidden = x
        for block in range(depth):
            hidden = F.conv2d(hidden, params[f"block{block}.weight"], padding=1)
            n_groups = math.gcd(8, hidden.shape[1])
            hidden = normalised(hidden, params, f"block{block}", n_groups).clamp(min=0)
            if block in pooled:
                hidden = F.max_pool2d(hidden, 2)
            if block == middle and key is not None:
                hidden = hidden.contiguous(memory_format=torch.channels_last)  # a mask is drawn as its values lie
                hidden = (hidden * mask_like(hidden, 0.25, key, "inner")).contiguous()
        features = hidden.mean((2, 3))
        if key is not None:
            features = features * mask_like(features, 0.5, key, "features")
        batch = Batch({"x": x}, torch.zeros(4, dtype=torch.long))
        torch.testing.assert_close(model.features(params, batch, key), features)
        logits = features @ params["head.weight"].T + params["head.bias"]
        torch.testing.assert_close(model.predict(params, batch, key), logits)
    assert model.n_features == model.widths[-1] == (6 if depth == 1 else 12)
    assert model.head_shape == (model.n_features, 3)


def test_operations_of_a_convolutional_net_by_hand() -> None:
    """Blocks at 9, 9 and 4 pixels (the second pools, to 4): 2 · 9 · (81 · 2 · 4 + 81 · 4 · 8 + 16 · 8 · 16)."""
    model = ConvNet(5, 9, 2, 4, 3, "group", ratio=4.0)
    assert model.widths == (4, 8, 16)
    assert model.flops() == {"convolutions": 18.0 * (81 * 8 + 81 * 32 + 16 * 128), "readout": 2.0 * 16 * 5}
    assert Perceptron(6, 3, width=8, depth=3, ratio=0.25, task_axis=False).flops() == {
        "hidden_layers": 2.0 * (6 * 8 + 8 * 4 + 4 * 2), "readout": 2.0 * 2 * 3,
    }  # fmt: skip


def plain_resnet(model: ResNet, params: Params, x: torch.Tensor) -> torch.Tensor:
    """[B, 4w] before dropout, one image after another."""

    def convolved(image: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        out = F.conv2d(image, params[f"{name}.weight"], stride=stride, padding=1)
        return normalised(out, params, name, math.gcd(8, out.shape[1]))

    rows = []
    for image in x.unsqueeze(1):
        hidden = convolved(image, "stem", 1).clamp(min=0)
        for stage, blocks in enumerate([range(model.n_blocks)] * 3):
            for block in blocks:
                name, halves = f"stage{stage}.block{block}", stage > 0 and block == 0
                inner = convolved(hidden, f"{name}.first", 2 if halves else 1).clamp(min=0)
                inner = convolved(inner, f"{name}.second", 1)
                if halves:
                    hidden = torch.cat([hidden[..., ::2, ::2], torch.zeros_like(hidden[..., ::2, ::2])], 1)
                hidden = (inner + hidden).clamp(min=0)
        rows.append(hidden.mean((2, 3))[0])
    return torch.stack(rows)


@pytest.mark.parametrize(("size", "n_blocks"), [(8, 1), (7, 2)])
def test_a_residual_net_in_torchs_words(size: int, n_blocks: int) -> None:
    model = ResNet(3, in_channels=2, width=4, n_blocks=n_blocks, dropout=0.5)
    params, x = moved(model.init(0)), drawn(3, 2, size, size)
    batch = Batch({"x": x}, torch.zeros(3, dtype=torch.long))
    features = plain_resnet(model, params, x)
    torch.testing.assert_close(model.features(params, batch), features)
    dropped = features * mask_like(features, 0.5, 9, "features")
    torch.testing.assert_close(model.features(params, batch, 9), dropped)
    assert features.shape == (3, 16)
    assert model.n_layers == 6 * n_blocks + 2


def test_operations_of_a_residual_net_by_hand() -> None:
    """7 pixels are 4 and then 2 in the later stages; n = 2, w = 4: three of four products there are square."""
    by_hand = 49 * (2 * 4 + 4 * 16) + 16 * (4 * 8 + 3 * 64) + 4 * (8 * 16 + 3 * 256)
    found = ResNet(5, in_channels=2, width=4, n_blocks=2).flops(7)
    assert found == {"convolutions": 18.0 * by_hand, "readout": 2.0 * 16 * 5}


@pytest.mark.parametrize("last", [True, False])
def test_layouts_of_convolutional_nets(last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels last where it is asked for, contiguous where not; a residual net's images are channels-last always."""
    seen: list[tuple[bool, bool]] = []

    def noted(name: str, function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def run(x: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
            seen.append((x.is_contiguous(memory_format=torch.channels_last), x.is_contiguous()))
            return function(x, *rest, **more)

        return run

    monkeypatch.setattr(convnet, "convolve", noted("convolve", convnet.convolve))
    monkeypatch.setattr(F, "conv2d", noted("conv2d", F.conv2d))
    tasks = ConvNet(3, 8, 2, 4, 2, channels_last=last)
    x = drawn(2, 3, 2, 8, 8)
    params = to(stack_tasks(tasks.init(0), 2), dtype=torch.float64)
    tasks.features(params, Batch({"x": x}, torch.zeros(2, 3)))
    leaf = Batch({"x": x.requires_grad_()}, torch.zeros(2, 3))
    with torch.no_grad():
        tasks.features(params, leaf)
    group = ConvNet(3, 8, 2, 4, 2, "group", channels_last=last)
    group.features(to(group.init(0), dtype=torch.float64), Batch({"x": drawn(3, 2, 8, 8)}, torch.zeros(3)))
    assert set(seen) == {(last, not last)}
    seen.clear()
    net = ResNet(3, in_channels=2, width=4, n_blocks=1)
    net.features(to(net.init(0), dtype=torch.float64), Batch({"x": drawn(3, 2, 8, 8)}, torch.zeros(3)))
    assert seen[0] == (True, False)


def test_a_net_without_gains_of_steps_is_the_same_at_every_step() -> None:
    model = ConvNet(3, 8, 1, 4, 2)
    assert model.at_step(3) is model
    steps = ConvNet(3, 8, 1, 4, 2, steps=2)
    assert steps.at_step(1) == ConvNet(3, 8, 1, 4, 2, steps=2, step=1)
    params = steps.init(0)
    assert params["block0.gain"].tolist() == [[1.0] * 4] * 2
    assert params["block0.shift"].tolist() == [[0.0] * 4] * 2
    assert (model.task_execution, model.batch_statistics, model.task_axis) == ("processes", True, True)
    group = ConvNet(3, 8, norm="group", depth=2)
    assert (group.task_execution, group.batch_statistics, group.task_axis) == ("processes", False, False)


def test_initial_weights_of_a_group_net_and_of_shared_heads() -> None:
    """He's spread sqrt(2 / 9 n_in); a shared head is one column of 1/sqrt(d)."""
    params = init_convolution(2, "c", 3, 5)
    stream = torch_generator(2, "init", "c")
    assert torch.equal(params["c.weight"], torch.randn(5, 3, 3, 3, generator=stream) * math.sqrt(2 / 27))
    assert params["c.gain"].tolist() == [1.0] * 5
    assert params["c.shift"].tolist() == [0.0] * 5
    for head in ("zero", "prototype"):
        assert {name.split(".")[0] for name in Perceptron(6, 3, width=4, depth=1, head=head).init(0)} == {"layer0"}
    shared = Perceptron(6, 3, width=4, depth=1, head="shared").init(2)["shared.weight"]
    assert torch.equal(shared, torch.randn(4, 1, generator=torch_generator(2, "init", "shared.weight")) / 2)
    conv = ConvNet(3, 4, 1, 4, 1, head="shared").init(2)["shared.weight"]
    drawn_by_hand = torch.randn(16, 1, generator=torch_generator(2, "init", "shared.weight")) / 4
    assert torch.equal(conv, drawn_by_hand)


@pytest.mark.parametrize("net", [Perceptron(6, 3, width=4, depth=1), ResidualPerceptron(6, 3, width=4)])
def test_where_a_task_s_head_starts(net: Any) -> None:
    """In the parameters' precision: as it is; one column for all classes; zeros; 2 p and −|p|² of the class means."""
    support = Batch({"x": drawn(2, 4, 6)}, torch.tensor([[0, 1, 2, 0], [2, 1, 0, 2]]))
    width = 4 if isinstance(net, Perceptron) else 6

    def begun(head: str) -> tuple[Any, Params, Params]:
        model = replace(net, head=head)
        params = to(stack_tasks(model.init(0), 2), dtype=torch.float64)
        return model, params, model.begin(params, support)

    _, params, found = begun("learned")
    assert found is params
    for head in ("zero", "shared", "prototype"):
        model, params, found = begun(head)
        assert model.head_shape == (width, 3)
        weight, bias = found["head.weight"], found["head.bias"]
        assert weight.dtype == bias.dtype == torch.float64
        if head == "zero":
            expected, zeros = torch.zeros(2, width, 3).double(), torch.zeros(2, 3).double()
        elif head == "shared":
            expected, zeros = params["shared.weight"].repeat(1, 1, 3), torch.zeros(2, 3).double()
        else:
            features = model.features(params, support)
            means = torch.stack(
                [
                    torch.stack([f[y == c].mean(0) for c in range(3)])
                    for f, y in zip(features, support.targets, strict=True)
                ]
            )
            expected, zeros = 2 * means.transpose(1, 2), -means.square().sum(2)
        torch.testing.assert_close(weight, expected)
        torch.testing.assert_close(bias, zeros)
        assert {name: value for name, value in found.items() if not name.startswith("head.")}.keys() == params.keys()


def test_what_networks_are_where_they_do_not_say() -> None:
    net = ResNet(3)
    assert (net.head, net.readouts, net.task_execution, net.task_axis) == (
        "learned",
        ("head.weight",),
        "stacked",
        False,
    )
    with pytest.raises(NotImplementedError):
        _ = net.head_shape
    assert ResidualPerceptron(6, 3).task_axis
    assert OneTask(Perceptron(6, 3)).readouts == ("head.weight",)
    assert Perceptron(6, 3, width=8, depth=2, ratio=0.5).head_shape == (4, 3)


def test_a_residual_perceptron_by_hand() -> None:
    """3 (x + W relu(V x + b) + c): sizes, starts and numbers."""
    model = ResidualPerceptron(3, 2, width=5)
    start = model.init(1)
    assert {name: tuple(value.shape) for name, value in start.items()} == {
        "layer0.weight": (3, 5), "layer0.bias": (5,), "layer1.weight": (5, 3), "layer1.bias": (3,), "scale": (1,),
        "head.weight": (3, 2), "head.bias": (2,),
    }  # fmt: skip
    assert not start["layer1.weight"].any()
    first = torch.randn(3, 5, generator=torch_generator(1, "init", "layer0")) * math.sqrt(2 / 3)
    assert torch.equal(start["layer0.weight"], first)
    params = {name: value.unsqueeze(0) for name, value in moved(start).items()}
    x = drawn(1, 4, 3)
    inner = (x @ params["layer0.weight"] + params["layer0.bias"]).clamp(min=0)
    expected = params["scale"].exp() * (x + inner @ params["layer1.weight"] + params["layer1.bias"])
    batch = Batch({"x": x.view(1, 4, 3, 1)}, torch.zeros(1, 4))
    torch.testing.assert_close(model.features(params, batch), expected)


def test_dropout_of_a_perceptron_is_after_every_hidden_layer_by_its_name() -> None:
    """With tasks by the examples' numbers; without, by the whole tensor."""
    model = Perceptron(6, 3, width=4, depth=2, activation="tanh", dropout=0.5)
    params = to(stack_tasks(model.init(0), 2), dtype=torch.float64)
    batch = Batch({"x": drawn(2, 3, 6)}, torch.zeros(2, 3, dtype=torch.long))
    hidden, masks = batch.inputs["x"], DropoutMasks.of(batch, 0.5, 7)
    for layer in ("layer0", "layer1"):
        hidden = torch.tanh(hidden @ params[f"{layer}.weight"] + params[f"{layer}.bias"].unsqueeze(1))
        hidden = hidden * masks(hidden.flatten(0, 1), layer).view(hidden.shape)
    torch.testing.assert_close(model.features(params, batch, 7), hidden)
    one = Perceptron(6, 3, width=4, depth=2, activation="tanh", dropout=0.5, task_axis=False)
    own, x = to(one.init(0), dtype=torch.float64), batch.inputs["x"][0]
    hidden = x
    for layer in ("layer0", "layer1"):
        hidden = torch.tanh(hidden @ own[f"{layer}.weight"].T + own[f"{layer}.bias"])
        hidden = hidden * mask_like(hidden, 0.5, 7, layer)
    torch.testing.assert_close(one.features(own, Batch({"x": x}, torch.zeros(3)), 7), hidden)


def test_squared_errors_of_one_and_of_many_tasks_by_hand() -> None:
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[[0.0, 1.0], [2.0, 2.0]]])
    weights = {"layer0.weight": [[1.0]], "layer0.bias": [0.0], "head.weight": [[1.0, 2.0]], "head.bias": [0.0, 1.0]}
    many = {name: torch.tensor(value).unsqueeze(0) for name, value in weights.items()}
    # outputs (1, 3) and (2, 5); squared errors 1 + 4 and 0 + 9
    model = Perceptron(1, 2, width=1, depth=1, loss="squared_error")
    batch = Batch({"x": x.unsqueeze(0)}, y)
    assert model.predict(many, batch).tolist() == [[[1.0, 3.0], [2.0, 5.0]]]
    assert model.losses(many, batch).tolist() == [3.5]
    one = Perceptron(1, 2, width=1, depth=1, loss="squared_error", task_axis=False)
    own = {name: value[0].T if value.ndim == 3 else value[0] for name, value in many.items()}
    flat = Batch({"x": x}, y[0])
    assert one.losses(own, flat).tolist() == [2.5, 4.5]
    leaves = {name: value.clone().requires_grad_() for name, value in own.items()}
    loss, each = one.objective(leaves, flat)
    assert (loss.item(), each.tolist()) == (3.5, [2.5, 4.5])
    assert loss.requires_grad
    assert not each.requires_grad
    assert not one.losses(leaves, flat).requires_grad
    tasks = OneTask(model)
    single = {name: value[0] for name, value in many.items()}
    assert tasks.losses(single, flat).tolist() == [2.5, 4.5]
    assert [value.tolist() for value in tasks.objective(single, flat)] == [3.5, [2.5, 4.5]]
    assert squared_error_per_task(torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [1.0]])).tolist() == [4.0, 0.0]


def test_one_task_drops_out_in_its_objective_alone() -> None:
    inner = Perceptron(4, 3, width=8, dropout=0.5)
    model, batch = OneTask(inner), Batch({"x": drawn(5, 4).float()}, torch.tensor([0, 1, 2, 0, 1]))
    params = model.init(3)
    assert all(torch.equal(value, inner.init(3)[name]) for name, value in params.items())
    stacked, one = stack_tasks(params, 1), batch.map(lambda value: value.unsqueeze(0))
    loss, each = model.objective(params, batch, 4)
    assert torch.equal(loss, inner.losses(stacked, one, 4)[0])
    assert not torch.equal(loss, inner.losses(stacked, one)[0])
    assert torch.equal(each, model.losses(params, batch))
    expected = F.cross_entropy(inner.predict(stacked, one)[0], batch.targets, reduction="none")
    torch.testing.assert_close(each, expected)


def test_targets_that_are_no_class_are_named_without_ignored_ones() -> None:
    logits = torch.zeros(3, 2)
    with pytest.raises(InputError, match="classes from 1 to 4, but outputs have 2, numbered from 0") as caught:
        cross_entropy_each(logits, torch.tensor([1, -100, 4]))
    assert caught.value.field == "targets"
    found = cross_entropy_each(logits, torch.tensor([1, -100, 0]))
    torch.testing.assert_close(found, torch.tensor([math.log(2), 0.0, math.log(2)]))
