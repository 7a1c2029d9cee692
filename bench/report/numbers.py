"""Tables of a report: the numbers behind a figure, verdicts, the fairness card, runs and where they come from."""

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from bench.figures import fairness_card
from bench.figures.frame import groups, records
from bench.figures.lines import windows_of
from bench.figures.style import digits, look_of, series_name
from bench.figures.verdicts import Verdict
from bench.report.spec import Cell, Column, Line, Table
from bench.results import Run
from bench.stats import Interval, median_interval

# Coordinates that a table shows where they differ, with the words of its head.
COORDINATES = {
    "size": "size",
    "budget": "budget",
    "match": "match",
    "train_context": "training context",
    "data": "data",
    "device": "device",
    "dtype": "dtype",
    "impl": "implementation",
    "exec": "execution",
    "lr": "learning rate",
    "op": "operation",
    "pass": "pass",
    "heads": "heads",
    "head_dim": "head dim",
    "batch": "batch",
    "phases": "rows",
    "slot": "step of the cycle",
    "layer": "layer",
    "weights": "weights",
    "context": "context",
    "position": "position",
}
# Beyond this many lines a table shows positions at octaves only.
LONG = 120
SCALES = {"s": ((1.0, "s"), (1e3, "ms"), (1e6, "µs"))}


def numbers(rows: pd.DataFrame) -> Table:
    """A line for each number that a figure shows: mean over seeds of a loss, median of times, with 95 % intervals."""
    varying = [name for name in COORDINATES if rows[name].nunique(dropna=False) > 1]
    found = [(series, place, _interval(part), part) for series, place, part in _cells(rows, varying)]
    if len(found) > LONG and "position" in varying:
        found = [one for one in found if _is_octave(one[1][varying.index("position")], rows.position.min())]
    unit = str(rows.unit.iloc[0])
    scale, shown = _scale(unit, [interval.value for _, _, interval, _ in found])
    is_loss = unit == "nat/token"
    heads = [Column(COORDINATES[name], numeric=rows[name].dtype != object) for name in varying]
    loss = [Column("perplexity", numeric=True)] if is_loss else []
    named = rows.model.notna().any()
    columns = [*([Column("model")] if named else []), *heads, Column(f"{rows.metric.iloc[0]} ({shown})", numeric=True)]
    columns += [Column("95 % interval", numeric=True), *loss, Column("n", numeric=True), Column("runs")]
    lines = []
    for series, place, interval, part in found:
        of = [Cell(look_of(series).label)] if named else []
        perplexity = [_number(math.exp(min(interval.value, 700)), 4)] if is_loss else []
        cells = [*of, *map(_coordinate, place), _number(scale * interval.value, 4), Cell(bounds(interval, scale)), *perplexity]
        cells += [_number(interval.n, 6), Cell(", ".join(sorted(short(run_id) for run_id in set(part.run_id))))]
        lines.append(Line(tuple(cells), (series,) if named else ()))
    return Table("Numbers", tuple(columns), tuple(lines))


def _cells(rows: pd.DataFrame, varying: Sequence[str]) -> Iterable[tuple[str, tuple[object, ...], pd.DataFrame]]:
    """Rows that differ in nothing but their seed, ordered by place, then model."""
    found = [(series, place, part) for (series, *place), part in groups(rows, ["series", *varying])]
    order = {series: look_of(series).order for series in set(rows.series)}
    return [(series, tuple(place), part) for series, place, part in sorted(found, key=lambda one: _key(one[1], order[one[0]]))]


def _key(place: Sequence[object], order: int) -> tuple[tuple[bool, float, str], ...]:
    numbers = [isinstance(value, int | float) and not pd.isna(value) for value in place]
    ranked = [(known, float(str(value)) if known else 0.0, str(value)) for value, known in zip(place, numbers, strict=True)]
    return (*ranked, (True, order, ""))


def _interval(part: pd.DataFrame) -> Interval:
    """Of a loss by its windows, of a time by its samples; else none."""
    value = float(part.value.mean())
    unknown = Interval(value, -math.inf, math.inf, len(part), "samples")
    if part.clusters.notna().all() and all(map(len, part.samples)):
        made = windows_of(part).interval()
        return Interval(value, made.low, made.high, made.n, made.unit)
    if part.unit.iloc[0] == "s":
        made = median_interval([s for row in records(part[["samples", "value"]]) for s in (row["samples"] or (row["value"],))])
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
        return Cell("–", math.inf) if math.isnan(value) else Cell(f"{value:,.6g}" if value >= 1 else f"{value:g}", float(value))
    return Cell(str(value))


def _number(value: float, precision: int) -> Cell:
    if not math.isfinite(value):
        return Cell("not finite", math.inf)
    return Cell(f"{value:,.0f}" if value >= 1000 else digits(value, precision), value)


def bounds(interval: Interval, scale: float = 1.0, sign: str = "") -> str:
    """Both bounds, with enough digits to tell them apart; – where there are none."""
    low, high = scale * interval.low, scale * interval.high
    if not math.isfinite(high - low):
        return "–"
    places = max(0, 1 - math.floor(math.log10(high - low))) if high > low else 4
    return f"{low:{sign},.{min(places, 6)}f} to {high:{sign},.{min(places, 6)}f}"


def verdict_table(found: Sequence[Verdict]) -> Table:
    """All that was compared, judged."""
    heads = ("first", "second", "where", "first − second", "95 % interval", "p (Holm)", "verdict", "in words", "paper")
    columns = tuple(Column(head, numeric=head in ("first − second", "95 % interval", "p (Holm)")) for head in heads)
    return Table("Verdicts", columns, tuple(map(_verdict_line, found)))


def _verdict_line(one: Verdict) -> Line:
    order = "" if one.judgement != "different" else f"{(one.first if one.is_lower else one.second).label} is better"
    paper = f"{one.found}: {one.agrees}" if one.found else "–"
    difference = Cell(f"{one.difference.value:+.4f}", one.difference.value)
    interval = Cell(bounds(one.difference, sign="+"), one.difference.low)
    cells = (
        *(Cell(one.first.label), Cell(one.second.label), Cell(one.where), difference, interval),
        *(Cell(f"{one.p_holm:.2g}", one.p_holm), Cell(one.judgement, sure=True), Cell(order or "–"), Cell(paper)),
    )
    return Line(cells, tuple(dict.fromkeys((one.first.series, one.second.series))))


def card(rows: pd.DataFrame) -> Table:
    """The fairness card."""
    made, _ = fairness_card.as_table(rows)
    looks = sorted(((look_of(series).label, series) for series in set(rows.series)), key=lambda one: -len(one[0]))
    columns = tuple(Column(head, numeric=place >= made.left) for place, head in enumerate(made.head))
    lines = []
    for row in made.rows:
        cells = tuple(Cell(text, _plain(text) if column.numeric else None) for text, column in zip(row, columns, strict=True))
        lines.append(Line(cells, next((series,) for label, series in looks if row[0].startswith(label))))
    return Table("What each model was given, and what it cost", columns, tuple(lines))


def _plain(text: str) -> float | None:
    """The number that a text begins with."""
    try:
        return float(text.split(" ", maxsplit=1)[0].replace(",", "").rstrip("%"))
    except ValueError:
        return None


def runs_table(runs: Sequence[Run], tier_of: Mapping[str, str]) -> Table:
    """Every run: what it was, how it ended, what made it. tier_of: config_hash → name of its tier."""
    heads = ("run", "tier", "experiment", "model", "status", "rows", "seconds", "commit", "sources", "device", "started")
    columns = tuple(Column(head, numeric=head in ("rows", "seconds")) for head in heads)
    return Table("Runs", columns, tuple(_run_line(run, tier_of.get(run.manifest.config_hash, "–")) for run in runs))


def _run_line(run: Run, tier: str) -> Line:
    m, series = run.manifest, series_of(run)
    texts = (m.run_id, tier, m.experiment, look_of(series).label if series else "–", m.status)
    counts = (Cell(f"{len(run.rows):,}", len(run.rows)), Cell(f"{m.seconds:,.0f}", m.seconds))
    made = (commit(run), m.sources, m.device, m.started)
    return Line((*map(Cell, texts), *counts, *map(Cell, made)), (series,) if series else ())


def series_of(run: Run) -> str:
    """The model of a run, as figures name it; empty where it measures none."""
    if run.config.get("experiment", {}).get("modelless"):
        return ""
    return series_name(run.config["model"]["name"], run.config["model"]["backbone"])


def commit(run: Run) -> str:
    """Eight digits, and whether the tree differed from it."""
    return run.manifest.git_sha[:8] + (" with changes" if run.manifest.dirty else "")


def short(run_id: str) -> str:
    """The hash that ends a run's name."""
    return run_id.rsplit("-", 1)[-1]
