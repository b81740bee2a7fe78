"""Optimisers' steps and the rows of a training, worked out in the tests."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metascale.core.errors import InputError
from metascale.core.types import Batch
from metascale.models.perceptron import Perceptron
from metascale.training.loop import TrainResult
from metascale.training.memory import RECOMPUTE
from metascale.training.optimizers import SGD, Lion, Muon, orthogonalise
from metascale.training.schedules import named_schedule
from metascale.training.supervised import SupervisedTraining
from metascale.training.torch_optimizers import from_torch


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def test_lion_s_soft_sign_divides_by_the_root_of_square_plus_mean_square() -> None:
    """c = 0.1 g from zero momentum; c / √(c² + 0.5² mean c²), plus decay; the new momentum is 0.02 g."""
    g, p = np.array([3.0, -4.0, 0.5]), np.array([1.0, 2.0, -1.0])
    lion = Lion(lr=0.2, beta1=0.9, beta2=0.98, weight_decay=0.3, softness=0.5)
    c = 0.1 * g
    expected = 0.2 * (c / np.sqrt(c**2 + 0.25 * (c**2).mean()) + 0.3 * p)
    steps, state = lion.steps({"w": tensor(p)}, {"w": tensor(g)}, lion.init({"w": tensor(p)}))
    np.testing.assert_allclose(steps["w"], expected, rtol=1e-12)
    np.testing.assert_allclose(state["m"]["w"], 0.02 * g, rtol=1e-12)
    still, _ = lion.steps({"w": tensor(p)}, {"w": tensor([0.0] * 3)}, lion.init({"w": tensor(p)}))
    np.testing.assert_allclose(still["w"], 0.2 * 0.3 * p, rtol=1e-12)


def newton_schulz(matrix: np.ndarray, n: int) -> np.ndarray:
    """By singular values: each goes through s → 3.4445 s − 4.7750 s³ + 2.0315 s⁵, from s over the Frobenius norm."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.linalg.norm(matrix)
    for _ in range(n):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ np.diag(s) @ v


@pytest.mark.parametrize("shape", [(4, 2), (2, 4)])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scaling", [None, "original", "match_rms_adamw"])
def test_muon(shape: tuple[int, int], nesterov: bool, scaling: str | None) -> None:
    """Velocity 0.1 g at momentum 0.9 (a mean of gradients); Nesterov's is 0.1 g + 0.9 · 0.1 g."""
    draw = np.random.default_rng(0)
    g, p = draw.standard_normal(shape), draw.standard_normal(shape)
    options = {} if scaling is None else {"scaling": scaling}
    muon = Muon(0.02, 0.9, nesterov, weight_decay=0.3, iterations=3, **options)
    moved = (0.1 * 1.0 + 0.9 * 0.1) * g if nesterov else 0.1 * g
    rows, columns = shape
    scale = {"match_rms_adamw": 0.2 * math.sqrt(4)}.get(scaling or "", math.sqrt(max(1, rows / columns)))
    steps, state = muon.steps({"w": tensor(p)}, {"w": tensor(g)}, muon.init({"w": tensor(p)}))
    np.testing.assert_allclose(steps["w"], 0.02 * (scale * newton_schulz(moved, 3) + 0.3 * p), rtol=1e-6)
    np.testing.assert_allclose(state["velocity"]["w"], 0.1 * g, rtol=1e-12)
    assert not orthogonalise(torch.zeros(2, 3), 5).any()


def test_a_torch_optimiser_holds_what_requires_gradients_and_one_count_of_steps() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    module[0].weight.requires_grad_(False)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)  # a frozen parameter among them is passed over
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    _, state = from_torch(optimizer, module)
    assert set(state["m"]) == {"0.bias", "1.weight", "1.bias"}
    assert float(state["count"]["count"]) == 1
    optimizer.state[module[1].bias]["step"] += 1
    with pytest.raises(InputError, match="different numbers of steps"):
        from_torch(optimizer, module)
    with pytest.raises(InputError, match="exactly the module's parameters"):
        from_torch(torch.optim.Adam([module[1].bias]), module)


def test_columns_of_a_result() -> None:
    result = TrainResult({}, 30, 20, 0.5, 10, "converged")
    assert "steps=30" in repr(result)
    assert "state" not in repr(result)  # a tensor for every parameter
    expected = {"validation_loss_nats": 0.5, "kept_step": 20, "best_step": 10, "steps": 30, "training": "converged"}
    assert result.row() == expected
    assert TrainResult({}, 30, 20, 0.5, 10, "converged", 15).row() == {**expected, "pruned_at_step": 15}


def test_recomputed_forward_passes_have_one_name_where_they_are_run_and_counted() -> None:
    from metascale.models.kernels import recompute

    assert recompute.RECOMPUTE == RECOMPUTE


class Pairs:
    """One batch, the same each step."""

    inputs = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 2, 1, 1, 0, 2])

    def batch(self, step: int) -> Batch:
        return Batch({"x": self.inputs}, self.targets)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_the_row_of_a_supervised_step(clip: float | None) -> None:
    """Mean cross-entropy, the norm of its gradient before clipping, the factor of the rate; and the step itself."""
    model = Perceptron(2, 3, width=4, depth=1, task_axis=False)
    training = SupervisedTraining(model, Pairs(), SGD(0.5), clip_norm=clip, rate=named_schedule("linear", 4))
    state = replace(training.init(), step=1)
    leaves = {name: value.clone().requires_grad_(True) for name, value in state.params.items()}
    hidden = torch.relu(F.linear(Pairs.inputs, leaves["layer0.weight"], leaves["layer0.bias"]))
    loss = F.cross_entropy(F.linear(hidden, leaves["head.weight"], leaves["head.bias"]), Pairs.targets)
    grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    norm = math.sqrt(sum(float(g.square().sum()) for g in grads.values()))
    new, row = training.step(state, 1)
    assert row == {
        "training_loss_nats": pytest.approx(loss.item()),
        "objective": pytest.approx(loss.item()),
        "gradient_norm": pytest.approx(norm),
        "rate_factor": 0.75,
    }
    for name, value in state.params.items():
        step = 0.5 * 0.75 * grads[name] * (1 if clip is None else clip / norm)
        torch.testing.assert_close(new.params[name], value - step)
    assert new.step == 2
