"""Pools, leaks, refusals and pairing of few-shot classification tasks."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pickle
from collections import Counter

import numpy as np
import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.types import TaskSource
from metascale.tasks import fewshot
from metascale.tasks.fewshot import ClassSplit, ClassTable, FewShotTasks, combinations_in_random_order, split_sizes
from tests.tasks.sources import identity, toy_table, toy_tasks


def class_of(examples: torch.Tensor) -> np.ndarray:
    """The toy table's class of each example."""
    return (examples.numpy()[..., 0] // 1000).astype(int)


def accuracy_of_knowing_the_class(source: FewShotTasks, n_visits: int = 3000) -> float:
    """A classifier that sees class identities alone: it says the label that the class had most often so far.

    Its hits are counted at training visits, one guess for each class of a visit.
    """
    seen: dict[int, Counter[int]] = {}
    hits = []
    plan = source.plan("train", range(n_visits))
    for combination, labels in zip(plan.combinations, plan.label_of_class, strict=True):
        for index, label in zip(combination, labels.tolist(), strict=True):
            counts = seen.setdefault(index, Counter())
            if counts:
                hits.append(counts.most_common(1)[0][0] == label)
            counts[label] += 1
    return float(np.mean(hits))


def five_way(labels: str) -> FewShotTasks:
    table = toy_table(n_classes=40, n_examples=4)
    split = ClassSplit(tuple(range(30)), tuple(range(30, 35)), tuple(range(35, 40)))
    return FewShotTasks(table, split, 5, 1, 1, None, 4, 4, labels=labels)  # type: ignore[arg-type]


def test_permuted_labels_tell_nothing_and_sorted_labels_leak_half() -> None:
    # 15,000 guesses; those of one episode are dependent, so allow 5 standard errors of 3,000.
    assert accuracy_of_knowing_the_class(five_way("permuted")) == pytest.approx(0.2, abs=5 * 0.4 / 3000**0.5)
    assert 0.45 < accuracy_of_knowing_the_class(five_way("sorted")) < 0.6


def test_labels_agree_with_classes_in_both_sets() -> None:
    source = toy_tasks()
    for split in ("train", "validation", "test"):
        plan = source.plan(split, range(4))
        episode = source.episodes(split, range(4))
        for batch, k in ((episode.support, source.k_shot), (episode.query, source.n_query)):
            for task, combination in enumerate(plan.combinations):
                found = class_of(batch.inputs["x"][task])
                assert Counter(found.tolist()) == dict.fromkeys(combination, k)
                label_of = dict(zip(combination, plan.label_of_class[task].tolist(), strict=True))
                assert [label_of[index] for index in found.tolist()] == batch.targets[task].tolist()


def test_sorted_labels_are_ranks() -> None:
    plan = toy_tasks(labels="sorted").plan("train", range(20))
    assert (plan.label_of_class == np.arange(3)).all()
    assert all(list(combination) == sorted(combination) for combination in plan.combinations)


def test_examples_are_shuffled_within_each_set() -> None:
    plan = toy_tasks().plan("train", range(40))
    for labels in (plan.support_labels, plan.query_labels):
        in_blocks = [np.count_nonzero(np.diff(row)) == 2 for row in labels]
        assert np.mean(in_blocks) < 0.5


def test_every_example_and_label_order_is_drawn_equally_often() -> None:
    source = toy_tasks(toy_table(n_examples=10), n_train_tasks=1)
    plan = source.plan("train", range(2000))
    counts = np.bincount(plan.support_ids.ravel() % 1000, minlength=10)
    expected = counts.sum() / 10
    assert ((counts - expected) ** 2 / expected).sum() < 33  # chi-square, 9 degrees of freedom, p = 0.0001
    orders = Counter(map(tuple, plan.label_of_class.tolist()))
    assert len(orders) == 6
    assert sum((count - 2000 / 6) ** 2 / (2000 / 6) for count in orders.values()) < 26  # 5 degrees of freedom


def test_splits_use_their_own_classes_only() -> None:
    source = toy_tasks()
    for split in ("train", "validation", "test"):
        used = {index for combination in source.plan(split, range(4)).combinations for index in combination}
        assert used <= set(source.split.of(split))
    with pytest.raises(InputError, match="twice"):
        ClassSplit((0, 1), (1, 2), (3, 4))


def test_pools_are_nested_and_distinct() -> None:
    table = toy_table(n_classes=60, n_examples=6)
    split = ClassSplit(tuple(range(40)), tuple(range(40, 50)), tuple(range(50, 60)))

    def pool(n_tasks: int, seed: int = 0) -> list[list[str]]:
        source = FewShotTasks(table, split, 5, 1, 1, n_tasks, 4, 4, seed=seed)
        return source.describe()["pools"]["train"]

    assert math.comb(40, 5) > 100_000  # drawn one by one; the toy source's 56 combinations are listed
    assert pool(50) == pool(100)[:50]
    assert len({frozenset(task) for task in pool(300)}) == 300
    assert pool(50) != pool(50, seed=1)
    small = toy_tasks(n_train_tasks=20).describe()["pools"]["train"]
    assert small == toy_tasks(n_train_tasks=56).describe()["pools"]["train"][:20]


def test_every_combination_can_be_a_task() -> None:
    everything = toy_tasks(n_train_tasks=56).describe()["pools"]["train"]
    assert len({frozenset(task) for task in everything}) == math.comb(8, 3) == 56


@pytest.mark.parametrize("listed", [0, 100_000])
def test_combinations_come_once_each(listed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fewshot, "_LISTED", listed)
    drawn = list(combinations_in_random_order(6, 3, np.random.default_rng(0)))
    assert sorted(drawn) == list(itertools.combinations(range(6), 3))
    assert drawn != sorted(drawn)


def test_more_tasks_than_combinations_is_refused_with_the_counts() -> None:
    with pytest.raises(
        InputError, match=r"57 distinct training tasks .* 8 training classes have only 56 combinations of 3"
    ):
        toy_tasks(n_train_tasks=57)


def test_too_few_examples_is_refused_with_the_counts() -> None:
    table = toy_table()
    short = dataclasses.replace(table, examples=(table.examples[0][:4], *table.examples[1:]))
    with pytest.raises(
        InputError, match=r"1 of 8 train classes have fewer than 5 examples .*'c00' has 4; .* at most 4"
    ):
        toy_tasks(short)
    toy_tasks(short, n_query=2)


def test_too_few_classes_is_refused_with_the_counts() -> None:
    with pytest.raises(InputError, match="4 classes are needed but the validation split has 3"):
        toy_tasks(n_way=4)
    with pytest.raises(InputError, match="9 classes are needed but the train split has 8"):
        toy_tasks(n_train_classes=9)


def test_training_tasks_may_have_more_classes_than_those_of_evaluation() -> None:
    """5 of 8 classes: 56 combinations. Evaluation tasks and the validation episodes stay as they are."""
    plain, wide = toy_tasks(n_train_tasks=56), toy_tasks(n_train_tasks=56, train_n_way=5)
    assert wide.episodes("train", range(2)).query.targets.shape == (2, 5 * 3)
    assert set(wide.episodes("train", range(2)).support.targets[0].tolist()) == set(range(5))
    assert {len(task) for task in wide.describe()["pools"]["train"]} == {5}
    for split in ("validation", "test"):
        one, other = plain.episodes(split, range(4)), wide.episodes(split, range(4))
        assert torch.equal(one.support.inputs["x"], other.support.inputs["x"])
        assert torch.equal(one.query.targets, other.query.targets)
    assert toy_tasks(n_train_tasks=None, train_n_way=5).episodes("train", [3]).support.targets.shape == (1, 5 * 2)
    with pytest.raises(InputError, match="9 classes are needed but the train split has 8; lower train_n_way"):
        toy_tasks(train_n_way=9)
    with pytest.raises(InputError, match=r"57 distinct training tasks .* 56 combinations of 5"):
        toy_tasks(n_train_tasks=57, train_n_way=5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_way": 1},
        {"k_shot": 0},
        {"n_query": 0},
        {"n_train_tasks": 0},
        {"n_test_tasks": 0},
        {"n_train_classes": 2},
        {"train_n_way": 1},
        {"labels": "random"},
        {"classes": "same"},
        {"classes": "shared"},
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        toy_tasks(**wrong)


@pytest.mark.parametrize(("split", "index"), [("train", -1), ("validation", 4), ("test", 4), ("test", -1)])
def test_indices_outside_the_split_are_refused(split: str, index: int) -> None:
    with pytest.raises(InputError, match=f"no {split} task {index}"):
        toy_tasks().episodes(split, [index])  # type: ignore[arg-type]


def test_evaluation_visits_combinations_evenly() -> None:
    # Three test classes have one combination of three: every test task is it, with other examples.
    source = toy_tasks(n_way=2, n_test_tasks=7)
    plan = source.plan("test", range(7))
    counts = Counter(plan.combinations)
    assert sorted(counts.values()) == [2, 2, 3]
    assert len(set(plan.combinations[:3])) == 3
    assert len(set(plan.task_ids)) == 7
    assert sorted(plan.support_ids[0]) != sorted(plan.support_ids[3])


def test_query_sets_do_not_depend_on_the_number_of_shots() -> None:
    one, four = toy_tasks(k_shot=1), toy_tasks(k_shot=4)
    for split in ("train", "test"):
        first, second = one.episodes(split, range(4)), four.episodes(split, range(4))
        assert torch.equal(first.query.inputs["x"], second.query.inputs["x"])
        assert torch.equal(first.query.targets, second.query.targets)
        for task in range(4):
            assert set(first.support.inputs["x"][task].ravel().tolist()) <= set(
                second.support.inputs["x"][task].ravel().tolist()
            )


def test_endless_training_tasks_do_not_repeat_a_short_list() -> None:
    source = toy_tasks(n_train_tasks=None)
    assert source.n_tasks("train") is None
    assert source.describe()["pools"]["train"] is None
    combinations = set(source.plan("train", range(400)).combinations)
    assert len(combinations) == 56  # all of them; missing one in 400 draws has probability 0.04, the seed is fixed


def test_fewer_training_classes_are_nested() -> None:
    few, more = toy_tasks(n_train_classes=4, n_train_tasks=4), toy_tasks(n_train_classes=6)
    assert set(few.class_indices("train")) < set(more.class_indices("train")) < set(range(8))
    used = {index for combination in few.plan("train", range(20)).combinations for index in combination}
    assert used == set(few.class_indices("train"))
    assert few.class_indices("test") == (11, 12, 13)


def test_shared_classes_keep_their_examples_apart() -> None:
    source = toy_tasks(toy_table(n_examples=30, halves=True), classes="shared")
    for place, split in enumerate(("train", "validation", "test")):
        plan = source.plan(split, range(4))
        ids = np.concatenate([plan.support_ids.ravel(), plan.query_ids.ravel()]) % 1000
        assert ids.min() >= 10 * place
        assert ids.max() < 10 * (place + 1)
    assert source.class_indices("test") == tuple(range(14))


def test_description_names_every_task_and_the_counts() -> None:
    described = toy_tasks().describe()
    assert described["n_tasks"] == {"train": 10, "validation": 4, "test": 4}
    assert described["split"]["test"] == ["c11", "c12", "c13"]
    assert all(set(task) <= set(described["split"]["train"]) for task in described["pools"]["train"])
    assert described["examples_per_class"]["train"] == {"min": 30, "max": 30}


def test_a_source_is_a_task_source_and_can_be_sent_to_a_worker() -> None:
    source = toy_tasks()
    assert isinstance(source, TaskSource)
    copy = pickle.loads(pickle.dumps(source))
    assert torch.equal(copy.episodes("train", [3]).query.inputs["x"], source.episodes("train", [3]).query.inputs["x"])


def test_no_index_gives_an_empty_episode() -> None:
    episode = toy_tasks().episodes("test", [])
    assert episode.n_tasks == 0
    assert episode.query.inputs["x"].shape == (0, 9, 1)


def test_class_splits_keep_groups_together() -> None:
    groups = [str(index // 4) for index in range(40)]
    split = ClassSplit.draw("toy", groups, {"train": 6, "validation": 2, "test": 2}, seed=3)
    assert [len(split.train), len(split.validation), len(split.test)] == [24, 8, 8]
    of = {name: {groups[index] for index in split.of(name)} for name in ("train", "validation", "test")}
    assert not of["train"] & of["validation"]
    assert not of["train"] & of["test"]
    assert not of["validation"] & of["test"]
    assert split == ClassSplit.draw("toy", groups, {"train": 6, "validation": 2, "test": 2}, seed=3)
    assert split != ClassSplit.draw("toy", groups, {"train": 6, "validation": 2, "test": 2}, seed=4)


def test_class_splits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="add up to 10"):
        ClassSplit.draw("toy", [str(index) for index in range(10)], {"train": 6, "validation": 2, "test": 3}, seed=0)
    with pytest.raises(InputError, match="at least 1"):
        ClassSplit.draw("toy", [str(index) for index in range(10)], {"train": 8, "validation": 0, "test": 2}, seed=0)
    assert split_sizes("toy", 77, (0.6, 0.2, 0.2)) == {"train": 47, "validation": 15, "test": 15}
    with pytest.raises(InputError, match="add up to 1"):
        split_sizes("toy", 77, (0.6, 0.2, 0.3))
    with pytest.raises(InputError, match="validation gets none"):
        split_sizes("toy", 4, (0.8, 0.1, 0.1))


def test_class_tables_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(InputError, match="distinct"):
        ClassTable("toy", ("a", "a"), (np.arange(3), np.arange(3)), identity)
    with pytest.raises(InputError, match="2 classes but example ids for 1"):
        ClassTable("toy", ("a", "b"), (np.arange(3),), identity)
