"""The law fitted to a study's test values along its scale: the answer, the curve, its check, its caveats."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from matplotlib.axes import Axes

from metascale.laws.picture import draw_band, draw_families, draw_hidden
from metascale.laws.record import FamilyRecord, HiddenScale, Interval, LawRecord
from metascale.report import style
from metascale.report.section import (
    DASH,
    Block,
    Bullets,
    Cell,
    Draw,
    Finding,
    PageTable,
    Picture,
    Row,
    Section,
    of,
    plain,
    reading,
    share,
    table,
    text_column,
    upper_first,
)
from metascale.report.sections.scales import (
    ScaleTable,
    accuracy_data,
    draw_levels,
    draw_runs,
    levels_words,
    runs_caption,
    scale_data,
)
from metascale.report.study import (
    ReportStudy,
    StudySource,
    open_study,
)
from metascale.report.words import (
    COUNTED,
    axis_label,
    greek,
    interval,
    measured,
    number,
    scale_words,
)


@dataclass(frozen=True, slots=True)
class LawTable:
    """Losses along the axis with the fitted laws: usually one, of all points (its name is empty), else one a series.

    ``title`` is the answer as the title of a plot.
    """

    scales: ScaleTable
    laws: Mapping[str, LawRecord]
    level: float
    title: str


def law_data(source: StudySource) -> LawTable:
    """Test loss along the axis, and the laws."""
    study = open_study(source)
    scales = scale_data(study, study.loss_name, study.loss_label)
    return LawTable(scales, study.laws_by_series, study.level, law_finding(study).title)


def law_finding(study: ReportStudy) -> Finding:
    """The study's question and the law's answer; without a law it says so and why."""
    axis = axis_label(study.x_name).removesuffix(" N").removesuffix(" K").removesuffix(" r")
    many = f"the number of {axis}" if study.x_name in COUNTED else axis
    loss = study.loss_words
    laws = study.laws_by_series
    scales = dict.fromkeys(name for one in laws.values() for name in one.x_names)
    asked = f"How does {loss} change with {' and '.join(axis_label(name) for name in scales)}?"
    if len(scales) < 2:
        asked = f"Does {loss} follow a power law in {many}?"
    question = str(study.launched.get("question") or asked)
    if not laws:
        return Finding(question, f"No answer yet: {missing_law_reason(study)}", "No law was fitted")
    if len(laws) > 1:
        return _several(question, laws, loss)
    (law,) = laws.values()
    exponent, direction, level = law.exponent, law.direction, law.level
    if len(law.x_names) > 1:
        title = f"{loss.capitalize()} in {' and '.join(law.x_names)}"
        answer = upper_first(study.in_words(law.verdict))
        return Finding(question, answer, title, direction, level=level, verdict=law.verdict)
    if direction == "not monotone":
        found = law.trends.get(law.x_name)
        level = found.level if found else level
        where = " and ".join(number(x) for x in found.turns) if found else ""
        answer = f"No: {loss} is not monotone in {many}" + (f"; it turns near {where}" if where else "")
        title = f"{loss.capitalize()} is not monotone in {axis}"
    elif direction == "undecided":
        answer = f"Undecided: {loss} may or may not fall with {many}"
        title = f"{loss.capitalize()} in {axis}: undecided"
    elif direction == "none":
        answer = f"No: {loss} does not change with {many} beyond its noise"
        if (law.misfit_log or 0.0) > (law.within_scale_log or 0.0):
            answer = f"No: {loss} goes up and down with {many} by more than seeds explain"
        title = f"{loss.capitalize()} shows no trend in {axis}"
    elif direction == "unknown":
        answer = f"The law '{law.law}' was fitted, but law.json states no trend"
        title = f"{loss.capitalize()} and its fit"
    else:
        verb = "grow" if many.endswith("parameters") else "grows"
        answer = f"{loss.capitalize()} {direction} as {many} {verb}"
        title = f"{loss.capitalize()} {direction} with more {axis}"
    if exponent:
        answer += f"; exponent α = {_shown(exponent)} ({100 * level:g}\u00a0% interval)"
        title += f": α = {_shown(exponent)}"
    return Finding(question, f"{answer}.", title, direction, exponent, level, law.verdict)


MOST_IN_A_TITLE = 3
"""Series that a picture's title names."""


def _several(question: str, laws: Mapping[str, LawRecord], loss: str) -> Finding:
    """One finding for several series: each with its own direction and exponent.

    Exponents of different laws (with a floor and without, say) are no comparison: then each names its law, and the
    title has the directions alone; of many series, how many have each.
    """
    words, exponents, counts = [], [], Counter[str]()
    along = {len(law.x_names) for law in laws.values()} == {1}
    differ = len({law.law for law in laws.values() if law.exponent} - {"none"}) > 1  # without a trend: a power's
    for series, law in laws.items():
        trend = _TREND_WORDS.get(law.direction, law.direction)
        counts[trend] += 1
        if len(law.x_names) > 1:
            words.append(f"{series} {_along_each(law)}")
            exponents.append(f"{series} {trend}")
            continue
        form = f" ({law.law.replace('_', ' ')})" if differ and law.law != "none" else ""
        words.append(f"{series} {trend}" + (f", α = {_shown(law.exponent)}{form}" if law.exponent else ""))
        exponents.append(f"{series} {_shown(law.exponent)}" if law.exponent and not differ else f"{series} {trend}")
    level = next(iter(laws.values())).level
    title = f"{'Exponents α' if along and not differ else loss.capitalize()}: {', '.join(exponents)}"
    if len(laws) > MOST_IN_A_TITLE:
        (first, most), *rest = counts.most_common()
        also = "".join(f", {trend} in {count}" for trend, count in rest)
        title = f"{loss.capitalize()}: {first} in {most} of {len(laws)} series{also}"
    directions = {law.direction for law in laws.values()}
    return Finding(
        question=question,
        answer=f"{loss.capitalize()} by series ({100 * level:g}\u00a0% intervals): {'; '.join(words)}."
        + (" Exponents of different laws do not compare." if along and differ else ""),
        title=title,
        direction=directions.pop() if len(directions) == 1 else "unknown",
        level=level,
    )


_TREND_WORDS = {"none": "no trend", "unknown": "trend not stated"}


def _along_each(law: LawRecord) -> str:
    """How the loss moves along every scale of a law in several, with the mean exponents that decided."""
    words = []
    for name, trend in law.trends.items():
        known = f" (mean exponent {_shown(trend.exponent)})" if trend.exponent else ""
        words.append(f"{_TREND_WORDS.get(trend.answer, trend.answer)} with {axis_label(name)}{known}")
    return ", ".join(words) or _TREND_WORDS.get(law.direction, law.direction)


def _shown(found: Interval) -> str:
    return f"{measured(found.estimate)} {interval(found.low, found.high)}"


def missing_law_reason(study: ReportStudy) -> str:
    """Why there is no law, from the counts of what was finished."""
    finished = [run for run in study.main if run.finished and run.number(study.loss_name) is not None]
    scales = {run.number(study.x_name) for run in finished} - {None}
    if not study.runs:
        return "the study has no trials."
    if not finished:
        return f"none of the {len(study.main)} {study.terms.trained} trials has finished with a loss."
    axis = axis_label(study.x_name)
    if any(x is not None and x <= 0 for x in scales):
        return (
            f"no law was fitted (law.json is absent): {axis} is not positive in every trial, and a law is fitted to "
            "logarithms."
        )
    noun = "value" if len(scales) == 1 else "values"
    return (
        f"no law was fitted (law.json is absent); the {len(finished)} finished trials cover {len(scales)} {noun} of "
        f"{axis}, and a law needs more values than it has parameters."
    )


def facts(study: ReportStudy, finding: Finding) -> tuple[tuple[str, str], ...]:
    """The numbers under the answer."""
    found = law_data(study)
    rows = []
    if finding.exponent:
        rows.append((f"exponent α (also called β), {100 * finding.level:g} %", _shown(finding.exponent)))
    if len(found.laws) == 1:
        rows.append(("law", _formula(next(iter(found.laws.values())), study.x_name)))
    if found.scales.means:
        scales = sorted({mean.x for mean in found.scales.means})
        ends = scale_words(study.x_name, scales[0]) + (f" to {number(scales[-1])}" if len(scales) > 1 else "")
        others = "".join(f" and {_range(study, name)}" for name in study.roles.scales[1:])
        rows.append(("finished runs", f"{len(found.scales.points)} at {ends}{others}"))
    errors = [law.extrapolation.log_error for law in found.laws.values() if law.extrapolation]
    if len(errors) == 1 and errors[0] is not None:
        rows.append(("log error, hidden largest scale", measured(errors[0])))
    return tuple(rows)


def _range(study: ReportStudy, scale: str) -> str:
    """The values of another scale among finished runs, in words."""
    values = sorted({value for run in study.main if run.finished and (value := run.number(scale)) is not None})
    return f"{scale_words(scale, values[0])} to {number(values[-1])}" if values else axis_label(scale)


def _formula(law: LawRecord, x_name: str) -> str:
    """The fitted law with its numbers where it is a power law, else its formula; of forms together their number."""
    if law.law == "auto":
        return f"{len(law.families)} forms together, the first of them {next(iter(law.families), '')}"
    values = {name: found.estimate for name, found in law.parameters.items()}
    scale, exponent, floor = values.get("A"), values.get("alpha", values.get("beta")), values.get("E")
    if scale is None or exponent is None or set(values) - {"A", "alpha", "beta", "E"}:
        return greek(law.formula or law.law.replace("_", " ") or "no law")
    power = f"{measured(scale)}·{'N' if x_name == 'n_tasks' else 'x'}^{measured(-exponent)}"
    return f"L = {measured(floor)} + {power}" if floor is not None else f"L = {power}"


def law(study: ReportStudy) -> Section:
    """The picture of the law, its parameters, and the means by scale."""
    found = law_data(study)
    data = {
        "laws": [_for_programs(series, one) for series, one in found.laws.items()],
        "x_name": found.scales.x_name,
        "scales": found.scales.means,
        "held_out": [
            {"series": series, **asdict(one.extrapolation)} for series, one in found.laws.items() if one.extrapolation
        ],
    }
    if not found.scales.points:
        return Section("law", "The law", data=data)

    def draw(linear: bool, families: bool) -> Draw:
        return lambda ax, compact: plot_study_law(found, ax, compact=compact, linear=linear, families=families)

    picture = Picture(
        "law",
        _caption(found),
        (draw(False, False),),
        on_page=(("log loss", draw(False, True)), ("linear loss", draw(True, True))),
        heading=False,
    )
    parameters = [parameters_table(series, one) for series, one in found.laws.items() if one.parameters]
    return Section("law", "The law", (picture, *parameters, scales_table(found, accuracy_data(study))), data)


def _for_programs(series: str, one: LawRecord) -> dict[str, object]:
    families = []
    for name, family in _by_backtest(one):
        estimates = {key: found.estimate for key, found in family.parameters.items()}
        numbers = {key: value for key, value in asdict(family).items() if key not in ("parameters", "objective")}
        families.append({"name": name, "chosen": name == one.law, "parameters": estimates, **numbers})
    head = {"series": series, "law": one.law, "trend": one.direction, "exponent": one.exponent}
    return {**head, "families": families}


def _by_backtest(one: LawRecord) -> list[tuple[str, FamilyRecord]]:
    """The fitted families, smallest backtest error first, unknown ones last."""

    def place(item: tuple[str, FamilyRecord]) -> tuple[float, str]:
        error = item[1].backtest_rmse_log
        return (math.inf if error is None else error, item[0])

    return sorted(one.families.items(), key=place)


def _caption(found: LawTable) -> str:
    words = runs_caption(found.scales)
    if any(one.curve for one in found.laws.values()):
        words += f" Band: {100 * found.level:g} % interval of the law."
    if any(one.extrapolation for one in found.laws.values()):
        words += " Diamond: prediction of the largest scale from the smaller ones alone, with its interval."
    return words + levels_words(found.scales)


def parameters_table(series: str, one: LawRecord) -> PageTable:
    """Parameters of the chosen law; the digits that repeating the prediction needs are its cells' read-outs."""
    rows = [
        [Cell(greek(name), full=name), *(reading(part) for part in (found.estimate, found.low, found.high))]
        for name, found in one.parameters.items()
    ]
    quality = [f"R² of log loss {measured(one.r2_log)}"] if one.r2_log is not None else []
    quality += [f"objective {measured(one.objective)}"] if one.objective is not None else []
    formula = f": {greek(one.formula)}" if one.formula else ""
    named = f"the chosen law '{one.law.replace('_', ' ')}'"
    if one.law == "auto":
        named = f"'{next(iter(one.families), '')}', the first of the {len(one.families)} forms that predict together"
    caption = f"{of(series)}Parameters of {named}{formula}. {', '.join(quality)}".strip()
    return table(caption, ("parameter", "estimate", f"{100 * one.level:g} % low", "high"), rows)


def scales_table(found: LawTable, accuracy: ScaleTable) -> PageTable:
    """Means by scale, the spread across seeds and across tasks in columns of their own."""
    scales = found.scales
    several = len(scales.series) > 1
    accuracies = {(mean.series, mean.x): mean for mean in accuracy.means}
    rows = []
    for mean in scales.means:
        other = accuracies.get((mean.series, mean.x))
        losses = (reading(mean.mean), reading(mean.seed_sem), reading(mean.task_sem))
        shares = (share(other.mean if other else None), share(other.seed_sem if other else None))
        named = (Cell(mean.series),) if several else ()
        rows.append([*named, plain(mean.x), plain(mean.n_seeds), *losses, *shares])
    heads = (
        *(("series",) if several else ()), scales.x_label, "seeds", scales.y_label, "SE across seeds",
        f"SE across {scales.items}", "accuracy", "its SE across seeds",
    )  # fmt: skip
    caption = "Means over seeds. SE across seeds: standard error from training again"
    if any(mean.task_sem is not None for mean in scales.means):
        caption += (
            f"; SE across {scales.items}: the mean of the runs' own standard errors across test {scales.items}"
            f"{', each with its one fixed episode' if scales.items == 'tasks' else ''}. The two are never added"
        )
    return table(f"{caption}.", heads, rows)


def families(study: ReportStudy) -> Section:
    """All fitted families of laws, the chosen one in bold."""
    tables = [families_table(series, one) for series, one in study.laws_by_series.items() if one.families]
    return Section("families", "Families of laws", tuple(tables))


def families_table(series: str, one: LawRecord) -> PageTable:
    """Families by backtest error."""
    rows = []
    for name, family in _by_backtest(one):
        parameters = ", ".join(f"{greek(key)} {measured(found.estimate)}" for key, found in family.parameters.items())
        noted = family.converged or family.note.startswith("did not converge")
        note = "; ".join(part for part in ("" if noted else "did not converge", family.note) if part)
        chosen = name == one.law
        cells = (
            Cell(name.replace("_", " ") + (" (chosen)" if chosen else ""), full=name),
            reading(family.backtest_rmse_log),
            share(family.backtest_coverage, 0), reading(family.rmse_log), reading(family.aicc), Cell(parameters),
            Cell(greek(note)),
        )  # fmt: skip
        rows.append(Row(cells, "chosen" if chosen else ""))
    heads = ("family", "backtest RMSE", "inside its 90 % intervals", "fit RMSE", "AICc")
    caption = (
        f"{of(series)}Errors are of log loss. The backtest hides the largest scales, fits the rest and predicts them: "
        "the error that matters for extrapolation; beside it, the share of hidden scales inside its intervals."
    )
    return table(caption, (*heads, text_column("parameters"), text_column("note")), rows)


def extrapolation(study: ReportStudy) -> Section:
    """The largest scale, predicted without having been seen."""
    found = law_data(study)
    blocks: list[Block] = []
    for series, one in found.laws.items():
        if one.extrapolation:
            blocks.append(_extrapolation_sentence(series, one.extrapolation, found))
            blocks.append(extrapolation_table(one.extrapolation, found))
    return Section("extrapolation", "Does it extrapolate?", tuple(blocks))


def _extrapolation_sentence(series: str, hidden: HiddenScale, found: LawTable) -> str:
    inside = hidden.low is not None and hidden.high is not None and hidden.low <= hidden.observed <= hidden.high
    errors = {name: abs(value - hidden.observed) for name, value in hidden.baselines.items()}
    own = abs(hidden.predicted - hidden.observed)
    closer = [name.replace("_", " ") for name, error in errors.items() if error < own]
    sentence = (
        f"{of(series)}Hidden from the fit, {scale_words(found.scales.x_name, hidden.x)} was predicted at "
        f"{measured(hidden.predicted)} {interval(hidden.low, hidden.high)}; measured "
        f"{measured(hidden.observed)}, {'inside' if inside else 'outside'} the {100 * found.level:g} % interval."
    )
    return sentence + (f" A plain baseline was closer: {', '.join(closer)}." if closer else "")


def extrapolation_table(hidden: HiddenScale, found: LawTable) -> PageTable:
    """What was predicted for the largest scale, by the law and by the plain baselines."""
    rows = [
        [Cell("measured"), reading(hidden.observed), Cell(""), Cell(DASH)],
        [
            Cell(f"law '{hidden.law.replace('_', ' ')}'" if hidden.law else "law"), reading(hidden.predicted),
            Cell(interval(hidden.low, hidden.high)), reading(hidden.log_error),
        ],
    ]  # fmt: skip
    for name, value in hidden.baselines.items():
        error = math.log(value / hidden.observed) if value > 0 and hidden.observed > 0 else None
        rows.append([Cell(name.replace("_", " ")), reading(value), Cell(""), reading(error)])
    heads = ("predictor", found.scales.y_label, f"{100 * found.level:g} % interval", "log error")
    return table("Predicted from the smaller scales alone; log error is ln(predicted / measured).", heads, rows)


def caveats(study: ReportStudy) -> Section:
    """The caveats of the laws, each once, and those of every law and every few-shot study."""
    laws = study.laws_by_series
    notes = [of(series) + note for series, one in laws.items() for note in one.notes]
    if len(laws) > 1:
        notes = [of(series) + one.verdict for series, one in laws.items() if one.verdict] + notes
    if any(one.parameters for one in laws.values()):
        notes.append(
            "A fitted law describes the range of scales that was run; beyond it the interval of the curve is too "
            "narrow, because it assumes that the law is true."
        )
    if study.meta:
        notes.append(
            "Each meta-test task has one fixed episode: spread across tasks includes the draw of the episode as well."
        )
    return Section("caveats", "Caveats", (Bullets(tuple(dict.fromkeys(notes))),) if notes else ())


def plot_study_law(
    table: LawTable, ax: Axes, *, compact: bool = False, linear: bool = False, families: bool = False
) -> Axes:
    """Loss against scale: runs, means with bars across seeds, the law with its band, baselines.

    Both axes are logarithmic; that of a scale with a value that is not positive is linear.

    Args:
        linear: a linear axis for the loss.
        families: draw the other fitted families too; a page shows them on demand.
    """
    scales = table.scales
    if not scales.points:
        return style.nothing(ax, "No finished run with a test loss")

    def write(value: float) -> str:
        return f"{measured(value)} {scales.unit}".strip()

    labels: list[style.Label] = []
    for series, one in table.laws.items():
        if one.curve:
            draw_band(ax, one.curve, _colour(scales, series), f"law {series}".strip())
        if one.curve and not series:
            labels.append((one.curve.median[-1], f"law, {100 * table.level:g} %", _colour(scales, series)))
    labels += draw_runs(scales, ax, write)
    labels += draw_levels(scales, ax, lambda value: measured(value), write)
    if not linear:
        ax.set_yscale("log")
    hidden = [one.extrapolation for series, one in table.laws.items() if one.extrapolation and not series]
    labels += [(one.predicted, "predicted from\nsmaller scales", style.ORANGE) for one in hidden]
    x_label = style.scale_x_ticks(ax, [point.x for point in scales.points], scales.x_label, compact, labels)
    low, high = ax.get_xlim()
    for series, one in table.laws.items():
        if one.extrapolation:
            colour = _colour(scales, series) if series else style.ORANGE
            # A little to the right of the measured mean, so that both can be seen.
            draw_hidden(
                ax, one.extrapolation, colour, _hidden_words(one.extrapolation, scales), at=(high / low) ** 0.018
            )
    style.pad_y(ax, log=not linear)
    if not linear:
        style.log_y_ticks(ax)
    for series, one in table.laws.items() if families else ():
        draw_families(ax, one, _colour(scales, series))
    style.side_labels(ax, labels, size=8 if compact else 9)
    return style.finish(ax, table.title, x_label, style.y_scale_label(ax, scales.y_label), compact)


def _hidden_words(hidden: HiddenScale, scales: ScaleTable) -> str:
    ends = "" if hidden.low is None else f" {interval(hidden.low, hidden.high)}"
    return (
        f"{scale_words(scales.x_name, hidden.x)} predicted from smaller scales: {measured(hidden.predicted)}{ends}; "
        f"measured {measured(hidden.observed)}"
    )


def _colour(scales: ScaleTable, series: str) -> str:
    """The colour of a law: its series', and ink for one law over several series."""
    if series in scales.series:
        return style.SERIES[scales.series.index(series) % len(style.SERIES)]
    return style.BLUE if len(scales.series) == 1 else style.INK
