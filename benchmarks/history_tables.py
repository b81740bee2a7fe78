"""The tables that docs/results shows of the benchmarks' rows, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
Newest = Callable[..., Sequence[Row]]
"""The rows of the newest run of a benchmark that have the values given by name."""

MODELS = {
    "bert": "BERT, 6 layers, d 384",
    "bert-base": "BERT, 12 layers, d 768",
    "gpt2": "GPT-2 small, {layers} layers",
    "tinyllama": "TinyLlama, {layers} layers",
    "resnet": "ResNet-20, twice as wide",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:,.0f} ms"


def small(value: float) -> str:
    """Seconds down to a hundredth of a millisecond."""
    return f"{value * 1e3:.2f} ms" if value < 0.01 else f"{value * 1e3:.1f} ms" if value < 0.1 else seconds(value)


def mib(value: float) -> str:
    n = value / 2**20
    return f"{n:,.0f}" if n >= 100 else f"{n:.1f}"


def times(value: float) -> str:
    return f"{value:.2f}×"


def named(row: Row) -> str:
    return MODELS[row["model"]].format(**row)


def peers(rows: Sequence[Row]) -> str:
    head = ["one meta-gradient", "order", "median", "least", "ratio", "GFLOP", "of peak", "live MB a task"]
    return table(
        head,
        [
            [
                row["variant"],
                "2" if row["second_order"] else "1",
                seconds(row["median_s"]),
                seconds(row["min_s"]),
                times(row["ratio_to_fastest_peer"]),
                f"{row['flops'] / 1e9:.1f}",
                f"{row['of_peak']:.0%}",
                f"{row['live_bytes_one_task'] / 1e6:.0f}",
            ]
            for row in rows
        ],
    )


def peers_lora(rows: Sequence[Row]) -> str:
    first = rows[0]["median_s"]
    return table(
        ["one meta-gradient", "median", "least", "ratio"],
        [
            [row["variant"], seconds(row["median_s"]), seconds(row["min_s"]), times(first / row["median_s"])]
            for row in rows
        ],
    )


def peers_second_order(rows: Sequence[Row]) -> str:
    head = [
        "model",
        "one meta-gradient",
        "median",
        "ratio",
        "GFLOP",
        "of peak",
        "live MB a task",
        "of the least peer's",
    ]
    return table(
        head,
        [
            [
                named(row),
                row["variant"],
                seconds(row["median_s"]),
                times(row["ratio_to_fastest_peer"]),
                f"{row['flops'] / 1e9:,.0f}",
                f"{row['of_peak']:.0%}",
                f"{row['live_bytes_one_task'] / 1e6:,.0f}",
                f"{row['memory_of_least_peer']:.2f}",
            ]
            for row in rows
        ],
    )


def speed(rows: Sequence[Row]) -> str:
    return table(
        ["outer step", "tasks", "way", "median", "times one after another"],
        [
            [row["case"], str(row["tasks"]), row["variant"], small(row["median_s"]), times(row["speedup_over_loop"])]
            for row in rows
        ],
    )


def language_models(rows: Sequence[Row]) -> str:
    return _scan(rows) if rows[0]["what"] == "scan" else _steps(rows)


def _steps(rows: Sequence[Row]) -> str:
    ours = next(row["step_s"] for row in rows if row["variant"] == "ours")
    return table(
        ["a training step", "median", "tokens a second", "times ours", "of peak"],
        [
            [
                row["variant"],
                seconds(row["step_s"]),
                f"{row['tokens_per_s']:,.0f}",
                f"{ours / row['step_s']:.2f}",
                f"{row['of_peak']:.0%}",
            ]
            for row in rows
        ],
    )


def _scan(rows: Sequence[Row]) -> str:
    def line(row: Row) -> list[str]:
        found, kept = row["seconds"], row["saved_bytes"]
        scan, loop, attention = found["scan"], found.get("loop"), found["attention"]
        return [
            str(row["batch"]),
            f"{row['n_positions']:,}",
            small(scan),
            small(loop) if loop else "",
            small(attention),
            f"{loop / scan:.0f}" if loop else "",
            f"{attention / scan:,.0f}",
            f"{kept['scan'] / 1e6:.2f}, {kept['attention'] / 1e6:.0f} MB",
        ]

    head = ["batch", "positions", "scan", "loop", "attention", "loop / scan", "attention / scan"]
    return table([*head, "kept for backward: scan, attention"], [line(row) for row in rows])


def int8(rows: Sequence[Row]) -> str:
    return table(
        ["backbone", "precision", "weights, MiB", "CPU seconds", "least", "of float32", "loss of the query set, nats"],
        [
            [
                row["model"],
                row["dtype"],
                f"{row['weights_bytes'] / 2**20:.0f}",
                f"{row['median_cpu_s']:.2f}",
                f"{row['min_cpu_s']:.2f}",
                f"{row['of_float32']:.2f}",
                f"{row['query_loss_nats']:.4f}",
            ]
            for row in rows
        ],
    )


def memory(rows: Sequence[Row]) -> str:
    """Of times one table; of peaks one at 5 inner steps and one against their number."""
    if rows[0]["what"] == "time":
        return table(
            ["one meta-gradient", "processor seconds", "of unrolled"],
            [[row["variant"], f"{row['median_cpu_s']:.2f}", f"{row['cpu_of_unrolled']:.2f}"] for row in rows],
        )
    models = list(dict.fromkeys(row["model"] for row in rows))
    at = {(row["model"], row["variant"], row["inner_steps"]): row for row in rows}
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    head, frozen = ["MiB"], ["frozen weights"]
    for model in models:
        one = at[model, variants[0], 5]
        head += [f"{named(one)}: in all", "without weights", "of R1", "of first order"]
        frozen += [mib(at[model, "exact", 5]["weights_bytes"]), "", "", ""]
    lines = [frozen]
    for variant in variants:
        line = [variant]
        for model in models:
            row, r1, first = (at[model, name, 5] for name in (variant, variants[0], "first order"))
            own = row["peak_without_weights_bytes"]
            line += [mib(row["peak_bytes"]), mib(own), f"{own / r1['peak_without_weights_bytes']:.1%}"]
            line += [f"{own / first['peak_without_weights_bytes']:.2f}"]
        lines.append(line)
    return f"{table(head, lines)}\n\nAgainst the number K of inner steps, MiB without weights:\n\n{_sweep(at)}"


def _sweep(at: Mapping[tuple[str, str, int], Row]) -> str:
    steps = sorted({k for _, _, k in at})
    lines = []
    for model, variant in dict.fromkeys((model, variant) for model, variant, k in at if k == steps[-1]):
        row = at[model, variant, steps[-1]]
        peaks = [
            at[model, variant, k]["peak_without_weights_bytes"] if (model, variant, k) in at else None for k in steps
        ]
        cells = ["" if value is None else f"{value / 2**20:,.1f}" for value in peaks]
        ratio = f"{peaks[-1] / peaks[0]:.2f}" if peaks[0] and peaks[-1] else ""
        lines.append([f"{named(row)}: {variant}", *cells, ratio])
    return table(["", *(f"K = {k}" for k in steps), f"{steps[-1]} / {steps[0]}"], lines)


def bilevel(rows: Sequence[Row]) -> str:
    if "processes" in rows[0]:
        return _overlap(rows)
    timed = any("step_s" in row for row in rows)
    head = ["variant", "lower steps"]
    head += ["CPU seconds", "time / plain"] * timed + ["peak MiB", "memory / plain"]

    def line(row: Row) -> list[str]:
        cells = [row["variant"], str(row["unroll"])]
        if timed:
            cells += [f"{row['step_s']:.3f}", f"{row['time_ratio']:.2f}"]
        known = "peak_mib" in row
        return [*cells, f"{row['peak_mib']:.1f}" if known else "", f"{row['memory_ratio']:.2f}" if known else ""]

    return table(head, [line(row) for row in rows])


def _overlap(rows: Sequence[Row]) -> str:
    one, other = rows[:2]
    link = f"emulated, {one['link_mb_s']:.0f} MB/s" if one["link_mb_s"] else "memory of the machine"
    return table(
        ["processes", "link", "rounds", "median step with, without", "ratio, median", "smallest to largest"],
        [
            [
                str(one["processes"]),
                link,
                str(one["rounds"]),
                f"{one['wall_s']:.2f}, {other['wall_s']:.2f} s",
                f"{one['with_over_without']:.2f}",
                f"{one['smallest']:.2f} to {one['largest']:.2f}",
            ]
        ],
    )


def studies(rows: Sequence[Row]) -> str:
    return {"overhead": _overhead, "start": _start, "large": _large, "fit": _fit, "balance": _balance}[rows[0]["what"]](
        rows
    )


def _overhead(rows: Sequence[Row]) -> str:
    return table(
        ["empty trials", "workers", "wall", "CPU, runner and trials", "a trial", "again, nothing to do"],
        [
            [
                f"{row['trials']:,}",
                str(row["workers"]),
                seconds(row["s"]),
                seconds(row["cpu_s"]),
                f"{1e3 * row['cpu_s'] / row['trials']:.1f} CPU ms",
                seconds(row["again_s"]),
            ]
            for row in rows
        ],
    )


def _balance(rows: Sequence[Row]) -> str:
    return table(
        ["equal trials", "workers", "seconds each", "wall", "of ideal"],
        [
            [
                str(row["trials"]),
                str(row["workers"]),
                f"{row['seconds_each']:.0f}",
                seconds(row["s"]),
                f"{row['of_ideal']:.1%}",
            ]
            for row in rows
        ],
    )


def _start(rows: Sequence[Row]) -> str:
    return table(
        ["fresh process", "wall", "CPU", "peak MiB"],
        [[row["name"], f"{row['s']:.2f} s", f"{row['cpu_s']:.2f} s", f"{row['peak_mib']:.0f}"] for row in rows],
    )


def _large(rows: Sequence[Row]) -> str:
    return table(
        [f"a study of {rows[0]['trials']:,} trials", "wall", "CPU", "peak MiB"],
        [
            [
                row["name"],
                seconds(row["s"]),
                seconds(row["cpu_s"]),
                f"{row['peak_mib']:.0f}" if "peak_mib" in row else "",
            ]
            for row in rows
        ],
    )


def _fit(rows: Sequence[Row]) -> str:
    return table(
        ["rows of the table", "wall", "CPU", "peak MiB"],
        [[f"{row['rows']:,}", seconds(row["s"]), seconds(row["cpu_s"]), f"{row['peak_mib']:,.0f}"] for row in rows],
    )


def summary(newest: Newest) -> str:
    """What the page comes to: our best way beside the fastest of the others, from the newest run of each benchmark.

    Args:
        newest: gives no rows where a benchmark has no such run; the table then goes without it.
    """
    lines = [*_maml(newest), *_lora(newest), *_steps_beside(newest), *_sama(newest)]
    return table(["what", "beside", "on", "times as fast as the fastest of them", "of the least memory of them"], lines)


def _best(rows: Sequence[Row], what: str, others: str, contains: str) -> Iterator[list[str]]:
    """The fastest of our variants with these words in its name."""
    own = [row for row in rows if "metascale" in row["variant"] and contains in row["variant"]]
    if not own:
        return
    best = max(own, key=lambda row: row["ratio_to_fastest_peer"])
    least = min(row.get("live_bytes_one_task", 1) for row in rows if "metascale" not in row["variant"])
    memory = f"{best['live_bytes_one_task'] / least:.2f}" if "live_bytes_one_task" in best else ""
    ratio = f"**{times(best['ratio_to_fastest_peer'])}**"
    yield [what, others, f"{best['threads']} thread{'s' if best['threads'] > 1 else ''}", ratio, memory]


def _maml(newest: Newest) -> Iterator[list[str]]:
    others = "learn2learn's algorithm, higher, TorchOpt"
    for threads in (1, 2):
        rows = newest("peers", tasks=4, threads=threads)
        second, first = ([row for row in rows if row["second_order"] is order] for order in (True, False))
        yield from _best(second, "exact MAML of the 4-conv net, 4 tasks, recomputed", others, "exact")
        yield from _best(second, "the same, stored graph", others, "unrolled")
        yield from _best(first, "first-order MAML of the same", others.removesuffix(", TorchOpt"), "first-order")


def _lora(newest: Newest) -> Iterator[list[str]]:
    rows, peft = newest("peers_lora", threads=2), "peft, task by task"
    plain = [row for row in rows if "bfloat16" not in row["variant"]]
    yield from _best(plain, "first-order LoRA on BERT, 4 tasks", peft, "")
    yield from _best(rows, "the same, bfloat16 backbone", f"{peft}, float32", "bfloat16")
    for model, name in (("gpt2", "GPT-2's shape"), ("tinyllama", "TinyLlama's shape")):
        rows, others = newest("peers_second_order", threads=2, model=model), "torch.func on the same model"
        yield from _best(rows, f"exact MAML of LoRA, {name}, recomputed", others, "exact")
        yield from _best(rows, "the same, stored graph", others, "unrolled")


def _steps_beside(newest: Newest) -> Iterator[list[str]]:
    steps = {row["variant"]: row["step_s"] for row in newest("language_models", threads=2, what="step")}
    ours = steps.get("ours, GPT-2's shape", 0.0)
    for other in ("nanoGPT's model", "transformers GPT-2") if steps else ():
        ratio = f"**{times(steps[other] / ours)}**"
        yield ["a Transformer's training step, GPT-2's shape", other, "2 threads", ratio, ""]


def _sama(newest: Newest) -> Iterator[list[str]]:
    for model, name in (("bert", "BERT-like"), ("resnet", "ResNet-like")):
        by = {row["variant"]: row for row in newest("bilevel", model=model, unroll=1)}
        if "betty sama" in by:
            sama, betty = by["sama"], by["betty sama"]
            ratio = f"**{times(betty['time_ratio'] / sama['time_ratio'])}**"
            yield [f"SAMA, {name}", "Betty", "1 thread", ratio, f"{sama['peak_mib'] / betty['peak_mib']:.2f}"]


def stacked(rows: Sequence[Row]) -> str:
    return table(
        ["study", "trials", "run", "CPU seconds", "of one at a time"],
        [
            [row["study"], str(row["trials"]), row["variant"], f"{row['cpu_s']:.1f}", f"{row['of_alone']:.2f}"]
            for row in rows
        ],
    )


TABLES: Mapping[str, Callable[[Sequence[Row]], str]] = {
    "bilevel": bilevel,
    "int8": int8,
    "language_models": language_models,
    "memory": memory,
    "peers": peers,
    "peers_lora": peers_lora,
    "peers_second_order": peers_second_order,
    "speed": speed,
    "stacked": stacked,
    "studies": studies,
}
