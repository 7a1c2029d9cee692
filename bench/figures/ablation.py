"""From linear attention to TTT-Linear, a switch at a time, beside the paper's numbers (its table 1)."""

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise

import pandas as pd

from bench.figures import footer, panels, perplexity_vs_flops
from bench.figures.data import Data
from bench.figures.frame import groups
from bench.figures.judged import EQUAL_WITHIN, Side, Verdict, about_seeds, judge, spread_of_seeds
from bench.figures.lines import SAME_TASK, windows_of
from bench.figures.page import Sheet
from bench.figures.paper import TABLE_1, Ablation
from bench.figures.style import styled
from bench.figures.tables import Table

TITLE = "From linear attention to TTT-Linear"
EXPERIMENTS = ("train",)
HEAD = ("trained", "row", "perplexity", "change", "change of nll, 95 %", "verdict", "paper", "paper's change", "agrees")
# Mini-batch of TTT-Linear in the paper's table.
MINI_BATCH = 16


def rows(data: Data) -> pd.DataFrame:
    """Held-out losses of the rows of the table, of tasks with two of them or more."""
    table = perplexity_vs_flops.rows(data)
    named = table.series.isin({row.series for row in TABLE_1})
    mine = table[named & (~table.series.isin({"ttt_linear", "ttt_linear_t"}) | (table.mini_batch == MINI_BATCH))]
    return mine[mine.groupby(SAME_TASK).series.transform("nunique") > 1] if len(mine) else mine


@styled
def draw(data: Data) -> Sheet:
    """The table; its first rows are what the next ones are compared with."""
    table, expected = rows(data), list(dict.fromkeys(row.series for row in TABLE_1))
    alarms = footer.alarms(data, table, EXPERIMENTS, expected)
    if table.empty:
        return panels.empty(TITLE, "train", alarms)
    tasks = [(part, _steps(part)) for _, part in groups(table, SAME_TASK)]
    cells = [line for part, steps in tasks for line in _lines(part, steps)]
    captions = [
        f"Perplexity of held-out text, {footer.seeds(table)}. Change: to the row above; of nll paired, nat/token.",
        f"Judged after Holm over the table. {about_seeds(step for _, steps in tasks for step in steps.values())}",
        "The third row is the second by the paper's theorem 1, and one run here (models/tests/test_ablation.py shows it).",
        f"The paper's: 125M, the Pile, context 2k. Agrees: with the sign of its step; equal: nll within ±{EQUAL_WITHIN:g}.",
        *footer.published(table),
    ]
    return Table(HEAD, cells, left=2, group=0).page(TITLE).finish([], captions, alarms, footer.facts(table))


def _lines(part: pd.DataFrame, steps: Mapping[str, Verdict]) -> Iterator[list[str]]:
    """The rows of one task, as far as they are there."""
    one = part.iloc[0]
    task = f"{one['size']}, {one.budget}, context {panels.tokens_label(one.train_context)}"
    for above, row in zip((None, *TABLE_1), TABLE_1, strict=False):
        theirs = "–" if above is None else f"{row.perplexity - above.perplexity:+.2f}"
        ours, agrees = ["–", "the same run" if above and above.series == row.series else "–", "–"], "–"
        if step := steps.get(row.what):
            ours, agrees = _change(step), step.agrees
        yield [task, row.what, _perplexity(_of(part, row)), *ours, f"{row.perplexity:.2f}", theirs, agrees]


def _of(part: pd.DataFrame, row: Ablation) -> pd.DataFrame:
    mine = part[part.series == row.series]
    return mine[mine.lr == mine.lr.iloc[-1]] if len(mine) else mine


def _steps(part: pd.DataFrame) -> Mapping[str, Verdict]:
    """Each row against the one above it, where both have losses and are not the same run, by what it adds."""
    asked = {}
    for above, row in pairwise(TABLE_1):
        first, second = (Side(one.what, one.series, _of(part, one)) for one in (row, above))
        if row.series != above.series and _is_finite(first.rows) and _is_finite(second.rows):
            change = math.log(row.perplexity / above.perplexity)
            found = "equal" if abs(change) < EQUAL_WITHIN else "lower" if change < 0 else "higher"
            asked[row.what] = ("", first, second, found)
    return dict(zip(asked, judge((asked.values(), spread_of_seeds(part))), strict=True))


def _is_finite(mine: pd.DataFrame) -> bool:
    return bool(len(mine)) and math.isfinite(mine.value.sum())


def _perplexity(mine: pd.DataFrame) -> str:
    if not _is_finite(mine):
        return "no rows" if mine.empty else "not finite"
    return f"{math.exp(windows_of(mine).interval().value):.2f}"


def _change(step: Verdict) -> list[str]:
    """Of perplexity, of nll with its interval, and the verdict on that."""
    ends = [math.exp(windows_of(side.rows).interval().value) for side in (step.first, step.second)]
    moved = step.difference
    bounds = f" ({moved.low:+.4f} … {moved.high:+.4f})" if math.isfinite(moved.high) else ""
    better = ("lower" if step.is_lower else "higher") if step.judgement == "different" else step.judgement
    return [f"{ends[0] - ends[1]:+.2f}", f"{moved.value:+.4f}{bounds}", better]
