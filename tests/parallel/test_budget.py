"""A memory budget is kept, refused with numbers, and survived when memory runs out all the same."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.run import MemoryRun
from metascale.core.streams import torch_generator
from metascale.core.types import Batch, Episode, Model, Params
from metascale.core.units import format_bytes, parse_bytes
from metascale.meta.evaluate import predict_in_parts
from metascale.meta.gradients import FOMAML, MAML
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner, StepReport
from metascale.meta.training import MetaTraining
from metascale.models.convnet import ConvNet
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import LearnedHead
from metascale.parallel.budget import StepPlan, _Gauge, fit_to_budget, frozen_weights, plans, profile_step
from metascale.parallel.execution import Execution
from metascale.parallel.out_of_memory import DoesNotFit, MicroBatches, is_out_of_memory, shape_of
from metascale.testing.subjects import SmoothClassifier
from metascale.training.optimizers import SGD, Adam
from metascale.training.state import TrainState
from tests.meta.episodes import class_episode
from tests.models.tiny_backbones import text_batch, tiny

TEXT = Episode(("a", "b"), text_batch(2, 4, 0, length=6), text_batch(2, 8, 1, length=6))
INNER = InnerLoop(SGD(0.1), steps=2)
ONE = MAML(InnerLoop(SGD(0.1), steps=1))


def text_model(**fields: Any) -> AdapterClassifier:
    settings = {"n_classes": 3, "rank": 2, "dropout": 0.0, "head": LearnedHead(), **fields}
    return AdapterClassifier(tiny("bert"), **settings)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("8GiB", 8 * 2**30), ("8 GB", 8 * 10**9), ("1.5mib", 3 * 2**19), ("700", 700), (4096, 4096), (" 2KiB ", 2048)],
)
def test_parse_bytes(text: str | int, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["8G", "lots", "-3GiB", "", "0", 0, -5, "GiB", "1.5", True, "1e9B"])
def test_what_is_no_amount_of_memory(text: str | int) -> None:
    with pytest.raises(InputError, match=r"train\.memory_budget must be"):
        parse_bytes(text, "train.memory_budget")


def test_format_bytes() -> None:
    assert [format_bytes(n) for n in (12, 1536, 3 * 2**29)] == ["12 B", "1.50 KiB", "1.50 GiB"]


def test_what_is_lowered_in_order() -> None:
    """From what was asked for: fewer tasks in a call, fewer threads, checkpointing, smaller micro-batches."""
    learner = MetaLearner(MAML(replace(INNER, micro_batch=4)), execution=Execution(chunk=2, workers=2))
    assert list(plans(learner, text_model(), TEXT)) == [
        StepPlan(2, 2, "none", 4),
        StepPlan(1, 2, "none", 4),
        StepPlan(1, 1, "none", 4),
        StepPlan(1, 1, "adapters", 4),
        StepPlan(1, 1, "all", 4),
        StepPlan(1, 1, "all", 2),
        StepPlan(1, 1, "all", 1),
    ]
    whole = MetaLearner(MAML(INNER))
    assert next(iter(plans(whole, text_model(), TEXT))) == StepPlan(2, 1, "none", 8)


def test_the_budget_is_kept_or_refused_with_numbers() -> None:
    learner, model = MetaLearner(ONE, execution=Execution(chunk=1)), text_model()
    free = fit_to_budget(learner, model, TEXT, 2**33)
    assert free.plan == StepPlan(1, 1, "none", 8)
    tighter = fit_to_budget(learner, model, TEXT, free.peak_bytes - 1)
    assert tighter.plan == StepPlan(1, 1, "adapters", 8)
    assert tighter.model.checkpoint_blocks == "adapters"  # type: ignore[attr-defined]
    assert tighter.peak_bytes < free.peak_bytes
    with pytest.raises(DoesNotFit, match="chunk=1, workers=1, checkpoint_blocks=all, micro_batch=1") as caught:
        fit_to_budget(learner, model, TEXT, frozen_bytes(model))
    assert f"frozen weights alone are {format_bytes(frozen_bytes(model))}" in str(caught.value)


def test_a_wrong_estimate_breaks_no_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every plan is measured before it is made."""
    monkeypatch.setattr(_Gauge, "estimate", lambda self, plan: 0.0)
    learner, model = MetaLearner(ONE, execution=Execution(chunk=2)), text_model()
    free = fit_to_budget(learner, model, TEXT, 2**33)
    fitted = fit_to_budget(learner, model, TEXT, free.peak_bytes - 1)
    assert fitted.plan == StepPlan(1, 1, "none", 8)
    assert fitted.peak_bytes < free.peak_bytes


def test_several_threads_count_several_times() -> None:
    model, state = text_model(), MetaLearner(ONE).init(text_model(), 0)
    one = fit_to_budget(MetaLearner(ONE, execution=Execution(1, 1)), model, TEXT, 2**33).peak_bytes
    three = fit_to_budget(MetaLearner(ONE, execution=Execution(1, 3)), model, TEXT, 2**33).peak_bytes
    shared = frozen_bytes(model) + sum(value.nbytes for value in state.params.values())
    assert three == one + 2 * (one - shared)


def test_a_plan_s_learner_runs_in_its_peak_with_the_same_numbers() -> None:
    learner, model = MetaLearner(ONE, outer=Adam(0.01)), text_model()
    state = learner.init(model, 0)
    whole = profile_step(learner, model, state, TEXT, weights=frozen_weights(model)).peak_bytes
    fitted = fit_to_budget(learner, model, TEXT, frozen_bytes(model) + (whole - frozen_bytes(model)) // 4)
    assert fitted.plan.micro_batch < 8
    assert fitted.peak_bytes <= fitted.budget_bytes
    found = profile_step(fitted.learner, fitted.model, state, TEXT, weights=frozen_weights(model))
    # The meta-gradients of tasks that are done are kept; the plan measured a call of one task.
    kept = 3 * sum(value.nbytes for value in state.params.values())
    assert found.peak_bytes <= fitted.peak_bytes + kept
    expected, _ = learner.step(model, state, TEXT)
    again, _ = fitted.learner.step(fitted.model, state, TEXT)
    for name, value in expected.params.items():
        torch.testing.assert_close(again.params[name], value, rtol=1e-4, atol=1e-6)
    assert fitted.row()["micro_batch"] == fitted.plan.micro_batch
    assert fitted.row()["memory_budget_bytes"] == fitted.budget_bytes


def frozen_bytes(model: AdapterClassifier) -> int:
    return sum(value.nbytes for value in frozen_weights(model))


def test_a_net_with_batch_statistics_keeps_its_batch() -> None:
    learner, model = MetaLearner(FOMAML(InnerLoop(steps=1))), ConvNet(3, image_size=8, width=4, depth=2)
    episode = class_episode(2, (1, 8, 8)).to(dtype=torch.float32)
    whole = fit_to_budget(learner, model, episode, 2**30)
    fitted = fit_to_budget(learner, model, episode, whole.peak_bytes - 1)
    assert (fitted.plan.chunk, fitted.learner.gradient.inner.micro_batch) == (1, None)
    with pytest.raises(DoesNotFit, match="micro_batch=9"):
        fit_to_budget(learner, model, episode, 100)


def test_profile_by_kind() -> None:
    learner, model = MetaLearner(MAML(InnerLoop(Adam(0.01), steps=2)), outer=Adam(0.01)), text_model()
    state = learner.init(model, 0)
    report = profile_step(learner, model, state, TEXT, weights=frozen_weights(model))
    theta = sum(value.nbytes for value in state.params.values())
    assert report.by_kind["weights"] == frozen_bytes(model)
    assert report.by_kind["parameters"] >= theta + 4 * theta  # θ, and four tasks' φ
    assert report.by_kind["optimizer_state"] >= 2 * theta  # the outer optimiser's two slots
    assert min(report.by_kind["activations"], report.by_kind["gradients"]) > theta
    assert report == profile_step(learner, model, state, TEXT, weights=frozen_weights(model))


def test_memory_is_counted_in_one_thread() -> None:
    """Several would not be seen; a profile runs its own, others are refused."""
    learner, model = MetaLearner(FOMAML(INNER), execution=Execution(chunk=1, workers=2)), text_model()
    state = learner.init(model, 0)
    from metascale.training.memory import measure_memory

    with pytest.raises(InputError, match="workers=1"):
        measure_memory(lambda _: learner.step(model, state, TEXT))
    assert profile_step(learner, model, state, TEXT).live_bytes > 0


# --- out of memory -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Small(SmoothClassifier):
    """Runs out of memory, one way or another, with more than ``room`` examples."""

    room: int = 4
    error: Any = torch.OutOfMemoryError

    def features(self, params: Params, batch: Batch) -> torch.Tensor:
        if batch.n_examples > self.room:
            raise self.error("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return super().features(params, batch)


EPISODE = class_episode(2, (4,), support=6, query=9)


Stepped = Callable[[int | None], tuple[TrainState, StepReport]]


def stepped(learner: MetaLearner, model: Model, state: TrainState) -> Stepped:
    return lambda size: learner.with_micro_batch(size).step(model, state, EPISODE)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_the_micro_batch_halves_and_the_numbers_stay(error: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    run, model = MemoryRun(), Small(4, 3, error=error)
    learner = MetaLearner(MAML(INNER))
    state = learner.init(model, 0)
    guard = MicroBatches(run)
    with caplog.at_level(logging.WARNING, "metascale"):
        found, _ = guard.attempt(stepped(learner, model, state), None, EPISODE, 3)
    expected, _ = learner.step(SmoothClassifier(4, 3), state, EPISODE)
    for name, value in expected.params.items():
        torch.testing.assert_close(found.params[name], value, rtol=1e-12, atol=1e-14)
    assert run.measurements == [{"step": 3, "event": "out_of_memory", "shape": [6, 9, 4], "micro_batch": 4}]
    assert run.files["memory.json"] == {"micro_batches": [{"shape": [6, 9, 4], "micro_batch": 4}]}
    assert "micro-batch 9 -> 4 examples" in caplog.text


def test_a_model_without_micro_batches_does_not_fit() -> None:
    def call(micro_batch: int | None) -> None:
        if micro_batch is not None:
            raise InputError("micro_batch=4 would change the loss of a model with batch statistics")
        raise MemoryError("no room")

    with pytest.raises(DoesNotFit, match=r"out of memory at step 3 \(no room\), and no micro-batches: micro_batch=4"):
        MicroBatches().attempt(call, None, EPISODE, 3)
    with pytest.raises(InputError, match="by itself"):
        MicroBatches().attempt(_refuse, None, EPISODE, 3)


def _refuse(_: int | None) -> None:
    raise InputError("refused by itself")


def test_what_was_learnt_is_used_again() -> None:
    """For the same shape and for larger ones; not for a smaller one, which may fit whole."""
    guard = MicroBatches(sizes={(6, 9, 4): 4})
    assert guard.remembered((6, 9, 4)) == 4
    assert guard.remembered((6, 12, 4)) == 4
    assert guard.remembered((6, 9, 3)) is None
    assert guard.remembered((6, 9)) is None
    seen: list[int | None] = []
    guard.attempt(seen.append, None, EPISODE, 0)
    guard.attempt(seen.append, 2, EPISODE, 0)
    assert seen == [4, 2]


def test_a_resumed_run_remembers(tmp_path: Path) -> None:
    class FolderRun(MemoryRun):
        @property
        def folder(self) -> Path:
            return tmp_path

        def write(self, name: str, value: Any) -> None:
            from metascale.core.files import write_json

            write_json(tmp_path / name, value)

    learner, model = MetaLearner(FOMAML(INNER)), Small(4, 3)
    state = learner.init(model, 0)
    MicroBatches(FolderRun()).attempt(stepped(learner, model, state), None, EPISODE, 0)
    again = MicroBatches(FolderRun())
    assert again.sizes == {shape_of(EPISODE): 4}
    assert again.run is not None
    again.attempt(stepped(learner, model, state), None, EPISODE, 1)
    assert not again.run.measurements  # type: ignore[attr-defined]


def test_single_examples_that_do_not_fit() -> None:
    learner, model = MetaLearner(FOMAML(INNER)), Small(4, 3, room=0)
    state = learner.init(model, 0)
    with pytest.raises(DoesNotFit, match=r"step 7 with micro-batches of one example .*\[6, 9, 4\]"):
        MicroBatches().attempt(stepped(learner, model, state), None, EPISODE, 7)


def test_other_errors_pass() -> None:
    def fail(_: int | None) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        MicroBatches().attempt(fail, None, EPISODE, 0)
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_out_of_memory(DoesNotFit("no"))


class Tasks:
    """Fixed episodes of the shape above."""

    def episodes(self, split: str, indices: Any) -> Episode:
        drawn = [class_episode(1, (4,), seed=torch_generator(0, split, i).initial_seed() % 2**31) for i in indices]
        return Episode(
            tuple(f"{split}-{i}" for i in indices),
            *(
                Batch(
                    {"x": torch.cat([getattr(e, part).inputs["x"] for e in drawn])},
                    torch.cat([getattr(e, part).targets for e in drawn]),
                )
                for part in ("support", "query")
            ),
        )

    def n_tasks(self, split: str) -> int:
        return 20

    def describe(self) -> dict[str, Any]:
        return {}


def test_training_and_validation_go_on() -> None:
    """Both halve their micro-batches, and end where a machine with room ends."""

    def rows(model: SmoothClassifier) -> tuple[Params, dict[str, float]]:
        process = MetaTraining(
            model, MetaLearner(MAML(INNER)), Tasks(), meta_batch=2, n_validation=3, micro_batches=MicroBatches(run)
        )
        state = process.init()
        for k in range(3):
            state, _ = process.step(state, k)
        return state.params, dict(process.validate(state))

    run = MemoryRun()
    (expected, score), (found, again) = (
        rows(SmoothClassifier(4, 3)),
        rows(Small(4, 3)),
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14)
    assert again == pytest.approx(score, rel=1e-10)
    assert [row["step"] for row in run.measurements] == [0]


def test_predictions_in_parts() -> None:
    model = SmoothClassifier(4, 3)
    params = {name: value.unsqueeze(0).expand(2, *value.shape) for name, value in model.init(0).items()}
    whole = model.predict(params, EPISODE.query)
    torch.testing.assert_close(predict_in_parts(model, params, EPISODE.query, 4), whole, rtol=1e-12, atol=0)
    assert torch.equal(predict_in_parts(model, params, EPISODE.query, None), whole)
    net = ConvNet(3, image_size=8, width=4, depth=2)
    with pytest.raises(InputError, match="batch statistics"):
        predict_in_parts(net, net.init(0), EPISODE.query, 4)


REAL = """
import resource, torch
from metascale.core.run import MemoryRun
from metascale.meta.gradients import FOMAML
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.parallel.out_of_memory import MicroBatches
from metascale.models.perceptron import Perceptron
from metascale.training.optimizers import SGD
from tests.meta.episodes import class_episode

torch.set_num_threads(1)
model, learner = Perceptron(16, 3, width=512, depth=2), MetaLearner(FOMAML(InnerLoop(SGD(0.01), steps=1)))
episode = class_episode(1, (1, 4, 4), support=64, query=16384).to(dtype=torch.float32)
state = learner.init(model, 0)
learner.step(model, state, class_episode(1, (1, 4, 4)).to(dtype=torch.float32))
expected = float(learner.step(model, state, episode)[1].query_loss)
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 100 * 2**20, -1))
run = MemoryRun()
step = lambda size: learner.with_micro_batch(size).step(model, state, episode)
_, report = MicroBatches(run).attempt(step, None, episode, 0)
assert abs(float(report.query_loss) - expected) < 1e-4, (float(report.query_loss), expected)
print([row["micro_batch"] for row in run.measurements])
"""


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a process's memory is limited as Linux does it")
def test_memory_that_really_runs_out() -> None:
    """A process that may have only 100 MiB more: its allocator fails, and the step is finished in parts."""
    done = subprocess.run(
        [sys.executable, "-c", REAL], capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("[8192")
