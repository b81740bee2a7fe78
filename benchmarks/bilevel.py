"""Cost of bilevel training: step time and peak memory of every method beside a plain training step, and beside Betty.

    python benchmarks/bilevel.py [--model bert|bert-base|resnet] [--unroll 1,5,10] [--repeats 3] [--only sama,betty]
                                 [--device cuda] [--json FILE]
    python benchmarks/bilevel.py --processes 2 [--link 200]

A step is ``unroll`` lower steps and one upper step: per-example weights of the lower losses by a small network, Adam at
both levels, float32. Times are processor seconds of one thread, all variants in turn within each round, as medians of
the ratio to the plain step of the same round; so a busy machine does not favour anyone. Memory is the peak of live
tensor bytes over three steps from the start, the same at every run. On a GPU times are those of the wall, and memory is
the allocator's peak. "three passes" is what SAMA cannot do without: a
backward pass through the upper loss and two evaluations of the lower loss with its derivative in the upper parameters.

Betty is measured where ``betty`` can be imported: the algorithms of its released package, and SAMA, which that lacks,
where ``sama.py`` and ``utils.py`` of its repository's ``hypergradient`` folder lie beside them (and what these import
from the repository's ``utils.py`` is in the package's).

``--processes`` measures the reduction of the upper gradient instead: bytes a step, and time with and without overlap,
in turn. All processes are on this machine, where a reduction is work of the same processors that compute; ``--link``
emulates a network of so many MB/s between them: a reduction is over no sooner than its bytes would take, one after
another, while the processors are free.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib.util
import itertools
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn

from metascale.bilevel.applications import WeightNet
from metascale.bilevel.batches import Shuffled
from metascale.bilevel.distributed import DataParallel
from metascale.bilevel.levels import from_modules
from metascale.bilevel.training import BilevelTraining
from metascale.hypergrad.darts import DARTS
from metascale.hypergrad.implicit import Implicit
from metascale.hypergrad.linear import CG, Neumann
from metascale.hypergrad.problem import HypergradientSolver, gradients
from metascale.hypergrad.sama import SAMA
from metascale.hypergrad.unrolled import Unrolled
from metascale.training.memory import MIB, measure_memory
from metascale.training.optimizers import Adam

Step = Callable[[], object]
PRODUCTS = 5
RATE = 1e-4
SECOND_ORDER = ("cg", "neumann", "unrolled")


class Block(nn.Module):
    """Two normalised convolutions beside a shortcut (He et al. 2015b)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, 1 if before == after else 2, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(after), nn.BatchNorm2d(after)])
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.norms[0](self.first(x)).relu()
        return (self.norms[1](self.second(inner)) + self.shortcut(x)).relu()


def resnet() -> nn.Module:
    """ResNet-20 of 32×32 images, twice as wide."""
    widths = (32, 32, 32, 32, 64, 64, 64, 128, 128, 128)
    blocks = [Block(a, b) for a, b in itertools.pairwise(widths)]
    stem = [nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


SIZES = {
    "bert": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4},
    "bert-base": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
}


@dataclass(frozen=True)
class Work:
    """What is trained (a name in `SIZES`, or ``"resnet"``), and where."""

    name: str
    device: str = "cpu"

    def clock(self) -> float:
        """Processor seconds of one thread; on a GPU those of the wall when all work is done."""
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


class Bert(nn.Module):
    """Logits of a BERT. Fused attention has no second derivative: ``eager`` where needed."""

    def __init__(self, name: str, attention: str) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        self.inner = BertForSequenceClassification(
            BertConfig(**SIZES[name], vocab_size=2000, num_labels=10, attn_implementation=attention)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(input_ids=x).logits
        return logits


def make_model(work: Work, second_order: bool) -> nn.Module:
    torch.manual_seed(0)
    model = Bert(work.name, "eager" if second_order else "sdpa") if work.name in SIZES else resnet()
    return model.to(work.device).train()


@functools.cache
def examples(work: Work) -> dict[str, torch.Tensor]:
    """64 random examples with random labels."""
    g = torch.Generator().manual_seed(0)
    text = work.name in SIZES
    x = torch.randint(0, 2000, (64, 64), generator=g) if text else torch.randn(64, 3, 32, 32, generator=g)
    return {"x": x.to(work.device), "y": torch.randint(0, 10, (64,), generator=g).to(work.device)}


def lower_loss(model: Any, weights: Any, b: Any) -> torch.Tensor:
    loss: torch.Tensor = weights(F.cross_entropy(model(b["x"]), b["y"], reduction="none"))
    return loss


def upper_loss(model: Any, weights: Any, b: Any) -> torch.Tensor:
    return F.cross_entropy(model(b["x"]), b["y"])


METHODS: dict[str, Callable[[int], HypergradientSolver]] = {
    "sama": lambda unroll: SAMA(),
    "sama, exact product": lambda unroll: SAMA(mixed="exact"),
    "sama unadapted": lambda unroll: SAMA(adapt=False),
    "darts": lambda unroll: DARTS(),
    "cg": lambda unroll: Implicit(CG(PRODUCTS, damping=1.0, on_failure="report")),
    "neumann": lambda unroll: Implicit(Neumann(PRODUCTS, 0.01, damping=1.0, on_failure="report")),
    "unrolled": lambda unroll: Unrolled(unroll),
}


def training(work: Work, method: HypergradientSolver, second_order: bool, **fields: Any) -> BilevelTraining:
    data = examples(work)
    return BilevelTraining(
        from_modules(make_model(work, second_order), WeightNet().to(work.device), lower_loss, upper_loss),
        Shuffled(data, 16),
        Shuffled(data, 16, purpose="upper"),
        method,
        Adam(RATE),
        Adam(RATE),
        **fields,
    )


def ours(work: Work, method: HypergradientSolver, second_order: bool, **fields: Any) -> Step:
    """One bilevel step at a time."""
    process = training(work, method, second_order, **fields)
    state, k = process.init(), 0

    def step() -> None:
        nonlocal state, k
        state, _ = process.step(state, k)
        k += 1

    return step


def plain(work: Work, unroll: int, second_order: bool = False) -> Step:
    """The lower steps alone, as one writes them in torch."""
    model = make_model(work, second_order)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    batches = Shuffled(examples(work), 16)
    numbers = iter(range(10**9))

    def step() -> None:
        for _ in range(unroll):
            b = batches(next(numbers))
            optimizer.zero_grad()
            F.cross_entropy(model(b["x"]), b["y"]).backward()
            optimizer.step()

    return step


def three_passes(work: Work) -> Step:
    """The upper loss' backward pass and two derivatives of the lower loss in λ, and nothing else."""
    process = training(work, SAMA(), False)
    state = process.init()
    window = process._lower_steps(state.held_apart(), 0, True)[1]

    def step() -> None:
        problem = process._problem(state, 0, window)
        gradients(problem.upper_parts, state.lower, state.upper)
        for _ in range(2):
            gradients(problem.mixed_parts, state.lower, state.upper, of_lower=False)

    return step


def betty(work: Work, method: str, unroll: int) -> Step:
    """A step of Betty's engine: its problems, its optimiser steps, the same models, losses and batches."""
    from betty import hypergradient
    from betty.configs import Config, EngineConfig
    from betty.engine import Engine
    from betty.problems import ImplicitProblem

    if method.startswith("sama"):
        from betty.hypergradient.sama import sama

        hypergradient.jvp_fn_mapping["sama"] = lambda vector, curr, prev: sama(vector, curr, prev, False)

    class Problem(ImplicitProblem):
        def get_opt_param_group_for_param(self, param: Any) -> Any:
            return self.optimizer.param_groups[0]

        def get_opt_state_for_param(self, param: Any) -> Any:
            return self.optimizer.state[param]

        def meta_trainable_parameters(self) -> Any:
            return self.trainable_parameters()

    class Lower(Problem):
        def training_step(self, batch: Any) -> torch.Tensor:
            losses = F.cross_entropy(self(batch[0]), batch[1], reduction="none")
            weights: torch.Tensor = torch.sigmoid(self.upper(losses.detach().unsqueeze(-1)).squeeze(-1))
            return (weights * losses).mean()

        def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
            super().optimizer_step(*args, **kwargs)
            if method == "sama":  # its adaptation reads the last gradient from the optimiser's state
                for param in self.trainable_parameters():
                    self.optimizer.state[param]["last_grad"] = param.grad.detach()

    class Upper(Problem):
        def training_step(self, batch: Any) -> torch.Tensor:
            return F.cross_entropy(self.lower(batch[0]), batch[1])

    config = Config(type=method.split()[0], unroll_steps=unroll)
    config.neumann_iterations = config.cg_iterations = PRODUCTS
    config.neumann_alpha, config.sama_adam_alpha, config.sama_multitask = 0.01, 0.01, False
    model, weights = make_model(work, method in SECOND_ORDER), WeightNet().to(work.device).network
    # Betty adapts to what an optimiser's class is called; under another name Adam counts as plain descent.
    kind = torch.optim.Adam if method != "sama unadapted" else type("Descent", (torch.optim.Adam,), {})
    lower = Lower("lower", config, model, kind(model.parameters(), RATE), train_data_loader=_Batches(work, "batches"))
    above = torch.optim.Adam(weights.parameters(), RATE)
    upper = Upper("upper", Config(), weights, above, train_data_loader=_Batches(work, "upper"))
    logging.getLogger().handlers.clear()
    logging.disable(logging.INFO)
    engine = Engine(
        problems=[upper, lower],
        config=EngineConfig(train_iters=1),
        dependencies={"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
    )
    engine.train()

    def step() -> None:
        for _ in range(unroll):
            engine.global_step += 1
            engine.train_step()

    return step


class _Batches:
    """Endless batches as a data loader would bring them."""

    def __init__(self, work: Work, purpose: str) -> None:
        self.batches = Shuffled(examples(work), 16, purpose=purpose)

    def __iter__(self) -> Any:
        for n in range(10**9):
            batch = self.batches(n)
            yield batch["x"], batch["y"]


def variants(work: Work, unroll: int, only: Sequence[str]) -> dict[str, Callable[[], Step]]:
    """What is compared at one unroll, by name; the first is the unit."""
    wanted: dict[str, Callable[[], Step]] = {
        "plain": lambda: plain(work, unroll),
        "lower steps alone": lambda: ours(work, SAMA(), False, unroll_steps=unroll, warmup=10**9),
    }
    if unroll == 1:
        wanted["three passes"] = lambda: three_passes(work)
    for method, make in METHODS.items():
        second = method in SECOND_ORDER
        wanted[method] = functools.partial(ours, work, make(unroll), second, unroll_steps=unroll)
    wanted["sama, upper pass in training mode"] = functools.partial(
        ours, work, SAMA(), False, unroll_steps=unroll, upper_dropout=True
    )
    if importlib.util.find_spec("betty") is not None:
        names = ["darts", "cg", "neumann"]
        if importlib.util.find_spec("betty.hypergradient.sama") is not None:
            names = ["sama", "sama unadapted", *names]
        for method in names:
            wanted[f"betty {method}"] = functools.partial(betty, work, method, unroll)
    first = list(wanted)[:1]
    return {key: make for key, make in wanted.items() if key in first or not only or any(o in key for o in only)}


def peak(make: Callable[[], Step], device: str, steps: int = 2) -> float:
    """MiB of live tensors at the peak of some steps, everything included."""

    def call(meter: Any) -> Step:
        step = make()
        for _ in range(steps):
            step()
        return step

    gc.collect()
    return measure_memory(call, device=device).peak_bytes / MIB


def compare(work: Work, unroll: int, repeats: int, only: Sequence[str], memory: bool) -> list[dict[str, Any]]:
    """Ratios to the plain step, in rounds through all variants."""
    chosen = variants(work, unroll, only)
    bytes_at = {key: peak(make, work.device) for key, make in chosen.items() if key != "three passes"} if memory else {}
    running = {key: make() for key, make in chosen.items()} if repeats else {}
    for step in running.values():
        step()
    times: dict[str, list[float]] = {key: [] for key in running}
    for _ in range(repeats):
        for key, step in running.items():
            began = work.clock()
            step()
            times[key].append(work.clock() - began)
    unit = next(iter(chosen))
    rows = []
    for key in chosen:
        row: dict[str, Any] = {"model": work.name, "device": work.device, "unroll": unroll, "variant": key}
        if repeats:
            ratio = statistics.median(a / b for a, b in zip(times[key], times[unit], strict=True))
            row |= {"step_s": statistics.median(times[key]), "time_ratio": ratio}
        if key in bytes_at:
            row |= {"peak_mib": bytes_at[key], "memory_ratio": bytes_at[key] / bytes_at[unit]}
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| model | unroll | variant | step, s | time / plain | peak MiB | memory / plain |",
        "|---|" + "---|" * 6,
    ]
    for row in rows:
        spent = f"{row['step_s']:.3f} | {row['time_ratio']:.2f}" if "step_s" in row else " | "
        memory = f"{row['peak_mib']:.1f} | {row['memory_ratio']:.3f}" if "peak_mib" in row else " | "
        lines.append(f"| {row['model']} | {row['unroll']} | {row['variant']} | {spent} | {memory} |")
    return "\n".join(lines)


class Wide(nn.Module):
    """An upper model large enough that its reduction takes time: a weight from an example's features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 1)
        )

    def forward(self, features: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
        return (torch.sigmoid(self.layers(features).squeeze(-1)) * losses).mean()


class Link:
    """Counts what is reduced, and lets it take as long as a network of ``rate`` bytes a second would (0: no more)."""

    def __init__(self, rate: float) -> None:
        self.rate, self.free, self.bytes, self._real = rate, 0.0, 0, dist.all_reduce

    def all_reduce(self, tensor: torch.Tensor, *args: Any, async_op: bool = False, **kwargs: Any) -> Any:
        size = tensor.numel() * tensor.element_size()
        self.bytes += size
        if self.rate:
            self.free = max(self.free, time.perf_counter()) + size / self.rate
        work = _Delayed(self._real(tensor, *args, async_op=True, **kwargs), self.free)
        return work if async_op else work.wait()


class _Delayed:
    """Work that is not over before a time of the clock."""

    def __init__(self, work: Any, until: float) -> None:
        self.work, self.until = work, until

    def wait(self) -> None:
        self.work.wait()
        time.sleep(max(0.0, self.until - time.perf_counter()))


def overlap_worker(rank: int, processes: int, store: str, repeats: int, rate: float, queue: Any) -> None:
    """Steps with and without overlap in turn; process 0 reports seconds and bytes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    g = torch.Generator().manual_seed(0)
    data = {"x": torch.randn(512, 512, generator=g), "y": torch.randint(0, 10, (512,), generator=g)}

    def make(overlap: bool) -> BilevelTraining:
        torch.manual_seed(0)
        model, wide = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)), Wide()
        levels = from_modules(
            model, wide, lambda m, w, b: w(b["x"], F.cross_entropy(m(b["x"]), b["y"], reduction="none")), upper_loss
        )
        batches = Shuffled(data, 128), Shuffled(data, 128, purpose="upper")
        shared = DataParallel(overlap=overlap, bucket_bytes=2**22)
        fields: dict[str, Any] = {"lower_accumulation": processes, "upper_accumulation": processes, "processes": shared}
        return BilevelTraining(levels, *batches, SAMA(), Adam(RATE), Adam(RATE), **fields)

    kinds = {"with overlap": make(True), "without overlap": make(False)}
    link = Link(rate)
    dist.all_reduce = link.all_reduce
    times: dict[str, list[float]] = {key: [] for key in kinds}
    states = {key: process.init() for key, process in kinds.items()}
    sizes = {
        level: sum(v.numel() * 4 for v in getattr(states["with overlap"], level).values())
        for level in ("lower", "upper")
    }
    for k in range(repeats + 1):
        # Who goes first alternates, since what one leaves in the caches the other finds.
        for key, process in list(kinds.items())[:: 1 if k % 2 else -1]:
            dist.barrier()
            before, began = link.bytes, time.perf_counter()
            states[key], _ = process.step(states[key], k)
            dist.barrier()
            if k:
                times[key].append(time.perf_counter() - began)
            sizes["step"] = link.bytes - before
    if rank == 0:
        queue.put((times, sizes))
    dist.destroy_process_group()


def overlap(processes: int, repeats: int, rate: float) -> list[dict[str, Any]]:
    import tempfile

    context = mp.get_context("spawn")
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (processes, f"{folder}/store", repeats, rate, queue)
        running = [context.Process(target=overlap_worker, args=(rank, *arguments)) for rank in range(processes)]
        for process in running:
            process.start()
        times, sizes = queue.get()
        for process in running:
            process.join()
    ratios = [a / b for a, b in zip(times["with overlap"], times["without overlap"], strict=True)]
    common = {"processes": processes, "link_mb_s": rate / 1e6, "lower_bytes": sizes["lower"]}
    common |= {"upper_bytes": sizes["upper"], "reduced_bytes_a_step": sizes["step"], "rounds": len(ratios)}
    common |= {"with_over_without": statistics.median(ratios), "smallest": min(ratios), "largest": max(ratios)}
    return [{"variant": key, "wall_s": statistics.median(spent), **common} for key, spent in times.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=(*SIZES, "resnet"), default="bert")
    parser.add_argument("--unroll", default="1", help="lower steps an upper step, separated by commas")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of timing; 0 measures memory alone")
    parser.add_argument("--only", default="", help="parts of variants' names, separated by commas")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--processes", type=int, default=0, help="measure the reduction over so many processes instead")
    parser.add_argument("--link", type=float, default=0.0, help="with --processes: emulate a network of so many MB/s")
    parser.add_argument("--json", help="append one JSON line a row")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    rows: list[dict[str, Any]] = []
    if chosen.processes:
        rows = overlap(chosen.processes, chosen.repeats, chosen.link * 1e6)
    else:
        only = [part for part in chosen.only.split(",") if part]
        for unroll in map(int, chosen.unroll.split(",")):
            rows += compare(Work(chosen.model, chosen.device), unroll, chosen.repeats, only, not chosen.no_memory)
        print(table(rows))
    for row in rows:
        if chosen.processes:
            print(json.dumps(row))
        if chosen.json:
            with open(chosen.json, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
