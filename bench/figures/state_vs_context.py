"""Bytes of state of one sequence against its length: what a decode step has to carry."""

import pandas as pd
from matplotlib.ticker import EngFormatter, NullLocator

from bench.figures import footer, panels
from bench.figures.data import Data
from bench.figures.lines import APART_LATENCY, curve, lines
from bench.figures.page import Layout, Page, Sheet, legend_of
from bench.figures.style import styled
from bench.stats import Interval

NAME = "state_vs_context"
TITLE = "State size"
EXPERIMENTS = (NAME,)


def rows(data: Data) -> pd.DataFrame:
    """State sizes."""
    return data.select(NAME, ["state"])


@styled
def draw(data: Data) -> Sheet:
    """Bytes over context, both on log axes."""
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, NAME, footer.alarms(data, table, EXPERIMENTS))
    page = Page(TITLE, Layout(height_in=3.0))
    (ax,) = page.axes
    drawn = lines(table, [name for name in APART_LATENCY if name != "device"])
    panels.token_axis(page, ax, table.context, "context (tokens, 1k = 1,024)")
    ax.set_yscale("log")
    for line in drawn:
        points = line.rows.groupby("context").value.mean()
        counted = [Interval(value, -float("inf"), float("inf"), 1, "samples") for value in points]
        panels.draw_curve(ax, curve(line.look, list(points.index), counted))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(EngFormatter(unit="B"))
    panels.mark_failures(page, ax, data.failures(NAME, "context"), "context")
    ax.set_ylabel("state (byte)")
    batches = ", ".join(f"{int(batch)}" for batch in sorted(table.batch.unique()))
    caption = f"Size of the preallocated state, all layers, batch {batches}; counted, so without interval. 1 kB = 1,000 B."
    return page.finish(
        legend_of(drawn),
        [caption, *footer.published(table)],
        footer.alarms(data, table, EXPERIMENTS),
        footer.facts(table),
    )
