"""Where a study's numbers come from, as its files record it: command, versions, revision, hardware, threads, data."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metascale.core.canonical import canonical_json, plain
from metascale.core.files import read_json, read_json_lines
from metascale.report.reading import StudyFolder, axis_values, flat, read_study
from metascale.report.words import number

NOT_RECORDED = "not recorded"
STUDY_FILE, RUN_FILE = "provenance.jsonl", "provenance.json"
AGAIN = "runs/again"
"""Where the command that reproduces a study writes."""
_CHIEF = ("metascale", "python", "torch", "numpy", "scipy", "transformers", "peft", "safetensors", "optuna")
_SHORT = 12


@dataclass(frozen=True, slots=True)
class Source:
    """A git checkout that the trials ran from.

    Args:
        module: whose code it is.
        revision: the commit.
        changed_files: what was not committed; empty for a clean checkout.
        lines_added, lines_removed: of the difference; ``None`` where its text was not kept.
        diff_sha256: of the difference; ``None`` for a clean checkout.
    """

    module: str
    revision: str
    changed_files: tuple[str, ...]
    lines_added: int | None
    lines_removed: int | None
    diff_sha256: str | None


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the runs of a study, each by its last attempt, say of the place they ran in.

    Several values of one thing mean that not all runs had the same.

    Args:
        commands: that started the study; the last is how to ask for it again.
        packages: versions by name.
        hardware: one line a machine.
        threads: one line a setting of the thread variables, as ``NAME=value`` pairs.
        n_recorded: runs that have recorded this, of ``n_runs`` that have a folder.
    """

    commands: tuple[str, ...]
    packages: Mapping[str, tuple[str, ...]]
    sources: tuple[Source, ...]
    hardware: tuple[str, ...]
    threads: tuple[str, ...]
    devices: tuple[str, ...]
    seeds: tuple[int, ...]
    data_sha256: Mapping[str, tuple[str, ...]]
    n_recorded: int
    n_runs: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What keeps the numbers from being those of one place and one state of the code."""
        found = []
        if any(source.changed_files for source in self.sources):
            found.append("Uncommitted code: the revision alone does not give these numbers.")
        revisions = {(source.module, source.revision, source.diff_sha256) for source in self.sources}
        if len(revisions) > len({source.module for source in self.sources}):
            found.append("The code changed between trials.")
        mixed = [name for name in _CHIEF if len(self.packages.get(name, ())) > 1]
        if mixed:
            found.append(f"Versions changed between trials: {', '.join(mixed)}.")
        if any(len(hashes) > 1 for hashes in self.data_sha256.values()):
            found.append("Data files changed between trials.")
        if len(self.threads) > 1 or len(self.hardware) > 1:
            found.append("Trials ran with different processors or thread counts, which changes the last bits of sums.")
        if 0 < self.n_recorded < self.n_runs:
            found.append(f"{self.n_runs - self.n_recorded} of {self.n_runs} runs recorded nothing of this.")
        return tuple(found)


def gather(folder: Path | str | StudyFolder) -> Provenance:
    """The provenance of a study from the records of its runs, and of its starts for the text of differences."""
    study = read_study(folder)
    starts = read_json_lines(study.folder / STUDY_FILE)
    places = [trial.folder for trial in study.trials if trial.folder is not None]
    runs = [read_json(place / RUN_FILE) for place in places if (place / RUN_FILE).is_file()]
    told = runs or starts
    versions = [_versions(item) for item in told] or [_versions(_old_record(study, places))]
    devices = {str(item["device"]) for item in runs if item.get("device")} or _old_devices(places)
    commands = [study.config.get("command"), *(item.get("command") for item in starts[-1:])]
    return Provenance(
        commands=tuple(dict.fromkeys(str(command) for command in commands if command)),
        packages={name: _distinct(v[name] for v in versions if name in v) for name in _names(versions)},
        sources=_sources(told, starts),
        hardware=_distinct(_machine(item) for item in told if item.get("hardware")),
        threads=_distinct(_pairs(item["threads"]) for item in told if item.get("threads")),
        devices=tuple(sorted(devices)),
        seeds=tuple(sorted({trial.seed for trial in study.trials if trial.seed is not None})),
        data_sha256=_data(told),
        n_recorded=len(runs),
        n_runs=len(places),
    )


def reproduce(study: StudyFolder, found: Provenance) -> tuple[str, ...]:
    """The lines that run the same study again: for a shell, or in Python where no command started it."""
    if found.commands:
        lines = [f"git checkout {source.revision}" for source in found.sources[:1]]
        pinned = [name for name in ("metascale", "torch", "numpy") if found.packages.get(name)]
        # A build's local label (+cpu) is no version that an index knows.
        pins = [f"{name}=={found.packages[name][-1].partition('+')[0]}" for name in pinned]
        lines += [f"pip install {' '.join(pins[1:] if lines else pins)}"] if pins else []
        lines += [f"export {threads}" for threads in found.threads if len(found.threads) == 1]
        return (*lines, f"{found.commands[0]} --out {AGAIN}")
    config = study.config
    if not config.get("trial"):
        return ()
    fields = [config.get("name"), config["trial"], dict(config.get("base") or {}), dict(config.get("axes") or {})]
    extra = tuple(dict(one) for one in config.get("extra") or ())
    call = f"Study({', '.join(map(repr, [*fields, tuple(config.get('seeds') or ()), extra]))})"
    return ("from metascale.study import Study, run_study", f"run_study({call}, {AGAIN!r})")


def provenance_pairs(folder: Path | str | StudyFolder) -> tuple[tuple[str, str], ...]:
    """(what, value) pairs for reading, as far as the study's files record them."""
    study = read_study(folder)
    found = gather(study)
    config, pool = study.config, flat(study.test_pool)
    data = flat(config["data"]) if isinstance(config.get("data"), Mapping) else {"name": config.get("data")}
    axes = "; ".join(f"{name}: {', '.join(map(_words, values))}" for name, values in axis_values(study).items())
    chief = [name for name in _CHIEF if found.packages.get(name)]
    values = (
        ("command", "; ".join(found.commands)),
        ("trial function", config.get("trial")),
        ("axes", axes),
        ("seeds", ", ".join(map(_words, config.get("seeds") or found.seeds))),
        ("versions", ", ".join(f"{name} {' and '.join(found.packages[name])}" for name in chief)),
        ("code", "; ".join(map(_source_words, found.sources))),
        ("hardware", "; ".join(found.hardware)),
        ("threads", "; ".join(map(_thread_words, found.threads))),
        ("devices", ", ".join(found.devices)),
        ("data", data.get("name") or pool.get("data")),
        ("data source", pool.get("details.source")),
        ("data licence", data.get("licence") or pool.get("details.licence") or pool.get("licence")),
    )
    return tuple((words, _words(value) if value else NOT_RECORDED) for words, value in values)


def provenance_json(study: StudyFolder) -> dict[str, Any]:
    """All of it as JSON types."""
    found = gather(study)
    whole: dict[str, Any] = plain({**plain(found), "notes": found.notes, "reproduce": reproduce(study, found)})
    return whole


def _names(versions: Iterable[Mapping[str, str]]) -> list[str]:
    return sorted({name for one in versions for name in one}, key=str.lower)


def _versions(item: Mapping[str, Any]) -> dict[str, str]:
    own = {name: str(item[name]) for name in ("metascale", "python") if item.get(name)}
    return {**{name: str(version) for name, version in (item.get("packages") or {}).items()}, **own}


def _old_record(study: StudyFolder, places: Iterable[Path]) -> dict[str, Any]:
    """What folders of before provenance files say: the histories of the runs, or the study itself."""
    recorded = {name: str(version) for name, version in (study.config.get("versions") or {}).items()}
    found: dict[str, set[str]] = {}
    for event in _events(places):
        for name in ("metascale", "python", "torch"):
            if event.get(name):
                found.setdefault(name, set()).add(str(event[name]))
    told = {name: " and ".join(sorted(versions)) for name, versions in found.items()}
    own = {"metascale": str(study.config["package_version"])} if study.config.get("package_version") else {}
    return {"packages": {**own, **recorded, **told}}


def _old_devices(places: Iterable[Path]) -> set[str]:
    return {str(event["device"]) for event in _events(places) if event.get("device")}


def _events(places: Iterable[Path]) -> Iterable[Mapping[str, Any]]:
    return (event for place in places for event in read_json_lines(place / "history.jsonl"))


def _sources(told: Iterable[Mapping[str, Any]], starts: Iterable[Mapping[str, Any]]) -> tuple[Source, ...]:
    texts = {
        source["diff_sha256"]: source.get("diff")
        for start in starts
        for source in start.get("sources") or ()
        if source.get("diff_sha256")
    }
    found = [_source(source, texts) for item in told for source in item.get("sources") or ()]
    return tuple(dict.fromkeys(found))


def _source(source: Mapping[str, Any], texts: Mapping[str, str | None]) -> Source:
    digest = source.get("diff_sha256")
    text = texts.get(digest) if digest else None
    lines = text.splitlines() if text else []
    signs = [line[0] for line in lines if line[:1] in ("+", "-") and not line.startswith(("+++ ", "--- "))]
    return Source(
        module=str(source["module"]),
        revision=str(source["revision"]),
        changed_files=tuple(map(str, source.get("changed_files") or ())),
        lines_added=signs.count("+") if text is not None else None,
        lines_removed=signs.count("-") if text is not None else None,
        diff_sha256=digest,
    )


def _source_words(source: Source) -> str:
    told = f"{source.module} at {source.revision[:_SHORT]}"
    if not source.changed_files:
        return told
    lines = "" if source.lines_added is None else f", +{source.lines_added} −{source.lines_removed} lines"
    files = len(source.changed_files)
    return f"{told} with uncommitted changes in {files} {'file' if files == 1 else 'files'}{lines}"


def _thread_words(pairs: str) -> str:
    """``1 (MKL, OMP)`` where all libraries were given as many."""
    given = dict(pair.split("=", 1) for pair in pairs.split())
    counts = set(given.values())
    names = ", ".join(name.removesuffix("_NUM_THREADS") for name in given)
    return f"{counts.pop()} ({names})" if len(counts) == 1 else pairs


def _machine(item: Mapping[str, Any]) -> str:
    hardware = item["hardware"]
    parts = [str(hardware.get("processor") or "unknown processor")]
    if hardware.get("cores_usable"):
        parts.append(f"{hardware['cores_usable']} cores")
    if hardware.get("memory_bytes"):
        parts.append(f"{hardware['memory_bytes'] / 2**30:.0f} GiB")
    return ", ".join([*parts, *map(str, hardware.get("gpus") or ())])


def _data(told: Iterable[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for item in told:
        for name, digest in (item.get("data_sha256") or {}).items():
            found.setdefault(name, []).append(digest)
    return {name: _distinct(digests) for name, digests in sorted(found.items())}


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={shlex.quote(str(value))}" for name, value in sorted(values.items()))


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))


def _words(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value))
    if isinstance(value, (int, float)):
        return number(value)
    return value if isinstance(value, str) else canonical_json(value)
