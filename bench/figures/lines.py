"""Rows to lines, lines to curves: which rows one line connects, and the interval at each of its points."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.figures.frame import groups, records
from bench.figures.style import Look, look_of
from bench.stats import Interval, Spread, cluster_mean, median_interval

Array = NDArray[np.float64]

# What must not be mixed in one line; where a model's rows differ in one of these, it gets a line for each value.
APART = (
    "size",
    "budget_flops",
    "match",
    "convention",
    "train_context",
    "data",
    "tokenizer",
    "dtype",
    "mini_batch",
    "impl",
    "exec",
    "lr",
)
APART_LATENCY = (*APART, "batch", "device")
# Losses after training are compared where all of this agrees.
SAME_TASK = ["budget_flops", "size", "match", "convention", "train_context", "data", "tokenizer", "published"]


@dataclass(frozen=True)
class Line:
    """Rows that one line connects: one model, own or published, alike in everything that must not be mixed."""

    look: Look
    rows: pd.DataFrame


@dataclass(frozen=True)
class Windows:
    """Losses of the same evaluation windows, averaged over seeds: mean, number of targets and document of each, all [N]."""

    values: Array
    counts: Array
    documents: NDArray[np.integer[Any]]

    def pairs_with(self, other: "Windows") -> bool:
        """Whether these are the same windows."""
        return np.array_equal(self.documents, other.documents) and np.array_equal(self.counts, other.counts)

    def interval(self, other: "Windows | None" = None, spread: Spread | None = None) -> Interval:
        """Mean, or mean paired difference to ``other``, with its cluster-bootstrap interval; inf where a loss is not finite.

        spread: of the seeds, for an interval that covers them too.
        """
        values = self.values if other is None else self.values - other.values
        if not len(values) or not np.isfinite(values).all():
            return Interval(math.inf, -math.inf, math.inf, len(values), "windows")
        return cluster_mean(values, self.counts, self.documents, spread=spread)


@dataclass(frozen=True)
class Curve:
    """Points of one line. x, value, low, high: [P], an unknown bound is NaN, a value that is not finite is +inf.

    ``n`` clusters (``unit``) stand behind each point; ``dots``: single seeds or samples as (x, y).
    """

    look: Look
    x: Array
    value: Array
    low: Array
    high: Array
    n: tuple[int, ...]
    unit: str
    dots: tuple[tuple[float, float], ...] = ()

    def map(self, function: Callable[[Array], Array]) -> "Curve":
        """The curve with ``function``, which must be increasing, of its values."""
        with np.errstate(over="ignore"):
            mapped: dict[str, Any] = {name: function(getattr(self, name)) for name in ("value", "low", "high")}
            mapped |= {name: np.where(np.isfinite(mapped[name]), mapped[name], np.nan) for name in ("low", "high")}
            dots = tuple((x, float(function(np.array(y)))) for x, y in self.dots)
        return replace(self, **mapped, dots=dots)


def lines(rows: pd.DataFrame, apart: Sequence[str] = APART) -> list[Line]:
    """The lines of a figure, in the order of the legend. Published rows are marked as such where own rows are there too."""
    marked = not rows.published.astype(bool).all()
    found = []
    for (series, published), mine in groups(rows, ["series", "published"]):
        varying = [name for name in apart if mine[name].nunique(dropna=False) > 1]
        for number, (values, part) in enumerate(groups(mine, varying) if varying else [((), mine)]):
            look = look_of(series, published and marked, number)
            words = ", ".join(_word(name, value) for name, value in zip(varying, values, strict=True))
            found.append(Line(replace(look, label=f"{look.label}, {words}" if words else look.label), part))
    return sorted(found, key=lambda line: line.look.order)


def _word(name: str, value: object) -> str:
    number = f"{value:.4g}" if isinstance(value, float) else str(value)
    return number if name in ("size", "data", "impl", "exec", "dtype", "device") else f"{name.replace('_', ' ')} {number}"


def windows_of(rows: pd.DataFrame) -> Windows:
    """The windows of one point: ``rows`` holds one row per seed. A point without samples is a point without windows.

    ValueError: the seeds were not evaluated on the same windows, or a row's clusters do not count its samples.
    """
    each = [_windows(*row) for row in zip(rows.run_id, rows.samples, rows.target_counts, rows.clusters, strict=True)]
    if not all(each[0].pairs_with(one) for one in each):
        raise ValueError(
            f"runs {', '.join(rows.run_id)} differ in their evaluation windows; draw them apart or repeat one of them",
        )
    return replace(each[0], values=np.mean([one.values for one in each], axis=0))


def _windows(run_id: str, samples: Sequence[float], counts: Sequence[float], clusters: Any) -> Windows:
    names, sizes = (
        zip(*(part.rsplit(":", 1) for part in clusters.split(",")), strict=True)
        if isinstance(clusters, str)
        else ([0], [len(samples)])
    )
    documents = np.repeat(np.arange(len(names)), np.array(sizes, dtype=int))
    weights = np.array(counts, dtype=float) if len(counts) else np.ones(len(samples))
    if len(samples) and not len(samples) == len(documents) == len(weights):
        raise ValueError(
            f"run {run_id}: a row has {len(samples)} samples, its clusters count {len(documents)}, "
            f"its targets {len(weights)}; the run is damaged, delete its folder and run it again",
        )
    return Windows(np.array(samples, dtype=float), weights, documents[: len(samples)])


def loss_curve(line: Line, x: str) -> Curve:
    """The line's losses over ``x`` (mean over seeds) with cluster-bootstrap intervals; dots are the seeds if several."""
    points = [(place, windows_of(part).interval(), part.value) for place, part in groups(line.rows, x)]
    # a row's own value, which needs no samples, unless it is not finite
    intervals = [replace(interval, value=float(values.mean(skipna=False))) for _, interval, values in points]
    dots = tuple((place, y) for place, _, values in points if len(values) > 1 for y in values)
    return curve(line.look, [place for place, _, _ in points], intervals, dots)


def change_curve(line: Line, x: str) -> Curve:
    """Paired difference of the loss at each ``x`` to the loss of the same windows at the smallest ``x``."""
    points = [(place, windows_of(part)) for place, part in groups(line.rows, x)]
    first = points[0][1]
    if not all(first.pairs_with(windows) for _, windows in points):
        raise ValueError(
            f"runs {', '.join(line.rows.run_id.unique())}: the windows differ between values of {x}; repeat these runs",
        )
    return curve(line.look, [place for place, _ in points], [windows.interval(first) for _, windows in points])


def time_curve(line: Line, x: str, scale: Callable[[float, float], float] = lambda seconds, x: seconds) -> Curve:
    """Median over all samples at each ``x`` with its interval; dots are the samples. scale: (seconds, x) → y."""
    points = []
    for place, part in groups(line.rows, x):
        seconds = [s for row in records(part[["samples", "value"]]) for s in (row["samples"] or (row["value"],))]
        points.append((float(place), [scale(s, float(place)) for s in seconds]))
    dots = tuple((place, y) for place, ys in points for y in ys)
    return curve(line.look, [place for place, _ in points], [_median(ys) for _, ys in points], dots)


def _median(samples: Sequence[float]) -> Interval:
    """As ``median_interval``; without bounds where the samples are too few for 95 %."""
    interval = median_interval(samples)
    return interval if interval.level >= 0.95 else replace(interval, low=-math.inf, high=math.inf)


def curve(look: Look, x: Sequence[float], intervals: Sequence[Interval], dots: tuple[tuple[float, float], ...] = ()) -> Curve:
    """A curve through intervals; bounds that are infinite become NaN, values that are not finite +inf."""
    value = np.array([one.value if math.isfinite(one.value) else math.inf for one in intervals])
    bounds = np.array([(one.low, one.high) for one in intervals]).reshape(-1, 2)
    bounds[~np.isfinite(bounds).all(axis=1)] = np.nan
    unit = intervals[0].unit if intervals else "windows"
    counts = tuple(one.n for one in intervals)
    return Curve(look, np.array(x, dtype=float), value, bounds[:, 0], bounds[:, 1], counts, unit, dots)
