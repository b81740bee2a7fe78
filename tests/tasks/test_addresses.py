"""Where the draws of tasks and data come from: an address that changed would change every recorded result."""

from __future__ import annotations

import numpy as np
import torch

from metascale.tasks.fewshot import ClassSplit
from metascale.tasks.groups import GroupTable, GroupTasks
from metascale.tasks.regression import QuadraticTasks, SinusoidTasks
from metascale.tasks.supervised.images import _order, image_set
from metascale.tasks.supervised.tokens import _epoch
from metascale.tasks.supervised.weak_labels import majority_vote
from metascale.tasks.synthetic_text import SyntheticLanguage
from tests.addresses import addresses
from tests.tasks.sources import toy_tasks


def test_an_invented_language_and_its_best_reader() -> None:
    language = SyntheticLanguage(n_classes=3, n_topics=3, texts_per_class=2, seed=7)
    with addresses() as seen:
        language.rows()
        language.bayes_accuracy(2, n_tasks=2)
    assert set(seen) == {
        (7, "synthetic-words"), (7, "synthetic-classes"), (7, "synthetic-background"),
        *((7, "synthetic-texts", index) for index in range(3)), *((7, "synthetic-bayes", 2, task) for task in (0, 1)),
    }  # fmt: skip


def test_tasks_of_classes() -> None:
    """Of a pool: its order of visits and the episode; without one: the task as well. Evaluation has its own seed."""
    source, endless = toy_tasks(seed=3, eval_seed=4), toy_tasks(seed=3, eval_seed=4, n_train_tasks=None)
    with addresses() as seen:
        source.episodes("train", [5])
        source.episodes("test", [2])
    assert {(3, "train-episode", "toy", 5), (4, "evaluation-episode", "toy", "test", 2)} <= set(seen)
    assert (4, "evaluation-pool", "toy", "test") in seen
    assert any(entry[:2] == (3, "visit-order toy") for entry in seen)
    assert not any(entry[1] == "train-task" for entry in seen)
    with addresses() as seen:
        endless.episodes("train", [5])
    assert {(3, "train-episode", "toy", 5), (3, "train-task", "toy", 5)} <= set(seen)


def test_tasks_of_groups_and_of_formulas() -> None:
    rows = tuple(np.arange(30 * k, 30 * k + 30) for k in range(6))
    table = GroupTable("toy", tuple("abcdef"), rows, torch.zeros(180, 2), torch.zeros(180, 1))
    groups = GroupTasks(table, ClassSplit((0, 1, 2), (3,), (4, 5)), k_shot=2, n_query=2, seed=3, eval_seed=4)
    with addresses() as seen:
        groups.episodes("train", [1])
        groups.episodes("test", [0])
    assert {(3, "group-order", "toy", "train"), (4, "group-order", "toy", "test")} <= set(seen)
    assert {(3, "train-episode", "toy", 1), (4, "evaluation-episode", "toy", "test", 0)} <= set(seen)
    for source, name, task in (
        (SinusoidTasks(seed=3, eval_seed=4), "sinusoid", "sinusoid-task"),
        (QuadraticTasks(noise=0.1, seed=3, eval_seed=4), "quadratic", "quadratic-centre"),
    ):
        with addresses() as seen:
            source.episodes("train", [1])
            source.episodes("test", [0])
        assert {(3, task, "train", 1), (3, f"{name}-episode", "train", 1)} <= set(seen)
        assert {(4, task, "test", 0), (4, f"{name}-episode", "test", 0)} <= set(seen)


def test_supervised_data() -> None:
    with addresses() as seen:
        _epoch.__wrapped__(3, 2, 5, 4)
        _order.__wrapped__(3, 2, 5)
        majority_vote(np.array([[0, 1]]), 2, 3)
        pixels = {split: np.zeros((4, 2, 2), np.uint8) for split in ("train", "validation", "test")}
        labels = {split: np.array([0, 1, 0, 1]) for split in pixels}
        image_set("own", pixels, labels, label_noise=0.5, duplicates=0.5, noise_seed=6, n_batch=2, details={})  # type: ignore[arg-type]
    assert seen == [
        (3, "windows", 2), (3, "examples", 2), (3, "majority-vote"), (6, "copies", "own"), (6, "wrong labels", "own"),
    ]  # fmt: skip
