"""Few-shot tasks from classes, groups and tables: pools, splits, counts and refusals of small cases by hand."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from metascale.core.errors import InputError
from metascale.tasks import few_shot
from metascale.tasks.fewshot import (
    ClassSplit,
    ClassTable,
    FewShotTasks,
    combinations_in_random_order,
    distinct_pool,
    pool_position,
    split_sizes,
    visit_order,
)
from metascale.tasks.groups import GroupTable, GroupTasks
from metascale.tasks.tables import Features, column_of, is_numeric, is_plain, read_table, scale_of, sorted_names
from metascale.tasks.words import BagOfWords, WordEncoder
from tests.tasks.sources import identity, toy_table, toy_tasks


def refused(make: Callable[[], object]) -> tuple[str, str | None, object]:
    with pytest.raises(InputError) as caught:
        make()
    return str(caught.value), caught.value.field, caught.value.value


# ---------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("name", "least"),
    [("n_way", 2), ("k_shot", 1), ("n_query", 1), ("n_validation_tasks", 1), ("n_test_tasks", 1), ("train_n_way", 2),
     ("n_train_tasks", 1), ("n_train_classes", 3)],
)  # fmt: skip
def test_the_least_of_each_count_of_tasks(name: str, least: int) -> None:
    """With three training classes there is one task of three."""
    given: dict[str, Any] = {"n_train_tasks": 1, name: least}
    assert getattr(toy_tasks(**given), name) == least
    message = f"toy: {name} must be at least {least}, not {least - 1}"
    assert refused(lambda: toy_tasks(**{name: least - 1})) == (message, name, least - 1)


def test_words_that_a_setting_does_not_know() -> None:
    for name, allowed in (("labels", "'permuted' or 'sorted'"), ("classes", "'disjoint' or 'shared'")):
        message = f"toy: {name} must be {allowed}, not 'other'"
        assert refused(lambda given=name: toy_tasks(**{given: "other"})) == (message, name, "other")
    assert refused(lambda: toy_tasks(classes="shared"))[0] == (
        "toy has no separate examples for training and evaluation, so classes='shared' would let them share examples; "
        "only classes='disjoint' is allowed"
    )


def test_counts_of_classes_and_combinations_that_are_too_few() -> None:
    said = "classes are needed but the {} split has {}; lower {} or n_train_classes, or give the split more classes"
    lower = {"n_train_tasks": 1}
    assert refused(lambda: toy_tasks(n_way=9))[0] == "toy: 9 " + said.format("train", 8, "n_way")
    assert refused(lambda: toy_tasks(train_n_way=9))[0] == "toy: 9 " + said.format("train", 8, "train_n_way")
    assert refused(lambda: toy_tasks(n_way=4, train_n_way=3))[0] == "toy: 4 " + said.format("validation", 3, "n_way")
    assert toy_tasks(n_train_classes=8, train_n_way=8, **lower).class_indices("train") == tuple(range(8))
    few = "toy: 2 distinct training tasks were asked for but 4 training classes have only 1 combinations of 4"
    assert refused(lambda: toy_tasks(n_train_classes=4, train_n_way=4, n_train_tasks=2))[0] == few
    assert toy_tasks(n_train_classes=4, train_n_way=3, n_train_tasks=4).n_tasks("train") == 4
    with pytest.raises(InputError, match=r"^a class split may not hold a class twice$"):
        ClassSplit((0,), (1,), (0,))
    with pytest.raises(InputError, match=r"^toy: class names must be distinct$"):
        ClassTable("toy", ("a", "b", "a"), (np.arange(1),) * 3, identity)


def test_examples_that_just_suffice() -> None:
    """5 examples a class are k_shot 2 and n_query 3; a class of another split that is short is named with its own."""
    assert toy_tasks(toy_table(n_examples=5)).describe()["examples_per_class"]["test"] == {"min": 5, "max": 5}
    table = toy_table(n_examples=5)
    short = (*table.examples[:9], table.examples[9][:4], *table.examples[10:])
    assert refused(lambda: toy_tasks(dataclasses.replace(table, examples=short)))[0] == (
        "toy: 1 of 3 validation classes have fewer than 5 examples (k_shot 2 + n_query 3): 'c09' has 4; "
        "k_shot + n_query may be at most 4"
    )


def test_a_class_split_is_a_division_of_groups() -> None:
    """Three groups of two classes, one for each split; the classes of a split are in ascending order."""
    groups = ["u", "v", "w", "u", "v", "w"]
    one_each = {"train": 1, "validation": 1, "test": 1}
    split = ClassSplit.draw("toy", groups, one_each, seed=0)  # type: ignore[arg-type]
    assert {split.train, split.validation, split.test} == {(0, 3), (1, 4), (2, 5)}
    drawn = {ClassSplit.draw("toy", groups, one_each, seed) for seed in range(40)}  # type: ignore[arg-type]
    assert len(drawn) == 6, "every order of the groups"
    named = {ClassSplit.draw(f"toy {place}", groups, one_each, 0) for place in range(40)}  # type: ignore[arg-type]
    assert len(named) == 6, "the name is part of the address"
    uneven = ClassSplit.draw("toy", list("abcdef"), {"train": 3, "validation": 1, "test": 2}, 0)
    assert [len(uneven.of(split)) for split in ("train", "validation", "test")] == [3, 1, 2]  # type: ignore[arg-type]
    for wanted in ({"train": 1, "validation": 1, "test": 0}, {"train": 2, "validation": 1, "test": 1}):
        assert refused(lambda given=wanted: ClassSplit.draw("toy", groups, given, 0))[0] == (  # type: ignore[arg-type]
            f"toy: a class split of {wanted['train']} train + {wanted['validation']} validation + {wanted['test']} "
            "test does not fit; the three numbers must be at least 1 and add up to 3"
        )


def test_shares_of_classes() -> None:
    """Validation and test are rounded, and training has the rest; 1e-9 is the tolerance of the sum."""
    assert split_sizes("t", 10, (0.5, 0.26, 0.24)) == {"train": 5, "validation": 3, "test": 2}
    assert split_sizes("t", 3, (0.4, 0.3, 0.3)) == {"train": 1, "validation": 1, "test": 1}
    assert split_sizes("t", 10, (0.6, 0.2, 0.2 + 9e-10))["test"] == 2
    for shares in ((0.6, 0.2, 0.2 + 2e-9), (0.6, 0.2, 0.2 - 2e-9), (0.8, 0.0, 0.2), (-0.1, 0.6, 0.5)):
        said = f"t: split fractions must be positive and add up to 1, not {shares}"
        assert refused(lambda given=shares: split_sizes("t", 10, given))[0] == said
    said = "t: 2 classes are too few for the fractions (0.2, 0.4, 0.4); train gets none"
    assert refused(lambda: split_sizes("t", 2, (0.2, 0.4, 0.4)))[0] == said


def test_every_pass_over_a_pool_visits_each_task_once_in_an_order_of_its_own() -> None:
    passes = [[pool_position(3, "visit", 5, 5 * k + place) for place in range(5)] for k in range(4)]
    assert all(sorted(each) == [0, 1, 2, 3, 4] for each in passes)
    assert passes == [visit_order(3, "visit", 5, k).tolist() for k in range(4)]
    assert len({tuple(each) for each in passes}) > 1
    assert not visit_order(3, "visit", 5, 0).flags.writeable, "it is kept for all"
    pool = distinct_pool((7, 8, 9), 2, 3, 0, "pool")
    assert sorted(pool) == [(7, 8), (7, 9), (8, 9)]
    assert distinct_pool((7, 8, 9), 2, 2, 0, "pool") == pool[:2]
    assert len({distinct_pool((7, 8, 9), 2, 3, 0, "pool", str(place)) for place in range(40)}) == 6


def test_up_to_100_000_combinations_are_shuffled_and_more_are_drawn() -> None:
    """The choice is part of what a seed gives: recorded pools rest on it."""
    for n, shuffled in ((100_000, True), (100_001, False)):
        rng = np.random.default_rng(0)
        expected = rng.permutation(n)[0] if shuffled else rng.choice(n, 1, replace=False, shuffle=False)[0]
        assert next(combinations_in_random_order(n, 1, np.random.default_rng(0))) == (expected,)


def test_plans_by_their_shapes_and_the_names_of_repeated_tasks() -> None:
    """Two of three test classes make 3 combinations; episodes 3 to 5 repeat them, 6 repeats one again."""
    source = toy_tasks(n_way=2, n_test_tasks=7)
    plan = source.plan("test", range(7))
    assert plan.support_ids.shape == plan.support_labels.shape == (7, 4)
    assert plan.query_ids.shape == plan.query_labels.shape == (7, 6)
    assert plan.label_of_class.shape == (7, 2)
    repeats = ["", "", "", "#1", "#1", "#1", "#2"]
    names = [".".join(map(str, task)) for task in plan.combinations]
    assert list(plan.task_ids) == [f"test:{name}{repeat}" for name, repeat in zip(names, repeats, strict=True)]
    assert names[3:6] == names[:3]
    assert names[6] == names[0]
    for index, row in zip(plan.task_ids, np.concatenate([plan.support_ids, plan.query_ids], 1), strict=True):
        assert len(set(row.tolist())) == 10, index
    assert source.plan("test", [4]).support_ids.tolist() == plan.support_ids[4:5].tolist()
    for split, index, held in (("train", -1, 10), ("validation", 4, 4), ("test", 7, 7), ("test", -1, 7)):
        said = f"toy: there is no {split} task {index}; the split has {held}"
        assert refused(lambda at=(split, index): source.episodes(at[0], [at[1]]))[0] == said  # type: ignore[arg-type]
    assert toy_tasks(n_train_tasks=None).plan("train", [10**6]).task_ids[0].startswith("train:")


def test_a_description_is_the_whole_of_the_settings() -> None:
    table = dataclasses.replace(toy_table(), details={"source": "made here"})
    described = toy_tasks(table, train_n_way=8, n_train_tasks=1, seed=5, eval_seed=6, labels="sorted").describe()
    names = [f"c{place:02d}" for place in range(14)]
    assert described.pop("pools") == {
        "train": [names[:8]], "validation": [names[8:11]] * 4, "test": [names[11:]] * 4,
    }  # fmt: skip
    assert described == {
        "kind": "few-shot classification", "data": "toy", "details": {"source": "made here"}, "n_way": 3, "k_shot": 2,
        "n_query": 3, "labels": "sorted", "classes": "disjoint", "n_train_classes": None, "seed": 5, "eval_seed": 6,
        "train_n_way": 8, "n_tasks": {"train": 1, "validation": 4, "test": 4}, "class_names": names,
        "split": {"train": names[:8], "validation": names[8:11], "test": names[11:]},
        "examples_per_class": {split: {"min": 30, "max": 30} for split in ("train", "validation", "test")},
    }  # fmt: skip
    assert "train_n_way" not in toy_tasks().describe()
    uneven = dataclasses.replace(table, examples=(table.examples[0][:20], *table.examples[1:]))
    assert toy_tasks(uneven).describe()["examples_per_class"]["train"] == {"min": 20, "max": 30}


# ---------------------------------------------------------------------------------------------- groups


def group_tasks(n_rows: int = 3, **settings: Any) -> GroupTasks:
    """Groups a to f of ``n_rows`` rows; row i has x = i and y = -i. Two for training and each of the others."""
    rows = tuple(np.arange(n_rows * k, n_rows * (k + 1)) for k in range(6))
    x = torch.arange(6.0 * n_rows)[:, None]
    table = GroupTable("toy", tuple("abcdef"), rows, x, -x, {"source": "made here"}, 2.0, 3.0)
    split = settings.pop("split", ClassSplit((0, 1), (2, 3), (4, 5)))
    return GroupTasks(table, split, **{"k_shot": 1, "n_query": 2, **settings})


@pytest.mark.parametrize("name", ["k_shot", "n_query", "n_train_tasks", "n_validation_tasks", "n_test_tasks"])
def test_the_least_of_each_count_of_groups(name: str) -> None:
    assert getattr(group_tasks(**{name: 1}), name) == 1
    message = f"toy: {name} must be at least 1, not 0"
    assert refused(lambda: group_tasks(**{name: 0})) == (message, name, 0)


def test_groups_that_are_too_few_or_too_small() -> None:
    short = "toy: the train group 'a' has 3 rows; 4 are needed (k_shot + n_query)"
    assert refused(lambda: group_tasks(k_shot=2)) == (short, "k_shot", None)
    empty = ClassSplit((0, 1), (), (4, 5))
    assert refused(lambda: group_tasks(split=empty)) == ("toy: the validation split has no group", "split", None)
    many = "toy: 3 training tasks were asked for but there are 2 training groups"
    assert refused(lambda: group_tasks(n_train_tasks=3)) == (many, "n_train_tasks", 3)
    assert group_tasks(n_train_tasks=2).n_tasks("train") == 2
    for split, index, held in (("train", -1, 2), ("validation", 3, 3), ("test", 2, 2), ("test", -1, 2)):
        said = f"toy: there is no {split} episode {index}; the split has {held}"
        source = group_tasks(n_validation_tasks=3, n_test_tasks=2)
        found = refused(lambda of=source, at=(split, index): of.episodes(at[0], [at[1]]))  # type: ignore[arg-type]
        assert found == (said, "indices", None)


def test_episodes_of_groups_hold_their_own_rows_once() -> None:
    """All three rows of a group are used: two in the query set, one in the support set; groups are visited in turn."""
    source = group_tasks(n_test_tasks=5)
    for split, n in (("train", 6), ("test", 5)):
        episode = source.episodes(split, range(n))  # type: ignore[arg-type]
        assert episode.support.targets.shape == (n, 1, 1)
        assert episode.query.targets.shape == (n, 2, 1)
        for row, task_id in enumerate(episode.task_ids):
            place = "abcdef".index(task_id.split(":")[1][0])
            both = [batch.inputs["x"][row, :, 0].tolist() for batch in (episode.support, episode.query)]
            assert sorted(both[0] + both[1]) == [3 * place, 3 * place + 1, 3 * place + 2]
            assert episode.query.targets[row, :, 0].tolist() == [-value for value in both[1]]
            assert episode.support.targets[row, :, 0].tolist() == [-value for value in both[0]]
    names = list(source.episodes("test", range(5)).task_ids)
    first = names[:2]
    assert sorted(first) == ["test:e", "test:f"]
    assert names == [*first, *(f"{name}#1" for name in first), f"{first[0]}#2"]
    visits = source.episodes("train", range(20)).task_ids
    assert all({*visits[k : k + 2]} == {"train:a", "train:b"} for k in range(0, 20, 2))
    one = group_tasks(n_train_tasks=1)
    assert set(one.episodes("train", range(4)).task_ids) == {f"train:{one.describe()['pools']['train'][0][0]}"}
    orders = {
        tuple(group_tasks(seed=seed).episodes("train", [0]).query.inputs["x"].flatten().tolist()) for seed in range(9)
    }
    assert len(orders) > 2
    assert len({group_tasks(eval_seed=seed).episodes("test", [0]).task_ids for seed in range(9)}) == 2


def test_a_description_of_groups_is_whole() -> None:
    described = group_tasks(n_validation_tasks=3, n_test_tasks=1, n_train_tasks=1, seed=5, eval_seed=6).describe()
    pools = described.pop("pools")
    assert [len(pools[split]) for split in ("train", "validation", "test")] == [1, 3, 1]
    assert pools["validation"][0] == pools["validation"][2] != pools["validation"][1]
    assert described == {
        "kind": "few-shot regression", "data": "toy", "details": {"source": "made here"}, "k_shot": 1, "n_query": 2,
        "seed": 5, "eval_seed": 6, "target_mean": 2.0, "target_sd": 3.0,
        "n_tasks": {"train": 1, "validation": 3, "test": 1},
        "split": {"train": ["a", "b"], "validation": ["c", "d"], "test": ["e", "f"]},
        "rows_per_group": {split: {"min": 3, "max": 3} for split in ("train", "validation", "test")},
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- own data

ROWS: dict[str, Any] = {"x": list(range(36)), "place": list("aabbccddeeff" * 3), "y": [row / 2 for row in range(36)]}
"""36 rows of 6 places with 6 rows each."""
GROUPED: dict[str, Any] = {"group": "place", "label": "y", "k_shot": 1, "n_query": 2}
CLASSES: dict[str, Any] = {"label": "place", "inputs": "x", "n_way": 2, "n_query": 2}


def changed(**columns: Any) -> dict[str, Any]:
    return {**ROWS, **columns}


OWN: list[tuple[object, dict[str, Any], str, str, object]] = [
    (ROWS, {**CLASSES, "missing": "drop"}, "missing must be 'refuse' or 'impute', not 'drop'", "missing", "drop"),
    (ROWS, {**CLASSES, "standardize": "both"}, "standardize must be 'none' or 'inputs' or 'all', not 'both'",
     "standardize", "both"),
    (ROWS, {**CLASSES, "standardize": "all"}, "standardize='all' is for regression targets; classes have none",
     "standardize", None),
    *((ROWS, {**GROUPED, name: 3}, f"{name}=3 is for classes; with group= a task is the rows of one group", name, 3)
      for name in ("n_way", "image_size", "published", "n_train_classes")),
    (ROWS, {**GROUPED, "encoder": "bert"},
     "encoder must be 'words' or an encoder such as metascale.models.text.load_encoder(name), not 'bert'", "encoder",
     "bert"),
    (ROWS, {**GROUPED, "encoder": WordEncoder(("a",))}, "an encoder is for texts, which these data are not", "encoder",
     None),
    (ROWS, {**CLASSES, "encoder": WordEncoder(("a",))}, "an encoder is for texts, which these data are not", "encoder",
     None),
    (ROWS, {**GROUPED, "group": "town"}, "there is no group column 'town'; there are x, place", "group", "town"),
    (ROWS, {**GROUPED, "group": "y"}, "there is no group column 'y'; there are x, place", "group", "y"),
    (changed(y=[*ROWS["y"][:9], float("nan"), *ROWS["y"][10:]]), GROUPED, "row 9 has no number in 'y'", "label", None),
    (changed(y=["a"] * 36), GROUPED, "the targets of regression are numbers; column 'y' holds texts", "label", None),
    ((np.zeros(2), np.zeros(2)), GROUPED,
     "group= is for a table with columns: a data frame, a mapping of columns, a data set of scikit-learn or one part "
     "of a Hugging Face data set, not for tuple", "group", "place"),
    (ROWS, {**CLASSES, "split": {"training": []}}, "split names train, validation and test, not 'training'", "split",
     "training"),
    (ROWS, {**CLASSES, "split": {"train": "ab", "val": "cg", "test": "f"}}, "data: there is no class 'g' for val",
     "split", "g"),
    (ROWS, {**GROUPED, "split": {"train": "ab", "val": "cg", "test": "f"}}, "data: there is no group 'g' for val",
     "split", "g"),
    (ROWS, {**CLASSES, "n_query": 6, "split": {"train": "ab", "val": "c", "test": "f"}},
     "data: there is no class 'a' for train; 6 classes with fewer than 7 examples (k_shot + n_query) left out", "split",
     "a"),
    (ROWS, {**CLASSES, "split": {"train": "ab", "val": "cd"}},
     "split must name the classes of train, validation and test", "split", None),
    *((ROWS, {**CLASSES, "split": split},
       f"split must name the classes of train, validation and test, or be three shares, not {split!r}", "split", split)
      for split in ("abc", (0.5, 0.5))),
    (ROWS, {**CLASSES, "n_way": 3},
     "data: 3-way tasks for training, validation and test need at least 9 classes, and there are 6; lower n_way, "
     "k_shot or n_query, or give split", "n_way", 3),
    (ROWS, {**GROUPED, "n_query": 6},
     "data: regression tasks for training, validation and test need at least 3 groups, and there are 0; 6 groups with "
     "fewer than 7 rows (k_shot + n_query) left out; lower k_shot or n_query", "group", None),
    (ROWS, {**CLASSES, "inputs": ["x", "y"], "label": "place", "missing": "impute", "published": "fc100"},
     "fc100 is read from the path of a folder, not from a dict", "data", None),
    *((".", {name: value, "published": "fc100"}, f"fc100 has its own classes and split: leave {name} out", name, value)
      for name, value in (("label", "y"), ("inputs", "x"), ("split", (0.6, 0.2, 0.2)), ("categorical", "x"))),
    (list(zip(range(36), ROWS["place"], strict=True)), {"n_way": 2, "n_query": 2, "missing": "impute"},
     "missing='impute' is for a table with a column for each feature, which these data are not", "missing", "impute"),
    (list(zip(range(36), ROWS["place"], strict=True)), {"n_way": 2, "n_query": 2, "standardize": "inputs"},
     "standardize='inputs' is for a table with a column for each feature, which these data are not", "standardize",
     "inputs"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(OWN)))
def test_refusals_of_few_shot(number: int) -> None:
    data, arguments, message, field, value = OWN[number]
    assert refused(lambda: few_shot(data, **arguments)) == (message, field, value)


def test_all_that_was_left_out_is_said_where_a_class_is_missing() -> None:
    """One example twice, two called both a and b, and class c with 2 of the 3 examples needed."""
    x = np.array([1.0, 1, 2, 3, 4, 9, 9, 5, 6, 7, 8, 10, 11])
    labels = [*"aaaaa", *"ab", *"bbb", *"cc", "b"]
    arguments: dict[str, Any] = {"n_way": 2, "n_query": 2}
    lost = (
        "1 repeated example left out; 2 examples with several labels left out; 1 class with fewer than 3 examples "
        "(k_shot + n_query) left out"
    )
    given = {"train": "ab", "val": "c", "test": "a"}
    found = refused(lambda: few_shot((x, labels), split=given, **arguments))
    assert found == (f"data: there is no class 'c' for val; {lost}", "split", "c")
    said = (
        f"data: 2-way tasks for training, validation and test need at least 6 classes, and there are 2; {lost}; lower "
    )
    found = refused(lambda: few_shot((x, labels), **arguments))
    assert found == (f"{said}n_way, k_shot or n_query, or give split", "n_way", 2)
    table = {"x": [0.0, 0, 1, 2, 3, 4], "y": [0.5, 0.5, 1, 2, 3, 4], "place": [*"aaab", *"bc"]}
    said = "data: there is no group 'c' for test; 1 repeated row left out; 3 groups with fewer than 3 rows "
    given = {"train": "", "val": "", "test": "c"}
    found = refused(lambda: few_shot(table, group="place", label="y", k_shot=1, n_query=2, split=given))
    assert found == (f"{said}(k_shot + n_query) left out", "split", "c")
    said = (
        "data: regression tasks for training, validation and test need at least 3 groups, and there are 0; 1 repeated "
    )
    said += "row left out; 3 groups with fewer than 3 rows (k_shot + n_query) left out; lower k_shot or n_query"
    found = refused(lambda: few_shot(table, group="place", label="y", k_shot=1, n_query=2))
    assert found == (said, "group", None)


def test_a_refused_word_comes_with_the_allowed_ones() -> None:
    for name, allowed in (("missing", "'refuse' or 'impute'"), ("standardize", "'none' or 'inputs' or 'all'")):
        with pytest.raises(InputError) as caught:
            few_shot(ROWS, **CLASSES, **{name: "other"})
        assert caught.value.allowed == allowed


def test_what_nothing_is_said_of() -> None:
    """5-way 1-shot with 15 queries, endless; 16 examples of each of 15 classes just suffice, one less does not."""
    x, labels = np.arange(240.0), np.arange(240) % 15
    tasks = few_shot((x, labels))
    assert isinstance(tasks, FewShotTasks)
    wanted = {"n_way": 5, "k_shot": 1, "n_query": 15, "n_train_classes": None, "seed": 0, "eval_seed": 0}
    described = tasks.describe()
    assert {name: described[name] for name in wanted} == wanted
    assert described["n_tasks"] == {"train": None, "validation": 100, "test": 600}
    assert described["data"] == "data"
    assert described["details"] == {"source": "tuple", "n_examples": 240, "left_out": {}, "split": "drawn with seed 0"}
    assert {split: len(names) for split, names in described["split"].items()} == dict.fromkeys(described["split"], 5)
    with pytest.raises(
        InputError, match=r"need at least 15 classes, and there are 14; 1 class with fewer than 16 exam"
    ):
        few_shot((x[:-1], labels[:-1]))
    own = few_shot((x, labels), 2, 3, 4, n_train_tasks=7, n_validation_tasks=8, n_test_tasks=9, n_train_classes=6,
                   seed=1, eval_seed=2, split_seed=3, name="own")  # fmt: skip
    assert isinstance(own, FewShotTasks)
    described = own.describe()
    wanted = {"n_way": 2, "k_shot": 3, "n_query": 4, "n_train_classes": 6, "seed": 1, "eval_seed": 2, "data": "own"}
    assert {name: described[name] for name in wanted} == wanted
    assert described["n_tasks"] == {"train": 7, "validation": 8, "test": 9}
    assert described["details"]["split"] == "drawn with seed 3"
    assert own.split == ClassSplit.draw("own", own.table.classes, {"train": 9, "validation": 3, "test": 3}, 3)
    shared = few_shot((x, labels), 2, 3, 4, split=(0.6, 0.2, 0.2), split_seed=3, name="own")
    assert isinstance(shared, FewShotTasks)
    assert shared.split == own.split
    assert shared.describe()["details"]["split"] == "drawn with seed 3"
    given = few_shot((x, labels), 2, 3, 4, split={"train": range(11), "dev": [11, 12], "test": [13, 14]})
    assert given.describe()["details"]["split"] == "as given"


@pytest.mark.parametrize(("n_classes", "fifth"), [(6, 2), (12, 2), (13, 3), (17, 3), (18, 4)])
def test_a_fifth_of_the_classes_or_as_many_as_a_task_has(n_classes: int, fifth: int) -> None:
    tasks = few_shot((np.arange(3.0 * n_classes), np.arange(3 * n_classes) % n_classes), 2, 1, 2)
    assert isinstance(tasks, FewShotTasks)
    sizes = [len(tasks.split.of(split)) for split in ("train", "validation", "test")]  # type: ignore[arg-type]
    assert sizes == [n_classes - 2 * fifth, fifth, fifth]


def test_regression_where_nothing_is_said_of(caplog: pytest.LogCaptureFixture) -> None:
    table = changed(x=[*range(35), 34], y=[*ROWS["y"][:35], 17.0], place=[*ROWS["place"][:35], "f"])
    with caplog.at_level(logging.WARNING, "metascale.tasks"):
        tasks = few_shot(table, **GROUPED, seed=1, eval_seed=2, split_seed=3, name="own")
    assert [record.getMessage() for record in caplog.records] == ["own: left out 1 repeated row"]
    assert isinstance(tasks, GroupTasks)
    described = tasks.describe()
    assert described["details"] == {
        "n_examples": 35, "left_out": {"repeated row": 1}, "split": "drawn with seed 3", "features": ["x"],
        "standardized": True,
    }  # fmt: skip
    wanted = {"k_shot": 1, "n_query": 2, "seed": 1, "eval_seed": 2, "data": "own", "target_mean": 0.0, "target_sd": 1.0}
    assert {name: described[name] for name in wanted} == wanted
    assert described["n_tasks"] == {"train": 4, "validation": 100, "test": 600}
    assert tasks.split == ClassSplit.draw("own", list("abcdef"), {"train": 4, "validation": 1, "test": 1}, 3)
    assert tasks.table.y[:, 0].tolist() == table["y"]
    assert tasks.table.y.dtype == torch.float32
    assert {name: rows.tolist() for name, rows in zip(tasks.table.groups, tasks.table.rows, strict=True)} == {
        letter: [2 * place, 2 * place + 1, 12 + 2 * place, 13 + 2 * place, 24 + 2 * place]
        + ([25 + 2 * place] if letter != "f" else [])
        for place, letter in enumerate("abcdef")
    }
    own = np.concatenate([tasks.table.rows[place] for place in tasks.split.train])
    x = np.arange(36.0)
    x[35] = 34
    np.testing.assert_allclose(tasks.table.x[:, 0], (x - x[own].mean()) / x[own].std(), rtol=1e-5, atol=1e-6)


def test_categories_of_groups_by_one_name_or_several() -> None:
    for categorical in ("x", ["x"]):
        tasks = few_shot(changed(x=[5, 4] * 18), categorical=categorical, **GROUPED)
        assert tasks.describe()["details"]["features"] == ["x=4", "x=5"]


def test_texts_of_classes_with_words_or_an_encoder() -> None:
    texts = [f"{word} {number}" for word in ("ant", "bee", "cat", "dog", "elk", "fox") for number in range(3)]
    labels = [text[0] for text in texts]
    tasks = few_shot((texts, labels), 2, 1, 2, split={"train": "ab", "val": "cd", "test": "ef"})
    assert isinstance(tasks, BagOfWords)
    assert tasks.n_tokens == 2 + 5, "ant, bee, 0, 1, 2"
    x = tasks.episodes("test", [0]).query.inputs["x"]
    assert {tuple(row) for row in x.reshape(-1, 7).tolist()} <= {
        (0, 0.5, 0, 0, *(0.5 * (word == number) for word in range(3))) for number in range(3)
    }, "an unknown word is token 1; ant and bee are more frequent than the numbers"
    encoder = WordEncoder(("ant",), max_length=1)
    tokens = few_shot((texts, labels), 2, 1, 2, encoder=encoder)
    assert isinstance(tokens, BagOfWords)
    assert tokens.n_tokens == 3


# ---------------------------------------------------------------------------------------------- columns


def test_columns_as_numbers_or_categories() -> None:
    class NAType:
        """As pandas' missing value."""

    nan = float("nan")
    numbers = column_of("a", [1, None, NAType(), nan, True, np.float32(2.5), torch.tensor(3)])
    np.testing.assert_array_equal(numbers, [1, nan, nan, nan, 1, 2.5, 3])
    assert numbers.dtype == np.float64  # type: ignore[union-attr]
    np.testing.assert_array_equal(column_of("a", np.array([1, nan])), [1, nan])
    assert column_of("a", np.array([1, 2], np.int8)).dtype == np.float64  # type: ignore[union-attr]
    assert column_of("a", np.array(["u", "v"])) == ("u", "v")
    assert column_of("a", ["u ", None, " ", 3, 4.0, True]) == ("u", None, None, "3", "4", "True")
    assert column_of("a", np.array([1.0, nan, 10.0]), True) == ("1", None, "10")
    assert column_of("a", np.array([True, False]), True) == ("True", "False")
    table = [
        ([None, nan], False, "column 'a' has no values: leave it out with inputs=", "inputs"),
        ([1, float("inf")], False, "column 'a' is infinite in row 1", "data"),
        (np.array([-np.inf]), False, "column 'a' is infinite in row 0", "data"),
        ([1, b"u"], False, "column 'a' has b'u' in row 1, where numbers, texts and truth values are allowed: leave the "
         "column out with inputs=", "inputs"),
        ([None, 1.5], True, "column 'a' has 1.5 in row 1: categories are texts or whole numbers", "categorical"),
        (["u", 1.5], False, "column 'a' has 1.5 in row 1: categories are texts or whole numbers", "categorical"),
    ]  # fmt: skip
    for values, categorical, message, field in table:
        found = refused(lambda of=values, as_such=categorical: column_of("a", of, as_such))  # type: ignore[misc]
        assert found == (message, field, "a")


def test_what_kind_of_column_it_is() -> None:
    nan = float("nan")
    table: list[tuple[Any, bool, bool]] = [
        (np.zeros(2), True, True), (np.zeros(2, np.uint8), True, True), (np.zeros(2, bool), True, True),
        (np.zeros((2, 2)), False, False), (np.array(["u"]), False, True), ([1, 2.5, None, True], True, True),
        ([None, nan], False, True), ([], False, True), ([1, "u"], False, True), ([[1]], False, False),
        ([b"u"], False, False), ([None, "u"], False, True), (np.array([1, None], object), True, True),
        (np.zeros(0), True, True), (np.zeros(0, bool), True, True),
    ]  # fmt: skip
    for values, numeric, flat in table:
        assert (is_numeric(values), is_plain(values)) == (numeric, flat), values


def test_names_are_sorted_by_number_then_alphabet() -> None:
    assert sorted_names({"b", "10", "-2", "9", "a", "-a", "1.5"}) == ("-2", "9", "10", "-a", "1.5", "a", "b")
    assert scale_of(np.array([1.0, np.nan, 3.0])) == (2.0, 1.0)
    assert scale_of(np.array([0.1, 0.1, 0.1])) == (0.1, 1.0)


def encoded(columns: dict[str, Any], standardize: bool = False, missing: Any = "refuse", **more: Any) -> Any:
    """Rows 0 and 1 train, row 2 does not, row 3 is not used at all."""
    return Features({name: column_of(name, values) for name, values in columns.items()}, **more).encoded(
        [0, 1, 2], [0, 1], standardize, missing
    )


def test_rows_as_vectors() -> None:
    nan = float("nan")
    found = encoded({"a": [1, 3, 5, nan], "b": ["v", "u", "w", "z"]}, standardize=True)
    assert found.x.tolist() == [[-1, 0, 1], [1, 1, 0], [3, 0, 0], [0, 0, 0]]
    assert found.x.dtype == np.float32
    assert found.names == ("a", "b=u", "b=v")
    assert found.details == {
        "features": ["a", "b=u", "b=v"], "standardized": True, "categories_without_training_rows": {"b": ["w"]},
    }  # fmt: skip
    found = encoded({"a": [1, 3, nan, nan], "b": ["u", None, "u", None]}, missing="impute")
    assert found.x.tolist() == [[1, 1], [3, 0], [2, 1], [2, 0]]
    assert found.details == {"features": ["a", "b=u"], "standardized": False, "imputed": {"a": 1, "b": 1}}
    with pytest.raises(InputError) as caught:
        encoded({"a": [1, 3, nan, nan], "b": ["u", None, None, "u"]})
    assert str(caught.value) == (
        "there are rows without a value in 'a' (1), 'b' (2): give missing='impute', or leave columns out with inputs="
    )
    assert (caught.value.field, caught.value.value, caught.value.allowed) == ("missing", "refuse", "refuse or impute")
    for column in ([None, None, 1, 2], [None, None, "u", "u"]):
        found = refused(lambda own=column: encoded({"a": own}, missing="impute"))
        assert found == ("no row of a training task has a value in 'a': leave it out with inputs=", "data", None)
    most = float(np.finfo(np.float32).max)
    said = ("column 'a' has numbers that are too large for 32 bits", "data", "a")
    assert refused(lambda: encoded({"a": [1, 2, -most, 1]})) == said
    assert encoded({"a": [1, 2, 0.99 * most, 1]}).x.shape == (4, 1)


def test_texts_are_categories_up_to_twenty_or_half_of_the_rows() -> None:
    def known(n_texts: int, n_rows: int, **more: Any) -> int:
        column = tuple(f"n{row % n_texts}" for row in range(n_rows))
        return len(Features({"a": column}, **more).encoded(range(n_rows), range(n_rows), False, "refuse").names)

    assert known(20, 20) == 20
    assert known(21, 42) == 21
    assert known(21, 21, categorical=frozenset("a")) == 21
    for n_texts, n_rows in ((21, 21), (21, 41), (22, 43)):
        assert refused(lambda given=(n_texts, n_rows): known(*given)) == (
            f"column 'a' has {n_texts} different texts in {n_rows} rows, too many for categories: choose columns with "
            "inputs=, or name it in categorical=", "inputs", "a",
        )  # fmt: skip


class Column(list):  # type: ignore[type-arg]
    """A column of a data frame: a list with a name, a kind and ``tolist``."""

    def __init__(self, values: Any, dtype: Any = "object", name: object = None) -> None:
        super().__init__(values)
        self.dtype, self.name = dtype, name

    def tolist(self) -> list[Any]:
        return [*self]


class Frame:
    iloc = None

    def __init__(self, columns: list[tuple[object, Column]]) -> None:
        self.columns, self._columns = [name for name, _ in columns], dict(columns)

    def __len__(self) -> int:
        return 2

    def __getitem__(self, name: object) -> Column:
        return self._columns[name]


class Bunch(dict):  # type: ignore[type-arg]
    """As of scikit-learn: a mapping whose items are attributes too."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


def test_tables_of_data_frames_and_of_scikit_learn() -> None:
    kind = np.dtype("int64")
    numbers, texts, marked = Column([1, 2], kind), Column(["u", "v"]), Column(["w", "z"], "category")
    found = read_table(Frame([(0, numbers), ("b", texts), ("c", marked)]))
    assert found is not None
    assert {name: list(values) for name, values in found.columns.items()} == {
        "0": [1, 2],
        "b": ["u", "v"],
        "c": ["w", "z"],
    }
    assert isinstance(found.columns["0"], np.ndarray)
    assert found[1:] == (None, (), frozenset("c"))
    twice = Frame([("a", numbers), ("b", texts)])
    twice.columns = ["a", "b", "a"]
    assert refused(lambda: read_table(twice)) == ("the table has two columns called 'a'", "data", "a")
    assert read_table((1, 2)) is None
    assert read_table({"a": [1]}) == ({"a": [1]}, None, (), frozenset())

    def bunch(data: Any, target: Any, **more: Any) -> Any:
        table = read_table(Bunch(data=data, target=target, **{"target_names": None, "feature_names": None, **more}))
        assert table is not None
        columns = {name: np.asarray(values).tolist() for name, values in table.columns.items()}
        return columns, table.label, table.class_names, table.categorical

    two = np.array([[1, 2], [3, 4]])
    columns = {"x0": [1, 3], "x1": [2, 4], "target": [0, 1]}
    assert bunch(two, [0, 1]) == (columns, "target", (), frozenset())
    assert bunch(two, [0, 1], target_names=np.array(["u", "v"])) == (columns, "target", ("u", "v"), frozenset())
    for target, names in (([0, 1], ["u"]), ([-1, 0], ["u", "v"]), ([0.0, 1.0], ["u", "v"])):
        assert bunch(two, target, target_names=names)[2] == ()
    assert bunch(two, [0, 1], feature_names=["p", "q"])[0] == {"p": [1, 3], "q": [2, 4], "target": [0, 1]}
    assert bunch(two[:, None], [0, 1])[0] == {"x": [[[1, 2]], [[3, 4]]], "target": [0, 1]}
    assert bunch(["u", "v"], [0, 1])[0] == {"text": ["u", "v"], "target": [0, 1]}
    several = {"x0": [1, 3], "x1": [2, 4], "p": [5, 7], "q": [6, 8]}
    assert bunch(two, two + 4, target_names=["p", "q"]) == (several, None, (), frozenset())
    frame = Frame([("a", numbers), ("c", marked)])
    whole = {"a": [1, 2], "c": ["w", "z"], "own": [0, 1]}
    own = Column([0, 1], kind, "own")
    assert bunch(frame, own, target_names=["u", "v"]) == (whole, "own", ("u", "v"), frozenset("c"))
    both = Frame([("own", own), ("other", numbers)])
    assert bunch(frame, both) == ({**whole, "other": [1, 2]}, None, (), frozenset("c"))
    assert refused(lambda: bunch([], [])) == ("the data set has no examples", "data", None)

    class Sparse:
        tocsr = None

        def __len__(self) -> int:
            return 2

    said = "the data are a sparse matrix: give .toarray() of those columns that you need"
    assert refused(lambda: bunch(Sparse(), [0, 1])) == (said, "data", None)


def test_counts_of_what_is_left_out_are_singular_and_plural() -> None:
    """Of classes a to f with 4 examples: one or two once more, one or two also called b; one or two classes short."""
    for more in (1, 2):
        x = [float(row) for row in range(24)]
        labels = [letter for letter in "abcdef" for _ in range(4)]
        x += x[:more] + x[8 : 8 + more] + [50.0] + ([60.0] if more == 2 else [])
        labels += ["a"] * more + ["b"] * more + ["g"] + (["h"] if more == 2 else [])
        tasks = few_shot((np.array(x), labels), 2, 1, 1)
        many = more == 2
        assert tasks.describe()["details"]["left_out"] == {
            "repeated examples" if many else "repeated example": more,
            "examples with several labels": 2 * more,
            f"{'classes' if many else 'class'} with fewer than 2 examples (k_shot + n_query)": more,
        }
        counts = Counter({name: len(own) for name, own in zip(tasks.table.classes, tasks.table.examples, strict=True)})  # type: ignore[union-attr]
        assert counts == {"a": 4, "b": 4, "c": 4 - more, "d": 4, "e": 4, "f": 4}
