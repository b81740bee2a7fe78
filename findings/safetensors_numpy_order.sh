#!/usr/bin/env bash
# Expected: safetensors.numpy.save_file stores an array or refuses it, as safetensors.torch refuses a transposed tensor.
# Happens:  since 0.8.0 it writes the memory as it lies: a transposed or Fortran-ordered array comes back with the right
#           shape and its values in other places, without an error or warning. 0.7.0 stored it correctly.
# Matters:  factors of an SVD and transposed weights (a LoRA's A and B) are such arrays: pass np.ascontiguousarray(x).
# Source:   https://github.com/safetensors/safetensors/issues/825
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export TMPDIR=$folder
python3 -m venv venv
for version in 0.7.0 0.8.0; do
    venv/bin/pip install -qq --no-compile --disable-pip-version-check numpy==2.4.6 "safetensors==$version"
    venv/bin/python - <<'PYTHON'
import warnings

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

warnings.simplefilter("error")
weight = np.arange(6.0).reshape(2, 3)
arrays = {
    "row by row": weight,
    "transposed": weight.T,
    "Fortran order": np.asfortranarray(weight),
    "transposed, copied": np.ascontiguousarray(weight.T),
}
save_file(arrays, "weights.safetensors")
kept = {}
for name, stored in load_file("weights.safetensors").items():
    kept[name] = bool((stored == arrays[name]).all())
    print(f"safetensors {safetensors.__version__}, {name}: wrote {arrays[name].tolist()}, read {stored.tolist()}")
wrong = {name for name, same in kept.items() if not same}
assert wrong == ({"transposed", "Fortran order"} if safetensors.__version__ == "0.8.0" else set()), wrong
PYTHON
done
