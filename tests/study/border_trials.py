"""Trial functions that break the border: odd things returned, odd ends, children left behind, too much output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from metascale.core.errors import Diverged
from metascale.core.run import Checkpoint, Run

_ITSELF: dict[str, Any] = {"loss": 1.0}
_ITSELF["again"] = _ITSELF

RETURNED: dict[str, Any] = {
    "a float": 3.0,
    "a list": [1.0, 2.0],
    "nothing": None,
    "a text": "0.5",
    "nan": {"loss": float("nan")},
    "inside": {"best": {"loss": [1.0, np.float32("inf")]}},
    "a huge number": {"loss": 10**400},
    "an array": {"loss": np.zeros((2, 3))},
    "a set": {"loss": {1.0}},
    "bytes": {"loss": b"1"},
    "a complex number": {"loss": 1j},
    "an object": {"loss": Path("x")},
    "a number as a name": {1: 0.5},
    "no name": {"": 0.5},
    "one name twice": {"a": {"b": 1.0}, "a.b": 2.0},
    "itself": _ITSELF,
    "no Unicode": {"note": "\udcff"},
}
"""What a trial must not return."""


def returns(config: dict[str, Any], run: Run, device: str) -> Any:
    return RETURNED.get(config["what"], {"loss": 1.0})


def returns_scalars(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Everything that is allowed."""
    import torch

    return {
        "loss": torch.tensor(0.5, requires_grad=True),
        "nested": {"count": np.int64(3), "loss": np.float32(0.25)},
        "on": np.bool_(True),
        "name": np.str_("x"),
        "none": None,
        "curve": [torch.tensor(1), (2.0, None)],
    }


def raises_an_odd_divergence(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    raise Diverged("the loss is nan", step=3, last_finite=float("nan"))


def ends(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Ends otherwise than by returning, as ``how`` says, after a checkpoint."""
    how, first = config["how"], run.latest() is None
    run.save(Checkpoint(1, {"state": b"x"}))
    marks = Path(config["marks"])
    if how.startswith("sys.exit"):
        sys.exit(int(how.split()[1]))
    if how.startswith("os._exit"):
        os._exit(int(how.split()[1]))
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "cancelled":
        import asyncio

        raise asyncio.CancelledError
    if how == "killed once" and first:
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "killed always":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "a fork returns" and os.fork() == 0:
        return {"loss": -1.0}
    if how == "a fork raises" and os.fork() == 0:
        raise RuntimeError("in the child")
    if how == "a fork writes" and os.fork() == 0:
        run.save(Checkpoint(2, {"state": b"of the child"}))
    if how.startswith("a fork"):
        os.wait()
    if how == "hangs":
        run.progress(3, 9)
        while True:
            run.measure({"step": 1})
            time.sleep(0.1)
    if how == "leaves children":
        _leave_children(marks)
    return {"loss": 1.0}


def _leave_children(marks: Path) -> None:
    """One in our process group, one that ignores SIGTERM, and one in a session of its own."""
    sleeper = "import signal, sys, time; {0}; open(sys.argv[1], 'w').close(); time.sleep(600)"
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    for name, code, session in (("group", "0", False), ("stubborn", stubborn, False), ("session", "0", True)):
        mark = marks / f"{os.getpid()}-{name}"
        child = subprocess.Popen([sys.executable, "-c", sleeper.format(code), mark], start_new_session=session)
        while not mark.exists():
            time.sleep(0.01)
        mark.write_text(str(child.pid))


def leaves_children_and_stays(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    _leave_children(Path(config["marks"]))
    run.write("ready.json", True)
    time.sleep(600)
    return {}


def shouts(config: dict[str, Any], run: Run, device: str) -> dict[str, Any]:
    """Writes so many MiB to its standard output."""
    line = b"x" * 1023 + b"\n"
    os.write(1, b"the first line\n")
    for _ in range(config["mib"]):
        os.write(1, line * 1024)
    os.write(1, b"the last line\n")
    return {"loss": 1.0}
