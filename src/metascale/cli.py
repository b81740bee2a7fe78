"""The command line: thin. Every command reads its arguments, calls one function, and prints what it returned."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metascale import __version__, cli_data, cli_laws, cli_models, cli_run, cli_study
from metascale.cli_data import DataDir
from metascale.cli_run import print_conclusion, use_data_dir
from metascale.cli_study import Folder
from metascale.core.errors import InputError, MetascaleError, MissingDependency

app = typer.Typer(
    name="metascale",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Meta-train models, vary any scale axis in a resumable study, and get a scaling law with honest error bars.",
)
app.add_typer(cli_data.app, name="data")
for command in (cli_laws.fit, cli_laws.forecast, cli_laws.backtest, cli_laws.optimum):
    app.command()(command)
for study_command in (
    cli_run.run,
    cli_run.resume,
    cli_study.status,
    cli_study.watch,
    cli_study.verify,
    cli_study.reindex,
    cli_study.stop,
    cli_study.export,
    cli_study.push,
    cli_models.coordinate_check,
):
    app.command()(study_command)
out = Console()
err = Console(stderr=True)


def main() -> None:
    """Run the command line; what the caller got wrong ends with one sentence and exit status 2."""
    try:
        app()
    except (InputError, MissingDependency) as error:
        err.print(Text(f"metascale: {error}"), style="red", soft_wrap=True)
        sys.exit(2)
    except MetascaleError as error:
        err.print(Text(f"metascale: {error}"), style="red", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command()
def recipes() -> None:
    """List the ready-made studies and their profiles."""
    from metascale.recipes.recipe import RECIPES, load_recipe

    table = Table("recipe", "what it is", "profiles", "data")
    for name in RECIPES:
        recipe = load_recipe(name)
        table.add_row(name, recipe.title, "\n".join(recipe.profiles) or "-", ", ".join(recipe.data_sets_of({})) or "-")
    out.print(table)


@app.command()
def report(folder: Folder) -> None:
    """Fit the law again and write the tables, plots and report.html of a study."""
    from metascale.recipes.conclude import conclude

    print_conclusion(conclude(folder))


@app.command()
def evaluate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder: STUDY/runs/NAME.")],
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
    from metascale.recipes.evaluate import evaluate_run

    wanted = {"k_shot": shots, "eval_inner_steps": inner_steps, "n_test_tasks": n_tasks}
    result = evaluate_run(run_folder, {key: value for key, value in wanted.items() if value is not None}, device)
    table = Table("inner steps", "loss (nats)", "± s.e. over tasks", "accuracy", "± s.e. over tasks")
    for row in result.curve():
        cells = [row["loss_nats"], row["loss_sem_nats"], row.get("accuracy"), row.get("accuracy_sem")]
        table.add_row(str(row["inner_steps"]), *("-" if cell is None else f"{cell:.4f}" for cell in cells))
    out.print(table)
    out.print(f"{len(result.task_ids)} test tasks")


@app.command()
def doctor() -> None:
    """What is installed and what this machine has."""
    from metascale.recipes.machine import describe_machine

    table = Table("", "")
    for name, value in describe_machine():
        table.add_row(name, value)
    out.print(table)


def _version(value: bool) -> None:
    if value:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    return None


if __name__ == "__main__":
    main()
