"""A measurement that ends as it is told: bad cells of sweeps, without a mock of anything that runs them."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.build import Prepared
from bench.lab import Lab
from bench.results import Row


@dataclass(frozen=True)
class Ending:
    """how: done, failed, oom, killed; or wait, until ``flag`` exists. What is not done is so while there is no flag.

    contexts: of state_vs_context, whose place it takes; not heeded.
    """

    how: str
    flag: str
    contexts: Sequence[int] = ()

    def flops(self, prepared: Prepared) -> float:
        """None to speak of."""
        return 1.0

    def measure(self, lab: Lab) -> Iterator[Row]:
        """One row, or an end."""
        if not Path(self.flag).exists():
            if self.how == "failed":
                raise ValueError("told to fail")
            if self.how == "oom":
                raise torch.OutOfMemoryError("told to have no memory")
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            while self.how == "wait" and not Path(self.flag).exists():
                time.sleep(0.01)
        yield Row(metric="state", value=1.0, unit="byte", at={"model": "mamba"})
