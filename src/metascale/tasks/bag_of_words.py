"""Texts as word frequencies: any text source for models that read vectors, such as the perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from metascale.core.types import Batch, Episode, Split
from metascale.tasks.fewshot import FewShotTasks, Plan


@dataclass(frozen=True)
class BagOfWords:
    """The episodes of a text source with inputs ``{"x": [T, B, n_tokens]}``: the share of each token in the text.

    Args:
        source: a few-shot source of ``input_ids`` and ``attention_mask`` [T, B, S].
        n_tokens: size of the vocabulary.
    """

    source: FewShotTasks
    n_tokens: int

    def episodes(self, split: Split, indices: Sequence[int]) -> Episode:
        episode = self.source.episodes(split, indices)
        return Episode(episode.task_ids, self._counted(episode.support), self._counted(episode.query))

    def n_tasks(self, split: Split) -> int | None:
        return self.source.n_tasks(split)

    def describe(self) -> dict[str, Any]:
        return {**self.source.describe(), "inputs": f"shares of {self.n_tokens} tokens"}

    def plan(self, split: Split, indices: Sequence[int]) -> Plan:
        """As the source's: which classes and labels the episodes have."""
        return self.source.plan(split, indices)

    def _counted(self, batch: Batch) -> Batch:
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"].float()
        counts = torch.zeros(*ids.shape[:2], self.n_tokens).scatter_add_(2, ids, mask)
        return Batch({"x": counts / mask.sum(2, keepdim=True).clamp(min=1)}, batch.targets)
