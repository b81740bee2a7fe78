"""Operations counted against numbers worked out by hand from the shapes, and what cannot be counted named."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metascale.models.kernels.recompute import recomputed
from metascale.training.flops import FlopsNotCounted, count_flops

B, T, D, H, L = 2, 5, 8, 16, 6
Q, K, V = (torch.ones(1, 4, length, width, requires_grad=True) for length, width in ((L, 8), (T, 8), (T, 8)))


def lstm(**settings: bool) -> nn.LSTM:
    return nn.LSTM(D, H, batch_first=True, **settings)


def bilinear_by_hand(batch: int, out: int, left: int, right: int) -> int:
    """x·W for every output [batch, out, left] → [batch, out, right], then with y."""
    return 2 * batch * out * left * right + 2 * batch * out * right


CASES: dict[str, tuple[Callable[[], object], int]] = {
    "matrix times vector": (lambda: torch.ones(3, 4) @ torch.ones(4), 2 * 3 * 4),
    "added": (lambda: torch.addmv(torch.ones(3), torch.ones(3, 4), torch.ones(4)), 2 * 3 * 4),
    "dot": (lambda: torch.dot(torch.ones(7), torch.ones(7)), 2 * 7),
    "summed products": (lambda: torch.addbmm(torch.ones(3, 5), torch.ones(2, 3, 4), torch.ones(2, 4, 5)), 2 * 2 * 60),
    "products in place": (lambda: torch.ones(2, 3, 5).baddbmm_(torch.ones(2, 3, 4), torch.ones(2, 4, 5)), 2 * 2 * 60),
    "integers": (lambda: torch._int_mm(*[torch.ones(32, 32, dtype=torch.int8)] * 2), 2 * 32**3),
    "bilinear": (lambda: nn.Bilinear(8, 6, 4)(torch.ones(3, 8), torch.ones(3, 6)), bilinear_by_hand(3, 4, 8, 6)),
    "attention": (lambda: F.scaled_dot_product_attention(Q, K, V), 2 * 4 * L * T * (8 + 8)),
    "attention, both passes": (
        lambda: F.scaled_dot_product_attention(Q, K, V).sum().backward(),
        2 * 4 * L * T * (8 + 8) + 2 * 4 * L * T * (3 * 8 + 2 * 8),
    ),
    "lstm": (lambda: lstm()(torch.ones(B, T, D)), 2 * B * T * 4 * H * (D + H)),
    "lstm without gradients": (torch.no_grad()(lambda: lstm()(torch.ones(B, T, D))), 2 * B * T * 4 * H * (D + H)),
    "two directions": (lambda: lstm(bidirectional=True)(torch.ones(B, T, D)), 2 * 2 * B * T * 4 * H * (D + H)),
    "two layers": (
        lambda: nn.LSTM(D, H, num_layers=2)(torch.ones(T, B, D)),
        2 * B * T * 4 * H * (D + H) + 2 * B * T * 4 * H * (H + H),
    ),
    "lstm, both passes": (
        lambda: lstm()(torch.ones(B, T, D, requires_grad=True))[0].sum().backward(),
        3 * 2 * B * T * 4 * H * (D + H),
    ),
    "rows by groups": (
        lambda: torch._grouped_mm(
            torch.ones(16, 16).bfloat16(), torch.ones(2, 16, 32).bfloat16(), torch.tensor([8, 16], dtype=torch.int32)
        ),
        2 * 16 * 16 * 32,
    ),
    "batch norm and convolution": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))(torch.ones(2, 3, 8, 8)),
        2 * 2 * 4 * 36 * 27,
    ),
    "element-wise": (lambda: torch.softmax(torch.ones(4, 5).exp().norm() * torch.ones(2), -1), 0),
}


@pytest.mark.parametrize("name", CASES)
def test_counts_are_those_worked_out_by_hand(name: str) -> None:
    call, expected = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error", FlopsNotCounted)
        assert count_flops(call) == expected


def test_a_gru_and_a_cell_are_counted_by_their_products() -> None:
    """Three gates, where the LSTM has four; these run as separate products."""
    assert count_flops(lambda: nn.GRU(D, H, batch_first=True)(torch.ones(B, T, D))) == 2 * B * T * 3 * H * (D + H)
    assert count_flops(lambda: nn.LSTMCell(D, H)(torch.ones(B, D))) == 2 * B * 4 * H * (D + H)


@torch.library.custom_op("metascale_test::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x @ x


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("_linalg_svd", lambda: torch.linalg.svd(torch.eye(4))),
        ("linalg_cholesky_ex", lambda: torch.linalg.cholesky(torch.eye(4))),
        ("_linalg_solve_ex", lambda: torch.linalg.solve(torch.eye(4), torch.ones(4))),
        ("_euclidean_dist", lambda: torch.cdist(torch.ones(30, 4), torch.ones(30, 4))),
        ("_cdist_forward", lambda: torch.cdist(torch.ones(5, 4), torch.ones(5, 4))),
        ("_fft_r2c", lambda: torch.fft.fft(torch.ones(8))),
        ("_sparse_addmm", lambda: torch.sparse.mm(torch.eye(3).to_sparse(), torch.ones(3, 3))),
        ("metascale_test.twice", lambda: twice(torch.ones(3, 3))),
    ],
)
def test_work_that_cannot_be_counted_is_named(name: str, call: Callable[[], object]) -> None:
    with pytest.warns(FlopsNotCounted, match=name):
        count_flops(call)


def test_a_block_that_runs_again_is_counted_twice() -> None:
    """[3, 4] times [4, 5]: forward, forward again, and the gradient of the input."""
    block = nn.Linear(4, 5, bias=False).requires_grad_(False)
    x = torch.ones(3, 4, requires_grad=True)

    def step() -> None:
        torch.autograd.grad(recomputed(lambda inputs, _: block(inputs[0]), (x,), ()).sum(), x)

    assert count_flops(step) == 3 * 2 * 3 * 4 * 5
