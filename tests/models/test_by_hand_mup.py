"""μP by hand: what each parameter is, its rate, its start, what is scaled; and perceptrons that run side by side."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from metascale.core.dropout import mask_like
from metascale.core.errors import InputError
from metascale.core.types import Batch
from metascale.models import perceptron
from metascale.models.convnet import ConvNet
from metascale.models.mup import MuP, at_width, parameterised, roles, width_of
from metascale.models.network import OneTask
from metascale.models.perceptron import Perceptron
from metascale.models.resnet_bk import ResNetBK
from metascale.models.transformer import Transformer

NET = Perceptron(6, 3, width=8, depth=2, task_axis=False)
IN, OUT = ("layer0.weight", "layer0.bias", "layer1.bias"), "head.weight"


def test_roles_are_told_by_which_dimensions_grow() -> None:
    assert roles(NET) == {**dict.fromkeys((*IN, "head.bias"), "other"), "layer1.weight": "hidden", OUT: "readout"}
    conv = ConvNet(3, 8, width=8, depth=2, norm="group")
    assert {name: role for name, role in roles(conv).items() if role != "other"} == {
        "block1.weight": "hidden",
        OUT: "readout",
    }
    bk = roles(ResNetBK(5, d_model=4, n_layers=1, n_positions=3))
    assert {name for name, role in bk.items() if role == "readout"} == {
        "head.weight", "layer0.mixture.router", "layer0.potential",
    }  # fmt: skip
    assert {name for name, role in bk.items() if role == "hidden"} == {"layer0.mixture.up", "layer0.mixture.down"}
    tied = roles(Transformer(5, d_model=8, n_layers=1, n_heads=2))
    assert tied["embedding"] == "other"
    assert tied["layer0.attention.in"] == tied["layer0.feed_forward.out"] == "hidden"


def test_rates_of_a_net_four_times_the_base() -> None:
    model = MuP(NET, 2)
    assert model.ratio == 4
    rest = dict.fromkeys((*IN, "head.bias"), 1.0)
    assert model.rate_multipliers() == model.rate_multipliers("adam") == {**rest, "layer1.weight": 0.25, OUT: 0.25}
    assert model.rate_multipliers("sgd") == {
        **dict.fromkeys(IN, 4.0), "layer1.weight": 1.0, OUT: 0.25, "head.bias": 1.0,
    }  # fmt: skip
    start, plain = model.init(3), NET.init(3)
    assert start.keys() == plain.keys()
    assert all(torch.equal(start[name], plain[name] / 2 if name == OUT else plain[name]) for name in plain)


def test_at_the_base_width_nothing_changes() -> None:
    model = MuP(NET, 8)
    assert set(model.rate_multipliers("sgd").values()) == set(model.rate_multipliers("adam").values()) == {1.0}
    assert all(torch.equal(model.init(0)[name], value) for name, value in NET.init(0).items())
    text = MuP(Transformer(5, d_model=8, n_layers=1, n_heads=2), 8).scaled
    assert isinstance(text, Transformer)
    assert text.attention_scale == pytest.approx(1 / 2)  # 1/sqrt(4), as without it
    assert text.output_multiplier == 1.0


@pytest.mark.parametrize(("tied", "multiplier"), [(True, 1.5), (False, 3.0)])
def test_attention_and_a_tied_readout_are_scaled(tied: bool, multiplier: float) -> None:
    """Heads of 8 against 4 at the base: sqrt(4)/8; logits of the embedding are divided by 16/8."""
    model = Transformer(5, d_model=16, n_layers=1, n_heads=2, tied=tied, output_multiplier=3.0)
    assert MuP(model, 8).scaled == replace(model, attention_scale=0.25, output_multiplier=multiplier)
    assert MuP(NET, 2).scaled is NET


def test_a_width_is_d_model_or_width_inside_one_task_too() -> None:
    one = OneTask(Perceptron(6, 3, width=8))
    assert (width_of(NET), width_of(one), width_of(Transformer(5, 12, n_heads=2))) == (8, 8, 12)
    assert at_width(one, 5) == OneTask(Perceptron(6, 3, width=5))
    assert at_width(NET, 5) == replace(NET, width=5)

    @dataclass(frozen=True)
    class Both:
        width: int = 1
        d_model: int = 2

    @dataclass(frozen=True)
    class Neither:
        depth: int = 1

    both: Any = Both()
    assert width_of(both) == 2
    assert at_width(both, 7) == Both(1, 7)
    with pytest.raises(InputError, match="Neither has no width: none of the fields d_model, width"):
        at_width(Neither(), 3)


def test_a_parameterisation_by_its_name() -> None:
    assert parameterised(NET, "standard", 2) == (NET, None)
    model, rates = parameterised(NET, "mup", 2)
    assert model == MuP(NET, 2)
    assert rates == MuP(NET, 2).rate_multipliers("adam")


def examples(seed: int) -> Batch:
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(seed))
    return Batch({"x": x}, torch.tensor([0, 2, 1, 1, 0]))


def test_what_a_model_in_mup_computes_is_the_scaled_model_s() -> None:
    inner = Transformer(5, d_model=16, n_layers=1, n_heads=2, dropout=0.5, tied=False)
    model, params = MuP(inner, 8), inner.init(0)
    ids = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 1]])
    batch, scaled = Batch({"input_ids": ids}, ids), replace(inner, attention_scale=0.25)
    assert torch.equal(model.predict(params, batch), scaled.predict(params, batch))
    assert torch.equal(model.losses(params, batch), scaled.losses(params, batch))
    for key in (None, 3):
        for one, other in zip(model.objective(params, batch, key), scaled.objective(params, batch, key), strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(model.objective(params, batch)[1], model.objective(params, batch, 3)[1])
    assert model.kind is None


@pytest.mark.parametrize("mup", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_perceptrons_side_by_side_compute_what_each_does(loss: Any, mup: bool) -> None:
    """Rates and masks of their own: dropped out, evaluated, without dropout, and two of one rate and key."""
    base = Perceptron(6, 3, width=8, depth=2, task_axis=False, loss=loss)
    models: Any = [replace(base, dropout=rate) for rate in (0.5, 0.5, 0.0, 0.25, 0.5)]
    models = [MuP(model, 2) for model in models] if mup else models
    keys = [3, None, 7, 4, 3]
    params, batches = [model.init(seed) for seed, model in enumerate(models)], [examples(seed) for seed in range(5)]
    if loss == "squared_error":
        batches = [Batch(batch.inputs, torch.ones(5, 3)) for batch in batches]
    assert all(model.kind == base for model in models)
    for dropouts in (keys, [None] * 5):
        found = models[0].losses_of_each(models, params, batches, dropouts)
        expected = [m.objective(p, b, key)[1] for m, p, b, key in zip(models, params, batches, dropouts, strict=True)]
        assert torch.equal(found, torch.stack(expected))


def test_masks_of_one_rate_and_key_are_drawn_once_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    def noted(like: torch.Tensor, rate: float, key: int, name: str) -> torch.Tensor:
        drawn.append((tuple(like.shape), rate, key, name))
        return mask_like(like, rate, key, name)

    monkeypatch.setattr(perceptron, "mask_like", noted)
    base = Perceptron(6, 3, width=8, depth=2, task_axis=False)
    models = [replace(base, dropout=rate) for rate in (0.5, 0.0, 0.5, 0.25)]
    params, batches = [base.init(0)] * 4, [examples(0)] * 4
    base.losses_of_each(models, params, batches, [3, 3, 3, 3])
    assert drawn == [((5, 8), rate, 3, layer) for layer in ("layer0", "layer1") for rate in (0.5, 0.25)]
    drawn.clear()
    base.losses_of_each(models, params, batches, [None, 3, None, None])
    assert drawn == []


def test_which_perceptrons_may_run_together() -> None:
    tasks = Perceptron(6, 3)
    assert tasks.joins_tasks
    assert not replace(tasks, dropout=0.1).joins_tasks
    assert not NET.joins_tasks
    assert tasks.kind is None
    assert replace(NET, dropout=0.3).kind == NET
