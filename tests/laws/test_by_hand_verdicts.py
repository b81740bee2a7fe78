"""What is said of a table and which law is chosen, by hand: in one scale, in model size and data, in any number."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from metascale.core.errors import InputError
from metascale.laws import LAWS, fit_law, scales, surface_fit, verdict
from metascale.laws.objective import LeastSquares
from metascale.laws.observations import observe
from metascale.laws.record import Band, FamilyRecord, Interval, LawRecord, TrendResult
from metascale.laws.scales import ScalesAnalysis, any_scales, pictures_of, slice_along
from metascale.laws.surface_fit import SurfaceAnalysis, _family, _fit_notes, describe_row, influence_notes
from metascale.laws.uncertainty import Bootstrap, Noise
from metascale.laws.verdict import (
    allowed_words,
    axis_trends,
    axis_words,
    caveats,
    choose,
    describes,
    end_exponent,
    exponent_words,
    flat_words,
    is_score,
    misfit_notes,
    overall,
    sentence,
    shape_words,
    shared_errors,
    trend_of,
    turn_words,
)

A = np.array
NAMED = SimpleNamespace(x_names=("N",), loss_name="loss")
QUIET, LOUD = Noise(0.04, 0.0, 3, True), Noise(0.04, 0.09, 3, True)


def trend(answer, *ends, turns=(), level=0.95):
    return TrendResult(answer, Interval(*ends) if ends else None, level, turns)


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("acc", True), ("val_acc", True), ("Accuracy", True), ("test/score", True), ("pass-rate", True), ("pass@1", True),  # noqa: E501
        ("f1", True), ("AUC", True), ("bleu", True), ("reward", True), ("exact match", True), ("acc_loss", False),
        ("loss", False), ("vacc", False), ("accurate", False),
    ],
)  # fmt: skip
def test_names_that_say_that_more_is_better(name, score):
    assert is_score(name) is score


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (("falls",), "falls"), (("falls", "falls"), "falls"), (("falls", "none"), "falls"), (("undecided", "rises"), "rises"),  # noqa: E501
        (("none", "undecided"), "undecided"), (("falls", "rises"), "unknown"), (("falls", "none", "undecided"), "falls"),  # noqa: E501
        (("falls", "not monotone"), "unknown"), (("none", "none"), "none"),
    ],
)  # fmt: skip
def test_one_answer_for_several_scales(answers, said):
    assert overall({str(k): trend(answer) for k, answer in enumerate(answers)}) == said


# ---------------------------------------------------------------------------------------------- words


def test_an_exponent_in_words():
    one = trend("falls", 0.5, 0.25, 0.75, level=0.9)
    assert exponent_words(one) == "mean exponent 0.5, 90 % interval 0.25 to 0.75"
    assert exponent_words(one, True) == "growing with mean exponent -0.5, 90 % interval -0.75 to -0.25"
    assert exponent_words(one, True, True) == "its odds growing with mean exponent -0.5, 90 % interval -0.75 to -0.25"
    assert exponent_words(one, False, True) == "its odds growing with mean exponent 0.5, 90 % interval 0.25 to 0.75"


def test_a_turn_in_words():
    assert turn_words(trend("not monotone", 0.5, 0.25, 0.75, turns=(1000.0,)), "N") == (
        "turns near N = 1e+03 (exponent at the largest N 0.5, 95 % interval 0.25 to 0.75)"
    )  # fmt: skip
    for estimate, verb in ((-0.5, "rises"), (0.5, "falls"), (0.0, "falls")):
        assert turn_words(trend("not monotone", estimate, -0.75, 0.75, turns=(10.0, 20.0)), "N") == (
            f"{verb} from N = 10 to 20, against the rest (exponent there {estimate:g}, 95 % interval -0.75 to 0.75)"
        )  # fmt: skip


def test_what_is_still_possible_in_words():
    """With an exponent of log10 2 the loss halves in a decade; of minus that a score doubles."""
    two = float(np.log10(2))
    assert allowed_words(trend("none", 0.0, -1.0, two), "N", False) == (
        "a fall of 50 % per factor of 10 of N (19 % per doubling)"
    )  # fmt: skip
    assert allowed_words(trend("none", 0.0, -two, 1.0), "N", True) == (
        "a rise of 100 % per factor of 10 of N (23 % per doubling)"
    )  # fmt: skip
    assert allowed_words(trend("none", -0.2, -0.3, -0.1), "N", False).startswith("a fall of 0 %")
    none = trend("none", 0.0, -two, two)
    words = f"mean exponent 0, 95 % interval {-two:.4g} to {two:.4g}"
    assert flat_words(none, "N", "loss") == (
        f"No trend: loss does not change with N beyond its noise ({words}: at most a fall of 50 % per factor of 10 of N "  # noqa: E501
        "(19 % per doubling))."
    )
    undecided = trend("undecided", 0.0, -two, two)
    assert flat_words(undecided, "N", "loss") == (
        f"Undecided: loss may or may not fall with N ({words}): a fall of 50 % per factor of 10 of N (19 % per doubling) is "  # noqa: E501
        "still possible."
    )
    assert "may or may not rise with N (growing with mean exponent" in flat_words(undecided, "N", "acc", True)
    assert "(its odds growing" in flat_words(undecided, "N", "acc", True, True)
    assert flat_words(trend("undecided"), "N", "loss") == "Undecided: too few rows to say what loss does with N."


@pytest.mark.parametrize(
    ("answer", "higher", "said"),
    [
        ("falls", False, "loss falls with N (W; shape)."),
        ("rises", False, "loss RISES with N (W; shape): more N made it worse here."),
        ("rises", True, "loss rises with N (W; shape)."),
        ("falls", True, "loss FALLS with N (W; shape): more N made it worse here."),
    ],
)
def test_the_verdict_on_a_trend(answer, higher, said):
    one = trend(answer, 0.5, 0.25, 0.75)
    words = exponent_words(one, higher, False)
    assert sentence(NAMED, one, "; shape", higher=higher, share=False, noise=LOUD) == said.replace("W", words)


def test_the_verdict_without_a_trend():
    def said(one, noise, **more):
        return sentence(NAMED, one, "; shape", **{"higher": False, "share": False, **more}, noise=noise)

    turned = trend("not monotone", 0.5, 0.25, 0.75, turns=(10.0,))
    assert said(turned, LOUD) == f"loss is not monotone in N: it {turn_words(turned, 'N')}; shape."
    jagged = (" loss differs from one N to the next by more than its replicates do (in ln loss 0.3 against 0.04), in no one "  # noqa: E501
              "direction.")  # fmt: skip
    for answer in ("none", "undecided"):
        flat = trend(answer, 0.0, -0.1, 0.1)
        assert said(flat, LOUD) == flat_words(flat, "N", "loss") + jagged.replace("0.04", "0.2")
        for noise in (QUIET, Noise(0.09, 0.09, 3, True), Noise(0.04, 0.09, 3, False)):
            assert said(flat, noise) == flat_words(flat, "N", "loss")
    assert said(trend("none", 0.0, -0.1, 0.1), QUIET, higher=True, share=True).count("its odds growing") == 1


@pytest.mark.parametrize(
    ("answer", "higher", "said"),
    [
        ("falls", False, "falls with N (mean exponent 0.5, 95 % interval 0.25 to 0.75)"),
        ("rises", False, "RISES with N (mean exponent 0.5, 95 % interval 0.25 to 0.75)"),
        ("rises", True, "rises with N (growing with mean exponent -0.5, 95 % interval -0.75 to -0.25)"),
        ("falls", True, "FALLS with N (growing with mean exponent -0.5, 95 % interval -0.75 to -0.25)"),
        ("none", False, "shows no trend in N (mean exponent 0.5, 95 % interval 0.25 to 0.75)"),
        ("undecided", False, "is undecided in N (mean exponent 0.5, 95 % interval 0.25 to 0.75: a fall of 82.2 % per factor "  # noqa: E501
                             "of 10 of N (41 % per doubling) is still possible)"),
        ("not monotone", False, "is not monotone in N: it turns near N = 10 (exponent at the largest N 0.5, 95 % interval "  # noqa: E501
                                "0.25 to 0.75)"),
    ],
)  # fmt: skip
def test_one_of_several_scales_in_words(answer, higher, said):
    assert axis_words("N", trend(answer, 0.5, 0.25, 0.75, turns=(10.0,)), higher) == said
    assert axis_words("N", trend(answer), higher) == "cannot be told apart along N, which moves with the other scales"


PARTS = {"E": {"estimate": 1.0, "low": 0.9, "high": 1.1}, "alpha": {"estimate": 0.5, "low": 0.4, "high": 0.6}}


def test_the_law_of_the_headline_in_words():
    floor = "; towards an irreducible 1 (0.9 to 1.1) with exponent 0.5 (0.4 to 0.6)"
    assert shape_words("power_irreducible", {"power_irreducible": PARTS}, None, True, []) == floor
    assert shape_words("power", {"power": {"alpha": PARTS["alpha"]}}, None, True, []) == ""
    assert shape_words("none", {"none": {"E": PARTS["E"]}}, None, True, ["x"]) == ""
    end = "; no single exponent: power shifted, with exponent 0.25 (0.2 to 0.3) at the end of the table"
    assert shape_words("power_shifted", {"power_shifted": PARTS}, Interval(0.25, 0.2, 0.3), True, []) == end
    missed = "; no law of ours describes it"
    assert shape_words("power_irreducible", {"power_irreducible": PARTS}, None, False, []) == floor + missed
    assert shape_words("none", {"none": {}}, None, False, ["broken"]) == "; only broken describes it"
    assert shape_words("none", {"none": {}}, None, False, ["a", "b"]) == "; only a and b describe it"
    assert shape_words("logistic", {"logistic": PARTS}, None, False, ["broken"]) == (
        "; a logistic law without a floor of chance does not describe it"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("noise", "said"),
    [
        (Noise(1e-6, 1.01e-4, 3, True), True), (Noise(1e-6, 0.99e-4, 3, True), False),  # 1 % of ln loss
        (Noise(1e-4, 9.01e-4, 3, True), True), (Noise(1e-4, 8.99e-4, 3, True), False),  # three times the seeds
        (Noise(1e-4, 9.01e-4, 3, False), False),
    ],
)  # fmt: skip
def test_a_misfit_that_matters_is_noted(noise, said):
    words = (
        f"the law does not describe this table: scales miss it by {noise.between**0.5:.3g} in ln loss, runs of one scale "  # noqa: E501
        f"differ by {noise.within**0.5:.3g}; something else varies with it, or the curve has another shape"
    )
    assert misfit_notes(noise) == ([words] if said else [])


def test_how_far_the_parameters_can_be_trusted():
    def family(*errors):
        return SimpleNamespace(cut_errors=errors)

    def notes(families, n=10, n_scales=5, noise=QUIET, chosen="power"):
        fit = SimpleNamespace(observations=SimpleNamespace(n=n, n_scales=n_scales))
        return caveats(families, chosen, fit, noise)

    families = {"power": family(0.2, 0.4), "broken": family(0.1, 0.1), "none": family(0.3, None)}
    told = ("over the cuts that both were fitted to, 'broken' predicts the hidden largest scales with 0.33 times the error of "  # noqa: E501
            "the chosen 'power'")  # fmt: skip
    assert notes(families) == [told]
    assert notes({"power": family(0.2), "none": family(0.179)})[0].startswith("over the cuts")
    assert notes({"power": family(0.2), "none": family(0.181)}) == []
    assert notes({"power": family(0.2), "none": family(0.0)}) == []
    assert notes(families, chosen="none", noise=Noise(1e-4, 1.0, 3, True)) == []
    assert notes({"power": family(0.2)}, noise=Noise(1e-4, 1.0, 3, True)) == misfit_notes(Noise(1e-4, 1.0, 3, True))
    (one,) = notes({"power": family(0.2)}, n=5)
    assert one == (
        "one run per scale: the spread between seeds is unknown, and the intervals reflect only the scatter about the law; "  # noqa: E501
        "with more seeds a small exponent can be distinguished from chance"
    )
    assert notes({"power": family(0.2)}, n_scales=4) == [
        "only 4 distinct scales: too few to separate an irreducible loss from a slope"
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------- the choice


def fitted(name, *, aicc=0.0, at_bound=(), converged=True, n_scales=8, described=True):
    law = LAWS.get(name) or SimpleNamespace(name=name, n_parameters=2)
    table = SimpleNamespace(n_scales=n_scales, log_x=np.zeros((8, 1)), log_loss=None, scale=None)
    return SimpleNamespace(law=law, observations=table, aicc=aicc, at_bound=at_bound, converged=converged, rmse_log=0.05,  # noqa: E501
                           described=described)  # fmt: skip


def chosen(monkeypatch, *fits, answer="falls", bends=False, errors=None):
    asked = []
    monkeypatch.setattr(verdict, "describes", lambda fit: fit.described)
    monkeypatch.setattr(verdict, "bends_upward", lambda *given: asked.append(given[3]) or bends)
    errors = errors or {}
    families = {fit.law.name: SimpleNamespace(fit=fit, cut_errors=errors.get(fit.law.name, ())) for fit in fits}
    families["none"] = SimpleNamespace(fit=None, cut_errors=())
    found = choose(families, trend(answer, 0.5, 0.25, 0.75, level=0.9))
    assert set(asked) <= {0.9}
    return found


def test_the_law_of_a_table_that_has_no_trend(monkeypatch):
    power = fitted("power")
    for answer in ("none", "undecided", "unknown", "not monotone"):
        assert chosen(monkeypatch, power, answer=answer) == "none"
        assert chosen(monkeypatch, power, fitted("broken"), answer=answer) == (
            "broken" if answer == "not monotone" else "none"
        )  # fmt: skip
    assert chosen(monkeypatch, power, fitted("broken", described=False), answer="not monotone") == "none"


def test_a_floor_is_chosen_where_ln_loss_bends(monkeypatch):
    power, floor = fitted("power"), fitted("power_irreducible")
    assert chosen(monkeypatch, power, floor) == "power"
    assert chosen(monkeypatch, power, floor, bends=True) == "power_irreducible"
    assert chosen(monkeypatch, power, floor, bends=True, answer="rises") == "power_irreducible"
    assert chosen(monkeypatch, power, bends=True) == "power"
    assert chosen(monkeypatch, fitted("power", n_scales=5), floor, bends=True) == "power_irreducible"
    assert chosen(monkeypatch, fitted("power", n_scales=4), floor, bends=True) == "power"
    for stuck in (fitted("power_irreducible", at_bound=("E",)), fitted("power_irreducible", converged=False)):
        assert chosen(monkeypatch, power, stuck, bends=True) == "power"
    assert chosen(monkeypatch, power, floor, fitted("logistic"), bends=True) == "logistic"


def test_a_law_that_describes_is_chosen_before_one_that_does_not(monkeypatch):
    """A law of k parameters needs k + 3 scales before its residuals say anything."""
    power, floor = fitted("power", described=False), fitted("power_irreducible", described=False)
    shifted, broken = fitted("power_shifted"), fitted("broken")
    assert chosen(monkeypatch, power, floor, shifted, broken) == "power_shifted"
    assert chosen(monkeypatch, power, floor) == "power"
    assert chosen(monkeypatch, power, fitted("power_irreducible")) == "power_irreducible"
    few = LAWS["power_irreducible"].n_parameters + 3
    assert chosen(monkeypatch, power, fitted("power_irreducible", n_scales=few)) == "power_irreducible"
    assert chosen(monkeypatch, power, fitted("power_irreducible", n_scales=few - 1)) == "power"
    assert chosen(monkeypatch, power, fitted("power_shifted", at_bound=("c",), converged=False)) == "power_shifted"
    assert chosen(monkeypatch, power, fitted("power_shifted", at_bound=("alpha",))) == "power"
    assert chosen(monkeypatch, power, fitted("broken", at_bound=("alpha",))) == "power"


@pytest.mark.parametrize(
    ("errors", "aicc", "said"),
    [
        ({"power": (0.3, 0.3), "power_irreducible": (0.1, 0.1)}, -1.0, "power_irreducible"),
        ({"power": (0.3, 0.3), "power_irreducible": (0.1, 0.1)}, 0.0, "power"),
        ({"power": (0.3, 0.3), "power_irreducible": (0.1, None)}, -1.0, "power"),
        ({"power": (0.2, 0.2), "power_irreducible": (0.1, 0.1)}, -1.0, "power"),
        ({"power": (0.07, 0.07), "power_irreducible": (0.03, 0.03)}, -1.0, "power"),
        ({"power": (0.09, 0.09), "power_irreducible": (0.03, 0.03)}, -1.0, "power_irreducible"),
        ({}, -1.0, "power"),
    ],
)
def test_a_law_that_predicts_clearly_better_is_chosen(errors, aicc, said, monkeypatch):
    """More than twice the error, by more than the scatter of 0.05, over two cuts, and a lower criterion."""
    assert chosen(monkeypatch, fitted("power"), fitted("power_irreducible", aicc=aicc), errors=errors) == said


def test_errors_over_the_cuts_that_both_were_fitted_to():
    def result(*errors):
        return SimpleNamespace(cut_errors=errors)

    assert shared_errors(result(0.1, None, 0.3), result(0.2, 0.5, 0.6)) == (pytest.approx(0.2), pytest.approx(0.4), 2)
    assert shared_errors(result(0.1, None), result(None, 0.5)) is None
    assert shared_errors(result(), result()) is None


def power_fit(y, x=None):
    t = np.linspace(0, 4, len(y)) if x is None else x
    return fit_law(LAWS["power"], observe(np.exp(t), np.exp(y)), LeastSquares())


@pytest.mark.parametrize("n", [12, 301])
def test_waves_about_a_law_are_no_scatter(n):
    """A wave of amplitude 1/20 in runs of neighbours, and the same values that alternate; a wave of 1/100 is none."""
    t = np.linspace(0, 4, n)
    wave = np.cos(2 * np.pi * t / 4)
    assert not describes(power_fit(1 - 0.5 * t + 0.05 * wave))
    assert describes(power_fit(1 - 0.5 * t + 0.05 * np.resize([1, -1], n)))
    assert describes(power_fit(1 - 0.5 * t + 0.012 * wave))  # the root of its mean square is below 0.01
    assert not describes(power_fit(1 - 0.5 * t + 0.017 * wave))


def test_what_the_parameters_could_take_away_is_no_misfit():
    """Of a robust fit the residuals may still have a slope: it is no wave about the law."""
    fit = power_fit(1 - 0.5 * np.arange(8.0), np.arange(8.0))
    tilted = SimpleNamespace(observations=fit.observations, law=fit.law, theta=fit.theta, t_ref=fit.t_ref,
                             residuals=0.1 + 0.05 * np.arange(8.0))  # fmt: skip
    assert describes(tilted)
    tilted.residuals = tilted.residuals + 0.05 * np.cos(2 * np.pi * np.arange(8.0) / 8)
    assert not describes(tilted)


def test_four_scales_say_nothing_of_a_law_with_two_parameters():
    t = np.arange(5.0)
    bent = 1 - 0.5 * t + 0.3 * (t - 2) ** 2
    assert describes(power_fit(bent[:4], t[:4]))


def test_the_exponent_at_the_end_of_the_table():
    fit = power_fit(1 - 0.5 * np.arange(4.0), np.arange(4.0))
    theta = np.column_stack([np.full(5, 0.25), A([0.3, 0.4, 0.5, 0.6, 0.7])])
    found = end_exponent(Bootstrap(fit, theta, np.ones(5), Noise(0, 0, 2, False), 0, ""), 0.5)
    assert [found.estimate, found.low, found.high] == pytest.approx([0.5, 0.4, 0.6])
    above = end_exponent(Bootstrap(fit, theta + A([0, 0.5]), np.ones(5), Noise(0, 0, 2, False), 0, ""), 0.5)
    assert [above.estimate, above.low, above.high] == pytest.approx([0.5, 0.5, 1.1])


def test_trends_of_grids_and_of_scattered_rows():
    """On a grid the effects are exact: exponents 0.5 and -0.25; a share's trend is that of its odds."""
    n, d = (part.reshape(-1) for part in np.meshgrid(np.arange(5.0), np.arange(5.0)))
    grid = observe(np.exp(np.column_stack([n, d])), np.exp(3 - 0.5 * n + 0.25 * d), x_name=("N", "D"))
    found = axis_trends(grid, 0.9)
    assert {name: one.answer for name, one in found.items()} == {"N": "falls", "D": "rises"}
    assert [one.exponent.estimate for one in found.values()] == pytest.approx([0.5, -0.25], abs=1e-6)
    assert {one.level for one in found.values()} == {0.9}
    turned = observe(np.exp(np.column_stack([n, d])), np.exp(3 - 0.5 * n + (d - 2) ** 2), x_name=("N", "D"))
    assert axis_trends(turned, 0.9)["D"].answer == "not monotone"
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 5, (2, 40))
    scattered = observe(np.exp(np.column_stack([a, b])), np.exp(3 - 0.5 * a + 0.25 * b), x_name=("N", "D"))
    found = axis_trends(scattered, 0.9)
    assert [one.exponent.estimate for one in found.values()] == pytest.approx([0.5, -0.25], abs=1e-6)
    odds = np.exp(-1 + 0.5 * np.arange(6.0))
    one = observe(np.exp(np.arange(6.0)), odds / (1 + odds))
    assert trend_of(one, 0.9, share=True).exponent.estimate == pytest.approx(-0.5, abs=1e-6)
    assert trend_of(one, 0.9).exponent.estimate != pytest.approx(-0.5, abs=0.05)


# ---------------------------------------------------------------------------------------------- model size and data


TABLE = observe([[1.0, 10.0], [2.0, 20.0], [4.0, 10.0]], [3.0, 2.5, 2.0], x_name=("N", "D"))
BOUNDS = {"E": {"estimate": 1.0, "low": 0.5, "high": 1.5}, "alpha": {"estimate": 0.5, "low": 0.25, "high": 0.75},
          "beta": {"estimate": 0.375, "low": 0.25, "high": 0.5}}  # fmt: skip


def surface(answers=("falls", "falls"), **changes):
    law = SimpleNamespace(name="chinchilla", formula="E + ...", parameters=("E", "A", "alpha", "B", "beta"))
    fit = SimpleNamespace(
        law=law, observations=TABLE, objective=SimpleNamespace(name="log-Huber(0.001)"), objective_value=0.125,
        rmse_log=0.01, n_agree=3, n_starts=9, condition=1e3, aicc=-10.0, at_bound=(), converged=True, finite_aicc=None,
        plot=lambda ax: ("drawn", ax),
    )  # fmt: skip
    other = SimpleNamespace(law=SimpleNamespace(name="kaplan"), objective_value=0.25, aicc=-7.5)
    sample = SimpleNamespace(intervals=lambda level: BOUNDS, to_arviz=lambda: "draws")
    found = SurfaceAnalysis(**{"fit": fit, "bootstrap": sample, "families": {"chinchilla": fit, "kaplan": other},
                               "level": 0.9, "notes": ("first",)} | changes)  # fmt: skip
    found.__dict__["trends"] = {
        name: trend(answer, 0.5, 0.25, 0.75) for name, answer in zip("ND", answers, strict=True)
    }
    return found


def test_a_surface_in_words():
    one = surface()
    n, d = (axis_words(name, one.trends[name], False) for name in "ND")
    assert one.verdict == f"loss {n}; {d}; as E + ...: alpha 0.5 (0.25 to 0.75), beta 0.375 (0.25 to 0.5)."
    assert surface(("falls", "none")).verdict.endswith("(mean exponent 0.5, 95 % interval 0.25 to 0.75).")
    assert surface(("none", "undecided")).verdict.endswith("; the parameters of chinchilla describe noise.")
    assert surface(("none", "rises")).verdict.endswith("0.75).")
    assert one.summary().splitlines() == [
        one.verdict, "", "law chinchilla: E + ...    (3 rows)",
        f"  {'E':<8} {'1':<16} 90 % interval 0.5 to 1.5", f"  {'alpha':<8} {'0.5':<16} 90 % interval 0.25 to 0.75",
        f"  {'beta':<8} {'0.375':<16} 90 % interval 0.25 to 0.5",
        "  log-Huber(0.001) = 0.125, rmse of ln loss 0.01; 3 of 9 starts agree, condition 1e+03",
        "  beside it, kaplan: objective 0.25, AICc +2.5",
        "  predictions: not by this surface alone, but by all forms that hold in hidden corners of the table",
        "  note: first",
    ]  # fmt: skip
    assert one.named is False
    assert "  predictions: by chinchilla, judged on hidden corners of the table" in surface(named=True).summary()
    assert (one.parameters, one.to_arviz(), one.plot(), one.plot("ax")) == (
        BOUNDS,
        "draws",
        ("drawn", None),
        ("drawn", "ax"),
    )


def test_a_surface_in_a_picture_and_its_optimum(monkeypatch):
    asked = []
    monkeypatch.setattr(surface_fit, "optimum", lambda *given, **options: asked.append((given, options)) or "best")
    one = surface()
    assert one.optimum([1e20], level=0.5) == "best"
    assert asked == [((one.bootstrap, [1e20]), {"source": one, "level": 0.5})]
    best = SimpleNamespace(level=0.8, compute=A([6.0]), loss={"estimate": A([2.0]), "low": A([1.5]), "high": A([2.5])})
    found = one.picture(best)
    assert (found.title, found.subtitle, found.x_name, found.loss_name, found.x, found.loss) == (
        "loss against compute", one.verdict, "compute (6 N D FLOPs)", "loss", (60.0, 240.0, 240.0), (3.0, 2.5, 2.0),
    )  # fmt: skip
    assert found.bands == {"compute-optimal loss (80 % interval of the law)": Band((6.0,), (2.0,), (1.5,), (2.5,))}


def test_a_surface_in_a_file(monkeypatch):
    """The chosen law has the intervals of its bootstrap, the others those of the delta method."""
    asked, levels = [], []
    one = surface(("falls", "none"))
    one.fit.record = lambda *given: asked.append(given) or LawRecord("chinchilla", notes=given[2])
    other = one.families["kaplan"]
    other.__dict__.update(at_bound=("A",), rmse_log=0.5, finite_aicc=-7.5, converged=False)
    monkeypatch.setattr(
        surface_fit, "delta_intervals", lambda fit, level: levels.append(level) or {"z": BOUNDS["beta"]}
    )
    stored = one.record()
    assert asked == [(0.9, BOUNDS, ("first",))]
    assert levels == [0.9, 0.9]
    assert (stored.law, stored.trend, stored.trends, stored.verdict, stored.notes, stored.condition) == (
        "chinchilla", "falls", one.trends, one.verdict, ("first",), 1e3,
    )  # fmt: skip
    assert stored.extrapolation_reason == "the held-out test is for tables with one scale"
    assert stored.families == {
        "chinchilla": FamilyRecord({name: Interval(**part) for name, part in BOUNDS.items()}, 0.125, 0.01),
        "kaplan": FamilyRecord({"z": Interval(0.375, 0.25, 0.5)}, 0.25, 0.5, -7.5, converged=False,
                               note="A at the bound"),
    }  # fmt: skip
    one.fit.condition = np.inf
    assert one.record().condition is None
    assert one.to_json()["law"] == "chinchilla"


def test_a_surface_is_saved_with_what_predicts(monkeypatch, tmp_path):
    written = []
    one = surface()
    one.fit.record = lambda *given: LawRecord("chinchilla")
    monkeypatch.setattr(surface_fit, "delta_intervals", lambda *given: {})
    one.families["kaplan"].__dict__.update(at_bound=(), rmse_log=0.5, finite_aicc=None, converged=True)
    predictor = SimpleNamespace(record=lambda: "what predicts")
    monkeypatch.setattr(surface_fit, "choose", lambda *given: SimpleNamespace(mixture=predictor))
    monkeypatch.setattr(surface_fit, "save_record", lambda *given: written.append(given))
    one.save(tmp_path)
    ((path, stored),) = written
    assert (path, stored.predictor, stored.law) == (tmp_path, "what predicts", "chinchilla")


def test_what_predicts_for_a_surface(monkeypatch):
    asked = []
    monkeypatch.setattr(surface_fit, "choose", lambda *given: asked.append(given) or SimpleNamespace(
        mixture=SimpleNamespace(predict=lambda points, level: (points, level))))  # fmt: skip
    assert surface().predict([1.0]) == ([1.0], 0.9)
    assert surface(named=True).predict([1.0], 0.5) == ([1.0], 0.5)
    assert asked[0] == (TABLE, None)
    assert asked[1][1][0].axes == ("N", "D")


def test_notes_on_a_surface():
    def notes(**changes):
        return _fit_notes(SimpleNamespace(**{"converged": True, "at_bound": (), "condition": 1e8} | changes))

    assert notes() == []
    assert notes(converged=False) == ["the fit did not converge"]
    assert notes(at_bound=("E", "A")) == ["E, A ended on a bound: not identified by this table"]
    assert notes(condition=1.1e8) == ["condition number 1.1e+08: parameters are not identified one by one"]
    fit = SimpleNamespace(at_bound=("E", "A"), objective_value=1.0, rmse_log=0.5, finite_aicc=2.0, converged=False)
    found = _family(fit, {"E": BOUNDS["E"]})
    assert (found.note, found.objective, found.rmse_log, found.aicc, found.converged, found.parameters) == (
        "E, A at the bound", 1.0, 0.5, 2.0, False, {"E": Interval(1.0, 0.5, 1.5)},
    )  # fmt: skip
    assert _family(SimpleNamespace(**{**vars(fit), "at_bound": ()}), {}).note == ""
    assert describe_row(TABLE, 1, 0.75) == "the row N 2, D 20, loss 2.5 moves a parameter by 0.8 se"


def test_rows_that_move_a_parameter(monkeypatch):
    """By 0.4, 0.6 and 2 standard errors of 0.1, and by more of a parameter without an error."""
    fit = SimpleNamespace(parameters={"E": 1.0, "A": 2.0}, observations=TABLE)
    sample = SimpleNamespace(standard_errors=lambda: {"E": 0.1, "A": 1.0})
    monkeypatch.setattr(surface_fit, "influence", lambda fit: {"E": A([1.04, 0.94, 1.0]), "A": A([2.0, 2.0, 4.0])})
    assert influence_notes(fit, sample) == [describe_row(TABLE, 2, 2.0), describe_row(TABLE, 1, 0.6)]
    assert influence_notes(fit, sample, 1) == [describe_row(TABLE, 2, 2.0)]
    monkeypatch.setattr(surface_fit, "influence", lambda fit: {"E": A([1.05, 1.0, 1.0]), "A": A([2.0, 2.0, 2.0])})
    assert influence_notes(fit, sample) in ([], [describe_row(TABLE, 0, 0.5)])
    exact = SimpleNamespace(standard_errors=lambda: {"E": 0.0, "A": 0.0})
    monkeypatch.setattr(
        surface_fit, "influence", lambda fit: {"E": A([1 + 4e-10, 1.0, 1.0]), "A": A([2.0, 2 + 2e-9, 2.0])}
    )
    assert influence_notes(fit, exact) == [describe_row(TABLE, 1, 1.0)]


@pytest.mark.parametrize(
    ("law", "axes", "words"),
    [
        ("zz", 2, "the law 'zz' is unknown for several scales; allowed are: auto, "),
        ("auto", 4, "the table has 4 scales; laws in several scales take 2 (N, D) or 3 (N, D, U)"),
        ("auto", 1, "the table has 1 scales; laws in several scales take 2 (N, D) or 3 (N, D, U)"),
    ],
)
def test_surfaces_that_are_refused(law, axes, words):
    with pytest.raises(InputError) as caught:
        surface_fit.analyse_surface(np.arange(1.0, 1 + 5 * axes).reshape(5, axes), np.ones(5), law=law)
    assert str(caught.value).startswith(words)


# ---------------------------------------------------------------------------------------------- any number of scales


def form(name, value=0.5):
    formula = SimpleNamespace(name=name, text=f"text of {name}")
    return SimpleNamespace(
        formula=formula, observations=TABLE, link="log", free=("a",), objective=LeastSquares(), objective_value=value,
        rmse=0.25, n_agree=4, r2=0.75, converged=True, at_bound=(),
        intervals=lambda level: {"a": Interval(1.0, 0.5, 1.5), "b": Interval(2.0, 2.0, 2.0)},
    )  # fmt: skip


def many(n=2, named=False, link="log", corners=((0.1, 0.2), (0.3, 1e101)), answers=("falls", "none"), weights=None):
    fits = tuple(form(f"f{k}") for k in range(n))
    for fit in fits:
        fit.link = link
    mixture = SimpleNamespace(
        by="2 forms", noise=0.01, growth=0.02, record=lambda: None,
        predict=lambda x, level=0.9: SimpleNamespace(median=2 * x[:, 0], low=x[:, 0], high=3 * x[:, 0]),
    )  # fmt: skip
    choice = SimpleNamespace(
        fits=fits, weights=weights or (0.75, *[0.25] * (n - 1)), mixture=mixture, tried=tuple(range(n + 3)),
        corners=tuple(SimpleNamespace(errors=errors) for errors in corners),
    )  # fmt: skip
    found = ScalesAnalysis(fits[0], choice, 0.9, named, ("first",))
    found.__dict__["trends"] = {
        name: trend(answer, 0.5, 0.25, 0.75) if link == "log" else trend(answer)
        for name, answer in zip("ND", answers, strict=True)
    }
    return found


def test_a_law_in_any_scales_in_words():
    one = many()
    n, d = (axis_words(name, one.trends[name], False) for name in "ND")
    assert one.verdict == f"loss {n}; {d}; predicted by 2 forms together."
    assert many(named=True).verdict.endswith("; as text of f0.")
    for answer, words in (("falls", "falls with"), ("rises", "RISES with"), ("not monotone", "is not monotone in"),
                          ("none", "has no trend in"), ("undecided", "is undecided in"), ("unknown", "is unknown in")):  # fmt: skip  # noqa: E501
        assert many(link="identity", answers=(answer, "falls")).verdict == (
            f"loss {words} N; falls with D; predicted by 2 forms together."
        )  # fmt: skip
    lines = one.summary().splitlines()
    words = lines[5]
    assert lines == [
        one.verdict, "", "leading form f0: text of f0    (3 rows)",
        f"  {'a':<8} {'1':<16} 90 % interval 0.5 to 1.5", f"  {'b':<8} {'2':<16}   fixed", words, "",
        f"{'weight':>8}{'hidden':>9}  form   (error of ln loss in hidden corners)",
        f"{'0.75':>8}{'0.2236':>9}  f0", f"{'0.25':>8}{'':>9}  f1", f"{'':>17}  3 forms left out",
        "predictions by 2 forms: noise of a run 0.01 of ln loss, discrepancy 0.02 per e-fold beyond the table",
        "  note: first",
    ]  # fmt: skip
    assert words.endswith(" = 0.5, rmse of ln loss 0.25")
    named = many(named=True, link="identity").summary().splitlines()
    assert named[2] == "law f0: text of f0    (3 rows)"
    assert named[5].endswith(" = 0.5, rmse of the loss 0.25; 4 starts agree")
    assert named[6] == (
        "predictions by 2 forms: noise of a run 0.01 of the loss, discrepancy 0.02 per e-fold beyond the table"
    )  # fmt: skip
    eight = many(8, corners=()).summary().splitlines()
    assert eight[8:15] == [f"{w:>8}{'':>9}  f{k}" for k, w in enumerate(["0.75", *["0.25"] * 5])] + [
        f"{'':>17}  2 more; 3 forms left out"
    ]  # fmt: skip
    assert many(6, corners=()).summary().splitlines()[14] == f"{'':>17}  3 forms left out"
    assert one.parameters["a"] == {"estimate": 1.0, "low": 0.5, "high": 1.5}


def test_a_law_in_any_scales_in_a_file():
    one = many()
    stored = one.record()
    assert (stored.law, stored.formula, stored.x_names, stored.loss_name, stored.level, stored.trend) == (
        "auto", "text of f0", ("N", "D"), "loss", 0.9, "falls",
    )  # fmt: skip
    assert (stored.objective, stored.n_observations, stored.n_scales, stored.r2_log, stored.notes) == (
        0.5, 3, 3, 0.75, ("first",),
    )  # fmt: skip
    assert stored.extrapolation_reason == "the hidden corners of the table stand with the families"
    assert {name: (family.note, family.backtest_rmse_log, family.rmse_log, family.objective, family.aicc)
            for name, family in stored.families.items()} == {
        "f0": ("weight 0.750: text of f0", pytest.approx(0.05**0.5), 0.25, 0.5, None),
        "f1": ("weight 0.250: text of f1", None, 0.25, 0.5, None),
    }  # fmt: skip
    assert many(named=True).record().law == "f0"
    assert "predictor" not in one.to_json()


def test_pictures_of_a_law_in_any_scales():
    axes = many().plot()
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale(), axes.get_yscale()) == (
        "predicted loss", "observed loss", "log", "log",
    )  # fmt: skip
    assert list(axes.lines[0].get_xdata()) == list(axes.lines[0].get_ydata()) == [2.0, 8.0]
    assert axes.lines[1].get_xdata().tolist() == [2, 4, 8]
    assert many(link="identity").plot().get_xscale() == "linear"
    first, along_n, along_d = pictures_of(many().predictor, TABLE, "said.", "g")
    assert (first.title, first.subtitle, first.x_name, first.loss_name, first.x, first.loss) == (
        "observed against predicted loss: g", "said.", "predicted loss", "loss", (2.0, 4.0, 8.0), (3.0, 2.5, 2.0),
    )  # fmt: skip
    assert first.bands == {
        "predicted (90 % interval of a run)": Band((2.0, 4.0, 8.0), (2.0, 4.0, 8.0), (1.0, 2.0, 4.0), (3.0, 6.0, 12.0))
    }
    assert (along_n.title, along_d.title, along_n.x_name, along_d.x_name) == (
        "loss along N: g", "loss along D: g", "N", "D",
    )  # fmt: skip
    assert along_n.subtitle.startswith("at D ")
    assert along_d.subtitle.startswith("at N ")
    assert [picture.title for picture in scales.pictures(many())] == [
        "observed against predicted loss", "loss along N", "loss along D",
    ]  # fmt: skip


def test_a_slice_along_a_scale():
    """Through the run nearest the upper quarter of the other scale (1, 1, 8, 8: 8), to twice the end of the first."""
    table = observe(
        [[1.0, 1.0], [4.0, 1.0], [1.0, 8.0], [2.0, 8.0 * np.exp(0.049)], [3.0, 8.0 * np.exp(0.06)]], np.ones(5)
    )
    rows, near = slice_along(table, 0)
    assert rows.shape == (60, 2)
    assert (rows[0, 0], rows[-1, 0]) == (pytest.approx(1.0), pytest.approx(8.0))
    assert set(rows[:, 1].round(9).tolist()) == {round(8 * np.exp(0.049), 9)}
    assert table.x[near][:, 1].tolist() == pytest.approx([8, 8 * np.exp(0.049), 8 * np.exp(0.06)])
    assert slice_along(table, 1, 3)[0].shape == (3, 2)


@pytest.mark.parametrize(
    ("law", "names", "loss", "said"),
    [
        ("auto", ("N",), 1.0, False), ("auto", ("N", "D"), 1.0, False), ("auto", ("N", "D"), 0.0, True),
        ("auto", ("width", "D"), 1.0, True), ("auto", ("a", "b", "c"), 1.0, True), ("chinchilla", ("N", "D"), -1.0, False),  # noqa: E501
        ("power", ("a", "b", "c"), 1.0, False), ("E + A/N", ("N",), 1.0, True), ("hoffmann", ("N", "D"), 1.0, True),
        ("mixture", ("N",), 1.0, True), ("zz", ("N",), 1.0, False), ("zz", ("N", "D"), 1.0, True),
    ],
)  # fmt: skip
def test_which_tables_are_fitted_in_any_scales(law, names, loss, said):
    assert any_scales(law, names, A([1.0, loss])) is said


def test_constraints_are_for_named_laws():
    given = {"x": [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]], "loss": [3.0, 2.0, 1.0], "x_name": ("N", "D")}
    for more in ({"bounds": {"a": (0, 1)}}, {"fixed": {"a": 1.0}}):
        with pytest.raises(InputError) as caught:
            scales.analyse_scales(**given, **more)
        assert (str(caught.value), caught.value.field) == (
            "`bound` and `fix` are for a named law or a formula, not for auto", "law",
        )  # fmt: skip


def test_notes_of_a_named_law(monkeypatch):
    fit = form("named")
    fit.converged, fit.at_bound = False, ("a", "b")
    choice = SimpleNamespace(corners=(SimpleNamespace(name="large N", errors=(np.nan,)), SimpleNamespace(name="x", errors=(0.1,))),  # noqa: E501
                             notes=("of the choice",), fits=(fit,))  # fmt: skip
    asked = []
    monkeypatch.setattr(scales, "fit_formula", lambda *given: fit)
    monkeypatch.setattr(scales, "choose", lambda *given: asked.append(given) or choice)
    given = {
        "x": [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]],
        "loss": [3.0, 2.0, -1.0],
        "x_name": ("N", "D"),
        "notes": ("first",),
    }
    found = scales.analyse_scales(**given, law="E + A/N + B/D")
    identity = "not all losses are positive: residuals are of the loss itself, not of its logarithm"
    assert found.notes == (
        "first", identity, "of the choice",
        "without the large N the table does not determine the law: no error is known there", "the fit did not converge",
        "a, b ended on a bound: not identified by this table",
    )  # fmt: skip
    assert (found.named, found.level, found.fit) == (True, 0.95, fit)
    assert asked[0][1][0].text == "E + A/N + B/D"
    auto = scales.analyse_scales(**given)
    assert (auto.notes, auto.named, len(asked[1])) == (("first", identity, "of the choice"), False, 1)
