"""The section of model sizes, of shapes and of hidden configurations: tables, sentences and pictures by hand, whole."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metascale.laws.held_out import FORECAST, LAW, HeldOut, Hidden, Prediction, Replicates
from metascale.report.section import PageTable, Picture, Section
from metascale.report.sections.checks import (
    Irregular,
    IrregularTable,
    held_out,
    held_out_sentence,
    hidden_table,
    irregular,
    irregular_table,
    plot_held_out,
    predictors_table,
)
from metascale.report.sections.shapes import Shape, ShapeTable, plot_shape_axis, shapes
from metascale.report.sections.shapes import _effects_table as effects_of_shapes
from metascale.report.sections.shapes import _values_table as values_of_shapes
from metascale.report.sections.sizes import (
    ComputeCurve,
    Size,
    SizeTable,
    effects_table,
    exponents_table,
    laws_table,
    lines_table,
    plot_along,
    plot_compute,
    plot_perplexity,
    plot_time,
    sentences,
    sizes,
    sizes_table,
)
from metascale.report.study import Point, ReportStudy, open_study
from metascale.report.style import styled
from metascale.study.roles import Roles
from tests.report.described import axes, frame, marks, told, words
from tests.report.study_fixture import StudyBuilder


def size(architecture: str, width: int, layers: int, **means: float) -> Size:
    sizes = {"d_model": float(width), "n_layers": float(layers), "n_seeds": 2.0}
    return Size(architecture, width, layers, {**sizes, **means})


SMALL = size(
    "transformer", 64, 4, n_params_total=1000.0, n_params_non_embedding=800.0, test_loss_nats=5.25,
    test_perplexity=200.0, perplexity_sem=10.0, validation_perplexity=210.0, best_perplexity=190.0,
    final_perplexity=195.0, tokens=5e5, step_flops=2e9, train_flops=3e12, peak_mib=12.5, model_size_mb=1.5, wall_s=10.0,
)  # fmt: skip
OTHER = size("resnet_bk, vocabulary 500", 64, 4, n_params_total=2000.0, test_perplexity=150.0, wall_s=20.0)
LARGE = size("transformer", 128, 4, n_params_total=4000.0, test_perplexity=100.0, wall_s=40.0)


def part(estimate: float, low: float, high: float) -> dict[str, float]:
    return {"estimate": estimate, "low": low, "high": high}


STORED: dict[str, Any] = {
    "level": 0.9,
    "n_vocab": 10_000,
    "unit": "bpe",
    "floors": {"unigram_test": 500.0, "bigram_test": 160.0},
    "perplexity_laws": [
        {"architecture": "transformer", "x": "n_params_total", "a": 3162.0, "b": -0.4, "b_low": -0.5, "b_high": -0.3,
         "r2": 0.97, "n_sizes": 2, "trend": "undecided"},
        {"architecture": "resnet_bk, vocabulary 500", "x": "n_params_total", "reason": "one size"},
    ],
    "loss_laws": [
        {"architecture": "transformer", "x": "train_flops", "chosen": "power_irreducible", "trend": "falls", "laws": {
            "power": {"parameters": {"alpha": part(0.2, 0.1, 0.3)}},
            "power_irreducible": {"parameters": {"alpha": part(0.4, 0.3, 0.5), "E": part(1.5, 1.0, 2.0)},
                                  "note": "flat"},
        }},
        {"architecture": "transformer", "x": "n_train", "chosen": "broken", "trend": "none", "laws": {}},
        {"architecture": "transformer", "x": "n_train", "chosen": "broken", "laws": {}},
        {"architecture": "resnet_bk", "x": "n_params_total", "reason": "one size"},
    ],
    "grouped": [
        {"y": "test_loss_nats", "law": "power", "x": "n_params_total", "p_value": 0.04, "verdict": "they differ",
         "reference": "transformer", "exponents": {"transformer": part(0.2, 0.1, 0.3)},
         "differences": {"resnet_bk": part(0.05, -0.05, 0.15)}},
        {"y": "test_perplexity", "law": "broken", "x": "n_params_total", "reason": "too few"},
    ],
    "width_and_depth": {
        "transformer": {"effects": {"width": part(0.3, 0.2, 0.4), "depth": part(0.1, 0.0, 0.2)}, "r2": 0.9,
                        "noise": "of seeds", "freedom": 5},
        "resnet_bk": {"reason": "one depth"},
    },
    "frontier": {"transformer": [[2e12, 5.0], [8e12, 4.5]]},
}  # fmt: skip
CURVES = (
    ComputeCurve("transformer", "Transformer 64×4, seed 0", (1e12, 2e12), (6.0, 5.5), (2e12, 5.0)),
    ComputeCurve("transformer", "Transformer 128×4, seed 0", (4e12, 8e12), (5.0, 4.75), (8e12, 4.5)),
)
SIZES = SizeTable((SMALL, OTHER, LARGE), CURVES, STORED)


@pytest.mark.parametrize("floors", [{}, {"unigram_test": 500.0}, {"bigram_test": 160.0}])
def test_without_both_counts_of_words_there_is_no_sentence_of_them(floors: dict[str, float]) -> None:
    told = sentences(replace(SIZES, stored={**STORED, "floors": floors}))
    assert not any("Counting words" in sentence for sentence in told)
    assert told == sentences(SIZES)[1:]


def test_model_sizes_in_sentences() -> None:
    """Of perplexities 200, 150 and 100 the first alone is above the bigram's 160."""
    assert sentences(SIZES) == (
        "Best: Transformer 128×4, test perplexity 100. Counting words gives 500 (unigram) and 160 (interpolated "
        "bigram) "
        "on the same words; 1 of 3 configurations do not beat the bigram model.",
        "Perplexity is per token of byte pairs of a vocabulary of 10,000, <unk> and <eos> included; perplexities of "
        "another vocabulary are not comparable.",
        "Exponents of test loss: they differ.",
    )
    bare = replace(SIZES, stored={**STORED, "floors": {}, "n_vocab": None, "grouped": STORED["grouped"][1:]})
    assert sentences(bare) == ("Exponents of test perplexity: too few.",)


def test_model_sizes_in_tables() -> None:
    table = sizes_table(SIZES)
    assert table.caption == (
        "Configurations by parameters; means over seeds. Best and last in training: validation perplexities on the "
        "tokens that training evaluated. Peak: live bytes of one training step."
    )
    heads, first, second, _ = told(table)
    assert heads == (
        "model | #parameters | #non-embedding | #seeds | #test loss (nats) | #test perplexity | #its SE across seeds | "
        "#validation perplexity | #best in training | #last in training | #training tokens | #FLOPs a step | "
        "#FLOPs in all | #peak MiB | #weights MiB | #wall s"
    )
    assert first == (
        "Transformer 64×4 | 1,000 {1000} | 800 {800} | 2 {2} | 5.25 {5.25} | 200 {200} | 10.0 {10} | 210 {210} | "
        "190 {190} | 195 {195} | 500,000 {5e+05} | 2.00×10⁹ {2e+09} | 3.00×10¹² {3e+12} | 12.5 {12.5} | 1.50 {1.5} | "
        "10.0 {10}"
    )
    assert second.startswith("ResNet-BK, vocabulary 500 64×4 | 2,000 {2000} | – | 2 {2} | – | 150 {150} | – | ")


def test_the_laws_of_model_sizes_in_tables() -> None:
    lines, laws, exponents, effects = (
        build(SIZES) for build in (lines_table, laws_table, exponents_table, effects_table)
    )
    assert lines.caption == (
        "perplexity = a · x^b, least squares on logarithms over all runs; R² is of ln perplexity, which is the loss: "
        "the interval of b is that of the loss's trend."
    )
    assert told(lines) == [
        "architecture | x | #b, 90 % | #a | #R² | #sizes | note",
        "Transformer | parameters | −0.400 [−0.500, −0.300] {-0.4} | 3,160 {3162} | 0.970 {0.97} | 2 {2} | undecided",
        "ResNet-BK, vocabulary 500 | parameters | – | – | – | – | one size",
    ]
    assert laws.caption == "Laws of the test loss with 90 % intervals, without and with irreducible loss E."
    assert told(laws) == [
        "architecture | x | #α of A·x^−α | #α of E + A·x^−α | #E (nats) | note",
        "Transformer | training FLOPs | 0.200 [0.100, 0.300] {0.2} | 0.400 [0.300, 0.500] {0.4} | 1.50 [1.00, 2.00] "
        "{1.5} "
        "| supported: a power law above a floor; flat",
        "Transformer | training examples | – | – | – | supported: no trend",
        "Transformer | training examples | – | – | – | supported: no single exponent",
        "ResNet-BK | parameters | – | – | – | one size",
    ]
    assert exponents.caption == (
        "Do the architectures share an exponent? The first row is the study's answer; the others repeat the test with "
        "other scales, laws and quantities."
    )
    assert told(exponents) == [
        "law | x | #α of Transformer | #difference to Transformer | #p | verdict",
        "test loss, power law | parameters | 0.200 [0.100, 0.300] {0.2} | 0.0500 [−0.0500, 0.150] {0.05} | 0.040 "
        "{0.04} | "
        "they differ",
        "test perplexity, broken | parameters | – | – | – | too few",
    ]
    assert effects.caption == "Test loss = A · d^−a · layers^−b, 90 % intervals (Student's)."
    assert told(effects) == [
        "architecture | #width a | #depth b | #R² | note",
        "Transformer | 0.300 [0.200, 0.400] {0.3} | 0.100 [0, 0.200] {0.1} | 0.900 {0.9} | noise: of seeds, 5 "
        "degrees of "
        "freedom",
        "ResNet-BK | – | – | – | one depth",
    ]


def test_the_picture_of_perplexity_whole() -> None:
    """From 100 to 200 + 10 with 0.09 of ln 2.1 on both sides; 500 words a unigram is over twice the highest of 200."""
    with styled():
        ax = plot_perplexity(SIZES, axes())
    (curve,) = [line for line in ax.lines if len(line.get_xdata()) == 40]
    assert (curve.get_color(), curve.get_linewidth()) == ("#d55e00", 1.6)
    assert list(curve.get_xdata())[::39] == pytest.approx([1000, 4000])
    assert list(curve.get_ydata())[::39] == pytest.approx([3162 * 1000**-0.4, 3162 * 4000**-0.4])
    assert [line for line in marks(ax) if "... 40" not in line] == [
        "blue o 7 blue edge paper 1 z 5: (2000, 150) «ResNet-BK, vocabulary 500 64×4: 150 perplexity, 2,000 "
        "parameters, "
        "2 seeds»",
        "red z 2.1: (1000, 200)",
        "red _ 6 red edge red 1: (1000, 190)",
        "red _ 6 red edge red 1: (1000, 210)",
        "red o 7 red edge paper 1 z 5: (1000, 200) «Transformer 64×4: 200 ± 10 perplexity, 1,000 parameters, 2 seeds»",
        "red o 7 red edge paper 1 z 5: (4000, 100) «Transformer 128×4: 100 perplexity, 4,000 parameters, 2 seeds»",
        "soft line 1.2 dashes 5, 3 z 1: (0, 160) (1, 160) «bigram 160»",
        "bars red 1.3 z 2: (1000, 190) (1000, 210)",
    ]
    beside = [(t.get_text(), t.get_ha(), t.xyann, t.xy, t.get_fontsize()) for t in ax.texts[:3]]  # type: ignore[attr-defined]
    assert beside == [
        ("64×4", "right", (-8, 4), (2000.0, 150.0), 8.5),
        ("64×4", "left", (8, 4), (1000.0, 200.0), 8.5),
        ("128×4", "right", (-8, 4), (4000.0, 100.0), 8.5),
    ]
    assert [line.split(": ") for line in words(ax)[3:]] == [
        ["blue 9 left center (1.04, 0.5394)", "ResNet-BK, vocabulary 500"],
        ["red 9 left center (1.04, 0.07627)", "Transformer"],
        ["soft 9 left center (1.04, 0.868)", "unigram 500 / lies above"],
        ["ink 9 left center (1.04, 0.6131)", "bigram 160"],
    ]
    assert frame(ax) == {
        "title": "Perplexity = a·params^b: Transformer b = −0.400",
        "x": "parameters, embeddings included (log scale): log 920.2, 4347",
        "y": "test perplexity (log scale): log 93.54, 224.5",
        "x ticks": "1,000 2,000 4,000",
        "y ticks": "100 120 140 160 180 200 220",
    }
    with styled():
        narrow = plot_perplexity(SIZES, axes(3.9, 3.4), compact=True)
    assert [text.get_fontsize() for text in narrow.texts] == [7.5] * 3 + [8] * 4


def test_the_pictures_along_width_and_depth_whole() -> None:
    with styled():
        wide = plot_along(SIZES, axes(), architecture="transformer", depth=False)
        deep = plot_along(SIZES, axes(), architecture="transformer", depth=True, compact=True)
    found = marks(wide)
    assert found[0] == "ramp 6 line 1.5 '4 layers': (64, 200) (128, 100)"
    assert found[-2:] == [
        "ramp 6 o 7 ramp 6 edge paper 1 z 5: (128, 100) «Transformer 128×4: 100, 4,000 parameters, 2 seeds»",
        "bars ramp 6 1.3 z 2: (64, 190) (64, 210)",
    ]
    assert [line for line in marks(deep) if "'" in line] == ["ramp 1 'd 64': (4, 200)", "ramp 6 'd 128': (4, 100)"]
    assert (frame(wide)["title"], str(frame(wide)["x"]).split(":")[0]) == ("Transformer", "width d (log scale)")
    assert str(frame(deep)["x"]).split(":")[0] == "layers (log scale)"
    assert (wide.get_ylabel(), wide.get_yscale()) == ("test perplexity (log scale)", "log")
    for ax, points in ((wide, 9), (deep, 8)):
        legend = ax.get_legend()
        assert legend is not None
        assert ({text.get_fontsize() for text in legend.get_texts()}, legend.get_frame_on()) == ({points}, False)


def test_the_picture_of_time_whole() -> None:
    """From 10 to 40 s with 0.09 of ln 4 on both sides."""
    with styled():
        ax = plot_time(SIZES, axes())
    assert marks(ax) == [
        "blue o 7 blue edge paper 1 z 5: (2000, 20) «ResNet-BK, vocabulary 500 64×4: 20 s, 2,000 parameters, 2 seeds»",
        "red o 7 red edge paper 1 z 5: (1000, 10) «Transformer 64×4: 10 s, 1,000 parameters, 2 seeds»",
        "red o 7 red edge paper 1 z 5: (4000, 40) «Transformer 128×4: 40 s, 4,000 parameters, 2 seeds»",
    ]
    assert [line.split(": ")[1] for line in words(ax)] == [
        "64×4", "64×4", "128×4", "ResNet-BK, vocabulary 500", "Transformer",
    ]  # fmt: skip
    seen = frame(ax)
    assert (seen["title"], seen["y"]) == ("A trial took 10 to 40 s", "wall time in s (log scale): log 8.827, 45.32")


def test_the_picture_of_compute_whole() -> None:
    with styled():
        ax = plot_compute(SIZES, axes())
    assert marks(ax) == [
        "red line 0.7 alpha 0.35: (1e+12, 6) (2e+12, 5.5)",
        "red o 4 red edge red 0 alpha 0.8: (2e+12, 5) «Transformer 64×4, seed 0: 5.00 nats at 2e+12 FLOPs»",
        "red line 0.7 alpha 0.35: (4e+12, 5) (8e+12, 4.75)",
        "red o 4 red edge red 0 alpha 0.8: (8e+12, 4.5) «Transformer 128×4, seed 0: 4.50 nats at 8e+12 FLOPs»",
        "red line 2 o 7 red edge paper 1: (2e+12, 5) (8e+12, 4.5)",
    ]
    assert [line.split(": ")[1] for line in words(ax)] == ["Transformer, / frontier"]
    seen = frame(ax)
    assert seen["title"] == "Test loss Transformer 4.50 at 8e+12 FLOPs"
    assert (seen["x"], seen["y"]) == (
        "training FLOPs (log scale): log 1e+12, 9.2e+12", "loss (nats, log scale): log 4.41, 5.9",
    )  # fmt: skip


SEEN = (Replicates(10.0, (2.0,), "a"), Replicates(20.0, (1.5,), "b"))
HIDDEN = (
    Hidden(Replicates(40.0, (1.0,), "c"), {LAW: Prediction(1.1, 0.9, 1.3), "power": Prediction(0.5, 0.4, 0.6),
                                          "tail line": Prediction(1.05)}),
    Hidden(Replicates(80.0, (0.9,), "d"), {LAW: Prediction(1.2, 1.0, 1.4), "power": Prediction(0.4, 0.3, 0.5),
                                          "tail line": Prediction(0.9)}),
)  # fmt: skip
CHECK = HeldOut("MAML", SEEN, HIDDEN, 0.9, {"E": part(0.5, 0.4, 0.6)}, ((10.0, 2.0, 1.8, 2.2), (80.0, 1.2, 1.0, 1.4)))


def test_hidden_configurations_in_words_and_tables() -> None:
    """Errors in ln: 0.0953 and 0.2877 of the law, 0.214 as a root mean square; 0.0345 of the tail line."""
    law_error = math.sqrt((math.log(1.1) ** 2 + math.log(1.2 / 0.9) ** 2) / 2)
    assert f"{law_error:.3f}" == "0.214"
    assert held_out_sentence(CHECK, "n_params_total") == (
        "MAML: fitted to the 2 configurations of up to 20 parameters, the power law with irreducible loss (E = 0.500 "
        "[0.400, 0.600]) predicts the 2 larger ones, of 40 to 80: 1 of 2 lie inside its 90 % prediction interval; its "
        "error is 0.214 in ln loss; closer were tail line (0.0345)."
    )
    alone = replace(CHECK, hidden=tuple(replace(one, predictions={LAW: one.predictions[LAW]}) for one in HIDDEN))
    assert held_out_sentence(alone, "x").endswith("in ln loss, less than that of every plain baseline.")
    table = hidden_table(CHECK, "n_params_total")
    assert table.caption == "MAML. Predicted by a law that was not fitted to them."
    assert told(table) == [
        "configuration | #parameters | #measured | #law with E | #90 % interval | measured lies",
        "c | 40 {40} | 1.00 {1} | 1.10 {1.1} | [0.900, 1.30] | inside",
        "diverged: d | 80 {80} | 0.900 {0.9} | 1.20 {1.2} | [1.00, 1.40] | outside",
    ]
    errors = predictors_table(CHECK)
    assert errors.caption == "MAML. Over the 2 hidden configurations; the law with E is that of the table above."
    assert told(errors) == [
        "predictor | #error of ln loss | #inside",
        "law with E | 0.214 {0.2143} | 1 of 2 {1}",
        "power | 0.754 {0.7543} | 0 of 2 {0}",
        "tail line | 0.0345 {0.0345} | –",
    ]
    assert FORECAST not in CHECK.predictors


def test_the_picture_of_hidden_configurations_whole() -> None:
    """From 0.9 to the band's 2.2 with 0.05 of the logarithm on both sides; the first hidden one at 40 / 1.03."""
    with styled():
        ax = plot_held_out((CHECK,), axes(), y_label="loss (nats)", x_label="parameters")
    assert marks(ax) == [
        "blue line 1.8: (10, 2) (80, 1.2)",
        "soft line 0.8 dashes 2, 2: (38.83, 0) (38.83, 1)",
        "blue o 5 blue edge paper 1: (10, 2) «MAML, a: 2.00, 10 parameters»",
        "blue o 5 blue edge paper 1: (20, 1.5) «MAML, b: 1.50, 20 parameters»",
        "blue o 6.5 hollow edge blue 1.8: (40, 1) «MAML, c: measured 1.00, predicted 1.10 [0.900, 1.30]»",
        "orange o 6.5 hollow edge orange 1.8: (80, 0.9) «MAML, d: measured 0.900, predicted 1.20 [1.00, 1.40]»",
        "band blue 0 alpha 0.16 z 1: (10, 2.2) (10, 1.8) ... 7 (10, 2.2)",
    ]
    assert frame(ax) == {
        "title": "Law of the smaller nets: 1 of 2 larger ones inside its interval",
        "x": "parameters (log scale): log 8.827, 90.63",
        "y": "loss (nats, log scale): log 0.8607, 2.301",
        "x ticks": "10 20 40 80",
        "y ticks": "1 1.25 1.5 1.75 2 2.25",
    }


def test_irregular_points_in_a_table() -> None:
    rows = (
        Irregular("trained", "width 8", 8.0, 3, 1.2, 1.0, 0.9, 1.1, math.log(1.2), "none known"),
        Irregular("MAML", "width 4", 4.0, 1, 0.5, 1.0, 0.9, 1.1, math.log(0.5), "seeds disagree: 4.0 times"),
    )
    table = irregular_table(IrregularTable(rows, 20, 0.95, "n_params_total"))
    assert table.caption == (
        "A cause is a suggestion from the records: training that patience did not stop, a tuned value at the end of "
        "its "
        "range (both only for losses above the law), or seeds further apart than elsewhere."
    )
    assert told(table) == [
        "point | suggested cause | #parameters | #runs | #measured | #law | #interval | #ln measured / law",
        "width 8 | none known | 8 {8} | 3 {3} | 1.20 {1.2} | 1.00 {1} | [0.900, 1.10] | +0.182 {0.1823}",
        "MAML, width 4 | seeds disagree: 4.0 times | 4 {4} | 1 {1} | 0.500 {0.5} | 1.00 {1} | [0.900, 1.10] | "
        "−0.693 {-0.6931}",
    ]


def shape(width: int, depth: int, loss: float, off: float) -> Shape:
    point = Point("trained", f"width {width}, depth {depth}", {}, 10.0 * width * depth, (loss,), ())
    return Shape(point, {"width": float(width), "depth": float(depth), "width / depth": width / depth}, off)


SHAPES = ShapeTable(
    (shape(4, 1, 4.0, 0.1), shape(8, 1, 2.0, -0.1), shape(4, 2, 1.0, 0.3), shape(8, 2, 0.5, -0.3)),
    ("width", "depth", "width / depth"),
    "n_params_total",
)


def test_shapes_in_tables() -> None:
    """By width the loss halves: geometric means √(4·1) and √(2·0.5), means off the law 0.2 and -0.2."""
    table = values_of_shapes(SHAPES, "parameters")
    assert table.caption == (
        "Geometric means over the shapes at each value; off the law: mean of ln (loss / law at the same parameters)."
    )
    assert told(table) == [
        "series | axis | #value | #shapes | #loss | #off the law",
        "trained | width | 4 {4} | 2 {2} | 2.00 {2} | +0.200 {0.2}",
        "trained | width | 8 {8} | 2 {2} | 1.00 {1} | −0.200 {-0.2}",
        "trained | depth | 1 {1} | 2 {2} | 2.83 {2.828} | 0 {0}",
        "trained | depth | 2 {2} | 2 {2} | 0.707 {0.7071} | 0 {0}",
    ]
    effects = effects_of_shapes(SHAPES, "parameters")
    heads, *rows = told(effects)
    assert heads == "series | axis | #overall | #at equal parameters"
    assert [row.split(" [")[0] for row in rows] == [
        "trained | width | −50.0 %", "trained | depth | −75.0 %", "trained | width / depth | +41.4 %",
    ]  # fmt: skip
    assert effects.caption == (
        "How the loss changes when the value of an axis doubles: over the whole grid, and relative to the law of its "
        "series at the same parameters; simple regressions of ln loss over the shapes, 95 % intervals."
    )


def test_the_picture_of_shapes_whole() -> None:
    """From 0.5 to 4 with 0.05 of ln 8 on both sides; shapes alike in depth are joined."""
    with styled():
        ax = plot_shape_axis(SHAPES, axes(), axis="width", y_label="loss (nats)")
        ratio = plot_shape_axis(SHAPES, axes(), axis="width / depth", y_label="loss (nats)")
    assert marks(ax) == [
        "blue line 0.7 alpha 0.45: (4, 4) (8, 2)",
        "blue line 0.7 alpha 0.45: (4, 1) (8, 0.5)",
        "blue o 3.2 blue edge blue 1 alpha 0.6: (4, 4) «trained, width 4, depth 1: 4.00, 40 parameters»",
        "blue o 3.2 blue edge blue 1 alpha 0.6: (8, 2) «trained, width 8, depth 1: 2.00, 80 parameters»",
        "blue o 3.2 blue edge blue 1 alpha 0.6: (4, 1) «trained, width 4, depth 2: 1.00, 80 parameters»",
        "blue o 3.2 blue edge blue 1 alpha 0.6: (8, 0.5) «trained, width 8, depth 2: 0.500, 160 parameters»",
        "blue line 2 o 5.5 blue edge paper 1: (4, 2) (8, 1)",
    ]
    assert frame(ax) == {
        "title": "Width",
        "x": "width: log 3.837, 8.34",
        "y": "loss (nats, log scale): log 0.4506, 4.438",
        "x ticks": "4 5 6 7 8",
        "y ticks": "0.5 0.7 1 1.5 2 3",
    }
    assert len(marks(ratio)) == 4
    assert (frame(ratio)["title"], frame(ratio)["x ticks"]) == ("Width / depth", "2 4 8")


@pytest.fixture
def measured(tmp_path: Path) -> ReportStudy:
    """A study whose scale is the measured number of parameters; its sections are given what they show."""
    roles = Roles(("n_params_total",), loss="test_loss_nats")
    builder = StudyBuilder(tmp_path, {"width": [4, 8]}, roles=roles)
    builder.run("a", {"width": 4}, result={"test_loss_nats": 1.0, "n_params_total": 10})
    return open_study(builder.write())


def outline(section: Section) -> list[str]:
    """Sentences, names of pictures and numbers of a table's rows."""
    found = []
    for block in section.blocks:
        if isinstance(block, PageTable):
            found.append(f"{len(block.rows)} rows")
        else:
            found.append(f"{block.name}: {block.caption}" if isinstance(block, Picture) else str(block))
    return found


def test_the_section_of_hidden_configurations(measured: ReportStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    title = "Extrapolation: small-model law vs. held-out large models"
    monkeypatch.setattr("metascale.report.sections.checks.held_out_data", lambda study: ())
    assert held_out(measured) == Section("held-out", title)
    monkeypatch.setattr(
        "metascale.report.sections.checks.held_out_data", lambda study: (CHECK, replace(CHECK, series="b"))
    )
    section = held_out(measured)
    first, second, picture, *tables = outline(section)
    assert (section.id, section.title) == ("held-out", title)
    assert first == held_out_sentence(CHECK, "n_params_total")
    assert second.startswith("b: fitted to the 2 configurations")
    assert picture == (
        "held_out: Filled: configurations that the law was fitted to. Rings: larger ones that it predicts, orange "
        "where "
        "they lie outside. Band: 90 % prediction interval for the mean of a configuration's runs. Blue: MAML; red: b."
    )
    assert tables == ["2 rows", "3 rows"] * 2
    ax = section.pictures[0].draws[0](axes(), False)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("parameters (log scale)", "test loss (nats, log scale)")


def test_the_section_of_irregular_points(measured: ReportStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 points 0.05 · 20 = 1 would lie outside by chance."""
    row = Irregular("trained", "width 8", 8.0, 3, 1.2, 1.0, 0.9, 1.1, math.log(1.2), "none known")
    found = IrregularTable((row,), 20, 0.95, "n_params_total")
    monkeypatch.setattr("metascale.report.sections.checks.irregular_data", lambda study: found)
    section = irregular(measured)
    assert (section.id, section.title, section.data) == ("irregular", "Irregular points", {"irregular": (row,)})
    said = (
        "Each of 20 points was predicted from all the others of its series: 1 lie outside their 95 % prediction "
        "interval "
        "(about 1.0 would by chance alone)."
    )
    assert outline(section) == [said, "1 rows"]
    monkeypatch.setattr("metascale.report.sections.checks.irregular_data", lambda study: replace(found, rows=()))
    assert outline(irregular(measured)) == [said.replace("1 lie", "0 lie")]
    none = IrregularTable((), 0, 0.95, "n_params_total")
    monkeypatch.setattr("metascale.report.sections.checks.irregular_data", lambda study: none)
    assert irregular(measured) == Section("irregular", "Irregular points", data={"irregular": ()})


def test_the_section_of_shapes(measured: ReportStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Along width the loss off the law moves by -0.2 and -0.6 a doubling, the mean of which no interval leaves out."""
    monkeypatch.setattr("metascale.report.sections.shapes.shape_data", lambda study: SHAPES)
    section = shapes(measured)
    assert (section.id, section.title) == ("shapes", "Loss along each axis of the shape")
    assert outline(section) == [
        "At equal parameters no axis of the shape changes the loss beyond its interval.",
        "shapes: Dots: shapes, means over seeds. Thin lines join shapes that differ along this axis only; the thick "
        "line "
        "is the geometric mean over the rest of the grid.",
        "3 rows",
        "4 rows",
    ]
    (picture,) = section.pictures
    assert (len(picture.draws), picture.same_y) == (3, True)
    steady = tuple(replace(each, off_law=0.1 * each.values["width"] / 4) for each in SHAPES.shapes)
    monkeypatch.setattr("metascale.report.sections.shapes.shape_data", lambda study: replace(SHAPES, shapes=steady))
    told_of = outline(shapes(measured))[0]
    assert told_of == "At equal parameters, doubling changes the loss by: width: +10.5 % [+10.5, +10.5]."


def test_the_section_of_model_sizes(measured: ReportStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metascale.report.sections.sizes.size_data", lambda study: None)
    assert sizes(measured) == Section("sizes", "Model size")
    monkeypatch.setattr("metascale.report.sections.sizes.size_data", lambda study: SIZES)
    section = sizes(measured)
    assert (section.id, section.title) == ("sizes", "Model size")
    bars = "Circles: means over seeds, bar ± 1 standard error across seeds."
    assert outline(section)[3:] == [
        f"size_perplexity: {bars} Labels: width × layers. Dashed: models that count words.",
        f"size_width: {bars}",
        f"size_depth: {bars}",
        "size_time: Means over seeds of a whole trial, evaluations included.",
        "size_compute: Dots: test loss at the end of a run; thin: its validation loss (another text) on the way there, "
        "while the rate still decays. Thick: the runs that no cheaper run of the architecture beats.",
        "3 rows", "2 rows", "4 rows", "2 rows", "2 rows",
    ]  # fmt: skip
    assert [picture.same_y for picture in section.pictures] == [False, True, True, False, False]
    titles = [picture.draws[0](axes(), False).get_title(loc="left") for picture in section.pictures[3:]]
    assert titles == ["A trial took 10 to 40 s", "Test loss Transformer 4.50 at 8e+12 FLOPs"]
    along = [picture.draws[1](axes(), False).get_xlabel() for picture in section.pictures[1:3]]
    assert along == ["width d (log scale)", "layers (log scale)"]
