"""Few-shot intent classification: Banking77 and CLINC150."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import read_json
from metascale.core.types import SPLITS, Encoder, Split
from metascale.tasks.csv_rows import LabelledText, normal, parse_csv
from metascale.tasks.datasets import DATASETS, locate
from metascale.tasks.fewshot import ClassSplit, ClassTable, FewShotSettings, FewShotTasks
from metascale.tasks.texts import text_table

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Training, validation and test classes (or domains). Validation and test suffice for 20-way tasks.
_SPLIT_SIZES: dict[str, tuple[int, int, int]] = {"banking77": (37, 20, 20), "clinc150": (90, 30, 30)}
_SPLIT_DOMAINS = (6, 2, 2)
_N_CLASSES = {"banking77": 77, "clinc150": 150}


def _check_classes(name: str, rows: Sequence[LabelledText], path: Path) -> None:
    n_classes = len({row.label for row in rows})
    if n_classes != _N_CLASSES[name]:
        raise CorruptFile(f"{path} holds {n_classes} intents; {name} has {_N_CLASSES[name]}")


def read_banking77(folder: Path) -> list[LabelledText]:
    """The rows of train.csv and test.csv (columns text, category); origins ``train`` and ``test``.

    Raises:
        CorruptFile: a column is missing or there are not 77 intents.
    """
    rows = []
    for origin in ("train", "test"):
        path = folder / f"{origin}.csv"
        try:
            part = parse_csv(path, path.read_bytes(), "text", "category", origin).rows
        except InputError as error:
            raise CorruptFile(str(error)) from error
        _check_classes("banking77", part, path)
        rows += part
    return rows


def read_clinc150(folder: Path, size: Literal["full", "small"] = "full") -> list[LabelledText]:
    """The in-scope rows of data_full.json or data_small.json; origins ``train``, ``validation`` and ``test``.

    Raises:
        CorruptFile: a part is missing or there are not 150 intents.
    """
    path = folder / f"data_{size}.json"
    parts = read_json(path)
    if not isinstance(parts, dict):
        raise CorruptFile(f"{path} holds a JSON {type(parts).__name__}, not its parts by name")
    rows = []
    for origin, key in (("train", "train"), ("validation", "val"), ("test", "test")):
        if key not in parts:
            raise CorruptFile(f"{path} has no part '{key}'")
        try:
            part = [LabelledText(normal(text), normal(label), origin) for text, label in parts[key]]
        except (TypeError, ValueError) as error:
            raise CorruptFile(f"{path}: part '{key}' does not hold pairs of text and intent: {error}") from error
        _check_classes("clinc150", part, path)
        rows += part
    return rows


def _banking_table(folder: Path, encoder: Encoder) -> ClassTable:
    # With shared classes, the test file is for test episodes alone; validation draws from the training file.
    origins: dict[Split, str] = {"train": "train", "validation": "train", "test": "test"}
    return text_table(
        "banking77", read_banking77(folder), encoder, origin_of_split=origins, details=DATASETS["banking77"].provenance
    )


def _clinc_table(folder: Path, encoder: Encoder, size: Literal["full", "small"]) -> ClassTable:
    origins: dict[Split, str] = {split: split for split in SPLITS}
    details = {**DATASETS["clinc150"].provenance, "size": size}
    return text_table("clinc150", read_clinc150(folder, size), encoder, origin_of_split=origins, details=details)


def _domain_of_class(folder: Path, classes: Sequence[str]) -> list[str]:
    domains: Mapping[str, Sequence[str]] = read_json(folder / "domains.json")
    domain_of = {intent: domain for domain, intents in domains.items() for intent in intents}
    unknown = [name for name in classes if name not in domain_of]
    if unknown:
        raise CorruptFile(f"{folder / 'domains.json'} has no domain for the intent '{unknown[0]}'")
    return [domain_of[name] for name in classes]


def _refuse(name: str, by_domain: bool, size: str) -> None:
    """
    Raises:
        InputError: an unknown data set, or an option that it does not have.
    """
    if name not in _SPLIT_SIZES:
        raise InputError(f"'{name}' is not an intent data set; known are {', '.join(_SPLIT_SIZES)}")
    if name == "banking77" and (by_domain or size != "full"):
        raise InputError("banking77 has one domain and one size; by_domain and size are for clinc150")
    if size not in ("full", "small"):
        raise InputError(f"clinc150: size must be 'full' or 'small', not {size!r}")


def intent_tasks(
    name: str,
    data_dir: Path | str | None,
    encoder: Encoder,
    *,
    split_seed: int = 0,
    split_sizes: tuple[int, int, int] | None = None,
    by_domain: bool = False,
    size: Literal["full", "small"] = "full",
    download: bool = True,
    **settings: Unpack[FewShotSettings],
) -> FewShotTasks:
    """Few-shot tasks on ``banking77`` or ``clinc150``; inputs ``{"input_ids", "attention_mask"}`` [T, B, S] int64.

    S is the longest text of that batch (support and query each). With disjoint classes the examples of a class come
    from all files of the data set. With ``classes="shared"`` training episodes use the training file and test episodes
    the test file; validation uses CLINC150's validation part, and Banking77's training file (it has no third).

    Args:
        data_dir: the data folder; ``None``: the environment variable METASCALE_DATA.
        encoder: the tokenizer of the model that will read the texts; it sets the maximum length.
        split_seed: which classes are training, validation and test classes.
        split_sizes: how many of each (with ``by_domain``: how many domains); by default 37 / 20 / 20 of Banking77's
            77, 90 / 30 / 30 of CLINC150's 150, 6 / 2 / 2 of its 10 domains.
        by_domain: hold out whole domains of CLINC150.
        size: CLINC150's ``full`` file or its ``small`` one (50 training texts an intent instead of 100).
        download: fetch missing files from their public home into the data folder.
        settings: fields of `FewShotTasks` (by default 5-way 5-shot).
    """
    _refuse(name, by_domain, size)
    if name == "banking77":
        folder = locate(name, data_dir, download=download)
        table = _banking_table(folder, encoder)
    else:
        folder = locate(name, data_dir, only=(f"data_{size}.json", "domains.json"), download=download)
        table = _clinc_table(folder, encoder, size)
    groups = _domain_of_class(folder, table.classes) if by_domain else list(table.classes)
    sizes = split_sizes or (_SPLIT_DOMAINS if by_domain else _SPLIT_SIZES[name])
    split = ClassSplit.draw(name, groups, dict(zip(SPLITS, sizes, strict=True)), split_seed)
    chosen: FewShotSettings = {"k_shot": 5, **settings}
    return FewShotTasks(table, split, **chosen)
