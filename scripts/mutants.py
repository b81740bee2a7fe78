"""A seeded sample of mutants of one room, each run against that room's default tests.

    make mutants ROOM=laws N=40 SEED=0   (or: python scripts/mutants.py laws --n 40 --seed 0)
    python scripts/mutants.py laws --n 40 --seconds 8   (a first look: fewer CPU seconds of tests a mutant)

A mutant is the code of the room with one small change. mutmut's operators make the changes; its own runner needs
functions without decorators, and all mutants of a package, so sampling and running stand here. The sample has at most
one mutant a source line until each line has had one: lines are ranked by a hash of seed and line, so an edit elsewhere
leaves the sample of the other lines as it was, and a larger N extends a sample.

Everything runs in a temporary copy of the working tree, without METASCALE_DATA, in children of a process that has
loaded torch and the like once (scripts/mutant_runs.py). First each test file runs alone on the unmutated code, which
gives the CPU seconds of each test and the lines that it reaches. A mutant then runs, up to the first failure and the
quickest first: the tests that reach its statement; those that reach its function, or its file where the change is
outside functions; those that start processes, whose lines are not seen; and the files that reach the statement on
loading. Where no test reaches the statement, these are one group. No more than 40 CPU seconds of tests are taken, or
--seconds. A mutant is killed by a failure, by an error, or by taking longer than 20 s plus four times the unmutated
run; whatever was left out can only make the figure lower.

Results are appended to build/mutants/ROOM.jsonl as they come: the same command continues after a kill. A result holds
until source, shared test code or Python packages change; a kill also until the test file that made it changes, and a
survival until any of the room's test files does, and not for a larger --seconds. scripts/mutants_equivalent.yaml lists
mutants that no test can tell from the code, with the reason; they are never sampled.
"""

from __future__ import annotations

import argparse
import ast
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
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from scripts.mutant_runs import Measured, MeasuredTest, Server  # noqa: E402

EQUIVALENT = ROOT / "scripts" / "mutants_equivalent.yaml"
RESULTS = ROOT / "build" / "mutants"
KEYS = ("file", "source", "operator", "before", "after")


@dataclass(frozen=True)
class Mutant:
    """One change: in ``file`` (from the repository's root), at ``line``, from the code ``before`` to ``after``.

    ``source`` is the text of that line; all texts have single spaces. ``nth`` tells equal changes in equal lines apart.
    ``code`` gives the whole mutated file; ``statement`` and ``function`` are the first and last lines of what holds it.
    """

    file: str
    line: int
    source: str
    operator: str
    before: str
    after: str
    nth: int = 0
    code: Callable[[], str] = field(default=str, compare=False, repr=False)
    statement: tuple[int, int] = field(default=(0, 0), compare=False)
    function: tuple[int, int] | None = field(default=None, compare=False)

    @property
    def key(self) -> tuple[str, ...]:
        """What an entry of the list of equivalent mutants names; independent of the line's number."""
        return tuple(getattr(self, name) for name in KEYS)

    @property
    def id(self) -> str:
        return digest(*self.key, self.nth)


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
    (strings with a space) are left alone: they are not behaviour, or linters hold them. So are zip's ``strict``, which
    asserts what always holds, and ``encoding``, since all here is UTF-8. No value becomes None."""
    from libcst.metadata import MetadataWrapper, PositionProvider

    finder = _finder()
    wrapper = MetadataWrapper(finder.parse(text))
    wrapper.visit(finder)
    positions = wrapper.resolve(PositionProvider)
    lines, module, spans = text.splitlines(), wrapper.module, spans_of(text)
    seen: dict[tuple[str, ...], int] = defaultdict(int)
    mutants = []
    for old, new, operator in finder.found:
        line = positions[old].start.line
        texts = (_one_line(each) for each in (module.code_for_node(old), module.code_for_node(new)))
        key = (file, _one_line(lines[line - 1]), operator, *texts)
        code = lambda old=old, new=new: module.deep_replace(old, new).code
        mutants.append(Mutant(key[0], line, *key[1:], seen[key], code, *spans[line]))
        seen[key] += 1
    return mutants


def spans_of(text: str) -> dict[int, tuple[tuple[int, int], tuple[int, int] | None]]:
    """By line: first and last line of its statement, of which a body is not a part, and of its innermost function."""
    spans: dict[int, tuple[tuple[int, int], tuple[int, int] | None]] = {
        line: ((line, line), None) for line in range(1, len(text.splitlines()) + 2)
    }

    def enter(node: ast.AST, function: tuple[int, int] | None) -> None:
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                function = (first, node.end_lineno or node.lineno)
            for line in range(first, node.end_lineno + 1 if node.end_lineno else end + 1):
                spans[line] = ((first, max(first, end)) if line <= max(first, end) else (line, line), function)
        for inner in ast.iter_child_nodes(node):
            enter(inner, function)

    enter(ast.parse(text), None)
    return spans


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _finder() -> Any:
    """A visitor that collects (node, changed node, operator); made here so that sampling needs no mutmut."""
    import libcst as cst
    from mutmut.mutation.mutators import mutation_operators, operator_if_exp

    # mutmut forces the condition of a ternary either way; the same is done to `if` and to filters of comprehensions.
    operators = [*mutation_operators, (cst.If, operator_if_exp), (cst.CompIf, operator_if_exp)]
    unsampled = {"strict", "encoding"}
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
                    self.found += [(node, new, operator) for new in change(node) if not _shows_nothing(node, new)]
            return True

        def _is_left_alone(self, node: Any) -> bool:
            if isinstance(node, cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom):
                return True
            if isinstance(node, cst.Arg):
                return keyword(node) in unsampled
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

    def keyword(argument: Any) -> str | None:
        return None if argument.keyword is None else str(argument.keyword.value)

    def _shows_nothing(old: Any, new: Any) -> bool:
        """Whether a value has become None, with which any test that reaches the line fails, or what is left alone is
        gone."""
        if isinstance(old, cst.Call):
            if len(old.args) != len(new.args):
                return bool(({*map(keyword, old.args)} - {*map(keyword, new.args)}) & unsampled)
            return any(
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
    """The room's test files: tests/ROOM and tests/test_ROOM*.py; of a room without a folder of tests, those that bear
    its name in any folder (the commands of laws are tested with the laws)."""
    tests = root / "tests"
    found = tests.glob if (tests / room).is_dir() else tests.rglob
    own = [*(tests / room).rglob("test_*.py"), *found(f"test_{room}.py"), *found(f"test_{room}_*.py")]
    if not own:
        raise SystemExit(f"no test file in tests/{room} and none that bears its name")
    return sorted(path.relative_to(root).as_posix() for path in own)


def order(mutant: Mutant, files: Sequence[Measured]) -> list[MeasuredTest]:
    """The tests to run, as the head of this file says."""

    def reaches(lines: Mapping[str, Sequence[int]], span: tuple[int, int]) -> bool:
        return any(span[0] <= line <= span[1] for line in lines.get(mutant.file, ()))

    def place(test: MeasuredTest) -> int:
        if reaches(test.lines, mutant.statement):
            return 0
        if reaches(test.lines, mutant.function or (1, sys.maxsize)):
            return 1
        return 2 if test.processes else 4

    placed = []
    for file in files:
        loads = reaches(file.loading, mutant.statement)
        placed += [(min(place(test), 3 if loads else 4), test) for test in file.tests]
    if all(rank for rank, _ in placed):  # no test reaches it: a default, a table, which is noticed wherever it is read
        placed = [(1 if rank < 4 else 4, test) for rank, test in placed]
    chosen = [(rank, test.seconds, test.name, test) for rank, test in placed if rank < 4]
    return [test for _, _, _, test in sorted(chosen, key=lambda each: each[:3])]


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
    """A digest of what decides every result: source, shared test code, settings, packages."""
    read = {*(tree / "src").rglob("*.py"), *tree.glob("tests/*.py"), tree / "pyproject.toml"}
    read |= {path for name in files for path in (tree / name).parent.rglob("*") if path.is_file()}
    read -= {path for path in read if path.name.startswith("test_")}
    contents = [[path.relative_to(tree).as_posix(), digest_of(path)] for path in read]
    packages = sorted({f"{each.name} {each.version}" for each in importlib.metadata.distributions()})
    return digest(sorted(contents), packages, sys.version)


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def verdict(
    mutant: Mutant, files: Sequence[Measured], tree: Path, server: Server, seconds: float
) -> tuple[str, str | None]:
    """``killed``, ``timeout`` or ``survived`` the CPU seconds of tests, and the test that killed; the file is as before
    afterwards."""
    path, of = tree / mutant.file, {test.name: file.name for file in files for test in file.tests}
    before, times = path.read_bytes(), path.stat()
    try:
        path.write_text(mutant.code(), encoding="utf-8")
        os.utime(path, (times.st_atime, times.st_mtime + 60))  # never that of the compiled original
        for part in parts(order(mutant, files), most=seconds):
            chosen = [test.name for test in part]
            touched = {of[name] for name in chosen}
            left_out = [name for name in of.keys() - set(chosen) if of[name] in touched]
            found, by = server.failing(chosen, left_out, 20 + 4 * sum(test.seconds for test in part))
            if found != "passed":
                return "timeout" if found == "timeout" else "killed", by
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return "survived", None


def parts(tests: Sequence[MeasuredTest], first: float = 2, most: float = 40) -> list[Sequence[MeasuredTest]]:
    """The tests of the first so many CPU seconds, and the others up to the most: most mutants end in the first part,
    which loads few files."""
    found: list[list[MeasuredTest]] = [[], []]
    total = 0.0
    for test in tests:
        total += test.seconds
        if total <= most or not found[0]:
            found[total > first and bool(found[0])].append(test)
    return [part for part in found if part]


# ---------------------------------------------------------------------------------------------- the job


class Results:
    """What is known of a room, in a file to which each result is appended: measured test files and verdicts by mutant.

    ``digests`` are those of the test files by name, ``seconds`` the most CPU seconds of tests a mutant. A row is passed
    over that is of another state or other tests, or survived fewer seconds, and a line cut short by a kill.
    """

    def __init__(self, path: Path, state: str, digests: Mapping[str, str], seconds: float) -> None:
        self._path, self._state, self._seconds = path, state, seconds
        self._digests = {**digests, "": digest(*sorted(digests.items()))}
        self.measured: dict[str, Measured] = {}
        self.verdicts: dict[str, str] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if row["state"] != state or row["tests"] != self._digests.get(row["file"]):
                continue
            if "measured" in row:
                self.measured[row["file"]] = Measured.of(row["measured"])
            elif row["verdict"] != "survived" or row["seconds"] >= seconds:
                self.verdicts[row["mutant"]] = row["verdict"]

    def keep_measured(self, file: str, found: Mapping[str, Any]) -> Measured:
        self._keep(file, measured=found)
        self.measured[file] = Measured.of(found)
        return self.measured[file]

    def keep_verdict(self, mutant: Mutant, found: str, by: str | None) -> None:
        """The verdict holds while the file of the test that killed stays as it is; without one, while all do."""
        file = by.partition("::")[0] if by else ""
        self._keep(file if file in self._digests else "", mutant=mutant.id, verdict=found, by=by, seconds=self._seconds)
        self.verdicts[mutant.id] = found

    def _keep(self, file: str, **found: Any) -> None:
        append(self._path, {"state": self._state, "file": file, "tests": self._digests[file], **found})


def append(path: Path, row: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as out:
        out.write(f"\n{json.dumps(row)}\n")  # a line cut short before this one stays alone


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def counted(todo: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    """Each with the words ``[done/all, minutes left]``."""
    started = time.monotonic()
    for done, each in enumerate(todo):
        left = f", {(time.monotonic() - started) / done * (len(todo) - done) / 60:.0f} min left" if done else ""
        yield each, f"[{done + 1}/{len(todo)}{left}]"


def summary(room: str, mutants: Sequence[Mutant], verdicts: Mapping[str, str]) -> str:
    """Survivors as entries for the list of equivalents, should one be, and the last line."""
    lines = []
    for mutant in sorted(mutants, key=lambda each: (each.file, each.line)):
        if verdicts[mutant.id] == "survived":
            lines += [f"survived {mutant.file}:{mutant.line}  {mutant.operator}", f"    {mutant.source}"]
            lines += [f"  - {mutant.before}", f"  + {mutant.after}"]
    killed = sum(verdicts[mutant.id] != "survived" for mutant in mutants)
    return "\n".join([*lines, f"killed {killed} of {len(mutants)} in {room}"])


def run(room: str, n: int, seed: int, seconds: float) -> None:
    """The whole job for one room."""
    every = mutants_of(room)
    mutants = sample(every, n, seed, equivalent_of(room, every))
    say(f"{len(mutants)} of {len(every)} mutants of {room}, seed {seed}")
    with copied_tree() as tree, Server(tree) as server:
        names = files_of(room, tree)
        results = Results(
            RESULTS / f"{room}.jsonl",
            state_of(tree, names),
            {name: digest_of(tree / name) for name in names},
            seconds,
        )
        todo = [name for name in names if name not in results.measured]
        for name, ahead in counted(todo):
            measured = results.keep_measured(name, server.measure(room, name))
            say(f"{ahead} unmutated {name}  {sum(test.seconds for test in measured.tests):.1f} s")
        files = [results.measured[name] for name in names]
        for mutant, ahead in counted([mutant for mutant in mutants if mutant.id not in results.verdicts]):
            found, by = verdict(mutant, files, tree, server, seconds)
            results.keep_verdict(mutant, found, by)
            say(f"{ahead} {found} {mutant.file}:{mutant.line} {mutant.operator}" + (f" by {by}" if by else ""))
    say(summary(room, mutants, results.verdicts))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", help="a folder of src/metascale")
    parser.add_argument("--n", type=int, default=40, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=40, help="the most CPU seconds of tests a mutant")
    given = parser.parse_args(arguments)
    if given.n < 1:
        parser.error("--n is at least 1")
    if not given.seconds > 0:
        parser.error("--seconds is above 0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the copy is removed and the tests are ended
    run(given.room, given.n, given.seed, given.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
