"""The contract of task sources passes on a right source and fails on wrong ones, with the sentence that says how."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from metascale.core.types import Batch, Episode, Split
from metascale.testing import check_task_source
from metascale.testing.task_contract import (
    check_description,
    check_examples,
    check_global_generators,
    check_labels,
    check_purity,
    check_shapes,
    check_variants,
    check_visits,
)
from metascale.testing.task_contract import example_keys as keys_of

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
CLASSES = {"train": range(6), "validation": range(6, 10), "test": range(10, 14)}


@dataclass(frozen=True)
class Toy:
    """Two ways, two shots, three queries a class; example e of class c, of which there are nine, is (c, e)."""

    n_train_tasks: int | None = 10
    seed: int = 0

    def n_tasks(self, split: Split) -> int | None:
        return self.n_train_tasks if split == "train" else 6

    def pool(self, split: Split) -> list[tuple[int, int]]:
        pairs = list(itertools.combinations(CLASSES[split], 2))
        if split != "train":
            return pairs
        random.Random(7).shuffle(pairs)
        return pairs[: self.n_train_tasks]

    def task(self, split: Split, index: int) -> tuple[int, int]:
        pool = self.pool(split)
        if split != "train":
            return pool[index]
        turn, place = divmod(index, len(pool))
        random.Random(f"order {self.seed} {turn}").shuffle(pool)
        return pool[place]

    def one(self, split: Split, index: int) -> tuple[str, np.ndarray, list[int], np.ndarray, list[int]]:
        task = self.task(split, index)
        own = random.Random(f"{split} {self.seed if split == 'train' else ''} {index}")
        labels = own.sample((0, 1), 2)
        chosen = [[(c, e) for e in own.sample(range(9), 5)] for c in task]
        support = [each for examples in chosen for each in examples[:2]]
        query = [each for examples in chosen for each in examples[2:]]
        y = [labels[0]] * 2 + [labels[1]] * 2, [labels[0]] * 3 + [labels[1]] * 3
        return f"{split} {task}", np.array(support, "f4"), y[0], np.array(query, "f4"), y[1]

    def episodes(self, split: Split, indices: Sequence[int]) -> Episode:
        ids, xs, ys, xq, yq = zip(*(self.one(split, index) for index in indices), strict=True)
        batch = lambda x, y: Batch({"x": torch.from_numpy(np.stack(x))}, torch.tensor(y))
        return Episode(tuple(ids), batch(xs, ys), batch(xq, yq))

    def describe(self) -> dict[str, Any]:
        names = lambda values: [f"c{value}" for value in values]
        pools = {split: [names(task) for task in self.pool(split)] for split in SPLITS}
        if self.n_train_tasks is None:
            pools["train"] = None
        return {"pools": pools, "split": {split: names(CLASSES[split]) for split in SPLITS}, "classes": "disjoint"}


class Wrong:
    """The right source, with other methods in the place of some. It is no dataclass: its variants are given."""

    def __init__(self, right: Toy | None = None, **changed: Any) -> None:
        self._right, self._changed = right or Toy(), changed

    def __getattr__(self, name: str) -> Any:
        return self._changed.get(name) or getattr(self._right, name)


Change = Callable[[Split, Sequence[int], Episode], Episode]


def changing(change: Change, right: Toy | None = None) -> Wrong:
    inner = right or Toy()
    return Wrong(inner, episodes=lambda split, indices: change(split, indices, inner.episodes(split, indices)))


def in_set(name: str, **fields: Callable[[Batch], Any]) -> Change:
    def change(split: Split, indices: Sequence[int], episode: Episode) -> Episode:
        batch = getattr(episode, name)
        return dataclasses.replace(
            episode, **{name: dataclasses.replace(batch, **{key: make(batch) for key, make in fields.items()})}
        )

    return change


def x(make: Callable[[torch.Tensor], torch.Tensor], name: str = "support") -> Change:
    return in_set(name, inputs=lambda batch: {"x": make(batch.inputs["x"])})


def y(make: Callable[[torch.Tensor], torch.Tensor], name: str = "support") -> Change:
    return in_set(name, targets=lambda batch: make(batch.targets))


def by_call(more: Callable[[Split, Sequence[int]], Any]) -> Change:
    """Support inputs moved by what a call alone has."""

    def change(split: Split, indices: Sequence[int], episode: Episode) -> Episode:
        return x(lambda value: value + more(split, indices))(split, indices, episode)

    return change


COUNT = itertools.count()
SHAPES: dict[str, tuple[Change, str]] = {
    "ids": (lambda split, indices, e: dataclasses.replace(e, task_ids=e.task_ids[1:]), "train: one task id per index"),
    "rows": (
        lambda split, indices, e: dataclasses.replace(e, support=e.support.tasks(0, len(indices) - 1)),
        r"train support: targets \[T, ...\] with one row per index",
    ),
    "query rows": (
        lambda split, indices, e: dataclasses.replace(e, query=e.query.tasks(0, len(indices) - 1)),
        r"train query: targets \[T, ...\] with one row per index",
    ),
    "examples": (x(lambda value: value[:, 1:]), r"train support: inputs 'x' start with \[T, B\]"),
    "doubles": (x(lambda value: value.double()), "train support: inputs 'x' are float32 or int64"),
    "infinite": (x(lambda value: value / 0), "train support: inputs 'x' are finite"),
    "infinite query": (x(lambda value: value / 0, "query"), "train query: inputs 'x' are finite"),
    "int32": (y(lambda value: value.int()), "train support: class targets are int64"),
    "endless targets": (
        lambda *args: y(lambda value: value / 0.0, "query")(args[0], args[1], y(torch.Tensor.float)(*args)),
        "train query: targets are finite",
    ),
    "from one": (y(lambda value: value + 1), r"train: support labels are 0 .. n_way - 1, not \[1, 2\]"),
    "a gap": (y(lambda value: 2 * value), r"train: support labels are 0 .. n_way - 1, not \[0, 2\]"),
    "unknown labels": (y(lambda value: value + 1, "query"), "train: every query label occurs in the support set"),
    "of a later split": (
        lambda split, indices, e: e if split != "test" else x(lambda value: value / 0)(split, indices, e),
        "test support: inputs 'x' are finite",
    ),
}
PURITY: dict[str, tuple[Change, str]] = {
    "again": (by_call(lambda *_: next(COUNT)), "train: a second call gives other bytes"),
    "order": (
        by_call(lambda split, indices: (indices[0] > indices[-1]) * 1.0),
        "train: an episode depends on the order of the indices",
    ),
    "chunks": (
        by_call(lambda split, indices: len(indices) * 1e-3), "train: single episodes differ from the same episodes"
    ),
    "twice": (
        by_call(lambda split, indices: torch.arange(len(indices))[:, None, None] * (len(indices) == 2) * 1.0),
        "train: an index twice in one call gives two episodes",
    ),
    "twice otherwise": (
        by_call(lambda split, indices: 1.0 * (len(set(indices)) < len(indices))),
        "train: an index twice in one call gives two episodes",
    ),
    "test alone": (
        by_call(lambda split, indices: next(COUNT) if split == "test" else 0), "test: a second call gives other bytes"
    ),
}  # fmt: skip
GLOBAL: dict[str, tuple[Change, str]] = {
    "reads torch": (
        by_call(lambda split, indices: torch.initial_seed() % 3 * 1.0),
        "episodes depend on a global random generator",
    ),
    "moves random": (by_call(lambda *_: 0 * random.random()), "a global random generator was used"),
    "moves torch": (by_call(lambda *_: 0 * torch.rand(1)), "a global random generator was used"),
    "moves NumPy": (by_call(lambda *_: 0 * np.random.rand()), "a global random generator was used"),  # noqa: NPY002
}


@pytest.mark.parametrize("fault", [*SHAPES, *PURITY, *GLOBAL])
def test_a_wrong_source_is_refused_with_the_promise_that_it_breaks(fault: str) -> None:
    change, sentence = {**SHAPES, **PURITY, **GLOBAL}[fault]
    start = "" if fault.startswith("moves") else "task source: "
    with pytest.raises(AssertionError, match=rf"^{start}{sentence}"):
        check_task_source(changing(change))


def test_right_sources_pass() -> None:
    check_task_source(Toy())
    check_task_source(Toy(n_train_tasks=7), n_visits=60)
    check_task_source(Wrong(), variant=lambda **changes: dataclasses.replace(Toy(), **changes))
    check_task_source(changing(y(lambda value: value.long())))


def test_a_regression_source_passes_without_labels() -> None:
    """Its targets are real numbers, of which no label leaks."""
    real = lambda *args: y(lambda value: value + 0.5, "query")(args[0], args[1], y(lambda value: value + 0.5)(*args))
    check_task_source(changing(real), n_visits=12)


def test_global_generators_are_as_before_the_check() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    check_task_source(Toy())
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002


class Pass(Toy):
    """Training visits in one order at every pass."""

    def task(self, split: Split, index: int) -> tuple[int, int]:
        return self.pool(split)[index % len(self.pool(split))]


class Repeats(Toy):
    """The second pass over the pool, in another order, with the episodes of the first."""

    def one(self, split: Split, index: int) -> Any:
        n = len(self.pool("train"))
        return super().one(split, n - 1 - index % n if split == "train" and index >= n else index)


class Sticks(Toy):
    """Tasks drawn with repetition."""

    def task(self, split: Split, index: int) -> tuple[int, int]:
        return super().task(split, index if split != "train" else index - index % 2)


class Other(Toy):
    """Every pass over a pool of its own."""

    def task(self, split: Split, index: int) -> tuple[int, int]:
        pool = Toy(15).pool("train")
        return super().task(split, index) if split != "train" or index < 5 else pool[index]


class OneTest(Toy):
    def episodes(self, split: Split, indices: Sequence[int]) -> Episode:
        found = super().episodes(split, indices)
        return found if split != "test" else dataclasses.replace(found, task_ids=("t",) * len(indices))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (Pass(10), "every pass over the training pool has the same order"),
        (Pass(8), "every pass over the training pool has the same order"),
        (Pass(7), None),
        (Repeats(10), "has the same support set at both visits"),
        (Sticks(10), "the first 10 training visits see 5 tasks"),
        (Other(5), "two passes over the training pool see different tasks"),
        (OneTest(10), "test: two indices have the same task id"),
    ],
)
def test_visits(source: Toy, sentence: str | None) -> None:
    if sentence is None:
        check_visits(source)
        return
    with pytest.raises(AssertionError, match=sentence):
        check_visits(source)


def shared_classes(split: Split, indices: Sequence[int], episode: Episode) -> Episode:
    """Validation takes its examples from the training classes."""
    if split != "validation":
        return episode
    lower = lambda value: value - torch.tensor([6.0, 0.0])
    return x(lower, "query")(split, indices, x(lower)(split, indices, episode))


def test_examples_are_of_one_split_and_occur_once() -> None:
    repeated = lambda split, indices, e: dataclasses.replace(e, query=Batch(e.support.inputs, e.support.targets))
    with pytest.raises(AssertionError, match="train 0: an example occurs twice in support and query"):
        check_task_source(changing(repeated))
    into_train = lambda value: value - torch.tensor([10.0, 0.0])
    test_from_train = lambda split, indices, e: (
        e if split != "test" else x(into_train, "query")(split, indices, x(into_train)(split, indices, e))
    )
    with pytest.raises(AssertionError, match=r"\d+ examples occur both in train and in test episodes"):
        check_task_source(changing(test_from_train))
    with pytest.raises(AssertionError, match=r"\d+ examples occur both in train and in validation episodes"):
        check_task_source(changing(shared_classes))
    said = Wrong(episodes=changing(shared_classes).episodes, describe=lambda: {**Toy().describe(), "classes": "shared"})
    check_task_source(said)


def labelled(labels: Sequence[Sequence[int]], n_known: int = 4) -> Any:
    """A source of one task, whose four examples (the last of them new at every visit but ``n_known``) have those labels
    at each visit."""

    def episodes(split: Split, indices: Sequence[int]) -> Episode:
        (visit,) = indices
        names = [float(place if place < n_known else 100 + 4 * visit + place) for place in range(4)]
        inputs, targets = torch.tensor(names)[None, :, None], torch.tensor(labels[visit])[None]
        return Episode(("t",), Batch({"x": inputs[:, :2]}, targets[:, :2]), Batch({"x": inputs[:, 2:]}, targets[:, 2:]))

    return SimpleNamespace(episodes=episodes)


def turned(hits: Sequence[int]) -> list[list[int]]:
    """Two-way labels, kept (1) or exchanged (0) from each visit to the next."""
    found = [[0, 1, 0, 1]]
    for hit in hits:
        found.append(found[-1] if hit else [1 - label for label in found[-1]])
    return found


@pytest.mark.parametrize(
    ("hits", "told"),
    [
        ([1] * 30, r"predicts 100% of labels, chance is 50% \(5.5 standard errors off\)"),  # (1 - ½)·√(30 / ¼)
        ([0] * 30, r"predicts 0% of labels, chance is 50% \(-5.5 standard errors off\)"),
        ([1] * 28 + [0] * 2, r"predicts 93% of labels, chance is 50% \(4.7 standard errors off\)"),
        ([1] * 27 + [0] * 3, None),  # 4.38
        ([1] * 3 + [0] * 27, None),
        ([1, 0] * 15, None),
        ([1, 0] * 14 + [1], "only 29 of 30 visits hold an example seen before, too few to judge label leaks; give"),
    ],
)
def test_labels_that_predict_later_ones_are_a_leak(hits: Sequence[int], told: str | None) -> None:
    source = labelled(turned(hits))
    if told is None:
        check_labels(source, len(hits) + 1)
        return
    with pytest.raises(AssertionError, match=told):
        check_labels(source, len(hits) + 1)


def test_a_visits_hits_are_a_share_of_the_examples_seen_before() -> None:
    """Three ways, one of two known examples predicted at every visit: (½ - ⅓)·√(40 / (2/9)) = 2.24, then 90: 3.35."""
    labels = [[0, 1, 2, 2] if visit % 2 else [0, 2, 2, 1] for visit in range(201)]
    check_labels(labelled(labels, n_known=2), 41)
    check_labels(labelled(labels, n_known=2), 91)
    z = (1 / 2 - 1 / 3) * math.sqrt(200 / (2 / 9))
    with pytest.raises(AssertionError, match=rf"predicts 50% of labels, chance is 33% \({z:.1f} standard errors off\)"):
        check_labels(labelled(labels, n_known=2), 201)


def described(**changes: Any) -> Wrong:
    return Wrong(describe=lambda: {**Toy().describe(), **changes})


POOLS, SPLIT = Toy().describe()["pools"], Toy().describe()["split"]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (Toy(), None),
        (Toy(n_train_tasks=None), None),
        (Wrong(describe=lambda: {**Toy().describe(), "n": next(COUNT)}), r"describe\(\) changes between calls"),
        (described(pools={**POOLS, "train": None}), r"describe\(\) holds the train pool unless it is endless"),
        (Wrong(Toy(None), describe=Toy().describe), r"describe\(\) holds the train pool unless it is endless"),
        (described(pools={**POOLS, "test": POOLS["test"][1:]}), r"describe\(\) holds every task of the test pool"),
        (
            described(pools={**POOLS, "train": [POOLS["train"][0][::-1], *POOLS["train"][:9]]}),
            "two training tasks are the same set of classes",
        ),
        (
            described(split={**SPLIT, "validation": [*SPLIT["validation"], "c3"]}),
            r"the classes \['c3'\] are in the train and the validation split",
        ),
        (
            described(split={**SPLIT, "test": [*SPLIT["test"], "c3"]}),
            r"the classes \['c3'\] are in the train and the test split",
        ),
        (
            described(split={**SPLIT, "test": [*SPLIT["test"], *SPLIT["validation"], "x", "c66", "c88"], "validation": [
                *SPLIT["validation"], "c66", "c77", "c88"
            ]}),
            r"the classes \['c6', 'c66', 'c7', 'c8', 'c88'\] are in the validation and the test split",
        ),
        (described(split={**SPLIT, "test": ["c10", "c11"]}), "test tasks use classes outside the test split"),
        (described(split={**SPLIT, "test": [*SPLIT["test"], "c3"]}, classes="shared"), None),
        (Wrong(describe=lambda: {"pools": POOLS}), None),
        (
            Wrong(Toy(2), describe=lambda: {"pools": {**POOLS, "train": [[0, 1], [1, 0]]}}),
            None,  # tasks that are no sets of names: their order counts
        ),
        (
            Wrong(Toy(2), describe=lambda: {"pools": {**POOLS, "train": [[0, 1], [0, 1]]}}),
            "two training tasks are the same set of classes",
        ),
    ],
)  # fmt: skip
def test_descriptions(source: Any, sentence: str | None) -> None:
    if sentence is None:
        check_description(source)
        return
    with pytest.raises(AssertionError, match=rf"^task source: {sentence}"):
        check_description(source)


@dataclass(frozen=True)
class Seeded(Toy):
    """With what should not depend on the pool's size or the seed depending on one of them."""

    by: str = ""

    def one(self, split: Split, index: int) -> Any:
        name, *rest = super().one(split, index)
        more = {"size": self.n_train_tasks, "seed": self.seed}.get(self.by, 0) if split != "train" else 0
        return (name, rest[0] + more / 100, *rest[1:])

    def pool(self, split: Split) -> list[tuple[int, int]]:
        if self.by != "apart" or split != "train":
            return super().pool(split)
        whole = Toy(15).pool("train")
        return whole[5:] if self.n_train_tasks == 10 else whole[: self.n_train_tasks]


@pytest.mark.parametrize(
    ("by", "sentence"),
    [
        ("", None),
        ("size", "validation episodes depend on the number of training tasks"),
        ("seed", "validation episodes depend on the training seed"),
    ],
)
def test_evaluation_depends_on_neither_pool_nor_seed(by: str, sentence: str | None) -> None:
    if sentence is None:
        check_task_source(Seeded(by=by))
        return
    with pytest.raises(AssertionError, match=rf"^task source: {sentence}"):
        check_task_source(Seeded(by=by))


def test_a_smaller_pool_is_a_part_of_a_larger_one_and_a_seed_is_used() -> None:
    with pytest.raises(AssertionError, match="the pool of 5 tasks is not part of that of 10"):
        check_task_source(Seeded(by="apart"), n_visits=60)
    frozen_seed = lambda **changes: Toy(changes.get("n_train_tasks", 10))
    with pytest.raises(AssertionError, match="another training seed gives the same training episodes"):
        check_task_source(Toy(), variant=frozen_seed)
    check_task_source(Wrong(Toy(), episodes=Seeded(by="size").episodes))  # without variants nothing is known of them


@pytest.mark.parametrize(("n_tasks", "asked"), [(10, 5), (1, 1), (None, 4)])
def test_a_source_is_asked_for_half_its_pool_and_the_next_seed(n_tasks: int | None, asked: int) -> None:
    changes: list[dict[str, int]] = []

    def variant(**change: int) -> Toy:
        changes.append(change)
        return dataclasses.replace(Toy(n_tasks, 3), **change)

    check_variants(Toy(n_tasks, 3), variant)
    assert changes == [{"n_train_tasks": asked}, {"seed": 4}]


def test_shapes_of_an_evaluation_split_with_fewer_tasks_than_are_looked_at() -> None:
    asked: list[tuple[str, list[int]]] = []

    def episodes(split: Split, indices: Sequence[int]) -> Episode:
        asked.append((split, list(indices)))
        return Toy().episodes(split, indices)

    check_shapes(Wrong(episodes=episodes, n_tasks=lambda split: {"train": 2, "validation": 4, "test": None}[split]))
    assert asked == [("train", list(range(6))), ("validation", list(range(4))), ("test", list(range(6)))]


def test_an_examples_key_is_all_its_inputs_without_padding_and_its_real_targets() -> None:
    ids, mask = torch.tensor([[[5, 6, 0], [5, 6, 7]]]), torch.tensor([[[1, 1, 0], [1, 1, 1]]])
    text = Batch({"input_ids": ids, "attention_mask": mask}, torch.tensor([[0, 1]]))
    short, whole = (np.array(values, "i8").tobytes() for values in ([5, 6], [5, 6, 7]))
    assert keys_of(text) == [[short, whole]]
    wide = Batch({"input_ids": torch.tensor([[[5, 6]]]), "attention_mask": torch.tensor([[[1, 1]]])}, torch.zeros(1, 1))
    assert keys_of(wide) == [[short + b"|" + np.zeros((), "f4").tobytes()]]
    two = Batch({"b": torch.tensor([[[1.0]]]), "a": torch.tensor([[[2]]])}, torch.tensor([[3]]))
    assert keys_of(two) == [[np.array([2], "i8").tobytes() + b"|" + np.array([1.0], "f4").tobytes()]]
    assert keys_of(Batch({"x": torch.zeros(2, 3, 1)}, torch.zeros(2, 3, dtype=torch.long))) == [[bytes(4)] * 3] * 2


def test_a_leak_is_one_from_four_and_a_half_standard_errors() -> None:
    """99 of 144 visits predicted: (99/144 - ½)·√(144 / ¼) = 4.5; 98 of them 4.33."""
    with pytest.raises(AssertionError, match=r"\(4.5 standard errors off\)"):
        check_labels(labelled(turned([1] * 99 + [0] * 45)), 145)
    check_labels(labelled(turned([1] * 98 + [0] * 46)), 145)


def test_what_a_source_is_asked_for_by_each_check() -> None:
    asked: list[tuple[str, list[int]]] = []

    def episodes(split: Split, indices: Sequence[int]) -> Episode:
        asked.append((split, list(indices)))
        return Toy().episodes(split, indices)

    source = Wrong(episodes=episodes)
    check_global_generators(source)
    assert asked == [(split, [0, 1, 2]) for split in SPLITS] * 2  # under two states of the generators
    asked.clear()
    check_purity(source)
    calls = [list(range(6))] * 2 + [list(range(6))[::-1]] + [[k] for k in range(6)] + [[5, 5]]
    assert asked == [(split, call) for split in SPLITS for call in calls]
    asked.clear()
    check_visits(source)
    assert asked == [("train", [k]) for k in range(20)] + [(split, list(range(6))) for split in SPLITS[1:]]
    asked.clear()
    check_examples(source, 4)
    assert asked == [(split, [k]) for split in SPLITS for k in range(4)]


def test_real_targets_may_have_axes_of_their_own_and_visits_are_120() -> None:
    real = lambda *args: y(lambda value: value[..., None] + 0.5, "query")(
        args[0], args[1], y(lambda value: value[..., None] + 0.5)(*args)
    )
    check_shapes(changing(real))
    asked: list[int] = []

    def episodes(split: Split, indices: Sequence[int]) -> Episode:
        asked.extend(indices if split == "train" else ())
        return Toy().episodes(split, indices)

    check_task_source(Wrong(episodes=episodes))
    assert max(asked) == 119


def test_descriptions_hold_each_pool_for_itself() -> None:
    for split in ("validation", "test"):
        with pytest.raises(AssertionError, match=rf"describe\(\) holds every task of the {split} pool$"):
            check_description(described(pools={**POOLS, split: POOLS[split][1:]}))
