"""One exact meta-gradient of LoRA on GPT-2- and Llama-shaped models: metascale beside ``torch.func``, the same model.

    python benchmarks/peers_second_order.py [--models gpt2,tinyllama] [--tasks 2] [--repeats 5] [--threads N]
                                            [--json FILE]

The functional way: peft's adapters on the same backbone, called by ``torch.func.functional_call``; 3 inner steps of
SGD through ``torch.func.grad``, and the gradient of the query loss through all of them, one task after another or all
tasks by ``torch.func.vmap``. Support 5 texts, query 10, of 16 tokens, 5 classes, rank 8, eager attention, float32,
random weights and tokens: only shapes matter (GPT-2 small with 2 layers, TinyLlama with 1). The program stops unless
losses and meta-gradients of one task agree in float64 to 1e-8 (to 1e-6 for TinyLlama, whose norms are float32 in any
case). Variants run interleaved after a warm-up; with one thread times are processor seconds, which other work on the
machine disturbs least. MB are those of live tensors at the peak of one task, frozen weights left out; FLOPs are counted
while one task runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, grad_and_value, vmap

import memory
from metascale.core.types import Batch, Episode, Params
from metascale.meta.gradients import MAML
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.meta.reverse import FullGraph, Through
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import LearnedHead
from metascale.models.text.hf import load_config, random_backbone
from metascale.parallel.budget import frozen_weights
from metascale.parallel.execution import Execution
from metascale.training.flops import count_flops
from metascale.training.memory import measure_memory
from metascale.training.optimizers import SGD
from speed import clock_of, matmul_rate, timed

CLASSES, SUPPORT, QUERY, LENGTH, STEPS, RATE, RANK, ALPHA = 5, 5, 10, 16, 3, 1e-3, 8, 16.0
LAYERS, TOLERANCE = {"gpt2": 2, "tinyllama": 1}, {"gpt2": 1e-8, "tinyllama": 1e-6}
Result = tuple[float, dict[str, torch.Tensor]]
"""The mean query loss of a meta-batch and its meta-gradient, by our names."""


class Loss(nn.Module):
    """The mean cross-entropy of peft's model and a linear head, pooled as ours."""

    def __init__(self, model: AdapterClassifier, backbone: Any) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model

        targets = list(model.target_names)
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, lora_dropout=0.0)
        self.inner = get_peft_model(backbone, config).eval()
        self.head = nn.Linear(model.n_features, CLASSES, dtype=model.dtype)
        self.pool = model.pool_name

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        hidden = self.inner(input_ids=ids, use_cache=False).last_hidden_state
        pooled = {"mean": hidden.mean(1), "first": hidden[:, 0], "last": hidden[:, -1]}[self.pool]
        return F.cross_entropy(self.head(pooled), targets)

    def names(self) -> dict[str, str]:
        """Of every trained tensor: its own name, and ours."""
        found = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                ours = name.removeprefix("inner.base_model.model.").replace(".default.weight", "")
                found[name] = ours
        return found


class Functional:
    """Exact MAML as one writes it with ``torch.func``."""

    def __init__(self, model: AdapterClassifier, params: Params, backbone: Any, at_once: bool = False) -> None:
        self.module = Loss(model, backbone)
        self.names = self.module.names()
        assert set(self.names.values()) == set(params), sorted(set(self.names.values()) ^ set(params))
        self.theta = {name: params[ours].detach() for name, ours in self.names.items()}
        self.at_once = at_once

    def loss(self, tensors: dict[str, torch.Tensor], ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional_call(self.module, tensors, (ids, targets))

    def query_loss(self, theta: dict[str, torch.Tensor], *data: torch.Tensor) -> torch.Tensor:
        phi = theta
        for _ in range(STEPS):
            slopes = grad(self.loss)(phi, *data[:2])
            phi = {name: value - RATE * slopes[name] for name, value in phi.items()}
        return self.loss(phi, *data[2:])

    def __call__(self, episode: Episode) -> Result:
        batches = (episode.support, episode.query)
        data = [tensor for batch in batches for tensor in (batch.inputs["input_ids"], batch.targets)]
        one = grad_and_value(self.query_loss)
        if self.at_once:
            slopes, losses = vmap(one, in_dims=(None, 0, 0, 0, 0))(self.theta, *data)
            return float(losses.mean()), {self.names[name]: value.mean(0) for name, value in slopes.items()}
        total, meta = 0.0, {ours: torch.zeros_like(self.theta[name]) for name, ours in self.names.items()}
        for task in range(episode.n_tasks):
            slopes, loss = one(self.theta, *(tensor[task] for tensor in data))
            total += float(loss)
            for name, value in slopes.items():
                meta[self.names[name]] += value / episode.n_tasks
        return total / episode.n_tasks, meta


@dataclass(frozen=True)
class Variant:
    name: str
    run: Callable[[Episode], Result]
    alone: Callable[[Episode], Result]
    """The same in the calling thread alone, so that FLOPs and bytes can be counted."""
    weights: list[torch.Tensor]
    """What is frozen."""


def texts(n_tasks: int, vocabulary: int) -> Episode:
    generator = torch.Generator().manual_seed(0)

    def batch(n_examples: int) -> Batch:
        ids = torch.randint(5, vocabulary, (n_tasks, n_examples, LENGTH), generator=generator)
        return Batch({"input_ids": ids}, torch.arange(n_examples).remainder(CLASSES).expand(n_tasks, n_examples))

    return Episode(tuple(map(str, range(n_tasks))), batch(SUPPORT), batch(QUERY))


def variants(config: Any, dtype: str, threads: int, theta: Params | None = None) -> Iterator[Variant]:
    """The functional ways and ours, at the parameters ``theta`` (by default random ones)."""

    def backbone() -> Any:
        return random_backbone(config, 0, dtype=dtype, attn_implementation="eager")

    def frozen(module: nn.Module) -> list[torch.Tensor]:
        return [value for value in (*module.parameters(), *module.buffers()) if not value.requires_grad]

    head = LearnedHead(feature_norm=None)
    model = AdapterClassifier(backbone(), CLASSES, rank=RANK, alpha=ALPHA, dropout=0.0, head=head)
    params = theta or started(model)
    for name, at_once in (("torch.func, task by task", False), ("torch.func, vmap over tasks", True)):
        peer = Functional(model, params, backbone(), at_once)
        yield Variant(name, peer, peer, frozen(peer.module))
    inner = InnerLoop(SGD(RATE), steps=STEPS)
    ways: dict[str, tuple[Through | None, Execution]] = {
        "metascale, exact, tasks stacked": (None, Execution()),
        "metascale, exact, one task a thread": (None, Execution(1, threads)),
        "metascale, unrolled, tasks stacked": (FullGraph(), Execution()),
        "metascale, unrolled, one task a thread": (FullGraph(), Execution(1, threads)),
    }
    if threads == 1:
        ways = {name: way for name, way in ways.items() if way[1].workers == 1 and "thread" not in name}
    for name, (through, execution) in ways.items():
        gradient = MAML(inner) if through is None else MAML(inner, through)

        def ours(episode: Episode, execution: Execution, gradient: MAML = gradient) -> Result:
            grads, report = MetaLearner(gradient, execution=execution).meta_gradient(model, params, episode)
            return float(report.query_loss.mean()), grads

        yield Variant(
            name,
            lambda episode, run=ours, way=execution: run(episode, way),
            lambda episode, run=ours: run(episode, Execution(chunk=1)),
            list(frozen_weights(model)),
        )


def started(model: AdapterClassifier) -> Params:
    """Adapters whose B is not zero, so that every derivative is at work."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: value + 0.02 * torch.randn(value.shape, generator=generator, dtype=torch.float32).to(value.dtype)
        for name, value in model.init(0).items()
    }


def check_agreement(config: Any, tolerance: float) -> float:
    """The largest difference from the first variant in float64, relative to the meta-gradient's norm or to the loss.

    Raises:
        SystemExit: it is beyond the tolerance.
    """
    episode = texts(1, config.vocab_size)
    results = {variant.name: variant.alone(episode) for variant in variants(config, "float64", 1)}
    (first, (loss, grads)), *others = results.items()
    size = torch.sqrt(sum(value.square().sum() for value in grads.values()))
    worst = 0.0
    for name, (other_loss, other) in others:
        error = torch.sqrt(sum((other[key] - value).square().sum() for key, value in grads.items())) / size
        worst = max(worst, float(error), abs(other_loss - loss) / abs(loss))
        if not worst <= tolerance:
            raise SystemExit(f"{name} differs from {first} by {worst:.2g}")
    return worst


def measure(name: str, config: Any, n_tasks: int, repeats: int, threads: int) -> list[dict[str, Any]]:
    error = check_agreement(config, TOLERANCE[name])
    print(f"{name}: all agree to {error:.1e} in float64", flush=True)
    rate = matmul_rate("cpu", clock=clock_of(threads))
    episode, chosen = texts(n_tasks, config.vocab_size), list(variants(config, "float32", threads))
    times: dict[str, list[float]] = {variant.name: [] for variant in chosen}
    for repeat in range(repeats + 1):
        for variant in chosen:
            seconds = timed(lambda v=variant: v.run(episode), "cpu", clock_of(threads))
            if repeat:
                times[variant.name].append(seconds)
    one = episode.tasks(0, 1)
    rows = []
    for variant in chosen:
        report = measure_memory(lambda meter, v=variant: v.alone(one), {"weights": variant.weights})
        flops = n_tasks * count_flops(lambda v=variant: v.alone(one))
        median = statistics.median(times[variant.name])
        row = {"model": name, "layers": config.num_hidden_layers, "variant": variant.name, "tasks": n_tasks}
        row |= {"threads": threads, "repeats": repeats, "median_s": median, "min_s": min(times[variant.name])}
        row |= {"flops": flops, "matmul_flops": rate, "of_peak": flops / median / rate, "agreement": error}
        rows.append({**row, "live_bytes_one_task": report.peak_without_weights_bytes})
    fastest = min(row["median_s"] for row in rows if "torch.func" in row["variant"])
    least = min(row["live_bytes_one_task"] for row in rows if "torch.func" in row["variant"])
    for row in rows:
        row["ratio_to_fastest_peer"] = fastest / row["median_s"]
        row["memory_of_least_peer"] = row["live_bytes_one_task"] / least
    return rows


def shape(name: str, tiny: bool) -> Any:
    """The published shape with few layers, or a tiny one."""
    config = load_config(memory.SHAPE_NAMES[name])
    config.num_hidden_layers = LAYERS[name]
    if tiny:
        config.hidden_size, config.vocab_size, config.num_hidden_layers, config.num_attention_heads = 32, 100, 2, 4
        if name == "tinyllama":
            config.intermediate_size, config.num_key_value_heads, config.head_dim = 64, 2, 8
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="gpt2,tinyllama")
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tiny", action="store_true", help="small shapes, to see that the program works")
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads")
    rows = []
    for name in options.models.split(","):
        found = measure(name, shape(name, options.tiny), options.tasks, options.repeats, options.threads)
        rows += found
        for row in found:
            print(
                f"{row['variant']:40} median {row['median_s']:6.2f} s, least {row['min_s']:6.2f} s, "
                f"{row['ratio_to_fastest_peer']:5.2f}x, {row['flops'] / 1e9:6.0f} GFLOP, {row['of_peak']:6.1%}, "
                f"{row['live_bytes_one_task'] / 1e6:6.0f} MB ({row['memory_of_least_peer']:.2f})",
                flush=True,
            )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
