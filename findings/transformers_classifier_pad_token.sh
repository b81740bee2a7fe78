#!/usr/bin/env bash
# Expected: a classifier on a causal model reads the last token that the attention mask keeps.
# Happens:  it reads the last token that is not config.pad_token_id, whatever the mask says: with a tokenizer that pads
#           by another token the logits are those of a padding position, and a text that ends in that token is read one
#           token early. No warning.
# Matters:  logits depend on how far a batch is padded. Pad with config.pad_token_id, and keep that token out of texts.
# Source:   observed; the documentation names pad_token_id for batches, not that the mask is left out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export TMPDIR=$folder
python3 -m venv venv
venv/bin/pip install -qq --no-compile --disable-pip-version-check numpy==2.4.6 torch==2.13.0 transformers==5.23.0
HF_HUB_OFFLINE=1 venv/bin/python - <<'PYTHON'
import torch
import transformers
from transformers import LlamaConfig, LlamaForSequenceClassification

print("transformers", transformers.__version__)
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=2,
    pad_token_id=0,
)
model = LlamaForSequenceClassification(config).eval()


def logits(tokens, mask=None):
    mask = None if mask is None else torch.tensor([mask])
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens]), attention_mask=mask).logits[0]


alone = logits([5, 6, 7])
same = logits([5, 6, 7, 0, 0], [1, 1, 1, 0, 0])
other = logits([5, 6, 7, 2, 2], [1, 1, 1, 0, 0])
print("5 6 7 alone", alone.tolist())
print("padded by token 0 and masked", same.tolist())
print("padded by token 2 and masked", other.tolist())
ends = logits([5, 6, 0], [1, 1, 1])
print("5 6 0, nothing masked", ends.tolist(), "and 5 6", logits([5, 6]).tolist())
assert torch.allclose(same, alone, atol=1e-6)
assert not torch.allclose(other, alone, atol=1e-3)
assert torch.allclose(ends, logits([5, 6]), atol=1e-6)
PYTHON
