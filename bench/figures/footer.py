"""What stands under a figure: how sure it is, what is missing or failed, and where its rows come from."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from bench.figures.data import Data
from bench.figures.frame import groups, records
from bench.figures.lines import Curve
from bench.figures.style import digits, look_of

NBSP = "\u00a0"
# Documents are named in the caption up to this many.
NAMED = 4


def facts(rows: pd.DataFrame) -> list[str]:
    """Device, dtype, matching, budgets, sources and runs behind ``rows``."""
    if rows.empty:
        return []
    training = _training(rows) if rows.match.notna().any() else "random weights"
    sources = sorted(set(rows.sources))
    where = f"sources{NBSP}{sources[0]}" if len(sources) == 1 else f"SOURCES DIFFER: {', '.join(sources)}"
    first = f"device {_words(rows.device)} · {_words(rows.dtype)} · {training} · size{NBSP}{_words(rows['size'])}"
    ids = sorted({run_id.rsplit("-", 1)[-1] for run_id in rows.run_id})
    return [f"{first} · {where}", f"runs {' '.join(ids)}"]


def _training(rows: pd.DataFrame) -> str:
    counted = f"match={_words(rows.match)}, attention counted {_words(rows.convention)}"
    pairs = rows[["budget_flops", "budget"]].drop_duplicates().sort_values("budget_flops")
    budgets = ", ".join(f"{row['budget']} ({digits(row['budget_flops'])}{NBSP}FLOP)" for row in records(pairs))
    return f"{counted} · budget {budgets}"


def alarms(data: Data, rows: pd.DataFrame, experiments: Sequence[str], expected: Sequence[str] | None = None) -> list[str]:
    """That FLOPs are not matched, where that is so; which models are missing and which runs did not end well."""
    missing = [look_of(name).label for name in data.missing(rows, expected)]
    own = "own " if not rows.empty and rows.published.astype(bool).any() else ""
    absent = [f"No {own}rows of: {', '.join(missing)}"] if missing else []
    return [*(unmatched(rows) if "train" in experiments else []), *absent, *data.troubles(experiments)]


def published(rows: pd.DataFrame, marks: str = "hollow, dotted, without intervals") -> list[str]:
    """The sentence that says which rows are published ones, and how they are marked beside one's own."""
    theirs = rows[rows.published.astype(bool)]
    shas = ", ".join(sorted({sha[:7] for sha in theirs.git_sha}))
    if len(theirs) == len(rows):
        return [f"published rows, {shas}"]
    return [f"Published rows ({marks}): {shas}."] if len(theirs) else []


def seeds(rows: pd.DataFrame) -> str:
    """How many seeds stand behind the points of a model, a size, a budget and a training context."""
    counts = {part.seed.nunique() for _, part in groups(rows, ["series", "published", "size", "budget_flops", "train_context"])}
    return count_of(counts, "seed")


def windows(curves: Sequence[Curve], documents: pd.Series) -> str:
    """What the intervals of losses are: n and unit of the clusters, the documents, and what the intervals do not cover."""
    units = sorted({curve.unit for curve in curves})
    counted = ", ".join(count_of({n for curve in curves if curve.unit == unit for n in curve.n}, unit[:-1]) for unit in units)
    names = sorted({part.rsplit(":", 1)[0] for text in documents.dropna().unique() for part in text.split(",")})
    within = f" of {count_of([len(names)], 'document')} ({', '.join(names)})" if 0 < len(names) <= NAMED else ""
    if not any(np.isfinite(curve.low).any() for curve in curves):
        return f"none, {counted}{within} are too few"
    dots = "; small dots: single seeds, line: their mean" if any(curve.dots for curve in curves) else ""
    return f"95 % cluster bootstrap over {counted}{within}; it covers the choice of text, not of training seed{dots}"


def samples(curves: Sequence[Curve]) -> str:
    """How many samples stand behind the points of latency curves, and what the bars are."""
    known = any(np.isfinite(curve.low).any() for curve in curves)
    bars = "bars: 95 % interval of the median" if known else "too few for a 95 % interval"
    return f"{count_of({n for curve in curves for n in curve.n}, 'sample')} per point ({bars})"


def unmatched(rows: pd.DataFrame) -> list[str]:
    """The sentence that says that models saw equal tokens, not equal FLOPs."""
    conventions = rows[rows.match == "tokens"].convention
    where = f"match=tokens, attention counted {_words(conventions)}"
    return [] if conventions.empty else [f"FLOPs are NOT matched ({where}): models saw the same tokens."]


def count_of(counts: Iterable[int], noun: str) -> str:
    """3 samples, 1 to 4 seeds."""
    low, high = min(counts, default=0), max(counts, default=0)
    return f"{low:,}{'' if low == high else f' to {high:,}'} {noun}{'' if high == 1 else 's'}"


def _words(column: pd.Series) -> str:
    return ", ".join(sorted({str(value) for value in column.dropna()})) or "unknown"
