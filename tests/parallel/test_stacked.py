"""Trials side by side: what is joined, what is not, and whose an error is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from metascale.core.types import Batch, Episode
from metascale.parallel.execution import Execution
from metascale.parallel.stacked import run_together


def episode(n_tasks: int, value: float = 1.0) -> Episode:
    batch = Batch({"x": torch.full((n_tasks, 2, 1), value)}, torch.zeros(n_tasks, 2, dtype=torch.long))
    return Episode(tuple(map(str, range(n_tasks))), batch, batch)


@dataclass
class Sum:
    """The sum of a part; notes how many calls were joined. A negative part is an error."""

    notes: list[int]

    def __call__(self, part: Episode, start: int) -> float:
        self.notes.append(1)
        if part.support.inputs["x"].min() < 0:
            raise ValueError("negative")
        return float(part.support.inputs["x"].sum())

    def kind(self, part: Episode) -> object:
        return "sum"

    def together(self, functions: list[Sum], parts: list[Episode]) -> list[float]:
        self.notes.append(len(parts))
        if any(part.support.inputs["x"].min() < 0 for part in parts):
            raise ValueError("one of them is negative")
        return [float(part.support.inputs["x"].sum()) for part in parts]


@pytest.mark.parametrize(
    ("sizes", "notes"),
    [
        ((8, 8, 8), [3]),
        ((8, 16, 8), [2, 1]),
        ((4, 4), [1, 1]),  # not a multiple of 8
        ((40, 40), [1, 1]),  # more than 64 tasks
    ],
)
def test_calls_of_one_kind_and_shape_are_joined(sizes, notes):
    found, seen = {}, []

    def run(place: int) -> None:
        found[place] = Execution().map(Sum(seen), episode(sizes[place]))

    run_together([lambda place=place: run(place) for place in range(len(sizes))])
    assert found == {place: [2.0 * size] for place, size in enumerate(sizes)}
    assert seen == notes


def test_an_error_belongs_to_the_trial_whose_it_is_and_one_that_ends_leaves_the_others():
    found, seen = {}, []

    def run(place: int, values: tuple[float, ...]) -> None:
        try:
            found[place] = [Execution().map(Sum(seen), episode(8, value))[0] for value in values]
        except ValueError as error:
            found[place] = str(error)

    trials = [(1.0, 2.0, 3.0), (1.0, -1.0, 3.0), (1.0,), (4.0, 5.0, 6.0)]
    run_together([lambda place=place, values=values: run(place, values) for place, values in enumerate(trials)])
    assert found == {0: [16.0, 32.0, 48.0], 1: "negative", 2: [16.0], 3: [64.0, 80.0, 96.0]}
    assert seen == [4, 3, 1, 1, 1, 2]


def test_what_a_trial_lets_escape_is_raised_once_all_have_ended():
    ended = []

    def fails() -> None:
        raise RuntimeError("escaped")

    with pytest.raises(RuntimeError, match="escaped"):
        run_together([fails, lambda: ended.append(Execution().map(Sum([]), episode(8)))])
    assert ended == [[16.0]]


def test_trials_that_could_not_be_computed_in_one_call_say_so_once_each(caplog):
    """Of three calls a trial the first two fail as a whole, for one reason; one by itself has nothing to say."""
    found = {}

    def run(place: int, values: tuple[float, ...]) -> None:
        own = []
        for value in values:
            try:
                own.append(Execution().map(Sum([]), episode(8, value))[0])
            except ValueError as error:
                own.append(str(error))
        found[place] = own

    run_together([lambda: run(0, (1.0, 2.0, 3.0)), lambda: run(1, (-1.0, -2.0, 4.0)), lambda: None])
    assert found == {0: [16.0, 32.0, 48.0], 1: ["negative", "negative", 64.0]}
    sentence = "2 trials could not be computed in one call, so each was computed by itself: ValueError: one of them is "
    sentence += "negative"
    told = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [("metascale.parallel", "WARNING", sentence)] * 2
    caplog.clear()
    run_together([lambda: run(0, (1.0,)), lambda: run(1, (4.0,))])
    run_together([lambda: run(0, (-1.0,))])
    assert caplog.records == []
