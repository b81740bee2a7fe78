"""Every language model: the contract, sizes, decoding, counts of operations, and what reading ahead looks like."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.trees import require_grad, to
from metascale.core.types import Batch
from metascale.models.kernels.cross_entropy import linear_cross_entropy
from metascale.models.language import LanguageModel, normalise
from metascale.models.mup import MuP
from metascale.models.resnet_bk import ResNetBK
from metascale.models.transformer import Transformer, rotate
from metascale.testing.model_contract import check_language_model
from metascale.training.flops import count_flops
from metascale.training.optimizers import InPlaceAdamW

LANGUAGE_MODELS: dict[str, LanguageModel] = {
    "transformer": Transformer(11, 16, 2, 2, 16),
    "transformer as GPT-2": Transformer(
        11, 16, 2, 2, 16, positions="learned", norm="layer", feed_forward="gelu", tied=False, dropout=0.2
    ),
    "resnet-bk": ResNetBK(11, 16, 2, 16),
    "resnet-bk, heads and energies": ResNetBK(
        11, 16, 2, 16, n_heads=2, energies=((0.0, 1.0), (0.5, 0.2)), dropout=0.2, balance=0.3
    ),
}


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_language_models_keep_the_contract(name: str) -> None:
    model: Any = LANGUAGE_MODELS[name]
    check_language_model(model, 11, drops_out=model.dropout > 0)


def test_models_in_mup_keep_the_contract() -> None:
    check_language_model(MuP(LANGUAGE_MODELS["transformer"], 4), 11)
    check_language_model(MuP(LANGUAGE_MODELS["resnet-bk"], 8), 11)


def test_the_published_layer_reads_ahead() -> None:
    model = ResNetBK(11, 16, 2, 16, causal=False)
    check_language_model(model, 11, causal=False)
    with pytest.raises(AssertionError, match="the model reads ahead"):
        check_language_model(model, 11)


def test_the_faulty_gate_keeps_the_router_from_learning() -> None:
    batch = tokens(11, 4, 12)

    def router_gradient(model: ResNetBK) -> float:
        leaves = require_grad(model.init(0))
        loss, _ = model.objective(leaves, batch)
        (grad,) = torch.autograd.grad(loss, [leaves["layer0.mixture.router"]], materialize_grads=True)
        return float(grad.abs().max())

    assert router_gradient(ResNetBK(11, 16, 2, 16, gate="published", balance=0.0)) == 0
    assert router_gradient(ResNetBK(11, 16, 2, 16, balance=0.0)) > 1e-6


@pytest.mark.parametrize(
    ("d", "n_layers", "millions"), [(64, 4, 4.146), (128, 8, 9.85), (256, 12, 28.1), (512, 16, 98.1)]
)
def test_published_sizes_of_resnet_bk(d: int, n_layers: int, millions: float) -> None:
    model = ResNetBK(30_000, d, n_layers)
    by_hand = 2 * 30_000 * d + 30_000 + 128 * d + n_layers * (16 * d**2 + 22 * d + 6) + 2 * d
    assert model.n_params() == by_hand
    assert model.n_params() / 1e6 == pytest.approx(millions, rel=2e-3)
    assert model.n_non_embedding() == n_layers * (16 * d**2 + 22 * d + 6) + 2 * d


def test_sizes_of_transformers_by_hand() -> None:
    gpt = Transformer(50, 32, 3, 4, 24, positions="learned", norm="layer", feed_forward="gelu", tied=False)
    blocks = 3 * (12 * 32**2 + 4 * 32) + 2 * 32
    assert gpt.n_non_embedding() == blocks
    assert gpt.n_params() == blocks + 2 * 50 * 32 + 24 * 32
    modern = Transformer(50, 48, 2, 4, 24)
    assert modern.d_hidden == 128
    assert modern.n_params() == 50 * 48 + 2 * (4 * 48**2 + 3 * 48 * 128 + 2 * 48) + 48


@pytest.mark.parametrize("name", ["resnet-bk", "resnet-bk, heads and energies"])
def test_decoding_with_a_state_is_the_full_pass(name: str) -> None:
    model: Any = LANGUAGE_MODELS[name]
    params, batch = to(model.init(3), dtype=torch.float64), tokens(11, 5, 16)
    expected = model.predict(params, batch)
    state = model.begin_decoding(5, params)
    size = state.resolvents.numel()
    for position in range(16):
        logits, state = model.decode(params, batch.inputs["input_ids"][:, position], state)
        torch.testing.assert_close(logits, expected[:, position], rtol=1e-11, atol=1e-11)
        assert state.resolvents.numel() == size, "the state does not grow"
    with pytest.raises(InputError, match="all 16 positions are used up"):
        model.decode(params, batch.inputs["input_ids"][:, 0], state)
    with pytest.raises(InputError, match="only a causal ResNet-BK"):
        ResNetBK(11, 16, 2, 16, causal=False).begin_decoding(1, params)


def test_resnet_bk_runs_at_16384_positions() -> None:
    model = ResNetBK(5, 8, 1, 16_384)
    batch = tokens(5, 1, 16_384)
    leaves = require_grad(model.init(0))
    loss, losses = model.objective(leaves, batch)
    grads = torch.autograd.grad(loss, list(leaves.values()))
    assert bool(torch.isfinite(losses).all())
    assert all(bool(torch.isfinite(grad).all()) for grad in grads)


def test_a_bidirectional_encoder_classifies_whole_sequences() -> None:
    model = ResNetBK(7, 16, 1, 12, causal=False, n_classes=3)
    ids = torch.randint(0, 7, (6, 12), generator=torch_generator(0, "test"))
    batch = Batch({"input_ids": ids}, torch.tensor([0, 1, 2, 0, 1, 2]))
    params = to(model.init(0), dtype=torch.float64)
    logits = model.predict(params, batch)
    assert logits.shape == (6, 3)
    torch.testing.assert_close(model.losses(params, batch), F.cross_entropy(logits, batch.targets, reduction="none"))


@pytest.mark.parametrize("feed_forward", ["gelu", "swiglu"])
def test_a_transformer_block_against_torch(feed_forward: Any) -> None:
    """One layer in torch's own words: explicit attention matrix, explicit mask, explicit norms."""
    model = Transformer(9, 16, 1, 2, 8, positions="learned", norm="rms", feed_forward=feed_forward)
    params, batch = to(model.init(0), dtype=torch.float64), tokens(9, 2, 8)
    ids = batch.inputs["input_ids"]

    def rms(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * params[f"{name}.gain"]

    x = params["embedding"][ids] + params["positions"]
    q, k, v = (rms(x, "layer0.attention.norm") @ params["layer0.attention.in"].T).split(16, -1)
    heads = []
    for head in (slice(0, 8), slice(8, 16)):
        scores = q[..., head] @ k[..., head].transpose(1, 2) / 8**0.5
        scores = scores.masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf)
        heads.append(scores.softmax(-1) @ v[..., head])
    x = x + torch.cat(heads, -1) @ params["layer0.attention.out"].T
    inner = rms(x, "layer0.feed_forward.norm") @ params["layer0.feed_forward.in"].T
    if feed_forward == "gelu":
        inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    else:
        gate, value = inner.chunk(2, -1)
        inner = gate / (1 + (-gate).exp()) * value
    x = rms(x + inner @ params["layer0.feed_forward.out"].T, "final")
    torch.testing.assert_close(model.predict(params, batch), x @ params["embedding"].T, rtol=1e-10, atol=1e-10)


def test_rotary_products_depend_on_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, 8, dtype=torch.float64, generator=generator).expand(1, 12, 1, 8) for _ in range(2))
    products = torch.einsum("bihd,bjhd->ij", rotate(q), rotate(k))
    for distance in range(12):
        along = products.diagonal(-distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-6, atol=1e-6)
    assert float((products[3, 0] - products[0, 0]).abs()) > 1e-3
    angle = torch.tensor(5.0, dtype=torch.float64)  # position 5, first pair: turned by 5 radians
    first = rotate(q)[0, 5, 0, :2]
    expected = torch.stack([q[0, 5, 0, 0] * angle.cos() - q[0, 5, 0, 1] * angle.sin(),
                            q[0, 5, 0, 0] * angle.sin() + q[0, 5, 0, 1] * angle.cos()])  # fmt: skip
    torch.testing.assert_close(first, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norms_and_their_gradients(kind: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x, gain, shift = (torch.randn(*s, dtype=torch.float64, generator=generator) for s in ((2, 3, 5), (5,), (5,)))
    call = lambda x, g, s: normalise(kind, {"n.gain": g, "n.shift": s}, "n", x)
    reference = F.rms_norm(x, (5,), gain, 1e-5) if kind == "rms" else F.layer_norm(x, (5,), gain, shift, 1e-5)
    torch.testing.assert_close(call(x, gain, shift), reference)
    inputs = [x.requires_grad_(), gain.requires_grad_(), shift.requires_grad_()]
    assert torch.autograd.gradcheck(call, inputs)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 40, 1 << 20])
def test_chunked_cross_entropy_is_the_plain_one(chunk: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metascale.models.kernels.cross_entropy._CHUNK_LOGITS", chunk)
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()
        for shape in ((9, 4), (13, 4), (13,))
    )
    targets = torch.tensor([0, 12, 3, -100, 5, 5, -100, 1, 2])
    chosen = [hidden, weight, *([bias] if with_bias else [])]
    mean, losses = linear_cross_entropy(hidden, weight, bias if with_bias else None, targets)
    logits = F.linear(hidden, weight, bias if with_bias else None)
    torch.testing.assert_close(losses, F.cross_entropy(logits, targets, reduction="none").detach())
    reference = F.cross_entropy(logits, targets)
    torch.testing.assert_close(mean, reference)
    found, expected = torch.autograd.grad(3 * mean, chosen), torch.autograd.grad(3 * reference, chosen)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    extreme = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    _, losses = linear_cross_entropy(torch.eye(2), extreme, None, torch.tensor([1, 1]))
    torch.testing.assert_close(losses, torch.tensor([1000.0, 0.0]))


def test_losses_stay_exact_enough_under_autocast() -> None:
    """Under bfloat16 autocast the losses stay float32 and near the exact ones, gradients keep the weights' type."""
    for model in (LANGUAGE_MODELS["transformer"], LANGUAGE_MODELS["resnet-bk"]):
        leaves, batch = require_grad(model.init(0)), tokens(11, 4, 12)
        with torch.autocast("cpu", torch.bfloat16):
            loss, losses = model.objective(leaves, batch)
        grads = torch.autograd.grad(loss, list(leaves.values()))
        assert losses.dtype == torch.float32
        assert all(grad.dtype == torch.float32 for grad in grads)
        torch.testing.assert_close(losses, model.losses(leaves, batch), rtol=0.03, atol=0.03)


def test_flops_by_hand() -> None:
    """Dense, attention (the counter sees all n² pairs of the unfused kernel), one expert of four."""
    n, d, v = 16, 32, 50
    model = Transformer(v, d, 3, 4, n, feed_forward="gelu")
    flops = model.flops(n)
    assert flops["attention_projections"] == 3 * n * (4 * d * d) * 2
    assert flops["attention_pairs"] == 3 * 2 * (2 * d) * (n * (n + 1) / 2)
    assert flops["feed_forward"] == 3 * n * (2 * d * 4 * d) * 2
    assert flops["readout"] == n * d * v * 2
    params, batch = model.init(0), tokens(v, 1, n)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        counted = count_flops(lambda: model.predict(params, batch))
    assert counted == sum(flops.values()) - flops["attention_pairs"] + 3 * 2 * (2 * d) * n * n
    bk = ResNetBK(v, d, 3, n)
    flops = bk.flops(n)
    assert flops["router"] == 3 * n * 4 * d * 2
    assert flops["experts"] == 3 * n * (2 * d * 2 * d) * 2
    assert flops["potential_and_features"] == 3 * n * (d + 2 * d) * 2
    params = bk.init(0)
    assert count_flops(lambda: bk.predict(params, batch)) == sum(flops.values()) - flops["resolvent"]


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="d_model of the Transformer must be a multiple of twice n_heads"):
        Transformer(10, 30, 2, 4)
    with pytest.raises(InputError, match="imaginary part of an energy"):
        ResNetBK(10, energies=((0.0, 0.0),))
    with pytest.raises(InputError, match="dropout"):
        ResNetBK(10, dropout=1.0)
    for model in (Transformer(10, 16, 1, 2, 8), ResNetBK(10, 16, 1, 8)):
        with pytest.raises(InputError, match="a sequence of 9 tokens is longer than 8 positions"):
            model.predict(model.init(0), tokens(10, 1, 9))


def tokens(n_vocab: int, n_batch: int, n: int) -> Batch:
    ids = torch.randint(0, n_vocab, (n_batch, n + 1), generator=torch_generator(0, "tokens"))
    return Batch({"input_ids": ids[:, :-1]}, ids[:, 1:])


def coin_loss(model: LanguageModel, steps: int) -> float:
    """Mean nats on fresh coin tosses after training on fresh coin tosses."""

    def tosses(n_batch: int, purpose: str, number: int) -> Batch:
        ids = torch.randint(0, 2, (n_batch, 17), generator=torch_generator(number, purpose))
        return Batch({"input_ids": ids[:, :-1]}, ids[:, 1:])

    optimizer = InPlaceAdamW(3e-3)
    params = model.init(0)
    state = optimizer.init(params)
    for step in range(steps):
        leaves = require_grad(params)
        loss, _ = model.objective(leaves, tosses(32, "train", step))
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        params, state = optimizer.update(params, grads, state)
    return float(model.losses(params, tosses(2000, "test", 0)).mean())


@pytest.mark.parametrize("name", ["transformer", "resnet-bk"])
def test_coin_tosses_stay_at_their_entropy(name: str) -> None:
    """ln 2 = 0.6931; the standard error of the mean over 32,000 tosses is below 0.001 for a fair model."""
    model = Transformer(2, 32, 2, 2, 16) if name == "transformer" else ResNetBK(2, 32, 2, 16)
    assert 0.688 < coin_loss(model, 60) < 0.72


@pytest.mark.long
def test_the_published_layer_as_a_language_model_beats_the_entropy() -> None:
    """What no honest model can do: it reads the tosses that it is to predict."""
    assert coin_loss(ResNetBK(2, 64, 4, 16, causal=False), 1500) < 0.6
    assert coin_loss(ResNetBK(2, 64, 4, 16), 1500) > 0.688


def test_positions_that_were_first_seen_in_inference_mode_serve_training() -> None:
    values = torch.randn(1, 37, 2, 8)  # a length that nothing else here uses
    with torch.inference_mode():
        rotate(values)
    leaf = values.clone().requires_grad_()
    rotate(leaf).square().sum().backward()
    assert leaf.grad is not None
