"""One first-order meta-gradient of LoRA on a BERT of 6 layers and 384 dimensions: metascale beside peft, task by task.

    python benchmarks/peers_lora.py [--tasks 4] [--repeats 5] [--threads N] [--padded] [--json FILE]

25 support and 25 query texts of 32 tokens, 5 inner steps of Adam, rank 8 on query and value, random weights and tokens
(only shapes matter). "peft, task by task" is the plain loop; ``--padded`` adds one that pads every text to 64 tokens
and goes through 4 of them at a time, as a script does that was written for a small GPU. The program stops unless all
losses and meta-gradients agree to 1e-3. Variants run interleaved after a warm-up; with one thread times are processor
seconds, which other work on the machine disturbs least. FLOPs are those of `torch`'s counter, which does not see the
fused attention kernel; "of peak" is relative to the float32 matrix-multiply rate of the same run, so that bfloat16 can
pass 100 %.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from metascale.core.types import Batch, Episode, Params
from metascale.meta.gradients import FOMAML
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import LearnedHead
from metascale.models.text.hf import load_backbone
from metascale.parallel.execution import Execution
from metascale.training.flops import count_flops
from metascale.training.optimizers import Adam
from speed import clock_of, matmul_rate, texts, timed

STEPS, RATE, RANK, ALPHA, CLASSES = 5, 5e-4, 8, 16.0, 5
Result = tuple[float, dict[str, torch.Tensor]]


class PeftTasks:
    """The loop that peft's users write: load the adapters, take the steps, keep the query gradient, next task.

    Args:
        model, params: ours, with the same adapters, head and pooling (mean or first token).
        backbone: another copy of the model's backbone.
    """

    def __init__(self, model: AdapterClassifier, params: Params, backbone: Any) -> None:
        from peft import LoraConfig, get_peft_model

        targets = list(model.target_names)
        config = LoraConfig(r=model.rank, lora_alpha=model.alpha, target_modules=targets, lora_dropout=0.0)
        self.model = get_peft_model(backbone, config).eval()
        self.head = nn.Linear(model.n_features, CLASSES).to(params["head.weight"].device)
        self.pool = model.pool_name
        adapters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.trainable = {
            name.removeprefix("base_model.model.").replace(".default.weight", ""): p for name, p in adapters.items()
        } | {"head.weight": self.head.weight, "head.bias": self.head.bias}
        assert self.trainable.keys() == params.keys(), sorted(self.trainable.keys() ^ params.keys())
        self.start = {name: params[name] for name in self.trainable}

    def loss(self, ids: torch.Tensor, mask: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(2).to(hidden.dtype)
        pooled = (hidden * weights).sum(1) / weights.sum(1) if self.pool == "mean" else hidden[:, 0]
        return F.cross_entropy(self.head(pooled.float()), targets)

    def backward(self, batch: Batch, task: int, length: int | None, micro_batch: int) -> float:
        ids, mask = (batch.inputs[name][task] for name in ("input_ids", "attention_mask"))
        if length is not None:
            ids, mask = (F.pad(value, (0, length - value.shape[-1])) for value in (ids, mask))
        total = 0.0
        for start in range(0, len(ids), micro_batch):
            part = slice(start, start + micro_batch)
            loss = self.loss(ids[part], mask[part], batch.targets[task][part]) * len(ids[part]) / len(ids)
            loss.backward()
            total += float(loss.detach())
        return total

    def __call__(self, episode: Episode, length: int | None = None, micro_batch: int = 10**9) -> Result:
        parameters = list(self.trainable.values())
        total, meta = 0.0, {name: torch.zeros_like(p) for name, p in self.trainable.items()}
        for task in range(episode.n_tasks):
            with torch.no_grad():
                for name, parameter in self.trainable.items():
                    parameter.copy_(self.start[name])
            optimizer = torch.optim.Adam(parameters, lr=RATE)
            for _ in range(STEPS):
                optimizer.zero_grad()
                self.backward(episode.support, task, length, micro_batch)
                optimizer.step()
            optimizer.zero_grad()
            total += self.backward(episode.query, task, length, micro_batch)
            for name, parameter in self.trainable.items():
                meta[name] += parameter.grad / episode.n_tasks
        return total / episode.n_tasks, meta


def metascale(model: AdapterClassifier, execution: Execution, params: Params, episode: Episode) -> Result:
    learner = MetaLearner(FOMAML(InnerLoop(Adam(RATE), steps=STEPS)), execution=execution)
    grads, report = learner.meta_gradient(model, params, episode)
    assert report.query_loss is not None
    return float(report.query_loss.mean()), grads


def check_agreement(results: dict[str, Result], tolerance: float) -> None:
    """
    Raises:
        SystemExit: a loss or a meta-gradient differs from the first by more than the tolerance.
    """
    (first, (loss, grads)), *others = results.items()
    size = torch.sqrt(sum(value.square().sum() for value in grads.values()))
    for name, (other_loss, other) in others:
        error = float(torch.sqrt(sum((other[key] - value).square().sum() for key, value in grads.items())) / size)
        print(f"{name}: differs from {first} by {max(error, abs(other_loss - loss) / abs(loss)):.1e}")
        if max(error, abs(other_loss - loss) / abs(loss)) > tolerance and "bfloat16" not in name:
            raise SystemExit("the variants do not compute the same thing")


def variants(n_tasks: int, threads: int, padded: bool) -> dict[str, Callable[[Episode], Result]]:
    def classifier(dtype: torch.dtype) -> AdapterClassifier:
        backbone = copy.deepcopy(load_backbone("minilm-l6", random_init_seed=0)).to(dtype)
        head = LearnedHead(feature_norm=None)
        return AdapterClassifier(backbone, n_classes=CLASSES, rank=RANK, alpha=ALPHA, dropout=0.0, head=head)

    model, half = classifier(torch.float32), classifier(torch.bfloat16)
    params = model.init(0)
    loop = PeftTasks(model, params, load_backbone("minilm-l6", random_init_seed=0))
    spread = Execution(chunk=max(1, n_tasks // threads), workers=threads)
    processes = replace(spread, in_processes=True)
    chosen = {"peft, task by task": loop}
    if padded:
        chosen["peft, padded to 64 tokens, micro-batches of 4"] = lambda episode: loop(episode, 64, 4)
    chosen["metascale, tasks stacked"] = lambda episode: metascale(model, Execution(), params, episode)
    how = "one task after another" if threads == 1 else "one task a thread"
    chosen[f"metascale, {how}"] = lambda episode: metascale(model, spread, params, episode)
    if threads > 1:
        chosen["metascale, one task a process"] = lambda episode: metascale(model, processes, params, episode)
    chosen[f"metascale, {how}, bfloat16 backbone"] = lambda episode: metascale(half, spread, params, episode)
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--padded", action="store_true", help="also peft as written for a small GPU")
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rate = matmul_rate("cpu", clock=clock_of(options.threads))
    print(f"torch {torch.__version__}, {options.threads} threads, float32 matrix product {rate / 1e9:.0f} GFLOP/s")
    episode = texts(options.tasks, 32, 30000, 25, 25, "cpu")
    chosen = variants(options.tasks, options.threads, options.padded)
    check_agreement({name: run(episode) for name, run in chosen.items()}, 1e-3)
    times: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(options.repeats):
        for name, run in chosen.items():
            times[name].append(timed(lambda run=run: run(episode), "cpu", clock_of(options.threads)))
    one = episode.tasks(0, 1)
    rows = []
    for name, run in chosen.items():
        row = {"variant": name, "tasks": options.tasks, "threads": options.threads, "repeats": options.repeats}
        row |= {"median_s": statistics.median(times[name]), "min_s": min(times[name]), "matmul_flops": rate}
        row["ratio_to_fastest_peer"] = statistics.median(times["peft, task by task"]) / row["median_s"]
        row["flops"] = options.tasks * count_flops(lambda run=run: run(one))
        rows.append(row)
        print(
            f"{name:34} median {row['median_s']:6.2f} s, least {row['min_s']:6.2f} s, "
            f"{row['ratio_to_fastest_peer']:5.2f}x, {row['flops'] / 1e9:5.0f} GFLOP, "
            f"{row['flops'] / row['median_s'] / rate:6.1%} of peak",
            flush=True,
        )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
