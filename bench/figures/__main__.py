"""``python -m bench.figures TIER [--published]``: draws a tier from its rows into results/figures/TIER/. No torch here."""

import argparse
import sys
from pathlib import Path

from bench.config import ConfigError
from bench.figures.data import Data
from bench.figures.fairness_card import card_text
from bench.figures.index import FIGURES, KERNEL_FIGURES, LATENCY_FIGURES, RECALL_FIGURES, draw_all
from bench.results import PUBLISHED, ROOT, CorruptResults, Run, read_runs
from bench.tier import Tier, load_tier


def runs_of(tier: Tier, own: Path | None) -> list[Run]:
    """The runs of a tier's configurations: published ones, and the user's own where their folder is given."""
    roots = [PUBLISHED] if own is None else [PUBLISHED, own]
    wanted = tier.config_hashes
    return [run for run in read_runs(roots) if run.manifest.config_hash in wanted]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.figures", description=__doc__)
    parser.add_argument("tier")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="what the runs were made with, seeds=N included")
    parser.add_argument("--published", action="store_true", help="from published rows alone")
    parser.add_argument("--out", type=Path, help="folder to write to")
    words = parser.parse_args()
    try:
        tier = load_tier(words.tier, words.overrides)
        runs = runs_of(tier, None if words.published else Path(tier.runs[0].results))
    except (ConfigError, CorruptResults) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    out = words.out or ROOT / "results" / "figures" / tier.name
    measured = {run.experiment.name for run in tier.runs}
    every = {**FIGURES, **KERNEL_FIGURES, **LATENCY_FIGURES, **RECALL_FIGURES}
    figures = {name: module for name, module in every.items() if measured.issuperset(module.EXPERIMENTS)}
    status = draw_all(runs, out, tier.name, tier.models, figures=figures or FIGURES)
    if "train" in measured:
        print(card_text(Data(tuple(runs), tier.models, tier.name)))
    print(f"figures of {len(runs)} runs: {out}")
    return status


if __name__ == "__main__":
    sys.exit(main())
