"""The parts of `make mutants` that run no tests: the sample, the order of test files, what is left out and said."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import mutants  # noqa: E402
from mutants import Measured, Mutant  # noqa: E402

FILE = "src/metascale/laws/made.py"


def line(name: str, number: int, *changes: str) -> list[Mutant]:
    """Mutants of one line: each change is operator:after."""
    found = [change.split(":") for change in changes]
    return [Mutant(FILE, number, name, operator, "1", after, code=lambda: "x = 1\n") for operator, after in found]


MADE = [mutant for k in range(30) for mutant in line(f"y{k} = 1", k, "number:2", "swap:3", "swap:4")]


def test_a_sample_has_one_mutant_a_line_before_a_second_and_operators_alternate():
    chosen = mutants.sample(MADE, 60, 0, [])
    assert len({mutant.line for mutant in chosen[:30]}) == 30
    assert Counter(mutant.line for mutant in chosen) == dict.fromkeys(range(30), 2)
    for k in range(30):
        assert {mutant.operator for mutant in chosen if mutant.line == k} == {"number", "swap"}
    assert len({mutant.operator for mutant in chosen[:30]}) == 2


def test_a_sample_is_the_seed_s_alone():
    first = mutants.sample(MADE, 12, 0, [])
    assert mutants.sample(reversed(MADE), 12, 0, []) == first
    assert mutants.sample(MADE, 20, 0, [])[:12] == first
    assert mutants.sample(MADE, 12, 1, []) != first
    moved = [replace(mutant, line=mutant.line + 7) for mutant in MADE]
    assert [mutant.id for mutant in mutants.sample(moved, 12, 0, [])] == [mutant.id for mutant in first]
    without = [mutant for mutant in MADE if mutant.source != first[3].source]
    assert mutants.sample(without, 11, 0, []) == [*first[:3], *first[4:]]


def test_equivalent_and_broken_mutants_are_left_out():
    first = mutants.sample(MADE, 3, 0, [])
    entry = dict(zip(mutants.KEYS, first[0].key, strict=True))
    assert first[0] not in mutants.sample(MADE, len(MADE), 0, [entry])
    assert len(mutants.sample(MADE, len(MADE), 0, [entry])) == len(MADE) - 1
    broken = [replace(mutant, code=lambda: "x = = 1") if mutant == first[0] else mutant for mutant in MADE]
    assert first[0] not in mutants.sample(broken, len(MADE), 0, [])


@pytest.mark.parametrize(
    ("change", "message"), [({"reason": " "}, "and reason"), ({"after": "9"}, "no such mutant"), ({}, None)]
)
def test_entries_of_the_list_have_a_reason_and_their_code(tmp_path, change, message):
    entry = dict(zip(mutants.KEYS, MADE[0].key, strict=True)) | {"reason": "a bound never reached"} | change
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump([entry]), encoding="utf-8")
    assert mutants.equivalent_of("meta", MADE, path) == []
    if message is None:
        assert mutants.equivalent_of("laws", MADE, path) == [entry]
    else:
        with pytest.raises(SystemExit, match=message):
            mutants.equivalent_of("laws", MADE, path)


def test_the_module_s_own_test_runs_first_then_the_quickest_that_reach_the_line_then_all_others():
    mutant = line("y = 1", 5, "number:2")[0]
    files = [
        Measured("tests/laws/test_slow.py", 9.0, {FILE: [5]}),
        Measured("tests/laws/test_elsewhere.py", 0.2, {FILE: [6]}),
        Measured("tests/laws/test_nothing.py", 0.1, {}),
        Measured("tests/laws/test_quick.py", 1.0, {FILE: [4, 5]}),
        Measured("tests/laws/test_made.py", 20.0, {FILE: [5]}),
    ]
    names = [Path(each.name).stem for each in mutants.order(mutant, files)]
    assert names == ["test_made", "test_quick", "test_slow", "test_nothing", "test_elsewhere"]


def test_the_last_line_counts_and_survivors_show_their_change():
    chosen = line("y = 1", 5, "number:2", "swap:3", "swap:4")
    verdicts = dict(zip((mutant.id for mutant in chosen), ("killed", "survived", "timeout"), strict=True))
    lines = mutants.summary("laws", chosen, verdicts).splitlines()
    assert lines[-1] == "killed 2 of 3 in laws"
    assert lines[:-1] == [f"survived {FILE}:5  swap", "    y = 1", "  - 1", "  + 3"]


def test_results_outlive_a_line_cut_short_and_are_of_one_state(tmp_path):
    path = tmp_path / "made" / "laws.jsonl"
    mutants.append(path, {"state": "a", "mutant": "1", "verdict": "killed"})
    with path.open("a", encoding="utf-8") as out:
        out.write('{"state": "a", "mut')
    mutants.append(path, {"state": "a", "mutant": "2", "verdict": "survived"})
    mutants.append(path, {"state": "b", "mutant": "3", "verdict": "killed"})
    assert [row["mutant"] for row in mutants.read_rows(path, "a")] == ["1", "2"]


def test_every_room_has_tests():
    rooms = {path.parent.name for path in (ROOT / "src" / "metascale").glob("*/__init__.py")}
    assert all(mutants.files_of(room, ROOT) for room in rooms)
    assert "tests/test_cli_flags.py" in mutants.files_of("cli", ROOT)
    assert "tests/tasks/test_own.py" in mutants.files_of("testing", ROOT)


CODE = """\
from __future__ import annotations
__all__ = ["one"]
LIMIT: int = 3

@decorated(4)
def one(a: int | None, b=7) -> int | None:
    "A docstring"
    if a > b:
        raise ValueError("words of a message")
    return call(a, key=b)
"""


def test_what_is_mutated_and_what_is_left_alone():
    pytest.importorskip("mutmut")
    made = mutants.mutants_in(FILE, CODE)
    assert [(mutant.line, mutant.operator, mutant.before, mutant.after) for mutant in made] == [
        (3, "number", "3", "4"),
        (6, "number", "7", "8"),
        (8, "if_exp", made[2].before, made[2].after),
        (8, "if_exp", made[3].before, made[3].after),
        (8, "swap_op", "> b", ">= b"),
        (10, "arg_removal", "call(a, key=b)", "call(key=b)"),
        (10, "arg_removal", "call(a, key=b)", "call(a, )"),
    ]
    assert "if (a > b) and False:" in made[2].code()
    assert "if (a > b) or True:" in made[3].code()
    assert made[4].code() == CODE.replace("a > b", "a >= b")
    assert made[0].code() == CODE.replace("= 3", "= 4")
