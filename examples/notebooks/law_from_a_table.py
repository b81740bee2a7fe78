# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # From a table of losses to a decision
#
# The law part alone: no PyTorch, no study, any table. The losses here come from a known law with noise between seeds,
# so that every answer can be checked. Run it with `python examples/notebooks/law_from_a_table.py`; it writes the
# picture `law.png` where it is started.

# %%
import numpy as np

from metascale import laws

rng = np.random.default_rng(1)
tokens = np.repeat(np.geomspace(1e6, 3e8, 10), 3)
seed = np.tile([0, 1, 2], 10)
loss = (1.9 + 600 * tokens**-0.42) * np.exp(0.008 * rng.standard_normal(len(tokens)))

# %% [markdown]
# ## Is there a law, and how sure is it?

# %%
law = laws.fit(tokens, loss, replicate=seed, x_name="tokens")
print(law.summary())
law

# %% [markdown]
# ## Would it have told the truth before?
#
# The largest scales are hidden and predicted from the smaller ones, next to two plain baselines.

# %%
print(laws.backtest(tokens, loss, replicate=seed).summary())

# %% [markdown]
# ## What will ten times as many tokens give?

# %%
ahead = laws.forecast(tokens, loss, at=[1e9, 3e9], level=0.90, replicate=seed)
truth = 1.9 + 600 * np.array([1e9, 3e9]) ** -0.42
for x, low, middle, high, known in zip([1e9, 3e9], ahead.low, ahead.median, ahead.high, truth, strict=True):
    print(f"{x:.0e} tokens: {middle:.3f} [{low:.3f}, {high:.3f}], in truth {known:.3f}")

# %%
axes = law.plot()
axes.figure.savefig("law.png", dpi=120)
