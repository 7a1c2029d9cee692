"""Every comparison of a tier's losses as a table: see judged.py for the rule."""

import math
from collections.abc import Sequence

import pandas as pd

from bench.figures import footer, panels, perplexity_by_context, perplexity_vs_flops
from bench.figures.data import Data
from bench.figures.judged import EQUAL_WITHIN, Verdict, about_seeds, after_training, at_contexts
from bench.figures.page import Sheet
from bench.figures.style import styled
from bench.figures.tables import Table

TITLE = "Verdicts"
EXPERIMENTS = ("train", perplexity_by_context.NAME)
HEAD = ("first", "second", "where", "difference", "95 % interval", "seeds ±", "p (Holm)", "verdict", "paper", "agrees")


def rows(data: Data) -> pd.DataFrame:
    """The losses that are compared."""
    return pd.concat([perplexity_vs_flops.rows(data), perplexity_by_context.rows(data)])


def verdicts(data: Data) -> tuple[Verdict, ...]:
    """Every comparison of the tier: models after training, at the longest context, and each with itself at a shorter one."""
    trained = perplexity_vs_flops.rows(data)
    return (*after_training(trained), *at_contexts(perplexity_by_context.rows(data), trained))


@styled
def draw(data: Data) -> Sheet:
    """All verdicts as a table."""
    found, table = verdicts(data), rows(data)
    if not found:
        return panels.empty(TITLE, EXPERIMENTS[-1], footer.alarms(data, table, EXPERIMENTS))
    captions = [
        f"{footer.seeds(table)}. {about_seeds(found)}",
        "Difference: nll(first) − nll(second) on the same held-out targets, nat/token; below 0: the first is better.",
        f"equal: the whole interval within ±{EQUAL_WITHIN:g}; different: 0 excluded, after Holm over all of one experiment.",
        *footer.published(table, "compared with one another, never with one's own"),
    ]
    return as_table(found).page(TITLE).finish([], captions, footer.alarms(data, table, EXPERIMENTS), footer.facts(table))


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
