"""One trial of a few-shot study: where a task source meets a model and a learner."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metascale.core.columns import (
    TEST_CHOICE,
    TEST_EDGE,
    TEST_INNER_LR,
    TEST_INNER_STEPS,
    TEST_SCALE,
    TRAIN_POOL_JSON,
    VALIDATION_LOSS,
)
from metascale.core.errors import InputError
from metascale.core.files import sha256_of
from metascale.core.run import Run
from metascale.core.trees import n_elements, to
from metascale.core.types import Episode, Model, Params, TaskSource
from metascale.core.units import parse_bytes
from metascale.hypergrad.curvature import Exact
from metascale.hypergrad.linear import CG, Identity
from metascale.meta.baselines import (
    Adaptation,
    Arena,
    Baseline,
    ClassPlans,
    choose_adaptation,
    class_prior,
    fine_tuning,
    linear_probe,
    prototypes,
    zero_shot,
)
from metascale.meta.evaluate import Evaluation, adapted_predictor, evaluate
from metascale.meta.gradients import FOMAML, MAML, MetaGradient, Reptile
from metascale.meta.imaml import ImplicitMAML
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.meta.multi_step import MultiStepMAML
from metascale.meta.reverse import FullGraph, Through, named_through
from metascale.meta.training import MetaTraining
from metascale.models.metric import MetricClassifier
from metascale.parallel.budget import fit_to_budget, frozen_weights, profile_step
from metascale.parallel.execution import Execution
from metascale.parallel.out_of_memory import MicroBatches
from metascale.parallel.stacked import run_together
from metascale.study.search.search import PRUNE_KEY
from metascale.training.flops import count_flops
from metascale.training.loop import Schedule, train_or_prune
from metascale.training.memory import KINDS
from metascale.training.optimizers import SGD, Adam, Optimizer
from metascale.training.schedules import RateSchedule, named_schedule
from metascale.training.state import TrainState, to_bytes
from metascale.workflow.config import METRIC_LEARNERS, FewShotConfig
from metascale.workflow.recipe import Recipe, is_search, load_recipe

WEIGHTS = "theta.safetensors"
VALIDATIONS = 10
"""Validations of a training under a compute budget, after the one at its start: the same number for every method."""

SEARCHED_BATCHES = 16
"""Meta-batches among which the one with the longest inputs is taken for a memory budget."""


@dataclass(frozen=True)
class Parts:
    """What a recipe brings to a trial: a task source, a model, and how many tasks to evaluate at once."""

    source: TaskSource
    model: Model
    eval_batch: int = 8
    save_adapters: Callable[[Params, Run], None] | None = None


def trial(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Train (or prepare a baseline), evaluate on the fixed test episodes, and return one row of results."""
    recipe = load_recipe(config["recipe"])
    settings = few_shot(recipe, config)
    parts = recipe.make_parts(settings, config["seed"], device)
    if settings.kind == "meta":
        return _meta(settings, parts, config, run, device)
    return _baseline(settings, parts, config["seed"], run, device)


def together(runs: Sequence[Callable[[], None]]) -> None:
    """Run trials beside each other, joining what they compute (`metascale.parallel.stacked`)."""
    run_together(runs)


def few_shot(recipe: Recipe[Any], config: Mapping[str, object]) -> FewShotConfig:
    """A trial's configuration.

    Raises:
        InputError: the recipe's configuration class is not a `FewShotConfig`.
    """
    settings = recipe.validate(config)
    if not isinstance(settings, FewShotConfig):
        raise InputError(f"recipe '{recipe.name}' is not a few-shot study: its configuration is no FewShotConfig")
    return settings


def make_optimizer(
    kind: str, lr: float, weight_decay: float = 0.0, momentum: float = 0.0, betas: tuple[float, float] = (0.9, 0.999)
) -> Optimizer:
    """``"sgd"`` (with momentum where given), ``"adam"`` or ``"adamw"`` (Adam with decoupled decay) of that rate."""
    if kind == "sgd":
        return SGD(lr, momentum, weight_decay=weight_decay)
    return Adam(lr, *betas, weight_decay=weight_decay if kind == "adamw" else 0.0)


def inner_optimizer(settings: FewShotConfig, lr: float) -> Optimizer:
    """The inner optimiser of a configuration, at rate ``lr``."""
    betas = (settings.inner_beta1, settings.inner_beta2)
    return make_optimizer(settings.inner_optimizer, lr, settings.inner_weight_decay, settings.inner_momentum, betas)


def outer_optimizer(settings: FewShotConfig) -> Optimizer:
    """The outer optimiser of a configuration."""
    betas = (settings.outer_beta1, settings.outer_beta2)
    decay, momentum = settings.outer_weight_decay, settings.outer_momentum
    return make_optimizer(settings.outer_optimizer, settings.outer_lr, decay, momentum, betas)


def outer_rate(settings: FewShotConfig) -> RateSchedule:
    """The factor of the outer rate over the outer steps of a configuration."""
    return named_schedule(
        settings.outer_schedule,
        settings.outer_steps,
        warmup=settings.outer_warmup,
        floor=settings.outer_final_rate,
        decay_share=settings.outer_decay_share,
    )


def make_inner(settings: FewShotConfig) -> InnerLoop:
    """The inner loop of a configuration."""
    return InnerLoop(
        optimizer=inner_optimizer(settings, settings.inner_lr),
        steps=0 if settings.metric else settings.inner_steps,
        clip=settings.inner_clip,
        adapt=settings.adapt,
        batch_size=settings.inner_batch_size,
        micro_batch=settings.micro_batch,
        learn_rates=settings.learn_rates,
        rates_by=settings.rates_by,
        proximal=settings.proximal if settings.estimator[0] == "imaml" else 0.0,
    )


def make_gradient(settings: FewShotConfig) -> MetaGradient:
    """The meta-gradient estimator of a configuration."""
    inner = make_inner(settings)
    method, curvature = settings.estimator
    through = named_through(curvature, settings.curvature_probes)
    gradients: dict[str, Callable[[], MetaGradient]] = {
        **dict.fromkeys(METRIC_LEARNERS, lambda: FOMAML(inner)),
        "reptile": lambda: Reptile(inner, settings.reptile_data),
        "fomaml": lambda: FOMAML(inner),
        "maml": lambda: _maml(settings, inner, through),
        "imaml": lambda: ImplicitMAML(
            inner,
            CG(settings.cg_steps) if settings.cg_steps else Identity(measure=False),
            Exact() if isinstance(through, FullGraph) else through,
        ),
    }
    return gradients[method]()


def _maml(settings: FewShotConfig, inner: InnerLoop, through: Through) -> MetaGradient:
    if not (settings.multi_step or settings.first_order_steps):
        return MAML(inner, through)
    exact = Exact() if isinstance(through, FullGraph) else through
    return MultiStepMAML(inner, exact, settings.multi_step, settings.first_order_steps)


def make_learner(settings: FewShotConfig, model: Model, seed: int, device: str) -> MetaLearner:
    """The meta-learner of a configuration."""
    return MetaLearner(
        gradient=make_gradient(settings),
        outer=outer_optimizer(settings),
        clip=settings.outer_clip,
        execution=Execution.best_for(model, device, settings.train_threads, settings.meta_batch),
        seed=seed,
    )


def make_schedule(settings: FewShotConfig) -> Schedule:
    """The schedule of a budget: ``"converged"`` alone stops early, it and ``"compute"`` go back to the best state."""
    converged = settings.budget == "converged"
    return Schedule(
        max_steps=settings.outer_steps,
        eval_every=settings.eval_every,
        patience=settings.patience if converged else None,
        min_delta=settings.min_delta,
        restore_best=settings.budget in ("converged", "compute"),
        log_every=max(1, settings.eval_every // 10),
    )


def _meta(settings: FewShotConfig, parts: Parts, config: Mapping[str, Any], run: Run, device: str) -> dict[str, Any]:
    seed: int = config["seed"]
    learner = make_learner(settings, parts.model, seed, device)
    learner, parts = within_budget(settings, parts, learner, run, device)
    settings, cost = step_cost(settings, parts, learner, seed, device)
    learner = dataclasses.replace(learner, rate=outer_rate(settings))
    run.write(TRAIN_POOL_JSON, parts.source.describe())
    process = MetaTraining(
        parts.model,
        learner,
        parts.source,
        meta_batch=settings.meta_batch,
        seed=seed,
        n_validation=settings.n_validation_tasks,
        eval_steps=settings.validation_steps,
        eval_batch=parts.eval_batch,
        device=device,
        execution=learner.execution,
        micro_batches=MicroBatches(run),
    )
    result = train_or_prune(process, make_schedule(settings), run, config.get(PRUNE_KEY) or ())
    trained = {**result.row(), **cost}
    if is_search(config):
        return trained
    params = result.state.params
    weights = to_bytes(params)
    run.write(WEIGHTS, weights)
    if parts.save_adapters is not None:
        parts.save_adapters(params, run)
    began = time.perf_counter()
    adaptation = adaptation_at_test(settings, parts, learner.gradient.inner, params, device)
    parts = at_scale(parts, adaptation.choice.get("scale"))
    inner, n_tasks = adaptation.inner, settings.n_test_tasks
    test = evaluate_on_test(settings, parts, inner, params, [inner.steps], n_tasks, device)
    n_curve = min(settings.n_curve_tasks, n_tasks)
    curve = evaluate_on_test(settings, parts, inner, params, settings.adaptation_curve, n_curve, device)
    run.measure({"step": result.steps, "test_wall_s": time.perf_counter() - began})
    return {
        **_record_test(run, adaptation, test, inner.steps, curve, result.steps),
        **({TEST_SCALE: adaptation.choice["scale"]} if "scale" in adaptation.choice else {}),
        **trained,
        "n_params_trainable": n_elements(params),
        "theta_sha256": sha256_of(weights),
    }


def adaptation_at_test(
    settings: FewShotConfig, parts: Parts, inner: InnerLoop, params: Params, device: str
) -> Adaptation:
    """How meta-learnt parameters adapt to the test tasks.

    Chosen on meta-validation as the fine-tuning baseline's adaptation is, among the same candidates, unless
    ``eval_inner_steps`` fixes it. (Validations during training, which early stopping follows, take the inner steps and
    the rate of training.)
    """
    if settings.metric:
        return _choose_scale(settings, parts, inner, params, device)
    if settings.eval_inner_steps is not None:
        fixed = dataclasses.replace(inner, steps=settings.eval_inner_steps)
        rate = {} if settings.learn_rates else {"inner_lr": settings.inner_lr}
        return Adaptation(fixed, {**rate, "inner_steps": fixed.steps}, ())
    arena = make_arena(settings, parts, device)
    return choose_adaptation(parts.model, params, arena, inner, *_candidates(settings))


def _choose_scale(settings: FewShotConfig, parts: Parts, inner: InnerLoop, params: Params, device: str) -> Adaptation:
    """The factor of a metric learner's logits with the lowest meta-validation loss; the first of equal ones."""
    fixed = Adaptation(inner, {"inner_steps": 0}, ())
    if not settings.tune_scales:
        return fixed
    arena, table = make_arena(settings, parts, device), []
    for scale in sorted({1.0, *settings.tune_scales}):
        predictor = adapted_predictor(at_scale(parts, scale).model, inner, params, [0])
        loss = arena.run(predictor, "validation").at(0)["loss_nats"]
        table.append({"scale": scale, "inner_steps": 0, VALIDATION_LOSS: loss})
    best = min(table, key=lambda row: row[VALIDATION_LOSS])
    return Adaptation(inner, {"inner_steps": 0, "scale": best["scale"]}, tuple(table))


def at_scale(parts: Parts, scale: float | None) -> Parts:
    """``parts`` with the logits of their metric learner times ``scale``; ``None``: as they are."""
    if scale is None:
        return parts
    assert isinstance(parts.model, MetricClassifier)
    return dataclasses.replace(parts, model=dataclasses.replace(parts.model, scale=scale))


def _candidates(settings: FewShotConfig) -> tuple[Callable[[float], Optimizer], Sequence[float], Sequence[int]]:
    return lambda lr: inner_optimizer(settings, lr), settings.rate_choices, settings.step_choices


def make_arena(settings: FewShotConfig, parts: Parts, device: str) -> Arena:
    """Where adaptation and baselines are chosen and tested."""
    execution = Execution.best_for(parts.model, device, settings.train_threads, parts.eval_batch)
    n_tasks = (settings.n_validation_tasks, settings.n_test_tasks)
    return Arena(parts.source, *n_tasks, parts.eval_batch, execution, device)


def evaluate_on_test(
    settings: FewShotConfig,
    parts: Parts,
    inner: InnerLoop,
    params: Params,
    steps: Sequence[int],
    n_tasks: int,
    device: str,
) -> Evaluation:
    """Meta-learnt parameters on the first fixed meta-test episodes, after each number of inner steps in ``steps``."""
    return evaluate(
        adapted_predictor(parts.model, inner, params, steps),
        parts.source,
        "test",
        n_tasks,
        batch=parts.eval_batch,
        execution=Execution.best_for(parts.model, device, settings.train_threads, parts.eval_batch),
        device=device,
    )


def _baseline(settings: FewShotConfig, parts: Parts, seed: int, run: Run, device: str) -> dict[str, Any]:
    model, source = parts.model, parts.source
    params = to(model.init(seed), device)
    arena = make_arena(settings, parts, device)
    methods: dict[str, Callable[[], Baseline]] = {
        "zero_shot": lambda: zero_shot(model, params, arena),
        "class_prior": lambda: class_prior(_with_classes(source), arena),
        "prototypes": lambda: prototypes(model, params, arena),
        "linear_probe": lambda: linear_probe(model, params, arena),
        "fine_tuning": lambda: fine_tuning(model, params, arena, make_inner(settings), *_candidates(settings)),
    }
    found = methods[settings.method]()
    curve = found.test if len(found.test.inner_steps) > 1 else None
    row = _record_test(run, found, found.test, found.inner_steps, curve, 0)
    tuned = {name: value for name, value in found.choice.items() if name not in ("inner_steps", "inner_lr")}
    return {**row, **tuned, "steps": 0}


def _with_classes(source: TaskSource) -> ClassPlans:
    if not isinstance(source, ClassPlans):
        raise InputError("method=class_prior needs tasks of labelled classes")
    return source


def _record_test(
    run: Run, chosen: Adaptation | Baseline, test: Evaluation, inner_steps: int, curve: Evaluation | None, step: int
) -> dict[str, Any]:
    """Keep the choice, the test and its adaptation curve; the columns of the results that they give."""
    for candidate in chosen.table:
        run.append("tuning", {"step": step, **candidate})
    for task in test.tasks(inner_steps):
        run.append("test_tasks", {"step": step, **task})
    if curve is not None:
        for point in curve.curve():
            run.append("adaptation", {"step": step, "n_tasks_tested": len(curve.task_ids), **point})
    return {
        **{f"test_{name}": value for name, value in test.at(inner_steps).items()},
        TEST_INNER_STEPS: inner_steps,
        TEST_INNER_LR: chosen.choice.get("inner_lr"),
        TEST_CHOICE: "validation" if chosen.table else "fixed",
        TEST_EDGE: ", ".join(chosen.edges) or None,
    }


def step_cost(
    settings: FewShotConfig, parts: Parts, learner: MetaLearner, seed: int, device: str
) -> tuple[FewShotConfig, dict[str, Any]]:
    """The settings with the outer steps that a compute budget pays for, and the columns that say what a step costs.

    ``step_flops`` is counted on the first meta-batch of the trial, so that methods are compared on the same texts;
    ``step_peak_bytes`` and ``step_<kind>_bytes`` on its first two tasks, one after another, since more of them add
    nothing. Neither is there unless the configuration asks for it.

    Raises:
        InputError: the budget does not pay for one step.
    """
    columns: dict[str, Any] = {}
    if settings.budget != "compute" and not settings.measure_memory:
        return settings, columns
    model, state = parts.model, learner.init(parts.model, seed, device)
    episode = parts.source.episodes("train", range(settings.meta_batch)).to(device)
    if settings.budget == "compute":
        alone = dataclasses.replace(learner, execution=learner.execution.alone())
        columns["step_flops"] = count_flops(lambda: alone.step(model, state, episode))
        settings = _paid_for(settings, columns["step_flops"])
    if settings.measure_memory:
        columns |= step_memory(learner, model, state, episode.tasks(0, 2))
    return settings, columns


def _paid_for(settings: FewShotConfig, step_flops: float) -> FewShotConfig:
    assert settings.budget_flops is not None
    steps = int(settings.budget_flops // step_flops)
    if steps < 1:
        raise InputError(
            f"budget_flops={settings.budget_flops:g} does not pay for one outer step of method '{settings.method}', "
            f"which takes {step_flops:.3g} operations"
        )
    return dataclasses.replace(settings, max_steps=steps, eval_every=max(1, -(-steps // VALIDATIONS)))


def step_memory(learner: MetaLearner, model: Model, state: TrainState, episode: Episode) -> dict[str, int]:
    """Live bytes at the peak of one outer step, in all, without the frozen weights, and by what they hold.

    Tasks run one after another. Bytes of live tensors are the same in every run; the first step, which makes what
    later ones share, is left out.
    """
    alone = dataclasses.replace(learner, execution=Execution(chunk=1))
    alone.step(model, state, episode.tasks(0, 1))
    report = profile_step(alone, model, state, episode, weights=frozen_weights(model))
    return {
        "step_peak_bytes": report.live_bytes,
        "step_peak_without_weights_bytes": report.live_bytes - int(report.by_kind["weights"]),
        **{f"step_{kind}_bytes": int(report.by_kind[kind]) for kind in KINDS},
    }


def within_budget(
    settings: FewShotConfig, parts: Parts, learner: MetaLearner, run: Run, device: str
) -> tuple[MetaLearner, Parts]:
    """Learner and model set up so that an outer step's peak stays within ``memory_budget``: the same numbers.

    The plan chosen is written to the run as ``memory_plan.json``. It is measured on the meta-batch with the longest
    inputs among the first `SEARCHED_BATCHES`; a longer one that does not fit halves the micro-batch when it comes.

    Raises:
        DoesNotFit: not even the most frugal plan fits.
    """
    if settings.memory_budget is None:
        return learner, parts
    size = settings.meta_batch
    batches = (parts.source.episodes("train", range(k * size, (k + 1) * size)) for k in range(SEARCHED_BATCHES))
    longest = max(batches, key=_n_inputs)
    fitted = fit_to_budget(learner, parts.model, longest, parse_bytes(settings.memory_budget), device=device)
    run.write("memory_plan.json", fitted.row())
    return fitted.learner, dataclasses.replace(parts, model=fitted.model)


def _n_inputs(episode: Episode) -> int:
    return sum(value.numel() for batch in (episode.support, episode.query) for value in batch.inputs.values())
