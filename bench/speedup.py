"""``python -m bench.speedup [RESULTS]``: of train_speed's rows, how much faster several GPUs train than one. No torch here.

Efficiency is (token/s of n GPUs) / (n × token/s of one), of the same model in the same place: batch included, or, where
``--weak`` is given, the same batch of each GPU.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.results import Row, Run, read_runs

# What one model's runs with different numbers of GPUs have in common; with ``--weak`` without the batch.
SAME = ("model", "backbone", "size", "params", "context", "batch", "checkpoint", "exec", "impl", "dtype")


@dataclass(frozen=True)
class Speedup:
    """One run's token/s, as a median, and largest memory of a GPU (byte, 0 where it is not known), beside one GPU's token/s."""

    place: tuple[str, ...]
    gpus: int
    rate: float
    memory: float
    alone: float | None

    @property
    def efficiency(self) -> float | None:
        """None without the run of one GPU."""
        return None if self.alone is None else self.rate / (self.gpus * self.alone)


def speedups(runs: Sequence[Run], *, weak: bool = False) -> Iterator[Speedup]:
    """One for each run of train_speed, those of one place together, by the number of GPUs."""
    rates = [(_place(row, weak), int(row.at.get("gpus", 1)), row.value, _memory(run)) for run, row in _rates(runs)]
    alone = {place: rate for place, gpus, rate, _ in rates if gpus == 1}
    for place, gpus, rate, memory in sorted(rates):
        yield Speedup(place, gpus, rate, memory, alone.get(place))


def _rates(runs: Sequence[Run]) -> Iterator[tuple[Run, Row]]:
    timed = [run for run in runs if run.manifest.experiment == "train_speed"]
    return ((run, row) for run in timed for row in run.rows if row.metric == "throughput")


def _place(row: Row, weak: bool) -> tuple[str, ...]:
    at = dict(row.at)
    if weak:
        at["batch"] = int(at["batch"]) // int(at.get("gpus", 1))
    return tuple(str(at.get(key, "")) for key in SAME)


def _memory(run: Run) -> float:
    return max((row.value for row in run.rows if row.metric == "peak_memory"), default=0.0)


def table(found: Sequence[Speedup]) -> list[str]:
    """Lines: model, size, context, batch, GPUs, token/s, of each GPU, efficiency, GiB of a GPU."""
    lines = [
        f"{'model':12} {'size':6} {'context':>8} {'batch':>6} {'GPUs':>5} {'token/s':>12} {'a GPU':>12} {'share':>6} {'GiB':>6}"
    ]
    for one in found:
        at = dict(zip(SAME, one.place, strict=True))
        share = "" if one.efficiency is None else f"{one.efficiency:.1%}"
        where = f"{at['model']:12} {at['size']:6} {at['context']:>8} {at['batch']:>6} {one.gpus:>5}"
        lines.append(f"{where} {one.rate:12,.0f} {one.rate / one.gpus:12,.0f} {share:>6} {one.memory / 2**30:6.1f}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m bench.speedup", description=__doc__)
    made.add_argument("results", type=Path, nargs="?", default=Path("results/runs"), metavar="RESULTS")
    made.add_argument("--weak", action="store_true", help="compare runs of the same batch of each GPU, not of the same batch")
    words = made.parse_args(argv)
    found = list(speedups(read_runs([words.results]), weak=words.weak))
    if not found:
        print(
            f"error: no run of train_speed below {words.results}; torchrun -m bench experiment=train_speed …", file=sys.stderr
        )
        return 1
    print("\n".join(table(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
