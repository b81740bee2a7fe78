"""Refusals of data sets: what they count, and the argument that they name."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

from metascale.core.errors import InputError
from metascale.tasks import few_shot
from metascale.tasks.datasets import DATASETS
from metascale.tasks.fewshot import ClassSplit
from metascale.tasks.groups import GroupTable, GroupTasks
from metascale.tasks.labelled import input_columns
from metascale.tasks.supervised.tokens import TokenStream
from metascale.tasks.tables import Table
from tests.tasks.sources import SHIPPED, toy_table, toy_tasks


@pytest.mark.parametrize(("n_short", "more"), [(4, ""), (5, ""), (6, ", ..."), (8, ", ...")])
def test_of_classes_with_too_few_examples_five_are_shown_the_smallest_first(n_short: int, more: str) -> None:
    """Training class k has 1 + k % 2 of the 5 examples needed, so the even ones come first."""
    table = toy_table()
    examples = tuple(each[: 1 + k % 2] if k < n_short else each for k, each in enumerate(table.examples))
    order = [*range(0, n_short, 2), *range(1, n_short, 2)][:5]
    shown = ", ".join(f"'c{k:02d}' has {1 + k % 2}" for k in order)
    with pytest.raises(InputError) as caught:
        toy_tasks(dataclasses.replace(table, examples=examples))
    assert f"toy: {n_short} of 8 train classes have fewer than 5 examples (k_shot 2 + n_query 3): " in str(caught.value)
    assert f": {shown}{more}; k_shot + n_query may be at most 1" in str(caught.value)
    read = "toy: 9 rows read, 8 kept as texts of 8 classes; 1 left out as duplicates of others"
    with pytest.raises(InputError, match=rf"may be at most 1 \({read}\)$"):
        toy_tasks(dataclasses.replace(table, examples=examples, details={"read": read}))


@pytest.mark.parametrize(
    ("data", "field", "value"),
    [
        ({"x": [1.0] * 11, "label": [0, 1] * 6}, "data", "x"),
        ({"x": [], "label": []}, "data", None),
        ([(None, 0), (None, 1)] * 6, "data", None),
        ([(b"bytes", 0), (b"bytes", 1)] * 6, "data", None),
        ([(np.zeros(2), 0), (np.zeros(3), 1)] * 6, "data", None),
    ],
)
def test_data_that_is_no_data_set_is_refused_by_its_argument(data: object, field: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        few_shot(data, n_way=2, k_shot=1, n_query=1)
    assert (caught.value.field, caught.value.value) == (field, value)


@pytest.mark.parametrize("n_train", [5, 9])
def test_a_text_shorter_than_two_windows_is_refused_with_what_it_takes(n_train: int) -> None:
    tokens = {"train": np.zeros(n_train, np.int32), "validation": np.zeros(9, np.int32), "test": np.zeros(9, np.int32)}
    said = f"'short' has {n_train} training tokens, too few for one window of 5 \\(it takes 10\\)"
    with pytest.raises(InputError, match=said):
        TokenStream("short", ("a",), tokens, 0, n_sequence=5, n_batch=1)  # type: ignore[arg-type]


def test_group_tasks_without_a_seed_are_those_of_seed_0() -> None:
    rows = tuple(np.arange(30 * k, 30 * (k + 1)) for k in range(6))
    table = GroupTable("toy", tuple("abcdef"), rows, torch.zeros(180, 2), torch.zeros(180, 1))
    split = ClassSplit((0, 1, 2, 3), (4,), (5,))
    named = GroupTasks(table, split, seed=0, eval_seed=0)
    plain, other = GroupTasks(table, split), GroupTasks(table, split, seed=1)
    first = [tasks.episodes("train", range(6)).task_ids for tasks in (named, plain, other)]
    assert first[0] == first[1] != first[2]


def test_of_several_columns_with_a_usual_name_the_first_name_counts() -> None:
    """The usual names are text, sentence, image, img, x, in this order, whatever the order of the columns."""
    words = ["one", "two"]
    table = Table({"note": words, "sentence": words, "text": words, "label": [0, 1]})
    assert input_columns(table, ["label"], None, []) == ["text"]
    assert input_columns(table, ["label", "text"], None, []) == ["sentence"]


EPISODES = {
    "quadratic": (("train:6", "train:4"), [-1.2583, -1.96492, -1.05302, -0.87332]),
    "quadratic endless": (("train:1", "train:3"), [0.58619, -1.03667, 0.1166, -2.83239]),
    "sinusoid": (("train:0", "train:3"), [1.40472, -1.0744, 1.61928, 0.67843]),
    "sinusoid endless": (("train:1", "train:3"), [2.66014, 3.10247, -2.70227, -3.25896]),
    "toy": (("train:2.4.7", "train:0.2.3"), [1, 0, 2, 2]),
    "toy endless": (("train:1.2.5", "train:1.5.6"), [1, 0, 2, 2]),
    "toy shared": (("train:2.6.10", "train:1.8.9"), [2, 0, 1, 2]),
    "toy fewer classes": (("train:1.2.5", "train:1.6.7"), [1, 0, 2, 2]),
    "digits": (("train:2.6.25.26.35", "train:3.6.23.27.33"), [3, 0, 1, 2]),
    "synthetic text": (("train:10.16.24.25.29", "train:3.6.20.24.26"), [1, 2, 2, 0]),
}
"""Training episodes 1 and 3: their tasks, and the first targets of the support set, noted when this was written."""
HELD_OUT = {
    "toy": (("validation:8.9.10#1", [0, 1, 2, 0]), ("test:11.12.13#1", [0, 0, 2, 1])),
    "toy shared": (("validation:2.4.11", [1, 0, 2, 2]), ("test:1.8.12", [2, 0, 1, 0])),
    "sinusoid": (
        ("validation:1", [-2.58772, -1.70709, -0.86959, 0.89884]),
        ("test:1", [1.73738, -2.09954, 1.49988, 0.45617]),
    ),
    "digits": (("validation:8.9.11.16.18", [2, 4, 1, 0]), ("test:12.13.14.15.30", [3, 1, 0, 4])),
}


@pytest.mark.parametrize("kind", EPISODES)
def test_a_seed_gives_the_episodes_that_it_gave(kind: str) -> None:
    """The address of a draw is its name: a study that grows, or a run that goes on, meets the same tasks."""
    ids, targets = EPISODES[kind]
    source = SHIPPED[kind]()
    found = source.episodes("train", [1, 3])
    assert found.task_ids == ids
    assert found.support.targets.flatten()[: len(targets)].tolist() == pytest.approx(targets, abs=1e-5)
    for split, (name, values) in zip(("validation", "test"), HELD_OUT.get(kind, ()), strict=False):
        held = source.episodes(split, [1])  # type: ignore[arg-type]
        assert held.task_ids == (name,)
        assert held.support.targets.flatten()[: len(values)].tolist() == pytest.approx(values, abs=1e-5)


def test_every_file_s_digest_is_one() -> None:
    """64 lower-case digits, as ``hashlib`` writes them, each of one file alone; and a home on the net."""
    files = [file for known in DATASETS.values() for file in known.files]
    digests = [file.sha256 for file in files if file.sha256 is not None]
    assert digests
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in digests)
    assert len(set(digests)) == len(digests)
    assert all(re.fullmatch(r"https?://[a-zA-Z0-9.-]+/\S+", file.url) for file in files)
    assert all((file.form == "drawings zip") == (file.n_drawings is not None) for file in files)
