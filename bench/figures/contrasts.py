"""Pairs of models that took turns: who is faster, by how much and how sure. No drawing here.

The value is log(time of the first / time of the second), round by round. Equal: the 95 % interval within +-EQUAL_WITHIN.
Different: it excludes 0, and so does Holm's p of all that are asked. Where one model comes more than ENGINE times nearer to its
own floor than the other, the pair says something of the engines, and names no winner.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from bench.figures import times
from bench.figures.data import Data
from bench.figures.frame import records
from bench.stats import Interval, holm, paired_log_ratio, ratio_interval, verdict

EQUAL_WITHIN, ENGINE = math.log(1.005), 1.3
Beside = dict[tuple[Any, ...], float]
PAIRS = (("ttt_linear", "transformer"), ("ttt_linear", "mamba"))


@dataclass(frozen=True)
class Contrast:
    """Two models at one place, or one at two depths (``first_context`` other than ``context``); or what ``between`` finds.

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
    found, near = records(times.rows(data, "latency")), beside(data)
    asked = [(one, other) for one in found for other in found if _is_asked(one, other, near)]
    made = [_contrast(one, other, near, paired_log_ratio(one["samples"], other["samples"])) for one, other in asked]
    adjusted = holm([1.0 if one.log_ratio.p is None else one.log_ratio.p for one in made])
    return [replace(one, p_holm=p) for one, p in zip(made, adjusted, strict=True)]


def between(data: Data) -> Iterator[Contrast]:
    """Decode pairs at depths that only the second of a pair was measured at, as the first's step moves the same state at any.

    Its time is then that of all its samples at the depths that it has (``first_context``: the least of them). They are of other
    rounds, so the ratio is that of independent medians.
    """
    near, held = beside(data), defaultdict(list)
    for row in records(times.rows(data, "latency")):
        if row["phase"] == "step":
            held[row["run_id"], row["size"], row["batch"], row["series"]].append(row)
    for (*where, first), ends in held.items():
        if len({near.get(("state_traffic", *_place(row))) for row in ends}) == 1:
            least = min(ends, key=lambda row: row["context"])
            samples = [sample for row in ends for sample in row["samples"]]
            others = [row for one, other in PAIRS if one == first for row in held.get((*where, other), [])]
            for row in others:
                if least["context"] < row["context"] and row["context"] not in {end["context"] for end in ends}:
                    yield _contrast(least, row, near, _log(ratio_interval(samples, row["samples"])))


def _log(ratio: Interval) -> Interval:
    low, high = (math.log(end) if 0 < end < math.inf else sign * math.inf for sign, end in ((-1, ratio.low), (1, ratio.high)))
    return replace(ratio, value=math.log(ratio.value), low=low, high=high)


def beside(data: Data) -> Beside:
    """Floors, shares of them and state moved, by metric and place."""
    rows = records(times.rows(data, "floor_share", "floor", "state_traffic"))
    return {(row["metric"], *_place(row)): row["value"] for row in rows}


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("run_id", "attempt", "size", "phase", "batch", "context", "series"))


def _is_asked(one: dict[str, Any], other: dict[str, Any], near: Beside) -> bool:
    """A pair at one place; or, where a step moves no more state the deeper it is, a model at a greater depth."""
    alike = all(one[key] == other[key] for key in ("run_id", "attempt", "size", "phase", "batch"))
    pair = (one["series"], other["series"])
    is_pair = pair in PAIRS and one["context"] == other["context"]
    moved = [near.get(("state_traffic", *_place(row))) for row in (one, other)]
    is_deeper = one["phase"] == "step" and pair[0] == pair[1] and one["context"] > other["context"] and moved[0] == moved[1]
    return alike and (is_pair or is_deeper)


def _contrast(one: dict[str, Any], other: dict[str, Any], near: Beside, log_ratio: Interval) -> Contrast:
    shares = tuple(near.get(("floor_share", *_place(row)), math.nan) for row in (one, other))
    floors = [near.get(("floor", *_place(row)), math.nan) for row in (one, other)]
    return Contrast(
        *(one["size"], one["phase"], int(one["batch"]), int(other["context"]), one["series"], other["series"]),
        int(one["context"]),
        log_ratio,
        (shares[0], shares[1]),
        math.log(floors[0] / floors[1]),
    )
