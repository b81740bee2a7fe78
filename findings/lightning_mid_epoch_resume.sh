#!/usr/bin/env bash
# Expected: training that is resumed from a checkpoint within an epoch goes on with the batch after it.
# Happens:  the batch index goes on (2, 3, 4, 5), but an ordinary DataLoader begins anew: batches 0 to 3 are trained again
#           under these indices, and the last two of the epoch never are. No warning, and the step count looks right.
# Matters:  a run that was resumed within an epoch has not seen the data of one that was not. Resume at epochs, or give a
#           loader with state_dict and load_state_dict.
# Source:   observed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export TMPDIR=$folder
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check numpy==2.4.6 torch==2.13.0 lightning==2.6.6
venv/bin/python - 2>warnings.txt <<'PYTHON'
import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

print("lightning", lightning.__version__)


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append((index, int(batch)))
        return self.layer(batch).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(callbacks, checkpoint=None):
    net = Net()
    loader = DataLoader(torch.arange(6.0).view(6, 1), batch_size=1)  # batch k holds the number k
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    saves = bool(callbacks)
    trainer = Trainer(max_epochs=1, callbacks=callbacks, enable_checkpointing=saves, **quiet)
    trainer.fit(net, loader, ckpt_path=checkpoint)
    return net.seen, trainer.global_step


whole, steps = train([ModelCheckpoint("saved", filename="{step}", every_n_train_steps=2, save_top_k=-1)])
print(f"uninterrupted: (index, batch) {whole}, {steps} steps")
resumed, steps_resumed = train([], "saved/step=2.ckpt")
print(f"resumed after step 2:         {resumed}, {steps_resumed} steps")
assert whole == [(k, k) for k in range(6)]
assert resumed == [(2, 0), (3, 1), (4, 2), (5, 3)]
assert steps == steps_resumed == 6
PYTHON
