#!/usr/bin/env bash
# Expected: a LoRA that was saved and loaded computes what it computed before.
# Happens:  the first key of LoraConfig.alpha_pattern that matches a layer counts, but save_pretrained sorts the keys:
#           ".*", the rule for all layers, overtakes the exception before it. Same weights, other scale, no warning.
# Matters:  the adapter that is evaluated is not the one that was trained. Let one key match each layer.
# Source:   observed; the documentation of LoraConfig names no order.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export TMPDIR=$folder
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check \
    numpy==2.4.6 torch==2.13.0 transformers==5.23.0 peft==0.21.2
HF_HUB_OFFLINE=1 venv/bin/python - <<'PYTHON'
import json

import peft
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

print("peft", peft.__version__)


def backbone():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))


def scales(model):
    return [module.scaling["default"] for module in model.modules() if hasattr(module, "scaling")]


patterns = {"2": 64, ".*": 8}  # layer 2 gets 64, every other layer 8
config = LoraConfig(r=4, lora_alpha=4, target_modules=["0", "2"], alpha_pattern=patterns, init_lora_weights=False)
model = get_peft_model(backbone(), config).eval()
model.save_pretrained("adapter")
loaded = PeftModel.from_pretrained(backbone(), "adapter").eval()

with open("adapter/adapter_config.json") as file:
    written = json.load(file)["alpha_pattern"]
x = torch.ones(1, 4)
with torch.no_grad():
    difference = float((model(x) - loaded(x)).abs().max())
print("alpha_pattern given", patterns, "written", written)
print("scales of the two layers: before saving", scales(model), "after loading", scales(loaded))
print(f"outputs differ by {difference:.3g}")
before, after = model.state_dict(), loaded.state_dict()
assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
assert list(written) == sorted(patterns) != list(patterns)
assert scales(model) == [2.0, 16.0] and scales(loaded) == [2.0, 2.0]
assert difference > 1e-3
PYTHON
