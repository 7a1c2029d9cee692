"""From which context on TTT-Linear is faster than the Transformer, and Mamba: measured, and by the floors."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures import footer, panels, times
from bench.figures.contrasts import ENGINE, PAIRS, Contrast, between, contrasts
from bench.figures.data import Data
from bench.figures.page import Layout, Page, handle
from bench.figures.style import INK, VARIANT_DASHES, Look, look_of, styled
from bench.figures.turning import crossovers, sentences

NAME = times.NAME
TITLE = "Time of TTT-Linear over that of others"
EXPERIMENTS = (NAME,)
COLOURS, MARKERS = (look_of("ttt_linear").colour, "#7A5230", "#E69F00", "#882255"), "osD^vP"
Looks = Mapping[tuple[str, int], Look]


def rows(data: Data) -> pd.DataFrame:
    """Times of prefills and of decode steps."""
    return times.rows(data, "latency")


@styled
def draw(data: Data) -> Figure:
    """A panel for each pair and phase, a line for each size and batch; below 1 TTT-Linear is faster."""
    table, found = rows(data), [one for one in (*contrasts(data), *between(data)) if one.first != one.second]
    if not found:
        return panels.empty(TITLE, NAME, footer.alarms(data, table, EXPERIMENTS))
    phases = [phase for phase in times.PHASES if any(one.phase == phase for one in found)]
    page, looks = Page(TITLE, Layout((1.0,) * len(PAIRS), rows=len(phases), gap_in=0.85)), _looks(found)
    places = [(phase, pair) for phase in phases for pair in PAIRS]
    for ax, (phase, pair) in zip(page.axes, places, strict=True):
        mine = [one for one in found if one.phase == phase and (one.first, one.second) == pair]
        ax.set_title(f"{times.PHASES[phase]}: {' / '.join(look_of(name).label for name in pair)}", loc="left")
        _draw(page, ax, mine, looks) if mine else ax.set_axis_off()
    captions = [*_captions(found), *sentences(list(crossovers(found))), *footer.published(table)]
    handles = [handle(look) for look in looks.values()]
    return page.finish(handles, captions, footer.alarms(data, table, EXPERIMENTS), footer.facts(table))


def _looks(found: Sequence[Contrast]) -> Looks:
    """Of each size and batch: a size has its colour, a batch its marker and dashes."""
    sizes, batches = list(dict.fromkeys(one.size for one in found)), sorted({one.batch for one in found})
    pairs = sorted({(sizes.index(one.size), batches.index(one.batch)) for one in found})
    return {
        (sizes[i], batches[j]): Look(
            *(f"{sizes[i]}, batch {batches[j]}", COLOURS[i % len(COLOURS)], MARKERS[j % len(MARKERS)], j),
            VARIANT_DASHES[j % len(VARIANT_DASHES)],
        )
        for i, j in pairs
    }


def _draw(page: Page, ax: Axes, mine: Sequence[Contrast], looks: Looks) -> None:
    """Ratios with their intervals; hollow where the engines decide."""
    panels.token_axis(page, ax, [one.context for one in mine], times.CONTEXT[mine[0].phase])
    for group, look in looks.items():
        points = sorted((one for one in mine if (one.size, one.batch) == group), key=lambda one: one.context)
        x, y = np.array([p.context for p in points]), np.exp([p.log_ratio.value for p in points])
        bounds = np.exp([(p.log_ratio.low, p.log_ratio.high) for p in points]).reshape(-1, 2)
        around = np.nan_to_num(np.abs(bounds.T - y), posinf=0.0)
        around[:, ~np.isfinite(bounds).all(axis=1)] = 0.0
        ax.errorbar(x, y, yerr=around, capsize=2.5, elinewidth=1, **look.kwargs)
        limited = [i for i, p in enumerate(points) if p.judgement == "engine-limited"]
        ax.plot(x[limited], y[limited], **look.kwargs | {"linestyle": "", "markerfacecolor": "white", "zorder": 4})
    ax.axhline(1, color=INK, linewidth=1)
    ax.set_yscale("log")
    panels.plain_log_axis(ax)
    ax.set_ylabel("time / time (below 1: TTT-Linear is faster)")


def _captions(found: Sequence[Contrast]) -> list[str]:
    sure = [one for one in found if math.isfinite(one.log_ratio.high)]
    paired = [one for one in found if one.first_context == one.context]
    rounds = footer.count_of({one.log_ratio.n for one in paired}, "round")
    depths = footer.count_of([len(found) - len(paired)], "depth")
    apart = (
        f" At {depths} TTT-Linear, whose step moves the same state at any, has no time of its own: "
        "the median of its samples at the depths that it has is divided by the other's; these were not paired."
    )
    return [
        f"Mean of paired ratios over {rounds}, 95 % intervals at {len(sure)} of {len(found)} points."
        + apart * (len(paired) < len(found)),
        f"Hollow: one of the two is more than {ENGINE:g} times nearer to its own floor, so the engines decide.",
    ]
