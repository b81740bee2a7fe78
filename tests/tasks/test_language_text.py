"""A text file as a stream of tokens: its splits, and its words, characters and byte pairs by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from metascale.core.errors import CorruptFile, InputError
from metascale.tasks.supervised.language_text import own_text
from metascale.tasks.supervised.tokens import TokenStream

LINES = [f"line{number} ab  ab." for number in range(20)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "own.txt"
    place.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return place


def spelt(text: TokenStream, split: str) -> list[str]:
    return [text.vocabulary[token] for token in text.tokens[split]]  # type: ignore[index]


def test_lines_are_cut_at_80_and_90_per_cent(path: Path) -> None:
    """16, 2 and 2 of 20 lines, in order; a word of no training line is unknown."""
    text = own_text(path, 20, 4, 2)
    assert spelt(text, "train")[:8] == ["line0", "ab", "ab.", "<eos>", "line1", "ab", "ab.", "<eos>"]
    assert len(text.tokens["train"]) == 16 * 4
    assert spelt(text, "validation") == spelt(text, "test") == ["<unk>", "ab", "ab.", "<eos>"] * 2
    assert text.n_vocab == 16 + 4
    assert text.vocabulary[text.boundary] == "<eos>"
    assert text.n_words == {"train": 64, "validation": 8, "test": 8}
    assert text.describe()["normalisation"] == "perplexity a word, <eos> and <unk> included, vocabulary of 20"


def test_characters_are_those_of_the_file(path: Path) -> None:
    text = own_text(path, 100, 8, 2, unit="character")
    assert spelt(text, "test")[: len(LINES[18]) + 1] == [*LINES[18], "<eos>"]
    assert text.n_vocab == len({*"".join(LINES[:16])}) + 2, "fewer than asked for: the text has no more"


def test_byte_pairs_spell_the_text_again(path: Path) -> None:
    """Space is Ġ in the alphabet of bytes. 'ab' is the most frequent pair, and soon one token with its space."""
    pytest.importorskip("tokenizers")
    path.write_text("\n".join([*LINES, "ä <unk> ", *LINES]) + "\n", encoding="utf-8")
    text = own_text(path, 270, 8, 2, unit="bpe")
    assert text.n_vocab == 270
    ends = "".join(spelt(text, "train")).split("<eos>")
    assert [one.replace("Ġ", " ") for one in ends[:20]] == LINES
    assert ends[20] == "Ã¤Ġ<unk>", "two bytes of ä, and one token for what is unknown"
    assert "<unk>" in spelt(text, "train")
    assert "Ġab" in text.vocabulary
    again = own_text(path, 270, 8, 2, unit="bpe")
    assert again.describe() == text.describe()
    path.write_text("\n".join([*LINES[:16], *["zqzqzq zqzqzq"] * 4]) + "\n", encoding="utf-8")
    learnt = own_text(path, 265, 8, 2, unit="bpe").vocabulary
    assert "ab" in learnt, learnt
    assert not [token for token in learnt if "zq" in token], "nothing is learnt from validation and test"


def test_only_the_start_of_the_training_text(path: Path) -> None:
    text = own_text(path, 20, 4, 2, n_train_tokens=12)
    assert len(text.tokens["train"]) == 12
    assert text.n_vocab == 20, "the vocabulary is that of the whole"
    with pytest.raises(InputError, match=r"n_train_tokens of the text own\.txt must be from 1 to 64, not 65"):
        own_text(path, 20, 4, 2, n_train_tokens=65)


def test_a_file_that_has_changed_is_read_again(path: Path) -> None:
    own_text(path, 20, 4, 2)
    path.write_text("\n".join(f"{line} more" for line in LINES), encoding="utf-8")
    assert "more" in own_text(path, 20, 4, 2).vocabulary


def test_what_is_no_text_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no text file .*absent\.txt"):
        own_text(tmp_path / "absent.txt")
    with pytest.raises(InputError, match=r"n_vocab of the text own\.txt must be from 2 to 20, not 21"):
        own_text(path, 21)
    with pytest.raises(InputError, match=r"in byte pairs must be at least 258 .* not 257"):
        own_text(path, 257, unit="bpe")
    path.write_text("a\n" * 9)
    with pytest.raises(InputError, match="has 9 lines; at least 10 are needed"):
        own_text(path)
    path.write_bytes(b"\xff\xfe\n" * 20)
    with pytest.raises(CorruptFile, match="is not UTF-8 text"):
        own_text(path)
