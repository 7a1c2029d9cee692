"""Perplexity of the same targets against the context before them: does longer context help a model or not."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.figures import footer, panels, perplexity_vs_flops
from bench.figures.data import Data
from bench.figures.judged import about_paper, at_contexts
from bench.figures.lines import Curve, change_curve, lines, loss_curve
from bench.figures.page import Layout, Page, Sheet, legend_of
from bench.figures.style import INK, styled

NAME = "perplexity_by_context"
TITLE = "Perplexity by context length"
EXPERIMENTS = ("train", NAME)


def rows(data: Data) -> pd.DataFrame:
    """Losses by context."""
    return data.select(NAME, ["nll"])


@styled
def draw(data: Data) -> Sheet:
    """Left: perplexity over context. Right: paired change of nll against the model's own value at the smallest context."""
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, NAME, footer.alarms(data, table, EXPERIMENTS))
    page = Page(TITLE, Layout((1.15, 1.0), gap_in=0.95))
    drawn, trained = lines(table), panels.trained_to(table)
    curves = [loss_curve(line, "context").map(np.exp) for line in drawn]
    changes = [change_curve(line, "context") for line in drawn]
    cap = panels.trusted_top(curves, max(trained))
    clipped = False
    for ax, each, top in ((page.axes[0], curves, cap), (page.axes[1], changes, _change_cap(changes))):
        panels.token_axis(page, ax, table.context, "context before the targets (1k = 1,024 tokens)")
        panels.mark_failures(page, ax, data.failures(NAME, "context"), "context")
        panels.mark_training(page, ax, trained)
        for one in each:
            panels.draw_curve(ax, one)
        clipped |= panels.clip(page, ax, each, top)
    first = panels.tokens_label(table.context.min())
    page.axes[0].set_ylabel("perplexity per token")
    page.axes[1].set_ylabel(f"nll − own nll at {first} (nat/token)\nbelow 0: longer context helps")
    page.axes[1].axhline(0, color=INK, linewidth=1, zorder=1)
    caption = f"The same targets at every context, {footer.seeds(table)}. Bands: {footer.windows(curves, table.clusters)}."
    judged = at_contexts(table, perplexity_vs_flops.rows(data))
    captions = [caption, *_edge(table), *about_paper(judged), *([panels.CLIPPED] if clipped else []), *footer.published(table)]
    return page.finish(legend_of(drawn), captions, footer.alarms(data, table, EXPERIMENTS), footer.facts(table))


def _edge(table: pd.DataFrame) -> list[str]:
    """That a context as long as the training's ends where the targets begin."""
    at_edge = table[table.context == table.train_context]
    if at_edge.empty:
        return []
    context = " and ".join(panels.tokens_label(tokens) for tokens in sorted(set(at_edge.context)))
    return [f"Of a context of {context} the targets themselves lie past what training saw."]


def _change_cap(changes: Sequence[Curve]) -> float:
    """Three times the largest change of the median model, within what the left panel would show."""
    largest = panels.middling([float(np.abs(one.value).max()) for one in changes])
    return min(max(3 * largest, 0.02), math.log(panels.CLIP_FACTOR))
