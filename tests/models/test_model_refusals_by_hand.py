"""Refusals of models, whole: the sentence, the argument that it names, what was given and what is allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from metascale.core.errors import CorruptFile, InputError
from metascale.core.streams import torch_generator
from metascale.core.types import Batch
from metascale.models.addressed import AddressedRandomness
from metascale.models.context import WithContext
from metascale.models.convnet import ConvNet
from metascale.models.metric import Ridge
from metascale.models.module import Module
from metascale.models.mup import at_width
from metascale.models.network import OneTask, class_means, cross_entropy_each, squared_error_per_task
from metascale.models.perceptron import Perceptron, ResidualPerceptron
from metascale.models.resnet import ResNet
from metascale.models.resnet_bk import DecodingState, ResNetBK
from metascale.models.svm import SupportVectors
from metascale.models.text.any_model import LoRA
from metascale.models.text.architectures import match_targets
from metascale.models.text.classifiers import AdapterClassifier, FullClassifier, TextClassifier, transformer_blocks
from metascale.models.text.heads import LearnedHead, PrototypeHead, named_head, named_pooling
from metascale.models.text.hf import (
    TextEncoder,
    load_backbone,
    load_config,
    random_backbone,
    refuse_decoder,
    refuse_int8,
    require_derivative,
)
from metascale.models.text.peft_format import load_peft, peft_files, save_peft
from metascale.models.text.probe import require_bare
from metascale.models.transformer import Transformer
from metascale.models.widths import layer_widths
from tests.models.tiny_backbones import CONFIGS, tiny

Refusal = tuple[Callable[[], object], str, str | None, object]


def refused(make: Callable[[], object]) -> tuple[str, str | None, object]:
    with pytest.raises(InputError) as caught:
        make()
    return str(caught.value), caught.value.field, caught.value.value


def at_least(network: str, name: str) -> tuple[str, str, int]:
    return f"{name} of the {network} must be at least 1, not 0", name, 0


def rate(network: str, name: str, value: float) -> tuple[str, str, float]:
    return f"{name} of {network} must be from 0 to below 1, not {value}", name, value


SMALL = ResNetBK(n_vocab=3, d_model=4, n_layers=1, n_positions=2)
TOKENS = torch.zeros(1, 3, dtype=torch.long)
NETWORKS: list[Refusal] = [
    (lambda: WithContext(Perceptron(2, 2), 0), "a context has at least one number, not 0", "n_context", None),
    (lambda: Perceptron(1, 1, width=0), *at_least("perceptron", "width")),
    (lambda: Perceptron(1, 1, depth=0), *at_least("perceptron", "depth")),
    (lambda: ResidualPerceptron(1, 1, width=0), *at_least("perceptron", "width")),
    (lambda: ConvNet(2, width=0), *at_least("convolutional network", "width")),
    (lambda: ConvNet(2, depth=0), *at_least("convolutional network", "depth")),
    (lambda: ResNet(width=0), *at_least("residual network", "width")),
    (lambda: ResNet(n_blocks=0), *at_least("residual network", "n_blocks")),
    (lambda: Perceptron(1, 1, dropout=1.0), *rate("the perceptron", "dropout", 1.0)),
    (lambda: Perceptron(1, 1, dropout=-0.5), *rate("the perceptron", "dropout", -0.5)),
    (lambda: ConvNet(2, norm="group", dropout=1.0), *rate("the convolutional network", "dropout", 1.0)),
    (lambda: ConvNet(2, norm="group", dropout_inner=1.0), *rate("the convolutional network", "dropout_inner", 1.0)),
    (lambda: ResNet(dropout=1.0), *rate("the residual network", "dropout", 1.0)),
    (lambda: Transformer(1, dropout=1.0), *rate("the Transformer", "dropout", 1.0)),
    (lambda: ResNetBK(1, dropout=1.0), *rate("ResNet-BK", "dropout", 1.0)),
    (lambda: ConvNet(2, dropout=0.1), "dropout of the convolutional network needs norm='group'", "dropout", None),
    (lambda: ConvNet(2, dropout_inner=0.1), "dropout of the convolutional network needs norm='group'", "dropout", None),
    (lambda: ConvNet(2, image_size=15, depth=4),
     "an image of 15x15 pixels allows at most 3 blocks of 2x2 pooling, not 4", "depth", None),
    (lambda: ConvNet(2, image_size=3, depth=4, norm="group"),
     "an image of 3x3 pixels allows at most 1 blocks of 2x2 pooling, not 2", "depth", None),
    *((lambda given=given: ConvNet(2, **given),
       f"steps of the convolutional network must be 0 or more, and 0 with norm='group', not {given['steps']}", "steps",
       given["steps"]) for given in ({"steps": -1}, {"steps": 1, "norm": "group"})),
    *((lambda head=head: Perceptron(1, 1, head=head, task_axis=False),
       f"head='{head}' is of tasks of classes; elsewhere the head is 'learned'", "head", head)
      for head in ("shared", "zero", "prototype")),
    (lambda: ConvNet(2, head="own"),
     "there is no head 'own'; allowed are 'learned', 'shared', 'zero', 'prototype'", "head", "own"),
    (lambda: ResidualPerceptron(1, 1, head="own"),
     "there is no head 'own'; allowed are 'learned', 'shared', 'zero', 'prototype'", "head", "own"),
    (lambda: layer_widths(4, 2, 0.0),
     "ratio of the widths of the last and the first layer must be above 0, not 0.0", None, None),
    (lambda: Perceptron(1, 1, ratio=-1.0),
     "ratio of the widths of the last and the first layer must be above 0, not -1.0", None, None),
    (lambda: layer_widths(4, 1, 2.0), "a net of one layer has no second width: ratio must be 1 at depth 1, not 2.0",
     None, None),
    *((lambda name=name: Ridge(**{name: 0.0}), f"{name} of the ridge head must be positive, not 0.0", name, None)
      for name in ("ridge", "scale")),
    *((lambda name=name: SupportVectors(**{name: 0.0}),
       f"{name} of the support vector head must be positive, not 0.0", name, None) for name in ("penalty", "scale")),
    (lambda: class_means(torch.zeros(2, 2, 1), torch.tensor([[0, 1], [0, 0]]), 2),
     "the support set of task 1 has no example of class 1; prototypes need one of every class", None, None),
    (lambda: cross_entropy_each(torch.zeros(3, 2), torch.tensor([-100, 1, 2])),
     "targets name classes from 1 to 2, but outputs have 2, numbered from 0", "targets", None),
    (lambda: OneTask(ConvNet(2)),
     "ConvNet takes the statistics of the evaluated batch, so it has no test loss of its own; use ConvNet with "
     "norm='group' or ResNet for supervised training", "model", None),
    (lambda: Transformer(1, d_model=6, n_heads=2),
     "d_model of the Transformer must be a multiple of twice n_heads (4), not 6", None, None),
    (lambda: Transformer(3, 4, 1, 1, n_positions=2).hidden({}, TOKENS),
     "a sequence of 3 tokens is longer than 2 positions", None, None),
    (lambda: SMALL.hidden({}, TOKENS), "a sequence of 3 tokens is longer than 2 positions", None, None),
    (lambda: SMALL.decode({}, TOKENS[:, 0], DecodingState(2, torch.zeros(1))), "all 2 positions are used up", None,
     None),
    *((lambda given=given: ResNetBK(3, **given).begin_decoding(1, {}),
       "only a causal ResNet-BK with logits over the vocabulary can decode token by token", None, None)
      for given in ({"causal": False}, {"n_classes": 2})),
    (lambda: ResNetBK(1, energies=((0.0, 1.0), (1.0, 0.0))),
     "the imaginary part of an energy of ResNet-BK must be above 0, not 0.0", None, None),
    (lambda: ResNetBK(1, energies=()), "ResNet-BK needs at least one energy", None, None),
    (lambda: at_width(Ridge(), 3), "Ridge has no width: none of the fields d_model, width", None, None),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(NETWORKS)))
def test_refusals_of_networks(number: int) -> None:
    make, message, field, value = NETWORKS[number]
    assert refused(make) == (message, field, value)


def test_a_head_that_there_is_not_comes_with_those_that_there_are() -> None:
    with pytest.raises(InputError) as caught:
        Perceptron(1, 1, head="own")  # type: ignore[arg-type]
    assert caught.value.allowed == "'learned', 'shared', 'zero', 'prototype'"
    with pytest.raises(InputError):
        squared_error_per_task(torch.zeros(2, 1), torch.zeros(2))


class Several(nn.Module):
    """Gives out what it is made with."""

    def __init__(self, found: object = None) -> None:
        super().__init__()
        self.linear, self.found = nn.Linear(2, 2), found

    def forward(self, x: torch.Tensor) -> object:
        return self.found


NET = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
NAMES = "0.weight, 0.bias, 2.weight, 2.bias"
ONE = Batch({"x": torch.zeros(1, 2, 2)}, torch.zeros(1, 2, dtype=torch.long))
STACKED = {"linear.weight": torch.zeros(1, 2, 2), "linear.bias": torch.zeros(1, 2)}
OUT = torch.zeros(1, 2, 2)
MODULES: list[Refusal] = [
    (lambda: Module(NET, start="drawn"), "start must be 'weights' or 'seed', not 'drawn'", "start", "drawn"),
    (lambda: Module(NET, batch_statistics="own"),
     "batch_statistics must be 'batch' or 'per_step' or 'frozen', not 'own'", "batch_statistics", "own"),
    (lambda: Module(NET, "hinge"),
     "loss must be 'cross_entropy', 'squared_error' ('mse') or a function, not 'hinge'", "loss", None),
    (lambda: Module(NET, train="0.*"), "train must be a list of patterns, such as ['0.*'], not a text", "train", None),
    *((lambda steps=steps: Module(NET, batch_statistics="per_step", steps=steps),
       f"batch_statistics='per_step' needs steps, the number of inner steps (at least 1), not {steps!r}", "steps", None)
      for steps in (None, 0, "2")),
    (lambda: Module(NET, steps=1), "steps belongs to batch_statistics='per_step', not to 'batch'", "steps", None),
    (lambda: Module(NET, batch_statistics="per_step", steps=1),
     "batch_statistics='per_step' needs batch normalisation with a gain and a shift to learn, which the module lacks",
     "batch_statistics", None),
    (lambda: Module(NET, train=["1.*"]),
     f"no parameter to learn: those with requires_grad=True that match ['1.*'] are none of {NAMES}", "train", None),
    (lambda: Module(nn.ReLU()),
     "no parameter to learn: those with requires_grad=True that match ['*'] are none of none", "train", None),
    (lambda: Module(NET, head="3"), "the module has no part '3'; linear ones are 0, 2", "head", None),
    (lambda: Module(3), "net must be a torch module or a function that makes one, not of int", "net", None),
    (lambda: Module(lambda: 3), "net must be a torch module or a function that makes one, not of int", "net", None),
    (lambda: Module(NET).network({"0.weight": torch.zeros(3, 2)}),
     f"the module's parameters are {NAMES}, not 0.weight", None, None),
    (lambda: Module(NET).network({**Module(NET).init(0), "2.bias": torch.zeros(1)}),
     "'2.bias' must have shape [2], not [1]", None, None),
    (lambda: Module(Several()).predict(STACKED, ONE),
     "the module returns NoneType without logits: say with output= which tensor is meant", "output", None),
    (lambda: Module(Several(())).predict(STACKED, ONE),
     "the module returns tuple without logits: say with output= which tensor is meant", "output", None),
    (lambda: Module(NET, lambda out, wanted: 1.5).output_losses(OUT, ONE), "the loss must give a tensor, not float",
     "loss", None),
    (lambda: Module(NET, lambda out, wanted: out).output_losses(OUT, ONE),
     "the loss must give one number, or one an example [2], not [2, 2]", "loss", None),
    (lambda: Module(NET).output_losses(OUT, Batch({}, torch.zeros(1, 2))),
     "cross_entropy needs targets that are classes (integers)", "loss", None),
    (lambda: Module(NET).output_losses(torch.zeros(1, 2, 3, 3), Batch({}, torch.zeros(1, 2, 3, dtype=torch.long))),
     "cross_entropy cannot tell which axis of outputs [2, 3, 3] are the classes of targets [2, 3]: give a loss of your "
     "own", "loss", None),
    (lambda: Module(NET).output_losses(OUT, Batch({}, torch.zeros(1, 3, dtype=torch.long))),
     "outputs [2, 2] do not fit targets [3]: cross_entropy needs one more axis, of classes", "loss", None),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(MODULES)))
def test_refusals_of_modules(number: int) -> None:
    make, message, field, value = MODULES[number]
    assert refused(make) == (message, field, value)


def test_a_module_of_steps_is_no_plain_one() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model = Module(net, batch_statistics="per_step", steps=1)
    said = "a plain module has one gain and shift, not one for each step"
    assert refused(lambda: model.network(model.init(0))) == (said, "batch_statistics", None)


def test_random_numbers_that_are_refused() -> None:
    def draw(key: int | None) -> object:
        with AddressedRandomness(key, torch.arange(2)):
            return torch.rand(2)

    assert refused(lambda: draw(None)) == (
        "the module draws random numbers (rand.default) in evaluation mode; a prediction must be a function of "
        "parameters and inputs", "net", None,
    )  # fmt: skip
    assert refused(lambda: draw(0)) == (
        "the module draws random numbers (rand.default) that have no address, so a run could not be repeated; dropout "
        "of any kind is fine, other noise belongs into the inputs", "net", None,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- language models

KEYS = ", ".join(repr(name) for name in ("float32", "bfloat16", "float16", "float64", "int8"))
LORA: list[Refusal] = [
    (lambda: LoRA(tiny("bert"), "labels"),
     "task must be one of 'classification', 'causal_lm', 'seq2seq', not 'labels'", "task", "labels"),
    (lambda: LoRA(nn.Linear(1, 1)),
     "LoRA adapts a model of transformers, or one by its folder or name, not a Linear; Module takes any other torch "
     "module", "model", None),
    *((lambda given=given: LoRA(tiny("bert"), targets=given),
       f"targets must be a tuple of names of layers, not {given!r}", "targets", given) for given in ("query", ())),
    (lambda: LoRA(tiny("bert"), head="zero"),
     "head must be one of metascale.models.text, such as named_head('zero')", "head", None),
    *((lambda name=name, given=given: LoRA(tiny("gpt2"), "causal_lm", **{name: given}),
       f"{name} is for task='classification', not for 'causal_lm'", name, given)
      for name, given in (("n_classes", 2), ("pooling", "last"), ("head", LearnedHead()))),
    (lambda: LoRA(tiny("bert")), "a classification task needs n_classes", "n_classes", None),
    (lambda: LoRA(tiny("gpt2"), "seq2seq"), "GPT2Model does not fit task='seq2seq'", "task", "seq2seq"),
    (lambda: LoRA(tiny("gpt2"), "causal_lm"),
     "GPT2Model has no language-model head; load AutoModelForCausalLM of transformers", "model", None),
    (lambda: AdapterClassifier(tiny("bert"), 0), *at_least("classifier", "n_classes")),
    (lambda: AdapterClassifier(tiny("bert"), 2, rank=0), *at_least("classifier", "rank")),
    (lambda: AdapterClassifier(tiny("bert"), 2, dropout=1.0), *rate("the adapters", "dropout", 1.0)),
    (lambda: AdapterClassifier(tiny("bert"), 2, checkpoint_blocks="half"),
     "checkpoint_blocks must be 'none', 'adapters', 'all', not 'half'", "checkpoint_blocks", None),
    (lambda: AdapterClassifier(tiny("bert"), 2, pooling="max"),
     "there is no pooling 'max'; allowed are 'last', 'mean', 'first'", "pooling", "max"),
    (lambda: named_pooling("max"), "there is no pooling 'max'; allowed are 'last', 'mean', 'first'", "pooling", "max"),
    (lambda: named_head("own"), "there is no head 'own'; allowed are 'zero', 'prototype', 'learned', 'score'", "head",
     "own"),
    (lambda: PrototypeHead().begin({"head.weight": torch.zeros(2, 2, 1)}, lambda: torch.ones(2, 2, 1),
                                   torch.tensor([[0, 1], [0, 0]])),
     "the support set of task 1 has no example of class 1; a prototype head needs at least one of every class", None,
     None),
    (lambda: FullClassifier(tiny("bert", dtype="bfloat16"), 2),
     "a backbone whose weights are all trained must be float32 or float64, not torch.bfloat16; load it in float32",
     "backbone", None),
    (lambda: FullClassifier(tiny("bert", dtype="int8"), 2),
     "training all weights needs weights in floating point, not int8; load the backbone in float32", "dtype", None),
    (lambda: TextClassifier(tiny("bert", dtype="int8"), 2),
     "fine-tuning needs weights in floating point, not int8; load the backbone in float32", "dtype", None),
    (lambda: refuse_int8(tiny("bert", dtype="int8"), "this"),
     "this needs weights in floating point, not int8; load the backbone in float32", "dtype", None),
    *((lambda n=n: TextClassifier(tiny("bert"), 2, n),
       f"train_blocks must lie between 0 and the 2 blocks there are, not {n}", "train_blocks", n) for n in (-1, 3)),
    (lambda: transformer_blocks(nn.Linear(1, 1)), "Linear has no list of layers to choose blocks from", None, None),
    (lambda: match_targets(["a.query", "b.0.query", "pooler.dense"], ("qery",)),
     "no layer of this model matches the target module 'qery'; did you mean 'query'?", "targets", "qery"),
    (lambda: match_targets(["a.query", "b.0.key", "pooler.dense"], ("dense",)),
     "no layer of this model matches the target module 'dense'; names of layers: a.query, b.key, key, query",
     "targets", "dense"),
    (lambda: load_backbone("bert-base", load_in_8bit=True, dtype="int8"),
     "load_in_8bit and dtype='int8' are two ways to 8 bits; leave one out", "dtype", None),
    (lambda: load_backbone("bert-base", load_in_8bit=True, random_init_seed=0),
     "load_in_8bit needs real weights; leave random_init_seed out", None, None),
    (lambda: random_backbone(CONFIGS["bert"](), 0, dtype="float8"),
     f"there is no dtype 'float8' for a backbone; allowed are {KEYS}", "dtype", "float8"),
    (lambda: require_derivative(tiny("bert", "sdpa")),
     'attn_implementation="sdpa" has no second derivative; for a second-order method load the backbone with '
     'attn_implementation="eager"', None, None),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(LORA)))
def test_refusals_of_language_models(number: int) -> None:
    make, message, field, value = LORA[number]
    assert refused(make) == (message, field, value)


def test_whole_models_are_refused_where_a_bare_one_is_read() -> None:
    from transformers import GPT2LMHeadModel, T5Model

    whole = GPT2LMHeadModel(CONFIGS["gpt2"]())
    said = (
        "GPT2LMHeadModel returns no last_hidden_state; give the bare backbone (load_backbone makes it, or AutoModel "
        "of transformers), not a model with a head"
    )
    assert refused(lambda: require_bare(whole)) == (said, "backbone", None)
    assert refused(lambda: AdapterClassifier(whole, 2)) == (said, "backbone", None)
    both = T5Model(CONFIGS["t5"]())
    said = (
        "a backbone with a decoder of its own (T5Model) is not supported; give its encoder alone (load_backbone does "
        "so for T5)"
    )
    assert refused(lambda: refuse_decoder(both))[0] == said
    refuse_decoder(tiny("t5"))


def test_an_unknown_family_needs_targets_and_pooling() -> None:
    backbone = tiny("bert", seed=3)
    known = "bert, distilbert, gemma, gemma2, gemma3_text, gpt2, llama, mistral, qwen2, t5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(backbone.config), "model_type", "own")
        for wanted, given in (("targets", {"pooling": "mean"}), ("pooling", {"targets": ("query",)})):
            said = f"metascale has no default {wanted} for the architecture 'own'; give {wanted}= or use one of {known}"
            made = refused(lambda of=given: AdapterClassifier(backbone, 2, **of))  # type: ignore[arg-type,misc]
            assert made == (said, wanted, None)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_kernels_that_an_architecture_lacks(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """BERT is found by its configuration, T5's encoder by its name."""
    own = type(tiny(family))
    monkeypatch.setattr(own, "_supports_sdpa", False)
    monkeypatch.setattr(own, "_supports_flash_attn", True)
    monkeypatch.setattr(own, "_supports_flex_attn", False)
    for asked in ("sdpa", "flex_attention"):
        with pytest.raises(InputError) as caught:
            random_backbone(CONFIGS[family](), 0, attn_implementation=asked)
        assert str(caught.value) == (
            f"the architecture '{family}' has no attention kernel '{asked}'; it has 'eager', 'flash_attention_2', "
            "'flash_attention_3': give attn_implementation='eager'"
        )
        assert (caught.value.field, caught.value.value) == ("attn_implementation", asked)
        assert caught.value.allowed == "eager, flash_attention_2, flash_attention_3"
    assert random_backbone(CONFIGS[family](), 0, attn_implementation="eager") is not None


def test_models_that_are_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = refused(lambda: load_config(tmp_path))[0]
    assert said.startswith(
        f"cannot load the model '{tmp_path}': the folder must hold config.json and safetensors weights that "
        "transformers can read ("
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = refused(lambda: load_config("no/such-model"))[0]
    assert said.startswith(
        "cannot load the model 'no/such-model': it is not in the local cache and HF_HUB_OFFLINE is set; give a local "
        "folder, or allow the download ("
    )
    assert "\n" not in said


class Tokenizer:
    def __init__(self, special: int, *ids: int | None) -> None:
        self._special = special
        self.pad_token_id, self.eos_token_id, self.unk_token_id = ids
        self.asked: list[Any] = []

    def num_special_tokens_to_add(self) -> int:
        return self._special

    def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
        self.asked.append((texts, options))
        return {"input_ids": [[ord(letter) for letter in text][: options["max_length"]] for text in texts]}


def test_an_encoder_by_its_tokenizer() -> None:
    for n in (1, 2):
        said = f"max_length must be more than the tokenizer's 2 special tokens, not {n}"
        assert refused(lambda given=n: TextEncoder(Tokenizer(2, 0, 0, 0), given))[0] == said  # type: ignore[arg-type]
    assert TextEncoder(Tokenizer(2, 0, 0, 0), 3).max_length == 3  # type: ignore[arg-type]
    for ids, pad in (((5, 6, 7), 5), ((None, 6, 7), 6), ((None, None, 7), 7), ((None, None, None), 0), ((0, 6, 7), 0)):
        assert TextEncoder(Tokenizer(0, *ids)).pad_id == pad  # type: ignore[arg-type]
    tokenizer = Tokenizer(0, 9, None, None)
    encoder = TextEncoder(tokenizer, 2)  # type: ignore[arg-type]
    assert encoder([]) == []
    assert encoder(("abc", "")) == [[97, 98], [9]]
    assert tokenizer.asked == [(["abc", ""], {"truncation": True, "max_length": 2, "padding": False})]


# ---------------------------------------------------------------------------------------------- PEFT's format


def adapters(**settings: Any) -> AdapterClassifier:
    return AdapterClassifier(tiny("bert"), 2, **{"rank": 2, "alpha": 4.0, **settings})


def test_parameters_that_are_not_of_one_task() -> None:
    model = adapters()
    params = model.init(0)
    first = next(iter(params))
    said = f"save_peft needs '{first}' of one task, with shape [2, 32], but found "
    for wrong, found in ((None, "nothing"), (params[first][None], "[1, 2, 32]")):
        given = {name: value for name, value in params.items() if name != first}
        given |= {} if wrong is None else {first: wrong}
        assert refused(lambda of=given: peft_files(of, model))[0] == said + found  # type: ignore[misc]
    with pytest.raises(InputError) as caught:
        peft_files(params, model, task_type="TOKEN_CLS")  # type: ignore[arg-type]
    assert str(caught.value) == "task_type must be 'SEQ_CLS' or None, not 'TOKEN_CLS'; a language model's is its own"
    found = (caught.value.field, caught.value.value, caught.value.allowed)
    assert found == ("task_type", "TOKEN_CLS", "'SEQ_CLS', None")
    said = "task_type='SEQ_CLS' goes without prefix: it knows where the backbone sits"
    assert refused(lambda: peft_files(params, model, "bert.", "SEQ_CLS")) == (said, "prefix", None)


@pytest.mark.parametrize("prefix", ["", "bert."])
def test_the_configuration_of_a_file(prefix: str, tmp_path: Path) -> None:
    model = adapters(alpha=4.5, dropout=0.25)
    save_peft(tmp_path, model.init(0), model, prefix)
    text = (tmp_path / "adapter_config.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text) == {
        "use_dora": False, "use_rslora": False, "lora_bias": False, "bias": "none", "modules_to_save": None,
        "rank_pattern": {}, "alpha_pattern": {}, "layer_replication": None, "peft_type": "LORA",
        "task_type": None if prefix else "FEATURE_EXTRACTION", "base_model_name_or_path": "", "r": 2, "lora_alpha": 4.5,
        "lora_dropout": 0.25, "target_modules": ["query", "value"], "fan_in_fan_out": False, "init_lora_weights": True,
        "inference_mode": True,
    }  # fmt: skip
    again = load_peft(tmp_path, model)
    assert all(torch.equal(again[name], value) for name, value in model.init(0).items())
    whole = adapters(alpha=4.0)
    config = json.loads(peft_files(whole.init(0), whole)["adapter_config.json"])
    assert (config["lora_alpha"], type(config["lora_alpha"])) == (4, int)


def rewritten(folder: Path, **changes: Any) -> Path:
    model = adapters()
    save_peft(folder, model.init(0), model)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_files_of_adapters_that_are_refused(tmp_path: Path) -> None:
    model = adapters()
    said = f"'{tmp_path}' holds no adapters: it must hold adapter_config.json and adapter_model.safetensors"
    assert refused(lambda: load_peft(tmp_path, model))[0] == said
    where = f"the adapters in '{tmp_path}'"
    wanted = "the model rank 2 and alpha 4; make the model with the former"
    table: list[tuple[dict[str, Any], str, str | None, object]] = [
        ({"peft_type": "IA3"}, f"{where} are of type IA3; only LORA is supported", None, None),
        ({"use_dora": True}, f"{where} have use_dora=True, which is not supported", "use_dora", True),
        ({"bias": "all"}, f"{where} have bias='all', which is not supported", "bias", "all"),
        ({"own": 3}, f"{where} have own=3, which is a field that this version does not know", "own", 3),
        ({"modules_to_save": ["score"]}, f"{where} have modules_to_save=['score'], which is not supported",
         "modules_to_save", ["score"]),
        ({"r": 3}, f"{where} have rank 3 and alpha 4, {wanted}", "rank", 2),
        ({"lora_alpha": 8}, f"{where} have rank 2 and alpha 8, {wanted}", "rank", 2),
        ({"init_lora_weights": "pissa"},
         f"{where} have rank 4 and alpha 8 as init_lora_weights='pissa' needs twice that of the file, {wanted}", "rank",
         2),
        ({"init_lora_weights": "corda"},
         f"{where} have init_lora_weights='corda', which is not supported: it changes the base's weights by what the "
         "file does not hold; in peft, save them again with path_initial_model_for_weight_conversion",
         "init_lora_weights", "corda"),
        ({"init_lora_weights": "pissa_niter_4"},
         f"{where} have init_lora_weights='pissa_niter_4', which is not supported: its decomposition is drawn at "
         "random, anew at every load; in peft, save them again with path_initial_model_for_weight_conversion",
         "init_lora_weights", "pissa_niter_4"),
    ]  # fmt: skip
    for changes, message, field, value in table:
        rewritten(tmp_path, **changes)
        assert refused(lambda: load_peft(tmp_path, model)) == (message, field, value)
    for harmless in ({"own": None}, {"own": False}, {"use_qalora": None}, {"init_lora_weights": "gaussian"},
                     {"init_lora_weights": None}, {"init_lora_weights": False}, {"lora_dropout": 0.9}):  # fmt: skip
        assert set(load_peft(rewritten(tmp_path, **harmless), model)) == set(model.init(0))
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(CorruptFile) as caught:
        load_peft(tmp_path, model)
    assert str(caught.value) == f"{tmp_path / 'adapter_config.json'} must hold a JSON object, not a list"
    rewritten(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(CorruptFile) as caught:
        load_peft(tmp_path, model)
    assert str(caught.value).startswith(f"{tmp_path / 'adapter_model.safetensors'} is not a whole safetensors file: ")


CHANGES = (
    "use_dora use_rslora lora_bias modules_to_save rank_pattern alpha_pattern layer_replication "
    "alora_invocation_tokens arrow_config ensure_weight_tying kasa_config megatron_config monteclora_config "
    "target_parameters trainable_token_indices use_bdlora use_qalora velora_config"
)
"""Fields of peft's LoraConfig, off by default, that change what an adapter computes."""
HARMLESS = (
    "target_modules exclude_modules layers_to_transform layers_pattern lora_dropout inference_mode runtime_config "
    "eva_config corda_config loftq_config lora_ga_config qalora_group_size megatron_core fan_in_fan_out task_type "
    "auto_mapping peft_version base_model_name_or_path revision"
)
"""Those that change nothing of it, or that other fields or the tensors account for."""


def test_fields_of_peft_that_change_an_adapter_and_those_that_do_not(tmp_path: Path) -> None:
    model, path = adapters(), rewritten(tmp_path) / "adapter_config.json"
    plain = json.loads(path.read_text())

    def load(**changes: Any) -> object:
        path.write_text(json.dumps({**plain, **changes}))
        return load_peft(tmp_path, model)

    for key in CHANGES.split():
        said = f"the adapters in '{tmp_path}' have {key}='own', which is not supported"
        assert refused(lambda given=key: load(**{given: "own"})) == (said, key, "own")  # type: ignore[misc]
    for off in (None, False):
        assert load(**dict.fromkeys(CHANGES.split(), off))
    assert load(**dict.fromkeys(HARMLESS.split(), "own"))


def test_a_classifier_to_fine_tune_where_nothing_is_said() -> None:
    """The head is drawn by seed 0, all blocks are trained, the embeddings are not."""
    plain, named, other = (TextClassifier(tiny("bert", seed=5), 2, **given) for given in ({}, {"seed": 0}, {"seed": 1}))
    assert torch.equal(plain.head.weight, named.head.weight)
    assert not torch.equal(plain.head.weight, other.head.weight)
    drawn = torch.randn(2, 32, generator=torch_generator(0, "text-classifier-head")) / 32**0.5
    torch.testing.assert_close(plain.head.weight.detach(), drawn)
    assert not plain.head.bias.any()
    trained = {name for name, value in plain.named_parameters() if value.requires_grad}
    assert {name.split(".")[1] for name in trained if name.startswith("backbone.")} == {"encoder"}
    for n_blocks, names in ((0, set()), (1, {"1"}), (2, {"0", "1"})):
        model = TextClassifier(tiny("bert", seed=5), 2, n_blocks)
        blocks = {
            name.split(".")[3] for name, value in model.backbone.named_parameters(prefix="b") if value.requires_grad
        }
        assert blocks == names
        assert all(value.requires_grad for value in model.head.parameters())


def test_adapters_of_other_layers_are_named(tmp_path: Path) -> None:
    rewritten(tmp_path)
    fewer, more = adapters(targets=("query",)), adapters(targets=("query", "key", "value"))
    others = f"the adapters in '{tmp_path}' are for other layers than the model's: "
    said = refused(lambda: load_peft(tmp_path, fewer))[0]
    assert said == f"{others}'encoder.layer.0.attention.self.value.lora_A' is not among the model's"
    said = refused(lambda: load_peft(tmp_path, more))[0]
    assert said == f"{others}'encoder.layer.0.attention.self.key.lora_A' is missing"
