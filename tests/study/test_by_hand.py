"""Claims, leases and the choices of a search against tables of events, with a clock and processes of the test's own."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metascale.core.errors import InputError
from metascale.study.errors import LeaseLost
from metascale.study.run.output import bound_output
from metascale.study.run.session import StudyOutcome
from metascale.study.search.run import _joined
from metascale.study.search.search import Pruning, Search, Tried, _best
from metascale.study.store import claims
from metascale.study.store.claims import Claim, check_claim, fenced, put_claim, read_claim, take_over
from metascale.study.store.index import Index, IndexRow

CLAIM = Claim("trial", "host:1:2:a", 3)


@pytest.mark.parametrize(
    ("stored", "writes"),
    [
        (CLAIM, True),
        (Claim("other", "host:1:2:a", 3), False),
        (Claim("trial", "host:1:2:b", 3), False),
        (Claim("trial", "host:1:2:a", 4), False),
        (Claim("trial", "host:1:2:a", 3, "worker"), False),
        (None, False),
    ],
)
def test_only_the_claim_in_the_folder_may_write(stored: Claim | None, writes: bool, tmp_path: Path) -> None:
    if stored is not None:
        put_claim(tmp_path, stored)
    assert read_claim(tmp_path) == stored
    if writes:
        check_claim(tmp_path, CLAIM)
        with fenced(tmp_path, CLAIM):
            pass
        return
    holder = "nobody" if stored is None else f"{stored.owner}, attempt {stored.attempt}"
    with pytest.raises(LeaseLost, match=f"attempt 3 of host:1:2:a may not write to .* held by {holder}$"):
        check_claim(tmp_path, CLAIM)
    with pytest.raises(LeaseLost), fenced(tmp_path, CLAIM):
        pytest.fail("the write was let through")


def test_the_last_execution_of_an_attempt_takes_over_and_other_attempts_do_not(tmp_path: Path) -> None:
    put_claim(tmp_path, CLAIM)
    first = take_over(tmp_path, CLAIM)
    check_claim(tmp_path, first)
    second = take_over(tmp_path, CLAIM)
    assert first.worker
    assert second.worker != first.worker
    assert read_claim(tmp_path) == second
    with pytest.raises(LeaseLost):
        check_claim(tmp_path, first)
    for other in (Claim("trial", "host:1:2:a", 2), Claim("trial", "host:1:2:b", 3), Claim("else", "host:1:2:a", 3)):
        with pytest.raises(LeaseLost):
            take_over(tmp_path, other)
        assert read_claim(tmp_path) == second


def blank(trial_id: str) -> IndexRow:
    return IndexRow(trial_id, "pending", None, 0, 0, "", 0, 0, 0, "")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    now = {"s": 1000.0}
    monkeypatch.setattr("metascale.study.store.index.time.time", lambda: now["s"])
    return now


def test_the_index_through_a_table_of_events(tmp_path: Path, clock: dict[str, float]) -> None:
    """Two owners and one trial: who holds it, which attempt, until when, and the seconds it has taken."""
    index = Index(tmp_path / "index.sqlite")
    index.add([blank("t"), blank("u")])

    def state() -> tuple[Any, ...]:
        found = index.row("t")
        assert found is not None
        return found.status, found.owner, found.attempt, found.lease_until, found.wall_s, found.message

    seen = index.row("t")
    assert seen is not None
    assert state() == ("pending", None, 0, 0, 0, "")
    assert index.claim(seen, "A", "cpu", 30) == 1
    assert state() == ("running", "A", 1, 1030, 0, "")
    assert index.claim(seen, "B", "cpu", 30) is None, "it saw the trial free, and came too late"
    clock["s"] = 1010
    assert index.renew("B", 30) == 0
    assert state()[3] == 1030
    assert index.renew("A", 30) == 1
    assert state() == ("running", "A", 1, 1040, 0, "")
    assert not index.settle("t", "B", 1, "finished", 5.0, "not B's")
    assert not index.settle("t", "A", 2, "finished", 5.0, "not this attempt")
    assert state() == ("running", "A", 1, 1040, 0, "")
    index.add_seconds("t", 2.5)
    assert index.settle("t", "A", 1, "failed", 4.0, "it broke")
    assert state() == ("failed", None, 1, 0, 6.5, "it broke")
    assert index.renew("A", 30) == 0, "a settled trial has no lease"
    seen = index.row("t")
    assert seen is not None
    clock["s"] = 1100
    assert index.claim(seen, "B", "cuda:1", 60) == 2
    assert state() == ("running", "B", 2, 1160, 6.5, "")
    assert index.row("t").device == "cuda:1"  # type: ignore[union-attr]
    index.add([blank("t")])
    assert state()[:3] == ("running", "B", 2), "what is there stays"
    index.replace([blank("t")])
    assert (state()[0], set(index.rows())) == ("pending", {"t"})
    assert index.row("u") is None
    index.close()


def test_a_lease_is_renewed_four_times_in_its_length_and_no_longer_than_the_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    renewals: list[tuple[str, float]] = []
    enough = threading.Event()

    class Beats:
        """An event that lets two beats pass at once; the third waits until it is set."""

        def __init__(self) -> None:
            self._stop = threading.Event()

        def wait(self, timeout: float) -> bool:
            waits.append(timeout)
            if len(waits) < 3:
                return False
            enough.set()
            return self._stop.wait(60)

        def set(self) -> None:
            self._stop.set()

    class Renewing:
        def __init__(self, path: Path) -> None: ...

        def renew(self, owner: str, lease_s: float) -> int:
            renewals.append((owner, lease_s))
            return 1

        def close(self) -> None:
            renewals.append(("closed", 0))

    monkeypatch.setattr(claims, "Index", Renewing)
    monkeypatch.setattr(claims, "threading", SimpleNamespace(Event=Beats, Thread=threading.Thread))
    with claims.renewed(tmp_path / "index.sqlite", "A", 20.0):
        assert enough.wait(10)
    assert waits == [5.0] * 3
    assert renewals == [("A", 20.0), ("A", 20.0), ("closed", 0)]


@pytest.mark.parametrize(
    ("owner", "alive"),
    [
        ("here/boot/ns:7:70:x", True),
        ("here/boot/ns:7:71:x", False),  # another process has the number now
        ("here/boot/ns:8:70:x", False),
        ("here/early/ns:7:70:x", False),  # no process outlives a boot
        ("here/boot/other:7:70:x", None),  # another container
        ("there/boot/ns:7:70:x", None),
        ("there:7:70:x", None),
    ],
)
def test_whether_an_owner_lives(owner: str, alive: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_machine", lambda: "here/boot/ns")
    monkeypatch.setattr(claims, "_started", {7: 70}.get)
    assert claims.is_alive(owner) is alive


def test_a_runner_that_is_over_is_dead_although_its_process_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_retired", set())
    owner = claims.new_owner()
    assert claims.is_alive(owner) is True
    claims.retire(owner)
    assert claims.is_alive(owner) is False


# ------------------------------------------------------------------------------------------------ searches

SEARCH = Search.from_json({"space": {"rate": {"uniform": [0.0, 8.0]}}, "trials": 8})


def test_of_equal_losses_the_first_wins_and_only_what_finished_can() -> None:
    """A pruned trial's best loss so far, a diverged one and one that still runs are never the best."""
    tried = [
        Tried({"rate": 1.0}, None, "diverged"),
        Tried({"rate": 2.0}, 0.5, "finished"),
        Tried({"rate": 3.0}, 0.1, "pruned"),
        Tried({"rate": 4.0}, 0.3, "finished"),
        Tried({"rate": 5.0}, 0.3, "finished"),
        Tried({"rate": 6.0}, None, "failed"),
        Tried({"rate": 7.0}, None, "running"),
    ]
    best = _best(SEARCH, {"n": 2}, tried)
    assert best is not None
    assert (best.values, best.loss, best.point) == ({"rate": 4.0}, 0.3, {"n": 2})
    assert best.curve("rate") == [(2.0, 0.5), (4.0, 0.3), (5.0, 0.3)]
    assert [one.status for one in best.tried] == [one.status for one in tried]
    assert _best(SEARCH, {}, [tried[0], tried[2], tried[5]]) is None


def curve(*losses: float) -> tuple[tuple[float, float], ...]:
    return tuple(enumerate(losses))


def test_thresholds_are_medians_at_evenly_spread_rungs_but_at_the_ends() -> None:
    """Evaluations at steps 0 to 8: seven may be rungs. With three rungs of eight spaces: steps 2, 4 and 6."""
    losses = ((9.0,) * 9, (8, 7, 6, 5, 4, 3, 2, 1, 1), (9, 8, 8, 8, 8, 2, 2, 2, 2))
    tried = [Tried({}, row[-1], "finished", curve(*map(float, row))) for row in losses]
    pruning = Pruning(n_before=3, rungs=3)
    assert pruning.thresholds(tried) == [[2, 8.0], [4, 8.0], [6, 2.0]]
    assert pruning.thresholds(tried[:2]) == []
    for status, counts in (("pruned", True), ("diverged", False), ("failed", False), ("running", False)):
        ended = [*tried[:2], Tried({}, None, status, tried[2].curve)]  # type: ignore[arg-type]
        assert bool(pruning.thresholds(ended)) is counts
    # A pruned trial that ended after step 4 counts where it was: at step 6 two are too few.
    short = [*tried[:2], Tried({}, 8.0, "pruned", tried[2].curve[:5])]
    assert pruning.thresholds(short) == [[2, 8.0], [4, 8.0]]
    assert Pruning(n_before=1, rungs=1).thresholds(tried[1:2]) == [[4, 4.0]]
    assert Pruning(n_before=3, rungs=99).thresholds(tried)[0] == [1, 8.0]
    assert len(Pruning(n_before=3, rungs=99).thresholds(tried)) == 7


@pytest.mark.parametrize(("n_before", "rungs"), [(0, 1), (1, 0)])
def test_pruning_without_trials_or_rungs_is_refused(n_before: int, rungs: int) -> None:
    with pytest.raises(InputError, match=f"at least 1, not {n_before} and {rungs}"):
        Pruning(n_before=n_before, rungs=rungs)
    Pruning(n_before=1, rungs=1)


def test_the_outcome_of_a_search_counts_its_searching_and_its_final_trials(tmp_path: Path) -> None:
    one = StudyOutcome(tmp_path, 10, 4, 3, 2, 1, 8, 2, 1.5)
    two = StudyOutcome(tmp_path, 200, 70, 60, 40, 30, 150, 50, 2.0)
    assert _joined(one, two) == StudyOutcome(tmp_path, 210, 74, 63, 42, 31, 158, 52, 3.5)


def test_an_output_cut_twice_says_how_much_is_missing_in_all(tmp_path: Path) -> None:
    """100 bytes of which 10 stay at each end: 80 are gone; 50 more come, and 50 more go."""
    path = tmp_path / "output.log"
    path.write_bytes(b"a" * 10 + b"-" * 80 + b"b" * 10)
    bound_output(path, limit=99, kept=10)
    mark = "\n[metascale: %d bytes of output are left out here]\n"
    assert path.read_text() == "a" * 10 + mark % 80 + "b" * 10
    with open(path, "ab") as stream:
        stream.write(b"c" * 50)
    bound_output(path, limit=99, kept=10)
    assert path.read_text() == "a" * 10 + mark % 130 + "c" * 10
