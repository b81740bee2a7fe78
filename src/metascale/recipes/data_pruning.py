"""Which training examples can go? A scorer learnt by bilevel optimisation beside the usual scores.

Command:    metascale run data_pruning --out runs/pruning
Data:       scikit-learn's 8×8 digits (no download), or MNIST; a share of wrong labels and a share of copies planted
Scores:     random, EL2N, forgetting events, large loss, small loss, and a network of (loss, uncertainty) learnt by SAMA
            on half of the validation set; the other half chooses among steps
Then:       the examples with the highest scores are kept and a new model is trained on them from scratch
Took:       90 trials, about 4 minutes of one CPU core
Result:     with wrong labels in the data, keeping small losses wins (from 40 % on), scores that keep the hardest lose
            to chance, and the learnt scorer finds the mistakes in half of ten seeds (docs/results/pruning.md)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Field

from metascale.core.errors import InputError
from metascale.core.run import MemoryRun, Run
from metascale.core.streams import generator
from metascale.core.types import Batch, Params, Split
from metascale.workflow.config import Count, NonNegative, Rate, Share, TrialConfig
from metascale.workflow.recipe import Profile, Recipe, load_recipe

if TYPE_CHECKING:
    import torch

    from metascale.bilevel.levels import Pass
    from metascale.models.perceptron import Perceptron
    from metascale.tasks.supervised.images import ImageSet
    from metascale.training.supervised import Examples, SupervisedTraining

Method = Literal["random", "el2n", "forgetting", "large_loss", "small_loss", "learnt"]


@dataclass(frozen=True)
class DataPruningConfig(TrialConfig):
    """One trial of data pruning.

    Args:
        data: ``"digits"`` or ``"mnist"``.
        n_train: training examples before pruning; none means all.
        label_noise, duplicates: shares of wrong labels and of copies among them.
        method: the score; the examples with the highest one are kept.
        keep: share of the training examples that is kept.
        width, depth: of the perceptron.
        batch_size, lr: of every training here.
        score_steps: training steps of the model that the scores come from.
        score_models: models whose EL2N scores are averaged.
        upper_lr: of the learnt scorer.
        max_steps, eval_every, patience: the training on what is kept.
        noise_seed: which labels are wrong and which examples are copies, the same for all trials.
    """

    data: Literal["digits", "mnist"] = "digits"
    n_train: Count | None = None
    label_noise: Share = 0.2
    duplicates: Share = 0.2
    method: Method = "learnt"
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    width: Count = 128
    depth: Count = 2
    batch_size: Count = 64
    lr: Rate = 1e-3
    score_steps: Count = 200
    score_models: Count = 3
    upper_lr: Rate = 3e-3
    max_steps: Count = 400
    eval_every: Count = 20
    patience: Count | None = 8
    noise_seed: NonNegative = 0


RECIPE = Recipe(
    name="data_pruning",
    title="Data pruning on digits with wrong labels and copies: a learnt scorer beside the usual scores",
    question="Which training examples can go, and does a learnt score choose better?",
    config=DataPruningConfig,
    axes={"keep": [0.1, 0.2, 0.4, 0.6, 0.8], "method": list(get_args(Method))},
    seeds=(0, 1, 2),
    scale_columns={"keep": "n_kept"},
    profiles={
        "mnist": Profile(
            "MNIST instead, 10,000 training images", {"data": "mnist", "n_train": 10_000, "score_steps": 400}
        ),
        "clean": Profile("no wrong labels and no copies", {"label_noise": 0.0, "duplicates": 0.0}),
        "smoke": Profile("seconds", {"max_steps": 40, "score_steps": 20}, axes={"method": ["random", "learnt"]}),
    },
    data_sets=lambda config: ("mnist",) if config.data == "mnist" else (),
    packages=("torch", "safetensors", "sklearn"),
    preload=("sklearn.datasets",),
)


def trial(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Score every training example, keep the best, train a new model on them, test once."""
    from metascale.models.perceptron import Perceptron
    from metascale.training.loop import Schedule
    from metascale.training.supervised import train_and_test

    settings: DataPruningConfig = load_recipe(config["recipe"]).validate(config)
    seed = config["seed"]
    data = images(settings, seed)
    run.write("data.json", data.describe())
    n_kept = count_kept(settings, data)
    model = Perceptron(data.image_size**2, data.n_classes, settings.width, settings.depth, task_axis=False)
    scoring = Scoring(settings, data, model, seed, device)
    scores = scoring.scores()
    # Ties (forgetting events are small integers) are broken at random, not by the order of the file.
    order = np.lexsort((generator(seed, "ties").random(len(scores)), -scores))
    kept = np.sort(order[:n_kept])
    process = scoring.training(KeptExamples(data, kept, settings.batch_size, seed), seed)
    schedule = Schedule(settings.max_steps, eval_every=settings.eval_every, patience=settings.patience)
    result = train_and_test(process, schedule, run)
    wrong = data.labels["train"] != data.true_labels
    copies = data.copy_of != np.arange(len(data.copy_of))
    return {
        **result.row(),
        "n_kept": int(n_kept),
        "kept_wrong_labels": float(wrong[kept].mean()),
        "kept_copies": float(copies[kept].mean()),
    }


def check(settings: DataPruningConfig) -> None:
    """Refuse more images than there are, and fewer kept than a batch."""
    count_kept(settings, images(settings, 0))


def count_kept(settings: DataPruningConfig, data: ImageSet) -> int:
    """How many training examples are kept.

    Raises:
        InputError: fewer than a batch.
    """
    n_examples = len(data.labels["train"])
    n_kept = round(settings.keep * n_examples)
    if n_kept < settings.batch_size:
        raise InputError(
            f"keep={settings.keep:g} of {n_examples} examples leaves {n_kept}, fewer than a batch of "
            f"{settings.batch_size}: keep more, or lower batch_size"
        )
    return n_kept


def images(settings: DataPruningConfig, seed: int) -> ImageSet:
    """The data set with its planted faults."""
    from metascale.tasks.supervised.images import mnist, small_digits

    faults: dict[str, Any] = {name: getattr(settings, name) for name in ("label_noise", "duplicates", "noise_seed")}
    if settings.data == "mnist":
        return mnist(None, settings.n_train, settings.batch_size, seed, **faults)
    return small_digits(settings.n_train, settings.batch_size, seed, **faults)


@dataclass(frozen=True)
class KeptExamples:
    """Some of the training examples, shuffled anew every epoch; validation and test as they are."""

    data: ImageSet
    kept: np.ndarray
    n_batch: int
    seed: int

    def batch(self, step: int) -> Batch:
        places = np.arange(step * self.n_batch, (step + 1) * self.n_batch)
        epochs = places // len(self.kept)
        chosen = np.empty(self.n_batch, np.int64)
        for epoch in np.unique(epochs):
            order = generator(self.seed, "kept-examples", int(epoch)).permutation(len(self.kept))
            chosen[epochs == epoch] = order[places[epochs == epoch] % len(self.kept)]
        return self.data.examples("train", self.kept[chosen])

    def evaluation(self, split: Split, max_batches: int | None = None) -> Iterator[Batch]:
        return self.data.evaluation(split, max_batches)


@dataclass(frozen=True, eq=False)
class Scoring:
    """Scores [n] of the training examples; the highest are kept."""

    settings: DataPruningConfig
    data: ImageSet
    model: Perceptron
    seed: int
    device: str

    def scores(self) -> np.ndarray:
        methods: Mapping[Method, Callable[[], np.ndarray]] = {
            "random": lambda: generator(self.seed, "random-scores").random(len(self.data.true_labels)),
            "el2n": self.el2n,
            "forgetting": self.forgetting,
            "large_loss": self.losses,
            "small_loss": lambda: -self.losses(),
            "learnt": self.learnt,
        }
        return methods[self.settings.method]()

    def el2n(self) -> np.ndarray:
        """The norm of (prediction − label) early in training, averaged over models (Paul et al. 2021)."""
        import torch
        from torch.nn.functional import one_hot

        totals = []
        for number in range(self.settings.score_models):
            probabilities, labels = self._predictions(self._fitted(number))
            totals.append((probabilities - one_hot(labels, self.data.n_classes)).norm(dim=1))
        return torch.stack(totals).mean(0).cpu().numpy()

    def losses(self) -> np.ndarray:
        """The loss after the scoring model's training."""
        from torch.nn.functional import nll_loss

        probabilities, labels = self._predictions(self._fitted(0))
        return nll_loss(probabilities.clamp_min(1e-12).log(), labels, reduction="none").cpu().numpy()

    def forgetting(self) -> np.ndarray:
        """How often an example was right and then wrong at the next look (Toneva et al. 2019); most if never learnt."""
        import torch

        process = self.training(self.data, self.seed)
        state = process.init()
        looks = max(1, self.settings.score_steps // max(1, self.data.steps_per_epoch))
        every = max(1, self.settings.score_steps // max(looks, 10))
        before = torch.zeros(len(self.data.true_labels), dtype=torch.bool)
        ever, events = before.clone(), torch.zeros(len(before))
        for step in range(self.settings.score_steps):
            state, _ = process.step(state, step)
            if (step + 1) % every == 0:
                probabilities, labels = self._predictions(state.params)
                right = (probabilities.argmax(1) == labels).cpu()
                events += (before & ~right).float()
                before, ever = right, ever | right
        return torch.where(ever, events, events.max() + 1).numpy()

    def learnt(self) -> np.ndarray:
        """A network of loss and uncertainty, learnt by SAMA so that training on the scored data serves validation."""
        import torch
        from torch.nn.functional import cross_entropy

        from metascale.bilevel.applications import DataScorer
        from metascale.bilevel.levels import from_functions, trainable
        from metascale.bilevel.training import BilevelTraining
        from metascale.core.trees import to
        from metascale.hypergrad.sama import SAMA
        from metascale.training.loop import Schedule, train
        from metascale.training.optimizers import Adam

        settings, data, model, seed, device = self.settings, self.data, self.model, self.seed, self.device
        scorer = DataScorer(seed=seed).to(device)
        order = generator(seed, "validation-halves").permutation(len(data.labels["validation"]))
        upper, selection = order[: len(order) // 2], order[len(order) // 2 :]
        selected = data.examples("validation", selection).to(device)

        def upper_batch(number: int) -> Batch:
            size = min(settings.batch_size, len(upper))
            chosen = generator(seed, "upper-batches", number).choice(len(upper), size, replace=False)
            return data.examples("validation", upper[chosen]).to(device)

        def lower_loss(theta: Params, lam: Params, batch: Batch, context: Pass) -> torch.Tensor:
            logits = model.predict(theta, batch, context.dropout)
            losses = cross_entropy(logits, batch.targets, reduction="none")
            loss: torch.Tensor = torch.func.functional_call(scorer, lam, (losses, entropy(logits)))
            return loss

        def upper_loss(theta: Params, lam: Params, batch: Batch, context: Pass) -> torch.Tensor:
            return model.objective(theta, batch, None)[0]

        process = BilevelTraining(
            from_functions(to(model.init(seed), device), trainable(scorer), lower_loss, upper_loss),
            lambda number: data.batch(number).to(device),
            upper_batch,
            method=SAMA(),
            lower_optimizer=Adam(settings.lr),
            upper_optimizer=Adam(settings.upper_lr),
            evaluate=lambda theta, buffers, lam: {"validation_loss_nats": float(model.losses(theta, selected).mean())},
            seed=seed,
        )
        schedule = Schedule(settings.score_steps, eval_every=max(1, settings.score_steps // 10))
        state = train(process, schedule, MemoryRun()).state
        scorer.load_state_dict(state.upper)
        with torch.no_grad():
            everything = data.examples("train", np.arange(len(data.true_labels))).to(device)
            logits = model.predict(state.lower, everything)
            losses = cross_entropy(logits, everything.targets, reduction="none")
            return scorer.scores(losses, entropy(logits)).cpu().numpy()

    def training(self, examples: Examples, seed: int) -> SupervisedTraining:
        """The training of every model here, on these examples."""
        from metascale.training.optimizers import Adam
        from metascale.training.supervised import SupervisedTraining

        rate = Adam(self.settings.lr)
        return SupervisedTraining(self.model, examples, rate, seed=seed, measure="accuracy", device=self.device)

    def _fitted(self, number: int) -> Params:
        """Model ``number`` trained on all the data for the scoring steps."""
        seed = self.seed * 1000 + number
        process = self.training(replace(self.data, seed=seed), seed)
        state = process.init()
        for step in range(self.settings.score_steps):
            state, _ = process.step(state, step)
        return state.params

    def _predictions(self, params: Params) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities [n, classes] and labels [n] of the training examples, in their order."""
        import torch

        with torch.no_grad():
            batches = [batch.to(self.device) for batch in self.data.evaluation("train")]
            probabilities = [self.model.predict(params, batch).softmax(-1) for batch in batches]
        return torch.cat(probabilities), torch.cat([batch.targets for batch in batches])


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """[B] entropy (nats) of the predictions."""
    log_probabilities = logits.log_softmax(-1)
    return -(log_probabilities.exp() * log_probabilities).sum(-1)
