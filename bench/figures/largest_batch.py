"""Tokens per second of each model at the largest batch that fits, against the context: what a card makes of its memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from bench.figures import footer, panels, times
from bench.figures.data import Data
from bench.figures.frame import groups, records
from bench.figures.lines import APART_LATENCY, Array, Curve, Line, lines, time_curve
from bench.figures.page import TEXT_ROW_IN, Layout, Page, legend_of
from bench.figures.style import styled

NAME = times.NAME
TITLE = "Throughput at the largest batch that fits"
EXPERIMENTS = (NAME,)
PLACE = ["size", "phase", "series", "context", "device", "published"]
APART = [name for name in APART_LATENCY if name != "batch"]


def rows(data: Data) -> pd.DataFrame:
    """Seconds per token of each model and context at the largest batch that has a time."""
    table = times.rows(data, "token_time")
    return table[table.batch == table.groupby(PLACE).batch.transform("max")]


def grid(data: Data, size: str, phase: str) -> list[int]:
    """The batches that runs of a size were asked for, ascending."""
    asked = [run.config["experiment"]["measure"] for run in data.runs if run.manifest.experiment == NAME]
    return sorted({int(batch) for one in asked if one["size"]["name"] == size for p, batch in one["grid"] if p == phase})


def unknown(data: Data, row: dict[str, Any]) -> bool:
    """Whether a batch larger than a row's may fit: the next of the grid was not run there, or failed but not for memory."""
    larger = [batch for batch in grid(data, row["size"], row["phase"]) if batch > row["batch"]]
    full = times.rows(data, "oom")
    here = full[(full[PLACE] == [row[key] for key in PLACE]).all(axis=1)]
    return bool(larger) and larger[0] not in set(here.batch)


@styled
def draw(data: Data) -> Figure:
    """Thousands of tokens per second, both axes logarithmic; hollow where a larger batch may fit."""
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, NAME, footer.alarms(data, table, EXPERIMENTS))
    sizes = list(times.by_size(table))
    page = Page(TITLE, Layout((1.0, 1.0), rows=len(sizes), gap_in=0.85))
    drawn: dict[str, Line] = {}
    curves: list[Curve] = []
    for ax, size, phase, part in times.each(page, sizes):
        ax.set_title(f"{size}, {times.PHASES[phase]}", loc="left")
        here = _without(data, table, size, phase)
        panels.token_axis(page, ax, [*part.context, *here.context], times.CONTEXT[phase])
        mine = lines(part, APART)
        drawn |= {line.look.label: line for line in mine}
        shown = [(time_curve(line, "context", lambda seconds, _: 1e-3 / seconds), line.rows) for line in mine]
        for curve, behind in shown:
            panels.draw_bars(ax, curve)
            _hollow(ax, curve, [unknown(data, row) for row in records(behind.sort_values("context"))])
        _finish(ax, page.layout.height_in, shown)
        panels.mark_failures(page, ax, here, "context")
        curves += [curve for curve, _ in shown]
    asked = "; ".join(f"{size} {times.PHASES[p]} {_words(grid(data, size, p))}" for size, parts in sizes for p in parts)
    captions = [
        f"Line: median of {footer.samples(curves)}. {times.engines(table)}",
        f"Numbers: batch, at both ends and where it changes. Batches asked for: {asked}.",
        "Filled: the next larger of them is out of memory, or there is none. Hollow: it was not run there or failed otherwise,",
        "so the batch is the largest that was timed, not the largest that fits. Cross: no batch that was run there fits.",
        *times.troubles(data),
        *footer.published(table),
    ]
    return page.finish(legend_of(drawn.values()), captions, footer.alarms(data, table, EXPERIMENTS), footer.facts(table))


def _words(batches: Sequence[int]) -> str:
    return ", ".join(map(str, batches))


def _without(data: Data, table: pd.DataFrame, size: str, phase: str) -> pd.DataFrame:
    """Failures of a panel at places where no batch has a time."""
    lost = times.failures(data)
    lost = lost[(lost["size"] == size) & (lost.phase == phase)]
    timed = {tuple(row[key] for key in PLACE) for row in records(table)}
    return lost[np.array([tuple(row[key] for key in PLACE) not in timed for row in records(lost)], dtype=bool)]


def _hollow(ax: Axes, curve: Curve, which: Sequence[bool]) -> None:
    style = curve.look.kwargs | {"linestyle": "", "markerfacecolor": "white", "zorder": 4}
    ax.plot(curve.x[list(which)], curve.value[list(which)], **style)


def _finish(ax: Axes, height_in: float, shown: Sequence[tuple[Curve, pd.DataFrame]]) -> None:
    """The scale, and the batches beside their points: left of a line's first, else right, none over another."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.set_ylim(low / 1.15, high * 1.15)
    panels.plain_log_axis(ax)
    ax.set_xlim(ax.get_xlim()[0] / 1.25, ax.get_xlim()[1] * 1.25)
    ax.set_ylabel("thousand tokens per second")
    gap = TEXT_ROW_IN / height_in * np.log(ax.get_ylim()[1] / ax.get_ylim()[0])
    notes = pd.DataFrame([note for curve, behind in shown for note in _notes(curve, behind)])
    for (x, is_first), part in groups(notes, ["x", "is_first"]):
        part = part.sort_values("y")
        for note, log_y in zip(records(part), apart(np.log(part.y), gap), strict=True):
            text = ax.text(x / 1.13 if is_first else x * 1.13, np.exp(log_y), str(note["batch"]), va="center", zorder=5)
            text.set(ha="right" if is_first else "left", color=note["look"].colour, gid=note["look"].gid)
            text.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _notes(curve: Curve, behind: pd.DataFrame) -> list[dict[str, Any]]:
    """Batches at the ends of a line, and where they change."""
    batches = [int(part.batch.iloc[0]) for _, part in groups(behind, "context")]
    told = [i in (0, len(batches) - 1) or batches[i] != batches[i - 1] for i in range(len(batches))]
    points = zip(curve.x, curve.value, batches, told, strict=True)
    return [
        {"x": x, "y": y, "batch": b, "look": curve.look, "is_first": x == curve.x[0]} for x, y, b, is_told in points if is_told
    ]


def apart(values: Sequence[float] | Array, gap: float) -> Array:
    """Ascending values, moved as little as can be (least squares), so that each is ``gap`` or more above the one before."""
    blocks: list[tuple[float, int]] = []
    for i, value in enumerate(values):
        blocks.append((value - i * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2:]
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m)]
    return np.repeat([mean for mean, _ in blocks], [n for _, n in blocks]) + gap * np.arange(len(values))
