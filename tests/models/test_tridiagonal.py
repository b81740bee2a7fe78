"""The scan against dense inverses, a plain loop under autograd, finite differences, and at great length."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metascale.models.kernels.tridiagonal import affine_scan, leading_resolvent, resolvent_diagonal, scan_flops

LENGTHS = [1, 2, 3, 7, 8, 9, 16, 17, 63, 64, 65, 100]


def diagonal(n: int, n_rows: int = 3) -> torch.Tensor:
    """−2 + v with potentials over the whole range that the model allows."""
    noise = torch.randn(n_rows, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    return -2 + (2.5 * noise).clamp(-3, 3)


def hamiltonian(row: torch.Tensor, coupling: float) -> torch.Tensor:
    off = torch.full((len(row) - 1,), math.sqrt(coupling), dtype=row.dtype)
    return (torch.diag(row) + torch.diag(off, 1) + torch.diag(off, -1)).to(torch.complex128)


def dense_diagonal(row: torch.Tensor, z: complex, coupling: float) -> torch.Tensor:
    return torch.linalg.inv(hamiltonian(row, coupling) - z * torch.eye(len(row), dtype=torch.complex128)).diagonal()


def dense_leading(row: torch.Tensor, z: complex, coupling: float) -> torch.Tensor:
    return torch.stack([dense_diagonal(row[: i + 1], z, coupling)[-1] for i in range(len(row))])


def looped_leading(w: torch.Tensor, coupling: float) -> torch.Tensor:
    entries: list[torch.Tensor] = []
    for site in w.unbind(-1):
        entries.append(1 / (site - coupling * entries[-1]) if entries else 1 / site)
    return torch.stack(entries, -1)


def looped_diagonal(w: torch.Tensor, coupling: float) -> torch.Tensor:
    left, right = looped_leading(w, coupling), looped_leading(w.flip(-1), coupling).flip(-1)
    zero = torch.zeros_like(w[..., :1])
    return 1 / (w - coupling * (torch.cat([zero, left[..., :-1]], -1) + torch.cat([right[..., 1:], zero], -1)))


CASES: list[tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor], Callable[..., torch.Tensor]]] = [
    (leading_resolvent, dense_leading, looped_leading),
    (resolvent_diagonal, dense_diagonal, looped_diagonal),
]


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("coupling", [1.0, 0.4])
@pytest.mark.parametrize("case", CASES, ids=["leading", "diagonal"])
def test_the_scan_is_the_dense_resolvent(case: Any, coupling: float, n: int) -> None:
    scan, dense, _ = case
    for z in (1j, 0.7 + 0.3j):
        a = diagonal(n)
        expected = torch.stack([dense(row, z, coupling) for row in a])
        assert float((scan(a - z, coupling) - expected).abs().max()) < 1e-12
        single = scan((a - z).to(torch.complex64), coupling)
        assert single.dtype == torch.complex64
        if z == 1j:
            assert float((single - expected).abs().max()) < 1e-6


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("coupling", [1.0, 0.4])
@pytest.mark.parametrize("case", CASES, ids=["leading", "diagonal"])
def test_the_gradient_is_that_of_a_plain_loop(case: Any, coupling: float, n: int) -> None:
    """For the matrix and for a complex energy at once, and in single precision."""
    scan, _, loop = case
    a, z = diagonal(n).requires_grad_(), torch.tensor(0.2 + 0.9j, dtype=torch.complex128, requires_grad=True)
    weights = torch.randn(*a.shape, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def gradients(function: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad((torch.view_as_real(function(a - z, coupling)) * weights).sum(), (a, z))

    for found, expected in zip(gradients(scan), gradients(loop), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    single = a.detach().float().requires_grad_()
    output = torch.view_as_real(scan(torch.complex(single - 0.2, torch.full_like(single, -0.9)), coupling))
    (found,) = torch.autograd.grad((output * weights.float()).sum(), single)
    torch.testing.assert_close(found.double(), gradients(loop)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scan", [leading_resolvent, resolvent_diagonal])
def test_the_gradient_is_the_finite_difference(scan: Callable[..., torch.Tensor]) -> None:
    a = diagonal(13, n_rows=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: torch.view_as_real(scan(x - 1j)), a)


@pytest.mark.parametrize("scan", [leading_resolvent, resolvent_diagonal])
def test_the_published_gradient_keeps_one_position_with_one_wrong_sign(scan: Callable[..., torch.Tensor]) -> None:
    a = diagonal(9).requires_grad_()
    value = scan(a - 1j, 1.0, "published")
    g = torch.randn(*a.shape, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (found,) = torch.autograd.grad((torch.view_as_real(value) * g).sum(), a)
    square = value.detach() ** 2
    torch.testing.assert_close(found, -(g[..., 0] * square.real - g[..., 1] * square.imag))
    (exact,) = torch.autograd.grad((torch.view_as_real(scan(a - 1j)) * g).sum(), a)
    cosine = float((found * exact).sum() / found.norm() / exact.norm())
    assert cosine < 0.9, "it must be wrong, or the option would show nothing"


@pytest.mark.parametrize("potential", [-3.0, 0.0, 2.0, 3.0, None])
def test_nothing_overflows_at_16384_positions(potential: float | None) -> None:
    """Single precision, at the ends of the potential's range, in the band, and at random; |m| ≤ 1/Im z throughout."""
    n = 16_384
    a = diagonal(n, 1).float() if potential is None else torch.full((1, n), potential - 2)
    a.requires_grad_()
    for scan in (leading_resolvent, resolvent_diagonal):
        value = scan(torch.complex(a, -torch.ones_like(a)))
        (gradient,) = torch.autograd.grad(torch.view_as_real(value).sum(), a)
        assert bool(torch.isfinite(gradient).all())
        assert float(value.detach().abs().max()) <= 1 + 1e-6
    loop, m = torch.complex(a.detach(), -torch.ones_like(a)).to(torch.complex128)[0], torch.zeros(())
    for site in loop[:3000]:
        m = 1 / (site - m)
    assert abs(complex(leading_resolvent(loop)[2999]) - complex(m)) < 1e-12


def test_at_a_low_energy_the_bound_is_one_over_the_imaginary_part() -> None:
    a = torch.linspace(-5, 1, 2000, dtype=torch.float64)
    for im in (1.0, 0.1, 0.01):
        value = leading_resolvent(torch.complex(a, torch.full_like(a, -im)))
        assert float(value.abs().max()) <= (1 + 1e-9) / im


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("reverse", [False, True])
def test_affine_scan_is_the_recursion(n: int, reverse: bool) -> None:
    generator = torch.Generator().manual_seed(n)
    decay, source = (torch.randn(n, 2, dtype=torch.complex128, generator=generator) for _ in range(2))
    decay = decay / decay.abs().clamp(min=1)
    found = affine_scan(decay, source, reverse=reverse)
    y = torch.zeros_like(source[0])
    for i in reversed(range(n)) if reverse else range(n):
        torch.testing.assert_close(found[i], y, rtol=1e-12, atol=1e-12)
        y = decay[i] * y + source[i]


class ElementwiseFlops(TorchDispatchMode):
    """Counts real operations of complex element-wise operations as they are carried out."""

    COST = {"mul": 6, "mul_": 6, "addcmul": 8, "add": 2, "sub": 2, "reciprocal": 10, "reciprocal_": 10}  # noqa: RUF012
    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if isinstance(result, torch.Tensor) and result.is_complex() and name in self.COST:
            self.total += self.COST[name] * result.numel()
        return result


@pytest.mark.parametrize("n", [1, 5, 8, 9, 128, 1000])
def test_flops_of_the_scan_are_those_carried_out(n: int) -> None:
    w = diagonal(n, 1) - 1j
    for scan, causal in ((leading_resolvent, True), (resolvent_diagonal, False)):
        with ElementwiseFlops() as counted:
            scan(w)
        assert counted.total == scan_flops(n, causal=causal)


def test_work_is_linear_in_the_length() -> None:
    for n in (128, 1024, 16_384):
        assert scan_flops(2 * n) < 2.05 * scan_flops(n)
    assert scan_flops(4096) / 4096 < 1.05 * scan_flops(1024) / 1024
