"""Adapters of one task to and from the PEFT file format: ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import read_json, write_atomic
from metascale.core.types import Params
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.hf import matches_target
from metascale.models.text.lora import SUFFIX_A, SUFFIX_B, linear_shapes

CONFIG = "adapter_config.json"
ADAPTERS = "adapter_model.safetensors"
HEAD = "head.safetensors"
_ROOT = "base_model.model."
_PLAIN: dict[str, Any] = {
    "use_dora": False,
    "use_rslora": False,
    "lora_bias": False,
    "bias": "none",
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layer_replication": None,
}


def save_peft(folder: Path, params: Params, model: AdapterClassifier, prefix: str = "") -> None:
    """Write one task's adapters (no task axis) so that ``PeftModel.from_pretrained`` reads them.

    The head, which the format has no place for, goes to ``head.safetensors`` beside it.

    Args:
        folder: made if it is not there; files of the same names are replaced, each atomically.
        params, model, prefix: as `peft_files`.
    """
    files = peft_files(params, model, prefix)
    if HEAD not in files:
        (folder / HEAD).unlink(missing_ok=True)
    for name, data in files.items():
        write_atomic(folder / name, data)


def peft_files(params: Params, model: AdapterClassifier, prefix: str = "") -> dict[str, bytes]:
    """The files of one task's adapters in the PEFT format, by name.

    Args:
        params: from `AdapterClassifier.init`, or one task of adapted parameters.
        model: whose parameters these are.
        prefix: where the backbone sits in the model that will load the adapters: empty for the bare backbone,
            ``"model."`` for ``LlamaForCausalLM``, ``"transformer."`` for ``GPT2LMHeadModel``, ``"bert."`` and so on.
    """
    tensors = {}
    for name, (d_in, d_out) in model.shapes.items():
        for suffix, shape in ((SUFFIX_A, (model.rank, d_in)), (SUFFIX_B, (d_out, model.rank))):
            value = params.get(name + suffix)
            if value is None or value.shape != shape:
                found = "nothing" if value is None else list(value.shape)
                raise InputError(
                    f"save_peft needs '{name}{suffix}' of one task, with shape {list(shape)}, but found {found}"
                )
            tensors[f"{_ROOT}{prefix}{name}{suffix}.weight"] = _plain_tensor(value)
    files = {ADAPTERS: save_tensors(tensors, metadata={"format": "pt"})}
    head = {name: _plain_tensor(value) for name, value in params.items() if name.startswith("head.")}
    if head:
        files[HEAD] = save_tensors(head, metadata={"format": "pt"})
    files[CONFIG] = (json.dumps(_config(model, prefix), indent=2, sort_keys=True) + "\n").encode()
    return files


def _plain_tensor(value: torch.Tensor) -> torch.Tensor:
    return value.detach().cpu().contiguous()


def _config(model: AdapterClassifier, prefix: str) -> dict[str, Any]:
    """Short target names where they select exactly the adapted layers; whole names otherwise."""
    targets = model.target_names
    selected = [name for name in linear_shapes(model.backbone) if any(matches_target(name, short) for short in targets)]
    whole = [prefix + name for name in model.shapes]
    return {
        **_PLAIN,
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION" if not prefix else None,
        "base_model_name_or_path": str(model.backbone.config._name_or_path),
        "r": model.rank,
        "lora_alpha": int(model.alpha) if float(model.alpha).is_integer() else model.alpha,
        "lora_dropout": model.dropout,
        "target_modules": list(targets) if len(selected) == len(whole) else whole,
        "fan_in_fan_out": model.backbone.config.model_type == "gpt2",
        "init_lora_weights": True,
        "inference_mode": True,
    }


def load_peft(folder: Path, model: AdapterClassifier) -> Params:
    """One task's parameters, as `AdapterClassifier.init` names them, from a folder in the PEFT format.

    Adapters of a larger model (``LlamaForCausalLM`` and the like) are found by the end of their names.

    Raises:
        InputError: the folder holds no adapters, or others than the model's: another rank, scale, or other layers, or a
            variant of LoRA that this model does not compute.
        CorruptFile: a file is not whole.
    """
    if not (folder / CONFIG).is_file() or not (folder / ADAPTERS).is_file():
        raise InputError(f"'{folder}' holds no adapters: it must hold {CONFIG} and {ADAPTERS}")
    config = read_json(folder / CONFIG)
    _check_config(config, model, folder)
    found = {_own_name(key, model): value for key, value in _read(folder / ADAPTERS).items()}
    expected = {name + suffix for name in model.shapes for suffix in (SUFFIX_A, SUFFIX_B)}
    if found.keys() != expected:
        name = sorted(found.keys() ^ expected)[0]
        where = "is not among the model's" if name in found else "is missing"
        raise InputError(f"the adapters in '{folder}' are for other layers than the model's: '{name}' {where}")
    if (folder / HEAD).is_file():
        found.update(_read(folder / HEAD))
    ordered = sorted(found, key=list(model.init(0)).index) if found.keys() == model.init(0).keys() else list(found)
    return {name: found[name].to(device=model.backbone.device, dtype=model.dtype) for name in ordered}


def _check_config(config: Mapping[str, Any], model: AdapterClassifier, folder: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise InputError(f"the adapters in '{folder}' are of type {config.get('peft_type')}; only LORA is supported")
    for key, allowed in _PLAIN.items():
        value = config.get(key, allowed)
        if value != allowed and (value or allowed):
            raise InputError(f"the adapters in '{folder}' have {key}={value!r}, which is not supported")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if rank != model.rank or alpha != model.alpha:
        raise InputError(
            f"the adapters in '{folder}' have rank {rank} and alpha {alpha}, "
            f"the model rank {model.rank} and alpha {model.alpha:g}; make the model with the former"
        )


def _own_name(key: str, model: AdapterClassifier) -> str:
    """The name of a stored tensor in this model: without PEFT's wrapping and a surrounding model's prefix."""
    name = key.removeprefix(_ROOT).removesuffix(".weight")
    module, _, kind = name.rpartition(".")
    while module not in model.shapes and "." in module:
        module = module.partition(".")[2]
    return f"{module}.{kind}" if module in model.shapes else name


def _read(path: Path) -> Params:
    try:
        return dict(load_tensors(path.read_bytes()))
    except SafetensorError as error:
        raise CorruptFile(f"{path} is not a whole safetensors file: {error}") from error
