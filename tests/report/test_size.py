"""The report of a study of model sizes: its tables count what the folder holds, and every figure draws it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from metascale.report.sections.sizes import (
    EFFECTS,
    SizeTable,
    plot_along,
    plot_compute,
    plot_perplexity,
    plot_time,
    sentences,
    size_data,
    sizes,
)
from metascale.report.study import open_study
from metascale.report.write import drawn, render_page, sections_of
from metascale.study.roles import Roles
from tests.report.study_fixture import StudyBuilder, keep, make_study, write_csv

ARCHITECTURES = ("transformer", "resnet_bk")
WIDTHS, DEPTHS, SEEDS = (64, 128), (4, 8), (42, 43)


def loss_of(architecture: str, d: int, n_layers: int, seed: int) -> float:
    return 5.2 - 0.2 * (d == 128) - 0.05 * (n_layers == 8) + 0.1 * (architecture == "resnet_bk") + 0.01 * (seed == 43)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two architectures, four sizes each, two seeds; with curves and histories, and laws as a conclusion has them."""
    builder = StudyBuilder(
        tmp_path,
        {"architecture": ARCHITECTURES, "d_model": WIDTHS, "n_layers": DEPTHS},
        name="model_size",
        seeds=SEEDS,
        launched={"question": "q?"},
        roles=Roles(("n_params_non_embedding",), ("architecture",), loss="test_loss_nats"),
    )
    for architecture in ARCHITECTURES:
        for d in WIDTHS:
            for n_layers in DEPTHS:
                for seed in SEEDS:
                    _run(builder, architecture, d, n_layers, seed)
    sets = {"architecture": ARCHITECTURES[0], "d_model": WIDTHS[0], "n_layers": DEPTHS[0]}
    builder.run("search", sets, kind="tuning", result={"n_params_total": 5})
    builder.run("failed", sets, 44, status="failed", message="no memory")
    builder.write()
    (tmp_path / "size.json").write_text(json.dumps(stored()))
    return tmp_path


def _run(builder: StudyBuilder, architecture: str, d: int, n_layers: int, seed: int) -> None:
    loss = loss_of(architecture, d, n_layers, seed)
    n = 12 * n_layers * d * d
    result = {
        "n_params_non_embedding": n,
        "n_params_total": n + 20_000 * d + (10_000 if architecture == "resnet_bk" else 0), "test_loss_nats": loss,
        "test_perplexity": math.exp(loss), "validation_perplexity": math.exp(loss) + 1, "best_perplexity": 170.0,
        "final_perplexity": 171.0, "tokens": 716_800, "step_flops": 1e9 * d, "train_flops": 1e11 * d,
        "step_peak_bytes": d << 20, "model_size_mb": n / 2**18, "best_step": 100, "steps": 100,
    }  # fmt: skip
    sets = {"architecture": architecture, "d_model": d, "n_layers": n_layers}
    place = builder.run(f"{architecture}-{d}-{n_layers}-{seed}", sets, seed, result=result, wall_s=2.0 * d)
    looks = [{"step": step, "validation_loss_nats": 9.0 - (9.0 - loss) * step / 100} for step in (0, 50, 100)]
    write_csv(place / "eval_stats.csv", looks)


def stored(floors: dict[str, float] | None = None) -> dict[str, Any]:
    """As `recipes.model_size_analysis` writes it: of ResNet-BK's laws there are none."""
    effects = {name: {"estimate": 0.1, "low": 0.05, "high": 0.15} for name in EFFECTS}
    law = {"a": 900.0, "b": -0.12, "b_low": -0.15, "b_high": -0.09, "r2": 0.97, "n_runs": 8, "n_sizes": 4}
    part = {"estimate": 0.04, "low": 0.03, "high": 0.05}
    laws = {
        "power": {"parameters": {"A": part, "alpha": part}, "note": ""},
        "power_irreducible": {"parameters": {"E": part, "A": part, "alpha": part}, "note": "flat"},
    }
    grouped = {
        "y": "test_loss_nats", "law": "power", "x": "n_params_non_embedding", "p_value": 0.4, "verdict": "one serves",
        "reference": "transformer",
        "exponents": dict.fromkeys(ARCHITECTURES, part),
        "differences": {"resnet_bk": {"estimate": 0.01, "low": -0.02, "high": 0.04}},
    }  # fmt: skip
    return {
        "level": 0.95,
        "n_vocab": 10_000,
        "floors": {"unigram_test": 448.7, "bigram_test": 165.0} if floors is None else floors,
        "perplexity_laws": [
            {"architecture": "transformer", "x": "n_params_total", **law},
            {"architecture": "resnet_bk", "x": "n_params_total", "reason": "too few sizes"},
        ],
        "loss_laws": [
            {"architecture": "transformer", "x": "n_params_total", "chosen": "power", "n_sizes": 4, "laws": laws},
            {"architecture": "resnet_bk", "x": "n_params_total", "reason": "too few sizes"},
        ],
        "grouped": [grouped, {**grouped, "law": "power_irreducible", "reason": "no"}],
        "width_and_depth": {
            "transformer": {"effects": effects, "r2": 0.9, "freedom": 5, "noise": "seeds and misfit"},
            "resnet_bk": {"reason": "the effect of depth needs at least 2 values of it, not 1"},
        },
        "frontier": {"transformer": [[6.4e12, 5.15], [1.28e13, 4.95]], "resnet_bk": [[6.4e12, 5.25]]},
    }


def page_of(folder: Path) -> str:
    study = open_study(folder)
    return render_page(study, sections_of(study))


def xs(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_xdata())]


def ys(line: Line2D) -> list[float]:
    return [float(value) for value in np.asarray(line.get_ydata())]


def read(folder: Path) -> SizeTable:
    found = size_data(folder)
    assert found is not None
    return found


def test_sizes_of_a_study_that_varies_the_text_are_those_of_all_of_it(tmp_path: Path) -> None:
    """Pooled with the others they would be no size's; and perplexity names the unit of its tokens."""
    axes = {"architecture": ["transformer"], "d_model": [64], "n_layers": [4], "n_train_tokens": [100, 300]}
    roles = Roles(("n_params_non_embedding", "tokens"), ("architecture",), loss="test_loss_nats")
    builder = StudyBuilder(tmp_path, axes, name="model_size", seeds=(0,), roles=roles)
    for tokens, loss in ((100, 5.0), (300, 4.0)):
        sizes = {"n_params_total": 9, "n_params_non_embedding": 5, "tokens": tokens, "train_flops": 6.0 * tokens}
        result = {**sizes, "test_loss_nats": loss, "test_perplexity": math.exp(loss)}
        sets = {key: values[0] for key, values in axes.items()} | {"n_train_tokens": tokens}
        builder.run(f"of-{tokens}", sets, 0, result=result)
    builder.write()
    (tmp_path / "size.json").write_text(json.dumps(stored() | {"n_train_tokens": 300, "unit": "character"}))
    found = read(tmp_path)
    assert [size.means["test_loss_nats"] for size in found.sizes] == [4.0]
    assert any("Perplexity is per character of a vocabulary" in told for told in sentences(found))


def test_configurations_are_means_over_seeds_in_the_order_of_their_parameters(folder: Path) -> None:
    table = read(folder)
    assert [f"{one.architecture[0]} {one.label}" for one in table.sizes] == [
        "t 64×4", "r 64×4", "t 64×8", "r 64×8", "t 128×4", "r 128×4", "t 128×8", "r 128×8",
    ]  # fmt: skip
    first = table.sizes[0]
    perplexities = [math.exp(loss_of("transformer", 64, 4, seed)) for seed in SEEDS]
    assert first.means["n_seeds"] == 2, "neither the search nor the failed trial counts"
    assert first.perplexity == pytest.approx(np.mean(perplexities))
    assert first.means["perplexity_sem"] == pytest.approx(np.std(perplexities, ddof=1) / math.sqrt(2))
    assert tuple(first.means[name] for name in ("wall_s", "peak_mib", "tokens")) == (128.0, 64.0, 716_800)


def test_laws_keep_their_intervals_or_their_reasons(folder: Path) -> None:
    table = read(folder)
    line = table.line("transformer")
    assert line is not None
    assert (line["a"], line["b"]) == (900.0, -0.12)
    assert table.line("resnet_bk") is None
    section = sizes(open_study(folder))
    words = {table.caption[:12]: [[cell.text for cell in row.cells] for row in table.rows] for table in section.tables}
    assert words["perplexity ="][0][2] == "−0.120 [−0.150, −0.0900]"
    assert words["Laws of the "][0][2:5] == [
        "0.0400 [0.0300, 0.0500]",
        "0.0400 [0.0300, 0.0500]",
        "0.0400 [0.0300, 0.0500]",
    ]
    assert words["perplexity ="][1][-1] == words["Laws of the "][1][-1] == "too few sizes"
    heads = [column.title for column in section.tables[3].columns]
    assert heads[4] == "difference to Transformer"
    assert section.tables[3].rows[0].cells[4].text == "0.0100 [−0.0200, 0.0400]"
    assert words["Test loss = "][0][1] == "0.100 [0.0500, 0.150]"
    assert "depth needs at least 2" in words["Test loss = "][1][-1]


def test_the_floors_are_said_as_they_are(folder: Path) -> None:
    section = sizes(open_study(folder))
    # Perplexities: 182, 173, 149 and 142 of the Transformer, 201, 191, 164.8 and 157 of ResNet-BK.
    assert "Best: Transformer 128×8" in section.sentences[0]
    assert "4 of 8 configurations do not beat the bigram model" in section.sentences[0]
    (folder / "size.json").write_text(json.dumps(stored({"unigram_test": 448.7, "bigram_test": 300.0})))
    section = sizes(open_study(folder))
    assert "all configurations beat the bigram model" in section.sentences[0]


def test_every_figure_draws_its_table(folder: Path) -> None:
    table = read(folder)
    ax = Figure().subplots()
    plot_perplexity(table, ax)
    words = {text.get_text() for text in ax.texts}
    assert words >= {"64×4", "128×8", "Transformer", "bigram 165", "unigram 449\nlies above"}
    lines = [line for line in ax.lines if len(xs(line)) == 40]
    assert len(lines) == 1, "the architecture without a law has no line"
    assert ys(lines[0])[0] == pytest.approx(900.0 * table.sizes[0].means["n_params_total"] ** -0.12)
    assert ax.get_title(loc="left").replace("\n", " ").endswith("Transformer b\u00a0=\u00a0−0.120")
    for depth, label in ((False, "4 layers"), (True, "d 64")):
        ax = Figure().subplots()
        plot_along(table, ax, architecture="resnet_bk", depth=depth)
        (line,) = [line for line in ax.lines if line.get_label() == label]
        assert xs(line) == list(DEPTHS if depth else WIDTHS)
        wanted = [one.perplexity for one in table.sizes if one.architecture == "resnet_bk"]
        assert ys(line) == ([wanted[0], wanted[1]] if depth else [wanted[0], wanted[2]])
    ax = Figure().subplots()
    plot_time(table, ax)
    assert ax.get_title(loc="left") == "A trial took 128 to 256 s"
    ax = Figure().subplots()
    plot_compute(table, ax)
    thick = [line for line in ax.lines if line.get_linewidth() == 2]
    assert [ys(line) for line in thick] == [[5.25], [5.15, 4.95]], "ResNet-BK and Transformer"
    thin = [line for line in ax.lines if line.get_linewidth() == 0.7]
    assert len(thin) == 16
    assert xs(thin[0]) == [50 * 64e9, 100 * 64e9], "steps as FLOPs, without the look before training"


@pytest.mark.long
def test_the_page_has_the_section_and_another_studys_page_has_not(folder: Path, tmp_path: Path) -> None:
    names = [picture.name for picture in sizes(open_study(folder)).pictures]
    wanted = ["size_perplexity", "size_width", "size_depth", "size_time", "size_compute"]
    assert [name for name in names if name.startswith("size")] == wanted
    page = page_of(folder)
    assert '<section id="sizes">' in page
    assert all(f'id="figure-{name}"' in page for name in wanted)
    figures = {picture.name: picture for picture in sizes(open_study(folder)).pictures}
    assert "test perplexity (log scale)" in drawn(figures["size_width"]).views[0].wide
    assert "meta-" not in page.lower()
    other = make_study(tmp_path / "digits", scales=(2, 5, 10), seeds=(0,), failures=False)
    assert size_data(other) is None
    assert not [picture for picture in sizes(open_study(other)).pictures if picture.name.startswith("size")]
    assert 'id="sizes"' not in page_of(other)


def test_one_architecture_and_no_trial(folder: Path) -> None:
    keep(folder, lambda trial: trial.axes["architecture"] == "transformer")
    assert read(folder).architectures == ("transformer",)
    assert "size_width" in [picture.name for picture in sizes(open_study(folder)).pictures]
    keep(folder, lambda trial: False)
    assert read(folder).sizes == ()
    assert sizes(open_study(folder)).blocks == ()
    assert not [picture for picture in sizes(open_study(folder)).pictures if picture.name.startswith("size")]
