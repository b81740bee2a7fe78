"""Parts of pages of studies of model sizes and of shapes, from their records."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paired import Rows, main_rows

from metascale.core.columns import TEST_LOSS, TRAIN_FLOPS, VALIDATION_LOSS
from metascale.laws import next_runs, optimum
from metascale.laws.allocation import Optimum
from metascale.laws.candidates import grid as every_combination
from metascale.laws.surface_fit import analyse_surface
from metascale.recipes.model_size import size_of
from metascale.report.section import (
    Block,
    Bullets,
    Cell,
    Code,
    Folded,
    Picture,
    Section,
    plain,
    reading,
    table,
    text_column,
    unfolded,
)
from metascale.report.sections import checks, shapes, sizes, tuning
from metascale.report.sections.law import law
from metascale.report.words import axis_label, interval, measured, number
from metascale.workflow.recipe import roles_of

if TYPE_CHECKING:
    from results import Record


def _of(section: Section) -> list[Block]:
    """A section without its pictures."""
    return [block for block in unfolded(section.blocks) if not isinstance(block, (Picture, Folded))]


def _sizes(one: Record) -> sizes.SizeTable:
    found = sizes.size_data(one.study)
    assert found is not None, f"the record {one.name} has no size.json"
    return found


def size_table(one: Record) -> list[Block]:
    """Sentences, and every model with its losses; what the report has besides is left out."""
    found = _sizes(one)
    rows = []
    for size in found.sizes:
        means = size.means
        cells = [plain(means["n_params_total"]), plain(means["n_params_non_embedding"]), reading(means[TEST_LOSS])]
        cells += [reading(means["test_perplexity"]), reading(means.get("perplexity_sem"))]
        cells += [reading(means[TRAIN_FLOPS]), reading(means.get("peak_mib"))]
        rows.append([Cell(size.name), *cells])
    heads = ("parameters", "non-embedding", "test loss (nats)", "test perplexity", "its SE across seeds")
    caption = "Width × layers, means over seeds; FLOPs of the whole training; peak: live memory of one training step."
    return [*sizes.sentences(found), table(caption, ("model", *heads, "training FLOPs", "peak MiB"), rows)]


def exponents(one: Record) -> list[Block]:
    """The laws of the loss, of the perplexity, and the tests of equal exponents."""
    found = _sizes(one)
    return [sizes.exponents_table(found), sizes.laws_table(found), sizes.lines_table(found)]


def effects(one: Record) -> list[Block]:
    return [sizes.effects_table(_sizes(one))]


def frontier(one: Record) -> list[Block]:
    """At the FLOPs of every model: the best loss of each architecture that takes no more of them."""
    rows = main_rows(one)
    names = list(dict.fromkeys(str(row["architecture"]) for row in rows))
    budgets = sorted({float(row[TRAIN_FLOPS]) for row in rows})
    found = {name: {budget: _mean(rows, architecture=name, train_flops=budget) for budget in budgets} for name in names}
    shown = []
    for budget in budgets:
        within = [
            [loss for flops, loss in found[name].items() if flops <= budget and loss is not None] for name in names
        ]
        best = [min(losses, default=None) for losses in within]
        difference = best[1] - best[0] if best[0] is not None and best[1] is not None else None
        shown.append([reading(budget), *map(reading, best), reading(difference)])
    labels = [sizes.architecture_name(name) for name in names]
    heads = ("training FLOPs", *labels, f"{labels[1]} minus {labels[0]}")
    return [table("Test loss (nats, mean over seeds) of the best model that takes no more FLOPs.", heads, shown)]


def _mean(rows: Rows, **where: Any) -> float | None:
    here = [float(row[TEST_LOSS]) for row in rows if all(row[key] == value for key, value in where.items())]
    return statistics.fmean(here) if here else None


def rates(one: Record) -> list[Block]:
    """Validation loss at every learning rate, by model; the best rate of each is bold."""
    rows = main_rows(one)
    tried = sorted({float(row["lr"]) for row in rows})
    models = dict.fromkeys((str(row["architecture"]), int(row["d_model"])) for row in rows)
    shown = []
    for name, width in models:
        mine = [row for row in rows if (row["architecture"], row["d_model"]) == (name, width)]
        here = {row["lr"]: float(row[VALIDATION_LOSS]) for row in mine}
        best = min(here, key=lambda rate: here[rate])
        cells = [Cell(f"**{here[rate]:.3f}**" if rate == best else f"{here[rate]:.3f}") for rate in tried]
        shown.append([Cell(f"{sizes.architecture_name(name)}, width {width}"), *cells])
    caption = "Validation loss (nats) by learning rate of the base width; the lowest of each model is bold."
    return [table(caption, ("model", *map(number, tried)), shown)]


def answer(one: Record) -> str | None:
    """What a row says of a study of rates, of L(N, D), of depth against width, or of two architectures' exponents of
    one law; ``None`` of any other."""
    rows, axes = main_rows(one), one.study.view.study.axes
    if "lr" in axes:
        return _rates_answer(rows)
    found = sizes.size_data(one.study)
    if found is not None and "tokens" in roles_of(one.study.view.study).scales:
        return allocation_answer(_splits(rows))
    if found is not None and len(axes.get("n_layers", ())) > 1:
        return shape_answer(found.stored["width_and_depth"])
    first = found.stored["grouped"][0] if found is not None and found.stored["grouped"] else {}
    if "verdict" not in first:
        return None
    each = [
        f"{sizes.architecture_name(name)} {measured(at['estimate'])} {interval(at['low'], at['high'])}"
        for name, at in first["exponents"].items()
    ]
    return (
        f"Exponents α of one power law, test loss in {axis_label(first['x'])}: {'; '.join(each)}: {first['verdict']}."
    )


def _rates_answer(rows: Rows) -> str:
    """The best rate of every model, and the one that costs least where it is worst."""
    told, above = [], dict.fromkeys(sorted({float(row["lr"]) for row in rows}), 0.0)
    for name, width in dict.fromkeys((str(row["architecture"]), int(row["d_model"])) for row in rows):
        mine = [row for row in rows if (row["architecture"], row["d_model"]) == (name, width)]
        here = {float(row["lr"]): float(row[VALIDATION_LOSS]) for row in mine}
        best = min(here, key=lambda rate: here[rate])
        above = {rate: max(worst, here[rate] - here[best]) for rate, worst in above.items()}
        told.append(f"{sizes.architecture_name(name)} {width}: {number(best)}")
    common = min(above, key=lambda rate: above[rate])
    return (
        f"A rate of {number(common)} loses at most {measured(above[common])} nats of validation loss to the best of "
        f"each model ({'; '.join(told)})."
    )


def surface(one: Record) -> list[Block]:
    """Test loss by size and tokens, a row a model."""
    rows = main_rows(one)
    amounts = sorted({float(row["tokens"]) for row in rows})
    models = dict.fromkeys((str(row["architecture"]), float(row["n_params_non_embedding"])) for row in rows)
    shown = []
    for name, size in models:
        losses = [_mean(rows, architecture=name, n_params_non_embedding=size, tokens=amount) for amount in amounts]
        shown.append([Cell(sizes.architecture_name(name)), plain(size), *map(reading, losses)])
    heads = ("model", "non-embedding parameters", *(f"{number(amount)} tokens" for amount in amounts))
    return [table("Test loss (nats), means over seeds.", heads, shown)]


def depths(one: Record) -> list[Block]:
    """Parameters without embeddings and test loss, a row a width, a column a depth."""
    rows, shown = main_rows(one), []
    layers = sorted({int(row["n_layers"]) for row in rows})
    for name, width in dict.fromkeys((str(row["architecture"]), int(row["d_model"])) for row in rows):
        cells = []
        for depth in layers:
            here = [
                row for row in rows if (row["architecture"], row["d_model"], row["n_layers"]) == (name, width, depth)
            ]
            loss = statistics.fmean(float(row[TEST_LOSS]) for row in here)
            cells += [plain(here[0]["n_params_non_embedding"]), reading(loss)]
        shown.append([Cell(f"{sizes.architecture_name(name)}, width {width}"), *cells])
    heads = [part for depth in layers for part in ("non-embedding", f"{depth} {'layer' if depth == 1 else 'layers'}")]
    return [
        table("Parameters without embeddings and test loss (nats) by depth.", (text_column("model"), *heads), shown)
    ]


BUDGETS = (1e11, 1e12, 1e13)
"""FLOPs of non-embedding parameters (6·N·D) at which the best split is asked for, to tenfold beyond the data."""


def law_words(one: Record) -> str | None:
    """The exponents of width and depth of a study of both (its law along parameters mixes the two); else ``None``."""
    found = sizes.size_data(one.study)
    if found is None or len(one.study.view.study.axes.get("n_layers", ())) < 2:
        return None
    told = []
    for architecture, law_of in found.stored["width_and_depth"].items():
        ends = {name: law_of.get("effects", {}).get(name) for name in ("width", "depth")}
        each = [
            f"{letter} = {measured(at['estimate'])} {interval(at['low'], at['high'])}"
            for letter, at in zip("ab", ends.values(), strict=True)
            if at
        ]
        told.append(f"{sizes.architecture_name(architecture)}. {', '.join(each) or 'none'}")
    return f"A·width^−a·depth^−b: {'; '.join(told)}"


def shape_answer(found: Mapping[str, Any]) -> str:
    """Whether parameters help more as width or as depth, by architecture: the sign of a/2 − b."""
    told = []
    for architecture, one in found.items():
        name = sizes.architecture_name(architecture)
        if "effects" not in one:
            told.append(f"{name} {one['reason']}")
            continue
        gap = one["effects"]["width_minus_depth_per_parameter"]
        estimate, low, high = (float(gap[end]) for end in ("estimate", "low", "high"))
        side = "more as width" if low > 0 else "more as depth" if high < 0 else "no difference told"
        told.append(f"{name} {measured(estimate)} {interval(low, high)}, {side}")
    return (
        "Test loss = A · width^−a · depth^−b; doubling the parameters lowers ln loss by ln 2 times a/2 as width, by "
        f"ln 2 times b as depth; a/2 − b: {'; '.join(told)}."
    )


WIDE = 0.25
"""An interval of the exponent a of N ∝ C^a that is wider plans nothing: ten times the budget leaves N uncertain by
10^0.25, a factor of 1.8."""


def allocation_answer(found: Mapping[str, Optimum]) -> str:
    """The exponents of the compute-optimal size, and whether they are narrow enough to plan with."""
    told, wide = [], []
    for architecture, best in found.items():
        a, name = best.exponent, sizes.architecture_name(architecture)
        told.append(f"{name} {measured(a['estimate'])} {interval(a['low'], a['high'])}")
        wide += [name] if a["high"] - a["low"] > WIDE else []
    verdict = f"; too wide to plan with: {', '.join(wide)}" if wide else ""
    return f"Of L = E + A·N^−α + B·D^−β, exponents a of the compute-optimal N ∝ C^a: {'; '.join(told)}{verdict}."


def _splits(runs: Rows) -> dict[str, Optimum]:
    """The compute-optimal split by architecture; equal losses of two seeds are two runs, as in the study's own law."""
    found = {}
    for architecture in dict.fromkeys(str(row["architecture"]) for row in runs):
        mine = [row for row in runs if row["architecture"] == architecture]
        fitted = analyse_surface(
            [[row["n_params_non_embedding"], row["tokens"]] for row in mine],
            [row[TEST_LOSS] for row in mine],
            replicate=range(len(mine)),
        )
        found[architecture] = optimum(fitted.bootstrap, BUDGETS, level=0.95)
    return found


def allocation(one: Record) -> list[Block]:
    """The compute-optimal model size and tokens, by series."""
    rows, exponents = [], []
    for architecture, best in _splits(main_rows(one)).items():
        name, a = sizes.architecture_name(architecture), best.exponent
        exponents.append(f"{name}: N grows as C^{measured(a['estimate'])} {interval(a['low'], a['high'])}")
        for place, budget in enumerate(BUDGETS):
            cells = [_band(part, place) for part in (best.n_params, best.tokens, best.loss)]
            rows.append([Cell(name), reading(budget), *cells])
    heads = ("model", "FLOPs (6·N·D)", "non-embedding parameters N", "tokens D", "loss (nats)")
    return [Bullets(tuple(exponents)), table("Compute-optimal split, with 95 % intervals.", heads, rows)]


def _band(part: Mapping[str, Any], place: int) -> Cell:
    estimate, low, high = (float(part[key][place]) for key in ("estimate", "low", "high"))
    return Cell(f"{measured(estimate)} {interval(low, high)}", estimate)


WIDTHS = (16, 32, 64, 128, 192, 256)
BEYOND, NEXT_BUDGET = 512, 2e13
"""The width whose loss the next runs should tell, and what they may take: FLOPs (6·N·D)."""


def following(one: Record) -> list[Block]:
    """Which runs `next_runs` would do after the record, by series, for the loss of width 512 on the most tokens."""
    scales = roles_of(one.study.view.study).scales
    rows, shown = main_rows(one), []
    most = max(float(row["tokens"]) for row in rows)
    for name in dict.fromkeys(str(row["architecture"]) for row in rows):
        known = [row for row in rows if row["architecture"] == name]
        sizes_of = [size_of({"architecture": name, "d_model": width, "n_layers": 2}) for width in (*WIDTHS, BEYOND)]
        amounts = sorted({float(row["tokens"]) for row in known}) if "tokens" in scales else [most]
        candidates = {scales[0]: sizes_of[:-1], "tokens": amounts}
        target = dict(zip(("n_params_non_embedding", "tokens"), (sizes_of[-1], most), strict=True))
        plan = next_runs(
            {key: [float(row[key]) for row in known] for key in (*scales, TEST_LOSS)},
            every_combination(candidates),
            f"6 * {scales[0]} * tokens",
            {key: target[key] for key in scales},
            NEXT_BUDGET,
            x=scales,
            y=TEST_LOSS,
            level=0.95,
        )
        shown.append(f"{sizes.architecture_name(name)}:\n{plan.summary()}")
    return [Code("\n\n".join(shown))]


def grid(one: Record) -> list[Block]:
    """Geometric means of the test loss, and mean accuracy, by width and depth."""
    rows = main_rows(one)
    depths = sorted({int(row["depth"]) for row in rows})
    shown = []
    for width in sorted({int(row["width"]) for row in rows}):
        cells = []
        for depth in depths:
            here = [row for row in rows if (row["width"], row["depth"]) == (width, depth)]
            loss = math.exp(statistics.fmean(math.log(row[TEST_LOSS]) for row in here))
            accuracy = 100 * statistics.fmean(row["test_accuracy"] for row in here)
            cells += [plain(here[0]["n_params_total"]), Cell(f"{measured(loss)} ({accuracy:.1f} %)", loss)]
        shown.append([plain(width), *cells])
    heads = [part for depth in depths for part in ("parameters", f"{depth} layers: loss (accuracy)")]
    caption = "Test loss (nats): geometric means over seeds; accuracy: means."
    return [table(caption, ("width", *heads), shown)]


def irregular(one: Record) -> list[Block]:
    return _of(checks.irregular(one.study))


def held_out(one: Record) -> list[Block]:
    return _of(checks.held_out(one.study))


def tuned(one: Record) -> list[Block]:
    return _of(tuning.tuning(one.study))


def shape(one: Record) -> list[Block]:
    return _of(shapes.shapes(one.study))


PARTS: dict[str, Callable[[Record], Sequence[Block]]] = {
    "allocation": allocation,
    "depths": depths,
    "effects": effects,
    "exponents": exponents,
    "following": following,
    "frontier": frontier,
    "grid": grid,
    "held_out": held_out,
    "irregular": irregular,
    "rates": rates,
    "shape": shape,
    "size_table": size_table,
    "surface": surface,
    "tuned": tuned,
}

PICTURES: dict[str, Callable[[Record], Section]] = {
    "law": lambda one: law(one.study),
    "held_out": lambda one: checks.held_out(one.study),
    "shapes": lambda one: shapes.shapes(one.study),
    "size_perplexity": lambda one: sizes.sizes(one.study),
    "tuning": lambda one: tuning.tuning(one.study),
}
"""Sections of the report whose picture of that name a page may show; that of the law is named so for any study."""
