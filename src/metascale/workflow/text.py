"""What the text recipes share: the configuration of a LoRA-adapted language model, and its parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from metascale.core.errors import InputError
from metascale.core.files import sha256_of
from metascale.workflow.config import Count, FewShotConfig, NonNegative, Rate, Share
from metascale.workflow.recipe import Follows

if TYPE_CHECKING:
    import torch

    from metascale.core.run import Run
    from metascale.core.types import Encoder, Params
    from metascale.models.text.classifiers import AdapterClassifier
    from metascale.tasks.fewshot import FewShotTasks
    from metascale.tasks.texts import TokenLists
    from metascale.workflow.fewshot import Parts


@dataclass(frozen=True)
class TextConfig(FewShotConfig):
    """Few-shot text classification with task-batched LoRA on a frozen backbone.

    Args:
        backbone: a hub name, a folder, a known shape, or ``data:FOLDER`` for a folder of the data folder. Empty: no
            language model, but a perceptron over word frequencies, which needs no download.
        frozen: a perceptron over the sentence features of the backbone, without adapters: the backbone reads every text
            once a process, so such studies run on the serial executor.
        random_weights: draw the backbone at random from this seed instead of loading weights (for shapes and tests).
        rank, alpha, dropout: of the adapters.
        targets: module names to adapt; empty means the architecture's own.
        head: ``"zero"`` and ``"prototype"`` are made afresh for every task, ``"learned"`` is a meta-parameter.
            ``"score"`` is one that transformers' classifiers have, and the run's adapters are peft's SEQ_CLS with it.
        pooling: ``"last"``, ``"mean"`` or ``"first"`` token; none means the architecture's own.
        dtype: of the frozen backbone; ``"int8"`` rounds the weights of its linear layers to 8 bits and computes in
            float32, with a quarter of their memory.
        attention: ``"sdpa"`` (fast), or ``"eager"``, which second-order methods need.
        checkpointing: run blocks again in the backward pass instead of keeping what is inside them: those that hold
            ``"adapters"``, or ``"all"``.
        load_in_8bit: quantise the backbone's linear layers with bitsandbytes.
        max_length: tokens of a text at most; batches are padded to their longest text only.
        task_execution: how the tasks of a meta-batch run on a CPU: one call each, over ``train_threads``, or
            ``"stacked"`` in one call, which is faster for backbones of a few hundred thousand parameters.
        n_words, width: vocabulary of a perceptron over word frequencies, and hidden units of either perceptron.
    """

    backbone: str = "tinyllama"
    frozen: bool = False
    random_weights: NonNegative | None = None
    rank: Count = 16
    alpha: Rate = 32.0
    dropout: Share = 0.05
    targets: tuple[str, ...] = ()
    head: Literal["zero", "prototype", "learned", "shared", "score"] = "learned"
    pooling: Literal["last", "mean", "first"] | None = None
    dtype: Literal["float32", "bfloat16", "float16", "int8"] = "float32"
    attention: Literal["sdpa", "eager"] = "sdpa"
    checkpointing: Literal["none", "adapters", "all"] = "none"
    load_in_8bit: bool = False
    max_length: Annotated[int, Field(ge=2, le=4096)] = 64
    task_execution: Literal["stacked", "threads"] = "threads"
    n_words: Count = 2000
    width: Count = 64

    @property
    def first_order_alone(self) -> tuple[str, str] | None:
        if self.frozen:
            return None
        if self.backbone and self.load_in_8bit:
            return "an 8-bit backbone", "load_in_8bit=false"
        return ("fused attention", "attention=eager") if self.backbone and self.attention == "sdpa" else None

    def refuse(self, where: str) -> None:
        if self.load_in_8bit and self.random_weights is not None:
            raise InputError(f"{where}: load_in_8bit needs real weights; leave random_weights out")
        if self.head == "score" and (self.frozen or not self.backbone):
            raise InputError(
                f"{where}: head=score is the classifier of a language model, and without a backbone, or with a frozen "
                "one, there is none",
                field="head",
                value="score",
                allowed="learned, shared, zero, prototype",
            )
        if self.load_in_8bit and self.dtype == "int8":
            raise InputError(f"{where}: load_in_8bit and dtype=int8 are two ways to 8 bits; leave one out")
        if self.frozen and not self.backbone:
            raise InputError(f"{where}: frozen=true needs a backbone; without one words are counted", field="frozen")
        super().refuse(where)


LORA: Mapping[str, object] = {
    "k_shot": 5,
    "inner_optimizer": "adamw",
    "inner_lr": 5e-4,
    "inner_weight_decay": 0.01,
    "inner_clip": 1.0,
    "tune_rates": (3e-4, 1e-3, 3e-3, 1e-2),
    "tune_steps": (0, 1, 3, 5, 10, 20),
}
"""Defaults of the recipes that adapt a language model."""

WORDS: Mapping[str, object] = {
    "method": "fomaml",
    "head": "zero",
    "inner_optimizer": "adam",
    "inner_lr": 0.01,
    "inner_steps": 10,
    "outer_optimizer": "adam",
    "outer_lr": 0.005,
    "outer_schedule": "cosine",
    "max_steps": 600,
    "eval_every": 50,
    "tune_rates": (0.001, 0.003, 0.01, 0.03),
    "tune_steps": (0, 1, 3, 5, 10, 20, 50, 100),
}
"""Defaults of the perceptron over word counts: found by the search of docs/tuning.md.

A head of zeros makes a task's first loss ln(n_way). A learnt one grows with the outer steps into the memory of single
training tasks: 12 nats before adaptation after a thousand of them.
"""

NO_BACKBONE: Mapping[str, object] = {**LORA, **WORDS, "backbone": "", "inner_clip": None, "inner_weight_decay": 0.0}
"""Defaults of a text recipe without a language model."""

WITHOUT_A_MODEL = Follows(
    "backbone",
    lambda value: value == "",
    {**NO_BACKBONE, "dtype": "float32", "n_validation_tasks": 100, "n_curve_tasks": 100},
    "a perceptron over word counts",
)
"""For recipes whose own backbone is a language model."""


def text_parts(
    config: TextConfig, make_source: Callable[[Encoder], FewShotTasks], texts: Callable[[], Iterable[str]], device: str
) -> Parts:
    """The source that ``make_source`` builds on the model's encoder, and the model.

    ``texts`` are all texts of the data set: a perceptron's vocabulary is their most frequent words.
    """
    if not config.backbone:
        return _words(config, make_source, texts)
    return (_frozen if config.frozen else _language_model)(config, make_source, device)


WORDS_LENGTH = 10.0
"""Euclidean length of a text's word counts as a perceptron reads them.

On validation classes of CLINC150 fine-tuning loses 0.37 nats with it, 0.42 with plain shares and 0.43 at length 45.
"""


SENTENCE_LENGTH = 4.0
"""Euclidean length of a text's sentence features as few-shot learners read them: the squared distances of prototypes
are then logits of about the right size."""


def _words(
    config: TextConfig, make_source: Callable[[Encoder], FewShotTasks], texts: Callable[[], Iterable[str]]
) -> Parts:
    from metascale.models.perceptron import Perceptron
    from metascale.tasks.words import BagOfWords, WordEncoder
    from metascale.workflow.fewshot import Parts

    assert config.head != "score"  # TextConfig.refuse
    encoder = WordEncoder.from_texts(texts(), max_words=config.n_words, max_length=config.max_length)
    bag = BagOfWords(make_source(encoder), encoder.n_tokens, WORDS_LENGTH)
    return Parts(
        bag, Perceptron(encoder.n_tokens, config.n_way, config.width, depth=1, head=config.head), eval_batch=50
    )


def _frozen(config: TextConfig, make_source: Callable[[Encoder], FewShotTasks], device: str) -> Parts:
    import torch

    from metascale.models.perceptron import ResidualPerceptron
    from metascale.models.text.hf import load_encoder
    from metascale.tasks.texts import TokenLists
    from metascale.workflow.fewshot import Parts

    assert config.head != "score"  # TextConfig.refuse
    path = backbone_path(config.backbone)
    source = make_source(load_encoder(path, config.max_length))
    tokens = source.table.fetch
    assert isinstance(tokens, TokenLists)
    values = SENTENCE_LENGTH * sentence_features(tokens, path, device).cpu()
    details = {**source.table.details, "inputs": f"{values.shape[1]} frozen features of {config.backbone}"}
    table = replace(source.table, fetch=lambda ids: {"x": values[torch.from_numpy(ids)]}, details=details)
    model = ResidualPerceptron(values.shape[1], config.n_way, config.width, head=config.head)
    return Parts(replace(source, table=table), model, eval_batch=50)


@dataclass(frozen=True)
class _Texts:
    """Tokenised texts, the same where their tokens are."""

    digest: str
    tokens: TokenLists = field(compare=False)


def sentence_features(tokens: TokenLists, backbone: str, device: str) -> torch.Tensor:
    """[n, d] the backbone's pooled hidden states of n texts, each of length 1; kept for this process."""
    digest = sha256_of(tokens.tokens.tobytes() + tokens.starts.tobytes() + tokens.lengths.tobytes())
    return _sentences(_Texts(digest, tokens), backbone, device)


@lru_cache(maxsize=8)
def _sentences(texts: _Texts, backbone: str, device: str) -> torch.Tensor:
    import torch
    from torch.nn.functional import normalize

    from metascale.models.text.architectures import architecture_of
    from metascale.models.text.heads import named_pooling
    from metascale.models.text.hf import call_options, load_backbone

    model = load_backbone(backbone, device=device)
    pool, options = named_pooling(architecture_of(model, "pooling").pooling), call_options(model)
    order = torch.from_numpy(texts.tokens.lengths).argsort(stable=True)  # texts of like length together
    found = []
    with torch.no_grad():
        for numbers in order.split(128):
            inputs = {key: value.to(device) for key, value in texts.tokens(numbers.numpy()).items()}
            hidden = model(**inputs, **options).last_hidden_state
            found.append(pool(hidden, inputs["attention_mask"]).float())
    return normalize(torch.cat(found)[order.argsort().to(device)], dim=1)


def adapted_model(config: TextConfig, device: str) -> AdapterClassifier:
    """The frozen backbone with its adapters and head."""
    from metascale.models.text.classifiers import AdapterClassifier
    from metascale.models.text.heads import named_head
    from metascale.models.text.hf import load_backbone

    backbone = load_backbone(
        backbone_path(config.backbone),
        dtype=config.dtype,
        attn_implementation=config.attention,
        device=device,
        random_init_seed=config.random_weights,
        load_in_8bit=config.load_in_8bit,
    )
    return AdapterClassifier(
        backbone,
        n_classes=config.n_way,
        rank=config.rank,
        alpha=config.alpha,
        dropout=config.dropout,
        targets=config.targets or None,
        head=named_head("prototype" if config.metric else config.head),
        pooling=config.pooling,
        checkpoint_blocks=config.checkpointing,
        task_execution=config.task_execution,
    )


def _language_model(config: TextConfig, make_source: Callable[[Encoder], FewShotTasks], device: str) -> Parts:
    from metascale.models.text.heads import ScoreHead
    from metascale.models.text.hf import load_encoder
    from metascale.models.text.peft_format import peft_files
    from metascale.models.text.seq_cls import stock_head
    from metascale.workflow.fewshot import Parts

    model = adapted_model(config, device)
    task_type: Literal["SEQ_CLS"] | None = "SEQ_CLS" if isinstance(model.head, ScoreHead) else None
    if task_type is not None:
        stock_head(model)  # refused before the run, not after it

    def save(params: Params, run: Run) -> None:
        for file, data in peft_files(params, model, task_type=task_type).items():
            run.write(f"adapter/{file}", data)

    return Parts(
        make_source(load_encoder(backbone_path(config.backbone), config.max_length)),
        model,
        eval_batch=8,
        save_adapters=save,
    )


ALIASES = {"gpt2-small": "gpt2"}
"""Other names of known backbones."""


def backbone_path(name: str) -> str:
    """A backbone's hub name or folder; ``data:FOLDER`` is a folder of this machine's data folder.

    Raises:
        InputError: a folder is named and is not there, or no data folder is named.
    """
    name = ALIASES.get(name, name)
    path = Path(name).expanduser()
    if name.startswith("data:"):
        root = os.environ.get("METASCALE_DATA")
        if not root:
            raise InputError("no data folder is named; pass `data_dir` or set METASCALE_DATA", field="data_dir")
        path = Path(root) / name.removeprefix("data:")
    elif not (name.startswith(("~", ".")) or path.is_absolute()):
        return name
    if not path.is_dir():
        raise InputError(f"there is no folder {path}, which backbone '{name}' names")
    return str(path)
