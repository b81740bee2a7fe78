"""Language models against a few lines of NumPy: ResNet-BK with its mixture and dense resolvents; a Transformer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from metascale.core.dropout import mask_like
from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.types import Batch, Params
from metascale.models.kernels.mixture import init_mixture, mixture, mixture_flops
from metascale.models.kernels.tridiagonal import scan_flops
from metascale.models.language import init_norm
from metascale.models.resnet_bk import ResNetBK
from metascale.models.transformer import Transformer, rotate
from metascale.training.flops import count_flops

Array = Any
IDS = torch.tensor([[0, 3, 1, 4, 2, 2], [4, 4, 0, 1, 3, 1]])
BATCH = Batch({"input_ids": IDS}, IDS.roll(-1, 1))


def moved(model: Any, size: float = 0.4) -> Params:
    """Parameters in double precision away from their start, the biases too."""
    return {
        name: value.double() + size * torch.randn(value.shape, generator=torch_generator(1, name)).double()
        for name, value in model.init(0).items()
    }


def softmax(values: Array) -> Array:
    shifted = np.exp(values - values.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def layer_norm(x: Array, p: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return unit * p[f"{name}.gain"] + p[f"{name}.shift"]


def rms_norm(x: Array, p: dict[str, Array], name: str) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p[f"{name}.gain"]


def mask(values: Array, rate: float, key: int | None, name: str) -> Array:
    return 1.0 if key is None else mask_like(torch.from_numpy(values), rate, key, name).numpy()


def experts_of(p: dict[str, Array], name: str, tokens: Array, gate: str) -> tuple[Array, float]:
    """Each token's best expert, and 4 Σ share · mean probability."""
    logits = tokens @ p[f"{name}.router"].T + p[f"{name}.router_bias"]
    probabilities, best = softmax(logits), logits.argmax(1)
    rows = []
    for token, e, own in zip(tokens, best, probabilities, strict=True):
        inner = np.maximum(p[f"{name}.up"][e] @ token + p[f"{name}.up_bias"][e], 0)
        out = p[f"{name}.down"][e] @ inner + p[f"{name}.down_bias"][e]
        rows.append(out * (own[e] if gate == "probability" else 1.0))
    shares = np.bincount(best, minlength=logits.shape[1]) / len(tokens)
    return np.array(rows), logits.shape[1] * float((shares * probabilities.mean(0)).sum())


def resolvent(potential: Array, energy: tuple[float, float], causal: bool) -> Array:
    """By dense inverses of tridiag(1, −2 + v, 1) − z."""
    n = len(potential)
    whole = np.diag(potential - 2 - complex(*energy)) + np.eye(n, k=1) + np.eye(n, k=-1)
    if not causal:
        return np.linalg.inv(whole).diagonal()
    return np.array([np.linalg.inv(whole[: i + 1, : i + 1])[-1, -1] for i in range(n)])


def resnet_bk(model: ResNetBK, params: Params, key: int | None) -> tuple[Array, float]:
    """Hidden states for the readout, and the penalty without its weight."""
    p = {name: value.numpy() for name, value in params.items()}
    n_batch, n = IDS.shape
    x = p["embedding"][IDS.numpy()] + p["positions"][:n]
    x = x * mask(x, model.dropout, key, "embedding")
    penalties = []
    for layer in range(model.n_layers):
        name = f"layer{layer}"
        tokens = layer_norm(x, p, f"{name}.norm").reshape(-1, model.d_model)
        out, penalty = experts_of(p, f"{name}.mixture", tokens, model.gate)
        out = out.reshape(x.shape)
        potential = np.clip(out @ p[f"{name}.potential"].T + p[f"{name}.potential_bias"], -3, 3)
        features = np.array(
            [
                [
                    resolvent(potential[b, :, h], energy, model.causal)
                    for h in range(model.n_heads)
                    for energy in model.energies
                ]
                for b in range(n_batch)
            ]
        ).transpose(0, 2, 1)
        pairs = np.stack([features.real, features.imag], -1).reshape(n_batch, n, -1)
        added = out + (pairs @ p[f"{name}.out"].T + p[f"{name}.out_bias"]) * p[f"{name}.scale"]
        x = x + added * mask(added, model.dropout, key, name)
        penalties.append(penalty)
    return layer_norm(x, p, "final"), float(np.mean(penalties))


MODELS = {
    "a language model": ResNetBK(5, 6, 2, 7, n_heads=2, energies=((0.0, 1.0), (0.5, 0.3)), balance=0.2, dropout=0.4),
    "an encoder": ResNetBK(5, 6, 2, 7, causal=False, n_classes=3, energies=((0.2, 0.5),), output_multiplier=0.5),
    "the published gate": ResNetBK(5, 6, 1, 7, gate="published", balance=0.0, output_multiplier=2.0, n_heads=3),
}


@pytest.mark.parametrize("name", MODELS)
def test_resnet_bk_in_numpy(name: str) -> None:
    model = MODELS[name]
    params = moved(model)
    params["layer0.potential_bias"] = params["layer0.potential_bias"] + 2.5  # some potentials are cut off at 3
    for key in (None, 3) if model.dropout else (None,):
        stream, expected_penalty = resnet_bk(model, params, key)
        if model.n_classes is not None:
            stream = stream.mean(1)
        stream = stream * model.output_multiplier
        hidden, penalty = model.hidden(params, IDS, key)
        np.testing.assert_allclose(hidden.numpy(), stream, rtol=1e-9, atol=1e-9)
        if model.balance:
            assert penalty is not None
            assert float(penalty) == pytest.approx(model.balance * expected_penalty, rel=1e-9)
        else:
            assert penalty is None
        targets = torch.tensor([2, 0]) if model.n_classes else BATCH.targets
        batch = Batch(BATCH.inputs, targets)
        logits = stream @ params["head.weight"].numpy().T + params["head.bias"].numpy()
        chosen = np.take_along_axis(np.log(softmax(logits)), targets.numpy()[..., None], -1)[..., 0]
        loss, losses = model.objective(params, batch, key)
        np.testing.assert_allclose(losses.numpy(), -chosen, rtol=1e-8, atol=1e-9)
        assert float(loss) == pytest.approx(-chosen.mean() + model.balance * expected_penalty, rel=1e-9)
        if key is None:
            np.testing.assert_allclose(model.predict(params, batch).numpy(), logits, rtol=1e-8, atol=1e-8)
            np.testing.assert_allclose(model.losses(params, batch).numpy(), -chosen, rtol=1e-8, atol=1e-9)
    assert model.n_outputs == (3 if model.n_classes else 5)
    assert model.n_channels == model.n_heads * len(model.energies)


def test_decoding_scales_the_logits_too_and_keeps_the_precision() -> None:
    model = MODELS["the published gate"]
    for params, kind in ((moved(model), torch.complex128), (model.init(0), torch.complex64)):
        state = model.begin_decoding(2, params)
        assert state.position == 0
        assert (state.resolvents.dtype, tuple(state.resolvents.shape)) == (kind, (1, 2, 3))
        assert not state.resolvents.any()
        logits, after = model.decode(params, IDS[:, 0], state)
        torch.testing.assert_close(logits, model.predict(params, BATCH)[:, 0])
        assert after.position == 1
        assert after.resolvents.dtype == kind
    full = replace(model, n_positions=1)
    params = full.init(0)
    _, state = full.decode(params, IDS[:, 0], full.begin_decoding(2, params))
    with pytest.raises(InputError, match="all 1 positions are used up"):
        full.decode(params, IDS[:, 0], state)
    for other in (MODELS["an encoder"], replace(model, causal=False), replace(model, n_classes=2)):
        with pytest.raises(InputError, match="only a causal ResNet-BK with logits over the vocabulary"):
            other.begin_decoding(1, other.init(0))


def test_where_a_resnet_bk_starts() -> None:
    """Deviations by name: 1/sqrt(d) inwards, sqrt(2)/sqrt(d) before ReLU, outwards over sqrt(2 · layers) too."""
    model = ResNetBK(5, 6, 2, 7, n_heads=2, embedding_std=0.3)
    params = model.init(4)
    wanted = {
        "embedding": ((5, 6), 0.3), "positions": ((7, 6), 0.3), "head": ((5, 6), 6**-0.5),
        "layer1.mixture.router": ((4, 6), 6**-0.5), "layer1.mixture.up": ((4, 12, 6), (2 / 6) ** 0.5),
        "layer1.mixture.down": ((4, 6, 12), 0.5 / 12**0.5), "layer1.potential": ((2, 6), 6**-0.5),
        "layer1.out": ((6, 4), 0.5 / 2),
    }  # fmt: skip
    for name, (shape, std) in wanted.items():
        found = params["head.weight" if name == "head" else name]
        torch.testing.assert_close(found, torch.randn(shape, generator=torch_generator(4, "init", name)) * std)
    assert params["layer0.scale"].tolist() == [1.0]
    zero = {name: tuple(value.shape) for name, value in params.items() if not value.any()}
    own = {
        "norm.shift": (6,), "mixture.router_bias": (4,), "mixture.up_bias": (4, 12), "mixture.down_bias": (4, 6),
        "potential_bias": (2,), "out_bias": (6,),
    }  # fmt: skip
    of_layers = {f"layer{layer}.{name}": shape for layer in range(2) for name, shape in own.items()}
    assert zero == {**of_layers, "final.shift": (6,), "head.bias": (5,)}
    assert init_norm("rms", "n", 3).keys() == {"n.gain"}
    assert init_norm("layer", "n", 3).keys() == {"n.gain", "n.shift"}
    assert model.embedding_names == ("embedding", "positions", "head.weight", "head.bias")
    assert model.readouts == ("head.weight", ".router", ".potential")
    assert Transformer(5, 8, 1, 2).readouts == ("head.weight",)


def test_operations_of_a_resnet_bk_by_hand() -> None:
    """Experts of d → 2d → d, a router of four, potentials of each head in, 2 numbers a head and energy out."""
    model = ResNetBK(11, 6, 3, 7, n_heads=2, energies=((0.0, 1.0), (0.5, 0.3)))
    assert model.flops(5) == {
        "router": 3 * 5 * 2 * 4 * 6.0, "experts": 3 * 5 * 2 * 2 * 6 * 12.0,
        "potential_and_features": 3 * 5 * 2 * (2 + 8) * 6.0, "resolvent": 3 * 4 * scan_flops(5, causal=True),
        "readout": 5 * 2 * 6 * 11.0,
    }  # fmt: skip
    encoder = replace(model, causal=False, n_classes=4).flops(5)
    assert encoder["readout"] == 2 * 6 * 4
    assert encoder["resolvent"] == 3 * 4 * scan_flops(5, causal=False)
    assert mixture_flops(5, 4, 6, 12) == {"router": 5 * 2 * 4 * 6.0, "experts": 5 * 2 * 2 * 6 * 12.0}


def test_a_mixture_s_gradients_are_differences() -> None:
    params = {name: value.double() for name, value in init_mixture(0, "m", 3, 4, 5, 2.0).items()}
    tokens = torch.randn(7, 4, generator=torch_generator(0, "tokens"), dtype=torch.float64).requires_grad_()
    names, leaves = list(params), [value.requires_grad_() for value in params.values()]
    for gate in ("probability", "published"):
        run = lambda x, *values, gate=gate: mixture(dict(zip(names, values, strict=True)), "m", x, gate)
        assert torch.autograd.gradcheck(run, (tokens, *leaves))
    down = torch.randn(3, 4, 5, generator=torch_generator(0, "init", "m.down")) * 2 / math.sqrt(5)
    torch.testing.assert_close(init_mixture(0, "m", 3, 4, 5, 2.0)["m.down"], down)


def turned(x: Array) -> Array:
    """[n, d]: each pair of neighbours by its position times 10000^(−2j/d)."""
    n, d = x.shape
    angles = np.arange(n)[:, None] * 10000.0 ** (-np.arange(0, d, 2) / d)
    pairs = (x[:, 0::2] + 1j * x[:, 1::2]) * np.exp(1j * angles)
    return np.stack([pairs.real, pairs.imag], -1).reshape(n, d)


def transformer(model: Transformer, params: Params, key: int | None) -> Array:
    p = {name: value.numpy() for name, value in params.items()}
    norm = rms_norm if model.norm == "rms" else layer_norm
    n = IDS.shape[1]
    x = p["embedding"][IDS.numpy()]
    if model.positions == "learned":
        x = x + p["positions"][:n]
    x = x * mask(x, model.dropout, key, "embedding")
    d_head = model.d_model // model.n_heads
    scale = model.attention_scale if model.attention_scale is not None else d_head**-0.5
    for layer in range(model.n_layers):
        name = f"layer{layer}.attention"
        mixed = norm(x, p, f"{name}.norm") @ p[f"{name}.in"].T
        rows = []
        for text in mixed:
            heads = []
            for head in range(model.n_heads):
                q, k, v = (text[:, part * model.d_model + head * d_head :][:, :d_head] for part in range(3))
                if model.positions == "rotary":
                    q, k = turned(q), turned(k)
                scores = np.where(np.tri(n, dtype=bool), q @ k.T * scale, -np.inf)
                heads.append(softmax(scores) @ v)
            rows.append(np.concatenate(heads, 1))
        out = np.array(rows) @ p[f"{name}.out"].T
        x = x + out * mask(out, model.dropout, key, name)
        name = f"layer{layer}.feed_forward"
        inner = norm(x, p, f"{name}.norm") @ p[f"{name}.in"].T
        if model.feed_forward == "gelu":
            inner = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / 2**0.5))
        else:
            gate, value = np.split(inner, 2, -1)
            inner = gate / (1 + np.exp(-gate)) * value
        out = inner @ p[f"{name}.out"].T
        x = x + out * mask(out, model.dropout, key, name)
    x = norm(x, p, "final") * model.output_multiplier
    return x @ (p["embedding"] if model.tied else p["head.weight"]).T


TRANSFORMERS = {
    "rotary": Transformer(5, 16, 2, 2, 6, dropout=0.3, output_multiplier=0.5),
    "learned": Transformer(
        5, 12, 1, 3, 8, positions="learned", norm="layer", feed_forward="gelu", tied=False, attention_scale=0.7
    ),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_in_numpy(name: str) -> None:
    model = TRANSFORMERS[name]
    params = moved(model)
    for key in (None, 3) if model.dropout else (None,):
        logits = transformer(model, params, key)
        chosen = np.take_along_axis(np.log(softmax(logits)), BATCH.targets.numpy()[..., None], -1)[..., 0]
        loss, losses = model.objective(params, BATCH, key)
        np.testing.assert_allclose(losses.numpy(), -chosen, rtol=1e-6, atol=1e-7)
        assert float(loss) == pytest.approx(-chosen.mean(), rel=1e-6)
    np.testing.assert_allclose(
        model.predict(params, BATCH).numpy(), transformer(model, params, None), rtol=1e-6, atol=1e-6
    )
    assert model.hidden(params, IDS)[1] is None


def test_where_a_transformer_starts() -> None:
    """Inward 1/sqrt(d); what writes to the stream over sqrt(2 · layers) and sqrt of its own fan-in."""
    model = Transformer(5, 12, 2, 3, 7, positions="learned", norm="layer", tied=False, embedding_std=0.3)
    assert (model.d_hidden, model.head_dim) == (32, 4)
    assert replace(model, feed_forward="gelu").d_hidden == 48
    assert Transformer(5, 18, 1, 3).d_hidden == 48, "8/3 · 18 is 48 and a multiple of 8"
    assert Transformer(5, 14, 1, 1).d_hidden == 40, "8/3 · 14 = 37.3 is rounded up"
    params = model.init(4)
    wanted = {
        "embedding": ((5, 12), 0.3), "positions": ((7, 12), 0.3), "head": ((5, 12), 12**-0.5),
        "layer1.attention.in": ((36, 12), 12**-0.5), "layer1.attention.out": ((12, 12), 0.5 / 12**0.5),
        "layer1.feed_forward.in": ((64, 12), 12**-0.5), "layer1.feed_forward.out": ((12, 32), 0.5 / 32**0.5),
    }  # fmt: skip
    for name, (shape, std) in wanted.items():
        found = params["head.weight" if name == "head" else name]
        torch.testing.assert_close(found, torch.randn(shape, generator=torch_generator(4, "init", name)) * std)
    norms = {f"layer{layer}.{part}.norm" for layer in range(2) for part in ("attention", "feed_forward")} | {"final"}
    for name in norms:
        assert params[f"{name}.gain"].tolist() == [1.0] * 12
        assert params[f"{name}.shift"].tolist() == [0.0] * 12
    own = {
        f"layer{layer}.{name}"
        for layer in range(2)
        for name in ("attention.in", "attention.out", "feed_forward.in", "feed_forward.out")
    }
    others = {"embedding", "positions", "head.weight"}
    assert params.keys() == own | others | {f"{name}.{kind}" for name in norms for kind in ("gain", "shift")}
    assert {"positions", "head.weight"}.isdisjoint(Transformer(5, 12, 1, 3).init(0))
    assert model.embedding_names == ("embedding", "positions", "head.weight")
    assert model.n_non_embedding() == sum(v.numel() for k, v in params.items() if k not in others)


@pytest.mark.parametrize("feed_forward", ["swiglu", "gelu"])
def test_operations_of_a_transformer_are_those_counted(feed_forward: Any) -> None:
    """Torch's counter sees all n² pairs of the unfused kernel, of which the lower triangle is needed."""
    model = Transformer(7, 12, 2, 3, 6, feed_forward=feed_forward)
    flops = model.flops(6)
    assert flops["attention_pairs"] == 2 * 21 * 2 * 2 * 12
    assert flops["feed_forward"] == 2 * 6 * 2 * (3 * 12 * 32 if feed_forward == "swiglu" else 2 * 12 * 48)
    params, ids = model.init(0), torch.zeros(1, 6, dtype=torch.long)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        counted = count_flops(lambda: model.predict(params, Batch({"input_ids": ids}, ids)))
    assert counted == sum(flops.values()) + 2 * (36 - 21) * 2 * 2 * 12


def test_turns_by_position_and_pair() -> None:
    x = torch.randn(2, 5, 3, 6, dtype=torch.float64, generator=torch_generator(0, "turns"))
    expected = np.array([[turned(x[b, :, h].numpy()) for h in range(3)] for b in range(2)]).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(rotate(x).numpy(), expected, rtol=1e-6, atol=1e-6)
    assert rotate(x.bfloat16()).dtype == torch.bfloat16
    assert rotate(x.float()).dtype == torch.float32


@pytest.mark.parametrize("model", [Transformer(5, 8, 1, 2, 6), ResNetBK(5, 8, 1, 6)])
def test_the_longest_sequence_is_read(model: Any) -> None:
    assert model.predict(model.init(0), BATCH).shape == (2, 6, 5)
    longer = torch.zeros(1, 7, dtype=torch.long)
    with pytest.raises(InputError, match="a sequence of 7 tokens is longer than 6 positions"):
        model.predict(model.init(0), Batch({"input_ids": longer}, longer))
    leaves = {name: value.requires_grad_() for name, value in model.init(0).items()}
    assert not model.losses(leaves, BATCH).requires_grad
    loss, losses = model.objective(leaves, BATCH)
    assert (loss.requires_grad, losses.requires_grad, losses.shape) == (True, False, (2, 6))
    assert model.n_params() == sum(value.numel() for value in leaves.values())
    assert {value.device.type for value in model.shapes().values()} == {"meta"}
