"""Adapters, heads, tokens and files by hand: what is added to a layer, what is read of a text, what is written."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, GPT2LMHeadModel, LlamaForCausalLM, T5ForConditionalGeneration
from transformers.pytorch_utils import Conv1D

from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.trees import stack_tasks
from metascale.core.types import Batch, Params
from metascale.models.kernels.int8 import Int8Linear, is_int8, quantise
from metascale.models.text import probe
from metascale.models.text.any_model import LoRA, all_linear, reads_from_left_to_right
from metascale.models.text.architectures import match_targets, matches_target
from metascale.models.text.classifiers import (
    AdapterClassifier,
    FullClassifier,
    TextClassifier,
    packed,
    transformer_blocks,
    trimmed,
)
from metascale.models.text.heads import (
    LearnedHead,
    PrototypeHead,
    ScoreHead,
    ZeroHead,
    head_logits,
    pool_last,
    pool_mean,
)
from metascale.models.text.hf import (
    TextEncoder,
    _quiet,
    _source_options,
    call_options,
    count_parameters,
    load_config,
    precision_of,
    random_backbone,
)
from metascale.models.text.language_model import AdapterLanguageModel
from metascale.models.text.lora import (
    Active,
    AdaptedForward,
    AdapterCall,
    CheckpointedForward,
    adapters_of,
    attach,
    enclosing_block,
    init_adapters,
    is_transposed,
    linear_shapes,
)
from metascale.models.text.peft_format import load_peft, peft_files, save_peft
from tests.models.tiny_backbones import CONFIGS, tiny

# peft and torch ask for names that have newer ones.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------- layers


def test_an_adapted_layer_adds_only_inside_a_call_that_names_it() -> None:
    layer = nn.Linear(3, 2)
    forward = AdaptedForward("layer", layer.forward)
    x, (a, b) = drawn(4, 3), (drawn(2, 1, 3, seed=1), drawn(2, 2, 1, seed=2))
    call = AdapterCall({"layer": (a, b)}, 0.5, 2)
    assert torch.equal(forward(x), layer(x))
    with Active(AdapterCall({"other": (a, b)}, 0.5, 2)):
        assert torch.equal(forward(x), layer(x))
    active = Active(call)
    by_hand = layer(x) + 0.5 * torch.cat([x[:2] @ a[0].T @ b[0].T, x[2:] @ a[1].T @ b[1].T])
    with active, active:
        torch.testing.assert_close(forward(x), by_hand)
    assert torch.equal(forward(x), layer(x))


class Net(nn.Module):
    """Two blocks of a linear layer and GPT-2's kind, one layer beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"one": nn.Linear(4, 4), "two": Conv1D(4, 4)}) for _ in range(2)])
        self.own, self.last = nn.Bilinear(1, 1, 1), nn.Linear(4, 2)


def test_layers_blocks_and_names() -> None:
    net = Net()
    assert linear_shapes(net) == {
        **{f"blocks.{i}.{name}": (4, 4) for i in range(2) for name in ("one", "two")}, "last": (4, 2),
    }  # fmt: skip
    wide = nn.ModuleDict({"a": Conv1D(3, 5), "b": Int8Linear(torch.ones(3, 5), None, transposed=True)})
    assert linear_shapes(wide) == {"a": (5, 3), "b": (5, 3)}
    assert [is_transposed(part) for part in (wide["a"], wide["b"], net.last, Int8Linear(torch.ones(1, 1), None))] == [
        True, True, False, False,
    ]  # fmt: skip
    assert enclosing_block(net, "blocks.1.one") == "blocks.1"
    assert enclosing_block(net, "last") == ""
    attach(net, ["blocks.0.one", "last"])
    first, other = net.blocks[0], net.blocks[1]
    assert isinstance(first["one"].forward, AdaptedForward)
    assert isinstance(net.last.forward, AdaptedForward)
    assert (first["one"].forward.name, net.last.forward.name) == ("blocks.0.one", "last")
    assert not isinstance(first["two"].forward, AdaptedForward)
    assert [block.forward.name for block in (first, other)] == ["blocks.0", "blocks.1"]
    assert all(isinstance(block.forward, CheckpointedForward) for block in (first, other))
    assert "forward" in vars(other["one"])
    assert "forward" in vars(other["two"])
    assert "forward" not in vars(net.own)
    before = [first["one"].forward, first.forward]
    attach(net, ["blocks.0.one", "blocks.1.two"])
    assert before == [first["one"].forward, first.forward], "a second time changes nothing"
    assert isinstance(other["two"].forward, AdaptedForward)
    x = drawn(3, 4)
    torch.testing.assert_close(first["one"](x), F.linear(x, first["one"].weight, first["one"].bias))
    torch.testing.assert_close(other["two"](x), x @ other["two"].weight + other["two"].bias)


def test_adapters_start_with_b_zero_by_the_stream_of_their_layer() -> None:
    found = init_adapters({"a.b": (4, 3)}, 2, 7, torch.float64)
    uniform = torch.empty(2, 4, dtype=torch.float64).uniform_(-0.5, 0.5, generator=torch_generator(7, "init", "a.b"))
    assert torch.equal(found["a.b.lora_A"], uniform)
    assert (found["a.b.lora_B"].dtype, found["a.b.lora_B"].tolist()) == (torch.float64, [[0.0, 0.0]] * 3)
    (a, b) = adapters_of(found, ["a.b"])["a.b"]
    assert a is found["a.b.lora_A"]
    assert b is found["a.b.lora_B"]


def test_targets_by_whole_names_and_by_last_parts() -> None:
    layers = ["h.0.attn.q", "h.1.attn.q", "h.0.mlp.q", "pooler.q", "xq"]
    assert match_targets(layers, ("q",)) == layers[:3]
    assert match_targets(layers, ("mlp.q", "h.1.attn.q")) == ["h.1.attn.q", "h.0.mlp.q"]
    assert match_targets(layers, ()) == []
    assert [matches_target("a.b.c", end) for end in ("c", "b.c", "a.b.c", "bc", ".c", "b")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"'attn\.q'"):
        match_targets(layers, ("atn.q",))


def test_linear_layers_in_8_bits_take_the_place_of_every_one() -> None:
    net = Net()
    assert not is_int8(net)
    quantise(net)
    kinds = {name: type(part).__name__ for name, part in net.named_modules() if not list(part.children())}
    assert kinds == {
        **{f"blocks.{i}.{name}": "Int8Linear" for i in range(2) for name in ("one", "two")}, "own": "Bilinear",
        "last": "Int8Linear",
    }  # fmt: skip
    assert is_int8(net)
    assert (net.blocks[0]["one"].transposed, net.blocks[0]["two"].transposed) == (False, True)
    layer = net.blocks[0]["two"]
    assert (layer.in_features, layer.out_features, layer.weight.dtype) == (4, 4, torch.int8)
    assert not layer.weight.requires_grad
    assert not layer.bias.requires_grad
    assert Int8Linear(torch.ones(2, 3), None).bias is None


# ---------------------------------------------------------------------------------------------- texts


def test_padding_goes_to_one_side_and_columns_of_it_away() -> None:
    ids, mask = torch.tensor([[[7, 8, 0, 0], [0, 9, 5, 0]]]), torch.tensor([[[1, 1, 0, 0], [0, 1, 1, 0]]])
    left = packed(ids, mask, ids + 1, left=True)
    assert [value.tolist() for value in left] == [
        [[[0, 0, 7, 8], [0, 0, 9, 5]]], [[[0, 0, 1, 1], [0, 0, 1, 1]]], [[[1, 1, 8, 9], [1, 1, 10, 6]]],
    ]  # fmt: skip
    right = [[[7, 8, 0, 0], [9, 5, 0, 0]]]
    assert packed(ids, mask)[0].tolist() == right
    batch = Batch({"input_ids": ids, "attention_mask": mask}, torch.zeros(1, 2))
    assert [value.tolist() for value in trimmed(batch)] == [[[[7, 8], [9, 5]]], [[[1, 1], [1, 1]]]]
    whole, ones = trimmed(Batch({"input_ids": ids}, torch.zeros(1, 2)))
    assert whole is ids
    assert ones.tolist() == [[[1] * 4] * 2]
    empty = Batch({"input_ids": ids, "attention_mask": torch.zeros_like(mask)}, torch.zeros(1, 2))
    assert [tuple(value.shape) for value in trimmed(empty)] == [(1, 2, 1)] * 2
    bare = Batch({"input_ids": ids.to("meta"), "attention_mask": mask.to("meta")}, torch.zeros(1, 2))
    assert [tuple(value.shape) for value in trimmed(bare)] == [(1, 2, 4)] * 2


def test_one_vector_a_text_by_hand() -> None:
    hidden = torch.tensor([[[1.0], [2.0], [4.0]], [[3.0], [5.0], [7.0]]])
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert pool_last(hidden, mask).tolist() == [[2.0], [3.0]]
    assert pool_mean(hidden, mask).tolist() == [[1.5], [0.0]]
    assert pool_mean(hidden.double(), mask).dtype == torch.float64
    assert pool_mean(hidden.bfloat16(), mask).dtype == torch.float32


def test_heads_by_hand() -> None:
    """Features (3, 4) are (0.6, 0.8) times a length; prototypes of scale 2: w = 4 p and b = −2 |p|²."""
    features, zeros = (
        torch.tensor([[[3.0, 4.0]]]),
        {"head.weight": torch.zeros(1, 1, 2), "head.bias": torch.zeros(1, 1)},
    )
    begun = PrototypeHead(2.0).begin(zeros, lambda: features, torch.zeros(1, 1, dtype=torch.long))
    torch.testing.assert_close(begun["head.weight"], torch.tensor([[[2.4, 3.2]]]))
    torch.testing.assert_close(begun["head.bias"], torch.tensor([[-2.0]]))
    torch.testing.assert_close(ZeroHead(5.0).scaled(features), torch.tensor([[[3.0, 4.0]]]))
    torch.testing.assert_close(LearnedHead(10.0).scaled(features), torch.tensor([[[6.0, 8.0]]]))
    torch.testing.assert_close(PrototypeHead().scaled(features), torch.tensor([[[0.6, 0.8]]]))
    assert ScoreHead().scaled(features) is features
    weight = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    logits = head_logits(ScoreHead(), {"head.weight": weight}, features.double())
    assert (logits.dtype, logits.tolist()) == (torch.float32, [[[3.0, 7.0]]])
    both = {"head.weight": weight, "head.bias": torch.tensor([[1.0, 2.0]])}
    assert head_logits(ZeroHead(None), both, features).tolist() == [[[4.0, 9.0]]]
    uniform = torch.empty(3, 4).uniform_(-0.5, 0.5, generator=torch_generator(2, "init", "head.weight"))
    assert torch.equal(LearnedHead().init(3, 4, 2)["head.weight"], uniform)
    assert LearnedHead().init(3, 4, 2)["head.bias"].tolist() == [0.0] * 3
    assert ScoreHead().init(3, 4, 2).keys() == {"head.weight"}
    assert torch.equal(ScoreHead().init(3, 4, 2)["head.weight"], uniform)


@pytest.mark.parametrize("differentiable", [False, True])
def test_the_way_of_a_gradient_through_prototypes(differentiable: bool) -> None:
    features = torch.tensor([[[3.0, 4.0]]], requires_grad=True)
    zeros, head = (
        {"head.weight": torch.zeros(1, 1, 2), "head.bias": torch.zeros(1, 1)},
        PrototypeHead(1.0, differentiable),
    )
    targets = torch.zeros(1, 1, dtype=torch.long)
    begun = head.begin(zeros, lambda: features * 1, targets)
    assert all(value.requires_grad == differentiable for value in begun.values())
    with torch.no_grad():
        assert not head.begin(zeros, lambda: features * 1, targets)["head.weight"].requires_grad


def test_a_classifier_s_counts_precisions_and_options() -> None:
    """Two layers of query and value, 32 wide, at rank 3; a head of 32 + 1 a class."""
    model = AdapterClassifier(tiny("bert", dtype="bfloat16"), 2, rank=3, alpha=6.0, head=LearnedHead())
    assert (model.scale, model.dtype, model.n_features) == (2.0, torch.float32, 32)
    assert model.n_params_trainable == 4 * 3 * 64 + 2 * 33
    double = AdapterClassifier(tiny("bert", dtype="float64"), 2)
    assert double.dtype == torch.float64
    assert {value.dtype for value in double.init(0).values()} == {torch.float64}
    assert FullClassifier(tiny("bert", dtype="float64"), 2).dtype == torch.float64
    assert FullClassifier(tiny("bert"), 2).task_execution == "threads"
    assert [precision_of(tiny("bert", dtype=name)) for name in ("bfloat16", "int8", "float64")] == [
        "bfloat16", "int8", "float64",
    ]  # fmt: skip
    assert (call_options(tiny("llama")), call_options(tiny("distilbert"))) == ({"use_cache": False}, {})
    begun = double.begin(stack_tasks(double.init(0), 2), text([[5, 6], [7, 8]], n_tasks=2))
    assert (begun["head.weight"].dtype, tuple(begun["head.weight"].shape)) == (torch.float64, (2, 2, 32))
    zero = AdapterClassifier(tiny("bert"), 4, head=ZeroHead())
    params = zero.begin(stack_tasks(zero.init(0), 2), text([[5, 6], [7, 8]], n_tasks=2))
    assert tuple(params["head.bias"].shape) == (2, 4)
    assert zero.losses(params, text([[5, 6], [7, 8]], n_tasks=2)).tolist() == pytest.approx([1.3862944] * 2)


def text(rows: list[list[int]], n_tasks: int = 1) -> Batch:
    ids = torch.tensor([rows] * n_tasks)
    return Batch({"input_ids": ids}, torch.arange(len(rows)).expand(n_tasks, -1))


@pytest.mark.parametrize(("wanted", "tuned"), [(None, [0, 1]), (2, [0, 1]), (1, [1]), (0, [])])
def test_which_blocks_of_a_text_classifier_are_tuned(wanted: int | None, tuned: list[int]) -> None:
    backbone = random_backbone(CONFIGS["bert"](), 0)
    model = TextClassifier(backbone, 3, wanted, seed=4)
    found = {
        int(name.split(".")[3]) for name, value in model.named_parameters() if value.requires_grad and "layer." in name
    }
    assert sorted(found) == tuned
    others = {
        name.split(".")[0] for name, value in model.named_parameters() if value.requires_grad and "layer." not in name
    }
    assert others == {"head"}
    torch.testing.assert_close(
        model.head.weight, torch.randn(3, 32, generator=torch_generator(4, "text-classifier-head")) / 32**0.5
    )
    assert model.head.bias.tolist() == [0.0] * 3
    ids, mask = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    with torch.no_grad():
        hidden = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = torch.stack([hidden[0].mean(0), hidden[1, :2].mean(0)])
        torch.testing.assert_close(model(ids, mask), pooled @ model.head.weight.T)
        first = TextClassifier(backbone, 3, pooling="first")
        torch.testing.assert_close(first(ids, mask), hidden[:, 0] @ first.head.weight.T)
    assert transformer_blocks(backbone) == list(backbone.encoder.layer)


# ---------------------------------------------------------------------------------------------- loading


def test_a_tokenizer_s_padding_and_length() -> None:
    """The first of padding, end and unknown tokens that there is, 0 else; an empty text is one padding token."""

    class Words:
        pad_token_id, eos_token_id, unk_token_id = None, None, None

        def num_special_tokens_to_add(self) -> int:
            return 2

        def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
            assert options == {"truncation": True, "max_length": 3, "padding": False}
            return {"input_ids": [[len(word) for word in one.split()] for one in texts]}

    words: Any = Words()
    encoder = TextEncoder(words, 3)
    assert encoder.pad_id == 0
    words.unk_token_id = 6
    assert encoder.pad_id == 6
    words.eos_token_id = 0
    assert encoder.pad_id == 0
    words.pad_token_id = 4
    assert encoder(("a bb", "")) == [[1, 2], [4]]
    with pytest.raises(InputError, match="max_length must be more than the tokenizer's 2 special tokens, not 2"):
        TextEncoder(words, 2)


@pytest.mark.parametrize(
    ("value", "offline"), [("1", True), ("on", True), ("Yes", True), ("true", True), ("0", False), ("", False)]
)
def test_where_files_are_looked_for(value: str, offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert _source_options("no/such") == {"local_files_only": offline, "trust_remote_code": False}
    assert _source_options(str(tmp_path)) == {"local_files_only": True, "trust_remote_code": False}
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert not _source_options("no/such")["local_files_only"]


@pytest.mark.parametrize("bar", [True, False])
def test_transformers_speaks_again_after_loading(bar: bool) -> None:
    done: list[str] = []
    logs = SimpleNamespace(
        get_verbosity=lambda: logging.INFO, set_verbosity=lambda level: done.append(f"level {level}"),
        is_progress_bar_enabled=lambda: bar, set_verbosity_error=lambda: done.append("errors"),
        disable_progress_bar=lambda: done.append("no bar"), enable_progress_bar=lambda: done.append("bar"),
    )  # fmt: skip
    package: Any = SimpleNamespace(utils=SimpleNamespace(logging=logs))

    def load() -> None:
        with _quiet(package):
            done.append("reads")
            raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"):
        load()
    assert done == ["errors", "no bar", "reads", f"level {logging.INFO}", *(["bar"] if bar else [])]


def test_parameters_of_a_folder_are_counted_without_making_them(tmp_path: Path) -> None:
    """BERT: tables of words, positions and kinds; two blocks; no pooler, which nothing reads."""
    BertConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, vocab_size=30,
        type_vocab_size=2, max_position_embeddings=16,
    ).save_pretrained(tmp_path)  # fmt: skip
    block = 4 * (64 + 8) + 8 * 12 + 12 + 12 * 8 + 8 + 2 * 16
    tables = (30 + 16 + 2) * 8
    assert count_parameters(tmp_path) == {
        "total": tables + 16 + 2 * block, "embedding": tables, "non_embedding": 16 + 2 * block,
    }  # fmt: skip
    assert load_config("gpt2")._name_or_path == "gpt2"


def test_a_folder_named_as_a_published_shape_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CONFIGS["bert"]().save_pretrained(tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    assert load_config("gpt2").model_type == "bert"
    monkeypatch.chdir(tmp_path / "gpt2")
    assert load_config("gpt2").model_type == "gpt2"


def test_directions_of_reading() -> None:
    assert reads_from_left_to_right(tiny("llama"))
    assert not reads_from_left_to_right(tiny("bert"))
    model = random_backbone(CONFIGS["distilbert"](), 0)
    names = {f"transformer.layer.{i}.{part}" for i in range(2) for part in (
        "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", "ffn.lin1",
        "ffn.lin2")}  # fmt: skip
    assert set(all_linear(model, model)) == names
    with pytest.raises(InputError, match="DistilBertModel has no linear layer to adapt: give targets") as caught:
        all_linear(model, model.embeddings)
    assert caught.value.field == "targets"


def test_layers_that_change_nothing_are_named_up_to_three(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = random_backbone(CONFIGS["llama"](), 0)
    live = {"layers.0.self_attn.q_proj"}
    monkeypatch.setattr(probe, "reached", lambda *_: live)
    with pytest.raises(InputError) as caught:
        AdapterClassifier(backbone, 2, targets=("q_proj", "k_proj"))
    assert "'layers.0.self_attn.k_proj', 'layers.1.self_attn.q_proj', 'layers.1.self_attn.k_proj' would change" in str(
        caught.value
    )
    assert (caught.value.field, caught.value.value, caught.value.allowed) == ("targets", ["k_proj", "q_proj"], "q_proj")
    with pytest.raises(InputError, match=r"v_proj', 'layers\.1\.self_attn\.q_proj' and 1 others would change"):
        AdapterClassifier(backbone, 2, targets=("q_proj", "k_proj", "layers.0.self_attn.v_proj"))


def test_experts_that_two_tokens_did_not_choose() -> None:
    reached = {"h.0.experts.1.up", "h.1.experts.12.down"}
    idle = {name: probe._is_idle_expert(name, reached) for name in (
        "h.0.experts.7.up", "h.0.experts.7.down", "h.1.experts.3.down", "h.2.experts.1.up", "h.0.up",
        "h.0.experts.7.upper",
    )}  # fmt: skip
    assert idle == dict(zip(idle, (True, False, True, False, False, False), strict=True))


# ---------------------------------------------------------------------------------------------- language models


def causal(family: str = "llama") -> AdapterLanguageModel:
    kinds: Any = {"llama": LlamaForCausalLM, "gpt2": GPT2LMHeadModel}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found: Any = LoRA(kinds[family](CONFIGS[family]()), "causal_lm", rank=2, alpha=3.0)
    return found


def test_losses_of_tokens_by_hand() -> None:
    """Logits of zeros lose ln V at every counted target; weights are of targets, and a text without any is 0."""
    model = causal()
    ids = torch.tensor([[[5, 6, 7, 8], [5, 6, 0, 0]]])
    mask = torch.tensor([[[1, 1, 1, 1], [1, 1, 0, 0]]])
    logits = torch.zeros(1, 2, 3, 4)
    logits[0, 0, 1, 3] = 2.0
    uniform = float(torch.tensor(4.0).log())
    peaked = float(torch.logsumexp(torch.tensor([0.0, 0.0, 0.0, 2.0]), 0))
    targets = torch.tensor([[[0, 1, 3, 2], [3, 2, 1, 1]]])
    batch = Batch({"input_ids": ids, "attention_mask": mask}, targets)
    first = (uniform + peaked - 2.0 + uniform) / 3
    assert model.output_losses(logits, batch).tolist() == pytest.approx([(first + uniform) / 2])
    weights = torch.tensor([[[9.0, 1.0, 3.0, 0.0], [0.0, 0.0, 5.0, 5.0]]])
    weighted = Batch({**batch.inputs, "token_weights": weights}, targets)
    by_hand = (uniform + 3 * (peaked - 2.0)) / 4 / 2
    assert model.output_losses(logits, weighted).tolist() == pytest.approx([by_hand])
    bare = Batch({"input_ids": ids}, targets)
    assert model.output_losses(logits, bare).tolist() == pytest.approx([(first + uniform) / 2])


def test_a_language_model_s_names_scales_and_features() -> None:
    model = causal()
    assert (model.scale, model.dtype, model.peft_prefix, model.target_names) == (
        1.5, torch.float32, "model.", model.targets,
    )  # fmt: skip
    assert causal("gpt2").peft_prefix == "transformer."
    start = model.init(3)
    assert start.keys() == {f"{name}.lora_{part}" for name in model.shapes for part in "AB"}
    assert model.begin(start, text([[5]])) is start
    params = stack_tasks(start, 1)
    ids, mask = torch.tensor([[[5, 6, 7], [0, 8, 9]]]), torch.tensor([[[1, 1, 1], [0, 1, 1]]])
    batch = Batch({"input_ids": ids, "attention_mask": mask}, ids)
    with torch.no_grad():
        whole = model.backbone(input_ids=ids[0, :1]).last_hidden_state[0, -1]
        short = model.backbone(input_ids=ids[0, 1:, 1:]).last_hidden_state[0, -1]
    torch.testing.assert_close(model.features(params, batch)[0], torch.stack([whole, short]))
    logits = model.predict(params, batch)
    assert tuple(logits.shape) == (1, 2, 2, 99)
    with torch.no_grad():
        torch.testing.assert_close(logits[0, 0], model.model(input_ids=ids[0, :1]).logits[0, :-1])
    moved = {name: value + 0.1 for name, value in params.items()}
    dropped = model.predict(moved, batch, 4)
    assert torch.equal(dropped, model.predict(moved, batch, 4))
    assert not torch.equal(dropped, model.predict(moved, batch, 5))
    assert not torch.equal(dropped, model.predict(moved, batch))
    greedy = model.generate(params, batch, 2, eos_token_id=None)
    assert greedy.shape == (1, 2, 2)
    assert model.generate(params, batch, eos_token_id=None).shape == (1, 2, 20)


def test_a_decoder_reads_its_start_and_the_targets_but_the_last() -> None:
    model: Any = LoRA(T5ForConditionalGeneration(CONFIGS["t5"]()), "seq2seq", rank=2)
    config = model.model.config
    config.decoder_start_token_id, config.pad_token_id = 4, 3
    assert model._shifted(torch.tensor([[7, 8, -100, -100]])).tolist() == [[4, 7, 8, 3]]
    config.pad_token_id = None
    assert model._shifted(torch.tensor([[7, -100, -100]])).tolist() == [[4, 7, 0]]
    ids, answers = torch.tensor([[[5, 6, 7]]]), torch.tensor([[[8, 9]]])
    batch = Batch({"input_ids": ids}, answers)
    params = stack_tasks(model.init(0), 1)
    config.pad_token_id = 0
    logits = model.predict(params, batch)
    assert tuple(logits.shape) == (1, 1, 2, 99)
    expected = F.cross_entropy(logits[0, 0], answers[0, 0]).detach()
    torch.testing.assert_close(model.losses(params, batch).detach()[0], expected)
    with torch.no_grad():
        encoded = model.model.encoder(input_ids=ids[0]).last_hidden_state[0, -1]
    torch.testing.assert_close(model.features(params, batch)[0, 0], encoded)
    assert model.generate(params, batch, 3, eos_token_id=None, decoder_start_token_id=0).shape == (1, 1, 3)
    wrong = Batch({"input_ids": ids, "token_weights": torch.ones(1, 1, 3)}, answers)
    with pytest.raises(InputError, match=r"they are \[1, 1, 2\] and \[1, 1, 3\]$") as caught:
        model.losses(params, wrong)
    assert caught.value.field == "targets"


def test_what_transformers_is_asked_to_go_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding on the left of a causal model's texts, on the right of an encoder's; then the new tokens alone."""
    asked: list[Any] = []

    def generate(**given: Any) -> torch.Tensor:
        asked.append({name: v.tolist() if isinstance(v, torch.Tensor) else v for name, v in given.items()})
        return torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])

    ids, mask = torch.tensor([[[5, 6, 0], [0, 8, 0]]]), torch.tensor([[[1, 1, 0], [0, 1, 0]]])
    batch = Batch({"input_ids": ids, "attention_mask": mask}, ids)
    model: Any = causal()
    t5: Any = LoRA(T5ForConditionalGeneration(CONFIGS["t5"]()), "seq2seq", rank=2)
    for each in (model, t5):
        monkeypatch.setattr(each.model, "generate", generate)
    greedy = {"do_sample": False, "max_new_tokens": 20}
    assert model.generate(stack_tasks(model.init(0), 1), batch).tolist() == [[[3, 4], [7, 8]]]
    assert asked.pop() == {"input_ids": [[5, 6], [0, 8]], "attention_mask": [[1, 1], [0, 1]], **greedy}
    params = stack_tasks(t5.init(0), 1)
    assert t5.generate(params, batch, 2, do_sample=True, top_k=3).tolist() == [[[2, 3, 4], [6, 7, 8]]]
    chosen = {"do_sample": True, "max_new_tokens": 2, "top_k": 3}
    assert asked.pop() == {"input_ids": [[5, 6], [8, 0]], "attention_mask": [[1, 1], [1, 0]], **chosen}


# ---------------------------------------------------------------------------------------------- files


def read_config(model: Any, params: Params, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(peft_files(params, model, **more)["adapter_config.json"])
    return found


def test_the_whole_of_a_configuration_in_peft_s_format() -> None:
    model = AdapterClassifier(tiny("bert"), 2, rank=2, alpha=3.0, dropout=0.25)
    params = model.init(0)
    plain = {
        "use_dora": False, "use_rslora": False, "lora_bias": False, "bias": "none", "modules_to_save": None,
        "rank_pattern": {}, "alpha_pattern": {}, "layer_replication": None, "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": "", "r": 2, "lora_alpha": 3, "lora_dropout": 0.25,
        "target_modules": ["query", "value"], "fan_in_fan_out": False, "init_lora_weights": True,
        "inference_mode": True,
    }  # fmt: skip
    assert read_config(model, params) == plain
    assert read_config(model, params, prefix="bert.") == {**plain, "task_type": None}
    half = AdapterClassifier(tiny("bert"), 2, rank=2, alpha=3.5)
    assert read_config(half, half.init(0))["lora_alpha"] == 3.5
    gpt = AdapterClassifier(tiny("gpt2"), 2, rank=2)
    assert read_config(gpt, gpt.init(0))["fan_in_fan_out"] is True
    one = AdapterClassifier(tiny("bert"), 2, rank=2, targets=("layer.1.attention.self.query",))
    assert read_config(one, one.init(0), prefix="x.")["target_modules"] == ["layer.1.attention.self.query"]
    language = causal()
    found = read_config(language, language.init(0))
    assert (found["task_type"], found["lora_alpha"]) == ("CAUSAL_LM", 3)
    t5: Any = LoRA(T5ForConditionalGeneration(CONFIGS["t5"]()), "seq2seq", rank=2)
    assert read_config(t5, t5.init(0))["task_type"] == "SEQ_2_SEQ_LM"


def test_names_and_files_of_adapters(tmp_path: Path) -> None:
    model = AdapterClassifier(tiny("bert"), 2, rank=2, targets=("layer.1.attention.self.query",), head=LearnedHead())
    params = model.init(0)
    files = peft_files(params, model, "bert.")
    assert sorted(files) == ["adapter_config.json", "adapter_model.safetensors", "head.safetensors"]
    assert files["adapter_config.json"].endswith(b"\n}\n")
    save_peft(tmp_path, params, model, "bert.")
    stored = load_file(tmp_path / "adapter_model.safetensors")
    layer = "base_model.model.bert.encoder.layer.1.attention.self.query"
    assert {name: tuple(value.shape) for name, value in stored.items()} == {
        f"{layer}.lora_A.weight": (2, 32), f"{layer}.lora_B.weight": (32, 2),
    }  # fmt: skip
    assert load_file(tmp_path / "head.safetensors").keys() == {"head.weight", "head.bias"}
    assert all(torch.equal(value, params[name]) for name, value in load_peft(tmp_path, model).items())
    bare = {name: value for name, value in params.items() if "lora" in name}
    save_peft(tmp_path, bare, model)
    assert not (tmp_path / "head.safetensors").exists(), "an older head does not stay beside newer adapters"
    score = AdapterClassifier(tiny("bert"), 2, rank=2, targets=model.targets, head=ScoreHead())
    save_file({"head.weight": torch.ones(2, 32)}, tmp_path / "head.safetensors")
    assert load_peft(tmp_path, score)["head.weight"].tolist() == [[1.0] * 32] * 2
    with pytest.raises(InputError, match=r"must hold head\.weight and head\.bias, not head\.weight$"):
        load_peft(tmp_path, model)
    save_file({}, tmp_path / "head.safetensors")
    with pytest.raises(InputError, match=r"must hold head\.weight, not nothing$"):
        load_peft(tmp_path, score)


def test_adapters_of_another_rank_or_alpha_are_refused_with_the_right_one(tmp_path: Path) -> None:
    model = AdapterClassifier(tiny("bert"), 2, rank=2, alpha=3.0)
    save_peft(tmp_path, model.init(0), model)
    for rank, alpha in ((4, 3.0), (2, 5.5)):
        with pytest.raises(
            InputError, match=f"rank 2 and alpha 3, the model rank {rank} and alpha {alpha:g}"
        ) as caught:
            load_peft(tmp_path, AdapterClassifier(tiny("bert"), 2, rank=rank, alpha=alpha))
        assert (caught.value.field, caught.value.value, caught.value.allowed) == ("rank", rank, "2")


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    model = AdapterClassifier(tiny("bert"), 2, rank=2)
    save_peft(tmp_path, model.init(0), model)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    name = next(iter(stored))
    stored[name.removeprefix("base_model.model.")] = stored[name] + 1
    save_file(stored, tmp_path / "adapter_model.safetensors")
    with pytest.raises(InputError, match="hold two tensors of one name"):
        load_peft(tmp_path, model)
