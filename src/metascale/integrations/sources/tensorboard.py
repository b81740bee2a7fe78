"""TensorBoard's event files, every event of them.

TensorBoard itself shows a reservoir of at most 10,000 points of a curve, and stores scalars in 32 bits: what is read
here is all points, to seven digits. Needs no package.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from metascale.core.errors import InputError
from metascale.integrations.sources.places import find, name_below, require_small
from metascale.integrations.sources.runs import MOST_POINTS, Imported, ImportedRun, Scalar
from metascale.integrations.sources.wire import Malformed, Message, tfrecords

# Numbers of the fields in event.proto, summary.proto, tensor.proto and the hparams plugin's plugin_data.proto.
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY, _SESSION_LOG = 1, 2, 3, 5, 7
_TAG, _SIMPLE, _TENSOR, _METADATA = 1, 2, 8, 9
_SESSION_START = 1
_FLOAT, _DOUBLE, _HALF = 1, 2, 19
_ENDED = {1: "finished", 2: "failed", 3: "running"}


def is_events(name: str) -> bool:
    return "tfevents" in name and not name.endswith(".profile-empty")


@dataclass
class _Folder:
    """What the files of one folder hold."""

    run: ImportedRun
    damaged: int = 0


def read_tensorboard(path: Path) -> Imported:
    """A run for each folder that holds event files; ``path`` may be one file.

    Raises:
        InputError: there are none, they are too large, or hold no scalar.
    """
    files = [path] if path.is_file() else find(path, is_events)
    root = path.parent if path.is_file() else path
    if not files:
        raise InputError(f"'{path}' holds no event file of TensorBoard (*tfevents*)", value=str(path))
    require_small(files)
    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    found = {folder: _read_folder(each, name_below(folder, root)) for folder, each in folders.items()}
    _give_hparams_to_parents(found)
    kept = [each for each in found.values() if each.run.series or each.run.config]
    if not any(each.run.series for each in kept):
        raise InputError(f"'{path}' holds event files of TensorBoard without a scalar", value=str(path))
    notes = ["TensorBoard stores scalars in 32 bits: values are exact to seven digits; every event is read"]
    damaged = sum(each.damaged for each in found.values())
    if damaged:
        notes.append(f"{damaged} event files end in a damaged record; what stands before it is read")
    return Imported(str(path), [each.run for each in kept], notes)


def _read_folder(files: list[Path], name: str) -> _Folder:
    """The events of a folder, file by file in the order in which they were begun."""
    folder = _Folder(ImportedRun(name))
    n_points = 0
    for file in sorted(files, key=lambda one: (_begun(one), one.name)):
        try:
            with open(file, "rb") as stream:
                for record in tfrecords(stream):
                    n_points += _take(Message.of(record), folder)
                    if n_points > MOST_POINTS:
                        raise InputError(f"'{file}': more than {MOST_POINTS:,} points, the most that are read")
        except Malformed:
            folder.damaged += 1
    return folder


def _begun(file: Path) -> float:
    """The time of a file's first event."""
    try:
        with open(file, "rb") as stream:
            first = next(tfrecords(stream), b"")
        return Message.of(first).double(_WALL_TIME) or 0.0
    except Malformed:
        return 0.0


def _take(event: Message, folder: _Folder) -> int:
    """Add an event's scalars to the run; how many there were."""
    at, step = event.double(_WALL_TIME), event.integer(_STEP) or 0
    session = event.message(_SESSION_LOG)
    if session is not None and session.integer(1) == _SESSION_START:
        for one in folder.run.series.values():  # a resumed writer says from where what was written counts no more
            one.cut(step)
    summary = event.message(_SUMMARY)
    values = [] if summary is None else summary.messages(1)
    n = 0
    for value in values:
        tag, metadata = value.text(_TAG), value.message(_METADATA)
        plugin = None if metadata is None else metadata.message(1)
        name = "" if plugin is None else plugin.text(1)
        if plugin is not None and name == "hparams":
            _take_hparams(plugin.message(2), folder.run)
            continue
        scalar = value.double(_SIMPLE)
        if scalar is None and name in ("scalars", "") and (tensor := value.message(_TENSOR)) is not None:
            scalar = _scalar_of(tensor)
        if scalar is not None and tag:
            folder.run.add(tag, step, scalar, at)
            n += 1
    return n


def _scalar_of(tensor: Message) -> float | None:
    """The number in a tensor of one float or double."""
    shape = tensor.message(2)
    if shape is not None and shape.messages(2):
        return None
    kind = tensor.integer(1)
    layout = {_FLOAT: "<f", _DOUBLE: "<d", _HALF: "<e"}.get(kind or 0)
    data = tensor.bytes_of(4) or tensor.bytes_of(5 if kind == _FLOAT else 6)
    if layout is None or data is None or len(data) != struct.calcsize(layout):
        return None
    return float(struct.unpack(layout, data)[0])


def _take_hparams(content: Message | None, run: ImportedRun) -> None:
    start = None if content is None else content.message(3)
    if start is not None:
        for entry in start.messages(1):
            value = entry.message(2)
            run.config[entry.text(1)] = None if value is None else _value_of(value)
        run.started_at = start.double(5) or run.started_at
    end = None if content is None else content.message(4)
    if end is not None:
        run.state = _ENDED.get((end.integer(1) or 0), run.state)


def _value_of(value: Message) -> Scalar:
    """A google.protobuf.Value; a whole number is an int."""
    if (double := value.double(2)) is not None:
        return int(double) if double.is_integer() and abs(double) < 2**53 else double
    if value.bytes_of(3) is not None:
        return value.text(3)
    boolean = value.integer(4)
    return None if boolean is None else bool(boolean)


def _give_hparams_to_parents(found: dict[Path, _Folder]) -> None:
    """PyTorch's add_hparams writes a run of its own below the run that it describes: one such child is its parent's.

    Its metrics, one point each at step 0, go to the parent where that does not have them.
    """
    children: dict[Path, list[Path]] = {}
    for folder, each in found.items():
        single = all(len(one.steps) == 1 for one in each.run.series.values())
        if folder.parent in found and each.run.config and single:
            children.setdefault(folder.parent, []).append(folder)
    for parent, folders in children.items():
        if len(folders) == 1 and not found[parent].run.config:
            child = found.pop(folders[0]).run
            found[parent].run.config.update(child.config)
            for name, one in child.series.items():
                found[parent].run.series.setdefault(name, one)
