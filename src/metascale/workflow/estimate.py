"""What a study will cost, before it runs: trials, parameters, FLOPs, time and disk."""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from metascale.core.errors import InputError
from metascale.core.trees import n_elements
from metascale.core.types import Batch, Episode
from metascale.core.units import format_bytes, format_count
from metascale.parallel.execution import Execution
from metascale.study.design import Study
from metascale.study.search.run import n_search_trials
from metascale.training.flops import count_flops
from metascale.workflow.config import FewShotConfig
from metascale.workflow.fewshot import VALIDATIONS, Parts, make_inner, make_learner
from metascale.workflow.recipe import Recipe
from metascale.workflow.text import TextConfig, backbone_path

LARGE = 200_000_000
"""Frozen parameters above which a CPU only counts, and measures nothing."""


@dataclass(frozen=True)
class Estimate:
    """The cost of a study.

    Args:
        n_trials: all of them; ``n_meta`` are meta-trained.
        n_params_trainable, n_params_total: of the model.
        step_flops: FLOPs of one outer step (all tasks of a meta-batch).
        train_flops: FLOPs of all meta-training, at most.
        step_s: seconds of one outer step, measured here on one thread after a warm-up; ``None`` for a model too
            large to be tried, whose FLOPs are counted on its shapes alone (32 tokens a text).
        total_s: expected wall time of the whole study on ``workers`` workers, evaluations included, at most.
        disk_bytes: weights, checkpoints and records.
    """

    n_trials: int
    n_meta: int
    n_params_trainable: int
    n_params_total: int
    step_flops: float
    train_flops: float
    step_s: float | None
    total_s: float | None
    disk_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def estimate(recipe: Recipe, study: Study, workers: int, device: str = "cpu") -> Estimate | None:
    """Build the first meta-trained trial, count and time one outer step of it, and multiply.

    Studies without meta-learning have no outer step to measure: ``None``.

    Raises:
        InputError: the model or the data cannot be loaded.
    """
    if not issubclass(recipe.config, FewShotConfig):
        return None
    metas = [trial for trial in study.trials() if trial.config["kind"] == "meta"]
    first = (metas or list(study.trials()))[0]
    config = recipe.validate(first.config)
    if isinstance(config, TextConfig) and config.backbone and _frozen_size(config) > LARGE and device == "cpu":
        cost = _count_shapes(config)
    else:
        _require_device(device)
        cost = _measured(config, recipe.make_parts(config, first.seed, device), first.seed, device)
    train_s = train_flops = 0.0
    for trial in metas:
        each = recipe.validate(trial.config)
        steps = _steps(each, cost)
        n_validations = VALIDATIONS if each.budget == "compute" else steps // each.eval_every
        n_evaluated = (1 + n_validations) * each.n_validation_tasks + each.n_test_tasks
        n_curve = each.n_curve_tasks * max(each.adaptation_curve, default=0) / max(1, each.test_steps)
        train_s += steps * (cost.step_s or 0.0) + (n_evaluated + n_curve) * cost.adapt_s
        train_flops += steps * cost.step_flops
    # A search's trials are trained as long as the first one, on one seed, unless they are pruned.
    n_searched = n_search_trials(study)
    if metas and n_searched:
        train_s, train_flops = (total * (1 + n_searched / len(metas)) for total in (train_s, train_flops))
    records = 200 * sum(recipe.validate(trial.config).outer_steps // config.eval_every * 11 for trial in metas)
    return Estimate(
        n_trials=len(study.trials()) + n_searched,
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

    from metascale.workflow.text import adapted_model

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
        return _Cost(flops, None, 0.0, n_elements(theta), _frozen_parameters(model))


def _require_device(device: str) -> None:
    """
    Raises:
        InputError: this machine does not have the GPU that a step is to be measured on.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"a dry run measures a step on {device}, and this machine has no CUDA device")


def _measured(config: FewShotConfig, parts: Parts, seed: int, device: str) -> _Cost:
    """On one thread, on the first meta-batch of the study."""
    outside = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(config, parts, seed, device)
    finally:
        torch.set_num_threads(outside)


def _measure(config: FewShotConfig, parts: Parts, seed: int, device: str) -> _Cost:
    learner = make_learner(config, parts.model, seed, device) if config.kind == "meta" else None
    episode: Episode = parts.source.episodes("train", range(config.meta_batch)).to(device)
    params = {name: value.to(device) for name, value in parts.model.init(seed).items()}
    if learner is None:
        return _Cost(0.0, 0.0, 0.0, n_elements(params), _frozen_parameters(parts.model))
    theta = make_inner(config).init(params)
    one = episode.tasks(0, 1)
    step_flops = count_flops(lambda: learner.gradient(parts.model, theta, one, None)) * config.meta_batch
    state = learner.init(parts.model, seed, device)
    step_s = _seconds(lambda: learner.step(parts.model, state, episode))
    adapt_s = _seconds(lambda: learner.adapt(parts.model, params, one.support, config.test_steps))
    adapt_s *= _stacking_gain(parts, device)
    return _Cost(step_flops, step_s, adapt_s, n_elements(theta), _frozen_parameters(parts.model))


def _stacking_gain(parts: Parts, device: str) -> float:
    """Tasks evaluated in one stacked call share its overhead: a task costs about that much less than alone."""
    stacked = Execution.best_for(parts.model, device).chunk is None
    return 4.0 / parts.eval_batch if stacked and parts.eval_batch > 4 else 1.0


def _seconds(call: Any, repeats: int = 3) -> float:
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2]


def _frozen_parameters(model: Any) -> int:
    backbone = getattr(model, "backbone", None)
    return 0 if backbone is None else sum(parameter.numel() for parameter in backbone.parameters())


def _time(found: Estimate) -> str:
    if found.step_s is None or found.total_s is None:
        return "not measured: too large to try on this CPU; divide the FLOPs by what your device reaches"
    step = f"{found.step_s * 1e3:.0f} ms an outer step on one thread (measured)"
    return f"{step}; about {found.total_s / 60:.1f} min at most"


def describe(found: Estimate) -> list[tuple[str, str]]:
    """Names and values, for people."""
    step, whole = format_count(found.step_flops, "FLOP"), format_count(found.train_flops, "FLOP")
    return [
        ("trials", f"{found.n_trials} ({found.n_meta} meta-trained)"),
        ("parameters", f"{format_count(found.n_params_trainable)} trainable of {format_count(found.n_params_total)}"),
        ("FLOPs", f"{step} an outer step, {whole} in all at most"),
        ("time", _time(found)),
        ("disk", format_bytes(found.disk_bytes)),
    ]
