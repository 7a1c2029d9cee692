"""Cells as a table: how each stands, why, and what time is left. torch is imported only where that time is asked for."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.config import RunConfig, identity
from bench.results import PUBLISHED, Run, hash_of, read_done
from bench.standing import BAD, Standing, standing


@dataclass(frozen=True)
class Cell:
    """A line of the table. label: what tells it from the others. left_s: seconds that it will still take; inf: not known."""

    standing: Standing
    label: str
    left_s: float = 0.0


def cells(runs: Iterable[tuple[str, RunConfig]], timed: bool = True) -> list[Cell]:
    """Of each label and run, each run once; timed: with the time that its next call will take by what similar ones took."""
    once = {hash_of(identity(run)): (label, run) for label, run in runs}.values()
    if not timed:
        return [Cell(standing(run), label) for label, run in once]
    known = read_done(sorted({Path(run.results) for _, run in once} | {PUBLISHED}))
    return [Cell(one := standing(run), label, left_s(run, one, known)) for label, run in once]


def left_s(run: RunConfig, one: Standing, known: Sequence[Run]) -> float:
    """Seconds that a run's next call will take; inf where its configuration is not possible, so that it will fail."""
    if not one.is_left:
        return 0.0
    from bench.errors import EXPECTED
    from bench.forecast import forecast

    try:
        whole = forecast(run, known).seconds
    except EXPECTED:
        return math.inf
    return max(0.0, whole - one.taken_s) if one.is_open else whole


def table(found: Sequence[Cell], plan: bool = False) -> str:
    """A line a cell, then causes, then the sum. plan: as the next call would begin, else as it stands."""
    words = [("status", "minutes left", "run", "cell"), *(_words(cell, plan) for cell in found)]
    widths = [max(len(row[column]) for row in words) for column in range(3)]
    lines = [f"{a:{widths[0]}}  {b:>{widths[1]}}  {c:{widths[2]}}  {d}".rstrip() for a, b, c, d in words]
    return "\n".join([*lines, *causes(found), sum_of(found, plan)])


def _words(cell: Cell, plan: bool) -> tuple[str, str, str, str]:
    one, minutes = cell.standing, "?" if math.isinf(cell.left_s) else f"{cell.left_s / 60:.2f}"
    return one.plan if plan else one.status, minutes if one.is_left and (plan or one.is_open) else "", one.name, cell.label


def causes(found: Sequence[Cell]) -> list[str]:
    """A line for every cell that did not end well."""
    bad = [cell for cell in found if cell.standing.status in BAD]
    return [f"{cell.standing.status}: {cell.label or cell.standing.name}: {cell.standing.cause}" for cell in bad]


def sum_of(found: Sequence[Cell], plan: bool = False) -> str:
    """How many stand how, and what time is left; plan: as for ``table``."""
    counts = Counter(cell.standing.plan if plan else cell.standing.status for cell in found)
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    left = sum(cell.left_s for cell in found if math.isfinite(cell.left_s) and (plan or cell.standing.is_open))
    time_left = f"; about {left / 60:.1f} minutes left, one cell after another" if left else ""
    return f"{len(found)} cell{'s' * (len(found) != 1)}: {told}{time_left}"
