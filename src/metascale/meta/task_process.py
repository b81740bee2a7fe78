"""A process that runs tasks for the program that started it, until that program closes the pipe or ends.

Requests: ("model", its bytes), kept for all calls that follow; ("call", function, chunk of tasks, index of its first,
whether gradients are on). Replies: ("done", result), ("failed", the error, its traceback) or ("not loaded", why).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from typing import Any, BinaryIO

import torch

from metascale.meta.messages import pack, portable, receive, send, unpack

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
        try:
            if kind == "model":
                model = unpack(*values)
                reply = pack(("done", None))
            else:
                function, part, start, with_gradients = values
                reply = _called(unpack(function, model), unpack(part), start, with_gradients)
        except Exception as error:  # noqa: BLE001
            # Another process may not find a class: one of the script that was started, say.
            reply = pack(("not loaded", f"{type(error).__name__}: {error}"))
        send(replies, reply)


def _called(function: Any, part: Any, start: int, with_gradients: bool) -> bytes:
    try:
        with torch.set_grad_enabled(with_gradients):
            return pack(("done", function(part, start)))
    except Exception as error:  # noqa: BLE001
        # Raised again in the program that asked.
        return pack(("failed", portable(error), traceback.format_exc()))
