"""From linear attention to TTT-Linear, a switch at a time, beside the paper's numbers (its table 1)."""

import math
from collections.abc import Iterator

import pandas as pd

from bench.figures import footer, panels, perplexity_vs_flops
from bench.figures.data import Data
from bench.figures.frame import groups
from bench.figures.lines import Windows, windows_of
from bench.figures.page import Sheet
from bench.figures.paper import TABLE_1
from bench.figures.style import styled
from bench.figures.tables import Table

TITLE = "From linear attention to TTT-Linear"
EXPERIMENTS = ("train",)
HEAD = ("trained", "row", "perplexity", "change", "change of nll, 95 %", "paper", "paper's change")
# Mini-batch of TTT-Linear in the paper's table.
MINI_BATCH = 16


def rows(data: Data) -> pd.DataFrame:
    """Held-out losses of the rows of the table, of tasks with two of them or more."""
    table = perplexity_vs_flops.rows(data)
    named = table.series.isin({row.series for row in TABLE_1})
    mine = table[named & (~table.series.isin({"ttt_linear", "ttt_linear_t"}) | (table.mini_batch == MINI_BATCH))]
    return mine[mine.groupby(perplexity_vs_flops.SAME_TASK).series.transform("nunique") > 1] if len(mine) else mine


@styled
def draw(data: Data) -> Sheet:
    """The table; its first rows are what the next ones are compared with."""
    table, expected = rows(data), list(dict.fromkeys(row.series for row in TABLE_1))
    alarms = footer.alarms(data, table, EXPERIMENTS, expected)
    if table.empty:
        return panels.empty(TITLE, "train", alarms)
    cells = [line for _, part in groups(table, perplexity_vs_flops.SAME_TASK) for line in _lines(part)]
    captions = [
        f"Perplexity of held-out text, {footer.seeds(table)}. Change: to the row above; of nll paired, nat/token.",
        "The third row is the second by the paper's theorem 1, and one run here (models/tests/test_ablation.py shows it).",
        "The paper's: 125M, the Pile, context 2k.",
        *footer.published(table),
    ]
    return Table(HEAD, cells, left=2, group=0).page(TITLE).finish([], captions, alarms, footer.facts(table))


def _lines(part: pd.DataFrame) -> Iterator[list[str]]:
    """The rows of one task, as far as they are there."""
    one, before, paper = part.iloc[0], None, None
    task = f"{one['size']}, {one.budget}, context {panels.tokens_label(one.train_context)}"
    for row in TABLE_1:
        mine = part[part.series == row.series]
        theirs = ["–" if paper is None else f"{row.perplexity - paper:+.2f}"]
        paper = row.perplexity
        if mine.empty or not mine.value.map(math.isfinite).all():
            yield [task, row.what, "no rows" if mine.empty else "not finite", "–", "–", f"{row.perplexity:.2f}", *theirs]
            before = None
            continue
        windows = windows_of(mine[mine.lr == mine.lr.iloc[-1]])
        ours = ["–", "–"] if before is None else _change(windows, before)
        yield [task, row.what, f"{_perplexity(windows):.2f}", *ours, f"{row.perplexity:.2f}", *theirs]
        before = windows


def _perplexity(windows: Windows) -> float:
    return math.exp(windows.interval().value)


def _change(windows: Windows, before: Windows) -> list[str]:
    """Of perplexity, and of nll with its interval."""
    moved = windows.interval(before)
    bounds = f" ({moved.low:+.4f} … {moved.high:+.4f})" if math.isfinite(moved.high) else ""
    return [f"{_perplexity(windows) - _perplexity(before):+.2f}", f"{moved.value:+.4f}{bounds}"]
