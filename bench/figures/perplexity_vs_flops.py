"""Perplexity after training against the training FLOPs that were realised, and the paired difference to the Transformer."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from bench.figures import footer, panels
from bench.figures.data import Data
from bench.figures.frame import groups
from bench.figures.judged import about_paper, after_training
from bench.figures.lines import APART, SAME_TASK, Curve, Line, curve, lines, loss_curve, windows_of
from bench.figures.page import Layout, Page, Sheet, legend_of
from bench.figures.style import INK, styled

TITLE = "Perplexity against training FLOPs"
EXPERIMENTS = ("train",)
REFERENCES = ("transformer", "transformer_finetune")


def rows(data: Data) -> pd.DataFrame:
    """Held-out losses of trained models."""
    return data.select("train", ["nll"], split="heldout")


@styled
def draw(data: Data) -> Sheet:
    """Left: perplexity, mean over seeds, with intervals. Right: nll minus the Transformer's on the same windows.

    A row of both for each training context, as in the paper's figures 10 and 11.
    """
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, "train", footer.alarms(data, table, EXPERIMENTS))
    contexts, names = panels.trained_to(table), apart(table)
    page = Page(TITLE, Layout((1.0, 0.9), rows=len(contexts), gap_in=1.7))
    failures = data.failures("train", "budget_flops")
    curves = []
    for row, context in enumerate(contexts):
        left, right = page.axes[2 * row : 2 * row + 2]
        drawn = lines(table[table.train_context == context], names)
        mine = [loss_curve(line, "train_flops").map(np.exp) for line in drawn]
        differences = [found for line in drawn if len((found := _difference(line, table)).x)]
        for ax, each in ((left, mine), (right, differences)):
            for one in each:
                panels.draw_bars(ax, one)
                panels.draw_dots(ax, one, panels.SEED)
            _flops_axis(ax, table)
            ax.set_xlabel("training FLOPs, realised" if context == contexts[-1] else "")
        _perplexity_axis(left, table)
        if len(contexts) > 1:
            left.set_title(f"trained at a context of {panels.tokens_label(context)}", loc="left")
        here = failures[failures.train_context.fillna(contexts[0]) == context]
        panels.mark_failures(page, left, here, "budget_flops")
        for one in mine:
            panels.print_beyond(page, left, one, math.inf)
        _difference_axis(right, bool(differences))
        curves += mine
    caption = (
        f"Perplexity = exp(mean nll) of held-out text, {footer.seeds(table)}. Bars: {footer.windows(curves, table.clusters)}."
    )
    alarms = footer.alarms(data, table, EXPERIMENTS)
    captions = [caption, *about_paper(after_training(table)), *footer.published(table)]
    return page.finish(legend_of(lines(table, names)), captions, alarms, footer.facts(table))


def apart(table: pd.DataFrame) -> list[str]:
    """A line runs over budgets, each with its learning rate; over sizes too, where each has one budget, as in the paper.

    Training contexts are told apart by panels.
    """
    along = {"budget_flops", "train_context"}
    if table.groupby(["series", "size", "budget_flops", "train_context"]).lr.nunique().max() == 1:
        along.add("lr")
    if len(table[["size", "budget_flops"]].drop_duplicates()) == table["size"].nunique() == table.budget_flops.nunique():
        along.add("size")
    return [name for name in APART if name not in along]


def _difference(line: Line, table: pd.DataFrame) -> Curve:
    """Paired differences of a line to the Transformer at the same budgets; no points where there is none to pair with.

    Where that was trained at a shorter context first, it is the Transformer, unless there is one that was not.
    """
    xs, intervals = [], []
    reference = table[table.series.isin(REFERENCES)]
    best = reference.groupby(SAME_TASK, dropna=False).series.transform("min")
    reference = reference[reference.series == best]
    mine = line.rows if line.rows.series.iloc[0] not in REFERENCES else line.rows.iloc[:0]
    for x, part in groups(mine, "train_flops"):
        theirs = reference.merge(part[SAME_TASK].drop_duplicates(), on=SAME_TASK)
        if len(theirs) and theirs.seed.is_unique and (a := windows_of(part)).pairs_with(b := windows_of(theirs)):
            xs.append(x)
            intervals.append(a.interval(b))
    return curve(line.look, xs, intervals)


def _flops_axis(ax: Axes, table: pd.DataFrame) -> None:
    """A log axis with a tick at each budget, or at powers of ten where budgets are many."""
    ax.set_xscale("log")
    ax.set_xlim(table.train_flops.min() / 1.25, table.train_flops.max() * 1.25)
    ax.xaxis.set_minor_formatter(NullFormatter())
    budgets = sorted(table.budget_flops.dropna().unique())
    if 0 < len(budgets) <= 5:
        ax.xaxis.set_major_locator(FixedLocator(budgets))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda flops, _: _scientific(flops)))


def _scientific(flops: float) -> str:
    mantissa, exponent = f"{flops:.2e}".split("e")
    return rf"${float(mantissa):g}\times10^{{{int(exponent)}}}$"


def _perplexity_axis(ax: Axes, table: pd.DataFrame) -> None:
    """Log perplexity in plain numbers; on the right the same in bits per byte where a token is a byte."""
    ax.set_yscale("log")
    panels.plain_log_axis(ax)
    ax.set_ylabel("perplexity per token (log)")
    if set(table.tokenizer) == {"bytes"}:
        bits = ax.secondary_yaxis("right", functions=(np.log2, np.exp2))
        bits.yaxis.set_major_locator(MaxNLocator(6))
        bits.yaxis.set_minor_locator(NullLocator())
        bits.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        bits.set_ylabel("bits per byte")


def _difference_axis(ax: Axes, any_drawn: bool) -> None:
    ax.axhline(0, color=INK, linewidth=1, zorder=1)
    ax.set_ylabel("nll − nll of the Transformer (nat/token)\nbelow 0: better than the Transformer")
    if not any_drawn:
        ax.text(0.5, 0.5, "no Transformer on the same windows\nand budget to compare with", transform=ax.transAxes, ha="center")
