"""How the tasks of a meta-batch run: chunks, threads, processes, a memory budget, recovery from out of memory."""

from metascale.parallel.budget import StepFit, StepPlan, fit_to_budget, frozen_weights, profile_step
from metascale.parallel.execution import Execution
from metascale.parallel.out_of_memory import DoesNotFit, MicroBatches

__all__ = [
    "DoesNotFit",
    "Execution",
    "MicroBatches",
    "StepFit",
    "StepPlan",
    "fit_to_budget",
    "frozen_weights",
    "profile_step",
]
