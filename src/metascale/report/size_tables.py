"""The model-size section of the report's page: sentences and tables as text."""

from __future__ import annotations

from collections.abc import Mapping

from metascale.laws.record import Interval
from metascale.report.section import DASH, Cell, Column, Draw, PageTable, Picture, Row, Section
from metascale.report.size_data import architecture_name, scale_name, size_data
from metascale.report.size_plots import plot_along, plot_compute, plot_perplexity, plot_time
from metascale.report.size_types import SizeTable
from metascale.report.study import ReportStudy
from metascale.report.words import decimals, interval, number, p_words

EFFECTS: Mapping[str, str] = {
    "width": "width a",
    "depth": "depth b",
    "width_minus_depth": "a − b",
    "width_minus_depth_per_parameter": "a/2 − b (for equal parameters)",
}
QUANTITIES = {"test_loss_nats": "test loss", "test_perplexity": "test perplexity"}
SUPPORTED = {"none": "no trend", "power": "a power law", "power_irreducible": "a power law above a floor"}
LAWS = {"power": "power law", "power_irreducible": "power law with irreducible loss"}


def size_section(study: ReportStudy) -> Section:
    """Sentences, figures and tables; empty for another kind of study."""
    table = size_data(study)
    if table is None or not table.sizes:
        return Section("sizes", "Model size")
    tables = (sizes_table(table), lines_table(table), laws_table(table), exponents_table(table), effects_table(table))
    return Section("sizes", "Model size", (*sentences(table), *_pictures(table), *tables))


def _pictures(table: SizeTable) -> tuple[Picture, ...]:
    bars = "Circles: means over seeds, bar ± 1 standard error across seeds."

    def along(architecture: str, depth: bool) -> Draw:
        return lambda ax, compact: plot_along(table, ax, architecture=architecture, depth=depth, compact=compact)

    return (
        Picture(
            "size_perplexity",
            f"{bars} Labels: width × layers. Dashed: what counting words gives.",
            (lambda ax, compact: plot_perplexity(table, ax, compact=compact),),
        ),
        *(
            Picture(name, bars, tuple(along(one, depth) for one in table.architectures), same_y=True)
            for name, depth in (("size_width", False), ("size_depth", True))
        ),
        Picture(
            "size_time",
            "Means over seeds of a whole trial, evaluations included.",
            (lambda ax, compact: plot_time(table, ax, compact=compact),),
        ),
        Picture(
            "size_compute",
            "Dots: test loss at the end of a run; thin: its validation loss (another text) on the way there, while the "
            "rate still decays. Thick: the runs that no cheaper run of the architecture beats.",
            (lambda ax, compact: plot_compute(table, ax, compact=compact),),
        ),
    )


def sentences(table: SizeTable) -> tuple[str, ...]:
    """How the models stand to counting words, and whether the architectures share an exponent."""
    found = []
    best = min(table.sizes, key=lambda one: one.perplexity)
    bigram, unigram = table.floors.get("bigram_test"), table.floors.get("unigram_test")
    if bigram is not None and unigram is not None:
        above = [one for one in table.sizes if one.perplexity >= bigram]
        words = (
            "all lie below it" if not above else f"{len(above)} of {len(table.sizes)} configurations do not reach it"
        )
        found.append(
            f"Best: {architecture_name(best.architecture)} {best.label}, test perplexity {number(best.perplexity)}. "
            f"Counting words gives {number(unigram)} (unigram) and {number(bigram)} (interpolated bigram) on the same "
            f"words; of the bigram, {words}."
        )
    if table.n_vocab is not None:
        found.append(
            f"Perplexity is a word of a vocabulary of {table.n_vocab:,}, <unk> and <eos> included; perplexities of "
            "another vocabulary do not compare."
        )
    for one in table.comparisons[:1]:
        found.append(f"Exponents of {QUANTITIES.get(one.y_name, one.y_name)}: {one.verdict or one.reason}.")
    return tuple(found)


def sizes_table(table: SizeTable) -> PageTable:
    """Every configuration, the smallest first."""
    rows = []
    for one in table.sizes:
        rows.append(
            Row(
                (
                    Cell(f"{architecture_name(one.architecture)} {one.label}"),
                    _plain(one.n_params_total),
                    _plain(one.n_params_non_embedding),
                    _plain(one.n_seeds),
                    _fixed(one.loss, 4),
                    _fixed(one.perplexity, 2),
                    _fixed(one.perplexity_sem, 2),
                    _fixed(one.validation_perplexity, 2),
                    _fixed(one.best_perplexity, 2),
                    _fixed(one.final_perplexity, 2),
                    _short(one.tokens),
                    _short(one.step_flops),
                    _short(one.train_flops),
                    _fixed(one.peak_mib, 0),
                    _fixed(one.model_mib, 1),
                    _fixed(one.wall_s, 0),
                )
            )
        )
    heads = (
        "parameters", "non-embedding", "seeds", "test loss (nats)", "test perplexity", "its SE across seeds",
        "validation perplexity", "best at a look", "last look", "training tokens", "FLOPs a step", "FLOPs in all",
        "peak MiB", "weights MiB", "wall s",
    )  # fmt: skip
    caption = (
        "Configurations by parameters; means over seeds. Perplexities at a look are those that training saw (of its "
        "share of the validation tokens). Peak: live bytes of one training step."
    )
    return PageTable(caption, (Column("model", False), *map(Column, heads)), tuple(rows))


def lines_table(table: SizeTable) -> PageTable:
    """perplexity = a · x^b along every scale."""
    rows = []
    for one in table.lines:
        head = (Cell(architecture_name(one.architecture)), Cell(scale_name(one.x_name)))
        if one.b is None:
            rows.append(Row((*head, Cell(DASH), Cell(DASH), Cell(DASH), Cell(DASH), Cell(one.reason))))
            continue
        cells = (_shown(one.b), Cell(f"{one.a:.4g}", one.a), _fixed(one.r2, 3), _plain(one.n_sizes), Cell(""))
        rows.append(Row((*head, *cells)))
    heads = (Column(f"b, {100 * table.level:g} %"), Column("a"), Column("R²"), Column("sizes"), Column("note", False))
    caption = "perplexity = a · x^b, least squares on logarithms over all runs; R² is of ln perplexity."
    return PageTable(caption, (Column("architecture", False), Column("x", False), *heads), tuple(rows))


def laws_table(table: SizeTable) -> PageTable:
    """The law of the loss, without and with irreducible loss."""
    rows = []
    for one in table.laws:
        note = one.reason or "; ".join(filter(None, (f"supported: {SUPPORTED.get(one.chosen, one.chosen)}", one.note)))
        cells = (_shown(one.exponent), _shown(one.exponent_above_floor), _shown(one.floor, 2), Cell(note))
        rows.append(Row((Cell(architecture_name(one.architecture)), Cell(scale_name(one.x_name)), *cells)))
    heads = (Column("α of A·x^−α"), Column("α of E + A·x^−α"), Column("E (nats)"), Column("note", False))
    caption = f"Laws of the test loss with {100 * table.level:g} % intervals, without and with irreducible loss E."
    return PageTable(caption, (Column("architecture", False), Column("x", False), *heads), tuple(rows))


def exponents_table(table: SizeTable) -> PageTable:
    """The tests of equal exponents."""
    rows = []
    for one in table.comparisons:
        what = f"{QUANTITIES.get(one.y_name, one.y_name)}, {LAWS.get(one.law, one.law)}"
        each = [_shown(one.exponents.get(name)) for name in table.architectures]
        p = Cell(DASH) if one.p_value is None else Cell(p_words(one.p_value), one.p_value)
        cells = (*each, _shown(one.difference), p, Cell(one.verdict or one.reason))
        rows.append(Row((Cell(what), Cell(scale_name(one.x_name)), *cells)))
    heads = [Column(f"α of {architecture_name(name)}") for name in table.architectures]
    references = [one.reference for one in table.comparisons if one.reference]
    other = f"difference to {architecture_name(references[0])}" if references else "difference"
    columns = (Column("law", False), Column("x", False), *heads, Column(other), Column("p"))
    caption = "Do the architectures share an exponent? The first row is the study's answer; the others look at it anew."
    return PageTable(caption, (*columns, Column("verdict", False)), tuple(rows))


def effects_table(table: SizeTable) -> PageTable:
    """Width against depth."""
    rows = []
    for one in table.width_depth:
        cells = [_shown(one.effects.get(name)) for name in EFFECTS]
        note = one.reason or f"intervals hold {one.noise}, {one.freedom} degrees of freedom"
        rows.append(Row((Cell(architecture_name(one.architecture)), *cells, _fixed(one.r2, 3), Cell(note))))
    heads = (*map(Column, EFFECTS.values()), Column("R²"), Column("note", False))
    caption = f"Test loss = A · d^−a · layers^−b, {100 * table.level:g} % intervals (Student's)."
    return PageTable(caption, (Column("architecture", False), *heads), tuple(rows))


def _shown(found: Interval | None, digits: int = 3) -> Cell:
    if found is None:
        return Cell(DASH)
    return Cell(f"{decimals(found.estimate, digits)} {interval(found.low, found.high, digits)}", found.estimate)


def _plain(value: float | None) -> Cell:
    return Cell(DASH if value is None else number(value), value)


def _short(value: float | None) -> Cell:
    return Cell(DASH if value is None else f"{value:.3g}".replace("e+", "e"), value)


def _fixed(value: float | None, digits: int) -> Cell:
    return Cell(decimals(value, digits), value)
