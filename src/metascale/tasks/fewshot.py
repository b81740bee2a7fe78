"""Few-shot classification episodes from any labelled data set, without class, label or example leaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import combinations, pairwise
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
import torch

from metascale.core.errors import InputError
from metascale.core.streams import generator
from metascale.core.types import SPLITS, Batch, Episode, Split

Combination: TypeAlias = tuple[int, ...]
"""Class indices in ascending order."""


@dataclass(frozen=True, eq=False)
class ClassTable:
    """A labelled data set, indexed by class.

    Args:
        name: the data set's name; it is part of every random stream's address.
        classes: the class names; a class index is a position in this tuple.
        examples: the example ids of each class.
        fetch: example ids [...] to named input tensors [..., *shape].
        examples_by_split: example ids of each class in each split, test examples in no other split; needed only where
            splits share classes (``FewShotTasks(classes="shared")``).
        details: JSON for the run's record: source, licence, how the examples were made.
    """

    name: str
    classes: tuple[str, ...]
    examples: tuple[np.ndarray, ...]
    fetch: Callable[[np.ndarray], dict[str, torch.Tensor]]
    examples_by_split: Mapping[Split, tuple[np.ndarray, ...]] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes):
            raise InputError(f"{self.name}: class names must be distinct")
        if len(self.examples) != len(self.classes):
            raise InputError(f"{self.name}: {len(self.classes)} classes but example ids for {len(self.examples)}")


@dataclass(frozen=True)
class ClassSplit:
    """Which class indices are meta-train, meta-validation and meta-test; no class is in two splits."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]

    def __post_init__(self) -> None:
        every = self.train + self.validation + self.test
        if len(set(every)) != len(every):
            raise InputError("a class split may not hold a class twice")

    def of(self, split: Split) -> tuple[int, ...]:
        """The class indices of ``split``."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[split]

    @staticmethod
    def draw(name: str, groups: Sequence[str], n_groups: Mapping[Split, int], seed: int) -> ClassSplit:
        """Give whole groups of classes to the splits, at random but fixed by ``name`` and ``seed``.

        Args:
            groups: the group of each class; classes of one group (the rotations of one digit, the intents of one
                domain) stay together. Give each class its own group for a plain split.
            n_groups: how many groups each split gets; together all of them.
        """
        names = sorted(set(groups))
        counts = [n_groups[split] for split in SPLITS]
        if min(counts) < 1 or sum(counts) != len(names):
            wanted = " + ".join(f"{n_groups[split]} {split}" for split in SPLITS)
            raise InputError(
                f"{name}: a class split of {wanted} does not fit; the three numbers must be at least 1 and add up to "
                f"{len(names)}"
            )
        order = generator(seed, "class-split", name).permutation(len(names))
        bounds = np.cumsum([0, *counts])
        members = []
        for start, stop in pairwise(bounds):
            chosen = {names[position] for position in order[start:stop]}
            members.append(tuple(index for index, group in enumerate(groups) if group in chosen))
        return ClassSplit(*members)


def split_sizes(name: str, n_classes: int, fractions: tuple[float, float, float]) -> dict[Split, int]:
    """How many of ``n_classes`` classes go to train, validation and test; train takes what rounding leaves."""
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise InputError(f"{name}: split fractions must be positive and add up to 1, not {fractions}")
    n_validation, n_test = round(n_classes * fractions[1]), round(n_classes * fractions[2])
    sizes: dict[Split, int] = {
        "train": n_classes - n_validation - n_test,
        "validation": n_validation,
        "test": n_test,
    }
    empty = [split for split in SPLITS if sizes[split] < 1]
    if empty:
        raise InputError(f"{name}: {n_classes} classes are too few for the fractions {fractions}; {empty[0]} gets none")
    return sizes


# Below this many combinations all are listed and shuffled; above it they are drawn and repetitions dropped. The choice
# depends on the classes alone, never on the size of the pool, so pools stay nested.
_LISTED = 100_000


def combinations_in_random_order(n_classes: int, n_way: int, rng: np.random.Generator) -> Iterator[Combination]:
    """Every ``n_way``-subset of ``range(n_classes)`` once, in random order; each is a sorted tuple."""
    total = math.comb(n_classes, n_way)
    if total <= _LISTED:
        listed = list(combinations(range(n_classes), n_way))
        yield from (listed[position] for position in rng.permutation(total))
        return
    seen: set[tuple[int, ...]] = set()
    while len(seen) < total:
        drawn = random_combination(n_classes, n_way, rng)
        if drawn not in seen:
            seen.add(drawn)
            yield drawn


def random_combination(n_classes: int, n_way: int, rng: np.random.Generator) -> Combination:
    """One ``n_way``-subset of ``range(n_classes)``, uniformly, as a sorted tuple."""
    return tuple(sorted(rng.choice(n_classes, n_way, replace=False, shuffle=False).tolist()))


def distinct_pool(
    classes: Combination, n_way: int, n_tasks: int, seed: int, purpose: str, *index: str
) -> tuple[Combination, ...]:
    """``n_tasks`` distinct combinations of ``classes``; nested in ``n_tasks``. There must be that many."""
    ordered = combinations_in_random_order(len(classes), n_way, generator(seed, purpose, *index))
    return tuple(tuple(classes[position] for position in next(ordered)) for _ in range(n_tasks))


@lru_cache(maxsize=16)
def visit_order(seed: int, purpose: str, n_tasks: int, visits_before: int) -> np.ndarray:
    """The shuffled order in which one pass visits ``range(n_tasks)``; kept because every visit of the pass asks."""
    order = generator(seed, purpose, n_tasks, visits_before).permutation(n_tasks)
    order.setflags(write=False)
    return order


def pool_position(seed: int, purpose: str, n_tasks: int, visit: int) -> int:
    """Which of ``n_tasks`` tasks visit number ``visit`` goes to: each once a pass, each pass in its own order."""
    visits_before, place = divmod(visit, n_tasks)
    return int(visit_order(seed, purpose, n_tasks, visits_before)[place])


@dataclass(frozen=True, slots=True)
class EpisodePlan:
    """Which examples make up episodes, before any tensor is fetched.

    ``combinations`` [T][n_way] are class indices in ascending order; ``label_of_class`` [T, n_way] the label each of
    them carries; ids and labels are [T, n_way * k_shot] and [T, n_way * n_query], shuffled within each set.
    """

    task_ids: tuple[str, ...]
    combinations: tuple[Combination, ...]
    label_of_class: np.ndarray
    support_ids: np.ndarray
    support_labels: np.ndarray
    query_ids: np.ndarray
    query_labels: np.ndarray


class FewShotSettings(TypedDict, total=False):
    """The fields of `FewShotTasks` besides its data, as keyword arguments of the functions that read a data set."""

    n_way: int
    k_shot: int
    n_query: int
    n_train_tasks: int | None
    n_validation_tasks: int
    n_test_tasks: int
    seed: int
    eval_seed: int
    n_train_classes: int | None
    labels: Literal["permuted", "sorted"]
    classes: Literal["disjoint", "shared"]
    train_n_way: int | None


@dataclass(frozen=True)
class FewShotTasks:
    """N-way k-shot tasks over a class table; implements ``TaskSource``.

    A training task is a fixed set of classes. Every visit draws fresh examples and a fresh label order. The training
    pool of N tasks is the beginning of the pool of any larger N with the same seed. Validation and test tasks, and
    their examples, depend on ``eval_seed`` only, and their query sets do not depend on ``k_shot``.

    Args:
        table: the data set.
        split: which classes are meta-train, meta-validation and meta-test.
        n_way: classes in a task.
        k_shot: support examples a class.
        n_query: query examples a class.
        n_train_tasks: how many distinct training tasks; ``None``: a random combination at every visit, without end.
        n_validation_tasks, n_test_tasks: how many evaluation episodes. They visit the class combinations evenly: none
            a second time before every combination was used, each time with other examples.
        seed: the training pool and the training episodes.
        eval_seed: the validation and test tasks and episodes.
        n_train_classes: use only this many of the training classes (the first ones of an order drawn from ``seed``, so
            a smaller set is part of a larger one); ``None``: all.
        labels: ``permuted``: a fresh random label order for every episode. ``sorted``: a class's label is its rank in
            the task's sorted class list; this is the leak of some published code (class identity alone then predicts
            the label) and only for experiments that show it.
        classes: ``disjoint``, or ``shared``: every split uses every class, with examples of its own; likewise a
            published leak, and only for data sets with ``examples_by_split``.
        train_n_way: classes in a training task, where it has another number than the tasks of evaluation.

    Raises:
        InputError: fewer classes, class combinations or examples than asked for; the message has the counts.
    """

    table: ClassTable
    split: ClassSplit
    n_way: int = 5
    k_shot: int = 1
    n_query: int = 15
    n_train_tasks: int | None = 100
    n_validation_tasks: int = 100
    n_test_tasks: int = 200
    seed: int = 0
    eval_seed: int = 0
    n_train_classes: int | None = None
    labels: Literal["permuted", "sorted"] = "permuted"
    classes: Literal["disjoint", "shared"] = "disjoint"
    train_n_way: int | None = None

    def __post_init__(self) -> None:
        smallest = {"n_way": 2, "k_shot": 1, "n_query": 1, "n_validation_tasks": 1, "n_test_tasks": 1}
        smallest |= {"train_n_way": 2, "n_train_tasks": 1, "n_train_classes": self.ways("train")}
        for name, least in smallest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                message = f"{self.table.name}: {name} must be at least {least}, not {value}"
                raise InputError(message, field=name, value=value)
        for name, allowed in {"labels": ("permuted", "sorted"), "classes": ("disjoint", "shared")}.items():
            if (value := getattr(self, name)) not in allowed:
                message = f"{self.table.name}: {name} must be '{allowed[0]}' or '{allowed[1]}', not {value!r}"
                raise InputError(message, field=name, value=value)
        if self.classes == "shared" and self.table.examples_by_split is None:
            raise InputError(
                f"{self.table.name} has no separate examples for training and evaluation, so classes='shared' would "
                "let them share examples; only classes='disjoint' is allowed"
            )
        for split in SPLITS:
            self._check_classes(split)
            self._check_examples(split)
        self._check_combinations()

    def ways(self, split: Split) -> int:
        """Classes in a task of ``split``."""
        return self.train_n_way if split == "train" and self.train_n_way is not None else self.n_way

    def _check_classes(self, split: Split) -> None:
        available = len(self._all_classes(split))
        wanted, key = self.ways(split), "n_way"
        if split == "train" and self.train_n_way is not None:
            key = "train_n_way"
        if split == "train" and self.n_train_classes is not None:
            wanted = self.n_train_classes
        if available < wanted:
            raise InputError(
                f"{self.table.name}: {wanted} classes are needed but the {split} split has {available}; lower {key} or "
                "n_train_classes, or give the split more classes"
            )

    def _check_examples(self, split: Split) -> None:
        needed = self.k_shot + self.n_query
        counts = {index: len(self._examples(split)[index]) for index in self.class_indices(split)}
        short = sorted((count, index) for index, count in counts.items() if count < needed)
        if short:
            shown = ", ".join(f"'{self.table.classes[index]}' has {count}" for count, index in short[:5])
            read = f" ({self.table.details['read']})" if self.table.details.get("read") else ""
            raise InputError(
                f"{self.table.name}: {len(short)} of {len(counts)} {split} classes have fewer than {needed} examples "
                f"(k_shot {self.k_shot} + n_query {self.n_query}): {shown}{', ...' if len(short) > 5 else ''}; "
                f"k_shot + n_query may be at most {short[0][0]}{read}"
            )

    def _check_combinations(self) -> None:
        n_classes = len(self.class_indices("train"))
        available = math.comb(n_classes, self.ways("train"))
        if self.n_train_tasks is not None and self.n_train_tasks > available:
            raise InputError(
                f"{self.table.name}: {self.n_train_tasks} distinct training tasks were asked for but {n_classes} "
                f"training classes have only {available} combinations of {self.ways('train')}"
            )

    def _all_classes(self, split: Split) -> Combination:
        return tuple(range(len(self.table.classes))) if self.classes == "shared" else self.split.of(split)

    def class_indices(self, split: Split) -> Combination:
        """The classes that tasks of ``split`` may use, ascending."""
        return self._class_indices[split]

    @cached_property
    def _class_indices(self) -> dict[Split, Combination]:
        found = {split: tuple(sorted(self._all_classes(split))) for split in SPLITS}
        if self.n_train_classes is not None:
            everything = found["train"]
            order = generator(self.seed, "train-classes", self.table.name).permutation(len(everything))
            found["train"] = tuple(sorted(everything[position] for position in order[: self.n_train_classes]))
        return found

    def _examples(self, split: Split) -> tuple[np.ndarray, ...]:
        if self.classes == "shared" and self.table.examples_by_split is not None:
            return self.table.examples_by_split[split]
        return self.table.examples

    @cached_property
    def _pools(self) -> dict[Split, tuple[Combination, ...] | None]:
        train = None
        if self.n_train_tasks is not None:
            names = self.class_indices("train")
            ways = self.ways("train")
            train = distinct_pool(names, ways, self.n_train_tasks, self.seed, "train-pool", self.table.name)
        return {
            "train": train,
            "validation": self._evaluation_pool("validation", self.n_validation_tasks),
            "test": self._evaluation_pool("test", self.n_test_tasks),
        }

    def _evaluation_pool(self, split: Split, n_tasks: int) -> tuple[Combination, ...]:
        names = self.class_indices(split)
        n_distinct = min(n_tasks, math.comb(len(names), self.n_way))
        pool = distinct_pool(names, self.n_way, n_distinct, self.eval_seed, "evaluation-pool", self.table.name, split)
        return tuple(pool[index % n_distinct] for index in range(n_tasks))

    def n_tasks(self, split: Split) -> int | None:
        """How many tasks the split has (for evaluation: fixed episodes); ``None``: endless."""
        pool = self._pools[split]
        return None if pool is None else len(pool)

    def _task(self, split: Split, index: int) -> tuple[str, Combination, np.random.Generator]:
        """The name and classes of one index, and the generator of its examples and label order."""
        name, pool = self.table.name, self._pools[split]
        if index < 0 or (split != "train" and index >= self._n_evaluation(split)):
            raise InputError(f"{name}: there is no {split} task {index}; the split has {self.n_tasks(split)}")
        repeat = 0
        if split == "train":
            rng = generator(self.seed, "train-episode", name, index)
            if pool is None:
                names = self.class_indices("train")
                rng_of_task = generator(self.seed, "train-task", name, index)
                drawn = random_combination(len(names), self.ways(split), rng_of_task)
                combination = tuple(names[position] for position in drawn)
            else:
                combination = pool[pool_position(self.seed, f"visit-order {name}", len(pool), index)]
        else:
            rng = generator(self.eval_seed, "evaluation-episode", name, split, index)
            combination = self._pools[split][index]  # type: ignore[index]
            repeat = index // math.comb(len(self.class_indices(split)), self.n_way)
        task_id = f"{split}:{'.'.join(map(str, combination))}" + (f"#{repeat}" if repeat else "")
        return task_id, combination, rng

    def _n_evaluation(self, split: Split) -> int:
        return self.n_validation_tasks if split == "validation" else self.n_test_tasks

    def plan(self, split: Split, indices: Sequence[int]) -> EpisodePlan:
        """Which classes, labels and examples the episodes of ``indices`` have."""
        n_way = self.ways(split)
        n_support, n_query = n_way * self.k_shot, n_way * self.n_query
        label_of_class = np.empty((len(indices), n_way), np.int64)
        support = np.empty((2, len(indices), n_support), np.int64)
        query = np.empty((2, len(indices), n_query), np.int64)
        task_ids, combinations = [], []
        examples = self._examples(split)
        for row, index in enumerate(indices):
            task_id, combination, rng = self._task(split, int(index))
            task_ids.append(task_id)
            combinations.append(combination)
            permuted = rng.permutation(n_way)
            labels = permuted if self.labels == "permuted" else np.arange(n_way)
            drawn = [examples[index][rng.permutation(len(examples[index]))] for index in combination]
            # The query set is drawn and shuffled first, so it is the same at every k_shot.
            query_order, support_order = rng.permutation(n_query), rng.permutation(n_support)
            query_ids = np.concatenate([ids[: self.n_query] for ids in drawn])
            support_ids = np.concatenate([ids[self.n_query : self.n_query + self.k_shot] for ids in drawn])
            label_of_class[row] = labels
            query[:, row] = np.stack([query_ids, np.repeat(labels, self.n_query)])[:, query_order]
            support[:, row] = np.stack([support_ids, np.repeat(labels, self.k_shot)])[:, support_order]
        return EpisodePlan(tuple(task_ids), tuple(combinations), label_of_class, *support, *query)

    def episodes(self, split: Split, indices: Sequence[int]) -> Episode:
        """One episode per index, stacked: support [T, n_way * k_shot, ...], query [T, n_way * n_query, ...]."""
        plan = self.plan(split, indices)
        support = Batch(self.table.fetch(plan.support_ids), torch.from_numpy(plan.support_labels))
        query = Batch(self.table.fetch(plan.query_ids), torch.from_numpy(plan.query_labels))
        return Episode(plan.task_ids, support, query)

    def describe(self) -> dict[str, Any]:
        """JSON: the data set, the class split and every task of every pool, by class name."""
        names = self.table.classes
        pools = {
            split: None if pool is None else [[names[index] for index in combination] for combination in pool]
            for split, pool in self._pools.items()
        }
        counts = {split: [len(self._examples(split)[index]) for index in self.class_indices(split)] for split in SPLITS}
        settings = ("n_way", "k_shot", "n_query", "labels", "classes", "n_train_classes", "seed", "eval_seed")
        return {
            "kind": "few-shot classification",
            "data": self.table.name,
            "details": dict(self.table.details),
            **{name: getattr(self, name) for name in settings},
            **({} if self.train_n_way is None else {"train_n_way": self.train_n_way}),
            "n_tasks": {split: self.n_tasks(split) for split in SPLITS},
            "class_names": list(names),
            "split": {split: [names[index] for index in self.class_indices(split)] for split in SPLITS},
            "examples_per_class": {split: {"min": min(n), "max": max(n)} for split, n in counts.items()},
            "pools": pools,
        }
