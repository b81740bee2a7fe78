"""Studies of sizes by hand: what shapes and language models are built of, what they leave and what they cost."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from metascale.core.columns import BASELINES_JSON, SIZE_JSON
from metascale.core.errors import InputError
from metascale.core.files import read_json
from metascale.core.run import MemoryRun
from metascale.models.convnet import ConvNet
from metascale.models.mup import MuP
from metascale.models.perceptron import Perceptron
from metascale.models.resnet import ResNet
from metascale.recipes import model_size, shapes
from metascale.recipes.shapes import ShapesConfig
from metascale.study.design import Study
from metascale.training.loop import Schedule
from metascale.training.optimizers import InPlaceAdamW
from metascale.workflow.language_models import ModelSizeConfig

SHAPE = ShapesConfig(
    n_train=20, width=6, depth=2, ratio=2.0, dropout=0.3, lr=0.1, weight_decay=0.2, batch_size=4, max_epochs=7,
    eval_epochs=2, patience=3, min_delta=0.5, n_train_evaluated=5,
)  # fmt: skip


class Data(SimpleNamespace):
    """Images of four pixels a side in two classes, five steps an epoch."""

    image_size, n_classes, steps_per_epoch, n_evaluation_batch = 4, 2, 5, 3

    def describe(self) -> dict[str, Any]:
        return {"name": "some"}

    def n_examples(self, split: str) -> int:
        return {"train": 20, "validation": 8, "test": 9}[split]


# Shapes.


def test_the_images_of_a_study_of_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    for name in ("mnist", "small_digits"):
        found = lambda *given, of=name, **named: asked.append((of, given, named)) or of
        monkeypatch.setattr(f"metascale.tasks.supervised.images.{name}", found)
    assert shapes._unshrunk("digits", 20, 4, None, 7) == "small_digits"
    assert shapes._unshrunk("mnist", None, 4, 30, 7) == "mnist"
    shapes._unshrunk("digits", 20, 4, 2000, 7)
    assert asked == [
        ("small_digits", (), {"n_train": 20, "n_batch": 4, "seed": 7, "n_evaluation_batch": 1000}),
        ("mnist", (None,), {"n_train": None, "n_batch": 4, "seed": 7, "n_evaluation_batch": 30}),
        ("small_digits", (), {"n_train": 20, "n_batch": 4, "seed": 7, "n_evaluation_batch": 1000}),
    ]


def test_images_are_shrunk_by_means_or_for_their_numbers_alone_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
    asked: list[Any] = []

    def unshrunk(*given: Any) -> Any:
        asked.append(given)
        return SimpleNamespace(images={"train": pixels}, details={"a": 1} if len(asked) < 3 else None)

    monkeypatch.setattr(shapes, "_unshrunk", unshrunk)
    monkeypatch.setattr(shapes, "replace", lambda data, **changes: SimpleNamespace(**{**vars(data), **changes}))
    shapes._images.cache_clear()
    halved = shapes.images(replace(SHAPE, shrink=2), 7)
    # Of 0 1 4 5 the mean is 2.5, which goes to the even 2; of 2 3 6 7 4.5, to 4.
    assert halved.images["train"].tolist() == [[[2, 4], [10, 12]], [[18, 20], [26, 28]]]
    assert halved.details == {"a": 1, "shrink": 2}
    assert shapes.images(replace(SHAPE, shrink=2, lr=0.5), 7) is halved  # what the images do not depend on
    assert shapes.images(SHAPE, 7).images["train"] is pixels
    assert shapes.images(replace(SHAPE, shrink=4), 7).details == {"shrink": 4}
    assert asked[:2] == [("digits", 20, 4, None, 7)] * 2
    thinned = shapes.thinned(replace(SHAPE, shrink=2, n_validation=9))
    assert thinned.images["train"].tolist() == [[[0, 2], [8, 10]], [[16, 18], [24, 26]]]
    assert asked[-1] == ("digits", 20, 4, 9, 0)
    shapes._images.cache_clear()


def test_the_net_of_each_architecture() -> None:
    data: Any = Data()
    assert shapes.net(SHAPE, data) == Perceptron(16, 2, 6, 2, ratio=2.0, dropout=0.3, task_axis=False)
    conv = replace(SHAPE, architecture="convnet", dropout_inner=0.4)
    assert shapes.net(conv, data) == ConvNet(
        2, 4, norm="group", width=6, depth=2, ratio=2.0, dropout=0.3, dropout_inner=0.4
    )  # fmt: skip
    resnet = replace(SHAPE, architecture="resnet", ratio=4.0)
    assert shapes.net(resnet, data) == ResNet(2, 1, 6, 2, 0.3)


def test_a_training_of_a_shape_and_what_it_measures_at_a_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    from metascale.training.supervised import SupervisedTraining

    data: Any = Data()
    found = shapes.training(SHAPE, data, 9, "cpu")
    assert type(found).__mro__[1].__name__ == "JoinedTraining"
    own = {name: getattr(found, name) for name in ("model", "examples", "optimizer", "rate_multipliers", "clip_norm")}
    own |= {name: getattr(found, name) for name in ("seed", "measure", "max_validation_batches", "autocast", "device")}
    assert own == {
        "model": shapes.net(SHAPE, data), "examples": data, "rate_multipliers": None, "clip_norm": 1.0, "seed": 9,
        "optimizer": InPlaceAdamW(0.1, beta2=0.999, weight_decay=0.2), "measure": "accuracy",
        "max_validation_batches": None, "autocast": False, "device": "cpu",
    }  # fmt: skip
    for n_validation, batches in ((7, 3), (6, 2)):
        assert (
            shapes.training(replace(SHAPE, n_validation=n_validation), data, 9, "cpu").max_validation_batches == batches
        )
    scaled = shapes.training(replace(SHAPE, parameterisation="mup", base_width=3), data, 9, "cpu")
    assert scaled.model == MuP(shapes.net(SHAPE, data), 3)
    assert scaled.rate_multipliers == scaled.model.rate_multipliers("adam")
    monkeypatch.setattr(SupervisedTraining, "validate", lambda self, state: {"validation_loss_nats": 1.0})
    evaluated = lambda self, params, split, batches: {f"{split}_loss_nats": (params, batches)}
    monkeypatch.setattr(SupervisedTraining, "evaluate", evaluated)
    row = found.validate(SimpleNamespace(step=12, params="theta"))  # type: ignore[arg-type]
    assert row == {"epoch": 2.4, "validation_loss_nats": 1.0, "train_loss_nats": ("theta", 2)}
    assert shapes.schedule(SHAPE, data) == Schedule(
        35, eval_every=10, patience=3, min_delta=0.5, checkpoint_every=10**9, log_every=10
    )  # fmt: skip


def stood_in(monkeypatch: pytest.MonkeyPatch, settings: ShapesConfig) -> tuple[list[Any], Any]:
    asked: list[Any] = []
    data, state = Data(), SimpleNamespace(params="theta")
    process = SimpleNamespace(
        evaluate=lambda *given: {"train_loss_nats": 0.75} if given == ("theta", "train", 2) else None
    )  # fmt: skip
    result = SimpleNamespace(row=lambda: {"steps": 30}, steps=30, state=state)
    tested = SimpleNamespace(row=lambda: {"test_loss_nats": 0.5}, training=result)
    monkeypatch.setattr(shapes, "load_recipe", lambda name: SimpleNamespace(validate=lambda config: settings))
    monkeypatch.setattr(shapes, "images", lambda *given: data if given == (settings, 4) else None)
    monkeypatch.setattr(shapes, "training", lambda *given: process if given == (settings, data, 4, "cpu") else None)
    monkeypatch.setattr("metascale.training.loop.train_or_prune", lambda *given: asked.append(given) or result)
    monkeypatch.setattr("metascale.training.supervised.train_and_test", lambda *given: asked.append(given) or tested)
    return asked, process


@pytest.mark.parametrize("architecture", ["mlp", "resnet"])
def test_the_row_of_a_shape(architecture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SHAPE, architecture=architecture, ratio=4.0 if architecture == "resnet" else 2.0)
    asked, process = stood_in(monkeypatch, settings)
    run = MemoryRun()
    row = shapes.trial({"recipe": "shapes", "seed": 4}, run, "cpu")
    data: Any = Data()
    model: Any = shapes.net(settings, data)
    forward = model.flops(4) if architecture == "resnet" else model.flops()
    assert asked == [(process, shapes.schedule(settings, data), run)]
    assert run.files == {"data.json": {"name": "some"}}
    assert row == {
        "test_loss_nats": 0.5, "train_loss_nats": 0.75, "n_params_total": model.n_params(), "width_over_depth": 3.0,
        "train_flops": 3 * 30 * 4 * sum(forward.values()), "epochs": 6.0,
    }  # fmt: skip


def test_thresholds_of_a_searched_shape_are_in_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, process = stood_in(monkeypatch, SHAPE)
    config = {"recipe": "shapes", "seed": 4, "kind": "tuning"}
    data: Any = Data()
    run = MemoryRun()
    row = shapes.trial({**config, "prune_above": [[1.0, 2.0], [2.5, 1.5]]}, run, "cpu")
    assert row == {"steps": 30, "epochs": 6.0}
    plan = shapes.schedule(SHAPE, data)
    shapes.trial(config, run, "cpu")
    assert asked == [(process, plan, run, [(5, 2.0), (12, 1.5)]), (process, plan, run, [])]


def test_which_shapes_may_run_together() -> None:
    together = replace(SHAPE, batch_size=16)
    free = {
        "lr": 1.0, "weight_decay": 0.0, "dropout": 0.0, "max_epochs": 1, "eval_epochs": 1, "patience": None,
        "min_delta": 0.0, "n_validation": 3, "n_train_evaluated": 9,
    }  # fmt: skip
    assert replace(together, **free).stack_kind() == together.stack_kind() != {}  # type: ignore[arg-type]
    for other in ({"width": 7}, {"depth": 3}, {"ratio": 1.0}, {"n_train": 30}, {"shrink": 2}, {"data": "mnist"},
                  {"batch_size": 32}, {"parameterisation": "mup"}, {"base_width": 5}):  # fmt: skip
        assert replace(together, **other).stack_kind() != together.stack_kind()  # type: ignore[arg-type]
    assert SHAPE.stack_kind() is None
    assert replace(together, architecture="resnet").stack_kind() is None


def test_a_shape_is_built_before_its_trial_and_trials_run_together(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    monkeypatch.setattr(shapes, "thinned", lambda settings: "thinned")
    monkeypatch.setattr(shapes, "net", lambda *given: built.append(given))
    shapes.check(SHAPE)
    assert built == [(SHAPE, "thinned")]
    ended: list[int] = []
    shapes.together([lambda: ended.append(1), lambda: ended.append(2)])
    assert sorted(ended) == [1, 2]


@pytest.mark.parametrize(
    ("config", "n"),
    [
        ({}, 64 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10),
        ({"width": 4, "ratio": 4.0}, 64 * 4 + 4 + 4 * 16 + 16 + 16 * 10 + 10),
        ({"data": "mnist", "shrink": 4, "width": 3, "depth": 1}, 49 * 3 + 3 + 3 * 10 + 10),
        ({"architecture": "convnet", "width": 4, "ratio": 4.0}, 9 * (4 + 4 * 16) + 2 * (4 + 16) + 16 * 10 + 10),
        (
            {"architecture": "resnet", "width": 2, "depth": 1},
            (9 * 2 + 2 * 2) + (9 * (4 + 4) + 8) + (9 * (8 + 16) + 16) + (9 * (32 + 64) + 32) + 8 * 10 + 10,
        ),
    ],
)  # fmt: skip
def test_parameters_of_a_shape_by_hand(config: dict[str, Any], n: int) -> None:
    assert shapes.n_params(config) == n


def study(base: dict[str, Any], axes: dict[str, list[Any]], seeds: tuple[int, ...] = (0, 1)) -> Study:
    return Study("some", "m:f", {"recipe": "shapes", **base}, axes, seeds)


def test_what_a_study_of_shapes_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    data: Any = Data()
    monkeypatch.setattr(shapes, "thinned", lambda settings: data)
    base = {"n_train": 20, "batch_size": 4, "max_epochs": 7, "eval_epochs": 2, "n_train_evaluated": 5}
    for more, n_validation in (({}, 8), ({"n_validation": 6}, 6)):
        small, large = shapes.trainings(study({**base, **more, "depth": 2}, {"width": [6, 8]}))
        # Four validations of 8 and 5 images, then 8 and 9 of the kept state; three evaluations are as many operations
        # as one step.
        evaluated = (n_validation + 5) * (7 // 2 + 1) + 8 + 9
        assert [one.n_trials for one in (small, large)] == [2, 2]
        assert small.n_steps == pytest.approx(7 * 5 + evaluated / 12)
        assert (small.kind, small.n_params) == ("mlp", 16 * 6 + 6 + 6 * 6 + 6 + 6 * 2 + 2)
        assert small.step_flops == 3 * 4 * 2 * (16 * 6 + 6 * 6 + 6 * 2)
        assert large.step_flops == 3 * 4 * 2 * (16 * 8 + 8 * 8 + 8 * 2)
    stepped: list[Any] = []
    process = SimpleNamespace(init=lambda: "state", step=lambda *given: stepped.append(given))
    monkeypatch.setattr(shapes, "images", lambda settings, seed: ("images", settings.width, seed))
    monkeypatch.setattr(shapes, "training", lambda *given: stepped.append(given[1:]) or process)
    small.prepare()()
    assert stepped == [(("images", 6, 0), 0, "cpu"), ("state", 0)]
    resnet = {**base, "architecture": "resnet", "ratio": 4.0, "depth": 1}
    (one,) = shapes.trainings(study(resnet, {"width": [2]}))
    assert (one.kind, one.step_flops) == ("resnet", 3 * 4 * sum(ResNet(2, 1, 2, 1, 0.1).flops(4).values()))


def test_a_dry_run_of_shapes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "trainings", lambda study: "those")
    given = lambda trainings: ("long", "large") if trainings == "those" else None
    monkeypatch.setattr("metascale.workflow.estimate.time_and_disk", given)
    axes = {"width": [32, 4], "depth": [2, 3]}
    title, heads, rows = shapes.costs(study({}, axes))
    sizes = [64 * w + w + (d - 1) * (w * w + w) + 10 * w + 10 for w in (4, 32) for d in (2, 3)]
    assert (title, heads) == ("shapes (dry run)", ["", ""])
    assert rows == [
        ["shapes", "4"], ["parameters", f"{min(sizes)} to {max(sizes):,}"], ["trials of the grid", "8 (2 seeds)"],
        ["time", "long"], ["disk", "large"],
    ]  # fmt: skip
    tune = {"space": {"lr": {"log": [0.1, 1.0]}}, "trials": 5, "strategy": "smallest", "size": "width"}
    searched = dict(shapes.costs(study({"tune": tune}, axes))[2])
    assert searched["trials of the searches"] == "10, 5 at 2 shapes"


# Language models.

MODEL = ModelSizeConfig(
    d_model=16, n_layers=2, n_heads=2, vocabulary=30, n_train_tokens=400, n_sequence=4, batch_size=3, epochs=2.0,
    warmup=0, evaluation_tokens=50,
)  # fmt: skip


def test_the_size_of_a_language_model_by_hand() -> None:
    assert model_size.size_of({}) == 12 * 4 * 64**2
    assert model_size.size_of({"d_model": 16, "n_layers": 3, "architecture": "resnet_bk"}) == 16 * 3 * 16**2


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"vocabulary": 33_278}, None), ({"n_train_tokens": 2_088_628}, None), ({"n_train_tokens": 8}, None),
        ({"n_train_tokens": None}, None),
        ({"vocabulary": 33_279}, "vocabulary of WikiText-2 must be from 2 to 33278, not 33279"),
        ({"n_train_tokens": 2_088_629}, "n_train_tokens of WikiText-2 must be from 1 to 2088628, not 2088629"),
        ({"n_train_tokens": 7}, "7 training tokens, too few for one window of 4 (it takes 8): raise n_train_toke"),
    ],
)  # fmt: skip
def test_what_wikitext_gives(values: dict[str, Any], sentence: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    monkeypatch.setattr(model_size, "language_model", lambda *given: built.append(given))
    settings = replace(MODEL, **values)
    if sentence is None:
        model_size.check(settings)
        assert built == [(settings,)]
        return
    with pytest.raises(InputError) as caught:
        model_size.check(settings)
    assert str(caught.value).startswith(sentence)


def test_another_text_is_read_before_its_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    monkeypatch.setattr(model_size, "language_model", lambda *given: built.append(given))
    monkeypatch.setattr(model_size, "text", lambda settings, seed: ("text", settings.unit, seed))
    for changes in ({"path": "/a.txt"}, {"unit": "bpe"}):
        model_size.check(replace(MODEL, vocabulary=10**6, **changes))  # type: ignore[arg-type]
    assert [given[1] for given in built] == [("text", "word", 0), ("text", "bpe", 0)]


def test_the_cost_of_a_language_model_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 tokens are 100 windows of four, of which a random offset takes one: 33 steps of three an epoch."""
    model: Any = SimpleNamespace(n_params=lambda: 100, n_non_embedding=lambda: 60)
    asked: list[Any] = []
    monkeypatch.setattr(model_size, "language_model", lambda settings, n_vocab: asked.append(n_vocab) or model)
    monkeypatch.setattr(model_size, "flops", lambda of, settings, steps: SimpleNamespace(exact=10.0 * steps))
    assert model_size.steps_per_epoch(MODEL) == 33
    assert model_size.steps_per_epoch(replace(MODEL, n_train_tokens=404)) == 34
    for name, copies in (("adamw", 4), ("lion", 3), ("sgd", 3)):
        settings = replace(MODEL, optimizer=name)  # type: ignore[arg-type]
        assert model_size.model_cost(settings) == (settings, 100, 60, 10.0, 660.0, copies * 4 * 100)
    assert asked == [30] * 3


def test_what_a_study_of_language_models_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = lambda settings: model_size.ModelCost(settings, 100, 60, 10.0, 660.0, 1600)
    monkeypatch.setattr(model_size, "model_cost", cost)
    recipe = SimpleNamespace(counts=lambda study: {MODEL: 3, replace(MODEL, n_validation_batches=2, eval_every=11): 1})
    monkeypatch.setattr(model_size, "load_recipe", lambda name: recipe)
    first, second = model_size.trainings(study({}, {"d_model": [1]}))
    # 66 steps of 12 tokens; three validations of all 50 tokens, or seven of 24; then both splits of 50.
    assert first.n_steps == pytest.approx(66 + (3 * 50 + 2 * 50) / 36)
    assert second.n_steps == pytest.approx(66 + (7 * 24 + 2 * 50) / 36)
    assert (first.kind, first.n_trials, second.n_trials, first.step_flops, first.n_params) == (
        "transformer", 3, 1, 10.0, 100,
    )  # fmt: skip
    stepped: list[Any] = []
    process = SimpleNamespace(init=lambda: "state", step=lambda *given: stepped.append(given))
    monkeypatch.setattr(model_size, "drawn", lambda settings: "drawn")
    monkeypatch.setattr(model_size, "training", lambda *given: stepped.append(given) or process)
    first.prepare()()
    assert stepped == [(MODEL, "drawn", 0, "cpu"), ("state", 0)]


def test_tokens_of_a_dry_run_are_drawn_enough_for_a_step() -> None:
    found = model_size.drawn(MODEL)
    assert (found.vocabulary, found.boundary) == (tuple(map(str, range(30))), 0)
    tokens = found.tokens["train"]
    assert (len(tokens), tokens.dtype, int(tokens.min()) >= 0, int(tokens.max()) < 30) == (12 + 8, np.int32, True, True)
    assert (found.n_sequence, found.n_batch) == (4, 3)
    assert found.batch(0).targets.shape == (3, 4)


@pytest.mark.parametrize(
    ("seeds", "searched", "words"),
    [((0,), 0, "1 training;"), ((0, 1), 0, "2 trainings;"), ((0, 1), 5, "2 trainings after at most 5 of a search;")],
)
def test_a_dry_run_of_language_models(
    seeds: tuple[int, ...], searched: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = model_size.ModelCost(MODEL, 1234, 567, 2e6, 3e9, 2048)
    monkeypatch.setattr(model_size, "model_costs", lambda study: [cost])
    monkeypatch.setattr(model_size, "n_search_trials", lambda study: searched)
    monkeypatch.setattr(model_size, "trainings", lambda study: "those")
    monkeypatch.setattr("metascale.workflow.estimate.time_and_disk", lambda those: ("long", "large"))
    title, heads, rows = model_size.costs(study({}, {"d_model": [16]}, seeds))
    assert title == (
        f"some: models of width × layers, {words} step and training in FLOPs, forward and backward; state: weights, "
        "gradients and the optimiser's\ntime: long\ndisk: large"
    )
    assert heads == ["model", "parameters", "non-embedding", "step", "training", "state"]
    assert rows == [["transformer 16×2", "1,234", "567", "2 M", "3 G", "2.00 KiB"]]


def test_each_configuration_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = SimpleNamespace(validate=lambda config: replace(MODEL, d_model=config["d_model"]))
    monkeypatch.setattr(model_size, "load_recipe", lambda name: recipe)
    monkeypatch.setattr(model_size, "model_cost", lambda settings: settings.d_model)
    assert model_size.model_costs(study({}, {"d_model": [32, 16]})) == [32, 16]


def test_the_floors_of_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(perplexity=lambda order, split: f"{order} on {split}", bigram_weight=0.25)
    monkeypatch.setattr("metascale.tasks.supervised.tokens.floors", lambda stream: found)
    stream: Any = SimpleNamespace(details={"unit": "word"}, n_vocab=7)
    assert model_size.floor_row(stream) == {
        **{
            f"{order}_{split}_perplexity": f"{order} on {split}"
            for order in ("unigram", "bigram") for split in ("validation", "test")
        },
        "n_vocab": 7, "token_unit": "word", "bigram_weight": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize("measured", [True, False])
def test_the_row_of_a_language_model(measured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(MODEL, measure_memory=measured)
    asked: list[Any] = []
    stream: Any = SimpleNamespace(describe=lambda: {"name": "text"}, batch_tokens=12, steps_per_epoch=33)
    model: Any = SimpleNamespace(n_params=lambda: 2**18, n_non_embedding=lambda: 60)
    kinds = {kind: 2.0**k for k, kind in enumerate(("weights", "parameters", "activations", "gradients"))}
    kinds |= {"optimizer_state": 16.0, "other": 32.0}
    memory = SimpleNamespace(by_kind=kinds, peak_bytes=63)
    flop = lambda of, own, steps: SimpleNamespace(
        exact=10.0 * steps, six_nd=5.0 * steps, components={"all": 10.0 * steps}
    )
    result = SimpleNamespace(row=lambda: {"steps": 66}, steps=66)
    tested = SimpleNamespace(training=result, test={"test_loss_nats": 1.0}, validation={"validation_loss_nats": 2.0})
    monkeypatch.setattr(model_size, "load_recipe", lambda name: SimpleNamespace(validate=lambda config: settings))
    monkeypatch.setattr(model_size, "text", lambda *given: stream if given == (settings, 4) else None)
    monkeypatch.setattr(model_size, "training", lambda *given: ("process", *given[2:]))
    monkeypatch.setattr(model_size, "schedule", lambda *given: "plan")
    monkeypatch.setattr(model_size, "memory_of_step", lambda *given: asked.append(given) or memory)
    monkeypatch.setattr(model_size, "language_model", lambda *given: model if given == (settings, stream) else None)
    monkeypatch.setattr(model_size, "flops", flop)
    monkeypatch.setattr(model_size, "floor_row", lambda of: {"floor": of is stream})
    trained = lambda *given: asked.append(given) or tested
    monkeypatch.setattr("metascale.training.supervised.train_and_test", trained)
    pruned = lambda *given: asked.append(given) or result
    monkeypatch.setattr("metascale.training.loop.train_or_prune", pruned)
    run = MemoryRun()
    for step, perplexity in ((0, 9.0), (33, 4.0), (66, 5.0)):
        run.append("eval_stats", {"step": step, "validation_perplexity": perplexity})
    row = model_size.trial({"recipe": "model_size", "seed": 4}, run, "cpu")
    process = ("process", 4, "cpu")
    assert asked == [*([(process, "cpu")] if measured else []), (process, "plan", run)]
    assert run.files == {"data.json": {"name": "text"}}
    expected = {
        "steps": 66, "test_loss_nats": 1.0, "validation_loss_nats": 2.0, "n_params_total": 2**18,
        "n_params_non_embedding": 60, "model_size_mb": 1.0, "tokens": 66 * 12, "epochs": 2.0, "final_perplexity": 5.0,
        "best_perplexity": 4.0, "perplexities": [[0, 9.0], [33, 4.0], [66, 5.0]], "step_flops": 10.0,
        "train_flops": 660.0, "train_flops_6nd": 330.0, "flops": {"all": 660.0}, "floor": True,
    }  # fmt: skip
    if measured:
        expected |= {"step_peak_bytes": 63, **{f"step_{kind}_bytes": int(value) for kind, value in kinds.items()}}
    assert row == expected
    asked.clear()
    config = {"recipe": "model_size", "seed": 4, "kind": "tuning"}
    assert model_size.trial({**config, "prune_above": [[1, 2.0]]}, run, "cpu") == {"steps": 66}
    model_size.trial(config, run, "cpu")
    assert asked == [(process, "plan", run, [[1, 2.0]]), (process, "plan", run, ())]


def test_rows_of_the_most_text_and_the_names_of_what_is_compared() -> None:
    rows = [{"n_train_tokens": 10, "a": 1}, {"n_train_tokens": 20, "a": 2}, {"n_train_tokens": 20, "a": 3}]
    assert [row["a"] for row in model_size.of_most_text(rows)] == [2, 3]
    assert [row["a"] for row in model_size.of_most_text([*rows, {"n_train_tokens": None, "a": 4}, {"a": 5}])] == [4, 5]
    many = [
        {"architecture": "t", "vocabulary": 500, "unit": "word", "lr": 0.1},
        {"architecture": "r", "vocabulary": 1000, "unit": "word", "lr": 0.2},
    ]  # fmt: skip
    named = model_size.named_apart(many, ("architecture", "vocabulary", "unit"))
    assert [row["architecture"] for row in named] == ["t, vocabulary 500", "r, vocabulary 1000"]
    assert [row["lr"] for row in named] == [0.1, 0.2]
    assert [row["architecture"] for row in model_size.named_apart(many, ())] == ["t", "r"]
    assert many[0]["architecture"] == "t"


@pytest.mark.parametrize(
    ("floors", "baselines"),
    [
        ([100.0, 100.0], {"bigram": math.log(100.0)}),
        ([100.0, 50.0], {"bigram, v 1": math.log(100.0), "bigram, v 2": math.log(50.0)}),
        ([None, None], None),
    ],
)
def test_the_bigram_models_of_a_study_are_its_baselines(
    floors: list[float | None], baselines: dict[str, float] | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    rows = [
        {"architecture": "t", "v": place, "test_loss_nats": 3.0, "kind": "trial", "bigram_test_perplexity": floor}
        for place, floor in enumerate(floors, start=1)
    ]
    table: Any = SimpleNamespace(finished=lambda kind: SimpleNamespace(rows=[*rows, {"test_loss_nats": None}]))
    view: Any = SimpleNamespace(folder=tmp_path, study=None)
    monkeypatch.setattr(model_size, "roles_of", lambda study: SimpleNamespace(series=("v",)))
    monkeypatch.setattr(model_size, "analyse_sizes", lambda found: {"rows": len(found)})
    (tmp_path / BASELINES_JSON).write_text("{}")
    assert model_size.conclude(view, table) == [tmp_path / SIZE_JSON]
    assert read_json(tmp_path / SIZE_JSON) == {"rows": 2}
    if baselines is None:
        assert not (tmp_path / BASELINES_JSON).exists()
    else:
        found = read_json(tmp_path / BASELINES_JSON)
        assert found == {
            name: {"kind": "baseline", "test_loss_nats": pytest.approx(value)} for name, value in baselines.items()
        }
    none: Any = SimpleNamespace(finished=lambda kind: SimpleNamespace(rows=[{"test_loss_nats": None}]))
    assert model_size.conclude(view, none) == []
    assert not (tmp_path / SIZE_JSON).exists()
