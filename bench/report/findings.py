"""What a tier shows, in brief: who is better where, by how much and how sure. Every word of it follows from rows."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import pandas as pd

from bench.figures import decode_latency, inner_loss, learning_rates, panels, prefill_latency, state_vs_context
from bench.figures.data import Data
from bench.figures.frame import groups, records
from bench.figures.judged import EQUAL_WITHIN, Verdict
from bench.figures.lines import APART_LATENCY, lines, windows_of
from bench.figures.style import digits, look_of
from bench.report.numbers import bounds, series_of
from bench.report.spec import Finding, Sure
from bench.stats import Interval, ratio_interval, verdict

# Times, and inner losses, that differ by less than this share are equal.
EQUAL_SHARE = 0.005
SAME_TIMING = ("size", "device", "dtype", "batch")


def findings(data: Data, figures: Sequence[str], judged: Sequence[Verdict]) -> Iterator[Finding]:
    """Of the figures that a tier draws, by their names."""
    yield from _of_losses(judged)
    for name, found in FOUND.items():
        if name in figures:
            yield from found(data)


def _of_losses(judged: Sequence[Verdict]) -> Iterator[Finding]:
    """Which model predicts best at the largest budgets, and whether longer context helps each."""
    largest = {size: part.budget_flops.max() for size, part in _trained(judged)}
    for where, group in groupby(judged, lambda one: one.where):
        asked = list(group)
        row = asked[0].first.rows.iloc[0]
        if asked[0].first.series == asked[0].second.series:
            yield from (_with_context(one) for one in asked)
        elif row.budget_flops == largest[row["size"]]:
            yield _best(where, asked)


def _trained(judged: Sequence[Verdict]) -> list[tuple[str, pd.DataFrame]]:
    return groups(pd.concat([one.first.rows for one in judged]), "size") if judged else []


def _best(where: str, pairs: Sequence[Verdict]) -> Finding:
    """The model that is lower than every other by value, and the verdict on the one that comes next."""
    lower = [one.first.label if one.is_lower else one.second.label for one in pairs]
    best = max(lower, key=lower.count)
    mine = [one for one in pairs if best in (one.first.label, one.second.label)]
    closest = min(mine, key=lambda one: abs(one.difference.value))
    sides = (closest.first, closest.second)
    (first,), (second,) = [side for side in sides if side.label == best], [side for side in sides if side.label != best]
    by = f"higher by {abs(closest.difference.value):.3g} nat/token ({_interval(_upright(closest.difference))})"
    answer = {
        "different": f"{best}. Next is {second.label}, {by}.",
        "equal": f"{best} and {second.label} are equal within {EQUAL_WITHIN:g} nat/token.",
        "cannot tell": f"{best} has the lowest loss, but cannot be told from {second.label}, {by}.",
    }[closest.judgement]
    return Finding("Which model predicts held-out text best?", where, answer, closest.judgement, (first.series, second.series))


def _with_context(one: Verdict) -> Finding:
    """Whether a model's loss falls with context."""
    moved = f"its loss {'falls' if one.is_lower else 'rises'} by {abs(one.difference.value):.2g} nat/token"
    said = {
        "equal": f"No: equal within {EQUAL_WITHIN:g} nat/token.",
        "different": f"{'Yes' if one.is_lower else 'No'}: {moved} ({_interval(_upright(one.difference))}).",
        "cannot tell": f"Cannot be told: {moved} ({_interval(_upright(one.difference))}).",
    }
    where = f"{one.first.label} against {one.second.label.rsplit(' at ', 1)[-1]}"
    return Finding("Does longer context help?", where, said[one.judgement], one.judgement, (one.first.series,))


def _upright(difference: Interval) -> Interval:
    """The same of a positive difference."""
    return difference if difference.value >= 0 else replace(difference, low=-difference.high, high=-difference.low)


def _interval(interval: Interval) -> str:
    text = bounds(interval)
    return "no interval" if text == "–" else f"95 % interval {text}"


@dataclass(frozen=True)
class _Measured:
    """What one model needs, ``value``, and the samples behind it."""

    label: str
    series: str
    value: float
    samples: tuple[float, ...]


def _of_prefill(data: Data) -> Iterator[Finding]:
    for where, part in _ends(prefill_latency.rows(data), "tokens"):
        found = [replace(one, value=float(np.median(one.samples))) for one in _measured(part)]
        yield _least("Which model is fastest at a prefill?", where, found, _seconds, _of_samples)


def _of_decode(data: Data) -> Iterator[Finding]:
    """By the mean over whole cycles, which is what throughput pays; it has no interval."""
    for where, part in _ends(decode_latency.rows(data), "tokens in the state"):
        means = {line.look.label: float(decode_latency.mean_step(line).value[0]) / 1e3 for line in lines(part, APART_LATENCY)}
        found = [replace(one, value=means[one.label]) for one in _measured(part)]
        yield _least("Which model decodes a token fastest, on average?", where, found, _seconds, _of_values("no interval"))


def _of_states(data: Data) -> Iterator[Finding]:
    for where, part in _ends(state_vs_context.rows(data), "tokens"):
        size = "Which model has the smallest state?"
        yield _least(size, where, _measured(part), lambda value: f"{value:,.0f} bytes", _of_values("counted"))


def _ends(table: pd.DataFrame, words: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows at the shortest and the longest context of each setting, and where that is."""
    for setting, part in groups(table, list(SAME_TIMING)) if len(table) else []:
        differ = [str(value) for name, value in zip(SAME_TIMING[:3], setting, strict=False) if table[name].nunique() > 1]
        for context in dict.fromkeys((part.context.min(), part.context.max())):
            place = f"{panels.tokens_label(context)} {words}, batch {setting[-1]:.0f}"
            yield ", ".join([place, *differ]), part[part.context == context]


def _measured(part: pd.DataFrame) -> list[_Measured]:
    """One for each model, or variant of it, of rows that differ in nothing else."""
    found = []
    for line in lines(part, APART_LATENCY):
        samples = tuple(
            sample for row in records(line.rows[["samples", "value"]]) for sample in row["samples"] or (row["value"],)
        )
        found.append(_Measured(line.look.label, line.look.series, float(line.rows.value.mean()), samples))
    return found


Judge = Callable[[_Measured, _Measured], tuple[str, Sure]]


def _least(question: str, where: str, found: Sequence[_Measured], words: Callable[[float], str], judge: Judge) -> Finding:
    """Who needs least, and how many times that the next needs."""
    first, *others = sorted(found, key=lambda one: one.value)
    if not others:
        return Finding(
            question, where, f"{first.label}: {words(first.value)}. Nothing to compare with.", "no interval", (first.series,)
        )
    evidence, sure = judge(others[0], first)
    times = f"{digits(others[0].value / first.value)} times that{evidence}"
    last = f"; most needs {others[-1].label}, {words(others[-1].value)}" if len(others) > 1 else ""
    answer = f"{first.label}: {words(first.value)}. Next is {others[0].label}, {times}{last}."
    return Finding(question, where, answer, sure, (first.series, others[0].series))


def _of_samples(more: _Measured, less: _Measured) -> tuple[str, Sure]:
    """By the ratio of medians of samples."""
    ratio = ratio_interval(more.samples, less.samples)
    if not math.isfinite(ratio.high - ratio.low):
        return f" ({ratio.n} samples are too few for an interval)", "cannot tell"
    logs = replace(ratio, value=math.log(ratio.value), low=math.log(ratio.low), high=math.log(ratio.high))
    return f" ({_interval(ratio)})", verdict(logs, EQUAL_SHARE)


def _of_values(sure: Sure) -> Judge:
    return lambda more, less: ("", sure)


def _seconds(value: float) -> str:
    scale, unit = next((one for one in ((1.0, "s"), (1e3, "ms")) if value * one[0] >= 1), (1e6, "µs"))
    return f"{digits(scale * value)} {unit}"


def _of_inner_loss(data: Data) -> Iterator[Finding]:
    """Whether the inner weights, at the end of the training context, have a lower loss than the initial ones."""
    table = inner_loss.rows(data)
    for (series, layer), part in groups(table, ["series", "layer"]) if len(table) else []:
        last = part[part.position == part.position[part.position <= part.train_context].max()]
        initial, after = (windows_of(last[last.weights == weights]) for weights in ("w0", "after"))
        level, change = initial.interval().value, after.interval(initial)
        where = f"{look_of(series).label}, layer {layer:.0f}, at position {last.position.max():,.0f}"
        yield _learns(
            where, series, replace(change, **{end: 100 * getattr(change, end) / level for end in ("value", "low", "high")})
        )


def _learns(where: str, series: str, change: Interval) -> Finding:
    """change: of the inner loss, percent."""
    falls, sure = change.value < 0, verdict(change, 100 * EQUAL_SHARE)
    moved = f"its loss is {digits(abs(change.value))} % {'below' if falls else 'above'} that of the initial weights"
    said = {
        "equal": f"No: its loss is that of the initial weights, within {EQUAL_SHARE:.1%}.",
        "different": f"{'Yes' if falls else 'No'}: {moved} ({_interval(_upright(change))}).",
        "cannot tell": f"Cannot be told: {moved} ({_interval(_upright(change))}).",
    }
    return Finding("Does the inner model learn as it reads?", where, said[sure], sure, (series,))


def _of_search(data: Data) -> Iterator[Finding]:
    """The learning rate with the lowest loss, and the one that was chosen."""
    table = learning_rates.rows(data)
    chosen = {series_of(run): run.config["optim"].get("searched", {}).get(run.config["model"]["name"]) for run in data.runs}
    for (series, size, context, budget), part in groups(table, ["series", *learning_rates.PLACE]) if len(table) else []:
        losses = part.groupby("lr").value.mean()
        answer = f"{digits(float(str(losses.idxmin())))}, with {digits(losses.min(), 4)} nat/token."
        if (rate := chosen[series]) in losses.index and rate != losses.idxmin():
            answer += f" Used: {digits(rate)}, {losses[rate] / losses.min() - 1:.2%} above."
        where = f"{look_of(series).label}, {size}, {digits(budget)} FLOP, train context {context:,.0f}"
        loss = learning_rates.SEEN[part.metric.iloc[0]]
        yield Finding(f"Which learning rate gives the lowest {loss}?", where, answer, "no interval", (series,))


FOUND: dict[str, Callable[[Data], Iterator[Finding]]] = {
    "prefill_latency": _of_prefill,
    "decode_latency": _of_decode,
    "state_vs_context": _of_states,
    "inner_loss": _of_inner_loss,
    "learning_rates": _of_search,
}
