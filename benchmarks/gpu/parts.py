"""What benchmarks/gpu measures, one function a part; each yields rows as soon as it has them."""

from __future__ import annotations

import functools
import gc
import importlib.util
import itertools
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import bilevel
import language_models
import memory
import peers_lora
from metascale.core.types import Batch, Episode
from metascale.meta.gradients import FOMAML, MAML, MetaGradient, Reptile
from metascale.meta.inner import InnerLoop
from metascale.meta.learner import MetaLearner
from metascale.meta.reverse import FullGraph
from metascale.models.perceptron import Perceptron
from metascale.models.resnet_bk import ResNetBK
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import LearnedHead
from metascale.models.text.hf import load_config, random_backbone
from metascale.models.transformer import Transformer
from metascale.parallel.execution import Execution
from metascale.training.flops import count_flops
from metascale.training.memory import MIB
from metascale.training.optimizers import SGD, Adam, InPlaceAdamW
from metascale.training.supervised import SupervisedTraining
from metascale.workflow.launch import Place as Where
from metascale.workflow.launch import launch, plan
from speed import matmul_rate, timed, vectors

TASKS, WAYS, SHOTS, QUERIES, STEPS, RATE = 4, 5, 5, 15, 5, 5e-4
SHORTEST, LONGEST = 8, 22
TRIALS = 7
"""Trials of a stack in the study of digits: its task counts, of one seed."""
Row = dict[str, Any]
Step = Callable[[], object]
PEFT = "peft, task by task"
OUT_OF_MEMORY, NO_TIME = "out of memory", "left out: the time was up"
FAILED = "failed: "
OTHER_VERSIONS = (RuntimeError, AttributeError, TypeError, ValueError, ImportError)
"""What other versions of torch and transformers may raise, whose first run here is on the GPU."""


@dataclass(frozen=True)
class Place:
    """Where it runs, at what size, and until when."""

    device: str
    tiny: bool
    repeats: int
    until: float = field(default=float("inf"))

    def backbone(self, attention: str) -> Any:
        config = load_config("tinyllama")
        if self.tiny:
            config.hidden_size, config.intermediate_size, config.num_hidden_layers = 64, 128, 2
            config.num_attention_heads, config.num_key_value_heads, config.vocab_size = 4, 2, 200
            config.head_dim = 16
        dtype = "float32" if self.tiny else "bfloat16"
        with torch.device(self.device):
            return random_backbone(config, 0, dtype=dtype, attn_implementation=attention, device=self.device)

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def free(self) -> None:
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def tried(self, row: Row, measure: Callable[[], Row]) -> Row:
        """A row with what was measured, or with why there is nothing: no memory, no time, or what failed."""
        if time.monotonic() > self.until:
            return {**row, "note": NO_TIME}
        self.free()
        try:
            return {**row, **measure()}
        except torch.OutOfMemoryError:
            return {**row, "note": OUT_OF_MEMORY}
        except OTHER_VERSIONS as error:  # one variant costs no minutes of the others; the program ends with status 1
            traceback.print_exc()
            told = f"{type(error).__name__}: {error}".splitlines()[0]
            return {**row, "note": f"{FAILED}{told[:80]}"}

    def times(self, step: Step) -> Row:
        found = [timed(step, self.device) for _ in range(self.repeats + 1)][1:]
        row: Row = {"median_s": statistics.median(found), "least_s": min(found)}
        return row | ({"peak_mib": torch.cuda.max_memory_allocated() / MIB} if self.on_gpu else {})


# LoRA on a backbone of TinyLlama's size.


def texts(vocabulary: int, device: str) -> Episode:
    """Texts of different lengths, padded to the longest."""
    generator = torch.Generator().manual_seed(0)

    def batch(n_examples: int) -> Batch:
        shape = (TASKS, n_examples)
        lengths = torch.randint(SHORTEST, LONGEST + 1, shape, generator=generator)
        lengths[0, 0] = LONGEST
        mask = (torch.arange(LONGEST) < lengths.unsqueeze(-1)).long()
        ids = torch.randint(5, vocabulary, (*shape, LONGEST), generator=generator) * mask
        targets = torch.arange(n_examples).remainder(WAYS).expand(shape)
        return Batch({"input_ids": ids, "attention_mask": mask}, targets).to(device)

    return Episode(tuple(map(str, range(TASKS))), batch(WAYS * SHOTS), batch(WAYS * QUERIES))


def tokens(episode: Episode, with_query: bool) -> int:
    """Tokens that an outer step passes through the model, padding left out."""
    support, query = (int(batch.inputs["attention_mask"].sum()) for batch in (episode.support, episode.query))
    return STEPS * support + query * with_query


def classifier(backbone: Any) -> AdapterClassifier:
    head = LearnedHead(feature_norm=None)
    return AdapterClassifier(
        backbone, WAYS, rank=16, dropout=0.0, head=head, pooling="mean", targets=("q_proj", "v_proj")
    )


def lora_variants(place: Place, episode: Episode) -> Iterator[tuple[str, bool, Callable[[], Step]]]:
    """Name, whether the query set is read, and what makes a step: a backbone lives as long as its step."""
    inner = InnerLoop(Adam(RATE), steps=STEPS)

    def ours(gradient: MetaGradient, attention: str, chunk: int | None = None) -> Step:
        model = classifier(place.backbone(attention))
        learner = MetaLearner(gradient, SGD(0.5), execution=Execution(chunk))
        state = learner.init(model, 0, place.device)
        return lambda: learner.step(model, state, episode)

    def peft(*arguments: int) -> Step:
        model = classifier(place.backbone("sdpa"))
        loop = peers_lora.PeftTasks(model, model.init(0), place.backbone("sdpa"))
        return lambda: loop(episode, *arguments)

    if importlib.util.find_spec("peft"):
        yield PEFT, True, peft
        yield "peft, padded to 64 tokens, micro-batches of 4", True, lambda: peft(64, 4)
    yield "Reptile, tasks stacked", False, lambda: ours(Reptile(inner), "sdpa")
    yield "first order, tasks stacked", True, lambda: ours(FOMAML(inner), "sdpa")
    yield "first order, one task after another", True, lambda: ours(FOMAML(inner), "sdpa", 1)
    yield "exact, tasks stacked", True, lambda: ours(MAML(inner), "eager")
    yield "exact, one task after another", True, lambda: ours(MAML(inner), "eager", 1)


def lora(place: Place) -> Iterator[Row]:
    """Seconds, FLOPs, share of the matrix rate and peak memory of an outer step, each by itself after a warm-up.

    They are not interleaved: six copies of the backbone would not leave the memory that a step needs.
    """
    rate = matmul_rate(place.device, 8192 if place.on_gpu else 512, dtype=torch.bfloat16)
    episode = texts(200 if place.tiny else 32000, place.device)
    for name, with_query, make in lora_variants(place, episode):

        def measure(make: Callable[[], Step] = make, n_tokens: int = tokens(episode, with_query)) -> Row:
            step = make()
            flops = count_flops(step)
            found = place.times(step)
            speeds = {"tokens_per_s": n_tokens / found["median_s"], "of_peak": flops / found["median_s"] / rate}
            return {**found, **speeds, "flops": flops, "matmul_flops": rate}

        yield place.tried({"part": "lora", "variant": name, "where": "TinyLlama's shape", "to": PEFT}, measure)


# The memory of meta-gradients.


def waterfall(place: Place) -> Iterator[Row]:
    """Peak memory of one task's meta-gradient, from full-parameter unrolled MAML down, at three numbers of steps."""
    layers, device = (1, "meta") if place.tiny else (22, place.device)
    variants = memory.VARIANTS[:3] if place.tiny else memory.VARIANTS
    frozen = None
    for variant in variants:
        for steps in (1,) if place.tiny else memory.measured(variant, [1, 5, 20]):

            def measure(variant: memory.Variant = variant, steps: int = steps, weights: Any = frozen) -> Row:
                report = memory.measure(variant, "tinyllama", layers, steps, device, weights)
                return {**report.row(), "peak_mib": report.peak_bytes / MIB}

            row = {"part": "memory", "variant": variant.name, "where": f"{layers} layers, {steps} inner steps"}
            yield place.tried(row, measure)
        if frozen is None:
            frozen = memory.backbone("tinyllama", layers, device)


# Bilevel training.


def bilevel_steps(place: Place) -> Iterator[Row]:
    """Bilevel steps beside the plain one, and Betty's where it is installed; the ratio is of times."""
    for name in ("bert",) if place.tiny else ("bert-base", "resnet"):
        for unroll in (1,) if place.tiny else (1, 5):
            where = f"{name}, {unroll} lower step{'s' if unroll > 1 else ''}"
            if time.monotonic() > place.until:
                yield {"part": "bilevel", "variant": "all", "where": where, "note": NO_TIME}
                continue
            place.free()
            only = ["sama"] if place.tiny else []
            rows = bilevel.compare(bilevel.Work(name, place.device), unroll, place.repeats, only, memory=not place.tiny)
            for row in rows:
                found = {"part": "bilevel", "where": where, "median_s": row["step_s"], "to": "plain", **row}
                yield found | {"ratio": 1 / row["time_ratio"]}


# Few-shot tasks of a small network: a study stacked, and its step as one graph of the GPU.


class Silent:
    """A reporter that tells nothing."""

    def begin(self, folder: Path, total: int, done: int) -> None: ...
    def event(self, event: object) -> None: ...
    def end(self, outcome: object) -> None: ...


def stacked(place: Place) -> Iterator[Row]:
    """The study of digits with its trials one at a time and stacked; its outer step launched and captured."""
    yield from _digits_study(place)
    yield from _digits_steps(place)


def _digits_study(place: Place) -> Iterator[Row]:
    """Wall seconds of the whole command: the processes' start, training and evaluation."""
    steps, seeds = (2, [0]) if place.tiny else (200, [0, 1, 2])
    for name, stack in (("one trial at a time", 1), (f"stacks of {TRIALS}", TRIALS + 1)):

        def measure(stack: int = stack) -> Row:
            where = Where(workers=1, stack=stack, devices=place.device)
            values = {"max_steps": steps} | ({"n_test_tasks": 10} if place.tiny else {})
            planned = plan("digits", values, profile="steps", seeds=seeds, place=where, baselines=False)
            with tempfile.TemporaryDirectory() as folder:
                began = time.perf_counter()
                outcome, _ = launch(planned, folder, reporter=Silent())
                spent = time.perf_counter() - began
            assert outcome.finished == outcome.total
            return {"median_s": spent, "repeats": 1}

        where = f"study of digits, {TRIALS * len(seeds)} trials, {steps} outer steps"
        row = {"part": "stacked", "variant": name, "where": where, "to": "one trial at a time"}
        yield place.tried(row, measure)


def _digits_steps(place: Place) -> Iterator[Row]:
    """The meta-gradient of the perceptron, exact through the stored graph: of 8 tasks and of 56, and both captured.

    Seconds are those of 8 tasks.
    """
    model, inner = Perceptron(64, WAYS, width=64, depth=2), InnerLoop(SGD(0.1), steps=STEPS)
    gradient, alone = MAML(inner, FullGraph()), 2 * TASKS
    for n_tasks, captured in itertools.product((alone, TRIALS * alone), (False, True)):
        name = f"{n_tasks} tasks" + (", captured" if captured else "")
        where = "meta-gradient of the digits perceptron, time of 8 tasks"
        row = {"part": "stacked", "variant": name, "where": where, "to": f"{alone} tasks"}
        if captured and not place.on_gpu:
            yield {**row, "note": "graphs are a GPU's"}
            continue
        theta = {key: value.to(place.device) for key, value in model.init(0).items()}
        episode = vectors(n_tasks, (1, 8, 8), WAYS, WAYS * SHOTS, WAYS * QUERIES, place.device)
        step = functools.partial(gradient, model, theta, episode, None)

        def measure(step: Step = step, captured: bool = captured, share: float = n_tasks / alone) -> Row:
            if captured:
                try:
                    step = capture(step)
                except RuntimeError as error:
                    return {"note": f"cannot be captured: {str(error).splitlines()[0][:80]}"}
            found = place.times(step)
            return {key: value / share if key.endswith("_s") else value for key, value in found.items()}

        yield place.tried(row, measure)


def capture(step: Step) -> Step:
    """The operations of ``step`` as one graph, which is launched at once; its tensors stay where they are."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


# Language models of the model-size study.


class Compiled:
    """A language model whose objective is compiled; everything else is the model's."""

    def __init__(self, model: Any, backend: str) -> None:
        self.model = model
        self.objective = torch.compile(model.objective, backend=backend)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def sizes(place: Place) -> Iterator[Row]:
    """A training step of every model of the study, bfloat16 autocast on a GPU, and the largest ones compiled."""
    grid = ((16, 1), (32, 2)) if place.tiny else tuple(itertools.product((64, 128, 256, 512), (4, 8, 12, 16)))
    rate = matmul_rate(place.device, 8192 if place.on_gpu else 512, dtype=torch.bfloat16)
    for kind, (width, depth) in itertools.product((Transformer, ResNetBK), grid):
        for compiled in (False, True) if (width, depth) == grid[-1] else (False,):
            name = kind.__name__ + (", compiled" if compiled else "")
            measure = functools.partial(_size, place, kind, width, depth, compiled, rate)
            row = {"part": "sizes", "variant": name, "where": f"width {width}, {depth} layers", "to": "Transformer"}
            yield place.tried(row, measure)


def _size(place: Place, kind: Any, width: int, depth: int, compiled: bool, rate: float) -> Row:
    n_sequence, n_batch, n_vocab = language_models.N_SEQUENCE, language_models.N_BATCH, language_models.N_VOCAB
    more = {"n_heads": 4} if kind is Transformer else {}
    model = kind(n_vocab, width, depth, n_positions=n_sequence, **more)
    flops = 3 * n_batch * sum(model.flops(n_sequence).values())
    # In a tiny run only tracing is tried, with PyTorch's own kernels: compiling them takes a minute.
    trained = Compiled(model, "aot_eager" if place.tiny else "inductor") if compiled else model
    examples, optimizer = language_models.RandomTokens(), InPlaceAdamW(language_models.RATE)
    process = SupervisedTraining(trained, examples, optimizer, device=place.device, autocast=place.on_gpu)
    state = process.init()
    found = place.times(lambda: process.step(state, 0))
    seconds = found["median_s"]
    speeds = {"tokens_per_s": n_batch * n_sequence / seconds, "of_peak": flops / seconds / rate}
    return {**found, **speeds, "flops": flops, "matmul_flops": rate}


PARTS: dict[str, Callable[[Place], Iterator[Row]]] = {
    "lora": lora,
    "memory": waterfall,
    "bilevel": bilevel_steps,
    "stacked": stacked,
    "sizes": sizes,
}
