"""LoRA on whatever transformers has: tiny random models of many architectures, against single tasks and `peft`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

from metascale.core.errors import InputError
from metascale.core.trees import stack_tasks
from metascale.core.types import Batch, Params
from metascale.models.text.any_model import LoRA
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import ZeroHead
from metascale.models.text.hf import random_backbone
from metascale.models.text.language_model import AdapterLanguageModel
from metascale.models.text.peft_format import load_peft, save_peft
from metascale.testing.model_contract import ModelContract, check_model, noise
from tests.models.tiny_backbones import VOCABULARY, all_double, text_batch

# peft asks transformers a question that has a newer name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY}
_SIZES |= {"intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_BERT = {**_SIZES, "type_vocab_size": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3": {**_GROUPED, "head_dim": 8},
    "gpt_neox": _SIZES,
    "modernbert": {**_SIZES, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    "deberta-v2": {**_BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    "opt": {**_SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi3": _GROUPED,
    "olmo2": _GROUPED,
    "smollm3": {**_GROUPED, "bos_token_id": 1, "eos_token_id": 2},
    "granite": _GROUPED,
    "starcoder2": _GROUPED,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": {**_BERT, "embedding_size": 16},
    "mpnet": _SIZES,
    "llama": _GROUPED,
    "mistral": _GROUPED,
    "qwen2": _GROUPED,
    "olmo": _GROUPED,
    "stablelm": _GROUPED,
    "cohere": _GROUPED,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64},
    "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64, "rotary_dim": 4},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY},
    "falcon": _SIZES,
    "bert": _BERT,
    "camembert": _BERT,
    "ernie": _BERT,
    "nomic_bert": _BERT,
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "vocab_size": VOCABULARY},
    "albert": {**_BERT, "embedding_size": 16},
    "roformer": {**_BERT, "embedding_size": 32},
}
FEW = ("qwen3", "gpt_neox", "modernbert", "deberta-v2", "opt")
BIDIRECTIONAL = {"modernbert", "deberta-v2", "roberta", "xlm-roberta", "electra", "mpnet", "camembert", "ernie"}
BIDIRECTIONAL |= {"bert", "nomic_bert", "distilbert", "albert", "roformer"}
ALL = [pytest.param(name, marks=() if name in FEW else pytest.mark.long) for name in CONFIGS]


def config(name: str) -> Any:
    values = dict(CONFIGS[name])
    for token in ("bos_token_id", "eos_token_id"):
        values.setdefault(token, 1)
    try:
        return transformers.AutoConfig.for_model(name, **values)
    except ValueError:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")


def classifier(name: str, dtype: str = "float32") -> AdapterClassifier:
    found = LoRA(random_backbone(config(name), 0, attn_implementation="eager", dtype=dtype), n_classes=3, rank=2)
    assert isinstance(found, AdapterClassifier)
    return found


def moved(params: Params) -> Params:
    return {name: value + 0.1 * noise(name, value) for name, value in params.items()}


def in_peft(model: Any, prefix: str, params: Params, shapes: Any, rank: int, alpha: float) -> Any:
    """The same adapters of one task in `peft`, on a copy of the model without ours."""
    bare = copy.deepcopy(model)
    for part in bare.modules():
        part.__dict__.pop("forward", None)
    targets = [f"{prefix}{name}" for name in shapes]
    fan = any(type(bare.get_submodule(name)).__name__ == "Conv1D" for name in targets)
    adapted = get_peft_model(bare, LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, fan_in_fan_out=fan))
    with torch.no_grad():
        for name in shapes:
            layer = adapted.get_submodule(f"base_model.model.{prefix}{name}")
            layer.lora_A["default"].weight.copy_(params[f"{name}.lora_A"])
            layer.lora_B["default"].weight.copy_(params[f"{name}.lora_B"])
    return adapted.eval()


@pytest.mark.parametrize("name", ALL)
def test_classifiers_of_any_architecture(name: str) -> None:
    """Pooling by the kind of attention; three tasks together = each in `peft`; every adapter has a gradient."""
    model, batch = classifier(name), text_batch(3, 4, 0)
    assert model.pool_name == ("mean" if name in BIDIRECTIONAL else "last")
    params = moved(stack_tasks(model.init(0), 3))
    found = model.features(params, batch)
    for task in range(3):
        own = {key: value[task] for key, value in params.items()}
        reference = in_peft(model.backbone, "", own, model.shapes, 2, 32.0)
        ids, mask = batch.inputs["input_ids"][task], batch.inputs["attention_mask"][task]
        with torch.no_grad():
            hidden = reference(input_ids=ids, attention_mask=mask).last_hidden_state
        if model.pool_name == "last":
            expected = hidden[torch.arange(4), mask.sum(1) - 1]
        else:
            expected = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        torch.testing.assert_close(found[task], expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    leaves = {key: value.detach().requires_grad_(True) for key, value in params.items()}
    grads = torch.autograd.grad(model.features(leaves, batch).square().sum(), list(leaves.values()), allow_unused=True)
    silent = [key for key, grad in zip(leaves, grads, strict=True) if grad is None or not bool(grad.any())]
    assert silent == []


@pytest.mark.parametrize("name", ALL)
def test_their_second_derivatives_are_differences_of_the_first(name: str) -> None:
    with all_double():
        model = classifier(name, "float64")
        contract = ModelContract(model, text_batch, dtype=torch.float64, n_tasks=2)
        contract.check_twin()
        contract.check_gradient()
        contract.check_second_order()


@pytest.mark.parametrize("name", ["qwen3", "opt", "modernbert"])
def test_padding_may_be_on_either_side(name: str) -> None:
    model, batch = classifier(name), text_batch(2, 3, 1)
    params = moved(stack_tasks(model.init(0), 2))
    order = batch.inputs["attention_mask"].argsort(dim=-1, stable=True)
    left = Batch({key: value.gather(-1, order) for key, value in batch.inputs.items()}, batch.targets)
    assert not bool(left.inputs["attention_mask"][..., 0].all())
    torch.testing.assert_close(model.features(params, left), model.features(params, batch))


def whole(name: str, kind: str = "AutoModelForCausalLM", dtype: torch.dtype = torch.float32) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, kind).from_config(config(name), dtype=dtype, attn_implementation="eager")


def language_batch(n_tasks: int, n_examples: int, seed: int) -> Batch:
    batch = text_batch(n_tasks, n_examples, seed)
    ids = batch.inputs["input_ids"]
    return Batch(dict(batch.inputs), ids.masked_fill(ids == 0, -100))


@pytest.mark.parametrize("name", [p for p in ALL if p.values[0] not in BIDIRECTIONAL])
def test_causal_language_models_of_any_architecture(name: str) -> None:
    """Three tasks together = the token losses of `peft`, each in its own."""
    model, batch = LoRA(whole(name), "causal_lm", rank=2), language_batch(3, 4, 0)
    assert isinstance(model, AdapterLanguageModel)
    params = moved(stack_tasks(model.init(0), 3))
    losses = model.losses(params, batch)
    prefix = next(n for n, part in model.model.named_modules() if part is model.backbone) + "."
    for task in range(3):
        own = {key: value[task] for key, value in params.items()}
        reference = in_peft(model.model, prefix, own, model.shapes, 2, 32.0)
        with torch.no_grad():
            logits = reference(**{key: value[task] for key, value in batch.inputs.items()}).logits
        rows = []
        for scores, wanted in zip(logits, batch.targets[task], strict=True):
            rows.append(F.cross_entropy(scores[:-1], wanted[1:], ignore_index=-100))
        torch.testing.assert_close(losses[task], torch.stack(rows).mean(), rtol=1e-5, atol=1e-5)


def test_a_language_model_keeps_the_contract_of_models() -> None:
    with all_double():
        model = LoRA(whole("gpt_neox", dtype=torch.float64), "causal_lm", rank=2)
        check_model(model, language_batch, dtype=torch.float64, n_tasks=2, smooth=True, drops_out=True)


def test_weights_of_tokens_are_those_of_their_losses() -> None:
    model, batch = LoRA(whole("qwen3"), "causal_lm", rank=2), language_batch(2, 3, 0)
    params = moved(stack_tasks(model.init(0), 2))
    chosen = (torch.arange(9) < 4).expand(2, 3, 9)
    weighted = Batch({**batch.inputs, "token_weights": chosen.float()}, batch.targets)
    masked = Batch(dict(batch.inputs), batch.targets.masked_fill(~chosen, -100))
    torch.testing.assert_close(model.losses(params, weighted), model.losses(params, masked))


@pytest.mark.parametrize("part", ["targets", "token_weights"])
def test_targets_of_another_shape_are_refused_by_their_argument(part: str) -> None:
    model, batch = LoRA(whole("qwen3"), "causal_lm", rank=2), language_batch(1, 3, 0)
    params = stack_tasks(model.init(0), 1)
    short = batch.targets[..., 1:]
    wrong = Batch({**batch.inputs, "token_weights": torch.ones(short.shape)}, batch.targets)
    wrong = wrong if part == "token_weights" else Batch(dict(batch.inputs), short)
    said = r"they are \[1, 3, 9\] and \[1, 3, 8\]" if part == "token_weights" else r"they are \[1, 3, 8\] and"
    with pytest.raises(InputError, match=said) as caught:
        model.losses(params, wrong)
    assert caught.value.field == "targets"


def test_targets_of_padding_do_not_count() -> None:
    model, batch = LoRA(whole("qwen3"), "causal_lm", rank=2), text_batch(1, 3, 0)
    assert isinstance(model, AdapterLanguageModel)
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"].clone()
    mask[..., -2:] = 0
    params = moved(stack_tasks(model.init(0), 1))
    inputs = {"input_ids": ids, "attention_mask": mask}
    expected = model.losses(params, Batch(inputs, ids.masked_fill(mask == 0, -100)))
    torch.testing.assert_close(model.losses(params, Batch(inputs, ids)), expected)


def test_generation_after_adaptation_is_that_of_peft() -> None:
    """Right padding comes in; each task goes on with its own adapters."""
    model, batch = LoRA(whole("qwen3"), "causal_lm", rank=2), language_batch(2, 3, 0)
    assert isinstance(model, AdapterLanguageModel)
    params = moved(stack_tasks(model.init(0), 2))
    found = model.generate(params, batch, max_new_tokens=4, eos_token_id=None)
    assert found.shape == (2, 3, 4)
    for task in range(2):
        reference = in_peft(model.model, "model.", {k: v[task] for k, v in params.items()}, model.shapes, 2, 32.0)
        for row in range(3):
            ids = batch.inputs["input_ids"][task, row : row + 1]
            ids = ids[:, : int(batch.inputs["attention_mask"][task, row].sum())]
            for _ in range(4):
                with torch.no_grad():
                    ids = torch.cat([ids, reference(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
            assert found[task, row].tolist() == ids[0, -4:].tolist()


@pytest.mark.parametrize("name", ["t5", pytest.param("bart", marks=pytest.mark.long)])
def test_sequence_to_sequence_models(name: str) -> None:
    if name == "t5":
        settings: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
        settings |= {"decoder_start_token_id": 0, "pad_token_id": 0}
    else:
        settings = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 64}
        settings |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "pad_token_id": 0}
        settings |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2}
    made = transformers.AutoConfig.for_model(name, vocab_size=VOCABULARY, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = transformers.AutoModelForSeq2SeqLM.from_config(made, attn_implementation="eager").eval()
    plain = copy.deepcopy(net)
    model = LoRA(net, "seq2seq", rank=2)
    assert isinstance(model, AdapterLanguageModel)
    assert any("decoder" in key for key in model.shapes)
    answers = torch.randint(3, VOCABULARY, (2, 3, 5), generator=torch.Generator().manual_seed(1))
    answers[0, 0, 3:] = -100
    batch = Batch(dict(text_batch(2, 3, 0).inputs), answers)
    start = stack_tasks(model.init(0), 2)
    for task in range(2):
        rows = []
        for row in range(3):
            given = {key: value[task, row : row + 1] for key, value in batch.inputs.items()}
            with torch.no_grad():
                rows.append(plain(**given, labels=answers[task, row : row + 1]).loss)
        torch.testing.assert_close(model.losses(start, batch)[task], torch.stack(rows).mean(), rtol=1e-5, atol=1e-5)
    params = moved(start)
    assert not torch.allclose(model.losses(params, batch), model.losses(start, batch))
    alone = {key: value[1:] for key, value in params.items()}
    torch.testing.assert_close(model.losses(params, batch)[1:], model.losses(alone, batch.tasks(1, 2)))
    assert model.generate(params, batch, max_new_tokens=3).shape[:2] == (2, 3)


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "opt"])
def test_stock_peft_reads_the_adapters_of_a_language_model(name: str, tmp_path: Path) -> None:
    """Files of task CAUSAL_LM; the same logits in `peft`, and the same parameters when they come back."""
    net = whole(name)
    plain = copy.deepcopy(net).eval()
    model, batch = LoRA(net, "causal_lm", rank=2), language_batch(1, 4, 0)
    assert isinstance(model, AdapterLanguageModel)
    params = moved(model.init(0))
    save_peft(str(tmp_path), params, model)
    stock = PeftModel.from_pretrained(plain, tmp_path)
    assert str(stock.peft_config["default"].task_type) in ("CAUSAL_LM", "TaskType.CAUSAL_LM")
    with torch.no_grad():
        expected = stock(**{key: value[0] for key, value in batch.inputs.items()}).logits[:, :-1]
    found = model.predict(stack_tasks(params, 1), batch)[0]
    kept = batch.inputs["attention_mask"][0, :, :-1].bool()
    torch.testing.assert_close(found[kept], expected[kept], rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    again = load_peft(str(tmp_path), model)
    assert all(torch.equal(value, again[key]) for key, value in params.items())


def test_experts_in_parameters_of_three_dimensions_are_refused_by_name() -> None:
    settings = {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2, "bos_token_id": 1, "eos_token_id": 1}
    made = transformers.AutoConfig.for_model("mixtral", **settings)
    backbone = random_backbone(made, 0, attn_implementation="eager")
    with pytest.raises(InputError, match=r"experts in 3-D parameters \(layers.0.mlp.experts.\w+ and 3 others\)"):
        LoRA(backbone, n_classes=3)
    assert isinstance(LoRA(backbone, n_classes=3, targets=("q_proj", "v_proj")), AdapterClassifier)


def test_layers_that_read_what_all_texts_share_take_no_adapter_for_each_task() -> None:
    """DeBERTa projects its embeddings of positions once for a batch: adapters would be dealt out by position."""
    model = classifier("deberta-v2")
    suffixes = {name.rpartition(".")[2] for name in model.shapes}
    assert suffixes == {"query_proj", "key_proj", "value_proj", "dense"}
    with pytest.raises(InputError, match=r"pos_key_proj' .* also reads what all texts share"):
        LoRA(model.backbone, n_classes=3, targets=("pos_key_proj",))


def test_what_does_not_fit_the_task_is_refused() -> None:
    backbone = random_backbone(config("qwen3"), 0, attn_implementation="eager")
    with pytest.raises(InputError, match="needs n_classes"):
        LoRA(backbone)
    with pytest.raises(InputError, match="has no language-model head"):
        LoRA(backbone, "causal_lm")
    with pytest.raises(InputError, match="does not fit task='seq2seq'"):
        LoRA(whole("qwen3"), "seq2seq")
    with pytest.raises(InputError, match="task must be one of"):
        LoRA(backbone, "regression")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "causal_lm", "n_classes": 3}, "n_classes is for task='classification', not for 'causal_lm'"),
        ({"task": "causal_lm", "head": ZeroHead()}, "head is for task="),
        ({"task": "causal_lm", "pooling": "mean"}, "pooling is for task="),
        ({"n_classes": 3, "targets": "q_proj"}, "targets must be a tuple of names of layers, not 'q_proj'"),
        ({"n_classes": 3, "targets": ()}, r"targets must be a tuple of names of layers, not \(\)"),
        ({"n_classes": 3, "head": "zero"}, r"such as named_head\('zero'\)"),
        ({"n_classes": 3, "model": torch.nn.Linear(2, 2)}, "not a Linear; Module takes any other"),
        ({"n_classes": 3, "model": None}, "not a NoneType"),
    ],
)
def test_arguments_that_would_change_nothing_are_refused(arguments: dict[str, Any], message: str) -> None:
    given = {"model": whole("llama"), **arguments} if "model" not in arguments else arguments
    with pytest.raises(InputError, match=message):
        LoRA(**given)
