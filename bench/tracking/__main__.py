"""``python -m bench.tracking TIER|FOLDER [KEY=VALUE…]``: logs runs that there are, as ``tracking=wandb`` would have. No torch.

TIER: its runs and its figures. FOLDER: of a run, or of runs, results/published say.
"""

import argparse
import sys
from pathlib import Path

from bench.compose import compose_run
from bench.config import ConfigError, TrackingConfig
from bench.figures.__main__ import runs_of
from bench.results import PUBLISHED, ROOT, CorruptResults
from bench.tier import load_tier, tier_names
from bench.tracking.process import check, track


def found(what: str, overrides: list[str], published: bool) -> tuple[list[Path], TrackingConfig]:
    """Folders to log, and how.

    Raises:
        ConfigError: it is neither a tier nor a folder of runs.
    """
    wanted = ["tracking=wandb", *overrides]
    if what in tier_names():
        tier = load_tier(what, wanted)
        own = Path(tier.runs[0].results)
        runs = [run for run in runs_of(tier, None if published else own) if run.published == published]
        figures = (PUBLISHED / "figures" if published else ROOT / "results" / "figures") / what
        return [run.folder for run in runs] + [figures] * (figures / "index.json").exists(), tier.runs[0].tracking
    folders = [path.parent for path in sorted(Path(what).glob("**/run.json"))]
    if not folders:
        raise ConfigError(f"'{what}' is neither a tier nor a folder with runs; tiers: {', '.join(tier_names())}")
    return folders, compose_run(wanted).tracking


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.tracking", description=__doc__)
    parser.add_argument("what", metavar="TIER|FOLDER")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="tracking.project=… and what the runs were made with")
    parser.add_argument("--published", action="store_true", help="the published runs of TIER, instead of your own")
    words = parser.parse_args()
    try:
        folders, tracking = found(words.what, words.overrides, words.published)
        check(tracking)
    except (ConfigError, CorruptResults) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    logged = 0
    for folder in folders:
        logged += track(folder, tracking)
        print(f"[{logged}/{len(folders)}] {folder}", flush=True)
    return 0 if logged == len(folders) else 1


if __name__ == "__main__":
    sys.exit(main())
