"""Few-shot sources, supervised data, and the registry of data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metascale.core.lazy import lazy

if TYPE_CHECKING:
    from metascale.tasks.csv_rows import LabelledText
    from metascale.tasks.datasets import DATASETS, DataFile, DataReport, DataSet, check, data_folder, get, locate
    from metascale.tasks.digits import digits_tasks
    from metascale.tasks.fewshot import (
        ClassSplit,
        ClassTable,
        EpisodePlan,
        FewShotSettings,
        FewShotTasks,
        pool_position,
        split_sizes,
    )
    from metascale.tasks.groups import GroupTable, GroupTasks
    from metascale.tasks.intents import intent_tasks, read_banking77, read_clinc150
    from metascale.tasks.omniglot import omniglot_tasks
    from metascale.tasks.own import few_shot
    from metascale.tasks.regression import QuadraticTasks, RegressionTasks, SinusoidTasks
    from metascale.tasks.synthetic_text import SyntheticLanguage, synthetic_text_tasks, word_encoder
    from metascale.tasks.texts import TokenLists, csv_tasks, read_csv, text_table, token_lists
    from metascale.tasks.words import BagOfWords, WordEncoder

__all__ = [
    "DATASETS",
    "BagOfWords",
    "ClassSplit",
    "ClassTable",
    "DataFile",
    "DataReport",
    "DataSet",
    "EpisodePlan",
    "FewShotSettings",
    "FewShotTasks",
    "GroupTable",
    "GroupTasks",
    "LabelledText",
    "QuadraticTasks",
    "RegressionTasks",
    "SinusoidTasks",
    "SyntheticLanguage",
    "TokenLists",
    "WordEncoder",
    "check",
    "csv_tasks",
    "data_folder",
    "digits_tasks",
    "few_shot",
    "get",
    "intent_tasks",
    "locate",
    "omniglot_tasks",
    "pool_position",
    "read_banking77",
    "read_clinc150",
    "read_csv",
    "split_sizes",
    "synthetic_text_tasks",
    "text_table",
    "token_lists",
    "word_encoder",
]

__getattr__, __dir__ = lazy(__name__)
