"""How a study stands: data for anyone (`study_status`), a table for a terminal, and reporters of one that runs."""

from __future__ import annotations

import contextlib
import csv
import html
import os
import shutil
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from metascale.core.canonical import plain
from metascale.core.columns import TEST_LOSS
from metascale.core.notebook import in_notebook, words
from metascale.core.units import format_seconds
from metascale.study.design import flatten
from metascale.study.run.session import Event, Reporter, StudyOutcome
from metascale.study.store.checkpoints import list_checkpoints, step_of
from metascale.study.store.claims import is_alive
from metascale.study.store.folder import CHECKPOINTS, INDEX, RESULT, RunView, StudyView, read_progress, read_study
from metascale.study.store.index import STATUSES, IndexRow, Status, read_index
from metascale.study.store.once import reading_once
from metascale.study.store.records import parse_cell

_STYLES = {"finished": "green", "running": "cyan", "diverged": "yellow", "pending": "dim"}
_STYLES |= {"failed": "red", "damaged": "red"}
_COLUMNS = ("trial", "status", "device", "steps", "", "loss", "steps/s", "left", "note")
_WIDE, _NARROW = 130, 80
_RESUMABLE = ("pending", "running", "failed")
_TOLD = ("failed", "diverged", "lost", "interrupted", "stopping", "note")
"""Events that stay as lines."""
_TAIL_BYTES = 8192
_REFRESH_PER_S = 2


@dataclass(frozen=True, slots=True)
class TrialStatus:
    """One trial as it stands.

    Args:
        owner_alive: whether the runner that holds a running trial lives; ``None`` when that cannot be seen from here.
        done, total: steps, as the trial last reported; ``None`` before it has. Of a trial that waits to be resumed, the
            step of its checkpoint, and no total.
        wall_s: seconds spent so far, over all attempts.
        loss, loss_name: the loss of the result, or of the newest row of the records; ``None`` before the first.
        steps_per_s: of this attempt so far.
        left_s: seconds that a running trial still needs at its present rate, once that is known, and until its last
            step.
        updated_at: of the last sign of life (seconds since the epoch; 0: never).
    """

    id: str
    label: str
    kind: str
    seed: int
    axes: Mapping[str, Any]
    status: Status
    attempt: int
    owner: str | None
    owner_alive: bool | None
    device: str
    done: int | None
    total: int | None
    note: str
    wall_s: float
    left_s: float | None
    updated_at: float
    message: str
    loss: float | None = None
    loss_name: str = ""
    steps_per_s: float | None = None

    @property
    def shown_status(self) -> str:
        """The status, or ``interrupted`` for a running trial whose runner is gone."""
        return "interrupted" if self.status == "running" and self.owner_alive is False else self.status


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """Every trial of a study as it stands, counted, with the seconds left at the present rate (``None``: unknown)."""

    name: str
    folder: Path
    trials: tuple[TrialStatus, ...]
    counts: Mapping[Status, int]
    eta_s: float | None

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        value: dict[str, Any] = plain(self)
        return value


def study_status(folder: Path | str | StudyView) -> StudyStatus:
    """How the study in ``folder`` stands now.

    Raises:
        InputError: the folder holds no study.
    """
    with reading_once():
        return _study_status(folder)


def _study_status(folder: Path | str | StudyView) -> StudyStatus:
    view = folder if isinstance(folder, StudyView) else read_study(folder)
    rows = read_index(view.folder / INDEX)
    alive = {owner: is_alive(owner) for owner in {row.owner for row in rows.values()} if owner is not None}
    wanted = "" if view.study.roles is None else view.study.roles.loss
    trials = tuple(_trial_status(run, rows.get(run.trial.id), alive, wanted) for run in view.runs)
    counts = {status: sum(trial.status == status for trial in trials) for status in STATUSES}
    return StudyStatus(view.study.name, view.folder, trials, counts, estimate_left_s(trials))


def estimate_left_s(trials: Sequence[TrialStatus]) -> float | None:
    """Seconds until all trials have ended, from the wall time of those that did and the rate of those that run.

    The mean of these is the estimate for a waiting trial; trials run as many at a time as do now.
    """
    running = [trial for trial in trials if trial.shown_status == "running"]
    lengths = [trial.wall_s for trial in trials if trial.status in ("finished", "diverged", "damaged")]
    lengths += [trial.wall_s + trial.left_s for trial in running if trial.left_s is not None]
    waiting = sum(trial.shown_status in ("pending", "interrupted") for trial in trials)
    if not running:
        return None if waiting else 0.0
    if not lengths:
        return None
    mean_s = sum(lengths) / len(lengths)
    left = [max(0.0, mean_s - trial.wall_s) if trial.left_s is None else trial.left_s for trial in running]
    return max(max(left), (sum(left) + waiting * mean_s) / len(running))


def render_status(status: StudyStatus, *, max_rows: int = 40, width: int = 120) -> RenderableType:
    """A table of the trials (all, or those that matter most now) above a bar for the study as a whole.

    On a terminal narrower than 130 columns it goes without bars, rates, devices and columns that are empty; below 80,
    without frames, with labels cut in their middle, and with messages under the table.
    """
    shown = _most_relevant(status.trials, max_rows)
    parts: list[RenderableType] = _narrow(status, shown, width) if width < _NARROW else [_framed(status, shown, width)]
    n_hidden = len(status.trials) - len(shown)
    ended = sum(status.counts[name] for name in ("finished", "failed", "diverged", "damaged"))
    counts = ", ".join(f"{n} {name}" for name, n in status.counts.items() if n)
    line = Text(f"{ended}/{len(status.trials)} trials ended ({counts}), about {format_seconds(status.eta_s)} left")
    if n_hidden:
        parts.append(Text(f"... and {n_hidden} more trials", style="dim"))
    # A bar alone ends without a line break, and the counts would be cut where the line is full.
    bar = ProgressBar(total=max(1, len(status.trials)), completed=ended, width=max(10, min(60, width - 1)))
    return Group(*parts, Padding(bar, 0), line)


def _narrow(status: StudyStatus, shown: Sequence[TrialStatus], width: int) -> list[RenderableType]:
    """The trials without frames: label, state, step reached, loss, time; then what went wrong, a line each."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    rows = [_cells(trial) for trial in shown]
    names = [name for name in ("trial", "status", "steps", "loss", "left") if any(cells[name] for cells in rows)]
    taken = sum(max(len(name), *(len(str(cells[name])) for cells in rows)) + 1 for name in names[1:]) if rows else 0
    for name in names:
        table.add_column(name, no_wrap=True)
    for trial, cells in zip(shown, rows, strict=True):
        label = escape(_cut(trial.label, max(8, width - taken - 1)))
        table.add_row(label, *(cells[name] for name in names[1:]))
    said = [
        Text(f"{trial.shown_status} {trial.label}: {trial.message}", style=_STYLES.get(trial.shown_status, "magenta"))
        for trial in shown
        if trial.message
    ]
    return [Text(status.name, style="bold"), Text(str(status.folder), style="dim", overflow="fold"), table, *said]


def _cut(label: str, room: int) -> str:
    """A label of at most ``room`` characters: its beginning and its end, where the seed stands."""
    if len(label) <= room:
        return label
    tail = (room - 1) // 2
    return f"{label[: room - 1 - tail]}…{label[len(label) - tail :]}"


def _framed(status: StudyStatus, shown: Sequence[TrialStatus], width: int) -> Table:
    table = Table(title=escape(f"{status.name} · {status.folder}"), title_justify="left", expand=False)
    # On a narrow terminal the long labels give way, never the states.
    widths = {"status": 8, "steps": 9, "": 10, "loss": 6, "left": 11}
    rows = [_cells(trial) for trial in shown]
    names = list(_COLUMNS)
    if width < _WIDE:
        filled = [name for name in names if any(cells[name] for cells in rows)]
        names = [name for name in filled if name not in ("device", "", "steps/s")]
        widths["note"] = 16
    room = width - sum(widths.get(name, 0) + 3 for name in names) - 1
    for name in names:
        most = max(12, room) if name == "trial" and width < _WIDE else None
        table.add_column(name, no_wrap=name != "note", overflow="ellipsis", min_width=widths.get(name), max_width=most)
    for cells in rows:
        table.add_row(*(cells[name] for name in names))
    return table


def _trial_status(run: RunView, row: IndexRow | None, alive: Mapping[str, bool | None], wanted: str) -> TrialStatus:
    trial = run.trial
    # The folder is asked where the index is missing or behind it.
    behind = row is None or _is_behind(row, run)
    status = run.status if behind or row is None else row.status
    progress = read_progress(run.folder) if status == "running" else None
    wall_s = run.wall_s() if row is None else row.wall_s
    if row is not None and status == "running" and row.started_at:
        wall_s += time.time() - row.started_at
    loss_name, loss = last_loss(run, status, wanted) or ("", None)
    steps_per_s, left_s = _pace(progress)
    saved = list_checkpoints(run.folder / CHECKPOINTS) if progress is None and status in _RESUMABLE else []
    updated_at = max(row.updated_at if row else 0.0, progress["updated_at"] if progress else 0.0)
    return TrialStatus(
        id=trial.id,
        label=trial.label,
        kind=trial.kind,
        seed=trial.seed,
        axes=trial.axes,
        status=status,
        attempt=row.attempt if row else 0,
        owner=row.owner if row else None,
        owner_alive=alive.get(row.owner) if row and row.owner else None,
        device=row.device if row else "",
        done=progress["done"] if progress else step_of(saved[-1]) if saved else None,
        total=progress["total"] if progress else None,
        note=progress["note"] if progress else "",
        wall_s=wall_s,
        left_s=left_s,
        updated_at=updated_at,
        message=run.message() if behind or row is None else row.message,
        loss=loss,
        loss_name=loss_name,
        steps_per_s=steps_per_s,
    )


def _is_behind(row: IndexRow, run: RunView) -> bool:
    """Whether the index misses a result that is there, or has one that is gone with its folder or is damaged."""
    if (row.status == "damaged") != bool(run.damage()):
        return True
    if row.status in ("pending", "failed"):
        return False
    return (run.folder / RESULT).exists() == (row.status == "running")


def _pace(progress: Mapping[str, Any] | None) -> tuple[float | None, float | None]:
    """Steps a second of this attempt so far, and the seconds left at that rate; None after the last step.

    What a trial does then, such as its evaluation, takes a time that no step tells.
    """
    if progress is None or progress["done"] <= progress["first_done"]:
        return None, None
    seconds, steps = progress["updated_at"] - progress["first_at"], progress["done"] - progress["first_done"]
    missing = progress["total"] - progress["done"]
    return steps / seconds if seconds > 0 else None, seconds / steps * missing if missing > 0 else None


def _most_relevant(trials: Sequence[TrialStatus], max_rows: int) -> list[TrialStatus]:
    """At most ``max_rows`` trials in the study's order: running, failed and diverged ones before the others."""
    order = ("running", "interrupted", "failed", "diverged", "damaged", "pending", "finished")
    ranked = sorted(range(len(trials)), key=lambda k: (order.index(trials[k].shown_status), k))
    return [trials[k] for k in sorted(ranked[:max_rows])]


def _cells(trial: TrialStatus) -> dict[str, RenderableType]:
    bar: RenderableType = ""
    steps = ""
    if trial.done is not None and trial.total:
        bar = ProgressBar(total=trial.total, completed=trial.done, width=10)
        steps = f"{trial.done}/{trial.total}"
    elif trial.done is not None:
        steps = f"{trial.done} saved"
    loss = "" if trial.loss is None else f"{trial.loss:.4g}"
    rate = "" if trial.steps_per_s is None else f"{trial.steps_per_s:.3g}"
    left = format_seconds(trial.left_s) if trial.status == "running" and trial.left_s is not None else ""
    if trial.status == "running" and trial.total and trial.done == trial.total:
        left = "evaluating"
    if trial.status in ("finished", "diverged", "failed"):
        left = f"in {format_seconds(trial.wall_s)}"
    state = Text(trial.shown_status, style=_STYLES.get(trial.shown_status, "magenta"))
    note = escape(trial.message or trial.note)
    return dict(
        zip(_COLUMNS, (escape(trial.label), state, trial.device, steps, bar, loss, rate, left, note), strict=True)
    )


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes that a study's folder holds, and that its device has left."""

    n_bytes: int
    n_files: int
    free_bytes: int


def disk_of(folder: Path) -> Disk:
    """How much room the study in ``folder`` takes."""
    n_bytes = n_files = 0
    waiting = [str(folder)]
    while waiting:
        # A checkpoint may be replaced while we count.
        with contextlib.suppress(FileNotFoundError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    n_bytes += entry.stat(follow_symlinks=False).st_size
                    n_files += 1
    return Disk(n_bytes, n_files, shutil.disk_usage(folder).free)


def last_loss(run: RunView, status: str, wanted: str = "") -> tuple[str, float] | None:
    """The name and value of a trial's loss: of its result once finished, else of the newest row of its records.

    Args:
        wanted: the study's loss, where it names one.
    """
    if status == "pending":
        return None
    # The run's folder may go while we read (it was deleted, or a diverged run starts again).
    with contextlib.suppress(FileNotFoundError):
        return _final_loss(run, wanted) if status == "finished" else _newest_loss(run.folder)
    return None


def _newest_loss(folder: Path) -> tuple[str, float] | None:
    records = [path for path in folder.glob("*.csv") if path.is_file()]
    # Evaluations say more than training steps, and both more than tables.
    for path in sorted(records, key=lambda path: (not path.name.startswith("eval"), path.name)):
        found = _last_row_loss(path)
        if found is not None:
            return found
    return None


def _final_loss(run: RunView, wanted: str) -> tuple[str, float] | None:
    scalars = flatten(run.result() or {})
    for name in (wanted, TEST_LOSS, "loss"):
        if isinstance(scalars.get(name), float):
            return name, scalars[name]
    return next(((name, value) for name, value in scalars.items() if "loss" in name and isinstance(value, float)), None)


def _last_row_loss(path: Path) -> tuple[str, float] | None:
    with open(path, "rb") as stream:
        header = stream.readline().decode(errors="replace")
        stream.seek(max(stream.tell(), path.stat().st_size - _TAIL_BYTES))
        lines = stream.read().decode(errors="replace").split("\n")[:-1]
    if not lines:
        return None
    names, cells = next(csv.reader([header]), []), next(csv.reader([lines[-1]]), [])
    if len(names) != len(cells):
        return None
    for name, cell in zip(names, cells, strict=True):
        if "loss" in name:
            value = parse_cell(cell)
            return (name, float(value)) if isinstance(value, (int, float)) else None
    return None


def default_reporter(console: Console | None = None) -> Reporter:
    """A live table when ``console`` (default: standard error) is a terminal, plain lines otherwise; without a console,
    a bar under the cell of a notebook."""
    if console is None and in_notebook():
        return NotebookReporter()
    console = console or Console(stderr=True)
    return LiveReporter(console) if console.is_terminal else PlainReporter(console)


def summary(outcome: StudyOutcome) -> str:
    """The last line: how the trials stand, and what to do about it."""
    parts = [f"{outcome.finished} of {outcome.total} trials finished"]
    parts += [f"{n} {name}" for name, n in (("failed", outcome.failed), ("diverged", outcome.diverged)) if n]
    if outcome.pending:
        parts.append(f"{outcome.pending} not run yet")
    line = f"{', '.join(parts)} ({outcome.ran} run now in {format_seconds(outcome.wall_s)}): {outcome.folder}"
    if outcome.damaged:
        damages = "; ".join(outcome.damaged)
        line += f"; left out as damaged: {damages} (a run whose folder is deleted is run again)"
    if outcome.stopped:
        line += "; stopped as requested: the same command resumes"
    if outcome.failed:
        line += "; the tracebacks are in the runs' error.txt, and the same command tries them again"
    return line


class PlainReporter:
    """One line an event, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, folder: Path, total: int, done: int) -> None:
        resumed = f", {done} of them ended before" if done else ""
        self._line(f"{folder}: {total} trials{resumed}")

    def event(self, event: Event) -> None:
        what = f"[{event.done}/{event.total}] {event.kind} {event.label}".rstrip()
        took = f" in {format_seconds(event.wall_s)}" if event.wall_s else ""
        left = f", about {format_seconds(event.eta_s)} left" if event.eta_s is not None and took else ""
        message = f": {event.message}" if event.message else ""
        self._line(f"{what}{took}{left}{message}")

    def end(self, outcome: StudyOutcome | None) -> None:
        if outcome is not None:
            self._line(summary(outcome))

    def _line(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)


class NotebookReporter:
    """One bar under the cell, with what is running and the time left; failures stay as lines below it.

    It is HTML that replaces itself, so it needs no widgets and stays in a saved notebook.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._folder = ""
        self._total = self._done = 0
        self._running: list[str] = []
        self._left = ""
        self._lines: list[str] = []

    def begin(self, folder: Path, total: int, done: int) -> None:
        self._folder, self._total, self._done = str(folder), total, done
        self._show()

    def event(self, event: Event) -> None:
        self._total, self._done = event.total or self._total, event.done
        self._running = [label for label in self._running if label != event.label]
        if event.kind == "started":
            self._running.append(event.label)
        elif event.kind in _TOLD:
            self._lines.append(f"{event.kind} {event.label} {event.message}".rstrip())
        if event.eta_s is not None:
            self._left = f", about {format_seconds(event.eta_s)} left"
        self._show()

    def end(self, outcome: StudyOutcome | None) -> None:
        self._running, self._left = [], ""
        if outcome is not None:
            self._done = outcome.total - outcome.pending
            self._lines.append(summary(outcome))
        self._show()

    def _show(self) -> None:
        from IPython.display import HTML, display

        more = len(self._running) - 1
        running = f": {self._running[0]}{f' and {more} more' if more > 0 else ''}" if self._running else ""
        told = f"{self._done}/{self._total} trials ended{self._left}{running}"
        bar = f'<progress value="{self._done}" max="{max(1, self._total)}" style="width:16em"></progress>'
        lines = words("\n".join(self._lines)) if self._lines else ""
        page = HTML(f'<div title="{html.escape(self._folder)}">{bar} {html.escape(told)}{lines}</div>')
        if self._handle is None:
            self._handle = display(page, display_id=True)
        else:
            self._handle.update(page)


class LiveReporter:
    """The table of `render_status`, refreshed twice a second; failures also stay as lines above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._last: RenderableType = Text("")
        self._next_look = 0.0

    def begin(self, folder: Path, total: int, done: int) -> None:
        view = read_study(folder)

        def render() -> RenderableType:
            # Where the index is locked for a moment, the last table stays; so it does where a study is so large that
            # looking would take more than a tenth of the time.
            began = time.monotonic()
            if began < self._next_look:
                return self._last
            with contextlib.suppress(sqlite3.OperationalError):
                rows, width = max(5, self._console.size.height - 10), self._console.width
                self._last = render_status(study_status(view), max_rows=rows, width=width)
            ended = time.monotonic()
            self._next_look = ended + 9 * (ended - began) if ended - began > 0.1 else 0.0
            return self._last

        self._live = Live(console=self._console, get_renderable=render, refresh_per_second=_REFRESH_PER_S)
        self._live.start()

    def event(self, event: Event) -> None:
        if event.kind in _TOLD:
            self._console.print(f"[bold]{event.kind}[/] {escape(event.label)} {escape(event.message)}")

    def end(self, outcome: StudyOutcome | None) -> None:
        if self._live is not None:
            self._live.stop()
        if outcome is not None:
            self._console.print(Text(summary(outcome)))
