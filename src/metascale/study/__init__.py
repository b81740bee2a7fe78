"""Many runs as one resumable study: design, store, runner, executors, table and status. Never imports torch."""

from metascale.study.design import Study, Trial
from metascale.study.events import StudyOutcome
from metascale.study.executors.local import ProcessExecutor, SerialExecutor
from metascale.study.runner import run_study
from metascale.study.store.folder import RunView, StudyView, read_study
from metascale.study.store.store import RunStore
from metascale.study.store.table import ResultsTable, results_table, write_results

__all__ = [
    "ProcessExecutor",
    "ResultsTable",
    "RunStore",
    "RunView",
    "SerialExecutor",
    "Study",
    "StudyOutcome",
    "StudyView",
    "Trial",
    "read_study",
    "results_table",
    "run_study",
    "write_results",
]
