"""The sources and models of few-shot recipes, each loader stood in for: what it is asked for, and what is built."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metascale.core.errors import InputError
from metascale.models.context import WithContext
from metascale.models.convnet import ConvNet
from metascale.models.perceptron import Perceptron
from metascale.recipes import banking77, clinc150, csv, digits, melora, omniglot, sinusoid, synthetic
from metascale.recipes.banking77 import TextConfig
from metascale.recipes.clinc150 import Clinc150Config
from metascale.recipes.csv import CsvConfig
from metascale.recipes.digits import DigitsConfig
from metascale.recipes.melora import MeloraConfig
from metascale.recipes.omniglot import OmniglotConfig
from metascale.recipes.sinusoid import SinusoidConfig
from metascale.recipes.synthetic import SyntheticConfig
from metascale.tasks.regression import SinusoidTasks
from metascale.tasks.synthetic_text import SyntheticLanguage, word_encoder
from metascale.tasks.words import BagOfWords
from metascale.workflow.fewshot import Parts

SHAPE: dict[str, Any] = {
    "n_way": 4, "k_shot": 2, "n_query": 6, "n_tasks": 7, "n_validation_tasks": 8, "n_test_tasks": 9,
    "n_train_classes": 5, "labels": "sorted", "classes": "shared",
}  # fmt: skip
FIELDS: dict[str, Any] = {
    "n_way": 4, "k_shot": 2, "n_query": 6, "n_train_tasks": 7, "n_validation_tasks": 8, "n_test_tasks": 9, "seed": 3,
    "n_train_classes": 5, "labels": "sorted", "classes": "shared",
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What loaders are asked for, in order; each gives its own name."""
    seen: list[Any] = []
    loaders = {
        "metascale.tasks.omniglot": ("omniglot_tasks",),
        "metascale.tasks.digits": ("digits_tasks",),
        "metascale.tasks.intents": ("intent_tasks", "read_banking77", "read_clinc150"),
        "metascale.tasks.texts": ("csv_tasks", "read_csv"),
        "metascale.tasks.datasets": ("locate",),
        "metascale.tasks.synthetic_text": ("synthetic_text_tasks",),
    }
    rows = [SimpleNamespace(text="one", label="a"), SimpleNamespace(text="two", label="b")]
    for module, names in loaders.items():
        for name in names:
            given = lambda *args, of=name, **fields: (
                seen.append((of, args, fields))
                or (rows if of.startswith("read") else f"at {args[0]}" if of == "locate" else of)
            )
            monkeypatch.setattr(f"{module}.{name}", given)
    return seen


def test_digits(asked: list[Any]) -> None:
    settings = DigitsConfig(**SHAPE, width=12, depth=3, head="zero")
    assert digits.parts(settings, 3, "cpu") == Parts("digits_tasks", Perceptron(64, 4, 12, 3, head="zero"), 50)  # type: ignore[arg-type]
    conv = replace(settings, model="conv")
    assert digits.parts(conv, 3, "cpu") == Parts(
        "digits_tasks", ConvNet(4, 8, width=12, depth=3, head="zero"), 16  # type: ignore[arg-type]
    )  # fmt: skip
    assert asked == [("digits_tasks", (), FIELDS)] * 2
    assert [(one.tasks_apart, one.batch_statistics) for one in (settings, conv)] == [(True, False), (False, True)]


def test_omniglot(asked: list[Any]) -> None:
    settings = OmniglotConfig(**SHAPE, character_split="lake", filters=6, head="zero", inner_steps=3)
    assert omniglot.parts(settings, 3, "cpu") == Parts(
        "omniglot_tasks", ConvNet(4, width=6, head="zero", steps=0), 8  # type: ignore[arg-type]
    )  # fmt: skip
    stepwise = omniglot.parts(replace(settings, norm_by="step"), 3, "cpu")
    assert stepwise.model == ConvNet(4, width=6, head="zero", steps=3)
    assert asked == [("omniglot_tasks", (), {"split": "lake", **FIELDS})] * 2
    assert settings.batch_statistics is True


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"method": "maml", "inner_steps": 1}, False),
        ({"method": "maml", "inner_steps": 0}, True),
        ({"method": "protonet", "inner_steps": 3}, True),
    ],
)
def test_gains_of_each_inner_step_need_inner_steps(values: dict[str, Any], refused: bool) -> None:
    settings = OmniglotConfig(norm_by="step", **values)
    replace(settings, norm_by="all").refuse("here")
    if not refused:
        settings.refuse("here")
        return
    with pytest.raises(InputError, match=r"^here: norm_by=step needs inner steps, which method=") as caught:
        settings.refuse("here")
    assert (caught.value.field, caught.value.value, caught.value.allowed) == ("norm_by", "step", "all")


def test_sinusoids(asked: list[Any]) -> None:
    settings = SinusoidConfig(**SHAPE, width=5, depth=1)
    source = SinusoidTasks(2, 6, 7, 8, 9, 3)
    net = lambda n: Perceptron(n, 1, 5, 1, loss="squared_error")
    assert sinusoid.parts(settings, 3, "cpu") == Parts(source, net(1), 100)
    found = sinusoid.parts(replace(settings, n_context=4), 3, "cpu")
    assert found == Parts(source, WithContext(net(5), 4), 100)
    assert (settings.tasks_apart, replace(settings, n_context=4).tasks_apart) == (True, False)


def test_generated_texts(asked: list[Any]) -> None:
    settings = SyntheticConfig(**SHAPE, difficulty=0.3, n_classes=20, width=6, head="prototype")
    language = SyntheticLanguage(difficulty=0.3, n_classes=20)
    encoder = word_encoder(language)
    expected = BagOfWords("synthetic_text_tasks", encoder.n_tokens, 10.0)  # type: ignore[arg-type]
    model = Perceptron(encoder.n_tokens, 4, 6, depth=1, head="prototype")
    assert synthetic.parts(settings, 3, "cpu") == Parts(expected, model, 50)
    assert asked == [("synthetic_text_tasks", (encoder,), {"language": language, **FIELDS})]


def test_intents(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for module, settings, more in (
        (banking77, TextConfig(**SHAPE), {}),
        (clinc150, Clinc150Config(**SHAPE, by_domain=True), {"by_domain": True}),
    ):
        asked.clear()
        monkeypatch.setattr(module, "text_parts", lambda *given: given)
        config, source, texts, device = module.parts(settings, 3, "mps")  # type: ignore[attr-defined]
        name = module.__name__.rpartition(".")[2]
        assert (config, device) == (settings, "mps")
        assert asked == []
        assert source("encoder") == "intent_tasks"
        assert texts() == ["one", "two"]
        assert asked == [
            ("intent_tasks", (name, None, "encoder"), {**more, **FIELDS}),
            ("locate", (name,), {}),
            (f"read_{name}", (f"at {name}",), {}),
        ]


def test_texts_of_a_file(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv, "text_parts", lambda *given: given)
    settings = CsvConfig(**SHAPE, path="a/b.csv", text_column="t", label_column="l", split_seed=5)
    config, source, texts, device = csv.parts(settings, 3, "mps")  # type: ignore[misc]
    assert (config, device, source("encoder"), texts()) == (settings, "mps", "csv_tasks", ["one", "two"])
    columns = {"text_column": "t", "label_column": "l", "split_seed": 5}
    assert asked == [
        ("csv_tasks", ("a/b.csv", "encoder"), {**columns, **FIELDS}),
        ("read_csv", (Path("a/b.csv"), "t", "l"), {}),
    ]


def test_adapters_by_many_estimators(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(melora, "text_parts", lambda *given: given)
    settings = MeloraConfig(**SHAPE, backbone="gpt2", checkpointing="none")
    config, source, texts, device = melora.parts(settings, 3, "mps")  # type: ignore[misc]
    assert (config, texts, device, source("encoder")) == (settings, list, "mps", "intent_tasks")
    frugal = melora.parts(replace(settings, method="melora_checkpointed"), 3, "cpu")[0]  # type: ignore[index]
    assert frugal == replace(settings, method="melora_checkpointed", checkpointing="adapters")
    generated = replace(settings, data="synthetic", difficulty=0.3, n_classes=20)
    assert melora.parts(generated, 3, "cpu")[1]("encoder") == "synthetic_text_tasks"  # type: ignore[index]
    own = replace(settings, data="csv", path="a.csv", text_column="t", label_column="l", split_seed=5)
    assert melora.parts(own, 3, "cpu")[1]("encoder") == "csv_tasks"  # type: ignore[index]
    columns = {"text_column": "t", "label_column": "l", "split_seed": 5}
    assert asked == [
        ("intent_tasks", ("banking77", None, "encoder"), FIELDS),
        ("synthetic_text_tasks", ("encoder",), {"language": SyntheticLanguage(difficulty=0.3, n_classes=20), **FIELDS}),
        ("csv_tasks", ("a.csv", "encoder"), {**columns, **FIELDS}),
    ]


@pytest.mark.parametrize(
    ("method", "estimator"),
    [
        ("reptile", ("reptile", "none")), ("fomaml", ("fomaml", "none")), ("maml", ("maml", "unrolled")),
        ("melora", ("maml", "exact")), ("melora_checkpointed", ("maml", "exact")),
        ("melora_gauss_newton", ("maml", "gauss_newton")), ("melora_block_diagonal", ("maml", "block_diagonal")),
        ("melora_diagonal", ("maml", "diagonal")), ("melora_finite_difference", ("maml", "finite_difference")),
        ("imaml", ("imaml", "gauss_newton")), ("zero_shot", ("zero_shot", "unrolled")),
    ],
)  # fmt: skip
def test_a_method_is_an_estimator_and_a_curvature(method: Any, estimator: tuple[str, str]) -> None:
    assert MeloraConfig(method=method, curvature="unrolled").estimator == estimator


@pytest.mark.parametrize(
    ("values", "field", "sentence"),
    [
        ({"data": "csv"}, "path", "data=csv needs a file: `path`=FILE.csv (columns text,label)"),
        ({"path": "a.csv"}, "path", "path=a.csv is read with data=csv alone"),
        (
            {"backbone": ""},
            None,
            "adapters need a backbone, such as gpt2-small, gpt2-medium, t5-small, t5-base, distil",
        ),
        ({"kind": "baseline"}, None, "method 'melora' does not go with kind"),
    ],
)
def test_adapters_that_cannot_be_are_refused(values: dict[str, Any], field: str | None, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        MeloraConfig(**{"attention": "eager", **values}).refuse("here")
    assert field is None or caught.value.field == field
    assert str(caught.value).startswith(f"here: {sentence}")


def test_data_sets_are_those_that_a_trial_reads() -> None:
    of = melora.RECIPE.data_sets
    assert callable(of)
    assert (of(MeloraConfig()), of(MeloraConfig(data="synthetic"))) == (("banking77",), ())
