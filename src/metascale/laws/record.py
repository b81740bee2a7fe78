"""What an analysis found, as files hold it: the only reader and writer of law.json, laws.json and fit.json's records.

Reading is lenient, since a file may come from another version: what a file does not hold is ``None`` or empty.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from metascale.core.canonical import content_id, plain
from metascale.core.columns import LAW_JSON, LAWS_JSON
from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import read_json, write_json
from metascale.laws.families import ONE_AXIS
from metascale.laws.observations import as_json

Trend: TypeAlias = Literal["falls", "rises", "not monotone", "none", "undecided", "unknown"]
"""The answers; "unknown" is that of a file which states none."""
EXPONENTS = ("alpha", "beta")


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the ends of its interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TrendResult:
    """How the loss moves along one scale.

    Attributes:
        exponent: mean of -d ln loss / d ln x over the table, with the interval that decided; of a curve that is not
            monotone, over the stretch that goes against the others. None where the table cannot say.
        turns: where a curve that is not monotone turns: one scale, or both ends of the stretch.
    """

    answer: Trend
    exponent: Interval | None
    level: float
    turns: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Band:
    """A curve with an interval, in the unit of the loss."""

    x: tuple[float, ...]
    median: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, *columns: Sequence[float] | NDArray[np.float64]) -> Band:
        """From x, median, low and high."""
        x, median, low, high = (tuple(np.asarray(column, float).tolist()) for column in columns)
        return cls(x, median, low, high)


@dataclass(frozen=True, slots=True)
class HiddenScale:
    """The largest scale, predicted from the smaller ones alone, beside what was measured there.

    Attributes:
        law: the family that was refitted; baselines: name to prediction.
        log_error: ln(predicted / observed).
    """

    x: float
    law: str
    observed: float
    predicted: float
    low: float | None
    high: float | None
    log_error: float | None
    baselines: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class FamilyRecord:
    """One fitted family; its backtest numbers are means over the cuts (`metascale.laws.backtesting`)."""

    parameters: Mapping[str, Interval]
    objective: float | None = None
    rmse_log: float | None = None
    aicc: float | None = None
    backtest_rmse_log: float | None = None
    backtest_coverage: float | None = None
    converged: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class ComponentRecord:
    """One form of a predictor: its text, share, and fitted parameters with their covariance."""

    name: str
    formula: str
    weight: float
    parameters: tuple[str, ...]
    theta: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    noise: float


@dataclass(frozen=True, slots=True)
class PredictorRecord:
    """What `metascale predict` needs: forms with weights, or, in one scale, the runs that the forecast starts from.

    Attributes:
        link: "log" or "identity", the scale of residuals.
        noise: standard deviation of a run; growth: of the discrepancy, per unit of ln distance; spread: a factor on
            what the forms disagree by and do not know.
        low, high: [d] ends of the table; sites: [k][d] ln scales of the runs, from which distance is counted.
        x, loss: the runs, of a predictor in one scale; reversion, diffusion: of its slope
            (`metascale.laws.forecasting.SlopeModel`); checkpoints: whether they are of one run; error: standard errors
            of ln loss, where they are known.
        trials, flipped, unit: of a share (`metascale.laws.share_analysis`): questions of a new run, whether it counts
            failures, and 100 for per cent; via: what predicts the loss that the share is read off.
        rate_unit, sum_unit: of a law of schedules (`metascale.laws.schedule_predictor`), whose x and loss are those of
            its longest run.
    """

    link: str
    x_names: tuple[str, ...]
    loss_name: str = ""
    noise: float = 0.0
    growth: float = 0.0
    spread: float = 1.0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    sites: tuple[tuple[float, ...], ...] = ()
    components: tuple[ComponentRecord, ...] = ()
    x: tuple[float, ...] = ()
    loss: tuple[float, ...] = ()
    reversion: float = 0.45
    diffusion: float = 3.0
    checkpoints: bool = False
    trials: float | None = None
    flipped: bool = False
    unit: float = 1.0
    via: PredictorRecord | None = None
    error: tuple[float, ...] = ()
    rate_unit: float = 1.0
    sum_unit: float = 1.0


@dataclass(frozen=True, slots=True)
class LawRecord:
    """One fitted law of one series.

    Attributes:
        law: the chosen family; families: every fitted one, the chosen one included.
        trends: by scale; trend: their one answer, "unknown" where the file does not say or the scales differ.
        end_exponent: the exponent at the largest scale, of a law that has no single one.
        x_names: all scales; the first one is the x axis.
        within_scale_log, misfit_log: standard deviations of ln loss between runs of one scale, and of the scales about
            the law.
        condition: condition number of a fit in several scales.
        extrapolation_reason: why there is no ``extrapolation``.
        predictor: what predicts at any scales, with intervals (`metascale.laws.mixture`).
    """

    law: str
    formula: str = ""
    x_names: tuple[str, ...] = ()
    loss_name: str = ""
    level: float = 0.95
    parameters: Mapping[str, Interval] = field(default_factory=dict)
    trend: Trend = "unknown"
    trends: Mapping[str, TrendResult] = field(default_factory=dict)
    end_exponent: Interval | None = None
    verdict: str = ""
    families: Mapping[str, FamilyRecord] = field(default_factory=dict)
    extrapolation: HiddenScale | None = None
    extrapolation_reason: str | None = None
    curve: Band | None = None
    objective: float | None = None
    objective_name: str = ""
    n_observations: int | None = None
    n_scales: int | None = None
    r2_log: float | None = None
    within_scale_log: float | None = None
    misfit_log: float | None = None
    condition: float | None = None
    notes: tuple[str, ...] = ()
    predictor: PredictorRecord | None = None

    @property
    def x_name(self) -> str:
        return self.x_names[0] if self.x_names else ""

    @property
    def exponent(self) -> Interval | None:
        """What goes with the trend: the exponent at the end of the table, of the law, or the mean that decided."""
        if self.end_exponent is not None:
            return self.end_exponent
        decided = self.trends[self.x_name].exponent if self.x_name in self.trends else None
        power = self.families.get("power")
        own = [parameters[name] for parameters in (self.parameters, power.parameters if power else {})
               for name in EXPONENTS if name in parameters][:1]  # fmt: skip
        if decided is not None and (not own or self.trend not in ("falls", "rises") or own[0].low <= 0 <= own[0].high):
            return decided
        return own[0] if own else None

    @property
    def direction(self) -> Trend:
        """The trend; where the file states none, whether the exponent's interval excludes zero."""
        if self.trend != "unknown" or self.exponent is None:
            return self.trend
        return "falls" if self.exponent.low > 0 else "rises" if self.exponent.high < 0 else "none"

    def family_curves(self) -> dict[str, tuple[float, ...]]:
        """The fitted loss of every family but the chosen one at ``curve.x``; empty without a curve.

        Left out: a family with an unknown parameter, and one that this version does not have.
        """
        if self.curve is None:
            return {}
        others = {name: self.families[name] for name in self.families if name != self.law and name in ONE_AXIS}
        found = {name: _losses(name, other.parameters, self.curve.x) for name, other in others.items()}
        return {name: losses for name, losses in found.items() if losses is not None}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> LawRecord:
        """The record that `to_json` wrote."""
        names = stored.get("x_names") or ([stored["x_name"]] if stored.get("x_name") else [])
        hidden = stored.get("extrapolation") or {}
        flat = {**stored, **(stored.get("noise") or {}), "x_names": names}
        found = _read_as(cls, {**flat, "extrapolation": {**hidden, "x": hidden.get("held_out_x")}})
        if not isinstance(found, cls):
            raise ValueError("it is no record of a law")
        return found

    def to_json(self) -> dict[str, Any]:
        """The contract of ``fit.json`` and ``law.json``; a law in one scale has "noise", one in several "x_names"."""
        found: dict[str, Any] = as_json(self)
        noise = {name: found.pop(name) for name in ("within_scale_log", "misfit_log")}
        if self.within_scale_log is not None:
            found["noise"] = noise
        if self.predictor is None:
            del found["predictor"]
        if self.extrapolation is not None:
            found["extrapolation"]["held_out_x"] = found["extrapolation"].pop("x")
        if len(self.x_names) < 2:
            del found["x_names"], found["condition"]
        return {**found, "x_name": self.x_name, "trend": None if self.trend == "unknown" else self.trend}


def write_laws(folder: Path, laws: Mapping[str, LawRecord]) -> None:
    """Write law.json (the first law) and, where there are several series, laws.json; earlier ones are removed.

    Args:
        laws: by series, such as ``method=maml``; empty where there is no law.
    """
    for name in (LAW_JSON, LAWS_JSON):
        (folder / name).unlink(missing_ok=True)
    if laws:
        write_json(folder / LAW_JSON, next(iter(laws.values())).to_json())
    if len(laws) > 1:
        write_json(folder / LAWS_JSON, {series: law.to_json() for series, law in laws.items()})


def read_laws(folder: Path) -> dict[str, LawRecord]:
    """The laws of a study's folder by series; a single one has the empty name. Without law.json there are none.

    Raises:
        CorruptFile: a file is not what `write_laws` writes.
    """
    if not (folder / LAW_JSON).exists():
        return {}
    laws = _read(folder / LAWS_JSON) if (folder / LAWS_JSON).exists() else {}
    stored = laws if len(laws) > 1 else {"": _read(folder / LAW_JSON)}
    try:
        return {series: LawRecord.from_json(law) for series, law in stored.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{folder / (LAWS_JSON if len(laws) > 1 else LAW_JSON)} is damaged: {error!r}") from error


FORMAT, VERSION = "metascale law", 1


def save_record(path: Path | str, records: LawRecord | Mapping[str, LawRecord]) -> None:
    """Write a law, or the laws of groups, to one file: JSON with a version and the hash of what follows.

    Raises:
        InputError: ``path`` is a folder.
    """
    if Path(path).is_dir():
        raise InputError(f"'{path}' is a folder; give a file such as {Path(path) / 'law.json'}", field="path")
    found = {"": records} if isinstance(records, LawRecord) else records
    laws = plain({name: record.to_json() for name, record in found.items()})
    write_json(Path(path), {"format": FORMAT, "version": VERSION, "sha256": content_id(laws, 64), "laws": laws})


def load_records(path: Path | str) -> dict[str, LawRecord]:
    """The laws that `save_record` wrote, by group; a single one has the empty name.

    Raises:
        InputError: there is no such file, it is no file of a law, or one of a later version.
        CorruptFile: it was changed or cut since it was written.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no file '{path}'; `save` of a law or a forecast writes one", field="path")
    try:
        stored = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path} is no JSON, so no law that `save` wrote, or only a part of one: {error}") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        folder = f"; the folder '{path.parent}' can be given instead" if path.name == LAW_JSON else ""
        raise InputError(f"{path} is no law that `save` wrote: its 'format' is not '{FORMAT}'{folder}", field="path")
    if stored.get("version") != VERSION:
        raise InputError(
            f"{path} has version {stored.get('version')!r} of the format; this metascale reads version {VERSION}",
            field="path",
        )  # fmt: skip
    laws = stored.get("laws")
    try:
        if not isinstance(laws, dict) or not laws or content_id(laws, 64) != stored.get("sha256"):
            raise ValueError("its content does not have the hash that was written with it")
        return {str(name): LawRecord.from_json(law) for name, law in laws.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{path} was changed after it was saved: {error}; save the law again") from error


def _read(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise CorruptFile(f"{path} must hold one JSON object; it holds a {type(value).__name__}")
    return value


def _read_as(kind: Any, stored: Any) -> Any:
    """A stored value as a field's type; ``None`` where it is unknown, as an object is that lacks a required number."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return _read_as(parts[0], stored)
    if origin is Literal:
        return stored if stored in parts else "unknown"
    if origin is tuple:
        return tuple(_read_as(parts[0], part) for part in stored or ())
    if isinstance(origin, type) and issubclass(origin, Mapping):
        found = {str(name): _read_as(parts[1], part) for name, part in (stored or {}).items()}
        return {name: part for name, part in found.items() if part is not None}
    if is_dataclass(kind) and isinstance(kind, type):
        return _read_object(kind, stored)
    if kind in (float, int):
        known = isinstance(stored, (int, float)) and not isinstance(stored, bool) and math.isfinite(stored)
        return kind(stored) if known else None
    return None if stored is None else kind(stored)


def _read_object(kind: type[Any], stored: Any) -> Any:
    if not stored:
        return None
    hints, values = get_type_hints(kind), {}
    for part in fields(kind):
        value = _read_as(hints[part.name], stored.get(part.name, "" if hints[part.name] is str else None))
        if value is not None:
            values[part.name] = value
        elif part.default is MISSING and part.default_factory is MISSING:
            if get_origin(hints[part.name]) is not UnionType:
                return None
            values[part.name] = None
    return kind(**values)


def _losses(name: str, parameters: Mapping[str, Interval], x: tuple[float, ...]) -> tuple[float, ...] | None:
    law = ONE_AXIS[name]
    if not set(law.parameters) <= set(parameters):
        return None
    values = np.array([parameters[key].estimate for key in law.parameters])
    coded = np.where(law.positive, np.log(np.maximum(values, 1e-300)), values)
    loss = np.exp(np.clip(law.curve.log_predict(coded[None], np.log(x)[:, None])[0], -700, 700))
    return tuple(loss.tolist()) if np.isfinite(loss).all() else None
