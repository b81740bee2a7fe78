"""Few-shot tasks on the 8x8 handwritten digits that ship inside scikit-learn: real data without a download."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from metascale.core.optional import require
from metascale.core.types import Split
from metascale.tasks.fewshot import ClassSplit, ClassTable, FewShotSettings, FewShotTasks

if TYPE_CHECKING:
    from typing_extensions import Unpack

QUARTER_TURNS = (0, 90, 180, 270)
N_DIGITS: dict[Split, int] = {"train": 6, "validation": 2, "test": 2}
# 6 and 9 are half turns of one another, so they stay on one side. 0, 1, 5 and 8 look much alike after a half turn (on 1
# and 8 nearest centroids tell the four rotations apart only 59 % and 63 % of the time); in evaluation tasks they would
# put a floor under the loss that is not the learner's.
FIXED_SPLIT: dict[Split, str] = {"train": "015689", "validation": "24", "test": "37"}


@dataclass(frozen=True, eq=False)
class FloatImages:
    """Images in memory; ids [...] give ``{"x": [..., 1, height, width]}`` float32."""

    images: np.ndarray

    def __call__(self, ids: np.ndarray) -> dict[str, torch.Tensor]:
        return {"x": torch.from_numpy(self.images[ids])}


@cache
def digit_table() -> ClassTable:
    """The 1,797 digits at four rotations: 40 classes of 174 to 183 images, pixels in [0, 1]."""
    data = require("sklearn.datasets", "images", "the digits data set").load_digits()
    upright = (data.images / 16.0).astype(np.float32)
    rotated = np.stack([np.rot90(upright, k=turns, axes=(1, 2)) for turns in range(4)])
    images = np.ascontiguousarray(rotated.reshape(-1, 1, 8, 8))
    names, examples = [], []
    for digit in range(10):
        for turns, degrees in enumerate(QUARTER_TURNS):
            names.append(f"{digit}/rot{degrees:03d}")
            examples.append(np.flatnonzero(data.target == digit) + turns * len(upright))
    details = {
        "source": "Optical Recognition of Handwritten Digits (UCI), the copy in scikit-learn's load_digits",
        "inputs": "x [1, 8, 8] float32 in [0, 1]",
        "classes": "digit and rotation; the four rotations of one digit are always in the same split",
    }
    return ClassTable("digits", tuple(names), tuple(examples), FloatImages(images), details=details)


def digits_tasks(*, split_seed: int | None = None, **settings: Unpack[FewShotSettings]) -> FewShotTasks:
    """Few-shot digits: 24 training, 8 validation and 8 test classes.

    The split is by digit (6 / 2 / 2), never by rotated class: otherwise a rotated copy of a training image could be a
    test image. Training has C(24, 5) = 42,504 five-way combinations, validation and test 56 each.

    Args:
        split_seed: ``None``: digits 3 and 7 test, 2 and 4 validation (no class is nearly a rotated copy of a class in
            another split); a number: another division of the digits, drawn from it.
        settings: fields of `FewShotTasks` (by default 5-way 1-shot).
    """
    table = digit_table()
    digit_of_class = [name.split("/")[0] for name in table.classes]
    if split_seed is None:
        members = {
            split: tuple(index for index, digit in enumerate(digit_of_class) if digit in digits)
            for split, digits in FIXED_SPLIT.items()
        }
        split = ClassSplit(members["train"], members["validation"], members["test"])
    else:
        split = ClassSplit.draw(table.name, digit_of_class, N_DIGITS, split_seed)
    return FewShotTasks(table, split, **settings)
