"""Bilevel training: what a step does, what it leaves alone, and interrupted = uninterrupted."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from metascale.bilevel.batches import Shuffled
from metascale.bilevel.levels import Pass
from metascale.bilevel.training import BilevelState, BilevelTraining
from metascale.bilevel.updates import update_in_turn
from metascale.core.errors import Diverged, InputError
from metascale.core.run import MemoryRun
from metascale.core.types import Params
from metascale.hypergrad.darts import DARTS
from metascale.hypergrad.implicit import Implicit
from metascale.hypergrad.linear import CG, Neumann
from metascale.hypergrad.problem import HypergradientSolver
from metascale.hypergrad.sama import SAMA
from metascale.hypergrad.unrolled import Unrolled
from metascale.training.loop import Schedule, train
from metascale.training.memory import measure_memory
from metascale.training.optimizers import LAMB, SGD, Adagrad, Adam, InPlaceAdamW, Lion, Muon, Optimizer, RMSprop
from tests.bilevel.problems import data, network, noisy_training, quadratic_levels, vector

METHODS: list[HypergradientSolver] = [
    SAMA(),
    SAMA(adapt=False, multitask=True),
    SAMA(mixed="exact"),
    Implicit(CG(3, damping=1.0, on_failure="report")),
    Implicit(Neumann(3, 0.1, on_failure="report")),
    Unrolled(),
    DARTS(),
]


def quadratic(**fields: Any) -> BilevelTraining:
    fields = {"lower_optimizer": SGD(0.1), "upper_optimizer": SGD(1.0), **fields}
    return BilevelTraining(quadratic_levels(), vector, lambda k: vector(1000 + k), **fields)


def run_steps(training: BilevelTraining, steps: int) -> BilevelState:
    state = training.init()
    for k in range(steps):
        state, _ = training.step(state, k)
    return state


def same(first: Params, second: Params) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], value) for name, value in second.items())


@pytest.mark.parametrize(
    "optimizer",
    [SGD(0.1), SGD(0.1, 0.9), Adam(0.1), RMSprop(0.1), Adagrad(0.1), LAMB(0.1), Muon(0.1), Lion(0.1, softness=0.3)],
    ids=repr,
)
@pytest.mark.parametrize("max_norm", [None, 0.3])
def test_adapted_sama_is_the_exact_derivative_of_one_step_where_the_mixed_derivative_is_constant(
    optimizer: Optimizer, max_norm: float | None
) -> None:
    """The optimiser's own derivative enters both: by closed form or vector-Jacobian product, and by unrolling."""
    fields: dict[str, Any] = {"lower_optimizer": optimizer, "lower_max_norm": max_norm}
    sama, _ = quadratic(method=SAMA(mixed="exact"), **fields).step(quadratic(**fields).init(), 0)
    unrolled, _ = quadratic(method=Unrolled(1), **fields).step(quadratic(**fields).init(), 0)
    torch.testing.assert_close(sama.upper["l"], unrolled.upper["l"], rtol=1e-10, atol=1e-12)
    assert float((sama.upper["l"] - 0.5).abs().max()) > 1e-3


@pytest.mark.parametrize("optimizer", [SGD(0.1, 0.9), Adam(0.1), RMSprop(0.05, momentum=0.5)], ids=repr)
def test_unrolled_differentiates_everything_since_the_last_upper_step(optimizer: Optimizer) -> None:
    """The change of λ is the finite difference of the upper loss after three lower steps from the same start."""
    fields: dict[str, Any] = {"unroll_steps": 3, "lower_optimizer": optimizer, "lower_max_norm": 2.0}
    training = quadratic(method=Unrolled(), **fields)
    found = training.init().upper["l"] - run_steps(training, 1).upper["l"]

    def upper_loss_after(shift: torch.Tensor) -> float:
        start = training.init()
        moved = quadratic(learn_upper=False, **fields)
        state, _ = moved.step(replace(start, upper={"l": start.upper["l"] + shift}), 0)
        loss = moved.levels.upper_loss(state.lower, state.upper, vector(1000), Pass(None, {}))
        return float(loss)

    for index in range(3):
        move = torch.zeros(3, dtype=torch.float64)
        move[index] = 1e-5
        slope = (upper_loss_after(move) - upper_loss_after(-move)) / 2e-5
        assert float(found[index]) == pytest.approx(slope, rel=1e-6, abs=1e-9)


class Interrupted(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("roll_back", [False, True])
def test_interrupted_equals_uninterrupted_bit_for_bit(method: HypergradientSolver, roll_back: bool) -> None:
    if roll_back and getattr(method, "multitask", False):
        pytest.skip("roll_back takes back what multitask moves: refused")
    fields: dict[str, Any] = {"method": method, "unroll_steps": 2, "roll_back": roll_back, "lower_max_norm": 1.0}
    schedule = Schedule(max_steps=6, eval_every=3, checkpoint_every=2)
    whole, broken = MemoryRun(), MemoryRun()
    training = noisy_training(**fields)
    expected = train(training, schedule, whole)
    dying = noisy_training(**fields)
    dying = replace(dying, lower_batches=_until(dying.lower_batches, 11))
    with pytest.raises(Interrupted):
        train(dying, schedule, broken)
    torch.manual_seed(99)  # The global generators have no part in it, nor have the weights of a new process.
    resumed = noisy_training(network(seed=5), **fields)
    found = train(resumed, schedule, broken)
    assert repr(broken.records) == repr(whole.records)
    assert found.best_step == expected.best_step
    assert same(resumed.pack(found.state), training.pack(expected.state))
    first, second = whole.latest(), broken.latest()
    assert first is not None
    assert second is not None
    assert second.blobs == first.blobs


def _until(batches: Callable[[int], Any], end: int) -> Callable[[int], Any]:
    def limited(n: int) -> Any:
        if n >= end:
            raise Interrupted
        return batches(n)

    return limited


def test_upper_passes_leave_batch_statistics_and_the_lower_level_alone() -> None:
    """With λ learnt or not, by any method, θ and the statistics after one step are those of lower training alone.

    The lower level descends plainly: Adam's first step is a sign, whose derivative is zero.
    """
    descent = SGD(0.1)
    plain = run_steps(noisy_training(warmup=1, lower_optimizer=descent), 1)
    assert float(plain.buffers["1.running_mean"].abs().max()) > 0
    assert int(plain.buffers["1.num_batches_tracked"]) == 1
    for method in METHODS:
        state = run_steps(noisy_training(method=method, lower_optimizer=descent), 1)
        assert same(state.buffers, plain.buffers), method
        assert same(state.lower, plain.lower) != (method == METHODS[1]), method
        assert not same(state.upper, plain.upper), method


def test_batch_statistics_move_as_in_plain_torch_training() -> None:
    training = noisy_training(network(dropout=0.0), warmup=9)
    reference = network(dropout=0.0).train()
    for n in range(3):
        reference(training.lower_batches(n)["x"])
    found = run_steps(replace(training, lower_optimizer=SGD(0.0)), 3).buffers
    for name, value in reference.named_buffers():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_both_perturbed_passes_drop_the_same_units(dropout: float) -> None:
    """With other masks in each, the difference of two noisy gradients would be divided by 2ε and grow without end."""
    gradients = {}
    for alpha in (1e-1, 1e-2, 1e-3, 1e-4, None):
        method = SAMA(mixed="exact") if alpha is None else SAMA(alpha)
        training = noisy_training(network(dropout=dropout).double(), _double_weights(), method=method)
        training = replace(training, upper_optimizer=SGD(1.0), lower_batches=_doubled(training.lower_batches))
        training = replace(training, upper_batches=_doubled(training.upper_batches))
        before = {name: value.clone() for name, value in training.init().upper.items()}
        after = run_steps(training, 1).upper
        gradients[alpha] = torch.cat([(before[name] - after[name]).reshape(-1) for name in before])
    for alpha in (1e-2, 1e-3, 1e-4):
        torch.testing.assert_close(gradients[alpha], gradients[None], rtol=1e-3, atol=1e-4 * alpha)


@pytest.mark.parametrize("method", [SAMA(), SAMA(1e-4), SAMA(mixed="exact")], ids=repr)
def test_what_a_weighting_network_sees_is_held_in_the_perturbed_passes(method: SAMA) -> None:
    """At a tiny rate SAMA is the derivative of the lower step, in which the network's input does not count."""

    def change_of_upper(method: HypergradientSolver) -> torch.Tensor:
        training = noisy_training(network(dropout=0.0).double(), _double_weights(), method=method)
        training = replace(training, lower_optimizer=SGD(1e-6), upper_optimizer=SGD(1e6))
        training = replace(training, lower_batches=_doubled(training.lower_batches))
        training = replace(training, upper_batches=_doubled(training.upper_batches))
        before = {name: value.clone() for name, value in training.init().upper.items()}
        after = run_steps(training, 1).upper
        return torch.cat([(before[name] - after[name]).reshape(-1) for name in before])

    truth = change_of_upper(Unrolled(1))
    assert float(truth.abs().max()) > 1e-3
    torch.testing.assert_close(change_of_upper(method), truth, rtol=1e-3, atol=1e-5)


def _double_weights() -> nn.Module:
    from metascale.bilevel import WeightNet

    return WeightNet(8).double()


def _doubled(batches: Callable[[int], Any]) -> Callable[[int], Any]:
    return lambda n: {name: v.double() if v.is_floating_point() else v for name, v in batches(n).items()}


def test_masks_belong_to_the_step_and_nothing_moves_the_global_generators() -> None:
    first = run_steps(noisy_training(), 2)
    torch.manual_seed(1234)
    training = noisy_training()
    torch.manual_seed(4321)
    before = torch.get_rng_state()
    second = run_steps(training, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first.lower, second.lower)
    other = run_steps(noisy_training(seed=1), 2)
    assert not same(first.lower, other.lower)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_accumulated_micro_batches_equal_the_joined_batch(method: HypergradientSolver) -> None:
    def pieces(size: int) -> BilevelTraining:
        from metascale.bilevel import Shuffled
        from tests.bilevel.problems import data

        noisy, clean, _ = data()
        training = noisy_training(network(dropout=0.0, norm=False), method=method, unroll_steps=2)
        return replace(
            training,
            lower_batches=Shuffled(noisy, size),
            upper_batches=Shuffled(clean, size, purpose="upper"),
            lower_accumulation=20 // size,
            upper_accumulation=20 // size,
        )

    joined, parts = run_steps(pieces(20), 2), run_steps(pieces(5), 2)
    for name, value in joined.lower.items():
        torch.testing.assert_close(parts.lower[name], value, rtol=1e-3, atol=1e-5)
    for name, value in joined.upper.items():
        torch.testing.assert_close(parts.upper[name], value, rtol=1e-3, atol=3e-4)


def test_roll_back_takes_the_lower_steps_again_with_the_new_upper_parameters() -> None:
    fields: dict[str, Any] = {"unroll_steps": 2, "lower_optimizer": Adam(0.1)}
    rolled = run_steps(quadratic(roll_back=True, **fields), 1)
    kept = run_steps(quadratic(**fields), 1)
    assert same(rolled.upper, kept.upper)
    assert not same(rolled.lower, kept.lower)
    again = quadratic(learn_upper=False, **fields)
    by_hand, _ = again.step(replace(again.init(), upper=dict(rolled.upper)), 0)
    assert same(rolled.lower, by_hand.lower)
    assert same(rolled.lower_optimizer["m"], by_hand.lower_optimizer["m"])


def test_frozen_upper_parameters_stay_and_only_the_multitask_step_moves_theta() -> None:
    plain = run_steps(quadratic(warmup=9), 3)
    restored = run_steps(quadratic(learn_upper=False), 3)
    kept = run_steps(quadratic(learn_upper=False, method=SAMA(multitask=True)), 3)
    assert same(restored.upper, plain.upper)
    assert same(kept.upper, plain.upper)
    assert same(restored.lower, plain.lower)
    assert not same(kept.lower, plain.lower)


def test_every_part_of_a_model_is_in_the_mode_of_the_pass() -> None:
    """A model around a pretrained part that came in evaluation mode: training drops units from the first step on."""
    mixed, uniform = network(dropout=0.5), network(dropout=0.5)
    mixed[3].eval()
    assert mixed.training
    first, second = noisy_training(mixed), noisy_training(uniform)
    assert same(run_steps(first, 1).lower, run_steps(second, 1).lower)
    mixed.eval()
    mixed[3].train()
    assert first.validate(first.init()) == second.validate(second.init())


def test_both_levels_clip_their_gradients() -> None:
    free, bound = run_steps(quadratic(), 1), run_steps(quadratic(upper_max_norm=1e-3), 1)
    start = quadratic().init()
    assert float((free.upper["l"] - start.upper["l"]).norm()) > 0.01
    assert float((bound.upper["l"] - start.upper["l"]).norm()) == pytest.approx(1e-3)
    short = run_steps(quadratic(lower_max_norm=1e-3), 1)
    assert float((short.lower["w"] - start.lower["w"]).norm()) == pytest.approx(1e-4)


def test_rows_have_the_same_names_from_the_warmup_on() -> None:
    training = noisy_training(warmup=1, method=Implicit(CG(2, damping=1.0, on_failure="report")))
    state, first = training.step(training.init(), 0)
    _, second = training.step(state, 1)
    assert list(first) == list(second)
    assert second["solver_residual"] > 0
    assert second["hypergradient_norm"] > 0


def test_perturbed_passes_stay_in_full_precision_under_autocast() -> None:
    seen: list[tuple[bool, bool]] = []
    training = quadratic(autocast=torch.bfloat16)
    inner = training.levels.lower_loss

    def watched(theta: Params, lam: Params, batch: Any, context: Pass) -> torch.Tensor:
        seen.append((torch.is_autocast_enabled("cpu"), theta["w"].requires_grad))
        return inner(theta, lam, batch, context)

    training = replace(training, levels=replace(training.levels, lower_loss=watched))
    training.step(training.init(), 0)
    assert seen == [(True, True), (False, False), (False, False)]
    state = run_steps(noisy_training(autocast=torch.bfloat16), 2)
    assert all(value.dtype == torch.float32 for value in state.lower.values())


def test_a_step_holds_one_copy_of_the_lower_level() -> None:
    """The old tensors are gone after a step: a training in place would hold no less."""
    training = noisy_training()
    state, _ = training.step(training.init(), 0)
    old = [weakref.ref(value) for value in (*state.lower.values(), *state.lower_optimizer["m"].values())]
    state, _ = training.step(state, 1)
    gc.collect()
    assert [ref() for ref in old] == [None] * len(old)
    assert state.step == 2


@pytest.mark.parametrize("dropout", [None, False, True])
def test_the_upper_pass_is_in_evaluation_mode_unless_asked(dropout: bool | None) -> None:
    training = noisy_training(**({} if dropout is None else {"upper_dropout": dropout}))
    inner, seen = training.levels.upper_loss, []

    def watched(theta: Params, lam: Params, batch: Any, context: Pass) -> torch.Tensor:
        seen.append(context.dropout is not None)
        return inner(theta, lam, batch, context)

    training = replace(training, levels=replace(training.levels, upper_loss=watched))
    training.step(training.init(), 0)
    assert seen == [bool(dropout)]


def test_the_peak_of_sama_is_that_of_lower_training_where_units_are_dropped() -> None:
    """Without masks the upper pass leaves room for the last gradient, which the adaptation needs beside it."""

    def peak(**fields: Any) -> int:
        torch.manual_seed(0)
        hidden = [part for _ in range(4) for part in (nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 64))]
        model = nn.Sequential(nn.Linear(6, 64), *hidden, nn.Linear(64, 2))
        noisy = data()[0]
        training = replace(
            noisy_training(model, **fields), lower_batches=Shuffled(noisy, 150), upper_batches=Shuffled(noisy, 150)
        )
        gc.collect()
        return measure_memory(lambda meter: run_steps(training, 2)).live_bytes

    lower, default, masked = peak(warmup=9), peak(), peak(upper_dropout=True)
    assert default <= 1.01 * lower
    assert masked > 1.05 * lower


def test_the_modules_hold_the_current_state() -> None:
    model = network()
    training = noisy_training(model)
    state = run_steps(training, 2)
    for name, value in model.named_parameters():
        assert value.data_ptr() == state.lower[name].data_ptr()
    assert torch.equal(model.get_buffer("1.running_mean"), state.buffers["1.running_mean"])
    restored = training.unpack({name: value.clone() for name, value in training.pack(state).items()}, 2)
    assert model.get_parameter("0.weight").data_ptr() == restored.lower["0.weight"].data_ptr()


def test_a_non_finite_number_is_divergence_with_its_step() -> None:
    training = quadratic(lower_optimizer=SGD(1e200))
    state, _ = quadratic().step(training.init(), 0)
    with pytest.raises(Diverged, match=r"_loss_nats is (inf|nan) at step 7") as caught:
        training.step(state, 7)
    assert caught.value.step == 7


def test_contradictory_fields_are_refused() -> None:
    with pytest.raises(InputError, match="unroll_steps must be at least 1, not 0"):
        quadratic(unroll_steps=0)
    with pytest.raises(InputError, match="the method differentiates 5 lower steps, more than the 2 of unroll_steps"):
        quadratic(method=Unrolled(5), unroll_steps=2)
    with pytest.raises(InputError, match="Lion's step is a sign"):
        quadratic(lower_optimizer=Lion(0.1))
    with pytest.raises(InputError, match="use bfloat16"):
        quadratic(autocast=torch.float16)


def test_what_would_do_nothing_or_something_else_is_refused() -> None:
    with pytest.raises(InputError, match=r"Unrolled\(steps=2\) sees a part of the 5 lower steps"):
        quadratic(method=Unrolled(steps=2), unroll_steps=5)
    quadratic(method=Unrolled(steps=2, truncated=True), unroll_steps=5)
    with pytest.raises(InputError, match="roll_back undoes the move of θ"):
        quadratic(method=SAMA(multitask=True), roll_back=True)
    for name in ("lower_optimizer", "upper_optimizer"):
        with pytest.raises(InputError, match=f"InPlaceAdamW overwrites parameters and state, which {name}"):
            quadratic(**{name: InPlaceAdamW(0.1)})


def test_a_parameter_may_be_called_count() -> None:
    params, grads = {"count": torch.ones(2), "other": torch.ones(3)}, {"count": torch.ones(2), "other": torch.ones(3)}
    for optimizer in (Adam(0.1), Adagrad(0.1)):
        expected, _ = optimizer.update(dict(params), dict(grads), optimizer.init(params))
        found, _ = update_in_turn(optimizer, dict(params), dict(grads), optimizer.init(params))
        assert same(found, expected)
