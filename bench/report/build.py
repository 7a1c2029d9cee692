"""A report from rows: one part for each tier that has any, and what was not measured."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd

from bench.config import RunConfig, identity
from bench.figures import fairness_card, judged, verdicts
from bench.figures.data import Data
from bench.figures.index import Module, figures_of, hash_of_rows
from bench.figures.page import Sheet
from bench.figures.style import look_of, series_name
from bench.report import numbers
from bench.report.everything import everything
from bench.report.findings import EQUAL_SHARE, findings
from bench.report.spec import Block, Findings, Fold, Part, Picture, Points, Report, Section, Table, Text
from bench.results import Run, hash_of
from bench.tier import Tier, tiers_of

TITLE = "TTT layers, Transformer and Mamba under matched FLOPs"
ABOUT = (
    "Sequence models whose hidden state learns while it reads, TTT-Linear and TTT-MLP (arXiv 2407.04620), beside a Transformer "
    "and Mamba: how well each predicts text that it has not seen, what longer context brings, how long it takes, and how sure "
    "that is. Every number, verdict and sentence about results on this page is computed from measured rows."
)
READING = """\
Losses (nll) are in nats per token: lower is better. Perplexity is exp(nll).
Matched FLOPs: each model is trained until it has used as many floating-point operations as the others. The fairness card of \
each part says how closely, and what else the models were given.
Differences are paired: both models score the same held-out targets. Where a 95 % interval stands, it says how far the choice \
of text, and of the seed where several were trained, may have moved the number.
“different”: the interval excludes 0, also after Holm's adjustment for all that is asked together. “equal”: all of it lies \
within ±{nats:g} nat/token, or within {share:.1%} of times. “cannot tell”: neither.
“counted”: exact, by formula. “no interval”: a value without a judgement of how sure it is.
"""


def report(runs: Sequence[Run]) -> Report:
    """The report of ``runs``, whichever tiers they belong to."""
    tiers = sorted(tiers_of(runs), key=lambda tier: not tier.models)
    tier_of = {name: tier.name for tier in tiers for name in tier.config_hashes}
    series = sorted({name for run in runs if (name := numbers.series_of(run))}, key=lambda name: look_of(name).order)
    shares = [(tier, [run for run in runs if tier_of.get(run.manifest.config_hash) == tier.name]) for tier in tiers]
    parts = [part_of(tier, own) for tier, own in shares if own]  # not of a tier whose only runs another one shows
    reading = tuple(READING.format(nats=judged.EQUAL_WITHIN, share=EQUAL_SHARE).splitlines())
    return Report(TITLE, ABOUT, reading, _facts(runs), tuple(series), (*parts, everything(runs, tier_of)))


def _facts(runs: Sequence[Run]) -> tuple[tuple[str, str], ...]:
    days = sorted(run.manifest.started[:10] for run in runs)
    seeds = {run.manifest.seed for run in runs}
    return (
        ("runs", f"{len(runs):,}"),
        ("rows", f"{sum(len(run.rows) for run in runs):,}"),
        ("seeds", f"{len(seeds)}"),
        ("devices", _listed(run.manifest.device for run in runs)),
        ("commits", _listed(numbers.commit(run) for run in runs)),
        ("measured", " to ".join(dict.fromkeys((days[0], days[-1])))),
    )


def part_of(tier: Tier, runs: Sequence[Run]) -> Part:
    """What a tier shows: in brief, its figures with their numbers and sources, what has no figure, and what is missing."""
    data, every = Data(tuple(runs), tier.models, tier.name), figures_of(tier.runs)
    figures = {name: module for name, module in every.items() if not module.rows(data).empty}
    without = [module.TITLE for name, module in every.items() if name not in figures]
    found = verdicts.verdicts(data) if "verdicts" in figures else ()
    brief = tuple(findings(data, list(figures), found))
    seeds = (Text(judged.about_seeds(found)),) if found else ()
    sections = [Section(f"{tier.name}-brief", "In brief", (*seeds, Findings(brief)))] if brief else []
    tables = {
        "verdicts": lambda: numbers.verdict_table(found),
        "fairness_card": lambda: numbers.card(fairness_card.rows(data)),
    }
    sections += [_figure(name, module, data, tables.get(name)) for name, module in figures.items()]
    drawn = {module.EXPERIMENTS[-1] for module in every.values()}
    sections += [_undrawn(name, data) for name in sorted({run.manifest.experiment for run in runs} - drawn)]
    return Part(tier.name, tier.title, tier.about, (*sections, _not_run(tier, data, without)))


def _figure(name: str, module: Module, data: Data, table: Callable[[], Table] | None) -> Section:
    """A figure, or the table that it is, what is to be known of it, its numbers, and where they come from."""
    key, rows, sheet = f"{data.tier}-{name}", module.rows(data), module.draw(data)
    captions = " ".join(f"{caption[:1].upper()}{caption[1:].rstrip('.')}." for caption in sheet.captions)
    words = (Text(captions), *(Text(alarm, alarm=True) for alarm in sheet.alarms))
    sources = Fold("Where these numbers come from", (_sources(rows, data),))
    if table is not None:
        return Section(key, module.TITLE, (table(), *words, sources))
    shown = [_picture(name, module, sheet, rows, data.tier)] if any(ax.axison for ax in sheet.axes) else []
    return Section(
        key, module.TITLE, (*shown, *words, Fold("Numbers", (numbers.numbers(f"{module.TITLE}, in numbers", rows),)), sources)
    )


def _undrawn(experiment: str, data: Data) -> Section:
    """The numbers of an experiment that has no figure."""
    metrics = [str(name) for name in data.table[data.table.experiment == experiment].metric.unique()]
    found = {name: data.select(experiment, [name], timing=True) for name in metrics if name not in ("failure", "targets")}
    tables = [numbers.numbers(name.replace("_", " "), rows) for name, rows in found.items()]
    alarms = [Text(trouble, alarm=True) for trouble in data.troubles([experiment])]
    sources = [Fold("Where these numbers come from", (_sources(pd.concat(found.values()), data),))] if found else []
    return Section(f"{data.tier}-{experiment}", experiment.replace("_", " ").capitalize(), (*tables, *alarms, *sources))


def _picture(name: str, module: Module, sheet: Sheet, rows: pd.DataFrame, tier: str) -> Picture:
    """The figure, with words for who does not see it: its axes and models; the numbers stand beside it."""
    labels = [(ax.get_ylabel(), ax.get_xlabel()) for ax in sheet.axes]
    axes = dict.fromkeys(" ".join(f"{y} over {x}".replace("\n", ", ").split()) for y, x in labels if x and y)
    drawn = sorted(set(rows.series), key=lambda series: look_of(series).order) if rows.model.notna().any() else []
    models = f" Models: {', '.join(look_of(series).label for series in drawn)}." if drawn else ""
    alt = f"{module.TITLE}: {' and '.join(axes) or 'panels'}.{models} Its numbers are in the table below."
    runs = tuple(sorted(set(rows.run_id)))
    return Picture(name, tier, sheet, alt, runs, module.EXPERIMENTS[-1], str(rows.metric.iloc[0]))


def _sources(rows: pd.DataFrame, data: Data) -> Points:
    """Rows by their hash, runs, code, devices and versions behind a figure."""
    ids = set(rows.run_id)
    runs = [run for run in data.runs if run.manifest.run_id in ids]
    versions = sorted({" ".join(f"{name} {version}," for name, version in run.manifest.versions.items())[:-1] for run in runs})
    return Points(
        (
            f"{len(rows):,} rows, SHA-256 {hash_of_rows(rows)}",
            f"commit {_listed(numbers.commit(run) for run in runs)}; sources {_listed(rows.sources)}",
            f"device {_listed(run.manifest.device for run in runs)}",
            *(f"versions {text}" for text in versions),
            f"runs {_listed(ids)}",
        )
    )


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(set(words)))


def _not_run(tier: Tier, data: Data, without: Sequence[str]) -> Section:
    """What the tier would measure and has not, and what did not end well. without: titles of figures that have no rows."""
    have = {run.manifest.config_hash for run in data.runs}
    absent = [run for run in tier.runs if hash_of(identity(run)) not in have]
    troubles = data.troubles(sorted({run.experiment.name for run in tier.runs}))
    done = f"{len(tier.runs) - len(absent)} of the {len(tier.runs)} runs of this tier are here"
    words = f"{done}, and {'all ended well' if not troubles else f'{len(troubles)} did not end well'}."
    again = f"make reproduce-figures TIER={tier.name} measures them all."
    blocks: list[Block] = [Text(f"{words} {again}"), *(Text(trouble, alarm=True) for trouble in troubles)]
    blocks += [Text(f"There are no rows for: {', '.join(without)}.", alarm=True)] if without else []
    if absent:
        blocks.append(Fold(f"{len(absent)} runs that are not here", (_absent(absent),)))
    return Section(f"{tier.name}-missing", "What failed or was not run", tuple(blocks))


def _absent(runs: Sequence[RunConfig]) -> Table:
    return Table.of("Not run", map(_absent_line, runs))


def _absent_line(run: RunConfig) -> tuple[Sequence[str], Mapping[str, str]]:
    series = "" if run.experiment.modelless else series_name(run.model.name, run.model.backbone)
    label, size, budget = (look_of(series).label, run.size.name, run.budget.name) if series else ("–", "–", "–")
    of_model = {"model": label, "size": size, "budget": budget}
    return [series] if series else [], {
        "experiment": run.experiment.name,
        **of_model,
        "seed": str(run.seed),
        "device": run.device.name,
    }
