"""Every curvature equals its own dense definition on a small net, task by task."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from metascale.core.errors import InputError
from metascale.core.types import Batch, Params
from metascale.hypergrad.curvature import (
    BlockDiagonal,
    Curvature,
    Diagonal,
    Exact,
    FiniteDifference,
    GaussNewton,
    LossPart,
    LossPoint,
    Zero,
    layer_of,
    probe_signs,
)
from metascale.meta.inner import loss_parts
from metascale.models.perceptron import Perceptron
from metascale.testing.subjects import SmoothClassifier

T = 3
MODEL = SmoothClassifier(n_inputs=2, width=2, n_classes=2)  # 4 + 2 + 4 numbers
DROPOUT = 7


def noise(shape: Sequence[int], seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stacked(model: SmoothClassifier | Perceptron, scale: float = 0.7) -> Params:
    return {
        name: scale * noise((T, *value.shape), number) + value.double()
        for number, (name, value) in enumerate(model.init(0).items())
    }


PARAMS = stacked(MODEL)
BATCH = MODEL.episode(T).support
VECTOR = {name: noise(value.shape, 50 + number) for number, (name, value) in enumerate(PARAMS.items())}
HEAD_ONLY = {"head.weight": VECTOR["head.weight"]}


def point(micro_batch: int | None = None, dropout: int | None = DROPOUT) -> LossPoint:
    return LossPoint(PARAMS, loss_parts(MODEL, BATCH, micro_batch, dropout), tuple(range(T)))


def flat(x: Params, task: int, names: Sequence[str] = tuple(PARAMS)) -> torch.Tensor:
    return torch.cat([x[name][task].reshape(-1) for name in names])


def named(vector: torch.Tensor, like: Params = PARAMS) -> Params:
    """One task's flat vector as parameters [1, ...]."""
    parts = vector.split([value[0].numel() for value in like.values()])
    return {n: part.view(1, *v.shape[1:]) for part, (n, v) in zip(parts, like.items(), strict=True)}


def outputs_of(task: int, dropout: int | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """One task's outputs [B, C] as a function of its flat parameters, under the masks it has in the whole batch."""

    def outputs(theta: torch.Tensor) -> torch.Tensor:
        own = named(theta)
        params = {n: torch.cat([v[:task], own[n], v[task + 1 :]]) for n, v in PARAMS.items()}
        return MODEL.predict(params, BATCH, dropout)[task]

    return outputs


def losses_of_examples(outputs: torch.Tensor, task: int) -> torch.Tensor:
    return F.cross_entropy(outputs, BATCH.targets[task], reduction="none")


def dense_hessian(task: int, dropout: int | None) -> torch.Tensor:
    outputs = outputs_of(task, dropout)

    def loss(theta: torch.Tensor) -> torch.Tensor:
        return losses_of_examples(outputs(theta), task).mean()

    return torch.autograd.functional.hessian(loss, flat(PARAMS, task))


def dense_gauss_newton(task: int, dropout: int | None) -> torch.Tensor:
    """Jᵀ (diag(p) − ppᵀ) J / B, summed over the examples."""
    outputs = outputs_of(task, dropout)
    theta = flat(PARAMS, task)
    jacobian = torch.autograd.functional.jacobian(outputs, theta)  # [B, C, P]
    p = outputs(theta).softmax(-1)
    inner = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    return torch.einsum("bcp,bcd,bdq->pq", jacobian, inner, jacobian) / len(p)


def dense_blocks(task: int, dropout: int | None) -> torch.Tensor:
    block = torch.cat([torch.full((PARAMS[n][0].numel(),), float(n == "head.weight")) for n in PARAMS])
    return dense_hessian(task, dropout) * (block.unsqueeze(0) == block.unsqueeze(1))


def dense_diagonal(task: int, dropout: int | None) -> torch.Tensor:
    return torch.diag(dense_hessian(task, dropout).diagonal())


def dense_fisher(task: int, dropout: int | None) -> torch.Tensor:
    outputs = outputs_of(task, dropout)

    def losses(theta: torch.Tensor) -> torch.Tensor:
        return losses_of_examples(outputs(theta), task)

    gradients = torch.autograd.functional.jacobian(losses, flat(PARAMS, task))  # [B, P]
    return torch.diag(gradients.square().mean(0))


def every_sign(at: LossPoint, names: Sequence[str], n_probes: int) -> Iterator[Params]:
    """All sign vectors there are: the mean over them is the expectation over random ones."""
    like = {name: at.params[name] for name in names}
    size = sum(value[0].numel() for value in like.values())
    for signs in itertools.product((-1.0, 1.0), repeat=size):
        one = named(torch.tensor(signs, dtype=torch.float64), like)
        yield {name: value.expand(T, *value.shape[1:]) for name, value in one.items()}


@pytest.fixture
def all_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metascale.hypergrad.curvature.probe_signs", every_sign)
    monkeypatch.setattr("metascale.hypergrad.curvature.probe_signs", every_sign)


CASES: dict[str, tuple[Curvature, Callable[[int, int | None], torch.Tensor], float]] = {
    "exact": (Exact(), dense_hessian, 1e-12),
    "finite difference": (FiniteDifference(), dense_hessian, 1e-7),
    "gauss-newton, forward mode": (GaussNewton(), dense_gauss_newton, 1e-12),
    "gauss-newton, difference": (GaussNewton("difference"), dense_gauss_newton, 1e-7),
    "block diagonal": (BlockDiagonal(), dense_blocks, 1e-12),
    "block diagonal, all probes": (BlockDiagonal("probes", probes=4), dense_blocks, 1e-12),
    "fisher": (Diagonal("fisher"), dense_fisher, 1e-12),
    "hutchinson, all probes": (Diagonal("hutchinson", probes=1024), dense_diagonal, 1e-12),
}


def assert_product(found: Params, matrix: Callable[[int], torch.Tensor], vector: Params, rtol: float) -> None:
    whole = {name: vector.get(name, torch.zeros_like(value)) for name, value in PARAMS.items()}
    assert list(found) == list(PARAMS)
    for task in range(T):
        expected = matrix(task) @ flat(whole, task)
        assert float((flat(found, task) - expected).norm()) < rtol * float(expected.norm())


@pytest.mark.usefixtures("all_signs")
@pytest.mark.parametrize("dropout", [None, DROPOUT])
@pytest.mark.parametrize("name", CASES)
def test_a_product_is_that_of_the_dense_matrix(name: str, dropout: int | None) -> None:
    curvature, dense, rtol = CASES[name]
    found = curvature(point(dropout=dropout), VECTOR)
    assert_product(found, lambda task: dense(task, dropout), VECTOR, rtol)
    assert not any(value.requires_grad for value in found.values())


@pytest.mark.usefixtures("all_signs")
@pytest.mark.parametrize("name", [name for name in CASES if "hutchinson" not in name])
def test_a_vector_in_some_parameters_gives_their_columns(name: str) -> None:
    """Parameters that do not adapt feel the curvature through those that do."""
    curvature, dense, rtol = CASES[name]
    assert_product(curvature(point(), HEAD_ONLY), lambda task: dense(task, DROPOUT), HEAD_ONLY, rtol)


@pytest.mark.parametrize("name", ["exact", "gauss-newton, forward mode", "block diagonal", "fisher"])
def test_uneven_micro_batches_give_the_whole(name: str) -> None:
    curvature, dense, rtol = CASES[name]
    found = curvature(point(micro_batch=4, dropout=None), VECTOR)
    assert_product(found, lambda task: dense(task, None), VECTOR, rtol)


def test_hutchinson_in_some_parameters_is_their_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metascale.hypergrad.curvature.probe_signs", every_sign)
    found = Diagonal("hutchinson")(point(), HEAD_ONLY)
    # 16 sign vectors instead of one: the estimate divides by the number it was asked for
    found = {name: value / 16 for name, value in found.items()}
    assert_product(found, lambda task: dense_diagonal(task, DROPOUT), HEAD_ONLY, 1e-12)


def test_random_probes_are_unbiased_and_named() -> None:
    many = Diagonal("hutchinson", probes=3000)(point(), VECTOR)
    for task in range(T):
        expected = dense_diagonal(task, DROPOUT) @ flat(VECTOR, task)
        # off-diagonal noise of one probe is about the norm of H v; 3000 probes leave a fiftieth
        noise_of_one = dense_hessian(task, DROPOUT).norm() * VECTOR["head.weight"].abs().max()
        assert float((flat(many, task) - expected).norm()) < 0.1 * float(noise_of_one)
    once, again = (Diagonal("hutchinson")(point(), VECTOR) for _ in range(2))
    other = Diagonal("hutchinson")(replace(point(), streams=(5, 6, 7)), VECTOR)
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not torch.equal(once["hidden.weight"], other["hidden.weight"])


def test_probes_of_a_task_do_not_depend_on_the_others() -> None:
    (together,) = probe_signs(point(), tuple(PARAMS), 1)
    alone = LossPoint({n: v[1:2] for n, v in PARAMS.items()}, (), (1,))
    (single,) = probe_signs(alone, tuple(PARAMS), 1)
    for name, value in single.items():
        assert torch.equal(value[0], together[name][1])
        assert torch.equal(value.abs(), torch.ones_like(value))
    first, second = probe_signs(point(), tuple(PARAMS), 2)
    assert not all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(value[0], value[1]) for value in first.values())


def test_the_step_of_a_difference_is_each_tasks_own() -> None:
    """Vectors of very different size, and none at all, keep their own accuracy."""
    factors = torch.tensor([1e7, 0.0, 1e-7], dtype=torch.float64)
    vector = {name: value * factors.view(-1, *[1] * (value.ndim - 1)) for name, value in VECTOR.items()}
    for curvature, dense in ((FiniteDifference(), dense_hessian), (GaussNewton("difference"), dense_gauss_newton)):
        found = curvature(point(), vector)
        assert float(flat(found, 1).abs().max()) == 0.0
        for task in (0, 2):
            expected = dense(task, DROPOUT) @ flat(vector, task)
            assert float((flat(found, task) - expected).norm()) < 1e-7 * float(expected.norm())


def test_a_difference_has_an_error_of_second_order_in_its_step() -> None:
    errors = []
    for eps in (0.02, 0.01):
        found = FiniteDifference(eps)(point(), VECTOR)
        expected = dense_hessian(0, DROPOUT) @ flat(VECTOR, 0)
        errors.append(float((flat(found, 0) - expected).norm()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_gauss_newton_of_squared_errors_and_linear_outputs_is_the_hessian() -> None:
    model = Perceptron(2, 2, width=2, depth=1, activation="tanh", loss="squared_error")
    params = stacked(model)
    batch = Batch({"x": noise((T, 5, 2), 1)}, noise((T, 5, 2), 2))
    at = LossPoint(params, loss_parts(model, batch, None, None))
    vector = {"head.weight": noise((T, 2, 2), 3)}  # outputs are linear in the head alone
    exact, found = Exact()(at, vector), GaussNewton()(at, vector)
    for name in ("head.weight", "head.bias"):
        torch.testing.assert_close(found[name], exact[name], rtol=1e-10, atol=1e-12)
    assert not torch.allclose(found["layer0.weight"], exact["layer0.weight"])


def test_gauss_newton_runs_on_threads() -> None:
    """torch's forward mode has one level for all threads."""
    expected = GaussNewton()(point(), VECTOR)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: GaussNewton()(point(), VECTOR), range(40)):
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_no_curvature_is_zero() -> None:
    found = Zero()(point(), VECTOR)
    assert list(found) == list(PARAMS)
    assert all(float(value.abs().max()) == 0.0 for value in found.values())


def test_a_linear_loss_has_no_curvature() -> None:
    at = LossPoint({"w": torch.ones(2, 3)}, (LossPart(lambda p: p["w"].sum(1)),), (0, 1))
    vector = {"w": torch.ones(2, 3)}
    for curvature in (Exact(), BlockDiagonal(), BlockDiagonal("probes"), Diagonal("hutchinson"), FiniteDifference(0.1)):
        torch.testing.assert_close(curvature(at, vector)["w"], torch.zeros(2, 3), rtol=0, atol=1e-5)


def attended(params: Params) -> torch.Tensor:
    """[T, 3, 1, 2] through a fused attention kernel, which has a first derivative only."""
    rows = params["w"].view(-1, 1, 3, 2)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(rows, rows, rows).transpose(1, 2)


def test_what_says_first_order_needs_no_second_derivative() -> None:
    def output_losses(outputs: torch.Tensor) -> torch.Tensor:
        return outputs.square().sum((1, 2, 3))

    def losses(params: Params) -> torch.Tensor:
        return output_losses(attended(params))

    point = LossPoint({"w": noise((2, 6), 0)}, (LossPart(losses, 1.0, attended, output_losses, losses),), (0, 1))
    vector = {"w": noise((2, 6), 1)}
    kinds: tuple[Curvature, ...] = (
        Exact(),
        GaussNewton(),
        GaussNewton("difference"),
        BlockDiagonal(),
        Diagonal("fisher"),
        Diagonal("hutchinson"),
        FiniteDifference(),
        Zero(),
    )
    for curvature in kinds:
        if curvature.second_order:
            with pytest.raises(RuntimeError, match=r"attention.* is not implemented|does not support it"):
                curvature(point, vector)
        else:
            assert list(curvature(point, vector)) == ["w"]
    assert [kind.second_order for kind in kinds] == [True, True, False, True, False, True, False, False]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder.layer.3.attention.self.query.lora_A", "encoder.layer.3"),
        ("encoder.layer.3.output.dense.lora_B", "encoder.layer.3"),
        ("h.11.attn.c_attn.lora_A", "h.11"),
        ("encoder.block.0.layer.0.SelfAttention.q.lora_A", "encoder.block.0"),
        ("layer0.weight", "layer0"),
        ("block2.gain", "block2"),
        ("head.bias", "head"),
        ("theta", "theta"),
    ],
)
def test_layers_by_name(name: str, layer: str) -> None:
    assert layer_of(name) == layer


def test_what_cannot_be_is_refused() -> None:
    bare = LossPoint(PARAMS, (LossPart(point().parts[0].losses),))
    with pytest.raises(InputError, match="eps of a finite difference must be positive, not 0"):
        FiniteDifference(0.0)
    with pytest.raises(InputError, match="at least 1 probe, not 0"):
        Diagonal("hutchinson", probes=0)
    with pytest.raises(InputError, match="at least 1 probe, not 0"):
        BlockDiagonal("probes", probes=0)
    with pytest.raises(InputError, match=r"output_losses\(outputs, batch\)"):
        GaussNewton()(bare, VECTOR)
    with pytest.raises(InputError, match="one gradient an example"):
        Diagonal("fisher")(bare, VECTOR)
    with pytest.raises(InputError, match="one stream a task, not 0"):
        Diagonal("hutchinson")(bare, VECTOR)
