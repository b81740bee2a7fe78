"""A finished run that meta-learnt adapters, read from its folder and checked against its own hashes. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metascale.core.columns import PROVENANCE_JSON
from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import read_json, sha256_of
from metascale.study.store.folder import CONFIG, RESULT
from metascale.study.store.records import read_rows

ADAPTER = "adapter"
ADAPTER_CONFIG, ADAPTER_WEIGHTS, HEAD = "adapter_config.json", "adapter_model.safetensors", "head.safetensors"


@dataclass(frozen=True, slots=True)
class AdapterRun:
    """What an export needs of a run.

    Args:
        files: the adapter's files by name, as the run recorded them.
        test_rows: one row a meta-test task.
        data: name, source, licence and citation of the data, as far as the run recorded them.
        baselines: those of its study, on the same tasks, by name.
        command: that made the study; empty where it is not recorded.
    """

    folder: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    files: Mapping[str, bytes]
    test_rows: tuple[Mapping[str, Any], ...]
    data: Mapping[str, Any]
    provenance: Mapping[str, Any]
    baselines: Mapping[str, Mapping[str, Any]]
    command: str

    @property
    def test_steps(self) -> int:
        """Inner steps that the test results were measured after."""
        steps = self.config.get("eval_inner_steps")
        return int(self.config["inner_steps"] if steps is None else steps)

    @property
    def has_head(self) -> bool:
        return HEAD in self.files


def read_adapter_run(folder: Path) -> AdapterRun:
    """The run in ``folder`` (``STUDY/runs/NAME``).

    Raises:
        InputError: it is no run, has not finished, or trained no adapters.
        CorruptFile: a file is not what the run recorded.
    """
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} is not a run's folder (STUDY/runs/NAME): it has no {CONFIG}")
    config = read_json(folder / CONFIG)
    if not (folder / RESULT).is_file():
        raise InputError(f"the run in {folder} has not finished; resume its study before exporting it")
    ending = read_json(folder / RESULT)
    if ending["status"] != "finished":
        raise InputError(f"the run in {folder} {ending['status']}: {ending.get('message', 'it has no result')}")
    hashes = ending["files"]
    names = [name for name in hashes if name.startswith(f"{ADAPTER}/")]
    if f"{ADAPTER}/{ADAPTER_WEIGHTS}" not in names:
        raise InputError(f"the run in {folder} has no adapters: {_instead(config)}")
    pool = _recorded(folder, "train_pool.json", {})
    study = folder.parent.parent
    return AdapterRun(
        folder=folder,
        config=config,
        result=ending["result"],
        files={name.removeprefix(f"{ADAPTER}/"): _checked(folder / name, hashes[name]) for name in sorted(names)},
        test_rows=tuple(read_rows(folder / "test_tasks.csv")),
        data={"data": pool.get("data"), **(pool.get("details") or {})},
        provenance=_recorded(folder, PROVENANCE_JSON, {}),
        baselines=_recorded(study, "baselines.json", {}),
        command=_recorded(study, "command.json", {}).get("command", ""),
    )


def _instead(config: Mapping[str, Any]) -> str:
    kind = config.get("kind", "meta")
    if kind != "meta":
        return f"it is a {kind} ('{config.get('method')}'), which trains nothing that lasts"
    if not config.get("backbone"):
        return "its model is not a language model with LoRA (a text recipe with --set backbone=NAME makes one)"
    return "it did not write any"


def _recorded(folder: Path, name: str, absent: Any) -> Any:
    return read_json(folder / name) if (folder / name).is_file() else absent


def _checked(path: Path, expected: str) -> bytes:
    data = path.read_bytes() if path.is_file() else b""
    if sha256_of(data) != expected:
        raise CorruptFile(f"{path} is not what the run recorded (its SHA-256 differs)")
    return data
