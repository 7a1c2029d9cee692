"""Prefill and decode time of the models of one size side by side, each in the fastest way that it has (paper, figure 12).

Models take turns in one process, so that what slows the card slows all of them, and times are compared in pairs. An engine is
timed only after its logits agreed with the reference's (bench/latency/gate.py); which engine a model gets, a trial says.
Out of memory is a row, and the cells after it go on.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.build import DTYPES, Prepared
from bench.ceilings import ceilings
from bench.lab import Lab
from bench.latency.about import About
from bench.latency.books import Books, calls_of
from bench.latency.match import Match
from bench.progress import Unfinished
from bench.results import Row

CEILINGS = {"least": 20, "most": 100, "seconds": 0.3}


@dataclass(frozen=True)
class Latency(About):
    """Its fields are those of bench.latency.about.About."""

    def flops(self, prepared: Prepared) -> float:
        """FLOPs of the least number of calls of every cell; trials and the gate take longer."""
        books = Books(self, DTYPES[prepared.run.device.dtype])
        least = int(self.sampling.get("least", 5))
        places = [(cell, name, context) for cell in books.cells for name, context in cell.places]
        return float(sum(least * calls_of(c) * c.batch * books.cost(n, c.phase, x).flops for c, n, x in places))

    def measure(self, lab: Lab) -> Iterator[Row]:
        """Rows of every cell, the most important first.

        Raises:
            ConfigError: a graph on a CPU.
            Unfinished: max_minutes are over, or the device is lost to this process; the next call goes on.
        """
        yield from ceilings(lab, CEILINGS)
        books = Books(self, lab.dtype, lab)
        match = Match(self, lab, books)
        print(books.plan(), flush=True)
        for number, cell in enumerate(books.cells):
            if match.left(cell) and time.monotonic() + books.seconds(cell) > lab.until:
                left = [cell for cell in books.cells[number:] if match.left(cell)]
                yield from match.not_run(left)
                raise Unfinished(f"max_minutes={lab.run.max_minutes:g}: {len(left)} of {len(books.cells)} cells are left")
            start = time.monotonic()
            yield from match.rows(cell)
            books.took(cell, time.monotonic() - start)
            lab.progress((number + 1) / len(books.cells))
