"""Everything that only a GPU can answer, in one run of at most 12 minutes that prints one table.

    python benchmarks/gpu --out FOLDER [--parts lora,memory,bilevel,stacked,sizes] [--repeats 10] [--minutes 12]
    python benchmarks/gpu --out FOLDER --tiny --device cpu      # the same program in minutes, to see that it works

Writes FOLDER/gpu.md, the table, and FOLDER/gpu.jsonl, one line a measurement. Parts follow one another; what does not
fit into memory says so and the rest goes on; after ``--minutes`` nothing new is begun, and the table says what was left
out. Random weights and tokens serve: only shapes matter.

lora: one outer step of LoRA of rank 16 on a frozen bfloat16 backbone of TinyLlama's shape, 5-way 5-shot, 15 queries a
class, 5 inner steps of Adam, 4 tasks, texts of 8 to 22 tokens padded to the longest: Reptile, first-order and exact
MAML, and peft's loop task by task where peft is installed. The rate is that of a bfloat16 matrix product in the same
run; FLOPs are counted while a step runs, without those of a fused attention kernel, and tokens are those of texts
without padding.
memory: the waterfall of benchmarks/memory.py, all layers, by the allocator's peak.
bilevel: benchmarks/bilevel.py with BERT-base and the residual net, beside Betty where it is installed.
stacked: the study of digits one trial at a time and in stacks of 7, and its meta-gradient launched operation by
operation and as one CUDA graph.
sizes: a training step of each of the 32 models of the model-size study, and of the largest ones by ``torch.compile``.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from parts import FAILED, PARTS, Place, Row

COLUMNS = {
    "part": "part",
    "where": "of what",
    "variant": "variant",
    "median_s": "median s",
    "ratio": "times as fast",
    "to": "as",
    "tokens_per_s": "tokens / s",
    "of_peak": "of peak",
    "peak_mib": "peak MiB",
    "note": "note",
}
FORMATS = {"median_s": ".4f", "ratio": ".2f", "tokens_per_s": ",.0f", "of_peak": ".1%", "peak_mib": ",.0f"}


def with_ratio(row: Row, rows: Sequence[Row]) -> Row:
    """A row with how many times as fast it is as the variant ``to`` of the same part and place, where both ran."""
    if "ratio" in row or "median_s" not in row:
        return row
    same = [one for one in rows if all(one[key] == row[key] for key in ("part", "where"))]
    found = [one["median_s"] for one in same if one["variant"] == row.get("to") and "median_s" in one]
    return {**row, "ratio": found[0] / row["median_s"]} if found else row


def table(rows: Sequence[Row]) -> str:
    """All measurements as one Markdown table, without columns that nothing is in."""
    rows = [with_ratio(row, rows) for row in rows]
    rows = [row if "ratio" in row else {key: row[key] for key in row if key != "to"} for row in rows]
    shown = [key for key in COLUMNS if any(key in row for row in rows)]
    lines = [[COLUMNS[key] for key in shown], ["---"] * len(shown)]
    for row in rows:
        lines.append([format(row[key], FORMATS.get(key, "")) if key in row else "" for key in shown])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=12.0, help="begin nothing new after so long")
    parser.add_argument("--tiny", action="store_true", help="small shapes, to see that the program works")
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.parts.split(",") if part not in PARTS]:
        parser.error(f"--parts are {', '.join(PARTS)}, not '{unknown[0]}'")
    if options.device == "cpu":
        torch.set_num_threads(1)
    began = time.monotonic()
    place = Place(options.device, options.tiny, options.repeats, began + 60 * options.minutes)
    name = platform.processor() or "CPU" if options.device == "cpu" else torch.cuda.get_device_name()
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    spent: list[str] = []
    page = ""
    with open(options.out / "gpu.jsonl", "w", encoding="utf-8") as stream:
        for part in options.parts.split(","):
            started = time.monotonic()
            for row in PARTS[part](place):
                rows.append(row)
                stream.write(json.dumps({**row, "device_name": name, "torch": torch.__version__}) + "\n")
                stream.flush()  # what was measured stays, should a later part end the program
                print(json.dumps(row), flush=True)
            spent.append(f"{part} {time.monotonic() - started:.0f} s")
            told = f"{name}, torch {torch.__version__}, medians of {options.repeats}"
            told += f"{', tiny shapes' if options.tiny else ''}; {', '.join(spent)}"
            page = f"{told}\n\n{table(rows)}\n"
            (options.out / "gpu.md").write_text(page, encoding="utf-8")
    print(f"\n{page}")
    if any(str(row.get("note", "")).startswith(FAILED) for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
