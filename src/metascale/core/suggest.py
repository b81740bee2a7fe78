"""The one near-name hint: what a refusal adds when a name is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(name: object, known: Iterable[str], what: str = "allowed") -> str:
    """``did you mean 'x'?`` with the known name nearest to ``name``; where none is near, all of them.

    Case, ``-`` and ``_`` make no difference. ``what`` names the list, as in ``"allowed: a, b"``.

    Example:
        >>> suggest("outer-rl", ["inner_lr", "outer_lr"])
        "did you mean 'outer_lr'?"
        >>> suggest("zzz", ["serial", "process"], "executors")
        'executors: serial, process'
    """
    names = [str(each) for each in known]
    plain = {each.lower().replace("-", "_"): each for each in reversed(names)}
    near = difflib.get_close_matches(str(name).lower().replace("-", "_"), plain, n=1, cutoff=0.5)
    return f"did you mean '{plain[near[0]]}'?" if near else f"{what}: {', '.join(names) or 'none'}"
