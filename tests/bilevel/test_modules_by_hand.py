"""Modules, batches, upper models and the one call by hand: names, modes, buffers, seeds, means and refusals in full."""

from __future__ import annotations

import inspect
import math
import re
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from metascale.bilevel import DataScorer, LabelCorrector, TaskWeights, WeightNet, api
from metascale.bilevel.api import Data, _take_over, evaluator, train
from metascale.bilevel.applications import _network
from metascale.bilevel.batches import Loaded, Shuffled
from metascale.bilevel.levels import (
    BoundModule,
    Pass,
    Start,
    current,
    from_modules,
    frozen_parts,
    hold,
    joined_buffers,
    keyed_mode,
    persistent_buffers,
    split_buffers,
    trainable,
)
from metascale.bilevel.wrapped import FSDPShards, _AsItIs, _Own, is_wrapped
from metascale.core.errors import InputError
from metascale.core.run import MemoryRun
from metascale.core.streams import generator, torch_generator
from metascale.hypergrad.darts import DARTS
from metascale.hypergrad.sama import SAMA
from metascale.training.loop import Schedule
from metascale.training.optimizers import SGD, Adam


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


# ------------------------------------------------------------------------------------------------------------- modules


class Net(nn.Module):
    """y = scale · (W x) + shift, with a counted statistic, a constant that is not saved, and a frozen part."""

    scale: torch.Tensor
    constant: torch.Tensor

    def __init__(self, value: float = 2.0) -> None:
        super().__init__()
        self.inner = nn.Linear(1, 1, bias=False)
        self.frozen = nn.Linear(1, 1).requires_grad_(False)
        self.shift = nn.Parameter(torch.tensor(5.0))
        self.register_buffer("scale", torch.tensor(3.0))
        self.register_buffer("constant", torch.tensor(100.0), persistent=False)
        self.label = "net"
        with torch.no_grad():
            self.inner.weight.fill_(value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.scale.add_(1.0)
        return self.scale * self.inner(x) + self.shift

    def doubled(self, x: torch.Tensor, times: float = 2.0) -> torch.Tensor:
        return times * self(x) + (1000.0 if self.training else 0.0)


ONE = torch.ones(1, 1)


def test_a_bound_module_is_the_module_with_other_tensors() -> None:
    net = Net().eval()
    given = {"inner.weight": torch.full((1, 1), 7.0), "scale": torch.tensor(1.0)}
    bound = BoundModule(net, given)
    assert bound(ONE).item() == 7 + 5
    assert bound.doubled(ONE).item() == 24
    assert bound.doubled(ONE, times=3.0).item() == 36
    assert bound.inner(ONE).item() == 7
    assert bound.inner.weight is given["inner.weight"]
    assert bound.scale is given["scale"]
    assert bound.shift is net.shift
    assert bound.label == "net"
    assert bound.forward(ONE).item() == 12
    named = dict(bound.named_parameters())
    assert list(named) == ["shift", "inner.weight", "frozen.weight", "frozen.bias"]
    assert named["inner.weight"] is given["inner.weight"]
    assert named["frozen.bias"] is net.frozen.bias
    assert list(bound.parameters())[1] is given["inner.weight"]
    assert net(ONE).item() == 11  # the module's own are as they were
    for name in ("eval", "state_dict", "zero_grad"):
        message = (
            f"'{name}' of a module cannot be used in a loss of bilevel training, where other tensors stand for its "
            "own; call the module, its parts or its own methods, or use parameters() and named_parameters()"
        )
        with pytest.raises(InputError, match=exactly(message)):
            getattr(bound, name)
    message = "a loss of bilevel training cannot set 'shift': the modules must not change in a pass"
    with pytest.raises(InputError, match=exactly(message)):
        bound.shift = 1
    layers = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    stack = BoundModule(layers, {"1.weight": torch.full((1, 1), 9.0)})
    assert stack[1](ONE).item() == 9
    assert stack[0].weight is layers[0].weight
    net.train()
    assert BoundModule(net, {"scale": torch.tensor(0.0)}).doubled(ONE).item() == 2 * 7 + 1000


def test_names_of_tensors() -> None:
    net = Net()
    assert list(trainable(net)) == ["shift", "inner.weight"]
    assert not any(value.requires_grad for value in trainable(net).values())
    assert list(persistent_buffers(net)) == ["scale"]
    joined = joined_buffers({"a": ONE}, {"b": 2 * ONE})
    assert list(joined) == ["a", "upper:b"]
    lower, upper = split_buffers(joined)
    assert (list(lower), list(upper)) == (["a"], ["b"])
    assert upper["b"].item() == 2


def test_parts_frozen_on_purpose() -> None:
    """Layers with running statistics in evaluation mode inside a module in training mode."""
    net = nn.Sequential(
        nn.BatchNorm1d(2), nn.Dropout(), nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False)
    )
    for index in (0, 1, 3):
        net[index].eval()
    assert frozen_parts(net) == {net[0]}
    assert frozen_parts(nn.Linear(1, 1), net) == {net[0]}
    net.training = False
    assert frozen_parts(net) == frozenset()


def test_modes_and_masks_of_a_pass() -> None:
    net, still = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout())), nn.BatchNorm1d(1)
    other = nn.Sequential(still)
    still.eval()
    net[0].eval()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with keyed_mode((net, other), 11, {"w": ONE}, frozenset({still})):
        assert [part.training for part in (*net.modules(), *other.modules())] == [True] * 5 + [False]
        drawn = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(11)))
    with keyed_mode((net, other), None, {"w": ONE}):
        assert not any(part.training for part in (*net.modules(), *other.modules()))
        torch.rand(3)
    assert not torch.equal(torch.get_rng_state(), before)  # outside of training mode nothing draws, nothing is kept


def test_masks_on_other_devices_are_of_their_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of every GPU that holds a tensor are put back, and all are seeded."""
    told: list[Any] = []

    @contextmanager
    def forked(devices: Any, enabled: bool) -> Any:
        told.append((devices, enabled))
        yield

    monkeypatch.setattr(torch.random, "fork_rng", forked)
    monkeypatch.setattr(torch, "manual_seed", told.append)
    places = [SimpleNamespace(type=kind, index=index) for kind, index in (("cuda", 1), ("cuda", None), ("cpu", None))]
    tensors: Any = {str(number): SimpleNamespace(device=place) for number, place in enumerate(places)}
    with keyed_mode((), 11, tensors):
        pass
    with keyed_mode((), None, tensors):
        pass
    assert told == [([0, 1], True), 11, ([0, 1], False)]


def total(model: Any, upper: Any, batch: Any) -> torch.Tensor:
    found: torch.Tensor = (model(batch) * upper(batch)).sum()
    return found


def test_levels_of_modules() -> None:
    """Lower (4 · 2 + 5) and upper (4 · 10 + 5) in training, where the scale moves from 3 to 4; (11)(35) otherwise."""
    model, upper = Net(), Net(10.0)
    levels = from_modules(model, upper, total, total)
    start = levels.start()
    assert list(start.lower) == list(start.upper) == ["shift", "inner.weight"]
    assert {name: value.item() for name, value in start.buffers.items()} == {"scale": 3.0, "upper:scale": 3.0}
    start.buffers["scale"].zero_()
    assert model.scale.item() == 3.0
    start = levels.start()
    for loss in (levels.lower_loss, levels.upper_loss):
        moving = Pass(1, start.buffers)
        assert loss(start.lower, start.upper, ONE, moving).item() == 13 * 45
        assert {name: value.item() for name, value in moving.updated.items()} == {"scale": 4.0, "upper:scale": 4.0}
        assert [value.item() for value in start.buffers.values()] == [3.0, 3.0]
        still = Pass(None, start.buffers)
        assert loss(start.lower, start.upper, ONE, still).item() == 11 * 35
        assert still.updated == {}
    assert levels.bound is not None
    bound = levels.bound({"inner.weight": torch.full((1, 1), 7.0)})
    assert bound.inner.weight.item() == 7
    new = {"inner.weight": torch.full((1, 1), 8.0), "scale": torch.tensor(6.0)}
    levels.mirror("lower", new)
    assert model.inner.weight.data_ptr() == new["inner.weight"].data_ptr()
    assert model.scale.data_ptr() == new["scale"].data_ptr()
    levels.mirror("upper", {"shift": torch.tensor(-1.0), "scale": torch.tensor(9.0)})
    assert (upper.shift.item(), upper.scale.item(), model.shift.item()) == (-1.0, 9.0, 5.0)
    assert (levels.reduced, levels.shards) == (False, None)


def test_an_upper_constant_is_of_the_pass() -> None:
    """A buffer that is not saved is copied for each pass: what a forward pass does to it is forgotten."""

    class Counting(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.constant.add_(1.0)
            return self.constant * self.inner(x)

    upper = Counting(1.0)
    levels = from_modules(Net(), upper, total, lambda m, u, b: u(b).sum())
    start = levels.start()
    for _ in range(2):
        assert levels.upper_loss(start.lower, start.upper, ONE, Pass(None, start.buffers)).item() == 101
    assert upper.constant.item() == 100


def test_losses_hold_in_their_pass() -> None:
    levels = from_modules(Net(), Net(), lambda m, u, b: hold(m(b)).sum() * u(b).sum(), total)
    start = levels.start()
    context = Pass(None, start.buffers)
    levels.lower_loss(start.lower, start.upper, ONE, context)
    assert [value.item() for value in context.held] == [11.0]
    with current(Pass(None, {}, replay=[torch.tensor(4.0)])):
        assert hold(ONE).item() == 4.0
    assert hold(ONE).item() == 1.0


@pytest.mark.parametrize("level", ["lower", "upper"])
def test_levels_that_cannot_be(level: str) -> None:
    def start(tensors: Any) -> Start:
        return Start(**{"lower": {"w": ONE}, "upper": {"w": ONE}, level: tensors})

    with pytest.raises(InputError, match=exactly(f"the {level} level has no parameters that require gradients")):
        start({})
    for value, kind in ((ONE.half(), "float16"), (ONE.bfloat16(), "bfloat16"), (ONE.long(), "int64")):
        message = (
            f"the {level} parameter 'v' is torch.{kind}: levels are kept in float32 or float64; load the model in "
            "float32 and set autocast=torch.bfloat16 for speed"
        )
        with pytest.raises(InputError, match=exactly(message)):
            start({"w": ONE, "v": value})
    start({"w": ONE.double()})
    modules = {"lower": Net(), "upper": Net(), level: nn.LazyLinear(1)}
    message = (
        f"the {level} parameter 'weight' has no shape yet: call the module once with a batch, which makes its lazy "
        "layers, before it is trained"
    )
    with pytest.raises(InputError, match=exactly(message)):
        from_modules(modules["lower"], modules["upper"], total, total)


# ------------------------------------------------------------------------------------------------------------- batches


def test_shuffled_batches_are_slices_of_the_order_of_their_epoch() -> None:
    """Seven rows in threes: two batches an epoch, of which row 7 of the order is left out."""
    data = {"x": torch.arange(7), "y": 10 * torch.arange(7)}
    batches = Shuffled(data, 3, seed=5, purpose="upper")
    assert batches.n_examples == 7
    for n in range(6):
        epoch, place = n // 2, n % 2
        rows = generator(5, "upper", epoch).permutation(7)[3 * place : 3 * place + 3].tolist()
        assert batches.indices(n) == rows
        assert batches(n)["x"].tolist() == rows
        assert batches(n)["y"].tolist() == [10 * row for row in rows]
    assert Shuffled(data, 3, device="meta")(0)["x"].device.type == "meta"
    pairs = [(float(row), row) for row in range(7)]
    x, y = Shuffled(pairs, 3, seed=5, purpose="upper")(1)
    assert x.tolist() == y.tolist() == batches.indices(1)
    listed = Shuffled(pairs, 3, seed=5, purpose="upper", collate=list)(1)
    assert listed == [pairs[row] for row in batches.indices(1)]
    assert sorted(Shuffled(data, 7).indices(0)) == list(range(7))
    assert len(Shuffled(data, 1).indices(6)) == 1
    for size in (0, 8):
        message = f"batch_size must lie between 1 and the 7 examples, not {size}"
        with pytest.raises(InputError, match=exactly(message)) as caught:
            Shuffled(data, size)
        assert caught.value.field == "batch_size"
    message = "the tensors of a data set must have one length, not {'x': 2, 'y': 3}"
    with pytest.raises(InputError, match=exactly(message)):
        Shuffled({"x": torch.zeros(2), "y": torch.zeros(3)}, 1)


class Draws(torch.utils.data.Dataset[torch.Tensor]):
    """Each example is drawn from the global generator; the reads are counted."""

    def __init__(self) -> None:
        self.reads: list[int] = []

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        self.reads.append(index)
        return torch.rand(())


def test_a_loader_draws_each_batch_with_the_seed_of_its_place() -> None:
    data = Draws()
    loaded = Loaded(DataLoader(data, batch_size=2), seed=4, purpose="lower")
    assert (loaded.length, loaded.seed, loaded.purpose) == (3, 4, "lower")
    for n, epoch, number in ((0, 0, 0), (1, 0, 1), (5, 1, 2), (7, 2, 1)):
        seed = int(generator(4, "lower", "loader", epoch, number + 1).integers(2**62))
        expected = torch.rand(2, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(loaded(n), expected)


def test_a_loader_reads_no_batch_twice_without_need() -> None:
    data = Draws()
    loaded = Loaded(DataLoader(data, batch_size=2))
    first = loaded(0)
    loaded(1)
    assert data.reads == [0, 1, 2, 3]
    assert loaded(0) is first  # batch 0 and the latest are kept
    loaded(1)
    assert data.reads == [0, 1, 2, 3]
    loaded(2)
    assert data.reads == [0, 1, 2, 3, 4, 5]
    loaded(1)  # back inside the epoch: from its start
    assert data.reads[6:] == [0, 1, 2, 3]
    data.reads.clear()
    loaded(4)  # the second of the next epoch
    assert data.reads == [0, 1, 2, 3]
    assert loaded(0) is first
    assert (loaded.seed, loaded.purpose) == (0, "batches")


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(4))


def test_loaders_that_have_no_batches() -> None:
    rest = "; give a function from a batch's number to the batch instead"
    for loader, what in (
        (DataLoader(Stream()), "has no length, so batch n is no function of n"),
        (DataLoader(TensorDataset(torch.zeros(0))), "is empty"),
    ):
        with pytest.raises(InputError, match=exactly(f"the upper DataLoader {what}{rest}")) as caught:
            Loaded(loader, purpose="upper")
        assert caught.value.field == "upper"
    assert Loaded(DataLoader([1.0]))(5).tolist() == [1.0]


# -------------------------------------------------------------------------------------------------------- upper models


def test_a_network_s_draws_and_sizes() -> None:
    """Weights uniform in ± 1/√inputs from the layer's stream; the last layer has the bias."""
    found = _network(4, 3, 2, 7, "some", bias=0.5)
    assert [type(part).__name__ for part in found] == ["Linear", "ReLU", "Linear"]
    for index, inputs, bias in ((0, 4, 0.0), (2, 3, 0.5)):
        layer: Any = found[index]
        draw = torch.rand(layer.weight.shape, generator=torch_generator(7, "some", index))
        torch.testing.assert_close(layer.weight.detach(), (2 * draw - 1) / math.sqrt(inputs))
        assert bool((layer.bias == bias).all())
    assert found[2].weight.shape == (2, 3)  # type: ignore[union-attr]
    assert bool((_network(4, 3, 2, 7, "some")[2].bias == 0).all())  # type: ignore[operator]


def fixed(network: nn.Sequential, value: float, bias: float) -> None:
    """All hidden units pass on the sum of the inputs times ``value``, and the output is their sum plus ``bias``."""
    with torch.no_grad():
        for index in (0, 2):
            network[index].weight.fill_(value if index == 0 else 1.0)  # type: ignore[operator, union-attr]
            network[index].bias.fill_(0.0 if index == 0 else bias)  # type: ignore[operator, union-attr]


def test_weights_scores_and_their_losses() -> None:
    """One hidden unit: σ(l − 1) of a loss l, and σ(l + u − 1) of a loss and an uncertainty; inputs are data."""
    losses = torch.tensor([1.0, 3.0], requires_grad=True)
    net = WeightNet(hidden=1)
    fixed(net.network, 1.0, -1.0)
    weights = [1 / 2, 1 / (1 + math.exp(-2))]
    assert net.weights(losses).tolist() == pytest.approx(weights)
    loss = net(losses)
    assert loss.item() == pytest.approx((weights[0] + 3 * weights[1]) / 2)
    (slope,) = torch.autograd.grad(loss, losses)
    assert slope.tolist() == pytest.approx([weight / 2 for weight in weights])
    scorer = DataScorer(hidden=1)
    fixed(scorer.network, 1.0, -1.0)
    doubt = torch.tensor([2.0, 0.0])
    scores = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-2))]
    assert scorer.scores(losses, doubt).tolist() == pytest.approx(scores)
    assert scorer(losses, doubt).item() == pytest.approx((scores[0] + 3 * scores[1]) / 2)
    with pytest.raises(InputError, match=exactly("(2,) losses but (3,) uncertainties")):
        scorer.scores(losses, torch.zeros(3))
    with pytest.raises(InputError, match=exactly("per-example values must be [B], not (2, 1): use reduction='none'")):
        net.weights(losses[:, None])
    assert (net.network[0].out_features, WeightNet().network[0].out_features) == (1, 100)
    assert DataScorer().network[0].weight.shape == (100, 2)
    for make in (WeightNet, DataScorer):
        assert torch.equal(make(3).network[0].weight, make(3, seed=0).network[0].weight)


def test_weights_of_tasks() -> None:
    weights = TaskWeights(3)
    torch.testing.assert_close(weights.weights(), torch.ones(3))
    assert weights.raw.tolist() == pytest.approx([math.log(math.e - 1)] * 3)
    assert weights(torch.tensor(1.0), [torch.tensor(2.0), torch.tensor(4.0)]).item() == pytest.approx(7.0)
    TaskWeights(1, initial=1e-3)
    for n_tasks, initial in ((0, 1.0), (1, 0), (2, -1.0)):
        message = f"TaskWeights needs at least one task and a positive start, not {n_tasks} and {initial}"
        with pytest.raises(InputError, match=exactly(message)):
            TaskWeights(n_tasks, initial)
    with pytest.raises(InputError, match=exactly("there are 3 task weights but 1 losses")):
        weights(torch.tensor(1.0))


def test_a_label_corrector_s_sizes_and_inputs() -> None:
    """Two classes: inputs are the given label and the softmax of the logits; outputs a gate and two classes."""
    found = LabelCorrector(2, hidden=5)
    assert (found.network[0].weight.shape, found.network[2].weight.shape) == ((5, 4), (3, 5))
    assert LabelCorrector(2).network[0].weight.shape == (100, 4)
    assert found.gate.item() == pytest.approx(math.log(0.1 / 0.9))
    with torch.no_grad():
        found.network[2].weight.zero_()
        found.network[2].bias.copy_(torch.tensor([0.0, math.log(3), 0.0]))
    logits = torch.zeros(1, 2, requires_grad=True)
    soft = found(logits, torch.tensor([1]))
    assert soft.tolist()[0] == pytest.approx([0.1 * 0.75, 0.9 + 0.1 * 0.25])
    seen: list[torch.Tensor] = []
    found.network.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    found(torch.tensor([[math.log(3), 0.0]], requires_grad=True), torch.tensor([1]))
    assert seen[0].tolist()[0] == pytest.approx([0, 1, 0.75, 0.25])
    assert not seen[0].requires_grad


# -------------------------------------------------------------------------------------------------------- the one call


class Scalar(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([value]))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.w * x)


def lower_loss(model: Any, upper: Any, batch: Any) -> torch.Tensor:
    found: torch.Tensor = ((model.w - batch) * upper.w).square().sum()
    return found


def upper_loss(model: Any, upper: Any, batch: Any) -> torch.Tensor:
    found: torch.Tensor = (model.w - batch).square().sum()
    return found


def called(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> Any:
    """The training, schedule and run that the loop is given."""
    found: list[Any] = []
    monkeypatch.setattr(api.loop, "train", lambda *given: found.append(given))
    options: dict[str, Any] = {
        "upper": Scalar(2.0), "lower_loss": lower_loss, "upper_loss": upper_loss, "data": Data(float, float), **fields,
    }  # fmt: skip
    train(options.pop("model", Scalar(1.0)), **options)
    return found[0]


def test_what_a_call_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    training, schedule, run = called(monkeypatch)
    assert schedule == Schedule(max_steps=1000, eval_every=100)
    assert isinstance(run, MemoryRun)
    assert training.method == SAMA()
    assert training.lower_batches(3) == training.upper_batches(3) == 3.0
    own = MemoryRun()
    training, schedule, run = called(
        monkeypatch, steps=9, run=own, method=DARTS(), seed=5, unroll_steps=2, upper_optimizer=SGD(0.5)
    )
    assert (schedule, run) == (Schedule(max_steps=9, eval_every=1), own)
    assert (training.method, training.seed, training.unroll_steps) == (DARTS(), 5, 2)
    assert (training.upper_optimizer, training.lower_optimizer) == (SGD(0.5), Adam(1e-3))
    assert called(monkeypatch, steps=20)[1] == Schedule(max_steps=20, eval_every=2)
    assert called(monkeypatch, steps=Schedule(max_steps=3))[1] == Schedule(max_steps=3)
    assert inspect.signature(train).parameters["steps"].default == 1000
    loader = DataLoader([1.0, 2.0])
    training, _, _ = called(monkeypatch, data=Data(loader, loader), seed=6)
    for batches, purpose in ((training.lower_batches, "lower"), (training.upper_batches, "upper")):
        assert isinstance(batches, Loaded)
        assert (batches.seed, batches.purpose) == (6, purpose)
    assert called(monkeypatch, data=Data(loader, loader))[0].lower_batches.seed == 0


def test_validation_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """(1 − b)² over batches 4 and 2: means 5. Without any, upper batch 0."""
    training, _, _ = called(
        monkeypatch, data=Data(float, float, [4.0, 2.0]), metrics=lambda model, upper, b: {"a": b * float(upper.w)}
    )
    assert training.validate(training.init()) == {"validation_loss_nats": 5.0, "validation_a": 6.0}
    training, _, _ = called(monkeypatch, data=Data(float, lambda n: 3.0 + n))
    assert training.validate(training.init()) == {"validation_loss_nats": 4.0}


def test_modes_are_as_they_were_after_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    model, upper = Scalar(1.0), Scalar(2.0)
    model.drop.eval()
    upper.eval()
    called(monkeypatch, model=model, upper=upper)
    assert [part.training for part in (model, model.drop, upper, upper.drop)] == [True, False, False, False]


def test_metrics_are_of_modules_in_evaluation_mode_without_history() -> None:
    model, upper = Scalar(1.0), Scalar(2.0)
    levels = from_modules(model, upper, lower_loss, upper_loss)
    start = levels.start()
    told: list[Any] = []

    def metrics(first: Any, second: Any, batch: Any) -> dict[str, float]:
        told.append((first.drop.module.training, second.drop.module.training, torch.is_grad_enabled()))
        return {"loss_nats": float(first.w), "other": float(second.w) + batch}

    evaluate = evaluator(model, upper, levels, [1.0, 2.0], metrics)
    theta, lam = {"w": torch.tensor([6.0])}, {"w": torch.tensor([7.0])}
    assert evaluate(theta, start.buffers, lam) == {"validation_loss_nats": 6.0, "validation_other": 8.5}
    assert told == [(False, False, False)] * 2
    plain = evaluator(model, upper, levels, [1.0, 2.0])
    assert plain(theta, start.buffers, lam) == {"validation_loss_nats": (25 + 16) / 2}
    assert "loss_nats" not in plain(theta, start.buffers, lam)


@pytest.mark.parametrize("level", ["lower", "upper"])
def test_torch_s_optimisers_are_taken_over_with_their_states(level: str) -> None:
    modules = {"lower": Scalar(1.0), "upper": Scalar(2.0)}
    levels = from_modules(modules["lower"], modules["upper"], lower_loss, upper_loss)
    given = torch.optim.SGD(modules[level].parameters(), 0.25, momentum=0.5)
    modules[level].w.grad = torch.tensor([8.0])
    given.step()
    other = "upper" if level == "lower" else "lower"
    fields = {f"{level}_optimizer": given, f"{other}_optimizer": SGD(0.1), "seed": 3}
    found, own = _take_over(levels, modules, fields)
    assert own == {f"{level}_optimizer": SGD(0.25, momentum=0.5), f"{other}_optimizer": SGD(0.1), "seed": 3}
    start = found.start()
    assert list(start.optimizers) == [level]
    assert start.optimizers[level]["velocity"]["w"].tolist() == [8.0]
    same, own = _take_over(levels, modules, {"seed": 3})
    assert same is levels
    assert own == {"seed": 3}
    torch.optim.lr_scheduler.StepLR(given, 2)
    message = (
        f"the {level} torch.optim.SGD has a learning-rate scheduler, which nothing would step here: leave it off and "
        f"give {level}_schedule=, such as metascale.training.Cosine(...)"
    )
    with pytest.raises(InputError, match=exactly(message)) as caught:
        _take_over(levels, modules, fields)
    assert caught.value.field == f"{level}_optimizer"


def test_a_problem_is_checked_before_it_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="the lower loss never touches the upper parameter 'w'"):
        called(monkeypatch, lower_loss=lambda m, u, b: m.w.sum())


# ------------------------------------------------------------------------------------------------------ wrapped models


def test_a_wrapped_model_is_used_as_it_is() -> None:
    """Its parts and methods are refused; without differentiation no graph is made."""
    net = Net().eval()
    for differentiated in (True, False):
        bound = _AsItIs(net, differentiated)
        assert bound(ONE).requires_grad is differentiated
        assert bound(ONE).item() == 11
        for use, name in ((lambda b: b.inner, "inner"), (lambda b: b.doubled(ONE), "doubled")):
            message = (
                f"a loss cannot use '{name}' of a model in DistributedDataParallel or fully_shard alone: its wrapper "
                "works in the whole model's forward pass; call the model"
            )
            with pytest.raises(InputError, match=exactly(message)):
                use(bound)
    assert not is_wrapped(net)


def own_of(net: Net) -> _Own:
    return _Own(net, dict(net.named_parameters()), persistent_buffers(net))


def test_a_module_runs_with_given_tensors_in_its_own() -> None:
    """(4 · 7 + 5) times λ = 2 in training: its derivative by W is 4 · 2, by λ 33; the shift's 2."""
    net, upper = Net(), Scalar(2.0)
    own = own_of(net)
    loss = own.bind(upper, lambda m, u, b: (m(b) * u.w).sum())
    theta = {"inner.weight": torch.full((1, 1), 7.0).requires_grad_(), "shift": torch.tensor(5.0).requires_grad_()}
    lam = {"w": torch.tensor([2.0]).requires_grad_()}
    context = Pass(1, {"scale": torch.tensor(3.0)})
    value = loss(theta, lam, ONE, context)
    found = torch.autograd.grad(value * 10, [*theta.values(), *lam.values()])
    assert value.item() == 66
    assert [each.item() for each in found] == [80, 20, 330]
    assert {name: each.item() for name, each in context.updated.items()} == {"scale": 4.0}
    assert all(parameter.grad is None for parameter in net.parameters())
    still = Pass(None, {"scale": torch.tensor(3.0)})
    plain = loss({name: each.detach() for name, each in theta.items()}, lam, ONE, still)
    assert plain.item() == (3 * 7 + 5) * 2
    assert plain.requires_grad
    assert still.updated == {}
    with torch.no_grad():
        assert not loss(theta, lam, ONE, still).requires_grad
    assert own.bound({"shift": torch.tensor(1.0)})(ONE).item() == 3 * 7 + 1
    # The upper module's constant is as it is, its saved statistic that of the pass, which keeps what became of it.
    constant = own.bind(Net(), lambda m, u, b: u(b).sum() + u.constant)
    context = Pass(1, {"scale": torch.tensor(3.0), "upper:scale": torch.tensor(6.0)})
    found = constant(theta, {"inner.weight": torch.full((1, 1), 10.0), "shift": torch.tensor(5.0)}, ONE, context)
    assert found.item() == 7 * 10 + 5 + 100
    assert {name: each.item() for name, each in context.updated.items()} == {"scale": 3.0, "upper:scale": 7.0}


class Placed(torch.nn.Parameter):
    """Stands for a parameter spread over processes in its second dimension."""

    device_mesh = SimpleNamespace(ndim=1, size=lambda: 3, get_local_rank=lambda: 1)
    placements = (SimpleNamespace(dim=1),)


def test_shards_of_whole_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns 0 … 4 over three processes in twos: this one, of rank 1, has 2 and 3, and rank 2 the last."""
    monkeypatch.setattr("metascale.bilevel.wrapped.DTensor", Placed)
    parameter = Placed(torch.zeros(1, 5))
    shards = FSDPShards({"w": parameter})
    whole = {"w": torch.arange(5.0)[None], "count": torch.tensor(3.0)}
    for rank, expected in ((0, [0, 1]), (1, [2, 3]), (2, [4]), (3, [])):
        monkeypatch.setattr(Placed.device_mesh, "get_local_rank", lambda rank=rank: rank)
        part = shards.part(whole)
        assert part["w"].tolist() == [expected]
        assert part["count"] is whole["count"]
        assert part["w"].data_ptr() != whole["w"].data_ptr() or not expected
    assert shards.whole({"count": whole["count"]})["count"] is whole["count"]
    message = "'v' is not sharded over one dimension of processes: call fully_shard(model)"
    with pytest.raises(InputError, match=exactly(message)):
        FSDPShards({"w": parameter, "v": nn.Parameter(torch.zeros(1))})
    monkeypatch.setattr(Placed.device_mesh, "ndim", 2)
    with pytest.raises(InputError, match="'w' is not sharded over one dimension"):
        FSDPShards({"w": parameter})
