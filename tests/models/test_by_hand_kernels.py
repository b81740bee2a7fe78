"""Operations by hand: which way a product takes, layouts, pieces, blocks that run again, heads of transformers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metascale.core.columns import IGNORED
from metascale.models.kernels import attention, cross_entropy, pooling
from metascale.models.kernels import linear as kernel
from metascale.models.kernels.attention import ShortAttention
from metascale.models.kernels.convolution import _layout, convolve
from metascale.models.kernels.cross_entropy import linear_cross_entropy
from metascale.models.kernels.recompute import recomputed
from metascale.models.text import lora
from metascale.models.text.lora import Active, AdapterCall, CheckpointedForward
from metascale.models.text.seq_cls import StockHead


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------------------------------- products


class Own(torch.Tensor):
    pass


def test_which_products_go_by_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 tensors on a CPU, of at least so many multiplications, on a processor that gains by it."""
    monkeypatch.setattr(kernel, "gains", lambda: True)
    monkeypatch.setattr(kernel, "LEAST_PRODUCTS", 2 * 4 * 3)
    x, weight = drawn(2, 4), drawn(3, 4)
    assert kernel._pays(x, weight)
    assert kernel._pays(x, nn.Parameter(weight))
    assert kernel._pays(x.requires_grad_(), weight)
    for one, other in (
        (x[:1], weight), (x, weight[:2]), (nn.Parameter(x), weight), (x, weight.as_subclass(Own)),
        (x.as_subclass(Own), weight),
        (x.double(), weight), (x, weight.double()), (x.to("meta"), weight), (x, weight.to("meta")),
    ):  # fmt: skip
        assert not kernel._pays(one, other)
    with torch.autocast("cpu", torch.bfloat16):
        assert not kernel._pays(x, weight)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not kernel._pays(x, weight)
    monkeypatch.undo()
    monkeypatch.setattr(kernel, "LEAST_PRODUCTS", 0)
    monkeypatch.setattr(kernel, "gains", lambda: False)
    assert not kernel._pays(x, weight)


CPUINFO = "processor : 0\nvendor_id : AuthenticAMD\ncpu family : {family}\n\nvendor_id : other\ncpu family : 3\n"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True), ({"family": "27"}, True), ({"family": "25"}, False), ({"capability": "AVX2"}, False),
        ({"mkldnn": False}, False), ({"mkl": False}, False), ({"fused": False}, False), ({"text": ""}, False),
        ({"text": OSError("none")}, False), ({"text": "vendor_id : AuthenticAMD\nflags : a:b"}, False),
    ],
)  # fmt: skip
def test_which_processors_gain(change: dict[str, Any], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"capability": "AVX512", "mkldnn": True, "mkl": True, "fused": True, "family": "26", **change}
    text = facts.get("text", CPUINFO.format(family=facts["family"]))

    def read(path: Any, encoding: str) -> str:
        assert str(path) == "/proc/cpuinfo"
        if isinstance(text, OSError):
            raise text
        return text

    class Operators:
        if facts["fused"]:
            _linear_pointwise = None

    monkeypatch.setattr(kernel.Path, "read_text", read)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: facts["capability"])
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: facts["mkldnn"])
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: facts["mkl"])
    monkeypatch.setattr(torch.ops, "mkldnn", Operators)
    assert kernel.gains.__wrapped__() is expected


def test_short_attention_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-precision queries on a CPU against at most so many keys; whatever way the arguments come."""
    seen: list[torch.dtype] = []
    plain = F.scaled_dot_product_attention

    def noted(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **more: Any) -> torch.Tensor:
        seen.append(query.dtype)
        return plain(query, key, value, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    mode, half = ShortAttention(), drawn(1, 5, 4).bfloat16()

    def run(query: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        return mode.__torch_function__(noted, (), (query, *rest), more)

    for longest, expected in ((4, torch.bfloat16), (5, torch.float32), (6, torch.float32)):
        monkeypatch.setattr(attention, "LONGEST", longest)
        assert run(half, half, half).dtype == torch.bfloat16
        assert (
            mode.__torch_function__(noted, (), (), {"query": half, "key": half, "value": half}).dtype == torch.bfloat16
        )
        assert seen == [expected] * 2
        seen.clear()
    assert run(half.float(), half.float(), half.float(), scale=0.5).dtype == torch.float32
    assert run(half.half(), half.half(), half.half()).dtype == torch.float16
    assert seen == [torch.float32, torch.float32]
    assert mode.__torch_function__(torch.add, (), (1, 2)) == 3
    torch.testing.assert_close(run(half, half, half, scale=2.0), plain(*[half.float()] * 3, scale=2.0).bfloat16())


def test_layouts_of_a_convolution() -> None:
    """Channels last only where it differs from contiguous: of one channel both are true."""
    last = drawn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert _layout(last) == torch.channels_last
    assert _layout(drawn(2, 3, 4, 4)) == torch.contiguous_format
    assert _layout(drawn(2, 1, 4, 4)) == torch.contiguous_format
    assert _layout(drawn(2, 3, 4, 4).transpose(2, 3)) == torch.contiguous_format
    weight = drawn(5, 3, 3, 3).requires_grad_()
    with torch.no_grad():
        bare = convolve(last, weight)
    assert bare.grad_fn is None
    torch.testing.assert_close(bare, F.conv2d(last, weight, padding=1).detach())
    assert bare.is_contiguous(memory_format=torch.channels_last)


def test_pieces_of_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten patches at once among three tasks are three rows; at least one; on another device all."""
    monkeypatch.setattr(pooling, "PATCHES_AT_ONCE", 10)

    def pieces(n_tasks: int, n_rows: int, device: str = "cpu") -> list[tuple[int, int]]:
        return [(piece.start, piece.stop) for piece in pooling._slices(torch.empty(n_tasks, n_rows, 1, device=device))]

    assert pieces(3, 10) == [(0, 3), (3, 6), (6, 9), (9, 12)]
    assert pieces(3, 9) == [(0, 3), (3, 6), (6, 9)]
    assert pieces(20, 2) == [(0, 1), (1, 2)]
    assert pieces(3, 10, "meta") == [(0, 10)]


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True), (False, False, False)]
)
def test_losses_of_a_readout_with_only_some_gradients(wanted: tuple[bool, ...]) -> None:
    given = [drawn(5, 3), drawn(4, 3, seed=1), drawn(4, seed=2)]
    targets = torch.tensor([0, IGNORED, 3, 1, 2])
    leaves = [value.clone().requires_grad_(own) for value, own in zip(given, wanted, strict=True)]
    mean, losses = linear_cross_entropy(*leaves, targets)
    expected = F.cross_entropy(F.linear(*leaves), targets)
    torch.testing.assert_close(mean, expected)
    assert not losses.requires_grad
    chosen = [leaf for leaf in leaves if leaf.requires_grad]
    if chosen:
        torch.testing.assert_close(torch.autograd.grad(mean, chosen), torch.autograd.grad(expected, chosen))


def test_losses_of_a_readout_at_the_edges() -> None:
    """All targets ignored: zero and no slope. Half precision: losses in float32, gradients as the tensors are."""
    hidden, weight = drawn(3, 2).requires_grad_(), drawn(4, 2, seed=1).requires_grad_()
    mean, losses = linear_cross_entropy(hidden, weight, None, torch.full((3,), IGNORED))
    assert losses.tolist() == [0.0] * 3
    assert mean.item() == 0.0
    assert all(not grad.any() for grad in torch.autograd.grad(mean, [hidden, weight]))
    half = hidden.detach().bfloat16().requires_grad_()
    targets = torch.tensor([1, 3, 0])
    mean, losses = linear_cross_entropy(half, weight, None, targets)
    assert (mean.dtype, losses.dtype) == (torch.float32, torch.float32)
    grads = torch.autograd.grad(mean, [half, weight])
    assert [grad.dtype for grad in grads] == [torch.bfloat16, torch.float32]
    exact = F.cross_entropy(F.linear(half.float(), weight.bfloat16().float()), targets)
    torch.testing.assert_close(mean, exact, rtol=2e-2, atol=2e-2)


def test_losses_of_a_readout_in_pieces_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "_CHUNK_LOGITS", 8)
    hidden, weight, targets = drawn(5, 3), drawn(4, 3, seed=1), torch.tensor([0, IGNORED, 3, 1, 2])
    mean, losses = linear_cross_entropy(hidden, weight, None, targets)
    torch.testing.assert_close(losses, F.cross_entropy(F.linear(hidden, weight), targets, reduction="none"))
    torch.testing.assert_close(mean, losses.sum() / 4)


# ---------------------------------------------------------------------------------------------- recomputation


def test_what_a_block_that_runs_again_returns() -> None:
    """Made tensors, passed ones, numbers and nothing, in their places; gradients of what is wanted alone."""
    runs: list[bool] = []
    x, y, w = drawn(3).requires_grad_(), drawn(3, seed=1), drawn(3, seed=2).requires_grad_()

    def fn(inputs: Any, tensors: tuple[torch.Tensor, ...]) -> Any:
        runs.append(torch.is_grad_enabled())
        (given,), options = inputs
        return {"out": given * tensors[0] + options["y"], "same": options["y"], "n": 3, "none": None, "w": tensors[0]}

    found = recomputed(fn, ((x,), {"y": y, "k": "text"}), [w])
    assert list(found) == ["out", "same", "n", "none", "w"]
    assert found["same"] is y
    assert found["w"] is w
    assert (found["n"], found["none"]) == (3, None)
    torch.testing.assert_close(found["out"], x * w + y)
    assert len(runs) == 1
    grads = torch.autograd.grad(found["out"].sum(), [x, w])
    torch.testing.assert_close(grads, (w.detach(), x.detach()))
    assert len(runs) == 2
    assert runs[1], "with gradients when it runs again"


def test_a_block_whose_result_depends_on_nothing_has_gradients_of_zero() -> None:
    x = drawn(3).requires_grad_()
    found = recomputed(lambda inputs, tensors: inputs.detach() * 2, x, [])
    assert torch.autograd.grad(found.sum(), x)[0].tolist() == [0.0] * 3


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_a_block_runs_again_as_precise_as_it_ran(half: torch.dtype) -> None:
    kinds: list[torch.dtype] = []
    x, w = drawn(2, 3).requires_grad_(), drawn(4, 3, seed=1)

    def fn(inputs: torch.Tensor, tensors: tuple[torch.Tensor, ...]) -> torch.Tensor:
        out = F.linear(inputs, w)
        kinds.append(out.dtype)
        return out

    with torch.autocast("cpu", half):
        found = recomputed(fn, x, [])
    found.float().sum().backward()
    assert kinds == [half] * 2
    kinds.clear()
    plain = recomputed(fn, x, [])
    with torch.autocast("cpu", torch.bfloat16):
        plain.sum().backward()
    assert kinds == [torch.float32] * 2
    assert recomputed(lambda inputs, tensors: inputs * 2, x.detach().to("meta"), []).device.type == "meta"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        return x * factor


def matrices(*names: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    return {name: (drawn(1, 1, 2, seed=2 * i), drawn(1, 2, 1, seed=2 * i + 1)) for i, name in enumerate(names)}


def test_which_blocks_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[tuple[Any, list[torch.Tensor]]] = []

    def note(run: Any, inputs: Any, tensors: Any) -> Any:
        noted.append((inputs, list(tensors)))
        return run(inputs, tuple(tensors))

    monkeypatch.setattr(lora, "recomputed", note)
    forward, x = CheckpointedForward("h.1", Block()), drawn(3, 2)

    def run(adapters: Any, mode: Any) -> list[tuple[Any, list[torch.Tensor]]]:
        noted.clear()
        with Active(AdapterCall(adapters, 1.0, 1, None, mode)):
            assert torch.equal(forward(x, factor=2.0), 2 * x)
        return noted

    own, others = matrices("h.1.one", "h.0.one", "h.1.two"), matrices("h.10.one", "h.0.one")
    noted.clear()
    assert torch.equal(forward(x), x)
    assert noted == []
    assert run(own, "none") == run(others, "adapters") == []
    for mode in ("adapters", "all"):
        ((inputs, given),) = run(own, mode)
        assert inputs == ((x,), {"factor": 2.0})
        assert [id(v) for v in given] == [id(v) for name in ("h.1.one", "h.1.two") for v in own[name]]
    ((_, given),) = run(others, "all")
    assert given == []
    with torch.no_grad():
        assert run(own, "all") == []
    assert torch.func.vmap(lambda row: forward(row))(x).shape == (3, 2)


def test_short_attention_is_inside_blocks_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[int] = []

    @contextmanager
    def noted() -> Any:
        entered.append(1)
        yield

    monkeypatch.setattr(lora, "ShortAttention", noted)
    x = drawn(3, 2)
    for dtype, count in ((torch.bfloat16, 1), (torch.float16, 1), (torch.float32, 0), (torch.float64, 0)):
        entered.clear()
        forward = CheckpointedForward("h.0", Block().to(dtype))
        assert torch.equal(forward(x), x)
        assert len(entered) == count
        torch.func.vmap(lambda row, forward=forward: forward(row))(x)
        assert len(entered) == count


# ---------------------------------------------------------------------------------------------- stock heads


def test_one_layer_and_two_that_hold_a_head() -> None:
    """Two layers of 5 units: W and −W, then identities with their signs; what is left is zero."""
    weight, bias = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.tensor([7.0, 8.0])

    def stock(**layers: nn.Module) -> StockHead:
        model: Any = nn.ModuleDict(layers)
        return StockHead(model, "base.", tuple(layers), tuple(layers))

    one = stock(score=nn.Linear(3, 2, bias=False))
    assert (one.name, one.layer(0), one.layer(-1)) == ("ModuleDict", one.model["score"], one.model["score"])
    assert one.tensors(weight, bias).keys() == {"score.weight"}
    assert one.tensors(weight, bias)["score.weight"] is weight
    assert stock(score=nn.Linear(3, 2)).tensors(weight, bias)["score.bias"] is bias
    found = stock(dense=nn.Linear(3, 5), out=nn.Linear(5, 2)).tensors(weight, bias)
    assert {name: value.tolist() for name, value in found.items()} == {
        "dense.weight": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0], [0.0] * 3],
        "dense.bias": [0.0] * 5,
        "out.weight": [[1.0, 0.0, -1.0, 0.0, 0.0], [0.0, 1.0, 0.0, -1.0, 0.0]],
        "out.bias": [7.0, 8.0],
    }
    bare = stock(dense=nn.Linear(3, 4, bias=False), out=nn.Linear(4, 2, bias=False)).tensors(weight, bias)
    assert bare.keys() == {"dense.weight", "out.weight"}
    x = torch.tensor([0.5, -1.0, 2.0])
    out = found["out.weight"] @ F.gelu(found["dense.weight"] @ x) + bias
    torch.testing.assert_close(out, weight @ x + bias)
