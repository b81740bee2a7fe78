#!/usr/bin/env bash
# Expected: log() without a step, after log(..., step=5), is a row of its own, the next one.
# Happens:  a row with a step stays open until a larger step comes: the call without one writes into row 5 and replaces the
#           value there. Of the losses 2.0 and 1.5 only 1.5 is stored, without a warning.
# Matters:  a script that gives steps in one place and not in another loses points of its curve. Give all of them, or none.
# Source:   observed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export TMPDIR=$folder WANDB_MODE=offline WANDB_SILENT=true
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check wandb==0.31.0
venv/bin/python - 2>warnings.txt <<'PYTHON'
import json
import struct
from pathlib import Path

import wandb
from wandb.proto.wandb_internal_pb2 import Record

print("wandb", wandb.__version__)


def value(item):
    return json.loads(item.value_json) if item.value_json else getattr(item, item.WhichOneof("value"))


def stored(folder):
    """Step and loss of every row in a run's file: a header, then records of (checksum, length, kind)."""
    data, at = next(Path(folder).rglob("*.wandb")).read_bytes(), 7
    assert len(data) < 32768, "one block"
    while at + 7 <= len(data):
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        assert kind == 1, "a whole record"
        record = Record.FromString(data[at + 7 : at + 7 + length])
        at += 7 + length
        row = {item.key or item.nested_key[0]: value(item) for item in record.history.item}
        if "loss" in row:
            yield record.history.step.num, row["loss"]


calls = {"mixed": [(3.0, 0), (2.0, 5), (1.5, None), (1.0, 8)], "all with steps": [(3.0, 0), (2.0, 5), (1.5, 6), (1.0, 8)]}
found = {}
for name, points in calls.items():
    Path(name).mkdir()
    run = wandb.init(project="p", dir=name, settings=wandb.Settings(console="off", disable_git=True))
    for loss, step in points:
        run.log({"loss": loss}, step=step)
    run.finish()
    found[name] = list(stored(name))
    print(f"{name}: logged (loss, step) {points}; stored (step, loss) {found[name]}")
assert found["mixed"] == [(0, 3.0), (5, 1.5), (8, 1.0)]
assert found["all with steps"] == [(0, 3.0), (5, 2.0), (6, 1.5), (8, 1.0)]
PYTHON
