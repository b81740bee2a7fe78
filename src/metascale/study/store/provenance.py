"""Where results come from: versions, revision and uncommitted changes, hardware, threads. Gathered once a process."""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import metascale
from metascale.core.canonical import canonical_json
from metascale.core.columns import PROVENANCE_JSONL
from metascale.core.files import append_lines, heal_lines, read_json_lines, sha256_of
from metascale.study.store.claims import locked

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_DIFF_LIMIT_BYTES = 1 << 20
_TIMEOUT_S = 20.0


@functools.lru_cache(maxsize=1)
def machine() -> dict[str, Any]:
    """Hardware and software that this process runs on."""
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "metascale": metascale.__version__,
        "packages": packages(),
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "cores_usable": usable,
            "memory_bytes": psutil.virtual_memory().total,
            "gpus": _gpus(),
        },
    }


def packages() -> dict[str, str]:
    """Every installed distribution and its version, as the names of their folders say (reading each takes seconds)."""
    found: dict[str, str] = {}
    for place in map(Path, sys.path):
        if not place.is_dir():
            continue
        for name in os.listdir(place):
            stem, _, kind = name.rpartition(".")
            package, dash, version = stem.partition("-")
            if kind == "dist-info" and dash:
                # The first one on the path is the one that is imported.
                found.setdefault(package, version)
    return {name: found[name] for name in sorted(found, key=str.lower)}


@functools.lru_cache(maxsize=16)
def sources(function: str) -> tuple[dict[str, Any], ...]:
    """The git checkouts that the package and the trial function's module come from, as they are now.

    Each has the revision, whether anything is uncommitted, and the difference to the revision with its SHA-256; the
    text of a difference above 1 MiB is left out.
    """
    found: dict[str, str] = {}
    for module in ("metascale", function.partition(":")[0]):
        folder = _folder_of(module)
        top = None if folder is None else _git(folder, "rev-parse", "--show-toplevel")
        if top is not None:
            found.setdefault(top.strip(), module)
    return tuple(_checkout(Path(top), module) for top, module in found.items())


def provenance_of(function: str) -> dict[str, Any]:
    """The machine, the sources by revision, and the thread counts: what a run keeps of the place it ran in."""
    brief = [{key: value for key, value in item.items() if key != "diff"} for item in sources(function)]
    threads = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    return {**machine(), "sources": brief, "threads": threads}


def record_study(folder: Path, function: str, facts: Mapping[str, Any]) -> None:
    """Append what a runner starts from to the study's ``provenance.jsonl``, unless the last one was the same.

    ``facts`` are the caller's: the command, the hashes of the data.
    """
    line = canonical_json({**provenance_of(function), "sources": list(sources(function)), **facts})
    path = folder / PROVENANCE_JSONL
    # Under the lock: what looks torn may be a line that another runner is writing.
    with locked(folder):
        heal_lines(path)
        known = read_json_lines(path)
        if not known or canonical_json(known[-1]) != line:
            append_lines(path, [line])


def _folder_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ()) or ([spec.origin] if spec.origin else [])
    if not places:
        return None
    place = Path(places[0])
    return place if place.is_dir() else place.parent


def _checkout(top: Path, module: str) -> dict[str, Any]:
    revision = (_git(top, "rev-parse", "HEAD") or "none yet").strip()
    changed = _git(top, "status", "--porcelain") or ""
    found: dict[str, Any] = {"module": module, "revision": revision, "dirty": bool(changed)}
    if changed:
        diff = _git(top, "diff", "HEAD") or ""
        found["changed_files"] = [line[3:] for line in changed.splitlines()]
        found["diff_sha256"] = sha256_of(diff.encode())
        found["diff"] = diff if len(diff) <= _DIFF_LIMIT_BYTES else None
    return found


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says, or ``None`` where there is no git, no checkout or no answer in time."""
    if shutil.which("git") is None:
        return None
    # Without optional locks: a run that is killed here would leave the user's repository locked.
    quiet = ["--no-optional-locks", "-c", "diff.autoRefreshIndex=false"]
    command = ["git", *quiet, "-c", "safe.directory=*", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if sys.platform == "linux" and path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """The GPUs as the driver names them; asked without loading torch."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
