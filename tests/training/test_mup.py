"""μP: roles of tensors, nothing changes at the base width, and the coordinate check that tells it from the standard."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.streams import torch_generator
from metascale.core.types import Batch
from metascale.models.convnet import ConvNet
from metascale.models.mup import MuP, at_width, roles, width_of
from metascale.models.network import OneTask
from metascale.models.perceptron import Perceptron
from metascale.models.resnet import ResNet
from metascale.models.resnet_bk import ResNetBK
from metascale.models.transformer import Transformer
from metascale.training.coordinate_check import measure_coordinates
from metascale.training.optimizers import Adam

IDS = torch.randint(0, 50, (4, 17), generator=torch_generator(0, "ids"))
TOKENS = Batch({"input_ids": IDS[:, :-1]}, IDS[:, 1:])
PIXELS = torch.randn(16, 1, 8, 8, generator=torch_generator(0, "pixels"))
IMAGES = Batch({"x": PIXELS}, torch.arange(16) % 10)

CASES: dict[str, tuple[Any, Batch, list[int]]] = {
    "transformer": (Transformer(50, 32, 2, 2, 16), TOKENS, [32, 64, 128, 256]),
    "transformer, untied": (Transformer(50, 32, 2, 2, 16, tied=False), TOKENS, [32, 64, 128, 256]),
    "resnet-bk": (ResNetBK(50, 32, 2, 16), TOKENS, [32, 64, 128, 256]),
    "perceptron": (Perceptron(64, 10, width=64, task_axis=False), IMAGES, [64, 128, 256, 512]),
    "one task": (OneTask(Perceptron(64, 10, 64)), IMAGES, [64, 128, 256, 512]),
    "convolutional": (ConvNet(10, 8, width=16, depth=2, norm="group"), IMAGES, [16, 32, 64, 128]),
    "residual": (ResNet(width=8, n_blocks=1), IMAGES, [8, 16, 32]),
}


@pytest.mark.parametrize("name", CASES)
def test_coordinate_check(name: str) -> None:
    """After four Adam steps no change grows with the width under μP; under the standard parameterisation one does."""
    model, batch, widths = CASES[name]
    base, optimizer = widths[0], Adam(1e-2)
    standard = measure_coordinates(lambda width: at_width(model, width), widths, 4, batch, optimizer)
    mup = measure_coordinates(
        lambda width: MuP(at_width(model, width), base),
        widths,
        4,
        batch,
        optimizer,
        rate_multipliers=lambda scaled: scaled.rate_multipliers("adam"),
    )
    assert standard.steepest()[1] > 0.6, standard.exponents()
    assert mup.steepest()[1] < 0.2, mup.exponents()
    assert mup.steepest("size")[1] < 0.25, mup.exponents("size")
    assert {row.width for row in mup.rows} == set(widths)
    assert "logits" in mup.exponents()
    first = [row for row in mup.rows if row.step == 0]
    assert all(row.change == 0 for row in first)


@pytest.mark.parametrize("name", CASES)
def test_at_the_base_width_nothing_changes(name: str) -> None:
    model, batch, (base, *_) = CASES[name]
    scaled = MuP(model, base)
    params = model.init(3)
    assert all(torch.equal(value, scaled.init(3)[key]) for key, value in params.items())
    torch.testing.assert_close(scaled.predict(params, batch), model.predict(params, batch))
    for optimizer in ("adam", "sgd"):
        factors = scaled.rate_multipliers(optimizer)
        assert set(factors) == set(params)
        assert set(factors.values()) == {1.0}


def test_roles_and_factors_of_table_3() -> None:
    model = Transformer(50, 64, 1, 2, 16, positions="learned", tied=False)
    found = roles(model)
    assert {name for name, role in found.items() if role == "readout"} == {"head.weight"}
    assert {name for name, role in found.items() if role == "hidden"} == {
        f"layer0.{part}" for part in ("attention.in", "attention.out", "feed_forward.in", "feed_forward.out")
    }
    scaled = MuP(model, 16)
    adam, sgd = scaled.rate_multipliers("adam"), scaled.rate_multipliers("sgd")
    assert (adam["embedding"], adam["layer0.attention.in"], adam["head.weight"]) == (1.0, 0.25, 0.25)
    assert (sgd["embedding"], sgd["layer0.attention.in"], sgd["head.weight"]) == (4.0, 1.0, 0.25)
    assert scaled.scaled.attention_scale == pytest.approx(8**0.5 / 32)
    assert scaled.scaled.output_multiplier == 1.0
    assert MuP(Transformer(50, 64, 1, 2, 16), 16).scaled.output_multiplier == 0.25
    ratio = scaled.init(0)["head.weight"] / model.init(0)["head.weight"]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.5))
    bk = roles(ResNetBK(50, 32, 1, 16))
    assert {n for n, r in bk.items() if r == "readout"} == {"layer0.mixture.router", "layer0.potential", "head.weight"}
    assert {n for n, r in bk.items() if r == "hidden"} == {"layer0.mixture.up", "layer0.mixture.down"}
    assert MuP(OneTask(Perceptron(4, 3, 32)), 8).rate_multipliers("sgd")["head.bias"] == 1.0


def test_width_of_models() -> None:
    assert width_of(at_width(OneTask(Perceptron(4, 3, 32)), 64)) == 64
    assert width_of(ResNetBK(50, 48)) == 48
    with pytest.raises(InputError, match="has no width"):
        at_width(MuP(Perceptron(4, 3), 8), 16)
