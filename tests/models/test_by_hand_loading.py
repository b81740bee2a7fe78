"""What loading, LoRA and a classifier's pass hand on, told by stand-ins; derivatives along directions."""

from __future__ import annotations

import inspect
import warnings
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from transformers import LlamaForCausalLM

from metascale.core.dropout import DropoutMasks
from metascale.core.errors import InputError
from metascale.core.trees import stack_tasks
from metascale.core.types import Batch
from metascale.models.kernels import linear as kernel
from metascale.models.kernels.convolution import convolve
from metascale.models.kernels.linear import linear
from metascale.models.kernels.pooling import pooled_patches
from metascale.models.kernels.tridiagonal import leading_resolvent, resolvent_diagonal, scan_flops
from metascale.models.language import normalise
from metascale.models.module import Module
from metascale.models.text import any_model, classifiers, hf, probe
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import PrototypeHead, ScoreHead, ZeroHead
from metascale.models.text.peft_format import peft_files, save_peft
from metascale.models.widths import layer_widths
from tests.models.tiny_backbones import CONFIGS, tiny


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------- backbones


class Frozen:
    """A stand-in for a backbone that notes what is done with it."""

    def __init__(self) -> None:
        self.done: list[Any] = []

    def to(self, device: str) -> Frozen:
        self.done.append(device)
        return self

    def requires_grad_(self, wanted: bool) -> Frozen:
        self.done.append(wanted)
        return self

    def eval(self) -> Frozen:
        self.done.append("eval")
        return self


FLOAT = torch.float32
BITS = {"quantization_config": {"load_in_8bit": True}, "device_map": {"": "there"}}
LOADS: dict[str, tuple[dict[str, Any], dict[str, Any], list[Any]]] = {
    # arguments, options of from_pretrained, what is done with the backbone
    "nothing said": ({}, {"dtype": FLOAT, "attn_implementation": "sdpa"}, ["cpu"]),
    "all said": (
        {"dtype": "float16", "attn_implementation": "eager", "device": "there"},
        {"dtype": torch.float16, "attn_implementation": "eager"}, ["there"],
    ),
    "8 bits here": ({"dtype": "int8"}, {"dtype": FLOAT, "attn_implementation": "sdpa"}, ["8 bits", "cpu"]),
    "8 bits there": (
        {"load_in_8bit": True, "device": "there", "dtype": "float16"},
        {"dtype": torch.float16, "attn_implementation": "sdpa", **BITS}, [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOADS)
def test_how_weights_are_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, options, done = LOADS[name]
    asked: list[Any] = []
    found = Frozen()
    package = SimpleNamespace(BitsAndBytesConfig=lambda **more: more)
    monkeypatch.setattr(hf, "_pretrained_backbone", lambda *given: asked.append(given) or found)
    monkeypatch.setattr(hf, "quantise", lambda backbone: backbone.done.append("8 bits"))
    monkeypatch.setattr(hf, "require", lambda *given: asked.append(given))
    monkeypatch.setattr(hf, "_transformers", lambda: package)
    assert hf.load_backbone("some/model", **arguments) is found
    assert asked[-1] == ("some/model", options)
    assert asked[:-1] == ([("bitsandbytes", "quant", "an 8-bit backbone")] if "load_in_8bit" in arguments else [])
    assert found.done == [*done, False, "eval"]
    asked.clear()
    assert hf.load_whole("some/model", "AutoModelForCausalLM", "eager") is found
    assert asked == [("some/model", {"dtype": FLOAT, "attn_implementation": "eager"}, "AutoModelForCausalLM")]
    assert found.done[-2:] == [False, "eval"]


def test_how_random_weights_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(hf, "load_config", lambda name: f"config of {name}")
    monkeypatch.setattr(hf, "random_backbone", lambda *given, **more: asked.append((given, more)))
    hf.load_backbone("x", random_init_seed=0)
    hf.load_backbone("x", random_init_seed=3, dtype="int8", attn_implementation="eager", device="there")
    assert asked == [
        (("config of x", 0), {"dtype": "float32", "attn_implementation": "sdpa", "device": "cpu"}),
        (("config of x", 3), {"dtype": "int8", "attn_implementation": "eager", "device": "there"}),
    ]


def test_random_weights_have_a_stream_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    streams: list[Any] = []
    own = hf.torch_generator
    monkeypatch.setattr(hf, "torch_generator", lambda *given: streams.append(given) or own(*given))
    hf.random_backbone(CONFIGS["bert"](), 5)
    assert streams == [(5, "random-backbone")]


@pytest.mark.parametrize(
    ("kind", "model_class", "asked_class", "arguments"),
    [
        ("bert", None, "AutoModel", {"add_pooling_layer": False}), ("llama", None, "AutoModel", {}),
        ("t5", None, "T5EncoderModel", {}), ("unheard of", None, "AutoModel", {}),
        ("bert", "AutoModelForCausalLM", "AutoModelForCausalLM", {}),
    ],
)  # fmt: skip
def test_what_transformers_is_asked_for(
    kind: str, model_class: str | None, asked_class: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    config = SimpleNamespace(model_type=kind)
    report: dict[str, list[str]] = {"missing_keys": []}

    def from_pretrained(name: str, **more: Any) -> Any:
        asked.append((name, more))
        return "backbone", report

    package = SimpleNamespace(**{asked_class: SimpleNamespace(from_pretrained=from_pretrained)})
    monkeypatch.setattr(hf, "_transformers", lambda: package)
    monkeypatch.setattr(hf, "load_config", lambda name: config)
    monkeypatch.setattr(hf, "_check_kernel", lambda *given: asked.append(given))
    monkeypatch.setattr(hf, "_quiet", lambda _: nullcontext())
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    given = {"dtype": FLOAT, "attn_implementation": "eager"}
    assert hf._pretrained_backbone("gpt2", given, model_class) == "backbone"
    common = {"config": config, "use_safetensors": True, "output_loading_info": True, "local_files_only": False}
    assert asked == [
        (config, "eager"), ("openai-community/gpt2", {**common, "trust_remote_code": False, **arguments, **given}),
    ]  # fmt: skip
    report["missing_keys"] = ["b", "a", "c"]
    with pytest.raises(InputError, match=f"lack 3 tensors that a {kind} backbone needs, the first is 'a'"):
        hf._pretrained_backbone("gpt2", given, model_class)


def test_a_tokenizer_is_asked_for_without_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    words = SimpleNamespace(num_special_tokens_to_add=lambda: 2)
    auto = SimpleNamespace(from_pretrained=lambda name, **more: asked.append((name, more)) or words)
    monkeypatch.setattr(hf, "require", lambda *given: asked.append(given) or SimpleNamespace(AutoTokenizer=auto))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    encoder = hf.load_encoder("minilm-l6")
    assert (encoder.tokenizer, encoder.max_length) == (words, 64)
    assert hf.load_encoder("x", 9).max_length == 9
    options = {"local_files_only": False, "trust_remote_code": False}
    assert asked == [
        ("transformers", "text", "a tokenizer"), ("sentence-transformers/all-MiniLM-L6-v2", options),
        ("transformers", "text", "a tokenizer"), ("x", options),
    ]  # fmt: skip


def test_why_a_model_cannot_be_loaded(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line of the reason, or its kind; where to look next."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    said = str(hf._cannot_load("no/such", OSError(" first\nsecond ")))
    assert said.startswith("cannot load the model 'no/such': it is neither a local folder nor a model that could be")
    assert said.endswith("give the folder of a model (first)")
    assert str(hf._cannot_load(str(tmp_path), ValueError(" "), "the folder must hold it")) == (
        f"cannot load the model '{tmp_path}': the folder must hold it (ValueError)"
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "it is not in the local cache and HF_HUB_OFFLINE is set" in str(hf._cannot_load("no/such", OSError("x")))


def test_second_derivatives_and_decoders_by_what_a_backbone_says() -> None:
    def backbone(**facts: Any) -> Any:
        return SimpleNamespace(config=SimpleNamespace(**facts.pop("config", {})), **facts)

    hf.require_derivative(backbone())
    hf.require_derivative(backbone(config={"_attn_implementation": "eager"}, is_quantized=False))
    with pytest.raises(InputError, match="an 8-bit backbone has no second derivative"):
        hf.require_derivative(backbone(is_quantized=True))
    with pytest.raises(InputError, match='attn_implementation="flash" has no'):
        hf.require_derivative(backbone(config={"_attn_implementation": "flash"}))
    hf.refuse_decoder(backbone())
    hf.refuse_decoder(backbone(config={"is_encoder_decoder": False}))
    with pytest.raises(InputError, match="give its encoder alone"):
        hf.refuse_decoder(backbone(config={"is_encoder_decoder": True}))
    with pytest.raises(InputError, match="returns no last_hidden_state") as caught:
        probe._pass(_Empty(), {})
    assert caught.value.field == "backbone"


class _Empty(nn.Module):
    device, dtype, config = torch.device("cpu"), torch.float32, SimpleNamespace()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return SimpleNamespace()


def test_tokens_of_a_probe() -> None:
    backbone: Any = SimpleNamespace(device="cpu", config=SimpleNamespace(), forward=lambda input_ids: None)
    found = probe._tokens(backbone, 2)
    assert {name: value.tolist() for name, value in found.items()} == {
        "input_ids": [[1, 2], [1, 2]], "attention_mask": [[1, 1], [1, 1]],
    }  # fmt: skip
    assert probe._tokens(backbone, 1, masked=False).keys() == {"input_ids"}
    backbone.config.is_encoder_decoder = True
    assert probe._tokens(backbone, 1, False).keys() == {"input_ids"}
    backbone.forward = lambda input_ids, decoder_input_ids: None
    assert probe._tokens(backbone, 1, False)["decoder_input_ids"].tolist() == [[1, 2]]


def test_how_a_backbone_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On values where it is small or on another device, else on a copy without; again without a mask; then as it is."""
    calls: list[tuple[str, bool]] = []

    def noted(backbone: Any, shapes: Any, masked: bool = True) -> set[str]:
        calls.append((backbone.device.type, masked))
        if len(calls) <= failing:
            raise RuntimeError("looks at values")
        return {"found"}

    monkeypatch.setattr(probe, "_pass", noted)
    backbone: Any = hf.random_backbone(CONFIGS["bert"](), 0, attn_implementation="sdpa")
    n_params = sum(value.numel() for value in backbone.parameters())
    bare: Any = hf.random_backbone(CONFIGS["bert"](), 0).to("meta")
    tables = [
        (n_params + 1, 0, backbone, [("cpu", True)]), (n_params, 0, backbone, [("meta", True)]),
        (0, 1, backbone, [("meta", True), ("meta", False)]),
        (0, 2, backbone, [("meta", True), ("meta", False), ("cpu", True)]),
        (n_params + 1, 0, bare, [("meta", True)]), (0, 2, bare, [("meta", True), ("meta", False)]),
    ]  # fmt: skip
    for small, failing, asked, expected in tables:
        calls.clear()
        monkeypatch.setattr(probe, "_SMALL", small)
        found = probe.reached(asked, {"layer": (1, 1)})
        assert calls == expected
        assert found == ({"layer"} if asked is bare and failing else {"found"})
    assert backbone.config._attn_implementation == "sdpa"
    other: Any = SimpleNamespace(device=SimpleNamespace(type="elsewhere"))
    calls.clear()
    failing = 0
    assert probe.reached(other, {}) == {"found"}
    assert calls == [("elsewhere", True)]


KERNELS = {
    "sdpa": "_supports_sdpa", "flash_attention_2": "_supports_flash_attn", "flash_attention_3": "_supports_flash_attn",
    "flex_attention": "_supports_flex_attn",
}  # fmt: skip
"""The mark that a class of transformers bears which has the kernel."""


@pytest.mark.parametrize("asked", KERNELS)
@pytest.mark.parametrize("way", ["mapped", "one of several", "encoder"])
def test_kernels_by_the_marks_of_a_class(asked: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Config:
        model_type = "t5" if way == "encoder" else "own"

    has: Any = type("Has", (), {KERNELS[asked]: True})
    lacks: Any = type("Lacks", (), {"_supports_sdpa": asked != "sdpa", "_supports_flash_attn": False})

    def package(found: Any) -> Any:
        mapped = (found, None) if way == "one of several" else found
        return SimpleNamespace(MODEL_MAPPING={Config: mapped}, AutoModel=None, T5EncoderModel=found)

    config: Any = Config()
    monkeypatch.setattr(hf, "_transformers", lambda: package(has))
    hf._check_kernel(config, asked)
    monkeypatch.setattr(hf, "_transformers", lambda: package(lacks))
    hf._check_kernel(config, "eager")
    hf._check_kernel(config, "a name that transformers knows")
    with pytest.raises(InputError, match=f"has no attention kernel '{asked}'") as caught:
        hf._check_kernel(config, asked)
    others = "eager" if asked == "sdpa" else "eager, sdpa"
    assert (caught.value.field, caught.value.value, caught.value.allowed) == ("attn_implementation", asked, others)
    if way == "mapped":
        monkeypatch.setattr(hf, "_transformers", lambda: SimpleNamespace(MODEL_MAPPING={}, AutoModel=None))
        hf._check_kernel(config, asked)


def test_devices_and_the_package_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hf.random_backbone(CONFIGS["bert"](), 0, device="meta").device.type == "meta"
    assert hf.random_backbone(CONFIGS["bert"](), 0).device.type == "cpu"
    monkeypatch.setattr(hf, "require", lambda *given: given)
    assert hf._transformers() == ("transformers", "text", "a language model")


def test_layers_that_read_what_all_texts_share_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of families that are not known; the first by its whole name, all by their last parts."""

    class Backbone:
        device = torch.device("cpu")
        config = SimpleNamespace(model_type="own")

    shapes = {"a.q": (1, 1), "a.k": (1, 1), "b.q": (1, 1), "a.v": (1, 1)}
    monkeypatch.setattr(probe, "reached", lambda backbone, asked: set(asked))
    monkeypatch.setattr(probe, "unbatched", lambda backbone, asked: ["a.q", "b.q", "a.v"])
    backbone: Any = Backbone()
    with pytest.raises(InputError, match=r"^'a\.q' of Backbone also reads what all texts share") as caught:
        probe.require_live(backbone, shapes)
    assert (caught.value.field, caught.value.value, caught.value.allowed) == ("targets", ["q", "v"], "k")
    monkeypatch.setattr(Backbone, "config", SimpleNamespace(model_type="bert"))
    probe.require_live(backbone, shapes)
    monkeypatch.setattr(probe, "reached", lambda *_: pytest.fail("asked again"))
    probe.require_live(backbone, shapes)
    monkeypatch.setattr(probe, "unbatched", lambda *_: pytest.fail("without values nothing is read"))
    monkeypatch.setattr(probe, "reached", lambda backbone, asked: set(asked))
    other: Any = Backbone()
    monkeypatch.setattr(Backbone, "config", SimpleNamespace(model_type="own"))
    monkeypatch.setattr(Backbone, "device", torch.device("meta"))
    probe.require_live(other, shapes)


def test_arguments_where_nothing_is_said() -> None:
    def told(function: Any) -> dict[str, Any]:
        given = inspect.signature(function).parameters.values()
        return {one.name: one.default for one in given if one.default is not inspect.Parameter.empty}

    assert told(Module) == {
        "loss": "cross_entropy", "start": None, "batch_statistics": "batch", "steps": None, "train": ("*",),
        "output": None, "head": None, "example": None, "loop": False,
    }  # fmt: skip
    assert told(classifiers.TextClassifier) == {"train_blocks": None, "pooling": None, "seed": 0}
    assert told(any_model.LoRA) == {
        "task": "classification", "n_classes": None, "rank": 16, "alpha": 32.0, "dropout": 0.05, "targets": None,
        "head": None, "pooling": None, "attn_implementation": "eager",
    }  # fmt: skip
    weights = {"dtype": "float32", "attn_implementation": "sdpa", "device": "cpu"}
    assert told(hf.load_backbone) == {**weights, "random_init_seed": None, "load_in_8bit": False}
    assert told(hf.random_backbone) == weights
    assert told(hf.load_encoder) == {"max_length": 64}
    for write in (save_peft, peft_files):
        assert told(write) == {"prefix": "", "task_type": None}
    assert told(leading_resolvent) == told(resolvent_diagonal) == {"coupling": 1.0, "gradient": "exact"}
    assert told(scan_flops) == {"causal": True}
    assert (told(convolve), told(layer_widths)) == ({"groups": 1}, {"ratio": 1.0})


# ---------------------------------------------------------------------------------------------- LoRA


def test_what_lora_makes_of_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(any_model, "AdapterClassifier", lambda *given: made.append(given))
    monkeypatch.setattr(any_model, "AdapterLanguageModel", lambda *given, **more: made.append((given, more)))
    backbones = {"bert": tiny("bert"), "llama": tiny("llama")}
    monkeypatch.setattr(any_model, "load_backbone", lambda name, **more: made.append(more) or backbones[name])
    whole = LlamaForCausalLM(CONFIGS["llama"]()).eval()
    monkeypatch.setattr(any_model, "load_whole", lambda *given: made.append(given) or whole)
    any_model.LoRA("bert", n_classes=3)
    any_model.LoRA(
        backbones["bert"], n_classes=3, rank=2, alpha=3.0, dropout=0.1, targets=("a",), head=ZeroHead(), pooling="first"
    )
    assert made == [
        {"attn_implementation": "eager"},
        (backbones["bert"], 3, 16, 32.0, 0.05, ("query", "value"), PrototypeHead(), None),
        (backbones["bert"], 3, 2, 3.0, 0.1, ("a",), ZeroHead(), "first"),
    ]  # fmt: skip
    made.clear()
    any_model.LoRA("llama", n_classes=2, attn_implementation="sdpa")
    any_model.LoRA("whole", "causal_lm", attn_implementation="sdpa")
    any_model.LoRA(whole, "causal_lm", rank=2, alpha=3.0, dropout=0.1, targets=("a",))
    llama = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert made == [
        {"attn_implementation": "sdpa"}, (backbones["llama"], 2, 16, 32.0, 0.05, llama, PrototypeHead(), None),
        ("whole", "AutoModelForCausalLM", "sdpa"),
        ((whole, llama, False), {"rank": 16, "alpha": 32.0, "dropout": 0.05}),
        ((whole, ("a",), False), {"rank": 2, "alpha": 3.0, "dropout": 0.1}),
    ]  # fmt: skip


def test_what_a_classifier_s_pass_hands_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters, scale, tasks, masks of the call's key and rate, and which blocks run again."""
    calls: list[Any] = []
    own = classifiers.AdapterCall
    monkeypatch.setattr(classifiers, "AdapterCall", lambda *given: calls.append(given) or own(*given))
    model = AdapterClassifier(tiny("bert"), 2, 2, 3.0, 0.25, checkpoint_blocks="all")
    dry = AdapterClassifier(tiny("bert"), 2, 2, 3.0, 0.0)
    batch = Batch({"input_ids": torch.tensor([[[5, 6]], [[7, 8]]])}, torch.zeros(2, 1, dtype=torch.long))
    params = stack_tasks(model.init(0), 2)
    for each, key in ((model, None), (model, 4), (dry, 4)):
        each.features(params, batch, key)
    assert [(set(adapters), scale, n, blocks) for adapters, scale, n, _, blocks in calls] == [
        (set(model.shapes), 1.5, 2, blocks) for blocks in ("all", "all", "none")
    ]
    none, masks, dry_masks = (call[3] for call in calls)
    assert none is dry_masks is None
    assert isinstance(masks, DropoutMasks)
    assert (masks.rate, masks.key, masks.numbers.tolist()) == (0.25, 4, batch.numbered().numbers.flatten().tolist())
    low = AdapterClassifier(tiny("bert"), 2, autocast=torch.bfloat16)
    assert isinstance(low._precision("meta"), nullcontext)
    with low._precision("cpu"):
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        with model._precision("cpu"):
            assert not torch.is_autocast_enabled("cpu")
    assert ScoreHead().begin({}, lambda: torch.ones(1), batch.targets) == {}


# ---------------------------------------------------------------------------------------------- derivatives


def tangents(function: Any, values: list[torch.Tensor], moving: tuple[int, ...]) -> torch.Tensor:
    """In forward mode, with history."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, at the first use of forward mode
        along = [drawn(*value.shape, seed=20 + i).to(value.dtype) for i, value in enumerate(values)]
        duals = [forward_ad.make_dual(value, along[i]) if i in moving else value for i, value in enumerate(values)]
        return forward_ad.unpack_dual(function(*duals)).tangent.detach().clone()


@pytest.mark.parametrize("moving", [(0,), (1,), (0, 1)])
def test_forward_mode_of_a_convolution_with_history(moving: tuple[int, ...]) -> None:
    values = [drawn(2, 4, 5, 5).requires_grad_(), drawn(6, 2, 3, 3, seed=1).requires_grad_()]
    plain = lambda x, w: F.conv2d(x, w, padding=1, groups=2)
    torch.testing.assert_close(
        tangents(lambda x, w: convolve(x, w, 2), values, moving), tangents(plain, values, moving)
    )


@pytest.mark.parametrize("moving", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_forward_mode_of_a_linear_layer_by_onednn(moving: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this build of PyTorch has no linear layer of oneDNN")
    monkeypatch.setattr(kernel, "gains", lambda: True)
    monkeypatch.setattr(kernel, "LEAST_PRODUCTS", 0)
    values = [value.float() for value in (drawn(4, 5), drawn(3, 5, seed=1), drawn(3, seed=2))]
    found, expected = (tangents(function, values, moving) for function in (linear, F.linear))
    torch.testing.assert_close(found, expected)


def test_a_product_along_a_direction_by_two_gradients() -> None:
    """The gradient is linear in the slopes z, so its own gradient is J u, and that one's in u gives Jᵀ z again."""
    images, weight, shift = drawn(2, 3, 1, 4, 4), drawn(2, 4, 1, 3, 3, seed=1), drawn(2, 4, seed=2)
    leaves = [weight.requires_grad_(), shift.requires_grad_()]
    out = pooled_patches(images, *leaves)
    slopes, z = drawn(*out.shape, seed=3).requires_grad_(), drawn(*out.shape, seed=4)
    directions = [drawn(*leaf.shape, seed=5 + i).requires_grad_() for i, leaf in enumerate(leaves)]
    first = torch.autograd.grad(out, leaves, slopes, create_graph=True)
    (along,) = torch.autograd.grad(first, slopes, directions, create_graph=True)
    step = 1e-6
    upper, lower = (
        pooled_patches(
            images, *(leaf.detach() + sign * step * u.detach() for leaf, u in zip(leaves, directions, strict=True))
        )
        for sign in (1, -1)
    )
    torch.testing.assert_close(along, (upper - lower) / (2 * step), rtol=1e-6, atol=1e-8)
    back = torch.autograd.grad(along, directions, z)
    torch.testing.assert_close(back, torch.autograd.grad(out, leaves, z))


def test_a_norm_on_another_device_has_the_same_shape() -> None:
    values = torch.ones(2, 3, device="meta")
    assert normalise("rms", {"n.gain": torch.ones(3, device="meta")}, "n", values).shape == (2, 3)


def test_a_slow_rule_sends_tasks_into_a_loop() -> None:
    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            warnings.warn("something else", stacklevel=1)
            warnings.warn(f"no batching rule for this {'x' * 300}\nand more", stacklevel=1)
            return self.linear(x)

    batch = Batch({"x": torch.ones(2, 3, 2)}, torch.zeros(2, 3, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Module(Slow(), example=batch)
    assert model.execution == f"one after another: {f'no batching rule for this {chr(120) * 300}'[:200]}"
