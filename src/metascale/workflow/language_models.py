"""A language model of a stated size: its configuration, its text, the model itself, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from metascale.core.errors import InputError
from metascale.laws.sizes import EVALUATED
from metascale.workflow.config import Count, NonNegative, Rate, Share, TrialConfig, Weight

if TYPE_CHECKING:
    from metascale.core.types import Split
    from metascale.models.resnet_bk import ResNetBK
    from metascale.models.transformer import Transformer
    from metascale.tasks.supervised.tokens import TokenStream
    from metascale.training.flops import TrainingFlops
    from metascale.training.loop import Schedule
    from metascale.training.memory import LiveBytes, MemoryReport
    from metascale.training.optimizers import Optimizer
    from metascale.training.schedules import RateSchedule
    from metascale.training.supervised import SupervisedTraining

TRAIN_TOKENS, VOCABULARY = 2_088_628, 33_278
"""Of WikiText-2 in words: tokens of its training text, and different words in it."""
EVALUATION_TOKENS = 245_569
"""Of its test text; validation has 217,646."""
DECAY_SHARE = 0.2
"""Of a training with the schedule ``wsd``: the decay."""


@dataclass(frozen=True)
class ModelSizeConfig(TrialConfig):
    """One trial of a study of model sizes.

    Args:
        architecture: ``"transformer"`` (pre-norm, SwiGLU) or ``"resnet_bk"`` (causal, a mixture of 4 experts).
        d_model, n_layers: width and depth.
        n_heads: of attention, the same at every width.
        positions: of the Transformer; ResNet-BK learns its positions.
        tied: the Transformer reads out with its token embedding, where ResNet-BK has a readout of its own.
        dropout: after the embeddings and on what every layer adds.
        path: a file of UTF-8 text in the place of WikiText-2: the first 80 % of its lines train, the next 10 %
            validate, the last 10 % test.
        unit: of the text: ``"word"``, ``"character"``, or ``"bpe"``, byte pairs learnt on the training text.
        vocabulary: tokens, <unk> and <eos> among them; rarer words are <unk>. Of characters and byte pairs, at most.
        n_train_tokens: only the first so many training tokens; none means all (of WikiText-2 2,088,628 words).
        evaluation_tokens: only the first so many validation and test tokens, for quick tries; none means all.
        n_sequence, batch_size: tokens a window, windows a step.
        epochs: passes over the training text.
        max_steps: steps at most, where that is less; none: as many as the epochs take.
        eval_every: steps between validations; none means an epoch.
        n_validation_batches: evaluated during training; none means all. The kept model is evaluated on all.
        patience: validations without improvement after which training stops; none trains to the end.
        min_delta: an improvement lowers the best validation loss by more than this (nats).
        optimizer: ``"adamw"`` (β 0.9 and 0.95; gains and biases are not decayed), ``"lion"``, or ``"sgd"`` with
            momentum 0.9.
        lr, weight_decay: of the optimiser.
        clip_norm: gradients are scaled down to this norm; none: never.
        schedule: ``"cosine"`` down to ``final_rate``, ``"constant"``, or ``"wsd"``, a plateau and a linear decay over
            the last fifth; each after a linear warm-up over ``warmup`` steps.
        warmup, final_rate: see ``schedule``; ``final_rate`` is a share of ``lr``.
        parameterisation: ``"mup"`` scales initialisation and rates so that the ``lr`` of ``base_width`` serves all.
        base_width: see ``parameterisation``.
        autocast: bfloat16 where that is safe.
        measure_memory: count the live bytes of one training step.
    """

    architecture: Literal["transformer", "resnet_bk"] = "transformer"
    d_model: Count = 64
    n_layers: Count = 4
    n_heads: Count = 4
    positions: Literal["rotary", "learned"] = "rotary"
    tied: bool = False
    dropout: Share = 0.0
    path: str | None = None
    unit: Literal["word", "character", "bpe"] = "word"
    vocabulary: Annotated[int, Field(ge=2)] = 10_000
    n_train_tokens: Count | None = None
    evaluation_tokens: Count | None = None
    n_sequence: Count = 128
    batch_size: Count = 32
    epochs: Annotated[float, Field(gt=0, le=10_000)] = 5.0
    max_steps: Count | None = None
    eval_every: Count | None = None
    n_validation_batches: Count | None = None
    patience: Count | None = 3
    min_delta: Weight = 0.0
    optimizer: Literal["adamw", "lion", "sgd"] = "adamw"
    lr: Rate = 1e-3
    weight_decay: Weight = 0.01
    clip_norm: Rate | None = 0.5
    schedule: Literal["cosine", "constant", "wsd"] = "cosine"
    warmup: NonNegative = 50
    final_rate: Share = 0.1
    parameterisation: Literal["standard", "mup"] = "standard"
    base_width: Count = 64
    autocast: bool = False
    measure_memory: bool = True

    def refuse(self, where: str) -> None:
        if self.architecture == "transformer" and self.d_model % (2 * self.n_heads):
            raise InputError(
                f"{where}: d_model must be a multiple of twice n_heads ({2 * self.n_heads}), not {self.d_model}"
            )
        if self.parameterisation == "mup" and self.base_width % (2 * self.n_heads):
            raise InputError(
                f"{where}: base_width must be a multiple of twice n_heads ({2 * self.n_heads}), not {self.base_width}"
            )
        if self.parameterisation == "mup" and self.optimizer == "sgd":
            raise InputError(
                f"{where}: the rates of parameterisation=mup are those of AdamW and Lion, not of sgd",
                field="optimizer",
                value=self.optimizer,
            )
        if self.max_steps is not None and self.warmup >= self.max_steps:
            raise InputError(f"{where}: warmup must be below max_steps ({self.max_steps}), not {self.warmup}")


def text(settings: ModelSizeConfig, seed: int) -> TokenStream:
    """The text of a configuration in its unit and vocabulary."""
    from metascale.tasks.supervised.language_text import own_text, wikitext

    sizes = (settings.vocabulary, settings.n_sequence, settings.batch_size, seed)
    given: dict[str, Any] = {"unit": settings.unit, "n_train_tokens": settings.n_train_tokens}
    stream = own_text(settings.path, *sizes, **given) if settings.path else wikitext(None, *sizes, **given)
    if settings.evaluation_tokens is None:
        return stream
    cut: dict[Split, np.ndarray] = {split: stream.tokens[split][: settings.evaluation_tokens] for split in EVALUATED}
    return replace(stream, tokens={**stream.tokens, **cut})


class Extent(NamedTuple):
    """Training and test tokens of a configuration, and different ones."""

    n_train: int
    n_test: int
    n_vocab: int


def extent(settings: ModelSizeConfig) -> Extent:
    """Known for the words of WikiText-2; any other text is read."""
    if settings.path is None and settings.unit == "word":
        n_test = settings.evaluation_tokens or EVALUATION_TOKENS
        return Extent(settings.n_train_tokens or TRAIN_TOKENS, n_test, settings.vocabulary)
    stream = text(settings, 0)
    return Extent(len(stream.tokens["train"]), len(stream.tokens["test"]), stream.n_vocab)


def language_model(
    settings: ModelSizeConfig, stream: TokenStream | None = None, n_vocab: int | None = None
) -> Transformer | ResNetBK:
    """The model of a configuration, for the vocabulary of a stream, of so many tokens, or of the configuration."""
    from metascale.models.resnet_bk import ResNetBK
    from metascale.models.transformer import Transformer

    n_vocab = stream.n_vocab if stream is not None else n_vocab or settings.vocabulary
    d, n_layers, n_positions = settings.d_model, settings.n_layers, settings.n_sequence
    if settings.architecture == "resnet_bk":
        return ResNetBK(n_vocab, d, n_layers, n_positions, dropout=settings.dropout)
    options: dict[str, Any] = {name: getattr(settings, name) for name in ("positions", "tied", "dropout")}
    return Transformer(n_vocab, d, n_layers, settings.n_heads, n_positions, **options)


def training(settings: ModelSizeConfig, stream: TokenStream, seed: int, device: str) -> SupervisedTraining:
    """Its training, in the standard parameterisation or in μP."""
    from metascale.models.mup import parameterised
    from metascale.training.supervised import SupervisedTraining

    model, multipliers = parameterised(language_model(settings, stream), settings.parameterisation, settings.base_width)
    return SupervisedTraining(
        model,
        stream,
        optimizer(settings),
        rate=rate(settings, n_steps(settings, stream.steps_per_epoch)),
        rate_multipliers=multipliers,
        clip_norm=settings.clip_norm,
        seed=seed,
        measure="perplexity",
        max_validation_batches=settings.n_validation_batches,
        autocast=settings.autocast,
        device=device,
    )


def optimizer(settings: ModelSizeConfig) -> Optimizer:
    from metascale.training.optimizers import SGD, InPlaceAdamW, Lion

    if settings.optimizer == "sgd":
        return SGD(settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
    kind = Lion if settings.optimizer == "lion" else InPlaceAdamW
    return kind(settings.lr, weight_decay=settings.weight_decay)


def n_steps(settings: ModelSizeConfig, steps_per_epoch: int) -> int:
    """Steps of a training that early stopping does not end: its epochs, or the cap."""
    steps = max(1, round(settings.epochs * steps_per_epoch))
    return steps if settings.max_steps is None else min(steps, settings.max_steps)


def rate(settings: ModelSizeConfig, total: int) -> RateSchedule:
    """The learning rate's factor over ``total`` steps; a warm-up longer than half of a short training is cut to it."""
    from metascale.training.schedules import Constant, Cosine, WarmupStableDecay

    warmup = min(settings.warmup, total // 2)
    if settings.schedule == "constant":
        return Constant(warmup)
    if settings.schedule == "wsd":
        return WarmupStableDecay(total, warmup, round(DECAY_SHARE * (total - warmup)), settings.final_rate)
    return Cosine(total, warmup, settings.final_rate)


def schedule(settings: ModelSizeConfig, stream: TokenStream) -> Schedule:
    from metascale.training.loop import Schedule

    return Schedule(
        n_steps(settings, stream.steps_per_epoch),
        eval_every=settings.eval_every or stream.steps_per_epoch,
        patience=settings.patience,
        min_delta=settings.min_delta,
        log_every=10,
    )


def flops(model: Transformer | ResNetBK, settings: ModelSizeConfig, steps: int) -> TrainingFlops:
    """Operations of ``steps`` training steps; its "6ND" counts non-embedding parameters."""
    from metascale.training.flops import training_flops

    windows = steps * settings.batch_size
    forward = model.flops(settings.n_sequence)
    return training_flops(forward, windows, model.n_non_embedding(), windows * settings.n_sequence)


def memory_of_step(process: SupervisedTraining, device: str) -> MemoryReport:
    """What the second step of a training of its own holds at its peak, so that the optimiser's state is there."""
    from metascale.training.memory import WatchedModel, measure_memory

    state, _ = process.step(process.init(), 0)
    slots = [value for slot in state.optimizer.values() for value in slot.values()]
    static = {"parameters": list(state.params.values()), "optimizer_state": slots}

    def call(meter: LiveBytes) -> object:
        return replace(process, model=WatchedModel(process.model, meter, ("objective",))).step(state, 1)

    return measure_memory(call, static, device, default="other")
