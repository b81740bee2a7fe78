"""What a file of adapters may say, field by field, and which classifiers of transformers can hold a head."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from metascale.core.errors import InputError
from metascale.models.text import seq_cls
from metascale.models.text.heads import LearnedHead, ScoreHead
from metascale.models.text.peft_format import _check_fields, _check_scale, _own_names, _start, _taken, _without_start
from metascale.models.text.seq_cls import StockHead, _linear_layers, own_head, stock_head

FOLDER = Path("adapters")
ANY_VALUE = [
    "r", "lora_alpha", "init_lora_weights", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern",
    "lora_dropout", "inference_mode", "runtime_config", "eva_config", "corda_config", "loftq_config", "lora_ga_config",
    "qalora_group_size", "megatron_core", "fan_in_fan_out", "task_type", "auto_mapping", "peft_version",
    "base_model_name_or_path", "revision",
]  # fmt: skip
"""Fields of peft's LoraConfig that change no output, or are read elsewhere."""
DEFAULTS: dict[str, Any] = {
    "use_dora": False, "use_rslora": False, "lora_bias": False, "bias": "none", "modules_to_save": None,
    "rank_pattern": {}, "alpha_pattern": {}, "layer_replication": None, "alora_invocation_tokens": None,
    "arrow_config": None, "ensure_weight_tying": False, "kasa_config": None, "megatron_config": None,
    "monteclora_config": None, "target_parameters": None, "trainable_token_indices": None, "use_bdlora": None,
    "use_qalora": False, "velora_config": None,
}  # fmt: skip
"""Fields that are taken at their defaults alone."""


def test_fields_that_may_say_anything() -> None:
    for name in ANY_VALUE:
        for value in ("anything", True, 3):
            _check_fields({"peft_type": "LORA", name: value}, FOLDER)


@pytest.mark.parametrize("name", DEFAULTS)
def test_fields_that_are_taken_at_their_default(name: str) -> None:
    _check_fields({"peft_type": "LORA", name: DEFAULTS[name]}, FOLDER)
    for value in ("something", 3, [1]):
        with pytest.raises(InputError) as caught:
            _check_fields({"peft_type": "LORA", name: value}, FOLDER)
        assert str(caught.value) == f"the adapters in 'adapters' have {name}={value!r}, which is not supported"
        assert (caught.value.field, caught.value.value) == (name, value)
    if name == "bias":
        with pytest.raises(InputError, match="bias=None"):
            _check_fields({"peft_type": "LORA", name: None}, FOLDER)
    else:
        for off in (None, False, {}, [], 0):
            _check_fields({"peft_type": "LORA", name: off}, FOLDER)


def test_fields_that_nobody_knows_and_other_kinds_of_adapters() -> None:
    for off in (None, False, "", {}):
        _check_fields({"peft_type": "LORA", "to_come": off}, FOLDER)
    with pytest.raises(InputError, match="have to_come=1, which is a field that this version does not know") as caught:
        _check_fields({"peft_type": "LORA", "to_come": 1}, FOLDER)
    assert (caught.value.field, caught.value.value) == ("to_come", 1)
    for given, kind in (({}, None), ({"peft_type": "IA3"}, "IA3")):
        with pytest.raises(InputError, match=f"are of type {kind}; only LORA is supported"):
            _check_fields(given, FOLDER)


def test_starts_of_adapters() -> None:
    """Those that leave the base alone, those that change it as its weights say, and the others."""
    for plain in (True, False, None, "gaussian", "eva", "orthogonal", "mica"):
        assert _start({"init_lora_weights": plain}, FOLDER) is None
    assert _start({}, FOLDER) is None
    assert [_start({"init_lora_weights": name}, FOLDER) for name in ("pissa", "olora")] == ["pissa", "olora"]
    reasons = {
        "pissa_niter_4": "its decomposition is drawn at random",
        "loftq": "it changes the base's weights by what the file",
        3: "it changes the base's weights by what the file",
    }  # fmt: skip
    for value, why in reasons.items():
        with pytest.raises(InputError, match=f"init_lora_weights={value!r}, which is not supported: {why}") as caught:
            _start({"init_lora_weights": value}, FOLDER)
        assert (caught.value.field, caught.value.value) == ("init_lora_weights", value)


def test_ranks_and_alphas_that_fit() -> None:
    model: Any = SimpleNamespace(rank=4, alpha=6.0)
    _check_scale({"r": 4, "lora_alpha": 6}, model, FOLDER, doubled=False)
    _check_scale({"r": 2, "lora_alpha": 3.0}, model, FOLDER, doubled=True)
    for given, doubled, said in (
        ({"r": 2, "lora_alpha": 6}, False, "rank 2 and alpha 6, the model rank 4 and alpha 6"),
        ({"r": 4, "lora_alpha": 3}, False, "rank 4 and alpha 3, the model rank 4 and alpha 6"),
        ({"r": 4, "lora_alpha": 6, "init_lora_weights": "pissa"}, True,
         "rank 8 and alpha 12 as init_lora_weights='pissa' needs twice that of the file, the model rank 4 and alpha 6"),
        ({}, False, "rank None and alpha None"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said) as caught:
            _check_scale(given, model, FOLDER, doubled)
        expected = "8" if doubled else str(given.get("r"))
        assert (caught.value.field, caught.value.value, caught.value.allowed) == ("rank", 4, expected)


def test_names_of_tensors_in_a_larger_model_and_in_two() -> None:
    model: Any = SimpleNamespace(shapes={"h.0.q": (1, 1), "h.1.q": (1, 1)})
    own = [f"h.{i}.q.lora_{part}" for i in range(2) for part in "AB"]

    def named(*prefixes: str, leave_out: tuple[str, ...] = ()) -> Any:
        names = [f"{prefix}{name}.weight" for prefix in prefixes for name in own]
        return {name: torch.full((1,), float(i)) for i, name in enumerate(names) if name not in leave_out}

    for prefix in ("", "base_model.model.", "base_model.model.model.", "model."):
        found = _own_names(named(prefix), model, FOLDER)
        assert {name: float(value) for name, value in found.items()} == {name: float(i) for i, name in enumerate(own)}
    with pytest.raises(InputError, match=r"for 2 models in one, 'one\.' and 'two\.'; this model is one of them"):
        _own_names(named("one.", "two."), model, FOLDER)
    with pytest.raises(InputError, match=r"other layers than the model's: 'h\.1\.q\.lora_B' is missing"):
        _own_names(named("x.", leave_out=("x.h.1.q.lora_B.weight",)), model, FOLDER)
    more = {**named("x."), "x.h.2.q.lora_A.weight": torch.ones(1)}
    with pytest.raises(InputError, match=r"'h\.2\.q\.lora_A' is not among the model's"):
        _own_names(more, model, FOLDER)
    with pytest.raises(InputError, match=r"'h\.0\.q\.lora_A' is missing"):
        _own_names({}, model, FOLDER)


@pytest.mark.parametrize("transposed", [False, True])
def test_what_peft_takes_from_the_base(transposed: bool) -> None:
    """PiSSA: the leading singular part of W over s, in two equal halves; OLoRA: the first rows of R, columns of Q."""
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = weight.float()
    a, b = _taken(weight.T if transposed else weight, "pissa", 2, 4.0, transposed)
    u, values, vh = torch.linalg.svd(exact)
    assert (tuple(a.shape), tuple(b.shape), a.dtype) == ((2, 3), (5, 2), torch.float32)
    torch.testing.assert_close(4.0 * b @ a, u[:, :2] * values[:2] @ vh[:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.square().sum(1), values[:2] / 4.0)
    torch.testing.assert_close(b.square().sum(0), values[:2] / 4.0)
    a, b = _taken(weight, "olora", 2, 4.0, transposed)
    q, r = torch.linalg.qr(exact)
    if transposed:
        torch.testing.assert_close((a, b), (q[:, :2].T, r[:2].T))
    else:
        torch.testing.assert_close((a, b), (r[:2], q[:, :2]))


# ---------------------------------------------------------------------------------------------- stock classifiers


class Whole(nn.Module):
    """A classifier of texts: a base with one part, and layers outside of it."""

    base_model_prefix = "base"
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(pad_token_id=3))

    def __init__(self, inside: str = "other", reads: str = "last", error: float = 0.0, **outside: nn.Module) -> None:
        super().__init__()
        self.reads, self.error = reads, error
        self.base = nn.ModuleDict({inside: nn.Linear(1, 1)})
        for name, layer in outside.items():
            self.add_module(name, layer)

    @property
    def base_model(self) -> nn.Module:
        found: nn.Module = self.base
        return found

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        hidden = self.base().last_hidden_state
        assert torch.equal(input_ids != 3, attention_mask.bool()), "padding where the mask is zero"
        last = (input_ids != 3).sum(1) - 1
        text = hidden[torch.arange(len(last)), last] if self.reads == "last" else hidden[:, 0]
        return SimpleNamespace(logits=self.out(text) + self.error)


MODEL: Any = SimpleNamespace(n_classes=2, n_features=4, pool_name="last")
OTHER = "it has a pooler, a norm or another activation"


def linear(**sizes: tuple[int, int]) -> Any:
    return Whole(**{name: nn.Linear(*size) for name, size in sizes.items()})


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"out": (4, 2)}, ("out",)), ({"a": (4, 5), "b": (5, 2)}, ("a", "b")), ({"b": (5, 2), "a": (4, 5)}, ("a", "b")),
        ({"a": (4, 4), "b": (4, 2)}, ("a", "b")), ({"a": (4, 3), "b": (3, 2)}, "of 3 units holds at most 1 classes"),
        ({}, OTHER), ({"out": (3, 2)}, OTHER), ({"out": (4, 3)}, OTHER), ({"a": (4, 5), "b": (6, 2)}, OTHER),
        ({"a": (4, 5), "b": (5, 2), "c": (1, 1)}, OTHER), ({"a": (3, 5), "b": (5, 2)}, OTHER),
        ({"a": (4, 5), "b": (5, 3)}, OTHER), ({"a": (4, 2), "b": (2, 2)}, OTHER), ({"a": (4, 5), "b": (4, 5)}, OTHER),
        ({"a": (5, 2), "b": (5, 2)}, OTHER),
    ],
)  # fmt: skip
def test_one_or_two_layers_outside_the_base(sizes: dict[str, tuple[int, int]], expected: Any) -> None:
    whole = linear(**sizes)
    whole.add_module("idle", nn.Sequential(nn.Dropout(), nn.GELU()))
    if isinstance(expected, tuple):
        assert _linear_layers(whole, "base.", MODEL) == expected
        return
    with pytest.raises(InputError) as caught:
        _linear_layers(whole, "base.", MODEL)
    assert expected in str(caught.value)
    assert str(caught.value).startswith("Whole cannot hold this model's head: ")
    assert (caught.value.field, caught.value.value) == ("task_type", "SEQ_CLS")


def test_a_norm_outside_the_base_is_no_part_of_a_linear_head() -> None:
    whole: Any = Whole(norm=nn.LayerNorm(4), out=nn.Linear(4, 2))
    with pytest.raises(InputError, match=OTHER):
        _linear_layers(whole, "base.", MODEL)


@pytest.mark.parametrize(
    ("inside", "said"),
    [
        ("classifier", "peft would take 'base.classifier' of Whole for its classifier"),
        ("my_score", "peft would take 'base.my_score'"), ("logout", "peft would take 'base.logout'"),
    ],
)  # fmt: skip
def test_parts_that_peft_would_take_for_the_classifier(inside: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seq_cls, "_stock_model", lambda model: Whole(inside, out=nn.Linear(4, 2)))
    with pytest.raises(InputError) as caught:
        stock_head(MODEL)
    assert said in str(caught.value)


def test_a_stock_head_is_tried_on_drawn_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which vector it reads, and whether what it computes is linear to 1e-9; the base comes back."""

    def made(**settings: Any) -> Any:
        return Whole(**settings, out=nn.Linear(4, 2))

    def tried(whole: Any) -> Any:
        monkeypatch.setattr(seq_cls, "_stock_model", lambda model: whole)
        return stock_head(MODEL)

    for whole in (made(), made(error=1e-10), Whole(out=nn.Linear(4, 2, bias=False))):
        base = whole.base
        stock = tried(whole)
        assert (stock.model, stock.prefix, stock.layers, stock.modules) == (whole, "base.", ("out",), ("out",))
        assert whole.base is base
    with pytest.raises(InputError, match="it reads pooling='first', the model pooling='last'") as caught:
        tried(made(reads="first"))
    assert (caught.value.field, caught.value.value) == ("pooling", "last")
    for error in (1e-8, -0.5):
        with pytest.raises(InputError, match=OTHER):
            tried(made(error=error))


def test_a_head_is_read_from_the_stock_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tensors leave the others; a bias is zero where there is none; what a head cannot hold is refused."""
    weight, bias = torch.arange(8.0).view(2, 4), torch.tensor([1.0, 2.0])

    def read(layers: Any, head: Any, **changes: Any) -> tuple[Any, Any]:
        model: Any = nn.ModuleDict(layers)
        stock = StockHead(model, "base.", tuple(layers), tuple(layers))
        monkeypatch.setattr(seq_cls, "stock_head", lambda _: stock)
        tensors = {**stock.tensors(weight, bias), "layer.lora_A": torch.ones(1), **changes}
        tensors = {name: value for name, value in tensors.items() if value is not None}
        own: Any = SimpleNamespace(n_classes=2, n_features=4, head=head)
        return own_head(tensors, own, FOLDER), tensors

    one = {"out": nn.Linear(4, 2)}
    two = {"dense": nn.Linear(4, 5), "out": nn.Linear(5, 2)}
    plain = LearnedHead(feature_norm=None)
    for layers in (one, two):
        found, left = read(layers, plain)
        assert found.keys() == {"head.weight", "head.bias"}
        torch.testing.assert_close((found["head.weight"], found["head.bias"]), (weight, bias))
        assert left.keys() == {"layer.lora_A"}
    bare = {"out": nn.Linear(4, 2, bias=False)}
    assert read(bare, plain)[0]["head.bias"].tolist() == [0.0, 0.0]
    assert read(bare, ScoreHead())[0].keys() == {"head.weight"}
    with pytest.raises(InputError) as caught:
        read(one, ScoreHead())
    assert str(caught.value) == (
        "the classifier in 'adapters' has a bias, and ScoreHead none; make the model with "
        "head=LearnedHead(feature_norm=None)"
    )
    assert caught.value.field == "head"
    with pytest.raises(InputError, match=r"are SEQ_CLS, and 'out\.weight' of ModuleDict is missing"):
        read(one, plain, **{"out.weight": None, "out.bias": None})
    wrong: list[dict[str, Any]] = [{"dense.bias": torch.ones(5)}, {"out.weight": torch.ones(2, 5)}]
    for changes in (*wrong, {"dense.weight": torch.ones(6, 4)}, {"out.bias": torch.ones(3)}):
        with pytest.raises(
            InputError, match="one linear head of 2 classes on 4 features computes: its layers dense, out"
        ):
            read(two, plain, **changes)
    with pytest.raises(InputError, match="LearnedHead rescales every text's vector"):
        read(one, LearnedHead())


class Base(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float64, **facts: Any) -> None:
        super().__init__()
        self.layer, self.dtype = nn.Linear(3, 5, bias=False), dtype
        for name, value in facts.items():
            setattr(self, name, value)


def test_adapters_without_what_peft_takes_from_the_base() -> None:
    """[A; A₀] and [B, −B₀], so that s (B A − B₀ A₀) is what they add to the base as it is."""
    a, b = torch.ones(2, 3, dtype=torch.float64), torch.full((5, 2), 2.0)
    base = Base()
    model: Any = SimpleNamespace(backbone=base, shapes={"layer": (3, 5)}, scale=0.5)
    found = _without_start({"layer.lora_A": a, "layer.lora_B": b}, model, "olora", FOLDER)
    q, r = torch.linalg.qr(base.layer.weight.detach())
    torch.testing.assert_close(found["layer.lora_A"], torch.cat([a.float(), r[:2]]))
    torch.testing.assert_close(found["layer.lora_B"], torch.cat([b, -q[:, :2]], 1))
    whole = (
        "the adapters in 'adapters' have init_lora_weights='pissa', which needs the base's weights in float32 or "
        "float64"
    )
    for other, said in (
        (Base(torch.bfloat16), "not bfloat16"), (Base(torch.float16), "not float16"),
        (Base(torch.float32, is_quantized=True), "not float32 quantised"),
    ):  # fmt: skip
        model.backbone = other
        with pytest.raises(InputError) as caught:
            _without_start({}, model, "pissa", FOLDER)
        assert (str(caught.value), caught.value.field) == (f"{whole}, {said}", "dtype")
    model.backbone = Base(torch.float32, is_quantized=False)
    assert _without_start({"layer.lora_A": a, "layer.lora_B": b}, model, "pissa", FOLDER).keys() == found.keys()
