"""Batches, labels, rows and refusals of bilevel training, against values worked out in the tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from metascale.bilevel import LabelCorrector
from metascale.bilevel.adaptation import LastStep, elementwise_derivative
from metascale.bilevel.api import _levels
from metascale.bilevel.batches import Loaded
from metascale.bilevel.levels import BoundModule, Pass, Start
from metascale.core.errors import InputError
from metascale.core.streams import generator
from metascale.training.optimizers import SGD
from tests.bilevel.problems import noisy_training


def test_a_loader_s_batch_is_the_same_whichever_was_asked_for_before() -> None:
    """Batches 3, 4 and 5 are the second epoch of three; a training that goes on may begin with any of them."""
    data = TensorDataset(torch.arange(6))

    def loaded() -> Loaded:
        return Loaded(DataLoader(data, batch_size=2, shuffle=True), seed=1)

    whole = loaded()
    batches = [whole(n)[0].tolist() for n in range(6)]
    for epoch in (batches[:3], batches[3:]):
        assert sorted(number for batch in epoch for number in batch) == list(range(6))
    assert batches[:3] != batches[3:]
    for order in ([3], [4, 3], [5, 0, 4], [1, 1, 4, 2]):
        again = loaded()
        assert [again(n)[0].tolist() for n in order] == [batches[n] for n in order]
    other = Loaded(DataLoader(data, batch_size=2, shuffle=True), seed=2)
    assert [other(n)[0].tolist() for n in range(6)] != batches


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        (DataLoader(TensorDataset(torch.zeros(0, 1)), batch_size=2), "the clean DataLoader is empty"),
        (DataLoader([1], batch_size=2, drop_last=True), "the clean DataLoader is empty"),
    ],
)
def test_an_empty_loader_is_refused_by_its_name(loader: DataLoader, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        Loaded(loader, purpose="clean")
    assert caught.value.field == "clean"


def test_corrected_labels_mix_the_given_class_with_the_network_s_also_where_a_class_is_absent() -> None:
    """With gate g the result is (1 − g) · one-hot + g · softmax; every class has a place, present or not."""
    corrector = LabelCorrector(4, hidden=3, initial_gate=0.25)
    logits, labels = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    found = corrector(logits, labels)
    given = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    output = corrector.network(torch.cat([given, logits.softmax(-1)], -1))
    gate = torch.sigmoid(torch.log(torch.tensor(0.25 / 0.75)) + output[:, :1])
    torch.testing.assert_close(found, (1 - gate) * given + gate * output[:, 1:].softmax(-1))
    with pytest.raises(InputError, match=r"logits must be \[2, 4\] beside 2 labels, not \[2, 3\]"):
        corrector(logits[:, :3], labels)


def test_levels_without_parameters_or_in_low_precision_are_refused_by_their_name() -> None:
    one = {"w": torch.zeros(1)}
    for lower, upper, level in (({}, one, "lower"), (one, {}, "upper")):
        with pytest.raises(InputError, match=f"the {level} level has no parameters"):
            Start(lower, upper)
    half = {"v": torch.zeros(1, dtype=torch.bfloat16)}
    for lower, upper, level in (
        (half, one, "lower"),
        (one, half, "upper"),
        (one, {"v": torch.zeros(1).int()}, "upper"),
    ):
        with pytest.raises(InputError, match=f"the {level} parameter 'v' is torch"):
            Start(lower, upper)
    Start(one, {"v": torch.zeros(1, dtype=torch.float64)})


def test_an_optimiser_that_mixes_elements_has_no_elementwise_derivative() -> None:
    g = {"w": torch.ones(2)}
    last = LastStep(g, {"v": g, "count": {"count": torch.tensor(1.0)}})
    with pytest.raises(InputError, match="the step of SGD is not element-wise"):
        elementwise_derivative(SGD(0.1), last)


def test_the_row_of_a_step_has_both_losses_in_nats() -> None:
    training = noisy_training(unroll_steps=3)
    state = training.init()
    _, row = training.step(state, 0)
    assert {"lower_loss_nats", "upper_loss_nats"} <= set(row)
    assert 0.3 < float(row["lower_loss_nats"]) < 1.5


@pytest.fixture
def one_process() -> Iterator[None]:
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_wrapped_model_runs_with_given_tensors_under_its_own_names(one_process: None) -> None:
    """x = (3, 5) through W = 1, b = (1, 1) gives (4, 6); the sum's derivative by W has x in both rows."""
    model = torch.nn.Linear(2, 2)
    first = model.weight.data
    kept = first.clone()
    levels = _levels(DistributedDataParallel(model), torch.nn.Linear(1, 1), _sum, _sum)
    assert levels.reduced
    assert set(levels.start().lower) == {"weight", "bias"}
    theta = {"weight": torch.eye(2).requires_grad_(), "bias": torch.ones(2).requires_grad_()}
    loss = levels.lower_loss(theta, levels.start().upper, torch.tensor([[3.0, 5.0]]), Pass(None, {}))
    by_weight, by_bias = torch.autograd.grad(loss, list(theta.values()))
    assert (loss.item(), by_weight.tolist(), by_bias.tolist()) == (10.0, [[3.0, 5.0], [3.0, 5.0]], [1.0, 1.0])
    assert torch.equal(first, kept), "tensors that the module had before are not written to"
    doubled = {name: 2 * value.detach() for name, value in theta.items()}
    assert levels.lower_loss(doubled, levels.start().upper, torch.tensor([[3.0, 5.0]]), Pass(None, {})).item() == 20.0
    assert torch.equal(model.weight, torch.eye(2)), "a pass without θ's gradient leaves the module alone"


def test_a_frozen_part_of_the_upper_network_beside_a_wrapped_model_stays_frozen(one_process: None) -> None:
    """The norm is in evaluation mode inside a network in training mode: frozen on purpose, when others train too."""
    upper = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Dropout())
    upper[0].eval()
    modes: list[list[bool]] = []

    def loss(model: Any, upper: Any, batch: torch.Tensor) -> torch.Tensor:
        modes.append([part.training for part in upper.module])
        return model(batch).sum()

    levels = _levels(DistributedDataParallel(torch.nn.Linear(2, 2)), upper, loss, loss)
    start = levels.start()
    theta = {name: value.detach().requires_grad_() for name, value in start.lower.items()}
    for dropout in (3, None):
        levels.lower_loss(theta, start.upper, torch.ones(4, 2), Pass(dropout, start.buffers))
    assert modes == [[False, True], [False, False]]


def test_frozen_parameters_of_a_sharded_model_stay_out(one_process: None) -> None:
    model = torch.nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    levels = _levels(model, torch.nn.Linear(1, 1), _sum, _sum)
    assert set(levels.start().lower) == {"weight"}


def test_a_sharded_model_takes_given_shards_and_gives_whole_tensors(one_process: None) -> None:
    """x = (3, 5) through W = 1, b = (1, 1) gives 10, as before; what is mirrored stands in the modules afterwards."""
    model, upper = torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    levels = _levels(model, upper, _sum, lambda m, u, b: m(b).sum() * u.weight.sum())
    assert levels.reduced
    start = levels.start()
    assert (start.lower["weight"].shape, start.lower["bias"].shape) == ((2, 2), (2,))
    assert set(start.buffers) == {"upper:running_mean", "upper:running_var", "upper:num_batches_tracked"}
    theta = {"weight": torch.eye(2).requires_grad_(), "bias": torch.ones(2).requires_grad_()}
    batch = torch.tensor([[3.0, 5.0]])
    loss = levels.lower_loss(theta, start.upper, batch, Pass(None, start.buffers))
    by_weight, by_bias = torch.autograd.grad(loss, list(theta.values()))
    assert (loss.item(), by_weight.tolist(), by_bias.tolist()) == (10.0, [[3.0, 5.0], [3.0, 5.0]], [1.0, 1.0])
    with torch.no_grad():  # after which whole parameters would stay behind
        doubled = {"weight": 2 * theta["weight"], "bias": theta["bias"]}
        assert levels.lower_loss(doubled, start.upper, batch, Pass(None, start.buffers)).item() == 18.0
    assert levels.upper_loss(theta, start.upper, batch, Pass(None, start.buffers)).item() == 20.0
    levels.mirror("lower", {"weight": torch.full((2, 2), 7.0)})
    assert levels.start().lower["weight"].tolist() == [[7.0, 7.0], [7.0, 7.0]]
    levels.mirror("upper", {"weight": torch.tensor([3.0, 4.0]), "running_mean": torch.tensor([5.0, 6.0])})
    assert (upper.weight.tolist(), upper.running_mean.tolist()) == ([3.0, 4.0], [5.0, 6.0])  # type: ignore[union-attr]
    shards = levels.shards
    assert shards is not None
    given = {"weight": torch.full((2, 2), 8.0), "count": torch.tensor(3.0)}
    for found in (shards.whole(given), shards.part(given)):
        assert {name: value.tolist() for name, value in found.items()} == {"weight": [[8.0] * 2] * 2, "count": 3.0}
        assert found["count"] is given["count"]
    number = torch.tensor(4.0)
    assert shards.total(number).item() == 4.0
    assert shards.total(number) is not number
    assert levels.bound is not None
    assert levels.bound({"weight": torch.eye(2), "bias": torch.zeros(2)})(batch).tolist() == [[3.0, 5.0]]


def _sum(model: BoundModule, upper: BoundModule, batch: Any) -> torch.Tensor:
    found: torch.Tensor = model(batch).sum()
    return found


def test_a_loader_is_seeded_by_seed_purpose_epoch_and_batch() -> None:
    """The order of epoch 2 is that of a plain loader whose generator has the seed at (seed, purpose, "loader", 2, 0),
    while the global generator has the batch's own, at number + 1."""

    def batches(own: torch.Generator) -> DataLoader:
        return DataLoader(TensorDataset(torch.arange(6)), batch_size=2, shuffle=True, generator=own)

    expected = torch.Generator().manual_seed(int(generator(5, "upper", "loader", 2, 0).integers(2**62)))
    torch.manual_seed(0)
    order = [batch[0].tolist() for batch in batches(expected)]
    state = torch.random.get_rng_state()
    found = Loaded(batches(torch.Generator()), seed=5, purpose="upper")
    assert [found(6 + number)[0].tolist() for number in range(3)] == order
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator is as before"
