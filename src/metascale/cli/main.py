"""The command line. Every command reads its arguments, calls one function, and prints what that returned."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metascale import __version__
from metascale.cli import data as cli_data
from metascale.cli import imports as cli_imports
from metascale.cli import laws as cli_laws
from metascale.cli import models as cli_models
from metascale.cli import next_run as cli_next
from metascale.cli import recipes as cli_recipes
from metascale.cli import run as cli_run
from metascale.cli import scales as cli_scales
from metascale.cli import study as cli_study
from metascale.cli.answer import answering, forget, give, give_error
from metascale.cli.complete import runs
from metascale.cli.data import DataDir
from metascale.cli.flags import flags_of, keys_of, sentence
from metascale.cli.options import Command, Group
from metascale.cli.run import print_conclusion, use_data_dir
from metascale.cli.study import Folder, leave_if_damaged
from metascale.cli.table import study_of
from metascale.core.errors import InputError, MetascaleError, MissingDependency
from metascale.core.files import sync_folder

POSIX = os.name == "posix"
_BAD_INPUT = (InputError, MissingDependency)


@contextlib.contextmanager
def out_folder(folder: Path | None) -> Iterator[None]:
    """Make the folder of ``--out`` (``None``: there is none); a command that is then refused leaves no empty folder.

    Raises:
        InputError: the folder cannot be made or written.
    """
    if folder is None:
        yield
        return
    made = _make(folder)
    require_writable(folder, "--out")
    try:
        yield
    except MetascaleError:
        _remove_empty(made)
        raise


def at_home(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with ``~`` expanded in its paths: a shell leaves it as it is inside quotes and after ``--out=``."""

    @functools.wraps(command)
    def expanded(**given: Any) -> None:
        command(**{key: value.expanduser() if isinstance(value, Path) else value for key, value in given.items()})

    return expanded


def into_folder(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with the folder of its option --out made first, so that a bad path is refused before work starts."""

    @functools.wraps(command)
    def checked(**given: Any) -> None:
        folder = given.get("out_dir", given.get("out"))
        with out_folder(None if given.get("dry_run") else folder):
            command(**given)

    return checked


def of_trusted_runs(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` on a table; where that is a study's, damaged runs are named at the end, with exit status 1."""

    @functools.wraps(command)
    def checked(**given: Any) -> None:
        command(**given)
        if (folder := study_of(given["table"])) is not None:
            leave_if_damaged(folder)

    return checked


def on_posix(command: Callable[..., None]) -> Callable[..., None]:
    """``command``, refused on systems without POSIX locks and signals, on which studies depend."""

    @functools.wraps(command)
    def checked(**given: Any) -> None:
        if not POSIX:
            raise InputError(
                f"`metascale {command.__name__}` runs on Linux and macOS; on Windows use WSL "
                "(fit, forecast, backtest and optimum work everywhere)"
            )
        command(**given)

    return checked


def require_writable(folder: Path, name: str) -> None:
    """Refuse a folder in which this user cannot make files.

    Raises:
        InputError: it is not writable.
    """
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{name} {folder} cannot be written: Permission denied")


def _make(folder: Path) -> list[Path]:
    """Make a folder and its parents, each name durable; those that were missing, outermost first."""
    missing: list[Path] = []
    try:
        above = folder
        while not above.exists() and above != above.parent:
            missing.insert(0, above)
            above = above.parent
        folder.mkdir(parents=True, exist_ok=True)
        for made in missing:
            sync_folder(made.parent)
    except OSError as error:
        _remove_empty(missing)
        raise InputError(f"--out {folder} cannot be made: {error.strerror}") from error
    return missing


def _remove_empty(made: list[Path]) -> None:
    """Remove those folders that are empty, innermost first."""
    for folder in reversed(made):
        with contextlib.suppress(OSError):
            folder.rmdir()


app = typer.Typer(
    name="metascale",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Meta-train models, vary any scale axis in a resumable study, and get a scaling law with honest error bars.",
)
app.add_typer(cli_data.app, name="data")
for command in (cli_laws.fit, cli_laws.forecast, cli_laws.backtest, cli_laws.optimum):
    app.command()(into_folder(of_trusted_runs(command)))
app.command()(cli_scales.predict)
app.command("next")(into_folder(of_trusted_runs(cli_next.next_)))
app.command("import")(cli_imports.import_runs)
app.command()(cli_recipes.recipes)
app.command()(cli_recipes.init)
for study_command in (
    into_folder(cli_run.run),
    cli_run.resume,
    cli_study.status,
    cli_study.watch,
    cli_study.verify,
    cli_study.reindex,
    cli_study.stop,
    cli_study.export,
    cli_study.push,
    into_folder(cli_models.coordinate_check),
):
    app.command()(on_posix(study_command))
out = Console()
err = Console(stderr=True)


def main() -> None:
    """Run the command line. Errors end with one sentence on standard error.

    Exit status 2: invalid input or a missing optional package. 1: any other failure, a full disk or a locked database
    included. 130: Ctrl-C.
    """
    forget()
    try:
        app()
    except MetascaleError as error:
        typed = sys.argv[1:]
        _leave(sentence(error, flags_of(app, typed), keys_of(typed)), error, 2 if isinstance(error, _BAD_INPUT) else 1)
    except BrokenPipeError:
        raise
    except (OSError, sqlite3.OperationalError) as error:
        _leave(_on_one_line(error), error, 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _leave(text: str, error: Exception, status: int) -> NoReturn:
    err.print(Text(f"metascale: {text}"), style="red", soft_wrap=True)
    give_error(text, error, status)
    sys.exit(status)


def _on_one_line(error: OSError | sqlite3.OperationalError) -> str:
    """The system's message on one line, with the file where it names one."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return " ".join(f"{type(error).__name__}: {error}".split())


@app.command()
@on_posix
def report(
    folder: Folder,
    figures: Annotated[
        str | None, typer.Option(help="Also every picture as a file for papers: svg, pdf or svg,pdf.")
    ] = None,
) -> None:
    """Fit the law again and write the tables, plots and report.html of a study."""
    from metascale.workflow.conclude import conclude

    if folder.is_dir():
        require_writable(folder, "the study's folder")
    kinds = [kind.strip().lower() for kind in figures.split(",")] if figures is not None else []
    if kinds:
        from metascale.report.figures import require_kinds, write_figures

        require_kinds(kinds)  # before anything is written
    found = conclude(folder)
    if kinds:
        found = dataclasses.replace(found, written=(*found.written, *write_figures(folder, kinds)))
    print_conclusion(found)
    leave_if_damaged(folder)


@app.command()
@on_posix
def evaluate(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder: STUDY/runs/NAME.", autocompletion=runs)
    ],
    shots: Annotated[int | None, typer.Option(min=1, help="Support examples a class.")] = None,
    inner_steps: Annotated[int | None, typer.Option(min=0, help="Inner steps of the headline.")] = None,
    n_tasks: Annotated[int | None, typer.Option(min=1, help="Test tasks.")] = None,
    device: Annotated[str, typer.Option(help="Where to run.")] = "cpu",
    data_dir: DataDir = None,
) -> None:
    """Evaluate a finished run on the fixed test tasks, with other shots, inner steps or numbers of tasks."""
    from metascale.core.optional import require

    use_data_dir(data_dir)
    require("torch", "torch", "evaluating a run")
    from metascale.workflow.evaluate import evaluate_run

    wanted = {"k_shot": shots, "eval_inner_steps": inner_steps, "n_test_tasks": n_tasks}
    result = evaluate_run(run_folder, {key: value for key, value in wanted.items() if value is not None}, device)
    curve = result.curve()
    give(n_tasks=len(result.task_ids), curve=curve)
    table = Table("inner steps", "loss (nats)", "± s.e. over tasks", "accuracy", "± s.e. over tasks")
    for row in curve:
        cells = [row["loss_nats"], row["loss_sem_nats"], row.get("accuracy"), row.get("accuracy_sem")]
        table.add_row(str(row["inner_steps"]), *("-" if cell is None else f"{cell:.4f}" for cell in cells))
    out.print(table)
    out.print(f"{len(result.task_ids)} test tasks")


@app.command()
def doctor() -> None:
    """What is installed and what this machine has."""
    from metascale.workflow.doctor import describe_machine

    found = describe_machine()
    give(**dict(found))
    table = Table("", "")
    for name, value in found:
        table.add_row(name, value)
    out.print(table)


def _version(value: bool) -> None:
    if value:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    return None


for registered in (*app.registered_commands, *cli_data.app.registered_commands):
    registered.callback = at_home(answering(registered.callback)) if registered.callback else None
    registered.cls = Command


if __name__ == "__main__":
    main()
