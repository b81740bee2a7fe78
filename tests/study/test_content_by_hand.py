"""What a study records of its files and of its axes, against tables worked out by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from metascale.core.errors import InputError
from metascale.study import content
from metascale.study.roles import Roles, assign, is_scale, loss_of, names


def record(text: str, name: str = "a.csv", **more: Any) -> dict[str, Any]:
    return {"name": name, "n_bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest(), **more}


ONE, TWO = record("one"), record("other")


def test_a_trial_keeps_the_record_of_its_own_file_without_where_it_lies() -> None:
    base = {"data": "a.csv", "lr": 0.1, "data_content": {"data": {"a.csv": {**ONE, "from_study": "../a.csv"},
                                                                  "b.csv": TWO}}}  # fmt: skip
    assert content.of_trial(base) == {"data": "a.csv", "lr": 0.1, "data_content": {"data": ONE}}
    assert content.of_trial({**base, "data": "b.csv"})["data_content"] == {"data": TWO}
    for other in ("c.csv", 3, None):
        assert content.of_trial({**base, "data": other}) == {"data": other, "lr": 0.1}
    assert content.of_trial({"lr": 0.1}) == {"lr": 0.1}


def test_a_trial_keeps_where_its_code_lay_first_where_it_has_moved() -> None:
    base = {"program": "new.py", "code_places": {"program": {"first": "old.py", "from_study": "../new.py"}}}
    assert content.of_trial(base) == {"program": "new.py", "code_places": {"program": {"first": "old.py"}}}
    assert content.of_trial({**base, "program": "old.py"}) == {"program": "old.py"}


def test_a_trial_is_what_its_files_hold_and_where_its_code_began() -> None:
    config = {"data": "a.csv", "lr": 0.1, "program": "new.py", "data_content": {"data": ONE},
              "code_places": {"program": {"first": "old.py"}}}  # fmt: skip
    assert content.identity(config) == {"lr": 0.1, "program": "old.py", "data_content": {"data": ONE}}
    assert content.base_identity(config) == {"lr": 0.1, "program": "old.py"}
    for wrong in (None, 3, "x"):
        assert content.content_in({"data_content": wrong}) == content.places_in({"code_places": wrong}) == {}


def test_a_file_is_found_by_what_it_holds(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in "abc")
    second.write_text("other")
    third.write_text("one")
    assert content.find(ONE, [first, second, third], "`data`") == third
    assert content.find(ONE, iter([third]), "`data`") == third
    with pytest.raises(InputError) as caught:
        content.find(ONE, [first, second], "`data`")
    told = f"SHA-256 is {TWO['sha256'][:12]}... (5 bytes), theirs {ONE['sha256'][:12]}... (3 bytes); one study holds"
    assert str(caught.value).startswith(f"`data`: {second} is not the file that the study's trials read: its {told}")
    with pytest.raises(InputError) as caught:
        content.find(ONE, [first], "`data`")
    assert str(caught.value).startswith(
        f"`data` is not there: {first} is no file; the study's trials read one of 3 bytes with SHA-256 "
        f"{ONE['sha256'][:12]}...; put it back"
    )
    content.check_content({"data": str(third), "data_content": {"data": ONE}})
    with pytest.raises(InputError, match=r"^`data`: .* is not the file"):
        content.check_content({"data": str(second), "data_content": {"data": ONE}})
    content.check_content({})


def test_records_are_the_same_by_hash_and_size() -> None:
    assert content.same(ONE, {**ONE, "name": "b"})
    assert not content.same(ONE, {**ONE, "n_bytes": 4})
    assert not content.same(ONE, {**ONE, "sha256": "0"})


@pytest.mark.parametrize(
    ("asked", "varied", "words"),
    [
        ({"data": "x", "data_content": {"data": {"x": ONE}}}, (), None),  # the same at another place
        ({"data": "x", "data_content": {"data": {"x": TWO}}}, (), "`data`: x is not the file"),
        ({"data": "x", "data_content": {"data": {"x": {**ONE, "name": "b.csv"}}}}, (), "call it a.csv"),
        ({"data": "x", "data_content": {"data": {"x": TWO}}}, ("data",), None),  # of an axis a study may hold many
        ({"data": "a.csv", "data_content": {"data": {"a.csv": TWO}}}, ("data",), "`data`: a.csv is not the file"),
        ({"data_content": {"data": {"x": TWO}}}, (), "data: x is not the file"),  # a set of files goes by their names
        ({"data_content": {"data": {"x": {**TWO, "name": "new.csv"}}}}, (), None),
        ({"data": "x", "data_content": {"other": {"x": TWO}}}, (), None),
    ],
)
def test_new_trials_are_run_on_the_data_of_the_first(asked: Any, varied: Any, words: str | None) -> None:
    ours = {"data_content": {"data": {"a.csv": ONE}}}
    if words is None:
        content.refuse_other_content(ours, asked, varied)
        return
    with pytest.raises(InputError, match=words.replace("`", "[`]")) as caught:
        content.refuse_other_content(ours, asked, varied)
    if words.startswith("call"):
        assert (caught.value.field, caught.value.value) == ("data", "x")
    else:
        assert str(caught.value).startswith(words)


def test_every_place_is_compared_and_not_the_first_alone() -> None:
    ours = {"data_content": {"data": {"a.csv": ONE}}}
    asked = {"data_content": {"data": {"x": {**ONE, "name": "new.csv"}, "y": TWO}}}
    with pytest.raises(InputError, match="data: y is not the file"):
        content.refuse_other_content(ours, asked, ())


def test_a_study_records_the_places_of_the_command_and_all_values_of_an_axis() -> None:
    ours = {"data_content": {"data": {"a": ONE}, "text": {"t": TWO}}}
    asked = {"data_content": {"data": {"b": ONE}, "more": {"m": ONE}}}
    assert content.merged_content(ours, asked, ()) == {"data": {"b": ONE}, "text": {"t": TWO}, "more": {"m": ONE}}
    assert content.merged_content(ours, asked, ("data",))["data"] == {"a": ONE, "b": ONE}
    assert content.relative_to(Path("/x/data/a.csv"), Path("/x/runs/study")) == "../../data/a.csv"


# ---------------------------------------------------------------------------------------------- roles

AXES = {"n": [1, 2, 4], "method": ["a", "b"], "depth": [2, 3], "one": [5]}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (("n",), ("method", "depth", "one"), ())),
        ({"scale": "depth"}, (("depth",), ("n", "method", "one"), ())),
        ({"scale": ["n", "depth"]}, (("n", "depth"), ("method", "one"), ())),
        ({"series": "n"}, (("depth",), ("n", "method", "one"), ())),
        ({"best_of": ["n", "method"]}, (("depth",), ("one",), ("n", "method"))),
        # A measured column stands for what it is said to, else for every free axis of numbers.
        ({"scale": "params", "stands_for": {"depth": "params"}}, (("params",), ("n", "method", "one"), ())),
        ({"scale": "params"}, (("params",), ("method", "one"), ())),
        ({"scale": "params", "series": "n"}, (("params",), ("n", "method", "one"), ())),
        ({"stands_for": {"n": "params"}}, (("params",), ("method", "depth", "one"), ())),
    ],
)
def test_every_axis_has_a_role(options: dict[str, Any], expected: tuple[Any, ...]) -> None:
    found = assign(AXES, **options)
    assert (found.scales, found.series, found.best_of) == expected


def test_what_changes_a_baseline_is_crossed_in_the_order_of_the_axes() -> None:
    found = assign(
        AXES, crossed=("depth", "method", "none"), best_of="depth", loss="nll", units="nats", better="higher"
    )
    assert (found.crossed, found.loss, found.units, found.better) == (("method",), "nll", "nats", "higher")
    assert assign(AXES).loss == "test_loss_nats"
    assert Roles.from_json(found.to_json()) == found
    assert found.to_json()["best_of"] == ["depth"]


@pytest.mark.parametrize(
    ("options", "field", "value", "words"),
    [
        ({"series": "metod"}, "series", "metod", "^there is no axis 'metod'; did you mean 'method'"),
        ({"best_of": "zzz"}, "best_of", "zzz", "^there is no axis 'zzz'; the axes are"),
        ({"scale": "dept"}, "scale", "dept", "^there is no axis 'dept'; did you mean 'depth'"),
        ({"scale": "method"}, "scale", None, "^axis 'method' has values that are no numbers: it can be a series"),
        ({"scale": "n", "series": "n"}, None, "n", "^'n' is named twice: an axis is a scale, a series or best-of$"),
        ({"scale": ("p1", "p2", "p3", "p4")}, "scale", ("p1", "p2", "p3", "p4"),
         "^a law has at most 3 scales, not p1, p2, p3, p4$"),
        ({"better": "best"}, "better", "best", "^`better` is lower or higher, not 'best'$"),
    ],
)  # fmt: skip
def test_roles_that_no_axis_can_have_are_refused(options: Any, field: Any, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("`", "[`]")) as caught:
        assign(AXES, **options)
    assert (caught.value.field, caught.value.value) == (field, value)


def test_axes_without_a_role_are_series_unless_a_measured_scale_stands_for_them() -> None:
    assert Roles(("n",), ("one",)).completed(AXES).series == ("one", "method", "depth")
    assert Roles(("n",), best_of=("method",)).completed(AXES).series == ("depth", "one")
    for roles in (Roles(("params",)), Roles()):
        assert roles.completed(AXES) == roles
    for roles, field in ((Roles(series=("zzz",)), "series"), (Roles(best_of=("zzz",)), "best_of")):
        with pytest.raises(InputError, match=r"^there is no axis 'zzz'") as caught:
            roles.completed(AXES)
        assert caught.value.field == field


def test_a_scale_is_two_numbers_or_more() -> None:
    assert [is_scale(values) for values in ([1, 2], ["1", "2.5"], [1], [1, "a"], [1, None], [])] == [
        True, True, False, False, False, False
    ]  # fmt: skip
    assert (names("ab"), names(["a", "b"]), names(())) == (("ab",), ("a", "b"), ())


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["loss", "test_loss", "test_loss_nats"], "test_loss_nats"),
        (["acc", "loss"], "loss"),
        (["acc", "eval_loss"], "eval_loss"),
        (["train_loss", "val_loss", "eval_loss"], "eval_loss"),
        (["a_loss", "b_loss"], ""),
        (["train_loss"], "train_loss"),
        (["acc", "time"], ""),
        (["note"], ""),
        (["loss", "message", "acc"], "acc"),  # what stands before the message is the design
    ],
)
def test_the_loss_is_the_only_column_that_can_be_meant(columns: list[str], expected: str) -> None:
    row = {name: "x" if name in ("note", "message") else 1.5 for name in columns}
    assert loss_of(columns, [{**row, columns[0]: None}, row]) == expected
