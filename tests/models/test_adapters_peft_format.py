"""Adapters in the PEFT format, with `peft` itself as the judge."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import AutoModelForCausalLM

import metascale as ms
from metascale.core import trees
from metascale.core.errors import CorruptFile, InputError
from metascale.core.types import Batch, Params
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import LearnedHead, ScoreHead
from metascale.models.text.hf import random_backbone
from metascale.models.text.peft_format import load_peft, save_peft
from tests.models.tiny_backbones import CONFIGS, text_batch, tiny

# peft 0.21 asks transformers 5.23 for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

FAMILIES = sorted(CONFIGS)
TARGETS = {"bert": ("query", "value", "output.dense")}


def classifier(family: str, **fields: object) -> AdapterClassifier:
    fields = {"n_classes": 3, "rank": 4, "alpha": 6.0, "targets": TARGETS.get(family), **fields}
    return AdapterClassifier(tiny(family), **fields)  # type: ignore[arg-type]


def trained(model: AdapterClassifier) -> Params:
    """Adapters away from their start, so that B matters."""
    generator = torch.Generator().manual_seed(0)
    return {n: v + 0.1 * torch.randn(v.shape, generator=generator) for n, v in model.init(0).items()}


def fresh_backbone(family: str) -> torch.nn.Module:
    """The same weights as ``tiny(family)``, with nothing attached."""
    return random_backbone(CONFIGS[family](), 0, attn_implementation="eager")


def short_batch() -> Batch:
    """A batch whose longest text fills its row, so that no column is cut off."""
    batch = text_batch(1, 3, 0)
    longest = int(batch.inputs["attention_mask"].sum(-1).max())
    return Batch({name: value[..., :longest] for name, value in batch.inputs.items()}, batch.targets)


def hidden_states(module: torch.nn.Module) -> torch.Tensor:
    batch = short_batch()
    ids, mask = (batch.inputs[key][0] for key in ("input_ids", "attention_mask"))
    with torch.no_grad():
        return module(input_ids=ids, attention_mask=mask).last_hidden_state * mask.unsqueeze(-1)


def our_hidden_states(model: AdapterClassifier, params: Params) -> torch.Tensor:
    """The backbone's output with adapters, taken as it leaves the backbone."""
    taken = []
    handle = model.backbone.register_forward_hook(lambda module, args, output: taken.append(output.last_hidden_state))
    batch = short_batch()
    with torch.no_grad():
        model.features(trees.stack_tasks(params, 1), batch)
    handle.remove()
    return taken[0] * batch.inputs["attention_mask"][0].unsqueeze(-1)


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_reads_our_file(family: str, tmp_path: Path) -> None:
    model = classifier(family)
    params = trained(model)
    save_peft(tmp_path, params, model)
    theirs = PeftModel.from_pretrained(fresh_backbone(family), str(tmp_path)).eval()
    found = hidden_states(theirs)
    torch.testing.assert_close(found, our_hidden_states(model, params), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, hidden_states(fresh_backbone(family)), atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_we_read_peft_s_file(family: str, tmp_path: Path) -> None:
    model = classifier(family)
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=list(model.target_names), fan_in_fan_out=family == "gpt2", lora_dropout=0.0
    )
    theirs = get_peft_model(fresh_backbone(family), config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    theirs.save_pretrained(str(tmp_path))
    params = load_peft(tmp_path, model)
    assert list(params) == list(model.init(0))
    torch.testing.assert_close(our_hidden_states(model, params), hidden_states(theirs), rtol=1e-5, atol=1e-5)


def test_round_trip_keeps_bits_and_head(tmp_path: Path) -> None:
    model = classifier("llama", head=LearnedHead())
    params = trained(model)
    save_peft(tmp_path, params, model)
    again = load_peft(tmp_path, model)
    assert list(again) == list(params)
    assert all(torch.equal(again[name], value) for name, value in params.items())


def test_adapted_head_is_kept_for_a_head_made_afresh(tmp_path: Path) -> None:
    model = classifier("bert")
    begun = model.begin(trees.stack_tasks(trained(model), 1), text_batch(1, 3, 0))
    one_task = {name: value[0] for name, value in begun.items()}
    save_peft(tmp_path, one_task, model)
    assert torch.equal(load_peft(tmp_path, model)["head.weight"], one_task["head.weight"])
    save_peft(tmp_path, trained(model), model)
    assert "head.weight" not in load_peft(tmp_path, model)


@pytest.mark.parametrize(("family", "prefix", "wrapper"), [("llama", "model.", "LlamaForCausalLM")])
def test_prefix_for_a_language_model(family: str, prefix: str, wrapper: str, tmp_path: Path) -> None:
    import transformers

    model = classifier(family)
    params = trained(model)
    save_peft(tmp_path, params, model, prefix=prefix)
    whole = getattr(transformers, wrapper)(CONFIGS[family]()).eval()
    whole.model.load_state_dict(fresh_backbone(family).state_dict())
    theirs = PeftModel.from_pretrained(whole, str(tmp_path)).eval()
    backbone = theirs.get_base_model().model
    torch.testing.assert_close(hidden_states(backbone), our_hidden_states(model, params), rtol=1e-5, atol=1e-5)
    again = load_peft(tmp_path, model)
    assert all(torch.equal(again[name], value) for name, value in params.items())


def test_targets_that_also_match_a_pooler_are_written_whole(tmp_path: Path) -> None:
    from transformers import BertModel

    backbone = BertModel(CONFIGS["bert"]()).eval()
    model = AdapterClassifier(copy.deepcopy(backbone), n_classes=3, rank=2, targets=("dense",))
    save_peft(tmp_path, trained(model), model)
    names = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert names == list(model.shapes)
    theirs = PeftModel.from_pretrained(backbone, str(tmp_path)).eval()
    expected = our_hidden_states(model, trained(model))
    torch.testing.assert_close(hidden_states(theirs), expected, rtol=1e-5, atol=1e-5)


def test_parameters_with_a_task_axis_are_refused(tmp_path: Path) -> None:
    model = classifier("bert")
    with pytest.raises(InputError, match=r"shape \[4, 32\], but found \[1, 4, 32\]"):
        save_peft(tmp_path, trees.stack_tasks(model.init(0), 1), model)
    with pytest.raises(InputError, match="found nothing"):
        save_peft(tmp_path, {}, model)


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = classifier("bert")
    save_peft(tmp_path, model.init(0), model)
    with pytest.raises(InputError, match="rank 4 and alpha 6"):
        load_peft(tmp_path, classifier("bert", rank=2))
    with pytest.raises(InputError, match="is not among the model's"):
        load_peft(tmp_path, classifier("bert", targets=("query",)))
    with pytest.raises(InputError, match="is missing"):
        load_peft(tmp_path, classifier("bert", targets=("query", "value", "output.dense", "key")))
    with pytest.raises(InputError, match="holds no adapters"):
        load_peft(tmp_path / "absent", model)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_dora", True),
        ("use_rslora", True),
        ("bias", "all"),
        ("rank_pattern", {"query": 8}),
        # The first match counts and peft 0.21.2 sorts on saving: findings/peft_alpha_pattern_order.sh
        ("alpha_pattern", {".*": 8, "query": 64}),
    ],
)
def test_other_kinds_of_lora_are_refused(key: str, value: object, tmp_path: Path) -> None:
    model = classifier("bert")
    save_peft(tmp_path, model.init(0), model)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(InputError, match=key):
        load_peft(tmp_path, model)


def test_a_torn_file_is_named(tmp_path: Path) -> None:
    model = classifier("bert")
    save_peft(tmp_path, model.init(0), model)
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CorruptFile, match=r"adapter_model\.safetensors"):
        load_peft(tmp_path, model)


def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    model = classifier("bert")
    save_peft(tmp_path, model.init(0), model)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(InputError, match="holds no adapters"):
        load_peft(tmp_path, model)


def what_a_server_asks(folder: Path) -> tuple[dict[str, object], dict[str, torch.Size]]:
    """Config and tensors by module, as far as vLLM reads them; it takes no other.

    Source: vllm/lora/peft_helper.py (r, lora_alpha and target_modules are required; modules_to_save and DoRA are
    refused; the scale is lora_alpha / r) and vllm/lora/utils.py and lora_model.py (names end in lora_A.weight and
    lora_B.weight after base_model.model.MODULE, one of the causal model's linear layers), at commits 0214369, 0306474.
    """
    config = json.loads((folder / "adapter_config.json").read_text())
    assert {"r", "lora_alpha", "target_modules"} <= config.keys()
    assert [config[key] for key in ("modules_to_save", "use_dora", "use_rslora")] == [None, False, False]
    assert (config["bias"], config["peft_type"]) == ("none", "LORA")
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        shapes = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert all(re.fullmatch(r"base_model\.model\..+\.lora_[AB]\.weight", name) for name in shapes)
    return config, shapes


@pytest.mark.parametrize("family", ["llama", "gemma", "gpt2"])
def test_a_server_of_adapters_finds_every_name_of_a_causal_model(family: str, tmp_path: Path) -> None:
    theirs = AutoModelForCausalLM.from_config(CONFIGS[family]())
    theirs.save_pretrained(tmp_path / "base")
    model = ms.LoRA(str(tmp_path / "base"), task="causal_lm", rank=4, alpha=6.0)
    save_peft(tmp_path / "adapters", model.init(0), model)
    config, shapes = what_a_server_asks(tmp_path / "adapters")
    assert (config["task_type"], config["r"], config["lora_alpha"]) == ("CAUSAL_LM", 4, 6)
    assert sorted(path.name for path in (tmp_path / "adapters").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    layers = dict(theirs.named_modules())
    named = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in shapes}
    assert named
    for name in named:
        weight = layers[name].weight
        d_out, d_in = weight.shape if isinstance(layers[name], torch.nn.Linear) else weight.shape[::-1]
        assert shapes[f"base_model.model.{name}.lora_A.weight"] == (4, d_in)
        assert shapes[f"base_model.model.{name}.lora_B.weight"] == (d_out, 4)


def test_a_classifier_s_head_keeps_it_from_a_server_of_adapters(tmp_path: Path) -> None:
    """vLLM refuses modules_to_save, which SEQ_CLS needs: such a model is served merged (docs/export.md)."""
    model = AdapterClassifier(tiny("llama"), n_classes=3, rank=4, head=ScoreHead())
    save_peft(tmp_path, model.init(0), model, task_type="SEQ_CLS")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["modules_to_save"] == ["score"]
