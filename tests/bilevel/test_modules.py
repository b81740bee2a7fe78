"""Modules in bilevel training behave as in torch; a plain torch loop is the judge."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from metascale.bilevel import DARTS, SAMA, BilevelTraining, Data, Loaded, Shuffled, Unrolled, from_modules, train
from metascale.bilevel.levels import BoundModule
from metascale.core.errors import InputError
from metascale.core.run import MemoryRun
from metascale.hypergrad.problem import HypergradientSolver
from metascale.training.loop import Schedule
from metascale.training.optimizers import SGD, Adam, Optimizer
from metascale.training.schedules import Cosine

G = torch.Generator().manual_seed(0)
X, Y = torch.randn(48, 6, generator=G) * 3 + 20, torch.arange(48) % 2
ROWS = {"x": X, "y": Y}
TO_THE_END = Schedule(max_steps=6, restore_best=False)
Loss = Callable[[Any, Any, Any], torch.Tensor]


class Weights(nn.Module):
    """Weights of examples from their inputs, through batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.out = nn.BatchNorm1d(6), nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.out(self.norm(x))).squeeze(-1)


class Net(nn.Module):
    """A network with a head that the loss leaves aside."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU())
        self.head, self.spare = nn.Linear(8, 2), nn.Linear(8, 2)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.body((x - 20) / 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def lower_loss(model: Any, weights: Any, batch: Any) -> torch.Tensor:
    return (weights(batch["x"]) * F.cross_entropy(model(batch["x"]), batch["y"], reduction="none")).mean()


def upper_loss(model: Any, weights: Any, batch: Any) -> torch.Tensor:
    return F.cross_entropy(model(batch["x"]), batch["y"])


def pair() -> tuple[Net, Weights]:
    torch.manual_seed(0)
    return Net(), Weights()


LOWER = Shuffled(ROWS, 12)


def ours(model: nn.Module, weights: nn.Module, loss: Loss = lower_loss, **fields: Any) -> None:
    """Six lower steps with λ as it is, so that a plain loop over θ gives the same."""
    fields = {"lower_optimizer": Adam(0.05, weight_decay=0.1), "learn_upper": False, "steps": TO_THE_END, **fields}
    data = fields.pop("data", Data(LOWER, Shuffled(ROWS, 12, purpose="upper")))
    train(model, upper=weights, lower_loss=loss, upper_loss=upper_loss, data=data, **fields)


def of_torch(
    model: nn.Module, weights: nn.Module, batches: list[Any], loss: Loss = lower_loss, warm: Any = None
) -> None:
    """The plain loop of torch on the same batches."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.05, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm) if warm else None
    for batch in batches:
        optimizer.zero_grad()
        loss(model, weights, batch).backward()
        optimizer.step()
        if scheduler:
            scheduler.step()


def assert_same(found: nn.Module, expected: nn.Module) -> None:
    states = found.state_dict(), expected.state_dict()
    for name, value in states[1].items():
        torch.testing.assert_close(states[0][name], value, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_statistics_and_unused_parameters_are_as_torch_leaves_them() -> None:
    """Both modules' running statistics, and a head that no loss uses: it neither decays nor moves."""
    model, weights = pair()
    expected = copy.deepcopy((model, weights))
    spare = model.spare.weight.detach().clone()
    ours(model, weights)
    of_torch(*expected, [LOWER(n) for n in range(6)])
    assert_same(model, expected[0])
    assert_same(weights, expected[1])
    assert int(weights.norm.num_batches_tracked) == 6
    assert torch.equal(model.spare.weight, spare)


def test_the_upper_module_s_statistics_are_kept_when_training_is_interrupted() -> None:
    def state(*lengths: int) -> dict[str, torch.Tensor]:
        run = MemoryRun()
        for length in lengths:
            model, weights = pair()
            ours(model, weights, steps=Schedule(max_steps=length, checkpoint_every=1, restore_best=False), run=run)
        return weights.state_dict()

    whole, resumed = state(6), state(3, 6)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_frozen_parts_stay_frozen() -> None:
    """Normalisation in evaluation mode, and parameters that require no gradient."""
    model, weights = pair()
    model.body[1].eval()
    model.body[0].requires_grad_(False)
    before = copy.deepcopy(model.body.state_dict())
    expected = copy.deepcopy((model, weights))
    for _ in range(2):  # training leaves the modes as they were, for the next time
        ours(model, weights)
        assert not model.body[1].training
        assert model.head.training
    of_torch(*expected, [LOWER(n) for n in range(6)])
    for name in ("0.weight", "1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(model.body.state_dict()[name], before[name]), name
        assert torch.equal(expected[0].body.state_dict()[name], before[name]), name


def test_a_schedule_multiplies_the_rate_as_torch_s_does() -> None:
    model, weights = pair()
    expected = copy.deepcopy((model, weights))
    ours(model, weights, lower_schedule=Cosine(6, warmup=2))
    of_torch(*expected, [LOWER(n) for n in range(6)], warm=Cosine(6, warmup=2))
    assert_same(model, expected[0])


@pytest.mark.parametrize("method", [SAMA(), DARTS(0.05), Unrolled()], ids=repr)
@pytest.mark.parametrize("make", [SGD, Adam])
def test_the_hypergradient_sees_the_scheduled_rate(
    method: HypergradientSolver, make: Callable[[float], Optimizer]
) -> None:
    """Half the rate by a schedule, or from the start: the same λ after one step."""
    found = []
    for rate, schedule in ((0.1, lambda step: 0.5), (0.05, None)):
        model, weights = pair()
        fields: dict[str, Any] = {"learn_upper": True, "steps": Schedule(max_steps=2, restore_best=False)}
        fields |= {"lower_optimizer": make(rate), "lower_schedule": schedule, "upper_optimizer": SGD(10.0)}
        ours(model, weights, method=method, **fields)
        found.append(weights.out.weight.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_a_schedule_of_the_upper_rate() -> None:
    model, weights = pair()
    before = copy.deepcopy(weights.out.weight.detach())
    ours(model, weights, learn_upper=True, upper_optimizer=SGD(1.0), upper_schedule=lambda step: 0.0)
    assert torch.equal(weights.out.weight, before)


def test_a_scheduler_of_torch_is_refused() -> None:
    model, weights = pair()
    optimizer = torch.optim.AdamW(model.parameters(), 0.05)
    torch.optim.lr_scheduler.StepLR(optimizer, 2)
    with pytest.raises(InputError, match=r"has a learning-rate scheduler, .* give lower_schedule="):
        ours(model, weights, lower_optimizer=optimizer)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("lower_schedule", "cosine", "lower_schedule must be a function from a step's number .*, not a str"),
        ("upper_schedule", 0.5, "upper_schedule must be a function .*, not a float"),
        ("method", "SAMA", r"method must be an instance such as SAMA\(\), not 'SAMA'"),
        ("method", SAMA, r"method must be an instance such as SAMA\(\)"),
    ],
)
def test_what_is_no_schedule_or_method_is_a_sentence(field: str, value: Any, sentence: str) -> None:
    model, weights = pair()
    with pytest.raises(InputError, match=sentence):
        ours(model, weights, **{field: value})


def test_a_lazy_layer_without_a_shape_is_refused() -> None:
    _, weights = pair()
    with pytest.raises(InputError, match="the lower parameter 'weight' has no shape yet"):
        ours(torch.nn.LazyLinear(2), weights)


def rows(loss: Loss = lower_loss) -> Loss:
    return lambda model, weights, batch: loss(model, weights, {"x": batch[0], "y": batch[1]})


def test_data_loaders_are_batch_sources() -> None:
    """In order it is torch's own loop; shuffled, every epoch has each row once, and batch n is a function of n."""
    model, weights = pair()
    expected = copy.deepcopy((model, weights))
    loader = DataLoader(TensorDataset(X, Y), 12)
    train(
        model,
        upper=weights,
        lower_loss=rows(),
        upper_loss=rows(upper_loss),
        data=Data(loader, loader, loader),
        steps=TO_THE_END,
        lower_optimizer=Adam(0.05, weight_decay=0.1),
        learn_upper=False,
    )
    of_torch(*expected, [*loader, *loader][:6], rows())
    assert_same(model, expected[0])


@pytest.mark.parametrize("own", [True, False], ids=["own generator", "global generator"])
def test_batch_n_of_a_loader_is_a_function_of_n(own: bool) -> None:
    def loaded() -> Loaded:
        chosen = torch.Generator().manual_seed(7) if own else None
        return Loaded(DataLoader(TensorDataset(torch.arange(10)), 4, shuffle=True, generator=chosen), seed=3)

    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = loaded()
    forward = [one(n)[0] for n in range(9)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert sorted(torch.cat(forward[:3]).tolist()) == list(range(10))
    assert not torch.equal(torch.cat(forward[:3]), torch.cat(forward[3:6]))
    torch.manual_seed(6)
    other = loaded()
    for n in (7, 0, 4, 4, 8, 2):
        assert torch.equal(other(n)[0], forward[n]), n


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


def test_sources_that_are_no_functions_of_a_number_are_refused() -> None:
    with pytest.raises(InputError, match="the lower DataLoader has no length, so batch n is no function of n"):
        ours(*pair(), data=Data(DataLoader(Stream()), LOWER))
    with pytest.raises(InputError, match="the upper DataLoader is empty"):
        ours(*pair(), data=Data(LOWER, DataLoader(TensorDataset(X[:3]), 4, drop_last=True)))
    with pytest.raises(InputError, match=r"lower_batches must be a function from a batch's number .*, not a list"):
        ours(*pair(), data=Data([ROWS], LOWER))  # type: ignore[arg-type]


def decayed(model: Any, weights: Any, batch: Any) -> torch.Tensor:
    """A part, an item, a method, a parameter and all parameters of bound models."""
    features = model.features(batch["x"])
    logits = model.head(features) + 0.1 * model.body[2](features)[:, :2]
    losses = weights(batch["x"]) * F.cross_entropy(logits, batch["y"], reduction="none")
    norms = model.head.weight.square().sum() + sum(p.square().sum() for p in model.parameters())
    return losses.mean() + 0.01 * norms + 0.01 * weights.out.bias.square().sum()


def test_attributes_of_bound_models_are_those_of_the_tensors_in_training() -> None:
    model, weights = pair()
    expected = copy.deepcopy((model, weights))
    ours(model, weights, decayed)
    of_torch(*expected, [LOWER(n) for n in range(6)], decayed)
    assert_same(model, expected[0])
    bound = BoundModule(model, {"head.weight": torch.zeros(2, 8)})
    assert float(bound.head.weight.abs().sum()) == 0
    assert not hasattr(bound, "absent")
    with pytest.raises(InputError, match="'eval' of a module cannot be used in a loss of bilevel training"):
        bound.eval()
    with pytest.raises(InputError, match="cannot set 'scale'"):
        bound.scale = 2


def test_accumulation_can_be_weighted_by_examples() -> None:
    """Micro-batches of 12 and 4 rows, weighted by rows, are one batch of 16; unweighted they are not."""
    parts = {0: {"x": X[:12], "y": Y[:12]}, 1: {"x": X[12:16], "y": Y[12:16]}}
    whole = {"x": X[:16], "y": Y[:16]}
    found = []
    for source, fields in (
        (lambda n: parts[n % 2], {"accumulate_by": lambda b: len(b["y"]), "lower_accumulation": 2}),
        (lambda n: parts[n % 2], {"lower_accumulation": 2}),
        (lambda n: whole, {}),
    ):
        torch.manual_seed(0)
        model, weights = nn.Linear(6, 2), nn.Sequential(nn.Linear(6, 1), nn.Sigmoid(), nn.Flatten(0))
        fields |= {"learn_upper": True, "upper_optimizer": SGD(1.0), "lower_optimizer": SGD(0.01)}
        ours(model, weights, data=Data(source, LOWER), steps=Schedule(max_steps=2, restore_best=False), **fields)
        found.append(torch.cat([model.weight.detach().flatten(), weights[0].weight.detach().flatten()]))
    torch.testing.assert_close(found[0], found[2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[1], found[2], rtol=1e-4, atol=1e-5)
    training = BilevelTraining(from_modules(*pair(), lower_loss, upper_loss), LOWER, LOWER, accumulate_by=lambda b: 0)
    with pytest.raises(InputError, match="must give weights of at least 0 that do not all vanish"):
        training.step(training.init(), 0)


def test_a_loader_goes_back_inside_an_epoch() -> None:
    loader = DataLoader(torch.arange(12.0), batch_size=2, shuffle=True)
    ahead = Loaded(loader)
    there = [ahead(n) for n in range(6)]
    assert torch.equal(torch.cat(there).sort().values, torch.arange(12.0))
    for n in (3, 1, 4, 2):
        assert torch.equal(ahead(n), there[n])
