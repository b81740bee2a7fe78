"""What is refused before a study begins: whatever would fail inside its trials and can be known without running them.

The dry run, `run`, `resume` and the Python API all plan a study by `metascale.workflow.launch.plan`, which calls
`preflight`; so none of them starts a study that another refuses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from metascale.core.errors import InputError
from metascale.core.optional import require, require_installed
from metascale.study.design import Study
from metascale.tasks.datasets import locate
from metascale.workflow.config import FewShotConfig, TrialConfig
from metascale.workflow.recipe import Recipe, configs_of
from metascale.workflow.text import TextConfig, backbone_path

OF_EPISODES = frozenset(
    ("n_way", "k_shot", "n_query", "n_train_classes", "n_validation_tasks", "n_test_tasks", "labels", "classes")
)
"""Keys of `FewShotConfig`, besides ``n_tasks``, on which it depends whether a data set has the episodes asked for."""


def preflight(recipe: Recipe[Any], study: Study, devices: Sequence[str] = ()) -> tuple[str, ...]:
    """Check packages, data, models' folders, devices, and that the data has the tasks that every trial asks for.

    Args:
        devices: of this machine, on which trials run; none where a cluster chooses them.

    Returns:
        What was read of texts, a line each: rows, classes, and what was left out.

    Raises:
        InputError: what is missing or does not fit.
        MissingDependency: a package is not installed.
    """
    for module in recipe.packages:
        require_installed(module, "demo", f"recipe '{recipe.name}'")
    check_data(recipe, study)
    check_devices(devices)
    chosen = distinct_settings(recipe, study)
    check_backbones([settings for settings, _ in chosen], recipe.name)
    return tuple(dict.fromkeys(line for settings, seed in chosen for line in check_trial(recipe, settings, seed)))


def check_data(recipe: Recipe[Any], study: Study) -> None:
    """Refuse a study whose data is not there; nothing is downloaded without being asked for.

    Raises:
        InputError: no data folder is named, or a data set, a model's folder or the study's own file is not there.
    """
    for name in data_sets(recipe, study):
        locate(name)
    own = dict.fromkeys(trial.config.get("path") for trial in study.trials())
    for path in (path for path in own if path is not None and not Path(path).is_file()):
        raise InputError(
            f"recipe '{recipe.name}' needs `path`=FILE with the columns text,label; '{path}' is no file",
            field="path",
            value=path,
        )


def data_sets(recipe: Recipe[Any], study: Study) -> tuple[str, ...]:
    """The data sets that the trials of a study read, each once."""
    return tuple(dict.fromkeys(name for trial in study.trials() for name in recipe.data_sets_of(trial.config)))


def check_devices(names: Sequence[str]) -> None:
    """
    Raises:
        InputError: this machine lacks one of these devices.
    """
    for name in dict.fromkeys(names):
        kind, _, number = name.partition(":")
        if kind == "cpu":
            continue
        torch = require("torch", "torch", f"the device '{name}'")
        n_devices = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
        if int(number or 0) >= n_devices:
            there = "none" if not n_devices else f"{n_devices}, cuda:0 to cuda:{n_devices - 1}"
            there = "cuda:0 alone" if n_devices == 1 else there
            raise InputError(f"`devices` has '{name}', and this machine has {there}", field="devices", value=name)


def check_together(processes: int) -> None:
    """
    Raises:
        InputError: a trial is to run on several processes, and this torch cannot join them.
        MissingDependency: torch is not installed.
    """
    if processes == 1:
        return
    torch = require("torch", "torch", "`processes_per_trial`")
    if not torch.distributed.is_available():
        raise InputError(
            f"`processes_per_trial` needs torch.distributed, which this build of torch {torch.__version__} lacks",
            field="processes_per_trial",
            value=processes,
        )


def distinct_settings(recipe: Recipe[Any], study: Study) -> list[tuple[TrialConfig, int]]:
    """One configuration, with a seed, for every way in which the trials' data, shapes and models differ.

    What only the training depends on is no difference, nor is the number of tasks: of otherwise equal configurations
    the one with the most tasks stands for all.
    """
    chosen: dict[tuple[object, ...], tuple[TrialConfig, int]] = {}
    for config in configs_of(study):
        settings, seed = recipe.validate(config), int(config.get("seed", study.seeds[0]))
        key = _differences(settings, seed)
        if key not in chosen or _n_tasks(settings) > _n_tasks(chosen[key][0]):
            chosen[key] = settings, seed
    return list(chosen.values())


def _differences(settings: TrialConfig, seed: int) -> tuple[object, ...]:
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    if not isinstance(settings, FewShotConfig):
        return tuple(values.items())
    ignored = {field.name for field in dataclasses.fields(FewShotConfig)} - OF_EPISODES
    # Which classes a part of the training classes holds depends on the seed, and so does whether they suffice.
    return *((name, value) for name, value in values.items() if name not in ignored), settings.n_train_classes and seed


def _n_tasks(settings: TrialConfig) -> int:
    return (settings.n_tasks or 0) if isinstance(settings, FewShotConfig) else 0


def check_backbones(settings: Sequence[TrialConfig], name: str) -> None:
    """
    Raises:
        InputError: a model's folder is not there, or lacks its configuration or tokenizer.
        MissingDependency: transformers, or bitsandbytes where 8 bits are asked for, is not installed.
    """
    if any(isinstance(one, TextConfig) and one.backbone and one.load_in_8bit for one in settings):
        require_installed("bitsandbytes", "quant", "an 8-bit backbone")
    for backbone, max_length in dict.fromkeys(_backbones(settings)):
        path = backbone_path(backbone)
        require_installed("transformers", "text", f"the language model of recipe '{name}'")
        if Path(path).is_dir():
            open_backbone(path, max_length)


def _backbones(settings: Sequence[TrialConfig]) -> Iterator[tuple[str, int]]:
    """Backbones by name with the length of a text, shipped recipes' or a user's own."""
    for one in settings:
        if backbone := getattr(one, "backbone", ""):
            yield backbone, getattr(one, "max_length", 64)


def model_folders(recipe: Recipe[Any], study: Study) -> list[tuple[str, Path]]:
    """The models of a study that are folders of this machine, each once: name and folder."""
    named = dict.fromkeys(name for name, _ in _backbones([one for one, _ in distinct_settings(recipe, study)]))
    folders = [(name, Path(backbone_path(name))) for name in named]
    return [(name, folder) for name, folder in folders if folder.is_dir()]


def open_backbone(path: str, max_length: int) -> None:
    """Read a model's configuration and tokenizer; a hub name is fetched unless it is offline.

    Raises:
        InputError: they cannot be read.
    """
    from metascale.models.text.hf import load_config, load_encoder

    load_config(path)
    load_encoder(path, max_length)


def fetch_backbones(recipe: Recipe[Any], study: Study) -> None:
    """Ask the hub for the models that a study names by their hub name, as every trial would.

    A dry run does without: it counts a known model on its shape.

    Raises:
        InputError: one is not there.
    """
    for backbone, max_length in dict.fromkeys(_backbones([one for one, _ in distinct_settings(recipe, study)])):
        if not Path(path := backbone_path(backbone)).is_dir():
            open_backbone(path, max_length)


def check_trial(recipe: Recipe[Any], settings: TrialConfig, seed: int) -> tuple[str, ...]:
    """The recipe's own check, or the parts of a few-shot trial built once, without a language model.

    Returns:
        What a source of texts read, in a line.

    Raises:
        InputError: the data has not what the settings ask for, or the model cannot have this shape.
    """
    if recipe.checks:
        recipe.check(settings)
    elif isinstance(settings, FewShotConfig):
        if isinstance(settings, TextConfig):
            # Which tasks a data set has does not depend on the encoder of its texts, nor on a head.
            settings = dataclasses.replace(settings, backbone="", head="zero")
        source = recipe.make_parts(settings, seed, "cpu").source
        table = getattr(getattr(source, "source", source), "table", None)
        read = getattr(table, "details", {}).get("read")
        return (read,) if read else ()
    return ()
