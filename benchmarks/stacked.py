"""CPU seconds of studies of small trials, one trial at a time and stacked: the digits study and a search of 16 rates.

    python benchmarks/stacked.py
    python benchmarks/stacked.py --only search --repeats 3
    python benchmarks/stacked.py --before CHECKOUT       # beside an earlier commit, whose sources are in CHECKOUT/src

``digits``: exact MAML, 7 task counts × 3 seeds. ``search``: 16 learning rates for one perceptron of `shapes`, with
early stopping, then the best with three seeds. Each variant is a process of its own that runs its study on one worker
with one thread; the variants take turns. Counted are the processes of the trials and the one that they are forked from,
its start included, but not the planning, the law and the report. What a stack computes is what its trials compute
alone, to the bit (the tests hold that).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

OWN = Path(__file__).parents[1] / "src"
RUN = """
import json, resource, sys, tempfile
asked = json.loads(sys.argv[1])
try:
    from metascale.workflow.launch import Place, launch, plan
except ModuleNotFoundError:  # before the rooms were cut anew
    from metascale.recipes.launch import Place, launch, plan
class Silent:
    def begin(self, folder, total, done): ...
    def event(self, event): ...
    def end(self, outcome): ...
place = Place(workers=1, **({} if asked["stack"] in (None, 1) else {"stack": asked["stack"]}))
profile = asked["profile"] if asked["stack"] is not None else None
planned = plan(asked["recipe"], asked["values"], profile=profile, place=place, baselines=False)
with tempfile.TemporaryDirectory() as folder:
    outcome, _ = launch(planned, folder, reporter=Silent())
assert outcome.finished == outcome.total
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"trials": outcome.total, "cpu_s": used.ru_utime + used.ru_stime}))
"""
"""One variant. An earlier commit knows no stacks, and its profile of equal steps has no name."""
RATES = {"space": {"lr": {"log": [3e-4, 1e-1]}}, "trials": 16, "startup": 16, "together": 16}


def studies(steps: int) -> dict[str, dict[str, Any]]:
    shape = {"architecture": ["mlp"], "width": [16], "depth": [2], "ratio": [1.0], "tune": RATES}
    return {
        "digits": {"recipe": "digits", "profile": "steps", "values": {"max_steps": steps}},
        "search": {"recipe": "shapes", "profile": None, "values": shape},
    }


def measure(study: dict[str, Any], stack: int | str | None, sources: Path) -> dict[str, Any]:
    """Trials and CPU seconds of one study."""
    asked = json.dumps({**study, "stack": stack})
    environment = {**os.environ, "PYTHONPATH": str(sources)}
    done = subprocess.run([sys.executable, "-c", RUN, asked], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{study['recipe']} with sources {sources} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Interleaved; the medians, and their ratio to one trial at a time, as a table and as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="digits,search")
    parser.add_argument("--steps", type=int, default=600, help="outer steps of a trial of digits")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    variants: dict[str, tuple[int | str | None, Path]] = {"one at a time": (1, OWN), "stacked": ("auto", OWN)}
    if asked.before is not None:
        variants = {"before": (None, asked.before.resolve() / "src"), **variants}
    rows = []
    for name in asked.only.split(","):
        study = studies(asked.steps)[name]
        found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
        for _ in range(asked.repeats):
            for variant, (stack, sources) in variants.items():
                found[variant].append(measure(study, stack, sources))
        alone = statistics.median(one["cpu_s"] for one in found["one at a time"])
        for variant, values in found.items():
            seconds = statistics.median(one["cpu_s"] for one in values)
            row = {"study": name, "variant": variant, "trials": values[0]["trials"], "cpu_s": round(seconds, 2)}
            rows.append({**row, "of_alone": round(seconds / alone, 3)})
            print(f"{name:8s} {variant:14s} {row['trials']:3d} trials {seconds:7.1f} CPU s {seconds / alone:6.2f}")
    lines = [json.dumps({"benchmark": "stacked", "steps": asked.steps, **row}) for row in rows]
    print("\n".join(lines))
    if asked.json is not None:
        asked.json.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
