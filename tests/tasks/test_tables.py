"""Tables with a column for each feature as few-shot tasks: vectors and episodes worked out by hand."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from metascale.core.errors import InputError
from metascale.tasks.fewshot import FewShotTasks
from metascale.tasks.groups import GroupTasks
from metascale.tasks.own import few_shot
from metascale.testing.task_contract import check_task_source

CLASSES: dict[str, Any] = {
    "n_way": 2,
    "k_shot": 1,
    "n_query": 1,
    "split": {"train": "ab", "val": "cd", "test": "ef"},
    "n_validation_tasks": 1,
    "n_test_tasks": 1,
}
TABLE: dict[str, list[Any]] = {
    "age": [1, 3, 5, 7, 4, 9, -4, 8, -3, 14, 2, 6],
    "colour": ["red", "blue", "red", "blue", "red", "red", "blue", "blue", "teal", "red", "blue", "blue"],
    "member": [True, False, False, False, True, True, False, True, True, False, False, True],
    "kind": list("aabbccddeeff"),
}
ROOT5 = 5**0.5
"""The training rows (kinds a and b) have ages 1, 3, 5 and 7: mean 4, standard deviation sqrt((9 + 1 + 1 + 9) / 4)."""


def frame(columns: dict[str, Any]) -> Any:
    return pytest.importorskip("pandas").DataFrame(columns)


def vectors(tasks: object) -> np.ndarray:
    """[n, d] of all rows, in the order of the table."""
    assert isinstance(tasks, FewShotTasks)
    return tasks.table.fetch(np.arange(12))["x"].numpy()


def test_numbers_are_standardised_and_categories_named_by_training_rows_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Truth values are numbers: one of the four training rows is true, so mean 1/4 and deviation sqrt(3) / 4."""
    with caplog.at_level(logging.WARNING, "metascale.tasks"):
        tasks = few_shot(TABLE, label="kind", **CLASSES, name="mine")
    found = vectors(tasks)
    np.testing.assert_allclose(found[:, 0], (np.array(TABLE["age"]) - 4) / ROOT5, rtol=1e-6)
    blue, red = ([float(colour == each) for colour in TABLE["colour"]] for each in ("blue", "red"))
    assert found[:, 1:3].tolist() == np.stack([blue, red], 1).tolist()
    np.testing.assert_allclose(found[:, 3], [3**0.5 if true else -(3**-0.5) for true in TABLE["member"]], rtol=1e-6)
    assert tasks.describe()["details"]["features"] == ["age", "colour=blue", "colour=red", "member"]
    (record,) = caplog.records
    assert record.getMessage() == "mine: no training row has teal in column 'colour': they count as no category"
    assert tasks.describe()["details"]["categories_without_training_rows"] == {"colour": ["teal"]}


def test_an_episode_by_hand() -> None:
    """The test task holds the four rows of e and f, two of each label; each is recognised by its age."""
    episode = few_shot(TABLE, label="kind", inputs=["age", "colour"], **CLASSES).episodes("test", [0])
    ages = {round((age - 4) / ROOT5, 5): row for row, age in enumerate(TABLE["age"][8:])}
    rows: list[int] = []
    labels: dict[str, int] = {}
    for batch in (episode.support, episode.query):
        assert batch.inputs["x"].shape == (1, 2, 3)
        for vector, label in zip(batch.inputs["x"][0].tolist(), batch.targets[0].tolist(), strict=True):
            row = 8 + ages[round(vector[0], 5)]
            assert vector[1:] == [TABLE["colour"][row] == "blue", TABLE["colour"][row] == "red"]
            assert labels.setdefault(TABLE["kind"][row], label) == label
            rows.append(row)
    assert sorted(rows) == [8, 9, 10, 11]
    assert sorted(labels.values()) == [0, 1]


def test_vectors_do_not_depend_on_the_order_of_rows_nor_on_the_form() -> None:
    expected = vectors(few_shot(TABLE, label="kind", **CLASSES))
    order = np.random.default_rng(0).permutation(12)
    shuffled = {name: [values[row] for row in order] for name, values in TABLE.items()}
    np.testing.assert_allclose(vectors(few_shot(shuffled, label="kind", **CLASSES)), expected[order], rtol=1e-6)
    whole = frame(TABLE)
    marked = whole.astype({"colour": "category"})
    for form in (whole, marked, whole.set_index(np.arange(12)[::-1])):
        np.testing.assert_array_equal(vectors(few_shot(form, label="kind", **CLASSES)), expected)


def test_codes_are_categories_where_they_are_said_to_be() -> None:
    """The same codes, also where a missing one has made them real; in the order of the numbers."""
    table = {**TABLE, "code": [10, 9, 10, 9, 9, 9, 9, 9, 10, 10, 10, 7]}
    arguments = {"label": "kind", "inputs": ["code", "age"], "categorical": "code", **CLASSES}
    tasks = few_shot(table, **arguments)
    assert tasks.describe()["details"]["features"] == ["code=9", "code=10", "age"]
    assert vectors(tasks)[[0, 1, 11], :2].tolist() == [[0, 1], [1, 0], [0, 0]]
    real = {**table, "code": [*map(float, table["code"][:-1]), np.nan]}
    assert vectors(few_shot(real, missing="impute", **arguments))[:, :2].tolist() == vectors(tasks)[:, :2].tolist()
    alone = few_shot({**TABLE, "row": list("abcdefghijkl")}, label="kind", inputs="row", categorical="row", **CLASSES)
    assert alone.describe()["details"]["features"] == [f"row={letter}" for letter in "abcd"]


def test_missing_values_are_refused_or_the_mean_of_training_rows() -> None:
    """Without row 0 the ages of training rows are 3, 5 and 7: mean 5, standard deviation sqrt(8 / 3)."""
    table = {**TABLE, "age": [None, *TABLE["age"][1:]], "colour": ["", *TABLE["colour"][1:-1], None]}
    message = r"rows without a value in 'age' \(1\), 'colour' \(2\): give missing='impute'"
    with pytest.raises(InputError, match=message):
        few_shot(table, label="kind", **CLASSES)
    tasks = few_shot(table, label="kind", missing="impute", inputs=["age", "colour"], **CLASSES)
    expected = [0, *((np.array(TABLE["age"][1:]) - 5) / (8 / 3) ** 0.5)]
    np.testing.assert_allclose(vectors(tasks)[:, 0], expected, rtol=1e-6)
    assert vectors(tasks)[[0, 11], 1:].tolist() == [[0, 0], [0, 0]]
    assert tasks.describe()["details"]["imputed"] == {"age": 1, "colour": 2}
    whole = frame(table)
    whole["age"] = whole["age"].astype("Int64")  # pandas' own missing value
    np.testing.assert_array_equal(
        vectors(few_shot(whole, label="kind", missing="impute", inputs=["age", "colour"], **CLASSES)), vectors(tasks)
    )
    raw = few_shot(table, label="kind", missing="impute", inputs="age", standardize="none", **CLASSES)
    assert vectors(raw)[:, 0].tolist() == [5, *TABLE["age"][1:]]


def test_a_column_that_does_not_vary_in_training_rows_is_only_centred() -> None:
    table = {"age": [0.1] * 4 + [0.2] * 7 + [1.1], "row": range(12), "kind": TABLE["kind"]}
    found = vectors(few_shot(table, label="kind", **CLASSES))[:, 0]
    np.testing.assert_allclose(found[[0, 11]], [0, 1], atol=1e-7)


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({"age": [1, float("inf")] * 6}, {}, "column 'age' is infinite in row 1"),
        ({"age": [None] * 12}, {"inputs": ["age", "colour"]}, "column 'age' has no values: leave it out"),
        (
            {"age": [None] * 4 + [1] * 8, "row": range(12)},
            {"missing": "impute"},
            "no row of a training task has a value in 'age'",
        ),
        ({"age": [1, {}] * 6}, {"inputs": ["age"]}, "at least one tensor"),
        ({"age": [1, {}] * 6}, {}, "say with inputs= which column"),
        ({"age": [0.5] * 12}, {"categorical": ["age"]}, "column 'age' has 0.5 in row 0: categories are texts or whole"),
        ({"age": [1] * 11}, {}, "column 'age' has 11 rows and column 'kind' 12"),
        ({"age": [1e39] * 12, "row": range(12)}, {"standardize": "none"}, "too large for 32 bits"),
        ({}, {"categorical": "size"}, "there is no column 'size'"),
        ({}, {"inputs": ["kind", "age"]}, "column 'kind' is what is to be predicted"),
        ({}, {"standardize": "all"}, "standardize='all' is for regression targets"),
        ({}, {"standardize": True}, "standardize must be 'none' or 'inputs' or 'all', not True"),
        ({}, {"missing": "mean"}, "missing must be 'refuse' or 'impute', not 'mean'"),
        (
            {"word": list("abcdefghijkl")},
            {"inputs": "word", "missing": "impute"},
            "missing='impute' is for a table with a column for each",
        ),
    ],
)
def test_tables_that_are_no_features_are_refused(columns: Any, arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        few_shot({**TABLE, **columns}, label="kind", **CLASSES, **arguments)


def test_texts_that_are_no_categories_are_refused() -> None:
    table = {"name": [f"n{row}" for row in range(60)], "age": range(60), "kind": np.arange(60) % 6}
    arguments: dict[str, Any] = {"label": "kind", "n_way": 2, "n_query": 3}
    with pytest.raises(InputError, match="column 'name' has 60 different texts in 60 rows, too many for categories"):
        few_shot(table, **arguments)
    assert len(few_shot(table, categorical="name", **arguments).describe()["details"]["features"]) == 21


@pytest.mark.parametrize("field", ["standardize", "categorical", "missing"])
def test_arguments_of_tables_are_refused_elsewhere(field: str) -> None:
    given: dict[str, Any] = {"standardize": "none", "categorical": "age", "missing": "impute"}
    with pytest.raises(InputError, match=f"{field}=.* is for a table with"):
        few_shot((np.arange(24.0).reshape(12, 2), TABLE["kind"]), **CLASSES, **{field: given[field]})


@pytest.mark.parametrize("as_frame", [False, True])
def test_data_sets_of_scikit_learn(as_frame: bool) -> None:
    """Digits have 10 classes and 64 columns; wine and iris have names of classes, and wine too few of them."""
    datasets = pytest.importorskip("sklearn.datasets")
    if as_frame:
        pytest.importorskip("pandas")
    digits = datasets.load_digits(as_frame=as_frame)
    tasks = few_shot(digits, n_way=2, k_shot=1, n_query=5)
    assert isinstance(tasks, FewShotTasks)
    assert tasks.table.classes == tuple("0123456789")
    x, target = (np.asarray(values) for values in (digits.data, digits.target))
    train = x[np.isin(target, tasks.split.train)]
    varies = np.ptp(train, 0) > 0
    expected = (x - train.mean(0)) / np.where(varies, train.std(0), 1)
    np.testing.assert_allclose(tasks.table.fetch(np.arange(len(x)))["x"], expected, rtol=1e-4, atol=1e-6)
    wine = datasets.load_wine(as_frame=as_frame)
    with pytest.raises(InputError, match=r"2-way tasks .* need at least 6 classes, and there are 3"):
        few_shot(wine, n_way=2)
    groups = few_shot(wine, label="alcohol", group="target", k_shot=5, n_query=10)
    assert isinstance(groups, GroupTasks)
    assert groups.table.groups == tuple("012")
    assert "alcohol" not in groups.table.details["features"]
    assert groups.table.x.shape == (178, 12)
    split = {"train": ["setosa", "virginica"], "val": ["versicolor"], "test": []}
    with pytest.raises(InputError, match="the validation split has 1"):
        few_shot(datasets.load_iris(as_frame=as_frame), n_way=2, split=split)


def test_targets_of_scikit_learn_that_are_no_classes() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    with pytest.raises(InputError, match="need at least 6 classes, and there are 0; 214 classes with"):
        few_shot(datasets.load_diabetes(), n_way=2)
    table = {**TABLE, "price": [0.5] * 12}
    with pytest.raises(InputError, match=r"labels must name classes .* of example 0 is 0.5; .* give group="):
        few_shot(table, label="price", **CLASSES)
    with pytest.raises(InputError, match="say with label= which column"):
        few_shot(datasets.load_linnerud(), n_way=2)
    tasks = few_shot(datasets.load_linnerud(), label="Weight", inputs="Chins", group="Pulse", n_query=1)
    assert isinstance(tasks, GroupTasks)
    assert tasks.table.details["features"] == ["Chins"]


SALES: dict[str, list[Any]] = {
    "city": ["rome"] * 3 + ["oslo"] * 3 + ["bern"] * 3 + ["cork"] * 2,
    "size": [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0],
    "kind": ["flat", "house", "flat"] * 3 + ["hut", "hut"],
    "price": [10.0, 20, 30, 11, 22, 33, 12, 24, 36, 1, 2],
}
CITIES: dict[str, Any] = {
    "label": "price",
    "group": "city",
    "k_shot": 1,
    "n_query": 2,
    "split": {"train": ["rome"], "validation": ["oslo"], "test": ["bern"]},
    "n_validation_tasks": 3,
    "n_test_tasks": 5,
}


def regression(table: Any = SALES, **changes: Any) -> GroupTasks:
    found = few_shot(table, **{**CITIES, **changes})
    assert isinstance(found, GroupTasks)
    return found


def test_a_group_is_a_task_with_its_own_targets(caplog: pytest.LogCaptureFixture) -> None:
    """Rome trains: sizes 1, 2, 3 have mean 2 and deviation sqrt(2 / 3); cork has 2 rows where 3 are needed."""
    with caplog.at_level(logging.WARNING, "metascale.tasks"):
        tasks = regression()
    assert [record.getMessage() for record in caplog.records] == [
        "data: left out 1 group with fewer than 3 rows (k_shot + n_query)"
    ]
    assert tasks.table.details["features"] == ["size", "kind=flat", "kind=house"]
    for split, city in (("train", "rome"), ("validation", "oslo"), ("test", "bern")):
        episode = tasks.episodes(split, [0, 1])  # type: ignore[arg-type]
        assert episode.task_ids == (f"{split}:{city}", f"{split}:{city}" + ("" if split == "train" else "#1"))
        assert (episode.support.inputs["x"].shape, episode.query.targets.shape) == ((2, 1, 3), (2, 2, 1))
        own = [row for row, name in enumerate(SALES["city"]) if name == city]
        for task in range(2):
            x = torch.cat([episode.support.inputs["x"][task], episode.query.inputs["x"][task]]).numpy()
            y = torch.cat([episode.support.targets[task], episode.query.targets[task]]).numpy()
            order = np.argsort(x[:, 0])
            sizes = np.array([SALES["size"][row] for row in own])
            np.testing.assert_allclose(x[order, 0], (sizes - 2) / (2 / 3) ** 0.5, rtol=1e-5, atol=1e-6)
            assert x[order, 1:].tolist() == [[1, 0], [0, 1], [1, 0]]
            assert y[order, 0].tolist() == [SALES["price"][row] for row in own]


def test_targets_are_standardised_where_asked_for() -> None:
    """Rome's prices 10, 20 and 30: mean 20, deviation sqrt(200 / 3); bern's 12, 24 and 36 by the same."""
    tasks = regression(standardize="all")
    deviation = (200 / 3) ** 0.5
    assert (tasks.table.target_mean, tasks.table.target_sd) == pytest.approx((20, deviation))
    np.testing.assert_allclose(tasks.table.y[6:9, 0], (np.array([12, 24, 36]) - 20) / deviation, rtol=1e-6)
    assert tasks.describe()["target_sd"] == pytest.approx(deviation)


def test_a_data_frame_gives_the_same_regression_tasks() -> None:
    one, two = regression(frame(SALES)).episodes("test", range(5)), regression().episodes("test", range(5))
    assert torch.equal(one.support.inputs["x"], two.support.inputs["x"])
    assert torch.equal(one.query.targets, two.query.targets)


def test_a_repeated_row_of_a_group_counts_once() -> None:
    table = {name: [*values, values[0], values[0]] for name, values in SALES.items()}
    table["price"][-1] = 99.0  # another target: another row
    tasks = regression(table)
    assert tasks.table.details["left_out"]["repeated row"] == 1
    assert [len(rows) for rows in tasks.table.rows] == [3, 3, 4]
    assert tasks.table.groups == ("bern", "oslo", "rome")


def test_groups_keep_the_contract() -> None:
    draw = np.random.default_rng(0)
    table = {"group": np.arange(400) % 20, "a": draw.standard_normal(400), "target": draw.standard_normal(400)}
    tasks = few_shot(table, group="group", k_shot=3, n_query=5, n_train_tasks=10)
    assert isinstance(tasks, GroupTasks)
    assert tasks.describe()["n_tasks"] == {"train": 10, "validation": 100, "test": 600}
    check_task_source(tasks)
    five = few_shot(table, group="group", k_shot=5, n_query=5, n_train_tasks=10)
    assert torch.equal(five.episodes("test", [7]).query.targets, tasks.episodes("test", [7]).query.targets)


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({}, {"n_query": 3, "split": None}, "need at least 3 groups, and there are 0; 4 groups with fewer than 4 rows"),
        ({}, {"n_query": 3}, "there is no group 'rome' for train; 4 groups with fewer than 4 rows"),
        ({}, {"k_shot": 0}, "k_shot must be at least 1, not 0"),
        ({}, {"split": {"train": ["rome"], "val": [], "test": ["bern"]}}, "the validation split has no group"),
        ({}, {"n_train_tasks": 2}, "2 training tasks were asked for but there are 1 training groups"),
        ({}, {"n_way": 3}, "n_way=3 is for classes; with group= a task is the rows of one group"),
        ({}, {"published": "cifar-fs"}, "published='cifar-fs' is for classes"),
        ({}, {"group": "town"}, "there is no group column 'town'; there are city, size, kind"),
        ({}, {"group": "price"}, "there is no group column 'price'"),
        ({}, {"inputs": "city"}, "column 'city' is what is to be predicted or the group"),
        ({}, {"label": "kind"}, "the targets of regression are numbers; column 'kind' holds texts"),
        ({"price": [*SALES["price"][:-1], None]}, {}, "row 10 has no number in 'price'"),
        ({"city": [None, *SALES["city"][1:]]}, {}, "example 0 has no group"),
        ({"city": [0.5, *SALES["city"][1:]]}, {}, "groups must name tasks .* of example 0 is 0.5"),
        ({"size": [[1, 2]] * 11}, {}, r"say with inputs= which column"),
        ({"size": [[1, 2]] * 11}, {"inputs": "size"}, r"column 'size' has \[1, 2\] in row 0, where numbers, texts"),
    ],
)
def test_tables_that_are_no_regression_tasks_are_refused(columns: Any, arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        regression({**SALES, **columns}, **arguments)


def test_groups_need_a_table() -> None:
    with pytest.raises(InputError, match=r"group= is for a table with columns: .* not for tuple"):
        few_shot((np.zeros((4, 2)), np.zeros(4)), group="city")
