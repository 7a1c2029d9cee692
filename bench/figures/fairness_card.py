"""The fairness card: what each model was given and what it cost, as a figure and as text."""

import pandas as pd

from bench.figures import footer, panels
from bench.figures.data import Data
from bench.figures.frame import groups
from bench.figures.lines import APART, lines
from bench.figures.page import Sheet
from bench.figures.style import digits, styled
from bench.figures.tables import Table

TITLE = "Fairness card"
EXPERIMENTS = ("train",)
# Metric → head of its column.
HEADS = {
    "parameters": "parameters",
    "flops_per_token": "FLOP/token",
    "tokens": "tokens",
    "epochs": "epochs",
    "steps": "steps",
    "learning_rate": "lr",
    "state": "state (B)",
    "head_share": "head",
    "train_flops": "total FLOP",
    "train_time": "minutes",
    "mismatch": "mismatch",
}
COLUMNS = ["model", "budget", *HEADS.values()]
WORDS = (
    "state: of one sequence at the training context; head: the output head's share of FLOPs per token; "
    "minutes: of training, those of all devices together; of a finetuned model, of both stages where its rows tell the first's."
)
TIMES = ("train_time", "first_stage_time")
WHAT = {"budget": "Total training FLOPs", "ffn": "FLOPs per token", "depth": "FLOPs per token"}


def rows(data: Data) -> pd.DataFrame:
    """The card's numbers of every training run."""
    return data.select("train", [*HEADS, TIMES[1]])


@styled
def draw(data: Data) -> Sheet:
    """The card as a table."""
    table = rows(data)
    if table.empty:
        return panels.empty(TITLE, "train", footer.alarms(data, table, EXPERIMENTS))
    made, notes = as_table(table)
    matched, unmatched = _verdicts(table)
    captions = [
        *matched,
        *notes,
        WORDS,
        *footer.published(table, "marked in the first column"),
    ]
    return made.page(TITLE).finish([], captions, [*unmatched, *footer.alarms(data, table, EXPERIMENTS)], footer.facts(table))


def card_text(data: Data) -> str:
    """The card as aligned plain text."""
    table = rows(data)
    if table.empty:
        return "\n".join(["no rows yet: python -m bench experiment=train", *footer.alarms(data, table, EXPERIMENTS)])
    made, notes = as_table(table)
    matched, unmatched = _verdicts(table)
    return "\n".join(
        [*made.text(), *matched, *unmatched, *notes, *footer.alarms(data, table, EXPERIMENTS), *footer.facts(table)]
    )


def as_table(table: pd.DataFrame) -> tuple[Table, list[str]]:
    """One row per model and budget, ordered by budget, then model; and the notes that explain the learning rates."""
    sources = sorted(set(table.lr_source))
    letters = {source: f" {chr(ord('a') + i)}" if len(sources) > 1 else "" for i, source in enumerate(sources)}
    found = []
    apart = [name for name in APART if name not in ("budget_flops", "lr", "exec")]
    for line in lines(table, apart):
        for (budget_flops, _), part in groups(line.rows, ["budget_flops", "lr"]):
            found.append((budget_flops, line.look.order, _row(line.look.label, part, letters)))
    notes = [f"learning rate{letter}: {source}." for source, letter in letters.items()]
    ordered = [cells for _, _, cells in sorted(found, key=lambda one: one[:2])]
    return Table(COLUMNS, ordered, left=2, group=1), [f"{' '.join(notes)} {footer.seeds(table)}."]


def _row(label: str, part: pd.DataFrame, letters: dict[str, str]) -> list[str]:
    values = {metric: same.value.mean() for metric, same in groups(part, "metric")}
    if "train_time" in values:
        spent = part[part.metric.isin(TIMES)]
        values["train_time"] = (spent.value * spent.gpus.fillna(1) / 60).groupby(spent.run_id).sum().mean()
    texts = {metric: _written(metric, values[metric]) if metric in values else "–" for metric in HEADS}
    texts["learning_rate"] += letters[part.lr_source.iloc[0]]
    return [label, str(part.budget.iloc[0]), *texts.values()]


def _written(metric: str, value: float) -> str:
    """With thousands' commas, as a share, or with four digits."""
    if metric in ("epochs", "train_time"):
        return f"{value:.2f}"
    if metric in ("head_share", "mismatch"):
        return f"{value:+.2%}" if metric == "mismatch" else f"{value:.1%}"
    return digits(value, 4) if metric in ("flops_per_token", "train_flops", "learning_rate") else f"{value:,.0f}"


def _verdicts(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """For each way of matching whether FLOPs are matched: the sentences that say yes, and those that say no."""
    matched, unmatched = [], []
    for (method, convention), part in groups(table[table.match != "tokens"], ["match", "convention"]):  # tokens: see the alarms
        mismatch = part[part.metric == "mismatch"]
        worst, tolerance = mismatch.value.abs().max(), part.tolerance.min()
        where = f"tolerance {tolerance:.2%}; match={method}, attention counted {convention}"
        if (mismatch.value.abs() <= mismatch.tolerance).all():
            matched.append(f"{WHAT[method]} matched within {worst:.2%} ({where}).")
        else:
            unmatched.append(f"FLOPs are NOT matched: the largest mismatch is {worst:.2%} ({where}).")
    return matched, unmatched
