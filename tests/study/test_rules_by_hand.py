"""Sizes, rules and results of searches, and designs and definitions of studies, against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metascale.core.columns import STUDY_JSON
from metascale.core.errors import InputError
from metascale.study import Study
from metascale.study.definition import Definition, load_definition, save_definition
from metascale.study.design import Trial, build_trial, load_function
from metascale.study.roles import Roles
from metascale.study.search import search as searching
from metascale.study.search.search import (
    Pruning,
    Search,
    SearchResult,
    Tried,
    axis_points,
    search_of,
    searched_points,
    tried_at,
    tuned_points,
    values_at,
)
from metascale.study.search.space import Integer, LogUniform, Uniform
from metascale.study.store.folder import StudyView
from metascale.study.store.records import format_cell, parse_cell
from metascale.study.store.seals import sealed

SPACE = {"rate": {"log": [1e-3, 1.0]}, "drop": {"uniform": [0.0, 0.5]}, "depth": {"integer": [1, 9]}}


def study(axes: Mapping[str, Any], search_trials: int | None = None, **search: Any) -> Study:
    return Study("s", "tests.study.tuning_trials:bowl", {"w": 3, "tune": {"space": SPACE, **search}}, axes, (0,),
                 search_trials=search_trials)  # fmt: skip


def found(point: Mapping[str, Any], rate: float, drop: float = 0.1, depth: int = 2) -> SearchResult:
    return SearchResult(point, {"rate": rate, "drop": drop, "depth": depth}, 1.0, (), {})


def area(config: Mapping[str, Any]) -> float:
    """A measured size: three times the product, so that it is no axis."""
    return float(config["w"] * config["h"])


AREA = f"{__name__}:area"
AXES = {"arm": ["a", "b"], "n": [8, 2, 4, 1]}


def at(axes: Mapping[str, Any], **search: Any) -> list[Any]:
    asked = study(axes, **search)
    own = search_of(asked)
    assert own is not None
    return [tuple(point.values()) for point in searched_points(asked, own)]


def test_the_points_that_a_strategy_visits() -> None:
    """A rule visits the smallest sizes of an axis, and of a measured size those nearest to an even spread, on the
    logarithm, over its smaller half: of 1 to 256 that is 1 to 16, with three sizes 1, 4 and 16."""
    assert at(AXES) == [(arm, n) for arm in "ab" for n in (8, 2, 4, 1)]
    assert at(AXES, strategy="smallest", size="n") == [("a", 1), ("b", 1)]
    assert at(AXES, strategy="rule", size="n", rule_points=2) == [("a", 2), ("a", 1), ("b", 2), ("b", 1)]
    assert at(AXES, strategy="rule", size="n") == [(arm, n) for arm in "ab" for n in (2, 4, 1)]
    sides = {"w": [16, 4, 1], "h": [1, 2, 16]}
    measured = {"size": AREA, "along": ["w", "h"]}
    assert at(sides, strategy="smallest", **measured) == [(1, 1)]
    # Sizes: 16, 32, 256, 4, 8, 64, 1, 2, 16: the first of equal sizes is 16 x 1.
    assert at(sides, strategy="rule", **measured) == [(16, 1), (4, 1), (1, 1)]
    assert at(sides, strategy="rule", rule_points=2, **measured) == [(16, 1), (1, 1)]
    assert at({"arm": [1, 2], "w": [1, 2], "h": [1]}, strategy="smallest", **measured) == [(1, 1, 1), (2, 1, 1)]
    # Another axis of numbers is searched separately, where the size does not stand for it.
    assert at({"w": [1, 2, 9], "h": [1, 2]}, strategy="smallest", size=AREA, along=["w"]) == [(1, 1), (1, 2)]


def test_sizes_nearest_to_an_even_spread() -> None:
    assert searching._spread([1, 10, 100, 1000, 10_000], 3) == [1, 10, 100]
    assert searching._spread([10_000, 1, 3, 1000, 100], 2) == [1, 100]
    assert searching._spread([5, 7], 1) == [5]
    # 1, 4 and 16 are wanted; what is taken is not taken again.
    assert searching._spread([1, 2, 256], 3) == [1, 2, 256]


@pytest.mark.parametrize(
    ("axes", "search", "words"),
    [
        ({"rate": [1, 2]}, {}, "^'rate' is an axis of study 's': it cannot be tuned as well$"),
        ({"n": ["a", "b"]}, {"strategy": "smallest", "size": "n"},
         r"^strategy 'smallest' needs 'size': an axis with numbers; the axes are \['n'\]$"),
        ({"n": [True, 2]}, {"strategy": "smallest", "size": "n"}, "needs 'size': an axis with numbers"),
        ({"n": [1, 2]}, {"strategy": "rule"}, "^strategy 'rule' needs 'size': an axis with numbers"),
        ({"n": [1, 2]}, {"strategy": "rule", "size": "n"}, "^a rule over 3 sizes needs as many; axis 'n' has 2$"),
        ({"n": [0, 1, 2]}, {"strategy": "rule", "size": "n"},
         "^a rule over sizes needs numbers above 0; axis 'n' has 0$"),
        ({"n": [1, 2]}, {"strategy": "smallest", "size": AREA}, "needs 'along': the axes that its size stands for;"),
        ({"w": [1, 2]}, {"strategy": "smallest", "size": AREA, "along": ["w", "h"]}, "needs 'along': the axes"),
        ({"w": [1, 1.0], "h": [1]}, {"strategy": "rule", "rule_points": 2, "size": AREA, "along": ["w", "h"]},
         "^a rule over 2 sizes needs as many; '.*:area' has 1$"),
        ({"w": [0, 1], "h": [1]}, {"strategy": "smallest", "size": AREA, "along": ["w", "h"]},
         r"^'.*:area' returned 0.0 for \{'w': 0, 'h': 1\}: a size is a number above 0$"),
        ({"w": [0, 1]}, {"strategy": "smallest", "size": "nowhere:x", "along": ["w"]},
         "^the size 'nowhere:x' of a search: there is no module 'nowhere'$"),
    ],
)  # fmt: skip
def test_points_that_cannot_be_are_refused(axes: Any, search: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        at(axes, **search)


def test_a_size_of_an_axis_may_be_0_where_the_smallest_alone_is_searched() -> None:
    assert at({"n": [2, 0]}, strategy="smallest", size="n") == [(0,)]
    assert at({"n": [1e-9, 2, 3.5]}, strategy="rule", size="n", rule_points=2) == [(1e-9,), (2,)]


def test_values_by_strategy() -> None:
    """A rate of 0.1 · n^-0.5 and a dropout that grows by 0.1 a decade, from sizes 1 and 100, clipped to their ranges;
    a whole number is that of the largest searched size."""
    axes = {"arm": ["a", "b"], "n": [1, 100, 10_000, 1_000_000]}
    asked = study(axes, strategy="rule", size="n", rule_points=2)
    own = search_of(asked)
    assert own is not None
    known = [
        found({"arm": "a", "n": 100}, 0.01, 0.3, 7), found({"arm": "b", "n": 1}, 0.5), found({"arm": "a", "n": 1}, 0.1),
        found({"arm": "b", "n": 100}, 0.5),
    ]  # fmt: skip
    for n, expected in (
        (1, {"rate": 0.1, "drop": 0.1, "depth": 7}), (100, {"rate": 0.01, "drop": 0.3, "depth": 7}),
        (10_000, {"rate": 0.001, "drop": 0.5, "depth": 7}), (1_000_000, {"rate": 0.001, "drop": 0.5, "depth": 7}),
    ):  # fmt: skip
        assert values_at(asked, own, known, {"arm": "a", "n": n}) == expected
    assert values_at(asked, own, known, {"arm": "b", "n": 10_000}) == {"rate": 0.5, "drop": 0.1, "depth": 2}
    smallest = replace(own, strategy="smallest")
    assert values_at(asked, smallest, known, {"arm": "a", "n": 10_000}) == known[2].values
    each = replace(own, strategy="each")
    assert values_at(asked, each, known, {"arm": "a", "n": 100}) == known[0].values
    with pytest.raises(StopIteration):
        values_at(asked, each, known, {"arm": "a", "n": 10_000})


def test_a_rule_is_least_squares_on_the_logarithm_of_the_size() -> None:
    """Through (0, 1), (1, 2) and (2, 6): slope 5/2, intercept 3 - 5/2 = 1/2."""
    sizes = [1.0, math.e, math.e**2]
    assert searching._line(sizes, [1.0, 2.0, 6.0]) == pytest.approx((0.5, 2.5))
    line, log = Uniform(0.0, 100.0), LogUniform(1e-9, 1e9)
    assert searching._ruled(line, sizes, [1.0, 2.0, 6.0], math.e**4) == pytest.approx(10.5)
    powers = [math.exp(value) for value in (1.0, 2.0, 6.0)]
    assert searching._ruled(log, sizes, powers, math.e**4) == pytest.approx(math.exp(10.5), rel=1e-11)
    assert searching._ruled(Integer(1, 9), sizes, [1, 2, 6], 0.5) == 6
    assert searching._rounded(0.0029999999999999996) == 0.003
    assert searching._rounded(1.23456789012345) == 1.23456789012


def run(
    axes: Mapping[str, Any],
    status: str = "finished",
    result: Any = None,
    kind: str = "tuning",
    killed: bool = False,
    rows: Any = (),
) -> Any:
    asked: list[str] = []
    trial = Trial("id", "label", kind, 0, axes, {})
    return SimpleNamespace(trial=trial, status=status, result=lambda: result, was_killed=lambda: killed, asked=asked,
                           rows=lambda record: asked.append(record) or list(rows))  # fmt: skip


LOSS = "validation_loss_nats"


def test_what_was_tried_is_read_off_the_runs_of_a_point() -> None:
    own = Search({"rate": LogUniform(1, 9)}, pruning=Pruning("evals", "l", by="epoch"))
    rows = [{"epoch": 0.0, "l": 5.0}, {"epoch": 1.0, "l": 3.0}, {"epoch": 2.0, "l": 4.0}, {"epoch": 3.0, "l": None}]
    one = {"n": 1, "rate": 2.0}
    runs = [
        run(one, result={LOSS: 3, "x": 1}, rows=rows), run(one, result={LOSS: 4.0, "pruned_at_step": 2}),
        run({"n": 2, "rate": 3.0}, result={LOSS: 1.0}), run(one, kind="trial", result={LOSS: 1.0}), run(one, "pending"),
        run(one, "running"), run(one, "failed"), run(one, "failed", killed=True), run(one, "diverged"),
        run(one, "damaged"), run({"n": True, "rate": 2.0}, result={LOSS: 1.0}),
    ]  # fmt: skip
    view = StudyView(Path("f"), study({"n": [1, 2]}), tuple(runs))
    curve = ((0.0, 5.0), (1.0, 3.0), (2.0, 3.0))
    tried = tried_at(view, own, {"n": 1})
    expected = [("finished", 3.0, curve), ("pruned", 4.0, ()), ("running", None, ()), ("running", None, ()),
                ("failed", None, ()), ("running", None, ()), ("diverged", None, ()), ("failed", None, ())]  # fmt: skip
    assert [(each.status, each.loss, each.curve) for each in tried] == expected
    assert all(each.values == {"rate": 2.0} for each in tried)
    assert (runs[0].asked, isinstance(tried[0].loss, float)) == (["evals"], True)
    assert tried_at(view, replace(own, pruning=None), {"n": 1})[0].curve == ()
    assert [each.loss for each in tried_at(view, own, {"n": 2})] == [1.0]
    assert len(tried_at(view, own, {})) == 10
    for result in ({}, None, {LOSS: "1"}, {LOSS: True}):
        with pytest.raises(InputError, match=f"^trial 'label' has no number '{LOSS}', which the search minimises$"):
            tried_at(replace(view, runs=(run(one, result=result),)), own, {"n": 1})


def test_what_a_search_found_at_each_point() -> None:
    asked = study({"n": [1, 2, 3]}, prune=False)
    values = {"rate": 0.001, "drop": 0.2, "depth": 9}
    runs = (run({"n": 1, **values}, result={LOSS: 2.0}), run({"n": 1, **values, "depth": 3}, result={LOSS: 2.5}),
            run({"n": 3, **values}, "diverged"), run({"n": 2, **values, "depth": 2}, result={LOSS: 1.0}))  # fmt: skip
    view = StudyView(Path("f"), asked, runs)
    one, two = tuned_points(view)
    assert (one.point, one.values, one.loss, one.edges) == ({"n": 1}, values, 2.0, {"rate": "low", "depth": "high"})
    assert (two.point, two.edges) == ({"n": 2}, {"rate": "low"})
    assert one.curve("depth") == [(3, 2.5), (9, 2.0)]
    assert SearchResult.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert tuned_points(view, study({"n": [2]}, prune=False)) == (two,)
    assert tuned_points(view, Study("s", "a:b", {}, {}, (0,))) == ()


def test_a_search_that_was_asked_for_more_trials() -> None:
    asked = study({"n": [1, 2]}, search_trials=9, trials=4)
    own = search_of(asked)
    assert own is not None
    assert (own.trials, asked.base["tune"]["trials"]) == (9, 4)
    assert asked.asked_base == {"w": 3, "tune": {"space": SPACE, "trials": 9}}
    plain = Study("s", "a:b", {"x": 1}, {"n": [1, 2], "m": ["a", "b"]}, (0,), search_trials=9)
    assert (search_of(plain), plain.asked_base) == (None, {"x": 1})
    assert axis_points(plain) == [{"n": n, "m": m} for n in (1, 2) for m in "ab"]


def test_curves_mix_texts_and_numbers_and_leave_out_what_has_no_loss() -> None:
    tried = tuple(
        Tried({"x": value}, loss, "finished") for value, loss in (("b", 1.0), (2, 3.0), ("a", 2.0), (1, None))
    )
    assert SearchResult({}, {}, 1.0, tried, {}).curve("x") == [(2, 3.0), ("a", 2.0), ("b", 1.0)]


# ------------------------------------------------------------------------------- designs and definitions


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trial": "no path"}, "^the trial function of a study is an import path 'module:function', not 'no path'$"),
        ({"trial": "a.b:c d"}, "not 'a.b:c d'$"),
        ({"base": {"seed": 1}}, "^'seed' in a study's base is set by the study itself; use another key$"),
        ({"axes": {"trial": [1]}}, "^'trial' in a study's axes is set by the study itself"),
        ({"extra": [{"a": 1}, {"seed": 1}]}, "^'seed' in a study's extra is set by the study itself"),
        *(({"axes": {"a": values}}, "^axis 'a' of study 's' needs a list of at least one value$")
          for values in ([], "ab", b"ab", 3, {1, 2})),
        *(({"seeds": seeds}, "^the seeds of study 's' are a list of at least one integer of 0 or more, not ")
          for seeds in ([], "12", 3, [-1], [True], [1.0], b"1")),
        ({"extra": [{"seeds": [-1]}]}, "^the seeds of an extra configuration of study 's' are a list"),
        ({"axes": {"a": [1, 1]}}, "^study 's' asks twice for the same configuration: 'a=1-seed=0' and 'a=1-seed=0'$"),
        ({"base": {"a": 1}, "axes": {"a.b": [1]}}, "^the key 'a.b' goes through 'a', which is a single value$"),
    ],
)  # fmt: skip
def test_a_design_that_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    given = {"name": "s", "trial": "m:f", "base": {}, "axes": {}, "seeds": [0], **changes}
    with pytest.raises(InputError, match=words):
        Study(**given)
    with pytest.raises(TypeError):
        Study(name="s", trial="m:f", base={}, axes={}, seeds=[0], _trials=())


def test_trials_are_axes_times_seeds_and_extras_with_seeds_of_their_own() -> None:
    asked = Study("s", "m:f", {"x": {"y": 1, "z": 2}}, {"a": [1, 2], "x.y": [3, 4]}, (0, 5),
                  [{"kind": "baseline", "x": {"z": 9}}, {"a": 7, "seeds": [8]}])  # fmt: skip
    assert [(trial.label, trial.kind, trial.seed) for trial in asked.trials()] == [
        *((f"a={a}-y={y}-seed={seed}", "trial", seed) for a in (1, 2) for y in (3, 4) for seed in (0, 5)),
        ("kind=baseline-z=9-seed=0", "baseline", 0), ("kind=baseline-z=9-seed=5", "baseline", 5),
        ("a=7-seed=8", "extra", 8),
    ]  # fmt: skip
    first, *_, last = asked.trials()
    assert first.config == {"x": {"y": 3, "z": 2}, "a": 1, "seed": 0, "trial": "m:f"}
    assert last.config == {"x": {"y": 1, "z": 2}, "a": 7, "seed": 8, "trial": "m:f"}
    assert first.folder_name == f"{first.label}-{first.id}"
    assert [trial.label for trial in Study("s", "m:f", {}, {}, (3,)).trials()] == ["seed=3"]
    assert len(Study("s", "m:f", {}, {}, (3,), [{"a": 1}]).trials()) == 1, "with extras alone the extras are the study"
    named = build_trial("m:f", {"kind": 3}, {}, 0, "extra")
    assert (named.kind, build_trial("m:f", {}, {}, 0, "extra", label="mine").label) == ("extra", "mine")
    long = build_trial("m:f", {}, {"text": "a/b c" * 40, "deep.er": {"k": [1, 2]}}, 1, "trial").label
    assert long == f"text={'a_b_c' * 15}-seed=1"
    with pytest.raises(InputError, match=r"^the module 'json' has no function 'nothing'$"):
        load_function("json:nothing")
    with pytest.raises(InputError, match=r"^the module 'json' has no function '__name__'$"):
        load_function("json:__name__")
    assert load_function("json:loads") is json.loads  # type: ignore[comparison-overlap]


def defined(asked: Study) -> Definition:
    return Definition(asked, asked.trials())


def test_a_definition_is_stored_whole(tmp_path: Path) -> None:
    asked = study({"n": [2, 1], "m": ["a"]}, search_trials=9, trials=4)
    asked = replace(asked, roles=Roles(("n",), ("m",)), extra=({"z": 1, "a": 2},), seeds=(4, 2))
    given = replace(defined(asked), package_version="0.1")
    save_definition(tmp_path, given)
    stored = json.loads((tmp_path / STUDY_JSON).read_text())
    assert stored.keys() == {"format", "package_version", "name", "trial", "base", "axes", "seeds", "extra", "trials",
                             "roles", "search_trials", "space", "sha256"}  # fmt: skip
    assert (stored["format"], stored["axes"], stored["extra"]) == (
        2,
        [["n", [2, 1]], ["m", ["a"]]],
        [[["z", 1], ["a", 2]]],
    )
    first = asked.trials()[0]
    assert stored["trials"][0] == {"id": first.id, "label": first.label, "kind": "trial", "seed": 4,
                                   "axes": [["n", 2], ["m", "a"]]}  # fmt: skip
    back = load_definition(tmp_path)
    assert (back.study.search_trials, back.study.roles, back.package_version) == (9, asked.roles, "0.1")
    assert (back.trials, list(back.study.axes), tuple(back.study.seeds)) == (asked.trials(), ["n", "m"], (4, 2))
    save_definition(tmp_path, defined(Study("s", "m:f", {}, {}, (0,))))
    assert not {"roles", "search_trials"} & json.loads((tmp_path / STUDY_JSON).read_text()).keys()
    assert (load_definition(tmp_path).study.roles, load_definition(tmp_path).study.search_trials) == (None, None)


def test_the_ranges_of_a_search_keep_their_order(tmp_path: Path) -> None:
    """What is tried next depends on it, and JSON has the base with sorted keys."""
    ours = defined(study({"n": [1]}))
    save_definition(tmp_path, ours)

    def order(definition: Definition) -> list[str]:
        return list(definition.study.base["tune"]["space"])

    assert json.loads((tmp_path / STUDY_JSON).read_text())["space"] == ["rate", "drop", "depth"]
    assert order(load_definition(tmp_path)) == ["rate", "drop", "depth"]
    turned = {name: SPACE[name] for name in ("depth", "drop", "rate")}
    asked = Study("s", "m:f", {"w": 3, "tune": {"space": turned}}, {"n": [1]}, (0,))
    assert list(ours.rebased(asked).base["tune"]["space"]) == ["rate", "drop", "depth"]
    fewer = Study("s", "m:f", {"w": 3, "tune": {"space": {"drop": SPACE["drop"]}}}, {"n": [1]}, (0,))
    assert ours.rebased(fewer) is fewer
    save_definition(tmp_path, defined(fewer))
    assert "space" not in json.loads((tmp_path / STUDY_JSON).read_text())
    assert order(load_definition(tmp_path)) == ["drop"]
    # An earlier version left the order in the trials of the search alone.
    tried = build_trial(
        "m:f", asked.base, {"n": 1, "drop": 0.1, "rate": 0.5, "depth": 3, "kind": "tuning"}, 0, "tuning"
    )
    for trials, expected in (((*asked.trials(), tried), ["drop", "rate", "depth"]), (asked.trials(), sorted(SPACE))):
        save_definition(tmp_path, Definition(asked, trials))
        stored = json.loads((tmp_path / STUDY_JSON).read_text())
        del stored["space"]
        (tmp_path / STUDY_JSON).write_text(json.dumps(sealed(stored), sort_keys=True))
        assert order(load_definition(tmp_path)) == expected


def test_a_search_that_grows_keeps_the_base_that_it_began_with() -> None:
    ours = defined(study({"n": [1]}, trials=4))
    more = ours.rebased(study({"n": [1]}, trials=9))
    assert (more.base, more.search_trials) == (ours.study.base, 9)
    for other in (study({"n": [1]}, trials=4), study({"n": [1]}), Study("s", "m:f", {"tune": 3}, {}, (0,))):
        assert ours.rebased(other) is other
    assert defined(study({"n": [1]})).rebased(more) is more
    grown = ours.extended(study({"n": [1]}, trials=9))
    assert (grown.study.search_trials, grown.trials, grown.study.base) == (9, ours.trials, ours.study.base)
    assert grown.extended(study({"n": [1]}, trials=6)) is grown, "fewer forget none"
    assert grown.extended(study({"n": [1, 2]}, trials=6)).study.search_trials == 9
    assert grown.extended(study({"n": [1, 2]}, trials=12)).study.search_trials == 12


def test_what_a_command_leaves_out_stays_and_labels_stay() -> None:
    ours = defined(Study("s", "m:f", {"x": 1}, {"n": [1, 2]}, (0,)))
    kept = replace(ours, trials=tuple(replace(trial, label=f"old{k}") for k, trial in enumerate(ours.trials)))
    grown = kept.extended(Study("s", "m:f", {"x": 1}, {"n": [2, 3]}, (0,), roles=Roles(("n",))))
    assert [(trial.label, trial.axes["n"]) for trial in grown.trials] == [("old1", 2), ("n=3-seed=0", 3), ("old0", 1)]
    assert (list(grown.study.axes["n"]), grown.study.roles) == ([2, 3], Roles(("n",)))
    for changes, named in (({"name": "t"}, "name"), ({"trial": "m:g"}, "trial"), ({"base": {"x": 2}}, "base.x"),
                           ({"base": {"x": 1, "y": {"z": 1}}}, "base.y.z")):  # fmt: skip
        other = replace(Study("s", "m:f", {"x": 1}, {"n": [1]}, (0,)), **changes)
        with pytest.raises(InputError, match=f"^the folder holds the study 's' with another {named}; a study may only"):
            ours.extended(other)


def test_files_that_moved_move_in_every_trial() -> None:
    record = {"name": "a.csv", "n_bytes": 1, "sha256": "s"}

    def of(place: str, n: list[int]) -> Study:
        return Study("s", "m:f", {"data": place, "data_content": {"data": {place: record}}}, {"n": n}, (0,))

    ours = defined(of("/old/a.csv", [1, 2]))
    moved = ours.extended(of("/new/a.csv", [1]))
    assert [trial.id for trial in moved.trials] == [trial.id for trial in ours.trials]
    assert {trial.config["data"] for trial in moved.trials} == {"/new/a.csv"}
    assert (moved.study.base["data"], list(moved.study.axes["n"])) == ("/new/a.csv", [1, 2])
    grown = ours.extended(of("/new/a.csv", [3]))
    places = [(trial.axes["n"], trial.config["data"]) for trial in grown.trials]
    assert places == [(3, "/new/a.csv"), (1, "/new/a.csv"), (2, "/new/a.csv")]


@pytest.mark.parametrize(
    ("text", "value"),
    [("", None), ("true", True), ("false", False), ("-7", -7), ("1.5", 1.5), ("1e5", 1e5), ("1E5", 1e5),
     ("-2.5E-3", -0.0025), ("1e+5", 1e5), ('"1"', "1"), ("[1]", [1]), ("x", "x"), ("1.", "1."), (".5", ".5"),
     ("nan", "nan"), ("True", "True")],
)  # fmt: skip
def test_cells(text: str, value: Any) -> None:
    assert (parse_cell(text), type(parse_cell(text))) == (value, type(value))
    assert parse_cell(format_cell(value)) == value


@pytest.mark.parametrize("text", ["1E5", "1e5", "-2.5E-3", "7", "true", "", '"', "[x", "{", "a\nb", "a\u2028b"])
def test_texts_that_look_like_something_else_are_quoted(text: str) -> None:
    assert format_cell(text) == json.dumps(text)
    assert parse_cell(format_cell(text)) == text
