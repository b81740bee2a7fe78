"""Configurations, places and study files: what they are by default, what goes together, and what is built of them."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from metascale.core.errors import InputError
from metascale.study.executors.local import ProcessExecutor, SerialExecutor
from metascale.study.executors.ray import RayExecutor
from metascale.study.executors.slurm import SlurmExecutor
from metascale.study.roles import Reading
from metascale.workflow import config as of_config
from metascale.workflow import language_models, launch, stacks
from metascale.workflow.config import FewShotConfig, TrialConfig, absolute_places, plural_keys, text_keys, validate
from metascale.workflow.describe import _arguments, _header, allowed
from metascale.workflow.doctor import PACKAGES, describe_machine
from metascale.workflow.language_models import ModelSizeConfig, n_steps, rate
from metascale.workflow.launch import Place, _command, _stacked
from metascale.workflow.study_file import KEYS, checked
from metascale.workflow.text import TextConfig
from metascale.workflow.text_fine_tuning import FineTuningConfig

DEFAULTS = Path(__file__).with_name("defaults.json")


def defaults() -> dict[str, Any]:
    """Values of configurations that nobody changed, and which keys have a part of their own.

    They make the ids of trials: `python -m tests.workflow.test_configurations_by_hand` writes them anew, after one was
    changed on purpose.
    """
    kinds = (TrialConfig, FewShotConfig, TextConfig, ModelSizeConfig, FineTuningConfig, Place)
    found: dict[str, Any] = {kind.__name__: dataclasses.asdict(kind()) for kind in kinds}
    named = {
        of_config: (
            *("FIRST_ORDER", "BASELINES", "LEARNERS", "LEARNER_KEYS", "LATER_KEYS", "FILE_KEYS"),
            *("FREE_IN_A_STACK", "JOINED_TASKS", "JOINING", "JOINING_CURVATURES"),
        ),
        launch: ("PRELOAD", "EXECUTORS", "ON_CLUSTERS"),
        language_models: ("EVALUATION_TOKENS", "DECAY_SHARE"),
        stacks: ("AUTO", "AUTO_SUPERVISED"),
    }
    for module, names in named.items():
        for name in names:
            value = getattr(module, name)
            found[f"{module.__name__.rpartition('.')[2]}.{name}"] = (
                sorted(value) if isinstance(value, frozenset) else value
            )
    return dict(json.loads(json.dumps(found)))


def test_defaults_last() -> None:
    changed = "a default has changed; where that was meant: python -m tests.workflow.test_configurations_by_hand"
    assert defaults() == json.loads(DEFAULTS.read_text()), changed


# ------------------------------------------------------------------------------------ what goes together


@pytest.mark.parametrize(
    ("values", "field_", "words"),
    [
        ({"kind": "baseline"}, None, "method 'reptile' does not go with kind 'baseline'"),
        ({"method": "zero_shot"}, None, "method 'zero_shot' does not go with kind 'meta'; a meta-learner is one"),
        ({"budget": "compute"}, None, "budget=compute and budget_flops go together; give both or neither"),
        ({"budget_flops": 1e9}, None, "budget=compute and budget_flops go together"),
        ({"learn_rates": True}, None, "Reptile has no gradient for learn_rates; use method=maml or method=fomaml"),
        ({"learn_rates": True, "method": "imaml", "curvature": "exact"}, None, "implicit MAML has no gradient for"),
        ({"rates_by": "step"}, "rates_by", "rates_by=step is of learnt rates; set learn_rates=true too"),
        ({"train_n_way": 7}, "train_n_way", "train_n_way goes with protonet or r2d2 or metaoptnet; method=reptile has "
         "a head for n_way=5 classes"),
        ({"tune_scales": [1.0]}, "tune_scales", "tune_scales goes with protonet or r2d2 or metaoptnet; method=reptile"),
        ({"multi_step": 2}, "multi_step", "multi_step goes with method=maml, not reptile"),
        ({"first_order_steps": 3, "method": "fomaml"}, "first_order_steps", "first_order_steps goes with method=maml"),
        ({"learn_rates": True, "method": "protonet"}, None, "method=protonet takes no inner steps, so there are no"),
        ({"method": "imaml", "curvature": "none"}, None, "method=imaml needs a curvature other than none; without one"),
        ({"inner_momentum": 0.5, "inner_optimizer": "adam"}, "inner_momentum",
         "inner_momentum goes with inner_optimizer=sgd, not adam"),
        ({"inner_beta1": 0.5, "inner_optimizer": "sgd"}, "inner_beta1",
         "inner_beta1 goes with inner_optimizer=adam or adamw, not sgd"),
        ({"outer_beta2": 0.5, "outer_optimizer": "sgd"}, "outer_beta2",
         "outer_beta2 goes with outer_optimizer=adam or adamw, not sgd"),
        ({"outer_weight_decay": 0.1, "outer_optimizer": "adam"}, "outer_weight_decay",
         "outer_weight_decay goes with outer_optimizer=sgd or adamw, not adam"),
        ({"budget": "steps", "max_steps": 10, "outer_warmup": 10}, "outer_warmup",
         "outer_warmup must be below the 10 outer steps, not 10"),
        ({"adapt": []}, "adapt", "'adapt' needs at least one value"),
        ({"tune_rates": []}, "tune_rates", "'tune_rates' needs at least one value"),
        ({"tune_steps": []}, "tune_steps", "'tune_steps' needs at least one value"),
        ({"n_tasks": None, "budget": "visits"}, None, "budget 'visits' needs a number for n_tasks; with endless"),
        ({"memory_budget": "lots"}, None, "memory_budget"),
        ({"max_stepz": 3}, "max_stepz", "there is no key 'max_stepz'; did you mean 'max_steps'"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together_are_refused(values: Any, field_: str | None, words: str) -> None:
    own = {"n_tasks": 5, "method": "reptile", **values}
    with pytest.raises(InputError) as caught:
        validate(FewShotConfig, own, "here")
    assert words in str(caught.value)
    assert str(caught.value).startswith("here: ") or "visits" in words
    if field_ is not None:
        assert caught.value.field == field_


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "baseline", "method": "zero_shot"},
        {"budget": "compute", "budget_flops": 1e9, "outer_warmup": 10**4},
        {"learn_rates": True, "method": "maml", "rates_by": "step"},
        {"method": "protonet", "train_n_way": 7, "tune_scales": [1.0]},
        {"method": "maml", "multi_step": 2, "first_order_steps": 3},
        {"inner_momentum": 0.5, "inner_optimizer": "sgd", "outer_beta2": 0.5, "outer_optimizer": "adamw"},
        {"budget": "steps", "max_steps": 10, "outer_warmup": 9},
        {"n_tasks": None, "budget": "steps"},
        {"kind": "baseline", "method": "fine_tuning", "n_tasks": None, "train_n_way": 7},
    ],
)  # fmt: skip
def test_settings_that_go_together_are_taken(values: Any) -> None:
    found = validate(FewShotConfig, {"n_tasks": 5, "method": "reptile", **values}, "here")
    for name, value in values.items():
        assert getattr(found, name) == (tuple(value) if isinstance(value, list) else value)


def test_a_model_with_batch_statistics_and_one_without_second_derivatives() -> None:
    class Normalised(FewShotConfig):
        batch_statistics = True

    class FirstOrder(FewShotConfig):
        first_order_alone = ("the fast kernel", "kernel=exact")

    own = {"method": "maml", "n_tasks": 5}
    with pytest.raises(InputError, match="micro_batch would change the batch statistics"):
        Normalised(**own, micro_batch=2, curvature="exact").refuse("here")
    with pytest.raises(InputError, match="curvature=diagonal needs one gradient an example"):
        Normalised(**own, curvature="diagonal").refuse("here")
    Normalised(method="reptile", n_tasks=5, curvature="diagonal").refuse("here")
    with pytest.raises(InputError, match="needs second derivatives, which the fast kernel lacks; set kernel=exact, or"):
        FirstOrder(**own, curvature="exact").refuse("here")
    FirstOrder(**own, curvature="none").refuse("here")
    FirstOrder(method="fomaml", n_tasks=5, curvature="exact").refuse("here")
    FirstOrder(method="imaml", n_tasks=5, curvature="exact", cg_steps=0).refuse("here")
    for changes in ({"cg_steps": 1}, {"cg_steps": 0, "adapt": ("head*",)}):
        with pytest.raises(InputError, match="needs second derivatives"):
            FirstOrder(method="imaml", n_tasks=5, curvature="exact", **changes).refuse("here")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": "shared", "method": "reptile"}, "Reptile moves a parameter to where adaptation took it"),
        (
            {"head": "zero", "adapt": ("body*",)},
            r"with head=zero all classes start alike, and adapt=\['body\*'\] ne",
        ),
        ({"head": "shared", "method": "maml", "adapt": ("body*",)}, "with head=shared all classes start alike"),
        ({"head": "zero", "adapt": ("head*",)}, ""),
        ({"head": "learned", "adapt": ("body*",)}, ""),
        ({"head": "zero", "adapt": ("body*",), "method": "protonet"}, ""),
    ],
)
def test_a_head_that_would_never_leave_its_start_is_refused(changes: Any, words: str) -> None:
    @dataclass(frozen=True)
    class WithHead(FewShotConfig):
        head: str = "learned"

    made = WithHead(**{"method": "reptile", "n_tasks": 5, **changes})
    if not words:
        made.refuse("here")
        return
    with pytest.raises(InputError, match=words) as caught:
        made.refuse("here")
    assert (caught.value.field, caught.value.value) == ("head", changes["head"])


def test_steps_and_choices_of_a_configuration() -> None:
    """Visits: 4 visits of 10 tasks, 3 a meta-batch: round(40 / 3) = 13."""
    made = FewShotConfig(n_tasks=10, budget="visits", visits_per_task=4, meta_batch=3, max_steps=99)
    assert made.outer_steps == 13
    assert dataclasses.replace(made, meta_batch=1000).outer_steps == 1
    assert dataclasses.replace(made, budget="steps").outer_steps == 99
    rates = FewShotConfig(inner_lr=0.05, tune_rates=(0.1, 0.01), inner_steps=4, eval_inner_steps=6, tune_steps=(9, 0))
    assert (rates.rate_choices, rates.step_choices) == ((0.01, 0.05, 0.1), (0, 4, 6, 9))
    assert rates.validation_steps == 6
    assert dataclasses.replace(rates, eval_inner_steps=None).validation_steps == 4
    assert dataclasses.replace(rates, method="protonet").validation_steps == 0
    assert (rates.metric, dataclasses.replace(rates, method="r2d2").metric) == (None, "r2d2")
    assert rates.estimator == (rates.method, rates.curvature)
    assert (rates.tasks_apart, rates.batch_statistics, rates.first_order_alone) == (False, False, None)
    made = dataclasses.replace(made, train_n_way=7)
    assert made.source_fields(3) == {
        "n_way": made.n_way, "k_shot": made.k_shot, "n_query": made.n_query, "n_train_tasks": 10,
        "n_validation_tasks": made.n_validation_tasks, "n_test_tasks": made.n_test_tasks, "seed": 3,
        "n_train_classes": made.n_train_classes, "labels": made.labels, "classes": made.classes, "train_n_way": 7,
    }  # fmt: skip
    assert "train_n_way" not in dataclasses.replace(made, kind="baseline").source_fields(3)


def test_files_and_folders_of_models_have_absolute_paths(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    found = absolute_places({"path": ["a.csv", "~/b.csv", ""], "backbone": "./model", "other": "x", "n": 3})
    assert found == {"path": [f"{tmp_path}/a.csv", "/home/me/b.csv", ""], "backbone": f"{tmp_path}/model", "other": "x",
                     "n": 3}  # fmt: skip
    assert absolute_places({"backbone": "gpt2"}) == {"backbone": "gpt2"}
    assert absolute_places({"backbone": "~/m"}) == {"backbone": "/home/me/m"}


def test_keys_by_their_kind_and_a_key_declared_again() -> None:
    @dataclass(frozen=True)
    class Base(TrialConfig):
        one: int = 1
        many: tuple[int, ...] = ()
        some: tuple[str, ...] | None = None
        text: str = ""
        perhaps: str | None = None
        choice: Literal["a", "b"] = "a"

    assert plural_keys(Base) >= {"many", "some"}
    assert not plural_keys(Base) & {"one", "text", "choice"}
    assert text_keys(Base) >= {"text", "perhaps"}
    assert not text_keys(Base) & {"one", "many", "choice"}

    @dataclass(frozen=True)
    class Again(Base):
        one: int = 2

    with pytest.raises(
        InputError, match=r"^Again declares 'one' again, which loses its range; put the value"
    ) as caught:
        validate(Again, {}, "here")
    assert caught.value.field == "one"

    @dataclass(frozen=True)
    class Choice(Base):
        choice: Literal["a", "b", "c"] = "c"

    assert validate(Choice, {"one": 5}, "here").choice == "c"


# --------------------------------------------------------------------------------------------- language models


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "transformer", "d_model": 36, "n_heads": 4},
         r"d_model must be a multiple of twice n_heads \(8\), not 36"),
        ({"parameterisation": "mup", "base_width": 12, "n_heads": 4, "d_model": 64},
         r"base_width must be a multiple of twice n_heads \(8\), not 12"),
        ({"parameterisation": "mup", "optimizer": "sgd"}, "the rates of parameterisation=mup are those of AdamW and"),
        ({"max_steps": 50, "warmup": 50}, r"warmup must be below max_steps \(50\), not 50"),
    ],
)  # fmt: skip
def test_language_models_that_cannot_be_are_refused(changes: Any, words: str) -> None:
    with pytest.raises(InputError, match=f"^here: {words}"):
        ModelSizeConfig(**changes).refuse("here")


def test_language_models_that_can_be_are_taken() -> None:
    for changes in ({"architecture": "resnet_bk", "d_model": 36, "n_heads": 4}, {"max_steps": 51, "warmup": 50},
                    {"base_width": 12, "n_heads": 4, "d_model": 64}, {"optimizer": "sgd"}):  # fmt: skip
        ModelSizeConfig(**changes).refuse("here")


def test_steps_and_optimisers_of_a_language_model() -> None:
    settings = ModelSizeConfig(epochs=2.5, lr=0.25, weight_decay=0.125)
    assert (n_steps(settings, 10), n_steps(dataclasses.replace(settings, max_steps=7), 10)) == (25, 7)
    assert n_steps(dataclasses.replace(settings, max_steps=70), 10) == 25
    assert n_steps(dataclasses.replace(settings, epochs=0.01), 10) == 1
    for name, kind in (("sgd", "SGD"), ("lion", "Lion"), ("adamw", "InPlaceAdamW")):
        made = language_models.optimizer(dataclasses.replace(settings, optimizer=name))
        assert (type(made).__name__, made.lr, made.weight_decay) == (kind, 0.25, 0.125)
        assert getattr(made, "momentum", 0.9) == 0.9
    wsd = rate(ModelSizeConfig(schedule="wsd", warmup=20, final_rate=0.5), 120)
    assert [wsd(step) for step in (19, 20, 100, 120)] == [1.0, 1.0, 1.0, 0.5]  # a fifth of 100 decays
    schedule = language_models.schedule(settings, SimpleNamespace(steps_per_epoch=10))
    assert (schedule.max_steps, schedule.eval_every, schedule.patience, schedule.log_every) == (25, 10, 3, 10)
    assert language_models.schedule(dataclasses.replace(settings, eval_every=4), SimpleNamespace(steps_per_epoch=10)
                                    ).eval_every == 4  # fmt: skip
    words = language_models.extent(ModelSizeConfig(vocabulary=300))
    assert (words.n_test, words.n_vocab) == (245_569, 300)
    cut = language_models.extent(ModelSizeConfig(n_train_tokens=50, evaluation_tokens=7))
    assert (cut.n_train, cut.n_test) == (50, 7)


# ------------------------------------------------------------------------------------------------- places


def test_what_is_built_of_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.os, "sched_getaffinity", lambda pid: set(range(7)), raising=False)
    monkeypatch.setattr(launch, "require_installed", lambda *names: None)
    built, workers = Place(processes_per_trial=2, trial_timeout_s=9.0, hang_s=8.0).build(("x",))
    assert isinstance(built, ProcessExecutor)
    assert (workers, built.workers, built.threads_per_worker) == (3, 3, 1)
    assert (built.preload, built.processes_per_trial, built.hang_s, built.trial_timeout_s) == (("x",), 2, 8.0, 9.0)
    many, workers = Place(devices="cuda:0,cuda:1,cuda:2").build()
    assert (workers, many.threads_per_worker, many.preload) == (3, 2, launch.PRELOAD)
    assert Place(workers=5).build()[1] == 5
    assert Place(processes_per_trial=9).build()[1] == 1
    serial, one = Place("serial", devices=("cuda", "mps"), processes_per_trial=2).build()
    assert (one, serial) == (1, SerialExecutor(("cuda", "mps"), 2))
    more = {"cpus_per_trial": 3, "gpus_per_trial": 1, "hang_s": 8.0, "trial_timeout_s": 9.0}
    ray, in_flight = Place("ray", address="head:1", processes_per_trial=1, **more).build()
    assert (in_flight, ray) == (64, RayExecutor(address="head:1", workers=64, processes_per_trial=1, **more))
    assert Place("ray", workers=3).build()[0].workers == 3
    slurm, in_flight = Place("slurm", partition="p", memory_gb=4.0, time_limit_min=60, **more).build()
    assert (in_flight, slurm) == (100, SlurmExecutor(partition="p", workers=100, memory_gb=4.0, timeout_min=60, **more))


@pytest.mark.parametrize(
    ("given", "field_", "words"),
    [
        ({"stack": 0}, "stack", "^`stack` is a number of trials from 1, or auto, not 0$"),
        ({"stack": "many"}, "stack", "^`stack` is a number of trials from 1, or auto, not 'many'$"),
        ({"stack": 2, "processes_per_trial": 2}, "stack", "^`stack` runs several trials in one process: it cannot go"),
        ({"stack": "auto", "executor": "ray"}, "stack", "^`stack` goes with `executor` processes or serial, not ray$"),
        ({"address": "a"}, "address", "^`address` goes with `executor` ray, not processes$"),
        ({"partition": "p", "executor": "ray"}, "partition", "^`partition` goes with `executor` slurm, not ray$"),
        ({"memory_gb": 3.0}, "memory_gb", "^`memory_gb` goes with `executor` slurm, not processes$"),
        ({"gpus_per_trial": 1, "executor": "serial"}, "gpus_per_trial",
         "^`gpus_per_trial` goes with `executor` ray or slurm, not serial; name `devices` instead$"),
        ({"devices": "gpu"}, "devices", "^`devices` has 'gpu'; a device is cpu, mps, cuda or cuda:NUMBER$"),
        ({"workers": 3, "executor": "serial"}, "workers", "^`executor` serial runs one trial at a time"),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_is_refused(given: Any, field_: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Place(**given)
    assert (caught.value.field, caught.value.value) == (field_, given[field_])
    assert Place(stack=1, processes_per_trial=2).stack == 1
    assert Place(stack="auto", executor="serial").stack == "auto"


def test_the_command_line_of_a_study_is_what_changes_its_numbers() -> None:
    reading = Reading(("n",), ("a", "b"), ("lr",), "nll", "nats", "higher")
    line = _command(None, "python x.py {n}", {"n": [1, 2], "name": "a b"}, None, [0, 1], False, reading)
    assert line == (
        "metascale run --command 'python x.py {n}' --set 'n=[1,2]' --set 'name=\"a b\"' --scale n --series a --series "
        "b --best-of lr --loss nll --units nats --better higher --seeds 0,1 --no-baselines"
    )
    assert _command("digits", None, {}, "steps", None, True, Reading()) == "metascale run digits --profile steps"


def test_stacks_are_those_asked_for_else_those_the_study_began_with(monkeypatch: Any, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Planned:
        stack: Any
        executor: Any = field(default_factory=lambda: SerialExecutor(("cpu",), 1))
        record: Any = field(default_factory=lambda: {"command": "c", "stack": 9, "stacks": "old"})
        recipe: Any = None
        study: Any = None

    monkeypatch.setattr(launch, "stacks_of", lambda recipe, study, stack: ((f"of {stack}",),))
    monkeypatch.setattr(launch, "search_of", lambda study: study)
    assert _stacked(Planned(None), tmp_path) == (Planned(None, record={"command": "c"}), 1, "")
    assert _stacked(Planned(1), tmp_path)[1:] == (1, "")
    found, stack, told = _stacked(Planned(4), tmp_path)
    assert told == ""
    assert (found.record, stack) == ({"command": "c", "stack": 4, "stacks": (("of 4",),)}, 4)
    searching, stack, _ = _stacked(Planned("auto", study="a search"), tmp_path)  # whose trials are not known yet
    assert (searching.record, stack) == ({"command": "c", "stack": "auto"}, "auto")
    (tmp_path / "command.json").write_text('{"stack": 3}')
    found, stack, _ = _stacked(Planned(None), tmp_path)
    assert (found.record["stacks"], stack) == ((("of 3",),), 3)
    for cluster in (RayExecutor(), SlurmExecutor()):  # what it began with stays, for a later command here
        found, stack, told = _stacked(Planned(None, executor=cluster), tmp_path)
        assert (found.record, stack) == ({"command": "c", "stack": 3}, 1)
        assert told == (
            "this study began with `stack` 3; only `executor` processes and serial run trials together: here every "
            "trial runs by itself, with the same numbers"
        )


# -------------------------------------------------------------------------------------------- study files


@pytest.mark.parametrize(
    ("found", "field_", "words"),
    [
        ({"recipe": "r", "valuez": {}}, "valuez", "^here has the key 'valuez'; did you mean 'values'"),
        ({"values": {}}, "recipe", "^here names neither a recipe nor a command, or both; give one of them$"),
        ({"recipe": "r", "command": "c"}, "recipe", "^here names neither a recipe nor a command, or both"),
        ({"recipe": 3}, "recipe", "^here: 'recipe' is not a recipe's name or file"),
        ({"recipe": "r", "values": []}, "values", "^here: 'values' is not the configuration; a list makes an axis: "),
        ({"recipe": "r", "baselines": "no"}, "baselines", "^here: 'baselines' is not false: no baselines"),
        ({"recipe": "r", "seeds": 1.5}, "seeds", "^here: 'seeds' is not training seeds"),
        *(({"recipe": "r", name: 3}, name, f"^here: '{name}' is ") for name in ("scale", "series", "best_of", "loss")),
    ],
)  # fmt: skip
def test_a_study_file_that_is_none_is_refused(found: Any, field_: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        checked(found, "here")
    assert caught.value.field == field_


def test_a_study_file_has_lists_where_one_name_was_given() -> None:
    given = {
        "recipe": "r",
        "values": None,
        "baselines": False,
        "seeds": 3,
        "scale": "n",
        "series": ["a"],
        "best_of": "b",
    }
    assert checked(given, "here") == {**given, "scale": ["n"], "best_of": ["b"]}
    assert checked({"command": "c", "seeds": "0-4"}, "here") == {"command": "c", "seeds": "0-4"}
    assert list(KEYS) == ["recipe", "command", "profile", "seeds", "values", "scale", "series", "best_of", "loss",
                          "units", "better", "baselines"]  # fmt: skip


# ----------------------------------------------------------------------------------------- descriptions


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "a whole number"), (float, "a number"), (bool, "true or false"), (str, "a text"),
        (str | None, "a text; or none"), (str | int | None, "a text or a whole number; or none"),
        (Literal["a"], "a"), (Literal["a", "b", "c"], "a, b or c"), (tuple[float, ...], "a list, each a number"),
        (Annotated[int, Field(ge=1)], "a whole number at least 1"),
        (Annotated[float, Field(gt=0, le=1)], "a number above 0, at most 1"),
        (Annotated[float, Field(ge=0, lt=1)], "a number at least 0, below 1"),
        (Annotated[int, Field(ge=2, le=10**6)], "a whole number at least 2"),
        (Annotated[int, Field(ge=2, le=10**6 - 1)], "a whole number at least 2, at most 999999"),
        (Annotated[int, "told"], "a whole number"), (Path, "Path"),
    ],
)  # fmt: skip
def test_what_an_annotation_allows_in_words(hint: Any, words: str) -> None:
    assert allowed(hint).replace("1e+06", "999999") == words


def test_the_head_of_a_recipe_and_the_meaning_of_its_keys() -> None:
    doc = "Title: a title\n\nCommand:    one\n            two\nData:  here\n  and there\n\nMore text.\n  x"
    assert _header(doc) == {"Title": "a title", "Command": "one\ntwo", "Data": "here and there"}
    args = (
        'Words.\n\nArgs:\n    one, two: first\n        and second ``"x"``.\n\n    three: third.\nReturns:\n    four: no'
    )
    assert list(_arguments(args)) == [(["one", "two"], "first and second x."), (["three"], "third.")]
    assert list(_arguments("Words.")) == []


def test_what_the_doctor_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METASCALE_DATA", "/data")
    rows = describe_machine()
    names = [name for name, _ in rows]
    assert names[:3] == ["metascale", "python", "system"]
    assert tuple(names[3 : 3 + len(PACKAGES)]) == PACKAGES
    assert names[3 + len(PACKAGES) : 6 + len(PACKAGES)] == ["cores", "memory", "METASCALE_DATA"]
    told = dict(rows)
    assert told["METASCALE_DATA"] == "/data"
    assert told["numpy"][0].isdigit()
    size, unit = told["memory"].split()
    import psutil

    assert math.isclose(float(size) * 2**30, psutil.virtual_memory().total, rel_tol=0.05)
    assert unit == "GiB"
    monkeypatch.delenv("METASCALE_DATA")
    assert dict(describe_machine())["METASCALE_DATA"] == "not set"
    assert dict(describe_machine()).get("accelerators", "none that torch can use") == "none that torch can use"
    assert PACKAGES == (
        "numpy", "scipy", "torch", "safetensors", "transformers", "peft", "scikit-learn", "pillow", "bitsandbytes",
        "optuna", "ray", "submitit", "mlflow-skinny", "tensorboard", "wandb", "pyarrow",
    )  # fmt: skip


if __name__ == "__main__":
    DEFAULTS.write_text(
        "{{\n{}\n}}\n".format(",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in defaults().items()))
    )
