"""Memory that a model allocates in prefill and decode against the context, beside its weights and state alone."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.figures import panels, times
from bench.figures.data import Data
from bench.figures.frame import groups
from bench.figures.style import look_of, styled

NAME = times.NAME
TITLE = "Largest memory allocated"
EXPERIMENTS = (NAME,)


def rows(data: Data) -> pd.DataFrame:
    """Bytes; a CPU has none."""
    return times.rows(data, "peak_memory")


def expected_of(data: Data) -> tuple[str, ...]:
    """The tier's models; none where all ran on a CPU."""
    on_cpu = [run.config["device"]["type"] == "cpu" for run in data.runs if run.manifest.experiment == NAME]
    return () if on_cpu and all(on_cpu) else data.expected


def least(data: Data, part: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``part`` with their place's weight_bytes + state, bytes, as their value."""
    place = ["run_id", "size", "series", "phase", "batch", "context", "impl", "exec", "attempt"]
    held = times.rows(data, "weight_bytes", "state").groupby(place).value.sum().rename("least")
    joined = part.join(held, on=place)
    return joined.assign(value=joined.least)


@styled
def draw(data: Data) -> Figure:
    """GB (1e9 byte), both axes logarithmic; a cross where memory did not suffice."""

    def finish(ax: Axes, part: pd.DataFrame) -> None:
        for series, mine in groups(least(data, part), "series"):
            look, mine = look_of(series), mine.sort_values("context")
            ax.plot(mine.context, mine.value / 1e9, color=look.colour, linestyle=":", linewidth=1, zorder=2, gid=look.gid)
        ax.set_yscale("log")
        panels.plain_log_axis(ax)

    captions = [
        "Counted by PyTorch's allocator from setting up to the first sample, weights included, those of other models not;",
        "of decode, this covers the prefill of one row to the depth. 1 GB = 1e9 byte. Dotted: weights and state alone.",
    ]
    label, command = "largest memory allocated (GB)", f"{NAME} device=h100"
    return times.draw(data, TITLE, "peak_memory", label, finish, captions, 1e-9, command, expected_of(data))
