"""Trial functions for tests of searches: losses that are known functions of the hyperparameters."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metascale.core.errors import Diverged
from metascale.core.run import Checkpoint, Run

N_STEPS = 8


def bowl(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Best at rate 0.01 · width^-1/2, with a curve of eight evaluations that falls towards its loss."""
    best = 0.01 / math.sqrt(config.get("width", 1))
    loss = 1.0 + math.log10(config["rate"] / best) ** 2 + (config.get("depth", 3) - 3) ** 2 / 10
    if config["rate"] > config.get("diverges_above", math.inf):
        raise Diverged("the loss is inf", step=1)
    if config.get("calls"):
        with open(config["calls"], "a") as stream:
            stream.write(f"{config['rate']!r}\n")
    checkpoint = run.latest()
    start = json.loads(checkpoint.blobs["state"]) if checkpoint else 0
    thresholds = dict(config.get("prune_above", []))
    for step in range(start + 1, N_STEPS + 1):
        now = loss + 1.0 / step
        run.append("eval_stats", {"step": step, "validation_loss_nats": now})
        if step == N_STEPS // 2:
            run.save(Checkpoint(step, {"state": json.dumps(step).encode()}))
        if step in thresholds and now > thresholds[step]:
            return {"validation_loss_nats": now, "pruned_at_step": step}
    row: dict[str, Any] = {"validation_loss_nats": loss + 1.0 / N_STEPS}
    return row if config.get("kind") == "tuning" else {**row, "test_loss_nats": loss}


def fails_above(config: dict[str, Any], run: Run, device: str) -> Mapping[str, Any]:
    """Crashes for rates above 0.1 unless the file ``cured`` is there."""
    if config["rate"] > 0.1 and not Path(config["cured"]).exists():
        raise RuntimeError("out of memory")
    return bowl(config, run, device)


def area(config: Mapping[str, Any]) -> int:
    """A measured size."""
    return int(config["width"] * config["height"])


def no_size(config: Mapping[str, Any]) -> str:
    """What is no size."""
    return "large"


def epochs(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Three epochs of four examples each, evaluated after every epoch; thresholds are by epoch."""
    loss = 1.0 + math.log10(config["rate"] / 0.01) ** 2
    thresholds = dict(config.get("prune_above", []))
    for epoch in range(4):
        step = epoch * 4 // config["batch"]
        run.append("eval_stats", {"step": step, "epoch": float(epoch), "validation_loss_nats": loss + 3.0 - epoch})
        if loss + 3.0 - epoch > thresholds.get(float(epoch), math.inf):
            return {"validation_loss_nats": loss + 3.0 - epoch, "pruned_at_step": step}
    return {"validation_loss_nats": loss, "test_loss_nats": loss}


def nested(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """`bowl` with its rate inside of a mapping."""
    return bowl({**config, "rate": config["opt"]["lr"]}, run, device)


def killed_above(config: dict[str, Any], run: Run, device: str) -> Mapping[str, Any]:
    """Its process is killed for rates above 0.1, once where ``always`` is not set, until the file ``cured`` is there.

    ``bowl`` has saved its fourth step by then.
    """
    if config["rate"] > 0.1 and not Path(config["cured"]).exists():
        mark = Path(config["cured"]).with_name(f"killed-{config['rate']!r}")
        if config["always"] or not mark.exists():
            mark.touch()
            if config["always"]:
                os.kill(os.getpid(), signal.SIGKILL)

            class Deadly:
                def __getattr__(self, name: str) -> Any:
                    return getattr(run, name)

                def save(self, checkpoint: Checkpoint) -> None:
                    run.save(checkpoint)
                    os.kill(os.getpid(), signal.SIGKILL)

            return bowl(config, Deadly(), device)
    return bowl(config, run, device)


def paced_bowl(config: dict[str, Any], run: Run, device: str) -> Mapping[str, Any]:
    """`bowl` at a pace that the environment sets, which its configuration does not know."""

    class Paced:
        def __getattr__(self, name: str) -> Any:
            return getattr(run, name)

        def append(self, record: str, row: Mapping[str, Any]) -> None:
            time.sleep(float(os.environ.get("METASCALE_SOAK_PAUSE_S", "0")))
            run.append(record, row)

    return bowl(config, Paced(), device)
