"""Which run next: a table, however small, candidate runs with a cost each, a budget, and where the loss matters.

`next_runs` picks the runs that leave least of the forecast's variance at the target (`metascale.laws.picking`, on the
joint distribution of `metascale.laws.belief`); `follow` runs such a plan one after another. The question is that of
Li et al. 2026 (arXiv 2604.22753).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from metascale.core.errors import CorruptFile, InputError
from metascale.core.files import read_json, write_json
from metascale.core.notebook import Shown
from metascale.laws.belief import Belief, believe
from metascale.laws.candidates import MOST_CANDIDATES, among, as_table, costs, mean_at, runs_of, scales_of
from metascale.laws.observations import Array, Integers, Mask, as_json
from metascale.laws.picking import Picks, pick
from metascale.laws.picture import BLUE, GREY, axis_or_new, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHEAP_FIRST = 4  # times the scales and one: with fewer runs known, `follow` begins a plan with its cheapest runs
REFIT_SHARE = 0.15  # of the runs known, after which `follow` plans anew
_SHOWN = 12  # rows of a plan in a summary


@dataclass(frozen=True)
class NextRuns(Shown):
    """A plan, and what it promises.

    Attributes:
        candidate: [k] rows of the candidates, in the order in which to run them; x: [k, d]; cost: [k].
        worth: [k] the share of the target's variance (mean over its rows) that each run takes, given those before it.
        width: [k] half the interval at the target after each run, noise of a run left out: ln loss, or the loss where
            losses are not all positive (``unit``); root mean square over the target's rows. width_now: before them.
        low, median, high: [k] what each run is expected to give.
        target: [m, d]; now: [3, m] median, low, high of one new run there; after_low, after_high: [m] where the ends
            are expected to lie after the plan, about today's median.
        n_runs: rows of the table that it was made from.
    """

    x_names: tuple[str, ...]
    loss_name: str
    candidate: tuple[int, ...]
    x: Array
    cost: Array
    worth: Array
    width: Array
    width_now: float
    median: Array
    low: Array
    high: Array
    target: Array
    now: Array
    after_low: Array
    after_high: Array
    budget: float
    level: float
    unit: str
    n_runs: int
    n_candidates: int
    noise: float
    notes: tuple[str, ...] = ()

    @property
    def spent(self) -> float:
        return float(self.cost.sum())

    @property
    def width_after(self) -> float:
        return float(self.width[-1]) if len(self.width) else self.width_now

    def rows(self) -> list[dict[str, Any]]:
        """One row a run: scales, cost, worth, worth for a cost, interval left, expected loss."""
        told = self.n_runs > 0
        return [
            {
                **{name: float(self.x[k, j]) for j, name in enumerate(self.x_names)},
                "cost": float(self.cost[k]),
                "cost_so_far": float(self.cost[: k + 1].sum()),
                "worth": float(self.worth[k]),
                "worth_per_cost": float(self.worth[k] / self.cost[k]),
                "width_left": float(self.width[k]),
                **({"expected": float(self.median[k]), "low": float(self.low[k]), "high": float(self.high[k])}
                   if told else {}),
                "candidate": self.candidate[k],
            }
            for k in range(len(self.candidate))
        ]  # fmt: skip

    def summary(self) -> str:
        percent, told = f"{100 * self.level:g} %", self.n_runs > 0
        lines = [
            f"{len(self.candidate)} of {self.n_candidates} candidates for {self.spent:.4g} of {self.budget:.4g}; "
            + (f"{percent} interval of the law at the target: {half_width(self.width_now, self.unit)} now, "
             f"{half_width(self.width_after, self.unit)} expected after them" if told else
             "no interval is told, since no run is known"),
            "",
            "".join(f"{name[:18]:>20}" for name in self.x_names)
            + f"{'cost':>12}{'so far':>12}{'worth':>9}" + (f"{'then':>10}{'expected':>12}" if told else ""),
        ]  # fmt: skip
        for row in self.rows()[:_SHOWN]:
            expected = f"{half_width(row['width_left'], self.unit):>10}{row['expected']:>12.5g}" if told else ""
            lines.append(
                "".join(f"{row[name]:>20.6g}" for name in self.x_names)
                + f"{row['cost']:>12.4g}{row['cost_so_far']:>12.4g}{100 * row['worth']:>7.1f} %{expected}"
            )
        if len(self.candidate) > _SHOWN:
            lines.append(f"{'':>4}{len(self.candidate) - _SHOWN} more (plan.csv and the JSON form have all)")
        if told:
            lines += ["", f"one new run at the target ({percent} interval; with the noise of a run, "
                      f"{half_width(self.noise, self.unit)})"]  # fmt: skip
            for k in range(min(len(self.target), _SHOWN)):
                where = ", ".join(f"{name} {self.target[k, j]:.4g}" for j, name in enumerate(self.x_names))
                lines.append(
                    f"  {where}: {self.loss_name} {self.now[0, k]:.5g}, now {self.now[1, k]:.5g} to "
                    f"{self.now[2, k]:.5g}, expected after the plan {self.after_low[k]:.5g} to {self.after_high[k]:.5g}"
                )
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Half the interval of the law at the target against what is spent, one point a planned run."""
        ax = axis_or_new(ax)
        spent, left = np.concatenate([[0.0], np.cumsum(self.cost)]), np.concatenate([[self.width_now], self.width])
        if not self.n_runs:
            spent, left = spent[1:], left[1:]
        ax.plot(spent, left, "-o", ms=4, color=BLUE, drawstyle="steps-post", label="expected after each planned run")
        ax.set_xlim(0, self.budget)
        name = f"half the {100 * self.level:g} % interval at the target ({self.unit})"
        return finish(ax, "cost so far", name, x_scale="linear")

    def to_json(self) -> dict[str, Any]:
        return {**as_json(self), "runs": self.rows(), "width_after": self.width_after, "spent": self.spent}

    def save(self, path: Path | str) -> None:
        """The plan as JSON, for `read_plan` and `outcome`."""
        write_json(Path(path), self.to_json())

    def outcome(self, table: Any, *, y: str | None = None) -> Outcome:
        """What really came: the plan beside the grown table.

        Raises:
            InputError: the table lacks a column, or has no row.
        """
        x, loss, *_ = runs_of(table, self.x_names, y or self.loss_name.removeprefix("ln "))
        if not len(x):
            raise InputError("the table has no row; the outcome of a plan needs its runs", field="table")
        region = np.concatenate([x, self.x, self.target])
        belief = believe(self.x_names, x, loss, region)
        found, width, _ = _forecast(belief, self.target, self.level)
        observed = np.array([mean_at(x, loss, row) for row in self.x])
        return Outcome(self, observed, found, width)


@dataclass(frozen=True)
class Outcome(Shown):
    """A plan and what came of it.

    Attributes:
        observed: [k] loss of every planned run (mean over repeats), NaN where it is not in the table.
        now: [3, m] the forecast at the target from the grown table; width: half its interval without a run's noise.
    """

    plan: NextRuns
    observed: Array
    now: Array
    width: float

    @property
    def inside(self) -> tuple[int, int]:
        """How many runs that came lie in their expected interval, and how many came."""
        came = np.isfinite(self.observed)
        held = came & (self.observed >= self.plan.low) & (self.observed <= self.plan.high)
        return int(held.sum()), int(came.sum())

    def to_json(self) -> dict[str, Any]:
        plan, (inside, came) = self.plan, self.inside
        seen = [None if np.isnan(value) else float(value) for value in self.observed]
        return {
            "runs": [{**row, "observed": value} for row, value in zip(plan.rows(), seen, strict=True)],
            "came": came, "inside": inside if plan.n_runs else None, "width_before": plan.width_now,
            "width_promised": plan.width_after, "width_now": self.width, "now": as_json(self.now),
            "before": as_json(plan.now), "target": as_json(plan.target),
        }  # fmt: skip

    def summary(self) -> str:
        plan, (inside, came) = self.plan, self.inside
        percent = f"{100 * plan.level:g} %"
        lines = [
            f"{came} of {len(plan.candidate)} planned runs are in the table"
            + (f"; {inside} of them inside their {percent} interval" if plan.n_runs and came else ""),
            f"{percent} interval of the law at the target: "
            + (
                f"{half_width(plan.width_now, plan.unit)} before, {half_width(plan.width_after, plan.unit)} promised, "
                if plan.n_runs
                else ""
            )
            + f"{half_width(self.width, plan.unit)} now",
        ]
        for k in range(min(len(plan.target), _SHOWN)):
            where = ", ".join(f"{name} {plan.target[k, j]:.4g}" for j, name in enumerate(plan.x_names))
            before = (
                f"{plan.now[0, k]:.5g} ({plan.now[1, k]:.5g} to {plan.now[2, k]:.5g}) before, " if plan.n_runs else ""
            )
            lines.append(f"  {where}: {plan.loss_name} {before}{self.now[0, k]:.5g} ({self.now[1, k]:.5g} to "
                         f"{self.now[2, k]:.5g}) now")  # fmt: skip
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None) -> Axes:
        """What the planned runs gave against what was expected of them, with their intervals."""
        ax, plan, came = axis_or_new(ax), self.plan, np.isfinite(self.observed)
        expected, seen = plan.median[came], self.observed[came]
        if came.any():
            reach = np.abs(np.array([expected - plan.low[came], plan.high[came] - expected]))
            ends = [float(min(expected.min(), seen.min())), float(max(expected.max(), seen.max()))]
            ax.plot(ends, ends, color=GREY, lw=1)
            ax.errorbar(expected, seen, xerr=reach, fmt="o", ms=4, color=BLUE, label=f"runs ({100 * plan.level:g} %)")
        axes: Literal["log", "linear"] = "log" if plan.unit == "ln loss" else "linear"
        return finish(ax, f"expected {plan.loss_name}", f"observed {plan.loss_name}", x_scale=axes, y_scale=axes)


def half_width(value: float, unit: str) -> str:
    """A half-width; where it is of ln loss in per cent of the loss, or, past 100 %, as the factor either way."""
    if unit != "ln loss":
        return f"±{value:.3g}"
    factor = float(np.exp(min(value, 50.0)))
    return f"±{100 * (factor - 1):.3g} %" if factor <= 2 else f"×/÷ {factor:.3g}"


def next_runs(
    table: Any, candidates: Any, cost: str | ArrayLike, target: Any, budget: float, *, x: Sequence[str] | None = None,
    y: str | None = None, batch: int | None = None, level: float = 0.90, repeats: bool = False,
) -> NextRuns:  # fmt: skip
    """Choose the runs that shrink the forecast's error at the target most for their cost.

    Args:
        table: the runs so far (what `read_table` takes); None, or no rows: start from nothing.
        candidates: what could be run: the same kinds of table, or scales by name, each a list of values, of which
            every combination is a candidate (`grid`).
        cost: a formula in columns of the candidates, such as "6*N*D", the name of a column, or a number for each.
        target: where the loss matters: one row of scales by name, a list of such, or a table.
        budget: in the unit of the cost; the plan never exceeds it.
        x: the scales; by default those that the target names. y: the loss; guessed where only one can be meant.
        batch: at most so many runs, chosen to be run at once; without, as many as the budget holds.
        repeats: whether a run that is in the table may be run again.

    Raises:
        InputError: a column is missing, a number is not positive, or no candidate is within the budget.
    """
    asked = Question.of(table, candidates, cost, target, budget, x=x, y=y, batch=batch, level=level, repeats=repeats)
    return asked.answer()


@dataclass(frozen=True)
class Question:
    """What `next_runs` was asked, checked: arrays in the order of ``x_names``; ``free``: candidates not yet run."""

    x_names: tuple[str, ...]
    loss_name: str
    x: Array
    loss: Array
    candidates: Array
    cost: Array
    target: Array
    budget: float
    batch: int | None
    level: float
    free: Mask
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, table: Any, candidates: Any, cost: str | ArrayLike, target: Any, budget: float, *,
        x: Sequence[str] | None, y: str | None, batch: int | None, level: float, repeats: bool,
    ) -> Question:  # fmt: skip
        if not (np.isfinite(budget) and budget > 0):
            raise InputError(f"budget is {budget}; it must be a positive number", field="budget", value=budget)
        if batch is not None and batch < 1:
            raise InputError(f"batch is {batch}; it must be at least 1", field="batch", value=batch)
        if not 0 < level < 1:
            raise InputError(f"level is {level}; it must lie between 0 and 1", field="level", value=level)
        wanted = as_table(target, "target")
        names = tuple(x) if x else wanted.names
        aim = scales_of(wanted, names, "target")
        pool = as_table(candidates, "candidates")
        rows = scales_of(pool, names, "candidates")
        if len(rows) > MOST_CANDIDATES:
            raise InputError(f"there are {len(rows)} candidates; at most {MOST_CANDIDATES} can be compared",
                             field="candidates")  # fmt: skip
        prices = costs(pool, cost)
        known, loss, loss_name, pooled = runs_of(table, names, y)
        notes = list(pooled)
        free = np.ones(len(rows), bool)
        if len(known) and not repeats:
            free = ~among(rows, known)
            if not free.all():
                notes.append(f"{int((~free).sum())} of {len(rows)} candidates in the table already: not run again")
        affordable = free & (prices <= budget)
        if not affordable.any():
            cheapest = f"the cheapest costs {prices[free].min():.4g}" if free.any() else "all are in the table"
            raise InputError(f"no candidate is within the budget of {budget:.4g}: {cheapest}", field="budget")
        return cls(names, loss_name, known, loss, rows, prices, aim, float(budget), batch, level, free, tuple(notes))

    @property
    def region(self) -> Array:
        return np.concatenate([self.candidates, self.target, self.x])

    def plan(self, before: Belief | None = None) -> tuple[Belief, Picks]:
        belief = believe(self.x_names, self.x, self.loss, self.region, before)
        n, m = len(self.candidates), len(self.target)
        joint = belief.joint(np.concatenate([self.candidates, self.target]))
        return belief, pick(joint, self.cost, np.arange(n, n + m), self.budget, most=self.batch, free=self.free)

    def answer(self) -> NextRuns:
        belief, picks = self.plan()
        notes = list(self.notes)
        if not len(self.x):
            notes.append("no run is known yet: the plan, and any width in its JSON form, rests on weak priors of the "
                         "forms alone; plan again after the first few runs")  # fmt: skip
        reach = float(ndtri((1 + self.level) / 2))
        index = picks.index
        at = belief.joint(self.candidates[index])
        expected = belief.losses(at.mean, np.sqrt(picks.predictive), self.level)
        now, width, mean = _forecast(belief, self.target, self.level)
        after = belief.losses(mean, np.sqrt(picks.targets + belief.noise**2), self.level)
        falls = -np.diff(np.concatenate([[picks.before], picks.left]))
        return NextRuns(
            self.x_names, self.loss_name, tuple(int(k) for k in index), self.candidates[index], picks.cost,
            falls / picks.before, reach * np.sqrt(picks.left), width,
            expected[0], expected[1], expected[2], self.target, now, after[1], after[2],
            self.budget, self.level, "ln loss" if belief.link == "log" else "loss", len(self.x), len(self.candidates),
            reach * belief.noise, tuple(notes),
        )  # fmt: skip


def follow(
    measure: Callable[[Array], float], candidates: Any, cost: str | ArrayLike, target: Any, budget: float, *,
    table: Any = None, x: Sequence[str] | None = None, y: str | None = None, share: float = REFIT_SHARE,
    level: float = 0.90,
) -> tuple[Array, Array, Belief]:  # fmt: skip
    """Run a plan: ``measure(row of scales)`` gives a run's loss; plan anew after every few, until the budget is spent.

    Args:
        share: of the runs known, after which the plan is made anew; at least two runs, at first the scales and two.
            Of a plan made from few runs the cheapest come first.

    Returns:
        Rows of the candidates that were run [k], their losses [k], and the belief at the end.
    """
    asked = Question.of(table, candidates, cost, target, budget, x=x, y=y, batch=None, level=level, repeats=False)
    chosen: list[int] = []
    seen: list[float] = []
    belief, picks = asked.plan()
    while len(picks.index):
        new = _first_of(picks, len(asked.x), len(asked.x_names), share)
        came = [float(measure(asked.candidates[k])) for k in new]
        free = asked.free.copy()
        free[new] = False
        asked = replace(
            asked, x=np.concatenate([asked.x, asked.candidates[new]]), loss=np.concatenate([asked.loss, came]),
            free=free, budget=asked.budget - float(asked.cost[new].sum()),
        )  # fmt: skip
        chosen += new.tolist()
        seen += came
        belief, picks = asked.plan(belief)
    return np.array(chosen, dtype=np.intp), np.array(seen), belief


def _first_of(picks: Picks, known: int, n_scales: int, share: float) -> Integers:
    """What of a plan is run before it is made anew: its most telling runs, and while few are known its cheapest.

    A plan from few runs rests on the priors; where these are wrong, cheap runs show it before expensive ones are spent.
    """
    few = known < CHEAP_FIRST * (n_scales + 1)
    order = picks.index[np.argsort(picks.cost, kind="stable")] if few else picks.index
    return order[: max(2, int(share * known)) if known else n_scales + 2]


def _forecast(belief: Belief, target: Array, level: float) -> tuple[Array, float, Array]:
    """[3, m] of one new run, half the law's own interval (root mean square), and the mean on the residuals' scale."""
    at = belief.joint(target)
    variance = at.diagonal()
    losses_ = belief.losses(at.mean, np.sqrt(variance + at.noise2), level)
    return losses_, float(ndtri((1 + level) / 2)) * float(np.sqrt(variance.mean())), at.mean


def read_plan(path: Path | str) -> NextRuns:
    """A plan that `NextRuns.save` wrote.

    Raises:
        InputError: there is no such file. CorruptFile: it is no plan.
    """
    if not Path(path).is_file():
        raise InputError(f"there is no plan '{path}'", field="plan")
    stored = read_json(Path(path))
    try:
        arrays = ("x", "cost", "worth", "width", "median", "low", "high", "target", "now", "after_low", "after_high")
        extra = {"runs", "width_after", "spent"}
        kept = {name: value for name, value in stored.items() if name not in extra}
        kept.update({name: np.array(kept[name], float) for name in arrays})
        kept.update({name: tuple(kept[name]) for name in ("x_names", "candidate", "notes")})
        return NextRuns(**kept)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptFile(f"{path} is no plan of `metascale next`: {error}") from error
