"""Every reader of a study's files on files that somebody changed: a good answer, or an error of ours in one sentence.

The corpus is a small study that the test makes. A mutation is of bytes (flips, cuts, deletions, NULs) or of values
(swapped types, huge numbers, deep nesting, missing and doubled keys); JSON that has a seal is sealed again, so that
what lies behind the seal is read too.
"""

from __future__ import annotations

import copy
import json
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metascale.cli.run import _read_config
from metascale.core.errors import MetascaleError
from metascale.core.files import read_json, read_json_lines
from metascale.core.run import Checkpoint
from metascale.laws import analyse
from metascale.laws.record import read_laws, write_laws
from metascale.laws.table import read_table
from metascale.report.sections.provenance import gather
from metascale.study import run_study
from metascale.study.status import study_status
from metascale.study.store.checkpoints import list_checkpoints, read_checkpoint, write_checkpoint
from metascale.study.store.claims import CLAIM, Claim, put_claim, read_claim
from metascale.study.store.folder import INDEX, read_progress, read_study
from metascale.study.store.index import read_index
from metascale.study.store.manifest import read_seals
from metascale.study.store.records import read_rows
from metascale.study.store.seals import SEAL, sealed
from metascale.study.store.table import complete_results, results_table
from metascale.study.store.verify import verify_study
from metascale.tasks.texts import read_csv
from tests.study.folders import tiny_study

ODD: tuple[Any, ...] = (
    None, True, -1, 10**30, 1e308, "", "x" * 2000, "\x00", "../../out", [], {}, [[[]]], {"a": {"b": []}}, ["x", 1],
)  # fmt: skip
RAW = ("[" * 100_000, '{"a":' * 50_000, "NaN", "9" * 5000, "\ud83d".encode("utf-8", "surrogatepass").decode("latin-1"))


class Corpus(NamedTuple):
    """A place with files, and what reads each of them."""

    root: Path
    files: tuple[tuple[Path, Callable[[], object]], ...]


def read_whole_study(folder: Path) -> None:
    view = read_study(folder)
    results_table(view)
    complete_results(view)
    verify_study(folder)
    study_status(folder)
    for run in view.runs:
        run.message()
        run.measurements()
        for name in run.record_names():
            run.rows(name)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    root = tmp_path_factory.mktemp("fuzz")
    study, more = root / "study", root / "more"
    run_study(tiny_study(), study, keep_checkpoints=True, facts={"data_sha256": {"a": "b"}})
    more.mkdir()
    write_laws(more, {"": analyse([1.0, 2, 4, 8, 16], [3.0, 2.5, 2.2, 2.0, 1.9]).record()})
    write_checkpoint(more / "checkpoints", Checkpoint(3, {"b": b"bytes"}), {})
    put_claim(more, Claim("id", "owner", 1))
    (more / "progress.json").write_text('{"done":1,"total":2,"note":"","updated_at":1.0,"first_done":0,"first_at":0.5}')
    (more / "table.csv").write_text("n,loss,seed\n1,3.0,0\n2,2.5,0\n4,2.2,0\n")
    (more / "table.json").write_text('[{"n": 1, "loss": 3.0}, {"n": 2, "loss": 2.5}]')
    (more / "table.jsonl").write_text('{"n": 1, "loss": 3.0}\n{"n": 2, "loss": 2.5}\n')
    (more / "texts.csv").write_text('text,label\none two,a\n"three, ""four""",b\n')
    (more / "values.yaml").write_text("n_tasks: [2, 5]\ntune: {space: {lr: {log: [0.1, 1]}}}\n")
    whole = lambda: read_whole_study(study)
    run = next(iter(sorted((study / "runs").iterdir())))
    inside = [path for path in sorted(run.rglob("*")) if path.suffix in (".json", ".jsonl", ".csv", ".txt")]
    files: list[tuple[Path, Callable[[], object]]] = [
        (path, whole) for path in (study / "study.json", study / "seals.json", *inside, study / "results.csv")
    ]
    files += [(path, lambda: gather(study)) for path in (study / "provenance.jsonl", run / "provenance.json")]
    files += [(study / "seals.json", lambda: read_seals(study)), (study / INDEX, lambda: read_index(study / INDEX))]
    files += [(study / INDEX, whole), (more / "progress.json", lambda: read_progress(more))]
    files += [(path, lambda path=path: read_rows(path)) for path in inside if path.suffix == ".csv"]
    files += [(path, lambda path=path: read_json_lines(path)) for path in inside if path.suffix == ".jsonl"]
    files += [(path, lambda path=path: read_json(path)) for path in inside if path.suffix == ".json"]
    (point,) = list_checkpoints(more / "checkpoints")
    files += [(path, lambda: read_checkpoint(point)) for path in sorted(point.iterdir())]
    files += [(more / CLAIM, lambda: read_claim(more)), (more / "law.json", lambda: read_laws(more))]
    files += [(more / name, lambda name=name: read_table(more / name)) for name in ("table.csv",)]
    files += [(more / "texts.csv", lambda: read_csv(more / "texts.csv"))]
    files += [(more / "values.yaml", lambda: _read_config(more / "values.yaml", frozenset({"path"})))]
    assert all(path.is_file() for path, _ in files)
    return Corpus(root, tuple(files))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON value with each of its keys."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def with_odd_value(text: str, draw: random.Random, seal: bool) -> str:
    value = json.loads(text)
    for _ in range(draw.choice((1, 1, 2))):
        spots = list(places(value))
        if not spots:
            return json.dumps(draw.choice(ODD))
        holder, key = draw.choice(spots)
        if draw.random() < 0.2:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(draw.choice(ODD))
    return json.dumps(sealed(value) if seal and isinstance(value, dict) and draw.random() < 0.8 else value)


def mutated(data: bytes, draw: random.Random, kind: str) -> bytes | None:
    """Other bytes than ``data``; ``None``: the file is not there any more."""
    how = draw.randrange(8)
    if how == 0:
        return None if draw.random() < 0.3 else data[: draw.randrange(len(data) + 1)]
    if how == 1:
        place = draw.randrange(len(data) or 1)
        return data[:place] + bytes(draw.choice((1, 4, 100))) + data[place:]
    if how == 2:
        return draw.choice(RAW).encode()
    if how < 5 or kind not in (".json", ".jsonl"):
        changed = bytearray(data)
        for _ in range(draw.choice((1, 3, 10))):
            if changed:
                changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    lines = data.decode().splitlines() if kind == ".jsonl" else [data.decode()]
    if not lines:
        return b"\xff"
    at = draw.randrange(len(lines))
    lines[at] = with_odd_value(lines[at], draw, seal=SEAL in lines[at])
    return ("\n".join(lines) + "\n").encode(errors="surrogatepass")


def everything(root: Path) -> dict[str, bytes]:
    # Opening an index for reading may make and remove files of SQLite beside it.
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file() and INDEX not in path.name}


def check(corpus: Corpus, number: int, seed: int) -> None:
    path, read = corpus.files[number % len(corpus.files)]
    before = path.read_bytes()
    changed = mutated(before, random.Random(f"{number} {seed}"), path.suffix)
    try:
        path.unlink() if changed is None else path.write_bytes(changed)
        written = everything(corpus.root)
        outside = sorted(corpus.root.parent.iterdir())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read()
        except MetascaleError as error:
            if not str(error):
                raise AssertionError(f"{type(error).__name__} without a sentence") from error
        except FileNotFoundError:
            assert changed is None
        assert everything(corpus.root) == written
        assert sorted(corpus.root.parent.iterdir()) == outside
    except Exception as error:
        raise AssertionError(f"{path}: {changed if changed is None else changed[:3000]!r}") from error
    finally:
        path.write_bytes(before)


FUZZED = given(st.integers(0, 10_000), st.integers(0, 1 << 32))
FIXED = [(number, seed) for seed in range(3) for number in range(40)]


def test_readers_on_a_small_fixed_sample_of_broken_files(corpus: Corpus) -> None:
    for number, seed in FIXED:
        check(corpus, number, seed)


@pytest.mark.long
@settings(
    max_examples=4000, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@FUZZED
def test_readers_on_broken_files(corpus: Corpus, number: int, seed: int) -> None:
    check(corpus, number, seed)
