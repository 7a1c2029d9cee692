"""Pieces that several figures share: context axes, bands, the region beyond the training context, clipping with printed values."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from bench.figures.frame import records
from bench.figures.lines import Curve
from bench.figures.page import Note, Page
from bench.figures.style import ALARM, QUIET, digits, look_of

# Beyond the training context a curve may explode: an axis ends at this multiple of the values that are within it.
CLIP_FACTOR = 1.3
CLIPPED = (
    "An axis ends somewhat above what models reach within the training context (or at the smallest x, if none is within): values "
    "beyond are printed above it. They say how a model fails outside its training, not that another one is better."
)
OCTAVE_FOR_TEXT_IN = 0.33


def tokens_label(tokens: float) -> str:
    """64, 512, 1k (= 1,024), 32k."""
    return f"{tokens / 1024:g}k" if tokens >= 1024 else f"{tokens:g}"


def token_axis(ax: Axes, places: Iterable[float], label: str) -> None:
    """A log2 axis of numbers of tokens with a tick at each place."""
    places = sorted(set(places))
    ax.set_xscale("log", base=2)
    ax.set_xlim(places[0] / 1.25, places[-1] * 1.25)
    ax.xaxis.set_major_locator(FixedLocator(places))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: tokens_label(x)))
    ax.set_xlabel(label)


def draw_curve(ax: Axes, curve: Curve) -> None:
    """The line with its markers, its dots (single seeds) and, unless it shows published rows beside others, its band."""
    ok = np.isfinite(curve.value)
    ax.plot(curve.x[ok], curve.value[ok], **curve.look.kwargs, zorder=3)
    if not curve.look.published:
        ax.fill_between(curve.x, curve.low, curve.high, color=curve.look.colour, alpha=0.16, linewidth=0, zorder=2)
    if curve.dots:
        x, y = zip(*curve.dots, strict=True)
        ax.plot(x, y, linestyle="", marker=".", markersize=3, color=curve.look.colour, alpha=0.7, zorder=2)


def draw_bars(ax: Axes, curve: Curve) -> None:
    """The line with its markers and, unless it shows published rows beside others, an interval bar at each point."""
    ok = np.isfinite(curve.value)
    around = (not curve.look.published) * np.nan_to_num(
        np.array([curve.value[ok] - curve.low[ok], curve.high[ok] - curve.value[ok]])
    )
    ax.errorbar(
        curve.x[ok],
        curve.value[ok],
        yerr=np.maximum(around, 0),
        capsize=2.5,
        elinewidth=1,
        **curve.look.kwargs,
        zorder=3,
    )


def trained_to(rows: pd.DataFrame) -> list[int]:
    """The training contexts of ``rows``, ascending."""
    return sorted({int(context) for context in rows.train_context.dropna()})


def mark_training(page: Page, ax: Axes, contexts: Sequence[int], named: bool = True) -> None:
    """A vertical line at each training context; beyond the last one the panel is shaded and called what it is."""
    low, high = ax.get_xlim()
    ax.set_xlim(min(low, contexts[0] / 1.25), high)
    for context in contexts:
        ax.axvline(context, color=QUIET, linewidth=1, linestyle=(0, (4, 2)), zorder=1)
        if named:
            near_left = math.log(context / ax.get_xlim()[0]) < 0.2 * math.log(high / ax.get_xlim()[0])
            page.above(ax, "training", Note(context, f"training context {context:,}", QUIET, "left" if near_left else "center"))
    if contexts[-1] < high:
        ax.axvspan(contexts[-1], high, color=QUIET, alpha=0.08, linewidth=0, zorder=0)
    if contexts[-1] < high and named:
        words = "beyond the training context: extrapolation"
        ax.text(0.985, 0.025, words, transform=ax.transAxes, ha="right", va="bottom", color=QUIET, style="italic")


def trusted_top(curves: Sequence[Curve], upto: float, factor: float = CLIP_FACTOR) -> float:
    """Where an axis of losses may end: ``factor`` times the largest value of the median model (the lower of two) up to ``upto`` or its first x."""
    tops = [curve.value[curve.x <= max(upto, curve.x.min(initial=math.inf))].max(initial=0) for curve in curves]
    return factor * middling(tops)


def middling(values: Sequence[float]) -> float:
    """The median, of an even number the lower one of the middle two; what is not finite counts as large."""
    return float(np.nan_to_num(np.percentile(values, 50, method="lower"), posinf=1.0))


def clip(page: Page, ax: Axes, curves: Sequence[Curve], cap: float) -> bool:
    """Ends the y axis at ``cap`` where a value lies beyond, and prints each such value above. Whether it did."""
    values = np.concatenate([np.concatenate([c.value, c.low, c.high]) for c in curves])
    inside = values[np.isfinite(values) & (values <= cap)]
    low, high = (inside.min(), inside.max()) if len(inside) else (0.0, cap)
    beyond = any((curve.value > cap).any() for curve in curves)
    top = cap if beyond else high + 0.06 * (high - low)
    room = (top - low) or abs(top) or 1.0
    ax.set_ylim(low - 0.14 * room, top)  # the words about extrapolation stand in the lowest tenth
    for curve in curves:
        _print_beyond(page, ax, curve, cap)
    return beyond


def _print_beyond(page: Page, ax: Axes, curve: Curve, cap: float) -> None:
    over = np.flatnonzero(curve.value > cap)
    left, right = np.log2(ax.get_xlim())
    if page.panel_width_in(ax) / (right - left) < OCTAVE_FOR_TEXT_IN and len(over) > 1:
        over = over[[int(np.argmax(curve.value[over]))]]
    for i in over:
        ax.plot(curve.x[i], 1, transform=ax.get_xaxis_transform(), clip_on=False, zorder=4, **curve.look.kwargs | {"marker": 6})
        page.above(ax, curve.look.label, Note(curve.x[i], number(curve.value[i]), curve.look.colour, "center"))


def number(value: float) -> str:
    """Three digits; large ones as 1e5."""
    return digits(value, 3 if value < 1e4 else 1) if math.isfinite(value) else "not finite"


def mark_failures(page: Page, ax: Axes, failures: pd.DataFrame, x: str) -> None:
    """A cross at the top edge where a run failed, with its status: OOM, diverged, failed, killed. Before ``mark_training``."""
    style: dict[str, Any] = {"marker": "x", "markersize": 7, "markeredgewidth": 1.8, "clip_on": False, "zorder": 5}
    for row in records(failures.drop_duplicates(["series", "published", "status", x])):
        look, place, word = look_of(row["series"], row["published"]), row[x], "OOM" if row["status"] == "oom" else row["status"]
        left, right = ax.get_xlim()
        ax.set_xlim(min(left, place / 1.25), max(right, place * 1.25))
        ax.plot(place, 1, transform=ax.get_xaxis_transform(), color=look.colour, **style)
        page.above(ax, f"{look.label} failed", Note(place, word, look.colour, "center"))


def say_empty(page: Page, command: str) -> None:
    """What an empty figure shows: that it is empty, and the command that changes it."""
    for ax in page.axes:
        ax.set_axis_off()
    page.axes[0].text(0.5, 0.5, f"no rows yet: {command}", transform=page.axes[0].transAxes, ha="center", color=ALARM)


def draw_samples(ax: Axes, curve: Curve) -> None:
    """Every sample as a faint dot."""
    if curve.dots:
        x, y = zip(*curve.dots, strict=True)
        ax.plot(x, y, linestyle="", marker=".", markersize=3, color=curve.look.colour, alpha=0.25, markeredgewidth=0, zorder=2)


def plain_log_axis(ax: Axes) -> None:
    """Labels of a log y axis as plain numbers, at 1, 2 and 5 times powers of ten where there are few decades."""
    low, high = ax.get_ylim()
    decades = math.log10(high / low)
    ax.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0) if decades < 3.5 else (1.0,), numticks=20))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    ax.set_ylim(low, high)
