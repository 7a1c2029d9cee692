"""Time of each step of a TTT mini-batch: the last one commits the weights; rows in phase, and spread over the mini-batch."""

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from bench.figures import footer, panels, times
from bench.figures.data import Data
from bench.figures.frame import groups
from bench.figures.lines import Line, time_curve
from bench.figures.page import Layout, Page, legend_of
from bench.figures.style import look_of, styled

NAME = times.NAME
TITLE = "Decode steps of a TTT mini-batch"
EXPERIMENTS = (NAME,)
PHASES = {"in_phase": "rows in phase", "spread": "rows spread evenly"}


def rows(data: Data) -> pd.DataFrame:
    """Times of single steps."""
    return times.rows(data, "latency", part="cycle")


def expected_of(data: Data) -> list[str]:
    """The tier's TTT models."""
    return [name for name in data.expected if name.startswith("ttt_")]


@styled
def draw(data: Data) -> Figure:
    """Milliseconds over the position in the mini-batch, a panel for each size."""
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, NAME, footer.alarms(data, table, EXPERIMENTS, expected_of(data)))
    sizes = list(dict.fromkeys(table["size"]))
    page = Page(TITLE, Layout((1.0,) * min(2, len(sizes)), rows=-(-len(sizes) // 2), gap_in=0.85))
    drawn: dict[str, Line] = {}
    curves = []
    for ax in page.axes[len(sizes) :]:
        ax.set_axis_off()
    for ax, size in zip(page.axes, sizes, strict=False):
        mine = table[table["size"] == size]
        for (series, phases), part in groups(mine, ["series", "phases"]):
            look = look_of(series, variant=list(PHASES).index(phases))
            line = Line(replace(look, label=f"{look.label}, {PHASES[phases]}", hollow=phases == "spread"), part)
            drawn[line.look.label] = line
            curves.append(time_curve(line, "slot", lambda seconds, _: 1e3 * seconds))
            panels.draw_bars(ax, curves[-1])
        batch, context = int(mine.batch.iloc[0]), panels.tokens_label(float(mine.context.iloc[0]))
        ax.set_title(f"{size}, batch {batch}, depth {context}", loc="left")
        ax.set_ylim(bottom=0)
        ax.set_xlabel("position in the mini-batch, counted from 0")
        ax.set_ylabel("time per step (ms)")
    caption = f"Line: median of {footer.samples(curves)}. In phase, all rows commit their weights in the last step."
    return page.finish(
        legend_of(drawn.values()),
        [caption, *footer.published(table)],
        footer.alarms(data, table, EXPERIMENTS, expected_of(data)),
        footer.facts(table),
    )
