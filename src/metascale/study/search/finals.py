"""Which trials of a tuned study count: those with the values that its searches had found when they last ended.

A search that goes on (a study that grew, a failed trial that was tried again) may find other values. What was run with
the earlier ones stays on disk and in the tables, and is left out of every fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from metascale.core.files import read_json, write_json
from metascale.study.design import Trial
from metascale.study.search.points import point_key
from metascale.study.search.search import KIND
from metascale.study.store.fence import locked
from metascale.study.store.reading import StudyView

FINALS = "finals.json"
SUPERSEDED = "superseded"
"""The kind that tables give to a trial whose values a later search replaced."""


def keep_finals(folder: Path, trials: Iterable[Trial]) -> None:
    """Note the trials of the axes with the values found, before they run."""
    with locked(folder):
        write_json(folder / FINALS, {"ids": [trial.id for trial in trials]})


def superseded(view: StudyView) -> frozenset[str]:
    """Ids of trials at a point and seed of the axes that is now run with other values."""
    path = view.folder / FINALS
    if not path.exists():
        return frozenset()
    ids = frozenset(read_json(path)["ids"])

    def place(trial: Trial) -> tuple[str, int]:
        return point_key({name: trial.axes.get(name) for name in view.study.axes}), trial.seed

    places = {place(run.trial) for run in view.runs if run.trial.id in ids}
    others = (run.trial for run in view.runs if run.trial.kind != KIND and run.trial.id not in ids)
    return frozenset(trial.id for trial in others if place(trial) in places)
