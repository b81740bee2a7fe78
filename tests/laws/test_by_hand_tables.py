"""Observations, tables, which rows count, and what is chosen among them, by hand."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import get_type_hints

import numpy as np
import pytest
from numpy.typing import NDArray

from metascale.core.errors import InputError
from metascale.laws import newton
from metascale.laws.numbers import PF_DAY
from metascale.laws.observations import (
    FLOPS_PER_PARAMETER_AND_TOKEN,
    Observations,
    as_json,
    bounded_exp,
    observe,
    require_varied,
    table_warnings,
)
from metascale.laws.prepared import (
    Prepared,
    columns_of,
    forecast_data,
    groups_of,
    notes_of,
    one_scale,
    prepare,
    run_labels,
)
from metascale.laws.runs import Runs, are_checkpoints, counts_steps, run_column, step_column, usable_rows
from metascale.laws.selection import best_of, validation_column
from metascale.laws.table import (
    ScaleColumns,
    Table,
    design_columns,
    group_column,
    guess_loss,
    guess_one,
    guess_scale,
    is_condition,
    keep_best,
    losses,
    named_like,
    naming,
    plain_name,
    pooled_notes,
    read_table,
    size_names,
    sizes_and_tokens,
    sizes_by_data,
    split_table,
    standard_errors,
    tokens_of_compute,
    varies,
    with_series,
    without_blanks,
)
from metascale.laws.thinning import _codes, _shares, sampled, without_repeats

A = np.array


def table(**columns):
    return Table(columns, "the table")


def refused(words, call, *arguments, field=None, value=None, allowed=None, **named):
    with pytest.raises(InputError) as caught:
        call(*arguments, **named)
    error = caught.value
    assert (str(error), error.field, error.value, error.allowed) == (words, field, value, allowed)


# ---------------------------------------------------------------------------------------------- observations


def test_observations_are_in_order_of_scale():
    """Of rows (2, 3), (1, 4), (2, 3) with seeds a, b, a the third repeats the first; runs are numbered by label."""
    found = observe([2.0, 1.0, 2.0], [3.0, 4.0, 3.0], replicate=["a", "b", "a"], run=["z", "y", "z"])
    assert found.x.tolist() == [[1.0], [2.0]]
    assert (found.loss.tolist(), found.scale.tolist(), found.run.tolist()) == ([4, 3], [0, 1], [0, 1])
    assert (found.x_names, found.loss_name, found.error, found.weights, found.run_variance) == (
        ("x",), "loss", None, None, 0.0,
    )  # fmt: skip
    assert found.notes == ("1 duplicated row dropped (same scale, loss and replicate)",)
    assert (found.n, found.n_axes, found.n_scales, found.n_runs) == (2, 1, 2, 2)
    twice = observe([1.0] * 3, [2.0] * 3, x_name="N", loss_name="nll")
    assert twice.notes == ("2 duplicated rows dropped (same scale, loss and replicate)",)
    assert (twice.x_names, twice.loss_name) == (("N",), "nll")
    assert observe([1.0] * 3, [2.0] * 3, replicate=[0, 1, 2]).n == 3


def test_observations_in_two_scales_and_some_of_their_rows():
    """Ordered by the first scale, then by the second; ends of means are (3 + 5) / 2 and 4."""
    found = observe([[2, 1], [1, 9], [1, 2], [1, 9]], [2.0, 3.0, 4.0, 5.0], x_name=("N", "D"), noise=[0.2, 0.3, 0.4, 0])
    assert found.x.tolist() == [[1, 2], [1, 9], [1, 9], [2, 1]]
    assert found.loss.tolist() == [4, 3, 5, 2]
    assert found.scale.tolist() == [0, 1, 1, 2]
    assert found.run.tolist() == [2, 1, 3, 0]  # each row is a run
    assert found.error == pytest.approx([0.1, 0.1, 0.0, 0.1])  # of ln loss: noise over loss
    assert found.scales.tolist() == [[1, 2], [1, 9], [2, 1]]
    assert found.scale_means(found.loss).tolist() == [4, 4, 2]
    assert found.log_x[1].tolist() == [0.0, np.log(9)]
    assert found.log_loss[0] == np.log(4)
    some = Observations(
        found.x, found.loss, found.scale, found.run, ("N", "D"), "nll", ("n",), found.error, A([1, 2, 3, 4.0]), 0.5
    ).keep(A([False, True, False, True]))  # fmt: skip
    assert (some.x.tolist(), some.loss.tolist(), some.scale.tolist(), some.run.tolist()) == (
        [[1, 9], [2, 1]], [3, 2], [0, 1], [1, 0],
    )  # fmt: skip
    assert (some.x_names, some.loss_name, some.notes, some.weights.tolist(), some.run_variance) == (
        ("N", "D"), "nll", ("n",), [2, 4], 0.5,
    )  # fmt: skip
    assert some.error == pytest.approx([0.1, 0.1])
    assert observe([[1, 2]], [3.0]).x_names == ("x1", "x2")
    assert observe([1.0, 2.0], [-1.0, 0.0], signed=True).loss.tolist() == [-1, 0]


NO_LOG = "scaling laws are fitted to logarithms, so only positive numbers are allowed"


@pytest.mark.parametrize(
    ("x", "loss", "more", "words", "field"),
    [
        ([1.0, 2.0], [1.0], {}, "there are 2 scales and 1 losses; there must be one loss a scale", None),
        ([], [], {}, "the table is empty; a law needs at least 3 distinct scales", None),
        ([[[1.0]]], [1.0], {}, "'loss' must be a list of numbers and the scales a list or a table with one row a loss",
         None),
        ([1.0], [[1.0]], {}, "'loss' must be a list of numbers and the scales a list or a table with one row a loss",
         None),
        ([1.0, 0.0, -2.0], [1.0] * 3, {}, f"'x' is 0 in row 2 (2 such rows); {NO_LOG}", None),
        ([1.0, 2.0], [1.0, 0.0], {"loss_name": "nll"}, f"'nll' is 0 in row 2 (1 such rows); {NO_LOG}", None),
        ([1.0, np.nan, np.inf], [1.0] * 3, {}, "'x' is missing or not finite in 2 of 3 rows (first: row 2); only finite "  # noqa: E501
                                               "numbers are allowed", None),
        ([1.0, 2.0], [1.0, np.nan], {"signed": True}, "'loss' is missing or not finite in 1 of 2 rows (first: row 2); "
                                                      "only finite numbers are allowed", None),
        ([1e-70, 1e70], [1.0] * 2, {}, "'x' runs from 1e-70 to 1e+70, more than 130 powers of ten; check for mixed "
                                       "units or a misread column", None),
        ([1.0, 2.0], [1.0] * 2, {"run": ["a"]}, "'run' has 1 labels and the table 2 rows; there must be one label a "
                                                "row", None),
        ([1.0, 2.0], [1.0] * 2, {"replicate": [1, 2, 3]}, "'replicate' has 3 labels and the table 2 rows; there must "
                                                          "be one label a row", None),
        ([1.0, 2.0], [1.0] * 2, {"noise": [0.1]}, "there are 1 standard errors and 2 losses; there must be one a loss",
         "noise"),
        ([1.0, 2.0], [1.0] * 2, {"noise": [0.1, -0.5]}, "`noise` is -0.5 in row 2; it is the standard error of a loss: "
                                                        "0 or more, and not all 0", "noise"),
        ([1.0, 2.0], [1.0] * 2, {"noise": [np.inf, 1]}, "`noise` is inf in row 1; it is the standard error of a loss: "
                                                        "0 or more, and not all 0", "noise"),
        ([1.0, 2.0], [1.0] * 2, {"noise": [0, 0]}, "`noise` is 0 in every row; it is the standard error of a loss: 0 "
                                                   "or more, and not all 0", "noise"),
        ([1.0, 2.0], [1.0, 0.0], {"noise": [0, 1], "signed": True}, "`noise` is for losses that are all positive",
         "noise"),
    ],
)  # fmt: skip
def test_observations_that_are_refused(x, loss, more, words, field):
    refused(words, observe, x, loss, field=field, **more)


def test_what_is_no_number_is_refused_by_its_name():
    for arguments, name in (((["a"], [1.0]), "N, D"), (([1.0], ["a"]), "loss"), (([1.0], [None, {}]), "loss")):
        with pytest.raises(
            InputError, match=rf"^'{name}' contains something that is not a number \(.*\); only numbers"
        ):
            observe(*arguments, x_name=("N", "D"))
    with pytest.raises(InputError, match=r"^'noise' contains something"):
        observe([1.0], [1.0], noise=["a"])


def test_a_range_of_130_powers_of_ten_is_the_most():
    """ln of the ratio is at most 300, which is 130.3 powers of ten."""
    assert observe([1.0, np.exp(299.9)], [1.0, 2.0]).n == 2
    with pytest.raises(InputError, match="powers of ten"):
        observe([1.0, np.exp(300.1)], [1.0, 2.0])


def test_a_scale_of_one_value_is_refused_and_jumps_are_told():
    require_varied(observe([[1, 2], [2, 3]], [1.0, 2.0]))
    refused("all rows have the same D (7); a law in it cannot be fitted", require_varied,
            observe([[1, 7], [2, 7]], [1.0, 2.0], x_name=("N", "D")))  # fmt: skip
    # Gaps of ln x: ln 10, ln 10, then 1e4 (more than 1e3) or 1e2.2; ten times the median gap is 1e10 for these.
    near, far = ([1.0, 1.1, 1.2, 1.2 * ratio] for ratio in (900.0, 1100.0))
    assert table_warnings(observe(near, [1.0] * 4)) == ()
    assert table_warnings(observe(far, [1.0] * 4, x_name="N")) == (
        "'N' jumps from 1.2 to 1320: check that all rows are in the same unit",
    )  # fmt: skip
    # Three scales have two gaps, too few to tell; and 2000 is less than ten gaps of a factor of 3 (3^10 = 59049).
    assert table_warnings(observe([1.0, 1.1, 1e5], [1.0] * 3)) == ()
    assert table_warnings(observe([1.0, 3.0, 9.0, 18000.0], [1.0] * 4)) == ()
    assert table_warnings(observe([1.0, 3.0, 9.0, 9.0 * 3**10.1], [1.0] * 4)) != ()
    twice = observe([1.0, 2.0, 3.0], [1.0] * 3, run=["a", "a", "b"])
    assert table_warnings(twice) == (
        "3 rows of 2 runs: checkpoints of a run whose learning rate still decays are not scaling points, and every "
        "law and interval fails on them; use the ends of runs",
    )  # fmt: skip


def test_annotations_of_observations_can_be_read():
    """As tools that check arguments do."""
    names = {"NDArray": NDArray, "np": np}
    assert get_type_hints(bounded_exp)["return"] == NDArray[np.float64]
    assert get_type_hints(_codes, localns=names)["return"] == NDArray[np.intp]
    assert get_type_hints(Observations.keep)["rows"] == NDArray[np.bool_]
    evaluate = get_type_hints(newton.minimise, localns=names)["evaluate"]
    assert evaluate == Callable[[NDArray[np.float64], NDArray[np.intp]], newton.Local]


def test_values_as_json_and_bounded_powers():
    one = observe([1.0], [2.0])
    assert as_json({1: (A([1.0]), [one])})["1"][1][0]["x"] == [[1.0]]
    assert as_json(one)["notes"] == []
    assert as_json((1, "a", None)) == [1, "a", None]
    assert bounded_exp([-1e9, 0.0, 1e9]).tolist() == [np.exp(-709.0), 1.0, np.exp(709.0)]
    assert FLOPS_PER_PARAMETER_AND_TOKEN == 6  # two for the forward and four for the backward pass


# ---------------------------------------------------------------------------------------------- tables


def test_names_are_compared_without_case_and_signs():
    assert [plain_name(name) for name in ("Eval/Loss", "model size", "_step", "N", "a__b ")] == [
        "eval_loss", "model_size", "step", "n", "a_b",
    ]  # fmt: skip
    found = table(**{"Model Size": [1], "N": [1], "params": [1], "n": [1]})
    assert named_like(found, ("params", "n", "N", "model_size")) == ["params", "N", "n", "Model Size"]


def test_rows_keep_their_numbers_and_notes():
    one = table(a=["1", "x", "3"], b=[1, 2, 3])
    some = one.rows(A([False, True, True]), "first left out").rows(A([True, False]))
    assert (some.names, some.n_rows, some.notes, some.row_numbers.tolist()) == (
        ("a", "b"), 1, ("first left out",), [2],
    )  # fmt: skip
    refused("the table, row 2: 'a' is 'x', not a number", some.numbers, "a")
    refused("the table, row 2: 'a' is 'x', not a number", one.numbers, "a")
    assert one.with_column("c", [1.5, None, 2]).numbers("c").tolist() == [1.5, pytest.approx(np.nan, nan_ok=True), 2]
    assert table().n_rows == 0
    with pytest.raises(InputError, match=r"^the table has no column 'c'; ") as caught:
        one.column("c")
    assert caught.value.value == "c"
    refused("the table: 'a' is in bits and in nats; give one unit", table(a=["1 bits", "2 nats"]).numbers, "a")
    assert table(a=["1 bits", "2 bits"]).numbers("a").tolist() == [1, 2]
    assert Table({"a": ["1,5"]}, "s", decimal_comma=True).numbers("a").tolist() == [1.5]
    assert Table({"a": ["1,500"]}, "s").numbers("a").tolist() == [1500]


def test_labels_are_in_order_of_appearance():
    codes, names = table(a=[8.0, 0.1, 8.0, np.nan]).labels("a")
    assert (codes.tolist(), names) == ([0, 1, 0, 2], ["8", "0.1", ""])
    assert table(a=[3, 1, 3]).labels("a")[1] == ["3", "1"]
    assert table(a=["b", "a", "b", ""]).labels("a")[1] == ["b", "a", ""]
    assert table(a=[1.0, 1.0 + 1e-14]).labels("a")[1] == ["1.0", repr(1.0 + 1e-14)]
    assert [table(a=cells).n_distinct("a") for cells in ([1, 1, 2], ["x", "y", "x"], [1.5, 1.5])] == [2, 2, 1]


def test_a_table_stays_itself_and_others_are_read():
    one = table(a=[1])
    assert read_table(one) is one
    found = read_table({"a": [1]})
    assert (found.source, found.notes, found.decimal_comma) == ("the table", (), False)


def test_rows_without_a_number_are_left_out_and_said():
    one = table(x=[1.0, np.nan, 3, 4, 5, 6], y=["1", "2", "", "oom", "nan", "2"], z=["a"] * 6)
    found = without_blanks(one, ("x", "y"))
    assert found.n_rows == 2
    assert found.notes == ("4 rows left out: no number in x or y (nan, oom)",)
    assert without_blanks(one, ("x",)).notes == ("1 rows left out: no number in x (nan)",)
    assert without_blanks(table(y=["1", ""]), ("y",)).notes == ("1 rows left out: no number in y",)
    many = without_blanks(table(y=["1", "oom", "na", "failed", "null"]), ("y",))
    assert many.notes == ("4 rows left out: no number in y (failed, na, null, ...)",)
    three = without_blanks(table(y=["1", "oom", "na", "failed"]), ("y",))
    assert three.notes == ("3 rows left out: no number in y (failed, na, oom)",)
    none, whole = table(y=["", ""]), table(y=[1, 2])
    assert without_blanks(none, ("y",)) is none
    assert without_blanks(whole, ("y",)) is whole


def test_a_perplexity_is_read_by_its_logarithm():
    one = table(val_ppl=[np.e, 1.0], perplexity=[1.0, 1.0], loss=[2.0, 4.0], se=[0.5, 0.25], people=[1.0, 1.0])
    values, name = losses(one, "val_ppl")
    assert (values.tolist(), name) == ([1.0, 0.0], "ln val_ppl")
    assert losses(one, "perplexity")[1] == "ln perplexity"
    assert losses(one, "people")[1] == "people"
    assert standard_errors(one, "se", "loss").tolist() == [0.5, 0.25]
    assert standard_errors(one, "se", "val_ppl") == pytest.approx([0.5 / np.e, 0.25])


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("test_loss", "loss"), "loss"),
        (("nll", "val_loss"), "val_loss"),
        (("Val Loss", "x"), "Val Loss"),
        (("my_loss", "my_loss_std", "loss_se"), "my_loss"),
        (("ppl", "acc"), "ppl"),
    ],
)
def test_the_loss_is_guessed(names, found):
    assert guess_loss(table(**{name: [1.0] for name in names})) == found


@pytest.mark.parametrize(
    ("names", "words", "field"),
    [
        (("acc", "N"), "the table has no loss; for shares between 0 and 1 as in 'acc' use `y`=acc", None),
        (("a", "b"), "the table: the loss is in none of the columns a, b; name it with `y`", "y"),
        (("a_loss", "b_loss"), "the table: the loss could be a_loss or b_loss; name it with `y`", "y"),
        (("Val Loss", "val loss"), "the table: the loss could be Val Loss or val loss; name it with `y`", "y"),
    ],
)
def test_a_loss_that_cannot_be_guessed(names, words, field):
    refused(words, guess_loss, table(**{name: [1.0] for name in names}), field=field)


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"tokens": [1, 2], "loss": [2, 1]}, "tokens"),
        ({"tokens": [1, 1], "Params": [1, 2], "loss": [2, 1]}, "Params"),
        ({"n_tasks": [1, 2], "tokens": [1, 2], "loss": [2, 1]}, "n_tasks"),
        ({"tokens": [1, 1], "loss": [2, 1]}, "tokens"),
        ({"x": [1, 2], "loss": [2, 1]}, "x"),
        ({"total_params": [1, 2], "N": [1, 1], "loss": [1, 2]}, "N"),
        ({"total_params": [1, 2], "loss": [1, 2]}, "total_params"),
        ({"tokens": [1, 2], "D": [1, 2], "loss": [1, 2]}, None),
        ({"a": [1, 2], "loss": [1, 2]}, None),
        ({"y": [1, 2], "x": [1, 2]}, "x"),
    ],
)
def test_the_scale_is_guessed(columns, found):
    one = table(**columns)
    loss = "loss" if "loss" in columns else "y"
    if found:
        assert guess_scale(one, loss) == found
        return
    with pytest.raises(InputError, match="name it with `x`") as caught:
        guess_scale(one, loss)
    assert caught.value.field == "x"


def test_one_column_of_some_names():
    assert guess_one(table(Flops=[1], a=[1]), ("flops", "C"), "training compute", "d") == "Flops"
    refused("the table: the training compute could be flops or C; name it with `d`", guess_one, table(flops=[1], C=[1]),
            ("flops", "C"), "training compute", "d", field="d")  # fmt: skip
    assert "N" in size_names(table(N=[1], total_params=[1]))
    assert "total_params" in size_names(table(total_params=[1]))
    assert "N" in size_names(table(a=[1]))
    assert [varies(table(a=cells), "a") for cells in (["x", "y"], [1, 1], [1, 2], [1, np.nan], [np.nan] * 2)] == [
        False, False, True, False, False,
    ]  # fmt: skip


def test_the_columns_of_a_law_in_one_scale():
    one = table(tokens=[1, 2, 3], loss=[3.0, np.nan, 1.0], seed=[0, 0, 1], rep=[1, 2, 3], se=[0.1, 0.2, 0.3])
    found = ScaleColumns.of(one)
    assert (found.scale, found.loss, found.seed, found.run, found.noise, found.table.n_rows) == (
        "tokens", "loss", "seed", None, None, 2,
    )  # fmt: skip
    data = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in found.data.items()}
    assert data == {"x": [1, 3], "loss": [3, 1], "replicate": [0, 1], "x_name": "tokens", "loss_name": "loss"}
    named = ScaleColumns.of(one, "se", "tokens", "rep")
    assert (named.scale, named.loss, named.seed, named.table.n_rows) == ("se", "tokens", "rep", 3)
    with pytest.raises(InputError, match="has no column 'zeed'"):
        ScaleColumns.of(one, replicate="zeed")
    assert ScaleColumns.of(table(tokens=[1], loss=[1])).seed is None
    groups = found.split("seed")
    assert {name: part.table.numbers("tokens").tolist() for name, part in groups.items()} == {"0": [1], "1": [3]}
    assert found.split(None)[""].table.n_rows == 2


def test_scales_that_are_mixed_are_said():
    """Of the rows of tokens 1, N is 1 and 2.1, more than twofold; exactly twofold is not said."""
    one = table(tokens=[1, 1, 2, 2], N=[10, 21, 10, 10], C=[1, 2, 1, 1], loss=[1, 2, 3, 4])
    assert ScaleColumns(one, "tokens", "loss", None).mixed_notes() == (
        "'N' varies 2.1-fold among rows of the same 'tokens': a law in 'tokens' alone mixes them (fit a law in size "
        "and data instead)",
    )  # fmt: skip
    study = one.with_column("status", ["finished"] * 4).with_column("kind", ["main"] * 4)
    assert ScaleColumns(study, "tokens", "loss", None).mixed_notes() == ()


def test_groups_and_the_names_in_their_errors():
    one = table(method=["b", "a", "b"], n=[1, 2, 3])
    assert {name: part.numbers("n").tolist() for name, part in split_table(one, "method").items()} == {
        "b": [1, 3], "a": [2],
    }  # fmt: skip
    assert split_table(one, None) == {"": one}
    assert (group_column(one, None), group_column(one, "n")) == ("method", "n")
    assert group_column(table(method=["a", "a"]), None) is None

    def fail(group):
        with naming(group):
            raise InputError("bad", field="f", value=1, allowed="2")

    refused("g: bad", fail, "g", field="f", value=1, allowed="2")
    refused("bad", fail, "", field="f", value=1, allowed="2")


SERIES = "keep one value, or make the column a series (a law for each value) or best-of (the best value at each scale)"


def test_conditions_that_are_pooled_are_said():
    """Six rows: a column of 2 values is one of a few conditions, at most a third as many; 3 values are not."""
    one = table(tokens=[1, 1, 2, 2, 3, 3], lr=[0.1, 0.2] * 3, arm=["u", "u", "v", "v", "u", "u"],
                many=[1, 2, 3, 1, 2, 3], N=[1, 2] * 3, loss=[1.0] * 6)  # fmt: skip
    assert pooled_notes(one, ("loss",), ("tokens",)) == (
        f"rows that differ in 'lr' (2 values) are pooled, as if they were repeats; {SERIES}",
    )  # fmt: skip
    assert pooled_notes(one, ("loss",), remedy="stop") == (
        "rows that differ in 'lr' (2 values), 'arm' (2 values) are pooled, as if they were repeats; stop",
    )  # fmt: skip
    assert pooled_notes(one, ("loss", "lr"), ("tokens",)) == ()
    assert [is_condition(one, name) for name in ("lr", "arm", "many", "N", "loss")] == [True, True, False, False, False]
    new = table(a=np.r_[np.arange(2049), np.zeros(2047), np.zeros(9000)])
    assert not is_condition(new, "a")
    assert is_condition(table(a=np.r_[np.arange(2048), np.zeros(2048), np.zeros(9000)]), "a")
    study = Table({"trial": ["t"] * 6, "label": ["l"] * 6, "width": [8, 16] * 3, "seed": [0] * 6, "lr": [0.1, 0.2] * 3,
                   "status": ["finished"] * 6, "kind": ["main"] * 6}, "the study")  # fmt: skip
    assert design_columns(study) == ("width",)
    assert pooled_notes(study, ())[0].startswith("rows that differ in 'width' (2 values) are pooled")
    assert design_columns(table(a=[1], seed=[1], b=[1])) == ("a",)
    assert design_columns(table(a=[1])) == ()


def test_a_column_names_the_series_of_each_row():
    found, name = with_series(table(width=[8, 16.0], data=["web", "code"]), ("width", "data"))
    assert (name, found.column(name).tolist()) == ("series: width, data", ["width=8, data=web", "width=16, data=code"])


def test_sizes_and_tokens():
    """C = 6 N D: 12 / (6 * 1) is 2 and 24 / (6 * 2) is 2; a PF-day is 8.64e19 FLOPs."""
    one = table(N=[1.0, 2.0], C=[12.0, 24.0], pf_days=[6.0, 6.0], tokens=[5, 6])
    sizes, data, name = sizes_and_tokens(one, "N", "C")
    assert (sizes.tolist(), data.tolist(), name) == ([1, 2], [2, 2], "C / 6N")
    assert sizes_and_tokens(one, "N", "pf_days")[1].tolist() == [PF_DAY, PF_DAY / 2]
    assert (sizes_and_tokens(one, "N", None)[1].tolist(), sizes_and_tokens(one, "N", None)[2]) == ([5, 6], "tokens")
    assert sizes_and_tokens(table(N=[1.0], C=[12.0]), "N", None)[2] == "C / 6N"
    refused("the table: the training compute could be C or pf_days; name it with `d`", sizes_and_tokens,
            table(N=[1], C=[1], pf_days=[1]), "N", None, field="d")  # fmt: skip
    assert tokens_of_compute("flops", A([3.0]), A([1.0]))[0] == 0.0555555555556
    assert PF_DAY == 8.64e19
    pairs = (
        ("N", "tokens"),
        ("Params", "flops"),
        ("N", "C / 6N"),
        ("tokens", "N"),
        ("N", "width"),
        ("total_params", "D"),
    )
    assert [sizes_by_data(pair) for pair in pairs] == [True, True, True, False, False, True]


SCALES = (
    "n_tasks tokens n_tokens examples n_examples samples data D params n_params n_params_trainable N compute_flops compute "  # noqa: E501
    "flops C width depth steps x n_params_total total_params n_non_embedding unique_tokens U unique num_tokens tokens_seen "  # noqa: E501
    "pf_days pfdays compute_pf_days petaflop_s_days num_params parameters model_size "
    "n_total_params total_parameters n_params_non_embedding non_embedding_params non_embedding_parameters training_tokens "  # noqa: E501
    "training_flop training_flops compute_pfdays"
)
LOSSES = (
    "test_loss loss loss_nats val_loss eval_loss validation_loss valid_loss final_loss nll val_nll cross_entropy val_bpb "  # noqa: E501
    "test_bpb bpb bits_per_byte train_loss y val_ppl test_ppl ppl val_perplexity test_perplexity perplexity"
)


@pytest.mark.parametrize("name", SCALES.split())
def test_names_of_scales(name):
    assert guess_scale(Table({name: [1, 2], "other": [1, 2], "loss": [2, 1]}, "t"), "loss") == name


@pytest.mark.parametrize("name", LOSSES.split())
def test_names_of_losses(name):
    assert guess_loss(Table({"other": [1, 2], name: [1, 2]}, "t")) == name


def test_the_first_of_several_known_losses_is_meant():
    """Losses before perplexities, and the training loss after those of other data."""
    order = ["loss", "val_loss", "nll", "bpb", "train_loss", "y", "val_ppl", "ppl"]
    for k, name in enumerate(order):
        assert guess_loss(Table({other: [1] for other in reversed(order[k:])}, "t")) == name


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        (("N", "total_params"), True), (("params", "n_non_embedding"), True), (("non_embedding_params", "total_params"), True),  # noqa: E501
        (("total_params", "a"), True), (("a", "b"), False),
    ],
)  # fmt: skip
def test_the_first_kind_of_size_is_the_size(names, sizes):
    """A count of all parameters or of those without embeddings means the size only where no plain count stands."""
    one = Table({name: [1, 2] for name in names}, "t")
    assert (names[0] in named_like(one, size_names(one))) is sizes
    assert names[1] not in named_like(one, size_names(one))


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ("run run_id run_name runid trial_id name", run_column),
        ("step _step global_step iteration training_step train_step trainer/global_step", step_column),
    ],
)
def test_names_of_runs_and_steps(columns, found):
    for name in columns.split():
        more = {} if name == "step" else {"step": [1, 2]}
        one = Table({"other": [1, 1], name: [1, 2] if found is step_column else ["a", "a"], **(more if found is run_column  # noqa: E501
                                                                                              else {})}, "t")  # fmt: skip  # noqa: E501
        assert found(one) == name


@pytest.mark.parametrize("rate", ["lr", "learning_rate", "train_lr", "train/lr", "train/learning_rate", "lr/current"])
def test_names_of_rates(rate):
    assert any(note.startswith(f"'{rate}' decays within 2 of 2 runs") for note in usable_rows(
        table(**LONG, **{rate: [1.0, 0.5, 0.5, 1.0]})).notes)  # fmt: skip


@pytest.mark.parametrize("name", ["max_steps", "total_steps", "num_steps", "n_steps", "max_step", "training_steps"])
def test_names_of_planned_steps(name):
    assert f"('step' below '{name}')" in usable_rows(table(**LONG, **{name: [100] * 4})).notes[-1]


@pytest.mark.parametrize("name", ["status", "state", "run_status", "run_state", "job_state"])
def test_names_of_states(name):
    assert usable_rows(table(**{name: ["ok", "failed"]}, n=[1, 2])).n_rows == 1


@pytest.mark.parametrize("name", ["seed", "replicate", "rep"])
def test_names_of_seeds(name):
    one = table(tokens=[1, 1], loss=[2.0, 2.0], other=[0, 1], **{name: [3, 3]})
    assert ScaleColumns.of(one).seed == name
    assert without_repeats(one, ("tokens",), "loss").notes[0].endswith(f"same {name})")


# ---------------------------------------------------------------------------------------------- the best of a sweep


SWEEP = [{"N": n, "lr": lr, "seed": s, "test_loss": loss} for n, lr, s, loss in (
    (1, 0.1, 0, 3.0), (1, 0.1, 1, 2.0), (1, "0.2", 0, 2.25), (2, 0.1, 0, 1.5), (2, 0.2, 0, 1.75), (2, 0.3, 0, 1.8),
)]  # fmt: skip


def test_the_best_value_of_a_sweep_by_its_mean():
    """At N = 1 the means are 2.5 and 2.25; at N = 2 the smallest rate wins, an end of those tried, as at N = 1."""
    found = best_of(SWEEP, ["lr"], ["N"], "test_loss")
    assert found.kept == {2, 3}
    assert found.notes == (
        "of lr every point keeps the value with the best mean test_loss, the test result itself: the chosen runs look "
        "better than they are (N=1: lr=0.2; N=2: lr=0.1)",
        "the best lr is the smallest or largest that was tried at 2 of 2 points: the best may lie beyond",
    )  # fmt: skip
    higher = best_of(SWEEP, ["lr"], ["N"], "test_loss", "higher")
    assert higher.kept == {0, 1, 5}
    judged = [{**row, "val_loss": -row["test_loss"]} for row in SWEEP]
    by = best_of(judged, ["lr"], ["N"], "test_loss")
    assert by.kept == {0, 1, 5}
    assert by.notes[0] == "of lr every point keeps the value with the best mean val_loss (N=1: lr=0.1; N=2: lr=0.3)"
    inside = [{"lr": lr, "loss": loss} for lr, loss in ((0.1, 2.0), (0.2, 1.0), (0.3, 2.0))]
    assert best_of(inside, ["lr"], [], "loss").notes == (
        "of lr every point keeps the value with the best mean loss, the test result itself: the chosen runs look "
        "better than they are (everywhere: lr=0.2)",
    )  # fmt: skip
    words = [{"arm": arm, "loss": loss} for arm, loss in (("a", 1.0), ("b", 2.0))]
    assert len(best_of(words, ["arm"], [], "loss").notes) == 1
    assert len(best_of([{"lr": 1, "loss": 1.0}], ["lr"], [], "loss").notes) == 1
    both = [{"lr": 1, "wd": 3, "loss": 1.0}, {"lr": 2, "wd": 3, "loss": 2.0}]
    assert best_of(both, ["lr", "wd"], [], "loss").notes[0].endswith("(everywhere: lr=1, wd=3)")


@pytest.mark.parametrize(("n", "where"), [(12, "(N=0: lr=1; "), (13, " at 13 points")])
def test_a_dozen_points_are_listed(n, where):
    rows = [{"N": k, "lr": 1, "loss": 1.0} for k in range(n)]
    assert where in best_of(rows, ["lr"], ["N"], "loss").notes[0]


def test_the_validation_loss_that_goes_with_a_loss():
    row = {"val_bpb": 1.0, "eval_bpb": 1.0, "val_loss": 1.0, "validation_loss": 2.0, "loss": 1.0}
    assert validation_column([row], "test_bpb") == "val_bpb"
    assert validation_column([row], "val_bpb") == "validation_loss"
    assert validation_column([row], "other") == "validation_loss"
    assert validation_column([row, {**row, "val_bpb": None}], "bpb") == "eval_bpb"
    assert validation_column([{"eval_loss": 1.0}], "eval_loss") == ""
    assert [validation_column([{name: 1.0}], "x") for name in ("valid_loss", "valid_x", "validation_x", "eval_loss")] == [  # noqa: E501
        "valid_loss", "valid_x", "validation_x", "eval_loss",
    ]  # fmt: skip
    assert validation_column([], "loss") == ""
    refused("a row has no number in 'loss', by which the best is chosen", best_of, [{"lr": 1, "loss": "x"}], ["lr"], [],
            "loss", value="x")  # fmt: skip


def test_the_best_rows_of_a_table():
    one = table(N=["1", "1", "2"], lr=[0.1, 0.2, 0.1], loss=["2k", "1k", "3k"], arm=["a", "b", "c"])
    found = keep_best(one, ("lr",), ("N",), "loss")
    assert found.column("arm").tolist() == ["b", "c"]
    assert found.row_numbers.tolist() == [2, 3]
    assert len(found.notes) == 2
    valued = one.with_column("val_loss", [1.0, 2.0, 3.0])
    assert keep_best(valued, ("lr",), ("N",), "loss").column("arm").tolist() == ["a", "c"]
    for columns, point, loss in ((("zz",), ("N",), "loss"), (("lr",), ("zz",), "loss"), (("lr",), ("N",), "zz")):
        with pytest.raises(InputError, match="has no column 'zz'"):
            keep_best(one, columns, point, loss)


# ---------------------------------------------------------------------------------------------- rows that count


def test_finished_rows_count():
    one = table(State=["Finished", "crashed", "", "out of memory", "success"], n=[1, 2, 3, 4, 5])
    found = usable_rows(one)
    assert found.numbers("n").tolist() == [1, 5]
    assert found.notes == (
        "3 rows left out: their State is not 'finished' (1 crashed, 1 empty, 1 out of memory)",
    )  # fmt: skip
    same = table(status=["done", "ok"], n=[1, 2])
    assert usable_rows(same) is same
    other = table(state=["Texas", "Ohio"], status=["ok", "failed"], n=[1, 2])
    assert usable_rows(other).notes == ("1 rows left out: their status is not 'finished' (1 failed)",)
    assert usable_rows(table(state=["Texas", "Ohio"], n=[1, 2])).n_rows == 2
    refused("the table has no finished row that is not a baseline", usable_rows, table(status=["failed"], n=[1]))
    refused("the table has no finished row that is not a baseline", usable_rows, table(n=[]))
    study = table(status=["finished"] * 3, kind=["main", "baseline", "tuning"], n=[1, 2, 3])
    assert usable_rows(study).notes == ("2 rows left out: baselines and searches",)
    assert usable_rows(study).numbers("n").tolist() == [1]
    mains = table(status=["finished"], kind=["main"])
    assert usable_rows(mains).notes == ()


@pytest.mark.parametrize("word", ["finish", "complete", "COMPLETED", "successful", "succeeded", "terminated", "done"])
def test_words_for_a_finished_run(word):
    assert usable_rows(table(status=[word, "failed"], n=[1, 2])).numbers("n").tolist() == [1]


UNFINISHED = (
    "crash failure fail running killed preempted preempting pending error errored cancelled canceled timeout oom "
    "aborted queued scheduled paused stopped interrupted unfinished incomplete diverged pruned waiting created "
    "suspended crashed failed out_of_memory"
)


@pytest.mark.parametrize("word", UNFINISHED.split())
def test_words_for_a_run_that_is_not_finished(word):
    with pytest.raises(InputError, match="has no finished row"):
        usable_rows(table(status=[word], n=[1]))


LONG = {"run": ["a", "a", "b", "b"], "step": [10, 20, 20, 10], "loss": [3.0, 2.0, 1.0, 4.0]}


def test_the_end_of_each_run_counts():
    one = table(**LONG)
    found = usable_rows(one)
    assert found.numbers("loss").tolist() == [2, 1]
    kept = "the end of each run is kept, since a checkpoint whose learning rate still decays is not a scaling point"
    assert found.notes == (f"4 rows are checkpoints of 2 runs: {kept}",)
    every = ("and all are kept; one whose learning rate still decays is worse than a run that was meant to end there, "
             "and is not a scaling point")  # fmt: skip
    for more in ({"checkpoints": True}, {"scale": "step"}):
        whole = usable_rows(one, **more)
        assert (whole.n_rows, whole.notes) == (4, (f"4 rows are checkpoints of 2 runs, {every}",))
    single = table(run=["a"] * 3, step=[1, 2, 3])
    assert usable_rows(single).notes == (f"3 rows are checkpoints of 1 run, {every}",)
    assert usable_rows(one, scale="loss").n_rows == 2
    # Of equal steps the later row; a row without a step is before all.
    ties = table(run=["a", "a", "a", "b", "b"], step=[5, 5, np.nan, np.nan, 1], loss=[1, 2, 3, 4, 5])
    assert usable_rows(ties).numbers("loss").tolist() == [2, 5]


def test_the_columns_of_runs_and_steps():
    assert run_column(table(**LONG)) == "run"
    assert run_column(table(name=["a", "a"], step=[1, 2])) == "name"
    assert run_column(table(name=["a", "a"])) is None
    assert run_column(table(run=["a", "b"], name=["a", "a"], step=[1, 2])) == "name"
    assert run_column(table(other=["a", "b"]), "other") == "other"
    with pytest.raises(InputError, match="has no column 'zz'"):
        run_column(table(a=[1]), "zz")
    assert [step_column(table(**{name: [1, 2]})) for name in ("_step", "global_step", "Iteration", "x")] == [
        "_step", "global_step", "Iteration", None,
    ]  # fmt: skip
    assert step_column(table(step=[1, 1])) is None
    assert Runs.of(table(run=["a", "b"], step=[1, 2]), "run") is None
    assert Runs.of(table(run=["a", "a"]), "run") is None
    found = Runs.of(table(**LONG), None)
    assert (found.column, found.step, found.codes.tolist(), found.names, found.last.tolist()) == (
        "run", "step", [0, 0, 1, 1], ["a", "b"], [1, 2],
    )  # fmt: skip
    assert [counts_steps(name) for name in ("step", "trainer/global-step", "steps", "N")] == [True, True, False, False]
    one = table(**LONG)
    assert [are_checkpoints(one, "N", "run"), are_checkpoints(one, "N", None), are_checkpoints(one, "step", None),
            are_checkpoints(one, "step", "zz"), are_checkpoints(table(run=["a", "b"]), "step", "run")] == [
        True, False, True, True, False,
    ]  # fmt: skip


def test_what_rates_and_planned_steps_say():
    """A rate that ends below 98 % of its largest has decayed: 0.979 has, 0.98 has not."""

    def notes(**more):
        return usable_rows(table(**LONG, **more)).notes[1:]

    assert notes(lr=[1.0, 0.979, 1.0, 1.0]) == (
        "'lr' decays within 1 of 2 runs: their checkpoints before the end are not scaling points",
    )  # fmt: skip
    assert notes(lr=[1.0, 0.98, 1.0, 1.0]) == ()
    assert notes(lr=[1.0, 0.985, 0.5, 0.5]) == (
        "'lr' stays the same within every run: its checkpoints are runs that stopped earlier",
    )  # fmt: skip
    assert notes(lr=[1.0] * 4) == ()
    assert notes(max_steps=[20, 20, 21, 21]) == (
        "1 of 2 runs end before the last step of their schedule ('step' below 'max_steps'): their rate still decays, "
        "and their ends are no scaling points",
    )  # fmt: skip
    assert notes(max_steps=[20] * 4) == ()
    assert notes(total_steps=[20.4] * 4) == ()  # 20 is 98.04 % of it


def test_rows_that_repeat_are_dropped():
    one = table(N=[1, 1, 1, 2], loss=[3.0, 3.0, 3.0, 2.0], seed=[0, 1, 0, 0], arm=["a", "a", "a", "a"])
    found = without_repeats(one, ("N",), "loss")
    assert (found.row_numbers.tolist(), found.notes) == (
        [1, 2, 4], ("1 duplicated row dropped (same scale and loss, same seed)",),
    )  # fmt: skip
    plain = table(N=[1, 1, 1, 2], loss=[3.0, 3.0, 3.0, 2.0], tag=["a", "a", "b", "a"])
    assert without_repeats(plain, ("N",), "loss").notes == (
        "1 duplicated row dropped (same scale and loss, equal in every column)",
    )  # fmt: skip
    runs = table(N=[1] * 6, loss=[3.0] * 6, run=["a", "a", "b", "b", "a", "c"], seed=range(6))
    found = without_repeats(runs, ("N",), "loss")
    assert (found.row_numbers.tolist(), found.notes) == (
        [1, 3, 6], ("3 duplicated rows dropped (same scale and loss, same run)",),
    )  # fmt: skip
    assert without_repeats(runs, ("N",), "loss", run="seed") is runs
    other = table(N=[1, 1], loss=[3.0, 3.0], rep=[1, 1], s=[1, 2])
    assert without_repeats(other, ("N",), "loss").notes == ("1 duplicated row dropped (same scale and loss, same rep)",)
    assert without_repeats(other, ("N",), "loss", seed="s") is other
    assert without_repeats(other, ("zz",), "loss") is other
    single = table(N=[1, 2], loss=[3.0, 3.0])
    assert without_repeats(single, ("N",), "loss") is single
    # The same seed under another condition is another run: 3 of 6 rows repeat, and the arm differs in one of them.
    arms = table(N=[1, 1, 1, 2, 3, 4], loss=[3.0] * 6, seed=[0] * 6, arm=["a", "b", "a", "a", "a", "a"])
    assert without_repeats(arms, ("N",), "loss").row_numbers.tolist() == [1, 2, 4, 5, 6]


def test_a_sample_is_even_over_the_scales():
    """Of scales with 1, 2 and 9 rows, 6 are kept: all of the small ones and 3 of the large."""
    one = table(N=[1] + [2] * 2 + [3] * 9, loss=range(12))
    found = sampled(one, ("N",), most=6)
    values, counts = np.unique(found.numbers("N"), return_counts=True)
    assert (values.tolist(), counts.tolist()) == ([1, 2, 3], [1, 2, 3])
    assert found.notes == (
        "6 of 12 rows are fitted, drawn evenly over the scales; intervals are those of so many runs",
    )  # fmt: skip
    assert found.numbers("loss").tolist() == sampled(one, ("N", "zz"), most=6).numbers("loss").tolist()
    assert sampled(one, ("N",), most=12) is one
    assert sampled(one, ("N",)) is one
    assert _shares(A([1, 2, 9]), 6).tolist() == [1, 2, 3]
    assert _shares(A([5, 5, 5]), 4).tolist() == [2, 1, 1]
    assert _shares(A([1, 1]), 9).tolist() == [1, 1]
    assert _shares(A([3, 1, 3]), 6).tolist() == [3, 1, 2]
    large = table(N=np.repeat([1, 2], 2501), g=np.tile(["a", "b"], 2501))
    assert sampled(large, ("N",)).n_rows == 600
    assert sampled(large, ("N",), "g").n_rows == 1200
    assert sampled(large.rows(np.arange(5002) < 5000), ("N",)).n_rows == 5000


# ---------------------------------------------------------------------------------------------- ready for a fit


def test_a_table_ready_for_a_fit():
    one = table(tokens=[1, 1, 2, 2, 3, 3], loss=[3.0, 3.1, 2.0, 2.1, 1.0, 1.1], arm=["a", "b"] * 3, run=[*"uuvvww"])
    found = prepare(one)
    assert (found.scales, found.loss, found.group, found.compared, found.used, found.run, found.noise) == (
        (), None, None, True, (), "run", None,
    )  # fmt: skip
    grouped = prepare(one, ("tokens",), "loss", group="arm")
    assert (grouped.scales, grouped.loss, grouped.group, grouped.compared, grouped.used) == (
        ("tokens",), "loss", "arm", True, ("arm",),
    )  # fmt: skip
    split = prepare(one, series=("arm",))
    assert (split.group, split.compared, split.used) == ("series: arm", False, ("arm", "series: arm"))
    methods = one.with_column("method", [*"pppqqq"])
    assert prepare(methods, series=("arm",)).group == "series: method, arm"
    assert prepare(methods, series=("arm", "method")).group == "series: method, arm"
    assert prepare(methods).group == "method"
    best = prepare(one, best_of=("arm",))
    assert (best.table.numbers("loss").tolist(), best.used) == ([3, 2, 1], ("arm",))
    assert prepare(one, best_of=("arm",), group="arm").table.n_rows == 3
    noisy = one.with_column("se", [0.1, np.nan, 0.1, 0.1, 0.1, 0.1])
    assert (prepare(noisy, noise="se").table.n_rows, prepare(noisy, noise="se").used, prepare(noisy, noise="se").noise) == (  # noqa: E501
        5, ("se",), "se",
    )  # fmt: skip
    assert prepare(one, ("tokens",), "loss", rows=4).table.n_rows == 4
    assert prepare(one, ("tokens",), "loss", rows=1).table.n_rows == 1
    refused("rows is 0; give how many rows are fitted, at least 1", prepare, one, rows=0, field="rows", value=0)
    long = table(**LONG)
    assert [prepare(long, **more).table.n_rows for more in ({}, {"checkpoints": True}, {"scales": ("step",)})] == [
        2,
        4,
        4,
    ]
    twice = table(tokens=[1, 1], loss=[3.0, 3.0], s=[0, 1])
    assert [prepare(twice, seed=seed).table.n_rows for seed in (None, "s")] == [2, 2]
    assert prepare(table(tokens=[1, 1, 2], loss=[3.0, 3.0, 1.0])).table.n_rows == 2
    assert prepare(table(N=[1, 1, 2, 2], D=[1, 1, 2, 3], loss=[3.0, 3.0, 1.0, 1.0])).table.n_rows == 3
    assert prepare(table(a=[1, 1], b=[2, 2])).table.n_rows == 2


def test_the_columns_of_a_group():
    one = table(N=[1.0, 2.0, 2.0], C=[12.0, 24.0, 48.0], ppl=[np.e, 1.0, 1.0], run=[*"aab"], se=[0.5, 0.25, 1.0])
    found = columns_of(one, ("N", "C"), "ppl", "run", "se")
    assert (found.x.tolist(), found.loss.tolist(), found.names, found.loss_name) == (
        [[1, 2], [2, 2], [2, 4]], [1, 0, 0], ("N", "C / 6N"), "ln ppl",
    )  # fmt: skip
    assert (found.replicate.tolist(), found.run.tolist()) == ([0, 1, 2], [0, 0, 1])
    assert found.noise == pytest.approx([0.5 / np.e, 0.25, 1.0])
    assert set(found.data) == {"x", "loss", "x_name", "loss_name", "run", "replicate", "noise"}
    some = found.keep(A([True, False, True]))
    assert (some.table.n_rows, some.x.tolist(), some.loss.tolist(), some.replicate.tolist(), some.run.tolist()) == (
        2, [[1, 2], [2, 4]], [1, 0], [0, 2], [0, 1],
    )  # fmt: skip
    assert some.noise == pytest.approx([0.5 / np.e, 1.0])
    assert found.places(("N", "C"), [[2.0, 24.0]]).tolist() == [[2, 2]]
    plain = columns_of(one, ("C", "N"), None, None)
    assert (plain.x.tolist(), plain.names, plain.loss_name, plain.run, plain.noise) == (
        [[12, 1], [24, 2], [48, 2]], ("C", "N"), "ln ppl", None, None,
    )  # fmt: skip
    assert "noise" not in plain.data
    assert plain.keep(A([True, False, False])).run is None
    assert plain.places(("C", "N"), [[12.0, 1.0]]).tolist() == [[12, 1]]
    assert plain.observations().loss.tolist() == [1, 0, 0]
    assert columns_of(one.with_column("C", [12.0, "", 48.0]), ("N", "C"), "ppl", None).x.tolist() == [[1, 2], [2, 4]]
    assert [run_labels(one, name) for name in (None, "zz", "N2")] == [None] * 3
    assert run_labels(table(run=["a", "a"]), "run") is None
    assert run_labels(table(run=["a", "b"]), "run") is None


def test_groups_and_one_scale_of_a_prepared_table():
    one = table(tokens=[1, 2, 1, 2], loss=[3.0, 2.0, 4.0, 3.0], method=[*"aabb"], se=[0.1] * 4, s=[0, 1, 0, 1])
    prepared = prepare(one, ("tokens",), "loss", noise="se")
    assert {name: part.loss.tolist() for name, part in groups_of(prepared, ("tokens",))} == {"a": [3, 2], "b": [4, 3]}
    bad = Prepared(table(tokens=["1", "x"], loss=[1, 2], method=["a", "b"]), (), "loss", "method", True, ())
    with pytest.raises(InputError, match=r"^b: the table, row 2: 'tokens' is 'x', not a number$"):
        list(groups_of(bad, ("tokens",)))
    scale = one_scale(prepared, "s")
    assert (scale.scale, scale.loss, scale.seed, scale.run, scale.noise) == ("tokens", "loss", "s", None, "se")
    assert one_scale(prepare(one)).scale == "tokens"
    assert forecast_data(scale)["checkpoints"] is False
    assert forecast_data(one_scale(prepare(table(step=[1, 2], loss=[1, 2]), ("step",))))["checkpoints"] is True
    mixed = table(tokens=[1, 1, 2, 2, 3, 3], loss=[3.0, 3.1, 2.0, 2.1, 1.0, 1.1], lr=[1, 2] * 3, N=[1, 3] * 3)
    told = notes_of(one_scale(prepare(mixed, ("tokens",))), prepare(mixed, ("tokens",)))
    assert [re.match(r"rows that differ in 'lr'|'N' varies 3-fold", note) is not None for note in told] == [True, True]
    assert (
        notes_of(one_scale(prepare(mixed, ("tokens",), best_of=("lr",))), prepare(mixed, ("tokens",), best_of=("lr",)))
        == ()
    )
