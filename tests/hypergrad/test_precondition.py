"""Derivatives of optimisers' steps against differences of the published updates, written here in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metascale.core.errors import InputError
from metascale.hypergrad.precondition import (
    adagrad_derivative,
    adam_derivative,
    clip_vjp,
    multiply,
    rmsprop_derivative,
    step_vjp,
)

G = np.array([0.7, -0.3, 1.9])
M, S = np.array([0.2, 0.5, -0.4]), np.array([0.3, 0.05, 1.1])
"""Moments before the step."""
RATE, EPS = 0.01, 0.2


def slope(update, step=1e-6):
    """Of an elementwise update, at G."""
    return (update(G + step) - update(G - step)) / (2 * step)


def tensors(*arrays):
    return [torch.tensor(array, dtype=torch.float64) for array in arrays]


def close(found, expected):
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-8)


def test_adam():
    def moments(g):
        return 0.8 * M + 0.2 * g, 0.95 * S + 0.05 * g**2

    def update(g):
        m, s = moments(g)
        return RATE * (m / (1 - 0.8**3)) / (np.sqrt(s / (1 - 0.95**3)) + EPS)

    close(adam_derivative(*tensors(G, *moments(G)), count=3, lr=RATE, betas=(0.8, 0.95), eps=EPS), slope(update))


def test_rmsprop():
    def square(g):
        return 0.9 * S + 0.1 * g**2

    close(
        rmsprop_derivative(*tensors(G, square(G)), lr=RATE, decay=0.9, eps=EPS),
        slope(lambda g: RATE * g / (np.sqrt(square(g)) + EPS)),
    )


def test_adagrad():
    close(
        adagrad_derivative(*tensors(G, S + G**2), rate=RATE, eps=EPS),
        slope(lambda g: RATE * g / (np.sqrt(S + g**2) + EPS)),
    )


def test_an_element_without_a_square_has_no_derivative_and_the_others_have_theirs():
    g, m, s = tensors([0.0, 2.0], [0.0, 0.0], [0.0, 4.0])
    # r = 2 and e = 0: Adam's 1/(r+e) at m = 0 and count 1 (c₁ = 0.2, c₂ = 0.05, so r = √80); the others' as they stand.
    adam = adam_derivative(g, m, s, count=1, lr=1.0, betas=(0.8, 0.95), eps=0.0)
    assert adam.tolist() == pytest.approx([0.0, 0.2 / 0.2 / np.sqrt(80)])
    assert rmsprop_derivative(g, s, lr=1.0, decay=0.5, eps=0.0).tolist() == pytest.approx([0.0, 1 / 2 - 0.5 * 4 / 8])
    assert adagrad_derivative(g, s, rate=3.0, eps=1.0).tolist() == pytest.approx([0.0, 3 * (1 / 3 - 4 / (2 * 9))])


def test_a_step_s_product_is_by_the_transpose_and_of_nought_where_it_reads_no_gradient():
    matrix, w = tensors([[1.0, 2.0], [3.0, 5.0]], [7.0, 11.0])
    grads = {"a": torch.ones(2, dtype=torch.float64), "unread": torch.ones(3)}
    found = step_vjp(lambda g: {"a": 4.0 - matrix @ g["a"], "unread": torch.zeros(3)}, grads, {"a": w, "unread": w})
    assert found["a"].tolist() == [1 * 7 + 3 * 11, 2 * 7 + 5 * 11]
    assert found["unread"].tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="no derivative with respect to the gradient: set adapt=False"):
        step_vjp(lambda g: {"a": torch.zeros(2)}, grads, {"a": w})


def test_clipping_pulls_back_what_differences_give():
    g, w = {"a": np.array([3.0, 4.0]), "b": np.array([12.0])}, {"a": np.array([0.5, -2.0]), "b": np.array([1.5])}
    norm, limit, step = 13.0, 2.0, 1e-6

    def dot(values):  # ⟨w, clip(values)⟩
        length = np.sqrt(sum((value**2).sum() for value in values.values()))
        return sum((w[name] * value * min(1, limit / length)).sum() for name, value in values.items())

    clipped = {name: torch.tensor(value * limit / norm) for name, value in g.items()}
    ways = {name: torch.tensor(value) for name, value in w.items()}
    found = clip_vjp(clipped, norm, limit, ways)
    for name, size in (("a", 2), ("b", 1)):
        for k in range(size):
            one = step * np.eye(size)[k]
            high, low = dot({**g, name: g[name] + one}), dot({**g, name: g[name] - one})
            assert float(found[name][k]) == pytest.approx((high - low) / (2 * step), rel=1e-7)
    assert clip_vjp(clipped, 13.0, 13.0, ways) is ways
    # ⟨g, w⟩ over limit² is (3·0.5 − 4·2 + 12·1.5) · (2/13) / 4; two processes with equal parts have twice that.
    along = 11.5 * 2 / 13 / 4
    both = clip_vjp(clipped, norm, limit, ways, total=lambda value: 2 * value)
    assert float(both["b"][0]) == pytest.approx((1.5 - 2 * along * 12 * 2 / 13) * 2 / 13)


def test_a_diagonal_multiplies_by_name():
    a, b = tensors([2.0, 3.0], [5.0])
    assert {n: v.tolist() for n, v in multiply({"a": a, "b": b}, {"b": b, "a": a}).items()} == {"b": [25], "a": [4, 9]}
