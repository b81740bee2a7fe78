"""Can a language model predict fair coins? An honest one cannot; one that reads ahead can.

    python benchmarks/coin_tosses.py [--steps 3000] [--threads N]

Every training step sees new sequences of 17 tosses, and losses are measured on 32,000 further ones (standard error
below 0.001 nats). Nothing can be learnt, so the loss of a causal model stays at ln 2 = 0.6931. ResNet-BK's published
layer takes the diagonal of the whole resolvent, which depends on every position: used as a language model it reads the
toss that it is to predict.
"""

from __future__ import annotations

import argparse
import math

import torch

from metascale.core.streams import torch_generator
from metascale.core.trees import require_grad
from metascale.core.types import Batch
from metascale.models.language import LanguageModel
from metascale.models.resnet_bk import ResNetBK
from metascale.models.transformer import Transformer
from metascale.training.optimizers import InPlaceAdamW

MODELS: dict[str, LanguageModel] = {
    "Transformer": Transformer(2, 64, 4, 4, 16),
    "ResNet-BK, causal": ResNetBK(2, 64, 4, 16),
    "ResNet-BK as published (reads every position)": ResNetBK(2, 64, 4, 16, causal=False),
}


def tosses(n_batch: int, purpose: str, number: int) -> Batch:
    ids = torch.randint(0, 2, (n_batch, 17), generator=torch_generator(number, purpose))
    return Batch({"input_ids": ids[:, :-1]}, ids[:, 1:])


def curve(model: LanguageModel, steps: int) -> dict[int, float]:
    """Loss (nats a toss) on unseen tosses after 0, a half and all of the steps."""
    optimizer = InPlaceAdamW(3e-3)
    params = model.init(0)
    state = optimizer.init(params)
    found = {}
    for step in range(steps + 1):
        if step in (0, steps // 2, steps):
            found[step] = float(model.losses(params, tosses(2000, "test", 0)).mean())
        leaves = require_grad(params)
        loss, _ = model.objective(leaves, tosses(32, "train", step))
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        params, state = optimizer.update(params, grads, state)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}; entropy of a toss {math.log(2):.4f} nats")
    for name, model in MODELS.items():
        cells = ", ".join(f"{loss:.4f} after {step}" for step, loss in curve(model, options.steps).items())
        print(f"{name}: {cells} steps", flush=True)


if __name__ == "__main__":
    main()
