"""What a source of tasks is where nothing is said: its draws depend on all of it."""

from __future__ import annotations

from metascale.tasks.datasets import DataFile, FileReport
from metascale.tasks.fewshot import ClassTable, FewShotTasks
from metascale.tasks.groups import GroupTable, GroupTasks
from metascale.tasks.labelled import Labelled
from metascale.tasks.regression import QuadraticTasks, SinusoidTasks
from metascale.tasks.supervised.images import ImageSet
from metascale.tasks.supervised.tokens import TokenStream
from metascale.tasks.synthetic_text import SyntheticLanguage
from metascale.tasks.tables import Features
from metascale.tasks.words import BagOfWords, WordEncoder
from tests.defaults import defaults

SEEDS = {"seed": 0, "eval_seed": 0}


def test_few_shot_tasks() -> None:
    assert defaults(FewShotTasks) == {
        "n_way": 5, "k_shot": 1, "n_query": 15, "n_train_tasks": 100, "n_validation_tasks": 100, "n_test_tasks": 200,
        "n_train_classes": None, "labels": "permuted", "classes": "disjoint", "train_n_way": None, **SEEDS,
    }  # fmt: skip
    assert defaults(GroupTasks) == {
        "k_shot": 10, "n_query": 15, "n_train_tasks": None, "n_validation_tasks": 100, "n_test_tasks": 600, **SEEDS,
    }  # fmt: skip
    assert defaults(QuadraticTasks) == {
        "dimension": 4, "spread": 1.0, "noise": 0.0, "k_shot": 1, "n_query": 1, "n_train_tasks": None,
        "n_validation_tasks": 20, "n_test_tasks": 20, **SEEDS,
    }  # fmt: skip
    assert defaults(SinusoidTasks) == {
        "k_shot": 10, "n_query": 10, "n_train_tasks": None, "n_validation_tasks": 100, "n_test_tasks": 200, **SEEDS,
    }  # fmt: skip
    assert defaults(SyntheticLanguage) == {
        "difficulty": 0.5, "n_classes": 100, "n_topics": 16, "words_per_topic": 8, "words_per_text": 12,
        "texts_per_class": 100, "seed": 0,
    }  # fmt: skip


def test_data() -> None:
    assert defaults(ClassTable) == {"examples_by_split": None, "details": {}}
    assert defaults(GroupTable) == {"details": {}, "target_mean": 0.0, "target_sd": 1.0}
    assert defaults(Labelled) == {"parts": ()}
    assert defaults(ImageSet) == {
        "n_classes": 10, "n_batch": 128, "n_evaluation_batch": 1000, "seed": 0, "details": None,
    }  # fmt: skip
    assert defaults(TokenStream) == {"n_sequence": 128, "n_batch": 32, "seed": 0, "n_words": None, "details": None}
    assert defaults(Features) == {"categorical": frozenset()}
    assert defaults(BagOfWords) == {"length": None}
    assert defaults(WordEncoder) == {"max_length": 64}
    assert defaults(DataFile) == {"form": "plain", "sha256": None, "n_drawings": None}
    assert defaults(FileReport) == {"note": ""}
