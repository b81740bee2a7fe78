"""What a study will cost, before it runs: trials, parameters, FLOPs, time and disk."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from metascale.core.errors import InputError
from metascale.core.trees import n_elements, to
from metascale.core.types import Batch, Episode, Model
from metascale.core.units import format_bytes, format_count, format_seconds
from metascale.parallel.execution import Execution
from metascale.parallel.out_of_memory import is_out_of_memory
from metascale.study.design import Study
from metascale.study.search.run import n_search_trials
from metascale.study.store.checkpoints import KEPT
from metascale.training.flops import count_flops
from metascale.workflow.config import FewShotConfig, TrialConfig
from metascale.workflow.fewshot import VALIDATIONS, Parts, few_shot, make_inner, make_learner
from metascale.workflow.recipe import CostTable, Recipe
from metascale.workflow.text import TextConfig, adapted_model, backbone_path

RECORD_BYTES = 200
"""Of one row of a training's records, about."""

LARGE = 200_000_000
"""Frozen parameters above which a CPU only counts, and measures nothing."""

MEASURED_FLOPS = 5e10
"""Of a supervised training step that a dry run takes, at most."""

FILES_BYTES = 48 * 1024
"""Of the dozen small files of a trial, in blocks of 4 KiB."""

NOT_MEASURED = "not measured: too large to try on this CPU; divide the FLOPs by what your device reaches"


@dataclass(frozen=True)
class Estimate:
    """The cost of a study.

    Args:
        n_trials: those of the axes and beside them, of which ``n_meta`` are meta-trained.
        n_searched: those of searches, before them.
        n_params_trainable, n_params_total: of the model.
        step_flops: FLOPs of one outer step (all tasks of a meta-batch).
        train_flops: FLOPs of all meta-training, at most.
        step_s: seconds of one outer step, measured here on one thread after a warm-up; ``None`` for a model too
            large to be tried, whose FLOPs are counted on its shapes alone (32 tokens a text).
        total_s: expected wall time of the whole study on ``workers`` workers, evaluations included, at most.
        disk_bytes: weights, checkpoints and records.
    """

    n_trials: int
    n_searched: int
    n_meta: int
    n_params_trainable: int
    n_params_total: int
    step_flops: float
    train_flops: float
    step_s: float | None
    total_s: float | None
    disk_bytes: int

    def table(self) -> list[list[str]]:
        """Names and values, for people."""
        step, whole = format_count(self.step_flops, "FLOP"), format_count(self.train_flops, "FLOP")
        trainable, total = format_count(self.n_params_trainable), format_count(self.n_params_total)
        searches = f", after at most {self.n_searched} of searches" if self.n_searched else ""
        time = NOT_MEASURED
        if self.step_s is not None and self.total_s is not None:
            time = f"{self.step_s * 1e3:.0f} ms an outer step on one thread (measured)"
            time += f"; about {self.total_s / 60:.1f} min at most"
        return [
            ["trials", f"{self.n_trials} ({self.n_meta} meta-trained)" + searches],
            ["parameters", f"{trainable} trainable of {total}"],
            ["FLOPs", f"{step} an outer step, {whole} in all at most"],
            ["time", time],
            ["disk", format_bytes(self.disk_bytes)],
        ]


def cost_table(recipe: Recipe[TrialConfig], study: Study, workers: int, device: str = "cpu") -> CostTable:
    """What a study will cost, as the recipe counts it or by `estimate_costs`; the title is empty for the latter."""
    counted = recipe.count_costs(study)
    if counted is not None:
        return counted
    found = estimate_costs(recipe, study, workers, device)
    rows = [
        ["trials", str(len(study.trials()))],
        ["cost", "not estimated for this study; a profile 'smoke', where there is one, takes seconds"],
    ]
    axes = ", ".join(f"{key} in {list(values)}" for key, values in study.axes.items())
    rows = [*(rows if found is None else found.table()), ["axes", f"{axes}; seeds {list(study.seeds)}"]]
    return "", [f"{recipe.name} (dry run)", ""], rows


def estimate_costs(recipe: Recipe[TrialConfig], study: Study, workers: int, device: str = "cpu") -> Estimate | None:
    """Build the first meta-trained trial, count and time one outer step of it, and multiply.

    Studies without meta-learning have no outer step to measure: ``None``.

    Raises:
        InputError: the model or the data cannot be loaded, or an outer step does not fit into memory.
    """
    if not issubclass(recipe.config, FewShotConfig):
        return None
    trials = study.trials()
    metas = [few_shot(recipe, trial.config) for trial in trials if trial.config["kind"] == "meta"]
    first = next((trial for trial in trials if trial.config["kind"] == "meta"), trials[0])
    config = few_shot(recipe, first.config)
    cost = _cost_of(recipe, config, first.seed, device)
    train_s = train_flops = records = 0.0
    for each in metas:
        steps = _steps(each, cost)
        n_validations = VALIDATIONS if each.budget == "compute" else steps // each.eval_every
        n_evaluated = (1 + n_validations) * each.n_validation_tasks + each.n_test_tasks
        n_curve = each.n_curve_tasks * max(each.adaptation_curve, default=0)
        n_rates = 1 if each.learn_rates else len(each.rate_choices)
        n_chosen = n_rates * each.n_validation_tasks * max(each.step_choices) if each.eval_inner_steps is None else 0
        train_s += steps * (cost.step_s or 0.0)
        train_s += (n_evaluated + (n_curve + n_chosen) / max(1, each.validation_steps)) * cost.adapt_s
        train_flops += steps * cost.step_flops
        records += RECORD_BYTES * (each.outer_steps // each.eval_every * 11)
    # A search's trials are trained as long as the first one, on one seed, unless they are pruned.
    n_searched = n_search_trials(study)
    if metas and n_searched:
        train_s, train_flops = (total * (1 + n_searched / len(metas)) for total in (train_s, train_flops))
    return Estimate(
        n_trials=len(trials),
        n_searched=n_searched,
        n_meta=len(metas),
        n_params_trainable=cost.trainable,
        n_params_total=cost.trainable + cost.frozen,
        step_flops=cost.step_flops,
        train_flops=train_flops,
        step_s=cost.step_s,
        total_s=None if cost.step_s is None else train_s / max(1, min(workers, len(metas), os.cpu_count() or 1)),
        disk_bytes=int(len(metas) * cost.trainable * 4 + workers * cost.trainable * 4 * 8 + records),
    )


def _steps(config: FewShotConfig, cost: _Cost) -> int:
    """Outer steps at most; under a compute budget, those it pays for at the first trial's cost."""
    if config.budget == "compute" and config.budget_flops is not None:
        return int(config.budget_flops // max(1.0, cost.step_flops))
    return config.outer_steps


@dataclass(frozen=True)
class _Cost:
    """FLOPs and seconds of one outer step, seconds of evaluating one task, and parameters."""

    step_flops: float
    step_s: float | None
    adapt_s: float
    trainable: int
    frozen: int


def _frozen_size(config: TextConfig) -> int:
    from metascale.models.text.hf import count_parameters

    return count_parameters(backbone_path(config.backbone))["total"]


def _count_shapes(config: TextConfig) -> _Cost:
    """FLOPs of an outer step from shapes alone: no weights, no data, no arithmetic."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    def batch(n_examples: int) -> Batch:
        ids = torch.zeros(1, n_examples * config.n_way, min(32, config.max_length), dtype=torch.long)
        return Batch({"input_ids": ids}, torch.zeros(1, n_examples * config.n_way, dtype=torch.long))

    shaped = dataclasses.replace(config, random_weights=0, dtype="float32", load_in_8bit=False, attention="eager")
    # An optimiser's arithmetic is element-wise, so plain SGD counts the same as the configured one.
    plain = dataclasses.replace(shaped, inner_optimizer="sgd", outer_optimizer="sgd", dropout=0.0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = adapted_model(plain, "cpu")
        theta = make_inner(plain).init(model.init(0))
        gradient = make_learner(plain, model, 0, "cpu").gradient
        episode = Episode(("shape",), batch(config.k_shot), batch(config.n_query))
        flops = count_flops(lambda: gradient(model, theta, episode, None)) * config.meta_batch
        return _Cost(flops, None, 0.0, n_elements(theta), _n_frozen(model))


def _cost_of(recipe: Recipe[TrialConfig], config: FewShotConfig, seed: int, device: str) -> _Cost:
    if isinstance(config, TextConfig) and config.backbone and _frozen_size(config) > LARGE and device == "cpu":
        return _count_shapes(config)
    try:
        return _measure(config, recipe.make_parts(config, seed, device), seed, device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"recipe '{recipe.name}': an outer step of the first trial does not fit into the memory of this machine; "
            "choose a smaller model, meta_batch, n_way, k_shot or n_query"
        ) from error


def _measure(config: FewShotConfig, parts: Parts, seed: int, device: str) -> _Cost:
    """The first meta-batch of the study, on one thread."""
    model = parts.model
    params = to(model.init(seed), device)
    if config.kind != "meta":
        return _Cost(0.0, 0.0, 0.0, n_elements(params), _n_frozen(model))
    learner = make_learner(config, model, seed, device)
    theta = make_inner(config).init(params)
    episode: Episode = parts.source.episodes("train", range(config.meta_batch)).to(device)
    one = episode.tasks(0, 1)
    outside = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step_flops = count_flops(lambda: learner.gradient(model, theta, one, None)) * config.meta_batch
        state = learner.init(model, seed, device)
        step_s = _seconds(lambda: learner.step(model, state, episode))
        adapt_s = _seconds(lambda: learner.adapt(model, params, one.support, config.validation_steps))
        adapt_s *= _stacking_gain(parts, device)
    finally:
        torch.set_num_threads(outside)
    return _Cost(step_flops, step_s, adapt_s, n_elements(theta), _n_frozen(model))


def _stacking_gain(parts: Parts, device: str) -> float:
    """Tasks evaluated in one stacked call share its overhead: a task costs about that much less than alone."""
    stacked = Execution.best_for(parts.model, device).chunk is None
    return 4.0 / parts.eval_batch if stacked and parts.eval_batch > 4 else 1.0


def _seconds(call: Callable[[], object], repeats: int = 3) -> float:
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def _n_frozen(model: Model) -> int:
    backbone = getattr(model, "backbone", None)
    return 0 if backbone is None else sum(parameter.numel() for parameter in backbone.parameters())


@dataclass(frozen=True)
class Trainings:
    """Supervised trainings of one configuration.

    Args:
        kind: trainings of one kind have one line of seconds in FLOPs: an architecture.
        n_trials: how many there are, those of searches among them.
        n_steps: steps of one at most; evaluations count as the steps of as many operations.
        step_flops, n_params: of the model.
        prepare: makes a call that takes one training step.
    """

    kind: str
    n_trials: int
    n_steps: float
    step_flops: float
    n_params: int
    prepare: Callable[[], Callable[[], object]]


def time_and_disk(trainings: Sequence[Trainings]) -> tuple[str, str]:
    """What a supervised study takes, in words: time by steps measured here on one thread, and disk.

    Of every kind a step of the cheapest model and one of the dearest that is not too large are measured; the others lie
    on the line through both.
    """
    total_s, measured = 0.0, []
    for kind in dict.fromkeys(one.kind for one in trainings):
        own = sorted((one for one in trainings if one.kind == kind), key=lambda one: one.step_flops)
        tried = [one for one in own if one.step_flops <= MEASURED_FLOPS]
        if not tried:
            return NOT_MEASURED, _disk_of(trainings)
        ends = [tried[0], tried[-1]] if tried[-1].step_flops > tried[0].step_flops else tried[:1]
        seconds = _on_one_thread([one.prepare for one in ends])
        measured += seconds
        flops = [one.step_flops for one in ends] if len(ends) == 2 else [0.0, ends[0].step_flops]
        low, high = seconds if len(ends) == 2 else (0.0, seconds[0])
        slope = max(0.0, high - low) / (flops[1] - flops[0])
        total_s += sum(one.n_trials * one.n_steps * max(low, low + slope * (one.step_flops - flops[0])) for one in own)
    span = dict.fromkeys(_short(value) for value in (min(measured), max(measured)))
    time = f"{' to '.join(span)} a step on one thread (measured); about {format_seconds(total_s)} of one thread for "
    return time + "training and evaluation, if none stops early", _disk_of(trainings)


def _short(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.9995 else format_seconds(seconds)


def _on_one_thread(prepared: Sequence[Callable[[], Callable[[], object]]]) -> list[float]:
    outside = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_seconds(prepare()) for prepare in prepared]
    finally:
        torch.set_num_threads(outside)


def _disk_of(trainings: Sequence[Trainings]) -> str:
    records = sum(one.n_trials * (FILES_BYTES + RECORD_BYTES * one.n_steps / 10) for one in trainings)
    # A checkpoint holds the weights, both moments of Adam and the best weights; the newest two are kept.
    checkpoints = KEPT * 4 * 4 * max(one.n_params for one in trainings)
    return f"{format_bytes(records)}, and up to {format_bytes(checkpoints)} of checkpoints for each trial that runs"
