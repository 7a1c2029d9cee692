"""Time per token of prefill and decode against the context, models side by side (paper, figure 12)."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures import panels, times
from bench.figures.data import Data
from bench.figures.style import styled

NAME = times.NAME
TITLE = "Time per token, models taking turns"
EXPERIMENTS = (NAME,)


def rows(data: Data) -> pd.DataFrame:
    """Seconds per token."""
    return times.rows(data, "token_time")


@styled
def draw(data: Data) -> Figure:
    """Microseconds per token, both axes logarithmic; a cross where memory did not suffice."""

    def finish(ax: Axes, _: pd.DataFrame) -> None:
        ax.set_yscale("log")
        panels.plain_log_axis(ax)

    captions = [
        "Prefill: to the last token's logits and a state that is ready for a step. Decode: mean of a mini-batch of steps,",
        "greedy, the state at depth when the clock starts; one row was prefilled, the others are copies of it.",
    ]
    return times.draw(data, TITLE, "token_time", "time per token (µs)", finish, captions, scale=1e6)
