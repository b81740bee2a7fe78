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
    """A noisy descent: every step draws from its own stream, and every few steps it evaluates and saves.

    It saves at once when it is asked to stop.
    """
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
        elif run.stop_asked():
            run.save(Checkpoint(step, {"state": json.dumps(state).encode()}, scheduled=False))
    run.write("best/state.bin", repr(state["x"]).encode())
    best = min(row["loss"] for row in run.rows("evaluation"))
    return {"loss": state["x"] ** 2, "best": {"loss": best}, "curve": [row["loss"] for row in run.rows("train")]}


def busy_until_killed_twice(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """`train`, which saves its fourth step again and again until the file ``kills`` has two lines."""

    class Busy:
        def __getattr__(self, name: str) -> Any:
            return getattr(run, name)

        def save(self, checkpoint: Checkpoint) -> None:
            run.save(checkpoint)
            while checkpoint.step == 4 and len(Path(config["kills"]).read_text().splitlines()) < 2:
                run.save(checkpoint)

    return train(config, Busy(), device)


def heeds(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Trains without an end in sight, and saves at once when it is asked to stop; its second attempt is in no hurry."""
    n_steps, every = config["n_steps"], config["save_every"]
    checkpoint = run.latest()
    step, x = (0, 1.0) if checkpoint is None else json.loads(checkpoint.blobs["state"])
    while step < n_steps:
        step += 1
        x = x * 0.7 + float(generator(config["seed"], "noise", step).standard_normal()) / config["n_tasks"]
        run.append("train", {"step": step, "loss": x**2})
        run.progress(step, n_steps)
        scheduled = step % every == 0 or step == n_steps
        if scheduled or run.stop_asked():
            run.save(Checkpoint(step, {"state": json.dumps([step, x]).encode()}, scheduled))
        if checkpoint is None:
            time.sleep(float(os.environ.get("METASCALE_TEST_PAUSE_S", "0")))
    return {"loss": x**2}


def power(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """A loss that follows a power law with some noise."""
    noise = float(generator(config["seed"], "noise", config["n_tasks"]).standard_normal())
    return {"test_loss_nats": 2.0 * config["n_tasks"] ** -0.3 * (1 + 0.01 * noise)}


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
    from metascale.study.store.index import Index

    index = Index(run.folder.parents[1] / "index.sqlite3")
    leases = set()
    while len(leases) < 3:
        leases.update(row.lease_until for row in index.rows().values())
        time.sleep(0.01)
    index.close()
    return {"renewed": True}


def hangs_once(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Trains; its first attempt stops telling anything after its first checkpoint (each time, with ``always``)."""
    if config["n_tasks"] == 5:
        checkpoint = run.latest()
        if checkpoint is None:
            run.append("train", {"step": 1, "loss": 1.0})
            run.append("evaluation", {"step": 1, "loss": 1.0, "note": "third"})
            run.save(Checkpoint(1, {"state": json.dumps({"step": 1, "x": 1.0}).encode()}))
        if checkpoint is None or config.get("always"):
            run.progress(1, 6)
            while True:
                time.sleep(1)
    return train(config, run, device)


def ranks(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Data-parallel descent on gloo: every step averages the ranks' own noise, so no rank can do without the others."""
    import torch
    import torch.distributed as distributed

    distributed.init_process_group("gloo")
    number, size = distributed.get_rank(), distributed.get_world_size()
    checkpoint = run.latest()
    step, x = (0, 1.0) if checkpoint is None else json.loads(checkpoint.blobs["state"])
    while step < config["n_steps"]:
        step += 1
        if step == config.get("break_at") and number == 1 and checkpoint is None:
            if config["how"] == "raises":
                raise RuntimeError("the second rank came off")
            if config["how"] == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(3600)
        noise = torch.tensor(float(generator(config["seed"], f"noise {number}", step).standard_normal()))
        distributed.all_reduce(noise)
        x = x * 0.7 + noise.item() / size
        run.append("train", {"step": step, "loss": x**2})
        run.progress(step, config["n_steps"])
        run.save(Checkpoint(step, {"state": json.dumps([step, x]).encode()}))
        time.sleep(config.get("sleep_s", 0.0))
    distributed.destroy_process_group()
    return {"loss": x**2, "size": size, "last": run.rows("train")[-1]["loss"]}


def table(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """A curve by step, and a table of many rows at one step."""
    for step in range(3):
        run.append("curve", {"step": step, "loss": float(step)})
        run.append("tasks", {"step": 7, "task": f"t{step}", "loss": float(step)})
    return {"loss": 1.0}


def resumes_tensors(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Saves a checkpoint and fails; tried again, it loads its state as tensors."""
    import torch

    from metascale.training.state import from_bytes, to_bytes

    checkpoint = run.latest()
    if checkpoint is None:
        run.save(Checkpoint(1, {"state.safetensors": to_bytes({"x": torch.zeros(2)})}))
        raise RuntimeError("first attempt ends here")
    return {"x": from_bytes(checkpoint.blobs["state.safetensors"])["x"].tolist()}


def golden(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """One of each ending: 2 and 9 tasks finish, 5 diverge, 7 fail after a checkpoint."""
    if config["n_tasks"] == 5:
        run.append("train", {"step": 1, "loss": 1.0})
        raise Diverged("the query loss is nan", step=2, task_ids=("a",), last_finite=1.0)
    if config["n_tasks"] == 7 and run.latest() is None:
        run.append("train", {"step": 1, "loss": 0.25})
        run.append("evaluation", {"step": 1, "loss": 0.25, "note": "third"})
        run.save(Checkpoint(1, {"state": json.dumps({"step": 1, "x": 0.5}).encode()}))
        raise RuntimeError("ended after its first checkpoint")
    return train(config, run, device)


def paced(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """`train` at a pace that the environment sets, which its configuration does not know."""
    return train({**config, "sleep_s": float(os.environ.get("METASCALE_SOAK_PAUSE_S", "0"))}, run, device)


def names_no_text(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Fails for 2 tasks with a message that no encoding holds, as one that quotes an odd file name."""
    if config["n_tasks"] == 2:
        raise ValueError("bad name \udcff")
    return {"loss": 1.0}


def saves_then_fails(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    run.progress(7, 20)
    run.save(Checkpoint(7, {"state": b"seven"}))
    raise ValueError("after seven steps")
