# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # How far is a meta-gradient from the exact one?
#
# Reptile, first-order MAML and the approximations of the Hessian in between, on the same episodes of real digits: the
# cosine to the exact meta-gradient and the ratio of norms. Run it with
# `python examples/notebooks/meta_gradients.py`; nothing is written.

# %%
import os

from metascale.core import dot, norm
from metascale.hypergrad import BlockDiagonal, Diagonal, GaussNewton
from metascale.meta import FOMAML, MAML, InnerLoop, MetaLearner, Reptile
from metascale.models import Perceptron
from metascale.tasks import digits_tasks
from metascale.training import SGD, Adam

# METASCALE_QUICK=1 tries the notebook in seconds; its numbers mean nothing.
n_episodes, n_steps = (2, 2) if os.environ.get("METASCALE_QUICK") else (32, 100)
tasks = digits_tasks(n_way=5, k_shot=1, n_train_tasks=50)
model = Perceptron(n_inputs=64, n_outputs=5)
inner = InnerLoop(SGD(lr=0.3), steps=5)
episode = tasks.episodes("train", range(n_episodes))

# %% [markdown]
# ## At the start, and after a short training
#
# Curvature matters more once the parameters have moved away from their first values.

# %%
methods = {
    "Gauss-Newton": MAML(inner, GaussNewton()),
    "block diagonal": MAML(inner, BlockDiagonal()),
    "diagonal (Fisher)": MAML(inner, Diagonal()),
    "first order": FOMAML(inner),
    "Reptile": Reptile(inner),
}


def show(theta):
    exact, _ = MAML(inner)(model, theta, episode, None)
    for name, method in methods.items():
        found, _ = method(model, theta, episode, None)
        ratio = norm(found) / norm(exact)
        print(f"{name:18}  cosine {dot(found, exact) / (norm(found) * norm(exact)):+.4f}   norm ratio {ratio:.3f}")


show(model.init(0))

# %%
learner = MetaLearner(MAML(inner), outer=Adam(lr=3e-3))
state = learner.init(model, seed=0)
for step in range(n_steps):
    state, _ = learner.step(model, state, tasks.episodes("train", range(8 * step, 8 * step + 8)))
show(state.params)
