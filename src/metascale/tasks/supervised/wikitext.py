"""WikiText-2 (Merity et al. 2016), the version with <unk>: words of a stated vocabulary, or characters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from metascale.core.errors import CorruptFile, InputError
from metascale.core.types import Split
from metascale.tasks.data import locate
from metascale.tasks.supervised.token_stream import TokenStream

NAME = "wikitext-2-v1"
FILES: dict[Split, str] = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}
UNKNOWN, END = "<unk>", "<eos>"
Unit = Literal["word", "character"]


def wikitext(
    data_dir: Path | str | None = None,
    n_vocab: int = 10_000,
    n_sequence: int = 128,
    n_batch: int = 32,
    seed: int = 0,
    *,
    unit: Unit = "word",
    n_train_tokens: int | None = None,
) -> TokenStream:
    """WikiText-2 as a stream of tokens: 2,088,628 / 217,646 / 245,569 words with the ends of lines as <eos>.

    Perplexities compare only within one vocabulary: a smaller one sends more words to <unk>, which is easy to predict.

    Args:
        data_dir: the data folder; ``None``: the one that METASCALE_DATA names.
        n_vocab: words of the vocabulary, <unk> and <eos> among them: the most frequent of the training text, of equally
            frequent ones those that come first. For characters, the most there may be.
        unit: ``"word"`` or ``"character"`` (of the text with its <unk> spelt out, and <eos> as one character).
        n_train_tokens: only the first so many training tokens; the vocabulary is that of the whole training text.

    Raises:
        InputError: the files are missing, or an argument is out of range.
    """
    words = _words(locate(NAME, data_dir, only=tuple(FILES.values())))
    units = words if unit == "word" else {split: _characters(text) for split, text in words.items()}
    counts = Counter(units["train"])
    counts.setdefault(UNKNOWN, 0)
    if not 2 <= n_vocab <= len(counts) and unit == "word":
        raise InputError(f"n_vocab of WikiText-2 must be from 2 to {len(counts)}, not {n_vocab}")
    vocabulary = _vocabulary(counts, n_vocab)
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokens = {split: _encode(text, ids) for split, text in units.items()}
    if n_train_tokens is not None:
        if not 1 <= n_train_tokens <= len(tokens["train"]):
            raise InputError(
                f"n_train_tokens of WikiText-2 must be from 1 to {len(tokens['train'])}, not {n_train_tokens}"
            )
        tokens["train"] = tokens["train"][:n_train_tokens]
    details: dict[str, Any] = {
        "source": "WikiText-2, word level with <unk> (wikitext-2-v1)",
        "unit": unit,
        "normalisation": f"perplexity a {unit}, <eos> and <unk> included, vocabulary of {len(vocabulary):,}",
        "unknown_share": {split: float((text == ids[UNKNOWN]).mean()) for split, text in tokens.items()},
    }
    n_words = {split: len(text) for split, text in words.items()}
    return TokenStream(NAME, vocabulary, tokens, ids[END], n_sequence, n_batch, seed, n_words, details)


@lru_cache(maxsize=2)
def _words(folder: Path) -> dict[Split, tuple[str, ...]]:
    """The words of each split, every line (empty ones too) ended by <eos>."""
    result: dict[Split, tuple[str, ...]] = {}
    for split, name in FILES.items():
        try:
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise CorruptFile(f"{folder / name} is not UTF-8 text: {error}") from error
        result[split] = tuple(word for line in lines for word in (*line.split(), END))
    return result


def _characters(words: Iterable[str]) -> tuple[str, ...]:
    """Words as their characters with a space after each; <eos> stays one token."""
    return tuple(part for word in words for part in ((END,) if word == END else (*word, " ")))


def _vocabulary(counts: Counter[str], n_vocab: int) -> tuple[str, ...]:
    """The most frequent tokens, with <unk> and <eos> among them."""
    common = [token for token, _ in counts.most_common() if token not in (UNKNOWN, END)]
    return (UNKNOWN, END, *common[: n_vocab - 2])


def _encode(tokens: Iterable[str], ids: dict[str, int]) -> np.ndarray:
    unknown = ids[UNKNOWN]
    return np.fromiter((ids.get(token, unknown) for token in tokens), dtype=np.int32)
