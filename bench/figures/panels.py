"""What several figures share: token axes, bands, the region beyond the training context, clipping with printed values."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, Formatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bench.figures.frame import groups
from bench.figures.lines import Array, Curve
from bench.figures.page import Layout, Note, Page, Sheet
from bench.figures.style import QUIET, digits, look_of, width_in

# Beyond the training context a curve may explode: an axis ends at this multiple of the values that are within it.
CLIP_FACTOR = 1.5
# Where no value passes that end a band may, by so much.
BAND_FACTOR = 1.1
CLIPPED = (
    "An axis ends somewhat above what models reach within the training context (or at the smallest x, if none is within): "
    "values beyond are printed above it. They say how a model fails outside its training, not that another one is better."
)
# Inches that a printed value and a tick's label need; decades that have room for ticks at 2 and 5; points that crowd a panel.
VALUE_IN, TICK_IN, FEW_DECADES, CROWD = 0.33, 0.28, 3.5, 16
# A note closer than this share of the width to a panel's edge is aligned with it.
EDGE = 0.2
# Of an axis of tokens, beyond its ends.
MARGIN = 1.25
# From wide to narrow.
BEYOND = (
    "beyond the training context: extrapolation",
    "beyond the training\ncontext: extrapolation",
    "beyond the\ntraining context:\nextrapolation",
)
# Of a page without panels.
NOTHING = Layout(height_in=0.2, axis_in=0.05)
# Opacity of dots: few seeds, many samples.
SEED, SAMPLE = 0.7, 0.25


def tokens_label(tokens: float) -> str:
    """64, 512, 1k (= 1,024), 32k."""
    return f"{tokens / 1024:g}k" if tokens >= 1024 else f"{tokens:g}"


def token_axis(page: Page, ax: Axes, places: Iterable[float], label: str) -> None:
    """A log2 axis of numbers of tokens; a tick at each octave of the places, but where it would touch the one before."""
    places = sorted(set(places))
    ax.set_xscale("log", base=2)
    ax.set_xlim(places[0] / MARGIN, places[-1] * MARGIN)
    octave_in = page.panel_width_in(ax) / math.log2(places[-1] / places[0] * MARGIN**2)
    ticks: list[float] = []
    for place in (place for place in places if math.log2(place / places[0]).is_integer()):
        if not ticks or math.log2(place / ticks[-1]) >= math.ceil(TICK_IN / octave_in):
            ticks.append(place)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: tokens_label(x)))
    ax.set_xlabel(label)


def draw_curve(ax: Axes, curve: Curve) -> None:
    """The line with its markers, its dots (single seeds) and, unless it shows published rows beside others, its band."""
    ok = np.isfinite(curve.value)
    ax.plot(curve.x[ok], curve.value[ok], markevery=_sparse(curve.x[ok]), **curve.look.kwargs)
    if not curve.look.published:
        band: dict[str, Any] = {"color": curve.look.colour, "alpha": 0.16, "linewidth": 0, "zorder": 2, "gid": curve.look.gid}
        ax.fill_between(curve.x, curve.low, curve.high, **band)
    draw_dots(ax, curve, SEED)


def _sparse(x: Array) -> list[int] | None:
    """Which points get a marker: every one, or one a doubling where they would crowd."""
    if len(x) <= CROWD:
        return None
    doublings = np.floor(np.log2(x / x[0]) + 1e-9)
    return np.unique(doublings, return_index=True)[1].tolist()


def draw_bars(ax: Axes, curve: Curve) -> None:
    """The line with its markers and, unless it shows published rows beside others, an interval bar at each point."""
    ok = np.isfinite(curve.value)
    around = (not curve.look.published) * np.nan_to_num(
        np.array([curve.value[ok] - curve.low[ok], curve.high[ok] - curve.value[ok]])
    )
    drawn = ax.errorbar(
        curve.x[ok],
        curve.value[ok],
        yerr=np.maximum(around, 0),
        capsize=2.5,
        elinewidth=1,
        **curve.look.kwargs,
    )
    for part in drawn.get_children():
        part.set_gid(curve.look.gid)


def trained_to(rows: pd.DataFrame) -> list[int]:
    """The training contexts of ``rows``, ascending."""
    return sorted({int(context) for context in rows.train_context.dropna()})


def mark_training(page: Page, ax: Axes, contexts: Sequence[int], named: bool = True) -> None:
    """A vertical line at each training context; beyond the last one the panel is shaded and called what it is."""
    low, high = ax.get_xlim()
    low, is_beyond = min(low, contexts[0] / MARGIN), contexts[-1] * MARGIN < high
    ax.set_xlim(low, high)
    for context in contexts:
        ax.axvline(context, color=QUIET, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
    if is_beyond:
        ax.axvspan(contexts[-1], high, color=QUIET, alpha=0.08, linewidth=0, zorder=0)
    if not named:
        return
    for context in contexts:
        words = f"training context {context:,}" if context == contexts[0] else f"{context:,}"
        share = math.log(context / low) / math.log(high / low)
        align = "left" if share < EDGE else "right" if share > 1 - EDGE else "center"
        page.above(ax, "training", Note(min(context, high), words, QUIET, align))
    if is_beyond:
        shaded_in = page.panel_width_in(ax) * math.log(high / max(contexts[-1], low)) / math.log(high / low)
        fitting = [words for words in BEYOND if max(width_in(line) for line in words.splitlines()) < shaded_in - 0.1]
        words = fitting[0] if fitting else BEYOND[-1]
        ax.text(0.985, 0.025, words, transform=ax.transAxes, ha="right", va="bottom", color=QUIET, style="italic")


def trusted_top(curves: Sequence[Curve], upto: float) -> float:
    """Where an axis of losses may end: beyond every value at x ≤ ``upto``, and some way above the median model's largest there.

    A model without points there counts with its first one; of two middle models the lower is the median.
    """
    within = [curve.value[curve.x <= upto] for curve in curves]
    tops = [inside.max() if len(inside) else curve.value[0] for inside, curve in zip(within, curves, strict=True)]
    trusted = np.concatenate(within)
    return max(CLIP_FACTOR * middling(tops), 1.05 * float(trusted[np.isfinite(trusted)].max(initial=0)))


def middling(values: Sequence[float]) -> float:
    """The median, the lower of the middle two where there are two; 1 where that is not finite."""
    return float(np.nan_to_num(np.percentile(values, 50, method="lower"), posinf=1.0))


def clip(page: Page, ax: Axes, curves: Sequence[Curve], cap: float) -> bool:
    """Ends the y axis at ``cap`` where a value lies beyond, and prints each such value above. Whether it did."""
    values = np.concatenate([np.concatenate([c.value, c.low, c.high]) for c in curves])
    beyond = any((curve.value >= cap).any() for curve in curves)
    inside = values[values <= (cap if beyond else BAND_FACTOR * cap)]
    low, high = (inside.min(), inside.max()) if len(inside) else (0.0, cap)
    top = cap if beyond else high + 0.06 * (high - low)
    room = (top - low) or abs(top) or 1.0
    ax.set_ylim(low - 0.14 * room, top)  # the words about extrapolation stand in the lowest tenth
    for curve in curves:
        print_beyond(page, ax, curve, cap)
    return beyond


def print_beyond(page: Page, ax: Axes, curve: Curve, cap: float) -> None:
    """A marker at the top edge for each value from ``cap`` on (inf: those that are not finite), and the value above it."""
    over = np.flatnonzero(curve.value >= cap)
    left, right = np.log2(ax.get_xlim())
    closest_in = np.diff(np.log2(curve.x[over])).min(initial=math.inf) * page.panel_width_in(ax) / (right - left)
    if closest_in < VALUE_IN:  # only the largest
        over = over[[int(np.argmax(curve.value[over]))]]
    for i in over:
        ax.plot(
            curve.x[i], 1, transform=ax.get_xaxis_transform(), clip_on=False, **curve.look.kwargs | {"marker": 6, "zorder": 4}
        )
        page.above(ax, curve.look.label, Note(curve.x[i], number(curve.value[i]), curve.look.colour, "center", curve.look.gid))


def number(value: float) -> str:
    """Three digits; large ones as 1e5."""
    return digits(value, 3 if value < 1e4 else 1) if math.isfinite(value) else "not finite"


def mark_failures(page: Page, ax: Axes, failures: pd.DataFrame, x: str) -> None:
    """A cross at the top edge where a run failed, with its model and status. To be called before ``mark_training``."""
    cross: dict[str, Any] = {"marker": "x", "markersize": 7, "markeredgewidth": 1.8, "clip_on": False, "zorder": 5}
    for (series, published), mine in groups(failures, ["series", "published"]):
        look = look_of(series, published)
        style = {**cross, "color": look.colour, "gid": look.gid}
        for index, (place, part) in enumerate(groups(mine, x)):
            left, right = ax.get_xlim()
            ax.set_xlim(min(left, place / 1.25), max(right, place * 1.25))
            ax.plot(place, 1, transform=ax.get_xaxis_transform(), **style)
            word = ", ".join("OOM" if status == "oom" else status for status in sorted(set(part.status)))
            note = (word, "center") if index else (f"{look.label}: {word}", "right")
            page.above(
                ax, f"{look.label} failed", Note(place * (1 if index else 1.08), note[0], look.colour, note[1], look.gid)
            )


def empty(title: str, experiment: str, alarms: Sequence[str]) -> Sheet:
    """What is drawn without rows: a page that says so, and the command that changes it."""
    page = Page(title, NOTHING)
    page.axes[0].set_axis_off()
    return page.finish([], [f"No rows yet: python -m bench experiment={experiment}"], alarms, [])


def draw_dots(ax: Axes, curve: Curve, alpha: float) -> None:
    """The single seeds, or the samples, that a curve's points were made of."""
    x, y = [dot[0] for dot in curve.dots], [dot[1] for dot in curve.dots]
    style: dict[str, Any] = {"color": curve.look.colour, "alpha": alpha, "gid": curve.look.gid, "zorder": 2}
    ax.plot(x, y, linestyle="", marker=".", markersize=3, markeredgewidth=0, **style)


def cost_axis(ax: Axes, formatter: Formatter) -> None:
    """A log x axis whose values may all lie within one decade, where powers of ten alone could leave no tick."""
    ax.set_xscale("log")
    low, high = ax.get_xlim()
    decades = math.log10(high / low)
    even = [tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
    between = (2.0, 5.0) if decades < FEW_DECADES / 2 else (3.0,) if decades < FEW_DECADES - 1 else ()
    powers = LogLocator(10, subs=(1.0, *between), numticks=6)
    ax.xaxis.set_major_locator(FixedLocator(even) if decades < 0.5 else powers)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(formatter)
    ax.set_xlim(low, high)


def plain_log_axis(ax: Axes) -> None:
    """Labels of a log y axis as plain numbers: evenly spaced within a decade, else 1, 2, 5 times powers of ten."""
    low, high = ax.get_ylim()
    decades = math.log10(high / low)
    even = [tick for tick in MaxNLocator(6).tick_values(low, high) if tick > 0]
    powers = LogLocator(10, subs=(1.0, 2.0, 5.0) if decades < FEW_DECADES else (1.0,), numticks=20)
    ax.yaxis.set_major_locator(FixedLocator(even) if decades < 1 else powers)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.set_ylim(low, high)
