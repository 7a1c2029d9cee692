"""Loss against the learning rate: what a search saw, on validation documents or at the end of the training."""

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

TITLE = "Learning rates: the losses of a search"
EXPERIMENTS = ("train",)
# The end of a training: its last fifth, by tokens seen.
END = 0.8
# What a panel is of.
PLACE = ("size", "train_context", "budget_flops")
SEEN = {"nll": "validation loss", "train_nll": "training loss at the end"}


def rows(data: Data) -> pd.DataFrame:
    """A loss of each run: on validation documents, where all of its panel have that, else of the end of the training.

    That is the mean over its logged steps.
    """
    table = data.select("train", ["train_nll", "nll"])
    validation = table[(table.metric == "nll") & (table.split == "validation")]
    table = table[table.metric == "train_nll"]
    if table.empty:
        return table
    end = table[table.tokens >= END * table.groupby("run_id").tokens.transform("max")]
    ends = end.assign(value=end.groupby("run_id").value.transform("mean")).drop_duplicates("run_id")
    seen = ends.run_id.isin(validation.run_id)
    is_searched = seen.groupby([ends[key] for key in PLACE]).transform("all")
    return pd.concat([ends[~is_searched], validation[validation.run_id.isin(ends[is_searched].run_id)]])


@styled
def draw(data: Data) -> Sheet:
    """The loss over the learning rate, a panel for each size, training context and budget."""
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, "train", footer.alarms(data, table, EXPERIMENTS))
    places = groups(table, list(PLACE))
    page = Page(TITLE, Layout((1.0,) * len(places)))
    for ax, ((size, context, flops), part) in zip(page.axes, places, strict=True):
        ax.set_title(f"{size}, {digits(flops)} FLOP, train context {context:,.0f}", loc="left")
        ax.set_ylabel(f"{SEEN[part.metric.iloc[0]]} (nat/token)")
        _axis(ax, part.lr.tolist())
        for line in _lines(part):
            panels.draw_curve(ax, _curve(line))
    ends = "Training loss: mean over the last fifth of the training, by tokens. " * ("train_nll" in set(table.metric))
    captions = [f"{ends}{footer.seeds(table).capitalize()}. No interval: no text is resampled.", *footer.published(table)]
    return page.finish(legend_of(_lines(table)), captions, footer.alarms(data, table, EXPERIMENTS), footer.facts(table))


def _lines(table: pd.DataFrame) -> list[Line]:
    """One for each model, over learning rates and, in its panel, over nothing else."""
    return lines(table, [name for name in APART if name not in ("lr", *PLACE)])


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
