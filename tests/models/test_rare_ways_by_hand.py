"""Ways of models that ordinary runs do not take: operators, trials under vmap, devices without values, stock heads."""

from __future__ import annotations

import logging
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from metascale.core.errors import InputError
from metascale.core.types import Batch
from metascale.models.addressed import _draws
from metascale.models.functional import TaskFunction
from metascale.models.kernels.recompute import recomputed
from metascale.models.language import init_norm, normalise
from metascale.models.module import Module
from metascale.models.text import hf, probe, seq_cls
from metascale.models.text.heads import LearnedHead, ScoreHead, ZeroHead
from metascale.models.text.lora import enclosing_block, linear_shapes
from metascale.models.text.seq_cls import StockHead, _linear_layers
from tests.models.tiny_backbones import tiny

ATEN = torch.ops.aten
X = torch.ones(1, 1, 2)


@pytest.mark.parametrize(
    ("func", "args", "kwargs", "expected"),
    [
        (ATEN.add.Tensor, (X, X), {}, False),
        (ATEN.bernoulli.default, (X,), {}, True),
        (ATEN.native_dropout.default, (X, 0.5, True), {}, True),
        (ATEN.native_dropout.default, (X, 0.5, False), {}, False),
        (ATEN.native_dropout.default, (X, 0.5), {"train": False}, False),
        (ATEN.native_dropout.default, (X, 0.5), {"train": None}, True),
        *((ATEN.lstm.input, (X, [X, X], [], True, 1, dropout, train, False, False), {}, expected)
          for dropout, train, expected in ((0.5, True, True), (0.5, False, False), (0.0, True, False))),
        (ATEN.scaled_dot_product_attention.default, (X, X, X), {}, False),
        (ATEN.scaled_dot_product_attention.default, (X, X, X), {"dropout_p": 0.1}, True),
        (ATEN.scaled_dot_product_attention.default, (X, X, X, None, 0.1), {}, True),
    ],
)  # fmt: skip
def test_whether_an_operator_draws(func: Any, args: Any, kwargs: Any, expected: bool) -> None:
    assert _draws(func, args, kwargs) is expected


def batched(x: torch.Tensor) -> bool:
    return torch._C._functorch.is_batchedtensor(x)


class Own(nn.Module):
    """A linear map that does something else when it is asked for all tasks at once."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.linear, self.what = nn.Linear(2, 2), what

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if batched(x):
            if self.what == "refuses":
                raise InputError("no such thing", field="x")
            if self.what == "fails":
                raise RuntimeError(f"{'long ' * 60}first line\nsecond line")
            if self.what == "warns":
                warnings.warn("the batching rule of it is slow\nand more", stacklevel=1)
            if self.what == "warns of something else":
                warnings.warn("it is late", stacklevel=1)
            if self.what == "differs":
                return self.linear(x) + 1
            if self.what == "differs by rounding":
                return self.linear(x) * (1 + 1e-7)
        return x if self.what == "ignores" else self.linear(x)


BATCH = Batch({"x": torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])}, torch.zeros(2, 1, dtype=torch.long))


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("fails", ("long " * 60)[:200]),
        ("warns", "the batching rule of it is slow"),
        ("warns of something else", None),
        ("differs by rounding", None),
    ],
)
def test_why_tasks_run_one_after_another(what: str, reason: str | None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "metascale.models"):
        model = Module(Own(what), example=BATCH)
    if reason is None:
        assert model.execution == "all in one call"
        assert model.task_execution == "stacked"
        assert not caplog.records
    else:
        assert model.execution == f"one after another: {reason}"
        assert model.task_execution == "threads"
        said = f"tasks run one after another, since vmap does not work here: {reason}"
        assert [record.getMessage() for record in caplog.records] == [said]
    model.require_second_order()


def test_a_difference_between_one_call_and_a_loop_is_said_with_its_size() -> None:
    """The outputs are off by 1; the largest of them is that of the second task, whose inputs are 3 and 4."""
    net = Own("differs")
    with torch.no_grad():
        net.linear.weight.fill_(1.0)
        net.linear.bias.zero_()
    assert Module(net, example=BATCH).execution == "one after another: outputs differ by 1 of 7"


def test_a_loop_that_is_asked_for_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "metascale.models"):
        model = Module(Own("fails"), example=BATCH, loop=True)
    assert model.execution == "one after another: as asked for"
    assert not caplog.records
    assert Module(Own("")).execution == "not yet known: the first batch decides"
    assert Module(Own("")).task_execution == "stacked"
    with pytest.raises(InputError, match=r"^no such thing$"):
        Module(Own("refuses"), example=BATCH)
    with pytest.raises(
        InputError, match=r"^the module's outputs do not depend on the parameters that are le"
    ) as caught:
        Module(Own("ignores"), example=BATCH)
    assert caught.value.field == "net"


class Cut(torch.autograd.Function):
    """The identity, whose gradient forgets where it comes from."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad.detach()


def test_a_gradient_that_is_cut_off_has_no_second_derivative() -> None:
    class Hidden(Own):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Cut.apply(self.linear(x))

    model = Module(Hidden(""), example=BATCH, loop=True)
    said = "an operator's gradient is cut off from what it depends on"
    with pytest.raises(InputError) as caught:
        model.require_second_order()
    assert str(caught.value) == f"the module cannot be differentiated twice ({said}): use FOMAML or Reptile"


def test_a_trial_is_made_once_of_two_tasks() -> None:
    seen: list[int] = []

    def single(module: nn.Module, tensors: Any, given: Any) -> torch.Tensor:
        seen.append(len(given["x"]))
        return torch.func.functional_call(module, tensors, (given["x"],))

    net = nn.Linear(2, 2)
    run = TaskFunction(net, "batch", single, loop=True)
    assert run.finding is None
    params = {name: value.detach().expand(5, *value.shape) for name, value in net.named_parameters()}
    inputs = {"x": torch.ones(5, 3, 2)}
    finding = run.examine(params, inputs)
    assert seen == [3, 3, 3, 3], "in evaluation, in training, and of two tasks"
    assert run.examine(params, inputs) is finding is run.finding
    assert (finding.loop, finding.masks, finding.attends, finding.written, finding.once) == (
        "as asked for", (), False, (), None,
    )  # fmt: skip
    assert run(params, inputs).shape == (5, 3, 2)


def test_recomputing_what_needs_no_gradient() -> None:
    """A block whose outputs do not depend on a tensor gives it a gradient of zeros; without values nothing is cast."""
    x, y = (torch.ones(2, requires_grad=True) for _ in range(2))
    (one, other) = recomputed(lambda given, own: (given[0] * 2, own[0].detach() * 3), [x], [y])
    (of_x, of_y) = torch.autograd.grad((one.sum() + 0 * other.sum()), [x, y], allow_unused=True)
    assert of_x.tolist() == [2, 2]
    assert of_y is None or of_y.tolist() == [0, 0]
    constant = recomputed(lambda given, own: (torch.zeros(2) + 1,), [x], [y])[0]
    if constant.requires_grad:
        assert torch.autograd.grad(constant.sum(), x)[0].tolist() == [0, 0]
    empty = torch.ones(2, device="meta", requires_grad=True)
    (found,) = recomputed(lambda given, own: (given[0] * own[0],), [empty], [empty.detach()])
    assert (found.shape, found.device.type) == ((2,), "meta")


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_a_norm_without_values_has_the_shape_of_one(kind: Any) -> None:
    """On another device than a CPU it is torch's own."""
    params = init_norm(kind, "own", 4)
    assert set(params) == ({"own.gain"} if kind == "rms" else {"own.gain", "own.shift"})
    empty = {name: value.to("meta") for name, value in params.items()}
    assert normalise(kind, empty, "own", torch.zeros(2, 3, 4, device="meta")).shape == (2, 3, 4)
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    expected = values / (7.5 + 1e-5) ** 0.5 if kind == "rms" else (values - 2.5) / (1.25 + 1e-5) ** 0.5
    torch.testing.assert_close(normalise(kind, params, "own", values), expected)


def test_what_heads_add_to_the_tensors_of_a_task() -> None:
    zeros = {"head.weight": torch.zeros(2, 3, 4), "head.bias": torch.zeros(2, 3)}

    def features() -> torch.Tensor:
        raise AssertionError("not asked for")

    targets = torch.zeros(2, 1, dtype=torch.long)
    assert ScoreHead().begin(zeros, features, targets) == {}
    assert LearnedHead().begin(zeros, features, targets) == {}
    assert ZeroHead().begin(zeros, features, targets) is zeros
    assert ZeroHead().init(3, 4, 0) == {}
    learned, score = LearnedHead().init(3, 4, 7), ScoreHead().init(3, 4, 7)
    assert torch.equal(learned["head.weight"], score["head.weight"])
    assert list(score) == ["head.weight"]
    assert learned["head.bias"].tolist() == [0, 0, 0]
    assert 0.2 < float(learned["head.weight"].abs().max()) <= 0.5
    drawn = torch.ones(2, 4)
    assert ScoreHead().scaled(drawn) is drawn
    assert LearnedHead(None).scaled(drawn) is drawn
    torch.testing.assert_close(LearnedHead(3.0).scaled(drawn), torch.full((2, 4), 1.5))


def test_models_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    nowhere = (
        "cannot load the model 'a/b': it is neither a local folder nor a model that could be fetched from the Hugging "
        "Face hub; where that is out of reach give the folder of a model"
    )
    assert str(hf._cannot_load("a/b", OSError(" first\nsecond"))) == f"{nowhere} (first)"
    assert str(hf._cannot_load("a/b", OSError(" "))) == f"{nowhere} (OSError)"
    for value, offline in (("1", True), ("on", True), ("Yes", True), ("TRUE", True), ("0", False), ("", False)):
        monkeypatch.setenv("HF_HUB_OFFLINE", value)
        assert hf._source_options("a/b") == {"local_files_only": offline, "trust_remote_code": False}
    assert hf._source_options("/") == {"local_files_only": True, "trust_remote_code": False}


def test_eight_bits_by_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(hf, "require", lambda *names: asked.append(names) or SimpleNamespace(BitsAndBytesConfig=dict))
    assert hf._eight_bit_options("cuda:1") == {
        "quantization_config": {"load_in_8bit": True}, "device_map": {"": "cuda:1"},
    }  # fmt: skip
    assert asked == [("bitsandbytes", "quant", "an 8-bit backbone"), ("transformers", "text", "a language model")]
    backbone: Any = SimpleNamespace(config=SimpleNamespace(_attn_implementation="eager"), is_quantized=True)
    with pytest.raises(InputError, match=r"^an 8-bit backbone has no second derivative; load it without load_in_8bit$"):
        hf.require_derivative(backbone)
    backbone.is_quantized = False
    hf.require_derivative(backbone)


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.ModuleDict({"inner": nn.Linear(2, 3)}) for _ in range(2)])
        self.first = nn.Linear(4, 5)


def test_blocks_and_sizes_of_layers() -> None:
    stack = Stack()
    assert enclosing_block(stack, "blocks.1.inner") == "blocks.1"
    assert enclosing_block(stack, "first") == ""
    assert linear_shapes(stack) == {"blocks.0.inner": (2, 3), "blocks.1.inner": (2, 3), "first": (4, 5)}
    assert linear_shapes(tiny("gpt2"))["h.0.attn.c_attn"] == (32, 96)


def test_names_of_experts_and_of_layers() -> None:
    live = {"a.experts.3.up", "b.up"}
    for name, idle in (
        ("a.experts.1.up", True), ("a.experts.12.up", True), ("a.experts.1.down", False), ("c.experts.1.up", False),
        ("a.up", False), ("b.up", False),
    ):  # fmt: skip
        assert probe._is_idle_expert(name, live) is idle
    assert probe._suffix("a.b.c") == "c"
    assert probe._suffix("c") == "c"


# ---------------------------------------------------------------------------------------------- stock heads


class Whole(nn.Module):
    """A base and what stands beside it."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.base = nn.Linear(9, 9)
        for name, part in parts.items():
            self.add_module(name, part)


MODEL: Any = SimpleNamespace(n_classes=2, n_features=4, pool_name="mean", backbone=None)
OTHER = "between the hidden states and the logits it has a pooler, a norm or another activation"


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({"score": nn.Linear(4, 2)}, ("score",)),
        ({"last": nn.Linear(5, 2), "first": nn.Linear(4, 5)}, ("first", "last")),
        ({"head": nn.ModuleDict({"first": nn.Linear(4, 4), "last": nn.Linear(4, 2)}), "drop": nn.Dropout(0.1)},
         ("head.first", "head.last")),
        ({"score": nn.Linear(4, 2), "norm": nn.LayerNorm(2)}, OTHER),
        ({"score": nn.Linear(5, 2)}, OTHER),
        ({"score": nn.Linear(4, 3)}, OTHER),
        ({"first": nn.Linear(4, 5), "last": nn.Linear(6, 2)}, OTHER),
        ({"first": nn.Linear(4, 5), "more": nn.Linear(5, 5), "last": nn.Linear(5, 2)}, OTHER),
        ({"first": nn.Linear(4, 3), "last": nn.Linear(3, 2)}, "its inner layer of 3 units holds at most 1 classes"),
        ({"first": nn.Linear(4, 1), "last": nn.Linear(1, 2)}, "its inner layer of 1 units holds at most 0 classes"),
    ],
)  # fmt: skip
def test_linear_layers_of_a_stock_head(parts: dict[str, nn.Module], found: Any) -> None:
    whole: Any = Whole(**parts)
    if isinstance(found, tuple):
        assert _linear_layers(whole, "base.", MODEL) == found
        return
    with pytest.raises(InputError) as caught:
        _linear_layers(whole, "base.", MODEL)
    assert str(caught.value) == (
        f"Whole cannot hold this model's head: {found}; SEQ_CLS takes models that transformers classifies by one "
        "linear layer, or by two with ReLU, GELU or SiLU between, on the vector that the head reads, and without "
        "task_type the adapters and head.safetensors are written"
    )
    assert (caught.value.field, caught.value.value) == ("task_type", "SEQ_CLS")


def test_two_stock_layers_hold_a_linear_map() -> None:
    """z and −z in the first, their difference in the second: relu(z) − relu(−z) is z."""
    whole: Any = Whole(first=nn.Linear(4, 5), last=nn.Linear(5, 2))
    stock = StockHead(whole, "base.", ("first", "last"), ("first", "last"))
    assert stock.name == "Whole"
    weight, bias = torch.arange(8.0).view(2, 4) - 4, torch.tensor([1.0, 2.0])
    found = stock.tensors(weight, bias)
    assert list(found) == ["first.weight", "first.bias", "last.weight", "last.bias"]
    assert found["first.weight"].tolist() == [*weight.tolist(), *(-weight).tolist(), [0.0] * 4]
    assert found["last.weight"].tolist() == [[1, 0, -1, 0, 0], [0, 1, 0, -1, 0]]
    assert (found["first.bias"].tolist(), found["last.bias"].tolist()) == ([0] * 5, [1, 2])
    plain: Any = Whole(first=nn.Linear(4, 5, bias=False), last=nn.Linear(5, 2, bias=False))
    bare = StockHead(plain, "base.", ("first", "last"), ("first", "last")).tensors(weight, bias)
    assert list(bare) == ["first.weight", "last.weight"]
    single: Any = Whole(score=nn.Linear(4, 2, bias=False))
    only = StockHead(single, "base.", ("score",), ("score",)).tensors(weight, bias)
    assert only == {"score.weight": weight}


@pytest.mark.parametrize(
    ("name", "taken"), [("my_classifier", True), ("my_score", True), ("my_head", True), ("classifiers", False)]
)
def test_a_part_that_peft_would_take_for_the_classifier(
    name: str, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """peft saves every module whose name ends in that of a saved one, or in classifier or score."""

    class Asked(Exception):
        pass

    def computes(*arguments: object) -> bool:
        raise Asked

    whole: Any = Whole(head=nn.Linear(4, 2), **{name: nn.ReLU()})
    whole.base_model_prefix = "base"
    monkeypatch.setattr(seq_cls, "_stock_model", lambda model: whole)
    monkeypatch.setattr(seq_cls, "_computes", computes)
    if not taken:
        with pytest.raises(Asked):
            seq_cls.stock_head(MODEL)
        return
    with pytest.raises(InputError) as caught:
        seq_cls.stock_head(MODEL)
    assert str(caught.value) == f"peft would take '{name}' of Whole for its classifier, so SEQ_CLS cannot hold it"
