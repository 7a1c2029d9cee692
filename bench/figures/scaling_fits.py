"""Fits of loss against training FLOPs, and the compute-equivalent gain of each pair of models, with bootstrap intervals."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bench.figures import footer, panels, perplexity_vs_flops
from bench.figures.data import Data
from bench.figures.frame import groups
from bench.figures.lines import Line, lines, loss_curve, windows_of
from bench.figures.page import Layout, Page, Sheet, legend_of
from bench.figures.style import INK, digits, styled
from bench.scaling import FREE, LEAST, Array, Fit, fitted, gains
from bench.stats import MIN_CLUSTERS, Interval, Spread, Unit, pooled_spread, resampled_means

TITLE = "Scaling fits and compute-equivalent gain"
EXPERIMENTS = ("train",)
# Curves are fitted and compared where all of this agrees; the size may follow the budget.
TASK = ["match", "convention", "train_context", "data", "tokenizer"]
LEVEL = 0.95


@dataclass(frozen=True)
class Fitted:
    """A model's fit; ``flops``: its budgets; n clusters of ``unit`` stand behind its resamples.

    misfit: the largest distance of a measured loss from the curve, nat/token.
    """

    line: Line
    flops: Array
    fit: Fit
    n: int
    unit: Unit
    misfit: float

    @property
    def label(self) -> str:
        """The model, as the legend calls it."""
        return self.line.look.label


@dataclass(frozen=True)
class Gain:
    """The first needs ``times`` the FLOPs of the second to its loss at ``flops``; beyond: outside the first's budgets."""

    first: Fitted
    second: Fitted
    flops: float
    times: Interval

    @property
    def beyond(self) -> bool:
        """Whether the first's curve is read outside the budgets that it was trained with."""
        needed = self.times.value * self.flops
        return not self.first.flops.min() * 0.99 <= needed <= self.first.flops.max() * 1.01

    @property
    def sentence(self) -> str:
        """In words, for people."""
        bounds = f"{digits(self.times.low)} to {digits(self.times.high)}" if math.isfinite(self.times.high) else "no interval"
        read = ", read beyond its own budgets" if self.beyond else ""
        what = f"{self.first.label} needs {digits(self.times.value)} ({bounds}) times the FLOPs of {self.second.label}"
        return f"{what} for its loss at {digits(self.flops)}{read}."


def rows(data: Data) -> pd.DataFrame:
    """Held-out losses of trained models: one's own, or published ones where there are none."""
    table = perplexity_vs_flops.rows(data)
    own = table[~table.published.astype(bool)]
    return own if len(own) else table


def fits(table: pd.DataFrame) -> tuple[list[list[Fitted]], list[str]]:
    """The fits of each task that has any, and sentences on lines with too few budgets."""
    found, lacking = [], []
    for task, part in groups(table, TASK):
        drawn = [line for line in lines(part, perplexity_vs_flops.apart(part)) if np.isfinite(line.rows.value).all()]
        spread = pooled_spread([cell.value.tolist() for line in drawn for _, cell in groups(line.rows, "train_flops")])
        enough = [line for line in drawn if line.rows.train_flops.nunique() >= LEAST]
        few = {line.look.label: line.rows.train_flops.nunique() for line in drawn if line not in enough}
        if few:
            named = ", ".join(f"{label} ({count})" for label, count in few.items())
            lacking.append(f"Not enough budgets for a fit at context {panels.tokens_label(task[2])} ({LEAST} needed): {named}.")
        if enough:
            found.append([_fitted(line, spread, number) for number, line in enumerate(enough)])
    return found, lacking


def _fitted(line: Line, spread: Spread | None, number: int) -> Fitted:
    """All models are resampled by the same documents; each cell moves by the error of its own seeds."""
    cells = [(flops, part) for flops, part in groups(line.rows, "train_flops")]
    windows = [windows_of(part) for _, part in cells]
    if not all(one.pairs_with(windows[0]) for one in windows):
        raise ValueError(f"runs {', '.join(line.rows.run_id)} differ in their evaluation windows; repeat these runs")
    means, n, unit = resampled_means([one.values for one in windows], windows[0].counts, windows[0].documents)
    if spread is not None:
        share = np.array([spread.error / math.sqrt(len(part)) for _, part in cells])
        drawn = np.random.default_rng([1, number]).standard_t(spread.freedom, means[:, 1:].shape)
        means[:, 1:] += share[:, None] * drawn
    flops = np.array([flops for flops, _ in cells])
    fit = fitted(flops, means)
    misfit = max(abs(fit.losses(c)[0] - loss) for c, loss in zip(flops, means[:, 0], strict=True))
    return Fitted(line, flops, fit, n, unit, float(misfit))


def gains_of(each: Sequence[Fitted]) -> Iterator[Gain]:
    """Of every pair, at the middle, geometrically, of the second's budgets."""
    for second, first in combinations(
        sorted(each, key=lambda one: one.line.look.series not in perplexity_vs_flops.REFERENCES), 2
    ):
        flops = math.exp(float(np.log(second.flops).mean()))
        times = gains(first.fit, second.fit, flops)
        yield Gain(first, second, flops, _interval(times, first))


def _interval(values: Array, one: Fitted) -> Interval:
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    known = one.n >= MIN_CLUSTERS
    return Interval(float(values[0]), float(low) if known else -math.inf, float(high) if known else math.inf, one.n, one.unit)


@styled
def draw(data: Data) -> Sheet:
    """Left: perplexity with its fits and their bands. Right: FLOPs that one needs for the other's loss. A row for each task."""
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, "train", footer.alarms(data, table, EXPERIMENTS))
    found, lacking = fits(table)
    layout = Layout((1.0, 0.75), rows=len(found), gap_in=2.3, axis_in=0.66) if found else panels.NOTHING
    page = Page(TITLE, layout)
    said: list[str] = []
    for number, each in enumerate(found):
        said += _row(page.axes[2 * number], page.axes[2 * number + 1], each)
    if not found:
        page.axes[0].set_axis_off()
    drawn = [one.line for each in found for one in each]
    captions = [_about(found, table), *said, *footer.published(table)] if found else footer.published(table)
    return page.finish(legend_of(drawn), captions, [*lacking, *footer.alarms(data, table, EXPERIMENTS)], footer.facts(table))


def _row(left: Axes, right: Axes, each: Sequence[Fitted]) -> list[str]:
    """Draws a task; a sentence for each gain."""
    for one in each:
        points = loss_curve(one.line, "train_flops").map(np.exp)
        panels.draw_dots(left, points, panels.SEED)
        look = one.line.look.kwargs
        left.plot(points.x, points.value, **look | {"linestyle": ""})
        x = np.geomspace(one.flops.min(), one.flops.max(), 40)
        curves = np.exp(np.stack([one.fit.losses(flops) for flops in x]))
        left.plot(x, curves[:, 0], **look | {"marker": ""})
        if one.n >= MIN_CLUSTERS:
            low, high = np.quantile(curves[:, 1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
            left.fill_between(x, low, high, color=one.line.look.colour, alpha=0.16, linewidth=0, gid=one.line.look.gid)
    context = panels.tokens_label(each[0].line.rows.train_context.iloc[0])
    left.set_title(f"trained at {context}", loc="left")
    left.set_xscale("log")
    left.set_yscale("log")
    left.xaxis.set_minor_locator(NullLocator())
    left.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0), numticks=20))
    left.xaxis.set_major_formatter(FuncFormatter(lambda x, _: digits(x, 1)))
    panels.plain_log_axis(left)
    left.set_xlabel("training FLOPs, realised")
    left.set_ylabel("perplexity per token (log)")
    return _forest(right, list(gains_of(each)))


def _forest(ax: Axes, pairs: Sequence[Gain]) -> list[str]:
    shown = [one for one in pairs if math.isfinite(one.times.value)]
    if not shown:
        ax.set_axis_off()
        return []
    for place, one in enumerate(shown):
        value = one.times.value
        around = np.array([[value - one.times.low], [one.times.high - value]])
        bars = around if np.isfinite(around).all() else None
        style = {**one.first.line.look.kwargs, "linestyle": ""}
        ax.errorbar([value], [place], xerr=bars, capsize=2.5, elinewidth=1, **style)
    ax.axvline(1, color=INK, linewidth=1, zorder=1)
    ax.set_yticks(range(len(shown)), [f"{one.first.label} / {one.second.label}" for one in shown])
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ends = [end for one in shown for end in (one.times.low, one.times.high, one.times.value, 1.0) if 0 < end < math.inf]
    low, high = min(ends) / 1.2, max(ends) * 1.2
    ax.set_xlim(low, high)
    if high > 4 * low:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
    ax.set_xlabel("FLOPs / FLOPs for the same loss\n(below 1: the first needs less)")
    return [one.sentence for one in pairs]


def _about(found: Sequence[Sequence[Fitted]], table: pd.DataFrame) -> str:
    counts = [len(one.flops) for each in found for one in each]
    line = f"Lines: log loss linear in log FLOPs ({footer.count_of(counts, 'budget')}; from {FREE} on L = a + b C^−α)."
    if max(counts) >= FREE:
        line = f"Lines: L = a + b C^−α from {FREE} budgets on, else a = 0 ({footer.count_of(counts, 'budget')})."
    first = found[0][0]
    several = table.groupby(["series", "size", "budget_flops"]).seed.nunique().max() > 1
    of_seeds = ", moved by the error of the seeds" if several else "; nothing was trained twice: another seed may say otherwise"
    counted = footer.count_of([first.n], first.unit[:-1])
    sure = f"{100 * LEVEL:.3g} % bootstrap over {counted}, the same for every model" if first.n >= MIN_CLUSTERS else "none"
    worst = max(one.misfit for each in found for one in each)
    return (
        f"{line} Intervals: {sure}{of_seeds} ({footer.seeds(table)}). They do not cover that the true curve has another form: "
        f"a point is off its line by {digits(worst, 2)} nat/token at most. The size may grow with the budget. "
        "The paper fits no curves."
    )
