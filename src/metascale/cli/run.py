"""The commands that run a study: `run` and `resume`, and how their options become a plan."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metascale.cli import complete
from metascale.cli.answer import give
from metascale.cli.data import DataDir
from metascale.cli.place import with_place
from metascale.cli.study import Folder, law_json
from metascale.core.errors import InputError
from metascale.core.suggest import suggest

if TYPE_CHECKING:
    from metascale.study.roles import Reading
    from metascale.study.run.session import StudyOutcome
    from metascale.workflow.conclude import Conclusion
    from metascale.workflow.launch import Place, Plan

out = Console()
MOST_VALUES = 100_000
"""Of one YAML text."""


@with_place
def run(
    *,
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A recipe of `metascale recipes`, a Python file that defines one, or your own function as "
            "PATH.py:FUNCTION or package.module:FUNCTION, or a study file of `metascale init` (.yaml).",
            autocompletion=complete.recipes,
        ),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            help='Instead of a recipe: your program, such as "python train.py --width {width}". It writes a JSON '
            "object to the file that the variable METASCALE_RESULT names."
        ),
    ] = None,
    out_dir: Annotated[Path, typer.Option("--out", help="The study's folder; nothing is written outside it.")],
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="key=value over the recipe's; a list (2,5,10) makes an axis. Repeatable.",
            autocompletion=complete.settings,
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of keys and values, below --set.")] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option(
            "--scale",
            help="Axis (or measured column) that the law runs along. Twice: a law L(N, D).",
            autocompletion=complete.keys,
        ),
    ] = None,
    series: Annotated[
        list[str] | None,
        typer.Option(
            "--series", help="Axis that is compared: a law for each value. Repeatable.", autocompletion=complete.keys
        ),
    ] = None,
    best_of: Annotated[
        list[str] | None,
        typer.Option(
            "--best-of",
            help="Axis of which the best value counts, by validation. Repeatable.",
            autocompletion=complete.keys,
        ),
    ] = None,
    loss: Annotated[str, typer.Option(help="Own function or program: the column of its results to fit.")] = "",
    units: Annotated[str, typer.Option(help="Own function or program: the unit of the loss.")] = "",
    better: Annotated[str, typer.Option(help="Own function or program: lower or higher.")] = "lower",
    profile: Annotated[
        str | None, typer.Option(help="A variant of the recipe.", autocompletion=complete.profiles)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The same as --profile quick.")] = False,
    seeds: Annotated[str | None, typer.Option(help="Training seeds, such as 0,1,2 or 0-4.")] = None,
    tune: Annotated[int | None, typer.Option(help="First search the recipe's own ranges in this many trials.")] = None,
    memory_budget: Annotated[
        str | None, typer.Option(help="Such as 8GiB: chooses checkpointing and micro-batches to fit.")
    ] = None,
    place: Place,
    data_dir: DataDir = None,
    baselines: Annotated[bool, typer.Option(help="Run the baselines beside the meta-learner.")] = True,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Start no new trial after one failed.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate the cost and run nothing.")] = False,
) -> None:
    """Run a study of a recipe, or of your own function or program: trials, law and report.

    The same command again resumes; finished trials are kept. Every axis is a scale, a series or best-of: by default the
    recipe's own scale (else the first axis of numbers) is the scale, and every other axis a series.
    """
    from metascale.workflow.launch import launch, plan

    use_data_dir(data_dir)
    given = {"scale": scale, "series": series, "best_of": best_of, "loss": loss, "units": units}
    filed = _read_study_file(recipe)
    recipe = filed.get("recipe") if filed else recipe
    asked = {name: value or filed.get(name) for name, value in given.items()}
    flags = {"tune": tune, "memory_budget": memory_budget}
    chosen = _chosen(recipe, filed, config, values) | {key: value for key, value in flags.items() if value is not None}
    planned = plan(
        recipe,
        chosen,
        profile=_profile(profile, quick, filed),
        seeds=_parse_seeds(seeds) if seeds is not None else filed.get("seeds"),
        place=place,
        baselines=baselines and filed.get("baselines", True),
        command=command or filed.get("command"),
        reading=_reading(asked, filed.get("better", better) if better == "lower" else better),
    )
    _print_read(planned)
    if dry_run:
        _print_costs(planned)
        return
    with _exit_status_of_signals():
        _finish(*launch(planned, out_dir, fail_fast=fail_fast))


def _profile(profile: str | None, quick: bool, filed: Mapping[str, Any]) -> str | None:
    """
    Raises:
        InputError: ``--quick`` beside another profile.
    """
    if not quick:
        return profile or filed.get("profile")
    if profile not in (None, "quick"):
        raise InputError(f"--quick is --profile quick: it cannot go with --profile {profile}")
    return "quick"


def _chosen(
    recipe: str | None, filed: Mapping[str, Any], config: Path | None, values: list[str] | None
) -> dict[str, Any]:
    """The values of the study file, above them those of ``--config``, above them those of ``--set``."""
    texts = _text_keys(recipe)
    return {
        **_texts_kept(filed.get("values") or {}, texts),
        **_read_config(config, texts),
        **_parse_values(values or [], texts),
    }


def _reading(asked: Mapping[str, Any], better: Any) -> Reading:
    from metascale.study.roles import Reading

    scale, series, best_of = (asked[name] or () for name in ("scale", "series", "best_of"))
    return Reading(scale, series, best_of, asked["loss"] or "", asked["units"] or "", better)


@with_place
def resume(
    *,
    folder: Folder,
    place: Place,
    data_dir: DataDir = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Start no new trial after one failed.")] = False,
) -> None:
    """Resume the study in a folder with the settings of its `run` command."""
    from metascale.workflow.launch import launch, plan_from_folder

    use_data_dir(data_dir)
    with _exit_status_of_signals():
        _print_read(planned := plan_from_folder(folder, place=place))
        _finish(*launch(planned, folder, fail_fast=fail_fast))


@contextlib.contextmanager
def _exit_status_of_signals() -> Iterator[None]:
    """Leave with 128 + the signal's number, as shells have it; the command-line library knows SIGINT alone."""
    from metascale.study.errors import Interrupted

    try:
        yield
    except Interrupted as error:
        raise typer.Exit(error.exit_status) from error


def use_data_dir(data_dir: Path | None) -> None:
    """Name the data folder to this process and the trial processes it starts."""
    if data_dir is not None:
        if not data_dir.is_dir():
            raise InputError(f"--data-dir {data_dir} is not a folder")
        os.environ["METASCALE_DATA"] = str(data_dir.resolve())


def _text_keys(recipe: str | None) -> frozenset[str]:
    """Keys of the recipe whose values are texts whatever they look like: a file may be called 123."""
    from metascale.workflow.config import text_keys
    from metascale.workflow.own import is_function
    from metascale.workflow.recipe import load_recipe

    return frozenset() if recipe is None or is_function(recipe) else text_keys(load_recipe(recipe).config)


def _parse_values(items: list[str], texts: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The values of ``--set``.

    Args:
        texts: keys whose values stay texts.

    Raises:
        InputError: no key and value, a value that is not YAML, or a key that is given twice.
    """
    values: dict[str, Any] = {}
    for item in items:
        key, sign, text = item.partition("=")
        key = key.strip()
        if not sign or not key:
            raise InputError(f"--set needs key=value, not '{item}'")
        if key in values:
            raise InputError(
                f"--set {key}= is given twice; for an axis give a list: --set {key}=[...]", field=key, value=text
            )
        values[key] = _as_meant(key, text, texts)
    return values


def _as_meant(key: str, text: str, texts: frozenset[str]) -> Any:
    where = f"--set {key}: '{text[:200]}'"
    value = _number(_yaml(text, yaml.SafeLoader, where))
    if key not in texts and isinstance(value, str) and value == text.strip() and "," in value:
        return _listed(key, value, where)
    if key not in texts or (value is None and text.strip()):
        return value
    # The same reader without guesses: 123, 0.. and 1e3 are texts, a list is one of texts.
    written = _yaml(text, yaml.BaseLoader, where)
    return "" if written is None else written


def _listed(key: str, text: str, where: str) -> Any:
    """``2,5,10`` as the list that it is; a text with spaces after its commas stays one.

    Raises:
        InputError: a place between commas is empty.
    """
    parts = text.split(",")
    if any(part != part.strip() for part in parts) and not all(isinstance(_number(part), float) for part in parts):
        return text
    if not all(part.strip() for part in parts):
        raise InputError(f"--set {key}={text} has nothing at one side of a comma", field=key, value=text)
    if any(re.fullmatch(r"0[0-9]+", part.strip()) for part in parts):
        whole = "".join(parts)
        raise InputError(f"--set {key}={text} is a list; write {whole} without commas", field=key, value=text)
    return [_number(_yaml(part, yaml.SafeLoader, where)) for part in parts]


def _yaml(text: str, loader: type[yaml.SafeLoader | yaml.BaseLoader], where: str) -> Any:
    """
    Raises:
        InputError: the text is not YAML.
    """
    try:
        reader = loader(text)
        value = reader.get_single_data()
    except RecursionError as error:
        raise InputError(f"{where} cannot be read as YAML: it is nested too deeply") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets the errors of its converters through: a date of month 13, a number of thousands of digits.
        raise InputError(f"{where} cannot be read as YAML: {' '.join(str(error).split())}") from error
    _refuse_many_values(value, where)
    return value


def _refuse_many_values(value: Any, where: str) -> None:
    """Aliases let a few lines of YAML stand for billions of values, or a list hold itself.

    Raises:
        InputError: more than a hundred thousand values.
    """
    waiting, n_values = [value], 0
    while waiting:
        one = waiting.pop()
        n_values += 1
        if n_values > MOST_VALUES:
            raise InputError(f"{where} stands for more than {MOST_VALUES:,} values, the most that a study takes")
        waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


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


def _read_config(path: Path | None, texts: frozenset[str] = frozenset(), name: str = "--config") -> dict[str, Any]:
    """The keys and values of a YAML file.

    Args:
        texts: keys whose values stay texts.

    Raises:
        InputError: the file is not there, cannot be read, is not YAML, or holds no keys and values.
    """
    if path is None:
        return {}
    path = path.expanduser()
    if not path.exists():
        raise InputError(f"{name} {path} does not exist{_nearest_file(path)}")
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not UTF-8 ({error.reason})"
        raise InputError(f"{name} {path} cannot be read: {reason}") from error
    values = _yaml(content, _WholeKeys, f"{name} {path}")
    written = _yaml(content, yaml.BaseLoader, f"{name} {path}") if texts else {}
    if not isinstance(values, dict):
        raise InputError(f"{name} {path} must hold keys and values, not a {type(values).__name__}")
    chosen = {str(key): _number(value) for key, value in values.items()}
    return {key: written[key] if key in texts and value is not None else value for key, value in chosen.items()}


def _read_study_file(recipe: str | None) -> dict[str, Any]:
    """What a study file holds; nothing where ``recipe`` names none.

    Raises:
        InputError: it is not there, is no YAML, or has a key or a value that is none of a study file.
    """
    from metascale.workflow.study_file import SUFFIXES, checked

    if recipe is None or not recipe.lower().endswith(SUFFIXES):
        return {}
    found = checked(_read_config(Path(recipe), name="the study file"), recipe)
    if isinstance(found.get("seeds"), (str, int)):
        found["seeds"] = _parse_seeds(str(found["seeds"]))
    return found


def _texts_kept(values: Mapping[str, Any], texts: frozenset[str]) -> dict[str, Any]:
    """The values of a study file; what the recipe declares as a text stays one."""
    kept: dict[str, Any] = {}
    for key, value in values.items():
        as_text = key in texts and value is not None and not isinstance(value, (list, bool))
        kept[key] = str(value) if as_text else _number(value)
    return kept


class _WholeKeys(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML's reader would keep the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key.value, str) else False:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' twice", key.start_mark)
            seen.update([key.value] if isinstance(key.value, str) else [])
        return super().construct_mapping(node, deep)


def _nearest_file(path: Path) -> str:
    """A hint at the file of the same folder whose name is nearest."""
    if not path.parent.is_dir():
        return f": there is no folder {path.parent}"
    hint = suggest(path.name, sorted(one.name for one in path.parent.iterdir() if one.is_file()))
    return f"; {hint}" if hint.startswith("did you mean") else ""


MOST_SEEDS = 10_000


def _parse_seeds(text: str | None) -> list[int] | None:
    """``0,1,2`` or ``0-4`` or both.

    Raises:
        InputError: anything else, or a range that goes down or is too long.
    """
    if text is None:
        return None
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", part)
        if found is None:
            raise InputError(
                "--seeds needs whole numbers, 0 or more, separated by commas, such as 0,1,2, or a range such as 0-4, "
                f"not '{text}'"
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first or last - first >= MOST_SEEDS:
            raise InputError(f"--seeds {part.strip()}: a range goes up, by at most {MOST_SEEDS:,} seeds, such as 0-4")
        seeds += range(first, last + 1)
    return seeds


def _print_costs(planned: Plan) -> None:
    title, headings, rows = _costs(planned)
    give(study=planned.study.name, headings=headings, costs=rows)
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False) if title else Table()
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if title and place else "left")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def _costs(planned: Plan) -> tuple[str, list[str], list[list[str]]]:
    """A title, headings and rows; of an own function or program only the trials are known."""
    from metascale.core.optional import require

    if planned.recipe is None:
        from metascale.study.search.run import n_search_trials

        study = planned.study
        count = len(study.trials()) + n_search_trials(study)
        axes = "; ".join(f"{key} in {list(values)}" for key, values in study.axes.items())
        rows = [["trials", str(count)], ["axes", f"{axes}; seeds {list(study.seeds)}"]]
        return "", [f"{study.name} (dry run)", ""], rows
    require("torch", "torch", "estimating a study")
    from metascale.workflow.estimate import cost_table

    return cost_table(planned.recipe, planned.study, planned.workers, planned.devices[0])


def _print_read(planned: Plan) -> None:
    for about in planned.following:
        out.print(Text(f"with the settings of {about}, which these values bring with them"))
    for line in planned.read:
        out.print(Text(line), soft_wrap=True)


def _finish(outcome: StudyOutcome, conclusion: Conclusion | None) -> None:
    give(**{one.name: getattr(outcome, one.name) for one in dataclasses.fields(outcome)})
    if conclusion is not None:
        print_conclusion(conclusion)
    if outcome.exit_status:
        raise typer.Exit(outcome.exit_status)


def _compared(methods: Sequence[Mapping[str, Any]]) -> Table:
    """What a study without a law shows: the mean loss of each method, best first as on the page."""
    accurate = any(one["accuracy"] is not None for one in methods)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method")
    for heading in ("loss", *(["accuracy"] if accurate else [])):
        table.add_column(heading, justify="right")
    for one in methods:
        cells = ["-" if one["loss"] is None else format(one["loss"], ".3g")]
        if accurate:
            cells.append("-" if one["accuracy"] is None else f"{one['accuracy']:.1%}")
        table.add_row(Text(str(one["name"])), *cells)
    return table


def print_conclusion(conclusion: Conclusion) -> None:
    laws = {label: law_json(found) for label, found in conclusion.analyses.items()}
    give(laws=laws, no_law=conclusion.no_law, cautions=conclusion.cautions, written=conclusion.written)
    give(answer=conclusion.answer, methods=conclusion.methods)
    for caution in conclusion.cautions:
        out.print(Text(caution), style="bold yellow")
    for label, analysis in conclusion.analyses.items():
        if label:
            out.print(Text(label), style="bold")
        out.print(Text(analysis.summary()))
    if conclusion.no_law:
        out.print(Text(f"no law: {conclusion.no_law}"))
    if not conclusion.analyses and len(conclusion.methods) > 1:
        out.print(_compared(conclusion.methods))
    for path in conclusion.written:
        out.print(Text(str(path)), soft_wrap=True)
