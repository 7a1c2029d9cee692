"""What stands under a figure: how sure it is, what is missing or failed, and where its rows come from."""

from collections.abc import Iterable, Sequence

import pandas as pd

from bench.figures.data import Data
from bench.figures.frame import groups, records
from bench.figures.lines import Curve
from bench.figures.style import digits, look_of


def facts(rows: pd.DataFrame) -> list[str]:
    """Device, dtype, matching, budgets, sources and runs behind ``rows``."""
    if rows.empty:
        return []
    counted = f"match={_words(rows.match)}, attention counted {_words(rows.convention)}"
    pairs = rows[["budget_flops", "budget"]].drop_duplicates().sort_values("budget_flops")
    budgets = ", ".join(f"{row['budget']} ({digits(row['budget_flops'])} FLOP)" for row in records(pairs))
    sources = sorted(set(rows.sources))
    where = f"sources {sources[0]}" if len(sources) == 1 else f"SOURCES DIFFER: {', '.join(sources)}"
    first = f"device {_words(rows.device)} · {_words(rows.dtype)} · {counted} · budget {budgets} · size {_words(rows['size'])}"
    ids = sorted({run_id.rsplit("-", 1)[-1] for run_id in rows.run_id})
    return [f"{first} · {where}", f"runs {' '.join(ids)}"]


def alarms(data: Data, rows: pd.DataFrame, experiments: Sequence[str], expected: Sequence[str] | None = None) -> list[str]:
    """Which models are missing and which runs did not end well."""
    missing = [look_of(name).label for name in data.missing(rows, expected)]
    own = "own " if not rows.empty and rows.published.astype(bool).any() else ""
    absent = [f"No {own}rows of: {', '.join(missing)}"] if missing else []
    return absent + data.troubles(experiments)


def published(rows: pd.DataFrame, marks: str = "hollow, dotted, without intervals") -> list[str]:
    """The sentence that says which rows are published ones, and how they are marked beside one's own."""
    theirs = rows[rows.published.astype(bool)]
    shas = ", ".join(sorted({sha[:8] for sha in theirs.git_sha}))
    if len(theirs) == len(rows):
        return [f"published rows, {shas}"]
    return [f"Published rows ({marks}): {shas}."] if len(theirs) else []


def seeds(rows: pd.DataFrame) -> str:
    """1 seed, or how many and what that means."""
    counts = {part.seed.nunique() for _, part in groups(rows, ["series", "published"])}
    text = _range(counts, "seed")
    return text if counts == {1} else f"{text} (small dots: single seeds; line: their mean)"


def windows(curves: Iterable[Curve], documents: pd.Series) -> str:
    """What the intervals of losses say: n and unit of the clusters, and the documents."""
    curves = [curve for curve in curves if len(curve.n)]
    names = sorted({part.rsplit(":", 1)[0] for text in documents.dropna().unique() for part in text.split(",")})
    counted = ", ".join(
        _range({n for c in curves if c.unit == unit for n in c.n}, unit[:-1]) for unit in sorted({c.unit for c in curves})
    )
    within = (
        f" of {len(names)} {'documents' if len(names) > 1 else 'document'} ({', '.join(names)})" if 0 < len(names) <= 4 else ""
    )
    return f"95 % cluster bootstrap over {counted}{within}; it covers the choice of text, not of training seed"


def samples(curves: Iterable[Curve]) -> str:
    """How many samples stand behind the points of latency curves."""
    return _range({n for curve in curves for n in curve.n}, "sample")


def _range(counts: Iterable[int], noun: str) -> str:
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{low:,}{'' if low == high else f' to {high:,}'} {noun}{'' if high == 1 else 's'}"


def _words(column: pd.Series) -> str:
    return ", ".join(sorted({str(value) for value in column.dropna()})) or "unknown"
