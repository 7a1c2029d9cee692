"""The last part of a report: what was not measured, what is claimed, and every run."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from bench.claims import Claim, load_claims
from bench.figures.index import ABLATION_FIGURES, FIGURES, LATENCY_FIGURES, STUDY_FIGURES
from bench.figures.paper import CONTENT, DRAWN_BY, LIKE, PAPER_TIERS
from bench.report import numbers
from bench.report.spec import Cell, Fold, Part, Section, Table, Text
from bench.results import Run
from bench.tier import tier_file, tier_names


def everything(runs: Sequence[Run], tier_of: Mapping[str, str]) -> Part:
    """What concerns all tiers. tier_of: config_hash → name of its tier."""
    measured: dict[str, set[str]] = {}
    for run in runs:
        measured.setdefault(tier_of.get(run.manifest.config_hash, ""), set()).add(run.manifest.experiment)
    stray = sum(run.manifest.config_hash not in tier_of for run in runs)
    words = (Text(f"{stray} runs belong to no tier: they are listed here, and drawn nowhere."),) if stray else ()
    return Part(
        "everything",
        "Everything else",
        "What was not measured, what is claimed, and every run that this page is made from.",
        (
            Section("unmeasured", "What was not measured", (_tiers_without_rows(measured), _paper(measured))),
            Section("claims", "Claims that rows must bear out", (_claims(load_claims(), runs),)),
            Section("runs", "Runs", (*words, Fold(f"All {len(runs)} runs", (numbers.runs_table(runs, tier_of),)))),
        ),
    )


def _tiers_without_rows(measured: Mapping[str, AbstractSet[str]]) -> Table:
    """Tiers that nothing was measured of, and how to."""
    told = {name: tier_file(name) for name in tier_names() if name not in measured}
    return Table.of("Tiers without rows", [((), _untouched(name, one)) for name, one in told.items()])


def _untouched(name: str, told: Mapping[str, str]) -> dict[str, str]:
    return {"tier": told["title"], "what it would measure": told["about"], "command": f"make reproduce-figures TIER={name}"}


def _paper(measured: Mapping[str, AbstractSet[str]]) -> Table:
    """Figures and tables of the paper, and whether they, or what is like them, are here. measured: tier → experiments."""
    every = set().union(*measured.values())
    lines = [_of_paper(number, measured.get(tier, set()), every) for number, tier in PAPER_TIERS.items()]
    return Table.of("Figures and tables of the paper (arXiv 2407.04620)", [((), line) for line in lines])


def _of_paper(number: str, in_tier: AbstractSet[str], every: AbstractSet[str]) -> dict[str, Cell | str]:
    """in_tier: experiments that were measured in the tier that would draw it."""
    every_figure = {**FIGURES, **LATENCY_FIGURES, **ABLATION_FIGURES, **STUDY_FIGURES}
    by = {experiment for name in DRAWN_BY.get(number, ()) for experiment in every_figure[name].EXPERIMENTS[-1:]}
    status = "no rows" if not by & in_tier else "drawn" if by <= in_tier else "partial"
    like = [name for name, alike in LIKE.items() if number in alike and every_figure[name].EXPERIMENTS[-1] in every]
    line: dict[str, Cell | str] = {"figure": number, "content": CONTENT[number], "tier": PAPER_TIERS[number]}
    return line | {"status": Cell(status, sure=True), "like it here, at the scale of these rows": ", ".join(like) or "–"}


def _claims(claims: Sequence[Claim], runs: Sequence[Run]) -> Table:
    """conf/claims.yaml against these rows."""
    return Table.of("Claims", [((), _claimed(claim, runs)) for claim in claims])


def _claimed(claim: Claim, runs: Sequence[Run]) -> dict[str, Cell | str]:
    found = claim.measured(runs)
    limit = claim.at_most if claim.at_most is not None else claim.at_least
    value, interval, run = ("–", "–", "–")
    if found is not None:
        value, interval, run = f"{found[0].value:.4g}", numbers.bounds(found[0]), found[1].manifest.run_id
    bar = Cell(f"{'≤' if claim.at_least is None else '≥'} {limit:.4g}", limit)
    judgement = Cell(claim.judged(found and found[0]), sure=True)
    return {"claim": claim.name, "bar": bar, "measured": value, "95 % interval": interval, "judgement": judgement, "run": run}
