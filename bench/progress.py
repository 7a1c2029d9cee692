"""What is known of runs at work: how far each is, how they ended, what is left and when it will end. display.py shows it.

Nothing here looks at a clock or prints. No torch here.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from bench.config import RunConfig


class Unfinished(RuntimeError):
    """A measurement stops with work left, for a reason that is no failure; its rows stay, and the next call goes on."""


class Progress(Protocol):
    """What a run tells while it measures."""

    def __call__(self, fraction: float, note: str = "") -> None:
        """So much is done; ``note``: what else is known, in a few words."""


def silent(fraction: float, note: str = "") -> None:
    """For runs that nobody watches."""


@dataclass(frozen=True)
class Message:
    """What is known of a job: that it began or how much is done (``status`` empty), or how it ended, and why.

    said: a line that its process wrote.
    """

    job: int
    fraction: float = 0.0
    note: str = ""
    status: str = ""
    cause: str = ""
    said: str = ""


@dataclass(frozen=True)
class Job:
    """A run by what is known before: seconds that it will take, inf where nobody knows; alone: nothing runs beside it."""

    label: str
    seconds: float = math.inf
    alone: bool = False


def label_of(run: RunConfig) -> str:
    """Short, for a line of progress."""
    if run.experiment.modelless:
        size = f"{run.size.name} " if "size" in run.experiment.measure else ""
        return f"{run.experiment.name} {size}{run.device.dtype} s{run.seed}"
    backbone = "" if run.model.backbone == "mamba" or not run.model.name.startswith("ttt") else " (T)"
    return f"{run.experiment.name} {run.model.name}{backbone} {run.size.name} {run.budget.name} s{run.seed}"


def seconds_together(jobs: Sequence[Job], workers: int) -> float:
    """Of all jobs, where those that time run alone and the others share the workers."""
    shared = [job.seconds for job in jobs if not job.alone]
    return sum(job.seconds for job in jobs if job.alone) + max(sum(shared) / workers, max(shared, default=0.0))


@dataclass
class Board:
    """Jobs on ``workers`` processes; ``before``: how many more were done before. Times are seconds of any one clock."""

    jobs: Sequence[Job]
    workers: int = 1
    before: int = 0
    latest: dict[int, Message] = field(default_factory=dict)
    starts: dict[int, float] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)

    def hear(self, message: Message, now: float) -> None:
        """Notes what a message says. Where less is done than before, a run that trained its model begins its own work."""
        job, known = message.job, self.latest.get(message.job)
        if message.said:
            return
        if known is None or message.fraction < known.fraction:
            self.starts[job] = now
        self.latest[job] = message
        if message.status:
            self.ended[job] = now - self.starts[job]

    @property
    def running(self) -> list[int]:
        """Jobs at work, in the order in which they began."""
        return [job for job in self.latest if job not in self.ended]

    @property
    def count(self) -> str:
        """Done of all."""
        return f"{self.before + len(self.ended)}/{self.before + len(self.jobs)}"

    @property
    def fraction(self) -> float:
        """Of all jobs."""
        done = self.before + len(self.ended) + sum(self.latest[job].fraction for job in self.running)
        return done / max(1, self.before + len(self.jobs))

    def seconds_left(self, now: float) -> float:
        """Until all is done; inf where nobody knows."""
        left = [replace(job, seconds=self._left(n, now)) for n, job in enumerate(self.jobs) if n not in self.ended]
        return seconds_together(left, self.workers)

    def _left(self, job: int, now: float) -> float:
        """Of a job, as fast as it went; before a twentieth of it is done as forecast, times how far off forecasts were."""
        taken = now - self.starts.get(job, now)
        fraction = self.latest[job].fraction if job in self.latest else 0.0
        if fraction > 0.05:
            return taken * (1 - fraction) / fraction
        return max(0.0, self._pace() * self.jobs[job].seconds - taken)

    def _pace(self) -> float:
        expected = sum(self.jobs[job].seconds for job in self.ended)
        return sum(self.ended.values()) / expected if 5 < expected < math.inf else 1.0


def when(left: float, wall: float) -> str:
    """Seconds that are left in words; ``wall``: the time of day, seconds since the epoch."""
    if math.isinf(left):
        return ""
    return f"left {left / 60:.1f} min, ends {time.strftime('%H:%M', time.localtime(wall + left))}"


def ending(board: Board, message: Message) -> str:
    """A line on a job that ended."""
    cause = f" ({message.cause})" if message.cause else ""
    return f"{message.status:8} {board.jobs[message.job].label}, {board.ended[message.job]:.0f} s{cause}"


def standing(board: Board, job: int) -> str:
    """A few words on a job at work."""
    known = board.latest[job]
    return f"{board.jobs[job].label} {known.fraction:.0%}{', ' * bool(known.note)}{known.note}"
