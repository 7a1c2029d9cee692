"""The context from which on one model is faster than another: measured, and predicted by the floors. No drawing here."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bench.figures import panels, times
from bench.figures.contrasts import Contrast
from bench.figures.style import look_of


def crossing(contexts: Sequence[float], values: Sequence[float]) -> float | None:
    """The context at which values first change their sign, between two linearly in log(context); None where they do not."""
    for (x, a), (y, b) in pairwise(zip(contexts, values, strict=True)):
        if math.isfinite(a) and math.isfinite(b) and (a == 0 != b or a * b < 0):
            return float(x * (y / x) ** (a / (a - b)))
    return None


@dataclass(frozen=True)
class Crossover:
    """Where the first becomes faster than the second (or slower). measured: None where one is ahead at every length.

    low, high: where the bounds of the ratio's intervals cross; an end that does not is 0 or infinity. predicted: by the floors.
    is_flat: neither one's floor depends on the context, so there is none. is_ahead, floors_ahead: the first is, on average.
    is_sure: every interval excludes 0. limited: at how many contexts the engines decide.
    """

    size: str
    phase: str
    batch: int
    first: str
    second: str
    contexts: tuple[int, ...]
    measured: float | None
    low: float
    high: float
    predicted: float | None
    is_flat: bool
    is_ahead: bool
    floors_ahead: bool
    is_sure: bool
    limited: int

    @property
    def told(self) -> str:
        """What is found, in words, for people."""
        word = "length" if self.phase == "prefill" else "depth"
        first, last = (panels.tokens_label(context) for context in (self.contexts[0], self.contexts[-1]))
        floors = f"{_order(self.floors_ahead)} throughout" if self.predicted is None else f"{self.predicted:,.0f}"
        low, high = (f"{end:,.0f}" if 0 < end < math.inf else "beyond" for end in (self.low, self.high))
        order = _order(self.is_ahead) + " on average, not surely" * (not self.is_sure)
        if self.is_flat and self.phase == "step":
            found = f"{order} at {first} and {last}, and neither moves more bytes the deeper it is"
        elif self.measured is None:
            found = f"{order} at every {word} from {first} to {last}"
        else:
            found = f"crossover at {self.measured:,.0f} tokens ({low} to {high})"
        limits = f"; engine-limited at {self.limited} of {len(self.contexts)} {word}s" * bool(self.limited)
        return f"{found}; by the floors: {floors}{limits}"


def _order(is_ahead: bool) -> str:
    return "faster" if is_ahead else "slower"


def crossovers(found: Sequence[Contrast]) -> Iterator[Crossover]:
    """Of each pair, size, phase and batch, where it was measured at two lengths or more."""
    keys = dict.fromkeys((c.size, c.phase, c.batch, c.first, c.second) for c in found if c.first != c.second)
    for key in keys:
        mine = sorted((c for c in found if (c.size, c.phase, c.batch, c.first, c.second) == key), key=lambda c: c.context)
        if len(mine) > 1:
            yield _crossover(key, mine)


def _crossover(key: tuple[str, str, int, str, str], mine: Sequence[Contrast]) -> Crossover:
    contexts = tuple(c.context for c in mine)
    ratios, floors = [c.log_ratio for c in mine], [c.floors for c in mine]
    ends = [crossing(contexts, [getattr(ratio, end) for ratio in ratios]) for end in ("low", "high")]
    low, high = sorted(end for end in ends if end is not None) if None not in ends else (0.0, math.inf)
    return Crossover(
        *key,
        contexts,
        crossing(contexts, [ratio.value for ratio in ratios]),
        low,
        high,
        predicted=crossing(contexts, floors),
        is_flat=math.isclose(min(floors), max(floors), abs_tol=1e-9),
        is_ahead=bool(np.mean([ratio.value for ratio in ratios]) < 0),
        floors_ahead=bool(np.mean(floors) < 0),
        is_sure=all(ratio.low > 0 for ratio in ratios) or all(ratio.high < 0 for ratio in ratios),
        limited=sum(c.judgement == "engine-limited" for c in mine),
    )


def sentences(found: Sequence[Crossover]) -> list[str]:
    """One for all batches of a pair, phase and size of which the same is told."""
    batches: dict[tuple[str, ...], list[str]] = {}
    for one in found:
        batches.setdefault((one.size, one.phase, one.first, one.second, one.told), []).append(str(one.batch))
    return [
        f"{size} {times.PHASES[phase]}, batch {', '.join(mine)}, {look_of(first).label} over {look_of(second).label}: {told}."
        for (size, phase, first, second, told), mine in batches.items()
    ]
