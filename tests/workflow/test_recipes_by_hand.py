"""A recipe of the test's own: its description, its study file, what it counts, and what its studies will cost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import pytest
import torch
import yaml

from metascale.core.errors import InputError
from metascale.core.types import Batch
from metascale.models.metric import METRICS, MetricClassifier
from metascale.parallel.execution import Execution
from metascale.study.design import Study
from metascale.testing import SmoothClassifier
from metascale.workflow import estimate
from metascale.workflow import recipe as recipes
from metascale.workflow.config import Count, FewShotConfig, Rate, TrialConfig
from metascale.workflow.describe import Key, describe
from metascale.workflow.estimate import Estimate, _Cost
from metascale.workflow.fewshot import Parts
from metascale.workflow.recipe import Follows, Profile, Recipe, load_recipe
from metascale.workflow.study_file import checked, study_text
from metascale.workflow.text import TextConfig


@dataclass(frozen=True)
class Base(TrialConfig):
    """What all have.

    Args:
        size: how large
            it is.
        kind: ``"a"``, or the other.
    """

    size: Count = 3
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Mine(Base):
    """What mine has.

    Args:
        rates: tried.
    """

    rates: tuple[Rate, ...] = (0.1,)
    depth: Count = 2


DOC = """A study of sizes.

Data:       none is needed
    at all.
Hardware:   a core.
Took:       a second.
Command:    metascale run mine
"""
MINE = Recipe(
    name="mine",
    title="Sizes of things",
    question="Does size matter?",
    config=Mine,
    axes={"size": [1, 2]},
    defaults={"kind": "b"},
    seeds=(4, 5),
    baselines=({"method": "chance"}, {"depth": 1}),
    profiles={
        "fast": Profile("seconds", {"kind": "a"}, axes={"depth": [1, 3]}, seeds=(7,), question="And depth?"),
        "plain": Profile("as it is", {"size": 9}),
    },
    follows=(Follows("kind", lambda value: value == "a", {"rates": (0.5,)}, "the first kind"),),
    module=ModuleType("mine", DOC),
)


def test_a_description_has_everything_in_plain_values() -> None:
    found = describe(MINE)
    assert (found.name, found.title, found.question) == ("mine", "Sizes of things", "Does size matter?")
    assert found.header == {
        "Data": "none is needed at all.", "Hardware": "a core.", "Took": "a second.", "Command": "metascale run mine",
    }  # fmt: skip
    assert (found.axes, found.seeds, found.baselines) == ({"size": [1, 2]}, (4, 5), ("chance", "{'depth': 1}"))
    assert found.profiles == {
        "fast": {
            "about": "seconds", "values": {"rates": [0.5], "kind": "a"}, "axes": {"depth": [1, 3]}, "seeds": [7],
            "question": "And depth?",
        },
        "plain": {"about": "as it is", "values": {"size": 9}, "axes": {"size": [1, 2]}, "seeds": [4, 5]},
    }  # fmt: skip
    assert found.keys == (
        Key("rates", "tried.", [0.1], "a list, each a number above 0", {"fast": [0.5]}, True),
        Key("depth", "", 2, "a whole number at least 1", {"fast": [1, 3]}, True),
        Key("size", "how large it is.", 3, "a whole number at least 1", {"plain": 9}, False),
        Key("kind", "a, or the other.", "b", "a or b", {"fast": "a"}, False),
    )
    assert describe(replace(MINE, module=None)).header == {}


FILE = """\
# mine: Sizes of things.
# Does size matter?
# Data: none is needed at all.
# Hardware: a core.
# Took: a second.
#
# metascale run mine.yaml

recipe: mine
seeds: [4, 5]
# the axis or column that the law runs along; two of them: a law in both
# scale: [size]
# axes that are compared, a law for each value
# series: [size]
# axes of which the best value counts, by validation
# best_of: [size]

values:
  # what varies: each list is an axis
  size: [1, 2]

  # what stays the same; the values are the defaults, so a line counts when its # is gone

  # tried (a list, each a number above 0)
  # rates: [0.1]

  # depth (a whole number at least 1)
  # depth: 2

  # a, or the other (a or b)
  # kind: "b"
"""


def test_a_study_file_is_the_recipe_with_every_key_in_a_comment() -> None:
    text = study_text(MINE, how="metascale run mine.yaml")
    assert text == FILE
    assert checked(yaml.safe_load(text), "here") == {"recipe": "mine", "seeds": [4, 5], "values": {"size": [1, 2]}}
    assert study_text(MINE) == FILE.replace("#\n# metascale run mine.yaml\n", "")


def test_a_study_file_of_a_profile_has_its_question_axes_seeds_and_values() -> None:
    lines = study_text(replace(MINE, source="/a/mine.py"), "fast").splitlines()
    assert lines[:2] == ["# mine: Sizes of things.", "# And depth?"]
    assert "recipe: /a/mine.py" in lines
    assert lines[lines.index("recipe: /a/mine.py") + 1 :][:2] == ["profile: fast", "seeds: [7]"]
    assert {"  depth: [1, 3]", "  # rates: [0.5]", '  # kind: "a"', "  # size: 3", "# scale: [depth]"} <= {*lines}
    assert not any(line.startswith(("  # depth", "  size")) for line in lines)
    none = study_text(replace(MINE, axes={}, module=None)).splitlines()
    assert "# scale: [KEY]" in none
    assert not any(line.startswith("# Data") for line in none)
    with pytest.raises(InputError, match=r"^recipe 'mine' has no profile 'slow'; it has: fast, plain$"):
        study_text(MINE, "slow")
    with pytest.raises(InputError, match=r"it has: none$"):
        replace(MINE, profiles={}).profile("slow")


def test_long_texts_are_wrapped_at_100() -> None:
    first, second, *_ = study_text(replace(MINE, question=" ".join(["word"] * 40))).splitlines()[1:]
    assert (len(first), len(second)) == (2 + 20 * 5 - 1, 2 + 20 * 5 - 1)


# ------------------------------------------------------------------------------------------- the recipe itself


def searched(recipe: Recipe[Any], **tune: Any) -> Study:
    base = {"recipe": "mine", "kind": "a", "tune": {"space": {"depth": {"choice": [1, 2]}}, "trials": 5, **tune}}
    return Study("mine", "m:f", base, {"size": [1, 2]}, (0, 1))


def test_configurations_are_counted_over_seeds_and_searches() -> None:
    plain = Study("mine", "m:f", {"recipe": "mine", "kind": "a"}, {"size": [1, 2]}, (0, 1, 2))
    small, large = (Mine(size=size, rates=(0.5,)) for size in (1, 2))
    assert MINE.counts(plain) == {small: 3, large: 3}
    assert MINE.counts(searched(MINE)) == {small: 2 + 5, large: 2 + 5}


def test_functions_of_a_recipes_file_are_found_there_or_missed_in_a_sentence() -> None:
    module = ModuleType("mine")
    module.check = lambda settings: checked_by.append(settings)  # type: ignore[attr-defined]
    module.trial = lambda *given: given  # type: ignore[attr-defined]
    module.costs = lambda study: ("title", [study], [])  # type: ignore[attr-defined]
    module.conclude = lambda view, table: (Path(view), Path(table))  # type: ignore[attr-defined]
    checked_by: list[Any] = []
    own, bare = replace(MINE, module=module), replace(MINE, module=ModuleType("bare"))
    own.check("settings")  # type: ignore[arg-type]
    assert (checked_by, own.checks, bare.checks) == (["settings"], True, False)
    assert own.run_trial({"a": 1}, "run", "cpu") == ({"a": 1}, "run", "cpu")  # type: ignore[arg-type]
    assert (own.count_costs("study"), bare.count_costs("study")) == (("title", ["study"], []), None)  # type: ignore[arg-type]
    assert own.conclude("v", "t") == [Path("v"), Path("t")]  # type: ignore[arg-type]
    assert bare.conclude("v", "t") == []  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^recipe 'mine' defines no function 'parts'$"):
        bare.make_parts(Mine(), 0, "cpu")
    assert own._trial_path() == "mine:trial"
    assert replace(own, source="/a/mine.py")._trial_path() == "metascale.workflow.recipe:own_trial"
    assert bare._trial_path() == "metascale.workflow.fewshot:trial"
    sentence = r"^recipe 'mine' makes studies once it is loaded by its name or file \(load_recipe\)$"
    with pytest.raises(InputError, match=sentence):
        replace(MINE, module=None)._trial_path()
    assert MINE.presentation() == {"question": "Does size matter?"}
    assert MINE.presentation("fast") == {"question": "And depth?"}


@pytest.mark.parametrize(("train_n_way", "n_classes"), [(None, 5), (7, None)])
def test_a_metric_learner_is_wrapped_around_the_recipes_model(train_n_way: int | None, n_classes: int | None) -> None:
    module, model = ModuleType("mine"), SmoothClassifier()
    module.parts = lambda *given: Parts(given, model, 6)  # type: ignore[attr-defined]
    recipe = replace(load_recipe("digits"), module=module)
    settings = FewShotConfig(method="r2d2", train_n_way=train_n_way)
    parts = recipe.make_parts(settings, 3, "mps")
    assert parts == Parts(
        (settings, 3, "mps"), MetricClassifier(model, n_classes, METRICS["r2d2"]()), 6  # type: ignore[arg-type]
    )  # fmt: skip
    assert recipe.make_parts(FewShotConfig(), 3, "mps").model is model


def test_data_sets_may_depend_on_the_configuration() -> None:
    assert replace(MINE, data_sets=("a",)).data_sets_of({"size": 2}) == ("a",)
    assert replace(MINE, data_sets=lambda own: (f"of {own.size} {own.kind}",)).data_sets_of({"size": 2}) == ("of 2 b",)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("as it is"), "as it is"),
        (SystemExit(3), "it cannot be imported: it ends in sys.exit(3)"),
        (ImportError("no module"), "it cannot be imported: no module"),
        (SyntaxError("bad"), "it cannot be imported: bad"),
        (KeyError("k"), "it cannot be imported: KeyError: 'k'"),
    ],
)
def test_code_that_breaks_on_import_is_a_sentence(error: BaseException, said: str) -> None:
    found = recipes.cannot_import("it", error)
    assert str(found) == said
    assert (found is error) == isinstance(error, InputError)
    assert isinstance(error, InputError) or found.field == "recipe"


def test_a_file_is_a_recipe_only_where_it_is_python(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("RECIPE = 1")
    with pytest.raises(InputError, match=r"^the recipe file .*notes.txt is not a Python file \(.py\)$"):
        recipes.module_of_file(tmp_path / "notes.txt")
    with pytest.raises(InputError, match=r"^there is no file .*none.py$") as caught:
        recipes.module_of_file(tmp_path / "none.py", "file")
    assert (caught.value.field, caught.value.value) == ("recipe", str(tmp_path / "none.py"))
    assert [recipes.is_file(name) for name in ("digits", "a.py", "a/b", "a.pyc")] == [False, True, True, False]


def test_a_stored_study_names_its_recipe_by_an_absolute_place() -> None:
    with pytest.raises(InputError, match=r"^study 's' names its recipe by a relative path, a/b.py; recipes write abs"):
        recipes.stored_recipe("a/b.py", "study 's'")
    with pytest.raises(InputError, match=r"^study 's' needs its recipe: there is no recipe 'digit'; did you mean"):
        recipes.stored_recipe("digit", "study 's'")
    assert recipes.recipe_of(Study("s", "m:f", {"recipe": "digits"}, {}, (0,))).name == "digits"  # type: ignore[union-attr]
    assert recipes.recipe_of(Study("s", "m:f", {}, {}, (0,))) is None


# ------------------------------------------------------------------------------------------------------ costs

SMALL = {
    "n_tasks": [5, 10], "budget": "steps", "max_steps": 50, "eval_every": 10, "n_validation_tasks": 6,
    "n_test_tasks": 8, "n_curve_tasks": 4, "adaptation_curve": [0, 3], "tune_rates": [0.3], "tune_steps": [1, 3],
    "inner_lr": 0.1, "inner_steps": 2, "meta_batch": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "steps", "evaluated"),
    [
        # A validation at the start and every ten steps, of 6 tasks each, and the test of 8; the curve takes 3 steps on
        # 4 tasks, and the choice 3 steps at 2 rates on 6, each 2 of which are one adaptation.
        ({}, 50, 6 * 6 + 8 + (4 * 3 + 2 * 6 * 3) / 2),
        ({"eval_every": 20}, 50, 3 * 6 + 8 + (4 * 3 + 2 * 6 * 3) / 2),
        ({"eval_inner_steps": 4}, 50, 6 * 6 + 8 + 4 * 3 / 4),
        ({"eval_inner_steps": 0, "adaptation_curve": []}, 50, 6 * 6 + 8),
        ({"learn_rates": True, "method": "maml"}, 50, 6 * 6 + 8 + (4 * 3 + 1 * 6 * 3) / 2),
        ({"budget": "compute", "budget_flops": 7500.0}, 7, 11 * 6 + 8 + (4 * 3 + 2 * 6 * 3) / 2),
    ],
)
def test_seconds_and_operations_are_those_of_the_first_trial_times_all(
    changes: dict[str, Any], steps: int, evaluated: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "_cost_of", lambda *given: _Cost(1000.0, 0.5, 0.25, 10, 5))
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    recipe = load_recipe("digits")
    study = recipe.study({**SMALL, **changes}, seeds=[0], baselines=False)
    found = estimate.estimate_costs(recipe, study, workers=1)
    each = steps * 0.5 + evaluated * 0.25
    every = changes.get("eval_every", 10)
    records = 2 * 200 * (50 // every * 11)
    assert found == Estimate(
        2, 0, 2, 10, 15, 1000.0, 2 * steps * 1000.0, 0.5, pytest.approx(2 * each), 2 * 40 + 320 + records
    )  # fmt: skip
    shared = estimate.estimate_costs(recipe, study, workers=5)
    assert shared.total_s == pytest.approx(each)  # no more workers than trials
    assert shared.disk_bytes == 2 * 40 + 5 * 320 + records


def test_a_study_waits_for_the_cores_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(estimate, "_cost_of", lambda *given: asked.append(given) or _Cost(1.0, 1.0, 0.0, 1, 0))
    monkeypatch.setattr("os.cpu_count", lambda: None)
    recipe = load_recipe("digits")
    study = recipe.study({**SMALL, "n_tasks": [4, 8, 9]}, seeds=[3, 4])
    found = estimate.estimate_costs(recipe, study, workers=4, device="mps")
    assert (found.n_trials, found.n_meta, found.total_s) == (6 + 6, 6, 300.0)  # one fine-tuning a seed, four others
    ((of, config, seed, device),) = asked
    assert (of, config.kind, config.n_tasks, seed, device) == (recipe, "meta", 4, 3, "mps")
    monkeypatch.setattr(estimate, "_cost_of", lambda *given: _Cost(1.0, None, 0.0, 1, 0))
    assert estimate.estimate_costs(recipe, study, workers=4).total_s is None
    assert estimate.estimate_costs(MINE, study, workers=4) is None


def test_a_dry_run_prints_what_the_recipe_counts_or_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study("mine", "m:f", {"recipe": "mine"}, {"size": [1, 2], "depth": [3]}, (0, 1))
    rows = [
        ["trials", "4"],
        ["cost", "not estimated for this study; a profile 'smoke', where there is one, takes seconds"],
        ["axes", "size in [1, 2], depth in [3]; seeds [0, 1]"],
    ]
    assert estimate.cost_table(MINE, study, 1) == ("", ["mine (dry run)", ""], rows)
    asked: list[Any] = []
    known = SimpleNamespace(table=lambda: [["time", "long"]])
    monkeypatch.setattr(estimate, "estimate_costs", lambda *given: asked.append(given) or known)
    assert estimate.cost_table(MINE, study, 3, "mps")[2] == [["time", "long"], rows[2]]
    estimate.cost_table(MINE, study, 3)
    assert asked == [(MINE, study, 3, "mps"), (MINE, study, 3, "cpu")]
    module = ModuleType("mine")
    module.costs = lambda study: ("own", ["h"], [])  # type: ignore[attr-defined]
    assert estimate.cost_table(replace(MINE, module=module), study, 1) == ("own", ["h"], [])


def test_an_estimate_in_words() -> None:
    found = Estimate(5, 0, 3, 1500, 2_000_000, 2e9, 3e12, 0.0125, 150.0, 2048)
    assert found.table() == [
        ["trials", "5 (3 meta-trained)"],
        ["parameters", "1.5 k trainable of 2 M"],
        ["FLOPs", "2 GFLOP an outer step, 3 TFLOP in all at most"],
        ["time", "12 ms an outer step on one thread (measured); about 2.5 min at most"],
        ["disk", "2.00 KiB"],
    ]
    assert dict(replace(found, n_searched=7).table())["trials"] == "5 (3 meta-trained), after at most 7 of searches"
    for unknown in (replace(found, step_s=None), replace(found, total_s=None)):
        assert dict(unknown.table())["time"] == estimate.NOT_MEASURED


def test_a_large_language_model_is_counted_on_a_cpu_and_anything_else_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(estimate, "_count_shapes", lambda config: "counted")
    monkeypatch.setattr(estimate, "_measure", lambda *given: given)
    recipe = SimpleNamespace(name="r", make_parts=lambda *given: ("parts", *given))
    of = lambda config, size, device="cpu": (
        monkeypatch.setattr(estimate, "_frozen_size", lambda config: size),
        estimate._cost_of(recipe, config, 3, device),  # type: ignore[arg-type]
    )[1]
    config = TextConfig()
    measured = (config, ("parts", config, 3, "cpu"), 3, "cpu")
    assert of(config, 200_000_001) == "counted"
    assert of(config, 200_000_000) == measured
    assert of(config, 10**9, "cuda")[3] == "cuda"
    empty = replace(config, backbone="")
    assert of(empty, 10**9)[0] == empty
    plain = FewShotConfig()
    assert of(plain, 10**9)[0] == plain

    def fails(error: BaseException) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            raise error

        return call

    monkeypatch.setattr(estimate, "_measure", fails(RuntimeError("another")))
    with pytest.raises(RuntimeError, match="another"):
        of(plain, 0)
    monkeypatch.setattr(estimate, "_measure", fails(MemoryError()))
    with pytest.raises(InputError, match=r"^recipe 'r': an outer step of the first trial does not fit into the memory"):
        of(plain, 0)


def test_a_frozen_models_size_is_that_of_its_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metascale.models.text.hf.count_parameters", lambda name: {"total": 7, "name": name})
    monkeypatch.setattr(estimate, "backbone_path", lambda name: f"at {name}")
    assert estimate._frozen_size(TextConfig()) == 7


def test_operations_of_a_large_model_are_counted_on_one_task_of_short_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TextConfig(
        n_way=3, k_shot=2, n_query=4, meta_batch=5, max_length=64, dtype="float16", load_in_8bit=True,
        inner_optimizer="adam", outer_optimizer="adamw", dropout=0.5, attention="sdpa",
    )  # fmt: skip
    asked: list[Any] = []
    shapes = SimpleNamespace(FakeTensorMode=lambda allow_non_fake_inputs: nullcontext())
    for name in ("torch._subclasses", "torch._subclasses.fake_tensor"):
        monkeypatch.setitem(sys.modules, name, shapes)
    model = SimpleNamespace(init=lambda seed: {"a": torch.zeros(2, 3)}, backbone=torch.nn.Linear(2, 2))
    monkeypatch.setattr(estimate, "adapted_model", lambda *given: asked.append(given) or model)
    monkeypatch.setattr(estimate, "make_inner", lambda plain: SimpleNamespace(init=lambda params: params))
    gradient = lambda *given: asked.append(given) or 11.0
    learner = SimpleNamespace(gradient=gradient)
    monkeypatch.setattr(estimate, "make_learner", lambda *given: asked.append(given) or learner)
    monkeypatch.setattr(estimate, "count_flops", lambda call: call())
    assert estimate._count_shapes(config) == _Cost(55.0, None, 0.0, 6, 6)
    (plain, on), of_learner, (of_model, theta, episode, key) = asked
    assert on == "cpu"
    assert plain == replace(
        config, random_weights=0, dtype="float32", load_in_8bit=False, attention="eager", inner_optimizer="sgd",
        outer_optimizer="sgd", dropout=0.0,
    )  # fmt: skip
    assert of_learner == (plain, model, 0, "cpu")
    assert (of_model, list(theta), key, len(episode.task_ids)) == (model, ["a"], None, 1)
    for batch, n in ((episode.support, 6), (episode.query, 12)):
        assert isinstance(batch, Batch)
        ids, targets = batch.inputs["input_ids"], batch.targets
        assert (tuple(ids.shape), ids.dtype) == ((1, n, 32), torch.long)
        assert (tuple(targets.shape), targets.dtype) == ((1, n), torch.long)
    asked.clear()
    estimate._count_shapes(replace(config, max_length=20))
    assert asked[2][2].support.inputs["input_ids"].shape[2] == 20


def test_a_step_is_counted_and_timed_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    model, asked = SmoothClassifier(), []
    source = SimpleNamespace(
        episodes=lambda split, indices: asked.append((split, list(indices))) or model.episode(len(indices))
    )
    counted = lambda call: threads.append(torch.get_num_threads()) or (call() and 7.0)
    monkeypatch.setattr(estimate, "count_flops", counted)
    seconds = iter((2.0, 3.0))
    monkeypatch.setattr(estimate, "_seconds", lambda call: (call(), next(seconds))[1])
    config = FewShotConfig(method="fomaml", meta_batch=4, inner_steps=2, eval_inner_steps=6)
    outside = torch.get_num_threads()
    found = estimate._measure(config, Parts(source, model, 8), 3, "cpu")  # type: ignore[arg-type]
    assert found == _Cost(28.0, 2.0, 3.0 * 4 / 8, 5 * 6 + 6 + 6 * 3, 0)
    assert (asked, threads, torch.get_num_threads()) == ([("train", [0, 1, 2, 3])], [1], outside)
    baseline = replace(config, kind="baseline", method="zero_shot")
    assert estimate._measure(baseline, Parts(source, model), 3, "cpu") == _Cost(0.0, 0.0, 0.0, 54, 0)  # type: ignore[arg-type]


def test_stacked_tasks_share_what_a_call_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    stacked = SimpleNamespace(task_execution="stacked")
    gain = lambda model, batch: estimate._stacking_gain(Parts(None, model, batch), "cpu")  # type: ignore[arg-type]
    assert (gain(stacked, 50), gain(stacked, 5), gain(stacked, 4), gain(stacked, 1)) == (0.08, 0.8, 1.0, 1.0)
    apart = SimpleNamespace(task_execution="threads")
    assert Execution.best_for(apart, "cpu").chunk == 1  # type: ignore[arg-type]
    assert gain(apart, 50) == 1.0


def test_seconds_are_the_median_of_three_calls_after_a_first(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 5.0, 10.0, 11.0, 20.0, 23.0])
    monkeypatch.setattr("metascale.workflow.estimate.time.perf_counter", lambda: next(times))
    calls: list[int] = []
    assert estimate._seconds(lambda: calls.append(1)) == 3.0
    assert len(calls) == 4


def test_frozen_parameters_are_those_of_a_backbone() -> None:
    assert estimate._n_frozen(SimpleNamespace(backbone=torch.nn.Linear(3, 2))) == 8  # type: ignore[arg-type]
    assert estimate._n_frozen(SimpleNamespace()) == 0  # type: ignore[arg-type]


def test_times_of_steps_in_words() -> None:
    assert [estimate._short(value) for value in (0.0123456, 0.9994, 0.9996)] == ["12.3 ms", "999 ms", "1.0 s"]


def test_outer_steps_of_a_compute_budget() -> None:
    config = FewShotConfig(budget="compute", budget_flops=2500.0, max_steps=9)
    assert estimate._steps(config, _Cost(1000.0, 0.0, 0.0, 0, 0)) == 2
    assert estimate._steps(config, _Cost(0.5, 0.0, 0.0, 0, 0)) == 2500
    assert estimate._steps(replace(config, budget="steps"), _Cost(1000.0, 0.0, 0.0, 0, 0)) == 9


def test_keys_that_the_study_itself_sets_are_refused() -> None:
    for key, said in (
        ("recipe", "the study itself sets it"),
        ("trial", "the study itself sets it"),
        ("seed", "seeds are"),
    ):
        with pytest.raises(InputError) as caught:
            MINE.study({key: 1})
        assert str(caught.value).startswith(f"recipe 'mine': there is no key '{key}'; {said}")
        assert caught.value.field == key


def test_defaults_that_the_values_of_several_axes_bring() -> None:
    follows = (
        Follows("kind", lambda value: value == "a", {"rates": (0.5,)}, "the first kind"),
        Follows("size", lambda value: value > 5, {"depth": 7}, "large ones"),
    )
    recipe = replace(MINE, follows=follows)
    assert recipe._brought_by_axes({"kind": ["a"], "size": [6, 7], "x": [], "y": [1]}) == {"rates": (0.5,), "depth": 7}
    assert recipe._brought_by_axes({"kind": ["b"]}) == {}
    with pytest.raises(InputError) as caught:
        recipe._brought_by_axes({"size": [5, 6]})
    assert str(caught.value) == (
        "recipe 'mine': values of 'size' have other defaults than each other (5, 6); run them as two studies"
    )
    assert (caught.value.field, caught.value.value) == ("size", (5, 6))


def test_axes_are_lists_of_single_values_or_lists_of_lists() -> None:
    base: dict[str, Any] = {"size": [3, 4], "rates": [0.1, 0.2], "depth": 5, "kind": "a"}
    assert MINE._take_axes(base, {"size": [1], "depth": [2]}) == {"size": [3, 4], "depth": [5]}
    assert base == {"rates": [0.1, 0.2], "kind": "a"}
    lists: dict[str, Any] = {"rates": [[0.1], [0.2, 0.3]]}
    assert MINE._take_axes(lists, {}) == {"rates": [[0.1], [0.2, 0.3]]}
    empty: dict[str, Any] = {"rates": []}
    assert (MINE._take_axes(empty, {}), empty) == ({}, {"rates": []})


def test_what_tune_asks_for() -> None:
    ranges = {"space": {"depth": {"choice": [1, 2]}}, "trials": 5, "startup": 3}
    recipe = replace(MINE, search=ranges)
    assert (recipe._tune(False, None), recipe._tune(None, None)) == (None, None)
    tuned = [recipe._tune(given, None) for given in (True, 8, {"trials": 9, "startup": 4})]
    assert [(one.trials, one.startup) for one in tuned if one is not None] == [(5, 3), (8, 3), (9, 4)]
    of_profile = {"trials": 6, "startup": 2}
    profiled = [recipe._tune(given, of_profile) for given in (True, 8)]
    assert [(one.trials, one.startup) for one in profiled if one is not None] == [(6, 2), (8, 2)]
    with pytest.raises(InputError, match=r"^recipe 'mine' has no ranges of its own to tune; give tune a space$"):
        MINE._tune(True, None)
    assert list(MINE._tune(ranges, None).space) == ["depth"]  # type: ignore[union-attr]


def test_a_whole_study_of_a_recipe() -> None:
    beside: Any = ({"size": 5}, {"depth": 1})
    recipe = replace(MINE, loss="nll", scale_columns={"size": "n"}, tuned=False, baselines=beside)
    found = recipe.study({"depth": 4}, "fast", baselines=True)
    assert (found.name, found.trial, list(found.seeds)) == ("mine", "metascale.workflow.fewshot:trial", [7])
    assert found.base == {"recipe": "mine", "size": 3, "kind": "a", "rates": [0.5], "depth": 2}
    assert found.axes == {"depth": [4]}
    assert [dict(one) for one in found.extra] == [{"seeds": [7], "size": 5}, {"seeds": [7], "depth": 1}]
    assert found.roles.loss == "nll"  # type: ignore[union-attr]
    bare = recipe.study(baselines=False)
    assert (list(bare.extra), bare.roles.crossed) == ([], ())  # type: ignore[union-attr]
    plain = recipe.study({}, "plain", seeds=[1, 2])
    assert (plain.axes, list(plain.seeds)) == ({"size": [9]}, [1, 2])
    assert recipe.study({"kind": ["b"]}).axes == {"size": [1, 2], "kind": ["b"]}
    with pytest.raises(InputError, match=r"of 'depth' is not allowed"):
        recipe.study({"depth": [1, 0]})


def test_validation_steps_are_those_that_an_adaptation_is_timed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    from metascale.meta.learner import MetaLearner

    steps: list[Any] = []
    monkeypatch.setattr(MetaLearner, "adapt", lambda self, model, params, support, steps_=None: steps.append(steps_))
    monkeypatch.setattr(MetaLearner, "step", lambda self, model, state, episode: steps.append(episode.n_tasks))
    monkeypatch.setattr(estimate, "_seconds", lambda call: (call(), 1.0)[1])
    monkeypatch.setattr(estimate, "count_flops", lambda call: 7.0)
    model = SmoothClassifier()
    source = SimpleNamespace(episodes=lambda split, indices: model.episode(len(indices)))
    config = FewShotConfig(method="fomaml", meta_batch=3, inner_steps=2, eval_inner_steps=6)
    estimate._measure(config, Parts(source, model, 8), 3, "cpu")  # type: ignore[arg-type]
    assert steps == [3, 6]
