"""The adapters that a run meta-learnt, for others: a folder that `peft` loads, with a card; pushed to the hub if asked.

Nothing here loads torch: the adapters' files are as the run wrote them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metascale.core.columns import (
    BASELINES_JSON,
    COMMAND_JSON,
    PROVENANCE_JSON,
    TEST_INNER_LR,
    TEST_INNER_STEPS,
    TRAIN_POOL_JSON,
)
from metascale.core.errors import CorruptFile, InputError, MetascaleError
from metascale.core.files import read_json, sha256_of, write_atomic
from metascale.core.optional import require
from metascale.integrations.model_card import model_card
from metascale.study.store.folder import CONFIG, RESULT, damage_of
from metascale.study.store.paths import refuse_exits
from metascale.study.store.records import read_rows

ADAPTER = "adapter"
ADAPTER_CONFIG, ADAPTER_WEIGHTS, HEAD = "adapter_config.json", "adapter_model.safetensors", "head.safetensors"
CARD = "README.md"
BASE_MODEL = "base_model_name_or_path"


@dataclass(frozen=True, slots=True)
class AdapterRun:
    """A finished run that meta-learnt adapters, checked against its own hashes.

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
        return int(self.result[TEST_INNER_STEPS])

    @property
    def test_rate(self) -> float:
        """The inner rate of those steps; learnt rates multiply it."""
        rate = self.result[TEST_INNER_LR]
        return float(self.config["inner_lr"] if rate is None else rate)

    @property
    def has_head(self) -> bool:
        return HEAD in self.files

    @property
    def n_labels(self) -> int | None:
        """Classes of the classifier inside the adapters' file (peft's SEQ_CLS); none where it is not in there."""
        whole = json.loads(self.files[ADAPTER_CONFIG]).get("task_type") == "SEQ_CLS"
        return int(self.config["n_way"]) if whole else None


def read_adapter_run(folder: Path) -> AdapterRun:
    """The run in ``folder`` (``STUDY/runs/NAME``).

    Raises:
        InputError: it is no run, has not finished, or trained no adapters.
        CorruptFile: a file is not what the run recorded.
    """
    refuse_exits(folder)
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder} is not a run's folder (STUDY/runs/NAME): it has no {CONFIG}")
    config = read_json(folder / CONFIG)
    if not (folder / RESULT).is_file():
        raise InputError(f"the run in {folder} has not finished; resume its study before exporting it")
    if damage := damage_of(folder):
        raise CorruptFile(damage)
    ending = read_json(folder / RESULT)
    if ending["status"] != "finished":
        raise InputError(f"the run in {folder} {ending['status']}: {ending.get('message', 'it has no result')}")
    hashes = {name: digest for name, digest in ending["files"].items() if name.startswith(f"{ADAPTER}/")}
    if f"{ADAPTER}/{ADAPTER_WEIGHTS}" not in hashes:
        raise InputError(f"the run in {folder} has no adapters: {_why_none(config)}")
    pool = _read_if_there(folder / TRAIN_POOL_JSON)
    study = folder.parent.parent
    return AdapterRun(
        folder=folder,
        config=config,
        result=ending["result"],
        files={name.removeprefix(f"{ADAPTER}/"): _checked(folder / name, hashes[name]) for name in sorted(hashes)},
        test_rows=tuple(read_rows(folder / "test_tasks.csv")),
        data={"data": pool.get("data"), **(pool.get("details") or {})},
        provenance=_read_if_there(folder / PROVENANCE_JSON),
        baselines=_read_if_there(study / BASELINES_JSON),
        command=_read_if_there(study / COMMAND_JSON).get("command", ""),
    )


def _why_none(config: Mapping[str, Any]) -> str:
    kind = config.get("kind", "meta")
    if kind != "meta":
        return f"it is a {kind} ('{config.get('method')}'), which saves no weights"
    if not config.get("backbone") or config.get("frozen"):
        return "its model is not a language model with LoRA (a text recipe with `backbone`=NAME makes one)"
    return "it did not write any"


def _read_if_there(path: Path) -> Any:
    return read_json(path) if path.is_file() else {}


def _checked(path: Path, expected: str) -> bytes:
    data = path.read_bytes() if path.is_file() else b""
    if sha256_of(data) != expected:
        raise CorruptFile(f"{path} is not what the run recorded (its SHA-256 differs)")
    return data


def export_adapter(run_folder: Path | str, out: Path | str, base: str | None = None) -> list[Path]:
    """Write a run's adapters in the PEFT format with a model card; the paths written.

    Args:
        run_folder: ``STUDY/runs/NAME`` of a finished run.
        out: a new or empty folder.
        base: the base model's name for whoever loads the adapters, instead of the run's own (a folder here, say).

    Raises:
        InputError: the run has not finished or has no adapters, or ``out`` holds something.
        CorruptFile: a file of the run is not what it recorded.
    """
    run, out = read_adapter_run(Path(run_folder)), Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; adapters are exported to a folder", field="out", value=str(out))
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} is not empty; adapters are exported to a new folder", field="out", value=str(out))
    files = dict(run.files)
    config = json.loads(files[ADAPTER_CONFIG])
    if base is not None:
        config[BASE_MODEL] = base
        files[ADAPTER_CONFIG] = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
    files[CARD] = model_card(run, config[BASE_MODEL], out.resolve().name).encode()
    for name, data in sorted(files.items()):
        write_atomic(out / name, data)
    return [out / name for name in sorted(files)]


def push_adapter(folder: Path | str, repo: str, *, public: bool = False, endpoint: str | None = None) -> str:
    """Upload an exported folder to a repository of the Hugging Face hub, made if it is not there; its address.

    The token is the one that huggingface_hub finds (``hf auth login``, ``HF_TOKEN``).

    Args:
        repo: ``OWNER/NAME``.
        public: whether a repository that is made now can be seen by everyone.
        endpoint: another hub than the public one.

    Raises:
        InputError: not an exported folder, a base model that only this machine has, or a malformed repository name.
        MissingDependency: huggingface_hub is not installed.
        MetascaleError: the hub refused.
    """
    folder = Path(folder).expanduser()
    _check_pushable(folder, repo)
    hub: Any = require("huggingface_hub", "text", "pushing to the hub")
    errors: Any = require("huggingface_hub.errors", "text", "pushing to the hub")
    api = hub.HfApi(endpoint=endpoint)
    try:
        address = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[ADAPTER_CONFIG, ADAPTER_WEIGHTS, HEAD, CARD],
            commit_message="Adapters and card exported by metascale",
        )
    except (OSError, errors.HTTPError) as error:
        said = str(error).strip().splitlines()[0]
        raise MetascaleError(f"the hub did not take {folder} as {repo}: {said}") from error
    return str(address)


def _check_pushable(folder: Path, repo: str) -> None:
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD):
        if not (folder / name).is_file():
            raise InputError(f"{folder} has no {name}: it is not a folder of exported adapters")
    owner, slash, name = repo.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise InputError(f"`repo` is OWNER/NAME, not '{repo}'", field="repo", value=repo)
    base = str(read_json(folder / ADAPTER_CONFIG).get(BASE_MODEL, ""))
    if not base or os.path.isabs(base) or base.startswith((".", "~")):
        raise InputError(
            f"{folder / ADAPTER_CONFIG} names the base model '{base}', which nobody else has; export again with the "
            "base model's name on the hub",
            field="base",
            value=base,
        )
