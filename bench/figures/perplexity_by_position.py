"""Perplexity by position in a long held-out window: tokens further on have more context behind them."""

import numpy as np
import pandas as pd

from bench.figures import footer, panels
from bench.figures.data import Data
from bench.figures.lines import lines, loss_curve
from bench.figures.page import Layout, Page, Sheet, legend_of
from bench.figures.paper import LONG
from bench.figures.style import styled

NAME = "perplexity_by_position"
TITLE = "Perplexity by position"
EXPERIMENTS = ("train", NAME)
PAPER = (
    "The paper (figure 2, right): TTT's perplexity falls to 32k, Mamba's not after 16k. Other positions are other text: "
    "whether this agrees is judged on the same targets, in perplexity_by_context."
)


def rows(data: Data) -> pd.DataFrame:
    """Losses by bucket of positions."""
    return data.select(NAME, ["nll"])


@styled
def draw(data: Data) -> Sheet:
    """Perplexity over the upper edge of buckets that double."""
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, NAME, footer.alarms(data, table, EXPERIMENTS))
    page = Page(TITLE, Layout(height_in=3.3))
    (ax,) = page.axes
    drawn, trained = lines(table), panels.trained_to(table)
    curves = [loss_curve(line, "position").map(np.exp) for line in drawn]
    panels.token_axis(page, ax, table.position, "position in the window: upper edge of the bucket (tokens, 1k = 1,024)")
    panels.mark_failures(page, ax, data.failures(NAME, "position"), "position")
    panels.mark_training(page, ax, trained)
    for one in curves:
        panels.draw_curve(ax, one)
    clipped = panels.clip(page, ax, curves, panels.trusted_top(curves, max(trained)))
    ax.set_ylabel("perplexity per token")
    caption = f"A bucket begins at half its upper edge, the first at 0; {footer.seeds(table)}."
    caption += f" Bands: {footer.windows(curves, table.clusters)}."
    if max(trained) >= LONG[0]:
        caption += f" {PAPER}"
    captions = [caption, *([panels.CLIPPED] if clipped else []), *footer.published(table)]
    return page.finish(legend_of(drawn), captions, footer.alarms(data, table, EXPERIMENTS), footer.facts(table))
