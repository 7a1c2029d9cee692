"""``python -m bench.status SWEEP|TIER|FOLDER… [KEY=VALUE…]``: how cells stand, why, and what time is left; runs nothing.

SWEEP, TIER: a file of conf/sweep or conf/tier, with the same KEY=VALUE as where it was run. FOLDER: of a sweep
(results/runs/.multirun/…), of a run, or of runs. The exit status is 0 where all is done, else 1; 2 where it could not be told.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.config import ConfigError, from_record
from bench.errors import EXPECTED
from bench.progress import label_of
from bench.results import PUBLISHED, read_done, read_run
from bench.standing import standing_of
from bench.survey import Cell, cells, left_s, table
from bench.sweep import as_they_stand, cells_in, cells_of, sweep_names
from bench.tier import load_tier, tier_names

DONE = ("done", "stale")


def found(what: str, overrides: Sequence[str]) -> list[Cell]:
    """The cells of a sweep, a tier or a folder.

    Raises:
        ConfigError: it is none of these.
    """
    folder = Path(what)
    if what in sweep_names():
        return cells(cells_of(what, overrides))
    if what in tier_names():
        return cells((label_of(run), run) for run in load_tier(what, overrides).runs)
    if (folder / "multirun.yaml").exists():
        return as_they_stand(cells_in(folder), folder)
    runs = sorted(path.parent for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}run.json"))
    if not runs:
        known = f"sweeps: {', '.join(sweep_names())}; tiers: {', '.join(tier_names())}"
        raise ConfigError(f"'{what}' is neither a sweep nor a tier nor a folder with runs. {known}")
    return [_of_folder(run) for run in runs]


def _of_folder(folder: Path) -> Cell:
    one = standing_of(folder)
    if not one.is_open:
        return Cell(one, "")
    run, known = from_record(read_run(folder).config), read_done([folder.parent.parent, PUBLISHED])
    return Cell(one, label_of(run), left_s(run, one, known))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.status", description=__doc__)
    parser.add_argument("words", nargs="+", metavar="SWEEP|TIER|FOLDER|KEY=VALUE")
    words = parser.parse_args().words
    overrides = [word for word in words if "=" in word]
    try:
        all_cells = [cell for what in words if "=" not in what for cell in found(what, overrides)]
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(all_cells))
    return 0 if all(cell.standing.status in DONE for cell in all_cells) else 1


if __name__ == "__main__":
    sys.exit(main())
