"""Who is better, by how much and how sure: paired differences of nll, judged by rule, not in words.

Of two models, the same held-out targets give nll(first) - nll(second), averaged over seeds. Its interval covers the choice of
text (cluster bootstrap) and, where anything was trained with several seeds, their spread, pooled over all trainings of a tier:
what another seed does to a model, it does wherever that is read. Equal: the whole 95 % interval lies within +-EQUAL_WITHIN.
Different: it excludes 0, and so does Holm's p of all that is asked together. Else it cannot be told.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd

from bench.figures import panels
from bench.figures.frame import groups
from bench.figures.lines import APART, SAME_TASK, Line, lines, windows_of
from bench.figures.paper import finding_of
from bench.figures.style import digits
from bench.stats import Interval, Judgement, Spread, holm, pooled_spread, verdict

# nat/token: a smaller difference does not matter.
EQUAL_WITHIN = 0.005


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


def after_training(table: pd.DataFrame) -> tuple[Verdict, ...]:
    """Every pair of models that were trained alike; ``table``: held-out losses after training."""
    asked = (
        (_training(part), *pair) for part, drawn in _cells(table) for pair in _pairs([_side(line, line.rows) for line in drawn])
    )
    return judge((((*one, _found(*one[1:])) for one in asked), spread_of_seeds(table)))


def at_contexts(table: pd.DataFrame, trained: pd.DataFrame) -> tuple[Verdict, ...]:
    """Models at the longest context, each there against itself at a shorter one, and what more context brings one or another.

    ``trained`` as of ``after_training``.
    """
    asked = ((*one, _found(*one[1:])) for one in _of_contexts(table))
    changes = list(_changes(table))
    more = ((where, *pair, "") for where, sides in changes for pair in _pairs(sides))
    spread = pooled_spread([side.rows.value.tolist() for _, sides in changes for side in sides])
    return judge((asked, spread_of_seeds(trained)), (more, spread))


def about_paper(found: Sequence[Verdict]) -> list[str]:
    """Sentences for a caption: what the paper finds of a pair, and where this agrees, disagrees or cannot tell."""
    relations = {"equal": "equal to", "lower": "lower than", "higher": "higher than"}
    claims: dict[str, dict[str, list[str]]] = {}
    for one in found:
        if one.found:
            row = one.first.rows.iloc[0]
            pair = f"{one.first.label} {relations[one.found]} {one.second.label}"
            here = claims.setdefault(f"{pair}, trained at {panels.tokens_label(row.train_context)}", {})
            here.setdefault(one.agrees, []).append(f"{row['size']} {digits(row.budget_flops)}")
    said = {
        claim: "; ".join(f"{agrees} ({', '.join(places)})" for agrees, places in here.items()) for claim, here in claims.items()
    }
    return [f"The paper: {claim}. Here: {answer}." for claim, answer in said.items()]


def about_seeds(found: Iterable[Verdict]) -> str:
    """What the intervals say, or do not say, of another seed."""
    if all(math.isnan(one.seed_error) for one in found):
        return "Nothing was trained twice: intervals cover the choice of text alone, and another seed may say otherwise."
    spread = "pooled over all that was trained twice or more; of the same trainings it cancels"
    return f"Intervals cover the choice of text and of the seed (seeds ±: its standard error, {spread})."


def judge(*asked: tuple[Iterable[tuple[str, Side, Side, str]], Spread | None]) -> tuple[Verdict, ...]:
    """What is asked together, (where, first, second, what the paper found) and the seeds' spread, with p adjusted for all."""
    made = [_compared(*one, spread) for alike, spread in asked for one in alike]
    adjusted = holm([1.0 if one.difference.p is None else one.difference.p for one in made])
    return tuple(replace(one, p_holm=p) for one, p in zip(made, adjusted, strict=True))


def spread_of_seeds(trained: pd.DataFrame) -> Spread | None:
    """Of one training's nll about the mean of its like; None where nothing was trained twice."""
    drawn = lines(trained) if len(trained) else []
    cells = [part.value.tolist() for line in drawn for _, part in groups(line.rows, "budget_flops")]
    return pooled_spread([cell for cell in cells if all(math.isfinite(value) for value in cell)])


def _compared(where: str, first: Side, second: Side, found: str, spread: Spread | None) -> Verdict:
    """Of the same trainings what the seed does cancels, and is not in the interval."""
    is_same = set(first.rows.run_id) == set(second.rows.run_id)
    share = math.sqrt(1 / first.rows.seed.nunique() + 1 / second.rows.seed.nunique())
    of_seeds = None if spread is None or is_same else replace(spread, error=spread.error * share)
    difference = windows_of(first.rows).interval(windows_of(second.rows), of_seeds)
    experiment, error = str(first.rows.experiment.iloc[0]), math.nan if of_seeds is None else of_seeds.error
    return Verdict(experiment, where, first, second, difference, error, found)


def _found(first: Side, second: Side) -> str:
    row = first.rows.iloc[0]
    return finding_of(first.series, second.series, int(row.train_context), row["data"])


def _cells(table: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, list[Line]]]:
    """Rows of the same task, and the lines of them that may be compared: what differs in them is in their names."""
    for _, part in groups(table, SAME_TASK) if len(table) else []:
        yield part, lines(part, [name for name in APART if name not in SAME_TASK])


def _of_contexts(table: pd.DataFrame) -> Iterator[tuple[str, Side, Side]]:
    """At the longest context; and there against the training context, or the shortest that was measured if that is longer."""
    for part, drawn in _cells(table):
        trained = int(part.train_context.iloc[0])
        longest = _longest(sorted(set(part.context.astype(int))), trained)
        shorter = max([int(c) for c in part.context if c <= trained and c < longest] or [int(part.context.min())])
        ends = [_side(line, line.rows[line.rows.context == longest]) for line in drawn]
        where = f"{_training(part)}, {panels.tokens_label(longest)} before the targets"
        yield from ((where, *pair) for pair in _pairs(ends))
        if shorter < longest:
            starts = [_side(line, line.rows[line.rows.context == shorter]) for line in drawn]
            where = f"{_training(part)}, by tokens before the targets"
            yield from ((where, _at(end, longest), _at(start, shorter)) for end, start in zip(ends, starts, strict=True))


def _changes(table: pd.DataFrame) -> Iterator[tuple[str, list[Side]]]:
    """What models gain from the shortest context to the longest whose targets, too, lie within what training saw."""
    for part, drawn in _cells(table):
        targets = part.n_targets / part.samples.map(len)
        within = part.context[part.context + targets <= part.train_context]
        if within.nunique() > 1:
            ends = int(within.min()), int(within.max())
            shown = " to ".join(panels.tokens_label(tokens) for tokens in ends)
            yield f"{_training(part)}, change from {shown} before the targets", [_change(line, *ends) for line in drawn]


def _change(line: Line, low: int, high: int) -> Side:
    """A row a training: the nll of each window after ``high`` tokens less that of the same one after ``low``."""
    after = line.rows[line.rows.context == high]
    before = line.rows[line.rows.context == low].set_index("run_id").loc[after.run_id]
    samples = [tuple(np.subtract(*pair)) for pair in zip(after.samples, before.samples, strict=True)]
    value = after.value.to_numpy() - before.value.to_numpy()
    return _side(line, after.assign(samples=pd.Series(samples, index=after.index), value=value))


def _longest(contexts: Sequence[int], trained: int) -> int:
    """Of contexts that end at the training's, where the targets lie past what it saw, one a little shorter if there is any."""
    within = [context for context in contexts if trained / 2 < context < trained]
    return max(within) if within and contexts[-1] == trained else contexts[-1]


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
