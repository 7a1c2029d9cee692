"""``python -m bench.report [RESULTS] [--out FOLDER]``: a report of all rows below RESULTS, as a page and as Markdown. No torch.

report.html needs no other file; report.md shows figures/TIER/*.png beside it. With --wandb it becomes a report of W&B instead.
"""

import argparse
import sys
from pathlib import Path

from bench.config import ConfigError
from bench.report.build import report
from bench.report.drawing import picture
from bench.report.markdown import PATH, markdown, pictures
from bench.report.page import page
from bench.report.spec import Report
from bench.report.workspace import publish
from bench.results import PUBLISHED, ROOT, CorruptResults, read_runs, write_atomic


def write(made: Report, out: Path) -> None:
    """report.html, report.md and the pictures of the latter."""
    out.mkdir(parents=True, exist_ok=True)
    for one in pictures(made):
        path = out / PATH.format(tier=one.tier, name=one.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, picture(one.sheet, "png", one.name))
    write_atomic(out / "report.md", markdown(made))
    write_atomic(out / "report.html", page(made))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=PUBLISHED, help="folder of runs (results/published)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "figures" / "report", help="folder to write to")
    parser.add_argument("--wandb", metavar="ENTITY/PROJECT", help="publish it there, where its runs and figures were logged")
    words = parser.parse_args()
    try:
        print(_made(words.results, words.out, words.wandb))
    except (ConfigError, CorruptResults) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _made(results: Path, out: Path, project: str | None) -> str:
    """Makes the report and says where it is."""
    runs = read_runs([results])
    if not runs:
        raise ConfigError(f"there are no runs below {results}; make them with: make reproduce-figures")
    made = report(runs)
    if project is None:
        write(made, out)
    where = out / "report.html" if project is None else publish(made, project)
    return f"report of {len(runs)} runs: {where}"


if __name__ == "__main__":
    sys.exit(main())
