"""Intervals against full enumeration, against simulated data of known mean, and on the inputs they must refuse.

Coverage of the 95 % intervals measured here, in percent, 2,000 data sets a case (sampling error about 0.5):

    documents                                           8     13     25     82
    equally long, losses Gamma(2)                    93.7   94.0   95.2   94.4
    1–8 windows each, correlated within              93.2   93.2   94.4   95.7
    lengths log-normal (σ 0.7), losses Gamma(2)      93.3   92.9   92.8   93.7
    longer documents easier                          93.6   93.3   92.4   94.8

Two documents of 4 + 4 windows 94.5, 5 + 3 (too few to stratify) 95.4, 10 + 15 94.8. What the tests rule out: percentiles at 8
equally long documents 86.4; correlated windows taken for documents, 4 in each of 8, 69.8.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest

from bench.stats import (
    Interval,
    Spread,
    _replicates,
    cluster_mean,
    holm,
    median_interval,
    paired_difference,
    paired_log_ratio,
    pooled_spread,
    student_quantile,
    verdict,
)

Rng = np.random.Generator
Sample = tuple[np.ndarray, np.ndarray, np.ndarray]  # values, weights, documents

REPEATS = 2000


def alike(n: int, rng: Rng) -> Sample:
    return rng.gamma(2, 0.5, n), np.full(n, 1024), np.arange(n)


def correlated(n: int, rng: Rng) -> Sample:
    documents = np.repeat(np.arange(n), rng.integers(1, 9, n))
    values = rng.gamma(2, 0.3, n)[documents] + rng.gamma(2, 0.2, len(documents))
    return values, np.full(len(documents), 1024), documents


def lengths(n: int, rng: Rng) -> Sample:
    return rng.gamma(2, 0.5, n), 1024 * rng.lognormal(0, 0.7, n), np.arange(n)


def easier_when_long(n: int, rng: Rng) -> Sample:
    """E[W·y] / E[W] = 1: a log-normal length exp(z/2) shifts the mean of z by ½."""
    z = rng.normal(size=n)
    return rng.gamma(4, 0.25, n) - 0.2 * (z - 0.5), 1024 * np.exp(z / 2), np.arange(n)


def coverage(interval: Callable[[Rng], Interval], truth: float = 1.0) -> float:
    rng = np.random.default_rng(7)
    bounds = [interval(rng) for _ in range(REPEATS)]
    return sum(i.low <= truth <= i.high for i in bounds) / REPEATS


@pytest.mark.parametrize("n", [8, 13, 25, 82])
@pytest.mark.parametrize("make", [alike, correlated, lengths, easier_when_long])
def test_documents_cover(make: Callable[[int, Rng], Sample], n: int) -> None:
    rate = coverage(lambda rng: cluster_mean(*make(n, rng)))
    assert 0.92 <= rate <= 0.98, rate


@pytest.mark.parametrize("sizes", [(4, 4), (5, 3), (10, 15)])
def test_windows_cover_the_mean_of_their_own_documents(sizes: tuple[int, ...]) -> None:
    documents = np.repeat(np.arange(len(sizes)), sizes)
    level_of_document = 0.5 * documents
    truth = 1 + level_of_document.mean()

    def interval(rng: Rng) -> Interval:
        return cluster_mean(level_of_document + rng.gamma(2, 0.5, len(documents)), np.ones(len(documents)), documents)

    rate = coverage(interval, truth)
    assert 0.92 <= rate <= (0.98 if min(sizes) >= 4 else 1), rate


def test_percentiles_would_not_cover() -> None:
    """Why the interval is studentised."""

    def percentile(rng: Rng) -> Interval:
        y = alike(8, rng)[0]
        low, high = np.quantile(y[rng.integers(0, 8, (500, 8))].mean(1), [0.025, 0.975])
        return Interval(y.mean(), low, high, 8, "documents")

    assert coverage(percentile) < 0.9


def test_windows_taken_for_documents_would_not_cover() -> None:
    """Why the document is what is resampled."""

    def naive(rng: Rng) -> Interval:
        values = np.repeat(rng.gamma(2, 0.3, 8), 4) + rng.gamma(2, 0.2, 32)
        return cluster_mean(values, np.ones(32), np.arange(32))

    assert coverage(naive) < 0.85


def test_median_covers_at_the_level_it_states() -> None:
    for n in (3, 5, 11, 30):
        stated = median_interval(np.arange(n)).level
        rate = coverage(lambda rng: median_interval(rng.exponential(1, n)), math.log(2))  # noqa: B023
        assert abs(rate - stated) < 4 * math.sqrt(stated * (1 - stated) / REPEATS), (n, rate, stated)


def ratio_and_error(sums: np.ndarray, totals: np.ndarray, strata: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """R and σ of samples whose clusters are listed one by one: strata[h] is [samples, clusters of stratum h]."""
    weight = np.concatenate([totals[s] for s in strata], 1).sum(1)
    ratio = np.concatenate([sums[s] for s in strata], 1).sum(1) / weight
    residuals = [sums[s] - ratio[:, None] * totals[s] for s in strata]
    return ratio, np.sqrt(np.sum([e.shape[1] * e.var(1, ddof=1) for e in residuals], 0)) / weight


def toy(sizes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """Values, weights, documents, and the clusters of each document."""
    rng = np.random.default_rng(3)
    documents = np.repeat(np.arange(len(sizes)), sizes)
    values, weights = (1 + documents) * rng.gamma(2, 0.5, len(documents)), rng.uniform(500, 1000, len(documents))
    return values, weights, documents, [np.flatnonzero(documents == h) for h in range(len(sizes))]


@pytest.mark.parametrize("sizes", [(6,), (4, 4)])
def test_bounds_equal_those_of_all_possible_resamples(sizes: tuple[int, ...]) -> None:
    values, weights, documents, strata = toy(sizes)
    every = np.array(list(itertools.product(*(c for s in strata for c in [s] * len(s)))))
    picks = np.split(every, np.cumsum(sizes)[:-1], axis=1)
    (ratio,), (error,) = ratio_and_error(values * weights, weights, [s[None] for s in strata])
    ratios, errors = ratio_and_error(values * weights, weights, picks)
    degenerate = errors < 1e-12
    t = np.where(degenerate, np.copysign(np.inf, ratios - ratio), (ratios - ratio) / np.where(degenerate, 1, errors))
    low, high = np.quantile(t, [0.025, 0.975], method="inverted_cdf")
    got = cluster_mean(values, weights, documents, resamples=100_000)
    assert (got.low, got.high) == pytest.approx((ratio - high * error, ratio - low * error), abs=0.03 * (got.high - got.low))


def test_replicates_equal_samples_written_out() -> None:
    sizes = (4, 7)
    values, weights, _, strata = toy(sizes)
    draws = np.array([[1] * 11, [0, 3, 1, 0, 2, 0, 0, 4, 0, 1, 0]], dtype=np.float64)
    shift, error = _replicates(values * weights, weights, sizes, draws)
    for row in range(2):
        written_out = [np.repeat(s, draws[row, s].astype(int))[None] for s in strata]
        (ratio,), (expected,) = ratio_and_error(values * weights, weights, written_out)
        assert shift[row] == pytest.approx(ratio - np.average(values, weights=weights), abs=1e-12)
        assert error[row] == pytest.approx(expected, rel=1e-12)


def test_value_is_the_mean_over_targets() -> None:
    rng = np.random.default_rng(0)
    counts, documents = rng.integers(1, 9, 30), rng.integers(0, 10, 30)
    losses = [rng.gamma(2, 1, k) for k in counts]
    got = cluster_mean([x.mean() for x in losses], counts, [f"novel {d}" for d in documents])
    assert got.value == pytest.approx(np.concatenate(losses).mean(), rel=1e-12)
    assert (got.n, got.unit) == (len(set(documents)), "documents")
    assert got.low < got.value < got.high


def test_bounds_depend_on_the_seed_alone() -> None:
    values, weights, documents = correlated(9, np.random.default_rng(0))
    first = cluster_mean(values, weights, documents, seed=3)
    assert first == cluster_mean(values, weights, documents, seed=3)
    assert first.low != cluster_mean(values, weights, documents, seed=4).low
    assert cluster_mean(values, weights, documents, level=0.8).low > cluster_mean(values, weights, documents).low


def test_unit_of_resampling() -> None:
    rng = np.random.default_rng(0)
    y, w = rng.gamma(2, 1, 32), np.ones(32)
    assert cluster_mean(y, w, np.arange(32) % 8).caption == "95 % interval over 8 documents"
    assert cluster_mean(y, w, np.arange(32) % 7).caption == "95 % interval over 32 windows"
    assert cluster_mean(y, w, np.arange(32) % 2, np.arange(32) // 4).caption == "95 % interval over 16 windows"


def test_documents_apart_widen_only_where_windows_are_too_few_to_stratify() -> None:
    rng = np.random.default_rng(0)
    y, w = rng.gamma(2, 0.5, 16), np.ones(16)

    def width(n_documents: int, apart: float) -> float:
        documents = np.arange(16) % n_documents
        got = cluster_mean(y + apart * documents, w, documents)
        return got.high - got.low

    assert width(4, apart=9.0) == pytest.approx(width(4, apart=0.0))
    assert width(7, apart=9.0) > 2 * width(7, apart=0.0)


def test_too_few_clusters_have_no_bounds() -> None:
    got = cluster_mean([1.0, 2.0, 3.0], [1, 1, 2], [0, 0, 1])
    assert (got.value, got.low, got.high) == (2.25, -math.inf, math.inf)
    assert got.caption == "no interval from 3 windows"
    assert cluster_mean([1.0, 2.0, 3.0], [1] * 3, [0] * 3, level=0.5).high == math.inf
    assert cluster_mean([1.0], [1], [0]).caption == "no interval from 1 window"
    assert math.isfinite(cluster_mean([1.0, 2.0, 3.0, 4.0], [1] * 4, [0] * 4).high)
    assert verdict(got, 0.1) == "cannot tell"


def test_pairing_removes_what_two_models_share() -> None:
    rng = np.random.default_rng(0)
    b, weights, documents = correlated(13, rng)
    a = b - 0.05 + rng.normal(0, 0.01, len(b))
    single, difference = cluster_mean(b, weights, documents), paired_difference(a, b, weights, documents)
    assert difference.value == pytest.approx(-0.05, abs=0.01)
    assert difference.high - difference.low < 0.1 * (single.high - single.low)
    assert verdict(difference, 0.01) == "different"
    assert verdict(single, 0.01) == "different"


@pytest.mark.parametrize("n_documents", [2, 9])
def test_a_model_equals_itself_and_constants_have_no_width(n_documents: int) -> None:
    rng = np.random.default_rng(0)
    documents, weights = np.arange(36) % n_documents, rng.uniform(1, 9, 36)
    y = rng.gamma(2, 1, 36)
    same = paired_difference(y, y, weights, documents)
    assert (same.low, same.value, same.high) == (0, 0, 0)
    assert verdict(same, 1e-9) == "equal"
    constant = cluster_mean(np.full(36, 0.1), weights, documents)
    assert constant.low == constant.high == pytest.approx(0.1)


def test_documents_of_constant_windows_have_no_width() -> None:
    got = cluster_mean([1.1, 2.3] * 8, np.full(16, 1024), [0, 1] * 8)
    assert got.low == got.high == pytest.approx(1.7)


def test_bounds_cover_text_and_seeds() -> None:
    """Two models of two seeds each, eight documents; the seeds' deviation, as large as the text's, is pooled over six cells."""

    def difference(rng: Rng, *, with_seeds: bool) -> Interval:
        text, seeds = rng.gamma(2, 0.5, 8) - 1, rng.normal(0, 0.25, (6, 2))
        pooled = pooled_spread(seeds.tolist())
        assert pooled is not None and pooled.freedom == 6
        spread = Spread(pooled.error * math.sqrt(1 / 2 + 1 / 2), pooled.freedom) if with_seeds else None
        return cluster_mean(text + seeds[0].mean() - seeds[1].mean(), np.ones(8), np.arange(8), spread=spread)

    assert 0.93 <= coverage(lambda rng: difference(rng, with_seeds=True), 0.0) <= 0.98
    assert coverage(lambda rng: difference(rng, with_seeds=False), 0.0) < 0.9


def test_p_is_the_level_at_which_a_bound_reaches_zero() -> None:
    rng = np.random.default_rng(5)
    for spread in (None, Spread(0.1, 3)):
        y = rng.gamma(2, 0.5, 12) - 0.75
        got = cluster_mean(y, np.ones(12), np.arange(12), spread=spread)
        assert got.p is not None and 0.002 < got.p < 0.9
        inside, outside = (
            cluster_mean(y, np.ones(12), np.arange(12), spread=spread, level=level)
            for level in (min(0.99, 1 - got.p + 0.01), 1 - got.p - 0.01)
        )
        assert inside.low <= 0 <= inside.high
        assert outside.low > 0 or outside.high < 0


def test_p_under_no_difference_is_uniform() -> None:
    rng = np.random.default_rng(11)
    found = [cluster_mean(rng.normal(0, 1, 12), np.ones(12), np.arange(12)).p for _ in range(500)]
    for share in (0.05, 0.2, 0.5):
        assert abs(np.mean(np.array(found) <= share) - share) < 4 * math.sqrt(share * (1 - share) / 500)


def test_p_of_a_sure_difference_and_of_none() -> None:
    ones, documents = np.ones(16), np.arange(16)
    assert cluster_mean(np.full(16, 0.3), ones, documents).p == 2 / 2000
    assert cluster_mean(np.zeros(16), ones, documents).p == pytest.approx(1.0)
    assert cluster_mean(np.full(3, 0.3), np.ones(3), np.arange(3)).p == 1.0
    assert cluster_mean(np.full(16, 0.3), ones, documents, spread=Spread(0.1, 1)).p == pytest.approx(0.2048, abs=1e-4)


@pytest.mark.parametrize(
    ("freedom", "level", "t"),
    [(1, 0.95, 12.7062), (2, 0.95, 4.30265), (3, 0.99, 5.84091), (5, 0.9, 2.01505), (10, 0.95, 2.22814), (31, 0.95, 2.03951)],
)
def test_quantiles_of_student(freedom: int, level: float, t: float) -> None:
    assert student_quantile(level, freedom) == pytest.approx(t, rel=1e-5)


def test_pooled_spread_is_the_root_of_the_mean_variance_within() -> None:
    got = pooled_spread([[1.0, 3.0], [10.0, 10.0, 13.0], [7.0]])
    assert got is not None
    assert got.error == pytest.approx(math.sqrt((2 + 6) / 3))
    assert got.freedom == 3
    assert pooled_spread([[1.0], [2.0]]) is None


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_of_several_only_what_holm_leaves_is_different() -> None:
    apart = Interval(0.2, 0.1, 0.3, 9, "documents")
    assert verdict(apart, 0.01, p=0.05) == "different"
    assert verdict(apart, 0.01, p=0.051) == "cannot tell"
    assert verdict(Interval(0, -0.005, 0.005, 9, "documents"), 0.01, p=1.0) == "equal"


@pytest.mark.parametrize(
    ("n", "low", "high", "level"),
    [(1, 0, 0, 0.0), (2, 0, 1, 0.5), (5, 0, 4, 0.9375), (6, 0, 5, 0.96875), (10, 1, 8, 0.978515625)],
)
def test_median_interval_by_hand(n: int, low: int, high: int, level: float) -> None:
    """Binomial tails: n = 10 leaves out one sample a side, 1 − 2·(1 + 10)/1024."""
    samples = np.random.default_rng(0).permutation(n)
    assert median_interval(samples) == Interval((n - 1) / 2, low, high, n, "samples", level)


@pytest.mark.parametrize(
    ("low", "high", "level", "expected"),
    [
        (-0.1, 0.1, 0.95, "equal"),
        (0.05, 0.1, 0.95, "equal"),
        (0.05, 0.11, 0.95, "different"),
        (-0.3, -0.2, 0.95, "different"),
        (-0.05, 0.11, 0.95, "cannot tell"),
        (-0.11, 0.0, 0.95, "cannot tell"),
        (0.2, 0.2, 0.0, "cannot tell"),
    ],
)
def test_verdict(low: float, high: float, level: float, expected: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high, 9, "documents", level), 0.1) == expected


ONE = [1.0] * 9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cluster_mean([], [], []), r"values has shape \(0,\): give a flat list with at least one"),
        (lambda: cluster_mean([[1.0]], [1], [0]), r"values has shape \(1, 1\)"),
        (lambda: cluster_mean([1, math.nan], [1, 1], [0, 0]), r"values\[1\] is nan.*leave out runs that diverged"),
        (lambda: cluster_mean([1, 2], [1, math.inf], [0, 0]), r"weights\[1\] is inf"),
        (lambda: cluster_mean([1, 2, 3], [1, -2, 1], [0, 0, 0]), r"weights\[1\] is -2\.0.*leave out rows"),
        (lambda: cluster_mean([1, 2], [1, 0], [0, 0]), r"weights\[1\] is 0\.0"),
        (lambda: cluster_mean(ONE, [1, 1], [0] * 9), r"weights has shape \(2,\), values \(9,\): both need one entry"),
        (lambda: cluster_mean(ONE, ONE, [0]), r"documents has shape \(1,\)"),
        (lambda: cluster_mean(ONE, ONE, [0] * 9, [0]), r"windows has shape \(1,\)"),
        (lambda: cluster_mean(ONE, ONE, [0] * 9, level=95), r"level 95, 2000 resamples: use a level in \(0, 1\)"),
        (lambda: cluster_mean(ONE, ONE, [0] * 9, resamples=100), r"20 / \(1 - level\) resamples or more"),
        (lambda: paired_difference(ONE, [1.0], ONE, [0] * 9), r"b has shape \(1,\), a \(9,\)"),
        (lambda: paired_difference(ONE, [math.inf] * 9, ONE, [0] * 9), r"b\[0\] is inf"),
        (lambda: median_interval([]), r"samples has shape \(0,\)"),
        (lambda: median_interval([1.0], level=1.0), r"level 1\.0: use a level in \(0, 1\)"),
        (lambda: verdict(Interval(0, 0, 0, 9, "documents"), 0), r"equal_within is 0: give the largest difference"),
    ],
)
def test_bad_input_is_named_with_its_cure(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("rounds", [5, 10, 20])
@pytest.mark.parametrize("noise", ["normal", "exponential"])
def test_ratios_of_turns_are_covered_whatever_slows_whole_rounds(rounds: int, noise: str) -> None:
    """Two models of equal speed under a drift thirty times their noise, which unpaired medians would not see through."""
    rng, inside = np.random.default_rng(rounds), 0
    for _ in range(400):
        drift = np.cumsum(rng.normal(0, 0.03, rounds))
        normal, exponential = rng.normal(0, 0.001, (2, rounds)), rng.exponential(0.001, (2, rounds))
        first, second = np.exp(drift + (normal if noise == "normal" else exponential))
        interval = paired_log_ratio(first, second)
        inside += interval.low <= 0 <= interval.high
        assert interval.high - interval.low < 0.03
    assert inside / 400 > 0.895


def test_a_ratio_of_turns_by_hand() -> None:
    """Log ratios -2, -1, -3: mean -2, s = 1, so bounds of 4.303 / sqrt(3); further rounds are left out."""
    interval = paired_log_ratio(np.exp([0, 1, 2, 50]), np.exp([2, 2, 5]))
    assert interval.value == pytest.approx(-2)
    assert (interval.n, interval.unit) == (3, "rounds")
    assert interval.high - interval.value == pytest.approx(4.30265 / math.sqrt(3), rel=1e-4)
    assert interval.p is not None and student_quantile(1 - interval.p, 2) == pytest.approx(2 * math.sqrt(3))
    alike = paired_log_ratio([1.0, 2.0], [1.0, 2.0])
    assert (alike.value, alike.low, alike.high) == (0, 0, 0) and alike.p == pytest.approx(1)
    assert paired_log_ratio([1.0], [2.0]).high == math.inf
    with pytest.raises(ValueError, match="not above 0"):
        paired_log_ratio([1.0, 0.0], [1.0, 1.0])
