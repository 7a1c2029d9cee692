"""``python -m bench.claims``: what published rows must show, and whether they do (conf/claims.yaml). No torch here.

A claim is a bar for the median of one place's samples, or for its ratio to another place, of the same run or of another one of
the same experiment, commit and device. It holds where the whole 95 % interval keeps to the bar, fails where none of it does,
and cannot be told where the interval holds the bar.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from omegaconf import OmegaConf

from bench.config import CONF
from bench.results import PUBLISHED, Coordinate, CorruptResults, Row, Run, read_runs
from bench.stats import Interval, median_interval, ratio_interval

LEVEL = 0.95
Judgement = Literal["holds", "fails", "cannot tell", "no rows"]


@dataclass(frozen=True)
class Claim:
    """``metric`` of an experiment ``at`` a place, on ``device`` (its name in conf/device); one of the bars, in its unit.

    over: coordinates in which the place differs to which the ratio is taken; the bar is then one for the ratio.
    """

    name: str
    experiment: str
    metric: str
    device: str
    at: Mapping[str, Coordinate]
    at_most: float | None = None
    at_least: float | None = None
    over: Mapping[str, Coordinate] | None = None

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"claim '{self.name}': give one of at_most and at_least")

    def measured(self, runs: Iterable[Run]) -> tuple[Interval, Run] | None:
        """From the latest run that has what it takes."""
        known = [run for run in runs if run.manifest.experiment == self.experiment]
        for run in sorted(known, key=lambda run: run.manifest.started, reverse=True):
            row = _row(run, self.metric, self.at) if run.config["device"]["name"] == self.device else None
            if row is not None and self.over is None:
                return median_interval(_samples(row)), run
            if row is not None and self.over is not None:
                beside = [run, *(one for one in known if one is not run and _made(one) == _made(run))]
                others = (_row(one, self.metric, {**self.at, **self.over}) for one in beside)
                if other := next((one for one in others if one), None):
                    return ratio_interval(_samples(row), _samples(other)), run
        return None

    def judged(self, interval: Interval | None) -> Judgement:
        """What an interval shows; one of less than 95 % shows nothing."""
        if interval is None:
            return "no rows"
        if interval.level < LEVEL:
            return "cannot tell"
        if self.at_most is not None:
            return "holds" if interval.high <= self.at_most else "fails" if interval.low > self.at_most else "cannot tell"
        assert self.at_least is not None
        return "holds" if interval.low >= self.at_least else "fails" if interval.high < self.at_least else "cannot tell"


def load_claims(path: Path = CONF / "claims.yaml") -> list[Claim]:
    """The claims of a file, in its order."""
    return [Claim(**claim) for claim in OmegaConf.to_container(OmegaConf.load(path))]  # type: ignore[arg-type, union-attr]


def _made(run: Run) -> tuple[str, str]:
    return run.manifest.git_sha, run.manifest.device


def _samples(row: Row) -> tuple[float, ...]:
    return row.samples or (row.value,)


def _row(run: Run, metric: str, at: Mapping[str, Coordinate]) -> Row | None:
    """The row of a place.

    Raises:
        ValueError: several rows are there.
    """
    found = [row for row in run.rows if row.metric == metric and all(row.at.get(key) == value for key, value in at.items())]
    if len(found) > 1:
        raise ValueError(f"{run.manifest.run_id} has {len(found)} rows {metric} at {dict(at)}: name more coordinates")
    return found[0] if found else None


def report(claims: Sequence[Claim], runs: Sequence[Run]) -> tuple[str, bool]:
    """A line for each claim, and whether all hold."""
    lines, all_hold = [], True
    for claim in claims:
        found = claim.measured(runs)
        judgement = claim.judged(found and found[0])
        all_hold &= judgement == "holds"
        bar = f"<= {claim.at_most:.4g}" if claim.at_least is None else f">= {claim.at_least:.4g}"
        measured = "" if found is None else f"{found[0].value:.4g} [{found[0].low:.4g}, {found[0].high:.4g}]"
        source = "" if found is None else f"{found[1].manifest.run_id.rsplit('-', 1)[-1]} {found[1].manifest.git_sha[:7]}"
        lines.append(f"{judgement:12s} {claim.name:44s} {bar:>12s}   {measured:32s} {source}".rstrip())
    return "\n".join(lines), all_hold


def main() -> int:
    """The command line; exit status 0: every claim holds."""
    argparse.ArgumentParser(prog="python -m bench.claims", description=__doc__).parse_args()
    try:
        text, all_hold = report(load_claims(), read_runs([PUBLISHED]))
    except (CorruptResults, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0 if all_hold else 1


if __name__ == "__main__":
    sys.exit(main())
