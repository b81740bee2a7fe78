"""One meta-gradient on Omniglot's 4-conv network: metascale beside learn2learn's algorithm, higher and TorchOpt.

    pip install -r benchmarks/requirements.txt
    python benchmarks/peers.py [--tasks 4,32] [--repeats 7] [--threads N] [--json FILE]

5-way 1-shot, 15 queries a class, 64 filters, batch statistics, 5 inner steps of SGD, float32, random images (only
shapes matter). Everybody differentiates the same episodes at the same parameters, and the program stops unless all
losses and meta-gradients of one task agree in float64 to 1e-8. (In float32 these episodes sit so near the kinks of ReLU
and pooling that rounding alone moves a meta-gradient by up to some per cent.) Variants run interleaved (A B C A B C
...) after a warm-up; with one thread times are processor seconds, which other work on the machine disturbs least;
nobody's outer update is timed. MB are those of live tensors at the peak of one task. "Of peak" is
the FLOPs that a variant really computes over the matrix-multiply rate measured in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from metascale.core.trees import to
from metascale.core.types import Episode, Params
from metascale.meta.gradients import FOMAML, MAML, MetaGradient
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.meta.reverse import FullGraph
from metascale.models.convnet import ConvNet
from metascale.parallel.execution import Execution
from metascale.training.flops import count_flops
from metascale.training.memory import LiveBytes
from metascale.training.optimizers import SGD
from speed import clock_of, matmul_rate, timed, vectors

WAYS, SHOTS, QUERIES, STEPS, RATE = 5, 1, 15, 5, 0.4
MODEL = ConvNet(WAYS)
Result = tuple[float, dict[str, torch.Tensor]]
"""The mean query loss of a meta-batch and its meta-gradient, by the names of `ConvNet`."""


class Network(nn.Module):
    """The network as it is written for the other libraries."""

    def __init__(self, filters: int = 64) -> None:
        super().__init__()
        blocks = [
            nn.Sequential(
                nn.Conv2d(1 if index == 0 else filters, filters, 3, padding=1, bias=False),
                nn.BatchNorm2d(filters, track_running_stats=False),
                nn.ReLU(),
                nn.MaxPool2d(2),
            )
            for index in range(4)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(filters, WAYS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(x).flatten(1))

    def load(self, params: Params) -> Network:
        own = dict(self.named_parameters())
        with torch.no_grad():
            for name, other in NAMES.items():
                own[name].copy_(params[other].T if name == "head.weight" else params[other])
        return self


NAMES = {
    f"blocks.{index}.{layer}": f"block{index}.{name}"
    for index in range(4)
    for layer, name in (("0.weight", "weight"), ("1.weight", "gain"), ("1.bias", "shift"))
} | {"head.weight": "head.weight", "head.bias": "head.bias"}


def named(net: nn.Module, grads: list[torch.Tensor], n_tasks: int) -> dict[str, torch.Tensor]:
    pairs = zip(net.named_parameters(), grads, strict=True)
    return {NAMES[name]: (grad.T if name == "head.weight" else grad) / n_tasks for (name, _), grad in pairs}


def tasks_of(episode: Episode) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    support, query = episode.support, episode.query
    return zip(support.inputs["x"], support.targets, query.inputs["x"], query.targets, strict=True)


def clone_with(module: nn.Module, tensors: dict[int, torch.Tensor]) -> nn.Module:
    """The same modules around other tensors, which may have a history."""
    copy = module.__new__(type(module))
    copy.__dict__ = dict(module.__dict__)
    copy._parameters = {name: tensors.get(id(p)) for name, p in module._parameters.items()}
    copy._modules = {name: clone_with(child, tensors) for name, child in module._modules.items() if child is not None}
    return copy


def learn2learn_maml(net: Network, episode: Episode, second_order: bool) -> Result:
    """The algorithm of learn2learn's MAML: a clone of the module for each task, steps out of place, one backward."""
    total, meta = 0.0, [torch.zeros_like(p) for p in net.parameters()]
    for xs, ys, xq, yq in tasks_of(episode):
        fast = {id(p): p.clone() for p in net.parameters()}
        for _ in range(STEPS):
            loss = F.cross_entropy(clone_with(net, fast)(xs), ys)
            grads = torch.autograd.grad(loss, list(fast.values()), create_graph=second_order)
            fast = {key: value - RATE * grad for (key, value), grad in zip(fast.items(), grads, strict=True)}
        loss = F.cross_entropy(clone_with(net, fast)(xq), yq)
        for sum_, grad in zip(meta, torch.autograd.grad(loss, list(net.parameters())), strict=True):
            sum_ += grad
        total += float(loss.detach())
    return total / episode.n_tasks, named(net, meta, episode.n_tasks)


def higher_maml(net: Network, episode: Episode, second_order: bool) -> Result:
    import higher

    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
    total, meta = 0.0, [torch.zeros_like(p) for p in net.parameters()]
    for xs, ys, xq, yq in tasks_of(episode):
        with higher.innerloop_ctx(net, optimizer, copy_initial_weights=False, track_higher_grads=second_order) as (
            fast,
            inner,
        ):
            for _ in range(STEPS):
                inner.step(F.cross_entropy(fast(xs), ys))
            loss = F.cross_entropy(fast(xq), yq)
            # Without the history of the steps the gradient stops at the adapted parameters: first-order MAML.
            start = list(fast.parameters(time=0 if second_order else -1))
            for sum_, grad in zip(meta, torch.autograd.grad(loss, start), strict=True):
                sum_ += grad
        total += float(loss.detach())
    return total / episode.n_tasks, named(net, meta, episode.n_tasks)


def torchopt_maml(net: Network, episode: Episode, second_order: bool) -> Result:
    import torchopt

    assert second_order
    inner = torchopt.MetaSGD(net, lr=RATE)
    parameters = list(net.parameters())
    start, start_inner = torchopt.extract_state_dict(net), torchopt.extract_state_dict(inner)
    total, meta = 0.0, [torch.zeros_like(p) for p in parameters]
    for xs, ys, xq, yq in tasks_of(episode):
        for _ in range(STEPS):
            inner.step(F.cross_entropy(net(xs), ys))
        loss = F.cross_entropy(net(xq), yq)
        for sum_, grad in zip(meta, torch.autograd.grad(loss, parameters), strict=True):
            sum_ += grad
        torchopt.recover_state_dict(net, start)
        torchopt.recover_state_dict(inner, start_inner)
        total += float(loss.detach())
    return total / episode.n_tasks, named(net, meta, episode.n_tasks)


def metascale(gradient: MetaGradient, execution: Execution, params: Params, episode: Episode) -> Result:
    grads, report = MetaLearner(gradient, execution=execution).meta_gradient(MODEL, params, episode)
    assert report.query_loss is not None
    return float(report.query_loss.mean()), grads


@dataclass(frozen=True)
class Variant:
    name: str
    second_order: bool
    run: Callable[[Episode], Result]
    alone: Callable[[Episode], Result]
    """The same in the calling thread alone, so that FLOPs and bytes can be counted."""


def variants(params: Params, n_tasks: int, threads: int) -> Iterator[Variant]:
    installed = [name for name in ("higher", "torchopt") if importlib.util.find_spec(name)]
    peers = {"learn2learn's algorithm": learn2learn_maml}
    peers |= {name: {"higher": higher_maml, "torchopt": torchopt_maml}[name] for name in installed}
    inner = InnerLoop(SGD(RATE), steps=STEPS)
    for second_order in (True, False):
        for name, algorithm in peers.items():
            if second_order or name != "torchopt":
                net = Network().to(params["head.bias"].dtype).load(params)

                def peer(episode: Episode, algorithm=algorithm, net=net, second_order=second_order) -> Result:
                    return algorithm(net, episode, second_order)

                yield Variant(name, second_order, peer, peer)
        own: dict[str, MetaGradient] = {"first-order": FOMAML(inner)}
        if second_order:
            own = {"exact": MAML(inner), "unrolled": MAML(inner, FullGraph())}
        at_once = max(1, min(4, n_tasks // threads))
        ways = {"one task after another": Execution(chunk=1), "4 tasks stacked": Execution(chunk=4)}
        if threads > 1:
            del ways["one task after another"]
            count = f"{at_once} task{'s' if at_once > 1 else ''}"
            ways |= {f"{count} a process": Execution(at_once, threads, in_processes=True)}
            ways |= {f"{count} a thread": Execution(at_once, threads)}
        for name, gradient in own.items():
            for how, execution in ways.items():
                yield Variant(
                    f"metascale {name}, {how}",
                    second_order,
                    lambda episode, g=gradient, e=execution: metascale(g, e, params, episode),
                    lambda episode, g=gradient: metascale(g, Execution(chunk=1), params, episode),
                )


def check_agreement(params: Params, episode: Episode, second_order: bool, tolerance: float = 1e-8) -> float:
    """The largest difference from the first variant in float64, relative to the meta-gradient's norm or to the loss.

    Raises:
        SystemExit: it, or a loss, is beyond the tolerance.
    """
    chosen = variants(to(params, dtype=torch.float64), 1, 1)
    one = episode.tasks(0, 1).to(dtype=torch.float64)
    results = {variant.name: variant.alone(one) for variant in chosen if variant.second_order == second_order}
    (first, (loss, grads)), *others = results.items()
    size = torch.sqrt(sum(value.square().sum() for value in grads.values()))
    worst = 0.0
    for name, (other_loss, other) in others:
        error = torch.sqrt(sum((other[key] - value).square().sum() for key, value in grads.items())) / size
        worst = max(worst, float(error), abs(other_loss - loss) / abs(loss))
        if worst > tolerance:
            raise SystemExit(f"{name} differs from {first} by {worst:.2g}")
    return worst


def measure(n_tasks: int, repeats: int, threads: int, rate: float) -> Iterator[dict]:
    params = MODEL.init(0)
    episode = vectors(n_tasks, (1, 28, 28), WAYS, WAYS * SHOTS, WAYS * QUERIES, "cpu")
    chosen = list(variants(params, n_tasks, threads))
    for second_order in (True, False):
        error = check_agreement(params, episode, second_order)
        print(f"{'second' if second_order else 'first'} order: all agree to {error:.1e} in float64")
    for variant in chosen:
        variant.run(episode)
    times: dict[str, list[float]] = {variant.name + str(variant.second_order): [] for variant in chosen}
    for _ in range(repeats):
        for variant in chosen:
            key = variant.name + str(variant.second_order)
            times[key].append(timed(lambda v=variant: v.run(episode), "cpu", clock_of(threads)))
    one = episode.tasks(0, 1)
    for variant in chosen:
        values = times[variant.name + str(variant.second_order)]
        flops = n_tasks * count_flops(lambda v=variant: v.alone(one))
        with LiveBytes({"parameters": params.values()}) as memory:
            variant.alone(one)
        yield {
            "variant": variant.name,
            "second_order": variant.second_order,
            "tasks": n_tasks,
            "threads": threads,
            "repeats": repeats,
            "median_s": statistics.median(values),
            "min_s": min(values),
            "flops": flops,
            "of_peak": flops / statistics.median(values) / rate,
            "matmul_flops": rate,
            "live_bytes_one_task": memory.report().live_bytes,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="4,32")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rate = matmul_rate("cpu", clock=clock_of(options.threads))
    print(f"torch {torch.__version__}, {options.threads} threads, float32 matrix product {rate / 1e9:.0f} GFLOP/s")
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(open(options.json, "w", encoding="utf-8")) if options.json else None
        for n_tasks in map(int, options.tasks.split(",")):
            rows = list(measure(n_tasks, options.repeats, options.threads, rate))
            for row in rows:
                others = [
                    r for r in rows if r["second_order"] == row["second_order"] and "metascale" not in r["variant"]
                ]
                row["ratio_to_fastest_peer"] = min(r["median_s"] for r in others) / row["median_s"]
                if stream is not None:
                    stream.write(json.dumps(row) + "\n")
            show(rows)


def show(rows: list[dict]) -> None:
    print(f"{'variant':42} order {'median':>9} {'least':>9}  ratio  GFLOP of peak    MB")
    for row in rows:
        print(
            f"{row['variant']:42} {2 if row['second_order'] else 1:5} {row['median_s'] * 1e3:7.0f}ms "
            f"{row['min_s'] * 1e3:7.0f}ms {row['ratio_to_fastest_peer']:5.2f}x {row['flops'] / 1e9:6.1f} "
            f"{row['of_peak']:7.1%} {row['live_bytes_one_task'] / 1e6:5.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
