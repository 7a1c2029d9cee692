"""What the figures of experiment=latency share: its rows, panels of prefill and decode for each size, who is missing."""

from collections.abc import Callable, Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures import footer, panels
from bench.figures.data import Data
from bench.figures.frame import groups, records
from bench.figures.lines import APART_LATENCY, Curve, Line, lines, time_curve
from bench.figures.page import Layout, Page, legend_of
from bench.figures.style import look_of

NAME = "latency"
PHASES = {"prefill": "prefill", "step": "decode"}
CONTEXT = {"prefill": "tokens (1k = 1,024)", "step": "depth (1k = 1,024)"}
ENDINGS = ("oom", "broken", "wrong", "missing")


def rows(data: Data, *metrics: str, part: str = "grid") -> pd.DataFrame:
    """Rows of one part of the grid, in the order in which they were measured."""
    return data.select(NAME, list(metrics), timing=True, part=part)


def failures(data: Data) -> pd.DataFrame:
    """Places without a time, ``status`` saying why."""
    found = rows(data, *ENDINGS)
    return found.assign(status=found.metric)


def by_size(table: pd.DataFrame) -> Iterator[tuple[str, dict[str, pd.DataFrame]]]:
    """Of each size, the largest first, the rows of either phase."""
    order = table.groupby("size").params.max().sort_values(ascending=False)
    for size in order.index:
        yield str(size), dict(_by_phase(table[table["size"] == size]))


def cells(table: pd.DataFrame) -> Iterator[tuple[str, dict[str, pd.DataFrame]]]:
    """As ``by_size``, of the first batch that was measured in either phase alone."""
    for size, parts in by_size(table):
        yield size, {phase: part[part.batch == part.batch.iloc[0]] for phase, part in parts.items()}


def _by_phase(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for phase in PHASES:
        part = table[table.phase == phase]
        if not part.empty:
            yield phase, part


def each(page: Page, sizes: Sequence[tuple[str, dict[str, pd.DataFrame]]]) -> Iterator[tuple[Axes, str, str, pd.DataFrame]]:
    """Panel, size, phase and rows, prefill left and decode right, a row of panels a size; a panel without rows is empty."""
    for number, (size, parts) in enumerate(sizes):
        for column, phase in enumerate(PHASES):
            ax = page.axes[2 * number + column]
            if phase in parts:
                yield ax, size, phase, parts[phase]
            else:
                ax.set_axis_off()


def draw(
    data: Data,
    title: str,
    metric: str,
    label: str,
    finish: Callable[[Axes, pd.DataFrame], None],
    captions: Sequence[str],
    scale: float = 1.0,
    command: str = NAME,
    expected: Sequence[str] | None = None,
) -> Figure:
    """A line a model over the context at the first batch of each size and phase.

    finish: called with each panel and its rows of ``metric``, once their lines are drawn. command: experiment that makes the
    rows. expected: models that should have some, if not all.
    """
    table = rows(data, metric)
    if table.empty:
        return panels.empty(title, command, footer.alarms(data, table, (NAME,), expected))
    sizes, lost = list(cells(table)), failures(data)
    page = Page(title, Layout((1.0, 1.0), rows=len(sizes), gap_in=0.85))
    drawn: dict[str, Line] = {}
    curves: list[Curve] = []
    for ax, size, phase, part in each(page, sizes):
        batch = int(part.batch.iloc[0])
        ax.set_title(f"{size}, {PHASES[phase]}, batch {batch}", loc="left")
        here = lost[(lost["size"] == size) & (lost.phase == phase) & (lost.batch == batch)]
        panels.token_axis(page, ax, [*part.context, *here.context], CONTEXT[phase])
        mine = lines(part, APART_LATENCY)
        drawn |= {line.look.label: line for line in mine}
        for line in mine:
            curves.append(time_curve(line, "context", lambda value, _: scale * value))
            panels.draw_bars(ax, curves[-1])
            panels.draw_dots(ax, curves[-1], panels.SAMPLE)
        finish(ax, part)
        ax.set_ylabel(label)
        panels.mark_failures(page, ax, here, "context")
    sampled = f"Line: median of {footer.samples(curves)}; dots: every sample. " * bool(table.samples.map(len).any())
    return page.finish(
        legend_of(drawn.values()),
        [sampled + engines(table), *captions, *troubles(data), *footer.published(table)],
        footer.alarms(data, table, (NAME,), expected),
        footer.facts(table),
    )


def engines(table: pd.DataFrame) -> str:
    """Which implementation and exec stand behind the lines."""
    words = []
    for series, mine in groups(table, "series"):
        ways = {
            PHASES[phase]: " or ".join(sorted({f"{row['impl']} {row['exec']}" for row in records(part)}))
            for phase, part in groups(mine, "phase")
        }
        apart = ", ".join(f"{phase} {way}" for phase, way in ways.items())
        words.append(f"{look_of(series).label} {apart if len(set(ways.values())) > 1 else next(iter(ways.values()))}")
    return f"Engines: {'; '.join(words)}."


def troubles(data: Data) -> list[str]:
    """Engines that were not timed, cells not run, and cells in which the card slowed down."""
    keys = ("impl", "exec", "metric")
    gate = records(rows(data, *ENDINGS, part="gate"))
    lost = [" ".join([look_of(row["series"]).label, PHASES[row["phase"]], *(row[key] for key in keys)]) for row in gate]
    found = [f"Not timed: {', '.join(dict.fromkeys(lost))}."] if lost else []
    left = pd.concat([rows(data, "not_run", part=part) for part in ("trial", "grid", "cycle")])
    if len(left):
        places = left[["size", "part", "phase", "batch", "context"]].drop_duplicates()
        found.append(f"Not run: {len(places)} cells, about {left.value.sum() / 60:.0f} min.")
    slow = rows(data, "throttled")
    if len(slow):
        reasons = [f"{reason} at {len(part)} places, {part.value.max():.0%} at most" for reason, part in groups(slow, "reason")]
        found.append(f"The card slowed down (share of its readings): {'; '.join(reasons)}.")
    return found
