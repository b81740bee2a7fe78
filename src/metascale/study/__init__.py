"""Many runs as one resumable study: design, store, runner, executors, table and status. Never imports torch."""

from metascale.study.design import Study, Trial
from metascale.study.events import StudyOutcome
from metascale.study.executors.local import ProcessExecutor, SerialExecutor
from metascale.study.run.runner import run_study
from metascale.study.store.reading import RunView, StudyView, read_study
from metascale.study.store.run_store import RunStore
from metascale.study.store.table import Table, results_table, write_results

__all__ = [
    "ProcessExecutor",
    "RunStore",
    "RunView",
    "SerialExecutor",
    "Study",
    "StudyOutcome",
    "StudyView",
    "Table",
    "Trial",
    "read_study",
    "results_table",
    "run_study",
    "write_results",
]
