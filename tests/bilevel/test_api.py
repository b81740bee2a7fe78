"""From a torch model to a SAMA training run in a few lines, and what is refused before it starts."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metascale.bilevel import (
    CG,
    DARTS,
    SAMA,
    Data,
    DataScorer,
    Implicit,
    LabelCorrector,
    Shuffled,
    TaskWeights,
    Unrolled,
    WeightNet,
    train,
)
from metascale.bilevel.levels import BoundModule
from metascale.core.errors import InputError
from metascale.core.run import MemoryRun
from metascale.hypergrad.problem import HypergradientSolver
from metascale.training.loop import Schedule
from metascale.training.optimizers import SGD, Adam
from tests.bilevel.problems import data, lower_loss, network, upper_loss


def accuracy(model: BoundModule, weights: BoundModule, batch: Any) -> dict[str, float]:
    return {"accuracy": float((model(batch["x"]).argmax(-1) == batch["y"]).float().mean())}


def reweight(method: HypergradientSolver, steps: int = 60) -> tuple[float, nn.Module, WeightNet]:
    """The README's example: reweight noisy examples by their loss, judged by a few clean ones."""
    noisy, clean, validation = data(noise=0.4)
    model, weights, run = network(), WeightNet(), MemoryRun()
    train(
        model,
        upper=weights,
        lower_loss=lambda model, weights, b: weights(F.cross_entropy(model(b["x"]), b["y"], reduction="none")),
        upper_loss=lambda model, weights, b: F.cross_entropy(model(b["x"]), b["y"]),
        data=Data(Shuffled(noisy, 50), Shuffled(clean, 25, purpose="upper"), [validation]),
        method=method,
        steps=steps,
        metrics=accuracy,
        run=run,
        lower_optimizer=Adam(1e-2),
        upper_optimizer=Adam(3e-2),
        unroll_steps=2,
    )
    return max(row["validation_accuracy"] for row in run.rows("eval_stats")), model, weights


def test_the_example_is_at_most_twenty_lines() -> None:
    body = ast.parse(inspect.getsource(reweight)).body[0]
    assert isinstance(body, ast.FunctionDef)
    assert (body.end_lineno or 0) - body.body[0].lineno <= 20


def test_the_example_runs_and_leaves_what_it_learnt_in_the_modules() -> None:
    best, model, weights = reweight(SAMA())
    assert best >= 0.7
    assert all(value.requires_grad for value in model.parameters())
    assert not torch.equal(weights.network[2].bias, WeightNet().network[2].bias)


class Trust(nn.Module):
    """One weight for each of 200 examples."""

    def __init__(self) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.zeros(200))

    def forward(self, losses: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return (2 * torch.sigmoid(self.raw[index]) * losses).mean()


@pytest.mark.parametrize(
    "method",
    [
        SAMA(),
        SAMA(mixed="exact"),
        SAMA(adapt=False),
        Unrolled(),
        Implicit(CG(5, damping=0.1, on_failure="report")),
        DARTS(),
    ],
    ids=repr,
)
def test_every_method_learns_which_examples_are_mislabelled(method: HypergradientSolver) -> None:
    noisy, clean, validation = data(noise=0.3)
    wrong = noisy["y"] != data(noise=0.0)[0]["y"]
    torch.manual_seed(0)
    model, trust = nn.Linear(6, 2), Trust()
    train(
        model,
        upper=trust,
        lower_loss=lambda m, w, b: w(F.cross_entropy(m(b["x"]), b["y"], reduction="none"), b["index"]),
        upper_loss=upper_loss,
        data=Data(
            Shuffled({**noisy, "index": torch.arange(200)}, 50), Shuffled(clean, 50, purpose="upper"), [validation]
        ),
        method=method,
        steps=Schedule(80, eval_every=80, restore_best=False),
        lower_optimizer=Adam(3e-2),
        upper_optimizer=Adam(0.1),
        unroll_steps=2,
    )
    raw = trust.raw.detach()
    ranked = (raw[~wrong][:, None] > raw[wrong]).float().mean()
    assert float(ranked) > 0.85


def test_training_with_a_torch_optimiser_goes_on_from_its_state() -> None:
    noisy, clean, _ = data()
    model = network(dropout=0.0, norm=False)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(noisy["x"]), noisy["y"]).backward()
        optimizer.step()
    result = train(
        model,
        upper=WeightNet(8),
        lower_loss=lower_loss,
        upper_loss=upper_loss,
        data=Data(Shuffled(noisy, 20), Shuffled(clean, 20)),
        steps=Schedule(max_steps=2, restore_best=False),
        lower_optimizer=optimizer,
    )
    assert float(result.state.lower_optimizer["count"]["count"]) == 5
    assert result.state.lower_optimizer["m"]["0.weight"].shape == (16, 6)


def simple(**changes: Any) -> None:
    noisy, clean, _ = data()
    fields: dict[str, Any] = {
        "upper": WeightNet(4),
        "lower_loss": lower_loss,
        "upper_loss": upper_loss,
        "data": Data(Shuffled(noisy, 10), Shuffled(clean, 10)),
        "steps": 1,
        **changes,
    }
    train(fields.pop("model", network()), **fields)


class Attention(nn.Module):
    """Scaled dot-product attention, whose fused kernel has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(6, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.project(x).reshape(1, 1, len(x), 8)
        return self.head(F.scaled_dot_product_attention(q, q, q)[0, 0])


def frozen() -> nn.Module:
    return network().requires_grad_(False)


REFUSALS: list[tuple[dict[str, Any], str]] = [
    (
        {"lower_loss": lambda m, u, b: F.cross_entropy(m(b["x"]), b["y"])},
        r"the lower loss never touches the upper parameters 'network.0.weight', .*, so they have no hypergradient",
    ),
    (
        {"lower_loss": lambda m, u, b: u.module.weights(F.cross_entropy(m(b["x"]), b["y"], reduction="none")).mean()},
        "the lower loss depends on neither the lower nor the upper parameters|does not depend on the lower parameters",
    ),
    (
        {"lower_loss": lambda m, u, b: m(b["x"])[:, 0]},
        r"the lower loss must be one number .*not \(10,\): take its mean",
    ),
    ({"upper_loss": lambda m, u, b: m(b["x"])}, r"the upper loss must be one number .*not \(10, 2\)"),
    ({"upper_loss": lambda m, u, b: b["x"].sum()}, "the upper loss does not depend on the lower parameters"),
    ({"model": frozen()}, "the lower level has no parameters that require gradients"),
    ({"model": network().bfloat16()}, r"'0.weight' is torch.bfloat16: levels are kept in float32"),
    ({"model": Attention(), "method": Implicit(CG(2))}, "needs second derivatives that the lower loss lacks"),
    ({"model": Attention(), "method": Unrolled()}, "needs second derivatives that the lower loss lacks"),
    (
        {"lower_loss": lambda m, u, b: u(F.cross_entropy(m(b["x"]), b["y"]))},
        r"per-example values must be \[B\], not \(\)",
    ),
    ({"unroll_steps": 0}, "unroll_steps must be at least 1"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSALS, ids=[message[:40] for _, message in REFUSALS])
def test_refused_before_the_first_step_in_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        simple(**changes)


@pytest.mark.parametrize(("count", "named"), [(1, " 'w0', so"), (5, "s 'w0', 'w1', 'w2', 'w3', 'w4', so"),
                                              (6, "s 'w0', 'w1', 'w2', 'w3', 'w4' and others, so")])  # fmt: skip
def test_up_to_five_upper_parameters_without_use_are_named(count: int, named: str) -> None:
    class Upper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for number in range(count):
                self.register_parameter(f"w{number}", nn.Parameter(torch.ones(())))

    with pytest.raises(InputError) as caught:
        simple(upper=Upper(), lower_loss=lambda m, u, b: F.cross_entropy(m(b["x"]), b["y"]))
    assert f"the lower loss never touches the upper parameter{named} they have no hypergradient" in str(caught.value)


def test_attention_without_second_derivatives_serves_first_order_methods() -> None:
    simple(model=Attention(), method=SAMA(), steps=2)


def test_weight_nets_start_alike_for_a_seed_whatever_the_global_generator() -> None:
    makers: list[Callable[[int], nn.Module]] = [
        lambda seed: WeightNet(seed=seed),
        lambda seed: DataScorer(seed=seed),
        lambda seed: LabelCorrector(3, seed=seed),
    ]
    for make in makers:
        torch.manual_seed(1)
        first = make(0).state_dict()
        torch.manual_seed(2)
        second, other = make(0).state_dict(), make(1).state_dict()
        assert all(torch.equal(first[name], value) for name, value in second.items())
        assert any(not torch.equal(first[name], value) for name, value in other.items())


def test_corrected_labels_are_distributions_near_the_given_ones() -> None:
    logits, labels = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 3
    soft = LabelCorrector(3)(logits, labels)
    torch.testing.assert_close(soft.sum(1), torch.ones(7))
    assert bool((soft.gather(1, labels[:, None]) > 0.5).all())
    with pytest.raises(InputError, match=r"logits must be \[7, 4\] beside 7 labels, not \[7, 3\]"):
        LabelCorrector(4)(logits, labels)


def test_task_weights_start_at_their_initial_value_and_weight_the_losses() -> None:
    weights = TaskWeights(3, initial=0.7)
    torch.testing.assert_close(weights.weights(), torch.full((3,), 0.7))
    losses = [torch.tensor(value) for value in (1.0, 2.0, 4.0)]
    torch.testing.assert_close(weights(*losses), torch.tensor(4.9))
    torch.testing.assert_close(weights(losses), torch.tensor(4.9))
    with pytest.raises(InputError, match="there are 3 task weights but 2 losses"):
        weights(*losses[:2])


def test_scores_lie_between_zero_and_one_and_need_both_inputs() -> None:
    losses, doubt = torch.linspace(0, 5, 6), torch.linspace(1, 0, 6)
    scorer = DataScorer()
    scores = scorer.scores(losses, doubt)
    assert bool(((scores > 0) & (scores < 1)).all())
    torch.testing.assert_close(scorer(losses, doubt), (scores * losses).mean())
    with pytest.raises(InputError, match=r"\(6,\) losses but \(3,\) uncertainties"):
        scorer(losses, doubt[:3])


def test_task_weights_leave_a_useless_auxiliary_task_behind() -> None:
    """Two quadratic tasks pull θ to opposite sides; the upper loss wants one of them."""
    model = nn.Linear(1, 1, bias=False)
    weights = TaskWeights(2)
    batch = {"one": torch.ones(4, 1)}
    train(
        model,
        upper=weights,
        lower_loss=lambda m, w, b: w((m(b["one"]) - 1).square().mean(), (m(b["one"]) + 1).square().mean()),
        upper_loss=lambda m, w, b: (m(b["one"]) - 1).square().mean(),
        data=Data(lambda n: batch, lambda n: batch),
        steps=60,
        lower_optimizer=SGD(0.05),
        upper_optimizer=Adam(0.1),
    )
    good, bad = weights.weights().detach()
    assert float(good) > 3 * float(bad)
    assert float(model.weight.detach()) > 0.5


def test_batches_are_a_function_of_their_number() -> None:
    batches = Shuffled({"x": torch.arange(10)}, 3, seed=4)
    epoch = [batches.indices(n) for n in range(3)]
    assert len({i for part in epoch for i in part}) == 9
    assert [batches.indices(n) for n in range(3, 6)] != epoch
    assert torch.equal(batches(1)["x"], Shuffled({"x": torch.arange(10)}, 3, seed=4)(1)["x"])
    pairs = Shuffled([(torch.tensor([float(i)]), i) for i in range(10)], 4)
    x, y = pairs(0)
    assert x.shape == (4, 1)
    assert y.tolist() == pairs.indices(0)
    with pytest.raises(InputError, match="batch_size must lie between 1 and the 10 examples, not 11"):
        Shuffled({"x": torch.arange(10)}, 11)
    with pytest.raises(InputError, match="must have one length"):
        Shuffled({"x": torch.arange(10), "y": torch.arange(9)}, 2)
