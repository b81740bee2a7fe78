"""Baselines: against independent solutions, tuned on validation only, controls at chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metascale.core.errors import InputError
from metascale.core.types import Batch, Episode, Split
from metascale.meta.baselines import (
    Arena,
    _LinearProbe,
    _logistic_regression,
    _Prototypes,
    choose_adaptation,
    class_prior,
    edges,
    fine_tuning,
    linear_probe,
    prototypes,
    zero_shot,
)
from metascale.meta.evaluate import adapted_predictor
from metascale.meta.inner import InnerLoop
from metascale.models.perceptron import Perceptron
from metascale.tasks.digits import digits_tasks
from metascale.training.optimizers import SGD

MODEL = Perceptron(n_inputs=64, n_outputs=5, width=16, depth=1)


class Watched:
    """A task source that notes which splits were asked for."""

    def __init__(self) -> None:
        self.source = digits_tasks(k_shot=2, n_query=5, n_train_tasks=20, n_validation_tasks=12, n_test_tasks=12)
        self.asked: list[Split] = []

    def episodes(self, split: Split, indices: Sequence[int]) -> Episode:
        self.asked.append(split)
        return self.source.episodes(split, indices)

    def n_tasks(self, split: Split) -> int | None:
        return self.source.n_tasks(split)

    def describe(self) -> dict:
        return self.source.describe()


@pytest.fixture
def arena() -> Arena:
    return Arena(Watched(), n_validation=12, n_test=12, batch=6)


def test_logistic_regression_reaches_a_zero_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(2, 10, 4, generator=generator, dtype=torch.float64), dim=-1)
    targets = torch.arange(10).remainder(3).expand(2, 10)
    weight = _logistic_regression(features, targets, int(targets.max()) + 1, ridge=0.05, steps=400).requires_grad_(True)
    inputs = F.pad(features, (0, 1), value=1.0)
    losses = F.cross_entropy((inputs @ weight).flatten(0, 1), targets.flatten(), reduction="sum") / 10
    (gradient,) = torch.autograd.grad(losses + 0.025 * weight.square().sum(), [weight])
    assert float(gradient.abs().max()) < 1e-9


def test_prototypes_are_the_nearest_class_mean(arena: Arena) -> None:
    params = MODEL.init(0)
    found = prototypes(MODEL, params, arena)
    episode = arena.source.episodes("test", range(12))
    stacked = {name: value.expand(12, *value.shape) for name, value in params.items()}
    support = F.normalize(MODEL.features(stacked, episode.support), dim=-1)
    query = F.normalize(MODEL.features(stacked, episode.query), dim=-1)
    for task in range(12):
        means = torch.stack([support[task][episode.support.targets[task] == c].mean(0) for c in range(5)])
        nearest = torch.cdist(query[task], means).argmin(1)
        expected = (nearest == episode.query.targets[task]).double().mean()
        assert found.test.accuracy[task, 0] == pytest.approx(float(expected), abs=1e-6)
    assert found.choice["scale"] in (1, 3, 10, 30, 100)


@pytest.mark.parametrize("name", ["prototypes", "linear_probe", "fine_tuning"])
def test_tuning_looks_at_validation_and_then_once_at_test(arena: Arena, name: str) -> None:
    params = MODEL.init(0)
    if name == "fine_tuning":
        result = fine_tuning(MODEL, params, arena, InnerLoop(), SGD, rates=(0.01, 0.5), steps=(0, 5, 20))
    else:
        result = {"prototypes": prototypes, "linear_probe": linear_probe}[name](MODEL, params, arena)
    asked = arena.source.asked  # type: ignore[attr-defined]
    assert asked.count("test") == 2, "12 test tasks in two batches, once"
    assert asked.index("test") == len(asked) - 2, "tuning ends before the test tasks are touched"
    losses = [row["validation_loss_nats"] for row in result.table]
    best = result.table[int(np.argmin(losses))]
    assert all(best[key] == value for key, value in result.choice.items())


def test_fine_tuning_skips_diverged_rates_and_says_so_when_all_do(arena: Arena) -> None:
    params = MODEL.init(0)
    result = fine_tuning(MODEL, params, arena, InnerLoop(), SGD, rates=(1e30, 0.5), steps=(5,))
    assert result.choice["inner_lr"] == 0.5
    assert result.table[0]["validation_loss_nats"] is None
    with pytest.raises(InputError, match=r"every candidate diverged .* below \[1e\+30\]"):
        fine_tuning(MODEL, params, arena, InnerLoop(), SGD, rates=(1e30,), steps=(5,))


def test_a_rate_that_diverges_late_stands_for_the_steps_before(arena: Arena) -> None:
    """Plain SGD at rate 1e30 overflows within 30 steps, but not at the start."""
    chosen = choose_adaptation(MODEL, MODEL.init(0), arena, InnerLoop(), SGD, rates=(1e30, 0.1), steps=(0, 30))
    losses = {(row["inner_lr"], row["inner_steps"]): row["validation_loss_nats"] for row in chosen.table}
    assert losses[1e30, 30] is None
    assert losses[1e30, 0] == losses[0.1, 0]
    assert (chosen.choice, chosen.inner.steps) == ({"inner_lr": 0.1, "inner_steps": 30}, 30)


def test_a_choice_is_the_minimum_of_one_evaluation_a_candidate(arena: Arena) -> None:
    """One adaptation to the most steps gives what an adaptation to each number of steps gives."""
    params, rates, steps = MODEL.init(0), (0.03, 0.3), (0, 2, 7)
    chosen = choose_adaptation(MODEL, params, arena, InnerLoop(), SGD, rates, steps)
    alone = {}
    for rate in rates:
        for k in steps:
            inner = InnerLoop(SGD(rate), steps=k)
            alone[rate, k] = arena.run(adapted_predictor(MODEL, inner, params, [k]), "validation").at(k)["loss_nats"]
    found = {(row["inner_lr"], row["inner_steps"]): row["validation_loss_nats"] for row in chosen.table}
    assert found == pytest.approx(alone, rel=1e-6)
    best = min(alone, key=lambda place: alone[place])
    assert (chosen.choice["inner_lr"], chosen.choice["inner_steps"]) == best
    assert (chosen.inner.optimizer, chosen.inner.steps) == (SGD(best[0]), best[1])
    assert "test" not in arena.source.asked  # type: ignore[attr-defined]


def test_learnt_rates_are_kept_and_the_steps_alone_chosen(arena: Arena) -> None:
    inner = InnerLoop(SGD(0.2), learn_rates=True)
    theta = inner.init(MODEL.init(0))
    chosen = choose_adaptation(MODEL, theta, arena, inner, SGD, rates=(0.01, 0.1), steps=(0, 5, 20))
    assert chosen.inner.optimizer == SGD(0.2)
    assert chosen.inner.learn_rates
    assert set(chosen.choice) == {"inner_steps"}
    assert [row["inner_steps"] for row in chosen.table] == [0, 5, 20]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"inner_lr": 0.1, "inner_steps": 5}, ()),
        ({"inner_lr": 1.0, "inner_steps": 5}, ("largest inner_lr",)),
        ({"inner_lr": 0.01, "inner_steps": 100}, ("smallest inner_lr", "largest inner_steps")),
        ({"inner_lr": 0.01, "inner_steps": 0}, ()),  # nothing lies below no steps, where the rate has no meaning
    ],
)
def test_choices_at_an_end_of_their_range_are_named(choice: dict[str, float], expected: tuple[str, ...]) -> None:
    table = tuple({"inner_lr": rate, "inner_steps": k} for rate in (0.01, 0.1, 1.0) for k in (0, 5, 100))
    assert edges(choice, table) == expected
    alone = ({"inner_lr": choice["inner_lr"], "inner_steps": choice["inner_steps"]},)
    assert edges(choice, alone) == (), "an only candidate is no choice"


def test_zero_shot_does_not_see_the_support_set(arena: Arena) -> None:
    result = zero_shot(MODEL, MODEL.init(0), arena)
    assert result.test.inner_steps == (0,)
    assert result.test.accuracy.mean() < 0.4


def test_class_prior_scores_chance_with_permuted_labels_and_shows_the_sorted_leak() -> None:
    clean = digits_tasks(n_query=5, n_train_tasks=50, n_test_tasks=50)
    arena = Arena(clean, n_validation=5, n_test=50)
    result = class_prior(clean, arena)
    assert result.test.accuracy.mean() == pytest.approx(0.2, abs=1e-12), "unseen classes: exactly chance"
    assert result.test.loss_nats.mean() == pytest.approx(np.log(5))

    class TestOnTrain:
        """Shared classes: the control meets the classes it counted."""

        def __init__(self, labels: str) -> None:
            self.source = digits_tasks(n_query=5, n_train_tasks=None, labels=labels)

        def plan(self, split: Split, indices: Sequence[int]) -> object:
            offset = 0 if split == "train" else 10_000
            return self.source.plan("train", [offset + index for index in indices])

    permuted = class_prior(TestOnTrain("permuted"), Arena(clean, 5, 400), n_train_episodes=2000)
    assert permuted.test.accuracy.mean() == pytest.approx(0.2, abs=0.04)
    leaked = class_prior(TestOnTrain("sorted"), Arena(clean, 5, 400), n_train_episodes=2000)
    assert 0.42 < leaked.test.accuracy.mean() < 0.6


def test_a_support_set_without_a_class_is_said_by_prototypes_and_no_matter_to_the_probe() -> None:
    inputs = {"x": torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(0))}
    support = Batch(inputs, torch.tensor([[0, 0, 1, 1]]))
    episode = Episode(("t",), support, Batch(inputs, torch.tensor([[0, 1, 2, 2]])))
    params = MODEL.init(0)
    with pytest.raises(InputError, match="prototypes need an example of every class"):
        _Prototypes(MODEL, params, 1.0)(episode)
    assert _LinearProbe(MODEL, params, 0.1, 5)(episode)[0].shape == (1, 4, 3)
