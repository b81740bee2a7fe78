"""What exact meta-gradients may cost in memory, counted on a small encoder: the counts are the same in every run."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig

from metascale.core.types import Batch, Episode
from metascale.meta.gradients import FOMAML, MAML, MetaGradient, profile_gradient
from metascale.meta.inner import InnerLoop
from metascale.meta.reverse import FullGraph
from metascale.models.text.classifiers import AdapterClassifier, FullClassifier
from metascale.models.text.heads import LearnedHead
from metascale.models.text.hf import random_backbone
from metascale.parallel.budget import frozen_weights
from metascale.training.memory import MemoryReport
from metascale.training.optimizers import SGD, Adam, Optimizer

INNER_SGD = SGD(0.01)


class NoPadding(TorchDispatchMode):
    """Answers the one question that a backbone asks of tensors without values: yes, every token is a real one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device.type == "meta":
            return True
        return func(*args, **(kwargs or {}))


def texts(device: str, support: int = 10, query: int = 30) -> Episode:
    def batch(n_examples: int) -> Batch:
        return Batch(
            {"input_ids": torch.full((1, n_examples, 16), 5, device=device)},
            torch.zeros(1, n_examples, dtype=torch.long, device=device),
        )

    return Episode(("task",), batch(support), batch(query))


@lru_cache
def measure(
    name: str,
    steps: int,
    micro_batch: int | None = None,
    checkpoint_blocks: str = "none",
    device: str = "cpu",
    optimizer: Optimizer = INNER_SGD,
    query: int = 30,
    keep_gradients: int | None = None,
    support: int = 10,
) -> MemoryReport:
    """The peak of one task's meta-gradient on a 3-layer encoder: "full" and "unrolled", "exact", or "first order"."""
    config = BertConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, vocab_size=300,
        max_position_embeddings=16,
    )  # fmt: skip
    with torch.device(device):
        backbone = random_backbone(config, 0, attn_implementation="eager", device=device)
    fields: dict[str, Any] = {"n_classes": 5, "head": LearnedHead()}
    model: Any = (
        FullClassifier(backbone, **fields)
        if name == "full"
        else AdapterClassifier(backbone, rank=2, dropout=0.0, checkpoint_blocks=checkpoint_blocks, **fields)
    )
    inner = InnerLoop(optimizer, steps=steps, micro_batch=micro_batch, keep_gradients=keep_gradients)
    gradient: MetaGradient = MAML(inner, FullGraph()) if name in ("full", "unrolled") else MAML(inner)
    if name == "first order":
        gradient = FOMAML(inner)
    with NoPadding():
        return profile_gradient(
            gradient, model, model.init(0), texts(device, support, query), weights=frozen_weights(model), device=device
        )


def dynamic(*arguments: Any, **fields: Any) -> int:
    return measure(*arguments, **fields).peak_without_weights_bytes


def adapted_bytes() -> int:
    """One copy of the adapted parameters: the head, and rank 2 on query and value of three layers of width 48."""
    return 4 * (5 * 48 + 5 + 3 * 2 * 2 * (48 + 48))


@pytest.mark.long
def test_exact_is_flat_in_the_inner_steps() -> None:
    """Within 5 %; unrolled is far from it. What grows is one copy of the adapted parameters a step: its gradient."""
    peaks = [dynamic("exact", steps) for steps in (1, 20)]
    assert max(peaks) <= 1.05 * min(peaks)
    assert dynamic("unrolled", 5) > 2 * dynamic("exact", 5)
    # A query set as small as the support set hides nothing of the Hessian products.
    growth = dynamic("exact", 8, query=10) - dynamic("exact", 2, query=10)
    assert growth <= (6 + 3) * adapted_bytes()


def test_exact_with_micro_batches_needs_no_more_than_first_order() -> None:
    first_order = dynamic("first order", 5)
    assert dynamic("exact", 5) <= 1.25 * first_order
    assert dynamic("exact", 5, micro_batch=5) <= 0.5 * first_order
    assert dynamic("exact", 2, micro_batch=5, checkpoint_blocks="adapters") < dynamic("exact", 2, micro_batch=5)


def test_exact_takes_one_and_a_half_times_first_order_in_the_same_micro_batches() -> None:
    """A Hessian product holds the graph of a gradient, more than twice what a gradient does, of half the examples."""
    assert dynamic("exact", 2, micro_batch=4) <= 1.5 * dynamic("first order", 2, micro_batch=4)
    assert dynamic("exact", 2, query=10) > 1.8 * dynamic("first order", 2, query=10)  # not cut: as one


def test_gradients_kept_a_few_steps_at_a_time() -> None:
    """Of 9 steps, 3 gradients and the 2 states where the earlier groups begin, beside the first, in place of 9."""
    kept = [dynamic("exact", 9, micro_batch=1, query=2, keep_gradients=few, support=2) for few in (None, 3)]
    assert kept[0] - kept[1] >= (9 - 3 - 2 - 1) * adapted_bytes()


def test_exact_with_micro_batches_against_full_parameters() -> None:
    """At least 90 % below full-parameter unrolled MAML at 5 inner steps, with and without the static weights."""
    full, found = measure("full", 5), measure("exact", 5, micro_batch=5)
    assert found.peak_without_weights_bytes <= 0.1 * full.peak_without_weights_bytes
    assert dynamic("exact", 5) <= 0.25 * full.peak_without_weights_bytes


def test_checkpointing_lowers_a_hessian_product() -> None:
    assert dynamic("exact", 2, checkpoint_blocks="adapters", query=10) < 0.75 * dynamic("exact", 2, query=10)


def test_adam_s_state_does_not_pile_up() -> None:
    """Three tensors a parameter live for log2 K of the steps, not for each; a gradient for each."""
    few, many = (dynamic("exact", steps, optimizer=Adam(0.01), query=10) for steps in (2, 8))
    assert many - few <= (6 + 3 * 3) * adapted_bytes()


def test_counting_without_values_is_counting() -> None:
    """On torch's meta device nothing is computed, and the bytes are those of the real thing."""
    for arguments in (("exact", 1, None, "adapters"), ("full", 1)):
        assert measure(*arguments, device="meta") == measure(*arguments)  # type: ignore[arg-type]
