"""Tables of a study of model sizes: its configurations, its laws, and what width, depth and compute do.

The laws come from size.json, which the study's conclusion writes; a study folder without it has no such tables.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np

from metascale.core.files import read_json
from metascale.laws.record import Interval
from metascale.report.size_types import Comparison, ComputeCurve, Line, LossLaw, Size, SizeTable, WidthDepth
from metascale.report.study import RunRow, StudySource, finite, open_study, standard_error
from metascale.report.words import axis_label

FILE = "size.json"
_MIB = 1 << 20
NAMES = {"transformer": "Transformer", "resnet_bk": "ResNet-BK"}


def architecture_name(architecture: str) -> str:
    """Words for an architecture."""
    return NAMES.get(architecture, architecture.replace("_", " "))


def scale_name(x_name: str) -> str:
    """Words for a scale."""
    return axis_label(x_name)


def size_data(source: StudySource) -> SizeTable | None:
    """The tables of a study of model sizes, or ``None`` where the folder holds no size.json."""
    study = open_study(source)
    path = study.folder / FILE
    if not path.exists():
        return None
    stored: Mapping[str, Any] = read_json(path)
    trials = [trial for trial in study.main if trial.finished and trial.number("test_loss_nats") is not None]
    groups: dict[tuple[str, int, int], list[RunRow]] = {}
    for trial in trials:
        key = (trial.cells["architecture"], int(trial.cells["d_model"]), int(trial.cells["n_layers"]))
        groups.setdefault(key, []).append(trial)
    sizes = [_size(key, members) for key, members in groups.items()]
    sizes.sort(key=lambda size: (size.n_params_total, size.architecture))
    n_vocab = finite(stored.get("n_vocab"))
    return SizeTable(
        sizes=tuple(sizes),
        lines=tuple(_line(one) for one in stored["perplexity_laws"]),
        laws=tuple(_loss_law(one) for one in stored["loss_laws"]),
        comparisons=tuple(_comparison(one) for one in stored["grouped"]),
        width_depth=tuple(_width_depth(name, one) for name, one in stored["width_and_depth"].items()),
        curves=tuple(curve for trial in trials if (curve := _curve(trial)) is not None),
        frontier={name: tuple((x, y) for x, y in points) for name, points in stored["frontier"].items()},
        floors={name: float(value) for name, value in stored["floors"].items()},
        n_vocab=None if n_vocab is None else int(n_vocab),
        level=float(stored["level"]),
    )


def _size(key: tuple[str, int, int], trials: list[RunRow]) -> Size:
    def mean(column: str) -> float | None:
        values = [trial.number(column) for trial in trials]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    perplexities = [value for trial in trials if (value := trial.number("test_perplexity")) is not None]
    walls = [wall for trial in trials if (wall := trial.run.wall_s())]
    peak = mean("step_peak_bytes")
    return Size(
        *key,
        n_params_total=mean("n_params_total") or 0.0,
        n_params_non_embedding=mean("n_params_non_embedding") or 0.0,
        n_seeds=len(trials),
        loss=mean("test_loss_nats") or 0.0,
        perplexity=statistics.fmean(perplexities),
        perplexity_sem=standard_error(perplexities),
        validation_perplexity=mean("validation_perplexity"),
        best_perplexity=mean("best_perplexity"),
        final_perplexity=mean("final_perplexity"),
        tokens=mean("tokens"),
        step_flops=mean("step_flops"),
        train_flops=mean("train_flops"),
        peak_mib=None if peak is None else peak / _MIB,
        model_mib=mean("model_size_mb"),
        wall_s=statistics.fmean(walls) if walls else None,
    )


def _line(stored: Mapping[str, Any]) -> Line:
    b = Interval(stored["b"], stored["b_low"], stored["b_high"]) if "b" in stored else None
    return Line(
        stored["architecture"],
        stored["x"],
        stored.get("a"),
        b,
        stored.get("r2"),
        int(stored.get("n_runs", 0)),
        int(stored.get("n_sizes", 0)),
        str(stored.get("reason", "")),
    )


def _loss_law(stored: Mapping[str, Any]) -> LossLaw:
    laws = stored.get("laws", {})
    plain, floored = (laws.get(name, {}).get("parameters", {}) for name in ("power", "power_irreducible"))
    return LossLaw(
        stored["architecture"],
        stored["x"],
        str(stored.get("chosen", "")),
        interval_of(plain.get("alpha")),
        interval_of(floored.get("alpha")),
        interval_of(floored.get("E")),
        str(laws.get("power_irreducible", {}).get("note") or ""),
        str(stored.get("reason", "")),
    )


def _comparison(stored: Mapping[str, Any]) -> Comparison:
    exponents = {name: found for name, part in stored.get("exponents", {}).items() if (found := interval_of(part))}
    differences = [found for part in stored.get("differences", {}).values() if (found := interval_of(part))]
    return Comparison(
        stored["y"],
        stored["law"],
        stored["x"],
        str(stored.get("reference", "")),
        exponents,
        differences[0] if len(differences) == 1 else None,
        finite(stored.get("p_value")),
        str(stored.get("verdict", "")),
        str(stored.get("reason", "")),
    )


def _width_depth(architecture: str, stored: Mapping[str, Any]) -> WidthDepth:
    effects = {name: found for name, part in stored.get("effects", {}).items() if (found := interval_of(part))}
    return WidthDepth(
        architecture,
        effects,
        finite(stored.get("r2")),
        int(stored.get("freedom", 0)),
        str(stored.get("noise", "")),
        str(stored.get("reason", "")),
    )


def interval_of(stored: Any) -> Interval | None:
    """An estimate with its ends, where all three are finite."""
    if not isinstance(stored, Mapping):
        return None
    values = [finite(stored.get(end)) for end in ("estimate", "low", "high")]
    known = [value for value in values if value is not None]
    return Interval(*known) if len(known) == 3 else None


def _curve(trial: RunRow) -> ComputeCurve | None:
    step_flops, end = trial.number("step_flops"), (trial.number("train_flops"), trial.number("test_loss_nats"))
    rows = [row for row in trial.run.rows("eval_stats") if row["step"] > 0]
    if step_flops is None or end[0] is None or end[1] is None or not rows:
        return None
    label = f"{architecture_name(trial.cells['architecture'])} {trial.cells['d_model']}×{trial.cells['n_layers']}"
    return ComputeCurve(
        trial.cells["architecture"],
        label,
        trial.seed,
        tuple(float(step_flops * row["step"]) for row in rows),
        tuple(float(row["validation_loss_nats"]) for row in rows),
        (end[0], end[1]),
    )


def predicted(line: Line, x: float) -> float:
    """The perplexity of a fitted line at ``x``."""
    assert line.a is not None
    assert line.b is not None
    return float(line.a * np.power(x, line.b.estimate))
