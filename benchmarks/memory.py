"""Memory of meta-gradients: from full-parameter unrolled MAML down to exact ones at first-order memory, and their time.

    python benchmarks/memory.py [--models bert,gpt2,tinyllama] [--steps 1,3,5,10,20] [--json FILE]
    python benchmarks/memory.py --time [--repeats 5] [--threads 4]
    python benchmarks/memory.py --device cuda --layers tinyllama=22

The peak of one task's meta-gradient (the tasks of a meta-batch run one after another): 5-way 5-shot, 15 queries a
class, texts of 32 tokens, rank 8, inner SGD, float32, random weights. Bytes of live tensors are counted on tensors
without values (torch's meta device), so that no time is spent on numbers, shapes of any size fit, and every run gives
the same; on a GPU it is the allocator's peak of a real run after a warm-up. Every measurement is also one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metascale.core.types import Batch, Episode, Model
from metascale.hypergrad.curvature import GaussNewton
from metascale.meta.gradients import MAML, profile_gradient
from metascale.meta.inner import InnerLoop
from metascale.meta.reverse import Through, named_through
from metascale.models.text.classifiers import AdapterClassifier, FullClassifier
from metascale.models.text.heads import LearnedHead
from metascale.models.text.hf import load_config, random_backbone
from metascale.parallel.budget import frozen_weights
from metascale.training.memory import MIB, MemoryReport
from metascale.training.optimizers import SGD

WAYS, SHOTS, QUERIES, LENGTH, RANK = 5, 5, 15, 32, 8
LAYERS = {"bert": 6, "gpt2": 4, "tinyllama": 2}
"""Layers of the shapes; where fewer than the published ones, activations, gradients and adapters shrink together."""
SHAPE_NAMES = {"bert": "minilm-l6", "gpt2": "gpt2", "tinyllama": "tinyllama"}


@dataclass(frozen=True)
class Variant:
    """One row of the waterfall; ``sweep`` holds the inner steps it is measured at beside 5, ``None`` for all."""

    name: str
    through: str
    full: bool = False
    checkpoint_blocks: str = "none"
    micro_batch: int | None = None
    keep_gradients: int | None = None
    sweep: tuple[int, ...] | None = ()


VARIANTS = (
    Variant("R1 full parameters, unrolled", "unrolled", full=True),
    Variant("R2 adapters, unrolled", "unrolled", sweep=None),
    Variant("exact", "exact", sweep=None),
    Variant("exact, 5 gradients kept", "exact", keep_gradients=5, sweep=(1, 20)),
    Variant("exact, checkpointed", "exact", checkpoint_blocks="adapters", sweep=(1, 20)),
    Variant("exact, micro-batches of 5", "exact", micro_batch=5, sweep=(1, 20)),
    Variant("exact, checkpointed, micro 5", "exact", checkpoint_blocks="adapters", micro_batch=5, sweep=(1, 20)),
    Variant(
        "exact, checkpointed, micro 5, 5 kept",
        "exact",
        checkpoint_blocks="adapters",
        micro_batch=5,
        keep_gradients=5,
        sweep=(1, 20),
    ),
    Variant("exact, checkpointed, micro 1", "exact", checkpoint_blocks="adapters", micro_batch=1),
    Variant("block diagonal", "block_diagonal"),
    Variant("diagonal (Hutchinson, 4 probes)", "diagonal_hutchinson"),
    Variant("diagonal (Fisher)", "diagonal"),
    Variant("finite difference", "finite_difference"),
    Variant("Gauss-Newton", "gauss_newton"),
    Variant("first order", "none", sweep=None),
    Variant("first order, micro-batches of 5", "none", micro_batch=5),
    Variant("first order, checkpointed, micro 5", "none", checkpoint_blocks="adapters", micro_batch=5),
)


class NoPadding(TorchDispatchMode):
    """Answers the one question that a backbone asks of tensors without values: yes, every token is a real one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device.type == "meta":
            return True
        return func(*args, **(kwargs or {}))


def backbone(name: str, layers: int, device: str) -> Any:
    config = load_config(SHAPE_NAMES[name])
    config.num_hidden_layers = layers
    with torch.device(device):
        return random_backbone(config, 0, attn_implementation="eager", device=device)


def texts(vocabulary: int, device: str) -> Episode:
    generator = torch.Generator().manual_seed(0)

    def batch(n_examples: int) -> Batch:
        ids = torch.randint(5, vocabulary, (1, n_examples, LENGTH), generator=generator)
        targets = torch.arange(n_examples).remainder(WAYS).unsqueeze(0)
        return Batch({"input_ids": ids}, targets).to(device)

    return Episode(("task",), batch(WAYS * SHOTS), batch(WAYS * QUERIES))


def method(variant: Variant, steps: int) -> MAML:
    through: Through = named_through(variant.through, probes=4)
    if variant.through == "gauss_newton":
        through = GaussNewton("difference")  # forward mode has no tensors without values; both keep no graph for J v
    inner = InnerLoop(SGD(1e-3), steps=steps, micro_batch=variant.micro_batch, keep_gradients=variant.keep_gradients)
    return MAML(inner, through)


def classifier(variant: Variant, weights: Any) -> Model:
    if variant.full:
        return FullClassifier(weights, WAYS, head=LearnedHead())
    return AdapterClassifier(
        weights, WAYS, rank=RANK, dropout=0.0, head=LearnedHead(), checkpoint_blocks=variant.checkpoint_blocks
    )


def measure(variant: Variant, name: str, layers: int, steps: int, device: str, weights: Any = None) -> MemoryReport:
    """One measurement; ``weights``: a backbone that was made before, for all variants that leave it frozen."""
    weights = backbone(name, layers, device) if weights is None else weights
    model = classifier(variant, weights)
    theta = model.init(0)
    episode = texts(weights.config.vocab_size, device)
    if device != "meta":
        method(variant, 1)(model, theta, episode, None)
    frozen = frozen_weights(model)
    with NoPadding():
        return profile_gradient(method(variant, steps), model, theta, episode, weights=frozen, device=device)


def measured(variant: Variant, steps: list[int]) -> list[int]:
    """The inner steps that a variant is measured at, of those asked for."""
    main = 5 if 5 in steps else steps[-1]
    return [k for k in steps if k == main or variant.sweep is None or k in variant.sweep]


def waterfall(name: str, layers: int, steps: list[int], device: str) -> Iterator[dict[str, Any]]:
    frozen = None
    for variant in VARIANTS:
        for k in measured(variant, steps):
            if frozen is None and not variant.full:
                frozen = backbone(name, layers, device)
            report = measure(variant, name, layers, k, device, None if variant.full else frozen)
            yield {
                "what": "peak",
                "model": name,
                "layers": layers,
                "variant": variant.name,
                "inner_steps": k,
                "device": device,
                "counted": "max_memory_allocated" if device == "cuda" else "live bytes",
                **report.row(),
            }


def table(rows: list[dict[str, Any]], steps: list[int]) -> str:
    """Peaks in MiB: in all and without static weights at the main K; the sweep; and the ratios that matter."""
    main = 5 if 5 in steps else steps[-1]
    at = {(row["variant"], row["inner_steps"]): row for row in rows}
    r1, first = (at[name, main]["peak_without_weights_bytes"] for name in (VARIANTS[0].name, "first order"))
    lines = [
        f"{'MiB':36} {'in all':>9} {'w/o weights':>11} {'of R1':>7} {'/ first':>7}  "
        + " ".join(f"{f'K={k}':>9}" for k in steps)
    ]
    for variant in VARIANTS:
        row = at[variant.name, main]
        dynamic = row["peak_without_weights_bytes"]
        sweep = [at.get((variant.name, k)) for k in steps]
        lines.append(
            f"{variant.name:36} {row['peak_bytes'] / MIB:9.1f} {dynamic / MIB:11.1f} {dynamic / r1:7.1%} "
            f"{dynamic / first:7.2f}  "
            + " ".join(f"{found['peak_without_weights_bytes'] / MIB:9.1f}" if found else " " * 9 for found in sweep)
        )
    return "\n".join(lines)


TIMED = ("R2 adapters, unrolled", "exact", "exact, checkpointed, micro 5", "first order")


def times(repeats: int, threads: int, layers: int) -> list[dict[str, Any]]:
    """Seconds of one task's meta-gradient on the encoder, K = 5: medians of interleaved runs after a warm-up.

    Beside the wall's, those of the processor, which tell more where the machine is shared.
    """
    torch.set_num_threads(threads)
    weights = backbone("bert", layers, "cpu")
    episode = texts(weights.config.vocab_size, "cpu")
    chosen = [variant for variant in VARIANTS if variant.name in TIMED]
    models = [classifier(variant, weights) for variant in chosen]
    wall: dict[str, list[float]] = {variant.name: [] for variant in chosen}
    processor: dict[str, list[float]] = {variant.name: [] for variant in chosen}
    for repeat in range(repeats + 1):
        for variant, model in zip(chosen, models, strict=True):
            theta = model.init(0)
            began, spent = time.perf_counter(), time.process_time()
            method(variant, 5)(model, theta, episode, None)
            if repeat:
                wall[variant.name].append(time.perf_counter() - began)
                processor[variant.name].append(time.process_time() - spent)
    unrolled = {id(kind): statistics.median(kind[TIMED[0]]) for kind in (wall, processor)}
    return [
        {
            "what": "time",
            "model": "bert",
            "layers": layers,
            "variant": name,
            "inner_steps": 5,
            "threads": threads,
            "median_s": statistics.median(wall[name]),
            "of_unrolled": statistics.median(wall[name]) / unrolled[id(wall)],
            "median_cpu_s": statistics.median(processor[name]),
            "cpu_of_unrolled": statistics.median(processor[name]) / unrolled[id(processor)],
        }
        for name in TIMED
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="bert,gpt2,tinyllama")
    parser.add_argument("--layers", default="", help="such as gpt2=12,tinyllama=22")
    parser.add_argument("--steps", default="1,3,5,10,20")
    parser.add_argument("--time", action="store_true", help="measure time instead of memory")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="meta", help="meta: count without computing; cpu: compute too; cuda")
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    layers = {**LAYERS, **{k: int(v) for k, v in (pair.split("=") for pair in options.layers.split(",") if pair)}}
    steps = [int(k) for k in options.steps.split(",")]
    records: list[dict[str, Any]] = []
    if options.time:
        records = times(options.repeats, options.threads, layers["bert"])
        for row in records:
            print(
                f"{row['variant']:36} {row['median_s']:8.2f} s {row['of_unrolled']:6.2f} of unrolled;  processor "
                f"{row['median_cpu_s']:8.2f} s {row['cpu_of_unrolled']:6.2f} of unrolled"
            )
    for name in [] if options.time else options.models.split(","):
        rows = list(waterfall(name, layers[name], steps, options.device))
        records += rows
        weights = rows[-1]["weights_bytes"] / MIB
        print(f"\n{name}, {layers[name]} layers, {weights:.0f} MiB of weights; without weights against K on the right")
        print(table(rows, steps), flush=True)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in records)


if __name__ == "__main__":
    main()
