"""A frozen backbone in float32, bfloat16 and 8 bits: time, memory, and what rounding does to a loss.

    python benchmarks/int8.py [--only bert,tinyllama,stories] [--repeats 5] [--threads 1] [--json FILE]

bert, tinyllama: first-order meta-gradient of one task by LoRA, 2 inner steps, 25 + 75 texts of 32 tokens, random
weights (6 layers, 1 layer); processor seconds, which other work on the machine disturbs least, medians of runs in turn.
stories: a trained language model of 260,000 parameters (``METASCALE_DATA/stories260k/hf``) on texts that it samples
itself: nats a token and processor seconds of one pass.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from memory import SHAPE_NAMES, VARIANTS, classifier, method, texts
from metascale.models.kernels.int8 import quantise
from metascale.models.text.hf import load_config, load_whole, random_backbone

PRECISIONS = ("float32", "bfloat16", "int8")
BACKBONES = {"bert": 6, "tinyllama": 1}
FIRST_ORDER = next(variant for variant in VARIANTS if variant.name == "first order")


def weights_bytes(module: torch.nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in (*module.parameters(), *module.buffers()))


def adapted(name: str) -> Iterator[tuple[str, Callable[[], float], int]]:
    """Of each precision: its name, one meta-gradient that returns the query loss, and the bytes of its weights."""
    for dtype in PRECISIONS:
        config = load_config(SHAPE_NAMES[name])
        config.num_hidden_layers = BACKBONES[name]
        backbone = random_backbone(config, 0, dtype=dtype)
        model, episode = classifier(FIRST_ORDER, backbone), texts(config.vocab_size, "cpu")

        def run(model: Any = model, episode: Any = episode) -> float:
            _, report = method(FIRST_ORDER, 2)(model, model.init(0), episode, None)
            return float(report.query_loss.mean())

        yield dtype, run, weights_bytes(backbone)


def stories() -> Iterator[tuple[str, Callable[[], float], int]]:
    folder = Path(os.environ["METASCALE_DATA"]) / "stories260k" / "hf"
    torch.manual_seed(0)
    start = torch.full((16, 1), 1)
    whole = load_whole(folder, "AutoModelForCausalLM", "eager")
    ids = whole.generate(start, max_new_tokens=200, do_sample=True, pad_token_id=0)
    for dtype in PRECISIONS:
        model = load_whole(folder, "AutoModelForCausalLM", "eager")
        if dtype == "int8":
            quantise(model)
        elif dtype == "bfloat16":
            model.to(torch.bfloat16)

        def run(model: Any = model) -> float:
            with torch.no_grad():
                return float(model(ids, labels=ids).loss)

        yield dtype, run, weights_bytes(model)


def measure(name: str, repeats: int) -> list[dict[str, Any]]:
    chosen = list(stories() if name == "stories" else adapted(name))
    spent: dict[str, list[float]] = {dtype: [] for dtype, _, _ in chosen}
    losses: dict[str, float] = {}
    for repeat in range(repeats + 1):
        for dtype, run, _ in chosen:
            began = time.process_time()
            losses[dtype] = run()
            if repeat:
                spent[dtype].append(time.process_time() - began)
    whole = statistics.median(spent["float32"])
    return [
        {
            "model": name,
            "dtype": dtype,
            "weights_bytes": n_bytes,
            "median_cpu_s": statistics.median(spent[dtype]),
            "min_cpu_s": min(spent[dtype]),
            "of_float32": statistics.median(spent[dtype]) / whole,
            "query_loss_nats": losses[dtype],
            "repeats": repeats,
            "threads": torch.get_num_threads(),
        }
        for dtype, _, n_bytes in chosen
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="bert,tinyllama,stories")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = []
    for name in options.only.split(","):
        for row in measure(name, options.repeats):
            lines.append(json.dumps(row))
            print(
                f"{name:10} {row['dtype']:9} {row['weights_bytes'] / 2**20:7.1f} MiB {row['median_cpu_s']:7.3f} CPU s "
                f"{row['of_float32']:5.2f} of float32, loss {row['query_loss_nats']:.5f}",
                flush=True,
            )
    if options.json:
        Path(options.json).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
