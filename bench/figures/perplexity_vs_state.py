"""Perplexity against the bytes of state that a model carries at its training context: what forgetting less costs."""

import numpy as np
import pandas as pd
from matplotlib.ticker import EngFormatter

from bench.figures import footer, panels, perplexity_vs_flops
from bench.figures.data import Data
from bench.figures.frame import groups
from bench.figures.lines import APART, Curve, Line, lines, loss_curve
from bench.figures.page import Layout, Page, Sheet, legend_of
from bench.figures.style import digits, styled

TITLE = "Perplexity against state"
EXPERIMENTS = ("train",)


def rows(data: Data) -> pd.DataFrame:
    """Held-out losses of trained models, at the largest budget of each size and context."""
    table = perplexity_vs_flops.rows(data)
    largest = table.groupby(["size", "train_context"]).budget_flops.transform("max")
    return table[table.budget_flops == largest] if len(table) else table


@styled
def draw(data: Data) -> Sheet:
    """A panel for each size and training context, a point for each model."""
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, "train", footer.alarms(data, table, EXPERIMENTS))
    states = data.select("train", ["state"]).groupby("run_id").value.mean()
    cells = groups(table, ["budget_flops", "size", "train_context"])
    page = Page(TITLE, Layout((1.0,) * min(3, len(cells)), rows=-(-len(cells) // 3), gap_in=0.75))
    curves = []
    for ax in page.axes[len(cells) :]:
        ax.set_axis_off()
    for number, (ax, ((flops, size, context), part)) in enumerate(zip(page.axes, cells, strict=False)):
        ax.set_title(f"{size}, {digits(flops)} FLOP, context {panels.tokens_label(context)}", loc="left")
        for line in _lines(part):
            curves.append(_curve(line, states))
            panels.draw_bars(ax, curves[-1])
            panels.draw_dots(ax, curves[-1], panels.SEED)
        panels.cost_axis(ax, EngFormatter(unit="B", sep=""))
        if number + 3 >= len(cells):  # no title stands below
            ax.set_xlabel("state of a sequence")
    for ax in page.axes[::3]:
        ax.set_ylabel("perplexity per token")
    caption = "State at the training context: counted, all layers, 1 kB = 1,000 B. "
    caption += f"Perplexity of held-out text, {footer.seeds(table)}."
    caption += f" Bars: {footer.windows(curves, table.clusters)}."
    alarms = footer.alarms(data, table, EXPERIMENTS)
    return page.finish(legend_of(_lines(table)), [caption, *footer.published(table)], alarms, footer.facts(table))


def _lines(table: pd.DataFrame) -> list[Line]:
    """One for each model, and for each way that its rows differ in but size, budget and context."""
    return lines(table, [name for name in APART if name not in ("size", "budget_flops", "train_context")])


def _curve(line: Line, states: pd.Series) -> Curve:
    """Over bytes: the state is the same for every seed."""
    placed = Line(line.look, line.rows.assign(state=line.rows.run_id.map(states)))
    return loss_curve(placed, "state").map(np.exp)
