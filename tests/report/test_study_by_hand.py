"""A study as the page reads it: what a run says, how scale, loss and series are chosen, and its points, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metascale.core.errors import CorruptFile
from metascale.laws.record import LawRecord
from metascale.report.study import (
    META_TERMS,
    SUPERVISED_TERMS,
    ReportStudy,
    RunRow,
    Terms,
    cut_short,
    mean_of_known,
    open_study,
    standard_error,
    stopped_by_patience,
)
from metascale.study.design import build_trial
from metascale.study.roles import Roles
from metascale.study.store.folder import RunView
from tests.report.study_fixture import StudyBuilder, run_row, write_json

LAW = LawRecord(law="power", formula="", x_names=("n_tasks",), loss_name="test_loss_nats", trend="falls", verdict="v")


def trained(config: dict[str, Any], **cells: Any) -> RunRow:
    trial = build_trial("tests.report.study_fixture:trial", config, {}, 3, "trial", label="w=3")
    return RunRow(RunView(trial, Path("nowhere")), {"kind": "trial", "status": "finished", **cells}, "trained")


def study_of(folder: Path, axes: dict[str, list[Any]], *runs: dict[str, Any], **settings: Any) -> ReportStudy:
    """A study of runs that are given as their axes, ``seed``, ``kind``, ``status`` and, in capitals, their result."""
    builder = StudyBuilder(folder, axes, **settings)
    for place, run in enumerate(runs):
        sets = {key: value for key, value in run.items() if key not in ("seed", "kind", "status", "RESULT")}
        told = {"kind": run.get("kind", "meta"), "status": run.get("status", "finished")}
        builder.run(f"run-{place}", sets, run.get("seed", 0), result=run.get("RESULT", {"test_loss_nats": 1.0}), **told)
    return open_study(builder.write())


def test_what_a_run_says_of_itself() -> None:
    run = trained({}, cost=0.1, count="12", words="a b", empty=None, yes=True, best_step=7, infinite=math.inf)
    assert (run.label, run.seed, run.kind, run.status, run.finished, run.main) == (
        "w=3", 3, "trial", "finished", True, True,
    )  # fmt: skip
    assert [run.number(name) for name in ("cost", "count", "words", "empty", "absent", "infinite")] == [
        0.1, 12.0, None, None, None, None,
    ]  # fmt: skip
    assert [run.text(name) for name in ("cost", "count", "words", "empty", "absent", "yes")] == [
        "0.1", "12", "a b", "", "", "true",
    ]  # fmt: skip
    assert (run.kept_step, trained({}, best_step=7, kept_step=0).kept_step, trained({}).kept_step) == (7, 0, None)
    others = [replace(run, cells={**run.cells, "kind": kind}).main for kind in ("meta", "baseline", "tuning")]
    assert others == [True, False, False]
    falling = [trained({key: name}).rate_falls for key in ("outer_schedule", "schedule") for name in ("linear", "wsd")]
    assert falling == [True] * 4
    assert trained({"schedule": "cosine"}).rate_falls
    assert not any(trained(config).rate_falls for config in ({}, {"schedule": "constant"}, {"rate": "linear"}))


def test_the_words_of_meta_learning_are_for_every_study_but_a_supervised_one(tmp_path: Path) -> None:
    assert Terms("meta-test", "tasks", "meta-learnt", "outer step") == META_TERMS
    assert Terms("test", "examples", "trained", "step") == SUPERVISED_TERMS
    supervised = {"n_tasks": 1, "kind": "trial"}
    found = {
        name: study_of(tmp_path / name, {"n_tasks": [1, 2]}, *runs).terms
        for name, runs in {
            "none": (),
            "supervised": (supervised,),
            "beside a baseline": (supervised, {"method": "zero_shot", "kind": "baseline"}),
            "mixed": (supervised, {"n_tasks": 2}),
        }.items()
    }
    assert found == {
        "none": META_TERMS,
        "supervised": SUPERVISED_TERMS,
        "beside a baseline": SUPERVISED_TERMS,
        "mixed": META_TERMS,
    }


def test_the_scale_is_the_law_s_then_the_study_s_as_far_as_it_is_a_column(tmp_path: Path) -> None:
    axes = {"task.n_tasks": [10, 40], "k_shot": [1, 5]}
    study = study_of(tmp_path / "a", axes, {"task.n_tasks": 10, "k_shot": 1})
    assert (study.x_name, study.scaled, study.axes) == ("n_tasks", True, {"n_tasks": (10, 40), "k_shot": (1, 5)})

    def named(name: str) -> str:
        return replace(study, laws={"": replace(LAW, x_names=(name,) if name else ())}).x_name

    assert [named("k_shot"), named("task.k_shot"), named("no_column"), named("")] == [
        "k_shot", "k_shot", "n_tasks", "n_tasks",
    ]  # fmt: skip
    no_column = replace(study, columns=("loss",), laws={"": replace(LAW, x_names=("far.away",))})
    assert (no_column.x_name, no_column.scaled) == ("away", False)
    words = study_of(tmp_path / "b", {"method": ["maml", "anil"]}, {"method": "maml"})
    assert (words.x_name, words.scaled) == ("n_tasks", False)
    empty = study_of(tmp_path / "c", {"n_tasks": [1, 2]})
    assert (empty.columns, empty.main, empty.scaled) == ((), (), False)


def test_the_loss_is_the_law_s_then_a_test_loss_then_what_the_study_says(tmp_path: Path) -> None:
    both = {"x": 1, "RESULT": {"test_loss_sem_mse": 0.1, "test_loss_mse": 1.0, "energy_per_s": 3.0}}
    study = study_of(tmp_path / "a", {"x": [1, 2]}, both)
    assert (study.loss_name, study.loss_label) == ("test_loss_mse", "meta-test loss (MSE)")
    lawful = replace(study, laws={"": replace(LAW, loss_name="energy_per_s")})
    assert (lawful.loss_name, lawful.unit, lawful.loss_words, lawful.loss_label) == (
        "energy_per_s", "s", "energy per", "energy per (s)",
    )  # fmt: skip
    assert replace(study, laws={"": replace(LAW, loss_name="absent")}).loss_name == "test_loss_mse"
    own = {"x": 1, "RESULT": {"my_cost": 2.0, "other": 1.0}}
    asked = study_of(tmp_path / "b", {"x": [1, 2]}, own, roles=Roles(("x",), loss="my_cost", units="dB"))
    assert (asked.loss_name, asked.unit, asked.loss_words, asked.loss_label) == (
        "my_cost", "dB", "my cost", "my cost (dB)",
    )  # fmt: skip
    later = study_of(tmp_path / "c", {"x": [1, 2]}, own, roles=Roles(("x",), loss="no_column"))
    assert later.loss_name == "no_column"
    guessed = study_of(tmp_path / "d", {"x": [1, 2]}, {"x": 1, "RESULT": {"my_loss": 2.0, "other": 1.0}})
    assert (guessed.loss_name, guessed.loss_label) == ("my_loss", "my loss")
    assert study_of(tmp_path / "e", {"x": [1, 2]}, own).loss_name == "test_loss_nats"


def test_a_sentence_has_the_words_of_the_longest_name(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"n_tasks": [10, 40]}, {"n_tasks": 10})
    laws = {"a": replace(LAW, x_names=("n_tasks",)), "b": replace(LAW, x_names=("n_tasks-2", "k_shot"))}
    text = "test_loss_nats in n_tasks-2, n_tasks and k_shot; run.n_tasks, n_tasks.json, n_tasks2 and an_n_tasks"
    assert replace(study, laws=laws).in_words(text) == (
        "meta-test loss in n tasks-2, N and support examples a class; run.n_tasks, n_tasks.json, n_tasks2 and "
        "an_n_tasks"
    )


def test_series_are_methods_and_what_tells_finished_runs_apart(tmp_path: Path) -> None:
    """Width differs among finished runs and is named; depth differs in a failed one alone; of the loss the unit."""
    axes = {"n_tasks": [10, 40], "method": ["maml", "reptile"], "net.width": [1000, 2000], "depth": [1, 2]}
    roles = Roles(("n_tasks", "k_shot"), ("method", "net.width", "depth"), loss="test_loss_nats")
    runs = [
        {"n_tasks": 10, "method": "maml", "net.width": 1000, "depth": 1, "k_shot": 0.5},
        {"n_tasks": 40, "method": "reptile", "net.width": 2000, "depth": 1, "k_shot": 5},
        {"n_tasks": 40, "method": "reptile", "net.width": 2000, "depth": 2, "k_shot": 5, "status": "failed"},
        {"method": "fine_tuning", "kind": "baseline"},
    ]
    study = study_of(tmp_path / "a", axes, *runs, roles=roles)
    assert [study.series[run.id] for run in study.runs] == [
        "MAML, width 1,000, k shot 0.5", "Reptile, width 2,000, k shot 5", "Reptile, width 2,000, k shot 5",
        "fine-tuning",
    ]  # fmt: skip
    plain = [{"n": n, "norm": norm, "kind": "trial"} for n in (1, 2) for norm in ("layer_norm", "none")]
    unnamed = study_of(tmp_path / "b", {"n": [1, 2], "norm": ["layer_norm", "none"]}, *plain)
    assert [unnamed.series[run.id] for run in unnamed.runs] == ["norm layer norm", "norm none"] * 2
    only = study_of(tmp_path / "c", {"n": [1, 2]}, {"n": 1, "kind": "trial"}, {"n": 2})
    assert [(run.method, only.series[run.id]) for run in only.runs] == [("trained", "trained"), ("meta-learnt",) * 2]


def test_a_method_is_that_of_the_run_then_of_its_result_then_of_the_study(tmp_path: Path) -> None:
    axes = {"n": [1, 2]}
    given = study_of(tmp_path / "a", axes, {"n": 1, "method": "anil"}, {"n": 2, "RESULT": {"method": "sama"}})
    assert sorted(run.method for run in given.runs) == ["anil", "sama"]
    based = study_of(tmp_path / "c", axes, {"n": 1, "method": "anil"}, {"n": 2}, base={"method": "maml"})
    assert sorted(run.method for run in based.runs) == ["anil", "maml"]
    free = study_of(tmp_path / "b", axes, {"n": 1}, {"n": 1, "kind": "tuning"}, {"n": 2, "kind": "trial"})
    assert sorted((run.kind, run.method) for run in free.runs) == [
        ("meta", "meta-learnt"), ("trial", "trained"), ("tuning", "trained"),
    ]  # fmt: skip


def test_laws_go_to_their_series(tmp_path: Path) -> None:
    axes = {"n": [1, 2], "method": ["reptile", "maml"], "width": [1000, 2000]}
    roles = Roles(("n",), ("method", "width"), loss="test_loss_nats")
    runs = [{"n": n, "method": name, "width": w} for n in (1, 2) for name in axes["method"] for w in axes["width"]]
    study = study_of(tmp_path, axes, *runs, roles=roles)
    first, second = replace(LAW, verdict="first"), replace(LAW, verdict="second")

    def named(laws: dict[str, LawRecord]) -> list[tuple[str, str]]:
        return [(name, law.verdict) for name, law in replace(study, laws=laws).laws_by_series.items()]

    two = {"method=reptile, width=1000": first, "method=maml, width=2000": second}
    assert named(two) == [("MAML, width 2,000", "second"), ("Reptile, width 1,000", "first")]
    assert named({"method=maml, width=2000": second}) == [("", "second")]
    assert named({"method=x": first, "method=y": second}) == [("", "first")]
    assert (named({}), study.law, study.level) == ([], None, 0.95)
    assert replace(study, laws={"": replace(LAW, level=0.8)}).level == 0.8
    assert replace(study, laws=two).law == first


def test_points_are_finished_runs_with_a_positive_loss_by_series_and_place(tmp_path: Path) -> None:
    """Two seeds at N = 40, rate 0.5: the geometric mean of 1 and 4 is 2, and ln 1 and ln 4 are ln 4 / √2 apart in
    standard deviations. A loss of 0, none, a diverged run and one without a scale are no points."""
    axes = {"method": ["reptile", "maml"], "n_tasks": [10, 40], "rate": [0.5, 0.1], "depth": [3]}

    def run(method: str, n: int, rate: float, loss: float | None = 1.0, **more: Any) -> dict[str, Any]:
        result = {"size": None if more.pop("lost", False) else n, "test_loss_nats": loss}
        return {"method": method, "n_tasks": n, "rate": rate, "depth": 3, "RESULT": result, **more}

    runs = [
        run("reptile", 40, 0.5), run("maml", 40, 0.5), run("maml", 40, 0.5, 4.0, seed=1), run("maml", 40, 0.1),
        run("maml", 10, 0.5), run("maml", 40, 0.5, 0.0, seed=2), run("maml", 40, 0.5, None, seed=3),
        run("maml", 40, 0.5, seed=4, status="diverged"), run("maml", 40, 0.5, seed=5, lost=True),
    ]  # fmt: skip
    study = study_of(tmp_path, axes, *runs, roles=Roles(("size",), ("method",), loss="test_loss_nats"))
    assert [(point.series, point.x, point.name, point.losses) for point in study.points] == [
        ("MAML", 10.0, "training tasks N 10, rate 0.5", (1.0,)),
        ("MAML", 40.0, "training tasks N 40, rate 0.1", (1.0,)),
        ("MAML", 40.0, "training tasks N 40, rate 0.5", (1.0, 4.0)),
        ("Reptile", 40.0, "training tasks N 40, rate 0.5", (1.0,)),
    ]
    two = study.points[2]
    assert (two.mean, two.spread, two.axes) == (
        pytest.approx(2.0), pytest.approx(math.log(4) / 2**0.5), {"method": "maml", "n_tasks": 40, "rate": 0.5},
    )  # fmt: skip
    assert ([trial.seed for trial in two.trials], two.runs.name, two.runs.x) == ([0, 1], two.name, 40.0)
    assert study.points[0].spread == 0.0


def test_a_point_is_named_without_its_series(tmp_path: Path) -> None:
    axes = {"n": [1, 2], "task.k_shot": [1, 5]}
    runs = [{"n": n, "task.k_shot": k} for n in (1, 2) for k in (1, 5)]
    named = study_of(tmp_path / "a", axes, *runs, roles=Roles(("n",), ("task.k_shot",), loss="test_loss_nats"))
    assert {point.name for point in named.points} == {"n 1", "n 2"}
    alone = study_of(tmp_path / "b", {"method": ["maml", "anil"]}, {"method": "maml", "n_tasks": 4})
    assert [(point.name, point.x) for point in alone.points] == [("MAML", 4.0)]


def test_a_run_is_named_by_its_method_where_there_are_several(tmp_path: Path) -> None:
    one = study_of(tmp_path / "a", {"n_tasks": [1000, 2000]}, {"n_tasks": 1000, "seed": 4})
    assert one.name_of(one.runs[0]) == "N\u00a0=\u00a01,000, seed 4"
    two = study_of(tmp_path / "b", {"n_tasks": [1, 2]}, {"n_tasks": 1}, {"method": "zero_shot", "kind": "baseline"})
    assert [two.name_of(run) for run in two.runs] == ["meta-learnt, N\u00a0=\u00a01, seed 0", "zero-shot, seed 0"]
    crossed = Roles(("n_tasks",), ("k_shot",), crossed=("k_shot", "absent"), loss="test_loss_nats")
    at = study_of(tmp_path / "c", {"n_tasks": [1, 2], "k_shot": [1, 5]}, {"n_tasks": 1, "k_shot": 5}, roles=crossed)
    assert at.crossed_at(at.runs[0]) == {"k_shot": "5"}


def test_a_study_in_a_notebook(tmp_path: Path) -> None:
    runs = [{"n_tasks": 10}, {"n_tasks": 10, "seed": 1}, {"n_tasks": 40, "status": "failed"}]
    study = study_of(tmp_path, {"n_tasks": [10, 40]}, *runs, name="shots", base={"method": "maml"})
    assert study._repr_html_().endswith(
        "<table><thead><tr><th>series</th><th>scale</th><th>meta-test loss (nats)</th><th>seeds</th></tr></thead>"
        "<tbody><tr><th>MAML</th><td>N\u00a0=\u00a010</td><td>1.00</td><td>2</td></tr></tbody></table></div>"
    )
    assert ">shots: 2 finished, 1 failed</pre>" in study._repr_html_()
    one = replace(study, laws={"": replace(LAW, verdict="n_tasks helps")})._repr_html_()
    several = replace(study, laws={"a": replace(LAW, verdict="up"), "b": LAW})._repr_html_()
    assert ">N helps</pre>" in one
    assert ">a: up</pre>" in several
    assert ">b: v</pre>" in several


def test_files_beside_the_runs_are_objects(tmp_path: Path) -> None:
    study = study_of(tmp_path, {"n_tasks": [10, 40]}, {"n_tasks": 10})
    assert (study.launched, study.baselines, study.test_pool, study.laws) == ({}, {}, {}, {})
    for name, part in (("command", "launched"), ("baselines", "baselines"), ("test_pool", "test_pool")):
        write_json(tmp_path / f"{name}.json", {"a": 1})
        assert getattr(open_study(tmp_path), part) == {"a": 1}
        write_json(tmp_path / f"{name}.json", [1])
        with pytest.raises(CorruptFile, match=rf"{name}\.json must hold one JSON object; it holds a list$"):
            open_study(tmp_path)
        (tmp_path / f"{name}.json").unlink()
    assert open_study(study) is study


def test_means_and_errors_of_what_is_known() -> None:
    assert (mean_of_known([1.0, 3.0]), mean_of_known([1.0, None]), mean_of_known([])) == (2.0, None, None)
    assert (standard_error([1.0, 3.0]), standard_error([1.0]), standard_error([])) == (pytest.approx(1.0), None, None)
    assert standard_error([1.0, 2.0, 3.0, 4.0]) == pytest.approx((5 / 3) ** 0.5 / 2)


def test_half_of_the_runs_ended_by_patience_or_not(tmp_path: Path) -> None:
    def ended(*how: str) -> bool:
        runs = [{"n_tasks": 1, "seed": seed, "RESULT": {"test_loss_nats": 1.0, "training": word}}
                for seed, word in enumerate(how)]  # fmt: skip
        folder = tmp_path / "-".join(how)
        return stopped_by_patience(study_of(folder, {"n_tasks": [1, 2]}, *runs).points)

    assert [ended("converged", "max_steps"), ended("converged", "max_steps", "max_steps"), ended("converged")] == [
        True, False, True,
    ]  # fmt: skip
    ends = ((6, 5), (5, None), (None, 5))
    assert [cut_short(run_row(best_step=best, steps=steps), True) for best, steps in ends] == [True, False, False]
