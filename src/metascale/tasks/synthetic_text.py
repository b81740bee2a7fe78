"""Synthetic text classification with a difficulty dial: no download, and the best possible accuracy is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np

from metascale.core.errors import InputError
from metascale.core.streams import generator
from metascale.core.types import Encoder
from metascale.tasks.csv_rows import LabelledText
from metascale.tasks.fewshot import ClassSplit, FewShotSettings, FewShotTasks, split_sizes
from metascale.tasks.texts import text_table
from metascale.tasks.words import WordEncoder

if TYPE_CHECKING:
    from typing_extensions import Unpack

_SYLLABLES = tuple(first + second for first, second in product("bdfgklmnprstvz", "aeiou"))


@dataclass(frozen=True)
class SyntheticLanguage:
    """Classes are word distributions; every word of a text is drawn independently from the one of its class.

    Words belong to topics, and a class is a pair of topics. With w = (1 - difficulty)^2 its distribution is

        w * (half on each of its two topics, uniform over their words) + (1 - w) * (a background common to all classes)

    so at difficulty 0 texts are made of their topics' words only, and at 1 all classes are the same. Topics are shared
    by training and test classes, the pairs are not: what can be meta-learnt is which words belong together.

    Args:
        n_classes: at most n_topics * (n_topics - 1) / 2.
        texts_per_class: how many texts are made of each class.
        words_per_text: length of a text.
        seed: the words, the classes and the texts; the same for every training seed.
    """

    difficulty: float = 0.5
    n_classes: int = 100
    n_topics: int = 16
    words_per_topic: int = 8
    words_per_text: int = 12
    texts_per_class: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.difficulty <= 1:
            raise InputError(f"synthetic text: difficulty must be between 0 and 1, not {self.difficulty}")
        for name in ("words_per_topic", "words_per_text", "texts_per_class"):
            if getattr(self, name) < 1:
                raise InputError(f"synthetic text: {name} must be at least 1, not {getattr(self, name)}")
        n_pairs = self.n_topics * (self.n_topics - 1) // 2
        if not 2 <= self.n_classes <= n_pairs:
            raise InputError(
                f"synthetic text: n_classes must be between 2 and {n_pairs} (the pairs of {self.n_topics} topics), "
                f"not {self.n_classes}"
            )
        if self.n_words > len(_SYLLABLES) ** 2:
            raise InputError(f"synthetic text: {self.n_words} words are too many; {len(_SYLLABLES) ** 2} are allowed")

    @property
    def n_words(self) -> int:
        """Size of the vocabulary."""
        return self.n_topics * self.words_per_topic

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The vocabulary; words of topic k are at places k * words_per_topic and on."""
        rng = generator(self.seed, "synthetic-words")
        pairs = list(product(_SYLLABLES, repeat=2))
        return tuple("".join(pairs[place]) for place in rng.permutation(len(pairs))[: self.n_words])

    @cached_property
    def topics_of_class(self) -> tuple[tuple[int, int], ...]:
        """The two topics of each class."""
        pairs = list(combinations(range(self.n_topics), 2))
        order = generator(self.seed, "synthetic-classes").permutation(len(pairs))
        return tuple(pairs[place] for place in order[: self.n_classes])

    @cached_property
    def word_probabilities(self) -> np.ndarray:
        """[n_classes, n_words] the distribution of each class."""
        weight = (1.0 - self.difficulty) ** 2
        # Zipf's law over the words in an order of its own, so that frequent words are spread over the topics.
        rank = generator(self.seed, "synthetic-background").permutation(self.n_words) + 1
        background = (1.0 / rank) / (1.0 / rank).sum()
        topics = np.zeros((self.n_classes, self.n_topics))
        for index, pair in enumerate(self.topics_of_class):
            topics[index, list(pair)] = 0.5 / self.words_per_topic
        own: np.ndarray = weight * np.repeat(topics, self.words_per_topic, axis=1)
        own += (1.0 - weight) * background
        return own

    @cached_property
    def drawn_words(self) -> np.ndarray:
        """[n_classes, texts_per_class, words_per_text] the word numbers of every text."""
        shape = (self.texts_per_class, self.words_per_text)
        return np.stack(
            [
                generator(self.seed, "synthetic-texts", index).choice(self.n_words, size=shape, p=probabilities)
                for index, probabilities in enumerate(self.word_probabilities)
            ]
        )

    def rows(self) -> list[LabelledText]:
        """Every text with its class, named by its topics."""
        words = self.words
        return [
            LabelledText(" ".join(words[place] for place in text), f"topics {first} and {second}")
            for (first, second), texts in zip(self.topics_of_class, self.drawn_words, strict=True)
            for text in texts
        ]

    def bayes_accuracy(self, n_way: int, n_tasks: int = 400) -> float:
        """The accuracy of knowing every distribution exactly: what no learner can beat, averaged over random tasks.

        Words are independent given the class, so naive Bayes with the true distributions is the Bayes classifier.
        """
        with np.errstate(divide="ignore"):
            log_probabilities = np.log(self.word_probabilities)
        correct = []
        for task in range(n_tasks):
            rng = generator(self.seed, "synthetic-bayes", n_way, task)
            chosen = rng.permutation(self.n_classes)[:n_way]
            texts = np.stack([self.drawn_words[index, rng.integers(self.texts_per_class)] for index in chosen])
            scores = log_probabilities[chosen][:, texts].sum(2)
            ties = scores == scores.max(0)
            correct.append((ties.diagonal() / ties.sum(0)).mean())
        return float(np.mean(correct))


def synthetic_text_tasks(
    encoder: Encoder | None = None,
    difficulty: float = 0.5,
    *,
    n_classes: int = 100,
    language_seed: int = 0,
    split_seed: int = 0,
    split_fractions: tuple[float, float, float] = (0.6, 0.2, 0.2),
    language: SyntheticLanguage | None = None,
    **settings: Unpack[FewShotSettings],
) -> FewShotTasks:
    """Few-shot synthetic texts; inputs ``{"input_ids", "attention_mask"}`` [T, B, S] int64.

    Args:
        encoder: a tokenizer; ``None``: one token a word (``word_encoder(language)``).
        difficulty: 0 (disjoint topics' words only) to 1 (classes cannot be told apart).
        language: a language with other settings; then ``difficulty``, ``n_classes`` and ``language_seed`` are its own.
        settings: fields of `FewShotTasks` (by default 5-way 5-shot).
    """
    spoken = language or SyntheticLanguage(difficulty=difficulty, n_classes=n_classes, seed=language_seed)
    details = {
        "source": "synthetic",
        "difficulty": spoken.difficulty,
        "words_per_text": spoken.words_per_text,
        "n_words": spoken.n_words,
        "language_seed": spoken.seed,
        "bayes_accuracy": spoken.bayes_accuracy(settings.get("n_way", 5)),
    }
    table = text_table("synthetic-text", spoken.rows(), encoder or word_encoder(spoken), details=details)
    sizes = split_sizes(table.name, len(table.classes), split_fractions)
    split = ClassSplit.draw(table.name, table.classes, sizes, split_seed)
    chosen: FewShotSettings = {"k_shot": 5, **settings}
    return FewShotTasks(table, split, **chosen)


def word_encoder(language: SyntheticLanguage) -> WordEncoder:
    """One token for each word of the language."""
    return WordEncoder(language.words, language.words_per_text)
