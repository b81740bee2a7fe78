from __future__ import annotations

import numpy as np
import pytest

from metascale.core.errors import InputError
from metascale.laws.table import ScaleColumns, Table, guess_loss, guess_scale, read_table, usable_rows


def write(folder, text):
    path = folder / "losses.csv"
    path.write_text(text)
    return path


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
    with pytest.raises(InputError, match="use `y`=accuracy and `law`=logistic"):
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
    assert list(kept.column("n_tasks")) == ["2", "5"]
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
