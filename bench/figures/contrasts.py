"""Pairs of models that took turns: who is faster, by how much and how sure, and at which length that turns. No drawing here.

The value is log(time of the first / time of the second), round by round. Equal: the 95 % interval within +-EQUAL_WITHIN.
Different: it excludes 0, and so does Holm's p of all that are asked. Where one model comes more than ENGINE times nearer to its
own floor than the other, the pair says something of the engines, and names no winner.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bench.figures import times
from bench.figures.data import Data
from bench.figures.frame import records
from bench.figures.style import look_of
from bench.stats import Interval, holm, paired_log_ratio, verdict

EQUAL_WITHIN, ENGINE = math.log(1.005), 1.3
Beside = dict[tuple[Any, ...], float]
PAIRS = (("ttt_linear", "transformer"), ("ttt_linear", "mamba"))


@dataclass(frozen=True)
class Contrast:
    """Two models at one place, or one at two depths (``first_context`` other than ``context``).

    shares: of their own floors. floors: log of the first's floor over the second's.
    """

    size: str
    phase: str
    batch: int
    context: int
    first: str
    second: str
    first_context: int
    log_ratio: Interval
    shares: tuple[float, float]
    floors: float
    p_holm: float = 1.0

    @property
    def judgement(self) -> str:
        """equal, different, cannot tell; or engine-limited, which names no winner."""
        found = verdict(self.log_ratio, EQUAL_WITHIN, p=self.p_holm)
        is_limited = self.first != self.second and max(self.shares) > ENGINE * min(self.shares)
        return "engine-limited" if is_limited and found != "equal" else found


def contrasts(data: Data) -> list[Contrast]:
    """Every pair of PAIRS at every place that both have in one attempt, and each model at the ends of its depths; judged."""
    table = times.rows(data, "latency")
    metrics = ("floor_share", "floor", "state_traffic")
    beside = {(row["metric"], *_place(row)): row["value"] for row in records(times.rows(data, *metrics))}
    found = records(table)
    asked = [(one, other) for one in found for other in found if _is_asked(one, other, beside)]
    made = [_contrast(one, other, beside) for one, other in asked]
    adjusted = holm([1.0 if one.log_ratio.p is None else one.log_ratio.p for one in made])
    return [replace(one, p_holm=p) for one, p in zip(made, adjusted, strict=True)]


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("run_id", "attempt", "size", "phase", "batch", "context", "series"))


def _is_asked(one: dict[str, Any], other: dict[str, Any], beside: Beside) -> bool:
    """A pair at one place; or, where a step moves no more state the deeper it is, a model at a greater depth."""
    alike = all(one[key] == other[key] for key in ("run_id", "attempt", "size", "phase", "batch"))
    pair = (one["series"], other["series"])
    is_pair = pair in PAIRS and one["context"] == other["context"]
    moved = [beside.get(("state_traffic", *_place(row))) for row in (one, other)]
    is_deeper = one["phase"] == "step" and pair[0] == pair[1] and one["context"] > other["context"] and moved[0] == moved[1]
    return alike and (is_pair or is_deeper)


def _contrast(one: dict[str, Any], other: dict[str, Any], beside: Beside) -> Contrast:
    shares = tuple(beside.get(("floor_share", *_place(row)), math.nan) for row in (one, other))
    floors = [beside.get(("floor", *_place(row)), math.nan) for row in (one, other)]
    return Contrast(
        *(one["size"], one["phase"], int(one["batch"]), int(other["context"]), one["series"], other["series"]),
        int(one["context"]),
        paired_log_ratio(one["samples"], other["samples"]),
        (shares[0], shares[1]),
        math.log(floors[0] / floors[1]),
    )


def crossing(contexts: Sequence[float], values: Sequence[float]) -> float | None:
    """The context at which values first change their sign, between two linearly in log(context); None where they do not."""
    for i in range(len(values) - 1):
        a, b = values[i], values[i + 1]
        if a == 0 or a * b < 0:
            share = a / (a - b) if a != b else 0.0
            return float(contexts[i] * (contexts[i + 1] / contexts[i]) ** share)
    return None


@dataclass(frozen=True)
class Crossover:
    """Where the first becomes faster than the second (or slower). measured: None where one is ahead at every length.

    low, high: where the bounds of the ratio's intervals cross; an end that does not is 0 or infinity. predicted: by the floors.
    """

    size: str
    batch: int
    first: str
    second: str
    contexts: tuple[int, ...]
    measured: float | None
    low: float
    high: float
    predicted: float | None
    is_ahead: bool

    @property
    def sentence(self) -> str:
        """In words, for people."""
        what = f"{self.size}, batch {self.batch}, {look_of(self.first).label} over {look_of(self.second).label}"
        predicted = "none" if self.predicted is None else f"{self.predicted:,.0f}"
        if self.measured is None:
            order = "faster" if self.is_ahead else "slower"
            return f"{what}: {order} at every length; by the floors: {predicted}."
        low, high = (f"{end:,.0f}" if 0 < end < math.inf else "beyond" for end in (self.low, self.high))
        return f"{what}: crossover at {self.measured:,.0f} tokens ({low} to {high}); by the floors: {predicted}."


def crossovers(found: Sequence[Contrast]) -> Iterator[Crossover]:
    """Of each pair's prefills, size and batch by batch, that were measured at two lengths or more."""
    keys = dict.fromkeys((c.size, c.batch, c.first, c.second) for c in found if c.phase == "prefill" and c.first != c.second)
    for key in keys:
        mine = [c for c in found if (c.size, c.batch, c.first, c.second) == key and c.phase == "prefill"]
        mine.sort(key=lambda c: c.context)
        if len(mine) < 2:
            continue
        contexts = tuple(c.context for c in mine)
        value, low, high, floors = (
            crossing(contexts, series)
            for series in (
                [c.log_ratio.value for c in mine],
                [c.log_ratio.low for c in mine],
                [c.log_ratio.high for c in mine],
                [c.floors for c in mine],
            )
        )
        ends = sorted(end for end in (low, high) if end is not None)
        first = ends[0] if len(ends) == 2 else 0.0
        last = ends[1] if len(ends) == 2 else math.inf
        is_ahead = bool(np.mean([c.log_ratio.value for c in mine]) < 0)
        yield Crossover(*key, contexts, value, first, last, floors, is_ahead)
