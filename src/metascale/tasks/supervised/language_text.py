"""Texts as streams of tokens: WikiText-2 or a file of one's own, in words, characters or byte pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from metascale.core.errors import CorruptFile, InputError
from metascale.core.optional import require
from metascale.core.types import Split
from metascale.tasks.datasets import locate
from metascale.tasks.supervised.tokens import TokenStream

NAME = "wikitext-2-v1"
FILES: dict[Split, str] = {"train": "train.txt", "validation": "valid.txt", "test": "test.txt"}
UNKNOWN, END = "<unk>", "<eos>"
Unit = Literal["word", "character", "bpe"]
FEWEST_BYTE_PAIRS = 258
"""Tokens of a vocabulary of byte pairs, at least: the 256 bytes, <unk> and <eos>."""
SHARES: tuple[tuple[Split, float], ...] = (("train", 0.8), ("validation", 0.9), ("test", 1.0))
"""Where the splits of an own text end, as shares of its lines."""
FEWEST_LINES = 10

Lines = Mapping[Split, tuple[str, ...]]


class Place(NamedTuple):
    """A folder, or a file in the state of this time (ns): a file that has changed is read again."""

    path: Path
    changed: int = 0


class Encoded(NamedTuple):
    """A vocabulary and the ids of every split."""

    vocabulary: tuple[str, ...]
    tokens: Mapping[Split, np.ndarray]


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
    """WikiText-2 as a stream of tokens: 2,088,628 / 217,646 / 245,569 words with the ends of lines as ``<eos>``.

    Perplexities compare only within one vocabulary: a smaller one sends more words to <unk>, which is easy to predict.

    Args:
        data_dir: the data folder; ``None``: the one that METASCALE_DATA names.
        n_vocab: tokens of the vocabulary, <unk> and <eos> among them. Words: the most frequent of the training text, of
            equally frequent ones those that come first. Characters and byte pairs: the most there may be.
        unit: ``"word"``; ``"character"`` (every word with a space after it, <unk> spelt out, and <eos> as one
            character); ``"bpe"``, byte pairs of bytes learnt on the training text (Sennrich et al. 2016, as in GPT-2),
            with <unk> as one token.
        n_train_tokens: only the first so many training tokens; the vocabulary is that of the whole training text.

    Raises:
        InputError: more words or tokens than there are.
        MissingDependency: ``"bpe"`` without the package `tokenizers`.
    """
    place = Place(locate(NAME, data_dir, only=tuple(FILES.values())))
    n_words = _n_words(_wikitext_lines(place))
    source = "WikiText-2, word level with <unk> (wikitext-2-v1)"
    found = _encoded(_wikitext_lines, place, unit, n_vocab, "WikiText-2")
    sizes = (n_sequence, n_batch, seed)
    return _stream(NAME, source, unit, found, n_words, sizes, n_train_tokens)


def own_text(
    path: Path | str,
    n_vocab: int = 10_000,
    n_sequence: int = 128,
    n_batch: int = 32,
    seed: int = 0,
    *,
    unit: Unit = "word",
    n_train_tokens: int | None = None,
) -> TokenStream:
    """A text file of one's own as a stream of tokens; every line ends in ``<eos>``.

    The first 80 % of the lines are for training, the next 10 % for validation, the last 10 % for the test, in the
    file's order: neighbouring lines are often alike, so that none is drawn at random.

    Args:
        path: a file of UTF-8 text of at least ten lines.
        n_vocab, unit, n_train_tokens: as in `wikitext`; words are what white space separates.

    Raises:
        InputError: no such file, too few lines, or more words or tokens than there are.
        CorruptFile: it is not UTF-8.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"there is no text file {path}", field="path", value=str(path))
    place = Place(path, path.stat().st_mtime_ns)
    n_words = _n_words(_own_lines(place))
    found = _encoded(_own_lines, place, unit, n_vocab, f"the text {path.name}")
    sizes = (n_sequence, n_batch, seed)
    return _stream(path.name, f"an own text, {path.name}", unit, found, n_words, sizes, n_train_tokens)


def _stream(
    name: str,
    source: str,
    unit: Unit,
    found: Encoded,
    n_words: Mapping[Split, int],
    sizes: tuple[int, int, int],
    n_train_tokens: int | None,
) -> TokenStream:
    tokens = dict(found.tokens)
    if n_train_tokens is not None:
        if not 1 <= n_train_tokens <= len(tokens["train"]):
            raise InputError(
                f"n_train_tokens of {_title(name)} must be from 1 to {len(tokens['train'])}, not {n_train_tokens}",
                field="n_train_tokens",
                value=n_train_tokens,
            )
        tokens["train"] = tokens["train"][:n_train_tokens]
    unknown, end = found.vocabulary.index(UNKNOWN), found.vocabulary.index(END)
    kind = {"bpe": "token of byte pairs"}.get(unit, unit)
    details: dict[str, Any] = {
        "source": source,
        "unit": unit,
        "normalisation": f"perplexity a {kind}, <eos> and <unk> included, vocabulary of {len(found.vocabulary):,}",
        "unknown_share": {split: float((text == unknown).mean()) for split, text in tokens.items()},
    }
    return TokenStream(name, found.vocabulary, tokens, end, *sizes, n_words, details)


def _n_words(lines: Lines) -> dict[Split, int]:
    return {split: sum(len(line.split()) + 1 for line in text) for split, text in lines.items()}


def _title(name: str) -> str:
    return "WikiText-2" if name == NAME else f"the text {name}"


@lru_cache(maxsize=2)
def _wikitext_lines(place: Place) -> Lines:
    """The lines of each split, empty ones too, every word with a space after it."""
    read = {split: _read(place.path / name) for split, name in FILES.items()}
    return {split: tuple("".join(f"{word} " for word in line.split()) for line in text) for split, text in read.items()}


@lru_cache(maxsize=2)
def _own_lines(place: Place) -> Lines:
    """The lines of an own text, cut into splits."""
    lines, start = _read(place.path), 0
    if len(lines) < FEWEST_LINES:
        raise InputError(
            f"the text {place.path} has {len(lines)} lines; at least {FEWEST_LINES} are needed, since it is cut into "
            "training, validation and test at ends of lines",
            field="path",
            value=str(place.path),
        )
    found: dict[Split, tuple[str, ...]] = {}
    for split, share in SHARES:
        stop = round(share * len(lines))
        found[split], start = tuple(lines[start:stop]), stop
    return found


def _read(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CorruptFile(f"{path} is not UTF-8 text: {error}") from error


@lru_cache(maxsize=4)
def _encoded(read: Callable[[Place], Lines], place: Place, unit: Unit, n_vocab: int, what: str) -> Encoded:
    """The text at ``place`` in a vocabulary of its training lines."""
    lines = read(place)
    if unit == "bpe":
        return _byte_pairs(lines, n_vocab, what)
    cut = _words if unit == "word" else _characters
    units = {split: tuple(part for line in text for part in (*cut(line), END)) for split, text in lines.items()}
    counts = Counter(units["train"])
    counts.setdefault(UNKNOWN, 0)
    if not 2 <= n_vocab <= len(counts) and unit == "word":
        raise InputError(
            f"n_vocab of {what} must be from 2 to {len(counts)}, not {n_vocab}", field="vocabulary", value=n_vocab
        )
    vocabulary = _vocabulary(counts, n_vocab)
    ids = {token: number for number, token in enumerate(vocabulary)}
    return Encoded(vocabulary, {split: _encode(text, ids) for split, text in units.items()})


def _words(line: str) -> Iterable[str]:
    return line.split()


def _characters(line: str) -> Iterable[str]:
    return line


def _vocabulary(counts: Counter[str], n_vocab: int) -> tuple[str, ...]:
    """The most frequent tokens, with <unk> and <eos> among them."""
    common = [token for token, _ in counts.most_common() if token not in (UNKNOWN, END)]
    return (UNKNOWN, END, *common[: n_vocab - 2])


def _encode(tokens: Iterable[str], ids: dict[str, int]) -> np.ndarray:
    unknown = ids[UNKNOWN]
    return np.fromiter((ids.get(token, unknown) for token in tokens), dtype=np.int32)


def _byte_pairs(lines: Lines, n_vocab: int, what: str) -> Encoded:
    """Byte pairs learnt on the training lines, by Hugging Face's `tokenizers`, without white space at ends of lines.

    Raises:
        InputError: a vocabulary that cannot hold all bytes.
    """
    if n_vocab < FEWEST_BYTE_PAIRS:
        raise InputError(
            f"the vocabulary of {what} in byte pairs must be at least {FEWEST_BYTE_PAIRS} (256 bytes, <unk> and "
            f"<eos>), not {n_vocab}",
            field="vocabulary",
            value=n_vocab,
        )
    library = require("tokenizers", "text", "a text in byte pairs (unit=bpe)")
    coder = library.Tokenizer(library.models.BPE())
    coder.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = library.trainers.BpeTrainer(
        vocab_size=n_vocab,
        special_tokens=[UNKNOWN, END],
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # <unk> in the text is one token: its letters are nothing to learn pairs from.
    coder.train_from_iterator((line.replace(UNKNOWN, "").rstrip() for line in lines["train"]), trainer)
    end = coder.token_to_id(END)
    tokens = {}
    for split, text in lines.items():
        coded = coder.encode_batch([line.rstrip() for line in text])
        tokens[split] = np.fromiter((token for line in coded for token in (*line.ids, end)), dtype=np.int32)
    known = coder.get_vocab()
    return Encoded(tuple(sorted(known, key=known.__getitem__)), tokens)
