#!/usr/bin/env bash
# Expected: a run's metric in MLflow is the value that was logged last.
# Happens:  of values with one step and one time stamp it is the largest, whatever the order: of 3, 2, 1 it is 3. With no
#           step given all values have step 0, and values logged within a millisecond have one time stamp.
# Matters:  a falling loss is shown, searched and compared by its worst value of that moment. Give every value a step.
# Source:   observed; the databases of MLflow compare (step, time stamp, value).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export TMPDIR=$folder GIT_PYTHON_REFRESH=quiet
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check \
    mlflow-skinny==3.17.2 sqlalchemy==2.1.9 alembic==1.20.1
venv/bin/python - 2>warnings.txt <<'PYTHON'
import mlflow
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

print("mlflow", mlflow.__version__)
client = MlflowClient("sqlite:///runs.db")
experiment = client.create_experiment("training", "artifacts")
run = client.create_run(experiment).info.run_id

losses = [3.0, 2.0, 1.0]
client.log_batch(run, metrics=[Metric("loss", loss, timestamp=1000, step=0) for loss in losses])
client.log_batch(run, metrics=[Metric("loss_with_steps", loss, 1000, step) for step, loss in enumerate(losses)])
shown = client.get_run(run).data.metrics
history = sorted(point.value for point in client.get_metric_history(run, "loss"))
print(f"logged one after another: {losses}; the run's metric: {shown['loss']}; all are kept: {history}")
print(f"the same with steps: {shown['loss_with_steps']}")
found = [one.info.run_id for one in client.search_runs([experiment], "metrics.loss < 2.5")]
print(f"runs with loss < 2.5: {len(found)}")
assert shown == {"loss": 3.0, "loss_with_steps": 1.0}
assert history == sorted(losses)
assert found == []
PYTHON
