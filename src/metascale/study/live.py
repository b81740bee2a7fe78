"""Showing a study while it runs: a live table on a terminal, one line an event elsewhere."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from metascale.core.units import format_seconds
from metascale.study.events import Event, Reporter, StudyOutcome
from metascale.study.status import render_status, study_status
from metascale.study.store.folder import read_study

_REFRESH_PER_S = 2


def default_reporter(console: Console | None = None) -> Reporter:
    """A live table when ``console`` (default: standard error) is a terminal, plain lines otherwise."""
    console = console or Console(stderr=True)
    return LiveReporter(console) if console.is_terminal else PlainReporter(console)


def summary(outcome: StudyOutcome) -> str:
    """The last line: how the trials stand, and what to do about it."""
    parts = [f"{outcome.finished} of {outcome.total} trials finished"]
    parts += [f"{n} {name}" for name, n in (("failed", outcome.failed), ("diverged", outcome.diverged)) if n]
    if outcome.pending:
        parts.append(f"{outcome.pending} not run yet")
    line = f"{', '.join(parts)} ({outcome.ran} run now in {format_seconds(outcome.wall_s)}): {outcome.folder}"
    if outcome.stopped:
        line += "; stopped as asked: the same command goes on"
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


class LiveReporter:
    """The table of `render_status`, refreshed twice a second; failures also stay as lines above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._last: RenderableType = Text("")

    def begin(self, folder: Path, total: int, done: int) -> None:
        view = read_study(folder)

        def render() -> RenderableType:
            try:
                self._last = render_status(
                    study_status(view), max_rows=max(5, self._console.size.height - 10), width=self._console.width
                )
            except sqlite3.OperationalError:
                # The index is locked for a moment: show what was there.
                return self._last
            return self._last

        self._live = Live(console=self._console, get_renderable=render, refresh_per_second=_REFRESH_PER_S)
        self._live.start()

    def event(self, event: Event) -> None:
        if event.kind in ("failed", "diverged", "lost", "interrupted", "stopping"):
            self._console.print(f"[bold]{event.kind}[/] {escape(event.label)} {escape(event.message)}")

    def end(self, outcome: StudyOutcome | None) -> None:
        if self._live is not None:
            self._live.stop()
        if outcome is not None:
            self._console.print(Text(summary(outcome)))
