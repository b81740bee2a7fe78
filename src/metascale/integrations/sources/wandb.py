"""Runs of Weights & Biases: offline folders and their .wandb files, exported CSV, or the server's answer.

A call of ``log`` without a step writes into the row that is open: a value there is replaced before anything is stored,
so that no reader can see it. Files need no package; the server needs ``wandb``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError
from metascale.core.optional import require
from metascale.integrations.sources.places import find, name_below, read_text, require_small
from metascale.integrations.sources.runs import MOST_POINTS, MOST_RUNS, Imported, ImportedRun, flat, number
from metascale.integrations.sources.wire import Malformed, Message, leveldb_records

# Numbers of the fields in wandb_internal.proto.
_HISTORY, _SUMMARY, _CONFIG, _RUN, _EXIT = 2, 3, 5, 17, 18
_KEY, _NESTED, _NONE, _BOOLEAN, _INTEGER, _NUMBER, _TEXT, _JSON, _VALUE_JSON = 1, 2, 3, 4, 5, 6, 7, 8, 16
_OWN = re.compile(r"_(?!_)|system/")  # _step, _runtime, _timestamp, _wandb and the like
_RUN_COLUMNS = {"Name": "name", "State": "state", "ID": "id", "Created": "created"}
_CURVE = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?P<range>__MIN|__MAX)?")


def is_wandb(name: str) -> bool:
    return name.endswith(".wandb")


def read_wandb(source: str) -> Imported:
    """An offline folder, a .wandb file, an exported CSV, or ``entity/project`` of the server.

    Raises:
        InputError: no such thing, or it holds no run.
        MissingDependency: the server is asked for without the package.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return read_offline(path)
    if path.is_file():
        return read_offline(path) if is_wandb(path.name) else read_export(path)
    if re.fullmatch(r"[\w.-]+/[\w .-]+", source) and not source.startswith("."):
        return _read_server(source)
    raise InputError(
        f"there is no file or folder '{source}'; W&B is read from an offline folder, a .wandb file, an exported CSV, "
        "or the server as entity/project",
        value=source,
    )


def read_offline(path: Path) -> Imported:
    """Every .wandb file below a folder, or one file. A run that was resumed offline has several: they are joined."""
    files = [path] if path.is_file() else find(path, is_wandb)
    root = path.parent if path.is_file() else path
    if not files:
        raise InputError(f"'{path}' holds no run of W&B (*.wandb)", value=str(path))
    require_small(files)
    runs: dict[str, ImportedRun] = {}
    notes = []
    for file in sorted(files, key=lambda one: (one.parent.name, one.name)):
        reader = _Reader(runs, name_below(file.parent, root) if file.parent != root else file.stem)
        try:
            with open(file, "rb") as stream:
                for record in leveldb_records(stream):
                    reader.take(Message.of(record))
        except Malformed as error:
            if reader.run is None:
                raise InputError(f"'{file}' is no run of W&B ({error})") from error
            notes.append(f"{file.name} is damaged ({error}); what stands before that is read")
        reader.close()
    return Imported(str(path), list(runs.values()), notes)


class _Reader:
    """One .wandb file, record by record."""

    def __init__(self, runs: dict[str, ImportedRun], fallback: str):
        self.runs, self.fallback = runs, fallback
        self.run: ImportedRun | None = None
        self.summary: dict[str, Any] = {}
        self.n_points = 0

    def take(self, record: Message) -> None:
        if (begun := record.message(_RUN)) is not None:
            self._begin(begun)
        if (config := record.message(_CONFIG)) is not None:
            self._configure(config)
        if (history := record.message(_HISTORY)) is not None:
            self._row(history)
        if (summary := record.message(_SUMMARY)) is not None:
            for item in summary.messages(1):
                self.summary[_key(item)] = _value(item)
        if (ended := record.message(_EXIT)) is not None:
            self._run().state = "failed" if ended.integer(1) else "finished"
            runtime = ended.integer(2)
            run = self._run()
            if runtime is not None and run.started_at is not None:
                run.ended_at = max(run.started_at + runtime, run.ended_at or 0.0)

    def close(self) -> None:
        """Numbers that only the summary has become metrics at the run's last step."""
        run = self._run()
        run.state = run.state or "unfinished"
        step = run.steps or 0
        for key, value in self.summary.items():
            for name, leaf in flat({key: value}, run.id).items():
                known = number(leaf)
                if known is not None and not _OWN.match(name) and name not in run.series:
                    run.add(name, step, known)

    def _run(self) -> ImportedRun:
        if self.run is None:
            self.run = self.runs.setdefault(self.fallback, ImportedRun(self.fallback))
        return self.run

    def _begin(self, begun: Message) -> None:
        id = begun.text(1) or self.fallback
        if self.run is None:
            self.run = self.runs.setdefault(id, ImportedRun(id))
            self.run.state = ""
        self.run.name = begun.text(8) or self.run.name
        started = begun.message(17)
        if started is not None and self.run.started_at is None:
            self.run.started_at = (started.integer(1) or 0) + (started.integer(2) or 0) / 1e9
        if (config := begun.message(4)) is not None:
            self._configure(config)

    def _configure(self, config: Message) -> None:
        given = {_key(item): _value(item) for item in config.messages(1) if not _key(item).startswith("_wandb")}
        self._run().config |= flat(given, f"W&B run {self._run().id}")

    def _row(self, history: Message) -> None:
        row = {_key(item): _value(item) for item in history.messages(1)}
        step = history.message(2)
        at = number(row.get("_timestamp"))
        stated = row.get("_step")
        index = stated if isinstance(stated, int) else (step.integer(1) or 0) if step is not None else 0
        self.n_points += len(row)
        if self.n_points > MOST_POINTS:
            raise InputError(f"W&B run {self._run().id}: more than {MOST_POINTS:,} points, the most that are read")
        _add_row(self._run(), index, row, at)


def _add_row(run: ImportedRun, step: int, row: Mapping[str, Any], at: float | None) -> None:
    for key, value in row.items():
        if _OWN.match(key):
            continue
        for name, leaf in flat({key: value}, run.id).items() if isinstance(value, dict) else [(key, value)]:
            known = number(_special(leaf))
            if known is not None:
                run.add(name, step, known, at)


def _special(value: object) -> object:
    """W&B writes numbers that are not finite as text."""
    return {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.get(str(value), value)


def _key(item: Message) -> str:
    nested = [part.decode("utf-8", "replace") for part in item.all_bytes(_NESTED)]
    return item.text(_KEY) or ".".join(nested)


def _value(item: Message) -> Any:
    """A value, typed (since 0.31) or as JSON."""
    for field in (_VALUE_JSON, _JSON):
        if (data := item.bytes_of(field)) is not None:
            try:
                return json.loads(data)
            except (ValueError, RecursionError):
                return None
    if (double := item.double(_NUMBER)) is not None:
        return double
    if (integer := item.zigzag(_INTEGER)) is not None:
        return integer
    if (boolean := item.integer(_BOOLEAN)) is not None:
        return bool(boolean)
    return item.text(_TEXT) if item.bytes_of(_TEXT) is not None else None


# What the web page exports.


def read_export(path: Path) -> Imported:
    """A CSV file as the web page exports it: the table of runs, or a chart (one column a run and metric, by step).

    Raises:
        InputError: neither, or two columns with one name.
    """
    reader = csv.reader(read_text(path).splitlines(), strict=True)
    try:
        lines = [line for line in reader if any(cell.strip() for cell in line)]
    except csv.Error as error:
        raise InputError(f"'{path}', line {reader.line_num}, cannot be read as CSV: {error}") from error
    if len(lines) < 2:
        raise InputError(f"'{path}' has no rows; give what W&B's page exports")
    header = lines[0]
    refuse_twins(header, path)
    for row, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise InputError(f"'{path}', row {row} has {len(line)} cells and the header {len(header)}")
    if "Name" in header:
        return Imported(str(path), _table_of_runs(header, lines[1:]))
    if all(_CURVE.fullmatch(name) for name in header[1:]):
        runs, notes = _chart(header, lines[1:])
        return Imported(str(path), runs, notes)
    raise InputError(f"'{path}' is no export of W&B: it has neither a column 'Name' nor columns like 'RUN - METRIC'")


def refuse_twins(header: list[str], path: Path) -> None:
    """Refuse two columns of one name.

    Raises:
        InputError: with the name.
    """
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"'{path}' has two columns named '{twice}'; names must differ", value=twice)


def _table_of_runs(header: list[str], lines: Iterable[list[str]]) -> list[ImportedRun]:
    """Configuration and results are not told apart in it: all are columns of the configuration, as they are called."""
    runs: dict[str, ImportedRun] = {}
    for line in lines:
        row = dict(zip(header, line, strict=True))
        name = row.pop("Name")
        id = row.pop("ID", "") or name
        if id in runs:  # names need not differ
            id = f"{name} ({sum(each.name == name for each in runs.values()) + 1})"
        run = runs[id] = ImportedRun(id, name, row.pop("State", "").lower())
        run.started_at = _when(row.pop("Created", ""))
        run.config = {key: _cell(text) for key, text in row.items()}
    return list(runs.values())


def _chart(header: list[str], lines: Iterable[list[str]]) -> tuple[list[ImportedRun], list[str]]:
    runs: dict[str, ImportedRun] = {}
    named = [(k, match) for k, name in enumerate(header) if k and (match := _CURVE.fullmatch(name))]
    for line in lines:
        step = number(_cell(line[0]))
        if step is None:
            continue
        for k, match in named:
            value = number(_special(_cell(line[k])))
            if value is not None and not match["range"] and not _OWN.match(match["metric"]):
                runs.setdefault(match["run"], ImportedRun(match["run"])).add(match["metric"], int(step), value)
    note = f"a chart of W&B by '{header[0]}': long curves are sampled by the page, and there is no configuration"
    return list(runs.values()), [note]


def _cell(text: str) -> bool | int | float | str | None:
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def _when(text: object) -> float | None:
    """Seconds of a time in ISO 8601; W&B's are UTC whether they say so or not."""
    try:
        found = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return found.timestamp() if found.tzinfo else datetime.fromisoformat(f"{found.isoformat()}+00:00").timestamp()


def _read_server(project: str) -> Imported:
    wandb = require("wandb", "wandb", f"reading '{project}' from the server of Weights & Biases")
    try:
        # `history` gives 500 points, drawn at random; `scan_history` gives all.
        runs = [_of_server(one) for one, _ in zip(wandb.Api(timeout=30).runs(project), range(MOST_RUNS), strict=False)]
    except (ValueError, OSError, wandb.Error) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"W&B does not give the project '{project}': {reason}", value=project) from error
    return Imported(f"wandb:{project}", runs)


def _of_server(one: Any) -> ImportedRun:
    config = {key: value for key, value in dict(one.config).items() if not key.startswith("_wandb")}
    run = ImportedRun(one.id, one.name, str(one.state).lower(), flat(config, f"W&B run {one.id}"))
    run.started_at = _when(one.created_at)
    for row in one.scan_history():
        at = number(row.get("_timestamp"))
        _add_row(run, int(row.get("_step") or 0), row, at)
        run.ended_at = at or run.ended_at
    step = run.steps or 0
    for key, value in dict(one.summary).items():
        known = number(_special(value))
        if known is not None and not _OWN.match(key) and key not in run.series:
            run.add(key, step, known)
    return run
