"""The model card of a run's adapters: what they are, how they were trained, how they did, how to load them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from metascale.core.canonical import canonical_json
from metascale.core.columns import BEST_STEP, KEPT_STEP, TEST_LOSS
from metascale.laws.contrasts import bootstrap_mean
from metascale.report.words import measured, number, percent

if TYPE_CHECKING:
    from metascale.integrations.adapters import AdapterRun

_LEVEL = 0.95
_HEAD_NORM = 10.0
"""Length of the vector that a learnt head reads: that of `metascale.models.text.heads.LearnedHead`, by a test."""
_PACKAGES = ("metascale", "torch", "transformers", "peft", "safetensors", "numpy")
_METHOD = (
    "method", "budget", "max_steps", "visits_per_task", "budget_flops", "n_tasks", "n_train_classes", "n_way", "k_shot",
    "n_query", "inner_optimizer", "inner_lr", "inner_steps", "outer_optimizer", "outer_lr", "meta_batch", "rank",
    "alpha", "dropout", "targets", "head", "pooling", "max_length", "seed",
)  # fmt: skip


def model_card(run: AdapterRun, base: str, folder_name: str) -> str:
    """The card as Markdown with the front matter that the hub reads; the licence is left to whoever publishes.

    Args:
        base: the base model as ``adapter_config.json`` names it.
        folder_name: what to call the adapters in the code that loads them.
    """
    parts = [
        _front_matter(base),
        f"# {folder_name}\n\n{_what(run, base)}",
        f"## Loading\n\n{_loading(run, base, folder_name)}",
        f"## Results\n\n{_results(run)}",
        f"## Training\n\n{_training(run)}",
        f"## Where it comes from\n\n{_provenance(run)}",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(base: str) -> str:
    lines = ["---", "library_name: peft", f"base_model: {canonical_json(base)}"]
    lines += ["# The licence of these adapters is yours to choose; that of the base model and of the data binds you."]
    lines += ["# license: ", "tags:", "- metascale", "- meta-learning", "- lora"]
    return "\n".join([*lines, "---"])


def _what(run: AdapterRun, base: str) -> str:
    config = run.config
    said = [
        f"LoRA adapters of rank {config['rank']} for `{base}`, meta-learnt by {config['method']}: a **starting point** "
        f"from which {run.test_steps} steps of {config['inner_optimizer']} at rate {run.test_rate:g}, on a few "
        "labelled examples of a new task, make a classifier. They are not a finished classifier."
    ]
    if run.n_labels is not None:
        said.append(
            f"The linear classifier of {run.n_labels} classes that was learnt with them is in `modules_to_save`."
        )
    elif run.has_head:
        said.append(
            "`head.safetensors` holds the linear classifier that was learnt with them (`head.weight`, `head.bias`), "
            "which the PEFT format has no place for."
        )
    else:
        said.append("There is no classifier with them: every task makes its own from its support examples.")
    if config.get("random_weights") is not None:
        said.append(f"The base model's weights were drawn at random, from seed {config['random_weights']}.")
    if config.get("learn_rates"):
        said.append("The inner rates were learnt as well; the format has no place for them, and they are not here.")
    return " ".join(said)


def _loading(run: AdapterRun, base: str, folder_name: str) -> str:
    if run.n_labels is not None:
        return _loading_classifier(run, base, folder_name, run.n_labels)
    model_class = "T5EncoderModel" if "t5" in base.lower() else "AutoModel"
    if run.config.get("random_weights") is None:
        load = f"from transformers import {model_class}\n\nbase = {model_class}.from_pretrained({base!r})"
    else:
        load = (
            "from metascale.models.text.hf import load_config, random_backbone\n\n"
            f"base = random_backbone(load_config({base!r}), {run.config['random_weights']})"
        )
    pooling = run.config.get("pooling") or "architecture's usual"
    head = f" The classifier reads that vector at length {_HEAD_NORM:g}." if run.has_head else ""
    return (
        f"```python\nfrom peft import PeftModel\n{load}\n"
        f"model = PeftModel.from_pretrained(base, {folder_name!r})\n```\n\n"
        f"A text, cut at {run.config['max_length']} tokens, becomes one vector by the {pooling} pooling of its last "
        f"hidden states.{head}"
    )


def _loading_classifier(run: AdapterRun, base: str, folder_name: str, n_labels: int) -> str:
    stock, options = "AutoModelForSequenceClassification", f"num_labels={n_labels}, pad_token_id=tokenizer.pad_token_id"
    more, load = "", f"base = {stock}.from_pretrained({base!r}, {options})"
    if run.config.get("random_weights") is not None:
        more = "from metascale.models.text.hf import load_config, random_backbone\n"
        load = (
            f"config = load_config({base!r})\nbackbone = random_backbone(config, {run.config['random_weights']})\n"
            f"base = {stock}.from_config(config, {options})\n"
            "base.base_model.load_state_dict(backbone.state_dict())"
        )
    return (
        f"```python\nfrom peft import PeftModel\nfrom transformers import {stock}, AutoTokenizer\n{more}\n"
        f"tokenizer = AutoTokenizer.from_pretrained({base!r})\n{load}\n"
        f"model = PeftModel.from_pretrained(base, {folder_name!r})\n```\n\n"
        f"Texts are cut at {run.config['max_length']} tokens and padded on the right. A classifier that reads the last "
        "token finds it by `pad_token_id`: where the tokenizer has no padding token, give one that no text ends with."
    )


def _results(run: AdapterRun) -> str:
    result, rows = run.result, run.test_rows
    lines = []
    for words, column, write in (("loss (nats)", "loss_nats", measured), ("accuracy", "accuracy", percent)):
        if f"test_{column}" not in result:
            continue
        ends = "unknown"
        if len(rows) > 1:
            found = bootstrap_mean([row[column] for row in rows], level=_LEVEL)
            ends = f"{write(found.low)} to {write(found.high)}"
        lines.append((words, write(result[f"test_{column}"]), ends))
    table = _table(("meta-test", "mean", f"{100 * _LEVEL:g} % interval across tasks"), lines)
    unseen = " of classes that training never saw" if run.config.get("classes") == "disjoint" else ""
    said = (
        f"{number(len(rows))} meta-test tasks{unseen}, one fixed episode each, after {run.test_steps} inner steps; one "
        f"training seed ({run.config['seed']}). The interval is a bootstrap over the tasks: what another training seed "
        "would change is not in it."
    )
    others = [
        (
            name.replace("_", " "),
            str(entry.get("kind", "baseline")),
            measured(entry.get(TEST_LOSS)),
            percent(entry.get("test_accuracy")),
        )
        for name, entry in run.baselines.items()
    ]
    if not others:
        return f"{table}\n\n{said}"
    beside = _table(("method", "kind", "loss (nats)", "accuracy"), others)
    return f"{table}\n\n{said}\n\nOn the same tasks, in the same study:\n\n{beside}"


def _training(run: AdapterRun) -> str:
    facts = [(key, run.config[key]) for key in _METHOD if run.config.get(key) not in (None, [], ())]
    recorded = ("steps", KEPT_STEP, BEST_STEP, "training", "validation_loss_nats", "n_params_trainable", "train_flops")
    facts += [(f"result: {key}", run.result[key]) for key in recorded if run.result.get(key) is not None]
    names = {"data": "data", "source": "source", "licence of the data": "licence", "citation": "citation"}
    data = [f"- **{words}**: {run.data[key]}" for words, key in names.items() if run.data.get(key)]
    told = "\n".join(data) or "- data: not recorded"
    return f"{told}\n\n" + _table(("setting", "value"), [(f"`{key}`", _words(value)) for key, value in facts])


def _provenance(run: AdapterRun) -> str:
    found = run.provenance
    packages = {**found.get("packages", {}), "metascale": found.get("metascale")}
    versions = ", ".join(f"{name} {packages[name]}" for name in _PACKAGES if packages.get(name))
    sources = "; ".join(
        f"{source['module']} at {source['revision'][:12]}{' with uncommitted changes' if source['dirty'] else ''}"
        for source in found.get("sources", ())
    )
    hardware = found.get("hardware", {})
    place = [hardware.get("processor"), *hardware.get("gpus", ())]
    facts = [
        ("command of the study", f"`{run.command}`" if run.command else ""),
        ("run", f"`{run.folder.name}`"),
        ("SHA-256 of the trained parameters", f"`{run.result.get('theta_sha256', 'not recorded')}`"),
        ("versions", versions),
        ("python", found.get("python")),
        ("git revision", sources),
        ("trained on", ", ".join(str(part) for part in place if part)),
    ]
    return "\n".join(f"- **{words}**: {value or 'not recorded'}" for words, value in facts)


def _words(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value))
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return number(value)


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *map(list, rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
