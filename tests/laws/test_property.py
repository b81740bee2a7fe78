"""Random tables give a finite answer or one clear sentence, never a traceback, a warning or a NaN."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from metascale.core.errors import InputError
from metascale.laws import backtest, fit, forecast

numbers = st.one_of(
    st.floats(min_value=1e-12, max_value=1e12),
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(min_value=-3, max_value=10**9),
    st.sampled_from([1.0, 2.0, 10.0, 100.0]),
)
positive = st.floats(min_value=1e-6, max_value=1e6)


def tables(cell):
    return st.lists(st.tuples(cell, cell), min_size=0, max_size=14)


def finite(record):
    json.dumps(record, allow_nan=False)


def answer_or_refusal(call):
    try:
        return call()
    except InputError:
        return None


# No shrinking: a refit costs milliseconds and the failing table is short enough to read.
quick = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@quick
@given(tables(numbers))
def test_anything_is_answered_or_refused(rows):
    x, loss = [row[0] for row in rows], [row[1] for row in rows]
    found = answer_or_refusal(lambda: fit(x, loss, n_bootstrap=20))
    if found is not None:
        finite(found.to_json())
        assert isinstance(found.summary(), str)


@quick
@given(tables(positive), st.floats(min_value=1.0, max_value=100.0))
def test_positive_tables_forecast_and_backtest(rows, factor):
    x, loss = [row[0] for row in rows], [row[1] for row in rows]
    ahead = answer_or_refusal(lambda: forecast(x, loss, [max(x) * factor]) if x else forecast(x, loss, [1.0]))
    if ahead is not None:
        finite(ahead.to_json())
        assert (ahead.low <= ahead.median).all()
        assert (ahead.median <= ahead.high).all()
    tested = answer_or_refusal(lambda: backtest(x, loss, families=("power", "power_irreducible")))
    if tested is not None:
        finite(tested.to_json())


@quick
@given(st.lists(st.tuples(positive, positive, positive), min_size=0, max_size=12))
def test_surfaces_too(rows):
    table = np.array(rows, float).reshape(-1, 3)
    found = answer_or_refusal(lambda: fit(table[:, :2], table[:, 2], n_bootstrap=20))
    if found is not None:
        finite(found.to_json())


@quick
@given(st.sampled_from(["m3", "m4", "broken", "power_shifted", "exponential"]), tables(positive))
def test_every_family(name, rows):
    x, loss = [row[0] for row in rows], [row[1] for row in rows]
    found = answer_or_refusal(lambda: fit(x, loss, law=name, n_bootstrap=20))
    if found is not None:
        finite(found.to_json())
