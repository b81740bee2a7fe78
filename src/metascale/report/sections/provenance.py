"""Where a study's numbers come from, as its files record it: command, versions, revision, hardware, threads, data."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metascale.core.canonical import plain
from metascale.core.columns import PROVENANCE_JSON, PROVENANCE_JSONL, STUDY_JSON
from metascale.core.errors import CorruptFile
from metascale.core.files import read_json, read_json_lines
from metascale.report.section import (
    DASH,
    Block,
    Bullets,
    Code,
    Folded,
    PageTable,
    Pairs,
    Section,
    table,
    text_column,
)
from metascale.report.study import ReportStudy, StudySource, open_study
from metascale.report.words import value_words
from metascale.study.design import flatten

NOT_RECORDED = "not recorded"
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
    """What the runs of a study, each by its last attempt, record of the place they ran in.

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


def gather(source: StudySource) -> Provenance:
    """The provenance of a study from the records of its runs, and of its starts for the text of differences.

    Raises:
        CorruptFile: a record does not have the form in which it was written.
    """
    study = open_study(source)
    try:
        return _gathered(study)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
        raise CorruptFile(
            f"{study.folder / PROVENANCE_JSONL}, or a run's {PROVENANCE_JSON}, is not what was written: "
            f"{type(error).__name__} ({error})"
        ) from error


def _gathered(study: ReportStudy) -> Provenance:
    starts = read_json_lines(study.folder / PROVENANCE_JSONL)
    places = [run.run.folder for run in study.runs if run.run.folder.is_dir()]
    runs = [read_json(place / PROVENANCE_JSON) for place in places if (place / PROVENANCE_JSON).is_file()]
    told = runs or starts
    versions = [_versions(item) for item in told]
    commands = [study.launched.get("command"), *(item.get("command") for item in starts[-1:])]
    names = sorted({name for one in versions for name in one}, key=str.lower)
    return Provenance(
        commands=tuple(dict.fromkeys(str(command) for command in commands if command)),
        packages={name: _distinct(one[name] for one in versions if name in one) for name in names},
        sources=_sources(told, starts),
        hardware=_distinct(_machine(item["hardware"]) for item in told if item.get("hardware")),
        threads=_distinct(_pairs(item["threads"]) for item in told if item.get("threads")),
        devices=_distinct(str(item["device"]) for item in runs if item.get("device")),
        seeds=tuple(sorted({run.seed for run in study.runs})),
        data_sha256=_data(told),
        n_recorded=len(runs),
        n_runs=len(places),
    )


def reproduce(study: ReportStudy, found: Provenance) -> tuple[str, ...]:
    """The lines that run the same study again: for a shell, or in Python where no command started it."""
    if found.commands:
        lines = [f"git checkout {source.revision}" for source in found.sources[:1]]
        pinned = [name for name in ("metascale", "torch", "numpy") if found.packages.get(name)]
        # A build's local label (+cpu) is no version that an index knows.
        pins = [f"{name}=={found.packages[name][-1].partition('+')[0]}" for name in pinned]
        lines += [f"pip install {' '.join(pins[1:] if lines else pins)}"] if pins else []
        lines += [f"export {threads}" for threads in found.threads if len(found.threads) == 1]
        return (*lines, f"{found.commands[0]} --out {AGAIN}")
    design = study.view.study
    fields = (design.name, design.trial, dict(design.asked_base), dict(design.axes), tuple(design.seeds))
    call = f"Study({', '.join(map(repr, [*fields, tuple(map(dict, design.extra))]))})"
    return ("from metascale.study import Study, run_study", f"run_study({call}, {AGAIN!r})")


def provenance_pairs(study: ReportStudy, found: Provenance) -> tuple[tuple[str, str], ...]:
    """(what, value) pairs for reading, as far as the study's files record them."""
    pool = flatten(study.test_pool)
    axes = "; ".join(f"{name}: {', '.join(map(value_words, values))}" for name, values in study.axes.items())
    chief = [name for name in _CHIEF if found.packages.get(name)]
    values = (
        ("command", "; ".join(found.commands)),
        ("trial function", study.view.study.trial),
        ("axes", axes),
        ("seeds", ", ".join(map(value_words, study.view.study.seeds))),
        ("versions", ", ".join(f"{name} {' and '.join(found.packages[name])}" for name in chief)),
        ("code", "; ".join(map(_source_words, found.sources))),
        ("hardware", "; ".join(found.hardware)),
        ("threads", "; ".join(map(_thread_words, found.threads))),
        ("devices", ", ".join(found.devices)),
        ("data", pool.get("data")),
        ("data source", pool.get("details.source")),
        ("what was read", pool.get("details.read")),
        ("data licence", pool.get("details.licence") or pool.get("licence")),
    )
    return tuple((words, value_words(value) if value else NOT_RECORDED) for words, value in values)


def provenance_json(study: ReportStudy) -> dict[str, Any]:
    """All of it as JSON types."""
    found = gather(study)
    whole: dict[str, Any] = plain({**plain(found), "notes": found.notes, "reproduce": reproduce(study, found)})
    return whole


def provenance(study: ReportStudy) -> Section:
    """Pairs, notes, the lines that reproduce the study, and folded: changes, versions, data, the configuration."""
    found = gather(study)
    lines = "\n".join(reproduce(study, found))
    blocks: list[Block] = [Pairs(provenance_pairs(study, found))]
    blocks += [Bullets(found.notes)] if found.notes else []
    blocks += [Code(lines, "The same study again")]
    tables = (
        (f"{sum(len(one.changed_files) for one in found.sources)} uncommitted files", changes_table(found.sources)),
        (f"{len(found.packages)} installed packages", packages_table(found)),
        (f"{len(found.data_sha256)} data files", data_table(found)),
    )
    blocks += [Folded(title, (content,)) for title, content in tables if content.rows]
    stored = {key: value for key, value in read_json(study.folder / STUDY_JSON).items() if key != "trials"}
    whole = json.dumps({**study.launched, **stored}, indent=2, sort_keys=True, ensure_ascii=False)
    blocks.append(Folded("The whole configuration", (Code(whole),)))
    return Section("provenance", "Where this comes from", tuple(blocks))


def changes_table(sources: tuple[Source, ...]) -> PageTable:
    """Every uncommitted file."""
    rows = [
        [name, source.module, source.revision[:_SHORT], (source.diff_sha256 or DASH)[:_SHORT]]
        for source in sources
        for name in source.changed_files
    ]
    lines = [
        f"{source.module}: {source.lines_added} lines added, {source.lines_removed} removed"
        for source in sources
        if source.changed_files and source.lines_added is not None
    ]
    caption = f"{'; '.join(lines)}. " if lines else ""
    caption += "The text of the differences is in the study's provenance.jsonl."
    return table(caption, [*map(text_column, ("file", "code of", "on top of", "SHA-256 of the difference"))], rows)


def packages_table(found: Provenance) -> PageTable:
    """Every installed package."""
    rows = [[name, ", ".join(versions)] for name, versions in found.packages.items()]
    return table("Versions of what was installed.", ("package", text_column("version")), rows)


def data_table(found: Provenance) -> PageTable:
    """Every data file."""
    rows = [[name, ", ".join(hashes)] for name, hashes in found.data_sha256.items()]
    return table("Data files that were there.", ("file", text_column("SHA-256")), rows)


def _versions(item: Mapping[str, Any]) -> dict[str, str]:
    own = {name: str(item[name]) for name in ("metascale", "python") if item.get(name)}
    return {**{name: str(version) for name, version in (item.get("packages") or {}).items()}, **own}


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


def _machine(hardware: Mapping[str, Any]) -> str:
    parts = [str(hardware.get("processor") or "unknown processor")]
    if hardware.get("cores_usable"):
        parts.append(f"{hardware['cores_usable']} cores")
    if hardware.get("memory_bytes"):
        parts.append(f"{hardware['memory_bytes'] / 2**30:.0f} GiB")
    return ", ".join([*parts, *map(str, hardware.get("gpus") or ())])


def _data(told: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    names = sorted({name for item in told for name in item.get("data_sha256") or {}})
    return {
        name: _distinct(item["data_sha256"][name] for item in told if name in (item.get("data_sha256") or {}))
        for name in names
    }


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={shlex.quote(str(value))}" for name, value in sorted(values.items()))


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))
