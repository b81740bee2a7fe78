# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Does more tasks mean less loss?
#
# A task-scaling study from start to end in a notebook: real 8×8 digits, a few numbers of training tasks, two seeds,
# baselines, the law, the report. The settings are small enough for a laptop's coffee break; the commented values are
# those of the full study (`metascale run digits`).
#
# Open it as a notebook with `jupytext --to ipynb examples/notebooks/task_scaling.py`, or run it as it is:
# `python examples/notebooks/task_scaling.py`. It writes into the folder `task-scaling` where it is started.

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt

from metascale.report import law_data, plot_study_law
from metascale.study import results_table
from metascale.workflow import Place, plan
from metascale.workflow.launch import launch

folder = Path("task-scaling")
# METASCALE_QUICK=1 tries the notebook in seconds; its numbers mean nothing.
quick = bool(os.environ.get("METASCALE_QUICK"))

# %% [markdown]
# ## Plan
#
# A plan is validated before anything runs; a list of values for a key makes it an axis.

# %%
values = {
    "n_tasks": [2, 4, 8, 16],  # [2, 5, 10, 20, 50, 100, 200]
    "max_steps": 3 if quick else 40,
    "n_validation_tasks": 4 if quick else 10,
    "n_test_tasks": 8 if quick else 40,
    "n_curve_tasks": 4 if quick else 10,
    "adaptation_curve": [0, 1, 5],
    "budget": "steps",
}
planned = plan("digits", values, seeds=[0, 1], place=Place("serial"), baselines=False)
for trial in planned.study.trials():
    print(trial.label)

# %% [markdown]
# ## Run
#
# Stop the kernel and run this cell again: what is finished stays, what was running goes on from its checkpoint.

# %%
outcome, conclusion = launch(planned, folder)
print("finished" if outcome.finished else "not finished", "in", folder)

# %% [markdown]
# ## Look
#
# The table of runs, the law with its interval, and the picture.

# %%
for row in results_table(folder).rows:
    print(row["label"], row["status"], f"{row['test_loss_nats']:.3f}")

# %%
analysis = conclusion.analyses[""]
print(analysis.verdict)
analysis

# %%
figure, axes = plt.subplots(figsize=(7, 4))
plot_study_law(law_data(folder), axes)
figure.savefig(folder / "notebook_law.png", dpi=120)

# %% [markdown]
# `task-scaling/report.html` holds all of it on one page. Where the table says "no trend", no exponent is worth quoting:
# with 40 outer steps that is a likely answer here.
