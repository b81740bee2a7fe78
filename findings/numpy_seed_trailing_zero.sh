#!/usr/bin/env bash
# Expected: numpy.random.default_rng([seed, trial]) gives every trial of a study a stream of its own.
# Happens:  short seeds are padded with zeros to 128 bits, so trailing zeros change nothing: [7, 0], [7, 0, 0] and 7 are
#           one stream, and so are [7, 3, 0] and [7, 3]. Leading zeros count; spawned children differ.
# Matters:  trial 0 repeats what was drawn from the study's own seed (data, split, first weights) as if independent.
# Source:   https://github.com/numpy/numpy/issues/16539 (the padding; repaired for spawned seeds only)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export TMPDIR=$folder
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check numpy==2.4.6
venv/bin/python - <<'PYTHON'
import numpy as np

print("numpy", np.__version__)


def draws(seed):
    return np.random.default_rng(seed).random(3)


pairs = [
    (7, [7, 0], True),
    (7, [7, 0, 0, 0], True),
    ([7, 3], [7, 3, 0], True),
    (7, [0, 7], False),
    (7, np.random.SeedSequence(7).spawn(1)[0], False),
    ([7, 0], [7, 1], False),
    (7, [7, 0, 0, 0, 0], False),
]
for first, second, same in pairs:
    found = bool((draws(first) == draws(second)).all())
    print(f"{first!s:8} and {str(second).splitlines()[0]:18} {'the same stream' if found else 'different streams'}")
    assert found == same
PYTHON
