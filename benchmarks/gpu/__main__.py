"""Everything that only a GPU can answer, in one run: LoRA steps at TinyLlama's size, memory, SAMA beside Betty.

    python benchmarks/gpu --out FOLDER [--parts lora,memory,bilevel] [--repeats 10]
    python benchmarks/gpu --out FOLDER --tiny --device cpu      # the same program in a minute, to see that it works

Writes FOLDER/gpu.md, one table a part, and FOLDER/gpu.jsonl, one line a measurement. Parts follow one another; what
does not fit into memory says so and the rest goes on. Random weights and tokens serve: only shapes matter.

lora: one outer step of LoRA of rank 16 on a frozen bfloat16 backbone, 5-way 5-shot, 15 queries a class, 5 inner steps
of Adam, 4 tasks, texts of 8 to 22 tokens padded to the longest. The rate is that of a bfloat16 matrix product in the
same run; FLOPs are counted while a step runs, without those of a fused attention kernel, and tokens are those of texts
without padding. "peft, task by task" is the plain loop, where peft is installed.
memory: the waterfall of benchmarks/memory.py, all layers, by the allocator's peak.
bilevel: benchmarks/bilevel.py with BERT-base and the residual net.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import platform
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bilevel
import memory
import peers_lora
from metascale.core.types import Batch, Episode
from metascale.meta.gradients import FOMAML, MAML, MetaGradient
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import LearnedHead
from metascale.models.text.hf import load_config, random_backbone
from metascale.parallel.execution import Execution
from metascale.training.flops import count_flops
from metascale.training.memory import MIB
from metascale.training.optimizers import Adam
from speed import matmul_rate, timed

TASKS, WAYS, SHOTS, QUERIES, STEPS, RATE = 4, 5, 5, 15, 5, 5e-4
SHORTEST, LONGEST = 8, 22
Row = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where it runs, and at what size."""

    device: str
    tiny: bool
    repeats: int

    def backbone(self, attention: str) -> Any:
        config = load_config("tinyllama")
        if self.tiny:
            config.hidden_size, config.intermediate_size, config.num_hidden_layers = 64, 128, 2
            config.num_attention_heads, config.num_key_value_heads, config.vocab_size = 4, 2, 200
            config.head_dim = 16
        dtype = "float32" if self.tiny else "bfloat16"
        with torch.device(self.device):
            return random_backbone(config, 0, dtype=dtype, attn_implementation=attention, device=self.device)

    def free(self) -> None:
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def texts(vocabulary: int, device: str) -> Episode:
    """Texts of different lengths, padded to the longest."""
    generator = torch.Generator().manual_seed(0)

    def batch(n_examples: int) -> Batch:
        shape = (TASKS, n_examples)
        lengths = torch.randint(SHORTEST, LONGEST + 1, shape, generator=generator)
        lengths[0, 0] = LONGEST
        mask = (torch.arange(LONGEST) < lengths.unsqueeze(-1)).long()
        ids = torch.randint(5, vocabulary, (*shape, LONGEST), generator=generator) * mask
        targets = torch.arange(n_examples).remainder(WAYS).expand(shape)
        return Batch({"input_ids": ids, "attention_mask": mask}, targets).to(device)

    return Episode(tuple(map(str, range(TASKS))), batch(WAYS * SHOTS), batch(WAYS * QUERIES))


def tokens(episode: Episode) -> int:
    """Tokens that an outer step passes through the model, padding left out."""
    support, query = (int(batch.inputs["attention_mask"].sum()) for batch in (episode.support, episode.query))
    return STEPS * support + query


def lora_variants(place: Place, episode: Episode) -> Iterator[tuple[str, Callable[[], object]]]:
    """Steps by name; a backbone lives as long as its variant."""
    inner = InnerLoop(Adam(RATE), steps=STEPS)

    def ours(gradient: MetaGradient, attention: str, execution: Execution) -> Callable[[], object]:
        model = classifier(place.backbone(attention))
        learner = MetaLearner(gradient, execution=execution)
        params = model.init(0)
        return lambda: learner.meta_gradient(model, params, episode)

    yield "first order, tasks stacked", ours(FOMAML(inner), "sdpa", Execution())
    yield "first order, one task after another", ours(FOMAML(inner), "sdpa", Execution(chunk=1))
    yield "exact, tasks stacked", ours(MAML(inner), "eager", Execution())
    yield "exact, one task after another", ours(MAML(inner), "eager", Execution(chunk=1))
    if importlib.util.find_spec("peft"):
        model = classifier(place.backbone("sdpa"))
        loop = peers_lora.PeftTasks(model, model.init(0), place.backbone("sdpa"))
        yield "peft, task by task", lambda: loop(episode)
        yield "peft, padded to 64 tokens, micro-batches of 4", lambda: loop(episode, 64, 4)


def classifier(backbone: Any) -> AdapterClassifier:
    return AdapterClassifier(
        backbone,
        WAYS,
        rank=16,
        dropout=0.0,
        head=LearnedHead(feature_norm=None),
        pooling="mean",
        targets=("q_proj", "v_proj"),
    )


def lora(place: Place) -> Iterator[Row]:
    """Seconds, FLOPs, share of the matrix rate and peak memory of a step, every variant by itself after a warm-up.

    They are not interleaved: six copies of the backbone would not leave the memory that a step needs.
    """
    rate = matmul_rate(place.device, 8192 if place.device != "cpu" else 512, dtype=torch.bfloat16)
    episode = texts(200 if place.tiny else 32000, place.device)
    n_tokens = tokens(episode)
    for name, step in lora_variants(place, episode):
        place.free()
        try:
            flops = count_flops(step)
            times = [timed(step, place.device) for _ in range(place.repeats + 1)][1:]
        except torch.OutOfMemoryError:
            yield {"part": "lora", "variant": name, "out_of_memory": True}
            continue
        row: Row = {
            "part": "lora",
            "variant": name,
            "median_s": statistics.median(times),
            "least_s": min(times),
            "tokens": n_tokens,
            "flops": flops,
            "matmul_flops": rate,
            "of_peak": flops / statistics.median(times) / rate,
        }
        if place.device != "cpu":
            row["peak_mib"] = torch.cuda.max_memory_allocated() / MIB
        yield row


def waterfall(place: Place) -> Iterator[Row]:
    """Peak memory of one task's meta-gradient, from full-parameter unrolled MAML down, at three numbers of steps."""
    layers = 1 if place.tiny else 22
    for variant in memory.VARIANTS[:3] if place.tiny else memory.VARIANTS:
        for steps in (1,) if place.tiny else (1, 5, 20):
            row = {"part": "memory", "variant": variant.name, "inner_steps": steps, "layers": layers}
            place.free()
            try:
                device = "meta" if place.device == "cpu" else place.device
                report = memory.measure(variant, "tinyllama", layers, steps, device)
            except torch.OutOfMemoryError:
                yield {**row, "out_of_memory": True}
                continue
            yield {**row, **report.row()}


def bilevel_steps(place: Place) -> Iterator[Row]:
    """Bilevel steps beside the plain one, and Betty's where it is installed."""
    for name in ("bert",) if place.tiny else ("bert-base", "resnet"):
        for unroll in (1,) if place.tiny else (1, 5):
            place.free()
            only = ["sama"] if place.tiny else []
            rows = bilevel.compare(bilevel.Work(name, place.device), unroll, place.repeats, only, memory=not place.tiny)
            yield from ({"part": "bilevel", **row} for row in rows)


PARTS: dict[str, Callable[[Place], Iterator[Row]]] = {"lora": lora, "memory": waterfall, "bilevel": bilevel_steps}


@dataclass(frozen=True)
class Column:
    """A key of measurements: its heading, and how its numbers are written in which unit."""

    key: str
    heading: str
    digits: int = 0
    unit: float = 1.0

    def cell(self, row: Row) -> str:
        value = row.get(self.key)
        if value is None:
            return "-"
        return value if isinstance(value, str) else f"{value / self.unit:,.{self.digits}f}"


COLUMNS = {
    "lora": (
        Column("median_s", "median s", 4),
        Column("least_s", "least s", 4),
        Column("tokens", "tokens"),
        Column("flops", "TFLOP", 2, 1e12),
        Column("of_peak", "of peak %", 1, 0.01),
        Column("peak_mib", "peak MiB"),
    ),
    "memory": (
        Column("inner_steps", "inner steps"),
        Column("peak_bytes", "peak MiB", 0, MIB),
        Column("peak_without_weights_bytes", "without weights", 0, MIB),
    ),
    "bilevel": (
        Column("model", "model"),
        Column("unroll", "unroll"),
        Column("step_s", "step s", 4),
        Column("time_ratio", "time / plain", 2),
        Column("peak_mib", "peak MiB"),
        Column("memory_ratio", "memory / plain", 3),
    ),
}


def table(part: str, rows: list[Row]) -> str:
    """Measurements of one part, as Markdown."""
    headings = [part, *(column.heading for column in COLUMNS[part])]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for row in rows:
        name = row["variant"] + (" (out of memory)" if row.get("out_of_memory") else "")
        lines.append(f"| {' | '.join([name, *(column.cell(row) for column in COLUMNS[part])])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--tiny", action="store_true", help="small shapes, to see that the program works")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    place = Place(options.device, options.tiny, options.repeats)
    name = platform.processor() or "CPU" if options.device == "cpu" else torch.cuda.get_device_name()
    options.out.mkdir(parents=True, exist_ok=True)
    page = [f"{name}, torch {torch.__version__}, medians of {options.repeats}{', tiny shapes' if options.tiny else ''}"]
    with open(options.out / "gpu.jsonl", "w", encoding="utf-8") as stream:
        for part in options.parts.split(","):
            rows = []
            for row in PARTS[part](place):
                rows.append(row)
                stream.write(json.dumps({**row, "device_name": name, "torch": torch.__version__}) + "\n")
                stream.flush()  # what was measured stays, should a later part end the program
                print(json.dumps(row), flush=True)
            page.append(table(part, rows))
            (options.out / "gpu.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    print("\n\n".join(page))


if __name__ == "__main__":
    main()
