"""What holds where nothing is said: of jobs, events, outcomes, roles, executors and outputs; and how states look."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from metascale.study import executors
from metascale.study.executors import ClusterExecutor, require_torch
from metascale.study.executors.ray import RayExecutor
from metascale.study.executors.slurm import SlurmExecutor
from metascale.study.roles import Reading, Roles, assign
from metascale.study.run.job import Job
from metascale.study.run.output import bound_output
from metascale.study.run.session import Event, StudyOutcome
from metascale.study.search.search import Pruning
from metascale.study.status import _cells, _narrow, render_status
from metascale.study.store.claims import Claim
from tests.study.test_shown_by_hand import standing, trial


def test_a_job_runs_alone_in_one_process_without_limits() -> None:
    assert asdict(Job("a", "l", "f", {}, "cpu", "o", 1)) == {
        "trial_id": "a", "label": "l", "folder": "f", "config": {}, "device": "cpu", "owner": "o", "attempt": 1,
        "keep_checkpoints": False, "processes": 1, "threads": 0, "hang_s": None, "trial_timeout_s": None,
        "stop_seen": "", "import_paths": (), "facts": {}, "stack": (), "beside": (),
    }  # fmt: skip
    assert asdict(Claim("t", "o", 1)) == {"trial_id": "t", "owner": "o", "attempt": 1, "worker": ""}


def test_an_event_and_an_outcome_say_nothing_more_than_they_are_told() -> None:
    assert asdict(Event("waiting")) == {
        "kind": "waiting", "label": "", "message": "", "wall_s": 0.0, "done": 0, "total": 0, "eta_s": None
    }  # fmt: skip
    plain = StudyOutcome(Path("f"), 3, 1, 0, 2, 0, 3, 0, 1.0)
    assert (plain.stopped, plain.damaged, plain.exit_status) == (False, (), 0)
    for changes in ({"failed": 1}, {"pending": 1}, {"damaged": ("x",)}):
        assert StudyOutcome(**{**asdict(plain), **changes}).exit_status == 1


def test_a_trial_has_no_loss_and_no_rate_before_it_told_any() -> None:
    one = trial()
    assert (one.loss, one.loss_name, one.steps_per_s) == (None, "", None)


def test_axes_have_roles_of_their_own_and_a_loss_is_better_lower() -> None:
    nothing: dict[str, Any] = {"series": (), "best_of": (), "loss": "", "units": "", "better": "lower"}
    assert asdict(Roles()) == {"scales": (), "crossed": (), **nothing}
    assert asdict(Reading()) == {"scale": (), **nothing}
    assert assign({"n": [1, 2], "m": ["a"]}) == Roles(("n",), ("m",), loss="test_loss_nats")
    assert asdict(Pruning()) == {
        "record": "eval_stats", "column": "validation_loss_nats", "n_before": 4, "rungs": 4, "by": "step"
    }  # fmt: skip


def test_executors_of_clusters_where_nothing_is_said() -> None:
    both: dict[str, Any] = {"gpus_per_trial": 0, "processes_per_trial": 1, "threads_per_process": 1, "hang_s": 3600.0,
                            "trial_timeout_s": None}  # fmt: skip
    assert asdict(ClusterExecutor()) == both
    assert asdict(RayExecutor()) == {**both, "address": None, "workers": 64, "cpus_per_trial": 1}
    assert asdict(SlurmExecutor()) == {
        **both, "partition": "", "workers": 100, "cpus_per_trial": 1, "memory_gb": None, "timeout_min": 240,
        "max_timeouts": 100, "grace_s": 120, "options": {}, "cluster": "slurm", "poll_s": 5.0,
    }  # fmt: skip


def test_torch_is_asked_for_where_a_trial_has_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(executors, "require_installed", lambda *given: asked.append(given))
    require_torch(1)
    assert asked == []
    require_torch(2)
    assert asked == [("torch", "torch", "a trial on several processes")]


def test_an_output_is_cut_above_16_mib_to_one_at_each_end(tmp_path: Path) -> None:
    path, mib = tmp_path / "output.log", 2**20
    bound_output(path)
    with open(path, "wb") as stream:
        stream.truncate(16 * mib)
    bound_output(path)
    assert path.stat().st_size == 16 * mib
    with open(path, "ab") as stream:
        stream.write(b"x")
    bound_output(path)
    mark = b"\n[metascale: %d bytes of output are left out here]\n" % (14 * mib + 1)
    assert path.read_bytes() == bytes(mib) + mark + bytes(mib - 1) + b"x"


@pytest.mark.parametrize(
    ("state", "alive", "style"),
    [
        ("finished", True, "green"), ("running", True, "cyan"), ("running", False, "magenta"), ("failed", True, "red"),
        ("diverged", True, "yellow"), ("pending", True, "dim"), ("damaged", True, "red"),
    ],
)  # fmt: skip
def test_states_have_colours(state: Any, alive: bool, style: str) -> None:
    one = trial(state, owner_alive=alive, done=3, total=12, message="told")
    cells: Any = _cells(one)
    assert cells["status"].style == style
    assert (cells[""].total, cells[""].completed, cells[""].width) == (12, 3, 10)
    heads = _narrow(standing(one), [one], 60)
    assert [getattr(each, "style", None) for each in (heads[0], heads[1], heads[3])] == ["bold", "dim", style]


def test_a_narrow_table_has_no_frame_and_no_margin() -> None:
    one = trial(done=3, total=12)
    table: Any = _narrow(standing(one), [one], 60)[2]
    assert (table.box, table.padding, table.pad_edge) == (None, (0, 1, 0, 0), False)
    assert [column.no_wrap for column in table.columns] == [True] * len(table.columns)
    hidden: Any = render_status(standing(one, one), max_rows=1, width=60)
    assert hidden.renderables[-3].style == "dim"
