"""A process that runs tasks for the program that started it, until that program closes the pipe or ends.

Requests: ("model", its bytes), kept for all calls that follow; ("call", function, chunk of tasks, index of its first,
whether gradients are on). Replies: ("done", result) or ("failed", the error, its traceback).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from typing import Any, BinaryIO

import torch

from metascale.parallel.messages import pack, portable, receive, send, unpack

IGNORED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""A terminal or a scheduler sends these to all processes at once; the program decides what they mean, and this process
ends with it."""


def main() -> None:
    """Serve the program at the other end of standard input and output."""
    for name in IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # What a model prints must not get among the replies.
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    # A broken pipe: the program ended while this process worked, and nobody is left to tell.
    with contextlib.suppress(BrokenPipeError):
        serve(requests, replies)
    sys.stdout.flush()
    os._exit(0)  # nothing here needs the second that Python and torch take to leave


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer every request until there are no more."""
    model: Any = None
    while (message := receive(requests)) is not None:
        kind, *values = unpack(message)
        result = None
        try:
            if kind == "model":
                model = unpack(*values)
            else:
                result = _run(model, *values)
            reply = pack(("done", result))
        except Exception as error:  # noqa: BLE001
            # Whatever it ran: the error is sent back and raised in the program that asked.
            reply = pack(("failed", portable(error), traceback.format_exc()))
        send(replies, reply)


def _run(model: Any, function: bytes, part: bytes, start: int, with_gradients: bool) -> Any:
    with torch.set_grad_enabled(with_gradients):
        return unpack(function, model)(unpack(part), start)
