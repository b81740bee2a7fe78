"""Searches: values as ordinary trials, the same after a kill, the known best found, its edge told."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from metascale.cli.main import app
from metascale.core.errors import InputError, MissingDependency
from metascale.core.files import write_json
from metascale.study import ProcessExecutor, Study, read_study, results_table, verify_study
from metascale.study.run.session import Event, StudyOutcome
from metascale.study.run.stopping import ask_to_stop
from metascale.study.search.run import n_search_trials, run_any_study, run_tuned_study, search_trial
from metascale.study.search.search import Search, SearchResult, Tried, search_of, tuned_points, values_at
from tests.study.folders import final_files

RATE = {"rate": {"log": [1e-4, 1.0]}}


def study(search: Mapping[str, Any], axes: Mapping[str, Any] | None = None, **base: Any) -> Study:
    return Study(
        "bowl",
        f"tests.study.tuning_trials:{base.pop('function', 'bowl')}",
        {"rate": 0.5, **base, "tune": {"space": RATE, "prune": False, **search}},
        axes or {},
        base.pop("seeds", (0, 1)),
    )


def found(folder: Path) -> list[SearchResult]:
    return list(tuned_points(read_study(folder)))


def test_a_search_finds_the_bottom_of_a_quadratic(tmp_path: Path) -> None:
    outcome = run_tuned_study(study({"trials": 24}), tmp_path / "study")
    assert (outcome.finished, outcome.exit_status) == (26, 0)
    (tuned,) = found(tmp_path / "study")
    assert len(tuned.tried) == 24
    assert abs(math.log10(tuned.values["rate"] / 0.01)) < 0.1, "of a range of four decades"
    assert tuned.loss == min(loss for _, loss in tuned.curve("rate"))
    assert tuned.edges == {}
    rows = [row for row in results_table(tmp_path / "study").rows if row["kind"] == "trial"]
    assert [row["seed"] for row in rows] == [0, 1]
    assert {row["rate"] for row in rows} == {tuned.values["rate"]}, "the trials of the axes use what was found"


def test_the_first_value_tried_is_the_default(tmp_path: Path) -> None:
    run_tuned_study(study({"trials": 2}), tmp_path / "study")
    assert found(tmp_path / "study")[0].tried[0].values == {"rate": 0.5}


def test_the_first_value_tried_is_the_default_of_a_dotted_key_too(tmp_path: Path) -> None:
    space = {"opt.lr": {"log": [1e-4, 1.0]}}
    run_tuned_study(study({"trials": 2, "space": space}, function="nested", opt={"lr": 0.5}), tmp_path / "study")
    assert found(tmp_path / "study")[0].tried[0].values == {"opt.lr": 0.5}


@pytest.mark.parametrize("value", ["/a/long/path" * 30, "two\nlines", {"path": "../x", "n": 1}, ["a b", "*"]])
def test_labels_of_a_search_are_file_names(value: Any) -> None:
    tuning = study({}, {"arm": [value, "b"]})
    search = search_of(tuning)
    assert search is not None
    label = search_trial(tuning, search, {"arm": value}, [], 3, {"rate": 0.1}).label
    assert re.fullmatch(r"tuning-arm=[A-Za-z0-9._=+-]{1,76}-003", label)


@pytest.mark.parametrize("trials", [8, 2], ids=["two rounds", "the search and the trials of the axes"])
def test_a_stop_between_two_parts_of_the_command_ends_the_next(tmp_path: Path, trials: int) -> None:
    class Asks:
        n_ends = 0

        def begin(self, folder: Path, total: int, done: int) -> None:
            pass

        def event(self, event: Event) -> None:
            pass

        def end(self, outcome: StudyOutcome | None) -> None:
            self.n_ends += 1
            if self.n_ends == 1:
                ask_to_stop(tmp_path / "study", "finish")

    tuning = study({"trials": trials, "together": 2})
    outcome = run_tuned_study(tuning, tmp_path / "study", reporter=Asks())
    assert (outcome.stopped, outcome.pending, outcome.ran) == (True, 2, 2)
    again = run_tuned_study(tuning, tmp_path / "study")
    assert (again.stopped, again.pending, again.finished) == (False, 0, trials + 2), "an old request is not for it"


def test_every_point_of_the_axes_is_searched_apart(tmp_path: Path) -> None:
    tuning = study({"trials": 14}, {"width": [1, 100]})
    assert n_search_trials(tuning) == 28
    run_tuned_study(tuning, tmp_path / "study")
    narrow, wide = found(tmp_path / "study")
    assert (narrow.point, wide.point) == ({"width": 1}, {"width": 100})
    assert narrow.values["rate"] == pytest.approx(1e-2, rel=0.6)
    assert wide.values["rate"] == pytest.approx(1e-3, rel=0.6)
    rows = [row for row in results_table(tmp_path / "study").rows if row["kind"] == "trial"]
    assert [(row["width"], row["rate"]) for row in rows][::2] == [
        (1, narrow.values["rate"]),
        (100, wide.values["rate"]),
    ]


def test_the_smallest_sizes_values_serve_all_sizes(tmp_path: Path) -> None:
    tuning = study({"trials": 3, "strategy": "smallest", "size": "width"}, {"width": [100, 1], "arm": ["a", "b"]})
    run_tuned_study(tuning, tmp_path / "study")
    tuned = found(tmp_path / "study")
    assert [one.point for one in tuned] == [{"width": 1, "arm": "a"}, {"width": 1, "arm": "b"}]
    rate = {one.point["arm"]: one.values["rate"] for one in tuned}
    rows = [row for row in results_table(tmp_path / "study").rows if row["kind"] == "trial"]
    assert len(rows) == 8
    assert all(row["rate"] == rate[row["arm"]] for row in rows)


def test_a_rule_extrapolates_the_rate_to_sizes_that_were_not_searched(tmp_path: Path) -> None:
    search = {"trials": 14, "strategy": "rule", "size": "width", "rule_points": 2}
    search |= {"space": {"rate": {"log": [1e-6, 1.0]}}}
    run_tuned_study(study(search, {"width": [1, 100, 10_000]}, seeds=(0,)), tmp_path / "study")
    rows = {row["width"]: row["rate"] for row in results_table(tmp_path / "study").rows if row["kind"] == "trial"}
    one, two = found(tmp_path / "study")
    # Through two points a power law is exact: the ratio of the second to the first goes on.
    assert rows[10_000] == pytest.approx(two.values["rate"] ** 2 / one.values["rate"], rel=1e-9)
    assert rows[10_000] == pytest.approx(1e-4, rel=2.0)


MEASURED = {"size": "tests.study.tuning_trials:area", "along": ["width", "height"]}


@pytest.mark.parametrize(("strategy", "searched"), [("smallest", [(2, 1)]), ("rule", [(2, 1), (2, 8)])])
def test_a_measured_size_replaces_the_axes_that_it_stands_for(
    strategy: str, searched: list[tuple[int, int]], tmp_path: Path
) -> None:
    """Areas from 2 to 256: a rule over two sizes takes the smallest, and the one next to 2·sqrt(128) = 22.6."""
    search = {"trials": 2, "strategy": strategy, "rule_points": 2, "startup": 2, **MEASURED}
    axes = {"arm": ["a", "b"], "width": [2, 8, 32], "height": [1, 8]}
    tuning = study(search, axes, seeds=(0,))
    assert n_search_trials(tuning) == 2 * 2 * len(searched)
    run_tuned_study(tuning, tmp_path / "study")
    tuned = found(tmp_path / "study")
    assert [one.point for one in tuned] == [
        {"arm": arm, "width": width, "height": height} for arm in ("a", "b") for width, height in searched
    ]
    for arm in ("a", "b"):
        mine = {
            one.point["width"] * one.point["height"]: one.values["rate"] for one in tuned if one.point["arm"] == arm
        }
        slope = math.log(mine[16] / mine[2]) / math.log(8) if strategy == "rule" else 0.0
        for row in results_table(tmp_path / "study").rows:
            if row["kind"] == "trial" and row["arm"] == arm:
                ruled = mine[2] * (row["width"] * row["height"] / 2) ** slope
                assert row["rate"] == pytest.approx(min(1.0, max(1e-4, ruled)), rel=1e-9)


def test_a_rule_follows_each_range_and_never_leaves_it() -> None:
    space = {
        "rate": {"log": [1e-3, 1.0]}, "dropout": {"uniform": [0.0, 0.5]}, "batch": {"choice": [32, 64]},
        "layers": {"integer": [1, 9]},
    }  # fmt: skip
    search = {"space": space, "strategy": "rule", "size": "width", "rule_points": 2}
    tuning = study(search, {"width": [1, 10, 100, 10_000]})
    values = (
        {"rate": 0.1, "dropout": 0.1, "batch": 64, "layers": 2},
        {"rate": 0.01, "dropout": 0.2, "batch": 32, "layers": 5},
    )
    tuned = [SearchResult({"width": 10**k}, one, 1.0, (), {}) for k, one in enumerate(values)]
    at = {
        width: values_at(tuning, Search.from_json(tuning.base["tune"]), tuned, {"width": width})
        for width in (100, 10_000)
    }
    assert at[100] == {"rate": 0.001, "dropout": 0.3, "batch": 32, "layers": 5}, "not 0.0010000000000000002"
    assert at[10_000] == pytest.approx({"rate": 0.001, "dropout": 0.5, "batch": 32, "layers": 5})


def test_pruning_by_epoch_compares_trials_after_the_same_number_of_examples(tmp_path: Path) -> None:
    """Trials of batch 1 take four steps an epoch, those of batch 4 one: by steps they never meet."""
    search = {
        "space": {"rate": {"log": [1e-4, 1.0]}, "batch": {"choice": [1, 4]}},
        "trials": 8, "startup": 8, "together": 2, "prune": {"by": "epoch", "n_before": 2, "rungs": 2},
    }  # fmt: skip
    run_tuned_study(study(search, function="epochs", batch=1, seeds=(0,)), tmp_path / "study")
    runs = [run for run in read_study(tmp_path / "study").runs if run.trial.kind == "tuning"]
    assert [run.trial.config.get("prune_above") is not None for run in runs] == [False] * 2 + [True] * 6
    assert {epoch for run in runs for epoch, _ in run.trial.config.get("prune_above", ())} == {1.0, 2.0}
    (tuned,) = found(tmp_path / "study")
    assert {one.values["batch"] for one in tuned.tried if one.status == "pruned"} == {1, 4}


def test_a_best_value_at_the_end_of_its_range_is_flagged(tmp_path: Path) -> None:
    low = {"space": {"rate": {"log": [0.05, 1.0]}, "depth": {"integer": [3, 6]}}, "trials": 24}
    run_tuned_study(study(low, depth=4), tmp_path / "study")
    (tuned,) = found(tmp_path / "study")
    assert tuned.edges == {"rate": "low", "depth": "low"}


def test_a_finite_space_is_tried_out_without_repetition_and_then_ends(tmp_path: Path) -> None:
    space = {"depth": {"integer": [1, 4]}, "rate": {"choice": [0.01, 0.1]}}
    outcome = run_tuned_study(study({"space": space, "trials": 20}, depth=1), tmp_path / "study")
    (tuned,) = found(tmp_path / "study")
    assert len({json.dumps(dict(one.values), sort_keys=True) for one in tuned.tried}) == 8 == len(tuned.tried)
    assert tuned.values == {"depth": 3, "rate": 0.01}
    assert outcome.total == 10


def test_the_same_call_again_runs_nothing_and_changes_nothing(tmp_path: Path) -> None:
    tuning = study({"trials": 6}, {"width": [1, 4]})
    run_any_study(tuning, tmp_path / "study")
    before = final_files(tmp_path / "study")
    again = run_any_study(tuning, tmp_path / "study")
    assert (again.ran, again.finished, again.exit_status) == (0, 16, 0)
    assert final_files(tmp_path / "study") == before


def test_pruned_trials_stop_early_for_the_reason_in_their_configuration(tmp_path: Path) -> None:
    tuning = study({"trials": 20, "prune": {"n_before": 4, "rungs": 3}})
    run_tuned_study(tuning, tmp_path / "study")
    (tuned,) = found(tmp_path / "study")
    pruned = [one for one in tuned.tried if one.status == "pruned"]
    assert 2 <= len(pruned) <= 14
    assert all(one.status == "finished" for one in tuned.tried[:4])
    for run in read_study(tmp_path / "study").runs:
        ended = (run.result() or {}).get("pruned_at_step")
        if ended is not None:
            limits = dict(run.trial.config["prune_above"])
            assert run.rows("eval_stats")[-1]["step"] == ended
            assert run.rows("eval_stats")[-1]["validation_loss_nats"] > limits[ended]
    assert abs(math.log10(tuned.values["rate"] / 0.01)) < 0.3


def test_thresholds_are_the_medians_of_the_best_losses_so_far() -> None:
    curves = [((0, 9.0), (1, float(k)), (2, float(k)), (3, 0.5)) for k in (1, 5, 2, 4)]
    tried = [Tried({}, 0.5, "finished", curve) for curve in curves]
    search = Search.from_json({"space": RATE, "prune": {"n_before": 4, "rungs": 2}})
    assert search.pruning is not None
    thresholds = search.pruning.thresholds
    assert thresholds(tried) == [[1, 3.0], [2, 3.0]]
    assert thresholds(tried[:3]) == []
    assert thresholds([*tried[:3], Tried({}, None, "diverged")]) == []


def test_divergence_counts_as_the_worst_and_is_never_the_best(tmp_path: Path) -> None:
    run_tuned_study(study({"trials": 16}, diverges_above=0.3), tmp_path / "study")
    (tuned,) = found(tmp_path / "study")
    assert "diverged" in {one.status for one in tuned.tried}
    assert tuned.values["rate"] <= 0.3


def test_a_point_where_everything_diverges_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"every trial of the search at .*'width': 1.* failed or diverged"):
        run_tuned_study(study({"trials": 3}, {"width": [1]}, diverges_above=1e-9), tmp_path / "study")


def test_a_failure_is_retried_by_the_next_call_and_what_was_suggested_stands(tmp_path: Path) -> None:
    tuning = study({"trials": 8}, function="fails_above", cured=str(tmp_path / "cured"))
    first = run_tuned_study(tuning, tmp_path / "study")
    assert first.failed >= 1
    assert first.exit_status == 1
    before = [run.trial.id for run in read_study(tmp_path / "study").runs if run.trial.kind == "tuning"]
    (tmp_path / "cured").touch()
    second = run_tuned_study(tuning, tmp_path / "study")
    assert (second.failed, second.ran >= first.failed) == (0, True)
    assert [run.trial.id for run in read_study(tmp_path / "study").runs if run.trial.kind == "tuning"] == before


@pytest.mark.parametrize("always", [pytest.param(False, marks=pytest.mark.long), True])
def test_a_trial_killed_from_outside_is_resumed_and_never_scored(tmp_path: Path, always: bool) -> None:
    """Half of the rates are killed at their checkpoint: once, or until the cause is gone."""
    cured = tmp_path / "cured"
    tuning = study({"trials": 8, "together": 3}, function="killed_above", always=always, cured=str(cured))
    outcome = run_tuned_study(tuning, tmp_path / "study", ProcessExecutor(workers=2))
    assert len(list(tmp_path.glob("killed-*"))) >= 1
    if always:
        assert (outcome.failed >= 1, outcome.exit_status) == (True, 1)
        runs = read_study(tmp_path / "study").runs
        assert {run.trial.kind for run in runs} == {"tuning"}, "the search waits"
        killed = [run for run in runs if run.was_killed()]
        assert len(killed) == outcome.failed
        assert "killed from outside by SIGKILL" in killed[0].message()
        cured.touch()
        outcome = run_tuned_study(tuning, tmp_path / "study", ProcessExecutor(workers=2))
    assert (outcome.failed, outcome.exit_status) == (0, 0)
    cured.touch()
    run_tuned_study(tuning, tmp_path / "whole")
    assert final_files(tmp_path / "study") == final_files(tmp_path / "whole")


def test_a_search_is_extended_by_more_trials_and_keeps_what_is_done(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    first = run_any_study(study({"trials": 4}, calls=str(calls)), tmp_path / "study")
    before = {run.trial.id: run.result() for run in read_study(tmp_path / "study").runs}
    second = run_any_study(study({"trials": 6}, calls=str(calls)), tmp_path / "study")
    (tuned,) = found(tmp_path / "study")
    assert len(tuned.tried) == 6
    after = {run.trial.id: run.result() for run in read_study(tmp_path / "study").runs}
    assert before.items() <= after.items()
    # The two of the search, and the trials of the axes where it found other values.
    better = tuned.loss < min(result["validation_loss_nats"] for result in before.values())
    assert (first.ran, second.ran) == (4 + 2, 2 + 2 * better)
    assert len(calls.read_text().splitlines()) == first.ran + second.ran
    assert verify_study(tmp_path / "study").ok
    # The folder knows how many there are now; fewer are asked for in vain, and other ranges are refused.
    stored = read_study(tmp_path / "study").study
    assert search_of(stored).trials == 6
    assert run_any_study(stored, tmp_path / "study").ran == 0
    assert run_any_study(study({"trials": 4}, calls=str(calls)), tmp_path / "study").ran == 0
    assert search_of(read_study(tmp_path / "study").study).trials == 6
    with pytest.raises(InputError, match=r"another base\.tune\.space\.rate\.log"):
        run_any_study(
            study({"trials": 8, "space": {"rate": {"log": [1e-3, 1.0]}}}, calls=str(calls)), tmp_path / "study"
        )


def test_the_finals_of_an_earlier_version_are_read_and_said_and_sealed_by_the_same_command(tmp_path: Path) -> None:
    tuning, folder = study({"trials": 3}), tmp_path / "study"
    run_any_study(tuning, folder)
    before = final_files(folder)
    # As 308621c wrote them: no hashes in study.json and finals.json, and no seals.json.
    for name, changes in (("study.json", {"format": 1}), ("finals.json", {})):
        stored = {**json.loads((folder / name).read_text()), **changes}
        stored.pop("sha256")
        write_json(folder / name, stored)
    (folder / "seals.json").unlink()
    kinds = {row["kind"] for row in results_table(folder).rows}
    assert kinds == {"tuning", "trial"}
    (damage,) = verify_study(folder).damages
    assert "written by an earlier version of metascale" in damage.problem
    for command in ("status", "report"):
        done = CliRunner().invoke(app, [command, str(folder)])
        assert done.exit_code == 0, done.output
        assert "the same run command (or `metascale resume`) writes it anew" in " ".join(done.stderr.split())
    assert run_any_study(tuning, folder).ran == 0
    assert (folder / "finals.json").read_bytes() == before["finals.json"]
    assert verify_study(folder).ok


def test_more_axis_values_extend_a_tuned_study(tmp_path: Path) -> None:
    run_any_study(study({"trials": 3}, {"width": [1]}), tmp_path / "study")
    outcome = run_any_study(study({"trials": 3}, {"width": [1, 9]}), tmp_path / "study")
    assert outcome.ran == 5
    assert [one.point["width"] for one in found(tmp_path / "study")] == [1, 9]


def test_what_a_later_search_replaced_is_in_no_fit(tmp_path: Path) -> None:
    """A smaller size comes later, and the strategy takes its values for all: the first finals no longer count."""
    search = {"trials": 3, "strategy": "smallest", "size": "width"}
    run_any_study(study(search, {"width": [4, 9]}), tmp_path / "study")
    assert {row["kind"] for row in results_table(tmp_path / "study").rows} == {"tuning", "trial"}
    run_any_study(study(search, {"width": [1, 4, 9]}), tmp_path / "study")
    rows = results_table(tmp_path / "study").rows
    counted = [row for row in rows if row["kind"] == "trial"]
    assert sorted(row["width"] for row in counted) == [1, 1, 4, 4, 9, 9]
    assert len({row["rate"] for row in counted}) == 1
    assert sorted(row["width"] for row in rows if row["kind"] == "superseded") == [4, 4, 9, 9]


SCRIPT = """
import json, sys
from metascale.study import ProcessExecutor, Study
from metascale.study.search.run import run_any_study
task = json.loads(sys.argv[1])
executor = ProcessExecutor(task.pop("workers")) if task["workers"] else task.pop("workers") and None
outcome = run_any_study(Study(**task["study"]), task["folder"], executor)
print(json.dumps({"ran": outcome.ran, "total": outcome.total}))
"""


def start(tuning: Study, folder: Path, workers: int = 0, **environment: str) -> subprocess.Popen[str]:
    names = ("name", "trial", "base", "axes", "seeds", "extra")
    task = {"study": {name: getattr(tuning, name) for name in names}, "folder": str(folder), "workers": workers}
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(task)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.long
def test_killed_again_and_again_it_tries_the_same_values_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    tuning = study({"trials": 8, "together": 3, "prune": {"n_before": 3}}, {"width": [1, 30]}, seeds=(0,))
    run_any_study(tuning, tmp_path / "whole")
    kills = 0
    for abort_at in (9, 21, 33, 45, 57, 0):
        deadly = {"METASCALE_ABORT_AT_WRITE": str(abort_at)} if abort_at else {}
        process = start(tuning, tmp_path / "broken", **deadly)
        _, errors = process.communicate(timeout=60)
        kills += process.returncode == -signal.SIGKILL
        assert process.returncode in (0, -signal.SIGKILL), errors
    assert kills >= 3
    whole, broken = final_files(tmp_path / "whole"), final_files(tmp_path / "broken")
    assert whole.keys() == broken.keys()
    assert [name for name in whole if whole[name] != broken[name]] == []


@pytest.mark.long
def test_two_runners_share_one_search_and_never_overshoot(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    tuning = study({"trials": 12, "together": 3}, calls=str(calls))
    runners = [start(tuning, tmp_path / "study", workers=2) for _ in range(2)]
    ran = 0
    for process in runners:
        output, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        ran += json.loads(output)["ran"]
    assert ran == 14
    assert len(calls.read_text().splitlines()) == 14
    (tuned,) = found(tmp_path / "study")
    assert len(tuned.tried) == 12
    run_any_study(study({"trials": 12, "together": 3}, calls=str(calls)), tmp_path / "alone")
    assert [one.values for one in found(tmp_path / "alone")[0].tried] == [one.values for one in tuned.tried]


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"space": {}}, "at least one hyperparameter"),
        ({"space": {"rate": {"lgo": [1, 2]}}}, "there is no range 'lgo' for 'rate'; did you mean 'log'?"),
        ({"space": {"rate": {"log": [0, 1]}}}, "starts above 0, not at 0"),
        ({"space": {"rate": {"log": [2, 1]}}}, "from a finite number to a larger"),
        ({"space": {"rate": [1, 2]}}, "the range of 'rate' is one of"),
        ({"space": {"rate": {"choice": [1]}}}, "at least two different options"),
        ({"space": {"rate": {"integer": [1, 2.5]}}}, "from one whole number to a larger"),
        ({"trials": 0}, "trials of a search must be a whole number of at least 1, not 0"),
        ({"trails": 3}, "'tune' has no key 'trails'; did you mean 'trials'?"),
        ({"prune": {"rung": 3}}, "'tune.prune' has no key 'rung'; did you mean 'rungs'?"),
        ({"strategy": "most"}, "'each', 'smallest' or 'rule', not 'most'"),
        ({"strategy": "smallest"}, "needs 'size': an axis with numbers"),
        ({"strategy": "rule", "size": "width"}, "a rule over 3 sizes needs as many; axis 'width' has 2"),
        ({"space": {"width": {"integer": [1, 4]}}}, "'width' is an axis"),
        ({"strategy": "rule", "size": "tests.study.tuning_trials:area"}, "needs 'along': the axes"),
        ({"strategy": "rule", **MEASURED}, "needs 'along': the axes that its size stands for; the axes are ['width']"),
        ({"strategy": "smallest", **MEASURED, "along": ["width"], "size": "math:nothing"}, "has no function 'nothing'"),
        (
            {"strategy": "smallest", "along": ["width"], "size": "tests.study.tuning_trials:no_size"},
            "returned 'large' for {'width': ",
        ),
        ({"strategy": "smallest", "along": ["width"], "size": "nowhere:size"}, "there is no module 'nowhere'"),
        ({"strategy": "rule", "along": "width"}, "'along' of a search is a list of axes, not 'width'"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_a_file_is_written(
    search: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        run_any_study(study(search, {"width": [1, 2]}), tmp_path / "study")
    assert message in str(caught.value)
    assert not (tmp_path / "study").exists()


def test_without_optuna_a_search_is_refused_with_the_install_line_before_a_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingDependency, match=r"pip install 'metascale\[tune\]'"):
        run_any_study(study({}), tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("width", [0, -2.5])
def test_a_rule_over_sizes_that_are_not_above_0_is_refused_before_a_file_is_written(
    tmp_path: Path, width: float
) -> None:
    with pytest.raises(InputError, match=f"numbers above 0; axis 'width' has {width}"):
        run_any_study(study({"strategy": "rule", "size": "width"}, {"width": [1, 2, 4, width]}), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_search_reads_back_from_its_json() -> None:
    stored = {
        "space": {"a": {"log": ["1e-4", 1.0]}, "b": {"choice": ["x", "y"]}, "c": {"uniform": [0.0, 0.5]}},
        "trials": 9,
        "prune": {"rungs": 2},
    }
    search = Search.from_json(stored)
    assert Search.from_json(search.to_json()) == search
    assert search.space["a"].to_json() == {"log": [1e-4, 1.0]}
