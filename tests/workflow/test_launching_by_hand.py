"""What goes before and after the trials of a study, by hand: checks, places, stacks, programs, laws and evaluations."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from metascale.core.errors import CorruptFile, Diverged, InputError, MetascaleError
from metascale.core.files import content_of, sha256_of, write_json
from metascale.core.run import MemoryRun
from metascale.core.streams import torch_generator
from metascale.models.convnet import ConvNet
from metascale.models.perceptron import Perceptron
from metascale.models.resnet import ResNet
from metascale.models.resnet_bk import ResNetBK
from metascale.models.transformer import Transformer
from metascale.study.content import CONTENT, RELATIVE
from metascale.study.design import Study
from metascale.study.errors import Killed, Stopped
from metascale.study.roles import Reading, Roles
from metascale.study.store.table import ResultsTable
from metascale.testing import SmoothClassifier
from metascale.training.coordinate_check import CoordinateCheck, CoordinateRow
from metascale.training.optimizers import Adam
from metascale.training.state import to_bytes
from metascale.workflow import conclude, content, coordinates, evaluate, launch, own, places, preflight, stacks
from metascale.workflow.config import FewShotConfig, TrialConfig, validate
from metascale.workflow.coordinates import Coordinates
from metascale.workflow.fewshot import Parts
from metascale.workflow.foreign import hint
from metascale.workflow.text import TextConfig

# ------------------------------------------------------------------------------------------------- conclusions

COLUMNS = ("x", "seed", "kind", "status", "method", "test_loss_nats", "test_inner_lr", "test_scale", "test_note", "k")


def table(*rows: tuple[Any, ...], columns: tuple[str, ...] = COLUMNS, notes: tuple[str, ...] = ()) -> ResultsTable:
    return ResultsTable(columns, tuple(dict(zip(columns, row, strict=True)) for row in rows), notes)


def test_baselines_are_means_over_seeds_with_what_tuning_chose_last() -> None:
    found = conclude.baseline_results(
        table(
            (1, 0, "trial", "finished", "maml", 9.0, 0.1, None, "a", 5),
            (None, 0, "baseline", "finished", "ft", 1.0, 0.1, None, "a", 5),
            (None, 1, "baseline", "finished", "ft", 2.0, 0.3, None, "b", 5),
            (None, 2, "baseline", "failed", "ft", 99.0, 0.3, None, "b", 5),
            (None, 0, "control", "finished", "prior", 3.0, None, None, None, None),
        )
    )
    ft = found["ft"]
    assert (ft["inner_lr"], ft["test_loss_nats"], ft["test_note"], ft["kind"]) == (0.3, 1.5, "b", "baseline")
    assert "test_scale" not in ft
    assert "test_inner_lr" not in ft
    assert found["prior"] == {"test_loss_nats": 3.0, "kind": "control"}
    assert list(found) == ["ft", "prior"]
    crossed = conclude.baseline_results(
        table(
            (None, 0, "baseline", "finished", "ft", 1.0, 0.1, None, "a", 5),
            (None, 0, "baseline", "finished", "ft", 2.0, 0.1, None, "a", 10),
            (None, 0, "baseline", "finished", "ft", 4.0, 0.1, None, "a", None),
        ),
        ("k", "absent"),
    )
    assert {name: row["test_loss_nats"] for name, row in crossed.items()} == {
        "ft, k=5": 1.0,
        "ft, k=10": 2.0,
        "ft": 4.0,
    }
    assert [conclude._mean(values) for values in ([1, 2.0], [1.0, None], [True, False], ["a"])] == [
        1.5,
        None,
        False,
        "a",
    ]


def study(**axes: list[Any]) -> Study:
    return Study("s", "tests.study.trials:quick", {}, axes, (0,))


ROLES = Roles(("x",), loss="test_loss_nats")


def row(x: Any, loss: Any, status: str = "finished", kind: str = "trial", k: Any = None) -> tuple[Any, ...]:
    return (x, 0, kind, status, "m", loss, None, None, None, k)


@pytest.mark.parametrize(
    ("rows", "roles", "reason"),
    [
        ([], ROLES, "no trial has finished"),
        ([row(1, 1.0, "failed"), row(1, 1.0, kind="baseline")], ROLES, "no trial has finished"),
        ([row(1, 1.0)], Roles(("y",), loss="test_loss_nats"), "the results have no column 'y'; they have"),
        (
            [row(1, 1.0)],
            Roles(("x",), loss="test_loss_nat"),
            "the results have no column 'test_loss_nat'; did you mean",
        ),
        ([row(1, 1.0)], Roles((), loss="test_loss_nats"), "no axis of this study is a scale with at least two numbers"),
    ],
)
def test_why_there_is_no_law(rows: list[Any], roles: Roles, reason: str) -> None:
    analyses, said = conclude.laws_of(study(x=[1, 2]), table(*rows), roles)
    assert analyses == {}
    assert said.startswith(reason)


def test_a_loss_that_is_not_known_is_asked_for() -> None:
    columns = ("x", "seed", "kind", "status", "a", "b", "word")
    rows = [(x, 0, "trial", "finished", 1.0, 2, "w") for x in (1, 2)]
    analyses, said = conclude.laws_of(study(x=[1, 2]), table(*rows, columns=columns), Roles(("x",)))
    assert (analyses, said) == ({}, "several columns may be the loss; name it with `loss`: x, seed, a, b")


def test_a_law_has_notes_of_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def analyse(x: Any, losses: Any, **named: Any) -> Any:
        asked.append((x.tolist(), losses, named))
        if len(losses) < 2:
            raise InputError("too few")
        return "law"

    monkeypatch.setattr(conclude, "analyse", analyse)
    rows = [row(1, 3.0), row(2, None), row(4, 2.0), row(8, 1.0, "diverged"), row(8, 1.0, kind="meta"), row(3, 1.0, k=7)]
    analyses, reason = conclude.laws_of(study(x=[1, 2]), table(*rows, notes=("first",)), ROLES)
    assert (analyses, reason) == ({"": "law"}, "")
    x, losses, named = asked[0]
    assert (x, losses) == ([1.0, 4.0, 8.0, 3.0], [3.0, 2.0, 1.0, 1.0])
    assert named == {
        "replicate": [0, 0, 0, 0], "x_name": "x", "loss_name": "test_loss_nats", "higher_is_better": None,
        "notes": [
            "first", "1 trial(s) failed, diverged or have not ended, and are left out",
            "1 trial(s) have no number in x or test_loss_nats",
        ],
    }  # fmt: skip
    series = Roles(("x",), ("k",), loss="test_loss_nats", better="higher")
    analyses, reason = conclude.laws_of(study(x=[1, 2]), table(*rows, row(4, 1.0, k=7)), series)
    assert analyses == {"k=": "law", "k=7": "law"}
    assert asked[-1][2]["higher_is_better"] is True
    analyses, reason = conclude.laws_of(study(x=[1, 2]), table(row(1, 1.0, k=5), row(1, 1.0, k=7)), series)
    assert (analyses, reason) == ({}, "k=5: too few; k=7: too few")
    assert conclude.laws_of(study(x=[1, 2]), table(row(1, 1.0)), ROLES)[1] == "too few"


def test_a_law_in_two_scales_takes_every_run_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(conclude, "fit", lambda *given, **named: asked.append((given, named)) or "law")
    found = conclude._analyse(
        [dict(zip(COLUMNS, row(x, 2.0, k=k), strict=True)) for x, k in ((1, 5), (1, 5), (2, None))],
        Roles(("x", "k"), loss="test_loss_nats"), "test_loss_nats", ["n"],
    )  # fmt: skip
    (((x, losses), named),) = asked
    assert (found, x.tolist(), losses, named.pop("replicate").tolist()) == ("law", [[1, 5], [1, 5]], [2.0, 2.0], [0, 1])
    assert named == {
        "x_name": ("x", "k"), "loss_name": "test_loss_nats",
        "notes": ["n", "1 trial(s) have no number in x or k or test_loss_nats"],
    }  # fmt: skip


def test_pools_that_every_trial_shares() -> None:
    described = {"pools": {"train": [1], "validation": [2], "test": [3]}, "seed": 4, "n_train_classes": 5, "data": "d"}
    assert conclude.shared_pools(described) == {"pools": {"validation": [2], "test": [3]}, "data": "d"}
    assert conclude.shared_pools({}) == {"pools": {}}


# ------------------------------------------------------------------------------------------------- evaluations


def finished(folder: Path, params: Any, **result: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data = to_bytes(params)
    (folder / "theta.safetensors").write_bytes(data)
    write_json(folder / "config.json", {"recipe": "mine", "seed": 6})
    write_json(folder / "result.json", {"result": {"theta_sha256": sha256_of(data), **result}})
    return folder


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    asked: list[Any] = []
    recipe = SimpleNamespace(make_parts=lambda *given: asked.append(given) or Parts("source", SmoothClassifier()))  # type: ignore[arg-type]
    monkeypatch.setattr(evaluate, "damage_of", lambda folder: "")
    monkeypatch.setattr(evaluate, "stored_recipe", lambda name, of: asked.append((name, of)) or recipe)
    monkeypatch.setattr(evaluate, "recipe_place", lambda name, folder: f"{name} of {folder.name}")
    monkeypatch.setattr(evaluate, "located_run", lambda recipe, config, folder: {**config, "located": True})
    monkeypatch.setattr(evaluate, "few_shot", lambda recipe, config: asked.append(config) or settings(config))
    monkeypatch.setattr(evaluate, "evaluate_on_test", lambda *given: given)
    monkeypatch.setattr(evaluate, "at_scale", lambda parts, scale: (parts.model, scale))
    return asked


def settings(config: Any) -> FewShotConfig:
    known = {key: value for key, value in config.items() if key not in ("recipe", "seed", "located")}
    return FewShotConfig(adaptation_curve=(1, 0), n_test_tasks=9, **known)


def test_a_run_is_evaluated_as_it_was_tested_unless_told_otherwise(tmp_path: Path, evaluated: list[Any]) -> None:
    theta = SmoothClassifier().init(0)
    folder = finished(tmp_path / "run", theta, test_inner_steps=4, test_inner_lr=0.25)
    of, parts, inner, found, steps, n_tasks, device = evaluate.evaluate_run(folder, {"k_shot": 3}, "cpu")
    assert evaluated[0] == ("mine of run", f"the run in {folder}")
    assert evaluated[1] == {
        "recipe": "mine", "seed": 6, "located": True, "eval_inner_steps": 4, "inner_lr": 0.25, "k_shot": 3,
    }  # fmt: skip
    assert evaluated[2] == (of, 6, "cpu")
    assert (of.eval_inner_steps, of.k_shot, inner.optimizer.lr, steps, n_tasks, device) == (
        4,
        3,
        0.25,
        [0, 1, 4],
        9,
        "cpu",
    )
    assert all(torch.equal(value, theta[name]) for name, value in found.items())
    assert parts.source == "source"
    own = evaluate.evaluate_run(str(folder), {"eval_inner_steps": 2, "inner_lr": 0.5})
    assert (own[4], own[2].optimizer.lr) == ([0, 1, 2], 0.5)
    finished(tmp_path / "other", theta, test_inner_steps=None, test_inner_lr=None)
    evaluate.evaluate_run(tmp_path / "other", {})
    assert evaluated[-2] == {"recipe": "mine", "seed": 6, "located": True}


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_parameters_that_do_not_fit_are_refused(change: str, tmp_path: Path, evaluated: list[Any]) -> None:
    theta = SmoothClassifier().init(0)
    bias = theta.pop("hidden.bias")
    folder = finished(tmp_path / "run", {**theta, **({"hidden.bias": bias[:2]} if change == "shape" else {})})
    sentence = r"the parameter 'hidden.bias' of the run does not fit these values; it was trained otherwise$"
    with pytest.raises(InputError, match=sentence):
        evaluate.evaluate_run(folder, {})


def test_a_run_without_weights_and_one_with_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "damage_of", lambda folder: "")
    for name in ("config.json", "result.json", "theta.safetensors"):
        folder = finished(tmp_path / name, {"a": torch.zeros(1)})
        (folder / name).unlink()
        with pytest.raises(InputError) as caught:
            evaluate.load_run(folder)
        assert str(caught.value) == f"{folder} has no {name}: it is not a finished, meta-trained run (STUDY/runs/NAME)"
    folder = finished(tmp_path / "run", {"a": torch.ones(1)}, x=1)
    config, result, params = evaluate.load_run(folder)
    assert (config["seed"], result["x"], params["a"].tolist()) == (6, 1, [1.0])
    write_json(folder / "result.json", {"theta_sha256": result["theta_sha256"], "x": 2})
    assert evaluate.load_run(folder)[1]["x"] == 2
    (folder / "theta.safetensors").write_bytes(to_bytes({"a": torch.zeros(1)}))
    with pytest.raises(CorruptFile, match=r"theta.safetensors is not what the run recorded \(its SHA-256 differs\)$"):
        evaluate.load_run(folder)
    monkeypatch.setattr(evaluate, "damage_of", lambda folder: "a byte has changed")
    with pytest.raises(CorruptFile, match=r"^a byte has changed$"):
        evaluate.load_run(folder)


# --------------------------------------------------------------------------------------------------------- files


def test_files_of_a_study_are_known_by_their_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("a")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "w").write_text("w")
    (tmp_path / "m" / "folder").mkdir()
    here, there = str(tmp_path / "a.csv"), str(tmp_path / "none.csv")
    found = content._own_files(
        Study("s", "m:f", {"path": here}, {"path": [here, there, ""]}, (0, 1)), "path", tmp_path / "s"
    )
    assert found == {here: {**content_of(Path(here)), RELATIVE: "../a.csv"}}
    assert content._model_files(tmp_path / "m") == {"w": content_of(tmp_path / "m" / "w")}
    monkeypatch.setattr(content, "data_sets", lambda recipe, study: ("some",))
    monkeypatch.setattr(content, "model_folders", lambda recipe, study: [("mine", tmp_path / "m")])
    monkeypatch.setattr(content, "data_folder", lambda name: tmp_path / name)
    files = [SimpleNamespace(path="x.txt"), SimpleNamespace(path="gone.txt")]
    monkeypatch.setattr(content, "DATASETS", {"some": SimpleNamespace(files=files)})
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "x.txt").write_text("x")
    record = {**content_of(tmp_path / "some" / "x.txt"), "name": "some/x.txt"}
    recipe: Any = SimpleNamespace(data_sets_of=lambda config: ("some",))
    one = Study("s", "m:f", {"path": here}, {}, (0,))
    assert content._shared_files(recipe, one) == {
        "data set some": {"some/x.txt": record}, "model mine": {"w": content_of(tmp_path / "m" / "w")},
    }  # fmt: skip
    assert content.hashes_of(recipe, one) == {"a.csv": sha256_of(b"a"), "some/x.txt": sha256_of(b"x")}
    known = content.known_by_content(recipe, one, tmp_path / "study")
    assert known.base[CONTENT]["path"] == {here: {**content_of(Path(here)), RELATIVE: "../a.csv"}}
    assert content.known_by_content(None, one, tmp_path) is one
    assert content.known_by_content(recipe, known, tmp_path / "study").base == known.base


def test_hashes_that_were_recorded_are_held() -> None:
    held = {"path": {"/a.csv": {"name": "a.csv", "sha256": "0123456789abcdef"}}}
    content._refuse_other_hashes({"a.csv": "0123456789abcdef", "b": "x"}, held)
    content._refuse_other_hashes({}, held)
    with pytest.raises(InputError) as caught:
        content._refuse_other_hashes({"a.csv": "fedcba9876543210"}, held)
    assert str(caught.value) == (
        "/a.csv is not the file that the study's trials read: its SHA-256 is 0123456789ab..., theirs fedcba987654...; "
        "put the first file back, or use a new folder"
    )


def test_the_place_of_an_older_study_stays_where_the_same_file_is_there(tmp_path: Path) -> None:
    stored, asked = tmp_path / "stored", tmp_path / "asked"
    asked.write_text("same")
    records = {str(asked): content_of(asked)}
    of = lambda stored, asked: content._place_of_before(stored, records, asked)
    assert of(str(stored), str(asked)) == str(asked)  # it is gone
    stored.write_text("other")
    assert of(str(stored), str(asked)) == str(asked)
    stored.write_text("same")
    assert of(str(stored), str(asked)) == str(stored)
    assert (of(str(stored), "elsewhere"), of(3, str(asked)), of(str(stored), None)) == ("elsewhere", str(asked), None)


def test_a_moved_file_is_found_where_it_lies_now(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("a")
    record = {**content_of(tmp_path / "data" / "a.csv"), RELATIVE: "../data/a.csv"}
    base = {"path": "/old/a.csv", CONTENT: {"path": {"/old/a.csv": record}, "data set x": {"f": {"name": "f"}}}}
    moved = Study("s", "m:f", base, {"path": ["/old/a.csv"], "n": [1]}, (0,))
    found = content.located(moved, tmp_path / "study")
    new = str(tmp_path / "data" / "a.csv")
    assert (found.base["path"], dict(found.axes)) == (new, {"path": [new], "n": [1]})
    assert found.base[CONTENT] == {"path": {new: record}, "data set x": {"f": {"name": "f"}}}
    assert content.located(found, tmp_path / "study") is found
    assert content._candidates("/p", {}, tmp_path) == [Path("/p")]


@pytest.mark.parametrize(
    ("stored", "hashes"),
    [(None, {}), ("{", {}), ("[]", {}), ('{"data_sha256": 3}', {}), ('{"data_sha256": {"a": "x"}}', {"a": "x"})],
)
def test_hashes_in_the_provenance_of_a_run(stored: str | None, hashes: dict[str, str], tmp_path: Path) -> None:
    if stored is not None:
        (tmp_path / "provenance.json").write_text(stored)
    assert content._recorded_by(tmp_path) == hashes


def test_files_that_a_run_names_without_a_record(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    here = str(tmp_path / "a")
    assert content._unrecorded({"path": here}) == ["path"]
    for config in ({"path": str(tmp_path / "none")}, {"path": 3}, {}, {"path": here, CONTENT: {"path": {"name": "a"}}}):
        assert content._unrecorded(config) == []


# -------------------------------------------------------------------------------------------------------- places


def test_code_by_its_place_and_whether_it_has_moved(tmp_path: Path) -> None:
    path = places._path
    assert path("/a/b.py:train") == Path("/a/b.py")
    assert [str(path(value)) for value in ("/a/b.py", "/a/b.txt:train", "/a/b.py:not one")] == [
        "/a/b.py", "/a/b.txt:train", "/a/b.py:not one",
    ]  # fmt: skip
    one, other, third = tmp_path / "one" / "f.py", tmp_path / "two" / "f.py", tmp_path / "two" / "g.py"
    for file in (one, other, third):
        file.parent.mkdir(exist_ok=True)
        file.write_text("x")
    moved = places._moved
    assert moved(f"{one}:f", f"{other}:f")
    assert not moved(f"{one}:f", f"{other}:g")
    assert not moved(str(one), str(third))
    other.write_text("y")
    assert not moved(str(one), str(other))
    one.unlink()
    assert moved(str(one), str(other))
    assert not moved(str(one), str(third))
    assert moved(str(tmp_path / "gone"), str(tmp_path / "two"))
    assert not moved(str(tmp_path / "one"), str(tmp_path / "two"))
    assert places._seen_from(f"{other}:f", tmp_path / "study") == "../two/f.py:f"


def test_code_is_found_where_it_was_or_as_far_from_the_study(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "f.py").write_text("x")
    of = lambda base: places.code_of(Study("s", "m:f", base, {}, (0,)), tmp_path / "study", "function")
    record = {"code_places": {"function": {"first": "/old/f.py:f", RELATIVE: "../code/f.py:f"}}}
    near = f"{tmp_path / 'code' / 'f.py'}:f"
    assert of({"function": "/old/f.py:f", **record}) == near
    assert of({"function": "/old/f.py:f"}) == "/old/f.py:f"
    assert of({"function": near, **record}) == near
    gone = {"code_places": {"function": {"first": "/old/f.py:f", RELATIVE: "../none/f.py:f"}}}
    assert of({"function": "/old/f.py:f", **gone}) == "/old/f.py:f"
    assert places._code({"function": "/a", "recipe": "digits", "folder": 3, "other": "/b"}) == {"function": "/a"}


# -------------------------------------------------------------------------------------------------------- stacks


def test_stacks_are_cut_as_evenly_as_they_go() -> None:
    cut = lambda n, size: [len(part) for part in stacks._cut([str(k) for k in range(n)], size)]
    assert (cut(8, 8), cut(9, 8), cut(5, 2), cut(1, 8), cut(17, 8)) == ([8], [4, 5], [1, 2, 2], [1], [5, 6, 6])
    assert stacks._cut(["a", "b", "c"], 2) == [("a",), ("b", "c")]


@pytest.mark.parametrize(("few_shot", "sizes"), [(True, [8, 8]), (False, [16])])
def test_how_many_run_together_where_it_is_chosen(few_shot: bool, sizes: list[int]) -> None:
    own = SimpleNamespace(stack_kind=lambda: {"k": 1})
    recipe: Any = SimpleNamespace(config=FewShotConfig if few_shot else TrialConfig, validate=lambda config: own)
    one = Study("s", "m:f", {}, {"n": list(range(16))}, (0,))
    ids = [trial.id for trial in one.trials()]
    assert [len(stack) for stack in stacks.stacks_of(recipe, one, "auto")] == sizes
    assert sum(stacks.stacks_of(recipe, one, "auto"), ()) == tuple(ids)
    assert {len(stack) for stack in stacks.stacks_of(recipe, one, 3)} == {2, 3}
    assert stacks.stacks_of(recipe, one, 1) == ()
    assert stacks.stacks_of(None, one, 8) == ()
    alone: Any = SimpleNamespace(config=TrialConfig, validate=lambda config: SimpleNamespace(stack_kind=lambda: None))
    assert stacks.stacks_of(alone, one, 8) == ()
    stacks.require_stacks(alone, one, "auto")
    stacks.require_stacks(alone, one, 1)
    stacks.require_stacks(recipe, one, 2)
    for recipe_of in (alone, None):
        with pytest.raises(
            InputError, match=r"^no trials of study 's' can run together \(see docs/tuning.md\)"
        ) as caught:
            stacks.require_stacks(recipe_of, one, 2)
        assert (caught.value.field, caught.value.value) == ("stack", 2)


def test_trials_of_one_kind_are_stacked_whatever_stands_between_them() -> None:
    recipe: Any = SimpleNamespace(
        config=TrialConfig, validate=lambda config: SimpleNamespace(stack_kind=lambda: {"parity": config["n"] % 2})
    )
    one = Study("s", "m:f", {}, {"n": [1, 2, 3, 4, 6]}, (0,))
    number = {trial.id: trial.config["n"] for trial in one.trials()}
    assert [[number[name] for name in stack] for stack in stacks.stacks_of(recipe, one, 8)] == [[1, 3], [2, 4, 6]]


# ----------------------------------------------------------------------------------------------------- preflight


def test_settings_that_stand_for_all() -> None:
    known = {
        "a": FewShotConfig(n_tasks=5), "b": FewShotConfig(n_tasks=20, inner_lr=0.7), "c": FewShotConfig(n_tasks=None),
        "d": FewShotConfig(n_tasks=9, k_shot=2),
    }  # fmt: skip
    recipe: Any = SimpleNamespace(validate=lambda config: known[config["n"]])
    one = Study("s", "m:f", {}, {"n": ["a", "b", "c", "d"]}, (3, 4))
    assert preflight.distinct_settings(recipe, one) == [(known["b"], 3), (known["d"], 3)]
    part = {"a": FewShotConfig(n_train_classes=5)}
    of_classes: Any = SimpleNamespace(validate=lambda config: part[config["n"]])
    assert [seed for _, seed in preflight.distinct_settings(of_classes, replace(one, axes={"n": ["a"]}))] == [3, 4]
    other: Any = SimpleNamespace(validate=lambda config: TrialConfig())
    assert preflight.distinct_settings(other, one) == [(TrialConfig(), 3)]


def test_a_trial_is_checked_by_its_recipe_or_by_building_its_parts() -> None:
    asked: list[Any] = []
    checking: Any = SimpleNamespace(checks=True, check=asked.append)
    assert preflight.check_trial(checking, TrialConfig(), 3) == ()
    table = SimpleNamespace(details={"read": "12 rows"})
    for source in (SimpleNamespace(table=table), SimpleNamespace(source=SimpleNamespace(table=table))):
        made = lambda *given, source=source: asked.append(given) or SimpleNamespace(source=source)
        building: Any = SimpleNamespace(checks=False, make_parts=made)
        assert preflight.check_trial(building, FewShotConfig(), 3) == ("12 rows",)
    assert preflight.check_trial(building, TextConfig(backbone="gpt2", head="learned"), 3) == ("12 rows",)
    assert preflight.check_trial(building, TrialConfig(), 3) == ()
    assert asked == [
        TrialConfig(), (FewShotConfig(), 3, "cpu"), (FewShotConfig(), 3, "cpu"),
        (TextConfig(backbone="", head="zero"), 3, "cpu"),
    ]  # fmt: skip
    for source in (SimpleNamespace(), SimpleNamespace(table=SimpleNamespace(details={}))):
        bare: Any = SimpleNamespace(
            checks=False, make_parts=lambda *given, source=source: SimpleNamespace(source=source)
        )
        assert preflight.check_trial(bare, FewShotConfig(), 3) == ()


def test_backbones_of_a_study_are_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(preflight, "require_installed", lambda *given: asked.append(given))
    monkeypatch.setattr(preflight, "backbone_path", lambda name: str(tmp_path) if name == "here" else name)
    monkeypatch.setattr(preflight, "open_backbone", lambda *given: asked.append(given))
    own = SimpleNamespace(backbone="hub/name")
    all_of: list[Any] = [
        TextConfig(backbone="here", max_length=9), TextConfig(backbone="here", max_length=9), TextConfig(backbone=""),
        TrialConfig(), own, TextConfig(backbone="hub/name", load_in_8bit=True),
    ]  # fmt: skip
    preflight.check_backbones(all_of, "mine")
    transformers = ("transformers", "text", "the language model of recipe 'mine'")
    assert asked == [("bitsandbytes", "quant", "an 8-bit backbone"), transformers, (str(tmp_path), 9), transformers]
    asked.clear()
    preflight.check_backbones([TextConfig(backbone="", load_in_8bit=True), FewShotConfig()], "mine")
    assert asked == []
    monkeypatch.setattr(preflight, "distinct_settings", lambda recipe, study: [(one, 0) for one in all_of])
    recipe: Any = None
    assert preflight.model_folders(recipe, study()) == [("here", tmp_path)]
    preflight.fetch_backbones(recipe, study())
    assert asked == [("hub/name", 64)]
    monkeypatch.undo()
    monkeypatch.setattr("metascale.models.text.hf.load_config", lambda path: asked.append(path))
    monkeypatch.setattr("metascale.models.text.hf.load_encoder", lambda *given: asked.append(given))
    preflight.open_backbone("p", 9)
    assert asked[1:] == ["p", ("p", 9)]


def test_processes_that_run_one_trial_need_torch_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    there = SimpleNamespace(__version__="2", distributed=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setattr(preflight, "require", lambda *given: asked.append(given) or there)
    preflight.check_together(1)
    assert asked == []
    with pytest.raises(InputError, match=r"^`processes_per_trial` needs torch.distributed, which this build of torch 2"
                       ) as caught:  # fmt: skip
        preflight.check_together(2)
    assert (caught.value.field, caught.value.value) == ("processes_per_trial", 2)
    assert asked == [("torch", "torch", "`processes_per_trial`")]
    there.distributed.is_available = lambda: True
    preflight.check_together(2)


# --------------------------------------------------------------------------------------- functions and programs


def test_programs_by_name_and_their_placeholders() -> None:
    name = own._program_name
    assert (name(["python", "a/train.py", "x.sh"]), name(["/bin/prog", "x.txt"]), name(["run.R"])) == (
        "train",
        "prog",
        "run",
    )
    values = {"a": 1, "b": "x y", "c.d": [1, 2], "seed": 0}
    assert own.fill("p --a {a} '{b}' {c.d} {{x}} 'a{a}b{seed}'", values) == [
        "p",
        "--a",
        "1",
        "x y",
        "[1,2]",
        "{x}",
        "a1b0",
    ]
    with pytest.raises(InputError) as caught:
        own.fill("p {sed}", values)
    assert str(caught.value).startswith(
        "the command has '{sed}', which is no key of the configuration; did you mean 'seed'"
    )
    assert str(caught.value).endswith("(write {{ and }} for braces)")
    assert caught.value.field == "command"
    config = {
        "a": 1,
        "n": {"x": 2},
        "command": "c",
        "folder": "f",
        "tune": {},
        "trial": "t",
        "code_places": {},
        "seed": 3,
    }
    assert own._values(config, "cuda:1") == {"a": 1, "n": {"x": 2}, "n.x": 2, "seed": 3, "device": "cuda:1"}
    assert own._absolute("a.b:f") == "a.b:f"
    assert own._absolute("x/../t.py:f") == f"{Path('t.py').resolve()}:f"


@pytest.mark.parametrize(
    ("command", "axes", "seeds", "missing"),
    [
        ("p {n} {seed}", {"n": [1]}, (0, 1), None), ("p {n}", {"n": [1]}, (0,), None),
        ("p {n.x}", {"n": [{"x": 1}]}, (0,), None), ("p {n}", {"n": [1]}, (0, 1), "seed"),
        ("p {seed}", {"n": [1], "m": [2]}, (0, 1), "n, m"), ("p", {"n": [1]}, (0, 1), "n, seed"),
    ],
)  # fmt: skip
def test_a_program_that_would_not_get_what_varies(
    command: str, axes: dict[str, Any], seeds: tuple[int, ...], missing: str | None
) -> None:
    one = Study("s", "m:f", {"command": command, "folder": "/"}, axes, seeds)
    if missing is None:
        own._check_command(one, command)
        return
    with pytest.raises(InputError) as caught:
        own._check_command(one, command)
    placeholders = " ".join(f"{{{key}}}" for key in missing.split(", "))
    assert str(caught.value) == (
        f"the command does not use {missing}: its trials would be one run several times; write {placeholders} where "
        "the program takes it"
    )
    assert caught.value.field == "command"


def test_a_search_of_ones_own_names_its_ranges_and_objective() -> None:
    tune = {"space": {"lr": {"log": [0.1, 1.0]}}, "objective": "val", "trials": 3}
    one = Study("s", "m:f", {"command": "p", "folder": "/", "tune": tune}, {}, (0,))
    own._check_command(one, "p {lr}")
    with pytest.raises(InputError, match=r"^the command does not use lr: its trials"):
        own._check_command(one, "p")
    assert own._search(tune).objective == "val"
    for bad in (3, {"space": {}}):
        with pytest.raises(
            InputError, match=r"^'tune' of an own function or program needs a space and an objective"
        ) as found:
            own._search(bad)
        assert found.value.field == "tune"


def test_a_function_or_program_that_is_gone(tmp_path: Path) -> None:
    gone = Study(
        "s", f"{own.__name__}:command_trial", {"command": "p x.py", "folder": str(tmp_path / "none")}, {}, (0,)
    )
    with pytest.raises(InputError) as caught:
        own.check_own(gone)
    assert str(caught.value) == f"the program of study 's' ran in {tmp_path / 'none'}, which is no folder any more"
    own.check_own(replace(gone, base={"command": "p", "folder": str(tmp_path)}))
    with pytest.raises(InputError):
        own.check_own(replace(gone, base={"function": f"{tmp_path}/none.py:f"}))
    assert own.is_own(gone)
    assert not own.is_own(study())
    (tmp_path / "x.py").write_text("x")
    assert own.source_hashes(replace(gone, base={"command": "p x.py y.py", "folder": str(tmp_path)})) == {
        "x.py": sha256_of(b"x")
    }
    assert own.source_hashes(replace(gone, base={"function": f"{tmp_path}/x.py:f"})) == {"x.py": sha256_of(b"x")}


def test_a_module_of_the_folder_that_the_command_runs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(tmp_path)])
    (tmp_path / "of_this_folder.py").write_text("def train(config, run, device):\n    return {'loss': 1.0}\n")
    assert own.load_own("of_this_folder:train")({}, MemoryRun(), "cpu") == {"loss": 1.0}
    assert sys.path.count(str(tmp_path)) == 1
    own._module_named("of_this_folder")
    assert sys.path.count(str(tmp_path)) == 1
    sys.modules.pop("of_this_folder")
    with pytest.raises(InputError, match=r"^of_that_folder cannot be imported: No module named"):
        own._module_named("of_that_folder")


class Process:
    """A program that ends when it is told to, at once or never."""

    pid = 0

    def __init__(self, stubborn: bool, code: int = 0, ends: bool = False) -> None:
        self.stubborn, self.code, self.ends, self.calls = stubborn, code, ends, []

    def wait(self, timeout: float | None = None) -> int:
        self.calls.append(("wait", timeout))
        if self.ends or (timeout is None) or ("terminate" in self.calls and not self.stubborn):
            return self.code
        raise subprocess.TimeoutExpired("p", timeout)

    def terminate(self) -> None:
        self.calls.append("terminate")

    def kill(self) -> None:
        self.calls.append("kill")


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_program_is_asked_to_end_and_then_ended(stubborn: bool, tmp_path: Path) -> None:
    process: Any = Process(stubborn)
    with pytest.raises(Stopped, match=r"^asked to stop; the program starts again when the trial is resumed$"):
        own._end(process)
    assert process.calls == ["terminate", ("wait", 20.0), *(["kill", ("wait", None)] if stubborn else [])]


def test_a_program_is_waited_for_until_it_ends_or_a_stop_is_asked_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("")
    run: Any = MemoryRun()
    assert own._wait(Process(False, 3, ends=True), log, run) == 3  # type: ignore[arg-type]
    asked = iter([False, True])
    run.stop_asked = lambda: next(asked)
    process: Any = Process(False)
    with pytest.raises(Stopped):
        own._wait(process, log, run)
    assert process.calls == [("wait", 0.1), ("wait", 0.1), "terminate", ("wait", 20.0)]


@pytest.mark.parametrize(
    ("code", "stop", "error", "words"),
    [
        (0, False, None, ""), (0, True, None, ""), (1, True, Stopped, "^asked to stop; the program starts again"),
        (137, False, Killed, "^the program was killed from outside; it starts again when the trial is resumed$"),
        (-9, False, Killed, "^the program was killed from outside"),
        (2, False, MetascaleError, "exit status 2: last line$"),
        (-11, False, MetascaleError, "signal SIGSEGV: last line$"), (128, False, MetascaleError, "exit status 128"),
    ],
)  # fmt: skip
def test_how_a_program_ended(
    code: int, stop: bool, error: Any, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[Any] = []

    def popen(arguments: Any, **named: Any) -> Any:
        started.append((arguments, named))
        named["stdout"].write(b"first line\nlast line \n")
        return SimpleNamespace(pid=1)

    monkeypatch.setattr(own.subprocess, "Popen", popen)
    monkeypatch.setattr(own, "_wait", lambda *given: code)
    monkeypatch.setattr(own.os, "killpg", lambda *given: started.append(given))
    run: Any = SimpleNamespace(folder=tmp_path, stop_asked=lambda: stop)
    if error is None:
        own._run_program(["p", "1"], "/f", {"A": "b"}, run)
    else:
        with pytest.raises(error, match=words):
            own._run_program(["p", "1"], "/f", {"A": "b"}, run)
    (arguments, named), *ended = started
    assert arguments == ["p", "1"]
    assert (named["cwd"], named["env"]["A"], named["env"].get("PATH")) == ("/f", "b", os.environ.get("PATH"))
    assert (named["stdin"], named["stderr"]) == (subprocess.DEVNULL, subprocess.STDOUT)
    assert ended == [(1, own.signal.SIGKILL)]
    assert named["start_new_session"] is True


def test_a_program_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def popen(*given: Any, **named: Any) -> Any:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(own.subprocess, "Popen", popen)
    run: Any = SimpleNamespace(folder=tmp_path)
    with pytest.raises(MetascaleError, match=r"^the program 'p' cannot be started: No such file or directory$"):
        own._run_program(["p"], "/", {}, run)


def test_the_last_lines_of_a_program_that_failed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n" + "".join(f"{k}\n" for k in range(30)))
    with pytest.raises(MetascaleError) as caught:
        own._fail(log, 7, 1)
    lines = str(caught.value).splitlines()
    assert lines == ["the program's last lines:", *map(str, range(10, 30)), "the program ended with exit status 1: 29"]
    log.write_text("")
    with pytest.raises(MetascaleError, match=r"the program ended with exit status 1, and wrote nothing$"):
        own._fail(log, 0, 1)
    with pytest.raises(MetascaleError, match=r"the program ended with signal SIGTERM, and wrote nothing$"):
        own._fail(log, 1000, -15)  # a log that was cut is shorter than where it began
    log.write_text("lines of\nthe first attempt\n")
    size = log.stat().st_size
    with pytest.raises(MetascaleError, match=r"^the program's last lines:\nthe program ended .* and wrote nothing$"):
        own._fail(log, size, 1)
    log.write_text("lines of\nthe first attempt\nmine\n")
    with pytest.raises(MetascaleError, match=r"^the program's last lines:\nmine\nthe program ended .* status 1: mine$"):
        own._fail(log, size, 1)
    with pytest.raises(MetascaleError, match=r"^the program's last lines:\nlines of\nthe first attempt\nmine\n"):
        own._fail(log, 1000, 1)


def test_a_long_log_is_read_from_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "KEPT", 4)
    (tmp_path / "log").write_bytes(b"123456\n")
    with pytest.raises(
        MetascaleError, match=r"^the program's last lines:\n456\nthe program ended with exit status 1: 456$"
    ):
        own._fail(tmp_path / "log", 0, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            None,
            "the program ended well and wrote no result: it must write a JSON object to the file that METASCALE_RESULT",
        ),
        ("{", "what the program wrote to METASCALE_RESULT is not JSON: "),
        ("[1]", "the program wrote a JSON list to METASCALE_RESULT, not an object"),
    ],
)
def test_results_that_a_program_did_not_write(text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "r").write_text(text)
    with pytest.raises(MetascaleError) as caught:
        own._read_result(tmp_path / "r")
    assert str(caught.value).startswith(words)


def test_rows_with_a_number_that_is_not_finite_have_diverged() -> None:
    good = {"loss": 1.0, "n": 3, "word": "nan", "deep": {"x": np.float64(2.0)}, "array": np.ones(2)}
    assert own._checked(good, "it") is good
    for bad, name in (({"loss": float("inf")}, "loss = inf"), ({"a": {"b": np.float64("nan")}}, "a.b = nan"),
                      ({"t": torch.tensor(float("nan"))}, "t = nan")):  # fmt: skip
        with pytest.raises(Diverged, match=f"^it {name}$") as caught:
            own._checked(bad, "it")
        assert caught.value.step == 0


def test_a_function_gets_its_own_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Any] = []
    monkeypatch.setattr(own, "load_own", lambda source: lambda *given: got.append((source, *given)) or {"loss": 1.0})
    config = {"a": 1, "seed": 3, "function": "/f.py:f", "tune": {}, "code_places": {}, "trial": "t", "kind": "trial"}
    run = MemoryRun()
    assert own.function_trial(config, run, "cpu") == {"loss": 1.0}
    assert got == [("/f.py:f", {"a": 1, "seed": 3, "kind": "trial"}, run, "cpu")]
    monkeypatch.setattr(own, "load_own", lambda source: lambda *given: 7)
    assert own.function_trial(config, run, "cpu") == 7  # which the store refuses by name


@pytest.mark.parametrize("writes", [True, False])
def test_a_program_gets_a_place_for_its_result_and_its_files(
    writes: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    got: list[Any] = []

    def ran(arguments: Any, folder: str, variables: dict[str, str], run: Any) -> None:
        got.append((arguments, folder, run))
        Path(variables["METASCALE_RESULT"]).write_text('{"loss": 1.5}')
        assert Path(variables["METASCALE_FILES"]) == tmp_path / "files"
        if writes:
            (tmp_path / "files" / "x").write_text("x")

    monkeypatch.setattr(own, "_run_program", ran)
    run: Any = SimpleNamespace(folder=tmp_path)
    config = {"command": "p {a} {device}", "folder": "/f", "a": 2, "seed": 0}
    assert own.command_trial(config, run, "cpu") == {"loss": 1.5}
    assert got == [(["p", "2", "cpu"], "/f", run)]
    assert (tmp_path / "files").exists() is writes


# -------------------------------------------------------------------------------------------------------- plans


def test_what_a_plan_refuses_of_a_profile_and_a_reading() -> None:
    with pytest.raises(InputError, match=r"^a `profile` is a recipe's: an own function or program has none$") as caught:
        launch.plan(None, command="p", profile="smoke")
    assert caught.value.field == "profile"
    for name, value in (("loss", "x"), ("units", "x"), ("better", "higher")):
        reading = replace(Reading(), **{name: value})
        with pytest.raises(InputError) as caught:
            launch.plan("digits", reading=reading)
        assert str(caught.value) == f"`{name}` is for own functions and programs: recipe 'digits' has its own"
        assert caught.value.field == name
    for recipe, command in ((None, None), ("digits", "p")):
        with pytest.raises(InputError, match=r"^give a recipe, a function as PATH.py:FUNCTION, or a program with"):
            launch.plan(recipe, command=command)


def test_a_sampler_stands_in_a_plan_by_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metascale.study.search.samplers.named", lambda given: f"named {given}")
    of = launch._with_named_sampler
    values = {"a": 1, "tune": {"trials": 2, "sampler": "x"}}
    assert of(values) == {"a": 1, "tune": {"trials": 2, "sampler": "named x"}}
    for same in ({"a": 1}, {"tune": True}, {"tune": {"trials": 2}}):
        assert of(same) is same


def test_a_study_of_a_function_that_is_gone_cannot_be_resumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = Study("s", "no_such_module:f", {}, {}, (0,))
    monkeypatch.setattr(launch, "load_definition", lambda folder: SimpleNamespace(study=one))
    with pytest.raises(InputError) as caught:
        launch.plan_from_folder(tmp_path)
    assert str(caught.value).startswith(
        f"{tmp_path} holds a study of the function 'no_such_module:f', which cannot be imported from here: "
    )


# ---------------------------------------------------------------------------------------------- coordinate checks


def test_models_that_are_checked_by_width_and_depth() -> None:
    made = {name: make(12, 3) for name, make in coordinates.MODELS.items()}
    assert made == {
        "mlp": Perceptron(64, 10, 12, 3, task_axis=False), "convnet": ConvNet(10, 8, 1, 12, 3, norm="group"),
        "resnet": ResNet(10, 1, 12, 3), "transformer": Transformer(64, 12, 3, 2, 16),
        "resnet_bk": ResNetBK(64, 12, 3, 16),
    }  # fmt: skip
    tokens = coordinates._batch("transformer")
    ids = torch.randint(0, 64, (4, 17), generator=torch_generator(0, "ids"))
    assert torch.equal(tokens.inputs["input_ids"], ids[:, :-1])
    assert torch.equal(tokens.targets, ids[:, 1:])
    assert torch.equal(coordinates._batch("resnet_bk").targets, ids[:, 1:])
    images = coordinates._batch("mlp")
    assert torch.equal(images.inputs["x"], torch.randn(16, 1, 8, 8, generator=torch_generator(0, "pixels")))
    assert images.targets.tolist() == [*range(10), *range(6)]


def rows(power: float) -> CoordinateCheck:
    return CoordinateCheck(tuple(CoordinateRow(w, 1, "logits", 1.0, float(w**power)) for w in (4, 16)))


def test_a_check_trains_both_parameterisations_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    found = iter((rows(1.0), rows(0.0)))
    monkeypatch.setattr(
        coordinates, "measure_coordinates", lambda *given, **named: asked.append((given, named)) or next(found)
    )
    monkeypatch.setattr(coordinates, "write_plot", lambda found, folder: folder / "plot")
    result, paths = coordinates.check_coordinates(
        "mlp", [16, 4], tmp_path / "out", steps=3, lr=0.2, depth=1, seeds=(5, 6)
    )
    (standard, first), (mup, second) = asked
    assert (standard[1:3], standard[4], first) == (([4, 16], 3), Adam(0.2), {"seeds": (5, 6)})
    assert (mup[1:3], mup[4], second["seeds"]) == (([4, 16], 3), Adam(0.2), (5, 6))
    assert standard[0](16) == Perceptron(64, 10, 16, 1, task_axis=False)
    scaled = mup[0](16)
    assert (scaled.model, scaled.base_width) == (standard[0](16), 4)
    assert second["rate_multipliers"](scaled) == scaled.rate_multipliers("adam")
    assert torch.equal(standard[3].targets, coordinates._batch("mlp").targets)
    assert (result.model, result.steps, list(result.checks)) == ("mlp", 3, ["standard", "mup"])
    assert paths == [tmp_path / "out" / "coordinates.json", tmp_path / "out" / "plot"]
    from metascale.core.files import read_json

    stored = read_json(paths[0])
    assert len(stored.pop("rows")) == 4
    assert stored == {"model": "mlp", "widths": [4, 16], "steps": 3, "lr": 0.2, "depth": 1, "seeds": [5, 6]}
    assert coordinates.read_coordinates(tmp_path / "out") == result


@pytest.mark.parametrize(("power", "words"), [(0.31, "grows with"), (0.29, "does not grow with")])
def test_an_exponent_above_0_3_is_growth(power: float, words: str) -> None:
    found = Coordinates("mlp", 1, {"standard": rows(power), "mup": rows(0.0)})
    assert found.verdict.startswith(
        f"Standard: logits {words} the width (exponent {power:.3f}); μP: logits does not grow"
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": "x"}, "model"), ({"widths": [4]}, "widths"), ({"widths": [4, 4, 8]}, "widths"),
        ({"widths": [0, 4]}, "widths"), ({"model": "transformer", "widths": [4, 6]}, "widths"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [0, -1]}, "seeds"), ({"steps": 0}, None), ({"depth": 0}, None), ({"lr": 0.0}, None),
        ({"lr": 1e3}, None),
    ],
)  # fmt: skip
def test_a_check_that_cannot_be(changes: dict[str, Any], field: str | None) -> None:
    right: dict[str, Any] = {"model": "mlp", "widths": [1, 2], "steps": 1, "lr": 999.0, "depth": 1, "seeds": [0]}
    coordinates._refuse(**right)
    coordinates._refuse(**{**right, "model": "transformer", "widths": [4, 8]})
    with pytest.raises(InputError) as caught:
        coordinates._refuse(**{**right, **changes})
    assert caught.value.field == field
    if field:
        assert caught.value.value == changes.get(field, right[field])


def test_nothing_that_changes_is_said_on_the_picture() -> None:
    from matplotlib.figure import Figure

    still = CoordinateCheck(tuple(CoordinateRow(w, 1, "logits", 1.0, 0.0) for w in (4, 16)))
    ax = coordinates.plot_coordinates(
        Coordinates("mlp", 1, {"mup": still}), Figure().subplots(), parameterisation="mup"
    )  # fmt: skip
    assert [text.get_text() for text in ax.texts] == ["No activation changed"]


# ------------------------------------------------------------------------------------- few-shot trials together


@dataclass(frozen=True)
class Apart(FewShotConfig):
    """Of a model that computes each task's numbers from that task alone."""

    @property
    def tasks_apart(self) -> bool:
        return True


TOGETHER = Apart(meta_batch=8)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_tasks", 7), ("n_train_classes", 3), ("inner_lr", 0.7), ("budget", "steps"), ("max_steps", 3),
        ("visits_per_task", 3), ("eval_every", 3), ("patience", 3), ("min_delta", 0.1), ("outer_optimizer", "adam"),
        ("outer_lr", 0.7), ("outer_clip", 0.7), ("outer_momentum", 0.7), ("outer_beta1", 0.7), ("outer_beta2", 0.7),
        ("outer_weight_decay", 0.7), ("outer_schedule", "cosine"), ("outer_warmup", 3), ("outer_final_rate", 0.7),
        ("outer_decay_share", 0.7),
    ],
)  # fmt: skip
def test_keys_in_which_few_shot_trials_of_a_stack_may_differ(key: str, value: Any) -> None:
    assert getattr(TOGETHER, key) != value
    assert replace(TOGETHER, **{key: value}).stack_kind() == TOGETHER.stack_kind()
    assert key not in TOGETHER.stack_kind()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("meta_batch", 16), ("inner_steps", 7), ("k_shot", 7), ("n_way", 7), ("method", "fomaml"), ("adapt", ("a",)),
        ("inner_optimizer", "adam"), ("inner_momentum", 0.7), ("n_validation_tasks", 7), ("n_test_tasks", 7),
        ("reptile_data", "all"), ("eval_inner_steps", 7), ("tune_rates", (0.7,)), ("labels", "sorted"),
        ("train_threads", 2), ("micro_batch", 7), ("curvature", "unrolled"),
    ],
)  # fmt: skip
def test_keys_that_tell_stacks_apart(key: str, value: Any) -> None:
    found = replace(TOGETHER, **{key: value}).stack_kind()
    assert found is not None
    assert found != TOGETHER.stack_kind()


@pytest.mark.parametrize(
    ("changes", "joins"),
    [
        ({"method": "fomaml"}, True), ({"method": "maml"}, True), ({"method": "imaml"}, False),
        ({"method": "protonet"}, False), ({"method": "zero_shot", "kind": "baseline"}, False),
        ({"kind": "baseline"}, False), ({"method": "maml", "curvature": "unrolled"}, True),
        ({"method": "maml", "curvature": "gauss_newton"}, True), ({"method": "maml", "curvature": "none"}, True),
        ({"method": "maml", "curvature": "diagonal"}, False), ({"method": "fomaml", "curvature": "diagonal"}, True),
        ({"method": "maml", "curvature": "block_diagonal"}, False), ({"meta_batch": 4}, False),
        ({"meta_batch": 12}, False), ({"meta_batch": 24}, True), ({"inner_clip": 1.0}, False),
        ({"rates_by": "mode"}, False), ({"rates_by": "step"}, True), ({"budget": "compute"}, False),
        ({"measure_memory": True}, False), ({"memory_budget": 10}, False), ({"memory_budget": 0}, False),
    ],
)  # fmt: skip
def test_which_few_shot_trials_run_together(changes: dict[str, Any], joins: bool) -> None:
    assert (replace(TOGETHER, **changes).stack_kind() is not None) is joins


def test_trials_whose_tasks_meet_and_those_of_other_studies_run_alone() -> None:
    assert FewShotConfig(meta_batch=8).stack_kind() is None
    assert TrialConfig().stack_kind() is None


def test_a_baseline_has_no_visits_to_count() -> None:
    endless = {"budget": "visits", "n_tasks": None}
    validate(FewShotConfig, {"kind": "baseline", "method": "zero_shot", **endless}, "here")
    validate(FewShotConfig, {"n_tasks": None}, "here")
    with pytest.raises(InputError, match=r"^budget 'visits' needs a number for n_tasks"):
        validate(FewShotConfig, endless, "here")


# --------------------------------------------------------------------------------- names of other programs


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("first_order",), "here it is a method: method=fomaml"),
        (("second_order",), "here it is a method: method=maml (fomaml is first-order)"),
        (("track_higher_grads",), "here it is a method: method=maml, or fomaml without second derivatives"),
        (("anil",), "here it is a pattern: adapt=[head*]"),
        (("allow_unused", "allow_nograd"), "it is not needed: a parameter without a gradient gets zero"),
        (("seed", "seeds", "random_seed"), "seeds are not a key: `seeds`, such as 0,1,2 or 0-4"),
        (("device", "cuda"), "where trials run is not a key: `devices`, such as cuda:0"),
        (("num_workers",), "where trials run is not a key: `workers`"),
        (("output_dir", "experiment_name", "save_dir"), "the study's folder is not a key: `out`"),
        (("skip_baselines",), "baselines are not a key: switch the argument `baselines` off"),
        (("hyperparameter_search", "n_trials"), "here it is `tune`: a number of trials"),
        (
            ("mode",),
            "there are no modes: one command runs, concludes and reports, and `metascale evaluate` eval",
        ),
    ],
)
def test_what_is_no_key_here(names: tuple[str, ...], said: str) -> None:
    for name in names:
        assert hint(name, ()).startswith(said)


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("lora_alpha", {"alpha"}, "here it is 'alpha'"),
        ("early_stopping_patience", {"patience"}, "here it is 'patience'"),
        ("a.Meta-LR", {"outer_lr", "upper_lr"}, "here it is 'outer_lr' or 'upper_lr'"),
        ("meta_lr", {"upper_lr"}, "here it is 'upper_lr'"),
        ("lr", {"inner_lr", "lower_lr", "x"}, "here it is 'inner_lr' or 'lower_lr'"),
        ("learning_rate", {"lr"}, "here it is 'lr'"),
        ("optimizer", {"outer_optimizer"}, "here it is 'outer_optimizer'"),
        ("weight_decay", {"inner_weight_decay", "outer_weight_decay"},
         "here it is 'inner_weight_decay' or 'outer_weight_decay'"),
        ("epochs", {"max_epochs"}, "here it is 'max_epochs'"), ("hidden_size", {"filters"}, "here it is 'filters'"),
        ("num_epochs", (), "other recipes call it 'epochs' or 'max_epochs', and this one has nothing of the kind"),
        ("nothing", {"lr"}, ""),
    ],
)  # fmt: skip
def test_a_name_of_another_program(name: str, known: Any, said: str) -> None:
    assert hint(name, known) == said


# -------------------------------------------------------------------------------------------------- launching


def planned(**fields: Any) -> launch.Plan:
    executor = SimpleNamespace(check=lambda: CHECKED.append("checked"))
    own_: dict[str, Any] = {
        "recipe": None,
        "study": study(x=[1]),
        "executor": executor,
        "workers": 1,
        "devices": ("cpu",),
    }
    return launch.Plan(**{**own_, "record": {"command": "metascale run x"}, **fields})


CHECKED: list[str] = []


@pytest.mark.parametrize("finished_all", [True, False])
def test_a_launch_runs_what_is_planned_and_concludes_what_has_finished(
    finished_all: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    outcome = SimpleNamespace(finished=3 if finished_all else 0)
    recipe: Any = SimpleNamespace(name="r")
    CHECKED.clear()

    def run(*given: Any, **named: Any) -> Any:
        named.pop("opened")()
        asked.append((given, named))
        return outcome

    monkeypatch.setattr("metascale.study.search.run.run_any_study", run)
    monkeypatch.setattr("metascale.workflow.conclude.conclude", lambda folder: asked.append(folder) or "concluded")
    monkeypatch.setattr(launch, "fetch_backbones", lambda *given: asked.append(given))
    monkeypatch.setattr(launch, "known_by_content", lambda recipe, study, folder: replace(study, name="known"))
    monkeypatch.setattr(launch, "placed", lambda study, folder: replace(study, name=f"{study.name} placed"))
    monkeypatch.setattr(launch, "_hashes", lambda recipe, study: {"a": study.name})
    reporter: Any = SimpleNamespace()
    plan = planned(recipe=recipe, read=("12 rows",))
    found = launch.launch(plan, str(tmp_path), fail_fast=True, reporter=reporter)
    assert found == (outcome, "concluded" if finished_all else None)
    assert CHECKED == ["checked"]
    assert asked[0] == (recipe, plan.study)
    (of_study, folder, executor), named = asked[1]
    assert (of_study.name, folder, executor) == ("known placed", tmp_path, plan.executor)
    assert named.pop("stacks").keywords == {"stack": 1}
    assert named == {
        "fail_fast": True, "reporter": reporter,
        "facts": {"command": "metascale run x", "data_sha256": {"a": "known placed"}, "data_read": ["12 rows"]},
    }  # fmt: skip
    assert asked[2:] == ([tmp_path] if finished_all else [])
    from metascale.core.files import read_json

    assert read_json(tmp_path / "command.json") == {"command": "metascale run x"}
    launch.launch(planned(record={}), tmp_path / "bare", reporter=reporter)
    assert asked[-1 if not finished_all else -2][1]["facts"] == {"command": "", "data_sha256": {"a": "known placed"}}
    assert not (tmp_path / "bare" / "command.json").exists()


def test_a_run_is_planned_and_launched_with_all_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(launch, "plan", lambda *given, **named: asked.append((given, named)) or "planned")
    monkeypatch.setattr(launch, "launch", lambda *given, **named: (given, named))
    found = launch.run(
        "digits", "out", {"a": 1}, command="c", profile="p", seeds=[3], place="here", baselines=False, fail_fast=True,
        reporter="r", scale="n", series=("a", "b"), best_of="lr", loss="l", units="u", better="higher",
    )  # type: ignore[arg-type]  # fmt: skip
    assert found == (("planned", "out"), {"fail_fast": True, "reporter": "r"})
    reading = Reading(("n",), ("a", "b"), ("lr",), "l", "u", "higher")
    assert asked == [
        (("digits", {"a": 1}), {"command": "c", "profile": "p", "seeds": [3], "place": "here", "baselines": False,
                                "reading": reading})
    ]  # fmt: skip
    assert launch.run("digits", "out")[1] == {"fail_fast": False, "reporter": None}  # type: ignore[comparison-overlap]
    assert asked[1] == (
        ("digits", None),
        {"command": None, "profile": None, "seeds": None, "place": None, "baselines": True, "reading": Reading()},
    )


def test_a_seed_of_a_searched_range_is_the_studys_first() -> None:
    recipe: Any = SimpleNamespace(validate=lambda config: TrialConfig())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight, "configs_of", lambda study: iter([{"n": 1}]))
        one = replace(study(), seeds=(7, 8))
        assert preflight.distinct_settings(recipe, one) == [(TrialConfig(), 7)]


def test_scripts_give_a_program_its_name() -> None:
    for suffix in (".py", ".sh", ".R", ".jl"):
        assert own._program_name(["run", f"a/script{suffix}", "x.py"]) == "script"
    assert own._program_name(["run", "a.txt"]) == "run"


def test_a_picture_of_a_check_names_its_axis_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(coordinates, "png_bytes", lambda figure: drawn.append(figure) or b"png")
    path = coordinates.write_plot(Coordinates("mlp", 1500, {"standard": rows(1.0), "mup": rows(0.5)}), tmp_path)
    assert (path, path.read_bytes()) == (tmp_path / "coordinates.png", b"png")
    first, second = drawn[0].axes
    assert (first.get_ylabel() != "", second.get_ylabel()) == (True, "")
    assert (first.get_legend(), second.get_legend() is not None) == (None, True)
    assert drawn[0].get_supxlabel() == "mlp, after 1,500 Adam steps at one rate"
    titles = [ax.get_title(loc="left") for ax in (first, second)]
    assert titles == ["Standard, steepest: width^1.00", "μP, steepest: width^0.500"]


def test_a_check_is_of_four_steps_at_one_hundredth_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        coordinates, "measure_coordinates", lambda *given, **named: asked.append((given, named)) or rows(0.0)
    )
    monkeypatch.setattr(coordinates, "write_plot", lambda found, folder: folder)
    coordinates.check_coordinates("mlp", [4, 8], tmp_path)
    for given, named in asked:
        assert (given[2], given[4], named["seeds"]) == (4, Adam(0.01), (0,))
    assert asked[0][0][0](4) == Perceptron(64, 10, 4, 2, task_axis=False)


@pytest.mark.parametrize("key", ["function", "command", "folder", "code_places", "kind"])
def test_keys_that_are_metascales_own(key: str) -> None:
    with pytest.raises(InputError) as caught:
        own.own_study(None, "p {n}", {"n": [1], key: 1})
    assert str(caught.value) == f"the key '{key}' is metascale's own: call yours something else"
    assert caught.value.field == key


def test_the_study_of_a_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    tune = {"space": {"lr": {"log": [0.1, 1.0]}}, "objective": "val", "trials": 3}
    reading = Reading(("n",), (), (), "nll", "bits", "higher")
    found = own.own_study(
        None, "python a/train.py {n} {lr} {seed}", {"n": (1, 2), "x": 3, "tune": tune}, [4, 5], reading
    )
    assert (found.name, found.trial, list(found.seeds)) == ("train", f"{own.__name__}:command_trial", [4, 5])
    assert found.axes == {"n": [1, 2]}
    assert {key: found.base[key] for key in ("x", "command", "folder")} == {
        "x": 3, "command": "python a/train.py {n} {lr} {seed}", "folder": str(tmp_path),
    }  # fmt: skip
    assert found.base["tune"]["objective"] == "val"
    roles: Any = found.roles
    assert (roles.scales, roles.loss, roles.units, roles.better) == (("n",), "nll", "bits", "higher")
    plain = own.own_study(None, "p {n}", {"n": [1, 2]})
    assert (list(plain.seeds), "tune" in plain.base) == ([0], False)
    for command, words in (
        ("", "the command is empty"),
        (None, "the command is empty"),
        ("p 'x", "the command cannot be s"),
    ):
        with pytest.raises(InputError, match=f"^{words}") as caught:
            own.own_study(None, command)
        assert caught.value.field == "command"


def test_a_study_without_files_records_none_and_an_older_one_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        content, "_shared_files", lambda recipe, study: {"data set x": {}, "data set y": {"f": {"name": "f"}}}
    )
    recipe: Any = SimpleNamespace()
    one = Study("s", "m:f", {"a": 1}, {}, (0,))
    assert content.known_by_content(recipe, one, tmp_path).base == {
        "a": 1, CONTENT: {"data set y": {"f": {"name": "f"}}},
    }  # fmt: skip
    monkeypatch.setattr(content, "_shared_files", lambda recipe, study: {"data set x": {}})
    assert content.known_by_content(recipe, replace(one, base={"a": 1, CONTENT: {"old": {}}}), tmp_path).base == {
        "a": 1
    }
    file, folder = tmp_path / "a.csv", tmp_path / "study"
    file.write_text("a")
    folder.mkdir()
    (folder / "study.json").write_text("{}")
    lines = [
        f'{{"data_sha256": {{"a.csv": "{sha256_of(b"a")}"}}}}',
        '{"data_sha256": null}',
        '{"data_sha256": {"b": "x"}}',
    ]
    (folder / "provenance.jsonl").write_text("\n".join(lines) + "\n")
    stored = SimpleNamespace(study=SimpleNamespace(base={"path": str(file)}))
    monkeypatch.setattr(content, "load_definition", lambda folder: stored)
    asked = Study("s", "m:f", {"path": str(file)}, {}, (0,))
    assert content.known_by_content(recipe, asked, folder).base == {"path": str(file)}
    (folder / "provenance.jsonl").write_text(
        "\n".join([lines[0].replace(sha256_of(b"a"), "f" * 64), *lines[1:]]) + "\n"
    )
    with pytest.raises(InputError, match="is not the file that the study's trials read: its SHA-256 is"):
        content.known_by_content(recipe, asked, folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_way", 7), ("k_shot", 7), ("n_query", 7), ("n_train_classes", 7), ("n_validation_tasks", 7),
        ("n_test_tasks", 7), ("labels", "sorted"), ("classes", "shared"),
    ],
)  # fmt: skip
def test_what_episodes_are_made_of_is_checked_apart(key: str, value: Any) -> None:
    known = {"a": FewShotConfig(), "b": replace(FewShotConfig(), **{key: value})}
    recipe: Any = SimpleNamespace(validate=lambda config: known[config["n"]])
    one = Study("s", "m:f", {}, {"n": ["a", "b"]}, (3,))
    assert len(preflight.distinct_settings(recipe, one)) == 2
    trained = {"a": FewShotConfig(), "b": FewShotConfig(inner_steps=7, outer_lr=0.7, tune_rates=(0.7,))}
    alike: Any = SimpleNamespace(validate=lambda config: trained[config["n"]])
    assert len(preflight.distinct_settings(alike, one)) == 1
