"""Supervised trainings side by side: what each computes alone, to the bit, whatever happens to the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metascale.core.errors import Diverged
from metascale.models.perceptron import Perceptron
from metascale.parallel.stacked import run_together
from metascale.parallel.trainings import MULTIPLE, JoinedTraining, _batches, _Step
from metascale.recipes import shapes
from metascale.tasks.supervised.images import small_digits
from metascale.training.optimizers import SGD, InPlaceAdamW
from metascale.training.state import TrainState


def training(seed: int = 0, n_batch: int = 32, width: int = 6, **fields: Any) -> JoinedTraining:
    """A perceptron whose layers have 18 and 12 weights: no multiple of 32 bytes."""
    dropout, data = fields.pop("dropout", 0.1), small_digits(n_train=200, n_batch=n_batch, seed=seed)
    model = Perceptron(64, 10, width, ratio=0.5, dropout=dropout, task_axis=False)
    rate, decay = fields.pop("lr", 1e-2), fields.pop("weight_decay", 1e-2)
    own = {"optimizer": InPlaceAdamW(rate, weight_decay=decay), "seed": seed, "measure": "accuracy", **fields}
    return JoinedTraining(model, data, **own)


def steps(process: JoinedTraining, count: int, start: int = 0) -> tuple[TrainState, list[Any]]:
    """A state after ``count`` steps from the initial one, the first of them number ``start``, and the rows."""
    state, rows = process.init(), []
    for k in range(start, start + count):
        state, row = process.step(state, k)
        rows.append(row)
    return state, rows


def beside(runs: Sequence[Any], seen: list[int], monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """What ``runs`` return (or raise) when they run together; ``seen``: perceptrons in every joined call."""
    found: dict[int, Any] = {}
    joined = Perceptron.losses_of_each

    def watched(self: Perceptron, models: Sequence[Perceptron], *rest: Any) -> torch.Tensor:
        found = joined(self, models, *rest)
        seen.append(len(models))  # not of a call that fails, after which each would run alone
        return found

    def run(place: int) -> None:
        try:
            found[place] = runs[place]()
        except Diverged as error:
            found[place] = error

    monkeypatch.setattr(Perceptron, "losses_of_each", watched)
    run_together([lambda place=place: run(place) for place in range(len(runs))])
    return found


def same(one: tuple[TrainState, list[Any]], other: tuple[TrainState, list[Any]]) -> bool:
    left, right = one[0].pack(), other[0].pack()
    return one[1] == other[1] and all(torch.equal(left[name], right[name]) for name in left)


def test_joined_steps_are_those_of_each_alone_to_the_bit(monkeypatch):
    """Rates, decays, dropout, clipping, seeds and step numbers of their own; a state carried on in place."""
    makes = [
        lambda: steps(training(lr=1e-3), 30),
        lambda: steps(training(lr=0.1, weight_decay=0.5, dropout=0.0, clip_norm=0.5), 30),
        lambda: steps(training(1, dropout=0.4), 30),
        lambda: steps(training(1, clip_norm=None, optimizer=SGD(0.1, momentum=0.9)), 30, start=7),
        lambda: steps(training(2), 10),
    ]
    seen: list[int] = []
    found = beside(makes, seen, monkeypatch)
    assert seen == [5] * 10 + [4] * 20
    assert all(same(found[place], make()) for place, make in enumerate(makes))


@pytest.mark.parametrize("parameterisation", ["standard", "mup"])
def test_a_net_of_shapes_joins_in_either_parameterisation(parameterisation, monkeypatch):
    def make(rate: float) -> JoinedTraining:
        settings = shapes.ShapesConfig(lr=rate, n_train=64, parameterisation=parameterisation)
        return shapes.training(settings, shapes.images(settings, 0), 0, "cpu")

    seen: list[int] = []
    found = beside([lambda rate=rate: steps(make(rate), 5) for rate in (1e-3, 1e-2)], seen, monkeypatch)
    assert seen == [2] * 5
    assert all(same(found[place], steps(make(rate), 5)) for place, rate in enumerate((1e-3, 1e-2)))


def test_one_that_diverges_ends_with_its_own_words_and_leaves_the_others_as_they_were(monkeypatch):
    makes = [
        lambda: steps(training(lr=1e-3), 40),
        lambda: steps(training(lr=1e6, weight_decay=0.9), 40),
        lambda: steps(training(1), 40),
    ]
    seen: list[int] = []
    found = beside(makes, seen, monkeypatch)
    with pytest.raises(Diverged) as alone:
        makes[1]()
    assert str(found[1]) == str(alone.value)
    assert found[1].step == alone.value.step > 1
    assert seen == [3] * (alone.value.step + 1) + [2] * (39 - alone.value.step)
    assert all(same(found[place], makes[place]()) for place in (0, 2))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"n_batch": MULTIPLE}, {"n_batch": 2 * MULTIPLE}),
        ({"width": 6}, {"width": 8}),
        ({"n_batch": 24}, {"n_batch": 24}),  # no multiple of 16
        ({"autocast": True}, {"autocast": True}),
    ],
)
def test_what_differs_in_more_than_tensors_is_not_joined(one, other, monkeypatch):
    seen: list[int] = []
    found = beside([lambda fields=fields: steps(training(**fields), 2) for fields in (one, other)], seen, monkeypatch)
    assert seen == []
    assert same(found[0], steps(training(**one), 2))


def test_a_plan_and_a_process_agree_on_which_batches_are_joined():
    assert shapes.STACKED_BATCH == MULTIPLE
    settings = shapes.ShapesConfig()
    assert settings.stack_kind() == replace(settings, lr=0.1, dropout=0.5, patience=None).stack_kind() is not None
    assert replace(settings, batch_size=40).stack_kind() is None
    assert replace(settings, architecture="convnet").stack_kind() is None


def test_what_trainings_have_in_common_is_their_model_and_batch_size():
    assert training().kind == training(3, lr=0.5).kind == (training().model.kind, 32)
    assert training(n_batch=16).kind == (training().model.kind, 16)
    for alone in (training(n_batch=24), training(n_batch=8), training(autocast=True), training(device="meta")):
        assert alone.kind is None


def test_a_model_that_joins_none_and_examples_without_a_batch_size_run_by_themselves():
    """Not even with another of their sort: what has no kind is of no kind."""
    apart = training(width=8)
    assert replace(apart, model=SimpleNamespace()).kind is None
    assert replace(apart, model=SimpleNamespace(kind=None)).kind is None
    assert replace(apart, examples=SimpleNamespace()).kind is None
    assert replace(apart, examples=SimpleNamespace(n_batch=0)).kind is None
    assert replace(apart, model=SimpleNamespace(kind="k"), examples=SimpleNamespace(n_batch=48)).kind == ("k", 48)


def test_steps_of_one_number_on_the_same_examples_share_a_batch_and_no_others_do():
    class Counted:
        def __init__(self) -> None:
            self.asked: list[int] = []

        def batch(self, k: int) -> list[Any]:
            self.asked.append(k)
            return [self, k]

    one, other = Counted(), Counted()
    steps = [(one, 3), (one, 4), (other, 3), (one, 3)]
    found = _batches([_Step(SimpleNamespace(examples=examples), None, k) for examples, k in steps])
    assert found == [[one, 3], [one, 4], [other, 3], [one, 3]]
    assert found[0] is found[3]
    assert (one.asked, other.asked) == ([3, 4], [3])
