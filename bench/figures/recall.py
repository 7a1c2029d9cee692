"""Accuracy of recall against the context, and against what a model pays for it: bytes of its state, time of a decode step."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from bench.figures import footer, panels
from bench.figures.data import Data
from bench.figures.decode_latency import mean_step
from bench.figures.frame import groups
from bench.figures.lines import APART, APART_LATENCY, Curve, Line, curve, lines
from bench.figures.page import Layout, Page, Sheet, legend_of
from bench.figures.style import styled
from bench.stats import share_interval

NAME = "recall"
TITLE = "Recall at length"
EXPERIMENTS = ("train", NAME)
TASKS = {
    "mqar": "MQAR",
    "needle": "needle",
    "multikey_needle": "needle among others",
    "variable_tracking": "variable tracking",
}
# Label of the axis, and the experiment whose rows it takes.
COSTS = {"state": ("state (byte)", "state_vs_context"), "step": ("decode step (s)", "decode_latency")}
SHARED = ["series", "size", "published", "context"]


def rows(data: Data) -> pd.DataFrame:
    """Accuracies by task, context and depth."""
    return data.select(NAME, ["accuracy"])


@styled
def draw(data: Data) -> Sheet:
    """A row of panels for each task: over context, state and step; a line goes from the shortest context to the longest."""
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, NAME, footer.alarms(data, table, EXPERIMENTS))
    tasks = [task for task in TASKS if task in set(table.task)]
    page = Page(TITLE, Layout((1.0, 1.0, 1.0), len(tasks), height_in=1.75, gap_in=0.6))
    costs = {"state": _state(data), "step": _step(data)}
    drawn = lines(table, APART)
    for number, task in enumerate(tasks):
        of_task = [replace(line, rows=line.rows[line.rows.task == task]) for line in drawn]
        axes = page.axes[3 * number : 3 * number + 3]
        failures = data.failures(NAME, "context")
        _row(page, axes, [line for line in of_task if len(line.rows)], costs, failures[failures.task == task])
        axes[0].set_title(TASKS[task], loc="left")
    captions = [*_captions(table), *footer.published(table)]
    return page.finish(legend_of(drawn), captions, footer.alarms(data, table, EXPERIMENTS), footer.facts(table))


def _row(page: Page, axes: list[Axes], drawn: list[Line], costs: Mapping[str, pd.Series], failures: pd.DataFrame) -> None:
    over_context, over_state, over_step = axes
    curves = {id(line): _accuracy(line) for line in drawn}
    panels.token_axis(page, over_context, pd.concat([line.rows.context for line in drawn]), "context (tokens)")
    for line in drawn:
        panels.draw_curve(over_context, curves[id(line)])
    over_context.set_ylabel("accuracy")
    for ax, name in ((over_state, "state"), (over_step, "step")):
        _over_cost(ax, name, [_at_cost(line, curves[id(line)], costs[name]) for line in drawn])
    for ax in axes:
        ax.set_ylim(-0.04, 1.04)
    panels.mark_failures(page, over_context, failures, "context")
    panels.mark_training(page, over_context, panels.trained_to(pd.concat([line.rows for line in drawn])), named=False)


def _over_cost(ax: Axes, name: str, curves: Sequence[Curve]) -> None:
    label, experiment = COSTS[name]
    ax.set_xlabel(label)
    if not any(len(one.x) for one in curves):
        ax.text(0.5, 0.5, f"no rows of\n{experiment}", transform=ax.transAxes, ha="center", va="center")
        return
    for one in curves:
        panels.draw_curve(ax, one)
    panels.cost_axis(ax, EngFormatter(sep=""))


def _accuracy(line: Line) -> Curve:
    """Over contexts; all depths and seeds together."""
    points = [(context, [one for samples in part.samples for one in samples]) for context, part in groups(line.rows, "context")]
    return curve(line.look, [context for context, _ in points], [share_interval(samples) for _, samples in points])


def _at_cost(line: Line, accuracy: Curve, costs: pd.Series) -> Curve:
    """The same accuracies over what the same model costs at the context, where that was measured."""
    first = line.rows.iloc[0]
    found = np.array([costs.get((first["series"], first["size"], first["published"], x), np.nan) for x in accuracy.x])
    ok = np.isfinite(found)
    kept = {name: getattr(accuracy, name)[ok] for name in ("value", "low", "high")}
    return replace(accuracy, x=found[ok], **kept, n=tuple(np.array(accuracy.n)[ok]))


def _state(data: Data) -> pd.Series:
    """Bytes by series, size, whether published, and context."""
    return data.select("state_vs_context", ["state"]).groupby(SHARED).value.last()


def _step(data: Data) -> pd.Series:
    """Seconds of a step, mean over whole cycles, likewise; of several devices the last."""
    found = {}
    for line in lines(data.select("decode_latency", ["latency"], timing=True), APART_LATENCY):
        first, means = line.rows.iloc[0], mean_step(line)
        for context, milliseconds in zip(means.x, means.value, strict=True):
            found[first["series"], first["size"], first["published"], context] = milliseconds / 1e3
    return pd.Series(found, dtype=float)


def _captions(table: pd.DataFrame) -> list[str]:
    counts = table.groupby([*SHARED, "task"]).samples.apply(lambda each: sum(map(len, each)))
    depths = ", ".join(f"{depth:g}" for depth in sorted(table.depth.unique()))
    shown = ", ".join(f"{context:,}" for context in panels.trained_to(table))
    first = (
        f"Share of examples that greedy decoding answers (MQAR: of pairs), {footer.seeds(table)}, {counts.min()} examples at "
        f"each context, equally many at depths {depths}. Bands: 95 % Wilson intervals over examples. Shaded: beyond the "
        f"training context ({shown})."
    )
    return [first, "State, and mean time of a decode step: of the same model, size and context, with random weights."]
