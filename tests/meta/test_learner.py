"""Learner, execution and evaluator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from metascale.core.errors import Diverged, InputError
from metascale.core.trees import stack_tasks, to
from metascale.core.types import Batch, Episode, Params, Split
from metascale.meta.evaluate import adapted_predictor, evaluate, score
from metascale.meta.gradients import FOMAML, MAML, Reptile
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.meta.training import MetaTraining
from metascale.models.convnet import ConvNet
from metascale.models.network import squared_error_per_task
from metascale.models.perceptron import Perceptron
from metascale.parallel.execution import Execution
from metascale.testing.subjects import QuadraticModel, SmoothClassifier
from metascale.training.optimizers import LAMB, SGD, Adam, InPlaceAdamW, Lion, Muon, Optimizer
from metascale.training.schedules import named_schedule
from tests.meta.episodes import class_episode, quadratic_episode

MODEL = Perceptron(n_inputs=5, n_outputs=3, width=7, depth=1)


class FixedSource:
    """Serves slices of one episode."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode

    def episodes(self, split: Split, indices: range) -> Episode:
        return self.episode.tasks(indices[0], indices[-1] + 1)

    def n_tasks(self, split: Split) -> int | None:
        return self.episode.n_tasks

    def describe(self) -> dict:
        return {}


def test_reptile_with_outer_sgd_averages_then_interpolates() -> None:
    """Option A of the source: θ + ε · mean(φ_i − θ), with every φ_i adapted on its own."""
    inner, episode = InnerLoop(SGD(0.2), steps=3), class_episode(4, (5,))
    learner = MetaLearner(Reptile(inner), outer=SGD(0.1))
    state = learner.init(MODEL, 0)
    state = type(state)(0, to(state.params, dtype=torch.float64), state.optimizer)
    after, _ = learner.step(MODEL, state, episode)
    adapted = [learner.adapt(MODEL, state.params, episode.support.tasks(i, i + 1)) for i in range(4)]
    for name, value in state.params.items():
        mean = torch.stack([phi[name][0] for phi in adapted]).mean(0)
        torch.testing.assert_close(after.params[name], value + 0.1 * (mean - value), rtol=1e-12, atol=1e-14)


def test_the_outer_rate_follows_its_schedule() -> None:
    """Without inner steps the meta-gradient is θ − c, so an outer step of rate ε f(k) leaves (1 − ε f(k)) (θ − c)."""
    model, episode = QuadraticModel(3), quadratic_episode(1, 3)
    learner = MetaLearner(FOMAML(InnerLoop(SGD(0.1), 0)), SGD(0.4), rate=named_schedule("linear", 4))
    start = state = learner.init(model, 0)
    for _ in range(4):
        state, _ = learner.step(model, state, episode)
    centre = episode.query.targets[0, 0]
    left = (1 - 0.4) * (1 - 0.3) * (1 - 0.2) * (1 - 0.1)
    expected = centre + left * (start.params["theta"] - centre)
    torch.testing.assert_close(state.params["theta"], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", [Reptile, FOMAML, MAML])
def test_threads_change_no_bit(kind: type) -> None:
    model = ConvNet(3, image_size=8, width=4, depth=2)
    episode = class_episode(5, (1, 8, 8)).to(dtype=torch.float32)
    results = []
    for threads in (1, 2, 4):
        learner = MetaLearner(kind(InnerLoop(SGD(0.1), 2)), execution=Execution(chunk=2, workers=threads))
        # One intra-op thread everywhere: only then may bits be compared.
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            after, _ = learner.step(model, learner.init(model, 0), episode)
        finally:
            torch.set_num_threads(before)
        results.append(after.params)
    for other in results[1:]:
        assert all(torch.equal(other[name], value) for name, value in results[0].items())


@pytest.mark.parametrize("kind", [Reptile, FOMAML, MAML])
def test_chunks_and_micro_batches_change_no_dropout_mask(kind: type) -> None:
    model = SmoothClassifier()
    episode = model.episode(5)
    learner = MetaLearner(kind(InnerLoop(SGD(0.1), 2)))
    cut = MetaLearner(kind(InnerLoop(SGD(0.1), 2, micro_batch=4)), execution=Execution(chunk=2))
    state = learner.init(model, 0)
    expected, _ = learner.step(model, state, episode)
    found, _ = cut.step(model, state, episode)
    without, _ = learner.step(replace(model, dropout_rate=1e-9), state, episode)
    for name, value in expected.params.items():
        torch.testing.assert_close(found.params[name], value, rtol=1e-12, atol=1e-14)
        assert not torch.allclose(without.params[name], value, rtol=1e-3)


def test_how_a_meta_batch_runs_best() -> None:
    stacked, spread = MODEL, ConvNet(3, image_size=8, width=4, depth=2)
    assert Execution.best_for(stacked, "cpu", 4, 32) == Execution()
    assert Execution.best_for(spread, "cpu", 4, 32) == Execution(chunk=4, workers=4, in_processes=True)
    assert Execution.best_for(spread, "cpu", 4, 4) == Execution(chunk=1, workers=4, in_processes=True)
    assert Execution.best_for(spread, "cpu", 4, 3) == Execution()  # not enough for all
    assert Execution.best_for(spread, "cpu", 1, 32) == Execution()
    assert Execution.best_for(spread, "cpu", 4) == Execution()
    assert Execution.best_for(spread, "cuda", 4, 32) == Execution()


def test_uneven_chunks_are_weighted_by_their_tasks() -> None:
    model, episode = QuadraticModel(3), quadratic_episode(5, 3)
    whole = MetaLearner(FOMAML(InnerLoop(SGD(0.3), 2)))
    chunked = MetaLearner(FOMAML(InnerLoop(SGD(0.3), 2)), execution=Execution(chunk=2))
    expected, _ = whole.step(model, whole.init(model, 0), episode)
    found, report = chunked.step(model, chunked.init(model, 0), episode)
    torch.testing.assert_close(found.params["theta"], expected.params["theta"], rtol=1e-13, atol=1e-14)
    assert report.task_ids == episode.task_ids


def test_diverging_step_names_step_and_tasks() -> None:
    model, episode = QuadraticModel(2), quadratic_episode(2, 2)
    learner = MetaLearner(FOMAML(InnerLoop(SGD(1e200), 3)))
    with pytest.raises(Diverged, match="task0, task1 is not finite at outer step 0"):
        learner.step(model, learner.init(model, 0), episode)


def test_adapt_is_what_training_does() -> None:
    inner, episode = InnerLoop(Adam(0.1), steps=3), class_episode(2, (5,))
    learner = MetaLearner(FOMAML(inner))
    params = to(MODEL.init(0), dtype=torch.float64)
    *_, last = inner.iterate(MODEL, stack_tasks(params, 2), episode.support)
    adapted = learner.adapt(MODEL, params, episode.support)
    assert all(torch.equal(adapted[name], value) for name, value in last.params.items())


def test_evaluation_curve_equals_separate_adaptations_and_any_batching() -> None:
    inner, episode = InnerLoop(SGD(0.3), steps=2), class_episode(7, (5,))
    params = to(MODEL.init(0), dtype=torch.float64)
    predictor = adapted_predictor(MODEL, inner, params, [0, 1, 5])
    result = evaluate(predictor, FixedSource(episode), "test", 7, batch=3)
    other = evaluate(predictor, FixedSource(episode), "test", 7, batch=7, execution=Execution(chunk=2, workers=2))
    np.testing.assert_allclose(result.loss_nats, other.loss_nats, rtol=1e-5)
    for steps in (0, 1, 5):
        adapted = MetaLearner(FOMAML(inner)).adapt(MODEL, params, episode.support, steps)
        losses = MODEL.losses(adapted, episode.query)
        np.testing.assert_allclose(result.loss_nats[:, result.inner_steps.index(steps)], losses.numpy(), rtol=1e-5)
    row = result.at(5)
    assert row["loss_nats"] == pytest.approx(result.loss_nats[:, 2].mean())
    assert row["loss_sem_nats"] == pytest.approx(result.loss_nats[:, 2].std(ddof=1) / np.sqrt(7))
    assert [entry["inner_steps"] for entry in result.curve()] == [0, 1, 5]


def test_score_by_hand() -> None:
    logits = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    losses, accuracy = score(logits, torch.tensor([[1, 0]]))
    expected = (np.log(2) + np.log1p(np.exp(-2))) / 2
    assert float(losses) == pytest.approx(expected, rel=1e-6)
    assert float(accuracy) == pytest.approx(0.5)
    squared, none = score(torch.zeros(1, 2, 1), torch.tensor([[[1.0], [3.0]]]))
    assert float(squared) == 5.0
    assert torch.isnan(none).all()


def test_evaluating_more_tasks_than_there_are_is_refused() -> None:
    source = FixedSource(class_episode(2, (5,)))
    predictor = adapted_predictor(MODEL, InnerLoop(), MODEL.init(0), [0])
    with pytest.raises(InputError, match="has 2 tasks; 3 were requested"):
        evaluate(predictor, source, "test", 3)


def test_batches_join_with_padding() -> None:
    first = Batch({"input_ids": torch.ones(1, 2, 3, dtype=torch.long)}, torch.zeros(1, 2, dtype=torch.long))
    second = Batch({"input_ids": torch.ones(1, 1, 5, dtype=torch.long)}, torch.ones(1, 1, dtype=torch.long))
    joined = first.concat(second)
    assert joined.inputs["input_ids"].shape == (1, 3, 5)
    assert joined.inputs["input_ids"].sum() == 11
    assert joined.targets.tolist() == [[0, 0, 1]]


@pytest.mark.parametrize("optimizer", [LAMB(0.1), Muon(0.1), Lion(0.1, softness=0.5)], ids=repr)
def test_an_inner_optimiser_that_mixes_tasks_is_refused(optimizer: Optimizer) -> None:
    with pytest.raises(InputError, match="mixes the numbers of a tensor, which in an inner loop holds all tasks"):
        InnerLoop(optimizer)


def test_an_optimiser_that_overwrites_and_a_clip_that_ascends_are_refused() -> None:
    with pytest.raises(InputError, match="InPlaceAdamW overwrites parameters and state, which an inner loop needs"):
        InnerLoop(InPlaceAdamW(0.1))
    with pytest.raises(InputError, match="InPlaceAdamW overwrites parameters and state, which an outer loop needs"):
        MetaLearner(FOMAML(), InPlaceAdamW(0.1))
    with pytest.raises(InputError, match="clip of the inner loop must be positive, not -1"):
        InnerLoop(clip=-1)
    with pytest.raises(InputError, match="clip of the learner must be positive, not 0"):
        MetaLearner(FOMAML(), clip=0)
    with pytest.raises(InputError, match="Reptile has no gradient for inner rates"):
        Reptile(InnerLoop(learn_rates=True))


class OnlyMatrices(Perceptron):
    """Without biases, so Muon's slots for what is no matrix are empty."""

    def init(self, seed: int) -> Params:
        return {name: value for name, value in super().init(seed).items() if value.ndim == 2}


def test_an_optimiser_with_empty_slots_is_restored_whole() -> None:
    learner = MetaLearner(FOMAML(), Muon(0.1))
    process = MetaTraining(OnlyMatrices(5, 3), learner, FixedSource(class_episode(4, (5,))))
    state = process.init()
    assert not state.optimizer["m"]
    again = process.unpack(process.pack(state), 0)
    assert again.optimizer.keys() == state.optimizer.keys()
    assert list(again.optimizer["velocity"]) == list(state.params)


def test_real_targets_of_another_shape_are_refused() -> None:
    predictions, targets = torch.zeros(2, 5, 1), torch.zeros(2, 5)
    for compare in (score, squared_error_per_task):
        with pytest.raises(InputError, match=r"shaped like the predictions, \[2, 5, 1\], not \[2, 5\]"):
            compare(predictions, targets)
