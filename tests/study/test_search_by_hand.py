"""Searches against tables worked out by hand: rounds and calls, what is suggested, sizes and rules, own samplers.

Trials are not run: a stand-in for `run_study` ends them as the test says. Optuna is stood in for as well.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metascale.core.canonical import canonical_json, content_id
from metascale.core.errors import Diverged, InputError, MissingDependency
from metascale.core.streams import address, generator
from metascale.study import RunStore, Study, read_study
from metascale.study.content import base_identity
from metascale.study.run.session import Event, StudyOutcome
from metascale.study.search import run as running
from metascale.study.search import samplers
from metascale.study.search import search as searching
from metascale.study.search.run import run_any_study, run_tuned_study, search_trial
from metascale.study.search.search import (
    Search,
    Tried,
)
from metascale.study.search.space import Choice, Integer, LogUniform, Uniform
from metascale.study.store.run import StoredRun
from metascale.study.store.seals import read_sealed

FUNCTION = "tests.study.tuning_trials:bowl"
CHOICES = {"rate": {"choice": [1, 2, 3, 4, 5, 6, 7, 8]}}


def study(axes: Mapping[str, Any] | None = None, extra: Any = (), seeds: Any = (0, 1), **search: Any) -> Study:
    base = {"rate": 3, "width": 2, "tune": {"space": CHOICES, "prune": False, **search}}
    return Study("s", FUNCTION, base, axes or {}, seeds, extra)


class Runs:
    """Stands for `run_study`: ends every trial that waits by ``loss`` of its rate, and notes what it was asked.

    A loss of None leaves the trial waiting, "failed" and "diverged" end it so, and "killed" as one killed again and
    again.
    """

    def __init__(self, loss: Callable[[Any], Any] = float, **changes: Any) -> None:
        self.loss, self.changes = loss, changes
        self.calls: list[Any] = []

    def __call__(self, study: Study, folder: Path, executor: Any = None, **options: Any) -> StudyOutcome:
        self.calls.append(SimpleNamespace(study=study, executor=executor, **options))
        store = RunStore.create(folder, study)
        ran = 0
        for trial in study.trials():
            row = store.index.row(trial.id)
            assert row is not None
            if row.status in ("finished", "diverged") or (row.status == "failed" and not options["retry_failed"]):
                continue
            ending = self.loss(trial.config["rate"])
            if ending is None:
                continue
            ran += 1
            claim = store.claim(trial, "runner")
            assert claim is not None
            run = StoredRun(store.run_view(trial).folder, claim)
            if ending in ("failed", "killed"):
                run.fail("no\n", **({"killed": True} if ending == "killed" else {}))
            elif ending == "diverged":
                run.diverge(Diverged("inf", step=1))
            else:
                run.finish({"validation_loss_nats": float(ending), "loss": float(ending)})
            store.settle(trial, claim, 1.0)
        statuses = [store.run_view(trial).status for trial in study.trials()]
        store.close()
        counts = {name: statuses.count(name) for name in ("finished", "failed", "diverged", "pending")}
        found = StudyOutcome(folder, len(statuses), **counts, ran=ran, skipped=len(statuses) - ran, wall_s=2.0)
        return replace(found, **self.changes)


class Told:
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def begin(self, folder: Path, total: int, done: int) -> None:
        self.heard.append((total, done))

    def event(self, event: Event) -> None:
        self.heard.append(event)

    def end(self, outcome: StudyOutcome | None) -> None:
        self.heard.append(outcome)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Runs]:
    def use(*given: Any, **changes: Any) -> Runs:
        found = Runs(*given, **changes)
        monkeypatch.setattr(running, "run_study", found)
        return found

    return use


# ------------------------------------------------------------------------------- rounds


def test_a_search_in_rounds_and_then_the_trials_of_the_axes(tmp_path: Path, runs: Any, monkeypatch: Any) -> None:
    """Six trials of which four are suggested together: rounds of 4 and 2, each at two points; then 2 points x 2 seeds
    and a baseline. All are spread by the sequence of a start."""
    ran, told, opened = runs(), Told(), []
    executor = SimpleNamespace(check=lambda: opened.append("checked"))
    asked = study({"width": [1, 2]}, [{"kind": "baseline", "rate": 9}], trials=6, together=4, startup=6)
    options = {"opened": lambda: opened.append("opened"), "reporter": told, "facts": {"a": 1}, "retry_failed": False}
    outcome = run_any_study(asked, tmp_path, executor, **options)
    assert opened == ["checked", "opened"]
    assert [len(call.study.trials()) for call in ran.calls] == [8, 12, 6]
    assert [call.retry_failed for call in ran.calls] == [False, False, False]
    assert all((call.executor, call.facts, call.stop_seen) == (executor, {"a": 1}, "") for call in ran.calls)
    first, second, last = ran.calls
    assert last.reporter is told
    assert first.reporter == second.reporter == running._Rounds(told)
    for number, event in enumerate((Event("started", "x"), Event("finished", "x"))):
        first.reporter.begin(tmp_path, 8, number)
        first.reporter.event(event)
    first.reporter.end(outcome)
    assert told.heard == [(8, 0), Event("started", "x"), (8, 1), Event("finished", "x"), None]
    tuning = second.study.trials()
    assert [trial.axes["width"] for trial in tuning] == [1] * 6 + [2] * 6
    assert [trial.label for trial in tuning[5:7]] == ["tuning-width=1-005", "tuning-width=2-000"]
    assert tuning[0].axes == {"width": 1, "rate": 3, "kind": "tuning"}, "the first values are the default"
    assert {trial.seed for trial in tuning} == {0}
    best = [min(trial.axes["rate"] for trial in tuning if trial.axes["width"] == width) for width in (1, 2)]
    finals = last.study.trials()
    assert [(trial.axes.get("width"), trial.axes["rate"], trial.seed, trial.kind) for trial in finals] == [
        (1, best[0], 0, "trial"), (1, best[0], 1, "trial"), (2, best[1], 0, "trial"), (2, best[1], 1, "trial"),
        (None, 9, 0, "baseline"), (None, 9, 1, "baseline"),
    ]  # fmt: skip
    assert read_sealed(tmp_path / "finals.json")["ids"] == [trial.id for trial in finals[:4]]
    assert (outcome.total, outcome.finished, outcome.ran, outcome.wall_s) == (18, 18, 18, 6.0)
    again = runs()
    assert run_tuned_study(asked, tmp_path, executor).ran == 0
    assert [len(call.study.trials()) for call in again.calls] == [6], "nothing is left to search"
    assert opened == ["checked", "opened"], "a study that is there needs no check before it"
    assert again.calls[0].retry_failed is True


def test_a_study_without_a_search_is_run_as_it_is(tmp_path: Path, runs: Any) -> None:
    ran, opened = runs(), []
    plain = Study("s", FUNCTION, {"rate": 1}, {}, (0,))
    run_any_study(plain, tmp_path / "a", "executor", retry_failed=True, facts={"a": 1})  # type: ignore[arg-type]
    assert (ran.calls[0].study, ran.calls[0].executor, ran.calls[0].facts) == (plain, "executor", {"a": 1})
    run_any_study(plain, tmp_path / "b", opened=lambda: opened.append((tmp_path / "b" / "study.json").exists()),
                  retry_failed=True)  # fmt: skip
    assert opened == [True]
    with pytest.raises(InputError, match=r"^study 's' has no search: its base needs the key 'tune'$"):
        run_tuned_study(plain, tmp_path / "c")


@pytest.mark.parametrize(
    ("loss", "changes", "options", "n_calls", "ends"),
    [
        (lambda rate: None, {}, {}, 1, True),  # trials are left waiting
        (float, {"stopped": True}, {}, 1, True),
        (lambda rate: "failed" if rate == 3 else rate, {}, {"fail_fast": True}, 1, True),
        (lambda rate: "failed" if rate == 3 else rate, {}, {"fail_fast": False}, 3, False),
        (lambda rate: "killed" if rate == 3 else rate, {}, {}, 1, True),
    ],
)
def test_where_a_search_ends_before_the_trials_of_the_axes(
    loss: Any, changes: Any, options: Any, n_calls: int, ends: bool, tmp_path: Path, runs: Any
) -> None:
    ran, told = runs(loss, **changes), Told()
    outcome = run_tuned_study(study(trials=6, seeds=(0,)), tmp_path, reporter=told, **options)
    assert len(ran.calls) == n_calls
    assert (tmp_path / "finals.json").exists() is not ends
    assert told.heard == ([outcome] if ends else [])


def test_failures_of_a_round_are_tried_again_by_the_next_call_alone(tmp_path: Path, runs: Any) -> None:
    ran = runs(lambda rate: "failed" if rate == 3 else rate)
    asked = study(trials=6, seeds=(0,))
    first = run_tuned_study(asked, tmp_path)
    assert [call.retry_failed for call in ran.calls] == [True, False, True]
    assert (first.failed, first.finished) == (1, 6)
    ran = runs(lambda rate: "failed" if rate == 3 else rate)
    run_tuned_study(asked, tmp_path, retry_failed=False)
    assert [len(call.study.trials()) for call in ran.calls] == [1]
    ran = runs()
    run_tuned_study(asked, tmp_path)
    assert [(len(call.study.trials()), call.retry_failed) for call in ran.calls] == [(6, True), (1, True)]


def test_a_search_with_nothing_left_to_run_counts_how_it_stands(tmp_path: Path) -> None:
    statuses = ["finished", "failed", "diverged", "failed", "finished", "finished", "damaged"]
    assert running._standing(tmp_path, statuses) == StudyOutcome(tmp_path, 7, 3, 2, 1, 0, 0, 7, 0.0)


def test_optuna_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setitem(sys.modules, "optuna.samplers", None)
    search = Search({"a": Uniform(0.0, 9.0)}, sampler="Own")
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: running._estimated({}, [], 0), "a search for hyperparameters"),
        (lambda: samplers.suggestion(search, [], "there", {}), "a sampler of a search"),
        (lambda: samplers.build("TPESampler", 0), "a sampler of a search"),
    ]
    for call, said in calls:
        with pytest.raises(
            MissingDependency, match=rf"^{said} needs the package 'optuna.*pip install 'metascale\[tune\]'$"
        ):
            call()


def test_a_damaged_trial_ends_the_search_and_is_named(tmp_path: Path, runs: Any) -> None:
    runs()
    run_tuned_study(study(trials=4, seeds=(0,)), tmp_path)
    tuning = [run for run in read_study(tmp_path).runs if run.trial.kind == "tuning"]
    (tuning[1].folder / "config.json").write_text("{}")
    ran, told = runs(), Told()
    outcome = run_tuned_study(study(trials=8, seeds=(0,)), tmp_path, reporter=told)
    assert (ran.calls, told.heard) == ([], [outcome])
    assert (outcome.total, outcome.finished, outcome.failed, outcome.pending, outcome.skipped) == (4, 3, 0, 0, 4)
    (damage,) = outcome.damaged
    assert damage.startswith("tuning-001: ")


@pytest.mark.parametrize(("axes", "where"), [({}, "the base"), ({"width": [1]}, "{'width': 1}")])
def test_a_point_at_which_nothing_was_found_is_named(axes: Any, where: str, tmp_path: Path, runs: Any) -> None:
    runs(lambda rate: "diverged")
    with pytest.raises(InputError) as caught:
        run_tuned_study(study(axes, trials=2), tmp_path)
    assert str(caught.value) == (
        f"every trial of the search at {where} failed or diverged; see their messages in results.csv, and give 'rate' "
        "other ranges in a new folder"
    )


# ------------------------------------------------------------------------------- what is suggested


def radical_inverse(number: int, base: int) -> float:
    found, share = 0.0, 1.0 / base
    while number:
        found += share * (number % base)
        number, share = number // base, share / base
    return found


def test_the_start_is_a_halton_sequence_shifted_around_the_torus() -> None:
    space = {"a": Uniform(0.0, 1.0), "b": Uniform(10.0, 20.0)}
    shift = generator(3, "there", "startup").random(2)
    for place in (0, 1, 6):
        shares = [(radical_inverse(place + 1, base) + more) % 1.0 for base, more in zip((2, 3), shift, strict=True)]
        assert running._spread(space, place, 3, "there") == pytest.approx({"a": shares[0], "b": 10 + 10 * shares[1]})


def asked(
    search: Search, tried: list[Tried], monkeypatch: Any, default: Any, estimated: Any = ()
) -> tuple[Any, list[Any]]:
    """What is suggested, and the places of the sequence or seeds of the estimator that were asked for."""
    calls: list[Any] = []
    answers = list(estimated)

    def spread(space: Any, place: int, seed: int, purpose: str) -> dict[str, Any]:
        calls.append((place, seed, purpose))
        return {"rate": place % 3 + 1}

    def estimate(space: Any, tried: Any, seed: int) -> dict[str, Any]:
        calls.append(seed)
        return answers.pop(0) if answers else {"rate": 1}

    monkeypatch.setattr(running, "_spread", spread)
    monkeypatch.setattr(running, "_estimated", estimate)
    return running._suggest(search, tried, "there", default), calls


def test_what_is_suggested_is_the_default_then_the_sequence_then_the_estimator(monkeypatch: pytest.MonkeyPatch) -> None:
    search = Search({"rate": Integer(1, 4)}, startup=2, seed=7)
    one, two, three = (Tried({"rate": k}, 1.0, "finished") for k in (1, 2, 3))
    assert asked(search, [], monkeypatch, {"rate": 4, "other": 1}) == ({"rate": 4}, [])
    assert asked(search, [], monkeypatch, {"rate": 5}) == ({"rate": 1}, [(0, 7, "there")])
    assert asked(search, [], monkeypatch, {}) == ({"rate": 1}, [(0, 7, "there")])
    # Place 1 gives 2, which is known; with every attempt the place moves on by the length of the start.
    assert asked(search, [two], monkeypatch, {"rate": 4}) == ({"rate": 1}, [(1, 7, "there"), (3, 7, "there")])
    seeds = [address(7, "there", 2, attempt) % 2**32 for attempt in range(16)]
    assert asked(search, [one, two], monkeypatch, {}, [{"rate": 2}, {"rate": 4}]) == ({"rate": 4}, seeds[:2])
    # Sixteen attempts that repeat themselves: a finite space has 4 left.
    seeds = [address(7, "there", 3, attempt) % 2**32 for attempt in range(16)]
    assert asked(search, [one, two, three], monkeypatch, {}) == ({"rate": 4}, seeds)
    four = Tried({"rate": 4}, None, "failed")
    assert asked(search, [one, two, three, four], monkeypatch, {})[0] is None
    endless = Search({"rate": Uniform(1, 4)}, startup=1)
    assert asked(endless, [one], monkeypatch, {})[0] is None


def test_an_untried_point_is_drawn_among_those_that_are_left() -> None:
    space = {"a": Integer(1, 2), "b": Choice(("x", "y"))}
    points = [{"a": a, "b": b} for a in (1, 2) for b in "xy"]
    known = {canonical_json(points[1])}
    left = [points[0], points[2], points[3]]
    draw = int(generator(5, "there", "untried", 1).integers(3))
    assert running._untried(space, known, 5, "there") == left[draw]
    assert running._untried(space, {canonical_json(one) for one in points}, 5, "there") is None
    assert running._untried({**space, "c": Uniform(0, 1)}, set(), 5, "there") is None
    assert running._untried({"a": Integer(1, 100_001)}, set(), 5, "there") is None


class States:
    COMPLETE, RUNNING, PRUNED, FAIL = "complete", "running", "pruned", "fail"


class Optuna:
    """What is asked of Optuna; trials are the values that ``suggests`` gives, in order."""

    def __init__(self, *suggests: Mapping[str, Any]) -> None:
        self.suggests = list(suggests)
        self.did: list[Any] = []
        self.level = 20
        self.logging = SimpleNamespace(
            get_verbosity=lambda: self.level, set_verbosity=self._set, WARNING=30, ERROR=40
        )  # fmt: skip
        self.trial = SimpleNamespace(TrialState=States, create_trial=lambda **fields: fields)
        self.samplers = SimpleNamespace(TPESampler=lambda **options: options)
        self.pruners = SimpleNamespace(NopPruner=lambda: "no pruner")
        self.distributions = SimpleNamespace(
            FloatDistribution=lambda low, high, log: ("float", low, high, log),
            IntDistribution=lambda low, high: ("int", low, high),
            CategoricalDistribution=lambda values: ("choice", values),
        )

    def _set(self, level: int) -> None:
        self.level = level
        self.did.append(("verbosity", level))

    def create_study(self, **options: Any) -> Optuna:
        self.did.append(("study", options))
        return self

    def add_trial(self, fields: Any) -> None:
        self.did.append(("add", fields))

    def enqueue_trial(self, values: Any) -> None:
        self.did.append(("enqueue", values))

    def ask(self, fixed_distributions: Any) -> Any:
        self.did.append(("ask", fixed_distributions))
        number = sum(one[0] == "ask" for one in self.did)
        report = lambda loss, step: self.did.append(("report", number, loss, step))
        return SimpleNamespace(number=number, params=self.suggests.pop(0), report=report)

    def tell(self, trial: Any, value: Any = None, state: Any = None) -> None:
        self.did.append(("tell", trial.number, value, state))


def test_the_estimator_is_told_losses_and_what_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    optuna = Optuna({"a": 2.5, "b": 3, "c": "y"})
    monkeypatch.setattr(running, "require", lambda *names: optuna)
    space = {"a": LogUniform(1.0, 9.0), "b": Integer(1, 4), "c": Choice(("x", "y"))}
    values = {"a": 1.0, "b": 2, "c": "x"}
    tried = [
        Tried(values, 0.5, "finished"), Tried(values, None, "running"), Tried(values, 0.1, "pruned"),
        Tried(values, None, "failed"), Tried(values, None, "finished"),
    ]  # fmt: skip
    assert running._estimated(space, tried, 11) == {"a": 2.5, "b": 3, "c": "y"}
    ranges = {"a": ("float", 1.0, 9.0, True), "b": ("int", 1, 4), "c": ("choice", ("x", "y"))}
    states = [("complete", 0.5), ("running", None), ("pruned", None), ("pruned", None), ("pruned", None)]
    sampler = {"seed": 11, "n_startup_trials": 0, "multivariate": True, "constant_liar": True}
    assert optuna.did == [
        ("verbosity", 30), ("study", {"sampler": sampler}),
        *(("add", {"params": values, "distributions": ranges, "state": one, "value": loss}) for one, loss in states),
        ("ask", ranges), ("verbosity", 20),
    ]  # fmt: skip
    optuna.suggests = []
    with pytest.raises(IndexError):
        running._estimated(space, [], 11)
    assert optuna.level == 20


def test_a_trial_of_a_search_by_its_number_values_and_thresholds() -> None:
    asked = study({"width": [1]}, together=2, prune={"n_before": 1, "rungs": 1})
    search = searching.search_of(asked)
    assert search is not None
    curve = ((0.0, 3.0), (1.0, 2.0), (2.0, 1.0))
    found = search_trial(
        asked, search, {"width": 1, "opt.arm": "a b/c"}, [Tried({}, 1.0, "finished", curve)], 12, {"rate": 5}
    )
    assert found.axes == {"width": 1, "opt.arm": "a b/c", "rate": 5, "kind": "tuning", "prune_above": [[1.0, 2.0]]}
    assert (found.label, found.kind, found.seed) == ("tuning-width=1-arm=a_b_c-012", "tuning", 0)
    assert search_trial(asked, search, {}, [], 3, {"rate": 5}).label == "tuning-003"
    assert "prune_above" not in search_trial(asked, search, {}, [], 3, {"rate": 5}).axes
    long = search_trial(asked, search, {"width": "x" * 200}, [], 3, {"rate": 5}).label
    assert long == f"tuning-width={'x' * 74}-003"


def test_a_round_has_as_many_as_are_left_and_each_knows_the_ones_before(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = study({"width": [1]}, trials=5, together=3)
    search = searching.search_of(asked)
    assert search is not None
    seen: list[Any] = []
    answers: list[Any] = [{"rate": k} for k in range(1, 9)]

    def suggest(search: Any, tried: Any, purpose: str, default: Any) -> Any:
        seen.append((list(tried), purpose, default["width"], default["tune.trials"]))
        return answers.pop(0)

    monkeypatch.setattr(running, "_suggest", suggest)
    purpose = content_id([FUNCTION, base_identity(asked.base), {"width": 1}])
    ended = [Tried({"rate": 8}, 1.0, "finished")]
    new = running._round(asked, search, {"width": 1}, ended)
    assert [(trial.axes["rate"], trial.label[-3:]) for trial in new] == [(1, "001"), (2, "002"), (3, "003")]
    going = [Tried({"rate": k}, None, "running") for k in (1, 2)]
    assert [one[0] for one in seen] == [ended, [*ended, going[0]], [*ended, *going]]
    assert {one[1:] for one in seen} == {(purpose, 1, 5)}
    assert len(running._round(asked, search, {"width": 1}, ended * 4)) == 1
    assert running._round(asked, search, {"width": 1}, ended * 5) == []
    answers[:] = [{"rate": 1}, None, {"rate": 2}]
    assert len(running._round(asked, search, {"width": 1}, [])) == 1, "the space is used up"


# ------------------------------------------------------------------------------- own samplers


def played(monkeypatch: Any, optuna: Optuna, tried: list[Tried], default: Any, **search: Any) -> Any:
    monkeypatch.setattr(samplers, "require", lambda *names: optuna)
    monkeypatch.setattr(samplers, "build", lambda sampler, seed: (sampler, seed))
    asked = Search({"a": Uniform(0.0, 9.0)}, sampler="Own", seed=3, **{"trials": 4, "together": 2, **search})
    return samplers.suggestion(asked, tried, "there", default)


RANGE = {"a": ("float", 0.0, 9.0, False)}
ASK = ("ask", RANGE)


def test_a_search_is_played_to_a_fresh_sampler_in_its_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of two: after the first two trials were asked for, both are told, and so on."""
    optuna = Optuna(*({"a": float(k)} for k in (1, 2, 3, 4, 5)))
    tried = [
        Tried({"a": 1.0}, 0.5, "finished"), Tried({"a": 2.0}, 0.7, "pruned", ((1, 0.9), (2, 0.7))),
        Tried({"a": 3.0}, None, "diverged"), Tried({"a": 4.0}, None, "finished"),
    ]  # fmt: skip
    assert played(monkeypatch, optuna, tried, {"a": 1.0}) == {"a": 5.0}
    seed = address(3, "there", "sampler", 0) % 2**32
    assert optuna.did == [
        ("verbosity", 40), ("study", {"sampler": ("Own", seed), "pruner": "no pruner"}), ("enqueue", {"a": 1.0}),
        ASK, ASK, ("tell", 1, 0.5, None), ("report", 2, 0.7, 2), ("tell", 2, None, "pruned"),
        ASK, ASK, ("tell", 3, None, "fail"), ("tell", 4, None, "fail"),
        ASK, ("verbosity", 20),
    ]  # fmt: skip
    optuna = Optuna({"a": 7.0})
    assert played(monkeypatch, optuna, [], {"a": 10.0}) == {"a": 7.0}
    assert [one[0] for one in optuna.did] == ["verbosity", "study", "ask", "verbosity"], "the default lies outside"
    pruned = Optuna({"a": 1.0}, {"a": 2.0})
    played(monkeypatch, pruned, [Tried({"a": 1.0}, 0.7, "pruned")], {}, together=1)
    assert ("report", 1, 0.7, 1) in pruned.did
    unknown = Optuna({"a": 1.0}, {"a": 2.0})
    played(monkeypatch, unknown, [Tried({"a": 1.0}, None, "pruned")], {}, together=1)
    assert ("tell", 1, None, "fail") in unknown.did


def test_values_that_come_again_have_failed_and_sixteen_of_them_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"a": 1.0}
    optuna = Optuna(one, one, {"a": 2.0})
    assert played(monkeypatch, optuna, [Tried(one, 0.5, "finished")], {}) == {"a": 2.0}
    assert [entry for entry in optuna.did if entry[0] == "tell"] == [("tell", 2, None, "fail")]
    optuna = Optuna(one, *[one] * 15, {"a": 2.0})
    assert played(monkeypatch, optuna, [Tried(one, 0.5, "finished")], {}) == {"a": 2.0}
    optuna = Optuna(one, *[one] * 16, {"a": 2.0})
    assert played(monkeypatch, optuna, [Tried(one, 0.5, "finished")], {}) is None
    assert optuna.level == 20


def test_a_sampler_that_does_not_repeat_itself_is_refused_with_what_it_suggested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optuna = Optuna({"a": 1.0}, {"a": 3.0})
    with pytest.raises(InputError) as caught:
        played(monkeypatch, optuna, [Tried({"a": 1.0}, 0.5, "finished"), Tried({"a": 2.0}, 0.5, "finished")], {})
    assert str(caught.value) == (
        "the sampler 'Own' does not suggest again what it suggested before (trial 1: {'a': 3.0}, not {'a': 2.0}): give "
        "it a seed, and the same version of Optuna"
    )
    assert (caught.value.field, optuna.level) == ("sampler", 20)


class Sampler:
    """A sampler by its one method."""

    def __init__(self, seed: int = 0, **options: Any) -> None:
        if "bad" in options:
            raise ValueError("no bad")
        self.seed, self.options = seed, options

    def sample_relative(self) -> None: ...


def unseeded(**options: Any) -> Sampler:
    return Sampler(5, **options)


def no_sampler() -> int:
    return 3


def test_samplers_by_name_path_and_object(monkeypatch: pytest.MonkeyPatch) -> None:
    here = __name__
    assert samplers.named("X") == "X"
    assert samplers.named({"X": {"a": 1}}) == {"X": {"a": 1}}
    given = Sampler(9)
    name = samplers.named(given)
    assert name == f"object {here}.Sampler"
    first, second = samplers.build(name, 1), samplers.build(name, 1)
    assert (first.seed, first is given, first is second) == (9, False, False)
    for wrong in ("", 3, {"X": 1}, {"X": {}, "Y": {}}, {}, object()):
        with pytest.raises(
            InputError, match=r"^the sampler of a search is a name of optuna.samplers, \{name"
        ) as caught:
            samplers.named(wrong)
        assert caught.value.field == "sampler"
    monkeypatch.setattr(samplers, "_OBJECTS", {})
    with pytest.raises(InputError, match=rf"with a sampler of the class {here}.Sampler, and an object") as caught:
        samplers.build(name, 1)
    assert caught.value.field == "sampler"
    assert samplers.build(f"{here}:Sampler", 4).seed == 4
    found = samplers.build({f"{here}:Sampler": {"seed": 8, "x": 1}}, 4)
    assert (found.seed, found.options) == (8, {"x": 1})
    assert samplers.build({f"{here}:unseeded": {"x": 1}}, 4).seed == 5
    for asked, words in (
        ({f"{here}:Sampler": {"bad": 1}}, f"^the sampler '{here}:Sampler' of a search cannot be made: no bad$"),
        (f"{here}:no_sampler", f"^'{here}:no_sampler' made a int, which is no sampler of Optuna$"),
        ({f"{here}:no_sampler": {"x": 1}}, "of a search cannot be made: "),
    ):
        with pytest.raises(InputError, match=words) as caught:
            samplers.build(asked, 4)
        assert caught.value.field == "sampler"
    with pytest.raises(InputError, match=r"^the sampler 'nowhere:x' of a search: there is no module 'nowhere'$"):
        samplers.build("nowhere:x", 4)


def test_samplers_of_optuna_are_those_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(__all__=["BaseSampler", "OwnSampler", "intersection"], OwnSampler=Sampler)
    monkeypatch.setattr(samplers, "require", lambda *names: module)
    assert samplers.build("OwnSampler", 4).seed == 4
    for name in ("BaseSampler", "intersection", "OwnSample"):
        with pytest.raises(InputError, match=rf"^there is no sampler '{name}'; ") as caught:
            samplers.build(name, 4)
        assert (caught.value.field, caught.value.value) == ("sampler", name)


def test_a_search_by_its_own_sampler_has_whole_rounds() -> None:
    Search({"a": Uniform(0, 1)}, trials=6, together=3, sampler="X")
    Search({"a": Uniform(0, 1)}, trials=7, together=3)
    with pytest.raises(InputError, match=r"takes a multiple of 3 trials \(`together`\), not 7$") as caught:
        Search({"a": Uniform(0, 1)}, trials=7, together=3, sampler="X")
    assert (caught.value.field, caught.value.value) == ("trials", 7)
    asked = Search({"a": Uniform(0, 1)}, sampler="X")
    assert asked.to_json()["sampler"] == "X"
