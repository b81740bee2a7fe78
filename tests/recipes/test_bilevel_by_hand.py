"""Bilevel recipes by hand: their arms, losses, solvers, scores and rows, on tensors of a few numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from metascale.bilevel.batches import Shuffled
from metascale.core.errors import InputError
from metascale.core.run import MemoryRun
from metascale.core.streams import generator, torch_generator
from metascale.core.types import Batch
from metascale.hypergrad.darts import DARTS
from metascale.hypergrad.implicit import Implicit
from metascale.hypergrad.linear import CG, Identity, Neumann
from metascale.hypergrad.sama import SAMA
from metascale.hypergrad.unrolled import Unrolled
from metascale.models.perceptron import Perceptron
from metascale.recipes import annotators, auxiliary_tasks, data_pruning, hypergradient_bias, noisy_labels
from metascale.recipes.annotators import AnnotatorsConfig, Answers
from metascale.recipes.auxiliary_tasks import AuxiliaryConfig
from metascale.recipes.data_pruning import DataPruningConfig, KeptExamples, Scoring
from metascale.recipes.hypergradient_bias import BiasConfig, ComparedSolver, Quadratic
from metascale.recipes.noisy_labels import NoisyLabelsConfig
from metascale.tasks.supervised.weak_labels import LabelledTexts, TextFeatures
from metascale.training.loop import Schedule
from metascale.training.optimizers import LAMB, SGD, Adagrad, Adam, Lion, Muon, RMSprop
from metascale.training.supervised import SupervisedTraining


@pytest.fixture
def bilevel(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a bilevel training is made of, in the place of one."""
    made: list[Any] = []

    def training(*given: Any, **named: Any) -> Any:
        made.append((given, named))
        return SimpleNamespace(given=given, warmup=named.get("warmup", 0))

    monkeypatch.setattr("metascale.bilevel.training.BilevelTraining", training)
    monkeypatch.setattr("metascale.bilevel.levels.from_functions", lambda *given: given)
    return made


# ------------------------------------------------------------------------------------------------- annotators

OF_ANNOTATORS = AnnotatorsConfig(
    careful=2, random=1, shifted=1, n_checked=3, width=5, batch_size=4, lower_lr=0.1, upper_lr=0.2, max_steps=30,
    eval_every=7, patience=4,
)  # fmt: skip


def answers() -> Answers:
    def examples(n: int, purpose: str) -> dict[str, torch.Tensor]:
        x = torch.randn(n, 64, generator=torch_generator(0, purpose))
        return {"x": x, "y": torch.arange(n) % 10}

    annotated = {**examples(12, "annotated"), "who": torch.arange(12) % 4}
    return Answers(annotated, examples(3, "checked"), examples(3, "selection"), examples(5, "test"), 0.25)


def of_batches(batches: Any, number: int) -> list[int]:
    """The places in the data of a batch of annotators' examples, by their labels."""
    return batches(number)["x"][:, 0].tolist()


@pytest.mark.parametrize("method", ["checked", "alike", "both", "learnt", "careful"])
def test_an_arm_of_annotators_is_its_batches_and_whether_it_learns(method: Any, bilevel: list[Any]) -> None:
    data, settings = answers(), replace(OF_ANNOTATORS, method=method)
    annotators.training(settings, data, 6)
    (((theta, lam, *_), lower, upper), named) = bilevel[0]
    model = annotators.network(settings)
    assert model == Perceptron(64, 10, 5, depth=1, task_axis=False)
    assert all(torch.equal(value, model.init(6)[name]) for name, value in theta.items())
    assert lam["scores"].tolist() == [0.0] * 4
    assert named.pop("evaluate")(model.init(6), {}, {}) == dict(
        zip(
            ("validation_loss_nats", "validation_accuracy"),
            annotators.measured(model, model.init(6), data.selection),
            strict=True,
        )
    )
    assert named == {
        "method": SAMA(), "lower_optimizer": Adam(0.1), "upper_optimizer": Adam(0.2),
        "warmup": 0 if method == "learnt" else 30, "seed": 6,
    }  # fmt: skip
    annotated = Shuffled(data.annotated, 4, 6)
    checked = Shuffled(data.checked, 3, 6, "upper")
    careful = Shuffled({name: value[data.annotated["who"] < 2] for name, value in data.annotated.items()}, 4, 6)
    same = lambda one, k, other, n: of_batches(one, k) == of_batches(other, n)
    assert all(same(upper, k, checked, k) for k in range(3))
    expected: dict[str, Callable[[int], bool]] = {
        "checked": lambda k: same(lower, k, checked, k),
        "both": lambda k: same(lower, k, checked if k % 2 else annotated, k // 2),
        "careful": lambda k: same(lower, k, careful, k) and int(lower(k)["who"].max()) < 2,
    }
    assert all(expected.get(method, lambda k: same(lower, k, annotated, k))(k) for k in range(6))


def test_losses_of_annotators_are_weighted_by_who_answered(bilevel: list[Any]) -> None:
    data = answers()
    annotators.training(OF_ANNOTATORS, data, 6)
    _, _, lower_loss, upper_loss = bilevel[0][0][0]
    model = annotators.network(OF_ANNOTATORS)
    theta, lam = model.init(6), {"scores": torch.tensor([0.0, 100.0, -100.0, float(np.log(3))])}
    logits = model.predict(theta, Batch({"x": data.annotated["x"]}, data.annotated["y"])).double().numpy()
    y = data.annotated["y"].numpy()
    each = np.log(np.exp(logits).sum(1)) - logits[np.arange(12), y]
    weights = np.array([0.5, 1.0, 0.0, 0.75])[data.annotated["who"].numpy()]
    assert float(lower_loss(theta, lam, data.annotated, None)) == pytest.approx((weights * each).mean(), rel=1e-5)
    without = {name: data.annotated[name] for name in ("x", "y")}
    assert float(lower_loss(theta, lam, without, None)) == pytest.approx(each.mean(), rel=1e-5)
    assert float(upper_loss(theta, lam, data.annotated, None)) == pytest.approx(each.mean(), rel=1e-5)
    loss, accuracy = annotators.measured(model, theta, without)
    assert (loss, accuracy) == (pytest.approx(each.mean(), rel=1e-5), (logits.argmax(1) == y).mean())


@pytest.mark.parametrize(("method", "others"), [("learnt", 2), ("learnt", 0), ("alike", 2)])
def test_the_row_of_an_annotators_trial(method: Any, others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(OF_ANNOTATORS, method=method, random=others // 2, shifted=others - others // 2)
    asked: list[Any] = []
    process = SimpleNamespace()
    scores = torch.tensor([0.0, float(np.log(3)), 100.0, -100.0][: 2 + others])
    state = SimpleNamespace(lower={"theta": 1}, upper={"scores": scores})
    result = SimpleNamespace(state=state, row=lambda: {"steps": 21})
    monkeypatch.setattr(annotators, "load_recipe", lambda name: SimpleNamespace(validate=lambda config: settings))
    monkeypatch.setattr(annotators, "answers", lambda *given: asked.append(given) or answers())
    monkeypatch.setattr(annotators, "training", lambda *given: asked.append(given[::2]) or process)
    monkeypatch.setattr(annotators, "measured", lambda model, theta, data: (1.5, 0.75) if len(data["y"]) == 5 else None)
    monkeypatch.setattr("metascale.bilevel.training.check", lambda of: asked.append(of))
    monkeypatch.setattr("metascale.training.loop.train", lambda *given: asked.append(given) or result)
    run = MemoryRun()
    row = annotators.trial({"recipe": "annotators", "seed": 6}, run, "cpu")
    checks = [process] if method == "learnt" else []
    plan = Schedule(30, eval_every=7, patience=4)
    assert asked == [(settings, 6, "cpu"), (settings, 6), *checks, (process, plan, run)]
    assert run.files["data.json"] == {"name": "small_digits", "share_of_wrong_labels": 0.25}
    expected = {"test_loss_nats": 1.5, "test_accuracy": 0.75, "steps": 21, "share_of_wrong_labels": 0.25}
    if method == "learnt":
        assert run.files["weights.json"] == pytest.approx([0.5, 0.75, 1.0, 0.0][: 2 + others])
        expected["weight_of_careful"] = pytest.approx(0.625)
        expected["weight_of_others"] = pytest.approx(0.5 if others else float("nan"), nan_ok=True)
    assert row == expected


def test_checked_labels_are_half_of_what_is_drawn_and_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five validation images two are checked, two choose; three of each are too many."""

    class Five:
        true_labels = np.arange(20) % 10

        def n_examples(self, split: str) -> int:
            return {"validation": 5, "test": 3}[split]

        def examples(self, split: str, index: np.ndarray) -> Batch:
            return Batch({"x": torch.zeros(len(index), 8, 8)}, torch.from_numpy(index))

    monkeypatch.setattr("metascale.tasks.supervised.images.small_digits", lambda n_batch: Five())
    data = annotators.answers(replace(OF_ANNOTATORS, n_checked=2), 4)
    order = generator(4, "checked").permutation(5).tolist()
    assert (data.checked["y"].tolist(), data.selection["y"].tolist()) == (order[:2], order[2:4])
    assert (data.test["y"].tolist(), data.test["x"].shape) == ([0, 1, 2], (3, 64))
    draw, truth = generator(4, "annotators"), Five.true_labels
    who, guess, chance = draw.integers(0, 4, 20), draw.integers(0, 10, 20), draw.random(20)
    given = np.where(chance < 0.8, (truth + 1) % 10, truth)  # of the last, who gives the next digit
    given = np.where(who == 2, guess, given)
    given = np.where(who < 2, np.where(chance < 0.05, guess, truth), given)
    assert (data.annotated["who"].tolist(), data.annotated["y"].tolist()) == (who.tolist(), given.tolist())
    assert data.share_wrong == (given != truth).mean()
    sentence = r"^n_checked=3, and as many to choose among steps, are more than the 5 validation images$"
    with pytest.raises(InputError, match=sentence) as caught:
        annotators.answers(OF_ANNOTATORS, 0)
    assert (caught.value.field, caught.value.value) == ("n_checked", 3)


# ------------------------------------------------------------------------------------------- auxiliary tasks


def test_weights_of_arms_that_do_not_learn_them() -> None:
    weights = {name: AuxiliaryConfig(method=name, weight=0.5).fixed_weights for name in ("main", "useful", "both")}  # type: ignore[arg-type]
    assert weights == {"main": (0.0, 0.0), "useful": (0.5, 0.0), "both": (0.5, 0.5)}
    AuxiliaryConfig(n_labelled=32, batch_size=32).refuse("here")
    with pytest.raises(InputError, match=r"^here: n_labelled 31 is less than batch_size 32$"):
        AuxiliaryConfig(n_labelled=31, batch_size=32).refuse("here")


def test_shuffled_texts_keep_their_first_token_and_their_padding() -> None:
    ids = torch.tensor([[7, 1, 2, 3, 4, 5, 6, 8], [7, 1, 2, 3, 0, 0, 0, 0]])
    mask = (ids > 0).long()
    found = [auxiliary_tasks.shuffled(ids, mask, 3, number) for number in range(8)]
    for each in found:
        assert each[:, 0].tolist() == [7, 7]
        assert each[1, 4:].tolist() == [0] * 4
        assert each.sort(1)[0].tolist() == ids.sort(1)[0].tolist()
    assert len({tuple(each[0].tolist()) for each in found}) > 4
    assert len({tuple(each[1].tolist()) for each in found}) > 2
    assert torch.equal(found[0], auxiliary_tasks.shuffled(ids, mask, 3, 0))
    draws = generator(3, "shuffled-tokens", 0).random((2, 8))
    order = np.argsort(draws[0, 1:]) + 1
    assert found[0][0].tolist() == [7, *ids[0].numpy()[order].tolist()]


def labelled(n: int, start: int = 0) -> LabelledTexts:
    values, targets = torch.arange(start, start + n).float()[:, None], np.zeros(n, np.int64)
    return LabelledTexts(TextFeatures(values), targets, np.ones(n, np.int64), targets[:, None])


class Work:
    """A fine-tuning that gives back what it was asked for."""

    seed = 5

    def __init__(self) -> None:
        self.data = SimpleNamespace(noisy=labelled(10), upper=labelled(3, 100), classes=("a", "b"))
        self.asked: list[Any] = []

    def batches(self, texts: LabelledTexts, size: int, purpose: str) -> Any:
        self.asked.append((texts, size, purpose))
        if purpose == "plain":
            return lambda n: {"input_ids": torch.tensor([[7, n, 2]]), "attention_mask": torch.ones(1, 3).long()}
        return lambda n: {purpose: n}

    def training(self, *given: Any, learns: bool) -> Any:
        self.given, self.learns = given, learns
        return Trained()


class Trained:
    pass


@pytest.mark.parametrize(
    ("method", "expected"),
    [("main", 1.0), ("useful", 1.0 + 0.5 * 10), ("both", 1.0 + 0.5 * (10 + 20)), ("learnt", 1.0 + 2 * 10 + 3 * 20)],
)
def test_the_loss_of_an_auxiliary_arm(method: Any, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auxiliary_tasks, "classification_loss", lambda *given: torch.tensor(1.0))
    work, settings = Work(), AuxiliaryConfig(method=method, weight=0.5, n_labelled=4, batch_size=6, data_seed=2)
    auxiliary_tasks.training(settings, work)  # type: ignore[arg-type]
    loss, lower, upper = work.given
    (first, second, third) = work.asked
    assert [each[1:] for each in work.asked] == [(4, "labelled"), (6, "plain"), (3, "upper")]
    chosen = np.sort(generator(2, "labelled").permutation(10)[:4])
    assert first[0].tokens.values[:, 0].tolist() == chosen.tolist()
    assert first[0].targets.tolist() == [1] * 4  # the truth
    assert (second[0], third[0], work.learns) == (work.data.noisy, work.data.upper, method == "learnt")
    batch = lower(3)
    assert list(batch) == ["labelled", "plain", "plain_mask", "shuffled"]
    assert (batch["labelled"], batch["plain"].tolist(), upper(2)) == (3, [[7, 3, 2]], {"upper": 2})
    mixed = auxiliary_tasks.shuffled(batch["plain"], batch["plain_mask"], 5, 3)
    assert torch.equal(batch["shuffled"], mixed)
    batch |= {"plain": "plain", "plain_mask": "mask", "shuffled": "shuffled"}
    values = {"plain": torch.tensor(10.0), "shuffled": torch.tensor(20.0)}
    model = lambda ids, mask, next_tokens: values[ids] if mask == "mask" and next_tokens else None
    assert float(loss(model, lambda one, other: 2 * one + 3 * other, batch)) == expected


@pytest.mark.parametrize("method", ["learnt", "useful"])
def test_the_row_of_an_auxiliary_trial_has_its_weights(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = AuxiliaryConfig(method=method, weight=0.5, n_labelled=40)
    asked: list[Any] = []
    monkeypatch.setattr(auxiliary_tasks, "load_recipe", lambda name: SimpleNamespace(validate=lambda config: settings))
    data = SimpleNamespace(describe=lambda: {"name": "texts"}, classes=("a", "b", "c"))
    monkeypatch.setattr(auxiliary_tasks, "load_texts", lambda *given, **named: asked.append((given, named)) or data)
    monkeypatch.setattr(auxiliary_tasks, "reader", lambda *given: given)
    monkeypatch.setattr(auxiliary_tasks, "training", lambda *given: asked.append(given) or "process")

    class Tuning:
        def __init__(self, *given: Any) -> None:
            asked.append(given)

        def train_and_test(self, process: Any, run: Any) -> dict[str, Any]:
            return {"test": process}

    monkeypatch.setattr(auxiliary_tasks, "FineTuning", Tuning)
    run = MemoryRun()
    row = auxiliary_tasks.trial({"recipe": "auxiliary_tasks", "seed": 4}, run, "cpu")
    assert run.files == {"data.json": {"name": "texts", "n_labelled": 40}}
    assert asked[0] == ((settings,), {"uncovered": "random"})
    of_settings, of_data, model, weights, seed, device = asked[1]
    assert (of_settings, of_data, model) == (settings, data, (settings, 3, 4, "cpu"))
    assert (seed, device, len(weights.weights())) == (4, "cpu", 2)
    assert asked[2][0] == settings
    fixed = (pytest.approx(0.5), pytest.approx(0.5)) if method == "learnt" else (0.5, 0.0)
    assert row == {"test": "process", "weight_useful": fixed[0], "weight_useless": fixed[1]}


# -------------------------------------------------------------------------------------------------- noisy labels

NOISY = NoisyLabelsConfig(
    data="wrench_sms", backbone="gpt2-small", max_length=9, hidden=6, batch_size=4, upper_batch_size=2, max_steps=9,
    alpha=0.3, lower_lr=0.2, unroll_steps=3, data_seed=7, uncovered="random",
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "solver"),
    [
        ({}, SAMA(alpha=0.3)), ({"multitask": True}, SAMA(alpha=0.3, multitask=True)),
        ({"solver": "sama_unadapted"}, SAMA(alpha=0.3, adapt=False)),
        ({"solver": "sama_unadapted", "multitask": True}, SAMA(alpha=0.3, adapt=False, multitask=True)),
        ({"solver": "darts"}, DARTS(step=0.2, alpha=0.3)),
        ({"solver": "identity"}, Implicit(Identity(1.0, measure=False))),
        ({"solver": "cg"}, Implicit(CG(max_iterations=5, damping=1.0, on_failure="report"))),
        ({"solver": "neumann"}, Implicit(Neumann(terms=5, step=0.1, damping=1.0, on_failure="report"))),
        ({"solver": "unrolled"}, Unrolled(steps=3)),
    ],
)  # fmt: skip
def test_the_solver_of_a_noisy_labels_trial(changes: dict[str, Any], solver: Any) -> None:
    assert noisy_labels.hypergradient(replace(NOISY, **changes)) == solver


@pytest.mark.parametrize(
    ("method", "lower"),
    [
        ("noisy", ["noisy"] * 6), ("clean", ["upper"] * 6), ("reweight", ["noisy"] * 6),
        ("reweight_correct", ["noisy"] * 6),
    ],
)  # fmt: skip
def test_an_arm_of_noisy_labels_on_one_sort_of_text(method: Any, lower: list[str]) -> None:
    batches, _ = arm(method)
    assert [batches(n) for n in range(6)] == [{name: n} for n, name in enumerate(lower)]


def arm(method: Any) -> tuple[Any, Work]:
    work = Work()

    def replaced(process: Any, **fields: Any) -> Any:
        work.fields = fields  # type: ignore[attr-defined]
        return process

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(noisy_labels, "replace", replaced)
        noisy_labels.training(replace(NOISY, method=method), work)  # type: ignore[arg-type]
    loss, batches, upper = work.given
    assert upper(5) == {"upper": 5}
    assert [each[1:] for each in work.asked] == [(4, "noisy"), (2, "upper")]
    learns = method.startswith("reweight")
    assert work.learns is learns
    assert (loss is noisy_labels.classification_loss) is not learns
    assert work.fields == {  # type: ignore[attr-defined]
        "method": SAMA(alpha=0.3), "unroll_steps": 3 if learns else 1, "learn_upper": True, "upper_dropout": True,
    }  # fmt: skip
    return batches, work


def test_arms_of_noisy_labels_that_mix_texts() -> None:
    both, then, reweight = (arm(name)[0] for name in ("both", "then", "reweight_both"))
    assert [both(n) for n in range(4)] == [{"noisy": 0}, {"upper": 0}, {"noisy": 1}, {"upper": 1}]
    # Half of nine steps is four.
    assert [then(n) for n in (0, 3, 4, 8)] == [{"noisy": 0}, {"noisy": 3}, {"upper": 0}, {"upper": 4}]
    assert [list(reweight(n)) for n in range(4)] == [["noisy"], ["upper", "clean"], ["noisy"], ["upper", "clean"]]
    assert [reweight(n).get("noisy", reweight(n).get("upper")) for n in range(4)] == [0, 0, 1, 1]
    assert reweight(1)["clean"].tolist() == [1.0]


def test_a_clean_batch_has_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noisy_labels, "classification_loss", lambda *given: ("plain", given))
    monkeypatch.setattr(noisy_labels, "logits_of", lambda model, batch: (model, batch["labels"]))
    weighted = arm("reweight")[1].given[0]
    upper = lambda logits, labels: ("weighted", logits, labels)
    batch = {"labels": "y"}
    assert weighted("model", upper, batch) == ("weighted", ("model", "y"), "y")
    assert weighted("model", upper, {**batch, "clean": 1}) == ("plain", ("model", upper, {**batch, "clean": 1}))


def test_texts_of_noisy_labels_are_tokens_or_features_and_some_are_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    data = SimpleNamespace(with_few_clean=lambda n, seed: ("few", n, seed))
    monkeypatch.setattr("metascale.tasks.datasets.locate", lambda name: f"at {name}")
    for name in ("load_features", "load_texts"):
        monkeypatch.setattr(noisy_labels, name, lambda *given, of=name: asked.append((of, given)) or data)
    assert noisy_labels.texts(NOISY, 4, "mps") is data
    assert noisy_labels.texts(replace(NOISY, backbone="", n_clean=12), 4, "mps") == ("few", 12, 4)
    noisy_labels.texts(replace(NOISY, frozen=True), 4, "mps")
    assert asked == [
        ("load_texts", (NOISY, "random")),
        ("load_features", ("at wrench_sms", "", 9, 7, "random", "mps")),
        ("load_features", ("at wrench_sms", "gpt2", 9, 7, "random", "mps")),
    ]


@pytest.mark.parametrize(
    ("changes", "attention"),
    [
        ({}, "sdpa"), ({"solver": "cg"}, "eager"), ({"solver": "darts"}, "sdpa"), ({"solver": "unrolled"}, "eager"),
        ({"method": "noisy", "solver": "cg"}, "sdpa"),
    ],
)  # fmt: skip
def test_the_classifier_of_noisy_labels(
    changes: dict[str, Any], attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    loaded = lambda *given, **named: asked.append((given, named)) or "backbone"
    monkeypatch.setattr("metascale.models.text.hf.load_backbone", loaded)
    made = lambda *given, **named: asked.append((given, named)) or nn.Identity()
    monkeypatch.setattr("metascale.models.text.classifiers.TextClassifier", made)
    data = SimpleNamespace(classes=("a", "b", "c"), test=labelled(2))
    noisy_labels.classifier(replace(NOISY, train_blocks=2, **changes), data, 4, "cpu")  # type: ignore[arg-type]
    assert asked == [
        (("gpt2",), {"attn_implementation": attention, "device": "cpu"}),
        (("backbone", 3, 2), {"seed": 4}),
    ]
    net = noisy_labels.classifier(replace(NOISY, backbone=""), data, 4, "cpu")  # type: ignore[arg-type]
    assert [tuple(value.shape) for value in net.state_dict().values()] == [(6, 1), (6,), (3, 6), (3,)]
    hidden: Any = net.hidden
    drawn = torch.randn(6, 1, generator=torch_generator(4, "on-features")) * 2**0.5
    assert torch.allclose(hidden.weight, drawn)


def test_the_upper_level_weighs_examples_and_may_correct_their_labels() -> None:
    logits, labels = torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.5, 0.5]]), torch.tensor([0, 0, 1])
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    plain = noisy_labels.upper_model(2, False, 3)
    weigh: Any = plain.weigh
    assert plain.correct is None
    assert float(plain(logits, labels).detach()) == pytest.approx(
        float((weigh.weights(losses) * losses).mean().detach())
    )
    corrected = noisy_labels.upper_model(2, True, 3)
    soft = corrected.correct(logits, labels)  # type: ignore[operator]
    each = -(soft * logits.log_softmax(1)).sum(1)
    own: Any = corrected.weigh
    assert float(corrected(logits, labels).detach()) == pytest.approx(
        float((own.weights(each) * each).mean().detach()), rel=1e-5
    )
    assert soft.shape == (3, 2)
    again = noisy_labels.upper_model(2, True, 3).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in corrected.state_dict().items())
    other = noisy_labels.upper_model(2, True, 4).state_dict()
    assert not torch.equal(other["weigh.network.0.weight"], again["weigh.network.0.weight"])
    assert not torch.equal(other["correct.network.0.weight"], again["correct.network.0.weight"])


@pytest.mark.parametrize("wrong", [True, False])
def test_the_summary_of_weights_is_of_right_and_of_wrong_labels(wrong: bool) -> None:
    targets, truth = np.array([0, 1, 0, 1]), np.array([0, 0, 0, 0]) if wrong else np.array([0, 1, 0, 1])
    texts = LabelledTexts(TextFeatures(torch.arange(4.0)[:, None]), targets, truth, targets[:, None])
    upper = noisy_labels.upper_model(2, False, 3)
    asked: list[Any] = []

    def per_text(sample: LabelledTexts, theta: Any, buffers: Any) -> Any:
        asked.append((sample.tokens.values[:, 0].tolist(), list(theta), list(buffers)))  # type: ignore[union-attr]
        return np.array([0.1, 0.2, 0.3, 0.4]), None

    model = nn.BatchNorm1d(2)
    work = SimpleNamespace(
        data=SimpleNamespace(noisy=texts), per_text=per_text, model=model, upper=upper, device="cpu"
    )  # fmt: skip
    found = noisy_labels.weight_summary(work)  # type: ignore[arg-type]
    weigh: Any = upper.weigh
    weights = weigh.weights(torch.tensor([0.1, 0.2, 0.3, 0.4])).detach().numpy()
    right = weights[[0, 2]] if wrong else weights
    assert found == {
        "weight_of_right_labels": pytest.approx(right.mean()),
        "weight_of_wrong_labels": pytest.approx(weights[[1, 3]].mean() if wrong else float("nan"), nan_ok=True),
    }
    assert asked == [([0.0, 1.0, 2.0, 3.0], ["weight", "bias"], ["running_mean", "running_var", "num_batches_tracked"])]


@pytest.mark.parametrize(
    ("method", "corrects", "summary"), [("noisy", False, {}), ("reweight_correct", True, {"w": 1})]
)
def test_the_row_of_a_noisy_labels_trial(
    method: Any, corrects: bool, summary: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, asked, run = replace(NOISY, method=method), [], MemoryRun()
    data = SimpleNamespace(describe=lambda: {"name": "texts"}, classes=("a", "b"))
    monkeypatch.setattr(noisy_labels, "load_recipe", lambda name: SimpleNamespace(validate=lambda config: settings))
    monkeypatch.setattr(noisy_labels, "texts", lambda *given: data if given == (settings, 4, "cpu") else None)
    monkeypatch.setattr(noisy_labels, "classifier", lambda *given: given)
    monkeypatch.setattr(noisy_labels, "upper_model", lambda *given: asked.append(given) or nn.Identity())
    monkeypatch.setattr(noisy_labels, "training", lambda of, work: ("process", of))
    monkeypatch.setattr(noisy_labels, "weight_summary", lambda work: {"w": 1})

    class Tuning:
        def __init__(self, *given: Any) -> None:
            asked.append((*given[:3], *given[4:]))

        def train_and_test(self, *given: Any) -> dict[str, Any]:
            asked.append(given)
            return {"test": 1}

    monkeypatch.setattr(noisy_labels, "FineTuning", Tuning)
    assert noisy_labels.trial({"recipe": "noisy_labels", "seed": 4}, run, "cpu") == {"test": 1, **summary}
    assert asked == [
        (2, corrects, 4), (settings, data, (settings, data, 4, "cpu"), 4, "cpu"), (("process", settings), run),
    ]  # fmt: skip
    assert run.files == {"data.json": {"name": "texts"}}


# --------------------------------------------------------------------------------------------------- data pruning

PRUNING = DataPruningConfig(
    keep=0.5, batch_size=2, width=3, depth=1, lr=0.2, upper_lr=0.3, score_steps=6, score_models=2, max_steps=9,
    eval_every=4, patience=5, n_train=20, label_noise=0.1, duplicates=0.3, noise_seed=8,
)  # fmt: skip


class Images:
    """Six images in two classes, of which the last is a copy of the first and the second is labelled wrongly."""

    image_size, n_classes, steps_per_epoch = 1, 2, 3
    labels: ClassVar = {"train": np.array([0, 1, 1, 0, 1, 0]), "validation": np.array([0, 1, 0, 1])}
    true_labels = np.array([0, 0, 1, 0, 1, 0])
    copy_of = np.array([0, 1, 2, 3, 4, 0])

    def describe(self) -> dict[str, Any]:
        return {"name": "six"}

    def examples(self, split: str, index: np.ndarray) -> Any:
        return split, index.tolist()

    def evaluation(self, split: str, max_batches: int | None = None) -> Any:
        return (split, max_batches)


def test_how_many_examples_are_kept_and_that_they_fill_a_batch() -> None:
    data: Any = Images()
    assert [data_pruning.count_kept(replace(PRUNING, keep=keep), data) for keep in (0.34, 0.5, 1.0)] == [2, 3, 6]
    sentence = "^keep=0.3 of 6 examples leaves 2, fewer than a batch of 3: keep more, or lower batch_size$"
    with pytest.raises(InputError, match=sentence):
        data_pruning.count_kept(replace(PRUNING, keep=0.3, batch_size=3), data)


def test_images_have_the_faults_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    for name in ("mnist", "small_digits"):
        found = lambda *given, of=name, **named: asked.append((of, given, named)) or Images()
        monkeypatch.setattr(f"metascale.tasks.supervised.images.{name}", found)
    faults = {"label_noise": 0.1, "duplicates": 0.3, "noise_seed": 8}
    data_pruning.images(PRUNING, 4)
    data_pruning.images(replace(PRUNING, data="mnist"), 4)
    data_pruning.check(PRUNING)
    assert asked == [
        ("small_digits", (20, 2, 4), faults), ("mnist", (None, 20, 2, 4), faults), ("small_digits", (20, 2, 0), faults),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"^keep=0\.1 of 6 examples leaves 1"):
        data_pruning.check(replace(PRUNING, keep=0.1))


def test_kept_examples_run_on_from_epoch_to_epoch() -> None:
    data: Any = Images()
    part = KeptExamples(data, np.array([1, 3, 4]), 2, 7)
    orders = [generator(7, "kept-examples", epoch).permutation(3) for epoch in range(2)]
    expected = np.array([1, 3, 4])[np.concatenate(orders)].tolist()
    assert [part.batch(step) for step in range(3)] == [("train", expected[2 * k : 2 * k + 2]) for k in range(3)]
    assert part.evaluation("test", 3) == ("test", 3)
    assert part.evaluation("validation") == ("validation", None)


def scoring(**changes: Any) -> Scoring:
    model = Perceptron(1, 2, 3, 1, task_axis=False)
    return Scoring(replace(PRUNING, **changes), Images(), model, 3, "cpu")  # type: ignore[arg-type]


def test_scores_of_each_method(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = np.array([0.1, 0.9, 0.3, 0.2, 0.5, 0.4])
    for name in ("el2n", "forgetting", "learnt"):
        monkeypatch.setattr(Scoring, name, lambda self, of=name: of)
    monkeypatch.setattr(Scoring, "losses", lambda self: losses)
    found = {name: scoring(method=name).scores() for name in ("el2n", "forgetting", "learnt")}
    assert found == {name: name for name in found}
    assert scoring(method="large_loss").scores().tolist() == losses.tolist()
    assert scoring(method="small_loss").scores().tolist() == (-losses).tolist()
    assert scoring(method="random").scores().tolist() == generator(3, "random-scores").random(6).tolist()


def test_losses_and_el2n_of_fitted_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """EL2N: of (0.8, 0.2) beside the first class √(0.2² + 0.2²), beside the second √2·0.8; the mean of two models."""
    predictions = {
        0: (torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.0, 1.0]]), torch.tensor([0, 1, 0])),
        1: (torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.0, 1.0]]), torch.tensor([0, 1, 0])),
    }
    fitted: list[int] = []
    monkeypatch.setattr(Scoring, "_fitted", lambda self, number: fitted.append(number) or number)
    monkeypatch.setattr(Scoring, "_predictions", lambda self, params: predictions[params])
    root = 2**0.5
    assert scoring().el2n() == pytest.approx([root * 0.3, root * 0.7, root])
    assert fitted == [0, 1]
    assert scoring().losses() == pytest.approx([-np.log(0.8), -np.log(0.2), -np.log(1e-12)], rel=1e-5)
    assert fitted == [0, 1, 0]


class Steps:
    """A training that notes its steps; its state is their number."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def init(self) -> Any:
        return SimpleNamespace(params="start")

    def step(self, state: Any, k: int) -> Any:
        self.steps.append(k)
        return SimpleNamespace(params=k + 1), {}


@pytest.mark.parametrize(
    ("score_steps", "per_epoch", "looks"),
    [
        (6, 3, [1, 2, 3, 4, 5, 6]),  # two epochs: at least ten looks, or every step
        (40, 10, list(range(4, 41, 4))),
        (40, 2, list(range(2, 41, 2))),  # twenty epochs, twenty looks
        (5, 0, [1, 2, 3, 4, 5]),
    ],
)
def test_forgetting_is_looked_for_once_an_epoch_or_ten_times(
    score_steps: int, per_epoch: int, looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Example 0 is right, wrong, right, wrong, ...; 1 always right; 2 never; 3 right from the second look on."""
    process, seen = Steps(), []
    monkeypatch.setattr(Images, "steps_per_epoch", per_epoch)
    monkeypatch.setattr(Images, "true_labels", np.zeros(4))
    monkeypatch.setattr(Scoring, "training", lambda self, data, seed: process if seed == 3 else None)

    def predictions(self: Scoring, params: int) -> Any:
        look = len(seen)
        seen.append(params)
        right = torch.tensor([look % 2 == 0, True, False, look > 0])
        return torch.stack([right.double(), (~right).double()], 1), torch.zeros(4).long()

    monkeypatch.setattr(Scoring, "_predictions", predictions)
    found = scoring(score_steps=score_steps).forgetting()
    assert seen == looks
    assert process.steps == list(range(score_steps))
    forgotten = len(looks) // 2
    assert found.tolist() == [forgotten, 0, forgotten + 1, 0]


def test_a_scoring_model_is_trained_on_all_data_in_an_order_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    process, asked = Steps(), []
    monkeypatch.setattr(data_pruning, "replace", lambda data, seed: (type(data).__name__, seed))
    monkeypatch.setattr(Scoring, "training", lambda self, data, seed: asked.append((data, seed)) or process)
    assert scoring()._fitted(2) == 6
    assert asked == [(("Images", 3002), 3002)]
    assert process.steps == [0, 1, 2, 3, 4, 5]
    monkeypatch.undo()
    own: Any = Images()
    made = scoring().training(own, 5)
    assert made == SupervisedTraining(
        Perceptron(1, 2, 3, 1, task_axis=False), own, Adam(0.2), seed=5, measure="accuracy", device="cpu"
    )  # fmt: skip


def test_predictions_are_of_the_training_examples_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [Batch({"x": torch.tensor([[float(k)]])}, torch.tensor([k])) for k in (0, 1, 1)]
    monkeypatch.setattr(Images, "evaluation", lambda self, split: batches if split == "train" else [])
    work = scoring()
    params = work.model.init(0)
    probabilities, labels = work._predictions(params)
    assert labels.tolist() == [0, 1, 1]
    expected = torch.cat([work.model.predict(params, batch) for batch in batches]).softmax(-1)
    assert torch.allclose(probabilities, expected)
    assert probabilities.sum(1).tolist() == pytest.approx([1.0] * 3)
    assert not probabilities.requires_grad


def test_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, float(np.log(3))], [100.0, 0.0]], dtype=torch.float64)
    expected = [np.log(2), np.log(4) - 0.75 * np.log(3), 0.0]
    assert data_pruning.entropy(logits).tolist() == pytest.approx(expected, abs=1e-12)


def test_a_pruning_trial_keeps_the_highest_scores_with_ties_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    data, run, asked = Images(), MemoryRun(), []
    monkeypatch.setattr(data_pruning, "load_recipe", lambda name: SimpleNamespace(validate=lambda config: PRUNING))
    monkeypatch.setattr(data_pruning, "images", lambda *given: data if given == (PRUNING, 3) else None)
    scores = np.array([1.0, 2.0, 1.0, 0.0, 1.0, 1.0])
    monkeypatch.setattr(Scoring, "scores", lambda self: asked.append(self) or scores)
    monkeypatch.setattr(Scoring, "training", lambda self, examples, seed: (examples, seed))
    result = SimpleNamespace(row=lambda: {"steps": 9})
    trained = lambda *given: asked.append(given) or result
    monkeypatch.setattr("metascale.training.supervised.train_and_test", trained)
    row = data_pruning.trial({"recipe": "data_pruning", "seed": 3}, run, "cpu")
    ties = generator(3, "ties").random(6)
    equal = sorted([0, 2, 4, 5], key=lambda place: ties[place])[:2]
    kept = sorted([1, *equal])
    of, (((examples, seed), schedule, into)) = asked
    assert (of.settings, of.data, of.seed, of.device) == (PRUNING, data, 3, "cpu")
    assert of.model == Perceptron(1, 2, 3, 1, task_axis=False)
    assert (examples.kept.tolist(), examples.n_batch, examples.seed, examples.data, seed) == (kept, 2, 3, data, 3)
    assert (schedule, into) == (Schedule(9, eval_every=4, patience=5), run)
    assert run.files == {"data.json": {"name": "six"}}
    assert row == {
        "steps": 9, "n_kept": 3, "kept_wrong_labels": pytest.approx(1 / 3), "kept_copies": (5 in kept) / 3,
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- hypergradient bias

BIAS = BiasConfig(lr=0.3, lower_steps=7, upper_steps=25, upper_lr=0.4, spread=4.0, rows=2, columns=2, n_upper=3)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("identity", Implicit(Identity(1.0, measure=False))), ("sama", SAMA()),
        ("cg", Implicit(CG(max_iterations=7, tol=1e-12, on_failure="report"))),
        ("neumann", Implicit(Neumann(terms=7, step=0.075, on_failure="report"))), ("unrolled", Unrolled(steps=7)),
    ],
)  # fmt: skip
def test_the_solver_of_a_bias_trial_has_as_many_products_as_lower_steps(name: Any, expected: Any) -> None:
    assert hypergradient_bias.hypergradient(replace(BIAS, solver=name)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", SGD(0.3)), ("momentum", SGD(0.3, momentum=0.9)), ("adam", Adam(0.3)), ("rmsprop", RMSprop(0.3)),
        ("adagrad", Adagrad(0.3)), ("lion", Lion(0.3, softness=0.1)), ("lamb", LAMB(0.3)), ("muon", Muon(0.3)),
    ],
)  # fmt: skip
def test_the_lower_optimiser_of_a_bias_trial(name: Any, expected: Any) -> None:
    assert hypergradient_bias.lower_optimizer(replace(BIAS, optimizer=name)) == expected


def test_muon_needs_a_matrix() -> None:
    replace(BIAS, optimizer="muon").refuse("here")
    replace(BIAS, rows=1).refuse("here")
    for shape in ({"rows": 1}, {"columns": 1}):
        with pytest.raises(
            InputError, match=r"^here: optimizer 'muon' needs a matrix; rows and columns must be at lea"
        ):
            replace(BIAS, optimizer="muon", **shape).refuse("here")  # type: ignore[arg-type]


def test_a_drawn_problem_has_the_stated_diagonal_and_off_diagonal_share() -> None:
    problem = Quadratic.draw(BIAS, 5)
    h = problem.curvature.numpy()
    assert sorted(np.diag(h)) == pytest.approx([4**place for place in (-0.5, -1 / 6, 1 / 6, 0.5)])
    factor = torch.randn((4, 4), generator=torch_generator(5, "correlation"), dtype=torch.float64).numpy()
    covariance = factor @ factor.T
    scale = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(scale, scale)
    sizes = np.sqrt(np.diag(h))
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose((h / np.outer(sizes, sizes))[off], 0.2 * correlation[off], rtol=1e-10)
    assert problem.shape == (2, 2)
    drawn = lambda purpose, *shape: torch.randn(shape, generator=torch_generator(5, purpose), dtype=torch.float64)
    assert torch.equal(problem.coupling, drawn("coupling", 4, 3))
    assert torch.equal(problem.target, drawn("target", 4))
    order = torch.randperm(4, generator=torch_generator(5, "curvature-order")).tolist()
    assert np.argsort(np.argsort(np.diag(h))).tolist() == order


def problem() -> Quadratic:
    """H = diag(1, 2), B = (1, 0)ᵀ and (0, 1)ᵀ, t = (1, 1)."""
    h = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64))
    return Quadratic(h, torch.eye(2, dtype=torch.float64)[:, :1], torch.ones(2, dtype=torch.float64), (1, 2))


def test_losses_exact_hypergradient_and_gap_by_hand() -> None:
    """At θ = (3, 2), λ = 5: ½(9 + 8) − 15 = −6.5; ½(4 + 1) = 2.5; H⁻¹(2, 1) = (2, ½), of which B takes 2.

    θ* = (λ, 0), so M is ½(λ − 1)² + ½, at least ½: the gap at 5 is 8.
    """
    theta = {"w": torch.tensor([[3.0, 2.0]], dtype=torch.float64)}
    lam = {"lam": torch.tensor([5.0], dtype=torch.float64)}
    assert float(problem().lower_loss(theta, lam)) == -6.5
    assert float(problem().upper_loss(theta, lam)) == 2.5
    assert problem().exact(theta).tolist() == pytest.approx([2.0])
    assert problem().gap(lam) == pytest.approx(8.0)
    assert problem().gap({"lam": torch.ones(1, dtype=torch.float64)}) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("value", "cosine", "error"),
    [([3.0, 0.0], 1.0, 1e-8), ([3.0, 4.0], 0.6, 0.8), ([-3.0, 4.0], -0.6, 1.0), ([0.0, 1.0], 0.0, 1.0)],
)
def test_a_solver_is_compared_by_the_angle_to_the_exact_hypergradient(
    value: list[float], cosine: float, error: float
) -> None:
    answer = SimpleNamespace(value={"lam": torch.tensor(value, dtype=torch.float64)})
    inner = lambda *given: answer if given == ("problem", "lower", "upper") else None
    inner.remembers, inner.adapts = "r", "a"  # type: ignore[attr-defined]
    exact = SimpleNamespace(exact=lambda lower: torch.tensor([2.0, 0.0], dtype=torch.float64))
    watched = ComparedSolver(inner, exact)  # type: ignore[arg-type]
    assert (watched.remembers, watched.adapts) == ("r", "a")
    assert all(np.isnan(watched.last))
    assert watched("problem", "lower", "upper") is answer  # type: ignore[arg-type]
    assert watched.last == (pytest.approx(cosine), pytest.approx(error))


def test_the_row_of_a_bias_trial_is_of_its_first_hypergradient(
    bilevel: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    class Process(SimpleNamespace):
        def init(self) -> str:
            return "state"

        def step(self, state: str, k: int) -> None:
            asked.append((state, k))
            self.method.last = (0.6, 0.8)

    monkeypatch.setattr(
        "metascale.bilevel.training.BilevelTraining",
        lambda *given, **named: asked.append((given, named)) or Process(method=named["method"]),
    )
    monkeypatch.setattr(hypergradient_bias, "load_recipe", lambda name: SimpleNamespace(validate=lambda config: BIAS))
    monkeypatch.setattr(Quadratic, "draw", staticmethod(lambda *given: problem() if given == (BIAS, 5) else None))
    state = SimpleNamespace(upper={"lam": torch.tensor([5.0], dtype=torch.float64)})
    result = SimpleNamespace(state=state, steps=25)

    def train(process: Any, schedule: Schedule, run: Any) -> Any:
        asked.append((schedule, run))
        process.method.last = (0.0, 1.0)
        return result

    monkeypatch.setattr("metascale.training.loop.train", train)
    run = MemoryRun()
    row = hypergradient_bias.trial({"recipe": "hypergradient_bias", "seed": 5}, run, "cpu")
    assert row == {
        "hypergradient_error": 0.8, "hypergradient_cosine": 0.6, "upper_gap": pytest.approx(8.0), "steps": 25,
    }  # fmt: skip
    (((start, first, lower, upper), below, above), named), step, (schedule, into) = asked
    assert start["w"].tolist() == [[0.0, 0.0]]
    assert torch.equal(first["lam"], torch.randn(3, generator=torch_generator(5, "first-upper"), dtype=torch.float64))
    theta, lam = {"w": torch.tensor([[3.0, 2.0]], dtype=torch.float64)}, state.upper
    assert (float(lower(theta, lam, 0, None)), float(upper(theta, lam, 0, None))) == (-6.5, 2.5)
    assert (below(4), above(4)) == (4, 4)
    assert named.pop("method").solver == SAMA()
    assert named.pop("evaluate")({}, {}, lam) == {"validation_loss_nats": pytest.approx(8.0)}
    assert named == {"lower_optimizer": Adam(0.3), "upper_optimizer": Adam(0.4), "unroll_steps": 7}
    assert step == ("state", 0)
    assert schedule == Schedule(25, eval_every=2, restore_best=False, checkpoint_every=10**9)
    assert into is run
    monkeypatch.setattr(
        hypergradient_bias, "load_recipe",
        lambda name: SimpleNamespace(validate=lambda config: replace(BIAS, upper_steps=5)),
    )  # fmt: skip
    monkeypatch.setattr(Quadratic, "draw", staticmethod(lambda *given: problem()))
    hypergradient_bias.trial({"recipe": "hypergradient_bias", "seed": 5}, run, "cpu")
    assert asked[-1][0].eval_every == 1


def test_an_arm_without_a_weight_does_not_compute_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auxiliary_tasks, "classification_loss", lambda *given: torch.tensor(1.0))
    asked: list[str] = []
    model = lambda ids, mask, next_tokens: asked.append(ids) or torch.tensor(10.0)
    batch = {"plain": "plain", "plain_mask": "mask", "shuffled": "shuffled"}
    for method, computed in (("main", []), ("useful", ["plain"]), ("both", ["plain", "shuffled"])):
        work, settings = Work(), AuxiliaryConfig(method=method, n_labelled=4, batch_size=4)  # type: ignore[arg-type]
        auxiliary_tasks.training(settings, work)  # type: ignore[arg-type]
        asked.clear()
        work.given[0](model, None, batch)
        assert asked == computed


def test_a_summary_of_weights_is_of_512_texts_at_most() -> None:
    n, seen = 600, []
    texts = replace(labelled(n), truth=np.zeros(n, np.int64))
    upper = noisy_labels.upper_model(2, False, 3)
    per_text = lambda sample, *rest: (seen.append(sample.tokens.values[:, 0].tolist()) or np.ones(len(sample)), None)
    work = SimpleNamespace(
        data=SimpleNamespace(noisy=texts), per_text=per_text, model=nn.Linear(1, 1), upper=upper, device="cpu"
    )
    noisy_labels.weight_summary(work)  # type: ignore[arg-type]
    assert seen == [np.sort(generator(0, "weight-summary").permutation(n)[:512]).tolist()]


def test_trainings_of_annotators_are_on_the_device_of_their_data(bilevel: list[Any]) -> None:
    data = answers()
    moved: list[Any] = []

    class There(torch.Tensor):
        """A tensor that says it lies on a device without data."""

        @property
        def device(self) -> torch.device:  # type: ignore[override]
            moved.append("asked")
            return torch.device("meta")

    there = replace_test(data, data.test["x"].as_subclass(There))
    annotators.training(OF_ANNOTATORS, there, 6)
    (((theta, lam, *_), _, _), _) = bilevel[0]
    assert {value.device.type for value in (*theta.values(), *lam.values())} == {"meta"}
    assert moved


def replace_test(data: Answers, x: torch.Tensor) -> Answers:
    return Answers(data.annotated, data.checked, data.selection, {**data.test, "x": x}, data.share_wrong)


class Halves:
    """Images whose validation part has seven examples; each example is its number."""

    image_size, n_classes, steps_per_epoch = 1, 2, 3

    def __init__(self) -> None:
        self.labels = {"train": np.zeros(6, int), "validation": np.arange(7) % 2}
        self.true_labels = np.zeros(6, int)
        self.seen: list[Any] = []

    def examples(self, split: str, index: np.ndarray) -> Batch:
        self.seen.append((split, index.tolist()))
        x = torch.from_numpy(np.asarray(index, "f4"))[:, None]
        return Batch({"x": x}, torch.from_numpy(np.asarray(index) % 2))

    def batch(self, number: int) -> Batch:
        return self.examples("train", np.array([number]))


def test_the_learnt_scorer_sees_one_half_of_validation_and_is_chosen_on_the_other(
    bilevel: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from metascale.bilevel.applications import DataScorer
    from metascale.bilevel.levels import trainable

    # Cloned, since the scorer is trained in its own tensors.
    copied = lambda params: {name: value.detach().clone() for name, value in params.items()}
    made = lambda theta, lam, *losses: (copied(theta), copied(lam), *losses)
    monkeypatch.setattr("metascale.bilevel.levels.from_functions", made)
    data: Any = Halves()
    model = Perceptron(1, 2, 3, 1, task_axis=False)
    work = Scoring(replace(PRUNING, score_steps=25, batch_size=2), data, model, 3, "cpu")
    upper = {name: value * 0.5 for name, value in trainable(DataScorer(seed=3)).items()}
    state = SimpleNamespace(upper=upper, lower=model.init(8))
    asked: list[Any] = []
    trained = lambda process, schedule, run: asked.append((schedule, type(run))) or SimpleNamespace(state=state)
    monkeypatch.setattr("metascale.training.loop.train", trained)
    scores = work.learnt()
    assert asked == [(Schedule(25, eval_every=2), MemoryRun)]
    (((theta, lam, lower_loss, upper_loss), below, above), named) = bilevel[0]
    assert all(torch.equal(value, model.init(3)[name]) for name, value in theta.items())
    scorer = DataScorer(seed=3)
    assert all(torch.equal(value, trainable(scorer)[name]) for name, value in lam.items())
    order = generator(3, "validation-halves").permutation(7)
    first, second = order[:3], order[3:]
    assert data.seen[0] == ("validation", second.tolist())
    assert data.seen[-1] == ("train", [0, 1, 2, 3, 4, 5])
    chosen = generator(3, "upper-batches", 4).choice(3, 2, replace=False)
    assert above(4).inputs["x"][:, 0].tolist() == first[chosen].tolist()
    assert below(4).inputs["x"].tolist() == [[4.0]]
    batch = data.examples("train", np.arange(5))
    logits = model.predict(theta, batch)
    losses = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")
    expected = (scorer.scores(losses, data_pruning.entropy(logits)) * losses).mean()
    assert torch.allclose(lower_loss(theta, lam, batch, SimpleNamespace(dropout=None)), expected)
    assert torch.allclose(upper_loss(theta, lam, batch, None), losses.mean())
    selected = data.examples("validation", second)
    evaluated = named.pop("evaluate")(theta, {}, lam)
    own = torch.nn.functional.cross_entropy(model.predict(theta, selected), selected.targets)
    assert evaluated == {"validation_loss_nats": pytest.approx(float(own))}
    assert named == {"method": SAMA(), "lower_optimizer": Adam(0.2), "upper_optimizer": Adam(0.3), "seed": 3}
    everything = data.examples("train", np.arange(6))
    last = model.predict(state.lower, everything)
    scorer.load_state_dict(upper)
    final = scorer.scores(
        torch.nn.functional.cross_entropy(last, everything.targets, reduction="none"), data_pruning.entropy(last)
    )
    np.testing.assert_allclose(scores, final.detach().numpy(), rtol=1e-5)
    short = Scoring(replace(PRUNING, score_steps=9, batch_size=50), data, model, 3, "cpu")
    short.learnt()
    assert asked[-1][0] == Schedule(9, eval_every=1)
    assert len(bilevel[1][0][2](0).targets) == 3  # of the three there are
