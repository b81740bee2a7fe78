"""The contract of models passes on a right model and fails on wrong ones, with the sentence that says how."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from metascale.core.errors import InputError
from metascale.core.trees import norm
from metascale.core.types import Batch, Params
from metascale.testing import (
    ModelContract,
    SmoothClassifier,
    check_language_model,
    check_model,
    generators_untouched,
    model_contract,
)
from metascale.testing.model_contract import check_masks, equal, noise, unit_direction

RIGHT = SmoothClassifier()
SHARP: dict[str, Any] = {"dtype": torch.float64, "smooth": True, "drops_out": True}
SINGLE: dict[str, Any] = {"smooth": True, "drops_out": True}


def batches(n_tasks: int, n_examples: int, seed: int) -> Batch:
    return RIGHT.episode(n_tasks, seed).query.examples(0, n_examples)


class Wrong:
    """The right model, with other methods and values in the place of some."""

    def __init__(self, **changed: Any) -> None:
        self._changed = changed

    def __getattr__(self, name: str) -> Any:
        if name not in self._changed:
            return getattr(RIGHT, name)
        return self._changed[name]


def own(params: Params, name: str = "head.weight") -> torch.Tensor:
    """One number a task [T] that depends on that task's own parameter."""
    return params[name].flatten(1).sum(1)


def unseen(value: torch.Tensor) -> torch.Tensor:
    """0, with the gradient of ``value``."""
    return value - value.detach()


def losses_plus(more: Callable[[Params, Batch, int | None], Any]) -> Wrong:
    def losses(params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        return RIGHT.losses(params, batch, dropout) + more(params, batch, dropout)

    return Wrong(losses=losses)


class Counting:
    """A method whose results are those of ``make`` at 0, 1, 2, ... ."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make, self._n = make, -1

    def __call__(self, *args: Any) -> Any:
        self._n += 1
        return self._make(self._n, *args)


class HalfHessian(torch.autograd.Function):
    """0; its gradient in y is x, and in x is 0: no function has that."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return torch.zeros_like(x), grad * x


def renamed(n: int, seed: int) -> Params:
    return {f"{name}{n}": value for name, value in RIGHT.init(seed).items()}


def moving(n: int, seed: int) -> Params:
    return {name: value + 1e-12 * n for name, value in RIGHT.init(seed).items()}


def changes_its_argument(params: Params, support: Batch) -> Params:
    before = dict(params)
    params["more"] = torch.zeros(3)
    return before


def curvature_lost(params: Params, batch: Batch, dropout: int | None) -> torch.Tensor:
    """½s² of s = `own`, with the right gradient s, and the second derivative 0 instead of 1."""
    s = own(params)
    return s.detach() * s - 0.5 * s.detach() ** 2


FLAT: dict[str, Any] = {
    "predict": lambda params, batch, dropout=None: RIGHT.predict(params, batch).sum(2),
    "turned": lambda params, batch, dropout=None: RIGHT.predict(params, batch).transpose(0, 1),
}
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing to train": (lambda: Wrong(init=lambda seed: {}), "init must return at least one trainable tensor"),
    "other names": (lambda: Wrong(init=Counting(renamed)), "init must return the same names for the same seed"),
    "other values": (lambda: Wrong(init=Counting(moving)), "init must return the same values for the same seed"),
    "one start": (lambda: Wrong(init=lambda seed: RIGHT.init(0)), "init must return other values for another seed"),
    "a history": (
        lambda: Wrong(init=lambda seed: {n: v.requires_grad_() for n, v in RIGHT.init(seed).items()}),
        "init must return tensors without history",
    ),
    "begin changes": (lambda: Wrong(begin=changes_its_argument), "begin must not change its argument"),
    "begin drops": (
        lambda: Wrong(begin=lambda params, support: {"head.weight": params["head.weight"]}),
        "begin must return every parameter it was given",
    ),
    "begin without tasks": (
        lambda: Wrong(begin=lambda params, support: {**params, "more": torch.zeros(4, 3)}),
        "begin returned 'more' without the task axis",
    ),
    "begin moves": (
        lambda: Wrong(begin=Counting(lambda n, params, support: {**params, "more": torch.full((3, 1), float(n))})),
        "begin must return the same values each time",
    ),
    "losses of a shape": (
        lambda: Wrong(losses=lambda *args: RIGHT.losses(*args)[:, None]),
        r"losses must have shape \[T\], not \[3, 1\]",
    ),
    "flat": (lambda: Wrong(predict=FLAT["predict"]), r"predict must have shape \[T, B, ...\], not \[3, 5\]"),
    "turned": (lambda: Wrong(predict=FLAT["turned"]), r"predict must have shape \[T, B, ...\], not \[5, 3, 3\]"),
    "flat features": (lambda: Wrong(features=FLAT["predict"]), r"features must have shape \[T, B, ...\], not \[3, 5\]"),
    "endless predictions": (lambda: Wrong(predict=lambda *args: RIGHT.predict(*args) / 0), "predict must be finite"),
    "endless features": (lambda: Wrong(features=lambda *args: RIGHT.features(*args) / 0), "features must be finite"),
    "endless losses": (lambda: Wrong(losses=lambda *args: RIGHT.losses(*args) / 0), "losses must be finite"),
    "another way": (
        lambda: Wrong(task_execution="sideways"),
        "task_execution must be one of 'stacked', 'threads', 'processes'",
    ),
    "tasks in the loss": (
        lambda: losses_plus(lambda params, batch, dropout: 1e-7 * batch.n_tasks),
        "the loss of task 0 differs by 2e-07 of",
    ),
    "tasks in predictions": (
        lambda: Wrong(predict=lambda params, batch: RIGHT.predict(params, batch) + 1e-7 * batch.n_tasks),
        "predictions of task 0 differs by 2e-07 of",
    ),
    "tasks in features": (
        lambda: Wrong(features=lambda params, batch: RIGHT.features(params, batch) + 1e-7 * batch.n_tasks),
        "features of task 0 differs by 2e-07 of",
    ),
    "tasks in gradients": (
        lambda: losses_plus(lambda params, batch, dropout: 1e-7 * batch.n_tasks * unseen(own(params))),
        "the gradient of 'head.weight' of task 0 differs by 2e-07 of",
    ),
    "a gradient that is off": (
        lambda: losses_plus(lambda params, batch, dropout: 1e-4 * unseen(own(params))),
        "the gradient along a random direction is .*, the central difference is",
    ),
    "curvature that is off": (
        lambda: losses_plus(curvature_lost),
        "the Hessian along a random direction is .*, the central difference is",
    ),
    "masks that move": (
        lambda: Wrong(losses=Counting(lambda n, params, batch, dropout=None: (
            RIGHT.losses(params, batch, dropout) + (0 if dropout is None else 1e-9 * n)
        ))),
        "losses with dropout=7 must be the same each time",
    ),
    "no masks": (
        lambda: Wrong(losses=lambda params, batch, dropout=None: RIGHT.losses(params, batch)),
        "another dropout number must give other masks",
    ),
    "threads that meet": (
        lambda: losses_plus(lambda *_: 0 if threading.current_thread() is threading.main_thread() else 1e-7),
        "a loss computed beside other threads differs by 1e-07 of",
    ),
    "threads that meet in gradients": (
        lambda: losses_plus(
            lambda params, *_: (threading.current_thread() is not threading.main_thread()) * 1e-7 * unseen(own(params))
        ),
        "the gradient of 'head.weight' computed beside other threads differs by 1e-07 of",
    ),
    "no mean": (
        lambda: losses_plus(lambda params, batch, dropout: 1e-7 * batch.n_examples),
        "the weighted mean over micro-batches differs by",
    ),
    "no mean of one": (
        lambda: losses_plus(lambda params, batch, dropout: 1e-7 * (batch.n_examples == 1)),
        "the weighted mean over micro-batches differs by 2e-08 of",
    ),
    "no mean under dropout": (
        lambda: losses_plus(lambda params, batch, dropout: 0 if dropout is None else 1e-7 * batch.n_examples),
        "the weighted mean over micro-batches under dropout differs by",
    ),
    "a global generator": (
        lambda: losses_plus(lambda *_: 0 * torch.rand(1)),
        "a global random generator was used; draw from metascale.core.streams",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_model_is_refused_with_the_promise_that_it_breaks(fault: str) -> None:
    make, sentence = WRONG[fault]
    with pytest.raises(AssertionError, match=rf"^{sentence}"):
        check_model(make(), batches, **SHARP)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (RIGHT, SHARP),
        (RIGHT, SINGLE),
        (RIGHT, {**SHARP, "n_tasks": 2, "n_examples": 3, "smooth": False}),
        (SmoothClassifier(dropout_rate=0.0), {**SHARP, "drops_out": False}),
        (Wrong(init=lambda seed: RIGHT.init(0)), {**SHARP, "pretrained": True}),
        # Rounding, far below what is promised.
        (losses_plus(lambda params, batch, dropout: 1e-12 * batch.n_tasks), SHARP),
        (losses_plus(lambda params, batch, dropout: 1e-6 * batch.n_tasks), SINGLE),
        (losses_plus(lambda params, batch, dropout: 1e-9 * unseen(own(params))), {**SHARP, "n_tasks": 2}),
        (losses_plus(lambda params, batch, dropout: 1e-12 * batch.n_examples), SHARP),
        (losses_plus(lambda params, batch, dropout: 1e-3 * batch.n_examples), {**SHARP, "batch_statistics": True}),
        # Second derivatives that a model says it lacks, or that differences in float32 would cross kinks for.
        (Wrong(losses=losses_plus(curvature_lost).losses, require_second_order=None), SHARP),
        (losses_plus(curvature_lost), {**SINGLE, "smooth": False}),
        (Wrong(begin=lambda params, support: {**params, "more": torch.zeros(3, 1)}), SHARP),
    ],
)  # fmt: skip
def test_a_right_model_passes(model: Any, settings: dict[str, Any]) -> None:
    if isinstance(model, Wrong) and "require_second_order" in model._changed:

        def refuse() -> None:
            raise InputError("there are none")

        model = Wrong(**{**model._changed, "require_second_order": refuse})
    check_model(model, batches, **settings)


@pytest.mark.parametrize("settings", [{**SHARP, "smooth": False}, SINGLE])
def test_curvature_is_held_to_differences_in_float64_or_where_it_is_smooth(settings: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match=r"^the Hessian along a random direction is .*, the central difference is"):
        check_model(losses_plus(curvature_lost), batches, **settings)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (lambda params, batch, dropout: 1e-3 * batch.n_tasks, "the loss of task 0 differs by"),
        (lambda params, batch, dropout: 0.05 * unseen(own(params)), "the gradient along a random direction is"),
    ],
)
def test_single_precision_is_held_to_what_it_can_give(more: Any, sentence: str) -> None:
    with pytest.raises(AssertionError, match=rf"^{sentence}"):
        check_model(losses_plus(more), batches, **SINGLE)


def test_a_hessian_that_is_not_symmetric_is_refused() -> None:
    def twisted(params: Params, batch: Batch, dropout: int | None) -> torch.Tensor:
        return HalfHessian.apply(own(params, "hidden.bias"), own(params))

    contract = ModelContract(losses_plus(twisted), batches, **SHARP)
    with pytest.raises(
        AssertionError, match=r"^the Hessian along a random direction is .*, with the two directions ex"
    ):
        contract.check_second_order()


@pytest.mark.parametrize(("one", "other"), [(0, 2), (2, 0), (1, 0), (1, 2)])
def test_a_loss_that_depends_on_another_tasks_parameters_is_refused(one: int, other: int) -> None:
    def mixed(params: Params, batch: Batch, dropout: int | None) -> torch.Tensor:
        return torch.stack([1e-6 * own(params)[other] if task == one else torch.zeros(()) for task in range(3)])

    contract = ModelContract(losses_plus(mixed), batches, **SHARP)
    with pytest.raises(AssertionError, match=rf"^the loss of task {one} depends on 'head.weight' of another task$"):
        contract.check_independence()


def test_a_model_said_to_be_pretrained_that_starts_from_its_seed_is_refused() -> None:
    with pytest.raises(
        AssertionError, match=r"^a model said to be pretrained must start from the same values for every"
    ):
        check_model(RIGHT, batches, pretrained=True, **SHARP)


def losses_of(values: dict[int | None, float]) -> Callable[[int | None], torch.Tensor]:
    return lambda key: torch.tensor([values[key]])


@pytest.mark.parametrize(
    ("values", "drops_out", "sentence"),
    [
        ({None: 1.0, 7: 2.0, 8: 3.0}, True, None),
        ({None: 1.0, 7: 1.0, 8: 1.0}, False, None),
        ({None: 1.0, 7: 2.0, 8: 2.0}, True, "another dropout number must give other masks"),
        ({None: 2.0, 7: 2.0, 8: 3.0}, True, "dropout=None must mean evaluation, without dropout"),
        ({None: 1.0, 7: 2.0, 8: 2.0}, False, "a model said to have no dropout must ignore the number"),
    ],
)
def test_masks_follow_their_number(values: dict[int | None, float], drops_out: bool, sentence: str | None) -> None:
    if sentence is None:
        check_masks(losses_of(values), drops_out)
        return
    with pytest.raises(AssertionError, match=rf"^{sentence}$"):
        check_masks(losses_of(values), drops_out)


def test_losses_without_dropout_that_move_are_refused() -> None:
    moving = Counting(lambda n, key: torch.tensor([float(n) if key is None else float(key)]))
    with pytest.raises(AssertionError, match=r"^losses with dropout=None must be the same each time$"):
        check_masks(moving, True)


@pytest.mark.parametrize("draw", [lambda: torch.rand(1), lambda: np.random.rand(1), random.random])  # noqa: NPY002
def test_a_draw_from_any_global_generator_is_noticed(draw: Callable[[], Any]) -> None:
    with pytest.raises(AssertionError, match="a global random generator was used"), generators_untouched():
        draw()
    with generators_untouched():
        torch.rand(1, generator=torch.Generator())


def test_checks_are_made_near_the_start_at_another_point_for_every_task() -> None:
    contract = ModelContract(RIGHT, batches)
    assert (contract.n_tasks, contract.n_examples, contract.perturbation) == (3, 5, 0.05)
    assert contract.batch.inputs["x"].dtype == contract.params["head.weight"].dtype == torch.float32
    assert contract.batch.targets.shape == (3, 5)
    start = RIGHT.init(0)
    away = {name: (value.double() - start[name]) / 0.05 for name, value in contract.params.items()}
    whole = torch.cat([value.flatten() for value in away.values()])
    assert whole.numel() == 3 * (5 * 6 + 6 + 6 * 3)
    # Standard normal: of 162 draws the SE of the mean is 0.079, that of the mean square 0.11.
    assert abs(float(whole.mean())) < 0.3
    assert abs(float(whole.square().mean()) - 1) < 0.4
    assert len({float(value[0, 0]) for value in away["head.weight"]}) == 3


def test_directions_have_length_1_and_purposes_of_their_own() -> None:
    params = {"a": torch.zeros(3, dtype=torch.float64), "b": torch.zeros(2, 2, dtype=torch.float64)}
    one, again, other = unit_direction(params), unit_direction(params), unit_direction(params, "other")
    assert equal(one, again)
    assert not equal(one, other)
    assert [float(norm(each)) for each in (one, other)] == pytest.approx([1.0, 1.0])
    assert {name: value.shape for name, value in one.items()} == {"a": (3,), "b": (2, 2)}
    assert not torch.equal(noise("a", params["a"]), noise("b", params["a"]))
    assert not torch.equal(noise("a", params["a"]), noise("a", params["a"], "another purpose"))
    assert noise("a", torch.zeros(4, dtype=torch.float32)).dtype == torch.float32


def test_equal_means_the_same_names_and_bits() -> None:
    x = {"a": torch.ones(2)}
    assert equal(x, {"a": torch.ones(2)})
    assert not equal(x, {"b": torch.ones(2)})
    assert not equal(x, {"a": torch.ones(2), "b": torch.ones(2)})
    assert not equal(x, {"a": torch.ones(2) + 1e-7})


# --------------------------------------------------------------------------------------------- language models


class Bigrams:
    """The logits of the next token are a row of a table; nothing but the token before counts."""

    n_vocab = 5

    def __init__(self, **changed: Callable[..., Any]) -> None:
        self.seen: list[Batch] = []
        for name, change in changed.items():
            setattr(self, name, partial(change, self))

    def init(self, seed: int) -> Params:
        return {"table": noise(f"table {seed}", torch.zeros(self.n_vocab, self.n_vocab))}

    def predict(self, params: Params, batch: Batch) -> torch.Tensor:
        self.seen.append(batch)
        return params["table"][batch.inputs["input_ids"]]

    def losses(self, params: Params, batch: Batch) -> torch.Tensor:
        logs = params["table"][batch.inputs["input_ids"]].log_softmax(-1)
        counted = batch.targets >= 0
        return -logs.gather(-1, batch.targets.clamp(min=0)[..., None])[..., 0] * counted

    def objective(self, params: Params, batch: Batch, dropout: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        losses = self.losses(params, batch)
        return losses.sum() / (batch.targets >= 0).sum(), losses.detach()


def mean_plus(more: Callable[[Params], Any], counted: bool = True) -> Callable[..., Any]:
    def objective(model: Bigrams, params: Params, batch: Batch, dropout: int | None = None) -> Any:
        losses = model.losses(params, batch)
        n = (batch.targets >= 0).sum() if counted else batch.targets.numel()
        return losses.sum() / n + more(params), losses.detach()

    return objective


def reads_ahead(model: Bigrams, params: Params, batch: Batch) -> torch.Tensor:
    ids = batch.inputs["input_ids"]
    return params["table"][ids] + 1e-9 * torch.roll(ids, -1, 1)[..., None]


LANGUAGE: dict[str, tuple[Bigrams, str]] = {
    "shape": (
        Bigrams(predict=lambda model, params, batch: params["table"][batch.inputs["input_ids"]].flatten(0, 1)),
        r"predict must have shape \[B, N, V\], not \[36, 5\]",
    ),
    "losses": (
        Bigrams(losses=lambda model, params, batch: Bigrams.losses(model, params, batch) + 1e-7),
        "losses against the logits' cross-entropy: off by 1e-07",
    ),
    "losses of what is ignored": (
        Bigrams(losses=lambda model, params, batch: Bigrams.losses(
            model, params, Batch(batch.inputs, batch.targets.clamp(min=0))
        )),
        "losses against the logits' cross-entropy: off by",
    ),
    "losses of the objective": (
        Bigrams(objective=lambda model, params, batch, dropout=None: (
            Bigrams.objective(model, params, batch)[0], Bigrams.losses(model, params, batch).detach() + 1e-9
        )),
        r"the objective's losses against losses\(\): off by 1e-09",
    ),
    "a mean over what is ignored": (
        Bigrams(objective=mean_plus(lambda params: 0.0, counted=False)),
        "the objective must be the mean loss plus penalties of at least 0",
    ),
    "a reward": (
        Bigrams(objective=mean_plus(lambda params: -1e-6)),
        "the objective must be the mean loss plus penalties of at least 0",
    ),
    "a gradient": (
        Bigrams(objective=mean_plus(lambda params: 1e-4 * unseen(params["table"].sum()))),
        "the gradient along a random direction is .*, the central difference",
    ),
    "reading ahead": (
        Bigrams(
            predict=reads_ahead,
            losses=lambda model, params, batch: -(
                reads_ahead(model, params, batch).log_softmax(-1).gather(-1, batch.targets.clamp(min=0)[..., None])
            )[..., 0] * (batch.targets >= 0),
        ),
        r"changing token 1 moved an earlier logit by \de-09: the model reads ahead",
    ),
    "reading nothing": (
        Bigrams(
            predict=lambda model, params, batch: params["table"][:1].expand(*batch.targets.shape, 5),
            losses=lambda model, params, batch: -(
                params["table"][0].log_softmax(-1)[batch.targets.clamp(min=0)]
            ) * (batch.targets >= 0),
        ),
        "token 0 influences no logit from 0 on",
    ),
    "one start": (Bigrams(init=lambda model, seed: Bigrams.init(model, 0)), "init must return other values"),
    "a global generator": (
        Bigrams(losses=lambda model, params, batch: Bigrams.losses(model, params, batch) + 0 * torch.rand(1)),
        "a global random generator was used",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", LANGUAGE)
def test_a_wrong_language_model_is_refused_with_the_promise_that_it_breaks(fault: str) -> None:
    model, sentence = LANGUAGE[fault]
    with pytest.raises(AssertionError, match=rf"^{sentence}"):
        check_language_model(model, 5)


def test_right_language_models_pass() -> None:
    check_language_model(Bigrams(), 5)
    check_language_model(Bigrams(objective=mean_plus(lambda params: params["table"].square().mean())), 5, 4)
    check_language_model(LANGUAGE["reading ahead"][0], 5, causal=False)
    with pytest.raises(AssertionError, match=r"^another dropout number must give other masks"):
        check_language_model(Bigrams(), 5, drops_out=True)

    def dropped(model: Bigrams, params: Params, batch: Batch, dropout: int | None = None) -> Any:
        loss, losses = Bigrams.objective(model, params, batch)
        return loss, losses + (0.0 if dropout is None else float(dropout))

    check_language_model(Bigrams(objective=dropped), 5, drops_out=True)
    with pytest.raises(AssertionError, match=r"^a model said to have no dropout must ignore the number"):
        check_language_model(Bigrams(objective=dropped), 5)


@pytest.mark.parametrize("length", [12, 4])
def test_a_language_model_is_asked_about_next_tokens_of_random_texts_one_of_them_ignored(length: int) -> None:
    model = Bigrams()
    check_language_model(model, 5, **({} if length == 12 else {"n_sequence": length}))
    first, *_ = model.seen
    ids, targets = first.inputs["input_ids"], first.targets
    assert ids.shape == targets.shape == (3, length)
    assert set(ids.flatten().tolist()) <= set(range(5))
    assert len(set(ids.flatten().tolist())) > 2
    assert torch.equal(targets[:, :-1], ids[:, 1:])
    assert (targets == -100).nonzero().tolist() == [[0, length - 1]]
    # Then every token in turn is another one of the vocabulary.
    changed = [(each.inputs["input_ids"] != ids).nonzero()[:, 1].tolist() for each in model.seen[-length:]]
    assert changed == [[j, j, j] for j in range(length)]
    assert max(int(each.inputs["input_ids"].max()) for each in model.seen) < 5


def test_rounding_up_to_a_bound_is_kept_and_beyond_it_refused() -> None:
    """Of an ignored token the loss is 0, so that what is added to it is the error itself."""

    def off(losses: float = 0.0, detached: float = 0.0) -> Bigrams:
        def with_losses(model: Bigrams, params: Params, batch: Batch) -> torch.Tensor:
            return Bigrams.losses(model, params, batch) + losses * (batch.targets < 0)

        def objective(model: Bigrams, params: Params, batch: Batch, dropout: int | None = None) -> Any:
            own = with_losses(model, params, batch)
            return own.sum() / (batch.targets >= 0).sum(), own.detach() + detached * (batch.targets < 0)

        return Bigrams(losses=with_losses, objective=objective)

    check_language_model(off(losses=1e-9), 5)
    check_language_model(off(detached=1e-12), 5)
    with pytest.raises(AssertionError, match=r"^losses against the logits' cross-entropy: off by 1.1e-09$"):
        check_language_model(off(losses=1.1e-9), 5)
    with pytest.raises(AssertionError, match=r"^the objective's losses against losses\(\): off by 1.1e-12$"):
        check_language_model(off(detached=1.1e-12), 5)


def test_threads_compute_at_six_points_what_the_main_thread_computes() -> None:
    seen: list[tuple[bool, float]] = []
    lock = threading.Lock()

    def losses(params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        with lock:
            main = threading.current_thread() is threading.main_thread()
            seen.append((main, float(params["head.weight"].detach()[0, 0, 0])))
        return RIGHT.losses(params, batch, dropout)

    contract = ModelContract(Wrong(losses=losses), batches, **SHARP)
    base = float(contract.params["head.weight"][0, 0, 0])
    contract.check_threads()
    for main in (True, False):
        found = sorted(value / base for there, value in seen if there is main)
        assert found == pytest.approx([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])


def test_micro_batches_are_one_example_half_of_them_and_the_rest() -> None:
    sizes: list[tuple[int, int | None]] = []

    def losses(params: Params, batch: Batch, dropout: int | None = None) -> torch.Tensor:
        sizes.append((batch.n_examples, dropout))
        return RIGHT.losses(params, batch, dropout)

    ModelContract(Wrong(losses=losses), batches, **SHARP).check_micro_batches()
    assert sizes == [(1, None), (2, None), (2, None), (5, None), (1, 7), (2, 7), (2, 7), (5, 7)]
    sizes.clear()
    ModelContract(Wrong(losses=losses), batches, n_examples=7, **SHARP).check_micro_batches()
    assert [size for size, key in sizes if key is None] == [1, 3, 3, 7]


def test_an_objective_is_checked_along_three_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def direction(params: Params, purpose: str = "direction") -> Params:
        asked.append(purpose)
        return unit_direction(params, purpose)

    monkeypatch.setattr(model_contract, "unit_direction", direction)
    check_language_model(Bigrams(), 5)
    assert asked == ["direction 0", "direction 1", "direction 2"]
    asked.clear()
    check_model(RIGHT, batches, **SHARP)
    assert asked == ["direction", "direction", "other"]


def test_as_many_threads_as_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, n: int) -> None:
            made.append(n)
            super().__init__(n)

    monkeypatch.setattr(model_contract, "ThreadPoolExecutor", Pool)
    ModelContract(RIGHT, batches, **SHARP).check_threads()
    assert made == [3]


@pytest.mark.parametrize(
    ("settings", "tolerance", "step"), [(SHARP, 1e-9, 1e-6), ({**SINGLE, "dtype": torch.float32}, 1e-4, 1e-2)]
)
def test_what_is_close_enough(settings: dict[str, Any], tolerance: float, step: float) -> None:
    """Relative to the largest expected value, or to 10⁻³ where all are smaller."""
    contract = ModelContract(RIGHT, batches, **settings)
    assert contract.step == step
    for size, floor in ((2.0, 2.0), (1e-5, 1e-3)):
        expected = torch.tensor([size, -size], dtype=torch.float64)
        contract._close(expected + 0.9 * tolerance * floor, expected, "it")
        with pytest.raises(AssertionError, match=r"^it differs by "):
            contract._close(expected - 1.1 * tolerance * floor, expected, "it")
        near = 1e-6 if settings is SHARP else 1e-2
        value = lambda x: torch.tensor(x, dtype=torch.float64)
        contract._near(value(5.0), value(5.0 + 0.9 * near * floor), value(size), "it")
        with pytest.raises(AssertionError, match=r"^it along a random direction is 5.* the central difference is 5$"):
            contract._near(value(5.0), value(5.0 + 1.1 * near * floor), value(size), "it")


def test_the_batch_of_a_contract_is_the_first() -> None:
    asked: list[tuple[int, int, int]] = []
    make = lambda *given: asked.append(given) or batches(*given)
    contract = ModelContract(RIGHT, make, n_tasks=2, n_examples=4)
    assert (contract.batch.n_tasks, contract.batch.n_examples, asked) == (2, 4, [(2, 4, 0)])
