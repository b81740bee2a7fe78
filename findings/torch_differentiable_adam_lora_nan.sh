#!/usr/bin/env bash
# Expected: torch.optim.Adam(..., differentiable=True) passes meta-gradients through a step; eps guards zero gradients.
# Happens:  eps stands outside the square root, whose derivative at 0 is infinite. A LoRA starts at B = 0, where A's
#           gradient is zero: one step leaves finite parameters and NaN meta-gradients. AdamW, NAdam, RMSprop, Adagrad
#           do the same; SGD, Adadelta and the first step of RAdam do not.
# Matters:  MAML or learnt loss weights with Adam inside on a fresh LoRA end in NaN at the first outer step.
# Source:   observed; https://github.com/facebookresearch/higher/issues/125 has the same root in another library.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export TMPDIR=$folder
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check numpy==2.4.6 torch==2.13.0
venv/bin/python - <<'PYTHON'
import torch

print("torch", torch.__version__)


def after_one_step(name, fresh):
    """The LoRA after one inner step, and the outer loss's gradients in its start and in the inner loss's weight."""
    torch.manual_seed(0)
    base, x, y = torch.randn(3, 4), torch.randn(8, 4), torch.randn(8, 3)
    start_a = torch.randn(2, 4, requires_grad=True)
    start_b = (torch.zeros(3, 2) if fresh else torch.randn(3, 2)).requires_grad_()
    weight = torch.tensor(1.0, requires_grad=True)
    start = [start_a, start_b]

    def loss(a, b):
        return (x @ (base + b @ a).T - y).square().mean()

    gradients = torch.autograd.grad(weight * loss(*start), start, create_graph=True)
    lora = [factor.clone() for factor in start]  # the step writes in place
    optimizer = getattr(torch.optim, name)(lora, lr=0.1, differentiable=True)
    for factor, gradient in zip(lora, gradients):
        factor.retain_grad()
        factor.grad = gradient
    optimizer.step()
    return [factor.detach() for factor in lora], torch.autograd.grad(loss(*lora), [*start, weight])


for name in ("SGD", "RAdam", "Adadelta", "Adam", "AdamW", "NAdam", "RMSprop", "Adagrad"):
    for fresh in (True, False):
        lora, found = after_one_step(name, fresh)
        finite = [bool(gradient.isfinite().all()) for gradient in found]
        print(f"{name:8} B = {0 if fresh else 'random':<6} meta-gradients of A, B and the loss weight finite: {finite}")
        assert all(bool(factor.isfinite().all()) for factor in lora)
        broken = fresh and name not in ("SGD", "RAdam", "Adadelta")
        assert all(finite) if not broken else not any(finite), found
PYTHON
