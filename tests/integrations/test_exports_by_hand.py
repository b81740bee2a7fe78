"""What goes out to other programs: the model card word by word, and what trackers are asked to keep."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from metascale.core.errors import InputError
from metascale.integrations import export, model_card, paper_tables
from metascale.integrations.adapters import AdapterRun, _why_none
from metascale.integrations.export import SeriesPoint, TrackedRun
from metascale.integrations.paper_tables import PaperTable

CONFIG: dict[str, Any] = {
    "rank": 2, "method": "reptile", "inner_optimizer": "sgd", "inner_lr": 0.1, "max_length": 9, "seed": 3,
    "classes": "disjoint", "targets": ["q", "v"], "dropout": 0.0, "n_tasks": None, "head": "zero", "adapt": "x",
    "n_way": 4,
}  # fmt: skip
RESULT: dict[str, Any] = {
    "test_inner_steps": 5, "test_inner_lr": 0.25, "test_loss_nats": 0.5, "test_accuracy": 0.75, "steps": 40,
    "theta_sha256": "abc", "validation_loss_nats": 0.625, "other": 1,
}  # fmt: skip
ROWS = ({"loss_nats": 0.5, "accuracy": 0.75}, {"loss_nats": 0.5, "accuracy": 0.75})
"""Two tasks alike, so that an interval of their mean is a point."""


def run(**fields: Any) -> AdapterRun:
    own: dict[str, Any] = {
        "folder": Path("runs/a"), "config": CONFIG, "result": RESULT, "files": {"adapter_config.json": b"{}"},
        "test_rows": ROWS, "data": {}, "provenance": {}, "baselines": {}, "command": "",
    }  # fmt: skip
    return AdapterRun(**{**own, **fields})


SEQ_CLS = {"adapter_config.json": b'{"task_type": "SEQ_CLS"}'}


def test_properties_of_a_run_of_adapters() -> None:
    assert (run().test_steps, run().test_rate, run().has_head, run().n_labels) == (5, 0.25, False, None)
    assert run(result={**RESULT, "test_inner_lr": None}).test_rate == 0.1
    assert run(files={**SEQ_CLS, "head.safetensors": b""}).has_head is True
    assert run(files=SEQ_CLS).n_labels == 4


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"kind": "baseline", "method": "zero_shot"}, "it is a baseline ('zero_shot'), which saves no weights"),
        (
            {"kind": "meta"},
            "its model is not a language model with LoRA (a text recipe with `backbone`=NAME makes one)",
        ),
        ({"backbone": "gpt2", "frozen": True}, "its model is not a language model with LoRA (a text recipe with"),
        ({"backbone": "gpt2"}, "it did not write any"),
    ],
)
def test_why_a_run_has_no_adapters(config: dict[str, Any], said: str) -> None:
    assert _why_none(config).startswith(said)


CARD = """\
---
library_name: peft
base_model: "me/base"
# The licence of these adapters is yours to choose; that of the base model and of the data binds you.
# license:\x20
tags:
- metascale
- meta-learning
- lora
---

# mine

LoRA adapters of rank 2 for `me/base`, meta-learnt by reptile: a **starting point** from which 5 steps of sgd at rate \
0.25, on a few labelled examples of a new task, make a classifier. They are not a finished classifier. There is no \
classifier with them: every task makes its own from its support examples.

## Loading

```python
from peft import PeftModel
from transformers import AutoModel

base = AutoModel.from_pretrained('me/base')
model = PeftModel.from_pretrained(base, 'mine')
```

A text, cut at 9 tokens, becomes one vector by the architecture's usual pooling of its last hidden states.

## Results

| meta-test | mean | 95 % interval across tasks |
| --- | --- | --- |
| loss (nats) | 0.500 | 0.500 to 0.500 |
| accuracy | 75.0 % | 75.0 % to 75.0 % |

2 meta-test tasks of classes that training never saw, one fixed episode each, after 5 inner steps; one training seed \
(3). The interval is a bootstrap over the tasks: what another training seed would change is not in it.

## Training

- data: not recorded

| setting | value |
| --- | --- |
| `method` | reptile |
| `n_way` | 4 |
| `inner_optimizer` | sgd |
| `inner_lr` | 0.1 |
| `rank` | 2 |
| `dropout` | 0 |
| `targets` | q, v |
| `head` | zero |
| `max_length` | 9 |
| `seed` | 3 |
| `result: steps` | 40 |
| `result: validation_loss_nats` | 0.625 |

## Where it comes from

- **command of the study**: not recorded
- **run**: `a`
- **SHA-256 of the trained parameters**: `abc`
- **versions**: not recorded
- **python**: not recorded
- **git revision**: not recorded
- **trained on**: not recorded
"""


def test_a_card_word_by_word() -> None:
    assert model_card.model_card(run(), "me/base", "mine") == CARD


def test_what_a_card_says_of_heads_weights_and_rates() -> None:
    what = lambda **fields: model_card._what(run(**fields), "b")
    assert what(files=SEQ_CLS).endswith("The linear classifier of 4 classes that was learnt with them is in "
                                        "`modules_to_save`.")  # fmt: skip
    headed = what(files={"adapter_config.json": b"{}", "head.safetensors": b""})
    assert headed.endswith("`head.safetensors` holds the linear classifier that was learnt with them (`head.weight`, "
                           "`head.bias`), which the PEFT format has no place for.")  # fmt: skip
    drawn = what(config={**CONFIG, "random_weights": 0, "learn_rates": True})
    assert "The base model's weights were drawn at random, from seed 0. The inner rates were learnt as well" in drawn


@pytest.mark.parametrize(
    ("base", "config", "files", "expected"),
    [
        ("google/T5-small", {}, {}, "from transformers import T5EncoderModel\n\nbase = T5EncoderModel.from_pretrained("
                                    "'google/T5-small')\n"),
        ("b", {"random_weights": 7}, {}, "from metascale.models.text.hf import load_config, random_backbone\n\nbase = "
                                         "random_backbone(load_config('b'), 7)\n"),
        ("b", {"pooling": "mean"}, {}, "becomes one vector by the mean pooling of its last hidden states."),
        ("b", {}, {"head.safetensors": b""}, "hidden states. The classifier reads that vector at length 10."),
    ],
)  # fmt: skip
def test_how_adapters_are_loaded(base: str, config: dict[str, Any], files: dict[str, bytes], expected: str) -> None:
    own = run(config={**CONFIG, **config}, files={"adapter_config.json": b"{}", **files})
    assert expected in model_card._loading(own, base, "mine")


def test_how_a_classifier_is_loaded() -> None:
    own = run(files=SEQ_CLS)
    assert model_card._loading(own, "b", "mine") == (
        "```python\nfrom peft import PeftModel\n"
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n\n"
        "tokenizer = AutoTokenizer.from_pretrained('b')\n"
        "base = AutoModelForSequenceClassification.from_pretrained('b', num_labels=4, "
        "pad_token_id=tokenizer.pad_token_id)\n"
        "model = PeftModel.from_pretrained(base, 'mine')\n```\n\n"
        "Texts are cut at 9 tokens and padded on the right. A classifier that reads the last token finds it by "
        "`pad_token_id`: where the tokenizer has no padding token, give one that no text ends with."
    )
    drawn = model_card._loading(run(files=SEQ_CLS, config={**CONFIG, "random_weights": 0}), "b", "mine")
    assert (
        "import AutoModelForSequenceClassification, AutoTokenizer\n"
        "from metascale.models.text.hf import load_config, random_backbone\n\n"
        "tokenizer = AutoTokenizer.from_pretrained('b')\n"
        "config = load_config('b')\nbackbone = random_backbone(config, 0)\n"
        "base = AutoModelForSequenceClassification.from_config(config, num_labels=4, "
        "pad_token_id=tokenizer.pad_token_id)\nbase.base_model.load_state_dict(backbone.state_dict())\n"
    ) in drawn


def test_results_without_accuracy_with_one_task_and_beside_baselines() -> None:
    result = {key: value for key, value in RESULT.items() if key != "test_accuracy"}
    baselines = {
        "zero_shot": {"kind": "baseline", "test_loss_nats": 1.5, "test_accuracy": 0.25},
        "class_prior": {"kind": "control", "test_loss_nats": 1.75}, "fine|tuning": {},
    }  # fmt: skip
    own = run(result=result, test_rows=ROWS[:1], baselines=baselines, config={**CONFIG, "classes": "shared"})
    assert model_card._results(own) == (
        "| meta-test | mean | 95 % interval across tasks |\n| --- | --- | --- |\n| loss (nats) | 0.500 | unknown |\n\n"
        "1 meta-test tasks, one fixed episode each, after 5 inner steps; one training seed (3). The interval is a "
        "bootstrap over the tasks: what another training seed would change is not in it.\n\n"
        "On the same tasks, in the same study:\n\n"
        "| method | kind | loss (nats) | accuracy |\n| --- | --- | --- | --- |\n"
        "| zero shot | baseline | 1.50 | 25.0 % |\n| class prior | control | 1.75 | – |\n"
        "| fine\\|tuning | baseline | – | – |"
    )


def test_where_adapters_come_from() -> None:
    provenance = {
        "packages": {"torch": "2", "peft": "1", "unknown": "9"}, "metascale": "3", "python": "3.11",
        "sources": [
            {"module": "a", "revision": "0123456789abcdef", "dirty": True},
            {"module": "b", "revision": "fedcba9876543210", "dirty": False},
        ],
        "hardware": {"processor": "a CPU", "gpus": ["a GPU", None]},
    }  # fmt: skip
    data = {"data": "mine", "source": "here", "licence": "MIT", "citation": ""}
    own = run(provenance=provenance, data=data, command="metascale run", result={**RESULT, "theta_sha256": "f"})
    assert model_card._provenance(own).splitlines() == [
        "- **command of the study**: `metascale run`", "- **run**: `a`", "- **SHA-256 of the trained parameters**: `f`",
        "- **versions**: metascale 3, torch 2, peft 1", "- **python**: 3.11",
        "- **git revision**: a at 0123456789ab with uncommitted changes; b at fedcba987654",
        "- **trained on**: a CPU, a GPU",
    ]  # fmt: skip
    assert model_card._training(own).splitlines()[:4] == [
        "- **data**: mine", "- **source**: here", "- **licence of the data**: MIT", "",
    ]  # fmt: skip
    bare = {key: value for key, value in RESULT.items() if key != "theta_sha256"}
    assert "`not recorded`" in model_card._provenance(run(result=bare))
    assert model_card._words([True, 2, 0.5, "x", None]) == "True, 2, 0.5, x, None"


# Trackers.

RUNS = [
    TrackedRun(
        "id1", "first", {"lr": 0.1, "long": "x" * 7000}, {"status": "finished", "kind": "trial"},
        (SeriesPoint("eval/loss", 2, 1.5), SeriesPoint("train/loss", 1, 3.0), SeriesPoint("eval/acc", 2, 0.5)),
        {"test": 0.25}, 100.0, 160.5,
    ),
    TrackedRun("id2", "second", {}, {"status": "failed", "kind": "baseline"}, (), {}, 0.0, 7.0004),
]  # fmt: skip
VIEW: Any = SimpleNamespace(study=SimpleNamespace(name="mine"))


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Packages that are asked for, by module."""
    known: dict[str, Any] = {}
    monkeypatch.setattr(export, "tracked_runs", lambda view: iter(RUNS))

    def require(module: str, extra: str, purpose: str) -> Any:
        known.setdefault("asked", []).append((module, extra, purpose))
        return known[module]

    monkeypatch.setattr(export, "require", require)
    return known


class Client:
    """What MLflow's client is asked, in order."""

    def __init__(self, known: Any = None, there: tuple[str, ...] = ()) -> None:
        self.known, self.there, self.calls = known, there, []

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: self.calls.append((name, given, named))

    def get_experiment_by_name(self, name: str) -> Any:
        return self.known if name == "mine" else None

    def create_experiment(self, *given: Any) -> str:
        self.calls.append(("create_experiment", given, {}))
        return "7"

    def search_runs(self, experiments: list[str], query: str, max_results: int) -> list[str]:
        self.calls.append(("search_runs", (experiments, query, max_results), {}))
        return [name for name in self.there if f"'{name}'" in query]

    def create_run(self, experiment: str, **named: Any) -> Any:
        self.calls.append(("create_run", (experiment,), named))
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run of {named['run_name']}"))


def mlflow(packages: dict[str, Any], client: Client) -> list[Any]:
    uris: list[Any] = []
    packages["mlflow"] = None
    made = lambda tracking_uri: uris.append(tracking_uri) or client
    packages["mlflow.tracking"] = SimpleNamespace(MlflowClient=made)
    packages["mlflow.entities"] = SimpleNamespace(
        Metric=lambda *given: ("metric", *given), Param=lambda *given: ("param", *given), RunTag=lambda *given: given
    )
    return uris


def test_what_mlflow_keeps(packages: dict[str, Any], tmp_path: Path) -> None:
    client = Client()
    uris = mlflow(packages, client)
    assert export._write_mlflow(VIEW, str(tmp_path / "out")) == 2
    assert uris == [f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}"]
    assert (tmp_path / "out").is_dir()
    assert packages["asked"][0] == ("mlflow", "mlflow", "export to MLflow")
    calls = client.calls
    assert calls[0] == ("create_experiment", ("mine", (tmp_path / "out" / "artifacts").as_uri()), {})
    assert calls[1] == ("search_runs", (["7"], "tags.`metascale.trial` = 'id1'", 1), {})
    assert calls[2] == (
        "create_run", ("7",), {"start_time": 100_000, "tags": {"metascale.trial": "id1"}, "run_name": "first"},
    )  # fmt: skip
    batches = [(given, named) for name, given, named in calls[3:6]]
    assert {given for given, _ in batches} == {("run of first",)}
    assert batches[0][1] == {"tags": [("status", "finished"), ("kind", "trial")]}
    assert batches[1][1] == {"params": [("param", "lr", "0.1"), ("param", "long", "x" * 6000)]}
    assert batches[2][1] == {
        "metrics": [
            ("metric", "eval/loss", 1.5, 160_500, 2), ("metric", "train/loss", 3.0, 160_500, 1),
            ("metric", "eval/acc", 0.5, 160_500, 2), ("metric", "test", 0.25, 160_500, 0),
        ]
    }  # fmt: skip
    assert calls[6] == ("set_terminated", ("run of first", "FINISHED", 160_500), {})
    assert [name for name, *_ in calls[7:]] == ["search_runs", "create_run", "log_batch", "set_terminated"]
    assert calls[-1] == ("set_terminated", ("run of second", "FAILED", 7000), {})


@pytest.mark.parametrize(("status", "told"), [("running", "RUNNING"), ("pending", "SCHEDULED"), ("diverged", "FAILED")])
def test_states_as_mlflow_calls_them(status: str, told: str, packages: dict[str, Any]) -> None:
    client = Client()
    mlflow(packages, client)
    export._write_mlflow_run(client, packages["mlflow.entities"], "7", replace(RUNS[1], tags={"status": status}))
    assert client.calls[-1][1][1] == told


def test_what_mlflow_has_already_is_left_alone(packages: dict[str, Any]) -> None:
    client = Client(SimpleNamespace(experiment_id="5", lifecycle_stage="active"), there=("id1",))
    uris = mlflow(packages, client)
    assert export._write_mlflow(VIEW, "http://host:5000") == 1
    assert uris == ["http://host:5000"]
    assert [name for name, *_ in client.calls][:3] == ["search_runs", "search_runs", "create_run"]
    assert client.calls[2][1] == ("5",)
    deleted = Client(SimpleNamespace(experiment_id="5", lifecycle_stage="deleted"))
    mlflow(packages, deleted)
    sentence = (
        r"^the MLflow experiment 'mine' of http://host was deleted there, and MLflow keeps its name: restore exper"
    )
    with pytest.raises(InputError, match=sentence) as caught:
        export._write_mlflow(VIEW, "http://host")
    assert (caught.value.field, caught.value.value) == ("out", "http://host")
    assert "restore experiment 5 with" in str(caught.value)


def test_batches_are_of_a_size() -> None:
    assert [list(each) for each in export._batches([1, 2, 3, 4, 5], 2)] == [[1, 2], [3, 4], [5]]
    assert (export._METRICS_A_BATCH, export._PARAMETERS_A_BATCH) == (1000, 100)  # the most that MLflow's API takes


def test_what_wandb_keeps(packages: dict[str, Any], tmp_path: Path) -> None:
    made: list[Any] = []

    def init(**named: Any) -> Any:
        log = lambda values, step: made.append((dict(values), step))
        summary = SimpleNamespace(update=lambda values: made.append(("summary", values)))
        made.append(named)
        return SimpleNamespace(log=log, summary=summary, finish=lambda: made.append("finished"))

    packages["wandb"] = SimpleNamespace(init=init, Settings=lambda **named: named, teardown=lambda: made.append("over"))
    assert export._write_wandb(VIEW, str(tmp_path / "out")) == 2
    first, *rest = made
    assert first == {
        "mode": "offline", "dir": str(tmp_path / "out"), "project": "mine", "id": "id1", "name": "first",
        "config": RUNS[0].parameters, "tags": ["finished", "trial"],
        "settings": {"silent": True, "console": "off", "disable_git": True},
    }  # fmt: skip
    assert rest[:4] == [
        ({"train/loss": 3.0}, 1), ({"eval/loss": 1.5, "eval/acc": 0.5}, 2),
        ("summary", {"test": 0.25, "status": "finished", "kind": "trial"}), "finished",
    ]  # fmt: skip
    assert rest[-2:] == ["finished", "over"]
    assert packages["asked"] == [("wandb", "wandb", "export to Weights & Biases")]


def test_what_tensorboard_keeps(packages: dict[str, Any], tmp_path: Path) -> None:
    written: list[Any] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            written.append(Path(folder).name)

        def add_event(self, event: Any) -> None:
            written.append(event)

        def close(self) -> None:
            written.append("closed")

    packages["tensorboard"] = None
    packages["tensorboard.summary.writer.event_file_writer"] = SimpleNamespace(EventFileWriter=Writer)
    packages["tensorboard.compat.proto.event_pb2"] = SimpleNamespace(Event=lambda **named: named)
    summary = lambda value: value
    summary.Value = lambda tag, simple_value: (tag, simple_value)  # type: ignore[attr-defined]
    packages["tensorboard.compat.proto.summary_pb2"] = SimpleNamespace(Summary=summary)
    packages["tensorboard.plugins.hparams.summary_v2"] = SimpleNamespace(hparams_pb=lambda values: ("hparams", values))
    assert export._write_tensorboard(VIEW, str(tmp_path / "out")) == 2
    assert written[:7] == [
        "first-id1", {"wall_time": 100.0, "summary": ("hparams", RUNS[0].parameters)},
        {"wall_time": 160.5, "step": 2, "summary": [("eval/loss", 1.5)]},
        {"wall_time": 160.5, "step": 1, "summary": [("train/loss", 3.0)]},
        {"wall_time": 160.5, "step": 2, "summary": [("eval/acc", 0.5)]},
        {"wall_time": 160.5, "step": 0, "summary": [("test", 0.25)]}, "closed",
    ]  # fmt: skip
    assert [each for each in written if isinstance(each, str)] == ["first-id1", "closed", "second-id2", "closed"]


def test_a_run_as_trackers_see_it() -> None:
    history = [
        {"event": "started", "at": 5.0, "host": "a", "device": "cpu"}, {"event": "warning", "at": 6.0},
        {"event": "started", "at": 8.0, "host": "b", "python": 3}, {"event": "finished", "at": 9.0},
    ]  # fmt: skip
    records = {
        "eval": [{"step": 1, "loss": 2.0, "word": "x", "flag": True}, {"step": 3, "loss": math.nan}],
        "tasks": [{"step": 3, "loss": 1.0}, {"step": 3, "loss": 2.0}], "one": [{"step": 4, "n": 7}],
    }  # fmt: skip
    one = SimpleNamespace(
        trial=SimpleNamespace(id="id1", label="first", kind="trial", config={"a": {"b": [1]}, "n": None, "x": 2.5}),
        status="finished", record_names=lambda: list(records), rows=records.__getitem__,
        result=lambda: {"loss": 1.5, "deep": {"n": 2}, "word": "x", "flag": False, "bad": math.inf},
    )  # fmt: skip
    found = export._tracked(VIEW, one, history)  # type: ignore[arg-type]
    assert found == TrackedRun(
        "id1", "first", {"a.b": "[1]", "n": "null", "x": 2.5},
        {"study": "mine", "status": "finished", "kind": "trial", "attempts": "2", "host": "b", "python": "3"},
        (SeriesPoint("eval/loss", 1, 2.0), SeriesPoint("one/n", 4, 7.0)), {"loss": 1.5, "deep.n": 2.0}, 5.0, 9.0,
    )  # fmt: skip
    one.result = lambda: None
    never = export._tracked(VIEW, one, [{"event": "reset", "at": 3.0}])  # type: ignore[arg-type]
    assert (never.started_at, never.ended_at, never.final, never.tags["attempts"]) == (0.0, 3.0, {}, "0")
    view = SimpleNamespace(study=VIEW.study, runs=[one, one])
    histories = iter([[], history])
    one.history = lambda: next(histories)
    assert len(list(export.tracked_runs(view))) == 1  # type: ignore[arg-type]


def test_places_that_do_not_suit_a_format(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"is a folder; the format csv needs a file, such as results.csv$") as caught:
        export._file(str(tmp_path), "csv")
    assert (caught.value.field, caught.value.value) == ("out", str(tmp_path))
    assert export._file(str(tmp_path / "new"), "csv") == tmp_path / "new"
    with pytest.raises(InputError, match=r"is a file; the format wandb needs a folder$") as caught:
        export._new_folder(str(tmp_path / "file"), "wandb")
    assert caught.value.field == "out"
    with pytest.raises(
        InputError, match=r"is not empty; the format wandb needs a new folder, or it would show runs tw"
    ):
        export._new_folder(str(tmp_path), "wandb")
    (tmp_path / "empty").mkdir()
    for name in ("empty", "deep/new"):
        assert export._new_folder(str(tmp_path / name), "wandb").is_dir()


# Tables for papers.


def test_a_paper_table_character_by_character() -> None:
    table = PaperTable("a\n b", ("n_x", "loss", "seeds"), (("1", "2.0 ± 0.1", "3"), ("5%", "–", "1")), 1)
    assert table.latex() == (
        "% a b\n\\begin{tabular}{lrr}\n\\hline\nn\\_x & loss & seeds \\\\\n\\hline\n1 & 2.0 $\\pm$ 0.1 & 3 \\\\\n"
        "5\\% & – & 1 \\\\\n\\hline\n\\end{tabular}\n"
    )
    assert (
        table.markdown() == "| n\\_x | loss | seeds |\n| --- | ---: | ---: |\n| 1 | 2.0 ± 0.1 | 3 |\n| 5% | – | 1 |\n"
    )


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.1], "0.100"), ([1000.0], "1000"), ([99.95], "100.0"), ([1.0, 1.2, 1.4], "1.20 ± 0.12"),
        ([0.00012345], "0.000123"), ([0.000012345], "1.23e-05"), ([1e-5, 3e-5], "2.00e-05 ± 1.0e-05"),
        ([1.0, math.inf, None, "x", 3.0], "2.00 ± 1.00"), ([-1.0], "-1.00"), ([0.0], "0.00"), ([], "–"),
    ],
)  # fmt: skip
def test_means_with_errors(values: list[Any], shown: str) -> None:
    assert paper_tables.with_error(values) == shown


def test_a_value_of_a_key_as_it_is_shown() -> None:
    assert [paper_tables._shown(value) for value in (None, 0.1, 1e-5, 2, True, "x")] == [
        "–", "0.1", "1e-05", "2", "True", "x",
    ]  # fmt: skip
