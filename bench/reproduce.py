"""Plan, run and judge a tier: ``python -m bench.reproduce plan|run TIER [seeds=N] [KEY=VALUE…]``.

``run`` does what is not done, with live progress, in any number of interrupted calls; ``plan`` says what that would be.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.build import prepare
from bench.config import RunConfig, training
from bench.data.corpus import find_corpus
from bench.data.prepare import Told
from bench.data.prepare import prepare as prepare_corpus
from bench.display import shown
from bench.errors import EXPECTED
from bench.forecast import Forecast, forecast
from bench.hardware import device_name
from bench.pool import GOOD, LEFT, Pool
from bench.progress import Board, Job, label_of, seconds_together
from bench.results import FAILURES, PUBLISHED, read_runs
from bench.run import describe, record_killed
from bench.standing import Standing, standing
from bench.tier import Tier, load_tier
from bench.tracking.process import check


@dataclass(frozen=True)
class Cell:
    """A run of the tier, how it stands and what it will take."""

    run: RunConfig
    standing: Standing
    forecast: Forecast

    @property
    def is_settled(self) -> bool:
        """Nothing is left to do."""
        return not self.standing.is_left

    @property
    def job(self) -> Job:
        """For a board."""
        return Job(label_of(self.run), self.forecast.seconds, self.run.experiment.timing)


def survey(tier: Tier) -> list[Cell]:
    """Every cell as it stands."""
    roots = {Path(run.results) for run in tier.runs} | {PUBLISHED}
    known = read_runs(sorted(roots))
    return [Cell(run, standing(run), forecast(run, known)) for run in tier.runs]


def check_trainings(cells: Sequence[Cell]) -> None:
    """Raises BudgetError where a cell that is to train would make too few steps, or go through its text too often."""
    for cell in cells:
        if cell.run.experiment.trains and not cell.is_settled:
            prepare(cell.run).check()


def prepare_data(cells: Sequence[Cell]) -> None:
    """Prepares every corpus that a cell to be run reads, before workers ask for it."""
    data = [
        cell.run.data for cell in cells if not cell.is_settled and (cell.run.experiment.trains or cell.run.experiment.trained)
    ]
    for one in (one for n, one in enumerate(data) if one not in data[:n]):
        prepare_corpus(one, progress=Told())


def plan_text(cells: Sequence[Cell], workers: int) -> str:
    """The table of ``plan``: cell, device, minutes, FLOPs, how it stands; then what is left in all."""
    width = max(len(cell.job.label) for cell in cells)
    lines = [f"{'cell':{width}}  {'trained at':10}  {'device':8}  {'minutes':>8}  {'FLOPs':>9}  status"]
    for cell in cells:
        guess = " " if cell.forecast.is_measured else "~"
        minutes = f"{guess}{cell.forecast.seconds / 60:.2f}"
        facts = f"{cell.run.device.name:8}  {minutes:>8}  {cell.forecast.flops:9.2e}  {cell.standing.plan}"
        lines.append(f"{cell.job.label:{width}}  {_trained_at(cell.run):>10}  {facts}")
    left = [cell for cell in cells if not cell.is_settled]
    seconds = seconds_together([cell.job for cell in left], workers)
    lines.append(
        f"{len(cells)} cells, {len(left)} to do: about {seconds / 60:.1f} minutes on {workers} "
        f"worker{'s' * (workers > 1)}, {sum(cell.forecast.flops for cell in left):.2e} FLOPs"
    )
    if any(not cell.forecast.is_measured for cell in cells):
        lines.append("~ from the device's assumed FLOP/s: no run of that kind has been measured yet")
    missing = {cell.run.data.name for cell in left if cell.run.experiment.trains and find_corpus(cell.run.data) is None}
    lines += [
        f"data={name} is not prepared, so epochs are not known yet: python -m bench.data prepare {name}"
        for name in sorted(missing)
    ]
    return "\n".join(lines)


def _trained_at(run: RunConfig) -> str:
    """The training context, and the inner mini-batch of a TTT layer."""
    if run.experiment.modelless or not (run.experiment.trains or run.experiment.trained):
        return f"b{run.model.mini_batch}" if run.model.mini_batch and not run.experiment.modelless else ""
    return f"{run.optim.train_context}" + (f" b{run.model.mini_batch}" if run.model.mini_batch else "")


def run_tier(cells: Sequence[Cell], workers: int) -> dict[str, str]:
    """Runs what is not settled, printing as it goes; returns the cause of each cell that failed, by its label."""
    todo = [cell for cell in cells if not cell.is_settled]
    failures = {
        cell.job.label: f"{cell.standing.status}: {cell.standing.cause}"
        for cell in cells
        if cell.is_settled and cell.standing.status in FAILURES
    }
    board, left = Board([cell.job for cell in todo], workers, before=len(cells) - len(todo)), 0
    print(f"{len(cells)} cells, {board.before} done before, {len(todo)} to do", flush=True)
    with shown(board) as show:
        for message in Pool([cell.run for cell in todo], _needs(todo), workers).run():
            if message.status == "killed":
                record_killed(todo[message.job].run, message.cause)
            if message.status not in ("", *GOOD, *LEFT):
                failures[todo[message.job].job.label] = f"{message.status}: {message.cause}"
            left += message.status in LEFT
            if message.status != "left":  # it never began
                show(message)
    if left:
        print(f"max_minutes are over: {left} of {len(todo)} cells are left; the same command goes on", flush=True)
    return failures


def _needs(cells: Sequence[Cell]) -> list[int | None]:
    """Of each cell, the one that trains its model, where that is still to be done."""
    trains = {describe(cell.run).run_id: n for n, cell in enumerate(cells) if cell.run.experiment.trains}
    return [trains.get(describe(training(cell.run)).run_id) if cell.run.experiment.trained else None for cell in cells]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.reproduce", description=__doc__)
    parser.add_argument("verb", choices=("plan", "run"))
    parser.add_argument("tier")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="seeds=N, or what python -m bench takes")
    words = parser.parse_args()
    try:
        tier = load_tier(words.tier, words.overrides)
        check(tier.runs[0].tracking)
        cells = survey(tier)
        workers = max(run.device.workers for run in tier.runs)
        if words.verb == "run":
            for kind in {run.device.type for run in tier.runs}:
                device_name(kind)  # before anything is prepared
            prepare_data(cells)
        check_trainings(cells)
        if words.verb == "plan":
            print(plan_text(cells, workers))
            return 0
        failures = run_tier(cells, workers)
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    for label, cause in failures.items():
        print(f"failed: {label}: {cause}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
