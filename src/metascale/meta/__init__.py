"""Meta-learning: one inner loop, estimators of the meta-gradient, the learner, one evaluator, baselines."""

from metascale.meta.baselines import Arena, class_prior, fine_tuning, linear_probe, prototypes, zero_shot
from metascale.meta.evaluate import Benchmark, Evaluation, Predictor, adapted_predictor, benchmark, evaluate
from metascale.meta.gradients import (
    FOMAML,
    MAML,
    EpisodeReport,
    MetaGradient,
    Reptile,
    profile_gradient,
    query_gradient,
)
from metascale.meta.imaml import ImplicitMAML
from metascale.meta.inner import InnerLoop, InnerState
from metascale.meta.learner import MetaLearner, StepReport
from metascale.meta.multi_step import MultiStepMAML
from metascale.meta.reverse import FullGraph, named_through
from metascale.meta.training import MetaTraining

__all__ = [
    "FOMAML",
    "MAML",
    "Arena",
    "Benchmark",
    "EpisodeReport",
    "Evaluation",
    "FullGraph",
    "ImplicitMAML",
    "InnerLoop",
    "InnerState",
    "MetaGradient",
    "MetaLearner",
    "MetaTraining",
    "MultiStepMAML",
    "Predictor",
    "Reptile",
    "StepReport",
    "adapted_predictor",
    "benchmark",
    "class_prior",
    "evaluate",
    "fine_tuning",
    "linear_probe",
    "named_through",
    "profile_gradient",
    "prototypes",
    "query_gradient",
    "zero_shot",
]
