"""Every result explains itself: a text, a JSON form and a picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from metascale import laws
from metascale.laws.observations import observe
from metascale.laws.picture import plain_numbers

X = np.repeat(np.geomspace(10, 3000, 8), 2)
SEEDS = np.tile([0, 1], 8)


def losses(floor, seed):
    return (floor + 3 * X**-0.4) * np.exp(0.02 * np.random.default_rng(seed).standard_normal(len(X)))


def bootstrapped(floor, seed):
    return laws.bootstrap(laws.fit_law(laws.LAWS["power_irreducible"], observe(X, losses(floor, seed))), 60)


@pytest.fixture(scope="module")
def runs():
    size, data = (part.ravel() for part in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 3e10, 6)))
    noise = np.exp(0.005 * np.random.default_rng(0).standard_normal(36))
    return size, data, (1.8 + 480 * size**-0.35 + 2100 * data**-0.37) * noise


def one_axis_results():
    found = laws.fit(X, losses(0.5, 0), replicate=SEEDS, n_bootstrap=60)
    twice, group = np.tile(X, 2), np.repeat(["a", "b"], len(X))
    both = np.concatenate([losses(0.5, 0), losses(0.5, 1)])
    return {
        "Analysis": found,
        "LawFit": found.fit,
        "Bootstrap": found.bootstrap,
        "LikelihoodProfile": laws.profile(found.fit, "alpha"),
        "Backtest": laws.backtest(X, losses(0.5, 0), families=["power"]),
        "Forecast": laws.forecast(X, losses(0.5, 0), [5e3, 1e4]),
        "Crossover": laws.crossover(bootstrapped(0.5, 0), bootstrapped(0.3, 1)),
        "Grouped": laws.grouped(twice, both, group, n_bootstrap=20),
    }


def surface_results(runs):
    size, data, loss = runs
    surface = laws.fit(np.column_stack([size, data]), loss, n_bootstrap=50)
    best = surface.optimum([1e20, 1e21])
    return {
        "SurfaceAnalysis": surface,
        "Optimum": best,
        "Allocation": laws.envelope(6 * size * data, size, loss),
        "CrossCheck": laws.cross_check(size, data, loss, best),
    }


def test_every_result_has_a_text_a_json_form_and_a_picture(runs):
    for name, found in {**one_axis_results(), **surface_results(runs)}.items():
        assert type(found).__name__ == name
        json.dumps(found.to_json(), allow_nan=False)
        assert found.summary().strip()
        ax = found.plot()
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert ax.lines
        assert found.plot(ax) is ax


def test_the_cross_check_reports_agreement_and_disagreement(runs):
    size, data, loss = runs
    best = laws.fit(np.column_stack([size, data]), loss, n_bootstrap=100).optimum([1e21])
    found = laws.cross_check(size, data, loss, best)
    assert "isoFLOP parabolas: not applicable" in found.summary()
    assert "agrees with the parametric" in found.summary()
    # Sizes misread by a power make the envelope's exponent disagree.
    wrong = laws.cross_check(size**0.2, data * size**0.8, loss, best)
    assert not wrong.to_json()[0]["agrees"]
    assert "DISAGREES" in wrong.summary()


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (1.6e7, 8e8, ["3\\times10^{7}", "10^{8}", "3\\times10^{8}"]),
        (1.6, 4.5, ["2", "3", "4"]),
    ],
)
def test_a_short_logarithmic_axis_has_labels_apart(low: float, high: float, labels: list[str]) -> None:
    """At 1 and 3 times powers of 10 over one to three decades, and plain numbers where they are small."""
    from matplotlib.figure import Figure

    figure = Figure()
    ax = figure.subplots()
    ax.set(xscale="log", xlim=(low, high))
    plain_numbers(ax.xaxis)
    figure.canvas.draw()
    shown = [*ax.xaxis.get_majorticklabels(), *ax.xaxis.get_minorticklabels()]
    inside = sorted((text.get_position()[0], text.get_text()) for text in shown)
    texts = [text for x, text in inside if low <= x <= high and text]
    assert len(texts) == len(labels)
    for text, label in zip(texts, labels, strict=True):
        assert label in text


def test_the_gallery_shows_what_its_code_draws():
    page = (Path(__file__).parents[2] / "docs" / "laws.md").read_text(encoding="utf-8")
    shown = re.findall(r"\(images/(\w+\.png)\)", page)
    assert shown == re.findall(r'savefig\("(\w+\.png)"', page)
    assert all((Path(__file__).parents[2] / "docs" / "images" / name).is_file() for name in shown)
