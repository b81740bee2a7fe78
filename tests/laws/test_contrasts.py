from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from metascale.core.errors import InputError
from metascale.laws.contrasts import bootstrap_mean, cohen_d, holm, paired_test, rank_biserial, wilcoxon_p


def sample(size: int, seed: int = 3, shift: float = 0.2) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, size)


def test_bootstrap_interval_is_the_percentile_interval_of_scipy() -> None:
    values = sample(80)
    ours = bootstrap_mean(values, level=0.9, n_resamples=20_000)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.estimate == pytest.approx(values.mean())
    # Monte Carlo error of a 5 % quantile at 20,000 resamples is about 0.015 standard errors of the mean.
    tolerance = 0.06 * values.std() / np.sqrt(80)
    assert ours.low == pytest.approx(theirs.low, abs=tolerance)
    assert ours.high == pytest.approx(theirs.high, abs=tolerance)


def test_bootstrap_width_is_the_closed_form_of_the_mean() -> None:
    # The bootstrap distribution of a mean has variance s²/n with s² over n, and is normal for large n.
    values = sample(400)
    interval = bootstrap_mean(values, level=0.95, n_resamples=20_000)
    half = scipy_stats.norm.ppf(0.975) * values.std() / np.sqrt(400)
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.03)


def test_bootstrap_is_the_same_twice_and_another_with_another_seed() -> None:
    values = sample(30)
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values, seed=1).low != bootstrap_mean(values).low


def test_bootstrap_of_a_constant_is_that_constant() -> None:
    interval = bootstrap_mean([0.25] * 9)
    assert (interval.low, interval.estimate, interval.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize(("size", "level", "resamples"), [(1, 0.95, 10), (5, 1.0, 10), (5, 0.0, 10), (5, 0.9, 0)])
def test_bootstrap_refuses_what_it_cannot_do(size: int, level: float, resamples: int) -> None:
    with pytest.raises(InputError):
        bootstrap_mean(np.arange(size), level=level, n_resamples=resamples)


def test_wilcoxon_exact_closed_form() -> None:
    # All n differences of one sign: only 2 of the 2^n sign patterns are as extreme.
    assert wilcoxon_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 2**6)
    # Ranks 1..4, negative rank sum 1: patterns with sum 0 or 1 are 2 of 16, two-sided 4 of 16.
    assert wilcoxon_p([-0.1, 0.2, 0.3, 0.4]) == pytest.approx(4 / 16)


def test_wilcoxon_is_scipys_with_and_without_ties() -> None:
    values = sample(40)
    assert wilcoxon_p(values) == pytest.approx(scipy_stats.wilcoxon(values, method="exact").pvalue, rel=1e-12)
    tied = np.round(sample(120), 1)
    expected = scipy_stats.wilcoxon(tied, zero_method="pratt", correction=True, method="asymptotic").pvalue
    assert (tied == 0).any()
    assert wilcoxon_p(tied) == pytest.approx(expected, rel=1e-12)


def test_wilcoxon_of_no_difference_is_one() -> None:
    assert wilcoxon_p([0.0, 0.0, 0.0]) == 1.0


def test_wilcoxon_holds_its_level_under_the_null() -> None:
    rng = np.random.default_rng(8)
    rejected = np.mean([wilcoxon_p(rng.standard_normal(25)) < 0.05 for _ in range(600)])
    assert 0.025 < rejected < 0.08


def test_cohen_d_is_t_over_root_n() -> None:
    values = sample(33)
    assert cohen_d(values) == pytest.approx(scipy_stats.ttest_1samp(values, 0).statistic / np.sqrt(33))
    assert cohen_d([0.3, 0.3, 0.3]) is None
    # 0.1 + 0.2 and 0.3 differ by rounding only.
    assert cohen_d([0.1 + 0.2, 0.3, 0.3]) is None


def test_rank_biserial_by_hand() -> None:
    # |d| ranks: 0.1→1, 0.2→2, 0.4→3; negative is the middle one: (1 + 3 - 2) / 6.
    assert rank_biserial([0.1, -0.2, 0.4]) == pytest.approx(1 / 3)
    assert rank_biserial([-1, -2]) == -1.0
    assert rank_biserial([0, 0]) == 0.0
    # A tie shares rank 1.5: the two cancel.
    assert rank_biserial([0.5, -0.5]) == 0.0


def test_rank_biserial_agrees_with_the_wilcoxon_statistic() -> None:
    values = sample(50)
    total = 50 * 51 / 2
    smaller = scipy_stats.wilcoxon(values).statistic
    assert abs(rank_biserial(values)) == pytest.approx((total - 2 * smaller) / total)


def test_holm_by_hand() -> None:
    # Sorted .01, .02, .03, .04 times 4, 3, 2, 1: .04, .06, then kept from falling: .06, .06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx((0.06, 0.04, 0.06, 0.06))
    assert holm([0.5, 0.9]) == (1.0, 1.0)
    assert holm([]) == ()
    with pytest.raises(InputError):
        holm([0.2, 1.2])


def test_holm_lies_between_plain_and_bonferroni() -> None:
    p = np.random.default_rng(2).uniform(0, 0.2, 12)
    adjusted = np.array(holm(list(p)))
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, 12 * p) + 1e-15).all()
    order = np.argsort(p)
    assert (np.diff(adjusted[order]) >= 0).all()


def test_paired_test_reports_first_minus_second() -> None:
    second = sample(60) + 5
    first = second - 0.4 + 0.05 * sample(60, seed=9, shift=0)
    result = paired_test(first, second)
    assert result.n_tasks == 60
    assert result.difference.estimate == pytest.approx((first - second).mean())
    assert result.difference.high < 0
    assert result.p_value == pytest.approx(
        scipy_stats.wilcoxon(first - second, correction=True, method="asymptotic").pvalue
    )
    assert result.rank_biserial == -1.0


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [([1.0, 2.0], [1.0], "one length"), ([1.0], [2.0], "at least 2"), ([1.0, np.nan], [1.0, 2.0], "finite")],
)
def test_paired_test_refuses_what_does_not_pair(first: list[float], second: list[float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        paired_test(first, second)
