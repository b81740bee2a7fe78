"""CPU seconds of the digits study (exact MAML, 7 task counts × 3 seeds), one trial at a time and stacked.

    python benchmarks/stacked.py [OUTER STEPS]

Both run on one worker with one thread, in turn; prints a table and a JSON line.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from pathlib import Path

from metascale.workflow.launch import Place, launch, plan


class Silent:
    def begin(self, folder: Path, total: int, done: int) -> None: ...
    def event(self, event: object) -> None: ...
    def end(self, outcome: object) -> None: ...


def cpu_seconds(stack: int, steps: int) -> float:
    """CPU seconds of the trials' processes, of which this one waits for the end."""
    place = Place(workers=1, stack=stack)
    planned = plan("digits", {"max_steps": steps}, profile="steps", place=place, baselines=False)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        outcome, _ = launch(planned, folder, reporter=Silent())
    assert outcome.finished == outcome.total
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 600
    alone, stacked = cpu_seconds(1, steps), cpu_seconds(8, steps)
    print(f"{steps} outer steps   alone {alone:.1f} CPU s   stacks of 7 {stacked:.1f} CPU s   {stacked / alone:.2f}")
    print(json.dumps({"benchmark": "stacked", "steps": steps, "alone_cpu_s": alone, "stacked_cpu_s": stacked}))


if __name__ == "__main__":
    main()
