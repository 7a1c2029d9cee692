"""Training loss at the end against the learning rate: what a search saw, and what it was settled with."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.figures import footer, panels
from bench.figures.data import Data
from bench.figures.frame import groups
from bench.figures.lines import APART, Curve, Line, curve, lines
from bench.figures.page import Layout, Page, Sheet, legend_of
from bench.figures.style import digits, styled
from bench.stats import Interval

TITLE = "Learning rates: training loss of a search"
EXPERIMENTS = ("train",)
# The end of a training: its last fifth, by tokens seen.
END = 0.8


def rows(data: Data) -> pd.DataFrame:
    """Training losses, one row a run: ``value`` is the mean over the logged steps of the end of the training."""
    table = data.select("train", ["train_nll"])
    if table.empty:
        return table
    end = table[table.tokens >= END * table.groupby("run_id").tokens.transform("max")]
    return end.assign(value=end.groupby("run_id").value.transform("mean")).drop_duplicates("run_id")


@styled
def draw(data: Data) -> Sheet:
    """The loss over the learning rate, a panel for each budget."""
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, "train", footer.alarms(data, table, EXPERIMENTS))
    budgets = groups(table, ["size", "budget_flops"])
    page = Page(TITLE, Layout((1.0,) * len(budgets)))
    for ax, ((size, flops), part) in zip(page.axes, budgets, strict=True):
        ax.set_title(f"{size}, {digits(flops)} FLOP", loc="left")
        _axis(ax, part.lr.tolist())
        for line in _lines(part):
            panels.draw_curve(ax, _curve(line))
    page.axes[0].set_ylabel("training loss at the end (nat/token)")
    caption = f"Mean over the last fifth of the training, by tokens; {footer.seeds(table)}."
    captions = [f"{caption} No interval: training text is not resampled.", *footer.published(table)]
    return page.finish(legend_of(_lines(table)), captions, footer.alarms(data, table, EXPERIMENTS), footer.facts(table))


def _lines(table: pd.DataFrame) -> list[Line]:
    """One for each model, over learning rates and, in its panel, over nothing else."""
    return lines(table, [name for name in APART if name not in ("lr", "size", "budget_flops")])


def _curve(line: Line) -> Curve:
    points = [(rate, part.value) for rate, part in groups(line.rows, "lr")]
    means = [Interval(float(values.mean()), -float("inf"), float("inf"), len(values), "samples") for _, values in points]
    dots = tuple((rate, loss) for rate, values in points if len(values) > 1 for loss in values)
    return curve(line.look, [rate for rate, _ in points], means, dots)


def _axis(ax: Axes, rates: Sequence[float]) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(sorted(set(rates))))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: digits(rate, 2)))
    ax.set_xlabel("learning rate")
