"""Supervised training: resumption, evaluation without dropout, the test set touched once, schedules, the optimiser."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch

from metascale.core.errors import Diverged, InputError
from metascale.core.run import MemoryRun
from metascale.core.streams import torch_generator
from metascale.core.trees import require_grad
from metascale.core.types import Batch, Params, Split
from metascale.models.perceptron import Perceptron
from metascale.models.resnet_bk import ResNetBK
from metascale.models.transformer import Transformer
from metascale.training.flops import count_flops, training_flops
from metascale.training.loop import Schedule, train
from metascale.training.optimizers import SGD, Adam, InPlaceAdamW, Optimizer
from metascale.training.schedules import Constant, Cosine, WarmupStableDecay, named_schedule
from metascale.training.supervised import SupervisedTraining, train_and_test


@dataclass
class Texts:
    """Sequences in which a token is followed by the next number; remembers which splits were looked at."""

    n_vocab: int = 7
    seen: tuple[str, ...] = ()
    die_at: int | None = None

    def _batch(self, n: int, *address: int | str) -> Batch:
        starts = torch.randint(0, self.n_vocab, (n, 1), generator=torch_generator(0, "texts", *address))
        ids = (starts + torch.arange(9)) % self.n_vocab
        return Batch({"input_ids": ids[:, :-1]}, ids[:, 1:].clone())

    def batch(self, step: int) -> Batch:
        if step == self.die_at:
            raise KeyboardInterrupt
        return self._batch(4, "train", step)

    def evaluation(self, split: Split, max_batches: int | None = None) -> Iterator[Batch]:
        self.seen = (*self.seen, split)
        last = self._batch(3, split, 1)
        last.targets[1:] = -100
        yield from (self._batch(5, split, 0), last)[:max_batches]


def process(optimizer: Optimizer | None = None, **settings: object) -> SupervisedTraining:
    model = Transformer(7, 16, 1, 2, 8, dropout=0.2)
    return SupervisedTraining(model, Texts(), optimizer or InPlaceAdamW(1e-2), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", [InPlaceAdamW(1e-2, weight_decay=0.1), Adam(1e-2), SGD(0.1, momentum=0.9)])
@pytest.mark.parametrize("model", [Transformer(7, 16, 1, 2, 8, dropout=0.2), ResNetBK(7, 16, 1, 8, dropout=0.2)])
def test_interrupted_equals_uninterrupted(model: Transformer | ResNetBK, optimizer: Optimizer) -> None:
    schedule = Schedule(max_steps=11, eval_every=4, checkpoint_every=3)
    whole, broken = MemoryRun(), MemoryRun()
    task = replace(process(optimizer, rate=Cosine(11, 2)), model=model)
    expected = train(task, schedule, whole)
    with pytest.raises(KeyboardInterrupt):
        train(replace(task, examples=Texts(die_at=7)), schedule, broken)
    resumed = train(task, schedule, broken)
    assert broken.records == whole.records
    for name, value in expected.state.params.items():
        assert torch.equal(value, resumed.state.params[name])


def test_the_best_state_is_not_overwritten_by_later_steps() -> None:
    """The optimiser works in place; what the loop kept must not move."""
    run = MemoryRun()
    task = process(InPlaceAdamW(3.0), clip_norm=None)  # a rate that makes things worse at once
    result = train(task, Schedule(max_steps=6, eval_every=1), run)
    losses = [row["validation_loss_nats"] for row in run.rows("eval_stats")]
    assert result.best_step == losses.index(min(losses)) < 6
    assert task.evaluate(result.state.params, "validation")["validation_loss_nats"] == min(losses)


def test_evaluation_counts_every_target_once_and_never_drops() -> None:
    task = process()
    params = task.init().params
    found = task.evaluate(params, "validation")
    batches = list(task.examples.evaluation("validation"))
    logits = [task.model.predict(params, batch) for batch in batches]
    losses = [
        torch.nn.functional.cross_entropy(out.flatten(0, 1), batch.targets.flatten(), reduction="sum")
        for out, batch in zip(logits, batches, strict=True)
    ]
    assert found["validation_targets"] == 5 * 8 + 8
    assert found["validation_loss_nats"] == pytest.approx(float(sum(losses)) / 48, rel=1e-6)
    assert found["validation_perplexity"] == pytest.approx(math.exp(found["validation_loss_nats"]))
    assert task.evaluate(params, "validation", 1)["validation_targets"] == 40
    assert found == task.evaluate(params, "validation")


def test_the_test_set_is_touched_once_at_the_end() -> None:
    texts, run = Texts(), MemoryRun()
    task = replace(process(), examples=texts)
    result = train_and_test(task, Schedule(max_steps=60, eval_every=10), run)
    assert texts.seen.count("test") == 1
    assert texts.seen[-1] == "test"
    assert run.files["test.json"] == {"step": result.training.best_step, **result.validation, **result.test}
    assert result.test["test_loss_nats"] < 0.5 < math.log(7), "what follows is known, so it must be learnt"
    assert not any("test" in name for row in run.rows("train_stats") + run.rows("eval_stats") for name in row)


def test_accuracy_of_a_classifier() -> None:
    class Sides:
        """The sign of the first pixel."""

        def batch(self, step: int) -> Batch:
            x = torch.randn(32, 1, 2, 2, generator=torch_generator(0, "sides", step))
            return Batch({"x": x}, (x[:, 0, 0, 0] > 0).long())

        def evaluation(self, split: Split, max_batches: int | None = None) -> Iterator[Batch]:
            yield self.batch({"train": -1, "validation": -2, "test": -3}[split])

    model = Perceptron(4, 2, width=16, depth=1, dropout=0.1, task_axis=False)
    task = SupervisedTraining(model, Sides(), Adam(1e-2), measure="accuracy")
    result = train_and_test(task, Schedule(max_steps=80, eval_every=20, patience=2), MemoryRun())
    assert result.test["test_accuracy"] >= 0.9
    assert set(result.test) == {"test_loss_nats", "test_targets", "test_accuracy"}


def test_clipping_scales_the_whole_gradient() -> None:
    """With plain gradient descent the step's length is the rate times the clipped norm."""
    for clip, expected in ((1e-3, 1e-3), (None, None), (1e6, None)):
        task = process(SGD(1.0), clip_norm=clip)
        state = task.init()
        before = {name: value.clone() for name, value in state.params.items()}
        after, row = task.step(state, 0)
        moved = math.sqrt(sum(float((after.params[n] - v).square().sum()) for n, v in before.items()))
        assert moved == pytest.approx(expected or row["gradient_norm"], rel=1e-3)


@dataclass(frozen=True)
class Summed:
    """(a + b − 10)², whose two parameters have one gradient tensor."""

    loss_name = "squared_error"

    def init(self, seed: int) -> Params:
        return {"a": torch.zeros(3), "b": torch.zeros(3)}

    def objective(self, params: Params, batch: Batch, dropout: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        loss = (params["a"] + params["b"] - 10).square().sum()
        return loss, loss.detach().expand(1)


def test_clipping_scales_a_shared_gradient_once() -> None:
    task = replace(process(SGD(1.0), clip_norm=1.0), model=Summed())
    after, row = task.step(task.init(), 0)
    assert row["gradient_norm"] > 40
    assert sum(float(v.square().sum()) for v in after.params.values()) == pytest.approx(1.0, rel=1e-5)


def test_weight_decay_ignores_multipliers_on_either_side_of_one() -> None:
    for factor in (0.25, 1.0, 4.0):
        params = {"matrix": torch.ones(2, 2), "gain": torch.ones(2)}
        zero = {name: torch.zeros_like(value) for name, value in params.items()}
        optimizer = InPlaceAdamW(0.1, weight_decay=0.3)
        rates = {"matrix": torch.tensor(factor), "gain": torch.tensor(1.0)}
        moved, _ = optimizer.update(params, zero, optimizer.init(params), rates)
        torch.testing.assert_close(moved["matrix"], torch.full((2, 2), 1 - 0.1 * 0.3))


def test_rates_of_single_parameters() -> None:
    model = Transformer(7, 16, 1, 2, 8)
    names = list(model.init(0))
    factors = {name: 0.0 if name == "embedding" else 1.0 for name in names}
    for optimizer in (InPlaceAdamW(1e-2, weight_decay=0.1), Adam(1e-2), SGD(1e-2)):
        task = replace(process(optimizer, rate_multipliers=factors), model=model)
        state = task.init()
        before = {name: value.clone() for name, value in state.params.items()}
        after, _ = task.step(state, 0)
        assert torch.equal(after.params["embedding"], before["embedding"])
        assert not torch.equal(after.params["layer0.attention.in"], before["layer0.attention.in"])
    with pytest.raises(InputError, match="rate_multipliers must name every parameter"):
        replace(task, rate_multipliers={"head": 1.0}).init()


def test_a_training_that_breaks_down_says_where() -> None:
    with pytest.raises(Diverged, match="at step") as caught:
        train(process(SGD(1e30), clip_norm=None), Schedule(max_steps=9, eval_every=9), MemoryRun())
    assert caught.value.step >= 1


def test_the_fused_optimiser_is_adamw() -> None:
    """Against `Adam` of this package; gains and biases are not decayed; the decay ignores a tensor's own factor."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (3, 4), "gain": (4,)}
    start: Params = {n: torch.randn(*s, generator=generator) for n, s in shapes.items()}
    fused, plain = InPlaceAdamW(0.1, 0.9, 0.95, weight_decay=0.3), Adam(0.1, 0.9, 0.95, weight_decay=0.3)
    mine, theirs = {n: v.clone() for n, v in start.items()}, {n: v.clone() for n, v in start.items()}
    undecayed = replace(plain, weight_decay=0.0)
    state, other, third = fused.init(mine), plain.init(theirs), undecayed.init(theirs)
    gain = {"gain": theirs["gain"]}
    third = undecayed.init(gain)
    for step in range(5):
        grads = {n: torch.randn(*s, generator=generator) for n, s in shapes.items()}
        rate = 1.0 / (1 + step)
        mine, state = fused.update(mine, {n: g.clone() for n, g in grads.items()}, state, rate)
        theirs, other = plain.update(theirs, grads, other, rate)
        gain, third = undecayed.update(gain, {"gain": grads["gain"]}, third, rate)
    torch.testing.assert_close(mine["matrix"], theirs["matrix"])
    torch.testing.assert_close(mine["gain"], gain["gain"])
    still = {"wide": torch.ones(2, 2), "other": torch.ones(2, 2)}
    zero = {n: torch.zeros_like(v) for n, v in still.items()}
    moved, _ = fused.update(still, zero, fused.init(still), {"wide": torch.tensor(0.25), "other": torch.tensor(1.0)})
    torch.testing.assert_close(moved["wide"], moved["other"])
    torch.testing.assert_close(moved["wide"], torch.full((2, 2), 1 - 0.1 * 0.3))


def test_the_fused_kernel_is_called_once_for_each_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's kernel refuses lists of several; the first step of Adam moves every number by its rate."""
    kernel, calls = torch._fused_adamw_, []

    def of_one_precision(*lists: list[torch.Tensor], **settings: object) -> None:
        calls.append({value.dtype for values in lists[:4] for value in values})
        kernel(*lists, **settings)

    monkeypatch.setattr(torch, "_fused_adamw_", of_one_precision)
    precisions = {"a": torch.float32, "b": torch.bfloat16, "c": torch.float32}
    params = {name: torch.ones(2, 2, dtype=precision) for name, precision in precisions.items()}
    optimizer = InPlaceAdamW(0.25)
    grads = {name: torch.ones_like(value) for name, value in params.items()}
    moved, _ = optimizer.update(params, grads, optimizer.init(params))
    assert calls == [{torch.float32}, {torch.bfloat16}]
    for value in moved.values():
        torch.testing.assert_close(value.float(), torch.full((2, 2), 0.75))
    assert optimizer.update({}, {}, optimizer.init({}))[0] == {}


def test_schedules_by_hand() -> None:
    assert [Constant(4)(k) for k in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    cosine = Cosine(total=110, warmup=10, floor=0.2)
    assert cosine(9) == cosine(10) == 1.0
    assert cosine(60) == pytest.approx(0.6)
    assert cosine(110) == cosine(500) == pytest.approx(0.2)
    plateau = WarmupStableDecay(total=100, warmup=10, decay=20)
    assert (plateau(0), plateau(9), plateau(50), plateau(80)) == (0.1, 1.0, 1.0, 1.0)
    assert (plateau(90), plateau(100), plateau(101)) == (0.5, 0.0, 0.0)
    assert WarmupStableDecay(total=50)(49) == 1.0
    for build in (
        lambda: Cosine(10, 10),
        lambda: Cosine(10, floor=1.5),
        lambda: WarmupStableDecay(10, 5, 6),
        lambda: Constant(-1),
    ):
        with pytest.raises(InputError, match="of the rate schedule"):
            build()


def test_schedules_by_name() -> None:
    """Reptile's authors take ε (1 − k / n) at step k of n; the others are the classes of the test above."""
    linear = named_schedule("linear", 10)
    assert [linear(k) for k in (0, 1, 5, 9, 10)] == pytest.approx([1.0, 0.9, 0.5, 0.1, 0.0])
    slow = named_schedule("linear", 10, warmup=2, floor=0.5)
    assert [slow(k) for k in (0, 1, 2, 6, 10)] == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5])
    assert named_schedule("constant", 10, warmup=4) == Constant(4)
    assert named_schedule("cosine", 10, warmup=4, floor=0.2) == Cosine(10, 4, 0.2)
    assert named_schedule("wsd", 20, warmup=10, decay_share=0.4) == WarmupStableDecay(20, 10, 4)
    with pytest.raises(InputError, match="warmup of the rate schedule must be at least 0 and below the total of 5"):
        named_schedule("constant", 5, warmup=5)


def test_training_flops_in_both_conventions() -> None:
    model = Transformer(50, 32, 2, 2, 16, feed_forward="gelu", norm="layer", tied=False)
    n_passes, tokens = 100, 1600.0
    found = training_flops(model.flops(16), n_passes, model.n_non_embedding(), tokens)
    assert found.exact == 3 * n_passes * sum(model.flops(16).values())
    assert found.total("6ND") == 6 * model.n_non_embedding() * tokens
    assert sum(found.shares().values()) == pytest.approx(1)
    without = found.exact - found.components["readout"] - found.components["attention_pairs"]
    norms = 2 * (4 * 32) + 2 * 32
    assert without == found.six_nd - 6 * norms * tokens, "the conventions differ by pairs, readout and gains alone"
    batch = Batch({"input_ids": torch.zeros(1, 16, dtype=torch.long)}, torch.zeros(1, 16, dtype=torch.long))
    leaves = require_grad(model.init(0))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        counted = count_flops(lambda: torch.autograd.grad(model.objective(leaves, batch)[0], list(leaves.values())))
    pairs = 3 * 2 * 2 * 2 * 32 * 16 * 16
    assert counted == 3 * (sum(model.flops(16).values()) - model.flops(16)["attention_pairs"]) + pairs


def test_an_encoder_layer_in_eval_mode_is_counted() -> None:
    """torch 2.13's own counter gives 0 without gradients: findings/torch_flop_counter_zero.sh."""
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.zeros(1, 3, 8)
    with torch.no_grad():
        counted = count_flops(lambda: layer(x))
    assert counted == count_flops(lambda: layer(x)) > 0
    assert torch.backends.mha.get_fastpath_enabled()
