"""Does a language model's perplexity follow a law in its size, and does ResNet-BK scale as a Transformer does?

Command:    metascale run model-size --profile laptop --out runs/size   (12 models, 2 seeds)
            metascale run model-size --out runs/size                    (32 models, 2 seeds: a GPU)
Data:       WikiText-2 (``metascale data get wikitext-2-v1``), or any text file (``--set path=FILE``); in words,
            characters or byte pairs
Varied:     width d_model, depth n_layers, and the architecture: a Transformer, or causal ResNet-BK, which has no
            attention
Beside it:  a unigram and an interpolated bigram model of the same words, counted on the same training text
Profiles:   ``laptop``: one epoch at a fixed depth, over 100-fold in parameters; ``rates`` checks that its learning rate
            serves a wider model too, ``data`` gives L(N, D), ``shape`` sets depth against width
Took:       laptop 49 minutes of a third of a core; --quick hours of one core; all 32 models: a GPU
Result:     both fall with width, the Transformer with more than twice the exponent (docs/results/model-size.md)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metascale.core.columns import (
    BASELINE,
    BASELINES_JSON,
    N_PARAMS_NON_EMBEDDING,
    SIZE_JSON,
    TEST_LOSS,
    TRIAL,
)
from metascale.core.errors import InputError
from metascale.core.files import write_json
from metascale.core.run import Run
from metascale.core.streams import generator
from metascale.laws.sizes import EVALUATED, FLOORS, NAMED, Rows, analyse_sizes, by_architecture, floors_of
from metascale.study.design import Study
from metascale.study.search.run import n_search_trials
from metascale.study.search.search import PRUNE_KEY
from metascale.study.store.folder import StudyView
from metascale.study.store.table import ResultsTable, as_written
from metascale.workflow.language_models import (
    TRAIN_TOKENS,
    VOCABULARY,
    ModelSizeConfig,
    extent,
    flops,
    language_model,
    memory_of_step,
    n_steps,
    schedule,
    text,
    training,
)
from metascale.workflow.recipe import Profile, Recipe, is_search, load_recipe, roles_of

if TYPE_CHECKING:
    from metascale.tasks.supervised.tokens import TokenStream
    from metascale.workflow.estimate import Trainings


TRAIN_KEY, TOKENS = "n_train_tokens", "tokens"
"""The key of the training text's length, and the column of the tokens that a model was trained on."""
SEARCH: Mapping[str, Any] = {
    "space": {"lr": {"log": [1e-3, 3e-2]}},
    "trials": 8,
    "startup": 4,
    "together": 2,
    "prune": {"n_before": 3, "rungs": 3},
    "strategy": "smallest",
    "size": "metascale.recipes.model_size:size_of",
    "along": ["d_model", "n_layers"],
}
QUICK: Mapping[str, list[Any]] = {
    "architecture": ["transformer", "resnet_bk"],
    "d_model": [64, 128],
    "n_layers": [4, 8],
}
EPOCH: Mapping[str, Any] = {
    "vocabulary": 2_000, "n_heads": 2, "batch_size": 16, "epochs": 1, "warmup": 40, "eval_every": 255,
    "n_validation_batches": 32, "patience": None, "lr": 3e-2, "parameterisation": "mup", "base_width": 16,
}  # fmt: skip
"""One epoch of WikiText-2 in small models: their width changes, the rate of width 16 serves all."""
BOTH = ["transformer", "resnet_bk"]

RECIPE = Recipe(
    name="model_size",
    title="Language models of many widths and depths on WikiText-2: Transformers and ResNet-BK",
    question="Does loss follow a law in model size, and does ResNet-BK scale as a Transformer does?",
    config=ModelSizeConfig,
    axes={"architecture": ["transformer", "resnet_bk"], "d_model": [64, 128, 256, 512], "n_layers": [4, 8, 12, 16]},
    seeds=(42, 43),
    scale_columns={
        "d_model": N_PARAMS_NON_EMBEDDING,
        "n_layers": N_PARAMS_NON_EMBEDDING,
        "n_train_tokens": TOKENS,
    },
    profiles={
        "quick": Profile("the four smallest models of each architecture", axes=QUICK),
        "laptop": Profile(
            "12 small models of two layers, over 100-fold in parameters, one epoch, its rate carried by μP",
            EPOCH,
            axes={"architecture": BOTH, "d_model": [12, 20, 32, 52, 80, 128], "n_layers": [2]},
        ),
        "rates": Profile(
            "laptop's learning rate and two others at width 16 and at one four times as large, on a third of the text",
            {**{key: value for key, value in EPOCH.items() if key != "lr"}, "n_train_tokens": 738_000},
            axes={"architecture": BOTH, "d_model": [16, 64], "n_layers": [2], "lr": [1e-2, EPOCH["lr"], 9e-2]},
            seeds=(42,),
            question="Does the learning rate of a narrow model serve a wider one?",
        ),
        "data": Profile(
            "L(N, D): three widths on three amounts of text, 8-fold from the least to the most",
            EPOCH,
            axes={
                "architecture": BOTH,
                "d_model": [16, 32, 64],
                "n_layers": [2],
                "n_train_tokens": [180_000, 510_000, 1_440_000],
            },
            scale=(N_PARAMS_NON_EMBEDDING, TOKENS),
            question="How does the loss fall with parameters and with text, and how should compute be split?",
        ),
        "shape": Profile(
            "depth against width: three of each, on a third of the text",
            {**EPOCH, "n_train_tokens": 738_000},
            axes={"architecture": BOTH, "d_model": [16, 32, 64], "n_layers": [1, 2, 4]},
            seeds=(42,),
            question="Do parameters help more as width or as depth?",
        ),
        "large": Profile(
            "one step of a model of 101 million parameters: does it fit?",
            {"vocabulary": 33_278, "max_steps": 1, "warmup": 0, "batch_size": 4, "evaluation_tokens": 512},
            axes={"architecture": ["resnet_bk"], "d_model": [512], "n_layers": [16]},
            seeds=(42,),
        ),
        "smoke": Profile(
            "half a minute",
            {
                "max_steps": 6,
                "warmup": 2,
                "eval_every": 3,
                "batch_size": 2,
                "n_sequence": 32,
                "vocabulary": 500,
                "evaluation_tokens": 2000,
            },
            axes={"architecture": ["transformer", "resnet_bk"], "d_model": [16, 32], "n_layers": [1, 2]},
            seeds=(42,),
        ),
    },
    data_sets=lambda config: () if config.path else ("wikitext-2-v1",),
    packages=("torch", "safetensors"),
    search=SEARCH,
)


# One trial.

BYTES_A_NUMBER, MIB = 4, 2**20


def trial(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Train and test one model; a trial of a search ends with its validation loss."""
    from metascale.training.loop import train_or_prune
    from metascale.training.memory import KINDS
    from metascale.training.supervised import train_and_test

    settings: ModelSizeConfig = load_recipe(config["recipe"]).validate(config)
    stream = text(settings, config["seed"])
    run.write("data.json", stream.describe())
    process, plan = training(settings, stream, config["seed"], device), schedule(settings, stream)
    if is_search(config):
        return train_or_prune(process, plan, run, config.get(PRUNE_KEY) or ()).row()
    memory = memory_of_step(process, device) if settings.measure_memory else None
    tested = train_and_test(process, plan, run)
    model, steps = language_model(settings, stream), tested.training.steps
    step, whole = flops(model, settings, 1), flops(model, settings, steps)
    kinds = {} if memory is None else {f"step_{kind}_bytes": int(memory.by_kind[kind]) for kind in KINDS}
    evaluations = run.rows("eval_stats")
    return {
        **tested.training.row(),
        **tested.test,
        **tested.validation,
        "n_params_total": model.n_params(),
        "n_params_non_embedding": model.n_non_embedding(),
        "model_size_mb": model.n_params() * BYTES_A_NUMBER / MIB,
        TOKENS: steps * stream.batch_tokens,
        "epochs": steps / stream.steps_per_epoch,
        # On the validation tokens that training evaluated; those of the kept model on all tokens are above.
        "final_perplexity": evaluations[-1]["validation_perplexity"],
        "best_perplexity": min(row["validation_perplexity"] for row in evaluations),
        "perplexities": [[row["step"], row["validation_perplexity"]] for row in evaluations],
        "step_flops": step.exact,
        "train_flops": whole.exact,
        "train_flops_6nd": whole.six_nd,
        "flops": dict(whole.components),
        **({} if memory is None else {"step_peak_bytes": memory.peak_bytes, **kinds}),
        **floor_row(stream),
    }


def check(settings: ModelSizeConfig) -> None:
    """Refuse more tokens than the text has, too few for a window, and a model that cannot be built."""
    if settings.path is not None or settings.unit != "word":
        language_model(settings, text(settings, 0))
        return
    n_tokens = settings.n_train_tokens or TRAIN_TOKENS
    if settings.vocabulary > VOCABULARY:
        raise InputError(f"vocabulary of WikiText-2 must be from 2 to {VOCABULARY}, not {settings.vocabulary}")
    if n_tokens > TRAIN_TOKENS:
        raise InputError(f"n_train_tokens of WikiText-2 must be from 1 to {TRAIN_TOKENS}, not {n_tokens}")
    if n_tokens < 2 * settings.n_sequence:
        raise InputError(
            f"{n_tokens} training tokens, too few for one window of {settings.n_sequence} "
            f"(it takes {2 * settings.n_sequence}): raise n_train_tokens or lower n_sequence"
        )
    language_model(settings)


def floor_row(stream: TokenStream) -> dict[str, Any]:
    """Perplexities of counting words, on the same tokens and vocabulary."""
    from metascale.tasks.supervised.tokens import floors

    found = floors(stream)
    row = {f"{order}_{split}_perplexity": found.perplexity(order, split) for order in FLOORS for split in EVALUATED}
    unit = (stream.details or {})["unit"]
    return {**row, "n_vocab": stream.n_vocab, "token_unit": unit, "bigram_weight": found.bigram_weight}


# What the models take, counted from their shapes: nothing is allocated, and of WikiText-2 in words no data is read.

COPIES = {"adamw": 4, "lion": 3, "sgd": 3}
"""Numbers a parameter while training: its value, its gradient, and the optimiser's state."""


def size_of(config: Mapping[str, Any]) -> int:
    """Parameters besides embeddings and readout of a trial's model, by hand and without torch: 12·L·d² or 16·L·d².

    The size by which a search finds the smallest model of an architecture (`metascale.study.search.search.Search`).
    """
    own = {**asdict(ModelSizeConfig()), **config}
    factor = 16 if own["architecture"] == "resnet_bk" else 12
    return int(factor * own["n_layers"] * own["d_model"] ** 2)


class ModelCost(NamedTuple):
    """One configuration; ``state_bytes`` are parameters, gradients and optimiser state, without activations."""

    settings: ModelSizeConfig
    n_total: int
    n_non_embedding: int
    step_flops: float
    training_flops: float
    state_bytes: int


def model_cost(settings: ModelSizeConfig) -> ModelCost:
    """The cost of one configuration; ``training_flops`` of all its steps at most."""
    model = language_model(settings, n_vocab=extent(settings).n_vocab)
    steps = n_steps(settings, steps_per_epoch(settings))
    step, whole = flops(model, settings, 1).exact, flops(model, settings, steps).exact
    n_total = model.n_params()
    state_bytes = COPIES[settings.optimizer] * BYTES_A_NUMBER * n_total
    return ModelCost(settings, n_total, model.n_non_embedding(), step, whole, state_bytes)


def steps_per_epoch(settings: ModelSizeConfig) -> int:
    """Training batches that cover the training text."""
    windows = extent(settings).n_train // settings.n_sequence - 1
    return -(-windows // settings.batch_size)


def model_costs(study: Study) -> list[ModelCost]:
    """Every configuration of a study once, in its order."""
    recipe = load_recipe(study.base["recipe"])
    return [model_cost(one) for one in dict.fromkeys(recipe.validate(trial.config) for trial in study.trials())]


def costs(study: Study) -> tuple[str, list[str], list[list[str]]]:
    """A title, headings and rows for a dry run."""
    from metascale.core.units import format_bytes, format_count
    from metascale.workflow.estimate import time_and_disk

    rows = [
        [
            f"{one.settings.architecture} {one.settings.d_model}×{one.settings.n_layers}",
            f"{one.n_total:,}",
            f"{one.n_non_embedding:,}",
            format_count(one.step_flops),
            format_count(one.training_flops),
            format_bytes(one.state_bytes),
        ]
        for one in model_costs(study)
    ]
    n_trials, n_searched = len(study.trials()), n_search_trials(study)
    searches = f" after at most {n_searched} of a search" if n_searched else ""
    time, disk = time_and_disk(trainings(study))
    title = (
        f"{study.name}: models of width × layers, {n_trials} {'training' if n_trials == 1 else 'trainings'}{searches}; "
        "step and training in FLOPs, forward and backward; state: weights, gradients and the optimiser's\n"
        f"time: {time}\ndisk: {disk}"
    )
    return title, ["model", "parameters", "non-embedding", "step", "training", "state"], rows


def trainings(study: Study) -> list[Trainings]:
    """What the trials of a study compute at most, by configuration; steps are tried on tokens drawn at random."""
    from metascale.workflow.estimate import Trainings

    def prepare(settings: ModelSizeConfig) -> Callable[[], object]:
        process = training(settings, drawn(settings), 0, "cpu")
        state = process.init()
        return lambda: process.step(state, 0)

    found = []
    for settings, count in load_recipe(study.base["recipe"]).counts(study).items():
        cost, batch = model_cost(settings), settings.batch_size * settings.n_sequence
        steps, validation = cost.training_flops / cost.step_flops, extent(settings).n_test
        seen = min(validation, (settings.n_validation_batches or validation) * batch)
        n_validations = steps // (settings.eval_every or steps_per_epoch(settings)) + 1
        # An evaluation is a forward pass, a third of a step's operations; the kept model's is of both splits.
        evaluated = n_validations * seen + 2 * validation
        steps += evaluated / (3 * batch)
        kind, prepared = settings.architecture, partial(prepare, settings)
        found.append(Trainings(kind, count, steps, cost.step_flops, cost.n_total, prepared))
    return found


def drawn(settings: ModelSizeConfig) -> TokenStream:
    """Random tokens of the configuration's vocabulary, enough for one step."""
    from metascale.tasks.supervised.tokens import TokenStream

    n, batch = extent(settings).n_vocab, settings.batch_size * settings.n_sequence
    tokens = generator(0, "dry-run").integers(n, size=batch + 2 * settings.n_sequence, dtype=np.int32)
    words = tuple(map(str, range(n)))
    return TokenStream("drawn", words, {"train": tokens}, 0, settings.n_sequence, settings.batch_size)


# What the study concludes: size.json holds it for the report. Where there are too few models for a question, its place
# holds the reason instead.


def conclude(view: StudyView, table: ResultsTable) -> list[Path]:
    """Write size.json from a study's finished trials, and the bigram models as baselines; nothing without trials.

    A bigram model counts the text that the models beside it read: where that varies, there is no baseline of all.
    """
    tested = [row for row in table.finished(TRIAL).rows if row.get(TEST_LOSS) is not None]
    rows = list(named_apart(tested, roles_of(view.study).series))
    path = view.folder / SIZE_JSON
    if not rows:
        path.unlink(missing_ok=True)
        return []
    write_json(path, analyse_sizes(of_most_text(rows)))
    groups = {"bigram": rows} if "bigram_test" in floors_of(rows) else by_architecture(rows)
    floors = {
        "".join(("bigram", *name.partition(", ")[1:])): floors_of(own).get("bigram_test")
        for name, own in groups.items()
    }
    baselines = {
        name: {"kind": BASELINE, TEST_LOSS: math.log(value)} for name, value in floors.items() if value is not None
    }
    if baselines:
        write_json(view.folder / BASELINES_JSON, baselines)
    else:
        (view.folder / BASELINES_JSON).unlink(missing_ok=True)
    return [path]


def of_most_text(rows: Rows) -> Rows:
    """The rows of the models that were trained on the most text, where a study varies that: it has its own L(N, D)."""
    amounts = [float(row.get(TRAIN_KEY) or math.inf) for row in rows]
    return [row for row, amount in zip(rows, amounts, strict=True) if amount == max(amounts)]


def named_apart(rows: Rows, series: Sequence[str]) -> Rows:
    """Rows whose architecture also names what else is compared: each vocabulary has its own laws and floors."""
    apart = [key for key in series if key != NAMED and len({str(row.get(key)) for row in rows}) > 1]

    def name(row: Mapping[str, Any]) -> str:
        return ", ".join([str(row[NAMED]), *(f"{key} {as_written(row[key])}" for key in apart)])

    return [{**row, NAMED: name(row)} for row in rows]
