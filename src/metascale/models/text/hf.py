"""Frozen backbones from Hugging Face: a folder, a hub name, or a known shape with random weights."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn
from torch.overrides import TorchFunctionMode

from metascale.core.errors import CorruptFile, InputError
from metascale.core.optional import require
from metascale.core.streams import torch_generator
from metascale.models.text.architectures import ARCHITECTURES, SHAPES, Architecture

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
_UNKNOWN = Architecture(targets=(), pooling="mean")


def load_backbone(
    name_or_path: str | Path,
    *,
    dtype: str = "float32",
    attn_implementation: str = "sdpa",
    device: str = "cpu",
    random_init_seed: int | None = None,
    load_in_8bit: bool = False,
) -> nn.Module:
    """A frozen backbone in evaluation mode, without its language-model head.

    Weights come from safetensors files only, and no code that comes with a model is run. With ``HF_HUB_OFFLINE=1`` or a
    local folder nothing is fetched.

    Args:
        name_or_path: a local folder, a hub name, or one of ``SHAPES`` (short for its hub name).
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"float64"`` for checks of derivatives.
        attn_implementation: ``"sdpa"``, or ``"eager"`` for second-order methods, or what transformers accepts.
        device: where the weights live.
        random_init_seed: draw the weights at random instead (only the configuration is read); the same on every device.
        load_in_8bit: quantise the linear layers with bitsandbytes, which computes in float16: ``dtype="float16"`` saves
            it a cast, and a warning, in every layer.

    Raises:
        InputError: the model cannot be found or read, or an option does not exist.
        CorruptFile: the weights are torn.
        MissingDependency: transformers, or bitsandbytes where it is asked for, is not installed.
    """
    if random_init_seed is not None:
        if load_in_8bit:
            raise InputError("load_in_8bit needs real weights; leave random_init_seed out")
        config = load_config(name_or_path)
        return random_backbone(
            config, random_init_seed, dtype=dtype, attn_implementation=attn_implementation, device=device
        )
    options: dict[str, Any] = {"dtype": _dtype(dtype), "attn_implementation": attn_implementation}
    if load_in_8bit:
        options.update(_eight_bit_options(device))
    backbone = _pretrained_backbone(name_or_path, options)
    if not load_in_8bit:
        backbone.to(device)
    return _frozen(backbone)


def random_backbone(
    config: Any,
    seed: int,
    *,
    dtype: str = "float32",
    attn_implementation: str = "sdpa",
    device: str = "cpu",
) -> nn.Module:
    """A frozen backbone of a transformers configuration with random weights, the same on every device."""
    with _NamedDraws(torch_generator(seed, "random-backbone")):
        backbone = _model_class(config)(config, dtype=_dtype(dtype), attn_implementation=attn_implementation)
    return _frozen(backbone if device == "cpu" else backbone.to(device))


def load_config(name_or_path: str | Path) -> Any:
    """The transformers configuration of a folder, a hub name or a known shape (the last without any file)."""
    transformers = require("transformers", "text", "a language model")
    name = str(name_or_path)
    if name in SHAPES and not Path(name).is_dir():
        shape = SHAPES[name]
        return transformers.AutoConfig.for_model(shape.model_type, name_or_path=name, **shape.config)
    try:
        return transformers.AutoConfig.from_pretrained(name, **source_options(name))
    except (OSError, ValueError) as error:
        raise cannot_load(name, error) from error


def count_parameters(name_or_path: str | Path) -> dict[str, int]:
    """``total``, ``embedding`` and ``non_embedding`` parameters of the backbone, counted without making them."""
    config = load_config(name_or_path)
    with torch.device("meta"):
        backbone = _model_class(config)(config)
    total = sum(parameter.numel() for parameter in backbone.parameters())
    tables = [module for module in backbone.modules() if isinstance(module, nn.Embedding)]
    embedding = sum({id(table.weight): table.weight.numel() for table in tables}.values())
    return {"total": total, "embedding": embedding, "non_embedding": total - embedding}


def _model_class(config: Any) -> Any:
    """A callable that builds the bare backbone of ``config`` with untrained weights."""
    transformers = require("transformers", "text", "a language model")
    architecture = ARCHITECTURES.get(config.model_type, _UNKNOWN)
    model_class = getattr(transformers, architecture.model_class)
    if architecture.model_class == "AutoModel":
        return lambda config, **options: model_class.from_config(config, **architecture.model_arguments, **options)
    return lambda config, **options: model_class._from_config(config, **options)


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise InputError(f"there is no dtype '{name}' for a backbone; allowed are {', '.join(map(repr, DTYPES))}")
    return DTYPES[name]


def _frozen(backbone: Any) -> Any:
    return backbone.requires_grad_(False).eval()


def _pretrained_backbone(name_or_path: str | Path, options: dict[str, Any]) -> Any:
    transformers = require("transformers", "text", "a language model")
    name = str(name_or_path)
    if name in SHAPES and not Path(name).is_dir():
        name = SHAPES[name].hub_name
    source = source_options(name)
    config = load_config(name)
    architecture = ARCHITECTURES.get(config.model_type, _UNKNOWN)
    try:
        with _quiet(transformers):
            backbone, report = getattr(transformers, architecture.model_class).from_pretrained(
                name,
                config=config,
                use_safetensors=True,
                output_loading_info=True,
                **source,
                **architecture.model_arguments,
                **options,
            )
    except (OSError, ValueError) as error:
        raise cannot_load(name, error) from error
    except SafetensorError as error:
        raise CorruptFile(f"the weights of '{name}' are not a whole safetensors file: {error}") from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise InputError(
            f"the weights of '{name}' lack {len(missing)} tensors that a {config.model_type} backbone needs, "
            f"the first is '{missing[0]}'"
        )
    return backbone


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' progress bar and its table of unread tensors; missing ones are an error here."""
    logging = transformers.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def source_options(name: str) -> dict[str, Any]:
    """Never run code that comes with a model; look only at files that are here for a folder or when offline."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    return {"local_files_only": offline or Path(name).is_dir(), "trust_remote_code": False}


def cannot_load(
    name: str,
    error: Exception,
    folder_needs: str = "the folder must hold config.json and safetensors weights that transformers can read",
) -> InputError:
    """The error for a model or tokenizer that is not there, or not whole."""
    if Path(name).is_dir():
        where = folder_needs
    elif os.environ.get("HF_HUB_OFFLINE"):
        where = "it is not in the local cache and HF_HUB_OFFLINE is set; give a local folder, or allow the download"
    else:
        where = "it is neither a local folder nor a model that could be fetched from the Hugging Face hub"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InputError(f"cannot load the model '{name}': {where} ({reason})")


def _eight_bit_options(device: str) -> dict[str, Any]:
    require("bitsandbytes", "quant", "an 8-bit backbone")
    transformers = require("transformers", "text", "a language model")
    return {
        "quantization_config": transformers.BitsAndBytesConfig(load_in_8bit=True),
        "device_map": {"": device},
    }


def architecture_value(backbone: Any, name: Literal["targets", "pooling"], own: Any = None) -> Any:
    """``own`` where it is given, otherwise what the backbone's architecture has for it.

    Raises:
        InputError: the architecture is unknown.
    """
    if own is not None:
        return own
    model_type = backbone.config.model_type
    if model_type not in ARCHITECTURES:
        raise InputError(
            f"metascale has no default {name} for the architecture '{model_type}'; "
            f"give {name}= or use one of {', '.join(sorted(ARCHITECTURES))}"
        )
    return getattr(ARCHITECTURES[model_type], name)


def call_options(backbone: nn.Module) -> dict[str, bool]:
    """Causal models build a key-value cache unless told not to; some encoders do not know the word."""
    knows = "use_cache" in inspect.signature(backbone.forward).parameters
    return {"use_cache": False} if knows else {}


def refuse_decoder(backbone: Any) -> None:
    """
    Raises:
        InputError: the backbone is an encoder and a decoder, which one pass over a text does not run.
    """
    if getattr(backbone.config, "is_encoder_decoder", False):
        raise InputError(
            f"a backbone with a decoder of its own ({type(backbone).__name__}) is not supported; "
            "give its encoder alone (load_backbone does so for T5)"
        )


def require_second_order(backbone: Any) -> None:
    """
    Raises:
        InputError: the attention kernel, or the quantised layers, have no second derivative.
    """
    attention = getattr(backbone.config, "_attn_implementation", "eager")
    if attention != "eager":
        raise InputError(
            f'attn_implementation="{attention}" has no second derivative; '
            'for a second-order method load the backbone with attn_implementation="eager"'
        )
    if getattr(backbone, "is_quantized", False):
        raise InputError("an 8-bit backbone has no second derivative; load it without load_in_8bit")


class _NamedDraws(TorchFunctionMode):
    """In this thread, while a model is built, its weights are drawn from one generator instead of the global one.

    Layers of torch draw weights when they are made, and transformers then draws its own: the first draw is left out.
    """

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.generator = generator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        module = getattr(func, "__module__", "")
        if module in {"torch.nn.init", "transformers.initialization"} and _takes_generator(func):
            if module == "torch.nn.init":
                with torch.no_grad():
                    return (args[0] if args else kwargs["tensor"]).zero_()
            kwargs["generator"] = self.generator
        return func(*args, **kwargs)


@lru_cache
def _takes_generator(func: Any) -> bool:
    return "generator" in inspect.signature(func).parameters
