"""``python -m tests.study.ray_drill FOLDER DRILL``: a real Ray cluster on this machine; prints what was seen as JSON.

Ray reads its authentication from the environment when it is loaded, so each drill has a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

from metascale.study import read_study, run_study
from metascale.study.errors import Interrupted
from metascale.study.executors.ray import RayExecutor
from tests.study.folders import ranks_study, tiny_study

LONG = tiny_study(n_tasks=(2, 5), n_steps=60, sleep_s=0.1)
UNHURRIED: dict[str, Any] = {"n_steps": 400, "save_every": 400, "sleep_s": 0.05}


class KillsANode:
    """A reporter that removes a node without warning once the trial on it has saved, and adds another."""

    def __init__(self, cluster: Cluster, node: Any, folder: Path):
        self.cluster, self.node, self.folder, self.killed = cluster, node, folder, False

    def begin(self, folder: Path, total: int, done: int) -> None:
        return None

    def event(self, event: Any) -> None:
        if event.kind != "started" or self.killed:
            return
        deadline = time.monotonic() + 60
        while not list(self.folder.glob("runs/*/checkpoints/step-*")):
            assert time.monotonic() < deadline, "no trial came to a checkpoint in 60 s"
            time.sleep(0.05)
        self.cluster.remove_node(self.node, allow_graceful=False)
        self.cluster.add_node(num_cpus=1, include_dashboard=False)
        self.killed = True

    def end(self, outcome: Any) -> None:
        return None


def lost_node(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """One node at first, so that the one to be killed is the one that runs the first trial."""
    doomed = cluster.add_node(num_cpus=1, include_dashboard=False)
    reporter = KillsANode(cluster, doomed, folder)
    outcome = run_study(LONG, folder, RayExecutor(cluster.address, workers=1), reporter=reporter)
    return {"killed": reporter.killed, "finished": outcome.finished, "failed": outcome.failed}


def two_nodes(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """The same study as elsewhere, and one in which a trial crashes in native code."""
    for _ in range(2):
        cluster.add_node(num_cpus=1, include_dashboard=False)
    executor = RayExecutor(cluster.address, workers=4)
    crash = run_study(tiny_study("kills_itself", n_tasks=(1, 2, 5, 7)), folder / "crash", executor)
    message = read_study(folder / "crash").runs[2].message()
    whole = run_study(tiny_study(n_tasks=(2, 5, 7)), folder / "study", executor)
    return {"finished": crash.finished, "failed": crash.failed, "message": message, "whole": whole.finished}


def asked_to_end(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """SIGTERM to the coordinator while two trials run, long before their first checkpoint is due."""
    cluster.add_node(num_cpus=2, include_dashboard=False)

    def terminate() -> None:
        while len(list(folder.glob("runs/*/progress.json"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    # Starting the cluster here took the signal already; a coordinator that joins one has it still.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=terminate).start()
    status = 0
    try:
        run_study(tiny_study(n_tasks=(2, 5), **UNHURRIED), folder, RayExecutor(cluster.address, workers=2))
    except Interrupted as error:
        status = error.exit_status
    saved = [path.name for path in folder.glob("runs/*/checkpoints/*")]
    return {"status": status, "saved": [name.endswith("-stop") for name in saved]}


def two_ranks(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """One trial on two processes, on a node of the cluster."""
    cluster.add_node(num_cpus=2, include_dashboard=False)
    executor = RayExecutor(cluster.address, workers=1, cpus_per_trial=2, processes_per_trial=2)
    return {"finished": run_study(ranks_study(), folder, executor).finished}


def main(folder: Path, drill: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        drills = {"lost_node": lost_node, "two_nodes": two_nodes, "asked_to_end": asked_to_end, "two_ranks": two_ranks}
        found = drills[drill](cluster, folder)
    finally:
        cluster.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
