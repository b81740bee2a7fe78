"""The one training loop, its states, optimisers and schedules, and meters of FLOPs and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.training.coordinate_check import measure_coordinates
    from metascale.training.flops import TrainingFlops, count_flops, training_flops
    from metascale.training.loop import Schedule, Trainable, TrainResult, train
    from metascale.training.memory import LiveBytes, MemoryReport, measure_memory
    from metascale.training.optimizers import LAMB, SGD, Adagrad, Adam, InPlaceAdamW, Lion, Muon, Optimizer, RMSprop
    from metascale.training.schedules import Constant, Cosine, RateSchedule, WarmupStableDecay, named_schedule
    from metascale.training.state import TrainState, from_bytes, to_bytes
    from metascale.training.supervised import SupervisedTraining, train_and_test
    from metascale.training.torch_optimizers import from_torch

__all__ = [
    "LAMB",
    "SGD",
    "Adagrad",
    "Adam",
    "Constant",
    "Cosine",
    "InPlaceAdamW",
    "Lion",
    "LiveBytes",
    "MemoryReport",
    "Muon",
    "Optimizer",
    "RMSprop",
    "RateSchedule",
    "Schedule",
    "SupervisedTraining",
    "TrainResult",
    "TrainState",
    "Trainable",
    "TrainingFlops",
    "WarmupStableDecay",
    "count_flops",
    "from_bytes",
    "from_torch",
    "measure_coordinates",
    "measure_memory",
    "named_schedule",
    "to_bytes",
    "train",
    "train_and_test",
    "training_flops",
]

__getattr__, __dir__ = lazy(__name__)
