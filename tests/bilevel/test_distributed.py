"""Real processes under torchrun: the trajectory is that of one process, and all processes agree bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metascale.bilevel import SAMA
from metascale.bilevel.distributed import DataParallel, check_wrapped
from metascale.bilevel.updates import clipped
from metascale.core.errors import InputError
from metascale.core.run import MemoryRun
from metascale.core.trees import tree_map
from metascale.core.types import Params
from metascale.hypergrad.precondition import clip_vjp
from metascale.hypergrad.problem import BilevelProblem, Hypergradient
from metascale.hypergrad.second import difference_step
from metascale.training.loop import train
from metascale.training.optimizers import LAMB, Adam, Muon
from metascale.training.state import from_bytes
from tests.bilevel.distributed_worker import SCHEDULE, training

ROOT = Path(__file__).parents[2]


def launch(folder: Path, processes: int, modes: list[str]) -> list[tuple[Params, list[dict[str, Any]]]]:
    """Run the worker under torchrun, without its restarts: final state and record of each mode.

    Every process must end with the same bytes.
    """
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--max-restarts", "0"]
    command += ["--nproc-per-node", str(processes), "-m", "tests.bilevel.distributed_worker"]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
    done = subprocess.run(
        [*command, str(folder), *modes],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"},
        timeout=200,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = []
    for number in range(len(modes)):
        states = [(folder / f"state{number}-{rank}.safetensors").read_bytes() for rank in range(processes)]
        assert len(set(states)) == 1
        state = from_bytes(states[0]) if states[0] else {}
        found.append((state, torch.load(folder / f"rows{number}.pt")))
    return found


@dataclass(frozen=True)
class MeanOfParts:
    """What P processes do in the local mode, in one: the mean of each part's own SAMA estimate."""

    processes: int
    method: SAMA

    @property
    def remembers(self) -> int:
        return 0

    @property
    def adapts(self) -> bool:
        return True

    def __call__(self, problem: BilevelProblem, lower: Params, upper: Params) -> Hypergradient:
        found = []
        for part in range(self.processes):
            own = slice(part, None, self.processes)
            one = replace(
                problem,
                lower_loss=problem.lower_parts[own],
                upper_loss=problem.upper_parts[own],
                mixed_loss=problem.mixed_parts[own],
            )
            found.append(self.method(one, lower, upper))
        mean = tree_map(lambda *values: torch.stack(values).mean(0), *(part.value for part in found))
        return Hypergradient(mean, torch.stack([part.upper_loss for part in found]).mean())


def alone(method: Any) -> tuple[Params, list[dict[str, Any]]]:
    process, run = training(method=method), MemoryRun()
    return process.pack(train(process, SCHEDULE, run).state), run.rows("train_stats")


def assert_same_trajectory(found: Params, expected: Params) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.long
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_follow_one_process(processes: int, tmp_path: Path) -> None:
    """Jointly as one on the joined batch; locally as one that averages the estimates of the parts.

    The same with the lower model in DistributedDataParallel, and with its parameters sharded by fully_shard. Process 0
    is asked to save after every step, which sharded parameters take all processes for.
    """
    modes = ["joint bare", "joint ddp", "joint fsdp", "local bare", "local ddp"]
    found = launch(
        tmp_path, processes, [f"{a}:overlap:finite_difference:{b}" for a, b in (text.split() for text in modes)]
    )
    expected, rows = alone(SAMA())
    parts = alone(MeanOfParts(processes, SAMA()))[0]
    for mode, (state, record) in zip(modes, found, strict=True):
        assert_same_trajectory(state, expected if mode.startswith("joint") else parts)
        if mode.startswith("local"):
            continue
        for mine, theirs in zip(rows, record, strict=True):
            assert theirs.keys() == mine.keys()
            for name, value in mine.items():
                assert theirs[name] == (None if value is None else pytest.approx(value, rel=1e-3)), (mode, name)
    local = found[modes.index("local bare")]
    assert any(not torch.allclose(local[0][name], value, rtol=1e-3, atol=2e-5) for name, value in expected.items())


@pytest.mark.long
def test_overlap_changes_no_number_and_exact_products_are_shared_too(tmp_path: Path) -> None:
    after, exact = launch(tmp_path, 2, ["joint:after:finite_difference:bare", "joint:overlap:exact:bare"])
    assert_same_trajectory(after[0], alone(SAMA())[0])
    assert_same_trajectory(exact[0], alone(SAMA(mixed="exact"))[0])


@pytest.mark.long
def test_wrapped_models_keep_their_statistics_and_train_in_one_call(tmp_path: Path) -> None:
    """With batch statistics, and through ``train`` with metrics: as the bare model over as many processes does."""
    kinds = ("bare", "ddp", "fsdp")
    modes = [f"joint:overlap:finite_difference:{kind}-norm" for kind in kinds]
    found = launch(tmp_path, 2, modes + [f"api:overlap:finite_difference:{kind}" for kind in kinds])
    for state, _ in found[1:3]:
        assert_same_trajectory(state, found[0][0])
    for _, rows in found[4:]:
        for mine, theirs in zip(found[3][1], rows, strict=True):
            assert theirs == pytest.approx(mine, rel=1e-3)
            assert "validation_accuracy" in theirs


class Parts:
    """Stands for parameters spread over processes."""

    def total(self, value: torch.Tensor) -> torch.Tensor:
        return value

    def whole(self, tensors: Params) -> Params:
        return tensors

    def part(self, tensors: Params) -> Params:
        return tensors


def test_what_wrapped_models_do_not_go_with_is_refused() -> None:
    levels = replace(training().levels, reduced=True)
    with pytest.raises(InputError, match=r"needs processes=DataParallel\(\.\.\.\) beside it"):
        replace(training(), levels=levels)
    sharded = replace(levels, shards=Parts())
    with pytest.raises(InputError, match=r"use DataParallel\('joint'\)"):
        check_wrapped(sharded, DataParallel("local"), Adam(0.1), SAMA())
    with pytest.raises(InputError, match="no forward-mode derivatives"):
        check_wrapped(sharded, DataParallel("joint"), Adam(0.1), SAMA(mixed="exact"))
    for optimizer in (LAMB(0.1), Muon(0.1)):
        with pytest.raises(InputError, match="takes norms of whole tensors"):
            check_wrapped(sharded, DataParallel("joint"), optimizer, SAMA())
        check_wrapped(levels, DataParallel("local"), optimizer, SAMA())
    check_wrapped(sharded, DataParallel("joint"), Adam(0.1), SAMA())


def test_norms_are_taken_over_all_shards() -> None:
    """Halves of one vector, each with a total that adds the other half's part."""
    g = torch.Generator().manual_seed(0)
    whole = [torch.randn(8, generator=g, dtype=torch.float64) for _ in range(3)]
    halves = [slice(0, 4), slice(4, 8)]

    def split(function: Callable[[Params, Params, Params, Any], Any]) -> tuple[list[Any], Any]:
        """The function on both halves in turn: the totals of all of them first, then with these."""
        sums: list[list[torch.Tensor]] = []
        for own in halves:
            seen: list[torch.Tensor] = []
            sums.append(seen)
            function(*({"t": v[own]} for v in whole), lambda value, seen=seen: seen.append(value) or value)
        found = []
        for own in halves:
            totals = iter([a + b for a, b in zip(*sums, strict=True)])
            found.append(function(*({"t": v[own]} for v in whole), lambda value, totals=totals: next(totals)))
        return found, function(*({"t": v} for v in whole), lambda value: value)

    steps, step = split(lambda t, g, w, total: difference_step(t, w, 0.01, total))
    assert steps == pytest.approx([step, step], rel=1e-12)
    clips, clip = split(lambda t, g, w, total: clipped(g, 0.5, total)[0]["t"])
    torch.testing.assert_close(torch.cat(clips), clip)
    assert float(clip.norm()) == pytest.approx(0.5)
    size = float(whole[1].norm())
    pulls, pull = split(lambda t, g, w, total: clip_vjp(g, 2 * size, size, w, total)["t"])
    torch.testing.assert_close(torch.cat(pulls), pull)


def test_data_parallel_without_a_process_group_is_refused() -> None:
    with pytest.raises(InputError, match="needs an initialised process group: start with torchrun"):
        training(processes=DataParallel())
    with pytest.raises(InputError, match="mode of DataParallel must be 'local' or 'joint', not 'both'"):
        DataParallel("both")  # type: ignore[arg-type]
