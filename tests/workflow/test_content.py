"""A study knows its data by content: other bytes are refused wherever they enter, the same bytes may move."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from metascale.core import files
from metascale.core.canonical import content_id
from metascale.core.errors import InputError
from metascale.core.files import content_of, sha256_of
from metascale.study.content import CONTENT, check_content, find
from metascale.study.definition import load_definition
from metascale.study.design import Study
from metascale.study.store.store import RunStore
from metascale.study.store.verify import verify_study
from metascale.workflow import launch
from metascale.workflow.content import known_by_content
from metascale.workflow.evaluate import evaluate_run
from metascale.workflow.launch import Place, plan_from_folder, run
from metascale.workflow.recipe import load_recipe

SMALL: dict[str, Any] = {
    "n_way": 2, "k_shot": 1, "n_query": 2, "max_steps": 2, "eval_every": 2, "n_validation_tasks": 2,
    "n_test_tasks": 2, "n_curve_tasks": 2, "tune_rates": [0.1], "tune_steps": [1], "width": 4, "n_words": 30,
}  # fmt: skip
SERIAL = Place(executor="serial")


def texts(path: Path, extra: str = "") -> Path:
    draw = random.Random(0)
    words = [f"w{number}" for number in range(60)]
    lines = [f"{' '.join(draw.sample(words, 5))} {i}x{c}{extra},c{c:02d}" for c in range(15) for i in range(4)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


def go(path: Path | str | list[str], folder: Path, n_tasks: list[int]) -> Any:
    values = {**SMALL, "path": path if isinstance(path, list) else str(path), "n_tasks": n_tasks}
    return run("csv", folder, values, seeds=[0], place=SERIAL, baselines=False)[0]


def tree(folder: Path) -> dict[str, str]:
    return {str(path): sha256_of(path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project: ``data/mine.csv`` and the study ``runs/one`` of one finished trial."""
    project = tmp_path_factory.mktemp("project")
    go(texts(project / "data" / "mine.csv"), project / "runs" / "one", [2])
    return project


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, place := tmp_path / "moved")
    return place


def test_other_content_at_the_same_place_is_refused_with_both_hashes(tmp_path: Path) -> None:
    file, study = texts(tmp_path / "mine.csv"), tmp_path / "study"
    go(file, study, [2])
    before, first = tree(study), sha256_of(file.read_bytes())
    texts(file, extra="!")
    for again in (
        lambda: go(file, study, [2, 3]),
        lambda: launch.launch(plan_from_folder(study, SERIAL), study),
        lambda: evaluate_run(next((study / "runs").iterdir()), {}),
    ):
        with pytest.raises(InputError, match=r"mine\.csv is not the file that the study's trials read") as refused:
            again()
        assert first[:12] in str(refused.value)
        assert sha256_of(file.read_bytes())[:12] in str(refused.value)
        assert tree(study) == before


def test_other_content_of_the_same_size_is_other_content(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("text,label\nred,a\n")
    record = content_of(path)
    assert find(record, [path], "`path`") == path
    path.write_text("text,label\nrod,a\n")
    assert content_of(path)["n_bytes"] == record["n_bytes"] == 17
    with pytest.raises(InputError, match=record["sha256"][:12]):
        find(record, [path], "`path`")


@pytest.mark.usefixtures("undrawn")
def test_the_same_content_elsewhere_is_the_same_study(project: Path) -> None:
    shutil.rmtree(project / "data")
    elsewhere = texts(project / "other" / "place" / "mine.csv")
    outcome = go(elsewhere, study := project / "runs" / "one", [2, 3])
    assert (outcome.finished, outcome.skipped, outcome.ran) == (2, 1, 1)
    assert verify_study(study).ok
    assert load_definition(study).study.base["path"] == str(elsewhere)
    evaluate_run(next((study / "runs").glob("n_tasks=2*")), {})


def test_a_study_and_its_data_move_together_and_resume_from_any_folder(
    project: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = finished.with_name("hidden")
    finished.rename(hidden)
    try:
        monkeypatch.chdir(tmp_path)
        study = project / "runs" / "one"
        planned = plan_from_folder(study, SERIAL)
        assert planned.study.base["path"] == str(project / "data" / "mine.csv")
        assert launch.launch(planned, study)[0].skipped == 1
        assert len(evaluate_run(next((study / "runs").iterdir()), {"n_test_tasks": 2}).task_ids) == 2
        (project / "data" / "mine.csv").unlink()
        with pytest.raises(InputError, match=r"is not there: .*put it back, or name its new place"):
            plan_from_folder(study, SERIAL)
    finally:
        hidden.rename(finished)


def test_relative_paths_and_home_are_stored_as_places_that_any_folder_resolves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts(tmp_path / "mine.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    recipe = load_recipe("csv")
    for given in ("mine.csv", "./mine.csv", "~/mine.csv"):
        study = recipe.study({**SMALL, "path": given, "backbone": "~/model"}, seeds=[0], baselines=False)
        assert study.base["path"] == str(tmp_path / "mine.csv")
        assert study.base["backbone"] == str(tmp_path / "model")
    assert recipe.study({**SMALL, "path": ["mine.csv", "~/b.csv"]}).axes["path"] == [
        str(tmp_path / "mine.csv"), str(tmp_path / "b.csv")
    ]  # fmt: skip


def test_the_name_of_the_file_belongs_to_the_study_for_the_classes_are_drawn_by_it(project: Path) -> None:
    other = texts(project / "data" / "yours.csv")
    with pytest.raises(InputError, match=r"under another name.*call it mine\.csv"):
        go(other, project / "runs" / "one", [2])


def test_an_axis_of_files_grows_and_each_file_keeps_its_content(tmp_path: Path) -> None:
    recipe = load_recipe("csv")
    paths = [str(texts(tmp_path / f"{name}.csv", name)) for name in "abc"]

    def store(chosen: list[str]) -> None:
        study = recipe.study({**SMALL, "path": chosen, "n_tasks": 2}, seeds=[0], baselines=False)
        RunStore.create(tmp_path / "s", known_by_content(recipe, study, tmp_path / "s")).close()

    store(paths[:2])
    first = {trial.id: trial for trial in load_definition(tmp_path / "s").trials}
    store(paths)
    trials = load_definition(tmp_path / "s").trials
    assert len(trials) == 3
    assert {*first} < {trial.id for trial in trials}
    assert [trial.label for trial in trials] == [f"n_tasks=2-path={name}.csv-seed=0" for name in "abc"]
    moved = str(texts(tmp_path / "there" / "a.csv", "a"))
    store([moved, *paths[1:]])
    assert [trial.config["path"] for trial in load_definition(tmp_path / "s").trials] == [moved, *paths[1:]]
    texts(tmp_path / "b.csv", "other")
    with pytest.raises(InputError, match=r"b\.csv is not the file"):
        store([moved, *paths[1:]])


def test_a_trial_that_starts_after_the_file_was_replaced_fails_in_a_sentence(tmp_path: Path) -> None:
    file = texts(tmp_path / "mine.csv")
    config = {"path": str(file), CONTENT: {"path": content_of(file)}}
    check_content(config)
    texts(file, "later")
    with pytest.raises(InputError, match="is not the file that the study's trials read"):
        check_content(config)


def test_a_trial_is_what_its_file_holds_not_where_it_is() -> None:
    def trial(place: str, sha256: str) -> str:
        record = {"name": "a.csv", "n_bytes": 3, "sha256": sha256}
        base = {"path": place, "k": 1, CONTENT: {"path": {place: record}, "data set d": {"d/x": record}}}
        (only,) = Study("s", "m:f", base, {}, [0]).trials()
        assert only.config["path"] == place
        assert only.config[CONTENT] == {"path": record}
        return only.id

    assert trial("/here/a.csv", "aa") == trial("/there/a.csv", "aa") != trial("/here/a.csv", "bb")
    # Without records, and with those of data sets alone, a trial has the id that it always had.
    plain = {"path": "a.csv", "seed": 0, "trial": "m:f"}
    for base in ({"path": "a.csv"}, {"path": "a.csv", CONTENT: {"data set d": {"d/x": {"sha256": "aa"}}}}):
        assert Study("s", "m:f", base, {}, [0]).trials()[0].id == content_id(plain)


def test_a_data_set_that_was_replaced_is_refused_by_name_and_may_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe("banking77")
    study = recipe.study({"backbone": "", "n_tasks": 2}, seeds=[0], baselines=False)

    def store(place: str, content: str) -> None:
        (tmp_path / place / "banking77").mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "banking77" / "train.csv").write_text(content)
        monkeypatch.setenv("METASCALE_DATA", str(tmp_path / place))
        RunStore.create(tmp_path / "s", known_by_content(recipe, study, tmp_path / "s")).close()

    store("here", "text,category\n")
    before = (tmp_path / "s" / "study.json").read_bytes()
    store("there", "text,category\n")
    assert (tmp_path / "s" / "study.json").read_bytes() == before
    with pytest.raises(InputError, match=r"data set banking77: banking77/train.csv is not the file"):
        store("there", "text,category\na,b\n")


@pytest.mark.long
def test_a_folder_of_an_older_version_keeps_its_trials_and_is_compared_by_its_provenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, study = texts(tmp_path / "mine.csv"), tmp_path / "s"
    with monkeypatch.context() as before:
        before.setattr(launch, "known_by_content", lambda recipe, study, folder: study)
        before.setattr(launch, "_hashes", lambda recipe, study: {"mine.csv": sha256_of(file.read_bytes())})
        go(file, study, [2])
    ids = {trial.id for trial in load_definition(study).trials}
    assert go(file, study, [2]).skipped == 1
    assert go(file, study, [2, 3]).ran == 1
    assert ids < {trial.id for trial in load_definition(study).trials}
    texts(file, "other")
    with pytest.raises(InputError, match="is not the file that the study's trials read"):
        go(file, study, [2, 3, 4])
    with pytest.raises(InputError, match="is not the file that the study's trials read"):
        evaluate_run(next((study / "runs").iterdir()), {})


def test_a_file_is_hashed_once_a_process_and_a_large_one_by_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "f"
    file.write_bytes(bytes(range(256)) * 40)
    files._digest.cache_clear()
    first = content_of(file)
    assert first == {"name": "f", "n_bytes": 10240, "sha256": sha256_of(file.read_bytes())} == content_of(file)
    assert files._digest.cache_info().misses == 1
    file.write_bytes(b"x" * 10240)
    os.utime(file, ns=(0, 0))
    assert content_of(file)["sha256"] == sha256_of(b"x" * 10240)
    monkeypatch.setattr(files, "WHOLE_BYTES", 1000)
    monkeypatch.setattr(files, "_SAMPLE_BYTES", 10)
    large = content_of(file)
    assert large["sampled"] is True
    assert large["sha256"] == sha256_of(b"x" * 10 * 64)
    for place in (0, 10239, 10230 // 63):
        changed = bytearray(file.read_bytes())
        changed[place] = 0
        (tmp_path / "g").write_bytes(changed)
        assert content_of(tmp_path / "g")["sha256"] != large["sha256"]


def test_the_provenance_and_the_run_hold_the_hash(finished: Path) -> None:
    digest = sha256_of((finished / "data" / "mine.csv").read_bytes())
    (folder,) = (finished / "runs" / "one" / "runs").iterdir()
    assert json.loads((folder / "config.json").read_text())[CONTENT]["path"]["sha256"] == digest
    assert json.loads((folder / "provenance.json").read_text())["data_sha256"] == {"mine.csv": digest}


def test_what_was_read_is_a_line_of_the_plan_the_provenance_and_the_page(finished: Path) -> None:
    study = finished / "runs" / "one"
    said = "mine: 60 rows read (UTF-8, comma), 60 kept as texts of 15 classes"
    assert plan_from_folder(study, SERIAL).read == (said,)
    assert json.loads((study / "provenance.jsonl").read_text().splitlines()[-1])["data_read"] == [said]
    page = (study / "report.html").read_text()
    assert "what was read" in page
    assert said in page
