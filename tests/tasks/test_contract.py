"""Every shipped source keeps the contract, and the contract catches sources that break it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metascale.core.types import Episode, Split
from metascale.tasks import datasets
from metascale.testing.task_contract import check_task_source
from tests.tasks.sources import SHIPPED, WITH_DATA, source_with_data, toy_table, toy_tasks


@pytest.mark.parametrize("kind", SHIPPED)
def test_shipped_sources_keep_the_contract(kind: str) -> None:
    check_task_source(SHIPPED[kind]())


@pytest.mark.long
@pytest.mark.parametrize("kind", WITH_DATA)
def test_sources_on_real_data_keep_the_contract(kind: str, data_dir: Path) -> None:
    name = kind.split()[0]
    if any(file.status == "missing" for file in datasets.check(name, data_dir).files):
        pytest.skip(f"the data set '{name}' is absent from METASCALE_DATA")
    check_task_source(source_with_data(kind, data_dir))


class Broken:
    """The toy source with one promise broken by ``change(split, indices, episode) -> episode``."""

    def __init__(self, change: Callable[[Split, Sequence[int], Episode], Episode] | None = None, **settings: Any):
        self.inner = toy_tasks(**settings)
        self.change = change

    def episodes(self, split: Split, indices: Sequence[int]) -> Episode:
        episode = self.inner.episodes(split, indices)
        return episode if self.change is None else self.change(split, indices, episode)

    def n_tasks(self, split: Split) -> int | None:
        return self.inner.n_tasks(split)

    def describe(self) -> dict[str, Any]:
        return self.inner.describe()


def _with_support(episode: Episode, x: torch.Tensor) -> Episode:
    return dataclasses.replace(episode, support=dataclasses.replace(episode.support, inputs={"x": x}))


def _noise_from_torch(split: Split, indices: Sequence[int], episode: Episode) -> Episode:
    x = episode.support.inputs["x"]
    return _with_support(episode, x + torch.rand(x.shape))


def _depends_on_its_neighbours(split: Split, indices: Sequence[int], episode: Episode) -> Episode:
    return _with_support(episode, episode.support.inputs["x"] + 0.001 * len(indices))


def _depends_on_position(split: Split, indices: Sequence[int], episode: Episode) -> Episode:
    shift = 0.001 * torch.arange(len(indices)).reshape(-1, 1, 1)
    return _with_support(episode, episode.support.inputs["x"] + shift)


def _query_repeats_support(split: Split, indices: Sequence[int], episode: Episode) -> Episode:
    return dataclasses.replace(episode, query=episode.support)


def _moves_a_global_generator(split: Split, indices: Sequence[int], episode: Episode) -> Episode:
    np.random.random()  # noqa: NPY002
    return episode


def _labels_from_one(split: Split, indices: Sequence[int], episode: Episode) -> Episode:
    return dataclasses.replace(
        episode, support=dataclasses.replace(episode.support, targets=episode.support.targets + 1)
    )


def _not_finite(split: Split, indices: Sequence[int], episode: Episode) -> Episode:
    return _with_support(episode, episode.support.inputs["x"] * float("nan"))


def _same_task_name(split: Split, indices: Sequence[int], episode: Episode) -> Episode:
    return dataclasses.replace(episode, task_ids=tuple("task" for _ in episode.task_ids))


BROKEN: dict[str, tuple[Callable[..., Episode], str]] = {
    "torch's global generator": (_noise_from_torch, "second call gives other bytes"),
    "moves a global generator": (_moves_a_global_generator, "a global random generator was used"),
    "depends on its neighbours": (_depends_on_its_neighbours, "single episodes differ"),
    "depends on its position": (_depends_on_position, "order of the indices"),
    "query repeats support": (_query_repeats_support, "occurs twice in support and query"),
    "labels from one": (_labels_from_one, "support labels are 0"),
    "not finite": (_not_finite, "are finite"),
    "one name for all tasks": (_same_task_name, "training visits see 1 tasks"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_the_contract_catches_a_broken_source(kind: str) -> None:
    change, message = BROKEN[kind]
    with pytest.raises(AssertionError, match=message):
        check_task_source(Broken(change))


def test_the_contract_catches_sorted_labels() -> None:
    with pytest.raises(AssertionError, match="labels leak"):
        check_task_source(toy_tasks(labels="sorted"))


def test_the_contract_catches_shared_examples_between_splits() -> None:
    table = toy_table(halves=True)
    same = dict.fromkeys(("train", "validation", "test"), table.examples_by_split["train"])  # type: ignore[index]
    with pytest.raises(AssertionError, match="occur both in train and in test"):
        check_task_source(toy_tasks(dataclasses.replace(table, examples_by_split=same), classes="shared"))


class RepeatsItsFirstVisit(Broken):
    """Every pass over the pool shows the episodes of the first pass."""

    def episodes(self, split: Split, indices: Sequence[int]) -> Episode:
        if split == "train":
            indices = [index % 10 for index in indices]
        return super().episodes(split, indices)


def test_the_contract_catches_repeated_visits() -> None:
    with pytest.raises(AssertionError, match=r"same order|same support set"):
        check_task_source(RepeatsItsFirstVisit())


class HidesAClass(Broken):
    """Its description puts a training class in the test split."""

    def describe(self) -> dict[str, Any]:
        described = self.inner.describe()
        described["split"]["test"] = [*described["split"]["test"], described["split"]["train"][0]]
        return described


def test_the_contract_catches_a_class_in_two_splits() -> None:
    with pytest.raises(AssertionError, match="in the train and the test split"):
        check_task_source(HidesAClass())


def test_the_contract_catches_evaluation_that_depends_on_the_training_seed() -> None:
    def variant(**changes: Any) -> Any:
        seed = changes.get("seed", 0)
        return toy_tasks(**changes, eval_seed=seed)

    with pytest.raises(AssertionError, match="depend on the training seed"):
        check_task_source(Broken(), variant=variant)


def test_the_contract_catches_pools_that_are_not_nested() -> None:
    def variant(**changes: Any) -> Any:
        # Another seed for another pool size: the small pool is then a pool of its own.
        return toy_tasks(**{"seed": changes.get("n_train_tasks", 0), **changes})

    with pytest.raises(AssertionError, match="is not part of that of"):
        check_task_source(Broken(), variant=variant)


def test_too_few_recurring_examples_is_said_not_passed() -> None:
    with pytest.raises(AssertionError, match="too few to judge label leaks"):
        check_task_source(toy_tasks(), n_visits=5)
