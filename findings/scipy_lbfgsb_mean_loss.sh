#!/usr/bin/env bash
# Expected: L-BFGS-B fits the mean of Huber terms as it fits their sum: a constant factor moves no minimum.
# Happens:  gtol=1e-5 is absolute, and so is ftol for values below 1. The mean over log losses of a scaling law is so
#           small that from a start of the usual grid the search ends beside it after 3 steps, with success=True.
# Matters:  the usual fit of E + A/N^alpha + B/D^beta (delta 1e-3, many starts) then reports exponents of its grid.
# Source:   https://docs.scipy.org/doc/scipy/reference/optimize.minimize-lbfgsb.html (the criteria);
#           https://arxiv.org/abs/2404.10102 (published estimates that stopped early for the scale of the loss)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export TMPDIR=$folder
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check numpy==2.4.6 scipy==1.17.1
venv/bin/python - <<'PYTHON'
import numpy as np
import scipy
from scipy.optimize import minimize
from scipy.special import huber, softmax

print("scipy", scipy.__version__)
DELTA = 1e-3
n_params, n_tokens = (grid.ravel() for grid in np.meshgrid(np.geomspace(5e7, 1e10, 12), np.geomspace(1e9, 3e11, 20)))
noise = np.random.default_rng(0).normal(0, 3e-3, n_params.size)
observed = np.log(1.7 + 400 * n_params**-0.34 + 1200 * n_tokens**-0.30) + noise


def total(point):
    """Sum of the Huber terms of ln L, and its gradient in (ln A, ln B, ln E, alpha, beta)."""
    log_a, log_b, log_e, alpha, beta = point
    terms = np.stack([log_a - alpha * np.log(n_params), log_b - beta * np.log(n_tokens), np.full(n_params.size, log_e)])
    residual = np.logaddexp.reduce(terms) - observed
    pull = np.clip(residual, -DELTA, DELTA) * softmax(terms, axis=0)
    slopes = [*pull, -pull[0] * np.log(n_params), -pull[1] * np.log(n_tokens)]
    return huber(DELTA, residual).sum(), np.array([slope.sum() for slope in slopes])


def mean(point):
    value, gradient = total(point)
    return value / observed.size, gradient / observed.size


def fit(name, objective, **options):
    found = minimize(objective, [0.0, 0.0, 0.0, 0.5, 0.5], jac=True, method="L-BFGS-B", options=options)
    print(
        f"{name:22} success={found.success}, {found.nit} iterations, alpha={found.x[3]:.4f}, beta={found.x[4]:.4f}, "
        f"sum of terms={total(found.x)[0]:.3g}, {found.message}"
    )
    return found


summed, averaged, tight = fit("sum", total), fit("mean", mean), fit("mean, gtol and ftol 0", mean, gtol=0, ftol=0)
assert averaged.success and averaged.nit < 20
assert np.allclose(averaged.x[3:], 0.5, atol=0.02)
assert np.allclose(summed.x[3:], [0.33, 0.30], atol=0.03) and np.allclose(tight.x[3:], [0.33, 0.30], atol=0.03)
assert total(averaged.x)[0] > 20 * total(summed.x)[0]
PYTHON
