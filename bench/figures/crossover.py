"""From which length on TTT-Linear's prefill is faster than the Transformer's, and Mamba's: measured, and by the floors."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from bench.figures import footer, panels, times
from bench.figures.contrasts import ENGINE, PAIRS, contrasts, crossovers
from bench.figures.data import Data
from bench.figures.page import Layout, Page, handle
from bench.figures.style import INK, VARIANT_DASHES, Look, look_of, styled

NAME = times.NAME
TITLE = "Prefill time of TTT-Linear over that of others"
EXPERIMENTS = (NAME,)


def rows(data: Data) -> pd.DataFrame:
    """Times of prefills."""
    table = times.rows(data, "latency")
    return table[table.phase == "prefill"]


@styled
def draw(data: Data) -> Figure:
    """A panel for each pair, a line for each size and batch, hollow where the engines decide; below 1 TTT-Linear is faster."""
    table, found = rows(data), [one for one in contrasts(data) if one.phase == "prefill"]
    if not found:
        return panels.empty(TITLE, NAME, footer.alarms(data, table, EXPERIMENTS))
    page, looks = Page(TITLE, Layout((1.0,) * len(PAIRS), gap_in=0.85)), {}
    groups = list(dict.fromkeys((one.size, one.batch) for one in found))
    for ax, pair in zip(page.axes, PAIRS, strict=True):
        mine = [one for one in found if (one.first, one.second) == pair]
        ax.set_title(f"{look_of(pair[0]).label} / {look_of(pair[1]).label}", loc="left")
        if not mine:
            ax.set_axis_off()
            continue
        panels.token_axis(page, ax, [one.context for one in mine], "tokens prefilled (1k = 1,024)")
        for number, group in enumerate(groups):
            points = sorted((one for one in mine if (one.size, one.batch) == group), key=lambda one: one.context)
            colour = look_of("ttt_linear").colour if group[0] == groups[0][0] else "#7A5230"
            look = Look(f"{group[0]}, batch {group[1]}", colour, "osD^v"[number % 5], number, VARIANT_DASHES[number % 5])
            looks[look.label] = look
            x, y = np.array([p.context for p in points]), np.exp([p.log_ratio.value for p in points])
            bounds = np.exp([(p.log_ratio.low, p.log_ratio.high) for p in points]).reshape(-1, 2)
            around = np.nan_to_num(np.abs(bounds.T - y), posinf=0.0)
            ax.errorbar(x, y, yerr=around, capsize=2.5, elinewidth=1, **look.kwargs)
            limited = [i for i, p in enumerate(points) if p.judgement == "engine-limited"]
            ax.plot(x[limited], y[limited], linestyle="", marker=look.marker, color=colour, markerfacecolor="white", zorder=4)
        ax.axhline(1, color=INK, linewidth=1)
        ax.set_yscale("log", base=2)
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}×"))
        ax.set_ylabel("time / time (below 1: TTT-Linear is faster)")
    sure = [one for one in found if math.isfinite(one.log_ratio.high)]
    rounds = footer.count_of({one.log_ratio.n for one in found}, "round")
    captions = [
        f"Mean of paired ratios over {rounds}, 95 % intervals at {len(sure)} of {len(found)} points.",
        f"Hollow: one of the two is more than {ENGINE:g} times nearer to its own floor, so the engines decide.",
        *(one.sentence for one in crossovers(found)),
        *footer.published(table),
    ]
    return page.finish(
        [handle(look) for look in looks.values()], captions, footer.alarms(data, table, EXPERIMENTS), footer.facts(table)
    )
