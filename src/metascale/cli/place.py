"""Where trials run, as options: one list of them, shared by every command that runs trials."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from metascale.workflow.launch import Place


def place_of(
    executor: Annotated[str, typer.Option(help="processes, serial, ray or slurm.")] = "processes",
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at a time; on a cluster, in flight.")] = None,
    devices: Annotated[str, typer.Option(help="Devices in turn, such as cuda:0,cuda:1.")] = "cpu",
    processes_per_trial: Annotated[int, typer.Option(min=1, help="Processes that run one trial together.")] = 1,
    hang_after: Annotated[
        float, typer.Option(min=1, help="Kill a trial that has written nothing for this many seconds.")
    ] = 3600.0,
    address: Annotated[
        str | None, typer.Option(help="Ray: the cluster, as host:port or auto (default: start one here).")
    ] = None,
    partition: Annotated[str, typer.Option(help="SLURM: the partition.")] = "",
    cpus_per_trial: Annotated[int, typer.Option(min=1, help="Ray, SLURM: CPUs set aside for a trial.")] = 1,
    gpus_per_trial: Annotated[int, typer.Option(min=0, help="Ray, SLURM: GPUs set aside for a trial.")] = 0,
    memory_gb: Annotated[float | None, typer.Option(min=0.1, help="SLURM: memory of a trial.")] = None,
    time_limit_min: Annotated[int, typer.Option(min=1, help="SLURM: minutes until a trial is requeued.")] = 240,
    trial_timeout: Annotated[
        float | None, typer.Option(min=1, help="Kill an attempt at a trial after this many seconds: it has failed.")
    ] = None,
    stack: Annotated[
        str | None,
        typer.Option(help="Trials that one process computes together, or auto (perceptrons; same numbers)."),
    ] = None,
) -> Place:
    """The place that these options name."""
    from metascale.workflow.launch import Place

    return Place(
        executor,
        workers,
        devices,
        processes_per_trial,
        hang_after,
        address,
        partition,
        cpus_per_trial,
        gpus_per_trial,
        memory_gb,
        time_limit_min,
        trial_timeout,
        int(stack) if stack is not None and stack.isdecimal() else stack,
    )


def with_place(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with the options of `place_of` instead of its parameter ``place``, which is made of them."""
    shared = parameters_of(place_of)
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in parameters_of(command).items():
        parameters |= shared if name == "place" else {name: parameter}

    def with_options(**values: Any) -> None:
        place = place_of(**{name: values.pop(name) for name in shared})
        command(place=place, **values)

    # Typer reads both: the signature for the defaults, the annotations for the types.
    with_options.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    with_options.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
    return with_options


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """A function's parameters by name, each given by name alone, so that any order of defaults is allowed."""
    annotations = inspect.get_annotations(function, globals=_names(function), eval_str=True)
    return {
        name: parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotations[name])
        for name, parameter in inspect.signature(function).parameters.items()
    }


def _names(function: Callable[..., Any]) -> dict[str, Any]:
    """What a function's annotations may name; a `Place` is imported for the type checker alone."""
    return {**inspect.unwrap(function).__globals__, "Place": object}
