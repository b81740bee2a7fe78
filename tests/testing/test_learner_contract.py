"""The contract of meta-gradients passes on right estimators and fails on wrong ones; its subjects have closed forms."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from metascale.core.streams import torch_generator
from metascale.core.trees import norm, scale
from metascale.core.types import Batch, Episode, Params
from metascale.meta.gradients import FOMAML, MAML, Reptile
from metascale.meta.inner import InnerLoop
from metascale.testing import (
    MetaGradientContract,
    QuadraticModel,
    SmoothClassifier,
    check_meta_gradient,
    learner_contract,
    quadratic_episode,
)
from metascale.testing.model_contract import unit_direction
from metascale.training.optimizers import SGD

FIRST_ORDER = lambda rate, steps: (1 - rate) ** steps
EXACT = lambda rate, steps: (1 - rate) ** (2 * steps)
Change = Callable[..., Any]


def made(kind: Any = FOMAML, change: Change | None = None, **settings: Any) -> Callable[[float, int], Any]:
    """A factory of estimators: ``kind``'s result goes through ``change(result, theta, episode, key)``."""

    class Estimator:
        def __init__(self, rate: float, steps: int) -> None:
            self.inner = InnerLoop(SGD(rate), steps, **settings)

        def __call__(self, model: Any, theta: Params, episode: Episode, key: int | None) -> Any:
            found = kind(self.inner)(model, theta, episode, key)
            return found if change is None else change(found, theta, episode, key)

    return Estimator


def grads(make: Callable[..., Params]) -> Change:
    return lambda found, theta, episode, key: (make(found[0], theta, episode, key), found[1])


def report(**fields: Callable[..., Any]) -> Change:
    def change(found: Any, theta: Params, episode: Episode, key: int | None) -> Any:
        return found[0], replace(found[1], **{name: make(found[1]) for name, make in fields.items()})

    return change


def one(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return grads(lambda found, *_: {**found, name: change(found[name])} if name in found else found)


class Calls:
    n = 0

    def __call__(self, found: Any, *rest: Any) -> Any:
        Calls.n += 1
        return scale(found[0], 1 + 1e-12 * Calls.n), found[1]


def changes_theta(found: Any, theta: Params, episode: Episode, key: Any) -> Any:
    next(iter(theta.values())).add_(1e-12)
    return found


def collects(found: Any, theta: Params, episode: Episode, key: Any) -> Any:
    next(iter(theta.values())).requires_grad_()
    return found


def changes_episode(part: str) -> Change:
    def change(found: Any, theta: Params, episode: Episode, key: Any) -> Any:
        getattr(episode, part).inputs["x"].add_(1e-12)
        return found

    return change


def changes_targets(found: Any, theta: Params, episode: Episode, key: Any) -> Any:
    episode.query.targets.add_(1).remainder_(3)
    return found


def moves_report(found: Any, theta: Params, episode: Episode, key: Any) -> Any:
    Calls.n += 1
    return found[0], replace(found[1], query_loss=found[1].query_loss + 1e-12 * Calls.n)


def in_threads(found: Any, *_: Any) -> Any:
    off = threading.current_thread() is not threading.main_thread()
    return scale(found[0], 1 + 1e-6 * off), found[1]


def per_call(found: Any, theta: Params, episode: Episode, key: Any) -> Any:
    return scale(found[0], 1 + 1e-6 * (episode.n_tasks == 2)), found[1]


FAULTS: dict[str, tuple[Callable[[float, int], Any], str]] = {
    "names": (
        made(change=grads(lambda found, *_: {n: v for n, v in found.items() if n != "hidden.bias"})),
        r"the meta-gradient must name \['head.weight', 'hidden.bias', 'hidden.weight'\], not \['head.weight', 'hi",
    ),
    "type": (
        made(change=one("hidden.bias", lambda value: value.float())),
        r"the meta-gradient of 'hidden.bias' is torch.float32 \[6\], not torch.float64 \[6\]",
    ),
    "shape": (
        made(change=one("hidden.bias", lambda value: value[None])),
        r"the meta-gradient of 'hidden.bias' is torch.float64 \[1, 6\], not torch.float64 \[6\]",
    ),
    "history": (
        made(change=one("hidden.bias", lambda value: value.clone().requires_grad_())),
        "the meta-gradient of 'hidden.bias' must carry no history",
    ),
    "finite": (made(change=one("hidden.bias", lambda value: value / 0)), "the meta-gradient must be finite"),
    "ids": (made(change=report(task_ids=lambda r: r.task_ids[::-1])), "the report must name the tasks in order"),
    **{
        f"{name} {what}": (made(change=report(**{name: lambda r, of=name, do=do: do(getattr(r, of))})), sentence)
        for name in ("support_loss_start", "support_loss_end", "query_loss")
        for what, do, sentence in (
            ("shape", lambda value: value[:, None], rf"{name} of the report must have shape \[T\], not \[5, 1\]"),
            ("history", lambda value: value.clone().requires_grad_(), f"{name} of the report must carry no history"),
            ("finite", lambda value: value / 0, f"{name} of the report must be finite"),
        )
    },
    "theta": (made(change=changes_theta), "the estimator must not change θ"),
    "collects": (made(change=collects), "the estimator must not make θ collect gradients"),
    "support": (made(change=changes_episode("support")), "the estimator must not change the episode"),
    "query": (made(change=changes_episode("query")), "the estimator must not change the episode"),
    "targets": (made(change=changes_targets), "the estimator must not change the episode"),
    "again": (made(change=Calls()), "the same arguments must give the same meta-gradient, bit for bit"),
    "report again": (made(change=moves_report), "the same arguments must give the same report"),
    "an update": (
        made(change=grads(lambda found, *_: scale(found, -1.0))),
        "on tasks ½‖θ − c‖² the meta-gradient must point along mean\\(θ − c\\), but the cosine is -1",
    ),
    "closed form": (
        made(change=grads(lambda found, *_: scale(found, 1 + 1e-6))),
        r"at rate 0.3 and 1 steps the meta-gradient of ½‖θ − c‖² is off by 7e-07 of ‖θ − c‖ from 0.7 \(θ − c\)",
    ),
    "chunks": (made(change=per_call), "the meta-gradient must be the mean over tasks: chunks of 2 tasks give another"),
    "singles": (
        made(change=grads(lambda found, theta, episode, key: scale(found, 1 + 1e-6 * (episode.n_tasks == 1)))),
        "the meta-gradient must be the mean over tasks: single tasks give another one",
    ),
    "report of chunks": (
        made(change=report(query_loss=lambda r: r.query_loss + 1e-6 * len(r.task_ids))),
        "the report must not depend on the other tasks: single tasks give another",
    ),
    "threads": (made(change=in_threads), "chunks on two threads must give what they give one after another"),
    "a global generator": (
        made(change=grads(lambda found, *_: scale(found, 1.0 + 0 * float(torch.rand(1))))),
        "a global random generator was used",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_estimator_is_refused_with_the_promise_that_it_breaks(fault: str) -> None:
    factory, sentence = FAULTS[fault]
    with pytest.raises(AssertionError, match=rf"^{sentence}"):
        check_meta_gradient(factory, FIRST_ORDER)


def test_right_estimators_pass() -> None:
    check_meta_gradient(made(), FIRST_ORDER)
    check_meta_gradient(made(Reptile), lambda rate, steps: 1 - (1 - rate) ** steps)  # its report has no query loss
    check_meta_gradient(made(MAML, learn_rates=True), EXACT, exact=True)
    check_meta_gradient(made(change=grads(lambda found, *_: scale(found, 1 + 1e-12))), FIRST_ORDER)
    check_meta_gradient(made(change=grads(lambda found, *_: scale(found, 1 + 1e-6))))  # no closed form is claimed
    check_meta_gradient(made(change=report(query_loss=lambda r: None)), FIRST_ORDER)


def test_closed_forms_are_checked_at_three_rates_and_numbers_of_steps() -> None:
    asked: list[tuple[float, int]] = []

    def factor(rate: float, steps: int) -> float:
        asked.append((rate, steps))
        return FIRST_ORDER(rate, steps)

    MetaGradientContract(made(), factor).check_closed_form()
    assert list(dict.fromkeys(asked)) == [(0.3, 1), (0.3, 4), (0.05, 7)]
    for wrong in asked:
        late = lambda rate, steps, wrong=wrong: FIRST_ORDER(rate, steps) + ((rate, steps) == wrong) * 1e-9
        with pytest.raises(AssertionError, match=rf"^at rate {wrong[0]} and {wrong[1]} steps .* off by 1e-09 of"):
            MetaGradientContract(made(), late).check_closed_form()


def turned(degrees: float) -> Change:
    """The direction turned towards another at right angles to it."""

    def change(found: Params, *_: Any) -> Params:
        if "theta" not in found:
            return found
        g = found["theta"]
        other = torch.roll(g, 1)
        other = other - (other @ g) / (g @ g) * g
        angle = np.deg2rad(degrees)
        return {"theta": float(np.cos(angle)) * g + float(np.sin(angle)) * other * g.norm() / other.norm()}

    return grads(change)


def test_a_direction_is_one_up_to_60_degrees_off() -> None:
    MetaGradientContract(made(change=turned(55.0))).check_direction()
    with pytest.raises(AssertionError, match=r"but the cosine is 0.423$"):  # cos 65°
        MetaGradientContract(made(change=turned(65.0))).check_direction()
    with pytest.raises(AssertionError, match=r"but the cosine is 0$"):
        MetaGradientContract(made(change=one("theta", torch.zeros_like))).check_direction()


@pytest.mark.parametrize("off", [1e-4, 1e-8])
@pytest.mark.parametrize("part", ["hidden.weight", "rate/hidden.weight"])
def test_an_exact_estimate_is_held_to_the_central_difference_also_of_rates(off: float, part: str) -> None:
    wrong = made(MAML, one(part, lambda value: value * (1 + off)), learn_rates=True)
    contract = MetaGradientContract(wrong, exact=True)
    if off < 1e-6:
        contract.check_derivative()
        return
    what = "the learnt rates" if part.startswith("rate/") else "the parameters"
    sentence = rf"^the meta-gradient of {what} along a random direction is .*, the central difference of the adapted"
    with pytest.raises(AssertionError, match=sentence):
        contract.check_derivative()
    MetaGradientContract(wrong).check_derivative()  # not said to be exact


class Keyed:
    """First-order MAML that gives its key to part of what it computes."""

    def __init__(self, inner: int | None = 0, query: int | None = 0, none: int | None = None) -> None:
        self.inner, self._by = InnerLoop(SGD(0.2), 3), (inner, query, none)

    def __call__(self, model: Any, theta: Params, episode: Episode, key: int | None) -> Any:
        inner, query, none = self._by
        own = none if key is None else key
        found, seen = FOMAML(self.inner)(model, theta, episode, own if query is not None else inner and 1)
        _, adapted = FOMAML(self.inner)(model, theta, episode, own if inner is not None else 1)
        return found, replace(seen, support_loss_end=adapted.support_loss_end)


@pytest.mark.parametrize(
    ("estimator", "uses_dropout", "sentence"),
    [
        (Keyed(), True, None),
        (Keyed(query=None, inner=None), True, "another key must give other dropout masks"),
        (Keyed(none=1), True, "key=None must mean no dropout"),
        (Keyed(inner=None), True, "the key must reach the inner loop: the support losses do not depend on it"),
        (Keyed(), False, "an estimator said to use no dropout must ignore the key"),
    ],
)
def test_keys_name_masks(estimator: Any, uses_dropout: bool, sentence: str | None) -> None:
    contract = MetaGradientContract(lambda rate, steps: estimator, uses_dropout=uses_dropout)
    if sentence is None:
        contract.check_keys()
        return
    with pytest.raises(AssertionError, match=rf"^{sentence}$"):
        contract.check_keys()


def without_key(found: Any, theta: Params, episode: Episode, key: Any) -> Any:
    return FOMAML(InnerLoop(SGD(0.2), 3))(SmoothClassifier(), theta, episode, None)


def test_an_estimator_without_dropout_ignores_its_key_and_a_model_of_ones_own_may_have_none() -> None:
    check = lambda change, **settings: MetaGradientContract(made(change=change), **settings).check_keys()
    check(without_key, uses_dropout=False)
    with pytest.raises(AssertionError, match=r"^another key must give other dropout masks$"):
        check(without_key)
    check(without_key, model=SmoothClassifier(dropout_rate=0.0))
    only_none = lambda found, theta, episode, key: (scale(found[0], 1.0 + (key is None)), found[1])
    ignoring = lambda *args: only_none(without_key(*args), *args[1:])
    with pytest.raises(AssertionError, match=r"^an estimator said to use no dropout must ignore the key$"):
        check(ignoring, uses_dropout=False)


def test_a_contract_looks_at_five_tasks_of_its_own_or_at_those_given() -> None:
    asked: list[tuple[float, int]] = []
    contract = MetaGradientContract(lambda *case: asked.append(case) or made()(*case))
    assert (contract.tasks.n_tasks, contract.estimator.inner.steps, asked) == (5, 3, [(0.2, 3)])
    assert contract.subject == SmoothClassifier()
    assert contract.theta.keys() == {"hidden.weight", "hidden.bias", "head.weight"}
    own = SmoothClassifier(width=4)
    given = MetaGradientContract(made(), model=own, episode=own.episode(3, 1))
    assert (given.subject, given.tasks.n_tasks, given.theta["hidden.bias"].shape) == (own, 3, (4,))
    assert [part.task_ids for part in contract._parts(2)] == [("task0", "task1"), ("task2", "task3"), ("task4",)]
    given.check()


# ------------------------------------------------------------------------------------------------ the subjects


def test_the_quadratic_tasks_have_the_losses_that_they_say() -> None:
    """½‖θ − c‖² of θ = (1, 2) and the means c = (0, 0) and (3, 2) of two targets each: 2.5 and 2."""
    model = QuadraticModel(2)
    targets = torch.tensor([[[-1.0, 1.0], [1.0, -1.0]], [[3.0, 2.0], [3.0, 2.0]]], dtype=torch.float64)
    batch = Batch({"x": torch.zeros(2, 2, 1)}, targets)
    params = {"theta": torch.tensor([[1.0, 2.0], [1.0, 2.0]], dtype=torch.float64)}
    assert model.losses(params, batch).tolist() == [2.5, 2.0]
    assert model.losses(params, batch, 3).tolist() == [2.5, 2.0]
    assert model.predict(params, batch).tolist() == [[[1.0, 2.0]] * 2] * 2
    assert model.features(params, batch).tolist() == model.predict(params, batch).tolist()
    assert model.begin(params, batch) is params
    assert model.task_execution == "stacked"
    assert model.require_second_order() is None
    assert (model.init(0)["theta"].dtype, model.init(0)["theta"].shape) == (torch.float64, (2,))
    assert QuadraticModel(2, torch.float32).init(0)["theta"].dtype == torch.float32
    expected = torch.randn(2, dtype=torch.float64, generator=torch_generator(3, "init", "theta"))
    assert torch.equal(model.init(3)["theta"], expected)


def test_quadratic_episodes_have_one_centre_a_task() -> None:
    episode = quadratic_episode(3, 2, seed=5)
    assert episode.task_ids == ("task0", "task1", "task2")
    assert episode.support is episode.query
    assert (episode.query.targets.shape, episode.query.targets.dtype) == ((3, 1, 2), torch.float64)
    assert episode.support.inputs["x"].tolist() == [[[0.0]]] * 3
    expected = torch.randn(3, 1, 2, dtype=torch.float64, generator=torch_generator(5, "contract", "centres"))
    assert torch.equal(episode.query.targets, expected)
    assert torch.equal(quadratic_episode(3, 2).query.targets, quadratic_episode(3, 2, 0).query.targets)
    assert not torch.equal(quadratic_episode(3, 2).query.targets, episode.query.targets)


def test_the_smooth_classifier_is_one_tanh_layer_under_a_softmax() -> None:
    model = SmoothClassifier()
    episode = model.episode(2, seed=4)
    params = {name: torch.stack([value, 2 * value]) for name, value in model.init(1).items()}
    w, b, h = (params[name].numpy() for name in ("hidden.weight", "hidden.bias", "head.weight"))
    x, targets = episode.query.inputs["x"].numpy(), episode.query.targets.numpy()
    hidden = np.tanh(x @ w + b[:, None])
    outputs = hidden @ h
    np.testing.assert_allclose(model.features(params, episode.query).numpy(), hidden, rtol=1e-12)
    np.testing.assert_allclose(model.predict(params, episode.query).numpy(), outputs, rtol=1e-12)
    logs = outputs - np.log(np.exp(outputs).sum(2, keepdims=True))
    losses = -np.take_along_axis(logs, targets[..., None], 2)[..., 0].mean(1)
    np.testing.assert_allclose(model.losses(params, episode.query).numpy(), losses, rtol=1e-12)
    dropped = model.predict({**params, "head.weight": torch.eye(6).double().repeat(2, 1, 1)}, episode.query, 3).numpy()
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], (hidden / 0.8)[kept], rtol=1e-12)
    assert 0.6 < kept.mean() < 0.95  # of 108 units 0.8 stay; SE 0.04
    assert torch.equal(model.losses(params, episode.query, 3), model.losses(params, episode.query, 3))


def test_the_smooth_classifiers_start_and_episodes_come_from_named_streams() -> None:
    model, drawn = SmoothClassifier(n_inputs=4, width=9, n_classes=2), SimpleNamespace()
    drawn.own = lambda name, *shape: torch.randn(
        shape, dtype=torch.float64, generator=torch_generator(2, "init", name)
    ).numpy()
    start = {name: value.numpy() for name, value in model.init(2).items()}
    np.testing.assert_allclose(start["hidden.weight"], drawn.own("hidden.weight", 4, 9) / 2)  # √4
    np.testing.assert_allclose(start["hidden.bias"], drawn.own("hidden.bias", 9) / 30)  # a tenth of 1/√9
    np.testing.assert_allclose(start["head.weight"], drawn.own("head.weight", 9, 2) / 3)
    episode = model.episode(3)
    assert episode.task_ids == ("task0", "task1", "task2")
    for name, batch, size in (("support", episode.support, 6), ("query", episode.query, 9)):
        generator = torch_generator(0, "contract", name)
        inputs = torch.randn((3, size, 4), dtype=torch.float64, generator=generator)
        assert torch.equal(batch.inputs["x"], inputs)
        assert torch.equal(batch.targets, torch.randint(0, 2, (3, size), generator=generator))
    assert SmoothClassifier().init(0)["hidden.weight"].shape == (5, 6)
    assert SmoothClassifier().init(0)["head.weight"].shape == (6, 3)


def test_the_masks_that_an_estimator_is_asked_for() -> None:
    """0 among them, which is a key like any other, and not ``None``."""
    keys: list[tuple[bool, int | None]] = []

    def noting(found: Any, theta: Params, episode: Episode, key: int | None) -> Any:
        keys.append(("theta" in theta, key))
        return found

    check_meta_gradient(made(change=noting), FIRST_ORDER)
    assert {key for quadratic, key in keys if quadratic} == {0}
    assert {key for quadratic, key in keys if not quadratic} == {None, 1, 2}


def test_contracts_on_quadratics_are_of_three_tasks_in_four_dimensions() -> None:
    seen: list[tuple[tuple[int, ...], int]] = []
    noting = lambda found, theta, episode, key: (
        seen.append((tuple(theta.get("theta", torch.zeros(0)).shape), episode.n_tasks)) or found
    )
    MetaGradientContract(made(change=noting), FIRST_ORDER).check_closed_form()
    assert seen == [((4,), 3)] * 3


def test_threads_run_chunks_of_two_tasks_two_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pools: list[int] = []
    sizes: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, n: int) -> None:
            pools.append(n)
            super().__init__(n)

    def noting(found: Any, theta: Params, episode: Episode, key: int | None) -> Any:
        if threading.current_thread() is not threading.main_thread():
            sizes.append(episode.n_tasks)
        return found

    monkeypatch.setattr(learner_contract, "ThreadPoolExecutor", Pool)
    MetaGradientContract(made(change=noting)).check_chunks()
    assert (pools, sorted(sizes)) == ([2], [1, 2, 2])


def test_parts_and_reports_that_are_close_enough() -> None:
    x = {"a": torch.tensor([2.0], dtype=torch.float64)}
    close = lambda by: learner_contract._close(x, {"a": x["a"] + by})
    assert (close(1.9e-9), close(2.2e-9)) == (True, False)  # relative to 2
    zero = {"a": torch.zeros(1, dtype=torch.float64)}
    near_zero = lambda by: learner_contract._close({"a": zero["a"] + by}, zero)
    assert (near_zero(0.9e-12), near_zero(1.1e-12)) == (True, False)
    assert not learner_contract._close(x, {"b": x["a"]})
    assert not learner_contract._close(x, {**x, "b": x["a"]})


@pytest.mark.parametrize("off", [0.9e-10, 1.1e-10])
def test_a_closed_form_is_held_to_one_in_ten_billion(off: float) -> None:
    contract = MetaGradientContract(made(), lambda rate, steps: FIRST_ORDER(rate, steps) + off)
    if off < 1e-10:
        contract.check_closed_form()
        return
    with pytest.raises(AssertionError, match=r"is off by 1.1e-10 of"):
        contract.check_closed_form()


@pytest.mark.parametrize("off", [0.9e-6, 2e-6])
def test_a_derivative_is_held_to_one_in_a_million_of_the_gradients_length(off: float) -> None:
    """Along the random direction of the check itself, so that all of what is off counts."""
    contract = MetaGradientContract(made(MAML), exact=True)
    exact, _ = contract._call(contract.tasks)
    size = float(norm(exact))
    direction = unit_direction(contract.theta)
    moved = grads(lambda found, *_: {name: value + off * size * direction[name] for name, value in found.items()})
    wrong = MetaGradientContract(made(MAML, moved), exact=True)
    if off < 1e-6:
        wrong.check_derivative()
        return
    with pytest.raises(AssertionError, match=r"^the meta-gradient of the parameters along a random direction"):
        wrong.check_derivative()


def test_a_direction_is_one_whatever_its_length() -> None:
    for factor in (1e-9, 1e9):
        MetaGradientContract(made(change=grads(lambda found, *_, by=factor: scale(found, by)))).check_direction()
