"""Many runs as one resumable study: design, store, executors, searches, table and status. Never imports torch."""

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.study.design import Study, Trial
    from metascale.study.executors.local import ProcessExecutor, SerialExecutor
    from metascale.study.executors.ray import RayExecutor
    from metascale.study.executors.slurm import SlurmExecutor
    from metascale.study.roles import Roles
    from metascale.study.run.session import StudyOutcome
    from metascale.study.runner import run_study
    from metascale.study.search.run import run_any_study, run_tuned_study
    from metascale.study.search.search import Search, SearchResult, tuned_points
    from metascale.study.status import StudyStatus, study_status
    from metascale.study.store.folder import RunView, StudyView, read_study
    from metascale.study.store.store import RunStore
    from metascale.study.store.table import ResultsTable, results_table, write_results
    from metascale.study.store.verify import verify_study

__all__ = [
    "ProcessExecutor",
    "RayExecutor",
    "ResultsTable",
    "Roles",
    "RunStore",
    "RunView",
    "Search",
    "SearchResult",
    "SerialExecutor",
    "SlurmExecutor",
    "Study",
    "StudyOutcome",
    "StudyStatus",
    "StudyView",
    "Trial",
    "read_study",
    "results_table",
    "run_any_study",
    "run_study",
    "run_tuned_study",
    "study_status",
    "tuned_points",
    "verify_study",
    "write_results",
]

__getattr__, __dir__ = lazy(__name__)
