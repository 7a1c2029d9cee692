"""Tables of a report: the numbers behind a figure, verdicts, the fairness card, runs and where they come from."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bench.figures import fairness_card
from bench.figures.frame import COORDINATES, groups, records
from bench.figures.judged import Verdict
from bench.figures.lines import windows_of
from bench.figures.style import look_of, series_name
from bench.report.spec import Cell, Table
from bench.results import Run
from bench.stats import Interval, median_interval, share_interval

# Coordinates that follow from others, or that a mean is taken over.
FOLLOWING = {
    *("model", "backbone", "params", "budget_flops", "train_flops", "tokens", "tokenizer"),
    *("n_targets", "clusters", "seed", "split"),
}
# What says of a model what it is: the fairness card has it.
OF_A_MODEL = {"lr", "mini_batch", "micro_batch", "checkpoint"}
OF_THE_RUN = ("budget", "device", "lr")
# Beyond this many lines a table shows positions at octaves only.
LONG = 120
SCALES = {"s": ((1.0, "s"), (1e3, "ms"), (1e6, "µs"))}


def numbers(title: str, rows: pd.DataFrame) -> Table:
    """A line for each number that a figure shows: mean over seeds of a loss, median of times, with 95 % intervals.

    A coordinate has a column where it differs, one of OF_A_MODEL only where it does so within a model.
    """
    named = rows.model.notna().any()
    differ = [name for name in (*COORDINATES, *OF_THE_RUN) if name not in FOLLOWING and rows[name].nunique(dropna=False) > 1]
    within = [name for name in differ if not named or rows.groupby("series")[name].nunique(dropna=False).max() > 1]
    places = [name for name in differ if name in within or name not in OF_A_MODEL]
    found = [(series, place, _interval(part), part) for series, place, part in _cells(rows, places, within)]
    if len(found) > LONG and "position" in places:
        found = [one for one in found if _is_octave(one[1]["position"], rows.position.min())]
    value, unit = str(rows.metric.iloc[0]), str(rows.unit.iloc[0])
    scale, shown = _scale(unit, [interval.value for _, _, interval, _ in found])
    lines = []
    for series, place, interval, part in found:
        cells: dict[str, Cell | str] = {"model": look_of(series).label} if named else {}
        cells |= {name.replace("_", " "): _coordinate(one) for name, one in place.items()}
        cells |= {f"{value} ({shown})": _number(scale * interval.value), "95 % interval": _bounded(interval, scale)}
        if unit == "nat/token":
            cells["perplexity"] = _number(math.exp(min(interval.value, 700)))
        runs = ", ".join(sorted(short(run_id) for run_id in set(part.run_id)))
        lines.append(((series,) if named else (), {**cells, "n": Cell(f"{interval.n:,}", interval.n), "runs": runs}))
    return Table.of(title, lines)


def _cells(rows: pd.DataFrame, places: Sequence[str], within: Sequence[str]) -> list[tuple[str, dict[str, Any], pd.DataFrame]]:
    """Rows that differ in nothing but their seed: model, place, rows; ordered by what differs within a model, then model."""
    found = [
        (series, dict(zip(places, place, strict=True)), part) for (series, *place), part in groups(rows, ["series", *places])
    ]
    return sorted(found, key=lambda one: (*(_rank(one[1][name]) for name in within), (True, look_of(one[0]).order, "")))


def _rank(value: object) -> tuple[bool, float, str]:
    """Numbers by size, after words and what is missing."""
    known = isinstance(value, int | float) and not math.isnan(value)
    return known, float(str(value)) if known else 0.0, str(value)


def _interval(part: pd.DataFrame) -> Interval:
    """Of a loss by its windows, of a time or an accuracy by its samples; else none."""
    value = float(part.value.mean())
    unknown = Interval(value, -math.inf, math.inf, len(part), "samples")
    if part.clusters.notna().all() and all(map(len, part.samples)):
        made = windows_of(part).interval()
        return Interval(value, made.low, made.high, made.n, made.unit)
    samples = [one for row in records(part[["samples", "value"]]) for one in (row["samples"] or (row["value"],))]
    if part.metric.iloc[0] == "accuracy":
        return share_interval(samples)
    if part.unit.iloc[0] == "s":
        made = median_interval(samples)
        return made if made.level >= 0.95 else Interval(made.value, -math.inf, math.inf, made.n, made.unit)
    return unknown


def _is_octave(position: object, first: float) -> bool:
    return isinstance(position, int | float) and math.log2(position / first).is_integer()


def _scale(unit: str, values: Sequence[float]) -> tuple[float, str]:
    """The largest unit in which no value is below 1, or the smallest there is."""
    scales = SCALES.get(unit, ((1.0, unit),))
    return next((one for one in scales if one[0] * min(values) >= 1), scales[-1])


def _coordinate(value: object) -> Cell:
    if isinstance(value, int | float):
        return Cell("–") if math.isnan(value) else Cell(f"{value:,.6g}" if value >= 1 else f"{value:g}", float(value))
    return Cell(str(value))


def _number(value: float) -> Cell:
    if not math.isfinite(value):
        return Cell("not finite", math.inf)
    return Cell(f"{value:,.0f}" if value >= 1000 else f"{value:#.4g}", value)


def _bounded(interval: Interval, scale: float = 1.0, sign: str = "") -> Cell:
    return Cell(bounds(interval, scale, sign), interval.low)


def bounds(interval: Interval, scale: float = 1.0, sign: str = "") -> str:
    """Both bounds, with two digits of their distance; – where there are none."""
    low, high = scale * interval.low, scale * interval.high
    if not math.isfinite(high - low):
        return "–"
    places = max(0, 1 - math.floor(math.log10(high - low))) if high > low else 4
    return f"{low:{sign},.{min(places, 6)}f} to {high:{sign},.{min(places, 6)}f}"


def verdict_table(found: Sequence[Verdict]) -> Table:
    """All that was compared, judged; with what the paper found, where it says something of any."""
    title = "nll(first) − nll(second), nat/token: below 0, the first is better"
    is_known = any(one.found for one in found)
    return Table.of(title, [(_sides(one), {**_judged(one), **(_beside_paper(one) if is_known else {})}) for one in found])


def _sides(one: Verdict) -> Sequence[str]:
    return list(dict.fromkeys((one.first.series, one.second.series)))


def _judged(one: Verdict) -> dict[str, Cell | str]:
    better = one.first if one.is_lower else one.second
    return {
        "first": one.first.label,
        "second": one.second.label,
        "where": one.where,
        "difference": Cell(f"{one.difference.value:+.4f}", one.difference.value),
        "95 % interval": _bounded(one.difference, sign="+"),
        "p (Holm)": Cell(f"{one.p_holm:.2g}", one.p_holm),
        "verdict": Cell(one.judgement, sure=True),
        "better": better.label if one.judgement == "different" else "–",
    }


def _beside_paper(one: Verdict) -> dict[str, Cell | str]:
    return {"paper": one.found or "–", "agrees": one.agrees or "–"}


def card(rows: pd.DataFrame) -> Table:
    """The fairness card."""
    made, _ = fairness_card.as_table(rows)
    looks = sorted(((look_of(series).label, series) for series in set(rows.series)), key=lambda one: -len(one[0]))
    lines = []
    for row in made.rows:
        words = enumerate(zip(made.head, row, strict=True))
        cells = {head: Cell(text, _plain(text) if place >= made.left else None) for place, (head, text) in words}
        lines.append(([next(series for label, series in looks if row[0].startswith(label))], cells))
    return Table.of("What each model was given, and what it cost", lines)


def _plain(text: str) -> float | None:
    """The number that a text begins with."""
    try:
        return float(text.split(" ", maxsplit=1)[0].replace(",", "").rstrip("%"))
    except ValueError:
        return None


def runs_table(runs: Sequence[Run], tier_of: Mapping[str, str]) -> Table:
    """Every run: what it was, how it ended, what made it. tier_of: config_hash → name of its tier."""
    return Table.of("Runs", [_run_line(run, tier_of.get(run.manifest.config_hash, "–")) for run in runs])


def _run_line(run: Run, tier: str) -> tuple[Sequence[str], dict[str, Cell | str]]:
    m, series = run.manifest, series_of(run)
    what = {"run": m.run_id, "tier": tier, "experiment": m.experiment, "model": look_of(series).label if series else "–"}
    counts = {"rows": Cell(f"{len(run.rows):,}", len(run.rows)), "seconds": Cell(f"{m.seconds:,.0f}", m.seconds)}
    made = {"commit": commit(run), "sources": m.sources, "device": m.device, "started": m.started}
    return [series] if series else [], {**what, "status": m.status, **counts, **made}


def series_of(run: Run) -> str:
    """The model of a run, as figures name it; empty where it measures none."""
    if run.config.get("experiment", {}).get("modelless"):
        return ""
    return series_name(run.config["model"]["name"], run.config["model"]["backbone"])


def commit(run: Run) -> str:
    """Eight digits, and whether the tree differed from it."""
    return run.manifest.git_sha[:7] + (" with changes" if run.manifest.dirty else "")


def short(run_id: str) -> str:
    """The hash that ends a run's name."""
    return run_id.rsplit("-", 1)[-1]
