"""Resolvents of tridiagonal matrices by a parallel scan: O(N) work, O(log N) depth, exact gradients, no overflow.

The matrix has diagonal a_0 ... a_{N-1} and the same product k of off-diagonals everywhere; w_i = a_i − z, with the
energy z above the real axis.

Appending a site to a chain turns the last diagonal entry of its resolvent by m → 1/(w − k·m), a Möbius map. A run of
sites is again a Möbius map of what enters it, s → c + b·s / (1 − a·s), where a, c and b are entries of the run's own
resolvent: its first corner, k times its last corner, k times the product of its off-diagonal corners. Held in this
form the maps are normalised as they stand, |a| ≤ 1/Im z and |b|, |c| likewise times k, however long the run is, while
a product of 2x2 matrices grows exponentially. Neighbouring runs are merged two by two on the way up; on the way down
every run learns what enters it.

Positions are held such that the left members of all pairs come first, at every level, so each step works on contiguous
halves.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import torch
from torch.autograd.function import once_differentiable

GradientForm = Literal["exact", "published"]
_MOST_RUNS_AT_THE_TOP = 8


def leading_resolvent(w: torch.Tensor, coupling: float = 1.0, gradient: GradientForm = "exact") -> torch.Tensor:
    """m_i = 1/(w_i − k·m_{i−1}) along the last axis: the last diagonal entry of the leading i×i block's resolvent.

    m_i depends on positions 0 to i alone, and |m_i| ≤ 1/Im z.

    Args:
        w: [..., N] complex, a_i − z; the imaginary part is negative.
        coupling: k, the product of the two off-diagonals, not negative.
        gradient: ``"exact"`` by the adjoint recursion λ_j = conj(g_j) + k·m_{j+1}²·λ_{j+1}, dL/da_j = −Re(λ_j·m_j²); or
            ``"published"``, which keeps the term of the same position alone, with a wrong sign on the imaginary part:
            −Re(g_j·m_j²).
    """
    result: torch.Tensor = _LeadingResolvent.apply(w, coupling, gradient)
    return result


def resolvent_diagonal(w: torch.Tensor, coupling: float = 1.0, gradient: GradientForm = "exact") -> torch.Tensor:
    """G_i, the diagonal of the whole resolvent, along the last axis: every G_i depends on every position.

    G_i = 1/(w_i − k·l_{i−1} − k·r_{i+1}) with the left and right Weyl functions l and r (the resolvents' last and first
    corners of the blocks on either side). Arguments as `leading_resolvent`.
    """
    result: torch.Tensor = _ResolventDiagonal.apply(w, coupling, gradient)
    return result


class _LeadingResolvent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: torch.Tensor, coupling: float, gradient: GradientForm) -> torch.Tensor:
        sites = _positions_first(w)
        m = (sites - moebius_scan(sites, coupling)).reciprocal_()
        ctx.save_for_backward(m)
        ctx.settings = (w.shape, coupling, gradient)
        return _positions_last(m, w.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        shape, coupling, form = ctx.settings
        (m,) = ctx.saved_tensors
        square = m * m
        if form == "published":
            return _positions_last(-(_positions_first(grad) * square).conj(), shape), None, None
        adjoint = _positions_first(grad).conj().resolve_conj()
        decay = square if coupling == 1.0 else coupling * square
        adjoint = adjoint + affine_scan(decay, decay * adjoint, reverse=True)
        return _positions_last((-adjoint * square).conj(), shape), None, None


class _ResolventDiagonal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, w: torch.Tensor, coupling: float, gradient: GradientForm) -> torch.Tensor:
        sites = _positions_first(w)
        n = sites.shape[1]
        entering = moebius_scan(torch.cat([sites, sites.flip(0)], 1), coupling)  # from the left, and from the right
        from_left, from_right = entering[:, :n], entering[:, n:].flip(0)
        diagonal = (sites - from_left - from_right).reciprocal_()
        ctx.save_for_backward(sites, from_left, from_right, diagonal)
        ctx.settings = (w.shape, coupling, gradient)
        return _positions_last(diagonal, w.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        shape, coupling, form = ctx.settings
        sites, from_left, from_right, diagonal = ctx.saved_tensors
        if form == "published":
            return _positions_last(-(_positions_first(grad) * diagonal.square()).conj(), shape), None, None
        own = _positions_first(grad).conj() * diagonal.square()
        left, right = (sites - from_left).reciprocal_().square(), (sites - from_right).reciprocal_().square()
        decay, source = coupling * torch.cat([left.flip(0), right], 1), coupling * torch.cat([own.flip(0), own], 1)
        adjoints = affine_scan(decay, source, reverse=False)
        n = own.shape[1]
        total = own + adjoints[:, :n].flip(0) * left + adjoints[:, n:] * right
        return _positions_last((-total).conj(), shape), None, None


def moebius_scan(sites: torch.Tensor, coupling: float) -> torch.Tensor:
    """[N, M] s_i = k·m_{i−1}, what enters site i from the left (s_0 = 0), of ``sites`` w [N, M] complex."""
    order, places, n_levels = _order(len(sites), False, sites.device)
    one = torch.ones((), dtype=sites.dtype, device=sites.device)
    first = sites.index_select(0, order).reciprocal_()
    last = first if coupling == 1.0 else coupling * first
    through = first * last
    lefts = []
    for _ in range(n_levels):
        half = len(first) // 2
        first_l, last_l, first_r, last_r = first[:half], last[:half], first[half:], last[half:]
        lefts.append((first_l, last_l, through[:half]))
        between = torch.addcmul(one, last_l, first_r, value=-1).reciprocal_()
        out_l, out_r = (through.unflatten(0, (2, half)) * between).unbind(0)
        first, last = torch.addcmul(first_l, out_l, first_r), torch.addcmul(last_r, out_r, last_l)
        through = out_l * out_r
    entering = [torch.zeros_like(first[0])]
    for first_r, last_r, through_r in zip(first[:-1], last[:-1], through[:-1], strict=True):
        entering.append(_through_run(first_r, last_r, through_r, entering[-1], one))
    result = torch.stack(entering)
    for first_l, last_l, through_l in reversed(lefts):
        result = torch.cat([result, _through_run(first_l, last_l, through_l, result, one)])
    return result.index_select(0, places)


def _through_run(
    first: torch.Tensor, last: torch.Tensor, through: torch.Tensor, s: torch.Tensor, one: torch.Tensor
) -> torch.Tensor:
    """c + b·s / (1 − a·s); products and reciprocals, since complex division is several times slower."""
    return torch.addcmul(last, through, torch.addcmul(one, first, s, value=-1).reciprocal_().mul_(s))


def affine_scan(decay: torch.Tensor, source: torch.Tensor, *, reverse: bool) -> torch.Tensor:
    """[N, M] y with y_{i+1} = decay_i·y_i + source_i and y_0 = 0; ``reverse`` runs from the last position to the first.

    Products of decays stay bounded here: with decay_i = k·m_i² and Im m_i / |m_i|² = Im z + k·Im m_{i−1}, a product
    over a run is at most the ratio of Im m at its two ends.
    """
    order, places, n_levels = _order(len(decay), reverse, decay.device)
    decay, source = decay.index_select(0, order), source.index_select(0, order)
    lefts = []
    for _ in range(n_levels):
        half = len(decay) // 2
        decay_l, source_l, decay_r = decay[:half], source[:half], decay[half:]
        lefts.append((source_l, decay_l))
        decay, source = decay_l * decay_r, torch.addcmul(source[half:], decay_r, source_l)
    entering = [torch.zeros_like(source[0])]
    for run_source, run_decay in zip(source[:-1].unbind(0), decay[:-1].unbind(0), strict=True):
        entering.append(torch.addcmul(run_source, run_decay, entering[-1]))
    result = torch.stack(entering)
    for source_l, decay_l in reversed(lefts):
        result = torch.cat([result, torch.addcmul(source_l, decay_l, result)])
    return result.index_select(0, places)


@lru_cache(maxsize=64)
def _order(n: int, reverse: bool, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Which position stands where, where each position stands, and the number of levels.

    There are runs·2^levels places; those past the end repeat the last site, which nothing reads.
    """
    n_levels, n_runs = _shape(n)
    order = torch.arange(n_runs)
    for _ in range(n_levels):
        order = torch.cat([2 * order, 2 * order + 1])
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    order, places = order.clamp(max=n - 1), places[:n]
    if reverse:
        order, places = n - 1 - order, places.flip(0)
    return order.to(device), places.to(device), n_levels


def _shape(n: int) -> tuple[int, int]:
    """Levels of pairwise merges, and runs left at the top."""
    n_levels = 0
    while -(-n // 2**n_levels) > _MOST_RUNS_AT_THE_TOP:
        n_levels += 1
    return n_levels, -(-n // 2**n_levels)


def _positions_first(values: torch.Tensor) -> torch.Tensor:
    """[..., N] as [N, M]."""
    return values.reshape(-1, values.shape[-1]).t()


def _positions_last(values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """[N, M] as ``shape`` [..., N]."""
    return values.t().reshape(shape)


_PRODUCT, _SUM, _RECIPROCAL = 6, 2, 10
"""Real operations of a complex product, sum and reciprocal (two squares, their sum, its reciprocal, two products, a
sign; counted as ten with the real quotient as four)."""


def scan_flops(n_positions: int, *, causal: bool = True) -> float:
    """Real floating-point operations of one channel's forward pass, as the scan above carries it out with k = 1.

    A leaf takes a reciprocal and a product (and a sum and a reciprocal at the end), a merge of two runs 6 products, 3
    sums and a reciprocal, passing a term through a run 3 products, 2 sums and a reciprocal.
    """
    n_levels, n_runs = _shape(n_positions)
    n_places = n_runs * 2**n_levels
    n_merges = n_places - n_runs
    leaf, merge = _RECIPROCAL + _PRODUCT, 6 * _PRODUCT + 3 * _SUM + _RECIPROCAL
    through = 3 * _PRODUCT + 2 * _SUM + _RECIPROCAL
    one_side = n_places * leaf + n_merges * (merge + through) + (n_runs - 1) * through
    closing = n_positions * (_SUM + _RECIPROCAL)
    return float(one_side + closing) if causal else float(2 * one_side + closing + n_positions * _SUM)
