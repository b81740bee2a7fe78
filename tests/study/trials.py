"""Trial functions for the tests: a tiny deterministic training in plain Python, and trials that go wrong on purpose."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from metascale.core.errors import Diverged
from metascale.core.run import Checkpoint, Run
from metascale.core.streams import generator


def train(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """A noisy descent: every step draws from its own stream, and every few steps it evaluates and saves."""
    n_steps, every = config.get("n_steps", 6), config.get("save_every", 2)
    state = {"step": 0, "x": 1.0}
    checkpoint = run.latest()
    if checkpoint is not None:
        state = json.loads(checkpoint.blobs["state"])
    else:
        run.write("pool.json", {"tasks": list(range(config["n_tasks"]))})
    for step in range(state["step"] + 1, n_steps + 1):
        noise = float(generator(config["seed"], "noise", step).standard_normal())
        state = {"step": step, "x": state["x"] * 0.7 + noise / config["n_tasks"]}
        run.append("train", {"step": step, "loss": state["x"] ** 2})
        run.progress(step, n_steps)
        time.sleep(config.get("sleep_s", 0.0))
        if step % every == 0 or step == n_steps:
            run.append("evaluation", {"step": step, "loss": state["x"] ** 2 / 3, "note": "third"})
            run.measure({"step": step, "at": time.time()})
            run.save(Checkpoint(step, {"state": json.dumps(state).encode()}))
    run.write("best/state.bin", repr(state["x"]).encode())
    best = min(row["loss"] for row in run.rows("evaluation"))
    return {"loss": state["x"] ** 2, "best": {"loss": best}, "curve": [row["loss"] for row in run.rows("train")]}


def empty(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    return {"value": config["n_tasks"]}


def counted(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Leaves one line a call in a file of the test's own."""
    with open(config["calls"], "a") as stream:
        stream.write(f"{config['n_tasks']}/{config['seed']}\n")
    return train(config, run, device)


def sometimes_fails(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Fails for ``fail_at`` tasks, after its first checkpoint, unless the file ``cured`` exists."""
    if config["n_tasks"] == config["fail_at"] and not Path(config["cured"]).exists():
        run.latest()
        run.append("train", {"step": 1, "loss": 1.0})
        raise RuntimeError("the third wheel came off")
    return train(config, run, device)


def diverges(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Meets a number that is not finite at step 3 when the rate is huge."""
    run.latest()
    for step in range(1, 4):
        if config["rate"] > 1 and step == 3:
            raise Diverged("the query loss is nan", step=step, task_ids=("a", "b"), last_finite=0.5)
        run.append("train", {"step": step, "loss": 1.0 / step})
    return {"loss": 1.0 / 3}


def kills_itself(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Dies by a signal for one value, as a crash in native code would."""
    if config["n_tasks"] == 5:
        os.kill(os.getpid(), signal.SIGSEGV)
    return {"value": 1}


def sleeps(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Never looks up: only its end ends it."""
    run.write("asleep.json", True)
    time.sleep(60)
    return {}


def environment(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    return {
        "device": device,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "own_group": os.getpgid(0) == os.getpid(),
        "cores": len(os.sched_getaffinity(0)),
    }


def awaits_renewal(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Lasts until its own lease was renewed twice."""
    from metascale.study.index import Index

    index = Index(run.folder.parents[1] / "index.sqlite3")
    leases = set()
    while len(leases) < 3:
        leases.update(row.lease_until for row in index.rows().values())
        time.sleep(0.01)
    index.close()
    return {"renewed": True}
