"""What was written is what is read: damaged runs are left out by name, and `verify` sees every change and deletion."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metascale.cli.main import app
from metascale.core.errors import CorruptFile, InputError
from metascale.study import Study, read_study, results_table, run_study
from metascale.study.status import study_status, summary
from metascale.study.store.folder import LOCK
from metascale.study.store.verify import verify_study
from metascale.workflow.conclude import conclude
from tests.study.folders import TRIALS, final_files, tiny_study

SIZES = (2, 4, 8, 16, 32, 64)


def power_study() -> Study:
    return Study("power", f"{TRIALS}:power", {"n_tasks": 1}, {"n_tasks": list(SIZES)}, (0,))


@pytest.fixture(scope="module")
def concluded(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("seals") / "study"
    run_study(power_study(), folder)
    conclude(folder)
    return folder


@pytest.fixture
def folder(concluded, tmp_path) -> Path:
    return Path(shutil.copytree(concluded, tmp_path / "study"))


def edit_result(folder: Path, number: int = 0) -> Path:
    """Another digit in the loss of a finished run."""
    path = read_study(folder).runs[number].folder / "result.json"
    text = path.read_text()
    at = text.index("test_loss_nats") + len('test_loss_nats": 1.')
    path.write_text(text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :])
    json.loads(path.read_text())
    return path


def test_an_edited_result_is_left_out_by_name_and_the_rest_concludes(folder):
    path = edit_result(folder)
    outcome = run_study(power_study(), folder)
    assert (outcome.finished, outcome.pending, outcome.ran, outcome.exit_status) == (5, 0, 0, 1)
    (named,) = outcome.damaged
    assert named.startswith("n_tasks=2-seed=0: ")
    assert str(path) in named
    assert named in summary(outcome)
    first, *rest = results_table(folder).rows
    assert (first["status"], first["test_loss_nats"]) == ("damaged", None)
    assert str(path) in first["message"]
    assert [row["status"] for row in rest] == ["finished"] * 5
    assert study_status(folder).counts["damaged"] == 1
    (law,) = conclude(folder).analyses.values()
    assert law.to_json()["n_observations"] == 5


def test_a_damaged_run_that_is_put_right_counts_again(folder):
    before = final_files(folder)
    path = read_study(folder).runs[0].folder / "result.json"
    whole = path.read_bytes()
    edit_result(folder)
    assert run_study(power_study(), folder).exit_status == 1
    path.write_bytes(whole)
    outcome = run_study(power_study(), folder)
    assert (outcome.exit_status, outcome.ran) == (0, 0)
    conclude(folder)
    assert final_files(folder) == before
    assert verify_study(folder).ok


def test_a_damaged_run_whose_folder_is_deleted_is_run_again(folder):
    before = final_files(folder)
    shutil.rmtree(edit_result(folder).parent)
    outcome = run_study(power_study(), folder)
    assert (outcome.exit_status, outcome.ran) == (0, 1)
    conclude(folder)
    assert final_files(folder)["law.json"] == before["law.json"]
    assert verify_study(folder).ok


@pytest.mark.parametrize("name", ["train.csv", "pool.json", "config.json"])
def test_an_edited_record_or_configuration_leaves_its_run_out(tmp_path, name):
    run_study(tiny_study(), tmp_path)
    path = read_study(tmp_path).runs[0].folder / name
    path.write_bytes(path.read_bytes() + b" ")
    damaged, whole = read_study(tmp_path).runs
    assert (damaged.status, whole.status) == ("damaged", "finished")
    assert str(path) in damaged.message()
    assert damaged.rows("train") == []
    assert run_study(tiny_study(), tmp_path).exit_status == 1


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "command",
    [
        "status {0} --json", "report {0}", "export {0} --format csv --out {1}/t.csv",
        "fit {0}/results.csv --bootstrap 20", "forecast {0}/results.csv --to 128", "backtest {0}/results.csv",
    ],
)  # fmt: skip
def test_every_command_names_the_damaged_run_and_leaves_with_1(folder, tmp_path, command):
    assert CliRunner().invoke(app, command.format(folder, tmp_path).split()).exit_code == 0
    edit_result(folder)
    done = CliRunner().invoke(app, command.format(folder, tmp_path).split())
    assert done.exit_code == 1, done.output
    assert "left out: n_tasks=2-seed=0: " in " ".join(done.stderr.split())
    assert done.stdout


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("command", "gone"), [("status {0}", "result.json"), ("report {0}", ""), ("fit {0} --bootstrap 20", "result.json")]
)
def test_every_command_names_the_result_that_is_gone(folder, command, gone):
    run = read_study(folder).runs[0].folder
    if gone:
        (run / gone).unlink()
    else:
        shutil.rmtree(run)
    done = CliRunner().invoke(app, command.format(folder).split())
    assert done.exit_code == 1, done.output
    said = f"left out: n_tasks=2-seed=0: {run / 'result.json'} is missing, although its trial had ended"
    assert said in " ".join(done.stderr.split())
    assert done.stdout
    outcome = run_study(power_study(), folder)
    assert (outcome.exit_status, outcome.ran) == (0, 1)
    assert CliRunner().invoke(app, command.format(folder).split()).exit_code == 0


def test_a_fit_leaves_out_what_was_edited_after_the_table_was_written(folder):
    edit_result(folder, 5)
    done = CliRunner().invoke(app, ["fit", str(folder / "results.csv"), "--bootstrap", "20"])
    assert done.exit_code == 1
    assert "1 rows left out: their status is not 'finished'" in done.output


def test_an_edited_table_is_no_table_to_fit(folder):
    path = folder / "results.csv"
    path.write_text(path.read_text().replace(",64,", ",65,"))
    done = CliRunner().invoke(app, ["fit", str(path)])
    assert isinstance(done.exception, CorruptFile)
    assert "`metascale report` writes it anew" in str(done.exception)


def test_every_flipped_bit_of_study_json_is_refused_or_changes_nothing(folder):
    path = folder / "study.json"
    whole = path.read_bytes()
    meaning = json.loads(whole)
    n_same = 0
    for place in range(len(whole)):
        bit = 1 << random.Random(place).randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        try:
            read_study(folder)
            same = json.loads(path.read_bytes()) == meaning
        except CorruptFile as error:
            same, told = False, str(error)
        n_same += same
        assert same or str(path) in told, place
    assert n_same <= 8, "the e of an exponent may be an E"


def covered(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)


def named(folder: Path) -> list[Path]:
    """What verify names; it stops at a study.json that is not there or damaged, and names that."""
    try:
        return [damage.path for damage in verify_study(folder).damages]
    except (CorruptFile, InputError) as error:
        return [folder / "study.json"] if "study.json" in str(error) else []


def test_verify_names_every_deleted_file(folder):
    assert verify_study(folder).ok
    names = {path.name for path in covered(folder)}
    assert {"law.json", "report.html", "index.sqlite3", "seals.json", "provenance.jsonl", "history.jsonl"} <= names
    for path in covered(folder):
        data = path.read_bytes()
        path.unlink()
        assert path in named(folder), path
        path.write_bytes(data)
    assert verify_study(folder).ok


def test_verify_names_every_file_with_a_flipped_bit(folder):
    chance = random.Random(1)
    for path in [path for path in covered(folder) if path.stat().st_size]:
        whole = path.read_bytes()
        for _ in range(3):
            data = bytearray(whole)
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path.write_bytes(data)
            assert path in named(folder), path
        path.write_bytes(whole)
    assert verify_study(folder).ok


def test_a_call_that_changes_nothing_does_not_seal_what_was_damaged(folder):
    path = read_study(folder).runs[0].folder / "history.jsonl"
    path.write_bytes(path.read_bytes().replace(b"started", b"starred"))
    assert run_study(power_study(), folder).exit_status == 0
    conclude(folder)
    assert [damage.path for damage in verify_study(folder).damages] == [path]


def test_evaluate_and_the_export_of_adapters_refuse_an_edited_run(folder):
    from metascale.integrations.adapters import read_adapter_run

    path = edit_result(folder)
    with pytest.raises(CorruptFile, match="its own SHA-256"):
        read_adapter_run(path.parent)
