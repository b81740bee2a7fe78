"""The command line: thin. Every command reads its arguments, calls one function, and prints what it returned."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metascale import __version__, cli_data, cli_laws
from metascale.cli_data import DataDir
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
out = Console()
err = Console(stderr=True)

Folder = Annotated[Path, typer.Argument(help="A study's folder (what --out named).")]


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
        table.add_row(name, recipe.title, "\n".join(recipe.profiles) or "-", ", ".join(recipe.data_sets) or "-")
    out.print(table)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe; `metascale recipes` lists them.")],
    out_dir: Annotated[Path, typer.Option("--out", help="The study's folder; nothing is written outside it.")],
    values: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value over the recipe's configuration; a list makes an axis. Repeatable."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of keys and values, below --set.")] = None,
    profile: Annotated[str | None, typer.Option(help="A variant of the recipe.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Training seeds, such as 0,1,2.")] = None,
    executor: Annotated[str, typer.Option(help="processes or serial.")] = "processes",
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at a time (default: cores or devices).")] = None,
    devices: Annotated[str, typer.Option(help="Devices in turn, such as cuda:0,cuda:1.")] = "cpu",
    data_dir: DataDir = None,
    baselines: Annotated[bool, typer.Option(help="Run the baselines beside the meta-learner.")] = True,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Start no new trial after one failed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would cost, and run nothing.")] = False,
) -> None:
    """Run a recipe's study: trials, law and report. The same command again resumes; finished trials are kept."""
    from metascale.recipes.launch import launch, plan

    _use_data_dir(data_dir)
    chosen = {**_read_config(config), **_parse_values(values or [])}
    planned = plan(
        recipe,
        chosen,
        profile=profile,
        seeds=_parse_seeds(seeds),
        executor=executor,
        workers=workers,
        devices=devices,
        baselines=baselines,
    )
    if dry_run:
        _print_estimate(planned)
        return
    _finish(*launch(planned, out_dir, fail_fast=fail_fast))


@app.command()
def resume(
    folder: Folder,
    executor: Annotated[str, typer.Option(help="processes or serial.")] = "processes",
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at a time.")] = None,
    devices: Annotated[str, typer.Option(help="Devices in turn, such as cuda:0,cuda:1.")] = "cpu",
    data_dir: DataDir = None,
) -> None:
    """Go on with the study in a folder, as its `run` command would."""
    from metascale.recipes.launch import launch, plan_from_folder

    _use_data_dir(data_dir)
    _finish(*launch(plan_from_folder(folder, executor, workers, devices), folder))


@app.command()
def status(folder: Folder) -> None:
    """How the trials of a study stand."""
    from metascale.study.status import render_status, study_status

    out.print(render_status(study_status(folder)))


@app.command()
def report(folder: Folder) -> None:
    """Fit the law again and write the tables, plots and report.html of a study."""
    from metascale.recipes.conclude import conclude

    _print_conclusion(conclude(folder))


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

    _use_data_dir(data_dir)
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
def reindex(folder: Folder) -> None:
    """Build a study's index anew from its run folders."""
    from metascale.study.store import rebuild_index

    rebuild_index(folder).close()
    out.print(f"index of {folder} built from its run folders")


@app.command()
def doctor() -> None:
    """What is installed and what this machine has."""
    from metascale.recipes.machine import describe_machine

    table = Table("", "")
    for name, value in describe_machine():
        table.add_row(name, value)
    out.print(table)


def _use_data_dir(data_dir: Path | None) -> None:
    """Name the data folder to this process and the trial processes it starts."""
    if data_dir is not None:
        if not data_dir.is_dir():
            raise InputError(f"--data-dir {data_dir} is not a folder")
        os.environ["METASCALE_DATA"] = str(data_dir.resolve())


def _parse_values(items: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        key, sign, text = item.partition("=")
        if not sign or not key:
            raise InputError(f"--set needs key=value, not '{item}'")
        try:
            values[key.strip()] = _number(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise InputError(f"--set {key}: '{text}' is not a YAML value") from error
    return values


def _number(value: Any) -> Any:
    """YAML reads 1e-3 as text; a number is meant."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config {path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"--config {path} must hold keys and values, not a {type(values).__name__}")
    return {str(key): _number(value) for key, value in values.items()}


def _parse_seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--seeds needs whole numbers separated by commas, such as 0,1,2, not '{text}'") from error


def _print_estimate(planned: Any) -> None:
    from metascale.core.optional import require

    require("torch", "torch", "estimating a study")
    from metascale.recipes.estimate import describe, estimate

    found = estimate(planned.recipe, planned.study, planned.workers, planned.devices[0])
    table = Table(f"{planned.recipe.name} (dry run)", "")
    for name, value in describe(found):
        table.add_row(name, value)
    axes = ", ".join(f"{key} in {list(values)}" for key, values in planned.study.axes.items())
    table.add_row("axes", f"{axes}; seeds {list(planned.study.seeds)}")
    out.print(table)


def _finish(outcome: Any, conclusion: Any) -> None:
    if conclusion is not None:
        _print_conclusion(conclusion)
    if outcome.exit_status:
        raise typer.Exit(outcome.exit_status)


def _print_conclusion(conclusion: Any) -> None:
    for label, analysis in conclusion.analyses.items():
        if label:
            out.print(Text(label), style="bold")
        out.print(Text(analysis.summary()))
    if conclusion.no_law:
        out.print(Text(f"no law: {conclusion.no_law}"))
    for path in conclusion.written:
        out.print(Text(str(path)), soft_wrap=True)


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
