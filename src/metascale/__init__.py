"""Meta-train models, vary any scale axis in a resumable study, and get a scaling law with honest error bars.

Everyday names are here (``import metascale as ms``); the rooms hold the rest: ``ms.bilevel.SAMA``, ``ms.laws.grouped``.
Importing the package is cheap: a name loads its module, and torch where it needs it, when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale import (  # noqa: F401  (the rooms, for type checkers)
        bilevel,
        core,
        hypergrad,
        integrations,
        laws,
        meta,
        models,
        parallel,
        recipes,
        report,
        study,
        tasks,
        testing,
        training,
        workflow,
    )
    from metascale.core import Batch, Diverged, Episode, InputError, MetascaleError, episode
    from metascale.core.version import __version__
    from metascale.laws import (
        backtest,
        fit,
        fit_many,
        forecast,
        load_law,
        next_runs,
        optimum,
        read_table,
        simulate_table,
    )
    from metascale.meta import FOMAML, MAML, InnerLoop, MetaLearner, Reptile, benchmark, evaluate
    from metascale.models import Module, Perceptron
    from metascale.models.text import LoRA
    from metascale.study import Study
    from metascale.tasks import digits_tasks, few_shot
    from metascale.training import SGD, Adam
    from metascale.workflow import Place, run

__all__ = [
    "FOMAML",
    "MAML",
    "SGD",
    "Adam",
    "Batch",
    "Diverged",
    "Episode",
    "InnerLoop",
    "InputError",
    "LoRA",
    "MetaLearner",
    "MetascaleError",
    "Module",
    "Perceptron",
    "Place",
    "Reptile",
    "Study",
    "__version__",
    "backtest",
    "benchmark",
    "digits_tasks",
    "episode",
    "evaluate",
    "few_shot",
    "fit",
    "fit_many",
    "forecast",
    "load_law",
    "next_runs",
    "optimum",
    "read_table",
    "run",
    "simulate_table",
]

__getattr__, __dir__ = lazy(__name__)
