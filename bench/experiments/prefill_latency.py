"""Time of a prefill: from token ids to the last token's logits and a state ready for a step (paper, figure 12 left)."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.build import Prepared
from bench.lab import Lab
from bench.results import Row
from bench.timing import sample


@dataclass(frozen=True)
class PrefillLatency:
    """``sampling``: keywords of bench.timing.sample."""

    contexts: Sequence[int]
    batch: int = 1
    sampling: dict[str, Any] = field(default_factory=dict)

    def flops(self, prepared: Prepared) -> float:
        """FLOPs of the least number of prefills."""
        calls = 1 + self.sampling.get("least", 5)
        return calls * self.batch * sum(prepared.train_flops(context) for context in self.contexts) / 3

    def measure(self, lab: Lab) -> Iterator[Row]:
        """latency (s per prefill of the batch) and throughput (token/s, of the median) at every context; random weights."""
        lm = lab.new_lm().eval()
        for context in lab.remaining("latency", "context", self.contexts):
            lab.here = {"phase": "prefill", "context": context, "batch": self.batch}
            tokens = torch.randint(lab.run.data.vocab, (self.batch, context), device=lab.device)
            empty = lm.init_state(self.batch, context + 1)
            state: list[Any] = []

            def renew(state: list[Any] = state, empty: list[Any] = empty) -> None:
                state[:] = copy.deepcopy(empty)

            def run(tokens: torch.Tensor = tokens, state: list[Any] = state) -> None:
                lm.prefill(tokens, state)

            seconds = sample(run, lab.device, prepare=renew, **self.sampling)
            lm.step(tokens[:, -1], state)  # the state is ready for a step, or this fails
            median = float(torch.tensor(seconds).median())
            if not lab.recorder.has("throughput", context=context):
                yield lab.row("throughput", self.batch * context / median, "token/s", lab.here)
            yield lab.row("latency", median, "s", lab.here, seconds)
            lab.progress(sum(c for c in self.contexts if c <= context) / sum(self.contexts))
