"""The commands about a study's folder: how it stands, whether it is whole, stopping it, and taking it elsewhere."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from metascale.cli.answer import give, give_line, warn
from metascale.core.canonical import plain
from metascale.core.columns import TUNING
from metascale.core.errors import InputError
from metascale.core.units import format_bytes

console = Console()
Folder = Annotated[Path, typer.Argument(help="A study's folder (what --out named).")]
_DISK_EVERY_S = 30.0
_FORMATS = ("csv", "json", "parquet", "latex", "markdown", "mlflow", "tensorboard", "wandb", "optuna")


def status(
    folder: Folder,
    with_law: Annotated[bool, typer.Option("--law/--no-law", help="Fit the law to what has finished.")] = True,
    rows: Annotated[int, typer.Option(min=1, help="Trials to show at most.")] = 40,
) -> None:
    """Show the state of a study's trials, its law so far, and disk space."""
    from metascale.study.store.once import reading_once

    with reading_once():
        shown = _Standing(folder, with_law)
        give(**shown.to_json())
        console.print(shown.render(rows))
        leave_if_damaged(folder)


def watch(
    folder: Folder,
    every_s: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between refreshes.")] = 2.0,
    with_law: Annotated[bool, typer.Option("--law/--no-law", help="Fit the law to what has finished.")] = True,
    until_done: Annotated[bool, typer.Option(help="Exit when every trial has ended.")] = True,
) -> None:
    """Follow a study from another shell until every trial has ended; Ctrl-C leaves it running.

    With --json a line is printed whenever something has changed; with --quiet it only waits.
    """
    standing = _Standing(folder, with_law)
    said: dict[str, Any] = {}
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            live.update(standing.render(max(5, console.size.height - 12)), refresh=True)
            if (now := standing.to_json()) != said:
                give_line(said := now)
            if until_done and standing.is_done:
                break
            time.sleep(every_s)
            standing.refresh()
    leave_if_damaged(folder)


def leave_if_damaged(folder: Path) -> None:
    """Name the runs that are damaged or gone, which every command leaves out; exit status 1 if there are any."""
    from metascale.study.store.folder import damaged_runs, read_study
    from metascale.study.store.table import unsealed_finals
    from metascale.study.store.verify import missing_results

    if note := unsealed_finals(folder):
        warn(note, "yellow")
    view = read_study(folder)
    found = (*damaged_runs(view), *missing_results(view))
    for damage in found:
        warn(f"left out: {damage}", "red")
    give(damaged=found)
    if found:
        raise typer.Exit(1)


def verify(folder: Folder) -> None:
    """Check every hash of a study; exit status 1 and the names of damaged files where one differs."""
    from metascale.study.store.verify import verify_study

    found = verify_study(folder)
    give(ok=found.ok, n_files=found.n_files, n_runs=found.n_runs, damages=found.damages)
    for damage in found.damages:
        console.print(Text(f"{damage.path}: {damage.problem}", style="red"), soft_wrap=True)
    if not found.ok:
        console.print(f"{len(found.damages)} of {found.n_files} files are damaged")
        raise typer.Exit(1)
    console.print(f"every hash matches: {found.n_files} files of {found.n_runs} trials")


def reindex(folder: Folder) -> None:
    """Rebuild a study's index from its run folders."""
    from metascale.study.store.store import rebuild_index

    rebuild_index(folder).close()
    give(folder=folder)
    console.print(f"rebuilt the index of {folder} from its run folders")


def stop(
    folder: Folder,
    now: Annotated[bool, typer.Option("--now", help="Save and stop running trials after their step.")] = False,
) -> None:
    """Tell a study's runners to start no new trial; running trials finish, or with --now are saved and stopped."""
    from metascale.study.run.stopping import ask_to_stop
    from metascale.study.status import study_status

    standing = study_status(folder)
    running = [trial for trial in standing.trials if trial.shown_status == "running"]
    ask_to_stop(folder, "checkpoint" if now else "finish")
    give(folder=folder, running=[trial.label for trial in running], mode="checkpoint" if now else "finish")
    if not running:
        console.print("no trial is running; idle runners will stop too")
        return
    end = "are saved after the step in progress and end" if now else "run to their end"
    console.print(f"{len(running)} running trials {end}; no new one starts. The same run command resumes.")


def export(
    folder: Annotated[Path, typer.Argument(help="A study's folder; with --peft a run's (STUDY/runs/NAME).")],
    kind: Annotated[str | None, typer.Option("--format", help=f"{', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}.")] = None,
    out: Annotated[
        str | None, typer.Option("--out", help="A file (tables), a folder (trackers) or an MLflow tracking URI.")
    ] = None,
    config: Annotated[
        bool, typer.Option("--config", help="csv, json, parquet: also the configuration that does not vary.")
    ] = False,
    peft: Annotated[Path | None, typer.Option("--peft", help="A new folder for the run's adapters and card.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="With --peft: the base model's name for others.")] = None,
) -> None:
    """Write a study's table, its runs for an experiment tracker, or a run's adapters for `peft`."""
    if peft is not None:
        if kind is not None or out is not None:
            raise InputError("--peft goes without --format and --out: it names its own folder")
        _export_adapter(folder, peft, base)
        return
    if kind is None or out is None or base is not None:
        raise InputError("export needs --format and --out for a study, or --peft (with --base) for one run")
    from metascale.integrations.export import export_study

    out = os.path.expanduser(out)
    try:
        count = export_study(folder, kind, out, config=config)
    except (NotADirectoryError, PermissionError, FileExistsError) as error:
        raise InputError(f"--out {out} cannot be written: {error.strerror}") from error
    give(n_trials=count, out=out)
    what = "rows" if kind in ("latex", "markdown") else "trials"
    console.print(f"{count} {what} written to {out}", soft_wrap=True)
    leave_if_damaged(folder)


def push(
    folder: Annotated[Path, typer.Argument(help="A folder that `export --peft` wrote.")],
    repo: Annotated[str, typer.Option(help="OWNER/NAME on the Hugging Face hub.")],
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
) -> None:
    """Upload exported adapters and their card to the hub, with the token from `hf auth login` or HF_TOKEN."""
    from metascale.integrations.adapters import push_adapter

    address = push_adapter(folder, repo, public=public)
    give(address=address)
    console.print(Text(address), soft_wrap=True)


def _export_adapter(run_folder: Path, peft: Path, base: str | None) -> None:
    from metascale.integrations.adapters import export_adapter

    try:
        written = export_adapter(run_folder, peft, base)
    except (NotADirectoryError, PermissionError) as error:
        raise InputError(f"--peft {peft} cannot be written: {error.strerror}") from error
    give(written=written)
    for path in written:
        console.print(Text(str(path)), soft_wrap=True)
    console.print("The licence line of the card is yours to fill in; `metascale push` uploads the folder.")


class _Standing:
    """What `status` and `watch` show; the law is fitted again only when another trial has finished."""

    def __init__(self, folder: Path, with_law: bool) -> None:
        self._folder = folder
        self._with_law = with_law
        self._n_finished = -1
        self._laws: dict[str, Any] = {}
        self._no_law = ""
        self._disk: Any = None
        self._disk_at = 0.0
        self._status: Any = None
        self.refresh()

    def refresh(self) -> None:
        """Read the study again, its trials included: a search adds to them."""
        from metascale.study.status import disk_of, study_status
        from metascale.study.store.folder import read_study

        self._view = read_study(self._folder)
        try:
            self._status = study_status(self._view)
        except sqlite3.OperationalError:
            # The index is locked for a moment: show what was there, if anything was.
            if self._status is None:
                raise
        if self._disk is None or time.monotonic() - self._disk_at > _DISK_EVERY_S:
            self._disk, self._disk_at = disk_of(self._view.folder), time.monotonic()
        if self._with_law and self._status.counts["finished"] != self._n_finished:
            self._n_finished = self._status.counts["finished"]
            self._fit()

    @property
    def is_done(self) -> bool:
        """Whether every trial has ended. After a search come the trials of the axes, which are not listed before."""
        from metascale.study.search.search import search_of

        study, runs = self._view.study, self._view.runs
        if search_of(study) is not None and all(run.trial.kind == TUNING for run in runs):
            return False
        return bool(self._status.counts["pending"] + self._status.counts["running"] == 0)

    def _fit(self) -> None:
        from metascale.workflow.standing import laws_so_far

        self._laws, self._no_law = laws_so_far(self._view)

    def to_json(self) -> dict[str, Any]:
        """JSON types: trials, counts, seconds left, the law's parameters with intervals, the disk."""
        laws = {label: law_json(found) for label, found in self._laws.items()}
        law = {"laws": laws, "no_law": self._no_law} if self._with_law else {}
        return {**self._status.to_json(), **law, "disk": plain(self._disk)}

    def render(self, rows: int) -> RenderableType:
        """The table, then a line for each law and one for the disk."""
        from metascale.study.status import render_status

        lines = [Text(line) for label, found in self._laws.items() for line in _law_lines(label, found)]
        if self._with_law and not self._laws:
            lines.append(Text(f"no law yet: {self._no_law}", style="dim"))
        disk = self._disk
        room = f"{format_bytes(disk.n_bytes)} in {disk.n_files} files, {format_bytes(disk.free_bytes)} free"
        return Group(
            render_status(self._status, max_rows=rows, width=console.width), *lines, Text(f"disk: {room}", style="dim")
        )


def law_json(analysis: Any) -> dict[str, Any]:
    """What commands about studies say of a law; law.json has all of it."""
    whole = analysis.to_json()
    return {key: whole[key] for key in ("law", "formula", "parameters", "level", "verdict", "n_observations")}


def _law_lines(label: str, analysis: Any) -> list[str]:
    law = law_json(analysis)
    parts = [
        f"{name} = {value['estimate']:.4g} [{value['low']:.4g}, {value['high']:.4g}]"
        for name, value in law["parameters"].items()
    ]
    name = f"law ({label})" if label else "law so far"
    return [
        f"{name}: {law['formula']}, {', '.join(parts)} ({100 * law['level']:g} % intervals, "
        f"{law['n_observations']} trials)",
        f"  {law['verdict']}",
    ]
