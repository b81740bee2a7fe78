"""Further parts of the page, each with sentences, pictures and tables of its own: the template only lists them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from metascale.report.diagnosis import (
    SETTINGS,
    DiagnosisTable,
    advice,
    diagnosis_data,
    diagnosis_sentence,
    gap_words,
    plot_diagnosis,
    typical,
)
from metascale.report.held_out import held_out_data, loss_words, plot_held_out
from metascale.report.irregular import IrregularTable, irregular_data
from metascale.report.page_tables import DASH, Cell, Column, Content, Row
from metascale.report.reading import StudyFolder, axis_label, x_column
from metascale.report.section import Section, named, series_key, signed
from metascale.report.shape_data import shape_data
from metascale.report.shape_plots import plot_shape_axis
from metascale.report.shape_sections import held_out_section, shape_section
from metascale.report.tuning import TuningTable, label_of, plot_tuned, tuning_data
from metascale.report.words import decimals, interval, number

if TYPE_CHECKING:
    from metascale.report.figures import Picture


def sections(study: StudyFolder) -> tuple[Section, ...]:
    """The parts that the study has data for, in the order of a reader's questions."""
    found = (
        shape_section(shape_data(study)),
        held_out_section(held_out_data(study), x_column(study)),
        _irregular_section(irregular_data(study)),
        _diagnosis_section(diagnosis_data(study)),
        _tuning_section(tuning_data(study)),
    )
    return tuple(section for section in found if section is not None)


def section_pictures(study: StudyFolder) -> tuple[Picture, ...]:
    """The figures of these sections."""
    from metascale.report.figures import Picture

    found = []
    shapes, y_label = shape_data(study), loss_words(study)
    if shapes is not None and shapes.shapes:
        draws = tuple(_drawing(plot_shape_axis, shapes, axis=axis, y_label=y_label) for axis in shapes.axes)
        found.append(
            Picture(
                "shapes",
                "Dots: shapes, means over seeds. Thin lines join shapes that are alike in all else; the thick line is "
                "the geometric mean over the rest of the grid." + series_key(shapes.series),
                draws,
                same_y=True,
            )
        )
    hidden = held_out_data(study)
    if hidden:
        x_label = axis_label(x_column(study))
        draw = _drawing(plot_held_out, hidden, y_label=y_label, x_label=x_label)
        caption = (
            f"Filled: configurations that the law was fitted to. Rings: larger ones that it was asked for, orange "
            f"where outside. Band: {100 * hidden[0].level:g} % prediction interval for the mean of a configuration's "
            "runs."
        )
        found.append(Picture("held_out", caption + series_key([one.series for one in hidden]), (draw,)))
    diagnosis = diagnosis_data(study)
    if diagnosis.rows:
        chosen = typical(diagnosis)
        draws = tuple(_drawing(plot_diagnosis, row, x_label=diagnosis.x_label) for row in chosen)
        names = "; ".join(f"{number(row.point.x)}: {named(row.point.series, row.point.name)}" for row in chosen)
        caption = f"Dashed: training examples, without dropout; solid: validation; dots: kept. {names}."
        found.append(Picture("diagnosis", caption, draws, same_y=True))
    tuned = tuning_data(study)
    if tuned.points:
        draws = tuple(_drawing(plot_tuned, tuned, name=name) for name in tuned.names)
        caption = (
            "Each mark is a trial of a search: ln of its validation loss over the best at its point; crosses ended "
            "early; what is above the axis is drawn at its top. Large dots on the line: the best of each point, red "
            "at an end of the range."
        )
        found.append(Picture("tuning", caption, draws, same_y=True))
    return tuple(found)


def _drawing(plot: Callable[..., Axes], table: object, **settings: object) -> Callable[[Axes, bool], Axes]:
    return lambda ax, compact: plot(table, ax, compact=compact, **settings)


def _irregular_section(table: IrregularTable) -> Section | None:
    if not table.n_points:
        return None
    chance = (1 - table.level) * table.n_points
    text = (
        f"Each of {table.n_points} points was predicted from all the others of its series: {len(table.rows)} lie "
        f"outside their {100 * table.level:g} % prediction interval (chance alone brings {chance:.1f} or a few more)."
    )
    rows = tuple(
        Row(
            (
                Cell(named(row.series, row.name)), Cell(row.cause), Cell(number(row.x), row.x),
                Cell(str(row.n_runs), row.n_runs), Cell(decimals(row.observed, 4), row.observed),
                Cell(decimals(row.predicted, 4), row.predicted),
                Cell(interval(row.low, row.high, 4)), Cell(signed(row.log_error), row.log_error),
            )
        )
        for row in table.rows
    )  # fmt: skip
    columns = (
        Column("point", False), Column("suggested cause", False), Column(axis_label(table.x_name)), Column("runs"),
        Column("measured"), Column("law"), Column("interval"), Column("ln measured / law"),
    )  # fmt: skip
    caption = (
        "A cause is a suggestion from the records: training that patience did not stop, a tuned value at the end of "
        "its range (both only for losses above the law), or seeds further apart than elsewhere."
    )
    return Section("irregular", "Irregular points", (text,), (), (Content(caption, columns, rows),) if rows else ())


def _diagnosis_section(table: DiagnosisTable) -> Section | None:
    if not table.rows:
        return None
    settings = [name for name in SETTINGS if any(name in row.settings for row in table.rows)]
    rows = tuple(
        Row(
            (
                Cell(named(row.point.series, row.point.name)), Cell(number(row.point.x), row.point.x),
                *(_plain(row.settings.get(name)) for name in settings),
                Cell(decimals(row.train, 4), row.train), Cell(decimals(row.validation, 4), row.validation),
                Cell(f"{100 * row.gap:.0f} %", row.gap), Cell(decimals(row.rise), row.rise), Cell(row.verdict),
            )
        )
        for row in table.rows
    )  # fmt: skip
    columns = (
        Column("configuration", False), Column("size"), *(Column(label_of(name)) for name in settings),
        *map(Column, ("training", "validation", "gap", "rise")), Column("diagnosis", False),
    )  # fmt: skip
    words = [f"{one}: {advice(one)}." for one in dict.fromkeys(row.verdict for row in table.rows)]
    return Section(
        "diagnosis",
        "Underfit or overfit?",
        (diagnosis_sentence(table), " ".join(word[:1].upper() + word[1:] for word in words)),
        ("diagnosis",),
        (Content(gap_words(table.rows), columns, rows),),
    )


def _plain(value: float | None) -> Cell:
    return Cell(DASH if value is None else number(value), value)


def _tuning_section(table: TuningTable) -> Section | None:
    if not table.points:
        return None
    names = table.names
    edges = sum(bool(point.edges) for point in table.points)
    text = (
        f"{table.n_attempts} trials searched {', '.join(label_of(name) for name in names)} at {len(table.points)} "
        f"{'point' if len(table.points) == 1 else 'points'}, by validation loss; the test set was not touched. "
    )
    text += (
        f"At {edges} of them a best value lies at an end of its range: a better one may lie beyond."
        if edges
        else "No best value lies at an end of its range."
    )
    rows = []
    for point in table.points:
        cells = [Cell(point.name), *(_value(point.values.get(name), point.edges.get(name)) for name in names)]
        counts = ", ".join(f"{count} {status}" for status, count in point.counts.items())
        rows.append(Row((*cells, Cell(decimals(point.loss, 4), point.loss), Cell(counts))))
    columns = (
        Column("point", False), *(Column(label_of(name)) for name in names), Column("validation loss"),
        Column("trials", False),
    )  # fmt: skip
    caption = "Best values of each searched point; ▲ and ▼: at the upper or lower end of the range."
    return Section("tuning", "Tuned hyperparameters", (text,), ("tuning",), (Content(caption, columns, tuple(rows)),))


def _value(value: object, edge: str | None) -> Cell:
    mark = {"low": " ▼", "high": " ▲"}.get(edge or "", "")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Cell(number(value) + mark, float(value))
    return Cell(f"{value}{mark}")
