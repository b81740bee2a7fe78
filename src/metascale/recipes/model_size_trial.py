"""One trial of a study of model sizes: train a language model of a stated width and depth, stop early, test once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from metascale.core.run import Run
from metascale.core.types import Split
from metascale.models.language import LanguageModel
from metascale.models.mup import MuP
from metascale.models.resnet_bk import ResNetBK
from metascale.models.transformer import Transformer
from metascale.recipes.model_size import ModelSizeConfig
from metascale.tasks.supervised.ngrams import floors
from metascale.tasks.supervised.token_stream import TokenStream
from metascale.tasks.supervised.wikitext import wikitext
from metascale.training.flops import TrainingFlops, training_flops
from metascale.training.loop import Schedule
from metascale.training.memory import KINDS, LiveBytes, MemoryReport, WatchedModel, measure_memory
from metascale.training.optimizers import InPlaceAdamW
from metascale.training.schedules import Constant, Cosine, RateSchedule, WarmupStableDecay
from metascale.training.supervised import SupervisedTraining, train_and_test
from metascale.workflow.pruning import train_or_prune
from metascale.workflow.recipe import is_search, load_recipe
from metascale.workflow.text import data_dir

BYTES_A_NUMBER = 4
MIB = 2**20
DECAY_SHARE = 0.2
"""Of a training with the schedule ``wsd``: the way down."""


def trial(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Train and test one model; a trial of a search ends with its validation loss."""
    settings: ModelSizeConfig = load_recipe(config["recipe"]).validate(config)
    stream = text(settings, config["seed"])
    run.write("data.json", stream.describe())
    process, plan = training(settings, stream, config["seed"], device), schedule(settings, stream)
    if is_search(config):
        found, pruned = train_or_prune(process, plan, run, config)
        return {
            "validation_loss_nats": found.best_validation_loss_nats,
            "steps": found.steps,
            "training": found.status,
            **pruned,
        }
    memory = memory_of_step(process, device) if settings.measure_memory else None
    tested = train_and_test(process, plan, run)
    model = language_model(settings, stream)
    looks = run.rows("eval_stats")
    return {
        **tested.test,
        **tested.validation,
        **sizes(model),
        "tokens": tested.training.steps * stream.batch_tokens,
        "epochs": tested.training.steps / stream.steps_per_epoch,
        "steps": tested.training.steps,
        "best_step": tested.training.best_step,
        "training": tested.training.status,
        # Of the validation tokens that training looked at; those of the kept model on all tokens are above.
        "final_perplexity": looks[-1]["validation_perplexity"],
        "best_perplexity": min(row["validation_perplexity"] for row in looks),
        "perplexities": [[row["step"], row["validation_perplexity"]] for row in looks],
        **cost(flops(model, settings, 1), flops(model, settings, tested.training.steps)),
        **({} if memory is None else memory_row(memory)),
        **floor_row(stream),
    }


def text(settings: ModelSizeConfig, seed: int) -> TokenStream:
    """WikiText-2 in the vocabulary of a configuration."""
    stream = wikitext(
        data_dir(),
        settings.vocabulary,
        settings.n_sequence,
        settings.batch_size,
        seed,
        n_train_tokens=settings.n_train_tokens,
    )
    if settings.evaluation_tokens is None:
        return stream
    evaluated: tuple[Split, ...] = ("validation", "test")
    cut = {split: stream.tokens[split][: settings.evaluation_tokens] for split in evaluated}
    return replace(stream, tokens={**stream.tokens, **cut})


def language_model(settings: ModelSizeConfig, stream: TokenStream | None = None) -> LanguageModel:
    """The model of a configuration; without a stream, of the configuration's vocabulary as it is."""
    n_vocab = settings.vocabulary if stream is None else stream.n_vocab
    d, n_layers, n_positions = settings.d_model, settings.n_layers, settings.n_sequence
    if settings.architecture == "resnet_bk":
        return ResNetBK(n_vocab, d, n_layers, n_positions, dropout=settings.dropout)
    return Transformer(
        n_vocab,
        d,
        n_layers,
        settings.n_heads,
        n_positions,
        positions=settings.positions,
        tied=settings.tied,
        dropout=settings.dropout,
    )


def training(settings: ModelSizeConfig, stream: TokenStream, seed: int, device: str) -> SupervisedTraining:
    """Its training, in the standard parameterisation or in μP."""
    model: Any = language_model(settings, stream)
    multipliers: Mapping[str, float] | None = None
    if settings.parameterisation == "mup":
        model = MuP(model, settings.base_width)
        multipliers = model.rate_multipliers("adam")
    return SupervisedTraining(
        model,
        stream,
        InPlaceAdamW(settings.lr, weight_decay=settings.weight_decay),
        rate=rate(settings, n_steps(settings, stream)),
        rate_multipliers=multipliers,
        clip_norm=settings.clip_norm,
        seed=seed,
        measure="perplexity",
        max_validation_batches=settings.n_validation_batches,
        autocast=settings.autocast,
        device=device,
    )


def n_steps(settings: ModelSizeConfig, stream: TokenStream) -> int:
    """Steps of a training: its epochs, or the cap."""
    steps = max(1, round(settings.epochs * stream.steps_per_epoch))
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def rate(settings: ModelSizeConfig, total: int) -> RateSchedule:
    """The learning rate's factor over ``total`` steps; a warm-up longer than half of a short training is cut to it."""
    warmup = min(settings.warmup, total // 2)
    if settings.schedule == "constant":
        return Constant(warmup)
    if settings.schedule == "wsd":
        return WarmupStableDecay(total, warmup, round(DECAY_SHARE * (total - warmup)), settings.final_rate)
    return Cosine(total, warmup, settings.final_rate)


def schedule(settings: ModelSizeConfig, stream: TokenStream) -> Schedule:
    """Steps, and how often training looks at the validation text."""
    return Schedule(
        n_steps(settings, stream),
        eval_every=settings.eval_every or stream.steps_per_epoch,
        patience=settings.patience,
        min_delta=settings.min_delta,
        log_every=10,
    )


def sizes(model: LanguageModel) -> dict[str, Any]:
    """Parameters, and the bytes of the weights as they are saved."""
    total = model.n_params()
    return {
        "n_params_total": total,
        "n_params_non_embedding": model.n_non_embedding(),
        "model_size_mb": total * BYTES_A_NUMBER / MIB,
    }


def flops(model: Any, settings: ModelSizeConfig, steps: int) -> TrainingFlops:
    """Operations of ``steps`` training steps."""
    windows = steps * settings.batch_size
    forward = model.flops(settings.n_sequence)
    return training_flops(forward, windows, model.n_non_embedding(), windows * settings.n_sequence)


def cost(step: TrainingFlops, whole: TrainingFlops) -> dict[str, Any]:
    """Operations of a step, and of the training by component; "6ND" counts non-embedding parameters."""
    return {
        "step_flops": step.exact,
        "train_flops": whole.exact,
        "train_flops_6nd": whole.six_nd,
        "flops": dict(whole.components),
    }


def floor_row(stream: TokenStream) -> dict[str, Any]:
    """Perplexities of counting words, on the same tokens and vocabulary."""
    found = floors(stream)
    evaluated: tuple[Split, ...] = ("validation", "test")
    row: dict[str, Any] = {
        f"{order}_{split}_perplexity": found.perplexity(order, split)
        for order in ("unigram", "bigram")
        for split in evaluated
    }
    return row | {"n_vocab": stream.n_vocab, "bigram_weight": found.bigram_weight}


def memory_of_step(process: SupervisedTraining, device: str) -> MemoryReport:
    """What the second step of a training of its own holds at its peak, so that the optimiser's state is there."""
    state, _ = process.step(process.init(), 0)
    slots = [value for slot in state.optimizer.values() for value in slot.values()]
    static = {"parameters": list(state.params.values()), "optimizer_state": slots}

    def call(meter: LiveBytes) -> object:
        return replace(process, model=WatchedModel(process.model, meter, ("objective",))).step(state, 1)

    return measure_memory(call, static, device, default="other")


def memory_row(report: MemoryReport) -> dict[str, int]:
    """Columns of the results: the peak of one step, and what it holds."""
    row = {"step_peak_bytes": report.peak_bytes}
    return row | {f"step_{kind}_bytes": int(report.by_kind[kind]) for kind in KINDS}
