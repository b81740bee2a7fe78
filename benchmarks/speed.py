"""Time of one outer step on digits, Omniglot and LoRA text: tasks batched, over threads, and one after another.

    python benchmarks/speed.py [--only digits,omniglot,text] [--tasks 1,4,32] [--repeats 5] [--device D] [--json FILE]

Variants run interleaved (A B C A B C ...) after a warm-up, and the table gives medians and the fraction of the
matrix-multiply rate measured in the same run. Every measurement is also one JSON line. Random inputs serve: only shapes
matter here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch

from metascale.core.types import Batch, Episode, Model
from metascale.meta.gradients import FOMAML, MAML, MetaGradient
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.meta.reverse import FullGraph, named_through
from metascale.models.convnet import ConvNet
from metascale.models.perceptron import Perceptron
from metascale.parallel.execution import Execution
from metascale.training.flops import count_flops
from metascale.training.optimizers import SGD, Adam

Clock: TypeAlias = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """One workload: a model, a meta-gradient and a maker of episodes."""

    name: str
    model: Model
    gradient: MetaGradient
    episode: Callable[[int], Episode]


def vectors(n_tasks: int, shape: tuple[int, ...], n_classes: int, support: int, query: int, device: str) -> Episode:
    generator = torch.Generator().manual_seed(0)

    def batch(n_examples: int) -> Batch:
        inputs = torch.rand(n_tasks, n_examples, *shape, generator=generator)
        targets = torch.randint(0, n_classes, (n_tasks, n_examples), generator=generator)
        return Batch({"x": inputs}, targets).to(device)

    return Episode(tuple(map(str, range(n_tasks))), batch(support), batch(query))


def texts(n_tasks: int, n_tokens: int, vocabulary: int, support: int, query: int, device: str) -> Episode:
    generator = torch.Generator().manual_seed(0)

    def batch(n_examples: int) -> Batch:
        ids = torch.randint(5, vocabulary, (n_tasks, n_examples, n_tokens), generator=generator)
        targets = torch.randint(0, 5, (n_tasks, n_examples), generator=generator)
        return Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, targets).to(device)

    return Episode(tuple(map(str, range(n_tasks))), batch(support), batch(query))


def cases(only: list[str], device: str) -> Iterator[Case]:
    if "digits" in only:
        inner = InnerLoop(SGD(0.1), steps=5)
        model = Perceptron(64, 5, width=64, depth=2)
        yield Case(
            "digits MLP, MAML K=5", model, MAML(inner, FullGraph()), lambda t: vectors(t, (1, 8, 8), 5, 5, 75, device)
        )
    if "omniglot" in only:
        inner = InnerLoop(SGD(0.4), steps=5)
        net = ConvNet(5)
        for name in ("exact", "unrolled"):
            gradient = MAML(inner, named_through(name))
            yield Case(
                f"Omniglot 4-conv, MAML {name} K=5",
                net,
                gradient,
                lambda t: vectors(t, (1, 28, 28), 5, 5, 75, device),
            )
        yield Case(
            "Omniglot 4-conv, FOMAML K=5", net, FOMAML(inner), lambda t: vectors(t, (1, 28, 28), 5, 5, 75, device)
        )
    if "text" in only:
        from metascale.models.text.classifiers import AdapterClassifier
        from metascale.models.text.heads import named_head
        from metascale.models.text.hf import load_backbone

        backbone = load_backbone("minilm-l6", random_init_seed=0, device=device)
        model = AdapterClassifier(backbone, n_classes=5, rank=8, dropout=0.0, head=named_head("learned"))
        gradient = FOMAML(InnerLoop(Adam(5e-4), steps=5))
        yield Case(
            "LoRA BERT 6×384, FOMAML K=5, 25 × 32 tokens",
            model,
            gradient,
            lambda t: texts(t, 32, 30000, 25, 25, device),
        )


def variants(device: str, threads: int) -> dict[str, tuple[Execution, int]]:
    """Name -> (execution, intra-op threads of torch)."""
    if device != "cpu":
        return {"stacked": (Execution(), threads), "one task after another": (Execution(chunk=1), threads)}
    return {
        "one task after another": (Execution(chunk=1), threads),
        "stacked": (Execution(), threads),
        "one task a thread": (Execution(chunk=1, workers=threads), threads),
        "one task a process": (Execution(chunk=1, workers=threads, in_processes=True), threads),
        "four tasks a process": (Execution(chunk=4, workers=threads, in_processes=True), threads),
    }


def matmul_rate(
    device: str,
    size: int = 2048,
    repeats: int = 5,
    dtype: torch.dtype = torch.float32,
    clock: Clock = time.perf_counter,
) -> float:
    """FLOP/s of a matrix product with all threads, at its fastest."""
    a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
    times = [timed(lambda: a @ b, device, clock) for _ in range(repeats + 1)][1:]
    return 2 * size**3 / min(times)


def clock_of(threads: int) -> Clock:
    """With one thread processor seconds, which other work on the machine disturbs least; else those of the wall."""
    return time.process_time if threads == 1 else time.perf_counter


def timed(call: Callable[[], object], device: str, clock: Clock = time.perf_counter) -> float:
    began = clock()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - began


def measure(case: Case, n_tasks: int, repeats: int, device: str, threads: int) -> list[dict]:
    """Interleaved medians of every variant."""
    episode = case.episode(n_tasks)
    learner = MetaLearner(case.gradient)
    state = learner.init(case.model, 0, device)
    one = episode.tasks(0, 1)
    flops = n_tasks * count_flops(lambda: case.gradient(case.model, state.params, one, None))
    runs = {
        name: replace(learner, execution=execution)
        for name, (execution, _) in variants(device, threads).items()
        if n_tasks > 1 or execution.workers == 1
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, chosen in runs.items():
            seconds = timed(lambda chosen=chosen: chosen.step(case.model, state, episode), device)
            if repeat:
                times[name].append(seconds)
    return [
        {"case": case.name, "tasks": n_tasks, "variant": name, "median_s": statistics.median(values), "flops": flops}
        for name, values in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="digits,omniglot,text")
    parser.add_argument("--tasks", default="1,4,32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rate = matmul_rate(options.device)
    print(
        f"torch {torch.__version__}, {options.device}, {options.threads} threads; "
        f"float32 matrix product {rate / 1e9:.0f} GFLOP/s"
    )
    print(f"{'case':48} {'T':>3} {'variant':24} {'median':>9} {'speed-up':>9} {'of peak':>8}")
    records = []
    for case in cases(options.only.split(","), options.device):
        for n_tasks in map(int, options.tasks.split(",")):
            rows = measure(case, n_tasks, options.repeats, options.device, options.threads)
            loop = next(row["median_s"] for row in rows if row["variant"] == "one task after another")
            for row in rows:
                row |= {"speedup_over_loop": loop / row["median_s"], "of_peak": row["flops"] / row["median_s"] / rate}
                records.append({**row, "threads": options.threads, "device": options.device, "matmul_flops": rate})
                print(
                    f"{row['case']:48} {n_tasks:3} {row['variant']:24} {row['median_s'] * 1e3:7.1f}ms "
                    f"{row['speedup_over_loop']:8.2f}x {row['of_peak']:8.1%}",
                    flush=True,
                )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in records)


if __name__ == "__main__":
    main()
