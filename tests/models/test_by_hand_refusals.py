"""Refusals of any module and of models of texts: the argument at fault, what was given, and what is allowed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertModel, LlamaForCausalLM, MambaConfig, T5ForConditionalGeneration, T5Model

from metascale.core.errors import InputError
from metascale.core.trees import stack_tasks
from metascale.core.types import Batch
from metascale.models.module import Module
from metascale.models.text.any_model import LoRA
from metascale.models.text.architectures import architecture_of, match_targets
from metascale.models.text.classifiers import AdapterClassifier, FullClassifier, TextClassifier, transformer_blocks
from metascale.models.text.heads import ScoreHead, ZeroHead, named_head, named_pooling
from metascale.models.text.hf import load_backbone, load_encoder, random_backbone, require_derivative
from metascale.models.text.language_model import AdapterLanguageModel
from metascale.models.text.peft_format import peft_files
from tests.models.tiny_backbones import CONFIGS, tiny

NET: Any = nn.Linear(2, 2)


def outputs(**settings: Any) -> Any:
    return Module(nn.Linear(2, 3), **settings).output_losses


def whole() -> Any:
    return LlamaForCausalLM(CONFIGS["llama"]()).eval()


def batched(*shape: int, dtype: torch.dtype = torch.long) -> Batch:
    return Batch({}, torch.zeros(shape, dtype=dtype))


Case = tuple[Any, str, str | None, Any, str | None]
"""The call, words of the sentence, the field, the value, what is allowed."""
MODULE: dict[str, Case] = {
    "start": (lambda: Module(NET, start="x"), "start must be 'weights' or 'seed', not 'x'", "start", "x", None),
    "statistics": (
        lambda: Module(NET, batch_statistics="x"),
        "must be 'batch' or 'per_step' or 'frozen', not 'x'", "batch_statistics", "x", None,
    ),
    "loss": (lambda: Module(NET, "x"), "or a function, not 'x'", "loss", None, None),
    "patterns": (lambda: Module(NET, train="x"), r"such as \['x'\], not a text", "train", None, None),
    "no parameter": (lambda: Module(NET, train=["x"]), r"match \['x'\] are none of weight, bias", "train", None, None),
    "none at all": (lambda: Module(nn.Tanh()), r"match \['\*'\] are none of none", "train", None, None),
    "no steps": (lambda: Module(NET, batch_statistics="per_step"), "at least 1\\), not None", "steps", None, None),
    "zero steps": (lambda: Module(NET, batch_statistics="per_step", steps=0), "not 0", "steps", None, None),
    "steps of others": (lambda: Module(NET, steps=1), "steps belongs to .* not to 'batch'", "steps", None, None),
    "no norm": (
        lambda: Module(NET, batch_statistics="per_step", steps=1), "which the module lacks", "batch_statistics", None,
        None,
    ),
    "head": (lambda: Module(nn.Sequential(NET, NET), head="x"), "no part 'x'; linear ones are 0$", "head", None, None),
    "no module": (lambda: Module(lambda: 3), "that makes one, not of int", "net", None, None),
    "a part without a draw": (
        lambda: Module(nn.Sequential(nn.ParameterList([nn.Parameter(torch.ones(1))])), start="seed"), "which 0 lacks",
        "start", None, None,
    ),
    "real classes": (
        lambda: outputs()(torch.zeros(1, 2, 3), batched(1, 2, dtype=torch.float32)), "are classes", "loss", None, None,
    ),
    "which axis": (lambda: outputs()(torch.zeros(1, 2, 3, 3), batched(1, 2, 3)), "cannot tell", "loss", None, None),
    "no axis": (lambda: outputs()(torch.zeros(1, 2, 3), batched(1, 4)), "needs one more axis", "loss", None, None),
    "no tensor": (
        lambda: outputs(loss=lambda out, wanted: None)(torch.zeros(1, 2, 3), batched(1, 2)), "not NoneType", "loss",
        None,
        None,
    ),
    "no loss an example": (
        lambda: outputs(loss=lambda out, wanted: out)(torch.zeros(1, 2, 3), batched(1, 2)), r"\[2\], not \[2, 3\]",
        "loss", None, None,
    ),
    "no logits": (lambda: Module(NET)._picked({"hidden": 3}), "returns dict without logits", "output", None, None),
    "an empty tuple": (lambda: Module(NET)._picked(()), "returns tuple without", "output", None, None),
    "steps in a plain module": (
        lambda: Module(nn.Sequential(nn.BatchNorm1d(2)), batch_statistics="per_step", steps=2).network({}),
        "not one for each step",
        "batch_statistics", None, None,
    ),
    "other names": (lambda: Module(NET).network({"a": torch.ones(1)}), "are weight, bias, not a$", None, None, None),
    "other shapes": (
        lambda: Module(NET).network({"weight": torch.ones(2, 2), "bias": torch.ones(1)}),
        r"'bias' must have shape \[2\], not \[1\]", None, None, None,
    ),
}  # fmt: skip
TEXT: dict[str, Case] = {
    "rank": (lambda: AdapterClassifier(tiny("bert"), 2, rank=0), "rank of the classifier", "rank", 0, None),
    "classes": (lambda: AdapterClassifier(tiny("bert"), 0), "n_classes of the classifier", "n_classes", 0, None),
    "rate": (lambda: AdapterClassifier(tiny("bert"), 2, dropout=1.0), "of the adapters", "dropout", 1.0, None),
    "blocks": (
        lambda: AdapterClassifier(tiny("bert"), 2, checkpoint_blocks="x"),
        "must be 'none', 'adapters', 'all', not 'x'", "checkpoint_blocks", None, None,
    ),
    "pooling": (
        lambda: AdapterClassifier(tiny("bert"), 2, pooling="x"), "allowed are 'last', 'mean', 'first'", "pooling",
        "x", None,
    ),
    "a decoder": (lambda: FullClassifier(T5Model(CONFIGS["t5"]()), 2), r"its own \(T5Model\)", None, None, None),
    "half precision": (
        lambda: FullClassifier(tiny("bert", dtype="bfloat16"), 2), "not torch.bfloat16; load", "backbone", None, None,
    ),
    "8 bits in full": (
        lambda: FullClassifier(tiny("bert", dtype="int8"), 2), "training all weights needs", "dtype", None, None,
    ),
    "8 bits to tune": (lambda: TextClassifier(tiny("bert", dtype="int8"), 2), "fine-tuning needs", "dtype", None, None),
    "too many blocks": (
        lambda: TextClassifier(random_backbone(CONFIGS["bert"](), 0), 2, 3),
        "between 0 and the 2 blocks there are, not 3",
        "train_blocks", 3, None,
    ),
    "blocks below zero": (
        lambda: TextClassifier(random_backbone(CONFIGS["bert"](), 0), 2, -1), "not -1", "train_blocks", -1, None,
    ),
    "no blocks": (lambda: transformer_blocks(NET), "Linear has no list of layers", None, None, None),
    "head by name": (
        lambda: named_head("x"), "allowed are 'zero', 'prototype', 'learned', 'score'", "head", "x", None,
    ),
    "pooling by name": (lambda: named_pooling("x"), "no pooling 'x'", "pooling", "x", None),
    "no layer": (lambda: match_targets(["a.b", "a.c"], ("d",)), "matches the target module 'd'", "targets", "d", None),
    "unknown targets": (
        lambda: architecture_of(SimpleNamespace(config=SimpleNamespace(model_type="x")), "targets"),
        "no default targets for the architecture 'x'; give targets= or use one of bert, distilbert, gemma, gemma2, "
        "gemma3_text, gpt2, llama, mistral, qwen2, t5$", "targets", None, None,
    ),
    "a head": (
        lambda: AdapterClassifier(whole(), 2), "LlamaForCausalLM returns no last_hidden_state", "backbone", None, None,
    ),
    "kernel": (
        lambda: random_backbone(MambaConfig(hidden_size=8, num_hidden_layers=1, vocab_size=9), 0),
        "'mamba' has no attention kernel 'sdpa'; it has 'eager': give attn_implementation='eager'",
        "attn_implementation", "sdpa", "eager",
    ),
    "precision": (
        lambda: random_backbone(CONFIGS["bert"](), 0, dtype="x"),
        "allowed are 'float32', 'bfloat16', 'float16', 'float64', 'int8'", "dtype", "x", None,
    ),
    "two ways to 8 bits": (
        lambda: load_backbone("gpt2", dtype="int8", load_in_8bit=True), "leave one out", "dtype", None, None,
    ),
    "8 bits of nothing": (
        lambda: load_backbone("gpt2", load_in_8bit=True, random_init_seed=0), "needs real weights", None, None, None,
    ),
    "twice through a kernel": (
        lambda: require_derivative(tiny("bert", "sdpa")), 'attn_implementation="sdpa"', None, None, None,
    ),
    "task": (
        lambda: LoRA(tiny("llama"), "x"),
        "must be one of 'classification', 'causal_lm', 'seq2seq', not 'x'", "task", "x",
        "'classification', 'causal_lm', 'seq2seq'",
    ),
    "no model": (lambda: LoRA(3, n_classes=2), "not a int; Module takes", "model", None, None),
    "no classes": (lambda: LoRA(tiny("llama")), "needs n_classes", "n_classes", None, None),
    "targets": (lambda: LoRA(tiny("llama"), n_classes=2, targets="x"), "not 'x'", "targets", "x", None),
    "no targets": (lambda: LoRA(tiny("llama"), n_classes=2, targets=()), "not ()", "targets", (), None),
    "a head's name": (lambda: LoRA(tiny("llama"), n_classes=2, head="zero"), "named_head", "head", None, None),
    "classes of a language model": (
        lambda: LoRA(whole(), "causal_lm", n_classes=2), "n_classes is for task='classification'", "n_classes", 2, None,
    ),
    "head of a language model": (
        lambda: LoRA(whole(), "causal_lm", head=ZeroHead()), "not for 'causal_lm'", "head", ZeroHead(), None,
    ),
    "pooling of a language model": (
        lambda: LoRA(whole(), "causal_lm", pooling="mean"), "pooling is for task=", "pooling", "mean", None,
    ),
    "another task": (
        lambda: LoRA(whole(), "seq2seq"), "LlamaForCausalLM does not fit task='seq2seq'", "task", "seq2seq", None,
    ),
    "another task, the other way": (
        lambda: LoRA(T5ForConditionalGeneration(CONFIGS["t5"]()), "causal_lm"), "does not fit", "task", "causal_lm",
        None,
    ),
    "no head for words": (
        lambda: LoRA(tiny("llama"), "causal_lm"), "load AutoModelForCausalLM of transformers", "model", None, None,
    ),
    "rank of a language model": (
        lambda: AdapterLanguageModel(whole(), ("q_proj",), rank=0), "rank of the language model", "rank", 0, None,
    ),
    "rate of a language model": (
        lambda: AdapterLanguageModel(whole(), ("q_proj",), dropout=-1), "dropout of the adapters", "dropout", -1, None,
    ),
    "what peft is to write": (
        lambda: peft_files({}, AdapterClassifier(tiny("llama"), 2), task_type="x"),
        "must be 'SEQ_CLS' or None, not 'x'", "task_type", "x", "'SEQ_CLS', None",
    ),
    "a classifier's file": (
        lambda: peft_files({}, AdapterLanguageModel(whole(), ("q_proj",)), task_type="SEQ_CLS"),
        "not for AdapterLanguageModel", "task_type", None, None,
    ),
    "a prefix beside": (
        lambda: peft_files({}, AdapterClassifier(tiny("llama"), 2), "model.", "SEQ_CLS"), "goes without prefix",
        "prefix",
        None, None,
    ),
    "a head that rescales": (
        lambda: peft_files({}, AdapterClassifier(tiny("llama"), 2), task_type="SEQ_CLS"), "PrototypeHead rescales",
        "head",
        "PrototypeHead", "ScoreHead(), LearnedHead(feature_norm=None) or ZeroHead(feature_norm=None)",
    ),
    "another pooling": (
        lambda: peft_files(
            {"head.weight": torch.ones(2, 32)},
            AdapterClassifier(tiny("llama"), 2, head=ScoreHead(), pooling="mean"), task_type="SEQ_CLS",
        ),
        "it reads pooling='last', the model pooling='mean'", "pooling", "mean", None,
    ),
    "a pooler in the way": (
        lambda: peft_files(
            {"head.weight": torch.ones(2, 32)},
            AdapterClassifier(BertModel(CONFIGS["bert"](), add_pooling_layer=False), 2, head=ScoreHead()),
            task_type="SEQ_CLS",
        ),
        "has a pooler, a norm or another activation", "task_type", "SEQ_CLS", None,
    ),
    "a bias too many": (
        lambda: peft_files(
            {"head.weight": torch.ones(2, 32), "head.bias": torch.ones(2)},
            AdapterClassifier(tiny("llama"), 2, head=ScoreHead()), task_type="SEQ_CLS",
        ),
        r"LlamaForSequenceClassification has a linear layer without a bias \('score'\)", "head", None, "ScoreHead()",
    ),
    "no classifier of texts": (
        lambda: peft_files(
            {"head.weight": torch.ones(2, 32)}, AdapterClassifier(tiny("t5"), 2, head=ScoreHead()), task_type="SEQ_CLS",
        ),
        "does not classify the output of T5EncoderModel", "task_type", "SEQ_CLS", None,
    ),
    "no head yet": (
        lambda: peft_files({}, AdapterClassifier(tiny("llama"), 2, head=ScoreHead()), task_type="SEQ_CLS"),
        r"with shape \[2, 32\], but found nothing: it is made when a task is adapted to", None, None, None,
    ),
    "a head of another size": (
        lambda: peft_files(
            {"head.weight": torch.ones(3, 32)}, AdapterClassifier(tiny("llama"), 2, head=ScoreHead()),
            task_type="SEQ_CLS"
        ),
        r"with shape \[2, 32\], but found \[3, 32\]", None, None, None,
    ),
    "other tasks": (
        lambda: AdapterClassifier(tiny("llama"), 2).features(
            stack_tasks(AdapterClassifier(tiny("llama"), 2).init(0), 2),
            Batch({"input_ids": torch.ones(3, 1, 2, dtype=torch.long)}, torch.zeros(3, 1)),
        ),
        r"the batch holds 3 tasks, .* shape \[3, r, d_in\], not \[2, 16, 32\]", None, None, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", [*MODULE.values(), *TEXT.values()], ids=[*MODULE, *TEXT])
def test_a_refusal_names_its_argument(case: Case) -> None:
    call, words, field, value, allowed = case
    with pytest.raises(InputError, match=words if words != "not ()" else r"not \(\)") as caught:
        call()
    assert (caught.value.field, caught.value.value, caught.value.allowed) == (field, value, allowed)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_there(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder, a name while offline, and a name that nobody has: each with its own advice and the reason."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        InputError, match=r"'no/such': it is not in the local cache and HF_HUB_OFFLINE is set; .* \(\w+"
    ):
        load_backbone("no/such")
    with pytest.raises(InputError, match=r"the folder must hold config\.json and safetensors weights"):
        load_backbone(tmp_path)
    with pytest.raises(InputError, match="the folder must hold a tokenizer that transformers can read"):
        load_encoder(tmp_path)
