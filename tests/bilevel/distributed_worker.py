"""One process of a distributed bilevel training, started by torchrun; writes its final state and its record."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from metascale import bilevel
from metascale.bilevel import SAMA
from metascale.bilevel.distributed import DataParallel, initialise, shared
from metascale.bilevel.training import BilevelState, BilevelTraining
from metascale.core.run import MemoryRun
from metascale.training.loop import Schedule, train
from metascale.training.optimizers import SGD, Adam
from metascale.training.state import to_bytes
from tests.bilevel.problems import data, lower_loss, network, noisy_training, upper_loss


def training(accumulation: int = 4, model: nn.Module | None = None, **fields: Any) -> BilevelTraining:
    """Four micro-batches a step, however many processes share them."""
    return noisy_training(
        model or network(dropout=0.2, norm=False),
        lower_accumulation=accumulation,
        upper_accumulation=accumulation,
        unroll_steps=2,
        lower_max_norm=0.5,
        **fields,
    )


SCHEDULE = Schedule(max_steps=3, eval_every=3, restore_best=False)


def lower_model(wrapper: str) -> nn.Module:
    """The lower model, bare or in a wrapper that reduces its gradients; ``-norm``: with batch statistics."""
    model = network(dropout=0.2, norm=wrapper.endswith("-norm"))
    wrapper = wrapper.removesuffix("-norm")
    if wrapper == "ddp":
        return DistributedDataParallel(model)
    if wrapper == "fsdp":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for part in model:  # type: ignore[union-attr]
            if isinstance(part, nn.Linear):
                fully_shard(part, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def assert_round_trip(process: BilevelTraining, state: BilevelState) -> None:
    """What is packed is whole, and unpacked again it is what it was, bit for bit, in this process's parts."""
    packed = process.pack(state)
    again = process.unpack({name: value.clone() for name, value in packed.items()}, state.step)
    for name, value in state.pack().items():
        assert torch.equal(again.pack()[name], value), name
    like = network(norm="1.running_mean" in state.buffers).state_dict()
    for name in state.lower:
        assert packed[f"lower/{name}"].shape == like[name].shape


def by_api(wrapper: str, processes: DataParallel) -> list[dict[str, Any]]:
    """The validation record of a short training in one call."""
    noisy, clean, held = data()
    run = MemoryRun()

    def metrics(model: Any, upper: Any, batch: Any) -> dict[str, float]:
        return {"accuracy": float((model(batch["x"]).argmax(-1) == batch["y"]).float().mean())}

    bilevel.train(
        lower_model(wrapper),
        upper=bilevel.WeightNet(8),
        lower_loss=lower_loss,
        upper_loss=upper_loss,
        data=bilevel.Data(bilevel.Shuffled(noisy, 20), bilevel.Shuffled(clean, 10, purpose="upper"), [held]),
        metrics=metrics,
        steps=6,
        run=run,
        processes=processes,
        lower_accumulation=4,
        upper_accumulation=4,
        lower_optimizer=Adam(1e-2),
    )
    return list(run.rows("eval_stats"))


class Asked(MemoryRun):
    """Process 0 alone is asked to stop, after every step; being saved does not end this run."""

    def stop_asked(self) -> bool:
        return True


def main(folder: Path, modes: list[str]) -> None:
    """Train once for each ``mode:overlap:mixed:wrapper``, all in one process group."""
    rank = initialise(timeout_s=60)
    for number, (mode, overlap, mixed, wrapper) in enumerate(text.split(":") for text in modes):
        # Small buckets, so that there are several reductions, in an order that every process must share.
        processes = DataParallel("joint" if mode == "api" else mode, overlap == "overlap", bucket_bytes=64)  # type: ignore[arg-type]
        run = Asked() if rank == 0 else MemoryRun()
        if mode == "api":
            (folder / f"state{number}-{rank}.safetensors").write_bytes(b"")
            torch.save(by_api(wrapper, processes), folder / f"rows{number}.pt")
            continue
        method = SAMA(mixed=mixed)  # type: ignore[arg-type]
        # The bias before a batch normalisation has no gradient but rounding, which Adam would blow up.
        fields = {"lower_optimizer": SGD(0.1)} if wrapper.endswith("-norm") else {}
        process = training(model=lower_model(wrapper), processes=processes, method=method, **fields)
        result = train(process, SCHEDULE, shared(run))
        assert_round_trip(process, result.state)
        (folder / f"state{number}-{rank}.safetensors").write_bytes(to_bytes(process.pack(result.state)))
        if rank == 0:
            torch.save(run.rows("train_stats"), folder / f"rows{number}.pt")
    dist.destroy_process_group()
    # torch 2.13.0 with gloo and sharded parameters now and then aborts when the interpreter ends, all work done.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
