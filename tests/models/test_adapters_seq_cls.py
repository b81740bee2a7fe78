"""Adapters with their head as peft's SEQ_CLS, with stock `transformers` and `peft` as the judges of logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, PeftModelForSequenceClassification
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from metascale.core.errors import InputError
from metascale.core.trees import stack_tasks
from metascale.core.types import Params
from metascale.models.text.any_model import LoRA
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import Head, LearnedHead, PrototypeHead, ScoreHead, ZeroHead
from metascale.models.text.hf import random_backbone
from metascale.models.text.peft_format import load_peft, save_peft
from tests.models.test_any_model import CONFIGS, config, moved
from tests.models.tiny_backbones import text_batch

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

WITH_BIAS = LearnedHead(feature_norm=None)
ONE_LAYER = ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "opt"]
TWO_LAYERS = ["distilbert", "electra", "deberta-v2", "roformer"]
SAVED = {"distilbert": ["pre_classifier", "classifier"], "deberta-v2": ["pooler", "classifier"]}


def classifier(name: str, n_classes: int = 3, **fields: Any) -> AdapterClassifier:
    backbone = random_backbone(config(name), 0, attn_implementation="eager")
    model = LoRA(backbone, n_classes=n_classes, rank=2, **fields)
    assert isinstance(model, AdapterClassifier)
    return model


def check_against_stock(model: AdapterClassifier, params: Params, folder: Path) -> dict[str, Any]:
    """The folder's configuration, after stock peft has computed the logits of padded texts from it."""
    save_peft(folder / "adapters", params, model, task_type="SEQ_CLS")
    model.backbone.save_pretrained(folder / "base")
    base = AutoModelForSequenceClassification.from_pretrained(
        folder / "base", num_labels=model.n_classes, pad_token_id=0, attn_implementation="eager"
    )
    theirs = PeftModel.from_pretrained(base, str(folder / "adapters")).eval()
    assert isinstance(theirs, PeftModelForSequenceClassification)
    batch = text_batch(1, 5, 0, n_classes=model.n_classes)
    with torch.no_grad():
        found = theirs(**{key: value[0] for key, value in batch.inputs.items()}).logits
        expected = model.predict(stack_tasks(params, 1), batch)[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not (folder / "adapters/head.safetensors").exists()
    theirs.save_pretrained(str(folder / "again"))
    for written in ("adapters", "again"):
        ours = load_peft(folder / written, model)
        assert all(torch.equal(ours[name], value) for name, value in params.items())
        assert ours.keys() == params.keys()
    read: dict[str, Any] = json.loads((folder / "adapters/adapter_config.json").read_text())
    return read


@pytest.mark.parametrize("name", ONE_LAYER)
def test_stock_peft_computes_the_logits_of_a_score_head(name: str, tmp_path: Path) -> None:
    model = classifier(name, head=ScoreHead())
    written = check_against_stock(model, moved(model.init(0)), tmp_path)
    assert (written["task_type"], written["modules_to_save"]) == ("SEQ_CLS", ["score"])


@pytest.mark.parametrize("name", TWO_LAYERS)
def test_two_layers_hold_a_head_with_a_bias(name: str, tmp_path: Path) -> None:
    model = classifier(name, head=WITH_BIAS, pooling="first")
    params = moved(model.init(0))
    assert bool(params["head.bias"].all())
    written = check_against_stock(model, params, tmp_path)
    assert (written["task_type"], written["modules_to_save"]) == ("SEQ_CLS", SAVED.get(name, ["classifier"]))


def test_half_as_many_classes_as_inner_units_still_fit(tmp_path: Path) -> None:
    model = classifier("distilbert", n_classes=16, head=WITH_BIAS, pooling="first")
    check_against_stock(model, moved(model.init(0)), tmp_path)
    too_many = classifier("distilbert", n_classes=17, head=WITH_BIAS, pooling="first")
    with pytest.raises(InputError, match="32 units holds at most 16 classes"):
        save_peft(tmp_path / "none", too_many.init(0), too_many, task_type="SEQ_CLS")


def test_a_head_of_zeros_as_one_task_adapted_it(tmp_path: Path) -> None:
    model = classifier("electra", head=ZeroHead(feature_norm=None), pooling="first")
    begun = model.begin(stack_tasks(model.init(0), 1), text_batch(1, 3, 0))
    check_against_stock(model, moved({name: value[0] for name, value in begun.items()}), tmp_path)
    with pytest.raises(InputError, match="made when a task is adapted to"):
        save_peft(tmp_path / "none", model.init(0), model, task_type="SEQ_CLS")


def test_targets_that_name_the_stock_head_too_are_written_whole(tmp_path: Path) -> None:
    model = classifier("electra", head=ScoreHead(), pooling="first", targets=("dense",))
    written = check_against_stock(model, moved(model.init(0)), tmp_path)
    assert written["target_modules"] == [f"electra.{name}" for name in model.shapes]


@pytest.mark.parametrize(
    ("name", "head", "pooling", "message"),
    [
        ("llama", LearnedHead(), None, "LearnedHead rescales .* head=ScoreHead"),
        ("llama", PrototypeHead(), None, "PrototypeHead rescales"),
        ("llama", WITH_BIAS, None, "the bias of this head is not zero; train with head=ScoreHead"),
        ("llama", ScoreHead(), "mean", "it reads pooling='last', the model pooling='mean'"),
        ("distilbert", ScoreHead(), None, "it reads pooling='first', the model pooling='mean'"),
        ("bert", ScoreHead(), "first", "BertForSequenceClassification .* it has a pooler"),
        ("roberta", ScoreHead(), "first", "or another activation; SEQ_CLS takes models .* head.safetensors"),
        ("modernbert", ScoreHead(), "first", "a norm"),
        ("granite", ScoreHead(), None, "has no classifier of texts for the architecture 'granite'"),
        ("t5", ScoreHead(), None, "T5ForSequenceClassification does not classify the output of T5EncoderModel"),
    ],
)
def test_what_a_stock_head_cannot_hold_is_refused(
    name: str, head: Head, pooling: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "vocab_size": 99}
    monkeypatch.setitem(CONFIGS, "t5", sizes)
    model = classifier(name, head=head, pooling=pooling)
    with pytest.raises(InputError, match=message):
        save_peft(tmp_path / "none", moved(model.init(0)), model, task_type="SEQ_CLS")
    assert not (tmp_path / "none").exists()


def test_writing_draws_nothing_from_the_global_generator(tmp_path: Path) -> None:
    model = classifier("llama", head=ScoreHead())
    state = torch.get_rng_state()
    save_peft(tmp_path, model.init(0), model, task_type="SEQ_CLS")
    assert torch.equal(state, torch.get_rng_state())


def test_a_stock_head_that_ours_cannot_hold_is_not_read(tmp_path: Path) -> None:
    model = classifier("distilbert", head=WITH_BIAS, pooling="first")
    params = moved(model.init(0))
    save_peft(tmp_path, params, model, task_type="SEQ_CLS")
    for head, message in ((ScoreHead(), "has a bias, and ScoreHead none"), (PrototypeHead(), "rescales")):
        with pytest.raises(InputError, match=message):
            load_peft(tmp_path, classifier("distilbert", head=head, pooling="first"))
    with pytest.raises(InputError, match="one linear head of 4 classes"):
        load_peft(tmp_path, classifier("distilbert", n_classes=4, head=WITH_BIAS, pooling="first"))
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.classifier.weight"][0, 0] += 0.1
    save_file(tensors, path)
    with pytest.raises(InputError, match="or were trained on"):
        load_peft(tmp_path, model)
    del tensors["base_model.model.classifier.weight"]
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"'classifier\.weight' of DistilBertForSequenceClassification is missing"):
        load_peft(tmp_path, model)


def test_arguments_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    model = classifier("llama", head=ScoreHead())
    with pytest.raises(InputError, match="goes without prefix"):
        save_peft(tmp_path, model.init(0), model, prefix="model.", task_type="SEQ_CLS")
    with pytest.raises(InputError, match="must be 'SEQ_CLS' or None"):
        save_peft(tmp_path, model.init(0), model, task_type="TOKEN_CLS")  # type: ignore[arg-type]
