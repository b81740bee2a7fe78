"""Bilevel training: a lower level that fits, an upper level that decides what fitting means."""

from metascale.bilevel.api import Data, train
from metascale.bilevel.applications import DataScorer, LabelCorrector, TaskWeights, WeightNet
from metascale.bilevel.batches import Shuffled
from metascale.bilevel.levels import Levels, Pass, from_functions, from_modules, hold
from metascale.bilevel.training import BilevelState, BilevelTraining
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
    "Data",
    "DataScorer",
    "Direct",
    "Identity",
    "Implicit",
    "LabelCorrector",
    "Levels",
    "Neumann",
    "Pass",
    "Shuffled",
    "TaskWeights",
    "Unrolled",
    "WeightNet",
    "from_functions",
    "from_modules",
    "hold",
    "train",
]
