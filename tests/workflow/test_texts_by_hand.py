"""What text recipes and language models are built of, with every loader stood in for: no weights and no data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from metascale.bilevel.batches import Shuffled
from metascale.core.errors import InputError
from metascale.core.run import MemoryRun
from metascale.core.streams import torch_generator
from metascale.hypergrad.sama import SAMA
from metascale.models.mup import MuP
from metascale.models.perceptron import Perceptron, ResidualPerceptron
from metascale.models.resnet_bk import ResNetBK
from metascale.models.text.heads import ScoreHead, named_head
from metascale.models.transformer import Transformer
from metascale.tasks.supervised.tokens import TokenStream
from metascale.tasks.supervised.weak_labels import LabelledTexts, TextFeatures, WeakLabelData
from metascale.tasks.texts import TokenLists
from metascale.tasks.words import BagOfWords, WordEncoder
from metascale.training.flops import training_flops
from metascale.training.loop import Schedule
from metascale.training.optimizers import Adam, InPlaceAdamW, Lion
from metascale.training.schedules import Cosine
from metascale.training.supervised import SupervisedTraining
from metascale.workflow import language_models, text, text_fine_tuning
from metascale.workflow.language_models import ModelSizeConfig
from metascale.workflow.text import TextConfig, backbone_path
from metascale.workflow.text_fine_tuning import FineTuning, FineTuningConfig, on_features

HF = "metascale.models.text.hf"


def test_where_a_backbone_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("METASCALE_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert backbone_path("gpt2-small") == "gpt2"
    assert backbone_path("owner/name") == "owner/name"
    assert backbone_path(str(tmp_path / "model")) == str(tmp_path / "model")
    assert backbone_path("~/model") == str(tmp_path / "model")
    assert backbone_path("./model") == "model"
    assert backbone_path("data:model") == str(tmp_path / "model")
    for name, shown in (("./none", "none"), ("~/none", tmp_path / "none"), ("data:none", tmp_path / "none")):
        with pytest.raises(InputError) as caught:
            backbone_path(name)
        assert str(caught.value) == f"there is no folder {shown}, which backbone '{name}' names"
    monkeypatch.delenv("METASCALE_DATA")
    with pytest.raises(InputError, match=r"^no data folder is named; pass `data_dir` or set METASCALE_DATA$") as caught:
        backbone_path("data:model")
    assert caught.value.field == "data_dir"


@pytest.mark.parametrize(
    ("values", "field", "words"),
    [
        (
            {"load_in_8bit": True, "random_weights": 0},
            None,
            "load_in_8bit needs real weights; leave random_weights out",
        ),
        ({"head": "score", "backbone": ""}, "head", "head=score is the classifier of a language model, and without a"),
        ({"head": "score", "frozen": True}, "head", "head=score is the classifier of a language model, and without a"),
        (
            {"load_in_8bit": True, "dtype": "int8"},
            None,
            "load_in_8bit and dtype=int8 are two ways to 8 bits; leave one",
        ),
        ({"frozen": True, "backbone": ""}, "frozen", "frozen=true needs a backbone; without one words are counted"),
        ({"kind": "baseline"}, None, "method 'reptile' does not go with kind 'baseline'"),  # of every few-shot trial
    ],
)
def test_texts_that_cannot_be_are_refused(values: dict[str, Any], field: str | None, words: str) -> None:
    with pytest.raises(InputError) as caught:
        TextConfig(**values).refuse("here")
    assert str(caught.value).startswith(f"here: {words}")
    if field is not None:
        assert caught.value.field == field


def test_texts_that_can_be_are_taken() -> None:
    for values in ({}, {"load_in_8bit": True}, {"dtype": "int8"}, {"random_weights": 0}, {"head": "score"}):
        TextConfig(**values).refuse("here")
    TextConfig(frozen=True).refuse("here")
    TextConfig(backbone="").refuse("here")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ("fused attention", "attention=eager")),
        ({"attention": "eager"}, None),
        ({"load_in_8bit": True, "attention": "eager"}, ("an 8-bit backbone", "load_in_8bit=false")),
        ({"load_in_8bit": True}, ("an 8-bit backbone", "load_in_8bit=false")),
        ({"backbone": "", "load_in_8bit": True}, None),
        ({"backbone": ""}, None),
        ({"frozen": True}, None),
        ({"frozen": True, "load_in_8bit": True}, None),
    ],
)
def test_what_of_a_text_model_has_no_second_derivatives(values: dict[str, Any], expected: Any) -> None:
    assert TextConfig(**values).first_order_alone == expected


# ------------------------------------------------------------------------------------- parts of few-shot trials


@dataclass(frozen=True)
class Table:
    fetch: Any
    details: dict[str, Any]


@dataclass(frozen=True)
class Source:
    encoder: Any
    table: Table = Table(None, {})


def test_without_a_language_model_words_are_counted() -> None:
    config = TextConfig(backbone="", n_words=2, max_length=3, n_way=4, width=7, head="zero")
    parts = text.text_parts(config, Source, lambda: ["b a b", "b c a"], "cpu")
    encoder = WordEncoder(("b", "a"), 3)  # the most frequent two
    assert parts.source == BagOfWords(Source(encoder), 4, 10.0)
    assert parts.model == Perceptron(4, 4, 7, depth=1, head="zero")
    assert (parts.eval_batch, parts.save_adapters) == (50, None)


def test_a_backbone_is_adapted_or_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_frozen", "_language_model"):
        monkeypatch.setattr(text, name, lambda *given, name=name: (name, given))
    for frozen, name in ((True, "_frozen"), (False, "_language_model")):
        config = TextConfig(frozen=frozen)
        assert text.text_parts(config, Source, list, "mps") == (name, (config, Source, "mps"))


TOKENS = TokenLists(np.array([1, 1, 2, 3, 2, 2]), np.array([0, 3, 4]), np.array([3, 1, 2]), 0)
"""Three texts, of the tokens 1 1 2; 3; and 2 2."""


def test_features_of_a_frozen_backbone_have_length_4(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(f"{HF}.load_encoder", lambda *given: asked.append(given) or "encoder")
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    monkeypatch.setattr(text, "sentence_features", lambda *given: asked.append(given) or features)
    config = TextConfig(backbone="gpt2-small", frozen=True, max_length=9, n_way=3, width=5, head="zero")
    parts = text._frozen(config, lambda encoder: Source(encoder, Table(TOKENS, {"name": "texts"})), "cpu")
    assert asked == [("gpt2", 9), (TOKENS, "gpt2", "cpu")]
    assert parts.source.encoder == "encoder"
    assert parts.source.table.details == {"name": "texts", "inputs": "2 frozen features of gpt2-small"}
    found = parts.source.table.fetch(np.array([[2], [0]]))
    assert list(found) == ["x"]
    assert torch.allclose(found["x"], torch.tensor([[[2.4, 3.2]], [[4.0, 0.0]]]))
    assert parts.model == ResidualPerceptron(2, 3, 5, head="zero")
    assert parts.eval_batch == 50


class Backbone(nn.Module):
    """The hidden state of token i is i times the i-th axis, and of padding large."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, Any]] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool = True) -> Any:
        self.seen.append((input_ids.tolist(), use_cache, torch.is_grad_enabled()))
        return SimpleNamespace(last_hidden_state=torch.diag(torch.tensor([100.0, 1.0, 2.0, 3.0]))[input_ids])


def test_sentences_are_pooled_in_batches_of_like_length_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, loads = Backbone(), []
    monkeypatch.setattr(f"{HF}.load_backbone", lambda name, device: loads.append((name, device)) or backbone)
    architecture = lambda model, what: SimpleNamespace(pooling="mean" if what == "pooling" else "first")
    monkeypatch.setattr("metascale.models.text.architectures.architecture_of", architecture)
    text._sentences.cache_clear()
    found = text.sentence_features(TOKENS, "some/model", "cpu")
    assert backbone.seen == [([[3, 0, 0], [2, 2, 0], [1, 1, 2]], False, False)]
    # Means: (⅔, ⅔) of the axes 1 and 2; the axis 3; the axis 2. Then of length 1.
    root = 2**-0.5
    assert torch.allclose(found, torch.tensor([[0, root, root, 0], [0, 0, 0, 1.0], [0, 0, 1.0, 0]]))
    equal = replace(TOKENS, tokens=TOKENS.tokens.copy())
    assert text.sentence_features(equal, "some/model", "cpu") is found
    assert loads == [("some/model", "cpu")]
    for other in (
        replace(TOKENS, tokens=TOKENS.tokens[::-1].copy()),
        replace(TOKENS, starts=np.array([0, 2, 4])),
        replace(TOKENS, lengths=np.array([3, 1, 1])),
    ):
        text.sentence_features(other, "some/model", "cpu")
    assert len(loads) == 4
    backbone.seen.clear()
    many = TokenLists(np.ones(130, np.int64), np.arange(130), np.ones(130, np.int64), 0)
    text.sentence_features(many, "some/model", "cpu")
    assert [len(ids) for ids, *_ in backbone.seen] == [128, 2]
    text._sentences.cache_clear()


ADAPTED = TextConfig(
    backbone="gpt2-small", dtype="bfloat16", attention="eager", random_weights=3, load_in_8bit=True, n_way=4, rank=2,
    alpha=5.0, dropout=0.25, targets=("q",), head="zero", pooling="mean", checkpointing="all",
    task_execution="stacked", max_length=9,
)  # fmt: skip


def test_an_adapted_model_is_built_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr(f"{HF}.load_backbone", lambda *given, **options: loaded.append((given, options)) or "backbone")
    monkeypatch.setattr(
        "metascale.models.text.classifiers.AdapterClassifier", lambda backbone, **given: (backbone, given)
    )
    backbone, given = text.adapted_model(ADAPTED, "mps")
    assert backbone == "backbone"
    assert loaded == [
        (("gpt2",), {"dtype": "bfloat16", "attn_implementation": "eager", "device": "mps", "random_init_seed": 3,
                     "load_in_8bit": True})
    ]  # fmt: skip
    assert given == {
        "n_classes": 4, "rank": 2, "alpha": 5.0, "dropout": 0.25, "targets": ("q",), "head": named_head("zero"),
        "pooling": "mean", "checkpoint_blocks": "all", "task_execution": "stacked",
    }  # fmt: skip
    _, metric = text.adapted_model(replace(ADAPTED, method="protonet", targets=()), "cpu")
    assert (metric["head"], metric["targets"]) == (named_head("prototype"), None)


@pytest.mark.parametrize(("head", "task_type"), [(ScoreHead(), "SEQ_CLS"), (named_head("zero"), None)])
def test_a_language_model_leaves_its_adapters_in_the_run(
    head: Any, task_type: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked, run = SimpleNamespace(head=head), [], MemoryRun()
    monkeypatch.setattr(text, "adapted_model", lambda config, device: model if device == "cpu" else None)
    monkeypatch.setattr(f"{HF}.load_encoder", lambda *given: given)
    monkeypatch.setattr("metascale.models.text.seq_cls.stock_head", lambda of: asked.append(of))
    files = lambda params, of, task_type: {f"{params}.bin": (of, task_type)}
    monkeypatch.setattr("metascale.models.text.peft_format.peft_files", files)
    parts = text._language_model(ADAPTED, Source, "cpu")
    assert asked == ([model] if task_type else [])
    assert (parts.source, parts.model, parts.eval_batch) == (Source(("gpt2", 9)), model, 8)
    parts.save_adapters("theta", run)
    assert run.files == {"adapter/theta.bin": (model, task_type)}


# ------------------------------------------------------------------------------- fine-tuning on weak labels

TUNING = FineTuningConfig(
    data="wrench_sms", backbone="gpt2-small", max_length=9, batch_size=2, lower_lr=0.1, upper_lr=0.2, weight_decay=0.3,
    max_steps=40, eval_every=7, patience=4, data_seed=6,
)  # fmt: skip


def test_texts_are_read_as_tokens_or_as_features(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read: list[Any] = []

    class Data:
        def as_features(self, features: Any) -> Any:
            return features(TOKENS)

    def weak(*given: Any, **named: Any) -> Any:
        read.append((given, named))
        return Data()

    weak_labels = "metascale.tasks.supervised.weak_labels"
    monkeypatch.setattr(f"{weak_labels}.weak_label_data", weak)
    monkeypatch.setattr(f"{weak_labels}.weak_label_texts", lambda *given: ["a b a", f"{given == ('sms', tmp_path)} b"])
    monkeypatch.setattr(f"{HF}.load_encoder", lambda *given: given)
    monkeypatch.setattr(text_fine_tuning, "sentence_features", lambda *given: torch.ones(2) * (given[1:] == ("m", "d")))
    assert isinstance(text_fine_tuning.load_texts(TUNING, "random"), Data)
    text_fine_tuning.load_features.cache_clear()
    found = text_fine_tuning.load_features(tmp_path / "sms", "m", 9, 6, "drop", "d")
    assert found.tolist() == [10.0, 10.0]
    counted = text_fine_tuning.load_features(tmp_path / "sms", "", 9, 6, "random", "d")
    words = WordEncoder(("a", "b", "true"), 9)  # 3,000 at most
    assert read == [
        (("wrench_sms", ("gpt2", 9), 6), {"uncovered": "random"}),
        (("sms", ("m", 9), 6), {"uncovered": "drop", "data_dir": tmp_path}),
        (("sms", words, 6), {"uncovered": "random", "data_dir": tmp_path}),
    ]
    # 1 1 2, 3 and 2 2 over the vocabulary of five tokens, each of length 10.
    expected = torch.tensor([[0, 20, 10, 0, 0], [0, 0, 0, 10, 0], [0, 0, 10, 0, 0]], dtype=torch.float32)
    expected[0] /= 5**0.5
    assert torch.allclose(counted, expected)
    assert text_fine_tuning.load_features(tmp_path / "sms", "m", 9, 6, "drop", "d") is found
    text_fine_tuning.load_features.cache_clear()


def test_a_vocabulary_of_a_fine_tuning_has_3000_words_at_most(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("metascale.tasks.supervised.weak_labels.weak_label_texts", lambda *given: "the texts")
    monkeypatch.setattr(WordEncoder, "from_texts", lambda *given: asked.append(given))
    data = SimpleNamespace(as_features=lambda features: None)
    monkeypatch.setattr("metascale.tasks.supervised.weak_labels.weak_label_data", lambda *given, **named: data)
    text_fine_tuning.load_features.cache_clear()
    text_fine_tuning.load_features(tmp_path, "", 9, 6, "drop", "cpu")
    text_fine_tuning.load_features.cache_clear()
    assert asked == [("the texts", 3000, 9)]


def test_a_net_on_features_starts_with_logits_of_zero() -> None:
    net = on_features(3, 4, 2, 5)
    assert sorted(net.state_dict()) == ["head.bias", "head.weight", "hidden.bias", "hidden.weight"]
    drawn = torch.randn(4, 3, generator=torch_generator(5, "on-features"))
    assert torch.allclose(net.hidden.weight, drawn * (2 / 3) ** 0.5)
    x = torch.randn(5, 3, generator=torch_generator(0, "x"))
    assert net(x).tolist() == [[0.0, 0.0]] * 5
    assert net.hidden.bias.tolist() == [0.0] * 4
    with torch.no_grad():
        net.head.weight.copy_(torch.arange(8.0).view(2, 4))
        net.head.bias.copy_(torch.tensor([1.0, -1.0]))
    w = net.hidden.weight.detach().numpy()
    expected = np.maximum(x.numpy() @ w.T, 0) @ np.arange(8.0).reshape(2, 4).T + [1.0, -1.0]
    np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_model_reads_the_inputs_of_a_batch_and_its_loss_is_the_mean() -> None:
    model = lambda **inputs: inputs
    batch = {name: name for name in ("labels", "attention_mask", "input_ids", "more")}
    assert text_fine_tuning.logits_of(model, batch) == {"input_ids": "input_ids", "attention_mask": "attention_mask"}
    assert text_fine_tuning.logits_of(model, {"features": 1, "labels": 2}) == {"features": 1}
    logits = torch.tensor([[0.0, np.log(3.0)], [np.log(2.0), 0.0]])
    loss = text_fine_tuning.classification_loss(
        lambda features: features, None, {"features": logits, "labels": torch.tensor([1, 1])}
    )
    assert float(loss) == pytest.approx((np.log(4 / 3) + np.log(3)) / 2)  # ¾ and ⅓


class Dropping(nn.Module):
    """Logits (x, 0), with dropout and a factor that it would only have in training."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("shift", torch.tensor(0.0))
        self.drop = nn.Dropout(0.9)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        values = self.drop(features) * self.scale + self.shift
        return torch.cat([values, torch.zeros_like(values)], 1)


def labelled(values: np.ndarray, targets: np.ndarray) -> LabelledTexts:
    return LabelledTexts(TextFeatures(torch.from_numpy(values)), targets, targets, targets[:, None])


X = np.linspace(-2.0, 2.0, 130, dtype="f4")[:, None]
Y = np.arange(130) % 2


def fine_tuning(**fields: Any) -> FineTuning:
    texts = labelled(X, Y)
    data = WeakLabelData("wrench_sms", ("a", "b"), texts, texts, labelled(X[:3], Y[:3]), labelled(X[:4], Y[:4]), 0)
    own = {"settings": TUNING, "data": data, "model": Dropping().train(), "upper": nn.Linear(1, 1), "seed": 8}
    return FineTuning(**{**own, "device": "cpu", **fields})


def test_every_text_is_judged_in_evaluation_mode_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    process, sizes = fine_tuning(), []
    batch = LabelledTexts.batch
    monkeypatch.setattr(LabelledTexts, "batch", lambda self, ids: sizes.append(len(ids)) or batch(self, ids))
    theta, buffers = {"scale": torch.tensor(3.0)}, {"shift": torch.tensor(0.5)}
    losses, correct = process.per_text(process.data.noisy, theta, buffers)
    logit = 3.0 * X[:, 0].astype(float) + 0.5
    wrong_by = np.where(Y == 0, -logit, logit)  # of the logits (logit, 0)
    np.testing.assert_allclose(losses, np.log1p(np.exp(wrong_by)), rtol=1e-5, atol=1e-6)
    assert correct.tolist() == ((logit <= 0) == Y).astype(float).tolist()
    assert (losses.dtype, correct.dtype) == (np.float64, np.float64)
    assert sizes == [128, 2]
    found = process._validate(theta, buffers, {})
    assert found == {
        "validation_loss_nats": pytest.approx(losses[:3].mean()),
        "validation_accuracy": pytest.approx(correct[:3].mean()),
    }


def test_batches_are_shuffled_by_seed_and_purpose() -> None:
    process = fine_tuning()
    batch = process.batches(process.data.noisy, 4, "below")
    order = Shuffled(range(130), 4, 8, "below")
    for number in (0, 1, 40):
        found = batch(number)
        ids = np.asarray(order.indices(number))
        assert list(found) == ["features", "labels"]
        assert found["features"].tolist() == X[ids].tolist()
        assert found["labels"].tolist() == Y[ids].tolist()


@pytest.mark.parametrize(("learns", "warmup"), [(True, 0), (False, 40)])
def test_a_fine_tuning_is_sama_below_and_above(learns: bool, warmup: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metascale.bilevel.training.BilevelTraining", lambda *given, **named: (given, named))
    monkeypatch.setattr("metascale.bilevel.levels.from_modules", lambda *given: given)
    process = fine_tuning()
    given, named = process.training("loss", "lower", "upper", learns=learns)
    assert given == ((process.model, process.upper, "loss", text_fine_tuning.classification_loss), "lower", "upper")
    assert named == {
        "method": SAMA(), "lower_optimizer": Adam(0.1, weight_decay=0.3), "upper_optimizer": Adam(0.2),
        "lower_max_norm": 1.0, "warmup": warmup, "evaluate": process._validate, "seed": 8,
    }  # fmt: skip


@pytest.mark.parametrize("warmup", [0, 40])
def test_the_row_of_a_fine_tuning_is_of_the_test_texts(warmup: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    state = SimpleNamespace(lower={"scale": torch.tensor(1.0)}, buffers={"shift": torch.tensor(0.0)})
    result = SimpleNamespace(state=state, steps=21, row=lambda: {"steps": 21})
    monkeypatch.setattr("metascale.bilevel.training.check", lambda process: asked.append("checked"))
    monkeypatch.setattr("metascale.training.loop.train", lambda *given: asked.append(given) or result)
    values, targets = np.array([[0.0], [2.0], [-1.0], [1.0]], "f4"), np.array([0, 0, 0, 1])
    data = replace(fine_tuning().data, test=labelled(values, targets))
    training, run = SimpleNamespace(warmup=warmup), MemoryRun()
    row = fine_tuning(data=data).train_and_test(training, run)
    assert asked == [*(["checked"] if warmup == 0 else []), (training, Schedule(40, eval_every=7, patience=4), run)]
    losses = [np.log(1 + np.exp(value)) for value in (0.0, -2.0, 1.0, 1.0)]
    assert row == {
        "test_loss_nats": pytest.approx(np.mean(losses)),
        "test_loss_sem_nats": pytest.approx(np.std(losses, ddof=1) / 2),
        "test_accuracy": 0.5,
        "test_accuracy_sem": pytest.approx((1 / 3) ** 0.5 / 2),  # of 1 1 0 0 the variance is ⅓
        "steps": 21,
        "n_params_trainable": 1,
    }
    assert [(each["step"], each["task_id"], each["accuracy"]) for each in run.records["test_tasks"]] == [
        (21, "text-0", 1.0), (21, "text-1", 1.0), (21, "text-2", 0.0), (21, "text-3", 0.0)
    ]  # fmt: skip
    assert [each["loss_nats"] for each in run.records["test_tasks"]] == pytest.approx(losses)


# ------------------------------------------------------------------------------------------ language models

SIZE = ModelSizeConfig(
    d_model=16, n_layers=2, n_heads=2, positions="learned", tied=True, dropout=0.1, vocabulary=30, n_train_tokens=50,
    n_sequence=4, batch_size=3, epochs=2.0, optimizer="lion", lr=0.2, weight_decay=0.3, clip_norm=0.7,
    schedule="cosine", warmup=2, final_rate=0.25, n_validation_batches=6, autocast=True, patience=5, min_delta=0.01,
)  # fmt: skip


def stream(n_train: int = 40, n_test: int = 9) -> TokenStream:
    sizes = {"train": n_train, "validation": 11, "test": n_test}
    tokens = {split: np.arange(size) % 5 for split, size in sizes.items()}
    return TokenStream("some", tuple("abcde"), tokens, 0, 4, 3)  # type: ignore[arg-type]


def test_a_text_is_wikitext_or_a_file_of_ones_own_and_may_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    for name in ("own_text", "wikitext"):
        found = lambda *given, name=name, **named: asked.append((name, given, named)) or stream()
        monkeypatch.setattr(f"metascale.tasks.supervised.language_text.{name}", found)
    options = {"unit": "word", "n_train_tokens": 50}
    assert language_models.text(SIZE, 7).vocabulary == stream().vocabulary
    language_models.text(replace(SIZE, path="/a.txt", unit="bpe"), 7)
    assert asked == [
        ("wikitext", (None, 30, 4, 3, 7), options),
        ("own_text", ("/a.txt", 30, 4, 3, 7), {**options, "unit": "bpe"}),
    ]
    cut = language_models.text(replace(SIZE, evaluation_tokens=10), 7)
    assert {split: len(tokens) for split, tokens in cut.tokens.items()} == {"train": 40, "validation": 10, "test": 9}


def test_the_extent_of_a_text_is_known_for_words_of_wikitext(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_models, "text", lambda settings, seed: stream(n_test=20) if seed == 0 else None)
    assert language_models.extent(replace(SIZE, n_train_tokens=None)) == (2_088_628, 245_569, 30)
    assert language_models.extent(replace(SIZE, evaluation_tokens=10)) == (50, 10, 30)
    assert language_models.extent(replace(SIZE, unit="character")) == (40, 20, 5)
    found = language_models.extent(replace(SIZE, path="/a.txt"))
    assert (found.n_train, found.n_test, found.n_vocab) == (40, 20, 5)


def test_a_language_model_has_the_vocabulary_of_its_text_or_of_its_configuration() -> None:
    transformer = lambda n: Transformer(n, 16, 2, 2, 4, positions="learned", tied=True, dropout=0.1)
    assert language_models.language_model(SIZE) == transformer(30)
    assert language_models.language_model(SIZE, n_vocab=12) == transformer(12)
    assert language_models.language_model(SIZE, stream(), 12) == transformer(5)
    other = replace(SIZE, architecture="resnet_bk")
    assert language_models.language_model(other, n_vocab=12) == ResNetBK(12, 16, 2, 4, dropout=0.1)


def test_a_training_of_a_language_model_is_as_configured() -> None:
    found = language_models.training(SIZE, stream(), 9, "cpu")
    n_steps = 2 * stream().steps_per_epoch
    expected = SupervisedTraining(
        language_models.language_model(SIZE, stream()), found.examples, Lion(0.2, weight_decay=0.3),
        Cosine(n_steps, min(2, n_steps // 2), 0.25), None, 0.7, 9, "perplexity", 6, True, "cpu",
    )  # fmt: skip
    assert found == expected
    assert found.examples.tokens["train"].tolist() == stream().tokens["train"].tolist()
    scaled = language_models.training(replace(SIZE, parameterisation="mup", base_width=8), stream(), 9, "cpu")
    assert scaled.model == MuP(language_models.language_model(SIZE, stream()), 8)
    assert scaled.rate_multipliers == scaled.model.rate_multipliers("adam")
    assert language_models.optimizer(replace(SIZE, optimizer="adamw")) == InPlaceAdamW(0.2, weight_decay=0.3)


def test_the_schedule_of_a_language_model_validates_once_an_epoch_or_as_asked_for() -> None:
    of = stream(n_train=121)
    assert of.steps_per_epoch == 10
    assert language_models.schedule(SIZE, of) == Schedule(20, 10, 5, 0.01, log_every=10)
    assert language_models.schedule(replace(SIZE, eval_every=3), of) == Schedule(20, 3, 5, 0.01, log_every=10)


def test_operations_of_a_training_of_a_language_model() -> None:
    """Five steps of three windows of four tokens: 15 passes, 60 tokens."""
    model = SimpleNamespace(flops=lambda n: {"all": 10.0 * n}, n_non_embedding=lambda: 7)
    found = language_models.flops(model, SIZE, 5)
    assert found == training_flops({"all": 40.0}, 15, 7, 60)
    assert (found.exact, found.six_nd) == (3 * 15 * 40.0, 6 * 7 * 60)


def test_memory_is_that_of_a_second_step(monkeypatch: pytest.MonkeyPatch) -> None:
    process = SupervisedTraining(
        Transformer(5, 8, 1, 2, 4), stream(), InPlaceAdamW(0.1), seed=3, clip_norm=None
    )  # fmt: skip
    stepped: list[Any] = []
    step = SupervisedTraining.step
    monkeypatch.setattr(
        SupervisedTraining, "step", lambda self, state, k: stepped.append((self, state.step, k)) or step(self, state, k)
    )
    measured: list[Any] = []

    def measure(call: Any, static: Any, device: str, default: str) -> str:
        measured.append((static, device, default))
        call("meter")
        return "report"

    monkeypatch.setattr("metascale.training.memory.measure_memory", measure)
    watched = lambda model, meter, methods: SimpleNamespace(watched=(model, meter, methods))
    monkeypatch.setattr("metascale.training.memory.WatchedModel", watched)
    model = process.model
    with pytest.raises(AttributeError):  # the stand-in computes nothing
        language_models.memory_of_step(process, "cpu")
    ((static, device, default),) = measured
    assert (device, default) == ("cpu", "other")
    assert [value.shape for value in static["parameters"]] == [value.shape for value in model.init(3).values()]
    n_params = sum(value.numel() for value in model.init(3).values())
    assert sum(value.numel() for value in static["optimizer_state"]) >= 2 * n_params  # both moments
    assert list(static) == ["parameters", "optimizer_state"]
    (first, *begun), (second, *then) = stepped
    assert (first, begun, then) == (process, [0, 0], [1, 1])
    assert second.model.watched == (model, "meter", ("objective",))
