"""A seeded sample of mutants of one room, each run against that room's default tests.

    make mutants ROOM=laws N=40 SEED=0   (or: python scripts/mutants.py run laws --n 40 --seed 0)

A mutant is the code of the room with one small change. mutmut's operators make the changes; its own runner needs
functions without decorators, and all mutants of a package, so sampling and running stand here. The sample has at most
one mutant a source line until each line has had one: lines are ranked by a hash of seed and line, so an edit elsewhere
leaves the sample of the other lines as it was, and a larger N extends a sample.

Everything runs in a temporary copy of the working tree, without METASCALE_DATA. First each test file runs alone on the
unmutated code, which gives its seconds and the lines it reaches. A mutant then runs the file named after its module,
the files that reach its line, quickest first, and the others, up to the first failure. The others run as well because
lines are not seen in other processes and in threads that Python did not start, such as those of a backward pass.
A mutant is killed by a failure, by an error, or by taking longer than 30 s plus three times the unmutated run.

Results are appended to build/mutants/ROOM.jsonl as they come: the same command continues after a kill, and starts
afresh once source, tests or Python packages have changed. scripts/mutants_equivalent.yaml lists mutants that no test
can tell from the code, with the reason; they are never sampled.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = ROOT / "scripts" / "mutants_equivalent.yaml"
RESULTS = ROOT / "build" / "mutants"
DEFAULT_TESTS = "not long and not gpu and not soak"
KEYS = ("file", "source", "operator", "before", "after")


@dataclass(frozen=True)
class Mutant:
    """One change: in ``file`` (from the repository's root), at ``line``, from the code ``before`` to ``after``.

    ``source`` is the text of that line; all texts have single spaces. ``nth`` tells equal changes in equal lines apart.
    ``code`` gives the whole mutated file.
    """

    file: str
    line: int
    source: str
    operator: str
    before: str
    after: str
    nth: int = 0
    code: Callable[[], str] = field(default=str, compare=False, repr=False)

    @property
    def key(self) -> tuple[str, ...]:
        """What an entry of the list of equivalent mutants names; independent of the line's number."""
        return tuple(getattr(self, name) for name in KEYS)

    @property
    def id(self) -> str:
        return digest(*self.key, self.nth)


@dataclass(frozen=True)
class Measured:
    """What one test file did on the unmutated code: seconds, and lines reached by file."""

    name: str
    seconds: float
    lines: Mapping[str, Sequence[int]]


def digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------- mutants of a room


def mutants_of(room: str, root: Path = ROOT) -> list[Mutant]:
    """All mutants of src/metascale/ROOM."""
    folder = root / "src" / "metascale" / room
    if not folder.is_dir():
        raise SystemExit(f"{folder} is no folder: ROOM is a folder of src/metascale")
    return [
        mutant
        for path in sorted(folder.rglob("*.py"))
        for mutant in mutants_in(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
    ]


def mutants_in(file: str, text: str) -> list[Mutant]:
    """All mutants of one file. Annotations, decorators, imports, ``__all__``, docstrings, and the words of messages
    (strings with a space) are left alone: they are not behaviour, or linters hold them. No value becomes None."""
    from libcst.metadata import MetadataWrapper, PositionProvider

    finder = _finder()
    wrapper = MetadataWrapper(finder.parse(text))
    wrapper.visit(finder)
    positions = wrapper.resolve(PositionProvider)
    lines, module = text.splitlines(), wrapper.module
    seen: dict[tuple[str, ...], int] = defaultdict(int)
    mutants = []
    for old, new, operator in finder.found:
        line = positions[old].start.line
        texts = (_one_line(each) for each in (module.code_for_node(old), module.code_for_node(new)))
        key = (file, _one_line(lines[line - 1]), operator, *texts)
        code = lambda old=old, new=new: module.deep_replace(old, new).code
        mutants.append(Mutant(key[0], line, *key[1:], nth=seen[key], code=code))
        seen[key] += 1
    return mutants


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _finder() -> Any:
    """A visitor that collects (node, changed node, operator); made here so that sampling needs no mutmut."""
    import libcst as cst
    from mutmut.mutation.mutators import mutation_operators, operator_if_exp

    # mutmut forces the condition of a ternary either way; the same is done to `if` and to filters of comprehensions.
    operators = [*mutation_operators, (cst.If, operator_if_exp), (cst.CompIf, operator_if_exp)]
    never_called_with_other = {"len", "isinstance", "cast", "TypeVar", "ParamSpec", "NewType"}

    class Finder(cst.CSTVisitor):  # type: ignore[misc]
        parse = staticmethod(cst.parse_module)

        def __init__(self) -> None:
            super().__init__()
            self.found: list[tuple[Any, Any, str]] = []
            self._left_alone: set[int] = set()

        def on_visit(self, node: Any) -> bool:
            if id(node) in self._left_alone or self._is_left_alone(node):
                return False
            called = node.func.value if isinstance(node, cst.Call) and isinstance(node.func, cst.Name) else ""
            if called in {"cast", "TypeVar", "ParamSpec", "NewType"} and node.args:
                self._left_alone.add(id(node.args[0]))
            for kind, change in operators:
                if isinstance(node, kind) and not (called in never_called_with_other and kind is cst.Call):
                    operator = change.__name__.removeprefix("operator_")
                    self.found += [(node, new, operator) for new in change(node) if not _crashes(node, new)]
            return True

        def _is_left_alone(self, node: Any) -> bool:
            if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom):
                return True
            if isinstance(node, cst.SimpleString):
                return " " in node.value
            if isinstance(node, cst.Expr):
                return isinstance(node.value, cst.BaseString)
            if isinstance(node, cst.If):
                return isinstance(node.test, cst.Name) and node.test.value == "TYPE_CHECKING"
            targets = (
                node.targets if isinstance(node, cst.Assign) else [node] if isinstance(node, cst.AnnAssign) else []
            )
            return any(isinstance(each.target, cst.Name) and each.target.value == "__all__" for each in targets)

    def _crashes(old: Any, new: Any) -> bool:
        """Whether a value has become None: any test that reaches the line then fails, so it shows nothing of a test."""
        if isinstance(old, cst.Call):
            return len(old.args) == len(new.args) and any(
                a is not b and isinstance(b.value, cst.Name) and b.value.value == "None"
                for a, b in zip(old.args, new.args, strict=True)
            )
        if isinstance(old, cst.Assign | cst.AnnAssign):
            return isinstance(new.value, cst.Name) and new.value.value == "None"
        return False

    return Finder()


# ---------------------------------------------------------------------------------------------- sampling


def ranked(mutants: Iterable[Mutant], seed: int) -> list[Mutant]:
    """All of them in the order in which a sample takes them: a first of each line, lines in an order drawn by the seed,
    then a second of each line; within a line the operators alternate. Each place depends on line and seed."""
    by_line: dict[tuple[str, str], list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        by_line[mutant.file, mutant.source].append(mutant)
    placed = []
    for line, members in by_line.items():
        taken: dict[str, int] = defaultdict(int)
        within = []
        for mutant in sorted(members, key=lambda each: digest(seed, each.id)):
            within.append((taken[mutant.operator], digest(seed, *line, mutant.operator), mutant))
            taken[mutant.operator] += 1
        within.sort(key=lambda each: each[:2])
        placed += [(turn, digest(seed, *line), mutant) for turn, (_, _, mutant) in enumerate(within)]
    return [mutant for _, _, mutant in sorted(placed, key=lambda each: each[:2])]


def sample(mutants: Iterable[Mutant], n: int, seed: int, equivalent: Iterable[Mapping[str, str]]) -> list[Mutant]:
    """The first ``n`` by rank that are not equivalent and that Python compiles to other code."""
    left_out = {tuple(entry[name] for name in KEYS) for entry in equivalent}
    chosen: list[Mutant] = []
    for mutant in ranked(mutants, seed):
        if len(chosen) == n:
            break
        if mutant.key not in left_out and _compiles(mutant):
            chosen.append(mutant)
    return chosen


def _compiles(mutant: Mutant) -> bool:
    try:
        compile(mutant.code(), mutant.file, "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def equivalent_of(room: str, mutants: Iterable[Mutant], path: Path = EQUIVALENT) -> list[dict[str, str]]:
    """The listed equivalent mutants of a room; an entry without a reason, or of code no longer there, ends the job."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    made = {mutant.key for mutant in mutants}
    ours = [entry for entry in entries if str(entry.get("file")).startswith(f"src/metascale/{room}/")]
    for entry in ours:
        if set(entry) != {*KEYS, "reason"} or not str(entry["reason"]).strip():
            raise SystemExit(f"{path.name}: an entry has the keys {', '.join(KEYS)} and reason; not so: {entry}")
        if tuple(entry[name] for name in KEYS) not in made:
            raise SystemExit(f"{path.name}: the code has no such mutant now, take the entry out: {entry}")
    return ours


# ---------------------------------------------------------------------------------------------- running


def files_of(room: str, root: Path = ROOT) -> list[str]:
    """The room's test files: tests/ROOM and tests/test_ROOM*.py; without any, those that name the room's package."""
    tests = root / "tests"
    own = [*(tests / room).rglob("test_*.py"), *tests.glob(f"test_{room}.py"), *tests.glob(f"test_{room}_*.py")]
    if not own:
        own = [path for path in tests.rglob("test_*.py") if f"metascale.{room}" in path.read_text(encoding="utf-8")]
    if not own:
        raise SystemExit(f"no test file in tests/{room} and none that names metascale.{room}")
    return sorted(path.relative_to(root).as_posix() for path in own)


def order(mutant: Mutant, files: Sequence[Measured]) -> list[Measured]:
    """All files: the one named after the module, those that reach the mutant's line, the others; quickest first."""
    name = f"test_{Path(mutant.file).stem}.py"

    def place(each: Measured) -> tuple[bool, bool, float]:
        return Path(each.name).name != name, mutant.line not in each.lines.get(mutant.file, ()), each.seconds

    return sorted(files, key=place)


@contextmanager
def copied_tree() -> Iterator[Path]:
    """A temporary copy of what git knows or would add, as it is in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, Path(folder) / name)
        yield Path(folder).resolve()


def state_of(tree: Path, files: Sequence[str]) -> str:
    """A digest of all that decides a result: source, shared and own test code, settings, packages."""
    read = {*(tree / "src").rglob("*.py"), *tree.glob("tests/*.py"), tree / "pyproject.toml"}
    read |= {path for name in files for path in (tree / name).parent.rglob("*") if path.is_file()}
    contents = [[path.relative_to(tree).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()] for path in read]
    packages = sorted({f"{each.name} {each.version}" for each in importlib.metadata.distributions()})
    return digest(sys.version, packages, sorted(contents))


def call(command: Sequence[str], tree: Path, timeout_s: float | None, bytecode: bool = False) -> tuple[int | None, str]:
    """Exit status (None after the timeout) and output of a command in the copy, with the copy's package; its whole
    process group is ended with it."""
    shutil.rmtree(tree / ".hypothesis", ignore_errors=True)  # what one mutant failed on must not help with the next
    env = {name: value for name, value in os.environ.items() if not name.startswith(("METASCALE_", "PYTEST_"))}
    env |= {
        "PYTHONPATH": str(tree / "src"),
        "PYTHONDONTWRITEBYTECODE": "" if bytecode else "1",
        "TMPDIR": str(tree / ".tmp"),
    }
    (tree / ".tmp").mkdir(exist_ok=True)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=tree, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status: int | None = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            shutil.rmtree(tree / ".tmp", ignore_errors=True)
        output.seek(0)
        return status, output.read().decode(errors="replace")


def pytest_arguments(files: Sequence[str]) -> list[str]:
    return ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0", "-m", DEFAULT_TESTS, *files]


def measure(room: str, file: str, out: str) -> int:
    """In a process of its own: one test file on the unmutated code, with the lines that it reaches, to ``out``."""
    import coverage
    import pytest

    source = Path.cwd() / "src" / "metascale" / room
    seen = coverage.Coverage(data_file=None, include=[f"{source}/*"])
    start = time.perf_counter()
    seen.start()
    status = int(pytest.main(pytest_arguments([file])))
    seen.stop()
    seconds = time.perf_counter() - start
    data = seen.get_data()
    lines = {
        Path(each).relative_to(Path.cwd()).as_posix(): sorted(data.lines(each) or ()) for each in data.measured_files()
    }
    found = {"name": file, "seconds": round(seconds, 2), "lines": lines}
    Path(out).write_text(json.dumps(found), encoding="utf-8")
    return 0 if status == pytest.ExitCode.NO_TESTS_COLLECTED else status


def measured(room: str, file: str, tree: Path) -> dict[str, Any]:
    """What ``measure`` gives, from a process of its own."""
    out = tree / ".measured.json"
    command = [sys.executable, "scripts/mutants.py", "measure", room, file, str(out)]
    status, output = call(command, tree, None, bytecode=True)
    if status != 0:
        raise SystemExit(f"{output[-3000:]}\n{file} fails on the unmutated code: mend that first")
    return dict(json.loads(out.read_text(encoding="utf-8")))


def verdict(mutant: Mutant, files: Sequence[Measured], tree: Path) -> str:
    """``killed``, ``timeout`` or ``survived``; the file is as before afterwards."""
    files = order(mutant, files)
    path = tree / mutant.file
    before, times = path.read_bytes(), path.stat()
    try:
        path.write_text(mutant.code(), encoding="utf-8")
        os.utime(path, (times.st_atime, times.st_mtime + 60))  # never that of the compiled original
        command = [sys.executable, "-m", "pytest", *pytest_arguments([each.name for each in files])]
        status, _ = call(command, tree, 30 + 3 * sum(each.seconds for each in files))
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return "timeout" if status is None else "survived" if status == 0 else "killed"


# ---------------------------------------------------------------------------------------------- the job


def read_rows(path: Path, state: str) -> list[dict[str, Any]]:
    """The rows of this state; a line cut short by a kill is passed over."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row["state"] == state:
            rows.append(row)
    return rows


def append(path: Path, row: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        out.write(f"\n{json.dumps(row)}\n")  # a line cut short before this one stays alone


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def minutes_left(started: float, done: int, left: int) -> str:
    return f"{(time.monotonic() - started) / done * left / 60:.0f} min left"


def summary(room: str, mutants: Sequence[Mutant], verdicts: Mapping[str, str]) -> str:
    """Survivors as entries for the list of equivalents, should one be, and the last line."""
    lines = []
    for mutant in sorted(mutants, key=lambda each: (each.file, each.line)):
        if verdicts[mutant.id] == "survived":
            lines += [f"survived {mutant.file}:{mutant.line}  {mutant.operator}", f"    {mutant.source}"]
            lines += [f"  - {mutant.before}", f"  + {mutant.after}"]
    killed = sum(verdicts[mutant.id] != "survived" for mutant in mutants)
    return "\n".join([*lines, f"killed {killed} of {len(mutants)} in {room}"])


def run(room: str, n: int, seed: int) -> None:
    """The whole job for one room."""
    every = mutants_of(room)
    mutants = sample(every, n, seed, equivalent_of(room, every))
    say(f"{len(mutants)} of {len(every)} mutants of {room}, seed {seed}")
    results = RESULTS / f"{room}.jsonl"
    with copied_tree() as tree:
        names = files_of(room, tree)
        state = state_of(tree, names)
        rows = read_rows(results, state)
        known = {row["name"]: Measured(**_without(row, "state")) for row in rows if "name" in row}
        verdicts = {row["mutant"]: row["verdict"] for row in rows if "mutant" in row}
        started, todo = time.monotonic(), [name for name in names if name not in known]
        for done, name in enumerate(todo, 1):
            row = measured(room, name, tree)
            append(results, {"state": state, **row})
            known[name] = Measured(**row)
            ahead = minutes_left(started, done, len(todo) - done)
            say(f"[{done}/{len(todo)}] unmutated {name}  {row['seconds']:.1f} s, {ahead}")
        files = [known[name] for name in names]
        started, left = time.monotonic(), [mutant for mutant in mutants if mutant.id not in verdicts]
        for done, mutant in enumerate(left, 1):
            start = time.monotonic()
            found = verdicts[mutant.id] = verdict(mutant, files, tree)
            seconds = round(time.monotonic() - start, 1)
            append(results, {"state": state, "mutant": mutant.id, "verdict": found, "seconds": seconds})
            where = f"{mutant.file}:{mutant.line} {mutant.operator}"
            say(f"[{done}/{len(left)}] {found} {where}  {seconds} s, {minutes_left(started, done, len(left) - done)}")
    say(summary(room, mutants, verdicts))


def _without(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    job = commands.add_parser("run", help="sample mutants of a room and run its tests on each")
    job.add_argument("room")
    job.add_argument("--n", type=int, default=40, help="how many mutants")
    job.add_argument("--seed", type=int, default=0)
    one = commands.add_parser("measure", help="used by run: one test file on the unmutated code")
    for name in ("room", "file", "out"):
        one.add_argument(name)
    given = parser.parse_args(arguments)
    if given.command == "measure":
        return measure(given.room, given.file, given.out)
    if given.n < 1:
        parser.error("--n is at least 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the copy is removed and the tests are ended
    run(given.room, given.n, given.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
