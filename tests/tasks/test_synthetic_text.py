"""The synthetic language and its difficulty dial."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from metascale.core.errors import InputError
from metascale.tasks.synthetic_text import SyntheticLanguage, synthetic_text_tasks, word_encoder

DIAL = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def fitted_naive_bayes_accuracy(difficulty: float) -> float:
    """Episodes classified by word counts of a large support set: an oracle that never saw the true distributions."""
    language = SyntheticLanguage(difficulty=difficulty, n_classes=40, texts_per_class=100)
    source = synthetic_text_tasks(language=language, k_shot=80, n_query=10, n_test_tasks=30, n_validation_tasks=1)
    episode = source.episodes("test", range(30))
    n_tokens = word_encoder(language).n_tokens
    hits = []
    for task in range(30):
        tokens = episode.support.inputs["input_ids"][task].numpy()
        labels = episode.support.targets[task].numpy()
        counts = np.stack([np.bincount(tokens[labels == label].ravel(), minlength=n_tokens) for label in range(5)])
        log_p = np.log((counts + 0.1) / (counts + 0.1).sum(1, keepdims=True))
        scores = log_p[:, episode.query.inputs["input_ids"][task].numpy()].sum(-1)
        hits.append(scores.argmax(0) == episode.query.targets[task].numpy())
    return float(np.mean(hits))


def test_the_bayes_accuracy_falls_with_the_dial_from_certainty_to_chance() -> None:
    found = [SyntheticLanguage(difficulty=difficulty).bayes_accuracy(5) for difficulty in DIAL]
    assert all(later < earlier - 0.005 for earlier, later in pairwise(found))
    assert found[0] > 0.99
    assert found[-1] == pytest.approx(0.2)


def test_naive_bayes_on_episodes_falls_with_the_dial_and_stays_below_the_bound() -> None:
    found = [fitted_naive_bayes_accuracy(difficulty) for difficulty in DIAL]
    assert all(later < earlier + 0.01 for earlier, later in pairwise(found))
    assert found[0] > 0.98
    assert found[-1] == pytest.approx(0.2, abs=0.04)
    for difficulty, accuracy in zip(DIAL, found, strict=True):
        bound = SyntheticLanguage(difficulty=difficulty, n_classes=40).bayes_accuracy(5, n_tasks=2000)
        assert accuracy < bound + 0.04  # 1,500 queries: 3 standard errors of 0.013


def test_word_probabilities_are_distributions_that_meet_at_one() -> None:
    for difficulty in DIAL:
        p = SyntheticLanguage(difficulty=difficulty).word_probabilities
        np.testing.assert_allclose(p.sum(1), 1)
        assert (p >= 0).all()
    assert np.ptp(p, axis=0).max() < 1e-15
    easy = SyntheticLanguage(difficulty=0).word_probabilities
    assert ((easy > 0).sum(1) == 16).all()  # two topics of eight words


def test_texts_are_drawn_from_their_class() -> None:
    language = SyntheticLanguage(difficulty=0.3, n_classes=4, n_topics=4, texts_per_class=3000)
    for drawn, p in zip(language.drawn_words, language.word_probabilities, strict=True):
        counts = np.bincount(drawn.ravel(), minlength=language.n_words)
        expected = p * drawn.size
        assert ((counts - expected) ** 2 / expected).sum() < 75  # chi-square, 31 degrees of freedom, p < 0.0001


def test_the_language_does_not_depend_on_the_training_seed() -> None:
    first, second = synthetic_text_tasks(seed=0), synthetic_text_tasks(seed=1)
    assert first.split == second.split
    assert (
        first.episodes("test", [0])
        .query.inputs["input_ids"]
        .equal(second.episodes("test", [0]).query.inputs["input_ids"])
    )
    other = synthetic_text_tasks(language_seed=1)
    assert first.table.classes != other.table.classes
    assert first.describe()["details"]["bayes_accuracy"] == SyntheticLanguage().bayes_accuracy(5)


def test_texts_suit_any_encoder() -> None:
    class Lengths:
        pad_id = 7

        def __call__(self, texts: list[str]) -> list[list[int]]:
            return [[len(word) for word in text.split()] for text in texts]

    source = synthetic_text_tasks(Lengths(), difficulty=0.2)
    assert set(source.episodes("train", [0]).support.inputs["input_ids"].unique().tolist()) <= {4, 5, 6, 7}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"difficulty": 1.5}, "between 0 and 1, not 1.5"),
        ({"difficulty": float("nan")}, "between 0 and 1"),
        ({"n_classes": 121}, "between 2 and 120"),
        ({"texts_per_class": 0}, "texts_per_class must be at least 1"),
        ({"n_topics": 100, "words_per_topic": 100}, "10000 words are too many"),
    ],
)
def test_bad_languages_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SyntheticLanguage(**settings)  # type: ignore[arg-type]
