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
    from metascale.core.errors import Diverged, InputError, MetascaleError
    from metascale.core.version import __version__
    from metascale.laws.allocation import optimum
    from metascale.laws.analysis import fit
    from metascale.laws.backtesting import backtest
    from metascale.laws.forecasting import forecast
    from metascale.laws.table import read_table
    from metascale.meta.evaluate import evaluate
    from metascale.meta.gradients import FOMAML, MAML, Reptile
    from metascale.meta.inner import InnerLoop
    from metascale.meta.learner import MetaLearner
    from metascale.models.perceptron import Perceptron
    from metascale.study.design import Study
    from metascale.tasks.digits import digits_tasks
    from metascale.training.optimizers import SGD, Adam
    from metascale.workflow.launch import run

__all__ = [
    "FOMAML",
    "MAML",
    "SGD",
    "Adam",
    "Diverged",
    "InnerLoop",
    "InputError",
    "MetaLearner",
    "MetascaleError",
    "Perceptron",
    "Reptile",
    "Study",
    "__version__",
    "backtest",
    "digits_tasks",
    "evaluate",
    "fit",
    "forecast",
    "optimum",
    "read_table",
    "run",
]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "FOMAML": "metascale.meta.gradients",
        "MAML": "metascale.meta.gradients",
        "Perceptron": "metascale.models.perceptron",
        "SGD": "metascale.training.optimizers",
        "Adam": "metascale.training.optimizers",
        "Diverged": "metascale.core.errors",
        "InnerLoop": "metascale.meta.inner",
        "InputError": "metascale.core.errors",
        "MetaLearner": "metascale.meta.learner",
        "MetascaleError": "metascale.core.errors",
        "Reptile": "metascale.meta.gradients",
        "Study": "metascale.study.design",
        "__version__": "metascale.core.version",
        "backtest": "metascale.laws.backtesting",
        "digits_tasks": "metascale.tasks.digits",
        "evaluate": "metascale.meta.evaluate",
        "fit": "metascale.laws.analysis",
        "forecast": "metascale.laws.forecasting",
        "optimum": "metascale.laws.allocation",
        "read_table": "metascale.laws.table",
        "run": "metascale.workflow.launch",
    },
    subpackages=(
        *("bilevel", "core", "hypergrad", "integrations", "laws", "meta", "models", "parallel", "recipes", "report"),
        *("study", "tasks", "testing", "training", "workflow"),
    ),
)
