"""Rates, refusals and loops of a configuration, against values worked out in the tests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metascale.core.errors import InputError
from metascale.workflow.fewshot import make_inner
from metascale.workflow.language_models import ModelSizeConfig, rate
from metascale.workflow.launch import Place
from metascale.workflow.text import TextConfig


def test_a_warm_up_is_cut_to_half_of_a_short_training() -> None:
    """Ten steps: a warm-up of 8 becomes 5, step 0 at 1/5, step 4 at 1; a fifth of the 5 left is one step of decay."""
    short = ModelSizeConfig(warmup=8, final_rate=0.0)
    for name in ("constant", "cosine", "wsd"):
        factor = rate(replace(short, schedule=name), 10)
        assert [factor(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rate(replace(short, schedule="constant"), 10)(9) == 1.0
    stable = rate(replace(short, schedule="wsd", final_rate=0.5), 10)
    assert [stable(step) for step in (5, 8, 9, 10)] == [1.0, 1.0, 1.0, 0.5]
    cosine = rate(replace(short, schedule="cosine", warmup=4), 12)
    assert [cosine(step) for step in (3, 4, 8, 12)] == pytest.approx([1.0, 1.0, 0.5, 0.0])


@pytest.mark.parametrize(("name", "more"), [("proceses", "; did you mean 'processes'?"), ("zzz", "")])
def test_an_unknown_executor_is_refused_with_the_nearest_name(name: str, more: str) -> None:
    with pytest.raises(InputError) as caught:
        Place(executor=name)
    assert str(caught.value).endswith(f", not '{name}'{more}")
    assert (caught.value.field, caught.value.value) == ("executor", name)


def test_a_score_head_without_a_language_model_is_refused_by_its_key() -> None:
    with pytest.raises(InputError, match="head=score is the classifier of a language model") as caught:
        TextConfig(head="score", backbone=None).refuse("here")
    assert (caught.value.field, caught.value.value) == ("head", "score")


def test_the_inner_loop_is_that_of_the_configuration() -> None:
    settings = TextConfig(
        inner_steps=7, inner_clip=0.5, adapt=("head.*",), inner_batch_size=3, micro_batch=2, inner_lr=0.25
    )
    loop = make_inner(settings)
    assert (loop.steps, loop.clip, loop.batch_size, loop.micro_batch) == (7, 0.5, 3, 2)
    assert (tuple(loop.adapt), loop.optimizer.lr, loop.proximal) == (("head.*",), 0.25, 0.0)
