#!/usr/bin/env bash
# Expected: torch.utils.flop_counter counts a layer's matrix products in any mode, and an LSTM's as it does a GRU's.
# Happens:  in eval mode without gradients nn.TransformerEncoder is one fused operation without a formula: 0 FLOPs, no
#           warning. nn.LSTM on a CPU counts 0, forward and backward; nn.GRU is counted.
# Matters:  a compute axis is zero for some models; torch.backends.mha.set_fastpath_enabled(False) helps encoders.
# Source:   https://docs.pytorch.org/docs/main/generated/torch.utils.flop_counter.FlopCounterMode.html
#           (an operation without a formula counts zero); which layers that hits is observed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export TMPDIR=$folder
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check numpy==2.4.6 torch==2.13.0
venv/bin/python - <<'PYTHON'
import warnings

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

print("torch", torch.__version__)
warnings.simplefilter("error")
x = torch.randn(4, 10, 32)


def count(name, call):
    with FlopCounterMode(display=False) as counter:
        call()
    print(f"{name:44} {counter.get_total_flops():9,d} FLOPs")
    return counter.get_total_flops()


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)
trained = count("TransformerEncoder, train mode", lambda: encoder(x))
encoder.eval()
with_gradients = count("TransformerEncoder, eval mode", lambda: encoder(x))
with torch.no_grad():
    without = count("TransformerEncoder, eval mode, no_grad", lambda: encoder(x))
    torch.backends.mha.set_fastpath_enabled(False)
    slow_path = count("the same with the fast path disabled", lambda: encoder(x))
assert trained > 0 and without == 0 and with_gradients == slow_path > 0

lstm, gru = nn.LSTM(32, 32), nn.GRU(32, 32)
forward = count("LSTM, forward", lambda: lstm(x)), count("GRU, forward", lambda: gru(x))
both = (
    count("LSTM, forward and backward", lambda: lstm(x)[0].sum().backward()),
    count("GRU, forward and backward", lambda: gru(x)[0].sum().backward()),
)
assert forward[0] == both[0] == 0 and both[1] > forward[1] > 0
PYTHON
