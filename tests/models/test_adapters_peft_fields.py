"""Every field of peft's LoraConfig: adapters made with it compute as in `peft`, or are refused by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import (
    ArrowConfig,
    BdLoraConfig,
    CordaConfig,
    EvaConfig,
    KasaConfig,
    LoraGAConfig,
    MontecloraConfig,
    VeloraConfig,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaModel

from metascale.core.errors import CorruptFile, InputError
from metascale.core.trees import stack_tasks
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import LearnedHead
from metascale.models.text.hf import random_backbone
from metascale.models.text.lora import Active, AdapterCall, adapters_of
from metascale.models.text.peft_format import load_peft, save_peft
from tests.models.tiny_backbones import CONFIGS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

IDS = torch.arange(3, 12)[None]
TARGETS = ("q_proj", "v_proj")
COMPUTED: dict[str, list[Any]] = {
    "task_type": ["FEATURE_EXTRACTION"],
    "peft_type": ["LORA"],
    "auto_mapping": [{"base_model_class": "LlamaModel"}],
    "peft_version": ["0.13.0"],
    "base_model_name_or_path": ["somewhere/else"],
    "revision": ["main"],
    "inference_mode": [True, False],
    "r": [2],
    "lora_alpha": [3],
    "target_modules": [["q_proj", "v_proj"], r".*\.(q|v)_proj"],
    "exclude_modules": [["layers.0.mlp.up_proj"]],
    "layers_to_transform": [[0, 1]],
    "layers_pattern": ["layers"],
    "lora_dropout": [0.3],
    "fan_in_fan_out": [True, False],
    "init_lora_weights": [True, False, "gaussian", "eva", "orthogonal", "mica", "pissa", "olora"],
    "eva_config": [EvaConfig()],
    "corda_config": [CordaConfig()],
    "lora_ga_config": [LoraGAConfig()],
    "loftq_config": [{"loftq_bits": 4, "loftq_iter": 1}],
    "megatron_core": ["another.core"],
    "qalora_group_size": [8],
    "runtime_config": [{"ephemeral_gpu_offload": True}],
}
"""Values that must give peft's own outputs."""
REFUSED: dict[str, list[Any]] = {
    "bias": ["all", "lora_only"],
    "use_rslora": [True],
    "modules_to_save": [["norm"]],
    "rank_pattern": [{"q_proj": 2}],
    "alpha_pattern": [{"q_proj": 2}],
    "init_lora_weights": ["pissa_niter_4", "loftq", "corda", "lora_ga", "to come"],
    "trainable_token_indices": [[1, 2]],
    "use_dora": [True],
    "velora_config": [VeloraConfig()],
    "alora_invocation_tokens": [[5]],
    "monteclora_config": [MontecloraConfig()],
    "layer_replication": [[[0, 2], [0, 2]]],
    "lora_bias": [True],
    "target_parameters": [["layers.0.self_attn.o_proj.weight"]],
    "use_bdlora": [BdLoraConfig()],
    "arrow_config": [ArrowConfig()],
    "kasa_config": [KasaConfig()],
    "ensure_weight_tying": [True],
    "use_qalora": [True],
    "megatron_config": [{"tensor_model_parallel_size": 1}],
    "peft_type": ["IA3"],
}
"""Values that must be refused by the field's name."""


def base(family: str = "llama") -> nn.Module:
    return random_backbone(CONFIGS[family](), 0, attn_implementation="eager")


def written(folder: Path, family: str = "llama", **fields: Any) -> None:
    """Adapters of peft's making, moved away from their start."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": list(TARGETS), **fields})
    theirs = get_peft_model(base(family), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    theirs.save_pretrained(str(folder))


def edited(folder: Path, **fields: Any) -> None:
    """Plain adapters whose configuration says something else."""
    written(folder)
    path = folder / "adapter_config.json"
    values = {k: dataclasses.asdict(v) if dataclasses.is_dataclass(v) else v for k, v in fields.items()}
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}, default=str))


def of_peft(folder: Path, family: str = "llama") -> torch.Tensor:
    with torch.no_grad():
        return PeftModel.from_pretrained(base(family), str(folder)).eval()(input_ids=IDS).last_hidden_state


def ours(folder: Path, family: str = "llama", **fields: Any) -> torch.Tensor:
    fields = {"n_classes": 2, "rank": 4, "alpha": 6.0, "targets": TARGETS, **fields}
    model = AdapterClassifier(base(family), **fields)  # type: ignore[arg-type]
    params = load_peft(folder, model)
    assert params.keys() == model.init(0).keys()
    call = AdapterCall(adapters_of(stack_tasks(params, 1), model.shapes), model.scale, 1)
    with torch.no_grad(), Active(call):
        hidden: torch.Tensor = model.backbone(input_ids=IDS).last_hidden_state
    return hidden


def test_the_tables_hold_every_field_that_the_installed_peft_has() -> None:
    assert {field.name for field in dataclasses.fields(LoraConfig)} == COMPUTED.keys() | REFUSED.keys()


@pytest.mark.parametrize(("field", "value"), [(k, v) for k, values in COMPUTED.items() for v in values])
def test_what_is_accepted_computes_the_same_as_peft(field: str, value: Any, tmp_path: Path) -> None:
    changed: dict[str, Any] = {}
    if field == "r":
        changed = {"rank": value}
    elif field == "lora_alpha":
        changed = {"alpha": float(value)}
    elif value in ("pissa", "olora"):
        changed = {"rank": 8, "alpha": 12.0}
    if field in ("auto_mapping", "peft_version", "peft_type", "runtime_config", "base_model_name_or_path"):
        edited(tmp_path, **{field: value})
    elif field in ("layers_pattern", "layers_to_transform"):
        written(tmp_path, **{"layers_pattern": "layers", "layers_to_transform": [0, 1], field: value})
    else:
        written(tmp_path, **{field: value})
    torch.testing.assert_close(ours(tmp_path, **changed), of_peft(tmp_path), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("field", "value"), [(k, v) for k, values in REFUSED.items() for v in values])
def test_what_is_not_computed_is_refused_by_name(field: str, value: Any, tmp_path: Path) -> None:
    edited(tmp_path, **{field: value})
    match = "of type IA3" if field == "peft_type" else f"have {field}="
    with pytest.raises(InputError, match=match):
        ours(tmp_path)


def test_a_field_to_come_is_taken_when_it_is_off_and_refused_otherwise(tmp_path: Path) -> None:
    edited(tmp_path, use_tomorrow=False, tomorrow_config=None)
    torch.testing.assert_close(ours(tmp_path), of_peft(tmp_path), rtol=1e-5, atol=1e-5)
    edited(tmp_path, use_tomorrow=True)
    with pytest.raises(InputError, match="use_tomorrow=True, which is a field that this version does not know"):
        ours(tmp_path)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_transposed_layers_start_from_their_base_too(init: str, tmp_path: Path) -> None:
    """GPT-2's layers hold [d_in, d_out]; peft decomposes for OLoRA what is stored, which fits square layers alone."""
    targets = ("attn.c_proj",) if init == "olora" else ("attn.c_proj", "mlp.c_fc")
    written(tmp_path, "gpt2", target_modules=list(targets), init_lora_weights=init, fan_in_fan_out=True)
    found = ours(tmp_path, "gpt2", targets=targets, rank=8, alpha=12.0)
    torch.testing.assert_close(found, of_peft(tmp_path, "gpt2"), rtol=1e-5, atol=1e-5)


def test_adapters_that_start_from_the_base_need_twice_the_rank_and_its_exact_weights(tmp_path: Path) -> None:
    written(tmp_path, init_lora_weights="pissa")
    with pytest.raises(InputError, match="rank 8 and alpha 12 as init_lora_weights='pissa' needs twice"):
        ours(tmp_path)
    half = random_backbone(CONFIGS["llama"](), 0, dtype="bfloat16", attn_implementation="eager")
    with pytest.raises(InputError, match=r"needs the base's weights in float32 or float64, not bfloat16"):
        load_peft(tmp_path, AdapterClassifier(half, n_classes=2, rank=8, alpha=12.0, targets=TARGETS))


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.document = base(), base()
        self.config = self.query.config


def test_adapters_of_two_towers_are_refused(tmp_path: Path) -> None:
    config = LoraConfig(r=4, lora_alpha=6, target_modules=list(TARGETS), init_lora_weights=False)
    get_peft_model(Towers(), config).save_pretrained(str(tmp_path))
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == 16
    with pytest.raises(InputError, match=r"for 2 models in one, 'document\.' and 'query\.'"):
        ours(tmp_path)


def test_one_layer_of_each_tower_is_no_model(tmp_path: Path) -> None:
    """Stripped of their prefixes the names would be exactly the model's."""
    config = LoraConfig(r=4, lora_alpha=6, target_modules=r"(query\.layers\.0|document\.layers\.1)\..*\.(q|v)_proj")
    get_peft_model(Towers(), config).save_pretrained(str(tmp_path))
    with pytest.raises(InputError, match="are for other layers than the model's"):
        ours(tmp_path)


def test_adapters_of_another_hidden_size_are_refused(tmp_path: Path) -> None:
    wide = LlamaModel(
        LlamaConfig(
            hidden_size=64,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=99,
        )
    )
    get_peft_model(wide, LoraConfig(r=4, lora_alpha=6, target_modules=list(TARGETS))).save_pretrained(str(tmp_path))
    with pytest.raises(InputError, match=r"q_proj\.lora_A' is \[4, 64\], and this model needs \[4, 32\]"):
        ours(tmp_path)


def test_a_head_of_another_model_is_refused(tmp_path: Path) -> None:
    model = AdapterClassifier(base(), n_classes=3, rank=4, alpha=6.0, targets=TARGETS, head=LearnedHead())
    save_peft(tmp_path, model.init(0), model)
    with pytest.raises(InputError, match=r"'head\.weight' is \[3, 32\], and this model needs \[2, 32\]"):
        ours(tmp_path)
    save_file({"head.scale": torch.ones(1)}, tmp_path / "head.safetensors")
    with pytest.raises(InputError, match=r"must hold head\.weight and head\.bias, not head\.scale"):
        ours(tmp_path)


def test_a_configuration_that_is_no_object_is_said_to_be_damaged(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(CorruptFile, match="must hold a JSON object, not a list"):
        ours(tmp_path)
