from __future__ import annotations

import numpy as np
import pytest

from metascale.core.errors import InputError
from metascale.laws.runs import usable_rows
from metascale.laws.table import ScaleColumns, Table, guess_loss, guess_scale, read_table, sizes_by_data


def write(folder, text):
    path = folder / "losses.csv"
    path.write_text(text)
    return path


def test_one_count_of_parameters_is_the_model_size_where_a_table_has_several():
    """As trials of language models write them; before, none of these names was known, nor the table one in N and D."""
    cells = {
        name: [str(10**k) for k in range(1, 4)] for name in ("n_params_total", "n_params_non_embedding", "n_params")
    }
    whole = {**cells, "loss": ["3", "2", "1"]}
    assert guess_scale(Table(whole, "t.csv"), "loss") == "n_params"
    del whole["n_params"]
    assert guess_scale(Table(whole, "t.csv"), "loss") == "n_params_non_embedding"
    del whole["n_params_non_embedding"]
    assert guess_scale(Table(whole, "t.csv"), "loss") == "n_params_total"
    assert sizes_by_data(("n_params_non_embedding", "tokens"))
    assert sizes_by_data(("n_params_total", "tokens"))
    assert not sizes_by_data(("tokens", "n_params_total"))
    assert not sizes_by_data(("n_tasks", "n_params_total"))


def test_a_csv_is_read_and_its_columns_are_guessed(tmp_path):
    table = read_table(write(tmp_path, "n_tasks,seed,test_loss_nats\n2,0,1.5\n5,0,1.2\n\n10,1,1.0\n"))
    assert table.n_rows == 3
    columns = ScaleColumns.of(table)
    assert (columns.loss, columns.scale, columns.seed) == ("test_loss_nats", "n_tasks", "seed")
    np.testing.assert_allclose(table.numbers("n_tasks"), [2, 5, 10])


@pytest.mark.parametrize("mark", [";", "\t"])
def test_other_delimiters(tmp_path, mark):
    assert read_table(write(tmp_path, f"x{mark}loss\n1{mark}2\n")).names == ("x", "loss")


def test_ambiguous_columns_are_refused_with_the_choices():
    table = Table({"params": ["1", "2"], "tokens": ["3", "4"], "loss": ["2", "1"]}, "t.csv")
    with pytest.raises(InputError, match="tokens or params; name it with `x`"):
        guess_scale(table, "loss")
    with pytest.raises(InputError, match="a_loss or b_loss"):
        guess_loss(Table({"a_loss": ["1"], "b_loss": ["2"]}, "t.csv"))
    with pytest.raises(InputError, match="the scale is in none of the columns widgets, loss"):
        guess_scale(Table({"widgets": ["1"], "loss": ["2"]}, "t.csv"), "loss")


def test_a_constant_column_is_no_scale():
    table = Table({"params": ["7", "7"], "tokens": ["3", "4"], "loss": ["2", "1"]}, "t.csv")
    assert guess_scale(table, "loss") == "tokens"


def test_known_names_count_in_any_case_and_pixels_are_not_preferred():
    table = Table({"x": ["1", "2"], "Model Size": ["3", "4"], "Training FLOP": ["5", "6"], "loss": ["2", "1"]}, "t.csv")
    with pytest.raises(InputError, match="Model Size or Training FLOP or x"):
        guess_scale(table, "loss")


def test_a_column_that_cannot_be_used_is_still_the_one_meant():
    assert guess_scale(Table({"tokens": ["7", "7"], "loss": ["2", "1"]}, "t.csv"), "loss") == "tokens"
    assert guess_scale(Table({"tokens": ["1,000", "2,000"], "loss": ["2", "1"]}, "t.csv"), "loss") == "tokens"
    with pytest.raises(InputError, match="use `y`=accuracy"):
        guess_loss(Table({"tokens": ["1"], "accuracy": [".5"]}, "t.csv"))


def test_a_typo_gets_the_nearest_name():
    table = Table({"n_tasks": ["1"], "loss": ["2"]}, "t.csv")
    with pytest.raises(InputError, match="did you mean 'n_tasks'"):
        table.column("n_task")
    with pytest.raises(InputError, match="did you mean 'loss'"):
        table.column("LOSS")


def test_a_study_leaves_out_baselines_and_unfinished_rows():
    table = Table(
        {
            "n_tasks": ["2", "5", "0", "9", "5", "5"],
            "kind": ["learner", "learner", "baseline", "learner", "tuning", "superseded"],
            "status": ["finished", "finished", "finished", "failed", "finished", "finished"],
            "test_loss_nats": ["1", "2", "3", "", "", "7"],
        },
        "results.csv",
    )
    kept = usable_rows(table)
    assert kept.column("n_tasks").tolist() == ["2", "5"]
    assert len(kept.notes) == 2
    with pytest.raises(InputError, match="no finished row"):
        usable_rows(table.rows(np.array([False, False, True, False, True, True])))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x,loss\n", "no rows"),
        ("x,x\n1,2\n", "two columns"),
        ("x,loss\n1,2,3\n", "row 1 has 3 cells"),
    ],
)
def test_broken_files_are_refused(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        read_table(write(tmp_path, text))


def test_missing_files_and_words_among_numbers(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        read_table(tmp_path / "nothing.csv")
    table = read_table(write(tmp_path, "x,loss\n1,2\n3,high\n"))
    with pytest.raises(InputError, match="row 2: 'loss' is 'high'"):
        table.numbers("loss")
    (tmp_path / "binary.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(InputError, match="UTF-8"):
        read_table(tmp_path / "binary.csv")


def test_mappings_are_tables():
    assert read_table({"x": [1, 2], "loss": [3, 4]}).n_rows == 2


def test_sizes_are_read_as_people_write_them():
    table = Table({"params": ["125M", "1.3B", "7k", "1,000,000", " 6e20 ", ""]}, "t.csv")
    np.testing.assert_array_equal(table.numbers("params")[:5], [125e6, 1.3e9, 7e3, 1e6, 6e20])
    assert np.isnan(table.numbers("params")[5])
    for cell in ("12 apples", "1,00", "M", "-"):
        with pytest.raises(InputError, match="not a number"):
            Table({"params": [cell]}, "t.csv").numbers("params")


@pytest.mark.parametrize(
    ("column", "good", "bad"),
    [("State", "finished", "crashed"), ("STATUS", "COMPLETE", "FAILED"), ("state", "success", "")],
)
def test_unfinished_runs_of_any_tracker_are_left_out(column, good, bad):
    table = usable_rows(Table({"x": [1, 2, 3], column: [good, bad, good.upper()]}, "t.csv"))
    assert table.columns["x"].tolist() == [1, 3]
    assert table.notes == (f"1 rows left out: their {column} is not 'finished' (1 {bad or 'empty'})",)


def test_a_column_named_kind_means_something_only_in_a_study():
    arms = {"kind": ["control", "treated"], "x": [1, 2]}
    assert usable_rows(Table(arms, "t.csv")).n_rows == 2
    assert usable_rows(Table({**arms, "status": ["finished"] * 2}, "t.csv")).n_rows == 1


def test_rows_without_a_number_are_left_out_and_said():
    columns = ScaleColumns.of(Table({"tokens": ["1e6", "1e7", "1e8"], "loss": ["3", "", "nan"]}, "t.csv"))
    assert columns.table.notes == ("2 rows left out: no number in tokens or loss (nan)",)
    np.testing.assert_array_equal(columns.data["loss"], [3.0])


def test_a_row_without_a_step_is_no_end_of_its_run():
    rows = {"run": ["a", "a", "b", "b"], "step": [1.0, np.nan, 1, 2], "loss": [3.0, 9, 2.5, 2]}
    assert usable_rows(Table(rows, "t.csv")).numbers("loss").tolist() == [3.0, 2.0]


def test_of_checkpoints_the_ends_of_runs_are_kept():
    rows = {"run": ["a", "a", "b", "b", "b"], "step": [1, 2, 1, 3, 2], "x": [1, 2, 3, 4, 5], "loss": [5, 4, 3, 2, 1]}
    table = usable_rows(Table(rows, "t.csv"))
    assert table.columns["x"].tolist() == [2, 4]
    assert "5 rows are checkpoints of 2 runs" in table.notes[0]
    single = {**rows, "run": ["a", "b", "c", "d", "e"]}
    assert usable_rows(Table(single, "t.csv")).n_rows == 5


def test_a_perplexity_is_read_as_the_loss_that_it_is():
    table = {"params": [1e6, 1e7, 1e8], "val_ppl": [20.0, 10.0, 5.0]}
    data = ScaleColumns.of(Table(table, "t.csv"), y="val_ppl").data
    np.testing.assert_allclose(data["loss"], np.log([20.0, 10.0, 5.0]))
    assert data["loss_name"] == "ln val_ppl"
