"""Which trials of a tuned study count: those with the values that its searches have found by now.

A search that goes on (a study that grew, a failed trial that was tried again) may find other values. What was run with
the earlier ones stays on disk and in the tables, and is left out of every fit.
"""

from __future__ import annotations

from metascale.core.errors import InputError
from metascale.study.design import Study, Trial, build_trial
from metascale.study.reading import StudyView
from metascale.study.tuning import KIND, Search, search_of, tuned_points
from metascale.study.tuning_points import axis_points, point_key, searched_points
from metascale.study.tuning_rule import values_at

SUPERSEDED = "superseded"
"""The kind that tables give to a trial whose values a later search replaced."""


def final_trials(study: Study, search: Search, view: StudyView) -> list[Trial]:
    """Axes × seeds with the values that the searches in the folder found.

    Raises:
        InputError: a search has found nothing.
    """
    found = tuned_points(view, study)
    known = {point_key(one.point) for one in found}
    for point in searched_points(study, search):
        if point_key(point) not in known:
            raise InputError(
                f"every trial of the search at {point or 'the base'} failed or diverged; see their messages in "
                f"results.csv, and give '{', '.join(search.space)}' other ranges in a new folder"
            )
    return [
        build_trial(study.trial, study.base, {**point, **values_at(study, search, found, point)}, int(seed), "trial")
        for point in axis_points(study)
        for seed in study.seeds
    ]


def superseded(view: StudyView) -> frozenset[str]:
    """Ids of trials at a point and seed of the axes that are now run with other values."""
    search = search_of(view.study)
    if search is None:
        return frozenset()
    try:
        finals = final_trials(view.study, search, view)
    except InputError:
        return frozenset()  # nothing was found yet, so nothing is final

    def place(trial: Trial) -> tuple[str, int]:
        return point_key({name: trial.axes.get(name) for name in view.study.axes}), trial.seed

    ids, places = {trial.id for trial in finals}, {place(trial) for trial in finals}
    others = (run.trial for run in view.runs if run.trial.kind != KIND and run.trial.id not in ids)
    return frozenset(trial.id for trial in others if place(trial) in places)
