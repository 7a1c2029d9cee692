"""Intervals and comparisons: how sure a number is, and what n stands behind it.

A model's loss is the mean over targets, R = Σ S_c / Σ W_c, over clusters c with W_c targets whose losses sum to S_c. Targets
of a document share its difficulty, so the cluster that is resampled is the document, or, where there are fewer than 8, the
window, drawn anew within its document; such an interval speaks of those documents only, not of others.

The bounds are those of the bootstrap-t (Efron and Tibshirani 1993, section 12.5): R − q·σ, with q the upper and the lower
quantile of t* = (R* − R)/σ* over resamples, and σ the linearised standard error of a ratio (Cochran 1977, section 6.4),
its square summed over strata. Plain percentiles cover too rarely where clusters are few; bench/tests/test_stats.py shows it.

What the choice of text does not cover, the seed of a training, is a `Spread`: pooled over all that was trained twice or more,
with Student's t for its bounds. The two errors are independent, so their margins add up in squares (Zou and Donner 2008).

Times are compared in pairs too: models take turns, and log(a / b) of a round is free of what slows the whole round.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Unit = Literal["documents", "windows", "samples", "rounds"]

MIN_DOCUMENTS = 8
# With fewer clusters than this in a stratum, resamples of one and the same cluster (σ* = 0) reach the 95 % quantile.
MIN_CLUSTERS = 4


@dataclass(frozen=True)
class Interval:
    """`value` with bounds `low` and `high` that hold the true one with probability `level`, from `n` of `unit`.

    Infinite bounds mean that n is too small for any. p: the largest 1 - level at which the bounds still hold 0, so the
    two-sided probability of a value as far from 0, were the true one 0; None where it is not known.
    """

    value: float
    low: float
    high: float
    n: int
    unit: Unit
    level: float = 0.95
    p: float | None = None

    @property
    def caption(self) -> str:
        """What a figure's caption says of the interval."""
        source = f"{self.n} {self.unit if self.n > 1 else self.unit[:-1]}"
        bounded = math.isfinite(self.high - self.low)
        return f"{100 * self.level:.3g} % interval over {source}" if bounded else f"no interval from {source}"


@dataclass(frozen=True)
class Spread:
    """A standard error with `freedom` degrees of freedom, of what varies independently of the text."""

    error: float
    freedom: int

    def margin(self, level: float) -> float:
        """Half the width of its interval."""
        return self.error * student_quantile(level, self.freedom) if self.error else 0.0


def pooled_spread(cells: Iterable[Sequence[float]]) -> Spread | None:
    """Standard deviation within cells, each of which holds the values of its seeds; None where none holds two."""
    several = [np.asarray(cell, dtype=np.float64) for cell in cells if len(cell) > 1]
    freedom = sum(len(cell) - 1 for cell in several)
    squares = sum(float(((cell - cell.mean()) ** 2).sum()) for cell in several)
    return Spread(math.sqrt(squares / freedom), freedom) if freedom else None


def student_quantile(level: float, freedom: int) -> float:
    """t with P(|T| <= t) = level (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4); freedom: 1 or more."""
    odd = freedom % 2

    def within(angle: float) -> float:
        """P(|T| <= sqrt(freedom) tan(angle))."""
        square, total, term = math.cos(angle) ** 2, 0.0, math.cos(angle) if odd else 1.0
        for n in range(1 + odd, freedom, 2):
            total += term
            term *= n / (n + 1) * square
        total *= math.sin(angle)
        return 2 / math.pi * (angle + total) if odd else total

    return math.sqrt(freedom) * math.tan(_first(lambda angle: within(angle) >= level, math.pi / 2))


def _first(holds: Callable[[float], bool], high: float) -> float:
    """The smallest x in (0, high) from which on a condition holds, by bisection; `high` where it never does."""
    low = 0.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def cluster_mean(
    values: ArrayLike,
    weights: ArrayLike,
    documents: ArrayLike,
    windows: ArrayLike | None = None,
    *,
    spread: Spread | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of `values` weighted by `weights`, with its cluster-bootstrap interval.

    values [N]: mean loss of each row's targets, any unit. weights [N]: how many targets those are. documents [N]: the document
    of each row, str or int. windows [N]: its window within that document; without them every row is a window. Windows must not
    overlap. Where a document has fewer than 4 windows, windows are drawn from all documents at once, which errs on the wide
    side; with fewer than 4 clusters in all the bounds are infinite. The same input and seed give the same bounds.
    spread: a further, independent error of the mean, which the bounds then cover too. p is 2 / resamples at least.

    ValueError: empty, unequal lengths, not finite, weights not positive, level outside (0, 1), too few resamples for the level.
    """
    y, w = _column("values", values), _column("weights", weights)
    _same_length("weights", w, y, "values")
    if w.min() <= 0:
        raise ValueError(f"weights[{w.argmin()}] is {w.min()}: a weight is a number of targets; leave out rows without any")
    if not 0 < level < 1 or resamples * (1 - level) < 20 - 1e-9:
        raise ValueError(f"level {level}, {resamples} resamples: use a level in (0, 1), 20 / (1 - level) resamples or more")
    cluster, sizes, unit = _clusters(_codes("documents", documents, y), _codes("windows", windows, y))
    sums: Array = np.bincount(cluster, w * y).astype(np.float64)
    totals: Array = np.bincount(cluster, w).astype(np.float64)
    value, n = float(sums.sum() / totals.sum()), len(totals)
    if n < MIN_CLUSTERS:
        return Interval(value, -math.inf, math.inf, n, unit, level, 1.0)
    shift, error = _replicates(sums, totals, sizes, _draws(sizes, resamples, seed))
    t = np.copysign(np.inf, shift[1:])
    np.divide(shift[1:], error[1:], out=t, where=error[1:] > 1e-9 * error[0])
    t.sort()
    alike = error[0] <= 1e-12 * np.abs(y).max()  # nothing but rounding is left to studentise

    def bounds(level: float) -> tuple[float, float]:
        """The quantiles are members of t: interpolating between infinite ones would give NaN."""
        places = (math.ceil(share * len(t) - 1e-9) for share in ((1 - level) / 2, (1 + level) / 2))
        lower, upper = (0.0 if alike else float(t[max(place, 1) - 1]) * float(error[0]) for place in places)
        if spread is not None:
            margin = spread.margin(level)
            upper, lower = math.hypot(upper, margin), -math.hypot(lower, margin)
        return value - upper, value - lower

    def hold_zero(level: float) -> bool:
        lower, upper = bounds(level)
        return lower <= 0 <= upper

    low, high = bounds(level)
    p = 1 - _first(hold_zero, 1.0)
    return Interval(value, low, high, n, unit, level, max(p, 2 / resamples))


def resampled_means(
    values: ArrayLike, weights: ArrayLike, documents: ArrayLike, *, resamples: int = 2000, seed: int = 0
) -> tuple[Array, int, Unit]:
    """Means [M, 1 + resamples] of M losses of the same N rows, `values` [M, N], over the same resamples of clusters.

    Column 0 is the sample itself; `weights` and `documents` as for `cluster_mean`. Then the number of clusters and what one is.
    ValueError: lengths that differ, not finite.
    """
    w = _column("weights", weights)
    each = np.stack([_column("values", row) for row in np.asarray(values, dtype=np.float64)])
    _same_length("weights", w, each[0], "values")
    cluster, sizes, unit = _clusters(_codes("documents", documents, w), np.arange(len(w)))
    sums = np.stack([np.bincount(cluster, w * row) for row in each])
    totals, draws = np.bincount(cluster, w), _draws(sizes, resamples, seed)
    return sums @ draws.T / (draws @ totals), len(totals), unit


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    weights: ArrayLike,
    documents: ArrayLike,
    windows: ArrayLike | None = None,
    *,
    spread: Spread | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Mean of a − b over the same targets, row by row; arguments and errors as for `cluster_mean`. Negative: a is lower."""
    first, second = _column("a", a), _column("b", b)
    _same_length("b", second, first, "a")
    return cluster_mean(first - second, weights, documents, windows, spread=spread, level=level, resamples=resamples, seed=seed)


def median_interval(samples: ArrayLike, level: float = 0.95) -> Interval:
    """Median of independent samples between two order statistics, for any distribution (David and Nagaraja 2003, section 7.1).

    The k-th smallest and k-th largest hold the median with probability 1 − 2·P(Binomial(n, ½) < k); k is the largest for which
    that is at least `level`, and `Interval.level` is that probability. Below 6 samples k = 1 and it falls short of 0.95.

    ValueError: empty, not finite, level outside (0, 1).
    """
    x = np.sort(_column("samples", samples))
    if not 0 < level < 1:
        raise ValueError(f"level {level}: use a level in (0, 1), such as 0.95")
    n, k = len(x), 1
    ways = below = 1  # C(n, k − 1) and its sum so far, exact integers
    while 1 - 2 * (below + (ways := ways * (n - k + 1) // k)) / 2**n >= level:
        below, k = below + ways, k + 1
    return Interval(float(np.median(x)), float(x[k - 1]), float(x[n - k]), n, "samples", 1 - 2 * below / 2**n)


def ratio_interval(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """Ratio of the medians of two independent samples of positive numbers, a over b.

    Each median's interval has half the error that the ratio's may have, so that both hold with probability `level`; with too
    few samples for that the bounds are infinite. `Interval.n` is the smaller number of samples.
    ValueError: as for `median_interval`; not all of b is above 0.
    """
    if np.min(_column("b", b)) <= 0:
        raise ValueError("a sample of b is not above 0: a ratio to it has no meaning")
    each = 1 - (1 - level) / 2
    top, bottom = median_interval(a, each), median_interval(b, each)
    known = min(top.level, bottom.level) >= each
    low, high = (top.low / bottom.high, top.high / bottom.low) if known else (-math.inf, math.inf)
    return Interval(top.value / bottom.value, low, high, min(top.n, bottom.n), "samples", level)


def paired_log_ratio(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of log(a / b) over rounds, in each of which both took their turn; what slows a whole round cancels.

    Entry i of either is round i; rounds that one of them did not come to are left out. The block that is resampled is the round
    (bootstrap-t); of fewer than 8 rounds resamples are few, and bounds and p are Student's t. One round has no bounds.
    ValueError: empty, not finite, not above 0.
    """
    first, second = _column("a", a), _column("b", b)
    n = min(len(first), len(second))
    if min(first.min(), second.min()) <= 0:
        raise ValueError("a time is not above 0: its logarithm has no meaning")
    difference = np.log(first[:n] / second[:n])
    if n >= MIN_DOCUMENTS:
        return replace(cluster_mean(difference, np.ones(n), np.arange(n), level=level, resamples=20_000), unit="rounds")
    value = float(difference.mean())
    if n == 1:
        return Interval(value, -math.inf, math.inf, n, "rounds", level, 1.0)
    error = Spread(float(difference.std(ddof=1)) / math.sqrt(n), n - 1)
    margin, p = error.margin(level), 1 - _first(lambda share: error.margin(share) >= abs(value), 1.0)
    return Interval(value, value - margin, value + margin, n, "rounds", level, p)


def share_interval(samples: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of independent numbers from 0 to 1, right or wrong, by Wilson's score interval (Brown, Cai and DasGupta 2001).

    It is that of a share, which has the largest variance for its mean: with samples between 0 and 1 it errs on the wide side.
    ValueError: empty, not finite, not from 0 to 1, level outside (0, 1).
    """
    x = _column("samples", samples)
    if x.min() < 0 or x.max() > 1 or not 0 < level < 1:
        raise ValueError(f"samples from {x.min()} to {x.max()}, level {level}: use shares from 0 to 1 and a level in (0, 1)")
    n, mean, z = len(x), float(x.mean()), NormalDist().inv_cdf((1 + level) / 2)
    middle = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + (z / (2 * n)) ** 2)
    low, high = min(mean, middle - half), max(mean, middle + half)  # rounding
    return Interval(mean, max(0.0, low), min(1.0, high), n, "samples", level)


def holm(p: Sequence[float]) -> list[float]:
    """Each probability adjusted for all that were asked together, in their order (Holm 1979)."""
    order, adjusted, largest = sorted(range(len(p)), key=lambda i: p[i]), [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


Judgement = Literal["equal", "different", "cannot tell"]


def verdict(difference: Interval, equal_within: float, level: float = 0.95, p: float | None = None) -> Judgement:
    """What a difference shows: equal where the whole interval lies within ±equal_within, else different where it excludes 0.

    equal_within has the unit of the difference. An interval of less than `level` shows nothing. p: the probability that `holm`
    gives where several differences are asked together; it must then also be at most 1 - level for them to be different.
    ValueError: equal_within is not above 0.
    """
    if not 0 < equal_within < math.inf:
        raise ValueError(f"equal_within is {equal_within}: give the largest difference that does not matter, above 0")
    if difference.level < level:
        return "cannot tell"
    if -equal_within <= difference.low and difference.high <= equal_within:
        return "equal"
    excluded = difference.low > 0 or difference.high < 0
    return "different" if excluded and (p is None or p <= 1 - level + 1e-12) else "cannot tell"


def _clusters(document: NDArray[np.intp], window: NDArray[np.intp]) -> tuple[NDArray[np.intp], tuple[int, ...], Unit]:
    """Cluster of each row [N], numbered stratum after stratum; clusters in each stratum; what a cluster is."""
    n_documents, n_windows = int(document.max()) + 1, int(window.max()) + 1
    if n_documents >= MIN_DOCUMENTS:
        return document, (n_documents,), "documents"
    keys, cluster = np.unique(document * n_windows + window, return_inverse=True)
    sizes = np.bincount(keys // n_windows)
    return cluster, tuple(sizes.tolist()) if sizes.min() >= MIN_CLUSTERS else (len(keys),), "windows"


@lru_cache(maxsize=8)  # every point of a curve has the same clusters
def _draws(sizes: tuple[int, ...], resamples: int, seed: int) -> Array:
    """How often each cluster is drawn [1 + resamples, clusters], within strata; row 0 is the sample itself."""
    rng = np.random.default_rng(seed)
    drawn = np.concatenate([rng.multinomial(m, np.full(m, 1 / m), size=resamples) for m in sizes], axis=1)
    draws: Array = np.concatenate([np.ones((1, sum(sizes))), drawn])
    draws.flags.writeable = False
    return draws


def _replicates(sums: Array, totals: Array, sizes: tuple[int, ...], draws: Array) -> tuple[Array, Array]:
    """R* − R and σ* for every row of draws.

    σ² = Σ_h m/(m−1) Σ_c (e_c − ē_h)² / (Σ W)², with e_c = S_c − R·W_c and m clusters c in stratum h.
    """
    residual, weight = sums - sums.sum() / totals.sum() * totals, draws @ totals
    shift, variance = draws @ residual / weight, np.zeros(len(draws))
    for part in np.split(np.arange(len(sums)), np.cumsum(sizes)[:-1]):
        d, r, w = draws[:, part], residual[part] - residual[part].mean(), totals[part]
        squares = d @ (r * r) - 2 * shift * (d @ (r * w)) + shift**2 * (d @ (w * w))
        variance += (squares - (d @ r - shift * (d @ w)) ** 2 / len(part)) * len(part) / (len(part) - 1)
    return shift, np.sqrt(np.maximum(variance, 0)) / weight  # rounding can leave a zero just below zero


def _column(name: str, data: ArrayLike) -> Array:
    column = np.asarray(data, dtype=np.float64)
    if column.ndim != 1 or not len(column):
        raise ValueError(f"{name} has shape {column.shape}: give a flat list with at least one entry")
    if not np.isfinite(column).all():
        worst = int(np.argmin(np.isfinite(column)))
        raise ValueError(f"{name}[{worst}] is {column[worst]}, not a finite number: leave out runs that diverged or failed")
    return column


def _codes(name: str, labels: ArrayLike | None, values: Array) -> NDArray[np.intp]:
    column = np.arange(len(values)) if labels is None else np.asarray(labels)
    _same_length(name, column, values, "values")
    return np.unique(column, return_inverse=True)[1]


def _same_length(name: str, column: NDArray[np.generic], other: Array, other_name: str) -> None:
    if column.shape != other.shape:
        raise ValueError(f"{name} has shape {column.shape}, {other_name} {other.shape}: both need one entry for each row")
