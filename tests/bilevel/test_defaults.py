"""What bilevel training does where nothing is said."""

from __future__ import annotations

from metascale.bilevel.adaptation import LastStep
from metascale.bilevel.api import Data
from metascale.bilevel.batches import Shuffled
from metascale.bilevel.distributed import DataParallel
from metascale.bilevel.levels import Levels, Pass, Start
from metascale.bilevel.training import BilevelTraining
from metascale.hypergrad.sama import SAMA
from metascale.training.optimizers import Adam
from tests.defaults import defaults


def test_defaults() -> None:
    found = defaults(BilevelTraining)
    del found["processes"]
    assert found == {
        "method": SAMA(0.01, True, "finite_difference", False), "lower_optimizer": Adam(0.001),
        "upper_optimizer": Adam(0.001), "unroll_steps": 1, "evaluate": None, "lower_accumulation": 1,
        "upper_accumulation": 1, "lower_max_norm": None, "upper_max_norm": None, "lower_schedule": None,
        "upper_schedule": None, "accumulate_by": None, "roll_back": False, "learn_upper": True, "warmup": 0,
        "autocast": None, "upper_dropout": False, "seed": 0,
    }  # fmt: skip
    assert defaults(LastStep) == {"params": None, "before": None, "norm": None, "max_norm": None, "rate": 1.0}
    assert defaults(Data) == {"validation": ()}
    assert defaults(Shuffled) == {"seed": 0, "purpose": "batches", "collate": None, "device": None}
    assert defaults(DataParallel) == {"mode": "local", "overlap": True, "bucket_bytes": 25 * 2**20}
    assert defaults(Levels) == {"bound": None, "reduced": False, "shards": None}
    assert defaults(Pass) == {"updated": {}, "held": [], "replay": None}
    assert defaults(Start) == {"buffers": {}, "optimizers": {}}
