"""How near each model comes to its own floor: what its bytes and matrix products would take at this device's ceilings."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from bench.figures import times
from bench.figures.data import Data
from bench.figures.frame import records
from bench.figures.style import digits, styled

NAME = times.NAME
TITLE = "Share of the model's own floor in its time"
EXPERIMENTS = (NAME,)


def rows(data: Data) -> pd.DataFrame:
    """Floor over time."""
    return times.rows(data, "floor_share")


@styled
def draw(data: Data) -> Figure:
    """1: as fast as weights and state can be moved, or as the matrix products can be made."""

    def finish(ax: Axes, _: pd.DataFrame) -> None:
        ax.set_ylim(0, 1.05)
        ax.yaxis.set_major_formatter(PercentFormatter(1.0))

    rates = data.select(NAME, ["copy_rate", "matmul_rate"], timing=True)
    told = ", ".join(f"{row['metric'].removesuffix('_rate')} {digits(row['value'])} {row['unit']}" for row in records(rates))
    captions = [
        "Floor: the larger of bytes (weights once; state as a step must move it, or a prefill write it) over the copy's rate",
        f"and FLOPs of matrix products over that of a large one, both measured in the same run: {told}.",
    ]
    return times.draw(data, TITLE, "floor_share", "floor / time", finish, captions)
