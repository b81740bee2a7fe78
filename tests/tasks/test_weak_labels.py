"""Weak labels: majority votes, the parts of a WRENCH set, and damaged files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from metascale.core.errors import CorruptFile, InputError
from metascale.tasks.datasets import DATASETS
from metascale.tasks.supervised.weak_labels import WEAK_SETS, WeakLabelData, majority_vote, weak_label_data
from metascale.tasks.words import WordEncoder

ENCODER = WordEncoder(("spam", "check", "song"), max_length=8)


def _real(name: str) -> WeakLabelData:
    root = os.environ.get("METASCALE_DATA")
    if not root or not (Path(root) / name / "train.json").is_file():
        pytest.skip(f"needs the data set {name} in METASCALE_DATA")
    return weak_label_data(name, ENCODER)


def _write(folder: Path, name: str = "wrench_youtube") -> Path:
    """Twelve training texts of which two are held back and one has no vote; four clean and two test texts."""
    target = folder / name
    target.mkdir(parents=True)

    def rows(n: int, offset: int) -> dict[str, object]:
        return {
            str(offset + i): {
                "data": {"text": f"check song {offset + i}"},
                "label": i % 2,
                "weak_labels": [-1, -1] if offset + i == 3 else [i % 2, -1],
            }
            for i in range(n)
        }

    for part, content in (
        ("label", {"0": "HAM", "1": "SPAM"}),
        ("labeled_ids", {"labeled_ids": ["10", "11"]}),
        ("train", rows(12, 0)),
        ("valid", rows(4, 100)),
        ("test", rows(2, 200)),
    ):
        (target / f"{part}.json").write_text(json.dumps(content))
    return folder


def test_the_class_with_most_votes_wins_and_abstentions_do_not_count() -> None:
    votes = np.array([[0, 1, 1, -1], [2, -1, -1, -1], [0, 0, 2, 2], [-1, -1, -1, -1]])
    found = [majority_vote(votes, 3, seed) for seed in range(40)]
    assert all(vote[0] == 1 and vote[1] == 2 for vote in found)
    assert {int(vote[2]) for vote in found} == {0, 2}, "a tie is drawn among the leaders, never the third class"
    assert {int(vote[3]) for vote in found} == {0, 1, 2}
    assert np.array_equal(majority_vote(votes, 3, 7), majority_vote(votes, 3, 7))


def test_parts_hold_each_text_once_and_leave_out_what_is_held_back(tmp_path: Path) -> None:
    data = weak_label_data("wrench_youtube", ENCODER, data_dir=_write(tmp_path))
    assert (len(data.noisy), len(data.upper), len(data.selection), len(data.test)) == (9, 2, 2, 2)
    assert data.n_uncovered == 1
    assert data.noisy.wrong == 0.0
    kept = weak_label_data("wrench_youtube", ENCODER, data_dir=tmp_path, uncovered="random")
    assert len(kept.noisy) == 10
    inputs, targets = data.noisy.batch([0, 8])
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 3)
    assert targets.tolist() == data.noisy.truth[[0, 8]].tolist()


def test_the_halves_of_the_clean_set_are_disjoint_and_depend_on_the_seed(tmp_path: Path) -> None:
    _write(tmp_path)

    def upper(seed: int) -> list[int]:
        return weak_label_data("wrench_youtube", ENCODER, seed, data_dir=tmp_path).upper.tokens.starts.tolist()

    other = weak_label_data("wrench_youtube", ENCODER, 0, data_dir=tmp_path).selection.tokens.starts.tolist()
    assert not set(upper(0)) & set(other)
    assert upper(0) == upper(0)
    assert len({tuple(upper(seed)) for seed in range(8)}) > 1


def test_bad_input_is_refused_in_a_sentence(tmp_path: Path) -> None:
    _write(tmp_path)
    with pytest.raises(InputError, match="no weak labels for 'banking77'; there are: wrench_youtube"):
        weak_label_data("banking77", ENCODER, data_dir=tmp_path)
    for fraction in (0.0, 1.0):
        with pytest.raises(InputError, match="leaves one part empty"):
            weak_label_data("wrench_youtube", ENCODER, data_dir=tmp_path, upper_fraction=fraction)
    path = tmp_path / "wrench_youtube" / "test.json"
    path.write_text(json.dumps({"0": {"data": {"text": "check"}, "label": 0, "weak_labels": [5]}}))
    with pytest.raises(CorruptFile, match="votes outside of -1 to 1"):
        weak_label_data("wrench_youtube", ENCODER, data_dir=tmp_path)
    path.write_text(json.dumps({"0": {"data": {}, "label": 0, "weak_labels": [0]}}))
    with pytest.raises(CorruptFile, match="does not have the form of a WRENCH file"):
        weak_label_data("wrench_youtube", ENCODER, data_dir=tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "n_train", "n_clean", "n_test", "n_functions", "n_unsure"),
    [
        ("wrench_youtube", 1586, 120, 250, 10, 326),
        ("wrench_trec", 4965, 500, 500, 68, 2442),
        ("wrench_sms", 4502, 500, 500, 73, 58),
    ],
)
def test_the_published_counts(
    name: str, n_train: int, n_clean: int, n_test: int, n_functions: int, n_unsure: int
) -> None:
    data = _real(name)
    assert len(data.noisy) + data.n_uncovered == n_train
    assert len(data.upper) + len(data.selection) == n_clean
    assert len(data.test) == n_test
    assert data.noisy.votes.shape[1] == n_functions
    # Counted from the files by hand: the truth does not win alone. Of these, a tie may be drawn right.
    always = [weak_label_data(name, ENCODER, seed).noisy for seed in range(12)]
    n_ever_wrong = int(np.any([noisy.targets != noisy.truth for noisy in always], axis=0).sum())
    assert 0.97 * n_unsure <= n_ever_wrong <= n_unsure
    assert data.describe()["n_noisy"] == len(data.noisy)


def test_every_weak_set_is_registered() -> None:
    assert set(WEAK_SETS) <= set(DATASETS)
