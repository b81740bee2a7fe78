"""Texts as class tables, Banking77, CLINC150, CSV files and the word encoder."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from metascale.core.errors import CorruptFile, InputError
from metascale.tasks.intents import intent_tasks, read_banking77, read_clinc150
from metascale.tasks.texts import LabelledText, csv_tasks, read_csv, text_table, without_duplicates
from metascale.tasks.words import WordEncoder, words_of


class Letters:
    """Letter by letter, a is 1; padding is 99."""

    pad_id = 99

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(letter) - 96 for letter in text] for text in texts]


def test_texts_are_padded_to_the_longest_of_the_batch() -> None:
    table = text_table("t", [LabelledText("ab", "x"), LabelledText("abcd", "x"), LabelledText("c", "y")], Letters())
    assert table.classes == ("x", "y")
    batch = table.fetch(np.array([[0, 2], [2, 2]]))
    assert batch["input_ids"].tolist() == [[[1, 2], [3, 99]], [[3, 99], [3, 99]]]
    assert batch["attention_mask"].tolist() == [[[1, 1], [1, 0]], [[1, 0], [1, 0]]]
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64
    assert table.fetch(np.array([2]))["input_ids"].shape == (1, 1)
    assert table.fetch(np.array([1]))["input_ids"].tolist() == [[1, 2, 3, 4]]


def test_duplicates_and_ambiguous_texts_are_removed() -> None:
    rows = [
        LabelledText("Where is my card?", "arrival", "train"),
        LabelledText("where  is my CARD ?", "arrival", "test"),
        LabelledText("help", "arrival", "train"),
        LabelledText("Help", "other", "test"),
        LabelledText("where is my card", "arrival", "train"),
    ]
    kept, n_duplicates, n_ambiguous = without_duplicates(rows, ["test", "train"])
    assert kept == [rows[1], rows[4]]
    assert (n_duplicates, n_ambiguous) == (1, 2)
    kept, _, _ = without_duplicates(rows, ["train", "test"])
    assert kept == [rows[0], rows[4]]


def test_a_text_without_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="no token for the text ''"):
        text_table("t", [LabelledText("ab", "x"), LabelledText("", "x")], Letters())
    with pytest.raises(InputError, match="no texts"):
        text_table("t", [], Letters())


def test_word_encoder() -> None:
    encoder = WordEncoder.from_texts(["the card, the bank", "the card"], max_words=2, max_length=3)
    assert encoder.words == ("the", "card")
    assert encoder.n_tokens == 4
    assert encoder(["The card the card", "a card"]) == [[2, 3, 2], [1, 3]]
    assert encoder.pad_id == 0
    with pytest.raises(InputError, match="distinct"):
        WordEncoder(("a", "a"))
    with pytest.raises(InputError, match="max_length"):
        WordEncoder(("a",), max_length=0)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def invented_rows(n_classes: int, n_texts: int, extra: str = "") -> list[tuple[str, str]]:
    return [(f"question {n}{extra}, about topic {c}", f"topic_{c}") for c in range(n_classes) for n in range(n_texts)]


@pytest.fixture
def small_banking(tmp_path: Path) -> Path:
    folder = tmp_path / "banking77"
    folder.mkdir()
    train, test = invented_rows(77, 12), invented_rows(77, 6, " again")
    write_csv(folder / "train.csv", ("text", "category"), [*train, ("question 0 again, about topic 5", "topic_5")])
    write_csv(folder / "test.csv", ("text", "category"), test)
    return tmp_path


def test_banking77_in_its_original_form(small_banking: Path) -> None:
    encoder = WordEncoder.from_texts(row.text for row in read_banking77(small_banking / "banking77"))
    source = intent_tasks("banking77", small_banking, encoder, n_way=20, k_shot=1, n_query=10, download=False)
    described = source.describe()
    assert {split: len(names) for split, names in described["split"].items()} == {
        "train": 37,
        "validation": 20,
        "test": 20,
    }
    assert described["details"]["n_duplicates_removed"] == 1
    assert described["examples_per_class"]["train"] == {"min": 18, "max": 18}
    assert described["details"]["licence"] == "CC BY 4.0"


def test_shared_banking77_tests_on_test_utterances_only(small_banking: Path) -> None:
    encoder = WordEncoder.from_texts(row.text for row in read_banking77(small_banking / "banking77"))
    source = intent_tasks(
        "banking77", small_banking, encoder, k_shot=1, n_query=5, classes="shared", labels="sorted", download=False
    )
    again = encoder(["again"])[0][0]
    for split, is_test in (("train", False), ("validation", False), ("test", True)):
        has_again = (source.episodes(split, range(20)).query.inputs["input_ids"] == again).any(-1)  # type: ignore[arg-type]
        assert bool(has_again.all()) == is_test
        assert bool(has_again.any()) == is_test
    assert source.describe()["examples_per_class"]["test"] == {"min": 6, "max": 6}


@pytest.fixture
def small_clinc(tmp_path: Path) -> Path:
    folder = tmp_path / "clinc150"
    folder.mkdir()
    parts: dict[str, list[list[str]]] = {}
    for key, n_texts in (("train", 8), ("val", 4), ("test", 5)):
        parts[key] = [list(row) for row in invented_rows(150, n_texts, f" {key}")]
        parts[f"oos_{key}"] = [["what is the meaning of it all", "oos"]]
    (folder / "data_full.json").write_text(json.dumps(parts))
    (folder / "data_small.json").write_text(json.dumps({**parts, "train": parts["train"][::2]}))
    domains = {f"domain {d}": [f"topic_{15 * d + i}" for i in range(15)] for d in range(10)}
    (folder / "domains.json").write_text(json.dumps(domains))
    return tmp_path


def test_clinc150_in_its_original_form(small_clinc: Path) -> None:
    encoder = WordEncoder.from_texts(row.text for row in read_clinc150(small_clinc / "clinc150"))
    source = intent_tasks("clinc150", small_clinc, encoder, n_query=10, download=False)
    assert [len(source.split.of(split)) for split in ("train", "validation", "test")] == [90, 30, 30]
    assert source.describe()["examples_per_class"]["test"] == {"min": 17, "max": 17}
    assert "oos" not in source.table.classes
    small = intent_tasks("clinc150", small_clinc, encoder, n_query=5, size="small", download=False)
    assert small.describe()["examples_per_class"]["train"] == {"min": 13, "max": 13}


def test_clinc150_holds_out_whole_domains(small_clinc: Path) -> None:
    encoder = WordEncoder.from_texts(row.text for row in read_clinc150(small_clinc / "clinc150"))
    source = intent_tasks("clinc150", small_clinc, encoder, n_query=10, by_domain=True, download=False)
    domains = {
        split: {int(name.split("_")[1]) // 15 for name in names} for split, names in source.describe()["split"].items()
    }
    assert [len(domains[split]) for split in ("train", "validation", "test")] == [6, 2, 2]
    assert not domains["train"] & domains["test"]
    assert not domains["train"] & domains["validation"]
    assert not domains["validation"] & domains["test"]


def test_damaged_intent_files_are_named(small_banking: Path, small_clinc: Path) -> None:
    encoder = WordEncoder(("question",))
    banking = small_banking / "banking77"
    write_csv(banking / "test.csv", ("text", "label"), invented_rows(77, 2))
    with pytest.raises(CorruptFile, match=r"test\.csv has no column 'category'"):
        intent_tasks("banking77", small_banking, encoder, download=False)
    write_csv(banking / "test.csv", ("text", "category"), invented_rows(76, 2))
    with pytest.raises(CorruptFile, match="76 intents; banking77 has 77"):
        intent_tasks("banking77", small_banking, encoder, download=False)
    clinc = small_clinc / "clinc150"
    (clinc / "domains.json").write_text(json.dumps({"banking": ["topic_0"]}))
    with pytest.raises(CorruptFile, match="no domain for the intent"):
        intent_tasks("clinc150", small_clinc, encoder, by_domain=True, download=False)
    (clinc / "data_full.json").write_text(json.dumps({"train": []}))
    with pytest.raises(CorruptFile, match="0 intents"):
        intent_tasks("clinc150", small_clinc, encoder, download=False)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("banking", {}, "known are banking77, clinc150"),
        ("banking77", {"by_domain": True}, "one domain and one size"),
        ("clinc150", {"size": "tiny"}, "'full' or 'small'"),
    ],
)
def test_bad_intent_settings_are_refused(name: str, settings: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        intent_tasks(name, tmp_path, Letters(), download=False, **settings)  # type: ignore[arg-type]


def test_real_intent_data_has_the_published_counts(data_dir: Path) -> None:
    for name in ("banking77", "clinc150"):
        if not (data_dir / name).exists():
            pytest.skip(f"the data set '{name}' is absent from METASCALE_DATA")
    banking = read_banking77(data_dir / "banking77")
    assert sum(row.origin == "train" for row in banking) == 10_003
    assert sum(row.origin == "test" for row in banking) == 3_080
    clinc = read_clinc150(data_dir / "clinc150")
    assert [sum(row.origin == part for row in clinc) for part in ("train", "validation", "test")] == [15000, 3000, 4500]
    assert sum(row.origin == "train" for row in read_clinc150(data_dir / "clinc150", "small")) == 7500


def test_a_csv_file_needs_no_code(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "tickets.csv", ("id", "text", "label"), [("1", *row) for row in invented_rows(30, 10)])
    encoder = WordEncoder.from_texts(row.text for row in read_csv(path))
    source = csv_tasks(path, encoder, n_way=4, k_shot=2, n_query=8)
    assert {split: len(names) for split, names in source.describe()["split"].items()} == {
        "train": 18,
        "validation": 6,
        "test": 6,
    }
    episode = source.episodes("test", [0, 1])
    assert episode.query.inputs["input_ids"].shape == (2, 32, 6)
    assert source.split != csv_tasks(path, encoder, n_way=4, k_shot=2, n_query=8, split_seed=1).split
    with pytest.raises(InputError, match=r"tickets: 18 of 18 train classes have fewer than 11 examples.* at most 10"):
        csv_tasks(path, encoder, n_way=4, k_shot=3, n_query=8)
    with pytest.raises(InputError, match="7 classes are needed but the validation split has 6"):
        csv_tasks(path, encoder, n_way=7, k_shot=2, n_query=8)


def test_other_column_names_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_bytes("question;x,kind\n".replace(";", ",").encode("utf-8-sig") + "naïve?,1,a\nno,2,b\n".encode())
    rows = read_csv(path, text_column="question", label_column="kind")
    assert rows == [LabelledText("naïve?", "a"), LabelledText("no", "b")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"text,category\na,b\n", "no column 'label'; its columns are text, category"),
        (b"", "no column 'text'; its columns are none"),
        (b"text,label\nhello,x\n,x\n", "line 3: the text is empty"),
        (b"text,label\nhello\n", "line 2, has 1 cell where the header has 2"),
        (b"text,label\n\xff\xfe,x\n", "cannot read"),
        (b"text,label\n", "no texts"),
    ],
)
def test_unusable_csv_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        csv_tasks(path, Letters())


def test_a_missing_csv_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.csv"):
        csv_tasks(tmp_path / "absent.csv", Letters())


ROWS = [f"question {number} on topic {topic},topic_{topic}" for topic in range(13) for number in range(8)]


def refusal(path: Path, lines: Sequence[str], data: bytes = b"") -> str:
    path.write_bytes(data or ("text,label\n" + "\n".join(lines) + "\n").encode())
    with pytest.raises(InputError) as refused:
        read_csv(path)
    return str(refused.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({7: "where, please,topic_0"}, "line 9, has 3 cells where the header has 2"),
        ({7: "where"}, "line 9, has 1 cell where the header has 2"),
        ({7: '"where,topic_0'}, "line 9: the quote that opens a cell of this row is never closed"),
        ({7: '"where,topic_0', 20: '"there,topic_1'}, "line 9: .* ends in the middle of a cell in line 22"),
        ({7: '"where,topic_0', 20: 'there",topic_1'}, r"line 9: a quote opens .* to line 22 .*\(line 10\)"),
        ({7: "where,"}, "line 9: the label is empty"),
        ({7: f"{'long ' * 30_000},topic_0"}, "line 9, has a cell of more than 131,072 characters"),
        ({7: "wh\0ere,topic_0"}, "line 9 holds a NUL"),
    ],
)
def test_a_malformed_row_is_refused_by_its_line(tmp_path: Path, changed: dict[int, str], said: str) -> None:
    message = refusal(tmp_path / "t.csv", [changed.get(place, row) for place, row in enumerate(ROWS)])
    assert re.search(said, message)
    assert "\n" not in message


def test_bytes_that_are_no_utf8_are_refused_by_their_line(tmp_path: Path) -> None:
    said = refusal(tmp_path / "t.csv", (), b"text,label\none,a\ncaf\xe9,b\n")
    assert re.search("line 3 holds the byte 0xe9; save it as UTF-8", said)


def test_quotes_line_breaks_blank_lines_and_delimiters_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b'\xef\xbb\xbflabel;n;text\n\na;1;"one\ntwo; ""three"""\r\nb;2;say "x" twice\n')
    assert read_csv(path) == [LabelledText('one\ntwo; "three"', "a"), LabelledText('say "x" twice', "b")]
    path.write_text("text\tlabel\none, two\ta\n")
    assert read_csv(path) == [LabelledText("one, two", "a")]


def test_what_was_read_and_left_out_is_said_with_counts(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    doubled = ["Question 0 on topic 0,topic_0", *(f"question {number} on topic 5,topic_4" for number in range(8))]
    path.write_text("text,label\n" + "\n".join([*ROWS, *doubled]) + "\n")
    source = csv_tasks(path, WordEncoder(("question",)), n_way=2, k_shot=1, n_query=2, n_train_tasks=5)
    assert source.describe()["details"]["read"] == (
        "t: 113 rows read (UTF-8, comma), 96 kept as texts of 12 classes; 1 left out as duplicates of others; "
        "16 left out because their text has more than one label; 1 class left without a row: topic_5"
    )


def test_one_text_in_two_unicode_forms_is_one(tmp_path: Path) -> None:
    composed, apart = "caf\u00e9 \uff21", "cafe\u0301 A"
    assert words_of(composed) == words_of(apart) == ["caf\u00e9", "a"]
    path = tmp_path / "t.csv"
    path.write_text(f"text,label\n{composed},r\u00e9\n{apart},re\u0301\n")
    rows = read_csv(path)
    assert rows[0] == rows[1] == LabelledText("caf\u00e9 A", "r\u00e9")
    assert without_duplicates(rows, [""])[1:] == (1, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Where's my CARD, Straße №5?", ["where", "'", "s", "my", "card", ",", "strasse", "no5", "?"]),
        ("привет мир 안녕 세계", ["привет", "мир", "안녕", "세계"]),
        ("我的卡ABC在哪。", ["我的", "的卡", "abc", "在哪", "。"]),
        ("カードを", ["カー", "ード", "ドを"]),
        ("好", ["好"]),
        ("บัตรของ", ["บัต", "ัตร", "ตรข", "รขอ", "ของ"]),
    ],
)
def test_words_of_scripts_with_and_without_spaces(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_texts_without_spaces_are_told_apart_almost_as_well_as_with_spaces() -> None:
    draw = np.random.default_rng(0)
    letters = [chr(0x4E00 + number) for number in range(400)]
    words = ["".join(draw.choice(letters, draw.integers(1, 4))) for _ in range(300)]

    def text(topic: int, between: str) -> str:
        own, common = draw.choice(words[topic * 20 : topic * 20 + 20], 4), draw.choice(words[200:], 4)
        return between.join(draw.permutation([*own, *common]))

    def accuracy(between: str) -> float:
        made = [(text(topic, between), topic) for topic in range(10) for _ in range(40)]
        encoder = WordEncoder.from_texts([one for one, _ in made])
        counts = np.zeros((len(made), encoder.n_tokens))
        for row, tokens in zip(counts, encoder([one for one, _ in made]), strict=True):
            np.add.at(row, tokens, 1 / len(tokens))
        topics = np.array([topic for _, topic in made])
        train = np.arange(len(made)) % 40 < 5
        means = np.stack([counts[train & (topics == topic)].mean(0) for topic in range(10)])
        nearest = ((counts[~train][:, None] - means) ** 2).sum(2).argmin(1)
        return float((nearest == topics[~train]).mean())

    with_spaces, without = accuracy(" "), accuracy("")
    # A whole text as one word leaves chance, 0.1.
    assert without > 0.9 * with_spaces > 0.6
