"""Time of a decode step at depth: the state holds ``context`` tokens when the clock starts (paper, figure 12 right)."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bench.build import Prepared
from bench.lab import Lab
from bench.results import Row
from bench.timing import sample
from models.lm import LM


@dataclass(frozen=True)
class DecodeLatency:
    """``steps`` steps at each depth, whole cycles of a TTT mini-batch; ``fill`` tokens at a time bring the state there."""

    contexts: Sequence[int]
    batch: int = 1
    steps: int = 32
    warm_up: int = 4
    fill: int = 1024

    def flops(self, prepared: Prepared) -> float:
        """FLOPs of filling the state to the greatest depth; the steps themselves are few."""
        return self.batch * prepared.train_flops(max(self.contexts)) / 3

    def measure(self, lab: Lab) -> Iterator[Row]:
        """latency (s per step of the batch, greedy token included) at every depth, each step a sample; random weights."""
        remaining = lab.remaining("latency", "context", sorted(self.contexts))
        if not remaining:
            return
        lm = lab.new_lm().eval()
        filled, state = 0, lm.init_state(self.batch, max(self.contexts) + self.steps + self.warm_up)
        tokens = torch.randint(lab.run.data.vocab, (self.batch, max(remaining)), device=lab.device)
        for context in remaining:
            lab.here = {"phase": "step", "context": context, "batch": self.batch}
            for start in range(filled, context, self.fill):
                lm.prefill(tokens[:, start : min(start + self.fill, context)], state)
            filled = context
            seconds = self._steps(lm, copy.deepcopy(state), tokens[:, context - 1], lab.device)
            median = float(torch.tensor(seconds).median())
            if not lab.recorder.has("throughput", context=context):
                yield lab.row("throughput", self.batch / median, "token/s", lab.here)
            yield lab.row("latency", median, "s", lab.here, seconds)
            lab.progress(context / max(self.contexts))

    def _steps(self, lm: LM, state: list[Any], last: torch.Tensor, device: torch.device) -> tuple[float, ...]:
        token = last.clone()

        def step() -> None:
            token.copy_(lm.step(token, state).argmax(-1))

        return sample(step, device, warm_up=self.warm_up, least=self.steps, most=self.steps)
