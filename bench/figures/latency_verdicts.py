"""Who is faster, place by place, judged by rule; and whether decode takes the same time at any depth."""

import math

import pandas as pd
from matplotlib.figure import Figure

from bench.figures import footer, panels, times
from bench.figures.contrasts import ENGINE, Contrast, contrasts
from bench.figures.data import Data
from bench.figures.style import look_of, styled
from bench.figures.tables import Table

NAME = times.NAME
TITLE = "Verdicts on time"
EXPERIMENTS = (NAME,)
HEAD = ("size", "phase", "batch", "first", "second", "time / time", "95 % interval", "rounds", "p (Holm)", "floors", "verdict")


def rows(data: Data) -> pd.DataFrame:
    """Times."""
    return times.rows(data, "latency")


@styled
def draw(data: Data) -> Figure:
    """All as a table."""
    found, table = contrasts(data), rows(data)
    if not found:
        return panels.empty(TITLE, NAME, footer.alarms(data, table, EXPERIMENTS))
    captions = [
        "Ratios of times of models that took turns, paired by round.",
        "equal: the whole interval within ±0.5 %; different: 1 excluded, after Holm over all of this table.",
        f"floors: share of its own floor that either reaches; engine-limited: they differ by more than {ENGINE:g}×.",
        *footer.published(table, "compared with one another, never with one's own"),
    ]
    shown = Table(HEAD, [_words(one) for one in found], left=5, group=2)
    return shown.page(TITLE).finish([], captions, footer.alarms(data, table, EXPERIMENTS), footer.facts(table))


def _words(one: Contrast) -> list[str]:
    ratio = one.log_ratio
    bounded = math.isfinite(ratio.high - ratio.low)
    bounds = f"{math.exp(ratio.low):.4f} … {math.exp(ratio.high):.4f}" if bounded else "none"
    faster = f": {'first' if ratio.value < 0 else 'second'} faster" if one.judgement == "different" else ""
    first, second = (
        f"{look_of(name).label} at {panels.tokens_label(context)}"
        for name, context in ((one.first, one.first_context), (one.second, one.context))
    )
    numbers = [f"{math.exp(ratio.value):.4f}", bounds, str(ratio.n), f"{one.p_holm:.2g}"]
    floors = f"{one.shares[0]:.0%}, {one.shares[1]:.0%}"
    return [one.size, times.PHASES[one.phase], str(one.batch), first, second, *numbers, floors, one.judgement + faster]
