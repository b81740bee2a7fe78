"""Run a recipe's study: plan it (validated, nothing written), run it, conclude it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from metascale.core.canonical import canonical_json
from metascale.core.columns import COMMAND_JSON
from metascale.core.errors import InputError
from metascale.core.files import read_json, write_json
from metascale.core.optional import require_installed
from metascale.core.suggest import suggest
from metascale.study.definition import load_definition
from metascale.study.design import TUNE_KEY, Study, load_function
from metascale.study.executors.local import ProcessExecutor, SerialExecutor
from metascale.study.executors.ray import RayExecutor
from metascale.study.executors.slurm import SlurmExecutor
from metascale.study.roles import Better, Reading, names
from metascale.study.run.job import Executor
from metascale.study.run.supervise import HANG_S
from metascale.study.search.search import search_of
from metascale.workflow.content import hashes_of, known_by_content, located
from metascale.workflow.own import check_own, is_function, is_own, own_study, source_hashes
from metascale.workflow.places import found_again, placed
from metascale.workflow.preflight import check_devices, check_together, fetch_backbones, preflight
from metascale.workflow.recipe import Recipe, load_recipe, recipe_of
from metascale.workflow.stacks import require_stacks, stacks_of

if TYPE_CHECKING:
    from metascale.study.run.session import Reporter, StudyOutcome
    from metascale.workflow.conclude import Conclusion

PRELOAD = ("torch", "torch.fx.experimental.symbolic_shapes", "metascale.workflow.fewshot")
"""What a process loads before its first trial. The second is what torch loads, with SymPy, at the first vector-Jacobian
product: 0.4 CPU seconds, once instead of in every trial."""
EXECUTORS = ("processes", "serial", "ray", "slurm")
DEVICE = re.compile(r"cpu|mps|cuda(:[0-9]+)?")
ON_CLUSTERS = ("ray", "slurm")
_USED_BY: Mapping[str, tuple[tuple[str, ...], str]] = {
    "devices": (("processes", "serial"), "; name `gpus_per_trial` instead"),
    "gpus_per_trial": (ON_CLUSTERS, "; name `devices` instead"),
    "cpus_per_trial": (ON_CLUSTERS, ""),
    "hang_s": (("processes", *ON_CLUSTERS), ""),
    "trial_timeout_s": (("processes", *ON_CLUSTERS), ""),
    "address": (("ray",), ""),
    "partition": (("slurm",), ""),
    "memory_gb": (("slurm",), ""),
    "time_limit_min": (("slurm",), ""),
    "stack": (("processes", "serial"), ""),
}
"""Which executors use what of a `Place`, and what to use with the others."""


@dataclass(frozen=True)
class Place:
    """Where trials run. What the executor does not use is refused, unless it is the default.

    Args:
        executor: one of `EXECUTORS`.
        workers: trials at a time (Ray, SLURM: in flight); ``None`` chooses by cores or devices.
        devices: in turn, on this machine.
        processes_per_trial: processes that run one trial together.
        hang_s: a trial that wrote nothing for so long is killed.
        trial_timeout_s: an attempt at a trial that lasts longer is killed and has failed; ``None``: it may last.
        address: of a Ray cluster.
        partition: of a SLURM cluster.
        cpus_per_trial, gpus_per_trial, memory_gb, time_limit_min: what a cluster sets aside for each trial.
        stack: trials at most that one process runs together, computing at once what they have in common, or ``"auto"``;
            ``None``: as the study's folder says, else 1. Results do not depend on it.

    Raises:
        InputError: an unknown executor or device, or a value that the executor does not use.
    """

    executor: str = "processes"
    workers: int | None = None
    devices: str | Sequence[str] = "cpu"
    processes_per_trial: int = 1
    hang_s: float = HANG_S
    address: str | None = None
    partition: str = ""
    cpus_per_trial: int = 1
    gpus_per_trial: int = 0
    memory_gb: float | None = None
    time_limit_min: int = 240
    trial_timeout_s: float | None = None
    stack: int | str | None = None

    def __post_init__(self) -> None:
        chosen = self.executor
        if chosen not in EXECUTORS:
            allowed = ", ".join(EXECUTORS)
            near = f"; {hint}" if (hint := suggest(chosen, EXECUTORS)).startswith("did you") else ""
            raise InputError(
                f"`executor` is one of {allowed}, not '{chosen}'{near}", field="executor", value=chosen, allowed=allowed
            )
        if chosen == "serial" and (self.workers or 1) > 1:
            self._refuse(
                "workers", f"`executor` serial runs one trial at a time: it cannot go with `workers` {self.workers}"
            )
        for name in self.device_names:
            if not DEVICE.fullmatch(name):
                self._refuse("devices", f"`devices` has '{name}'; a device is cpu, mps, cuda or cuda:NUMBER")
        if self.stack not in (None, "auto") and not (isinstance(self.stack, int) and self.stack >= 1):
            self._refuse("stack", f"`stack` is a number of trials from 1, or auto, not {self.stack!r}")
        if self.stack not in (None, 1) and self.processes_per_trial > 1:
            self._refuse("stack", "`stack` runs several trials in one process: it cannot go with `processes_per_trial`")
        for name, (owners, instead) in _USED_BY.items():
            given = self.device_names != ("cpu",) if name == "devices" else getattr(self, name) != getattr(Place, name)
            if given and chosen not in owners:
                self._refuse(name, f"`{name}` goes with `executor` {' or '.join(owners)}, not {chosen}{instead}")

    def _refuse(self, field: str, message: str) -> NoReturn:
        raise InputError(message, field=field, value=getattr(self, field))

    @property
    def device_names(self) -> tuple[str, ...]:
        """The devices, one by one."""
        return tuple(self.devices.split(",")) if isinstance(self.devices, str) else tuple(self.devices)

    def build(self, preload: Sequence[str] = PRELOAD) -> tuple[Executor, int]:
        """The executor, and how many trials it runs at a time.

        Args:
            preload: modules that a process has loaded before it starts a trial.

        Raises:
            MissingDependency: the executor's package is not installed.
        """
        names, together = self.device_names, self.processes_per_trial
        if self.executor == "serial":
            return SerialExecutor(names, together), 1
        if self.executor == "ray":
            require_installed("ray", "ray", "`executor` ray")
            in_flight = self.workers or 64
            ray = RayExecutor(
                address=self.address,
                workers=in_flight,
                cpus_per_trial=self.cpus_per_trial,
                gpus_per_trial=self.gpus_per_trial,
                processes_per_trial=together,
                hang_s=self.hang_s,
                trial_timeout_s=self.trial_timeout_s,
            )
            return ray, in_flight
        if self.executor == "slurm":
            require_installed("submitit", "slurm", "`executor` slurm")
            in_flight = self.workers or 100
            slurm = SlurmExecutor(
                partition=self.partition,
                workers=in_flight,
                cpus_per_trial=self.cpus_per_trial,
                gpus_per_trial=self.gpus_per_trial,
                memory_gb=self.memory_gb,
                timeout_min=self.time_limit_min,
                processes_per_trial=together,
                hang_s=self.hang_s,
                trial_timeout_s=self.trial_timeout_s,
            )
            return slurm, in_flight
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        on_cpu = names == ("cpu",)
        workers = self.workers or max(1, (cores if on_cpu else len(names)) // together)
        threads = 1 if on_cpu else max(1, cores // (workers * together))
        processes = ProcessExecutor(
            workers,
            names,
            threads,
            preload,
            processes_per_trial=together,
            hang_s=self.hang_s,
            trial_timeout_s=self.trial_timeout_s,
        )
        return processes, workers


@dataclass(frozen=True)
class Plan:
    """A study that is ready to run, and where."""

    recipe: Recipe[Any] | None
    """``None``: a function or program of the user's own."""
    study: Study
    executor: Executor
    workers: int
    devices: tuple[str, ...]
    record: Mapping[str, object]
    """What command.json holds: the command line and the question."""
    stack: int | str | None = None
    """Trials that run together at most, as `Place` has it."""
    read: tuple[str, ...] = ()
    """What was read of texts, a line each: rows, classes, and what was left out."""
    following: tuple[str, ...] = ()
    """Whose settings the values brought with them, in the place of the recipe's defaults."""


def plan(
    recipe: str | None,
    values: Mapping[str, object] | None = None,
    *,
    command: str | None = None,
    profile: str | None = None,
    seeds: Sequence[int] | None = None,
    place: Place | None = None,
    baselines: bool = True,
    reading: Reading | None = None,
) -> Plan:
    """Validate everything that can be known before a trial runs; nothing is written.

    Args:
        recipe: a recipe, or a function as ``PATH.py:FUNCTION`` or ``package.module:function``.
        command: a program in the place of a recipe, with ``{key}`` where a value of the configuration belongs.
        reading: the roles of the axes, and the loss of a function or program.

    Raises:
        InputError: an unknown recipe, profile or key, a value out of range, or what `preflight` refuses.
        MissingDependency: a package that the study needs is not installed.
    """
    reading, values = reading or Reading(), _with_named_sampler(values or {})
    if (recipe is None) == (command is None):
        raise InputError("give a recipe, a function as PATH.py:FUNCTION, or a program with `command`: one of them")
    if recipe is None or is_function(recipe):
        if profile is not None:
            raise InputError("a `profile` is a recipe's: an own function or program has none", field="profile")
        study = own_study(recipe, command, values, seeds, reading)
        line = _command(recipe, command, values or {}, profile, seeds, baselines, reading)
        return _planned(None, study, place, {"command": line})
    for name in ("loss", "units", "better"):
        if getattr(reading, name) != getattr(Reading, name):
            raise InputError(f"`{name}` is for own functions and programs: recipe '{recipe}' has its own", field=name)
    chosen = load_recipe(recipe)
    study = chosen.study(values, profile, seeds, baselines, reading)
    line = _command(recipe, command, values or {}, profile, seeds, baselines, reading)
    planned = _planned(chosen, study, place, {"command": line, **chosen.presentation(profile)})
    return replace(planned, following=tuple(one.about for one in chosen.following(values or {})))


def _with_named_sampler(values: Mapping[str, object]) -> Mapping[str, object]:
    """Values that JSON can hold: a sampler that is an object is kept in this process, and stands there by its class."""
    tune = values.get(TUNE_KEY)
    if not isinstance(tune, Mapping) or "sampler" not in tune:
        return values
    from metascale.study.search.samplers import named

    return {**values, TUNE_KEY: {**tune, "sampler": named(tune["sampler"])}}


def _command(
    recipe: str | None,
    command: str | None,
    values: Mapping[str, object],
    profile: str | None,
    seeds: Sequence[int] | None,
    baselines: bool,
    reading: Reading,
) -> str:
    """The command line that asks for the same study, without what does not change its numbers (folders, workers)."""
    parts = ["metascale", "run", *([recipe] if recipe else []), *(["--command", command] if command else [])]
    if profile is not None:
        parts += ["--profile", profile]
    for key, value in values.items():
        parts += ["--set", f"{key}={canonical_json(value)}"]
    for flag, keys in (("--scale", reading.scale), ("--series", reading.series), ("--best-of", reading.best_of)):
        parts += [part for key in keys for part in (flag, key)]
    for name in ("loss", "units", "better"):
        if getattr(reading, name) != getattr(Reading, name):
            parts += [f"--{name}", getattr(reading, name)]
    if seeds is not None:
        parts += ["--seeds", ",".join(map(str, seeds))]
    return shlex.join(parts if baselines else [*parts, "--no-baselines"])


def plan_from_folder(folder: Path | str, place: Place | None = None) -> Plan:
    """The plan that resumes the study in a folder.

    Raises:
        InputError: no study is there, or what it runs or reads cannot be found any more.
    """
    folder = Path(folder).expanduser()
    study = found_again(located(load_definition(folder).study, folder), folder)
    recipe = recipe_of(study)
    if recipe is None and not is_own(study):
        try:
            load_function(study.trial)
        except (ImportError, InputError) as error:
            raise InputError(
                f"{folder} holds a study of the function '{study.trial}', which cannot be imported from here: {error}"
            ) from error
    known = folder / COMMAND_JSON
    return _planned(recipe, study, place, read_json(known) if known.exists() else {})


def _planned(recipe: Recipe[Any] | None, study: Study, place: Place | None, record: Mapping[str, object]) -> Plan:
    place = place or Place()
    executor, workers = place.build((*PRELOAD, *recipe.preload) if recipe is not None else ())
    devices = () if place.executor in ON_CLUSTERS else place.device_names
    read: tuple[str, ...] = ()
    if recipe is not None:
        read = preflight(recipe, study, devices)
    else:
        check_devices(devices)
        if is_own(study):
            check_own(study)
    check_together(place.processes_per_trial)
    if place.stack is not None:
        require_stacks(recipe, study, place.stack)
    return Plan(recipe, study, executor, workers, place.device_names, record, place.stack, read)


def _hashes(recipe: Recipe[Any] | None, study: Study) -> dict[str, str]:
    """SHA-256 of every data file that the study may read and that is there now; of the user's own function's file."""
    if recipe is None:
        return source_hashes(study) if is_own(study) else {}
    return hashes_of(recipe, study)


def launch(
    planned: Plan, folder: Path | str, *, fail_fast: bool = False, reporter: Reporter | None = None
) -> tuple[StudyOutcome, Conclusion | None]:
    """Run what is left of the study, then write its law and report. The same call resumes.

    Args:
        reporter: who is told of progress; default: the terminal.

    Raises:
        InputError: this machine lacks what the executor needs, a model is not there, or the folder holds another study;
            nothing is written.
        MissingDependency: a package is not installed; nothing is written.
    """
    # Drawing and fitting load SciPy and matplotlib: a refused command should not wait for them.
    from metascale.study.run.session import Event
    from metascale.study.search.run import run_any_study
    from metascale.study.status import default_reporter
    from metascale.workflow.conclude import conclude

    folder = Path(folder).expanduser()
    planned.executor.check()
    if planned.recipe is not None:
        fetch_backbones(planned.recipe, planned.study)
    study = placed(known_by_content(planned.recipe, planned.study, folder), folder)
    planned = replace(planned, study=study)
    reporter = reporter or default_reporter()
    planned, stack, alone = _stacked(planned, folder)
    if alone:
        reporter.event(Event("note", message=alone))
    outcome = run_any_study(
        planned.study,
        folder,
        planned.executor,
        # Before the first trial: a study that is killed and resumed still knows how it began.
        opened=partial(_note_command, planned, folder),
        fail_fast=fail_fast,
        reporter=reporter,
        stacks=partial(stacks_of, planned.recipe, stack=stack),
        facts={
            "command": planned.record.get("command", ""),
            "data_sha256": _hashes(planned.recipe, planned.study),
            **({"data_read": list(planned.read)} if planned.read else {}),
        },
    )
    _note_command(planned, folder)
    return outcome, conclude(folder) if outcome.finished else None


def run(
    recipe: str | None,
    folder: Path | str,
    values: Mapping[str, object] | None = None,
    *,
    command: str | None = None,
    profile: str | None = None,
    seeds: Sequence[int] | None = None,
    place: Place | None = None,
    baselines: bool = True,
    fail_fast: bool = False,
    reporter: Reporter | None = None,
    scale: str | Sequence[str] = (),
    series: str | Sequence[str] = (),
    best_of: str | Sequence[str] = (),
    loss: str = "",
    units: str = "",
    better: Better = "lower",
) -> tuple[StudyOutcome, Conclusion | None]:
    """Plan, run and conclude a study in ``folder``. The same call resumes.

    Args:
        recipe: a recipe, or a function of yours as ``PATH.py:FUNCTION`` or ``package.module:function``.
        values: of the configuration; a list makes an axis.
        command: a program of yours, with ``recipe=None`` (docs/extending.md).
        scale, series, best_of, loss, units, better: see `Reading`.

    Example:
        ``outcome, conclusion = run("digits", "runs/tiny", {"n_tasks": [2, 5, 10]}, seeds=[0])``
    """
    reading = Reading(names(scale), names(series), names(best_of), loss, units, better)
    planned = plan(
        recipe, values, command=command, profile=profile, seeds=seeds, place=place, baselines=baselines, reading=reading
    )
    return launch(planned, folder, fail_fast=fail_fast, reporter=reporter)


def _stacked(planned: Plan, folder: Path) -> tuple[Plan, int | str, str]:
    """How many trials a stack may have: as asked for now, else as the study began; its record holds the stacks.

    The trials of a search are not known yet: there the record of each run names those beside it. Executors of clusters
    run each trial by itself: the last that is returned says so, and the record keeps what the study began with.
    """
    stack = planned.stack
    if stack is None:
        known = folder / COMMAND_JSON
        stack = (read_json(known) if known.exists() else {}).get("stack", 1)
    record = {name: value for name, value in planned.record.items() if name not in ("stack", "stacks")}
    if stack == 1:
        return replace(planned, record=record), 1, ""
    record["stack"] = stack
    if not isinstance(planned.executor, (ProcessExecutor, SerialExecutor)):
        alone = (
            f"this study began with `stack` {stack}; only `executor` processes and serial run trials together: here "
            "every trial runs by itself, with the same numbers"
        )
        return replace(planned, record=record), 1, alone
    if search_of(planned.study) is None:
        record["stacks"] = stacks_of(planned.recipe, planned.study, stack)
    return replace(planned, record=record), stack, ""


def _note_command(planned: Plan, folder: Path) -> None:
    if planned.record:
        write_json(folder / COMMAND_JSON, planned.record)
