"""Training speed of the language models on a CPU: our Transformer beside nanoGPT's and Hugging Face's, and the scan.

    python benchmarks/language_models.py [--only transformers,scan] [--threads N] [--repeats 5] [--json FILE]

1. Tokens a second of one training step (forward, backward, clipping to norm 1, AdamW) at d 256 x 8 layers, 4 heads, a
   batch of 32 x 128 tokens and a vocabulary of 10,000, tied: our default (RMS norm, SwiGLU, rotary), ours in GPT-2's
   shape (layer norm, GELU, learned positions), nanoGPT's model (written out here in its layout) and transformers' GPT-2
   (SDPA attention). The peers use torch's fused AdamW.
2. ResNet-BK's position mixing, forward and backward: the scan, a Python loop over positions under autograd, and causal
   attention (torch's fused kernel, 4 heads of 64, without its projections), by number of positions; and what each keeps
   for the backward pass.

Variants run interleaved (A B C A B C ...) after a warm-up; figures are medians, with one thread of processor seconds.
Random tokens serve: only shapes matter.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from metascale.core.types import Batch
from metascale.models.kernels.tridiagonal import leading_resolvent
from metascale.models.transformer import Transformer
from metascale.training.optimizers import InPlaceAdamW
from metascale.training.supervised import SupervisedTraining
from speed import clock_of, matmul_rate, timed

N_VOCAB, D_MODEL, N_LAYERS, N_HEADS, N_BATCH, N_SEQUENCE = 10_000, 256, 8, 4, 32, 128
RATE = 3e-4


class Norm(nn.Module):
    """Layer normalisation without a shift, as nanoGPT trains by default."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D_MODEL))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Block(nn.Module):
    """Pre-norm attention and a GELU network of 4d, without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = Norm(), Norm()
        self.attention_in = nn.Linear(D_MODEL, 3 * D_MODEL, bias=False)
        self.attention_out = nn.Linear(D_MODEL, D_MODEL, bias=False)
        self.up, self.act = nn.Linear(D_MODEL, 4 * D_MODEL, bias=False), nn.GELU()
        self.down = nn.Linear(4 * D_MODEL, D_MODEL, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, d = x.shape
        parts = self.attention_in(self.norm_1(x)).split(d, dim=2)
        q, k, v = (part.view(b, n, N_HEADS, d // N_HEADS).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention_out(y.transpose(1, 2).contiguous().view(b, n, d))
        return x + self.down(self.act(self.up(self.norm_2(x))))


class NanoGPT(nn.Module):
    """nanoGPT's model in its default configuration: learned positions, tied readout, no biases, no dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(N_VOCAB, D_MODEL), nn.Embedding(N_SEQUENCE, D_MODEL)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(N_LAYERS)), Norm()
        self.head = nn.Linear(D_MODEL, N_VOCAB, bias=False)
        self.tokens.weight = self.head.weight

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, N_VOCAB), targets.view(-1), ignore_index=-1)


class RandomTokens:
    """One batch of random tokens, again and again."""

    def __init__(self) -> None:
        ids = torch.randint(0, N_VOCAB, (N_BATCH, N_SEQUENCE + 1), generator=torch.Generator().manual_seed(0))
        self.one = Batch({"input_ids": ids[:, :-1].contiguous()}, ids[:, 1:].contiguous())

    def batch(self, step: int) -> Batch:
        return self.one


def our_step(model: Transformer) -> Callable[[], object]:
    process = SupervisedTraining(model, RandomTokens(), InPlaceAdamW(RATE, weight_decay=0.1))
    state = process.init()
    return lambda: process.step(state, 0)


def module_step(module: nn.Module, loss_of: Callable[[Batch], torch.Tensor]) -> Callable[[], object]:
    batch = RandomTokens().one
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step() -> float:
        loss = loss_of(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def transformer_steps() -> Mapping[str, Callable[[], object]]:
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"n_layers": N_LAYERS, "n_heads": N_HEADS, "n_positions": N_SEQUENCE}
    nano = NanoGPT()
    config = GPT2Config(
        vocab_size=N_VOCAB, n_positions=N_SEQUENCE, n_embd=D_MODEL, n_layer=N_LAYERS, n_head=N_HEADS,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, attn_implementation="sdpa",
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    gpt2 = GPT2LMHeadModel(config).train()

    def gpt2_loss(batch: Batch) -> torch.Tensor:
        return gpt2(input_ids=batch.inputs["input_ids"], labels=batch.inputs["input_ids"]).loss

    return {
        "ours": our_step(Transformer(N_VOCAB, D_MODEL, **shape)),
        "ours, GPT-2's shape": our_step(
            Transformer(N_VOCAB, D_MODEL, **shape, positions="learned", norm="layer", feed_forward="gelu")
        ),
        "nanoGPT's model": module_step(nano, lambda batch: nano(batch.inputs["input_ids"], batch.targets)),
        "transformers GPT-2": module_step(gpt2, gpt2_loss),
    }


def loop_over_positions(sites: torch.Tensor) -> torch.Tensor:
    m, entries = torch.zeros_like(sites[:, 0]), []
    for position in range(sites.shape[1]):
        m = 1 / (sites[:, position] - m)
        entries.append(m)
    return torch.stack(entries, 1)


def mixing_steps(n_batch: int, n: int) -> Mapping[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    potential = torch.randn(n_batch, n, generator=generator).clamp(-3, 3).requires_grad_()
    qkv = torch.randn(3, n_batch, N_HEADS, n, D_MODEL // N_HEADS, generator=generator).requires_grad_()
    features, mixed = torch.randn(n_batch, n, 2, generator=generator), torch.randn(qkv.shape[1:], generator=generator)

    def resolvent(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], object]:
        def step() -> object:
            output = torch.view_as_real(function(torch.complex(potential - 2, -torch.ones_like(potential))))
            return torch.autograd.grad(output, potential, features)

        return step

    def attention() -> object:
        output = F.scaled_dot_product_attention(*qkv.unbind(0), is_causal=True)
        return torch.autograd.grad(output, qkv, mixed)

    steps = {"scan": resolvent(leading_resolvent), "attention": attention}
    return steps | ({"loop": resolvent(loop_over_positions)} if n <= 4096 else {})


def saved_bytes(step: Callable[[], object]) -> int:
    """Bytes of the storages that a forward pass keeps for its backward pass."""
    kept: dict[int, int] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        step()
    return sum(kept.values())


def medians(steps: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            seconds = timed(step, "cpu", clock_of(torch.get_num_threads()))
            if repeat:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def transformers_table(repeats: int) -> list[dict]:
    rate = matmul_rate("cpu", clock=clock_of(torch.get_num_threads()))
    tokens = N_BATCH * N_SEQUENCE
    found = medians(transformer_steps(), repeats)
    flops = 3 * N_BATCH * sum(Transformer(N_VOCAB, D_MODEL, N_LAYERS, N_HEADS).flops(N_SEQUENCE).values())
    print(f"float32 matrix product {rate / 1e9:.0f} GFLOP/s; {flops / 1e9:.0f} GFLOP a step (ours)")
    print(f"{'variant':22} {'tokens/s':>9} {'step':>9} {'of ours':>8} {'of peak':>8}")
    rows = []
    for name, seconds in found.items():
        row = {"what": "step", "variant": name, "tokens_per_s": tokens / seconds, "step_s": seconds}
        rows.append({**row, "of_peak": flops / seconds / rate, "matmul_flops": rate})
        print(
            f"{name:22} {tokens / seconds:9.0f} {seconds * 1e3:7.0f}ms {found['ours'] / seconds:8.2f} "
            f"{flops / seconds / rate:8.1%}",
            flush=True,
        )
    return rows


def scan_table(repeats: int, lengths: list[int]) -> list[dict]:
    print(
        f"{'batch':>5} {'N':>6} {'scan':>9} {'loop':>9} {'attention':>10} {'loop/scan':>10} {'att./scan':>10}  kept MB"
    )
    rows = []
    for n in lengths:
        n_batch = max(1, min(32, 32 * 1024 // n))
        steps = mixing_steps(n_batch, n)
        found = medians(steps, repeats)
        kept = {name: saved_bytes(step) for name, step in steps.items()}
        rows.append({"what": "scan", "n_positions": n, "batch": n_batch, "seconds": found, "saved_bytes": kept})
        cells = [f"{found[name] * 1e3:7.2f}ms" if name in found else "-" for name in ("scan", "loop", "attention")]
        ratios = [f"{found.get(name, math.nan) / found['scan']:.1f}" for name in ("loop", "attention")]
        print(
            f"{n_batch:5} {n:6} {cells[0]:>9} {cells[1]:>9} {cells[2]:>10} {ratios[0]:>10} {ratios[1]:>10}  "
            f"scan {kept['scan'] / 1e6:.2f}, attention {kept['attention'] / 1e6:.1f}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="transformers,scan")
    parser.add_argument("--lengths", default="128,512,1024,4096,16384")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads")
    rows = []
    if "transformers" in options.only:
        rows += transformers_table(options.repeats)
    if "scan" in options.only:
        rows += scan_table(options.repeats, [int(n) for n in options.lengths.split(",")])
    if options.json:
        with open(options.json, "w", encoding="utf-8") as stream:
            more = {"threads": options.threads, "repeats": options.repeats}
            stream.writelines(json.dumps({**row, **more}) + "\n" for row in rows)


if __name__ == "__main__":
    main()
