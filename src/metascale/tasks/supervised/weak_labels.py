"""Texts with weak labels: a training set labelled by votes of labelling functions, and small clean sets.

The data of noisy fine-tuning as a bilevel problem: the lower level learns from the weak labels of ``noisy``, the upper
level from the true labels of ``upper``; ``selection`` chooses among models, and ``test`` is for the end alone. Both
``upper`` and ``selection`` come out of the published validation set, at random.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import read_json
from metascale.core.streams import generator
from metascale.core.types import Encoder
from metascale.tasks.csv_rows import LabelledText
from metascale.tasks.datasets import DATASETS, locate
from metascale.tasks.texts import TokenLists, token_lists

WEAK_SETS = ("wrench_youtube", "wrench_trec", "wrench_sms")
ABSTAIN = -1


class TextInputs(Protocol):
    """What a model reads of some texts, by their numbers: named tensors with a row a text."""

    def __len__(self) -> int: ...

    def __call__(self, ids: np.ndarray) -> dict[str, torch.Tensor]: ...

    def subset(self, ids: np.ndarray) -> TextInputs:
        """These texts alone."""
        ...


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """Numbers [n, d] that describe n texts, instead of their tokens: ``{"features": [B, d]}``."""

    values: torch.Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __call__(self, ids: np.ndarray) -> dict[str, torch.Tensor]:
        return {"features": self.values[torch.from_numpy(ids)]}

    def subset(self, ids: np.ndarray) -> TextFeatures:
        """These texts alone."""
        return TextFeatures(self(ids)["features"])


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """n texts with the labels that training sees, and the true ones.

    Args:
        tokens: the texts, tokenised or as features.
        targets: [n] int64 labels to learn from: weak ones, or the true ones of a clean set.
        truth: [n] int64 true labels, for diagnosis of a weak set only.
        votes: [n, functions] int64 votes of the labelling functions, −1 where one abstains.
    """

    tokens: TextInputs
    targets: np.ndarray
    truth: np.ndarray
    votes: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def wrong(self) -> float:
        """The share of targets that are not the truth."""
        return float((self.targets != self.truth).mean())

    def batch(self, ids: Sequence[int] | np.ndarray) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The texts' inputs and targets [B]. Inputs of tokens are ``{"input_ids", "attention_mask"}`` [B, S] int64,
        padded to the longest of these texts; of features, ``{"features"}`` [B, d].
        """
        chosen = np.asarray(ids, np.int64)
        return self.tokens(chosen), torch.from_numpy(self.targets[chosen])

    def subset(self, ids: np.ndarray) -> LabelledTexts:
        """These texts alone."""
        return LabelledTexts(self.tokens.subset(ids), self.targets[ids], self.truth[ids], self.votes[ids])


@dataclass(frozen=True, eq=False)
class WeakLabelData:
    """A data set with weak labels in its four parts; ``classes`` are the names of the labels."""

    name: str
    classes: tuple[str, ...]
    noisy: LabelledTexts
    upper: LabelledTexts
    selection: LabelledTexts
    test: LabelledTexts
    n_uncovered: int

    def as_features(self, features: Callable[[TokenLists], torch.Tensor]) -> WeakLabelData:
        """The same texts read as features [n, d], which are made for each part from its tokens."""

        def read(part: LabelledTexts) -> LabelledTexts:
            assert isinstance(part.tokens, TokenLists), "these texts are features already"
            return replace(part, tokens=TextFeatures(features(part.tokens).cpu()))

        noisy, upper, selection, test = map(read, (self.noisy, self.upper, self.selection, self.test))
        return replace(self, noisy=noisy, upper=upper, selection=selection, test=test)

    def with_few_clean(self, n: int, seed: int) -> WeakLabelData:
        """n texts of ``upper`` and n of ``selection`` alone, drawn by ``seed``; a larger n holds those of a smaller.

        Raises:
            InputError: there are fewer.
        """
        available = min(len(self.upper), len(self.selection))
        if n > available:
            raise InputError(
                f"n_clean={n}, and as many texts to choose among steps, are more than '{self.name}' has: its clean "
                f"texts allow n_clean={available} at most",
                field="n_clean",
                value=n,
            )

        def drawn(part: LabelledTexts, purpose: str) -> LabelledTexts:
            return part.subset(generator(seed, "few-clean", purpose).permutation(len(part))[:n])

        return replace(self, upper=drawn(self.upper, "upper"), selection=drawn(self.selection, "selection"))

    def describe(self) -> dict[str, Any]:
        """JSON for the run's record: sizes, and how many weak labels are wrong."""
        known = DATASETS[self.name]
        return {
            "name": self.name,
            "licence": known.licence,
            "citation": known.citation,
            "sha256": {file.path: file.sha256 for file in known.files},
            "classes": list(self.classes),
            "n_noisy": len(self.noisy),
            "n_upper": len(self.upper),
            "n_selection": len(self.selection),
            "n_test": len(self.test),
            "n_without_votes": self.n_uncovered,
            "wrong_weak_labels": self.noisy.wrong,
        }


def majority_vote(votes: np.ndarray, n_classes: int, seed: int) -> np.ndarray:
    """[n] the class with most votes; ties and texts without a vote are drawn by ``seed`` among the classes in the lead.

    Args:
        votes: [n, functions] classes, −1 for an abstention.
    """
    counts = np.stack([(votes == label).sum(1) for label in range(n_classes)], axis=1)
    # A draw below one decides between equal counts and can never turn the order of different ones.
    draws = generator(seed, "majority-vote").random(counts.shape)
    winners: np.ndarray = (counts + draws).argmax(1)
    return winners.astype(np.int64)


def weak_label_data(
    name: str,
    encoder: Encoder,
    seed: int = 0,
    *,
    uncovered: Literal["drop", "random"] = "drop",
    upper_fraction: float = 0.5,
    data_dir: Path | str | None = None,
    download: bool = False,
) -> WeakLabelData:
    """A WRENCH data set: ``wrench_youtube``, ``wrench_trec`` or ``wrench_sms``.

    Args:
        encoder: turns texts into token ids.
        seed: of vote ties and of the halves of the clean set; the same in every trial of a study.
        uncovered: training texts without a vote are left out, or get a random label.
        upper_fraction: the share of the clean validation set that the upper level learns from.

    Raises:
        InputError: an unknown set, files missing, or a fraction that leaves one of the clean sets empty.
        CorruptFile: the files do not have the published form.
    """
    if name not in WEAK_SETS:
        raise InputError(f"there are no weak labels for '{name}'; there are: {', '.join(WEAK_SETS)}")
    folder = locate(name, data_dir, download=download)
    labels: Mapping[str, str] = read_json(folder / "label.json")
    held_back = set(read_json(folder / "labeled_ids.json")["labeled_ids"])
    names = tuple(labels[key] for key in sorted(labels, key=int))
    train, valid, test = (
        _read(name, folder / f"{part}.json", names, encoder, held_back if part == "train" else set())
        for part in ("train", "valid", "test")
    )
    covered = (train.votes != ABSTAIN).any(1)
    n_uncovered = int((~covered).sum())
    if uncovered == "drop":
        train = train.subset(np.flatnonzero(covered))
    noisy = replace(train, targets=majority_vote(train.votes, len(names), seed))
    upper, selection = _halves(name, valid, upper_fraction, seed)
    return WeakLabelData(name, names, noisy, upper, selection, test, n_uncovered)


def weak_label_texts(name: str, data_dir: Path | str | None = None) -> list[str]:
    """The training texts of a WRENCH set, of which a vocabulary is made."""
    return [row["data"]["text"] for row in read_json(locate(name, data_dir) / "train.json").values()]


def _halves(name: str, clean: LabelledTexts, fraction: float, seed: int) -> tuple[LabelledTexts, LabelledTexts]:
    size = round(fraction * len(clean))
    if not 0 < size < len(clean):
        raise InputError(
            f"upper_fraction {fraction} of the {len(clean)} clean texts of '{name}' leaves one part empty; "
            "it lies between 0 and 1"
        )
    order = generator(seed, "clean-halves").permutation(len(clean))
    return clean.subset(np.sort(order[:size])), clean.subset(np.sort(order[size:]))


def _read(name: str, path: Path, names: tuple[str, ...], encoder: Encoder, held_back: set[str]) -> LabelledTexts:
    rows = {key: row for key, row in read_json(path).items() if key not in held_back}
    try:
        texts = [LabelledText(row["data"]["text"], names[row["label"]]) for row in rows.values()]
        truth = np.array([row["label"] for row in rows.values()], np.int64)
        votes = np.array([row["weak_labels"] for row in rows.values()], np.int64)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise CorruptFile(f"{path} does not have the form of a WRENCH file: {error}") from error
    if votes.ndim != 2 or votes.min() < ABSTAIN or votes.max() >= len(names):
        raise CorruptFile(f"{path} holds votes outside of -1 to {len(names) - 1}")
    return LabelledTexts(token_lists(name, texts, encoder), truth, truth, votes)
