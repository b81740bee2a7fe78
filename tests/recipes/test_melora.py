"""The recipe of source 001's study: methods by name, equal compute, costs, comparisons."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.run import MemoryRun
from metascale.recipes.melora import ESTIMATORS
from metascale.report.words import method_label
from metascale.workflow.recipe import load_recipe

RECIPE = load_recipe("melora")


def test_their_defaults_are_ours() -> None:
    """The values that their documented configuration states are the defaults of the recipe."""
    config = RECIPE.validate({})
    assert (config.backbone, config.rank, config.dropout) == ("gpt2-small", 8, 0.1)
    assert (config.inner_lr, config.inner_steps, config.outer_lr, config.meta_batch) == (0.01, 3, 5e-4, 8)
    assert (config.micro_batch, config.checkpointing) == (4, "adapters")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_rank": 4}, "there is no key 'lora_rank'"),
        ({"data": "csv"}, "data=csv needs a file"),
        ({"path": "x.csv"}, "read with data=csv alone"),
        ({"backbone": ""}, "adapters need a backbone, such as gpt2-small"),
        ({"attention": "sdpa"}, "second derivatives, which fused attention lacks"),
        ({"memory_budget": "8 gigs"}, "memory_budget must be a number of bytes with a unit"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        RECIPE.study(values)
    assert message in str(caught.value)


def test_profiles_hold_what_they_promise() -> None:
    assert RECIPE.study(profile="laptop").axes["method"][0] == "melora", "others are compared with the first"
    assert set(RECIPE.study(profile="laptop").axes["method"]) == set(ESTIMATORS) - {"melora_checkpointed"}
    assert RECIPE.study(profile="laptop-synthetic").base["data"] == "synthetic"
    assert RECIPE.study(profile="ablation-rank").axes == {"rank": [4, 8, 16, 32]}
    assert RECIPE.study(profile="ablation-inner-steps").axes["inner_steps"] == [1, 3, 5, 10]
    assert RECIPE.study(profile="ablation-checkpointing").axes["checkpointing"] == ["none", "adapters", "all"]
    tuned = RECIPE.study(profile="tuned")
    assert set(tuned.base["tune"]["space"]) == {"inner_lr", "outer_lr"}
    assert len(tuned.seeds) == 5
    assert all(len(RECIPE.study(profile=name).seeds) >= 3 for name in RECIPE.profiles if name != "smoke")


def test_the_search_has_ranges_of_its_own() -> None:
    study = RECIPE.study({"tune": 5}, profile="laptop", baselines=False)
    assert study.base["tune"]["trials"] == 5
    assert set(study.base["tune"]["space"]) == {"inner_lr", "outer_lr"}
    assert "tune" not in RECIPE.study().base


METHODS = ["fomaml", "maml", "melora", "melora_checkpointed"]
WORDS = ["red", "blue", "green", "one", "two", "three", "cat", "dog", "bird", "sun", "moon", "star"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama and a word-level tokenizer: what `--set backbone=FOLDER` reads."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("backbone")
    vocabulary = {word: place for place, word in enumerate(["<unk>", "<pad>", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaModel(LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **shape)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "mine.csv"
    pairs = [(a, b) for place, a in enumerate(WORDS) for b in WORDS[place + 1 :]][:30]
    rows = [f"{a} {b} {a if k % 2 else b} {WORDS[k]},{a}-{b}" for a, b in pairs for k in range(len(WORDS))]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


def values(backbone: Path, texts: Path, **more: Any) -> dict[str, Any]:
    return {
        "backbone": str(backbone),
        "data": "csv",
        "path": str(texts),
        "n_way": 3,
        "n_query": 2,
        "budget_flops": 1e7,
        "n_validation_tasks": 4,
        "n_test_tasks": 6,
        "n_curve_tasks": 2,
        "meta_batch": 2,
        "rank": 2,
        "tune_rates": [0.1],
        "tune_steps": [1, 3],
        **more,
    }


@pytest.fixture(scope="module")
def study(backbone: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from metascale.study.search.run import run_any_study
    from metascale.workflow.conclude import conclude
    from metascale.workflow.launch import Place, plan

    folder = tmp_path_factory.mktemp("melora") / "study"
    given = values(backbone, texts, method=METHODS)
    planned = plan("melora", given, profile="laptop", seeds=[0, 1], place=Place("serial"))
    fine_tuning = [extra for extra in planned.study.extra if extra["method"] == "fine_tuning"]
    outcome = run_any_study(replace(planned.study, extra=fine_tuning), folder, planned.executor)
    assert (outcome.failed, outcome.diverged) == (0, 0)
    conclude(folder)
    return folder


def results(study: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for run in json.loads((study / "all_results.json").read_text()):
        found.setdefault(run["config"]["method"], []).append(run["result"])
    return found


def test_every_method_gets_the_same_operations_within_a_step(study: Path) -> None:
    for method, rows in results(study).items():
        if method in METHODS:
            for row in rows:
                spent = row["steps"] * row["step_flops"]
                assert 1e7 - row["step_flops"] < spent <= 1e7, method


def test_exact_and_unrolled_differ_in_memory_and_arithmetic_alone(study: Path) -> None:
    rows = results(study)
    unrolled, exact = rows["maml"][0], rows["melora"][0]
    assert exact["step_peak_without_weights_bytes"] < unrolled["step_peak_without_weights_bytes"]
    assert exact["step_flops"] > unrolled["step_flops"]
    checkpointed = rows["melora_checkpointed"][0]
    assert checkpointed["step_flops"] > exact["step_flops"], "blocks run again (nothing to save in one so small)"
    first_order = rows["fomaml"][0]
    assert first_order["step_flops"] < unrolled["step_flops"]
    kinds = ("weights", "parameters", "activations", "gradients", "optimizer_state", "other")
    assert sum(exact[f"step_{kind}_bytes"] for kind in kinds) == exact["step_peak_bytes"]


def test_methods_are_compared_on_the_same_tasks(study: Path) -> None:
    found = json.loads((study / "summary.json").read_text())
    rows = {row["name"]: row for row in found["methods"]}
    assert set(rows) == {*map(method_label, METHODS), "fine-tuning"}
    assert len(rows["MELoRA, exact"]["seed_values"]) == 2
    pairs = {(pair["first"], pair["second"]): pair for pair in found["comparisons"]}
    assert len(pairs) == (len(METHODS) - 1) + len(METHODS), "each against the exact one, and against fine-tuning"
    pair = pairs["first-order MAML", "MELoRA, exact"]
    difference = rows["first-order MAML"]["loss"] - rows["MELoRA, exact"]["loss"]
    assert pair["test"]["difference"]["estimate"] == pytest.approx(difference, abs=1e-9)
    assert pair["test"]["n_tasks"] == 6
    assert pair["p_holm"] >= pair["test"]["p_value"]
    assert '<section id="methods">' in (study / "report.html").read_text()


@pytest.mark.long
def test_a_memory_budget_changes_how_a_step_runs_and_not_its_numbers(
    backbone: Path, texts: Path, tmp_path: Path, study: Path
) -> None:
    from metascale.study.search.run import run_any_study
    from metascale.workflow.launch import Place, plan

    free = results(study)["melora"][0]
    budget = int(0.8 * free["step_peak_bytes"])
    more = {"method": "melora", "memory_budget": budget, "budget": "steps", "budget_flops": None, "max_steps": 1}
    more |= {"meta_batch": 1, "inner_steps": 1, "n_validation_tasks": 1, "n_test_tasks": 2, "adaptation_curve": [1]}
    kept = {}
    for name, limit in (("tight", budget), ("free", None)):
        given = values(backbone, texts, **{**more, "memory_budget": limit, "task_execution": "threads"})
        planned = plan("melora", given, profile="laptop", seeds=[0], place=Place("serial"), baselines=False)
        run_any_study(planned.study, tmp_path / name, planned.executor)
        (run,) = (tmp_path / name / "runs").iterdir()
        kept[name] = json.loads((run / "result.json").read_text())["result"]
        if name == "tight":
            chosen = json.loads((run / "memory_plan.json").read_text())
            assert chosen["peak_bytes"] <= budget
    assert kept["tight"]["test_loss_nats"] == pytest.approx(kept["free"]["test_loss_nats"], rel=1e-3)
    assert kept["tight"]["step_peak_bytes"] <= budget < kept["free"]["step_peak_bytes"]


def test_a_search_tunes_a_method_and_never_sees_the_test_tasks(backbone: Path, texts: Path, tmp_path: Path) -> None:
    from metascale.study.search.run import run_any_study
    from metascale.workflow.conclude import conclude
    from metascale.workflow.launch import Place, plan

    search = {"trials": 2, "startup": 2, "together": 2}
    given = values(backbone, texts, method="fomaml", tune=search, budget_flops=5e6, measure_memory=False)
    planned = plan("melora", given, profile="laptop", seeds=[0], place=Place("serial"), baselines=False)
    outcome = run_any_study(planned.study, tmp_path / "study", planned.executor)
    assert (outcome.finished, outcome.total) == (3, 3)
    conclude(tmp_path / "study")
    tuned = json.loads((tmp_path / "study" / "tuning.json").read_text())
    assert [one["point"] for one in tuned] == [{"method": "fomaml"}]
    assert len(tuned[0]["tried"]) == 2
    for run in json.loads((tmp_path / "study" / "all_results.json").read_text()):
        assert ("test_loss_nats" in run["result"]) == (run["kind"] == "meta")


def test_frozen_sentences_are_the_backbone_pooled_and_shared_by_trials(backbone: Path, texts: Path) -> None:
    """A text of an episode has the features that the backbone gives it alone, whatever it is padded with elsewhere."""
    from metascale.models.text.hf import load_backbone, load_encoder
    from metascale.workflow.fewshot import trial
    from metascale.workflow.text import SENTENCE_LENGTH

    given = {"path": str(texts), "backbone": str(backbone), "frozen": True, "n_way": 3, "k_shot": 1, "n_query": 1}
    recipe = load_recipe("csv")
    parts = recipe.make_parts(recipe.validate({**given, "n_tasks": 4}), 0, "cpu")
    found = parts.source.episodes("test", [0]).support.inputs["x"][0]
    written = dict.fromkeys(line.split(",")[0] for line in texts.read_text().splitlines()[1:])
    encoder, model = load_encoder(str(backbone), 64), load_backbone(str(backbone))
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor(encoder([text]))).last_hidden_state[0, -1] for text in written]
    known = SENTENCE_LENGTH * torch.nn.functional.normalize(torch.stack(alone), dim=1)
    assert torch.cdist(found, known, compute_mode="donot_use_mm_for_euclid_dist").min(1).values.max() < 1e-3
    small = {"n_test_tasks": 4, "n_validation_tasks": 2, "max_steps": 3, "eval_every": 2, "outer_optimizer": "adam"}
    study = recipe.study({**given, **small, "n_tasks": [4], "method": "protonet"}, seeds=[0], baselines=False)
    (one,) = study.trials()
    assert 0 <= trial(dict(one.config), MemoryRun(), "cpu")["test_accuracy"] <= 1
    assert "16 frozen features of" in json.dumps(parts.source.describe())
    with pytest.raises(InputError, match="frozen=true needs a backbone"):
        recipe.validate({**given, "backbone": ""})
