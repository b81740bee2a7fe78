"""Adapters of one task to and from the PEFT file format: ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import read_json, write_atomic
from metascale.core.types import Params
from metascale.models.text.architectures import matches_target
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import BIAS, WEIGHT, ScoreHead
from metascale.models.text.hf import precision_of
from metascale.models.text.language_model import AdapterLanguageModel
from metascale.models.text.lora import SUFFIX_A, SUFFIX_B, is_transposed, linear_shapes
from metascale.models.text.seq_cls import StockHead, head_tensors, own_head

CONFIG = "adapter_config.json"
ADAPTERS = "adapter_model.safetensors"
HEAD = "head.safetensors"
_ROOT = "base_model.model."
Adapted: TypeAlias = AdapterClassifier | AdapterLanguageModel
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
"""What is written, and the only value at which each is read."""
_DEFAULTS: dict[str, Any] = {
    **_PLAIN,
    "peft_type": "LORA",
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "ensure_weight_tying": False,
    "kasa_config": None,
    "megatron_config": None,
    "monteclora_config": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_qalora": False,
    "velora_config": None,
}
"""Fields of peft 0.21's LoraConfig that change what an adapter computes, or what its file holds, unless at these."""
_ELSEWHERE = frozenset(
    {
        *("r", "lora_alpha", "init_lora_weights"),  # compared, or converted
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),  # the tensors' names say which
        *("lora_dropout", "inference_mode", "runtime_config"),  # training and memory
        *(
            "eva_config",
            "corda_config",
            "loftq_config",
            "lora_ga_config",
        ),  # read with an init_lora_weights of that name
        *("qalora_group_size", "megatron_core"),  # read with use_qalora and megatron_config
        *("fan_in_fan_out", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    }
)
"""Fields whose value is accounted for in another way, or changes no output."""
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Values of init_lora_weights that leave the base's weights alone."""
_CHANGED_BASE = ("pissa", "olora")
"""Values at which peft changes the base's weights as it loads, in a way that they determine."""


def save_peft(
    folder: Path | str,
    params: Params,
    model: Adapted,
    prefix: str = "",
    task_type: Literal["SEQ_CLS"] | None = None,
) -> None:
    """Write one task's adapters (no task axis) so that ``PeftModel.from_pretrained`` reads them.

    The head goes to ``head.safetensors`` beside it, or with ``task_type="SEQ_CLS"`` into the adapters' file.

    Args:
        folder: made if it is not there; files of the same names are replaced, each atomically.
        params, model, prefix, task_type: as `peft_files`.
    """
    folder, files = Path(folder), peft_files(params, model, prefix, task_type)
    if HEAD not in files:
        (folder / HEAD).unlink(missing_ok=True)
    for name, data in files.items():
        write_atomic(folder / name, data)


def peft_files(
    params: Params, model: Adapted, prefix: str = "", task_type: Literal["SEQ_CLS"] | None = None
) -> dict[str, bytes]:
    """The files of one task's adapters in the PEFT format, by name.

    Args:
        params: from `AdapterClassifier.init`, or one task of adapted parameters.
        model: whose parameters these are.
        prefix: where the backbone sits in the model that will load the adapters: empty for the bare backbone,
            ``"model."`` for ``LlamaForCausalLM``, ``"transformer."`` for ``GPT2LMHeadModel``, ``"bert."`` and so on.
            A language model knows its own, and so does SEQ_CLS.
        task_type: ``"SEQ_CLS"`` writes adapters and head for transformers' ``AutoModelForSequenceClassification``, the
            head in ``modules_to_save``: `peft` then computes the same logits. ``None``: the adapters for the backbone.

    Raises:
        InputError: ``params`` are not those of one task of ``model``, or SEQ_CLS cannot hold the model
            (`metascale.models.text.seq_cls.head_tensors`).
    """
    stock, head = _stock(params, model, prefix, task_type)
    tensors = {f"{_ROOT}{name}": _plain_tensor(value) for name, value in head.items()}
    if stock is not None:
        prefix = stock.prefix
    elif isinstance(model, AdapterLanguageModel):
        prefix = prefix or model.peft_prefix
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
    own = {name: _plain_tensor(value) for name, value in params.items() if name.startswith("head.")}
    if own and stock is None:
        files[HEAD] = save_tensors(own, metadata={"format": "pt"})
    files[CONFIG] = (json.dumps(_config(model, prefix, stock), indent=2, sort_keys=True) + "\n").encode()
    return files


def _stock(params: Params, model: Adapted, prefix: str, task_type: str | None) -> tuple[StockHead | None, Params]:
    """transformers' head to write and its tensors; none unless SEQ_CLS is asked for."""
    if task_type is None:
        return None, {}
    if task_type != "SEQ_CLS":
        raise InputError(
            f"task_type must be 'SEQ_CLS' or None, not {task_type!r}; a language model's is its own",
            field="task_type",
            value=task_type,
            allowed="'SEQ_CLS', None",
        )
    if not isinstance(model, AdapterClassifier):
        raise InputError(
            f"task_type='SEQ_CLS' is for a classifier of texts, not for {type(model).__name__}", field="task_type"
        )
    if prefix:
        raise InputError("task_type='SEQ_CLS' goes without prefix: it knows where the backbone sits", field="prefix")
    return head_tensors(params, model)


def _task_type(model: Adapted, prefix: str) -> str | None:
    if isinstance(model, AdapterLanguageModel):
        return "SEQ_2_SEQ_LM" if model.seq2seq else "CAUSAL_LM"
    return None if prefix else "FEATURE_EXTRACTION"


def _plain_tensor(value: torch.Tensor) -> torch.Tensor:
    return value.detach().cpu().contiguous()


def _config(model: Adapted, prefix: str, stock: StockHead | None) -> dict[str, Any]:
    """Short target names where they select exactly the adapted layers; whole names otherwise."""
    targets = model.target_names
    there = linear_shapes(model.backbone if stock is None else stock.model)
    selected = [name for name in there if any(matches_target(name, short) for short in targets)]
    whole = [prefix + name for name in model.shapes]
    return {
        **_PLAIN,
        "peft_type": "LORA",
        "task_type": _task_type(model, prefix) if stock is None else "SEQ_CLS",
        "modules_to_save": None if stock is None else list(stock.modules),
        "base_model_name_or_path": str(model.backbone.config._name_or_path),
        "r": model.rank,
        "lora_alpha": int(model.alpha) if float(model.alpha).is_integer() else model.alpha,
        "lora_dropout": model.dropout,
        "target_modules": list(targets) if len(selected) == len(whole) else whole,
        "fan_in_fan_out": any(is_transposed(model.backbone.get_submodule(name)) for name in model.shapes),
        "init_lora_weights": True,
        "inference_mode": True,
    }


def load_peft(folder: Path | str, model: Adapted) -> Params:
    """One task's parameters, as `AdapterClassifier.init` names them, from a folder in the PEFT format.

    Adapters of a larger model (``LlamaForCausalLM`` and the like) are found by the end of their names; the head of a
    SEQ_CLS file is read where the model's head computes the same. A field of
    peft's LoraConfig is taken at its default, or where what it asks for is computed here; any other is refused by name.

    PiSSA (Meng et al. 2024, arXiv 2404.02948) and OLoRA (Büyükakyüz 2024, arXiv 2406.01775) start from a part of the
    base's weights, s·B₀A₀, which peft subtracts from them whenever it loads such adapters. Here the base stays as it is
    and the difference s·(BA − B₀A₀) becomes an adapter of twice the rank: ``model`` must have twice the file's rank
    and alpha, and a backbone in float32 or float64.

    Raises:
        InputError: the folder holds no adapters, or others than the model's: another rank, scale or size, other layers,
            those of two models, or a variant of LoRA that this model does not compute.
        CorruptFile: a file is not whole.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file() or not (folder / ADAPTERS).is_file():
        raise InputError(f"'{folder}' holds no adapters: it must hold {CONFIG} and {ADAPTERS}")
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise CorruptFile(f"{folder / CONFIG} must hold a JSON object, not a {type(config).__name__}")
    whole = (
        isinstance(model, AdapterClassifier) and config.get("task_type") == "SEQ_CLS" and config.get("modules_to_save")
    )
    _check_fields({**config, "modules_to_save": None} if whole else config, folder)
    start = _start(config, folder)
    _check_scale(config, model, folder, doubled=start is not None)
    tensors, head = _read(folder / ADAPTERS), {}
    if isinstance(model, AdapterClassifier) and whole:
        tensors = {name.removeprefix(_ROOT): value for name, value in tensors.items()}
        head = own_head(tensors, model, folder)
    found = _own_names(tensors, model, folder)
    rank = model.rank if start is None else model.rank // 2
    for name, (d_in, d_out) in model.shapes.items():
        _check_shape(found, name + SUFFIX_A, (rank, d_in), folder)
        _check_shape(found, name + SUFFIX_B, (d_out, rank), folder)
    if start is not None:
        found = _without_start(found, model, start, folder)
    if isinstance(model, AdapterClassifier) and not whole and (folder / HEAD).is_file():
        head = _read_head(folder, model)
    found.update(head)
    ordered = sorted(found, key=list(model.init(0)).index) if found.keys() == model.init(0).keys() else list(found)
    return {name: found[name].to(device=model.backbone.device, dtype=model.dtype) for name in ordered}


def _check_fields(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse every field that asks for something else than plain adapters; an unknown one unless it is off."""
    if config.get("peft_type") != "LORA":
        raise InputError(f"the adapters in '{folder}' are of type {config.get('peft_type')}; only LORA is supported")
    for key, value in config.items():
        if key in _ELSEWHERE or value == _DEFAULTS.get(key) or (not value and not _DEFAULTS.get(key)):
            continue
        known = "is not supported" if key in _DEFAULTS else "is a field that this version does not know"
        raise InputError(f"the adapters in '{folder}' have {key}={value!r}, which {known}", field=key, value=value)


def _start(config: Mapping[str, Any], folder: Path) -> str | None:
    """How the adapters began where that changed the base's weights: ``"pissa"`` or ``"olora"``."""
    start = config.get("init_lora_weights", True)
    if start is None or any(start is plain or start == plain for plain in _PLAIN_STARTS):
        return None
    if start in _CHANGED_BASE:
        return str(start)
    why = "it changes the base's weights by what the file does not hold"
    if isinstance(start, str) and start.startswith("pissa_niter_"):
        why = "its decomposition is drawn at random, anew at every load"
    raise InputError(
        f"the adapters in '{folder}' have init_lora_weights={start!r}, which is not supported: {why}; in peft, save "
        "them again with path_initial_model_for_weight_conversion",
        field="init_lora_weights",
        value=start,
    )


def _check_scale(config: Mapping[str, Any], model: Adapted, folder: Path, doubled: bool) -> None:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if isinstance(rank, int) and isinstance(alpha, int | float) and doubled:
        rank, alpha = 2 * rank, 2 * alpha
    if rank != model.rank or alpha != model.alpha:
        why = f" as init_lora_weights={config['init_lora_weights']!r} needs twice that of the file" if doubled else ""
        raise InputError(
            f"the adapters in '{folder}' have rank {rank} and alpha {alpha}{why}, "
            f"the model rank {model.rank} and alpha {model.alpha:g}; make the model with the former",
            field="rank",
            value=model.rank,
            allowed=str(rank),
        )


def _own_names(tensors: Params, model: Adapted, folder: Path) -> Params:
    """The tensors by their names in this model: without PEFT's wrapping and one prefix of a surrounding model.

    Raises:
        InputError: they are for other layers, or for those of more than one model.
    """
    stored = {key.removeprefix(_ROOT).removesuffix(".weight"): value for key, value in tensors.items()}
    if len(stored) != len(tensors):
        raise InputError(f"the adapters in '{folder}' hold two tensors of one name")
    expected = [name + suffix for name in model.shapes for suffix in (SUFFIX_A, SUFFIX_B)]
    prefixes = {name.removesuffix(end) for end in expected for name in stored if ("." + name).endswith("." + end)}
    fitting = {prefix: sum(prefix + name in stored for name in expected) for prefix in sorted(prefixes)}
    whole = [prefix for prefix, count in fitting.items() if count == len(expected)]
    if len(whole) > 1 and len(stored) > len(expected):
        raise InputError(
            f"the adapters in '{folder}' are for {len(whole)} models in one, {' and '.join(map(repr, whole))}; this "
            "model is one of them, and it is not said which"
        )
    prefix = max(fitting, key=lambda known: fitting[known], default="")
    found = {name.removeprefix(prefix) if name.startswith(prefix) else name: value for name, value in stored.items()}
    if len(found) != len(stored) or found.keys() != set(expected):
        name = sorted(found.keys() ^ set(expected))[0] if found.keys() != set(expected) else sorted(stored)[0]
        where = "is not among the model's" if name in found else "is missing"
        raise InputError(f"the adapters in '{folder}' are for other layers than the model's: '{name}' {where}")
    return found


def _check_shape(tensors: Params, name: str, shape: tuple[int, ...], folder: Path) -> None:
    if tensors[name].shape != shape:
        raise InputError(
            f"the adapters in '{folder}' are for a model of another size: '{name}' is {list(tensors[name].shape)}, and "
            f"this model needs {list(shape)}"
        )


def _without_start(tensors: Params, model: Adapted, start: str, folder: Path) -> Params:
    """Adapters [A; A₀] and [B, −B₀] of twice the rank, with s·B₀A₀ what peft takes from the base's weights."""
    backbone = model.backbone
    if precision_of(backbone) not in ("float32", "float64") or getattr(backbone, "is_quantized", False):
        raise InputError(
            f"the adapters in '{folder}' have init_lora_weights={start!r}, which needs the base's weights in float32 "
            f"or float64, not {precision_of(backbone)}{' quantised' * bool(getattr(backbone, 'is_quantized', False))}",
            field="dtype",
        )
    found: Params = {}
    for name in model.shapes:
        a, b = tensors[name + SUFFIX_A], tensors[name + SUFFIX_B]
        layer = backbone.get_submodule(name)
        a0, b0 = _taken(cast(torch.Tensor, layer.weight), start, a.shape[0], model.scale, is_transposed(layer))
        found[name + SUFFIX_A] = torch.cat([a.to(a0), a0])
        found[name + SUFFIX_B] = torch.cat([b.to(b0), -b0], 1)
    return found


def _taken(
    weight: torch.Tensor, start: str, rank: int, scale: float, transposed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """A₀ [r, d_in] and B₀ [d_out, r]: the leading singular parts over s, or the first r columns of Q and rows of R.

    Like peft in float32, and of the weight as it is stored for OLoRA: transposed [d_in, d_out] in GPT-2's layers.
    """
    stored = weight.detach().to(torch.float32)
    if start == "pissa":
        u, values, vh = torch.linalg.svd(stored.T if transposed else stored, full_matrices=False)
        root = (values[:rank] / scale).sqrt()
        return root[:, None] * vh[:rank], u[:, :rank] * root
    q, r = torch.linalg.qr(stored)
    return (q[:, :rank].T, r[:rank].T) if transposed else (r[:rank], q[:, :rank])


def _read_head(folder: Path, model: AdapterClassifier) -> Params:
    head = _read(folder / HEAD)
    shapes = {WEIGHT: (model.n_classes, model.n_features), BIAS: (model.n_classes,)}
    if isinstance(model.head, ScoreHead):
        del shapes[BIAS]
    if head.keys() != shapes.keys():
        raise InputError(
            f"{folder / HEAD} must hold {' and '.join(shapes)}, not {', '.join(sorted(head)) or 'nothing'}"
        )
    for name, shape in shapes.items():
        _check_shape(head, name, shape, folder)
    return head


def _read(path: Path) -> Params:
    try:
        return dict(load_tensors(path.read_bytes()))
    except SafetensorError as error:
        raise CorruptFile(f"{path} is not a whole safetensors file: {error}") from error
