#!/usr/bin/env bash
# Expected: higher's differentiable optimiser takes the step of the torch optimiser that it is made from.
# Happens:  Adam and SGD with maximize=True descend: the option is passed over without a word. Adam divides by
#           |g| + eps / sqrt(1 - beta2^t), where torch divides by |g| + eps: in the first step eps counts 31.6-fold.
# Matters:  a loss that the inner loop should raise (an adversary's) falls instead, and an inner Adam with the eps of
#           .01 or so that keeps its second derivative tame takes steps a quarter shorter than outside the inner loop.
#           At eps = 1e-8 the second does not show; AdamW and RAdam are refused, the other optimisers agree.
# Source:   observed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export TMPDIR=$folder
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check numpy==2.4.6 torch==2.13.0 higher==0.2.1
venv/bin/python -W ignore - <<'PYTHON'
from importlib.metadata import version

import higher
import torch

print("higher", version("higher"), "torch", torch.__version__)


class Number(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self):
        return self.value  # as a loss: its gradient is 1


def first_steps(kind, **options):
    plain = Number()
    optimiser = kind(plain.parameters(), lr=0.1, **options)
    plain().backward()
    optimiser.step()
    net = Number()
    with higher.innerloop_ctx(net, kind(net.parameters(), lr=0.1, **options)) as (inner, steps):
        steps.step(inner())
        found = round(plain.value.item(), 5), round(inner.value.item(), 5)
    print(f"{kind.__name__} {options}: torch {found[0]:+.5f}, higher {found[1]:+.5f}")
    return found


assert first_steps(torch.optim.SGD) == (-0.1, -0.1)
assert first_steps(torch.optim.SGD, maximize=True) == (0.1, -0.1)
assert first_steps(torch.optim.Adam, maximize=True) == (0.1, -0.1)
# 0.1 / 1.01, and 0.1 / (1 + 0.01 / sqrt(0.001))
assert first_steps(torch.optim.Adam, eps=0.01) == (-0.09901, -0.07597)
PYTHON
