"""Any torch module by hand: arguments, outputs, features, losses, findings of the trial, masks by address."""

from __future__ import annotations

import copy
import logging
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metascale.core.dropout import DropoutMasks
from metascale.core.errors import InputError
from metascale.core.trees import stack_tasks
from metascale.core.types import Batch
from metascale.models.addressed import AddressedRandomness, TwiceDifferentiable, example_axes
from metascale.models.functional import _difference, _two
from metascale.models.module import Module, _arguments


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def started(model: Module, n_tasks: int = 2) -> Any:
    return stack_tasks(model.init(0), n_tasks)


class Function(nn.Module):
    """Any function with a weight, so that there is something to learn."""

    def __init__(self, fn: Any) -> None:
        super().__init__()
        self.weight, self.fn = nn.Parameter(torch.ones(1)), fn

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(self.weight, *args, **kwargs)


def test_inputs_are_arguments_by_their_names() -> None:
    """x alone and numbers are positional, in the order of numbers; with another name x is a keyword."""
    one, two, three = (drawn(2, seed=seed) for seed in range(3))
    assert _arguments({"x": one}) == ((one,), {})
    args, named = _arguments({"10": one, "2": two, "mask": three})
    assert [id(value) for value in args] == [id(two), id(one)]
    assert list(named) == ["mask"]
    args, named = _arguments({"x": one, "pair.left": two, "pair.right": three})
    assert args == ()
    assert list(named) == ["x", "pair"]
    model = Module(Function(lambda w, first, second, *, scale: w * (first - second) * scale), "mse")
    inputs = {"1": drawn(2, 3, 2, seed=1), "0": drawn(2, 3, 2, seed=2), "scale": drawn(2, 3, 2, seed=3)}
    found = model.predict(started(model), Batch(inputs, torch.zeros(2, 3, 2)))
    torch.testing.assert_close(found, (inputs["0"] - inputs["1"]) * inputs["scale"])


RETURNS: dict[str, Any] = {
    "a tensor": lambda x: x,
    "a mapping's logits": lambda x: {"hidden": x + 1, "logits": x},
    "an attribute's": lambda x: SimpleNamespace(logits=x),
    "the first of a tuple": lambda x: (x, x + 1),
    "the first of a list": lambda x: [x],
    "the first of the logits": lambda x: {"logits": (x, x + 1)},
}


@pytest.mark.parametrize("name", RETURNS)
def test_which_of_the_returned_is_meant(name: str) -> None:
    batch = Batch({"x": drawn(2, 3, 4)}, torch.zeros(2, 3, dtype=torch.long))
    model = Module(Function(lambda w, x: RETURNS[name](w * x)))
    torch.testing.assert_close(model.predict(started(model), batch), batch.inputs["x"])


def test_an_output_may_be_picked() -> None:
    batch = Batch({"x": drawn(2, 3, 4)}, torch.zeros(2, 3, dtype=torch.long))
    model = Module(Function(lambda w, x: (w * x, {"deep": [w * x + 1]})), output=lambda found: found[1]["deep"][0])
    torch.testing.assert_close(model.predict(started(model), batch), batch.inputs["x"] + 1)


class Positions(nn.Module):
    """Reads every position with one layer, then their sum with another; and an unused one."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.last, self.idle = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.each(x)).sum(-2))


def test_features_are_what_the_head_reads() -> None:
    """The input of the last linear layer that runs; of a named one, the mean over positions; else the outputs."""
    net, x = Positions(), drawn(2, 3, 6, 4)
    batch = Batch({"x": x}, torch.zeros(2, 3, dtype=torch.long))
    model, each = Module(net), Module(net, head="each")
    torch.testing.assert_close(model.features(started(model), batch), torch.tanh(net.each(x)).sum(-2))
    torch.testing.assert_close(each.features(started(each), batch), x.mean(-2))
    plain = Module(Function(lambda w, x: w * x))
    torch.testing.assert_close(plain.features(started(plain), batch), x.mean(-2))
    flat = Module(Function(lambda w, x: w * x[..., 0, 0]))
    torch.testing.assert_close(flat.features(started(flat), batch), x[..., 0, 0].unsqueeze(-1))
    # Positions beside the examples in one axis, [B·S, d], are those of each example again.
    rows = nn.Sequential(nn.Flatten(0, 1), nn.Linear(4, 3), nn.Unflatten(0, (3, 6)))
    joined = Module(rows, output=lambda out: out.sum(1))
    torch.testing.assert_close(joined.features(started(joined), batch), x.mean(-2))
    assert not net.last._forward_pre_hooks


def test_losses_by_name_and_of_ones_own(caplog: pytest.LogCaptureFixture) -> None:
    out, wanted = torch.tensor([[[1.0, 2.0], [3.0, 5.0]]]), torch.tensor([[[0.0, 0.0], [3.0, 1.0]]])
    batch = Batch({}, wanted)
    net = nn.Linear(1, 1)
    assert Module(net, "mse").loss == Module(net, "squared_error").loss == "squared_error"
    assert Module(net, "mse").output_losses(out, batch).tolist() == [(1 + 4 + 0 + 16) / 4]
    with pytest.raises(InputError):
        Module(net, "mse").output_losses(out, Batch({}, wanted[..., :1]))
    for loss in (lambda o, w: (o - w).abs().sum(1), lambda o, w: (o - w).abs().sum(1).mean()):
        assert Module(net, loss).output_losses(out, batch).tolist() == [(3 + 4) / 2]
    # A loss that looks at values cannot run for all tasks at once.
    looking = Module(net, lambda o, w: (o - w).abs().sum(1) * (2 if float(o.sum()) > 0 else 1))
    assert looking.output_losses(out, batch).tolist() == [7.0]

    def failing(o: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a fault of its own")

    with pytest.raises(RuntimeError, match="a fault of its own"):
        Module(net, failing).output_losses(out, batch)
    assert Module(net).own_loss


def test_cross_entropy_of_a_batch_by_hand() -> None:
    """Classes last or second; an example of ignored targets alone is 0, and counts as an example."""
    model = Module(nn.Linear(1, 1))
    two = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    ln2 = float(torch.tensor(2.0).log())
    assert model.output_losses(two, Batch({}, torch.tensor([[0, 1]]))).tolist() == pytest.approx([ln2])
    places = torch.zeros(1, 2, 3, 4)
    targets = torch.tensor([[[0, -100, 3], [-100, -100, -100]]])
    assert model.output_losses(places, Batch({}, targets)).tolist() == pytest.approx([ln2])
    assert model.output_losses(places.movedim(3, 2), Batch({}, targets)).tolist() == pytest.approx([ln2])


def test_where_examples_of_a_batch_depend_on_one_another() -> None:
    def couples(part: nn.Module, **settings: Any) -> bool:
        return Module(nn.Sequential(nn.Linear(2, 2), part), **settings).batch_statistics

    assert couples(nn.BatchNorm1d(2))
    assert not couples(nn.BatchNorm1d(2), batch_statistics="frozen")
    assert couples(nn.BatchNorm1d(2, track_running_stats=False), batch_statistics="frozen")
    assert couples(nn.BatchNorm1d(2), batch_statistics="per_step", steps=1)
    for alone in (nn.GroupNorm(1, 2), nn.InstanceNorm1d(2, affine=True), nn.LayerNorm(2)):
        assert not couples(alone)


def test_statistics_of_normalisation_by_hand() -> None:
    """Those of the batch, or the running ones; at every step a row of its own, the last for all later steps."""
    norm = nn.BatchNorm1d(2)
    norm.running_mean.copy_(torch.tensor([1.0, 2.0]))
    norm.running_var.copy_(torch.tensor([4.0, 9.0]))
    net, x = nn.Sequential(norm), drawn(1, 5, 2)
    batch = Batch({"x": x}, torch.zeros(1, 5, dtype=torch.long))
    frozen = Module(net, batch_statistics="frozen")
    by_hand = (x - torch.tensor([1.0, 2.0])) / (torch.tensor([4.0, 9.0]) + 1e-5).sqrt()
    torch.testing.assert_close(frozen.predict(started(frozen, 1), batch), by_hand)
    of_batch = (x - x.mean(1)) / (x.var(1, unbiased=False) + 1e-5).sqrt()
    plain = Module(net)
    torch.testing.assert_close(plain.predict(started(plain, 1), batch), of_batch)
    assert norm.running_mean.tolist() == [1.0, 2.0]
    assert plain.at_step(3) is plain
    steps = Module(net, batch_statistics="per_step", steps=2)
    assert {name: value.tolist() for name, value in steps.init(0).items()} == {
        "0.weight": [[1.0, 1.0]] * 2, "0.bias": [[0.0, 0.0]] * 2,
    }  # fmt: skip
    params = {"0.weight": torch.tensor([[[1.0, 1.0], [2.0, 3.0]]]), "0.bias": torch.tensor([[[0.0, 0.0], [5.0, 6.0]]])}
    late = of_batch * torch.tensor([2.0, 3.0]) + torch.tensor([5.0, 6.0])
    for step, expected in ((0, of_batch), (1, late), (7, late)):
        torch.testing.assert_close(steps.at_step(step).predict(params, batch), expected)
    torch.testing.assert_close(steps.predict(params, batch), of_batch)


def test_what_a_module_says_of_how_tasks_run(caplog: pytest.LogCaptureFixture) -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    batch = Batch({"x": drawn(1, 3, 4)}, torch.zeros(1, 3, dtype=torch.long))
    with caplog.at_level(logging.WARNING, "metascale.models"):
        known, asked, unknown = Module(net, example=batch), Module(net, example=batch, loop=True), Module(net)
    assert caplog.records == [], "what was asked for is no news"
    assert (known.execution, known.task_execution) == ("all in one call", "stacked")
    assert (asked.execution, asked.task_execution) == ("one after another: as asked for", "threads")
    assert (unknown.execution, unknown.task_execution) == ("not yet known: the first batch decides", "stacked")
    known.require_second_order()
    unknown.require_second_order()
    params = started(net_model := Module(net, loop=True), 3)
    three = Batch({"x": drawn(3, 2, 4)}, torch.zeros(3, 2, dtype=torch.long))
    torch.testing.assert_close(net_model.predict(params, three), net(three.inputs["x"]))


def test_the_finding_of_a_trial() -> None:
    """The axis of the examples in every mask, attention, buffers that a pass writes to."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("number", torch.ones((), dtype=torch.long))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls.add_(1)
            hidden = F.dropout(self.linear(x), 0.5, self.training)
            turned = F.dropout(hidden.t(), 0.5, self.training).t()
            shared = F.dropout(self.linear.weight, 0.5, self.training)
            together = F.scaled_dot_product_attention(turned[None], hidden[None], hidden[None])[0]
            return together @ shared * self.number

    def finding(net: nn.Module, **settings: Any) -> Any:
        batch = Batch({"x": drawn(2, 3, 4)}, torch.zeros(2, 3, dtype=torch.long))
        return Module(net, example=batch, **settings)._outputs.finding

    found = finding(Net())
    assert (found.masks, found.attends, found.written, found.loop, found.once) == (
        (0, 1, None),
        True,
        ("calls",),
        None,
        None,
    )
    model, five = Module(Net()), Batch({"x": drawn(2, 5, 4)}, torch.zeros(2, 5, dtype=torch.long))
    assert model.losses(started(model), five, 3).shape == (2,), "whatever the sizes of a batch and of a weight"
    plain = finding(nn.Linear(4, 3))
    assert (plain.masks, plain.attends, plain.written) == ((), False, ())
    assert finding(nn.Linear(4, 3), loop=True).loop == "as asked for"


def test_frozen_parts_follow_the_precision_of_what_is_learnt() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    net[0].requires_grad_(False)
    model = Module(net, batch_statistics="frozen")
    assert list(model.init(0)) == ["1.weight", "1.bias", "2.weight", "2.bias"]
    x = drawn(2, 3, 4)
    for dtype in (torch.float64, torch.float32):
        params = {name: value.to(dtype) for name, value in started(model).items()}
        found = model.predict(params, Batch({"x": x.to(dtype)}, torch.zeros(2, 3)))
        assert found.dtype == dtype
        plain = copy.deepcopy(net).eval().to(dtype)
        torch.testing.assert_close(found, torch.stack([plain(one) for one in x.to(dtype)]))
    assert {value.dtype for value in net.parameters()} == {torch.float32}


def test_parts_of_a_trial() -> None:
    """Two tasks of many, one twice; a difference is told above the root of the precision, of the largest value."""
    two = _two({"a": torch.arange(6).view(3, 2), "b": torch.ones(1, 2)})
    assert (two["a"].tolist(), two["b"].tolist()) == ([[0, 1], [2, 3]], [[1.0, 1.0]] * 2)
    root = float(torch.finfo(torch.float64).eps) ** 0.5
    base = {"a": torch.tensor([100.0], dtype=torch.float64), "b": torch.tensor([1.0], dtype=torch.float64)}
    near = {**base, "b": base["b"] + 99 * root}
    far = {**base, "b": base["b"] + 101 * root}
    assert _difference("gradients", near, base) is None
    assert _difference("gradients", far, base) == "gradients of 'b' differ by 1.5e-06 of 1e+02"
    small = {"": torch.zeros(1, dtype=torch.float64)}
    assert _difference("outputs", {"": small[""] + 0.9e-3 * root}, small) is None
    assert _difference("outputs", {"": small[""] + 1.0}, small) == "outputs differ by 1 of 0.001"
    assert _difference("outputs", {"": torch.full((1,), torch.nan).double()}, small) == "outputs differ by nan of 0.001"


def masks_by_hand(rate: float, key: int, numbers: torch.Tensor, like: torch.Tensor, place: int) -> torch.Tensor:
    return DropoutMasks(rate, key, numbers)(like, str(place)) > 0


def test_masks_have_the_address_of_key_place_and_example() -> None:
    """[B, d]; examples along the second axis; several rows an example; tasks in front; certain and impossible ones."""
    numbers = torch.tensor([7, 3, 5])
    mode = AddressedRandomness(4, numbers, (0, 1, 0))
    first = mode.kept(torch.ones(3, 8), 0.6)
    assert torch.equal(first.bool(), masks_by_hand(0.4, 4, numbers, torch.ones(3, 8), 0))
    second = mode.kept(torch.ones(8, 3), 0.6)
    assert torch.equal(second.bool(), masks_by_hand(0.4, 4, numbers, torch.ones(3, 8), 1).t())
    third = mode.kept(torch.ones(6, 4), 0.6)
    assert torch.equal(third.bool(), masks_by_hand(0.4, 4, numbers, torch.ones(3, 8), 2).view(6, 4))
    fourth = mode.kept(torch.ones(3, 8), 0.6)  # beyond the axes that are named: the first
    assert torch.equal(fourth.bool(), masks_by_hand(0.4, 4, numbers, torch.ones(3, 8), 3))
    assert mode.kept(torch.ones(3, 2), 1.0).tolist() == [[1.0, 1.0]] * 3
    assert mode.kept(torch.ones(3, 2), 0.0).tolist() == [[0.0, 0.0]] * 3
    assert mode.shapes == [(3, 8), (8, 3), (6, 4), (3, 8), (3, 2), (3, 2)]
    assert set(first.unique().tolist()) == {0.0, 1.0}
    tasks = torch.tensor([[0, 1], [2, 3]])
    of_tasks = AddressedRandomness(4, tasks, (1,))
    found = of_tasks.kept(torch.ones(2, 5, 2), 0.6)
    flat = masks_by_hand(0.4, 4, tasks.flatten(), torch.ones(4, 5), 0).view(2, 2, 5)
    assert torch.equal(found.bool(), flat.transpose(1, 2))
    assert of_tasks.shapes == [(5, 2)]


def test_every_way_to_drop_out_asks_for_these_masks() -> None:
    x, numbers = drawn(3, 8), torch.tensor([7, 3, 5])
    kept = [masks_by_hand(0.25, 4, numbers, x, place).float() for place in range(4)]
    half = masks_by_hand(0.5, 4, numbers, x, 2).float()
    with AddressedRandomness(4, numbers):
        torch.testing.assert_close(F.dropout(x, 0.25), x * kept[0] / 0.75)
        out, mask = torch.native_dropout(x, 0.25, True)
        torch.testing.assert_close(out, x * kept[1] / 0.75)
        assert torch.equal(mask, kept[1].bool())
        assert torch.equal(torch.empty(3, 8).bernoulli_(), half)
        assert torch.equal(torch.bernoulli(torch.ones(3, 8), 0.75), kept[3])
        for plain in (F.dropout(x, 0.25, training=False), F.dropout(x, 0.0), torch.native_dropout(x, 0.25, False)[0]):
            assert torch.equal(plain, x)


@pytest.mark.parametrize(("key", "words"), [(None, "in evaluation mode"), (3, "that have no address")])
def test_other_draws_are_refused_by_their_operator(key: int | None, words: str) -> None:
    with AddressedRandomness(key, torch.arange(2)), pytest.raises(InputError, match=rf"\(rand\S*\) {words}") as caught:
        torch.rand(2)
    assert caught.value.field == "net"
    if key is None:
        with AddressedRandomness(key, torch.arange(2)), pytest.raises(InputError, match="in evaluation mode") as caught:
            F.dropout(torch.ones(2, 2))
        assert caught.value.field == "net"


def test_the_axis_of_the_examples_is_the_one_that_grew() -> None:
    few = [torch.Size([2, 5]), torch.Size([5, 2]), torch.Size([4, 4]), torch.Size([8, 3])]
    more = [torch.Size([3, 5]), torch.Size([5, 3]), torch.Size([4, 4]), torch.Size([12, 3])]
    assert example_axes(few, more) == (0, 1, None, 0)
    assert example_axes(few, more[:3]) == ()
    assert example_axes([], []) == ()


def test_attention_is_met_only_where_it_runs() -> None:
    x = drawn(2, 3, 4)
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    with TwiceDifferentiable() as mode:
        assert torch.equal(F.relu(x), x.clamp(min=0))
        assert not mode.met
        out, weights = attention(x, x, x)
        alone, none = attention(x, x, x, need_weights=False)
    assert mode.met
    assert none is None
    expected, averaged = attention(x, x, x)
    torch.testing.assert_close((out, weights, alone), (expected, averaged, expected))
    numbers = torch.tensor([7, 3])
    with TwiceDifferentiable(), AddressedRandomness(4, numbers):
        dropped = F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)
    mask = masks_by_hand(0.5, 4, numbers, torch.ones(2, 9), 0).view(2, 3, 3)
    by_hand = (x @ x.transpose(1, 2) / 2).softmax(-1) * mask / 0.5 @ x
    torch.testing.assert_close(dropped, by_hand)


def test_a_weight_that_is_dropped_out_of_has_one_mask_for_all_tasks_and_examples() -> None:
    """x (W ⊙ mask / 0.5)ᵀ, where neither the trial's examples nor the batch's divide the weight's rows."""

    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(drawn(4, 4, seed=3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ F.dropout(self.weight, 0.5, self.training).t()

    net, batch = Dropped(), Batch({"x": drawn(2, 3, 4)}, torch.zeros(2, 3, dtype=torch.long))
    mask = masks_by_hand(0.5, 6, torch.zeros(1, dtype=torch.long), torch.ones(1, 16), 0).view(4, 4)
    expected = batch.inputs["x"] @ (net.weight * mask / 0.5).t()
    for loop in (False, True):
        model = Module(net, loop=loop)
        torch.testing.assert_close(model.predict(started(model), batch, 6), expected)
        torch.testing.assert_close(model.predict(started(model), batch), batch.inputs["x"] @ net.weight.t())


def test_instances_are_normalised_by_themselves_or_by_running_statistics() -> None:
    norm = nn.InstanceNorm1d(2, affine=True, track_running_stats=True)
    norm.running_mean.copy_(torch.tensor([1.0, 2.0]))
    x = drawn(1, 3, 2, 5)
    batch = Batch({"x": x}, torch.zeros(1, 3, dtype=torch.long))
    own, running = Module(nn.Sequential(norm)), Module(nn.Sequential(norm), batch_statistics="frozen")
    expected = (x - x.mean(3, keepdim=True)) / (x.var(3, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(own.predict(started(own, 1), batch), expected)
    by_hand = (x - torch.tensor([[1.0], [2.0]])) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(running.predict(started(running, 1), batch), by_hand)


def test_a_module_in_another_process_has_its_finding_and_places_nothing_twice() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    net[0].requires_grad_(False)
    model = Module(net, output=Chosen(), batch_statistics="frozen")
    batch = Batch({"x": drawn(2, 3, 4).double()}, torch.zeros(2, 3, dtype=torch.long))
    params = {name: value.double() for name, value in started(model).items()}
    expected = model.predict(params, batch)
    again = pickle.loads(pickle.dumps(model))
    assert again._outputs._placed == {}
    assert again._outputs.finding == model._outputs.finding
    assert len(model._outputs._placed) == 1
    assert torch.equal(again.predict(params, batch), expected)


class Chosen:
    def __call__(self, returned: Any) -> torch.Tensor:
        picked: torch.Tensor = returned[:, [2, 0]]
        return picked


def test_numbers_of_a_module_that_are_no_weights_stay_whole() -> None:
    class Index(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("chosen", torch.tensor([2, 0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x)[:, self.chosen]

    net, x = Index(), drawn(2, 3, 4)
    model = Module(net)
    for dtype in (torch.float64, torch.float32):
        params = {name: value.to(dtype) for name, value in started(model).items()}
        found = model.predict(params, Batch({"x": x.to(dtype)}, torch.zeros(2, 3, dtype=torch.long)))
        torch.testing.assert_close(found.float(), torch.stack([net(one) for one in x]))


def test_one_mask_an_example_in_a_loop_of_its_own() -> None:
    """The number of masks grows with the examples, so that none tells an axis: the first one is taken."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([F.dropout(row, 0.5, self.training) for row in self.linear(x).unbind()])

    batch = Batch({"x": drawn(2, 2, 4)}, torch.zeros(2, 2, dtype=torch.long))
    model = Module(Rows(), example=batch)
    assert model._outputs.finding is not None
    assert model._outputs.finding.masks == (0, 0)
    assert model.losses(started(model), batch, 3).shape == (2,)


def test_reasons_are_the_first_200_letters_of_their_first_line() -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if torch._C._functorch.is_batchedtensor(x):
                raise RuntimeError("a" * 300 + "\nmore")
            return Once.apply(self.linear(x))

    model = Module(Fails(), example=Batch({"x": drawn(2, 3, 4)}, torch.zeros(2, 3, dtype=torch.long)))
    finding = model._outputs.finding
    assert finding is not None
    assert (finding.loop, finding.once) == ("a" * 200, "b" * 200)
    with pytest.raises(InputError, match=rf"\({'b' * 200}\): use FOMAML or Reptile"):
        model.require_second_order()


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return Never.apply(grad)


class Never(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return 2 * grad

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        raise RuntimeError("b" * 300 + "\nmore")
