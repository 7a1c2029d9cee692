"""The last part of a report: what was not measured, what is claimed, and every run."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from bench.claims import Claim, load_claims
from bench.figures.paper import CONTENT, DRAWN_BY, LIKE, PAPER_TIERS
from bench.report import numbers
from bench.report.spec import Cell, Column, Fold, Line, Part, Section, Table, Text
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
    lines = [(one["title"], one["about"], f"make reproduce-figures TIER={name}") for name, one in told.items()]
    columns = tuple(map(Column, ("tier", "what it would measure", "command")))
    return Table("Tiers without rows", columns, tuple(Line(tuple(map(Cell, line))) for line in lines))


def _paper(measured: Mapping[str, AbstractSet[str]]) -> Table:
    """Figures and tables of the paper, and whether they, or what is like them, are here. measured: tier → experiments."""
    every = set().union(*measured.values())
    lines = []
    for number, content in CONTENT.items():
        by = set(DRAWN_BY.get(number, ()))
        here = by & measured.get(PAPER_TIERS[number], set())
        like = [
            name for name, numbers_ in LIKE.items() if number in numbers_ and (name in every or name == "perplexity_vs_flops")
        ]
        status = "no rows" if not here else "drawn" if here == by else "partial"
        lines.append((number, content, PAPER_TIERS[number], status, ", ".join(like) or "–"))
    columns = tuple(map(Column, ("figure", "content", "tier", "status", "like it here, at smaller scale")))
    return Table("Figures and tables of the paper (arXiv 2407.04620)", columns, tuple(_status_line(line) for line in lines))


def _status_line(words: Sequence[str]) -> Line:
    return Line(tuple(Cell(word, sure=place == 3) for place, word in enumerate(words)))


def _claims(claims: Sequence[Claim], runs: Sequence[Run]) -> Table:
    """conf/claims.yaml against these rows."""
    heads = ("claim", "bar", "measured", "95 % interval", "judgement", "run")
    columns = tuple(Column(head, numeric=head in ("bar", "measured", "95 % interval")) for head in heads)
    return Table("Claims", columns, tuple(_claim_line(claim, runs) for claim in claims))


def _claim_line(claim: Claim, runs: Sequence[Run]) -> Line:
    found = claim.measured(runs)
    limit = claim.at_most if claim.at_most is not None else claim.at_least
    bar = Cell(f"{'≤' if claim.at_least is None else '≥'} {limit:.4g}", limit)
    texts = ("–",) * 3 if found is None else (f"{found[0].value:.4g}", numbers.bounds(found[0]), found[1].manifest.run_id)
    measured, interval, run = map(Cell, texts)
    return Line((Cell(claim.name), bar, measured, interval, Cell(claim.judged(found and found[0]), sure=True), run))
