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
from mutants import Measured, MeasuredTest, Mutant, Results  # noqa: E402

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


def made_file(name: str, *tests: MeasuredTest, loading: tuple[int, ...] = ()) -> Measured:
    return Measured(f"tests/laws/{name}.py", tests, {FILE: loading})


def test_a_mutant_runs_the_tests_that_may_notice_it_and_the_likeliest_first():
    mutant = replace(line("y = 1", 5, "number:2")[0], statement=(5, 6), function=(3, 9))
    files = [
        made_file(
            "test_a",
            MeasuredTest("slow", 9, {FILE: [6]}),
            MeasuredTest("quick", 1, {FILE: [4, 5]}),
            MeasuredTest("cached", 0.1, {}),
        ),
        made_file(
            "test_b", MeasuredTest("same function", 0.5, {FILE: [9]}), MeasuredTest("elsewhere", 0, {FILE: [2, 10]})
        ),
        made_file(
            "test_c",
            MeasuredTest("process", 0.2, {FILE: [2]}, processes=True),
            MeasuredTest("other process", 0.3, {}, True),
        ),
        made_file("test_d", MeasuredTest("never", 0, {"src/metascale/laws/other.py": [5]})),
        made_file("test_e", MeasuredTest("loads", 3, {}), loading=(5,)),
    ]
    assert [test.name for test in mutants.order(mutant, files)] == [
        *("quick", "slow", "same function", "process", "other process", "loads")
    ]
    no_test = replace(mutant, statement=(5, 5))
    without = [
        replace(file, tests=[test for test in file.tests if test.name not in ("quick", "slow")]) for file in files
    ]
    assert [test.name for test in mutants.order(no_test, without)] == [
        *("process", "other process", "same function", "loads")
    ]
    outside = replace(mutant, function=None)
    assert [test.name for test in mutants.order(outside, files)] == [
        *("quick", "slow", "elsewhere", "process", "same function", "other process", "loads")
    ]


def test_the_first_part_takes_two_seconds_and_one_test_at_least_and_all_take_forty():
    tests = [MeasuredTest(str(seconds), seconds, {}) for seconds in (0.5, 1.5, 0.5, 9)]
    assert mutants.parts(tests) == [tests[:2], tests[2:]]
    assert mutants.parts(tests[3:]) == [tests[3:]]
    assert mutants.parts(tests[3:] + tests) == [tests[3:], tests]
    assert mutants.parts(tests, most=2.5) == [tests[:2], tests[2:3]]
    assert mutants.parts(tests[3:], most=2.5) == [tests[3:]]
    assert mutants.parts([]) == []


def test_the_last_line_counts_and_survivors_show_their_change():
    chosen = line("y = 1", 5, "number:2", "swap:3", "swap:4")
    verdicts = dict(zip((mutant.id for mutant in chosen), ("killed", "survived", "timeout"), strict=True))
    lines = mutants.summary("laws", chosen, verdicts).splitlines()
    assert lines[-1] == "killed 2 of 3 in laws"
    assert lines[:-1] == [f"survived {FILE}:5  swap", "    y = 1", "  - 1", "  + 3"]


def test_results_outlive_a_line_cut_short_and_hold_while_what_made_them_is_the_same(tmp_path):
    path, digests = tmp_path / "made" / "laws.jsonl", {"a.py": "1", "b.py": "1"}
    one, two, three, four = (mutant for k in range(4) for mutant in line(f"y{k} = 1", k, "number:2"))
    results = Results(path, "now", digests, 8)
    results.keep_measured("a.py", {"name": "a.py", "tests": [{"name": "t", "seconds": 1, "lines": {}}], "loading": {}})
    results.keep_verdict(one, "killed", "a.py::test")
    with path.open("a", encoding="utf-8") as out:
        out.write('{"state": "now", "mut')
    results.keep_verdict(two, "killed", "b.py::test")
    results.keep_verdict(three, "survived", None)
    results.keep_verdict(four, "timeout", None)
    again = Results(path, "now", digests, 8)
    assert (again.verdicts, again.measured) == (
        results.verdicts,
        {"a.py": Measured("a.py", [MeasuredTest("t", 1, {})], {})},
    )
    assert set(again.verdicts) == {one.id, two.id, three.id, four.id}
    other_tests = Results(path, "now", {"a.py": "1", "b.py": "2"}, 8)
    assert (other_tests.verdicts, set(other_tests.measured)) == ({one.id: "killed"}, {"a.py"})
    longer, shorter = Results(path, "now", digests, 9), Results(path, "now", digests, 7)
    assert (set(longer.verdicts), set(shorter.verdicts)) == ({one.id, two.id, four.id}, set(again.verdicts))
    other_source = Results(path, "later", digests, 8)
    assert (other_source.verdicts, other_source.measured) == ({}, {})


def test_every_room_has_tests():
    rooms = {path.parent.name for path in (ROOT / "src" / "metascale").glob("*/__init__.py")}
    assert all(mutants.files_of(room, ROOT) for room in rooms)
    assert {"tests/test_cli_flags.py", "tests/laws/test_cli_laws.py"} <= set(mutants.files_of("cli", ROOT))
    assert "tests/tasks/test_own.py" not in mutants.files_of("testing", ROOT)
    with pytest.raises(SystemExit, match=r"^no test file in tests/nothing and none that bears its name$"):
        mutants.files_of("nothing", ROOT)


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
pairs = zip(x, y, strict=True)
"""


def test_what_holds_a_line():
    spans = mutants.spans_of(CODE)
    assert spans[3] == ((3, 3), None)
    assert spans[5] == spans[6] == ((5, 6), (5, 10))  # the head, with decorators
    assert spans[8] == ((8, 8), (5, 10))
    assert spans[9] == ((9, 9), (5, 10))
    long = "def f():\n    return g(\n        1,\n        2)\n\n\nclass A:\n    x = 1\n"
    spans = mutants.spans_of(long)
    assert spans[3] == ((2, 4), (1, 4))
    assert (spans[7], spans[8]) == (((7, 7), None), ((8, 8), None))


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
        (11, "arg_removal", "zip(x, y, strict=True)", "zip(y, strict=True)"),
        (11, "arg_removal", "zip(x, y, strict=True)", "zip(x, strict=True)"),
    ]
    assert "if (a > b) and False:" in made[2].code()
    assert "if (a > b) or True:" in made[3].code()
    assert (made[2].statement, made[2].function, made[0].function) == ((8, 8), (5, 10), None)
    assert made[4].code() == CODE.replace("a > b", "a >= b")
    assert made[0].code() == CODE.replace("= 3", "= 4")
