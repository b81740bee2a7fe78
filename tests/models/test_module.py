"""Any torch module: the contracts, and every number against a plain torch loop over one task at a time."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.trees import stack_tasks, to
from metascale.core.types import Batch, Episode, Params
from metascale.meta.evaluate import adapted_predictor, evaluate
from metascale.meta.gradients import FOMAML, MAML, MetaGradient, Reptile
from metascale.meta.imaml import ImplicitMAML
from metascale.meta.inner import InnerLoop
from metascale.meta.multi_step import MultiStepMAML
from metascale.meta.reverse import FullGraph
from metascale.models.module import Module
from metascale.models.network import cross_entropy_per_task
from metascale.tasks.regression import SinusoidTasks
from metascale.testing.learner_contract import check_meta_gradient
from metascale.testing.model_contract import check_model, generators_untouched
from metascale.training.optimizers import SGD


class Recurrent(nn.Module):
    """Its kernel has no batching rule."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, 2, dropout=0.3)
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x.transpose(0, 1))[0][-1])


class TwoInputs(nn.Module):
    """Named and nested inputs, outputs in a dictionary, dropout as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 6), nn.Linear(2, 6), nn.Linear(6, 3)

    def forward(self, first: torch.Tensor, pair: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        hidden = torch.tanh(self.left(first) + self.right(pair["second"]))
        return {"logits": self.head(F.dropout(hidden, 0.2, self.training)), "hidden": hidden}


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.two(torch.tanh(self.one(x)))))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 3))


def conv_net() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    statistics = torch_generator(0, "statistics")
    net[1].running_mean.copy_(0.3 * torch.randn(4, generator=statistics))
    net[1].running_var.copy_(0.5 + torch.rand(4, generator=statistics))
    return net


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True, activation=torch.tanh)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(40, 3))


def frozen_trunk() -> nn.Module:
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    net[0].requires_grad_(False)
    return net


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"x": (4,)})
    drops_out: bool = False
    couples: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    def net(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return self.make().double()

    def model(self, **more: Any) -> Module:
        return Module(self.net(), **{**self.settings, **more})

    def batch(self, n_tasks: int, n_examples: int, seed: int) -> Batch:
        draw = torch_generator(seed, "module examples")
        inputs = {n: torch.randn(n_tasks, n_examples, *s, generator=draw) for n, s in self.shapes.items()}
        return Batch(inputs, torch.arange(n_examples).remainder(3).expand(n_tasks, n_examples))

    def episode(self, n_tasks: int = 3) -> Episode:
        support, query = (self.batch(n_tasks, size, size).to(dtype=torch.float64) for size in (6, 9))
        return Episode(tuple(f"task{task}" for task in range(n_tasks)), support, query)


CASES = {
    "perceptron": Case(perceptron, drops_out=True),
    "statistics of the batch": Case(conv_net, {"x": (1, 8, 8)}, couples=True),
    "frozen statistics": Case(conv_net, {"x": (1, 8, 8)}, settings={"batch_statistics": "frozen"}),
    "lstm": Case(Recurrent, {"x": (5, 4)}, drops_out=True),
    "named inputs": Case(TwoInputs, {"first": (4,), "pair.second": (2,)}, drops_out=True),
    "tied": Case(Tied),
    "transformer": Case(transformer, {"x": (5, 8)}, drops_out=True),
    "frozen trunk": Case(frozen_trunk),
}


@pytest.mark.parametrize("name", CASES)
def test_any_module_keeps_the_contract_of_models(name: str) -> None:
    case = CASES[name]
    model = case.model()
    settings: dict[str, Any] = {"drops_out": case.drops_out, "batch_statistics": case.couples, "smooth": True}
    check_model(model, case.batch, dtype=torch.float64, pretrained=True, **settings)
    assert model.batch_statistics == case.couples
    assert model.task_execution == ("threads" if name == "lstm" else "stacked")
    assert ("aten::lstm" in model.execution) == (name == "lstm")


@pytest.mark.parametrize("name", ["perceptron", "lstm", "tied"])
def test_any_module_keeps_the_contract_of_learners(name: str) -> None:
    case = CASES[name]
    settings: dict[str, Any] = {"model": case.model(), "episode": case.episode()}
    check_meta_gradient(lambda rate, steps: MAML(InnerLoop(SGD(rate), steps)), exact=True, **settings)
    check_meta_gradient(lambda rate, steps: Reptile(InnerLoop(SGD(rate), steps)), **settings)


RATE, STEPS = 0.3, 2


def plain_loop(case: Case, method: str) -> tuple[Params, torch.Tensor]:
    """The meta-gradient and query losses by `torch.func.functional_call`, one task after another."""
    net = case.net()
    frozen = case.settings.get("batch_statistics") == "frozen"
    net.train(case.couples and not frozen)
    episode, theta = case.episode(), {n: p.detach().clone() for n, p in net.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(value) for name, value in theta.items()}
    losses = []

    def loss(params: Params, batch: Batch, task: int) -> torch.Tensor:
        own = {name: value[task] for name, value in batch.inputs.items()}
        buffers = {name: value.clone() for name, value in net.named_buffers()}
        if "x" in own:
            out = torch.func.functional_call(net, (params, buffers), (own["x"],))
        else:
            given = {"first": own["first"], "pair": {"second": own["pair.second"]}}
            out = torch.func.functional_call(net, (params, buffers), (), given)["logits"]
        return F.cross_entropy(out, batch.targets[task])

    for task in range(episode.n_tasks):
        start = {name: value.clone().requires_grad_(True) for name, value in theta.items()}
        params = start
        for _ in range(STEPS):
            grads = torch.autograd.grad(
                loss(params, episode.support, task), list(params.values()), create_graph=method == "maml"
            )
            params = {name: value - RATE * grad for (name, value), grad in zip(params.items(), grads, strict=True)}
            if method != "maml":
                params = {name: value.detach().requires_grad_(True) for name, value in params.items()}
        query = loss(params, episode.query, task)
        losses.append(query.detach())
        if method == "reptile":
            change: Any = [start[name] - params[name] for name in theta]
        else:
            change = torch.autograd.grad(query, list((start if method == "maml" else params).values()))
        for (name, value), part in zip(total.items(), change, strict=True):
            total[name] = value + part.detach() / episode.n_tasks
    return total, torch.stack(losses)


METHODS: dict[str, Callable[[InnerLoop], MetaGradient]] = {
    "maml": MAML,
    "fomaml": FOMAML,
    "reptile": lambda inner: Reptile(inner, report_query=True),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CASES)
def test_meta_gradients_are_those_of_a_plain_loop(name: str, method: str) -> None:
    case = CASES[name]
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative
        expected, losses = plain_loop(case, method)
    model = case.model()
    found, report = METHODS[method](InnerLoop(SGD(RATE), STEPS))(model, model.init(0), case.episode(), None)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(report.query_loss, losses, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["perceptron", "statistics of the batch", "transformer"])
def test_a_loop_gives_the_numbers_of_one_call(name: str) -> None:
    """In float32, with dropout: masks too are those of the same address."""
    case = CASES[name]
    theta = to(case.model().init(0), dtype=torch.float32)
    episode = case.episode().to(dtype=torch.float32)
    inner = InnerLoop(SGD(RATE), STEPS)
    results = [MAML(inner)(case.model(loop=loop), theta, episode, 3) for loop in (False, True)]
    (one, first), (many, second) = results
    for key, value in many.items():
        torch.testing.assert_close(one[key], value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(first.query_loss, second.query_loss, rtol=1e-6, atol=1e-6)


def by_hand_per_step(gains: torch.Tensor, shifts: torch.Tensor, net: nn.Module, batch: Batch) -> Any:
    def loss(step: int, params: Params) -> torch.Tensor:
        own = {**params, "1.weight": gains[step], "1.bias": shifts[step]}
        buffers = {name: value.clone() for name, value in net.named_buffers()}
        out = torch.func.functional_call(net, (own, buffers), (batch.inputs["x"][0],))
        return F.cross_entropy(out, batch.targets[0])

    return loss


def test_each_step_has_a_gain_and_a_shift_of_its_own() -> None:
    """As in the code of MAML++: step k reads row k, the query after K steps that of the last step, K − 1."""
    case = CASES["statistics of the batch"]
    model, episode = case.model(batch_statistics="per_step", steps=2), case.episode(1)
    theta = model.init(0)
    assert theta["1.weight"].shape == theta["1.bias"].shape == (2, 4)
    draw = torch_generator(1, "rows")
    theta |= {name: torch.randn(2, 4, generator=draw, dtype=torch.float64) for name in ("1.weight", "1.bias")}
    net = case.net().train()
    leaves = {name: value.clone().requires_grad_(True) for name, value in theta.items()}
    rest = {name: value for name, value in leaves.items() if not name.startswith("1.")}
    params, queries = rest, []
    for step in range(2):
        loss = by_hand_per_step(leaves["1.weight"], leaves["1.bias"], net, episode.support)(step, params)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params = {name: value - RATE * grad for (name, value), grad in zip(params.items(), grads, strict=True)}
        queries.append(by_hand_per_step(leaves["1.weight"], leaves["1.bias"], net, episode.query)(step, params))
    query = queries[1]
    expected = dict(zip(leaves, torch.autograd.grad(query, list(leaves.values()), retain_graph=True), strict=True))
    inner = InnerLoop(SGD(RATE), 2, adapt=("0.*", "5.*"))
    for method in (MAML(inner), MAML(inner, FullGraph()), MultiStepMAML(inner)):
        found, report = method(model, theta, episode, None)
        torch.testing.assert_close(report.query_loss, query.detach().unsqueeze(0), rtol=1e-10, atol=1e-12)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)
    halves = torch.autograd.grad(sum(queries) / 2, list(leaves.values()))
    found, _ = MultiStepMAML(inner, multi_step=10)(model, theta, episode, None)
    for name, value in zip(leaves, halves, strict=True):
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)
    _, first = FOMAML(inner)(model, theta, episode, None)
    torch.testing.assert_close(first.query_loss, query.detach().unsqueeze(0), rtol=1e-10, atol=1e-12)
    predicted = adapted_predictor(model, inner, theta, [2])(episode)[2]
    torch.testing.assert_close(model.output_losses(predicted, episode.query), first.query_loss, rtol=1e-10, atol=1e-12)
    implicit = ImplicitMAML(InnerLoop(SGD(0.01), 2, adapt=inner.adapt, proximal=50.0))
    assert implicit(model, theta, episode, None)[0]["1.weight"].shape == (2, 4)


def test_why_tasks_run_in_a_loop_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    case = CASES["lstm"]
    with caplog.at_level(logging.WARNING, "metascale.models"):
        model = Module(case.net(), example=case.batch(2, 3, 0).to(dtype=torch.float64))
        params = stack_tasks(model.init(0), 3)
        for _ in range(2):
            model.losses(params, case.batch(3, 5, 0).to(dtype=torch.float64))
    (record,) = caplog.records
    assert record.getMessage().startswith("tasks run one after another, since vmap does not work here: Batching rule")
    assert model.execution.startswith("one after another: Batching rule not implemented for aten::lstm")
    assert Module(case.net()).execution == "not yet known: the first batch decides"


class Doubler(torch.autograd.Function):
    """Without a rule for vmap; differentiable once, which `autograd.grad` turns into a wrong second one silently."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return 2 * grad


def test_an_operator_of_ones_own_runs_in_a_loop_and_once_differentiable_is_found() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Doubler.apply(torch.tanh(self.linear(x)))

    case = Case(Own)
    model = case.model(example=case.batch(2, 3, 0).to(dtype=torch.float64))
    assert model.execution.startswith("one after another: ")
    with pytest.raises(InputError, match=r"cannot be differentiated twice .*: use FOMAML or Reptile"):
        MAML(InnerLoop())(model, model.init(0), case.episode(), None)
    FOMAML(InnerLoop())(model, model.init(0), case.episode(), None)


class Noisy(nn.Module):
    def __init__(self, always: bool) -> None:
        super().__init__()
        self.linear, self.always = nn.Linear(4, 3), always

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x + torch.randn_like(x) if self.training or self.always else x)


@pytest.mark.parametrize(
    ("always", "message"),
    [(True, r"draws random numbers \(randn_like\S*\) in evaluation mode"), (False, "have no address")],
)
def test_random_numbers_without_an_address_are_refused(always: bool, message: str) -> None:
    case = Case(lambda: Noisy(always))
    model, batch = case.model(), case.batch(2, 3, 0).to(dtype=torch.float64)
    with generators_untouched(), pytest.raises(InputError, match=message):
        model.losses(stack_tasks(model.init(0), 2), batch)


def test_a_buffer_that_a_pass_writes_to_stays_what_it_was() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls.add_(1)
            return self.linear(x) * self.calls

    case = Case(Counting)
    model, batch = case.model(), case.batch(2, 3, 0).to(dtype=torch.float64)
    params = stack_tasks(model.init(0), 2)
    assert torch.equal(model.losses(params, batch), model.losses(params, batch))
    assert float(model.net.calls) == 0  # type: ignore[arg-type]


def test_where_learning_starts() -> None:
    net = perceptron()
    assert torch.equal(Module(net).init(0)["0.weight"], net[0].weight)
    for model in (Module(perceptron), Module(net, start="seed")):
        with generators_untouched():
            first, again, other = model.init(0), model.init(0), model.init(1)
        assert torch.equal(first["0.weight"], again["0.weight"])
        assert not torch.equal(first["0.weight"], other["0.weight"])
    check_model(Module(lambda: perceptron().double()), CASES["perceptron"].batch, drops_out=True, dtype=torch.float64)
    assert not torch.equal(Module(net, start="seed").init(0)["0.weight"], net[0].weight)


def test_a_module_of_the_learnt_weights() -> None:
    case = CASES["tied"]
    model, batch = case.model(), case.episode().query
    moved = {name: value + 0.1 for name, value in model.init(0).items()}
    net = model.network(moved)
    expected = model.predict(stack_tasks(moved, 3), batch)
    torch.testing.assert_close(net(batch.inputs["x"][1]), expected[1], rtol=1e-12, atol=1e-12)
    assert net.one.weight is net.two.weight
    assert torch.equal(model.init(0)["one.bias"], case.net().one.bias), "the module itself is never changed"
    with pytest.raises(InputError, match="must have shape"):
        model.network({name: value[None] for name, value in moved.items()})


def test_any_loss_and_any_output() -> None:
    draw = torch_generator(0, "losses")
    x, y = torch.randn(2, 5, 4, generator=draw), torch.randn(2, 5, 3, generator=draw)
    net = nn.Linear(4, 3)
    params = stack_tasks(Module(net).init(0), 2)
    batch = Batch({"x": x}, y)
    expected = F.l1_loss(net(x), y, reduction="none").flatten(1).mean(1)
    for loss in (nn.L1Loss(), F.l1_loss, lambda out, wanted: (out - wanted).abs().mean(1)):
        torch.testing.assert_close(Module(net, loss).losses(params, batch), expected)
    squared = Module(net, "squared_error").losses(params, batch)
    torch.testing.assert_close(squared, (net(x) - y).square().flatten(1).mean(1))
    with pytest.raises(InputError, match=r"one an example \[5\], not \[5, 3\]"):
        Module(net, lambda out, wanted: out - wanted).losses(params, batch)
    second = nn.Sequential(nn.Linear(4, 3), nn.Unflatten(-1, (3, 1)))
    picked = Module(second, "squared_error", output=lambda out: out[..., 0])
    torch.testing.assert_close(picked.predict(stack_tasks(picked.init(0), 2), batch), second(x)[..., 0])


def test_cross_entropy_of_positions_leaves_ignored_ones_out() -> None:
    draw = torch_generator(0, "positions")
    logits = torch.randn(1, 2, 4, 3, generator=draw)  # one task, two examples of four positions, three classes
    targets = torch.tensor([[[0, 2, -100, 1], [1, -100, -100, -100]]])
    log = logits.log_softmax(-1)[0]
    expected = (-(log[0, 0, 0] + log[0, 1, 2] + log[0, 3, 1]) / 3 - log[1, 0, 1]) / 2
    model = Module(nn.Linear(1, 1))
    batch = Batch({"x": logits}, targets)
    torch.testing.assert_close(model.output_losses(logits, batch), expected[None])
    torch.testing.assert_close(model.output_losses(logits.movedim(-1, 2), batch), expected[None])
    with pytest.raises(InputError, match="cannot tell which axis"):
        model.output_losses(torch.zeros(1, 2, 4, 4), batch)
    with pytest.raises(InputError, match="do not fit"):
        model.output_losses(torch.zeros(1, 2, 3), batch)
    with pytest.raises(InputError, match="name classes from 0 to 2, but outputs have 2, numbered from 0"):
        model.output_losses(logits[..., :2], batch)
    with pytest.raises(InputError, match="name classes from 0 to 2, but outputs have 2"):
        cross_entropy_per_task(torch.zeros(1, 3, 2), torch.tensor([[0, 1, 2]]))
    with pytest.raises(InputError, match="the loss must give a tensor, not float"):
        Module(nn.Linear(1, 1), lambda outputs, targets: 1.5).output_losses(logits, batch)  # type: ignore[arg-type,return-value]


def test_evaluation_asks_the_modules_own_loss() -> None:
    source = SinusoidTasks()
    model = Module(nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)), nn.L1Loss())
    inner, params = InnerLoop(SGD(0.01), 1), model.init(0)
    found = evaluate(adapted_predictor(model, inner, params, [0]), source, "test", 3)
    query = source.episodes("test", range(3)).query
    expected = (model.predict(stack_tasks(params, 3), query) - query.targets).abs().flatten(1).mean(1)
    torch.testing.assert_close(torch.as_tensor(found.loss_nats[:, 0]).float(), expected.detach())


def test_only_some_parameters_are_learnt() -> None:
    model = Module(perceptron(), train=["3.*"])
    assert list(model.init(0)) == ["3.weight", "3.bias"]


def test_a_module_goes_to_other_processes_as_it_is() -> None:
    case = CASES["statistics of the batch"]
    model, episode = case.model(), case.episode()
    params = stack_tasks(model.init(0), 3)
    expected = model.losses(params, episode.query)
    again = pickle.loads(pickle.dumps(model))
    assert again.execution == model.execution
    assert torch.equal(again.losses(params, episode.query), expected)


@pytest.mark.parametrize(
    ("net", "settings", "field"),
    [
        (perceptron(), {"loss": "hinge"}, "loss"),
        (perceptron(), {"start": "random"}, "start"),
        (perceptron(), {"batch_statistics": "running"}, "batch_statistics"),
        (perceptron(), {"batch_statistics": "per_step"}, "steps"),
        (perceptron(), {"batch_statistics": "per_step", "steps": "2"}, "steps"),
        (perceptron(), {"batch_statistics": "per_step", "steps": 2}, "batch_statistics"),
        (perceptron(), {"steps": 2}, "steps"),
        (perceptron(), {"train": "3.*"}, "train"),
        (perceptron(), {"train": ["7.*"]}, "train"),
        (nn.ReLU(), {}, "train"),
        (perceptron(), {"head": "4"}, "head"),
        (lambda: 3, {}, "net"),
        (3, {}, "net"),
    ],
)
def test_arguments_outside_their_range_are_refused(net: Any, settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        Module(net, **settings)
    assert caught.value.field == field


def test_a_part_that_cannot_be_drawn_anew_is_named() -> None:
    class Position(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.zeros(3))

    with pytest.raises(InputError, match=r"which 1 lacks; give a function that makes the module"):
        Module(nn.Sequential(nn.Linear(2, 2), Position()), start="seed")
