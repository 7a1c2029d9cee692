"""Time of one decode step against the depth at which it is taken, and what a step costs on average over whole TTT cycles."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures import footer, panels
from bench.figures.data import Data
from bench.figures.frame import groups, records
from bench.figures.lines import APART_LATENCY, Array, Curve, Line, curve, lines, time_curve
from bench.figures.page import Layout, Page, legend_of
from bench.figures.style import digits, styled
from bench.stats import Interval

NAME = "decode_latency"
TITLE = "Decode time"
EXPERIMENTS = (NAME,)
# Percentiles of the samples that the axis shows; the few beyond are counted in the caption.
SHOWN = (0.5, 99.0)


def rows(data: Data) -> pd.DataFrame:
    """Times of decode steps."""
    return data.select(NAME, ["latency"], timing=True)


@styled
def draw(data: Data) -> Figure:
    """Left: median step and every step. Right: mean over whole cycles, which is what throughput pays."""
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, NAME, footer.alarms(data, table, EXPERIMENTS))
    page = Page(TITLE, Layout((1.0, 1.0), gap_in=0.85))
    left, right = page.axes
    drawn = lines(table, APART_LATENCY)
    curves = [time_curve(line, "context", lambda seconds, _: 1e3 * seconds) for line in drawn]
    means = [mean_step(line) for line in drawn]
    for ax, each in ((left, curves), (right, means)):
        panels.token_axis(page, ax, table.context, "depth: tokens in the state (1k = 1,024)")
        ax.set_yscale("log")
        for one in each:
            panels.draw_bars(ax, one)
            panels.draw_dots(ax, one, panels.SAMPLE)
    outside = _limit([left, right], curves, means)
    panels.mark_failures(page, left, data.failures(NAME, "context"), "context")
    left.set_ylabel("median time per step (ms)")
    right.set_ylabel("mean time per step, whole cycles (ms)")
    captions = [_caption(table, curves), *outside, *footer.published(table)]
    return page.finish(legend_of(drawn), captions, footer.alarms(data, table, EXPERIMENTS), footer.facts(table))


def _caption(table: pd.DataFrame, curves: Sequence[Curve]) -> str:
    batches = ", ".join(f"{int(batch)}" for batch in sorted(table.batch.unique()))
    text = f"Left: median of {footer.samples(curves)}, batch {batches}; dots: every step."
    cycles = sorted(int(size) for size in table.mini_batch.dropna().unique() if size > 1)
    words = " and ".join(str(size) for size in cycles)
    return text + (
        f" A TTT layer commits its weights at every {words}th step only: a median hides that cost, a mean does not."
        * bool(cycles)
    )


def mean_step(line: Line) -> Curve:
    """Mean over as many samples as make whole cycles of the inner mini-batch (all, for models without); no interval."""
    xs, intervals = [], []
    for x, part in groups(line.rows, "context"):
        whole = [
            _whole_cycles(row["samples"] or (row["value"],), row["mini_batch"])
            for row in records(part[["samples", "value", "mini_batch"]])
        ]
        steps = np.concatenate(whole)
        xs.append(x)
        intervals.append(Interval(1e3 * float(steps.mean()), -np.inf, np.inf, len(steps), "samples"))
    return curve(line.look, xs, intervals)


def _whole_cycles(samples: Sequence[float], mini_batch: float) -> Array:
    cycle = int(mini_batch) if mini_batch > 1 else 1
    return np.array(samples[: len(samples) // cycle * cycle or len(samples)])


def _limit(axes: Sequence[Axes], curves: Sequence[Curve], means: Sequence[Curve]) -> list[str]:
    """Ends both y axes where nearly all samples lie; a sentence on those that do not."""
    dots = np.array([y for one in curves for _, y in one.dots])
    lines_there = np.concatenate([one.value for one in [*curves, *means]])
    low = min(np.percentile(dots, SHOWN[0]), lines_there.min()) / 1.15
    high = max(np.percentile(dots, SHOWN[1]), lines_there.max()) * 1.15
    for ax in axes:
        ax.set_ylim(low, high)
        panels.plain_log_axis(ax)
    outside = dots[(dots < low) | (dots > high)]
    words = f"{len(outside)} of {len(dots)} samples lie outside the axis, the largest at {digits(dots.max())} ms."
    return [words] if len(outside) else []
