"""Backbones and tokenizers from Hugging Face: a folder, a hub name, or a known shape with random weights."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.overrides import TorchFunctionMode

from metascale.core.errors import CorruptFile, InputError
from metascale.core.optional import require
from metascale.core.streams import torch_generator
from metascale.models.kernels.int8 import is_int8, quantise
from metascale.models.text.architectures import ARCHITECTURES, SHAPES, UNKNOWN, Architecture, PublishedShape

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
INT8 = "int8"
"""The precision of a backbone whose linear layers keep their weights in 8 bits and compute in float32."""


def load_backbone(
    name_or_path: str | Path,
    *,
    dtype: str = "float32",
    attn_implementation: str = "sdpa",
    device: str = "cpu",
    random_init_seed: int | None = None,
    load_in_8bit: bool = False,
) -> PreTrainedModel:
    """A frozen backbone in evaluation mode, without its language-model head.

    Weights come from safetensors files only, and no code that comes with a model is run. With ``HF_HUB_OFFLINE=1`` or a
    local folder nothing is fetched.

    Args:
        name_or_path: a local folder, a hub name, or one of ``SHAPES`` (short for its hub name).
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"float64"`` for checks of derivatives; ``"int8"``
            rounds the linear layers' weights to 8 bits once they are read (`metascale.models.kernels.int8`): a quarter
            of their memory, on any device and with any method.
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
    if load_in_8bit and dtype == INT8:
        raise InputError("load_in_8bit and dtype='int8' are two ways to 8 bits; leave one out", field="dtype")
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
        backbone = _rounded(backbone, dtype).to(device)
    return _frozen(backbone)


def load_whole(name_or_path: str | Path, model_class: str, attn_implementation: str) -> PreTrainedModel:
    """A frozen model with its head, by a class of transformers such as ``AutoModelForCausalLM``, in float32.

    Raises:
        InputError: the model cannot be found or read, or has no such head.
        CorruptFile: the weights are torn.
        MissingDependency: transformers is not installed.
    """
    options = {"dtype": torch.float32, "attn_implementation": attn_implementation}
    return _frozen(_pretrained_backbone(name_or_path, options, model_class))


def random_backbone(
    config: PretrainedConfig,
    seed: int,
    *,
    dtype: str = "float32",
    attn_implementation: str = "sdpa",
    device: str = "cpu",
) -> PreTrainedModel:
    """A frozen backbone of a transformers configuration with random weights, the same on every device.

    Raises:
        InputError: the dtype does not exist, or the architecture lacks the attention kernel.
    """
    _check_kernel(config, attn_implementation)
    with _NamedDraws(torch_generator(seed, "random-backbone")):
        backbone = _model_class(config)(config, dtype=_dtype(dtype), attn_implementation=attn_implementation)
    backbone = _rounded(backbone, dtype)
    return _frozen(backbone if device == "cpu" else backbone.to(device))


def _rounded(backbone: PreTrainedModel, dtype: str) -> PreTrainedModel:
    if dtype == INT8:
        quantise(backbone)
    return backbone


def precision_of(backbone: PreTrainedModel) -> str:
    """The ``dtype`` of `load_backbone`."""
    return INT8 if is_int8(backbone) else str(backbone.dtype).removeprefix("torch.")


def refuse_int8(backbone: PreTrainedModel, doing: str) -> None:
    """
    Raises:
        InputError: the backbone's weights are in 8 bits.
    """
    if is_int8(backbone):
        raise InputError(
            f"{doing} needs weights in floating point, not int8; load the backbone in float32", field="dtype"
        )


def load_config(name_or_path: str | Path) -> PretrainedConfig:
    """The transformers configuration of a folder, a hub name or a known shape (the last without any file)."""
    transformers = _transformers()
    name = str(name_or_path)
    if shape := _known_shape(name):
        return transformers.AutoConfig.for_model(shape.model_type, name_or_path=name, **shape.config)
    try:
        return transformers.AutoConfig.from_pretrained(name, **_source_options(name))
    except (OSError, ValueError) as error:
        raise _cannot_load(name, error) from error


def _known_shape(name: str) -> PublishedShape | None:
    """A folder of the same name comes first."""
    return None if Path(name).is_dir() else SHAPES.get(name)


def _source(name_or_path: str | Path) -> str:
    """The folder or hub name where the files are."""
    shape = _known_shape(str(name_or_path))
    return shape.hub_name if shape else str(name_or_path)


def _transformers() -> ModuleType:
    return require("transformers", "text", "a language model")


def count_parameters(name_or_path: str | Path) -> dict[str, int]:
    """``total``, ``embedding`` and ``non_embedding`` parameters of the backbone, counted without making them."""
    config = load_config(name_or_path)
    with torch.device("meta"):
        backbone = _model_class(config)(config)
    total = sum(parameter.numel() for parameter in backbone.parameters())
    tables = [module for module in backbone.modules() if isinstance(module, nn.Embedding)]
    embedding = sum({id(table.weight): table.weight.numel() for table in tables}.values())
    return {"total": total, "embedding": embedding, "non_embedding": total - embedding}


def _model_class(config: PretrainedConfig) -> Callable[..., PreTrainedModel]:
    """A callable that builds the bare backbone of ``config`` with untrained weights."""
    architecture = ARCHITECTURES.get(config.model_type, UNKNOWN)
    model_class = getattr(_transformers(), architecture.model_class)
    if architecture.model_class == "AutoModel":
        return lambda config, **options: model_class.from_config(config, **architecture.model_arguments, **options)
    return lambda config, **options: model_class._from_config(config, **options)


_KERNEL_FLAGS = {
    "sdpa": "_supports_sdpa",
    "flash_attention_2": "_supports_flash_attn",
    "flash_attention_3": "_supports_flash_attn",
    "flex_attention": "_supports_flex_attn",
}


def _check_kernel(config: PretrainedConfig, asked: str) -> None:
    """Refuse an attention kernel that transformers has not written for the architecture, before weights are read."""
    flag = _KERNEL_FLAGS.get(asked)
    if flag is None:  # eager, which every architecture has, or a name that transformers itself checks
        return
    architecture = ARCHITECTURES.get(config.model_type, UNKNOWN)
    model_class = getattr(_transformers(), architecture.model_class)
    if architecture.model_class == "AutoModel":
        model_class = _transformers().MODEL_MAPPING.get(type(config), None)
        model_class = model_class[0] if isinstance(model_class, tuple) else model_class
    if model_class is None or getattr(model_class, flag, False):
        return
    has = ["eager", *(name for name, own in _KERNEL_FLAGS.items() if getattr(model_class, own, False))]
    raise InputError(
        f"the architecture '{config.model_type}' has no attention kernel '{asked}'; it has "
        f"{', '.join(map(repr, has))}: give attn_implementation={has[0]!r}",
        field="attn_implementation",
        value=asked,
        allowed=", ".join(has),
    )


def _dtype(name: str) -> torch.dtype:
    """The type in which a backbone is read and computes."""
    allowed = {**DTYPES, INT8: torch.float32}
    if name not in allowed:
        message = f"there is no dtype '{name}' for a backbone; allowed are {', '.join(map(repr, allowed))}"
        raise InputError(message, field="dtype", value=name)
    return allowed[name]


def _frozen(backbone: PreTrainedModel) -> PreTrainedModel:
    return backbone.requires_grad_(False).eval()


def _pretrained_backbone(
    name_or_path: str | Path, options: dict[str, Any], model_class: str | None = None
) -> PreTrainedModel:
    transformers = _transformers()
    name = _source(name_or_path)
    config = load_config(name)
    _check_kernel(config, options["attn_implementation"])
    architecture = ARCHITECTURES.get(config.model_type, UNKNOWN)
    if model_class is not None:
        architecture = Architecture((), "mean", model_class)
    try:
        with _quiet(transformers):
            backbone, report = getattr(transformers, architecture.model_class).from_pretrained(
                name,
                config=config,
                use_safetensors=True,
                output_loading_info=True,
                **_source_options(name),
                **architecture.model_arguments,
                **options,
            )
    except (OSError, ValueError) as error:
        raise _cannot_load(name, error) from error
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
def _quiet(transformers: ModuleType) -> Iterator[None]:
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


def _source_options(name: str) -> dict[str, Any]:
    """Never run code that comes with a model; look only at files that are here for a folder or when offline."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    return {"local_files_only": offline or Path(name).is_dir(), "trust_remote_code": False}


def _cannot_load(
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
        where = (
            "it is neither a local folder nor a model that could be fetched from the Hugging Face hub; where that is "
            "out of reach give the folder of a model"
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return InputError(f"cannot load the model '{name}': {where} ({reason})")


def _eight_bit_options(device: str) -> dict[str, Any]:
    require("bitsandbytes", "quant", "an 8-bit backbone")
    return {
        "quantization_config": _transformers().BitsAndBytesConfig(load_in_8bit=True),
        "device_map": {"": device},
    }


def call_options(backbone: PreTrainedModel) -> dict[str, bool]:
    """Causal models build a key-value cache unless told not to; some encoders do not accept the argument."""
    knows = "use_cache" in inspect.signature(backbone.forward).parameters
    return {"use_cache": False} if knows else {}


def refuse_decoder(backbone: PreTrainedModel) -> None:
    """
    Raises:
        InputError: the backbone is an encoder and a decoder, which one pass over a text does not run.
    """
    if getattr(backbone.config, "is_encoder_decoder", False):
        raise InputError(
            f"a backbone with a decoder of its own ({type(backbone).__name__}) is not supported; "
            "give its encoder alone (load_backbone does so for T5)"
        )


def require_derivative(backbone: PreTrainedModel) -> None:
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


@dataclass(frozen=True, eq=False)
class TextEncoder:
    """An `Encoder` over a Hugging Face tokenizer. It does not pad: a batch is padded to its own longest text.

    A text without any token (an empty one, where the tokenizer adds no special tokens) becomes one padding token, so
    that every text has a position to read.

    Args:
        tokenizer: from transformers.
        max_length: tokens kept of a text, special tokens included.
    """

    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    max_length: int = 64

    def __post_init__(self) -> None:
        special = self.tokenizer.num_special_tokens_to_add()
        if self.max_length <= special:
            raise InputError(
                f"max_length must be more than the tokenizer's {special} special tokens, not {self.max_length}"
            )

    @property
    def pad_id(self) -> int:
        """The padding token, or, for a tokenizer without one (Llama, GPT-2), its end-of-text or unknown token, or 0.

        Which it is does not matter to a model: the attention mask hides it.
        """
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, self.tokenizer.unk_token_id):
            if token_id is not None:
                return int(token_id)
        return 0

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_length, padding=False)
        return [list(ids) or [self.pad_id] for ids in encoded["input_ids"]]


def load_encoder(name_or_path: str | Path, max_length: int = 64) -> TextEncoder:
    """The tokenizer of a local folder, a hub name or a known shape. Nothing is fetched for a folder or when offline."""
    transformers = require("transformers", "text", "a tokenizer")
    name = _source(name_or_path)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **_source_options(name))
    except (OSError, ValueError) as error:
        raise _cannot_load(name, error, "the folder must hold a tokenizer that transformers can read") from error
    return TextEncoder(tokenizer, max_length)
