#!/usr/bin/env bash
# Expected: modules_to_save=["head"] trains the module "head", as target_modules=["head"] adapts that module alone.
# Happens:  target_modules compares whole parts of a name, modules_to_save the end of its text: "overhead" and "subhead"
#           are copied, trained and saved in full as well. No warning.
# Matters:  layers that were meant to stay frozen are trained. Look at print_trainable_parameters, or give full names.
# Source:   observed; the documentation of LoraConfig does not say how names in modules_to_save are compared.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export TMPDIR=$folder
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check \
    numpy==2.4.6 torch==2.13.0 transformers==5.23.0 peft==0.21.2
HF_HUB_OFFLINE=1 venv/bin/python - <<'PYTHON'
import peft
from peft import LoraConfig, get_peft_model
from torch import nn

print("peft", peft.__version__)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.overhead, self.subhead, self.head = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        return self.head(self.subhead(self.overhead(self.body(x))))


def trained(**names):
    model = get_peft_model(Net(), LoraConfig(r=2, **names))
    paths = (name.removeprefix("base_model.model.") for name, value in model.named_parameters() if value.requires_grad)
    return sorted({path.split(".")[0] for path in paths})


adapted = trained(target_modules=["head"])
saved = trained(target_modules=["body"], modules_to_save=["head"])
print('target_modules=["head"]: trained', adapted)
print('target_modules=["body"], modules_to_save=["head"]: trained', saved)
assert adapted == ["head"]
assert saved == ["body", "head", "overhead", "subhead"]
PYTHON
