"""Perplexity against the training context: each model read at the context it was trained at (paper, figures 15 and 16).

The number is the mean over all positions of held-out windows of that length, which every training scores; every held-out token
is a target once at each context.
"""

import numpy as np
import pandas as pd

from bench.figures import footer, panels, perplexity_vs_flops
from bench.figures.data import Data
from bench.figures.frame import groups
from bench.figures.judged import about_paper, after_training
from bench.figures.lines import APART, lines, loss_curve
from bench.figures.page import Layout, Page, Sheet, legend_of
from bench.figures.style import digits, styled

TITLE = "Perplexity by training context"
EXPERIMENTS = ("train",)


def rows(data: Data) -> pd.DataFrame:
    """Held-out losses of trained models, of sizes and budgets that were trained at several contexts."""
    table = perplexity_vs_flops.rows(data)
    several = table.groupby(["size", "budget_flops", "match"]).train_context.transform("nunique") > 1
    return table[several] if len(table) else table


@styled
def draw(data: Data) -> Sheet:
    """A panel for each size and budget, a line for each model."""
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, "train", footer.alarms(data, table, EXPERIMENTS))
    cells = groups(table, ["budget_flops", "size"])
    page = Page(TITLE, Layout((1.0,) * len(cells), gap_in=0.85))
    apart = [name for name in APART if name not in ("train_context", "lr", "size", "budget_flops")]
    curves = []
    for ax, ((flops, size), part) in zip(page.axes, cells, strict=True):
        ax.set_title(f"{size}, {digits(flops)} FLOP", loc="left")
        panels.token_axis(page, ax, part.train_context, "training context = context read (1k = 1,024)")
        for line in lines(part, apart):
            curves.append(loss_curve(line, "train_context").map(np.exp))
            panels.draw_bars(ax, curves[-1])
            panels.draw_dots(ax, curves[-1], panels.SEED)
        ax.set_ylabel("perplexity per token")
    caption = f"Mean over all positions of held-out windows as long as those of the training, {footer.seeds(table)}."
    caption += f" Bars: {footer.windows(curves, table.clusters)}."
    alarms, judged = footer.alarms(data, table, EXPERIMENTS), after_training(perplexity_vs_flops.rows(data))
    shown = [one for one in judged if one.first.rows.run_id.isin(table.run_id).all()]
    captions = [caption, *about_paper(shown), *footer.published(table)]
    return page.finish(legend_of(lines(table, apart)), captions, alarms, footer.facts(table))
