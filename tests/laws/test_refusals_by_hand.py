"""What laws refuse: the whole sentence, and the argument with its value, by which a command names its flag."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metascale as ms
from metascale.core.errors import CorruptFile, InputError
from metascale.laws import analysis
from metascale.laws.backtesting import backtest
from metascale.laws.corners import backtest_corners, choose
from metascale.laws.cost import CostLaw
from metascale.laws.evaluation import refuse_noise
from metascale.laws.families import LAWS, require_law
from metascale.laws.fitting import fit_law, log_scales, require_level, require_scales
from metascale.laws.forecasting import forecast
from metascale.laws.formula import fit_formula
from metascale.laws.groups import crossover, grouped
from metascale.laws.library import law_of
from metascale.laws.likelihood import profile
from metascale.laws.next_plan import read_plan
from metascale.laws.objective import LeastSquares
from metascale.laws.observations import observe
from metascale.laws.predicting import load_saved
from metascale.laws.record import LawRecord, load_records, read_laws, save_record
from metascale.laws.uncertainty import bootstrap

X = np.geomspace(1e3, 1e6, 7)
LOSS = 2 * X**-0.1
N, D = (axis.reshape(-1) for axis in np.meshgrid(np.geomspace(1e6, 1e9, 4), np.geomspace(1e8, 1e11, 4)))
SURFACE = {"N": N, "D": D, "loss": 2 + 4 / N**0.3 + 9 / D**0.3}
TWO = observe(np.column_stack([N, D]), SURFACE["loss"], x_name=("N", "D"))
ONE = observe(X, LOSS)
LINE = fit_law(LAWS["power"], ONE, LeastSquares())
HOURS = CostLaw("hours", np.array([0.0, 1.0, 1.0]), np.zeros((3, 3)), 0.0, 5)
PLAN = {"N": [1e7, 1e8], "loss": [3.0, 2.5]}

Refused = tuple[Callable[[], Any], str, dict[str, Any]]


def of(words: str, **told: Any) -> tuple[str, dict[str, Any]]:
    return words, told


OBSERVED: list[Refused] = [
    (
        lambda: observe([1, 2], [1, 2], noise=[0.1]),
        *of("there are 1 standard errors and 2 losses; there must be one a loss", field="noise"),
    ),
    (
        lambda: observe([1, 2], [1, 2], noise=[0.1, -1]),
        *of("`noise` is -1 in row 2; it is the standard error of a loss: 0 or more, and not all 0", field="noise"),
    ),
    (
        lambda: observe([1, 2], [1, 2], noise=[np.nan, 1]),
        *of("`noise` is nan in row 1; it is the standard error of a loss: 0 or more, and not all 0", field="noise"),
    ),
    (
        lambda: observe([1, 2], [1, 2], noise=[0, 0]),
        *of("`noise` is 0 in every row; it is the standard error of a loss: 0 or more, and not all 0", field="noise"),
    ),
    (
        lambda: observe([1, 2], [1, -2], noise=[0, 1], signed=True),
        *of("`noise` is for losses that are all positive", field="noise"),
    ),
    (
        lambda: observe([[[1]]], [1]),
        *of("'loss' must be a list of numbers and the scales a list or a table with one row a loss"),
    ),
    (
        lambda: observe([1, 2], [[1, 2]], loss_name="L"),
        *of("'L' must be a list of numbers and the scales a list or a table with one row a loss"),
    ),
    (lambda: observe([1, 2, 3], [1, 2]), *of("there are 3 scales and 2 losses; there must be one loss a scale")),
    (lambda: observe([], []), *of("the table is empty; a law needs at least 3 distinct scales")),
    (
        lambda: observe([1, 0, 0], [1, 2, 3], x_name="N"),
        *of(
            "'N' is 0 in row 2 (2 such rows); scaling laws are fitted to logarithms, so only positive numbers "
            "are allowed"
        ),
    ),
    (
        lambda: observe([[1, 2], [3, -1]], [1, 2]),
        *of(
            "'x2' is -1 in row 2 (1 such rows); scaling laws are fitted to logarithms, so only positive numbers "
            "are allowed"
        ),
    ),
    (
        lambda: observe([1, 2, 3], [1, np.nan, np.inf]),
        *of("'loss' is missing or not finite in 2 of 3 rows (first: row 2); only finite numbers are allowed"),
    ),
    (
        lambda: observe([1, 2], [1, np.inf], signed=True),
        *of("'loss' is missing or not finite in 1 of 2 rows (first: row 2); only finite numbers are allowed"),
    ),
    (
        lambda: observe([1e-200, 1], [1, 2]),
        *of("'x' runs from 1e-200 to 1, more than 130 powers of ten; check for mixed units or a misread column"),
    ),
    (
        lambda: observe([1, 2], [1, 2], run=["a"]),
        *of("'run' has 1 labels and the table 2 rows; there must be one label a row"),
    ),
    (
        lambda: observe([1, 2], [1, 2], replicate=[1, 2, 3]),
        *of("'replicate' has 3 labels and the table 2 rows; there must be one label a row"),
    ),
]
FITTED: list[Refused] = [
    (lambda: require_level(1.0), *of("level is 1.0; it must lie between 0 and 1", field="level", value=1.0)),
    (lambda: require_level(0), *of("level is 0; it must lie between 0 and 1", field="level", value=0)),
    (
        lambda: require_law("pwer", "auto"),
        *of(
            "the law 'pwer' is unknown; did you mean 'power'?",
            field="law",
            value="pwer",
            allowed="auto, none, power, power_irreducible, power_shifted, m3, m4, broken, exponential, logistic",
        ),
    ),
    (lambda: log_scales([[1, 2]], 1), *of("scales must have 1 column(s), got an array of shape (1, 2)")),
    (lambda: log_scales([1, 2, 3], 2), *of("scales must have 2 column(s), got an array of shape (1, 3)")),
    (lambda: log_scales([0.0], 1), *of("scales must be positive finite numbers")),
    (lambda: log_scales([np.inf], 1), *of("scales must be positive finite numbers")),
    (
        lambda: require_scales(observe([1, 2, 2], [1, 2, 3]), "power_irreducible"),
        *of("the table has 2 distinct values of 'x' in 3 rows; the law 'power_irreducible' needs at least 4"),
    ),
    (lambda: fit_law(LAWS["power"], TWO), *of("the law 'power' has 1 scale axis(es) and the table 2; give it 1")),
    (
        lambda: fit_law(LAWS["power"], observe([3, 3], [1, 2])),
        *of("all rows have the same x (3); a law needs at least 3 distinct scales"),
    ),
    (
        lambda: fit_law(LAWS["power"], observe([3, 4], [1, 2])),
        *of("the law 'power' has 2 parameters and the table 2 distinct scales; it needs at least 3"),
    ),
    (
        lambda: fit_law(LAWS["chinchilla"], observe(np.column_stack([X, X**0]), LOSS, x_name=("N", "D"))),
        *of("all rows have the same D (1); a law in it cannot be fitted"),
    ),
    (
        lambda: analysis.fit(X, LOSS, bounds={"A": (0, 1)}),
        *of("`bounds` and `fixed` are for a formula or a law of the library", field="law"),
    ),
    (
        lambda: analysis.fit(X, LOSS, fixed={"A": 1.0}),
        *of("`bounds` and `fixed` are for a formula or a law of the library", field="law"),
    ),
    (
        lambda: analysis.fit(np.column_stack([N, D]), SURFACE["loss"], weights="replicate", x_name=("N", "D")),
        *of("weights by replicate variance are for tables with one scale", field="weights"),
    ),
    (
        lambda: analysis.fit(np.column_stack([N, D]), SURFACE["loss"], weights="replicate", law="chinchilla"),
        *of("weights by replicate variance are for tables with one scale", field="weights"),
    ),
    (
        lambda: analysis.fit(np.column_stack([N, D]), SURFACE["loss"], noise=LOSS, x_name=("a", "b")),
        *of(
            "`noise` is for laws in one scale and for chinchilla, kaplan and data_constrained; formulas and "
            "joined forms "
            "weigh every row alike",
            field="noise",
        ),
    ),
    (
        lambda: analysis.analyse(X, LOSS, hold_out="smallest"),
        *of("hold_out 'smallest' is unknown; allowed are: 'largest', None", field="hold_out"),
    ),
    (
        lambda: analysis.analyse(X, LOSS, weights="rows"),
        *of("weights 'rows' is unknown; allowed are: None, 'replicate'", field="weights"),
    ),
    (
        lambda: analysis.analyse(X, LOSS, weights="replicate", noise=LOSS / 10),
        *of("`weights` and `noise` cannot go together: both say what a row weighs", field="weights"),
    ),
    (
        lambda: analysis.analyse(X, LOSS / LOSS.min(), law="logistic", loss_name="acc"),
        *of(
            "'acc' reaches 1.99526; the law 'logistic' is for shares between 0 and 1, such as accuracies (divide "
            "per cent "
            "by 100)"
        ),
    ),
    (
        lambda: analysis.analyse([1, 2], [1, 2]),
        *of("the table has 2 distinct values of 'x' in 2 rows; the law 'power' needs at least 3"),
    ),
    (
        lambda: refuse_noise(0),
        *of(
            "`noise` is for laws in one scale and for chinchilla, kaplan and data_constrained; "
            "formulas and joined forms weigh every row alike",
            field="noise",
        ),
    ),
    (
        lambda: backtest([1, 2, 3], [3, 2, 1], x_name="N"),
        *of("the table has 3 distinct values of 'N'; a backtest needs at least 4 (3 to see and 1 to hide)"),
    ),
    (lambda: backtest(np.column_stack([N, D]), SURFACE["loss"]), *of("a backtest needs a table with one scale axis")),
    (
        lambda: forecast(np.column_stack([N, D]), SURFACE["loss"], [1]),
        *of("a forecast needs a table with one scale; for L(N, D) use metascale.laws.optimum or fit(...).predict"),
    ),
    (
        lambda: forecast([1, 2], [2, 1], [3], x_name="N"),
        *of("the table has 2 distinct values of 'N'; a forecast needs at least 3"),
    ),
    (lambda: profile(LINE, "E"), *of("'power' has no parameter 'E'; it has: A, alpha")),
    (
        lambda: grouped(X, LOSS, ["a"] * 7, law="none"),
        *of("the law 'none' cannot be grouped; allowed are: power, power_irreducible"),
    ),
    (lambda: grouped(X, LOSS, ["a"] * 7), *of("there is 1 group; a comparison of exponents needs at least 2")),
    (lambda: grouped(X, LOSS[:6], ["a", "b"] * 3 + ["a"]), *of("x, loss and group must have the same length")),
    (
        lambda: grouped(X, LOSS, ["a"] * 5 + ["b"] * 2, x_name="N"),
        *of("group 'b' has 2 distinct values of 'N'; the law needs at least 3"),
    ),
    (
        lambda: crossover(bootstrap(LINE, 20), bootstrap(fit_law(LAWS["chinchilla"], TWO), 20)),
        *of("a crossover needs two laws in one scale each"),
    ),
]
FORMULAS: list[Refused] = [
    (
        lambda: law_of("a*x", ("x",)).on(("N", "D")),
        *of("the law 'formula' is in 1 scales (x) and the table has 2 (N, D)", field="law"),
    ),
    (
        lambda: law_of("a*x", ("x",)).on(("a",)),
        *of("'a' is a scale of the table and a parameter of the law 'formula'; rename the column", field="x"),
    ),
    (
        lambda: law_of("a*x + b", ("x",)).constrained({"c": (0, 1)}, None),
        *of("`bound`: the law has no parameter 'c'; it has a, b", field="bound", value="c", allowed="a, b"),
    ),
    (
        lambda: law_of("a*x + b", ("x",)).constrained(None, {"c": 1}),
        *of("`fix`: the law has no parameter 'c'; it has a, b", field="fix", value="c", allowed="a, b"),
    ),
    (
        lambda: law_of("a*x + b", ("x",)).constrained({"a": (2, 1)}, None),
        *of("`bound`: 'a' from 2 to 1 is no range", field="bound"),
    ),
    (
        lambda: law_of("a*x + b", ("x",)).constrained(None, {"a": np.nan}),
        *of("`fix`: 'a' from nan to nan is no range", field="fix"),
    ),
    (
        lambda: law_of("a*x + b", ("x",)).constrained(None, {"a": 1, "b": 1}),
        *of("`fix`: every parameter is fixed; leave one to fit", field="fix"),
    ),
    (
        lambda: fit_formula(law_of("a*x + b", ("x",)), observe([1, 2], [1, 2])),
        *of(
            "the law 'formula' has 2 parameters to fit and the table 2 distinct scales; it needs at least 3",
            field="law",
        ),
    ),
    (
        lambda: choose(ONE, [law_of("a*x + b", ("x",))] * 2),
        *of("two laws are named 'formula'; give each a name of its own", field="laws", value="formula"),
    ),
    (
        lambda: backtest_corners(observe(np.geomspace(1, 8, 4), [4, 3, 2, 1.5])),
        *of("no form can be fitted to a table of 4 rows and 4 distinct scales", field="x"),
    ),
    (
        lambda: ms.fit(SURFACE, x=("N", "D"), y="loss", law="auto", bounds={"a": (0, 1)}),
        *of("`bounds` and `fixed` are for a formula or a law of the library", field="law"),
    ),
    (
        lambda: analysis.fit(np.column_stack([N, D]), SURFACE["loss"], x_name=("a", "b"), fixed={"c": 1.0}),
        *of("`bound` and `fix` are for a named law or a formula, not for auto", field="law"),
    ),
]
ALL = [
    *OBSERVED,
    *FITTED,
    *FORMULAS,
]


@pytest.mark.parametrize(("ask", "words", "told"), ALL, ids=[str(place) for place in range(len(ALL))])
def test_what_is_refused_and_why(ask: Callable[[], Any], words: str, told: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        ask()
    assert str(caught.value) == words
    assert {name: getattr(caught.value, name) for name in ("field", "value", "allowed") if name in told} == told
    assert caught.value.field == told.get("field")


def test_files_of_laws_that_are_refused(tmp_path: Path) -> None:
    def refused(
        ask: Callable[[], Any], words: str, kind: type[Exception] = InputError, field: str | None = None
    ) -> None:
        with pytest.raises(kind) as caught:
            ask()
        assert words in str(caught.value)
        assert getattr(caught.value, "field", None) == field

    law = tmp_path / "law.json"
    refused(lambda: save_record(tmp_path, LawRecord("power")), f"is a folder; give a file such as {law}", field="path")
    refused(lambda: load_records(tmp_path / "no"), "there is no file", field="path")
    law.write_text("{")
    refused(
        lambda: load_records(law),
        "is no JSON, so no law that `save` wrote, or only a part of one",
        CorruptFile,
    )
    law.write_text("[]")
    refused(
        lambda: load_records(law),
        f"its 'format' is not 'metascale law'; the folder '{tmp_path}' can be given instead",
        field="path",
    )
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match=r"its 'format' is not 'metascale law'$"):
        load_records(tmp_path / "other.json")
    law.write_text('{"format": "metascale law", "version": 2}')
    refused(lambda: load_records(law), "has version 2 of the format; this metascale reads version 1", field="path")
    law.write_text('{"format": "metascale law", "version": 1, "laws": {"": {}}, "sha256": "x"}')
    refused(lambda: load_records(law), "was changed after it was saved: its content does not have the hash that was "
            "written with it; save the law again", CorruptFile)  # fmt: skip
    law.write_text("[]")
    refused(lambda: read_laws(tmp_path), "must hold one JSON object; it holds a list", CorruptFile)
    law.write_text('{"law": "power", "parameters": 3}')
    refused(lambda: read_laws(tmp_path), "law.json is damaged: AttributeError(", CorruptFile)
    (tmp_path / "laws.json").write_text('{"a": {"law": "power"}, "b": 3}')
    refused(lambda: read_laws(tmp_path), "laws.json is damaged: ", CorruptFile)
    (tmp_path / "empty").mkdir()
    refused(lambda: load_saved(tmp_path / "empty"), "there is no law in", InputError)
    refused(lambda: read_plan(tmp_path / "no.json"), f"there is no plan '{tmp_path / 'no.json'}'", field="plan")
    (tmp_path / "plan.json").write_text("{}")
    refused(lambda: read_plan(tmp_path / "plan.json"), "is no plan of `metascale next`: 'x'", CorruptFile)
