"""The bilevel recipes: configurations, short trials of every arm, what they learn, and interruptions."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metascale.bilevel.applications import DataScorer
from metascale.bilevel.levels import Pass, from_functions, trainable
from metascale.bilevel.training import BilevelTraining
from metascale.core.errors import InputError
from metascale.core.run import MemoryRun
from metascale.core.types import Params
from metascale.hypergrad.sama import SAMA
from metascale.hypergrad.unrolled import Unrolled
from metascale.models.perceptron import Perceptron
from metascale.recipes import annotators, noisy_labels
from metascale.recipes.data_pruning import KeptExamples, Scoring, entropy, images
from metascale.recipes.hypergradient_bias import BiasConfig, Quadratic
from metascale.tasks.supervised.images import small_digits
from metascale.training.optimizers import SGD
from metascale.workflow.recipe import SHIPPED, load_recipe
from metascale.workflow.text_fine_tuning import FineTuning

NAMES = ("noisy_labels", "annotators", "data_pruning", "auxiliary_tasks", "hypergradient_bias")
TINY: dict[str, Any] = {"lower_lr": 1e-3, "batch_size": 6, "max_steps": 3, "eval_every": 2, "max_length": 8}


def configuration(name: str, **values: Any) -> dict[str, Any]:
    return {"recipe": name, "seed": 0, **values}


def run_trial(name: str, run: MemoryRun | None = None, **values: Any) -> dict[str, Any]:
    return dict(load_recipe(name).run_trial(configuration(name, **values), run or MemoryRun(), "cpu"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a small weakly labelled set and two tiny language models with a tokenizer."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("data")
    _write_texts(folder / "wrench_youtube")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "check", "song", "love", *map(str, range(10))]
    sizes = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "pad_token_id": 0}
    torch.manual_seed(0)
    for name, config, model in (
        ("bert", transformers.BertConfig(**sizes), transformers.BertModel),
        ("llama", transformers.LlamaConfig(**sizes), transformers.LlamaModel),
    ):
        model(config).save_pretrained(folder / name)
        (folder / name / "vocab.txt").write_text("\n".join(words))
        transformers.BertTokenizer(str(folder / name / "vocab.txt")).save_pretrained(folder / name)
    return folder


def _write_texts(folder: Path) -> None:
    """Texts of two classes told apart by one word; of the two voters of training texts one is wrong now and then."""
    folder.mkdir()

    def rows(n: int, offset: int) -> dict[str, Any]:
        return {
            str(offset + i): {
                "data": {"text": f"{('love', 'check')[i % 2]} song {offset + i}"},
                "label": i % 2,
                "weak_labels": [1 - i % 2 if i % 5 == 0 else i % 2, -1],
            }
            for i in range(n)
        }

    parts = {"label": {"0": "HAM", "1": "SPAM"}, "labeled_ids": {"labeled_ids": []}}
    parts |= {"train": rows(30, 0), "valid": rows(16, 100), "test": rows(8, 200)}
    for part, content in parts.items():
        (folder / f"{part}.json").write_text(json.dumps(content))


def test_the_recipes_are_registered_with_studies_that_validate() -> None:
    for name in NAMES:
        assert name in SHIPPED
        recipe = load_recipe(name)
        assert recipe.name == name
        for profile in (None, *recipe.profiles):
            assert recipe.study({}, profile).trials(), (name, profile)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("noisy_labels", {"method": "noisy", "solver": "cg"}, "method 'noisy' has no upper level"),
        (
            "noisy_labels",
            {"method": "clean", "learn_upper": False},
            "go with reweight, reweight_correct, reweight_both",
        ),
        ("noisy_labels", {"backbone": "", "train_blocks": 2}, "nothing of it is trained"),
        ("noisy_labels", {"backbone": "", "frozen": True}, "frozen=true needs a backbone"),
        ("noisy_labels", {"solver": "darts", "multitask": True}, "multitask is an option of solver=sama, not of"),
        ("noisy_labels", {"method": "rewieght"}, "method"),
        ("data_pruning", {"label_noise": 1.0}, "label_noise"),
        ("data_pruning", {"keep": 0.0}, "keep"),
        ("data_pruning", {"score": "loss"}, "score"),
        ("auxiliary_tasks", {"n_labelled": 8}, "n_labelled 8 is less than batch_size 32"),
        ("hypergradient_bias", {"off_diagonal": 1.0}, "off_diagonal"),
        ("hypergradient_bias", {"optimizer": "muon", "rows": 1}, "'muon' needs a matrix"),
    ],
)
def test_values_that_make_no_sense_are_refused(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe(name).validate(values)


@pytest.mark.parametrize(
    "values",
    [
        {"method": "noisy"},
        {"method": "clean"},
        {"method": "both"},
        {"method": "then"},
        {"method": "reweight"},
        {"method": "reweight_both"},
        {"method": "reweight_both", "backbone": ""},
        {"method": "then", "frozen": True, "n_clean": 4},
        {"method": "reweight_correct", "train_blocks": 1},
        {"solver": "sama", "multitask": True, "learn_upper": False},
        {"solver": "sama_unadapted"},
        {"solver": "darts"},
        {"solver": "identity"},
        {"solver": "cg"},
        {"solver": "neumann"},
        {"solver": "unrolled", "unroll_steps": 2},
    ],
    ids=lambda values: "-".join(map(str, values.values())),
)
def test_every_arm_and_solver_of_noisy_labels_runs(
    values: dict[str, Any], texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METASCALE_DATA", str(texts))
    run = MemoryRun()
    row = run_trial("noisy_labels", run, **{"data": "wrench_youtube", "backbone": "data:bert", **TINY, **values})
    assert row["steps"] == 3
    assert math.isfinite(row["test_loss_nats"])
    assert 0 <= row["test_accuracy"] <= 1
    assert len(run.rows("test_tasks")) == 8
    bilevel = values.get("method", "reweight").startswith("reweight")
    assert ("weight_of_wrong_labels" in row) == bilevel
    upper_losses = [one["upper_loss_nats"] for one in run.rows("train_stats")]
    assert all((loss is not None) == bilevel for loss in upper_losses)


def test_the_upper_pass_of_noisy_labels_drops_units_unless_told_not_to(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METASCALE_DATA", str(texts))
    losses = []
    for fields in ({}, {"upper_dropout": True}, {"upper_dropout": False}):
        run = MemoryRun()
        run_trial("noisy_labels", run, data="wrench_youtube", backbone="data:bert", **TINY, **fields)
        losses.append(run.rows("train_stats")[0]["upper_loss_nats"])
    assert losses[0] == losses[1] != losses[2]


def test_clean_texts_are_drawn_by_the_seed_and_only_they_are_trained_on(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clean texts of two classes are learnt by heart; more hold those of fewer, up to all."""
    monkeypatch.setenv("METASCALE_DATA", str(texts))
    fields: dict[str, Any] = {**TINY, "data": "wrench_youtube", "backbone": "", "lower_lr": 0.01, "eval_every": 1}
    settings = load_recipe("noisy_labels").validate({**fields, "n_clean": 2})
    drawn = {
        (n, seed): noisy_labels.texts(replace(settings, n_clean=n), seed, "cpu") for n in (2, 6) for seed in (0, 1)
    }
    small, large, other = (drawn[key].upper.batch([0, 1])[0]["features"] for key in ((2, 0), (6, 0), (2, 1)))
    assert torch.equal(small, large)
    assert not torch.equal(small, other)
    for part in ("upper", "selection"):
        assert len(getattr(drawn[2, 0], part)) == 2
    assert len(drawn[2, 0].noisy) == 30
    assert all(
        torch.allclose(data.test.batch([0])[0]["features"].norm(), torch.tensor(10.0)) for data in drawn.values()
    )
    with pytest.raises(InputError, match=r"n_clean=9, and as many texts to choose among steps, .* n_clean=8 at most"):
        run_trial("noisy_labels", method="clean", n_clean=9, **fields)
    accuracy = run_trial("noisy_labels", method="clean", n_clean=8, **{**fields, "max_steps": 40})["test_accuracy"]
    assert accuracy == 1, "one word tells the classes apart"


def test_weak_texts_come_before_clean_ones_or_in_turn(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METASCALE_DATA", str(texts))
    fields = {**TINY, "data": "wrench_youtube", "backbone": "", "n_clean": 4, "max_steps": 4}
    sizes = {}
    for method in ("noisy", "clean", "both", "then", "reweight_both"):
        settings = load_recipe("noisy_labels").validate({**fields, "method": method})
        data = noisy_labels.texts(settings, 0, "cpu")
        model = noisy_labels.classifier(settings, data, 0, "cpu")
        work = FineTuning(settings, data, model, noisy_labels.upper_model(2, False, 0), 0, "cpu")
        process = noisy_labels.training(settings, work)
        sizes[method] = [len(process.lower_batches(step)["labels"]) for step in range(4)]
    turns = [6, 4, 6, 4]
    expected = {"noisy": [6] * 4, "clean": [4] * 4, "both": turns, "then": [6, 6, 4, 4], "reweight_both": turns}
    assert sizes == expected
    start = process.levels.start()
    moved = {name: value + 1 for name, value in start.upper.items()}
    changed = []
    for step in range(2):
        batch = process.lower_batches(step)
        before, after = (
            process.levels.lower_loss(start.lower, lam, batch, Pass(None, start.buffers))
            for lam in (start.upper, moved)
        )
        changed.append(not torch.equal(before, after))
    assert changed == [True, False], "clean texts are not weighed"


def test_every_arm_of_auxiliary_tasks_runs(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METASCALE_DATA", str(texts))
    fields = {**TINY, "data": "wrench_youtube", "backbone": "data:llama", "n_labelled": 12, "weight": 0.5}
    rows = {
        method: run_trial("auxiliary_tasks", method=method, **fields) for method in ("main", "useful", "both", "learnt")
    }
    weights = {name: (row["weight_useful"], row["weight_useless"]) for name, row in rows.items()}
    assert weights["main"] == (0, 0)
    assert weights["useful"] == (0.5, 0)
    assert weights["both"] == (0.5, 0.5)
    assert all(0.4 < weight < 0.6 and weight != 0.5 for weight in weights["learnt"])
    losses = {round(row["test_loss_nats"], 9) for row in rows.values()}
    assert len(losses) == 4, "every arm trains on something else"


@pytest.mark.long
def test_auxiliary_tasks_run_on_the_real_questions(data_dir: Path) -> None:
    for name in ("wrench_trec/train.json", "stories260k/hf/config.json"):
        if not (data_dir / name).is_file():
            pytest.skip(f"needs the data set {name.split('/')[0]} in METASCALE_DATA")
    row = run_trial("auxiliary_tasks", max_steps=2, eval_every=2, batch_size=8)
    assert row["steps"] == 2
    assert 0 <= row["test_accuracy"] <= 1


@pytest.mark.parametrize("solver", ["identity", "sama", "cg", "neumann", "unrolled"])
def test_every_solver_of_the_bias_study_runs(solver: str) -> None:
    row = run_trial("hypergradient_bias", solver=solver, upper_steps=2)
    assert 0 <= row["hypergradient_error"] <= 1
    assert row["upper_gap"] >= 0


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "rmsprop", "adagrad", "lion", "lamb", "muon"])
def test_every_optimiser_of_the_bias_study_runs(optimizer: str) -> None:
    assert -1 <= run_trial("hypergradient_bias", optimizer=optimizer, upper_steps=2)["hypergradient_cosine"] <= 1


def test_the_exact_hypergradient_of_the_bias_study_is_the_slope_of_its_upper_loss() -> None:
    problem = Quadratic.draw(BiasConfig(off_diagonal=0.4, spread=4.0), 3)
    lam = {"lam": torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)}
    reach = torch.linalg.solve(problem.curvature, problem.coupling)
    found = problem.exact({"w": (reach @ lam["lam"]).reshape(problem.shape)})
    for index in range(8):
        move = torch.zeros(8, dtype=torch.float64)
        move[index] = 1e-5
        slope = (problem.gap({"lam": lam["lam"] + move}) - problem.gap({"lam": lam["lam"] - move})) / 2e-5
        assert float(found[index]) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_identity_is_exact_without_off_diagonal_curvature_and_degrades_with_it() -> None:
    errors = [
        run_trial("hypergradient_bias", solver="identity", optimizer="sgd", upper_steps=1, off_diagonal=share)
        for share in (0.001, 0.2, 0.9)
    ]
    small, middle, large = (row["hypergradient_error"] for row in errors)
    assert small < 0.02 < middle < large
    exact = run_trial(
        "hypergradient_bias", solver="cg", lower_steps=40, optimizer="sgd", upper_steps=1, off_diagonal=0.9
    )
    assert exact["hypergradient_error"] < 1e-4


PRUNING: dict[str, Any] = {"n_train": 400, "max_steps": 20, "score_steps": 30, "score_models": 2, "eval_every": 10}


@pytest.mark.parametrize("method", ["random", "el2n", "forgetting", "large_loss", "small_loss", "learnt"])
def test_every_score_of_data_pruning_keeps_its_share(method: str) -> None:
    row = run_trial("data_pruning", method=method, keep=0.4, **PRUNING)
    assert row["n_kept"] == 160
    assert 0.1 < row["test_accuracy"] <= 1
    assert row["kept_wrong_labels"] == pytest.approx(0.2, abs=0.06) or method != "random"


def test_fewer_examples_than_a_batch_are_refused_instead_of_rounded_up() -> None:
    with pytest.raises(InputError, match=r"keep=0.01 of 400 examples leaves 4, fewer than a batch of"):
        run_trial("data_pruning", method="random", keep=0.01, **PRUNING)


def test_small_losses_and_the_learnt_scorer_leave_wrong_labels_out_and_beat_chance() -> None:
    """At 20 % planted label noise; large losses, in contrast, collect the wrong labels."""
    pytest.importorskip("sklearn")
    fields: dict[str, Any] = {"keep": 0.5, "duplicates": 0.0, "score_steps": 150, "max_steps": 150}
    rows = {
        method: run_trial("data_pruning", method=method, **fields)
        for method in ("random", "small_loss", "large_loss", "learnt")
    }
    wrong = {method: row["kept_wrong_labels"] for method, row in rows.items()}
    assert wrong["random"] == pytest.approx(0.2, abs=0.04)
    assert wrong["small_loss"] < 0.05
    assert wrong["large_loss"] > 0.3
    assert wrong["learnt"] < 0.1
    for method in ("small_loss", "learnt"):
        assert rows[method]["test_accuracy"] > rows["random"]["test_accuracy"]
        assert rows[method]["test_loss_nats"] < 0.8 * rows["random"]["test_loss_nats"]


def test_the_scorer_learns_low_scores_for_wrong_labels() -> None:
    settings = replace(load_recipe("data_pruning").validate({}), duplicates=0.0, score_steps=150)
    data = images(settings, 0)
    model = Perceptron(data.image_size**2, data.n_classes, settings.width, settings.depth, task_axis=False)
    scores = Scoring(settings, data, model, 0, "cpu").learnt()
    wrong = data.labels["train"] != data.true_labels
    assert 0 < scores.min() < scores.max() < 1
    ranked = (scores[~wrong][:, None] > scores[wrong]).mean()
    assert ranked > 0.9
    assert scores[wrong].mean() < scores[~wrong].mean()


def test_what_the_scorer_sees_is_held_when_levels_are_functions() -> None:
    """SAMA with a small rate is the derivative of the lower step, in which loss and entropy are data to the scorer."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(20, 3, generator=g, dtype=torch.float64), torch.randint(0, 4, (20,), generator=g)
    start = {"w": torch.randn(3, 4, generator=g, dtype=torch.float64)}
    scorer = DataScorer(hidden=8).double()

    def lower(theta: Params, lam: Params, batch: int, context: Pass) -> torch.Tensor:
        logits = x @ theta["w"]
        seen = F.cross_entropy(logits, y, reduction="none"), entropy(logits)
        loss: torch.Tensor = torch.func.functional_call(scorer, lam, seen)
        return loss

    def upper(theta: Params, lam: Params, batch: int, context: Pass) -> torch.Tensor:
        return F.cross_entropy(x @ theta["w"], (y + 1) % 4)

    def change(method: Any) -> torch.Tensor:
        lam = {name: value.clone() for name, value in trainable(scorer).items()}
        levels = from_functions(dict(start), dict(lam), lower, upper)
        process = BilevelTraining(
            levels, int, int, method, lower_optimizer=SGD(1e-6), upper_optimizer=SGD(1e6), upper_dropout=False
        )
        state, _ = process.step(process.init(), 0)
        return torch.cat([(lam[name] - state.upper[name]).flatten() for name in lam])

    truth = change(Unrolled(1))
    assert float(truth.abs().max()) > 1e-3
    torch.testing.assert_close(change(SAMA(1e-3)), truth, rtol=1e-3, atol=1e-5)


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


class Dying(MemoryRun):
    """Dies after some rows of the training record."""

    def __init__(self, rows: int):
        super().__init__()
        self.left = rows

    def append(self, record: str, row: Any) -> None:
        if record == "train_stats":
            self.left -= 1
            if self.left < 0:
                raise Killed
        super().append(record, row)


def test_an_interrupted_noisy_labels_trial_ends_as_a_whole_one(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METASCALE_DATA", str(texts))
    fields = {"data": "wrench_youtube", "backbone": "data:bert", **TINY, "max_steps": 6, "method": "reweight_correct"}
    whole, broken = MemoryRun(), Dying(5)
    expected = run_trial("noisy_labels", whole, **fields)
    with pytest.raises(Killed):
        run_trial("noisy_labels", broken, **fields)
    broken.left = 10**9
    assert run_trial("noisy_labels", broken, **fields) == expected
    assert repr(broken.records) == repr(whole.records)


def test_an_interrupted_pruning_trial_ends_as_a_whole_one() -> None:
    fields = {**PRUNING, "method": "learnt"}
    broken = Dying(15)
    expected = run_trial("data_pruning", **fields)
    with pytest.raises(Killed):
        run_trial("data_pruning", broken, **fields)
    broken.left = 10**9
    assert run_trial("data_pruning", broken, **fields) == expected


def test_kept_examples_are_all_seen_before_one_comes_again() -> None:
    data = images(replace(load_recipe("data_pruning").validate({}), n_train=200), 0)
    kept = np.arange(0, 200, 4)
    part = KeptExamples(data, kept, 25, 0)
    first = torch.cat([part.batch(step).inputs["index"] for step in range(2)])
    assert sorted(first.tolist()) == kept.tolist()
    assert part.batch(2).inputs["index"].tolist() != part.batch(0).inputs["index"].tolist()


def test_annotators_make_the_mistakes_that_are_stated() -> None:
    """Careful ones 0.05 · 0.9 wrong, those at random 0.9, shifted ones 0.8; nothing is both checked and annotated."""
    settings = load_recipe("annotators").validate({})
    data = annotators.answers(settings, 0)
    truth = torch.from_numpy(small_digits(n_batch=1).true_labels)
    wrong, who = data.annotated["y"] != truth, data.annotated["who"]
    shares = [float(wrong[(who >= low) & (who < low + 4)].double().mean()) for low in (0, 4, 8)]
    assert shares == pytest.approx([0.045, 0.9, 0.8], abs=0.05)
    assert bool(((data.annotated["y"] - truth)[wrong & (who >= 8)] % 10 == 1).all())
    assert len(data.checked["y"]) == len(data.selection["y"]) == 50
    again, other = annotators.answers(settings, 0), annotators.answers(settings, 1)
    assert torch.equal(again.annotated["y"], data.annotated["y"])
    assert not torch.equal(other.annotated["y"], data.annotated["y"])
    with pytest.raises(InputError, match="are more than the 360 validation images"):
        annotators.answers(replace(settings, n_checked=181), 0)


def test_learnt_weights_of_annotators_beat_checked_labels_alone_and_frozen_weights() -> None:
    rows = {arm: run_trial("annotators", method=arm, max_steps=200) for arm in ("checked", "alike", "learnt")}
    assert rows["learnt"]["weight_of_careful"] > 0.8
    assert rows["learnt"]["weight_of_others"] < 0.2
    accuracy = {arm: row["test_accuracy"] for arm, row in rows.items()}
    assert accuracy["learnt"] > accuracy["checked"] + 0.05
    assert accuracy["learnt"] > accuracy["alike"] + 0.05
