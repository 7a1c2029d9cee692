"""How fast a model trains, and in how much memory: steps on random tokens, which need no corpus and teach nothing.

Over several processes too, where the batch is that of all of them together.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from bench import distributed
from bench.build import Prepared
from bench.config import TrainConfig
from bench.hardware import begin_peak, peak_bytes
from bench.lab import Lab
from bench.results import Row
from bench.throughput import place, speed_rows
from bench.timing import sample, synchronise
from bench.train import Diverged, make_backward, make_optimizer, set_progress, update


@dataclass(frozen=True)
class TrainSpeed:
    """``steps`` steps of ``batch`` sequences of ``context`` tokens are timed, after a first, timed apart, and a second.

    how: the fields of TrainConfig.
    """

    context: int
    batch: int
    how: Mapping[str, Any]
    steps: int = 5

    def flops(self, prepared: Prepared) -> float:
        """Training FLOPs of all steps."""
        return (2 + self.steps) * self.batch * prepared.train_flops(self.context)

    def measure(self, lab: Lab) -> Iterator[Row]:
        """Rows of bench.throughput, and latency (s per step, each a sample).

        Raises:
            Diverged: the loss is not finite.
            Uneven: the processes cannot share the batch.
        """
        if lab.recorder.has("throughput"):
            return
        distributed.check_shares(self.batch)
        begin_peak(lab.device)
        how, optim = TrainConfig(**self.how), lab.run.optim
        lab.here = at = place(how, self.context, self.batch)
        lm = lab.lm_to_train(how).train()
        optimizer, backward = make_optimizer(lm, optim), make_backward(lm, how)
        tokens = torch.randint(lab.run.data.vocab, (self.batch, self.context + 1), device=lab.device)
        mine = distributed.share(self.batch)
        taken, total = 0, 2 + self.steps

        def step() -> None:
            nonlocal taken
            set_progress(lm, optimizer, optim, taken, total)
            loss = update(lm, optimizer, tokens[mine.start : mine.stop], optim.clip, backward, how.micro_batch, self.batch)
            if not math.isfinite(loss):
                raise Diverged(f"the loss of random tokens was {loss} at step {taken}; lower optim.lr={optim.lr}", taken)
            taken += 1

        def tell() -> None:
            lab.progress(taken / total)

        synchronise(lab.device)
        start = time.perf_counter()
        step()
        synchronise(lab.device)
        first = time.perf_counter() - start
        seconds = sample(step, lab.device, prepare=tell, warm_up=1, least=self.steps, most=self.steps)
        yield lab.row("latency", median(seconds), "s", at, seconds)
        rates, peaks = [self.batch * self.context / s for s in seconds], distributed.gathered(peak_bytes(lab.device))
        yield from speed_rows(lab, at, rates, first, peaks)
