"""Draws every figure of a tier and writes what they were made of: files, contact sheet, index.json."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import pandas as pd

from bench.config import RunConfig
from bench.figures import (
    ablation,
    crossover,
    decode_latency,
    fairness_card,
    floor_share,
    inner_loss,
    kernel_speed,
    largest_batch,
    latency,
    latency_verdicts,
    learning_rates,
    memory,
    mini_batch,
    perplexity_by_context,
    perplexity_by_position,
    perplexity_by_train_context,
    perplexity_vs_flops,
    perplexity_vs_state,
    prefill_latency,
    recall,
    saw_tooth,
    scaling_fits,
    state_vs_context,
    verdicts,
)
from bench.figures.data import Data
from bench.figures.page import Sheet
from bench.figures.paper import CONTENT, DRAWN_BY, LIKE, PAPER_TIERS, TABLE_1
from bench.figures.sheet import contact_sheet
from bench.figures.style import save
from bench.results import Run, write_atomic
from bench.scaling import LEAST


class Module(Protocol):
    """What a figure's file offers."""

    TITLE: str
    EXPERIMENTS: tuple[str, ...]

    def rows(self, data: Data) -> pd.DataFrame:
        """The rows that the figure is drawn from."""

    def draw(self, data: Data) -> Sheet:
        """The figure."""


FIGURES: Mapping[str, Module] = {
    module.__name__.rsplit(".", 1)[-1]: cast("Module", module)
    for module in (
        *(perplexity_vs_flops, perplexity_by_context, perplexity_by_position, prefill_latency),
        *(decode_latency, state_vs_context, inner_loss, fairness_card, verdicts),
    )
}
KERNEL_FIGURES: Mapping[str, Module] = {"kernel_speed": cast("Module", kernel_speed)}
LATENCY_FIGURES: Mapping[str, Module] = {
    module.__name__.rsplit(".", 1)[-1]: cast("Module", module)
    for module in (latency, largest_batch, memory, floor_share, crossover, saw_tooth, latency_verdicts)
}
RECALL_FIGURES: Mapping[str, Module] = {"recall": cast("Module", recall)}
SEARCH_FIGURES: Mapping[str, Module] = {"learning_rates": cast("Module", learning_rates)}
ABLATION_FIGURES: Mapping[str, Module] = {"ablation": cast("Module", ablation), "mini_batch": cast("Module", mini_batch)}
# Of trainings that differ in what these figures compare.
STUDY_FIGURES: Mapping[str, Module] = {
    module.__name__.rsplit(".", 1)[-1]: cast("Module", module)
    for module in (scaling_fits, perplexity_by_train_context, perplexity_vs_state)
}
# Models that a figure should show, where they are not all of the tier's.
EXPECTED: Mapping[str, Callable[[Data], Sequence[str]]] = {
    "inner_loss": inner_loss.expected_of,
    "memory": memory.expected_of,
    "saw_tooth": saw_tooth.expected_of,
    "kernel_speed": lambda _: (),
    "ablation": lambda _: (),  # the table itself says which rows it lacks
    "mini_batch": lambda _: (),
}


def figures_of(runs: Sequence[RunConfig]) -> Mapping[str, Module]:
    """The figures that runs have rows for: of what they measure, and of what their trainings differ in."""
    measured = {run.experiment.name for run in runs}
    trained = [run for run in runs if run.experiment.trains]
    tried = {(*_model_of(run), run.optim.lr) for run in trained}
    is_search = len(tried) > len({place[:-1] for place in tried})
    is_ablation = any(run.model.name == TABLE_1[0].series for run in trained)
    of_losses = SEARCH_FIGURES if is_search else {**FIGURES, **_studies(trained)}
    if is_ablation:  # of one budget alone, so many models are a table, not a curve
        one = {"fairness_card": FIGURES["fairness_card"]}
        of_losses = {**(of_losses if len({run.budget.name for run in trained}) > 1 else one), **ABLATION_FIGURES}
    every = {**of_losses, **KERNEL_FIGURES, **LATENCY_FIGURES, **RECALL_FIGURES}
    return {name: module for name, module in every.items() if measured.issuperset(module.EXPERIMENTS)}


def _studies(trained: Sequence[RunConfig]) -> Mapping[str, Module]:
    """Fits where a model has budgets enough, the training context where a size has several, the state where models differ."""
    models = {run.model.name for run in trained}
    budgets = {(run.model.name, run.optim.train_context, run.budget.name) for run in trained}
    contexts = {(run.size.name, run.budget.name, run.optim.train_context) for run in trained}
    wanted = {
        "scaling_fits": max(Counter(one[:2] for one in budgets).values(), default=0) >= LEAST,
        "perplexity_by_train_context": max(Counter(one[:2] for one in contexts).values(), default=0) > 1,
        "perplexity_vs_state": len(models) > 1,
    }
    return {name: module for name, module in STUDY_FIGURES.items() if wanted[name]}


def _model_of(run: RunConfig) -> tuple[str, str, str, str, int]:
    return run.model.name, run.model.backbone, run.size.name, run.budget.name, run.optim.train_context


def draw_all(
    runs: Sequence[Run],
    out: Path,
    tier: str,
    expected_models: Sequence[str],
    tiers_of_paper: Mapping[str, str] = PAPER_TIERS,
    figures: Mapping[str, Module] = FIGURES,
) -> int:
    """Writes the figures (.png, .pdf), contact_sheet.png and index.json to ``out``.

    expected_models: names as in conf/model. tiers_of_paper: figure of the paper → tier that makes it.
    1, and a line on stderr for each, where a figure misses an expected model (inner_loss: a TTT model); else 0.
    """
    data = Data(tuple(runs), tuple(expected_models), tier)
    out.mkdir(parents=True, exist_ok=True)
    ours = {
        name: _entry(name, module, data, save(module.draw(data), out, name), tiers_of_paper) for name, module in figures.items()
    }
    contact_sheet([out / f"{name}.png" for name in figures], out / "contact_sheet.png")
    paper = {number: _paper_entry(number, made_by, tier, ours) for number, made_by in tiers_of_paper.items()}
    index = {"tier": tier, "contact_sheet": "contact_sheet.png", "figures": ours, "paper": paper}
    write_atomic(out / "index.json", json.dumps(index, indent=1, ensure_ascii=False) + "\n")
    incomplete = {name: entry["missing"] for name, entry in ours.items() if entry["missing"]}
    for name, missing in incomplete.items():
        print(f"{name}: no rows of {', '.join(missing)}", file=sys.stderr)
    return 1 if incomplete else 0


def hash_of_rows(rows: pd.DataFrame) -> str:
    """SHA-256 of the rows of a table as sorted lines of JSON."""
    return hashlib.sha256("\n".join(sorted(row.to_json() for row in rows.row)).encode()).hexdigest()


def _entry(name: str, module: Module, data: Data, files: Sequence[str], tiers: Mapping[str, str]) -> dict[str, Any]:
    """A figure's part of the index."""
    rows = module.rows(data)
    missing = data.missing(rows, EXPECTED[name](data) if name in EXPECTED else None)
    return {
        "files": list(files),
        "status": "no_rows" if rows.empty else "partial" if missing else "drawn",
        "missing": missing,
        "troubles": data.troubles(module.EXPERIMENTS),
        "paper": list(LIKE.get(name, ())),
        "analogue_of": [
            number for number in LIKE.get(name, ()) if not (tiers.get(number) == data.tier and name in DRAWN_BY.get(number, ()))
        ],
        "runs": sorted(set(rows.run_id)),
        "rows": len(rows),
        "rows_sha256": hash_of_rows(rows),
        "sources": sorted(set(rows.sources)),
        "sources_differ": rows.sources.nunique() > 1,
        "published": bool(rows.published.astype(bool).any()),
    }


def _paper_entry(number: str, made_by: str, tier: str, ours: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A figure of the paper: drawn where this is the tier that makes it and every figure that shows it has its rows."""
    by = [ours[name] for name in DRAWN_BY.get(number, ()) if name in ours] if tier == made_by else []
    status = "no_rows"
    if by and all(entry["status"] != "no_rows" for entry in by):
        status = "drawn" if all(entry["status"] == "drawn" for entry in by) else "partial"
    files = [file for entry in by for file in entry["files"]] if status != "no_rows" else []
    analogues = [name for name, like in LIKE.items() if number in like]
    return {"content": CONTENT[number], "status": status, "tier": made_by, "files": files, "analogues": analogues}
