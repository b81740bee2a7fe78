"""What stands after a study and beside it: conclusions, a run that is evaluated again, the machine; by hand."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from metascale.core.errors import CorruptFile, InputError
from metascale.study.design import Study
from metascale.study.roles import Roles
from metascale.study.store.table import ResultsTable
from metascale.workflow import conclude, doctor, evaluate
from metascale.workflow.conclude import Conclusion, baseline_results, laws_of, shared_pools

# ------------------------------------------------------------------------------------------------ the machine


def test_the_machine_and_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "ray":
            raise importlib.metadata.PackageNotFoundError(name)
        return f"version of {name}"

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.x")
    monkeypatch.setattr(doctor.platform, "platform", lambda: "here")
    monkeypatch.setattr(doctor.os, "cpu_count", lambda: 12)
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: SimpleNamespace(total=3 * 2**29))
    monkeypatch.setenv("METASCALE_DATA", "/data")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = doctor.describe_machine()
    assert [name for name, _ in found[:3]] == ["metascale", "python", "system"]
    assert found[1:4] == [("python", "3.x"), ("system", "here"), ("numpy", "version of numpy")]
    assert [name for name, _ in found[3:-4]] == list(doctor.PACKAGES)
    assert dict(found)["ray"] == "not installed"
    assert found[-4:] == [
        ("cores", "12"), ("memory", "1.5 GiB"), ("METASCALE_DATA", "/data"),
        ("accelerators", "none that torch can use"),
    ]  # fmt: skip
    monkeypatch.delenv("METASCALE_DATA")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    assert doctor.describe_machine()[-3:] == [
        ("METASCALE_DATA", "not set"), ("cuda:0", "card 0"), ("cuda:1", "card 1"),
    ]  # fmt: skip
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert doctor.describe_machine()[-1] == ("METASCALE_DATA", "not set")


# ------------------------------------------------------------------------------------------------ a run again


@pytest.mark.parametrize(
    ("metric", "asked", "given"),
    [
        (False, {}, {"eval_inner_steps": 7, "inner_lr": 0.5, "k_shot": 1}),
        (False, {"k_shot": 5, "eval_inner_steps": 0}, {"eval_inner_steps": 0, "inner_lr": 0.5, "k_shot": 5}),
        (True, {}, {"eval_inner_steps": 7, "inner_lr": 0.5, "k_shot": 1}),
    ],
)
def test_a_run_is_evaluated_as_it_was_tested(
    metric: bool, asked: dict[str, Any], given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own steps, rate and scale where nothing else is asked; curves begin at 0 and hold the headline."""
    seen: dict[str, Any] = {}
    stored = {"recipe": "own.py", "seed": 3, "k_shot": 1}
    tested = {"test_inner_steps": 7, "test_inner_lr": 0.5, "scale": 2.0}
    params = {"w": torch.ones(2), "left": torch.zeros(1)}
    settings = SimpleNamespace(metric=metric, validation_steps=4, adaptation_curve=(1, 4, 2), n_test_tasks=9)
    parts = SimpleNamespace(model=SimpleNamespace(init=lambda seed: {"seed": seed}), name="parts")
    recipe = SimpleNamespace(make_parts=lambda *how: seen.update(made=how) or parts)
    inner = SimpleNamespace(init=lambda made: seen.update(init=made) or {"w": torch.zeros(2)})
    monkeypatch.setattr(evaluate, "load_run", lambda folder: (dict(stored), dict(tested), params))
    monkeypatch.setattr(evaluate, "recipe_place", lambda name, folder: f"{folder}/{name}")
    monkeypatch.setattr(evaluate, "stored_recipe", lambda place, what: seen.update(recipe=(place, what)) or recipe)
    monkeypatch.setattr(evaluate, "located_run", lambda recipe, config, folder: {**config, "located": True})
    monkeypatch.setattr(evaluate, "few_shot", lambda recipe, config: seen.update(config=config) or settings)
    monkeypatch.setattr(evaluate, "make_inner", lambda settings: inner)
    monkeypatch.setattr(evaluate, "at_scale", lambda parts, scale: seen.update(scale=scale) or parts)
    monkeypatch.setattr(evaluate, "evaluate_on_test", lambda *how: how)
    monkeypatch.setattr(evaluate, "TEST_SCALE", "scale")
    monkeypatch.setenv("HOME", "/home/me")
    found: Any = evaluate.evaluate_run("~/runs/a", asked, "cpu")
    assert seen["recipe"] == ("/home/me/runs/a/own.py", "the run in /home/me/runs/a")
    assert seen["config"] == {**stored, "located": True, **given}
    assert (seen["made"], seen["init"]) == ((settings, 3, "cpu"), {"seed": 3})
    assert seen.get("scale") == (2.0 if metric else None)
    assert found[:3] == (settings, parts, inner)
    assert (list(found[3]), found[4:]) == (["w"], ([0, 1, 2, 4], 9, "cpu"))
    for wrong in ({"left": torch.zeros(1)}, {"w": torch.ones(3)}):
        monkeypatch.setattr(evaluate, "load_run", lambda folder, wrong=wrong: (dict(stored), {}, wrong))
        with pytest.raises(InputError) as refused:
            evaluate.evaluate_run(Path("r"), asked)
        assert str(refused.value) == (
            "r: the parameter 'w' of the run does not fit these values; it was trained otherwise"
        )
    assert seen["config"] == {**stored, "located": True, **asked}


def test_a_run_is_loaded_with_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    from metascale.training.state import to_bytes

    data = to_bytes({"w": torch.ones(2)})
    monkeypatch.setattr(evaluate, "damage_of", lambda folder: None)
    monkeypatch.setattr(evaluate, "refuse_exits", lambda folder: None)
    digest = hashlib.sha256(data).hexdigest()
    files = {"config.json": json.dumps({"seed": 1}), "result.json": json.dumps({"result": {"theta_sha256": digest}})}
    for name in ("config.json", "result.json", evaluate.WEIGHTS):
        with pytest.raises(InputError) as refused:
            evaluate.load_run(tmp_path)
        assert str(refused.value) == (
            f"{tmp_path} has no {name}: it is not a finished, meta-trained run (STUDY/runs/NAME)"
        )
        (tmp_path / name).write_bytes(data if name == evaluate.WEIGHTS else files[name].encode())
    config, result, params = evaluate.load_run(tmp_path)
    assert (config, result, params["w"].tolist()) == ({"seed": 1}, {"theta_sha256": digest}, [1, 1])
    (tmp_path / "result.json").write_text(json.dumps({"theta_sha256": digest}))
    assert evaluate.load_run(tmp_path)[1] == {"theta_sha256": digest}
    (tmp_path / evaluate.WEIGHTS).write_bytes(data + b"x")
    with pytest.raises(CorruptFile) as broken:
        evaluate.load_run(tmp_path)
    assert str(broken.value) == f"{tmp_path / evaluate.WEIGHTS} is not what the run recorded (its SHA-256 differs)"
    monkeypatch.setattr(evaluate, "damage_of", lambda folder: "damaged")
    with pytest.raises(CorruptFile, match=r"^damaged$"):
        evaluate.load_run(tmp_path)


# ------------------------------------------------------------------------------------------------ conclusions


def table(rows: list[dict[str, Any]], notes: tuple[str, ...] = ()) -> ResultsTable:
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    return ResultsTable(columns, tuple({key: row.get(key) for key in columns} for row in rows), notes)


def row(kind: str = "meta", status: str = "finished", **cells: Any) -> dict[str, Any]:
    return {"kind": kind, "status": status, "seed": 0, **cells}


STUDY = Study("s", "tests.study.trials:power", {}, {"n": (1, 2)}, (0,))


def test_baselines_are_means_over_seeds_with_what_was_chosen() -> None:
    one = {"method": "fine_tuning", "k_shot": 5, "test_loss_nats": 1.0, "test_n": 3, "test_ok": True, "rate": 1}
    found = baseline_results(
        table([
            row("baseline", **one, test_inner_lr=0.1), row("baseline", **{**one, "test_loss_nats": 2.0}, scale=3.0),
            row("control", method="shuffled", k_shot=None, test_loss_nats=4.0),
            row("baseline", status="failed", method="fine_tuning", k_shot=5, test_loss_nats=9.0),
            row("meta", method="maml", test_loss_nats=0.5),
        ]),
        ("k_shot",),
    )  # fmt: skip
    assert found == {
        "fine_tuning, k_shot=5": {
            "scale": 3.0, "test_loss_nats": 1.5, "test_n": 3.0, "test_ok": True, "kind": "baseline",
        },
        "shuffled": {"test_loss_nats": 4.0, "kind": "control"},
    }  # fmt: skip
    assert list(baseline_results(table([row("baseline", **one)]))) == ["fine_tuning"]
    assert [conclude._mean(values) for values in ([1, 2.5], [True], [1, None], ["a", "b"])] == [1.75, True, None, "b"]


def test_pools_that_trials_share() -> None:
    described = {"pools": {"train": [1], "validation": [2], "test": [3]}, "seed": 1, "n_train_classes": 4, "data": "d"}
    assert shared_pools(described) == {"pools": {"validation": [2], "test": [3]}, "data": "d"}
    assert shared_pools({"data": "d"}) == {"data": "d", "pools": {}}


@pytest.mark.parametrize(
    ("rows", "roles", "reason"),
    [
        ([row("baseline")], Roles(("n",), loss="loss"), "no trial has finished"),
        ([row(status="failed", n=1, loss=1.0)], Roles(("n",), loss="loss"), "no trial has finished"),
        ([row(n=1, a=1.0, b=2.0)], Roles(("n",)),
         "several columns may be the loss; name it with `loss`: seed, n, a, b"),
        ([row(n=1, loss=1.0)], Roles(("m",), loss="loss"),
         "the results have no column 'm'; they have: kind, status, seed, n, loss"),
        ([row(n=1, loss=1.0)], Roles(("n",), loss="los"), "the results have no column 'los'; did you mean 'loss'?"),
        ([row(n=1, loss=1.0)], Roles((), loss="loss"), "no axis of this study is a scale with at least two numbers"),
    ],
)  # fmt: skip
def test_why_there_is_no_law(rows: list[dict[str, Any]], roles: Roles, reason: str) -> None:
    assert laws_of(STUDY, table(rows), roles) == ({}, reason)


def test_a_law_for_every_series_with_what_was_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def analyse(x: Any, losses: Any, **how: Any) -> Any:
        seen.append((np.asarray(x).tolist(), losses, how))
        if losses == [9.0]:
            raise InputError("one run")
        return f"law of {len(losses)}"

    monkeypatch.setattr(conclude, "analyse", analyse)
    monkeypatch.setattr(conclude, "fit", analyse)
    rows = [
        row(n=1, width=8, loss=3.0), row(n=2, width=8, loss=2.0, seed=1), row(n=None, width=8, loss=1.0),
        row(n=4, width=8, loss=math.inf), row(n=4, width=16, loss=9.0), row(status="diverged", n=4, width=8, loss=1.0),
        row("baseline", n=4, width=8, loss=1.0),
    ]  # fmt: skip
    study = table(rows, ("table note",))
    found = laws_of(STUDY, study, Roles(("n",), ("width",), loss="loss"))
    assert found == ({"width=8": "law of 2"}, "width=16: one run")
    left = "1 trial(s) failed, diverged or have not ended, and are left out"
    assert seen == [
        ([1, 2], [3, 2], {"replicate": [0, 1], "x_name": "n", "loss_name": "loss", "higher_is_better": None,
                          "notes": ["table note", left, "2 trial(s) have no number in n or loss"]}),
        ([4], [9], {"replicate": [0], "x_name": "n", "loss_name": "loss", "higher_is_better": None,
                    "notes": ["table note", left]}),
    ]  # fmt: skip
    seen.clear()
    whole = table([row(n=n, m=2 * n, acc=n / 10) for n in (1, 2)])
    assert laws_of(STUDY, whole, Roles(("n",), loss="acc", better="higher")) == ({"": "law of 2"}, "")
    assert (seen[0][2]["higher_is_better"], seen[0][2]["notes"]) == (True, [])
    assert laws_of(STUDY, whole, Roles(("n", "m"), loss="acc"))[0] == {"": "law of 2"}
    x, losses, how = seen[1]
    assert (x, losses, how["replicate"].tolist()) == ([[1, 2], [2, 4]], [0.1, 0.2], [0, 1])
    assert (how["x_name"], how["loss_name"], how["notes"]) == (("n", "m"), "acc", [])
    assert laws_of(STUDY, table([row(n=4, loss=9.0)]), Roles(("n",), loss="loss")) == ({}, "one run")
    assert laws_of(STUDY, table([row(n=1, loss=3.0)]))[0] == {"": "law of 1"}  # the study's own roles


@pytest.mark.parametrize("baselines", [True, False])
def test_conclude_writes_everything_and_seals_it(
    baselines: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def run(name: str, kind: str, pool: bool, damage: str | None) -> Any:
        folder = tmp_path / name
        folder.mkdir()
        if pool:
            (folder / conclude.TRAIN_POOL_JSON).write_text(json.dumps({"data": name}))
        return SimpleNamespace(folder=folder, trial=SimpleNamespace(kind=kind), damage=lambda: damage)

    runs = [run("a", "baseline", True, None), run("b", "meta", False, None), run("c", "meta", True, "broken"),
            run("d", "meta", True, None), run("e", "meta", True, None)]  # fmt: skip
    view = SimpleNamespace(folder=tmp_path, study="study", runs=runs)
    methods = [{"name": "m", "kind": "meta", "loss": 1.0, "accuracy": None, "more": 1}]
    summary = {"cautions": ["slow"], "answer": "so", "methods": methods}
    roles = SimpleNamespace(crossed=("k_shot",))
    stands: dict[str, Any] = {
        "read_study": lambda folder: view, "locked": lambda folder: nullcontext(),
        "unseal": lambda folder, files: seen.append(("unseal", folder, files)),
        "write_results": lambda folder: "table", "roles_of": lambda study: roles,
        "baseline_results": lambda table, crossed: {"m": crossed} if baselines else {},
        "laws_of": lambda study, table, roles: ({"s": "law"}, "reason"),
        "record_of": lambda law: f"record of {law}", "write_laws": lambda *how: seen.append(("laws", *how)),
        "_write_tuning": lambda view: [Path("tuning")], "write_own": lambda view, table: [Path("own")],
        "write_report": lambda folder: [Path("report")], "write_json": lambda *how: seen.append(("json", *how)),
        "seal_study": lambda view, files: seen.append(("seal", files)), "SUMMARY_JSON": "summary.json",
    }  # fmt: skip
    for name, value in stands.items():
        monkeypatch.setattr(conclude, name, value)
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    found = conclude.conclude(str(tmp_path))
    kept = ({"name": "m", "kind": "meta", "loss": 1.0, "accuracy": None},)
    written = (Path("tuning"), Path("own"), Path("report"))
    assert found == Conclusion({"s": "law"}, "reason", written, ("slow",), "so", kept)  # type: ignore[dict-item]
    own = [tmp_path / name for name in (*conclude.TABLES, conclude.FINALS, conclude.BASELINES_JSON,
                                        conclude.TEST_POOL_JSON, conclude.LAW_JSON, conclude.LAWS_JSON)]  # fmt: skip
    told = [("json", tmp_path / conclude.BASELINES_JSON, {"m": ("k_shot",)})] if baselines else []
    assert seen == [
        ("unseal", tmp_path, None), *told, ("json", tmp_path / conclude.TEST_POOL_JSON, {"data": "d", "pools": {}}),
        ("laws", tmp_path, {"s": "record of law"}), ("seal", [*own, *written]),
    ]  # fmt: skip


def test_searches_and_recipes_of_one_s_own_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[Any] = []
    view: Any = SimpleNamespace(folder=tmp_path, study="study")
    monkeypatch.setattr(conclude, "write_json", lambda *how: seen.append(how))
    monkeypatch.setattr(conclude, "tuned_points", lambda view: [])
    assert (conclude._write_tuning(view), seen) == ([], [])
    monkeypatch.setattr(conclude, "tuned_points", lambda view: [SimpleNamespace(to_json=lambda: {"a": 1})])
    file = tmp_path / conclude.TUNING_JSON
    assert (conclude._write_tuning(view), seen) == ([file], [(file, [{"a": 1}])])
    monkeypatch.setattr(conclude, "recipe_of", lambda study: None)
    results: Any = "table"
    assert conclude.write_own(view, results) == []
    monkeypatch.setattr(conclude, "recipe_of", lambda study: SimpleNamespace(conclude=lambda *how: [how]))
    assert conclude.write_own(view, results) == [(view, "table")]
