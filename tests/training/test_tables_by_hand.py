"""Schedules, optimisers, the loop, evaluation, memory and FLOPs against small tables worked out by hand."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from metascale.core.dropout import dropout_key
from metascale.core.errors import CorruptFile, Diverged, InputError
from metascale.core.run import Checkpoint, MemoryRun
from metascale.core.types import Batch, Params
from metascale.training import flops, memory
from metascale.training.coordinate_check import CoordinateCheck, CoordinateRow, activations, measure_coordinates
from metascale.training.flops import (
    TrainingFlops,
    _attention,
    _attention_backward,
    _grouped_product,
    _linear,
    _product,
    _product_added,
    _products_added,
    _recurrent,
    _recurrent_backward,
    _trilinear,
    training_flops,
)
from metascale.training.loop import Progress, Schedule, TrainResult, train, train_or_prune
from metascale.training.memory import KINDS, LiveBytes, WatchedModel, measure_memory
from metascale.training.optimizers import (
    LAMB,
    SGD,
    Adagrad,
    Adam,
    InPlaceAdamW,
    Lion,
    Muon,
    RMSprop,
    TaskRates,
    clip_norm,
    clip_norm_per_task,
    has_own_rate,
    refuse_mixing,
    refuse_overwriting,
)
from metascale.training.schedules import Constant, Cosine, ScheduleName, WarmupStableDecay, named_schedule
from metascale.training.state import TrainState, from_bytes, pack, to_bytes, unpack_optimizer, unpack_params
from metascale.training.supervised import Measure, SupervisedResult, SupervisedTraining, train_and_test
from metascale.training.torch_optimizers import from_torch


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


def tensor(*values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ----------------------------------------------------------------------------------------------------------- schedules


def test_factors_at_every_corner() -> None:
    assert [Constant()(k) for k in (0, 9)] == [1, 1]
    assert [Constant(1)(k) for k in (0, 1)] == [1, 1]
    assert [Constant(2)(k) for k in (0, 1, 2)] == [0.5, 1, 1]
    cosine = Cosine(10, 2, 0.5)
    assert [cosine(k) for k in (0, 1, 2, 6, 10, 99)] == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.5])
    assert Cosine(4)(2) == pytest.approx(0.55)
    assert Cosine(1)(0) == 1
    wsd = WarmupStableDecay(10, 2, 4, 0.2)
    assert [wsd(k) for k in (0, 1, 5, 6, 7, 8, 10, 11)] == pytest.approx([0.5, 1, 1, 1, 0.8, 0.6, 0.2, 0.2])
    assert [WarmupStableDecay(4)(k) for k in (0, 3, 4)] == [1, 1, 1]
    whole = WarmupStableDecay(4, 1, 3)
    assert [whole(k) for k in (0, 1, 2, 3, 4)] == pytest.approx([1, 1, 2 / 3, 1 / 3, 0])
    assert named_schedule("wsd", 12, warmup=2) == WarmupStableDecay(12, 2, 2)
    assert named_schedule("wsd", 3, decay_share=0.01) == WarmupStableDecay(3, 0, 1)
    assert named_schedule("linear", 5, warmup=1, floor=0.5) == WarmupStableDecay(5, 1, 4, 0.5)
    assert named_schedule("cosine", 5) == Cosine(5, 0, 0.0)
    assert named_schedule("constant", 5, floor=0.5) == Constant(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Constant(-1), "warmup of the rate schedule must be at least 0, not -1"),
        (lambda: Cosine(5, 5), "warmup of the rate schedule must be at least 0 and below the total of 5, not 5"),
        (lambda: Cosine(5, -1), "warmup of the rate schedule must be at least 0 and below the total of 5, not -1"),
        (lambda: Cosine(5, floor=1.1), "floor of the rate schedule must be from 0 to 1, not 1.1"),
        (lambda: WarmupStableDecay(5, floor=-0.1), "floor of the rate schedule must be from 0 to 1, not -0.1"),
        (lambda: WarmupStableDecay(5, 2, 4),
         "decay of the rate schedule must be from 0 to the 3 steps after warm-up, not 4"),
        (lambda: WarmupStableDecay(5, 2, -1),
         "decay of the rate schedule must be from 0 to the 3 steps after warm-up, not -1"),
        (lambda: named_schedule("constant", 5, floor=2.0), "floor of the rate schedule must be from 0 to 1, not 2.0"),
        *[(lambda name=name: Schedule(**{"max_steps": 5, name: 0}),
           f"{name} of the schedule must be at least 1, not 0")
          for name in ("max_steps", "eval_every", "checkpoint_every", "log_every")],
        (lambda: Schedule(5, patience=0),
         "patience of the schedule must be at least 1 validation, or none, not 0"),
        (lambda: Lion(0.1, softness=-0.5), "softness of Lion must not be negative, not -0.5"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=exactly(message)):
        make()


def test_the_least_that_is_allowed() -> None:
    Cosine(1, 0, 0.0), Cosine(5, 4, 1.0), WarmupStableDecay(5, 2, 3, 1.0), WarmupStableDecay(1, 0, 0, 0.0)
    Schedule(1, 1, 1, checkpoint_every=1, log_every=1)


# ---------------------------------------------------------------------------------------------------------- optimisers

P, G = tensor(1.0, -2.0), tensor(3.0, 0.0)


def twice(optimizer: Any, rates: Any = 1.0) -> tuple[np.ndarray, np.ndarray, Any]:
    """Parameters after one and two steps on the same gradient."""
    params, state = {"w": P.clone()}, optimizer.init({"w": P})
    found = []
    for _ in range(2):
        params, state = optimizer.update(params, {"w": G.clone()}, state, rates)
        found.append(params["w"].numpy().copy())
    return found[0], found[1], state


def adam_path(lr: float, beta1: float, beta2: float, eps: float, decay: float = 0.0) -> list[np.ndarray]:
    """Of constant gradients m̂ = g and v̂ = g² at every step; nothing moves where g is 0 but by decay."""
    p, path = P.numpy(), []
    for _ in range(2):
        p = p - lr * (np.array([3 / (3 + eps), 0.0]) + decay * p)
        path.append(p)
    return path


def test_two_steps_of_every_optimiser() -> None:
    g, p = G.numpy(), P.numpy()
    cases: list[tuple[Any, list[np.ndarray]]] = [
        (SGD(0.1), [p - 0.1 * g, p - 0.2 * g]),
        (SGD(0.1, 0.5), [p - 0.1 * g, p - 0.1 * g - 0.15 * g]),
        (SGD(0.1, 0.5, nesterov=True), [p - 0.15 * g, p - 0.15 * g - 0.1 * 1.75 * g]),
        (Adam(0.1, 0.8, 0.9, 0.5, 0.25), adam_path(0.1, 0.8, 0.9, 0.5, 0.25)),
        (Adam(0.1, eps=0.5), adam_path(0.1, 0.9, 0.999, 0.5)),
        (
            RMSprop(0.1, 0.75, 0.5),
            [p - 0.1 * g / (1.5 + 0.5), p - 0.1 * g * (1 / 2 + 1 / (math.sqrt(9 * 0.4375) + 0.5))],
        ),
        (
            Adagrad(0.1, lr_decay=0.5, eps=0.5),
            [p - 0.1 * g / 3.5, p - 0.1 * g / 3.5 - 0.1 / 1.5 * g / (math.sqrt(18) + 0.5)],
        ),
        (Adagrad(0.1, eps=0.5, initial=7.0), [p - 0.1 * g / 4.5, p - 0.1 * g * (1 / 4.5 + 1 / 5.5)]),
        (Lion(0.1, weight_decay=0.5), [p - 0.1 * (np.sign(g) + 0.5 * p), None]),
    ]
    for optimizer, (first, second) in cases:
        one, two, _ = twice(optimizer)
        np.testing.assert_allclose(one, first, rtol=1e-12, err_msg=repr(optimizer))
        if second is not None:
            np.testing.assert_allclose(two, second, rtol=1e-12, err_msg=repr(optimizer))
        # A rate multiplies the step: a number, or one for each element.
        half, _, _ = twice(optimizer, 0.5)
        np.testing.assert_allclose(half, p + 0.5 * (first - p), rtol=1e-12)
        each, _, _ = twice(optimizer, {"w": tensor(2.0, 0.5)})
        np.testing.assert_allclose(each, p + np.array([2.0, 0.5]) * (first - p), rtol=1e-12)
    _, _, state = twice(RMSprop(0.1, 0.75, 0.5, momentum=0.5))
    steps = 3 / 2 * 0.5 + 3 / (math.sqrt(9 * 0.4375) + 0.5)
    assert state["velocity"]["w"].tolist() == pytest.approx([steps, 0])
    _, _, state = twice(Adam(0.1, 0.8, 0.9))
    assert state["m"]["w"].tolist() == pytest.approx([3 * (1 - 0.64), 0])
    assert state["v"]["w"].tolist() == pytest.approx([9 * (1 - 0.81), 0])
    assert float(state["count"]["count"]) == 2


def test_slots_that_optimisers_begin_with() -> None:
    like = {"w": torch.ones(2, 3), "b": torch.ones(3)}
    assert SGD(0.1).init(like) == {}
    assert list(SGD(0.1, 0.5).init(like)) == ["velocity"]
    assert list(RMSprop(0.1).init(like)) == ["v"]
    assert list(RMSprop(0.1, momentum=0.5).init(like)) == ["v", "velocity"]
    assert list(Lion(0.1).init(like)) == ["m"]
    for optimizer in (Adam(0.1), LAMB(0.1), InPlaceAdamW(0.1)):
        state = optimizer.init(like)
        assert list(state) == ["m", "v", "count"]
        assert float(state["count"]["count"]) == 0
        assert not any(value.any() for slot in ("m", "v") for value in state[slot].values())
    assert Adagrad(0.1, initial=0.5).init(like)["v"]["b"].tolist() == [0.5] * 3
    muon = Muon(0.1).init(like)
    assert {slot: list(values) for slot, values in muon.items()} == {
        "velocity": ["w"], "m": ["b"], "v": ["b"], "count": ["count"],
    }  # fmt: skip


def test_lamb_by_hand() -> None:
    """|θ| = √5; direction (3/3.5, 0) + 0.5 θ; its length. The scale is one where a norm is zero."""
    direction = np.array([3 / 3.5, 0.0]) + 0.5 * P.numpy()
    one, _, _ = twice(LAMB(0.1, eps=0.5, weight_decay=0.5))
    expected = P.numpy() - 0.1 * math.sqrt(5) / np.linalg.norm(direction) * direction
    np.testing.assert_allclose(one, expected, rtol=1e-12)
    zero = {"w": tensor(0.0, 0.0)}
    moved, _ = LAMB(0.1, eps=0.5).update(zero, {"w": G}, LAMB(0.1).init(zero))
    np.testing.assert_allclose(moved["w"], [-0.1 * 3 / 3.5, 0], rtol=1e-12)


def test_the_fused_step_by_hand() -> None:
    """At rate 0.5: matrices decay by 0.1 · 0.5 · 0.25 of themselves, vectors do not; both move by lr · rate."""
    params = {"m": torch.full((1, 2), 2.0), "b": torch.full((2,), 2.0)}
    grads = {name: torch.full_like(value, 3.0) for name, value in params.items()}
    optimizer = InPlaceAdamW(0.1, weight_decay=0.25)
    state = optimizer.init(params)
    moved, after = optimizer.update(params, grads, state, 0.5)
    assert moved is params
    assert after is state
    assert float(after["count"]["count"]) == 1
    torch.testing.assert_close(moved["m"], torch.full((1, 2), 2 * (1 - 0.0125) - 0.05))
    torch.testing.assert_close(moved["b"], torch.full((2,), 2 - 0.05))
    # Rates of tensors: the matrix's decay follows the vector's rate (the schedule), not its own; none at rate 0.
    for rate, decay in ((0.25, 0.1 * 0.25), (0.0, 0.0)):
        params = {"m": torch.full((1, 2), 2.0), "b": torch.full((2,), 2.0)}
        rates = {"m": torch.tensor(rate), "b": torch.tensor(1.0)}
        moved, _ = optimizer.update(params, grads, optimizer.init(params), rates)
        torch.testing.assert_close(moved["m"], torch.full((1, 2), 2 * (1 - decay) - 0.1 * rate))
    # Without vectors the largest rate is the schedule's.
    params = {"m": torch.full((1, 2), 2.0), "n": torch.full((1, 2), 2.0)}
    grads = {name: torch.zeros_like(value) for name, value in params.items()}
    rates = {"m": torch.tensor(0.5), "n": torch.tensor(0.25)}
    moved, _ = optimizer.update(params, grads, optimizer.init(params), rates)
    for value in moved.values():
        torch.testing.assert_close(value, torch.full((1, 2), 2 * (1 - 0.1 * 0.5 * 0.25)))


def test_tasks_at_rates_of_their_own() -> None:
    stacked = {"w": torch.stack([P, P])}
    grads = {"w": torch.stack([G, G])}
    for optimizer in (SGD(9.0, 0.5), Adam(9.0)):
        own = TaskRates(optimizer, tensor(0.1, 0.4))
        params, state = own.update(stacked, grads, own.init(stacked))
        params, _ = own.update(params, grads, state)
        for place, rate in enumerate((0.1, 0.4)):
            _, two, _ = twice(replace(optimizer, lr=rate))
            np.testing.assert_allclose(params["w"][place], two, rtol=1e-12)
        assert has_own_rate(optimizer)
        assert not has_own_rate(own)
    assert not has_own_rate(Lion(0.1))


def test_which_optimisers_overwrite_or_mix() -> None:
    for optimizer in (SGD(0.1), Adam(0.1), Lion(0.1), RMSprop(0.1), Adagrad(0.1)):
        refuse_overwriting(optimizer, "x")
        refuse_mixing(optimizer)
    message = "InPlaceAdamW overwrites parameters and state, which x needs as they were; use Adam with weight_decay"
    with pytest.raises(InputError, match=exactly(message)):
        refuse_overwriting(InPlaceAdamW(0.1), "x")
    for optimizer in (LAMB(0.1), Muon(0.1), Lion(0.1, softness=0.1)):
        message = (
            f"{type(optimizer).__name__} mixes the numbers of a tensor, which in an inner loop holds all tasks; an "
            "inner optimiser must be element-wise, such as SGD or Adam"
        )
        with pytest.raises(InputError, match=exactly(message)):
            refuse_mixing(optimizer)
        refuse_overwriting(optimizer, "x")
    with pytest.raises(InputError) as caught:
        Lion(0.1, softness=-1)
    assert caught.value.field == "softness"


def test_norms_that_are_clipped() -> None:
    g = {"a": tensor([3.0], [0.0]), "b": tensor([4.0], [1.0])}
    for bound, factor in ((13.0, 0.5), (26.0, 1.0), (99.0, 1.0)):
        scaled = clip_norm({"a": tensor(10.0), "b": tensor(24.0)}, bound)
        assert [value.item() for value in scaled.values()] == pytest.approx([10 * factor, 24 * factor])
    each = clip_norm_per_task(g, 2.5)
    assert each["a"].flatten().tolist() == pytest.approx([1.5, 0])
    assert each["b"].flatten().tolist() == pytest.approx([2, 1])
    none = {"a": tensor(0.0, 0.0)}
    assert clip_norm(none, 1.0)["a"].tolist() == [0, 0]
    assert clip_norm_per_task({"a": tensor([0.0])}, 1.0)["a"].tolist() == [[0]]


OPTIONS: dict[str, tuple[dict[str, Any], Any, list[str]]] = {
    "SGD": ({"lr": 0.3, "momentum": 0.2, "nesterov": True}, SGD(0.3, 0.2, True, 0.0), ["velocity"]),
    "Adam": ({"lr": 0.3, "betas": (0.5, 0.6), "eps": 0.1}, Adam(0.3, 0.5, 0.6, 0.1), ["m", "v", "count"]),
    "AdamW": ({"lr": 0.3, "weight_decay": 0.7}, Adam(0.3, weight_decay=0.7), ["m", "v", "count"]),
    "RMSprop": ({"lr": 0.3, "alpha": 0.4, "eps": 0.1, "momentum": 0.2}, RMSprop(0.3, 0.4, 0.1, 0.2), ["v", "velocity"]),
    "Adagrad": (
        {"lr": 0.3, "lr_decay": 0.4, "eps": 0.1, "initial_accumulator_value": 0.2}, Adagrad(0.3, 0.4, 0.1, 0.2),
        ["v", "count"],
    ),
}  # fmt: skip


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_every_option_of_torch_s_muon_is_taken_over() -> None:
    module = nn.Linear(2, 3, bias=False)
    options = {"momentum": 0.4, "nesterov": False, "weight_decay": 0.2, "ns_steps": 3}
    for scaling, ours in ((None, "original"), ("original", "original"), ("match_rms_adamw", "match_rms_adamw")):
        theirs = torch.optim.Muon(module.parameters(), 0.3, adjust_lr_fn=scaling, **options)
        found, state = from_torch(theirs, module)
        assert found == Muon(0.3, 0.4, False, 0.2, 3, ours)  # type: ignore[arg-type]
        assert list(state["velocity"]) == ["weight"]
    other = torch.optim.Muon(module.parameters(), 0.3, ns_coefficients=(3.0, -4.0, 2.0))
    message = (
        "torch.optim.Muon with ns_coefficients=(3.0, -4.0, 2.0) has no counterpart; use "
        "ns_coefficients=(3.4445, -4.775, 2.0315)"
    )
    with pytest.raises(InputError, match=exactly(message)):
        from_torch(other, module)
    module(torch.ones(1, 2)).sum().backward()
    theirs.step()
    _, state = from_torch(theirs, module)
    assert bool(state["velocity"]["weight"].any())


@pytest.mark.parametrize("kind", OPTIONS)
def test_every_option_of_a_torch_optimiser_is_taken_over(kind: str) -> None:
    options, expected, slots = OPTIONS[kind]
    module = nn.Linear(2, 1)
    theirs = getattr(torch.optim, kind)(module.parameters(), **options)
    ours, state = from_torch(theirs, module)
    assert ours == expected
    assert list(state) == slots
    if "count" in state:
        assert float(state["count"]["count"]) == 0
    module(torch.ones(1, 2)).sum().backward()
    theirs.step()
    _, state = from_torch(theirs, module)
    for slot in (slot for slot in slots if slot != "count"):
        assert list(state[slot]) == ["weight", "bias"]
        assert bool(state[slot]["weight"].any())


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("SGD", {"dampening": 0.5, "momentum": 0.1}, "SGD with dampening=0.5 has no counterpart; use dampening=0"),
        ("SGD", {"maximize": True}, "SGD with maximize=True has no counterpart; use maximize=False"),
        ("SGD", {"momentum": 0.1, "weight_decay": 0.2},
         "SGD with momentum with weight_decay=0.2 has no counterpart; use weight_decay=0"),
        ("Adam", {"amsgrad": True}, "Adam with amsgrad=True has no counterpart; use amsgrad=False"),
        ("Adam", {"weight_decay": 0.2}, "Adam with weight_decay=0.2 has no counterpart; use weight_decay=0"),
        ("AdamW", {"amsgrad": True}, "AdamW with amsgrad=True has no counterpart; use amsgrad=False"),
        ("RMSprop", {"centered": True}, "RMSprop with centered=True has no counterpart; use centered=False"),
        ("RMSprop", {"weight_decay": 0.2}, "RMSprop with weight_decay=0.2 has no counterpart; use weight_decay=0"),
        ("Adagrad", {"weight_decay": 0.2}, "Adagrad with weight_decay=0.2 has no counterpart; use weight_decay=0"),
    ],
)  # fmt: skip
def test_options_of_torch_without_a_counterpart(kind: str, options: dict[str, Any], said: str) -> None:
    module = nn.Linear(2, 1)
    with pytest.raises(InputError, match=exactly(f"torch.optim.{said}")):
        from_torch(getattr(torch.optim, kind)(module.parameters(), 0.1, **options), module)


def test_torch_optimisers_of_other_kinds_groups_or_parameters() -> None:
    module = nn.Linear(2, 1)
    allowed = "SGD, Adam, AdamW, RMSprop, Adagrad, Muon"
    for make, message in (
        (lambda: torch.optim.Adamax(module.parameters()),
         f"torch.optim.Adamax has no counterpart here; allowed are {allowed}"),
        (lambda: torch.optim.SGD([{"params": [module.weight]}, {"params": [module.bias], "lr": 0.2}], 0.1),
         "the parameter groups of torch.optim.SGD differ; give every group the same options"),
        (lambda: torch.optim.SGD([module.weight], 0.1),
         "torch.optim.SGD must hold exactly the module's parameters that require gradients"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=exactly(message)):
            from_torch(make(), module)
    equal = torch.optim.SGD([{"params": [module.weight]}, {"params": [module.bias]}], 0.1)
    for option in ("foreach", "fused", "capturable", "differentiable", "param_names"):  # how it runs, not what
        equal.param_groups[0][option] = option
    assert from_torch(equal, module) == (SGD(0.1), {})
    adam = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    adam.step()
    adam.state[module.bias]["step"] += 1
    message = "the parameters of torch.optim.Adam have taken different numbers of steps"
    with pytest.raises(InputError, match=exactly(message)):
        from_torch(adam, module)


# --------------------------------------------------------------------------------------------------------------- state


def test_states_as_tensors() -> None:
    state = TrainState(
        3, {"b": tensor(1.0), "a": tensor(2.0)}, {"m": {"b": tensor(3.0)}, "count": {"count": tensor(4.0)}}
    )
    packed = state.pack()
    assert {name: value.item() for name, value in packed.items()} == {
        "params/b": 1, "params/a": 2, "optimizer/m/b": 3, "optimizer/count/count": 4,
    }  # fmt: skip
    again = state.unpack(packed)
    assert again.step == 3
    assert list(again.params) == ["b", "a"]
    assert again.params["a"] is packed["params/a"]
    copied = state.unpack(packed, copy=True)
    assert copied.params["a"] is not packed["params/a"]
    assert copied.optimizer["m"]["b"] is not packed["optimizer/m/b"]
    far = state.unpack(packed, "meta")
    assert far.params["a"].device.type == far.optimizer["m"]["b"].device.type == "meta"
    assert far.optimizer["count"]["count"].device.type == "cpu"
    assert pack({"x": {"n": tensor(1.0)}}, {}) == {"x/n": tensor(1.0)}
    assert unpack_params({"x/n": tensor(1.0)}, "x", {"n": tensor(0.0).to("meta")})["n"].device.type == "meta"
    assert unpack_optimizer({"o/s/n": tensor(1.0)}, "o", {"s": {"n": tensor(0.0)}})["s"]["n"].item() == 1
    kept = from_bytes(to_bytes({"z": torch.ones(2, requires_grad=True), "a": torch.zeros(1).int()}))
    assert set(kept) == {"a", "z"}
    assert (kept["a"].dtype, kept["z"].tolist(), kept["z"].requires_grad) == (torch.int32, [1, 1], False)


# ------------------------------------------------------------------------------------------------------------ the loop


@dataclass
class Script:
    """The state is the number of the step; validation losses are listed by step."""

    losses: Mapping[int, float] = field(default_factory=dict)
    told: list[Any] = field(default_factory=list)
    extra: dict[int, Any] = field(default_factory=dict)

    def init(self) -> int:
        return 0

    def step(self, state: int, k: int) -> tuple[int, Mapping[str, float | None]]:
        self.told.append(("step", state, k))
        return k + 1, {"value": float(k), **self.extra.get(k, {})}

    def validate(self, state: int) -> Mapping[str, float]:
        self.told.append(("validate", state))
        return {"validation_loss_nats": self.losses.get(state, 9.0), "more": 1.0}

    def pack(self, state: int) -> Params:
        return {"n": torch.tensor(state)}

    def unpack(self, tensors: Params, k: int) -> int:
        assert int(tensors["n"]) == k
        return k


@dataclass
class Kept(MemoryRun):
    """Notes checkpoints and progress."""

    saves: list[tuple[int, bool]] = field(default_factory=list)
    shown: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        MemoryRun.__init__(self)

    def save(self, checkpoint: Checkpoint) -> None:
        self.saves.append((checkpoint.step, checkpoint.scheduled))
        super().save(checkpoint)

    def progress(self, done: int, total: int, note: str = "") -> None:
        self.shown.append((done, total))


def test_a_whole_training_by_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven steps, validated at 0, 3, 6 and the end, saved there and at 2 and 4, logged every other step.

    The clock is read at the start and after each validation, half a second later every time.
    """
    clock = iter(1000 + 0.5 * k for k in range(99))
    monkeypatch.setattr("metascale.training.loop.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    run, script = Kept(), Script({0: 5.0, 3: 2.0, 6: 3.0, 7: 4.0})
    result = train(script, Schedule(7, eval_every=3, checkpoint_every=2, log_every=2), run)
    assert result == TrainResult(3, 7, 3, 2.0, 3, "max_steps")
    assert script.told == [
        ("validate", 0), ("step", 0, 0), ("step", 1, 1), ("step", 2, 2), ("validate", 3), ("step", 3, 3),
        ("step", 4, 4), ("step", 5, 5), ("validate", 6), ("step", 6, 6), ("validate", 7),
    ]  # fmt: skip
    assert run.rows("train_stats") == [{"step": k, "value": k - 1.0} for k in (2, 4, 6)]
    assert run.rows("eval_stats") == [
        {"step": k, "validation_loss_nats": loss, "more": 1.0} for k, loss in ((0, 5.0), (3, 2.0), (6, 3.0), (7, 4.0))
    ]
    assert run.saves == [(0, True), (2, True), (3, True), (4, True), (6, True), (7, True)]
    assert run.shown == [(k, 7) for k in range(1, 8)]
    assert run.measurements == [
        {"step": step, "wall_s": seconds} for step, seconds in ((0, 0.5), (3, 1.0), (6, 1.5), (7, 2.0))
    ]
    last = run.latest()
    assert last is not None
    assert set(last.blobs) == {"state.safetensors", "best.safetensors", "progress.json"}
    assert json.loads(last.blobs["progress.json"]) == {
        "step": 7, "validated_step": 7, "best_step": 3, "best_loss_nats": 2.0, "last_loss_nats": 4.0, "stale": 2,
        "stopped": False,
    }  # fmt: skip
    assert int(from_bytes(last.blobs["best.safetensors"])["n"]) == 3
    kept = train(Script(script.losses), Schedule(7, eval_every=3, restore_best=False), MemoryRun())
    assert kept == TrainResult(7, 7, 7, 4.0, 3, "max_steps")


def test_patience_and_improvements() -> None:
    """An improvement lowers the best by more than ``min_delta``; an equal loss is none."""
    for losses, min_delta, steps, best in (
        ({0: 5.0, 1: 4.0, 2: 4.0, 3: 4.0}, 0.0, 3, 1), ({0: 5.0, 1: 4.5, 2: 4.5}, 0.5, 2, 0),
        ({0: 5.0, 1: 4.0, 2: 4.5, 3: 3.0, 4: 3.5, 5: 3.5}, 0.5, 5, 3),
    ):  # fmt: skip
        found = train(Script(losses), Schedule(9, eval_every=1, patience=2, min_delta=min_delta), MemoryRun())
        assert (found.status, found.steps, found.best_step) == ("converged", steps, best)


def test_numbers_that_are_not_finite_name_the_quantity() -> None:
    for script, message, step, last in (
        (Script({0: 2.0, 2: math.inf}), "validation loss is inf at step 2", 2, 2.0),
        (Script({0: math.nan}), "validation loss is nan at step 0", 0, None),
        (Script({0: 2.0}, extra={1: {"some_loss_nats": -math.inf}}), "some loss is -inf at step 2", 2, 2.0),
    ):
        with pytest.raises(Diverged, match=exactly(message)) as caught:
            train(script, Schedule(4, eval_every=2), MemoryRun())
        assert (caught.value.step, caught.value.last_finite) == (step, last)
    fine = Script(extra={0: {"none": None, "whole": 5}})
    assert train(fine, Schedule(1), MemoryRun()).steps == 1


def test_a_checkpoint_of_another_step_is_corrupt() -> None:
    run = MemoryRun()
    train(Script(), Schedule(2), run)
    found = run.latest()
    assert found is not None
    run.save(Checkpoint(1, found.blobs))
    with pytest.raises(CorruptFile, match=exactly("the checkpoint of step 1 holds the state of step 2")):
        train(Script(), Schedule(2), run)
    assert Progress().best_loss_nats == math.inf


def test_thresholds_prune() -> None:
    """The best so far against each threshold: above it the training ends there, at it it goes on."""
    losses = {0: 9.0, 2: 5.0, 4: 4.0, 6: 3.0}
    schedule = Schedule(6, eval_every=2)
    for thresholds, steps, pruned in (
        ([], 6, None), ([(2, 5.0)], 6, None), ([(2, 4.9)], 2, 2), ([(2, 5.0), (4, 3.9)], 4, 4), ([(6, 0.0)], 6, None),
        ([(7, 0.0)], 6, None), ([(4, 4.5)], 6, None), ([(7, 0.0), (2, 4.9)], 2, 2),
    ):  # fmt: skip
        found = train_or_prune(Script(losses), schedule, MemoryRun(), thresholds)
        assert (found.steps, found.pruned_at_step) == (steps, pruned)
    stopped = train_or_prune(Script({0: 1.0}), Schedule(6, eval_every=1, patience=1), MemoryRun(), [(3, 0.5)])
    assert (stopped.status, stopped.pruned_at_step) == ("converged", None)
    # A resumed run that is beyond a threshold is not judged by it again.
    run = MemoryRun()
    train(Script(losses), replace(schedule, max_steps=4), run)
    assert train_or_prune(Script(losses), schedule, run, [(2, 0.0)]).pruned_at_step is None
    train(Script(losses), replace(schedule, max_steps=4), run := MemoryRun())
    assert train_or_prune(Script(losses), schedule, run, [(2, 0.0), (4, 3.9)]).pruned_at_step == 4
    again = MemoryRun()
    train(Script(losses), replace(schedule, max_steps=2), again)
    assert train_or_prune(Script(losses), schedule, again, [(2, 0.0)]).pruned_at_step == 2


# ---------------------------------------------------------------------------------------------------------- supervised


@dataclass
class Line:
    """Logits (w · x, 0) and their cross-entropy; what it is called with is noted."""

    told: list[Any] = field(default_factory=list)

    def init(self, seed: int) -> Params:
        return {"w": torch.tensor([float(seed)])}

    def predict(self, params: Params, batch: Batch) -> torch.Tensor:
        self.told.append(("predict", torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        x = batch.inputs["x"]
        return torch.stack([params["w"] * x, torch.zeros_like(x)], -1)

    def losses(self, params: Params, batch: Batch) -> torch.Tensor:
        self.told.append(("losses", torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return (params["w"] * batch.inputs["x"]).masked_fill(batch.targets == -100, 0.0)

    def objective(self, params: Params, batch: Batch, dropout: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        self.told.append(("objective", dropout, torch.is_autocast_enabled("cpu")))
        losses = (params["w"] * batch.inputs["x"]).masked_fill(batch.targets == -100, 0.0)
        return 2 * losses.mean(), losses.detach()


@dataclass
class Rows:
    """Two batches of x = (1, 3) and (5, 7), of which the last target does not count."""

    asked: list[Any] = field(default_factory=list)
    empty: bool = False

    def batch(self, step: int) -> Batch:
        self.asked.append(step)
        return Batch({"x": torch.tensor([5.0, 7.0])}, torch.tensor([0, -100]))

    def evaluation(self, split: str, max_batches: int | None = None) -> Iterator[Batch]:
        self.asked.append((split, max_batches))
        if not self.empty:
            yield Batch({"x": torch.tensor([1.0, 3.0])}, torch.tensor([0, 1]))
            yield Batch({"x": torch.tensor([5.0, 7.0])}, torch.tensor([0, -100]))


def supervised(**fields: Any) -> SupervisedTraining:
    return SupervisedTraining(Line(), Rows(), SGD(0.1), **{"seed": 2, "clip_norm": None, **fields})  # type: ignore[arg-type]


def test_a_step_by_its_row() -> None:
    """w = 2 on 5 (7 does not count): nats 10 over one target; the objective 2 · 10 / 2 has the slope 5."""
    process = supervised(rate=lambda k: 0.5 * k, autocast=True)
    state = process.init()
    assert (state.step, state.params["w"].tolist()) == (0, [2.0])
    new, row = process.step(state, 3)
    assert row == {"training_loss_nats": 10.0, "objective": 10.0, "gradient_norm": 5.0, "rate_factor": 1.5}
    assert new.step == 4
    assert new.params["w"].tolist() == pytest.approx([2 - 0.1 * 1.5 * 5])
    assert process.examples.asked == [3]  # type: ignore[attr-defined]
    assert process.model.told == [("objective", dropout_key(2, "dropout of step", 3, bits=63), True)]  # type: ignore[attr-defined]
    used: Any = process._precision()
    assert (used.device, used.fast_dtype) == ("cpu", torch.bfloat16)
    for bound, moved in ((5.0, 5.0), (4.0, 4.0), (6.0, 5.0)):
        new, row = supervised(clip_norm=bound).step(state, 0)
        assert row["gradient_norm"] == 5.0
        assert new.params["w"].tolist() == pytest.approx([2 - 0.1 * moved])
    new, _ = supervised(rate_multipliers={"w": 0.5}, rate=lambda k: 0.5).step(state, 0)
    assert new.params["w"].tolist() == pytest.approx([2 - 0.1 * 0.25 * 5])
    for names, odd in (({}, ["w"]), ({"w": 1.0, "x": 1.0}, ["x"]), ({"a": 1.0}, ["a", "w"]),
                       (dict.fromkeys("fedcba", 1.0), list("abcde"))):  # fmt: skip
        message = f"rate_multipliers must name every parameter and nothing else; differing: {odd}"
        with pytest.raises(InputError, match=exactly(message)):
            supervised(rate_multipliers=names).init()


@pytest.mark.parametrize(("objective", "norm"), [(math.nan, 1.0), (1.0, math.inf), (math.inf, 1.0)])
def test_a_step_that_diverges(objective: float, norm: float) -> None:
    process = supervised()
    message = f"training loss is {objective}, its gradient's norm {norm}, at step 6"
    with pytest.raises(Diverged, match=exactly(message)) as caught:
        process.advance(process.init(), 6, {"w": torch.zeros(1)}, 1.0, objective, norm)
    assert caught.value.step == 6


def test_an_evaluation_by_hand() -> None:
    """Losses 2, 6 and 10 over three targets that count; logits (2 x, 0): 1 and 5 are right, 3 is class 1."""
    process = supervised(max_validation_batches=7)
    state = process.init()
    assert process.validate(state) == {
        "validation_loss_nats": 6.0, "validation_targets": 3, "validation_perplexity": pytest.approx(math.exp(6)),
    }  # fmt: skip
    assert process.examples.asked == [("validation", 7)]  # type: ignore[attr-defined]
    assert process.model.told == [("losses", False, False)] * 2  # type: ignore[attr-defined]
    right = supervised(measure="accuracy", autocast=True)
    small = lambda x: math.log1p(math.exp(-2 * x))
    expected = (small(1) + (small(3) + 6) + small(5)) / 3
    assert right.evaluate(state.params, "test") == {
        "test_loss_nats": pytest.approx(expected, rel=1e-6), "test_targets": 3, "test_accuracy": 2 / 3,
    }  # fmt: skip
    assert right.examples.asked == [("test", None)]  # type: ignore[attr-defined]
    assert right.model.told == [("predict", False, True)] * 2  # type: ignore[attr-defined]
    huge = supervised().evaluate({"w": torch.tensor([1000.0])}, "test")
    assert huge["test_perplexity"] == math.inf
    for loss, words in ((699.9, math.exp(699.9)), (700.0, math.inf)):
        found = supervised().evaluate({"w": torch.tensor([loss / 3], dtype=torch.float64)}, "test")
        assert found["test_perplexity"] == pytest.approx(words, rel=1e-3)
    empty = replace(supervised(), examples=Rows(empty=True))
    with pytest.raises(InputError, match=exactly("the test split holds no targets")):
        empty.evaluate(state.params, "test")


def test_a_state_is_copied_when_it_is_packed() -> None:
    process = supervised()
    process = replace(process, optimizer=SGD(0.1, 0.5))
    state = process.init()
    packed = process.pack(state)
    assert packed["params/w"] is not state.params["w"]
    again = process.unpack(packed, 5)
    assert again.step == 5
    assert again.params["w"].tolist() == [2.0]
    assert again.params["w"] is not packed["params/w"]
    assert again.optimizer["velocity"]["w"].device.type == "cpu"
    far = replace(process, device="meta")
    assert far.init().params["w"].device.type == "meta"


def test_a_training_and_its_one_test() -> None:
    """Descent on 2 · 5 w / 2 lowers w by 0.5 a step: the last state has the lowest loss, and the test is of it."""
    run, process = MemoryRun(), supervised(max_validation_batches=1)
    result = train_and_test(process, Schedule(2, eval_every=1), run)
    w = 2 - 2 * 0.5
    assert result.validation == {
        "validation_loss_nats": 3 * w, "validation_targets": 3, "validation_perplexity": pytest.approx(math.exp(3 * w)),
    }  # fmt: skip
    assert result.test == {
        "test_loss_nats": 3 * w,
        "test_targets": 3,
        "test_perplexity": pytest.approx(math.exp(3 * w)),
    }
    assert run.files == {"test.json": {"step": 2, **result.validation, **result.test}}
    asked = [each for each in process.examples.asked if isinstance(each, tuple)]  # type: ignore[attr-defined]
    assert asked == [("validation", 1)] * 3 + [("validation", None), ("test", None)]
    row = SupervisedResult(result.training, result.validation, result.test).row()
    assert row == {
        "validation_loss_nats": 3 * w, "kept_step": 2, "best_step": 2, "steps": 2, "training": "max_steps",
        "validation_perplexity": pytest.approx(math.exp(3 * w)), "test_loss_nats": 3 * w,
        "test_perplexity": pytest.approx(math.exp(3 * w)),
    }  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- FLOPs


def test_operations_from_shapes() -> None:
    assert _product([3, 4], [4, 5]) == 2 * 60
    assert _product([2, 3, 4], [4]) == 2 * 24
    assert _linear([2, 3, 4], [5, 4]) == 2 * 120
    assert _product_added([3, 5], [3, 4], [4, 5]) == 2 * 60
    assert _products_added([3, 5], [2, 3, 4], [2, 4, 5]) == 2 * 120
    assert _grouped_product([6, 4], [3, 4, 5]) == 2 * 120  # rows of groups
    assert _grouped_product([3, 4], [4, 5]) == 2 * 60
    assert _grouped_product([2, 3, 4], [4, 5]) == 2 * 60
    assert _grouped_product([2, 3, 4], [2, 4, 5]) == 2 * 120
    assert _attention([1, 2, 3, 4], [1, 2, 5, 4], [1, 2, 5, 6]) == 2 * 6 * 5 * (4 + 6)
    assert _attention_backward([], [1, 2, 3, 4], [1, 2, 5, 4], [1, 2, 5, 6]) == 2 * 6 * 5 * (3 * 4 + 2 * 6)
    assert _recurrent([7, 2, 3], [8, 3], [8, 4]) == 2 * 14 * (24 + 32)
    assert _recurrent_backward([7, 2, 3], [8, 3], [8, 4]) == 4 * 14 * (24 + 32)
    # Σ over i, j of x[b, i] · W[o, i, j] · y[b, j] in the dimensions (b, o, i, j): b o i j, then b o j with y.
    assert _trilinear([2, 3], [4, 3, 5], [2, 5], [1, 3], [0], [1, 2], [2, 3]) == 2 * (2 * 4 * 3 * 5) + 2 * (2 * 4 * 5)


def test_uncounted_work_is_told_where_the_count_was_asked_for() -> None:
    with pytest.warns(flops.FlopsNotCounted) as told:
        flops.count_flops(lambda: torch.linalg.svd(torch.eye(2)))
    with pytest.warns(flops.FlopsNotCounted) as both:
        flops.count_flops(lambda: (torch.linalg.svd(torch.eye(2)), torch.fft.fft(torch.ones(2))))
    assert [each.filename for each in (told[0], both[0])] == [__file__] * 2
    rest = " is not counted: its floating-point operations cannot be told from shapes, so the count is too low"
    assert str(told[0].message) == f"the work of aten._linalg_svd{rest}"
    assert str(both[0].message) == f"the work of aten._fft_r2c, aten._linalg_svd{rest}"


def test_names_that_users_type() -> None:
    assert get_args(ScheduleName) == ("constant", "linear", "cosine", "wsd")
    assert get_args(flops.FlopConvention) == ("exact", "6ND")
    assert get_args(Measure) == ("perplexity", "accuracy")


def test_operations_of_a_training() -> None:
    found = training_flops({"a": 2.0, "b": 6.0}, 10, 7, 100.0)
    assert found == TrainingFlops({"a": 60.0, "b": 180.0}, 6 * 700.0)
    assert (found.exact, found.total("exact"), found.total("6ND")) == (240, 240, 4200)
    assert found.shares() == {"a": 0.25, "b": 0.75}
    assert training_flops({"a": 2.0}, 10, 7, 100.0, backward_factor=1.0).components == {"a": 40.0}


@pytest.mark.parametrize(
    ("name", "hides"),
    [
        ("_thnn_fused_rnn", True), ("_cudnn_rnn", True), ("lstm_cell", True), ("quantized_lstm", False),
        ("sparse_mm", True), ("_fft_c2c", True), ("linalg_qr", True), ("linalg_vector_norm", False),
        ("linalg_cross", False), ("linalg_vecdot", False), ("mm", True), ("addmm_", True), ("mv", True),
        ("mmax", False), ("convolution", True), ("relu", False), ("geqrf", True),
        ("_scaled_dot_product_attention_math", True),
    ],
)  # fmt: skip
def test_names_of_operations_that_hold_products(name: str, hides: bool) -> None:
    assert bool(flops._HIDES_PRODUCTS.search(name)) is hides


# -------------------------------------------------------------------------------------------------------------- memory


def test_a_watched_model_makes_activations_in_its_forward_methods() -> None:
    told: list[str] = []

    class Meter:
        def region(self, kind: str) -> Any:
            told.append(kind)
            return torch.no_grad()

    model = SimpleNamespace(run=lambda a, b=0: (a, b), other=lambda: "other", value=5)
    watched: Any = WatchedModel(model, Meter(), ("run",))  # type: ignore[arg-type]
    assert watched.run(1, b=2) == (1, 2)
    assert told == ["activations"]
    assert watched.other() == "other"
    assert watched.value == 5
    assert told == ["activations"]


def test_memory_of_a_gpu_is_that_of_its_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Any]] = []
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: told.append((name, device)))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: told.append(("max", device)) or 777)
    report = measure_memory(lambda meter: told.append(("call", None)), device="cuda:1")
    assert (report.allocated_bytes, report.peak_bytes) == (777, 777)
    assert told == [
        ("synchronize", "cuda:1"), ("reset_peak_memory_stats", "cuda:1"), ("call", None), ("synchronize", "cuda:1"),
        ("max", "cuda:1"),
    ]  # fmt: skip
    assert measure_memory(lambda meter: None).allocated_bytes is None


def test_what_lives_on_the_meta_device() -> None:
    """Counted where nothing is computed, and else no memory."""
    make = lambda meter: torch.zeros(10, device="meta")
    assert measure_memory(make, device="meta").live_bytes == 40
    assert measure_memory(make).live_bytes == 0
    assert measure_memory(lambda meter: torch.zeros(10)).by_kind["activations"] == 40
    assert measure_memory(lambda meter: torch.zeros(10), default="other").by_kind["other"] == 40
    message = f"memory holds one of {', '.join(KINDS)}, not 'x'"
    with pytest.raises(InputError, match=exactly(message)):
        LiveBytes(default="x")
    message = "live bytes are already being counted in this thread; measure one call at a time"
    with LiveBytes(), pytest.raises(InputError, match=exactly(message)), LiveBytes():
        pass
    assert not memory.counting()
    assert KINDS == ("weights", "parameters", "activations", "gradients", "optimizer_state", "other")


def test_labels_of_tensors() -> None:
    """A label holds for a whole life; of what was there before only where it has none."""
    before, named = torch.zeros(5), torch.zeros(6)

    def call(meter: LiveBytes) -> Any:
        made = [torch.zeros(10), torch.zeros(20)]
        before.add(1.0)
        meter.label("gradients", {"a": [made[0]], "text": "x", "b": (made[0],)})
        meter.label("parameters", before)
        meter.label("parameters", named)
        return made

    found = measure_memory(call, {"weights": [named, named[:2]]}).by_kind
    assert found == {
        "weights": 24, "parameters": 20, "activations": 80 + 20, "gradients": 40, "optimizer_state": 0, "other": 0,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------- coordinate check

ROWS = tuple(
    CoordinateRow(width, step, name, size, change)
    for name, size_of, change_of in (("a", 1.0, 0.5), ("b", 0.0, 1.0), ("still", 1.0, 0.0))
    for width in (4, 1, 2)
    for step, size, change in ((0, 9.0, 0.0), (3, 2.0 * width**size_of, (3.0 * width**change_of) * (name != "still")))
)  # fmt: skip


def test_exponents_of_sizes_and_changes() -> None:
    """After the last step, by ascending width: sizes 2 w and 2, changes 3 √w and 3 w, and one that never changes."""
    found = CoordinateCheck(ROWS)
    assert found.last() == {
        "a": [(1, 3.0), (2, 3 * math.sqrt(2)), (4, 6.0)], "b": [(1, 3.0), (2, 6.0), (4, 12.0)],
        "still": [(1, 0.0), (2, 0.0), (4, 0.0)],
    }  # fmt: skip
    assert found.last("size")["a"] == [(1, 2.0), (2, 4.0), (4, 8.0)]
    assert found.exponents() == pytest.approx({"a": 0.5, "b": 1.0})
    assert found.exponents("size") == pytest.approx({"a": 1.0, "b": 0.0, "still": 1.0})
    assert found.steepest() == ("b", pytest.approx(1.0))
    assert found.steepest("size")[1] == pytest.approx(1.0)
    one = CoordinateCheck(tuple(row for row in ROWS if row.width == 4))
    assert one.exponents() == {}
    message = "no activation changed in this check: give it a higher rate or more steps"
    with pytest.raises(InputError, match=exactly(message)):
        one.steepest()


@dataclass
class Product:
    """Logits x · w of ``width`` inputs of 1, and their mean as the objective: the gradient of every w is 1 a row."""

    width: int

    def init(self, seed: int) -> Params:
        return {"w": torch.full((self.width, 1), float(seed))}

    def predict(self, params: Params, batch: Batch) -> torch.Tensor:
        return torch.ones(len(batch.targets), self.width) @ params["w"]

    def objective(self, params: Params, batch: Batch, dropout: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        loss = self.predict(params, batch).mean()
        return loss, loss.detach()


def test_activations_of_widths_by_hand() -> None:
    """Weights begin at the seed, 1 or 3, and fall by 0.5 a step: activations of width n are n (seed − 0.5 k)."""
    batch = Batch({}, torch.zeros(2))
    found = measure_coordinates(Product, [2, 4], 2, batch, SGD(0.5), seeds=(1, 3))  # type: ignore[type-var]
    rows = {(row.width, row.step, row.name): (row.size, row.change) for row in found.rows}
    assert set(rows) == {(width, step, name) for width in (2, 4) for step in (0, 1, 2) for name in ("w", "logits")}
    for (width, step, _), values in rows.items():
        size = (abs(1 - 0.5 * step) + abs(3 - 0.5 * step)) / 2 * width
        assert values == pytest.approx((size, 0.5 * step * width))
    slow = measure_coordinates(
        Product,
        [2],
        1,
        batch,
        SGD(0.5),
        rate_multipliers=lambda model: {"w": 1 / model.width},  # type: ignore[type-var]
    )
    assert [row.change for row in slow.rows if row.step == 1] == pytest.approx([0.5, 0.5])
    assert {row.size for row in slow.rows if row.step == 0} == {0.0}  # of seed 0
    kernels = {"k": torch.ones(1, 1, 2, 2)}
    convolved: Any = SimpleNamespace(predict=lambda params, batch: nn.functional.conv2d(batch.targets, params["k"]))
    seen = activations(convolved, kernels, Batch({}, torch.ones(1, 1, 2, 3)))
    assert seen["k"].flatten().tolist() == [4.0, 4.0]
    seen = activations(Product(3), {"w": torch.ones(3, 1)}, batch)  # type: ignore[arg-type]
    assert {name: value.tolist() for name, value in seen.items()} == {"w": [[3.0]] * 2, "logits": [[3.0]] * 2}
