"""Studies of model sizes: trials, counts, interruptions, searches, and what is refused before anything runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from metascale.cli.main import app
from metascale.core.errors import InputError
from metascale.core.run import MemoryRun
from metascale.laws import sizes as laws_of_sizes
from metascale.models.mup import MuP
from metascale.recipes.model_size import check, model_cost, model_costs, of_most_text, size_of, trial
from metascale.study.roles import Roles
from metascale.study.search.run import run_any_study
from metascale.study.search.search import search_of, searched_points, tuned_points
from metascale.study.store.folder import read_study
from metascale.study.store.table import results_table
from metascale.tasks.supervised.tokens import floors
from metascale.training.supervised import SupervisedTraining
from metascale.workflow.conclude import write_own
from metascale.workflow.language_models import (
    ModelSizeConfig,
    flops,
    language_model,
    memory_of_step,
    n_steps,
    rate,
    text,
    training,
)
from metascale.workflow.launch import Place, launch, plan
from metascale.workflow.recipe import load_recipe, roles_of
from tests.recipes.small_wikitext import write_small_wikitext
from tests.recipes.test_digits_study import Silent

TINY: dict[str, Any] = {
    "d_model": 16, "n_layers": 1, "n_heads": 2, "vocabulary": 22, "n_sequence": 16, "batch_size": 4, "max_steps": 9,
    "warmup": 2, "eval_every": 3, "base_width": 16, "lr": 1e-2,
}  # fmt: skip
ARCHITECTURES = ("transformer", "resnet_bk")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_wikitext(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def _named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METASCALE_DATA", str(data))


def run_trial(run: MemoryRun | None = None, **values: Any) -> dict[str, Any]:
    return trial({"recipe": "model_size", "seed": 0, **TINY, **values}, run or MemoryRun(), "cpu")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_learns_more_than_the_frequencies_of_words(architecture: str) -> None:
    run = MemoryRun()
    row = run_trial(run, architecture=architecture, max_steps=80, eval_every=20, lr=2e-2)
    found = floors(text(ModelSizeConfig(**TINY), 0))
    assert row["unigram_test_perplexity"] == found.perplexity("unigram", "test")
    assert row["bigram_validation_perplexity"] == found.perplexity("bigram", "validation")
    assert row["test_perplexity"] == pytest.approx(math.exp(row["test_loss_nats"]))
    assert row["test_perplexity"] < 0.7 * row["unigram_test_perplexity"]
    looks = [entry["validation_perplexity"] for entry in run.rows("eval_stats")]
    assert row["perplexities"] == [[20 * place, value] for place, value in enumerate(looks)]
    assert (row["best_perplexity"], row["final_perplexity"]) == (min(looks), looks[-1])
    assert row["validation_perplexity"] == row["best_perplexity"], "training looked at all of it"
    assert run.files["test.json"]["test_loss_nats"] == row["test_loss_nats"]


def test_counts_by_hand() -> None:
    """ResNet-BK: L(16d² + 22d + 6) + 2d parameters besides embeddings and readout, which are 2Vd + V + Nd."""
    d, n_vocab, n, n_layers = 16, 22, 16, 2
    row = run_trial(architecture="resnet_bk", n_layers=n_layers)
    layers = n_layers * (16 * d**2 + 22 * d + 6) + 2 * d
    assert row["n_params_non_embedding"] == layers
    assert row["n_params_total"] == layers + 2 * n_vocab * d + n_vocab + n * d
    assert row["model_size_mb"] == pytest.approx(4 * row["n_params_total"] / 2**20)
    assert row["steps"] == 9
    assert row["tokens"] == 9 * 4 * 16
    assert row["train_flops"] == pytest.approx(9 * row["step_flops"])
    assert row["train_flops"] == pytest.approx(sum(row["flops"].values()))
    assert row["flops"]["readout"] == 9 * 4 * 3 * n * 2 * d * n_vocab
    assert row["train_flops_6nd"] == 6 * layers * row["tokens"]
    assert row["step_parameters_bytes"] == 4 * row["n_params_total"]
    assert row["step_optimizer_state_bytes"] == 8 * row["n_params_total"] + 4, "two moments, and the count of steps"
    assert row["step_activations_bytes"] > 0
    assert row["step_peak_bytes"] == sum(
        row[f"step_{kind}_bytes"]
        for kind in ("weights", "parameters", "activations", "gradients", "optimizer_state", "other")
    )


@pytest.mark.parametrize(("architecture", "parameterisation"), [("transformer", "mup"), ("resnet_bk", "standard")])
def test_an_interrupted_trial_ends_as_a_whole_one(
    architecture: str, parameterisation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"architecture": architecture, "parameterisation": parameterisation, "dropout": 0.1, "d_model": 32}
    whole, broken = MemoryRun(), MemoryRun()
    expected = run_trial(whole, **values)
    step, calls = SupervisedTraining.step, []

    def dies(self: SupervisedTraining, state: Any, k: int) -> Any:
        calls.append(k)
        if len(calls) == 8:  # two of them measured the memory: after step 5, between two looks
            raise RuntimeError("the process dies here")
        return step(self, state, k)

    with monkeypatch.context() as patched:
        patched.setattr(SupervisedTraining, "step", dies)
        with pytest.raises(RuntimeError, match="dies here"):
            run_trial(broken, **values)
    assert run_trial(broken, **values) == expected
    assert broken.records == whole.records
    assert broken.files == whole.files


def test_training_ends_early_where_nothing_improves() -> None:
    row = run_trial(min_delta=5.0, patience=2, max_steps=30)
    assert row["training"] == "converged"
    assert (row["steps"], row["best_step"]) == (6, 0)
    assert run_trial(min_delta=5.0, patience=None, max_steps=30)["steps"] == 30


def test_a_trial_of_a_search_never_sees_the_test_text() -> None:
    run = MemoryRun()
    row = run_trial(run, kind="tuning")
    assert set(row) == {"validation_loss_nats", "kept_step", "best_step", "steps", "training"}
    assert "test.json" not in run.files
    ended = run_trial(MemoryRun(), kind="tuning", prune_above=[[3, 0.1]])
    assert ended["pruned_at_step"] == ended["steps"] == 3


def test_a_seed_is_of_the_order_of_the_text_and_of_the_start() -> None:
    settings = ModelSizeConfig(**TINY)
    first, second = text(settings, 0), text(settings, 1)
    assert not bool((first.batch(0).targets == second.batch(0).targets).all())
    starts = [training(settings, first, seed, "cpu").init().params["embedding"] for seed in (0, 0, 1)]
    assert bool((starts[0] == starts[1]).all())
    assert not bool((starts[0] == starts[2]).all())


def test_a_part_of_the_evaluation_text() -> None:
    row = run_trial(evaluation_tokens=50, max_steps=2, warmup=0)
    assert row["test_targets"] == row["validation_targets"] == 50
    assert row["unigram_test_perplexity"] != run_trial(max_steps=2, warmup=0)["unigram_test_perplexity"]


def test_epochs_as_steps_and_their_rates() -> None:
    settings = ModelSizeConfig(**{**TINY, "epochs": 2.5, "max_steps": None})
    stream = text(settings, 0)
    assert n_steps(settings, stream.steps_per_epoch) == round(2.5 * stream.steps_per_epoch) > 9
    assert n_steps(ModelSizeConfig(**TINY), stream.steps_per_epoch) == 9
    cosine = rate(settings, 100)
    assert [cosine(0), cosine(1), cosine(99)] == pytest.approx([0.5, 1.0, 0.1], abs=1e-3)
    decay = rate(ModelSizeConfig(**TINY, schedule="wsd"), 102)
    assert [decay(1), decay(81), decay(92), decay(101)] == pytest.approx([1, 1, 0.1 + 0.9 / 2, 0.1 + 0.9 / 20])
    assert rate(ModelSizeConfig(**TINY, schedule="constant"), 3)(0) == 1.0, "the warm-up is half of it at most"


def test_mup_is_the_standard_parameterisation_at_its_base_width() -> None:
    looks = [run_trial(parameterisation=name)["perplexities"] for name in ("mup", "standard")]
    assert looks[0] == looks[1]
    wide = ModelSizeConfig(**{**TINY, "d_model": 32, "parameterisation": "mup"})
    process = training(wide, text(wide, 0), 0, "cpu")
    assert isinstance(process.model, MuP)
    assert process.rate_multipliers is not None
    assert process.rate_multipliers["layer0.attention.in"] == process.rate_multipliers["head.weight"] == 0.5
    assert process.rate_multipliers["embedding"] == 1.0


def test_the_study_is_the_sources_grid() -> None:
    recipe = load_recipe("model-size")
    assert recipe.name == "model_size"
    assert len(recipe.study().trials()) == 4 * 4 * 2 * 2
    assert {trial.seed for trial in recipe.study().trials()} == {42, 43}
    assert len(recipe.study({}, "quick").trials()) == 2 * 2 * 2 * 2
    quick = recipe.study({"tune": 5}, "quick")
    search = search_of(quick)
    assert search is not None
    smallest = {"d_model": 64, "n_layers": 4}
    assert searched_points(quick, search) == [{"architecture": name, **smallest} for name in ARCHITECTURES]


def test_the_recorded_profiles_vary_what_they_say() -> None:
    """laptop: width alone, over 100-fold in parameters; rates and data: laptop's settings but for what they vary."""
    recipe = load_recipe("model-size")
    laptop, rates, data = (recipe.study({}, name) for name in ("laptop", "rates", "data"))
    for architecture in ARCHITECTURES:
        models = [model_cost(recipe.validate(one.config)) for one in laptop.trials()]
        sizes = sorted({one.n_non_embedding for one in models if one.settings.architecture == architecture})
        assert len(sizes) >= 6
        assert sizes[-1] > 100 * sizes[0]
    own = {"d_model", "n_layers", "architecture", "lr", "n_train_tokens", "measure_memory"}
    for other in (rates, data):
        assert {key: other.base[key] for key in other.base if key not in own} == {
            key: laptop.base[key] for key in laptop.base if key not in own
        }
    low, middle, high = rates.axes["lr"]
    assert low < middle == laptop.base["lr"] < high, "the rate stands between two others"
    assert max(rates.axes["d_model"]) == 4 * min(rates.axes["d_model"]) == 4 * laptop.base["base_width"]
    assert roles_of(data) == Roles(("n_params_non_embedding", "tokens"), ("architecture",), loss="test_loss_nats")
    assert roles_of(laptop) == Roles(("n_params_non_embedding",), ("architecture",), loss="test_loss_nats")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"d_model": 20, "architecture": "transformer"}, "multiple of twice n_heads .8., not 20"),
        ({"d_model": 24, "base_width": 20, "parameterisation": "mup"}, "base_width must be a multiple .* not 20"),
        ({"max_steps": 10, "warmup": 10}, "warmup must be below max_steps .10., not 10"),
        ({"optimizer": "sgd", "parameterisation": "mup"}, "are those of AdamW and Lion, not of sgd"),
        ({"d_modle": 64}, "there is no key 'd_modle'; did you mean 'd_model'"),
        ({"clip_norm": 0}, "'clip_norm' is not allowed"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("model_size").study(values)


def test_a_missing_text_is_refused_before_the_study_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(plan("model-size", profile="quick").study.trials()) == 16
    monkeypatch.setenv("METASCALE_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"'wikitext-2-v1' lacks train\.txt, valid\.txt, test\.txt"):
        plan("model-size", profile="quick")
    monkeypatch.delenv("METASCALE_DATA")
    with pytest.raises(InputError, match="where is the data set 'wikitext-2-v1'"):
        plan("model-size", profile="quick")


def test_the_command_counts_a_quick_study_and_refuses_two_profiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metascale.workflow.estimate._seconds", lambda call: 0.5)
    command = ["run", "model-size", "--quick", "--out", str(tmp_path / "study")]
    shown = CliRunner().invoke(app, [*command, "--dry-run"], env={"COLUMNS": "100"})
    assert shown.exit_code == 0
    assert "16 trainings" in shown.output
    # 5 epochs of 509.9 batches of 4,096 tokens; each validation, and both at the end, a third of a step a batch.
    # 16 · (2,550 + (6 · 245,569 + 2 · 245,569) / (3 · 4,096)) · 0.5 s = 21,679 s.
    assert "500 ms a step" in shown.output
    assert "about 6 h 01 min of" in shown.output
    assert "143.63 MiB of checkpoints" in shown.output
    searched = CliRunner().invoke(app, [*command, "--tune", "5", "--dry-run"])
    assert "16 trainings after at most 10 of a search" in " ".join(searched.output.split())
    assert "resnet_bk 128×8      4,706,368       2,119,984" in shown.output
    assert not (tmp_path / "study").exists()
    both = CliRunner().invoke(app, [*command, "--profile", "smoke", "--dry-run"])
    assert isinstance(both.exception, InputError)
    assert "--quick is --profile quick: it cannot go with --profile smoke" in str(both.exception)


def test_all_models_are_counted_without_being_made() -> None:
    found = model_costs(load_recipe("model_size").study())
    assert len(found) == 32
    n_vocab, n = 10_000, 128
    for one in found:
        d, n_layers = one.settings.d_model, one.settings.n_layers
        if one.settings.architecture == "resnet_bk":
            assert one.n_total == 2 * n_vocab * d + n_vocab + n * d + n_layers * (16 * d**2 + 22 * d + 6) + 2 * d
        else:
            hidden = -(-8 * d // 24) * 8
            assert one.n_total == 2 * n_vocab * d + n_layers * (4 * d * d + 3 * d * hidden + 2 * d) + d
        assert one.state_bytes == 16 * one.n_total
        assert one.training_flops == pytest.approx(one.step_flops * 5 * 510)
    assert max(one.n_total for one in found) == 77_605_744
    largest = ModelSizeConfig("resnet_bk", 512, 16, vocabulary=33_278)
    assert model_cost(largest).n_total == 101_465_694, "the words of WikiText-2, all of them"


def test_the_size_of_a_search_orders_models_as_their_parameters_do() -> None:
    for architecture in ARCHITECTURES:
        shapes = [(d, n_layers) for d in (64, 128, 256) for n_layers in (4, 8, 12)]
        settings = [ModelSizeConfig(architecture, d, n_layers) for d, n_layers in shapes]  # type: ignore[arg-type]
        counted = [language_model(one).n_non_embedding() for one in settings]
        guessed = [
            size_of({"architecture": architecture, "d_model": d, "n_layers": n_layers}) for d, n_layers in shapes
        ]
        assert guessed == pytest.approx(counted, rel=0.05)


QUICK = {
    **TINY, "architecture": list(ARCHITECTURES), "d_model": [16, 32], "n_layers": [1, 2], "parameterisation": "mup",
    "max_steps": 4, "eval_every": 2, "evaluation_tokens": 100, "measure_memory": False,
    "tune": {"space": {"lr": {"choice": [1e-2, 3e-2]}}, "trials": 2, "prune": False},
}  # fmt: skip


def test_a_whole_study_tunes_trains_and_concludes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick grid in small: the rate of each architecture's smallest model serves all of its models."""
    monkeypatch.setattr(laws_of_sizes, "GROUPED", laws_of_sizes.GROUPED[:1])  # the others take seconds
    planned = plan("model-size", QUICK, profile="quick", place=Place("serial"))
    outcome = run_any_study(planned.study, tmp_path / "study", planned.executor)
    assert (outcome.finished, outcome.failed) == (2 * 2 + 2 * 2 * 2 * 2, 0)
    view = read_study(tmp_path / "study")
    table = results_table(view)
    tuned = {one.point["architecture"]: one.values["lr"] for one in tuned_points(view)}
    rows = [row for row in table.rows if row["kind"] == "trial"]
    assert {(row["architecture"], row["lr"]) for row in rows} == set(tuned.items())
    assert write_own(view, table) == [tmp_path / "study" / "size.json"]
    sizes = json.loads((tmp_path / "study" / "size.json").read_text())
    for part in ("perplexity_laws", "loss_laws", "grouped"):
        assert [one.get("reason") for one in sizes[part]] == [None] * len(sizes[part])
    assert {one["n_sizes"] for one in sizes["perplexity_laws"]} == {4}
    assert set(sizes["width_and_depth"]) == set(ARCHITECTURES)
    assert sizes["floors"]["bigram_test"] == rows[0]["bigram_test_perplexity"]
    baselines = json.loads((tmp_path / "study" / "baselines.json").read_text())
    assert math.exp(baselines["bigram"]["test_loss_nats"]) == pytest.approx(rows[0]["bigram_test_perplexity"])


@pytest.mark.long
def test_the_command_leaves_laws_figures_and_page(tmp_path: Path) -> None:
    planned = plan("model-size", QUICK, profile="quick", place=Place("serial"))
    _, conclusion = launch(planned, tmp_path / "study", reporter=Silent())
    assert conclusion is not None
    written = {path.name for path in conclusion.written}
    assert written >= {"size.json", "tuning.json", "size_perplexity.png", "size_compute.png", "report.html"}
    page = (tmp_path / "study" / "report.html").read_text()
    assert '<section id="sizes">' in page
    assert "Counting words gives" in page


@pytest.mark.long
def test_a_model_of_more_than_a_hundred_million_parameters_takes_a_step() -> None:
    """The profile ``large``'s model on the small text, its vocabulary as large as WikiText-2's."""
    values = load_recipe("model_size").study({}, "large").trials()[0].config
    settings: ModelSizeConfig = load_recipe("model_size").validate(values)
    stream = text(ModelSizeConfig(**{**TINY, "n_sequence": 128, "batch_size": 2}), 0)
    model = language_model(settings)
    process = SupervisedTraining(model, stream, training(settings, stream, 0, "cpu").optimizer)
    report = memory_of_step(process, "cpu")
    assert report.by_kind["parameters"] == 4 * 101_465_694
    assert report.by_kind["optimizer_state"] >= 8 * 101_465_694
    assert report.peak_bytes > 16 * 101_465_694
    assert flops(model, settings, 1).exact > 1e11


def test_losses_are_finite_in_half_precision_where_it_is_asked_for() -> None:
    row = run_trial(autocast=True, architecture="transformer")
    assert math.isfinite(row["test_loss_nats"])
    assert row["test_loss_nats"] != run_trial(architecture="transformer")["test_loss_nats"]


@pytest.mark.parametrize(("unit", "n_vocab"), [("word", 22), ("character", 14), ("bpe", 265)])
def test_an_own_text_in_every_unit(unit: str, n_vocab: int, data: Path) -> None:
    """The small text as one file: words w0 to w19; w, ten digits and the space; 256 bytes and pairs of them."""
    path = data / "wikitext-2-v1" / "train.txt"
    if unit == "bpe":
        pytest.importorskip("tokenizers")
    values = {"path": str(path), "unit": unit, "vocabulary": 265 if unit == "bpe" else 22, "max_steps": 2, "warmup": 0}
    run = MemoryRun()
    row = run_trial(run, **values)
    assert (row["n_vocab"], row["token_unit"]) == (n_vocab, unit)
    assert run.files["data.json"]["unit"] == unit
    assert 1 < row["bigram_test_perplexity"] < row["unigram_test_perplexity"]
    settings: ModelSizeConfig = load_recipe("model_size").validate({**TINY, **values})
    check(settings)
    assert model_cost(settings).n_total == row["n_params_total"], "a dry run counts the text's own vocabulary"
    assert load_recipe("model_size").data_sets_of({**TINY, **values}) == ()


@pytest.mark.parametrize("name", ["lion", "sgd"])
def test_other_optimisers_learn(name: str) -> None:
    before = run_trial(optimizer=name, max_steps=1, warmup=0, lr=1e-9)["test_loss_nats"]
    row = run_trial(optimizer=name, max_steps=60, eval_every=30, lr={"lion": 3e-3, "sgd": 0.3}[name], patience=None)
    assert row["test_loss_nats"] < before - 0.3
    slots = {"lion": 1, "sgd": 1}[name]
    assert 4 * row["n_params_total"] * slots <= row["step_optimizer_state_bytes"] < 4 * row["n_params_total"] + 100


def test_sizes_of_a_study_that_varies_the_text_are_those_of_all_of_it() -> None:
    rows = [{"n_train_tokens": n, "d_model": d} for n in (100, 300, None) for d in (16, 32)]
    assert of_most_text(rows) == rows[4:]
    assert of_most_text(rows[:4]) == rows[2:4]
    assert of_most_text([{"d_model": 16}]) == [{"d_model": 16}]
