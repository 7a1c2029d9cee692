"""How runs stand: done, running, failed, oom, diverged, killed or to do; why; and what time is left. Nothing here runs any."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.config import RunConfig, identity
from bench.errors import EXPECTED
from bench.forecast import forecast
from bench.hardware import NoDevice
from bench.results import (
    FAILURES,
    PUBLISHED,
    SETTLED,
    Again,
    Manifest,
    Run,
    hash_of,
    hash_of_sources,
    is_held,
    read_done,
    read_manifest,
)
from bench.run import again, identify

BAD = (*FAILURES, "blocked")
ENDED = (*SETTLED, "stale", "blocked")


@dataclass(frozen=True)
class Standing:
    """How a run stands. ``is_left``: its next call has work to do.

    status: its manifest's; "to do" without one; "stale": done, by other sources; "running" only while a process is at work on
    it, else "killed". taken_s: seconds that it took so far.
    """

    name: str
    status: str
    is_left: bool
    cause: str = ""
    taken_s: float = 0.0

    @property
    def is_open(self) -> bool:
        """It has not ended."""
        return self.status not in ENDED

    @property
    def plan(self) -> str:
        """The status, as far as the next call leaves it."""
        return "to do again" if self.is_left and not self.is_open else self.status


def standing(run: RunConfig) -> Standing:
    """Of a run in its results folder; of one that measures time on a device that is not here, the latest so configured."""
    root = Path(run.results) / run.experiment.name
    try:
        return standing_of(root / identify(run), again(run))
    except NoDevice:
        config_hash, found = hash_of(identity(run)), []
        for path in root.glob("*/run.json"):
            manifest = read_manifest(path.parent)
            if manifest is not None and manifest.config_hash == config_hash:
                found.append((manifest.started, path.parent))
        return standing_of(max(found)[1], again(run)) if found else Standing(f"{run.experiment.name}/?", "to do", is_left=True)


def standing_of(folder: Path, repeated: Again | None = None) -> Standing:
    """Of the run in a folder, which need not exist."""
    name, manifest = f"{folder.parent.name}/{folder.name}", read_manifest(folder)
    if manifest is None:
        return Standing(name, "running" if is_held(folder) else "to do", is_left=True)
    if manifest.status == "running":
        return _unended(name, folder, manifest)
    is_left = manifest.status not in SETTLED or (repeated or Again()).covers(manifest, hash_of_sources())
    is_stale = manifest.status == "done" and manifest.sources != hash_of_sources()
    return Standing(name, "stale" if is_stale else manifest.status, is_left, manifest.cause, manifest.seconds)


def _unended(name: str, folder: Path, manifest: Manifest) -> Standing:
    if not is_held(folder):
        latest = read_manifest(folder)  # it may have ended between the two looks
        if latest != manifest:
            return standing_of(folder)
        return Standing(name, "killed", True, "its process died without a word; the next call goes on", manifest.seconds)
    attempt_s = time.time() - (folder / "run.json").stat().st_mtime
    return Standing(name, "running", True, taken_s=manifest.seconds + max(0.0, attempt_s))


@dataclass(frozen=True)
class Cell:
    """A line of the table. label: what tells it from the others. left_s: seconds that it will still take; inf: not known."""

    standing: Standing
    label: str
    left_s: float = 0.0


def cells(runs: Iterable[tuple[str, RunConfig]]) -> list[Cell]:
    """Of each label and run, each run once, with the time that its next call will take by what similar ones took."""
    once = {hash_of(identity(run)): (label, run) for label, run in runs}.values()
    known = read_done(sorted({Path(run.results) for _, run in once} | {PUBLISHED}))
    return [Cell(one := standing(run), label, left_s(run, one, known)) for label, run in once]


def left_s(run: RunConfig, one: Standing, known: Sequence[Run]) -> float:
    """Seconds that a run's next call will take; inf where its configuration is not possible, so that it will fail."""
    if not one.is_left:
        return 0.0
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
