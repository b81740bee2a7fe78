"""Adapters for others: `peft` loads the folder and computes the same; the card; refusals; a hub on this machine."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from metascale.core.errors import CorruptFile, InputError, MetascaleError
from metascale.core.files import sha256_of, write_json
from metascale.integrations.adapters import export_adapter, push_adapter
from metascale.laws.contrasts import bootstrap_mean
from metascale.study.runner import run_study
from metascale.study.store.folder import read_study
from metascale.study.store.seals import sealed
from metascale.workflow.launch import Place, plan

WORDS = ["red", "blue", "green", "one", "two", "three", "cat", "dog", "bird", "sun", "moon", "star"]
# peft 0.21 asks transformers 5.23 for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def make_backbone(folder: Path) -> Path:
    """A tiny random Llama and a word-level tokenizer."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    vocabulary = {word: place for place, word in enumerate(["<unk>", "<pad>", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaModel(LlamaConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **shape)).save_pretrained(folder)
    return folder


def make_texts(path: Path) -> Path:
    pairs = [(a, b) for place, a in enumerate(WORDS) for b in WORDS[place + 1 :]][:30]
    rows = [f"{a} {b} {a if k % 2 else b} {WORDS[k]},{a}-{b}" for a, b in pairs for k in range(len(WORDS))]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return path


def values_of(place: Path) -> dict[str, Any]:
    """A study of one run with adapters, small enough for a test."""
    return {
        "backbone": str(make_backbone(place / "tiny-llama")),
        "path": str(make_texts(place / "mine.csv")),
        "n_tasks": [4],
        "n_way": 3,
        "n_query": 2,
        "max_steps": 3,
        "eval_every": 3,
        "budget": "steps",
        "n_validation_tasks": 4,
        "n_test_tasks": 6,
        "n_curve_tasks": 2,
        "meta_batch": 2,
        "inner_steps": 2,
        "outer_lr": 0.05,
        "rank": 2,
        "alpha": 4.0,
        "head": "learned",
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One meta-learnt run with adapters that have moved, and a baseline."""
    place = tmp_path_factory.mktemp("export")
    planned = plan("csv", values_of(place), seeds=[0], place=Place("serial"))
    chance = [extra for extra in planned.study.extra if extra["method"] == "class_prior"]
    outcome = run_study(replace(planned.study, extra=chance), place / "study", planned.executor)
    assert (outcome.finished, outcome.failed) == (2, 0), [run.error() for run in read_study(place / "study").runs]
    return place / "study"


def run_of(study: Path, kind: str) -> Path:
    (run,) = [run for run in read_study(study).runs if run.trial.kind == kind]
    return run.folder


@pytest.fixture
def run_folder(study: Path) -> Path:
    return run_of(study, "meta")


def our_model(run_folder: Path) -> tuple[Any, Any]:
    """The run's own model, and its parameters with a task axis of one."""
    from metascale.core.trees import stack_tasks
    from metascale.workflow.evaluate import load_run
    from metascale.workflow.recipe import load_recipe

    config, _, params = load_run(run_folder)
    recipe = load_recipe("csv")
    parts = recipe.make_parts(recipe.validate(config), 0, "cpu")
    return parts, stack_tasks({name: params[name] for name in parts.model.init(0)}, 1)


def test_peft_loads_the_folder_and_computes_the_same_logits_and_losses(run_folder: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModel

    from metascale.models.text.heads import POOLINGS, LearnedHead

    written = export_adapter(run_folder, tmp_path / "adapters")
    assert [path.name for path in written] == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "head.safetensors",
    ]  # fmt: skip
    base_name = json.loads((tmp_path / "adapters/adapter_config.json").read_text())["base_model_name_or_path"]
    theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(base_name), str(tmp_path / "adapters")).eval()
    head = load_file(tmp_path / "adapters/head.safetensors")

    parts, params = our_model(run_folder)
    batch = parts.source.episodes("test", [0]).query
    ids, mask = (batch.inputs[key][0] for key in ("input_ids", "attention_mask"))
    with torch.no_grad():
        hidden = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
        bare = AutoModel.from_pretrained(base_name)(input_ids=ids, attention_mask=mask).last_hidden_state
        vector = POOLINGS[parts.model.pool_name](hidden, mask)
        logits = LearnedHead().scaled(vector) @ head["head.weight"].T + head["head.bias"]
        expected = parts.model.predict(params, batch)[0]
        losses = parts.model.losses(params, batch)
    assert not torch.allclose(hidden, bare, atol=1e-3), "the adapters do something"
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    ours = torch.nn.functional.cross_entropy(logits, batch.targets[0])
    torch.testing.assert_close(ours, losses[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(LearnedHead().scaled(vector).norm(dim=-1), torch.full((len(vector),), 10.0))


def test_a_run_with_the_stock_score_layer_is_a_classifier_for_peft(tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    planned = plan("csv", {**values_of(tmp_path), "head": "score"}, seeds=[0], place=Place("serial"))
    outcome = run_study(replace(planned.study, extra=[]), tmp_path / "study", planned.executor)
    assert (outcome.finished, outcome.failed) == (1, 0)
    run_folder = run_of(tmp_path / "study", "meta")
    written = export_adapter(run_folder, tmp_path / "adapters")
    assert [path.name for path in written] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((tmp_path / "adapters/adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["score"])
    card = (tmp_path / "adapters/README.md").read_text()
    assert "AutoModelForSequenceClassification" in card
    assert "num_labels=3" in card
    assert "head.safetensors" not in card

    base = AutoModelForSequenceClassification.from_pretrained(
        config["base_model_name_or_path"], num_labels=3, pad_token_id=1
    )
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "adapters")).eval()
    parts, params = our_model(run_folder)
    batch = parts.source.episodes("test", [0]).query
    ids, mask = (batch.inputs[key][0] for key in ("input_ids", "attention_mask"))
    with torch.no_grad():
        logits = theirs(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(logits, parts.model.predict(params, batch)[0], rtol=1e-5, atol=1e-5)
    assert float(logits.std()) > 1e-3


def test_the_stock_score_layer_needs_a_language_model(tmp_path: Path) -> None:
    values = {"path": str(make_texts(tmp_path / "mine.csv")), "n_tasks": [4], "head": "score"}
    with pytest.raises(InputError, match="head=score is the classifier of a language model"):
        plan("csv", values, seeds=[0], place=Place("serial"))


def test_the_card_says_what_the_run_measured_and_leaves_the_licence_open(run_folder: Path, tmp_path: Path) -> None:
    export_adapter(run_folder, tmp_path / "adapters", base="me/tiny-llama")
    card = (tmp_path / "adapters/README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {
        "library_name": "peft",
        "base_model": "me/tiny-llama",
        "tags": ["metascale", "meta-learning", "lora"],
    }
    assert "# license: " in card
    (run,) = [run for run in read_study(run_folder.parents[1]).runs if run.folder == run_folder]
    result = run.result()
    found = bootstrap_mean([row["loss_nats"] for row in run.rows("test_tasks")])
    mean, low, high = (f"{value:#.3g}" for value in (result["test_loss_nats"], found.low, found.high))
    assert f"| loss (nats) | {mean} | {low} to {high} |" in card
    for said in (
        "starting point",
        "at length 10",
        "6 meta-test tasks of classes that training never saw, one fixed episode each, after "
        f"{result['test_inner_steps']} inner steps",
        "AutoModel.from_pretrained('me/tiny-llama')",
        "PeftModel.from_pretrained(base, 'adapters')",
        "| `rank` | 2 |",
        "| `budget` | steps |",
        "**source**: mine.csv",
        f"`{result['theta_sha256']}`",
        f"metascale {run_provenance(run_folder)['metascale']}",
        f"torch {run_provenance(run_folder)['packages']['torch']}",
    ):
        assert said in card, said
    assert (
        json.loads((tmp_path / "adapters/adapter_config.json").read_text())["base_model_name_or_path"]
        == "me/tiny-llama"
    )


def run_provenance(run_folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_folder / "provenance.json").read_text())
    return found


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(
    study: Path, run_folder: Path, tmp_path: Path
) -> None:
    out, full = tmp_path / "out", tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    unfinished, diverged, perceptron, broken = (tmp_path / name for name in ("unfinished", "diverged", "mlp", "broken"))
    for copy in (unfinished, diverged, perceptron, broken):
        shutil.copytree(run_folder, copy)
    (unfinished / "result.json").unlink()
    ending = json.loads((run_folder / "result.json").read_text())
    write_json(diverged / "result.json", sealed({"status": "diverged", "message": "loss is nan", "files": {}}))
    kept = {name: value for name, value in ending["files"].items() if not name.startswith("adapter/")}
    config = json.dumps({**json.loads((run_folder / "config.json").read_text()), "backbone": ""})
    (perceptron / "config.json").write_text(config)
    kept["config.json"] = sha256_of(config.encode())
    write_json(perceptron / "result.json", sealed({**ending, "files": kept}))
    (broken / "adapter/adapter_model.safetensors").write_bytes(b"torn")
    for folder, target, error, message in (
        (study, out, InputError, "is not a run's folder"),
        (unfinished, out, InputError, "has not finished"),
        (diverged, out, InputError, "diverged: loss is nan"),
        (perceptron, out, InputError, "no adapters: its model is not a language model with LoRA"),
        (run_of(study, "control"), out, InputError, r"no adapters: it is a control \('class_prior'\)"),
        (broken, out, CorruptFile, "adapter_model.safetensors is not what the run recorded"),
        (run_folder, full, InputError, "is not empty"),
        (run_folder, full / "mine.txt", InputError, "is a file"),
    ):
        with pytest.raises(error, match=message):
            export_adapter(folder, target)
    assert not out.exists()
    assert [path.name for path in full.iterdir()] == ["mine.txt"]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a push talks to; it keeps what it was sent."""

    made: dict[str, dict[str, Any]]
    files: dict[str, bytes]
    refuse = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refuse:
            return self.answer({"error": "you may not"}, 403)
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            self.made[name] = wanted
            return self.answer({"url": f"http://{self.headers['Host']}/{name}", "name": name})
        if self.path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]
            return self.answer({"files": modes})
        if "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return self.answer(
                {"commitUrl": f"http://{self.headers['Host']}/me/adapters/commit/1", "commitOid": "0" * 40}
            )
        return self.answer({"isAuth": True})

    def do_GET(self) -> None:
        found = {"id": "me/adapters", "sha": "0" * 40, "siblings": []}
        self.answer({"error": "not found"} if self.refuse else found, 404 if self.refuse else 200)

    def answer(self, value: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        return None


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, type[Hub]]]:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    kind = type("OneHub", (Hub,), {"made": {}, "files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", kind
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_push_uploads_the_exported_files_and_nothing_else(
    run_folder: Path, tmp_path: Path, hub: tuple[str, type[Hub]]
) -> None:
    endpoint, kind = hub
    written = export_adapter(run_folder, tmp_path / "adapters", base="me/tiny-llama")
    (tmp_path / "adapters/notes.txt").write_text("for me alone")
    assert "me/adapters" in push_adapter(tmp_path / "adapters", "me/adapters", endpoint=endpoint)
    assert is_private(kind.made["me/adapters"])
    assert kind.files == {path.name: path.read_bytes() for path in written}
    push_adapter(tmp_path / "adapters", "me/shown", public=True, endpoint=endpoint)
    assert not is_private(kind.made["me/shown"])


def is_private(wanted: dict[str, Any]) -> bool:
    """As the older and the newer huggingface_hub ask for it."""
    return bool(wanted.get("private") or wanted.get("visibility") == "private")


def test_a_push_that_the_hub_refuses_says_so(run_folder: Path, tmp_path: Path, hub: tuple[str, type[Hub]]) -> None:
    endpoint, kind = hub
    kind.refuse = True
    export_adapter(run_folder, tmp_path / "adapters", base="me/tiny-llama")
    with pytest.raises(MetascaleError, match=r"the hub did not take .* as me/adapters: .*403"):
        push_adapter(tmp_path / "adapters", "me/adapters", endpoint=endpoint)


def test_what_cannot_be_pushed_is_refused_before_anyone_is_asked(run_folder: Path, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"
    with pytest.raises(InputError, match=r"no adapter_config\.json: it is not a folder of exported adapters"):
        push_adapter(tmp_path, "me/adapters", endpoint=nobody)
    export_adapter(run_folder, tmp_path / "adapters")
    with pytest.raises(InputError, match="tiny-llama', which nobody else has; export again with the base model's name"):
        push_adapter(tmp_path / "adapters", "me/adapters", endpoint=nobody)
    export_adapter(run_folder, tmp_path / "named", base="me/tiny-llama")
    for bad in ("adapters", "me/", "/adapters", "me/a/b"):
        with pytest.raises(InputError, match="`repo` is OWNER/NAME"):
            push_adapter(tmp_path / "named", bad, endpoint=nobody)
