"""What a training does where nothing is said."""

from __future__ import annotations

import math

from metascale.training.loop import Progress, Schedule, TrainResult
from metascale.training.memory import MIB, MemoryReport
from metascale.training.optimizers import LAMB, SGD, Adagrad, Adam, InPlaceAdamW, Lion, Muon, RMSprop
from metascale.training.schedules import Constant, Cosine, WarmupStableDecay
from metascale.training.supervised import SupervisedTraining
from tests.defaults import defaults


def test_optimisers_have_the_constants_of_their_papers_or_of_pytorch() -> None:
    assert defaults(SGD) == {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    assert defaults(Adam) == {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    assert defaults(InPlaceAdamW) == {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.0}
    assert defaults(Adagrad) == {"lr_decay": 0.0, "eps": 1e-10, "initial": 0.0}
    assert defaults(RMSprop) == {"decay": 0.99, "eps": 1e-8, "momentum": 0.0}
    assert defaults(LAMB) == {"beta1": 0.9, "beta2": 0.999, "eps": 1e-6, "weight_decay": 0.0}
    assert defaults(Lion) == {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0, "softness": 0.0}
    assert defaults(Muon) == {
        "momentum": 0.95, "nesterov": True, "weight_decay": 0.1, "iterations": 5, "scaling": "original",
        "other": Adam(0.001, 0.9, 0.999, 1e-8, 0.0),
    }  # fmt: skip


def test_schedules_and_the_loop() -> None:
    assert defaults(Constant) == {"warmup": 0}
    assert defaults(Cosine) == {"warmup": 0, "floor": 0.1}
    assert defaults(WarmupStableDecay) == {"warmup": 0, "decay": 0, "floor": 0.0}
    assert defaults(Schedule) == {
        "eval_every": 100, "patience": None, "min_delta": 0.0, "restore_best": True, "checkpoint_every": 1000,
        "log_every": 1,
    }  # fmt: skip
    assert defaults(Progress) == {
        "step": 0, "validated_step": -1, "best_step": -1, "best_loss_nats": math.inf, "last_loss_nats": math.inf,
        "stale": 0, "stopped": False,
    }  # fmt: skip
    assert defaults(TrainResult) == {"pruned_at_step": None}
    assert defaults(SupervisedTraining) == {
        "rate": Constant(0), "rate_multipliers": None, "clip_norm": 1.0, "seed": 0, "measure": "perplexity",
        "max_validation_batches": None, "autocast": False, "device": "cpu",
    }  # fmt: skip


def test_a_report_of_memory_in_mebibytes() -> None:
    """1,048,576 bytes are 1 MiB; without weights 3 of 4 are left, and the allocator's own peak counts where known."""
    assert MIB == 1_048_576
    held = {"weights": 1, "parameters": 0, "activations": 2, "gradients": 0, "optimizer_state": 0, "other": 1}
    report = MemoryReport({kind: mib * 1_048_576 for kind, mib in held.items()})
    rows = dict(line.rsplit(maxsplit=2)[:2] for line in report.table().splitlines())
    assert rows == {
        "weights": "1.00", "parameters": "0.00", "activations": "2.00", "gradients": "0.00", "optimizer state": "0.00",
        "other": "1.00", "live tensors at the peak": "4.00", "peak without weights": "3.00",
    }  # fmt: skip
    assert all(line.endswith(" MiB") for line in report.table().splitlines())
    known = MemoryReport(report.by_kind, 10 * 1_048_576)
    assert (known.peak_bytes, known.peak_without_weights_bytes) == (10 * 1_048_576, 9 * 1_048_576)
    assert "allocator's peak                10.00 MiB" in known.table()
    assert report.row() == {
        "peak_bytes": 4 * 1_048_576, "peak_without_weights_bytes": 3 * 1_048_576,
        **{f"{kind}_bytes": mib * 1_048_576 for kind, mib in held.items()},
    }  # fmt: skip
