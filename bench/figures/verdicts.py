"""Who is better, by how much and how sure: paired differences of nll, judged by rule, not in words.

Of two models, the same held-out targets give nll(first) - nll(second), averaged over seeds. Its interval covers the choice of
text (cluster bootstrap) and, where anything was trained with several seeds, their spread, pooled over all of the figure.
Equal: the whole 95 % interval lies within +-EQUAL_WITHIN. Different: it excludes 0, and so does Holm's p of all that the figure
asks. Else it cannot be told.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import pandas as pd
from matplotlib.figure import Figure

from bench.figures import footer, panels, perplexity_by_context, perplexity_vs_flops
from bench.figures.data import Data
from bench.figures.frame import groups
from bench.figures.lines import APART, Line, lines, windows_of
from bench.figures.paper import finding_of
from bench.figures.style import digits, styled
from bench.figures.tables import Table
from bench.stats import Interval, Judgement, Spread, holm, pooled_spread, verdict

TITLE = "Verdicts"
EXPERIMENTS = ("train", perplexity_by_context.NAME)
# nat/token: a smaller difference does not matter.
EQUAL_WITHIN = 0.005
HEAD = ("first", "second", "where", "difference", "95 % interval", "seeds ±", "p (Holm)", "verdict", "paper", "agrees")


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its rows, one a seed, and what it is called."""

    label: str
    series: str
    rows: pd.DataFrame


@dataclass(frozen=True)
class Verdict:
    """One comparison, judged.

    difference: nll(first) - nll(second), nat/token. seed_error: its standard error by the seeds, which the interval covers; nan
    where nothing was trained twice. found: what the paper says of the pair (paper.Finding), or empty.
    """

    experiment: str
    where: str
    first: Side
    second: Side
    difference: Interval
    seed_error: float
    found: str
    p_holm: float = 1.0

    @property
    def judgement(self) -> Judgement:
        """By the rule of this file."""
        return verdict(self.difference, EQUAL_WITHIN, p=self.p_holm)

    @property
    def is_lower(self) -> bool:
        """Whether the first is better by value, whatever the judgement."""
        return self.difference.value < 0

    @property
    def agrees(self) -> str:
        """Whether that is what the paper found: agrees, disagrees, cannot tell; empty where it says nothing."""
        if not self.found or self.judgement == "cannot tell":
            return self.found and "cannot tell"
        judged = "equal" if self.judgement == "equal" else "lower" if self.is_lower else "higher"
        return "agrees" if judged == self.found else "disagrees"

    @property
    def sentence(self) -> str:
        """In words, for people."""
        size, order = f"{abs(self.difference.value):.3g} nat/token", "lower" if self.is_lower else "higher"
        said = {
            "different": f"is {order} than {self.second.label} by {size}",
            "equal": f"equals {self.second.label} within {EQUAL_WITHIN:g} nat/token",
            "cannot tell": f"cannot be told from {self.second.label} (it is {order} by {size})",
        }
        return f"{self.where}: {self.first.label} {said[self.judgement]}."


def rows(data: Data) -> pd.DataFrame:
    """The losses that are compared."""
    return pd.concat([perplexity_vs_flops.rows(data), perplexity_by_context.rows(data)])


def verdicts(data: Data) -> tuple[Verdict, ...]:
    """Every comparison of the tier: models after training, at the longest context, and each with itself at a shorter one."""
    after, by_context = perplexity_vs_flops.rows(data), perplexity_by_context.rows(data)
    return (*_family(_after_training(after), after, "budget_flops"), *_family(_at_contexts(by_context), by_context, "context"))


def _family(asked: Iterator[tuple[str, Side, Side]], table: pd.DataFrame, place: str) -> list[Verdict]:
    """What is asked together: judged with one p adjusted for all, and one spread of the seeds."""
    spread = _spread_of_seeds(table, place)
    made = [_compared(where, first, second, spread) for where, first, second in asked]
    adjusted = holm([1.0 if one.difference.p is None else one.difference.p for one in made])
    return [replace(one, p_holm=p) for one, p in zip(made, adjusted, strict=True)]


def _spread_of_seeds(table: pd.DataFrame, place: str) -> Spread | None:
    """Of one training's nll about the mean of its like."""
    cells = [part.value.tolist() for line in lines(table) for _, part in groups(line.rows, place)] if len(table) else []
    return pooled_spread([cell for cell in cells if all(math.isfinite(value) for value in cell)])


def _compared(where: str, first: Side, second: Side, spread: Spread | None) -> Verdict:
    """A model's own seeds are paired, so that what the seed does to it cancels and is not in the interval."""
    of_itself = first.series == second.series
    share = math.sqrt(1 / first.rows.seed.nunique() + 1 / second.rows.seed.nunique())
    of_seeds = None if spread is None or of_itself else replace(spread, error=spread.error * share)
    difference = windows_of(first.rows).interval(windows_of(second.rows), of_seeds)
    found = finding_of(first.series, second.series, int(first.rows.train_context.iloc[0]))
    experiment, error = str(first.rows.experiment.iloc[0]), math.nan if of_seeds is None else of_seeds.error
    return Verdict(experiment, where, first, second, difference, error, found)


def _cells(table: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, list[Line]]]:
    """Rows of the same task, and the lines of them that may be compared: what differs in them is in their names."""
    for _, part in groups(table, perplexity_vs_flops.SAME_TASK) if len(table) else []:
        yield part, lines(part, [name for name in APART if name not in perplexity_vs_flops.SAME_TASK])


def _after_training(table: pd.DataFrame) -> Iterator[tuple[str, Side, Side]]:
    for part, drawn in _cells(table):
        yield from ((_training(part), *pair) for pair in _pairs([_side(line, line.rows) for line in drawn]))


def _at_contexts(table: pd.DataFrame) -> Iterator[tuple[str, Side, Side]]:
    """At the longest context; and there against the training context, or the shortest that was measured if that is longer."""
    for part, drawn in _cells(table):
        longest = int(part.context.max())
        trained = int(part.train_context.iloc[0])
        shorter = max([int(c) for c in part.context if c <= trained and c < longest] or [int(part.context.min())])
        ends = [_side(line, line.rows[line.rows.context == longest]) for line in drawn]
        where = f"{_training(part)}, {panels.tokens_label(longest)} before the targets"
        yield from ((where, *pair) for pair in _pairs(ends))
        if shorter < longest:
            starts = [_side(line, line.rows[line.rows.context == shorter]) for line in drawn]
            where = f"{_training(part)}, by tokens before the targets"
            yield from ((where, _at(end, longest), _at(start, shorter)) for end, start in zip(ends, starts, strict=True))


def _side(line: Line, part: pd.DataFrame) -> Side:
    return Side(line.look.label, str(line.rows.series.iloc[0]), part)


def _at(side: Side, context: int) -> Side:
    return replace(side, label=f"{side.label} at {panels.tokens_label(context)}")


def _pairs(sides: Sequence[Side]) -> Iterator[tuple[Side, Side]]:
    """Every pair that has losses of the same windows."""
    for first, second in combinations([side for side in sides if len(side.rows)], 2):
        if windows_of(first.rows).pairs_with(windows_of(second.rows)):
            yield first, second


def _training(part: pd.DataFrame) -> str:
    """Size, budget and training context of a task."""
    one = part.iloc[0]
    return f"{one['size']}, {digits(one.budget_flops)} FLOP, trained at {panels.tokens_label(one.train_context)}"


@styled
def draw(data: Data) -> Figure:
    """All verdicts as a table."""
    found, table = verdicts(data), rows(data)
    if not found:
        return panels.empty(TITLE, EXPERIMENTS[-1], footer.alarms(data, table, EXPERIMENTS))
    captions = [
        f"{footer.seeds(table)}. {_about_seeds(found)}",
        "Difference: nll(first) − nll(second) on the same held-out targets, nat/token; below 0: the first is better.",
        f"equal: the whole interval within ±{EQUAL_WITHIN:g}; different: 0 excluded, after Holm over all of one experiment.",
        *footer.published(table, "compared with one another, never with one's own"),
    ]
    return as_table(found).page(TITLE).finish([], captions, footer.alarms(data, table, EXPERIMENTS), footer.facts(table))


def _about_seeds(found: Sequence[Verdict]) -> str:
    if all(math.isnan(one.seed_error) for one in found):
        return "Nothing was trained twice: intervals cover the choice of text alone, and another seed may say otherwise."
    return "seeds ±: standard error by the seeds, pooled over all that was trained twice or more; the interval covers it."


def as_table(found: Sequence[Verdict]) -> Table:
    """One row per verdict, in the order of HEAD."""
    return Table(HEAD, [_words(one) for one in found], left=3, group=2)


def _words(one: Verdict) -> list[str]:
    bounded = math.isfinite(one.difference.high - one.difference.low)
    bounds = f"{one.difference.low:+.4f} … {one.difference.high:+.4f}" if bounded else "none"
    seeds = "–" if math.isnan(one.seed_error) else f"{one.seed_error:.4f}"
    better = f": {'first' if one.is_lower else 'second'} better" if one.judgement == "different" else ""
    numbers = [f"{one.difference.value:+.4f}", bounds, seeds, f"{one.p_holm:.2g}"]
    return [one.first.label, one.second.label, one.where, *numbers, one.judgement + better, one.found or "–", one.agrees or "–"]
