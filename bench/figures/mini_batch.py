"""Perplexity and forward time against the inner mini-batch: fewer tokens learn sooner, more are faster (paper, figure 7)."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from bench.figures import footer, panels, perplexity_vs_flops
from bench.figures.data import Data
from bench.figures.frame import groups
from bench.figures.judged import Side, judge, spread_of_seeds
from bench.figures.lines import APART, APART_LATENCY, Curve, Line, lines, loss_curve, time_curve
from bench.figures.page import Layout, Page, Sheet, legend_of
from bench.figures.paper import TABLE_1
from bench.figures.style import styled

TITLE = "Inner mini-batch: perplexity and time"
EXPERIMENTS = ("train", "prefill_latency")
AXIS = "tokens of an inner mini-batch"


def rows(data: Data) -> pd.DataFrame:
    """Held-out losses of models that were trained with several mini-batches."""
    return _several(perplexity_vs_flops.rows(data))


def _several(table: pd.DataFrame) -> pd.DataFrame:
    several = table.groupby(["series", "size", "budget_flops", "match"], dropna=False).mini_batch.transform("nunique") > 1
    return table[several] if len(table) else table


def _steps(drawn: Sequence[Line]) -> str:
    """How often the next smaller mini-batch of a line has the lower loss, as the paper finds."""
    asked = []
    for line in drawn:
        sides = [Side(f"{size}", line.look.series, part) for size, part in groups(line.rows, "mini_batch")]
        asked += [("", smaller, larger, "lower") for smaller, larger in pairwise(sides)]
    found = Counter(one.agrees for one in judge((asked, spread_of_seeds(pd.concat([line.rows for line in drawn])))))
    counts = ", ".join(f"{word} {count}" for word, count in sorted(found.items()))
    return f"Here, of {len(asked)} steps to the next smaller: {counts}."


@styled
def draw(data: Data) -> Sheet:
    """Left: perplexity. Right: time of a prefill of the whole model."""
    table, times = rows(data), _several(data.select("prefill_latency", ["latency"], timing=True))
    if table.empty:
        return panels.empty(TITLE, "prefill_latency", footer.alarms(data, table, EXPERIMENTS, ()))
    page = Page(TITLE, Layout((1.0, 1.0), gap_in=0.85))
    left, right = page.axes
    losses = lines(table, [name for name in APART if name not in ("mini_batch", "impl")])
    curves = [loss_curve(line, "mini_batch").map(np.exp) for line in losses]
    panels.token_axis(page, left, table.mini_batch, AXIS)
    for one in curves:
        panels.draw_bars(left, one)
        panels.draw_dots(left, one, panels.SEED)
    left.set_ylabel("perplexity per token")
    timed: list[Curve] = []
    caption = f"Perplexity of held-out text, {footer.seeds(table)}. Bars: {footer.windows(curves, table.clusters)}."
    if times.empty:
        right.set_axis_off()
        caption += " No rows of prefill_latency."
    else:
        longest = times[times.context == times.context.max()]
        panels.token_axis(page, right, longest.mini_batch, AXIS)
        drawn = lines(longest, [name for name in APART_LATENCY if name != "mini_batch"])
        timed = [time_curve(line, "mini_batch", lambda seconds, _: 1e3 * seconds) for line in drawn]
        for one in timed:
            panels.draw_bars(right, one)
        right.set_ylim(bottom=0)
        right.set_ylabel("time of a prefill (ms)")
        batch, context = int(longest.batch.iloc[0]), panels.tokens_label(float(longest.context.iloc[0]))
        engines = ", ".join(sorted(set(longest.impl)))
        caption += f" Time: median of {footer.samples(timed)}, {context} tokens, batch {batch}, the whole model, {engines}."
    known = next(row for row in TABLE_1 if row.series == "ttt_linear")
    paper = f"The paper, at 125M: {known.perplexity} at 16, and the smaller the better. {_steps(losses)}"
    captions = [f"{caption} {paper}", *footer.published(table)]
    return page.finish(legend_of(losses), captions, footer.alarms(data, table, EXPERIMENTS, ()), footer.facts(table))
