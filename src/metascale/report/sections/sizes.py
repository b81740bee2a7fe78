"""Model sizes: perplexity against parameters, width and depth, loss against compute, and what the study concluded.

Laws come from size.json, which the study's conclusion writes; a study folder without it has no such section.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from metascale.core.columns import N_PARAMS_NON_EMBEDDING, N_PARAMS_TOTAL, SIZE_JSON, TEST_LOSS, TRAIN_FLOPS
from metascale.core.files import read_json
from metascale.laws.picture import tip
from metascale.report import style
from metascale.report.section import DASH, Cell, Draw, PageTable, Picture, Section, plain, reading, table, text_column
from metascale.report.study import ReportStudy, RunRow, StudySource, finite, open_study, standard_error
from metascale.report.words import axis_label, interval, measured, number, p_words

PERPLEXITY, TRAIN_KEY = "test_perplexity", "n_train_tokens"
UNITS = {"word": "word", "character": "character", "bpe": "token of byte pairs"}
NAMES = {"transformer": "Transformer", "resnet_bk": "ResNet-BK"}
EFFECTS: Mapping[str, str] = {
    "width": "width a",
    "depth": "depth b",
    "width_minus_depth": "a − b",
    "width_minus_depth_per_parameter": "a/2 − b (for equal parameters)",
}
QUANTITIES = {TEST_LOSS: "test loss", PERPLEXITY: "test perplexity"}
FLAT = {"none": "no trend", "undecided": "undecided", "not monotone": "not monotone"}
SUPPORTED = {
    "none": "no trend",
    "power": "a power law", "power_irreducible": "a power law above a floor", "power_shifted": "no single exponent",
    "broken": "no single exponent",
}  # fmt: skip
LAWS = {"power": "power law", "power_irreducible": "power law with irreducible loss"}
FAR = 2.0
"""A floor that is so many times away from every model would only squeeze the figure."""
PARAMETERS_AXIS = "parameters, embeddings included (log scale)"


@dataclass(frozen=True, slots=True)
class Size:
    """One configuration; ``means`` are those of the results' columns over its finished seeds."""

    architecture: str
    d_model: int
    n_layers: int
    means: Mapping[str, float]

    @property
    def label(self) -> str:
        """Width and depth in short."""
        return f"{self.d_model}×{self.n_layers}"

    @property
    def name(self) -> str:
        return f"{architecture_name(self.architecture)} {self.label}"

    @property
    def perplexity(self) -> float:
        return self.means[PERPLEXITY]


@dataclass(frozen=True, slots=True)
class ComputeCurve:
    """One run's validation loss along the training FLOPs it has spent; ``end`` is (FLOPs, test loss)."""

    architecture: str
    label: str
    flops: tuple[float, ...]
    losses: tuple[float, ...]
    end: tuple[float, float]


@dataclass(frozen=True, slots=True)
class SizeTable:
    """Configurations by parameters, curves by run, and the content of size.json."""

    sizes: tuple[Size, ...]
    curves: tuple[ComputeCurve, ...]
    stored: Mapping[str, Any]

    @property
    def architectures(self) -> tuple[str, ...]:
        """In the order, and so the colours, of the report's other figures."""
        return tuple(sorted({size.architecture for size in self.sizes}))

    @property
    def colours(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, style.SERIES[place % len(style.SERIES)]) for place, name in enumerate(self.architectures))

    def of(self, architecture: str) -> list[Size]:
        return [one for one in self.sizes if one.architecture == architecture]

    def line(self, architecture: str) -> Mapping[str, Any] | None:
        """The law perplexity = a · params^b of an architecture, where it has one."""
        found = {(one["architecture"], one["x"]): one for one in self.stored["perplexity_laws"] if "b" in one}
        return found.get((architecture, N_PARAMS_TOTAL))


def size_data(source: StudySource) -> SizeTable | None:
    """``None`` where the folder holds no size.json."""
    study = open_study(source)
    path = study.folder / SIZE_JSON
    if not path.exists():
        return None
    stored = read_json(path)
    tokens = stored.get(TRAIN_KEY)  # where a study varies the text, its sizes are those of all of it
    runs = [run for run in study.main if run.finished and run.number(TEST_LOSS) is not None]
    runs = [run for run in runs if tokens is None or run.number(TRAIN_KEY) in (None, tokens)]
    groups: dict[tuple[str, int, int], list[RunRow]] = {}
    for run in runs:
        key = (_name_of(study, run), int(run.number("d_model") or 0), int(run.number("n_layers") or 0))
        groups.setdefault(key, []).append(run)
    sizes = [Size(*key, _means(members)) for key, members in groups.items()]
    sizes.sort(key=lambda size: (size.means[N_PARAMS_TOTAL], size.architecture))
    curves = [curve for run in runs if (curve := _curve(run, _name_of(study, run))) is not None]
    return SizeTable(tuple(sizes), tuple(curves), stored)


def _means(runs: Sequence[RunRow]) -> dict[str, float]:
    """Means over seeds of every column that has numbers, and what is derived from them."""
    known = {name: [value for run in runs if (value := run.number(name)) is not None] for name in runs[0].cells}
    means = {name: statistics.fmean(values) for name, values in known.items() if values}
    walls = [wall for run in runs if (wall := run.run.wall_s()) is not None]
    error = standard_error(known[PERPLEXITY])
    more = {
        "n_seeds": float(len(runs)),
        "wall_s": statistics.fmean(walls) if walls else None,
        "perplexity_sem": error,
        "peak_mib": means["step_peak_bytes"] / 2**20 if "step_peak_bytes" in means else None,
    }
    return means | {name: value for name, value in more.items() if value is not None}


def _curve(run: RunRow, architecture: str) -> ComputeCurve | None:
    step, flops, loss = (run.number(name) for name in ("step_flops", TRAIN_FLOPS, TEST_LOSS))
    rows = [row for row in run.run.rows("eval_stats") if row["step"] > 0]
    if step is None or flops is None or loss is None or not rows:
        return None
    label = f"{architecture_name(architecture)} {run.text('d_model')}×{run.text('n_layers')}, seed {run.seed}"
    spent = tuple(float(step * row["step"]) for row in rows)
    return ComputeCurve(
        architecture, label, spent, tuple(float(row["validation_loss_nats"]) for row in rows), (flops, loss)
    )


def _name_of(study: ReportStudy, run: RunRow) -> str:
    """The architecture and what else is compared, as size.json names them: ``transformer, vocabulary 500``."""
    keys = [key for key in study.roles.series if key != "architecture"]
    apart = [key for key in keys if len({each.text(key) for each in study.main if each.finished}) > 1]
    return ", ".join([run.text("architecture"), *(f"{key} {run.text(key)}" for key in apart)])


def architecture_name(architecture: str) -> str:
    name, *rest = architecture.split(", ")
    return ", ".join([NAMES.get(name, name), *rest]).replace("_", " ")


def plot_perplexity(found: SizeTable, ax: Axes, *, compact: bool = False) -> Axes:
    """Test perplexity against all parameters, both logarithmic, every point labelled, with the fitted lines."""
    titles, labels = [], []
    for architecture, colour in found.colours:
        own, name = found.of(architecture), architecture_name(architecture)
        _points(ax, own, colour, N_PARAMS_TOTAL, PERPLEXITY, "perplexity")
        _name_points(ax, own, colour, PERPLEXITY, compact)
        line = found.line(architecture)
        if line is not None:
            x = np.geomspace(own[0].means[N_PARAMS_TOTAL], own[-1].means[N_PARAMS_TOTAL], 40)
            ax.plot(x, line["a"] * np.power(x, line["b"]), color=colour, linewidth=1.6)
            titles.append(f"{name} b = {measured(line['b'])}")
        labels.append((own[-1].perplexity, name, colour))
    labels += _floor_lines(found, ax)
    _log_axes(ax, found.sizes, N_PARAMS_TOTAL, compact)
    style.side_labels(ax, labels, size=8 if compact else 9)
    finding = f"Perplexity = a·params^b: {', '.join(titles)}" if titles else "Too few sizes for a law"
    return style.finish(ax, finding, PARAMETERS_AXIS, "test perplexity (log scale)", compact)


def plot_along(found: SizeTable, ax: Axes, *, compact: bool = False, architecture: str, depth: bool) -> Axes:
    """Test perplexity of one architecture against the width, a line a depth; or against the depth, a line a width."""
    own = found.of(architecture)
    x, other = ("n_layers", "d_model") if depth else ("d_model", "n_layers")
    lines = sorted({int(one.means[other]) for one in own})
    for value, colour in zip(lines, style.ramp(len(lines), 1), strict=True):
        members = sorted((one for one in own if one.means[other] == value), key=lambda one: one.means[x])
        label = f"d {value}" if depth else f"{value} {'layer' if value == 1 else 'layers'}"
        places = [one.means[x] for one in members]
        ax.plot(places, [one.perplexity for one in members], color=colour, linewidth=1.5, label=label)
        _points(ax, members, colour, x, PERPLEXITY, "")
    _log_axes(ax, own, x, compact)
    ax.legend(fontsize=8 if compact else 9, frameon=False, loc="best")
    what = "layers (log scale)" if depth else "width d (log scale)"
    return style.finish(ax, architecture_name(architecture), what, "test perplexity (log scale)", compact)


def plot_time(found: SizeTable, ax: Axes, *, compact: bool = False) -> Axes:
    """Wall time of a trial against its parameters, both logarithmic."""
    timed = [one for one in found.sizes if one.means.get("wall_s")]
    if not timed:
        return style.nothing(ax, "No trial was timed")
    labels: list[style.Label] = []
    for architecture, colour in found.colours:
        own = [one for one in timed if one.architecture == architecture]
        if own:
            _points(ax, own, colour, N_PARAMS_TOTAL, "wall_s", "s")
            _name_points(ax, own, colour, "wall_s", compact)
            labels.append((own[-1].means["wall_s"], architecture_name(architecture), colour))
    _log_axes(ax, timed, N_PARAMS_TOTAL, compact)
    style.side_labels(ax, labels, size=8 if compact else 9)
    times = [one.means["wall_s"] for one in timed]
    finding = f"A trial took {number(round(min(times)))} to {number(round(max(times)))} s"
    return style.finish(ax, finding, PARAMETERS_AXIS, "wall time in s (log scale)", compact)


def plot_compute(found: SizeTable, ax: Axes, *, compact: bool = False) -> Axes:
    """Loss against training FLOPs: validation along every run (thin), test loss at its end, and the frontier."""
    if not found.curves:
        return style.nothing(ax, "No run has a curve")
    labels: list[style.Label] = []
    best = []
    for architecture, colour in found.colours:
        for curve in (one for one in found.curves if one.architecture == architecture):
            ax.plot(curve.flops, curve.losses, color=colour, linewidth=0.7, alpha=0.35)
            (dot,) = ax.plot(*curve.end, "o", color=colour, markersize=4, markeredgewidth=0, alpha=0.8)
            tip(dot, f"{curve.label}: {measured(curve.end[1])} nats at {curve.end[0]:.3g} FLOPs")
        frontier = found.stored["frontier"].get(architecture, ())
        if frontier:
            x, y = zip(*frontier, strict=True)
            ax.plot(x, y, color=colour, linewidth=2, marker="o", markersize=7, markeredgecolor=style.PAPER)
            labels.append((y[-1], f"{architecture_name(architecture)},\nfrontier", colour))
            best.append(f"{architecture_name(architecture)} {measured(y[-1])} at {x[-1]:.2g} FLOPs")
    flops, losses = zip(*(curve.end for curve in found.curves), strict=True)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(min(min(curve.flops) for curve in found.curves), max(flops) * 1.15)
    ax.set_ylim(min(losses) * 0.98, max(losses) * 1.18)
    style.log_y_ticks(ax)
    style.side_labels(ax, labels, size=8 if compact else 9)
    return style.finish(
        ax, f"Test loss {', '.join(best)}", "training FLOPs (log scale)", "loss (nats, log scale)", compact
    )


def _points(ax: Axes, sizes: Sequence[Size], colour: str, x: str, y: str, unit: str) -> None:
    """A circle a configuration; a bar across seeds where perplexity is drawn."""
    for one in sizes:
        at, value = one.means[x], one.means[y]
        error = one.means.get("perplexity_sem") if y == PERPLEXITY else None
        if error is not None:
            ax.errorbar(at, value, error, color=colour, elinewidth=1.3, capsize=3)
        (circle,) = ax.plot(at, value, "o", color=colour, markersize=7, markeredgecolor=style.PAPER, zorder=5)
        spread = "" if error is None else f" ± {number(error)}"
        words = f"{one.name}: {number(value)}{spread} {unit}".rstrip()
        n_seeds = int(one.means["n_seeds"])
        tip(circle, f"{words}, {number(one.means[N_PARAMS_TOTAL])} parameters, {n_seeds} seeds")


def _name_points(ax: Axes, sizes: Sequence[Size], colour: str, y: str, compact: bool) -> None:
    """Width × depth beside every point, clear of its error bar; the largest has its name on the left."""
    for one in sizes:
        left = one is sizes[-1]
        ax.annotate(
            one.label, (one.means[N_PARAMS_TOTAL], one.means[y]), xytext=(-8 if left else 8, 4), color=colour,
            textcoords="offset points", ha="right" if left else "left", fontsize=7.5 if compact else 8.5,
        )  # fmt: skip


def _floor_lines(found: SizeTable, ax: Axes) -> list[style.Label]:
    """The counting models' test perplexities as horizontal lines; one far from all models is named at that end."""
    labels: list[style.Label] = []
    low, high = (end(one.perplexity for one in found.sizes) for end in (min, max))
    for order in ("unigram", "bigram"):
        value = found.stored["floors"].get(f"{order}_test")
        if value is None:
            continue
        words = f"{order} {number(round(value))}"
        if not low / FAR < value < high * FAR:
            labels.append(
                (max(min(value, high), low), f"{words}\nlies {'above' if value > high else 'below'}", style.SOFT)
            )
            continue
        line = ax.axhline(value, color=style.SOFT, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1)
        tip(line, words)
        labels.append((value, words, style.INK))
    return labels


def _log_axes(ax: Axes, sizes: Sequence[Size], x: str, compact: bool) -> None:
    ax.set_yscale("log")
    style.log_x_ticks(ax, [one.means[x] for one in sizes], closest=0.16 if compact else 0.1)
    style.pad_y(ax, part=0.09)
    style.log_y_ticks(ax)


def sizes(study: ReportStudy) -> Section:
    """Sentences, figures and tables; empty for another kind of study."""
    found = size_data(study)
    if found is None or not found.sizes:
        return Section("sizes", "Model size")
    tables = (sizes_table(found), lines_table(found), laws_table(found), exponents_table(found), effects_table(found))
    return Section("sizes", "Model size", (*sentences(found), *_pictures(found), *tables))


def _pictures(found: SizeTable) -> tuple[Picture, ...]:
    bars = "Circles: means over seeds, bar ± 1 standard error across seeds."

    def drawn(plot: Callable[..., Axes], **settings: object) -> Draw:
        return lambda ax, compact: plot(found, ax, compact=compact, **settings)

    def along(name: str, depth: bool) -> Picture:
        draws = tuple(drawn(plot_along, architecture=one, depth=depth) for one in found.architectures)
        return Picture(name, bars, draws, same_y=True)

    return (
        Picture(
            "size_perplexity",
            f"{bars} Labels: width × layers. Dashed: models that count words.",
            (drawn(plot_perplexity),),
        ),
        along("size_width", depth=False),
        along("size_depth", depth=True),
        Picture("size_time", "Means over seeds of a whole trial, evaluations included.", (drawn(plot_time),)),
        Picture(
            "size_compute",
            "Dots: test loss at the end of a run; thin: its validation loss (another text) on the way there, while the "
            "rate still decays. Thick: the runs that no cheaper run of the architecture beats.",
            (drawn(plot_compute),),
        ),
    )


def sentences(found: SizeTable) -> tuple[str, ...]:
    """How the models compare with counting words, and whether the architectures share an exponent."""
    told = []
    stored, best = found.stored, min(found.sizes, key=lambda one: one.perplexity)
    bigram, unigram = (stored["floors"].get(f"{order}_test") for order in ("bigram", "unigram"))
    if bigram is not None and unigram is not None:
        above = [one for one in found.sizes if one.perplexity >= bigram]
        words = f"{len(above)} of {len(found.sizes)} configurations do not beat" if above else "all configurations beat"
        told.append(
            f"Best: {best.name}, test perplexity {number(best.perplexity)}. Counting words gives {number(unigram)} "
            f"(unigram) and {number(bigram)} (interpolated bigram) on the same words; {words} the bigram model."
        )
    n_vocab = finite(stored.get("n_vocab"))
    if n_vocab is not None:
        unit = UNITS.get(str(stored.get("unit")), "word")
        told.append(
            f"Perplexity is per {unit} of a vocabulary of {int(n_vocab):,}, <unk> and <eos> included; perplexities of "
            "another vocabulary are not comparable."
        )
    for one in stored["grouped"][:1]:
        answer = one.get("verdict") or one.get("reason", "")
        told.append(f"Exponents of {QUANTITIES.get(one['y'], one['y'])}: {answer}.")
    return tuple(told)


SIZE_COLUMNS: Mapping[str, tuple[str, Callable[[float | None], Cell]]] = {
    "parameters": (N_PARAMS_TOTAL, plain),
    "non-embedding": (N_PARAMS_NON_EMBEDDING, plain),
    "seeds": ("n_seeds", plain),
    "test loss (nats)": (TEST_LOSS, reading),
    "test perplexity": (PERPLEXITY, reading),
    "its SE across seeds": ("perplexity_sem", reading),
    "validation perplexity": ("validation_perplexity", reading),
    "best in training": ("best_perplexity", reading),
    "last in training": ("final_perplexity", reading),
    "training tokens": ("tokens", reading),
    "FLOPs a step": ("step_flops", reading),
    "FLOPs in all": (TRAIN_FLOPS, reading),
    "peak MiB": ("peak_mib", reading),
    "weights MiB": ("model_size_mb", reading),
    "wall s": ("wall_s", reading),
}


def sizes_table(found: SizeTable) -> PageTable:
    """Every configuration, the smallest first."""
    rows = [
        [Cell(one.name), *(show(one.means.get(name)) for name, show in SIZE_COLUMNS.values())] for one in found.sizes
    ]
    caption = (
        "Configurations by parameters; means over seeds. Best and last in training: validation perplexities on the "
        "tokens that training evaluated. Peak: live bytes of one training step."
    )
    return table(caption, ("model", *SIZE_COLUMNS), rows)


def lines_table(found: SizeTable) -> PageTable:
    """perplexity = a · x^b along every scale."""
    rows = []
    for one in found.stored["perplexity_laws"]:
        cells = [Cell(DASH)] * 4 + [Cell(str(one.get("reason", "")))]
        if "b" in one:
            b = _shown({"estimate": one["b"], "low": one["b_low"], "high": one["b_high"]})
            trend = str(one.get("trend", ""))
            note = Cell(FLAT.get(trend, trend))
            cells = [b, reading(one["a"]), reading(one.get("r2")), plain(one.get("n_sizes", 0)), note]
        rows.append([*_where(one), *cells])
    heads = (f"b, {100 * found.stored['level']:g} %", "a", "R²", "sizes", text_column("note"))
    caption = (
        "perplexity = a · x^b, least squares on logarithms over all runs; R² is of ln perplexity, which is the loss: "
        "the interval of b is that of the loss's trend."
    )
    return table(caption, ("architecture", text_column("x"), *heads), rows)


def laws_table(found: SizeTable) -> PageTable:
    """The law of the loss, without and with irreducible loss."""
    rows = []
    for one in found.stored["loss_laws"]:
        power, floored = (one.get("laws", {}).get(name, {}) for name in ("power", "power_irreducible"))
        above = floored.get("parameters", {})
        chosen, trend = str(one.get("chosen", "")), str(one.get("trend", ""))
        note = one.get("reason") or "; ".join(
            filter(None, (f"supported: {FLAT.get(trend) or SUPPORTED.get(chosen, chosen)}", floored.get("note")))
        )
        exponents = (_shown(power.get("parameters", {}).get("alpha")), _shown(above.get("alpha")))
        rows.append([*_where(one), *exponents, _shown(above.get("E")), Cell(note)])
    heads = ("α of A·x^−α", "α of E + A·x^−α", "E (nats)", text_column("note"))
    level = f"{100 * found.stored['level']:g} %"
    caption = f"Laws of the test loss with {level} intervals, without and with irreducible loss E."
    return table(caption, ("architecture", text_column("x"), *heads), rows)


def exponents_table(found: SizeTable) -> PageTable:
    """The tests of equal exponents."""
    rows = []
    for one in found.stored["grouped"]:
        what = f"{QUANTITIES.get(one['y'], one['y'])}, {LAWS.get(one['law'], one['law'])}"
        each = [_shown(one.get("exponents", {}).get(name)) for name in found.architectures]
        differences = list(one.get("differences", {}).values())
        difference = _shown(differences[0] if len(differences) == 1 else None)
        value = finite(one.get("p_value"))
        p = Cell(DASH) if value is None else Cell(p_words(value), value)
        verdict = Cell(one.get("verdict") or one.get("reason", ""))
        rows.append([Cell(what), Cell(axis_label(one["x"])), *each, difference, p, verdict])
    references = [one["reference"] for one in found.stored["grouped"] if one.get("reference")]
    other = f"difference to {architecture_name(references[0])}" if references else "difference"
    alphas = [f"α of {architecture_name(name)}" for name in found.architectures]
    caption = (
        "Do the architectures share an exponent? The first row is the study's answer; the others repeat the test with "
        "other scales, laws and quantities."
    )
    return table(caption, ("law", text_column("x"), *alphas, other, "p", text_column("verdict")), rows)


def effects_table(found: SizeTable) -> PageTable:
    """Width against depth."""
    rows = []
    for architecture, one in found.stored["width_and_depth"].items():
        cells = [_shown(one.get("effects", {}).get(name)) for name in EFFECTS]
        note = one.get("reason") or f"noise: {one['noise']}, {one['freedom']} degrees of freedom"
        rows.append([Cell(architecture_name(architecture)), *cells, reading(finite(one.get("r2"))), Cell(note)])
    caption = f"Test loss = A · d^−a · layers^−b, {100 * found.stored['level']:g} % intervals (Student's)."
    return table(caption, ("architecture", *EFFECTS.values(), "R²", text_column("note")), rows)


def _where(one: Mapping[str, Any]) -> tuple[Cell, Cell]:
    return Cell(architecture_name(one["architecture"])), Cell(axis_label(one["x"]))


def _shown(part: Mapping[str, Any] | None) -> Cell:
    """An estimate with its ends, where all three are finite."""
    estimate, low, high = (finite((part or {}).get(end)) for end in ("estimate", "low", "high"))
    if estimate is None or low is None or high is None:
        return Cell(DASH)
    return Cell(f"{measured(estimate)} {interval(low, high)}", estimate)
