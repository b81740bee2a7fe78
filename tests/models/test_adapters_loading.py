"""Backbones and tokenizers: from folders, from known shapes, and what is said when they are not there."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from metascale.core import trees
from metascale.core.errors import CorruptFile, InputError, MissingDependency
from metascale.models.text.architectures import ARCHITECTURES, SHAPES
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.hf import count_parameters, load_backbone, load_config, load_encoder, random_backbone
from metascale.testing.model_contract import generators_untouched
from tests.models.tiny_backbones import CONFIGS, text_batch, tiny


def saved(family: str, folder: Path) -> Path:
    tiny(family, "sdpa").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_folder_round_trip(family: str, tmp_path: Path) -> None:
    with generators_untouched():
        loaded = load_backbone(saved(family, tmp_path))
    original = dict(tiny(family, "sdpa").named_parameters())
    assert all(torch.equal(value, original[name]) for name, value in loaded.named_parameters())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


def test_a_language_model_s_folder_gives_its_backbone(tmp_path: Path) -> None:
    from transformers import BertForMaskedLM, LlamaForCausalLM

    LlamaForCausalLM(CONFIGS["llama"]()).save_pretrained(tmp_path / "llama")
    BertForMaskedLM(CONFIGS["bert"]()).save_pretrained(tmp_path / "bert")
    assert type(load_backbone(tmp_path / "llama")).__name__ == "LlamaModel"
    bert = load_backbone(tmp_path / "bert")
    assert bert.pooler is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_dtype(dtype: str, tmp_path: Path) -> None:
    backbone = load_backbone(saved("llama", tmp_path), dtype=dtype, attn_implementation="eager")
    assert {str(parameter.dtype) for parameter in backbone.parameters()} == {f"torch.{dtype}"}
    AdapterClassifier(backbone, n_classes=2).require_second_order()


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_random_weights_have_an_address(family: str) -> None:
    with generators_untouched():
        first, again, other = (random_backbone(CONFIGS[family](), seed) for seed in (0, 0, 1))
    same = [torch.equal(x, y) for x, y in zip(first.parameters(), again.parameters(), strict=True)]
    changed = [not torch.equal(x, y) for x, y in zip(first.parameters(), other.parameters(), strict=True)]
    assert all(same)
    assert any(changed)
    matrices = {name: value for name, value in first.named_parameters() if value.dim() == 2}
    assert all(float(value.std()) > 0 for value in matrices.values())
    if family != "t5":  # T5 has rules of its own for every matrix
        spreads = [float(v.std()) for n, v in matrices.items() if "c_proj" not in n and v.numel() > 500]
        assert all(0.018 < spread < 0.022 for spread in spreads)


def test_random_weights_equal_transformers_own_rules() -> None:
    """T5 scales every kind of matrix differently; the spread must be what its own initialisation gives."""
    from transformers import T5EncoderModel

    config = CONFIGS["t5"]()
    config.d_model, config.d_ff = 128, 256
    ours, theirs = random_backbone(config, 0), T5EncoderModel(config)
    for (name, x), parameter in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        y = parameter.detach()
        if x.numel() > 5000:
            assert float(x.std()) == pytest.approx(float(y.std()), rel=0.06), name
        elif x.dim() == 1:
            assert torch.equal(x, y), name


def test_shape_by_name_needs_no_file() -> None:
    backbone = load_backbone("minilm-l6", random_init_seed=0)
    model = AdapterClassifier(backbone, n_classes=5)
    assert len(model.shapes) == 12
    assert set(model.shapes.values()) == {(384, 384)}
    assert model.n_params_trainable == 12 * 16 * 768
    assert model.describe()["backbone"] == "minilm-l6"


# Parameters of the published models without their language-model heads and poolers; tied tables count once.
PUBLISHED = {
    "tinyllama": 1_100_048_384 - 32000 * 2048,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "distilbert": 66_362_880,
    "bert-base": 109_482_240 - 768 * 769,
    "minilm-l6": 22_713_216 - 384 * 385,
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_counts_of_known_shapes(name: str) -> None:
    counts = count_parameters(name)
    assert counts["total"] == PUBLISHED[name]
    assert counts["embedding"] + counts["non_embedding"] == counts["total"]


def test_count_of_t5_encoder() -> None:
    """T5-small: table, 6 blocks of 4 d·(heads·64) + 2 d·d_ff + 2 norms, one position table, a last norm."""
    d, inner, d_ff = 512, 512, 2048
    expected = 32128 * d + 6 * (4 * d * inner + 2 * d * d_ff + 2 * d) + 32 * 8 + d
    assert count_parameters("t5-small")["total"] == expected


def test_every_shape_s_family_has_defaults() -> None:
    assert {shape.model_type for shape in SHAPES.values()} <= set(ARCHITECTURES)


def test_missing_model_gives_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for load in (load_backbone, load_encoder, count_parameters):
        with pytest.raises(InputError, match="HF_HUB_OFFLINE is set") as caught:
            load("no-such-owner/no-such-model")
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match="the folder must hold"):
            load(tmp_path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    weights = saved("bert", tmp_path) / "model.safetensors"
    tensors = load_file(weights)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lack 1 tensors .* 'encoder\.layer\.1\.output\.dense\.weight'"):
        load_backbone(tmp_path)


def test_torn_weights_are_named(tmp_path: Path) -> None:
    weights = saved("bert", tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CorruptFile, match="not a whole safetensors file"):
        load_backbone(tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = saved("bert", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load_backbone(folder)


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError):
        load_backbone(tmp_path)
    assert not marker.exists()


def test_bad_options(tmp_path: Path) -> None:
    folder = saved("bert", tmp_path)
    with pytest.raises(InputError, match="'float32', 'bfloat16'"):
        load_backbone(folder, dtype="int4")
    with pytest.raises(InputError, match="needs real weights"):
        load_backbone(folder, load_in_8bit=True, random_init_seed=0)
    with pytest.raises(InputError, match="attn_implementation"):
        load_backbone(folder, attn_implementation="fast")


def test_eight_bit_names_the_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingDependency, match=r"metascale\[quant\]"):
        load_backbone(saved("bert", tmp_path), load_in_8bit=True)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_eight_bit_backbone_adapts(tmp_path: Path) -> None:
    backbone = load_backbone(saved("bert", tmp_path), load_in_8bit=True, dtype="float16", attn_implementation="eager")
    model = AdapterClassifier(backbone, n_classes=3, rank=2)
    batch = text_batch(2, 6, 0)
    params = trees.require_grad(model.begin(trees.stack_tasks(model.init(0), 2), batch))
    grads = torch.autograd.grad(model.losses(params, batch).sum(), list(params.values()))
    assert all(bool(torch.isfinite(grad).all()) for grad in grads)
    with pytest.raises(InputError, match="8-bit"):
        model.require_second_order()


def test_unknown_architecture_asks_for_targets() -> None:
    from transformers import OPTConfig

    config = OPTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16, vocab_size=99, word_embed_proj_dim=16
    )
    backbone = random_backbone(config, 0)
    with pytest.raises(InputError, match="no default pooling for the architecture 'opt'"):
        AdapterClassifier(backbone, n_classes=3)
    model = AdapterClassifier(backbone, n_classes=3, targets=("q_proj",), pooling="last")
    assert model.features(trees.stack_tasks(model.init(0), 1), text_batch(1, 3, 0)).shape == (1, 3, 16)


def tokenizer_folder(folder: Path, special: dict[str, str]) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(["[UNK]", "[END]", "[PAD]", "a", "b", "c"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("special", "pad_id"),
    [
        ({"unk_token": "[UNK]", "eos_token": "[END]", "pad_token": "[PAD]"}, 2),
        ({"unk_token": "[UNK]", "eos_token": "[END]"}, 1),
        ({"unk_token": "[UNK]"}, 0),
    ],
)
def test_encoder(special: dict[str, str], pad_id: int, tmp_path: Path) -> None:
    encoder = load_encoder(tokenizer_folder(tmp_path, special), max_length=3)
    assert encoder.pad_id == pad_id
    assert encoder(["a b c a", "zebra", ""]) == [[3, 4, 5], [0], [pad_id]]
    assert encoder([]) == []


def test_encoder_needs_room(tmp_path: Path) -> None:
    folder = tokenizer_folder(tmp_path, {"unk_token": "[UNK]"})
    with pytest.raises(InputError, match="max_length must be more than"):
        load_encoder(folder, max_length=0)


def test_known_shape_s_config() -> None:
    config = load_config("tinyllama")
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("llama", 22, 2048)
