"""How many times longer other implementations, and other layers of the same width, take than ours, case by case."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench.figures import footer, panels
from bench.figures.data import Data
from bench.figures.frame import groups, records
from bench.figures.page import Layout, Page, Sheet, handle
from bench.figures.style import INK, QUIET, Look, digits, styled
from bench.stats import Interval, ratio_interval

NAME = "kernel_speed"
TITLE = "Time of one layer's operation, relative to ours"
EXPERIMENTS = (NAME,)
OURS = {"ttt_linear": "TTT-Linear", "ttt_mlp": "TTT-MLP"}
PASSES = {"fwd": "forward", "fwd_bwd": "forward and backward", "step": "step"}
PLACE = ["batch", "context", "heads", "head_dim"]
ROW_IN = 0.33
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
LOOKS = {
    ("ttt_linear", "fla_chunk"): Look("fla chunk", "#E69F00", "o", 0),
    ("ttt_linear", "fla_fused_chunk"): Look("fla fused chunk", "#882255", "s", 1),
    ("ttt_linear", "reference"): Look("PyTorch reference", "#7A5230", "P", 2),
    ("ttt_mlp", "reference"): Look("PyTorch reference", "#7A5230", "P", 2),
    ("attention", "sdpa_flash"): Look("attention, SDPA flash", "#000000", "^", 3, hollow=True),
    ("attention", "sdpa_cudnn"): Look("attention, SDPA cuDNN", "#000000", "v", 4, hollow=True),
    ("attention", "reference"): Look("attention, PyTorch", "#666666", "^", 5, hollow=True),
    ("selective_scan", "mamba_ssm"): Look("Mamba-1, mamba-ssm", "#009E73", "D", 6, hollow=True),
    ("selective_scan", "reference"): Look("Mamba-1, PyTorch", "#56B4E9", "D", 7, hollow=True),
    ("ssd", "mamba_ssm"): Look("Mamba-2, mamba-ssm", "#CC79A7", "v", 8, hollow=True),
    ("ssd", "reference"): Look("Mamba-2, PyTorch", "#CC79A7", "^", 9, hollow=True),
}


@dataclass(frozen=True)
class Ratio:
    """Another implementation's time over ours."""

    look: Look
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """One case: what it is called, and all that it can be compared with."""

    label: str
    ratios: tuple[Ratio, ...]


def rows(data: Data) -> pd.DataFrame:
    """Times of operations."""
    return data.select(NAME, ["latency"], timing=True)


@styled
def draw(data: Data) -> Sheet:
    """A panel for each of our operations, a line for each case, a dot for each thing it is compared with."""
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, NAME, _alarms(data))
    compared = {op: _comparisons(table, op) for op in OURS}
    count = max(len(cases) for cases in compared.values())
    page = Page(TITLE, Layout((1.0, 1.0), height_in=ROW_IN * (count + 0.3), gap_in=0.35))
    for ax, (op, cases) in zip(page.axes, compared.items(), strict=True):
        ax.set_title(f"{OURS[op]}, {_ours(table, op)}", loc="left")
        _draw(ax, cases, count)
    _share_x(page.axes, [ratio for cases in compared.values() for case in cases for ratio in case.ratios])
    looks = {ratio.look.label: ratio.look for cases in compared.values() for case in cases for ratio in case.ratios}
    handles = [handle(_dot(look)) for look in sorted(looks.values(), key=lambda look: look.order)]
    return page.finish(handles, [_caption(table), *_errors(data), *footer.published(table)], _alarms(data), _facts(data, table))


def _ours(table: pd.DataFrame, op: str) -> str:
    """The implementation that the others are compared with."""
    return "triton" if "triton" in set(table[table.op == op].impl) else "reference"


def _comparisons(table: pd.DataFrame, op: str) -> list[Comparison]:
    """Every case of an operation, sequences before steps, in the order in which they were measured."""
    means = table[table.slot.isna() | ((table.slot == "mean") & (table.phases == "in_phase"))]
    mine, impl = means[means.op == op], _ours(table, op)
    found: list[tuple[int, int, Comparison]] = []
    for row in records(mine[mine.impl == impl]):
        alike = means[(means["pass"] == row["pass"]) & (means.device == row["device"]) & (means.dtype == row["dtype"])]
        for key in PLACE:
            alike = alike[alike[key] == row[key]]
        others = [other for other in records(alike) if _is_other(other, op, impl)]
        ratios = tuple(_ratio(other, row) for other in others)
        order = list(PASSES).index(row["pass"])
        found.append((order, len(found), Comparison(_label(row, table), ratios)))
    return [comparison for _, _, comparison in sorted(found, key=lambda one: one[:2])]


def _is_other(row: dict[str, Any], op: str, impl: str) -> bool:
    return (row["op"], row["impl"]) in LOOKS and (row["op"] not in OURS or (row["op"] == op and row["impl"] != impl))


def _ratio(other: dict[str, Any], ours: dict[str, Any]) -> Ratio:
    theirs, mine = (row["samples"] or (row["value"],) for row in (other, ours))
    return Ratio(LOOKS[other["op"], other["impl"]], ratio_interval(theirs, mine))


def _label(row: dict[str, Any], table: pd.DataFrame) -> str:
    where = _place(row, table)
    if row["pass"] != "step":
        return f"{where}: {digits(1e3 * row['value'])} ms"
    return f"{where}: {_microseconds(row['value'])} µs{_extremes(row, table)}"


def _place(row: dict[str, Any], table: pd.DataFrame) -> str:
    """Pass, batch, and for whole sequences length, and heads where ``table`` has several numbers of them."""
    what = f"{PASSES[row['pass']]}, B{row['batch']:.0f}"
    heads = f" H{row['heads']:.0f}" if table.heads.nunique() > 1 else ""
    return what if row["pass"] == "step" else f"{what} T{panels.tokens_label(row['context'])}{heads}"


def _extremes(row: dict[str, Any], table: pd.DataFrame) -> str:
    """The first step of a cycle, the one that commits, and the mean where rows stand at different positions."""
    alike = table[(table["pass"] == "step") & (table.op == row["op"]) & (table.impl == row["impl"])]
    for key in (*PLACE, "device", "dtype"):
        alike = alike[alike[key] == row[key]]
    single = {one["slot"]: one["value"] for one in records(alike) if one["phases"] == "in_phase"}
    spread = [one["value"] for one in records(alike) if one["phases"] == "spread"]
    words = [f"{name} {_microseconds(single[name])}" for name in ("first", "commit") if name in single]
    return f" ({', '.join([*words, *(f'spread {_microseconds(value)}' for value in spread)])})" if words or spread else ""


def _microseconds(seconds: float) -> str:
    return digits(1e6 * seconds) if seconds < 1e-3 else f"{1e6 * seconds:,.0f}"


def _draw(ax: Axes, cases: Sequence[Comparison], count: int) -> None:
    """The first case at the top; its name above its line."""
    ax.set_ylim(count - 0.5, -0.8)
    ax.yaxis.set_major_locator(NullLocator())
    ax.axvline(1, color=INK, linewidth=1)
    for place, case in enumerate(cases):
        ax.text(0.01, place - 0.14, case.label, transform=ax.get_yaxis_transform(), va="bottom", bbox=BEHIND)
        ax.axhline(place + 0.12, color=QUIET, linewidth=0.3, zorder=0)
        for ratio in case.ratios:
            ends = [end for end in (ratio.interval.low, ratio.interval.high) if math.isfinite(end)]
            ax.plot(ends, [place + 0.12] * len(ends), color=ratio.look.colour, linewidth=2, alpha=0.5)
            ax.plot(ratio.interval.value, place + 0.12, **_dot(ratio.look).kwargs)
        if not case.ratios:
            ax.text(0.99, place + 0.12, "nothing to compare with", transform=ax.get_yaxis_transform(), ha="right", color=QUIET)


def _dot(look: Look) -> Look:
    """The look of single points."""
    return Look(look.label, look.colour, look.marker, look.order, dashes=(0, (0.001, 100)), hollow=look.hollow)


def _share_x(axes: Sequence[Axes], ratios: Sequence[Ratio]) -> None:
    ends = [end for ratio in ratios for end in (ratio.interval.low, ratio.interval.high)]
    values = [1.0, *(ratio.interval.value for ratio in ratios), *(end for end in ends if math.isfinite(end))]
    low, high = min(values) / 1.25, max(values) * 1.25
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low < tick < high]
    for ax in axes:
        ax.set_xscale("log")
        ax.set_xlim(low, high)
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
        ax.set_xlabel("their time / ours (right of 1×: ours is faster)")


def _caption(table: pd.DataFrame) -> str:
    counts = [len(samples) for samples in table.samples]
    steps = " A decode step: mean over a cycle of mini-batch tokens, rows in phase; in brackets single steps, and rows spread."
    return (
        f"Medians of {min(counts)} samples or more; times printed are ours; bars: interval of the ratio, at least 95 %. "
        "Filled: the same operation; hollow: another layer of the same width (B batch, T tokens, H heads)."
        + steps
        * ("step" in set(table["pass"]))
    )


def _errors(data: Data) -> list[str]:
    """Largest errors of what was timed, ours, by kind, with the yardstick's beside them."""
    found = data.select(NAME, ["relative_error", "yardstick_error"])
    words = []
    for op, mine in groups(found[found.op.isin(list(OURS))], "op"):
        mine = mine[mine.impl == _ours(found, op)]
        kinds = {"outputs": mine.tensor.str.startswith("output"), "gradients": mine.tensor.str.startswith("d_")}
        kinds["states"] = mine.tensor.str.startswith("state")
        each = [text for kind, where in kinds.items() for text in _largest(mine[where], kind)]
        words.append(f"{OURS[op]}: {', '.join(each)}.")
    return [f"Largest relative errors (in brackets those of PyTorch with rounded operands). {' '.join(words)}"] if words else []


def _largest(part: pd.DataFrame, kind: str) -> Iterator[str]:
    ours, yardstick = (part[part.metric == metric].value for metric in ("relative_error", "yardstick_error"))
    if len(ours):
        beside = f" ({digits(yardstick.max(), 2)})" if len(yardstick) else ""
        yield f"{kind} {digits(ours.max(), 2)}{beside}"


def _alarms(data: Data) -> list[str]:
    """What has no time, and which runs did not end well."""
    without = data.select(NAME, ["missing", "broken", "wrong"])
    told = [
        f"{metric}: {op} {impl} ({'; '.join(_place(row, without) for row in records(cases))})."
        for (metric, op, impl), cases in groups(without, ["metric", "op", "impl"])
    ]
    return [*told, *data.troubles(EXPERIMENTS)]


def _facts(data: Data, table: pd.DataFrame) -> list[str]:
    ceilings = data.select(NAME, ["copy_rate", "matmul_rate"])
    reached = [
        f"{metric.replace('_rate', '')} {digits(np.median(part.value))} {part.unit.iloc[0]}"
        for metric, part in groups(ceilings, "metric")
    ]
    devices, dtypes, sources = (", ".join(sorted(set(column))) for column in (table.device, table.dtype, table.sources))
    first = f"device {devices} · {dtypes} · random inputs · reached here: {', '.join(reached)} · sources {sources}"
    return [first, f"runs {' '.join(sorted({run_id.rsplit('-', 1)[-1] for run_id in table.run_id}))}"]
