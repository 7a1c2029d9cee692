"""``python -m bench.compare A B``: did a change help? B against A, number by number, each with its interval and a verdict.

A, B: a run's folder, or its run_id or how that begins, among your runs and the published ones. The exit status is 0 where
nothing is worse (equal, better, or it cannot be told), 1 where something is, 2 where they cannot be compared. No torch here.

Losses and scores of the same windows or documents are compared in pairs, times by the ratio of their medians, bytes as they
are. Verdicts are by bench/stats.py: equal where the whole 95 % interval lies within what does not matter, different where it
excludes no change, and so does Holm's p of all that are asked; else it cannot be told.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from bench.figures.frame import frame, records
from bench.figures.judged import EQUAL_WITHIN
from bench.figures.lines import windows_of
from bench.figures.tables import Table
from bench.results import PUBLISHED, ROOT, Coordinate, CorruptResults, Run, read_run
from bench.stats import Interval, holm, ratio_interval, verdict

# A smaller share of a time or of bytes, and a smaller difference of scores, does not matter.
EQUAL_SHARE = 0.005
# What makes a run and may be what was changed; a row's other coordinates say where it was measured, and must be the same.
OF_THE_RUN = {
    *("model", "backbone", "size", "params", "mini_batch", "impl", "exec", "dtype", "match", "convention", "budget_flops"),
    *("train_flops", "tokens", "train_context", "micro_batch", "checkpoint", "seed"),
}
# What follows from others, and is compared where samples are paired.
INCIDENTAL = {"n_targets", "clusters", "attempt", "documents", "filled_rows"}
HEAD = ("metric", "where", "A", "B", "change", "95 % interval", "p (Holm)", "verdict")


class NotComparable(ValueError):
    """Two runs that have nothing in common to compare."""


@dataclass(frozen=True)
class Metric:
    """sign: 1 where less is better, -1 where more is. way: paired (B - A over the same samples), ratio (B / A) or exact."""

    sign: int
    way: str

    @property
    def equal_within(self) -> float:
        """Of the difference, or of the logarithm of the ratio."""
        return EQUAL_WITHIN if self.way == "paired" else math.log1p(EQUAL_SHARE)


_LOSSES = ("nll", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")
_SCORES = ("accuracy", "acc", "acc_norm", "exact_match", "f1")
METRICS = {
    **dict.fromkeys(_LOSSES, Metric(1, "paired")),
    **dict.fromkeys(_SCORES, Metric(-1, "paired")),
    **dict.fromkeys(("latency", "token_time"), Metric(1, "ratio")),
    **dict.fromkeys(("throughput", "mfu"), Metric(-1, "ratio")),
    **dict.fromkeys(("state", "peak_memory"), Metric(1, "exact")),
}


@dataclass(frozen=True)
class Change:
    """One number of both runs. interval: of B - A, or of log(B / A); what has no samples has bounds only where it is exact."""

    metric: str
    at: Mapping[str, Coordinate]
    a: float
    b: float
    interval: Interval
    p_holm: float = 1.0

    @property
    def verdict(self) -> str:
        """better, worse, equal or cannot tell."""
        kind = METRICS[self.metric]
        judged = verdict(self.interval, kind.equal_within, p=self.p_holm)
        return judged if judged != "different" else "worse" if kind.sign * self.interval.value > 0 else "better"


def changes(a: Run, b: Run) -> list[Change]:
    """What both runs measured at the same place, judged together.

    Raises:
        NotComparable: they are of different experiments, one of them is not done, or nothing was measured alike.
    """
    for run in (a, b):
        if run.manifest.status != "done":
            cause = f": {run.manifest.cause}" if run.manifest.cause else ""
            raise NotComparable(f"{run.folder} is {run.manifest.status}, not done{cause}")
    if a.manifest.experiment != b.manifest.experiment:
        raise NotComparable(f"A is of {a.manifest.experiment}, B of {b.manifest.experiment}: give two runs of one experiment")
    made = list(_changes(_judged(a), _judged(b)))
    if not made:
        raise NotComparable(f"nothing was measured alike in both; judged are: {', '.join(METRICS)}")
    adjusted = iter(holm([one.interval.p for one in made if one.interval.p is not None]))
    return [replace(one, p_holm=next(adjusted) if one.interval.p is not None else 0.0) for one in made]


def _judged(run: Run) -> pd.DataFrame:
    """Rows of the metrics that are judged; but of what is exact those with samples."""
    table = frame([run])
    way = table.metric.map({metric: kind.way for metric, kind in METRICS.items()})
    return table[(way == "exact") | (way.notna() & (table.samples.map(len) > 0))]


def _changes(a: pd.DataFrame, b: pd.DataFrame) -> Iterator[Change]:
    for metric in dict.fromkeys(a.metric):
        mine, other = a[a.metric == metric], b[b.metric == metric]
        varying = {key for key in OF_THE_RUN for table in (mine, other) if key in table and table[key].nunique() > 1}
        apart = OF_THE_RUN - varying | INCIDENTAL
        before, after = _by_place(mine, apart), _by_place(other, apart)
        for place, row in before.items():
            if place in after:
                yield _change(metric, dict(place), row, after[place])


def _by_place(table: pd.DataFrame, apart: set[str]) -> dict[frozenset[tuple[str, Coordinate]], pd.DataFrame]:
    """Of each place the latest row, as a table."""
    places = [frozenset((k, v) for k, v in row["row"].at.items() if k not in apart) for row in records(table)]
    return {place: table.iloc[[n]] for n, place in enumerate(places)}


def _change(metric: str, at: Mapping[str, Coordinate], a: pd.DataFrame, b: pd.DataFrame) -> Change:
    (x,), (y,) = a.value, b.value
    way = METRICS[metric].way
    interval = _paired(a, b) if way == "paired" else _log_ratio(a.samples.iloc[0], b.samples.iloc[0], x, y, way == "exact")
    return Change(metric, at, float(x), float(y), interval)


def _paired(a: pd.DataFrame, b: pd.DataFrame) -> Interval:
    """B - A; without bounds where these are not the same windows or documents."""
    before, after = windows_of(a), windows_of(b)
    if not after.pairs_with(before):
        return Interval(float(b.value.iloc[0] - a.value.iloc[0]), -math.inf, math.inf, 0, "windows", p=1.0)
    return after.interval(before)


def _log_ratio(a: Sequence[float], b: Sequence[float], x: float, y: float, is_exact: bool) -> Interval:
    """log(B / A) of medians, p by the widest interval that excludes 0; of what is exact its own value."""
    value = math.log(y / x) if min(x, y) > 0 else 0.0 if x == y else math.copysign(math.inf, y - x)
    if is_exact:
        return Interval(value, value, value, 1, "samples")

    def bounds(level: float) -> tuple[float, float]:
        one = ratio_interval(b, a, level)
        return (math.log(one.low), math.log(one.high)) if one.low > 0 else (-math.inf, math.inf)

    low, high = bounds(0.95)
    certain, doubtful = 0.0, 1.0
    for _ in range(30):
        level = (certain + doubtful) / 2
        some, most = bounds(level)
        certain, doubtful = (certain, level) if some <= 0 <= most else (level, doubtful)
    return Interval(value, low, high, min(len(a), len(b)), "samples", p=1 - certain)


def table_of(found: Sequence[Change]) -> Table:
    """A row a change; where: the coordinates in which rows of the metric differ."""
    places = {metric: [one.at for one in found if one.metric == metric] for metric in METRICS}
    return Table(HEAD, [_words(one, places[one.metric]) for one in found], left=2, group=0)


def _words(one: Change, places: Sequence[Mapping[str, Coordinate]]) -> list[str]:
    where = [f"{key} {value}" for key, value in one.at.items() if len({place.get(key) for place in places}) > 1]
    kind, interval = METRICS[one.metric], one.interval
    shown = "{:+.4f}" if kind.way == "paired" else "×{:.4g}"
    low, value, high = (math.exp(x) if kind.way != "paired" else x for x in (interval.low, interval.value, interval.high))
    is_bounded = math.isfinite(interval.low) and math.isfinite(interval.high)
    bounds = "exact" if kind.way == "exact" else f"{shown.format(low)} … {shown.format(high)}" if is_bounded else "none"
    p = f"{one.p_holm:.2g}" if interval.p is not None else ""
    return [one.metric, ", ".join(where), f"{one.a:.5g}", f"{one.b:.5g}", shown.format(value), bounds, p, one.verdict]


def differences(a: Run, b: Run) -> list[str]:
    """Lines on what the two runs were made by, where that differs: keys of their configurations, and facts of run.json."""
    mine, other = _facts(a), _facts(b)
    keys = [key for key in {**mine, **other} if mine.get(key, "–") != other.get(key, "–")]
    return [f"  {key}: {mine.get(key, '–')} → {other.get(key, '–')}" for key in keys]


def _facts(run: Run) -> dict[str, Any]:
    manifest = run.manifest
    made_by = {"git_sha": manifest.git_sha[:9], "sources": manifest.sources, "device": manifest.device}
    return dict(_leaves(run.config, "")) | made_by | {f"version of {name}": v for name, v in manifest.versions.items()}


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, (dict, list)) or not node:
        yield path, node
        return
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def find_run(word: str, roots: Sequence[Path]) -> Run:
    """A run by its folder, or by its run_id or how that begins; your own before a published one of the same run_id.

    Raises:
        NotComparable: there is none, or more than one.
        CorruptResults: its files are damaged.
    """
    if (Path(word) / "run.json").exists():
        return read_run(Path(word))
    named = [folder for root in roots for folder in sorted(root.glob(f"*/{word}*")) if (folder / "run.json").exists()]
    whole = [folder for folder in named if folder.name == word]
    first = {(folder.parent.name, folder.name): folder for folder in reversed(whole or named)}
    if len(first) != 1:
        several = f"is how several begin: {', '.join(sorted(map('/'.join, first)))}; give a folder, or more of the run_id"
        none = f"is no run's folder or run_id; looked in {', '.join(map(str, roots))}"
        raise NotComparable(f"'{word}' {several if first else none}")
    (folder,) = first.values()
    return read_run(folder)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("a", metavar="A", help="the run before the change")
    parser.add_argument("b", metavar="B", help="the run after it")
    parser.add_argument("--results", default=ROOT / "results" / "runs", type=Path, help="your runs (%(default)s)")
    words = parser.parse_args()
    try:
        a, b = (find_run(word, [words.results, PUBLISHED]) for word in (words.a, words.b))
        print(f"A {a.folder}\nB {b.folder}")
        print(*(differences(a, b) or ["  made alike"]), sep="\n")
        found = changes(a, b)
    except (NotComparable, CorruptResults) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    alone = [len(_judged(run)) - len(found) for run in (a, b)]
    told = [f"measured in A alone: {alone[0]}, in B alone: {alone[1]}"] if any(alone) else []
    print(*table_of(found).text(), *told, *captions(found), sep="\n")
    return 1 if any(one.verdict == "worse" for one in found) else 0


def captions(found: Sequence[Change]) -> list[str]:
    """What the intervals do not cover, and the sum."""
    ways = {METRICS[one.metric].way for one in found}
    told = {
        "paired": "Losses and scores: B − A over the same texts. Intervals cover the choice of text, not another seed.",
        "ratio": "Times: B / A of medians. Intervals cover the calls of these two runs, not another start of either.",
    }
    counts = {word: sum(one.verdict == word for one in found) for word in ("better", "worse", "equal", "cannot tell")}
    return [*(text for way, text in told.items() if way in ways), ", ".join(f"{n} {word}" for word, n in counts.items() if n)]


if __name__ == "__main__":
    sys.exit(main())
