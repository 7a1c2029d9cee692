"""Time of a whole prefill against its length, and time per token."""

import pandas as pd
from matplotlib.axes import Axes

from bench.figures import footer, panels
from bench.figures.data import Data
from bench.figures.lines import APART_LATENCY, Curve, Line, lines, time_curve
from bench.figures.page import Layout, Page, Sheet, legend_of
from bench.figures.style import styled

NAME = "prefill_latency"
TITLE = "Prefill time"
EXPERIMENTS = (NAME,)


def rows(data: Data) -> pd.DataFrame:
    """Times of prefill calls."""
    return data.select(NAME, ["latency"], timing=True)


@styled
def draw(data: Data) -> Sheet:
    """Left: seconds per prefill of the batch. Right: microseconds per token."""
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, NAME, footer.alarms(data, table, EXPERIMENTS))
    page = Page(TITLE, Layout((1.0, 1.0), gap_in=0.85))
    left, right = page.axes
    drawn = lines(table, APART_LATENCY)
    curves = [time_curve(line, "context") for line in drawn]
    for ax, each in ((left, curves), (right, [_per_token(line) for line in drawn])):
        panels.token_axis(page, ax, table.context, "tokens prefilled (1k = 1,024)")
        ax.set_yscale("log")
        for one in each:
            _draw(ax, one)
        panels.plain_log_axis(ax)
    panels.mark_failures(page, left, data.failures(NAME, "context"), "context")
    batches = ", ".join(f"{int(batch)}" for batch in sorted(table.batch.unique()))
    left.set_ylabel("time per prefill (s)")
    right.set_ylabel("time per token (µs)")
    caption = f"Line: median of {footer.samples(curves)}, batch {batches}; dots: every sample."
    return page.finish(
        legend_of(drawn),
        [caption, *footer.published(table)],
        footer.alarms(data, table, EXPERIMENTS),
        footer.facts(table),
    )


def _per_token(line: Line) -> Curve:
    batch = float(line.rows.batch.iloc[0])
    return time_curve(line, "context", lambda seconds, tokens: 1e6 * seconds / (tokens * batch))


def _draw(ax: Axes, one: Curve) -> None:
    panels.draw_bars(ax, one)
    panels.draw_dots(ax, one, panels.SAMPLE)
