"""Bilevel training: a lower level that fits, an upper level that decides what fitting means."""

from metascale.bilevel.api import Data, train
from metascale.bilevel.applications import DataScorer, LabelCorrector, TaskWeights, WeightNet
from metascale.bilevel.batches import Loaded, Shuffled
from metascale.bilevel.distributed import DataParallel, initialise, shared
from metascale.bilevel.levels import BoundModule, Levels, Pass, from_functions, from_modules, hold, trainable
from metascale.bilevel.training import BilevelState, BilevelTraining, check
from metascale.hypergrad.darts import DARTS
from metascale.hypergrad.implicit import Implicit
from metascale.hypergrad.linear import CG, Direct, Identity, Neumann
from metascale.hypergrad.sama import SAMA
from metascale.hypergrad.unrolled import Unrolled

__all__ = [
    "CG",
    "DARTS",
    "SAMA",
    "BilevelState",
    "BilevelTraining",
    "BoundModule",
    "Data",
    "DataParallel",
    "DataScorer",
    "Direct",
    "Identity",
    "Implicit",
    "LabelCorrector",
    "Levels",
    "Loaded",
    "Neumann",
    "Pass",
    "Shuffled",
    "TaskWeights",
    "Unrolled",
    "WeightNet",
    "check",
    "from_functions",
    "from_modules",
    "hold",
    "initialise",
    "shared",
    "train",
    "trainable",
]
