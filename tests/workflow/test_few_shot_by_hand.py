"""A few-shot trial: what is built of its configuration, and what its parts are asked for and give, by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.files import sha256_of
from metascale.core.run import MemoryRun
from metascale.core.types import Batch, Episode
from metascale.hypergrad.curvature import Exact, GaussNewton
from metascale.hypergrad.linear import CG, Identity
from metascale.meta.baselines import Adaptation, Arena, Baseline
from metascale.meta.evaluate import Evaluation
from metascale.meta.gradients import FOMAML, MAML, Reptile
from metascale.meta.imaml import ImplicitMAML
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.meta.multi_step import MultiStepMAML
from metascale.meta.reverse import FullGraph
from metascale.meta.training import MetaTraining
from metascale.models.metric import MetricClassifier, Prototypes
from metascale.parallel.execution import Execution
from metascale.testing import SmoothClassifier
from metascale.training.loop import Schedule
from metascale.training.optimizers import SGD, Adam
from metascale.training.schedules import Constant, Cosine, WarmupStableDecay
from metascale.training.state import to_bytes
from metascale.workflow import fewshot
from metascale.workflow.config import FewShotConfig
from metascale.workflow.fewshot import Parts, make_gradient, make_inner, make_optimizer, make_schedule

OWN = FewShotConfig(
    n_tasks=7, meta_batch=3, inner_lr=0.25, inner_steps=2, inner_momentum=0.5, inner_clip=0.7,
    inner_weight_decay=0.01, inner_batch_size=4, micro_batch=2, adapt=("a*",), inner_beta1=0.6, inner_beta2=0.7,
    outer_lr=0.02, outer_clip=1.5, outer_momentum=0.4, outer_beta1=0.8, outer_beta2=0.95, outer_weight_decay=0.03,
    max_steps=40, eval_every=20, patience=3, min_delta=0.02, n_validation_tasks=11, n_test_tasks=9, n_curve_tasks=4,
    adaptation_curve=(0, 2), train_threads=2, curvature_probes=6, proximal=3.0, cg_steps=4,
    tune_rates=(0.5,), tune_steps=(1, 6),
)  # fmt: skip
LOOP = InnerLoop(SGD(0.25, 0.5, weight_decay=0.01), 2, clip=0.7, adapt=("a*",), batch_size=4, micro_batch=2)


def test_optimisers_have_what_is_theirs() -> None:
    assert make_optimizer("sgd", 0.1, 0.2, 0.3, (0.4, 0.5)) == SGD(0.1, 0.3, weight_decay=0.2)
    assert make_optimizer("adam", 0.1, 0.2, 0.3, (0.4, 0.5)) == Adam(0.1, 0.4, 0.5, weight_decay=0.0)
    assert make_optimizer("adamw", 0.1, 0.2, 0.3, (0.4, 0.5)) == Adam(0.1, 0.4, 0.5, weight_decay=0.2)
    assert make_optimizer("sgd", 0.1) == SGD(0.1)
    assert make_optimizer("adamw", 0.1) == Adam(0.1, 0.9, 0.999, weight_decay=0.0)
    inner = {
        kind: fewshot.inner_optimizer(replace(OWN, inner_optimizer=kind), 2.0) for kind in ("sgd", "adam", "adamw")
    }
    assert inner["sgd"] == SGD(2.0, 0.5, weight_decay=0.01)
    assert inner["adam"] == Adam(2.0, 0.6, 0.7, weight_decay=0.0)
    assert inner["adamw"] == Adam(2.0, 0.6, 0.7, weight_decay=0.01)
    outer = {kind: fewshot.outer_optimizer(replace(OWN, outer_optimizer=kind)) for kind in ("sgd", "adam", "adamw")}
    assert outer["sgd"] == SGD(0.02, 0.4, weight_decay=0.03)
    assert outer["adam"] == Adam(0.02, 0.8, 0.95, weight_decay=0.0)
    assert outer["adamw"] == Adam(0.02, 0.8, 0.95, weight_decay=0.03)


def test_the_outer_rate_moves_over_the_outer_steps() -> None:
    of = lambda name: fewshot.outer_rate(
        replace(OWN, outer_schedule=name, outer_warmup=10, outer_final_rate=0.1, outer_decay_share=0.5)
    )
    assert of("constant") == Constant(10)
    assert of("cosine") == Cosine(40, 10, 0.1)
    assert of("linear") == WarmupStableDecay(40, 10, 30, 0.1)
    assert of("wsd") == WarmupStableDecay(40, 10, 15, 0.1)


def test_the_inner_loop_of_each_kind_of_method() -> None:
    assert make_inner(OWN) == LOOP
    assert make_inner(replace(OWN, learn_rates=True, rates_by="step")) == replace(
        LOOP, learn_rates=True, rates_by="step"
    )
    assert make_inner(replace(OWN, method="imaml")) == replace(LOOP, proximal=3.0)
    assert make_inner(replace(OWN, method="protonet")) == replace(LOOP, steps=0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"method": "reptile"}, Reptile(LOOP, "support")),
        ({"method": "reptile", "reptile_data": "all"}, Reptile(LOOP, "all")),
        ({"method": "fomaml"}, FOMAML(LOOP)),
        ({"method": "maml"}, MAML(LOOP, Exact())),
        ({"method": "maml", "curvature": "unrolled"}, MAML(LOOP, FullGraph())),
        ({"method": "maml", "curvature": "gauss_newton"}, MAML(LOOP, GaussNewton())),
        ({"method": "maml", "multi_step": 5}, MultiStepMAML(LOOP, Exact(), 5, 0)),
        ({"method": "maml", "first_order_steps": 6}, MultiStepMAML(LOOP, Exact(), 0, 6)),
        (
            {"method": "maml", "curvature": "unrolled", "multi_step": 5, "first_order_steps": 6},
            MultiStepMAML(LOOP, Exact(), 5, 6),
        ),
        (
            {"method": "maml", "curvature": "gauss_newton", "multi_step": 5},
            MultiStepMAML(LOOP, GaussNewton(), 5, 0),
        ),
        ({"method": "imaml"}, ImplicitMAML(replace(LOOP, proximal=3.0), CG(4), Exact())),
        ({"method": "imaml", "curvature": "unrolled"}, ImplicitMAML(replace(LOOP, proximal=3.0), CG(4), Exact())),
        (
            {"method": "imaml", "curvature": "gauss_newton", "cg_steps": 0},
            ImplicitMAML(replace(LOOP, proximal=3.0), Identity(measure=False), GaussNewton()),
        ),
        *(({"method": name}, FOMAML(replace(LOOP, steps=0))) for name in ("protonet", "r2d2", "metaoptnet")),
    ],
)  # fmt: skip
def test_the_estimator_of_each_method(changes: dict[str, Any], expected: Any) -> None:
    assert make_gradient(replace(OWN, **changes)) == expected


def test_probes_are_those_of_the_configuration() -> None:
    through = make_gradient(replace(OWN, method="maml", curvature="diagonal_hutchinson")).through
    assert through.probes == 6


def test_the_learner_and_its_schedule() -> None:
    model = SimpleNamespace(task_execution="threads")
    learner = fewshot.make_learner(replace(OWN, method="fomaml"), model, 5, "cpu")
    assert learner == MetaLearner(
        FOMAML(LOOP), outer=SGD(0.02, 0.4, weight_decay=0.03), clip=1.5, execution=Execution(1, 2), seed=5
    )
    in_processes = SimpleNamespace(task_execution="processes")
    assert fewshot.make_learner(OWN, in_processes, 5, "cpu").execution == Execution(1, 2, in_processes=True)
    # Of visits: 7 tasks visited 20 times, 3 at a time, take 47 steps.
    assert make_schedule(OWN) == Schedule(40, 20, 3, 0.02, restore_best=True, log_every=2)
    assert make_schedule(replace(OWN, budget="steps")) == Schedule(40, 20, None, 0.02, restore_best=False, log_every=2)
    assert make_schedule(replace(OWN, budget="visits")) == Schedule(47, 20, None, 0.02, restore_best=False, log_every=2)
    assert make_schedule(replace(OWN, budget="compute", eval_every=9)) == Schedule(
        40, 9, None, 0.02, restore_best=True, log_every=1
    )


# -------------------------------------------------------------------------------------------------- one trial


class Source:
    """Tasks of the smooth classifier; batch k has k mod 5 more examples."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[int]]] = []

    def episodes(self, split: str, indices: Any) -> Episode:
        self.asked.append((split, list(indices)))
        return SmoothClassifier().episode(len(indices))

    def n_tasks(self, split: str) -> int:
        return 7

    def describe(self) -> dict[str, Any]:
        return {"pools": "these"}


def evaluation(steps: tuple[int, ...] = (0, 2), n_tasks: int = 2) -> Evaluation:
    """Losses 1 and 3 of two tasks without steps, 0.5 and 0.7 after some; every other query is right, then all."""
    losses = np.array([[1.0, 0.5], [3.0, 0.7]])[:n_tasks, : len(steps)]
    accuracy = np.array([[0.5, 1.0], [0.5, 1.0]])[:n_tasks, : len(steps)]
    return Evaluation(("t0", "t1")[:n_tasks], steps, losses, accuracy)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What a trial asks of training, choosing and evaluating, which answer at once."""
    seen = SimpleNamespace(evaluated=[], chosen=[], trained=[])
    theta = {"head.weight": torch.arange(6.0), "b": torch.zeros(2)}

    def train(process: Any, schedule: Any, run: Any, prune_above: Any) -> Any:
        seen.trained.append((process, schedule, prune_above))
        return SimpleNamespace(state=SimpleNamespace(params=theta), steps=30, row=lambda: {"steps": 30, "best": 1.5})

    def choose(*given: Any) -> Adaptation:
        seen.chosen.append(given)
        inner = replace(given[3], steps=6)
        table = tuple({"inner_lr": lr, "inner_steps": 6, "validation_loss_nats": lr} for lr in (0.25, 0.5))
        return Adaptation(inner, {"inner_lr": 0.25, "inner_steps": 6}, table)

    def evaluated(predictor: Any, source: Any, split: str, n_tasks: int, **rest: Any) -> Evaluation:
        seen.evaluated.append((predictor, source, split, n_tasks, rest))
        return evaluation(predictor.wanted if len(predictor.wanted) == 2 else (predictor.wanted[0],))

    monkeypatch.setattr(fewshot, "train_or_prune", train)
    monkeypatch.setattr(fewshot, "choose_adaptation", choose)
    monkeypatch.setattr(fewshot, "evaluate", evaluated)
    seen.theta = theta
    return seen


def test_a_meta_trained_trial_from_its_pool_to_its_row(asked: SimpleNamespace) -> None:
    settings = replace(OWN, method="fomaml", outer_schedule="cosine", eval_inner_steps=None)
    model, source, run, saved = SmoothClassifier(), Source(), MemoryRun(), []
    parts = Parts(source, model, 5, save_adapters=lambda params, of: saved.append((params, of)))
    row = fewshot._meta(settings, parts, {"seed": 8, "prune_above": [[10, 2.0]]}, run, "cpu")
    assert run.files == {"train_pool.json": {"pools": "these"}, "theta.safetensors": to_bytes(asked.theta)}
    ((process, schedule, prune_above),) = asked.trained
    learner = replace(fewshot.make_learner(settings, model, 8, "cpu"), rate=Cosine(40, 0, 0.0))
    assert process == MetaTraining(
        model, learner, source, 3, 8, 11, 2, 5, "cpu", learner.execution, micro_batches=process.micro_batches
    )
    assert process.micro_batches.run is run
    assert (schedule, prune_above) == (make_schedule(settings), [[10, 2.0]])
    assert saved == [(asked.theta, run)]
    ((of_model, params, arena, inner, optimizer, rates, steps),) = asked.chosen
    assert (of_model, params, inner) == (model, asked.theta, LOOP)
    assert arena == Arena(source, 11, 9, 5, Execution(), "cpu")
    assert optimizer(2.0) == SGD(2.0, 0.5, weight_decay=0.01)
    assert (list(rates), list(steps)) == ([0.25, 0.5], [1, 2, 6])
    (test, *where), (curve, *of_curve) = asked.evaluated
    assert where == [source, "test", 9, {"batch": 5, "execution": Execution(), "device": "cpu"}]
    assert of_curve == [source, "test", 4, {"batch": 5, "execution": Execution(), "device": "cpu"}]
    assert (test.wanted, test.inner.steps, curve.wanted) == ((6,), 6, (0, 2))
    assert row == {
        "test_loss_nats": 2.0, "test_loss_sem_nats": 1.0, "test_accuracy": 0.5, "test_accuracy_sem": 0.0,
        "test_inner_steps": 6, "test_inner_lr": 0.25, "test_choice": "validation",
        "test_choice_edge": "smallest inner_lr",
        "steps": 30, "best": 1.5, "n_params_trainable": 8, "theta_sha256": sha256_of(to_bytes(asked.theta)),
    }  # fmt: skip
    (measured,) = run.measurements
    assert measured["step"] == 30
    assert 0 <= measured["test_wall_s"] < 60
    assert [each["inner_lr"] for each in run.records["tuning"]] == [0.25, 0.5]
    assert [each["n_tasks_tested"] for each in run.records["adaptation"]] == [2, 2]


def test_a_trial_of_a_search_ends_with_its_training(asked: SimpleNamespace) -> None:
    run = MemoryRun()
    row = fewshot._meta(OWN, Parts(Source(), SmoothClassifier()), {"seed": 0, "kind": "tuning"}, run, "cpu")
    assert row == {"steps": 30, "best": 1.5}
    assert list(run.files) == ["train_pool.json"]
    assert asked.trained[0][2] == ()
    assert asked.evaluated == asked.chosen == []


def test_a_curve_has_no_more_tasks_than_the_test(asked: SimpleNamespace) -> None:
    run, settings = MemoryRun(), replace(OWN, n_curve_tasks=50)
    fewshot._meta(settings, Parts(Source(), SmoothClassifier()), {"seed": 0}, run, "cpu")
    assert [n_tasks for _, _, _, n_tasks, _ in asked.evaluated] == [9, 9]


def test_steps_and_rate_of_the_test_may_be_fixed(asked: SimpleNamespace) -> None:
    parts = Parts(Source(), SmoothClassifier())
    found = lambda **changes: fewshot.adaptation_at_test(replace(OWN, **changes), parts, LOOP, {}, "cpu")
    assert found(eval_inner_steps=4) == Adaptation(replace(LOOP, steps=4), {"inner_lr": 0.25, "inner_steps": 4}, ())
    assert found(eval_inner_steps=0, learn_rates=True) == Adaptation(replace(LOOP, steps=0), {"inner_steps": 0}, ())
    assert asked.chosen == []


def test_the_scale_of_a_metric_learner_is_the_first_of_the_lowest_validation_losses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, model = Source(), MetricClassifier(SmoothClassifier(), 3, Prototypes())
    settings = replace(OWN, method="protonet", tune_scales=(4.0, 0.5))
    losses = {0.5: 2.0, 1.0: 0.75, 4.0: 0.75}
    seen: list[Any] = []

    def run(self: Arena, predictor: Any, split: str) -> Any:
        seen.append((predictor.model.scale, predictor.wanted, split))
        return SimpleNamespace(at=lambda steps: {"loss_nats": losses[predictor.model.scale] + steps})

    monkeypatch.setattr(Arena, "run", run)
    found = fewshot.adaptation_at_test(settings, Parts(source, model), LOOP, {}, "cpu")
    assert seen == [(scale, (0,), "validation") for scale in (0.5, 1.0, 4.0)]
    rows = tuple({"scale": s, "inner_steps": 0, "validation_loss_nats": losses[s]} for s in (0.5, 1.0, 4.0))
    assert found == Adaptation(LOOP, {"inner_steps": 0, "scale": 1.0}, rows)
    alone = fewshot.adaptation_at_test(replace(settings, tune_scales=()), Parts(source, model), LOOP, {}, "cpu")
    assert alone == Adaptation(LOOP, {"inner_steps": 0}, ())
    assert len(seen) == 3
    assert fewshot.at_scale(Parts(source, model), 4.0).model == replace(model, scale=4.0)
    same = Parts(source, model)
    assert fewshot.at_scale(same, None) is same


def test_the_scale_chosen_is_that_of_the_test_and_a_column(
    asked: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MetricClassifier(SmoothClassifier(), 3, Prototypes())
    chosen = Adaptation(replace(LOOP, steps=0), {"inner_steps": 0, "scale": 4.0}, ())
    monkeypatch.setattr(fewshot, "_choose_scale", lambda *given: chosen)
    settings = replace(OWN, method="protonet", tune_scales=(4.0,))
    row = fewshot._meta(settings, Parts(Source(), model), {"seed": 0}, MemoryRun(), "cpu")
    assert (row["test_scale"], row["test_inner_lr"], row["test_choice"]) == (4.0, None, "fixed")
    assert {predictor.model.scale for predictor, *_ in asked.evaluated} == {4.0}
    assert asked.trained[0][0].model.scale != 4.0


def test_a_recipe_gives_settings_and_parts_by_the_kind_of_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class OfRecipe:
        name = "mine"

        def validate(self, config: Any) -> Any:
            return settings

        def make_parts(self, of: Any, seed: int, device: str) -> str:
            asked.append((of, seed, device))
            return "parts"

    monkeypatch.setattr(fewshot, "load_recipe", lambda name: OfRecipe() if name == "mine" else None)
    monkeypatch.setattr(fewshot, "_meta", lambda *given: ("meta", given))
    monkeypatch.setattr(fewshot, "_baseline", lambda *given: ("baseline", given))
    config, run = {"recipe": "mine", "seed": 4}, MemoryRun()
    settings: Any = OWN
    assert fewshot.trial(config, run, "mps") == ("meta", (OWN, "parts", config, run, "mps"))
    settings = replace(OWN, kind="control", method="class_prior")
    assert fewshot.trial(config, run, "cpu") == ("baseline", (settings, "parts", 4, run, "cpu"))
    assert asked == [(OWN, 4, "mps"), (settings, 4, "cpu")]
    settings = SimpleNamespace()
    sentence = "^recipe 'mine' is not a few-shot study: its configuration is no FewShotConfig$"
    with pytest.raises(InputError, match=sentence):
        fewshot.trial(config, run, "cpu")


@pytest.mark.parametrize(
    ("method", "choice", "tuned"),
    [
        ("zero_shot", {}, {}),
        ("class_prior", {}, {}),
        ("prototypes", {"scale": 2.0}, {"scale": 2.0}),
        ("linear_probe", {"decay": 0.1}, {"decay": 0.1}),
        ("fine_tuning", {"inner_steps": 2, "inner_lr": 0.5}, {}),
    ],
)
def test_a_baseline_is_asked_about_the_model_as_drawn(
    method: str, choice: dict[str, Any], tuned: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, tuple[Any, ...]] = {}
    steps = (0, 2) if method == "fine_tuning" else (0,)
    found = Baseline(choice, steps[-1], ({**choice, "validation_loss_nats": 1.0},) if choice else (), evaluation(steps))
    for name in ("zero_shot", "class_prior", "prototypes", "linear_probe", "fine_tuning"):
        monkeypatch.setattr(fewshot, name, lambda *given, name=name: asked.update({name: given}) or found)
    source, model, run = Source(), SmoothClassifier(), MemoryRun()
    source.plan = lambda split, index: None  # type: ignore[attr-defined]
    monkeypatch.setattr(fewshot, "_with_classes", lambda of: (of, "with classes"))
    settings = replace(OWN, kind="baseline", method=method)
    row = fewshot._baseline(settings, Parts(source, model, 5), 6, run, "cpu")
    arena = Arena(source, 11, 9, 5, Execution(), "cpu")
    ((name, given),) = asked.items()
    assert name == method
    if method == "class_prior":
        assert given == ((source, "with classes"), arena)
    else:
        assert (given[0], given[2]) == (model, arena)
        assert given[1].keys() == model.init(6).keys()
        assert all(torch.equal(value, model.init(6)[name]) for name, value in given[1].items())
    if method == "fine_tuning":
        assert given[3] == LOOP
        assert given[4](3.0) == SGD(3.0, 0.5, weight_decay=0.01)
        assert tuple(map(list, given[5:])) == ([0.25, 0.5], [1, 2, 6])
    loss = {0: (2.0, 1.0, 0.5), 2: (0.6, pytest.approx(0.1), 1.0)}[steps[-1]]
    assert row == {
        "test_loss_nats": pytest.approx(loss[0]), "test_loss_sem_nats": loss[1], "test_accuracy": loss[2],
        "test_accuracy_sem": 0.0, "test_inner_steps": steps[-1], "test_inner_lr": choice.get("inner_lr"),
        "test_choice": "validation" if choice else "fixed", "test_choice_edge": None, **tuned, "steps": 0,
    }  # fmt: skip
    assert ("adaptation" in run.records) == (method == "fine_tuning")
    assert {each["step"] for each in run.records["test_tasks"]} == {0}


def test_the_class_prior_needs_classes() -> None:
    with pytest.raises(InputError, match=r"^method=class_prior needs tasks of labelled classes$"):
        fewshot._with_classes(SimpleNamespace())


def test_what_is_kept_of_a_test() -> None:
    run, table = MemoryRun(), tuple({"inner_lr": lr, "inner_steps": 2, "validation_loss_nats": lr} for lr in (0.1, 0.2))
    chosen = Adaptation(LOOP, {"inner_lr": 0.1, "inner_steps": 2}, table)
    row = fewshot._record_test(run, chosen, evaluation(), 2, evaluation(), 12)
    assert run.records["tuning"] == [{"step": 12, **each} for each in table]
    assert run.records["test_tasks"] == [
        {"step": 12, "episode": 0, "task_id": "t0", "loss_nats": 0.5, "accuracy": 1.0},
        {"step": 12, "episode": 1, "task_id": "t1", "loss_nats": 0.7, "accuracy": 1.0},
    ]
    first, second = run.records["adaptation"]
    assert first == {
        "step": 12, "n_tasks_tested": 2, "inner_steps": 0, "loss_nats": 2.0, "loss_sem_nats": 1.0, "accuracy": 0.5,
        "accuracy_sem": 0.0,
    }  # fmt: skip
    assert (second["inner_steps"], second["loss_nats"]) == (2, 0.6)
    assert row == {
        "test_loss_nats": 0.6, "test_loss_sem_nats": pytest.approx(0.1), "test_accuracy": 1.0, "test_accuracy_sem": 0.0,
        "test_inner_steps": 2, "test_inner_lr": 0.1, "test_choice": "validation",
        "test_choice_edge": "smallest inner_lr",
    }  # fmt: skip
    bare = MemoryRun()
    fixed = fewshot._record_test(bare, Adaptation(LOOP, {"inner_steps": 0}, ()), evaluation((0,)), 0, None, 0)
    assert list(bare.records) == ["test_tasks"]
    assert (fixed["test_choice"], fixed["test_inner_lr"], fixed["test_choice_edge"]) == ("fixed", None, None)


# ------------------------------------------------------------------------------------------- FLOPs and memory


@pytest.mark.parametrize(
    ("budget", "steps", "every"),
    [(1000.0, 1, 1), (9999.0, 9, 1), (10_000.0, 10, 1), (11_000.0, 11, 2), (25_500.0, 25, 3)],
)
def test_a_compute_budget_pays_for_whole_steps_with_ten_validations(budget: float, steps: int, every: int) -> None:
    settings = replace(OWN, budget="compute", budget_flops=budget)
    assert fewshot._paid_for(settings, 1000.0) == replace(settings, max_steps=steps, eval_every=every)


def test_a_compute_budget_below_a_step_is_refused() -> None:
    settings = replace(OWN, budget="compute", budget_flops=999.0, method="maml")
    sentence = "^budget_flops=999 does not pay for one outer step of method 'maml', which takes 1e\\+03 operations$"
    with pytest.raises(InputError, match=sentence):
        fewshot._paid_for(settings, 1000.0)


def test_the_cost_of_a_step_is_counted_on_the_first_meta_batch_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, model = Source(), SmoothClassifier()
    settings = replace(OWN, budget="compute", budget_flops=5000.0, adapt=("*",))
    learner = replace(fewshot.make_learner(settings, model, 0, "cpu"), execution=Execution(1, 2))
    stepped: list[Any] = []

    def step(self: MetaLearner, of: Any, state: Any, episode: Episode) -> None:
        stepped.append((self.execution, of, state, episode.n_tasks))

    monkeypatch.setattr(MetaLearner, "step", step)
    monkeypatch.setattr(fewshot, "count_flops", lambda call: call() or 1000.0)
    monkeypatch.setattr(fewshot, "step_memory", lambda *given: {"memory of": given})
    parts = Parts(source, model)
    paid, columns = fewshot.step_cost(settings, parts, learner, 3, "cpu")
    assert (paid, columns) == (replace(settings, max_steps=5, eval_every=1), {"step_flops": 1000.0})
    ((execution, of, state, n_tasks),) = stepped
    assert (execution, of, n_tasks) == (Execution(1), model, 3)
    assert torch.equal(state.params["head.weight"], learner.init(model, 3).params["head.weight"])
    assert source.asked == [("train", [0, 1, 2])]
    measured = replace(OWN, measure_memory=True)
    same, columns = fewshot.step_cost(measured, parts, learner, 3, "cpu")
    of_learner, of_model, _, two = columns.pop("memory of")
    assert (same, columns, of_learner, of_model, two.n_tasks) == (measured, {}, learner, model, 2)
    both = fewshot.step_cost(replace(settings, measure_memory=True), parts, learner, 3, "cpu")[1]
    assert list(both) == ["step_flops", "memory of"]
    n_asked = len(source.asked)
    assert fewshot.step_cost(OWN, parts, learner, 3, "cpu") == (OWN, {})
    assert len(source.asked) == n_asked


def test_memory_is_that_of_the_second_step_of_tasks_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []
    monkeypatch.setattr(MetaLearner, "step", lambda self, m, s, e: events.append(("step", self.execution, e.n_tasks)))
    monkeypatch.setattr(fewshot, "frozen_weights", lambda model: f"weights of {model}")

    def profile(learner: MetaLearner, model: Any, state: Any, episode: Episode, *, weights: Any) -> Any:
        events.append(("profile", learner.execution, model, state, episode.n_tasks, weights))
        kinds = ("weights", "parameters", "activations", "gradients", "optimizer_state", "other")
        return SimpleNamespace(live_bytes=63, by_kind={kind: 2.0**place for place, kind in enumerate(kinds)})

    monkeypatch.setattr(fewshot, "profile_step", profile)
    learner = MetaLearner(FOMAML(LOOP), execution=Execution(2, 2))
    found = fewshot.step_memory(learner, "model", "state", SmoothClassifier().episode(2))
    assert events == [
        ("step", Execution(chunk=1), 1),
        ("profile", Execution(chunk=1), "model", "state", 2, "weights of model"),
    ]
    assert found == {
        "step_peak_bytes": 63, "step_peak_without_weights_bytes": 62, "step_weights_bytes": 1,
        "step_parameters_bytes": 2, "step_activations_bytes": 4, "step_gradients_bytes": 8,
        "step_optimizer_state_bytes": 16, "step_other_bytes": 32,
    }  # fmt: skip
    assert {type(value) for value in found.values()} == {int}


def test_a_memory_budget_is_fitted_to_the_longest_of_the_first_sixteen_meta_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Growing(Source):
        def episodes(self, split: str, indices: Any) -> Episode:
            self.asked.append((split, list(indices)))
            width = {15: 5, 16: 9}.get(indices[0] // 3, 2)
            batch = Batch({"x": torch.zeros(3, 1, width)}, torch.zeros(3, 1))
            return Episode(tuple(map(str, indices)), batch, batch)

    source, run = Growing(), MemoryRun()
    fitted: list[Any] = []

    def fit(learner: Any, model: Any, episode: Episode, budget: int, device: str) -> Any:
        fitted.append((learner, model, episode.task_ids, budget, device))
        return SimpleNamespace(learner="a smaller one", model="another", row=lambda: {"chunk": 1})

    monkeypatch.setattr(fewshot, "fit_to_budget", fit)
    settings = replace(OWN, memory_budget="2 KiB")
    parts = Parts(source, "model", 5)  # type: ignore[arg-type]
    assert fewshot.within_budget(settings, parts, "learner", run, "mps") == (
        "a smaller one", Parts(source, "another", 5),
    )  # fmt: skip
    assert fitted == [("learner", "model", ("45", "46", "47"), 2048, "mps")]
    assert source.asked == [("train", [3 * k, 3 * k + 1, 3 * k + 2]) for k in range(16)]
    assert run.files == {"memory_plan.json": {"chunk": 1}}
    assert fewshot.within_budget(OWN, parts, "learner", run, "cpu") == ("learner", parts)
    assert len(fitted) == 1


def test_inputs_are_counted_in_both_sets() -> None:
    inputs = {"a": torch.zeros(2, 3, 4), "b": torch.zeros(2, 3)}
    support, query = Batch(inputs, torch.zeros(2, 3)), Batch({"a": torch.zeros(2, 5)}, torch.zeros(2, 5))
    assert fewshot._n_inputs(Episode(("x", "y"), support, query)) == 24 + 6 + 10


def test_trials_that_run_together_all_end() -> None:
    ended: list[int] = []
    fewshot.together([lambda: ended.append(0), lambda: ended.append(1)])
    assert sorted(ended) == [0, 1]
